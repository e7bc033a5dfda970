//! Operators on images, lines and volumes: channels lie last in memory, and missing axes are of extent one.

use super::pass::{Live, Run};
use super::plan::Step;
use crate::ops::{self, Cx, Done, Frame, parts};
use nnz_engine::layers::Statistics;
use nnz_engine::ops::{self as tape, Window};
use nnz_engine::{Real, Role, Tensor, Var};

/// `[batch, depth, height, width, channels]`, padded where a window of the engine does not: on one side only, or by more
/// than it reaches. Padding is `fill`.
fn framed<T: Real>(run: &Run<'_, '_, T>, x: &Live<T>, w: &Frame, fill: f64) -> Done<(Var<T>, Window<3>)> {
    let shape = x.shape();
    let [d, h, wide] = w.size;
    let mut y = tape::reshape(&x.by_places(), &[shape[0], d, h, wide, shape[1]]);
    let mut window = Window::new(w.kernel).stride(w.stride).dilation(w.dilation);
    let mut frame = vec![shape[0], shape[1]];
    for i in 0..3 {
        let [before, after] = w.pads[i];
        let span = w.dilation[i] * (w.kernel[i] - 1) + 1;
        // The last window of one that is rounded up may reach further.
        let needed = (w.output[i] - 1) * w.stride[i] + span;
        let after = after.max(needed.saturating_sub(w.size[i] + before));
        frame.push(before + w.size[i] + after);
        run.room(&frame)?;
        if before == after && before < span {
            window.padding[i] = before;
            continue;
        }
        if before + after == 0 {
            continue;
        }
        y = tape::pad(&y, 1 + i, before, after);
        if fill != 0.0 {
            let n = before + w.size[i] + after;
            let mut line = [1; 5];
            line[1 + i] = n;
            let outside = |j: usize| if (before..before + w.size[i]).contains(&j) { 0.0 } else { fill };
            y = tape::add(&y, &Var::constant(Tensor::new(&line, (0..n).map(|j| T::of(outside(j))).collect())));
        }
    }
    Ok((y, window))
}

/// Back from five axes to those of the input.
fn unframed<T: Real>(y: &Var<T>, rank: usize) -> Live<T> {
    let shape = y.shape();
    let to = [&shape[..1], &shape[6 - rank..]].concat();
    Live::channels_last(tape::reshape(y, &to))
}

fn said_kernel(cx: &Cx, kernel: &[usize]) -> Done<()> {
    match cx.sizes("kernel_shape", kernel.len(), 0)? {
        said if cx.ints("kernel_shape")?.is_none() || said == kernel => Ok(()),
        said => Err(format!("a kernel of {kernel:?} where {said:?} is said")),
    }
}

/// Extents of the kernel that a step reads.
fn kernel_of<T: Real>(run: &mut Run<'_, '_, T>, step: &Step) -> Done<(Option<usize>, Vec<usize>)> {
    match run.plan.weight(step, 1) {
        Some((w, false)) if run.plan.weights[w].spec.role == Role::Weight => {
            Ok((Some(w), run.plan.weights[w].dims.clone()))
        }
        _ => Ok((None, run.live(step, 1)?.shape())),
    }
}

/// A kernel as the engine has it, `[rows, kernel · channels]`.
fn laid_out<T: Real>(run: &mut Run<'_, '_, T>, step: &Step, weight: Option<usize>, dims: &[usize]) -> Done<Var<T>> {
    if let Some(w) = weight.filter(|&w| run.plan.weights[w].order.get(1) != Some(&1)) {
        return Ok(run.whole(w));
    }
    let x = run.live(step, 1)?.by_places();
    Ok(tape::reshape(&x, &[dims[0], dims[1..].iter().product()]))
}

