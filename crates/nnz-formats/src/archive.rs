//! A model file or folder as named tensors.

use crate::made::{self, Made, Scale};
use crate::packed::{self, Layout};
use crate::{Error, Format, Packing, Result, gguf, npz, torch};
use nnz_kernels::Map;
use safetensors::tensor::{Dtype, SafeTensors};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub use gguf::Value;

/// Location of the numbers of a plain tensor.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Index of the file.
    pub blob: usize,
    /// First byte.
    pub at: usize,
    /// Numbers from one index to the next, for each axis; row-major when empty.
    pub strides: Vec<usize>,
    /// Whether numbers are big-endian.
    pub big: bool,
    /// Bytes of a number whose highest bit, a sign, is inverted.
    pub signs: Vec<usize>,
}

impl Place {
    /// Row-major and little-endian.
    pub(crate) fn plain(blob: usize, at: usize) -> Self {
        Self { blob, at, strides: Vec::new(), big: false, signs: Vec::new() }
    }

    fn is_plain(&self) -> bool {
        self.strides.is_empty() && !self.big && self.signs.is_empty()
    }
}

/// One tensor of an archive.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Number type.
    pub format: Format,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Encoding of its zeros.
    pub packing: Packing,
    pub(crate) place: Option<Place>,
    /// Stem of its parts' names, if different.
    pub(crate) stem: Option<String>,
    /// The tensors it is computed from, if its numbers are not in the file.
    pub(crate) made: Option<Made>,
    /// Scale of its integers.
    pub(crate) scale: Option<Scale>,
}

impl Entry {
    pub(crate) fn new(format: Format, shape: Vec<usize>, place: Place) -> Self {
        Self { place: Some(place), ..Self::of(format, shape, Packing::Dense) }
    }

    /// A tensor computed from others.
    pub(crate) fn of(format: Format, shape: Vec<usize>, packing: Packing) -> Self {
        Self { format, shape, packing, place: None, stem: None, made: None, scale: None }
    }

    /// Renames it where every name lost a prefix.
    pub(crate) fn renamed(mut self, prefix: &str) -> Self {
        if let Some(Made::Coo(parts) | Made::Masked(parts) | Made::Normed(parts)) = &mut self.made {
            parts.iter_mut().for_each(|p| *p = p[prefix.len()..].to_owned());
        }
        self
    }

    /// Whether its numbers are multiples of scales stored in the file.
    pub fn is_scaled(&self) -> bool {
        self.scale.is_some()
    }

    /// Numbers, zero or not.
    pub fn len(&self) -> usize {
        // A zero extent may follow some whose product overflows.
        if self.shape.contains(&0) { 0 } else { self.shape.iter().product() }
    }

