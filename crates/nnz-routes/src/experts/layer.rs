//! The layer of experts; its equations are those of [routing](super::routing).

use nnz_core::LayerRole;
use nnz_engine::layers::Context;
use nnz_engine::ops::{self, Rank};
use nnz_engine::{CustomLayer, Init, ParamSpec, Real, Result, SparseVar, Tensor, Var};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The layer: inputs to outputs, each row through k of the experts. `experts` in the network of a recipe.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experts {
    /// Name of its parameters.
    pub name: String,
    /// Numbers that come in.
    pub inputs: usize,
    /// Numbers that go out.
    pub outputs: usize,
    /// Number of experts.
    pub experts: usize,
    /// Experts per row.
    pub k: usize,
    /// Hidden units per expert.
    pub hidden: usize,
    /// c: capacity of an expert in training, relative to an even load.
    pub capacity: f64,
    /// α, the weight of the load balancing loss.
    pub balance: f64,
    /// γ, the weight of the penalty on router logits.
    pub logits: f64,
}

impl CustomLayer for Experts {
    const KIND: &'static str = "experts";

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn params(&self) -> Vec<ParamSpec> {
        let Self { inputs, outputs, experts, hidden, .. } = *self;
        let weight = |part: &str, rows, cols, init, role| {
            ParamSpec::weight(&format!("{}.{part}", self.name), rows, cols, [1, 1], init).acting(role)
        };
        let vector = |part: &str, n| ParamSpec::vector(&self.name, part, n, Init::Zero);
        let (up, down) = (experts.saturating_mul(hidden), experts.saturating_mul(outputs));
        vec![
            // Small logits: no expert is far ahead before training.
            weight("router", experts, inputs, Init::Small, LayerRole::Router),
            weight("up", up, inputs, Init::He, LayerRole::Expert),
            vector("up.bias", up),
            weight("down", down, hidden, Init::He, LayerRole::Expert),
            vector("down.bias", down),
        ]
    }

    fn output(&self, input: &[usize]) -> std::result::Result<Vec<usize>, String> {
        let Self { name, inputs, outputs, experts, k, .. } = self;
        let scales = [self.capacity, self.balance, self.logits];
        if input != [*inputs] {
            return Err(format!("{name} takes {inputs} numbers, not {input:?}"));
        }
        if !(1..=*experts).contains(k) || self.hidden == 0 || *outputs == 0 {
            return Err(format!("{name} sends a row through {k} of {experts} experts of {} units", self.hidden));
        }
        match scales.iter().all(|s| s.is_finite() && *s >= 0.0) {
            true => Ok(vec![*outputs]),
            false => Err(format!("capacity, balance and logits of {name} are numbers from 0 up, not {scales:?}")),
        }
    }

    fn resized(&self, input: &[usize], width: &dyn Fn(usize) -> usize, head: bool) -> Self {
        let outputs = if head { self.outputs } else { width(self.outputs) };
        let inputs = input.last().copied().unwrap_or(self.inputs);
        Self { inputs, outputs, hidden: width(self.hidden), ..self.clone() }
    }

    fn forward<T: Real>(&self, x: &Var<T>, cx: &mut Context<'_, T>) -> Result<Var<T>> {
        let Self { outputs, experts, hidden, balance, logits: gamma, .. } = *self;
        let (router, up) = (cx.whole(), cx.whole());
        let (_, up_bias) = cx.take();
        let down = cx.whole();
        let (_, down_bias) = cx.take();
        let logits = ops::matmul(x, false, &router, true);
        let p = ops::softmax(&logits);
        let chosen = ops::linear_topk(x, &router, None, self.k, Rank::Value);
        let codes = match cx.training() {
            true => chosen.codes().within(self.limit(chosen.codes().rows())),
            false => chosen.codes().clone(),
        };
        if cx.training() {
            let (rows, counts) = (codes.rows().max(1) as f64, chosen.codes().counts());
            let shares: Vec<T> = counts.iter().map(|&c| T::of(f64::from(c) / rows / self.k as f64)).collect();
            let even = ops::mul(&ops::mean_over(&p, &[0]), &Var::constant(Tensor::new(&[1, experts], shares)));
            cx.penalize(ops::scale(&ops::sum(&even), balance * experts as f64));
            let large = ops::mean(&ops::square(&ops::log(&ops::sum_over(&ops::exp(&logits), &[1]))));
            cx.penalize(ops::scale(&large, gamma));
        }
        let at = codes.lines().iter().zip(codes.columns()).map(|(r, &c)| r * experts + c as usize).collect();
        let z = SparseVar::new(codes.clone(), ops::pick(&p, Arc::new(at), &[codes.nnz()]));
        ops::routed(x, &z, |e, rows| {
            let part = |w: &Var<T>, n: usize| ops::slice(w, 0, e * n..(e + 1) * n);
            let inner = ops::relu(&ops::linear(rows, &part(&up, hidden), &part(up_bias, hidden)));
            Ok(ops::linear(&inner, &part(&down, outputs), &part(down_bias, outputs)))
        })
    }
}

impl Experts {
    /// Capacity of an expert for a number of rows.
    fn limit(&self, rows: usize) -> usize {
        (self.capacity * (self.k * rows) as f64 / self.experts as f64).ceil() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_engine::layers::Flatten;
    use nnz_engine::{Codes, Model, ModelSpec, Open};

    #[test]
    fn an_expert_takes_no_more_than_its_capacity() {
        let codes = Codes::new(4, 2, vec![0u32, 1, 2, 3, 4], vec![0u32, 0, 0, 1]).unwrap();
        let kept = codes.within(2);
        assert_eq!((kept.starts(), kept.columns()), (&[0u32, 1, 2, 2, 3][..], &[0u32, 0, 1][..]));
        let layer = Experts {
            name: "e".into(), inputs: 2, outputs: 1, experts: 4, k: 2, hidden: 1, capacity: 1.25, balance: 0.0, logits: 0.0,
        };
        // 1.25 · 2 · 10 / 4 = 6.25.
        assert_eq!(layer.limit(10), 7);
    }

    /// With one expert the layer is a perceptron: p = 1.
    #[test]
    fn one_expert_is_a_perceptron() {
        let layer = Experts {
            name: "e".into(), inputs: 3, outputs: 2, experts: 1, k: 1, hidden: 4, capacity: 1.0, balance: 0.0, logits: 0.0,
        };
        let spec = ModelSpec { name: "one".into(), input: [1, 1, 3], layers: vec![Flatten {}.into(), Open::new(layer).into()] };
        let model: Model<f64> = Model::born(&spec, None, nnz_engine::Storage::Dense, false, 1).unwrap();
        let x = Tensor::new(&[1, 3], vec![0.3, -1.0, 2.0]);
        let found = model.infer(x.clone()).unwrap();
        let value = |i: usize| model.params[i].value.data();
        let inner: Vec<f64> = (0..4).map(|h| (0..3).map(|j| value(1)[h * 3 + j] * x.data()[j]).sum::<f64>().max(0.0)).collect();
        for (o, y) in found.data().iter().enumerate() {
            let by_hand: f64 = (0..4).map(|h| value(3)[o * 4 + h] * inner[h]).sum();
            assert!((y - by_hand).abs() < 1e-12);
        }
    }
}
