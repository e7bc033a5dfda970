//! Graphs inside nodes: `If`, `Loop`, `Scan` and `SequenceMap`.

use super::{Cx, Done, Given, Inside, axis, shape, types};
use crate::value::{Array, Value, each};

/// The node's graph of an attribute; those of a node are in the order of the attributes' names.
fn body<'a>(cx: &Cx<'a>, name: &str) -> Done<&'a Inside> {
    let graphs = cx.node.attributes.iter().filter(|(_, a)| matches!(a, crate::graph::Attribute::Graph(_)));
    let at = graphs.map(|(n, _)| n).position(|n| n == name);
    at.and_then(|i| cx.bodies.get(i)).ok_or(format!("no graph `{name}`"))
}

fn run(cx: &Cx, body: &Inside, own: Vec<Value>, captured: &[Value]) -> Done {
    let want = body.session.inputs().len() - captured.len();
    if own.len() != want {
        return Err(format!("{} values for a graph inside it that reads {want}", own.len()));
    }
    let all = own.into_iter().chain(captured.iter().cloned()).collect();
    body.session.inside(all, cx.fuel).map_err(|why| format!("inside it: {why}"))
}

/// The values that a graph reads from around it.
fn captured(given: &mut Given, body: &Inside) -> Done {
    body.captured.clone().map(|i| given.take(i)).collect()
}

fn truth(value: &Value) -> Done<bool> {
    match value {
        Value::Bool(b) if b.data().len() == 1 => Ok(b.data()[0]),
        other => Err(format!("a condition of {} {}, but one truth value is needed", other.len(), other.kind())),
    }
}

pub(crate) fn branch(cx: &Cx, mut given: Given) -> Done {
    let yes = truth(&given.take(0)?)?;
    let body = body(cx, if yes { "then_branch" } else { "else_branch" })?;
    let captured = captured(&mut given, body)?;
    run(cx, body, Vec::new(), &captured)
}

/// Joins values of one shape along a new axis.
fn stack(cx: &Cx, parts: Vec<Value>, at: i64, back: bool) -> Done<Value> {
    let Some(first) = parts.first() else { return Ok(Value::floats(&[0], Vec::new())) };
    let kind = first.dtype();
    let mut shape = first.shape();
    let place = axis(at, shape.len() + 1)?;
    shape.insert(place, 1);
    let mut rows: Vec<Value> = Vec::with_capacity(parts.len());
    for p in parts {
        if p.len() != first_len(&shape) || matches!(p, Value::List(_)) {
            return Err(format!("results of shapes {:?} and {shape:?} in turn", p.shape()));
        }
        rows.push(p.reshape(&shape));
    }
    if back {
        rows.reverse();
    }
    Ok(shape::joined(cx, rows, place)?.of(kind))
}

