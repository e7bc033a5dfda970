//! Sizes of shapes. An unchecked product wraps in a release build, and the memory would be smaller than its shape says.

/// More numbers than any memory holds, but few enough that a sum of some offsets, in bytes, never wraps.
const MOST: usize = isize::MAX as usize >> if usize::BITS == 64 { 15 } else { 4 };

/// Number of elements of a shape.
///
/// # Panics
/// When there are more than any memory holds. An extent of zero does not hide that: parts of the shape are sizes, too.
#[track_caller]
pub(crate) fn volume<const N: usize>(extents: [usize; N]) -> usize {
    let all = extents.iter().try_fold(1usize, |all, &n| all.checked_mul(n.max(1)).filter(|&all| all <= MOST));
    assert!(all.is_some(), "a shape of {extents:?} numbers does not fit any memory");
    if extents.contains(&0) { 0 } else { all.unwrap_or(0) }
}

/// Multiply-adds of some work, saturating: only for comparisons.
pub(crate) fn work<const N: usize>(extents: [usize; N]) -> usize {
    extents.into_iter().fold(1, usize::saturating_mul)
}

/// One past the last number of `[m, n]` with strides, saturating.
pub(crate) fn extent(m: usize, n: usize, rs: usize, cs: usize) -> usize {
    if m == 0 || n == 0 {
        return 0;
    }
    (m - 1).saturating_mul(rs).saturating_add((n - 1).saturating_mul(cs)).saturating_add(1)
}

/// Panics unless a number of entries fits the 31 bits of a gather index.
#[track_caller]
pub(crate) fn gatherable(what: &str, n: usize) {
    assert!(i32::try_from(n).is_ok(), "{n} {what} in one layer; fewer than 2^31 are possible");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_checked_whatever_hides_them() {
        assert_eq!((volume([2, 3, 4]), volume([]), volume([5, 0])), (24, 1, 0));
        for wraps in [[1 << 62, 4], [usize::MAX, 1], [1 << 40, 1 << 40], [(1 << 63) + 1, 2]] {
            assert!(std::panic::catch_unwind(|| volume(wraps)).is_err(), "{wraps:?}");
            let [a, b] = wraps;
            assert!(std::panic::catch_unwind(|| volume([0, a, b])).is_err(), "{wraps:?} behind a zero");
        }
        gatherable("entries", (1 << 31) - 1);
        assert!(std::panic::catch_unwind(|| gatherable("entries", 1 << 31)).is_err());
        assert_eq!(work([1 << 40, 1 << 40]), usize::MAX);
        assert_eq!((extent(2, 3, 10, 1), extent(2, 3, usize::MAX, 1), extent(0, 3, 9, 9)), (13, usize::MAX, 0));
    }
}
