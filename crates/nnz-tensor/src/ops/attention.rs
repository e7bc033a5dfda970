//! Scaled dot-product attention and rotary positions.

use super::*;
use nnz_kernels::Attention as Kernel;
use rayon::prelude::*;

/// Keys that a query may attend to.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttentionMask<'a> {
    /// Query `i` of `t` attends to the first `keys - t + i + 1` keys only: all before it when there is a cache.
    pub causal: bool,
    /// Whether key `j` of example `b` exists, at `b * keys + j`; empty when all do.
    pub keys: &'a [bool],
}

/// softmax(q kᵀ / √d) v: queries `[batch, t, heads, d]`, keys and values `[batch, s, groups, d]`, result
/// `[batch, t, heads, d]`. Each group of keys serves `heads / groups` neighbouring heads (Ainslie et al. 2023,
/// arXiv:2305.13245). A query with every key masked gets zeros. O(t) memory besides the arguments.
///
/// # Panics
/// When shapes do not fit.
pub fn attention<T: Real>(q: &Var<T>, k: &Var<T>, v: &Var<T>, mask: AttentionMask<'_>) -> Var<T> {
    let (&[batch, t, heads, d], &[b2, s, groups, d2]) = (q.shape(), k.shape()) else {
        panic!("attention takes [batch, length, heads, width], got {:?} and {:?}", q.shape(), k.shape());
    };
    let value_width = v.shape()[3];
    let fits = batch == b2 && d == d2 && groups > 0 && heads % groups == 0 && v.shape()[..3] == k.shape()[..3];
    assert!(fits, "queries {:?}, keys {:?} and values {:?} do not fit", q.shape(), k.shape(), v.shape());
    assert!(mask.keys.is_empty() || mask.keys.len() == batch * s, "one entry of the key mask for each of {batch}x{s}");
    let (causal, seen) = (mask.causal, mask.keys.to_vec());
    let kernel = Kernel { batch, queries: t, keys: s, heads, groups, width: d, value_width, causal, seen: &[] };
    let mut sums = Tensor::zeros(&[batch, heads, t]);
    let data = [q, k, v].map(|x| x.value().clone());
    let value = Tensor::written(&[batch, t, heads, value_width], |y| {
        Kernel { seen: &seen, ..kernel }.forward(data[0].data(), data[1].data(), data[2].data(), y, sums.data_mut());
    });
    let (output, also_seen) = (value.clone(), seen.clone());
    let composite =
        move |p: &[Var<T>]| attention_by_ops(&p[0], &p[1], &p[2], AttentionMask { causal, keys: &also_seen });
    Var::fast("attention", value, &[q, k, v], composite, || {
        Box::new(move |g| {
            let [mut dq, mut dk, mut dv] = data.each_ref().map(|x| Tensor::written(x.shape(), |_| {}));
            let (given, found) = ((data[0].data(), data[1].data(), data[2].data()), (output.data(), sums.data()));
            let to = (dq.data_mut(), dk.data_mut(), dv.data_mut());
            Kernel { seen: &seen, ..kernel }.backward(given, found, g.data(), to);
            vec![Some(dq), Some(dk), Some(dv)]
        })
    })
}

/// [`attention`] with the matrix of weights, from ops that differentiate twice.
fn attention_by_ops<T: Real>(q: &Var<T>, k: &Var<T>, v: &Var<T>, mask: AttentionMask<'_>) -> Var<T> {
    let (&[batch, t, heads, d], &[_, s, groups, width]) = (q.shape(), v.shape()) else {
        unreachable!("checked before")
    };
    let share = heads / groups;
    // Heads of a group become additional rows of one product.
    let q = reshape(&permute(q, &[0, 2, 1, 3]), &[batch, groups, share * t, d]);
    let (k, v) = (permute(k, &[0, 2, 1, 3]), permute(v, &[0, 2, 1, 3]));
    let scores = scale(&batch_matmul(&q, false, &k, true), 1.0 / (d as f64).sqrt());
    let weights = masked_softmax(&reshape(&scores, &[batch, heads, t, s]), mask);
    let y = batch_matmul(&reshape(&weights, &[batch, groups, share * t, s]), false, &v, false);
    permute(&reshape(&y, &[batch, heads, t, width]), &[0, 2, 1, 3])
}

