use super::{Context, Fit, Layer, LayerSpec, ParamSpec, describe};
use crate::Real;
use crate::{Error, Result, Var, ops};
use serde::{Deserialize, Serialize};

/// A vector for every token: ids `[length]` to `[length, width]`. Inputs must be whole numbers below the vocabulary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embedding {
    /// Name of its parameter.
    pub name: String,
    /// Number of tokens.
    pub vocabulary: usize,
    /// Extent of each vector.
    pub width: usize,
}

impl Layer for Embedding {
    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn params(&self) -> Vec<ParamSpec> {
        vec![ParamSpec::table(&self.name, self.vocabulary, self.width)]
    }

    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        match *input {
            [t] => Ok(vec![t, self.width]),
            _ => Err(format!("{} takes a list of tokens, not {}", self.name, describe(input))),
        }
    }

    fn forward<T: Real>(&self, x: &Var<T>, cx: &mut Context<'_, T>) -> Result<Var<T>> {
        let token = |&v: &T| match v.f64() {
            t if t >= 0.0 && t < self.vocabulary as f64 && t.fract() == 0.0 => Ok(t as usize),
            t => Err(Error::Refused(format!("`{}` got {t}, which is no token below {}", self.name, self.vocabulary))),
        };
        let tokens: Vec<usize> = x.value().data().iter().map(token).collect::<Result<_>>()?;
        let rows = ops::index_select(cx.take().1, 0, &tokens);
        Ok(ops::reshape(&rows, &[x.shape()[0], x.shape()[1], self.width]))
    }

    fn causal(&self, _: &[usize]) -> bool {
        true
    }

    fn resized(&self, _: &[usize], width: &dyn Fn(usize) -> usize, _: bool) -> LayerSpec {
        Self { width: width(self.width), ..self.clone() }.into()
    }
}

/// Adds a learned vector to every position of `[length, width]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Positions {
    /// Name of its parameter.
    pub name: String,
    /// Positions.
    pub length: usize,
    /// Extent of each vector.
    pub width: usize,
}

impl Layer for Positions {
    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn params(&self) -> Vec<ParamSpec> {
        vec![ParamSpec::table(&self.name, self.length, self.width)]
    }

    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        match input == [self.length, self.width] {
            true => Ok(input.to_vec()),
            false => Err(format!("{} has {}x{} but gets {}", self.name, self.length, self.width, describe(input))),
        }
    }

    fn forward<T: Real>(&self, x: &Var<T>, cx: &mut Context<'_, T>) -> Result<Var<T>> {
        let (table, seen, t) = (cx.take().1, cx.seen(), x.shape()[1]);
        match t == self.length {
            true => Ok(ops::add(x, table)),
            false => Ok(ops::add(x, &ops::slice(table, 0, seen..seen + t))),
        }
    }

    fn causal(&self, _: &[usize]) -> bool {
        true
    }

    fn resized(&self, input: &[usize], _: &dyn Fn(usize) -> usize, _: bool) -> LayerSpec {
        let (length, width) = if let [t, n] = *input { (t, n) } else { (self.length, self.width) };
        Self { length, width, ..self.clone() }.into()
    }
}
