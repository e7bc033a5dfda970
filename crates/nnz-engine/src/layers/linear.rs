use super::{Context, Fit, Init, Layer, LayerSpec, ParamSpec, describe};
use crate::Real;
use crate::{Result, Var};
use nnz_core::LayerRole;
use serde::{Deserialize, Serialize};

pub(super) fn yes() -> bool {
    true
}

pub(super) fn is_yes(b: &bool) -> bool {
    *b
}

/// x Wᵀ + b over a vector or over every position of a sequence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linear {
    /// Name of its parameters.
    pub name: String,
    /// Inputs.
    pub inputs: usize,
    /// Outputs.
    pub outputs: usize,
    /// Whether it has a bias b.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub bias: bool,
    /// Initialization of W.
    #[serde(default, skip_serializing_if = "Init::is_default")]
    pub init: Init,
    /// What W does in the network.
    #[serde(default, skip_serializing_if = "LayerRole::is_default")]
    pub role: LayerRole,
}

impl Linear {
    /// With a bias and He initialization.
    pub fn new(name: &str, inputs: usize, outputs: usize) -> Self {
        Self { name: name.into(), inputs, outputs, bias: true, init: Init::He, role: LayerRole::Linear }
    }
}

impl Layer for Linear {
    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn params(&self) -> Vec<ParamSpec> {
        let mut params =
            vec![ParamSpec::weight(&self.name, self.outputs, self.inputs, [1, 1], self.init).acting(self.role)];
        params.extend(self.bias.then(|| ParamSpec::vector(&self.name, "bias", self.outputs, Init::Zero)));
        params
    }

    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        match *input {
            [n] if n == self.inputs => Ok(vec![self.outputs]),
            [t, n] if n == self.inputs => Ok(vec![t, self.outputs]),
            _ => Err(format!("{} takes {} inputs but gets {}", self.name, self.inputs, describe(input))),
        }
    }

    fn forward<T: Real>(&self, x: &Var<T>, cx: &mut Context<'_, T>) -> Result<Var<T>> {
        Ok(cx.linear(x, self.bias))
    }

    fn causal(&self, input: &[usize]) -> bool {
        input.len() == 2
    }

    fn resized(&self, input: &[usize], width: &dyn Fn(usize) -> usize, head: bool) -> LayerSpec {
        let outputs = if head { self.outputs } else { width(self.outputs) };
        Self { inputs: input.last().copied().unwrap_or(self.inputs), outputs, ..self.clone() }.into()
    }
}
