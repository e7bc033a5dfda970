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

use super::sr_ste::{self, SrSte, gated, largest};
use nnz_core::{Build, Edit, Leaf, Method, Parametrization, Pattern, Result, Setting, Shape, MethodInstance, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "bdwp",
    "BDWP",
    "Trains under N:M masks along the inputs going forward and along the outputs going backward.",
)
.quick("pattern = \"1:2\"");

options! {
    #[flatten]
    /// Pattern, shrinkage of the weights outside the forward mask, and when that mask is fixed.
    forward: sr_ste::Options = sr_ste::Options { pattern: Pattern::Nm { n: 2, m: 8 }, ..Default::default() },
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
    fn backward(&self, _: u64, leaves: &[Leaf]) -> Option<Vec<f64>> {
        let (w, [rows, cols]) = (&leaves[0].values, [leaves[0].dims[0], leaves[0].dims[1]]);
        // Column by column, so that groups are of outputs.
        let columns = transposed(w, rows, cols);
        let mask: Vec<bool> = columns.chunks(rows.max(1)).flat_map(|c| largest(c, self.0.n, self.0.m)).collect();
        Some(gated(w, &transposed(&mask, cols, rows), |_| 0.0))
    }

    fn leaves(&self, shape: &Shape, weight: &[f64]) -> Vec<Leaf> {
        self.0.leaves(shape, weight)
    }

    fn weight(&self, step: u64, leaves: &[Leaf]) -> Vec<f64> {
        self.0.weight(step, leaves)
    }

    fn vjp(&self, step: u64, leaves: &[Leaf], gradient: &[f64]) -> Vec<Vec<f64>> {
        self.0.vjp(step, leaves, gradient)
    }

    fn straight_through(&self) -> bool {
        true
    }

    fn penalty(&self, step: u64, leaves: &[Leaf], gradients: &mut [Vec<f64>]) {
        self.0.penalty(step, leaves, gradients);
    }

    fn until(&self) -> u64 {
        self.0.until
    }

    fn freeze(&self, shape: &Shape, leaves: &[Leaf]) -> Edit {
        self.0.freeze(shape, leaves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_run_along_inputs_forward_and_along_outputs_backward() {
        let p = Bdwp(SrSte { n: 1, m: 2, shrink: 0.0, until: 9 });
        let leaves = p.leaves(&Shape::matrix("a", 2, 2), &[1.0, 2.0, 4.0, 3.0]);
        assert_eq!(p.weight(0, &leaves), [0.0, 2.0, 4.0, 0.0]);
        // Column 0 is (1, 4), column 1 is (2, 3).
        assert_eq!(p.backward(0, &leaves).unwrap(), [0.0, 0.0, 4.0, 3.0]);
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
