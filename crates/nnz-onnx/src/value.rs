//! Values between nodes.

use crate::graph::DType;
use crate::ops::types;
use nnz_engine::Tensor;
use std::sync::Arc;

/// Integers or Booleans, row-major. Cloning shares.
#[derive(Clone, Debug, PartialEq)]
pub struct Array<T> {
    shape: Vec<usize>,
    data: Arc<Vec<T>>,
    /// The type that integers of another width than theirs stand for.
    narrow: Option<DType>,
}

impl<T: Copy> Array<T> {
    /// Makes an array from values in row-major order.
    ///
    /// # Panics
    /// When their number does not match the shape.
    pub fn new(shape: &[usize], data: Vec<T>) -> Self {
        assert_eq!(data.len(), shape.iter().product::<usize>(), "values do not fill shape {shape:?}");
        Self { shape: shape.to_vec(), data: Arc::new(data), narrow: None }
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values.
    pub fn data(&self) -> &[T] {
        &self.data
    }

    /// The type that they stand for.
    pub(crate) fn kind(&self) -> DType {
        self.narrow.unwrap_or(DType::I64)
    }

    pub(crate) fn reshape(mut self, shape: &[usize]) -> Self {
        assert_eq!(self.data.len(), shape.iter().product::<usize>());
        self.shape = shape.to_vec();
        self
    }
}

/// 32-bit floats. Images may be stored with channels last, as the kernels want them, under the shape of ONNX, which
/// has channels second.
#[derive(Clone, Debug, PartialEq)]
pub struct Floats {
    /// The tensor in memory order.
    tensor: Tensor<f32>,
    /// Whether axis 1 is stored last.
    last: bool,
    /// The type that they are rounded to, if not that of 32 bits.
    narrow: Option<DType>,
}

impl Floats {
    /// Wraps a row-major tensor.
    pub fn new(tensor: Tensor<f32>) -> Self {
        Self { tensor, last: false, narrow: None }
    }

    /// Wraps `[batch, positions.., channels]` that stands for `[batch, channels, positions..]`.
    pub(crate) fn channels_last(tensor: Tensor<f32>) -> Self {
        Self { tensor, last: true, narrow: None }
    }

    /// Extents in ONNX's order.
    pub fn shape(&self) -> Vec<usize> {
        let mut shape = self.tensor.shape().to_vec();
        if self.last {
            shape[1..].rotate_right(1);
        }
        shape
    }

    /// The type that they are rounded to.
    pub(crate) fn kind(&self) -> DType {
        self.narrow.unwrap_or(DType::F32)
    }

    /// Whether channels are stored last.
    pub(crate) fn is_last(&self) -> bool {
        self.last
    }

    /// The numbers in memory order.
    pub(crate) fn raw(self) -> Tensor<f32> {
        self.tensor
    }

    pub(crate) fn raw_ref(&self) -> &Tensor<f32> {
        &self.tensor
    }

    /// Wraps another tensor in the same layout.
    pub(crate) fn like(tensor: Tensor<f32>, last: bool) -> Self {
        Self { tensor, last, narrow: None }
    }

    /// Converts to row-major.
    pub fn rows(self) -> Tensor<f32> {
        if !self.last {
            return self.tensor;
        }
        let shape = self.shape();
        let (channels, places) = (shape[1], shape[2..].iter().product());
        let tensor = transposed(&self.tensor, shape[0], places, channels);
        tensor.reshape(&shape)
    }

