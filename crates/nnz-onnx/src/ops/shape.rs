//! Shapes, layouts and number types.

use super::math::{spread, spread_strides};
use super::{Cx, Done, Given, axis, one, runs, strides};
use crate::graph::Attribute;
use crate::value::{Array, Floats, Value, each};
use nnz_engine::Tensor;

pub(crate) fn identity(cx: &Cx, mut given: Given) -> Done {
    let x = given.take(0)?;
    if cx.node.op == "Dropout"
        && let Some(Value::Bool(training)) = given.maybe(2)
        && training.data().contains(&true)
        && given.maybe(1).is_none_or(|r| r.numbers() != [0.0])
    {
        return Err("numbers dropped at random, which is for training".into());
    }
    if cx.node.outputs.len() < 2 {
        return one(x);
    }
    // The mask of a dropout that drops nothing.
    let mask = Value::Bool(Array::new(&x.shape(), vec![true; x.len()]));
    Ok(vec![x, mask])
}

/// The axes of an operator, given by input or, in older versions, by attribute.
pub(super) fn axes_arg(cx: &Cx, given: &mut Given, i: usize, rank: usize) -> Done<Option<Vec<usize>>> {
    let list = match given.has(i) {
        true => given.ints(i)?.data().to_vec(),
        false => match cx.ints("axes")? {
            Some(list) => list.to_vec(),
            None => return Ok(None),
        },
    };
    let mut axes = list.iter().map(|&a| axis(a, rank)).collect::<Done<Vec<_>>>()?;
    axes.sort_unstable();
    match axes.windows(2).any(|w| w[0] == w[1]) {
        true => Err(format!("axes {list:?} name one twice")),
        false => Ok(Some(axes)),
    }
}

pub(crate) fn reshape(cx: &Cx, mut given: Given) -> Done {
    let x = given.take(0)?;
    let wanted = match given.has(1) {
        true => given.ints(1)?.data().to_vec(),
        false => cx.ints("shape")?.ok_or("no shape to give")?.to_vec(),
    };
    if wanted.len() > crate::graph::AXES {
        return Err(format!("{} axes; at most {} are computed with", wanted.len(), crate::graph::AXES));
    }
    let keep = cx.int("allowzero", 0)? == 0;
    let (from, mut free) = (x.shape(), None);
    let mut shape = Vec::with_capacity(wanted.len());
    for (i, &d) in wanted.iter().enumerate() {
        shape.push(match d {
            0 if keep => *from.get(i).ok_or(format!("extent 0 in place {i} of {wanted:?} for shape {from:?}"))?,
            -1 if free.is_none() => {
                free = Some(i);
                1
            }
            d => usize::try_from(d).map_err(|_| format!("shape {wanted:?}"))?,
        });
    }
    let n = crate::graph::count(&shape)?;
    if let Some(i) = free {
        if n == 0 || !x.len().is_multiple_of(n) {
            return Err(format!("shape {from:?} does not become {wanted:?}"));
        }
        shape[i] = x.len() / n;
    }
    if crate::graph::count(&shape)? != x.len() {
        return Err(format!("shape {from:?} does not become {wanted:?}"));
    }
    one(x.reshape(&shape))
}

pub(crate) fn flatten(cx: &Cx, mut given: Given) -> Done {
    let x = given.take(0)?;
    let shape = x.shape();
    let told = cx.int("axis", 1)?;
    let at = if told == shape.len() as i64 { shape.len() } else { axis(told, shape.len())? };
    let (rows, cols) = (shape[..at].iter().product(), shape[at..].iter().product());
    one(x.reshape(&[rows, cols]))
}

pub(crate) fn squeeze(cx: &Cx, mut given: Given) -> Done {
    let x = given.take(0)?;
    let shape = x.shape();
    let gone = match axes_arg(cx, &mut given, 1, shape.len())? {
        Some(axes) => axes,
        None => (0..shape.len()).filter(|&i| shape[i] == 1).collect(),
    };
    if let Some(&i) = gone.iter().find(|&&i| shape[i] != 1) {
        return Err(format!("axis {i} of shape {shape:?} is not 1"));
    }
    let left: Vec<usize> = (0..shape.len()).filter(|i| !gone.contains(i)).map(|i| shape[i]).collect();
    one(x.reshape(&left))
}

