//! Attention (Vaswani et al. 2017; ONNX Attention, versions 23 to 26), rotary positions, and attention with a state.

use super::math::{spread, spread_strides};
use super::types::{self, rounding};
use super::{Cx, Done, Given, one};
use crate::graph::DType;
use crate::value::Value;
use nnz_engine::Tensor;
use nnz_kernels::{Start, gemm as product};

/// Swaps the middle axes of four.
fn swapped(x: &Tensor<f32>) -> Tensor<f32> {
    let &[a, b, c, d] = x.shape() else { return x.clone() };
    Tensor::written(&[a, c, b, d], |y| {
        for (i, row) in y.chunks_exact_mut(d.max(1)).enumerate() {
            let (n, j, k) = (i / (b * c), i / b % c, i % b);
            row.copy_from_slice(&x.data()[((n * b + k) * c + j) * d..][..d]);
        }
    })
}

/// `[batch, heads, length, size]` of a value of four axes, or of three with all heads in the last.
fn by_heads(x: Tensor<f32>, heads: i64) -> Done<Tensor<f32>> {
    let shape = x.shape().to_vec();
    match shape[..] {
        [_, _, _, _] => Ok(x),
        [batch, length, all] => {
            let heads = usize::try_from(heads).ok().filter(|&h| h > 0 && all.is_multiple_of(h));
            let heads = heads.ok_or(format!("heads of a value of shape {shape:?}"))?;
            Ok(swapped(&x.reshape(&[batch, length, heads, all / heads])))
        }
        _ => Err(format!("a value of shape {shape:?}")),
    }
}

/// Joins along the third of four axes.
fn after(past: Option<Tensor<f32>>, x: Tensor<f32>) -> Done<Tensor<f32>> {
    let Some(past) = past else { return Ok(x) };
    let (&[a, b, m, d], &[a2, b2, n, d2]) = (past.shape(), x.shape()) else {
        return Err(format!("a past of shape {:?}", past.shape()));
    };
    if [a, b, d] != [a2, b2, d2] {
        return Err(format!("a past of shape {:?} before {:?}", past.shape(), x.shape()));
    }
    Ok(Tensor::written(&[a, b, m + n, d], |y| {
        if d == 0 || m + n == 0 {
            return;
        }
        for (i, part) in y.chunks_exact_mut((m + n) * d).enumerate() {
            part[..m * d].copy_from_slice(&past.data()[i * m * d..][..m * d]);
            part[m * d..].copy_from_slice(&x.data()[i * n * d..][..n * d]);
        }
    }))
}

/// What is added to scores before the softmax: zero, or minus infinity where a query does not attend.
struct Bias {
    /// A mask's shape, numbers and strides.
    mask: Option<(Tensor<f32>, Vec<usize>, usize)>,
    causal: bool,
    /// Places that are seen to the left and right, if limited.
    window: [Option<i64>; 2],
    /// Number of keys before the first query, by batch.
    offsets: Vec<i64>,
    /// Number of keys that are there, by batch.
    there: Option<Vec<i64>>,
}

impl Bias {
    fn at(&self, [b, h, i, j]: [usize; 4]) -> f32 {
        let place = self.offsets[b].saturating_add(i as i64);
        let far = place - j as i64;
        let hidden = self.causal && far < 0
            || self.window[0].is_some_and(|w| far > w)
            || self.window[1].is_some_and(|w| -far > w)
            || self.there.as_ref().is_some_and(|n| j as i64 >= n[b]);
        let own = match &self.mask {
            // A mask may be shorter than the keys; the others are hidden.
            Some((_, _, wide)) if *wide > 1 && j >= *wide => f32::NEG_INFINITY,
            Some((mask, s, _)) => mask.data()[b * s[0] + h * s[1] + i * s[2] + j * s[3]],
            None => 0.0,
        };
        if hidden { own + f32::NEG_INFINITY } else { own }
    }
}

