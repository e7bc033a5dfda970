use crate::data::{Dataset, Normalization, Split, order};
use crate::layers::Statistics;
use crate::ops::{self, ZeroProbe};
use crate::{
    Error, Layout, LrSchedule, Mode, Model, ModelSpec, Moved, Optimizer, OptimizerSpec, Pass, Result, Storage, Tensor,
    Var,
};
use nnz_core::{Plan, Setting, Shape, Signals, Sparsifier, Target, Topology, Zero};
use nnz_kernels::Real;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;

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
    /// Whether the method may prune the classifier at the end too.
    pub prune_head: bool,
    /// Fraction of the training rows held out for validation.
    pub validation: f64,
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
            prune_head: false,
            validation: 0.1,
        }
    }
}

/// One pass over the training data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// From 1.
    pub epoch: u32,
    /// Optimizer steps done.
    pub step: u64,
    /// Mean training loss over the epoch.
    pub loss: f64,
    /// Accuracy on the validation split after the epoch.
    pub accuracy: f64,
    /// Density of the prunable weights after the epoch.
    pub density: f64,
    /// Connections made during the epoch.
    pub born: usize,
    /// Connections removed during the epoch.
    pub died: usize,
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

/// What an evaluation saw.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean cross-entropy.
    pub loss: f64,
    /// Share of rows whose class was named.
    pub accuracy: f64,
    /// Class named for each row, and the probability it was given.
    pub predictions: Vec<(u32, f32)>,
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
    pub sparsifier: serde_json::Value,
}

/// A training under way: model, optimizer, method, data and position.
pub struct Trainer<'a, T> {
    data: &'a Dataset,
    spec: TrainSpec,
    seed: u64,
    rows: Vec<u32>,
    validation: Vec<u32>,
    normalization: Normalization,
    sparsifier: Box<dyn Sparsifier>,
    /// The network.
    pub model: Model<T>,
    /// The update rule with its state.
    pub optimizer: Optimizer<T>,
    /// Where it stands.
    pub position: Position,
    order: (u64, Vec<u32>),
    /// Time spent in the steps of the current epoch; never part of a result.
    seconds: f64,
}

/// The shapes a method may change.
pub fn prunable(spec: &ModelSpec, prune_head: bool) -> Vec<Shape> {
    spec.weights().into_iter().filter(|s| prune_head || !s.head).collect()
}

/// Steps of an epoch over `rows` rows.
pub fn steps_per_epoch(rows: usize, batch: usize) -> u64 {
    rows.div_ceil(batch.max(1)) as u64
}

impl<'a, T: Real> Trainer<'a, T> {
    /// A fresh network on `data`, built for a method that `build` makes once the length of the run is known.
    pub fn new(
        model: &ModelSpec,
        data: &'a Dataset,
        spec: &TrainSpec,
        seed: u64,
        build: impl FnOnce(&Setting) -> nnz_core::Result<Box<dyn Sparsifier>>,
    ) -> Result<Self> {
        Self::build(data, spec, seed, build, |sparsifier| {
            let shapes = prunable(model, spec.prune_head);
            let shapes: Vec<&Shape> = shapes.iter().collect();
            sparsifier.check(&shapes)?;
            let births = sparsifier.birth(&shapes)?;
            Model::born(model, births, spec.storage, spec.prune_head, seed)
        })
    }

    /// Training that goes on from the values of `model`, with the normalization it was trained under. A method that
    /// gives birth to a topology is refused: it would throw the trained values away.
    pub fn from_model(
        model: Model<T>,
        normalization: Normalization,
        data: &'a Dataset,
        spec: &TrainSpec,
        seed: u64,
        build: impl FnOnce(&Setting) -> nnz_core::Result<Box<dyn Sparsifier>>,
    ) -> Result<Self> {
        let mut trainer = Self::build(data, spec, seed, build, |sparsifier| {
            check_trained(sparsifier, &model)?;
            Ok(model)
        })?;
        trainer.normalization = normalization;
        Ok(trainer)
    }

