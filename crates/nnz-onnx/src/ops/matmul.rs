//! Products of matrices.

use super::math::{spread, spread_strides};
use super::{Cx, Done, Given, runs, tensor};
use crate::value::turn;
use nnz_engine::Tensor;
use nnz_kernels::threads::filled;
use nnz_kernels::{Blocked, Compiled, Csc, Csr, Operator, Sliced, Start, Tiled, gemm as product};
use rayon::prelude::*;
use std::sync::OnceLock;

/// A constant matrix that inputs are multiplied by, `y = x Wᵀ + bias`: dense, and in the sparse layouts used.
pub(crate) struct Linear {
    /// Outputs and inputs.
    pub rows: usize,
    pub cols: usize,
    /// `[rows, cols]`, or `[cols, rows]` if stored by columns.
    values: Tensor<f32>,
    by_columns: bool,
    pub bias: Option<Tensor<f32>>,
    pub nonzeros: usize,
    sliced: OnceLock<Sliced<f32>>,
    blocked: OnceLock<Blocked<f32>>,
    plan: OnceLock<Compiled<f32>>,
}

/// A structure row by row, and its values.
struct Lists {
    starts: Vec<usize>,
    columns: Vec<u32>,
    values: Vec<f32>,
}

impl Linear {
    pub fn new(values: Tensor<f32>, by_columns: bool, bias: Option<Tensor<f32>>) -> Self {
        let (a, b) = values.rows_cols();
        let (rows, cols) = if by_columns { (b, a) } else { (a, b) };
        let nonzeros = values.data().iter().filter(|v| **v != 0.0).count();
        let (sliced, blocked, plan) = Default::default();
        Self { rows, cols, values, by_columns, bias, nonzeros, sliced, blocked, plan }
    }

    pub fn density(&self) -> f64 {
        self.nonzeros as f64 / self.values.len().max(1) as f64
    }

    fn lists(&self) -> Lists {
        let (rows, cols) = (self.rows, self.cols);
        let mut straight = vec![0.0; if self.by_columns { rows * cols } else { 0 }];
        let data = match self.by_columns {
            true => {
                turn(self.values.data(), cols, rows, &mut straight);
                &straight[..]
            }
            false => self.values.data(),
        };
        let (mut starts, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
        for row in data.chunks_exact(cols) {
            for (c, &v) in row.iter().enumerate().filter(|(_, v)| **v != 0.0) {
                columns.push(c as u32);
                values.push(v);
            }
            starts.push(columns.len());
        }
        Lists { starts, columns, values }
    }

    /// Computes the product for `n` inputs, in a kernel with the name of the cost model.
    pub fn apply(&self, kernel: &str, n: usize, x: &[f32]) -> Tensor<f32> {
        let (rows, cols) = (self.rows, self.cols);
        let bias = self.bias.as_ref().map(Tensor::data);
        fn csr(l: &Lists, rows: usize, cols: usize) -> Csr<'_> {
            Csr { rows, cols, starts: &l.starts, columns: &l.columns }
        }
        let tiled = |f: &dyn Fn(&Tiled<f32>, &mut Tiled<f32>)| {
            let (x, mut y) = (Tiled::from_rows(n, cols, x), Tiled::any(n, rows));
            f(&x, &mut y);
            Tensor::written(&[n, rows], |to| y.to_rows(to))
        };
        match kernel {
            "sliced" => {
                let w = filled(&self.sliced, || {
                    let lists = self.lists();
                    Sliced::new(csr(&lists, self.rows, self.cols), &lists.values)
                });
                Tensor::written(&[n, rows], |y| w.apply(n, x, bias, y))
            }
            "blocked" => {
                let w = filled(&self.blocked, || {
                    let lists = self.lists();
                    Blocked::new(csr(&lists, self.rows, self.cols), &lists.values)
                });
                tiled(&|x, y| w.forward(x, bias, false, y))
            }
            "plan" => {
                let w = filled(&self.plan, || {
                    let lists = self.lists();
                    let (starts, rows, entries) = csr(&lists, self.rows, self.cols).transpose();
                    let csc = Csc { starts: &starts, rows: &rows, entries: &entries };
                    Compiled::new(csr(&lists, self.rows, self.cols), csc, &lists.values)
                });
                tiled(&|x, y| w.forward(x, bias, y))
            }
            _ => {
                let strides = if self.by_columns { (rows, 1) } else { (1, cols) };
                let start = bias.map_or(Start::Zero, Start::Bias);
                Tensor::written(&[n, rows], |y| {
                    product(n, rows, cols, x, (cols, 1), self.values.data(), strides, start, y, rows);
                })
            }
        }
    }
}

/// Number of rows of an input as a matrix, all axes but the last in rows.
pub(crate) fn flat(x: &Tensor<f32>, cols: usize) -> Done<usize> {
    match x.shape().last() {
        // Rows without numbers count as rows.
        Some(&c) if c == cols => crate::graph::count(&x.shape()[..x.shape().len() - 1]),
        _ => Err(format!("inputs of shape {:?} for a matrix that reads {cols}", x.shape())),
    }
}

