//! Number types: rounding, wrapping, casts.

use super::{Cx, Done, Given, one};
use crate::graph::{Attribute, DType};
use crate::value::{Array, Floats, Value};
use half::{bf16, f16};
use nnz_engine::Tensor;

/// A float of 8 or 4 bits: exponent, mantissa, bias, and what its ends stand for.
struct Tiny {
    exponent: i32,
    mantissa: i32,
    bias: i32,
    /// Largest finite number.
    most: f32,
    /// Infinities, as IEEE 754 has them.
    infinite: bool,
    /// No negative zero: its pattern is NaN.
    unsigned_zero: bool,
    nan: bool,
}

fn tiny(kind: DType) -> Option<Tiny> {
    let of = |exponent, mantissa, bias, most, infinite, unsigned_zero, nan| {
        Some(Tiny { exponent, mantissa, bias, most, infinite, unsigned_zero, nan })
    };
    match kind {
        DType::F8E4M3FN => of(4, 3, 7, 448.0, false, false, true),
        DType::F8E4M3FNUZ => of(4, 3, 8, 240.0, false, true, true),
        DType::F8E5M2 => of(5, 2, 15, 57344.0, true, false, true),
        DType::F8E5M2FNUZ => of(5, 2, 16, 57344.0, false, true, true),
        DType::F4E2M1 => of(2, 1, 1, 6.0, false, false, false),
        _ => None,
    }
}

/// Decodes a float of 8 or 4 bits.
pub(crate) fn of_bits(kind: DType, bits: u8) -> f32 {
    let Some(t) = tiny(kind) else { return f32::NAN };
    let width = t.exponent + t.mantissa;
    let negative = bits >> width & 1 == 1;
    let (e, m) = (i32::from(bits) >> t.mantissa & ((1 << t.exponent) - 1), i32::from(bits) & ((1 << t.mantissa) - 1));
    let top = e == (1 << t.exponent) - 1;
    let size = match t {
        Tiny { unsigned_zero: true, .. } if negative && e == 0 && m == 0 => return f32::NAN,
        Tiny { infinite: true, .. } if top => {
            if m == 0 {
                f32::INFINITY
            } else {
                f32::NAN
            }
        }
        Tiny { nan: true, unsigned_zero: false, infinite: false, .. } if top && m == (1 << t.mantissa) - 1 => f32::NAN,
        _ if e == 0 => m as f32 * f32::exp2((1 - t.bias - t.mantissa) as f32),
        _ => ((1 << t.mantissa) + m) as f32 * f32::exp2((e - t.bias - t.mantissa) as f32),
    };
    if negative { -size } else { size }
}

/// Rounds to the nearest number of a type, ties to even. Beyond the largest it saturates, or is infinite or NaN.
fn round_tiny(v: f32, kind: DType, saturate: bool) -> f32 {
    let Some(t) = tiny(kind) else { return v };
    if v.is_nan() {
        return if t.nan { v } else { -0.0 };
    }
    if v.is_infinite() && saturate && !t.infinite || v.is_infinite() && saturate {
        return t.most.copysign(v);
    }
    if v == 0.0 {
        return if t.unsigned_zero { 0.0 } else { v };
    }
    // The place value of the last bit of the mantissa.
    let e = (v.abs().to_bits() >> 23) as i32 - 127;
    let ulp = f32::exp2((e.max(1 - t.bias) - t.mantissa) as f32);
    let y = (v / ulp).round_ties_even() * ulp;
    let y = if y == 0.0 && t.unsigned_zero { 0.0 } else { y };
    match y.abs() > t.most {
        false => y,
        true if saturate || !t.nan => t.most.copysign(v),
        true if t.infinite => f32::INFINITY.copysign(v),
        true => f32::NAN,
    }
}

/// Rounding to a float type narrower than 32 bits.
pub(crate) fn rounding(kind: DType) -> Option<fn(f32) -> f32> {
    Some(match kind {
        DType::F16 => |v| f16::from_f32(v).to_f32(),
        DType::BF16 => |v| bf16::from_f32(v).to_f32(),
        DType::F8E4M3FN => |v| round_tiny(v, DType::F8E4M3FN, true),
        DType::F8E4M3FNUZ => |v| round_tiny(v, DType::F8E4M3FNUZ, true),
        DType::F8E5M2 => |v| round_tiny(v, DType::F8E5M2, true),
        DType::F8E5M2FNUZ => |v| round_tiny(v, DType::F8E5M2FNUZ, true),
        DType::F4E2M1 => |v| round_tiny(v, DType::F4E2M1, true),
        _ => return None,
    })
}

/// The sum of numbers of a type: those of bfloat16 are added one by one in it, as in the reference.
pub(crate) fn sum(row: &[f32], kind: DType) -> f32 {
    let round = rounding(kind).unwrap_or(|v| v);
    match kind {
        DType::BF16 => row.iter().fold(0.0, |sum, v| round(sum + v)),
        _ => round(row.iter().sum()),
    }
}

/// The lowest bits of an integer as one of a type.
pub(crate) fn wrap(v: i64, kind: DType) -> i64 {
    let free = 64 - kind.bits().min(64) as u32;
    match kind {
        DType::U2 | DType::U4 | DType::U8 | DType::U16 | DType::U32 => ((v as u64) << free >> free) as i64,
        _ => v << free >> free,
    }
}

/// An integer's value: those of 64 bits without sign are held with one.
pub(crate) fn lift(v: i64, kind: DType) -> i128 {
    if kind == DType::U64 { i128::from(v as u64) } else { i128::from(v) }
}

