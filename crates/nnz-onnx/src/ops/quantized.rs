//! Numbers of 8 bits.

use super::{Cx, Done, Given, axis, one, types};
use crate::graph::DType;
use crate::value::{Array, Floats, Value};
use nnz_engine::Tensor;
use nnz_kernels::{Start, gemm as product};

/// Most terms whose sum of products of 8-bit numbers is exact in 32-bit floats: 512 · 255 · 128 < 2^24.
const EXACT: usize = 512;

/// Numbers as floats, with their shape.
fn whole(value: Value) -> Done<(Vec<usize>, Vec<f32>)> {
    let shape = value.shape();
    match types::convert(value, DType::F32, true) {
        Value::Float(f) => Ok((shape, f.rows().data().to_vec())),
        other => Err(format!("{} where numbers are needed", other.kind())),
    }
}

/// The scale of each entry: one for all, one per position of an axis, or one per block of an axis.
fn along(cx: &Cx, shape: &[usize], scale: &[usize]) -> Done<Box<dyn Fn(usize) -> usize>> {
    let count: usize = scale.iter().product();
    let block = usize::try_from(cx.int("block_size", 0)?).map_err(|_| "a negative block size")?;
    if count == 1 && block == 0 {
        return Ok(Box::new(|_| 0));
    }
    let a = axis(cx.int("axis", 1)?, shape.len())?;
    let (n, inner): (usize, usize) = (shape[a], shape[a + 1..].iter().product());
    if block > 0 {
        let fits = scale.len() == shape.len()
            && (0..shape.len()).all(|i| scale[i] == if i == a { n.div_ceil(block) } else { shape[i] });
        if !fits {
            return Err(format!("scales of shape {scale:?} for blocks of {block} along axis {a} of shape {shape:?}"));
        }
        let blocks = scale[a];
        return Ok(Box::new(move |i| (i / inner / n * blocks + i / inner % n / block) * inner + i % inner));
    }
    match n == count {
        true => Ok(Box::new(move |i| i / inner % n)),
        false => Err(format!("{count} scales for axis {a} of shape {shape:?}")),
    }
}

pub(crate) fn dequantize(cx: &Cx, mut given: Given) -> Done {
    let (shape, x) = whole(given.take(0)?)?;
    let scale = given.floats(1)?;
    let kind = types::said(cx, "output_dtype", Value::Float(scale.clone()).dtype())?;
    let scale = scale.rows();
    let zero = match given.maybe(2) {
        Some(z) => whole(z)?.1,
        None => vec![0.0; scale.len()],
    };
    if scale.is_empty() || zero.len() != scale.len() {
        return Err(format!("{} scales and {} zeros", scale.len(), zero.len()));
    }
    let at = along(cx, &shape, scale.shape())?;
    let y = x.iter().enumerate().map(|(i, v)| (v - zero[at(i)]) * scale.data()[at(i)]).collect();
    one(Value::floats(&shape, y).of(kind))
}

/// Numbers rounded and saturated to a type.
fn stored(shape: &[usize], y: impl Iterator<Item = f32>, kind: DType, saturate: bool) -> Done<Value> {
    use DType::{BF16, Bool, F16, F32, F64, I32, I64, U32, U64};
    if matches!(kind, F32 | F64 | F16 | BF16 | I32 | U32 | I64 | U64 | Bool) {
        return Err(format!("{}; numbers of 16 bits and less are computed", kind.name()));
    }
    if kind.is_float() {
        return Ok(types::convert(Value::floats(shape, y.collect()), kind, saturate));
    }
    let bits = kind.bits() as i32;
    let (low, high) = match kind {
        DType::I2 | DType::I4 | DType::I8 | DType::I16 => {
            (-f32::exp2((bits - 1) as f32), f32::exp2((bits - 1) as f32) - 1.0)
        }
        _ => (0.0, f32::exp2(bits as f32) - 1.0),
    };
    // NaN becomes zero.
    Ok(Value::ints(shape, y.map(|v| v.round_ties_even().max(low).min(high) as i64).collect()).of(kind))
}

