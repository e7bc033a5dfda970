//! A model file or folder as named tensors.

use crate::packed::{self, Layout};
use crate::{Error, Format, Packing, Result, gguf, npz, torch};
use nnz_kernels::Map;
use safetensors::tensor::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use gguf::Value;

/// Where the numbers of a plain tensor lie.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Which file.
    pub blob: usize,
    /// First byte.
    pub at: usize,
    /// Numbers from one index to the next, for each axis; row-major when empty.
    pub strides: Vec<usize>,
}

/// One tensor of an archive.
#[derive(Clone, Debug)]
pub struct Entry {
    /// How its numbers are written.
    pub format: Format,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// How its zeros are left out.
    pub packing: Packing,
    place: Option<Place>,
}

impl Entry {
    pub(crate) fn new(format: Format, shape: Vec<usize>, place: Place) -> Self {
        Self { format, shape, packing: Packing::Dense, place: Some(place) }
    }

    /// Numbers, zero or not.
    pub fn len(&self) -> usize {
        // An extent of zero may stand behind some whose product is no number.
        if self.shape.contains(&0) { 0 } else { self.shape.iter().product() }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Tensors with their names, mapped into memory, and what lies beside them.
#[derive(Debug)]
pub struct Archive {
    /// As it was asked for.
    pub path: PathBuf,
    /// `safetensors`, `PyTorch`, `GGUF` or `NPZ`.
    pub kind: &'static str,
    /// What `config.json` says, when there is one.
    pub config: Option<serde_json::Value>,
    /// `tokenizer.json`, when there is one.
    pub tokenizer: Option<PathBuf>,
    /// What a GGUF file says besides its tensors, and the metadata of safetensors files.
    pub metadata: BTreeMap<String, Value>,
    entries: BTreeMap<String, Entry>,
    blobs: Vec<Blob>,
}

/// Bytes of a file.
#[derive(Debug)]
pub(crate) enum Blob {
    Mapped(Map),
    Owned(Vec<u8>),
}

impl Blob {
    /// Of a file that nobody changed since it was opened.
    pub(crate) fn bytes(&self) -> std::io::Result<&[u8]> {
        match self {
            Self::Mapped(m) => m.bytes(),
            Self::Owned(v) => Ok(v),
        }
    }
}

/// What a reader found in the bytes of one file.
#[derive(Default)]
pub(crate) struct Found {
    pub entries: BTreeMap<String, Entry>,
    pub metadata: BTreeMap<String, Value>,
}

impl Archive {
    /// Opens a file, or a folder such as Hugging Face's: weights in `model.safetensors` or in the shards that
    /// `model.safetensors.index.json` names, or in `pytorch_model.bin`, with `config.json` and `tokenizer.json`.
    ///
    /// # Errors
    /// When nothing is there, or it is not whole; the sentence says where.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            return Self::of_files(path, &[path.into()], path.parent().unwrap_or(Path::new("")));
        }
        let index = path.join("model.safetensors.index.json");
        if index.is_file() {
            return Self::sharded(path, &index);
        }
        let names = ["model.safetensors", "pytorch_model.bin", "model.pt", "model.pth"];
        let mut files: Vec<PathBuf> = names.iter().map(|n| path.join(n)).filter(|f| f.is_file()).take(1).collect();
        if files.is_empty() {
            let inside = std::fs::read_dir(path).map_err(|e| Error::new(path, format!("cannot read: {e}")))?;
            let ends = |p: &Path| p.extension().is_some_and(|e| e == "gguf" || e == "safetensors");
            files.extend(inside.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_file() && ends(p)));
        }
        match files.len() {
            1 => Self::of_files(path, &files, path),
            0 => Err(Error::new(
                path,
                "a folder without weights: expected model.safetensors, model.safetensors.index.json, pytorch_model.bin or \
                 one .gguf file; what an interrupted program leaves is such a folder, so run it again",
            )),
            n => Err(Error::new(path, format!("{n} files of weights in one folder; give one of them"))),
        }
    }

    fn sharded(path: &Path, index: &Path) -> Result<Self> {
        let fail = |why: String| Error::new(index, why);
        let text = std::fs::read(index).map_err(|e| fail(format!("cannot read: {e}")))?;
        let json: serde_json::Value = serde_json::from_slice(&text).map_err(|e| fail(e.to_string()))?;
        let map = json["weight_map"].as_object().ok_or_else(|| fail("it has no `weight_map`".into()))?;
        let mut shards = BTreeMap::new();
        for (name, file) in map {
            let file = file.as_str().unwrap_or_default();
            if file.is_empty() || file.starts_with('.') || file.contains(['/', '\\']) {
                return Err(fail(format!("`{name}` lies in `{file}`, which is no file of this folder")));
            }
            shards.entry(path.join(file)).or_insert_with(Vec::new).push(name.clone());
        }
        let files: Vec<PathBuf> = shards.keys().cloned().collect();
        let archive = Self::of_files(path, &files, path)?;
        for (file, names) in &shards {
            if let Some(missing) = names.iter().find(|n| !archive.entries.contains_key(*n)) {
                return Err(fail(format!("`{missing}` should be in {}, but is not", file.display())));
            }
        }
        Ok(archive)
    }

    fn of_files(path: &Path, files: &[PathBuf], folder: &Path) -> Result<Self> {
        let mut blobs = Vec::new();
        for file in files {
            let map = Map::open(file).map_err(|e| Error::new(file, format!("cannot read: {e}")))?;
            blobs.push((file.clone(), Blob::Mapped(map)));
        }
        let mut archive = Self::of_blobs(path, blobs)?;
        let config = folder.join("config.json");
        // Beside a GGUF file, which says everything itself, a config belongs to something else.
        if archive.kind != "GGUF" && config.is_file() {
            let text = std::fs::read(&config).map_err(|e| Error::new(&config, format!("cannot read: {e}")))?;
            archive.config = Some(serde_json::from_slice(&text).map_err(|e| Error::new(&config, e))?);
        }
        archive.tokenizer = Some(folder.join("tokenizer.json")).filter(|t| t.is_file() && archive.kind != "GGUF");
        Ok(archive)
    }

    /// An archive of bytes in memory; `path` names it in errors.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub fn parse(bytes: Vec<u8>, path: &Path) -> Result<Self> {
        Self::of_blobs(path, vec![(path.into(), Blob::Owned(bytes))])
    }

    fn of_blobs(path: &Path, blobs: Vec<(PathBuf, Blob)>) -> Result<Self> {
        let (mut entries, mut metadata, mut kind) = (BTreeMap::new(), BTreeMap::new(), "");
        for (i, (file, blob)) in blobs.iter().enumerate() {
            let fail = |why: String| Error::new(file, why);
            let bytes = blob.bytes().map_err(|e| fail(e.to_string()))?;
            let found;
            (kind, found) = match bytes {
                [b'G', b'G', b'U', b'F', ..] => ("GGUF", gguf::read(bytes, i).map_err(fail)?),
                [b'P', b'K', 3, 4, ..] if npz::fits(bytes) => ("NPZ", npz::read(bytes, i).map_err(fail)?),
                [b'P', b'K', 3, 4, ..] => ("PyTorch", torch::read_zip(bytes, i).map_err(fail)?),
                [0x80, 2..=5, ..] => ("PyTorch", torch::read_legacy(bytes, i).map_err(fail)?),
                _ if bytes.len() >= 9 && bytes[8] == b'{' => ("safetensors", safe(bytes, i).map_err(fail)?),
                _ => {
                    return Err(fail(
                        "neither safetensors, nor PyTorch (zip or pickle), nor GGUF, nor NPZ: its first bytes are of no such file".into(),
                    ));
                }
            };
            for (name, entry) in found.entries {
                if entries.insert(name.clone(), entry).is_some() {
                    return Err(fail(format!("`{name}` is in two files")));
                }
            }
            metadata.extend(found.metadata);
        }
        let blobs = blobs.into_iter().map(|(_, b)| b).collect();
        let path = path.to_path_buf();
        let (config, tokenizer) = (None, None);
        let mut archive = Self { path, kind, config, tokenizer, metadata, entries, blobs };
        archive.unpack()?;
        Ok(archive)
    }

    /// Finds weights of which only nonzeros are written, and lists them as the matrices they are.
    fn unpack(&mut self) -> Result<()> {
        let fail = |path: &Path, why: String| Error::new(path, why);
        let document = match self.metadata.get("nnz") {
            Some(Value::Text(text)) => {
                let json: serde_json::Value = serde_json::from_str(text)
                    .map_err(|e| fail(&self.path, format!("its metadata `nnz` is no JSON: {e}")))?;
                json
            }
            _ => serde_json::Value::Null,
        };
        let mut packed: Vec<(String, Layout)> = Vec::new();
        if document["format"] == packed::FORMAT {
            for (name, layout) in document["layout"].as_object().into_iter().flatten() {
                let layout = serde_json::from_value(layout.clone())
                    .map_err(|e| fail(&self.path, format!("`{name}` has an unknown layout: {e}")))?;
                packed.push((name.clone(), layout));
            }
        } else {
            // Checkpoints of the old formats sparse-bitmask and sparse-24-bitmask say it by names alone.
            let names = self.entries.keys().filter_map(|n| n.strip_suffix(".bitmask"));
            for name in names.map(str::to_owned).collect::<Vec<_>>() {
                if !["compressed", "shape"].iter().all(|p| self.entries.contains_key(&format!("{name}.{p}"))) {
                    continue;
                }
                let shape = self.integers(&format!("{name}.shape"))?;
                let Ok(shape) = <[usize; 2]>::try_from(shape) else {
                    return Err(fail(&self.path, format!("`{name}.shape` is not two numbers")));
                };
                packed.push((name, Layout { packing: Packing::Bitmask, shape, dims: Vec::new() }));
            }
        }
        for (name, Layout { packing, shape, dims }) in packed {
            if packing == Packing::Dense {
                return Err(fail(&self.path, format!("`{name}` has layout dense, which has no parts")));
            }
            let values = format!("{name}.{}", packing.parts()[0]);
            let format = self.entries.get(&values).map(|e| e.format);
            let format = format.ok_or_else(|| fail(&self.path, format!("tensor `{values}` is missing")))?;
            let bytes: usize = packing.parts().iter().filter_map(|p| self.bytes(&format!("{name}.{p}"))).sum();
            let len = shape[0].checked_mul(shape[1]).filter(|&l| packed::possible(l, bytes));
            if len.is_none() {
                let [r, c] = shape;
                return Err(fail(&self.path, format!("`{name}` claims {r}x{c} entries, but has {bytes} bytes")));
            }
            let cols = dims.iter().skip(1).try_fold(1usize, |n, &d| n.checked_mul(d));
            if !dims.is_empty() && (dims[0] != shape[0] || cols != Some(shape[1])) {
                return Err(fail(&self.path, format!("`{name}` has {dims:?} entries, but {shape:?} as a matrix")));
            }
            if self.entries.contains_key(&name) {
                return Err(fail(&self.path, format!("`{name}` is there both packed and plain")));
            }
            let shape = if dims.is_empty() { shape.into() } else { dims };
            self.entries.insert(name, Entry { format, shape, packing, place: None });
        }
        Ok(())
    }

    /// Names of what weights are packed into, which are no tensors of the model.
    fn part(&self, name: &str) -> bool {
        name.rsplit_once('.').is_some_and(|(whole, part)| {
            let packing = self.entries.get(whole).map_or(Packing::Dense, |e| e.packing);
            packing.parts().contains(&part)
                || (packing != Packing::Dense && part == "steps")
                || (packing == Packing::Bitmask && ["shape", "row_offsets"].contains(&part))
        })
    }

    /// The tensors in the order of their names.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().filter(|(n, _)| !self.part(n)).map(|(n, e)| (n.as_str(), e))
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// Bytes that a tensor takes in its files.
    pub fn bytes(&self, name: &str) -> Option<usize> {
        let entry = self.entries.get(name)?;
        match entry.packing {
            Packing::Dense => entry.format.bytes(entry.len()),
            packing => Some(packing.parts().iter().filter_map(|p| self.bytes(&format!("{name}.{p}"))).sum()),
        }
    }

    fn fail(&self, why: String) -> Error {
        Error::new(&self.path, why)
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| self.fail(format!("tensor `{name}` is missing")))
    }

    fn blob(&self, place: &Place) -> Result<&[u8]> {
        self.blobs[place.blob].bytes().map_err(|e| self.fail(e.to_string()))
    }

    /// The bytes of a plain, row-major tensor.
    pub(crate) fn raw(&self, name: &str) -> Result<(&Entry, &[u8])> {
        let entry = self.entry(name)?;
        match &entry.place {
            Some(p) if p.strides.is_empty() => {
                let bytes = entry.format.bytes(entry.len()).unwrap_or(0);
                Ok((entry, &self.blob(p)?[p.at..p.at + bytes]))
            }
            _ => Err(self.fail(format!("`{name}` is not plain"))),
        }
    }

    /// Whole numbers of a plain tensor of integers.
    pub(crate) fn integers(&self, name: &str) -> Result<Vec<usize>> {
        let (entry, bytes) = self.raw(name)?;
        let word = match entry.format {
            Format::I64 => 8,
            Format::U32 | Format::I32 => 4,
            Format::U8 => 1,
            other => return Err(self.fail(format!("`{name}` has type {}, expected integers", other.name()))),
        };
        let number = |b: &[u8]| usize::try_from(b.iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b)));
        let numbers = bytes.chunks_exact(word).map(number).collect::<Result<Vec<_>, _>>();
        numbers.map_err(|_| self.fail(format!("`{name}` holds numbers that are too large")))
    }

    /// The numbers of a tensor, row-major, decoded and with their zeros.
    ///
    /// # Errors
    /// When it is missing, or its parts do not fit together.
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        let entry = self.entry(name)?;
        if entry.packing != Packing::Dense {
            let shape = [entry.shape[0], entry.shape[1..].iter().product()];
            return packed::read(self, name, entry.packing, shape).map_err(|why| self.fail(format!("`{name}`: {why}")));
        }
        let mut values = vec![0.0; entry.len()];
        match &entry.place {
            Some(p) if !p.strides.is_empty() => {
                let (size, bytes) = (entry.format.block().1, self.blob(p)?);
                for (i, value) in values.iter_mut().enumerate() {
                    let (mut rest, mut at) = (i, 0);
                    for (extent, stride) in entry.shape.iter().zip(&p.strides).rev() {
                        at += rest % extent * stride;
                        rest /= extent;
                    }
                    let at = p.at + at * size;
                    entry.format.decode(&bytes[at..at + size], std::slice::from_mut(value));
                }
            }
            _ => entry.format.decode(self.raw(name)?.1, &mut values),
        }
        Ok(values)
    }

    /// Rows `range` of a plain matrix.
    ///
    /// # Errors
    /// As [`Archive::read`]; also when rows do not begin with a block.
    pub fn rows(&self, name: &str, range: std::ops::Range<usize>) -> Result<Vec<f32>> {
        let entry = self.entry(name)?;
        let (rows, cols) = (entry.shape.first().copied().unwrap_or(0), entry.shape.iter().skip(1).product::<usize>());
        if range.end > rows || range.start > range.end {
            return Err(self.fail(format!("`{name}` has {rows} rows, not {range:?}")));
        }
        let plain = entry.place.as_ref().is_some_and(|p| p.strides.is_empty());
        let Some(size) = entry.format.bytes(cols).filter(|_| plain) else {
            return Ok(self.read(name)?[range.start * cols..range.end * cols].to_vec());
        };
        let mut values = vec![0.0; range.len() * cols];
        entry.format.decode(&self.raw(name)?.1[range.start * size..range.end * size], &mut values);
        Ok(values)
    }
}

