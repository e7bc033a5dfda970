//! One pass over a batch, what a method sees of it, and its edits.

mod edits;
mod pass;
mod prune;
#[cfg(test)]
mod tests;
mod views;

pub(crate) use edits::{Editing, after_step, rewire};
pub(crate) use pass::{Step, culprit};
pub(crate) use prune::{Make, Rows, candidates, check_trained, measure_generic, prune_generic};
pub(crate) use views::Views;