pub(crate) fn quantize(cx: &Cx, mut given: Given) -> Done {
    let (x, scale) = (given.take(0)?, given.tensor(1)?);
    let (shape, x) = whole(x)?;
    let zero = given.maybe(2);
    // Zero is no type's number, and means the type of the zero point.
    let kind = match cx.int("output_dtype", 0)? {
        0 => zero.as_ref().map_or(DType::U8, Value::dtype),
        _ => types::said(cx, "output_dtype", DType::U8)?,
    };
    let zero = match zero {
        Some(z) => whole(z)?.1,
        None => vec![0.0; scale.len()],
    };
    if scale.is_empty() || zero.len() != scale.len() {
        return Err(format!("{} scales and {} zeros", scale.len(), zero.len()));
    }
    let at = along(cx, &shape, scale.shape())?;
    let ratio = |i: usize| x[i] / scale.data()[at(i)];
    let saturate = cx.int("saturate", 1)? != 0;
    one(match kind.is_float() {
        true => stored(&shape, (0..x.len()).map(|i| ratio(i) + zero[at(i)]), kind, saturate)?,
        false => stored(&shape, (0..x.len()).map(|i| ratio(i).round_ties_even() + zero[at(i)]), kind, saturate)?,
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
        return one(Value::ints(y.shape(), y.data().iter().map(|&v| v as i64).collect()).of(DType::I32));
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
    one(Value::ints(&shape, sums).of(DType::I32))
}

/// A single scale and zero point.
struct Grid {
    scale: f32,
    zero: f32,
    kind: DType,
}

fn grid(given: &mut Given, i: usize) -> Done<Grid> {
    let scale = given.tensor(i)?;
    let zero = given.take(i + 1)?;
    let kind = zero.dtype();
    match (scale.data(), &whole(zero)?.1[..]) {
        (&[scale], &[zero]) => Ok(Grid { scale, zero, kind }),
        (s, z) => Err(format!("{} scales and {} zeros, but one is needed", s.len(), z.len())),
    }
}

/// Stores products of integers as those of another scale.
fn scaled(y: Value, scale: impl Fn(usize) -> f32, to: &Grid) -> Done {
    let (shape, sums) = (y.shape(), y.numbers());
    let y = sums.iter().enumerate().map(|(i, &v)| (v as f32 * scale(i) / to.scale).round_ties_even() + to.zero);
    one(stored(&shape, y, to.kind, true)?)
}

pub(crate) fn linear_matmul(cx: &Cx, mut given: Given) -> Done {
    let (a, b, to) = (given.take(0)?, given.take(3)?, grid(&mut given, 6)?);
    let (sa, sb) = (given.tensor(1)?, given.tensor(4)?);
    let (za, zb) = (given.maybe(2), given.maybe(5));
    let (&[sa], &[sb]) = (sa.data(), sb.data()) else {
        return Err("a scale for each row, which is not computed".into());
    };
    let y = matmul(cx, Given(vec![Some(a), Some(b), za, zb]))?;
    let y = y.into_iter().next().ok_or("no product")?;
    scaled(y, |_| sa * sb, &to)
}

/// Sums of products of integers minus their zero points, exact below 2^24.
fn convolved(cx: &Cx, x: Value, w: Value, zx: Option<Value>, zw: Option<Value>) -> Done<Value> {
    let ((sx, mut x), (sw, mut w)) = (whole(x)?, whole(w)?);
    let filters = sw.first().copied().unwrap_or(0);
    if let Some(z) = zx {
        match whole(z)?.1[..] {
            [z] => x.iter_mut().for_each(|v| *v -= z),
            _ => return Err("more than one zero of the input".into()),
        }
    }
    if let Some(z) = zw {
        let z = whole(z)?.1;
        if z.len() != 1 && z.len() != filters {
            return Err(format!("{} zeros for {filters} filters", z.len()));
        }
        let each = w.len().checked_div(z.len()).unwrap_or(0).max(1);
        w.chunks_mut(each).zip(&z).for_each(|(row, z)| row.iter_mut().for_each(|v| *v -= z));
    }
    let y = super::convolve(cx, Floats::new(Tensor::new(&sx, x)), &Tensor::new(&sw, w), None, None)?;
    let y = y.into_iter().next().and_then(Value::into_floats).ok_or("no product")?;
    Ok(Value::ints(y.shape(), y.data().iter().map(|&v| v as i64).collect()).of(DType::I32))
}

pub(crate) fn conv(cx: &Cx, mut given: Given) -> Done {
    let (x, w) = (given.take(0)?, given.take(1)?);
    one(convolved(cx, x, w, given.maybe(2), given.maybe(3))?)
}

pub(crate) fn linear_conv(cx: &Cx, mut given: Given) -> Done {
    let (x, w, to) = (given.take(0)?, given.take(3)?, grid(&mut given, 6)?);
    let (sx, sw) = (given.scalar(1)?, given.tensor(4)?);
    let bias = if given.has(8) { Some(given.ints(8)?) } else { None };
    let y = convolved(cx, x, w, given.maybe(2), given.maybe(5))?;
    let shape = y.shape();
    let (filters, places) = (shape[1], shape[2..].iter().product::<usize>());
    if sw.len() != 1 && sw.len() != filters || bias.as_ref().is_some_and(|b| b.data().len() != filters) {
        return Err(format!("{} scales for {filters} filters", sw.len()));
    }
    let channel = move |i: usize| i / places % filters;
    let y = match (y, bias) {
        (Value::Int(y), Some(b)) => {
            let sums = y.data().iter().enumerate().map(|(i, v)| v.wrapping_add(b.data()[channel(i)])).collect();
            Value::ints(&shape, sums)
        }
        (y, _) => y,
    };
    scaled(y, |i| sx * sw.data()[if sw.len() == 1 { 0 } else { channel(i) }], &to)
}
