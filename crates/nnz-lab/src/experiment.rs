//! Running an experiment: a recipe with arms and seeds, carried out in a run directory like a training.
//!
//! The directory holds `recipe.toml`, the findings of every arm and seed under `arms/`, files that the experiment wrote under
//! `artifacts/`, a checkpoint while it runs, and at the end `record.json`, `report.html` and the numbers of the page.

use crate::recipe::merge;
use crate::run::record::MachineRecord;
use crate::run::{Observer, Options, folder, hex, machine, occupy, read_json, remove_partial_files, write, write_json};
use crate::{Claim, Error, Measured, Result, Scale, report};
use nnz_core::experiment::Host;
use nnz_core::{Context, Findings, InputKind, Method, Metric, Need, Registry, State, closest};
use nnz_engine::fit::{load_state, save_state};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::any::Any;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;
use toml::Table;

/// Seconds between two checkpoints of an uninterrupted experiment.
const KEEP_EVERY: f64 = 20.0;

/// Everything a run of an experiment needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExperimentRecipe {
    /// One line.
    pub title: String,
    /// The experiment: its key, or room/key.
    pub run: String,
    /// Seeds; every arm runs once for each.
    pub seeds: Vec<u64>,
    /// Inputs to read, by the names the experiment declares.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
    /// Options of all arms.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub options: Table,
    /// Arms to compare; by default one named after the experiment.
    #[serde(default, rename = "arm", skip_serializing_if = "Vec::is_empty")]
    pub arms: Vec<ExperimentArm>,
    /// Claim of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// Keys that differ at smoke scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smoke: Option<Table>,
}

/// One of the arms compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExperimentArm {
    /// Its name in tables.
    pub name: String,
    /// Its options, on top of those of all arms.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub options: Table,
}

impl ExperimentRecipe {
    /// The key of the experiment.
    pub fn key(&self) -> &str {
        self.run.rsplit('/').next().unwrap_or(&self.run)
    }

    /// Refuses invalid recipes; `place` names the recipe in errors.
    pub fn check(&self, place: &str) -> Result<()> {
        let bad = |why: String| Err(Error::Recipe { place: place.into(), why });
        let mut seeds = self.seeds.clone();
        seeds.sort_unstable();
        seeds.dedup();
        if seeds.is_empty() || seeds.len() != self.seeds.len() {
            return bad("needs at least one seed, and none twice".into());
        }
        for (i, arm) in self.arms.iter().enumerate() {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.=".contains(c);
            if arm.name.is_empty() || !arm.name.chars().all(plain) {
                return bad(format!("arm `{}`: names are made of letters, digits, `-`, `_`, `=` and `.`", arm.name));
            }
            if self.arms[..i].iter().any(|a| a.name == arm.name) {
                return bad(format!("two arms are named `{}`", arm.name));
            }
        }
        let names: Vec<&str> = match self.arms.is_empty() {
            true => vec![self.key()],
            false => self.arms.iter().map(|a| &*a.name).collect(),
        };
        self.claim.as_ref().map_or(Ok(()), |c| c.check(&names).or_else(bad))
    }

    /// The recipe at a scale.
    pub fn at(self, scale: Scale) -> Result<Self> {
        match (scale, &self.smoke) {
            (Scale::Smoke, Some(smoke)) => merge(&Self { smoke: None, ..self.clone() }, smoke, &self.title),
            _ => Ok(self),
        }
    }

    /// Fills in every option of every arm and every input, so that the recipe is complete.
    fn resolve(mut self, registry: Registry) -> Result<(Self, &'static Method)> {
        let method = registry.find(self.key())?;
        self.run = format!("{}/{}", method.room, method.key);
        if self.arms.is_empty() {
            self.arms.push(ExperimentArm { name: method.key.into(), ..ExperimentArm::default() });
        }
        let shared = std::mem::take(&mut self.options);
        for arm in &mut self.arms {
            let mut given = shared.clone();
            given.extend(std::mem::take(&mut arm.options));
            arm.options = method.options(&given)?;
            let inputs = method.launch(&arm.options)?.inputs();
            if let Some(unknown) = self.inputs.keys().find(|name| !inputs.iter().any(|i| i.name == **name)) {
                let hint = closest(unknown, inputs.iter().map(|i| i.name));
                return Err(Error::Refused(format!("{} has no input `{unknown}`{hint}", method.key)));
            }
            for input in inputs {
                match input.need {
                    _ if self.inputs.contains_key(input.name) => {}
                    Need::Optional => {}
                    Need::Default(default) => drop(self.inputs.insert(input.name.into(), default.into())),
                    Need::Required => {
                        let why = format!("{} reads an input `{}`: {}", method.key, input.name, input.about);
                        return Err(Error::Refused(format!("{why} Give --input {}=...", input.name)));
                    }
                }
            }
        }
        Ok((self, method))
    }
}

