//! Limited-memory BFGS (Liu & Nocedal 1989): on flat vectors, and as an update rule.

use super::rule::{At, Loss, Rule, Slot};
use crate::{Gradient, Real, Result, Tensor};

/// Options of [`lbfgs`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LbfgsOptions {
    /// Number of stored pairs of steps and gradient changes.
    pub memory: usize,
    /// Most iterations.
    pub iterations: usize,
    /// Stops when no entry of the gradient is larger in magnitude.
    pub tolerance: f64,
}

impl Default for LbfgsOptions {
    fn default() -> Self {
        Self { memory: 10, iterations: 200, tolerance: 1e-6 }
    }
}

/// A step and the change of the gradient over it.
struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    /// Inverse of their inner product.
    rho: f64,
}

impl Pair {
    /// `None` unless the curvature along the step is positive.
    pub fn new(step: Vec<f64>, change: Vec<f64>) -> Option<Self> {
        let curvature = dot(&step, &change);
        (curvature > 0.0 && curvature.is_finite()).then(|| Self { step, change, rho: 1.0 / curvature })
    }
}

/// State after an iteration.
struct Point {
    pub x: Vec<f64>,
    pub value: f64,
    pub gradient: Vec<f64>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn along(x: &[f64], t: f64, d: &[f64]) -> Vec<f64> {
    x.iter().zip(d).map(|(x, d)| x + t * d).collect()
}

/// One iteration from `x`: the two-loop recursion over `pairs`, oldest first, and a bisection for a step that meets the
/// weak Wolfe conditions. `None` when no step lowers the value.
fn iterate(
    x: &[f64],
    value: f64,
    gradient: &[f64],
    pairs: &[Pair],
    mut f: impl FnMut(&[f64]) -> (f64, Vec<f64>),
) -> Option<Point> {
    let mut d: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut shares = Vec::with_capacity(pairs.len());
    for Pair { step, change, rho } in pairs.iter().rev() {
        let a = rho * dot(step, &d);
        d = along(&d, -a, change);
        shares.push(a);
    }
    if let Some(Pair { step, change, .. }) = pairs.last() {
        let scale = dot(step, change) / dot(change, change);
        d.iter_mut().for_each(|d| *d *= scale);
    }
    for (Pair { step, change, rho }, a) in pairs.iter().zip(shares.into_iter().rev()) {
        d = along(&d, a - rho * dot(change, &d), step);
    }
    let slope = dot(gradient, &d);
    let first = if pairs.is_empty() { 1.0 / dot(gradient, gradient).sqrt().max(1.0) } else { 1.0 };
    let (mut low, mut high, mut t) = (0.0, f64::INFINITY, first);
    let mut taken = None;
    for _ in 0..50 {
        let next = along(x, t, &d);
        let (v, g) = f(&next);
        // A NaN also shortens the step.
        let lower = v <= value + 1e-4 * t * slope;
        if !lower {
            high = t;
        } else {
            let steep = dot(&g, &d) < 0.9 * slope;
            taken = Some(Point { x: next, value: v, gradient: g });
            if !steep {
                break;
            }
            low = t;
        }
        t = if high.is_finite() { (low + high) / 2.0 } else { 2.0 * low };
    }
    taken
}

/// Minimizes a smooth `f` (its value and gradient) from `x` by limited-memory BFGS (Liu & Nocedal 1989). Returns the last
/// value and whether the tolerance was met.
pub fn lbfgs(x: &mut Vec<f64>, options: LbfgsOptions, mut f: impl FnMut(&[f64]) -> (f64, Vec<f64>)) -> (f64, bool) {
    let (mut value, mut gradient) = f(x);
    let mut pairs: Vec<Pair> = Vec::new();
    let flat = |g: &[f64]| g.iter().all(|g| g.abs() <= options.tolerance);
    for _ in 0..options.iterations {
        if flat(&gradient) {
            return (value, true);
        }
        let Some(next) = iterate(x, value, &gradient, &pairs, &mut f) else { return (value, false) };
        if let Some(pair) = Pair::new(along(&next.x, -1.0, x), along(&next.gradient, -1.0, &gradient)) {
            if pairs.len() == options.memory {
                pairs.remove(0);
            }
            pairs.push(pair);
        }
        (*x, value, gradient) = (next.x, next.value, next.gradient);
    }
    (value, flat(&gradient))
}

/// One iteration with its line search on the loss of each step, so that it makes sense if a step's batch is all of the data,
/// or most of it. Takes no learning rate and no schedule.
///
/// Slots `i` and `memory + i` of the state hold the i-th step and its change of the gradient, oldest first, zero if not
/// filled yet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lbfgs {
    /// Stored steps; each takes two vectors of state.
    pub memory: usize,
    /// λ of ½ λ |w|² added to the loss, over parameters that decay.
    pub weight_decay: f64,
}

