//! Block compressed rows.

use rayon::prelude::*;

use crate::operator::check;
use crate::simd::{Isa, Kernel, Vector};
use crate::{Csr, Operator, Real, Tiled};

/// Dense blocks of `high` by `wide` entries. Every input loaded serves all rows of a block, which lifts the limit of
/// unstructured kernels, one load per product.
///
/// Values stay row by row: of block row i, whose blocks are `starts[i]..starts[i + 1]`, the entries of each of its rows
/// follow each other block after block.
#[derive(Clone, Debug)]
pub struct Bsr<T> {
    rows: usize,
    cols: usize,
    high: usize,
    wide: usize,
    /// First block of each block row.
    starts: Vec<usize>,
    /// First column of each block.
    columns: Vec<u32>,
    values: Vec<T>,
}

impl<T: Real> Bsr<T> {
    /// Converts a structure of whole blocks on the grid of `high` by `wide`; `None` if it is not one.
    ///
    /// # Panics
    /// When the structure is not valid or there is not one value per entry.
    pub fn new(csr: Csr, high: usize, wide: usize, values: &[T]) -> Option<Self> {
        csr.check();
        assert_eq!(values.len(), csr.nnz(), "values");
        if high == 0 || wide == 0 || !csr.rows.is_multiple_of(high) || !csr.cols.is_multiple_of(wide) {
            return None;
        }
        let row = |r: usize| &csr.columns[csr.starts[r]..csr.starts[r + 1]];
        let (mut starts, mut columns) = (vec![0], Vec::new());
        for r in (0..csr.rows).step_by(high) {
            let blocks = row(r).chunks(wide);
            let whole = |b: &[u32]| {
                b.len() == wide && (b[0] as usize).is_multiple_of(wide) && b.windows(2).all(|w| w[1] == w[0] + 1)
            };
            if !blocks.clone().all(whole) || !(1..high).all(|i| row(r + i) == row(r)) {
                return None;
            }
            columns.extend(blocks.map(|b| b[0]));
            starts.push(columns.len());
        }
        Some(Self { rows: csr.rows, cols: csr.cols, high, wide, starts, columns, values: values.to_vec() })
    }

    /// Index of the first entry of row `i` of block row `b`, and the entries of that row.
    #[inline(always)]
    fn row(&self, b: usize, i: usize) -> (usize, usize) {
        let long = (self.starts[b + 1] - self.starts[b]) * self.wide;
        (self.starts[b] * self.high * self.wide + i * long, long)
    }

    pub(crate) fn forward_on(&self, isa: Isa, x: &Tiled<T>, bias: Option<&[T]>, y: &mut Tiled<T>) {
        check(self, x, y, bias);
        if self.rows == 0 {
            return;
        }
        for t in 0..x.tiles() {
            let (width, x) = (x.width(t), x.tile(t));
            y.tile_mut(t).par_chunks_mut(self.high * width).enumerate().with_min_len(8).for_each(|(block, y)| {
                // SAFETY: shapes were checked, `y` has the rows of this block row.
                unsafe { isa.dividing::<T>(width).run(Forward { op: self, block, x, width, bias, y }) }
            });
        }
    }

    pub(crate) fn backward_on(&self, isa: Isa, x: &Tiled<T>, g: &Tiled<T>, dx: Option<&mut Tiled<T>>, dw: &mut [T]) {
        check(self, x, g, None);
        assert_eq!(dw.len(), self.values.len(), "gradients of values");
        if let Some(dx) = dx {
            check(self, dx, g, None);
            let features = [dx.features()];
            dx.split(&features).into_par_iter().enumerate().for_each(|(t, dx)| {
                // SAFETY: as above.
                unsafe { isa.dividing::<T>(g.width(t)).run(Scatter { op: self, g: g.tile(t), width: g.width(t), dx }) }
            });
        }
        dw.fill(T::ZERO);
        let (mut jobs, mut rest) = (Vec::new(), dw);
        for (block, w) in self.starts.windows(2).enumerate() {
            let (part, after) = rest.split_at_mut((w[1] - w[0]) * self.high * self.wide);
            rest = after;
            jobs.push((block, part));
        }
        jobs.into_par_iter().with_min_len(8).for_each(|(block, dw)| {
            for t in 0..x.tiles() {
                let (x, g, width) = (x.tile(t), g.tile(t), x.width(t));
                // SAFETY: as above; `dw` has the entries of this block row.
                unsafe { isa.dividing::<T>(width).run(Dots { op: self, block, x, g, width, dw: &mut *dw }) }
            }
        });
    }
}

