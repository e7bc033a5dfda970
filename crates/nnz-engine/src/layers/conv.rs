use super::linear::{is_yes, yes};
use super::{Context, Fit, Init, Layer, LayerSpec, ParamSpec, describe};
use crate::Real;
use crate::ops::{self, Window};
use crate::{Result, Var};
use nnz_core::LayerRole;
use serde::{Deserialize, Serialize};

fn one() -> usize {
    1
}

fn is_one(n: &usize) -> bool {
    *n == 1
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// A convolution over `D` spatial axes of `[.., channels]` with a kernel of equal extents, or (`UP`) a transposed one. The
/// weight is `[outputs, kernelᴰ · inputs / groups]`, that of a transposed convolution `[inputs, kernelᴰ · outputs / groups]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conv<const D: usize, const UP: bool = false> {
    /// Name of its parameters.
    pub name: String,
    /// Input channels.
    pub inputs: usize,
    /// Filters.
    pub outputs: usize,
    /// Extent of the kernel along every axis.
    pub kernel: usize,
    /// Zeros around the image; for a transposed convolution, pixels cut off on every side.
    #[serde(default)]
    pub padding: usize,
    /// Stride.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub stride: usize,
    /// Groups of channels that are convolved separately.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub groups: usize,
    /// Distance between neighbours in the kernel.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub dilation: usize,
    /// Pixels beyond the shortest output of a transposed convolution, below its stride.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub extra: usize,
    /// Whether it has a bias.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub bias: bool,
    /// Initialization of the weight.
    #[serde(default, skip_serializing_if = "Init::is_default")]
    pub init: Init,
}

/// Convolution over `[length, channels]`.
pub type Conv1d = Conv<1>;
/// Convolution over `[height, width, channels]`.
pub type Conv2d = Conv<2>;
/// Convolution over `[depth, height, width, channels]`.
pub type Conv3d = Conv<3>;
/// Transposed convolution over `[length, channels]`.
pub type ConvTransposed1d = Conv<1, true>;
/// Transposed convolution over `[height, width, channels]`.
pub type ConvTransposed2d = Conv<2, true>;
/// Transposed convolution over `[depth, height, width, channels]`.
pub type ConvTransposed3d = Conv<3, true>;

impl<const D: usize, const UP: bool> Conv<D, UP> {
    /// Stride, groups and dilation one, with a bias.
    pub fn new(name: &str, inputs: usize, outputs: usize, kernel: usize, padding: usize) -> Self {
        let name = name.into();
        let (stride, groups, dilation, extra) = (1, 1, 1, 0);
        Self { name, inputs, outputs, kernel, padding, stride, groups, dilation, extra, bias: true, init: Init::He }
    }

    fn window(&self) -> Window<D> {
        let Self { kernel, padding, stride, dilation, .. } = *self;
        Window::new([kernel; D]).padding([padding; D]).stride([stride; D]).dilation([dilation; D])
    }

    /// Extents of the output, unless the numbers are invalid. More padding than image or kernel would make outputs
    /// that read nothing, as many as a header likes.
    fn extents(&self, size: [usize; D]) -> Option<[usize; D]> {
        let span = self.kernel.checked_sub(1)?.checked_mul(self.dilation)?;
        if !UP {
            let padded = size.iter().all(|&n| self.padding <= span.min(n));
            return (self.extra == 0 && padded && self.window().fits(size)).then(|| self.window().output(size));
        }
        let axis = |n: usize| {
            let shortest = n.checked_sub(1)?.checked_mul(self.stride)?.checked_add(span)?.checked_add(1)?;
            shortest.checked_add(self.extra)?.checked_sub(self.padding.checked_mul(2)?)
        };
        let mut wide = [0; D];
        for (to, n) in wide.iter_mut().zip(size) {
            // A header must not make a pass allocate without bound.
            *to = axis(n).filter(|&to| to > 0 && to / super::LONGEST <= n.max(self.kernel))?;
        }
        let back = self.padding <= span && self.extra < self.stride && self.window().fits(wide);
        (back && self.window().output(wide) == size).then_some(wide)
    }
}

