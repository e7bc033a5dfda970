//! One or a few samples through values that lie where their owner keeps them.

use crate::shape::{gatherable, work};
use crate::simd::{Isa, Kernel, Vector};
use crate::threads::{helped, spread};
use crate::weight::{PARALLEL, fits};
use crate::{Csr, Real};

/// Fewest multiply-adds worth handing to a thread that waits for them: about 5 microseconds.
const HELPED: usize = 1 << 14;
/// Rows whose sums are made together.
const HIGH: usize = 16;
/// Rows that a thread takes at once, a multiple of [`HIGH`].
const ROWS: usize = 16 * HIGH;

/// `y = x Wᵀ + bias` for one or a few samples, with values in row-by-row order in anybody's array: nothing is copied or compared when they
/// change. [`crate::Single`] is faster by a third for values that never do, and [`crate::Plan`] for more samples.
#[derive(Clone, Debug)]
pub struct Direct {
    cols: usize,
    starts: Vec<usize>,
    index: Index,
}

#[derive(Clone, Debug)]
enum Index {
    Short(Vec<u16>),
    Long(Vec<u32>),
}

impl Direct {
    /// Takes over a structure. O(nnz).
    ///
    /// # Panics
    /// When it is not valid.
    pub fn new(csr: Csr) -> Self {
        csr.check();
        gatherable("columns", csr.cols);
        let index = match csr.cols <= 1 << 16 {
            true => Index::Short(csr.columns.iter().map(|&c| c as u16).collect()),
            false => Index::Long(csr.columns.to_vec()),
        };
        Self { cols: csr.cols, starts: csr.starts.to_vec(), index }
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Number of entries.
    pub fn nnz(&self) -> usize {
        self.starts[self.rows()]
    }

    /// `y = x Wᵀ + bias`, `x` `[batch, in]` and `y` `[batch, out]` row-major, one value for each entry.
    ///
    /// # Panics
    /// When a slice does not have its shape.
    pub fn apply<T: Real>(&self, values: &[T], batch: usize, x: &[T], bias: Option<&[T]>, y: &mut [T]) {
        T::direct(self, Isa::best(), values, batch, x, bias, y);
    }

    pub(crate) fn apply_on<T: Real>(
        &self,
        isa: Isa,
        values: &[T],
        batch: usize,
        x: &[T],
        bias: Option<&[T]>,
        y: &mut [T],
    ) {
        fits(batch, [self.rows(), self.cols], x, bias, y);
        assert_eq!(values.len(), self.nnz(), "values");
        if y.is_empty() {
            return;
        }
        let rows = self.rows();
        let small = work([self.nnz(), batch]) < if helped() { HELPED } else { PARALLEL };
        for (b, y) in y.chunks_mut(rows).enumerate() {
            let x = &x[b * self.cols..(b + 1) * self.cols];
            let job = |(i, y): (usize, &mut [T])| {
                let starts = &self.starts[i * ROWS..i * ROWS + y.len() + 1];
                let bias = bias.map(|b| &b[i * ROWS..i * ROWS + y.len()]);
                // SAFETY: by `new`, starts ascend to the number of values and indices, which are below `cols`, as many as `x` has.
                unsafe {
                    match &self.index {
                        Index::Short(index) => isa.run(Dots { starts, index, values, x, y }),
                        Index::Long(index) => isa.run(Dots { starts, index, values, x, y }),
                    }
                }
                if let Some(bias) = bias {
                    y.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
                }
            };
            match small {
                true => y.chunks_mut(ROWS).enumerate().for_each(job),
                false => spread(y.chunks_mut(ROWS).enumerate().collect(), job),
            }
        }
    }
}

/// Sums of some rows for one sample.
struct Dots<'a, T, I> {
    /// Of these rows, and the end of the last.
    starts: &'a [usize],
    /// Of all rows.
    index: &'a [I],
    values: &'a [T],
    x: &'a [T],
    y: &'a mut [T],
}

impl<T: Real, I: Gather> Kernel<T> for Dots<'_, T, I> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        let (index, values, x) = (self.index.as_ptr(), self.values.as_ptr(), self.x.as_ptr());
        // SAFETY: rows are ranges of values and indices, and indices are places of `x`; the list holds sixteen registers.
        unsafe {
            let mut list = [V::splat(T::ZERO); HIGH];
            for (i, y) in self.y.chunks_mut(HIGH).enumerate() {
                let starts = &self.starts[i * HIGH..i * HIGH + y.len() + 1];
                for r in 0..y.len() {
                    let (mut k, end) = (starts[r], starts[r + 1]);
                    let mut sum = V::splat(T::ZERO);
                    while k + V::LANES <= end {
                        sum = V::load(values.add(k)).mul_add(I::gather::<V>(x, index.add(k)), sum);
                        k += V::LANES;
                    }
                    if k < end {
                        let (n, at) = (end - k, index.add(k));
                        sum = V::load_part(values.add(k), n).mul_add(I::gather_part::<V>(x, at, n), sum);
                    }
                    sum.put(list.as_mut_ptr(), r);
                }
                V::sums(list.as_ptr(), 0, y.len(), y.as_mut_ptr(), true);
            }
        }
    }
}

