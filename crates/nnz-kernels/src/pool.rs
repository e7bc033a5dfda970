//! Buffers that are reused, so that a training step allocates nothing, and that begin with a cache line, so
//! that no register is loaded from two.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::shape::volume;
use crate::{Real, pages};

/// Shorter buffers are left to the allocator.
const SHORTEST: usize = 1024;
/// Bytes of a cache line.
const LINE: usize = 64;

/// Freed buffers of one type, waiting for a request of just their length. Together with the buffers in use they never
/// hold more than was in use at once before.
#[derive(Debug)]
pub struct Pool<T>(Mutex<State<T>>);

#[derive(Debug)]
struct State<T> {
    /// Oldest first.
    free: VecDeque<Vec<T>>,
    /// Numbers in `free`.
    kept: usize,
    /// Numbers in use.
    used: usize,
    /// Most numbers that were in use at once.
    peak: usize,
}

impl<T> State<T> {
    fn claim(&mut self, n: usize) {
        self.used += n;
        self.peak = self.peak.max(self.used);
        self.trim();
    }

    fn trim(&mut self) {
        while self.used + self.kept > self.peak {
            let Some(oldest) = self.free.pop_front() else { return };
            self.kept -= oldest.len();
        }
    }
}

impl<T: Real> Pool<T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(State { free: VecDeque::new(), kept: 0, used: 0, peak: 0 }))
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a vector of `n` numbers, counted as in use.
    fn take(&self, n: usize) -> Vec<T> {
        if n >= SHORTEST {
            let mut state = self.state();
            let found = state.free.iter().rposition(|b| b.len() == n).and_then(|at| state.free.remove(at));
            state.kept -= found.as_ref().map_or(0, Vec::len);
            state.claim(n);
            if let Some(buffer) = found {
                return buffer;
            }
        }
        let mut fresh = vec![T::ZERO; n];
        pages::ask(&mut fresh);
        fresh
    }

    /// Counts a vector that was allocated elsewhere and will be given to this pool.
    fn adopt(&self, n: usize) {
        if n >= SHORTEST {
            self.state().claim(n);
        }
    }

    /// Takes a vector back.
    fn give(&self, buffer: Vec<T>) {
        let n = buffer.len();
        if n < SHORTEST {
            return;
        }
        let mut state = self.state();
        state.used -= n;
        // One with spare capacity would hold more than is counted.
        if buffer.capacity() == n {
            state.kept += n;
            state.free.push_back(buffer);
            state.trim();
        }
    }
}

/// Numbers whose memory returns to the pool of their type.
#[derive(Debug)]
pub struct Buffer<T> {
    data: Vec<T>,
    /// Index of the first number.
    start: usize,
    len: usize,
    give: fn(Vec<T>),
}

impl<T: Real> Buffer<T> {
    /// Takes `n` numbers as their last user left them, beginning with a cache line.
    ///
    /// # Panics
    /// When no memory holds that many.
    pub fn any(n: usize) -> Self {
        Self::aligned(n, LINE)
    }

    /// As [`Buffer::any`] for numbers that are not read sequentially: in large pages if the system has them.
    pub(crate) fn scattered(n: usize) -> Self {
        Self::aligned(n, if pages::worth(n * size_of::<T>()) { pages::LARGE } else { LINE })
    }

    fn aligned(n: usize, to: usize) -> Self {
        let data = T::pool().take(volume([n]) + to / size_of::<T>() - 1);
        let start = data.as_ptr().align_offset(to).min(data.len() - n);
        Self { data, start, len: n, give: |data| T::pool().give(data) }
    }
}

impl<T: Real> From<Vec<T>> for Buffer<T> {
    fn from(data: Vec<T>) -> Self {
        T::pool().adopt(data.len());
        Self { start: 0, len: data.len(), data, give: |data| T::pool().give(data) }
    }
}

impl<T: Real> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        let mut copy = Self::any(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        (self.give)(std::mem::take(&mut self.data));
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.data[self.start..self.start + self.len]
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..self.start + self.len]
    }
}

impl<T: PartialEq> PartialEq for Buffer<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_no_more_than_was_used_at_once() {
        let pool = Pool::<f32>::new();
        let (a, b) = (pool.take(2000), pool.take(3000));
        let at = a.as_ptr();
        pool.give(a);
        let c = pool.take(2000);
        assert_eq!(c.as_ptr(), at, "the same buffer comes back");
        pool.give(c);
        pool.give(b);
        let held = |pool: &Pool<f32>| {
            let s = pool.state();
            (s.used, s.kept, s.free.iter().map(Vec::capacity).sum::<usize>())
        };
        assert_eq!(held(&pool), (0, 5000, 5000));
        let d = pool.take(4000);
        assert_eq!(held(&pool), (4000, 0, 0), "1000 kept would fit, but no buffer is as short");
        pool.give(d);
        pool.adopt(5000);
        assert_eq!(held(&pool), (5000, 0, 0));
        pool.give(vec![0.0; 5000]);
        assert_eq!(held(&pool), (0, 5000, 5000));
        pool.give(pool.take(10));
        assert_eq!(held(&pool), (0, 5000, 5000), "short ones are not kept");
    }

    #[test]
    fn begins_with_a_cache_line_and_holds_what_was_written() {
        for n in [0, 1, 100, 5000] {
            let mut a = Buffer::<f64>::any(n);
            assert_eq!((a.len(), a.as_ptr().align_offset(LINE)), (n, 0));
            a.fill(2.0);
            assert!(a.clone() == a && a == Buffer::from(vec![2.0; n]));
        }
    }
}