fn flat<'t, T: Real>(tensors: impl Iterator<Item = &'t Tensor<T>>) -> Vec<f64> {
    tensors.flat_map(|t| t.data().iter().map(|v| v.f64())).collect()
}

impl<T: Real> Rule<T> for Lbfgs {
    fn lr(&self) -> f64 {
        1.0
    }

    fn state(&self, shape: &[usize]) -> Vec<Tensor<T>> {
        vec![Tensor::zeros(shape); 2 * self.memory]
    }

    /// Does nothing: an iteration updates all parameters together.
    fn update(&self, _: Slot<'_, T>, _: &Gradient<T>, _: At) {}

    fn step(
        &self,
        mut slots: Vec<Slot<'_, T>>,
        value: f64,
        gradients: &[Gradient<T>],
        _: At,
        loss: &mut Loss<'_, T>,
    ) -> Result<()> {
        let memory = self.memory;
        let kept = |k: usize| flat(slots.iter().map(|s| &s.state[k]));
        let pairs: Vec<Pair> = (0..memory).filter_map(|k| Pair::new(kept(k), kept(memory + k))).collect();
        let before = flat(slots.iter().map(|s| &*s.value));
        let of = |s: &Slot<T>| std::iter::repeat_n(if s.decays { self.weight_decay } else { 0.0 }, s.value.len());
        let decays: Vec<f64> = slots.iter().flat_map(of).collect();
        let whole = |x: &[f64], loss: f64, mut g: Vec<f64>| {
            let penalty: f64 = x.iter().zip(&decays).map(|(x, d)| 0.5 * d * x * x).sum();
            g.iter_mut().zip(x).zip(&decays).for_each(|((g, x), d)| *g += d * x);
            (loss + penalty, g)
        };
        let dense: Vec<Tensor<T>> =
            slots.iter().zip(gradients).map(|(s, g)| g.clone().dense(s.value.shape())).collect();
        let (value, start) = whole(&before, value, flat(dense.iter()));
        let shapes: Vec<Vec<usize>> = slots.iter().map(|s| s.value.shape().to_vec()).collect();
        let tensors = |x: &[f64]| -> Vec<Tensor<T>> {
            let mut x = x.iter();
            let tensor = |shape: &Vec<usize>| {
                let len = shape.iter().product();
                Tensor::new(shape, x.by_ref().take(len).map(|&x| T::of(x)).collect())
            };
            shapes.iter().map(tensor).collect()
        };
        let mut failure = None;
        let found = iterate(&before, value, &start, &pairs, |x| match loss(&tensors(x)) {
            Ok((value, gradients)) => whole(x, value, flat(gradients.iter())),
            Err(e) => {
                failure = Some(e);
                (f64::NAN, vec![0.0; x.len()])
            }
        });
        if let Some(e) = failure {
            return Err(e);
        }
        let mut from = 0;
        for slot in &mut slots {
            let span = from..from + slot.value.len();
            from = span.end;
            match &found {
                // No step lowers the loss along this direction: forget the pairs it was made of.
                None => slot.state.iter_mut().for_each(|s| s.data_mut().fill(T::ZERO)),
                Some(found) => {
                    let values = slot.value.data_mut().iter_mut().zip(&found.x[span.clone()]);
                    values.for_each(|(w, &x)| *w = T::of(x));
                    for (half, new, old) in [(0, &found.x, &before), (memory, &found.gradient, &start)] {
                        slot.state[half..half + memory].rotate_left(memory.min(1));
                        let difference = new[span.clone()].iter().zip(&old[span.clone()]).map(|(a, b)| T::of(a - b));
                        if let Some(last) = slot.state[half..half + memory].last_mut() {
                            last.data_mut().iter_mut().zip(difference).for_each(|(s, d)| *s = d);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
