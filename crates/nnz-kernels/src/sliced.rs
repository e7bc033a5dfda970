//! A sparse layer frozen for single samples.

use std::ops::Range;

use rayon::prelude::*;

use crate::shape::{gatherable, volume, work};
use crate::simd::{Isa, Kernel, Vector};
use crate::weight::{PARALLEL, Values, Weight, fits};
use crate::{Csr, Real};

/// Rows of a slice.
const HIGH: usize = 16;

/// `y = x Wᵀ + bias` for one or a few samples: sliced ELLPACK (SELL-C-σ, Kreutzer et al. 2014), values included.
///
/// Rows are sorted by their number of entries and taken sixteen at a time; the entries that all sixteen have are
/// interleaved, so that one register gathers one input per row and no sum crosses lanes. The few entries beyond follow
/// row by row; nothing is padded. For batches of more than a handful of samples, [`crate::Plan`] is faster.
#[derive(Clone, Debug)]
pub struct Sliced<T> {
    rows: usize,
    cols: usize,
    /// Row of each sorted place.
    order: Vec<u32>,
    slices: Vec<Slice>,
    index: Index,
    values: Values<T>,
}

#[derive(Clone, Debug)]
enum Index {
    Short(Vec<u16>),
    Long(Vec<u32>),
}

#[derive(Clone, Copy, Debug)]
struct Slice {
    /// Start of its entries.
    start: usize,
    /// Number of entries that every row has.
    common: usize,
    /// Entries beyond those, by row.
    more: [u32; HIGH],
}

impl<T: Real> Sliced<T> {
    /// Freezes a structure with values in row-by-row order. O(nnz + rows log rows).
    ///
    /// # Panics
    /// When `csr` is not valid or does not have one value per entry.
    pub fn new(csr: Csr, values: &[T]) -> Self {
        let (mut layer, source) = Self::empty(csr);
        assert_eq!(values.len(), source.len(), "values");
        layer.values = Values::exact(values, &source);
        layer
    }

    /// [`Sliced::new`] with values rounded to one of 255 multiples of a 127th of their row's largest: three bytes per
    /// entry, index included, instead of six for `f32`. Activations and sums keep their precision.
    ///
    /// # Panics
    /// As [`Sliced::new`].
    pub fn rounded(csr: Csr, values: &[T]) -> Self {
        let (mut layer, source) = Self::empty(csr);
        assert_eq!(values.len(), source.len(), "values");
        layer.values = Values::rounded(csr, values, &source);
        layer
    }

