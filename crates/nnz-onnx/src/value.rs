//! Values between nodes.

use nnz_engine::Tensor;
use std::sync::Arc;

/// Integers or Booleans, row-major. Cloning shares.
#[derive(Clone, Debug, PartialEq)]
pub struct Array<T> {
    shape: Vec<usize>,
    data: Arc<Vec<T>>,
}

impl<T: Copy> Array<T> {
    /// Makes an array from values in row-major order.
    ///
    /// # Panics
    /// When their number does not match the shape.
    pub fn new(shape: &[usize], data: Vec<T>) -> Self {
        assert_eq!(data.len(), shape.iter().product::<usize>(), "values do not fill shape {shape:?}");
        Self { shape: shape.to_vec(), data: Arc::new(data) }
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values.
    pub fn data(&self) -> &[T] {
        &self.data
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
}

impl Floats {
    /// Wraps a row-major tensor.
    pub fn new(tensor: Tensor<f32>) -> Self {
        Self { tensor, last: false }
    }

    /// Wraps `[batch, positions.., channels]` that stands for `[batch, channels, positions..]`.
    pub(crate) fn channels_last(tensor: Tensor<f32>) -> Self {
        Self { tensor, last: true }
    }

    /// Extents in ONNX's order.
    pub fn shape(&self) -> Vec<usize> {
        let mut shape = self.tensor.shape().to_vec();
        if self.last {
            shape[1..].rotate_right(1);
        }
        shape
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
        Self { tensor, last }
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

/// A value of a graph. Floats of 16 and 64 bits are held in 32, integers of 16 to 64 bits in 64.
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
        }
    };
    (@array $kind:ident $a:ident, $data:ident, $shape:ident, $f:expr) => {{
        let ($data, $shape) = ($a.data(), $a.shape());
        let (shape, data) = $f;
        Value::$kind(Array::new(&shape, data))
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
        }
    }

    pub(crate) fn reshape(self, shape: &[usize]) -> Self {
        match self {
            Self::Float(f) => Self::Float(Floats::new(f.rows().reshape(shape))),
            Self::Int(a) => Self::Int(a.reshape(shape)),
            Self::Byte(a) => Self::Byte(a.reshape(shape)),
            Self::Small(a) => Self::Small(a.reshape(shape)),
            Self::Bool(a) => Self::Bool(a.reshape(shape)),
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