pub(crate) fn attention(cx: &Cx, mut given: Given) -> Done {
    let kind = given.0.first().and_then(|v| v.as_ref().map(Value::dtype)).unwrap_or(DType::F32);
    let round = rounding(kind).unwrap_or(|v| v);
    let q = given.tensor(0)?;
    let flat = q.shape().len() == 3;
    let q = by_heads(q, cx.int("q_num_heads", 0)?)?;
    let kv = cx.int("kv_num_heads", 0)?;
    let (k, v) = (by_heads(given.tensor(1)?, kv)?, by_heads(given.tensor(2)?, kv)?);
    let mask = given.maybe(3);
    let past = |given: &mut Given, i: usize| given.has(i).then(|| given.tensor(i)).transpose();
    let (past_k, past_v) = (past(&mut given, 4)?, past(&mut given, 5)?);
    if past_k.is_some() != past_v.is_some() {
        return Err("past keys without values, or values without keys".into());
    }
    let before = past_k.as_ref().map(|p| p.shape().get(2).copied().unwrap_or(0));
    let (k, v) = (after(past_k, k)?, after(past_v, v)?);
    let (&[batch, heads, m, d], &[bk, groups, n, dk], &[bv, gv, nv, dv]) = (q.shape(), k.shape(), v.shape()) else {
        return Err("values that are not of four axes".into());
    };
    if bk != batch || bv != batch || dk != d || nv != n || gv != groups || groups == 0 || !heads.is_multiple_of(groups)
    {
        return Err(format!("queries, keys and values of shapes {:?}, {:?}, {:?}", q.shape(), k.shape(), v.shape()));
    }
    let there = match given.maybe(6) {
        None => None,
        Some(_) if before.is_some() => return Err("both a past and a number of keys".into()),
        Some(Value::Int(a)) if a.data().len() == batch => Some(a.data().to_vec()),
        Some(other) => return Err(format!("numbers of keys of shape {:?}", other.shape())),
    };
    let offsets = match (&there, before) {
        (Some(n), _) => n.iter().map(|&n| n.saturating_sub(m as i64)).collect(),
        (_, before) => vec![before.unwrap_or(0) as i64; batch],
    };
    let mask = match mask {
        None => None,
        Some(mask) => {
            let mask = match mask {
                Value::Bool(b) => {
                    let hide = |&v: &bool| if v { 0.0 } else { f32::NEG_INFINITY };
                    Tensor::new(b.shape(), b.data().iter().map(hide).collect())
                }
                Value::Float(f) => f.rows(),
                other => return Err(format!("a mask of {}", other.kind())),
            };
            let wide = mask.shape().last().copied().unwrap_or(1);
            let full = [batch, heads, m, if wide < n && wide > 1 { wide } else { n }];
            if mask.shape().len() > 4 || spread(mask.shape(), &full)? != full {
                return Err(format!("a mask of shape {:?} for scores of shape {full:?}", mask.shape()));
            }
            let steps = spread_strides(mask.shape(), &full);
            Some((mask, steps, wide))
        }
    };
    let limit = |name: &str| cx.int(name, -1).map(|w| (w >= 0).then_some(w));
    let window = [limit("left_window_size")?, limit("right_window_size")?];
    let bias = Bias { mask, causal: cx.int("is_causal", 0)? != 0, window, offsets, there };
    let scale = match cx.float("scale", f32::NAN)? {
        s if s.is_nan() => 1.0 / (d as f64).sqrt(),
        s => f64::from(s),
    };
    // Half of the scale goes to each side, as in the operator's definition.
    let scale = round(scale.sqrt() as f32);
    let cap = cx.float("softcap", 0.0)?;
    let shown = cx.int("qk_matmul_output_mode", 0)?;
    let fine = match cx.int("softmax_precision", 0)? {
        0 => kind,
        told => DType::of(i32::try_from(told).unwrap_or(-1))?,
    };
    let soft = rounding(fine).unwrap_or(|v| v);
    cx.room(&[batch, heads, m, n])?;
    cx.room(&[batch, heads, m, dv])?;
    let scaled = |t: &Tensor<f32>| t.clone().map(move |v| round(v * scale));
    let (qs, ks) = (scaled(&q), scaled(&k));
    let mut scores = vec![0.0f32; batch * heads * m * n];
    let mut y = vec![0.0f32; batch * heads * m * dv];
    if m * n > 0 {
        for (i, part) in scores.chunks_exact_mut(m * n).enumerate() {
            let (b, h) = (i / heads, i % heads);
            let g = b * groups + h / (heads / groups);
            let (q, k) = (&qs.data()[i * m * d..][..m * d], &ks.data()[g * n * d..][..n * d]);
            product(m, n, d, q, (d, 1), k, (1, d), Start::Zero, part, n);
            part.iter_mut().for_each(|s| *s = round(*s));
        }
    }
    if cap > 0.0 {
        scores.iter_mut().for_each(|s| *s = round(round(round(*s / cap).tanh()) * cap));
    }
    let mut seen = if shown < 2 { scores.clone() } else { Vec::new() };
    let mut empty = Vec::with_capacity(batch * heads * m);
    for (r, row) in scores.chunks_exact_mut(n.max(1)).enumerate() {
        let at = |j: usize| [r / m / heads, r / m % heads, r % m, j];
        let mut none = true;
        for (j, s) in row.iter_mut().enumerate() {
            let own = bias.at(at(j));
            none &= own == f32::NEG_INFINITY;
            *s = round(*s + own);
        }
        empty.push(none);
    }
    if shown == 2 {
        seen = scores.clone();
    }
    for (row, none) in scores.chunks_exact_mut(n.max(1)).zip(empty) {
        let top = row.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        if none || top == f32::NEG_INFINITY {
            row.fill(0.0);
            continue;
        }
        row.iter_mut().for_each(|s| *s = soft(soft(*s - top).exp()));
        let sum = types::sum(row, fine);
        row.iter_mut().for_each(|s| *s = round(soft(*s / sum)));
    }
    if shown == 3 {
        seen = scores.clone();
    }
    if m * dv > 0 && n > 0 {
        for (i, part) in y.chunks_exact_mut(m * dv).enumerate() {
            let g = i / heads * groups + i % heads / (heads / groups);
            let (p, v) = (&scores[i * m * n..][..m * n], &v.data()[g * n * dv..][..n * dv]);
            product(m, dv, n, p, (n, 1), v, (dv, 1), Start::Zero, part, dv);
        }
    }
    let mut y = Tensor::new(&[batch, heads, m, dv], y);
    if flat {
        y = swapped(&y).reshape(&[batch, m, heads * dv]);
    }
    let full = Value::floats(&[batch, heads, m, n], seen);
    let out = [Value::floats(y.shape(), y.data().to_vec()), k_of(k), k_of(v), full];
    Ok(out.into_iter().take(cx.node.outputs.len()).collect())
}

