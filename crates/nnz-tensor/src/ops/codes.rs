//! Sparse activations: codes of a dictionary, routed rows. Costs scale with the entries, memory never with rows times columns.

use super::{add, add_bias, column_sums, concat, index_select, index_sum, mul, pick, reshape, sum_over};
use crate::{Codes, Gradient, Real, SparseVar, Tensor, Var};
use nnz_kernels::{self as kernels, Csr, Start};
use rayon::prelude::*;
use std::cmp::Ordering;
use std::sync::Arc;

/// Quantity that the top k are ranked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// z.
    Value,
    /// max(z, 0): entries not above zero are left out, so that a row may have fewer than k.
    Relu,
    /// |z|; the values keep their sign.
    Magnitude,
}

/// Rows of x that are processed together.
const ROWS: usize = 512;
/// Numbers of z that exist at a time.
const BLOCK: usize = 1 << 18;
/// Fewest columns of a block, so that a product is worth its packing.
const NARROWEST: usize = 256;

/// Best entries of one row so far.
struct Best<T> {
    k: usize,
    by: Rank,
    held: Vec<(T, u32)>,
    /// The k-th best; a later column must be better.
    bar: Option<T>,
}

impl<T: Real> Best<T> {
    fn new(k: usize, by: Rank) -> Self {
        let bar = (by == Rank::Relu).then_some(T::ZERO);
        Self { k, by, held: Vec::with_capacity(2 * k), bar }
    }

    /// The value compared; NaN ranks above all, so that it is not lost.
    fn key(by: Rank, z: T) -> T {
        let key = if by == Rank::Magnitude { z.abs() } else { z };
        if key.is_nan() { T::infinity() } else { key }
    }

    fn shrink(&mut self) {
        if self.held.len() <= self.k {
            return;
        }
        let by = self.by;
        let order = |a: &(T, u32), b: &(T, u32)| {
            let keys = Self::key(by, b.0).partial_cmp(&Self::key(by, a.0)).unwrap_or(Ordering::Equal);
            keys.then(a.1.cmp(&b.1))
        };
        let (_, last, _) = self.held.select_nth_unstable_by(self.k - 1, order);
        self.bar = Some(Self::key(by, last.0));
        self.held.truncate(self.k);
    }

    /// Offers the next columns, from `first` on.
    fn offer(&mut self, first: usize, z: &[T]) {
        for (j, &z) in z.iter().enumerate() {
            let key = Self::key(self.by, z);
            if self.bar.is_none_or(|bar| key > bar) {
                self.held.push((z, (first + j) as u32));
                if self.held.len() == 2 * self.k {
                    self.shrink();
                }
            }
        }
    }

    /// Returns the best entries, by column.
    fn finish(mut self) -> Vec<(T, u32)> {
        self.shrink();
        self.held.sort_unstable_by_key(|e| e.1);
        self.held
    }
}

/// Selects the `k` best entries of each row of x Wᵀ + b, block after block of W.
fn select<T: Real>(x: &Tensor<T>, w: &Tensor<T>, b: Option<&Tensor<T>>, k: usize, by: Rank) -> (Codes, Vec<T>) {
    let ((rows, inputs), cols) = (x.rows_cols(), w.shape()[0]);
    let (mut starts, mut columns, mut values) = (vec![0u32], Vec::new(), Vec::new());
    for x in x.data().chunks(ROWS * inputs.max(1)) {
        let rows = x.len() / inputs.max(1);
        let block = (BLOCK / rows.max(1)).max(NARROWEST).min(cols.max(1));
        let mut best: Vec<Best<T>> = (0..rows).map(|_| Best::new(k, by)).collect();
        let mut room = Tensor::zeros(&[rows * block]);
        for first in (0..cols).step_by(block).filter(|_| k > 0) {
            let n = block.min(cols - first);
            let (w, z) = (&w.data()[first * inputs..(first + n) * inputs], &mut room.data_mut()[..rows * n]);
            let start = b.map_or(Start::Zero, |b| Start::Bias(&b.data()[first..first + n]));
            kernels::gemm(rows, n, inputs, x, (inputs, 1), w, (1, inputs), start, z, n);
            best.par_iter_mut().zip(z.par_chunks_exact(n)).for_each(|(best, z)| best.offer(first, z));
        }
        for row in best.into_par_iter().map(Best::finish).collect::<Vec<_>>() {
            columns.extend(row.iter().map(|e| e.1));
            values.extend(row.iter().map(|e| e.0));
            starts.push(u32::try_from(columns.len()).expect("fewer than 2^32 entries"));
        }
    }
    starts.resize(rows + 1, columns.len() as u32);
    (Codes::trusted(cols, starts, columns), values)
}

