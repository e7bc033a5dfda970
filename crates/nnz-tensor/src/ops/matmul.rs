//! Dense matrix products.

use super::{column_sums, reshape, sum_rows};
use crate::Real;
use crate::{Tensor, Var};
use nnz_kernels::{self as kernels, Start};
use rayon::prelude::*;

/// op(A) op(B), where op transposes if `ta` or `tb` is set; matrices `[m, k]`, `[k, n]`.
pub fn matmul<T: Real>(a: &Var<T>, ta: bool, b: &Var<T>, tb: bool) -> Var<T> {
    let ((ra, ca), (rb, cb)) = (a.value().rows_cols(), b.value().rows_cols());
    let (k, k2) = (if ta { ra } else { ca }, if tb { cb } else { rb });
    assert_eq!(k, k2, "inner sizes of a matrix product differ");
    let value = product((a.value(), ta), (b.value(), tb), None);
    let (x, y) = (a.clone(), b.clone());
    Var::op("matmul", value, &[a, b], || {
        Box::new(move |g| {
            let da = || if ta { matmul(&y, tb, g, true) } else { matmul(g, false, &y, !tb) };
            let db = || if tb { matmul(g, true, &x, ta) } else { matmul(&x, !ta, g, false) };
            let like = |v: Var<T>, s: &Var<T>| if v.shape() == s.shape() { v } else { reshape(&v, s.shape()) };
            vec![x.tracked().then(|| like(da(), &x)), y.tracked().then(|| like(db(), &y))]
        })
    })
}

/// op(A) op(B) with a vector added to every row.
fn product<T: Real>((a, ta): (&Tensor<T>, bool), (b, tb): (&Tensor<T>, bool), bias: Option<&Tensor<T>>) -> Tensor<T> {
    let ((ra, ca), (rb, cb)) = (a.rows_cols(), b.rows_cols());
    let ((m, k), n) = (if ta { (ca, ra) } else { (ra, ca) }, if tb { rb } else { cb });
    let strides = |cols: usize, t: bool| if t { (1, cols) } else { (cols, 1) };
    let start = bias.map_or(Start::Zero, |b| Start::Bias(b.data()));
    Tensor::written(&[m, n], |c| {
        kernels::gemm(m, n, k, a.data(), strides(ca, ta), b.data(), strides(cb, tb), start, c, n);
    })
}

/// x Wᵀ + b with dense W `[out, in]`, x `[.., in]`, b `[out]`.
pub fn linear<T: Real>(x: &Var<T>, weight: &Var<T>, bias: &Var<T>) -> Var<T> {
    let value = product((x.value(), false), (weight.value(), true), Some(bias.value()));
    let (of_x, of_w) = (x.clone(), weight.clone());
    let composite = |p: &[Var<T>]| add_bias(&matmul(&p[0], false, &p[1], true), &p[2]);
    Var::fast("linear", value, &[x, weight, bias], composite, || {
        Box::new(move |g| {
            let (x, w) = (of_x.value(), of_w.value());
            let dx = of_x.tracked().then(|| product((&g, false), (w, false), None).reshape(x.shape()));
            let dw = of_w.tracked().then(|| product((&g, true), (x, false), None));
            vec![dx, dw, Some(column_sums(&g))]
        })
    })
}

/// x Wᵀ whose gradient goes back to x through another matrix B of the same shape: ∂x = g B, ∂W = gᵀ x.
pub fn matmul_back<T: Real>(x: &Var<T>, weight: &Var<T>, backward: &Tensor<T>) -> Var<T> {
    let value = product((x.value(), false), (weight.value(), true), None);
    let (of_x, of_w, b) = (x.clone(), weight.clone(), Var::constant(backward.clone()));
    Var::op("matmul_back", value, &[x, weight], || {
        Box::new(move |g| {
            let dx = of_x.tracked().then(|| reshape(&matmul(g, false, &b, false), of_x.shape()));
            vec![dx, of_w.tracked().then(|| matmul(g, true, &of_x, false))]
        })
    })
}

/// y + b, a vector added to every row.
pub fn add_bias<T: Real>(y: &Var<T>, bias: &Var<T>) -> Var<T> {
    let mut value = y.value().clone();
    let b = bias.value().data();
    value.data_mut().chunks_exact_mut(b.len().max(1)).for_each(|row| row.iter_mut().zip(b).for_each(|(y, &b)| *y += b));
    Var::op("add_bias", value, &[y, bias], || Box::new(|g| vec![Some(g.clone()), Some(sum_rows(g))]))
}

/// op(A) op(B) for every matrix of a batch: `[.., m, k]`, `[.., k, n]` with equal leading axes.
///
/// # Panics
/// When leading axes or inner sizes differ.
pub fn batch_matmul<T: Real>(a: &Var<T>, ta: bool, b: &Var<T>, tb: bool) -> Var<T> {
    let ((lead, ra, ca), (lead_b, rb, cb)) = (matrices(a.shape()), matrices(b.shape()));
    let ((m, k), (k2, n)) = (if ta { (ca, ra) } else { (ra, ca) }, if tb { (cb, rb) } else { (rb, cb) });
    assert!(lead == lead_b && k == k2, "products of matrices {:?} and {:?}", a.shape(), b.shape());
    let strides = |cols: usize, t: bool| if t { (1, cols) } else { (cols, 1) };
    let (sa, sb) = (strides(ca, ta), strides(cb, tb));
    let mut value = Tensor::zeros(&[lead, &[m, n]].concat());
    let (x, y) = (a.value().data(), b.value().data());
    let one = |(i, out): (usize, &mut [T])| {
        let (x, y) = (&x[i * ra * ca..(i + 1) * ra * ca], &y[i * rb * cb..(i + 1) * rb * cb]);
        kernels::gemm(m, n, k, x, sa, y, sb, Start::Zero, out, n);
    };
    if m * n > 0 {
        value.data_mut().par_chunks_exact_mut(m * n).enumerate().for_each(one);
    }
    let (x, y) = (a.clone(), b.clone());
    Var::op("batch_matmul", value, &[a, b], || {
        Box::new(move |g| {
            let da = || if ta { batch_matmul(&y, tb, g, true) } else { batch_matmul(g, false, &y, !tb) };
            let db = || if tb { batch_matmul(g, true, &x, ta) } else { batch_matmul(&x, !ta, g, false) };
            vec![x.tracked().then(da), y.tracked().then(db)]
        })
    })
}

fn matrices(shape: &[usize]) -> (&[usize], usize, usize) {
    match shape {
        [lead @ .., r, c] => (lead, *r, *c),
        other => panic!("a matrix needs two axes, not {other:?}"),
    }
}
