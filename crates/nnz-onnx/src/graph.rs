//! A network in ONNX's form: nodes, each an operator, between named values.

use crate::proto;
use crate::value::{Array, Value};
use crate::{Error, Result};
use bytes::Bytes;
use half::{bf16, f16};
use nnz_engine::Tensor;
use nnz_kernels::Map;
use prost::Message;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

/// The operator set that graphs built here use.
pub const OPSET: i64 = 20;
/// Operator sets that can be read.
const OPSETS: std::ops::RangeInclusive<i64> = 9..=28;
/// Most axes of a value.
pub(crate) const AXES: usize = 8;
/// Most entries of a sparse tensor per byte it takes, beyond the number that any may have.
const MOST: usize = 512;
const FEW: usize = 1 << 22;
/// How often weights may use the bytes of an external file: tied weights are few.
const TIED: u64 = 8;

/// External files of a model, and how many of their bytes were used.
#[derive(Default)]
struct Files {
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
}

impl DType {
    /// Maps its number in the format; texts, complex numbers and floats of 4 or 8 bits are not supported.
    fn of(number: i32) -> Result<Self, String> {
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
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::BF16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
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
    file: Option<Map>,
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
        self.len() * self.kind.bytes()
    }

    /// Whether it is a floating-point type.
    pub fn is_float(&self) -> bool {
        matches!(self.kind, DType::F32 | DType::F16 | DType::F64 | DType::BF16)
    }

