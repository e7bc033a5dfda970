use crate::{Param, Tensor};
use nnz_core::{Command, Explored};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Record of one epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Number of the epoch, from 1.
    pub epoch: u32,
    /// Optimizer steps done.
    pub step: u64,
    /// Mean training loss over the epoch.
    pub loss: f64,
    /// Accuracy on the validation split after the epoch; see [`Evaluation::accuracy`] for other tasks.
    pub accuracy: f64,
    /// Density of the prunable weights after the epoch.
    pub density: f64,
    /// Connections grown during the epoch.
    #[serde(rename = "born")]
    pub grown: usize,
    /// Connections pruned during the epoch.
    #[serde(rename = "died")]
    pub pruned: usize,
    /// Share of the prunable entries that existed at any time so far (Liu et al. 2021, arXiv:2102.02887: the in-time
    /// over-parametrization rate R_s). None if weights are not rewired, and above 2¹⁹ connections, where it is not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explored: Option<f64>,
    /// Multiply-adds of the training so far, over all weights: connections that existed times rows times the places they are
    /// used at ([`Model::multiply_adds`]), once forward and twice backward, and the method's measurements besides.
    #[serde(default)]
    pub multiply_adds: f64,
}

/// Progress of a running training.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Optimizer steps done and total.
    pub steps: (u64, u64),
    /// Current epoch, from 1, and total epochs.
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

/// State of a training between two steps; the part of a checkpoint besides tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Steps done.
    pub step: u64,
    /// Sum over the current epoch of the steps' losses times their rows.
    pub loss_sum: f64,
    /// The sum of the weights of the rows seen in the current epoch: their number, where all count the same.
    pub rows_seen: f64,
    /// Connections grown in the current epoch.
    #[serde(rename = "born")]
    pub grown: usize,
    /// Connections pruned in the current epoch.
    #[serde(rename = "died")]
    pub pruned: usize,
    /// Finished epochs.
    pub history: Vec<EpochRecord>,
    /// The step at which the current rows were [taken up](crate::Learner::take_up).
    #[serde(default)]
    pub first: u64,
    /// Epochs finished before that.
    #[serde(default)]
    pub epochs: u32,
    /// Whether more rows may follow.
    #[serde(default)]
    pub open: bool,
    /// State of the method.
    pub sparsifier: Value,
    /// The current training, if a procedure has several.
    #[serde(default)]
    pub act: Option<Command>,
    /// Steps done in it.
    #[serde(default)]
    pub done: u64,
    /// Steps done when optimizer state was last zero.
    #[serde(default)]
    pub since: u64,
    /// State of the procedure.
    #[serde(default)]
    pub procedure: Value,
    /// Accuracy not yet passed to the procedure.
    #[serde(default)]
    pub accuracy: Option<f64>,
    /// Names of a procedure's snapshots.
    #[serde(default)]
    pub snapshots: Vec<String>,
    /// Extents of the leaves of every parametrized weight.
    #[serde(default)]
    pub leaves: Vec<Vec<Vec<usize>>>,
    /// All connections every target ever had, once it was rewired.
    #[serde(default)]
    pub explored: Vec<Explored>,
    /// Multiply-adds so far; see [`EpochRecord::multiply_adds`].
    #[serde(default)]
    pub multiply_adds: f64,
    /// The most bytes that lived at once in any step so far; see [`Learner::peak_bytes`](crate::Learner::peak_bytes).
    #[serde(default)]
    pub peak_bytes: usize,
}

/// A network and its optimizer state, saved by a procedure.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot<T> {
    pub params: Vec<Param<T>>,
    pub state: Vec<Vec<Tensor<T>>>,
}
