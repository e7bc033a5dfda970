//! Elementwise functions, softmax and norms.

use super::types::{convert, lift, rounding};
use super::{Cx, Done, Given, axis, one, runs, strides, tensor};
use crate::graph::DType;
use crate::value::{Array, Floats, Value};
use nnz_engine::Tensor;
use nnz_kernels::{Real, elementwise, rows};

/// Applies `f`, in place if nothing shares the numbers.
fn update(x: Floats, f: impl Fn(f32) -> f32 + Copy + Sync + Send) -> Value {
    let last = x.is_last();
    let t = x.raw().rewrite(|own| elementwise::update(own, f), |from, to| elementwise::map(from, to, f));
    Value::Float(Floats::like(t, last))
}

pub(crate) fn unary(cx: &Cx, mut given: Given) -> Done {
    let x = match given.wide(0)? {
        Value::Float(f) => f,
        Value::Int(a) if a.kind() == DType::U64 && matches!(&*cx.node.op, "Abs" | "Sign" | "Relu") => {
            let sign = |v: i64| i64::from(v != 0);
            let kept = |v: i64| v;
            let f: &dyn Fn(i64) -> i64 = if cx.node.op == "Sign" { &sign } else { &kept };
            return one(Value::ints(a.shape(), a.data().iter().map(|&v| f(v)).collect()));
        }
        Value::Int(a) => {
            let f: fn(i64) -> i64 = match &*cx.node.op {
                "Abs" => i64::wrapping_abs,
                "Neg" => i64::wrapping_neg,
                "Sign" => i64::signum,
                "Relu" => |v| v.max(0),
                op => return Err(format!("{op} of whole numbers")),
            };
            return one(Value::ints(a.shape(), a.data().iter().map(|&v| f(v)).collect()));
        }
        other => return Err(format!("{} of {}", cx.node.op, other.kind())),
    };
    one(match &*cx.node.op {
        "Abs" => update(x, f32::abs),
        "Acos" => update(x, f32::acos),
        "Acosh" => update(x, f32::acosh),
        "Asin" => update(x, f32::asin),
        "Asinh" => update(x, f32::asinh),
        "Atan" => update(x, f32::atan),
        "Atanh" => update(x, f32::atanh),
        "Ceil" => update(x, f32::ceil),
        "Celu" => {
            let a = cx.float("alpha", 1.0)?;
            update(x, move |v| v.max(0.0) + (a * (v / a).exp_m1()).min(0.0))
        }
        "Cos" => update(x, f32::cos),
        "Cosh" => update(x, f32::cosh),
        "Elu" => {
            let a = cx.float("alpha", 1.0)?;
            update(x, move |v| if v < 0.0 { a * v.exp_m1() } else { v })
        }
        "Erf" => update(x, |v| v.quick_erf()),
        "Exp" => update(x, |v| v.quick_exp()),
        "Floor" => update(x, f32::floor),
        "Gelu" => match cx.text("approximate", "none")? {
            "tanh" => update(
                x,
                #[inline(always)]
                |v| 0.5 * v * (1.0 + (0.797_884_6 * (v + 0.044_715 * v * v * v)).quick_tanh()),
            ),
            _ => update(
                x,
                #[inline(always)]
                |v| 0.5 * v * (1.0 + (v * std::f32::consts::FRAC_1_SQRT_2).quick_erf()),
            ),
        },
        "HardSigmoid" => {
            let (a, b) = (cx.float("alpha", 0.2)?, cx.float("beta", 0.5)?);
            update(x, move |v| (a * v + b).clamp(0.0, 1.0))
        }
        "HardSwish" => update(x, |v| v * (v / 6.0 + 0.5).clamp(0.0, 1.0)),
        "LeakyRelu" => {
            let a = cx.float("alpha", 0.01)?;
            update(x, move |v| if v < 0.0 { a * v } else { v })
        }
        "Log" => update(x, f32::ln),
        "Mish" => update(x, |v| v * v.exp().ln_1p().tanh()),
        "Neg" => update(x, |v| -v),
        "Reciprocal" => update(x, |v| 1.0 / v),
        "Relu" => update(x, |v| if v < 0.0 { 0.0 } else { v }),
        "Round" => update(x, f32::round_ties_even),
        "Selu" => {
            let (a, g) = (cx.float("alpha", 1.673_263_2)?, cx.float("gamma", 1.050_701)?);
            update(x, move |v| g * if v > 0.0 { v } else { a * v.exp_m1() })
        }
        "Sigmoid" => update(
            x,
            #[inline(always)]
            |v| 1.0 / (1.0 + (-v).quick_exp()),
        ),
        "Sign" => update(x, |v| if v == 0.0 || v.is_nan() { v } else { v.signum() }),
        "Shrink" => {
            let (edge, bias) = (cx.float("lambd", 0.5)?, cx.float("bias", 0.0)?);
            update(x, move |v| {
                if v < -edge {
                    v + bias
                } else if v > edge {
                    v - bias
                } else {
                    0.0
                }
            })
        }
        "Sin" => update(x, f32::sin),
        "Sinh" => update(x, f32::sinh),
        "Softplus" => update(x, |v| v.max(0.0) + (-v.abs()).exp().ln_1p()),
        "Softsign" => update(x, |v| v / (1.0 + v.abs())),
        "Sqrt" => update(x, f32::sqrt),
        "Swish" => {
            let a = cx.float("alpha", 1.0)?;
            update(x, move |v| v / (1.0 + (-a * v).exp()))
        }
        "Tan" => update(x, f32::tan),
        "Tanh" => update(x, |v| v.quick_tanh()),
        "ThresholdedRelu" => {
            let a = cx.float("alpha", 1.0)?;
            update(x, move |v| if v > a { v } else { 0.0 })
        }
        op => return Err(format!("no function {op}")),
    })
}

