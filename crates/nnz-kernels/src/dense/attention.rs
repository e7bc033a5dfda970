//! Attention that keeps one number per query instead of the matrix of weights.
//!
//! A block of queries attends to all its visible keys; its scores lie in scratch memory, once going forward, once going
//! backward (Rabe & Staats 2021, arXiv:2112.05682; Dao et al. 2022, arXiv:2205.14135).

use super::gemm::{Block, View};
use super::scratch::scratch;
use super::tile::{Begin, Micros};
use super::{Raw, each};
use crate::rows::{lanes, largest};
use crate::shape::{volume, work};
use crate::simd::{Kernel, Vector};
use crate::{Isa, Real};

/// Queries whose scores are held at once.
const QUERIES: usize = 64;

/// Shape of an attention: queries `[batch, queries, heads, width]`, keys `[batch, keys, groups, width]`, values `[batch,
/// keys, groups, value_width]`. Heads of one group share keys and values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention<'a> {
    /// Examples.
    pub batch: usize,
    /// Queries of each.
    pub queries: usize,
    /// Keys of each.
    pub keys: usize,
    /// Heads.
    pub heads: usize,
    /// Groups of heads.
    pub groups: usize,
    /// Numbers in a query.
    pub width: usize,
    /// Numbers in a value.
    pub value_width: usize,
    /// Query `i` attends to key `j` only when `j + queries <= i + keys`.
    pub causal: bool,
    /// Which of the `[batch, keys]` are visible; all when empty.
    pub seen: &'a [bool],
}

/// Keys and values, queries and outputs of one head, and its place among the numbers of a block.
struct Head<T> {
    q: View<T>,
    k: View<T>,
    v: View<T>,
    /// Visible keys of its example; all when empty.
    first_seen: usize,
}

