//! The ledger of claims: dated results under `results/`, and the table of all papers made from them.

use crate::run::record::RunRecord;
use crate::{Claim, Error, Judgement, Metric, Result, Verdict};
use include_dir::{Dir, include_dir};
use nnz_core::{Registry, catalog};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

static RESULTS: Dir = include_dir!("$CARGO_MANIFEST_DIR/../../results");

/// One measured claim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The recipe, `room/method/claim`.
    pub recipe: String,
    /// The method's key.
    pub key: String,
    /// What was to be shown.
    pub statement: String,
    /// Where the paper says so.
    pub source: String,
    /// What is compared.
    #[serde(default)]
    pub metric: Metric,
    /// What the numbers say.
    pub verdict: Verdict,
    /// Mean of the arm the claim is about.
    pub measured: f64,
    /// Mean of what it is compared with.
    pub reference: f64,
    /// Mean paired difference.
    pub difference: f64,
    /// Half width of its 95% interval.
    pub half_width: Option<f64>,
    /// What the difference had to be above.
    pub margin: f64,
    /// Number of seeds.
    pub seeds: usize,
    /// Day of the measurement.
    pub date: String,
    /// Id of the run.
    pub run: String,
    /// Data set as it was loaded.
    pub data: String,
    /// Processor.
    pub cpu: String,
    /// Threads.
    pub threads: usize,
    /// Version of nnz.
    pub version: String,
    /// Every arm's numbers.
    pub arm: Vec<ArmEntry>,
}

/// One arm of a measured claim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArmEntry {
    /// Name.
    pub name: String,
    /// Accuracy on the test split for each seed.
    pub test_accuracy: Vec<f64>,
    /// Weights that exist.
    pub nonzeros: usize,
    /// Median.
    pub seconds_per_epoch: f64,
}

impl Entry {
    /// Today's entry of a judged run.
    pub fn new(recipe: &str, claim: &Claim, judgement: &Judgement, record: &RunRecord) -> Result<Self> {
        let Some(key) = recipe.split('/').nth(1) else {
            return Err(Error::Recipe { place: recipe.into(), why: "its name is not room/method/claim".into() });
        };
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
        let arm = |a: &crate::run::record::ArmRecord| ArmEntry {
            name: a.name.clone(),
            test_accuracy: a.seeds.iter().map(|s| s.test_accuracy).collect(),
            nonzeros: a.nonzeros,
            seconds_per_epoch: a.seconds_per_epoch,
        };
        Ok(Self {
            recipe: recipe.into(),
            key: key.into(),
            statement: claim.statement.clone(),
            source: claim.source.clone(),
            metric: claim.metric,
            verdict: judgement.verdict,
            measured: judgement.measured,
            reference: judgement.reference,
            difference: judgement.difference.mean,
            half_width: judgement.difference.half_width,
            margin: claim.margin,
            seeds: judgement.seeds,
            date: now[..10].into(),
            run: record.id.clone(),
            data: format!("{} ({} train, {} test)", record.data.name, record.data.train, record.data.test),
            cpu: record.machine.cpu.clone(),
            threads: record.machine.threads,
            version: record.machine.version.clone(),
            arm: record.arms.iter().map(arm).collect(),
        })
    }

    /// Writes it under `dir` as `ROOM/METHOD/CLAIM.toml`.
    pub fn write(&self, dir: &Path) -> Result<PathBuf> {
        let path = dir.join(format!("{}.toml", self.recipe));
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| Error::file(parent, format!("cannot create: {e}")))?;
        }
        let text = toml::to_string_pretty(self).map_err(|e| Error::file(&path, e))?;
        nnz_engine::file::write_atomically(&path, text.as_bytes())?;
        Ok(path)
    }
}

/// All recorded results, by recipe.
pub fn results() -> Vec<Entry> {
    fn walk(dir: &'static Dir, out: &mut Vec<Entry>) {
        let files = dir.files().filter(|f| f.path().extension().is_some_and(|e| e == "toml"));
        out.extend(files.filter_map(|f| toml::from_str(f.contents_utf8()?).ok()));
        dir.dirs().for_each(|d| walk(d, out));
    }
    let mut out = Vec::new();
    walk(&RESULTS, &mut out);
    out.sort_by(|a: &Entry, b| a.recipe.cmp(&b.recipe));
    out
}

/// The table of all judged claims, as `docs/src/claims.md` shows it.
pub fn claims() -> String {
    let mut text =
        "| claim | measured | against | difference | verdict | date |\n|---|---|---|---|---|---|\n".to_string();
    for r in results() {
        let (measured, reference) = (r.metric.write(r.measured), r.metric.write(r.reference));
        let difference = r.metric.write_difference(r.difference, r.half_width);
        text += &format!(
            "| {} (`{}`) | {measured} | {reference} | {difference} | {} | {} |\n",
            r.statement, r.recipe, r.verdict, r.date
        );
    }
    text
}

/// The table of all papers with their status, as `docs/src/papers.md` shows it.
pub fn markdown(registry: Registry) -> String {
    let results = results();
    let status = |key: &str| -> String {
        let Ok(_) = registry.find(key) else { return "planned".into() };
        let of: Vec<&Entry> = results.iter().filter(|r| r.key == key).collect();
        match of.len() {
            0 => "runs, no claim judged yet".into(),
            _ => of.iter().map(|r| format!("{} ({})", r.verdict, r.date)).collect::<Vec<_>>().join(", "),
        }
    };
    let here = catalog::entries().iter().filter(|e| e.number.is_some() && registry.find(e.key).is_ok()).count();
    let all = catalog::entries().iter().filter(|e| e.number.is_some()).count();
    let mut text = format!("{here} of {all} papers, and these baselines:\n\n");
    let row = |e: &catalog::Entry| {
        let number = e.number.map_or_else(|| "-".into(), |n| n.to_string());
        format!(
            "| {number} | `{}` | {} | {} ({}, {}) | {} |\n",
            e.key,
            e.room,
            e.title,
            e.authors,
            e.year,
            status(e.key)
        )
    };
    let head = "| paper | key | room | title | claims |\n|---|---|---|---|---|\n";
    text += head;
    let (done, planned): (Vec<_>, Vec<_>) = catalog::entries().iter().partition(|e| registry.find(e.key).is_ok());
    text.extend(done.into_iter().map(row));
    text += "\n<details><summary>Planned</summary>\n\n";
    text += head;
    text.extend(planned.into_iter().map(row));
    text += "\n</details>\n";
    text
}
