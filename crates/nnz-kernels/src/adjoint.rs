//! The backward kernel on blocks: gradients of the output in the first-level cache, input and its gradient in
//! registers, each output gradient loaded once for both products.

use crate::Real;
use crate::blocks::Part;
use crate::simd::{Kernel, Vector, fetch};

/// `dx[line] += sum of values[k] g[index[k]]` and `dw[k] (+)= <g[index[k]], x[line]>` over the entries of one part, on
/// one tile.
///
/// The part must come from [`crate::blocks::cut`] with lines and inner indices within `x`, `dx` and `g`.
pub(crate) struct Adjoint<'a, T> {
    pub part: &'a Part,
    /// Values of the part, in block order.
    pub values: &'a [T],
    /// `[lines of the part, width]`
    pub x: &'a [T],
    /// `[inner, width]`
    pub g: &'a [T],
    pub width: usize,
    /// `[lines of the part, width]`
    pub dx: Option<&'a mut [T]>,
    /// Entries of the part, in block order.
    pub dw: &'a mut [T],
    /// Whether `dw` is overwritten rather than added to.
    pub first: bool,
    /// Whether `dx` becomes zero where `x` is zero or less: `x` is the output of a ReLU, `dx` is for its input.
    pub relu: bool,
}

impl<T: Real> Kernel<T> for Adjoint<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(mut self) {
        if let Some(dx) = &mut self.dx {
            dx.fill(T::ZERO);
        }
        // SAFETY: passed on from the caller; every strip of N registers divides the width.
        unsafe {
            match (self.width / V::LANES, self.dx.is_some()) {
                (1, true) => self.strips::<V, 1, true>(),
                (2, true) => self.strips::<V, 2, true>(),
                (3 | 6, true) => self.strips::<V, 3, true>(),
                (_, true) => self.strips::<V, 4, true>(),
                (1, false) => self.strips::<V, 1, false>(),
                (2, false) => self.strips::<V, 2, false>(),
                (3 | 6, false) => self.strips::<V, 3, false>(),
                (_, false) => self.strips::<V, 4, false>(),
            }
        }
        if let Some(dx) = self.dx.filter(|_| self.relu) {
            dx.iter_mut().zip(self.x).for_each(|(d, &x)| *d = if x <= T::ZERO { T::ZERO } else { *d });
        }
    }
}

/// Products wait here, one register per entry, until sixteen at a time are summed across lanes. Few, so that the
/// block of gradients stays in the first-level cache.
const WAIT: usize = 64;

impl<T: Real> Adjoint<'_, T> {
    #[inline(always)]
    unsafe fn strips<V: Vector<T = T>, const N: usize, const DX: bool>(&mut self) {
        let (part, values, x, g, width, first) = (self.part, self.values, self.x, self.g, self.width, self.first);
        let (dx, dw) = (self.dx.as_mut().map_or(std::ptr::null_mut(), |d| d.as_mut_ptr()), &mut *self.dw);
        let (mut k0, mut line0) = (0, 0);
        // SAFETY: `cut` makes positions of groups, lines and entries match and stay within their vectors.
        unsafe {
            let mut wait = [V::splat(T::ZERO); WAIT];
            for (i, cell) in part.cells.iter().enumerate() {
                let mut index = part.index.as_ptr();
                let mut line = part.line.as_ptr();
                for at in (0..width).step_by(N * V::LANES) {
                    (index, line) = (part.index.as_ptr().add(k0), part.line.as_ptr().add(line0));
                    let mut value = values.as_ptr().add(k0);
                    let mut to = dw.as_mut_ptr().add(k0);
                    let g = g.as_ptr().add(cell.first as usize * width + at);
                    let (x, dx) = (x.as_ptr().add(at), dx.wrapping_add(at));
                    for group in part.groups_of(i) {
                        let count = group.count as usize;
                        let mut left = group.lines as usize;
                        // Several short lines, or a piece of a long one, fill the waiting list.
                        let (many, pieces) = ((WAIT / count).max(1), count.div_ceil(WAIT));
                        while left > 0 {
                            let lines = many.min(left);
                            for piece in 0..pieces {
                                let count = (count - piece * WAIT).min(WAIT);
                                let mut waiting = 0;
                                for l in 0..lines {
                                    let place = *line.add(l) as usize * width;
                                    let next = *line.add(l + 1) as usize * width;
                                    for j in 0..N {
                                        fetch(x.wrapping_add(next + j * V::LANES));
                                        if DX {
                                            fetch(dx.wrapping_add(next + j * V::LANES));
                                        }
                                    }
                                    let (x, dx) = (x.add(place), dx.wrapping_add(place));
                                    column::<V, N, DX>(
                                        count,
                                        index,
                                        value,
                                        g,
                                        x,
                                        dx,
                                        wait.as_mut_ptr(),
                                        waiting,
                                        width,
                                    );
                                    (index, value) = (index.add(count), value.add(count));
                                    waiting += count;
                                }
                                for i in (0..waiting).step_by(16) {
                                    let n = (waiting - i).min(16);
                                    V::sums(wait.as_ptr(), i, n, to.add(i), first && at == 0);
                                }
                                to = to.add(waiting);
                            }
                            line = line.add(lines);
                            left -= lines;
                        }
                    }
                }
                k0 = index.offset_from_unsigned(part.index.as_ptr());
                line0 = line.offset_from_unsigned(part.line.as_ptr());
            }
        }
    }
}

/// Entries of one line: `dx += v g` in registers, products of `g` and `x` to the list from `place`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn column<V: Vector, const N: usize, const DX: bool>(
    count: usize,
    index: *const u16,
    value: *const V::T,
    g: *const V::T,
    x: *const V::T,
    dx: *mut V::T,
    list: *mut V,
    place: usize,
    width: usize,
) {
    // SAFETY: as in `strips`.
    unsafe {
        let (mut xs, mut sum) = ([V::splat(V::T::ZERO); N], [V::splat(V::T::ZERO); N]);
        for j in 0..N {
            xs[j] = V::load(x.add(j * V::LANES));
            if DX {
                sum[j] = V::load(dx.add(j * V::LANES));
            }
        }
        let mut entry = |k: usize| {
            let row = g.add(*index.add(k) as usize * width);
            let v = V::splat(*value.add(k));
            let mut product = V::splat(V::T::ZERO);
            for j in 0..N {
                let d = V::load(row.add(j * V::LANES));
                if DX {
                    sum[j] = v.mul_add(d, sum[j]);
                }
                product = if j == 0 { d.mul(xs[0]) } else { d.mul_add(xs[j], product) };
            }
            product.put(list, place + k);
        };
        for k in (0..count / 2).map(|k| 2 * k) {
            entry(k);
            entry(k + 1);
        }
        if count % 2 == 1 {
            entry(count - 1);
        }
        if DX {
            for j in 0..N {
                sum[j].store(dx.add(j * V::LANES));
            }
        }
    }
}
