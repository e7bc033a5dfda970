//! The fair comparison: several methods and their controls at several densities, with equal steps, an equal number of
//! learning rates tried on the validation split, and the same seeds.
//!
//! Every arm at every density is a separate run under `cells/`, so that an interrupted comparison resumes where it was,
//! bit for bit. Runs share the cores, one thread each, which changes no result. Seconds of inference are measured at the
//! end, one network after the other, and are kept apart.

use crate::concerns::{RANDOM, below_random};
use crate::run::record::{DataRecord, METRICS, test_measure};
use crate::run::{self, Observer, measured};
use crate::{Arm, Error, Network, Precision, Recipe, Result, Start, Summary, summarize};
use nnz_core::{Metric, Prunable, Registry, Setting, Topology};
use nnz_engine::cost::{Machine, Use};
use nnz_engine::data::Dataset;
use nnz_engine::file::{Header, Packing, load_model, write_atomically};
use nnz_engine::{Frozen, Model, ModelSpec, Progress, SparseThresholds, Storage, Tensor, TrainSpec};
use nnz_kernels::threads;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};

/// The seed with which learning rates are tried; never one of those that are judged.
const TUNING_SEED: u64 = 1 << 32;

/// Limit that the densities must keep, if they are not given.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// Bytes of the written network: each method gets the largest density that fits.
    Size(u64),
    /// Seconds for one row: the same, measured with random masks on this machine.
    Latency(f64),
    /// Points of the measure on the validation split below dense: the smallest density compared that keeps the limit is named for
    /// each method.
    Drop(f64),
}

/// Request for a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The data, as recipes name it.
    pub data: String,
    /// The network.
    pub model: Network,
    /// The trained network that every arm starts from, whose file takes the place of `model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Start>,
    /// Keys of methods.
    pub methods: Vec<String>,
    /// Densities.
    pub densities: Vec<f64>,
    /// Seeds that are judged.
    pub seeds: Vec<u64>,
    /// Learning rates that are tried for every arm at every density.
    pub rates: Vec<f64>,
    /// How all networks are trained; its learning rate is not used.
    pub train: TrainSpec,
    /// Limit instead of densities, or on top of them.
    pub limit: Option<Limit>,
}

/// One arm at one density.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Name of the arm: a method's key, `dense`, `small-dense`, `static-random`.
    pub arm: String,
    /// The requested density; `None` for arms without that option.
    pub density: Option<f64>,
    /// Measure on the validation split of every learning rate tried, in order.
    pub tried: Vec<f64>,
    /// The learning rate that was chosen.
    pub rate: f64,
    /// Measure on the validation split of every seed.
    pub validation: Vec<f64>,
    /// Measure on the test split of every seed; [`Comparison::measure`] names it.
    pub test: Vec<f64>,
    /// Mean of the latter and its interval.
    pub mean: Option<Summary>,
    /// Other measures of every seed on the test split, by key.
    #[serde(default)]
    pub scores: BTreeMap<String, Vec<f64>>,
    /// Paired difference to the random mask of the same density.
    pub over_random: Option<Summary>,
    /// Paired difference to the dense network.
    pub over_dense: Option<Summary>,
    /// Optimizer steps of one training.
    pub steps: u64,
    /// Nonzero weights.
    pub nonzeros: usize,
    /// Bytes of the written network of the first seed.
    pub bytes: u64,
    /// Whether it keeps the limit, if there is one that can be checked without a clock.
    pub within: Option<bool>,
    /// Why it was refused.
    pub refused: Option<String>,
    /// What its numbers should not leave unsaid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub concerns: Vec<String>,
}

impl Cell {
    /// Its name in files and tables.
    pub fn name(&self) -> String {
        self.density.map_or_else(|| self.arm.clone(), |d| format!("{}-{d}", self.arm))
    }
}

/// A finished comparison. Seconds are apart, in [`Outcome`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Hash of the request, the data and the revisions of the methods.
    pub id: String,
    /// The request.
    pub request: Request,
    /// The data that was read.
    pub data: DataRecord,
    /// What networks are compared by: `accuracy`, or `variance explained`.
    pub measure: String,
    /// Controls first.
    pub cells: Vec<Cell>,
}

impl Comparison {
    /// What it should not leave unsaid, in sentences without a full stop.
    pub fn concerns(&self) -> Vec<String> {
        let at = |c: &Cell| c.density.map_or_else(String::new, |d| format!("at density {d} "));
        let named = |c: &Cell| c.concerns.iter().map(|why| at(c) + why).collect::<Vec<_>>();
        self.cells.iter().flat_map(named).collect()
    }

