//! Record of a finished (or interrupted) run: the one document from which the table, the report and `--json` are made.

use crate::Measured;
use crate::experiment::MetricRecord;
use crate::scores::Scores;
use crate::{Result, Summary, summarize};
use nnz_core::{Better, Metric, Unit};
use nnz_data::read::{Encoding, short};
pub use nnz_engine::EpochRecord;
use nnz_engine::Task;
use nnz_engine::data::Dataset;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A run: one recipe, several arms, several seeds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunRecord {
    /// Hash of the resolved recipe, the data's checksums and the methods' revisions; 12 hexadecimal digits.
    pub id: String,
    /// The request in one line, e.g. "rigl on mnist at density 0.05".
    pub title: String,
    /// The resolved recipe, as TOML.
    pub recipe: String,
    /// The data.
    pub data: DataRecord,
    /// The model, e.g. `mlp:784-300-100-10`.
    pub model: String,
    /// Task of the networks.
    #[serde(default, skip_serializing_if = "Task::is_default")]
    pub task: Task,
    /// The machine it ran on.
    pub machine: MachineRecord,
    /// The arms: the method first, then its controls.
    pub arms: Vec<ArmRecord>,
}

/// The data of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataRecord {
    /// Name, e.g. `mnist10k`.
    pub name: String,
    /// Rows for training and validation.
    pub train: usize,
    /// Rows for testing.
    pub test: usize,
    /// Channels, height, width.
    pub image: [usize; 3],
    /// Class names, or names of the targets.
    pub classes: Vec<String>,
    /// The column of a table that has the answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Names of the inputs of a table, in order; empty for other data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// Why it is not the data that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl DataRecord {
    /// The record of a data set, with what its reader remarked.
    ///
    /// # Errors
    /// When a table's encoding is damaged.
    pub fn of(data: &Dataset, note: Option<String>) -> Result<Self> {
        let encoding = data.encoding.as_ref().map(Encoding::from_json).transpose()?;
        Ok(Self {
            name: data.name.clone(),
            train: data.train.len(),
            test: data.test.len(),
            image: data.image,
            classes: data.classes.clone(),
            inputs: encoding.as_ref().map_or_else(Vec::new, Encoding::inputs),
            target: encoding.map(|e| e.target),
            note,
        })
    }

    /// Its name without the folders and options of a place.
    pub fn short(&self) -> &str {
        short(&self.name)
    }
}

/// The machine of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineRecord {
    /// Processor's name.
    pub cpu: String,
    /// Threads used.
    pub threads: usize,
    /// Version of nnz.
    pub version: String,
}

/// One arm of a run: a method or a control.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ArmRecord {
    /// `rigl`, `static-random`, `dense`, `small-dense`.
    pub name: String,
    /// One sentence that describes this arm.
    pub summary: String,
    /// Mean over seeds of the accuracy on the test split, in [0, 1]; of another metric, at most 1, if the task has one
    /// ([`Task::measure`]).
    pub test_accuracy: f64,
    /// Half width of its 95% interval over seeds (Student's t); `None` with one seed.
    pub interval: Option<f64>,
    /// Nonzero weights, biases not counted.
    pub nonzeros: usize,
    /// Nonzeros / entries of the prunable weights.
    pub density: f64,
    /// Bytes of weights, indices and biases as stored while training.
    pub weight_bytes: usize,
    /// Bytes of optimizer state.
    pub optimizer_bytes: usize,
    /// The most bytes that lived at once in a step of any seed ([`nnz_engine::Learner::peak_bytes`]); 0 in records of before it
    /// was counted.
    #[serde(default)]
    pub peak_training_bytes: usize,
    /// Median over epochs and seeds.
    pub seconds_per_epoch: f64,
    /// One element per seed.
    pub seeds: Vec<SeedRecord>,
}

/// One trained network.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SeedRecord {
    /// The seed.
    pub seed: u64,
    /// Accuracy on the test split, or the task's metric.
    pub test_accuracy: f64,
    /// Nonzero weights, biases not counted.
    pub nonzeros: usize,
    /// Nonzeros / entries of the prunable weights.
    pub density: f64,
    /// Bytes of weights, indices and biases as stored while training.
    pub weight_bytes: usize,
    /// Bytes of optimizer state.
    pub optimizer_bytes: usize,
    /// The most bytes that lived at once in a step; 0 in records of before it was counted.
    #[serde(default)]
    pub peak_training_bytes: usize,
    /// Median over epochs; known once the arm has ended.
    #[serde(default)]
    pub seconds_per_epoch: f64,
    /// Values of probes on the network, by the keys of their methods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub measures: BTreeMap<String, f64>,
    /// Measures of what the network answers on the test split, beside the task's own.
    #[serde(default, skip_serializing_if = "Scores::is_empty")]
    pub scores: Scores,
    /// One element per epoch.
    pub epochs: Vec<EpochRecord>,
    /// The weights at the end, first layer first.
    pub layers: Vec<LayerRecord>,
    /// `confusion[label][predicted]` on the test split; empty without classes.
    pub confusion: Vec<Vec<u32>>,
    /// Some of the misclassified test rows, most confident first; kept for the first seed of an arm.
    pub misread: Vec<Misread>,
}