/// The `k` largest entries of each row of x Wᵀ + b: x `[.., in]`, W `[cols, in]`, b `[cols]`, result `[rows, cols]` with at most
/// `k` entries per row (all columns if there are fewer), the first ones among equals; `by` is the quantity compared. NaN
/// counts as the largest, so that a diverging training is noticed.
///
/// W is multiplied block by block and each row keeps its best, so that memory is O(rows k) plus a block, never rows times
/// cols; time is that of the dense product. Backward costs O(in) per entry and gives W and b a gradient of the chosen rows
/// only (Gao et al. 2024, arXiv:2406.04093, appendix D, for autoencoders).
///
/// # Panics
/// When extents differ, or rows are empty.
pub fn linear_topk<T: Real>(x: &Var<T>, w: &Var<T>, b: Option<&Var<T>>, k: usize, by: Rank) -> SparseVar<T> {
    let ((rows, inputs), (cols, of_w)) = (x.value().rows_cols(), w.value().rows_cols());
    assert!(
        w.shape().len() == 2 && inputs == of_w && (inputs > 0 || rows == 0),
        "codes of rows of {inputs} by a matrix {:?}",
        w.shape()
    );
    assert!(b.is_none_or(|b| b.shape() == [cols]), "a bias of {cols} entries");
    let (codes, values) = select(x.value(), w.value(), b.map(Var::value), k.min(cols), by);
    let mut parents = vec![x, w];
    parents.extend(b);
    let (of_x, of_w, of_b) = (x.clone(), w.clone(), b.is_some_and(Var::tracked));
    let (chosen, again) = (codes.clone(), codes.clone());
    let composite = move |p: &[Var<T>]| {
        let (lines, columns) = (again.lines(), wide(again.columns()));
        let x = index_select(&reshape(&p[0], &[rows, inputs]), 0, &lines);
        let z = sum_over(&mul(&x, &index_select(&p[1], 0, &columns)), &[1]);
        p.get(2).map_or_else(|| z.clone(), |b| add(&z, &index_select(b, 0, &columns)))
    };
    let values = Var::by_rows("linear_topk", Tensor::new(&[values.len()], values), &parents, composite, || {
        Box::new(move |g| {
            let mut room = Vec::new();
            let csr = chosen.csr(&mut room);
            let (x, w) = (of_x.value(), of_w.value());
            let dx = of_x.tracked().then(|| {
                Gradient::Dense(Tensor::written(x.shape(), |dx| {
                    kernels::bags(csr, Some(g.data()), w.data(), inputs, None, dx)
                }))
            });
            let dw = of_w.tracked().then(|| used_rows(csr, Some(&g), x.data(), &[inputs]));
            vec![dx, dw, of_b.then(|| used_rows(csr, Some(&g), &vec![T::ONE; csr.rows], &[]))]
        })
    });
    SparseVar::new(codes, values)
}

/// Sums over the entries of a column their value times their row of `g`, `[rows, ..]`, for the columns that occur.
fn used_rows<T: Real>(csr: Csr, values: Option<&Tensor<T>>, g: &[T], rest: &[usize]) -> Gradient<T> {
    let (rows, sums) = kernels::bags_gradient(csr, values.map(Tensor::data), rest.iter().product(), g);
    let values = Tensor::new(&[&[rows.len()], rest].concat(), sums);
    Gradient::Rows { rows, values }
}

fn wide(columns: &[u32]) -> Vec<usize> {
    columns.iter().map(|&c| c as usize).collect()
}

/// Σ_e z_e D[column(e)] + b over the entries of each row: codes `[rows, cols]`, D `[cols, width]`, b `[width]`, result
/// `[rows, width]`. O(entries · width); backward gives D a gradient of the used rows only.
///
/// # Panics
/// When extents differ.
pub fn decode<T: Real>(z: &SparseVar<T>, d: &Var<T>, b: Option<&Var<T>>) -> Var<T> {
    let (codes, (cols, width)) = (z.codes(), d.value().rows_cols());
    assert!(d.shape().len() == 2 && cols == codes.cols(), "codes over {} columns of {:?}", codes.cols(), d.shape());
    assert!(b.is_none_or(|b| b.shape() == [width]), "a bias of {width} entries");
    let (values, rows) = (z.values(), codes.rows());
    let value = Tensor::written(&[rows, width], |y| {
        let mut room = Vec::new();
        let (csr, bias) = (codes.csr(&mut room), b.map(|b| b.value().data()));
        kernels::bags(csr, Some(values.value().data()), d.value().data(), width, bias, y);
    });
    let mut parents = vec![values, d];
    parents.extend(b);
    let (of_z, of_d, of_b) = (values.clone(), d.clone(), b.is_some_and(Var::tracked));
    let (used, again) = (codes.clone(), codes.clone());
    let composite = move |p: &[Var<T>]| {
        let atoms = index_select(&p[1], 0, &wide(again.columns()));
        let scaled = mul(&atoms, &reshape(&p[0], &[again.nnz(), 1]));
        let y = index_sum(&scaled, 0, &again.lines(), rows);
        p.get(2).map_or_else(|| y.clone(), |b| add_bias(&y, b))
    };
    Var::by_rows("decode", value, &parents, composite, || {
        Box::new(move |g| {
            let mut room = Vec::new();
            let csr = used.csr(&mut room);
            let dz = of_z.tracked().then(|| Gradient::Dense(products(&used, &g, of_d.value())));
            let dd = of_d.tracked().then(|| used_rows(csr, Some(of_z.value()), g.data(), &[width]));
            vec![dz, dd, of_b.then(|| Gradient::Dense(column_sums(&g)))]
        })
    })
}

