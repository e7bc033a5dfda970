//! The one micro-kernel of all dense products: a tile of C stays in registers while k runs.

use super::prefetch;
use crate::simd::{Set, Vector};
use crate::{Isa, Real};

/// A tile `C [m, cols]` = or += Σ over segments, over `depth` steps k of A(i, k) B(k, :).
///
/// Within a segment B(k, :) lies at `b + k * b_row` and A(i, k) at `a + i + k * a_far` when rows of A are adjacent
/// ([`Side::Rows`]), at `a + i * a_far + k` when steps of k do ([`Side::Steps`]). Segments let one kernel read a packed
/// matrix, a head of attention, or the windows of an image in place.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    /// Offset of each segment in A and B.
    pub segments: &'a [(usize, usize)],
    /// Steps of k in a segment.
    pub depth: usize,
    /// Stride of the non-contiguous axis of A.
    pub a_far: usize,
    /// Stride of rows of B.
    pub b_row: usize,
    /// Stride of rows of C.
    pub c_row: usize,
    /// Columns of C, at most the width of the kernel.
    pub cols: usize,
}

/// The contiguous axis of A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Rows,
    Steps,
}

/// Steps of k in one turn of the loop when they are contiguous: addresses of rows are found once for all of them.
const TURN: usize = 4;

/// Initial value of a tile of C.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Begin<T> {
    /// Zero.
    Zero,
    /// The existing values.
    Add,
    /// A vector added to every row; as many numbers as the tile has columns.
    Bias(*const T),
}

/// A micro-kernel for a fixed number of rows and registers.
pub(crate) type Micro<T> = unsafe fn(&Tile<'_>, *const T, *const T, *mut T, Begin<T>);

/// Columns of the j-th register of a row.
#[inline(always)]
fn width<V: Vector>(cols: usize, j: usize) -> usize {
    cols.saturating_sub(j * V::LANES).min(V::LANES)
}

/// `acc += A(:, k) B(k, :)`.
///
/// # Safety
/// As for [`tile`], at one k.
#[inline(always)]
unsafe fn step_of<V: Vector, const M: usize, const NV: usize, const PART: bool>(
    acc: &mut [[V; NV]; M],
    a: *const V::T,
    row: usize,
    b: *const V::T,
    cols: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut line = [V::splat(V::T::ZERO); NV];
        for j in 0..NV {
            let at = b.add(j * V::LANES);
            line[j] = if PART { V::load_part(at, width::<V>(cols, j)) } else { V::load(at) };
        }
        for i in 0..M {
            let x = V::splat(*a.add(i * row));
            for j in 0..NV {
                acc[i][j] = x.mul_add(line[j], acc[i][j]);
            }
        }
    }
}

