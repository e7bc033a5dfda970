use super::{Context, Fit, Init, Layer, LayerSpec, ParamSpec, Statistics, describe};
use crate::Real;
use crate::{Result, Var, ops};
use serde::{Deserialize, Serialize};

fn same(name: &str, width: usize, input: &[usize]) -> Fit<Vec<usize>> {
    match input.last() == Some(&width) {
        true => Ok(input.to_vec()),
        false => Err(format!("{name} takes {width} channels but gets {}", describe(input))),
    }
}

fn gain_and_offset(name: &str, width: usize) -> Vec<ParamSpec> {
    vec![ParamSpec::vector(name, "weight", width, Init::One), ParamSpec::vector(name, "bias", width, Init::Zero)]
}

/// Batch normalization by [`ops::batch_norm`]. Running mean and variance are buffers: kept in files, not trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchNorm {
    /// Name of its parameters.
    pub name: String,
    /// Channels.
    pub channels: usize,
    /// ε
    #[serde(default = "BatchNorm::epsilon")]
    pub epsilon: f64,
    /// Weight of a batch in the new running statistics.
    #[serde(default = "BatchNorm::momentum")]
    pub momentum: f64,
}

impl BatchNorm {
    fn epsilon() -> f64 {
        1e-5
    }

    fn momentum() -> f64 {
        0.1
    }

    /// ε 1e-5, momentum 0.1.
    pub fn new(name: &str, channels: usize) -> Self {
        Self { name: name.into(), channels, epsilon: Self::epsilon(), momentum: Self::momentum() }
    }
}

impl Layer for BatchNorm {
    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn params(&self) -> Vec<ParamSpec> {
        let mut params = gain_and_offset(&self.name, self.channels);
        params.push(ParamSpec::buffer(&self.name, "running_mean", self.channels, Init::Zero));
        params.push(ParamSpec::buffer(&self.name, "running_var", self.channels, Init::One));
        params
    }

    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        same(&self.name, self.channels, input)
    }

    fn forward<T: Real>(&self, x: &Var<T>, cx: &mut Context<'_, T>) -> Result<Var<T>> {
        let ((_, gain), (_, offset), (mean_at, mean), (_, variance)) = (cx.take(), cx.take(), cx.take(), cx.take());
        if !cx.training() {
            return Ok(ops::batch_norm_fixed(x, gain, offset, mean.value(), variance.value(), self.epsilon));
        }
        let (y, mean, variance) = ops::batch_norm(x, gain, offset, self.epsilon);
        let rows = x.value().rows_cols().0;
        // An empty batch has no statistics.
        if rows > 0 {
            cx.observe(Statistics { mean_at, mean, variance, rows, momentum: self.momentum });
        }
        Ok(y)
    }

    fn causal(&self, _: &[usize]) -> bool {
        true
    }

    fn resized(&self, input: &[usize], _: &dyn Fn(usize) -> usize, _: bool) -> LayerSpec {
        Self { channels: input.last().copied().unwrap_or(self.channels), ..self.clone() }.into()
    }
}

/// Layer normalization by [`ops::layer_norm`], ε 1e-5.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerNorm {
    /// Name of its parameters.
    pub name: String,
    /// Extent that is normalized together.
    pub width: usize,
}

impl Layer for LayerNorm {
    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn params(&self) -> Vec<ParamSpec> {
        gain_and_offset(&self.name, self.width)
    }

    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        same(&self.name, self.width, input)
    }

    fn forward<T: Real>(&self, x: &Var<T>, cx: &mut Context<'_, T>) -> Result<Var<T>> {
        let ((_, gain), (_, offset)) = (cx.take(), cx.take());
        Ok(ops::layer_norm(x, gain, offset, 1e-5))
    }

    fn causal(&self, _: &[usize]) -> bool {
        true
    }

    fn resized(&self, input: &[usize], _: &dyn Fn(usize) -> usize, _: bool) -> LayerSpec {
        Self { width: input.last().copied().unwrap_or(self.width), ..self.clone() }.into()
    }
}

/// Root-mean-square normalization by [`ops::rms_norm`], ε 1e-6.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RmsNorm {
    /// Name of its parameter.
    pub name: String,
    /// Extent that is normalized together.
    pub width: usize,
}

impl Layer for RmsNorm {
    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn params(&self) -> Vec<ParamSpec> {
        vec![ParamSpec::vector(&self.name, "weight", self.width, Init::One)]
    }

    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        same(&self.name, self.width, input)
    }

    fn forward<T: Real>(&self, x: &Var<T>, cx: &mut Context<'_, T>) -> Result<Var<T>> {
        Ok(ops::rms_norm(x, cx.take().1, 1e-6))
    }

    fn causal(&self, _: &[usize]) -> bool {
        true
    }

    fn resized(&self, input: &[usize], _: &dyn Fn(usize) -> usize, _: bool) -> LayerSpec {
        Self { width: input.last().copied().unwrap_or(self.width), ..self.clone() }.into()
    }
}

/// Group normalization by [`ops::group_norm`], ε 1e-5.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupNorm {
    /// Name of its parameters.
    pub name: String,
    /// Channels.
    pub channels: usize,
    /// Runs of channels that are normalized together.
    pub groups: usize,
}

impl Layer for GroupNorm {
    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn params(&self) -> Vec<ParamSpec> {
        gain_and_offset(&self.name, self.channels)
    }

    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        match self.groups > 0 && self.channels.is_multiple_of(self.groups) {
            true => same(&self.name, self.channels, input),
            false => Err(format!("{} groups do not divide {} channels", self.groups, self.channels)),
        }
    }

    fn forward<T: Real>(&self, x: &Var<T>, cx: &mut Context<'_, T>) -> Result<Var<T>> {
        let ((_, gain), (_, offset)) = (cx.take(), cx.take());
        Ok(ops::group_norm(x, self.groups, gain, offset, 1e-5))
    }

    fn resized(&self, input: &[usize], _: &dyn Fn(usize) -> usize, _: bool) -> LayerSpec {
        Self { channels: input.last().copied().unwrap_or(self.channels), ..self.clone() }.into()
    }

    fn multiple(&self) -> usize {
        self.groups.max(1)
    }
}
