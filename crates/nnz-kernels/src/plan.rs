//! A sparse linear layer compiled for speed.

use rayon::prelude::*;

use crate::adjoint::Adjoint;
use crate::blocks::{Part, Size, cut, each};
use crate::compile::{Blocks, blocks};
use crate::packing::Packing;
use crate::pages::zeros;
use crate::shape::gatherable;
use crate::simd::Isa;
use crate::{Csc, Csr, Real, Tiled};

/// Sizes of cache blocks. Results depend on them in the last bits, so reproducible runs keep their tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Rows of a forward block: their outputs stay in the second-level cache.
    pub forward_rows: usize,
    /// Columns of a forward block: their inputs stay in the first-level cache.
    pub forward_cols: usize,
    /// Rows of a backward block: their output gradients stay in the first-level cache.
    pub backward_rows: usize,
    /// Columns of a backward block: their inputs stay in the second-level cache.
    pub backward_cols: usize,
}

impl Tuning {
    /// The measured choice for a shape and number of entries, for f32 tiles of 64 samples, 48 KB and 2 MB of cache.
    ///
    /// Inner blocks give a line about 9 entries forward and 12 backward to amortize its loads and stores, but have
    /// at least the roughly 128 that fit the first-level cache anyway. Lines are cut in four parts or more, so several
    /// threads find work, of at most 1024 lines, which fit the second-level cache.
    pub fn of(rows: usize, cols: usize, nnz: usize) -> Self {
        let density = nnz.max(1) as f64 / (rows as f64 * cols as f64).max(1.0);
        let inner = |n: usize, entries: f64| {
            let least = (entries / density).clamp(128.0, 65536.0);
            // Blocks of equal size; rather a little too long than too short.
            let blocks = (n as f64 / least + 0.4).floor().max(1.0) as usize;
            n.div_ceil(blocks).clamp(1, 65536)
        };
        let lines = |n: usize| n.div_ceil(4).clamp(1, 1024);
        Self {
            forward_rows: lines(rows),
            forward_cols: inner(cols, 9.0),
            backward_rows: inner(rows, 12.0),
            backward_cols: lines(cols),
        }
    }
}

/// The structure of a sparse layer in cache-sized blocks, once for the forward and once for the backward pass.
///
/// Values, their gradients and optimizer state live in *plan order*, the order in which the backward pass streams.
/// Everything element-wise can run on plan order directly. The forward pass reads a copy in its own order, made by
/// [`Plan::pack`] whenever values change.
///
/// A plan is the whole structure, in 7 bytes per entry (8 above 2²⁴ entries) and about half a byte for the lines of blocks.
/// [`Plan::by_rows`] converts it back to compressed rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    rows: usize,
    cols: usize,
    tuning: Tuning,
    packing: Packing,
    forward: Vec<Part>,
    backward: Vec<Part>,
}

impl Plan {
    /// Compiles a structure and its transpose. O(nnz).
    ///
    /// # Panics
    /// When a structure is not valid or has 2³¹ entries or more.
    pub fn new(csr: Csr, csc: Csc) -> Self {
        Self::tuned(csr, csc, Tuning::of(csr.rows, csr.cols, csr.nnz()))
    }

    /// As [`Plan::new`] with given block sizes.
    ///
    /// # Panics
    /// When a structure is not valid, has 2³¹ entries or more, or a block size is not in 1..=65536.
    pub fn tuned(csr: Csr, csc: Csc, tuning: Tuning) -> Self {
        Self::compile(csr, csc, tuning).0
    }

    /// As [`Plan::tuned`], with the position in plan order of each entry in row-by-row order.
    ///
    /// # Panics
    /// As [`Plan::tuned`].
    pub fn compile(csr: Csr, csc: Csc, tuning: Tuning) -> (Self, Vec<u32>) {
        gatherable("entries", csr.nnz());
        csr.check();
        csc.check(&csr);
        let (rows, cols) = (csr.rows, csr.cols);
        let size = Size { lines: tuning.backward_cols, inner: tuning.backward_rows };
        let (backward, by_column) = cut(csc.starts, csc.rows, rows, size);
        let size = Size { lines: tuning.forward_rows, inner: tuning.forward_cols };
        let (forward, mut packing) = cut(csr.starts, csr.columns, cols, size);
        let mut place = vec![0; by_column.len()];
        by_column.iter().enumerate().for_each(|(p, &k)| place[csc.entries[k as usize] as usize] = p as u32);
        packing.iter_mut().for_each(|e| *e = place[*e as usize]);
        (Self { rows, cols, tuning, packing: Packing::new(&packing), forward, backward }, place)
    }

    /// The same plan from compressed rows alone, faster than with a transpose that must be made first. Also returns the
    /// entry, in row-by-row order, that lies at each position of plan order. O(nnz + rows + columns), on all threads.
    ///
    /// # Panics
    /// When the structure is not valid or has 2³¹ entries or more, or a block size is not in 1..=65536.
    pub fn of_rows(csr: Csr, tuning: Tuning) -> (Self, Vec<u32>) {
        Self::by_blocks(csr, tuning, |entry| entry as u32)
    }

