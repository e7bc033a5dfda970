//! Functions of matrices by rows and by columns: softmax, normalization, sums.
//!
//! A matrix is a slice of rows of `cols` numbers. Sums over a row run in 16 lanes, sums over a column in blocks of rows
//! and then in f64, so that results depend on shapes alone.

use std::ops::Range;

use crate::dense::{Raw, each};
use crate::shape::volume;
use crate::simd::{Kernel, Vector};
use crate::{Isa, Real};

/// Numbers that a thread takes at once.
const CHUNK: usize = 1 << 15;
/// Most parts into which the rows of a sum over columns are cut.
const PARTS: usize = 16;
/// Rows summed in the number type's own precision.
const BLOCK: usize = 64;
/// Lanes of a sum over a row.
const LANES: usize = 16;

/// Number of rows per part, and of parts.
fn cut(rows: usize, cols: usize) -> (usize, usize) {
    let size = (CHUNK / cols.max(1)).max(1);
    (size, rows.div_ceil(size))
}

/// Σ f(i) over a row's positions, in 16 lanes.
#[inline(always)]
pub(crate) fn lanes<T: Real>(n: usize, f: impl Fn(usize) -> T) -> T {
    let mut acc = [T::ZERO; LANES];
    let whole = n / LANES * LANES;
    for i in (0..whole).step_by(LANES) {
        for l in 0..LANES {
            acc[l] += f(i + l);
        }
    }
    for i in whole..n {
        acc[i - whole] += f(i);
    }
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            let upper = acc[l + half];
            acc[l] += upper;
        }
    }
    acc[0]
}

/// The largest of a row's numbers.
#[inline(always)]
pub(crate) fn largest<T: Real>(row: &[T]) -> T {
    let mut best = [T::of(f64::NEG_INFINITY); LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for l in 0..LANES {
            best[l] = if chunk[l] > best[l] { chunk[l] } else { best[l] };
        }
    }
    let max = |a: T, b: T| if b > a { b } else { a };
    rest.iter().chain(&best).copied().fold(T::of(f64::NEG_INFINITY), max)
}

/// Softmax of every row, in place.
///
/// # Panics
/// When rows do not fill the slice.
pub fn softmax<T: Real>(data: &mut [T], cols: usize) {
    T::softmax(Isa::best(), data, cols);
}

pub(crate) fn softmax_on<T: Real>(isa: Isa, data: &mut [T], cols: usize) {
    check(data.len(), cols);
    let (size, parts) = cut(data.len() / cols.max(1), cols);
    let to = Raw::of_mut(data);
    let rows = data.len() / cols.max(1);
    each(parts, parts == 1, &|p| {
        let (first, last) = (p * size, rows.min((p + 1) * size));
        // SAFETY: parts are disjoint ranges of what is written.
        unsafe {
            let data = std::slice::from_raw_parts_mut(to.get().add(first * cols), (last - first) * cols);
            isa.run(Softmax { data, cols });
        }
    });
}

struct Softmax<'a, T> {
    data: &'a mut [T],
    cols: usize,
}

impl<T: Real> Kernel<T> for Softmax<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        for row in self.data.chunks_exact_mut(self.cols) {
            let top = largest(row);
            row.iter_mut().for_each(|x| *x = (*x - top).quick_exp());
            let total = T::ONE / lanes(row.len(), |i| row[i]);
            row.iter_mut().for_each(|x| *x *= total);
        }
    }
}

/// Gradient of softmax: `to = p ∘ (g - Σ p g)`, row by row.
///
/// # Panics
/// When lengths differ or rows do not fill them.
pub fn softmax_backward<T: Real>(p: &[T], g: &[T], cols: usize, to: &mut [T]) {
    T::softmax_backward(Isa::best(), p, g, cols, to);
}

pub(crate) fn softmax_backward_on<T: Real>(isa: Isa, p: &[T], g: &[T], cols: usize, to: &mut [T]) {
    check(p.len(), cols);
    assert!(p.len() == g.len() && p.len() == to.len(), "as many numbers everywhere");
    let rows = p.len() / cols.max(1);
    let (size, parts) = cut(rows, cols);
    let to = Raw::of_mut(to);
    each(parts, parts == 1, &|part| {
        let (first, last) = (part * size * cols, rows.min((part + 1) * size) * cols);
        // SAFETY: parts are disjoint ranges of what is written.
        unsafe {
            let to = std::slice::from_raw_parts_mut(to.get().add(first), last - first);
            isa.run(SoftmaxBackward { p: &p[first..last], g: &g[first..last], cols, to });
        }
    });
}

