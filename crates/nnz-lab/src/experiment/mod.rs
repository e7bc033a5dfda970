//! Running an experiment: a recipe with arms and seeds, carried out in a run directory like a training.
//!
//! The directory holds `recipe.toml`, the findings of every arm and seed under `arms/`, files that the experiment wrote under
//! `artifacts/`, a checkpoint while it runs, and at the end `record.json`, `report.html` and the numbers of the page.

mod recipe;
mod record;

pub use recipe::{ExperimentArm, ExperimentRecipe};
pub use record::{ExperimentArmRecord, ExperimentRecord, MetricRecord, SeedFindings};

use crate::run::{Observer, Options, folder, hex, machine, occupy, read_json, remove_partial_files, write, write_json};
use crate::{Error, Result, report};
use nnz_core::experiment::Host;
use nnz_core::{Context, InputKind, Method, Registry, State};
use nnz_engine::fit::{load_state, save_state};
use sha2::{Digest, Sha256};
use std::any::Any;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Seconds between two checkpoints of an uninterrupted experiment.
const KEEP_EVERY: f64 = 20.0;

/// A completed run.
pub struct ExperimentOutcome {
    /// Its record.
    pub record: ExperimentRecord,
    /// Its directory.
    pub dir: PathBuf,
    /// Whether it had already finished before.
    pub found: bool,
}

/// Inputs that were read, with the hashes of their contents.
struct Inputs {
    values: BTreeMap<String, Box<dyn Any + Send + Sync>>,
    checksums: Vec<String>,
    notes: Vec<String>,
}

impl Inputs {
    /// Reads what all arms read alike; `method` is the first arm's.
    fn read(recipe: &ExperimentRecipe, method: &Method) -> Result<Self> {
        let mut all = Self { values: BTreeMap::new(), checksums: Vec::new(), notes: Vec::new() };
        for input in method.launch(&recipe.arms[0].options)?.inputs() {
            let Some(place) = recipe.inputs.get(input.name) else { continue };
            let file = || fs::read(place).map_err(|e| Error::file(Path::new(place), format!("cannot read: {e}")));
            let value: Box<dyn Any + Send + Sync> = match input.kind {
                InputKind::Rows => {
                    let loaded = nnz_data::Store::open()?.load(place)?;
                    all.notes.extend(loaded.notes);
                    all.checksums.push(loaded.dataset.checksum.clone());
                    Box::new(loaded.dataset)
                }
                InputKind::Text => {
                    let bytes = file()?;
                    all.checksums.push(hex(Sha256::new().chain_update(&bytes), 32));
                    let bad = |e| Error::file(Path::new(place), format!("is no text in UTF-8: {e}"));
                    Box::new(String::from_utf8(bytes).map_err(bad)?)
                }
                InputKind::Model => {
                    let bytes = file()?;
                    all.checksums.push(hex(Sha256::new().chain_update(&bytes), 32));
                    let (model, header) =
                        nnz_engine::file::parse_model::<f32>(&bytes, Path::new(place), nnz_engine::Storage::Auto)?;
                    Box::new(nnz_engine::file::Stored { model, header })
                }
            };
            all.values.insert(input.name.into(), value);
        }
        Ok(all)
    }
}

/// Saves an experiment's state, and stops it when the observer says so.
struct Keeper<'a> {
    checkpoint: PathBuf,
    dir: PathBuf,
    name: String,
    run: String,
    arm: &'a str,
    observer: &'a mut dyn Observer,
    kept: Instant,
}

impl Keeper<'_> {
    fn refused(e: Error) -> nnz_core::Error {
        nnz_core::Error::Refused(e.to_string())
    }
}

impl Host for Keeper<'_> {
    fn resume(&mut self, state: &mut dyn State) -> nnz_core::Result<bool> {
        if !self.checkpoint.exists() {
            return Ok(false);
        }
        load_state(&self.checkpoint, state, &self.run).map_err(|e| nnz_core::Error::Refused(e.to_string()))?;
        Ok(true)
    }

    fn checkpoint(&mut self, done: u64, of: u64, state: &mut dyn State) -> nnz_core::Result<bool> {
        let go_on = self.observer.part(self.arm, done, of);
        if !go_on || self.kept.elapsed().as_secs_f64() > KEEP_EVERY {
            save_state(&self.checkpoint, state, &self.run).map_err(|e| nnz_core::Error::Refused(e.to_string()))?;
            self.kept = Instant::now();
        }
        Ok(go_on)
    }

    fn artifact(&mut self, name: &str, bytes: &[u8]) -> nnz_core::Result<()> {
        let written = || write(&folder(&self.dir, Path::new("artifacts").join(&self.name))?.join(name), bytes);
        written().map_err(Self::refused)
    }
}

