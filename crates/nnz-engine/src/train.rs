use crate::Real;
use crate::axes::{Axis, axes};
use crate::built::Make;
use crate::data::{Augment, Batch, Dataset, Loader, Split};
use crate::file::{self, Header};
use crate::leaves::Leaves;
use crate::step::{Editing, Step, Views, after_step, candidates, check_trained, culprit, rewire};
use crate::structure::{Fresh, Part};
use crate::task::{Evaluation, Frame, Task, evaluate};
use crate::{
    Average, Crossovers, Error, History, LrSchedule, Mode, Model, ModelSpec, Optimizer, OptimizerSpec, Param, Result,
    Role, Storage, StoragePolicy, Storing, Tensor, clip_by_norm, lbfgs,
};
use half::bf16;
use nnz_core::{Act, Edit, Explored, Kind, Plan, Rng, Setting, Shape, Signals, Target, Work};
use nnz_kernels::threads;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

/// How the weights and tables of a finished network are rounded and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dtype {
    /// As they were trained.
    #[default]
    Native,
    /// 16 bits with the exponent of f32 and 8 bits of precision, rounded to the nearest, ties to even.
    Bf16,
}

impl Dtype {
    /// The default, for serde.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a parameter of this role is rounded: biases, norms and running statistics are not.
    pub(crate) fn rounds(self, role: Role) -> bool {
        self == Self::Bf16 && matches!(role, Role::Weight | Role::Table)
    }

    /// Rounds a network to what its file will hold.
    pub fn round<T: Real>(self, model: &mut Model<T>) {
        for p in model.params.iter_mut().filter(|p| self.rounds(p.role)) {
            let nearest = |v: &mut T| *v = T::of(bf16::from_f64(v.f64()).to_f64());
            p.value.data_mut().iter_mut().for_each(nearest);
        }
    }
}

fn is_zero(x: &f64) -> bool {
    *x == 0.0
}

/// How a network is trained; everything but the model, the data and the method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSpec {
    /// Passes over the training rows.
    pub epochs: u32,
    /// Rows of one step; the last step of an epoch may have fewer.
    pub batch: usize,
    /// The update rule.
    pub optimizer: OptimizerSpec,
    /// How the learning rate moves.
    pub schedule: LrSchedule,
    /// Share of the run over which the learning rate first rises from zero.
    pub warmup: f64,
    /// How weights are stored.
    pub storage: Storage,
    /// What storage `auto` follows. A resumed training follows what it began with.
    #[serde(default, skip_serializing_if = "Crossovers::is_empty")]
    pub crossovers: Crossovers,
    /// Whether the method may prune the classifier at the end too.
    pub prune_head: bool,
    /// Fraction of the training rows held out for validation.
    pub validation: f64,
    /// What the network is for.
    #[serde(default, skip_serializing_if = "Task::is_default")]
    pub task: Task,
    /// Weight that cross-entropy gives to all classes alike (Szegedy et al. 2016, arXiv:1512.00567).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub smoothing: f64,
    /// Largest Euclidean norm of all gradients together (Pascanu et al. 2013, arXiv:1211.5063).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// Decay d of a moving average a ← d a + (1 - d) w over the steps, which is what is evaluated and kept. At step t,
    /// from 0, d is at most (1 + t) / (10 + t), so that first values are forgotten in a short run too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// How training rows are changed each time they are read.
    #[serde(default, skip_serializing_if = "Augment::is_off")]
    pub augment: Augment,
    /// How the finished network is rounded and written.
    #[serde(default, skip_serializing_if = "Dtype::is_default")]
    pub dtype: Dtype,
}

impl TrainSpec {
    /// Why nothing can be trained so, on pictures of `[channels, height, width]`.
    pub fn check(&self, image: [usize; 3]) -> Result<()> {
        let refuse = |why: String| Err(Error::Refused(why));
        if self.batch == 0 {
            return refuse("a batch needs at least one row (`--batch`)".into());
        }
        if !(0.0..1.0).contains(&self.smoothing) {
            return refuse(format!("label smoothing must be at least 0 and below 1, got {}", self.smoothing));
        }
        if self.smoothing > 0.0 && self.task != Task::Classification {
            return refuse("label smoothing is for classification".into());
        }
        if let Some(clip) = self.clip.filter(|c| !(*c > 0.0 && c.is_finite())) {
            return refuse(format!("the largest gradient norm must be above 0, got {clip}"));
        }
        if let Some(ema) = self.ema.filter(|d| !(0.0..1.0).contains(d)) {
            return refuse(format!("the decay of the average must be at least 0 and below 1, got {ema}"));
        }
        if let Some((name, at)) = self.crossovers.0.iter().find(|(_, d)| !(0.0..=1.0).contains(*d)) {
            return refuse(format!("the crossover of `{name}` is a density, from 0 to 1, got {at}"));
        }
        if self.storage != Storage::Auto && !self.crossovers.is_empty() {
            return refuse("crossovers are what storage auto follows; leave them out, or choose auto".into());
        }
        self.augment.check(image).or_else(refuse)
    }