fn first_len(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// The total size of what scans have collected, which may grow with every turn.
fn bounded(cx: &Cx, total: &mut usize, value: &Value) -> Done<()> {
    *total = total.saturating_add(value.len()).saturating_add(1);
    cx.room(&[*total]).map(|_| ())
}

pub(crate) fn repeat(cx: &Cx, mut given: Given) -> Done {
    let body = body(cx, "body")?;
    let captured = captured(&mut given, body)?;
    let most = match given.maybe(0) {
        None => i64::MAX,
        Some(Value::Int(n)) if n.data().len() == 1 => n.data()[0],
        Some(other) => return Err(format!("{} that say how often", other.kind())),
    };
    let mut go = given.maybe(1).map_or(Ok(true), |c| truth(&c))?;
    let count = body.captured.start.saturating_sub(2);
    let mut state: Vec<Value> = (0..count).map(|i| given.take(i + 2)).collect::<Done<_>>()?;
    let outputs = body.session.outputs().len();
    if outputs < 1 + count {
        return Err(format!("{outputs} results of a graph that passes on {count} values"));
    }
    let mut scanned: Vec<Vec<Value>> = vec![Vec::new(); outputs - 1 - count];
    let mut total = 0;
    let mut turn = 0;
    while go && turn < most {
        let mut own = vec![Value::ints(&[], vec![turn]), Value::Bool(Array::new(&[], vec![true]))];
        own.append(&mut state);
        let mut found = run(cx, body, own, &captured)?.into_iter();
        go = truth(&found.next().ok_or("no condition")?)?;
        state = found.by_ref().take(count).collect();
        for (list, value) in scanned.iter_mut().zip(found) {
            bounded(cx, &mut total, &value)?;
            list.push(value);
        }
        turn += 1;
    }
    for list in scanned {
        state.push(stack(cx, list, 0, false)?);
    }
    Ok(state)
}

/// The slice of a value at one place of an axis.
fn row(value: &Value, at: usize, place: usize) -> Done<Value> {
    let (kind, shape) = (value.dtype(), value.shape());
    let cut = each!(value.clone(), |data, shape| shape::part(data, shape, at, place, 1)).of(kind);
    let left: Vec<usize> = (0..shape.len()).filter(|&i| i != at).map(|i| shape[i]).collect();
    Ok(cut.reshape(&left))
}

pub(crate) fn scan(cx: &Cx, mut given: Given) -> Done {
    if cx.opset < 9 {
        return Err("a scan of batches, as in version 8".into());
    }
    let body = body(cx, "body")?;
    let captured = captured(&mut given, body)?;
    let inputs = body.captured.start;
    let read = usize::try_from(cx.int("num_scan_inputs", 0)?).ok().filter(|&n| n > 0 && n <= inputs);
    let read = read.ok_or(format!("{inputs} inputs do not suffice"))?;
    let count = inputs - read;
    let mut state: Vec<Value> = (0..count).map(|i| given.take(i)).collect::<Done<_>>()?;
    let over: Vec<Value> = (count..inputs).map(|i| given.take(i)).collect::<Done<_>>()?;
    let results = body.session.outputs().len().checked_sub(count).ok_or("a graph with too few results")?;
    let list = |name: &str, n: usize| -> Done<Vec<i64>> {
        let all = cx.ints(name)?.map_or_else(|| vec![0; n], <[i64]>::to_vec);
        if all.len() == n { Ok(all) } else { Err(format!("attribute `{name}` is {all:?}, but {n} are needed")) }
    };
    let (back_in, back_out) = (list("scan_input_directions", read)?, list("scan_output_directions", results)?);
    let (axes_in, axes_out) = (list("scan_input_axes", read)?, list("scan_output_axes", results)?);
    let mut axes = Vec::with_capacity(read);
    for (v, &a) in over.iter().zip(&axes_in) {
        axes.push(axis(a, v.shape().len())?);
    }
    let n = over[0].shape()[axes[0]];
    if over.iter().zip(&axes).any(|(v, &a)| v.shape()[a] != n) {
        return Err("inputs of different lengths".into());
    }
    let mut scanned: Vec<Vec<Value>> = vec![Vec::new(); results];
    let mut total = 0;
    for i in 0..n {
        let mut own = std::mem::take(&mut state);
        for ((v, &a), &back) in over.iter().zip(&axes).zip(&back_in) {
            own.push(row(v, a, if back != 0 { n - 1 - i } else { i })?);
        }
        let mut found = run(cx, body, own, &captured)?.into_iter();
        state = found.by_ref().take(count).collect();
        for (list, value) in scanned.iter_mut().zip(found) {
            bounded(cx, &mut total, &value)?;
            list.push(value);
        }
    }
    for ((list, &a), &back) in scanned.into_iter().zip(&axes_out).zip(&back_out) {
        state.push(stack(cx, list, a, back != 0)?);
    }
    Ok(state)
}

pub(crate) fn map(cx: &Cx, mut given: Given) -> Done {
    let body = body(cx, "body")?;
    let captured = captured(&mut given, body)?;
    let all: Vec<Value> = (0..body.captured.start).map(|i| given.take(i)).collect::<Done<_>>()?;
    let Some(Value::List(first)) = all.first() else { return Err("no sequence".into()) };
    let mut made: Vec<Vec<Value>> = vec![Vec::new(); body.session.outputs().len()];
    let mut total = 0;
    for i in 0..first.len() {
        let pick = |v: &Value| match v {
            Value::List(l) => l.get(i).cloned().ok_or("sequences of different lengths".to_string()),
            other => Ok(other.clone()),
        };
        let own = all.iter().map(pick).collect::<Done<_>>()?;
        for (list, value) in made.iter_mut().zip(run(cx, body, own, &captured)?) {
            bounded(cx, &mut total, &value)?;
            list.push(value);
        }
    }
    Ok(made.into_iter().map(Value::List).collect())
}

/// A single whole number.
pub(super) fn number(given: &mut Given, i: usize) -> Done<i64> {
    match types::convert(given.take(i)?, crate::graph::DType::I64, true) {
        Value::Int(a) if a.data().len() == 1 => Ok(a.data()[0]),
        other => Err(format!("input {i} has {} {}, but one whole number is needed", other.len(), other.kind())),
    }
}
