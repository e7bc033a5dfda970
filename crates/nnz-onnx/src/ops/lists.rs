//! Sequences of values, and optional values: sequences of none or one.

use super::flow::number;
use super::{Cx, Done, Given, axis, one, shape};
use crate::value::{Array, Value, each};

fn list(given: &mut Given) -> Done<Vec<Value>> {
    match given.take(0)? {
        Value::List(l) => Ok(l),
        other => Err(format!("{} where a sequence is needed", other.kind())),
    }
}

/// A place in a sequence, counted from the end if negative.
fn place(given: &mut Given, i: usize, n: usize) -> Done<usize> {
    let told = number(given, i)?;
    let at = if told < 0 { told.saturating_add(n as i64) } else { told };
    usize::try_from(at).ok().filter(|&a| a < n).ok_or(format!("place {told} of a sequence of {n}"))
}

pub(crate) fn at(_: &Cx, mut given: Given) -> Done {
    let mut l = list(&mut given)?;
    let at = place(&mut given, 1, l.len())?;
    one(l.swap_remove(at))
}

pub(crate) fn construct(_: &Cx, mut given: Given) -> Done {
    let all = (0..given.len()).map(|i| given.take(i)).collect::<Done<Vec<_>>>()?;
    match all.iter().any(|v| matches!(v, Value::List(_))) {
        true => Err("a sequence of sequences".into()),
        false => one(Value::List(all)),
    }
}

pub(crate) fn empty(_: &Cx, _: Given) -> Done {
    one(Value::List(Vec::new()))
}

pub(crate) fn erase(_: &Cx, mut given: Given) -> Done {
    let mut l = list(&mut given)?;
    let at = if given.has(1) { place(&mut given, 1, l.len())? } else { l.len().saturating_sub(1) };
    if at < l.len() {
        l.remove(at);
    }
    one(Value::List(l))
}

pub(crate) fn insert(cx: &Cx, mut given: Given) -> Done {
    let mut l = list(&mut given)?;
    let new = given.take(1)?;
    if matches!(new, Value::List(_)) {
        return Err("a sequence of sequences".into());
    }
    // One more than there are: the end is a place, too.
    let n = l.len();
    let at = match given.has(2) {
        true => {
            let told = number(&mut given, 2)?;
            let at = if told < 0 { told.saturating_add(n as i64) } else { told };
            usize::try_from(at).ok().filter(|&a| a <= n).ok_or(format!("place {told} of a sequence of {n}"))?
        }
        false => n,
    };
    l.insert(at, new);
    cx.room(&[l.iter().map(Value::len).sum()])?;
    one(Value::List(l))
}

pub(crate) fn length(_: &Cx, mut given: Given) -> Done {
    one(Value::ints(&[], vec![list(&mut given)?.len() as i64]))
}

pub(crate) fn split(cx: &Cx, mut given: Given) -> Done {
    let x = given.take(0)?;
    let (shape, kind) = (x.shape(), x.dtype());
    let at = axis(cx.int("axis", 0)?, shape.len())?;
    let n = shape[at];
    let single = !given.has(1);
    let sizes: Vec<usize> = match given.maybe(1) {
        None => vec![1; n],
        Some(Value::Int(a)) if a.shape().is_empty() => {
            let each = usize::try_from(a.data()[0]).ok().filter(|&e| e > 0).ok_or("parts of no length")?;
            (0..n.div_ceil(each)).map(|i| each.min(n - i * each)).collect()
        }
        Some(Value::Int(a)) => shape::extents_any(a.data())?,
        Some(other) => return Err(format!("parts of {}", other.kind())),
    };
    if sizes.iter().try_fold(0usize, |a, &b| a.checked_add(b)) != Some(n) || sizes.len() > 1 << 20 {
        return Err(format!("axis {at} of shape {shape:?} in parts of {sizes:?}"));
    }
    let keep = cx.int("keepdims", 1)? != 0 || !single;
    let mut first = 0;
    let mut out = Vec::with_capacity(sizes.len());
    for size in sizes {
        let part = each!(x.clone(), |data, shape| shape::part(data, shape, at, first, size)).of(kind);
        first += size;
        let left: Vec<usize> = (0..shape.len()).filter(|&i| i != at).map(|i| shape[i]).collect();
        out.push(if keep { part } else { part.reshape(&left) });
    }
    one(Value::List(out))
}

pub(crate) fn join(cx: &Cx, mut given: Given) -> Done {
    let l = list(&mut given)?;
    let Some(first) = l.first() else { return Err("an empty sequence".into()) };
    let (kind, rank, told) = (first.dtype(), first.shape().len(), cx.int("axis", 0)?);
    if cx.int("new_axis", 0)? == 0 {
        let at = axis(told, rank)?;
        return one(shape::joined(cx, l, at)?.of(kind));
    }
    let at = axis(told, rank + 1)?;
    let widened = l.into_iter().map(|v| {
        let mut shape = v.shape();
        match matches!(v, Value::List(_)) || shape.len() != rank {
            true => Err(format!("a value of shape {shape:?} among those of {rank} axes")),
            false => {
                shape.insert(at, 1);
                Ok(v.reshape(&shape))
            }
        }
    });
    one(shape::joined(cx, widened.collect::<Done<_>>()?, at)?.of(kind))
}

/// An optional value is held as the value itself, one without content as an empty sequence.
pub(crate) fn optional(_: &Cx, mut given: Given) -> Done {
    one(given.maybe(0).unwrap_or(Value::List(Vec::new())))
}

pub(crate) fn element(_: &Cx, mut given: Given) -> Done {
    match given.take(0)? {
        Value::List(l) if l.is_empty() => Err("an optional value that is empty".into()),
        value => one(value),
    }
}

pub(crate) fn has(_: &Cx, mut given: Given) -> Done {
    let there = given.maybe(0).is_some_and(|v| !matches!(&v, Value::List(l) if l.is_empty()));
    one(Value::Bool(Array::new(&[], vec![there])))
}
