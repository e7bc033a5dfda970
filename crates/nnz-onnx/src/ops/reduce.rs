//! Reductions along axes.

use super::types::lift;
use super::{Cx, Done, Given, axis, one, runs, shape, strides};
use crate::graph::DType;
use crate::value::{Array, Value};

/// Shape with the axes of a reduction removed or made one; strides of the result by the axes of the input.
fn plan(shape: &[usize], axes: &[usize], keep: bool) -> (Vec<usize>, Vec<usize>) {
    let ones: Vec<usize> = (0..shape.len()).map(|i| if axes.contains(&i) { 1 } else { shape[i] }).collect();
    let own = strides(&ones);
    let steps = (0..shape.len()).map(|i| if axes.contains(&i) { 0 } else { own[i] }).collect();
    let to = match keep {
        true => ones,
        false => (0..shape.len()).filter(|i| !axes.contains(i)).map(|i| shape[i]).collect(),
    };
    (to, steps)
}

pub(crate) fn reduce(cx: &Cx, mut given: Given) -> Done {
    let x = given.wide(0)?;
    let from = x.shape();
    let axes = match shape::axes_arg(cx, &mut given, 1, from.len())? {
        Some(axes) if !axes.is_empty() => axes,
        _ if cx.int("noop_with_empty_axes", 0)? != 0 => return one(x),
        _ => (0..from.len()).collect(),
    };
    let (to, steps) = plan(&from, &axes, cx.int("keepdims", 1)? != 0);
    let n = cx.room(&to)?;
    let count = axes.iter().map(|&a| from[a]).product::<usize>();
    let op = &*cx.node.op;
    match x {
        Value::Float(f) => {
            let t = f.rows();
            let data = t.data();
            let (start, step): (f64, fn(f64, f64) -> f64) = match op {
                "ReduceSum" | "ReduceMean" | "ReduceLogSum" => (0.0, |a, v| a + v),
                "ReduceMax" | "ReduceLogSumExp" => (f64::NEG_INFINITY, |a, v| if v > a || v.is_nan() { v } else { a }),
                "ReduceMin" => (f64::INFINITY, |a, v| if v < a || v.is_nan() { v } else { a }),
                "ReduceProd" => (1.0, |a, v| a * v),
                "ReduceL1" => (0.0, |a, v| a + v.abs()),
                _ => (0.0, |a, v| a + v * v),
            };
            let mut sums = vec![start; n];
            let inner = steps.last().copied().unwrap_or(0);
            let mut at = 0;
            runs(&from, [&steps], |[o], n| {
                let part = &data[at..at + n];
                match inner {
                    0 => sums[o] = part.iter().fold(sums[o], |a, &v| step(a, f64::from(v))),
                    _ => {
                        part.iter().zip(&mut sums[o..]).for_each(|(&v, s)| *s = step(*s, f64::from(v)));
                    }
                }
                at += n;
            });
            if op == "ReduceLogSumExp" {
                let top = sums.clone();
                sums.iter_mut().for_each(|s| *s = 0.0);
                let mut at = 0;
                runs(&from, [&steps], |[o], n| {
                    (0..n).for_each(|i| sums[o + i * inner] += (f64::from(data[at + i]) - top[o + i * inner]).exp());
                    at += n;
                });
                sums.iter_mut().zip(top).for_each(|(s, t)| *s = s.ln() + t);
            }
            let last: fn(f64, f64) -> f64 = match op {
                "ReduceMean" => |s, n| s / n,
                "ReduceL2" => |s, _| s.sqrt(),
                "ReduceLogSum" => |s, _| s.ln(),
                _ => |s, _| s,
            };
            one(Value::floats(&to, sums.iter().map(|&s| last(s, count as f64) as f32).collect()))
        }
        Value::Int(a) => {
            let kind = a.kind();
            let least = if kind == DType::U64 { 0 } else { i64::MIN };
            let (start, step): (i64, &dyn Fn(i64, i64) -> i64) = match op {
                "ReduceSum" | "ReduceMean" => (0, &i64::wrapping_add),
                "ReduceMax" => (least, &|a, b| if lift(b, kind) > lift(a, kind) { b } else { a }),
                "ReduceMin" => (if least == 0 { -1 } else { i64::MAX }, &|a, b| {
                    if lift(b, kind) < lift(a, kind) { b } else { a }
                }),
                "ReduceProd" => (1, &i64::wrapping_mul),
                "ReduceL1" if kind != DType::U64 => (0, &|a, b| a.wrapping_add(b.wrapping_abs())),
                "ReduceSumSquare" => (0, &|a, b| a.wrapping_add(b.wrapping_mul(b))),
                _ => return Err(format!("{op} of whole numbers")),
            };
            let mut sums = vec![start; n];
            let inner = steps.last().copied().unwrap_or(0);
            let mut at = 0;
            runs(&from, [&steps], |[o], n| {
                (0..n).for_each(|i| sums[o + i * inner] = step(sums[o + i * inner], a.data()[at + i]));
                at += n;
            });
            if op == "ReduceMean" {
                sums.iter_mut().for_each(|s| *s /= (count as i64).max(1));
            }
            one(Value::ints(&to, sums))
        }
        // The least of truth values is whether all are true.
        Value::Bool(a) if matches!(op, "ReduceMax" | "ReduceMin") => {
            let any = op == "ReduceMax";
            let mut found = vec![!any; n];
            let inner = steps.last().copied().unwrap_or(0);
            let mut at = 0;
            runs(&from, [&steps], |[o], n| {
                for i in 0..n {
                    let (v, to) = (a.data()[at + i], &mut found[o + i * inner]);
                    *to = if any { *to || v } else { *to && v };
                }
                at += n;
            });
            one(Value::Bool(Array::new(&to, found)))
        }
        other => Err(format!("{op} of {}", other.kind())),
    }
}

