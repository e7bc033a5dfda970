//! The forward kernel on blocks: input block in the first-level cache, sums of a line in registers.

use crate::Real;
use crate::blocks::Part;
use crate::simd::{Kernel, Vector};

/// `y[line] += sum of values[k] x[index[k]]` over the entries of one part, on one tile.
///
/// The part must come from [`crate::blocks::cut`] with lines and inner indices within `y` and `x`.
pub(crate) struct Forward<'a, T> {
    pub part: &'a Part,
    /// Values of the part, in block order.
    pub values: &'a [T],
    /// `[inner, width]`
    pub x: &'a [T],
    pub width: usize,
    pub bias: Option<&'a [T]>,
    /// Whether what is below zero becomes zero.
    pub relu: bool,
    /// `[lines of the part, width]`
    pub y: &'a mut [T],
}

impl<T: Real> Kernel<T> for Forward<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(mut self) {
        for (i, y) in self.y.chunks_exact_mut(self.width).enumerate() {
            y.fill(self.bias.map_or(T::ZERO, |b| b[i]));
        }
        // SAFETY: passed on from the caller; every strip of N registers divides the width, a multiple of 16.
        unsafe {
            match self.width / V::LANES {
                1 => self.strips::<V, 1>(),
                2 => self.strips::<V, 2>(),
                3 | 6 => self.strips::<V, 3>(),
                _ => self.strips::<V, 4>(),
            }
        }
        if self.relu {
            self.y.iter_mut().for_each(|y| *y = if *y > T::ZERO { *y } else { T::ZERO });
        }
    }
}

impl<T: Real> Forward<'_, T> {
    #[inline(always)]
    unsafe fn strips<V: Vector<T = T>, const N: usize>(&mut self) {
        let Self { part, values, x, width, y, .. } = self;
        let width = *width;
        let (mut k0, mut line0) = (0, 0);
        for (i, cell) in part.cells.iter().enumerate() {
            let (mut k, mut line) = (k0, line0);
            for at in (0..width).step_by(N * V::LANES) {
                // SAFETY: `cut` makes positions of groups, lines and entries match and stay within their vectors.
                unsafe {
                    let x = x.as_ptr().add(cell.first as usize * width + at);
                    let y = y.as_mut_ptr().add(at);
                    let mut index = part.index.as_ptr().add(k0);
                    let mut value = values.as_ptr().add(k0);
                    let mut lines = part.line.as_ptr().add(line0);
                    for group in part.groups_of(i) {
                        let (count, mut left) = (group.count as usize, group.lines);
                        while left >= 2 {
                            rows::<V, N, 2>(count, index, value, x, y, lines, width);
                            (index, value, lines) = (index.add(2 * count), value.add(2 * count), lines.add(2));
                            left -= 2;
                        }
                        if left == 1 {
                            rows::<V, N, 1>(count, index, value, x, y, lines, width);
                            (index, value, lines) = (index.add(count), value.add(count), lines.add(1));
                        }
                    }
                    k = index.offset_from_unsigned(part.index.as_ptr());
                    line = lines.offset_from_unsigned(part.line.as_ptr());
                }
            }
            (k0, line0) = (k, line);
        }
    }
}

/// R lines of equal count at once, so that the additions of one hide behind those of another.
#[inline(always)]
unsafe fn rows<V: Vector, const N: usize, const R: usize>(
    count: usize,
    index: *const u16,
    value: *const V::T,
    x: *const V::T,
    y: *mut V::T,
    line: *const u16,
    width: usize,
) {
    // SAFETY: as in `strips`.
    unsafe {
        let mut sum = [[V::splat(V::T::ZERO); N]; R];
        for r in 0..R {
            let row = y.add(*line.add(r) as usize * width);
            for j in 0..N {
                sum[r][j] = V::load(row.add(j * V::LANES));
            }
        }
        for k in 0..count {
            for r in 0..R {
                let v = V::splat(*value.add(r * count + k));
                let row = x.add(*index.add(r * count + k) as usize * width);
                for j in 0..N {
                    sum[r][j] = v.mul_add(V::load(row.add(j * V::LANES)), sum[r][j]);
                }
            }
        }
        for r in 0..R {
            let row = y.add(*line.add(r) as usize * width);
            for j in 0..N {
                sum[r][j].store(row.add(j * V::LANES));
            }
        }
    }
}
