//! Carrying out a recipe in a run directory.
//!
//! A request is the hash of a resolved recipe, the data's checksum and the methods' revisions, so the same command finds its
//! own directory again: a finished run is shown, an interrupted one resumes bit for bit. A run's id adds the thresholds of
//! storage `auto`, which are chosen when a run begins and travel with all its files.

pub mod record;

use crate::scores::Scores;
use crate::stats::median;
use crate::{Arm, Error, Precision, Pretrain, Recipe, Result, history, report, summarize};
use nnz_core::{Dense, MethodInstance, Registry, Setting, TargetKind, Topology};
use nnz_engine::cost::{Machine, Use};
use nnz_engine::data::{Dataset, Inputs, Normalization};
use nnz_engine::file::{Header, Packing, is_checkpoint, load_model, save_model, write_atomically};
use nnz_engine::{
    History, Model, ModelSpec, Number, Param, Preprocessing, Progress, SparseThresholds, Storage, Task, Tensor,
    TrainSpec, Trainer,
};
use record::{ArmRecord, DataRecord, LayerRecord, MachineRecord, Misread, RunRecord, SeedRecord};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Raised when an engine change alters results, so that old runs are not mistaken for new ones.
const ENGINE_REVISION: u32 = 3;

/// Number of misclassified rows that a record keeps.
const MISREAD: usize = 24;

/// Where and how a recipe is run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The run directory; by default `runs/ID`.
    pub dir: Option<PathBuf>,
    /// Discard an earlier result of the same run and start anew.
    pub again: bool,
    /// Refuse to start anew: there must be a run to resume.
    pub resume: bool,
    /// Do not make batches ahead on a second thread. Changes no result.
    pub one_thread: bool,
    /// Fit to the run also the intervals that the recipe gives, which are made for another scale.
    pub smoke: bool,
    /// Remarks on the request, which are made once it is accepted.
    pub notes: Vec<String>,
}

/// Observes a run; returns whether to go on.
pub trait Observer {
    /// A remark for the user.
    fn note(&mut self, _text: &str) {}
    /// Network `index` of `count` begins.
    fn begin(&mut self, _arm: &str, _seed: u64, _index: usize, _count: usize) {}
    /// `done` of `of` parts of an experiment are finished. `false` saves and stops.
    fn part(&mut self, _arm: &str, _done: u64, _of: u64) -> bool {
        true
    }
    /// A step was made. `false` saves and stops.
    fn step(&mut self, _arm: &str, _progress: &Progress) -> bool {
        true
    }
}

/// A completed run.
pub struct Outcome {
    /// Its record.
    pub record: RunRecord,
    /// Its directory.
    pub dir: PathBuf,
    /// Whether it had already finished before.
    pub found: bool,
}

