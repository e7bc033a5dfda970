//! Operators that only move numbers. What the operators of a session do to the numbers 1, 2, .. says where each comes from.

use super::pass::{Live, Run};
use super::plan::{Source, Step};
use crate::ops::{self, Cx, Done, Given};
use crate::value::Value;
use nnz_engine::ops as tape;
use nnz_engine::{Real, Role, Tensor, Var};
use std::sync::Arc;

/// Operators that move numbers, or put zeros beside them.
pub(super) const MOVES: &[&str] = &[
    "CenterCropPad",
    "Compress",
    "Concat",
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Identity",
    "Pad",
    "Reshape",
    "ReverseSequence",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Trilu",
    "Unsqueeze",
];

pub(super) fn moved<T: Real>(run: &mut Run<'_, '_, T>, step: &Step, cx: &Cx) -> Done<Vec<Live<T>>> {
    match &*step.node.op {
        "Identity" => Ok(vec![run.live(step, 0)?]),
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => {
            let x = run.live(step, 0)?.by_rows();
            Ok(vec![Live::rows(tape::reshape(&x, &reshaped(run, step, cx, x.shape())?))])
        }
        "Transpose" => {
            let x = run.live(step, 0)?;
            let rank = x.shape().len();
            let order = match cx.ints("perm")? {
                Some(p) => p.iter().map(|&a| ops::axis(a, rank)).collect::<Done<Vec<usize>>>()?,
                None => (0..rank).rev().collect(),
            };
            let mut sorted = order.clone();
            sorted.sort_unstable();
            match sorted.into_iter().eq(0..rank) {
                // From an image to its places, as it lies.
                true if x.last && order[..] == [&[0], &(2..rank).collect::<Vec<_>>()[..], &[1]].concat()[..] => {
                    Ok(vec![Live::rows(x.x)])
                }
                true => Ok(vec![Live::rows(tape::permute(&x.by_rows(), &order))]),
                false => Err(format!("{order:?} does not order {rank} axes")),
            }
        }
        "Concat" => {
            let parts = (0..step.inputs.len()).map(|i| run.live(step, i)).collect::<Done<Vec<Live<T>>>>()?;
            let Some(first) = parts.first().map(Live::shape) else { return Err("nothing to join".into()) };
            let at = ops::axis(cx.int("axis", 0)?, first.len())?;
            let off = |s: &[usize]| s.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, &d)| d).collect::<Vec<_>>();
            if parts.iter().any(|p| p.shape().len() != first.len() || off(&p.shape()) != off(&first)) {
                let shapes: Vec<_> = parts.iter().map(Live::shape).collect();
                return Err(format!("shapes {shapes:?} do not join along axis {at}"));
            }
            let last = parts.iter().any(|p| p.last);
            let parts: Vec<Var<T>> = parts.iter().map(|p| if last { p.by_places() } else { p.by_rows() }).collect();
            let axis = Live { x: parts[0].clone(), last }.axis(at);
            Ok(vec![Live { x: tape::concat(&parts.iter().collect::<Vec<_>>(), axis), last }])
        }
        "Gather" if !run.flows(step, 1) => gathered(run, step, cx),
        "Split" => {
            let x = run.live(step, 0)?;
            let shape = x.shape();
            let at = ops::axis(cx.int("axis", 0)?, shape.len())?;
            // The operator itself cuts a line of that length.
            let mut line = vec![1; shape.len()];
            line[at] = shape[at];
            let numbers = Value::ints(&line, (0..shape[at] as i64).collect());
            let given = std::iter::once(Some(numbers)).chain((1..step.inputs.len()).map(|i| run.plain(step, i)));
            let parts = ops::run(step.op, cx, Given(given.collect()))?;
            let sizes: Vec<usize> = parts.iter().map(|p| p.shape()[at]).collect();
            if sizes.iter().sum::<usize>() != shape[at] {
                return Err(format!("parts {sizes:?} of an axis of {}", shape[at]));
            }
            let parts = tape::split(&x.x, x.axis(at), &sizes);
            Ok(parts.into_iter().map(|p| x.like(p)).collect())
        }
        _ => by_numbers(run, step, cx),
    }
}

/// A shape that was written for the number of rows that the file fixes, for those that came.
fn rows_of<T: Real>(run: &Run<'_, '_, T>, step: &Step) -> Option<Value> {
    let slot = step.inputs.get(1).copied().flatten()?;
    let (Source::Constant(Value::Int(told)), Some(fixed)) = (&run.plan.sources[slot], run.plan.batch) else {
        return None;
    };
    let first = *told.data().first()?;
    let fixed = i64::try_from(fixed).ok().filter(|&b| b > 0)?;
    if fixed == run.batch as i64 || first <= 0 || first % fixed != 0 {
        return None;
    }
    let mut shape = told.data().to_vec();
    shape[0] = (first / fixed).checked_mul(run.batch as i64)?;
    Some(Value::ints(told.shape(), shape))
}

