//! Fourier transforms, windows and mel filters.

use super::flow::number;
use super::{Cx, Done, Given, axis, one, types};
use crate::graph::DType;
use crate::value::Value;
use nnz_engine::Tensor;
use std::f64::consts::PI;

/// Most sums of a transform, which is computed term by term.
const MOST: usize = 1 << 34;

/// The transform of `x` to `bins` numbers: a sum over each line, with the angles of a line of length `n`.
fn transform(x: &[[f64; 2]], n: usize, bins: usize, back: bool) -> Vec<[f64; 2]> {
    let sign = if back { 1.0 } else { -1.0 };
    let turn: Vec<[f64; 2]> =
        (0..n).map(|i| 2.0 * PI * i as f64 / n as f64).map(|a| [a.cos(), sign * a.sin()]).collect();
    let share = if back { 1.0 / n as f64 } else { 1.0 };
    let bin = |k: usize| {
        let sum = x.iter().take(n).enumerate().fold([0.0; 2], |[re, im], (t, [a, b])| {
            let [c, s] = turn[(k as u128 * t as u128 % n as u128) as usize];
            [re + a * c - b * s, im + a * s + b * c]
        });
        sum.map(|v| v * share)
    };
    (0..bins).map(bin).collect()
}

pub(crate) fn dft(cx: &Cx, mut given: Given) -> Done {
    let x = given.tensor(0)?;
    let shape = x.shape().to_vec();
    let Some((&parts @ (1 | 2), outer)) = shape.split_last() else {
        return Err(format!("shape {shape:?}, which does not end in one or two parts of a number"));
    };
    let length = if given.has(1) { Some(number(&mut given, 1)?) } else { None };
    let told = match given.has(2) {
        true => number(&mut given, 2)?,
        false => cx.int("axis", if cx.opset < 20 { 1 } else { -2 })?,
    };
    let at = axis(told, shape.len())?;
    if at == outer.len() {
        return Err(format!("axis {told}, which holds the parts of numbers"));
    }
    let (back, half) = (cx.int("inverse", 0)? != 0, cx.int("onesided", 0)? != 0);
    let old = shape[at];
    // An inverse of half a transform restores real numbers; half of its bins are known from the others.
    let restores = back && half;
    let n = match length {
        Some(n) => usize::try_from(n).ok().filter(|&n| n > 0).ok_or(format!("a length of {n}"))?,
        None if restores => 2 * old.saturating_sub(1),
        None => old,
    };
    if n == 0 {
        return Err("a transform of no numbers".into());
    }
    let bins = if half && !back { n / 2 + 1 } else { n };
    let mut to = shape.clone();
    to[at] = bins;
    to[outer.len()] = if restores { 1 } else { 2 };
    let size = cx.room(&to)?;
    let inner: usize = shape[at + 1..outer.len()].iter().product();
    let rows: usize = shape[..at].iter().product();
    if size.checked_mul(n).is_none_or(|w| w > MOST.min(cx.most.saturating_mul(64))) || rows * inner > 0 && n > cx.most {
        return Err(format!("{size} sums of {n} numbers"));
    }
    let mut y = vec![0.0f32; size];
    let wide = to[outer.len()];
    for (o, i) in (0..rows).flat_map(|o| (0..inner).map(move |i| (o, i))) {
        let read = |t: usize| {
            let at = ((o * old + t) * inner + i) * parts;
            [f64::from(x.data()[at]), if parts == 2 { f64::from(x.data()[at + 1]) } else { 0.0 }]
        };
        let mut line: Vec<[f64; 2]> = (0..old.min(n)).map(read).collect();
        if restores {
            line.truncate(n / 2 + 1);
            line.resize(n, [0.0; 2]);
            for k in n / 2 + 1..n {
                let [re, im] = line[n - k];
                line[k] = [re, -im];
            }
        }
        for (k, [re, im]) in transform(&line, n, bins, back).into_iter().enumerate() {
            let at = ((o * bins + k) * inner + i) * wide;
            y[at] = re as f32;
            if wide == 2 {
                y[at + 1] = im as f32;
            }
        }
    }
    one(Value::floats(&to, y))
}