    /// Decodes its numbers.
    pub fn value(&self) -> Value {
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
            // No graph uses numbers beyond 2^63, which would turn negative.
            DType::U64 => ints!(u64),
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
        }
    }

    fn read(t: &proto::Tensor, folder: Option<&Path>, files: &mut Files) -> Result<Self, String> {
        let kind = DType::of(t.data_type.unwrap_or(0))?;
        let shape = extents(&t.dims)?;
        let count = count(&shape)?;
        let bytes = count.checked_mul(kind.bytes()).ok_or("more bytes than there can be")?;
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
        }
    }

    fn write(&self, name: &str) -> proto::Tensor {
        proto::Tensor {
            dims: self.shape.iter().map(|&d| d as i64).collect(),
            data_type: Some(self.kind.number()),
            name: Some(name.into()),
            raw_data: Some(self.raw()),
            ..Default::default()
        }
    }

    /// Nonzeros and their positions in row-major order; only for 32-bit floats.
    fn write_sparse(&self, name: &str) -> Option<proto::Sparse> {
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

    fn read_sparse(s: &proto::Sparse) -> Result<Self, String> {
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
        let Value::Float(kept) = values.value() else { return Err("sparse numbers that are no floats".into()) };
        let kept = kept.rows();
        let mut numbers = vec![0.0f32; all];
        let rank = shape.len();
        let each = match indices.shape.len() {
            1 => 1,
            2 if indices.shape[1] == rank => rank,
            _ => return Err(format!("indices of shape {:?} for shape {shape:?}", indices.shape)),
        };
        if each == 0 || places.data().len() != kept.len() * each {
            return Err(format!("{} numbers with {} indices", kept.len(), places.data().len()));
        }
        for (place, v) in places.data().chunks_exact(each).zip(kept.data()) {
            let at = match each {
                1 if indices.shape.len() == 1 => usize::try_from(place[0]).ok().filter(|&p| p < all),
                _ => place.iter().zip(&shape).try_fold(0usize, |at, (&p, &d)| {
                    let p = usize::try_from(p).ok().filter(|&p| p < d)?;
                    Some(at * d + p)
                }),
            };
            let at = at.ok_or(format!("index {place:?} leaves shape {shape:?}"))?;
            numbers[at] = *v;
        }
        Ok(Self::floats(&shape, numbers))
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
        DType::U8 | DType::I8 | DType::Bool => small(|v| vec![v as u8]),
        DType::U16 | DType::I16 | DType::F16 | DType::BF16 => small(|v| (v as u16).to_le_bytes().to_vec()),
    })
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
fn mapped(map: &Map) -> std::io::Result<Bytes> {
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

/// An attribute of an operator.
#[derive(Clone, Debug)]
pub enum Attribute {
    /// An integer.
    Int(i64),
    /// A float.
    Float(f32),
    /// A text.
    Text(String),
    /// Integers.
    Ints(Vec<i64>),
    /// Floats.
    Floats(Vec<f32>),
    /// Texts.
    Texts(Vec<String>),
    /// An array.
    Tensor(Constant),
}

impl Attribute {
    fn read(a: &proto::Attribute, folder: Option<&Path>, files: &mut Files) -> Result<Self, String> {
        let text = |b: &Bytes| String::from_utf8(b.to_vec()).map_err(|_| "a text that is no UTF-8".to_string());
        // Old files omit the type.
        let guess = || match (a.f, a.i, &a.s, &a.t) {
            (Some(_), ..) => 1,
            (_, Some(_), ..) => 2,
            (_, _, Some(_), _) => 3,
            (.., Some(_)) => 4,
            _ if !a.floats.is_empty() => 6,
            _ if !a.strings.is_empty() => 8,
            _ => 7,
        };
        Ok(match a.kind.filter(|&k| k != 0).unwrap_or_else(guess) {
            1 => Self::Float(a.f.unwrap_or(0.0)),
            2 => Self::Int(a.i.unwrap_or(0)),
            3 => Self::Text(text(a.s.as_ref().unwrap_or(&Bytes::new()))?),
            4 => Self::Tensor(Constant::read(a.t.as_ref().ok_or("no tensor")?, folder, files)?),
            6 => Self::Floats(a.floats.clone()),
            7 => Self::Ints(a.ints.clone()),
            8 => Self::Texts(a.strings.iter().map(text).collect::<Result<_, _>>()?),
            5 | 10 => return Err("a graph inside a node, which is not run here".into()),
            other => return Err(format!("of ONNX type {other}, which is not read")),
        })
    }

    fn write(&self, name: &str) -> proto::Attribute {
        let mut a = proto::Attribute { name: Some(name.into()), ..Default::default() };
        let kind = match self {
            Self::Float(f) => {
                a.f = Some(*f);
                1
            }
            Self::Int(i) => {
                a.i = Some(*i);
                2
            }
            Self::Text(s) => {
                a.s = Some(Bytes::copy_from_slice(s.as_bytes()));
                3
            }
            Self::Tensor(t) => {
                a.t = Some(t.write(""));
                4
            }
            Self::Floats(f) => {
                a.floats = f.clone();
                6
            }
            Self::Ints(i) => {
                a.ints = i.clone();
                7
            }
            Self::Texts(s) => {
                a.strings = s.iter().map(|s| Bytes::copy_from_slice(s.as_bytes())).collect();
                8
            }
        };
        a.kind = Some(kind);
        a
    }
}

/// A node: one application of an operator.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// The operator, such as `MatMul`.
    pub op: String,
    /// Its name; may be empty.
    pub name: String,
    /// Names of its inputs; empty for an omitted optional one.
    pub inputs: Vec<String>,
    /// Names of its outputs.
    pub outputs: Vec<String>,
    /// Its attributes.
    pub attributes: BTreeMap<String, Attribute>,
}

impl Node {
    /// Makes a node; `name` is its name and that of its only output.
    pub fn new(op: &str, name: &str, inputs: &[&str]) -> Self {
        Self {
            op: op.into(),
            name: name.into(),
            inputs: inputs.iter().map(|s| (*s).into()).collect(),
            outputs: vec![name.into()],
            ..Self::default()
        }
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, name: &str, attribute: Attribute) -> Self {
        self.attributes.insert(name.into(), attribute);
        self
    }

    /// Its name in messages.
    pub fn label(&self) -> &str {
        match self.name.is_empty() {
            true => self.outputs.first().map_or("", String::as_str),
            false => &self.name,
        }
    }
}

