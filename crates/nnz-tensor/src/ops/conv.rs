//! Convolutions in one, two and three dimensions over `[batch, .., channels]`, as products with unfolded patches.
//!
//! A weight is a matrix `[out, kernel · in / groups]`, the kernel's entries in row-major order, channels innermost, like
//! a sparse weight. [`patches`] and [`unpatch`] around any other product give the sparse forms.

use super::*;

/// Splits columns `[rows, kernel · channels]` by group, `[groups, rows, kernel · channels / groups]`.
fn by_group<T: Real>(columns: &Var<T>, area: usize, groups: usize) -> Var<T> {
    let (rows, cols) = columns.value().rows_cols();
    let c = cols / area.max(1) / groups;
    let apart = permute(&reshape(columns, &[rows, area, groups, c]), &[2, 0, 1, 3]);
    reshape(&apart, &[groups, rows, area * c])
}

/// x * W + b: `weight` is `[out, kernel · in / groups]`, `bias` `[out]`. Output channel `o` sees the inputs of group
/// `o / (out / groups)`; with as many groups as channels the convolution is depthwise.
///
/// # Panics
/// When channels, groups and weight do not fit.
pub fn conv<T: Real, const D: usize>(
    x: &Var<T>,
    weight: &Var<T>,
    bias: Option<&Var<T>>,
    window: Window<D>,
    groups: usize,
) -> Var<T> {
    let (batch, size, channels) = pixels::<D>(x.shape());
    let (out, cols) = weight.value().rows_cols();
    let fits = groups > 0 && out % groups == 0 && channels % groups == 0 && cols == window.area() * channels / groups;
    assert!(fits, "a weight [{out}, {cols}] for {channels} channels in {groups} groups under {window:?}");
    let kernel = window.kernels(batch, size, channels, out, groups);
    let value = Tensor::written(&picture(batch, window.output(size), out), |y| {
        kernel.forward(x.value().data(), weight.value().data(), bias.map(|b| b.value().data()), y);
    });
    let parents: Vec<&Var<T>> = [x, weight].into_iter().chain(bias).collect();
    let unfolded = move |p: &[Var<T>]| conv_unfolded(&p[0], &p[1], p.get(2), window, groups);
    let (of_x, of_w, biased) = (x.clone(), weight.clone(), bias.is_some());
    Var::fast("conv", value, &parents, unfolded, || {
        Box::new(move |g| {
            let (x, w) = (of_x.value(), of_w.value());
            let dx =
                of_x.tracked().then(|| Tensor::written(x.shape(), |to| kernel.backward_input(g.data(), w.data(), to)));
            let dw =
                of_w.tracked().then(|| Tensor::written(w.shape(), |to| kernel.backward_weight(x.data(), g.data(), to)));
            vec![dx, dw, biased.then(|| column_sums(&g))]
        })
    })
}

/// [`conv`] by products with unfolded patches, from ops that differentiate twice.
fn conv_unfolded<T: Real, const D: usize>(
    x: &Var<T>,
    weight: &Var<T>,
    bias: Option<&Var<T>>,
    window: Window<D>,
    groups: usize,
) -> Var<T> {
    let (batch, size, channels) = pixels::<D>(x.shape());
    let (out, cols) = weight.value().rows_cols();
    let columns = patches(x, window);
    let rows = columns.shape()[0];
    let y = if groups == 1 {
        matmul(&columns, false, weight, true)
    } else if groups == channels && out == channels {
        // One channel per group: elementwise products, summed over the kernel.
        let kernel = reshape(&transpose(weight), &[1, window.area(), channels]);
        sum_over(&mul(&reshape(&columns, &[rows, window.area(), channels]), &kernel), &[1])
    } else {
        let weight = reshape(weight, &[groups, out / groups, cols]);
        let y = batch_matmul(&by_group(&columns, window.area(), groups), false, &weight, true);
        permute(&y, &[1, 0, 2])
    };
    let y = reshape(&y, &picture(batch, window.output(size), out));
    bias.map_or_else(|| y.clone(), |b| add_bias(&y, b))
}

/// The transpose of [`conv`] in x: `weight` is `[in, kernel · out / groups]`, so that the convolution from `out` to `in`
/// channels with the same weight and window is its transpose. `extra` lengthens the output, whose extents are
/// otherwise the shortest that fit.
///
/// # Panics
/// When channels, groups and weight do not fit.
pub fn conv_transposed<T: Real, const D: usize>(
    x: &Var<T>,
    weight: &Var<T>,
    bias: Option<&Var<T>>,
    window: Window<D>,
    groups: usize,
    extra: [usize; D],
) -> Var<T> {
    let (batch, size, channels) = pixels::<D>(x.shape());
    let (inputs, cols) = weight.value().rows_cols();
    let area = window.area();
    let fits = groups > 0 && inputs == channels && channels % groups == 0 && cols % area == 0;
    assert!(fits, "a weight [{inputs}, {cols}] for {channels} channels in {groups} groups under {window:?}");
    let wide = window.transposed(size, extra);
    assert_eq!(window.output(wide), size, "{extra:?} more pixels than the stride has room for");
    let (rows, each) = (x.value().len() / channels.max(1), cols / area);
    let columns = if groups == 1 {
        matmul(x, false, weight, false)
    } else {
        let x = permute(&reshape(x, &[rows, groups, channels / groups]), &[1, 0, 2]);
        let y = batch_matmul(&x, false, &reshape(weight, &[groups, channels / groups, cols]), false);
        let apart = permute(&reshape(&y, &[groups, rows, area, each]), &[1, 2, 0, 3]);
        reshape(&apart, &[rows, area * groups * each])
    };
    let y = unpatch(&columns, window, &picture(batch, wide, groups * each));
    bias.map_or_else(|| y.clone(), |b| add_bias(&y, b))
}
