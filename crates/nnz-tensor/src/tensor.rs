use crate::{Real, account};
use nnz_core::Array;
use nnz_kernels::{Buffer, elementwise};
use std::ops::Range;
use std::sync::Arc;

/// Values, and whether they count ([`account`]).
#[derive(Debug)]
struct Storage<T> {
    data: Buffer<T>,
    counts: bool,
}

impl<T> Storage<T> {
    fn new(data: Buffer<T>) -> Self {
        let counts = account::counts();
        if counts {
            account::add(size_of_val(&data[..]));
        }
        Self { data, counts }
    }
}

impl<T: Real> Clone for Storage<T> {
    fn clone(&self) -> Self {
        Self::new(self.data.clone())
    }
}

impl<T> Drop for Storage<T> {
    fn drop(&mut self) {
        if self.counts {
            account::subtract(size_of_val(&self.data[..]));
        }
    }
}

impl<T: PartialEq> PartialEq for Storage<T> {
    fn eq(&self, other: &Self) -> bool {
        self.data == other.data
    }
}

/// A contiguous row-major array. Cloning shares the buffer; writing copies it first when it is shared.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<T> {
    data: Arc<Storage<T>>,
    shape: Vec<usize>,
}

impl<T: Real> Tensor<T> {
    /// Takes values in row-major order.
    ///
    /// # Panics
    /// When their number does not match the shape.
    pub fn new(shape: &[usize], data: Vec<T>) -> Self {
        assert_eq!(data.len(), shape.iter().product::<usize>(), "values do not fill shape {shape:?}");
        Self { data: Arc::new(Storage::new(data.into())), shape: shape.to_vec() }
    }

    /// Allocates values to be overwritten: a buffer as its last user left it. `write` gets all of it.
    pub fn written(shape: &[usize], write: impl FnOnce(&mut [T])) -> Self {
        let mut data = Buffer::any(shape.iter().product());
        write(&mut data);
        Self { data: Arc::new(Storage::new(data)), shape: shape.to_vec() }
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
        self.data.data.len()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.data.data.is_empty()
    }

    /// The values.
    pub fn data(&self) -> &[T] {
        &self.data.data
    }

    /// The values, to write; copied first when another tensor shares them.
    pub fn data_mut(&mut self) -> &mut [T] {
        &mut Arc::make_mut(&mut self.data).data[..]
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
            Some(own) => elementwise::update_by(&mut own.data, other.data(), f),
            None => return self.zip(other, f),
        }
        self
    }

    /// Overwrites the values with `update` if nothing shares them; otherwise `write` makes new ones from them.
    pub fn rewrite(mut self, update: impl FnOnce(&mut [T]), write: impl FnOnce(&[T], &mut [T])) -> Self {
        match Arc::get_mut(&mut self.data) {
            Some(own) => update(&mut own.data),
            None => return Self::written(&self.shape, |to| write(self.data(), to)),
        }
        self
    }

    /// The same values, which count from now on; see [`account::hidden`].
    pub fn counted(mut self) -> Self {
        if let Some(own) = Arc::get_mut(&mut self.data).filter(|own| !own.counts) {
            own.counts = true;
            account::add(size_of_val(&own.data[..]));
        }
        self
    }
}

impl<T: Real> Array for Tensor<T> {
    fn dims(&self) -> &[usize] {
        &self.shape
    }

    fn get(&self, range: Range<usize>) -> Vec<f64> {
        self.data()[range].iter().map(|v| v.f64()).collect()
    }

    fn set(&mut self, at: usize, values: &[f64]) {
        self.data_mut()[at..at + values.len()].iter_mut().zip(values).for_each(|(to, &v)| *to = T::of(v));
    }

    fn reset(&mut self, dims: &[usize]) {
        *self = Self::zeros(dims);
    }
}