struct SoftmaxBackward<'a, T> {
    p: &'a [T],
    g: &'a [T],
    cols: usize,
    to: &'a mut [T],
}

impl<T: Real> Kernel<T> for SoftmaxBackward<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        let rows = self.p.chunks_exact(self.cols).zip(self.g.chunks_exact(self.cols));
        for ((p, g), to) in rows.zip(self.to.chunks_exact_mut(self.cols)) {
            let total = lanes(p.len(), |i| p[i] * g[i]);
            to.iter_mut().zip(p).zip(g).for_each(|((t, &p), &g)| *t = p * (g - total));
        }
    }
}

fn check(len: usize, cols: usize) {
    assert!(cols > 0 && len.is_multiple_of(cols) || len == 0, "{len} numbers are no rows of {cols}");
}

/// Sums over the rows a function of the entries of a row and of numbers that belong to their column:
/// `sums[c] = Σ_r f([a[r, c] for a in matrices], [v[c] for v in vectors])`.
///
/// # Panics
/// When lengths differ or rows do not fill the matrices.
pub fn column_sums<T: Real, const I: usize, const J: usize>(
    matrices: [&[T]; I],
    vectors: [&[T]; J],
    cols: usize,
    f: impl Fn([T; I], [T; J]) -> T + Copy + Sync + Send,
) -> Vec<f64> {
    let [sums] = blockwise(matrices[0].len(), cols, BLOCK, |rows, [sums]: [&mut [f64]; 1]| {
        ColumnSum { matrices, vectors, cols, f, rows, sums }.on_best();
    });
    sums
}

/// Computes two sums at once, so that the matrices are read once.
///
/// # Panics
/// As [`column_sums`].
pub fn two_column_sums<T: Real, const I: usize, const J: usize>(
    matrices: [&[T]; I],
    vectors: [&[T]; J],
    cols: usize,
    f: impl Fn([T; I], [T; J]) -> T + Copy + Sync + Send,
    g: impl Fn([T; I], [T; J]) -> T + Copy + Sync + Send,
) -> [Vec<f64>; 2] {
    blockwise(matrices[0].len(), cols, BLOCK, |rows, [first, second]: [&mut [f64]; 2]| {
        ColumnSum { matrices, vectors, cols, f, rows: rows.clone(), sums: first }.on_best();
        ColumnSum { matrices, vectors, cols, f: g, rows, sums: second }.on_best();
    })
}

/// Mean and variance (divided by the count) of every column, in one pass: each block of rows has its own mean, and the
/// blocks' sums of squares are joined in f64 (Chan et al. 1983).
///
/// # Panics
/// When rows do not fill the matrix.
pub fn column_moments<T: Real>(x: &[T], cols: usize) -> (Vec<f64>, Vec<f64>) {
    T::column_moments(x, cols)
}

pub(crate) fn column_moments_of<T: Real>(x: &[T], cols: usize) -> (Vec<f64>, Vec<f64>) {
    let [sums, inner, outer] = blockwise(x.len(), cols, 4 * BLOCK, |rows, [sums, inner, outer]: [&mut [f64]; 3]| {
        let n = rows.len() as f64;
        let mut own = vec![0.0; cols];
        ColumnSum {
            matrices: [x],
            vectors: [],
            cols,
            f: |[x]: [T; 1], []: [T; 0]| x,
            rows: rows.clone(),
            sums: &mut own,
        }
        .on_best();
        let mean: Vec<T> = own.iter().map(|s| T::of(s / n)).collect();
        let f = |[x]: [T; 1], [m]: [T; 1]| (x - m) * (x - m);
        ColumnSum { matrices: [x], vectors: [&mean], cols, f, rows, sums: inner }.on_best();
        for c in 0..cols {
            sums[c] += own[c];
            // The rounding error of the block's mean belongs to its sum of squares.
            let rounded = mean[c].f64();
            outer[c] += rounded * (2.0 * own[c] - n * rounded);
        }
    });
    let n = (x.len() / cols.max(1)).max(1) as f64;
    let mean: Vec<f64> = sums.iter().map(|s| s / n).collect();
    let variance = (0..cols).map(|c| ((inner[c] + outer[c]) / n - mean[c] * mean[c]).max(0.0)).collect();
    (mean, variance)
}

