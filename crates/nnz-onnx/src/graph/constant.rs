//! Constants of a graph: number types, and reading, decoding and writing.

use super::AXES;
use crate::ops::types;
use crate::proto;
use crate::value::{Array, Value};
use bytes::Bytes;
use half::{bf16, f16};
use nnz_engine::Tensor;
use nnz_kernels::Map;
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

/// Most entries of a sparse tensor per byte it takes, beyond the number that any may have.
const MOST: usize = 512;
const FEW: usize = 1 << 22;
/// How often weights may use the bytes of an external file: tied weights are few.
const TIED: u64 = 8;

/// External files of a model, and how many of their bytes were used.
#[derive(Default)]
pub(super) struct Files {
    open: HashMap<PathBuf, (Map, Bytes)>,
    asked: u64,
}

/// Number type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the format")]
pub enum DType {
    F32,
    U8,
    I8,
    U16,
    I16,
    I32,
    I64,
    Bool,
    F16,
    F64,
    U32,
    U64,
    BF16,
    F8E4M3FN,
    F8E4M3FNUZ,
    F8E5M2,
    F8E5M2FNUZ,
    U4,
    I4,
    F4E2M1,
    U2,
    I2,
}

impl DType {
    /// Maps its number in the format; texts, complex numbers and powers of two are not supported.
    pub(crate) fn of(number: i32) -> Result<Self, String> {
        Ok(match number {
            1 => Self::F32,
            2 => Self::U8,
            3 => Self::I8,
            4 => Self::U16,
            5 => Self::I16,
            6 => Self::I32,
            7 => Self::I64,
            9 => Self::Bool,
            10 => Self::F16,
            11 => Self::F64,
            12 => Self::U32,
            13 => Self::U64,
            16 => Self::BF16,
            17 => Self::F8E4M3FN,
            18 => Self::F8E4M3FNUZ,
            19 => Self::F8E5M2,
            20 => Self::F8E5M2FNUZ,
            21 => Self::U4,
            22 => Self::I4,
            23 => Self::F4E2M1,
            25 => Self::U2,
            26 => Self::I2,
            8 => return Err("texts, which are not computed with here".into()),
            other => return Err(format!("numbers of ONNX type {other}, which is not read")),
        })
    }

    pub(crate) fn number(self) -> i32 {
        match self {
            Self::F32 => 1,
            Self::U8 => 2,
            Self::I8 => 3,
            Self::U16 => 4,
            Self::I16 => 5,
            Self::I32 => 6,
            Self::I64 => 7,
            Self::Bool => 9,
            Self::F16 => 10,
            Self::F64 => 11,
            Self::U32 => 12,
            Self::U64 => 13,
            Self::BF16 => 16,
            Self::F8E4M3FN => 17,
            Self::F8E4M3FNUZ => 18,
            Self::F8E5M2 => 19,
            Self::F8E5M2FNUZ => 20,
            Self::U4 => 21,
            Self::I4 => 22,
            Self::F4E2M1 => 23,
            Self::U2 => 25,
            Self::I2 => 26,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::U16 => "U16",
            Self::I16 => "I16",
            Self::I32 => "I32",
            Self::I64 => "I64",
            Self::Bool => "BOOL",
            Self::F16 => "F16",
            Self::F64 => "F64",
            Self::U32 => "U32",
            Self::U64 => "U64",
            Self::BF16 => "BF16",
            Self::F8E4M3FN => "F8_E4M3FN",
            Self::F8E4M3FNUZ => "F8_E4M3FNUZ",
            Self::F8E5M2 => "F8_E5M2",
            Self::F8E5M2FNUZ => "F8_E5M2FNUZ",
            Self::U4 => "U4",
            Self::I4 => "I4",
            Self::F4E2M1 => "F4_E2M1",
            Self::U2 => "U2",
            Self::I2 => "I2",
        }
    }

    pub(crate) fn bits(self) -> usize {
        match self {
            Self::U2 | Self::I2 => 2,
            Self::U4 | Self::I4 | Self::F4E2M1 => 4,
            Self::U8 | Self::I8 | Self::Bool => 8,
            Self::F8E4M3FN | Self::F8E4M3FNUZ | Self::F8E5M2 | Self::F8E5M2FNUZ => 8,
            Self::U16 | Self::I16 | Self::F16 | Self::BF16 => 16,
            Self::F32 | Self::I32 | Self::U32 => 32,
            Self::I64 | Self::U64 | Self::F64 => 64,
        }
    }

