use super::{Context, Fit, Layer, LayerSpec, describe};
use crate::Real;
use crate::{Result, Var, ops};
use serde::{Deserialize, Serialize};

/// Upsamples sequences, images or volumes: every pixel repeated, or linear interpolation between their centres.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upsample {
    /// Factor by which every spatial axis becomes longer.
    pub factor: usize,
    /// Whether to interpolate.
    #[serde(default)]
    pub linear: bool,
}

impl Layer for Upsample {
    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        match input {
            [size @ .., c] if !size.is_empty() && (1..=super::LONGEST).contains(&self.factor) => {
                Ok(size.iter().map(|n| n.saturating_mul(self.factor)).chain([*c]).collect())
            }
            _ => Err(format!("{} cannot be made {} times longer", describe(input), self.factor)),
        }
    }

    fn forward<T: Real>(&self, x: &Var<T>, _: &mut Context<'_, T>) -> Result<Var<T>> {
        let size: Vec<usize> = x.shape()[1..x.shape().len() - 1].iter().map(|n| n * self.factor).collect();
        Ok(if self.linear { ops::upsample_linear(x, &size) } else { ops::upsample_nearest(x, self.factor) })
    }

    fn resized(&self, _: &[usize], _: &dyn Fn(usize) -> usize, _: bool) -> LayerSpec {
        self.clone().into()
    }
}

#[cfg(test)]
mod tests {
    use crate::{Model, ModelSpec, Storage, Tensor};

    #[test]
    fn repeats_or_interpolates() {
        let go = |linear: bool| {
            let text = format!(
                r#"{{"name": "x", "input": [1, 1, 2],
                    "layers": [{{"layer": "upsample", "factor": 2, "linear": {linear}}}]}}"#
            );
            let spec: ModelSpec = serde_json::from_str(&text).unwrap();
            assert_eq!(spec.output().unwrap(), [2, 4, 1]);
            let model: Model<f64> = Model::born(&spec, None, Storage::Auto, false, 0).unwrap();
            model.infer(Tensor::new(&[1, 2], vec![0.0, 4.0])).unwrap().data()[..4].to_vec()
        };
        assert_eq!(go(false), [0.0, 0.0, 4.0, 4.0]);
        assert_eq!(go(true), [0.0, 1.0, 3.0, 4.0]);
        let far = super::Upsample { factor: 1 << 20, linear: false };
        assert!(super::Layer::output(&far, &[1, 1, 1]).unwrap_err().contains("1048576 times"));
    }
}
