//! Differentiable ops, by their usual names. Primitives have derivatives of any order; where a fast backward
//! exists, a gradient of a gradient takes the composite form instead ([`Var::fast`]).
//!
//! Images are `[batch, height, width, channels]`, sequences `[batch, length, channels]`. Sums over many entries are
//! taken in f64. Shapes that do not fit are programming errors and panic; user errors are caught where a
//! model is read.

mod activation;
mod attention;
mod basic;
mod codes;
mod contract;
mod conv;
mod fft;
mod index;
mod loss;
mod matmul;
mod norm;
mod pool;
mod reduce;
mod sequence;
mod shape;
mod softmax;
mod sparse;
mod window;

use crate::Real;
use crate::{Tensor, Var};
use std::sync::Arc;

/// Sum over all axes but the last, block by block in f64.
fn column_sums<T: Real>(g: &Tensor<T>) -> Tensor<T> {
    let cols = g.rows_cols().1;
    let sums = nnz_kernels::rows::column_sums([g.data()], [], cols, |[g], []| g);
    Tensor::new(&[cols], sums.into_iter().map(T::of).collect())
}

pub use activation::*;
pub use attention::*;
pub use basic::*;
pub use codes::*;
pub use contract::*;
pub use conv::*;
pub use fft::*;
pub use index::*;
pub use loss::*;
pub use matmul::*;
pub use nnz_kernels::rows::softmax as softmax_rows;
pub use norm::*;
pub use pool::*;
pub use reduce::*;
pub use sequence::*;
pub use softmax::*;
pub use sparse::*;
pub use window::*;