impl Attention<'_> {
    fn check<T>(&self, q: &[T], k: &[T], v: &[T], y: &[T], log_sums: &[T]) {
        let Self { batch, queries, keys, heads, groups, width, value_width, .. } = *self;
        assert!(groups > 0 && heads % groups == 0, "{groups} groups of {heads} heads");
        assert_eq!(q.len(), volume([batch, queries, heads, width]), "queries of {self:?}");
        assert_eq!(k.len(), volume([batch, keys, groups, width]), "keys of {self:?}");
        assert_eq!(v.len(), volume([batch, keys, groups, value_width]), "values of {self:?}");
        assert_eq!(y.len(), volume([batch, queries, heads, value_width]), "output of {self:?}");
        assert_eq!(log_sums.len(), volume([batch, heads, queries]), "sums of {self:?}");
        assert!(self.seen.is_empty() || self.seen.len() == volume([batch, keys]), "one entry of the mask a key");
    }

    /// Scale of scores: 1 / √width. Queries of width zero have scores of zero.
    fn scale<T: Real>(&self) -> T {
        T::of(1.0 / (self.width.max(1) as f64).sqrt())
    }

    fn small(&self) -> bool {
        work([self.batch, self.heads, self.queries, self.keys, self.width.saturating_add(self.value_width)]) < 1 << 18
    }

    fn head<T: Real>(&self, b: usize, h: usize, q: &[T], k: &[T], v: &[T]) -> Head<T> {
        let g = h / (self.heads / self.groups);
        let view = |x: &[T], len: usize, many: usize, width: usize, at: usize| View {
            at: Raw::of(&x[(b * len * many + at) * width..]),
            rs: many * width,
            cs: 1,
        };
        Head {
            q: view(q, self.queries, self.heads, self.width, h),
            k: view(k, self.keys, self.groups, self.width, g),
            v: view(v, self.keys, self.groups, self.value_width, g),
            first_seen: b * self.keys,
        }
    }

    /// Keys visible to some of the queries below `last`.
    fn reach(&self, last: usize) -> usize {
        if self.causal { (last + self.keys).saturating_sub(self.queries).min(self.keys) } else { self.keys }
    }

    /// y `[batch, queries, heads, value_width]`, softmax(q kᵀ / √width) v. `log_sums` `[batch, heads, queries]` gets each
    /// query's log Σ exp of its scores, for the backward pass. A query without visible keys gives zeros, an infinite sum.
    ///
    /// # Panics
    /// When lengths do not match the shape.
    pub fn forward<T: Real>(&self, q: &[T], k: &[T], v: &[T], y: &mut [T], log_sums: &mut [T]) {
        T::attention(self, Isa::best(), [q, k, v], y, log_sums);
    }

    pub(crate) fn forward_on<T: Real>(&self, isa: Isa, [q, k, v]: [&[T]; 3], y: &mut [T], log_sums: &mut [T]) {
        self.check(q, k, v, y, log_sums);
        if y.is_empty() || v.is_empty() {
            y.fill(T::ZERO);
            log_sums.fill(T::of(f64::INFINITY));
            return;
        }
        let micros = Micros::new::<T>(isa);
        let (to, sums) = (Raw::of_mut(y), Raw::of_mut(log_sums));
        let width = self.heads * self.value_width;
        each(self.batch * self.heads, self.small(), &|i| {
            let (b, h) = (i / self.heads, i % self.heads);
            let head = self.head(b, h, q, k, v);
            scratch(volume([QUERIES, self.keys]), |scores: &mut [T]| {
                for first in (0..self.queries).step_by(QUERIES) {
                    let last = self.queries.min(first + QUERIES);
                    let keys = self.reach(last);
                    // SAFETY: views lie in their slices; every head writes its own sums and columns of y.
                    unsafe {
                        self.scores(micros, &head, first, last, keys, scores);
                        let sums =
                            std::slice::from_raw_parts_mut(sums.get().add(i * self.queries + first), last - first);
                        isa.run(Weights {
                            of: self,
                            head: &head,
                            first,
                            queries: last - first,
                            keys,
                            scores,
                            sums: Sums::Find(sums),
                        });
                        let p = View { at: Raw::of(scores), rs: keys, cs: 1 };
                        let c = to.get().add((b * self.queries + first) * width + h * self.value_width);
                        let n = self.value_width;
                        Block { micros, m: last - first, n, k: keys, a: p, b: head.v, c, ldc: width }
                            .run(&|_| Begin::Zero);
                    }
                }
            });
        });
    }

    /// Scores of a block of queries, before scaling.
    ///
    /// # Safety
    /// The head's views lie in their slices.
    unsafe fn scores<T: Real>(
        &self,
        micros: Micros,
        head: &Head<T>,
        first: usize,
        last: usize,
        keys: usize,
        scores: &mut [T],
    ) {
        let transposed = View { rs: 1, cs: head.k.rs, ..head.k };
        let c = scores.as_mut_ptr();
        let block = Block {
            micros,
            m: last - first,
            n: keys,
            k: self.width,
            a: head.q.at(first, 0),
            b: transposed,
            c,
            ldc: keys,
        };
        // SAFETY: the caller's contract; scores hold `QUERIES` rows of all keys.
        unsafe { block.run(&|_| Begin::Zero) }
    }

    /// Gradients of queries, keys and values from that of the output, `g`, given y and the sums of the forward pass.
    ///
    /// # Panics
    /// When lengths do not match the shape.
    #[allow(clippy::too_many_arguments)]
    pub fn backward<T: Real>(
        &self,
        (q, k, v): (&[T], &[T], &[T]),
        (y, log_sums): (&[T], &[T]),
        g: &[T],
        (dq, dk, dv): (&mut [T], &mut [T], &mut [T]),
    ) {
        T::attention_backward(self, Isa::best(), [q, k, v], [y, log_sums], g, [dq, dk, dv]);
    }

    pub(crate) fn backward_on<T: Real>(
        &self,
        isa: Isa,
        [q, k, v]: [&[T]; 3],
        [y, log_sums]: [&[T]; 2],
        g: &[T],
        [dq, dk, dv]: [&mut [T]; 3],
    ) {
        self.check(q, k, v, y, log_sums);
        self.check(dq, dk, dv, g, log_sums);
        if y.is_empty() || v.is_empty() {
            [dq, dk, dv].into_iter().for_each(|d| d.fill(T::ZERO));
            return;
        }
        let micros = Micros::new::<T>(isa);
        let (to_q, to_k, to_v) = (Raw::of_mut(dq), Raw::of_mut(dk), Raw::of_mut(dv));
        let share = self.heads / self.groups;
        let (qs, ks, vs, ys) = (
            self.heads * self.width,
            self.groups * self.width,
            self.groups * self.value_width,
            self.heads * self.value_width,
        );
        each(self.batch * self.groups, self.small(), &|i| {
            let (b, group) = (i / self.groups, i % self.groups);
            scratch(volume([2, QUERIES, self.keys]), |memory: &mut [T]| {
                let (weights, slopes) = memory.split_at_mut(QUERIES * self.keys);
                // The last block reaches every key, so it begins and the others add.
                let blocks = (0..self.queries).step_by(QUERIES).rev();
                for (turn, (h, first)) in
                    (group * share..(group + 1) * share).flat_map(|h| blocks.clone().map(move |f| (h, f))).enumerate()
                {
                    let last = self.queries.min(first + QUERIES);
                    let (keys, m) = (self.reach(last), last - first);
                    let head = self.head(b, h, q, k, v);
                    let rows = (b * self.queries + first) * ys + h * self.value_width;
                    let begin = if turn == 0 { Begin::Zero } else { Begin::Add };
                    // SAFETY: views lie in their slices; a group's keys and values, and its heads' queries, are
                    // written by one thread.
                    unsafe {
                        self.scores(micros, &head, first, last, keys, weights);
                        let sums = Sums::Known(&log_sums[(b * self.heads + h) * self.queries + first..][..m]);
                        let scores = &mut *weights;
                        isa.run(Weights { of: self, head: &head, first, queries: m, keys, scores, sums });
                        let dy = View { at: Raw::of(&g[rows..]), rs: ys, cs: 1 };
                        let p_t = View { at: Raw::of(weights), rs: 1, cs: keys };
                        let c = to_v.get().add(b * self.keys * vs + group * self.value_width);
                        debug_assert!(turn > 0 || keys == self.keys, "the last block of queries reaches every key");
                        Block { micros, m: keys, n: self.value_width, k: m, a: p_t, b: dy, c, ldc: vs }.run(&|_| begin);
                        let v_t = View { rs: 1, cs: head.v.rs, ..head.v };
                        let c = slopes.as_mut_ptr();
                        Block { micros, m, n: keys, k: self.value_width, a: dy, b: v_t, c, ldc: keys }
                            .run(&|_| Begin::Zero);
                        isa.run(Slopes { of: self, weights, slopes, y: &y[rows..], g: &g[rows..], keys, m });
                        let s = View { at: Raw::of(slopes), rs: keys, cs: 1 };
                        let c = to_q.get().add((b * self.queries + first) * qs + h * self.width);
                        Block { micros, m, n: self.width, k: keys, a: s, b: head.k, c, ldc: qs }.run(&|_| Begin::Zero);
                        let s_t = View { at: Raw::of(slopes), rs: 1, cs: keys };
                        let c = to_k.get().add(b * self.keys * ks + group * self.width);
                        Block { micros, m: keys, n: self.width, k: m, a: s_t, b: head.q.at(first, 0), c, ldc: ks }
                            .run(&|_| begin);
                    }
                }
            });
        });
    }
}

