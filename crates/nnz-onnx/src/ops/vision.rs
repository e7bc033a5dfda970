//! Pictures read between their points, boxes, and windows put back.

use super::{Cx, Done, Given, axis, one, resize::cubic, runs, shape::extents, strides};
use crate::value::{Value, each};
use nnz_engine::Tensor;

/// Reflects a coordinate into a range.
fn reflected(x: f32, low: f32, high: f32) -> f32 {
    let span = high - low;
    if span <= 0.0 {
        return low;
    }
    let far = (x - low).abs();
    let (turns, rest) = ((far / span).floor(), far % span);
    if turns % 2.0 == 0.0 { low + rest } else { high - rest }
}

/// How positions outside are read.
#[derive(Clone, Copy, PartialEq)]
enum Outside {
    Zeros,
    Border,
    Reflection,
}

/// The point of an axis of `n` that is read for a whole position.
fn inside(i: f32, n: usize, outside: Outside, corners: bool) -> Option<usize> {
    let last = (n - 1) as f32;
    let at = match outside {
        _ if (0.0..=last).contains(&i) => i,
        Outside::Zeros => return None,
        Outside::Border => i.clamp(0.0, last),
        Outside::Reflection if corners => reflected(i, 0.0, last),
        Outside::Reflection => reflected(i, -0.5, last + 0.5),
    };
    if at.is_nan() { None } else { Some(at.clamp(0.0, last) as usize) }
}

/// Reads a picture at a point: the sum over the taps of each axis.
fn read(x: &[f32], size: &[usize], taps: &[Vec<(Option<usize>, f32)>]) -> f32 {
    let Some(((n, taps), rest)) = size.split_first().zip(taps.split_first()).map(|((n, s), (t, r))| ((n, t), (s, r)))
    else {
        return x[0];
    };
    let each = x.len() / n;
    let part = |&(i, w): &(Option<usize>, f32)| i.map_or(0.0, |i| w * read(&x[i * each..][..each], rest.0, rest.1));
    taps.iter().map(part).sum()
}

pub(crate) fn grid_sample(cx: &Cx, mut given: Given) -> Done {
    let (x, grid) = (given.tensor(0)?, given.tensor(1)?);
    let &[batch, channels, ref size @ ..] = x.shape() else {
        return Err(format!("a picture of shape {:?}", x.shape()));
    };
    let Some((&rank, [b, places @ ..])) = grid.shape().split_last() else { return Err("a grid without axes".into()) };
    if *b != batch || rank != size.len() || places.len() != rank || rank == 0 {
        return Err(format!("a grid of shape {:?} for shape {:?}", grid.shape(), x.shape()));
    }
    let mode = cx.text("mode", "linear")?;
    let outside = match cx.text("padding_mode", "zeros")? {
        "zeros" => Outside::Zeros,
        "border" => Outside::Border,
        "reflection" => Outside::Reflection,
        other => return Err(format!("padding of kind `{other}`")),
    };
    let corners = cx.int("align_corners", 0)? != 0;
    let to = [&[batch, channels], places].concat();
    let count = cx.room(&to)?;
    if count > 0 && size.contains(&0) {
        return Err(format!("a picture of shape {:?}", x.shape()));
    }
    let points: usize = places.iter().product();
    let (each, mut y) = (size.iter().product::<usize>(), vec![0.0f32; count]);
    for (b, p) in (0..batch).flat_map(|b| (0..points).map(move |p| (b, p))) {
        let told = &grid.data()[(b * points + p) * rank..][..rank];
        let mut taps = Vec::with_capacity(rank);
        for (a, &n) in size.iter().enumerate() {
            // The grid names the last axis first.
            let v = told[rank - 1 - a];
            let last = (n - 1) as f32;
            let mut at = if corners { (v + 1.0) / 2.0 * last } else { ((v + 1.0) * n as f32 - 1.0) / 2.0 };
            if mode == "nearest" {
                at = at.round_ties_even();
            }
            let (low, high) = if corners { (0.0, last) } else { (-0.5, last + 0.5) };
            if at < low || at > high {
                at = match outside {
                    Outside::Zeros => at,
                    Outside::Border => at.clamp(0.0, last),
                    Outside::Reflection => reflected(at, low, high),
                };
            }
            let floor = at.floor();
            let tap = |d: f32, w: f32| (inside(floor + d, n, outside, corners), w);
            let t = at - floor;
            taps.push(match mode {
                "nearest" => vec![(inside(at.trunc(), n, outside, corners), 1.0)],
                "linear" | "bilinear" => vec![tap(0.0, 1.0 - t), tap(1.0, t)],
                "cubic" | "bicubic" => (-1i8..3).map(f32::from).map(|d| tap(d, cubic(-0.75, t - d))).collect(),
                other => return Err(format!("mode `{other}`")),
            });
        }
        for c in 0..channels {
            let from = &x.data()[(b * channels + c) * each..][..each];
            y[(b * channels + c) * points + p] = read(from, size, &taps);
        }
    }
    one(Value::floats(&to, y))
}

