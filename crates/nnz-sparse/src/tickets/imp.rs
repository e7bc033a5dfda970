//! Iterative magnitude pruning with rewinding: train to the end, remove the smallest weights, rewind the rest to their
//! values at step k, and repeat. With n rounds each keeps the same share of weights, d^(1/n); the share removed is as near
//! to `fraction` as a whole number of rounds allows. Step k is zero in the first paper and early in training in the later
//! one (Frankle et al. 2020, arXiv:1912.05671).
//!
//! Cost: n + 1 trainings, and the values of step k are kept.
//!
//! Deviations: none known. Every round trains as long as a whole run, so the method takes n + 1 times the steps; `each`
//! shortens them.

use nnz_core::{Command, Budget, Build, DistributionKind, Edit, CheckOnly, Magnitude, Method, OneShot, Period, Procedure, Prune, Result, Setting, Signals, Target, MethodInstance, above, options, Sparsifier};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "imp",
    "Iterative magnitude pruning",
    "Trains, prunes the smallest weights, rewinds the rest to an early step, and trains again, several times.",
)
.quick("each = \"0.25 run\"\nfraction = 0.6");

options! {
    #[flatten]
    /// Density and its distribution.
    budget: Budget = Budget::new(0.1, DistributionKind::Global),
    /// Approximate fraction of the weights that a round removes.
    fraction: f64 = 0.2 => above(0.0).below(1.0),
    /// The step k to which weights are rewound.
    rewind: Period = Period::Run(0.02),
    /// Length of every training.
    each: Period = Period::Run(1.0),
}


impl Options {
    /// n: number of rounds that remove at most `fraction` each.
    fn rounds(&self) -> u32 {
        ((self.budget.density.ln() / (1.0 - self.fraction).ln() - 1e-9).ceil() as u32).max(1)
    }
}

impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        let length = self.each.steps(setting).max(1);
        let rewind = self.rewind.steps(setting).min(length);
        let rounds = self.rounds();
        let mut prune = self.budget.prune(Magnitude, OneShot { at: 0, density: self.budget.density }, setting);
        prune.rounds = rounds;
        let procedure = Imp { prune, length, rewind, done: 0 };
        let idle = CheckOnly(self.budget.prune(Magnitude, OneShot { at: 0, density: 1.0 }, setting));
        Ok(MethodInstance { procedure: Some(Box::new(procedure)), ..MethodInstance::from(idle) })
    }
}

struct Imp {
    prune: Prune,
    length: u64,
    rewind: u64,
    /// Commands done.
    done: u32,
}

impl Procedure for Imp {
    fn steps(&self) -> u64 {
        self.length + u64::from(self.prune.rounds) * (self.length - self.rewind)
    }

    /// Train to k, snapshot, train to the end; then for each round prune, rewind, train from k to the end.
    fn next(&mut self, _: Option<f64>) -> Command {
        let train = |span| Command::Train { span, of: self.length, order: 0 };
        let act = match self.done {
            0 => train(0..self.rewind),
            1 => Command::Snapshot("early".into()),
            2 => train(self.rewind..self.length),
            n if (n - 3) / 3 >= self.prune.rounds => Command::Done,
            n => match n % 3 {
                0 => Command::Edit(Signals::NONE),
                1 => Command::Rewind("early".into()),
                _ => train(self.rewind..self.length),
            },
        };
        self.done += 1;
        act
    }

    fn edit(&mut self, targets: &[Target]) -> Result<Vec<Edit>> {
        self.prune.rewire(0, targets)
    }

    fn state(&self) -> serde_json::Value {
        serde_json::json!([self.done, self.prune.round])
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<()> {
        let number = |i: usize| state[i].as_u64().unwrap_or_default() as u32;
        (self.done, self.prune.round) = (number(0), number(1));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_of_a_fifth_alternate_with_rewinding() {
        let setting = Setting { seed: 0, steps: 100, steps_per_epoch: 10 };
        // 0.8³ = 0.512: three rounds of a fifth each.
        let budget = Budget::new(0.512, DistributionKind::Global);
        let options = Options { budget, rewind: Period::Steps(5), ..Options::default() };
        assert_eq!(options.rounds(), 3);
        let mut procedure = options.build(&setting).unwrap().procedure.unwrap();
        let train = |span| Command::Train { span, of: 100, order: 0 };
        let acts: Vec<Command> = std::iter::from_fn(|| Some(procedure.next(None)).filter(|a| *a != Command::Done)).collect();
        let round = [Command::Edit(Signals::NONE), Command::Rewind("early".into()), train(5..100)];
        let start = [train(0..5), Command::Snapshot("early".into()), train(5..100)];
        assert_eq!(acts, [&start[..], &round, &round, &round].concat());
        assert_eq!(procedure.steps(), 100 + 3 * 95);
    }
}