pub(crate) fn clip(cx: &Cx, mut given: Given) -> Done {
    let x = match given.wide(0)? {
        Value::Float(f) => f,
        Value::Int(a) => {
            let up = |v: i64| lift(v, a.kind());
            let mut bound = |i: usize, default: i128| match given.maybe(i).map(Value::widened) {
                None => Ok(default),
                Some(Value::Int(b)) if b.data().len() == 1 => Ok(lift(b.data()[0], b.kind())),
                Some(_) => Err(format!("bound {i} is no single whole number")),
            };
            let (low, high) = (bound(1, i128::MIN)?, bound(2, i128::MAX)?);
            let y = a.data().iter().map(|&v| up(v).max(low).min(high) as i64).collect();
            return one(Value::ints(a.shape(), y));
        }
        other => return Err(format!("Clip of {}", other.kind())),
    };
    let mut low = cx.float("min", f32::NEG_INFINITY)?;
    let mut high = cx.float("max", f32::INFINITY)?;
    if given.has(1) {
        low = given.scalar(1)?;
    }
    if given.has(2) {
        high = given.scalar(2)?;
    }
    one(update(x, move |v| {
        let v = if v < low { low } else { v };
        if v > high { high } else { v }
    }))
}

/// The shape that two shapes broadcast to.
pub(super) fn spread(a: &[usize], b: &[usize]) -> Done<Vec<usize>> {
    let rank = a.len().max(b.len());
    let extent = |s: &[usize], i: usize| if i + s.len() < rank { 1 } else { s[i + s.len() - rank] };
    (0..rank)
        .map(|i| match (extent(a, i), extent(b, i)) {
            (x, y) if x == y || y == 1 => Ok(x),
            (1, y) => Ok(y),
            _ => Err(format!("shapes {a:?} and {b:?} do not spread to one")),
        })
        .collect()
}

/// Strides for broadcasting a shape to another; zero along axes of one.
pub(super) fn spread_strides(from: &[usize], to: &[usize]) -> Vec<usize> {
    let own = strides(from);
    let missing = to.len() - from.len();
    (0..to.len()).map(|i| if i < missing || from[i - missing] == 1 { 0 } else { own[i - missing] }).collect()
}

