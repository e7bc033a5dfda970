//! Sparse evolutionary training: at the end of every epoch the ζ of the positive and the ζ of the negative weights that
//! are closest to zero are replaced by as many random connections.
//!
//! Deviations: the topology is born with an exact number of connections instead of by coin flips with ε (n_in + n_out) /
//! (n_in n_out); a connection dropped in a step is not drawn again in the same step; rewiring ends at three quarters of
//! the run instead of before its last epoch, since our learning rate falls to zero (the paper's stays) and connections
//! born under a rate near zero cannot learn.

use nnz_core::{
    Budget, Build, Criterion, Decay, DistributionKind, DropGrow, Method, Paper, Period, Random, Result, Rng, Setting,
    Target, When, Work,
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "set",
    "SET",
    "rewire",
    "Every epoch, replaces the weights nearest to zero by random new connections.",
    Paper {
        number: Some(3),
        title: "Scalable Training of Artificial Neural Networks with Adaptive Sparse Connectivity inspired by Network \
                Science",
        authors: "Mocanu et al.",
        year: 2018,
        venue: "Nature Communications",
        arxiv: "1707.04780",
    },
);

/// Options.
#[derive(Debug, Serialize, Deserialize)]
pub struct Options {
    /// What exists at any time; rewiring keeps only pattern `unstructured`.
    #[serde(flatten)]
    pub budget: Budget,
    /// Replaced fraction ζ.
    pub zeta: f64,
    /// Time between two rewirings.
    pub every: Period,
    /// End of rewiring.
    pub until: Period,
    /// Standard deviation of the first value of a new connection.
    pub std: f32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            budget: Budget::new(0.05, DistributionKind::Erk),
            zeta: 0.3,
            every: Period::Epochs(1.0),
            until: Period::Run(0.75),
            std: 0.1,
        }
    }
}

impl Build for Options {
    fn build(self, setting: &Setting) -> Result<Work> {
        Ok(DropGrow {
            birth: self.budget.fixed(setting),
            drop: Box::new(NearestToZeroOfEachSign),
            grow: Box::new(Random { std: self.std }),
            when: When { every: self.every.steps(setting), until: self.until.steps(setting) },
            fraction: self.zeta,
            decay: Decay::Constant,
        }
        .into())
    }
}

/// Rank of |w| among the weights of the same sign, divided by their number: dropping the lowest ζ drops the ζ of the
/// positive and the ζ of the negative weights that are nearest to zero.
struct NearestToZeroOfEachSign;

impl Criterion for NearestToZeroOfEachSign {
    fn score(&self, target: &Target, _: &mut Rng) -> Vec<f32> {
        let mut score = vec![0.0; target.values.len()];
        for negative in [false, true] {
            // Bits of |w| order as it does; ties by position.
            let signed = target.values.iter().enumerate().filter(|(_, w)| (**w < 0.0) == negative);
            let mut same: Vec<u64> = signed.map(|(i, w)| u64::from(w.abs().to_bits()) << 32 | i as u64).collect();
            same.par_sort_unstable();
            let n = same.len() as f32;
            let ranked = same.into_iter().enumerate();
            ranked.for_each(|(rank, key)| score[key as u32 as usize] = (rank as f32 + 0.5) / n);
        }
        score
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::{Edit, Plan, Shape, Topology};

    #[test]
    fn replaces_zeta_of_each_sign() {
        let setting = Setting { seed: 3, steps: 100, steps_per_epoch: 10 };
        let options = Options { zeta: 0.5, ..Options::default() };
        let mut method = options.build(&setting).unwrap().sparsifier;
        assert_eq!(method.plan(5), Plan::Rest);
        assert!(matches!(method.plan(10), Plan::Rewire(_)));
        let shape = Shape::matrix("a", 4, 10);
        let topology = Topology::from_positions(4, 10, [0, 11, 22, 33, 34, 35, 36, 37]);
        // Positives are much larger than negatives; still half of each goes.
        let values = [5.0, 6.0, 7.0, 8.0, -0.1, -0.2, -0.3, -0.4];
        let target = Target::new(0, &shape, &topology, &values);
        let edits = method.rewire(10, &[target]).unwrap();
        let [Edit::Rewire { topology: new, born }] = &edits[..] else { panic!("{edits:?}") };
        assert_eq!(new.nnz(), 8);
        assert_eq!(born.len(), 4);
        for (position, survives) in [(0, false), (11, false), (22, true), (33, true), (34, false), (35, false)] {
            assert_eq!(new.find(position).is_some(), survives, "{position}");
        }
    }
}