    /// Converts to channels last, `[batch, positions.., channels]`, at least three axes.
    pub(crate) fn last(self) -> Tensor<f32> {
        if self.last {
            return self.tensor;
        }
        let mut shape = self.shape();
        let (channels, places) = (shape[1], shape[2..].iter().product());
        let tensor = transposed(&self.tensor, shape[0], channels, places);
        shape[1..].rotate_left(1);
        tensor.reshape(&shape)
    }
}

/// Transposes `[batch, rows, cols]` to `[batch, cols, rows]`.
fn transposed(x: &Tensor<f32>, batch: usize, rows: usize, cols: usize) -> Tensor<f32> {
    if rows == 1 || cols == 1 || x.is_empty() {
        return x.clone();
    }
    Tensor::written(&[batch * rows * cols], |to| {
        for (from, to) in x.data().chunks_exact(rows * cols).zip(to.chunks_exact_mut(rows * cols)) {
            turn(from, rows, cols, to);
        }
    })
}

/// Transposes `[rows, cols]` to `[cols, rows]`, in squares that stay in the cache.
pub(crate) fn turn<T: Copy>(from: &[T], rows: usize, cols: usize, to: &mut [T]) {
    const SIDE: usize = 16;
    for r0 in (0..rows).step_by(SIDE) {
        for c0 in (0..cols).step_by(SIDE) {
            for r in r0..rows.min(r0 + SIDE) {
                for c in c0..cols.min(c0 + SIDE) {
                    to[c * rows + r] = from[r * cols + c];
                }
            }
        }
    }
}

/// A value of a graph. Floats are held in 32 bits, integers other than those of 8 bits in 64, with the type that they stand for:
/// results are rounded to it, or wrapped.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Floats.
    Float(Floats),
    /// Integers.
    Int(Array<i64>),
    /// Integers from 0 to 255.
    Byte(Array<u8>),
    /// Integers from -128 to 127.
    Small(Array<i8>),
    /// Booleans.
    Bool(Array<bool>),
    /// A sequence; an optional value is a sequence of none or one.
    List(Vec<Value>),
}

/// Applies the same to every kind of value: `$f` maps numbers and their shape to new ones; floats come row-major.
macro_rules! each {
    ($value:expr, |$data:ident, $shape:ident| $f:expr) => {
        match $value {
            Value::Float(f) => {
                let t = f.rows();
                let ($data, $shape) = (t.data(), t.shape());
                let (shape, data) = $f;
                Value::floats(&shape, data)
            }
            Value::Int(a) => crate::value::each!(@array Int a, $data, $shape, $f),
            Value::Byte(a) => crate::value::each!(@array Byte a, $data, $shape, $f),
            Value::Small(a) => crate::value::each!(@array Small a, $data, $shape, $f),
            Value::Bool(a) => crate::value::each!(@array Bool a, $data, $shape, $f),
            Value::List(_) => return Err("a sequence where an array is needed".into()),
        }
    };
    (@array $kind:ident $a:ident, $data:ident, $shape:ident, $f:expr) => {{
        let ($data, $shape) = ($a.data(), $a.shape());
        let (shape, data) = $f;
        Value::$kind(crate::value::Array::new(&shape, data))
    }};
}
pub(crate) use each;

impl Value {
    /// Makes floats from numbers in row-major order.
    ///
    /// # Panics
    /// When their number does not match the shape.
    pub fn floats(shape: &[usize], data: Vec<f32>) -> Self {
        Self::Float(Floats::new(Tensor::new(shape, data)))
    }

