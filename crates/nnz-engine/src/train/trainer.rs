use super::learner::Learner;
use super::record::{Position, Progress};
use super::spec::TrainSpec;
use crate::data::{Batch, Dataset, Loader, Preprocessing};
use crate::files::{self, Header};
use crate::layers::Layers;
use crate::leaves::Leaves;
use crate::step::Make;
use crate::targets::targets;
use crate::{Average, Error, Layout, Model, ModelSpec, Optimizer, OptimizerSpec, Real, Result};
use nnz_core::{Command, MethodInstance, Procedure, Shape, Sparsifier};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::mpsc::Receiver;

/// A training in progress: a [`Learner`], and the method that acts on it between its steps.
pub struct Trainer<'a, T> {
    pub(super) sparsifier: Box<dyn Sparsifier>,
    pub(super) procedure: Option<Box<dyn Procedure>>,
    pub(crate) learner: Learner<'a, T>,
    /// Batches made ahead by a thread, from that of the next step on.
    pub(super) ahead: Option<Receiver<crate::data::Result<Batch<T>>>>,
    /// Whether [`Trainer::run`] makes batches ahead on a separate thread. Changes no result.
    pub prefetch: bool,
    /// Time spent in the steps of the current epoch; never part of a result.
    pub(super) seconds: f64,
}

impl<'a, T> Deref for Trainer<'a, T> {
    type Target = Learner<'a, T>;

    fn deref(&self) -> &Self::Target {
        &self.learner
    }
}

impl<T> DerefMut for Trainer<'_, T> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.learner
    }
}

