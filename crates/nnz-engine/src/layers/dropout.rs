use super::{Context, Fit, Layer, LayerSpec};
use crate::Real;
use crate::{Result, Var, ops};
use serde::{Deserialize, Serialize};

/// Zeroes each entry with probability `p` in training (Srivastava et al. 2014).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropout {
    /// Probability that an entry becomes zero.
    pub p: f64,
}

impl Layer for Dropout {
    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        match (0.0..1.0).contains(&self.p) {
            true => Ok(input.to_vec()),
            false => Err(format!("a share {} to drop; it must be in [0, 1)", self.p)),
        }
    }

    fn forward<T: Real>(&self, x: &Var<T>, cx: &mut Context<'_, T>) -> Result<Var<T>> {
        Ok(cx.rng("dropout").map_or_else(|| x.clone(), |rng| ops::dropout(x, self.p, rng)))
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
    use crate::{Mode, Model, ModelSpec, Pass, Storage, Tensor, Var};

    #[test]
    fn drops_in_training_only_and_by_seed_and_step() {
        let text = r#"{"name": "test", "input": [1, 1, 1000], "layers": [{"layer": "dropout", "p": 0.3}]}"#;
        let spec: ModelSpec = serde_json::from_str(text).unwrap();
        let model: Model<f32> = Model::born(&spec, None, Storage::Auto, false, 0).unwrap();
        let ones = Tensor::full(&[1, 1000], 1.0);
        let train = |step| {
            let pass = Pass { mode: Mode::Train { seed: 0, step }, ..Default::default() };
            model.forward(&Var::constant(ones.clone()), &[], pass).unwrap().0.value().clone()
        };
        assert!(model.infer(ones.clone()).unwrap().data().iter().all(|&v| v == 1.0));
        let dropped = train(0).data().iter().filter(|&&v| v == 0.0).count();
        assert!(dropped.abs_diff(300) < 60, "{dropped} of 1000");
        assert_eq!(train(0), train(0));
        assert_ne!(train(0), train(1));
        let bad: ModelSpec = serde_json::from_str(&text.replace("0.3", "1.0")).unwrap();
        assert!(bad.output().unwrap_err().contains("[0, 1)"));
    }
}
