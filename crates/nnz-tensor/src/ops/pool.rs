//! Pooling and resampling of `[batch, .., channels]`.

use super::*;
use nnz_kernels as kernels;

/// Largest value under every window; padding never wins, and the first of equals gets the gradient.
///
/// # Panics
/// When a window covers only padding.
pub fn max_pool<T: Real, const D: usize>(x: &Var<T>, window: Window<D>) -> Var<T> {
    let (batch, size, c) = pixels::<D>(x.shape());
    let out = window.output(size);
    let shape = picture(batch, out, c);
    let kernel = window.kernels(batch, size, c, c, 1);
    let mut at = vec![0; shape.iter().product()];
    let value = Tensor::written(&shape, |y| kernels::max_pool(&kernel, x.value().data(), y, &mut at));
    let (at, before) = (Arc::new(at), x.shape().to_vec());
    let also_at = at.clone();
    let composite = move |p: &[Var<T>]| pick(&p[0], Arc::new(also_at.iter().map(|&i| i as usize).collect()), &shape);
    Var::fast("max_pool", value, &[x], composite, || {
        Box::new(move |g| {
            let mut dx = Tensor::zeros(&before);
            let to = dx.data_mut();
            at.iter().zip(g.data()).for_each(|(&i, &g)| to[i as usize] += g);
            vec![Some(dx)]
        })
    })
}

/// Mean under every window, counting the zeros of the padding.
pub fn avg_pool<T: Real, const D: usize>(x: &Var<T>, window: Window<D>) -> Var<T> {
    let (batch, size, c) = pixels::<D>(x.shape());
    let columns = patches(x, window);
    let apart = reshape(&columns, &[columns.shape()[0], window.area(), c]);
    reshape(&mean_over(&apart, &[1]), &picture(batch, window.output(size), c))
}

fn spatial<T: Real>(x: &Var<T>) -> Vec<usize> {
    (1..x.shape().len() - 1).collect()
}

/// Mean over all spatial axes: `[batch, channels]`.
pub fn global_avg_pool<T: Real>(x: &Var<T>) -> Var<T> {
    mean_over(x, &spatial(x))
}

/// Largest value over all spatial axes: `[batch, channels]`.
pub fn global_max_pool<T: Real>(x: &Var<T>) -> Var<T> {
    max_over(x, &spatial(x))
}

/// Repeats every pixel `factor` times along every spatial axis.
pub fn upsample_nearest<T: Real>(x: &Var<T>, factor: usize) -> Var<T> {
    spatial(x).into_iter().fold(x.clone(), |x, axis| {
        let index: Vec<usize> = (0..x.shape()[axis] * factor).map(|i| i / factor).collect();
        index_select(&x, axis, &index)
    })
}

/// Linear interpolation along every spatial axis to `size` pixels (bilinear for images). Pixels are areas: the centre
/// of output `i` lies at (i + ½) n / size - ½, clamped at the border.
pub fn upsample_linear<T: Real>(x: &Var<T>, size: &[usize]) -> Var<T> {
    spatial(x).into_iter().zip(size).fold(x.clone(), |x, (axis, &to)| {
        let n = x.shape()[axis];
        let centre = |i: usize| ((i as f64 + 0.5) * n as f64 / to as f64 - 0.5).max(0.0);
        let low: Vec<usize> = (0..to).map(|i| (centre(i) as usize).min(n - 1)).collect();
        let high: Vec<usize> = low.iter().map(|&l| (l + 1).min(n - 1)).collect();
        let share = |i: usize| T::of((centre(i) - low[i] as f64).min(1.0));
        let mut shape = vec![1; x.shape().len()];
        shape[axis] = to;
        let share = Var::constant(Tensor::new(&shape, (0..to).map(share).collect()));
        let (a, b) = (index_select(&x, axis, &low), index_select(&x, axis, &high));
        add(&a, &mul(&sub(&b, &a), &share))
    })
}