    /// As [`Plan::of_rows`] with a number of each entry, in row-by-row order: returns these numbers in plan order.
    ///
    /// # Panics
    /// As [`Plan::of_rows`], and when there is not a number for each entry.
    pub fn of_rows_numbered(csr: Csr, tuning: Tuning, numbers: &[u32]) -> (Self, Vec<u32>) {
        assert_eq!(numbers.len(), csr.nnz(), "numbers of entries");
        Self::by_blocks(csr, tuning, |entry| numbers[entry])
    }

    fn by_blocks(csr: Csr, tuning: Tuning, number: impl Fn(usize) -> u32 + Sync) -> (Self, Vec<u32>) {
        gatherable("entries", csr.nnz());
        csr.check();
        let Blocks { forward, backward, packing, numbers } = blocks(csr, tuning, number);
        (Self { rows: csr.rows, cols: csr.cols, tuning, packing, forward, backward }, numbers)
    }

    /// Compiles another structure of the same shape with the same block sizes, as after a change of topology. O(nnz).
    ///
    /// # Panics
    /// When the shape differs or a structure is not valid.
    pub fn update_topology(&mut self, csr: Csr, csc: Csc) {
        assert_eq!((csr.rows, csr.cols), (self.rows, self.cols), "shape of the new topology");
        *self = Self::tuned(csr, csc, self.tuning);
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
        self.packing.len()
    }

    /// Block sizes.
    pub fn tuning(&self) -> Tuning {
        self.tuning
    }

    /// Returns the structure in compressed rows, and the index of each of its entries in plan order. O(nnz), on all threads.
    pub fn by_rows(&self) -> Rows {
        // Parts of the forward pass are ranges of rows, and in each the blocks ascend the columns.
        let mut starts = vec![0usize; self.rows + 1];
        let mut rest = &mut starts[1..];
        let mut jobs = Vec::with_capacity(self.forward.len());
        for part in &self.forward {
            let own;
            (own, rest) = rest.split_at_mut(part.lines.len());
            jobs.push((part, own));
        }
        let degrees = |(part, own): (&Part, &mut [usize])| part.runs(|line, run, _| own[line] += run.len());
        jobs.into_par_iter().for_each(degrees);
        (0..self.rows).for_each(|r| starts[r + 1] += starts[r]);
        let (mut columns, mut order) = (zeros(self.nnz()), zeros(self.nnz()));
        let mut jobs = Vec::with_capacity(self.forward.len());
        let mut rest = (&mut columns[..], &mut order[..]);
        for part in &self.forward {
            let (columns, more) = rest.0.split_at_mut(part.entries.len());
            let (order, more_order) = rest.1.split_at_mut(part.entries.len());
            rest = (more, more_order);
            jobs.push((part, columns, order));
        }
        let fill = |(part, columns, order): (&Part, &mut [u32], &mut [u32])| {
            let first = part.entries.start;
            let mut next: Vec<usize> = starts[part.lines.clone()].iter().map(|s| s - first).collect();
            part.runs(|line, run, block| {
                let to = next[line]..next[line] + run.len();
                next[line] = to.end;
                self.packing.read(first + run.start, &mut order[to.clone()]);
                columns[to].iter_mut().zip(&part.index[run]).for_each(|(c, &i)| *c = block + u32::from(i));
            });
        };
        jobs.into_par_iter().for_each(fill);
        Rows { starts, columns, order }
    }

    /// Bytes of the structure.
    pub fn bytes(&self) -> usize {
        self.packing.bytes() + self.forward.iter().chain(&self.backward).map(Part::bytes).sum::<usize>()
    }

    /// Copies values in plan order to `packed`, the order of the forward pass.
    ///
    /// # Panics
    /// When a slice does not have one number per entry.
    pub fn pack<T: Real>(&self, values: &[T], packed: &mut [T]) {
        T::pack(self, Isa::best(), values, packed);
    }

    pub(crate) fn pack_on<T: Real>(&self, isa: Isa, values: &[T], packed: &mut [T]) {
        self.packing.gather(isa, values, packed);
    }

    /// `y = x Wᵀ + bias` with values from [`Plan::pack`].
    ///
    /// # Panics
    /// When shapes differ.
    pub fn forward<T: Real>(&self, packed: &[T], x: &Tiled<T>, bias: Option<&[T]>, y: &mut Tiled<T>) {
        self.forward_on(Isa::best(), packed, x, bias, false, y);
    }

    /// `y = max(x Wᵀ + bias, 0)`, fused.
    ///
    /// # Panics
    /// When shapes differ.
    pub fn forward_relu<T: Real>(&self, packed: &[T], x: &Tiled<T>, bias: Option<&[T]>, y: &mut Tiled<T>) {
        self.forward_on(Isa::best(), packed, x, bias, true, y);
    }