/// # Safety
/// The tile's rows, columns and segments lie in A, B and C; B has whole registers at every row unless `PART`, where
/// exactly `cols` numbers are read.
#[inline(always)]
unsafe fn tile<V: Vector, const M: usize, const NV: usize, const ROWS: bool, const PART: bool>(
    t: &Tile<'_>,
    a: *const V::T,
    b: *const V::T,
    c: *mut V::T,
    begin: Begin<V::T>,
) {
    let (row, step) = if ROWS { (1, t.a_far) } else { (t.a_far, 1) };
    let width = |j: usize| width::<V>(t.cols, j);
    // SAFETY: the caller's contract.
    unsafe {
        // C is wanted at the end, from farther away than A and B.
        for i in 0..M {
            (0..NV).for_each(|j| prefetch(c.wrapping_add(i * t.c_row + j * V::LANES).cast_const()));
        }
        let mut acc = [[V::splat(V::T::ZERO); NV]; M];
        for &(from_a, from_b) in t.segments {
            let (mut a, mut b) = (a.add(from_a), b.add(from_b));
            let mut left = t.depth;
            // Unrolling further would push registers of a large tile out to memory.
            if !ROWS && M * NV <= 20 {
                left %= TURN;
                for _ in 0..t.depth / TURN {
                    for u in 0..TURN {
                        step_of::<V, M, NV, PART>(&mut acc, a.add(u), row, b.add(u * t.b_row), t.cols);
                    }
                    a = a.add(TURN);
                    b = b.add(TURN * t.b_row);
                }
            }
            for _ in 0..left {
                step_of::<V, M, NV, PART>(&mut acc, a, row, b, t.cols);
                a = a.add(step);
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

/// A function with the features of its instruction set for every shape of a tile, and the table of them: rows of tiles
/// two registers wide and one, then those of tiles one register wide only.
macro_rules! micro {
    ($name:ident, $registers:ident, [$($feature:literal)?], [$($m:literal)*], [$($narrow:literal)*]) => {
        mod $name {
            use super::*;
            use crate::simd::Registers;

            $(#[target_feature(enable = $feature)])?
            unsafe fn run<T: Real, const M: usize, const NV: usize, const ROWS: bool, const PART: bool>(
                t: &Tile<'_>, a: *const T, b: *const T, c: *mut T, begin: Begin<T>,
            ) {
                // SAFETY: the caller's contract.
                unsafe { tile::<<T as Registers>::$registers, M, NV, ROWS, PART>(t, a, b, c, begin) }
            }

            pub(super) fn pick<T: Real>(rows: usize, two: bool, side: Side, part: bool) -> Micro<T> {
                match (rows, two, side, part) {
                    $(
                        ($m, true, Side::Rows, false) => run::<T, $m, 2, true, false>,
                        ($m, true, Side::Rows, true) => run::<T, $m, 2, true, true>,
                        ($m, true, Side::Steps, _) => run::<T, $m, 2, false, false>,
                        ($m, false, Side::Rows, false) => run::<T, $m, 1, true, false>,
                        ($m, false, Side::Rows, true) => run::<T, $m, 1, true, true>,
                        ($m, false, Side::Steps, _) => run::<T, $m, 1, false, false>,
                    )*
                    $(
                        ($narrow, _, Side::Rows, false) => run::<T, $narrow, 1, true, false>,
                        ($narrow, _, Side::Rows, true) => run::<T, $narrow, 1, true, true>,
                        ($narrow, _, Side::Steps, _) => run::<T, $narrow, 1, false, false>,
                    )*
                    _ => unreachable!("no tile has {rows} rows"),
                }
            }
        }
    };
}

micro!(portable, Portable, [], [1 2 3 4 5 6], []);
#[cfg(target_arch = "x86_64")]
micro!(avx2, Avx2, ["avx2,fma"], [1 2 3 4 5 6], []);
#[cfg(target_arch = "x86_64")]
micro!(avx512, Avx512, ["avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"], [1 2 3 4 5 6 7 8 9 10 11 12 13 14], [15 16]);

/// The micro-kernels of an instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Micros {
    isa: Isa,
    /// Most rows of a tile two registers wide, and of one a single register wide.
    pub rows: usize,
    narrow: usize,
    /// Numbers in a register.
    pub lanes: usize,
}

impl Micros {
    pub fn new<T: Real>(isa: Isa) -> Self {
        use crate::simd::Registers;
        let (rows, narrow, lanes) = match isa.set() {
            Set::Portable => (6, 6, <<T as Registers>::Portable as Vector>::LANES),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => (6, 6, <<T as Registers>::Avx2 as Vector>::LANES),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => (14, 16, <<T as Registers>::Avx512 as Vector>::LANES),
        };
        Self { isa, rows, narrow, lanes }
    }

    /// Returns their instruction set.
    pub fn isa(self) -> Isa {
        self.isa
    }

    /// Columns of a full tile.
    pub fn cols(self) -> usize {
        2 * self.lanes
    }

    /// Rows per tile for equal tiles that cover `m` rows of `cols` columns.
    pub fn even_rows(self, m: usize, cols: usize) -> usize {
        let most = if cols > self.lanes { self.rows } else { self.narrow };
        m.div_ceil(m.div_ceil(most).max(1)).max(1)
    }

    /// The kernel for `rows` rows and `cols` columns. `part`: B ends with its columns, which needs contiguous
    /// rows of A; otherwise B has whole registers.
    pub fn pick<T: Real>(self, rows: usize, cols: usize, side: Side, part: bool) -> Micro<T> {
        debug_assert!(side == Side::Rows || !part);
        let two = cols > self.lanes;
        let part = part && cols != self.lanes && cols != 2 * self.lanes;
        match self.isa.set() {
            Set::Portable => portable::pick(rows, two, side, part),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => avx2::pick(rows, two, side, part),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => avx512::pick(rows, two, side, part),
        }
    }
}