/// An index that can be gathered with.
trait Gather: Copy + Send + Sync {
    /// # Safety
    /// As [`Vector::gather`].
    unsafe fn gather<V: Vector>(base: *const V::T, index: *const Self) -> V;
    /// # Safety
    /// As [`Vector::gather_part`].
    unsafe fn gather_part<V: Vector>(base: *const V::T, index: *const Self, n: usize) -> V;
}

impl Gather for u16 {
    #[inline(always)]
    unsafe fn gather<V: Vector>(base: *const V::T, index: *const Self) -> V {
        // SAFETY: passed on.
        unsafe { V::gather_short(base, index) }
    }

    #[inline(always)]
    unsafe fn gather_part<V: Vector>(base: *const V::T, index: *const Self, n: usize) -> V {
        // SAFETY: passed on.
        unsafe { V::gather_short_part(base, index, n) }
    }
}

impl Gather for u32 {
    #[inline(always)]
    unsafe fn gather<V: Vector>(base: *const V::T, index: *const Self) -> V {
        // SAFETY: passed on.
        unsafe { V::gather(base, index) }
    }

    #[inline(always)]
    unsafe fn gather_part<V: Vector>(base: *const V::T, index: *const Self, n: usize) -> V {
        // SAFETY: passed on.
        unsafe { V::gather_part(base, index, n) }
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
        let direct = Direct::new(layer.csr());
        let plain = Plain::new(layer, &values, batch, &x, &vec![T::ZERO; batch * layer.rows], &bias);
        for (bias, want) in [(None, &plain.y), (Some(&bias[..]), &plain.with_bias)] {
            for &isa in Isa::available() {
                let mut y = vec![T::nan(); batch * layer.rows];
                direct.apply_on(isa, &values, batch, &x, bias, &mut y);
                near(&format!("{} on {isa:?}", T::NAME), &y, want, tolerance);
            }
        }
    }

    proptest! {
        #[test]
        fn equals_plain_loops(
            rows in 0usize..80, cols in 0usize..80, density in 0.0..1.0f64, seed in 0u64..99, batch in 0usize..4,
        ) {
            let layer = Layer::random(rows, cols, density * density, seed);
            check::<f64>(&layer, batch, seed, 1e-12);
            check::<f32>(&layer, batch, seed, 1e-4);
        }
    }

    /// Indices of 32 bits; and more rows than a thread takes at once.
    #[test]
    fn equals_plain_loops_on_wide_and_high_layers() {
        for (rows, cols) in [(5, 70_000), (700, 90)] {
            let layer = Layer::new(rows, cols, |r, c| (r * 7 + c * 3) % 11 == 0 && c % (cols / 70).max(1) == 0);
            check::<f32>(&layer, 2, 1, 1e-3);
            check::<f64>(&layer, 1, 2, 1e-11);
        }
    }

    /// A gather reads what a row names alone: an input that is not finite does not reach the rows beside it.
    #[test]
    fn rows_read_their_own_inputs() {
        let layer = Layer::new(40, 40, |r, c| c == r);
        let (direct, values) = (Direct::new(layer.csr()), vec![1.0f32; 40]);
        for &isa in Isa::available() {
            let x: Vec<f32> = (0..40).map(|i| if i % 2 == 0 { f32::NAN } else { i as f32 }).collect();
            let mut y = vec![0.0; 40];
            direct.apply_on(isa, &values, 1, &x, None, &mut y);
            assert!((0..40).all(|i| if i % 2 == 0 { y[i].is_nan() } else { y[i] == i as f32 }), "{isa:?}: {y:?}");
        }
    }

    #[test]
    fn any_thread_count_gives_the_same_bits() {
        let layer = Layer::random(900, 1300, 0.6, 3);
        let (direct, values) = (Direct::new(layer.csr()), random::<f32>(4, layer.nnz()));
        on_threads(|| {
            let mut y = vec![0.0f32; 2 * layer.rows];
            direct.apply(&values, 2, &random(5, 2 * layer.cols), None, &mut y);
            y.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        });
    }
}
