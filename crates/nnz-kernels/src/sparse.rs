//! Sparse linear layers straight from compressed rows: simple, no set-up, any shape.

use std::ops::Range;

use rayon::prelude::*;

use crate::format::chunks;
use crate::lines::strips;
use crate::simd::{Isa, Kernel, Vector};
use crate::{Csc, Csr, Real, Tiled};

/// Fewest multiply-adds worth handing to another thread.
const PARALLEL: usize = 1 << 18;

/// `y = x Wᵀ + bias`: the forward pass.
///
/// `x` is `[batch, in]` and `y` `[batch, out]`, row-major; `values` has one number an entry of `csr`; `bias` is `[out]`.
///
/// # Panics
/// When a slice does not have its shape or `csr` is not valid.
pub fn spmm<T: Real>(csr: Csr, values: &[T], batch: usize, x: &[T], bias: Option<&[T]>, y: &mut [T]) {
    spmm_on(Isa::best(), csr, values, batch, x, bias, y);
}

/// `dx = g W`: the gradient of the input from the gradient `g` `[batch, out]` of the output; `dx` is `[batch, in]`.
///
/// # Panics
/// When a slice does not have its shape or a structure is not valid.
pub fn spmm_t<T: Real>(csr: Csr, csc: Csc, values: &[T], batch: usize, g: &[T], dx: &mut [T]) {
    spmm_t_on(Isa::best(), csr, csc, values, batch, g, dx);
}

/// `dw[e] = sum_b g[b, row(e)] x[b, col(e)]`: the gradient of the values.
///
/// # Panics
/// When a slice does not have its shape or `csr` is not valid.
pub fn sddmm<T: Real>(csr: Csr, batch: usize, x: &[T], g: &[T], dw: &mut [T]) {
    sddmm_on(Isa::best(), csr, batch, x, g, dw);
}

/// The whole backward pass: `dx = g W` (where asked for) and `dw` as in [`sddmm`], reading `g` once for both.
///
/// # Panics
/// When a slice does not have its shape or a structure is not valid.
#[allow(clippy::too_many_arguments)]
pub fn backward<T: Real>(
    csr: Csr,
    csc: Csc,
    values: &[T],
    batch: usize,
    x: &[T],
    g: &[T],
    dx: Option<&mut [T]>,
    dw: &mut [T],
) {
    backward_on(Isa::best(), csr, csc, values, batch, x, g, dx, dw);
}

fn spmm_on<T: Real>(isa: Isa, csr: Csr, values: &[T], batch: usize, x: &[T], bias: Option<&[T]>, y: &mut [T]) {
    csr.check();
    assert_eq!(values.len(), csr.nnz(), "values");
    assert_eq!(x.len(), batch * csr.cols, "x of [{batch}, {}]", csr.cols);
    assert_eq!(y.len(), batch * csr.rows, "y of [{batch}, {}]", csr.rows);
    if let Some(bias) = bias {
        assert_eq!(bias.len(), csr.rows, "bias");
    }
    gather(isa, csr.starts, csr.columns, values, batch, csr.cols, x, bias, y);
}

fn spmm_t_on<T: Real>(isa: Isa, csr: Csr, csc: Csc, values: &[T], batch: usize, g: &[T], dx: &mut [T]) {
    csr.check();
    csc.check(&csr);
    assert_eq!(values.len(), csr.nnz(), "values");
    assert_eq!(g.len(), batch * csr.rows, "g of [{batch}, {}]", csr.rows);
    assert_eq!(dx.len(), batch * csr.cols, "dx of [{batch}, {}]", csr.cols);
    let values: Vec<T> = csc.entries.iter().map(|&e| values[e as usize]).collect();
    gather(isa, csc.starts, csc.rows, &values, batch, csr.rows, g, None, dx);
}

