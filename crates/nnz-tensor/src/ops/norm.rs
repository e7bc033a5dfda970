//! Normalization. All four share [`standardize`]; gains and offsets are ordinary products and sums.

use super::*;
use nnz_kernels::rows;

/// Mean and variance (divided by the count) over `axes`, which remain with extent one.
fn moments<T: Real>(x: &Tensor<T>, axes: &[usize]) -> (Tensor<T>, Tensor<T>) {
    let kept = shape::without(x.shape(), axes);
    let n = T::of(axes.iter().map(|&a| x.shape()[a]).product::<usize>().max(1) as f64);
    let mean = shape::sum_to(x, &kept).map(|s| s / n);
    let centred = shape::zip(x, &mean, |x, m| (x - m) * (x - m));
    (mean, shape::sum_to(&centred, &kept).map(|s| s / n))
}

/// Result of [`standardize`].
pub struct Standardized<T> {
    /// (x - mean) / √(variance + ε)
    pub output: Var<T>,
    /// Mean over the axes, which remain with extent one. Outside the tape.
    pub mean: Tensor<T>,
    /// Variance, divided by the count, likewise.
    pub variance: Tensor<T>,
}

/// (x - mean) / √(variance + ε), mean and variance taken over `axes`.
pub fn standardize<T: Real>(x: &Var<T>, axes: &[usize], epsilon: f64) -> Standardized<T> {
    let (mean, variance) = moments(x.value(), axes);
    let rate = variance.map(|v| T::ONE / (v + T::of(epsilon)).sqrt());
    let value = shape::zip(&shape::zip(x.value(), &mean, |x, m| x - m), &rate, |x, r| x * r);
    let (y, n) = (value.clone(), T::of((x.value().len() as f64 / mean.len().max(1) as f64).max(1.0)));
    let over = axes.to_vec();
    let composite = move |x: &[Var<T>]| {
        let x = &x[0];
        let kept = shape::without(x.shape(), &over);
        let share = 1.0 / (x.value().len() as f64 / kept.iter().product::<usize>().max(1) as f64).max(1.0);
        let centred = sub(x, &scale(&sum_to(x, &kept), share));
        let variance = scale(&sum_to(&square(&centred), &kept), share);
        div(&centred, &sqrt(&shift(&variance, epsilon)))
    };
    let output = Var::fast("standardize", value, &[x], composite, || {
        Box::new(move |g| {
            // rate · (g - mean(g) - y mean(g y))
            let mean = |t: &Tensor<T>| shape::sum_to(t, rate.shape()).map(|s| s / n);
            let (plain, weighted) = (mean(&g), mean(&g.zip(&y, |g, y| g * y)));
            let rest = shape::zip(&g, &plain, |g, m| g - m).zip(&shape::zip(&y, &weighted, |y, w| y * w), |a, b| a - b);
            vec![Some(shape::zip(&rest, &rate, |d, r| d * r))]
        })
    });
    Standardized { output, mean, variance }
}

/// gain ∘ standardized x + offset over the last axis; gain and offset are vectors (Ba et al. 2016, arXiv:1607.06450).
pub fn layer_norm<T: Real>(x: &Var<T>, gain: &Var<T>, offset: &Var<T>, epsilon: f64) -> Var<T> {
    let (rows, _) = x.value().rows_cols();
    let (mut mean, mut rate) = (Tensor::zeros(&[rows]), Tensor::zeros(&[rows]));
    let (v, a, b) = (x.value().data(), gain.value().data(), offset.value().data());
    let value = Tensor::written(x.shape(), |y| {
        rows::layer_norm(v, a, b, epsilon, y, mean.data_mut(), rate.data_mut());
    });
    let composite = move |p: &[Var<T>]| {
        let last = p[0].shape().len() - 1;
        add(&mul(&standardize(&p[0], &[last], epsilon).output, &p[1]), &p[2])
    };
    let (of_x, of_gain) = (x.value().clone(), gain.value().clone());
    Var::fast("layer_norm", value, &[x, gain, offset], composite, || {
        Box::new(move |g| {
            let (x, gain, g) = (of_x.data(), of_gain.data(), g);
            let (mean, rate, cols) = (mean.data(), rate.data(), gain.len());
            let dx = Tensor::written(g.shape(), |to| rows::layer_norm_backward(x, g.data(), gain, mean, rate, to));
            let (dgain, doffset) = rows::layer_norm_sums(x, g.data(), mean, rate, cols);
            let vector = |sums: Vec<f64>| Tensor::new(&[cols], sums.into_iter().map(T::of).collect());
            vec![Some(dx), Some(vector(dgain)), Some(vector(doffset))]
        })
    })
}

/// gain ∘ x / √(mean x² + ε) over the last axis (Zhang & Sennrich 2019, arXiv:1910.07467).
pub fn rms_norm<T: Real>(x: &Var<T>, gain: &Var<T>, epsilon: f64) -> Var<T> {
    let last = x.shape().len() - 1;
    let share = 1.0 / x.shape()[last].max(1) as f64;
    let mean = scale(&sum_to(&square(x), &shape::without(x.shape(), &[last])), share);
    mul(&div(x, &sqrt(&shift(&mean, epsilon))), gain)
}

