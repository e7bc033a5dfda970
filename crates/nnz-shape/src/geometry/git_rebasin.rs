//! Two perceptrons that differ by a permutation of hidden units are one function. Weight matching seeks permutations under
//! which a second network is nearest to a first: with all other layers fixed, the order of layer l maximizes
//!
//! Σ_i ⟨W_l^A[i], W_l^B[p_l(i)] P_{l-1}⟩ + b_l^A[i] b_l^B[p_l(i)] + ⟨W_{l+1}^A[:, i], (P_{l+1} W_{l+1}^B)[:, p_l(i)]⟩,
//!
//! a linear assignment; layers are taken in random order until none gains (algorithm 1). The barrier between A and B is
//! max_λ L((1 - λ) A + λ B) - (L(A) + L(B)) / 2 over 25 values of λ.
//!
//! Cost: a sweep takes O(Σ_l n_l² (n_{l-1} + n_{l+1} + n_l)).
//!
//! Deviations: of the paper's three algorithms this is weight matching. If two networks normalize their inputs differently,
//! the second one's first layer absorbs the difference.

use nnz_core::{Better, Context, Error, Experiment, Input, InputKind, Launch, Method, Metric, Need, Result, Rng, Unit, above, at_least, options};
use nnz_engine::data::Dataset;
use nnz_engine::file::Stored;
use super::perceptron::{Orders, Perceptron};
use nnz_engine::{Preprocessing, Model, ModelSpec, OptimizerSpec, TrainSpec, Trainer, evaluate};
use rayon::prelude::*;

/// The card.
pub const METHOD: Method = Method::experiment::<Options>(
    "git-rebasin",
    "Git Re-Basin",
    "Puts the hidden units of one perceptron in the order of another's and measures the barrier between them.",
);

options! {
    /// Whether units are matched; otherwise they keep their order.
    matching: bool = true,
    /// Whether the second network is the first with its units in a random order.
    shuffled: bool = false,
    /// Width of both hidden layers.
    width: usize = 256 => at_least(1.0),
    /// Passes over the training rows.
    epochs: u32 = 10 => at_least(1.0),
    /// Learning rate of Adam.
    rate: f64 = 0.001 => above(0.0),
}

const INPUTS: &[Input] = &[
    Input { name: "data", kind: InputKind::Rows, need: Need::Default("mnist10k"), about: "What both networks are measured on." },
    Input { name: "first", kind: InputKind::Model, need: Need::Optional, about: "A perceptron that nnz trained." },
    Input { name: "second", kind: InputKind::Model, need: Need::Optional, about: "Another of the same widths." },
];

const METRICS: &[Metric] = &[
    Metric::new("barrier", Unit::Nats, Better::Lower, "Largest loss between the two networks above the mean of theirs."),
    Metric::new("midpoint-accuracy", Unit::Share, Better::Higher, "Test accuracy of the mean of both networks."),
    Metric::new("distance", Unit::Number, Better::Lower, "Euclidean distance of all weights and biases."),
    Metric::new("moved", Unit::Share, Better::Neither, "Share of the hidden units that another one took the place of."),
];

/// Points between two networks at which the loss is measured.
const POINTS: usize = 25;

impl Launch for Options {
    fn launch(self) -> Result<Box<dyn Experiment>> {
        Ok(Box::new(Rebasin(self)))
    }
}

struct Rebasin(Options);

impl Experiment for Rebasin {
    fn inputs(&self) -> &'static [Input] {
        INPUTS
    }

    fn metrics(&self) -> &'static [Metric] {
        METRICS
    }

    fn run(&mut self, cx: &mut Context) -> Result<()> {
        let data: &Dataset = cx.input("data")?;
        let given = |name: &str| -> Result<Option<(Model<f32>, Preprocessing)>> {
            Ok(match cx.has(name) {
                true => cx.input::<Stored<f32>>(name).map(|s| Some((s.model.clone(), s.header.frame())))?,
                false => None,
            })
        };
        let (first, second) = (given("first")?, given("second")?);
        if first.is_some() && second.is_none() && !self.0.shuffled {
            return Err(Error::Refused("one network is nothing to match with; name `second` too".into()));
        }
        let (a, frame) = first.map_or_else(|| self.train(data, 2 * cx.seed()), Ok)?;
        let spec = a.spec.clone();
        let a = Perceptron::of(&a)?;
        let b = match second {
            _ if self.0.shuffled => a.permuted(&shuffle(&a, &mut cx.rng("shuffle", 0, 0))),
            Some((model, own)) => Perceptron::of(&model)?.framed(&own, &frame)?,
            None => Perceptron::of(&self.train(data, 2 * cx.seed() + 1)?.0)?,
        };
        a.fits(&b)?;
        let orders = match self.0.matching {
            true => matching(&a, &b, &mut cx.rng("layers", 0, 0))?,
            false => a.identity(),
        };
        let units: usize = orders.iter().map(Vec::len).sum();
        let moved = orders.iter().flat_map(|p| p.iter().enumerate()).filter(|(i, p)| i != *p).count();
        let b = b.permuted(&orders);
        let rows: Vec<u32> = (0..data.test.len() as u32).collect();
        let mut losses = Vec::new();
        for point in 0..POINTS {
            let share = point as f64 / (POINTS - 1) as f64;
            let found = evaluate(&a.towards(&b, share).model(&spec), data, &data.test, &rows, &frame)?;
            cx.curve("loss", "from the first to the second", share, found.loss);
            losses.push(found.loss);
            if point == POINTS / 2 {
                cx.report("midpoint-accuracy", found.accuracy)?;
            }
        }
        let top = losses.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        cx.report("barrier", top - 0.5 * (losses[0] + losses[POINTS - 1]))?;
        cx.report("distance", a.distance(&b))?;
        cx.report("moved", moved as f64 / units.max(1) as f64)
    }
}