/// `K` sums of `cols` numbers over the rows in `len` numbers: `add` adds a block of rows to them. Rows are cut into parts
/// by the shape alone; each sums for itself, and the parts are added in their order.
fn blockwise<const K: usize>(
    len: usize,
    cols: usize,
    block: usize,
    add: impl Fn(Range<usize>, [&mut [f64]; K]) + Sync + Send,
) -> [Vec<f64>; K] {
    check(len, cols);
    let rows = len / cols.max(1);
    let size = cut(rows, cols).0.max(rows.div_ceil(PARTS)).max(1);
    let parts = rows.div_ceil(size);
    let mut sums = vec![0.0f64; volume([parts.max(1), K, cols])];
    let to = Raw::of_mut(&mut sums);
    each(parts, parts == 1, &|p| {
        let rows = p * size..rows.min((p + 1) * size);
        for first in rows.clone().step_by(block) {
            // SAFETY: every part has its own sums, and they do not overlap.
            let own = std::array::from_fn(|k| unsafe {
                std::slice::from_raw_parts_mut(to.get().add((p * K + k) * cols), cols)
            });
            add(first..rows.end.min(first + block), own);
        }
    });
    std::array::from_fn(|k| (0..cols).map(|c| (0..parts).map(|p| sums[(p * K + k) * cols + c]).sum()).collect())
}

/// A block of rows of a sum over columns.
struct ColumnSum<'a, T, F, const I: usize, const J: usize> {
    matrices: [&'a [T]; I],
    vectors: [&'a [T]; J],
    cols: usize,
    f: F,
    rows: Range<usize>,
    sums: &'a mut [f64],
}

impl<T: Real, F: Fn([T; I], [T; J]) -> T + Copy, const I: usize, const J: usize> ColumnSum<'_, T, F, I, J> {
    fn on_best(self) {
        let len = self.matrices[0].len();
        assert!(self.matrices.iter().all(|m| m.len() == len), "as many numbers in every matrix");
        assert!(self.vectors.iter().all(|v| v.len() == self.cols), "one number a column");
        // SAFETY: it has no conditions.
        unsafe { Isa::best().run(self) }
    }
}

impl<T: Real, F: Fn([T; I], [T; J]) -> T + Copy, const I: usize, const J: usize> Kernel<T>
    for ColumnSum<'_, T, F, I, J>
{
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        // Sixteen columns at a time, whose sums stay in registers.
        let (cols, f) = (self.cols, self.f);
        let whole = cols / LANES * LANES;
        for first in (0..whole).step_by(LANES) {
            let vectors: [[T; LANES]; J] = std::array::from_fn(|j| std::array::from_fn(|l| self.vectors[j][first + l]));
            let mut acc = [T::ZERO; LANES];
            for r in self.rows.clone() {
                let rows = self.matrices.map(|m| &m[r * cols + first..][..LANES]);
                for l in 0..LANES {
                    acc[l] += f(std::array::from_fn(|i| rows[i][l]), std::array::from_fn(|j| vectors[j][l]));
                }
            }
            (0..LANES).for_each(|l| self.sums[first + l] += acc[l].f64());
        }
        for c in whole..cols {
            let entry = |r: usize| std::array::from_fn(|i| self.matrices[i][r * cols + c]);
            let vectors = std::array::from_fn(|j| self.vectors[j][c]);
            self.sums[c] += self.rows.clone().map(|r| f(entry(r), vectors)).sum::<T>().f64();
        }
    }
}

