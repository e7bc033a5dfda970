//! Norms and what is computed of whole rows.

use super::{Cx, Done, Given, axis, one, tensor};
use crate::value::{Floats, Value};
use nnz_engine::Tensor;
use nnz_kernels::rows;

pub(crate) fn layer_norm(cx: &Cx, mut given: Given) -> Done {
    let (x, gain) = (given.tensor(0)?, given.tensor(1)?);
    let at = axis(cx.int("axis", -1)?, x.shape().len())?;
    let cols: usize = x.shape()[at..].iter().product();
    let offset = if given.has(2) { given.tensor(2)? } else { Tensor::zeros(&[cols]) };
    if gain.len() != cols || offset.len() != cols {
        return Err(format!("gain of {} and offset of {} numbers for rows of {cols}", gain.len(), offset.len()));
    }
    let epsilon = f64::from(cx.float("epsilon", 1e-5)?);
    let shape = x.shape().to_vec();
    if x.is_empty() {
        return tensor(x);
    }
    let n = x.len() / cols;
    let (mut mean, mut rate) = (vec![0.0; n], vec![0.0; n]);
    let y = Tensor::written(&shape, |y| {
        rows::layer_norm(x.data(), gain.data(), offset.data(), epsilon, y, &mut mean, &mut rate);
    });
    if cx.node.outputs.len() == 1 {
        return tensor(y);
    }
    let outer: Vec<usize> = (0..shape.len()).map(|i| if i < at { shape[i] } else { 1 }).collect();
    Ok(vec![Value::Float(Floats::new(y)), Value::floats(&outer, mean), Value::floats(&outer, rate)])
}

/// Normalizes groups of channels of each image; a group is one channel for instance normalization.
pub(crate) fn group_norm(cx: &Cx, mut given: Given) -> Done {
    let (x, gain, offset) = (given.tensor(0)?, given.tensor(1)?, given.tensor(2)?);
    let shape = x.shape().to_vec();
    if shape.len() < 2 {
        return Err(format!("a value of shape {shape:?}, which has no channels"));
    }
    let channels = shape[1];
    let groups = match &*cx.node.op {
        "InstanceNormalization" => channels,
        _ => usize::try_from(cx.int("num_groups", 0)?).unwrap_or(0),
    };
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(format!("{channels} channels in {groups} groups"));
    }
    // Up to version 20, group normalization had one number per group.
    let each = gain.len();
    if ![channels, groups].contains(&each) || offset.len() != each || x.is_empty() {
        return Err(format!("gain of {each} and offset of {} numbers for {channels} channels", offset.len()));
    }
    let epsilon = f64::from(cx.float("epsilon", 1e-5)?);
    let places = shape[2..].iter().product::<usize>();
    let size = channels / groups * places;
    let mut x = x;
    for (g, part) in x.data_mut().chunks_exact_mut(size).enumerate() {
        let mean = part.iter().map(|&v| f64::from(v)).sum::<f64>() / size as f64;
        let variance = part.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / size as f64;
        let rate = 1.0 / (variance + epsilon).sqrt();
        for (i, row) in part.chunks_exact_mut(places).enumerate() {
            let group = g % groups;
            let c = if each == channels { group * (channels / groups) + i } else { group };
            let (a, b) = (gain.data()[c], offset.data()[c]);
            row.iter_mut().for_each(|v| *v = ((f64::from(*v) - mean) * rate) as f32 * a + b);
        }
    }
    tensor(x)
}

/// Scales rows by their root mean square (Zhang and Sennrich 2019).
pub(crate) fn rms_norm(cx: &Cx, mut given: Given) -> Done {
    let (x, gain) = (given.tensor(0)?, given.tensor(1)?);
    let shape = x.shape().to_vec();
    let at = axis(cx.int("axis", -1)?, shape.len())?;
    let cols: usize = shape[at..].iter().product();
    let steps = match super::math::spread(gain.shape(), &shape[at..])? == shape[at..] {
        true => super::math::spread_strides(gain.shape(), &shape[at..]),
        false => return Err(format!("gain of shape {:?} for rows of shape {:?}", gain.shape(), &shape[at..])),
    };
    let own = super::strides(&shape[at..]);
    let place = |i: usize| -> usize { (0..own.len()).map(|a| i / own[a] % shape[at + a] * steps[a]).sum() };
    let places: Vec<usize> = (0..cols).map(place).collect();
    let epsilon = f64::from(cx.float("epsilon", 1e-5)?);
    let mut y = x.data().to_vec();
    for row in y.chunks_exact_mut(cols.max(1)) {
        let mean = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / cols as f64;
        let rate = (1.0 / (mean + epsilon).sqrt()) as f32;
        row.iter_mut().zip(&places).for_each(|(v, &p)| *v = *v * rate * gain.data()[p]);
    }
    one(Value::floats(&shape, y))
}

/// Calls `f` with every line along an axis.
fn lines(x: &Tensor<f32>, at: usize, mut f: impl FnMut(&mut [f32])) -> Value {
    let shape = x.shape();
    let (n, inner): (usize, usize) = (shape[at], shape[at + 1..].iter().product());
    let mut y = x.data().to_vec();
    let mut line = vec![0.0; n];
    for part in y.chunks_exact_mut((n * inner).max(1)) {
        for i in 0..inner {
            (0..n).for_each(|k| line[k] = part[k * inner + i]);
            f(&mut line);
            (0..n).for_each(|k| part[k * inner + i] = line[k]);
        }
    }
    Value::floats(shape, y)
}