fn k_of(t: Tensor<f32>) -> Value {
    Value::Float(crate::value::Floats::new(t))
}

/// Rotary positions (Su et al. 2021).
pub(crate) fn rotary(cx: &Cx, mut given: Given) -> Done {
    let x = given.tensor(0)?;
    let shape = x.shape().to_vec();
    let x = by_heads(x, cx.int("num_heads", 0)?)?;
    let (cos, sin) = (given.tensor(1)?, given.tensor(2)?);
    let &[batch, heads, length, size] = x.shape() else { return Err(format!("a value of shape {shape:?}")) };
    let turned = match cx.int("rotary_embedding_dim", 0)? {
        0 => size,
        n => usize::try_from(n).ok().filter(|&n| n <= size).ok_or(format!("{n} of {size} numbers turned"))?,
    };
    let half = turned / 2;
    let rows = cos.len().checked_div(half).unwrap_or(0);
    if turned % 2 != 0 || cos.shape() != sin.shape() || cos.shape().last() != Some(&half) {
        return Err(format!("cosines of shape {:?} for {turned} numbers", cos.shape()));
    }
    let places: Vec<usize> = match given.maybe(3) {
        Some(Value::Int(p)) if p.data().len() == batch * length => p
            .data()
            .iter()
            .map(|&p| usize::try_from(p).ok().filter(|&p| p < rows).ok_or(format!("position {p} of {rows}")))
            .collect::<Done<_>>()?,
        Some(p) => return Err(format!("positions of shape {:?}", p.shape())),
        None if rows == batch * length => (0..rows).collect(),
        None => return Err(format!("cosines of shape {:?} for {batch} times {length} places", cos.shape())),
    };
    let apart = cx.int("interleaved", 0)? != 0;
    let mut y = x.data().to_vec();
    for (r, row) in y.chunks_exact_mut(size.max(1)).enumerate() {
        let at = places[r / length / heads * length + r % length] * half;
        for i in 0..half {
            let (a, b) = if apart { (2 * i, 2 * i + 1) } else { (i, i + half) };
            let (c, s) = (cos.data()[at + i], sin.data()[at + i]);
            (row[a], row[b]) = (c * row[a] - s * row[b], s * row[a] + c * row[b]);
        }
    }
    let y = Tensor::new(x.shape(), y);
    let y = if shape.len() == 3 { swapped(&y).reshape(&shape) } else { y };
    super::tensor(y)
}

