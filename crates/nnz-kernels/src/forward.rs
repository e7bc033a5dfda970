//! The forward kernel on blocks: input block in the first-level cache, sums of a line in registers.

use crate::blocks::{Part, each};
use crate::simd::{Isa, Kernel, Vector, fetch};
use crate::{Real, Tiled};

/// `y = x Wᵀ + bias`, clamped at zero from below with `relu`, over all parts and tiles; `values` in block order.
pub(crate) fn forward_on<T: Real>(
    isa: Isa,
    parts: &[Part],
    values: &[T],
    x: &Tiled<T>,
    bias: Option<&[T]>,
    relu: bool,
    y: &mut Tiled<T>,
) {
    assert_eq!(x.batch(), y.batch(), "batch of x and y");
    assert_eq!(values.len(), parts.last().map_or(0, |p| p.entries.end), "values");
    assert!(parts.iter().all(|p| p.inner == x.features()), "features of x");
    assert!(bias.is_none_or(|b| b.len() == y.features()), "bias");
    let lines = parts.iter().map(|p| p.lines.len()).collect::<Vec<_>>();
    let jobs = y.split(&lines).into_iter().enumerate().collect();
    each(values.len() * x.batch(), jobs, |(i, y): (usize, &mut [T])| {
        let (t, part) = (i / lines.len(), &parts[i % lines.len()]);
        let (values, bias) = (&values[part.entries.clone()], bias.map(|b| &b[part.lines.clone()]));
        let (x, width) = (x.tile(t), x.width(t));
        // SAFETY: the part was cut for the inputs that `x` has; `y` is its lines of tile `t`.
        unsafe { isa.dividing::<T>(width).run(Forward { part, values, x, width, bias, relu, y }) }
    });
}

/// `y[line] += sum of values[k] x[index[k]]` over the entries of one part, on one tile.
///
/// The part must come from [`crate::blocks::cut`] with lines and inner indices within `y` and `x`.
struct Forward<'a, T> {
    part: &'a Part,
    /// Values of the part, in block order.
    values: &'a [T],
    /// `[inner, width]`
    x: &'a [T],
    width: usize,
    bias: Option<&'a [T]>,
    /// Whether negative results become zero.
    relu: bool,
    /// `[lines of the part, width]`
    y: &'a mut [T],
}

impl<T: Real> Kernel<T> for Forward<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(mut self) {
        for (i, y) in self.y.chunks_exact_mut(self.width).enumerate() {
            y.fill(self.bias.map_or(T::ZERO, |b| b[i]));
        }
        // SAFETY: passed on from the caller; every strip of N registers divides the width.
        unsafe {
            match self.width / V::LANES {
                1 => self.strips::<V, 1, 8>(),
                2 => self.strips::<V, 2, 4>(),
                3 | 6 => self.strips::<V, 3, 2>(),
                _ => self.strips::<V, 4, 2>(),
            }
        }
        if self.relu {
            // What is not a number stays, and is noticed.
            self.y.iter_mut().for_each(|y| *y = if *y <= T::ZERO { T::ZERO } else { *y });
        }
    }
}

impl<T: Real> Forward<'_, T> {
    #[inline(always)]
    unsafe fn strips<V: Vector<T = T>, const N: usize, const R: usize>(&mut self) {
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
                        let (count, mut left) = (group.count as usize, group.lines as usize);
                        while left > 0 {
                            let done = match left {
                                _ if left >= R => {
                                    rows::<V, N, R>(count, index, value, x, y, lines, width);
                                    R
                                }
                                2.. => {
                                    rows::<V, N, 2>(count, index, value, x, y, lines, width);
                                    2
                                }
                                _ => {
                                    rows::<V, N, 1>(count, index, value, x, y, lines, width);
                                    1
                                }
                            };
                            let entries = done * count;
                            (index, value, lines) = (index.add(entries), value.add(entries), lines.add(done));
                            left -= done;
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

/// R lines of equal count at once, so that the additions of one hide the latency of another's.
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
        // Sums of the next lines come from the second-level cache while those of this one are made.
        for r in 0..R {
            let next = y.wrapping_add(*line.add(R + r) as usize * width);
            (0..N).for_each(|j| fetch(next.wrapping_add(j * V::LANES)));
        }
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
