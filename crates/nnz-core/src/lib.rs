//! The words of nnz. Everything a sparsity method is made of, and nothing that computes with tensors.
//!
//! A method sees [`Target`]s (named sets of entries with a shape, a [`Topology`] and values), asks for [`Signals`],
//! ranks entries by a [`Criterion`], shares the budget by a [`Distribution`], obeys a [`Pattern`] and a [`Schedule`],
//! and answers with [`Edit`]s. The engine owns everything else.
#![forbid(unsafe_code)]

mod criterion;
mod distribution;
mod error;
mod explored;
mod mask;
pub mod measure;
mod method;
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

pub use criterion::{Criterion, Gradient, Growth, Magnitude, Random, Search, Sensitivity, contenders, random_zeros};
pub use distribution::{Distribution, DistributionKind, Er, Erk, ErkPlus, Global, Uniform, UniformPlus, allocate};
pub use error::{Error, Result, closest};
pub use explored::Explored;
pub use mask::Mask;
pub use method::{Born, Budget, Build, Method, Paper, Registry, Rewiring, Work};
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
