//! The one micro-kernel of all dense products: a tile of C stays in registers while k runs.

use crate::simd::Vector;
use crate::{Isa, Real};

/// A tile `C [m, cols]` = or += Σ over segments, over `depth` steps k of A(i, k) B(k, :).
///
/// Within a segment A(i, k) lies at `a + i * row + k * step` and B(k, :) at `b + k * b_row`. Segments let one kernel read a
/// packed matrix, a head of attention, or the windows of a picture where they lie.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    /// Where each segment begins in A and B.
    pub segments: &'a [(usize, usize)],
    /// Steps of k in a segment.
    pub depth: usize,
    /// Distance of rows of A.
    pub row: usize,
    /// Distance of steps of k in A.
    pub step: usize,
    /// Distance of rows of B.
    pub b_row: usize,
    /// Distance of rows of C.
    pub c_row: usize,
    /// Columns of C, at most the width of the kernel.
    pub cols: usize,
}

/// What a tile of C begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Begin<T> {
    /// Zero.
    Zero,
    /// What is there.
    Add,
    /// A vector added to every row; as many numbers as the tile has columns.
    Bias(*const T),
}

/// A micro-kernel for a fixed number of rows and registers.
pub(crate) type Micro<T> = unsafe fn(&Tile<'_>, *const T, *const T, *mut T, Begin<T>);

/// # Safety
/// The tile's rows, columns and segments lie in A, B and C; B has whole registers behind every row unless `PART`, where
/// exactly `cols` numbers are read.
#[inline(always)]
unsafe fn tile<V: Vector, const M: usize, const NV: usize, const UNIT: bool, const PART: bool>(
    t: &Tile<'_>,
    a: *const V::T,
    b: *const V::T,
    c: *mut V::T,
    begin: Begin<V::T>,
) {
    let row = if UNIT { 1 } else { t.row };
    let width = |j: usize| t.cols.saturating_sub(j * V::LANES).min(V::LANES);
    // SAFETY: the caller's contract.
    unsafe {
        let mut acc = [[V::splat(V::T::ZERO); NV]; M];
        for &(from_a, from_b) in t.segments {
            let (mut a, mut b) = (a.add(from_a), b.add(from_b));
            for _ in 0..t.depth {
                let mut line = [V::splat(V::T::ZERO); NV];
                for j in 0..NV {
                    let at = b.add(j * V::LANES);
                    line[j] = if PART { V::load_part(at, width(j)) } else { V::load(at) };
                }
                for i in 0..M {
                    let x = V::splat(*a.add(i * row));
                    for j in 0..NV {
                        acc[i][j] = x.mul_add(line[j], acc[i][j]);
                    }
                }
                a = a.add(t.step);
                b = b.add(t.b_row);
            }
        }
        for j in 0..NV {
            let n = width(j);
            if n == 0 {
                break;
            }
            let first = match begin {
                Begin::Bias(bias) => V::load_part(bias.add(j * V::LANES), n),
                _ => V::splat(V::T::ZERO),
            };
            for i in 0..M {
                let at = c.add(i * t.c_row + j * V::LANES);
                let before = if matches!(begin, Begin::Add) { V::load_part(at, n) } else { first };
                before.add(acc[i][j]).store_part(at, n);
            }
        }
    }
}

/// A function with the features of its instruction set for every shape of a tile, and the table of them.
macro_rules! micro {
    ($name:ident, $registers:ident, [$($feature:literal)?], [$($m:literal)*]) => {
        mod $name {
            use super::*;
            use crate::simd::Registers;

            $(#[target_feature(enable = $feature)])?
            unsafe fn run<T: Real, const M: usize, const NV: usize, const UNIT: bool, const PART: bool>(
                t: &Tile<'_>, a: *const T, b: *const T, c: *mut T, begin: Begin<T>,
            ) {
                // SAFETY: the caller's contract.
                unsafe { tile::<<T as Registers>::$registers, M, NV, UNIT, PART>(t, a, b, c, begin) }
            }

            pub(super) fn pick<T: Real>(rows: usize, two: bool, unit: bool, part: bool) -> Micro<T> {
                match (rows, two, unit, part) {
                    $(
                        ($m, true, true, _) => run::<T, $m, 2, true, false>,
                        ($m, true, false, false) => run::<T, $m, 2, false, false>,
                        ($m, true, false, true) => run::<T, $m, 2, false, true>,
                        ($m, false, true, _) => run::<T, $m, 1, true, false>,
                        ($m, false, false, false) => run::<T, $m, 1, false, false>,
                        ($m, false, false, true) => run::<T, $m, 1, false, true>,
                    )*
                    _ => unreachable!("no tile has {rows} rows"),
                }
            }
        }
    };
}

micro!(portable, Portable, [], [1 2 3 4 5 6]);
#[cfg(target_arch = "x86_64")]
micro!(avx2, Avx2, ["avx2,fma"], [1 2 3 4 5 6]);
#[cfg(target_arch = "x86_64")]
micro!(avx512, Avx512, ["avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"], [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);

/// The micro-kernels of an instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Micros {
    isa: Isa,
    /// Most rows of a tile.
    pub rows: usize,
    /// Numbers in a register.
    pub lanes: usize,
}

impl Micros {
    pub fn new<T: Real>(isa: Isa) -> Self {
        use crate::simd::Registers;
        let (rows, lanes) = match isa {
            Isa::Portable => (6, <<T as Registers>::Portable as Vector>::LANES),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => (6, <<T as Registers>::Avx2 as Vector>::LANES),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => (14, <<T as Registers>::Avx512 as Vector>::LANES),
        };
        Self { isa, rows, lanes }
    }

    /// Their instruction set.
    pub fn isa(self) -> Isa {
        self.isa
    }

    /// Columns of a full tile.
    pub fn cols(self) -> usize {
        2 * self.lanes
    }

    /// Rows of equal tiles that cover `m` rows.
    pub fn even_rows(self, m: usize) -> usize {
        m.div_ceil(m.div_ceil(self.rows).max(1)).max(1)
    }

    /// The kernel for `rows` rows and `cols` columns. `unit`: rows of A lie side by side and B has whole registers;
    /// `part`: B ends with its columns.
    pub fn pick<T: Real>(self, rows: usize, cols: usize, unit: bool, part: bool) -> Micro<T> {
        let two = cols > self.lanes;
        let part = part && cols != self.lanes && cols != 2 * self.lanes;
        match self.isa {
            Isa::Portable => portable::pick(rows, two, unit, part),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::pick(rows, two, unit, part),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::pick(rows, two, unit, part),
        }
    }
}
