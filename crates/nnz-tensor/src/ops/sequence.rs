//! Steps of recurrent cells. They take the products of input and state (`[batch, gates · hidden]`), so that
//! dense, masked and sparse weights work alike: `pre = linear(x, W, b) + linear(h, U, c)`.

use super::*;

fn gates<T: Real>(pre: &Var<T>, count: usize) -> Vec<Var<T>> {
    let (axis, cols) = (pre.shape().len() - 1, pre.value().rows_cols().1);
    assert!(cols % count == 0, "{cols} columns for {count} gates");
    split(pre, axis, &vec![cols / count; count])
}

/// h' = tanh(pre)
pub fn rnn_cell<T: Real>(pre: &Var<T>) -> Var<T> {
    tanh(pre)
}

/// Gates i, f, g, o: c' = σ(f) c + σ(i) tanh(g), h' = σ(o) tanh(c') (Hochreiter & Schmidhuber 1997). Returns (h', c').
pub fn lstm_cell<T: Real>(pre: &Var<T>, c: &Var<T>) -> (Var<T>, Var<T>) {
    let g = gates(pre, 4);
    let c = add(&mul(&sigmoid(&g[1]), c), &mul(&sigmoid(&g[0]), &tanh(&g[2])));
    (mul(&sigmoid(&g[3]), &tanh(&c)), c)
}

/// Gates r, z, n from the input and from the state: n = tanh(xₙ + σ(xᵣ + hᵣ) hₙ), h' = (1 - z) n + z h with
/// z = σ(x_z + h_z) (Cho et al. 2014, arXiv:1406.1078).
pub fn gru_cell<T: Real>(from_input: &Var<T>, from_state: &Var<T>, h: &Var<T>) -> Var<T> {
    let (x, s) = (gates(from_input, 3), gates(from_state, 3));
    let r = sigmoid(&add(&x[0], &s[0]));
    let z = sigmoid(&add(&x[1], &s[1]));
    let n = tanh(&add(&x[2], &mul(&r, &s[2])));
    add(&n, &mul(&z, &sub(h, &n)))
}

/// Closed-form continuous-time cell (Hasani et al. 2022, arXiv:2106.13898). `pre` holds four heads f, g, a, b over input
/// and state: with s = σ(a · time + b), h' = (1 - s) tanh(f) + s tanh(g). `time` is the elapsed time, `[batch, 1]`.
pub fn cfc_cell<T: Real>(pre: &Var<T>, time: &Var<T>) -> Var<T> {
    let p = gates(pre, 4);
    let s = sigmoid(&add(&mul(&p[2], time), &p[3]));
    let (f, g) = (tanh(&p[0]), tanh(&p[1]));
    add(&f, &mul(&s, &sub(&g, &f)))
}