pub(crate) fn affine_grid(cx: &Cx, mut given: Given) -> Done {
    let (theta, size) = (given.tensor(0)?, given.ints(1)?);
    let size = extents(size.data())?;
    let [batch, _, places @ ..] = &size[..] else { return Err(format!("a size of {size:?}")) };
    let rank = places.len();
    if theta.shape() != [*batch, rank, rank + 1] || !(2..=3).contains(&rank) {
        return Err(format!("matrices of shape {:?} for a size of {size:?}", theta.shape()));
    }
    let corners = cx.int("align_corners", 0)? != 0;
    let to = [&[*batch], places, &[rank]].concat();
    cx.room(&to)?;
    let points: usize = places.iter().product();
    let own = strides(places);
    let mut y = Vec::with_capacity(batch * points * rank);
    for (b, p) in (0..*batch).flat_map(|b| (0..points).map(move |p| (b, p))) {
        let at = |a: usize| {
            let (i, n) = ((p / own[a] % places[a]) as f32, places[a] as f32);
            if corners { if n > 1.0 { 2.0 * i / (n - 1.0) - 1.0 } else { -1.0 } } else { (2.0 * i + 1.0) / n - 1.0 }
        };
        for row in theta.data()[b * rank * (rank + 1)..][..rank * (rank + 1)].chunks_exact(rank + 1) {
            // The last axis comes first.
            y.push((0..rank).map(|a| row[a] * at(rank - 1 - a)).sum::<f32>() + row[rank]);
        }
    }
    one(Value::floats(&to, y))
}

/// Taps of an axis of `n` at a position, as in Mask R-CNN: none beyond one point outside.
fn edge_taps(v: f32, n: usize) -> Option<[(usize, f32); 2]> {
    if !(-1.0..=n as f32).contains(&v) {
        return None;
    }
    let v = v.max(0.0);
    let low = (v as usize).min(n - 1);
    let t = if low == n - 1 { 0.0 } else { v - low as f32 };
    Some([(low, 1.0 - t), ((low + 1).min(n - 1), t)])
}