    /// Whether it has no numbers.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Tensors with their names, mapped into memory, and the files next to them.
#[derive(Debug)]
pub struct Archive {
    /// Path as requested.
    pub path: PathBuf,
    /// `safetensors`, `PyTorch`, `GGUF` or `NPZ`.
    pub kind: &'static str,
    /// Contents of `config.json`, if there is one.
    pub config: Option<serde_json::Value>,
    /// Path of `tokenizer.json`, if there is one.
    pub tokenizer: Option<PathBuf>,
    /// Metadata of a GGUF file, or of safetensors files.
    pub metadata: BTreeMap<String, Value>,
    /// Parts that were left out or reinterpreted, in sentences.
    pub notes: Vec<String>,
    pub(crate) entries: BTreeMap<String, Entry>,
    /// Tensors from which others are computed.
    pub(crate) parts: BTreeSet<String>,
    blobs: Vec<Blob>,
}

/// Bytes of a file.
#[derive(Debug)]
pub(crate) enum Blob {
    Mapped(Map),
    Owned(Vec<u8>),
}

impl Blob {
    /// The bytes, if nobody changed the file since it was opened.
    pub(crate) fn bytes(&self) -> std::io::Result<&[u8]> {
        match self {
            Self::Mapped(m) => m.bytes(),
            Self::Owned(v) => Ok(v),
        }
    }
}

/// Contents of one file.
#[derive(Default)]
pub(crate) struct Found {
    pub entries: BTreeMap<String, Entry>,
    pub metadata: BTreeMap<String, Value>,
    /// Tensors from which others are computed.
    pub parts: BTreeSet<String>,
    /// Parts that were left out, in sentences.
    pub notes: Vec<String>,
}

impl Archive {
    /// Opens a file, or a folder such as Hugging Face's: weights in `model.safetensors` or in the shards that
    /// `model.safetensors.index.json` names, or likewise in `pytorch_model.bin`, with `config.json` and `tokenizer.json`. Of a
    /// GGUF file in parts, any part opens the whole.
    ///
    /// # Errors
    /// When nothing is there, or it is incomplete; the message says where.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            let files = gguf::split(path).unwrap_or_else(|| vec![path.into()]);
            return Self::of_files(path, &files, path.parent().unwrap_or(Path::new("")));
        }
        for (index, whole) in
            [("model.safetensors.index.json", ""), ("pytorch_model.bin.index.json", "model.safetensors")]
        {
            let index = path.join(index);
            if index.is_file() && (whole.is_empty() || !path.join(whole).is_file()) {
                return Self::sharded(path, &index);
            }
        }
        let names = ["model.safetensors", "pytorch_model.bin", "model.pt", "model.pth"];
        let mut files: Vec<PathBuf> = names.iter().map(|n| path.join(n)).filter(|f| f.is_file()).take(1).collect();
        if files.is_empty() {
            let inside = std::fs::read_dir(path).map_err(|e| Error::new(path, format!("cannot read: {e}")))?;
            let ends = |p: &Path| p.extension().is_some_and(|e| e == "gguf" || e == "safetensors");
            files.extend(inside.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_file() && ends(p)));
            files.sort();
            if let Some(all) = files.first().and_then(|f| gguf::split(f))
                && files.iter().all(|f| all.contains(f))
            {
                return Self::of_files(path, &all, path);
            }
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
            shards.entry(path.join(file)).or_insert_with(BTreeSet::new).insert(name.clone());
        }
        let files: Vec<PathBuf> = shards.keys().cloned().collect();
        // A tensor that is in several files is taken from the one that the index names.
        let meant = |file: &Path, name: &str| {
            let here = |names: &BTreeSet<String>| names.contains(name);
            shards.get(file).is_some_and(here) || !shards.values().any(here)
        };
        let archive = Self::of_some(path, &files, path, &meant)?;
        // If all names of a pickle share a prefix, it is removed.
        let lost = |n: &&String| {
            !archive.entries.contains_key(*n) && !archive.entries.keys().any(|k| n.ends_with(&format!(".{k}")))
        };
        for (file, names) in &shards {
            if let Some(missing) = names.iter().find(lost) {
                return Err(fail(format!("`{missing}` should be in {}, but is not", file.display())));
            }
        }
        Ok(archive)
    }

    fn of_files(path: &Path, files: &[PathBuf], folder: &Path) -> Result<Self> {
        Self::of_some(path, files, folder, &|_, _| true)
    }

    /// Reads the selected tensors of files.
    fn of_some(path: &Path, files: &[PathBuf], folder: &Path, meant: &dyn Fn(&Path, &str) -> bool) -> Result<Self> {
        let mut blobs = Vec::new();
        for file in files {
            let map = Map::open(file).map_err(|e| Error::new(file, format!("cannot read: {e}")))?;
            blobs.push((file.clone(), Blob::Mapped(map)));
        }
        let mut archive = Self::of_blobs(path, blobs, meant)?;
        let config = folder.join("config.json");
        // A GGUF file is self-contained, so a config next to it belongs to something else.
        if archive.kind != "GGUF" && config.is_file() {
            let text = std::fs::read(&config).map_err(|e| Error::new(&config, format!("cannot read: {e}")))?;
            archive.config = Some(serde_json::from_slice(&text).map_err(|e| Error::new(&config, e))?);
        }
        archive.tokenizer = Some(folder.join("tokenizer.json")).filter(|t| t.is_file());
        archive.scale()?;
        Ok(archive)
    }

    /// An archive of bytes in memory; `path` names it in errors.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub fn parse(bytes: Vec<u8>, path: &Path) -> Result<Self> {
        let mut archive = Self::of_blobs(path, vec![(path.into(), Blob::Owned(bytes))], &|_, _| true)?;
        archive.scale()?;
        Ok(archive)
    }

    fn of_blobs(path: &Path, blobs: Vec<(PathBuf, Blob)>, meant: &dyn Fn(&Path, &str) -> bool) -> Result<Self> {
        let (mut entries, mut metadata, mut kind) = (BTreeMap::new(), BTreeMap::new(), "");
        let (mut parts, mut notes) = (BTreeSet::new(), Vec::new());
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
            for (name, entry) in found.entries.into_iter().filter(|(n, _)| meant(file, n)) {
                if entries.insert(name.clone(), entry).is_some() {
                    return Err(fail(format!("`{name}` is in two files")));
                }
            }
            // For a file in parts, the first has all metadata.
            for (key, value) in found.metadata {
                metadata.entry(key).or_insert(value);
            }
            parts.extend(found.parts);
            notes.extend(found.notes);
        }
        if let Some(n) = metadata.get("split.count").and_then(Value::size).filter(|&n| n > 1 && n != blobs.len()) {
            return Err(Error::new(
                path,
                format!("one of {n} parts; put all of them into one folder under the names they were made with"),
            ));
        }
        let blobs = blobs.into_iter().map(|(_, b)| b).collect();
        let path = path.to_path_buf();
        let (config, tokenizer) = (None, None);
        let mut archive = Self { path, kind, config, tokenizer, metadata, notes, entries, parts, blobs };
        archive.unpack()?;
        archive.mask();
        Ok(archive)
    }

    /// Finds weights of which only nonzeros are written, and lists them as the matrices they represent.
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
                self.parts.insert(format!("{name}.row_offsets"));
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
            let ends = packing.parts().iter().chain(packed::MORE);
            self.parts.extend(ends.map(|p| format!("{name}.{p}")).filter(|p| self.entries.contains_key(p)));
            // compressed-tensors from 0.9 on names the parts after the layer.
            let whole = format!("{name}.weight");
            let layer = document["format"] != packed::FORMAT
                && !name.ends_with(".weight")
                && !self.entries.contains_key(&whole);
            let stem = layer.then(|| name.clone());
            self.entries.insert(if layer { whole } else { name }, Entry { stem, ..Entry::of(format, shape, packing) });
        }
        Ok(())
    }

    /// Stem of the part names of a packed tensor.
    fn stem<'a>(&'a self, name: &'a str) -> &'a str {
        self.entries.get(name).and_then(|e| e.stem.as_deref()).unwrap_or(name)
    }

    /// Whether nnz wrote a tensor in eight bits: multiples of a 127th of the largest of its row.
    pub fn by_steps(&self, name: &str) -> bool {
        self.entries.contains_key(&format!("{name}.steps")) && self.entries.get(name).is_some_and(|e| e.scale.is_none())
    }

    /// The tensors in the order of their names.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().filter(|(n, _)| !self.parts.contains(*n)).map(|(n, e)| (n.as_str(), e))
    }

    /// Looks up a tensor.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// Bytes that a tensor takes in its files.
    pub fn bytes(&self, name: &str) -> Option<usize> {
        let entry = self.entries.get(name)?;
        let stem = self.stem(name);
        let beside: usize = entry.made.iter().flat_map(Made::parts).filter_map(|p| self.bytes(p)).sum();
        let scales = entry.scale.as_ref().and_then(|s| self.bytes(&s.name)).unwrap_or(0);
        Some(match entry.packing {
            _ if entry.made.is_some() => beside,
            Packing::Dense => entry.format.bytes(entry.len())? + scales,
            packing => {
                packing.parts().iter().filter_map(|p| self.bytes(&format!("{stem}.{p}"))).sum::<usize>() + scales
            }
        })
    }

    pub(crate) fn fail(&self, why: String) -> Error {
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
            Some(p) if p.is_plain() => {
                let bytes = entry.format.bytes(entry.len()).unwrap_or(0);
                Ok((entry, &self.blob(p)?[p.at..p.at + bytes]))
            }
            _ => Err(self.fail(format!("`{name}` is not plain"))),
        }
    }

    /// Integers of a plain tensor.
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

    /// Reads and decodes a tensor, row-major, with its zeros and scales.
    ///
    /// # Errors
    /// When it is missing, of an unsupported type, or its parts do not fit together.
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        let entry = self.entry(name)?;
        let named = |why: String| self.fail(format!("`{name}`: {why}"));
        if !entry.format.readable() {
            return Err(self.fail(format!(
                "`{name}` has numbers of type {}, which are listed, but not read; convert the file to another type",
                entry.format.name()
            )));
        }
        let mut values = match (&entry.made, entry.packing) {
            (Some(made), _) => made::read(self, entry, made).map_err(named)?,
            (None, Packing::Dense) => self.plain(name)?,
            (None, packing) => {
                let shape = [entry.shape[0], entry.shape[1..].iter().product()];
                packed::read(self, self.stem(name), packing, shape).map_err(named)?
            }
        };
        if let Some(scale) = &entry.scale {
            scale.apply(self, entry, &mut values).map_err(named)?;
        }
        Ok(values)
    }

    fn plain(&self, name: &str) -> Result<Vec<f32>> {
        let entry = self.entry(name)?;
        let mut values = vec![0.0; entry.len()];
        match &entry.place {
            Some(p) if p.is_plain() => entry.format.decode(self.raw(name)?.1, &mut values),
            _ => entry.format.decode(&self.contents(name)?, &mut values),
        }
        Ok(values)
    }

    /// The bytes of a tensor as in the file, row-major, little-endian, with the signs that it has.
    ///
    /// # Errors
    /// When it is missing or packed.
    pub fn contents(&self, name: &str) -> Result<Vec<u8>> {
        let entry = self.entry(name)?;
        let Some(p) = &entry.place else { return Err(self.fail(format!("`{name}` is not plain"))) };
        let (numbers, size) = entry.format.block();
        let bytes = self.blob(p)?;
        let len = entry.format.bytes(entry.len()).unwrap_or(0);
        let mut found = Vec::with_capacity(len);
        if p.strides.is_empty() {
            found.extend_from_slice(&bytes[p.at..p.at + len]);
        } else {
            debug_assert_eq!(numbers, 1, "only plain numbers have strides");
            for i in 0..entry.len() {
                let (mut rest, mut at) = (i, 0);
                for (extent, stride) in entry.shape.iter().zip(&p.strides).rev() {
                    at += rest % extent * stride;
                    rest /= extent;
                }
                found.extend_from_slice(&bytes[p.at + at * size..][..size]);
            }
        }
        if p.big {
            entry.format.swap(&mut found).map_err(|why| self.fail(format!("`{name}` is {why}")))?;
        }
        for &at in &p.signs {
            found.chunks_exact_mut(size).for_each(|number| number[at] ^= 0x80);
        }
        Ok(found)
    }

    /// Reads rows `range` of a plain matrix.
    ///
    /// # Errors
    /// As [`Archive::read`]; also when rows are not aligned to blocks.
    pub fn rows(&self, name: &str, range: std::ops::Range<usize>) -> Result<Vec<f32>> {
        let entry = self.entry(name)?;
        let (rows, cols) = (entry.shape.first().copied().unwrap_or(0), entry.shape.iter().skip(1).product::<usize>());
        if range.end > rows || range.start > range.end {
            return Err(self.fail(format!("`{name}` has {rows} rows, not {range:?}")));
        }
        let plain =
            entry.place.as_ref().is_some_and(Place::is_plain) && entry.scale.is_none() && entry.format.readable();
        let Some(size) = entry.format.bytes(cols).filter(|_| plain) else {
            return Ok(self.read(name)?[range.start * cols..range.end * cols].to_vec());
        };
        let mut values = vec![0.0; range.len() * cols];
        entry.format.decode(&self.raw(name)?.1[range.start * size..range.end * size], &mut values);
        Ok(values)
    }
}

