//! Kernels of nnz: sparse linear layers and dense products on slices.
//!
//! All `unsafe` of the toolkit lives here, behind functions that check shapes and indices and panic on a mismatch.
//! Results do not depend on the number of threads, rayon's or those of an [`OpenMp`]: work is cut by topology and shape alone, and
//! every sum runs in a fixed order. Between instruction sets results agree to rounding.
//!
//! A layer is `y = x Wᵀ + bias` with W `[out, in]` sparse; values, and gradients of values, are plain vectors of one
//! number per entry. Ways to compute it:
//!
//! - [`Plan`]: the structure compiled to cache blocks, activations in [`Tiled`] layout, values in plan order. For training.
//! - [`Blocked`], [`Sliced`] and [`Expanded`]: values frozen, for batches, and for one or two samples at low and at higher
//!   density; [`Single`] takes the faster of the last two. [`Direct`] reads values where they lie.
//! - [`Ell`], [`NOfM`], [`Bitmask`]: smaller [`Encoding`]s of a structure, compiled to a plan; [`Bsr`] for blocks, whose entries
//!   share loads; [`Dense`]. All stand behind the trait [`Operator`] that [`Compiled`] (a plan with its values) and any
//!   format from elsewhere share.
//! - [`gemm`]: dense; faster than any of the above from a density of about 0.7 on, and the yardstick of
//!   `examples/bench.rs`.
//!
//! ```
//! use nnz_kernels::{Csc, Csr, Plan, Tiled};
//!
//! // . 2
//! // 3 .
//! // . 5
//! let csr = Csr { rows: 3, cols: 2, starts: &[0, 1, 2, 3], columns: &[1, 0, 1] };
//! let csc = Csc { starts: &[0, 1, 3], rows: &[1, 0, 2], entries: &[1, 0, 2] };
//! let plan = Plan::new(csr, csc);
//!
//! // Values live in plan order; an optimizer steps on them there.
//! let rows = plan.by_rows();
//! let mut values = vec![0.0f32; plan.nnz()];
//! rows.scatter(&[2.0, 3.0, 5.0], &mut values);
//!
//! let x = Tiled::from_rows(2, 2, &[1.0, 10.0, 100.0, 1000.0]);
//! let (mut y, mut packed) = (Tiled::zeros(2, 3), vec![0.0; plan.nnz()]);
//! plan.pack(&values, &mut packed); // whenever values change
//! plan.forward(&packed, &x, None, &mut y);
//! let mut y_rows = [0.0; 6];
//! y.to_rows(&mut y_rows);
//! assert_eq!(y_rows, [20.0, 3.0, 50.0, 2000.0, 300.0, 5000.0]);
//!
//! let g = Tiled::from_rows(2, 3, &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
//! let (mut dx, mut dw) = (Tiled::zeros(2, 2), vec![0.0; plan.nnz()]);
//! plan.backward(&values, &x, &g, Some(&mut dx), &mut dw);
//! let mut dx_rows = [0.0; 4];
//! dx.to_rows(&mut dx_rows);
//! assert_eq!(dx_rows, [0.0, 2.0, 3.0, 0.0]);
//! assert_eq!(rows.gather(&dw), [10.0, 100.0, 0.0]);
//! ```

#![warn(clippy::undocumented_unsafe_blocks)]

mod adjoint;
mod bags;
mod blocked;
mod blocks;
mod bsr;
mod built;
mod compile;
mod dense;
mod direct;
pub mod elementwise;
mod encoding;
mod expanded;
mod format;
mod forward;
mod functions;
mod growth;
mod map;
mod operator;
mod packing;
mod pages;
mod plan;
mod pool;
mod real;
pub mod rows;
mod shape;
mod share;
mod simd;
mod single;
mod sliced;
mod team;
#[cfg(test)]
mod testing;
pub mod threads;
mod tiled;
mod transpose;
mod weight;

pub use bags::{bags, bags_gradient, spmm_sparse};
pub use blocked::Blocked;
pub use bsr::Bsr;
pub use dense::attention::Attention;
pub use dense::conv::Conv;
pub use dense::gemm::{Start, gemm};
pub use dense::max_pool::max_pool;
pub use direct::Direct;
pub use encoding::{Bitmask, Ell, Encoding, NOfM};
pub use expanded::Expanded;
pub use format::{Csc, Csr};
pub use growth::{gradients_at, top_zero_gradients, top_zero_gradients_tiled};
pub use map::{Map, answer_cuts};
pub use operator::{Compiled, Dense, Operator};
pub use packing::Packing;
pub use plan::{Plan, Rows, Tuning};
pub use pool::{Buffer, Pool};
pub use real::Real;
pub use share::share;
pub use simd::Isa;
pub use single::Single;
pub use sliced::Sliced;
pub use team::OpenMp;
pub use tiled::{TILE, Tiled, padded};
