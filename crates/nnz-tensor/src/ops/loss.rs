//! Losses. Each is the mean over rows, shape `[1]`.

use super::*;
use crate::tape::{is_recording, recording};

/// Mean cross-entropy of logits `[rows, classes]` against class numbers, shape `[1]`.
pub fn cross_entropy<T: Real>(logits: &Var<T>, labels: &[u32]) -> Var<T> {
    let (rows, classes) = logits.value().rows_cols();
    assert_eq!(rows, labels.len(), "one label a row");
    let probabilities = recording(false, || softmax(logits));
    let nll = |(row, &y): (&[T], &u32)| log_sum_exp(row) - row[y as usize].f64();
    let loss: f64 =
        logits.value().data().chunks_exact(classes.max(1)).zip(labels).map(nll).sum::<f64>() / rows.max(1) as f64;
    let target = Var::constant(one_hot(&labels.iter().map(|&y| y as usize).collect::<Vec<_>>(), classes));
    let (share, logits2) = (1.0 / rows.max(1) as f64, logits.clone());
    Var::op("cross_entropy", Tensor::new(&[1], vec![T::of(loss)]), &[logits], || {
        Box::new(move |g| {
            // dL/dz = (softmax(z) - onehot) / rows; the softmax is recomputed on the tape if it must be differentiated.
            let p = if is_recording() { softmax(&logits2) } else { probabilities.clone() };
            vec![Some(scale(&mul(&sub(&p, &target), g), share))]
        })
    })
}

fn share<T: Real>(rows: usize, total: Var<T>) -> Var<T> {
    scale(&total, 1.0 / rows.max(1) as f64)
}

/// Mean cross-entropy against targets that spread `smoothing` of their weight over all classes (Szegedy et al. 2016,
/// arXiv:1512.00567).
pub fn cross_entropy_smooth<T: Real>(logits: &Var<T>, labels: &[u32], smoothing: f64) -> Var<T> {
    let (rows, classes) = logits.value().rows_cols();
    let labels: Vec<usize> = labels.iter().map(|&y| y as usize).collect();
    let even = T::of(smoothing / classes.max(1) as f64);
    let target = one_hot::<T>(&labels, classes).map(|t| t * T::of(1.0 - smoothing) + even);
    neg(&share(rows, sum(&mul(&log_softmax(logits), &Var::constant(target)))))
}

/// Mean of (a - b)² over all entries.
pub fn mse<T: Real>(a: &Var<T>, b: &Var<T>) -> Var<T> {
    mean(&square(&sub(a, b)))
}

/// Kullback-Leibler divergence Σ p (ln p - ln q) of distributions given by logits `[rows, classes]`, mean over rows.
pub fn kl<T: Real>(p_logits: &Var<T>, q_logits: &Var<T>) -> Var<T> {
    let (p, q) = (log_softmax(p_logits), log_softmax(q_logits));
    share(p.value().rows_cols().0, sum(&mul(&exp(&p), &sub(&p, &q))))
}

/// Binary cross-entropy of logits against targets in [0, 1], mean over all entries.
pub fn bce_with_logits<T: Real>(logits: &Var<T>, targets: &Var<T>) -> Var<T> {
    mean(&sub(&softplus(logits), &mul(logits, targets)))
}

/// Mean over rows of Σ max(0, margin + score of a wrong class - score of the right one) over the wrong classes
/// (Weston & Watkins 1999).
pub fn hinge<T: Real>(scores: &Var<T>, labels: &[u32], margin: f64) -> Var<T> {
    let (rows, classes) = scores.value().rows_cols();
    let labels: Vec<usize> = labels.iter().map(|&y| y as usize).collect();
    let right = gather(scores, 1, &labels, &[rows, 1]);
    let wrong = Var::constant(one_hot::<T>(&labels, classes).map(|t| T::ONE - t));
    share(rows, sum(&mul(&relu(&shift(&sub(scores, &right), margin)), &wrong)))
}

/// Each row of `a` should match its own row of `b` among all of them: mean cross-entropy of a bᵀ / temperature (van den
/// Oord et al. 2018, arXiv:1807.03748). Rows `[n, d]` are used unchanged; normalize them for cosine similarity.
pub fn info_nce<T: Real>(a: &Var<T>, b: &Var<T>, temperature: f64) -> Var<T> {
    let labels: Vec<u32> = (0..a.value().rows_cols().0 as u32).collect();
    cross_entropy(&scale(&matmul(a, false, b, true), 1.0 / temperature), &labels)
}
