//! The ledger of claims: dated results under `results/`, and the table of all papers made from them.

use crate::experiment::MetricRecord;
use crate::run::record::MachineRecord;
use crate::{Claim, Error, Judgement, Measured, Result, Verdict};
use include_dir::{Dir, File, include_dir};
use nnz_core::{Registry, catalog};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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
    /// Outcome of the claim.
    pub verdict: Verdict,
    /// Mean of the claimed relation.
    pub effect: f64,
    /// Its 95% interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// Mean of the arm that the claim is about, if recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<f64>,
    /// Mean of what it is compared with, if recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<f64>,
    /// Number of seeds, or of rows.
    pub count: usize,
    /// Day of the measurement.
    pub date: String,
    /// Id of the run.
    pub run: String,
    /// The data.
    pub data: String,
    /// Processor.
    pub cpu: String,
    /// Threads.
    pub threads: usize,
    /// Version of nnz.
    pub version: String,
    /// The claim.
    pub claim: Claim,
    /// Every arm's numbers.
    pub arm: Vec<ArmEntry>,
}

/// One arm of a measured claim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmEntry {
    /// Name.
    pub name: String,
    /// Values of metrics, one per seed.
    #[serde(flatten)]
    pub metrics: BTreeMap<String, Vec<f64>>,
}

/// A finished run of any kind.
pub struct Finished<'a> {
    /// Its numbers.
    pub results: &'a dyn Measured,
    /// Id of the run.
    pub run: &'a str,
    /// The data, in words.
    pub data: String,
    /// The machine it ran on.
    pub machine: &'a MachineRecord,
    /// Names of its arms.
    pub arms: Vec<&'a str>,
    /// Metrics recorded for every arm in addition to the claim's.
    pub beside: &'a [&'a str],
}

impl Entry {
    /// Makes today's entry of a judged run.
    pub fn new(recipe: &str, claim: &Claim, judgement: &Judgement, of: &Finished) -> Result<Self> {
        let Some(key) = recipe.split('/').nth(1) else {
            return Err(Error::Recipe { place: recipe.into(), why: "its name is not room/method/claim".into() });
        };
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
        let metrics: Vec<&str> = std::iter::once(&*claim.metric).chain(of.beside.iter().copied()).collect();
        let arm = |name: &&str| ArmEntry {
            name: (*name).into(),
            metrics: metrics.iter().filter_map(|m| Some(((*m).into(), of.results.values(name, m)?))).collect(),
        };
        Ok(Self {
            recipe: recipe.into(),
            key: key.into(),
            verdict: judgement.verdict,
            effect: judgement.effect,
            interval: judgement.interval,
            measured: Some(judgement.measured),
            reference: Some(judgement.reference),
            count: judgement.count,
            date: now[..10].into(),
            run: of.run.into(),
            data: of.data.clone(),
            cpu: of.machine.cpu.clone(),
            threads: of.machine.threads,
            version: of.machine.version.clone(),
            claim: claim.clone(),
            arm: of.arms.iter().map(arm).collect(),
        })
    }

    /// What a claim about optimizer state is read beside, where it was recorded: the most bytes that lived in a step of training.
    /// Optimizer state may shrink while something else grows.
    pub fn beside(&self, metrics: &[MetricRecord]) -> Option<String> {
        let peak = metrics.iter().find(|m| m.key == "peak-training-bytes" && self.claim.metric == "optimizer-bytes")?;
        let most = |arm: &ArmEntry| {
            let bytes = arm.metrics.get(&*peak.key)?.iter().copied().fold(0.0, f64::max);
            Some(format!("{} {}", arm.name, peak.unit.write(bytes)))
        };
        let arms: Option<Vec<String>> = self.arm.iter().map(most).collect();
        Some(format!("{}: {}", peak.key, arms?.join(", ")))
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

/// Returns all recorded results, by recipe.
pub fn results() -> Vec<Entry> {
    fn walk(dir: &'static Dir, out: &mut Vec<Entry>) {
        let files = dir.files().filter(|f| f.path().extension().is_some_and(|e| e == "toml"));
        let read = |f: &File| {
            let text = f.contents_utf8().unwrap_or_default();
            // Compiled in, and a test reads each.
            toml::from_str(text).unwrap_or_else(|e| unreachable!("{}: {e}", f.path().display()))
        };
        out.extend(files.map(read));
        dir.dirs().for_each(|d| walk(d, out));
    }
    let mut out = Vec::new();
    walk(&RESULTS, &mut out);
    out.sort_by(|a: &Entry, b| a.recipe.cmp(&b.recipe));
    out
}

/// Renders the table of all judged claims for `docs/src/claims.md`.
pub fn claims(registry: Registry) -> String {
    let mut text =
        "| claim | measured | against | effect [95% interval] | expected | verdict | date |\n|---|---|---|---|---|---|---|\n".to_string();
    for r in results() {
        let (claim, metrics) = (&r.claim, metrics_of(registry, &r.key));
        let write = |v: Option<f64>| v.map_or_else(|| "-".into(), |v| claim.write(&metrics, v));
        text += &format!(
            "| {} (`{}`) | {} | {} | {} | {} | {} | {} |\n",
            claim.statement,
            r.recipe,
            write(r.measured),
            claim.write_reference(&metrics, r.reference),
            claim.write_effect(&metrics, r.effect, r.interval)
                + &r.beside(&metrics).map_or_else(String::new, |beside| format!("; {beside}")),
            claim.write_expected(&metrics),
            r.verdict,
            r.date
        );
    }
    text
}

/// The metrics that claims about a method may name.
pub fn metrics_of(registry: Registry, key: &str) -> Vec<MetricRecord> {
    let own = registry.find(key).ok().filter(|m| m.runs()).and_then(|m| m.launch(&m.defaults()).ok());
    let metrics = own.map_or(crate::run::record::METRICS, |experiment| experiment.metrics());
    metrics.iter().map(MetricRecord::from).collect()
}

/// Renders the table of all papers with their status for `docs/src/papers.md`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_of_optimizer_state_are_read_beside_all_of_training() {
        let metrics: Vec<MetricRecord> = crate::run::record::METRICS.iter().map(MetricRecord::from).collect();
        let mut old = results().into_iter().find(|r| r.recipe == "rewire/grass/optimizer-bytes").unwrap();
        old.arm.iter_mut().for_each(|arm| _ = arm.metrics.remove("peak-training-bytes"));
        assert_eq!(old.beside(&metrics), None, "it was not recorded always");
        let mut new = old.clone();
        new.arm.iter_mut().for_each(|arm| _ = arm.metrics.insert("peak-training-bytes".into(), vec![2e6, 3e6]));
        let said = new.beside(&metrics).unwrap();
        assert!(
            said.contains("grass 3") && said.contains("dense 3") && said.starts_with("peak-training-bytes"),
            "{said}"
        );
        new.claim.metric = "nonzeros".into();
        assert_eq!(new.beside(&metrics), None);
    }
}