/// Applies `f` to pairs of two arrays under broadcasting.
pub(super) fn zip<A: Copy, B: Copy, R>(
    cx: &Cx,
    (a, sa): (&[A], &[usize]),
    (b, sb): (&[B], &[usize]),
    f: impl Fn(A, B) -> R,
) -> Done<(Vec<usize>, Vec<R>)> {
    let shape = spread(sa, sb)?;
    let n = cx.room(&shape)?;
    let mut to = Vec::with_capacity(n);
    if sa == sb {
        to.extend(a.iter().zip(b).map(|(&a, &b)| f(a, b)));
        return Ok((shape, to));
    }
    let (ta, tb) = (spread_strides(sa, &shape), spread_strides(sb, &shape));
    let inner = |s: &[usize]| s.last().copied().unwrap_or(0);
    let (ia, ib) = (inner(&ta), inner(&tb));
    runs(&shape, [&ta, &tb], |[oa, ob], n| to.extend((0..n).map(|i| f(a[oa + i * ia], b[ob + i * ib]))));
    Ok((shape, to))
}

/// Applies `f` to pairs of floats, fast if shapes are equal, one is a single number, or one is the end of the other.
fn zip_floats(cx: &Cx, a: Floats, b: Floats, f: impl Fn(f32, f32) -> f32 + Copy + Sync + Send) -> Done<Value> {
    let (sa, sb) = (a.shape(), b.shape());
    if sb.len() <= sa.len() && b.raw_ref().len() == 1 {
        let v = b.raw_ref().data()[0];
        return Ok(update(a, move |x| f(x, v)));
    }
    if sa.len() <= sb.len() && a.raw_ref().len() == 1 {
        let v = a.raw_ref().data()[0];
        return Ok(update(b, move |x| f(v, x)));
    }
    if sa == sb {
        let last = a.is_last() || b.is_last();
        let (a, b) = if last { (a.last(), b.last()) } else { (a.rows(), b.rows()) };
        return Ok(Value::Float(Floats::like(a.combine(&b, f), last)));
    }
    // One number per channel, for channels last.
    let channel = |big: &[usize], small: &[usize]| {
        let small = match small.len() == big.len() && small.first() == Some(&1) {
            true => &small[1..],
            false => small,
        };
        small.len() + 1 == big.len() && small[0] == big[1] && small[1..].iter().all(|&d| d == 1)
    };
    let columns = |big: Tensor<f32>, v: &Tensor<f32>, f: &(dyn Fn(f32, f32) -> f32 + Sync)| {
        let cols = v.len();
        let mut big = big;
        for row in big.data_mut().chunks_exact_mut(cols.max(1)) {
            row.iter_mut().zip(v.data()).for_each(|(x, &v)| *x = f(*x, v));
        }
        big
    };
    if a.is_last() && channel(&sa, &sb) {
        return Ok(Value::Float(Floats::channels_last(columns(a.raw(), &b.raw(), &f))));
    }
    if b.is_last() && channel(&sb, &sa) {
        return Ok(Value::Float(Floats::channels_last(columns(b.raw(), &a.raw(), &|x, v| f(v, x)))));
    }
    // One number per image and channel.
    let gate = |big: &[usize], small: &[usize]| {
        big.len() == small.len() && big.len() > 2 && big[..2] == small[..2] && small[2..].iter().all(|&d| d == 1)
    };
    if a.is_last() && gate(&sa, &sb) {
        let (n, c) = (sa[0], sa[1]);
        let (mut x, v) = (a.raw(), b.rows());
        let each = x.len() / n.max(1);
        for (x, v) in x.data_mut().chunks_exact_mut(each.max(1)).zip(v.data().chunks_exact(c.max(1))) {
            for x in x.chunks_exact_mut(c) {
                x.iter_mut().zip(v).for_each(|(x, &v)| *x = f(*x, v));
            }
        }
        return Ok(Value::Float(Floats::channels_last(x)));
    }
    let (a, b) = (a.rows(), b.rows());
    if !b.is_empty() && sa.ends_with(&sb) {
        return Ok(Value::Float(Floats::new(columns(a, &b, &f))));
    }
    if !a.is_empty() && sb.ends_with(&sa) {
        return Ok(Value::Float(Floats::new(columns(b, &a, &|x, v| f(v, x)))));
    }
    let shape = spread(&sa, &sb)?;
    cx.room(&shape)?;
    let (ta, tb) = (spread_strides(&sa, &shape), spread_strides(&sb, &shape));
    let inner = |s: &[usize]| s.last().copied().unwrap_or(0);
    let (ia, ib) = (inner(&ta), inner(&tb));
    let (a, b) = (a.data(), b.data());
    let t = Tensor::written(&shape, |to| {
        let mut at = 0;
        runs(&shape, [&ta, &tb], |[oa, ob], n| {
            let to = &mut to[at..at + n];
            match (ia, ib) {
                (1, 1) => to.iter_mut().zip(&a[oa..]).zip(&b[ob..]).for_each(|((y, &a), &b)| *y = f(a, b)),
                (1, 0) => {
                    let b = b[ob];
                    to.iter_mut().zip(&a[oa..]).for_each(|(y, &a)| *y = f(a, b));
                }
                _ => (0..n).for_each(|i| to[i] = f(a[oa + i * ia], b[ob + i * ib])),
            }
            at += n;
        });
    });
    Ok(Value::Float(Floats::new(t)))
}

