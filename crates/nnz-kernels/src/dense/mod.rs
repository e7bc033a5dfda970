//! Dense products. One micro-kernel ([`tile`]) serves matrices, convolutions and attention.

pub(crate) mod attention;
pub(crate) mod conv;
pub(crate) mod gemm;
pub(crate) mod max_pool;
pub(crate) mod scratch;
pub(crate) mod tile;

/// Runs `f` for every number below `n`, on all threads unless there is one or `small`.
pub(crate) fn each(n: usize, small: bool, f: &(dyn Fn(usize) + Sync)) {
    match small {
        true => (0..n).for_each(f),
        false => crate::threads::each(n, f),
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
