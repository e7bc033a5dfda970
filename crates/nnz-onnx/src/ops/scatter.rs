//! Parts of values by order, by places and by what they hold.

use super::types::{self, lift};
use super::{Cx, Done, Given, axis, one, strides};
use crate::graph::DType;
use crate::value::{Array, Value, each};

/// A place along an axis of `n`, counted from the end if negative.
fn place(told: i64, n: usize) -> Done<usize> {
    let at = if told < 0 { told.saturating_add(n as i64) } else { told };
    usize::try_from(at).ok().filter(|&p| p < n).ok_or(format!("place {told} of {n}"))
}

/// The largest or smallest along an axis and their indices, in order.
pub(crate) fn top(cx: &Cx, mut given: Given) -> Done {
    let x = given.wide(0)?;
    let k = match cx.ints("k")? {
        None if given.has(1) => super::flow::number(&mut given, 1)?,
        _ => cx.int("k", 0)?,
    };
    let shape = x.shape();
    let axis = axis(cx.int("axis", -1)?, shape.len())?;
    let n = shape[axis];
    let k = usize::try_from(k).ok().filter(|&k| k <= n).ok_or(format!("{k} of {n} places"))?;
    let largest = cx.int("largest", 1)? != 0;
    let mut to = shape.clone();
    to[axis] = k;
    let count = cx.room(&to)?;
    let inner: usize = shape[axis + 1..].iter().product();
    let lines = shape[..axis].iter().product::<usize>() * inner;
    // Offsets of the chosen in the input.
    let (mut chosen, mut places) = (vec![0usize; count], vec![0i64; count]);
    let mut pick = |order: &dyn Fn(usize, usize) -> std::cmp::Ordering| {
        for line in 0..lines {
            let (o, i) = (line / inner, line % inner);
            let at = |p: usize| (o * n + p) * inner + i;
            let mut all: Vec<usize> = (0..n).collect();
            // Equal elements keep their order.
            all.sort_by(|&a, &b| {
                let by = order(at(a), at(b));
                if largest { by.reverse() } else { by }.then(a.cmp(&b))
            });
            for (j, &p) in all.iter().take(k).enumerate() {
                chosen[(o * k + j) * inner + i] = at(p);
                places[(o * k + j) * inner + i] = p as i64;
            }
        }
    };
    match &x {
        Value::Float(f) => {
            let t = f.clone().rows();
            pick(&|a, b| t.data()[a].total_cmp(&t.data()[b]));
        }
        Value::Int(v) => pick(&|a, b| lift(v.data()[a], v.kind()).cmp(&lift(v.data()[b], v.kind()))),
        other => return Err(format!("the largest of {}", other.kind())),
    }
    let values = each!(x, |data, _shape| (to.clone(), chosen.iter().map(|&i| data[i]).collect()));
    Ok(vec![values, Value::ints(&to, places)])
}

/// Writes runs of `each` numbers to offsets, or joins them with what is there, in order.
fn scattered(cx: &Cx, x: Value, updates: Value, offsets: &[usize], each: usize) -> Done<Value> {
    let how = match &*cx.node.op {
        "ScatterElements" | "ScatterND" => cx.text("reduction", "none")?,
        _ => "none",
    };
    fn write<T: Copy>(x: &[T], v: &[T], offsets: &[usize], each: usize, f: impl Fn(T, T) -> T) -> Vec<T> {
        let mut y = x.to_vec();
        for (&at, v) in offsets.iter().zip(v.chunks_exact(each.max(1))) {
            y[at..at + each].iter_mut().zip(v).for_each(|(y, &v)| *y = f(*y, v));
        }
        y
    }
    let shape = x.shape();
    Ok(match (x, updates) {
        (Value::Float(x), Value::Float(v)) => {
            let f: fn(f32, f32) -> f32 = match how {
                "none" => |_, v| v,
                "add" => |a, v| a + v,
                "mul" => |a, v| a * v,
                "max" => f32::max,
                "min" => f32::min,
                other => return Err(format!("values joined by `{other}`")),
            };
            Value::floats(&shape, write(x.rows().data(), v.rows().data(), offsets, each, f))
        }
        (Value::Bool(x), Value::Bool(v)) if how == "none" => {
            Value::Bool(Array::new(&shape, write(x.data(), v.data(), offsets, each, |_, v| v)))
        }
        (Value::Int(x), Value::Int(v)) => {
            let f: fn(i128, i128) -> i128 = match how {
                "none" => |_, v| v,
                "add" => |a, v| a + v,
                "mul" => i128::wrapping_mul,
                "max" => i128::max,
                "min" => i128::min,
                other => return Err(format!("values joined by `{other}`")),
            };
            let kind = x.kind();
            let f = |a: i64, v: i64| f(lift(a, kind), lift(v, kind)) as i64;
            Value::ints(&shape, write(x.data(), v.data(), offsets, each, f))
        }
        (x, v) => return Err(format!("updates of {} for {}", v.kind(), x.kind())),
    })
}