impl<const D: usize, const UP: bool> Layer for Conv<D, UP>
where
    Self: Into<LayerSpec>,
{
    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn params(&self) -> Vec<ParamSpec> {
        let (rows, others) = if UP { (self.inputs, self.outputs) } else { (self.outputs, self.inputs) };
        // Height and width as distributions count them; the depth of a volume counts with the height.
        let k = self.kernel;
        let kernel = [[1, k], [k, k], [k.saturating_mul(k), k]][D - 1];
        let weight = ParamSpec::weight(&self.name, rows, others / self.groups.max(1), kernel, self.init);
        let mut params = vec![weight.acting(LayerRole::Convolution)];
        params.extend(self.bias.then(|| ParamSpec::vector(&self.name, "bias", self.outputs, Init::Zero)));
        params
    }

    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        let Self { name, inputs, outputs, kernel, groups, padding, .. } = self;
        if *groups == 0 || inputs % groups != 0 || outputs % groups != 0 {
            return Err(format!("{groups} groups do not divide {inputs} inputs and {outputs} outputs"));
        }
        let extents = match input {
            [size @ .., c] if c == inputs => size.try_into().ok().and_then(|size| self.extents(size)),
            _ => None,
        };
        let misfit =
            || format!("{name} ({inputs} channels, kernel {kernel}, padding {padding}) gets {}", describe(input));
        extents.map(|size| [&size[..], &[*outputs]].concat()).ok_or_else(misfit)
    }

    fn forward<T: Real>(&self, x: &Var<T>, cx: &mut Context<'_, T>) -> Result<Var<T>> {
        if !UP {
            return Ok(cx.conv(x, self.window(), self.groups, self.bias));
        }
        let weight = cx.whole();
        let bias = self.bias.then(|| cx.take().1);
        Ok(ops::conv_transposed(x, &weight, bias, self.window(), self.groups, [self.extra; D]))
    }

    fn resized(&self, input: &[usize], width: &dyn Fn(usize) -> usize, head: bool) -> LayerSpec {
        let inputs = input.last().copied().unwrap_or(self.inputs);
        let outputs = if head { self.outputs } else { width(self.outputs) };
        // Depthwise stays depthwise.
        let groups = if self.groups == self.inputs && self.groups > 1 { inputs } else { self.groups };
        Self { inputs, outputs, groups, ..self.clone() }.into()
    }

    fn multiple(&self) -> usize {
        if self.groups == self.inputs { 1 } else { self.groups.max(1) }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Model, ModelSpec, Storage, Tensor};

    fn shape(layer: &str, input: [usize; 3], before: &str) -> Result<Vec<usize>, String> {
        let [c, h, w] = input;
        let text = format!(r#"{{"name": "x", "input": [{c}, {h}, {w}], "layers": [{before}{{"layer": {layer}}}]}}"#);
        serde_json::from_str::<ModelSpec>(&text).unwrap().output()
    }

    #[test]
    fn lines_volumes_and_their_transposes_have_the_extents_of_the_field() {
        let (line, volume) = (r#"{"layer": "tokens"},"#, r#"{"layer": "reshape", "shape": [4, 3, 3, 2]},"#);
        let c = |kind: &str, rest: &str| format!(r#""{kind}", "name": "c", "inputs": 2, "outputs": 5, {rest}"#);
        let go = |kind, rest, before| shape(&c(kind, rest), [2, 6, 6], before);
        assert_eq!(go("conv1d", r#""kernel": 3, "stride": 2, "padding": 1"#, line).unwrap(), [18, 5]);
        assert_eq!(go("conv3d", r#""kernel": 3, "padding": 1"#, volume).unwrap(), [4, 3, 3, 5]);
        assert_eq!(go("conv-transposed1d", r#""kernel": 4, "stride": 2, "padding": 1"#, line).unwrap(), [72, 5]);
        let up = r#""kernel": 3, "stride": 2, "padding": 1, "extra": 1"#;
        assert_eq!(go("conv-transposed2d", up, "").unwrap(), [12, 12, 5]);
        assert_eq!(go("conv-transposed3d", r#""kernel": 2, "stride": 2"#, volume).unwrap(), [8, 6, 6, 5]);
        for (kind, rest) in [
            ("conv2d", r#""kernel": 3, "extra": 1"#),
            ("conv-transposed2d", r#""kernel": 3, "extra": 1"#),
            ("conv-transposed2d", r#""kernel": 3, "padding": 3"#),
            ("conv-transposed2d", r#""kernel": 0"#),
            ("conv-transposed2d", r#""kernel": 2, "stride": 18446744073709551615"#),
            ("conv-transposed2d", r#""kernel": 2, "stride": 0"#),
            ("conv-transposed2d", r#""kernel": 2, "dilation": 1073741824"#),
            ("conv1d", r#""kernel": 3"#),
        ] {
            assert!(go(kind, rest, "").unwrap_err().contains("c (2 channels"), "{kind} {rest}");
        }
    }

    #[test]
    fn a_transposed_convolution_of_one_pixel_is_its_kernel() {
        let text = r#"{"name": "x", "input": [1, 1, 1], "layers":
            [{"layer": "conv-transposed2d", "name": "c", "inputs": 1, "outputs": 1, "kernel": 2, "stride": 2}]}"#;
        let spec: ModelSpec = serde_json::from_str(text).unwrap();
        let mut model: Model<f64> = Model::born(&spec, None, Storage::Auto, false, 0).unwrap();
        model.params[0].value = Tensor::new(&[1, 4], vec![1.0, 2.0, 3.0, 4.0]);
        model.params[1].value.data_mut()[0] = 10.0;
        assert_eq!(model.infer(Tensor::full(&[1, 1], 2.0)).unwrap().data(), [12.0, 14.0, 16.0, 18.0]);
    }
}