/// Softmax over the keys a query may attend to; `scores` is `[batch, heads, t, s]`.
fn masked_softmax<T: Real>(scores: &Var<T>, mask: AttentionMask<'_>) -> Var<T> {
    if !mask.causal && mask.keys.is_empty() {
        return softmax(scores);
    }
    let &[batch, _, t, s] = scores.shape() else { unreachable!("made by attention") };
    let sees = |b: usize, i: usize, j: usize| {
        (!mask.causal || j + t <= s + i) && mask.keys.get(b * s + j).copied().unwrap_or(true)
    };
    // A number far below any score instead of -∞, so that a row without keys stays finite and is then zeroed.
    let (mut far, mut any) = (Tensor::zeros(&[batch, 1, t, s]), Tensor::zeros(&[batch, 1, t, 1]));
    for (b, i) in (0..batch).flat_map(|b| (0..t).map(move |i| (b, i))) {
        let row = b * t + i;
        for j in 0..s {
            match sees(b, i, j) {
                true => any.data_mut()[row] = T::ONE,
                false => far.data_mut()[row * s + j] = T::of(-1e30),
            }
        }
    }
    mul(&softmax(&add(scores, &Var::constant(far))), &Var::constant(any))
}

/// Keys and values of the positions seen so far, `[batch, length, groups, d]`. Outside the tape.
#[derive(Clone, Debug, Default)]
pub struct KvCache<T> {
    seen: Option<(Tensor<T>, Tensor<T>)>,
}

impl<T: Real> KvCache<T> {
    /// An empty cache.
    pub fn new() -> Self {
        Self { seen: None }
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.seen.as_ref().map_or(0, |(k, _)| k.shape()[1])
    }

    /// Whether the cache is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends new keys and values and returns all of them.
    pub fn append(&mut self, k: &Var<T>, v: &Var<T>) -> (Var<T>, Var<T>) {
        let join = |old: &Tensor<T>, new: &Var<T>| concat(&[&Var::constant(old.clone()), new], 1);
        let (k, v) = match &self.seen {
            None => (k.clone(), v.clone()),
            Some((a, b)) => (join(a, k), join(b, v)),
        };
        self.seen = Some((k.value().clone(), v.value().clone()));
        (k, v)
    }
}

/// Rotary positions (Su et al. 2021, arXiv:2104.09864): entries i and i + d/2 of `[batch, length, heads, d]` turned by
/// (first + position) · base^(-2i/d).
///
/// # Panics
/// When d is odd.
pub fn rope<T: Real>(x: &Var<T>, first: usize, base: f64) -> Var<T> {
    let &[_, _, _, d] = x.shape() else { panic!("rope takes [batch, length, heads, width], got {:?}", x.shape()) };
    assert!(d % 2 == 0, "rope turns pairs of entries, and {d} is odd");
    turn(x, first, base, false)
}

/// [`rope`], or its transpose, which turns every pair back.
fn turn<T: Real>(x: &Var<T>, first: usize, base: f64, back: bool) -> Var<T> {
    let &[_, t, heads, d] = x.shape() else { unreachable!("checked by rope") };
    let half = d / 2;
    let angle = |p: usize, i: usize| (first + p) as f64 * base.powf(-2.0 * i as f64 / d as f64);
    let table: Vec<(T, T)> = (0..t * half)
        .map(|at| {
            let (sin, cos) = angle(at / half, at % half).sin_cos();
            (T::of(if back { -sin } else { sin }), T::of(cos))
        })
        .collect();
    let value = Tensor::written(x.shape(), |to| {
        let rows = x.value().data().par_chunks_exact(d.max(1)).zip(to.par_chunks_exact_mut(d.max(1)));
        rows.enumerate().with_min_len(256).for_each(|(row, (from, to))| {
            let turns = &table[row / heads % t * half..][..half];
            let ((a, b), (to_a, to_b)) = (from.split_at(half), to.split_at_mut(half));
            for (i, &(sin, cos)) in turns.iter().enumerate() {
                to_a[i] = a[i] * cos - b[i] * sin;
                to_b[i] = b[i] * cos + a[i] * sin;
            }
        });
    });
    Var::op("rope", value, &[x], || Box::new(move |g| vec![Some(turn(g, first, base, !back))]))
}
