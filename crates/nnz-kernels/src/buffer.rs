//! Aligned memory that is used again.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use crate::Real;

/// A cache line. No register of an aligned row straddles two of them, which would halve the speed of loads.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
struct Line([u64; 8]);

/// Numbers at the start of a cache line. Dropping one keeps its memory for the next of the same length: a training step
/// asks for the same buffers again and again, and fresh pages cost more than the arithmetic of a narrow layer.
#[derive(Debug)]
pub(crate) struct Buffer<T> {
    lines: Vec<Line>,
    len: usize,
    number: PhantomData<T>,
}

/// Most bytes kept for later.
const KEPT: usize = 128 << 20;

/// Free memory by number of lines.
struct Pool {
    bytes: usize,
    free: BTreeMap<usize, Vec<Vec<Line>>>,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { bytes: 0, free: BTreeMap::new() });

impl<T: Real> Buffer<T> {
    /// Zeros.
    pub fn zeros(len: usize) -> Self {
        let mut buffer = Self::any(len);
        buffer.fill(T::ZERO);
        buffer
    }

    /// Whatever was there before.
    pub fn any(len: usize) -> Self {
        let count = (len * size_of::<T>()).div_ceil(size_of::<Line>());
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let found = pool.free.get_mut(&count).and_then(Vec::pop);
        if found.is_some() {
            pool.bytes -= count * size_of::<Line>();
        }
        drop(pool);
        Self { lines: found.unwrap_or_else(|| vec![Line::default(); count]), len, number: PhantomData }
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        let bytes = lines.len() * size_of::<Line>();
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes > 0 && pool.bytes + bytes <= KEPT {
            pool.bytes += bytes;
            pool.free.entry(lines.len()).or_default().push(lines);
        }
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
        // SAFETY: the lines hold `len` numbers at least, are initialized, and any bits are a number of a `Real`, which is
        // sealed to f32 and f64.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Real> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; any number is valid bits of a line.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_aligned_and_zeroed_when_asked() {
        // A length no other test uses.
        let mut a = Buffer::<f32>::zeros(100_003);
        a.fill(7.0);
        let at = a.as_ptr();
        assert_eq!(at as usize % 64, 0);
        let copy = a.clone();
        drop(a);
        let b = Buffer::<f32>::zeros(100_003);
        assert_eq!(b.as_ptr(), at);
        assert!(b.iter().all(|&v| v == 0.0) && copy.iter().all(|&v| v == 7.0));
        assert!(Buffer::<f64>::zeros(0).is_empty());
    }
}