    /// The measures beside it that were taken, in the order of their list.
    fn scored(&self) -> Vec<&'static Metric> {
        METRICS.iter().filter(|m| self.cells.iter().any(|c| c.scores.contains_key(m.key))).collect()
    }
}

/// Result of a comparison, and its directory.
pub struct Outcome {
    /// All results except seconds.
    pub comparison: Comparison,
    /// Seconds of inference of one row, by cell.
    pub seconds: BTreeMap<String, f64>,
    /// The directory.
    pub dir: PathBuf,
}

/// One network or several under one learning rate.
struct Job {
    cell: usize,
    /// Index of the learning rate that is tried; `None` for the judged run.
    tried: Option<usize>,
    recipe: Recipe,
    dir: PathBuf,
}

/// Runs the missing cells. `stop` saves and ends the comparison; `note` is called for every run that ends.
pub fn compare(
    request: &Request,
    registry: Registry,
    dir: Option<&Path>,
    stop: &AtomicBool,
    note: &mut dyn FnMut(&str),
) -> Result<Outcome> {
    let request = check(request, registry)?;
    let request = Request { model: request.model.clone().read()?, ..request };
    let loaded = nnz_data::Store::open()?.load(&request.data)?;
    let start = request.from.as_ref().map(|from| from.load(&loaded.dataset, &request.train)).transpose()?;
    let spec = match &start {
        Some((model, header)) => measured(header, request.train.task).map(|()| model.spec.clone())?,
        None => request.model.spec(&loaded.dataset, request.train.task)?,
    };
    let id = id(&request, registry, &loaded.dataset, start.as_ref())?;
    let dir = dir.map_or_else(|| Path::new("runs").join(format!("compare-{id}")), Path::to_path_buf);
    let _lock = run::occupy(&dir, "comparison", "--dir")?;
    let marker = dir.join("id");
    match std::fs::read_to_string(&marker) {
        Ok(other) if other.trim() != id => {
            return Err(Error::file(&dir, format!("holds comparison {}, not this one ({id})", other.trim())));
        }
        _ => write_atomically(&marker, id.as_bytes())?,
    }
    run::folder(&dir, "cells")?;
    // Kept, since the clock would give others the next time.
    let chosen = dir.join("densities.json");
    let kept = std::fs::read(&chosen).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let request = Request { densities: kept.map_or_else(|| densities(&request, registry, &spec), Ok)?, ..request };
    write_json(&chosen, &request.densities)?;
    let train = TrainSpec { crossovers: crossovers(&request, &spec, &dir)?, ..request.train.clone() };
    let mut cells = cells(&request, registry);
    let arms: Vec<Result<(Arm, Network)>> =
        cells.iter().map(|c| arm(c, &request, registry, &spec, &loaded.dataset)).collect();
    for (cell, arm) in cells.iter_mut().zip(&arms) {
        cell.refused = arm.as_ref().err().map(ToString::to_string);
    }
    let job = |i: usize, tried: Option<usize>, rate: f64, seeds: &[u64]| -> Option<Job> {
        let (arm, model) = arms[i].as_ref().ok()?;
        let train = TrainSpec { optimizer: train.optimizer.at_rate(rate), ..train.clone() };
        let name = arm.options.get("density").map_or_else(|| arm.name.clone(), |d| format!("{} at {d}", arm.name));
        let recipe = Recipe {
            title: format!("{name} of comparison {id}"),
            data: request.data.clone(),
            model: model.clone(),
            seeds: seeds.to_vec(),
            pretrain: None,
            from: request.from.clone(),
            precision: Precision::F32,
            train,
            arms: vec![arm.clone()],
            claim: None,
            smoke: None,
        };
        let place = tried.map_or_else(|| "judged".into(), |k| format!("tried-{k}"));
        Some(Job { cell: i, tried, recipe, dir: dir.join("cells").join(format!("{i:02}-{}", arm.name)).join(place) })
    };
    // Runs make the same remarks: each is told once.
    let mut told = BTreeSet::new();
    let mut tell = |notes: &[String], note: &mut dyn FnMut(&str)| {
        notes.iter().filter(|n| told.insert((*n).clone())).for_each(|n| note(n));
    };
    tell(&loaded.notes, &mut *note);
    // Learning rates first, if there is a choice.
    for cell in &mut cells {
        cell.rate = request.rates[0];
    }
    if request.rates.len() > 1 {
        let tries = (0..cells.len()).flat_map(|i| (0..request.rates.len()).map(move |k| (i, k)));
        let jobs: Vec<Job> = tries.filter_map(|(i, k)| job(i, Some(k), request.rates[k], &[TUNING_SEED])).collect();
        let total = jobs.len();
        execute(jobs, registry, stop, &mut |job, ended, notes, at| {
            tell(notes, &mut *note);
            let cell = &mut cells[job.cell];
            let rate = job.tried.map_or(0.0, |k| request.rates[k]);
            note(&format!("tried {at} of {total}: {} at rate {rate}", cell.name()));
            cell.tried.resize(request.rates.len(), f64::NEG_INFINITY);
            match ended {
                Ok(record) => {
                    let last = record.arms[0].seeds[0].epochs.last().map_or(0.0, |e| e.accuracy);
                    cell.tried[job.tried.unwrap_or_default()] = last;
                }
                // A rate at which training diverges is a bad rate, not an error.
                Err(Error::Engine(nnz_engine::Error::NonFinite { .. })) => {
                    cell.tried[job.tried.unwrap_or_default()] = -1.0;
                }
                Err(e) => cell.refused = Some(e.to_string()),
            }
        })?;
        for cell in cells.iter_mut().filter(|c| !c.tried.is_empty()) {
            // The first of equals, so that the choice is deterministic.
            let best = (0..cell.tried.len()).rev().max_by(|&a, &b| cell.tried[a].total_cmp(&cell.tried[b]));
            cell.rate = request.rates[best.unwrap_or_default()];
            cell.tried.iter_mut().filter(|v| !v.is_finite()).for_each(|v| *v = -1.0);
        }
    }
    let wanted = cells.iter().enumerate().filter(|(_, c)| c.refused.is_none());
    let jobs: Vec<Job> = wanted.filter_map(|(i, c)| job(i, None, c.rate, &request.seeds)).collect();
    let (total, mut files) = (jobs.len(), BTreeMap::new());
    execute(jobs, registry, stop, &mut |job, ended, notes, at| {
        tell(notes, &mut *note);
        let cell = &mut cells[job.cell];
        note(&format!("judged {at} of {total}: {}", cell.name()));
        match ended {
            Ok(record) => {
                let arm = &record.arms[0];
                let last = |s: &run::record::SeedRecord| s.epochs.last().map_or((0.0, 0), |e| (e.accuracy, e.step));
                cell.validation = arm.seeds.iter().map(|s| last(s).0).collect();
                cell.test = arm.seeds.iter().map(|s| s.test_accuracy).collect();
                cell.mean = Some(summarize(&cell.test));
                for metric in METRICS.iter().filter(|m| arm.seeds.iter().all(|s| s.scores.metrics.contains_key(m.key)))
                {
                    let values = arm.seeds.iter().filter_map(|s| s.metric(metric.key)).collect();
                    cell.scores.insert(metric.key.into(), values);
                }
                cell.concerns = record.concerns();
                (cell.steps, cell.nonzeros) = (last(&arm.seeds[0]).1, arm.nonzeros);
                let file = job.dir.join("models").join(format!("{}.safetensors", arm.name));
                cell.bytes = std::fs::metadata(&file).map_or(0, |m| m.len());
                files.insert(job.cell, file);
            }
            Err(e) => cell.refused = Some(e.to_string()),
        }
    })?;
    relate(&mut cells, request.limit);
    let timings = dir.join("timings.json");
    let mut seconds: BTreeMap<String, f64> =
        std::fs::read(&timings).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    for (i, file) in files {
        if let Entry::Vacant(place) = seconds.entry(cells[i].name()) {
            place.insert(latency(Frozen::new(load_model::<f32>(&file, Storage::Auto)?.0)));
            write_json(&timings, &seconds)?;
        }
    }
    let data = DataRecord::of(&loaded.dataset, loaded.notes)?;
    let comparison = Comparison { id, measure: request.train.task.measure().into(), request, data, cells };
    write_json(&dir.join("compare.json"), &comparison)?;
    for (name, text) in [
        ("compare.md", markdown(&comparison, &seconds)),
        ("compare.csv", csv(&comparison, &seconds)),
        ("compare.html", crate::report::comparison(&comparison, &seconds)),
    ] {
        write_atomically(&dir.join(name), text.as_bytes())?;
    }
    for (name, text) in crate::report::comparison_pictures(&comparison, &seconds) {
        write_atomically(&dir.join(name), text.as_bytes())?;
    }
    Ok(Outcome { comparison, seconds, dir })
}