/// Record of a finished run of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExperimentRecord {
    /// Hash of the resolved recipe, the inputs and the experiment's revision.
    pub id: String,
    /// The request, in one line.
    pub title: String,
    /// The experiment's key.
    pub key: String,
    /// Description of the experiment, in a sentence.
    pub summary: String,
    /// The resolved recipe, as TOML.
    pub recipe: String,
    /// Origin of every input.
    pub inputs: BTreeMap<String, String>,
    /// The metrics, in the order they were declared.
    pub metrics: Vec<MetricRecord>,
    /// The machine it ran on.
    pub machine: MachineRecord,
    /// The arms.
    pub arms: Vec<ExperimentArmRecord>,
    /// The judged claim, if the recipe has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
}

/// A metric in the format of records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricRecord {
    /// Its name.
    pub key: String,
    /// How it is written.
    pub unit: nnz_core::Unit,
    /// Direction in which it improves.
    pub better: nnz_core::Better,
    /// Description.
    pub about: String,
}

impl From<&Metric> for MetricRecord {
    fn from(m: &Metric) -> Self {
        Self { key: m.key.into(), unit: m.unit, better: m.better, about: m.about.into() }
    }
}

/// One arm of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExperimentArmRecord {
    /// Its name.
    pub name: String,
    /// Options in which it differs from the defaults.
    pub options: Table,
    /// Findings, in the order of the seeds.
    pub seeds: Vec<SeedFindings>,
}

/// Findings of an arm at a seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeedFindings {
    /// The seed.
    pub seed: u64,
    /// Its findings.
    pub findings: Findings,
}

impl Measured for ExperimentRecord {
    fn metrics(&self) -> Vec<MetricRecord> {
        self.metrics.clone()
    }

    fn values(&self, arm: &str, metric: &str) -> Option<Vec<f64>> {
        let seeds = &self.arms.iter().find(|a| a.name == arm)?.seeds;
        seeds.iter().map(|s| s.findings.metrics.get(metric).copied()).collect()
    }

    fn rows(&self, arm: &str, metric: &str) -> Option<Vec<f64>> {
        let seeds = &self.arms.iter().find(|a| a.name == arm)?.seeds;
        let rows = seeds.iter().map(|s| s.findings.rows.get(metric).cloned()).collect::<Option<Vec<_>>>()?;
        Some(rows.concat())
    }
}

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
    let (recipe, method) = recipe.clone().resolve(registry)?;
    let inputs = Inputs::read(&recipe, method)?;
    inputs.notes.iter().for_each(|note| observer.note(note));
    let text = |r: &ExperimentRecipe| {
        toml::to_string_pretty(r).map_err(|e| Error::Recipe { place: r.title.clone(), why: e.to_string() })
    };
    // Two claims about the same arms are one run.
    let asked = text(&ExperimentRecipe { claim: None, smoke: None, ..recipe.clone() })?;
    let mut hash = Sha256::new().chain_update(asked);
    inputs.checksums.iter().for_each(|c| hash.update(c));
    hash.update(method.revision.to_le_bytes());
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
    let (count, defaults) = (recipe.arms.len() * recipe.seeds.len(), method.defaults());
    let (mut arms, mut metrics) = (Vec::new(), Vec::new());
    for (a, arm) in recipe.arms.iter().enumerate() {
        let mut seeds = Vec::new();
        for (s, &seed) in recipe.seeds.iter().enumerate() {
            observer.begin(&arm.name, seed, a * recipe.seeds.len() + s, count);
            let name = format!("{}-{seed}", arm.name);
            let done = dir.join("arms").join(format!("{name}.json"));
            let checkpoint = dir.join("arms").join(format!("{name}.checkpoint.safetensors"));
            let mut experiment = method.launch(&arm.options)?;
            metrics = experiment.metrics().iter().map(MetricRecord::from).collect();
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
        let changed = arm.options.iter().filter(|(key, value)| defaults.get(*key) != Some(value));
        let options = changed.map(|(k, v)| (k.clone(), v.clone())).collect();
        arms.push(ExperimentArmRecord { name: arm.name.clone(), options, seeds });
    }
    let record = ExperimentRecord {
        id,
        title: recipe.title.clone(),
        key: method.key.into(),
        summary: method.summary.into(),
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
