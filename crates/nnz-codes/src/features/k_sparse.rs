//! An autoencoder whose code keeps the k largest of z = W x + b and decodes with the same weights:
//!
//! Γ = the k largest of z,  x̂ = Wᵀ z_Γ + b',  loss ‖x - x̂‖².
//!
//! Gradients go through Γ only. k falls linearly from `first` to `k` over the first half of the training, so that few features
//! die. The value of the features is measured by a softmax regression on the codes of α k entries.
//!
//! Cost: O(rows · inputs · features) per step for the products that choose Γ, else O(rows · k · inputs); memory O(rows · k).
//!
//! Deviations: Adam instead of momentum; α and the start of k are options, since the paper's values could not be looked up. The
//! gate `relu` is a plain autoencoder of the same size, for comparison.

use nnz_core::{
    Better, Context, Error, Experiment, Input, InputKind, Launch, Method, Metric, Need, Result, State, Unit, Visit,
    above, at_least, options, visit_within,
};
use crate::rows::{batch, drawn, hits, show, tensor, value, variation};
use nnz_engine::data::Dataset;
use nnz_engine::fit::{Adam, Fit, FitSpec, LrSchedule, Objective, Parameter, Seen};
use nnz_engine::ops::{self, Rank};
use nnz_engine::{SparseVar, Tensor, Var};
use serde::{Deserialize, Serialize};

/// The card.
pub const METHOD: Method = Method::experiment::<Options>(
    "k-sparse",
    "k-sparse autoencoder",
    "Learns features of which each input has k, and measures what they are worth to a classifier.",
);

/// Selection of z.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Gate {
    /// The k largest.
    Topk,
    /// All above zero.
    Relu,
}

options! {
    /// Selection of z: topk, or relu for a plain autoencoder.
    gate: Gate = Gate::Topk,
    /// Size of the dictionary.
    features: usize = 1000 => at_least(1.0),
    /// Active features per input.
    k: usize = 25 => at_least(1.0),
    /// Active features per input at the first step.
    first: usize = 100,
    /// The classifier sees this many times k features.
    alpha: f64 = 1.0 => at_least(1.0),
    /// Passes over the training rows, of the autoencoder and of the classifier.
    epochs: u64 = 20 => at_least(1.0),
    /// Rows per step.
    batch: usize = 128 => at_least(1.0),
    /// Learning rate of both.
    rate: f64 = 0.001 => above(0.0),
}

const INPUTS: &[Input] =
    &[Input { name: "data", kind: InputKind::Rows, need: Need::Default("mnist10k"), about: "Rows with classes." }];

const METRICS: &[Metric] = &[
    Metric::new("accuracy", Unit::Share, Better::Higher, "Test accuracy of a softmax regression on the codes."),
    Metric::new("explained-variance", Unit::Share, Better::Higher, "Share of the variance of test rows that is rebuilt."),
    Metric::new("active", Unit::Count, Better::Lower, "Features that a test row has, in the mean."),
    Metric::new("dead", Unit::Share, Better::Lower, "Share of the features that no test row has."),
];

impl Launch for Options {
    fn launch(self) -> Result<Box<dyn Experiment>> {
        match self.k > self.features {
            true => Err(Error::Range { name: "k", range: "at most the number of features".into(), got: self.k as f64 }),
            false => Ok(Box::new(KSparse(self))),
        }
    }
}

struct KSparse(Options);

impl KSparse {
    /// Computes z_Γ of rows, with the current k.
    fn encode(&self, x: &Var<f32>, w: &Var<f32>, b: &Var<f32>, k: usize) -> SparseVar<f32> {
        match self.0.gate {
            Gate::Topk => ops::linear_topk(x, w, Some(b), k, Rank::Value),
            // All entries are candidates, of which those above zero stay: a plain autoencoder on the same tape.
            Gate::Relu => ops::linear_topk(x, w, Some(b), self.0.features, Rank::Relu),
        }
    }

    /// α k, the number of features that the classifier sees.
    fn shown(&self) -> usize {
        ((self.0.k as f64 * self.0.alpha) as usize).min(self.0.features)
    }

    /// k at a step of `steps`.
    fn k(&self, step: u64, steps: u64) -> usize {
        let Options { k, first, features, .. } = self.0.clone();
        let left = 1.0 - (2.0 * step as f64 / steps as f64).min(1.0);
        k + (first.clamp(k, features).saturating_sub(k) as f64 * left).round() as usize
    }

    /// Evaluates both on the test split.
    fn judge(&self, cx: &mut Context, data: &Dataset, both: &Both) -> Result<()> {
        let (x, labels) = (tensor(data, &data.test)?, &data.test.labels);
        let (n, width) = x.rows_cols();
        let (w, b, mean) = (value(&both.0, "dictionary")?, value(&both.0, "bias")?, value(&both.0, "mean")?);
        let (classes, bias) = (value(&both.1, "classes")?, value(&both.1, "bias")?);
        let (mut right, mut rest, mut active, mut row) = (0, 0.0f64, 0, 0);
        let mut used = vec![false; self.0.features];
        for rows in x.data().chunks(512 * width) {
            let rows = Var::constant(Tensor::new(&[rows.len() / width, width], rows.to_vec()));
            let z = self.encode(&rows, &w, &b, self.shown());
            let (rebuilt, logits) = (ops::decode(&z, &w, Some(&mean)), ops::decode(&z, &classes, Some(&bias)));
            let rows = z.codes().rows();
            let part = &x.data()[row * width..(row + rows) * width];
            rest += part.iter().zip(rebuilt.value().data()).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            right += hits(logits.value(), &labels[row..row + rows]);
            for (&c, _) in z.codes().columns().iter().zip(z.values().value().data()).filter(|(_, v)| **v != 0.0) {
                (used[c as usize], active) = (true, active + 1);
            }
            row += rows;
        }
        show(cx, data, w.value());
        cx.report("accuracy", right as f64 / n as f64)?;
        cx.report("explained-variance", 1.0 - rest / variation(&x))?;
        cx.report("active", active as f64 / n as f64)?;
        cx.report("dead", used.iter().filter(|u| !**u).count() as f64 / used.len() as f64)
    }
}