/// Metrics of every training. A method with a probe adds one under its key.
pub const METRICS: &[Metric] = {
    use Better::{Higher, Lower, Neither};
    &[
        Metric::new("test-accuracy", Unit::Share, Higher, "Accuracy on the test split, or the task's measure."),
        Metric::new("balanced-accuracy", Unit::Share, Higher, "Mean recall of the classes that have test rows."),
        Metric::new("macro-f1", Unit::Number, Higher, "Mean F1 of the classes that occur or are predicted."),
        Metric::new(
            "auc",
            Unit::Number,
            Higher,
            "Area under the ROC curve; of more than two classes the mean, each against the rest.",
        ),
        Metric::new(
            "rmse",
            Unit::Number,
            Lower,
            "Root of the mean squared error in units of the target; the mean over targets.",
        ),
        Metric::new("mae", Unit::Number, Lower, "Mean absolute error in units of the target; the mean over targets."),
        Metric::new(
            "r2",
            Unit::Number,
            Higher,
            "1 - squared error / squared deviation from the mean; the mean over targets.",
        ),
        Metric::new("train-loss", Unit::Nats, Lower, "Mean training loss over the last epoch."),
        Metric::new("density", Unit::Share, Neither, "Nonzeros / entries of the prunable weights at the end."),
        Metric::new("sparsity", Unit::Share, Neither, "Zeros / entries of the prunable weights at the end."),
        Metric::new("explored", Unit::Share, Neither, "Share of the prunable entries that ever existed."),
        Metric::new("nonzeros", Unit::Count, Lower, "Weights that exist at the end."),
        Metric::new("multiply-adds", Unit::Count, Lower, "Multiply-adds of the training."),
        Metric::new("weight-bytes", Unit::Bytes, Lower, "Bytes of weights, indices and biases."),
        Metric::new("optimizer-bytes", Unit::Bytes, Lower, "Bytes of optimizer state."),
        Metric::new(
            "peak-training-bytes",
            Unit::Bytes,
            Lower,
            "The most bytes that lived at once in a step: values, indices, gradients, optimizer state, activations, the batch.",
        ),
        Metric::new("seconds-per-epoch", Unit::Seconds, Lower, "Median; of the machine it ran on."),
        Metric::new("epochs-per-second", Unit::Rate, Higher, "Its inverse."),
    ]
};

impl SeedRecord {
    /// A metric of [`METRICS`].
    pub fn metric(&self, key: &str) -> Option<f64> {
        let last = self.epochs.last();
        Some(match key {
            "test-accuracy" => self.test_accuracy,
            "train-loss" => last?.loss,
            "density" => self.density,
            "sparsity" => 1.0 - self.density,
            "explored" => last.and_then(|e| e.explored).unwrap_or(self.density),
            "nonzeros" => self.nonzeros as f64,
            "multiply-adds" => last?.multiply_adds,
            "weight-bytes" => self.weight_bytes as f64,
            "optimizer-bytes" => self.optimizer_bytes as f64,
            "peak-training-bytes" => Some(self.peak_training_bytes as f64).filter(|b| *b > 0.0)?,
            "seconds-per-epoch" => self.seconds_per_epoch,
            "epochs-per-second" => 1.0 / self.seconds_per_epoch.max(1e-9),
            // In recipes older than the names of probes it means the only one.
            "measure" => return self.measures.values().next().copied(),
            key => return self.scores.metrics.get(key).or_else(|| self.measures.get(key)).copied(),
        })
    }
}

/// The head of a column with a task's measure on the test split.
pub fn test_measure(task: Task) -> &'static str {
    if task == Task::Classification { "test accuracy" } else { task.measure() }
}

impl ArmRecord {
    /// Mean and interval over seeds of a metric of [`METRICS`]; `None` if a seed lacks it.
    pub fn metric(&self, key: &str) -> Option<Summary> {
        let values: Option<Vec<f64>> = self.seeds.iter().map(|s| s.metric(key)).collect();
        values.filter(|v| !v.is_empty()).map(|v| summarize(&v))
    }
}

/// The metrics of [`METRICS`] among the scores of these networks, in their order.
pub fn scored<'a>(seeds: impl Iterator<Item = &'a Scores> + Clone) -> Vec<&'static Metric> {
    METRICS.iter().filter(|m| seeds.clone().any(|s| s.metrics.contains_key(m.key))).collect()
}

impl Measured for RunRecord {
    fn metrics(&self) -> Vec<MetricRecord> {
        METRICS.iter().map(MetricRecord::from).collect()
    }

    fn values(&self, arm: &str, metric: &str) -> Option<Vec<f64>> {
        self.arms.iter().find(|a| a.name == arm)?.seeds.iter().map(|s| s.metric(metric)).collect()
    }
}

/// One weight at the end of training.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Parameter name.
    pub name: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Connections.
    pub nonzeros: usize,
    /// Whether the method may prune it.
    pub prunable: bool,
    /// `dense`, `masked` or `sparse`.
    pub storage: String,
    /// Bytes stored, indices included.
    pub bytes: usize,
    /// Connections of each output.
    pub fan_in: Vec<u32>,
    /// Connections of each input.
    pub fan_out: Vec<u32>,
}

/// A misclassified test row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Misread {
    /// Row in the test split.
    pub index: usize,
    /// Its class.
    pub label: usize,
    /// The network's prediction.
    pub predicted: usize,
    /// The softmax probability of the prediction.
    pub confidence: f64,
    /// The image, `[height][width][channels]`, 0 to 255.
    pub pixels: Vec<u8>,
}