    /// The same as files keep it.
    pub fn policy(&self) -> StoragePolicy {
        StoragePolicy { storage: self.storage, crossovers: self.crossovers.clone() }
    }

    /// Its storage, with what `auto` follows.
    pub fn storing(&self) -> Storing<'_> {
        Storing { storage: self.storage, crossovers: &self.crossovers }
    }
}

impl Default for TrainSpec {
    /// 20 epochs of 128 rows, SGD at 0.1 with a warm-up over a tenth of the run and half a cosine after it.
    fn default() -> Self {
        Self {
            epochs: 20,
            batch: 128,
            optimizer: OptimizerSpec::sgd(0.1),
            schedule: LrSchedule::Cosine,
            warmup: 0.1,
            storage: Storage::Auto,
            crossovers: Crossovers::default(),
            prune_head: false,
            validation: 0.1,
            task: Task::Classification,
            smoothing: 0.0,
            clip: None,
            ema: None,
            augment: Augment::default(),
            dtype: Dtype::Native,
        }
    }
}

/// One pass over the training data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// From 1.
    pub epoch: u32,
    /// Optimizer steps done.
    pub step: u64,
    /// Mean training loss over the epoch.
    pub loss: f64,
    /// Accuracy on the validation split after the epoch; see [`Evaluation::accuracy`] for other tasks.
    pub accuracy: f64,
    /// Density of the prunable weights after the epoch.
    pub density: f64,
    /// Connections made during the epoch.
    pub born: usize,
    /// Connections removed during the epoch.
    pub died: usize,
    /// Share of the prunable entries that existed at any time so far (Liu et al. 2021, arXiv:2102.02887: the in-time
    /// over-parametrization rate R_s). None where weights are not rewired, and above 2¹⁹ connections, where it is not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explored: Option<f64>,
    /// Multiply-adds of the training so far, over all weights: connections that existed times rows times the places they are
    /// used at ([`Model::multiply_adds`]), once forward and twice backward, and what a method measured besides.
    #[serde(default)]
    pub multiply_adds: f64,
}

/// Where a running training stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Optimizer steps done and in all.
    pub steps: (u64, u64),
    /// Epoch under way, from 1, and epochs in all.
    pub epochs: (u32, u32),
    /// Mean training loss of the epoch so far.
    pub loss: f64,
    /// Validation accuracy after the last finished epoch.
    pub accuracy: Option<f64>,
    /// Density of the prunable weights.
    pub density: f64,
    /// The record of an epoch, on the step that finished it, and the seconds its steps took here.
    pub finished: Option<(EpochRecord, f64)>,
}

/// Where a training stands between two steps; what a checkpoint holds besides tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Steps done.
    pub step: u64,
    /// Sum over the current epoch of the steps' losses times their rows.
    pub loss_sum: f64,
    /// Rows seen in the current epoch.
    pub rows_seen: usize,
    /// Connections made in the current epoch.
    pub born: usize,
    /// Connections removed in the current epoch.
    pub died: usize,
    /// Finished epochs.
    pub history: Vec<EpochRecord>,
    /// What the method remembers.
    pub sparsifier: Value,
    /// The training under way, where a procedure has several.
    #[serde(default)]
    pub act: Option<Act>,
    /// Steps done of it.
    #[serde(default)]
    pub done: u64,
    /// Steps done when optimizer state last was zero.
    #[serde(default)]
    pub since: u64,
    /// What the procedure remembers.
    #[serde(default)]
    pub procedure: Value,
    /// What the procedure has yet to be told.
    #[serde(default)]
    pub accuracy: Option<f64>,
    /// Names of what a procedure keeps.
    #[serde(default)]
    pub snapshots: Vec<String>,
    /// Extents of the leaves of every parametrized weight.
    #[serde(default)]
    pub leaves: Vec<Vec<Vec<usize>>>,
    /// What every target ever had, once it was rewired.
    #[serde(default)]
    pub explored: Vec<Explored>,
    /// Multiply-adds so far; see [`EpochRecord::multiply_adds`].
    #[serde(default)]
    pub multiply_adds: f64,
}

/// A network and its optimizer state, kept by a procedure.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot<T> {
    pub params: Vec<Param<T>>,
    pub state: Vec<Vec<Tensor<T>>>,
}