    /// Makes integers from numbers in row-major order.
    ///
    /// # Panics
    /// When their number does not match the shape.
    pub fn ints(shape: &[usize], data: Vec<i64>) -> Self {
        Self::Int(Array::new(shape, data))
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Float(f) => f.shape(),
            Self::Int(a) => a.shape.clone(),
            Self::Byte(a) => a.shape.clone(),
            Self::Small(a) => a.shape.clone(),
            Self::Bool(a) => a.shape.clone(),
            Self::List(l) => vec![l.len()],
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Float(f) => f.tensor.len(),
            Self::Int(a) => a.data.len(),
            Self::Byte(a) => a.data.len(),
            Self::Small(a) => a.data.len(),
            Self::Bool(a) => a.data.len(),
            Self::List(l) => l.iter().map(Self::len).sum::<usize>() + l.len(),
        }
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its type, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Float(_) => "floats",
            Self::Int(_) => "whole numbers",
            Self::Byte(_) => "8-bit numbers",
            Self::Small(_) => "signed 8-bit numbers",
            Self::Bool(_) => "truth values",
            Self::List(_) => "sequences",
        }
    }

    pub(crate) fn reshape(self, shape: &[usize]) -> Self {
        match self {
            Self::Float(f) => {
                let narrow = f.narrow;
                Self::Float(Floats { tensor: f.rows().reshape(shape), last: false, narrow })
            }
            Self::Int(a) => Self::Int(a.reshape(shape)),
            Self::Byte(a) => Self::Byte(a.reshape(shape)),
            Self::Small(a) => Self::Small(a.reshape(shape)),
            Self::Bool(a) => Self::Bool(a.reshape(shape)),
            Self::List(_) => self,
        }
    }

    /// Its number type; that of a sequence is that of its first value.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Float(f) => f.narrow.unwrap_or(DType::F32),
            Self::Int(a) => a.narrow.unwrap_or(DType::I64),
            Self::Byte(_) => DType::U8,
            Self::Small(_) => DType::I8,
            Self::Bool(_) => DType::Bool,
            // Sequences are not nested.
            Self::List(l) => match l.first() {
                Some(Self::List(_)) | None => DType::F32,
                Some(v) => v.dtype(),
            },
        }
    }

    /// The same numbers as a type of the same sort, floats or integers: rounded or wrapped to it.
    #[must_use]
    pub fn of(self, kind: DType) -> Self {
        match self {
            Self::Float(f) if kind.is_float() && f.narrow.unwrap_or(DType::F32) != kind => {
                let (last, mut tensor) = (f.last, f.tensor);
                if let Some(round) = types::rounding(kind) {
                    tensor = tensor.rewrite(
                        |own| own.iter_mut().for_each(|v| *v = round(*v)),
                        |from, to| to.iter_mut().zip(from).for_each(|(to, &v)| *to = round(v)),
                    );
                }
                Self::Float(Floats { tensor, last, narrow: (kind != DType::F32).then_some(kind) })
            }
            Self::Int(a) => match kind {
                DType::U8 => Self::Byte(Array::new(&a.shape, a.data.iter().map(|&v| v as u8).collect())),
                DType::I8 => Self::Small(Array::new(&a.shape, a.data.iter().map(|&v| v as i8).collect())),
                kind if kind.is_float() || kind == DType::Bool => Self::Int(a),
                kind => {
                    let narrow = (kind != DType::I64).then_some(kind);
                    let fits = kind.bits() == 64 || a.data.iter().all(|&v| types::wrap(v, kind) == v);
                    let data = match fits {
                        true => a.data,
                        false => Arc::new(a.data.iter().map(|&v| types::wrap(v, kind)).collect()),
                    };
                    Self::Int(Array { shape: a.shape, data, narrow })
                }
            },
            other => other,
        }
    }

    /// Integers of 8 bits as those of 64, so that arithmetic is written once.
    pub(crate) fn widened(self) -> Self {
        let (shape, kind) = (self.shape(), self.dtype());
        let data = match self {
            Self::Byte(a) => a.data.iter().map(|&v| i64::from(v)).collect(),
            Self::Small(a) => a.data.iter().map(|&v| i64::from(v)).collect(),
            other => return other,
        };
        Self::Int(Array { shape, data: Arc::new(data), narrow: Some(kind) })
    }

    /// Its numbers in 64-bit floats, row-major.
    pub fn numbers(&self) -> Vec<f64> {
        match self.clone() {
            Self::Float(f) => f.rows().data().iter().map(|&v| f64::from(v)).collect(),
            Self::Int(a) if a.narrow == Some(DType::U64) => a.data.iter().map(|&v| v as u64 as f64).collect(),
            Self::Int(a) => a.data.iter().map(|&v| v as f64).collect(),
            Self::Byte(a) => a.data.iter().map(|&v| f64::from(v)).collect(),
            Self::Small(a) => a.data.iter().map(|&v| f64::from(v)).collect(),
            Self::Bool(a) => a.data.iter().map(|&v| f64::from(u8::from(v))).collect(),
            Self::List(l) => l.iter().filter(|v| !matches!(v, Self::List(_))).flat_map(Self::numbers).collect(),
        }
    }

    /// Row-major floats, if it holds floats.
    pub fn into_floats(self) -> Option<Tensor<f32>> {
        match self {
            Self::Float(f) => Some(f.rows()),
            _ => None,
        }
    }
}
