//! Softmax and its logarithm over the last axis.

use super::*;
use nnz_kernels::rows;

/// log Σ exp of a row.
pub(super) fn log_sum_exp<T: Real>(row: &[T]) -> f64 {
    let top = row.iter().map(|x| x.f64()).fold(f64::NEG_INFINITY, f64::max);
    top + row.iter().map(|x| (x.f64() - top).exp()).sum::<f64>().ln()
}

/// Softmax over the last axis.
pub fn softmax<T: Real>(a: &Var<T>) -> Var<T> {
    let mut value = a.value().clone();
    let (_, cols) = value.rows_cols();
    rows::softmax(value.data_mut(), cols);
    let p = value.clone();
    Var::fast(
        "softmax",
        value,
        &[a],
        |x| exp(&log_softmax(&x[0])),
        || {
            let gradient = move |g: &Tensor<T>| {
                Tensor::written(g.shape(), |to| rows::softmax_backward(p.data(), g.data(), p.rows_cols().1, to))
            };
            Box::new(move |g| vec![Some(gradient(&g))])
        },
    )
}

/// x - log Σ exp x over the last axis.
pub fn log_softmax<T: Real>(a: &Var<T>) -> Var<T> {
    let mut value = a.value().clone();
    let cols = value.rows_cols().1.max(1);
    for row in value.data_mut().chunks_exact_mut(cols) {
        let total = T::of(log_sum_exp(row));
        row.iter_mut().for_each(|x| *x -= total);
    }
    let x = a.clone();
    Var::op("log_softmax", value, &[a], || {
        Box::new(move |g| {
            // g - softmax(x) Σ g
            let last = x.shape().len().saturating_sub(1);
            let total = sum_to(g, &shape::without(g.shape(), &[last]));
            vec![Some(sub(g, &mul(&softmax(&x), &total)))]
        })
    })
}