    /// Bytes of that many numbers; those of less than eight bits lie side by side.
    fn bytes(self, count: usize) -> Option<usize> {
        count.checked_mul(self.bits()).map(|bits| bits.div_ceil(8))
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        use DType::*;
        matches!(self, F32 | F16 | F64 | BF16 | F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F4E2M1)
    }
}

/// Location of the numbers of a constant.
#[derive(Clone, Debug)]
enum Data {
    /// Little-endian in a file that is mapped into memory, or in a message.
    Raw(Bytes),
    /// Held in memory as a value.
    Held(Value),
}

/// A constant of a graph: most often a weight.
#[derive(Clone, Debug)]
pub struct Constant {
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Number type.
    pub kind: DType,
    data: Data,
    /// The file they are in.
    pub(super) file: Option<Map>,
}

impl Constant {
    /// Checks that the file with its numbers is what was opened, so that earlier reads count.
    pub(crate) fn whole(&self) -> std::io::Result<()> {
        self.file.as_ref().map_or(Ok(()), Map::whole)
    }

    /// Makes a constant of floats.
    ///
    /// # Panics
    /// When their number does not match the shape.
    pub fn floats(shape: &[usize], data: Vec<f32>) -> Self {
        Self { shape: shape.to_vec(), kind: DType::F32, data: Data::Held(Value::floats(shape, data)), file: None }
    }

    /// Makes a constant of integers.
    ///
    /// # Panics
    /// When their number does not match the shape.
    pub fn ints(shape: &[usize], data: Vec<i64>) -> Self {
        Self { shape: shape.to_vec(), kind: DType::I64, data: Data::Held(Value::ints(shape, data)), file: None }
    }

    /// Makes a constant of floats of a type.
    ///
    /// # Errors
    /// As [`Constant::with`].
    ///
    /// # Panics
    /// When their number does not match the shape.
    pub fn of(shape: &[usize], kind: DType, numbers: &[f32]) -> Result<Self, String> {
        let bytes = kind.bytes(numbers.len()).ok_or("too many numbers")?;
        let zeros = Self { shape: shape.to_vec(), kind, data: Data::Raw(vec![0; bytes].into()), file: None };
        zeros.with(numbers)
    }