impl<T: Real> Operator<T> for Bsr<T> {
    fn format(&self) -> &'static str {
        "bsr"
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn nnz(&self) -> usize {
        self.values.len()
    }

    fn bytes(&self) -> usize {
        8 * self.starts.len() + 4 * self.columns.len() + self.values.len() * size_of::<T>()
    }

    fn set_values(&mut self, values: &[T]) {
        self.values.copy_from_slice(values);
    }

    fn forward(&self, x: &Tiled<T>, bias: Option<&[T]>, y: &mut Tiled<T>) {
        T::bsr(self, Isa::best(), x, bias, y);
    }

    fn backward(&self, x: &Tiled<T>, g: &Tiled<T>, dx: Option<&mut Tiled<T>>, dw: &mut [T]) {
        T::bsr_backward(self, Isa::best(), x, g, dx, dw);
    }
}

/// Calls `$self.strip::<V, N>(at)` for strips of N registers that cover `$width`, a multiple of the register.
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

struct Forward<'a, T> {
    op: &'a Bsr<T>,
    block: usize,
    x: &'a [T],
    width: usize,
    bias: Option<&'a [T]>,
    y: &'a mut [T],
}

impl<T: Real> Forward<'_, T> {
    #[inline(always)]
    unsafe fn strip<V: Vector<T = T>, const N: usize>(&mut self, at: usize) {
        let mut i = 0;
        while i < self.op.high {
            // SAFETY: passed on; these rows are in the block row.
            unsafe {
                match self.op.high - i {
                    1 => self.rows::<V, N, 1>(at, i),
                    2 | 3 => self.rows::<V, N, 2>(at, i),
                    _ => self.rows::<V, N, 4>(at, i),
                }
            }
            i += match self.op.high - i {
                1 => 1,
                2 | 3 => 2,
                _ => 4,
            };
        }
    }

    /// R rows from row `i` of the block row at once.
    #[inline(always)]
    unsafe fn rows<V: Vector<T = T>, const N: usize, const R: usize>(&mut self, at: usize, i: usize) {
        let (op, width) = (self.op, self.width);
        let (first, long) = op.row(self.block, i);
        // SAFETY: blocks lie within the columns of `x` and the values, by `new`.
        unsafe {
            let mut sum = [[V::splat(T::ZERO); N]; R];
            for r in 0..R {
                sum[r] = [V::splat(self.bias.map_or(T::ZERO, |b| b[self.block * op.high + i + r])); N];
            }
            let mut value = op.values.as_ptr().add(first);
            for &column in &op.columns[op.starts[self.block]..op.starts[self.block + 1]] {
                let mut x = self.x.as_ptr().add(column as usize * width + at);
                for _ in 0..op.wide {
                    let mut line = [V::splat(T::ZERO); N];
                    for j in 0..N {
                        line[j] = V::load(x.add(j * V::LANES));
                    }
                    for r in 0..R {
                        let v = V::splat(*value.add(r * long));
                        for j in 0..N {
                            sum[r][j] = v.mul_add(line[j], sum[r][j]);
                        }
                    }
                    (value, x) = (value.add(1), x.wrapping_add(width));
                }
            }
            for r in 0..R {
                for j in 0..N {
                    sum[r][j].store(self.y.as_mut_ptr().add((i + r) * width + at + j * V::LANES));
                }
            }
        }
    }
}

impl<T: Real> Kernel<T> for Forward<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(mut self) {
        strips!(self, self.width);
    }
}

/// `dx = g W` on one tile: an input's gradient is loaded once for all rows of a block.
struct Scatter<'a, T> {
    op: &'a Bsr<T>,
    g: &'a [T],
    width: usize,
    dx: &'a mut [T],
}

impl<T: Real> Scatter<'_, T> {
    #[inline(always)]
    unsafe fn strip<V: Vector<T = T>, const N: usize>(&mut self, at: usize) {
        let (op, width) = (self.op, self.width);
        for b in 0..op.starts.len() - 1 {
            let (first, long) = op.row(b, 0);
            for (k, &column) in op.columns[op.starts[b]..op.starts[b + 1]].iter().enumerate() {
                for c in 0..op.wide {
                    // SAFETY: as in `Forward`.
                    unsafe {
                        let to = self.dx.as_mut_ptr().add((column as usize + c) * width + at);
                        let mut sum = [V::splat(T::ZERO); N];
                        for j in 0..N {
                            sum[j] = V::load(to.add(j * V::LANES));
                        }
                        for i in 0..op.high {
                            let v = V::splat(*op.values.as_ptr().add(first + i * long + k * op.wide + c));
                            let g = self.g.as_ptr().add((b * op.high + i) * width + at);
                            for j in 0..N {
                                sum[j] = v.mul_add(V::load(g.add(j * V::LANES)), sum[j]);
                            }
                        }
                        for j in 0..N {
                            sum[j].store(to.add(j * V::LANES));
                        }
                    }
                }
            }
        }
    }
}

