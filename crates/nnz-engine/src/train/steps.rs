//! The loop: batches, the method's plan, then forward, backward and update.

use super::learner::AtBatch;
use super::record::Progress;
use super::trainer::{Observer, Trainer};
use crate::data::Batch;
use crate::step::{Views, after_step};
use crate::{Real, Result};
use nnz_core::{Plan, Signals, subject};
use nnz_kernels::threads;
use nnz_tensor::account;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

/// Batches made ahead of the step that needs them.
const AHEAD: usize = 2;

impl<'a, T: Real> Trainer<'a, T> {
    pub(crate) fn run_generic(&mut self, observe: &mut Observer<'_, 'a, T>) -> Result<bool> {
        while self.position.step < self.steps() {
            self.enter()?;
            let (span, mut loader) = (self.span(), self.learner.loader.clone());
            let end = std::thread::scope(|scope| {
                if self.prefetch {
                    let (send, receive) = sync_channel(AHEAD);
                    self.ahead = Some(receive);
                    let first = self.place(self.local());
                    let steps = first..first + (span.end - self.local());
                    scope.spawn(move || {
                        threads::anywhere();
                        steps.map(|s| loader.batch(s)).try_for_each(|batch| send.send(batch))
                    });
                }
                let end = self.drive(self.position.step + span.end - self.local(), observe);
                // The thread ends when its receiver is gone.
                self.ahead = None;
                end
            });
            if !end? {
                return Ok(self.position.step == self.steps());
            }
        }
        Ok(true)
    }

    /// Trains up to a step; returns whether `observe` always said to go on.
    fn drive(&mut self, stop: u64, observe: &mut Observer<'_, 'a, T>) -> Result<bool> {
        while self.position.step < stop {
            let progress = self.advance_generic()?;
            if !observe(self, &progress) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(crate) fn advance_generic(&mut self) -> Result<Progress> {
        let started = Instant::now();
        self.enter()?;
        let step = self.local();
        let epoch = self.epoch();
        let batch = match self.ahead.as_ref().and_then(|ahead| ahead.recv().ok()) {
            Some(batch) => batch?,
            None => {
                let at = self.place(step);
                self.learner.loader.batch(at)?
            }
        };
        let held = self.learner.held_bytes() + batch.bytes();
        let (done, bytes) = account::most(|| self.train_on(&batch, step));
        done?;
        self.position.peak_bytes = self.position.peak_bytes.max(held + bytes);
        let ends = self.position.step == self.steps();
        let last = ends || (self.position.step - self.position.first).is_multiple_of(self.per_epoch());
        if ends {
            self.enter()?;
        }
        let loss = self.position.loss_sum / self.position.rows_seen.max(f64::MIN_POSITIVE);
        self.seconds += started.elapsed().as_secs_f64();
        let finished = match last {
            true => Some((self.finish_epoch(epoch as u32 + 1, loss)?, std::mem::take(&mut self.seconds))),
            false => None,
        };
        Ok(Progress {
            steps: (self.position.step, self.steps()),
            epochs: (epoch as u32 + 1, self.epochs(self.steps())),
            loss,
            accuracy: self.position.history.last().map(|e| e.accuracy),
            density: self.model.density(),
            finished,
        })
    }

    /// One step on a batch, and what the method does after the last one of a span.
    fn train_on(&mut self, batch: &Batch<T>, step: u64) -> Result<()> {
        self.learner.freeze(step)?;
        let loss = match self.sparsifier.plan(step) {
            Plan::Rewire(signals) => {
                let loss = self.rounds(batch, step)?;
                match signals.data() {
                    true => loss.unwrap_or(0.0),
                    false => self.update(batch, Signals::NONE)?,
                }
            }
            Plan::Observe(signals) => self.update(batch, signals)?,
            Plan::Rest => self.update(batch, Signals::NONE)?,
        };
        let position = &mut self.learner.position;
        position.step += 1;
        position.done += 1;
        position.loss_sum += loss * batch.mass();
        position.rows_seen += batch.mass();
        if self.local() == self.span().end && !self.position.open {
            // A schedule may end exactly at the end of training: one last plan, on the last batch.
            self.learner.freeze(self.local())?;
            if let Plan::Rewire(_) = self.sparsifier.plan(self.local()) {
                self.rounds(batch, self.local())?;
            }
        }
        Ok(())
    }

    /// Plan and edits of one step, in as many rounds as the method has; returns the loss of the first, if measured.
    fn rounds(&mut self, batch: &Batch<T>, step: u64) -> Result<Option<f64>> {
        let mut subject = AtBatch { learner: &mut self.learner, batch: Some(batch), loss: None };
        subject::rewire(&mut *self.sparsifier, step, &mut subject)?;
        Ok(subject.loss)
    }

    /// One update, and the loss before it.
    fn update(&mut self, batch: &Batch<T>, signals: Signals) -> Result<f64> {
        let Self { sparsifier, learner, .. } = self;
        let step = learner.local();
        let mut pass = learner.pass(&**sparsifier, batch, signals, 0)?;
        if signals.any() {
            let views = Views::new(&learner.model, &pass, sparsifier.kind());
            sparsifier.observe(step, &views.targets());
        }
        let lr = learner.learn(&**sparsifier, batch, &mut pass)?;
        if sparsifier.proximal() {
            after_step(&mut learner.model, &mut **sparsifier, step, lr);
        }
        learner.settle(&pass, step);
        Ok(pass.loss)
    }
}
