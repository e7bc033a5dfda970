//! nnz: neural networks that are sparse all the way down.
//!
//! Each room is a module that answers one question with methods, one file a method; [`REGISTRY`] lists them. A
//! [`Recipe`] says everything a run needs, [`run::run`] carries it out in a run directory, [`report`] shows it, and a
//! [`Claim`] judges it.
#![forbid(unsafe_code)]

/// The files of a room and the list of their cards.
macro_rules! methods {
    ($($file:ident),* $(,)?) => {
        $(mod $file;)*
        /// The methods of this room.
        pub const METHODS: &[&nnz_core::Method] = &[$(&$file::METHOD),*];
    };
}

pub mod adapter;
pub mod catalog;
mod claim;
pub mod compare;
pub mod data;
mod error;
pub mod graph;
pub mod history;
pub mod inspect;
pub mod kernels;
pub mod ledger;
pub mod models;
pub mod networks;
pub mod prune;
mod recipe;
pub mod report;
pub mod rewire;
pub mod run;
mod stats;
pub mod structured;
pub mod tickets;
pub mod topology;

pub use claim::{Claim, Judgement, Metric, Verdict};
pub use error::{Error, Result};
pub use recipe::{Arm, Network, Precision, Pretrain, Recipe, Scale, embedded};
pub use stats::{Summary, summarize};

/// Every method, room by room.
pub const REGISTRY: nnz_core::Registry = nnz_core::Registry(&[
    prune::METHODS,
    tickets::METHODS,
    rewire::METHODS,
    structured::METHODS,
    topology::METHODS,
    graph::METHODS,
    kernels::METHODS,
]);

/// The README's example is run as a test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