/// Operators whose outputs do not have the type of the first input, or that tell it themselves.
fn own(op: &str, output: usize) -> bool {
    match op {
        "LinearAttention"
        | "TopK"
        | "Unique"
        | "MaxPool"
        | "Dropout"
        | "LayerNormalization"
        | "RMSNormalization"
        | "SoftmaxCrossEntropyLoss" => output > 0 && op != "SoftmaxCrossEntropyLoss",
        "Shape"
        | "Size"
        | "NonZero"
        | "ArgMax"
        | "ArgMin"
        | "Cast"
        | "CastLike"
        | "Constant"
        | "ConstantOfShape"
        | "DequantizeLinear"
        | "QuantizeLinear"
        | "DynamicQuantizeLinear"
        | "MatMulInteger"
        | "ConvInteger"
        | "QLinearMatMul"
        | "QLinearConv"
        | "NonMaxSuppression"
        | "SequenceLength"
        | "If"
        | "Loop"
        | "Scan"
        | "BitCast"
        | "EyeLike"
        | "SequenceAt"
        | "SequenceConstruct"
        | "SequenceInsert"
        | "SequenceErase"
        | "SequenceEmpty"
        | "SplitToSequence"
        | "ConcatFromSequence"
        | "Optional"
        | "OptionalHasElement"
        | "OptionalGetElement"
        | "HannWindow"
        | "HammingWindow"
        | "BlackmanWindow"
        | "MelWeightMatrix"
        | "SequenceMap"
        | "Identity" => true,
        _ => false,
    }
}

/// The input whose type an output has.
fn model(op: &str, output: usize) -> usize {
    match (op, output) {
        ("Where", _) => 1,
        ("OneHot", _) => 2,
        ("BatchNormalization", o) => {
            if o == 0 {
                0
            } else {
                o + 2
            }
        }
        ("AffineGrid" | "Compress", _) => 0,
        _ => 0,
    }
}

/// Gives the outputs of an operator their types: values were computed in the widest type of their sort.
pub(crate) fn told(op: &str, kinds: &[Option<DType>], values: Vec<Value>) -> Vec<Value> {
    let plain = |k: &Option<DType>| matches!(k, None | Some(DType::F32 | DType::I64 | DType::Bool));
    if kinds.iter().all(plain) {
        return values;
    }
    let boolean = |v: &Value| matches!(v, Value::Bool(_));
    if values.iter().all(boolean) {
        return values;
    }
    let one = |(i, v): (usize, Value)| match kinds.get(model(op, i)).copied().flatten() {
        Some(kind) if !own(op, i) => v.of(kind),
        _ => v,
    };
    values.into_iter().enumerate().map(one).collect()
}

/// Converts to a type. The format leaves floats beyond an integer's range open: here they saturate, and NaN becomes zero.
pub(crate) fn convert(x: Value, to: DType, saturate: bool) -> Value {
    let (shape, from) = (x.shape(), x.dtype());
    if from == to {
        return x;
    }
    let tiny_float = tiny(to).is_some();
    match x.widened() {
        Value::Float(f) if to.is_float() => match tiny_float && !saturate {
            true => Value::Float(Floats::new(f.rows().map(move |v| round_tiny(v, to, false)))).of(to),
            false => Value::Float(f).of(to),
        },
        Value::Float(f) => {
            let t = f.rows();
            let ints = |g: fn(f32) -> i64| Value::ints(&shape, t.data().iter().map(|&v| g(v)).collect());
            match to {
                DType::Bool => Value::Bool(Array::new(&shape, t.data().iter().map(|&v| v != 0.0).collect())),
                DType::I32 => ints(|v| i64::from(v as i32)),
                DType::U64 => ints(|v| v as u64 as i64),
                DType::U4 | DType::I4 | DType::U2 | DType::I2 => ints(|v| v.round_ties_even() as i64),
                _ => ints(|v| v as i64),
            }
            .of(to)
        }
        Value::Int(a) if to.is_float() => {
            let write = |y: &mut [f32]| y.iter_mut().zip(a.data()).for_each(|(y, &v)| *y = lift(v, from) as f32);
            Value::Float(Floats::new(Tensor::written(&shape, write))).of(to)
        }
        Value::Int(a) if to == DType::Bool => {
            Value::Bool(Array::new(&shape, a.data().iter().map(|&v| v != 0).collect()))
        }
        Value::Int(a) => Value::Int(a).of(to),
        Value::Bool(a) if to.is_float() => {
            Value::floats(&shape, a.data().iter().map(|&v| f32::from(u8::from(v))).collect()).of(to)
        }
        Value::Bool(a) => Value::ints(&shape, a.data().iter().map(|&v| i64::from(v)).collect()).of(to),
        other => other,
    }
}

pub(crate) fn cast(cx: &Cx, mut given: Given) -> Done {
    let x = given.take(0)?;
    let to = match cx.node.op == "CastLike" {
        true => given.take(1)?.dtype(),
        false => {
            let told = i32::try_from(cx.int("to", 0)?).map_err(|_| "a type that there is not")?;
            DType::of(told).map_err(|why| format!("a cast to {why}"))?
        }
    };
    if matches!(x, Value::List(_)) {
        return Err("a sequence where an array is needed".into());
    }
    one(convert(x, to, cx.int("saturate", 1)? != 0))
}

/// The type that an attribute gives, or another.
pub(crate) fn said(cx: &Cx, name: &str, default: DType) -> Done<DType> {
    match cx.node.attributes.get(name) {
        None => Ok(default),
        Some(Attribute::Int(0)) => Ok(default),
        Some(Attribute::Int(i)) => DType::of(i32::try_from(*i).unwrap_or(-1)),
        Some(_) => Err(format!("attribute `{name}` is no type")),
    }
}
