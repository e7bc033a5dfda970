//! Prunes once before training by connection sensitivity |w ∂L/∂w|, one threshold for the whole network (eq. 5).
//!
//! Cost: one gradient of the dense network before training.
//!
//! Deviations: sensitivities come from one batch of the run's size (the paper takes one batch of about ten rows per
//! class).

use nnz_core::{Budget, Build, DistributionKind, Method, OneShot, Result, Sensitivity, Setting, MethodInstance, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "snip",
    "SNIP",
    "Prunes once, before training, by |weight x gradient|.",
);

options! {
    #[flatten]
    /// Density and its distribution.
    budget: Budget = Budget::new(0.05, DistributionKind::Global),
}

impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        Ok(self.budget.prune(Sensitivity, OneShot { at: 0, density: self.budget.density }, setting).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::{Edit, Plan, Shape, Signals, Target, Topology};

    #[test]
    fn keeps_the_largest_product_of_weight_and_gradient() {
        let setting = Setting { seed: 0, steps: 100, steps_per_epoch: 10 };
        let mut method = Options { budget: Budget::new(0.25, DistributionKind::Global) }.build(&setting).unwrap().sparsifier;
        assert_eq!(method.plan(0), Plan::Rewire(Signals::GRADIENT));
        assert_eq!(method.plan(1), Plan::Rest);
        let (shape, topology) = (Shape::matrix("a", 2, 2), Topology::full(2, 2));
        let (values, gradient) = ([1.0, -0.1, 0.5, 2.0], [0.1, -5.0, 0.3, 0.2]);
        let target = Target { gradient: &gradient, ..Target::new(0, &shape, &topology, &values) };
        let edits = method.rewire(0, &[target]).unwrap();
        assert_eq!(edits, [Edit::Rewire { topology: Topology::from_positions(2, 2, [1]), grown: vec![] }]);
    }
}