/// `to[r, c] = f([a[r, c] for a in matrices], [v[c] for v in vectors])`.
///
/// # Panics
/// When lengths differ or rows do not fill the matrices.
pub fn map_columns<T: Real, const I: usize, const J: usize>(
    matrices: [&[T]; I],
    vectors: [&[T]; J],
    cols: usize,
    to: &mut [T],
    f: impl Fn([T; I], [T; J]) -> T + Copy + Sync + Send,
) {
    update_columns(
        to,
        matrices,
        vectors,
        cols,
        #[inline(always)]
        move |_, m, v| f(m, v),
    );
}

/// `to = f(to, matrices, vectors)`, likewise.
///
/// # Panics
/// When lengths do not fit.
pub fn update_columns<T: Real, const I: usize, const J: usize>(
    to: &mut [T],
    matrices: [&[T]; I],
    vectors: [&[T]; J],
    cols: usize,
    f: impl Fn(T, [T; I], [T; J]) -> T + Copy + Sync + Send,
) {
    check(to.len(), cols);
    assert!(matrices.iter().all(|m| m.len() == to.len()), "as many numbers in every matrix");
    assert!(vectors.iter().all(|v| v.len() == cols), "one number a column");
    let rows = to.len() / cols.max(1);
    let (size, parts) = cut(rows, cols);
    let to = Raw::of_mut(to);
    each(parts, parts == 1, &|p| {
        let (first, last) = (p * size * cols, rows.min((p + 1) * size) * cols);
        // SAFETY: parts are disjoint ranges of what is written.
        unsafe {
            let to = std::slice::from_raw_parts_mut(to.get().add(first), last - first);
            Isa::best().run(UpdateColumns { matrices: matrices.map(|m| &m[first..last]), vectors, to, f });
        }
    });
}

struct UpdateColumns<'a, T, F, const I: usize, const J: usize> {
    matrices: [&'a [T]; I],
    vectors: [&'a [T]; J],
    to: &'a mut [T],
    f: F,
}

impl<T: Real, F: Fn(T, [T; I], [T; J]) -> T + Copy, const I: usize, const J: usize> Kernel<T>
    for UpdateColumns<'_, T, F, I, J>
{
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        let cols = self.vectors.first().map_or(self.to.len(), |v| v.len()).max(1);
        for (r, to) in self.to.chunks_exact_mut(cols).enumerate() {
            let rows = self.matrices.map(|m| &m[r * cols..][..cols]);
            let vectors = self.vectors.map(|v| &v[..cols]);
            for c in 0..cols {
                to[c] = (self.f)(to[c], std::array::from_fn(|i| rows[i][c]), std::array::from_fn(|j| vectors[j][c]));
            }
        }
    }
}

/// Layer normalization of every row: `y = gain ∘ (x - mean) / √(variance + ε) + offset`. Also writes each row's mean and
/// 1 / √(variance + ε).
///
/// # Panics
/// When lengths do not fit.
#[allow(clippy::too_many_arguments)]
pub fn layer_norm<T: Real>(
    x: &[T],
    gain: &[T],
    offset: &[T],
    epsilon: f64,
    y: &mut [T],
    mean: &mut [T],
    rate: &mut [T],
) {
    T::layer_norm(Isa::best(), x, [gain, offset], epsilon, y, [mean, rate]);
}

pub(crate) fn layer_norm_on<T: Real>(
    isa: Isa,
    x: &[T],
    [gain, offset]: [&[T]; 2],
    epsilon: f64,
    y: &mut [T],
    [mean, rate]: [&mut [T]; 2],
) {
    let cols = gain.len();
    check(x.len(), cols);
    let rows = x.len() / cols.max(1);
    assert!(offset.len() == cols && y.len() == x.len() && mean.len() == rows && rate.len() == rows, "shapes differ");
    let (size, parts) = cut(rows, cols);
    let (y, mean, rate) = (Raw::of_mut(y), Raw::of_mut(mean), Raw::of_mut(rate));
    each(parts, parts == 1, &|p| {
        let (first, last) = (p * size, rows.min((p + 1) * size));
        // SAFETY: parts are disjoint ranges of what is written.
        unsafe {
            isa.run(LayerNorm {
                x: &x[first * cols..last * cols],
                gain,
                offset,
                epsilon: T::of(epsilon),
                y: std::slice::from_raw_parts_mut(y.get().add(first * cols), (last - first) * cols),
                mean: std::slice::from_raw_parts_mut(mean.get().add(first), last - first),
                rate: std::slice::from_raw_parts_mut(rate.get().add(first), last - first),
            });
        }
    });
}