fn write_json<S: Serialize>(path: &Path, value: &S) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::file(path, e))?;
    Ok(write_atomically(path, text.as_bytes())?)
}

/// Refuses invalid requests, and sorts densities in descending order.
fn check(request: &Request, registry: Registry) -> Result<Request> {
    let mut request = request.clone();
    let refuse = |why: String| Err(Error::Refused(why));
    if request.methods.is_empty() || request.seeds.is_empty() || request.rates.is_empty() {
        return refuse("a comparison needs at least one method, one seed and one learning rate".into());
    }
    for (i, key) in request.methods.iter().enumerate() {
        registry.find(key)?;
        if request.methods[..i].contains(key) {
            return refuse(format!("method `{key}` is named twice"));
        }
    }
    if let Some(d) = request.densities.iter().find(|d| !(**d > 0.0 && **d < 1.0)) {
        return refuse(format!("densities that are compared lie above 0 and below 1, got {d}"));
    }
    if let Some(r) = request.rates.iter().find(|r| !(**r > 0.0 && r.is_finite())) {
        return refuse(format!("learning rates lie above 0, got {r}"));
    }
    if request.train.epochs == 0 {
        return refuse("needs at least one epoch".into());
    }
    if request.train.validation <= 0.0 {
        return refuse("a comparison chooses on the validation split, which must not be empty".into());
    }
    request.densities.sort_by(|a, b| b.total_cmp(a));
    request.densities.dedup();
    Ok(request)
}

