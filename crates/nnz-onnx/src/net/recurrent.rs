//! Recurrent layers on the tape, with gates in ONNX's order.

use super::pass::{Run, texts};
use super::plan::Step;
use crate::ops::{Cx, Done};
use crate::value::Value;
use nnz_engine::ops as tape;
use nnz_engine::{Real, Role, Tensor, Var};

/// What the reset gate of a GRU makes of the old state.
type Reset<T> = Box<dyn Fn(&Var<T>) -> Var<T>>;

/// One of the two matrices of a layer.
enum Matrix<T> {
    /// A weight of one direction, under any storage.
    Weight(usize),
    /// All entries, `[gates · hidden, inputs]`.
    Whole(Var<T>),
}

impl<T: Real> Matrix<T> {
    fn times(&self, run: &mut Run<'_, '_, T>, x: &Var<T>) -> Var<T> {
        match self {
            Self::Weight(w) => run.multiply(x, *w),
            Self::Whole(w) => tape::matmul(x, false, w, true),
        }
    }
}

pub(super) fn recurrent<T: Real>(run: &mut Run<'_, '_, T>, step: &Step, cx: &Cx) -> Done<Vec<Var<T>>> {
    let op = &*step.node.op;
    let gates = match op {
        "LSTM" => 4,
        "GRU" => 3,
        _ => 1,
    };
    let batch_first = cx.int("layout", 0)? != 0;
    let x = run.live(step, 0)?.by_rows();
    let x = if batch_first && x.shape().len() == 3 { tape::permute(&x, &[1, 0, 2]) } else { x };
    let extents = |run: &mut Run<'_, '_, T>, i: usize| -> Done<Vec<usize>> {
        match run.plan.weight(step, i) {
            Some((w, false)) => Ok(run.plan.weights[w].dims.clone()),
            _ => Ok(run.live(step, i)?.shape()),
        }
    };
    let (sw, sr) = (extents(run, 1)?, extents(run, 2)?);
    let (&[steps, batch, inputs], &[dirs, rows, wide], &[_, _, hidden]) = (x.shape(), &sw[..], &sr[..]) else {
        return Err(format!("an input of shape {:?} and weights of shape {sw:?} and {sr:?}", x.shape()));
    };
    let direction = cx.text("direction", "forward")?;
    let two = direction == "bidirectional";
    let fits = inputs == wide
        && hidden > 0
        && hidden.checked_mul(gates) == Some(rows)
        && sr == [dirs, rows, hidden]
        && dirs == if two { 2 } else { 1 }
        && (two || ["forward", "reverse"].contains(&direction))
        && [0, hidden as i64].contains(&cx.int("hidden_size", hidden as i64)?)
        && steps > 0;
    if !fits {
        return Err(format!(
            "an input of shape {:?}, direction {direction}, weights of shape {sw:?} and {sr:?}",
            x.shape()
        ));
    }
    let usual: &[&str] = match op {
        "LSTM" => &["Sigmoid", "Tanh", "Tanh"],
        "GRU" => &["Sigmoid", "Tanh"],
        _ => &["Tanh"],
    };
    if let Some(said) = texts(step, "activations")
        && said.iter().enumerate().any(|(i, a)| !a.eq_ignore_ascii_case(usual[i % usual.len()]))
    {
        return Err(format!("functions {said:?}; {usual:?} are trained"));
    }
    if run.has(step, 7) {
        return Err("peepholes, which are not trained".into());
    }
    if run.has(step, 4) {
        let whole = matches!(run.plain(step, 4), Some(Value::Int(l)) if l.data().iter().all(|&n| n == steps as i64));
        if !whole {
            return Err(
                "sequences of different lengths, which are not trained; export the layer without lengths".into()
            );
        }
    }
    run.room(&[steps, dirs, batch, rows])?;
    let late = cx.int("linear_before_reset", 0)? != 0;
    let state = |run: &mut Run<'_, '_, T>, i: usize| -> Done<Var<T>> {
        if !run.has(step, i) {
            return Ok(Var::constant(Tensor::zeros(&[dirs, batch, hidden])));
        }
        let h = run.live(step, i)?.by_rows();
        let h = if batch_first && h.shape().len() == 3 { tape::permute(&h, &[1, 0, 2]) } else { h };
        // One row stands for all, where the file fixes the batch at one.
        match h.shape() {
            &[d, n, m] if d == dirs && m == hidden && (n == batch || n == 1) => {
                Ok(tape::expand(&h, &[dirs, batch, hidden]))
            }
            other => Err(format!("a state of shape {other:?}")),
        }
    };
    let (first, cell) = (state(run, 5)?, if op == "LSTM" { Some(state(run, 6)?) } else { None });
    let bias = match run.has(step, 3) {
        true => Some(tape::reshape(&run.vector(step, 3, dirs * 2 * rows)?, &[dirs, 2, rows])),
        false => None,
    };
    let flat = tape::reshape(&x, &[steps * batch, inputs]);
    let (mut outs, mut last_h, mut last_c) = (Vec::new(), Vec::new(), Vec::new());
    for d in 0..dirs {
        let back = direction == "reverse" || d == 1;
        let matrix = |run: &mut Run<'_, '_, T>, i: usize, cols: usize, whole: bool| -> Done<Matrix<T>> {
            if let Some((w, false)) = run.plan.weight(step, i)
                && run.plan.weights[w].spec.role == Role::Weight
                && !run.plan.weights[w].turned()
            {
                if dirs == 1 && !whole {
                    return Ok(Matrix::Weight(w));
                }
                // Each direction multiplies by its part.
                if d == 0 {
                    run.count(w, steps * batch);
                }
                let all = run.whole(w);
                return Ok(Matrix::Whole(tape::slice(&all, 0, d * rows..(d + 1) * rows)));
            }
            let all = tape::reshape(&run.live(step, i)?.by_rows(), &[dirs * rows, cols]);
            Ok(Matrix::Whole(tape::slice(&all, 0, d * rows..(d + 1) * rows)))
        };
        let early = op == "GRU" && !late;
        let (w, r) = (matrix(run, 1, inputs, false)?, matrix(run, 2, hidden, early)?);
        let line =
            |b: &Var<T>, k: usize| tape::reshape(&tape::slice(&tape::slice(b, 0, d..d + 1), 1, k..k + 1), &[rows]);
        let (bw, br) = (bias.as_ref().map(|b| line(b, 0)), bias.as_ref().map(|b| line(b, 1)));
        let plus = |x: Var<T>, b: &Option<Var<T>>| b.as_ref().map_or_else(|| x.clone(), |b| tape::add_bias(&x, b));
        let read = tape::reshape(&plus(w.times(run, &flat), &bw), &[steps, batch, rows]);
        let own = |s: &Var<T>| tape::reshape(&tape::slice(s, 0, d..d + 1), &[batch, hidden]);
        let (mut h, mut c) = (own(&first), cell.as_ref().map(own));
        // For a GRU whose gate resets the state before the product.
        let parts = match (&r, early) {
            (Matrix::Whole(r), true) => {
                Some((tape::slice(r, 0, 0..2 * hidden), tape::slice(r, 0, 2 * hidden..3 * hidden)))
            }
            _ => None,
        };
        let mut ys = vec![h.clone(); steps];
        for i in 0..steps {
            let t = if back { steps - 1 - i } else { i };
            let from = tape::reshape(&tape::slice(&read, 0, t..t + 1), &[batch, rows]);
            let cut = |x: &Var<T>, g: usize| tape::slice(x, 1, g * hidden..(g + 1) * hidden);
            h = match op {
                "LSTM" => {
                    let pre = tape::add(&from, &plus(r.times(run, &h), &br));
                    let gate = |g: usize| tape::sigmoid(&cut(&pre, g));
                    let before = c.take().ok_or("no cell")?;
                    let now =
                        tape::add(&tape::mul(&gate(2), &before), &tape::mul(&gate(0), &tape::tanh(&cut(&pre, 3))));
                    let h = tape::mul(&gate(1), &tape::tanh(&now));
                    c = Some(now);
                    h
                }
                "GRU" => {
                    let (kept, new): (Var<T>, Reset<T>) = match &parts {
                        None => {
                            let kept = plus(r.times(run, &h), &br);
                            let n = cut(&kept, 2);
                            (kept, Box::new(move |reset| tape::mul(reset, &n)))
                        }
                        Some((zr, n)) => {
                            let kept = tape::matmul(&h, false, zr, true);
                            let kept = br
                                .as_ref()
                                .map_or(kept.clone(), |b| tape::add_bias(&kept, &tape::slice(b, 0, 0..2 * hidden)));
                            let own_bias = br.as_ref().map(|b| tape::slice(b, 0, 2 * hidden..3 * hidden));
                            let (h, n) = (h.clone(), n.clone());
                            (
                                kept,
                                Box::new(move |reset| {
                                    let y = tape::matmul(&tape::mul(reset, &h), false, &n, true);
                                    own_bias.as_ref().map_or(y.clone(), |b| tape::add_bias(&y, b))
                                }),
                            )
                        }
                    };
                    let gate = |g: usize| tape::sigmoid(&tape::add(&cut(&from, g), &cut(&kept, g)));
                    let (z, reset) = (gate(0), gate(1));
                    let new = tape::tanh(&tape::add(&cut(&from, 2), &new(&reset)));
                    tape::add(&new, &tape::mul(&z, &tape::sub(&h, &new)))
                }
                _ => tape::tanh(&tape::add(&from, &plus(r.times(run, &h), &br))),
            };
            ys[t] = h.clone();
        }
        outs.push(tape::stack(&ys.iter().collect::<Vec<_>>(), 0));
        last_h.push(h);
        last_c.extend(c);
    }
    let join = |parts: &[Var<T>], axis: usize| tape::stack(&parts.iter().collect::<Vec<_>>(), axis);
    let mut found = vec![join(&outs, 1), join(&last_h, 0)];
    if op == "LSTM" {
        found.push(join(&last_c, 0));
    }
    if batch_first {
        let orders: [&[usize]; 3] = [&[2, 0, 1, 3], &[1, 0, 2], &[1, 0, 2]];
        found = found.iter().zip(orders).map(|(x, order)| tape::permute(x, order)).collect();
    }
    Ok(found)
}