/// A training under way: model, optimizer, method, data and position.
pub struct Trainer<'a, T> {
    data: &'a Dataset,
    spec: TrainSpec,
    seed: u64,
    loader: Loader<'a>,
    /// Batches made ahead by a thread, from that of the next step on.
    ahead: Option<Receiver<crate::data::Result<Batch<T>>>>,
    validation: Vec<u32>,
    frame: Frame,
    work: Work,
    leaves: Option<Leaves>,
    explored: Vec<Explored>,
    /// Multiply-adds of a forward pass of one row through what exists and through every entry, as long as no edit changes it.
    cost: Option<[f64; 2]>,
    snapshots: BTreeMap<String, Snapshot<T>>,
    /// The network under training; [`Trainer::result`] is the one to keep.
    pub model: Model<T>,
    /// The update rule with its state.
    pub optimizer: Optimizer<T>,
    /// The moving average of the values, when there is one.
    pub average: Option<Average<T>>,
    /// Where it stands.
    pub position: Position,
    /// Sees what every edit changes, when there is one. Changes no result.
    pub history: Option<History>,
    /// Whether [`Trainer::run`] makes batches ahead on a thread of its own. Changes no result.
    pub prefetch: bool,
    /// Time spent in the steps of the current epoch; never part of a result.
    seconds: f64,
}

/// Connections up to which those that ever existed are counted: 8 bytes each would be too much for larger networks.
const COUNTED: usize = 1 << 19;

/// Batches made ahead of the step that needs them.
const AHEAD: usize = 2;

/// The shapes a method of a kind may change.
pub fn targets(spec: &ModelSpec, prune_head: bool, kind: Kind) -> Vec<Shape> {
    match kind {
        Kind::Weights => spec.weights().into_iter().filter(|s| prune_head || !s.head).collect(),
        Kind::Units => axes(spec).iter().map(Axis::shape).collect(),
        Kind::Structure => Part::all(spec).iter().map(Part::shape).collect(),
        Kind::Edges => {
            let edges = |s: &Shape| s.name.ends_with(".edges");
            spec.params().into_iter().filter(|p| p.role == Role::Structure).map(|p| p.shape).filter(edges).collect()
        }
    }
}

/// Steps of an epoch over `rows` rows.
pub fn steps_per_epoch(rows: usize, batch: usize) -> u64 {
    rows.div_ceil(batch.max(1)) as u64
}