/// Shape of an input with another last axis.
pub(crate) fn linear_shape(input: &[usize], rows: usize) -> Vec<usize> {
    let mut shape = input.to_vec();
    if let Some(last) = shape.last_mut() {
        *last = rows;
    }
    shape
}

pub(crate) fn matmul(cx: &Cx, mut given: Given) -> Done {
    let (a, b) = (given.tensor(0)?, given.tensor(1)?);
    let (sa, sb) = (a.shape().to_vec(), b.shape().to_vec());
    if sa.is_empty() || sb.is_empty() {
        return Err("a product with a single number".into());
    }
    // A vector is a row on the left and a column on the right, and that axis is removed again.
    let ma = if sa.len() == 1 { vec![1, sa[0]] } else { sa.clone() };
    let mb = if sb.len() == 1 { vec![sb[0], 1] } else { sb.clone() };
    let (outer_a, outer_b) = (&ma[..ma.len() - 2], &mb[..mb.len() - 2]);
    let (m, k, n) = (ma[ma.len() - 2], ma[ma.len() - 1], mb[mb.len() - 1]);
    if mb[mb.len() - 2] != k {
        return Err(format!("shapes {sa:?} and {sb:?} do not multiply"));
    }
    let outer = spread(outer_a, outer_b)?;
    let mut shape = outer.clone();
    if sa.len() > 1 {
        shape.push(m);
    }
    if sb.len() > 1 {
        shape.push(n);
    }
    cx.room(&shape)?;
    if outer_b.iter().all(|&d| d == 1) {
        // One matrix for all.
        let rows = a.len().checked_div(k).unwrap_or(shape.iter().product::<usize>().checked_div(n).unwrap_or(0));
        return tensor(Tensor::written(&shape, |y| {
            product(rows, n, k, a.data(), (k, 1), b.data(), (n, 1), Start::Zero, y, n);
        }));
    }
    let (ta, tb) = (spread_strides(outer_a, &outer), spread_strides(outer_b, &outer));
    let mut places = Vec::new();
    let inner = [ta.last().copied().unwrap_or(0), tb.last().copied().unwrap_or(0)];
    runs(&outer, [&ta, &tb], |[oa, ob], count| {
        places.extend((0..count).map(|i| (oa + i * inner[0], ob + i * inner[1])))
    });
    tensor(Tensor::written(&shape, |y| {
        if m * n == 0 {
            return;
        }
        y.par_chunks_exact_mut(m * n).zip(places).for_each(|(y, (ia, ib))| {
            let (a, b) = (&a.data()[ia * m * k..][..m * k], &b.data()[ib * k * n..][..k * n]);
            product(m, n, k, a, (k, 1), b, (n, 1), Start::Zero, y, n);
        });
    }))
}

pub(crate) fn gemm(cx: &Cx, mut given: Given) -> Done {
    let (a, b) = (given.tensor(0)?, given.tensor(1)?);
    let (alpha, beta) = (cx.float("alpha", 1.0)?, cx.float("beta", 1.0)?);
    let (&[a0, a1], &[b0, b1]) = (a.shape(), b.shape()) else {
        return Err(format!("shapes {:?} and {:?}, which are not two matrices", a.shape(), b.shape()));
    };
    let (ta, tb) = (cx.int("transA", 0)? != 0, cx.int("transB", 0)? != 0);
    let (m, k, strides_a) = if ta { (a1, a0, (1, a1)) } else { (a0, a1, (a1, 1)) };
    let (l, n, strides_b) = if tb { (b1, b0, (1, b1)) } else { (b0, b1, (b1, 1)) };
    if l != k {
        return Err(format!("shapes [{m}, {k}] and [{l}, {n}] do not multiply"));
    }
    cx.room(&[m, n])?;
    let c = if given.has(2) { Some(given.tensor(2)?) } else { None };
    let c = match c {
        Some(c) => {
            if spread(c.shape(), &[m, n])? != [m, n] {
                return Err(format!("C of shape {:?} for a product [{m}, {n}]", c.shape()));
            }
            let steps = spread_strides(c.shape(), &[m, n]);
            let at = |r: usize, j: usize| c.data()[r * steps[0] + j * steps[1]] * beta;
            Some(Tensor::written(&[m, n], |to| (0..m * n).for_each(|i| to[i] = at(i / n, i % n))))
        }
        None => None,
    };
    let mut y = Tensor::written(&[m, n], |y| {
        product(m, n, k, a.data(), strides_a, b.data(), strides_b, Start::Zero, y, n);
    });
    if alpha != 1.0 {
        y = y.map(move |v| v * alpha);
    }
    tensor(match c {
        Some(c) => y.combine(&c, |a, b| a + b),
        None => y,
    })
}
