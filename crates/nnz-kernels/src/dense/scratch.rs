//! Per-thread memory that kernels reuse: aligned to cache lines, with arbitrary content.

use std::cell::RefCell;

use crate::Real;
use crate::shape::volume;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [u8; 64]);

thread_local! { static MEMORY: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) }; }

/// Largest scratch a thread keeps, in lines: 16 MB.
const KEPT: usize = 1 << 18;

/// Calls `f` with `n` numbers of any value. Nested calls get separate memory.
pub(crate) fn scratch<T: Real, R>(n: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    let lines = volume([n, size_of::<T>()]).div_ceil(64);
    let mut memory = MEMORY.with_borrow_mut(Vec::pop).unwrap_or_default();
    if memory.len() < lines {
        memory = vec![Line([0; 64]); lines];
    }
    // SAFETY: `memory` holds at least `n` numbers' bytes, aligned to 64; every pattern of bits is a number.
    let slice = unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast::<T>(), n) };
    let result = f(slice);
    if memory.len() <= KEPT {
        MEMORY.with_borrow_mut(|stack| stack.push(memory));
    }
    result
}