fn id(request: &Request, registry: Registry, data: &Dataset, start: Option<&(Model<f32>, Header)>) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(serde_json::to_string(request).map_err(|e| Error::Refused(e.to_string()))?);
    hash.update(&data.checksum);
    if let Some((model, header)) = start {
        hash.update(nnz_engine::file::model_bytes(model, header, Packing::Csr)?);
    }
    for key in request.methods.iter().map(String::as_str).chain(["random-pruning", "magnitude"]) {
        hash.update(registry.find(key)?.revision.to_le_bytes());
    }
    Ok(hash.finalize().iter().take(6).map(|b| format!("{b:02x}")).collect())
}

/// Thresholds of storage `auto` for every cell: chosen once and kept with the comparison, so that cells trained after the
/// machine was measured again are trained alike.
fn crossovers(request: &Request, spec: &ModelSpec, dir: &Path) -> Result<SparseThresholds> {
    if request.train.storage != Storage::Auto || !request.train.crossovers.is_empty() {
        return Ok(request.train.crossovers.clone());
    }
    let file = dir.join("crossovers.json");
    match std::fs::read(&file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| Error::file(&file, format!("is damaged: {e}"))),
        Err(_) => {
            let chosen = Machine::chooser()?.0.crossovers(Use::Training, spec, request.train.batch);
            write_json(&file, &chosen)?;
            Ok(chosen)
        }
    }
}

/// The densities to compare: those given, or those within a limit.
fn densities(request: &Request, registry: Registry, spec: &ModelSpec) -> Result<Vec<f64>> {
    let fits: Box<dyn Fn(f64) -> bool> = match request.limit {
        Some(Limit::Size(bytes)) => Box::new(move |d| file_bytes(spec, &request.train.prunable(), d) <= bytes),
        Some(Limit::Latency(seconds)) => {
            Box::new(move |d| random(request, registry, spec, d).is_ok_and(|m| latency(Frozen::new(m)) <= seconds))
        }
        _ => return Ok(request.densities.clone()),
    };
    // Three digits: a density is a name here, and a clock is not exact.
    let (mut low, mut high) = (-4.0f64, 0.0f64);
    if fits(0.999) {
        return Err(Error::Refused("nearly the whole network keeps to this limit; ask for less".into()));
    }
    if !fits(10f64.powf(low)) {
        return Err(Error::Refused("not even one weight in ten thousand keeps to this limit; allow more".into()));
    }
    for _ in 0..12 {
        let middle = 0.5 * (low + high);
        if fits(10f64.powf(middle)) { low = middle } else { high = middle }
    }
    let scale = 10f64.powi(2 - low.floor() as i32);
    Ok(vec![(10f64.powf(low) * scale).floor() / scale])
}

/// Estimates the bytes of the network's file at a density: each matrix in the smaller of its two forms, and the header.
fn file_bytes(spec: &ModelSpec, prunable: &Prunable, density: f64) -> u64 {
    let one = |p: nnz_engine::ParamSpec| {
        let (len, rows) = (p.shape.len() as f64, p.shape.rows as f64);
        let prunable = p.role == nnz_engine::Role::Weight && prunable.takes(&p.shape);
        if prunable { (8.0 * density * len + 4.0 * (rows + 1.0)).min(4.0 * len) } else { 4.0 * len }
    };
    let header = 4096 + serde_json::to_string(spec).map_or(0, |s| 2 * s.len() as u64);
    header + spec.params().into_iter().map(one).sum::<f64>() as u64
}

