//! A sparse layer with many nonzeros, frozen for single samples.

use std::ops::Range;

use rayon::prelude::*;

use crate::shape::volume;
use crate::simd::{Isa, Kernel, Vector};
use crate::weight::{PARALLEL, Values, Weight, fits};
use crate::{Csr, Real};

/// Columns per group.
const WIDE: usize = 16;
/// Rows per job.
const ROWS: usize = 16;

/// `y = x Wᵀ + bias` for one or a few samples: one bit per place, and the nonzeros row by row. Sixteen bits spread as
/// many of the next nonzeros over a register, next to their columns' inputs; nothing is gathered: a group costs the same
/// whatever its density. A little over half the memory of [`crate::Sliced`] (values of eight bits: about a third), which is
/// what single samples of large layers wait for; [`crate::Single`] chooses. Fast only on hardware that expands by a
/// mask (AVX-512).
#[derive(Clone, Debug)]
pub struct Expanded<T> {
    rows: usize,
    cols: usize,
    /// `[rows, cols / 16]`, the lowest bit first.
    bits: Vec<u16>,
    /// Start of the values of each row.
    starts: Vec<usize>,
    /// Row by row, followed by a register of zeros.
    values: Values<T>,
}

impl<T: Real> Expanded<T> {
    /// Freezes a structure with values in row-by-row order. O(rows · cols / 16 + nnz).
    ///
    /// # Panics
    /// When `csr` is not valid or does not have one value per entry.
    pub fn new(csr: Csr, values: &[T]) -> Self {
        Self::of(csr, values, |values, order| Values::exact(values, order))
    }

    /// [`Expanded::new`] with values in eight bits; see [`crate::Sliced::rounded`].
    ///
    /// # Panics
    /// As [`Expanded::new`].
    pub fn rounded(csr: Csr, values: &[T]) -> Self {
        Self::of(csr, values, |values, order| Values::rounded(csr, values, order))
    }

    fn of(csr: Csr, values: &[T], make: impl FnOnce(&[T], &[usize]) -> Values<T>) -> Self {
        csr.check();
        assert_eq!(values.len(), csr.nnz(), "values");
        let groups = csr.cols.div_ceil(WIDE);
        let mut bits = vec![0u16; volume([csr.rows, groups])];
        for r in 0..csr.rows {
            let columns = &csr.columns[csr.starts[r]..csr.starts[r + 1]];
            columns.iter().for_each(|&c| bits[r * groups + c as usize / WIDE] |= 1 << (c as usize % WIDE));
        }
        let mut values = make(values, &(0..csr.nnz()).collect::<Vec<_>>());
        match &mut values {
            Values::Exact(v) => v.extend([T::ZERO; WIDE]),
            Values::Bytes(v, _) => v.extend([0; WIDE]),
        }
        Self { rows: csr.rows, cols: csr.cols, bits, starts: csr.starts.to_vec(), values }
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
        self.values.len() - WIDE
    }

    /// Bytes of values and bits.
    pub fn bytes(&self) -> usize {
        2 * self.bits.len() + self.values.bytes()
    }

    /// `y = x Wᵀ + bias`, `x` `[batch, in]` and `y` `[batch, out]` row-major.
    ///
    /// # Panics
    /// When a slice does not have its shape.
    pub fn apply(&self, batch: usize, x: &[T], bias: Option<&[T]>, y: &mut [T]) {
        T::expanded(self, Isa::best(), batch, x, bias, y);
    }

    pub(crate) fn apply_on(&self, isa: Isa, batch: usize, x: &[T], bias: Option<&[T]>, y: &mut [T]) {
        fits(batch, [self.rows, self.cols], x, bias, y);
        if y.is_empty() {
            return;
        }
        let wide = self.cols.next_multiple_of(WIDE);
        let mut padded = Vec::new();
        if wide != self.cols {
            padded = vec![T::ZERO; volume([batch, wide])];
            for (to, from) in padded.chunks_mut(wide).zip(x.chunks(self.cols)) {
                to[..self.cols].copy_from_slice(from);
            }
        }
        let x = if wide == self.cols { x } else { &padded };
        let job = |(b, first, y): (usize, usize, &mut [T])| {
            let (x, rows) = (&x[b * wide..(b + 1) * wide], first..first + y.len());
            // SAFETY: each row has `wide / 16` groups of bits and as many values as bits, by `new`, followed by a register
            // of zeros; `x` has `wide` numbers.
            unsafe {
                match &self.values {
                    Values::Exact(values) => isa.run(Dots { layer: self, values, rows: rows.clone(), x, y: &mut *y }),
                    Values::Bytes(values, _) => {
                        isa.run(Dots { layer: self, values, rows: rows.clone(), x, y: &mut *y })
                    }
                }
            }
            for (r, y) in rows.zip(y) {
                *y = self.values.scaled(r, *y) + bias.map_or(T::ZERO, |b| b[r]);
            }
        };
        for (b, y) in y.chunks_mut(self.rows).enumerate() {
            match self.nnz() < PARALLEL {
                true => job((b, 0, y)),
                false => y.par_chunks_mut(ROWS).enumerate().for_each(|(i, y)| job((b, i * ROWS, y))),
            }
        }
    }
}