struct LayerNorm<'a, T> {
    x: &'a [T],
    gain: &'a [T],
    offset: &'a [T],
    epsilon: T,
    y: &'a mut [T],
    mean: &'a mut [T],
    rate: &'a mut [T],
}

impl<T: Real> Kernel<T> for LayerNorm<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        let cols = self.gain.len();
        let (offset, share) = (&self.offset[..cols], T::of(1.0 / cols as f64));
        for (r, (x, y)) in self.x.chunks_exact(cols).zip(self.y.chunks_exact_mut(cols)).enumerate() {
            let mean = lanes(cols, |i| x[i]) * share;
            let variance = lanes(cols, |i| (x[i] - mean) * (x[i] - mean)) * share;
            let rate = T::ONE / (variance + self.epsilon).sqrt();
            (self.mean[r], self.rate[r]) = (mean, rate);
            for i in 0..cols {
                y[i] = (x[i] - mean) * rate * self.gain[i] + offset[i];
            }
        }
    }
}

/// Gradient of [`layer_norm`] in x, given the means and rates it wrote.
///
/// # Panics
/// When lengths do not fit.
pub fn layer_norm_backward<T: Real>(x: &[T], g: &[T], gain: &[T], mean: &[T], rate: &[T], dx: &mut [T]) {
    T::layer_norm_backward(Isa::best(), x, g, gain, [mean, rate], dx);
}

pub(crate) fn layer_norm_backward_on<T: Real>(
    isa: Isa,
    x: &[T],
    g: &[T],
    gain: &[T],
    [mean, rate]: [&[T]; 2],
    dx: &mut [T],
) {
    let cols = gain.len();
    check(x.len(), cols);
    let rows = x.len() / cols.max(1);
    assert!(g.len() == x.len() && dx.len() == x.len() && mean.len() == rows && rate.len() == rows, "shapes differ");
    let (size, parts) = cut(rows, cols);
    let dx = Raw::of_mut(dx);
    each(parts, parts == 1, &|p| {
        let (first, last) = (p * size, rows.min((p + 1) * size));
        // SAFETY: parts are disjoint ranges of what is written.
        unsafe {
            isa.run(LayerNormBackward {
                x: &x[first * cols..last * cols],
                g: &g[first * cols..last * cols],
                gain,
                mean: &mean[first..last],
                rate: &rate[first..last],
                dx: std::slice::from_raw_parts_mut(dx.get().add(first * cols), (last - first) * cols),
            });
        }
    });
}

/// Gradients of gain and offset of [`layer_norm`]: Σ over rows of g (x - mean) rate, and of g.
///
/// # Panics
/// When lengths do not fit.
pub fn layer_norm_sums<T: Real>(x: &[T], g: &[T], mean: &[T], rate: &[T], cols: usize) -> (Vec<f64>, Vec<f64>) {
    T::layer_norm_sums(Isa::best(), x, g, [mean, rate], cols)
}

pub(crate) fn layer_norm_sums_on<T: Real>(
    isa: Isa,
    x: &[T],
    g: &[T],
    [mean, rate]: [&[T]; 2],
    cols: usize,
) -> (Vec<f64>, Vec<f64>) {
    check(x.len(), cols);
    let rows = x.len() / cols.max(1);
    assert!(g.len() == x.len() && mean.len() == rows && rate.len() == rows, "shapes differ");
    let [gain, offset] = blockwise(x.len(), cols, BLOCK, |rows, [gains, offsets]| {
        // SAFETY: it has no conditions.
        unsafe { isa.run(LayerNormSums { x, g, mean, rate, rows, cols, gains, offsets }) }
    });
    (gain, offset)
}

struct LayerNormSums<'a, T> {
    x: &'a [T],
    g: &'a [T],
    mean: &'a [T],
    rate: &'a [T],
    rows: Range<usize>,
    cols: usize,
    gains: &'a mut [f64],
    offsets: &'a mut [f64],
}

