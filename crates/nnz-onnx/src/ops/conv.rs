//! Convolutions and pooling over sequences, images and volumes. Numbers have channels last meanwhile.

use super::{Cx, Done, Given, one, tensor};
use crate::value::{Floats, Value};
use nnz_engine::Tensor;
use nnz_kernels::Conv;

/// Position of a window on its input.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub kernel: [usize; 3],
    pub stride: [usize; 3],
    pub dilation: [usize; 3],
    /// Zeros before and after.
    pub pads: [[usize; 2]; 3],
    pub size: [usize; 3],
    pub output: [usize; 3],
    rank: usize,
}

/// The last `n` of three extents are those given; the first are one.
fn three(list: &[usize]) -> [usize; 3] {
    let mut all = [1; 3];
    all[3 - list.len()..].copy_from_slice(list);
    all
}

impl Window {
    pub fn new(cx: &Cx, places: &[usize], kernel: &[usize]) -> Done<Self> {
        let rank = places.len();
        if !(1..=3).contains(&rank) {
            return Err(format!("places of shape {places:?}; lines, pictures and volumes are computed"));
        }
        if kernel.len() != rank || kernel.iter().any(|&k| k == 0 || k > 1 << 20) {
            return Err(format!("a window of {kernel:?} on places of shape {places:?}"));
        }
        let (stride, dilation) = (cx.sizes("strides", rank, 1)?, cx.sizes("dilations", rank, 1)?);
        if stride.iter().chain(&dilation).any(|&s| s == 0) {
            return Err(format!("strides {stride:?} and dilations {dilation:?}"));
        }
        let said = cx.sizes("pads", 2 * rank, 0)?;
        let auto = cx.text("auto_pad", "NOTSET")?;
        let ceil = cx.int("ceil_mode", 0)? != 0;
        let mut w = Self {
            kernel: three(kernel),
            stride: three(&stride),
            dilation: three(&dilation),
            pads: [[0; 2]; 3],
            size: three(places),
            output: [1; 3],
            rank,
        };
        for i in 0..rank {
            let at = 3 - rank + i;
            let (n, s) = (places[i], stride[i]);
            let span = dilation[i] * (kernel[i] - 1) + 1;
            w.pads[at] = match auto {
                "NOTSET" | "" => [said[i], said[i + rank]],
                "VALID" => [0, 0],
                "SAME_UPPER" | "SAME_LOWER" => {
                    let all = ((n.div_ceil(s).max(1) - 1) * s + span).saturating_sub(n);
                    let (less, more) = (all / 2, all - all / 2);
                    if auto == "SAME_UPPER" { [less, more] } else { [more, less] }
                }
                other => return Err(format!("padding of kind `{other}`")),
            };
            let whole = n + w.pads[at][0] + w.pads[at][1];
            let Some(room) = whole.checked_sub(span) else {
                return Err(format!("a window of {span} on {n} places with {:?} zeros around", w.pads[at]));
            };
            w.output[at] = if ceil { room.div_ceil(s) } else { room / s } + 1;
            // The last window must begin on the input or the padding before it.
            if ceil && (w.output[at] - 1) * s >= n + w.pads[at][0] {
                w.output[at] -= 1;
            }
        }
        Ok(w)
    }

    fn even(&self) -> bool {
        self.pads.iter().all(|[a, b]| a == b)
    }

    pub fn shape(&self, batch: usize, channels: usize) -> Vec<usize> {
        let mut shape = vec![batch];
        shape.extend(&self.output[3 - self.rank..]);
        shape.push(channels);
        shape
    }
}

/// Splits a shape into batch, channels and spatial extents.
pub(crate) fn parts(shape: &[usize]) -> Done<(usize, usize, Vec<usize>)> {
    match shape {
        [batch, channels, places @ ..] if !places.is_empty() => Ok((*batch, *channels, places.to_vec())),
        _ => Err(format!("an input of shape {shape:?}, which has no places")),
    }
}

/// `[filters, channels, kernel..]` to `[filters, kernel.., channels]`.
pub(crate) fn packed(w: &Tensor<f32>) -> Tensor<f32> {
    Floats::new(w.clone()).last()
}