pub(crate) fn stft(cx: &Cx, mut given: Given) -> Done {
    let x = given.tensor(0)?;
    let step = number(&mut given, 1)?;
    let window = if given.has(2) { Some(given.tensor(2)?) } else { None };
    let told = if given.has(3) { Some(number(&mut given, 3)?) } else { None };
    let (batch, length, parts) = match *x.shape() {
        [batch, length] => (batch, length, 1),
        [batch, length, parts @ (1 | 2)] => (batch, length, parts),
        ref shape => return Err(format!("a signal of shape {shape:?}")),
    };
    let n = match (told, &window) {
        (Some(n), _) => usize::try_from(n).unwrap_or(0),
        (None, Some(w)) => w.len(),
        (None, None) => return Err("neither a window nor a length".into()),
    };
    let step = usize::try_from(step).unwrap_or(0);
    if n == 0 || step == 0 || n > length || window.as_ref().is_some_and(|w| w.len() != n) {
        return Err(format!("frames of {n}, every {step}, of {length} numbers"));
    }
    let (frames, bins) = ((length - n) / step + 1, if cx.int("onesided", 1)? != 0 { n / 2 + 1 } else { n });
    let to = [batch, frames, bins, 2];
    let size = cx.room(&to)?;
    if size.checked_mul(n).is_none_or(|w| w > MOST.min(cx.most.saturating_mul(64))) {
        return Err(format!("{size} sums of {n} numbers"));
    }
    let mut y = Vec::with_capacity(size);
    for (b, f) in (0..batch).flat_map(|b| (0..frames).map(move |f| (b, f))) {
        let read = |t: usize| {
            let at = (b * length + f * step + t) * parts;
            let w = window.as_ref().map_or(1.0, |w| f64::from(w.data()[t]));
            [w * f64::from(x.data()[at]), if parts == 2 { w * f64::from(x.data()[at + 1]) } else { 0.0 }]
        };
        let line: Vec<[f64; 2]> = (0..n).map(read).collect();
        y.extend(transform(&line, n, bins, false).into_iter().flat_map(|[re, im]| [re as f32, im as f32]));
    }
    one(Value::floats(&to, y))
}

pub(crate) fn window(cx: &Cx, mut given: Given) -> Done {
    let n = usize::try_from(number(&mut given, 0)?).map_err(|_| "a negative size")?;
    cx.room(&[n])?;
    let whole = if cx.int("periodic", 1)? != 0 { n } else { n.saturating_sub(1) }.max(1) as f64;
    // Weights of the cosines of the angle and of twice the angle.
    let [a, b, c] = match &*cx.node.op {
        "HannWindow" => [0.5, 0.5, 0.0],
        "HammingWindow" => [25.0 / 46.0, 21.0 / 46.0, 0.0],
        _ => [0.42, 0.5, 0.08],
    };
    let at = |i: usize| {
        let angle = 2.0 * PI * i as f64 / whole;
        (a - b * angle.cos() + c * (2.0 * angle).cos()) as f32
    };
    let kind = types::said(cx, "output_datatype", DType::F32)?;
    one(types::convert(Value::floats(&[n], (0..n).map(at).collect()), kind, true))
}

/// Triangular filters, evenly spaced in mel.
pub(crate) fn mel(cx: &Cx, mut given: Given) -> Done {
    let mut size = |i: usize| number(&mut given, i).and_then(|v| usize::try_from(v).map_err(|_| format!("size {v}")));
    let (bins, length, rate) = (size(0)?, size(1)?, size(2)?);
    let (low, high) = (f64::from(given.scalar(3)?), f64::from(given.scalar(4)?));
    let rows = length / 2 + 1;
    cx.room(&[rows, bins])?;
    cx.room(&[bins.saturating_add(2)])?;
    let to_mel = |f: f64| 2595.0 * (1.0 + f / 700.0).log10();
    let (from, to) = (to_mel(low), to_mel(high));
    let edge = |i: usize| {
        let mel = from + i as f64 * (to - from) / (bins + 2) as f64;
        let hertz = 700.0 * (10f64.powf(mel / 2595.0) - 1.0);
        ((length as f64 + 1.0) * hertz / rate.max(1) as f64).floor().clamp(0.0, rows as f64) as usize
    };
    let edges: Vec<usize> = (0..bins + 2).map(edge).collect();
    let mut y = Tensor::zeros(&[rows, bins]).data().to_vec();
    for i in 0..bins {
        let (first, top, last) = (edges[i], edges[i + 1], edges[i + 2]);
        if first == top {
            if top < rows {
                y[top * bins + i] = 1.0;
            }
        } else {
            (first..=top.min(rows - 1)).for_each(|j| y[j * bins + i] = (j - first) as f32 / (top - first) as f32);
        }
        if last > top {
            (top..last.min(rows)).for_each(|j| y[j * bins + i] = (last - j) as f32 / (last - top) as f32);
        }
    }
    let kind = types::said(cx, "output_datatype", DType::F32)?;
    one(types::convert(Value::floats(&[rows, bins], y), kind, true))
}