impl<T: Real> Kernel<T> for LayerNormSums<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        let cols = self.cols;
        for c in (0..cols).step_by(LANES) {
            let n = LANES.min(cols - c);
            let (mut gain, mut offset) = ([T::ZERO; LANES], [T::ZERO; LANES]);
            for r in self.rows.clone() {
                let (m, s) = (self.mean[r], self.rate[r]);
                let (x, g) = (&self.x[r * cols + c..][..n], &self.g[r * cols + c..][..n]);
                if let (Some(x), Some(g)) = (x.first_chunk::<LANES>(), g.first_chunk::<LANES>()) {
                    for l in 0..LANES {
                        gain[l] += g[l] * ((x[l] - m) * s);
                    }
                    for l in 0..LANES {
                        offset[l] += g[l];
                    }
                } else {
                    for l in 0..n {
                        gain[l] += g[l] * ((x[l] - m) * s);
                        offset[l] += g[l];
                    }
                }
            }
            for l in 0..n {
                self.gains[c + l] += gain[l].f64();
                self.offsets[c + l] += offset[l].f64();
            }
        }
    }
}

struct LayerNormBackward<'a, T> {
    x: &'a [T],
    g: &'a [T],
    gain: &'a [T],
    mean: &'a [T],
    rate: &'a [T],
    dx: &'a mut [T],
}

