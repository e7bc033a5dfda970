//! Large pages. Kernels read lines of activations in the order of a topology; in pages of 4 KB most of them miss the first
//! translation cache, which costs a tenth of a step at low density.

use rayon::prelude::*;

/// Numbers worth a thread.
const PART: usize = 1 << 16;

/// As many zeros, in large pages where there may be, written first by all threads: the first write to a page takes as long as
/// many later ones.
pub(crate) fn zeros<N: Copy + Default + Send + Sync>(len: usize) -> Vec<N> {
    let mut all = Vec::with_capacity(len);
    if worth(len * size_of::<N>()) {
        ask(all.spare_capacity_mut());
    }
    if len < 2 * PART {
        all.resize(len, N::default());
    } else {
        rayon::iter::repeat_n(N::default(), len).with_min_len(PART).collect_into_vec(&mut all);
    }
    all
}

/// Bytes of a large page.
pub(crate) const LARGE: usize = 1 << 21;

/// Whether a buffer is long enough to begin with a large page. Half of one may stay empty.
pub(crate) fn worth(bytes: usize) -> bool {
    cfg!(all(target_os = "linux", not(miri))) && bytes >= LARGE / 2
}

/// Asks the system to back memory that nobody has written to yet by large pages. It may decline; only speed depends on
/// it.
pub(crate) fn ask<T>(memory: &mut [T]) {
    #[cfg(all(target_os = "linux", not(miri)))]
    {
        let (start, bytes) = (memory.as_mut_ptr().cast::<u8>(), size_of_val(memory));
        let skip = start.align_offset(LARGE);
        // Whole pages of any size; memory around them belongs to others too.
        let len = bytes.saturating_sub(skip) >> 16 << 16;
        if len >= LARGE / 2 {
            // SAFETY: the range lies in `memory`; the advice changes neither content nor access.
            unsafe { libc::madvise(start.add(skip).cast(), len, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(all(target_os = "linux", not(miri))))]
    let _ = memory;
}