/// Carries out a recipe, or finds its finished run.
pub fn run(recipe: &Recipe, registry: Registry, options: &Options, observer: &mut dyn Observer) -> Result<Outcome> {
    let given = |arm: &Arm| if options.smoke { toml::Table::new() } else { arm.options.clone() };
    let given: Vec<toml::Table> = recipe.arms.iter().map(given).collect();
    let mut recipe = recipe.clone().resolve(registry)?;
    let loaded = nnz_data::Store::open()?.load(&recipe.data)?;
    let notes = loaded.notes;
    notes.iter().for_each(|note| observer.note(note));
    let mut data = loaded.dataset;
    if recipe.train.task == Task::Regression && !data.real() {
        data = data.numbers().map_err(nnz_engine::Error::from)?;
    }
    for arm in &recipe.arms {
        recipe.training(arm)?.check(data.image)?;
    }
    let start = match &recipe.from {
        Some(from) if recipe.precision != Precision::F32 => {
            return Err(Error::Refused(format!(
                "{} has numbers of 32 bits, in which it is trained; leave out f64",
                from.network
            )));
        }
        Some(from) => Some(from.load(&data, &recipe.train)?),
        None => None,
    };
    let spec = match &start {
        Some((model, header)) => measured(header, recipe.train.task).map(|()| model.spec.clone())?,
        None => recipe.model.spec(&data, recipe.train.task)?,
    };
    let task = recipe.train.task;
    let network = |arm: &Arm| arm.model.as_ref().map_or(Ok(spec.clone()), |m| m.spec(&data, task));
    let mut left = Vec::new();
    for arm in &recipe.arms {
        refuse_dense_storage(&recipe, arm)?;
        let start = start.as_ref().map(|s| starting(&recipe, registry, arm, s)).transpose()?;
        let (start, notes) = start.unzip();
        let notes = notes.into_iter().flatten().map(|note| format!("{}: {note}", arm.name));
        left.extend(notes);
        validate_arms(&recipe, registry, arm, &network(arm)?, start.as_ref().map(|(model, _)| model))?;
    }
    let fitted = fit_to_run(&mut recipe, registry, &given, &data)?;
    let pretrain = match &recipe.pretrain {
        Some(pretrain) => Some(other_data(pretrain, &data)?),
        None => None,
    };
    // Impossible choices are refused before anything is written.
    let chooser = Machine::chooser()?;
    let request = request_id(&recipe, registry, &data, pretrain.as_ref(), start.as_ref())?;
    let dir = options.dir.clone().unwrap_or_else(|| Path::new("runs").join(&request));
    let old = dir.join("id");
    if options.resume && !old.exists() {
        return Err(Error::file(&dir, "holds no run to go on from; leave out --resume to start it"));
    }
    let _lock = occupy(&dir, "run", "--run-dir")?;
    remove_partial_files(&dir);
    let found = fs::read_to_string(&old).ok().map(|id| id.trim().to_string());
    if let Some(other) = found.as_ref().filter(|id| id.split('-').next() != Some(&request)) {
        let why = format!("holds run {other}, not this one ({request}); give another --run-dir");
        return Err(Error::file(&dir, why));
    }
    let before = match options.again {
        true => None,
        false => chosen_before(&dir)?,
    };
    if let (Some(before), false) = (&before, recipe.train.crossovers.is_empty())
        && *before != recipe.train.crossovers
    {
        return Err(Error::file(
            &dir,
            "holds this run with other [train.crossovers]; give another --run-dir, or --again",
        ));
    }
    if options.again {
        clear(&dir)?;
    } else if dir.join("record.json").exists() {
        return Ok(Outcome { record: read_json(&dir.join("record.json"))?, dir, found: true });
    }
    options.notes.iter().chain(&fitted).chain(&left).for_each(|note| observer.note(note));
    let going_on = before.is_some();
    if choose(&mut recipe, &spec, before, chooser)? {
        observer.note("storage auto follows what was measured on this machine; the choice is in the run's recipe.toml");
    }
    let id = match found.filter(|_| going_on) {
        Some(id) => id,
        None => identity(&request, &recipe.train.crossovers)?,
    };
    // First of all, since it marks the owner of this directory.
    write(&old, id.as_bytes())?;
    folder(&dir, "arms")?;
    write(&dir.join("recipe.toml"), recipe.to_toml()?.as_bytes())?;
    let count = recipe.arms.len() * recipe.seeds.len();
    let mut arms: Vec<ArmRecord> = Vec::new();
    for (a, arm) in recipe.arms.iter().enumerate() {
        let model = match &arm.narrow_to {
            Some(of) => {
                let nonzeros = arms.iter().find(|r| r.name == *of).map_or(0, |r| r.nonzeros);
                spec.narrowed(nonzeros)
            }
            None => network(arm)?,
        };
        let start = start.as_ref().map(|s| starting(&recipe, registry, arm, s)).transpose()?.map(|(start, _)| start);
        let mut seeds = Vec::new();
        let mut seconds: Vec<f64> = Vec::new();
        for (s, &seed) in recipe.seeds.iter().enumerate() {
            observer.begin(&arm.name, seed, a * recipe.seeds.len() + s, count);
            let job = Job {
                recipe: &recipe,
                registry,
                arm,
                train: recipe.training(arm)?,
                model: &model,
                data: &data,
                seed,
                dir: &dir,
                id: &id,
                one_thread: options.one_thread,
                pretrain: pretrain.as_ref(),
                start: start.as_ref(),
            };
            let (mut record, times) = match recipe.precision {
                Precision::F32 => job.run::<f32>(observer, s == 0)?,
                Precision::F64 => job.run::<f64>(observer, s == 0)?,
            };
            record.seconds_per_epoch = median(&times);
            seeds.push(record);
            seconds.extend(times);
        }
        arms.push(summarize_arm(arm, registry, seeds, &seconds));
    }
    let record = RunRecord {
        id: id.clone(),
        title: recipe.title.clone(),
        recipe: recipe.to_toml()?,
        data: DataRecord::of(&data, notes)?,
        model: recipe.model.name().into(),
        task: recipe.train.task,
        machine: machine(),
        arms,
    };
    // The record comes last: if it exists, everything does.
    write_report(&record, &dir)?;
    write_json(&dir.join("record.json"), &record)?;
    Ok(Outcome { record, dir, found: false })
}

