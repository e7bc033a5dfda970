use crate::{Param, Tensor};
use nnz_core::{Command, Explored};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One pass over the training data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// From 1.
    pub epoch: u32,
    /// Optimizer steps done.
    pub step: u64,
    /// Mean training loss over the epoch.
    pub loss: f64,
    /// Accuracy on the validation split after the epoch; see [`Evaluation::accuracy`] for other tasks.
    pub accuracy: f64,
    /// Density of the prunable weights after the epoch.
    pub density: f64,
    /// Connections made during the epoch.
    #[serde(rename = "born")]
    pub grown: usize,
    /// Connections removed during the epoch.
    #[serde(rename = "died")]
    pub pruned: usize,
    /// Share of the prunable entries that existed at any time so far (Liu et al. 2021, arXiv:2102.02887: the in-time
    /// over-parametrization rate R_s). None where weights are not rewired, and above 2¹⁹ connections, where it is not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explored: Option<f64>,
    /// Multiply-adds of the training so far, over all weights: connections that existed times rows times the places they are
    /// used at ([`Model::multiply_adds`]), once forward and twice backward, and what a method measured besides.
    #[serde(default)]
    pub multiply_adds: f64,
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
    #[serde(rename = "born")]
    pub grown: usize,
    /// Connections removed in the current epoch.
    #[serde(rename = "died")]
    pub pruned: usize,
    /// Finished epochs.
    pub history: Vec<EpochRecord>,
    /// What the method remembers.
    pub sparsifier: Value,
    /// The training under way, where a procedure has several.
    #[serde(default)]
    pub act: Option<Command>,
    /// Steps done of it.
    #[serde(default)]
    pub done: u64,
    /// Steps done when optimizer state last was zero.
    #[serde(default)]
    pub since: u64,
    /// What the procedure remembers.
    #[serde(default)]
    pub procedure: Value,
    /// What the procedure has yet to be told.
    #[serde(default)]
    pub accuracy: Option<f64>,
    /// Names of what a procedure keeps.
    #[serde(default)]
    pub snapshots: Vec<String>,
    /// Extents of the leaves of every parametrized weight.
    #[serde(default)]
    pub leaves: Vec<Vec<Vec<usize>>>,
    /// What every target ever had, once it was rewired.
    #[serde(default)]
    pub explored: Vec<Explored>,
    /// Multiply-adds so far; see [`EpochRecord::multiply_adds`].
    #[serde(default)]
    pub multiply_adds: f64,
    /// The most bytes that lived at once in any step so far; see [`Trainer::peak_bytes`](crate::Trainer::peak_bytes).
    #[serde(default)]
    pub peak_bytes: usize,
}

/// A network and its optimizer state, kept by a procedure.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot<T> {
    pub params: Vec<Param<T>>,
    pub state: Vec<Vec<Tensor<T>>>,
}
