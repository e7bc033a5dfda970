//! Formats that list the entries of a row: compressed rows, ELL, N:M, bitmask. One set of kernels serves all.

use std::ops::Range;

use rayon::prelude::*;

use crate::operator::check;
use crate::simd::{Isa, Kernel, Vector};
use crate::{Csr, Operator, Real, Tiled};

/// Where the entries of every row are. Entries are numbered row by row, columns ascending.
///
/// # Safety
/// Of row r < `rows`, `each` must name exactly the entries `start(r)..start(r + 1)`, with columns below `cols`; `start`
/// must not fall, `start(rows)` be the number of entries. Kernels rely on it.
#[allow(missing_docs)]
pub unsafe trait Lines: Send + Sync {
    const FORMAT: &'static str;
    fn rows(&self) -> usize;
    fn cols(&self) -> usize;
    /// First entry of a row, or the number of entries at `rows`.
    fn start(&self, row: usize) -> usize;
    /// Calls `f(entry, column)` in order.
    fn each(&self, row: usize, f: impl FnMut(usize, usize));
    fn bytes(&self) -> usize;
}

/// Compressed rows: the format without conditions.
#[derive(Clone, Debug)]
pub struct Compressed {
    cols: usize,
    starts: Vec<usize>,
    columns: Vec<u32>,
}

/// ELL: as many entries in every row (constant fan-in), so that there are no row starts.
#[derive(Clone, Debug)]
pub struct Ell {
    rows: usize,
    cols: usize,
    width: usize,
    columns: Vec<u32>,
}

/// N of every M consecutive columns, an entry a byte beside its value.
#[derive(Clone, Debug)]
pub struct NOfM {
    rows: usize,
    cols: usize,
    n: usize,
    m: usize,
    offsets: Vec<u8>,
}

/// A bit for every place, set where an entry is. Smallest of all above a density of about 1/32.
#[derive(Clone, Debug)]
pub struct Bitmask {
    cols: usize,
    starts: Vec<usize>,
    /// `rows * ceil(cols / 64)` words.
    words: Vec<u64>,
}

/// A format of rows with values.
#[derive(Clone, Debug)]
pub struct ByRows<L, T> {
    lines: L,
    values: Vec<T>,
}

fn with_values<L: Lines, T: Real>(lines: L, values: &[T]) -> ByRows<L, T> {
    assert_eq!(values.len(), lines.start(lines.rows()), "values");
    ByRows { lines, values: values.to_vec() }
}

impl<T: Real> ByRows<Compressed, T> {
    /// Any structure.
    ///
    /// # Panics
    /// When it is not valid or there is not one value an entry.
    pub fn csr(csr: Csr, values: &[T]) -> Self {
        csr.check();
        with_values(Compressed { cols: csr.cols, starts: csr.starts.to_vec(), columns: csr.columns.to_vec() }, values)
    }
}

impl<T: Real> ByRows<Ell, T> {
    /// A structure with as many entries in every row; none when it is not one.
    ///
    /// # Panics
    /// As [`ByRows::csr`].
    pub fn ell(csr: Csr, values: &[T]) -> Option<Self> {
        csr.check();
        let width = csr.nnz().checked_div(csr.rows).unwrap_or(0);
        let constant = csr.starts.windows(2).all(|w| w[1] - w[0] == width);
        let lines = Ell { rows: csr.rows, cols: csr.cols, width, columns: csr.columns.to_vec() };
        constant.then(|| with_values(lines, values))
    }
}

impl<T: Real> ByRows<NOfM, T> {
    /// A structure with `n` entries in each group of `m <= 256` columns; none when it is not one.
    ///
    /// # Panics
    /// As [`ByRows::csr`].
    pub fn n_of_m(csr: Csr, n: usize, m: usize, values: &[T]) -> Option<Self> {
        csr.check();
        if !(1..=256).contains(&m)
            || n == 0
            || n > m
            || !csr.cols.is_multiple_of(m)
            || csr.nnz() != csr.rows * csr.cols / m * n
        {
            return None;
        }
        let groups = csr.cols / m;
        let fits = |(e, &c): (usize, &u32)| c as usize / m == (e / n) % groups;
        let rows = csr.starts.iter().enumerate().all(|(r, &s)| s == r * groups * n);
        if !rows || !csr.columns.iter().enumerate().all(fits) {
            return None;
        }
        let offsets = csr.columns.iter().map(|&c| (c as usize % m) as u8).collect();
        Some(with_values(NOfM { rows: csr.rows, cols: csr.cols, n, m, offsets }, values))
    }
}