/// Writes single numbers to indices of an axis, or joins them, in order.
pub(crate) fn scatter_elements(cx: &Cx, mut given: Given) -> Done {
    let (x, places, updates) = (given.wide(0)?, given.ints(1)?, given.wide(2)?);
    let shape = x.shape();
    let axis = axis(cx.int("axis", 0)?, shape.len())?;
    let small = places.shape().to_vec();
    if small != updates.shape()
        || small.len() != shape.len()
        || small.iter().zip(&shape).enumerate().any(|(a, (s, d))| a != axis && s > d)
    {
        return Err(format!("updates of shape {:?} at places of shape {small:?} of {shape:?}", updates.shape()));
    }
    let (steps, own) = (strides(&shape), strides(&small));
    let offset = |(i, &told): (usize, &i64)| -> Done<usize> {
        let p = place(told, shape[axis])?;
        Ok((0..shape.len()).map(|a| if a == axis { p } else { i / own[a] % small[a] } * steps[a]).sum())
    };
    let offsets = places.data().iter().enumerate().map(offset).collect::<Done<Vec<_>>>()?;
    one(scattered(cx, x, updates, &offsets, 1)?)
}

/// Writes slices to indices, or joins them, in order.
pub(crate) fn scatter_nd(cx: &Cx, mut given: Given) -> Done {
    let (x, places, updates) = (given.wide(0)?, given.ints(1)?, given.wide(2)?);
    let shape = x.shape();
    let (&depth, outer) = places.shape().split_last().ok_or("places without axes")?;
    if depth > shape.len() || updates.shape() != [outer, &shape[depth.min(shape.len())..]].concat() {
        return Err(format!(
            "updates of shape {:?} at places of shape {:?} of {shape:?}",
            updates.shape(),
            places.shape()
        ));
    }
    let each: usize = shape[depth..].iter().product();
    let count: usize = outer.iter().product();
    let offset = |i: usize| -> Done<usize> {
        let told = &places.data()[i * depth..][..depth];
        told.iter().zip(&shape).try_fold(0, |at, (&p, &d)| Ok(at * d + place(p, d)?)).map(|at| at * each)
    };
    let offsets = (0..count).map(offset).collect::<Done<Vec<_>>>()?;
    one(scattered(cx, x, updates, &offsets, each)?)
}

