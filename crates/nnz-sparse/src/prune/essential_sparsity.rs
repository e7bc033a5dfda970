//! One-shot |w| on a pre-trained network, as far as it is free. s* is the largest sparsity of a grid at which the score
//! P of the network, pruned once and not trained again, stays within a tolerance of the dense one:
//!
//! s* = max { s : P(s') ≥ (1 - tolerance) P(0) for all s' ≤ s }.
//!
//! The grid is 0, step, 2 step, … for unstructured zeros, and M-1:M, M-2:M, … for N:M. P is accuracy on the validation split, or
//! the inverse of perplexity of a language model. The rest of a training run fine-tunes the survivors.
//!
//! Cost: one pruning of the dense network and one evaluation for every point of the grid that is tried.
//!
//! Deviations: the paper reads the drop off curves on the task after fine-tuning for some models and without for others; here
//! it is always without, and the search stops at the first point beyond the tolerance.

use nnz_core::subject::Show;
use nnz_core::{
    Budget, Build, CheckOnly, Command, DistributionKind, Edit, Error, Knee, Magnitude, Method, MethodInstance, OneShot,
    Pattern, Period, Procedure, Prune, Result, Setting, Shape, Signals, Sparsifier, Target, above, options,
};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "essential-sparsity",
    "Essential sparsity",
    "Removes the smallest weights of a pre-trained network at once, as many as cost no more than a tolerance.",
)
.quick("pattern = \"1:2\"");

options! {
    /// How zeros are shared between layers.
    distribution: DistributionKind = DistributionKind::Global,
    /// Pattern of the zeros; of N:M, only the M is used.
    pattern: Pattern = Pattern::Unstructured,
    /// Share of the dense score that may be lost.
    tolerance: f64 = 0.01 => above(0.0).below(1.0),
    /// Distance between the sparsities tried.
    step: f64 = 0.05 => above(0.0).below(1.0),
    /// When a training run searches; it fine-tunes afterwards.
    at: Period = Period::Run(1.0),
}

impl Options {
    /// Grid in order of falling density: densities, and the pattern at each.
    ///
    /// # Errors
    /// When the pattern has no grid.
    fn grid(&self) -> Result<Vec<(f64, Pattern)>> {
        match self.pattern {
            Pattern::Nm { m, flat, .. } => {
                Ok((1..m).rev().map(|n| (n as f64 / m as f64, Pattern::Nm { n, m, flat })).collect())
            }
            Pattern::Unstructured | Pattern::PerRow => {
                // The last point keeps at least half a step of the weights.
                let count = ((1.0 - self.step / 2.0) / self.step).floor() as usize;
                Ok((1..=count).map(|k| (1.0 - k as f64 * self.step, self.pattern)).collect())
            }
            other => Err(Error::Refused(format!(
                "essential-sparsity removes single weights; choose pattern unstructured, per-row or N:M, not {other}"
            ))),
        }
    }
}

impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        let budget = |(density, pattern)| Budget { pattern, ..Budget::new(density, self.distribution) };
        let budgets: Vec<Budget> = self.grid()?.into_iter().map(budget).collect();
        let prune = |budget: Budget| budget.prune(Magnitude, OneShot { at: 0, density: budget.density }, setting);
        let prunes = budgets.into_iter().map(prune).collect();
        let idle = CheckOnly(prune(budget((self.pattern.fixed_density().unwrap_or(1.0), self.pattern))));
        let search = Search {
            prunes,
            tolerance: self.tolerance,
            span: self.at.steps(setting).min(setting.steps)..setting.steps,
            stage: Stage::Train,
            knee: Knee::default(),
        };
        Ok(MethodInstance { procedure: Some(Box::new(search)), ..MethodInstance::from(idle) })
    }
}

/// The next stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Stage {
    Train,
    Keep,
    Measure,
    /// Judge a score: continue along the grid, or go back.
    Judge,
    Prune,
    Finetune,
    End,
}

/// Train, snapshot, evaluate; prune and evaluate until it costs too much; restore, prune as far as was free, train on.
struct Search {
    /// One per point of the grid.
    prunes: Vec<Prune>,
    tolerance: f64,
    /// Steps of fine-tuning.
    span: Range<u64>,
    stage: Stage,
    knee: Knee,
}

impl Search {
    /// What is pruned next.
    fn point(&mut self) -> &mut Prune {
        let point = match self.stage {
            Stage::Finetune => self.knee.within(self.tolerance),
            _ => self.knee.scores.len(),
        };
        &mut self.prunes[point - 1]
    }
}

impl Procedure for Search {
    fn steps(&self) -> u64 {
        self.span.end
    }