/// Scores of a block of queries to their weights, in place.
struct Weights<'a, T> {
    of: &'a Attention<'a>,
    head: &'a Head<T>,
    /// First query and their number.
    first: usize,
    queries: usize,
    /// Keys in a row.
    keys: usize,
    scores: &'a mut [T],
    sums: Sums<'a, T>,
}

/// log Σ exp of every query.
enum Sums<'a, T> {
    Find(&'a mut [T]),
    Known(&'a [T]),
}

impl<T: Real> Kernel<T> for Weights<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        let scale = self.of.scale::<T>();
        let mut sums = self.sums;
        for i in 0..self.queries {
            let row = &mut self.scores[i * self.keys..(i + 1) * self.keys];
            let (row, rest) = row.split_at_mut(self.of.reach(self.first + i + 1).min(self.keys));
            rest.fill(T::ZERO);
            row.iter_mut().for_each(|x| *x *= scale);
            if !self.of.seen.is_empty() {
                let seen = &self.of.seen[self.head.first_seen..][..row.len()];
                let never = T::of(f64::NEG_INFINITY);
                row.iter_mut().zip(seen).for_each(|(x, &seen)| *x = if seen { *x } else { never });
            }
            // A query with nothing to see has an infinite sum, which makes every weight zero.
            let none = T::of(f64::INFINITY);
            match &mut sums {
                Sums::Known(sums) if sums[i] == none => row.fill(T::ZERO),
                Sums::Known(sums) => {
                    let sum = sums[i];
                    row.iter_mut().for_each(|x| *x = (*x - sum).quick_exp());
                }
                Sums::Find(sums) => {
                    let top = largest(row);
                    if top == T::of(f64::NEG_INFINITY) {
                        sums[i] = none;
                        row.fill(T::ZERO);
                        continue;
                    }
                    row.iter_mut().for_each(|x| *x = (*x - top).quick_exp());
                    let total = lanes(row.len(), |j| row[j]);
                    sums[i] = top + total.ln();
                    let share = T::ONE / total;
                    row.iter_mut().for_each(|x| *x *= share);
                }
            }
        }
    }
}

/// Gradients of weights to those of scores, in place: `p ∘ (d - Σ y g) / √width`.
struct Slopes<'a, T> {
    of: &'a Attention<'a>,
    weights: &'a [T],
    slopes: &'a mut [T],
    y: &'a [T],
    g: &'a [T],
    keys: usize,
    m: usize,
}