pub(crate) fn unsqueeze(cx: &Cx, mut given: Given) -> Done {
    let x = given.take(0)?;
    let old = x.shape();
    let count = match given.0.get(1) {
        Some(Some(v)) => v.len(),
        _ => cx.ints("axes")?.map_or(0, <[i64]>::len),
    };
    if old.len() + count > crate::graph::AXES {
        return Err(format!("{} axes; at most {} are computed with", old.len() + count, crate::graph::AXES));
    }
    let axes = axes_arg(cx, &mut given, 1, old.len() + count)?.ok_or("no axes to add")?;
    let mut left = old.iter();
    let shape: Vec<usize> = (0..old.len() + axes.len())
        .map(|i| if axes.contains(&i) { 1 } else { left.next().copied().unwrap_or(1) })
        .collect();
    one(x.reshape(&shape))
}

/// Permutes the axes of an array.
fn transposed<T: Copy>(data: &[T], shape: &[usize], perm: &[usize]) -> (Vec<usize>, Vec<T>) {
    let own = strides(shape);
    let to: Vec<usize> = perm.iter().map(|&p| shape[p]).collect();
    let steps: Vec<usize> = perm.iter().map(|&p| own[p]).collect();
    let mut out = Vec::with_capacity(data.len());
    // A swap of the last two axes is done square by square.
    let rank = perm.len();
    if rank >= 2
        && perm[..rank - 2].iter().enumerate().all(|(i, &p)| i == p)
        && perm[rank - 1] == rank - 2
        && !data.is_empty()
    {
        let (rows, cols) = (shape[rank - 2], shape[rank - 1]);
        out.resize(data.len(), data[0]);
        for (from, to) in data.chunks_exact(rows * cols).zip(out.chunks_exact_mut(rows * cols)) {
            crate::value::turn(from, rows, cols, to);
        }
        return (to, out);
    }
    let inner = steps.last().copied().unwrap_or(0);
    runs(&to, [&steps], |[at], n| match inner {
        1 => out.extend_from_slice(&data[at..at + n]),
        _ => out.extend((0..n).map(|i| data[at + i * inner])),
    });
    (to, out)
}

pub(crate) fn transpose(cx: &Cx, mut given: Given) -> Done {
    let x = given.take(0)?;
    let rank = x.shape().len();
    let perm = match cx.ints("perm")? {
        Some(list) => list.iter().map(|&a| axis(a, rank)).collect::<Done<Vec<_>>>()?,
        None => (0..rank).rev().collect(),
    };
    let mut seen = vec![false; rank];
    perm.iter().for_each(|&p| seen[p] = true);
    if perm.len() != rank || seen.contains(&false) {
        return Err(format!("order {perm:?} of {rank} axes"));
    }
    match x {
        Value::Float(f) if rank >= 3 => {
            let (last, first) = (f.is_last(), (0..rank).collect::<Vec<_>>());
            // Conversions to and from channels last cost nothing if that is the layout already.
            let mut apart = first.clone();
            apart[1..].rotate_left(1);
            let mut back = first;
            back[1..].rotate_right(1);
            match (last, perm == apart, perm == back) {
                (true, true, _) => one(Value::Float(Floats::new(f.raw()))),
                (false, _, true) if perm != apart => one(Value::Float(Floats::channels_last(f.raw()))),
                _ => {
                    let t = f.rows();
                    let (shape, data) = transposed(t.data(), t.shape(), &perm);
                    one(Value::floats(&shape, data))
                }
            }
        }
        x => one(each!(x, |data, shape| transposed(data, shape, &perm))),
    }
}

fn spread_to<T: Copy>(data: &[T], from: &[usize], to: &[usize]) -> (Vec<usize>, Vec<T>) {
    let steps = spread_strides(from, to);
    let inner = steps.last().copied().unwrap_or(0);
    let mut out = Vec::with_capacity(to.iter().product());
    runs(to, [&steps], |[at], n| match inner {
        1 => out.extend_from_slice(&data[at..at + n]),
        _ => out.extend((0..n).map(|i| data[at + i * inner])),
    });
    (to.to_vec(), out)
}