/// Carries out a recipe, or finds its finished run.
///
/// # Errors
/// When the recipe, an input or the directory does not fit, and [`Error::Interrupted`] when the observer stops it.
pub fn run(
    recipe: &ExperimentRecipe,
    registry: Registry,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<ExperimentOutcome> {
    recipe.check(&recipe.title)?;
    let (recipe, methods) = recipe.clone().resolve(registry)?;
    let metrics = recipe.metrics(&methods)?;
    let inputs = Inputs::read(&recipe, methods[0])?;
    inputs.notes.iter().for_each(|note| observer.note(note));
    let text = |r: &ExperimentRecipe| {
        toml::to_string_pretty(r).map_err(|e| Error::Recipe { place: r.title.clone(), why: e.to_string() })
    };
    // Two claims about the same arms are one run.
    let asked = text(&ExperimentRecipe { claim: None, smoke: None, ..recipe.clone() })?;
    let mut hash = Sha256::new().chain_update(asked);
    inputs.checksums.iter().for_each(|c| hash.update(c));
    let each: Vec<&Method> = recipe.keys().into_iter().filter_map(|key| registry.find(key).ok()).collect();
    each.iter().for_each(|m| hash.update(m.revision.to_le_bytes()));
    let id = hex(hash, 6);
    let dir = options.dir.clone().unwrap_or_else(|| Path::new("runs").join(&id));
    let marker = dir.join("id");
    if options.resume && !marker.exists() {
        return Err(Error::file(&dir, "holds no run to go on from; leave out --resume to start it"));
    }
    let _lock = occupy(&dir, "run", "--run-dir")?;
    remove_partial_files(&dir);
    match fs::read_to_string(&marker) {
        Ok(other) if other.trim() != id => {
            let why = format!("holds run {}, not this one ({id}); give another --run-dir", other.trim());
            return Err(Error::file(&dir, why));
        }
        // First of all, since it marks the owner of this directory.
        _ => write(&marker, id.as_bytes())?,
    }
    folder(&dir, "arms")?;
    if options.again {
        crate::run::clear(&dir)?;
        folder(&dir, "arms")?;
        let artifacts = dir.join("artifacts");
        if artifacts.exists() {
            fs::remove_dir_all(&artifacts).map_err(|e| Error::file(&artifacts, format!("cannot remove: {e}")))?;
        }
    } else if dir.join("record.json").exists() {
        let record = ExperimentRecord { claim: recipe.claim.clone(), ..read_json(&dir.join("record.json"))? };
        return Ok(ExperimentOutcome { record, dir, found: true });
    }
    write(&dir.join("recipe.toml"), text(&recipe)?.as_bytes())?;
    let count = recipe.arms.len() * recipe.seeds.len();
    let mut arms = Vec::new();
    for (a, (arm, method)) in recipe.arms.iter().zip(&methods).enumerate() {
        let mut seeds = Vec::new();
        for (s, &seed) in recipe.seeds.iter().enumerate() {
            observer.begin(&arm.name, seed, a * recipe.seeds.len() + s, count);
            let name = format!("{}-{seed}", arm.name);
            let done = dir.join("arms").join(format!("{name}.json"));
            let checkpoint = dir.join("arms").join(format!("{name}.checkpoint.safetensors"));
            let mut experiment = method.launch(&arm.options)?;
            if !done.exists() {
                let mut keeper = Keeper {
                    checkpoint: checkpoint.clone(),
                    dir: dir.clone(),
                    name: name.clone(),
                    run: format!("{id}/{name}"),
                    arm: &arm.name,
                    observer,
                    kept: Instant::now(),
                };
                let mut cx = Context::new(seed, &inputs.values, experiment.metrics(), &mut keeper);
                match experiment.run(&mut cx) {
                    Err(nnz_core::Error::Stopped) => return Err(Error::Interrupted { dir }),
                    ended => ended?,
                }
                write_json(&done, &cx.finish()?)?;
            }
            // A process killed right after an arm ended left a checkpoint that is no longer needed.
            let _ = fs::remove_file(&checkpoint);
            seeds.push(SeedFindings { seed, findings: read_json(&done)? });
        }
        let defaults = method.defaults();
        let changed = arm.options.iter().filter(|(key, value)| defaults.get(*key) != Some(value));
        let options = changed.map(|(k, v)| (k.clone(), v.clone())).collect();
        let key = arm.run.as_ref().map(|_| method.key.into());
        arms.push(ExperimentArmRecord { name: arm.name.clone(), key, options, seeds });
    }
    let record = ExperimentRecord {
        id,
        title: recipe.title.clone(),
        key: recipe.key().into(),
        summary: summary(&each),
        recipe: text(&recipe)?,
        inputs: recipe.inputs.clone(),
        metrics,
        machine: machine(),
        arms,
        claim: recipe.claim.clone(),
    };
    write_page(&record, &dir)?;
    write_json(&dir.join("record.json"), &record)?;
    Ok(ExperimentOutcome { record, dir, found: false })
}

/// What the experiments of a run do.
fn summary(methods: &[&Method]) -> String {
    match methods {
        [one] => one.summary.into(),
        all => all.iter().map(|m| format!("{}: {}", m.name, m.summary)).collect::<Vec<_>>().join(" "),
    }
}

/// Writes `report.html` and its numbers under `figures/`.
///
/// # Errors
/// When they cannot be written.
pub fn write_page(record: &ExperimentRecord, dir: &Path) -> Result<PathBuf> {
    let path = dir.join("report.html");
    write(&path, report::experiment(record).as_bytes())?;
    let figures = folder(dir, "figures")?;
    for (name, text) in report::experiment_csv(record) {
        write(&figures.join(name), text.as_bytes())?;
    }
    Ok(path)
}