/// Observes every step of a training; `false` ends it.
pub type Observer<'o, 'a, T> = dyn FnMut(&Trainer<'a, T>, &Progress) -> bool + 'o;

impl<'a, T: Real> Trainer<'a, T> {
    pub(crate) fn new_generic(
        model: &ModelSpec,
        data: &'a Dataset,
        spec: &TrainSpec,
        seed: u64,
        frame: Option<Preprocessing>,
        make: Make,
    ) -> Result<Self> {
        let spec = &TrainSpec { task: frame.as_ref().map_or(spec.task, |f| f.task), ..spec.clone() };
        Self::build(data, spec, seed, make, frame, model.reads_tokens(), |work| {
            spec.prunable().check(model.weights().iter())?;
            let shapes = targets(model, spec.prunable(), work.sparsifier.kind());
            let shapes: Vec<&Shape> = shapes.iter().collect();
            work.sparsifier.check(&shapes)?;
            let births = work.sparsifier.initial_topologies(&shapes)?;
            let mut model = Model::born_generic(model, births, spec.policy_ref(), &spec.prunable(), seed)?;
            if let Some(graph) = &data.graph {
                model.adopt(graph)?;
            }
            Ok(model)
        })
    }

    pub(crate) fn from_model_generic(
        mut model: Model<T>,
        frame: Preprocessing,
        data: &'a Dataset,
        spec: &TrainSpec,
        seed: u64,
        carry: bool,
        make: Make,
    ) -> Result<Self> {
        // The file's choice, unless there is another; one that is started from has been chosen.
        if !carry && spec.prunable().named() {
            model.choose(&spec.prunable())?;
        }
        let spec = TrainSpec { task: frame.task, ..spec.clone() };
        Self::build(data, &spec, seed, make, Some(frame), false, |work| {
            let targets = model.targets(work.sparsifier.kind());
            if carry {
                let shapes: Vec<&Shape> = targets.iter().collect();
                work.sparsifier.check(&shapes)?;
                if let Some(births) = work.sparsifier.initial_topologies(&shapes)? {
                    return model.on(births, spec.policy_ref());
                }
            }
            nnz_core::subject::trained(work, &targets)?;
            Ok(model)
        })
    }

    fn build(
        data: &'a Dataset,
        spec: &TrainSpec,
        seed: u64,
        make: Make,
        frame: Option<Preprocessing>,
        tokens: bool,
        model: impl FnOnce(&MethodInstance) -> Result<Model<T>>,
    ) -> Result<Self> {
        spec.check(data.image)?;
        let (rows, validation) = data.split_validation(spec.validation, seed)?;
        let frame = match frame {
            Some(frame) => frame.check(data).map(|()| frame)?,
            None => Preprocessing::of(data, &rows, spec.task, tokens)?,
        };
        if spec.augment.mixup > 0.0 && !data.train.weights.is_empty() {
            return Err(Error::Refused("rows with weights are not mixed; leave out mixup, or the weights".into()));
        }
        let loader = Loader::new(data, rows, spec.batch, seed, spec.augment, frame.clone());
        let setting = spec.setting(loader.rows().len(), seed);
        let work = make(&setting)?;
        let mut model = model(&work)?;
        let own = work.parametrization.is_some() || work.rule.is_some();
        if own && work.procedure.is_some() {
            let why = "a method with a procedure can bring neither a parametrization nor an update rule";
            return Err(Error::Refused(why.into()));
        }
        let mut optimizer = Optimizer::new(spec.optimizer, &model.params);
        let leaves = work.parametrization.as_ref().map(|p| Leaves::new(&**p, &mut model, spec)).transpose()?;
        leaves.iter().flat_map(Leaves::places).for_each(|i| optimizer.empty(i, spec.optimizer.slots()));
        if let Some(rule) = &work.rule {
            let weights = || model.params.iter().enumerate().filter(|(_, p)| p.prunable);
            if matches!(spec.optimizer, OptimizerSpec::Lbfgs { .. })
                || weights().any(|(_, p)| p.layout != Layout::Dense)
            {
                let why = "a method with an update rule of its own moves dense weights, beside sgd or adam";
                return Err(Error::Refused(why.into()));
            }
            weights().for_each(|(i, _)| optimizer.empty(i, rule.slots()));
        }
        let average = spec.ema.map(|_| Average::new(&model.params));
        let MethodInstance { sparsifier, procedure, parametrization, rule, .. } = work;
        let learner = Learner {
            data,
            spec: spec.clone(),
            seed,
            loader,
            validation,
            frame,
            parametrization,
            rule,
            leaves,
            explored: Vec::new(),
            cost: None,
            snapshots: BTreeMap::new(),
            model,
            optimizer,
            average,
            position: Position::default(),
            history: None,
        };
        Ok(Self { sparsifier, procedure, learner, ahead: None, prefetch: true, seconds: 0.0 })
    }

    pub(crate) fn to_bytes_generic(&self, header: &Header, run: &str) -> Result<Vec<u8>> {
        let mut position = self.position.clone();
        position.sparsifier = self.sparsifier.state();
        position.explored = self.explored.clone();
        position.snapshots = self.snapshots.keys().cloned().collect();
        position.leaves = self.leaves.as_ref().map_or_else(Vec::new, Leaves::extents);
        let checkpoint = files::Checkpoint {
            model: Cow::Borrowed(&self.model),
            optimizer: Cow::Borrowed(&self.optimizer),
            average: self.average.clone(),
            crossovers: self.spec.crossovers.clone(),
            snapshots: Cow::Borrowed(&self.snapshots),
            leaves: self.leaves.as_ref().map_or_else(Vec::new, Leaves::tensors),
            position,
        };
        files::checkpoint(&checkpoint, header, run)
    }

    pub(crate) fn resume_generic(&mut self, bytes: &[u8], path: &Path, run: &str) -> Result<()> {
        let layers = Layers::of(&self.model.spec.layers);
        let saved = files::parse_checkpoint(bytes, path, self.spec.storage, run, &layers)?;
        self.sparsifier.restore(&saved.position.sparsifier)?;
        if let Some(procedure) = self.procedure.as_mut().filter(|_| !saved.position.procedure.is_null()) {
            procedure.restore(&saved.position.procedure)?;
        }
        if !self.reaches(&saved.position) {
            let (at, of) = (saved.position.step, self.steps());
            let why = format!(
                "is damaged: this training of {of} steps never is where it says, at step {at}; remove the file"
            );
            return Err(Error::file(path, why));
        }
        let learner = &mut self.learner;
        let chosen: BTreeMap<String, bool> =
            learner.model.params.iter().map(|p| (p.shape.name.clone(), p.prunable)).collect();
        learner.model = saved.model.into_owned();
        learner.spec.crossovers = saved.crossovers;
        (learner.optimizer, learner.average) = (saved.optimizer.into_owned(), saved.average);
        learner.snapshots = saved.snapshots.into_owned();
        // A file says it by roles, but single weights may have been left out.
        let kept = learner.snapshots.values_mut().flat_map(|s| &mut s.params);
        for p in learner.model.params.iter_mut().chain(kept) {
            p.prunable = chosen.get(&p.shape.name).copied().unwrap_or(p.prunable);
        }
        let plain = saved.position.leaves.is_empty();
        learner.leaves = match learner.leaves.take().filter(|_| !plain) {
            Some(leaves) => Some(leaves.with(&saved.position.leaves, saved.leaves)?),
            None => None,
        };
        learner.position = saved.position;
        learner.explored = std::mem::take(&mut learner.position.explored);
        learner.cost = None;
        // Known from what was just read.
        learner.position.sparsifier = Value::Null;
        learner.position.snapshots.clear();
        learner.position.leaves.clear();
        Ok(())
    }

    /// Whether this training could be at a position that a file gives. Whatever is counted from it does not overflow.
    fn reaches(&self, p: &Position) -> bool {
        let trained = match (&p.act, &self.procedure) {
            (None, None) => p.done == p.step,
            (None, Some(_)) => true,
            (Some(Command::Train { span, of, order }), Some(_)) => {
                let few = *of <= 1 << 40 && *order <= 1 << 20;
                few && span.end <= *of && span.end.checked_sub(span.start).is_some_and(|steps| p.done <= steps)
            }
            _ => false,
        };
        // One that more rows may follow may be further than this run is long.
        let within = match p.open {
            true => p.first <= p.step && p.step <= 1 << 48,
            false => p.first == 0 && p.epochs == 0 && p.step <= self.steps(),
        };
        trained
            && within
            && p.done.max(p.since) <= p.step
            && (0.0..=(1u64 << 48) as f64).contains(&p.rows_seen)
            && [p.grown, p.pruned].iter().all(|&n| n as u64 <= 1 << 48)
    }

    /// Total steps of the run.
    pub fn steps(&self) -> u64 {
        self.procedure.as_ref().map_or_else(|| self.plain_steps(), |p| p.steps())
    }
}
