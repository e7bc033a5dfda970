//! Reductions over axes, which are removed.

use super::*;

fn dropped(shape: &[usize], axes: &[usize]) -> Vec<usize> {
    shape.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, &n)| n).collect()
}

fn count(shape: &[usize], axes: &[usize]) -> f64 {
    axes.iter().map(|&a| shape[a]).product::<usize>().max(1) as f64
}

/// Sum over `axes`, taken in f64.
pub fn sum_over<T: Real>(x: &Var<T>, axes: &[usize]) -> Var<T> {
    let kept = shape::without(x.shape(), axes);
    reshape(&sum_to(x, &kept), &dropped(x.shape(), axes))
}

/// Mean over `axes`; zero for empty ones.
pub fn mean_over<T: Real>(x: &Var<T>, axes: &[usize]) -> Var<T> {
    scale(&sum_over(x, axes), 1.0 / count(x.shape(), axes))
}

/// Mean squared distance from the mean over `axes` (divided by the count, not by one less).
pub fn variance_over<T: Real>(x: &Var<T>, axes: &[usize]) -> Var<T> {
    let kept = shape::without(x.shape(), axes);
    let mean = scale(&sum_to(x, &kept), 1.0 / count(x.shape(), axes));
    mean_over(&square(&sub(x, &mean)), axes)
}

/// Largest value over `axes`; the gradient goes to the first of equals.
///
/// # Panics
/// When the axes are empty.
pub fn max_over<T: Real>(x: &Var<T>, axes: &[usize]) -> Var<T> {
    let kept = shape::without(x.shape(), axes);
    let data = x.value().data();
    let mut best = vec![usize::MAX; kept.iter().product()];
    shape::walk(x.shape(), [&shape::repeated(&kept, x.shape())], |at, n, [o], [step]| {
        for q in 0..n {
            let (winner, i) = (&mut best[o + q * step], at + q);
            if *winner == usize::MAX || data[i] > data[*winner] {
                *winner = i;
            }
        }
    });
    assert!(best.iter().all(|&i| i != usize::MAX), "no largest value over empty axes {axes:?} of {:?}", x.shape());
    pick(x, Arc::new(best), &dropped(x.shape(), axes))
}

/// Running sum along `axis`.
pub fn cumsum<T: Real>(x: &Var<T>, axis: usize) -> Var<T> {
    running(x, axis, false)
}

fn running<T: Real>(x: &Var<T>, axis: usize, backwards: bool) -> Var<T> {
    let (outer, n, inner) = shape::around(x.shape(), axis);
    let mut value = x.value().clone();
    let data = value.data_mut();
    for (o, step) in (0..outer).flat_map(|o| (1..n).map(move |s| (o, s))) {
        let (to, from) = if backwards { (n - 1 - step, n - step) } else { (step, step - 1) };
        for i in 0..inner {
            let before = data[(o * n + from) * inner + i];
            data[(o * n + to) * inner + i] += before;
        }
    }
    Var::op("cumsum", value, &[x], || Box::new(move |g| vec![Some(running(g, axis, !backwards))]))
}
