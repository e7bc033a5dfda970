//! A network in training, and the edits that a method makes of it.

use super::record::{EpochRecord, Position, Snapshot};
use super::spec::{Dtype, TrainSpec};
use crate::data::{Batch, Dataset, Loader, Preprocessing, Split};
use crate::evaluate::{Evaluation, evaluate_formed, evaluate_generic};
use crate::leaves::{Formed, Leaves};
use crate::step::{Editing, Step, candidates, locate_non_finite, rewire};
use crate::structure::Fresh;
use crate::{
    Average, Error, History, Mode, Model, Optimizer, OptimizerSpec, Param, Real, Result, StoragePolicy, Tensor,
};
use nnz_core::{
    Editor, Explored, Moment, Parametrization, Rng, Shape, Signals, Sparsifier, Subject, TargetKind, UpdateRule,
};
use nnz_tensor::Gradient;
use nnz_tensor::fit::{At, Slot, clip_all};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Most connections for which those that ever existed are counted: 8 bytes each would be too much for larger networks.
const COUNTED: usize = 1 << 19;

/// A network in training: its values and how they are made and updated, its data, and its position. It knows no method: one acts on
/// it as a [`Subject`].
pub struct Learner<'a, T> {
    pub(super) data: &'a Dataset,
    pub(super) spec: TrainSpec,
    pub(super) seed: u64,
    pub(super) loader: Loader<'a>,
    pub(super) validation: Vec<u32>,
    pub(super) frame: Preprocessing,
    /// What prunable weights are made of, if a method says so.
    pub(super) parametrization: Option<Box<dyn Parametrization>>,
    /// What updates prunable weights, if not the optimizer.
    pub(super) rule: Option<Box<dyn UpdateRule>>,
    pub(super) leaves: Option<Leaves<T>>,
    pub(super) explored: Vec<Explored>,
    /// Multiply-adds of a forward pass of one row through existing and through all entries, as long as no edit changes it.
    pub(super) cost: Option<[f64; 2]>,
    pub(super) snapshots: BTreeMap<String, Snapshot<T>>,
    /// The network in training; [`Learner::result`] is the one to keep.
    pub model: Model<T>,
    /// The update rule with its state.
    pub optimizer: Optimizer<T>,
    /// The moving average of the values, if any.
    pub average: Option<Average<T>>,
    /// Its state.
    pub position: Position,
    /// Records what every edit changes, if set. Changes no result.
    pub history: Option<History>,
}

