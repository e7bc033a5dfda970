//! Rigging the lottery: every ΔT steps drop the fraction f(t) of smallest |w| in each layer and grow as many connections
//! where |∂L/∂w| is largest, with value zero. f(t) = (α / 2) (1 + cos(π t / T_end)) (eq. 1, algorithm 1).
//!
//! Deviations: none known at constant density. Under sparse storage the gradient of the zeros is streamed and never
//! stored.

use nnz_core::{
    Budget, Build, Decay, DistributionKind, DropGrow, Gradient, Magnitude, Method, Paper, Period, Result, Setting,
    When, Work,
};
use serde::{Deserialize, Serialize};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "rigl",
    "RigL",
    "rewire",
    "Every 100 steps, replaces the smallest weights by the connections of largest gradient.",
    Paper {
        number: None,
        title: "Rigging the Lottery: Making All Tickets Winners",
        authors: "Evci et al.",
        year: 2020,
        venue: "ICML 2020",
        arxiv: "1911.11134",
    },
);

/// Options.
#[derive(Debug, Serialize, Deserialize)]
pub struct Options {
    /// What exists at any time; rewiring keeps only pattern `unstructured`.
    #[serde(flatten)]
    pub budget: Budget,
    /// Replaced fraction at the start, α.
    pub fraction: f64,
    /// Time between two rewirings, ΔT.
    pub every: Period,
    /// End of rewiring, T_end.
    pub until: Period,
    /// How the replaced fraction falls.
    pub decay: Decay,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            budget: Budget::new(0.05, DistributionKind::Erk),
            fraction: 0.3,
            every: Period::Steps(100),
            until: Period::Run(0.75),
            decay: Decay::Cosine,
        }
    }
}

impl Build for Options {
    fn build(self, setting: &Setting) -> Result<Work> {
        Ok(DropGrow {
            birth: self.budget.fixed(setting),
            drop: Box::new(Magnitude),
            grow: Box::new(Gradient),
            when: When { every: self.every.steps(setting), until: self.until.steps(setting) },
            fraction: self.fraction,
            decay: self.decay,
        }
        .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::{Edit, Plan, Shape, Signals, Target, Topology, Zero};

    #[test]
    fn drops_the_smallest_and_grows_the_steepest() {
        let setting = Setting { seed: 0, steps: 400, steps_per_epoch: 100 };
        let options = Options { fraction: 0.5, decay: Decay::Constant, ..Options::default() };
        let mut method = options.build(&setting).unwrap().sparsifier;
        assert_eq!(method.plan(0), Plan::Rest);
        assert_eq!(method.plan(300), Plan::Rest, "until 0.75 of 400 steps");
        assert_eq!(method.plan(100), Plan::Rewire(Signals { zeros: 0.5, ..Signals::GRADIENT }));
        let shape = Shape::matrix("a", 2, 4);
        let topology = Topology::from_positions(2, 4, [0, 2, 5, 7]);
        let zeros = [Zero { position: 3, gradient: -9.0 }, Zero { position: 4, gradient: 2.0 }];
        // Positions 0 and 7 go; 7 has the gradient to come back, with its value.
        let target = Target {
            gradient: &[1.0, 0.0, 0.0, 5.0],
            zeros: &zeros,
            ..Target::new(0, &shape, &topology, &[0.1, -3.0, 2.0, 0.2])
        };
        let edits = method.rewire(100, &[target]).unwrap();
        assert_eq!(edits, [Edit::Rewire { topology: Topology::from_positions(2, 4, [2, 3, 5, 7]), born: vec![] }]);
    }

    #[test]
    fn the_replaced_fraction_follows_the_cosine() {
        let setting = Setting { seed: 0, steps: 1000, steps_per_epoch: 100 };
        let method = Options::default().build(&setting).unwrap().sparsifier;
        let asked = |t| match method.plan(t) {
            Plan::Rewire(s) => s.zeros,
            _ => 0.0,
        };
        for t in [100, 300, 700] {
            let f = 0.15 * (1.0 + (std::f64::consts::PI * t as f64 / 750.0).cos());
            assert!((asked(t) - f).abs() < 1e-12);
        }
        assert_eq!(asked(800), 0.0);
    }
}