pub(super) fn conv<T: Real>(run: &mut Run<'_, '_, T>, step: &Step, cx: &Cx) -> Done<Live<T>> {
    let x = run.live(step, 0)?;
    let shape = x.shape();
    let (batch, channels, places) = parts(&shape)?;
    let (weight, dims) = kernel_of(run, step)?;
    let groups = usize::try_from(cx.int("group", 1)?).unwrap_or(0);
    let fits = dims.len() == shape.len()
        && groups > 0
        && dims[0].is_multiple_of(groups)
        && dims[1].checked_mul(groups) == Some(channels)
        && dims[0] > 0
        && channels > 0;
    if !fits {
        return Err(format!("a kernel {dims:?} in {groups} groups for an input of shape {shape:?}"));
    }
    said_kernel(cx, &dims[2..])?;
    let w = Frame::new(cx, &places, &dims[2..])?;
    run.room(&w.shape(batch, dims[0]))?;
    let (x, window) = framed(run, &x, &w, 0.0)?;
    if let Some(k) = weight {
        run.count(k, batch * w.output.iter().product::<usize>());
    }
    let bias = run.has(step, 2);
    if let Some(k) = weight.filter(|&k| run.plan.weights[k].uses == 1 && run.plan.weights[k].order.get(1) != Some(&1)) {
        let next = run.plan.weight(step, 2).is_some_and(|(b, _)| b == k + 1 && run.plan.weights[b].dims == [dims[0]]);
        run.seek(k);
        let y = run.cx.conv(&x, window, groups, next);
        let y = match bias && !next {
            true => tape::add_bias(&y, &run.vector(step, 2, dims[0])?),
            false => y,
        };
        return Ok(unframed(&y, shape.len()));
    }
    let kernel = laid_out(run, step, weight, &dims)?;
    let bias = bias.then(|| run.vector(step, 2, dims[0])).transpose()?;
    Ok(unframed(&tape::conv(&x, &kernel, bias.as_ref(), window, groups), shape.len()))
}

pub(super) fn transposed<T: Real>(run: &mut Run<'_, '_, T>, step: &Step, cx: &Cx) -> Done<Live<T>> {
    let x = run.live(step, 0)?;
    let shape = x.shape();
    let (batch, channels, places) = parts(&shape)?;
    let (weight, dims) = kernel_of(run, step)?;
    let groups = usize::try_from(cx.int("group", 1)?).unwrap_or(0);
    let rank = places.len();
    let fits = dims.len() == shape.len()
        && groups > 0
        && dims[0] == channels
        && channels.is_multiple_of(groups)
        && channels > 0
        && (1..=3).contains(&rank)
        && dims[1..].iter().all(|&d| d > 0);
    if !fits {
        return Err(format!("a kernel {dims:?} in {groups} groups for an input of shape {shape:?}"));
    }
    said_kernel(cx, &dims[2..])?;
    if cx.ints("output_shape")?.is_some() || !["NOTSET", "", "VALID"].contains(&cx.text("auto_pad", "NOTSET")?) {
        return Err(
            "an output whose extents are said (output_shape, auto_pad) is not trained; export it with pads".into()
        );
    }
    let (stride, dilation) = (cx.sizes("strides", rank, 1)?, cx.sizes("dilations", rank, 1)?);
    let (pads, extra) = (cx.sizes("pads", 2 * rank, 0)?, cx.sizes("output_padding", rank, 0)?);
    let mut window = Window::<3>::new([1; 3]);
    let (mut more, mut size) = ([0; 3], [1; 3]);
    let mut to = vec![batch];
    for i in 0..rank {
        let at = 3 - rank + i;
        let (n, k, s, p) = (places[i], dims[2 + i], stride[i], pads[i]);
        let span = dilation[i] * (k - 1) + 1;
        let whole = n.saturating_sub(1) * s + span + extra[i];
        if s == 0 || dilation[i] == 0 || n == 0 || p != pads[i + rank] || extra[i] >= s || p >= span || whole <= 2 * p {
            return Err(format!(
                "stride {s}, padding {:?}, {} more and a kernel of {k} on {n} places; even padding below the kernel and fewer \
                 more than the stride are trained",
                [p, pads[i + rank]],
                extra[i]
            ));
        }
        (window.kernel[at], window.stride[at], window.padding[at]) = (k, s, p);
        (window.dilation[at], more[at], size[at]) = (dilation[i], extra[i], n);
        to.push(whole - 2 * p);
    }
    let outputs = dims[1] * groups;
    to.push(outputs);
    run.room(&to)?;
    run.room(&[batch, places.iter().product(), dims[1..].iter().product(), groups])?;
    let [d, h, wide] = size;
    if let Some(k) = weight {
        run.count(k, batch * places.iter().product::<usize>());
    }
    let x = tape::reshape(&x.by_places(), &[batch, d, h, wide, channels]);
    let kernel = laid_out(run, step, weight, &dims)?;
    let bias = run.has(step, 2).then(|| run.vector(step, 2, outputs)).transpose()?;
    Ok(unframed(&tape::conv_transposed(&x, &kernel, bias.as_ref(), window, groups, more), shape.len()))
}

