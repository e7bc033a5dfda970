use crate::blocks::{Part, Size, cut};

use crate::simd::Isa;
use crate::{Csr, Real, Tiled, Tuning};

/// A sparse layer frozen for batches: the forward blocks of a [`crate::Plan`] with their values, in about 6.5 bytes an
/// entry, and no backward pass. Blocks are as long as the first-level cache allows for eight samples. For one or two see
/// [`crate::Sliced`].
#[derive(Clone, Debug)]
pub struct Blocked<T> {
    rows: usize,
    cols: usize,
    parts: Vec<Part>,
    values: Vec<T>,
}

impl<T: Real> Blocked<T> {
    /// Freezes a structure with values in row-by-row order. O(nnz).
    ///
    /// # Panics
    /// When `csr` is not valid or does not have one value per entry.
    pub fn new(csr: Csr, values: &[T]) -> Self {
        csr.check();
        assert_eq!(values.len(), csr.nnz(), "values");
        let tuning = Tuning::of(csr.rows, csr.cols, csr.nnz());
        // 1024 inputs of eight samples are 32 KB.
        let inner = tuning.forward_cols.max(csr.cols.div_ceil(csr.cols.div_ceil(1024).max(1)));
        let size = Size { lines: tuning.forward_rows, inner };
        let (parts, source) = cut(csr.starts, csr.columns, csr.cols, size);
        let values = source.iter().map(|&e| values[e as usize]).collect();
        Self { rows: csr.rows, cols: csr.cols, parts, values }
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Number of entries.
    pub fn nnz(&self) -> usize {
        self.values.len()
    }

    /// `y = x Wᵀ + bias`, clamped at zero from below with `relu`.
    ///
    /// # Panics
    /// When shapes differ.
    pub fn forward(&self, x: &Tiled<T>, bias: Option<&[T]>, relu: bool, y: &mut Tiled<T>) {
        assert_eq!((x.features(), y.features()), (self.cols, self.rows), "features of x and y");
        T::spmm(Isa::best(), &self.parts, &self.values, x, bias, relu, y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Plan;
    use crate::testing::{Layer, random};

    #[test]
    fn answers_as_the_plan_does_which_is_tested_against_plain_loops() {
        let layer = Layer::random(70, 1300, 0.1, 3);
        let plan = Plan::new(layer.csr(), layer.csc());
        let (by_row, bias): (Vec<f32>, Vec<f32>) = (random(1, layer.nnz()), random(2, 70));
        let (mut values, mut packed) = (by_row.clone(), by_row.clone());
        plan.by_rows().scatter(&by_row, &mut values);
        plan.pack(&values, &mut packed);
        let frozen = Blocked::new(layer.csr(), &by_row);
        for batch in [0, 1, 8, 9, 70] {
            let x = Tiled::from_rows(batch, 1300, &random(4, batch * 1300));
            let (mut y, mut want) = (Tiled::zeros(batch, 70), Tiled::zeros(batch, 70));
            for relu in [false, true] {
                frozen.forward(&x, Some(&bias), relu, &mut y);
                match relu {
                    true => plan.forward_relu(&packed, &x, Some(&bias), &mut want),
                    false => plan.forward(&packed, &x, Some(&bias), &mut want),
                }
                // Blocks of another length add in another order.
                let near = |(a, b): (&f32, &f32)| assert!((a - b).abs() < 1e-4, "batch {batch}: {a} for {b}");
                y.as_slice().iter().zip(want.as_slice()).for_each(near);
            }
        }
    }
}
