//! Prune a little, train a little: magnitude pruning along a cubic ramp.
//!
//! s(t) = s_f + (s_i - s_f) (1 - (t - t0) / (n Δt))³ (eq. 1), the smallest weights of each layer removed every Δt steps.
//!
//! Deviations: pruned weights leave the storage and cannot come back (the paper keeps them masked, where they are not
//! updated either, so the weights are the same); `start` and `end` are given as spans of the run.

use nnz_core::{
    Budget, Build, Cubic, DistributionKind, Error, Magnitude, Method, Paper, Period, Result, Setting, Work,
};
use serde::{Deserialize, Serialize};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "gmp",
    "Gradual magnitude pruning",
    "prune",
    "Removes the smallest weights bit by bit while training, along a cubic ramp.",
    Paper {
        number: Some(115),
        title: "To prune, or not to prune: exploring the efficacy of pruning for model compression",
        authors: "Zhu & Gupta",
        year: 2017,
        venue: "ICLR 2018 workshop",
        arxiv: "1710.01878",
    },
);

/// Options.
#[derive(Debug, Serialize, Deserialize)]
pub struct Options {
    /// What is left at the end; its density is 1 - s_f.
    #[serde(flatten)]
    pub budget: Budget,
    /// Density at the start of the ramp, 1 - s_i.
    pub initial_density: f64,
    /// Start of the ramp, t0.
    pub start: Period,
    /// End of the ramp, t0 + n Δt.
    pub end: Period,
    /// Time between two prunings, Δt.
    pub every: Period,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            budget: Budget::new(0.1, DistributionKind::Uniform),
            initial_density: 1.0,
            start: Period::Run(0.1),
            end: Period::Run(0.6),
            every: Period::Steps(100),
        }
    }
}

impl Build for Options {
    fn build(self, setting: &Setting) -> Result<Work> {
        let Budget { density, pattern, .. } = self.budget;
        let (start, end) = (self.start.steps(setting), self.end.steps(setting));
        if end < start {
            return Err(Error::Refused(format!("gmp: its end ({}) lies before its start ({})", self.end, self.start)));
        }
        if !(self.initial_density >= density && self.initial_density <= 1.0) {
            return Err(Error::Range {
                name: "initial_density",
                range: format!("between the density {density} and 1"),
                got: self.initial_density,
            });
        }
        if let (Some(_), true) = (pattern.fixed_density(), end > start) {
            return Err(Error::Refused(format!(
                "pattern {pattern} has one density and cannot be reached gradually; prune with it at once (method \
                 magnitude), or set start and end to the same time"
            )));
        }
        let schedule = Cubic { start, end, every: self.every.steps(setting), initial: self.initial_density, density };
        Ok(self.budget.prune(Magnitude, schedule, setting).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::Plan;

    #[test]
    fn prunes_on_the_ramp_only_and_ends_at_its_density() {
        let setting = Setting { seed: 0, steps: 1000, steps_per_epoch: 100 };
        let method = Options::default().build(&setting).unwrap().sparsifier;
        let due: Vec<u64> = (0..=1000).filter(|&t| method.plan(t) != Plan::Rest).collect();
        assert_eq!(due, [100, 200, 300, 400, 500, 600]);
    }

    #[test]
    fn a_ramp_that_runs_backwards_is_refused() {
        let setting = Setting { seed: 0, steps: 1000, steps_per_epoch: 100 };
        let backwards = Options { start: Period::Run(0.8), ..Options::default() };
        assert!(backwards.build(&setting).err().unwrap().to_string().contains("before its start"));
    }
}