pub(super) fn pool<T: Real>(run: &mut Run<'_, '_, T>, step: &Step, cx: &Cx) -> Done<Live<T>> {
    let x = run.live(step, 0)?;
    let shape = x.shape();
    let (batch, channels, places) = parts(&shape)?;
    let kernel = cx.sizes("kernel_shape", places.len(), 0)?;
    let w = Frame::new(cx, &places, &kernel)?;
    run.room(&w.shape(batch, channels))?;
    let reach = |i: usize| w.pads[i].iter().all(|&p| p < w.dilation[i] * (w.kernel[i] - 1) + 1 || p == 0);
    if shape.contains(&0) || !(0..3).all(reach) {
        return Err(format!("windows that see nothing of an input of shape {shape:?}"));
    }
    if step.outputs.iter().skip(1).any(Option::is_some) {
        return Err("places of the largest as an output, which is not trained".into());
    }
    if step.node.op == "MaxPool" {
        let (x, window) = framed(run, &x, &w, f64::NEG_INFINITY)?;
        return Ok(unframed(&tape::max_pool(&x, window), shape.len()));
    }
    let all = cx.int("count_include_pad", 0)? != 0;
    run.room(&[batch, channels, w.output.iter().product(), kernel.iter().product()])?;
    let (x, window) = framed(run, &x, &w, 0.0)?;
    let y = tape::avg_pool(&x, window);
    // The mean is over what counts: the input, or the frame that was asked for too.
    let seen = |i: usize, o: usize| {
        let [before, after] = w.pads[i];
        let counted = if all { 0..before + w.size[i] + after } else { before..before + w.size[i] };
        (0..w.kernel[i]).filter(|k| counted.contains(&(o * w.stride[i] + k * w.dilation[i]))).count().max(1)
    };
    let area = window.area() as f64;
    let [d, h, wide] = w.output;
    let places = (0..d).flat_map(|z| (0..h).flat_map(move |y| (0..wide).map(move |x| [z, y, x])));
    let shares: Vec<f64> = places.map(|p| area / (0..3).map(|i| seen(i, p[i])).product::<usize>() as f64).collect();
    let y = match shares.iter().all(|&s| s == 1.0) {
        true => y,
        false => {
            let shares = Tensor::new(&[1, d, h, wide, 1], shares.into_iter().map(T::of).collect());
            tape::mul(&y, &Var::constant(shares))
        }
    };
    Ok(unframed(&y, shape.len()))
}

pub(super) fn global_pool<T: Real>(run: &mut Run<'_, '_, T>, step: &Step) -> Done<Live<T>> {
    let x = run.live(step, 0)?;
    let shape = x.shape();
    let (batch, channels, places) = parts(&shape)?;
    if shape.contains(&0) {
        return Err(format!("an input of shape {shape:?}"));
    }
    let x = x.by_places();
    let y = if step.node.op == "GlobalMaxPool" { tape::global_max_pool(&x) } else { tape::global_avg_pool(&x) };
    Ok(Live::rows(tape::reshape(&y, &[&[batch, channels][..], &vec![1; places.len()]].concat())))
}