    fn next(&mut self, score: Option<f64>) -> Command {
        let train = |span| Command::Train { span, of: self.span.end, order: 0 };
        let told = score.filter(|_| self.stage == Stage::Judge);
        let within = told.is_some_and(|s| self.knee.tell(s, self.tolerance));
        let (act, then) = match self.stage {
            Stage::Train => (train(0..self.span.start), Stage::Keep),
            Stage::Keep => (Command::Snapshot("dense".into()), Stage::Measure),
            Stage::Measure => (Command::Evaluate, Stage::Judge),
            Stage::Judge if within && self.knee.scores.len() <= self.prunes.len() => {
                (Command::Edit(Signals::NONE), Stage::Measure)
            }
            Stage::Judge => (Command::Restore("dense".into()), Stage::Prune),
            Stage::Prune if self.knee.within(self.tolerance) > 0 => (Command::Edit(Signals::NONE), Stage::Finetune),
            Stage::Prune | Stage::Finetune => (train(self.span.clone()), Stage::End),
            Stage::End => (Command::Done, Stage::End),
        };
        self.stage = then;
        act
    }

    fn divide(&mut self, shapes: &[&Shape], show: &mut Show) -> Result<bool> {
        self.point().divide(0, shapes, show)
    }

    fn edit(&mut self, targets: &[Target]) -> Result<Vec<Edit>> {
        self.point().rewire(0, targets)
    }

    fn state(&self) -> serde_json::Value {
        serde_json::json!([self.stage, self.knee])
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<()> {
        let bad = |e: serde_json::Error| Error::Refused(format!("the state of essential-sparsity: {e}"));
        (self.stage, self.knee) = serde_json::from_value(state.clone()).map_err(bad)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::{Documented, Shape, Topology};

    fn search(options: &Options) -> Box<dyn Procedure> {
        let setting = Setting { seed: 0, steps: 100, steps_per_epoch: 10 };
        options.clone().build(&setting).unwrap().procedure.unwrap()
    }

    #[test]
    fn the_knee_is_the_last_point_before_the_first_that_costs_too_much() {
        let mut knee = Knee::default();
        let told: Vec<bool> = [0.9, 0.9, 0.892, 0.8909, 0.95].iter().map(|&s| knee.tell(s, 0.01)).collect();
        assert_eq!(told, [true, true, true, false, true]);
        assert_eq!(knee.within(0.01), 2);
    }

    #[test]
    fn grids_are_nested_and_end_before_nothing_is_left() {
        let densities = |o: &Options| o.grid().unwrap().iter().map(|g| g.0).collect::<Vec<_>>();
        let grid = densities(&Options { step: 0.25, ..Options::default() });
        assert_eq!(grid, [0.75, 0.5, 0.25]);
        assert_eq!(densities(&Options::default()).len(), 19);
        let nm = Options { pattern: Pattern::Nm { n: 2, m: 4, flat: false }, ..Options::default() };
        assert_eq!(densities(&nm), [0.75, 0.5, 0.25]);
        let rows = Options { pattern: Pattern::Row, ..Options::default() };
        assert!(rows.grid().is_err() && Options { step: 0.0, ..Options::default() }.check().is_err());
    }

    /// Scores that fall at the third point: the search goes back and prunes to the second.
    #[test]
    fn a_search_prunes_as_far_as_is_free_and_then_trains_on() {
        let mut search = search(&Options { step: 0.25, at: Period::Run(0.6), ..Options::default() });
        let (shape, full) = (Shape::matrix("a", 1, 8), Topology::full(1, 8));
        let values: Vec<f32> = (1..=8).map(|v| v as f32).collect();
        let left =
            |search: &mut dyn Procedure| match &search.edit(&[Target::new(0, &shape, &full, &values)]).unwrap()[0] {
                Edit::Rewire { topology, .. } => topology.nnz(),
                _ => panic!("nothing was pruned"),
            };
        let train = |span| Command::Train { span, of: 100, order: 0 };
        assert_eq!(search.next(None), train(0..60));
        assert_eq!(search.next(None), Command::Snapshot("dense".into()));
        for (score, wanted) in [(0.8, 6), (0.8, 4), (0.795, 2)] {
            assert_eq!(search.next(None), Command::Evaluate);
            assert_eq!(search.next(Some(score)), Command::Edit(Signals::NONE));
            assert_eq!(left(&mut *search), wanted);
        }
        assert_eq!(search.next(None), Command::Evaluate);
        assert_eq!(search.next(Some(0.7)), Command::Restore("dense".into()));
        assert_eq!(search.next(None), Command::Edit(Signals::NONE));
        assert_eq!(left(&mut *search), 4, "0.795 is within 1% of 0.8, 0.7 is not");
        let kept = search.state();
        assert_eq!(search.next(None), train(60..100));
        search.restore(&kept).unwrap();
        assert_eq!(search.next(None), train(60..100));
        assert_eq!(search.next(None), Command::Done);
    }
}