pub(crate) fn expand(cx: &Cx, mut given: Given) -> Done {
    let x = given.take(0)?;
    let to = extents(given.ints(1)?.data())?;
    let shape = spread(&x.shape(), &to)?;
    cx.room(&shape)?;
    if shape == x.shape() {
        return one(x);
    }
    one(each!(x, |data, from| spread_to(data, from, &shape)))
}

pub(super) fn extents(list: &[i64]) -> Done<Vec<usize>> {
    if list.len() > 8 {
        return Err(format!("a shape of {} axes; at most 8 are computed with", list.len()));
    }
    list.iter().map(|&d| usize::try_from(d).map_err(|_| format!("shape {list:?}"))).collect()
}

pub(crate) fn tile(cx: &Cx, mut given: Given) -> Done {
    let x = given.take(0)?;
    let (times, shape) = (extents(given.ints(1)?.data())?, x.shape());
    if times.len() != shape.len() {
        return Err(format!("{} numbers of repeats for {} axes", times.len(), shape.len()));
    }
    let to: Vec<usize> = shape.iter().zip(&times).map(|(&d, &t)| d.saturating_mul(t)).collect();
    cx.room(&to)?;
    fn repeat<T: Copy>(data: &[T], shape: &[usize], times: &[usize], to: &[usize]) -> (Vec<usize>, Vec<T>) {
        // Computed as broadcasting over two axes for each one.
        let mut paired = Vec::new();
        let (mut steps, own) = (Vec::new(), strides(shape));
        for i in 0..shape.len() {
            paired.extend([times[i], shape[i]]);
            steps.extend([0, own[i]]);
        }
        let inner = steps.last().copied().unwrap_or(0);
        let mut out = Vec::with_capacity(to.iter().product());
        runs(&paired, [&steps], |[at], n| out.extend((0..n).map(|i| data[at + i * inner])));
        (to.to_vec(), out)
    }
    one(each!(x, |data, shape| repeat(data, shape, &times, &to)))
}

pub(crate) fn concat(cx: &Cx, mut given: Given) -> Done {
    let mut parts = Vec::with_capacity(given.len());
    for i in 0..given.len() {
        parts.push(given.take(i)?);
    }
    let Some(first) = parts.first() else { return Err("nothing to join".into()) };
    let at = axis(cx.int("axis", 0)?, first.shape().len())?;
    one(joined(cx, parts, at)?)
}

/// Joins values along an axis.
pub(super) fn joined(cx: &Cx, parts: Vec<Value>, at: usize) -> Done<Value> {
    let Some(first) = parts.first() else { return Err("nothing to join".into()) };
    let (kind, mut shape) = (first.kind(), first.shape());
    let mut sum = 0usize;
    for p in &parts {
        let s = p.shape();
        let same = s.len() == shape.len() && (0..s.len()).all(|i| i == at || s[i] == shape[i]);
        if p.kind() != kind || !same {
            return Err(format!("{} of shape {s:?} after {kind} of shape {shape:?} along axis {at}", p.kind()));
        }
        sum = sum.saturating_add(s[at]);
    }
    shape[at] = sum;
    let n = cx.room(&shape)?;
    if n == 0 {
        // All parts are empty.
        return Ok(parts.into_iter().next().ok_or("nothing to join")?.reshape(&shape));
    }
    let outer: usize = shape[..at].iter().product();
    fn join<T: Copy>(outer: usize, n: usize, parts: &[&[T]]) -> Vec<T> {
        let mut out = Vec::with_capacity(n);
        for o in 0..outer {
            for p in parts {
                let each = p.len() / outer;
                out.extend_from_slice(&p[o * each..(o + 1) * each]);
            }
        }
        out
    }
    macro_rules! all {
        ($kind:ident) => {{
            let own = |p: &Value| if let Value::$kind(a) = p { Some(a.clone()) } else { None };
            let arrays: Vec<_> = parts.iter().filter_map(own).collect();
            let parts: Vec<_> = arrays.iter().map(|a| a.data()).collect();
            Value::$kind(Array::new(&shape, join(outer, n, &parts)))
        }};
    }
    Ok(match first {
        Value::Float(_) => {
            let tensors: Vec<Tensor<f32>> = parts.into_iter().filter_map(Value::into_floats).collect();
            let parts: Vec<&[f32]> = tensors.iter().map(Tensor::data).collect();
            Value::floats(&shape, join(outer, n, &parts))
        }
        Value::Int(_) => all!(Int),
        Value::Byte(_) => all!(Byte),
        Value::Small(_) => all!(Small),
        Value::Bool(_) => all!(Bool),
        Value::List(_) => return Err("sequences where arrays are needed".into()),
    })
}