    fn build(
        data: &'a Dataset,
        spec: &TrainSpec,
        seed: u64,
        build: impl FnOnce(&Setting) -> nnz_core::Result<Box<dyn Sparsifier>>,
        model: impl FnOnce(&dyn Sparsifier) -> Result<Model<T>>,
    ) -> Result<Self> {
        if spec.batch == 0 {
            return Err(Error::Refused("a batch needs at least one row (`--batch`)".into()));
        }
        let (rows, validation) = data.split_validation(spec.validation, seed)?;
        let per_epoch = steps_per_epoch(rows.len(), spec.batch);
        let setting = Setting { seed, steps: per_epoch * u64::from(spec.epochs), steps_per_epoch: per_epoch };
        let sparsifier = build(&setting)?;
        let model = model(&*sparsifier)?;
        let optimizer = Optimizer::new(spec.optimizer, &model.params);
        let normalization = Normalization::of(&data.train, &rows)?;
        Ok(Self {
            data,
            spec: spec.clone(),
            seed,
            rows,
            validation,
            normalization,
            sparsifier,
            model,
            optimizer,
            position: Position::default(),
            order: (u64::MAX, Vec::new()),
            seconds: 0.0,
        })
    }

    /// Goes to a saved position; model and optimizer must have been set to what was saved with it.
    pub fn resume(&mut self, position: Position) -> Result<()> {
        self.sparsifier.restore(&position.sparsifier)?;
        self.position = position;
        Ok(())
    }

    /// Steps in the whole run.
    pub fn steps(&self) -> u64 {
        self.per_epoch() * u64::from(self.spec.epochs)
    }

    /// How inputs are normalized: mean and deviation over the training rows.
    pub fn normalization(&self) -> Normalization {
        self.normalization
    }

    fn per_epoch(&self) -> u64 {
        steps_per_epoch(self.rows.len(), self.spec.batch)
    }

    /// Trains until the end, or until `observe` answers `false`. Returns whether the end was reached.
    pub fn run(&mut self, mut observe: impl FnMut(&Self, &Progress) -> bool) -> Result<bool> {
        while self.position.step < self.steps() {
            let progress = self.advance()?;
            if !observe(self, &progress) {
                return Ok(self.position.step == self.steps());
            }
        }
        Ok(true)
    }

    /// One step: the method's plan, then forward, backward and update.
    pub fn advance(&mut self) -> Result<Progress> {
        let started = Instant::now();
        let step = self.position.step;
        let (epoch, at) = (step / self.per_epoch(), (step % self.per_epoch()) as usize);
        let (input, labels) = self.batch(epoch, at)?;
        let plan = self.sparsifier.plan(step);
        let (loss, edited) = match plan {
            Plan::Rewire(signals) if signals.any() => {
                let pass = Step::run(&self.model, &input, &labels, signals, self.mode())?;
                self.rewire(step, &pass)?;
                (pass.loss, true)
            }
            Plan::Rewire(_) => {
                self.rewire(step, &Step::empty())?;
                (self.update(&input, &labels, Signals::NONE)?.loss, true)
            }
            Plan::Observe(signals) => (self.update(&input, &labels, signals)?.loss, false),
            Plan::Rest => (self.update(&input, &labels, Signals::NONE)?.loss, false),
        };
        if !loss.is_finite() {
            let broken = self.model.params.iter().find(|p| p.value.data().iter().any(|v| !v.f64().is_finite()));
            let layer = broken.map(|p| format!(", and `{}` holds values that are no numbers", p.shape.name));
            return Err(Error::NonFinite { loss, step, layer: layer.unwrap_or_default() });
        }
        self.position.step += 1;
        self.position.loss_sum += loss * labels.len() as f64;
        self.position.rows_seen += labels.len();
        let last = at as u64 + 1 == self.per_epoch();
        if self.position.step == self.steps() {
            // A schedule may end exactly at the end of training: one last plan, on the last batch.
            if let Plan::Rewire(signals) = self.sparsifier.plan(self.position.step) {
                let pass = match signals.any() {
                    true => Step::run(&self.model, &input, &labels, signals, self.mode())?,
                    false => Step::empty(),
                };
                self.rewire(self.position.step, &pass)?;
            }
        }
        let loss = self.position.loss_sum / self.position.rows_seen.max(1) as f64;
        self.seconds += started.elapsed().as_secs_f64();
        let finished = match last {
            true => Some((self.finish_epoch(epoch as u32 + 1, loss)?, std::mem::take(&mut self.seconds))),
            false => None,
        };
        if edited || last {
            self.position.sparsifier = self.sparsifier.state();
        }
        Ok(Progress {
            steps: (self.position.step, self.steps()),
            epochs: (epoch as u32 + 1, self.spec.epochs),
            loss,
            accuracy: self.position.history.last().map(|e| e.accuracy),
            density: self.model.density(),
            finished,
        })
    }

