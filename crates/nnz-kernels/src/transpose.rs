//! Transposing strided matrices.

use crate::Real;
use crate::shape::extent;
use crate::simd::{Isa, Kernel, Vector};

/// `to[j * to_stride + i] = from[i * from_stride + j]` for i < rows, j < cols.
pub(crate) fn transpose<T: Real>(
    isa: Isa,
    rows: usize,
    cols: usize,
    (from, from_stride): (&[T], usize),
    (to, to_stride): (&mut [T], usize),
) {
    if rows == 0 || cols == 0 {
        return;
    }
    assert!(cols <= from_stride && rows <= to_stride, "rows overlap");
    assert!(
        extent(rows, cols, from_stride, 1) <= from.len() && extent(cols, rows, to_stride, 1) <= to.len(),
        "extents"
    );
    // Squares of eight serve a batch of eight.
    let isa = if rows.min(cols) < 16 { isa.dividing::<T>(8) } else { isa };
    // SAFETY: extents were just checked.
    unsafe { isa.run(Transpose { rows, cols, from, from_stride, to, to_stride }) }
}

struct Transpose<'a, T> {
    rows: usize,
    cols: usize,
    from: &'a [T],
    from_stride: usize,
    to: &'a mut [T],
    to_stride: usize,
}

impl<T: Real> Kernel<T> for Transpose<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        let Self { rows, cols, from, from_stride, to, to_stride } = self;
        let whole = |n: usize| n / V::LANES * V::LANES;
        for i in (0..whole(rows)).step_by(V::LANES) {
            for j in (0..whole(cols)).step_by(V::LANES) {
                // SAFETY: the square lies in both matrices.
                unsafe {
                    let to = to.as_mut_ptr().add(j * to_stride + i);
                    V::transpose(from.as_ptr().add(i * from_stride + j), from_stride, to, to_stride);
                }
            }
        }
        for i in 0..rows {
            for j in if i < whole(rows) { whole(cols)..cols } else { 0..cols } {
                to[j * to_stride + i] = from[i * from_stride + j];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    fn check<T: Real>() {
        for &isa in Isa::available() {
            for (rows, cols) in [(0, 3), (1, 1), (5, 16), (16, 16), (33, 47), (64, 20)] {
                let (from_stride, to_stride) = (cols + 3, rows + 2);
                let from: Vec<T> = random(1, (rows + 1) * from_stride);
                let mut to = vec![T::nan(); (cols + 1) * to_stride];
                transpose(isa, rows, cols, (&from, from_stride), (&mut to, to_stride));
                for (k, v) in to.iter().enumerate() {
                    let (j, i) = (k / to_stride, k % to_stride);
                    if i < rows && j < cols {
                        assert_eq!(*v, from[i * from_stride + j], "{isa:?} [{rows}, {cols}] at [{i}, {j}]");
                    } else {
                        assert!(v.is_nan(), "{isa:?} [{rows}, {cols}] wrote [{i}, {j}]");
                    }
                }
            }
        }
    }

    #[test]
    fn every_element_once_and_nothing_else() {
        check::<f32>();
        check::<f64>();
    }
}
