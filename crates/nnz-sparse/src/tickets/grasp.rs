//! Prune once before training and keep the flow of gradients: removing a weight changes gᵀg, to first order, by
//! S(-θ) = -θ ⊙ H g (eq. 8); weights whose removal would lower it most stay. H and g are those of the loss with logits over
//! a temperature; one threshold for the whole network.
//!
//! Deviations: one batch measures H g, of `rows` rows, where the paper sums over ten a class twice over.

use nnz_core::{
    Budget, Build, Criterion, DistributionKind, Method, OneShot, Paper, Result, Rng, Setting, Signals, Target, Work,
};
use serde::{Deserialize, Serialize};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "grasp",
    "GraSP",
    "tickets",
    "Prunes once, before training, keeping the weights that the norm of the gradient hangs on.",
    Paper {
        number: None,
        title: "Picking Winning Tickets Before Training by Preserving Gradient Flow",
        authors: "Wang et al.",
        year: 2020,
        venue: "ICLR 2020",
        arxiv: "2002.07376",
    },
);

/// Options.
#[derive(Debug, Serialize, Deserialize)]
pub struct Options {
    /// What is left.
    #[serde(flatten)]
    pub budget: Budget,
    /// What logits are divided by.
    pub temperature: f64,
    /// Training rows to measure on; no fewer than a batch.
    pub rows: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { budget: Budget::new(0.05, DistributionKind::Global), temperature: 200.0, rows: 128 }
    }
}

impl Build for Options {
    fn build(self, setting: &Setting) -> Result<Work> {
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
        Signals { curvature: Some(self.temperature), rows: self.rows, ..Signals::NONE }
    }

    /// θ ⊙ H g.
    fn score(&self, target: &Target, _: &mut Rng) -> Vec<f32> {
        target.values.iter().zip(target.curvature).map(|(w, h)| w * h).collect()
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
        assert_eq!(method.plan(0), Plan::Rewire(Signals { curvature: Some(200.0), rows: 128, ..Signals::NONE }));
        let (shape, topology) = (Shape::matrix("a", 2, 2), Topology::full(2, 2));
        let (values, curvature) = ([1.0, -0.1, 0.5, -2.0], [0.1, -5.0, 0.3, 0.2]);
        let target = Target { curvature: &curvature, ..Target::new(0, &shape, &topology, &values) };
        // Products 0.1, 0.5, 0.15 and -0.4: the sign counts.
        let kept = Edit::Rewire { topology: Topology::from_positions(2, 2, [1, 2]), born: vec![] };
        assert_eq!(method.rewire(0, &[target]).unwrap(), [kept]);
    }
}