/// `y[b, i] = bias[i] + sum of values[k] x[b, index[k]]` over the entries k of line i. Arguments are checked.
#[allow(clippy::too_many_arguments)]
fn gather<T: Real>(
    isa: Isa,
    starts: &[usize],
    index: &[u32],
    values: &[T],
    batch: usize,
    features: usize,
    x: &[T],
    bias: Option<&[T]>,
    y: &mut [T],
) {
    if batch == 1 {
        return each(index.len(), line_jobs(starts, y), |(lines, y)| {
            for (i, y) in lines.zip(y) {
                let line = starts[i]..starts[i + 1];
                *y = bias.map_or(T::ZERO, |b| b[i]) + dot(&index[line.clone()], &values[line], x);
            }
        });
    }
    let x = Tiled::from_rows(batch, features, x);
    let mut out = Tiled::zeros(batch, starts.len() - 1);
    let jobs = tile_jobs(starts, &mut out);
    each(index.len() * batch, jobs, |(t, lines, y)| {
        let kernel = Gather { starts, index, values, bias, x: x.tile(t), width: x.width(t), lines, y };
        // SAFETY: lines and indices were checked; `y` is the part of tile `t` for these lines; callers pass an
        // instruction set this machine has.
        unsafe { isa.run(kernel) }
    });
    out.to_rows(y);
}

fn sddmm_on<T: Real>(isa: Isa, csr: Csr, batch: usize, x: &[T], g: &[T], dw: &mut [T]) {
    csr.check();
    assert_eq!(x.len(), batch * csr.cols, "x of [{batch}, {}]", csr.cols);
    assert_eq!(g.len(), batch * csr.rows, "g of [{batch}, {}]", csr.rows);
    assert_eq!(dw.len(), csr.nnz(), "dw");
    if batch == 1 {
        return each(dw.len(), entry_jobs(csr.starts, dw), |(lines, dw)| {
            let first = csr.starts[lines.start];
            for r in lines {
                for k in csr.starts[r]..csr.starts[r + 1] {
                    dw[k - first] = g[r] * x[csr.columns[k] as usize];
                }
            }
        });
    }
    dw.fill(T::ZERO);
    let (x, g) = (Tiled::from_rows(batch, csr.cols, x), Tiled::from_rows(batch, csr.rows, g));
    each(csr.nnz() * batch, entry_jobs(csr.starts, dw), |(lines, dw)| {
        for t in 0..x.tiles() {
            let (starts, index, width) = (csr.starts, csr.columns, x.width(t));
            let kernel = Dots { starts, index, x: x.tile(t), g: g.tile(t), width, lines: lines.clone(), dw };
            // SAFETY: lines and indices were checked; `dw` is the part of these lines; callers pass an instruction
            // set this machine has.
            unsafe { isa.run(kernel) }
        }
    });
}

#[allow(clippy::too_many_arguments)]
fn backward_on<T: Real>(
    isa: Isa,
    csr: Csr,
    csc: Csc,
    values: &[T],
    batch: usize,
    x: &[T],
    g: &[T],
    dx: Option<&mut [T]>,
    dw: &mut [T],
) {
    let Some(dx) = dx else { return sddmm_on(isa, csr, batch, x, g, dw) };
    if batch == 1 {
        spmm_t_on(isa, csr, csc, values, batch, g, dx);
        return sddmm_on(isa, csr, batch, x, g, dw);
    }
    csr.check();
    csc.check(&csr);
    assert_eq!(values.len(), csr.nnz(), "values");
    assert_eq!(x.len(), batch * csr.cols, "x of [{batch}, {}]", csr.cols);
    assert_eq!(g.len(), batch * csr.rows, "g of [{batch}, {}]", csr.rows);
    assert_eq!(dx.len(), batch * csr.cols, "dx of [{batch}, {}]", csr.cols);
    assert_eq!(dw.len(), csr.nnz(), "dw");
    let values: Vec<T> = csc.entries.iter().map(|&e| values[e as usize]).collect();
    let mut by_column = vec![T::ZERO; csr.nnz()];
    let (x, g) = (Tiled::from_rows(batch, csr.cols, x), Tiled::from_rows(batch, csr.rows, g));
    let mut out = Tiled::zeros(batch, csr.cols);
    let mut jobs: Vec<_> = entry_jobs(csc.starts, &mut by_column).into_iter().map(|j| (j, Vec::new())).collect();
    let parts = jobs.len().max(1);
    for (i, (_, _, part)) in tile_jobs(csc.starts, &mut out).into_iter().enumerate() {
        jobs[i % parts].1.push(part);
    }
    each(csr.nnz() * batch, jobs, |((lines, dw), parts)| {
        for (t, dx) in parts.into_iter().enumerate() {
            let kernel = Both {
                starts: csc.starts,
                index: csc.rows,
                values: &values,
                x: x.tile(t),
                g: g.tile(t),
                width: x.width(t),
                lines: lines.clone(),
                dx,
                dw: &mut *dw,
            };
            // SAFETY: as in `sddmm_on`; `dx` is the part of tile `t` for these lines.
            unsafe { isa.run(kernel) }
        }
    });
    out.to_rows(dx);
    for (&e, &d) in csc.entries.iter().zip(&by_column) {
        dw[e as usize] = d;
    }
}