/// Writes rows of a sequence to where each sequence of a batch has come to.
pub(crate) fn scatter_rows(cx: &Cx, mut given: Given) -> Done {
    let (x, updates) = (given.wide(0)?, given.wide(1)?);
    let (shape, small) = (x.shape(), updates.shape());
    let at = axis(cx.int("axis", -2)?, shape.len())?;
    let fits = small.len() == shape.len()
        && (0..shape.len()).all(|a| if a == at { small[a] <= shape[a] } else { small[a] == shape[a] });
    if !fits || at == 0 {
        return Err(format!("updates of shape {small:?} for shape {shape:?}"));
    }
    let starts = match given.has(2) {
        true => given.ints(2)?.data().to_vec(),
        false => vec![0; shape[0]],
    };
    if starts.len() != shape[0] {
        return Err(format!("{} starts for {} sequences", starts.len(), shape[0]));
    }
    let round = match cx.text("mode", "linear")? {
        "linear" => false,
        "circular" => true,
        other => return Err(format!("mode `{other}`")),
    };
    let inner: usize = shape[at + 1..].iter().product();
    let middle: usize = shape[1..at].iter().product();
    let (n, rows) = (shape[at], small[at]);
    let mut offsets = Vec::with_capacity(shape[0] * middle * rows);
    for (o, r) in (0..shape[0] * middle).flat_map(|o| (0..rows).map(move |r| (o, r))) {
        let told = starts[o / middle.max(1)].checked_add(r as i64).ok_or("a start beyond all places")?;
        let p = if round { told.rem_euclid((n as i64).max(1)) } else { told };
        let p = usize::try_from(p).ok().filter(|&p| p < n).ok_or(format!("place {told} of {n}"))?;
        offsets.push((o * n + p) * inner);
    }
    one(scattered(cx, x, updates, &offsets, inner)?)
}

pub(crate) fn one_hot(cx: &Cx, mut given: Given) -> Done {
    let indices = types::convert(given.take(0)?, DType::I64, true);
    let depth = super::flow::number(&mut given, 1)?;
    let depth = usize::try_from(depth).map_err(|_| format!("{depth} classes"))?;
    let values = given.take(2)?;
    let Value::Int(indices) = indices else { return Err("indices that are no numbers".into()) };
    let from = indices.shape();
    let at = axis(cx.int("axis", -1)?, from.len() + 1)?;
    let to = [&from[..at], &[depth], &from[at..]].concat();
    let n = cx.room(&to)?;
    if values.len() != 2 {
        return Err(format!("{} values, but one for off and one for on are needed", values.len()));
    }
    let inner: usize = from[at..].iter().product();
    let found: Vec<Option<usize>> = indices.data().iter().map(|&i| place(i, depth).ok()).collect();
    let hot = |i: usize| {
        let (o, c, k) = (i / inner / depth, i / inner % depth, i % inner);
        usize::from(found[o * inner + k] == Some(c))
    };
    one(each!(values, |data, _shape| (to.clone(), (0..n).map(|i| data[hot(i)]).collect())))
}

pub(crate) fn compress(cx: &Cx, mut given: Given) -> Done {
    let x = given.take(0)?;
    let Value::Bool(keep) = given.take(1)? else { return Err("a condition that is no truth value".into()) };
    let (x, at) = match cx.get("axis") {
        None => (x.clone().reshape(&[x.len()]), 0),
        Some(_) => {
            let at = axis(cx.int("axis", 0)?, x.shape().len())?;
            (x, at)
        }
    };
    let shape = x.shape();
    let kept: Vec<usize> = (0..keep.data().len().min(shape[at])).filter(|&i| keep.data()[i]).collect();
    let mut to = shape.clone();
    to[at] = kept.len();
    let n = cx.room(&to)?;
    one(each!(x, |data, _shape| (to.clone(), chosen(data, &shape, at, &kept, n))))
}

/// The slices at places of an axis.
fn chosen<T: Copy>(data: &[T], shape: &[usize], at: usize, places: &[usize], n: usize) -> Vec<T> {
    let (outer, inner): (usize, usize) = (shape[..at].iter().product(), shape[at + 1..].iter().product());
    let mut out = Vec::with_capacity(n);
    for o in 0..outer {
        places.iter().for_each(|&p| out.extend_from_slice(&data[(o * shape[at] + p) * inner..][..inner]));
    }
    out
}

