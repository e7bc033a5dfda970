//! At the end of every epoch the fraction p of smallest |w| of each layer is dropped; layers share what was dropped in proportion
//! to the mean |momentum| of their connections, and grow where the momentum of their zeros is largest, with value zero.
//!
//! Cost: at each rewiring the gradient of the zeros over `rows` training rows.
//!
//! Deviations: under sparse storage zeros have no momentum, so they are ranked by their gradient over `rows` training rows,
//! about as many as a momentum of 0.9 averages over ten batches of 100; a layer at most doubles at once, and the others share
//! the excess; p falls to zero at `until` instead of to 0.005 at the end of the run, since our learning rate falls to zero.

use nnz_core::{Build, Decay, DropGrow, Redistribution, Gradient, Magnitude, Method, Period, Result, Rewiring, GrowthCandidates, Setting, Signals, Target, MethodInstance, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "sparse-momentum",
    "Sparse momentum",
    "Moves connections to the layers, and within them to the places, of largest momentum.",
);

options! {
    #[flatten]
    /// Fraction p, decay, interval and end.
    rewiring: Rewiring = Rewiring { fraction: 0.5, decay: Decay::Cosine, every: Period::Epochs(1.0), ..Rewiring::RIGL },
    /// Zeros considered for growth.
    growth: GrowthCandidates = GrowthCandidates::Exact,
    /// Training rows over which the gradient of the zeros is taken; 0 is the batch.
    rows: usize = 1000,
    /// Whether layers exchange connections; otherwise each grows as many as it drops.
    redistribute: bool = true,
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        let plain = self.rewiring.drop_grow(setting, Magnitude, Gradient(self.growth));
        let exchange = ByMomentum { search: self.growth, rows: self.rows, redistribute: self.redistribute };
        Ok(DropGrow { exchange: Box::new(exchange), ..plain }.into())
    }
}

struct ByMomentum {
    search: GrowthCandidates,
    rows: usize,
    redistribute: bool,
}

impl Redistribution for ByMomentum {
    fn needs(&self) -> Signals {
        // A layer may grow by as many as it has.
        let (rows, momentum) = (self.rows, true);
        Signals { rows, momentum, ..self.search.needs(if self.redistribute { 1.0 } else { 0.0 }) }
    }

    fn counts(&mut self, _: u64, fraction: f64, targets: &[Target]) -> Result<Vec<[usize; 2]>> {
        let dropped: Vec<usize> = targets.iter().map(|t| dropped(t, fraction)).collect();
        if !self.redistribute {
            return Ok(dropped.into_iter().map(|d| [d; 2]).collect());
        }
        let means: Vec<f64> = targets.iter().map(|t| mean(t.momentum)).collect();
        let room = |(t, d): (&Target, &usize)| (super::zeros(t) + d).min(t.topology.nnz());
        let room: Vec<usize> = targets.iter().zip(&dropped).map(room).collect();
        let grown = super::share(dropped.iter().sum(), &means, &room);
        Ok(dropped.into_iter().zip(grown).map(|(d, g)| [d, g]).collect())
    }
}

/// The fraction of its nonzeros, or of its zeros if those are fewer: a layer that is nearly full gives up little.
fn dropped(t: &Target, fraction: f64) -> usize {
    let sparsity = 1.0 - t.topology.density();
    (fraction.min(sparsity) * t.topology.nnz() as f64).ceil().min(t.topology.nnz() as f64) as usize
}

fn mean(momentum: &[f32]) -> f64 {
    momentum.iter().map(|m| f64::from(m.abs())).sum::<f64>() / momentum.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::{Edit, Shape, Topology, Zero};

    #[test]
    fn connections_go_where_the_momentum_is() {
        let shapes = [Shape::matrix("a", 5, 8), Shape::matrix("b", 5, 8)];
        let topologies = [0, 1].map(|i| Topology::from_positions(5, 8, (0..10).map(|k| 4 * k + i)));
        let values: [f32; 10] = std::array::from_fn(|i| 1.0 + i as f32);
        // Means 3 and 1: of ten dropped, 7.5 and 2.5 are grown.
        let momentum = [[3.0f32; 10], [-1.0; 10]];
        let zeros = |i: u64| -> Vec<Zero> {
            (0..10u64).map(|k| Zero { position: 4 * k + i + 2, gradient: 10.0 - k as f32 }).collect()
        };
        let zeros = [zeros(0), zeros(1)];
        let setting = Setting { seed: 0, steps: 1000, steps_per_epoch: 100 };
        let rewiring = Rewiring { decay: Decay::Constant, ..Options::default().rewiring };
        let mut method = Options { rewiring, ..Options::default() }.build(&setting).unwrap().sparsifier;
        let target = |i: usize| Target {
            gradient: &[0.0; 10],
            momentum: &momentum[i],
            zeros: &zeros[i],
            ..Target::new(i, &shapes[i], &topologies[i], &values)
        };
        let edits = method.rewire(100, &[target(0), target(1)]).unwrap();
        let nnz: Vec<usize> = edits
            .iter()
            .map(|e| match e {
                Edit::Rewire { topology, .. } => topology.nnz(),
                _ => panic!("nothing moved"),
            })
            .collect();
        assert_eq!(nnz.iter().sum::<usize>(), 20);
        assert_eq!(nnz, [13, 7], "5 kept and 8 grown; 5 kept and 2 grown");
        let Edit::Rewire { topology, .. } = &edits[1] else { panic!() };
        assert!(topology.find(3).is_some() && topology.find(7).is_some() && topology.find(11).is_none());
    }

    #[test]
    fn nearly_full_layers_give_up_little() {
        let shape = Shape::matrix("a", 10, 10);
        let topology = Topology::from_positions(10, 10, 0..90);
        let values = vec![1.0; 90];
        assert_eq!(dropped(&Target::new(0, &shape, &topology, &values), 0.5), 9);
    }
}