/// Writes `report.html` and the data of its figures under `figures/`.
pub fn write_report(record: &RunRecord, dir: &Path) -> Result<PathBuf> {
    let path = dir.join("report.html");
    write(&path, report::html(record).as_bytes())?;
    let figures = folder(dir, "figures")?;
    for (name, text) in report::csv(record) {
        write(&figures.join(name), text.as_bytes())?;
    }
    Ok(path)
}

/// The record of a finished run.
pub fn read_record(dir: &Path) -> Result<RunRecord> {
    read_json(&dir.join("record.json"))
}

/// One network of a run.
struct Job<'a> {
    recipe: &'a Recipe,
    registry: Registry,
    arm: &'a Arm,
    /// Training settings of this arm.
    train: TrainSpec,
    model: &'a ModelSpec,
    data: &'a Dataset,
    seed: u64,
    dir: &'a Path,
    id: &'a str,
    one_thread: bool,
    /// Data that the network is pretrained on.
    pretrain: Option<&'a Dataset>,
    /// The trained network that it starts from.
    start: Option<&'a (Model<f32>, Header)>,
}

impl Job<'_> {
    /// The pretrained network: read from the run's directory, or trained now. If interrupted, it is trained again.
    fn pretrained<T: Number>(
        &self,
        data: &Dataset,
        epochs: u32,
        observer: &mut dyn Observer,
    ) -> Result<(Model<T>, Preprocessing)> {
        let path = self.dir.join("models").join(format!("pretrained-{}.safetensors", self.seed));
        if !path.exists() {
            let spec = TrainSpec { epochs, ..self.train.clone() };
            let mut trainer: Trainer<T> = Trainer::new(self.model, data, &spec, self.seed, |_| Ok(Dense))?;
            trainer.prefetch = !self.one_thread;
            if !trainer.run(|_, progress| observer.step("pretraining", progress))? {
                return Err(Error::Interrupted { dir: self.dir.into() });
            }
            let header = Header { data: data.name.clone(), ..self.header(&trainer) };
            folder(self.dir, "models")?;
            save_model(&path, &trainer.result(), &header, Packing::Dense)?;
        }
        let (model, header) = load_model(&path, self.train.policy_ref())?;
        Ok((model, header.frame()))
    }

    /// The record of this network and the seconds of its epochs; found, resumed or trained.
    fn run<T: Number>(&self, observer: &mut dyn Observer, keep: bool) -> Result<(SeedRecord, Vec<f64>)> {
        let name = format!("{}-{}", self.arm.name, self.seed);
        let done = self.dir.join("arms").join(format!("{name}.json"));
        let timings = self.dir.join("timings.json");
        let mut times: BTreeMap<String, Vec<f64>> =
            if timings.exists() { read_json(&timings)? } else { BTreeMap::new() };
        let checkpoint = self.dir.join("checkpoint.safetensors");
        let run = format!("{}/{name}", self.id);
        if done.exists() {
            // A process killed between the two last lines of this function left its checkpoint.
            if is_checkpoint(&checkpoint, &run) {
                gone(&checkpoint)?;
            }
            return Ok((read_json(&done)?, times.remove(&name).unwrap_or_default()));
        }
        let build = |setting: &Setting| work(self.arm, self.registry, setting);
        let spec = &self.train;
        let mut trainer: Trainer<T> = match (self.pretrain, &self.recipe.pretrain) {
            (Some(data), Some(pretrain)) => {
                let (model, frame) = self.pretrained(data, pretrain.epochs, observer)?;
                Trainer::from_model(model, frame, self.data, spec, self.seed, build)?
            }
            _ => match self.start {
                Some((model, header)) => {
                    Trainer::starting_from(converted(model), header.frame(), self.data, spec, self.seed, build)?
                }
                None => Trainer::new(self.model, self.data, spec, self.seed, build)?,
            },
        };
        trainer.prefetch = !self.one_thread;
        if checkpoint.exists() {
            trainer.resume(&checkpoint, &run)?;
            times.entry(name.clone()).or_default().truncate(trainer.position.history.len());
        } else {
            times.insert(name.clone(), Vec::new());
        }
        // Topology changes are kept for the first seed only, like the model.
        let moves = self.dir.join("arms").join(format!("{name}.topology"));
        if keep && self.arm.method.is_some() {
            let going_on = checkpoint.exists();
            // The last plan comes after the last step.
            let step = trainer.position.step + u64::from(trainer.position.step == trainer.steps());
            let kept = match going_on {
                true => history::cut(&moves, step)?,
                false => history::create(&moves).map(|()| true)?,
            };
            trainer.history = kept.then(|| History::new(&trainer.model.params, trainer.position.step, going_on));
        }
        let header = self.header(&trainer);
        let events = self.dir.join("arms").join(format!("{name}.events.jsonl"));
        let board = folder(self.dir, Path::new("tensorboard").join(&name))?;
        let mut failure = None;
        let finished = trainer.run(|t, progress| {
            let go_on = observer.step(&self.arm.name, progress);
            let mut save = || -> Result<()> {
                if let Some((_, seconds)) = &progress.finished {
                    times.entry(name.clone()).or_default().push(*seconds);
                    write_json(&timings, &times)?;
                    let lines: Result<Vec<String>> = t.position.history.iter().map(to_line).collect();
                    write(&events, lines?.concat().as_bytes())?;
                    let curves = report::tensorboard(self.train.task, &t.position.history, &times[&name]);
                    write(&board.join("events.out.tfevents.0.nnz"), &curves)?;
                }
                if progress.finished.is_some() || !go_on {
                    // First, since events after the checkpoint are cut off again.
                    if let Some(history) = &t.history {
                        history::append(&moves, &history.take())?;
                    }
                    t.save(&checkpoint, &header, &run)?;
                }
                Ok(())
            };
            match save() {
                Ok(()) => go_on,
                Err(e) => {
                    failure = Some(e);
                    false
                }
            }
        })?;
        if let Some(e) = failure {
            return Err(e);
        }
        if !finished {
            return Err(Error::Interrupted { dir: self.dir.into() });
        }
        let result = trainer.result();
        let mut record = self.record(&trainer, &result)?;
        if !keep {
            // Images are shown for the first seed only, and are most of a record.
            record.misread.clear();
        } else {
            let path = folder(self.dir, "models")?.join(format!("{}.safetensors", self.arm.name));
            save_model(&path, &result, &header, Packing::Smallest)?;
        }
        write_json(&done, &record)?;
        gone(&checkpoint)?;
        Ok((record, times.remove(&name).unwrap_or_default()))
    }

    fn header<T: Number>(&self, trainer: &Trainer<T>) -> Header {
        let method = match (&self.arm.method, self.arm.options.get("density")) {
            (Some(key), Some(density)) => format!("{key} at density {density}"),
            (Some(key), None) => key.clone(),
            (None, _) => "dense training".into(),
        };
        let frame = trainer.frame();
        Header {
            model: self.model.clone(),
            normalization: frame.normalization,
            classes: self.data.classes.clone(),
            data: self.data.name.clone(),
            method,
            prunable: self.train.prunable(),
            texts: self.data.texts,
            task: frame.task,
            scales: frame.scales.clone(),
            dtype: self.train.dtype,
            encoding: self.data.encoding.clone(),
            policy: trainer.policy(),
        }
    }

    fn measures<T: Number>(&self, model: &Model<T>) -> Result<BTreeMap<String, f64>> {
        let setting = Setting { seed: self.seed, steps: 1, steps_per_epoch: 1 };
        let probe = work(self.arm, self.registry, &setting)?.probe;
        let of = |m: &dyn nnz_core::Probe| Some((self.arm.method.clone()?, nnz_engine::probe(model, m)));
        Ok(probe.as_deref().and_then(of).into_iter().collect())
    }

    fn record<T: Number>(&self, trainer: &Trainer<T>, model: &Model<T>) -> Result<SeedRecord> {
        let test = &self.data.test;
        let rows: Vec<u32> = (0..test.len() as u32).collect();
        let evaluation = trainer.evaluate(test, &rows)?;
        let (confusion, misread) = match self.recipe.train.task {
            Task::Classification => readings(self.data, &evaluation.predictions),
            _ => Default::default(),
        };
        Ok(SeedRecord {
            seed: self.seed,
            test_accuracy: evaluation.accuracy,
            nonzeros: model.nonzeros(),
            density: model.density(),
            weight_bytes: model.bytes(),
            optimizer_bytes: trainer.optimizer_bytes(),
            peak_training_bytes: trainer.peak_bytes(),
            seconds_per_epoch: 0.0,
            measures: self.measures(model)?,
            scores: Scores::of(self.data, test, self.recipe.train.task, &evaluation),
            epochs: trainer.position.history.clone(),
            layers: model.weights().map(layer).collect(),
            confusion,
            misread,
        })
    }
}