pub(crate) fn lp_norm(cx: &Cx, mut given: Given) -> Done {
    let x = given.tensor(0)?;
    let (at, p) = (axis(cx.int("axis", -1)?, x.shape().len())?, cx.int("p", 2)?);
    if p != 1 && p != 2 {
        return Err(format!("a norm of order {p}; 1 and 2 are computed"));
    }
    one(lines(&x, at, |line| {
        let sum = line.iter().map(|&v| f64::from(v).abs().powi(p as i32)).sum::<f64>();
        let size = if p == 2 { sum.sqrt() } else { sum };
        // A line of zeros stays one.
        line.iter_mut().for_each(|v| *v = if size == 0.0 { 0.0 } else { (f64::from(*v) / size) as f32 });
    }))
}

/// One at the first of the largest, zero elsewhere.
pub(crate) fn hardmax(cx: &Cx, mut given: Given) -> Done {
    let x = given.tensor(0)?;
    let (shape, flat) = (x.shape().to_vec(), cx.opset < 13);
    let at = axis(cx.int("axis", if flat { 1 } else { -1 })?, shape.len())?;
    let mark = |line: &mut [f32]| {
        let best = (1..line.len()).fold(0, |b, i| if line[i] > line[b] { i } else { b });
        line.iter_mut().enumerate().for_each(|(i, v)| *v = f32::from(u8::from(i == best)));
    };
    if flat {
        let rows = x.reshape(&[shape[..at].iter().product(), shape[at..].iter().product()]);
        return one(lines(&rows, 1, mark).reshape(&shape));
    }
    one(lines(&x, at, mark))
}

pub(crate) fn mean_variance(cx: &Cx, mut given: Given) -> Done {
    let x = given.tensor(0)?;
    let shape = x.shape().to_vec();
    let told = cx.ints("axes")?.unwrap_or(&[0, 2, 3]);
    let axes = told.iter().map(|&a| axis(a, shape.len())).collect::<Done<Vec<_>>>()?;
    let own = super::strides(&shape);
    let group = |i: usize| -> usize {
        (0..shape.len()).filter(|a| !axes.contains(a)).fold(0, |g, a| g * shape[a] + i / own[a] % shape[a])
    };
    let groups: usize = (0..shape.len()).filter(|a| !axes.contains(a)).map(|a| shape[a]).product();
    let (mut sums, mut squares, n) = (vec![0.0f64; groups], vec![0.0f64; groups], x.len() as f64 / groups as f64);
    for (i, &v) in x.data().iter().enumerate() {
        sums[group(i)] += f64::from(v);
    }
    for (i, &v) in x.data().iter().enumerate() {
        squares[group(i)] += (f64::from(v) - sums[group(i)] / n).powi(2);
    }
    let one_of = |(i, &v): (usize, &f32)| {
        let g = group(i);
        ((f64::from(v) - sums[g] / n) / ((squares[g] / n).sqrt() + 1e-9)) as f32
    };
    one(Value::floats(&shape, x.data().iter().enumerate().map(one_of).collect()))
}

/// Divides by the size of the neighbouring channels (Krizhevsky et al. 2012).
pub(crate) fn local_response(cx: &Cx, mut given: Given) -> Done {
    let x = given.tensor(0)?;
    let shape = x.shape().to_vec();
    let size = usize::try_from(cx.int("size", 0)?).ok().filter(|&s| s > 0).ok_or("no size")?;
    let (alpha, beta) = (f64::from(cx.float("alpha", 1e-4)?), f64::from(cx.float("beta", 0.75)?));
    let bias = f64::from(cx.float("bias", 1.0)?);
    if shape.len() < 2 {
        return Err(format!("a value of shape {shape:?}, which has no channels"));
    }
    one(lines(&x, 1, |line| {
        let own = line.to_vec();
        for (c, v) in line.iter_mut().enumerate() {
            let (first, last) = (c.saturating_sub((size - 1) / 2), c.saturating_add(size / 2).min(own.len() - 1));
            let sum = own[first..=last].iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
            *v = (f64::from(*v) / (bias + alpha / size as f64 * sum).powf(beta)) as f32;
        }
    }))
}

/// The determinant of square matrices, by elimination with pivots.
pub(crate) fn determinant(_: &Cx, mut given: Given) -> Done {
    let x = given.tensor(0)?;
    let (outer, n) = match x.shape() {
        [outer @ .., n, m] if n == m => (outer.to_vec(), *n),
        shape => return Err(format!("shape {shape:?}, which has no square matrices")),
    };
    let count: usize = outer.iter().product();
    let one_of = |i: usize| {
        let mut a: Vec<f64> = x.data()[i * n * n..][..n * n].iter().map(|&v| f64::from(v)).collect();
        let mut det = 1.0f64;
        for k in 0..n {
            let best = (k..n).fold(k, |b, r| if a[r * n + k].abs() > a[b * n + k].abs() { r } else { b });
            if a[best * n + k] == 0.0 {
                return 0.0;
            }
            if best != k {
                (0..n).for_each(|c| a.swap(k * n + c, best * n + c));
                det = -det;
            }
            det *= a[k * n + k];
            for r in k + 1..n {
                let share = a[r * n + k] / a[k * n + k];
                (k..n).for_each(|c| a[r * n + c] -= share * a[k * n + c]);
            }
        }
        det as f32
    };
    one(Value::floats(&outer, (0..count).map(one_of).collect()))
}