impl<T: Real> ByRows<Bitmask, T> {
    /// Any structure.
    ///
    /// # Panics
    /// As [`ByRows::csr`], or when columns of a row do not ascend.
    pub fn bitmask(csr: Csr, values: &[T]) -> Self {
        csr.check();
        let wide = csr.cols.div_ceil(64);
        let mut words = vec![0u64; csr.rows * wide];
        for r in 0..csr.rows {
            let row = &csr.columns[csr.starts[r]..csr.starts[r + 1]];
            assert!(row.windows(2).all(|w| w[0] < w[1]), "columns of row {r} ascend");
            row.iter().for_each(|&c| words[r * wide + c as usize / 64] |= 1 << (c % 64));
        }
        with_values(Bitmask { cols: csr.cols, starts: csr.starts.to_vec(), words }, values)
    }
}

// SAFETY: the structure was checked when it was made.
unsafe impl Lines for Compressed {
    const FORMAT: &'static str = "csr";

    fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn start(&self, row: usize) -> usize {
        self.starts[row]
    }

    #[inline(always)]
    fn each(&self, row: usize, mut f: impl FnMut(usize, usize)) {
        for e in self.starts[row]..self.starts[row + 1] {
            f(e, self.columns[e] as usize);
        }
    }

    fn bytes(&self) -> usize {
        8 * self.starts.len() + 4 * self.columns.len()
    }
}

// SAFETY: as above.
unsafe impl Lines for Ell {
    const FORMAT: &'static str = "ell";

    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn start(&self, row: usize) -> usize {
        row * self.width
    }

    #[inline(always)]
    fn each(&self, row: usize, mut f: impl FnMut(usize, usize)) {
        let first = row * self.width;
        for (k, &c) in self.columns[first..first + self.width].iter().enumerate() {
            f(first + k, c as usize);
        }
    }

    fn bytes(&self) -> usize {
        4 * self.columns.len()
    }
}

// SAFETY: as above.
unsafe impl Lines for NOfM {
    const FORMAT: &'static str = "n:m";

    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn start(&self, row: usize) -> usize {
        row * (self.cols / self.m) * self.n
    }

    #[inline(always)]
    fn each(&self, row: usize, mut f: impl FnMut(usize, usize)) {
        let mut e = row * (self.cols / self.m) * self.n;
        for first in (0..self.cols).step_by(self.m) {
            for _ in 0..self.n {
                f(e, first + usize::from(self.offsets[e]));
                e += 1;
            }
        }
    }

    fn bytes(&self) -> usize {
        self.offsets.len()
    }
}

// SAFETY: as above; bits are set for columns of the structure alone.
unsafe impl Lines for Bitmask {
    const FORMAT: &'static str = "bitmask";

    fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn start(&self, row: usize) -> usize {
        self.starts[row]
    }

    #[inline(always)]
    fn each(&self, row: usize, mut f: impl FnMut(usize, usize)) {
        let (mut e, wide) = (self.starts[row], self.cols.div_ceil(64));
        for (w, &word) in self.words[row * wide..(row + 1) * wide].iter().enumerate() {
            let mut left = word;
            while left != 0 {
                f(e, 64 * w + left.trailing_zeros() as usize);
                left &= left - 1;
                e += 1;
            }
        }
    }

    fn bytes(&self) -> usize {
        8 * (self.starts.len() + self.words.len())
    }
}

/// Rows of a job.
const HIGH: usize = 64;