impl<T: Real> Learner<'_, T> {
    /// Bytes of all that lives between two steps. Afterwards nothing of it shares its values, as nothing does that was read from
    /// a checkpoint.
    pub(super) fn held_bytes(&mut self) -> usize {
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

    /// Measures what a method asked for, on as many rows as it asked for.
    fn signals(&self, batch: &Batch<T>, signals: Signals, by: &dyn Editor) -> Result<Step<T>> {
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
        let Some(parametrization) = self.parametrization.as_ref().filter(|p| step >= p.until()) else {
            return Ok(());
        };
        let Some(leaves) = self.leaves.take() else { return Ok(()) };
        let mut edits = leaves.freeze(&**parametrization, step, &self.model);
        for i in leaves.places() {
            let shape = &self.model.params[i].shape;
            self.optimizer.begin(i, &[shape.rows, shape.cols]);
        }
        let fresh = Fresh { seed: self.seed, step: self.position.step };
        let how = Editing {
            kind: TargetKind::Weights,
            layerwise: false,
            storage: self.spec.policy_ref(),
            fresh,
            explored: None,
        };
        let (optimizer, average) = (Some(&mut self.optimizer), self.average.as_mut());
        let moved =
            rewire(&mut self.model, optimizer, average, &mut |_| Ok(std::mem::take(&mut edits)), &Step::empty(), how)?;
        self.position.since = self.position.step;
        self.position.grown += moved.grown;
        self.position.pruned += moved.pruned;
        self.look();
        Ok(())
    }

    fn mode(&self) -> Mode {
        Mode::Train { seed: self.seed, step: self.position.step }
    }

    /// Counts the multiply-adds of measurements on a batch.
    fn charge(&mut self, rows: usize, signals: Signals, formed: &[Option<Formed<T>>]) {
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
    fn forward_backward(
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
    pub(super) fn pass(
        &mut self,
        by: &dyn Sparsifier,
        batch: &Batch<T>,
        signals: Signals,
        phase: u32,
    ) -> Result<Step<T>> {
        let at = Moment { step: self.local(), phase };
        let formed = match (&self.leaves, &self.parametrization) {
            (Some(leaves), Some(p)) => leaves.form(&**p, at, &mut self.model),
            _ => Vec::new(),
        };
        let kind = by.kind();
        let zeros = candidates(&self.model, signals, kind, |i, topology| by.candidates(at.step, i, topology));
        let pass = self.forward_backward(Some(batch), signals, kind, zeros, &formed)?;
        self.charge(batch.rows(), Signals { gradient: true, rows: 0, ..signals }, &formed);
        Ok(pass)
    }

    fn clip(&self, pass: &mut Step<T>) {
        if let Some(limit) = self.spec.clip {
            clip_all(pass.gradients.iter_mut().chain(pass.leaves.iter_mut().flatten()), limit);
        }
    }

    /// Updates the values by the gradients of a pass; the learning rate.
    pub(super) fn learn(&mut self, by: &dyn Sparsifier, batch: &Batch<T>, pass: &mut Step<T>) -> Result<f64> {
        self.clip(pass);
        let factor = self.spec.schedule.factor(self.local(), self.length(), self.spec.warmup);
        let lr = self.spec.optimizer.lr() * factor;
        let count = self.position.step - self.position.since + 1;
        if let OptimizerSpec::Lbfgs { .. } = self.spec.optimizer {
            self.search(batch, pass, At { lr, count })?;
        } else {
            self.move_leaves(by, batch, &pass.leaves, lr, count)?;
            let rule = self.rule.as_deref();
            for (i, (param, gradient)) in self.model.params.iter_mut().zip(&pass.gradients).enumerate() {
                match rule.filter(|_| param.prunable) {
                    _ if self.leaves.as_ref().is_some_and(|l| l.has(i)) => {}
                    Some(rule) => self.optimizer.update_by(rule, i, param, gradient, lr, count),
                    None => self.optimizer.update(i, param, gradient, lr, count),
                }
            }
        }
        Ok(lr)
    }

    /// Takes over the statistics of a pass after the update of a step, and moves the average.
    pub(super) fn settle(&mut self, pass: &Step<T>, step: u64) {
        self.model.absorb(&pass.statistics);
        if let (Some(average), Some(decay)) = (&mut self.average, self.spec.ema) {
            let early = (1.0 + step as f64) / (10.0 + step as f64);
            average.update(&self.model.params, decay.min(early));
        }
    }

    /// One step of the leaves: by the optimizer, or by their own in phases, each with a pass at what the last one left.
    fn move_leaves(
        &mut self,
        by: &dyn Sparsifier,
        batch: &Batch<T>,
        first: &[Vec<Tensor<T>>],
        lr: f64,
        count: u64,
    ) -> Result<()> {
        let Some(phases) = self.parametrization.as_ref().map(|p| p.phases()) else { return Ok(()) };
        for phase in 0..phases.max(1) {
            let mut later = Step::empty();
            if phase > 0 {
                later = self.pass(by, batch, Signals::NONE, phase)?;
                self.clip(&mut later);
            }
            let gradients = if phase == 0 { first } else { &later.leaves };
            let (Some(leaves), Some(p)) = (&mut self.leaves, &self.parametrization) else { return Ok(()) };
            match phases {
                0 => leaves.update(&**p, gradients, lr, count),
                _ => leaves.own_step(&**p, phase, gradients, lr),
            }
        }
        let next = self.local() + 1;
        if let (Some(leaves), Some(p)) = (&self.leaves, &self.parametrization) {
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
        if self.rule.is_some() {
            return Err(Error::Refused("weights that an update rule of the method's own moves are not rewired".into()));
        }
        let (kind, layerwise) = (by.kind(), by.layerwise());
        let counted = kind == TargetKind::Weights && self.model.nonzeros() <= COUNTED;
        let explored = counted.then_some(&mut self.explored);
        let (optimizer, average) = (Some(&mut self.optimizer), self.average.as_mut());
        let fresh = Fresh { seed: self.seed, step: self.position.step };
        let how = Editing { kind, layerwise, storage: self.spec.policy_ref(), fresh, explored };
        let moved = rewire(&mut self.model, optimizer, average, &mut |t| by.edit(t), pass, how)?;
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
        (p.loss_sum, p.rows_seen, p.grown, p.pruned) = (0.0, 0.0, 0, 0);
        p.history.push(record.clone());
        Ok(record)
    }

    /// The network to keep: the average where there is one, rounded to what its file will hold. Weights whose factors are
    /// trained are formed for it.
    pub fn result(&self) -> Cow<'_, Model<T>> {
        let formed = self.formed();
        if self.average.is_none() && self.spec.dtype == Dtype::Native && formed.is_empty() {
            return Cow::Borrowed(&self.model);
        }
        let mut model = self.model.clone();
        for (p, weight) in model.params.iter_mut().zip(formed) {
            if let Some(weight) = weight {
                p.value = weight.whole().value().clone();
            }
        }
        for (p, a) in model.params.iter_mut().zip(self.average.iter().flat_map(Average::values)) {
            p.value = a.clone();
        }
        self.spec.dtype.round(&mut model);
        Cow::Owned(model)
    }

    /// What stands for weights that the model does not show, for use; empty where there are none.
    fn formed(&self) -> Vec<Option<Formed<T>>> {
        match (&self.leaves, &self.parametrization) {
            (Some(leaves), Some(p)) if self.model.params.iter().any(Param::unformed) => {
                leaves.constants(&**p, self.local(), &self.model)
            }
            _ => Vec::new(),
        }
    }

    /// Bytes that updates remember.
    pub fn optimizer_bytes(&self) -> usize {
        self.optimizer.bytes() + self.leaves.as_ref().map_or(0, Leaves::state_bytes)
    }

    /// The most bytes that lived at once in any step so far: values, indices, gradients, optimizer state, leaves, averages, what
    /// a procedure keeps, the batch, and the activations and temporaries of the tape. What kernels use for a moment on each
    /// thread, and batches made ahead, are not in it: it is the same for any number of threads.
    pub fn peak_bytes(&self) -> usize {
        self.position.peak_bytes
    }

    pub(super) fn plain_steps(&self) -> u64 {
        self.position.first + self.per_epoch() * u64::from(self.spec.epochs.saturating_sub(self.position.epochs))
    }

    /// How the weights are stored, as files of this training keep it.
    pub fn policy(&self) -> StoragePolicy {
        self.spec.policy()
    }

    /// How rows become inputs and goals, as measured on the training rows.
    pub fn frame(&self) -> &Preprocessing {
        &self.frame
    }

    pub(super) fn per_epoch(&self) -> u64 {
        self.loader.per_epoch()
    }

    pub(crate) fn evaluate_generic(&self, split: &Split, rows: &[u32]) -> Result<Evaluation> {
        let formed = self.formed();
        if formed.is_empty() {
            return evaluate_generic(&self.result(), self.data, split, rows, &self.frame);
        }
        evaluate_formed(&self.model, &formed, self.data, split, rows, &self.frame)
    }
}

/// A learner at one batch, which is what methods measure on.
pub(super) struct AtBatch<'t, 'a, T> {
    pub learner: &'t mut Learner<'a, T>,
    /// That of the step that is next, where none is given.
    pub batch: Option<&'t Batch<T>>,
    /// The loss of the first measurement.
    pub loss: Option<f64>,
}

impl<T: Real> Subject for AtBatch<'_, '_, T> {
    type Error = Error;

    fn shapes(&self, kind: TargetKind) -> Vec<Shape> {
        self.learner.model.targets(kind)
    }

    fn edit(&mut self, signals: Signals, by: &mut dyn Editor) -> Result<()> {
        let next;
        let batch = match self.batch {
            Some(batch) => batch,
            None => {
                next = self.learner.loader.batch(self.learner.place(self.learner.local()))?;
                &next
            }
        };
        let pass = self.learner.signals(batch, signals, by)?;
        self.learner.charge(batch.rows(), signals, &[]);
        self.learner.edit(&pass, by)?;
        self.loss = self.loss.or(Some(pass.loss).filter(|l| l.is_finite()));
        Ok(())
    }

    /// Accuracy on the validation split.
    fn evaluate(&mut self) -> Result<f64> {
        let learner = &self.learner;
        if learner.validation.is_empty() {
            return Err(Error::Refused("this method measures on a validation split; set `validation` above 0".into()));
        }
        Ok(learner.evaluate_generic(&learner.data.train, &learner.validation)?.accuracy)
    }

    fn snapshot(&mut self, name: String) -> Result<()> {
        let (params, state) = (self.learner.model.params.clone(), self.learner.optimizer.state.clone());
        self.learner.snapshots.insert(name, Snapshot { params, state });
        Ok(())
    }

    fn restore(&mut self, name: &str) -> Result<()> {
        let kept = self.learner.kept(name)?.clone();
        (self.learner.model.params, self.learner.optimizer.state) = (kept.params, kept.state);
        self.learner.average = self.learner.average.as_ref().map(|_| Average::new(&self.learner.model.params));
        self.learner.look();
        Ok(())
    }

    fn average(&mut self, names: &[String]) -> Result<()> {
        self.learner.mean_of(names)
    }
}