/// Attention with a matrix as its state, `S = decay S + k vᵀ` (Yang et al. 2024, Gated Delta Networks).
pub(crate) fn linear(cx: &Cx, mut given: Given) -> Done {
    let kinds = [0, 3].map(|i| given.0.get(i).and_then(|v| v.as_ref().map(Value::dtype)));
    let (hq, hk) = (cx.int("q_num_heads", 0)?, cx.int("kv_num_heads", 0)?);
    let rule = cx.text("update_rule", "gated_delta")?;
    let (gated, delta) = match rule {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => return Err(format!("a state changed by `{other}`")),
    };
    let (q, k, v) = (by_heads(given.tensor(0)?, hq)?, by_heads(given.tensor(1)?, hk)?, by_heads(given.tensor(2)?, hk)?);
    let (&[batch, heads, steps, d], &[bk, groups, sk, dk], &[bv, gv, sv, dv]) = (q.shape(), k.shape(), v.shape())
    else {
        return Err("values that are not of four axes".into());
    };
    if [bk, bv, sk, sv, dk, gv] != [batch, batch, steps, steps, d, groups] || !heads.is_multiple_of(groups) {
        return Err(format!("queries, keys and values of shapes {:?}, {:?}, {:?}", q.shape(), k.shape(), v.shape()));
    }
    let size = cx.room(&[batch, groups, d, dv])?;
    cx.room(&[batch, heads, steps, dv])?;
    let mut state = match given.has(3) {
        true => given.tensor(3)?.data().to_vec(),
        false => vec![0.0; size],
    };
    let optional = |given: &mut Given, i: usize, used: bool| match (given.has(i), used) {
        (true, true) => given.tensor(i).map(Some),
        (false, false) => Ok(None),
        _ => Err(format!("rule `{rule}` with input {i} given or not")),
    };
    let (decay, beta) = (optional(&mut given, 4, gated)?, optional(&mut given, 5, delta)?);
    let wide = |t: &Option<Tensor<f32>>| t.as_ref().map_or(0, |t| t.shape().last().copied().unwrap_or(0));
    let (per_decay, per_beta) = (wide(&decay), wide(&beta));
    let fits = |t: &Option<Tensor<f32>>, wide: usize| t.as_ref().is_none_or(|t| t.shape() == [batch, steps, wide]);
    if state.len() != size
        || !fits(&decay, per_decay)
        || !fits(&beta, per_beta)
        || decay.is_some() && per_decay != groups && per_decay != groups * d
        || beta.is_some() && per_beta != groups && per_beta != 1
    {
        return Err("a state, decay or beta of another shape".into());
    }
    let scale = match cx.float("scale", 0.0)? {
        0.0 => 1.0 / (d as f32).sqrt(),
        s => s,
    };
    let mut y = vec![0.0f32; batch * steps * heads * dv];
    for (b, g, t) in (0..batch * groups).flat_map(|i| (0..steps).map(move |t| (i / groups, i % groups, t))) {
        let s = &mut state[(b * groups + g) * d * dv..][..d * dv];
        let key = &k.data()[((b * groups + g) * steps + t) * d..][..d];
        let mut new = v.data()[((b * groups + g) * steps + t) * dv..][..dv].to_vec();
        if let Some(decay) = &decay {
            for (i, row) in s.chunks_exact_mut(dv.max(1)).enumerate() {
                let at = (b * steps + t) * per_decay + if per_decay == groups { g } else { g * d + i };
                let fade = decay.data()[at].exp();
                row.iter_mut().for_each(|v| *v *= fade);
            }
        }
        if let Some(beta) = &beta {
            let rate = beta.data()[(b * steps + t) * per_beta + if per_beta == 1 { 0 } else { g }];
            for (j, n) in new.iter_mut().enumerate() {
                let kept: f32 = (0..d).map(|i| s[i * dv + j] * key[i]).sum();
                *n = rate * (*n - kept);
            }
        }
        for (row, &key) in s.chunks_exact_mut(dv.max(1)).zip(key) {
            row.iter_mut().zip(&new).for_each(|(s, v)| *s += key * v);
        }
        for h in g * (heads / groups)..(g + 1) * (heads / groups) {
            let query = &q.data()[((b * heads + h) * steps + t) * d..][..d];
            let to = &mut y[((b * steps + t) * heads + h) * dv..][..dv];
            for (j, to) in to.iter_mut().enumerate() {
                *to = scale * (0..d).map(|i| query[i] * s[i * dv + j]).sum::<f32>();
            }
        }
    }
    let state = Value::floats(&[batch, groups, d, dv], state);
    let state = kinds[1].or(kinds[0]).map_or(state.clone(), |kind| state.of(kind));
    Ok(vec![Value::floats(&[batch, steps, heads * dv], y), state])
}

