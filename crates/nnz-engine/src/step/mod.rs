//! One pass over a batch, a method's view of it, and its edits.

mod edits;
mod pass;
mod prune;
#[cfg(test)]
mod tests;
mod views;

pub(crate) use edits::{Editing, after_step, rewire};
pub(crate) use pass::{Step, locate_non_finite};
pub(crate) use prune::{Make, Rows, candidates, never_kept, probe_generic, prune_generic};
pub(crate) use views::Views;