/// The network with a random mask.
fn random(request: &Request, registry: Registry, spec: &ModelSpec, density: f64) -> Result<Model<f32>> {
    let setting = Setting { seed: 0, steps: 1, steps_per_epoch: 1 };
    let options = toml::Table::from_iter([("density".into(), density.into())]);
    let work = registry.find("random-pruning")?.build(&options, &setting)?;
    let shapes = nnz_engine::targets(spec, request.train.prunable(), work.sparsifier.kind());
    let initial: Option<Vec<Topology>> = work.sparsifier.initial_topologies(&shapes.iter().collect::<Vec<_>>())?;
    Ok(Model::born(spec, initial, request.train.storage, request.train.prunable(), 0)?)
}

/// Median seconds of one row, on the available threads.
fn latency(model: Frozen<f32>) -> f64 {
    let features = model.model().spec.input.iter().product();
    nnz_engine::cost::timing::seconds(|| {
        let _ = std::hint::black_box(model.infer(Tensor::zeros(&[1, features])));
    })
}

/// Every arm at every density, controls first.
fn cells(request: &Request, registry: Registry) -> Vec<Cell> {
    let cell = |arm: &str, density: Option<f64>| Cell {
        arm: arm.into(),
        density,
        tried: Vec::new(),
        rate: 0.0,
        validation: Vec::new(),
        test: Vec::new(),
        mean: None,
        scores: BTreeMap::new(),
        over_random: None,
        over_dense: None,
        steps: 0,
        nonzeros: 0,
        bytes: 0,
        within: None,
        refused: None,
        concerns: Vec::new(),
    };
    let has = |key: &str| registry.find(key).is_ok_and(|m| m.defaults().contains_key("density"));
    let mut all = vec![cell("dense", None)];
    let once = request.methods.iter().filter(|key| !has(key)).map(|key| cell(key, None));
    all.extend(once);
    for &d in &request.densities {
        // A network that is trained is not narrowed.
        let mut arms = if request.from.is_some() { Vec::new() } else { vec!["small-dense"] };
        arms.push("static-random");
        arms.extend((!request.methods.iter().any(|m| m == "magnitude")).then_some("magnitude"));
        arms.extend(request.methods.iter().filter(|key| has(key) && *key != "random-pruning").map(String::as_str));
        all.extend(arms.into_iter().map(|arm| cell(arm, Some(d))));
    }
    all
}

/// The arm of a recipe, and the network it trains.
fn arm(cell: &Cell, request: &Request, registry: Registry, spec: &ModelSpec, data: &Dataset) -> Result<(Arm, Network)> {
    let (name, whole) = (cell.arm.clone(), request.model.clone());
    let Some(density) = cell.density else {
        let method = (name != "dense").then(|| name.clone());
        return Ok((Arm { name, method, ..Arm::default() }, whole));
    };
    if name == "small-dense" {
        let prunable: usize = nnz_engine::targets(spec, request.train.prunable(), nnz_core::TargetKind::Weights)
            .iter()
            .map(|s| s.len())
            .sum();
        let entries = spec.entries() - prunable + (density * prunable as f64).round() as usize;
        return Ok((Arm { name, ..Arm::default() }, Network::Written(spec.narrowed(entries))));
    }
    let key = if name == "static-random" { "random-pruning" } else { &name };
    let mut options = toml::Table::from_iter([("density".to_string(), density.into())]);
    equal_steps(key, &mut options, request, registry, data)?;
    Ok((Arm { method: Some(key.into()), name, options, ..Arm::default() }, whole))
}

/// Shortens every training of a method that trains several times, until all of them take as many steps as one.
fn equal_steps(
    key: &str,
    options: &mut toml::Table,
    request: &Request,
    registry: Registry,
    data: &Dataset,
) -> Result<()> {
    let method = registry.find(key)?;
    if !method.defaults().contains_key("each") {
        return Ok(());
    }
    let rows = data.split_validation(request.train.validation, request.seeds[0])?.0.len();
    let steps_per_epoch = nnz_engine::steps_per_epoch(rows, request.train.batch);
    let setting = Setting { seed: 0, steps: steps_per_epoch * u64::from(request.train.epochs), steps_per_epoch };
    let (mut low, mut high) = (0, setting.steps);
    while low < high {
        let middle = (low + high).div_ceil(2);
        options.insert("each".into(), format!("{middle} steps").into());
        let taken = method.build(options, &setting)?.procedure.map_or(setting.steps, |p| p.steps());
        if taken <= setting.steps { low = middle } else { high = middle - 1 }
    }
    options.insert("each".into(), format!("{low} steps").into());
    Ok(())
}

/// Stops a run on request, and keeps its remarks.
struct Quiet<'a> {
    stop: &'a AtomicBool,
    notes: Vec<String>,
}