pub(crate) fn arg(cx: &Cx, mut given: Given) -> Done {
    let x = given.wide(0)?;
    let from = x.shape();
    let a = axis(cx.int("axis", 0)?, from.len())?;
    let (to, _) = plan(&from, &[a], cx.int("keepdims", 1)? != 0);
    cx.room(&to)?;
    let (outer, n, inner): (usize, usize, usize) =
        (from[..a].iter().product(), from[a], from[a + 1..].iter().product());
    if n == 0 {
        return Err(format!("the largest of none, shape {from:?}"));
    }
    let (most, late) = (cx.node.op == "ArgMax", cx.int("select_last_index", 0)? != 0);
    fn find<T: PartialOrd + Copy>(data: &[T], [outer, n, inner]: [usize; 3], most: bool, late: bool) -> Vec<i64> {
        let mut out = Vec::with_capacity(outer * inner);
        for (o, i) in (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))) {
            let at = |k: usize| data[(o * n + k) * inner + i];
            let better = |a: T, b: T| if most { a > b } else { a < b };
            let best = (1..n).fold(0, |b, k| if better(at(k), at(b)) || (late && at(k) == at(b)) { k } else { b });
            out.push(best as i64);
        }
        out
    }
    let cut = [outer, n, inner];
    let found = match x {
        Value::Float(f) => find(f.rows().data(), cut, most, late),
        Value::Int(a) => find(a.data(), cut, most, late),
        other => return Err(format!("{} of {}", cx.node.op, other.kind())),
    };
    one(Value::ints(&to, found))
}

pub(crate) fn cumulate(cx: &Cx, mut given: Given) -> Done {
    let x = given.wide(0)?;
    let shape = x.shape();
    let told = given.ints(1)?.data().first().copied().ok_or("no axis")?;
    let a = axis(told, shape.len())?;
    let (exclusive, reverse) = (cx.int("exclusive", 0)? != 0, cx.int("reverse", 0)? != 0);
    let (outer, n, inner): (usize, usize, usize) =
        (shape[..a].iter().product(), shape[a], shape[a + 1..].iter().product());
    fn run<T: Copy>(
        data: &[T],
        start: T,
        [outer, n, inner]: [usize; 3],
        (exclusive, reverse): (bool, bool),
        add: fn(T, T) -> T,
    ) -> Vec<T> {
        let mut out = vec![start; data.len()];
        for (o, i) in (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))) {
            let mut sum = start;
            for k in 0..n {
                let at = (o * n + if reverse { n - 1 - k } else { k }) * inner + i;
                let next = add(sum, data[at]);
                out[at] = if exclusive { sum } else { next };
                sum = next;
            }
        }
        out
    }
    let (cut, how) = ([outer, n, inner], (exclusive, reverse));
    let times = cx.node.op == "CumProd";
    one(match (x, times) {
        (Value::Float(f), false) => Value::floats(&shape, run(f.rows().data(), 0.0, cut, how, |a, b| a + b)),
        (Value::Float(f), true) => Value::floats(&shape, run(f.rows().data(), 1.0, cut, how, |a, b| a * b)),
        (Value::Int(v), false) => Value::ints(&shape, run(v.data(), 0, cut, how, i64::wrapping_add)),
        (Value::Int(v), true) => Value::ints(&shape, run(v.data(), 1, cut, how, i64::wrapping_mul)),
        (other, _) => return Err(format!("{} of {}", cx.node.op, other.kind())),
    })
}