/// Computes the inner product of a row of `a` `[rows, width]` and a row of `d` `[cols, width]` at every entry.
fn products<T: Real>(codes: &Codes, a: &Tensor<T>, d: &Tensor<T>) -> Tensor<T> {
    let width = d.rows_cols().1;
    let lines = codes.lines();
    Tensor::written(&[codes.nnz()], |to| {
        to.par_iter_mut().zip(&lines).zip(codes.columns()).with_min_len(64).for_each(|((to, &r), &c)| {
            *to = dot(&a.data()[r * width..][..width], &d.data()[c as usize * width..][..width]);
        });
    })
}

/// Inner product in eight partial sums, which fill a register.
fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let mut sums = [T::ZERO; 8];
    let (a_whole, a_rest) = a.as_chunks::<8>();
    let (b_whole, b_rest) = b.as_chunks::<8>();
    for (a, b) in a_whole.iter().zip(b_whole) {
        (0..8).for_each(|i| sums[i] += a[i] * b[i]);
    }
    let rest = a_rest.iter().zip(b_rest).map(|(&a, &b)| a * b).sum::<T>();
    sums.into_iter().fold(rest, |s, x| s + x)
}

/// Rows `index` of x, repeats allowed: `[n, ..]` to `[index, ..]`. As [`index_select`] along axis 0, but x gets a gradient of
/// the used rows only: for a table of which a step reads little.
///
/// # Panics
/// When there is no such row.
pub fn rows_of<T: Real>(x: &Var<T>, index: &[u32]) -> Var<T> {
    let (rows, rest) = x.shape().split_first().expect("rows need an axis");
    let (rows, rest) = (*rows, rest.to_vec());
    let width: usize = rest.iter().product();
    let value = Tensor::written(&[&[index.len()], &rest[..]].concat(), |to| {
        for (to, &i) in to.chunks_exact_mut(width.max(1)).zip(index) {
            assert!((i as usize) < rows, "row {i} of {rows}");
            to.copy_from_slice(&x.value().data()[i as usize * width..][..width]);
        }
    });
    let (index, again): (Arc<[u32]>, Vec<usize>) = (index.into(), wide(index));
    let composite = move |p: &[Var<T>]| index_select(&p[0], 0, &again);
    Var::by_rows("rows_of", value, &[x], composite, || {
        Box::new(move |g| {
            let starts: Vec<usize> = (0..=index.len()).collect();
            let csr = Csr { rows: index.len(), cols: rows, starts: &starts, columns: &index };
            vec![Some(used_rows(csr, None, g.data(), &rest))]
        })
    })
}

/// Routes rows along codes and sums the results: y_r = Σ_e z_e f_{column(e)}(x_r) over the entries of row r. x is
/// `[rows, ..]`; `each` gets a column and the rows of x that have it, `[group, ..]` in ascending order, and gives `[group, out..]`;
/// the result is `[rows, out..]`. Columns are experts, voxels, neighbours: `each` gets those that occur, once each,
/// ascending. Memory is O(entries). If no row has an entry, column 0 is called with an empty group, for the extents.
///
/// # Errors
/// Those of `each`.
///
/// # Panics
/// When x has other rows than the codes, there is no column, or `each` changes the number of rows.
pub fn routed<T: Real, E>(
    x: &Var<T>,
    z: &SparseVar<T>,
    mut each: impl FnMut(usize, &Var<T>) -> Result<Var<T>, E>,
) -> Result<Var<T>, E> {
    let codes = z.codes();
    assert!(codes.cols() > 0 && x.shape().first() == Some(&codes.rows()), "{:?} has no row for each code", x.shape());
    let (lines, (order, starts)) = (codes.lines(), codes.by_columns());
    let mut parts = Vec::new();
    for c in 0..codes.cols() {
        let entries = &order[starts[c]..starts[c + 1]];
        if !entries.is_empty() || (codes.nnz() == 0 && c == 0) {
            let rows: Vec<u32> = entries.iter().map(|&e| lines[e] as u32).collect();
            let part = each(c, &rows_of(x, &rows))?;
            assert_eq!(part.shape().first(), Some(&rows.len()), "column {c} gave other rows than it got");
            parts.push(part);
        }
    }
    let all = concat(&parts.iter().collect::<Vec<_>>(), 0);
    let mut ones = vec![1; all.shape().len()];
    ones[0] = order.len();
    let back: Vec<usize> = order.iter().map(|&e| lines[e]).collect();
    let scales = pick(z.values(), Arc::new(order), &ones);
    Ok(index_sum(&mul(&all, &scales), 0, &back, codes.rows()))
}