impl Observer for Quiet<'_> {
    fn note(&mut self, text: &str) {
        self.notes.push(text.into());
    }

    fn step(&mut self, _: &str, _: &Progress) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

type Ended = Result<run::record::RunRecord>;

/// Told of a job that ended, with its remarks and the number of it among those that have.
type Done<'a> = &'a mut dyn FnMut(&Job, Ended, &[String], usize);

/// Runs jobs on as many workers as there are threads, one thread each; `done` sees them as they end, with their remarks.
fn execute(jobs: Vec<Job>, registry: Registry, stop: &AtomicBool, done: Done) -> Result<()> {
    let (next, workers) = (AtomicUsize::new(0), rayon::current_num_threads().clamp(1, jobs.len().max(1)));
    let first: Mutex<Option<Error>> = Mutex::new(None);
    let (send, receive) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let (send, next, jobs, first) = (send.clone(), &next, &jobs, &first);
            scope.spawn(move || {
                threads::anywhere();
                let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
                if let Err(e) = &pool {
                    let why = Error::Refused(format!("cannot start a thread to compute with: {e}"));
                    *first.lock().unwrap_or_else(|e| e.into_inner()) = Some(why);
                    return;
                }
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let options = run::Options { dir: Some(job.dir.clone()), one_thread: true, ..Default::default() };
                    let mut quiet = Quiet { stop, notes: Vec::new() };
                    match run::run(&job.recipe, registry, &options, &mut quiet) {
                        Err(Error::Interrupted { .. }) => break,
                        // A file that cannot be read or written concerns the whole comparison.
                        Err(e @ Error::File { .. }) => {
                            stop.store(true, Ordering::Relaxed);
                            *first.lock().unwrap_or_else(|e| e.into_inner()) = Some(e);
                            break;
                        }
                        ended => drop(send.send((job, ended.map(|o| o.record), quiet.notes))),
                    }
                }
            });
        }
        drop(send);
        receive.iter().enumerate().for_each(|(i, (job, ended, notes))| done(job, ended, &notes, i + 1));
    });
    if let Some(e) = first.into_inner().unwrap_or_else(|e| e.into_inner()) {
        return Err(e);
    }
    let dir = jobs.first().and_then(|j| j.dir.ancestors().nth(3)).unwrap_or(Path::new("."));
    if stop.load(Ordering::Relaxed) { Err(Error::Interrupted { dir: dir.into() }) } else { Ok(()) }
}

/// Computes differences to the controls, seed by seed, and whether a limit is kept.
fn relate(cells: &mut [Cell], limit: Option<Limit>) {
    let of = |cells: &[Cell], arm: &str, density: Option<f64>| -> Option<Cell> {
        cells.iter().find(|c| c.arm == arm && c.density == density && !c.test.is_empty()).cloned()
    };
    let dense = of(cells, "dense", None);
    for i in 0..cells.len() {
        let random = of(cells, RANDOM, cells[i].density);
        let cell = &mut cells[i];
        let paired = |control: &Cell| {
            let pairs = cell.test.iter().zip(&control.test);
            summarize(&pairs.map(|(a, b)| a - b).collect::<Vec<_>>())
        };
        if cell.test.is_empty() || cell.arm == "dense" {
            continue;
        }
        cell.over_dense = dense.as_ref().map(paired);
        cell.over_random = random.as_ref().filter(|_| cell.arm != RANDOM).map(paired);
        let pairs = random.iter().flat_map(|r| cell.test.iter().copied().zip(r.test.iter().copied()));
        cell.concerns.splice(0..0, below_random(&cell.arm, &pairs.collect::<Vec<_>>()));
        let mean = |v: &[f64]| summarize(v).mean;
        cell.within = match (limit, &dense) {
            (Some(Limit::Size(bytes)), _) => Some(cell.bytes <= bytes),
            (Some(Limit::Drop(points)), Some(dense)) => {
                Some(mean(&dense.validation) - mean(&cell.validation) <= points / 100.0)
            }
            _ => None,
        };
    }
    // For a drop, only the smallest density that keeps the limit counts.
    if matches!(limit, Some(Limit::Drop(_))) {
        let kept: Vec<(String, f64)> =
            cells.iter().filter(|c| c.within == Some(true)).filter_map(|c| Some((c.arm.clone(), c.density?))).collect();
        for cell in cells.iter_mut() {
            let smaller = |(arm, d): &(String, f64)| *arm == cell.arm && Some(*d) < cell.density;
            cell.within = cell.within.map(|w| w && !kept.iter().any(smaller));
        }
    }
}

