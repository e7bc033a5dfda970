//! Parts of values.

use super::{Cx, Done, Given, axis, one, runs, strides};
use crate::value::{Array, Value, each};

pub(crate) fn slice(cx: &Cx, mut given: Given) -> Done {
    let x = given.take(0)?;
    let shape = x.shape();
    let rank = shape.len();
    let (starts, ends, axes, steps) = match given.has(1) {
        true => {
            let (starts, ends) = (given.ints(1)?.data().to_vec(), given.ints(2)?.data().to_vec());
            let axes = given.has(3).then(|| given.ints(3)).transpose()?.map(|a| a.data().to_vec());
            let steps = given.has(4).then(|| given.ints(4)).transpose()?.map(|a| a.data().to_vec());
            (starts, ends, axes, steps)
        }
        false => {
            let list = |name| cx.ints(name).map(|l| l.map(<[i64]>::to_vec));
            (list("starts")?.ok_or("no starts")?, list("ends")?.ok_or("no ends")?, list("axes")?, None)
        }
    };
    let n = starts.len();
    let axes = axes.unwrap_or_else(|| (0..n as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; n]);
    if [ends.len(), axes.len(), steps.len()] != [n; 3] {
        return Err(format!("{n} starts, {} ends, {} axes, {} steps", ends.len(), axes.len(), steps.len()));
    }
    let own = strides(&shape);
    let (mut to, mut first, mut step) = (shape.clone(), 0usize, vec![1i64; rank]);
    for i in 0..n {
        let a = axis(axes[i], rank)?;
        let d = shape[a] as i64;
        let s = steps[i];
        if s == 0 || axes[..i].iter().any(|&b| axis(b, rank) == Ok(a)) {
            return Err(format!("steps {steps:?} along axes {axes:?}"));
        }
        let wrap = |v: i64| if v < 0 { v.saturating_add(d) } else { v };
        let (low, high) = if s > 0 { (0, d) } else { (0, d - 1) };
        let start = wrap(starts[i]).clamp(low, high.max(low));
        let end = wrap(ends[i]).clamp(if s > 0 { 0 } else { -1 }, d);
        let span = if s > 0 { end - start } else { start - end };
        let each = s.unsigned_abs().min(1 << 40) as i64;
        to[a] = if d == 0 { 0 } else { usize::try_from((span + each - 1).max(0) / each).unwrap_or(0) };
        first += start.max(0) as usize * own[a];
        step[a] = s.clamp(-(1 << 40), 1 << 40);
    }
    if to == shape && step.iter().all(|&s| s == 1) {
        return one(x);
    }
    fn walk<T: Copy>(data: &[T], own: &[usize], to: &[usize], first: usize, step: &[i64]) -> Vec<T> {
        let n = to.iter().product();
        let mut out = Vec::with_capacity(n);
        if n == 0 {
            return out;
        }
        if step.iter().all(|&s| s > 0) {
            // An axis of which one element is taken may have any step.
            let steps: Vec<usize> =
                own.iter().zip(step).zip(to).map(|((&o, &s), &t)| if t > 1 { o * s as usize } else { o }).collect();
            let inner = steps.last().copied().unwrap_or(0);
            runs(to, [&steps], |[at], n| match inner {
                1 => out.extend_from_slice(&data[first + at..first + at + n]),
                _ => out.extend((0..n).map(|i| data[first + at + i * inner])),
            });
            return out;
        }
        let mut at = vec![0usize; to.len()];
        for _ in 0..n {
            let far: i64 =
                (0..to.len()).map(|a| at[a] as i64 * own[a] as i64 * if at[a] > 0 { step[a] } else { 0 }).sum();
            out.push(data[(first as i64 + far) as usize]);
            for a in (0..to.len()).rev() {
                at[a] += 1;
                if at[a] < to[a] {
                    break;
                }
                at[a] = 0;
            }
        }
        out
    }
    one(each!(x, |data, _shape| (to.clone(), walk(data, &own, &to, first, &step))))
}

/// Resolves indices along an axis of `n`, counted from the end if negative.
fn places(indices: &[i64], n: usize) -> Done<Vec<usize>> {
    indices
        .iter()
        .map(|&i| {
            let at = if i < 0 { i + n as i64 } else { i };
            usize::try_from(at).ok().filter(|&a| a < n).ok_or(format!("index {i} of {n}"))
        })
        .collect()
}