/// Pools boxes of pictures to one size (He et al. 2017).
pub(crate) fn roi_align(cx: &Cx, mut given: Given) -> Done {
    let (x, boxes, batches) = (given.tensor(0)?, given.tensor(1)?, given.ints(2)?);
    let (&[batch, channels, h, w], &[count, 4]) = (x.shape(), boxes.shape()) else {
        return Err(format!("boxes of shape {:?} of shape {:?}", boxes.shape(), x.shape()));
    };
    let extent = |name: &str| cx.int(name, 1).map(|v| usize::try_from(v).unwrap_or(0));
    let (oh, ow, told) = (extent("output_height")?, extent("output_width")?, cx.int("sampling_ratio", 0)?);
    let scale = cx.float("spatial_scale", 1.0)?;
    let old = if cx.opset < 16 { "output_half_pixel" } else { "half_pixel" };
    let half = cx.text("coordinate_transformation_mode", old)? == "half_pixel";
    let most = match cx.text("mode", "avg")? {
        "avg" => false,
        "max" => true,
        other => return Err(format!("mode `{other}`")),
    };
    let to = [count, channels, oh, ow];
    cx.room(&to)?;
    if h == 0 || w == 0 || batches.data().len() != count {
        return Err(format!("boxes of shape {:?} of shape {:?}", boxes.shape(), x.shape()));
    }
    let mut y = Vec::with_capacity(count * channels * oh * ow);
    for (of, told_batch) in boxes.data().chunks_exact(4).zip(batches.data()) {
        let b = usize::try_from(*told_batch)
            .ok()
            .filter(|&b| b < batch)
            .ok_or(format!("picture {told_batch} of {batch}"))?;
        let shift = if half { 0.5 } else { 0.0 };
        let [x0, y0, x1, y1] = [of[0], of[1], of[2], of[3]].map(|v| v * scale - shift);
        let (mut wide, mut high) = (x1 - x0, y1 - y0);
        if !half {
            (wide, high) = (wide.max(1.0), high.max(1.0));
        }
        let (bin_h, bin_w) = (high / oh as f32, wide / ow as f32);
        let samples = |bin: f32| if told > 0 { told as usize } else { bin.ceil().max(0.0) as usize };
        let (sh, sw) = (samples(bin_h), samples(bin_w));
        cx.room(&[oh, ow, sh, sw])?;
        for (c, ph, pw) in (0..channels).flat_map(|c| (0..oh).flat_map(move |p| (0..ow).map(move |q| (c, p, q)))) {
            let from = &x.data()[(b * channels + c) * h * w..][..h * w];
            let (mut sum, mut top) = (0.0f32, None::<f32>);
            for (iy, ix) in (0..sh).flat_map(|i| (0..sw).map(move |j| (i, j))) {
                let at = |start: f32, p: usize, bin: f32, i: usize, n: usize| {
                    start + p as f32 * bin + (i as f32 + 0.5) * bin / n as f32
                };
                let (v, u) = (at(y0, ph, bin_h, iy, sh), at(x0, pw, bin_w, ix, sw));
                let parts = match (edge_taps(v, h), edge_taps(u, w)) {
                    (Some(rows), Some(cols)) => {
                        let part = |r: usize, c: usize| rows[r].1 * cols[c].1 * from[rows[r].0 * w + cols[c].0];
                        [part(0, 0), part(0, 1), part(1, 0), part(1, 1)]
                    }
                    _ => [0.0; 4],
                };
                sum += parts.iter().sum::<f32>();
                let best = parts.into_iter().fold(f32::NEG_INFINITY, f32::max);
                top = Some(top.map_or(best, |t| t.max(best)));
            }
            y.push(if most { top.unwrap_or(0.0) } else { sum / (sh * sw).max(1) as f32 });
        }
    }
    one(Value::floats(&to, y))
}