    /// Replaces the floats, keeping shape and type. 64-bit numbers that are equal in 32 bits stay unchanged.
    ///
    /// # Errors
    /// When its numbers are not floats, or one exceeds the range of the type.
    ///
    /// # Panics
    /// When their number does not match the shape.
    pub fn with(&self, numbers: &[f32]) -> Result<Self, String> {
        assert_eq!(numbers.len(), self.len());
        let data: Bytes = match self.kind {
            DType::F32 => return Ok(Self::floats(&self.shape, numbers.to_vec())),
            DType::F16 => numbers.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            DType::BF16 => numbers.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
            DType::F64 => {
                let old = self.raw();
                let old = old.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap_or_default()));
                let one = |(old, v): (f64, &f32)| if old as f32 == *v { old } else { f64::from(*v) };
                old.zip(numbers).map(one).flat_map(f64::to_le_bytes).collect()
            }
            other => return Err(format!("floats for numbers of type {}", other.name())),
        };
        let made = Self { shape: self.shape.clone(), kind: self.kind, data: Data::Raw(data), file: None };
        let lost = numbers.iter().zip(made.numbers()).position(|(v, w)| v.is_finite() && !w.is_finite());
        match lost {
            Some(at) => Err(format!("{} at number {at} is beyond the range of {}", numbers[at], self.kind.name())),
            None => Ok(made),
        }
    }

    /// The numbers at these places, row-major, under another shape.
    ///
    /// # Errors
    /// When they take less than a byte each.
    pub(crate) fn picked(&self, shape: &[usize], places: &[usize]) -> Result<Self, String> {
        let (raw, size) = (self.raw(), self.kind.bits() / 8);
        if size == 0 {
            return Err(format!("parts of numbers of type {} are not taken", self.kind.name()));
        }
        let data: Vec<u8> = places.iter().flat_map(|&p| raw[p * size..][..size].iter().copied()).collect();
        Ok(Self { shape: shape.to_vec(), kind: self.kind, data: Data::Raw(data.into()), file: None })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes they take.
    pub fn bytes(&self) -> usize {
        self.kind.bytes(self.len()).unwrap_or(usize::MAX)
    }

    /// Whether it is a floating-point type.
    pub fn is_float(&self) -> bool {
        matches!(self.kind, DType::F32 | DType::F16 | DType::F64 | DType::BF16)
    }

    /// Decodes its numbers.
    pub fn value(&self) -> Value {
        self.wide().of(self.kind)
    }

    fn wide(&self) -> Value {
        let raw = match &self.data {
            Data::Held(value) => return value.clone(),
            Data::Raw(raw) => raw,
        };
        let shape = &self.shape;
        macro_rules! ints {
            ($t:ty) => {{
                let word = |b: &[u8]| <$t>::from_le_bytes(b.try_into().unwrap_or_default()) as i64;
                Value::Int(Array::new(shape, raw.chunks_exact(size_of::<$t>()).map(word).collect()))
            }};
        }
        let floats = |size: usize, f: fn(&[u8]) -> f32| {
            let write = |to: &mut [f32]| to.iter_mut().zip(raw.chunks_exact(size)).for_each(|(to, b)| *to = f(b));
            Value::Float(crate::value::Floats::new(Tensor::written(shape, write)))
        };
        match self.kind {
            DType::F32 => floats(4, |b| f32::from_le_bytes(b.try_into().unwrap_or_default())),
            DType::F64 => floats(8, |b| f64::from_le_bytes(b.try_into().unwrap_or_default()) as f32),
            DType::F16 => floats(2, |b| f16::from_le_bytes(b.try_into().unwrap_or_default()).to_f32()),
            DType::BF16 => floats(2, |b| bf16::from_le_bytes(b.try_into().unwrap_or_default()).to_f32()),
            DType::U8 => Value::Byte(Array::new(shape, raw.to_vec())),
            DType::I8 => Value::Small(Array::new(shape, raw.iter().map(|&b| b as i8).collect())),
            DType::Bool => Value::Bool(Array::new(shape, raw.iter().map(|&b| b != 0).collect())),
            DType::U16 => ints!(u16),
            DType::I16 => ints!(i16),
            DType::I32 => ints!(i32),
            DType::U32 => ints!(u32),
            DType::I64 => ints!(i64),
            // Numbers beyond 2^63 turn negative; their type tells.
            DType::U64 => ints!(u64),
            DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ => {
                let kind = self.kind;
                Value::floats(shape, raw.iter().map(|&b| types::of_bits(kind, b)).collect())
            }
            DType::F4E2M1 => {
                let all = packed(raw, 4, self.len()).map(|b| types::of_bits(DType::F4E2M1, b));
                Value::floats(shape, all.collect())
            }
            DType::U4 | DType::I4 | DType::U2 | DType::I2 => {
                let (bits, kind) = (self.kind.bits(), self.kind);
                let all = packed(raw, bits, self.len()).map(|b| types::wrap(i64::from(b), kind));
                Value::ints(shape, all.collect())
            }
        }
    }

    /// Returns its numbers as floats, row-major.
    pub fn numbers(&self) -> Vec<f32> {
        match self.value() {
            Value::Float(f) => f.rows().data().to_vec(),
            Value::Int(a) => a.data().iter().map(|&v| v as f32).collect(),
            Value::Byte(a) => a.data().iter().map(|&v| f32::from(v)).collect(),
            Value::Small(a) => a.data().iter().map(|&v| f32::from(v)).collect(),
            Value::Bool(a) => a.data().iter().map(|&v| f32::from(u8::from(v))).collect(),
            Value::List(_) => Vec::new(),
        }
    }

    pub(super) fn read(t: &proto::Tensor, folder: Option<&Path>, files: &mut Files) -> Result<Self, String> {
        let kind = DType::of(t.data_type.unwrap_or(0))?;
        let shape = extents(&t.dims)?;
        let count = count(&shape)?;
        let bytes = kind.bytes(count).ok_or("more bytes than there can be")?;
        let (raw, file) = if t.data_location == Some(1) {
            external(t, bytes, folder, files).map(|(raw, map)| (raw, Some(map)))?
        } else if let Some(raw) = &t.raw_data {
            (raw.clone(), None)
        } else {
            (listed(t, kind, count)?, None)
        };
        match raw.len() == bytes {
            true => Ok(Self { shape, kind, data: Data::Raw(raw), file }),
            false => Err(format!("{} bytes, but shape {shape:?} of {} takes {bytes}", raw.len(), kind.name())),
        }
    }

    /// Returns its numbers, little-endian.
    fn raw(&self) -> Bytes {
        match &self.data {
            Data::Raw(raw) => raw.clone(),
            Data::Held(Value::Float(f)) => f.clone().rows().data().iter().flat_map(|v| v.to_le_bytes()).collect(),
            Data::Held(Value::Int(a)) => a.data().iter().flat_map(|v| v.to_le_bytes()).collect(),
            Data::Held(Value::Byte(a)) => a.data().to_vec().into(),
            Data::Held(Value::Small(a)) => a.data().iter().map(|v| *v as u8).collect(),
            Data::Held(Value::Bool(a)) => a.data().iter().map(|v| u8::from(*v)).collect(),
            Data::Held(Value::List(_)) => Bytes::new(),
        }
    }

    pub(super) fn write(&self, name: &str) -> proto::Tensor {
        proto::Tensor {
            dims: self.shape.iter().map(|&d| d as i64).collect(),
            data_type: Some(self.kind.number()),
            name: Some(name.into()),
            raw_data: Some(self.raw()),
            ..Default::default()
        }
    }

    /// Nonzeros and their positions in row-major order; only for 32-bit floats.
    pub(super) fn write_sparse(&self, name: &str) -> Option<proto::Sparse> {
        if self.kind != DType::F32 || self.shape.is_empty() {
            return None;
        }
        let numbers = self.numbers();
        let places: Vec<i64> = (0..numbers.len()).filter(|&i| numbers[i] != 0.0).map(|i| i as i64).collect();
        // A position takes eight bytes and a number four.
        if places.is_empty() || 12 * places.len() >= 4 * numbers.len() {
            return None;
        }
        let kept: Vec<f32> = places.iter().map(|&i| numbers[i as usize]).collect();
        let n = [places.len()];
        let mut indices = Self::ints(&n, places).write("");
        indices.name = None;
        Some(proto::Sparse {
            values: Some(Self::floats(&n, kept).write(name)),
            indices: Some(indices),
            dims: self.shape.iter().map(|&d| d as i64).collect(),
        })
    }

    pub(super) fn read_sparse(s: &proto::Sparse) -> Result<Self, String> {
        let part = |t: &Option<proto::Tensor>, what: &str| {
            let t = t.as_ref().ok_or(format!("a sparse tensor without {what}"))?;
            Self::read(t, None, &mut Files::default())
        };
        let (values, indices) = (part(&s.values, "values")?, part(&s.indices, "indices")?);
        let shape = extents(&s.dims)?;
        let all = count(&shape)?;
        if all > (values.bytes() + indices.bytes()).saturating_mul(MOST).saturating_add(FEW) {
            return Err(format!("shape {shape:?} with {} nonzeros", values.len()));
        }
        let Value::Int(places) = indices.value() else { return Err("indices that are no whole numbers".into()) };
        let (kind, size) = (values.kind, values.kind.bits() / 8);
        if size == 0 {
            return Err(format!("sparse numbers of type {}, which are not read; write them dense", kind.name()));
        }
        // Zero is no bits set in every type.
        let mut data = vec![0u8; all * size];
        let rank = shape.len();
        let each = match indices.shape.len() {
            1 => 1,
            2 if indices.shape[1] == rank => rank,
            _ => return Err(format!("indices of shape {:?} for shape {shape:?}", indices.shape)),
        };
        if each == 0 || places.data().len() != values.len() * each {
            return Err(format!("{} numbers with {} indices", values.len(), places.data().len()));
        }
        for (place, v) in places.data().chunks_exact(each).zip(values.raw().chunks_exact(size)) {
            let at = match each {
                1 if indices.shape.len() == 1 => usize::try_from(place[0]).ok().filter(|&p| p < all),
                _ => place.iter().zip(&shape).try_fold(0usize, |at, (&p, &d)| {
                    let p = usize::try_from(p).ok().filter(|&p| p < d)?;
                    Some(at * d + p)
                }),
            };
            let at = at.ok_or(format!("index {place:?} leaves shape {shape:?}"))?;
            data[at * size..][..size].copy_from_slice(v);
        }
        Ok(Self { shape, kind, data: Data::Raw(data.into()), file: None })
    }
}

