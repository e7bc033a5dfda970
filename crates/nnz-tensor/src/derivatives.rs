//! Derivatives beyond one gradient: Hessian-vector products, gradients of single examples.

use crate::Real;
use crate::{TapeError, Tensor, Var, ops};

/// The Hessian of `f` at `params` times `direction`, without forming it: the gradient of g · v (Pearlmutter 1994). Costs
/// a forward pass and about two backward passes on the tape. `f` gives a `[1]` value.
///
/// # Panics
/// When `direction` has other shapes than `params`.
pub fn hvp<T: Real, E: From<TapeError>>(
    f: impl Fn(&[Var<T>]) -> Result<Var<T>, E>,
    params: &[Tensor<T>],
    direction: &[Tensor<T>],
) -> Result<Vec<Tensor<T>>, E> {
    assert_eq!(params.len(), direction.len(), "one direction for each parameter");
    let leaves: Vec<Var<T>> = params.iter().cloned().map(Var::leaf).collect();
    let gradients = f(&leaves)?.backward(true)?;
    let parts = leaves.iter().zip(direction).filter_map(|(leaf, v)| {
        let v = v.clone().reshape(leaf.shape());
        Some(ops::sum(&ops::mul(gradients.get(leaf)?, &Var::constant(v))))
    });
    let slope = parts.reduce(|a, b| ops::add(&a, &b));
    let mut second = slope.map(|s| s.backward(false)).transpose()?;
    let of = |leaf: &Var<T>| second.as_mut().and_then(|s| s.take(leaf)).unwrap_or_else(|| Tensor::zeros(leaf.shape()));
    Ok(leaves.iter().map(of).collect())
}

/// Computes the gradient of every example: `result[row][parameter]`. `f(row, leaves)` gives the loss of one row. A loop:
/// each row costs a forward and a backward pass, and the result takes rows times the parameters' memory.
pub fn per_sample_gradients<T: Real, E: From<TapeError>>(
    rows: usize,
    params: &[Tensor<T>],
    f: impl Fn(usize, &[Var<T>]) -> Result<Var<T>, E>,
) -> Result<Vec<Vec<Tensor<T>>>, E> {
    let one = |row: usize| {
        let leaves: Vec<Var<T>> = params.iter().cloned().map(Var::leaf).collect();
        let mut found = f(row, &leaves)?.backward(false)?;
        let of = |leaf: &Var<T>| found.take(leaf).unwrap_or_else(|| Tensor::zeros(leaf.shape()));
        Ok(leaves.iter().map(of).collect())
    };
    (0..rows).map(one).collect()
}
