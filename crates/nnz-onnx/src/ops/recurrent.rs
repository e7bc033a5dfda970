//! Recurrent layers: RNN (Elman 1990), LSTM (Hochreiter and Schmidhuber 1997) and GRU (Cho et al. 2014), with gates in ONNX's order.

use super::{Cx, Done, Given};
use crate::graph::Attribute;
use crate::value::Value;
use nnz_kernels::{Start, gemm as product};

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// `[rows, cols]` times the transpose of `[outs, cols]`.
fn times(x: &[f32], w: &[f32], [rows, cols, outs]: [usize; 3]) -> Vec<f32> {
    let mut y = vec![0.0; rows * outs];
    if !y.is_empty() {
        product(rows, outs, cols, x, (cols, 1), w, (1, cols), Start::Zero, &mut y, outs);
    }
    y
}

pub(crate) fn recurrent(cx: &Cx, mut given: Given) -> Done {
    let lstm = cx.node.op == "LSTM";
    let plain = cx.node.op == "RNN";
    let gates = match () {
        () if lstm => 4,
        () if plain => 1,
        () => 3,
    };
    let (x, w, r) = (given.tensor(0)?, given.tensor(1)?, given.tensor(2)?);
    let (&[dirs, rows, inputs], &[_, _, hidden]) = (w.shape(), r.shape()) else {
        return Err(format!("weights of shape {:?} and {:?}", w.shape(), r.shape()));
    };
    if rows != gates * hidden || r.shape() != [dirs, rows, hidden] || hidden == 0 || inputs == 0 {
        return Err(format!("weights of shape {:?} and {:?}", w.shape(), r.shape()));
    }
    if ![0, hidden as i64].contains(&cx.int("hidden_size", hidden as i64)?) {
        return Err(format!("a hidden size that is not the {hidden} of its weights"));
    }
    let direction = cx.text("direction", "forward")?;
    if dirs != if direction == "bidirectional" { 2 } else { 1 }
        || !["forward", "reverse", "bidirectional"].contains(&direction)
    {
        return Err(format!("direction {direction} with weights for {dirs}"));
    }
    let usual: &[&str] = match gates {
        4 => &["Sigmoid", "Tanh", "Tanh"],
        1 => &["Tanh"],
        _ => &["Sigmoid", "Tanh"],
    };
    if let Some(Attribute::Texts(said)) = cx.node.attributes.get("activations")
        && said.iter().enumerate().any(|(i, a)| !a.eq_ignore_ascii_case(usual[i % usual.len()]))
    {
        return Err(format!("functions {said:?}; {usual:?} are computed"));
    }
    let batch_first = cx.int("layout", 0)? != 0;
    let &[a, b, got] = x.shape() else { return Err(format!("an input of shape {:?}", x.shape())) };
    let (steps, batch) = if batch_first { (b, a) } else { (a, b) };
    if got != inputs {
        return Err(format!("{got} numbers for weights of {inputs}"));
    }
    let mut part = |i: usize, shape: &[usize]| -> Done<Vec<f32>> {
        if !given.has(i) {
            return Ok(vec![0.0; shape.iter().product()]);
        }
        let t = given.tensor(i)?;
        match t.len() == shape.iter().product::<usize>() {
            true => Ok(t.data().to_vec()),
            false => Err(format!("input {i} of shape {:?}, expected {shape:?}", t.shape())),
        }
    };
    let bias = part(3, &[dirs, 2 * rows])?;
    let start = part(5, &[dirs, batch, hidden])?;
    let cell = if lstm { part(6, &[dirs, batch, hidden])? } else { vec![0.0; dirs * batch * hidden] };
    let peep = if lstm { part(7, &[dirs, 3 * hidden])? } else { Vec::new() };
    let lengths: Vec<usize> = match given.maybe(4) {
        None => vec![steps; batch],
        Some(Value::Int(l)) if l.data().len() == batch && l.data().iter().all(|&n| (0..=steps as i64).contains(&n)) => {
            l.data().iter().map(|&n| n as usize).collect()
        }
        Some(_) => return Err("lengths of sequences that do not fit".into()),
    };
    let late = cx.int("linear_before_reset", 0)? != 0;
    // States by direction and row of the batch: with the batch first they are transposed on the way in and out.
    let at = |d: usize, n: usize| if batch_first { (n * dirs + d) * hidden } else { (d * batch + n) * hidden };
    cx.room(&[steps, dirs, batch, hidden])?;
    let mut y = vec![0.0f32; steps * dirs * batch * hidden];
    let (mut last_h, mut last_c) = (vec![0.0f32; dirs * batch * hidden], vec![0.0f32; dirs * batch * hidden]);
    for d in 0..dirs {
        let back = direction == "reverse" || d == 1;
        let (w, r) = (&w.data()[d * rows * inputs..][..rows * inputs], &r.data()[d * rows * hidden..][..rows * hidden]);
        let (bw, br) = bias[d * 2 * rows..][..2 * rows].split_at(rows);
        let read = times(x.data(), w, [steps * batch, inputs, rows]);
        for n in 0..batch {
            let (mut h, mut c) = (start[at(d, n)..][..hidden].to_vec(), cell[at(d, n)..][..hidden].to_vec());
            for i in 0..lengths[n] {
                let t = if back { lengths[n] - 1 - i } else { i };
                let line = if batch_first { n * steps + t } else { t * batch + n };
                let from = &read[line * rows..][..rows];
                let kept = times(&h, r, [1, hidden, rows]);
                let gate = |g: usize, j: usize| from[g * hidden + j] + bw[g * hidden + j];
                let old = |g: usize, j: usize| kept[g * hidden + j] + br[g * hidden + j];
                if plain {
                    (0..hidden).for_each(|j| h[j] = (gate(0, j) + old(0, j)).tanh());
                } else if lstm {
                    let p = |g: usize, j: usize| peep[d * 3 * hidden + g * hidden + j];
                    for j in 0..hidden {
                        let i = sigmoid(gate(0, j) + old(0, j) + p(0, j) * c[j]);
                        let f = sigmoid(gate(2, j) + old(2, j) + p(2, j) * c[j]);
                        c[j] = f * c[j] + i * (gate(3, j) + old(3, j)).tanh();
                        let o = sigmoid(gate(1, j) + old(1, j) + p(1, j) * c[j]);
                        h[j] = o * c[j].tanh();
                    }
                } else {
                    let reset: Vec<f32> = (0..hidden).map(|j| sigmoid(gate(1, j) + old(1, j))).collect();
                    let new: Vec<f32> = match late {
                        true => (0..hidden).map(|j| (gate(2, j) + reset[j] * old(2, j)).tanh()).collect(),
                        false => {
                            let masked: Vec<f32> = h.iter().zip(&reset).map(|(h, r)| h * r).collect();
                            let own = times(&masked, &r[2 * hidden * hidden..], [1, hidden, hidden]);
                            (0..hidden).map(|j| (gate(2, j) + own[j] + br[2 * hidden + j]).tanh()).collect()
                        }
                    };
                    for j in 0..hidden {
                        let z = sigmoid(gate(0, j) + old(0, j));
                        h[j] = (1.0 - z) * new[j] + z * h[j];
                    }
                }
                let to = match batch_first {
                    true => ((n * steps + t) * dirs + d) * hidden,
                    false => ((t * dirs + d) * batch + n) * hidden,
                };
                y[to..to + hidden].copy_from_slice(&h);
            }
            last_h[at(d, n)..][..hidden].copy_from_slice(&h);
            last_c[at(d, n)..][..hidden].copy_from_slice(&c);
        }
    }
    let (all, state) = match batch_first {
        true => ([batch, steps, dirs, hidden], [batch, dirs, hidden]),
        false => ([steps, dirs, batch, hidden], [dirs, batch, hidden]),
    };
    let mut out = vec![Value::floats(&all, y), Value::floats(&state, last_h)];
    if lstm {
        out.push(Value::floats(&state, last_c));
    }
    out.truncate(cx.node.outputs.len().max(1));
    Ok(out)
}
