//! Pooling. Numbers have channels last meanwhile.

use super::conv::{Window, parts};
use super::{Cx, Done, Given, one};
use crate::value::{Floats, Value};
use nnz_engine::Tensor;
use rayon::prelude::*;

pub(crate) fn pool(cx: &Cx, mut given: Given) -> Done {
    let x = given.floats(0)?;
    let (batch, channels, places) = parts(&x.shape())?;
    let kernel = cx.sizes("kernel_shape", places.len(), 0)?;
    let w = Window::new(cx, &places, &kernel)?;
    let to = w.shape(batch, channels);
    cx.room(&to)?;
    let most = cx.node.op == "MaxPool";
    if cx.node.outputs.get(1).is_some_and(|o| !o.is_empty()) {
        return with_places(cx, &x.rows(), &w, batch * channels);
    }
    let power = match (&*cx.node.op, cx.int("p", 2)?) {
        ("LpPool", p) if (1..=1 << 10).contains(&p) => Some(p as i32),
        ("LpPool", p) => return Err(format!("a norm of order {p}")),
        _ => None,
    };
    let all = cx.int("count_include_pad", 0)? != 0;
    let x = x.last();
    if to.contains(&0) {
        return one(Value::Float(Floats::channels_last(Tensor::zeros(&to))));
    }
    let [_, oh, ow] = w.output;
    // First and last tap on the input, and the number of taps on it or its frame.
    let taps = |axis: usize, o: usize| {
        let (k, d) = (w.kernel[axis], w.dilation[axis]);
        let (start, n, [before, behind]) = (o * w.stride[axis], w.size[axis], w.pads[axis]);
        let first = before.saturating_sub(start).div_ceil(d).min(k);
        let end = (n + before).saturating_sub(start).div_ceil(d).min(k);
        let framed = (n + before + behind).saturating_sub(start).div_ceil(d).min(k);
        (first, end.max(first), framed, start)
    };
    let y = Tensor::written(&to, |y| {
        y.par_chunks_exact_mut(ow * channels).enumerate().for_each(|(row, line)| {
            let (b, z, r) = (row / oh / w.output[0], row / oh % w.output[0], row % oh);
            let (az, bz, fz, sz) = taps(0, z);
            let (ay, by, fy, sy) = taps(1, r);
            for (c, out) in line.chunks_exact_mut(channels).enumerate() {
                let (ax, bx, fx, sx) = taps(2, c);
                out.fill(if most { f32::NEG_INFINITY } else { 0.0 });
                for (kz, ky) in (az..bz).flat_map(|kz| (ay..by).map(move |ky| (kz, ky))) {
                    let iz = sz + kz * w.dilation[0] - w.pads[0][0];
                    let iy = sy + ky * w.dilation[1] - w.pads[1][0];
                    for kx in ax..bx {
                        let ix = sx + kx * w.dilation[2] - w.pads[2][0];
                        let at = (((b * w.size[0] + iz) * w.size[1] + iy) * w.size[2] + ix) * channels;
                        let from = &x.data()[at..at + channels];
                        match most {
                            false if power.is_some() => {
                                let p = power.unwrap_or(1);
                                out.iter_mut().zip(from).for_each(|(y, &v)| *y += v.abs().powi(p));
                            }
                            true => out.iter_mut().zip(from).for_each(|(y, &v)| *y = if v > *y { v } else { *y }),
                            false => out.iter_mut().zip(from).for_each(|(y, &v)| *y += v),
                        }
                    }
                }
                if let Some(p) = power {
                    out.iter_mut().for_each(|y| *y = y.powf(1.0 / p as f32));
                } else if !most {
                    let n = match all {
                        true => fz * fy * fx,
                        false => (bz - az) * (by - ay) * (bx - ax),
                    };
                    let n = n.max(1) as f32;
                    out.iter_mut().for_each(|y| *y /= n);
                }
            }
        });
    });
    one(Value::Float(Floats::channels_last(y)))
}

pub(crate) fn global_pool(cx: &Cx, mut given: Given) -> Done {
    let x = given.floats(0)?;
    let (batch, channels, places) = parts(&x.shape())?;
    let shape = [&[batch, channels][..], &vec![1; places.len()]].concat();
    let n: usize = places.iter().product();
    if n == 0 {
        return Err(format!("an input of shape {:?}", x.shape()));
    }
    let most = cx.node.op == "GlobalMaxPool";
    let x = x.last();
    let mut y = Vec::with_capacity(batch * channels);
    for picture in x.data().chunks_exact((n * channels).max(1)) {
        let mut sums = vec![if most { f64::NEG_INFINITY } else { 0.0 }; channels];
        for place in picture.chunks_exact(channels) {
            match most {
                true => sums.iter_mut().zip(place).for_each(|(s, &v)| *s = s.max(f64::from(v))),
                false => sums.iter_mut().zip(place).for_each(|(s, &v)| *s += f64::from(v)),
            }
        }
        y.extend(sums.iter().map(|s| if most { *s as f32 } else { (s / n as f64) as f32 }));
    }
    one(Value::floats(&shape, y))
}

/// The largest of each window, and where they lie in the whole input.
fn with_places(cx: &Cx, x: &Tensor<f32>, w: &Window, images: usize) -> Done {
    let by_columns = cx.int("storage_order", 0)? != 0;
    let to: Vec<usize> = [&x.shape()[..2], &w.output[5 - x.shape().len()..]].concat();
    let count = cx.room(&to)?;
    let [d, h, wide] = w.size;
    let (mut y, mut found) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for (image, place) in (0..images).flat_map(|i| (0..w.output.iter().product::<usize>()).map(move |p| (i, p))) {
        let start = [place / (w.output[1] * w.output[2]), place / w.output[2] % w.output[1], place % w.output[2]];
        let (mut best, mut at) = (f32::NEG_INFINITY, None);
        for tap in 0..w.kernel.iter().product::<usize>() {
            let step = [tap / (w.kernel[1] * w.kernel[2]), tap / w.kernel[2] % w.kernel[1], tap % w.kernel[2]];
            let inside = |i: usize| {
                let at = (start[i] * w.stride[i] + step[i] * w.dilation[i]).checked_sub(w.pads[i][0])?;
                (at < w.size[i]).then_some(at)
            };
            let (Some(z), Some(r), Some(c)) = (inside(0), inside(1), inside(2)) else { continue };
            let v = x.data()[((image * d + z) * h + r) * wide + c];
            if at.is_none() || v > best {
                let own = if by_columns { (c * h + r) * d + z } else { (z * h + r) * wide + c };
                (best, at) = (v, Some(image * d * h * wide + own));
            }
        }
        y.push(best);
        found.push(at.map_or(-1, |a| a as i64));
    }
    Ok(vec![Value::floats(&to, y), Value::ints(&to, found)])
}