/// Keeps the best of boxes that overlap.
pub(crate) fn suppress(cx: &Cx, mut given: Given) -> Done {
    let (boxes, scores) = (given.tensor(0)?, given.tensor(1)?);
    let (&[batch, n, 4], &[b, classes, m]) = (boxes.shape(), scores.shape()) else {
        return Err(format!("boxes of shape {:?}, scores of shape {:?}", boxes.shape(), scores.shape()));
    };
    if b != batch || m != n {
        return Err(format!("boxes of shape {:?}, scores of shape {:?}", boxes.shape(), scores.shape()));
    }
    let most = if given.has(2) { super::flow::number(&mut given, 2)? } else { 0 };
    let share = if given.has(3) { given.scalar(3)? } else { 0.0 };
    let least = if given.has(4) { Some(given.scalar(4)?) } else { None };
    let centred = cx.int("center_point_box", 0)? != 0;
    // Low and high of both axes.
    let edges = |of: &[f32]| match centred {
        true => [of[0] - of[2] / 2.0, of[0] + of[2] / 2.0, of[1] - of[3] / 2.0, of[1] + of[3] / 2.0],
        false => [of[1].min(of[3]), of[1].max(of[3]), of[0].min(of[2]), of[0].max(of[2])],
    };
    let overlap = |a: [f32; 4], b: [f32; 4]| {
        let span = |i: usize| (a[i + 1].min(b[i + 1]) - a[i].max(b[i])).max(0.0);
        let area = |e: [f32; 4]| (e[1] - e[0]) * (e[3] - e[2]);
        let (both, areas) = (span(0) * span(2), [area(a), area(b)]);
        let union = areas[0] + areas[1] - both;
        both > 0.0 && areas.iter().all(|&a| a > 0.0) && union > 0.0 && both / union > share
    };
    let mut found = Vec::new();
    for (b, c) in (0..batch).flat_map(|b| (0..classes).map(move |c| (b, c))) {
        let scores = &scores.data()[(b * classes + c) * n..][..n];
        let at = |i: usize| edges(&boxes.data()[(b * n + i) * 4..][..4]);
        let mut order: Vec<usize> = (0..n).filter(|&i| least.is_none_or(|l| scores[i] > l)).collect();
        order.sort_by(|&i, &j| scores[j].total_cmp(&scores[i]).then(i.cmp(&j)));
        let mut kept: Vec<usize> = Vec::new();
        for i in order {
            if kept.len() as i64 >= most {
                break;
            }
            if !kept.iter().any(|&k| overlap(at(i), at(k))) {
                kept.push(i);
                found.extend([b as i64, c as i64, i as i64]);
            }
        }
        cx.room(&[found.len()])?;
    }
    one(Value::ints(&[found.len() / 3, 3], found))
}

/// Puts windows back where they were cut out, and adds where they overlap.
pub(crate) fn col2im(cx: &Cx, mut given: Given) -> Done {
    let x = given.tensor(0)?;
    let size = extents(given.ints(1)?.data())?;
    let block = extents(given.ints(2)?.data())?;
    let rank = size.len();
    let (dilation, stride) = (cx.sizes("dilations", rank, 1)?, cx.sizes("strides", rank, 1)?);
    let pads = cx.sizes("pads", 2 * rank, 0)?;
    let &[batch, rows, count] = x.shape() else { return Err(format!("windows of shape {:?}", x.shape())) };
    let area = crate::graph::count(&block)?;
    if block.len() != rank || area == 0 || !rows.is_multiple_of(area) || stride.iter().chain(&dilation).any(|&s| s == 0)
    {
        return Err(format!("{rows} numbers in windows of {block:?}"));
    }
    let channels = rows / area;
    let to = [&[batch, channels], &size[..]].concat();
    let n = cx.room(&to)?;
    let mut steps = Vec::with_capacity(rank);
    for i in 0..rank {
        let span = dilation[i].saturating_mul(block[i] - 1).saturating_add(1);
        let room = (size[i] + pads[i] + pads[i + rank]).checked_sub(span);
        steps.push(room.ok_or(format!("windows of {block:?} in a size of {size:?}"))? / stride[i] + 1);
    }
    if crate::graph::count(&steps)? != count {
        return Err(format!("{count} windows, but {steps:?} fit"));
    }
    let (own, per_block, per_step) = (strides(&size), strides(&block), strides(&steps));
    let mut y = vec![0.0f32; n];
    let places: usize = size.iter().product();
    for (r, line) in x.data().chunks_exact(count.max(1)).enumerate() {
        let (image, k) = (r / area, r % area);
        for (s, v) in line.iter().enumerate() {
            let at = (0..rank).try_fold(0usize, |at, a| {
                let place = s / per_step[a] % steps[a] * stride[a] + k / per_block[a] % block[a] * dilation[a];
                let place = place.checked_sub(pads[a]).filter(|&p| p < size[a])?;
                Some(at + place * own[a])
            });
            if let Some(at) = at {
                y[image * places + at] += v;
            }
        }
    }
    one(Value::floats(&to, y))
}