/// Pads images with channels last by zeros.
fn framed(x: &Tensor<f32>, batch: usize, w: &Window, channels: usize) -> (Tensor<f32>, [usize; 3]) {
    let size: [usize; 3] = std::array::from_fn(|i| w.size[i] + w.pads[i][0] + w.pads[i][1]);
    let [d, h, wide] = size;
    let t = Tensor::written(&[batch, d, h, wide, channels], |to| {
        to.fill(0.0);
        for b in 0..batch {
            for (z, y) in (0..w.size[0]).flat_map(|z| (0..w.size[1]).map(move |y| (z, y))) {
                let from = ((b * w.size[0] + z) * w.size[1] + y) * w.size[2] * channels;
                let row = ((b * d + z + w.pads[0][0]) * h + y + w.pads[1][0]) * wide + w.pads[2][0];
                let n = w.size[2] * channels;
                to[row * channels..][..n].copy_from_slice(&x.data()[from..from + n]);
            }
        }
    });
    (t, size)
}

/// Runs a convolution, with its packed weight if there is one.
pub(crate) fn run(
    cx: &Cx,
    x: Floats,
    w: &Tensor<f32>,
    ready: Option<&Tensor<f32>>,
    bias: Option<&Tensor<f32>>,
) -> Done {
    let (batch, channels, places) = parts(&x.shape())?;
    let shape = w.shape();
    let groups = usize::try_from(cx.int("group", 1)?).unwrap_or(0);
    let fits = shape.len() == places.len() + 2
        && groups > 0
        && shape[0].is_multiple_of(groups)
        && shape[1].checked_mul(groups) == Some(channels);
    if !fits {
        let place = cx.ints("kernel_shape")?.unwrap_or_default();
        return Err(format!(
            "a weight of shape {shape:?} in {groups} groups with windows {place:?} on an input of shape {:?}",
            x.shape()
        ));
    }
    let filters = shape[0];
    let window = Window::new(cx, &places, &shape[2..])?;
    let to = window.shape(batch, filters);
    cx.room(&to)?;
    let framed_extent = |i: usize| window.size[i] + window.pads[i][0] + window.pads[i][1];
    cx.room(&[batch, framed_extent(0), framed_extent(1), framed_extent(2), channels])?;
    if bias.is_some_and(|b| b.len() != filters) {
        return Err(format!("a bias of {} numbers for {filters} channels", bias.map_or(0, Tensor::len)));
    }
    // The weight is arranged in panels of two registers per group.
    let panels = (filters / groups).div_ceil(32).saturating_mul(32);
    cx.room(&[&[groups, panels], &shape[1..]].concat())?;
    let x = x.last();
    if to.contains(&0) || x.is_empty() || filters == 0 {
        return one(Value::Float(Floats::channels_last(Tensor::zeros(&to))));
    }
    let own;
    let w = match ready {
        Some(ready) => ready,
        None => {
            own = packed(w);
            &own
        }
    };
    let (x, size, padding) = match window.even() {
        true => (x, window.size, window.pads.map(|p| p[0])),
        false => {
            let (x, size) = framed(&x, batch, &window, channels);
            (x, size, [0; 3])
        }
    };
    let Window { kernel, stride, dilation, .. } = window;
    let conv = Conv { batch, size, channels, filters, kernel, stride, padding, dilation, groups };
    let y = Tensor::written(&to, |y| conv.forward(x.data(), w.data(), bias.map(Tensor::data), y));
    one(Value::Float(Floats::channels_last(y)))
}

