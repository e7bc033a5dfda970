//! Dense products. One micro-kernel ([`tile`]) serves matrices, convolutions and attention.

pub(crate) mod attention;
pub(crate) mod conv;
pub(crate) mod gemm;
pub(crate) mod max_pool;
pub(crate) mod scratch;
pub(crate) mod tile;

/// Runs `f` for every number below `n`, on all threads unless there is one or `small`.
///
/// Not generic: rayon's machinery, a thousand lines, would be compiled for every function, and functions of [`elementwise`](crate::elementwise)
/// come from every crate. A call through a pointer is nothing beside a chunk of work.
pub(crate) fn each(n: usize, small: bool, f: &(dyn Fn(usize) + Sync)) {
    use rayon::prelude::*;
    if small || n <= 1 || crate::threads::alone() {
        (0..n).for_each(f);
    } else {
        (0..n).into_par_iter().with_max_len(1).for_each(f);
    }
}

/// Prefetches a cache line. Any address will do.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetching reads nothing and never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast())
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// A pointer that may cross threads.
#[derive(Clone, Copy)]
pub(crate) struct Raw<T>(*mut T);
// SAFETY: made only by kernels whose threads write disjoint places.
unsafe impl<T: Send> Send for Raw<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Raw<T> {}

impl<T> Raw<T> {
    pub fn of(slice: &[T]) -> Self {
        Self(slice.as_ptr().cast_mut())
    }

    pub fn of_mut(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr())
    }

    /// The pointer; a method, so that closures capture the whole struct.
    pub fn get(self) -> *mut T {
        self.0
    }
}
