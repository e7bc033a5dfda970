//! N:M in both passes: the forward pass takes the N largest |w| of every M consecutive *inputs* of a row, the backward pass to
//! the inputs the N largest of every M consecutive *outputs* of a column, Y = X W_ffᵀ and ∂X = ∂Y W_bp, so that both products
//! sum over the axis with the zeros. The gradient of the weight, ∂Yᵀ X, is dense and reaches all weights.
//!
//! Two of the three products of a step have N / M of their multiply-adds: [`nnz_core::nm::multiply_adds`]. [`nnz_core::nm::cycles`] is a model of an array
//! of `side` × `side` units that skips zeros.
//!
//! Cost: weights are dense; two masks of O(entries · M) at every step. The saving is that of an accelerator, which is modelled.
//!
//! Deviations: what the abstract omits of an accelerator is modelled as the simplest output-stationary array; masked
//! weights decay as under SR-STE; if M does not divide the outputs, the last group is shorter. At `until` the forward mask
//! is fixed.

use super::sr_ste::{self, SrSte, largest};
use nnz_core::{Build, Edit, Expr, Leaf, Mask, Method, MethodInstance, Moment, Parametrization, Pattern, Result, Setting, Shape, Variable, Weight, options};
use std::sync::Arc;

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "bdwp",
    "BDWP",
    "Trains under N:M masks along the inputs going forward and along the outputs going backward.",
)
.revised(2)
.quick("pattern = \"1:2\"");

options! {
    #[flatten]
    /// Pattern, shrinkage of the weights outside the forward mask, and when that mask is fixed.
    forward: sr_ste::Options = sr_ste::Options { pattern: Pattern::Nm { n: 2, m: 8, flat: false }, ..Default::default() },
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        let forward = self.forward.masks("bdwp", setting)?;
        Ok(forward.work(setting, Bdwp(forward)))
    }
}

/// SR-STE, with a separate mask in the backward pass.
struct Bdwp(SrSte);

/// Transposes row-major `[rows, cols]` to `[cols, rows]`.
fn transposed<N: Copy>(values: &[N], rows: usize, cols: usize) -> Vec<N> {
    (0..rows * cols).map(|i| values[i % rows * cols + i / rows]).collect()
}

impl Parametrization for Bdwp {
    fn leaves(&self, shape: &Shape, weight: &[f64]) -> Vec<Leaf> {
        self.0.leaves(shape, weight)
    }

    fn weight(&self, _: Moment, shape: &Shape, leaves: &[Variable]) -> Weight {
        let (w, [rows, cols]) = (&leaves[0], [shape.rows, shape.cols]);
        // Column by column, so that groups are of outputs.
        let columns = transposed(&w.values(), rows, cols);
        let mask: Vec<bool> = columns.chunks(rows.max(1)).flat_map(|c| largest(c, self.0.n, self.0.m)).collect();
        let backward = w.masked(&Arc::new(Mask::from_bools(&transposed(&mask, cols, rows))));
        Weight::TwoWays { forward: self.0.shown(w), backward }
    }

    fn penalty(&self, at: Moment, shape: &Shape, leaves: &[Variable]) -> Option<Expr> {
        self.0.penalty(at, shape, leaves)
    }

    fn until(&self) -> u64 {
        self.0.until
    }

    fn freeze(&self, shape: &Shape, leaves: &[Leaf]) -> Option<Edit> {
        self.0.freeze(shape, leaves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_engine::pulled;

    #[test]
    fn groups_run_along_inputs_forward_and_along_outputs_backward() {
        let p = Bdwp(SrSte { n: 1, m: 2, flat: false, shrink: 0.0, until: 9 });
        let shape = Shape::matrix("a", 2, 2);
        let pulled = pulled(&p, (0, 0), &shape, &p.leaves(&shape, &[1.0, 2.0, 4.0, 3.0]), &[1.0, 2.0, 3.0, 4.0]);
        assert_eq!((&pulled.weight[..], &pulled.leaves[0][..]), (&[0.0, 2.0, 4.0, 0.0][..], &[1.0, 2.0, 3.0, 4.0][..]));
        // Column 0 is (1, 4), column 1 is (2, 3).
        assert_eq!(pulled.backward.unwrap(), [0.0, 0.0, 4.0, 3.0]);
    }

    #[test]
    fn two_of_three_products_lose_their_zeros() {
        let dense = 3 * 64 * 128 * 32;
        let sum: usize = nnz_core::nm::multiply_adds(64, 128, 32, [2, 8]).iter().sum();
        assert_eq!(2 * sum, dense, "2 N/M + 1 of 3 products");
        // 32 x 64 results are 8 tiles of 16 x 16; 32 of 128 inputs and 30 cycles to fill and drain.
        assert_eq!(nnz_core::nm::cycles(64, 128, 32, [2, 8], 16)[0], 8 * (32 + 30));
    }
}
