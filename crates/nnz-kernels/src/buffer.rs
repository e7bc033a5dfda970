//! Aligned memory that is used again.

use std::ops::{Deref, DerefMut};

use crate::Real;

/// Bytes of a cache line. No register of an aligned row straddles two of them, which would halve the speed of loads.
const LINE: usize = 64;

/// Numbers at the start of a cache line, from the pool of their type.
#[derive(Debug)]
pub(crate) struct Buffer<T: Real> {
    data: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Real> Buffer<T> {
    /// Zeros.
    pub fn zeros(len: usize) -> Self {
        let mut buffer = Self::any(len);
        buffer.fill(T::ZERO);
        buffer
    }

    /// Whatever was there before.
    pub fn any(len: usize) -> Self {
        let data = T::pool().take(len + LINE / size_of::<T>());
        let start = data.as_ptr().align_offset(LINE);
        Self { data, start, len }
    }
}

impl<T: Real> Drop for Buffer<T> {
    fn drop(&mut self) {
        T::pool().give(std::mem::take(&mut self.data));
    }
}

impl<T: Real> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        let mut copy = Self::any(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl<T: Real> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.data[self.start..self.start + self.len]
    }
}

impl<T: Real> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_and_zero_when_asked() {
        for len in [0, 1, 100, 2_000, 100_003] {
            let mut a = Buffer::<f32>::any(len);
            assert_eq!((a.as_ptr() as usize % LINE, a.len()), (0, len));
            a.fill(7.0);
            let copy = a.clone();
            drop(a);
            assert!(Buffer::<f32>::zeros(len).iter().all(|&v| v == 0.0));
            assert!(copy.len() == len && copy.iter().all(|&v| v == 7.0) && copy.as_ptr() as usize % LINE == 0);
        }
    }
}
