//! Safetensors, written tensor by tensor.

use crate::packed::{self, FORMAT, Layout};
use crate::{Error, Format, Packing, Result};
use half::{bf16, f16};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Numbers of a tensor that are in memory at once, where it is read by rows.
const AT_ONCE: usize = 1 << 20;

/// Number type to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 16-bit floats with 10 mantissa bits.
    #[default]
    F16,
    /// 16-bit floats with the range of 32 bits.
    Bf16,
    /// 8-bit integers, multiples of a 127th of the largest of their row; only the nonzeros of matrices, other
    /// tensors are written as [`Dtype::F16`].
    I8,
}

/// What numbers of a tensor lose in 16 bits.
#[derive(Default)]
struct Seen {
    /// Sum of their squares.
    size: f64,
    /// That of what they lose in [`Dtype::F16`].
    lost: f64,
    /// Whether one of them is beyond the range of [`Dtype::Bf16`].
    beyond: bool,
}

impl Seen {
    fn add(&mut self, values: &[f32]) {
        for &v in values.iter().filter(|v| v.is_finite()) {
            let (wide, rounded) = (f64::from(v), f64::from(Dtype::F16.round(v)));
            self.size += wide * wide;
            self.lost += (wide - rounded) * (wide - rounded);
            self.beyond |= !Dtype::Bf16.round(v).is_finite();
        }
    }

    /// See [`Dtype::fitting`].
    fn fitting(&self, asked: Dtype) -> Dtype {
        // Rounding moves an F16 number by at most 2^-11 of itself, BF16 by 2^-9; those below the smallest F16 by more.
        let coarse = self.lost > self.size * f64::exp2(-18.0);
        match asked {
            Dtype::F16 if !coarse => Dtype::F16,
            Dtype::F16 | Dtype::Bf16 if self.beyond => Dtype::F32,
            Dtype::F16 | Dtype::Bf16 => Dtype::Bf16,
            other => other,
        }
    }
}

impl Dtype {
    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::I8 => 1,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::I8 => "I8",
        }
    }

    fn encode(self, values: impl Iterator<Item = f32>) -> Vec<u8> {
        match self {
            Self::F32 => values.flat_map(f32::to_le_bytes).collect(),
            Self::F16 => values.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect(),
            Self::Bf16 => values.flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect(),
            Self::I8 => values.map(|v| v as i8 as u8).collect(),
        }
    }

    /// The type used for these numbers: for 16 bits of small range, [`Dtype::Bf16`] if one of them would become infinite or all
    /// together would lose more than they do there; and [`Dtype::F32`] if that lacks the range too.
    #[must_use]
    pub fn fitting(self, values: &[f32]) -> Self {
        let mut seen = Seen::default();
        seen.add(values);
        seen.fitting(self)
    }

    /// The number that a reader gets back; for [`Dtype::I8`], which rounds by rows, the input.
    pub fn round(self, v: f32) -> f32 {
        match self {
            Self::F32 | Self::I8 => v,
            Self::F16 => f16::from_f32(v).to_f32(),
            Self::Bf16 => bf16::from_f32(v).to_f32(),
        }
    }
}

/// Statistics of a written matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Written {
    /// Nonzero entries.
    pub nonzeros: usize,
    /// Bytes of values and mask.
    pub bytes: usize,
    /// Bits of the mask as written.
    pub mask_bits: f64,
    /// n H(density).
    pub entropy_bits: f64,
}