/// Both trainings, in sequence.
struct Both<'a>(Fit<'a, f32>, Fit<'a, f32>);

impl State for Both<'_> {
    fn visit(&mut self, v: &mut dyn Visit) -> Result<()> {
        visit_within(v, "dictionary", &mut self.0)?;
        visit_within(v, "classifier", &mut self.1)
    }
}

impl Experiment for KSparse {
    fn inputs(&self) -> &'static [Input] {
        INPUTS
    }

    fn metrics(&self) -> &'static [Metric] {
        METRICS
    }

    fn run(&mut self, cx: &mut Context) -> Result<()> {
        let Options { features, epochs, batch: size, rate, .. } = self.0.clone();
        let data: &Dataset = cx.input("data")?;
        let (x, labels, seed) = (tensor(data, &data.train)?, data.train.labels.clone(), cx.seed());
        let (n, width) = x.rows_cols();
        let steps = epochs * n.div_ceil(size) as u64;
        let first = vec![
            Parameter::weight("dictionary", drawn(&mut cx.rng("init", 0, 0), [features, width])),
            Parameter::vector("bias", Tensor::zeros(&[features])),
            Parameter::vector("mean", Tensor::zeros(&[width])),
        ];
        let second = vec![
            Parameter::weight("classes", Tensor::zeros(&[features, data.classes.len()])),
            Parameter::vector("bias", Tensor::zeros(&[data.classes.len()])),
        ];
        let spec = || FitSpec { schedule: LrSchedule::Cosine, ..FitSpec::new(steps) };
        let fit = |params| Fit::new(params, Adam::new(rate), spec()).map_err(nnz_engine::Error::from);
        let mut both = Both(fit(first)?, fit(second)?);
        cx.resume(&mut both)?;
        let mut rebuild = |step: u64, p: &[Var<f32>], _: &mut Seen<f32>| {
            let (rows, _) = batch(&x, &labels, size, seed, step);
            let z = self.encode(&rows, &p[0], &p[1], self.k(step, steps));
            Ok(ops::mse(&ops::decode(&z, &p[0], Some(&p[2])), &rows))
        };
        while both.0.steps().0 < steps {
            advance(cx, &mut both, true, &mut rebuild, steps)?;
        }
        let (w, b) = (value(&both.0, "dictionary")?, value(&both.0, "bias")?);
        let mut classify = |step: u64, p: &[Var<f32>], _: &mut Seen<f32>| {
            let (rows, of) = batch(&x, &labels, size, seed, step);
            Ok(ops::cross_entropy(&ops::decode(&self.encode(&rows, &w, &b, self.shown()), &p[0], Some(&p[1])), &of))
        };
        while both.1.steps().0 < steps {
            advance(cx, &mut both, false, &mut classify, steps)?;
        }
        self.judge(cx, data, &both)
    }
}

/// Makes one step of one of the trainings.
fn advance(cx: &mut Context, both: &mut Both, first: bool, of: &mut dyn Objective<f32>, steps: u64) -> Result<()> {
    let fit = if first { &mut both.0 } else { &mut both.1 };
    let progress = fit.advance(of).map_err(nnz_engine::Error::from)?;
    let done = progress.steps.0;
    if first && (done.is_multiple_of((steps / 50).max(1)) || done == steps) {
        cx.curve("reconstruction", "step", done as f64, progress.loss);
    }
    cx.checkpoint(if first { done } else { steps + done }, 2 * steps, both)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_keeps_the_largest_and_decodes_with_the_same_weights() {
        let net = KSparse(Options { features: 3, k: 2, ..Options::default() });
        let w = Var::leaf(Tensor::new(&[3, 2], vec![1.0f32, 0.0, 0.0, 1.0, -1.0, -1.0]));
        let b = Var::leaf(Tensor::zeros(&[3]));
        let x = Var::constant(Tensor::new(&[1, 2], vec![3.0, -1.0]));
        // z = (3, -1, -2): the two largest are 3 and -1, and they rebuild x.
        let z = net.encode(&x, &w, &b, 2);
        assert_eq!((z.codes().columns(), z.values().value().data()), (&[0u32, 1][..], &[3.0f32, -1.0][..]));
        assert_eq!(ops::decode(&z, &w, None).value().data(), [3.0, -1.0]);
    }

    #[test]
    fn k_falls_over_the_first_half() {
        let net = KSparse(Options { features: 200, k: 20, first: 100, ..Options::default() });
        assert_eq!([0, 25, 50, 99].map(|step| net.k(step, 100)), [100, 60, 20, 20]);
        let none = KSparse(Options { first: 5, ..net.0.clone() });
        assert_eq!(none.k(0, 100), 20);
    }
}