/// Runs jobs on all threads when there are enough multiply-adds.
fn each<J: Send>(work: usize, jobs: Vec<J>, f: impl Fn(J) + Sync + Send) {
    if work < PARALLEL || jobs.len() == 1 {
        jobs.into_iter().for_each(f);
    } else {
        jobs.into_par_iter().for_each(f);
    }
}

/// Chunks of lines with their parts of a `[lines]` vector.
fn line_jobs<'a, T>(starts: &[usize], mut y: &'a mut [T]) -> Vec<(Range<usize>, &'a mut [T])> {
    let part = |lines: Range<usize>| {
        let (part, rest) = std::mem::take(&mut y).split_at_mut(lines.len());
        y = rest;
        (lines, part)
    };
    chunks(starts).into_iter().map(part).collect()
}

/// Chunks of lines with their parts of an `[entries]` vector.
fn entry_jobs<'a, T>(starts: &[usize], mut dw: &'a mut [T]) -> Vec<(Range<usize>, &'a mut [T])> {
    let part = |lines: Range<usize>| {
        let (part, rest) = std::mem::take(&mut dw).split_at_mut(starts[lines.end] - starts[lines.start]);
        dw = rest;
        (lines, part)
    };
    chunks(starts).into_iter().map(part).collect()
}

/// (tile, chunk of lines, its part of the tile), all chunks of one tile after those of the tile before.
fn tile_jobs<'a, T: Real>(starts: &[usize], y: &'a mut Tiled<T>) -> Vec<(usize, Range<usize>, &'a mut [T])> {
    let chunks = chunks(starts);
    let lines: Vec<usize> = chunks.iter().map(|c| c.len()).collect();
    let job = |(i, part): (usize, _)| (i / chunks.len(), chunks[i % chunks.len()].clone(), part);
    y.split(&lines).into_iter().enumerate().map(job).collect()
}

/// One sparse dot product with one sample.
fn dot<T: Real>(index: &[u32], values: &[T], x: &[T]) -> T {
    let mut sum = [T::ZERO; 8];
    let (i8s, i1s) = index.as_chunks::<8>();
    let (v8s, v1s) = values.as_chunks::<8>();
    for (i, v) in i8s.iter().zip(v8s) {
        for j in 0..8 {
            sum[j] += v[j] * x[i[j] as usize];
        }
    }
    for (&i, &v) in i1s.iter().zip(v1s) {
        sum[0] += v * x[i as usize];
    }
    ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]))
}

/// `y[i] = bias[i] + sum of values[k] x[index[k]]` over the entries of each line, on one tile.
struct Gather<'a, T> {
    starts: &'a [usize],
    index: &'a [u32],
    values: &'a [T],
    bias: Option<&'a [T]>,
    /// `[features, width]`
    x: &'a [T],
    width: usize,
    lines: Range<usize>,
    /// `[lines, width]`
    y: &'a mut [T],
}

