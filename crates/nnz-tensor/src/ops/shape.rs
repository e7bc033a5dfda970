//! Traversal of strided views of contiguous arrays.

use crate::Real;
use crate::Tensor;

/// The shape two operands broadcast to (NumPy's rule: align at the end, an extent of one repeats).
///
/// # Panics
/// When an axis differs and neither extent is one.
pub(super) fn joint(a: &[usize], b: &[usize]) -> Vec<usize> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |j| s[j]);
    let axis = |i: usize| match (at(a, i), at(b, i)) {
        (x, y) if x == y => x,
        (1, y) => y,
        (x, 1) => x,
        _ => panic!("shapes {a:?} and {b:?} do not broadcast"),
    };
    (0..rank).map(axis).collect()
}

/// Row-major strides.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// Strides of an array of shape `from` seen under shape `to`; zero along the axes it repeats over.
///
/// # Panics
/// When `from` does not broadcast to `to`.
pub(super) fn repeated(from: &[usize], to: &[usize]) -> Vec<usize> {
    assert_eq!(joint(from, to), to, "shape {from:?} does not broadcast to {to:?}");
    let missing = to.len() - from.len();
    let own = strides(from);
    (0..to.len()).map(|i| if i < missing || from[i - missing] == 1 { 0 } else { own[i - missing] }).collect()
}

/// Calls `f(position in row-major order, run length, offsets, steps)` for every run along the last axis of `shape`;
/// view `k` has its elements at `offsets[k] + j * steps[k]`. Axes with the same layout in all views are merged first.
pub(super) fn walk<const K: usize>(
    shape: &[usize],
    views: [&[usize]; K],
    mut f: impl FnMut(usize, usize, [usize; K], [usize; K]),
) {
    if shape.contains(&0) {
        return;
    }
    let mut axes: Vec<(usize, [usize; K])> = Vec::new();
    for (i, &n) in shape.iter().enumerate().filter(|(_, n)| **n != 1) {
        let own: [usize; K] = std::array::from_fn(|k| views[k][i]);
        match axes.last_mut() {
            Some((m, outer)) if (0..K).all(|k| outer[k] == own[k] * n) => (*m, *outer) = (*m * n, own),
            _ => axes.push((n, own)),
        }
    }
    let (run, steps) = axes.pop().unwrap_or((1, [0; K]));
    let mut index = vec![0; axes.len()];
    let mut offsets = [0; K];
    let mut at = 0;
    loop {
        f(at, run, offsets, steps);
        at += run;
        let mut axis = axes.len();
        loop {
            let Some(next) = axis.checked_sub(1) else { return };
            axis = next;
            let (n, own) = axes[axis];
            index[axis] += 1;
            (0..K).for_each(|k| offsets[k] += own[k]);
            if index[axis] < n {
                break;
            }
            index[axis] = 0;
            (0..K).for_each(|k| offsets[k] -= n * own[k]);
        }
    }
}

/// Applies `f` to every pair of values under broadcasting.
pub(super) fn zip<T: Real>(a: &Tensor<T>, b: &Tensor<T>, f: impl Fn(T, T) -> T + Copy + Sync + Send) -> Tensor<T> {
    if a.shape() == b.shape() {
        return a.zip(b, f);
    }
    let shape = joint(a.shape(), b.shape());
    let mut out = Vec::with_capacity(shape.iter().product());
    let (x, y) = (a.data(), b.data());
    walk(&shape, [&repeated(a.shape(), &shape), &repeated(b.shape(), &shape)], |_, n, [i, j], steps| match steps {
        [1, 1] => out.extend(x[i..i + n].iter().zip(&y[j..j + n]).map(|(&x, &y)| f(x, y))),
        [1, 0] => out.extend(x[i..i + n].iter().map(|&x| f(x, y[j]))),
        [0, 1] => out.extend(y[j..j + n].iter().map(|&y| f(x[i], y))),
        [s, t] => out.extend((0..n).map(|q| f(x[i + q * s], y[j + q * t]))),
    });
    Tensor::new(&shape, out)
}

/// Sums `a` over the axes along which `shape` repeats. Sums are taken in f64, in row-major order.
pub(super) fn sum_to<T: Real>(a: &Tensor<T>, shape: &[usize]) -> Tensor<T> {
    let mut out = vec![0.0; shape.iter().product()];
    walk(a.shape(), [&repeated(shape, a.shape())], |at, n, [o], [step]| {
        let run = &a.data()[at..at + n];
        match step {
            0 => out[o] += run.iter().map(|x| x.f64()).sum::<f64>(),
            1 => out[o..o + n].iter_mut().zip(run).for_each(|(o, x)| *o += x.f64()),
            s => run.iter().enumerate().for_each(|(q, x)| out[o + q * s] += x.f64()),
        }
    });
    Tensor::new(shape, out.into_iter().map(T::of).collect())
}

/// `shape` with extent one along `axes`.
pub(super) fn without(shape: &[usize], axes: &[usize]) -> Vec<usize> {
    assert!(axes.iter().all(|&a| a < shape.len()), "axes {axes:?} of a shape {shape:?}");
    shape.iter().enumerate().map(|(i, &n)| if axes.contains(&i) { 1 } else { n }).collect()
}

/// A shape around one axis: extents before it, its own, and after it.
pub(super) fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    assert!(axis < shape.len(), "axis {axis} of a shape {shape:?}");
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}
