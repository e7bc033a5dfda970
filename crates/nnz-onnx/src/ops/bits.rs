//! Operators on the bits of integers.

use super::math::zip;
use super::types::wrap;
use super::{Cx, Done, Given, one, types};
use crate::graph::DType;
use crate::value::{Array, Value};
use half::{bf16, f16};

pub(crate) fn bitwise(cx: &Cx, mut given: Given) -> Done {
    let (Value::Int(a), Value::Int(b)) = (given.wide(0)?, given.wide(1)?) else {
        return Err("bits of what is no whole number".into());
    };
    let bits = a.kind().bits() as i64;
    let left = match &*cx.node.op {
        "BitShift" => match cx.text("direction", "")? {
            "LEFT" => true,
            "RIGHT" => false,
            other => return Err(format!("a shift to `{other}`")),
        },
        _ => false,
    };
    // A shift by the width or more, or by less than none, leaves nothing but the sign.
    let signed = matches!(a.kind(), DType::I8 | DType::I16 | DType::I32 | DType::I64);
    let far = |b: i64| (0..bits).contains(&b).then_some(b as u32);
    let f: &dyn Fn(i64, i64) -> i64 = match &*cx.node.op {
        "BitwiseAnd" => &|a, b| a & b,
        "BitwiseOr" => &|a, b| a | b,
        "BitwiseXor" => &|a, b| a ^ b,
        _ if left => &|a, b| far(b).map_or(0, |b| ((a as u64) << b) as i64),
        _ if signed => &|a, b| a >> far(b).unwrap_or(63),
        _ => &|a, b| far(b).map_or(0, |b| ((a as u64) >> b) as i64),
    };
    let (shape, v) = zip(cx, (a.data(), a.shape()), (b.data(), b.shape()), f)?;
    one(Value::ints(&shape, v))
}

pub(crate) fn not(_: &Cx, mut given: Given) -> Done {
    let Value::Int(a) = given.wide(0)? else { return Err("bits of what is no whole number".into()) };
    one(Value::ints(a.shape(), a.data().iter().map(|v| !v).collect()))
}

/// The bits of a value as a type of the same width.
pub(crate) fn cast(cx: &Cx, mut given: Given) -> Done {
    let x = given.take(0)?;
    let (from, to, shape) = (x.dtype(), types::said(cx, "to", DType::F32)?, x.shape());
    if from.bits() != to.bits() || from.bits() < 8 || from.bits() == 64 && from.is_float() != to.is_float() {
        return Err(format!("the bits of {} as {}", from.name(), to.name()));
    }
    let bits: Vec<i64> = match x.clone().widened() {
        Value::Int(a) => a.data().to_vec(),
        Value::Bool(a) => a.data().iter().map(|&v| i64::from(v)).collect(),
        Value::Float(f) => {
            let of: fn(f32) -> i64 = match from {
                DType::F32 => |v| i64::from(v.to_bits()),
                DType::F16 => |v| i64::from(f16::from_f32(v).to_bits()),
                DType::BF16 => |v| i64::from(bf16::from_f32(v).to_bits()),
                DType::F64 => return one(Value::Float(f)),
                other => return Err(format!("the bits of {}", other.name())),
            };
            f.rows().data().iter().map(|&v| of(v)).collect()
        }
        other => return Err(format!("the bits of {}", other.kind())),
    };
    let floats = |of: fn(i64) -> f32| Value::floats(&shape, bits.iter().map(|&b| of(b)).collect()).of(to);
    one(match to {
        DType::F32 => floats(|b| f32::from_bits(b as u32)),
        DType::F16 => floats(|b| f16::from_bits(b as u16).to_f32()),
        DType::BF16 => floats(|b| bf16::from_bits(b as u16).to_f32()),
        DType::Bool => Value::Bool(Array::new(&shape, bits.iter().map(|&b| b != 0).collect())),
        kind if kind.is_float() => return Err(format!("bits as {}", kind.name())),
        kind => Value::ints(&shape, bits.iter().map(|&b| wrap(b, kind)).collect()).of(kind),
    })
}
