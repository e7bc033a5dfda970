//! The vocabulary of nnz: everything a sparsity method is made of, and nothing that computes with tensors.
//!
//! A method sees [`Target`]s (named sets of entries with a shape, a [`Topology`] and values), asks for [`Signals`],
//! ranks entries by a [`Criterion`], shares the budget by a [`Distribution`], obeys a [`Pattern`] and a [`Schedule`],
//! and answers with [`Edit`]s. The engine owns everything else.
#![forbid(unsafe_code)]

// The macros name this crate.
extern crate self as nnz_core;

mod adapter;
mod by_layer;
pub mod catalog;
mod criterion;
mod distribution;
mod error;
pub mod experiment;
mod explored;
mod expr;
pub mod graph_stats;
mod groups;
mod knee;
mod mask;
mod method;
pub mod nm;
mod options;
mod parametrization;
mod pattern;
mod procedure;
mod rank;
mod rng;
mod role;
mod rule;
mod schedule;
mod sparsifier;
mod start;
mod state;
mod stock;
pub mod subject;
mod target;
mod topology;

pub use adapter::Adapter;
pub use by_layer::{LayerOptions, Names};
pub use criterion::{
    Criterion, Gradient, Growth, GrowthCandidates, Magnitude, MagnitudeOfEachSign, Random, Sensitivity, contenders,
    random_zeros,
};
pub use distribution::{
    Distribution, DistributionKind, Er, Erk, ErkPlus, Global, Owl, Scores, Uniform, UniformPlus, allocate,
};
pub use error::{Error, Result, closest};
pub use experiment::{Better, Context, Experiment, Findings, Input, InputKind, Metric, Need, Unit};
pub use explored::Explored;
pub use expr::{Expr, Function, Op, Variable};
pub use groups::{Born, Budget, Once, Rewiring};
pub use knee::Knee;
pub use mask::Mask;
pub use method::{Build, Launch, Method, MethodInstance, Paper, Registry};
pub use options::{Bounds, Documented, OptionDoc, above, at_least};
pub use parametrization::{Leaf, Moment, Parametrization, Weight};
pub use pattern::Pattern;
pub use procedure::{Command, Procedure};
pub use rng::Rng;
pub use role::{LayerRole, LayerSet, Prunable};
pub use rule::{Array, UpdateRule};
pub use schedule::{Cubic, Decay, OneShot, Period, Schedule, Setting, When};
pub use sparsifier::{Edit, Plan, Sparsifier};
pub use start::Start;
pub use state::{Numbers, State, Visit, visit_within};
pub use stock::{CheckOnly, Dense, DropGrow, PerLayer, Prune, Redistribution, Static};
pub use subject::{Editor, Subject};
pub use target::{Probe, Shape, Signals, Target, TargetKind, TargetMut, Zero};
pub use topology::{Topology, Transposed};

#[doc(hidden)]
pub use serde;

/// The rooms of a crate and the list of all their cards.
#[macro_export]
macro_rules! rooms {
    ($($room:ident),* $(,)?) => {
        $(pub mod $room;)*
        /// The rooms of this crate.
        pub const ROOMS: &[&[&$crate::Method]] = &[$($room::METHODS),*];
    };
}

/// The files of a room and the list of their cards.
#[macro_export]
macro_rules! methods {
    ($($file:ident),* $(,)?) => {
        $(mod $file;)*
        /// The methods of this room.
        pub const METHODS: &[&$crate::Method] = &[$(&$file::METHOD),*];
    };
}