impl<T: Real> Gather<'_, T> {
    #[inline(always)]
    unsafe fn strip<V: Vector<T = T>, const N: usize>(&mut self, at: usize) {
        let (x, y, width) = (self.x.as_ptr(), self.y.as_mut_ptr(), self.width);
        for i in self.lines.clone() {
            // SAFETY: indices are below the features of `x` and entries within `values` (checked by the caller);
            // `at + N * LANES <= width`.
            unsafe {
                let mut sum = [V::splat(self.bias.map_or(T::ZERO, |b| b[i])); N];
                for k in self.starts[i]..self.starts[i + 1] {
                    let v = V::splat(*self.values.get_unchecked(k));
                    let from = x.add(*self.index.get_unchecked(k) as usize * width + at);
                    for j in 0..N {
                        sum[j] = v.mul_add(V::load(from.add(j * V::LANES)), sum[j]);
                    }
                }
                for j in 0..N {
                    sum[j].store(y.add((i - self.lines.start) * width + at + j * V::LANES));
                }
            }
        }
    }
}

impl<T: Real> Kernel<T> for Gather<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(mut self) {
        strips!(self, self.width);
    }
}

/// `dw[k] += <g[i], x[index[k]]>` over the entries of each line, on one tile.
struct Dots<'a, T> {
    starts: &'a [usize],
    index: &'a [u32],
    /// `[features, width]`
    x: &'a [T],
    /// `[all lines, width]`
    g: &'a [T],
    width: usize,
    lines: Range<usize>,
    /// Entries of these lines.
    dw: &'a mut [T],
}

impl<T: Real> Dots<'_, T> {
    #[inline(always)]
    unsafe fn strip<V: Vector<T = T>, const N: usize>(&mut self, at: usize) {
        let (x, g, width) = (self.x.as_ptr(), self.g.as_ptr(), self.width);
        let first = self.starts[self.lines.start];
        for i in self.lines.clone() {
            // SAFETY: as in `Gather`.
            unsafe {
                let mut line = [V::splat(T::ZERO); N];
                for j in 0..N {
                    line[j] = V::load(g.add(i * width + at + j * V::LANES));
                }
                for k in self.starts[i]..self.starts[i + 1] {
                    let from = x.add(*self.index.get_unchecked(k) as usize * width + at);
                    let mut sum = line[0].mul(V::load(from));
                    for j in 1..N {
                        sum = line[j].mul_add(V::load(from.add(j * V::LANES)), sum);
                    }
                    *self.dw.get_unchecked_mut(k - first) += sum.sum();
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

/// Column by column: `dx[i] = sum of values[k] g[index[k]]` and `dw[k] += <g[index[k]], x[i]>`, on one tile.
struct Both<'a, T> {
    starts: &'a [usize],
    index: &'a [u32],
    values: &'a [T],
    /// `[all lines, width]`
    x: &'a [T],
    /// `[outputs, width]`
    g: &'a [T],
    width: usize,
    lines: Range<usize>,
    /// `[lines, width]`
    dx: &'a mut [T],
    /// Entries of these lines.
    dw: &'a mut [T],
}

impl<T: Real> Both<'_, T> {
    #[inline(always)]
    unsafe fn strip<V: Vector<T = T>, const N: usize>(&mut self, at: usize) {
        let (x, g, dx, width) = (self.x.as_ptr(), self.g.as_ptr(), self.dx.as_mut_ptr(), self.width);
        let first = self.starts[self.lines.start];
        for i in self.lines.clone() {
            // SAFETY: as in `Gather`.
            unsafe {
                let (mut line, mut total) = ([V::splat(T::ZERO); N], [V::splat(T::ZERO); N]);
                for j in 0..N {
                    line[j] = V::load(x.add(i * width + at + j * V::LANES));
                }
                for k in self.starts[i]..self.starts[i + 1] {
                    let v = V::splat(*self.values.get_unchecked(k));
                    let from = g.add(*self.index.get_unchecked(k) as usize * width + at);
                    let mut sum = V::splat(T::ZERO);
                    for j in 0..N {
                        let row = V::load(from.add(j * V::LANES));
                        total[j] = v.mul_add(row, total[j]);
                        sum = row.mul_add(line[j], sum);
                    }
                    *self.dw.get_unchecked_mut(k - first) += sum.sum();
                }
                for j in 0..N {
                    total[j].store(dx.add((i - self.lines.start) * width + at + j * V::LANES));
                }
            }
        }
    }
}

impl<T: Real> Kernel<T> for Both<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(mut self) {
        strips!(self, self.width);
    }
}

#[cfg(test)]
#[path = "sparse_tests.rs"]
mod tests;