/// Power, exact for squares and roots, as exporters use it.
#[inline(always)]
fn power(a: f32, b: f32) -> f32 {
    if b == 2.0 {
        a * a
    } else if b == 0.5 {
        a.sqrt()
    } else {
        a.powf(b)
    }
}

pub(crate) fn binary(cx: &Cx, mut given: Given) -> Done {
    let (a, b) = (given.wide(0)?, given.wide(1)?);
    let op = &*cx.node.op;
    one(match (a, b) {
        (Value::Float(a), Value::Float(b)) => match op {
            "Add" => zip_floats(cx, a, b, |a, b| a + b)?,
            "Sub" => zip_floats(cx, a, b, |a, b| a - b)?,
            "Mul" => zip_floats(cx, a, b, |a, b| a * b)?,
            "Div" => zip_floats(cx, a, b, |a, b| a / b)?,
            "Pow" => zip_floats(cx, a, b, power)?,
            "PRelu" => zip_floats(cx, a, b, |a, b| if a < 0.0 { a * b } else { a })?,
            _ => match cx.int("fmod", 0)? {
                // The sign of the divisor, also for zero.
                0 => zip_floats(cx, a, b, |a, b| match a % b {
                    0.0 => 0.0f32.copysign(b),
                    r if (r < 0.0) != (b < 0.0) => r + b,
                    r => r,
                })?,
                _ => zip_floats(cx, a, b, |a, b| a % b)?,
            },
        },
        (Value::Int(a), Value::Int(b)) => {
            if matches!(op, "Div" | "Mod") && b.data().contains(&0) {
                return Err("division of whole numbers by zero".into());
            }
            let f: fn(i128, i128) -> i128 = match op {
                "Add" => |a, b| a + b,
                "Sub" => |a, b| a - b,
                "Mul" => i128::wrapping_mul,
                "Div" => |a, b| a / b,
                "Pow" => |a, b| match u32::try_from(b) {
                    Ok(b) => a.wrapping_pow(b),
                    // Powers below one are cut off.
                    Err(_) => match a {
                        0 | 1 => a,
                        -1 if b % 2 == 0 => 1,
                        -1 => -1,
                        _ => 0,
                    },
                },
                "Mod" if cx.int("fmod", 0)? == 0 => |a, b| {
                    let r = a % b;
                    if r != 0 && (r < 0) != (b < 0) { r + b } else { r }
                },
                "Mod" => |a, b| a % b,
                "PRelu" => |a, b| if a < 0 { a.wrapping_mul(b) } else { a },
                _ => return Err(format!("{op} of whole numbers")),
            };
            let (ka, kb) = (a.kind(), b.kind());
            let f = |a: i64, b: i64| f(lift(a, ka), lift(b, kb)) as i64;
            let (shape, v) = zip(cx, (a.data(), a.shape()), (b.data(), b.shape()), f)?;
            Value::ints(&shape, v)
        }
        (Value::Float(a), Value::Int(b)) if op == "Pow" => {
            let Value::Float(b) = convert(Value::Int(b), DType::F32, true) else { return Err("no exponent".into()) };
            zip_floats(cx, a, b, power)?
        }
        (Value::Int(a), Value::Float(b)) if op == "Pow" => {
            let kind = a.kind();
            let Value::Float(a) = convert(Value::Int(a), DType::F32, true) else { return Err("no base".into()) };
            convert(zip_floats(cx, a, b, power)?, kind, true).widened()
        }
        (a, b) => return Err(format!("{op} of {} and {}", a.kind(), b.kind())),
    })
}