    /// Builds the structure without values, and the entry that each place holds.
    fn empty(csr: Csr) -> (Self, Vec<usize>) {
        csr.check();
        gatherable("columns", csr.cols);
        let count = |r: u32| csr.starts[r as usize + 1] - csr.starts[r as usize];
        let mut order: Vec<u32> = (0..csr.rows as u32).collect();
        order.sort_by_key(|&r| count(r));
        let mut source = Vec::with_capacity(csr.nnz());
        let mut slices = Vec::with_capacity(csr.rows.div_ceil(HIGH));
        for rows in order.chunks(HIGH) {
            // The rows of an incomplete slice stand alone.
            let common = if rows.len() == HIGH { count(rows[0]) } else { 0 };
            let mut slice = Slice { start: source.len(), common, more: [0; HIGH] };
            for k in 0..common {
                source.extend(rows.iter().map(|&r| csr.starts[r as usize] + k));
            }
            for (more, &r) in slice.more.iter_mut().zip(rows) {
                *more = (count(r) - common) as u32;
                source.extend(csr.starts[r as usize] + common..csr.starts[r as usize + 1]);
            }
            slices.push(slice);
        }
        let index = if csr.cols <= 1 << 16 {
            Index::Short(source.iter().map(|&e| csr.columns[e] as u16).collect())
        } else {
            Index::Long(source.iter().map(|&e| csr.columns[e]).collect())
        };
        let values = Values::Exact(Vec::new());
        (Self { rows: csr.rows, cols: csr.cols, order, slices, index, values }, source)
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

    /// Bytes of values and indices.
    pub fn bytes(&self) -> usize {
        let index = match &self.index {
            Index::Short(_) => 2,
            Index::Long(_) => 4,
        };
        self.nnz() * index + self.values.bytes()
    }

    /// `y = x Wᵀ + bias`, `x` `[batch, in]` and `y` `[batch, out]` row-major.
    ///
    /// # Panics
    /// When a slice does not have its shape.
    pub fn apply(&self, batch: usize, x: &[T], bias: Option<&[T]>, y: &mut [T]) {
        T::sliced(self, Isa::best(), batch, x, bias, y);
    }

    pub(crate) fn apply_on(&self, isa: Isa, batch: usize, x: &[T], bias: Option<&[T]>, y: &mut [T]) {
        fits(batch, [self.rows, self.cols], x, bias, y);
        if y.is_empty() {
            return;
        }
        // Sums in sorted order, in whole slices, a fixed number of slices per job.
        let places = self.slices.len() * HIGH;
        let mut sums = vec![T::ZERO; volume([batch, places])];
        let many = self.slices.len().div_ceil(16);
        let job = |(s, sums): (usize, &mut [T])| {
            let (b, first) = (s / self.slices.len(), s % self.slices.len());
            let x = &x[b * self.cols..(b + 1) * self.cols];
            let slices = first..first + sums.len() / HIGH;
            // SAFETY: indices are below `cols` and ranges within values, by `new`; `sums` has whole slices.
            unsafe {
                match (&self.index, &self.values) {
                    (Index::Short(index), Values::Exact(values)) => {
                        isa.run(Dots { layer: self, index, values, slices, x, sums })
                    }
                    (Index::Long(index), Values::Exact(values)) => {
                        isa.run(Dots { layer: self, index, values, slices, x, sums })
                    }
                    (Index::Short(index), Values::Bytes(values, _)) => {
                        isa.run(Dots { layer: self, index, values, slices, x, sums })
                    }
                    (Index::Long(index), Values::Bytes(values, _)) => {
                        isa.run(Dots { layer: self, index, values, slices, x, sums })
                    }
                }
            }
        };
        if work([self.nnz(), batch]) < PARALLEL {
            for (b, sums) in sums.chunks_mut(places).enumerate() {
                job((b * self.slices.len(), sums));
            }
        } else {
            sums.par_chunks_mut(places).enumerate().for_each(|(b, sums)| {
                let jobs = sums.par_chunks_mut(many * HIGH).enumerate();
                jobs.for_each(|(i, sums)| job((b * self.slices.len() + i * many, sums)));
            });
        }
        for (y, sums) in y.chunks_mut(self.rows).zip(sums.chunks(places)) {
            for (&r, &sum) in self.order.iter().zip(sums) {
                y[r as usize] = self.values.scaled(r as usize, sum) + bias.map_or(T::ZERO, |b| b[r as usize]);
            }
        }
    }
}

/// Sums of some slices for one sample.
struct Dots<'a, T, I, W> {
    layer: &'a Sliced<T>,
    index: &'a [I],
    values: &'a [W],
    slices: Range<usize>,
    x: &'a [T],
    /// Sixteen numbers per slice.
    sums: &'a mut [T],
}

impl<T: Real, I: Gather, W: Weight<T>> Kernel<T> for Dots<'_, T, I, W> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        let x = self.x.as_ptr();
        for (slice, sums) in self.layer.slices[self.slices].iter().zip(self.sums.chunks_exact_mut(HIGH)) {
            let (index, value) = (self.index[slice.start..].as_ptr(), self.values[slice.start..].as_ptr());
            for at in (0..HIGH).step_by(V::LANES) {
                // SAFETY: `common * 16` entries from `start`; two sums hide the additions.
                unsafe {
                    let (mut a, mut b) = (V::splat(T::ZERO), V::splat(T::ZERO));
                    let term = |k: usize, sum: V| {
                        let e = k * HIGH + at;
                        W::load::<V>(value.add(e)).mul_add(I::gather::<V>(x, index.add(e)), sum)
                    };
                    for k in (0..slice.common / 2).map(|k| 2 * k) {
                        a = term(k, a);
                        b = term(k + 1, b);
                    }
                    if slice.common % 2 == 1 {
                        a = term(slice.common - 1, a);
                    }
                    a.add(b).store(sums.as_mut_ptr().add(at));
                }
            }
            let mut k = slice.common * HIGH;
            for (sum, &more) in sums.iter_mut().zip(&slice.more) {
                // SAFETY: `more` entries of this row follow.
                *sum += unsafe { row(more as usize, x, index.add(k), value.add(k)) };
                k += more as usize;
            }
        }
    }
}