/// Parses extents of a file.
fn extents(dims: &[i64]) -> Result<Vec<usize>, String> {
    if dims.len() > AXES {
        return Err(format!("{} axes; at most {AXES} are read", dims.len()));
    }
    dims.iter().map(|&d| usize::try_from(d).map_err(|_| format!("extent {d}"))).collect()
}

/// Number of elements of a shape.
pub(crate) fn count(shape: &[usize]) -> Result<usize, String> {
    // A zero extent must not hide one that overflows on the way.
    let some = shape.iter().filter(|&&d| d > 0).try_fold(1usize, |n, &d| n.checked_mul(d));
    let most = if shape.contains(&0) { 1 << 24 } else { 1 << 40 };
    some.filter(|&n| n <= most).ok_or(format!("shape {shape:?} has too many numbers"))?;
    Ok(shape.iter().product())
}

/// Reads numbers from the typed fields of a message.
fn listed(t: &proto::Tensor, kind: DType, count: usize) -> Result<Bytes, String> {
    let have = match kind {
        DType::F32 => t.float_data.len(),
        DType::F64 => t.double_data.len(),
        DType::I64 => t.int64_data.len(),
        DType::U32 | DType::U64 => t.uint64_data.len(),
        _ => t.int32_data.len(),
    };
    let count = if kind.bits() < 8 { kind.bytes(count).unwrap_or(usize::MAX) } else { count };
    if have != count {
        return Err(format!("{have} numbers, but its shape has {count}"));
    }
    let small = |f: fn(i32) -> Vec<u8>| t.int32_data.iter().flat_map(|&v| f(v)).collect();
    Ok(match kind {
        DType::F32 => t.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F64 => t.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::I64 => t.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::U64 => t.uint64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::U32 => t.uint64_data.iter().flat_map(|v| (*v as u32).to_le_bytes()).collect(),
        DType::I32 => small(|v| v.to_le_bytes().to_vec()),
        DType::U16 | DType::I16 | DType::F16 | DType::BF16 => small(|v| (v as u16).to_le_bytes().to_vec()),
        _ => small(|v| vec![v as u8]),
    })
}

