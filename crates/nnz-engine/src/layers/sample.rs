use super::{Context, Fit, Layer, LayerSpec, describe};
use crate::Real;
use crate::{Result, Var, ops};
use serde::{Deserialize, Serialize};

/// A normal sample for every pair of a mean and a log-variance: `[.., 2 n]`, means first, to `[.., n]`. In
/// training z = μ + σ ε, so that gradients reach μ and σ (Kingma & Welling 2013, arXiv:1312.6114, section 2.4); else z = μ.
/// Adds `weight` times the divergence from the standard normal, -½ Σ (1 + ln σ² - μ² - σ²), mean over rows
/// (appendix B), to the loss of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Weight of the divergence in the loss.
    pub weight: f64,
}

impl Layer for Sample {
    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        if !(self.weight >= 0.0 && self.weight.is_finite()) {
            return Err(format!("a weight {} of the divergence; it must be 0 or more", self.weight));
        }
        match input {
            [lead @ .., n] if *n > 0 && n.is_multiple_of(2) => Ok([lead, &[n / 2]].concat()),
            _ => Err(format!("{} are no means and as many variances", describe(input))),
        }
    }

    fn forward<T: Real>(&self, x: &Var<T>, cx: &mut Context<'_, T>) -> Result<Var<T>> {
        let (axis, n) = (x.shape().len() - 1, x.value().rows_cols().1 / 2);
        let (mean, spread) = (ops::slice(x, axis, 0..n), ops::slice(x, axis, n..2 * n));
        let Some(mut rng) = cx.rng("sample") else { return Ok(mean) };
        let rows = x.shape()[0].max(1) as f64;
        let part = ops::sub(&ops::shift(&spread, 1.0), &ops::add(&ops::square(&mean), &ops::exp(&spread)));
        cx.penalize(ops::scale(&ops::sum(&part), -0.5 * self.weight / rows));
        let noise = (0..mean.value().len()).map(|_| T::of(rng.normal())).collect();
        let noise = Var::constant(crate::Tensor::new(mean.shape(), noise));
        Ok(ops::add(&mean, &ops::mul(&ops::exp(&ops::scale(&spread, 0.5)), &noise)))
    }

    fn resized(&self, _: &[usize], _: &dyn Fn(usize) -> usize, _: bool) -> LayerSpec {
        self.clone().into()
    }

    fn multiple(&self) -> usize {
        2
    }
}

#[cfg(test)]
mod tests {
    use crate::{Mode, Model, ModelSpec, Pass, Storage, Tensor, Var};

    #[test]
    fn draws_with_the_given_moments_and_charges_the_divergence() {
        let text = r#"{"name": "x", "input": [1, 1, 20000], "layers": [{"layer": "flatten"},
            {"layer": "sample", "weight": 0.5}]}"#;
        let spec: ModelSpec = serde_json::from_str(text).unwrap();
        let model: Model<f64> = Model::born(&spec, None, Storage::Auto, false, 0).unwrap();
        // Mean 3, variance 4.
        let x = Tensor::new(&[1, 20000], [vec![3.0; 10000], vec![4f64.ln(); 10000]].concat());
        assert!(model.infer(x.clone()).unwrap().data().iter().all(|&v| v == 3.0));
        let train = |step| {
            let pass = Pass { mode: Mode::Train { seed: 0, step }, ..Default::default() };
            model.forward(&Var::constant(x.clone()), &[], pass).unwrap()
        };
        let (z, effects) = train(0);
        let moment = |f: &dyn Fn(f64) -> f64| z.value().data().iter().map(|&v| f(v)).sum::<f64>() / 1e4;
        let (mean, variance) = (moment(&|v| v), moment(&|v| (v - 3.0).powi(2)));
        assert!((mean - 3.0).abs() < 0.1 && (variance - 4.0).abs() < 0.2, "{mean} {variance}");
        let each = -0.5 * (1.0 + 4f64.ln() - 9.0 - 4.0);
        let penalty = effects.penalty.unwrap().value().data()[0];
        assert!((penalty - 0.5 * 10000.0 * each).abs() < 1e-6 * penalty, "{penalty}");
        assert_eq!(train(0).0.value(), z.value());
        assert_ne!(train(1).0.value(), z.value());
    }
}