impl<T: Real> Kernel<T> for Slopes<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        let scale = self.of.scale::<T>();
        let (n, ys) = (self.of.value_width, self.of.heads * self.of.value_width);
        for i in 0..self.m {
            let (y, g) = (&self.y[i * ys..][..n], &self.g[i * ys..][..n]);
            let inner = lanes(n, |j| y[j] * g[j]);
            let row = i * self.keys..(i + 1) * self.keys;
            let (p, d) = (&self.weights[row.clone()], &mut self.slopes[row]);
            d.iter_mut().zip(p).for_each(|(d, &p)| *d = p * (*d - inner) * scale);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{on_threads, random};

    fn plain(a: &Attention<'_>, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
        let mut y = vec![0.0; a.batch * a.queries * a.heads * a.value_width];
        for (b, h) in (0..a.batch).flat_map(|b| (0..a.heads).map(move |h| (b, h))) {
            let g = h / (a.heads / a.groups);
            for i in 0..a.queries {
                let sees = |j: &usize| {
                    (!a.causal || j + a.queries <= i + a.keys) && a.seen.get(b * a.keys + j).copied().unwrap_or(true)
                };
                let weight = |j: usize| {
                    let dot = |c: usize| {
                        q[((b * a.queries + i) * a.heads + h) * a.width + c]
                            * k[((b * a.keys + j) * a.groups + g) * a.width + c]
                    };
                    ((0..a.width).map(dot).sum::<f64>() / (a.width as f64).sqrt()).exp()
                };
                let total: f64 = (0..a.keys).filter(sees).map(weight).sum();
                for j in (0..a.keys).filter(sees) {
                    for c in 0..a.value_width {
                        y[((b * a.queries + i) * a.heads + h) * a.value_width + c] +=
                            weight(j) / total * v[((b * a.keys + j) * a.groups + g) * a.value_width + c];
                    }
                }
            }
        }
        y
    }

    fn shapes(seen: &[bool]) -> Vec<Attention<'_>> {
        let one = Attention {
            batch: 2,
            queries: 5,
            keys: 5,
            heads: 4,
            groups: 2,
            width: 3,
            value_width: 2,
            causal: false,
            seen: &[],
        };
        vec![
            one,
            Attention { causal: true, ..one },
            Attention { causal: true, queries: 2, ..one },
            Attention { causal: true, queries: 7, ..one },
            Attention { seen, ..one },
            Attention { queries: 150, keys: 150, causal: true, groups: 4, ..one },
            Attention { queries: 70, keys: 0, ..one },
        ]
    }

    #[test]
    fn equals_plain_loops_and_finite_differences() {
        let seen: Vec<bool> = (0..10).map(|i| i % 3 != 0 && i < 5).collect();
        for a in shapes(&seen) {
            let mut q = random::<f64>(1, a.batch * a.queries * a.heads * a.width);
            let mut k = random::<f64>(2, a.batch * a.keys * a.groups * a.width);
            let mut v = random::<f64>(3, a.batch * a.keys * a.groups * a.value_width);
            let (mut y, mut sums) = (
                vec![f64::NAN; a.batch * a.queries * a.heads * a.value_width],
                vec![0.0; a.batch * a.heads * a.queries],
            );
            let g = random::<f64>(4, y.len());
            a.forward(&q, &k, &v, &mut y, &mut sums);
            let want = plain(&a, &q, &k, &v);
            assert!(y.iter().zip(&want).all(|(y, w)| (y - w).abs() < 1e-12), "{a:?}");
            let (mut dq, mut dk, mut dv) = (vec![f64::NAN; q.len()], vec![f64::NAN; k.len()], vec![f64::NAN; v.len()]);
            a.backward((&q, &k, &v), (&y, &sums), &g, (&mut dq, &mut dk, &mut dv));
            for which in 0..3 {
                let got = [&dq, &dk, &dv][which].clone();
                for at in (0..got.len()).step_by(got.len() / 7 + 1) {
                    let mut moved = |by: f64| {
                        [&mut q, &mut k, &mut v][which][at] += by;
                        let value = plain(&a, &q, &k, &v).iter().zip(&g).map(|(y, g)| y * g).sum::<f64>();
                        [&mut q, &mut k, &mut v][which][at] -= by;
                        value
                    };
                    let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                    assert!((slope - got[at]).abs() < 1e-7, "{which} {at} of {a:?}: {} is not {slope}", got[at]);
                }
            }
        }
    }

    #[test]
    fn any_thread_count_gives_the_same_bits() {
        let a = Attention { queries: 100, keys: 100, width: 32, value_width: 16, ..shapes(&[])[1] };
        on_threads(|| {
            let q = random::<f32>(1, a.batch * a.queries * a.heads * a.width);
            let k = random::<f32>(2, a.batch * a.keys * a.groups * a.width);
            let v = random::<f32>(3, a.batch * a.keys * a.groups * a.value_width);
            let (mut y, mut sums) =
                (vec![0.0; a.batch * a.queries * a.heads * a.value_width], vec![0.0; a.batch * a.heads * a.queries]);
            a.forward(&q, &k, &v, &mut y, &mut sums);
            let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
            a.backward((&q, &k, &v), (&y, &sums), &y, (&mut dq, &mut dk, &mut dv));
            [y, sums, dq, dk, dv].concat().iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        });
    }
}
