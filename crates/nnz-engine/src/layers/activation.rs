use super::{Context, Fit, Layer, LayerSpec};
use crate::Real;
use crate::{Result, Var, ops};
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

/// An elementwise function; see [`crate::ops`].
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
    /// x clamped to `[0, 6]`.
    Relu6,
    /// x relu6(x + 3) / 6
    Hardswish,
}

/// An elementwise activation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activation {
    /// The function.
    pub function: Function,
}

impl Function {
    /// As an op.
    pub fn op<T: Real>(self) -> fn(&Var<T>) -> Var<T> {
        match self {
            Self::Gelu => ops::gelu,
            Self::GeluTanh => ops::gelu_tanh,
            Self::Silu => ops::silu,
            Self::Tanh => ops::tanh,
            Self::Sigmoid => ops::sigmoid,
            Self::Softplus => ops::softplus,
            Self::LeakyRelu => |x| ops::leaky_relu(x, 0.01),
            Self::Elu => |x| ops::elu(x, 1.0),
            Self::Relu6 => ops::relu6,
            Self::Hardswish => ops::hardswish,
        }
    }
}

impl Layer for Activation {
    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        Ok(input.to_vec())
    }

    fn forward<T: Real>(&self, x: &Var<T>, _: &mut Context<'_, T>) -> Result<Var<T>> {
        Ok(self.function.op()(x))
    }

    fn causal(&self, _: &[usize]) -> bool {
        true
    }

    fn resized(&self, _: &[usize], _: &dyn Fn(usize) -> usize, _: bool) -> LayerSpec {
        self.clone().into()
    }
}

/// All-ReLU (Curci et al. 2021, arXiv:2102.01732): x, or `slope` x below zero, with a slope that changes its sign from one layer to
/// the next: -α, α, -α, ...
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllRelu {
    /// Slope below zero.
    pub slope: f64,
}

impl Layer for AllRelu {
    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        match self.slope.is_finite() {
            true => Ok(input.to_vec()),
            false => Err(format!("all-relu has slope {}", self.slope)),
        }
    }

    fn forward<T: Real>(&self, x: &Var<T>, _: &mut Context<'_, T>) -> Result<Var<T>> {
        Ok(ops::leaky_relu(x, self.slope))
    }

    fn causal(&self, _: &[usize]) -> bool {
        true
    }

    fn resized(&self, _: &[usize], _: &dyn Fn(usize) -> usize, _: bool) -> LayerSpec {
        self.clone().into()
    }
}

#[cfg(test)]
mod tests {
    use crate::{Model, ModelSpec, Storage, Tensor};

    #[test]
    fn all_relu_has_its_slope_below_zero() {
        let text = |slopes: [f64; 2]| {
            let layer = |slope: f64| format!(r#"{{"layer": "all-relu", "slope": {slope}}}"#);
            let layers = slopes.map(layer).join(",");
            format!(r#"{{"name": "x", "input": [1, 1, 3], "layers": [{{"layer": "flatten"}}, {layers}]}}"#)
        };
        let infer = |slopes| {
            let spec: ModelSpec = serde_json::from_str(&text(slopes)).unwrap();
            let model: Model<f64> = Model::born(&spec, None, Storage::Auto, false, 0).unwrap();
            model.infer(Tensor::new(&[1, 3], vec![2.0, -1.0, -0.5])).unwrap().data().to_vec()
        };
        assert_eq!(infer([-0.5, 0.25]), [2.0, 0.5, 0.25]);
        assert_eq!(infer([0.5, -0.25]), [2.0, 0.125, 0.0625]);
    }
}