/// The shape that an operator gives numbers of another.
fn reshaped<T: Real>(run: &Run<'_, '_, T>, step: &Step, cx: &Cx, from: &[usize]) -> Done<Vec<usize>> {
    // Only the number of numbers matters, so few bytes stand for each.
    let ask = |second: Option<Value>| {
        let numbers = Value::Bool(crate::Array::new(from, vec![false; from.iter().product()]));
        let given = vec![Some(numbers), second];
        Ok(ops::run(step.op, cx, Given(given))?.first().map(Value::shape).unwrap_or_default())
    };
    if step.node.op == "Reshape"
        && let Some(told) = rows_of(run, step)
        && let Ok(shape) = ask(Some(told))
    {
        return Ok(shape);
    }
    ask(run.plain(step, 1))
}

/// Entries along an axis; of a table, rows.
fn gathered<T: Real>(run: &mut Run<'_, '_, T>, step: &Step, cx: &Cx) -> Done<Vec<Live<T>>> {
    let Some(Value::Int(index)) = run.plain(step, 1) else { return Err("indices that are no whole numbers".into()) };
    let table = run.plan.weight(step, 0).filter(|&(w, _)| run.plan.weights[w].spec.role == Role::Table);
    let shape = match table {
        Some((w, _)) => run.plan.weights[w].dims.clone(),
        None => run.live(step, 0)?.shape(),
    };
    let at = ops::axis(cx.int("axis", 0)?, shape.len())?;
    let n = shape[at] as i64;
    let wrap = |&i: &i64| {
        let i = if i < 0 { i + n } else { i };
        usize::try_from(i).ok().filter(|&i| i < shape[at]).ok_or(format!("index {i} into an axis of {n}"))
    };
    let places = index.data().iter().map(wrap).collect::<Done<Vec<usize>>>()?;
    let to = [&shape[..at], index.shape(), &shape[at + 1..]].concat();
    run.room(&to)?;
    let picked = match table {
        // Its gradient is that of the rows that were read.
        Some((w, false)) if at == 0 && shape.len() == 2 && run.plan.weights[w].uses == 1 => {
            let rows: Vec<u32> = places.iter().map(|&i| i as u32).collect();
            tape::rows_of(&run.whole(w), &rows)
        }
        _ => tape::index_select(&run.live(step, 0)?.by_rows(), at, &places),
    };
    Ok(vec![Live::rows(tape::reshape(&picked, &to))])
}

/// Any operator that moves numbers: by what it does to their places, counted from one; zero stays zero.
fn by_numbers<T: Real>(run: &mut Run<'_, '_, T>, step: &Step, cx: &Cx) -> Done<Vec<Live<T>>> {
    let mut next = 1i64;
    let (mut given, mut parts) = (Vec::with_capacity(step.inputs.len()), Vec::new());
    for i in 0..step.inputs.len() {
        if run.flows(step, i) {
            let x = run.live(step, i)?.by_rows();
            let n = x.value().len() as i64;
            given.push(Some(Value::ints(x.shape(), (next..next + n).collect())));
            next += n;
            parts.push(tape::reshape(&x, &[n as usize]));
            continue;
        }
        let fixed = if step.node.op == "Expand" && i == 1 { rows_of(run, step) } else { None };
        given.push(match fixed.or_else(|| run.plain(step, i)) {
            // What is put beside must be zero, which needs no place.
            Some(Value::Float(f)) => {
                let f = f.rows();
                if f.data().iter().any(|&v| v != 0.0) {
                    return Err(
                        "numbers other than zero are put beside those that are trained, which has no gradient here"
                            .into(),
                    );
                }
                Some(Value::ints(f.shape(), vec![0; f.len()]))
            }
            other => other,
        });
    }
    let found = ops::run(step.op, cx, Given(given))?;
    let mut all: Vec<&Var<T>> = parts.iter().collect();
    let zero = Var::constant(Tensor::zeros(&[1]));
    all.insert(0, &zero);
    let mut source: Option<Var<T>> = None;
    let mut out = Vec::with_capacity(found.len());
    for value in found {
        let Value::Int(places) = value else { return Err("an output that is no floats".into()) };
        let padded = places.data().contains(&0) || parts.len() != 1;
        let x = match padded {
            true => source.get_or_insert_with(|| tape::concat(&all, 0)).clone(),
            false => parts[0].clone(),
        };
        let at = places.data().iter().map(|&p| p as usize - usize::from(!padded)).collect();
        out.push(Live::rows(tape::pick(&x, Arc::new(at), places.shape())));
    }
    Ok(out)
}