/// The first `count` numbers of 4 or 2 bits, the lowest first.
fn packed(raw: &[u8], bits: usize, count: usize) -> impl Iterator<Item = u8> {
    let mask = ((1u16 << bits) - 1) as u8;
    raw.iter().flat_map(move |&b| (0..8 / bits).map(move |i| b >> (i * bits) & mask)).take(count)
}

/// Reads numbers from an external file. It must lie in the model's own folder or below.
fn external(t: &proto::Tensor, bytes: usize, folder: Option<&Path>, files: &mut Files) -> Result<(Bytes, Map), String> {
    let said =
        |key: &str| t.external_data.iter().find(|p| p.key.as_deref() == Some(key)).and_then(|p| p.value.as_deref());
    let location = said("location").ok_or("lies outside the file, which does not say where")?;
    let folder = folder.ok_or_else(|| format!("lies in `{location}`, but there is no folder to look in"))?;
    let inside = Path::new(location).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    let leaves = || format!("lies in `{location}`, which leaves the model's folder; only files inside it are read");
    if location.is_empty() || !inside || location.contains(['\\', ':']) {
        return Err(leaves());
    }
    let path = folder.join(location);
    // A link could still lead out.
    let real =
        |p: &Path| p.canonicalize().map_err(|e| format!("lies in {}, which cannot be read: {e}", path.display()));
    let home = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    if !real(&path)?.starts_with(real(home)?) {
        return Err(leaves());
    }
    let number = |key: &str| match said(key) {
        None => Ok(None),
        Some(text) => text.parse::<usize>().map(Some).map_err(|_| format!("has {key} `{text}`, which is no number")),
    };
    let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?.unwrap_or(bytes));
    if !files.open.contains_key(&path) {
        let unread = |e: std::io::Error| format!("lies in {}, which cannot be read: {e}", path.display());
        let map = Map::open(&path).map_err(unread)?;
        let bytes = mapped(&map).map_err(unread)?;
        files.open.insert(path.clone(), (map, bytes));
    }
    files.asked = files.asked.saturating_add(length as u64);
    let there: u64 = files.open.values().map(|(_, bytes)| bytes.len() as u64).sum();
    let (map, all) = &files.open[&path];
    match offset.checked_add(length).filter(|&end| end <= all.len()) {
        Some(_) if files.asked / TIED > there => {
            Err(format!("lies in `{location}`, whose bytes more than {TIED} weights share"))
        }
        Some(end) => Ok((all.slice(offset..end), map.clone())),
        None => Err(format!("lies at bytes {offset} to {offset} + {length} of `{location}`, which has {}", all.len())),
    }
}

/// The bytes of a map, which they keep alive.
pub(super) fn mapped(map: &Map) -> std::io::Result<Bytes> {
    struct Mapped(Map);
    impl AsRef<[u8]> for Mapped {
        fn as_ref(&self) -> &[u8] {
            // `whole` checks for changes, for every weight.
            self.0.bytes().unwrap_or_default()
        }
    }
    map.whole()?;
    Ok(Bytes::from_owner(Mapped(map.clone())))
}