pub(crate) fn gather(cx: &Cx, mut given: Given) -> Done {
    let (x, indices) = (given.take(0)?, given.ints(1)?);
    let shape = x.shape();
    let a = axis(cx.int("axis", 0)?, shape.len())?;
    let at = places(indices.data(), shape[a])?;
    let to: Vec<usize> = [&shape[..a], indices.shape(), &shape[a + 1..]].concat();
    let n = cx.room(&to)?;
    let (outer, inner): (usize, usize) = (shape[..a].iter().product(), shape[a + 1..].iter().product());
    fn pick<T: Copy>(data: &[T], at: &[usize], [outer, extent, inner]: [usize; 3], n: usize) -> Vec<T> {
        let mut out = Vec::with_capacity(n);
        for o in 0..outer {
            at.iter().for_each(|&i| out.extend_from_slice(&data[(o * extent + i) * inner..][..inner]));
        }
        out
    }
    let cut = [outer, shape[a], inner];
    one(each!(x, |data, _shape| (to.clone(), pick(data, &at, cut, n))))
}

pub(crate) fn gather_elements(cx: &Cx, mut given: Given) -> Done {
    let (x, indices) = (given.take(0)?, given.ints(1)?);
    let shape = x.shape();
    let a = axis(cx.int("axis", 0)?, shape.len())?;
    let to = indices.shape().to_vec();
    if to.len() != shape.len() || (0..to.len()).any(|i| i != a && to[i] > shape[i]) {
        return Err(format!("indices of shape {to:?} for shape {shape:?}"));
    }
    let (own, at) = (strides(&shape), places(indices.data(), shape[a])?);
    let mut offsets = Vec::with_capacity(at.len());
    let steps: Vec<usize> = (0..own.len()).map(|i| if i == a { 0 } else { own[i] }).collect();
    let inner = steps.last().copied().unwrap_or(0);
    runs(&to, [&steps], |[o], n| offsets.extend((0..n).map(|i| o + i * inner)));
    offsets.iter_mut().zip(&at).for_each(|(o, i)| *o += i * own[a]);
    one(each!(x, |data, _shape| (to.clone(), offsets.iter().map(|&o| data[o]).collect())))
}

pub(crate) fn gather_nd(cx: &Cx, mut given: Given) -> Done {
    let (x, indices) = (given.take(0)?, given.ints(1)?);
    let (shape, index_shape) = (x.shape(), indices.shape());
    let batch = usize::try_from(cx.int("batch_dims", 0)?).unwrap_or(usize::MAX);
    let Some((&depth, outer)) = index_shape.split_last() else { return Err("indices without axes".into()) };
    let fits = batch <= outer.len() && batch + depth <= shape.len() && depth > 0 && shape[..batch] == outer[..batch];
    if !fits {
        return Err(format!("indices of shape {index_shape:?} for shape {shape:?} with {batch} axes in common"));
    }
    let to: Vec<usize> = [outer, &shape[batch + depth..]].concat();
    let n = cx.room(&to)?;
    let (own, each) = (strides(&shape), shape[batch + depth..].iter().product::<usize>());
    let (groups, whole) = (outer[..batch].iter().product::<usize>(), shape[batch..].iter().product::<usize>());
    let count = indices.data().len() / depth;
    let mut offsets = Vec::with_capacity(count);
    for (k, tuple) in indices.data().chunks_exact(depth).enumerate() {
        let group = k / (count / groups.max(1)).max(1);
        let mut at = group * whole;
        for (j, &i) in tuple.iter().enumerate() {
            at += places(&[i], shape[batch + j])?[0] * own[batch + j];
        }
        offsets.push(at);
    }
    fn pick<T: Copy>(data: &[T], offsets: &[usize], each: usize, n: usize) -> Vec<T> {
        let mut out = Vec::with_capacity(n);
        offsets.iter().for_each(|&o| out.extend_from_slice(&data[o..o + each]));
        out
    }
    one(each!(x, |data, _shape| (to.clone(), pick(data, &offsets, each, n))))
}

pub(crate) fn nonzero(cx: &Cx, mut given: Given) -> Done {
    let x = given.take(0)?;
    let shape = x.shape();
    let found: Vec<usize> = match &x {
        Value::Float(f) => {
            let t = f.clone().rows();
            (0..t.len()).filter(|&i| t.data()[i] != 0.0).collect()
        }
        Value::Int(a) => (0..a.data().len()).filter(|&i| a.data()[i] != 0).collect(),
        Value::Byte(a) => (0..a.data().len()).filter(|&i| a.data()[i] != 0).collect(),
        Value::Small(a) => (0..a.data().len()).filter(|&i| a.data()[i] != 0).collect(),
        Value::Bool(a) => (0..a.data().len()).filter(|&i| a.data()[i]).collect(),
        Value::List(_) => return Err("a sequence where an array is needed".into()),
    };
    let to = [shape.len(), found.len()];
    cx.room(&to)?;
    let own = strides(&shape);
    let row = |a: usize| found.iter().map(|&i| (i / own[a] % shape[a]) as i64).collect::<Vec<_>>();
    let all: Vec<i64> = (0..shape.len()).flat_map(row).collect();
    one(Value::Int(Array::new(&to, all)))
}