fn readings(data: &Dataset, predictions: &[(u32, f32)]) -> (Vec<Vec<u32>>, Vec<Misread>) {
    let test = &data.test;
    let mut confusion = vec![vec![0; data.classes.len()]; data.classes.len()];
    let mut wrong: Vec<usize> = Vec::new();
    for (i, (&(predicted, _), &label)) in predictions.iter().zip(&test.labels).enumerate() {
        confusion[label as usize][predicted as usize] += 1;
        if predicted != label {
            wrong.push(i);
        }
    }
    wrong.sort_by(|&a, &b| predictions[b].1.total_cmp(&predictions[a].1).then(a.cmp(&b)));
    let misread = |i: usize| Misread {
        index: i,
        label: test.labels[i] as usize,
        predicted: predictions[i].0 as usize,
        confidence: f64::from(predictions[i].1),
        pixels: pixels(&test.inputs, data.features(), i),
    };
    (confusion, wrong.into_iter().take(MISREAD).map(misread).collect())
}

/// One row as an image; numbers that are not bytes are stretched from their smallest to their largest.
fn pixels(inputs: &Inputs, features: usize, row: usize) -> Vec<u8> {
    match inputs.pick(features, &[row]) {
        Inputs::Bytes(v) => v,
        numbers => {
            let mut v = vec![0.0f32; features];
            if numbers.fill(features, &[0], Normalization::NONE, &mut v).is_err() {
                return Vec::new();
            }
            let low = v.iter().copied().fold(f32::INFINITY, f32::min);
            let high = v.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            v.iter().map(|x| (255.0 * (x - low) / (high - low).max(f32::MIN_POSITIVE)) as u8).collect()
        }
    }
}