/// Sum over entries of one row, in four parts.
#[inline(always)]
unsafe fn row<T: Real, I: Gather, W: Weight<T>>(n: usize, x: *const T, index: *const I, value: *const W) -> T {
    let mut sums = [T::ZERO; 4];
    for k in 0..n {
        // SAFETY: as in `run`.
        sums[k % 4] += unsafe { (*value.add(k)).number() * *x.add((*index.add(k)).place()) };
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

/// An index that can be gathered with.
trait Gather: Copy + Send + Sync {
    fn place(self) -> usize;
    /// # Safety
    /// As [`Vector::gather`].
    unsafe fn gather<V: Vector>(base: *const V::T, index: *const Self) -> V;
}

impl Gather for u16 {
    #[inline(always)]
    fn place(self) -> usize {
        self.into()
    }

    #[inline(always)]
    unsafe fn gather<V: Vector>(base: *const V::T, index: *const Self) -> V {
        // SAFETY: passed on.
        unsafe { V::gather_short(base, index) }
    }
}

impl Gather for u32 {
    #[inline(always)]
    fn place(self) -> usize {
        self as usize
    }

    #[inline(always)]
    unsafe fn gather<V: Vector>(base: *const V::T, index: *const Self) -> V {
        // SAFETY: passed on.
        unsafe { V::gather(base, index) }
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
        let frozen = Sliced::new(layer.csr(), &values);
        let plain = Plain::new(layer, &values, batch, &x, &vec![T::ZERO; batch * layer.rows], &bias);
        for (bias, want) in [(None, &plain.y), (Some(&bias[..]), &plain.with_bias)] {
            for &isa in Isa::available() {
                let mut y = vec![T::nan(); batch * layer.rows];
                frozen.apply_on(isa, batch, &x, bias, &mut y);
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

    /// Rounded values are multiples of a 127th of their row's largest, and are used exactly.
    #[test]
    fn bytes_equal_plain_loops_over_what_they_stand_for() {
        for (cols, seed) in [(70, 1), (70_000, 2)] {
            let layer = Layer::new(45, cols, |r, c| (r * 7 + c * 3) % 11 == 0 && c % (cols / 70) == 0 && r != 9);
            let mut values: Vec<f32> = random(seed, layer.nnz());
            let frozen = Sliced::rounded(layer.csr(), &values);
            let csr = layer.csr();
            for r in 0..csr.rows {
                let row = &mut values[csr.starts[r]..csr.starts[r + 1]];
                let step = row.iter().fold(0.0f64, |a, v| a.max(f64::from(v.abs()))) / 127.0;
                for v in row {
                    let rounded = (f64::from(*v) / step).round() * step;
                    assert!((rounded - f64::from(*v)).abs() <= step / 2.0 + 1e-9);
                    *v = rounded as f32;
                }
            }
            let x: Vec<f32> = random(seed + 1, 2 * cols);
            let want = Plain::new(&layer, &values, 2, &x, &[0.0; 90], &[0.0; 45]);
            for &isa in Isa::available() {
                let mut y = vec![f32::NAN; 2 * 45];
                frozen.apply_on(isa, 2, &x, None, &mut y);
                near(&format!("{cols} on {isa:?}"), &y, &want.y, 1e-4);
            }
            assert!(frozen.bytes() < Sliced::new(layer.csr(), &values).bytes());
        }
    }

    #[test]
    fn wide_layers_use_long_indices() {
        let layer = Layer::new(40, 70_000, |r, c| (r * 7 + c) % 911 == 0);
        check::<f64>(&layer, 2, 1, 1e-12);
        check::<f32>(&layer, 2, 1, 1e-4);
    }

    #[test]
    fn an_infinite_input_reaches_only_its_rows() {
        let layer = Layer::new(32, 2, |r, c| c == 1 || r == 5);
        let values = vec![1.0f32; layer.nnz()];
        let mut y = vec![0.0; 32];
        Sliced::new(layer.csr(), &values).apply(1, &[f32::INFINITY, 1.0], None, &mut y);
        assert!((0..32).all(|r| y[r] == if r == 5 { f32::INFINITY } else { 1.0 }));
    }

    #[test]
    fn any_thread_count_gives_the_same_bits() {
        let layer = Layer::random(1000, 1500, 0.1, 3);
        let values: Vec<f32> = random(1, layer.nnz());
        let (frozen, x) = (Sliced::new(layer.csr(), &values), random(2, 3 * layer.cols));
        on_threads(|| {
            let mut y = vec![0.0; 3 * layer.rows];
            frozen.apply(3, &x, None, &mut y);
            y.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        });
    }
}