/// Sees every step of a training; `false` ends it.
pub type Observer<'o, 'a, T> = dyn FnMut(&Trainer<'a, T>, &Progress) -> bool + 'o;

impl<'a, T: Real> Trainer<'a, T> {
    /// A fresh network on `data`, built for a method that `build` makes once the length of the run is known.
    pub fn new<W: Into<Work>>(
        model: &ModelSpec,
        data: &'a Dataset,
        spec: &TrainSpec,
        seed: u64,
        build: impl FnOnce(&Setting) -> nnz_core::Result<W>,
    ) -> Result<Self> {
        T::trainer(model, data, spec, seed, Box::new(|setting| Ok(build(setting)?.into())))
    }

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
            let births = work.sparsifier.birth(&shapes)?;
            let mut model = Model::born(model, births, spec.storing(), spec.prune_head, seed)?;
            if let Some(graph) = &data.graph {
                model.adopt(graph)?;
            }
            Ok(model)
        })
    }

    /// Training that goes on from the values of `model`, with the task, normalization and scales it was trained under. A
    /// method that gives birth to a topology is refused: it would throw the trained values away.
    pub fn from_model<W: Into<Work>>(
        model: Model<T>,
        frame: Frame,
        data: &'a Dataset,
        spec: &TrainSpec,
        seed: u64,
        build: impl FnOnce(&Setting) -> nnz_core::Result<W>,
    ) -> Result<Self> {
        T::trainer_from(model, frame, data, spec, seed, Box::new(|setting| Ok(build(setting)?.into())))
    }

    pub(crate) fn from_model_generic(
        model: Model<T>,
        frame: Frame,
        data: &'a Dataset,
        spec: &TrainSpec,
        seed: u64,
        make: Make,
    ) -> Result<Self> {
        let spec = TrainSpec { task: frame.task, ..spec.clone() };
        let mut trainer = Self::build(data, &spec, seed, make, false, |work| {
            check_trained(work, &model)?;
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
        model: impl FnOnce(&Work) -> Result<Model<T>>,
    ) -> Result<Self> {
        spec.check(data.image)?;
        let (rows, validation) = data.split_validation(spec.validation, seed)?;
        let frame = Frame::of(data, &rows, spec.task, tokens)?;
        let loader = Loader::new(data, rows, spec.batch, seed, spec.augment, frame.clone());
        let per_epoch = loader.per_epoch();
        let setting = Setting { seed, steps: per_epoch * u64::from(spec.epochs), steps_per_epoch: per_epoch };
        let work = make(&setting)?;
        let model = model(&work)?;
        let leaves = work.parametrization.as_ref().map(|p| Leaves::new(&**p, &model, spec)).transpose()?;
        let optimizer = Optimizer::new(spec.optimizer, &model.params);
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

    /// Writes everything needed to go on bit for bit. `run` names the run it belongs to.
    pub fn save(&self, path: &Path, header: &Header, run: &str) -> Result<()> {
        T::save_training(self, path, header, run)
    }

    pub(crate) fn save_generic(&self, path: &Path, header: &Header, run: &str) -> Result<()> {
        let mut position = self.position.clone();
        position.sparsifier = self.work.sparsifier.state();
        position.explored = self.explored.clone();
        position.snapshots = self.snapshots.keys().cloned().collect();
        position.leaves = self.leaves.as_ref().map_or_else(Vec::new, Leaves::extents);
        let checkpoint = file::Checkpoint {
            model: Cow::Borrowed(&self.model),
            optimizer: Cow::Borrowed(&self.optimizer),
            average: self.average.clone(),
            crossovers: self.spec.crossovers.clone(),
            snapshots: Cow::Borrowed(&self.snapshots),
            leaves: self.leaves.as_ref().map_or_else(Vec::new, Leaves::tensors),
            position,
        };
        file::save_checkpoint(path, &checkpoint, header, run)
    }

    /// Goes to where a checkpoint of `run` was saved; another run's is refused.
    pub fn resume(&mut self, path: &Path, run: &str) -> Result<()> {
        T::resume(self, path, run)
    }

    pub(crate) fn resume_generic(&mut self, path: &Path, run: &str) -> Result<()> {
        let saved = file::load_checkpoint(path, self.spec.storage, run)?;
        self.work.sparsifier.restore(&saved.position.sparsifier)?;
        if let Some(procedure) = self.work.procedure.as_mut().filter(|_| !saved.position.procedure.is_null()) {
            procedure.restore(&saved.position.procedure)?;
        }
        self.model = saved.model.into_owned();
        self.spec.crossovers = saved.crossovers;
        (self.optimizer, self.average) = (saved.optimizer.into_owned(), saved.average);
        self.snapshots = saved.snapshots.into_owned();
        let plain = saved.position.leaves.is_empty();
        self.leaves = self.leaves.take().filter(|_| !plain).map(|l| l.with(&saved.position.leaves, saved.leaves));
        self.position = saved.position;
        self.explored = std::mem::take(&mut self.position.explored);
        self.cost = None;
        // Known from what was just read.
        self.position.sparsifier = Value::Null;
        self.position.snapshots.clear();
        self.position.leaves.clear();
        Ok(())
    }

    /// The network to keep: the average where there is one, rounded to what its file will hold.
    pub fn result(&self) -> Cow<'_, Model<T>> {
        if self.average.is_none() && self.spec.dtype == Dtype::Native {
            return Cow::Borrowed(&self.model);
        }
        let mut model = self.model.clone();
        for (p, a) in model.params.iter_mut().zip(self.average.iter().flat_map(Average::values)) {
            p.value = a.clone();
        }
        self.spec.dtype.round(&mut model);
        Cow::Owned(model)
    }

    /// Steps in the whole run.
    pub fn steps(&self) -> u64 {
        self.work.procedure.as_ref().map_or_else(|| self.plain_steps(), |p| p.steps())
    }

    /// Bytes that updates remember: the optimizer's, without those of weights that are made of leaves, and what their
    /// leaves need in their place.
    pub fn optimizer_bytes(&self) -> usize {
        let (Some(leaves), Some(p)) = (&self.leaves, &self.work.parametrization) else { return self.optimizer.bytes() };
        let plain = self.optimizer.state.iter().enumerate().filter(|(i, _)| !leaves.has(*i));
        let plain = plain.flat_map(|(_, slots)| slots).map(|s| s.len() * size_of::<T>()).sum::<usize>();
        plain + leaves.state_bytes(&**p)
    }

    fn plain_steps(&self) -> u64 {
        self.per_epoch() * u64::from(self.spec.epochs)
    }

    /// How the weights are stored; what files of this training keep.
    pub fn policy(&self) -> StoragePolicy {
        self.spec.policy()
    }

    /// How rows become inputs and goals, as measured on the training rows.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    fn per_epoch(&self) -> u64 {
        self.loader.per_epoch()
    }

    /// Trains until the end, or until `observe` answers `false`. Returns whether the end was reached.
    pub fn run(&mut self, mut observe: impl FnMut(&Self, &Progress) -> bool) -> Result<bool> {
        T::train(self, &mut observe)
    }

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
                // The thread ends when nobody listens.
                self.ahead = None;
                end
            });
            if !end? {
                return Ok(self.position.step == self.steps());
            }
        }
        Ok(true)
    }

    /// Trains up to a step; whether `observe` always said to go on.
    fn drive(&mut self, stop: u64, observe: &mut Observer<'_, 'a, T>) -> Result<bool> {
        while self.position.step < stop {
            let progress = self.advance()?;
            if !observe(self, &progress) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The steps of the training under way.
    fn span(&self) -> std::ops::Range<u64> {
        match &self.position.act {
            Some(Act::Train { span, .. }) => span.clone(),
            _ => 0..self.plain_steps(),
        }
    }

    /// The step of the training under way.
    fn local(&self) -> u64 {
        self.span().start + self.position.done
    }

    /// Its length, which the learning rate goes by.
    fn length(&self) -> u64 {
        match self.position.act {
            Some(Act::Train { of, .. }) => of,
            _ => self.plain_steps(),
        }
    }

    /// What is added to its steps to get rows in an order of its own.
    fn order(&self) -> u64 {
        match self.position.act {
            Some(Act::Train { order, .. }) => (order << 20) * self.per_epoch(),
            _ => 0,
        }
    }

    /// Carries out what the procedure wants before it trains on.
    fn enter(&mut self) -> Result<()> {
        while self.work.procedure.is_some() && (self.position.act.is_none() || self.local() >= self.span().end) {
            let accuracy = self.position.accuracy.take();
            let Some(procedure) = &mut self.work.procedure else { return Ok(()) };
            let act = procedure.next(accuracy);
            self.position.procedure = procedure.state();
            match act {
                Act::Train { ref span, .. } => {
                    (self.position.done, self.position.act) = (0, (!span.is_empty()).then_some(act));
                }
                Act::Edit(signals) => {
                    let batch = self.loader.batch(self.order() + self.local())?;
                    let pass = self.signals(&batch, signals)?;
                    self.charge(batch.rows(), signals);
                    self.edit(&pass, true)?;
                }
                Act::Snapshot(name) => {
                    let (params, state) = (self.model.params.clone(), self.optimizer.state.clone());
                    self.snapshots.insert(name, Snapshot { params, state });
                }
                Act::Restore(name) => {
                    let kept = self.kept(&name)?.clone();
                    (self.model.params, self.optimizer.state) = (kept.params, kept.state);
                    self.average = self.average.as_ref().map(|_| Average::new(&self.model.params));
                    self.look();
                }
                Act::Rewind(name) => self.mean_of(&[name])?,
                Act::Average(names) => self.mean_of(&names)?,
                Act::Evaluate if self.validation.is_empty() => {
                    return Err(Error::Refused(
                        "this method measures on a validation split; set `validation` above 0".into(),
                    ));
                }
                Act::Evaluate => {
                    self.position.accuracy = Some(self.evaluate(&self.data.train, &self.validation)?.accuracy);
                }
                Act::Done if self.position.step < self.steps() => {
                    let (at, of) = (self.position.step, self.steps());
                    return Err(Error::Refused(format!("the procedure ended at step {at} of {of}")));
                }
                Act::Done => return Ok(()),
            }
        }
        Ok(())
    }

    fn kept(&self, name: &str) -> Result<&Snapshot<T>> {
        let missing = || Error::Refused(format!("the procedure goes back to `{name}`, which it never kept"));
        self.snapshots.get(name).ok_or_else(missing)
    }

    /// Puts the mean of kept values in the place of those of now. A connection that a snapshot did not have counts as zero.
    fn mean_of(&mut self, names: &[String]) -> Result<()> {
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

    /// One step: the method's plan, then forward, backward and update.
    pub fn advance(&mut self) -> Result<Progress> {
        T::advance(self)
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
        self.freeze(step)?;
        let loss = match self.work.sparsifier.plan(step) {
            Plan::Rewire(signals) => {
                let loss = self.rounds(&batch, step)?;
                match signals.data() {
                    true => loss.unwrap_or(0.0),
                    false => self.update(&batch, Signals::NONE)?,
                }
            }
            Plan::Observe(signals) => self.update(&batch, signals)?,
            Plan::Rest => self.update(&batch, Signals::NONE)?,
        };
        self.position.step += 1;
        self.position.done += 1;
        self.position.loss_sum += loss * batch.rows() as f64;
        self.position.rows_seen += batch.rows();
        let ends = self.position.step == self.steps();
        let last = ends || self.position.step.is_multiple_of(self.per_epoch());
        if self.local() == self.span().end {
            // A schedule may end exactly at the end of training: one last plan, on the last batch.
            self.freeze(self.local())?;
            if let Plan::Rewire(_) = self.work.sparsifier.plan(self.local()) {
                self.rounds(&batch, self.local())?;
            }
        }
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

    /// Plan and edits of one step, in as many rounds as the method has; the loss of the first, where it was measured.
    fn rounds(&mut self, batch: &Batch<T>, step: u64) -> Result<Option<f64>> {
        let mut loss = None;
        for _ in 0..self.work.sparsifier.rounds(step) {
            let Plan::Rewire(signals) = self.work.sparsifier.plan(step) else { break };
            let pass = self.signals(batch, signals)?;
            self.charge(batch.rows(), signals);
            self.edit(&pass, false)?;
            loss = loss.or(Some(pass.loss).filter(|l| l.is_finite()));
        }
        Ok(loss)
    }

    /// What a method asked for, on as many rows as it asked for.
    fn signals(&self, batch: &Batch<T>, signals: Signals) -> Result<Step<T>> {
        if !signals.any() {
            return Ok(Step::empty());
        }
        if signals.rows <= batch.rows() || !signals.data() {
            return self.measure(Some(batch).filter(|_| signals.data()), signals);
        }
        let (all, wanted) = (self.loader.rows(), signals.rows.min(self.loader.rows().len()));
        let drawn = Rng::stream(self.seed, "measure", 0, self.position.step).distinct(all.len() as u64, wanted);
        let rows: Vec<u32> = drawn.into_iter().map(|i| all[i as usize]).collect();
        self.measure(Some(&Batch::of(self.data, &self.data.train, &rows, &self.frame)?), signals)
    }

    /// Turns leaves into plain weights where their time is over.
    fn freeze(&mut self, step: u64) -> Result<()> {
        let Some(parametrization) = self.work.parametrization.as_ref().filter(|p| step >= p.until()) else {
            return Ok(());
        };
        let Some(leaves) = self.leaves.take() else { return Ok(()) };
        let mut edits = leaves.freeze(&**parametrization, &self.model);
        let fresh = Fresh { seed: self.seed, step: self.position.step };
        let how = Editing { kind: Kind::Weights, layerwise: false, storage: self.spec.storing(), fresh };
        let (optimizer, average) = (Some(&mut self.optimizer), self.average.as_mut());
        let moved =
            rewire(&mut self.model, optimizer, average, &mut |_| Ok(std::mem::take(&mut edits)), &Step::empty(), how)?;
        self.position.since = self.position.step;
        self.position.born += moved.born;
        self.position.died += moved.died;
        self.look();
        Ok(())
    }

    fn mode(&self) -> Mode {
        Mode::Train { seed: self.seed, step: self.position.step }
    }

    /// Counts the multiply-adds of what was measured on a batch.
    fn charge(&mut self, rows: usize, signals: Signals) {
        if !signals.data() {
            return;
        }
        let [exist, all] = *self.cost.get_or_insert_with(|| {
            let each = self.model.costs();
            let part = |(p, cost): (&Param<T>, &f64)| cost * p.shape.len() as f64 / p.nnz().max(1) as f64;
            [each.iter().sum(), self.model.params.iter().zip(&each).map(part).sum()]
        });
        // Forward and two backward products; the gradient of zeros is that of all entries; a Hessian times a vector is two
        // gradients more.
        let zeros = if signals.zeros > 0.0 { all - exist } else { 0.0 };
        let curvature = if signals.curvature.is_some() { 6.0 * exist } else { 0.0 };
        let rows = match signals.rows > rows {
            true => signals.rows.min(self.loader.rows().len()),
            false => rows,
        };
        self.position.multiply_adds += rows as f64 * (3.0 * exist + zeros + curvature);
    }

    /// A pass whose loss and gradients are numbers, or the place where they stopped being any.
    fn measure(&self, batch: Option<&Batch<T>>, signals: Signals) -> Result<Step<T>> {
        let (smoothing, mode, kind) = (self.spec.smoothing, self.mode(), self.work.sparsifier.kind());
        let backwards = match (&self.leaves, &self.work.parametrization) {
            (Some(leaves), Some(p)) => leaves.backwards(&**p, self.local(), self.model.params.len()),
            _ => Vec::new(),
        };
        let named = candidates(&*self.work.sparsifier, self.local(), signals, &self.model);
        let mut pass = Step::measure(&self.model, batch, smoothing, signals, named, mode, kind, &backwards)?;
        if signals.momentum {
            let kept = |i: usize| self.optimizer.direction(i).or_else(|| pass.gradients.get(i).cloned());
            pass.momentum = (0..self.model.params.len()).filter_map(kept).collect();
        }
        match batch {
            Some(batch) if !pass.finite() => {
                let layer = culprit(&self.model, batch, smoothing, mode)?;
                Err(Error::NonFinite { loss: pass.loss, step: self.position.step, layer })
            }
            _ => Ok(pass),
        }
    }

    /// One update, and the loss before it.
    fn update(&mut self, batch: &Batch<T>, signals: Signals) -> Result<f64> {
        let step = self.local();
        if let (Some(leaves), Some(p)) = (&self.leaves, &self.work.parametrization) {
            leaves.show(&**p, step, &mut self.model);
        }
        let mut pass = self.measure(Some(batch), signals)?;
        self.charge(batch.rows(), Signals { gradient: true, rows: 0, ..signals });
        if signals.any() {
            let views = Views::new(&self.model, &pass, self.work.sparsifier.kind());
            self.work.sparsifier.observe(step, &views.targets());
        }
        if let Some(limit) = self.spec.clip {
            clip_by_norm(&mut pass.gradients, limit);
        }
        let factor = self.spec.schedule.factor(step, self.length(), self.spec.warmup);
        let lr = self.spec.optimizer.lr() * factor;
        if let OptimizerSpec::Lbfgs { memory, weight_decay } = self.spec.optimizer {
            self.search(batch, &pass, memory, weight_decay)?;
        } else {
            let count = self.position.step - self.position.since + 1;
            if let Some(mut leaves) = self.leaves.take() {
                self.move_leaves(&mut leaves, batch, &mut pass, lr, count)?;
                self.leaves = Some(leaves);
                let phases = self.work.parametrization.as_ref().map_or(0, |p| p.phases());
                (1..phases).for_each(|_| self.charge(batch.rows(), Signals::GRADIENT));
            }
            for (i, (param, gradient)) in self.model.params.iter_mut().zip(&pass.gradients).enumerate() {
                if !self.leaves.as_ref().is_some_and(|l| l.has(i)) {
                    self.optimizer.update(i, param, gradient, lr, count);
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
    fn move_leaves(
        &mut self,
        leaves: &mut Leaves,
        batch: &Batch<T>,
        pass: &mut Step<T>,
        lr: f64,
        count: u64,
    ) -> Result<()> {
        let step = self.local();
        let Some(p) = &self.work.parametrization else { return Ok(()) };
        if p.phases() == 0 {
            leaves.update(&**p, step, &pass.gradients, lr, count);
        }
        for phase in 0..p.phases() {
            if phase > 0 {
                let gradients = self.measure(Some(batch), Signals::NONE)?.gradients;
                leaves.own_step(&**p, phase, &gradients, lr);
            } else {
                leaves.own_step(&**p, phase, &pass.gradients, lr);
            }
            leaves.show(&**p, step, &mut self.model);
        }
        leaves.show(&**p, step + 1, &mut self.model);
        Ok(())
    }

    /// One iteration of limited-memory BFGS on the loss of this batch, from the pass at its start. Slots `i` and
    /// `memory + i` of the optimizer hold the i-th step and its change of the gradient, oldest first, zero where there
    /// is none yet.
    fn search(&mut self, batch: &Batch<T>, pass: &Step<T>, memory: usize, decay: f64) -> Result<()> {
        let (smoothing, mode) = (self.spec.smoothing, self.mode());
        let trained: Vec<usize> =
            (0..self.model.params.len()).filter(|&i| self.model.params[i].role.trained()).collect();
        let flat = |tensors: &mut dyn Iterator<Item = &Tensor<T>>| -> Vec<f64> {
            tensors.flat_map(|t| t.data().iter().map(|v| v.f64())).collect()
        };
        let slot = |k: usize| flat(&mut trained.iter().map(|&i| &self.optimizer.state[i][k]));
        let pairs: Vec<_> = (0..memory).filter_map(|k| lbfgs::Pair::new(slot(k), slot(memory + k))).collect();
        let before = flat(&mut trained.iter().map(|&i| &self.model.params[i].value));
        // λ of ½ λ |w|² over weights.
        let decays: Vec<f64> = {
            let of = |&i: &usize| {
                let p = &self.model.params[i];
                std::iter::repeat_n(if p.weight() { decay } else { 0.0 }, p.value.len())
            };
            trained.iter().flat_map(of).collect()
        };
        let whole = |x: &[f64], loss: f64, mut g: Vec<f64>| {
            let penalty: f64 = x.iter().zip(&decays).map(|(x, d)| 0.5 * d * x * x).sum();
            g.iter_mut().zip(x).zip(&decays).for_each(|((g, x), d)| *g += d * x);
            (loss + penalty, g)
        };
        let gradient = |pass: &Step<T>| flat(&mut trained.iter().map(|&i| &pass.gradients[i]));
        let (value, start) = whole(&before, pass.loss, gradient(pass));
        let model = &mut self.model;
        let mut set = |x: &[f64]| {
            let mut x = x.iter();
            for &i in &trained {
                model.params[i].value.data_mut().iter_mut().zip(&mut x).for_each(|(w, &x)| *w = T::of(x));
            }
            Step::run(model, batch, smoothing, Signals::NONE, Vec::new(), mode, &[])
        };
        let mut failure = None;
        let found = lbfgs::iterate(&before, value, &start, &pairs, |x| match set(x) {
            Ok(pass) => whole(x, pass.loss, gradient(&pass)),
            Err(e) => {
                failure = Some(e);
                (f64::NAN, vec![0.0; x.len()])
            }
        });
        if let Some(e) = failure {
            return Err(e);
        }
        let after = found.as_ref().map_or(&before, |f| &f.x);
        let mut from = 0;
        for &i in &trained {
            let value = &mut self.model.params[i].value;
            let span = from..from + value.len();
            from = span.end;
            value.data_mut().iter_mut().zip(&after[span.clone()]).for_each(|(w, &x)| *w = T::of(x));
            let slots = &mut self.optimizer.state[i];
            match &found {
                // No step lowers the loss along this direction: forget what it was made of.
                None => slots.iter_mut().for_each(|s| s.data_mut().fill(T::ZERO)),
                Some(found) => {
                    for (half, new, old) in [(0, &found.x, &before), (memory, &found.gradient, &start)] {
                        slots[half..half + memory].rotate_left(1);
                        let difference = new[span.clone()].iter().zip(&old[span.clone()]).map(|(a, b)| T::of(a - b));
                        slots[half + memory - 1].data_mut().iter_mut().zip(difference).for_each(|(s, d)| *s = d);
                    }
                }
            }
        }
        Ok(())
    }

    /// Asks the sparsifier, or the procedure, for its edits and applies them.
    fn edit(&mut self, pass: &Step<T>, by_procedure: bool) -> Result<()> {
        let (step, kind) = (self.local(), self.work.sparsifier.kind());
        let layerwise = self.work.sparsifier.layerwise() && !by_procedure;
        let Work { sparsifier, procedure, .. } = &mut self.work;
        let (explored, counted) = (&mut self.explored, kind == Kind::Weights && self.model.nonzeros() <= COUNTED);
        let mut ask = |targets: &[Target]| -> nnz_core::Result<Vec<Edit>> {
            let edits = match procedure {
                Some(p) if by_procedure => p.edit(targets),
                _ => sparsifier.rewire(step, targets),
            }?;
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
        let how = Editing { kind, layerwise, storage: self.spec.storing(), fresh };
        let moved = rewire(&mut self.model, optimizer, average, &mut ask, pass, how)?;
        self.position.born += moved.born;
        self.position.died += moved.died;
        self.look();
        Ok(())
    }

    /// Entries that existed at any time / all prunable entries.
    fn share_explored(&self) -> Option<f64> {
        let rewired = self.explored.iter().any(|e| e.births > 0);
        let places = self.model.places(Kind::Weights);
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

    fn look(&mut self) {
        self.cost = None;
        if let Some(history) = &mut self.history {
            history.look(&self.model.params, self.position.step);
        }
    }

    fn finish_epoch(&mut self, epoch: u32, loss: f64) -> Result<EpochRecord> {
        let accuracy = self.evaluate(&self.data.train, &self.validation)?.accuracy;
        let explored = self.share_explored();
        let p = &mut self.position;
        let density = self.model.density();
        let (step, born, died, multiply_adds) = (p.step, p.born, p.died, p.multiply_adds);
        let record = EpochRecord { epoch, step, loss, accuracy, density, born, died, explored, multiply_adds };
        (p.loss_sum, p.rows_seen, p.born, p.died) = (0.0, 0, 0, 0);
        p.history.push(record.clone());
        Ok(record)
    }

    /// Measures [`Trainer::result`] on rows of a split of the training's data.
    pub fn evaluate(&self, split: &Split, rows: &[u32]) -> Result<Evaluation> {
        evaluate(&self.result(), self.data, split, rows, &self.frame)
    }
}