    fn batch(&mut self, epoch: u64, at: usize) -> Result<(Tensor<T>, Vec<u32>)> {
        if self.order.0 != epoch {
            let shuffled = order(self.seed, epoch, self.rows.len() as u32);
            self.order = (epoch, shuffled.into_iter().map(|i| self.rows[i as usize]).collect());
        }
        let rows = self.order.1.chunks(self.spec.batch).nth(at).unwrap_or_default();
        gather(self.data, &self.data.train, rows, self.normalization)
    }

    fn mode(&self) -> Mode {
        Mode::Train { seed: self.seed, step: self.position.step }
    }

    fn update(&mut self, input: &Tensor<T>, labels: &[u32], signals: Signals) -> Result<Step<T>> {
        let pass = Step::run(&self.model, input, labels, signals, self.mode())?;
        if signals.any() {
            let views = Views::new(&self.model, &pass);
            self.sparsifier.observe(self.position.step, &views.targets());
            self.position.sparsifier = self.sparsifier.state();
        }
        let lr =
            self.spec.optimizer.lr() * self.spec.schedule.factor(self.position.step, self.steps(), self.spec.warmup);
        for (i, (param, gradient)) in self.model.params.iter_mut().zip(&pass.gradients).enumerate() {
            self.optimizer.update(i, param, gradient, lr, self.position.step + 1);
        }
        self.model.absorb(&pass.statistics);
        Ok(pass)
    }

    fn rewire(&mut self, step: u64, pass: &Step<T>) -> Result<()> {
        let moved =
            rewire(&mut self.model, Some(&mut self.optimizer), &mut *self.sparsifier, step, pass, self.spec.storage)?;
        self.position.born += moved.born;
        self.position.died += moved.died;
        Ok(())
    }

    fn finish_epoch(&mut self, epoch: u32, loss: f64) -> Result<EpochRecord> {
        let accuracy = self.evaluate(&self.data.train, &self.validation)?.accuracy;
        let p = &mut self.position;
        let density = self.model.density();
        let record = EpochRecord { epoch, step: p.step, loss, accuracy, density, born: p.born, died: p.died };
        (p.loss_sum, p.rows_seen, p.born, p.died) = (0.0, 0, 0, 0);
        p.history.push(record.clone());
        Ok(record)
    }

    /// Loss, accuracy and predictions on rows of a split of the training's data.
    pub fn evaluate(&self, split: &Split, rows: &[u32]) -> Result<Evaluation> {
        evaluate(&self.model, self.data, split, rows, self.normalization)
    }
}

fn gather<T: Real>(data: &Dataset, split: &Split, rows: &[u32], norm: Normalization) -> Result<(Tensor<T>, Vec<u32>)> {
    let mut input = Tensor::zeros(&[rows.len(), data.features()]);
    data.fill(split, rows, norm, input.data_mut())?;
    Ok((input, rows.iter().map(|&r| split.labels[r as usize]).collect()))
}