fn row(cell: &Cell, scored: &[&Metric], seconds: &BTreeMap<String, f64>) -> Vec<String> {
    let dash = || "–".to_string();
    let half = |s: &Summary| s.half_width.map_or_else(String::new, |h| format!(" ± {:.2}", h * 100.0));
    let difference =
        |s: &Option<Summary>| s.as_ref().map_or_else(dash, |s| format!("{:+.2}{}", s.mean * 100.0, half(s)));
    let mean = match (&cell.refused, &cell.mean) {
        (Some(why), _) => format!("not run: {}", why.replace(['|', '\n'], " ")),
        (_, Some(s)) => format!("{:.2}%{}", s.mean * 100.0, half(s)),
        _ => dash(),
    };
    let mark = if cell.within == Some(true) { " ✓" } else { "" };
    let known = |text: String| if cell.test.is_empty() { dash() } else { text };
    let score = |m: &&Metric| cell.scores.get(m.key).map_or_else(dash, |v| m.unit.write(summarize(v).mean));
    let mut row = vec![
        format!("{}{mark}", cell.arm),
        cell.density.map_or_else(dash, |d| d.to_string()),
        mean,
        difference(&cell.over_random),
        difference(&cell.over_dense),
    ];
    row.extend(scored.iter().map(score));
    row.extend([
        known(cell.nonzeros.to_string()),
        known(cell.bytes.to_string()),
        seconds.get(&cell.name()).map_or_else(dash, |s| format!("{:.1}", s * 1e6)),
        known(cell.rate.to_string()),
        known(cell.steps.to_string()),
    ]);
    row
}

/// Header and rows of the table.
pub fn table(comparison: &Comparison, seconds: &BTreeMap<String, f64>) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let scored = comparison.scored();
    let mut head = vec!["arm", "density", test_measure(comparison.request.train.task), "over random", "over dense"];
    head.extend(scored.iter().map(|m| m.key));
    head.extend(["nonzeros", "file", "µs a row", "rate", "steps"]);
    (head, comparison.cells.iter().map(|c| row(c, &scored, seconds)).collect())
}

/// Explains all numbers of the table, in a sentence.
pub fn caption(comparison: &Comparison) -> String {
    let Request { seeds, rates, train, limit, .. } = &comparison.request;
    let (data, measure) = (&comparison.data, &comparison.measure);
    let limit = match limit {
        Some(Limit::Size(bytes)) => format!(" ✓: a file of at most {bytes} bytes."),
        Some(Limit::Latency(s)) => {
            format!(" Densities were chosen so that a random mask answers a row within {} µs.", s * 1e6)
        }
        Some(Limit::Drop(p)) => {
            format!(" ✓: the smallest density that loses at most {p} points of {measure} on the validation split.")
        }
        None => String::new(),
    };
    format!(
        "{}, {} rows to train on and {} to test on; {} epochs in batches of {} for every arm; {}; {}, \
         differences in points and paired by seed; seconds on one row, on this machine.{limit}",
        data.name,
        data.train,
        data.test,
        train.epochs,
        train.batch,
        match rates.len() {
            1 => "one learning rate for all".into(),
            n => format!("{n} learning rates tried for each on the validation split, with a seed of its own"),
        },
        match seeds.len() {
            1 => "one seed".into(),
            n => format!("means over {n} seeds with 95% intervals"),
        },
    )
}

/// The table in Markdown.
pub fn markdown(comparison: &Comparison, seconds: &BTreeMap<String, f64>) -> String {
    let (head, rows) = table(comparison, seconds);
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = format!("{}\n\n", caption(comparison));
    text += &line(head.iter().map(ToString::to_string).collect());
    text += &line(vec!["---".into(); head.len()]);
    text.extend(rows.into_iter().map(line));
    comparison.concerns().iter().for_each(|why| text += &format!("\n{why}.\n"));
    text
}