pub(crate) fn center(cx: &Cx, mut given: Given) -> Done {
    let x = given.take(0)?;
    let wanted = given.ints(1)?;
    let shape = x.shape();
    let axes = match cx.ints("axes")? {
        Some(list) => list.iter().map(|&a| axis(a, shape.len())).collect::<Done<Vec<_>>>()?,
        None => (0..shape.len()).collect(),
    };
    let wanted = extents(wanted.data())?;
    if wanted.len() != axes.len() || (1..axes.len()).any(|i| axes[..i].contains(&axes[i])) {
        return Err(format!("extents {wanted:?} for axes {axes:?}"));
    }
    let mut to = shape.clone();
    axes.iter().zip(&wanted).for_each(|(&a, &n)| to[a] = n);
    let n = cx.room(&to)?;
    // What both have in common, and where it begins in each.
    let common: Vec<usize> = shape.iter().zip(&to).map(|(a, b)| *a.min(b)).collect();
    let start =
        |all: &[usize]| -> usize { strides(all).iter().zip(all).zip(&common).map(|((s, n), c)| (n - c) / 2 * s).sum() };
    let (from, at) = (start(&shape), start(&to));
    fn copied<T: Copy + Default>(
        x: &[T],
        n: usize,
        common: &[usize],
        s: [&[usize]; 2],
        [from, at]: [usize; 2],
    ) -> Vec<T> {
        let mut y = vec![T::default(); n];
        runs(common, s, |[a, b], m| {
            if m > 0 {
                y[at + b..at + b + m].copy_from_slice(&x[from + a..from + a + m]);
            }
        });
        y
    }
    if x.is_empty() {
        return Err(format!("a value of shape {shape:?}"));
    }
    let (sa, sb) = (strides(&shape), strides(&to));
    one(each!(x, |data, _shape| (to.clone(), copied(data, n, &common, [&sa, &sb], [from, at]))))
}

pub(crate) fn unpool(cx: &Cx, mut given: Given) -> Done {
    let (x, places) = (given.tensor(0)?, given.ints(1)?);
    let &[batch, channels, ref size @ ..] = x.shape() else { return Err(format!("an input of shape {:?}", x.shape())) };
    let rank = size.len();
    let kernel = cx.sizes("kernel_shape", rank, 1)?;
    let (stride, pads) = (cx.sizes("strides", rank, 1)?, cx.sizes("pads", 2 * rank, 0)?);
    let mut own = vec![batch, channels];
    for i in 0..rank {
        let n = (size[i].saturating_sub(1) * stride[i] + kernel[i]).checked_sub(pads[i] + pads[i + rank]);
        own.push(n.ok_or(format!("pads {pads:?} leave nothing"))?);
    }
    let to = if given.has(2) { extents(given.ints(2)?.data())? } else { own.clone() };
    cx.room(&own)?;
    let n = cx.room(&to)?;
    if to.len() != own.len() || to.iter().zip(&own).any(|(a, b)| a < b) || places.shape() != x.shape() {
        return Err(format!("an output of shape {to:?} for shape {own:?}"));
    }
    // Places count in the smaller shape, at the front of the larger.
    let (small, large) = (strides(&own), strides(&to));
    let all: usize = own.iter().product();
    let mut y = vec![0.0f32; n];
    for (&v, &p) in x.data().iter().zip(places.data()) {
        let p = usize::try_from(p).ok().filter(|&p| p < all).ok_or(format!("place {p} of {all}"))?;
        y[(0..own.len()).map(|a| p / small[a] % own[a] * large[a]).sum::<usize>()] = v;
    }
    one(Value::floats(&to, y))
}

