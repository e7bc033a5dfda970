//! Rigging the lottery: every ΔT steps drop the fraction f(t) of smallest |w| in each layer and grow as many connections
//! where |∂L/∂w| is largest, with value zero. f(t) = (α / 2) (1 + cos(π t / T_end)) (eq. 1, algorithm 1).
//!
//! The momentum of grown connections is zero; connections dropped and grown at once keep theirs with their value, as in
//! the authors' code. Layers share the budget as ERK or, with distribution `uniform-plus`, uniformly with a dense first layer.
//!
//! Cost: every ΔT steps the gradient of the zeros, on a batch that makes no update.
//!
//! Deviations: none known. Under sparse storage the gradient of the zeros is streamed and never stored; `growth = "sampled"`
//! considers only a random zero per connection, unlike the paper.

use nnz_core::{Build, Gradient, Magnitude, Method, Result, Rewiring, GrowthCandidates, Setting, MethodInstance, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "rigl",
    "RigL",
    "Every 100 steps, replaces the smallest weights by the connections of largest gradient.",
);

options! {
    #[flatten]
    /// Fraction α every ΔT until T_end.
    rewiring: Rewiring = Rewiring::RIGL,
    /// Zeros considered for growth.
    growth: GrowthCandidates = GrowthCandidates::Exact,
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        Ok(self.rewiring.drop_grow(setting, Magnitude, Gradient(self.growth)).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::{Decay, Edit, Plan, Shape, Signals, Target, Topology, Zero};

    #[test]
    fn drops_the_smallest_and_grows_the_steepest() {
        let setting = Setting { seed: 0, steps: 400, steps_per_epoch: 100 };
        let rewiring = Rewiring { fraction: 0.5, decay: Decay::Constant, ..Rewiring::RIGL };
        let mut method = Options { rewiring, ..Options::default() }.build(&setting).unwrap().sparsifier;
        assert_eq!(method.plan(0), Plan::Rest);
        assert_eq!(method.plan(300), Plan::Rest, "until 0.75 of 400 steps");
        assert_eq!(method.plan(100), Plan::Rewire(Signals { zeros: 0.5, ..Signals::GRADIENT }));
        let shape = Shape::matrix("a", 2, 4);
        let topology = Topology::from_positions(2, 4, [0, 2, 5, 7]);
        let zeros = [Zero { position: 3, gradient: -9.0 }, Zero { position: 4, gradient: 2.0 }];
        // Positions 0 and 7 are dropped; 7 has the gradient to be regrown, with its value.
        let target = Target {
            gradient: &[1.0, 0.0, 0.0, 5.0],
            zeros: &zeros,
            ..Target::new(0, &shape, &topology, &[0.1, -3.0, 2.0, 0.2])
        };
        let edits = method.rewire(100, &[target]).unwrap();
        assert_eq!(edits, [Edit::Rewire { topology: Topology::from_positions(2, 4, [2, 3, 5, 7]), grown: vec![] }]);
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

    #[test]
    fn sampled_growth_names_as_many_zeros_as_there_are_connections() {
        let setting = Setting { seed: 0, steps: 400, steps_per_epoch: 100 };
        let sampled = || Options { growth: GrowthCandidates::Sampled, ..Options::default() }.build(&setting).unwrap().sparsifier;
        let method = sampled();
        assert_eq!(method.plan(100), Plan::Rewire(Signals { candidates: true, ..Signals::GRADIENT }));
        let topology = Topology::from_positions(10, 10, (0..20).map(|i| i * 5));
        let named = method.candidates(100, 0, &topology);
        assert_eq!(named.len(), 20);
        assert!(named.iter().all(|p| topology.find(*p).is_none()));
        assert_ne!(named, method.candidates(200, 0, &topology));
        // A layer too large to consider all of its zeros is refused, with the way out.
        let large = Shape::matrix("fc1", 100_000, 100_000);
        let exact = Options::default().build(&setting).unwrap().sparsifier;
        assert!(exact.check(&[&large]).unwrap_err().to_string().contains("sampled"));
        assert!(sampled().check(&[&large]).is_ok());
    }
}
