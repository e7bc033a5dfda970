//! Buffers that are used again, so that a training step asks the system for nothing.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::Real;

/// Shorter buffers are left to the allocator.
const SHORTEST: usize = 1024;

/// Freed buffers of one type, waiting for a request of their very length. Together with the buffers in use they never
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

    fn state(&self) -> std::sync::MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of `n` numbers, whatever was in it before. Give it back with [`Pool::give`].
    pub fn take(&self, n: usize) -> Vec<T> {
        if n >= SHORTEST {
            let mut state = self.state();
            let found = state.free.iter().rposition(|b| b.len() == n).and_then(|at| state.free.remove(at));
            state.kept -= found.as_ref().map_or(0, Vec::len);
            state.claim(n);
            if let Some(buffer) = found {
                return buffer;
            }
        }
        vec![T::ZERO; n]
    }

    /// Counts a buffer that came from elsewhere and will be given to this pool.
    pub fn adopt(&self, buffer: &Vec<T>) {
        if buffer.len() >= SHORTEST {
            self.state().claim(buffer.len());
        }
    }

    /// Counts a buffer as gone that was taken or adopted and will not be given back.
    pub fn release(&self, buffer: &Vec<T>) {
        if buffer.len() >= SHORTEST {
            self.state().used -= buffer.len();
        }
    }

    /// Takes a buffer back.
    pub fn give(&self, buffer: Vec<T>) {
        let n = buffer.len();
        if n < SHORTEST {
            return;
        }
        let mut state = self.state();
        state.used -= n;
        // A buffer with room to spare would hold more than is counted.
        if buffer.capacity() == n {
            state.kept += n;
            state.free.push_back(buffer);
            state.trim();
        }
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
        let foreign = vec![0.0; 5000];
        pool.adopt(&foreign);
        assert_eq!(held(&pool), (5000, 0, 0));
        pool.release(&foreign);
        assert_eq!(held(&pool), (0, 0, 0));
        pool.give(pool.take(10));
        assert_eq!(held(&pool), (0, 0, 0), "short ones are not kept");
    }
}