/// Record of a weight.
pub fn layer<T: Number>(param: &Param<T>) -> LayerRecord {
    let narrow = |degrees: Vec<usize>| degrees.into_iter().map(|d| d as u32).collect();
    let topology: Topology = param.topology();
    LayerRecord {
        name: param.shape.name.clone(),
        rows: param.shape.rows,
        cols: param.shape.cols,
        nonzeros: param.nnz(),
        prunable: param.prunable,
        storage: param.storage_name().into(),
        bytes: param.bytes(),
        fan_in: narrow(topology.row_degrees()),
        fan_out: narrow(topology.col_degrees()),
    }
}

/// A model in another number type.
fn converted<T: Number>(model: &Model<f32>) -> Model<T> {
    let value = |v: &Tensor<f32>| Tensor::new(v.shape(), v.data().iter().map(|&v| T::of(f64::from(v))).collect());
    let one = |p: &Param<f32>| Param {
        shape: p.shape.clone(),
        role: p.role,
        prunable: p.prunable,
        layout: p.layout.clone(),
        value: value(&p.value),
    };
    Model { spec: model.spec.clone(), params: model.params.iter().map(one).collect() }
}

/// Loads the data that a network is pretrained on.
fn other_data(pretrain: &Pretrain, data: &Dataset) -> Result<Dataset> {
    let other = nnz_data::Store::open()?.load(&pretrain.data)?.dataset;
    if (other.image, other.classes.len()) != (data.image, data.classes.len()) {
        let say = |d: &Dataset| format!("{} has inputs of {:?} and {} classes", d.name, d.image, d.classes.len());
        return Err(Error::Refused(format!("{}, but {}: one network cannot learn both", say(&other), say(data))));
    }
    Ok(other)
}

