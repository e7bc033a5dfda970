//! Attention with a window or a soft cap, forward only; without them the engine's kernel computes it.

use rayon::prelude::*;

/// Extents of an attention: the queries are those of the last positions.
#[derive(Clone, Copy)]
pub struct Extents {
    /// Queries.
    pub queries: usize,
    /// Keys and values.
    pub keys: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values, each for neighbouring heads of queries.
    pub groups: usize,
    /// Width of a head.
    pub each: usize,
}

/// softmax(c tanh(q kᵀ / (√d c))) v over the last `window` keys up to each query's own, `[queries, heads * each]`; without a cap c the scores
/// themselves. Queries are `[queries, heads * each]`, keys and values `[keys, groups * each]`.
pub fn attend(q: &[f32], k: &[f32], v: &[f32], e: Extents, window: Option<usize>, cap: Option<f32>) -> Vec<f32> {
    let Extents { queries, keys, heads, groups, each } = e;
    let scale = 1.0 / (each as f32).sqrt();
    let mut out = vec![0.0; queries * heads * each];
    out.par_chunks_mut(each).enumerate().with_min_len(16).for_each(|(row, to)| {
        let (position, head) = (row / heads, row % heads);
        let end = keys - queries + position + 1;
        let start = end.saturating_sub(window.unwrap_or(end));
        let group = head / (heads / groups);
        let of = |j: usize| (j * groups + group) * each..(j * groups + group + 1) * each;
        let query = &q[row * each..][..each];
        let mut scores: Vec<f32> = (start..end)
            .map(|j| {
                let key = &k[of(j)];
                let score = scale * query.iter().zip(key).map(|(a, b)| a * b).sum::<f32>();
                cap.map_or(score, |c| c * (score / c).tanh())
            })
            .collect();
        let top = scores.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        scores.iter_mut().for_each(|s| *s = (*s - top).exp());
        let sum: f32 = scores.iter().sum();
        for (j, weight) in (start..end).zip(scores) {
            let value = &v[of(j)];
            to.iter_mut().zip(value).for_each(|(y, x)| *y += weight / sum * x);
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_engine::ops::{self, AttentionMask};
    use nnz_engine::{Tensor, Var};

    #[test]
    fn without_a_window_it_is_what_the_kernel_computes() {
        let e = Extents { queries: 3, keys: 5, heads: 4, groups: 2, each: 6 };
        let numbers = |n: usize, by: f32| (0..n).map(|i| (i as f32 * by).sin()).collect::<Vec<f32>>();
        let (q, k, v) = (numbers(72, 0.7), numbers(60, 1.3), numbers(60, 0.4));
        let var = |shape: [usize; 4], x: &[f32]| Var::constant(Tensor::new(&shape, x.to_vec()));
        let mask = AttentionMask { causal: true, keys: &[] };
        let want = ops::attention(&var([1, 3, 4, 6], &q), &var([1, 5, 2, 6], &k), &var([1, 5, 2, 6], &v), mask);
        let close = |got: &[f32]| got.iter().zip(want.value().data()).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(close(&attend(&q, &k, &v, e, None, None)));
        assert!(close(&attend(&q, &k, &v, e, Some(5), Some(1e4))));
        assert!(!close(&attend(&q, &k, &v, e, Some(2), None)) && !close(&attend(&q, &k, &v, e, None, Some(0.5))));
        // A window of one position leaves its own value.
        let one = attend(&q, &k, &v, e, Some(1), None);
        for (i, head) in (0..3).flat_map(|i| (0..4).map(move |h| (i, h))) {
            let value = &v[((2 + i) * 2 + head / 2) * 6..][..6];
            assert!(one[(i * 4 + head) * 6..][..6].iter().zip(value).all(|(a, b)| (a - b).abs() < 1e-6));
        }
    }
}