/// The different slices along an axis, with the first place of each, the place of each in the result, and counts.
pub(crate) fn unique(cx: &Cx, mut given: Given) -> Done {
    let x = given.take(0)?;
    let (x, at) = match cx.get("axis") {
        None => (x.clone().reshape(&[x.len()]), 0),
        Some(_) => {
            let at = axis(cx.int("axis", 0)?, x.shape().len())?;
            (x, at)
        }
    };
    let (shape, numbers) = (x.shape(), x.numbers());
    if x.dtype().bits() == 64 && numbers.iter().any(|v| v.abs() > (1u64 << 53) as f64) {
        return Err("whole numbers beyond 2^53".into());
    }
    let (n, inner): (usize, usize) = (shape[at], shape[at + 1..].iter().product());
    let outer: usize = shape[..at].iter().product();
    let slice = |i: usize| (0..outer * inner).map(move |k| (k / inner * n + i) * inner + k % inner);
    let order = |a: usize, b: usize| {
        let mut by = slice(a).zip(slice(b)).map(|(a, b)| (numbers[a] + 0.0).total_cmp(&(numbers[b] + 0.0)));
        by.find(|o| o.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
    };
    let mut all: Vec<usize> = (0..n).collect();
    all.sort_by(|&a, &b| order(a, b).then(a.cmp(&b)));
    // Runs of equal slices; the first of each has the smallest place.
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for i in all {
        match groups.last_mut().filter(|g| order(g[0], i).is_eq()) {
            Some(group) => group.push(i),
            None => groups.push(vec![i]),
        }
    }
    if cx.int("sorted", 1)? == 0 {
        groups.sort_by_key(|g| g[0]);
    }
    let (first, counts): (Vec<usize>, Vec<i64>) = groups.iter().map(|g| (g[0], g.len() as i64)).unzip();
    let mut back = vec![0i64; n];
    groups.iter().enumerate().for_each(|(k, g)| g.iter().for_each(|&i| back[i] = k as i64));
    let mut to = shape.clone();
    to[at] = first.len();
    let size = cx.room(&to)?;
    let values = each!(x, |data, _shape| (to.clone(), chosen(data, &shape, at, &first, size)));
    let m = first.len();
    let first = first.iter().map(|&i| i as i64).collect();
    Ok(vec![values, Value::ints(&[m], first), Value::ints(&[n], back), Value::ints(&[m], counts)])
}

/// Reverses the first places of each sequence of a batch.
pub(crate) fn reverse(cx: &Cx, mut given: Given) -> Done {
    let (x, lengths) = (given.take(0)?, given.ints(1)?);
    let shape = x.shape();
    let (batch, time) = (axis(cx.int("batch_axis", 1)?, shape.len())?, axis(cx.int("time_axis", 0)?, shape.len())?);
    let n = shape[time];
    let fits = |&l: &i64| (0..=n as i64).contains(&l);
    if batch == time || lengths.data().len() != shape[batch] || !lengths.data().iter().all(fits) {
        return Err(format!("lengths {:?} of sequences in shape {shape:?}", lengths.data()));
    }
    let own = strides(&shape);
    let from = |i: usize| {
        let (b, t) = (i / own[batch] % shape[batch], i / own[time] % n);
        let length = lengths.data()[b] as usize;
        if t < length { i - t * own[time] + (length - 1 - t) * own[time] } else { i }
    };
    one(each!(x, |data, shape| (shape.to_vec(), (0..data.len()).map(|i| data[from(i)]).collect())))
}

pub(crate) fn eye(cx: &Cx, mut given: Given) -> Done {
    let x = given.take(0)?;
    let &[rows, cols] = &x.shape()[..] else { return Err(format!("shape {:?}, which is no matrix", x.shape())) };
    let (kind, k) = (types::said(cx, "dtype", x.dtype())?, cx.int("k", 0)?);
    let on = |i: usize| i64::from((i % cols) as i64 - (i / cols) as i64 == k);
    let n = cx.room(&[rows, cols])?;
    one(types::convert(Value::ints(&[rows, cols], (0..n).map(on).collect()), kind, true))
}
