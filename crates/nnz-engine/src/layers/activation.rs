use super::{Context, Fit, Layer, LayerSpec};
use crate::{Result, Var, ops};
use nnz_kernels::Real;
use serde::{Deserialize, Serialize};

/// max(x, 0)
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relu {}

impl Layer for Relu {
    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        Ok(input.to_vec())
    }

    fn forward<T: Real>(&self, x: &Var<T>, _: &mut Context<'_, T>) -> Result<Var<T>> {
        Ok(ops::relu(x))
    }

    fn causal(&self, _: &[usize]) -> bool {
        true
    }

    fn resized(&self, _: &[usize], _: &dyn Fn(usize) -> usize, _: bool) -> LayerSpec {
        self.clone().into()
    }
}

/// A function of one entry; see [`crate::ops`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Function {
    /// x Φ(x)
    Gelu,
    /// GELU by tanh.
    GeluTanh,
    /// x σ(x)
    Silu,
    /// tanh x
    Tanh,
    /// σ(x)
    Sigmoid,
    /// ln(1 + eˣ)
    Softplus,
    /// x, or 0.01 x below zero.
    LeakyRelu,
    /// x, or eˣ - 1 below zero.
    Elu,
    /// x cut to `[0, 6]`.
    Relu6,
    /// x relu6(x + 3) / 6
    Hardswish,
}

/// A function of every entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activation {
    /// Which.
    pub function: Function,
}

impl Layer for Activation {
    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        Ok(input.to_vec())
    }

    fn forward<T: Real>(&self, x: &Var<T>, _: &mut Context<'_, T>) -> Result<Var<T>> {
        Ok(match self.function {
            Function::Gelu => ops::gelu(x),
            Function::GeluTanh => ops::gelu_tanh(x),
            Function::Silu => ops::silu(x),
            Function::Tanh => ops::tanh(x),
            Function::Sigmoid => ops::sigmoid(x),
            Function::Softplus => ops::softplus(x),
            Function::LeakyRelu => ops::leaky_relu(x, 0.01),
            Function::Elu => ops::elu(x, 1.0),
            Function::Relu6 => ops::relu6(x),
            Function::Hardswish => ops::hardswish(x),
        })
    }

    fn causal(&self, _: &[usize]) -> bool {
        true
    }

    fn resized(&self, _: &[usize], _: &dyn Fn(usize) -> usize, _: bool) -> LayerSpec {
        self.clone().into()
    }
}