/// One row per cell and seed, with plain numbers.
pub fn csv(comparison: &Comparison, seconds: &BTreeMap<String, f64>) -> String {
    let mut out = csv::Writer::from_writer(Vec::new());
    let (measure, scored) = (comparison.request.train.task.slug(), comparison.scored());
    let own = ["arm", "density", "seed"].map(String::from).into_iter();
    let measures = [format!("test_{measure}"), format!("validation_{measure}")].into_iter();
    let scores = scored.iter().map(|m| m.key.replace('-', "_"));
    let rest = ["nonzeros", "file_bytes", "rate", "steps", "seconds_a_row"].map(String::from);
    let _ = out.write_record(own.chain(measures).chain(scores).chain(rest));
    for c in &comparison.cells {
        let seeds = comparison.request.seeds.iter().zip(&c.test).zip(&c.validation);
        for (i, ((seed, test), validation)) in seeds.enumerate() {
            let density = c.density.map_or_else(String::new, |d| d.to_string());
            let time = seconds.get(&c.name()).map_or_else(String::new, |s| s.to_string());
            let score =
                |m: &&Metric| c.scores.get(m.key).and_then(|v| v.get(i)).map_or_else(String::new, f64::to_string);
            let mut row = vec![crate::report::cell(c.arm.clone()), density];
            row.extend([seed.to_string(), test.to_string(), validation.to_string()]);
            row.extend(scored.iter().map(score));
            row.extend([c.nonzeros.to_string(), c.bytes.to_string(), c.rate.to_string(), c.steps.to_string(), time]);
            let _ = out.write_record(row);
        }
    }
    String::from_utf8(out.into_inner().unwrap_or_default()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGISTRY: Registry = Registry(nnz_sparse::ROOMS);

    fn request(methods: &[&str]) -> Request {
        Request {
            data: "mnist10k".into(),
            model: "mlp:784-20-10".into(),
            from: None,
            methods: methods.iter().map(ToString::to_string).collect(),
            densities: vec![0.1, 0.3],
            seeds: vec![0, 1],
            rates: vec![0.1],
            train: TrainSpec { epochs: 1, ..TrainSpec::default() },
            limit: None,
        }
    }

    #[test]
    fn every_method_has_its_controls_at_every_density() {
        let checked = check(&request(&["rigl", "dlrt"]), REGISTRY).unwrap();
        let names: Vec<String> = cells(&checked, REGISTRY).iter().map(Cell::name).collect();
        let at = |d: &str| ["small-dense", "static-random", "magnitude", "rigl"].map(|arm| format!("{arm}-{d}"));
        let expected = [vec!["dense".to_string(), "dlrt".into()], at("0.3").to_vec(), at("0.1").to_vec()].concat();
        assert_eq!(names, expected);
        for (bad, word) in
            [(request(&[]), "at least one"), (request(&["rigl", "rigl"]), "twice"), (request(&["rigel"]), "rigl")]
        {
            assert!(check(&bad, REGISTRY).unwrap_err().to_string().contains(word));
        }
    }

    #[test]
    fn a_procedure_of_many_trainings_takes_the_steps_of_one() {
        let data = nnz_data::Store::at("nowhere").load("mnist10k").unwrap().dataset;
        let request = request(&["imp"]);
        let mut options = toml::Table::from_iter([("density".to_string(), 0.1.into())]);
        equal_steps("imp", &mut options, &request, REGISTRY, &data).unwrap();
        let setting = Setting { seed: 0, steps: 71, steps_per_epoch: 71 };
        let work = REGISTRY.find("imp").unwrap().build(&options, &setting).unwrap();
        let steps = work.procedure.unwrap().steps();
        assert!((55..=71).contains(&steps), "{steps} of 71");
    }

    #[test]
    fn sizes_bound_the_density() {
        let spec = ModelSpec::parse("mlp:784-300-100-10", [1, 28, 28], 10).unwrap();
        let limited = Request { limit: Some(Limit::Size(200_000)), ..request(&["rigl"]) };
        let [d] = densities(&limited, REGISTRY, &spec).unwrap()[..] else { panic!("one density") };
        let bytes = |d| file_bytes(&spec, &false.into(), d);
        assert!(bytes(d) <= 200_000 && bytes(d * 1.05) > 200_000, "{d}: {}", bytes(d));
        let none = Request { limit: Some(Limit::Size(100)), ..limited };
        assert!(densities(&none, REGISTRY, &spec).is_err());
    }

    #[test]
    fn differences_are_paired_and_a_drop_names_the_smallest_density() {
        let mut all = cells(&check(&request(&["rigl"]), REGISTRY).unwrap(), REGISTRY);
        for cell in &mut all {
            let base = match cell.density {
                None => 0.95,
                Some(d) => 0.9 + 0.1 * d,
            };
            cell.test = vec![base, base + 0.01];
            cell.validation = cell.test.clone();
        }
        relate(&mut all, Some(Limit::Drop(2.5)));
        let rigl: Vec<&Cell> = all.iter().filter(|c| c.arm == "rigl").collect();
        let over = rigl[0].over_dense.unwrap();
        assert!((over.mean + 0.02).abs() < 1e-12 && over.half_width.unwrap() < 1e-9, "equal steps in both seeds");
        assert_eq!(rigl[0].over_random.map(|s| s.mean), Some(0.0));
        assert_eq!(
            rigl.iter().map(|c| (c.density, c.within)).collect::<Vec<_>>(),
            [(Some(0.3), Some(true)), (Some(0.1), Some(false))]
        );
    }
}
