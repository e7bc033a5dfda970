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

use super::Experts;
use nnz_core::{Better, Context, Error, Experiment, Input, InputKind, Launch, Method, Metric, Need, Result, Unit, above, at_least, options};
use nnz_engine::data::{Dataset, Split};
use nnz_engine::layers::{Flatten, Linear, Relu};
use nnz_engine::ops::{self, Rank};
use nnz_engine::{LayerSpec, Model, ModelSpec, Open, OptimizerSpec, Tensor, TrainSpec, Trainer, Var};

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