/// Batch normalization of `[.., channels]` by the statistics of the batch (Ioffe & Szegedy 2015, arXiv:1502.03167).
/// Also returns mean and variance of every channel (divided by the count), outside the tape, for the running ones.
pub fn batch_norm<T: Real>(x: &Var<T>, gain: &Var<T>, offset: &Var<T>, epsilon: f64) -> (Var<T>, Tensor<T>, Tensor<T>) {
    let (count, channels) = x.value().rows_cols();
    let share = 1.0 / count.max(1) as f64;
    let vector = move |sums: Vec<f64>, share: f64| {
        Tensor::new(&[channels], sums.into_iter().map(|s| T::of(s * share)).collect())
    };
    let (mean, variance) = rows::column_moments(x.value().data(), channels);
    let (mean, variance) = (vector(mean, 1.0), vector(variance, 1.0));
    let rate = variance.map(|v| T::ONE / (v + T::of(epsilon)).sqrt());
    let factor = rate.zip(gain.value(), |r, g| r * g);
    let value = Tensor::written(x.shape(), |y| {
        let vectors = [mean.data(), factor.data(), offset.value().data()];
        rows::map_columns([x.value().data()], vectors, channels, y, |[x], [m, f, o]| (x - m) * f + o);
    });
    let composite = move |p: &[Var<T>]| {
        let axes: Vec<usize> = (0..p[0].shape().len() - 1).collect();
        add(&mul(&standardize(&p[0], &axes, epsilon).output, &p[1]), &p[2])
    };
    let (of_x, of_mean) = (x.value().clone(), mean.clone());
    let output = Var::fast("batch_norm", value, &[x, gain, offset], composite, || {
        Box::new(move |g| {
            // factor (g - mean g - z mean(g z)) for z = (x - mean) rate
            let (x, mean) = (of_x.data(), of_mean.data());
            let vectors = [mean, rate.data()];
            let weigh = |[x, g]: [T; 2], [m, r]: [T; 2]| g * ((x - m) * r);
            let [plain, weighted] = rows::two_column_sums([x, g.data()], vectors, channels, |[_, g], _| g, weigh);
            let (means, slopes) = (vector(plain.clone(), share), vector(weighted.clone(), share));
            let slopes = slopes.zip(&rate, |s, r| s * r);
            let vectors = [mean, factor.data(), means.data(), slopes.data()];
            let slope = |x, g, [m, f, p, s]: [T; 4]| f * (g - p - (x - m) * s);
            let dx = g.rewrite(
                |g| rows::update_columns(g, [x], vectors, channels, |g, [x], v| slope(x, g, v)),
                |g, to| rows::map_columns([x, g], vectors, channels, to, |[x, g], v| slope(x, g, v)),
            );
            vec![Some(dx), Some(vector(weighted, 1.0)), Some(vector(plain, 1.0))]
        })
    });
    (output, mean, variance)
}

/// Batch normalization by given statistics, for inference.
pub fn batch_norm_fixed<T: Real>(
    x: &Var<T>,
    gain: &Var<T>,
    offset: &Var<T>,
    mean: &Tensor<T>,
    variance: &Tensor<T>,
    epsilon: f64,
) -> Var<T> {
    let rate = Var::constant(variance.map(|v| T::ONE / (v + T::of(epsilon)).sqrt()));
    let factor = mul(gain, &rate);
    add(&mul(&sub(x, &Var::constant(mean.clone())), &factor), offset)
}

/// Moves `running` towards `batch` by `momentum`. A variance is made unbiased first: pass the rows it was taken over.
pub fn move_statistics<T: Real>(running: &mut Tensor<T>, batch: &Tensor<T>, momentum: f64, unbias: Option<usize>) {
    let factor = unbias.map_or(1.0, |n| n as f64 / (n.max(2) - 1) as f64);
    let (keep, take) = (T::of(1.0 - momentum), T::of(momentum * factor));
    running.data_mut().iter_mut().zip(batch.data()).for_each(|(r, &b)| *r = keep * *r + take * b);
}

/// Standardizes `[batch, .., channels]` within each of `groups` runs of channels of an example (Wu & He 2018,
/// arXiv:1803.08494).
///
/// # Panics
/// When the groups do not divide the channels.
pub fn group_norm<T: Real>(x: &Var<T>, groups: usize, gain: &Var<T>, offset: &Var<T>, epsilon: f64) -> Var<T> {
    let (batch, channels) = (x.shape()[0], x.value().rows_cols().1);
    assert!(groups > 0 && channels % groups == 0, "{groups} groups of {channels} channels");
    let area = x.shape()[1..x.shape().len() - 1].iter().product();
    let apart = reshape(x, &[batch, area, groups, channels / groups]);
    let y = reshape(&standardize(&apart, &[1, 3], epsilon).output, x.shape());
    add(&mul(&y, gain), offset)
}