/// Builds the method of an arm for one network.
fn work(arm: &Arm, registry: Registry, setting: &Setting) -> nnz_core::Result<MethodInstance> {
    match &arm.method {
        Some(key) => registry.find(key)?.build(&arm.options, setting),
        None => Ok(Dense.into()),
    }
}

/// Fits the options that were not given to the length of the run, so that no method rests through it unnoticed; returns notes.
fn fit_to_run(recipe: &mut Recipe, registry: Registry, given: &[toml::Table], data: &Dataset) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for (a, given) in given.iter().enumerate() {
        let arm = &recipe.arms[a];
        let Some(key) = &arm.method else { continue };
        let train = recipe.training(arm)?;
        let (rows, _) = data.split_validation(train.validation, 0).map_err(nnz_engine::Error::from)?;
        let (options, note) = registry.find(key)?.fitted(&arm.options, given, &train.setting(rows.len(), 0))?;
        notes.extend(note);
        recipe.arms[a].options = options;
    }
    Ok(notes)
}

/// Refuses a trained network that is of another task.
pub(crate) fn measured(header: &Header, task: Task) -> Result<()> {
    match header.task == task {
        true => Ok(()),
        false => Err(Error::Refused(format!(
            "the network is measured by {}, but {} is asked for",
            header.task.measure(),
            task.measure()
        ))),
    }
}

/// The length of a run with which methods are asked what they would do.
const ASKED: Setting = Setting { seed: 0, steps: 1000, steps_per_epoch: 100 };

/// A trained network, and how it is read.
type Trained = (Model<f32>, Header);

/// The trained network as an arm starts from it: what its method may prune is chosen, and what it cannot stays dense, as the notes say.
fn starting(
    recipe: &Recipe,
    registry: Registry,
    arm: &Arm,
    (model, header): &Trained,
) -> Result<(Trained, Vec<String>)> {
    let mut model = model.clone();
    let prunable = recipe.training(arm)?.prunable();
    if prunable.named() {
        model.choose(&prunable)?;
    }
    let notes = match &arm.method {
        Some(_) => nnz_foreign::onnx::spare(&mut model, &work(arm, registry, &ASKED)?, ASKED.steps),
        None => Vec::new(),
    };
    Ok(((model, header.clone()), notes))
}

/// Lets every arm refuse its options and shapes before the first one is trained; `start` is the trained network that it starts from.
fn validate_arms(
    recipe: &Recipe,
    registry: Registry,
    arm: &Arm,
    spec: &ModelSpec,
    start: Option<&Model<f32>>,
) -> Result<()> {
    let sparsifier = work(arm, registry, &ASKED)?.sparsifier;
    let prunable = recipe.training(arm)?.prunable();
    prunable.check(spec.weights().iter())?;
    let shapes = match start {
        Some(model) => model.targets(sparsifier.kind()),
        None => nnz_engine::targets(spec, prunable, sparsifier.kind()),
    };
    let shapes: Vec<_> = shapes.iter().collect();
    if shapes.is_empty() && arm.method.is_some() {
        if sparsifier.kind() != TargetKind::Weights {
            let kind = match sparsifier.kind() {
                TargetKind::Edges => "graph",
                _ => "axis of units that can be cut",
            };
            return Err(Error::Refused(format!("model {} has no {kind}, which {} needs", spec.name, arm.name)));
        }
        return Err(Error::Refused(format!(
            "model {} has only one weight, the classifier, which is not pruned by default; add --prune-head or a hidden \
             layer",
            spec.name
        )));
    }
    Ok(sparsifier.check(&shapes)?)
}

fn refuse_dense_storage(recipe: &Recipe, arm: &Arm) -> Result<()> {
    match &arm.method {
        Some(key) if recipe.training(arm)?.storage == Storage::Dense => Err(Error::Refused(format!(
            "storage dense cannot leave out connections, as {key} does; choose auto, masked or sparse"
        ))),
        _ => Ok(()),
    }
}

