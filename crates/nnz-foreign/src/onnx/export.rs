//! Writing networks: ONNX, or a folder of safetensors as the checkpoint had them.

use super::{CLASSES, CONTEXT, Network, READS};
use crate::{Error, Result};
use nnz_formats::{Dtype, Format, Packing, Writer, Written};
use nnz_onnx::{Constant, Kind};
use std::collections::BTreeMap;
use std::path::Path;

/// Writes a network: to an ONNX file when the name ends in `.onnx`, with sparse initializers when `sparse`; else to a folder, for
/// which networks that came as ONNX are written as `model.onnx`. What became of each matrix, and the bytes of all.
///
/// # Errors
/// When it would overwrite what it came from, or the disk refuses.
pub fn export(
    network: &Network,
    to: &Path,
    packing: Option<Packing>,
    dtype: Dtype,
    sparse: bool,
    said: &serde_json::Value,
) -> Result<(BTreeMap<String, Written>, u64)> {
    let named = to.extension().is_some_and(|e| e == "onnx");
    let same = |p: &Path| p.canonicalize().is_ok_and(|p| network.path.canonicalize().is_ok_and(|m| m == p));
    if same(to) || same(&to.join("model.safetensors")) || same(&to.join("model.onnx")) {
        return Err(Error::file(to, "this is the network that is read; give another name"));
    }
    let matrices = network.matrices();
    if named {
        network.runs()?;
        let bytes = file(network, sparse);
        nnz_engine::file::write_atomically(to, &bytes)?;
        return Ok((counted(network), bytes.len() as u64));
    }
    std::fs::create_dir_all(to)
        .map_err(|e| Error::file(to, format!("cannot write: {e}; give the name of a folder")))?;
    let beside = |name: &str| -> Result<()> {
        let folder = if network.path.is_dir() { &network.path } else { network.path.parent().unwrap_or(Path::new("")) };
        let from = folder.join(name);
        if from.is_file() {
            let bytes = std::fs::read(&from).map_err(|e| Error::file(&from, format!("cannot read: {e}")))?;
            nnz_engine::file::write_atomically(&to.join(name), &bytes)?;
        }
        Ok(())
    };
    let Some(archive) = &network.archive else {
        let bytes = file(network, sparse);
        beside("tokenizer.json")?;
        nnz_engine::file::write_atomically(&to.join("model.onnx"), &bytes)?;
        return Ok((counted(network), bytes.len() as u64));
    };
    if archive.config.is_none() && to.join("config.json").exists() {
        return Err(Error::file(to, "the config.json of another model lies there; give another folder"));
    }
    let mut writer = Writer::create(&to.join("model.safetensors"))?;
    let mut written = BTreeMap::new();
    // Whole numbers are counters and numbers of places, which readers make themselves.
    for (name, entry) in archive.tensors().filter(|(_, e)| floats(e.format)) {
        let constant = network.graph.constants.get(name);
        let values = match constant {
            Some(constant) => constant.numbers(),
            None => archive.read(name)?,
        };
        // Vectors are few, and variances may leave the range of 16 bits.
        let vector = if dtype == Dtype::I8 || entry.shape.len() < 2 { Dtype::F32 } else { dtype };
        match matrices.iter().find(|m| m.name == name && !m.head) {
            Some(_) => {
                written.insert(name.to_string(), writer.kernel(name, &entry.shape, &values, packing, dtype)?);
            }
            None => writer.dense(name, &entry.shape, &values, vector)?,
        }
    }
    // Beside a file of weights, what lies in its folder belongs to it only where the reader took it so.
    for (name, own) in [
        ("config.json", archive.config.is_some()),
        ("tokenizer.json", archive.tokenizer.is_some()),
        ("preprocessor_config.json", network.path.is_dir()),
    ] {
        if own {
            beside(name)?;
        }
    }
    Ok((written, writer.finish(said)?))
}

/// Whether numbers are weights.
pub(super) fn floats(f: Format) -> bool {
    matches!(f, Format::F64 | Format::F32 | Format::F16 | Format::BF16 | Format::I8)
}

/// Nonzeros and bytes of the matrices of an ONNX file, where every entry is written.
fn counted(network: &Network) -> BTreeMap<String, Written> {
    let graph = &network.graph;
    let one = |m: nnz_onnx::Matrix| {
        let constant: &Constant = &graph.constants[&m.name];
        let nonzeros = constant.numbers().iter().filter(|v| **v != 0.0).count();
        (m.name, Written { nonzeros, bytes: constant.bytes(), ..Written::default() })
    };
    graph.matrices().into_iter().map(one).collect()
}

/// The bytes of an ONNX file, which also says how pictures are made ready, how long texts may be, and what the classes are called.
fn file(network: &Network, sparse: bool) -> Vec<u8> {
    let mut graph = network.graph.clone();
    if let Some(p) = network.pictures() {
        let v = serde_json::json!({"shape": p.shape, "mean": p.mean, "deviation": p.deviation, "cubic": p.cubic});
        graph.metadata.insert(READS.into(), v.to_string());
    }
    if network.context() > 0 {
        graph.metadata.insert(CONTEXT.into(), network.context().to_string());
    }
    if !network.classes.is_empty() {
        graph.metadata.insert(CLASSES.into(), serde_json::json!(network.classes).to_string());
    }
    for port in graph.inputs.iter_mut().chain(&mut graph.outputs) {
        port.kind.get_or_insert(Kind::F32);
    }
    graph.write(sparse)
}
