//! Numbers of 8 bits.

use super::{Cx, Done, Given, axis, one};
use crate::value::{Array, Floats, Value};
use nnz_engine::Tensor;
use nnz_kernels::{Start, gemm as product};

/// Most terms whose sum of products of 8-bit numbers is exact in 32-bit floats: 512 · 255 · 128 < 2^24.
const EXACT: usize = 512;

/// Converts integers of 8 or more bits to floats.
fn whole(value: Value) -> Done<(Vec<usize>, Vec<f32>)> {
    let shape = value.shape();
    Ok((
        shape,
        match value {
            Value::Byte(a) => a.data().iter().map(|&v| f32::from(v)).collect(),
            Value::Small(a) => a.data().iter().map(|&v| f32::from(v)).collect(),
            Value::Int(a) => a.data().iter().map(|&v| v as f32).collect(),
            other => return Err(format!("{} where 8-bit numbers are needed", other.kind())),
        },
    ))
}

/// The number for each entry of an axis: one for all, or one per position.
fn along(cx: &Cx, shape: &[usize], count: usize) -> Done<impl Fn(usize) -> usize + use<>> {
    let (n, inner) = match count {
        1 => (1, 1),
        _ => {
            let a = axis(cx.int("axis", 1)?, shape.len())?;
            if shape[a] != count {
                return Err(format!("{count} scales for axis {a} of shape {shape:?}"));
            }
            (count, shape[a + 1..].iter().product())
        }
    };
    Ok(move |i: usize| i / inner % n)
}

pub(crate) fn dequantize(cx: &Cx, mut given: Given) -> Done {
    let (shape, x) = whole(given.take(0)?)?;
    let scale = given.tensor(1)?;
    let zero = match given.maybe(2) {
        Some(z) => whole(z)?.1,
        None => vec![0.0; scale.len()],
    };
    if scale.is_empty() || zero.len() != scale.len() {
        return Err(format!("{} scales and {} zeros", scale.len(), zero.len()));
    }
    let at = along(cx, &shape, scale.len())?;
    let y = x.iter().enumerate().map(|(i, v)| (v - zero[at(i)]) * scale.data()[at(i)]).collect();
    one(Value::floats(&shape, y))
}

pub(crate) fn quantize(cx: &Cx, mut given: Given) -> Done {
    let (x, scale) = (given.tensor(0)?, given.tensor(1)?);
    let zero = given.maybe(2);
    let given_type = match &zero {
        None | Some(Value::Byte(_)) => 2,
        Some(Value::Small(_)) => 3,
        Some(_) => 0,
    };
    // Zero is no type's number, and means the type of the zero point.
    let kind = match cx.int("output_dtype", 0)? {
        0 => given_type,
        said => said,
    };
    let zero = match zero {
        Some(z) => whole(z)?.1,
        None => vec![0.0; scale.len()],
    };
    if scale.is_empty() || zero.len() != scale.len() {
        return Err(format!("{} scales and {} zeros", scale.len(), zero.len()));
    }
    let at = along(cx, x.shape(), scale.len())?;
    let y = x.data().iter().enumerate().map(|(i, v)| (v / scale.data()[at(i)]).round_ties_even() + zero[at(i)]);
    let shape = x.shape();
    one(match kind {
        2 => Value::Byte(Array::new(shape, y.map(|v| v as u8).collect())),
        3 => Value::Small(Array::new(shape, y.map(|v| v as i8).collect())),
        4 => Value::ints(shape, y.map(|v| i64::from(v as u16)).collect()),
        5 => Value::ints(shape, y.map(|v| i64::from(v as i16)).collect()),
        0 => {
            return Err(
                "a type that its zero point, which is no constant, does not tell; 8 and 16 bits are computed".into()
            );
        }
        other => return Err(format!("numbers of ONNX type {other}; those of 8 and 16 bits are computed")),
    })
}

pub(crate) fn dynamic(_: &Cx, mut given: Given) -> Done {
    let x = given.tensor(0)?;
    let low = x.data().iter().fold(0.0f32, |a, &b| a.min(b));
    let high = x.data().iter().fold(0.0f32, |a, &b| a.max(b));
    let scale = (high - low) / 255.0;
    // All zero: any scale will do.
    let scale = if scale == 0.0 { 1.0 } else { scale };
    let zero = (-low / scale).round_ties_even().clamp(0.0, 255.0);
    let y = x.data().iter().map(|v| ((v / scale).round_ties_even() + zero) as u8).collect();
    Ok(vec![
        Value::Byte(Array::new(x.shape(), y)),
        Value::floats(&[], vec![scale]),
        Value::Byte(Array::new(&[], vec![zero as u8])),
    ])
}

/// Numbers minus their zero point, one for all or one per row (left) or column (right).
fn centred(value: Value, zero: Option<Value>, rows: bool) -> Done<Tensor<f32>> {
    let (shape, mut x) = whole(value)?;
    let &[.., r, c] = shape.as_slice() else { return Err(format!("shape {shape:?}, which is no matrix")) };
    if let Some(zero) = zero {
        let (_, zero) = whole(zero)?;
        let n = if rows { r } else { c };
        if zero.len() != 1 && zero.len() != n {
            return Err(format!("{} zeros for {n} {}", zero.len(), if rows { "rows" } else { "columns" }));
        }
        let at = |i: usize| {
            if zero.len() == 1 {
                0
            } else if rows {
                i / c % r
            } else {
                i % c
            }
        };
        x.iter_mut().enumerate().for_each(|(i, v)| *v -= zero[at(i)]);
    }
    Ok(Tensor::new(&shape, x))
}

pub(crate) fn matmul(cx: &Cx, mut given: Given) -> Done {
    let (a, b) = (given.take(0)?, given.take(1)?);
    let a = centred(a, given.maybe(2), true)?;
    let b = centred(b, given.maybe(3), false)?;
    if b.shape().len() != 2 {
        // Products of many matrices are rounded only beyond 2^24.
        let inner = Given(vec![Some(Value::Float(Floats::new(a))), Some(Value::Float(Floats::new(b)))]);
        let y = super::matmul::matmul(cx, inner)?;
        let Some(Value::Float(y)) = y.into_iter().next() else { return Err("no product".into()) };
        let y = y.rows();
        return one(Value::ints(y.shape(), y.data().iter().map(|&v| v as i64).collect()));
    }
    let (k, n) = (b.shape()[0], b.shape()[1]);
    let m = super::flat(&a, k)?;
    let shape = super::linear_shape(a.shape(), n);
    cx.room(&shape)?;
    let mut sums = vec![0i64; m * n];
    let mut part = vec![0.0f32; m * n];
    for first in (0..k).step_by(EXACT) {
        let depth = EXACT.min(k - first);
        let (a, b) = (&a.data()[first.min(a.len())..], &b.data()[(first * n).min(b.len())..]);
        product(m, n, depth, a, (k, 1), b, (n, 1), Start::Zero, &mut part, n);
        sums.iter_mut().zip(&part).for_each(|(s, &p)| *s += p as i64);
    }
    one(Value::ints(&shape, sums))
}