/// The part of length `n` from `first` along an axis.
pub(super) fn part<T: Copy>(data: &[T], shape: &[usize], at: usize, first: usize, n: usize) -> (Vec<usize>, Vec<T>) {
    let (outer, inner): (usize, usize) = (shape[..at].iter().product(), shape[at + 1..].iter().product());
    let mut out = Vec::with_capacity(outer * n * inner);
    (0..outer).for_each(|o| out.extend_from_slice(&data[(o * shape[at] + first) * inner..][..n * inner]));
    let mut shape = shape.to_vec();
    shape[at] = n;
    (shape, out)
}

pub(crate) fn split(cx: &Cx, mut given: Given) -> Done {
    let x = given.take(0)?;
    let shape = x.shape();
    let at = axis(cx.int("axis", 0)?, shape.len())?;
    let outputs = cx.node.outputs.len().max(1);
    let sizes = match (given.has(1), cx.ints("split")?) {
        (true, _) => extents_any(given.ints(1)?.data())?,
        (_, Some(list)) => extents_any(list)?,
        _ => {
            let each = shape[at].div_ceil(outputs);
            (0..outputs).map(|i| each.min(shape[at].saturating_sub(i * each))).collect()
        }
    };
    let sum = sizes.iter().try_fold(0usize, |a, &b| a.checked_add(b));
    if sizes.len() != outputs || sum != Some(shape[at]) {
        return Err(format!("axis {at} of shape {shape:?} in parts of {sizes:?} for {outputs} outputs"));
    }
    let mut first = 0;
    let mut out = Vec::with_capacity(outputs);
    for n in sizes {
        out.push(each!(x.clone(), |data, shape| part(data, shape, at, first, n)));
        first += n;
    }
    Ok(out)
}

pub(super) fn extents_any(list: &[i64]) -> Done<Vec<usize>> {
    list.iter().map(|&d| usize::try_from(d).map_err(|_| format!("parts of {list:?}"))).collect()
}

pub(crate) fn shape(cx: &Cx, mut given: Given) -> Done {
    let shape = given.take(0)?.shape();
    let rank = shape.len() as i64;
    let bound = |v: i64| (if v < 0 { v + rank } else { v }).clamp(0, rank) as usize;
    let (start, end) = (bound(cx.int("start", 0)?), bound(cx.int("end", rank)?));
    let part: Vec<i64> = shape[start..end.max(start)].iter().map(|&d| d as i64).collect();
    one(Value::ints(&[part.len()], part))
}

pub(crate) fn size(_: &Cx, mut given: Given) -> Done {
    one(Value::ints(&[], vec![given.take(0)?.len() as i64]))
}

pub(crate) fn constant(cx: &Cx, _: Given) -> Done {
    let Some((name, a)) = cx.node.attributes.iter().next() else { return Err("a constant without a value".into()) };
    one(match (name.as_str(), a) {
        ("value", Attribute::Tensor(t)) => t.value(),
        ("value_float", Attribute::Float(f)) => Value::floats(&[], vec![*f]),
        ("value_floats", Attribute::Floats(f)) => Value::floats(&[f.len()], f.clone()),
        ("value_int", Attribute::Int(i)) => Value::ints(&[], vec![*i]),
        ("value_ints", Attribute::Ints(i)) => Value::ints(&[i.len()], i.clone()),
        _ => return Err(format!("a constant given as `{name}`, which is not read")),
    })
}

pub(crate) fn constant_of_shape(cx: &Cx, mut given: Given) -> Done {
    let shape = extents(given.ints(0)?.data())?;
    let n = cx.room(&shape)?;
    let value = match cx.node.attributes.get("value") {
        None => Value::floats(&[1], vec![0.0]),
        Some(Attribute::Tensor(t)) if t.len() == 1 => t.value(),
        Some(_) => return Err("a value that is not one number".into()),
    };
    let kind = value.dtype();
    one(each!(value, |data, _shape| (shape.clone(), vec![data[0]; n])).of(kind))
}