/// Loss, accuracy and predictions of a model on rows of a split of `data`.
pub fn evaluate<T: Real>(
    model: &Model<T>,
    data: &Dataset,
    split: &Split,
    rows: &[u32],
    norm: Normalization,
) -> Result<Evaluation> {
    let mut predictions = Vec::with_capacity(rows.len());
    let (mut loss, mut right) = (0.0, 0usize);
    for chunk in rows.chunks(256) {
        let (input, labels) = gather::<T>(data, split, chunk, norm)?;
        let mut p = model.infer(input)?;
        let classes = p.rows_cols().1;
        nnz_kernels::rows::softmax(p.data_mut(), classes);
        for (row, &label) in p.data().chunks_exact(classes).zip(&labels) {
            let best = (1..classes).fold(0, |b, i| if row[i] > row[b] { i } else { b });
            loss -= row[label as usize].f64().max(1e-38).ln();
            right += usize::from(best as u32 == label);
            predictions.push((best as u32, row[best].f64() as f32));
        }
    }
    let n = rows.len().max(1) as f64;
    Ok(Evaluation { loss: loss / n, accuracy: right as f64 / n, predictions })
}

/// Prunes a trained model once, without training: the method's plan at step 0. `batch` is needed only by methods that
/// ask for gradients.
pub fn prune<T: Real>(
    model: &mut Model<T>,
    sparsifier: &mut dyn Sparsifier,
    batch: Option<(&Dataset, &[u32], Normalization)>,
    storage: Storage,
) -> Result<Moved> {
    check_trained(sparsifier, model)?;
    let Plan::Rewire(signals) = sparsifier.plan(0) else {
        return Err(Error::Refused("this method changes nothing without training; give `--finetune EPOCHS`".into()));
    };
    let pass = match batch {
        Some((data, rows, norm)) if signals.any() => {
            let (input, labels) = gather::<T>(data, &data.train, rows, norm)?;
            Step::run(model, &input, &labels, signals, Mode::Use)?
        }
        None if signals.any() => {
            return Err(Error::Refused("this method scores by gradients and needs data: give `--data DATA`".into()));
        }
        _ => Step::empty(),
    };
    rewire(model, None, sparsifier, 0, &pass, storage)
}

fn check_trained<T: Real>(sparsifier: &dyn Sparsifier, model: &Model<T>) -> Result<()> {
    let shapes: Vec<&Shape> = model.weights().filter(|p| p.prunable).map(|p| &p.shape).collect();
    sparsifier.check(&shapes)?;
    if sparsifier.birth(&shapes)?.is_some() {
        return Err(Error::Refused(
            "this method starts from a random topology and would throw the trained weights away; methods that prune a \
             trained model are magnitude, gmp and snip"
                .into(),
        ));
    }
    Ok(())
}

/// One forward and backward pass, and the signals a method asked for.
struct Step<T> {
    loss: f64,
    /// One for each parameter; none in [`Step::empty`].
    gradients: Vec<Tensor<T>>,
    /// Zeros of largest |gradient| of each parameter.
    zeros: Vec<Vec<Zero>>,
    /// For running statistics.
    statistics: Vec<Statistics<T>>,
}

impl<T: Real> Step<T> {
    fn empty() -> Self {
        Self { loss: f64::NAN, gradients: Vec::new(), zeros: Vec::new(), statistics: Vec::new() }
    }