/// Sums of some rows for one sample.
struct Dots<'a, T, W> {
    layer: &'a Expanded<T>,
    values: &'a [W],
    rows: Range<usize>,
    /// Padded to whole groups.
    x: &'a [T],
    y: &'a mut [T],
}

impl<T: Real, W: Weight<T>> Kernel<T> for Dots<'_, T, W> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        let groups = self.x.len() / WIDE;
        let lanes = (1u32 << V::LANES) - 1;
        for (r, y) in self.rows.zip(self.y) {
            let bits = &self.layer.bits[r * groups..(r + 1) * groups];
            // SAFETY: the row's groups lie in `bits` and `x`, its values from its start on, as said where it is run.
            unsafe {
                let (mut x, mut value) = (self.x.as_ptr(), self.values.as_ptr().add(self.layer.starts[r]));
                let mut group = |bits: u16, mut sum: V| {
                    for i in 0..WIDE / V::LANES {
                        let mask = u32::from(bits) >> (i * V::LANES) & lanes;
                        sum = W::load::<V>(value).expand(mask).mul_add(V::load_where(x, mask), sum);
                        value = value.add(mask.count_ones() as usize);
                        x = x.add(V::LANES);
                    }
                    sum
                };
                // Four sums hide the additions.
                let [mut a, mut b, mut c, mut d] = [V::splat(T::ZERO); 4];
                let (fours, rest) = bits.as_chunks::<4>();
                for [k, l, m, n] in fours {
                    (a, b, c, d) = (group(*k, a), group(*l, b), group(*m, c), group(*n, d));
                }
                rest.iter().for_each(|k| a = group(*k, a));
                *y = a.add(b).add(c.add(d)).sum();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Layer, Plain, near, on_threads, random};

    fn check<T: Real>(layer: &Layer, batch: usize, seed: u64, tolerance: f64) {
        let values: Vec<T> = random(seed, layer.nnz());
        let x: Vec<T> = random(seed + 1, batch * layer.cols);
        let bias: Vec<T> = random(seed + 2, layer.rows);
        let plain = Plain::new(layer, &values, batch, &x, &vec![T::ZERO; batch * layer.rows], &bias);
        let frozen = Expanded::new(layer.csr(), &values);
        assert_eq!(frozen.nnz(), layer.nnz());
        // Rounded values equal those of the other kernel for them.
        let (bytes, same) = (Expanded::rounded(layer.csr(), &values), crate::Sliced::rounded(layer.csr(), &values));
        let mut want = vec![T::ZERO; batch * layer.rows];
        same.apply(batch, &x, Some(&bias), &mut want);
        let want: Vec<f64> = want.iter().map(|v| v.f64()).collect();
        for &isa in Isa::available() {
            let mut y = vec![T::nan(); batch * layer.rows];
            frozen.apply_on(isa, batch, &x, None, &mut y);
            near(&format!("{} on {isa:?}", T::NAME), &y, &plain.y, tolerance);
            frozen.apply_on(isa, batch, &x, Some(&bias), &mut y);
            near(&format!("{} on {isa:?}", T::NAME), &y, &plain.with_bias, tolerance);
            bytes.apply_on(isa, batch, &x, Some(&bias), &mut y);
            near(&format!("{} bytes on {isa:?}", T::NAME), &y, &want, tolerance);
        }
    }

    proptest! {
        #[test]
        fn equals_plain_loops(
            rows in 0usize..80, cols in 0usize..120, density in 0.0..1.0f64, seed in 0u64..99, batch in 0usize..4,
        ) {
            let layer = Layer::random(rows, cols, density, seed);
            check::<f64>(&layer, batch, seed, 1e-12);
            check::<f32>(&layer, batch, seed, 1e-4);
        }
    }

    #[test]
    fn an_infinite_input_reaches_only_its_rows() {
        let layer = Layer::new(32, 2, |r, c| c == 1 || r == 5);
        let values = vec![1.0f32; layer.nnz()];
        let mut y = vec![0.0; 32];
        for &isa in Isa::available() {
            Expanded::new(layer.csr(), &values).apply_on(isa, 1, &[f32::INFINITY, 1.0], None, &mut y);
            assert!((0..32).all(|r| y[r] == if r == 5 { f32::INFINITY } else { 1.0 }), "{isa:?}");
        }
    }

    #[test]
    fn any_thread_count_gives_the_same_bits() {
        let layer = Layer::random(1000, 700, 0.3, 3);
        let values: Vec<f32> = random(1, layer.nnz());
        let (frozen, x) = (Expanded::new(layer.csr(), &values), random(2, 3 * layer.cols));
        on_threads(|| {
            let mut y = vec![0.0; 3 * layer.rows];
            frozen.apply(3, &x, None, &mut y);
            y.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        });
    }
}
