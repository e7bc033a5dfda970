//! Writing networks: ONNX, or a folder of safetensors in the checkpoint's layout.

use super::{CLASSES, CONTEXT, Fit, Network, READS};
use crate::llm::prune::plain_config;
use crate::{Error, Result};
use nnz_formats::{Dtype, Entry, Format, Packing, Writer, Written};
use nnz_onnx::build::GUESSED;
use nnz_onnx::{Constant, DType};
use std::collections::BTreeMap;
use std::path::Path;

/// Result of an export.
#[derive(Debug, Default)]
pub struct Exported {
    /// Statistics of each matrix.
    pub written: BTreeMap<String, Written>,
    /// Total bytes.
    pub bytes: u64,
    /// Deviations from the request, in sentences.
    pub notes: Vec<String>,
}

/// Format that a file name asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `.onnx`
    Onnx,
    /// `.safetensors`
    File,
    /// Any name without the ending of another format.
    Folder,
}

impl Target {
    /// Determines it by the ending of a name.
    ///
    /// # Errors
    /// When it is the ending of a format that can be read but not written.
    pub fn of(path: &Path) -> Result<Self> {
        let end = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        match &*end {
            "onnx" => Ok(Self::Onnx),
            "safetensors" if !path.is_dir() => Ok(Self::File),
            "gguf" | "pth" | "pt" | "bin" | "npz" | "npy" | "h5" | "ckpt" | "tflite" | "json" | "pkl" => {
                Err(Error::file(
                    path,
                    format!(
                        "files of the kind .{end} are not written; give a name that ends in .onnx or .safetensors, or a folder"
                    ),
                ))
            }
            _ => Ok(Self::Folder),
        }
    }
}

/// Other files of a checkpoint's folder.
const BESIDE: [&str; 7] = [
    "tokenizer.json",
    "preprocessor_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
];

/// Writes a network in the name's format: an ONNX file, with sparse initializers if `sparse`; a safetensors file; else a folder, for
/// which networks that came as ONNX are written as `model.onnx`.
///
/// # Errors
/// When it would overwrite its source, the file alone would not describe the network, or the disk refuses.
pub fn export(
    network: &Network,
    to: &Path,
    packing: Option<Packing>,
    dtype: Dtype,
    sparse: bool,
    said: &serde_json::Value,
) -> Result<Exported> {
    let target = Target::of(to)?;
    let same = |p: &Path| p.canonicalize().is_ok_and(|p| network.path.canonicalize().is_ok_and(|m| m == p));
    if same(to) || same(&to.join("model.safetensors")) || same(&to.join("model.onnx")) {
        return Err(Error::file(to, "this is the network that is read; give another name"));
    }
    if target == Target::Onnx {
        network.runs()?;
        if network.family == GUESSED {
            return Err(Error::file(
                &network.path,
                "what lies between its layers is a guess from their names, which is not written as a network; export it as ONNX from \
                 where it was made, or write its weights to a folder",
            ));
        }
        let bytes = file(network, sparse);
        nnz_engine::file::write_atomically(to, &bytes)?;
        return Ok(Exported { written: counted(network), bytes: bytes.len() as u64, notes: Vec::new() });
    }
    let Some(archive) = &network.archive else {
        if target == Target::File {
            return Err(Error::file(
                to,
                "a network that came as ONNX is written as .onnx, or to a folder; give such a name",
            ));
        }
        create(to)?;
        let bytes = file(network, sparse);
        beside(network, to, "tokenizer.json")?;
        nnz_engine::file::write_atomically(&to.join("model.onnx"), &bytes)?;
        return Ok(Exported { written: counted(network), bytes: bytes.len() as u64, notes: Vec::new() });
    };
    let smaller = |(name, entry): (&str, &Entry)| {
        network.graph.constants.get(name).is_some_and(|c| c.len() != entry.shape.iter().product::<usize>())
    };
    if archive.tensors().any(smaller) {
        return Err(Error::file(to, NARROW));
    }
    let mut notes = Vec::new();
    let place = match target {
        Target::File if archive.config.is_some() => {
            return Err(Error::file(
                to,
                "without the config.json beside them these weights do not say what network they are; give the name of a folder",
            ));
        }
        Target::File => to.to_path_buf(),
        _ => {
            create(to)?;
            if archive.config.is_none() && to.join("config.json").exists() {
                return Err(Error::file(to, "the config.json of another model lies there; give another folder"));
            }
            to.join("model.safetensors")
        }
    };
    let matrices = network.matrices();
    let mut writer = Writer::create(&place)?;
    let mut written = BTreeMap::new();
    for (name, entry) in archive.tensors() {
        // Integers are counters, indices and masks, which stay bit-exact.
        if !weight(entry) {
            writer.raw(name, &entry.shape, entry.format, &archive.contents(name)?)?;
            continue;
        }
        let constant = network.graph.constants.get(name);
        let values = match constant {
            Some(constant) => constant.numbers(),
            None => archive.read(name)?,
        };
        // Vectors are few, and variances may leave the range of 16 bits.
        let vector = if dtype == Dtype::I8 || entry.shape.len() < 2 { Dtype::F32 } else { dtype };
        match matrices.iter().find(|m| m.name == name && (!m.head || values.contains(&0.0))) {
            Some(_) => {
                written.insert(name.to_string(), writer.kernel(name, &entry.shape, &values, packing, dtype)?);
            }
            None => writer.dense(name, &entry.shape, &values, vector)?,
        }
    }
    if let (Some(config), Target::Folder) = (&archive.config, target) {
        let config = plain_config(config.clone(), &mut notes);
        let bytes = serde_json::to_vec_pretty(&config).unwrap_or_default();
        nnz_engine::file::write_atomically(&to.join("config.json"), &bytes)?;
    }
    // The files next to weights belong to them only if the reader took them so.
    if target == Target::Folder && (network.path.is_dir() || archive.config.is_some()) {
        for name in BESIDE {
            beside(network, to, name)?;
        }
    }
    notes.extend(writer.widened());
    Ok(Exported { written, bytes: writer.finish(said)?, notes })
}

