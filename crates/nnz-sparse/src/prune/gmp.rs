//! Prune a little, train a little: magnitude pruning along a cubic ramp.
//!
//! s(t) = s_f + (s_i - s_f) (1 - (t - t0) / (n Δt))³ (eq. 1), the smallest weights of each layer removed every Δt steps.
//!
//! Cost: one ranking of the weights every Δt steps.
//!
//! Deviations: pruned weights leave the storage and cannot come back (the paper keeps them masked, where they are not
//! updated either, so the weights are the same); `start` and `end` are given as fractions of the run.

use nnz_core::{Budget, Build, Cubic, DistributionKind, Error, Magnitude, Method, Period, Result, Setting, MethodInstance, above, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "gmp",
    "Gradual magnitude pruning",
    "Removes the smallest weights bit by bit while training, along a cubic ramp.",
);

options! {
    #[flatten]
    /// Budget at the end; its density is 1 - s_f.
    budget: Budget = Budget::new(0.1, DistributionKind::Uniform),
    /// Density at the start of the ramp, 1 - s_i.
    initial_density: f64 = 1.0 => above(0.0).at_most(1.0),
    /// Start of the ramp, t0.
    start: Period = Period::Run(0.1),
    /// End of the ramp, t0 + n Δt.
    end: Period = Period::Run(0.6),
    /// Time between two prunings, Δt.
    every: Period = Period::Steps(100),
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
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

    /// Every 100 steps is made for long runs: in a short one the ramp would be one pruning at its end.
    #[test]
    fn a_short_run_still_prunes_bit_by_bit() {
        let due = |options: &toml::Table, setting: &Setting| {
            let method = METHOD.build(options, setting).unwrap().sparsifier;
            (0..=setting.steps).filter(|&t| method.plan(t) != Plan::Rest).count()
        };
        let short = Setting { seed: 0, steps: 120, steps_per_epoch: 6 };
        let (defaults, none) = (METHOD.defaults(), toml::Table::new());
        assert_eq!(due(&defaults, &short), 2);
        let (fitted, note) = METHOD.fitted(&defaults, &none, &short).unwrap();
        assert_eq!((due(&fitted, &short), fitted["every"].as_str()), (11, Some("0.05 run")));
        assert!(note.unwrap().contains("every is 100 steps, which comes due 2 times in a run of 120 steps"));
        // What was given is taken, and what fits is left alone.
        let given = toml::Table::from_iter([("every".to_string(), "100 steps".into())]);
        assert_eq!(METHOD.fitted(&defaults, &given, &short).unwrap(), (defaults.clone(), None));
        let long = Setting { steps: 1260, ..short };
        assert_eq!(METHOD.fitted(&defaults, &none, &long).unwrap(), (defaults.clone(), None));
    }

    #[test]
    fn a_ramp_that_runs_backwards_is_refused() {
        let setting = Setting { seed: 0, steps: 1000, steps_per_epoch: 100 };
        let backwards = Options { start: Period::Run(0.8), ..Options::default() };
        assert!(backwards.build(&setting).err().unwrap().to_string().contains("before its start"));
    }
}
