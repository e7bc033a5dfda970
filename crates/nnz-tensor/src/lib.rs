//! Tensors of nnz: values, a tape, operations on dense and sparse values, and their derivatives.
#![forbid(unsafe_code)]

pub mod account;
mod atomic;
mod codes;
mod connections;
pub mod derivatives;
mod error;
pub mod fit;
mod gradient;
pub mod ops;
pub mod tape;
mod tensor;

pub use atomic::write_atomically;
pub use codes::{Codes, SparseVar};
pub use connections::Connections;
pub use error::{Error, Result};
pub use gradient::Gradient;
pub use nnz_kernels::Real;
pub use tape::{Gradients, TapeError, Var};
pub use tensor::Tensor;

/// The example of a fit is run as a test.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/src/engine.md")]
struct Page;