impl Rebasin {
    fn train(&self, data: &Dataset, seed: u64) -> Result<(Model<f32>, Preprocessing)> {
        let (width, inputs) = (self.0.width, data.features());
        let spec = ModelSpec::parse(&format!("mlp:{inputs}-{width}-{width}-{}", data.classes.len()), data.image, data.classes.len())?;
        let train = TrainSpec {
            epochs: self.0.epochs,
            optimizer: OptimizerSpec::adam(self.0.rate),
            // Both networks see all rows, and so the same normalization.
            validation: 0.0,
            ..TrainSpec::default()
        };
        let mut trainer: Trainer<f32> = Trainer::new(&spec, data, &train, seed, |_| Ok(nnz_core::Dense))?;
        trainer.run(|_, _| true)?;
        Ok((trainer.result().into_owned(), trainer.frame().clone()))
    }
}

/// Hidden units in a random order.
fn shuffle(net: &Perceptron, rng: &mut Rng) -> Orders {
    let mut orders = net.identity();
    orders.iter_mut().for_each(|p| rng.shuffle(p));
    orders
}

    /// Finds the orders under which `other` is nearest.
fn matching(a: &Perceptron, b: &Perceptron, rng: &mut Rng) -> Result<Orders> {
        let mut orders = a.identity();
        loop {
            let mut gained = false;
            let mut layers: Vec<usize> = (0..orders.len()).collect();
            rng.shuffle(&mut layers);
            for l in layers {
                // Everything else in its current order, this layer in its original one.
                let mut rest = orders.clone();
                rest[l] = (0..rest[l].len()).collect();
                let (b, n) = (b.permuted(&rest), rest[l].len());
                let gain = |i: usize, k: usize| {
                    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
                    let out: f64 = a.layers[l + 1].0.iter().zip(&b.layers[l + 1].0).map(|(x, y)| x[i] * y[k]).sum();
                    dot(&a.layers[l].0[i], &b.layers[l].0[k]) + a.layers[l].1[i] * b.layers[l].1[k] + out
                };
                let gains: Vec<f64> = (0..n * n).into_par_iter().map(|at| gain(at / n, at % n)).collect();
                let (_, best) = lsap::solve(n, n, &gains, true).map_err(|e| Error::Refused(format!("matching: {e}")))?;
                let total = |p: &[usize]| p.iter().enumerate().map(|(i, &k)| gains[i * n + k]).sum::<f64>();
                if total(&best) > total(&orders[l]) + 1e-12 {
                    (orders[l], gained) = (best, true);
                }
            }
            if !gained {
                return Ok(orders);
            }
        }
    }

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::perceptron::tests::random;

    #[test]
    fn a_shuffled_is_put_back_exactly() {
        let a = random(1, &[6, 20, 15, 4]);
        let orders = shuffle(&a, &mut Rng::stream(2, "shuffle", 0, 0));
        let copy = a.permuted(&orders);
        assert!(a.distance(&copy) > 1.0);
        let found = matching(&a, &copy, &mut Rng::stream(3, "layers", 0, 0)).unwrap();
        assert_eq!(copy.permuted(&found), a);
    }

    #[test]
    fn matching_never_moves_away() {
        let (a, b) = (random(1, &[6, 12, 9, 4]), random(2, &[6, 12, 9, 4]));
        let near = b.permuted(&matching(&a, &b, &mut Rng::stream(0, "layers", 0, 0)).unwrap());
        assert!(a.distance(&near) < a.distance(&b));
        assert!(a.fits(&random(3, &[6, 12, 8, 4])).is_err());
    }
}
