//! The commands of a procedure between the spans it trains.

use super::learner::{AtBatch, Learner};
use super::record::Snapshot;
use super::trainer::Trainer;
use crate::step::never_kept;
use crate::{Average, Error, Optimizer, Param, Real, Result, Tensor};
use nnz_core::{Command, subject};

impl<T: Real> Trainer<'_, T> {
    /// Carries out the procedure's commands up to its next training.
    pub(super) fn enter(&mut self) -> Result<()> {
        let Self { sparsifier, procedure, learner, .. } = self;
        let Some(procedure) = procedure else { return Ok(()) };
        while learner.position.act.is_none() || learner.local() >= learner.span().end {
            let command = procedure.next(learner.position.accuracy.take());
            learner.position.procedure = procedure.state();
            learner.position.accuracy = match command {
                Command::Done => {
                    let (at, of) = (learner.position.step, procedure.steps());
                    return match at < of {
                        true => Err(Error::Refused(format!("the procedure ended at step {at} of {of}"))),
                        false => Ok(()),
                    };
                }
                Command::Train { ref span, .. } => {
                    (learner.position.done, learner.position.act) = (0, (!span.is_empty()).then_some(command));
                    None
                }
                command => {
                    let mut subject = AtBatch { learner, batch: None, loss: None };
                    subject::perform(command, &mut **procedure, sparsifier.kind(), &mut subject)?
                }
            };
        }
        Ok(())
    }
}

impl<T: Real> Learner<'_, T> {
    /// Steps of the current training.
    pub(super) fn span(&self) -> std::ops::Range<u64> {
        match &self.position.act {
            Some(Command::Train { span, .. }) => span.clone(),
            _ => 0..self.plain_steps(),
        }
    }

    /// Step within the current training.
    pub(super) fn local(&self) -> u64 {
        self.span().start + self.position.done
    }

    /// Length of the current training, for the learning rate.
    pub(super) fn length(&self) -> u64 {
        match self.position.act {
            Some(Command::Train { of, .. }) => of,
            _ => self.plain_steps(),
        }
    }

    /// Offset of its steps that gives the rows another order.
    pub(super) fn order(&self) -> u64 {
        match self.position.act {
            Some(Command::Train { order, .. }) => (order << 20) * self.per_epoch(),
            _ => 0,
        }
    }

    pub(super) fn kept(&self, name: &str) -> Result<&Snapshot<T>> {
        self.snapshots.get(name).ok_or_else(|| never_kept(name))
    }

    /// Replaces the current values by the mean of snapshots. A connection that a snapshot did not have counts as zero.
    pub(super) fn mean_of(&mut self, names: &[String]) -> Result<()> {
        let kept = names.iter().map(|n| self.kept(n)).collect::<Result<Vec<_>>>()?;
        let share = 1.0 / kept.len().max(1) as f64;
        let mean = |(i, p): (usize, &Param<T>)| {
            let rows = p.by_rows();
            let mut sum = vec![0.0; rows.topology.nnz()];
            for snapshot in &kept {
                let old = &snapshot.params[i];
                let from = old.by_rows();
                let values = from.of(&old.value);
                let carried = from.topology.carry(&rows.topology);
                sum.iter_mut().zip(carried).for_each(|(s, c)| *s += c.map_or(0.0, |c| values[c].f64()));
            }
            let mut value = p.value.clone();
            rows.set(&mut value, &sum.into_iter().map(|s| T::of(s * share)).collect::<Vec<_>>());
            value
        };
        let values: Vec<Tensor<T>> = self.model.params.iter().enumerate().map(mean).collect();
        self.model.params.iter_mut().zip(values).for_each(|(p, v)| p.value = v);
        self.optimizer = Optimizer::new(self.spec.optimizer, &self.model.params);
        self.position.since = self.position.step;
        self.average = self.average.as_ref().map(|_| Average::new(&self.model.params));
        Ok(())
    }
}
