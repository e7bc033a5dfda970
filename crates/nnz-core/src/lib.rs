//! The words of nnz. Everything a sparsity method is made of, and nothing that computes with tensors.
//!
//! A method sees [`Target`]s (named sets of entries with a shape, a [`Topology`] and values), asks for [`Signals`],
//! ranks entries by a [`Criterion`], shares the budget by a [`Distribution`], obeys a [`Pattern`] and a [`Schedule`],
//! and answers with [`Edit`]s. The engine owns everything else.
#![forbid(unsafe_code)]

mod adapter;
pub mod catalog;
mod criterion;
mod distribution;
mod error;
pub mod experiment;
mod explored;
mod knee;
mod mask;
pub mod measure;
mod method;
pub mod nm;
mod parametrization;
mod pattern;
mod procedure;
mod rng;
mod schedule;
mod sparsifier;
mod start;
mod state;
mod target;
mod topology;

pub use adapter::Adapter;
pub use criterion::{Criterion, Gradient, Growth, Magnitude, Random, Search, Sensitivity, contenders, random_zeros};
pub use distribution::{Distribution, DistributionKind, Er, Erk, ErkPlus, Global, Uniform, UniformPlus, allocate};
pub use error::{Error, Result, closest};
pub use experiment::{Better, Context, Experiment, Findings, Input, InputKind, Metric, Need, Unit};
pub use explored::Explored;
pub use knee::{Grid, Knee};
pub use mask::Mask;
pub use method::{Born, Budget, Build, Launch, Method, Paper, Registry, Rewiring, Work};
pub use parametrization::{Leaf, Parametrization};
pub use pattern::Pattern;
pub use procedure::{Act, Procedure};
pub use rng::Rng;
pub use schedule::{Cubic, Decay, OneShot, Period, Schedule, Setting, When};
pub use sparsifier::{Dense, DropGrow, Edit, Even, Exchange, Idle, Plan, Prune, Sparsifier, Static};
pub use start::Start;
pub use state::{Numbers, State, Visit, visit_within};
pub use target::{Kind, Live, Measure, Shape, Signals, Target, Zero};
pub use topology::{Topology, Transposed};

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