/// A convolution over the past of each channel, which is passed on.
pub(crate) fn causal(cx: &Cx, mut given: Given) -> Done {
    let kind = given.0.first().and_then(|v| v.as_ref().map(Value::dtype)).unwrap_or(DType::F32);
    let round = rounding(kind).unwrap_or(|v| v);
    let (x, w) = (given.tensor(0)?, given.tensor(1)?);
    let (&[batch, channels, length], &[cw, 1, taps]) = (x.shape(), w.shape()) else {
        return Err(format!("a weight of shape {:?} on an input of shape {:?}", w.shape(), x.shape()));
    };
    if cw != channels || taps == 0 {
        return Err(format!("a weight of shape {:?} on an input of shape {:?}", w.shape(), x.shape()));
    }
    let bias = if given.has(2) { given.tensor(2)?.data().to_vec() } else { vec![0.0; channels] };
    let kept = taps - 1;
    cx.room(&[batch, channels, length + kept])?;
    let past = if given.has(3) { given.tensor(3)?.data().to_vec() } else { vec![0.0; batch * channels * kept] };
    if bias.len() != channels || past.len() != batch * channels * kept {
        return Err("a bias or state of another shape".into());
    }
    let silu = match cx.text("activation", "none")? {
        "none" => false,
        "silu" | "swish" => true,
        other => return Err(format!("function `{other}`")),
    };
    let (mut y, mut state) = (Vec::with_capacity(x.len()), Vec::with_capacity(past.len()));
    for i in 0..batch * channels {
        let c = i % channels;
        let mut line = past[i * kept..][..kept].to_vec();
        line.extend_from_slice(&x.data()[i * length..][..length]);
        let w = &w.data()[c * taps..][..taps];
        for window in line.windows(taps) {
            let sum = round(window.iter().zip(w).map(|(x, w)| x * w).sum::<f32>() + bias[c]);
            y.push(if silu { sum / (1.0 + (-sum).exp()) } else { sum });
        }
        state.extend_from_slice(&line[line.len() - kept..]);
    }
    Ok(vec![Value::floats(&[batch, channels, length], y), Value::floats(&[batch, channels, kept], state)])
}

/// `swish(a) b` (Shazeer 2020).
pub(crate) fn swiglu(cx: &Cx, mut given: Given) -> Done {
    let (a, b) = (given.tensor(0)?, given.tensor(1)?);
    if a.shape() != b.shape() {
        return Err(format!("shapes {:?} and {:?}", a.shape(), b.shape()));
    }
    let alpha = cx.float("alpha", 1.0)?;
    one(Value::floats(
        a.shape(),
        a.data().iter().zip(b.data()).map(|(a, b)| a / (1.0 + (-alpha * a).exp()) * b).collect(),
    ))
}