/// Parses a safetensors file.
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
            Dtype::U16 => Format::U16,
            Dtype::U64 => Format::U64,
            Dtype::F8_E4M3 => Format::F8E4M3,
            Dtype::F8_E5M2 => Format::F8E5M2,
            Dtype::F8_E8M0 => Format::Opaque("F8_E8M0", 1, 1),
            Dtype::F8_E4M3FNUZ => Format::Opaque("F8_E4M3FNUZ", 1, 1),
            Dtype::F8_E5M2FNUZ => Format::Opaque("F8_E5M2FNUZ", 1, 1),
            Dtype::C64 => Format::Opaque("C64", 1, 8),
            Dtype::F4 => Format::Opaque("F4", 2, 1),
            Dtype::F6_E2M3 => Format::Opaque("F6_E2M3", 4, 3),
            Dtype::F6_E3M2 => Format::Opaque("F6_E3M2", 4, 3),
            other => {
                return Err(format!(
                    "`{name}` has numbers of type {other:?}, which is not read; save it as F32, F16 or BF16"
                ));
            }
        };
        let at = 8 + header + info.data_offsets.0;
        found.entries.insert(name, Entry::new(format, info.shape.clone(), Place::plain(blob, at)));
    }
    let said = metadata.metadata().iter().flatten();
    found.metadata = said.map(|(k, v)| (k.clone(), Value::Text(v.clone()))).collect();
    Ok(found)
}