pub(crate) fn range(cx: &Cx, mut given: Given) -> Done {
    match (given.wide(0)?, given.wide(1)?, given.wide(2)?) {
        (Value::Int(a), Value::Int(b), Value::Int(c)) => {
            let single = |a: &Array<i64>| a.data().first().copied().ok_or("a bound of no number".to_string());
            let (start, limit, step) = (single(&a)?, single(&b)?, single(&c)?);
            if step == 0 {
                return Err("a step of zero".into());
            }
            let (start, limit, step) = (i128::from(start), i128::from(limit), i128::from(step));
            let n = (limit - start + step - step.signum()) / step;
            let n = usize::try_from(n.max(0)).unwrap_or(usize::MAX);
            cx.room(&[n])?;
            one(Value::ints(&[n], (0..n as i128).map(|i| (start + i * step) as i64).collect()))
        }
        (a, b, c) => {
            let single =
                |v: Value| v.into_floats().and_then(|t| t.data().first().copied()).ok_or("bounds of two kinds");
            let (start, limit, step) = (single(a)?, single(b)?, single(c)?);
            let n = ((f64::from(limit) - f64::from(start)) / f64::from(step)).ceil().max(0.0);
            if !n.is_finite() {
                return Err(format!("from {start} to {limit} in steps of {step}"));
            }
            let n = n as usize;
            cx.room(&[n])?;
            one(Value::floats(&[n], (0..n).map(|i| start + i as f32 * step).collect()))
        }
    }
}

/// The index that is read for one outside of `0..n`.
fn fold(mode: &str, i: i64, n: i64) -> Option<i64> {
    if (0..n).contains(&i) {
        return Some(i);
    }
    match mode {
        "edge" => Some(i.clamp(0, n - 1)),
        "wrap" => Some(i.rem_euclid(n)),
        "reflect" if n == 1 => Some(0),
        "reflect" => {
            let period = 2 * (n - 1);
            let at = i.rem_euclid(period);
            Some(at.min(period - at))
        }
        _ => None,
    }
}