/// Type, bytes per number, extents, first byte and end.
type Piece = (&'static str, usize, Vec<usize>, [u64; 2]);

/// A file in progress: whole or not at all, since it is renamed at the end. One tensor is in memory at a time.
pub struct Writer {
    path: PathBuf,
    body: BufWriter<File>,
    at: u64,
    tensors: BTreeMap<String, Piece>,
    layout: BTreeMap<String, Layout>,
    widened: Vec<(String, Dtype)>,
}

impl Writer {
    /// Begins a file for `path`.
    ///
    /// # Errors
    /// When its folder cannot be written to.
    pub fn create(path: &Path) -> Result<Self> {
        let fail = |e: std::io::Error| Error::new(path, format!("cannot write: {e}"));
        if path.metadata().is_ok_and(|m| !m.is_file()) {
            return Err(Error::new(path, "cannot write: it is no regular file; give another name"));
        }
        let body = BufWriter::new(tempfile::tempfile_in(folder(path)).map_err(fail)?);
        Ok(Self {
            path: path.into(),
            body,
            at: 0,
            tensors: BTreeMap::new(),
            layout: BTreeMap::new(),
            widened: Vec::new(),
        })
    }

    fn put(&mut self, name: String, dtype: &'static str, each: usize, shape: Vec<usize>, bytes: &[u8]) -> Result<()> {
        let start = self.at;
        self.append(bytes)?;
        self.tensors.insert(name, (dtype, each, shape, [start, self.at]));
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.body.write_all(bytes).map_err(|e| Error::new(&self.path, format!("cannot write: {e}")))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn fitting(&mut self, name: &str, values: &[f32], asked: Dtype) -> Dtype {
        self.widen(name, asked, asked.fitting(values))
    }

    /// Keeps in mind that numbers take another type than that asked for.
    fn widen(&mut self, name: &str, asked: Dtype, dtype: Dtype) -> Dtype {
        if dtype != asked && self.widened.iter().all(|(n, _)| n != name) {
            self.widened.push((name.into(), dtype));
        }
        dtype
    }

    /// Tensors whose numbers exceed the requested type, and the types used instead, in a sentence.
    pub fn widened(&self) -> Option<String> {
        let (name, dtype) = self.widened.first()?;
        let (n, dtype) = (self.widened.len(), dtype.name());
        let first = if n == 1 { format!("`{name}` has") } else { format!("{n} tensors, the first `{name}`, have") };
        Some(format!("{first} numbers beyond the range of the type asked for and are written as {dtype}"))
    }

    /// Copies a tensor as its bytes are in another file, row-major, little-endian.
    ///
    /// # Errors
    /// When the disk refuses, or safetensors have no such type.
    pub fn raw(&mut self, name: &str, shape: &[usize], format: Format, bytes: &[u8]) -> Result<()> {
        let (numbers, each) = format.block();
        if numbers != 1 || matches!(format, Format::Opaque("C128", ..)) {
            return Err(Error::new(
                &self.path,
                format!("`{name}` of type {} cannot be written as it is", format.name()),
            ));
        }
        self.put(name.into(), format.name(), each, shape.into(), bytes)
    }

    /// Writes a tensor with all its entries.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn dense(&mut self, name: &str, shape: &[usize], values: &[f32], dtype: Dtype) -> Result<()> {
        let dtype = self.fitting(name, values, if dtype == Dtype::I8 { Dtype::F16 } else { dtype });
        let bytes = dtype.encode(values.iter().copied());
        self.put(name.into(), dtype.name(), dtype.bytes(), shape.into(), &bytes)
    }

    /// As [`Writer::dense`], for a tensor that need not be in memory: `rows` reads those of a range, twice.
    ///
    /// # Errors
    /// When the disk refuses, and those of `rows`.
    pub fn dense_by_rows<E: From<Error>>(
        &mut self,
        name: &str,
        shape: &[usize],
        dtype: Dtype,
        rows: impl Fn(Range<usize>) -> std::result::Result<Vec<f32>, E>,
    ) -> std::result::Result<(), E> {
        let (count, width) = (shape.first().copied().unwrap_or(1), shape.iter().skip(1).product::<usize>().max(1));
        let some = (AT_ONCE / width).max(1);
        let parts = || (0..count).step_by(some).map(|start| start..(start + some).min(count));
        let mut seen = Seen::default();
        parts().try_for_each(|part| rows(part).map(|values| seen.add(&values)))?;
        let asked = if dtype == Dtype::I8 { Dtype::F16 } else { dtype };
        let (dtype, start) = (self.widen(name, asked, seen.fitting(asked)), self.at);
        for part in parts() {
            self.append(&dtype.encode(rows(part)?.into_iter()))?;
        }
        self.tensors.insert(name.into(), (dtype.name(), dtype.bytes(), shape.into(), [start, self.at]));
        Ok(())
    }

    /// Writes a matrix `[rows, values / rows]`, packed; by default in the smallest packing that other programs read.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn matrix(
        &mut self,
        name: &str,
        rows: usize,
        values: &[f32],
        packing: Option<Packing>,
        dtype: Dtype,
    ) -> Result<Written> {
        self.kernel(name, &[rows, values.len() / rows.max(1)], values, packing, dtype)
    }

    /// As [`Writer::matrix`], for a tensor of two or more axes; all but the first are columns.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn kernel(
        &mut self,
        name: &str,
        shape: &[usize],
        values: &[f32],
        packing: Option<Packing>,
        dtype: Dtype,
    ) -> Result<Written> {
        let rows = shape[0];
        let cols = values.len() / rows.max(1);
        let dtype = self.fitting(name, values, dtype);
        // What rounds to zero is zero.
        let mut values: Vec<f32> = values.iter().map(|&v| dtype.round(v)).collect();
        if dtype == Dtype::I8 {
            let largest = |row: &[f32]| row.iter().fold(0.0f32, |a, v| a.max(v.abs()));
            let steps: Vec<f32> = values.chunks(cols.max(1)).map(|row| largest(row) / 127.0).collect();
            for (row, step) in values.chunks_mut(cols.max(1)).zip(&steps) {
                row.iter_mut()
                    .for_each(|v| *v = if *step > 0.0 { (*v / step).round().clamp(-127.0, 127.0) } else { 0.0 });
            }
            let bytes = Dtype::F32.encode(steps.into_iter());
            self.put(format!("{name}.steps"), "F32", 4, vec![rows], &bytes)?;
        }
        let nonzeros = values.iter().filter(|v| **v != 0.0).count();
        let size = |p: &Packing| p.size(rows, cols, nonzeros, dtype.bytes());
        let usual = [Packing::Dense, Packing::Bitmask, Packing::Csr];
        // Eight bits need a layout of ours, for the scales of their rows.
        let usual = if dtype == Dtype::I8 { &usual[1..] } else { &usual[..] };
        let packing = packing.unwrap_or_else(|| usual.iter().copied().min_by_key(size).unwrap_or_default());
        let packing = if packing == Packing::Dense && dtype == Dtype::I8 { Packing::Bitmask } else { packing };
        let (bytes, entropy_bits) = (size(&packing), packed::entropy_bits(rows * cols, nonzeros));
        let mut written = Written { nonzeros, bytes, mask_bits: 0.0, entropy_bits };
        if packing == Packing::Dense {
            self.dense(name, shape, &values, dtype)?;
            return Ok(written);
        }
        let dims = if shape.len() > 2 { shape.to_vec() } else { Vec::new() };
        self.layout.insert(name.into(), Layout { packing, shape: [rows, cols], dims });
        let counts: Vec<usize> = values.chunks(cols.max(1)).map(|r| r.iter().filter(|v| **v != 0.0).count()).collect();
        let even = packing == Packing::Bitmask && counts.iter().all(|c| *c == counts[0]);
        let shape = if even { vec![rows, counts[0]] } else { vec![nonzeros] };
        let bytes = dtype.encode(values.iter().copied().filter(|v| *v != 0.0));
        self.put(format!("{name}.{}", packing.parts()[0]), dtype.name(), dtype.bytes(), shape, &bytes)?;
        let long = |numbers: &[usize]| numbers.iter().flat_map(|&n| (n as i64).to_le_bytes()).collect::<Vec<_>>();
        let starts = |wide: bool| {
            let mut sum = 0;
            let mut starts = vec![0];
            starts.extend(counts.iter().map(|c| {
                sum += c;
                sum
            }));
            if wide { long(&starts[..rows]) } else { starts.iter().flat_map(|&n| (n as u32).to_le_bytes()).collect() }
        };
        let mask = match packing {
            Packing::Csr => {
                let at = values.iter().enumerate().filter(|(_, v)| **v != 0.0);
                let columns: Vec<u8> = at.flat_map(|(i, _)| ((i % cols) as u32).to_le_bytes()).collect();
                let starts = starts(false);
                self.put(format!("{name}.col_indices"), "U32", 4, vec![nonzeros], &columns)?;
                self.put(format!("{name}.crow_indices"), "U32", 4, vec![rows + 1], &starts)?;
                columns.len() + starts.len()
            }
            Packing::Bitmask => {
                let mask = packed::bitmask(cols, &values);
                self.put(format!("{name}.bitmask"), "U8", 1, vec![rows, cols.div_ceil(8)], &mask)?;
                self.put(format!("{name}.shape"), "I64", 8, vec![2], &long(&[rows, cols]))?;
                if !even {
                    self.put(format!("{name}.row_offsets"), "I64", 8, vec![rows], &starts(true))?;
                }
                mask.len()
            }
            _ => {
                let code = packed::encode(values.iter().map(|v| *v != 0.0), values.len(), nonzeros);
                self.put(format!("{name}.code"), "U8", 1, vec![code.len()], &code)?;
                code.len()
            }
        };
        written.mask_bits = 8.0 * mask as f64;
        written.bytes = bytes.len() + mask + if dtype == Dtype::I8 { 4 * rows } else { 0 };
        Ok(written)
    }

    /// Puts the header before the tensors and renames the file; returns its bytes. `said` is kept in the metadata's document
    /// under `nnz`.
    ///
    /// # Errors
    /// When the disk refuses; then no file is left.
    pub fn finish(self, said: &serde_json::Value) -> Result<u64> {
        let path = self.path.clone();
        let fail = |e: std::io::Error| Error::new(&path, format!("cannot write: {e}"));
        // Wide numbers first, so that all are aligned as readers that map files require.
        let mut order: Vec<_> = self.tensors.iter().collect();
        order.sort_by_key(|(name, (_, each, ..))| (std::cmp::Reverse(*each), *name));
        let document = serde_json::json!({"format": FORMAT, "layout": self.layout, "said": said});
        let mut header = serde_json::Map::new();
        // Hugging Face's readers require `format`.
        header.insert("__metadata__".into(), serde_json::json!({"format": "pt", "nnz": document.to_string()}));
        let mut at = 0;
        for (name, (dtype, _, shape, [from, to])) in &order {
            let offsets = [at, at + to - from];
            header
                .insert((*name).clone(), serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
            at = offsets[1];
        }
        let mut text = serde_json::Value::Object(header).to_string();
        text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
        let mut file = nnz_disk::Unfinished::new(&path).map_err(fail)?;
        let mut body = self.body.into_inner().map_err(|e| fail(e.into_error()))?;
        let mut write = || -> std::io::Result<u64> {
            let mut out = BufWriter::new(file.file());
            out.write_all(&(text.len() as u64).to_le_bytes())?;
            out.write_all(text.as_bytes())?;
            for (_, (_, _, _, [from, to])) in &order {
                body.seek(SeekFrom::Start(*from))?;
                std::io::copy(&mut (&mut body).take(to - from), &mut out)?;
            }
            out.flush()?;
            drop(out);
            Ok(8 + text.len() as u64 + at)
        };
        let bytes = write().map_err(fail)?;
        file.keep().map_err(fail)?;
        Ok(bytes)
    }
}

/// Folder of a file.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