/// Extracts the patches for a kernel of a shape, `[patches, channels kernel..]`: at most `most`, evenly from all.
pub(crate) fn patches(cx: &Cx, x: Floats, kernel: &[usize], most: usize) -> Done<Tensor<f32>> {
    let (batch, channels, places) = parts(&x.shape())?;
    if kernel.len() != places.len() + 2 || kernel[1] != channels {
        return Err(format!("a kernel of shape {kernel:?} on an input of shape {:?}", x.shape()));
    }
    let w = Window::new(cx, &places, &kernel[2..])?;
    let area = crate::graph::count(&w.kernel)?;
    let all = crate::graph::count(&[batch, w.output[0], w.output[1], w.output[2]])?;
    let n = all.min(most);
    let cols = crate::graph::count(&[channels, area])?;
    cx.room(&[n, cols])?;
    let x = x.last();
    let mut to = vec![0.0; n * cols];
    let [_, oh, ow] = w.output;
    for (k, row) in to.chunks_exact_mut(cols.max(1)).enumerate() {
        let at = k * all / n;
        let (b, place) = (at / (all / batch), at % (all / batch));
        let start = [place / (oh * ow), place / ow % oh, place % ow];
        for tap in 0..area {
            let step = [tap / (w.kernel[1] * w.kernel[2]), tap / w.kernel[2] % w.kernel[1], tap % w.kernel[2]];
            let inside = |i: usize| {
                let at = (start[i] * w.stride[i] + step[i] * w.dilation[i]).checked_sub(w.pads[i][0])?;
                (at < w.size[i]).then_some(at)
            };
            let (Some(z), Some(y), Some(c)) = (inside(0), inside(1), inside(2)) else { continue };
            let from = (((b * w.size[0] + z) * w.size[1] + y) * w.size[2] + c) * channels;
            (0..channels).for_each(|c| row[c * area + tap] = x.data()[from + c]);
        }
    }
    Ok(Tensor::new(&[n, cols], to))
}

pub(crate) fn conv(cx: &Cx, mut given: Given) -> Done {
    let (x, w) = (given.floats(0)?, given.tensor(1)?);
    let bias = if given.has(2) { Some(given.tensor(2)?) } else { None };
    run(cx, x, &w, None, bias.as_ref())
}

