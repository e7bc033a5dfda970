//! Losses: the negative log-likelihood of classes, from logarithms or from scores.

use super::{Cx, Done, Given, types};
use crate::graph::{Attribute, DType};
use crate::value::Value;
use nnz_engine::Tensor;

/// The loss of each place, weighted, and its reduction.
fn likelihood(cx: &Cx, x: &Tensor<f32>, given: &mut Given) -> Done<Value> {
    let shape = x.shape().to_vec();
    let &[batch, classes, ref inner @ ..] = &shape[..] else { return Err(format!("scores of shape {shape:?}")) };
    let places: usize = inner.iter().product();
    let Value::Int(target) = types::convert(given.take(1)?, DType::I64, true) else {
        return Err("classes that are no whole numbers".into());
    };
    let to = [&[batch], inner].concat();
    if target.shape() != to {
        return Err(format!("classes of shape {:?} for scores of shape {shape:?}", target.shape()));
    }
    let weights = match given.has(2) {
        true => given.tensor(2)?.data().to_vec(),
        false => vec![1.0; classes],
    };
    if weights.len() != classes {
        return Err(format!("{} weights for {classes} classes", weights.len()));
    }
    let ignored = match cx.node.attributes.get("ignore_index") {
        None => None,
        Some(Attribute::Int(i)) => Some(*i),
        Some(_) => return Err("attribute `ignore_index` is no whole number".into()),
    };
    let (mut loss, mut share) = (Vec::with_capacity(target.data().len()), 0.0f64);
    for (i, &class) in target.data().iter().enumerate() {
        if Some(class) == ignored {
            loss.push(0.0);
            continue;
        }
        let c = usize::try_from(class).ok().filter(|&c| c < classes).ok_or(format!("class {class} of {classes}"))?;
        share += f64::from(weights[c]);
        loss.push(-x.data()[((i / places) * classes + c) * places + i % places] * weights[c]);
    }
    let sum = loss.iter().map(|&v| f64::from(v)).sum::<f64>();
    Ok(match cx.text("reduction", "mean")? {
        "none" => Value::floats(&to, loss),
        "sum" => Value::floats(&[], vec![sum as f32]),
        "mean" => Value::floats(&[], vec![(sum / share) as f32]),
        other => return Err(format!("losses joined by `{other}`")),
    })
}

pub(crate) fn negative(cx: &Cx, mut given: Given) -> Done {
    let x = given.tensor(0)?;
    super::one(likelihood(cx, &x, &mut given)?)
}

pub(crate) fn cross_entropy(cx: &Cx, mut given: Given) -> Done {
    let x = given.tensor(0)?;
    let &[_, classes, ref inner @ ..] = x.shape() else { return Err(format!("scores of shape {:?}", x.shape())) };
    let places: usize = inner.iter().product();
    let mut y = x.data().to_vec();
    for part in y.chunks_exact_mut((classes * places).max(1)) {
        for p in 0..places {
            let at = |c: usize| c * places + p;
            let top = (0..classes).fold(f32::NEG_INFINITY, |a, c| a.max(part[at(c)]));
            let sum = (0..classes).map(|c| f64::from(part[at(c)] - top).exp()).sum::<f64>().ln() as f32;
            (0..classes).for_each(|c| part[at(c)] -= top + sum);
        }
    }
    let log = Tensor::new(x.shape(), y);
    let loss = likelihood(cx, &log, &mut given)?;
    let out = [loss, Value::floats(log.shape(), log.data().to_vec())];
    Ok(out.into_iter().take(cx.node.outputs.len().max(1)).collect())
}
