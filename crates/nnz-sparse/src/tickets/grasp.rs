//! Prunes once before training so as to keep the gradient flow: removing a weight changes gᵀg, to first order, by
//! S(-θ) = -θ ⊙ H g (eq. 8); weights whose removal would lower it most stay. H and g are those of the loss with logits over
//! a temperature; one threshold for the whole network.
//!
//! Cost: one Hessian-vector product of the dense network before training.
//!
//! Deviations: H g is measured on one batch of `rows` rows, while the paper sums over ten a class twice over.

use nnz_core::{Budget, Build, Criterion, DistributionKind, Method, OneShot, Result, Rng, Setting, Signals, Target, MethodInstance, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "grasp",
    "GraSP",
    "Prunes once, before training, keeping the weights that the norm of the gradient hangs on.",
);

options! {
    #[flatten]
    /// Density and its distribution.
    budget: Budget = Budget::new(0.05, DistributionKind::Global),
    /// Divisor of the logits.
    temperature: f64 = 200.0,
    /// Training rows to measure on; no fewer than a batch.
    rows: usize = 128,
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        let criterion = GradientFlow { temperature: self.temperature, rows: self.rows };
        Ok(self.budget.prune(criterion, OneShot { at: 0, density: self.budget.density }, setting).into())
    }
}

struct GradientFlow {
    temperature: f64,
    rows: usize,
}

impl Criterion for GradientFlow {
    fn needs(&self) -> Signals {
        Signals { hessian_gradient: Some(self.temperature), rows: self.rows, ..Signals::NONE }
    }

    /// θ ⊙ H g.
    fn score(&self, target: &Target, _: &mut Rng) -> Vec<f32> {
        target.values.iter().zip(target.hessian_gradient).map(|(w, h)| w * h).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::{Edit, Plan, Shape, Topology};

    #[test]
    fn keeps_the_largest_product_of_weight_and_hessian_gradient() {
        let setting = Setting { seed: 0, steps: 100, steps_per_epoch: 10 };
        let options = Options { budget: Budget::new(0.5, DistributionKind::Global), ..Options::default() };
        let mut method = options.build(&setting).unwrap().sparsifier;
        assert_eq!(method.plan(0), Plan::Rewire(Signals { hessian_gradient: Some(200.0), rows: 128, ..Signals::NONE }));
        let (shape, topology) = (Shape::matrix("a", 2, 2), Topology::full(2, 2));
        let (values, hessian_gradient) = ([1.0, -0.1, 0.5, -2.0], [0.1, -5.0, 0.3, 0.2]);
        let target = Target { hessian_gradient: &hessian_gradient, ..Target::new(0, &shape, &topology, &values) };
        // Products 0.1, 0.5, 0.15 and -0.4: the sign counts.
        let kept = Edit::Rewire { topology: Topology::from_positions(2, 2, [1, 2]), grown: vec![] };
        assert_eq!(method.rewire(0, &[target]).unwrap(), [kept]);
    }
}
