//! Sums, products and reshapes. Two operands broadcast by NumPy's rule.

use super::shape;
use crate::Real;
use crate::{Tensor, Var};

/// Sums a gradient back to the shape of the operand that was broadcast.
fn back<T: Real>(g: Var<T>, to: &[usize]) -> Option<Var<T>> {
    Some(sum_to(&g, to))
}

/// a + b
pub fn add<T: Real>(a: &Var<T>, b: &Var<T>) -> Var<T> {
    let value = shape::zip(a.value(), b.value(), |x, y| x + y);
    let (sa, sb) = (a.shape().to_vec(), b.shape().to_vec());
    Var::op("add", value, &[a, b], || Box::new(move |g| vec![back(g.clone(), &sa), back(g.clone(), &sb)]))
}

/// a - b
pub fn sub<T: Real>(a: &Var<T>, b: &Var<T>) -> Var<T> {
    let value = shape::zip(a.value(), b.value(), |x, y| x - y);
    let (sa, sb) = (a.shape().to_vec(), b.shape().to_vec());
    Var::op("sub", value, &[a, b], || Box::new(move |g| vec![back(g.clone(), &sa), back(neg(g), &sb)]))
}

/// a · b entry by entry.
pub fn mul<T: Real>(a: &Var<T>, b: &Var<T>) -> Var<T> {
    let value = shape::zip(a.value(), b.value(), |x, y| x * y);
    let (x, y) = (a.clone(), b.clone());
    Var::op("mul", value, &[a, b], || {
        Box::new(move |g| {
            let da = x.tracked().then(|| sum_to(&mul(g, &y), x.shape()));
            vec![da, y.tracked().then(|| sum_to(&mul(g, &x), y.shape()))]
        })
    })
}

/// a / b entry by entry.
pub fn div<T: Real>(a: &Var<T>, b: &Var<T>) -> Var<T> {
    let value = shape::zip(a.value(), b.value(), |x, y| x / y);
    let (x, y) = (a.clone(), b.clone());
    Var::op("div", value, &[a, b], || {
        Box::new(move |g| {
            let over = div(g, &y);
            let db = y.tracked().then(|| sum_to(&neg(&mul(&over, &div(&x, &y))), y.shape()));
            vec![x.tracked().then(|| sum_to(&over, x.shape())), db]
        })
    })
}

/// c a
pub fn scale<T: Real>(a: &Var<T>, c: f64) -> Var<T> {
    let factor = T::of(c);
    Var::op("scale", a.value().map(move |x| x * factor), &[a], || Box::new(move |g| vec![Some(scale(g, c))]))
}

/// a + c
pub fn shift<T: Real>(a: &Var<T>, c: f64) -> Var<T> {
    let c = T::of(c);
    Var::op("shift", a.value().map(move |x| x + c), &[a], || Box::new(|g| vec![Some(g.clone())]))
}

/// -a
pub fn neg<T: Real>(a: &Var<T>) -> Var<T> {
    scale(a, -1.0)
}

/// a²
pub fn square<T: Real>(a: &Var<T>) -> Var<T> {
    mul(a, a)
}

/// Sum of all entries, shape `[1]`.
pub fn sum<T: Real>(a: &Var<T>) -> Var<T> {
    let total: f64 = a.value().data().iter().map(|x| x.f64()).sum();
    let shape = a.shape().to_vec();
    Var::op("sum", Tensor::new(&[1], vec![T::of(total)]), &[a], || Box::new(move |g| vec![Some(spread(g, &shape))]))
}

/// Mean of all entries, shape `[1]`; zero if there are none.
pub fn mean<T: Real>(a: &Var<T>) -> Var<T> {
    scale(&sum(a), 1.0 / a.value().len().max(1) as f64)
}

/// Repeats a `[1]` value everywhere in `shape`.
fn spread<T: Real>(a: &Var<T>, shape: &[usize]) -> Var<T> {
    let value = Tensor::full(shape, a.value().data()[0]);
    Var::op("spread", value, &[a], || Box::new(|g| vec![Some(sum(g))]))
}

/// Repeats `a` to `shape` by NumPy's rule.
pub fn expand<T: Real>(a: &Var<T>, shape: &[usize]) -> Var<T> {
    if a.shape() == shape {
        return a.clone();
    }
    let (mut value, data) = (Vec::with_capacity(shape.iter().product()), a.value().data());
    shape::walk(shape, [&shape::repeated(a.shape(), shape)], |_, n, [at], [step]| match step {
        0 => value.extend(std::iter::repeat_n(data[at], n)),
        1 => value.extend_from_slice(&data[at..at + n]),
        s => value.extend((0..n).map(|q| data[at + q * s])),
    });
    let before = a.shape().to_vec();
    Var::op("expand", Tensor::new(shape, value), &[a], || Box::new(move |g| vec![Some(sum_to(g, &before))]))
}

/// The transpose of [`expand`]: sums over the axes along which `shape` would repeat.
pub fn sum_to<T: Real>(a: &Var<T>, shape: &[usize]) -> Var<T> {
    if a.shape() == shape {
        return a.clone();
    }
    let before = a.shape().to_vec();
    let value = shape::sum_to(a.value(), shape);
    Var::op("sum_to", value, &[a], || Box::new(move |g| vec![Some(expand(g, &before))]))
}

/// The same entries under another shape.
pub fn reshape<T: Real>(a: &Var<T>, shape: &[usize]) -> Var<T> {
    let before = a.shape().to_vec();
    Var::op("reshape", a.value().clone().reshape(shape), &[a], || Box::new(move |g| vec![Some(reshape(g, &before))]))
}

/// The value of `value`, whose gradient goes to `to`, of the same shape, as it is: the straight-through estimator (Bengio et
/// al. 2013, arXiv:1308.3432).
///
/// # Panics
/// When the shapes differ.
pub fn straight_through<T: Real>(value: &Var<T>, to: &Var<T>) -> Var<T> {
    assert_eq!(value.shape(), to.shape(), "a gradient of one shape goes straight to another");
    Var::op("straight_through", value.value().clone(), &[to], || Box::new(|g| vec![Some(g.clone())]))
}

/// Sum over all axes but the last.
pub fn sum_rows<T: Real>(a: &Var<T>) -> Var<T> {
    let shape = a.shape().to_vec();
    Var::op("sum_rows", super::column_sums(a.value()), &[a], || Box::new(move |g| vec![Some(repeat_rows(g, &shape))]))
}

/// Repeats a vector over all axes of `shape` but the last.
pub fn repeat_rows<T: Real>(a: &Var<T>, shape: &[usize]) -> Var<T> {
    let count = shape.iter().product::<usize>() / a.value().len().max(1);
    let value = Tensor::new(shape, a.value().data().repeat(count));
    Var::op("repeat_rows", value, &[a], || Box::new(|g| vec![Some(sum_rows(g))]))
}
