//! Keeps the largest |w|, once.
//!
//! Global by default: one threshold for the whole network. A training run prunes at `at`, and the rest of
//! the run trains the survivors; a trained model (`nnz prune`) is pruned at once.
//!
//! Cost: one ranking of all weights; no data.
//!
//! Deviations: prunes once, while the paper prunes and trains several times.

use nnz_core::{Budget, Build, DistributionKind, Magnitude, Method, Once, Result, Setting, MethodInstance, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "magnitude",
    "Magnitude pruning",
    "Removes the smallest weights of a trained network at once.",
);

options! {
    #[flatten]
    /// Density and its distribution, and when it is reached.
    once: Once = Once::halfway(Budget::new(0.1, DistributionKind::Global)),
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        Ok(self.once.prune(Magnitude, setting).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::{Edit, Plan, Shape, Target, Topology};

    #[test]
    fn one_threshold_for_the_whole_network() {
        let setting = Setting { seed: 0, steps: 0, steps_per_epoch: 10 };
        let budget = Budget::new(0.5, DistributionKind::Global);
        let mut method = Options { once: Once::halfway(budget) }.build(&setting).unwrap().sparsifier;
        assert!(matches!(method.plan(0), Plan::Rewire(s) if !s.any()));
        let shapes = [Shape::matrix("a", 2, 2), Shape::matrix("b", 2, 2)];
        let full = Topology::full(2, 2);
        let values = [[0.9f32, -0.8, 0.7, -0.1], [0.05, -0.6, 0.02, 0.01]];
        let target = |index: usize| Target::new(index, &shapes[index], &full, &values[index]);
        let edits = method.rewire(0, &[target(0), target(1)]).unwrap();
        let kept: Vec<Vec<u64>> = edits
            .iter()
            .map(|e| match e {
                Edit::Rewire { topology, .. } => topology.positions().collect(),
                _ => panic!("nothing was pruned"),
            })
            .collect();
        assert_eq!(kept, [vec![0, 1, 2], vec![1]]);
    }
}