pub(crate) fn pad(cx: &Cx, mut given: Given) -> Done {
    let x = given.take(0)?;
    let shape = x.shape();
    let rank = shape.len();
    let pads = match given.has(1) {
        true => given.ints(1)?.data().to_vec(),
        false => cx.ints("pads")?.ok_or("no pads")?.to_vec(),
    };
    let fill = match given.maybe(2) {
        None => None,
        Some(v) if v.is_empty() => None,
        Some(v) => Some(v),
    };
    let axes = match given.has(3) {
        true => given.ints(3)?.data().iter().map(|&a| axis(a, rank)).collect::<Done<Vec<_>>>()?,
        false => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() || pads.iter().any(|p| p.unsigned_abs() > 1 << 30) {
        return Err(format!("pads {pads:?} for {} axes", axes.len()));
    }
    let (mut before, mut to) = (vec![0i64; rank], shape.clone());
    for (k, &a) in axes.iter().enumerate() {
        let (front, back) = (pads[k], pads[k + axes.len()]);
        before[a] = front;
        to[a] = usize::try_from(shape[a] as i64 + front + back).map_err(|_| format!("pads {pads:?} of {shape:?}"))?;
    }
    let n = cx.room(&to)?;
    let mode = cx.text("mode", "constant")?;
    if !["constant", "edge", "wrap", "reflect"].contains(&mode) {
        return Err(format!("mode `{mode}`"));
    }
    if x.is_empty() && mode != "constant" {
        return Err(format!("mode `{mode}` for shape {shape:?}"));
    }
    // Source of each index of each axis.
    let from: Vec<Vec<Option<usize>>> = (0..rank)
        .map(|a| (0..to[a] as i64).map(|i| fold(mode, i - before[a], shape[a] as i64).map(|v| v as usize)).collect())
        .collect();
    fn gather<T: Copy>(data: &[T], shape: &[usize], from: &[Vec<Option<usize>>], n: usize, zero: T) -> Vec<T> {
        let own = strides(shape);
        let mut out = Vec::with_capacity(n);
        fn walk<T: Copy>(
            axis: usize,
            at: Option<usize>,
            data: &[T],
            own: &[usize],
            from: &[Vec<Option<usize>>],
            zero: T,
            out: &mut Vec<T>,
        ) {
            let Some(places) = from.get(axis) else {
                out.push(at.map_or(zero, |at| data[at]));
                return;
            };
            for p in places {
                let next = at.zip(*p).map(|(at, p)| at + p * own[axis]);
                walk(axis + 1, next, data, own, from, zero, out);
            }
        }
        walk(0, Some(0), data, &own, from, zero, &mut out);
        out
    }
    macro_rules! with {
        ($kind:ident, $a:expr, $zero:expr) => {{
            let zero = match &fill {
                Some(Value::$kind(f)) => f.data()[0],
                Some(_) => return Err("a number of another kind to pad with".into()),
                None => $zero,
            };
            Value::$kind(Array::new(&to, gather($a.data(), &shape, &from, n, zero)))
        }};
    }
    one(match x {
        Value::Float(f) => {
            let zero = match fill.clone().map(Value::into_floats) {
                None => cx.float("value", 0.0)?,
                Some(Some(t)) => t.data()[0],
                Some(None) => return Err("a number of another kind to pad with".into()),
            };
            Value::floats(&to, gather(f.rows().data(), &shape, &from, n, zero))
        }
        Value::Int(a) => with!(Int, a, 0),
        Value::Byte(a) => with!(Byte, a, 0),
        Value::Small(a) => with!(Small, a, 0),
        Value::Bool(a) => with!(Bool, a, false),
        Value::List(_) => return Err("a sequence where an array is needed".into()),
    })
}

pub(crate) fn depth_to_space(cx: &Cx, mut given: Given) -> Done {
    let x = given.take(0)?;
    let block = usize::try_from(cx.int("blocksize", 0)?).unwrap_or(0);
    let &[n, c, h, w] = &x.shape()[..] else { return Err(format!("shape {:?}, which has no pictures", x.shape())) };
    if block == 0 || block > 1 << 10 || !c.is_multiple_of(block * block) {
        return Err(format!("{c} channels in blocks of {block}"));
    }
    let d = c / (block * block);
    let (shape, perm) = match cx.text("mode", "DCR")? {
        "CRD" => ([n, d, block, block, h, w], [0, 1, 4, 2, 5, 3]),
        _ => ([n, block, block, d, h, w], [0, 3, 4, 1, 5, 2]),
    };
    let to = vec![n, d, h * block, w * block];
    one(each!(x, |data, _shape| (to.clone(), transposed(data, &shape, &perm).1)))
}

pub(crate) fn space_to_depth(cx: &Cx, mut given: Given) -> Done {
    let x = given.take(0)?;
    let b = usize::try_from(cx.int("blocksize", 0)?).unwrap_or(0);
    let &[n, c, h, w] = &x.shape()[..] else { return Err(format!("shape {:?}, which has no pictures", x.shape())) };
    if b == 0 || b > 1 << 10 || !h.is_multiple_of(b) || !w.is_multiple_of(b) {
        return Err(format!("pictures of {h} by {w} in blocks of {b}"));
    }
    let to = vec![n, c * b * b, h / b, w / b];
    cx.room(&to)?;
    let apart = [n, c, h / b, b, w / b, b];
    let perm = match cx.text("mode", "DCR")? {
        "CRD" => [0, 1, 3, 5, 2, 4],
        _ => [0, 3, 5, 1, 2, 4],
    };
    one(each!(x, |data, _shape| (to.clone(), transposed(data, &apart, &perm).1)))
}

pub(crate) fn trilu(cx: &Cx, mut given: Given) -> Done {
    let x = given.take(0)?;
    let k = if given.has(1) { given.ints(1)?.data().first().copied().unwrap_or(0) } else { 0 };
    let upper = cx.int("upper", 1)? != 0;
    let shape = x.shape();
    let &[.., rows, cols] = shape.as_slice() else { return Err(format!("shape {shape:?}, which is no matrix")) };
    let keep = |i: usize| {
        let (r, c) = (i / cols % rows, i % cols);
        let far = c as i64 - r as i64;
        if upper { far >= k } else { far <= k }
    };
    fn masked<T: Copy + Default>(data: &[T], keep: impl Fn(usize) -> bool) -> Vec<T> {
        data.iter().enumerate().map(|(i, &v)| if keep(i) { v } else { T::default() }).collect()
    }
    one(each!(x, |data, shape| (shape.to_vec(), masked(data, keep))))
}