pub(crate) fn many(cx: &Cx, mut given: Given) -> Done {
    let n = given.len();
    let mut all = given.wide(0)?;
    let kind = all.dtype();
    for i in 1..n {
        let next = given.wide(i)?;
        all = match (all, next) {
            (Value::Float(a), Value::Float(b)) => match &*cx.node.op {
                "Min" => zip_floats(cx, a, b, |a, b| if b < a || b.is_nan() { b } else { a })?,
                "Max" => zip_floats(cx, a, b, |a, b| if b > a || b.is_nan() { b } else { a })?,
                _ => zip_floats(cx, a, b, |a, b| a + b)?,
            },
            (Value::Int(a), Value::Int(b)) => {
                let f: fn(i128, i128) -> i128 = match &*cx.node.op {
                    "Min" => i128::min,
                    "Max" => i128::max,
                    op => return Err(format!("{op} of whole numbers")),
                };
                let f = |a: i64, b: i64| f(lift(a, kind), lift(b, kind)) as i64;
                let (shape, v) = zip(cx, (a.data(), a.shape()), (b.data(), b.shape()), f)?;
                Value::ints(&shape, v)
            }
            (a, b) => return Err(format!("{} of {} and {}", cx.node.op, a.kind(), b.kind())),
        };
    }
    match all {
        Value::Float(f) if cx.node.op == "Mean" => {
            let n = n as f32;
            one(update(f, move |v| v / n))
        }
        all => one(all),
    }
}

pub(crate) fn compare(cx: &Cx, mut given: Given) -> Done {
    let (a, b) = (given.wide(0)?, given.wide(1)?);
    let op = &*cx.node.op;
    fn by<T: PartialOrd>(op: &str) -> Option<fn(T, T) -> bool> {
        Some(match op {
            "Equal" => |a, b| a == b,
            "Greater" => |a, b| a > b,
            "GreaterOrEqual" => |a, b| a >= b,
            "Less" => |a, b| a < b,
            "LessOrEqual" => |a, b| a <= b,
            _ => return None,
        })
    }
    let none = |kind: &str| format!("{op} of {kind}");
    let (shape, found) = match (a, b) {
        (Value::Float(a), Value::Float(b)) => {
            let (a, b) = (a.rows(), b.rows());
            zip(cx, (a.data(), a.shape()), (b.data(), b.shape()), by::<f32>(op).ok_or(none("floats"))?)?
        }
        (Value::Int(a), Value::Int(b)) => {
            let (f, ka, kb) = (by::<i128>(op).ok_or(none("whole numbers"))?, a.kind(), b.kind());
            zip(cx, (a.data(), a.shape()), (b.data(), b.shape()), |a, b| f(lift(a, ka), lift(b, kb)))?
        }
        (Value::Bool(a), Value::Bool(b)) => {
            let f: fn(bool, bool) -> bool = match op {
                "And" => |a, b| a && b,
                "Or" => |a, b| a || b,
                "Xor" => |a, b| a != b,
                "Equal" => |a, b| a == b,
                _ => return Err(none("truth values")),
            };
            zip(cx, (a.data(), a.shape()), (b.data(), b.shape()), f)?
        }
        (a, b) => return Err(format!("{op} of {} and {}", a.kind(), b.kind())),
    };
    one(Value::Bool(Array::new(&shape, found)))
}

pub(crate) fn not(_: &Cx, mut given: Given) -> Done {
    match given.take(0)? {
        Value::Bool(a) => one(Value::Bool(Array::new(a.shape(), a.data().iter().map(|v| !v).collect()))),
        other => Err(format!("Not of {}", other.kind())),
    }
}

pub(crate) fn odd(cx: &Cx, mut given: Given) -> Done {
    let x = given.tensor(0)?;
    let nan = cx.node.op == "IsNaN";
    let (above, below) = (cx.int("detect_positive", 1)? != 0, cx.int("detect_negative", 1)? != 0);
    let test = |v: &f32| match nan {
        true => v.is_nan(),
        false => above && *v == f32::INFINITY || below && *v == f32::NEG_INFINITY,
    };
    one(Value::Bool(Array::new(x.shape(), x.data().iter().map(test).collect())))
}