/// A safetensors file.
fn safe(bytes: &[u8], blob: usize) -> Result<Found, String> {
    let broken = |e: safetensors::SafeTensorError| format!("not a whole safetensors file: {e}");
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(broken)?;
    let mut found = Found::default();
    for (name, info) in metadata.tensors() {
        let format = match info.dtype {
            Dtype::F64 => Format::F64,
            Dtype::F32 => Format::F32,
            Dtype::F16 => Format::F16,
            Dtype::BF16 => Format::BF16,
            Dtype::I64 => Format::I64,
            Dtype::I32 => Format::I32,
            Dtype::U32 => Format::U32,
            Dtype::I16 => Format::I16,
            Dtype::I8 => Format::I8,
            Dtype::U8 => Format::U8,
            Dtype::BOOL => Format::Bool,
            other => {
                return Err(format!(
                    "`{name}` has numbers of type {other:?}, which is not read; save it as F32, F16 or BF16"
                ));
            }
        };
        let at = 8 + header + info.data_offsets.0;
        let place = Place { blob, at, strides: Vec::new() };
        found.entries.insert(name, Entry::new(format, info.shape.clone(), place));
    }
    let said = metadata.metadata().iter().flatten();
    found.metadata = said.map(|(k, v)| (k.clone(), Value::Text(v.clone()))).collect();
    Ok(found)
}