/// A convolution whose taps are shifted at every place (Dai et al. 2017, with the masks of Zhu et al. 2019).
pub(crate) fn deformed(cx: &Cx, mut given: Given) -> Done {
    let (x, w, shift) = (given.tensor(0)?, given.tensor(1)?, given.tensor(2)?);
    let bias = if given.has(3) { Some(given.tensor(3)?) } else { None };
    let mask = if given.has(4) { Some(given.tensor(4)?) } else { None };
    let (&[batch, channels, h, wide], &[filters, each, kh, kw]) = (x.shape(), w.shape()) else {
        return Err(format!("a weight of shape {:?} on an input of shape {:?}", w.shape(), x.shape()));
    };
    let groups = usize::try_from(cx.int("group", 1)?).unwrap_or(0);
    let shifts = usize::try_from(cx.int("offset_group", 1)?).unwrap_or(0);
    let (stride, dilation) = (cx.sizes("strides", 2, 1)?, cx.sizes("dilations", 2, 1)?);
    let pads = cx.sizes("pads", 4, 0)?;
    let &[sb, parts, oh, ow] = shift.shape() else { return Err(format!("shifts of shape {:?}", shift.shape())) };
    let taps = kh * kw;
    let fits = groups > 0
        && shifts > 0
        && each.checked_mul(groups) == Some(channels)
        && filters.is_multiple_of(groups)
        && channels.is_multiple_of(shifts)
        && sb == batch
        && shifts.checked_mul(2 * taps) == Some(parts)
        && stride.iter().chain(&dilation).all(|&s| s > 0)
        && bias.as_ref().is_none_or(|b| b.len() == filters)
        && mask.as_ref().is_none_or(|m| m.shape() == [batch, shifts * taps, oh, ow]);
    if !fits || taps == 0 || h == 0 || wide == 0 {
        return Err(format!("a weight of shape {:?} and shifts of shape {:?}", w.shape(), shift.shape()));
    }
    for (i, (n, o, k)) in [(h, oh, kh), (wide, ow, kw)].into_iter().enumerate() {
        let room = (n + pads[i] + pads[i + 2]).checked_sub(dilation[i].saturating_mul(k - 1).saturating_add(1));
        if room.map(|r| r / stride[i] + 1) != Some(o) {
            return Err(format!("shifts of shape {:?} for an input of shape {:?}", shift.shape(), x.shape()));
        }
    }
    let to = [batch, filters, oh, ow];
    cx.room(&to)?;
    // The shifted patches of one picture, then a product with the weight.
    let patch = cx.room(&[channels, taps, oh, ow])?;
    let places = oh * ow;
    let mut y = Vec::with_capacity(batch * filters * places);
    let mut read_at = vec![0.0f32; patch];
    for b in 0..batch {
        for (c, t, p) in (0..channels).flat_map(|c| (0..taps).flat_map(move |t| (0..places).map(move |p| (c, t, p)))) {
            let g = c / (channels / shifts);
            let told = |d: usize| shift.data()[((b * shifts + g) * taps * 2 + 2 * t + d) * places + p];
            let at = |o: usize, k: usize, i: usize| (o * stride[i] + k * dilation[i]) as f32 - pads[i] as f32 + told(i);
            let (v, u) = (at(p / ow, t / kw, 0), at(p % ow, t % kw, 1));
            let axis_taps = |v: f32, n: usize| {
                let t = v - v.floor();
                let tap = |d: f32, w: f32| (inside(v.floor() + d, n, Outside::Zeros, true), w);
                vec![tap(0.0, 1.0 - t), tap(1.0, t)]
            };
            let share = mask.as_ref().map_or(1.0, |m| m.data()[((b * shifts + g) * taps + t) * places + p]);
            let from = &x.data()[(b * channels + c) * h * wide..][..h * wide];
            read_at[(c * taps + t) * places + p] =
                share * read(from, &[h, wide], &[axis_taps(v, h), axis_taps(u, wide)]);
        }
        for f in 0..filters {
            let first = f / (filters / groups) * each * taps;
            for p in 0..places {
                let sum: f32 =
                    (0..each * taps).map(|i| w.data()[f * each * taps + i] * read_at[(first + i) * places + p]).sum();
                y.push(sum + bias.as_ref().map_or(0.0, |b| b.data()[f]));
            }
        }
    }
    super::tensor(Tensor::new(&to, y))
}
