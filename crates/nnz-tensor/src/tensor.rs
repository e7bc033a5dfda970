use crate::Real;
use nnz_kernels::{Buffer, elementwise};
use std::sync::Arc;

/// A contiguous row-major array. Cloning shares the buffer; writing copies it first when it is shared.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<T> {
    data: Arc<Buffer<T>>,
    shape: Vec<usize>,
}

impl<T: Real> Tensor<T> {
    /// Takes values in row-major order.
    ///
    /// # Panics
    /// When their number does not match the shape.
    pub fn new(shape: &[usize], data: Vec<T>) -> Self {
        assert_eq!(data.len(), shape.iter().product::<usize>(), "values do not fill shape {shape:?}");
        Self { data: Arc::new(data.into()), shape: shape.to_vec() }
    }

    /// Allocates values to be overwritten: a buffer as its last user left it. `write` gets all of it.
    pub fn written(shape: &[usize], write: impl FnOnce(&mut [T])) -> Self {
        let mut data = Buffer::any(shape.iter().product());
        write(&mut data);
        Self { data: Arc::new(data), shape: shape.to_vec() }
    }

    /// The same value everywhere.
    pub fn full(shape: &[usize], value: T) -> Self {
        Self::written(shape, |data| data.fill(value))
    }

    /// Zero everywhere.
    pub fn zeros(shape: &[usize]) -> Self {
        Self::full(shape, T::ZERO)
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The values.
    pub fn data(&self) -> &[T] {
        &self.data
    }

    /// The values, to write; copied first when another tensor shares them.
    pub fn data_mut(&mut self) -> &mut [T] {
        &mut Arc::<Buffer<T>>::make_mut(&mut self.data)[..]
    }

    /// Changes the shape, keeping the values.
    ///
    /// # Panics
    /// When the number of values differs.
    pub fn reshape(mut self, shape: &[usize]) -> Self {
        assert_eq!(self.len(), shape.iter().product::<usize>(), "{:?} does not reshape to {shape:?}", self.shape);
        self.shape = shape.to_vec();
        self
    }

    /// Extents as a matrix: everything but the last axis folded into rows.
    pub fn rows_cols(&self) -> (usize, usize) {
        let cols = self.shape.last().copied().unwrap_or(1);
        (self.len().checked_div(cols).unwrap_or(0), cols)
    }

    /// Applies `f` to every value.
    pub fn map(&self, f: impl Fn(T) -> T + Copy + Sync + Send) -> Self {
        Self::written(&self.shape, |to| elementwise::map(self.data(), to, f))
    }

    /// Applies `f` to every pair of values.
    ///
    /// # Panics
    /// When the shapes differ.
    pub fn zip(&self, other: &Self, f: impl Fn(T, T) -> T + Copy + Sync + Send) -> Self {
        assert_eq!(self.shape, other.shape, "shapes differ");
        Self::written(&self.shape, |to| elementwise::zip(self.data(), other.data(), to, f))
    }

    /// Applies `f` to every pair of values, in place if nothing shares these.
    ///
    /// # Panics
    /// When the shapes differ.
    pub fn combine(mut self, other: &Self, f: impl Fn(T, T) -> T + Copy + Sync + Send) -> Self {
        assert_eq!(self.shape, other.shape, "shapes differ");
        match Arc::get_mut(&mut self.data) {
            Some(own) => elementwise::update_by(own, other.data(), f),
            None => return self.zip(other, f),
        }
        self
    }

    /// Overwrites the values with `update` if nothing shares them; otherwise `write` makes new ones from them.
    pub fn rewrite(mut self, update: impl FnOnce(&mut [T]), write: impl FnOnce(&[T], &mut [T])) -> Self {
        match Arc::get_mut(&mut self.data) {
            Some(own) => update(own),
            None => return Self::written(&self.shape, |to| write(&self.data, to)),
        }
        self
    }
}
