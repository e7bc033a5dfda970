//! A fixed random topology, drawn at initialization.
//!
//! What matters is how the budget is shared: uniform, Erdős-Rényi, ERK, or ERK+ (the head dense).
//!
//! Cost: none during training; a sparse layer never exists densely.
//!
//! Deviations: exact counts instead of independent coin flips, so that the density is met to one connection; the
//! paper's SNIP and GraSP layer ratios and uniform+ are not implemented yet.

use nnz_core::{Born, Build, DistributionKind, TargetKind, Method, OneShot, Random, Result, Setting, MethodInstance, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "random-pruning",
    "Random pruning",
    "Draws a random sparse topology before training and keeps it.",
);

options! {
    #[flatten]
    /// The initial sparse network.
    born: Born = Born::new(0.05, DistributionKind::Erk),
}

impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        let budget = self.born.budget;
        Ok(match budget.of {
            TargetKind::Weights => self.born.fixed(setting).into(),
            // Units and edges exist at the start and can only be pruned.
            _ => budget.prune(Random { std: 0.0 }, OneShot { at: 0, density: budget.density }, setting).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::Shape;

    #[test]
    fn births_share_the_budget_as_erk_says_and_follow_the_seed() {
        let shapes = [Shape::matrix("fc1", 300, 784), Shape::matrix("fc2", 100, 300)];
        let shapes: Vec<&Shape> = shapes.iter().collect();
        let born = |seed| {
            let setting = Setting { seed, steps: 10, steps_per_epoch: 10 };
            Options::default().build(&setting).unwrap().sparsifier.initial_topologies(&shapes).unwrap().unwrap()
        };
        let a = born(0);
        // 13,260 connections in proportion 1084 : 400.
        assert_eq!([a[0].nnz(), a[1].nnz()], [9686, 3574]);
        assert_eq!(a, born(0));
        assert_ne!(a, born(1));
    }

    #[test]
    fn a_million_by_million_layer_is_born_in_proportion_to_its_connections() {
        let shape = Shape::matrix("w", 1_000_000, 1_000_000);
        let setting = Setting { seed: 0, steps: 1, steps_per_epoch: 1 };
        let method = Options { born: Born::new(1e-6, DistributionKind::Erk) }.build(&setting).unwrap().sparsifier;
        let born = method.initial_topologies(&[&shape]).unwrap().unwrap();
        assert_eq!(born[0].nnz(), 1_000_000);
        // Degrees of an Erdős-Rényi graph with mean 1 are nearly Poisson: about exp(-1) of the rows are empty.
        let empty = born[0].row_degrees().iter().filter(|&&d| d == 0).count();
        assert!((empty as f64 / 1e6 - (-1f64).exp()).abs() < 0.005, "{empty}");
    }
}
