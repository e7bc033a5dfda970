//! A layer of experts of which a row uses k: with p = softmax(W_r x) and Γ the k largest,
//!
//! y = Σ_{i ∈ Γ} p_i E_i(x),  E_i(x) = V_i relu(U_i x + u_i) + v_i,
//!
//! at most ⌈c k rows / experts⌉ rows per expert in training (the excess is dropped), and added to the loss
//! α experts Σ_i f_i P_i, f_i the share of the rows that chose i and P_i its mean probability, and γ mean(logsumexp²).
//!
//! Cost: k experts per row, whatever their number, and the router's experts · inputs.
//!
//! Deviations: the review describes many routers; this is the Switch family's. Rows are dropped by their order in the batch.

use nnz_core::{Better, Context, Error, Experiment, Input, InputKind, Launch, Method, Metric, Need, Result, Unit, above, at_least, options};
use nnz_engine::data::{Dataset, Split};
use nnz_engine::layers::{Flatten, Linear, Relu};
use nnz_engine::ops::{self, Rank};
use nnz_engine::{
    CustomLayer, Init, LayerSpec, Model, ModelSpec, Open, OptimizerSpec, ParamSpec, Real, SparseVar, Tensor,
    TrainSpec, Trainer, Var,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The card.
pub const METHOD: Method = Method::experiment::<Options>(
    "routing",
    "Sparse expert routing",
    "Trains a layer of experts of which each input uses a few, and measures accuracy and how evenly they are used.",
);

options! {
    /// Number of experts.
    experts: usize = 8 => at_least(1.0),
    /// Experts per row.
    k: usize = 1 => at_least(1.0),
    /// Hidden units per expert.
    hidden: usize = 16 => at_least(1.0),
    /// c: capacity of an expert, relative to an even load.
    capacity: f64 = 1.25 => above(0.0),
    /// α, the weight of the load balancing loss.
    balance: f64 = 0.01 => at_least(0.0),
    /// γ, the weight of the penalty on router logits.
    logits: f64 = 0.001 => at_least(0.0),
    /// Passes over the training rows.
    epochs: u32 = 10 => at_least(1.0),
    /// Learning rate of Adam.
    rate: f64 = 0.001 => above(0.0),
}

const INPUTS: &[Input] =
    &[Input { name: "data", kind: InputKind::Rows, need: Need::Default("mnist10k"), about: "Rows with classes." }];

const METRICS: &[Metric] = &[
    Metric::new("accuracy", Unit::Share, Better::Higher, "Test accuracy."),
    Metric::new("load-variation", Unit::Number, Better::Lower, "Deviation over mean of the test rows each expert gets."),
];

impl Launch for Options {
    fn launch(self) -> Result<Box<dyn Experiment>> {
        match self.k > self.experts {
            true => Err(Error::Range { name: "k", range: "at most the number of experts".into(), got: self.k as f64 }),
            false => Ok(Box::new(Routing(self))),
        }
    }
}

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
        let weight = |part: &str, rows, cols, init| ParamSpec::weight(&format!("{}.{part}", self.name), rows, cols, [1, 1], init);
        let vector = |part: &str, n| ParamSpec::vector(&self.name, part, n, Init::Zero);
        let (up, down) = (experts.saturating_mul(hidden), experts.saturating_mul(outputs));
        vec![
            // Small logits: no expert is far ahead before training.
            weight("router", experts, inputs, Init::Small),
            weight("up", up, inputs, Init::He),
            vector("up.bias", up),
            weight("down", down, hidden, Init::He),
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

    fn forward<T: Real>(&self, x: &Var<T>, cx: &mut nnz_engine::layers::Context<'_, T>) -> nnz_engine::Result<Var<T>> {
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

struct Routing(Options);

impl Experiment for Routing {
    fn inputs(&self) -> &'static [Input] {
        INPUTS
    }

    fn metrics(&self) -> &'static [Metric] {
        METRICS
    }

    fn run(&mut self, cx: &mut Context) -> Result<()> {
        let Options { experts, k, hidden, capacity, balance, logits, epochs, rate } = self.0.clone();
        let data: &Dataset = cx.input("data")?;
        let (name, inputs, outputs) = ("experts".to_string(), data.features(), 64);
        let layer = Experts { name, inputs, outputs, experts, k, hidden, capacity, balance, logits };
        let layers = vec![
            Flatten {}.into(),
            LayerSpec::from(Open::new(layer)),
            Relu {}.into(),
            Linear::new("head", outputs, data.classes.len()).into(),
        ];
        let spec = ModelSpec { name: format!("{k} of {experts} experts"), input: data.image, layers };
        let train = TrainSpec { epochs, optimizer: OptimizerSpec::adam(rate), validation: 0.0, ..TrainSpec::default() };
        let mut trainer: Trainer<f32> = Trainer::new(&spec, data, &train, cx.seed(), |_| Ok(nnz_core::Dense))?;
        cx.resume(&mut trainer)?;
        while trainer.position.step < trainer.steps() {
            if let Some((epoch, _)) = trainer.advance()?.finished {
                cx.curve("loss", "epoch", f64::from(epoch.epoch), epoch.loss);
            }
            cx.checkpoint(trainer.position.step, trainer.steps(), &mut trainer)?;
        }
        let rows: Vec<u32> = (0..data.test.len() as u32).collect();
        cx.report("accuracy", trainer.evaluate(&data.test, &rows)?.accuracy)?;
        let loads = loads(&trainer.result(), data, &data.test, trainer.frame(), k)?;
        let mean = loads.iter().sum::<f64>() / loads.len() as f64;
        let variance = loads.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / loads.len() as f64;
        cx.report("load-variation", variance.sqrt() / mean)
    }
}

/// Counts the rows of a split that each expert gets.
fn loads(model: &Model<f32>, data: &Dataset, split: &Split, frame: &nnz_engine::Preprocessing, k: usize) -> Result<Vec<f64>> {
    let rows: Vec<u32> = (0..split.len() as u32).collect();
    let mut x = vec![0.0; rows.len() * data.features()];
    data.fill(split, &rows, frame.normalization, &mut x).map_err(nnz_engine::Error::from)?;
    let (x, router) = (Tensor::new(&[rows.len(), data.features()], x), model.params[0].value.clone());
    let chosen = ops::linear_topk(&Var::constant(x), &Var::constant(router), None, k, Rank::Value);
    Ok(chosen.codes().counts().into_iter().map(f64::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_engine::Codes;

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