/// Reads the choice that a run in this directory began with.
fn chosen_before(dir: &Path) -> Result<Option<SparseThresholds>> {
    let path = dir.join("recipe.toml");
    if !dir.join("id").exists() || !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).map_err(|e| Error::file(&path, format!("cannot read: {e}")))?;
    let recipe = Recipe::parse(&text, &path.display().to_string());
    let recipe = recipe.map_err(|e| Error::file(&path, format!("is damaged: {e}; add --again to start anew")))?;
    Ok(Some(recipe.train.crossovers).filter(|c| !c.is_empty()))
}

/// Writes the thresholds of storage `auto` into a recipe: those of the recipe or of an earlier part of this run, else those
/// of the cost model with the figures of this machine or, if it was never measured, with those that come with nnz.
/// Returns whether this machine's were used.
fn choose(
    recipe: &mut Recipe,
    spec: &ModelSpec,
    before: Option<SparseThresholds>,
    (machine, measured): (Machine, bool),
) -> Result<bool> {
    if recipe.train.storage != Storage::Auto {
        return Ok(false);
    }
    let given = &recipe.train.crossovers;
    let names: Vec<String> = spec.weights().into_iter().map(|s| s.name).collect();
    if let Some(unknown) = given.0.keys().find(|k| !names.contains(k)) {
        let hint = nnz_core::closest(unknown, names.iter().map(String::as_str));
        return Err(Error::Refused(format!("[train.crossovers] names `{unknown}`, which is no weight{hint}")));
    }
    if !given.is_empty() {
        return Ok(false);
    }
    if let Some(before) = before {
        recipe.train.crossovers = before;
        return Ok(false);
    }
    recipe.train.crossovers = machine.crossovers(Use::Training, spec, recipe.train.batch);
    Ok(measured)
}

fn summarize_arm(arm: &Arm, registry: Registry, seeds: Vec<SeedRecord>, seconds: &[f64]) -> ArmRecord {
    let accuracy = summarize(&seeds.iter().map(|s| s.test_accuracy).collect::<Vec<_>>());
    let first = &seeds[0];
    ArmRecord {
        name: arm.name.clone(),
        summary: arm.summary(registry),
        test_accuracy: accuracy.mean,
        interval: accuracy.half_width,
        nonzeros: first.nonzeros,
        density: first.density,
        weight_bytes: first.weight_bytes,
        optimizer_bytes: first.optimizer_bytes,
        peak_training_bytes: seeds.iter().map(|s| s.peak_training_bytes).max().unwrap_or(0),
        seconds_per_epoch: median(seconds),
        seeds,
    }
}

/// Hash of the request: the same request finds its run, whatever a cost model chose for it.
fn request_id(
    recipe: &Recipe,
    registry: Registry,
    data: &Dataset,
    pretrain: Option<&Dataset>,
    start: Option<&(Model<f32>, Header)>,
) -> Result<String> {
    let mut hash = Sha256::new();
    let mut asked = recipe.clone();
    asked.train.crossovers = SparseThresholds::default();
    // Two claims about the same arms are one run.
    (asked.claim, asked.smoke) = (None, None);
    hash.update(asked.to_toml()?);
    hash.update(&data.checksum);
    if let Some(other) = pretrain {
        hash.update(&other.checksum);
    }
    if let Some((model, header)) = start {
        hash.update(nnz_engine::file::model_bytes(model, header, Packing::Csr)?);
    }
    hash.update(ENGINE_REVISION.to_le_bytes());
    for key in recipe.arms.iter().filter_map(|a| a.method.as_ref()) {
        hash.update(registry.find(key)?.revision.to_le_bytes());
    }
    Ok(hex(hash, 6))
}

/// Everything that determines the bits of a run: the request, and the choice of storage that it was begun with.
fn identity(request: &str, choice: &SparseThresholds) -> Result<String> {
    if choice.is_empty() {
        return Ok(request.into());
    }
    let text = serde_json::to_string(choice).map_err(|e| Error::Refused(format!("cannot write a choice: {e}")))?;
    Ok(format!("{request}-{}", hex(Sha256::new().chain_update(text), 3)))
}

