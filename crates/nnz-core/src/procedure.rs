use crate::subject::Show;
use crate::{Edit, Result, Shape, Signals, Target};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// One thing a procedure has the engine do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Train, with the sparsifier, through a span of the steps of a training that is `of` steps long: the learning rate
    /// and the order of the rows are those of that span.
    Train {
        /// Steps of it.
        span: Range<u64>,
        /// Its length.
        of: u64,
        /// Another number is another order of the rows.
        order: u64,
    },
    /// Measure on a batch, and apply [`Procedure::edit`].
    #[serde(skip)]
    Edit(Signals),
    /// Keep values, connections and optimizer state under a name.
    Snapshot(String),
    /// Go back to what was kept.
    Restore(String),
    /// Go back to the values that were kept, of those connections that exist now; optimizer state starts at zero.
    Rewind(String),
    /// Take the mean of kept values, entry by entry; connections are those of now, optimizer state starts at zero.
    Average(Vec<String>),
    /// Accuracy on the validation split, given to the next call of [`Procedure::next`].
    Evaluate,
    /// That was all.
    Done,
}

/// A training that is more than one pass through its steps: pruning with rewinding, soups, search on the validation split.
///
/// A state machine. The engine asks for the next command when the last one is done, and keeps the state with every checkpoint,
/// so that a run that was cut off goes on where it was.
pub trait Procedure: Send {
    /// Steps of all its trainings together.
    fn steps(&self) -> u64;

    /// What to do next; `accuracy` is the answer to [`Command::Evaluate`] when that was the command before.
    fn next(&mut self, accuracy: Option<f64>) -> Command;

    /// Fixes how many entries each target keeps in the next edit; see [`crate::Sparsifier::divide`].
    fn divide(&mut self, _shapes: &[&Shape], _show: &mut Show) -> Result<bool> {
        Ok(false)
    }

    /// One edit for each target, for [`Command::Edit`].
    fn edit(&mut self, targets: &[Target]) -> Result<Vec<Edit>>;

    /// What a checkpoint must hold.
    fn state(&self) -> serde_json::Value;

    /// Takes back what [`Procedure::state`] gave.
    fn restore(&mut self, state: &serde_json::Value) -> Result<()>;
}
