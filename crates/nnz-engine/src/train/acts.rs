//! The commands of a procedure between the spans it trains.

use super::learner::{AtBatch, Learner};
use super::record::{Position, Snapshot};
use super::trainer::Trainer;
use crate::step::never_kept;
use crate::{Average, Error, LrSchedule, Model, Optimizer, Param, Real, Result, Tensor};
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

    /// The batch that belongs to a step of the current training. A procedure's trainings each have another order of the rows.
    pub(super) fn place(&self, local: u64) -> u64 {
        let Position { first, epochs, .. } = self.position;
        match self.position.act {
            Some(Command::Train { order, .. }) => (order << 20) * self.per_epoch() + local,
            _ => u64::from(epochs) * self.per_epoch() + (local - first),
        }
    }

    /// The epoch of the next step, from 0.
    pub(super) fn epoch(&self) -> u64 {
        u64::from(self.position.epochs) + (self.position.step - self.position.first) / self.per_epoch()
    }

    /// Epochs of a run of that many steps.
    pub(super) fn epochs(&self, steps: u64) -> u32 {
        self.position.epochs + (steps - self.position.first).div_ceil(self.per_epoch()) as u32
    }

    /// Goes on with the rows it was built on as with more of the same kind: the next step begins an epoch over them, and `epochs`
    /// follow. The method goes on with the schedule it was built with; what it does after the last step of a run waits, since
    /// more rows may come. Taking up the same rows k times for an epoch trains as one training of k epochs does.
    ///
    /// # Errors
    /// Where a procedure says what is trained, and when the learning rate depends on the length of the run.
    pub fn take_up(&mut self, epochs: u32) -> Result<()> {
        let refuse = |why: &str| Err(Error::Refused(why.into()));
        if self.position.act.is_some() || !self.position.procedure.is_null() {
            return refuse(
                "a method with a procedure decides itself how often the rows are seen, and takes up no others",
            );
        }
        if self.spec.schedule != LrSchedule::Constant || self.spec.warmup > 0.0 {
            return refuse("rows can be taken up one after the other only at a constant learning rate");
        }
        let position = &mut self.position;
        if position.step != position.done || position.step > u64::MAX >> 8 {
            return refuse("the state of this training is damaged: its steps do not agree");
        }
        position.epochs = position.history.last().map_or(0, |e| e.epoch);
        (position.first, position.open) = (position.step, true);
        (position.loss_sum, position.rows_seen) = (0.0, 0.0);
        self.spec.epochs = position.epochs.saturating_add(epochs);
        Ok(())
    }

    /// Starts from the values and connections of a network of the same shape instead of new ones.
    ///
    /// # Errors
    /// When its shapes are others, and where the method makes weights of other values.
    pub fn begin_with(&mut self, model: Model<T>) -> Result<()> {
        if self.leaves.is_some() || self.rule.is_some() {
            let why = "a method with a parametrization or an update rule of its own begins with new weights";
            return Err(Error::Refused(why.into()));
        }
        if model.spec.layers != self.model.spec.layers || model.spec.input != self.model.spec.input {
            let why = format!("a network {} does not fit one {}", model.spec.name, self.model.spec.name);
            return Err(Error::Refused(why));
        }
        self.optimizer = Optimizer::new(self.spec.optimizer, &model.params);
        self.average = self.spec.ema.map(|_| Average::new(&model.params));
        self.model = model;
        self.look();
        Ok(())
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