/// The first bytes of a hash in hexadecimal.
pub(crate) fn hex(hash: Sha256, bytes: usize) -> String {
    hash.finalize().iter().take(bytes).map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn machine() -> MachineRecord {
    MachineRecord {
        cpu: nnz_engine::cost::cpu(),
        threads: rayon::current_num_threads(),
        version: env!("CARGO_PKG_VERSION").into(),
    }
}

/// Occupies a directory for a `what`, such as a run, and excludes other processes as long as the file is open. A directory that
/// holds something, but no `id`, belongs to somebody else: nothing in it is touched.
pub(crate) fn occupy(dir: &Path, what: &str, option: &str) -> Result<fs::File> {
    let made = |e: std::io::Error| Error::file(dir, format!("cannot create: {e}"));
    if !dir.join("id").exists() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let empty = entry.metadata().is_ok_and(|m| m.is_file() && m.len() == 0);
            // Leftovers of a process that was killed before the directory was its own.
            if !(nnz_disk::is_unfinished(&name) || (name == "lock" && empty)) {
                let why = format!("holds {name}, but no {what}, and might lose it; give another {option}");
                return Err(Error::file(dir, why));
            }
        }
    }
    fs::create_dir_all(dir).map_err(made)?;
    let path = dir.join("lock");
    let file = nnz_disk::lock_file(&path).map_err(|e| Error::file(&path, format!("cannot create: {e}")))?;
    // A reader such as `nnz top` holds it for a moment.
    let mut tried = file.try_lock();
    for _ in 0..5 {
        if !matches!(tried, Err(fs::TryLockError::WouldBlock)) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        tried = file.try_lock();
    }
    match tried {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Error::file(
            dir,
            format!("another process is at work in this {what} directory; wait for it or give another {option}"),
        )),
        Err(fs::TryLockError::Error(e)) => Err(Error::file(&path, format!("cannot lock: {e}"))),
    }
}

/// A folder in a run directory, created if missing. A link is refused: it leads out of the run.
pub(crate) fn folder(dir: &Path, inside: impl AsRef<Path>) -> Result<PathBuf> {
    let path = dir.join(&inside);
    nnz_disk::folder_in(dir, inside).map_err(|e| Error::file(&path, format!("cannot create: {e}")))
}

fn gone(path: &Path) -> Result<()> {
    nnz_disk::remove(path).map_err(|e| Error::file(path, format!("cannot remove: {e}")))
}

/// Removes files that a killed process had not finished, from all folders. Best effort: they are harmless.
pub(crate) fn remove_partial_files(dir: &Path) {
    nnz_disk::sweep(dir);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_partial_files(&entry.path());
        }
    }
}

/// Removes the files of a run, and nothing else.
/// Removes a run that did not finish, so that its directory is free for another.
///
/// # Errors
/// When the run is finished, or a file cannot be removed.
pub fn abandon(dir: &Path) -> Result<()> {
    if dir.join("record.json").exists() {
        return Err(Error::file(dir, "holds a finished run"));
    }
    clear(dir)?;
    ["id", "recipe.toml"].iter().try_for_each(|name| gone(&dir.join(name)))
}

pub(crate) fn clear(dir: &Path) -> Result<()> {
    for name in ["record.json", "checkpoint.safetensors", "timings.json", "report.html"] {
        gone(&dir.join(name))?;
    }
    for path in ["arms", "models", "figures", "tensorboard"].map(|name| dir.join(name)) {
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file(&path, format!("cannot remove: {e}")));
            }
            _ => {}
        }
    }
    Ok(())
}

pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    Ok(write_atomically(path, bytes)?)
}

fn to_line<S: Serialize>(value: &S) -> Result<String> {
    let line = serde_json::to_string(value).map_err(|e| Error::Refused(format!("cannot write an event: {e}")))?;
    Ok(line + "\n")
}

pub(crate) fn write_json<S: Serialize>(path: &Path, value: &S) -> Result<()> {
    let text = serde_json::to_string(value).map_err(|e| Error::file(path, e))?;
    write(path, text.as_bytes())
}

pub(crate) fn read_json<D: DeserializeOwned>(path: &Path) -> Result<D> {
    let text = fs::read_to_string(path).map_err(|e| Error::file(path, format!("cannot read: {e}")))?;
    serde_json::from_str(&text).map_err(|e| Error::file(path, format!("is damaged: {e}; add --again to start anew")))
}
