use super::record::{Position, Progress, Snapshot};
use super::spec::{Dtype, TrainSpec};
use crate::data::{Batch, Dataset, Loader, Preprocessing, Split};
use crate::evaluate::{Evaluation, evaluate_formed, evaluate_generic};
use crate::files::{self, Header};
use crate::layers::Layers;
use crate::leaves::{Formed, Leaves};
use crate::step::Make;
use crate::targets::targets;
use crate::{
    Average, Error, History, Layout, Model, ModelSpec, Optimizer, OptimizerSpec, Param, Real, Result, StoragePolicy,
};
use nnz_core::{Explored, MethodInstance, Shape};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::Receiver;

/// A training in progress: model, optimizer, method, data and position.
pub struct Trainer<'a, T> {
    pub(super) data: &'a Dataset,
    pub(super) spec: TrainSpec,
    pub(super) seed: u64,
    pub(super) loader: Loader<'a>,
    /// Batches made ahead by a thread, from that of the next step on.
    pub(super) ahead: Option<Receiver<crate::data::Result<Batch<T>>>>,
    pub(super) validation: Vec<u32>,
    pub(super) frame: Preprocessing,
    pub(super) work: MethodInstance,
    pub(super) leaves: Option<Leaves<T>>,
    pub(super) explored: Vec<Explored>,
    /// Multiply-adds of a forward pass of one row through existing and through all entries, as long as no edit changes it.
    pub(super) cost: Option<[f64; 2]>,
    pub(super) snapshots: BTreeMap<String, Snapshot<T>>,
    /// The network in training; [`Trainer::result`] is the one to keep.
    pub model: Model<T>,
    /// The update rule with its state.
    pub optimizer: Optimizer<T>,
    /// The moving average of the values, if any.
    pub average: Option<Average<T>>,
    /// Its state.
    pub position: Position,
    /// Records what every edit changes, if set. Changes no result.
    pub history: Option<History>,
    /// Whether [`Trainer::run`] makes batches ahead on a separate thread. Changes no result.
    pub prefetch: bool,
    /// Time spent in the steps of the current epoch; never part of a result.
    pub(super) seconds: f64,
}

/// Observes every step of a training; `false` ends it.
pub type Observer<'o, 'a, T> = dyn FnMut(&Trainer<'a, T>, &Progress) -> bool + 'o;

impl<'a, T: Real> Trainer<'a, T> {
    pub(crate) fn new_generic(
        model: &ModelSpec,
        data: &'a Dataset,
        spec: &TrainSpec,
        seed: u64,
        make: Make,
    ) -> Result<Self> {
        Self::build(data, spec, seed, make, model.reads_tokens(), |work| {
            let shapes = targets(model, spec.prune_head, work.sparsifier.kind());
            let shapes: Vec<&Shape> = shapes.iter().collect();
            work.sparsifier.check(&shapes)?;
            let births = work.sparsifier.initial_topologies(&shapes)?;
            let mut model = Model::born_generic(model, births, spec.policy_ref(), spec.prune_head, seed)?;
            if let Some(graph) = &data.graph {
                model.adopt(graph)?;
            }
            Ok(model)
        })
    }

    pub(crate) fn from_model_generic(
        model: Model<T>,
        frame: Preprocessing,
        data: &'a Dataset,
        spec: &TrainSpec,
        seed: u64,
        make: Make,
    ) -> Result<Self> {
        let spec = TrainSpec { task: frame.task, ..spec.clone() };
        let mut trainer = Self::build(data, &spec, seed, make, false, |work| {
            nnz_core::subject::trained(work, &model.targets(work.sparsifier.kind()))?;
            Ok(model)
        })?;
        trainer.loader = trainer.loader.framed(frame.clone());
        trainer.frame = frame;
        Ok(trainer)
    }

    fn build(
        data: &'a Dataset,
        spec: &TrainSpec,
        seed: u64,
        make: Make,
        tokens: bool,
        model: impl FnOnce(&MethodInstance) -> Result<Model<T>>,
    ) -> Result<Self> {
        spec.check(data.image)?;
        let (rows, validation) = data.split_validation(spec.validation, seed)?;
        let frame = Preprocessing::of(data, &rows, spec.task, tokens)?;
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
        Ok(Self {
            data,
            spec: spec.clone(),
            seed,
            loader,
            ahead: None,
            validation,
            frame,
            work,
            leaves,
            explored: Vec::new(),
            cost: None,
            snapshots: BTreeMap::new(),
            model,
            optimizer,
            average,
            position: Position::default(),
            history: None,
            prefetch: true,
            seconds: 0.0,
        })
    }

    pub(crate) fn save_generic(&self, path: &Path, header: &Header, run: &str) -> Result<()> {
        let mut position = self.position.clone();
        position.sparsifier = self.work.sparsifier.state();
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
        files::save_checkpoint(path, &checkpoint, header, run)
    }

    pub(crate) fn resume_generic(&mut self, path: &Path, run: &str) -> Result<()> {
        let saved = files::load_checkpoint(path, self.spec.storage, run, &Layers::of(&self.model.spec.layers))?;
        self.work.sparsifier.restore(&saved.position.sparsifier)?;
        if let Some(procedure) = self.work.procedure.as_mut().filter(|_| !saved.position.procedure.is_null()) {
            procedure.restore(&saved.position.procedure)?;
        }
        self.model = saved.model.into_owned();
        self.spec.crossovers = saved.crossovers;
        (self.optimizer, self.average) = (saved.optimizer.into_owned(), saved.average);
        self.snapshots = saved.snapshots.into_owned();
        let plain = saved.position.leaves.is_empty();
        self.leaves = match self.leaves.take().filter(|_| !plain) {
            Some(leaves) => Some(leaves.with(&saved.position.leaves, saved.leaves)?),
            None => None,
        };
        self.position = saved.position;
        self.explored = std::mem::take(&mut self.position.explored);
        self.cost = None;
        // Known from what was just read.
        self.position.sparsifier = Value::Null;
        self.position.snapshots.clear();
        self.position.leaves.clear();
        Ok(())
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

    /// Total steps of the run.
    pub fn steps(&self) -> u64 {
        self.work.procedure.as_ref().map_or_else(|| self.plain_steps(), |p| p.steps())
    }

    /// What stands for weights that the model does not show, for use; empty where there are none.
    fn formed(&self) -> Vec<Option<Formed<T>>> {
        match (&self.leaves, &self.work.parametrization) {
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
        self.per_epoch() * u64::from(self.spec.epochs)
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