impl<L: Lines, T: Real> ByRows<L, T> {
    fn rows_of(&self, job: usize) -> Range<usize> {
        job * HIGH..((job + 1) * HIGH).min(self.lines.rows())
    }

    fn forward_on(&self, isa: Isa, x: &Tiled<T>, bias: Option<&[T]>, y: &mut Tiled<T>) {
        check(self, x, y, bias);
        for t in 0..x.tiles() {
            let (width, x) = (x.width(t), x.tile(t));
            y.tile_mut(t).par_chunks_mut(HIGH * width).enumerate().for_each(|(job, y)| {
                // SAFETY: shapes were checked, `y` has these rows of tile `t`; callers pass an available set.
                unsafe { isa.run(Forward { op: self, rows: self.rows_of(job), x, width, bias, y }) }
            });
        }
    }

    fn backward_on(&self, isa: Isa, x: &Tiled<T>, g: &Tiled<T>, dx: Option<&mut Tiled<T>>, dw: &mut [T]) {
        check(self, x, g, None);
        assert_eq!(dw.len(), self.values.len(), "gradients of values");
        if let Some(dx) = dx {
            check(self, dx, g, None);
            let features = [dx.features()];
            dx.split(&features).into_par_iter().enumerate().for_each(|(t, dx)| {
                // SAFETY: as above.
                unsafe { isa.run(Scatter { op: self, g: g.tile(t), width: g.width(t), dx }) }
            });
        }
        dw.fill(T::ZERO);
        let mut jobs = Vec::new();
        let mut rest = dw;
        for job in 0..self.lines.rows().div_ceil(HIGH) {
            let rows = self.rows_of(job);
            let (part, after) = rest.split_at_mut(self.lines.start(rows.end) - self.lines.start(rows.start));
            rest = after;
            jobs.push((rows, part));
        }
        jobs.into_par_iter().for_each(|(rows, dw)| {
            for t in 0..x.tiles() {
                let (x, g, width) = (x.tile(t), g.tile(t), x.width(t));
                // SAFETY: as above; `dw` has the entries of these rows.
                unsafe { isa.run(Dots { op: self, rows: rows.clone(), x, g, width, dw: &mut *dw }) }
            }
        });
    }
}

impl<L: Lines, T: Real> Operator<T> for ByRows<L, T> {
    fn format(&self) -> &'static str {
        L::FORMAT
    }

    fn rows(&self) -> usize {
        self.lines.rows()
    }

    fn cols(&self) -> usize {
        self.lines.cols()
    }

    fn nnz(&self) -> usize {
        self.values.len()
    }

    fn bytes(&self) -> usize {
        self.lines.bytes() + self.values.len() * size_of::<T>()
    }

    fn set_values(&mut self, values: &[T]) {
        self.values.copy_from_slice(values);
    }

    fn forward(&self, x: &Tiled<T>, bias: Option<&[T]>, y: &mut Tiled<T>) {
        self.forward_on(Isa::best(), x, bias, y);
    }

    fn backward(&self, x: &Tiled<T>, g: &Tiled<T>, dx: Option<&mut Tiled<T>>, dw: &mut [T]) {
        self.backward_on(Isa::best(), x, g, dx, dw);
    }
}

/// Calls `$self.strip::<V, N>(at)` for strips of N registers that cover `$width`, a multiple of 16.
macro_rules! strips {
    ($self:ident, $width:expr) => {{
        let mut at = 0;
        while at < $width {
            let left = ($width - at) / V::LANES;
            // SAFETY: passed on from `run`; the strip lies in the tile.
            unsafe {
                if left >= 4 {
                    $self.strip::<V, 4>(at);
                    at += 4 * V::LANES;
                } else if left >= 2 {
                    $self.strip::<V, 2>(at);
                    at += 2 * V::LANES;
                } else {
                    $self.strip::<V, 1>(at);
                    at += V::LANES;
                }
            }
        }
    }};
}
pub(crate) use strips;

struct Forward<'a, L, T> {
    op: &'a ByRows<L, T>,
    rows: Range<usize>,
    x: &'a [T],
    width: usize,
    bias: Option<&'a [T]>,
    y: &'a mut [T],
}

