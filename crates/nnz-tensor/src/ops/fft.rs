//! Discrete Fourier transforms. Complex numbers are pairs along a last axis of extent two: real part, imaginary part.

use super::*;
use rayon::prelude::*;
use rustfft::{FftPlanner, num_complex::Complex};
use std::sync::{LazyLock, Mutex};

/// The transform X_k = Σ_j x_j e^(-2πi jk/n) along `axis` of `[.., n, .., 2]`; with e^(+2πi jk/n) when `inverse`. Neither
/// is divided by n, so each is the transpose of the other's conjugate, and each the derivative of the other. Computed
/// in f64, O(n log n) for any n.
///
/// # Panics
/// When the last axis does not have two entries, or is `axis`.
pub fn fft<T: Real>(x: &Var<T>, axis: usize, inverse: bool) -> Var<T> {
    let rank = x.shape().len();
    assert!(rank > 1 && x.shape()[rank - 1] == 2 && axis < rank - 1, "no complex axis {axis} in {:?}", x.shape());
    if axis + 2 < rank {
        let mut order: Vec<usize> = (0..rank).collect();
        order.swap(axis, rank - 2);
        return permute(&fft(&permute(x, &order), rank - 2, inverse), &order);
    }
    let n = x.shape()[axis];
    let mut value = x.value().clone();
    if n > 1 {
        static PLANS: LazyLock<Mutex<FftPlanner<f64>>> = LazyLock::new(|| Mutex::new(FftPlanner::new()));
        let mut plans = PLANS.lock().unwrap_or_else(|e| e.into_inner());
        let plan = if inverse { plans.plan_fft_inverse(n) } else { plans.plan_fft_forward(n) };
        drop(plans);
        value.data_mut().par_chunks_exact_mut(2 * n).for_each(|row| {
            let mut line: Vec<Complex<f64>> =
                row.chunks_exact(2).map(|c| Complex::new(c[0].f64(), c[1].f64())).collect();
            plan.process(&mut line);
            row.chunks_exact_mut(2).zip(line).for_each(|(c, z)| (c[0], c[1]) = (T::of(z.re), T::of(z.im)));
        });
    }
    Var::op("fft", value, &[x], || Box::new(move |g| vec![Some(fft(g, axis, !inverse))]))
}

/// The first n/2 + 1 coefficients of the transform of n reals, which fix the rest: `[.., n]` to `[.., n/2 + 1, 2]`.
pub fn rfft<T: Real>(x: &Var<T>) -> Var<T> {
    let rank = x.shape().len();
    let zeros = Var::constant(Tensor::zeros(x.shape()));
    let half = x.shape()[rank - 1] / 2 + 1;
    slice(&fft(&stack(&[x, &zeros], rank), rank - 1, false), rank - 1, 0..half)
}

/// The inverse of [`rfft`]: `n` real numbers from `[.., n/2 + 1, 2]`. Imaginary parts at the ends, where real numbers
/// have none, are ignored.
///
/// # Panics
/// When there are not n/2 + 1 coefficients.
pub fn irfft<T: Real>(x: &Var<T>, n: usize) -> Var<T> {
    let axis = x.shape().len() - 2;
    assert!(n > 0 && x.shape()[axis] == n / 2 + 1, "{:?} holds no {n}/2 + 1 coefficients", x.shape());
    // The other half is the conjugate, reversed.
    let mirrored: Vec<usize> = (n / 2 + 1..n).map(|k| n - k).collect();
    let conjugate = Var::constant(Tensor::new(&[2], vec![T::ONE, -T::ONE]));
    let rest = mul(&index_select(x, axis, &mirrored), &conjugate);
    let whole = fft(&concat(&[x, &rest], axis), axis, true);
    let shape = [&x.shape()[..axis], &[n]].concat();
    scale(&reshape(&slice(&whole, axis + 1, 0..1), &shape), 1.0 / n as f64)
}
