use super::{Context, Fit, Layer, LayerSpec, ParamSpec, chain_causal, chain_output, chain_resized, describe};
use crate::Real;
use crate::{Result, Var, ops};
use serde::{Deserialize, Serialize};

/// body(x) + shortcut(x) (He et al. 2015, arXiv:1512.03385); an empty shortcut is x itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Residual {
    /// Name of its tap, and prefix of the unnamed ones inside.
    pub name: String,
    /// The residual branch.
    pub body: Vec<LayerSpec>,
    /// The shortcut branch.
    #[serde(default)]
    pub shortcut: Vec<LayerSpec>,
}

impl Layer for Residual {
    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn params(&self) -> Vec<ParamSpec> {
        self.body.iter().chain(&self.shortcut).flat_map(Layer::params).collect()
    }

    fn chains(&self) -> Vec<(String, &[LayerSpec])> {
        vec![(format!("{}.body.", self.name), &self.body), (format!("{}.shortcut.", self.name), &self.shortcut)]
    }

    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        let (body, shortcut) = (chain_output(&self.body, input)?, chain_output(&self.shortcut, input)?);
        match body == shortcut {
            true => Ok(body),
            false => Err(format!("the body gives {}, the shortcut {}", describe(&body), describe(&shortcut))),
        }
    }

    fn forward<T: Real>(&self, x: &Var<T>, cx: &mut Context<'_, T>) -> Result<Var<T>> {
        let mut ends = Vec::with_capacity(2);
        for (prefix, layers) in self.chains() {
            ends.push(cx.chain(&prefix, layers, x.clone())?);
        }
        Ok(ops::add(&ends[0], &ends[1]))
    }

    fn causal(&self, input: &[usize]) -> bool {
        [&self.body, &self.shortcut].into_iter().all(|c| chain_causal(c, input).is_ok())
    }

    fn resized(&self, input: &[usize], width: &dyn Fn(usize) -> usize, _: bool) -> LayerSpec {
        let [body, shortcut] = [&self.body, &self.shortcut].map(|c| chain_resized(c, input, width, None));
        Self { name: self.name.clone(), body, shortcut }.into()
    }

    fn multiple(&self) -> usize {
        let inside = self.body.iter().chain(&self.shortcut).map(Layer::multiple);
        inside.fold(1, super::common_multiple)
    }
}