    /// `dx = g W` if requested, and `dw[p] = sum_b g[b, row(p)] x[b, col(p)]`; `values` and `dw` are in plan order.
    ///
    /// The padding of `g` must be zero, see [`Tiled`].
    ///
    /// # Panics
    /// When shapes differ.
    pub fn backward<T: Real>(&self, values: &[T], x: &Tiled<T>, g: &Tiled<T>, dx: Option<&mut Tiled<T>>, dw: &mut [T]) {
        T::spmm_backward(self, Isa::best(), values, x, g, dx, false, dw);
    }

    /// As [`Plan::backward`] if `x` is the output of a ReLU: `dx` is the gradient of its input.
    ///
    /// # Panics
    /// When shapes differ.
    pub fn backward_relu<T: Real>(
        &self,
        values: &[T],
        x: &Tiled<T>,
        g: &Tiled<T>,
        dx: Option<&mut Tiled<T>>,
        dw: &mut [T],
    ) {
        T::spmm_backward(self, Isa::best(), values, x, g, dx, true, dw);
    }

    fn forward_on<T: Real>(
        &self,
        isa: Isa,
        packed: &[T],
        x: &Tiled<T>,
        bias: Option<&[T]>,
        relu: bool,
        y: &mut Tiled<T>,
    ) {
        assert_eq!(packed.len(), self.nnz(), "packed values");
        assert_eq!((x.features(), y.features()), (self.cols, self.rows), "features of x and y");
        T::spmm(isa, &self.forward, packed, x, bias, relu, y);
    }

    #[allow(clippy::too_many_arguments)]
    pub(crate) fn backward_on<T: Real>(
        &self,
        isa: Isa,
        values: &[T],
        x: &Tiled<T>,
        g: &Tiled<T>,
        dx: Option<&mut Tiled<T>>,
        relu: bool,
        dw: &mut [T],
    ) {
        assert_eq!((values.len(), dw.len()), (self.nnz(), self.nnz()), "values and their gradients");
        assert_eq!((x.features(), g.features()), (self.cols, self.rows), "features of x and g");
        assert_eq!(x.batch(), g.batch(), "batch of x and g");
        let lines = self.backward.iter().map(|p| p.lines.len()).collect::<Vec<_>>();
        let mut jobs = Vec::with_capacity(lines.len());
        let mut rest = &mut *dw;
        for part in &self.backward {
            let (part_dw, after) = rest.split_at_mut(part.entries.len());
            rest = after;
            jobs.push((part, part_dw, Vec::<&mut [T]>::new()));
        }
        if let Some(dx) = dx {
            assert_eq!((dx.features(), dx.batch()), (self.cols, x.batch()), "shape of dx");
            for (i, dx) in dx.split(&lines).into_iter().enumerate() {
                jobs[i % lines.len()].2.push(dx);
            }
        }
        each(self.nnz() * x.batch(), jobs, |(part, dw, dx)| {
            if x.tiles() == 0 {
                dw.fill(T::ZERO);
            }
            let mut dx = dx.into_iter();
            for t in 0..x.tiles() {
                let (width, lines) = (x.width(t), &part.lines);
                let kernel = Adjoint {
                    part,
                    values: &values[part.entries.clone()],
                    x: &x.tile(t)[lines.start * width..lines.end * width],
                    g: g.tile(t),
                    width,
                    dx: dx.next(),
                    dw: &mut *dw,
                    first: t == 0,
                    relu,
                };
                // SAFETY: the part was cut for `rows` outputs, which `g` has; `x`, `dx` and `dw` are its lines and
                // entries.
                unsafe { isa.dividing::<T>(width).run(kernel) }
            }
        });
    }
}

/// A structure in compressed rows, as returned by [`Plan::by_rows`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Start of each row, `rows + 1` numbers.
    pub starts: Vec<usize>,
    /// Column of each entry, ascending in each row.
    pub columns: Vec<u32>,
    /// Position of each entry in plan order.
    pub order: Vec<u32>,
}

impl Rows {
    /// Reorders one number per entry from plan order into row-by-row order.
    ///
    /// # Panics
    /// When there is not one number per entry.
    pub fn gather<N: Copy>(&self, by_plan: &[N]) -> Vec<N> {
        assert_eq!(by_plan.len(), self.order.len(), "numbers of entries");
        self.order.iter().map(|&p| by_plan[p as usize]).collect()
    }

    /// Reorders one number per entry from row-by-row order into plan order.
    ///
    /// # Panics
    /// When a slice does not have one number per entry.
    pub fn scatter<N: Copy>(&self, by_row: &[N], by_plan: &mut [N]) {
        assert_eq!((by_row.len(), by_plan.len()), (self.order.len(), self.order.len()), "numbers of entries");
        self.order.iter().zip(by_row).for_each(|(&p, &v)| by_plan[p as usize] = v);
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