impl<T: Real> Kernel<T> for LayerNormBackward<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        let cols = self.gain.len();
        let share = T::of(1.0 / cols as f64);
        let rows = self.x.chunks_exact(cols).zip(self.g.chunks_exact(cols)).zip(self.dx.chunks_exact_mut(cols));
        for (((x, g), dx), (&mean, &rate)) in rows.zip(self.mean.iter().zip(self.rate)) {
            // rate (h - mean h - z mean(h z)) for h = g gain, z = (x - mean) rate
            let plain = lanes(cols, |i| g[i] * self.gain[i]) * share;
            let weighted = lanes(cols, |i| g[i] * self.gain[i] * ((x[i] - mean) * rate)) * share;
            for i in 0..cols {
                dx[i] = rate * (g[i] * self.gain[i] - plain - (x[i] - mean) * rate * weighted);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{close, on_threads, random};

    const SHAPES: [(usize, usize); 6] = [(1, 1), (3, 5), (7, 33), (300, 16), (9, 400), (2000, 70)];

    #[test]
    fn softmax_and_its_gradient() {
        for (rows, cols) in SHAPES {
            let (x, g) = (random::<f64>(1, rows * cols), random::<f64>(2, rows * cols));
            let mut p = x.clone();
            softmax(&mut p, cols);
            let total = |r: usize| x[r * cols..(r + 1) * cols].iter().map(|v| v.exp()).sum::<f64>();
            close("p", &p, rows, cols, 1e-12, |r, c| x[r * cols + c].exp() / total(r));
            let mut to = vec![0.0; x.len()];
            softmax_backward(&p, &g, cols, &mut to);
            let inner = |r: usize| (0..cols).map(|c| p[r * cols + c] * g[r * cols + c]).sum::<f64>();
            close("dx", &to, rows, cols, 1e-12, |r, c| p[r * cols + c] * (g[r * cols + c] - inner(r)));
        }
    }

    #[test]
    fn columns() {
        for (rows, cols) in SHAPES {
            let (x, g, v) = (random::<f64>(1, rows * cols), random::<f64>(2, rows * cols), random::<f64>(3, cols));
            let [a, b] = two_column_sums([&x, &g], [&v], cols, |[x, _], [v]| x - v, |[x, g], _| x * g);
            assert_eq!(column_sums([&g, &x], [], cols, |[g, x], []| x * g), b);
            let sum = |f: &dyn Fn(usize, usize) -> f64, c: usize| (0..rows).map(|r| f(r * cols + c, c)).sum::<f64>();
            close("a", &a, 1, cols, 1e-11, |_, c| sum(&|i, c| x[i] - v[c], c));
            close("b", &b, 1, cols, 1e-11, |_, c| sum(&|i, _| x[i] * g[i], c));
            let mut to = vec![0.0; x.len()];
            map_columns([&x, &g], [&v], cols, &mut to, |[x, g], [v]| x * v + g);
            close("map", &to, rows, cols, 0.0, |r, c| x[r * cols + c] * v[c] + g[r * cols + c]);
        }
        let none = column_sums([&[0.0f32; 0]], [], 3, |[x], []| x);
        assert_eq!(none, [0.0; 3]);
    }

    #[test]
    fn moments_far_from_zero() {
        for (rows, cols) in SHAPES {
            for shift in [0.0, 300.0] {
                let x: Vec<f32> = random::<f32>(1, rows * cols).into_iter().map(|v| v + shift).collect();
                let (mean, variance) = column_moments(&x, cols);
                let over = |f: &dyn Fn(f64) -> f64, c: usize| {
                    (0..rows).map(|r| f(f64::from(x[r * cols + c]))).sum::<f64>() / rows as f64
                };
                close("mean", &mean, 1, cols, 1e-6 * (1.0 + f64::from(shift)), |_, c| over(&|x| x, c));
                close("variance", &variance, 1, cols, 1e-5, |_, c| {
                    let m = over(&|x| x, c);
                    over(&|x| (x - m) * (x - m), c)
                });
            }
        }
        assert_eq!(column_moments(&[0.0f32; 0], 2), (vec![0.0; 2], vec![0.0; 2]));
    }

    #[test]
    fn layer_norm_and_its_gradient() {
        for (rows, cols) in SHAPES {
            let (x, g) = (random::<f64>(1, rows * cols), random::<f64>(2, rows * cols));
            let (gain, offset) = (random::<f64>(3, cols), random::<f64>(4, cols));
            let run = |x: &[f64]| {
                let (mut y, mut mean, mut rate) = (vec![0.0; x.len()], vec![0.0; rows], vec![0.0; rows]);
                layer_norm(x, &gain, &offset, 0.1, &mut y, &mut mean, &mut rate);
                (y, mean, rate)
            };
            let (y, mean, rate) = run(&x);
            close("y", &y, rows, cols, 1e-12, |r, c| {
                let row = &x[r * cols..(r + 1) * cols];
                let m = row.iter().sum::<f64>() / cols as f64;
                let v = row.iter().map(|x| (x - m).powi(2)).sum::<f64>() / cols as f64;
                (row[c] - m) / (v + 0.1).sqrt() * gain[c] + offset[c]
            });
            let mut dx = vec![0.0; x.len()];
            layer_norm_backward(&x, &g, &gain, &mean, &rate, &mut dx);
            let (dgain, doffset) = layer_norm_sums(&x, &g, &mean, &rate, cols);
            let z = |r: usize, c: usize| (x[r * cols + c] - mean[r]) * rate[r];
            close("dgain", &dgain, 1, cols, 1e-11, |_, c| (0..rows).map(|r| g[r * cols + c] * z(r, c)).sum());
            close("doffset", &doffset, 1, cols, 1e-11, |_, c| (0..rows).map(|r| g[r * cols + c]).sum());
            for at in [0, x.len() / 2, x.len() - 1] {
                let moved = |by: f64| {
                    let mut x = x.clone();
                    x[at] += by;
                    run(&x).0.iter().zip(&g).map(|(y, g)| y * g).sum::<f64>()
                };
                let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!((slope - dx[at]).abs() < 1e-7 * (1.0 + slope.abs()), "{} is not {slope}", dx[at]);
            }
        }
    }

    #[test]
    fn any_thread_count_gives_the_same_bits() {
        on_threads(|| {
            let (rows, cols) = (5000, 37);
            let x = random::<f32>(1, rows * cols);
            let mut p = x.clone();
            softmax(&mut p, cols);
            let a = column_sums([&x], [], cols, |[x], []| x * x);
            let (mut y, mut mean, mut rate) = (vec![0.0; x.len()], vec![0.0; rows], vec![0.0; rows]);
            layer_norm(
                &x,
                &a.iter().map(|&v| v as f32).collect::<Vec<_>>(),
                &x[..cols],
                1e-5,
                &mut y,
                &mut mean,
                &mut rate,
            );
            let bits = [p, y, mean, rate].concat().iter().map(|v| u64::from(v.to_bits())).collect::<Vec<_>>();
            [bits, a.iter().map(|v| v.to_bits()).collect()].concat()
        });
    }
}