impl<L: Lines, T: Real> Forward<'_, L, T> {
    #[inline(always)]
    unsafe fn strip<V: Vector<T = T>, const N: usize>(&mut self, at: usize) {
        let (x, y, values) = (self.x.as_ptr(), self.y.as_mut_ptr(), self.op.values.as_ptr());
        for r in self.rows.clone() {
            // SAFETY: `Lines` promises entries within values and columns within `x`.
            unsafe {
                let mut sum = [V::splat(self.bias.map_or(T::ZERO, |b| b[r])); N];
                self.op.lines.each(r, |e, c| {
                    let v = V::splat(*values.add(e));
                    for j in 0..N {
                        sum[j] = v.mul_add(V::load(x.add(c * self.width + at + j * V::LANES)), sum[j]);
                    }
                });
                for j in 0..N {
                    sum[j].store(y.add((r - self.rows.start) * self.width + at + j * V::LANES));
                }
            }
        }
    }
}

impl<L: Lines, T: Real> Kernel<T> for Forward<'_, L, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(mut self) {
        strips!(self, self.width);
    }
}

/// `dx = g W` on one tile.
struct Scatter<'a, L, T> {
    op: &'a ByRows<L, T>,
    g: &'a [T],
    width: usize,
    dx: &'a mut [T],
}

impl<L: Lines, T: Real> Scatter<'_, L, T> {
    #[inline(always)]
    unsafe fn strip<V: Vector<T = T>, const N: usize>(&mut self, at: usize) {
        let (g, dx, values) = (self.g.as_ptr(), self.dx.as_mut_ptr(), self.op.values.as_ptr());
        for r in 0..self.op.lines.rows() {
            // SAFETY: as in `Forward`.
            unsafe {
                let mut line = [V::splat(T::ZERO); N];
                for j in 0..N {
                    line[j] = V::load(g.add(r * self.width + at + j * V::LANES));
                }
                self.op.lines.each(r, |e, c| {
                    let v = V::splat(*values.add(e));
                    for j in 0..N {
                        let to = dx.add(c * self.width + at + j * V::LANES);
                        v.mul_add(line[j], V::load(to)).store(to);
                    }
                });
            }
        }
    }
}

impl<L: Lines, T: Real> Kernel<T> for Scatter<'_, L, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(mut self) {
        self.dx.fill(T::ZERO);
        strips!(self, self.width);
    }
}

/// `dw += <g, x>` at the entries of some rows, on one tile.
struct Dots<'a, L, T> {
    op: &'a ByRows<L, T>,
    rows: Range<usize>,
    x: &'a [T],
    g: &'a [T],
    width: usize,
    dw: &'a mut [T],
}

impl<L: Lines, T: Real> Dots<'_, L, T> {
    #[inline(always)]
    unsafe fn strip<V: Vector<T = T>, const N: usize>(&mut self, at: usize) {
        let (x, g, dw) = (self.x.as_ptr(), self.g.as_ptr(), self.dw.as_mut_ptr());
        let first = self.op.lines.start(self.rows.start);
        for r in self.rows.clone() {
            // SAFETY: as in `Forward`; `dw` begins with the first entry of the first row.
            unsafe {
                let mut line = [V::splat(T::ZERO); N];
                for j in 0..N {
                    line[j] = V::load(g.add(r * self.width + at + j * V::LANES));
                }
                self.op.lines.each(r, |e, c| {
                    let from = x.add(c * self.width + at);
                    let mut sum = line[0].mul(V::load(from));
                    for j in 1..N {
                        sum = line[j].mul_add(V::load(from.add(j * V::LANES)), sum);
                    }
                    *dw.add(e - first) += sum.sum();
                });
            }
        }
    }
}

impl<L: Lines, T: Real> Kernel<T> for Dots<'_, L, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(mut self) {
        strips!(self, self.width);
    }
}

#[cfg(test)]
#[path = "operator_tests.rs"]
mod tests;