pub(crate) fn transposed(cx: &Cx, mut given: Given) -> Done {
    let (x, w) = (given.floats(0)?, given.tensor(1)?);
    let (batch, channels, places) = parts(&x.shape())?;
    let rank = places.len();
    let shape = w.shape().to_vec();
    let groups = usize::try_from(cx.int("group", 1)?).unwrap_or(0);
    if rank > 3 || shape.len() != rank + 2 || shape[0] != channels || groups == 0 || !channels.is_multiple_of(groups) {
        return Err(format!("a weight of shape {shape:?} in {groups} groups on an input of shape {:?}", x.shape()));
    }
    let filters = shape[1].checked_mul(groups).ok_or("too many channels")?;
    let (stride, dilation) = (cx.sizes("strides", rank, 1)?, cx.sizes("dilations", rank, 1)?);
    let (more, said) = (cx.sizes("output_padding", rank, 0)?, cx.sizes("pads", 2 * rank, 0)?);
    let kernel = &shape[2..];
    if stride.iter().chain(&dilation).chain(kernel).any(|&s| s == 0) || kernel.iter().any(|&k| k > 1 << 20) {
        return Err(format!("strides {stride:?}, dilations {dilation:?}, a window of {kernel:?}"));
    }
    if places.contains(&0) {
        return Err(format!("an input of shape {:?}", x.shape()));
    }
    let asked = if cx.ints("output_shape")?.is_some() { Some(cx.sizes("output_shape", rank, 0)?) } else { None };
    let auto = cx.text("auto_pad", "NOTSET")?;
    let (mut full, mut cut, mut to) = (vec![0; rank], vec![0; rank], vec![0; rank]);
    for i in 0..rank {
        let span = dilation[i] * (kernel[i] - 1) + 1;
        if more[i] >= stride[i].max(dilation[i]) {
            return Err(format!("output padding {more:?} at strides {stride:?}"));
        }
        full[i] = (places[i] - 1).saturating_mul(stride[i]).saturating_add(span + more[i]);
        let same = auto.starts_with("SAME");
        let wanted = match &asked {
            Some(list) => Some(list[i]),
            None if same => Some(places[i].saturating_mul(stride[i])),
            None => None,
        };
        let (before, behind) = match wanted {
            Some(n) => {
                let all = full[i].checked_sub(n).ok_or(format!("an output of {n} out of {}", full[i]))?;
                if auto == "SAME_UPPER" { (all / 2, all - all / 2) } else { (all - all / 2, all / 2) }
            }
            None if auto == "VALID" => (0, 0),
            None => (said[i], said[i + rank]),
        };
        cut[i] = before;
        to[i] =
            full[i].checked_sub(before + behind).filter(|&n| n > 0).ok_or(format!("pads {said:?} leave nothing"))?;
    }
    let all = [&[batch], &full[..], &[filters]].concat();
    cx.room(&all)?;
    // The product reads the input in a frame of zeros, as wide as the window.
    let around = |i: usize| places[i] + 2 * ((dilation[i] * (kernel[i] - 1) + 1) / stride[i] + 1);
    cx.room(&[&(0..rank).map(around).collect::<Vec<_>>()[..], &[channels]].concat())?;
    let conv = Conv {
        batch,
        size: three(&full),
        channels: filters,
        filters: channels,
        kernel: three(kernel),
        stride: three(&stride),
        padding: [0; 3],
        dilation: three(&dilation),
        groups,
    };
    let x = x.last();
    if conv.output() != three(&places) {
        return Err(format!("output padding {more:?} at strides {stride:?}"));
    }
    let (x, w) = (x, packed(&w));
    let y = Tensor::written(&all, |y| {
        y.fill(0.0);
        conv.backward_input(x.data(), w.data(), y);
    });
    let mut y = Floats::channels_last(y);
    if to != full {
        // Crop the padding.
        let (f, t, c) = (three(&full), three(&to), {
            let mut c = [0; 3];
            c[3 - rank..].copy_from_slice(&cut);
            c
        });
        let shape = [&[batch], &to[..], &[filters]].concat();
        let from = y.raw();
        y = Floats::channels_last(Tensor::written(&shape, |out| {
            let n = t[2] * filters;
            let mut rows = out.chunks_exact_mut(n.max(1));
            for (b, z, row) in (0..batch).flat_map(|b| (0..t[0]).flat_map(move |z| (0..t[1]).map(move |r| (b, z, r)))) {
                let at = (((b * f[0] + z + c[0]) * f[1] + row + c[1]) * f[2] + c[2]) * filters;
                if let Some(to) = rows.next() {
                    to.copy_from_slice(&from.data()[at..at + n]);
                }
            }
        }));
    }
    if given.has(2) {
        let bias = given.tensor(2)?;
        if bias.len() != filters {
            return Err(format!("a bias of {} numbers for {filters} channels", bias.len()));
        }
        let mut t = y.raw();
        let add = |row: &mut [f32]| row.iter_mut().zip(bias.data()).for_each(|(y, b)| *y += b);
        t.data_mut().chunks_exact_mut(filters.max(1)).for_each(add);
        y = Floats::channels_last(t);
    }
    one(Value::Float(y))
}

/// Effect of a norm with constants on each channel: times the first, plus the second.
fn affine(cx: &Cx, [scale, shift, mean, variance]: [&[f32]; 4]) -> Done<Vec<[f32; 2]>> {
    if [shift.len(), mean.len(), variance.len()] != [scale.len(); 3] {
        return Err(format!("{} scales, {} shifts, {} means", scale.len(), shift.len(), mean.len()));
    }
    let epsilon = f64::from(cx.float("epsilon", 1e-5)?);
    let one = |i: usize| {
        let a = f64::from(scale[i]) / (f64::from(variance[i]) + epsilon).sqrt();
        [a as f32, (f64::from(shift[i]) - f64::from(mean[i]) * a) as f32]
    };
    Ok((0..scale.len()).map(one).collect())
}

