//! NumPy arrays as inputs of any network.

use crate::ui::Ui;
use anyhow::{Result, bail};
use nnz_engine::cost::Machine;
use nnz_foreign::onnx::Network;
use nnz_formats::{Format, Npy};
use nnz_onnx::{Array, DType, Port, Value};
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

/// Reads an array for an input.
fn read(path: &Path, port: &Port) -> Result<Value> {
    let fail = |why: String| anyhow::anyhow!("{}: {why}", path.display());
    let bytes = std::fs::read(path).map_err(|e| fail(format!("cannot read: {e}")))?;
    let mut rest = &bytes[..];
    let Npy { kind, columns_first, shape } = Npy::read(&mut rest).map_err(fail)?;
    if columns_first && shape.len() > 1 {
        return Err(fail("the first index runs fastest; save it with numpy.ascontiguousarray".into()));
    }
    let format = match &*kind {
        "<f8" => Format::F64,
        "<f4" => Format::F32,
        "<f2" => Format::F16,
        "<i8" => Format::I64,
        "<i4" => Format::I32,
        "<i2" => Format::I16,
        "|i1" => Format::I8,
        "<u8" => Format::U64,
        "<u4" => Format::U32,
        "<u2" => Format::U16,
        "|u1" => Format::U8,
        "|b1" => Format::Bool,
        other => return Err(fail(format!("numbers of type `{other}`, which are not read"))),
    };
    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let size = format.block().1;
    if count.and_then(|n| n.checked_mul(size)) != Some(rest.len()) {
        return Err(fail(format!("shape {shape:?} of {}, but {} bytes", format.name(), rest.len())));
    }
    let whole = |b: &[u8]| {
        let n = b.iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b));
        match format {
            Format::I32 => i64::from(n as i32),
            Format::I16 => i64::from(n as i16),
            _ => n as i64,
        }
    };
    let (floats, plain) = (format.is_float(), matches!(format, Format::I8 | Format::U8 | Format::Bool));
    let value = match format {
        _ if floats => {
            let mut values = vec![0.0; rest.len() / size];
            format.decode(rest, &mut values);
            Value::floats(&shape, values)
        }
        Format::I8 => Value::Small(Array::new(&shape, rest.iter().map(|&b| b as i8).collect())),
        Format::U8 => Value::Byte(Array::new(&shape, rest.to_vec())),
        Format::Bool => Value::Bool(Array::new(&shape, rest.iter().map(|&b| b != 0).collect())),
        _ => Value::ints(&shape, rest.chunks_exact(size).map(whole).collect()),
    };
    let fits = match port.kind {
        None => true,
        Some(DType::F32 | DType::F16 | DType::F64 | DType::BF16) => floats,
        Some(DType::I8) => format == Format::I8,
        Some(DType::U8) => format == Format::U8,
        Some(DType::Bool) => format == Format::Bool,
        Some(_) => !floats && !plain,
    };
    if !fits {
        let want = port.kind.map_or("any", DType::name);
        return Err(fail(format!("{} for input `{}`, which takes {want}", format.name(), port.name)));
    }
    Ok(value)
}

/// Fixes the shapes of inputs, each given as `NAME=1x3x224x224`.
pub fn fix(network: &mut Network, shapes: &[String]) -> Result<()> {
    for text in shapes {
        let parts = text.rsplit_once('=').and_then(|(name, shape)| {
            let extents = shape.split('x').map(|d| d.parse::<usize>().ok()).collect::<Option<Vec<_>>>()?;
            Some((name, extents))
        });
        let Some((name, shape)) = parts else { bail!("--shape {text}: give NAME=1x3x224x224") };
        network.fix(name, &shape)?;
    }
    Ok(())
}

/// Prints the outputs of a network for arrays.
pub fn predict(network: &Network, arrays: &[String], ui: Ui) -> Result<ExitCode> {
    let ports = &network.graph.inputs;
    let list = || ports.iter().map(|p| format!("`{}`", p.name)).collect::<Vec<_>>().join(", ");
    let mut given = Vec::with_capacity(arrays.len());
    for text in arrays {
        let named = text.split_once('=').and_then(|(n, file)| Some((ports.iter().find(|p| p.name == n)?, file)));
        let (port, file) = match (named, &ports[..]) {
            (Some(found), _) => found,
            (None, [only]) if !text.contains('=') || Path::new(text).exists() => (only, text.as_str()),
            _ => bail!("--input {text}: give NAME=FILE.npy, where NAME is one of {}", list()),
        };
        given.push((port.name.as_str(), read(Path::new(file), port)?));
    }
    let found = network.session(Some(&Machine::chooser()?.0))?.run(given)?;
    let mut listed = Vec::with_capacity(found.len());
    let mut lines = Vec::with_capacity(found.len());
    for (port, value) in network.graph.outputs.iter().zip(found) {
        let (shape, kind) = (value.shape(), value.dtype());
        let values = match value {
            Value::Float(f) => json!(f.rows().data()),
            Value::Int(a) if kind == DType::U64 => json!(a.data().iter().map(|&v| v as u64).collect::<Vec<_>>()),
            Value::Int(a) => json!(a.data()),
            Value::Byte(a) => json!(a.data()),
            Value::Small(a) => json!(a.data()),
            Value::Bool(a) => json!(a.data()),
            Value::List(all) => json!(all.iter().map(Value::numbers).collect::<Vec<_>>()),
        };
        lines.push(format!("{} of shape {shape:?} (--json prints it)", port.name));
        listed.push(json!({"output": port.name, "shape": shape, "values": values}));
    }
    ui.answer(&json!({"outputs": listed}), || lines.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}