/// An input or output of a graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Number type; `None` if the file does not say.
    pub kind: Option<DType>,
    /// Extents; `None` for arbitrary ones.
    pub shape: Option<Vec<Option<usize>>>,
}

/// A network.
#[derive(Clone, Debug)]
pub struct Graph {
    /// Origin, for messages.
    pub path: PathBuf,
    /// Its name.
    pub name: String,
    /// Version of the operator set.
    pub opset: i64,
    /// Nodes in topological order.
    pub nodes: Vec<Node>,
    /// Weights and other constants by name.
    pub constants: BTreeMap<String, Constant>,
    /// Its inputs.
    pub inputs: Vec<Port>,
    /// Its outputs.
    pub outputs: Vec<Port>,
    /// Other metadata of the file.
    pub metadata: BTreeMap<String, String>,
}

impl Graph {
    /// Appends a node; returns the name of its output.
    pub fn add(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> String {
        let name = format!("{op}.{}", self.nodes.len());
        let mut node = Node::new(op, &name, inputs);
        node.attributes = attributes.iter().map(|(k, v)| ((*k).into(), v.clone())).collect();
        self.nodes.push(node);
        name
    }

    /// Reads a file; it is mapped into memory, and weights stay in it until they are used.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or contains unsupported parts; the message names the place.
    pub fn open(path: &Path) -> Result<Self> {
        let unread = |e: std::io::Error| Error::file(path, format!("cannot read: {e}"));
        let map = Map::open(path).map_err(unread)?;
        let mut graph = Self::parse(mapped(&map).map_err(unread)?, path, path.parent())?;
        graph.constants.values_mut().filter(|c| c.file.is_none()).for_each(|c| c.file = Some(map.clone()));
        Ok(graph)
    }

    /// Parses bytes in memory; `path` names them in messages. External weights are looked up in `folder`.
    ///
    /// # Errors
    /// As [`Graph::open`].
    pub fn parse(bytes: Bytes, path: &Path, folder: Option<&Path>) -> Result<Self> {
        let fail = |why: String| Error::file(path, why);
        let model = proto::Model::decode(bytes).map_err(|e| fail(format!("not a whole ONNX file: {e}")))?;
        let domain = |d: &Option<String>| d.clone().filter(|d| !d.is_empty() && d != "ai.onnx");
        let opset = model.opset_import.iter().find(|o| domain(&o.domain).is_none()).and_then(|o| o.version);
        let Some(g) = model.graph else { return Err(fail("not an ONNX file: there is no graph in it".into())) };
        let opset = opset.ok_or_else(|| fail("it does not say which version of the operators it means".into()))?;
        if !OPSETS.contains(&opset) {
            let (from, to) = (OPSETS.start(), OPSETS.end());
            return Err(fail(format!("operators of version {opset}; versions {from} to {to} are read; convert it")));
        }
        let mut files = Files::default();
        let mut constants = BTreeMap::new();
        let dense = g.initializer.iter().map(|t| (t.name.clone(), Constant::read(t, folder, &mut files)));
        let mut all: Vec<_> = dense.collect();
        all.extend(
            g.sparse_initializer
                .iter()
                .map(|s| (s.values.as_ref().and_then(|v| v.name.clone()), Constant::read_sparse(s))),
        );
        for (name, constant) in all {
            let name = name.unwrap_or_default();
            let constant = constant.map_err(|why| fail(format!("weight `{name}`: {why}")))?;
            if name.is_empty() || constants.insert(name.clone(), constant).is_some() {
                return Err(fail(format!("two weights are named `{name}`, or one has no name")));
            }
        }
        let mut nodes = Vec::with_capacity(g.node.len());
        for n in g.node {
            let op = n.op_type.unwrap_or_default();
            let op = domain(&n.domain).map_or(op.clone(), |d| format!("{d}.{op}"));
            let mut node =
                Node { op, name: n.name.unwrap_or_default(), inputs: n.input, outputs: n.output, ..Node::default() };
            for a in &n.attribute {
                let name = a.name.clone().unwrap_or_default();
                let read = Attribute::read(a, folder, &mut files);
                let value = read.map_err(|why| Error::node(path, &node, format!("attribute `{name}`: {why}")))?;
                node.attributes.insert(name, value);
            }
            // Some exporters write weights as nodes.
            if let ("Constant", [name], Some(Attribute::Tensor(t))) =
                (&*node.op, &node.outputs[..], node.attributes.get("value"))
                && !name.is_empty()
                && !constants.contains_key(name)
            {
                constants.insert(name.clone(), t.clone());
                continue;
            }
            nodes.push(node);
        }
        let port = |i: &proto::Info| -> Result<Port> {
            let name = i.name.clone().unwrap_or_default();
            let tensor = i.kind.as_ref().and_then(|t| t.tensor.as_ref());
            let kind = tensor.and_then(|t| t.elem).map(DType::of).transpose();
            let kind = kind.map_err(|why| fail(format!("`{name}` has {why}")))?;
            let extent = |d: &proto::Dim| d.value.and_then(|v| usize::try_from(v).ok());
            let shape = tensor.and_then(|t| t.shape.as_ref()).map(|s| s.dim.iter().map(extent).collect());
            Ok(Port { name, kind, shape })
        };
        let mut inputs = g.input.iter().map(port).collect::<Result<Vec<_>>>()?;
        inputs.retain(|p| !constants.contains_key(&p.name));
        let pair = |p: proto::Pair| Some((p.key?, p.value?));
        let mut graph = Self {
            path: path.into(),
            name: g.name.unwrap_or_default(),
            opset,
            nodes,
            constants,
            inputs,
            outputs: g.output.iter().map(port).collect::<Result<_>>()?,
            metadata: model.metadata_props.into_iter().filter_map(pair).collect(),
        };
        graph.sort()?;
        Ok(graph)
    }

    /// Sorts nodes topologically; files should have them so, but need not.
    ///
    /// # Errors
    /// When a value is computed twice, not at all, or from itself.
    pub fn sort(&mut self) -> Result<()> {
        let fail = |why: String| Error::file(&self.path, why);
        let mut names = HashSet::new();
        if let Some(p) = self.inputs.iter().find(|p| p.name.is_empty() || !names.insert(&p.name)) {
            return Err(fail(format!("two inputs are named `{}`, or one has no name", p.name)));
        }
        if self.outputs.iter().any(|p| p.name.is_empty()) {
            return Err(fail("one of its outputs has no name".into()));
        }
        let mut makers = HashMap::new();
        for (i, node) in self.nodes.iter().enumerate() {
            for out in node.outputs.iter().filter(|o| !o.is_empty()) {
                let twice = makers.insert(out.as_str(), i).is_some() || self.constants.contains_key(out);
                if twice || self.inputs.iter().any(|p| p.name == *out) {
                    return Err(fail(format!(
                        "`{out}` is computed by {} `{}`, but is there already",
                        node.op,
                        node.label()
                    )));
                }
            }
        }
        let given: HashSet<&str> = self.inputs.iter().map(|p| p.name.as_str()).collect();
        let known = |name: &str| name.is_empty() || given.contains(name) || self.constants.contains_key(name);
        let (mut waits, mut readers) = (vec![0usize; self.nodes.len()], vec![Vec::new(); self.nodes.len()]);
        for (i, node) in self.nodes.iter().enumerate() {
            for name in node.inputs.iter().filter(|n| !known(n)) {
                let Some(&maker) = makers.get(name.as_str()) else {
                    return Err(fail(format!("{} `{}` reads `{name}`, which nobody computes", node.op, node.label())));
                };
                waits[i] += 1;
                readers[maker].push(i);
            }
        }
        if let Some(p) = self.outputs.iter().find(|p| !known(&p.name) && !makers.contains_key(p.name.as_str())) {
            return Err(fail(format!("its output `{}` is computed by no node", p.name)));
        }
        // Smallest first, so that a valid order is kept.
        let mut ready: std::collections::BTreeSet<usize> = (0..self.nodes.len()).filter(|&i| waits[i] == 0).collect();
        let mut order = Vec::with_capacity(self.nodes.len());
        while let Some(i) = ready.pop_first() {
            order.push(i);
            for &r in &readers[i] {
                waits[r] -= 1;
                if waits[r] == 0 {
                    ready.insert(r);
                }
            }
        }
        if let Some(i) = (0..self.nodes.len()).find(|&i| waits[i] > 0) {
            let node = &self.nodes[i];
            return Err(fail(format!(
                "{} `{}` needs, directly or not, what it computes itself",
                node.op,
                node.label()
            )));
        }
        let mut nodes: Vec<Option<Node>> = std::mem::take(&mut self.nodes).into_iter().map(Some).collect();
        self.nodes = order.into_iter().filter_map(|i| nodes[i].take()).collect();
        Ok(())
    }

    /// Encodes an ONNX file. With `sparse`, weights with a density below a third are written as sparse initializers.
    pub fn write(&self, sparse: bool) -> Vec<u8> {
        let port = |p: &Port| {
            let dim = |d: &Option<usize>| proto::Dim { value: d.map(|d| d as i64), param: None };
            let shape = p.shape.as_ref().map(|s| proto::Shape { dim: s.iter().map(dim).collect() });
            let tensor = proto::TensorType { elem: Some(p.kind.unwrap_or(DType::F32).number()), shape };
            proto::Info { name: Some(p.name.clone()), kind: Some(proto::Type { tensor: Some(tensor) }) }
        };
        let mut domains: Vec<String> = Vec::new();
        let node = |n: &Node| {
            let (domain, op) = n.op.rsplit_once('.').map_or((None, &*n.op), |(d, op)| (Some(d.to_string()), op));
            proto::Node {
                input: n.inputs.clone(),
                output: n.outputs.clone(),
                name: Some(n.name.clone()),
                op_type: Some(op.into()),
                attribute: n.attributes.iter().map(|(name, a)| a.write(name)).collect(),
                domain,
            }
        };
        for (domain, _) in self.nodes.iter().filter_map(|n| n.op.rsplit_once('.')) {
            if !domains.iter().any(|d| d == domain) {
                domains.push(domain.into());
            }
        }
        let (mut dense, mut packed) = (Vec::new(), Vec::new());
        for (name, c) in &self.constants {
            match c.write_sparse(name).filter(|_| sparse) {
                Some(s) => packed.push(s),
                None => dense.push(c.write(name)),
            }
        }
        let graph = proto::Graph {
            node: self.nodes.iter().map(node).collect(),
            name: Some(if self.name.is_empty() { "network".into() } else { self.name.clone() }),
            initializer: dense,
            input: self.inputs.iter().map(port).collect(),
            output: self.outputs.iter().map(port).collect(),
            sparse_initializer: packed,
        };
        let opset = |domain: &str, version| proto::Opset { domain: Some(domain.into()), version: Some(version) };
        let model = proto::Model {
            ir_version: Some(if self.opset > 20 { 10 } else { 9 }),
            producer_name: Some("nnz".into()),
            graph: Some(graph),
            opset_import: std::iter::once(opset("", self.opset)).chain(domains.iter().map(|d| opset(d, 1))).collect(),
            metadata_props: self
                .metadata
                .iter()
                .map(|(k, v)| proto::Pair { key: Some(k.clone()), value: Some(v.clone()) })
                .collect(),
        };
        model.encode_to_vec()
    }

    /// Number of all its floating-point weights.
    pub fn len(&self) -> usize {
        self.constants.values().filter(|c| c.is_float()).map(Constant::len).sum()
    }

    /// Whether it has no weights.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