/// Why a network that lost units is written as ONNX alone.
pub const NARROW: &str =
    "layers that lost units have widths of their own, which a checkpoint does not say; give a name that ends in .onnx";

fn create(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)
        .map_err(|e| Error::file(folder, format!("cannot write: {e}; give the name of a folder")))
}

/// Copies a file next to a network, if there is one.
fn beside(network: &Network, to: &Path, name: &str) -> Result<()> {
    let folder = if network.path.is_dir() { &network.path } else { network.path.parent().unwrap_or(Path::new("")) };
    let from = folder.join(name);
    if !from.is_file() {
        return Ok(());
    }
    let bytes = std::fs::read(&from).map_err(|e| Error::file(&from, format!("cannot read: {e}")))?;
    let to = to.join(name);
    to.parent().map(create).transpose()?;
    Ok(nnz_engine::file::write_atomically(&to, &bytes)?)
}

/// Whether a tensor holds weights: floats, or multiples of scales.
pub(super) fn weight(entry: &Entry) -> bool {
    entry.format.is_float() || entry.format == Format::I8 && (entry.is_scaled() || entry.packing != Packing::Dense)
}

/// Nonzeros and bytes of the matrices of an ONNX file, in which every entry is written.
fn counted(network: &Network) -> BTreeMap<String, Written> {
    let graph = &network.graph;
    let one = |m: nnz_onnx::Matrix| {
        let constant: &Constant = &graph.constants[&m.name];
        let nonzeros = constant.numbers().iter().filter(|v| **v != 0.0).count();
        (m.name, Written { nonzeros, bytes: constant.bytes(), ..Written::default() })
    };
    graph.matrices().into_iter().map(one).collect()
}

/// The bytes of an ONNX file, with metadata on image preprocessing, context length and class names.
fn file(network: &Network, sparse: bool) -> Vec<u8> {
    let mut graph = network.graph.clone();
    if let Some(p) = network.pictures() {
        let fit = match p.fit {
            Fit::Cover => serde_json::Value::Null,
            Fit::Shorter(side) => side.into(),
            Fit::Stretch => "stretch".into(),
        };
        let v = serde_json::json!({"shape": p.shape, "mean": p.mean, "deviation": p.deviation, "cubic": p.cubic, "fit": fit});
        graph.metadata.insert(READS.into(), v.to_string());
    }
    if network.context() > 0 {
        graph.metadata.insert(CONTEXT.into(), network.context().to_string());
    }
    if !network.classes.is_empty() {
        graph.metadata.insert(CLASSES.into(), serde_json::json!(network.classes).to_string());
    }
    for port in graph.inputs.iter_mut().chain(&mut graph.outputs) {
        port.kind.get_or_insert(DType::F32);
    }
    graph.write(sparse)
}
