use crate::subject::Show;
use crate::{Edit, Result, Shape, Signals, Target};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// A command of a procedure to the engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Train, with the sparsifier, through a span of the steps of a training that is `of` steps long: the learning rate
    /// and the order of the rows are those of that span.
    Train {
        /// Span of steps.
        span: Range<u64>,
        /// Length of that training, in steps.
        of: u64,
        /// Index of the order of the rows.
        order: u64,
    },
    /// Measure on a batch, and apply [`Procedure::edit`].
    #[serde(skip)]
    Edit(Signals),
    /// Save values, connections and optimizer state under a name.
    Snapshot(String),
    /// Restore a snapshot.
    Restore(String),
    /// Restore the values of a snapshot, for the connections that exist now; optimizer state starts at zero.
    Rewind(String),
    /// Average the values of snapshots, entry by entry; keeps the current connections, optimizer state starts at zero.
    Average(Vec<String>),
    /// Measure accuracy on the validation split, given to the next call of [`Procedure::next`].
    Evaluate,
    /// End the procedure.
    Done,
}

/// A training that is more than one pass through its steps: pruning with rewinding, soups, search on the validation split.
///
/// A state machine. The engine asks for the next command when the last one is done, and checkpoints the state,
/// so that an interrupted run resumes where it was.
pub trait Procedure: Send {
    /// Total steps of all its trainings.
    fn steps(&self) -> u64;

    /// Returns the next command; `accuracy` is the answer to [`Command::Evaluate`] if that was the command before.
    fn next(&mut self, accuracy: Option<f64>) -> Command;

    /// Fixes how many entries each target keeps in the next edit; see [`crate::Sparsifier::divide`].
    fn divide(&mut self, _shapes: &[&Shape], _show: &mut Show) -> Result<bool> {
        Ok(false)
    }

    /// Returns one edit per target, for [`Command::Edit`].
    fn edit(&mut self, targets: &[Target]) -> Result<Vec<Edit>>;

    /// State to be kept in a checkpoint.
    fn state(&self) -> serde_json::Value;

    /// Restores what [`Procedure::state`] returned.
    fn restore(&mut self, state: &serde_json::Value) -> Result<()>;
}
