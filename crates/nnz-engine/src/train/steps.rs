//! Steps: the method's plan, then forward, backward and update.

use super::record::{EpochRecord, Progress, Snapshot};
use super::trainer::{Observer, Trainer};
use crate::data::Batch;
use crate::leaves::{Formed, Leaves};
use crate::step::{Editing, Step, Views, after_step, candidates, locate_non_finite, rewire};
use crate::structure::Fresh;
use crate::{Average, Error, Mode, OptimizerSpec, Param, Real, Result, Tensor};
use nnz_core::{
    Dense, Edit, Editor, Explored, Moment, Plan, Rng, Shape, Signals, Subject, Target, TargetKind, subject,
};
use nnz_kernels::threads;
use nnz_tensor::fit::{At, Slot, clip_all};
use nnz_tensor::{Gradient, account};
use std::sync::mpsc::sync_channel;
use std::time::Instant;

/// Most connections for which those that ever existed are counted: 8 bytes each would be too much for larger networks.
const COUNTED: usize = 1 << 19;

/// Batches made ahead of the step that needs them.
const AHEAD: usize = 2;

impl<'a, T: Real> Trainer<'a, T> {
    pub(crate) fn run_generic(&mut self, observe: &mut Observer<'_, 'a, T>) -> Result<bool> {
        while self.position.step < self.steps() {
            self.enter()?;
            let (span, order, mut loader) = (self.span(), self.order(), self.loader.clone());
            let end = std::thread::scope(|scope| {
                if self.prefetch {
                    let (send, receive) = sync_channel(AHEAD);
                    self.ahead = Some(receive);
                    let steps = self.local()..span.end;
                    scope.spawn(move || {
                        threads::anywhere();
                        steps.map(|s| loader.batch(order + s)).try_for_each(|batch| send.send(batch))
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
        let epoch = self.position.step / self.per_epoch();
        let batch = match self.ahead.as_ref().and_then(|ahead| ahead.recv().ok()) {
            Some(batch) => batch?,
            None => self.loader.batch(self.order() + step)?,
        };
        let held = self.held_bytes() + batch.bytes();
        let (done, bytes) = account::most(|| self.train_on(&batch, step));
        done?;
        self.position.peak_bytes = self.position.peak_bytes.max(held + bytes);
        let ends = self.position.step == self.steps();
        let last = ends || self.position.step.is_multiple_of(self.per_epoch());
        if ends {
            self.enter()?;
        }
        let loss = self.position.loss_sum / self.position.rows_seen.max(1) as f64;
        self.seconds += started.elapsed().as_secs_f64();
        let finished = match last {
            true => Some((self.finish_epoch(epoch as u32 + 1, loss)?, std::mem::take(&mut self.seconds))),
            false => None,
        };
        Ok(Progress {
            steps: (self.position.step, self.steps()),
            epochs: (epoch as u32 + 1, self.steps().div_ceil(self.per_epoch()) as u32),
            loss,
            accuracy: self.position.history.last().map(|e| e.accuracy),
            density: self.model.density(),
            finished,
        })
    }

    /// One step on a batch, and what the method does after the last one of a span.
    fn train_on(&mut self, batch: &Batch<T>, step: u64) -> Result<()> {
        self.freeze(step)?;
        let loss = match self.work.sparsifier.plan(step) {
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
        self.position.step += 1;
        self.position.done += 1;
        self.position.loss_sum += loss * batch.rows() as f64;
        self.position.rows_seen += batch.rows();
        if self.local() == self.span().end {
            // A schedule may end exactly at the end of training: one last plan, on the last batch.
            self.freeze(self.local())?;
            if let Plan::Rewire(_) = self.work.sparsifier.plan(self.local()) {
                self.rounds(batch, self.local())?;
            }
        }
        Ok(())
    }

    /// Bytes of all that lives between two steps. Afterwards nothing of it shares its values, as nothing does that was read from
    /// a checkpoint.
    fn held_bytes(&mut self) -> usize {
        self.leaves.iter_mut().for_each(Leaves::unshare);
        let trained = self.model.params.iter_mut().filter(|p| p.role.trained()).map(|p| &mut p.value);
        let state = self.optimizer.state.iter_mut().flatten();
        let averages = self.average.iter_mut().flat_map(|a| a.values_mut());
        trained.chain(state).chain(averages).for_each(|t| _ = t.data_mut());
        let of = |all: &[Tensor<T>]| all.iter().map(|t| size_of_val(t.data())).sum::<usize>();
        let kept = |s: &Snapshot<T>| {
            s.params.iter().map(Param::bytes).sum::<usize>() + s.state.iter().map(|s| of(s)).sum::<usize>()
        };
        let averages = self.average.as_ref().map_or(0, |a| of(a.values()));
        let leaves = self.leaves.as_ref().map_or(0, Leaves::bytes);
        let snapshots = self.snapshots.values().map(kept).sum::<usize>();
        self.model.bytes() + self.optimizer.bytes() + averages + leaves + snapshots
    }

    /// Plan and edits of one step, in as many rounds as the method has; returns the loss of the first, if measured.
    pub(super) fn rounds(&mut self, batch: &Batch<T>, step: u64) -> Result<Option<f64>> {
        // The method is out of the training while it acts on it.
        let mut sparsifier = std::mem::replace(&mut self.work.sparsifier, Box::new(Dense));
        let mut subject = AtBatch { trainer: self, batch: Some(batch), loss: None };
        let done = subject::rewire(&mut *sparsifier, step, &mut subject);
        let loss = subject.loss;
        self.work.sparsifier = sparsifier;
        done.map(|_| loss)
    }

    /// Measures what a method asked for, on as many rows as it asked for.
    pub(super) fn signals(&self, batch: &Batch<T>, signals: Signals, by: &dyn Editor) -> Result<Step<T>> {
        if !signals.any() {
            return Ok(Step::empty());
        }
        let kind = by.kind();
        let zeros = candidates(&self.model, signals, kind, |index, topology| by.candidates(index, topology));
        if signals.rows <= batch.rows() || !signals.data() {
            return self.forward_backward(Some(batch).filter(|_| signals.data()), signals, kind, zeros, &[]);
        }
        let (all, wanted) = (self.loader.rows(), signals.rows.min(self.loader.rows().len()));
        let drawn = Rng::stream(self.seed, "measure", 0, self.position.step).distinct(all.len() as u64, wanted);
        let rows: Vec<u32> = drawn.into_iter().map(|i| all[i as usize]).collect();
        let batch = Batch::of(self.data, &self.data.train, &rows, &self.frame)?;
        self.forward_backward(Some(&batch), signals, kind, zeros, &[])
    }

    /// Turns leaves into plain weights when their time is over.
    pub(super) fn freeze(&mut self, step: u64) -> Result<()> {
        let Some(parametrization) = self.work.parametrization.as_ref().filter(|p| step >= p.until()) else {
            return Ok(());
        };
        let Some(leaves) = self.leaves.take() else { return Ok(()) };
        let mut edits = leaves.freeze(&**parametrization, step, &self.model);
        for i in leaves.places() {
            let shape = &self.model.params[i].shape;
            self.optimizer.begin(i, &[shape.rows, shape.cols]);
        }
        let fresh = Fresh { seed: self.seed, step: self.position.step };
        let how = Editing { kind: TargetKind::Weights, layerwise: false, storage: self.spec.policy_ref(), fresh };
        let (optimizer, average) = (Some(&mut self.optimizer), self.average.as_mut());
        let moved =
            rewire(&mut self.model, optimizer, average, &mut |_| Ok(std::mem::take(&mut edits)), &Step::empty(), how)?;
        self.position.since = self.position.step;
        self.position.grown += moved.grown;
        self.position.pruned += moved.pruned;
        self.look();
        Ok(())
    }

    pub(super) fn mode(&self) -> Mode {
        Mode::Train { seed: self.seed, step: self.position.step }
    }

    /// Counts the multiply-adds of measurements on a batch.
    pub(super) fn charge(&mut self, rows: usize, signals: Signals, formed: &[Option<Formed<T>>]) {
        if !signals.data() {
            return;
        }
        // Factors may change in every step.
        self.cost = self.cost.filter(|_| formed.is_empty());
        let [exist, all] = *self.cost.get_or_insert_with(|| {
            let mut each = self.model.costs();
            Leaves::costs(formed, &self.model, &mut each);
            let part = |(p, cost): (&Param<T>, &f64)| cost * p.shape.len() as f64 / p.nnz().max(1) as f64;
            [each.iter().sum(), self.model.params.iter().zip(&each).map(part).sum()]
        });
        // Forward and two backward products; the gradient of zeros is that of all entries; a Hessian-vector product is two
        // gradients more.
        let zeros = if signals.zeros > 0.0 { all - exist } else { 0.0 };
        let hessian_gradient = if signals.hessian_gradient.is_some() { 6.0 * exist } else { 0.0 };
        let rows = match signals.rows > rows {
            true => signals.rows.min(self.loader.rows().len()),
            false => rows,
        };
        self.position.multiply_adds += rows as f64 * (3.0 * exist + zeros + hessian_gradient);
    }

    /// A pass with finite loss and gradients, or an error with the place where they stopped being finite.
    pub(super) fn forward_backward(
        &self,
        batch: Option<&Batch<T>>,
        signals: Signals,
        kind: TargetKind,
        zeros: Vec<Vec<u64>>,
        formed: &[Option<Formed<T>>],
    ) -> Result<Step<T>> {
        let (smoothing, mode) = (self.spec.smoothing, self.mode());
        let mut pass = Step::forward_backward(&self.model, batch, smoothing, signals, zeros, mode, kind, formed)?;
        if signals.momentum {
            let kept = |i: usize| self.optimizer.direction(i).or_else(|| pass.gradients.get(i).cloned());
            pass.momentum = (0..self.model.params.len()).filter_map(kept).collect();
        }
        match batch {
            Some(batch) if !pass.finite() => {
                let layer = locate_non_finite(&self.model, batch, smoothing, mode, formed)?;
                Err(Error::NonFinite { loss: pass.loss, step: self.position.step, layer })
            }
            _ => Ok(pass),
        }
    }

    /// A pass with the weights of a phase, where they are made of leaves.
    fn pass(&mut self, batch: &Batch<T>, signals: Signals, phase: u32) -> Result<Step<T>> {
        let at = Moment { step: self.local(), phase };
        let formed = match (&self.leaves, &self.work.parametrization) {
            (Some(leaves), Some(p)) => leaves.form(&**p, at, &mut self.model),
            _ => Vec::new(),
        };
        let sparsifier = &self.work.sparsifier;
        let kind = sparsifier.kind();
        let zeros = candidates(&self.model, signals, kind, |i, topology| sparsifier.candidates(at.step, i, topology));
        let pass = self.forward_backward(Some(batch), signals, kind, zeros, &formed)?;
        self.charge(batch.rows(), Signals { gradient: true, rows: 0, ..signals }, &formed);
        Ok(pass)
    }

    fn clip(&self, pass: &mut Step<T>) {
        if let Some(limit) = self.spec.clip {
            clip_all(pass.gradients.iter_mut().chain(pass.leaves.iter_mut().flatten()), limit);
        }
    }

    /// One update, and the loss before it.
    pub(super) fn update(&mut self, batch: &Batch<T>, signals: Signals) -> Result<f64> {
        let step = self.local();
        let mut pass = self.pass(batch, signals, 0)?;
        if signals.any() {
            let views = Views::new(&self.model, &pass, self.work.sparsifier.kind());
            self.work.sparsifier.observe(step, &views.targets());
        }
        self.clip(&mut pass);
        let factor = self.spec.schedule.factor(step, self.length(), self.spec.warmup);
        let lr = self.spec.optimizer.lr() * factor;
        let count = self.position.step - self.position.since + 1;
        if let OptimizerSpec::Lbfgs { .. } = self.spec.optimizer {
            self.search(batch, &pass, At { lr, count })?;
        } else {
            self.move_leaves(batch, &pass.leaves, lr, count)?;
            let rule = self.work.rule.as_deref();
            for (i, (param, gradient)) in self.model.params.iter_mut().zip(&pass.gradients).enumerate() {
                match rule.filter(|_| param.prunable) {
                    _ if self.leaves.as_ref().is_some_and(|l| l.has(i)) => {}
                    Some(rule) => self.optimizer.update_by(rule, i, param, gradient, lr, count),
                    None => self.optimizer.update(i, param, gradient, lr, count),
                }
            }
        }
        if self.work.sparsifier.proximal() {
            after_step(&mut self.model, &mut *self.work.sparsifier, step, lr);
        }
        self.model.absorb(&pass.statistics);
        if let (Some(average), Some(decay)) = (&mut self.average, self.spec.ema) {
            let early = (1.0 + step as f64) / (10.0 + step as f64);
            average.update(&self.model.params, decay.min(early));
        }
        Ok(pass.loss)
    }

    /// One step of the leaves: by the optimizer, or by their own in phases, each with a pass at what the last one left.
    fn move_leaves(&mut self, batch: &Batch<T>, first: &[Vec<Tensor<T>>], lr: f64, count: u64) -> Result<()> {
        let Some(phases) = self.work.parametrization.as_ref().map(|p| p.phases()) else { return Ok(()) };
        for phase in 0..phases.max(1) {
            let mut later = Step::empty();
            if phase > 0 {
                later = self.pass(batch, Signals::NONE, phase)?;
                self.clip(&mut later);
            }
            let gradients = if phase == 0 { first } else { &later.leaves };
            let (Some(leaves), Some(p)) = (&mut self.leaves, &self.work.parametrization) else { return Ok(()) };
            match phases {
                0 => leaves.update(&**p, gradients, lr, count),
                _ => leaves.own_step(&**p, phase, gradients, lr),
            }
        }
        let next = self.local() + 1;
        if let (Some(leaves), Some(p)) = (&self.leaves, &self.work.parametrization) {
            leaves.show(&**p, next, &mut self.model);
        }
        Ok(())
    }

    /// Makes one step of a rule that searches, on the loss of this batch and from the pass at its start.
    fn search(&mut self, batch: &Batch<T>, pass: &Step<T>, at: At) -> Result<()> {
        let (smoothing, mode) = (self.spec.smoothing, self.mode());
        let trained: Vec<usize> =
            (0..self.model.params.len()).filter(|&i| self.model.params[i].role.trained()).collect();
        let gradients: Vec<_> = trained.iter().map(|&i| Gradient::Dense(pass.gradients[i].clone())).collect();
        let mut values: Vec<Tensor<T>> = trained.iter().map(|&i| self.model.params[i].value.clone()).collect();
        let model = &mut self.model;
        let decays: Vec<bool> = trained.iter().map(|&i| model.params[i].weight()).collect();
        let states = self.optimizer.state.iter_mut().enumerate().filter(|(i, _)| trained.binary_search(i).is_ok());
        let slots = values.iter_mut().zip(states).zip(decays);
        let slots = slots.map(|((value, (_, state)), decays)| Slot { value, state, decays }).collect();
        let mut failure = None;
        let mut loss = |x: &[Tensor<T>]| {
            trained.iter().zip(x).for_each(|(&i, x)| model.params[i].value = x.clone());
            match Step::run(model, batch, smoothing, Signals::NONE, Vec::new(), mode, &[]) {
                Ok(pass) => Ok((pass.loss, trained.iter().map(|&i| pass.gradients[i].clone()).collect())),
                Err(e) => {
                    let said = nnz_tensor::Error::Refused(e.to_string());
                    failure = Some(e);
                    Err(said)
                }
            }
        };
        let done = self.optimizer.spec.rule().step(slots, pass.loss, &gradients, at, &mut loss);
        if let Some(e) = failure {
            return Err(e);
        }
        done?;
        trained.iter().zip(values).for_each(|(&i, value)| self.model.params[i].value = value);
        Ok(())
    }

    /// Asks a method for its edits and applies them.
    fn edit(&mut self, pass: &Step<T>, by: &mut dyn Editor) -> Result<()> {
        if self.work.rule.is_some() {
            return Err(Error::Refused("weights that an update rule of the method's own moves are not rewired".into()));
        }
        let (kind, layerwise) = (by.kind(), by.layerwise());
        let (explored, counted) = (&mut self.explored, kind == TargetKind::Weights && self.model.nonzeros() <= COUNTED);
        let mut ask = |targets: &[Target]| -> nnz_core::Result<Vec<Edit>> {
            let edits = by.edit(targets)?;
            for (t, edit) in targets.iter().zip(&edits).filter(|_| counted) {
                if let Edit::Rewire { topology, .. } = edit {
                    explored.resize_with(explored.len().max(t.index + 1), Explored::default);
                    explored[t.index].add(t.topology, topology);
                }
            }
            Ok(edits)
        };
        let (optimizer, average) = (Some(&mut self.optimizer), self.average.as_mut());
        let fresh = Fresh { seed: self.seed, step: self.position.step };
        let how = Editing { kind, layerwise, storage: self.spec.policy_ref(), fresh };
        let moved = rewire(&mut self.model, optimizer, average, &mut ask, pass, how)?;
        self.position.grown += moved.grown;
        self.position.pruned += moved.pruned;
        self.look();
        Ok(())
    }

    /// Entries that existed at any time / all prunable entries.
    pub(super) fn share_explored(&self) -> Option<f64> {
        let rewired = self.explored.iter().any(|e| e.births > 0);
        let places = self.model.places(TargetKind::Weights);
        if !rewired || self.explored.len() > places.len() {
            return None;
        }
        let prunable: Vec<&Param<T>> = places.into_iter().map(|i| &self.model.params[i]).collect();
        let ever = |(k, p): (usize, &&Param<T>)| match self.explored.get(k) {
            Some(e) if e.births > 0 => e.count(),
            _ => p.nnz(),
        };
        let all: usize = prunable.iter().map(|p| p.shape.len()).sum();
        Some(prunable.iter().enumerate().map(ever).sum::<usize>() as f64 / all.max(1) as f64)
    }

    pub(super) fn look(&mut self) {
        self.cost = None;
        if let Some(history) = &mut self.history {
            history.look(&self.model.params, self.position.step);
        }
    }

    pub(super) fn finish_epoch(&mut self, epoch: u32, loss: f64) -> Result<EpochRecord> {
        let accuracy = self.evaluate_generic(&self.data.train, &self.validation)?.accuracy;
        let explored = self.share_explored();
        let p = &mut self.position;
        let density = self.model.density();
        let (step, grown, pruned, multiply_adds) = (p.step, p.grown, p.pruned, p.multiply_adds);
        let record = EpochRecord { epoch, step, loss, accuracy, density, grown, pruned, explored, multiply_adds };
        (p.loss_sum, p.rows_seen, p.grown, p.pruned) = (0.0, 0, 0, 0);
        p.history.push(record.clone());
        Ok(record)
    }
}

/// A training at one batch, which is what methods measure on.
pub(super) struct AtBatch<'t, 'a, T> {
    pub trainer: &'t mut Trainer<'a, T>,
    /// That of the step that is next, where none is given.
    pub batch: Option<&'t Batch<T>>,
    /// The loss of the first measurement.
    pub loss: Option<f64>,
}

impl<T: Real> Subject for AtBatch<'_, '_, T> {
    type Error = Error;

    fn shapes(&self, kind: TargetKind) -> Vec<Shape> {
        self.trainer.model.targets(kind)
    }

    fn edit(&mut self, signals: Signals, by: &mut dyn Editor) -> Result<()> {
        let next;
        let batch = match self.batch {
            Some(batch) => batch,
            None => {
                next = self.trainer.loader.batch(self.trainer.order() + self.trainer.local())?;
                &next
            }
        };
        let pass = self.trainer.signals(batch, signals, by)?;
        self.trainer.charge(batch.rows(), signals, &[]);
        self.trainer.edit(&pass, by)?;
        self.loss = self.loss.or(Some(pass.loss).filter(|l| l.is_finite()));
        Ok(())
    }

    /// Accuracy on the validation split.
    fn evaluate(&mut self) -> Result<f64> {
        let trainer = &self.trainer;
        if trainer.validation.is_empty() {
            return Err(Error::Refused("this method measures on a validation split; set `validation` above 0".into()));
        }
        Ok(trainer.evaluate_generic(&trainer.data.train, &trainer.validation)?.accuracy)
    }

    fn snapshot(&mut self, name: String) -> Result<()> {
        let (params, state) = (self.trainer.model.params.clone(), self.trainer.optimizer.state.clone());
        self.trainer.snapshots.insert(name, Snapshot { params, state });
        Ok(())
    }

    fn restore(&mut self, name: &str) -> Result<()> {
        let kept = self.trainer.kept(name)?.clone();
        (self.trainer.model.params, self.trainer.optimizer.state) = (kept.params, kept.state);
        self.trainer.average = self.trainer.average.as_ref().map(|_| Average::new(&self.trainer.model.params));
        self.trainer.look();
        Ok(())
    }

    fn average(&mut self, names: &[String]) -> Result<()> {
        self.trainer.mean_of(names)
    }
}