pub(crate) fn batch_norm(cx: &Cx, mut given: Given) -> Done {
    let x = given.floats(0)?;
    let shape = x.shape();
    if shape.len() < 2 {
        return Err(format!("an input of shape {shape:?}, which has no channels"));
    }
    let v = [given.tensor(1)?, given.tensor(2)?, given.tensor(3)?, given.tensor(4)?];
    if cx.int("training_mode", 0)? != 0 {
        return of_batch(cx, &x.rows(), v);
    }
    let by = affine(cx, v.each_ref().map(Tensor::data))?;
    if by.len() != shape[1] {
        return Err(format!("{} scales for {} channels", by.len(), shape[1]));
    }
    if shape.len() == 2 || x.is_last() {
        let last = x.is_last();
        let mut t = x.raw();
        for row in t.data_mut().chunks_exact_mut(by.len().max(1)) {
            row.iter_mut().zip(&by).for_each(|(v, [a, b])| *v = *v * a + b);
        }
        return one(Value::Float(Floats::like(t, last)));
    }
    let places: usize = shape[2..].iter().product();
    let mut t = x.rows();
    for (i, row) in t.data_mut().chunks_exact_mut(places.max(1)).enumerate() {
        let [a, b] = by[i % by.len()];
        row.iter_mut().for_each(|v| *v = *v * a + b);
    }
    tensor(t)
}

/// A norm by the statistics of the batch, which also move the running ones.
fn of_batch(cx: &Cx, x: &Tensor<f32>, [scale, shift, mean, variance]: [Tensor<f32>; 4]) -> Done {
    let channels = x.shape()[1];
    let places: usize = x.shape()[2..].iter().product();
    if [scale.len(), shift.len(), mean.len(), variance.len()] != [channels; 4] {
        return Err(format!("{} scales for {channels} channels", scale.len()));
    }
    let (mut sums, mut squares) = (vec![0.0f64; channels], vec![0.0f64; channels]);
    let n = x.len() as f64 / channels.max(1) as f64;
    let rows = || x.data().chunks_exact(places.max(1)).enumerate().map(|(i, row)| (i % channels, row));
    rows().for_each(|(c, row)| sums[c] += row.iter().map(|&v| f64::from(v)).sum::<f64>() / n);
    rows().for_each(|(c, row)| squares[c] += row.iter().map(|&v| (f64::from(v) - sums[c]).powi(2)).sum::<f64>() / n);
    let tensor = |v: &[f64]| Tensor::new(&[channels], v.iter().map(|&v| v as f32).collect());
    let now = [tensor(&sums), tensor(&squares)];
    let by = affine(cx, [scale.data(), shift.data(), now[0].data(), now[1].data()])?;
    let y =
        rows().flat_map(|(c, row)| row.iter().map(move |v| (c, *v))).map(|(c, v)| v * by[c][0] + by[c][1]).collect();
    let kept = cx.float("momentum", 0.9)?;
    let moved =
        |old: &Tensor<f32>, new: &Tensor<f32>| old.clone().combine(new, move |a, b| a * kept + b * (1.0 - kept));
    let running = [moved(&mean, &now[0]), moved(&variance, &now[1])];
    let mut out = vec![Value::floats(x.shape(), y)];
    out.extend(running.into_iter().map(|t| Value::Float(Floats::new(t))));
    out.truncate(cx.node.outputs.len().max(1));
    Ok(out)
}

/// Folds a norm into the convolution before it: their combined weight and bias.
pub(crate) fn fold_norm(
    cx: &Cx,
    w: &Tensor<f32>,
    bias: Option<&Tensor<f32>>,
    norm: [&[f32]; 4],
) -> Done<(Tensor<f32>, Tensor<f32>)> {
    let by = affine(cx, norm)?;
    let filters = w.shape().first().copied().unwrap_or(0);
    if by.len() != filters || filters == 0 {
        return Err(format!("{} scales for {filters} channels", by.len()));
    }
    let mut w = w.clone();
    let each = w.len() / filters;
    for (row, [a, _]) in w.data_mut().chunks_exact_mut(each.max(1)).zip(&by) {
        row.iter_mut().for_each(|v| *v *= a);
    }
    let old = |i: usize| bias.map_or(0.0, |b| b.data()[i]);
    let bias = by.iter().enumerate().map(|(i, [a, b])| old(i) * a + b).collect();
    Ok((w, Tensor::new(&[filters], bias)))
}