    fn run(model: &Model<T>, input: &Tensor<T>, labels: &[u32], signals: Signals, mode: Mode) -> Result<Self> {
        let leaves: Vec<Var<T>> = model.params.iter().map(|p| Var::leaf(p.value.clone())).collect();
        let wanted = |p: &crate::Param<T>| match p.prunable {
            true => (signals.zeros * p.nnz() as f64).ceil() as usize,
            false => 0,
        };
        let probes: Vec<Option<Arc<ZeroProbe>>> = model
            .params
            .iter()
            .map(|p| {
                Some(wanted(p)).filter(|&n| n > 0).map(|count| Arc::new(ZeroProbe { count, ..Default::default() }))
            })
            .collect();
        let pass = Pass { mode, probes: &probes, taps: None };
        let (logits, statistics) = model.forward(&Var::constant(input.clone()), &leaves, pass)?;
        let loss = ops::cross_entropy(&logits, labels);
        let value = loss.value().data()[0].f64();
        let mut found = loss.backward(false)?;
        let mut zeros = vec![Vec::new(); model.params.len()];
        let mut gradients = Vec::with_capacity(leaves.len());
        for (i, (param, leaf)) in model.params.iter().zip(leaves).enumerate() {
            let mut gradient = found.take(&leaf).unwrap_or_else(|| Tensor::zeros(param.value.shape()));
            if let Some(probe) = &probes[i] {
                zeros[i] = match &param.layout {
                    Layout::Sparse(_) => std::mem::take(&mut *probe.found.lock().unwrap_or_else(|e| e.into_inner())),
                    Layout::Masked(mask) => ops::top_zeros(&gradient, |p| mask.get(p), probe.count),
                    Layout::Dense => Vec::new(),
                };
            }
            param.mask_gradient(&mut gradient);
            gradients.push(gradient);
        }
        Ok(Self { loss: value, gradients, zeros, statistics })
    }
}

/// What a method sees of the prunable parameters.
struct Views<'a> {
    parts: Vec<View<'a>>,
}

struct View<'a> {
    param: usize,
    shape: &'a Shape,
    topology: Topology,
    values: Vec<f32>,
    gradient: Vec<f32>,
    zeros: &'a [Zero],
}

impl<'a> Views<'a> {
    fn new<T: Real>(model: &'a Model<T>, pass: &'a Step<T>) -> Self {
        let narrow = |v: Vec<T>| -> Vec<f32> { v.into_iter().map(|x| x.f64() as f32).collect() };
        let view = |(i, p): (usize, &'a crate::Param<T>)| View {
            param: i,
            shape: &p.shape,
            topology: p.topology(),
            values: narrow(p.entries(&p.value)),
            gradient: pass.gradients.get(i).map_or_else(Vec::new, |g| narrow(p.entries(g))),
            zeros: pass.zeros.get(i).map_or(&[], Vec::as_slice),
        };
        Self { parts: model.params.iter().enumerate().filter(|(_, p)| p.prunable).map(view).collect() }
    }

    fn targets(&self) -> Vec<Target<'_>> {
        let parts = self.parts.iter().enumerate();
        parts
            .map(|(index, View { shape, topology, values, gradient, zeros, .. })| Target {
                index,
                shape,
                topology,
                values,
                gradient,
                zeros,
            })
            .collect()
    }
}

/// Asks the method for its edits and applies them.
fn rewire<T: Real>(
    model: &mut Model<T>,
    mut optimizer: Option<&mut Optimizer<T>>,
    sparsifier: &mut dyn Sparsifier,
    step: u64,
    pass: &Step<T>,
    storage: Storage,
) -> Result<Moved> {
    let views = Views::new(model, pass);
    let edits = sparsifier.rewire(step, &views.targets())?;
    let params: Vec<usize> = views.parts.iter().map(|v| v.param).collect();
    if edits.len() != params.len() {
        return Err(Error::Refused(format!("the method made {} edits for {} targets", edits.len(), params.len())));
    }
    let mut sum = Moved { born: 0, died: 0 };
    for (i, edit) in params.into_iter().zip(edits) {
        let mut none = Vec::new();
        let state = optimizer.as_mut().map_or(&mut none, |o| &mut o.state[i]);
        if let Some(moved) = model.params[i].apply(edit, storage, state)? {
            sum.born += moved.born;
            sum.died += moved.died;
        }
    }
    Ok(sum)
}
