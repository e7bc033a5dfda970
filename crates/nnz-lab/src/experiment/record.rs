//! Records of finished runs of experiments.

use crate::run::record::MachineRecord;
use crate::{Claim, Measured, Summary, summarize};
use nnz_core::{Findings, Metric};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use toml::Table;

/// Record of a finished run of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExperimentRecord {
    /// Hash of the resolved recipe, the inputs and the experiment's revision.
    pub id: String,
    /// The request, in one line.
    pub title: String,
    /// The key of the experiment; arms with another one name it.
    pub key: String,
    /// Description of the experiment, in a sentence; of several, one after the other.
    pub summary: String,
    /// The resolved recipe, as TOML.
    pub recipe: String,
    /// Origin of every input.
    pub inputs: BTreeMap<String, String>,
    /// The metrics of all arms, in the order they were declared.
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
    /// The key of its experiment, if not the record's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
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

impl ExperimentRecord {
    /// Differences of a metric to the first arm, seed by seed; `None` for that arm itself.
    pub fn over_first(&self, arm: &str, metric: &str) -> Option<Summary> {
        let first = &self.arms.first().filter(|first| first.name != arm)?.name;
        let pairs = self.values(arm, metric)?.into_iter().zip(self.values(first, metric)?);
        Some(summarize(&pairs.map(|(a, b)| a - b).collect::<Vec<_>>()))
    }
}
