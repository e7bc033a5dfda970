//! The workshop around the methods: a [`Recipe`] specifies a run completely, [`run::run`] carries it out in a run directory,
//! [`report`] shows it, and a [`Claim`] judges it. The methods themselves come in as a [`nnz_core::Registry`].
#![forbid(unsafe_code)]

mod claim;
pub mod compare;
mod concerns;
mod error;
pub mod experiment;
pub mod history;
pub mod inspect;
pub mod ledger;
mod recipe;
pub mod report;
pub mod run;
pub mod scale;
pub mod scores;
pub mod sensitivity;
mod stats;

pub use claim::{Claim, Expect, Judgement, Measured, Over, Relation, Verdict};
pub use error::{Error, Result};
pub use experiment::{ExperimentRecipe, ExperimentRecord};
pub use recipe::{Arm, Network, Plan, Precision, Pretrain, Recipe, Scale, Start, embedded};
pub use stats::{Summary, summarize};
