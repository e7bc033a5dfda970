//! What a procedure asks for between the spans it trains.

use super::record::Snapshot;
use super::trainer::Trainer;
use crate::{Average, Error, Optimizer, Param, Real, Result, Tensor};
use nnz_core::Command;

impl<T: Real> Trainer<'_, T> {
    /// The steps of the training under way.
    pub(super) fn span(&self) -> std::ops::Range<u64> {
        match &self.position.act {
            Some(Command::Train { span, .. }) => span.clone(),
            _ => 0..self.plain_steps(),
        }
    }

    /// The step of the training under way.
    pub(super) fn local(&self) -> u64 {
        self.span().start + self.position.done
    }

    /// Its length, which the learning rate goes by.
    pub(super) fn length(&self) -> u64 {
        match self.position.act {
            Some(Command::Train { of, .. }) => of,
            _ => self.plain_steps(),
        }
    }

    /// What is added to its steps to get rows in an order of its own.
    pub(super) fn order(&self) -> u64 {
        match self.position.act {
            Some(Command::Train { order, .. }) => (order << 20) * self.per_epoch(),
            _ => 0,
        }
    }

    /// Carries out what the procedure wants before it trains on.
    pub(super) fn enter(&mut self) -> Result<()> {
        while self.work.procedure.is_some() && (self.position.act.is_none() || self.local() >= self.span().end) {
            let accuracy = self.position.accuracy.take();
            let Some(procedure) = &mut self.work.procedure else { return Ok(()) };
            let act = procedure.next(accuracy);
            self.position.procedure = procedure.state();
            match act {
                Command::Train { ref span, .. } => {
                    (self.position.done, self.position.act) = (0, (!span.is_empty()).then_some(act));
                }
                Command::Edit(signals) => {
                    let batch = self.loader.batch(self.order() + self.local())?;
                    let pass = self.signals(&batch, signals)?;
                    self.charge(batch.rows(), signals, &[]);
                    self.edit(&pass, true)?;
                }
                Command::Snapshot(name) => {
                    let (params, state) = (self.model.params.clone(), self.optimizer.state.clone());
                    self.snapshots.insert(name, Snapshot { params, state });
                }
                Command::Restore(name) => {
                    let kept = self.kept(&name)?.clone();
                    (self.model.params, self.optimizer.state) = (kept.params, kept.state);
                    self.average = self.average.as_ref().map(|_| Average::new(&self.model.params));
                    self.look();
                }
                Command::Rewind(name) => self.mean_of(&[name])?,
                Command::Average(names) => self.mean_of(&names)?,
                Command::Evaluate if self.validation.is_empty() => {
                    return Err(Error::Refused(
                        "this method measures on a validation split; set `validation` above 0".into(),
                    ));
                }
                Command::Evaluate => {
                    self.position.accuracy = Some(self.evaluate_generic(&self.data.train, &self.validation)?.accuracy);
                }
                Command::Done if self.position.step < self.steps() => {
                    let (at, of) = (self.position.step, self.steps());
                    return Err(Error::Refused(format!("the procedure ended at step {at} of {of}")));
                }
                Command::Done => return Ok(()),
            }
        }
        Ok(())
    }

    pub(super) fn kept(&self, name: &str) -> Result<&Snapshot<T>> {
        let missing = || Error::Refused(format!("the procedure goes back to `{name}`, which it never kept"));
        self.snapshots.get(name).ok_or_else(missing)
    }

    /// Puts the mean of kept values in the place of those of now. A connection that a snapshot did not have counts as zero.
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