impl<T: Real> Kernel<T> for Scatter<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(mut self) {
        self.dx.fill(T::ZERO);
        strips!(self, self.width);
    }
}

/// `dw += <g, x>` in the blocks of one block row, on one tile.
struct Dots<'a, T> {
    op: &'a Bsr<T>,
    block: usize,
    x: &'a [T],
    g: &'a [T],
    width: usize,
    dw: &'a mut [T],
}

impl<T: Real> Dots<'_, T> {
    #[inline(always)]
    unsafe fn strip<V: Vector<T = T>, const N: usize>(&mut self, at: usize) {
        let (op, width) = (self.op, self.width);
        let long = op.row(self.block, 0).1;
        for i in 0..op.high {
            // SAFETY: as in `Forward`; `dw` begins with the first entry of the block row.
            unsafe {
                let g = self.g.as_ptr().add((self.block * op.high + i) * width + at);
                let mut line = [V::splat(T::ZERO); N];
                for j in 0..N {
                    line[j] = V::load(g.add(j * V::LANES));
                }
                let mut to = self.dw.as_mut_ptr().add(i * long);
                for &column in &op.columns[op.starts[self.block]..op.starts[self.block + 1]] {
                    for c in 0..op.wide {
                        let x = self.x.as_ptr().add((column as usize + c) * width + at);
                        let mut sum = line[0].mul(V::load(x));
                        for j in 1..N {
                            sum = line[j].mul_add(V::load(x.add(j * V::LANES)), sum);
                        }
                        *to += sum.sum();
                        to = to.add(1);
                    }
                }
            }
        }
    }
}

impl<T: Real> Kernel<T> for Dots<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(mut self) {
        strips!(self, self.width);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Layer, check_operator, random};

    /// A matrix with an instruction set.
    struct On(Isa, Bsr<f64>);

    impl Operator<f64> for On {
        fn format(&self) -> &'static str {
            self.1.format()
        }
        fn rows(&self) -> usize {
            self.1.rows
        }
        fn cols(&self) -> usize {
            self.1.cols
        }
        fn nnz(&self) -> usize {
            self.1.nnz()
        }
        fn bytes(&self) -> usize {
            self.1.bytes()
        }
        fn set_values(&mut self, values: &[f64]) {
            self.1.set_values(values);
        }
        fn forward(&self, x: &Tiled<f64>, bias: Option<&[f64]>, y: &mut Tiled<f64>) {
            self.1.forward_on(self.0, x, bias, y);
        }
        fn backward(&self, x: &Tiled<f64>, g: &Tiled<f64>, dx: Option<&mut Tiled<f64>>, dw: &mut [f64]) {
            self.1.backward_on(self.0, x, g, dx, dw);
        }
    }

    proptest! {
        #[test]
        fn equals_plain_loops(
            down in 0usize..8, across in 0usize..8, high in 1usize..9, wide in 1usize..6, density in 0.0..1.0f64,
            seed in 0u64..99, batch in prop::sample::select(vec![0usize, 1, 5, 8, 16, 64, 70, 130]),
        ) {
            let (rows, cols) = (down * high, across * wide);
            let blocks = Layer::random(down, across, density, seed);
            let active = blocks.dense(&vec![1.0f32; blocks.nnz()]);
            let layer = Layer::new(rows, cols, |r, c| active[r / high * across + c / wide] > 0.0);
            let values: Vec<f64> = random(seed, layer.nnz());
            let op = Bsr::new(layer.csr(), high, wide, &values).expect("whole blocks");
            for &isa in Isa::available() {
                check_operator(&layer, &values, batch, seed, &On(isa, op.clone()));
            }
        }
    }

    #[test]
    fn partial_blocks_are_refused() {
        let layer = Layer::new(4, 4, |r, c| r / 2 == c / 2 || (r, c) == (0, 3));
        assert!(Bsr::new(layer.csr(), 2, 2, &vec![1.0f32; layer.nnz()]).is_none());
        let layer = Layer::new(4, 4, |r, c| r / 2 == c / 2);
        assert!(Bsr::new(layer.csr(), 2, 2, &vec![1.0f32; layer.nnz()]).is_some());
        assert!(Bsr::new(layer.csr(), 3, 2, &vec![1.0f32; layer.nnz()]).is_none());
    }
}