pub(crate) fn choose(cx: &Cx, mut given: Given) -> Done {
    let Value::Bool(c) = given.take(0)? else { return Err("a condition that is no truth value".into()) };
    fn pick<T: Copy>(
        cx: &Cx,
        c: &Array<bool>,
        (a, sa): (&[T], &[usize]),
        (b, sb): (&[T], &[usize]),
    ) -> Done<(Vec<usize>, Vec<T>)> {
        let shape = spread(&spread(sa, sb)?, c.shape())?;
        let n = cx.room(&shape)?;
        let of = [c.shape(), sa, sb].map(|s| spread_strides(s, &shape));
        let inner = of.each_ref().map(|s| s.last().copied().unwrap_or(0));
        let mut to = Vec::with_capacity(n);
        runs(&shape, [&of[0], &of[1], &of[2]], |[oc, oa, ob], n| {
            to.extend((0..n).map(|i| match c.data()[oc + i * inner[0]] {
                true => a[oa + i * inner[1]],
                false => b[ob + i * inner[2]],
            }));
        });
        Ok((shape, to))
    }
    one(match (given.wide(1)?, given.wide(2)?) {
        (Value::Float(a), Value::Float(b)) => {
            let (a, b) = (a.rows(), b.rows());
            let (shape, v) = pick(cx, &c, (a.data(), a.shape()), (b.data(), b.shape()))?;
            Value::floats(&shape, v)
        }
        (Value::Int(a), Value::Int(b)) => {
            let (shape, v) = pick(cx, &c, (a.data(), a.shape()), (b.data(), b.shape()))?;
            Value::ints(&shape, v)
        }
        (Value::Bool(a), Value::Bool(b)) => {
            let (shape, v) = pick(cx, &c, (a.data(), a.shape()), (b.data(), b.shape()))?;
            Value::Bool(Array::new(&shape, v))
        }
        (a, b) => return Err(format!("Where of {} and {}", a.kind(), b.kind())),
    })
}

pub(crate) fn softmax(cx: &Cx, mut given: Given) -> Done {
    let x = given.floats(0)?;
    let kind = x.kind();
    let x = x.rows();
    let shape = x.shape().to_vec();
    let rank = shape.len();
    // Before version 13 everything from the axis on was one row.
    let flat = cx.opset < 13;
    let at = axis(cx.int("axis", if flat { 1 } else { -1 })?, rank)?;
    if x.is_empty() {
        return tensor(x);
    }
    let (inner, cols) = match flat {
        true => (1, shape[at..].iter().product::<usize>()),
        false => (shape[at + 1..].iter().product::<usize>(), shape[at]),
    };
    let log = cx.node.op == "LogSoftmax";
    let run = |data: &mut [f32]| {
        if let (false, Some(round)) = (log, rounding(kind)) {
            // Each step of the operator's definition is rounded.
            for row in data.chunks_exact_mut(cols) {
                let top = row.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
                row.iter_mut().for_each(|v| *v = round(round(*v - top).exp()));
                let sum = super::types::sum(row, kind);
                row.iter_mut().for_each(|v| *v /= sum);
            }
        } else if log {
            for row in data.chunks_exact_mut(cols) {
                let top = row.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
                let sum = row.iter().map(|v| f64::from(v - top).exp()).sum::<f64>().ln() as f32;
                row.iter_mut().for_each(|v| *v -= top + sum);
            }
        } else {
            rows::softmax(data, cols);
        }
    };
    if inner == 1 {
        let mut x = x;
        run(x.data_mut());
        return tensor(x);
    }
    let mut transposed = vec![0.0; x.len()];
    for (from, to) in x.data().chunks_exact(cols * inner).zip(transposed.chunks_exact_mut(cols * inner)) {
        crate::value::turn(from, cols, inner, to);
    }
    run(&mut transposed);
    tensor(Tensor::written(&shape, |to| {
        for (from, to) in transposed.chunks_exact(cols * inner).zip(to.chunks_exact_mut(cols * inner)) {
            crate::value::turn(from, inner, cols, to);
        }
    }))
}
