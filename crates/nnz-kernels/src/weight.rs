//! Common parts of the formats for single samples: values exact or in eight bits, and shape checks.

use crate::shape::volume;
use crate::simd::Vector;
use crate::{Csr, Real};

#[derive(Clone, Debug)]
pub(crate) enum Values<T> {
    Exact(Vec<T>),
    /// Whole numbers, and their unit in each row.
    Bytes(Vec<i8>, Vec<T>),
}

impl<T: Real> Values<T> {
    /// Values in the order of `source`.
    pub fn exact(values: &[T], source: &[usize]) -> Self {
        Self::Exact(source.iter().map(|&e| values[e]).collect())
    }

    /// Values in the order of `source`, each one of 255 multiples of a 127th of the largest of its row.
    pub fn rounded(csr: Csr, values: &[T], source: &[usize]) -> Self {
        let mut bytes = vec![0; values.len()];
        let mut steps = Vec::with_capacity(csr.rows);
        for row in csr.starts.windows(2).map(|w| w[0]..w[1]) {
            let step = values[row.clone()].iter().fold(0.0f64, |a, v| a.max(v.f64().abs())) / 127.0;
            let round = |v: T| if step > 0.0 { (v.f64() / step).round() as i8 } else { 0 };
            bytes[row.clone()].iter_mut().zip(&values[row]).for_each(|(b, v)| *b = round(*v));
            steps.push(T::of(step));
        }
        Self::Bytes(source.iter().map(|&e| bytes[e]).collect(), steps)
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Exact(v) => v.len(),
            Self::Bytes(v, _) => v.len(),
        }
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Exact(v) => size_of_val(&v[..]),
            Self::Bytes(v, steps) => v.len() + size_of_val(&steps[..]),
        }
    }

    /// A row's sum in the units of its values.
    pub fn scaled(&self, row: usize, sum: T) -> T {
        match self {
            Self::Exact(_) => sum,
            Self::Bytes(_, steps) => sum * steps[row],
        }
    }
}

/// Fewest entries worth handing to another thread.
pub(crate) const PARALLEL: usize = 1 << 16;

/// Panics if a slice of a frozen layer does not have its shape.
pub(crate) fn fits<T>(batch: usize, [rows, cols]: [usize; 2], x: &[T], bias: Option<&[T]>, y: &[T]) {
    assert_eq!(x.len(), volume([batch, cols]), "x of [{batch}, {cols}]");
    assert_eq!(y.len(), volume([batch, rows]), "y of [{batch}, {rows}]");
    assert!(bias.is_none_or(|b| b.len() == rows), "bias");
}

/// A value as it is stored.
pub(crate) trait Weight<T: Real>: Copy + Send + Sync {
    fn number(self) -> T;
    /// # Safety
    /// As [`Vector::load`].
    unsafe fn load<V: Vector<T = T>>(p: *const Self) -> V;
}

impl<T: Real> Weight<T> for T {
    #[inline(always)]
    fn number(self) -> T {
        self
    }

    #[inline(always)]
    unsafe fn load<V: Vector<T = T>>(p: *const T) -> V {
        // SAFETY: passed on.
        unsafe { V::load(p) }
    }
}

impl<T: Real> Weight<T> for i8 {
    #[inline(always)]
    fn number(self) -> T {
        T::of(f64::from(self))
    }

    #[inline(always)]
    unsafe fn load<V: Vector<T = T>>(p: *const i8) -> V {
        // SAFETY: passed on.
        unsafe { V::load_bytes(p) }
    }
}
