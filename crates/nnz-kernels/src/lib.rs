//! Kernels of nnz: sparse linear layers and dense products on slices.
//!
//! All `unsafe` of the toolkit lives here, behind functions that check shapes and indices and panic on a mismatch.
//! Results do not depend on the number of rayon threads: work is cut by topology and shape alone, and every sum runs in a
//! fixed order. Between instruction sets results agree to rounding.
//!
//! A layer is `y = x Wᵀ + bias` with W `[out, in]` sparse; values, and gradients of values, are plain vectors of one
//! number an entry. Four ways to compute it, from simple to fast:
//!
//! - [`spmm`], [`spmm_t`], [`sddmm`], [`backward`]: row-major activations, values row by row, nothing to prepare.
//! - [`Plan`]: the structure compiled to cache blocks, activations in [`Tiled`] layout, values in plan order; three to
//!   four times faster. For training, and for batches of more than two samples.
//! - [`Sliced`]: values frozen, for one or two samples.
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
//! let mut values = vec![0.0f32; plan.nnz()];
//! plan.to_plan_order(&[2.0, 3.0, 5.0], &mut values);
//!
//! let x = Tiled::from_rows(2, 2, &[1.0, 10.0, 100.0, 1000.0]);
//! let (mut y, mut packed) = (Tiled::zeros(2, 3), vec![0.0; plan.nnz()]);
//! plan.pack(&values, &mut packed); // whenever values change
//! plan.forward(&packed, &x, None, &mut y);
//! let mut rows = [0.0; 6];
//! y.to_rows(&mut rows);
//! assert_eq!(rows, [20.0, 3.0, 50.0, 2000.0, 300.0, 5000.0]);
//!
//! let g = Tiled::from_rows(2, 3, &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
//! let (mut dx, mut dw) = (Tiled::zeros(2, 2), vec![0.0; plan.nnz()]);
//! plan.backward(&values, &x, &g, Some(&mut dx), &mut dw);
//! let (mut dx_rows, mut dw_rows) = ([0.0; 4], [0.0; 3]);
//! dx.to_rows(&mut dx_rows);
//! plan.to_row_order(&dw, &mut dw_rows);
//! assert_eq!(dx_rows, [0.0, 2.0, 3.0, 0.0]);
//! assert_eq!(dw_rows, [10.0, 100.0, 0.0]);
//! ```

mod adjoint;
mod blocks;
mod dense;
pub mod elementwise;
mod format;
mod forward;
mod functions;
mod growth;
mod plan;
mod pool;
mod real;
pub mod rows;
mod simd;
mod sliced;
mod sparse;
#[cfg(test)]
mod testing;
mod tiled;
mod transpose;

pub use dense::attention::Attention;
pub use dense::conv::Conv;
pub use dense::gemm::{Start, gemm};
pub use dense::max_pool::max_pool;
pub use format::{Csc, Csr};
pub use growth::{top_zero_gradients, top_zero_gradients_tiled};
pub use plan::{Plan, Tuning};
pub use pool::{Buffer, Pool};
pub use real::Real;
pub use simd::Isa;
pub use sliced::Sliced;
pub use sparse::{backward, sddmm, spmm, spmm_t};
pub use tiled::{TILE, Tiled};
