//! Sparse training is as good as the share R_s of all entries that it has visited by its end, if each was there long enough to be
//! judged: many replaced connections, a long interval between rewirings, and no early end. The smallest |w| are dropped, random or
//! steep zeros grown. R_s is in the record of every run that rewires, as `explored`.
//!
//! Cost: at each rewiring one ranking of the weights of each layer, and with `gradient` the gradient of the zeros.
//!
//! Deviations: the interval is a share of the run; the paper's 1500 steps are 0.015 of its 98,000.

use nnz_core::{Build, Decay, Gradient, Magnitude, Method, Period, Random, Result, Rewiring, GrowthCandidates, Setting, MethodInstance, options};
use serde::{Deserialize, Serialize};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "itop",
    "ITOP",
    "Rewires half of the connections at long intervals, so that many are tried and each for long.",
);

/// Growth criterion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Random zeros, as in SET.
    Random,
    /// Zeros of largest |∂L/∂w|, as in RigL.
    Gradient,
    /// Zeros of largest |∂L/∂w| among one random zero per connection.
    Sampled,
}

options! {
    #[flatten]
    /// Fraction, decay, interval and end.
    rewiring: Rewiring = Rewiring {
        fraction: 0.5,
        decay: Decay::Cosine,
        every: Period::Run(0.015),
        until: Period::Run(1.0),
        ..Rewiring::RIGL
    },
    /// Growth criterion: random, gradient or sampled.
    growth: Kind = Kind::Random,
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        Ok(match self.growth {
            Kind::Random => self.rewiring.drop_grow(setting, Magnitude, Random { std: 0.0 }),
            Kind::Gradient => self.rewiring.drop_grow(setting, Magnitude, Gradient(GrowthCandidates::Exact)),
            Kind::Sampled => self.rewiring.drop_grow(setting, Magnitude, Gradient(GrowthCandidates::Sampled)),
        }
        .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::{Explored, Plan, Shape, Target, Topology};

    /// Random growth without repeats visits 1 - Π (1 - grown / zeros) of the zeros.
    #[test]
    fn random_growth_visits_as_many_entries_as_its_births_say() {
        let setting = Setting { seed: 0, steps: 1000, steps_per_epoch: 100 };
        let rewiring = Rewiring { decay: Decay::Constant, ..Options::default().rewiring };
        let mut method = Options { rewiring, growth: Kind::Random }.build(&setting).unwrap().sparsifier;
        let shape = Shape::matrix("a", 100, 100);
        let mut topology = Topology::from_positions(100, 100, (0..500).map(|i| 20 * i));
        let (mut explored, mut unseen) = (Explored::default(), 9500.0);
        for step in (0..1000).filter(|&s| matches!(method.plan(s), Plan::Rewire(_))).collect::<Vec<_>>() {
            let values = vec![1.0; 500];
            let edits = method.rewire(step, &[Target::new(0, &shape, &topology, &values)]).unwrap();
            let [nnz_core::Edit::Rewire { topology: new, .. }] = &edits[..] else { panic!() };
            explored.add(&topology, new);
            topology = new.clone();
            unseen *= 1.0 - 250.0 / 9500.0;
        }
        assert_eq!(explored.births, 66 * 250);
        let share = explored.count() as f64 / 1e4;
        assert!((share - (1.0 - unseen / 1e4)).abs() < 0.02, "{share} against {}", 1.0 - unseen / 1e4);
    }
}