pub(super) fn batch_norm<T: Real>(run: &mut Run<'_, '_, T>, step: &Step, cx: &Cx) -> Done<Live<T>> {
    let x = run.live(step, 0)?;
    let shape = x.shape();
    let &[batch, channels, ..] = &shape[..] else {
        return Err(format!("an input of shape {shape:?}, which has no channels"));
    };
    let (x, image) = if shape.len() > 2 { (x.by_places(), true) } else { (x.by_rows(), false) };
    let (gain, offset) = (run.vector(step, 1, channels)?, run.vector(step, 2, channels)?);
    let (mean, variance) = (run.vector(step, 3, channels)?, run.vector(step, 4, channels)?);
    let epsilon = f64::from(cx.float("epsilon", 1e-5)?);
    // Statistics that several norms share are kept as they are.
    let own = match (run.plan.weight(step, 3), run.plan.weight(step, 4)) {
        (Some((m, _)), Some((v, _))) if v == m + 1 => {
            [m, v].iter().all(|&w| run.plan.weights[w].uses == 1).then_some(m)
        }
        _ => None,
    };
    let y = match own.filter(|_| run.cx.training() && !x.value().is_empty()) {
        None => tape::batch_norm_fixed(&x, &gain, &offset, mean.value(), variance.value(), epsilon),
        Some(m) => {
            let rows = batch * shape[2..].iter().product::<usize>();
            let (y, mean, variance) = tape::batch_norm(&x, &gain, &offset, epsilon);
            // The share that is kept there is the share of the batch here.
            let momentum = 1.0 - f64::from(cx.float("momentum", 0.9)?);
            run.cx.observe(Statistics { mean_at: run.place(m), mean, variance, rows, momentum });
            y
        }
    };
    Ok(Live { x: y, last: image })
}

pub(super) fn group_norm<T: Real>(run: &mut Run<'_, '_, T>, step: &Step, cx: &Cx) -> Done<Live<T>> {
    let x = run.live(step, 0)?;
    let shape = x.shape();
    if shape.len() < 3 || shape.contains(&0) {
        return Err(format!("an input of shape {shape:?}, which has no places"));
    }
    let channels = shape[1];
    let groups = match &*step.node.op {
        "InstanceNormalization" => channels,
        _ => usize::try_from(cx.int("num_groups", 0)?).unwrap_or(0),
    };
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(format!("{channels} channels in {groups} groups"));
    }
    let mut part = |i: usize| {
        let n = run.live(step, i)?.x.value().len();
        let v = run.vector(step, i, if n == groups { groups } else { channels })?;
        // Before version 21 there was one number for each group.
        let each: Vec<usize> = (0..channels).map(|c| c / (channels / groups)).collect();
        Ok::<_, String>(if n == channels { v } else { tape::index_select(&v, 0, &each) })
    };
    let (gain, offset) = (part(1)?, part(2)?);
    let epsilon = f64::from(cx.float("epsilon", 1e-5)?);
    Ok(Live::channels_last(tape::group_norm(&x.by_places(), groups, &gain, &offset, epsilon)))
}

/// Resizes axis by axis, as sums of entries along it.
pub(super) fn resize<T: Real>(run: &mut Run<'_, '_, T>, step: &Step, cx: &Cx) -> Done<Live<T>> {
    let x = run.live(step, 0)?;
    let given = std::iter::once(None).chain((1..step.inputs.len()).map(|i| run.plain(step, i))).collect();
    let (_, lines, _) = ops::resizing(cx, &x.shape(), &mut ops::Given(given))?;
    let mut y = x.x.clone();
    for (axis, taps) in lines {
        let axis = x.axis(axis);
        let all = taps.into_iter().map(|t| t.ok_or("places outside of the input are not trained".to_string()));
        let taps = all.collect::<Done<Vec<Vec<(usize, f32)>>>>()?;
        let most = taps.iter().map(Vec::len).max().unwrap_or(0);
        let mut wide = y.shape().to_vec();
        wide[axis] = taps.len();
        run.room(&wide)?;
        let mut sum: Option<Var<T>> = None;
        for k in 0..most {
            let index: Vec<usize> = taps.iter().map(|t| t.get(k).map_or(0, |p| p.0)).collect();
            let shares: Vec<T> = taps.iter().map(|t| T::of(t.get(k).map_or(0.0, |p| f64::from(p.1)))).collect();
            let mut part = tape::index_select(&y, axis, &index);
            if shares.iter().any(|&s| s != T::ONE) {
                let mut line = vec![1; part.shape().len()];
                line[axis] = shares.len();
                part = tape::mul(&part, &Var::constant(Tensor::new(&line, shares)));
            }
            sum = Some(sum.map_or(part.clone(), |s| tape::add(&s, &part)));
        }
        y = sum.ok_or("no places")?;
    }
    Ok(x.like(y))
}
