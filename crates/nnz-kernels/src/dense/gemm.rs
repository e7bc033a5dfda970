//! Dense matrix product on strided slices.

use super::scratch::scratch;
use super::tile::{Begin, Micros, Side, Tile};
use super::{Raw, each, prefetch};
use crate::shape::{extent, work};
use crate::simd::{Kernel, Vector};
use crate::{Isa, Real};

/// Fewest multiply-adds worth handing to another thread.
const PARALLEL: usize = 1 << 19;
/// Longest k whose panel of B stays in L2.
const DEPTH: usize = 256;
/// Pieces per thread, so that the slowest core does not set the pace where cores differ or are shared, and fewest rows or
/// columns of a piece that thread counts alone would not ask for: each packs what all of them need.
const PIECES: usize = 4;
const LEAST: usize = 192;
/// Widest block of B that is packed at once.
const WIDTH: usize = 1024;

/// Initial value of C.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a, T> {
    /// Zero; C is not read.
    Zero,
    /// The existing values.
    Add,
    /// A vector of n numbers, added to every row; C is not read.
    Bias(&'a [T]),
}

/// `C = A B` (plus `start`) for A `[m, k]`, B `[k, n]` with (row, column) strides and C `[m, n]` with rows `ldc`
/// apart.
///
/// Element `(i, j)` of A lies at `i * rs + j * cs`. Every sum runs in one fixed order, so the result does not depend on
/// the number of threads.
///
/// # Panics
/// When a matrix exceeds its slice or rows of C overlap.
#[allow(clippy::too_many_arguments)]
pub fn gemm<T: Real>(
    m: usize,
    n: usize,
    k: usize,
    a: &[T],
    (rsa, csa): (usize, usize),
    b: &[T],
    (rsb, csb): (usize, usize),
    start: Start<'_, T>,
    c: &mut [T],
    ldc: usize,
) {
    T::gemm(Isa::best(), m, n, k, a, (rsa, csa), b, (rsb, csb), start, c, ldc);
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn gemm_on<T: Real>(
    isa: Isa,
    m: usize,
    n: usize,
    k: usize,
    a: &[T],
    (rsa, csa): (usize, usize),
    b: &[T],
    (rsb, csb): (usize, usize),
    start: Start<'_, T>,
    c: &mut [T],
    ldc: usize,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(extent(m, k, rsa, csa) <= a.len(), "A [{m}, {k}] with strides {rsa}, {csa} in {} numbers", a.len());
    assert!(extent(k, n, rsb, csb) <= b.len(), "B [{k}, {n}] with strides {rsb}, {csb} in {} numbers", b.len());
    assert!(extent(m, n, ldc, 1) <= c.len(), "C [{m}, {n}] with rows {ldc} apart in {} numbers", c.len());
    assert!(m == 1 || ldc >= n, "rows of C [{m}, {n}] overlap when {ldc} apart");
    let bias = match start {
        Start::Bias(bias) => {
            assert_eq!(bias.len(), n, "a bias of one number a column");
            Some(Raw::of(bias))
        }
        _ => None,
    };
    let micros = Micros::new::<T>(isa);
    let (a, b) = (View { at: Raw::of(a), rs: rsa, cs: csa }, View { at: Raw::of(b), rs: rsb, cs: csb });
    let c = Raw::of_mut(c);
    let begin = move |j: usize| match (start, bias) {
        (Start::Add, _) => Begin::Add,
        // SAFETY: column j of the n there are.
        (_, Some(bias)) => Begin::Bias(unsafe { bias.get().add(j) }),
        _ => Begin::Zero,
    };
    let small = work([m, n, k]) < PARALLEL;
    let parts = split_depth(m, n, k);
    if parts > 1 {
        // Few sums over many terms: parts of k separately, then added up in their order.
        let step = k.div_ceil(parts);
        let mut sums = vec![T::ZERO; parts * m * n];
        let to = Raw::of_mut(&mut sums);
        each(parts, small, &|p| {
            let (first, last) = (p * step, k.min((p + 1) * step));
            // SAFETY: ranges lie in [0, k); each part has its own m·n numbers; `a` and `b` were checked above.
            unsafe {
                let to = to.get().add(p * m * n);
                let depth = last.saturating_sub(first);
                Block { micros, m, n, k: depth, a: a.at(0, first), b: b.at(first, 0), c: to, ldc: n }
                    .run(&|_| Begin::Zero);
            }
        });
        for i in 0..m {
            for j in 0..n {
                // SAFETY: C was checked to hold [m, n] with rows `ldc` apart; the bias holds n numbers.
                unsafe {
                    let to = c.get().add(i * ldc + j);
                    let mut sum = match begin(j) {
                        Begin::Zero => T::ZERO,
                        Begin::Add => *to,
                        Begin::Bias(at) => *at,
                    };
                    (0..parts).for_each(|p| sum += sums[p * m * n + i * n + j]);
                    *to = sum;
                }
            }
        }
        return;
    }
    let threads = if small { 1 } else { rayon::current_num_threads() };
    // Operands of both halves are packed twice, so cut along the longer side, but along columns if A is not packed.
    let by_rows = m >= n && !(a.direct() && n >= 2 * threads * micros.cols());
    let (long, unit) = if by_rows { (m, micros.even_rows(m, n)) } else { (n, micros.cols()) };
    let step = piece(long, threads, unit);
    each(long.div_ceil(step), small, &|p| {
        let (first, last) = (p * step, long.min((p + 1) * step));
        // SAFETY: ranges lie in [0, m) and [0, n), whose extents were checked; no two threads write one place.
        unsafe {
            if by_rows {
                let to = c.get().add(first * ldc);
                Block { micros, m: last - first, n, k, a: a.at(first, 0), b, c: to, ldc }.run(&begin);
            } else {
                let to = c.get().add(first);
                Block { micros, m, n: last - first, k, a, b: b.at(0, first), c: to, ldc }.run(&|j| begin(first + j));
            }
        }
    });
}

/// Rows or columns per piece, a multiple of `unit`.
fn piece(long: usize, threads: usize, unit: usize) -> usize {
    let even = long.div_ceil(threads);
    let pieces = if threads == 1 { 1 } else { PIECES };
    even.min(even.div_ceil(pieces).max(LEAST)).next_multiple_of(unit)
}

/// Number of parts into which k is cut, by the shape alone.
fn split_depth(m: usize, n: usize, k: usize) -> usize {
    match m * n {
        small if small <= 1 << 14 => (k / 2048).clamp(1, 8),
        _ => 1,
    }
}

/// A strided matrix.
#[derive(Clone, Copy)]
pub(crate) struct View<T> {
    pub at: Raw<T>,
    pub rs: usize,
    pub cs: usize,
}

impl<T: Real> View<T> {
    /// Whether tiles read it in place. Rows that lie a multiple of 4 KB apart would compete for the same sets of L1.
    fn direct(self) -> bool {
        self.cs == 1 && !self.rs.wrapping_mul(size_of::<T>()).is_multiple_of(4096)
    }

    /// The part from row `i` and column `j` on. An empty matrix may start anywhere, with any strides.
    pub fn at(self, i: usize, j: usize) -> Self {
        let skip = i.wrapping_mul(self.rs).wrapping_add(j.wrapping_mul(self.cs));
        Self { at: Raw(self.at.get().wrapping_add(skip)), ..self }
    }
}

/// A product on one thread.
pub(crate) struct Block<T> {
    pub micros: Micros,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: View<T>,
    pub b: View<T>,
    pub c: *mut T,
    pub ldc: usize,
}

impl<T: Real> Block<T> {
    /// # Safety
    /// A, B and C hold their extents, C is exclusive, and `begin(j)` is the initial value of a tile from column j on.
    pub unsafe fn run(&self, begin: &dyn Fn(usize) -> Begin<T>) {
        let Self { micros, m, n, k, a, b, c, ldc } = *self;
        if m == 0 || n == 0 {
            return;
        }
        let (nr, mr) = (micros.cols(), micros.even_rows(m, n));
        // A packed panel keeps whole registers, unless that would be mostly padding.
        let apart = if 4 * mr > 3 * micros.lanes { mr.next_multiple_of(micros.lanes) } else { mr };
        let depth = k.div_ceil(k.div_ceil(DEPTH).max(1)).max(1);
        let wide = WIDTH.min(n.next_multiple_of(nr));
        let high = (micros.rows * 16 / mr * mr).min(m.next_multiple_of(mr));
        let direct = a.direct();
        let (of_a, of_b) = (Panels::new::<T>(mr, apart, depth), Panels::new::<T>(nr, nr, depth));
        let room = of_b.numbers(wide);
        scratch(room + if direct { 0 } else { of_a.numbers(high) }, |memory: &mut [T]| {
            let (packed_b, packed_a) = memory.split_at_mut(room);
            for first_col in (0..n).step_by(wide) {
                let cols = wide.min(n - first_col);
                // With k = 0 there is one empty pass, so that C gets its initial value.
                for first_k in (0..k.max(1)).step_by(depth) {
                    let kc = depth.min(k - first_k);
                    let from = b.at(first_k, first_col);
                    // SAFETY: the columns lie in B; `packed_b` has room for every panel.
                    unsafe { pack(micros, from.at.get(), from.cs, from.rs, cols, of_b, kc, packed_b.as_mut_ptr()) };
                    for first_row in (0..m).step_by(high) {
                        let rows = high.min(m - first_row);
                        if !direct {
                            let from = a.at(first_row, first_k);
                            // SAFETY: as above.
                            unsafe {
                                pack(micros, from.at.get(), from.rs, from.cs, rows, of_a, kc, packed_a.as_mut_ptr())
                            };
                        }
                        for j in (0..cols).step_by(nr) {
                            let width = nr.min(cols - j);
                            let (side, a_far) = if direct { (Side::Steps, a.rs) } else { (Side::Rows, apart) };
                            let t = Tile { segments: &[(0, 0)], depth: kc, a_far, b_row: nr, c_row: ldc, cols: width };
                            let start = if first_k == 0 { begin(first_col + j) } else { Begin::Add };
                            for i in (0..rows).step_by(mr) {
                                let micro = micros.pick::<T>(mr.min(rows - i), width, side, false);
                                let from = if direct {
                                    a.at(first_row + i, first_k).at.get().cast_const()
                                } else {
                                    packed_a[of_a.at(i)..].as_ptr()
                                };
                                // SAFETY: the tile lies in C; panels hold kc rows of whole registers.
                                unsafe {
                                    let to = c.add((first_row + i) * ldc + first_col + j);
                                    micro(&t, from, packed_b[of_b.at(j)..].as_ptr(), to, start);
                                }
                            }
                        }
                    }
                }
            }
        });
    }
}

/// Layout of packed rows.
#[derive(Clone, Copy)]
pub(crate) struct Panels {
    /// Rows in a panel.
    wide: usize,
    /// Distance of steps of k.
    apart: usize,
    /// Distance of panels.
    size: usize,
}

impl Panels {
    /// Panels of `depth` steps of k. A cache line between two keeps corresponding places out of one set of L1.
    fn new<T>(wide: usize, apart: usize, depth: usize) -> Self {
        Self { wide, apart, size: depth * apart + 64 / size_of::<T>() }
    }

    /// Panels of `wide` rows without gaps between steps or panels.
    pub fn tight(wide: usize, depth: usize) -> Self {
        Self { wide, apart: wide, size: depth * wide }
    }

    /// Numbers that `n` rows take.
    fn numbers(self, n: usize) -> usize {
        n.div_ceil(self.wide) * self.size
    }

    /// Offset of the panel that begins with a row.
    fn at(self, row: usize) -> usize {
        row / self.wide * self.size
    }
}

/// Cuts `n` rows of `k` numbers into panels: in panel p, `to[q * apart + i] = from[(p * wide + i) * rs + q * cs]`; zeros
/// in place of missing rows, anything between `wide` and `apart`.
///
/// # Safety
/// The matrix `[n, k]` lies at `from`, room for the panels at `to`.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn pack<T: Real>(
    micros: Micros,
    from: *const T,
    rs: usize,
    cs: usize,
    n: usize,
    panels: Panels,
    k: usize,
    to: *mut T,
) {
    let wide = panels.wide;
    if rs == 1 {
        // Along the rows of the source, over a few panels at a time.
        let some = (256 / wide).max(1);
        for i in (0..n).step_by(some * wide) {
            let (n, to) = ((some * wide).min(n - i), to.wrapping_add(panels.at(i)));
            // SAFETY: the caller's contract; the instruction set is that of the micro-kernels.
            unsafe { micros.isa().run(Copy { from: from.wrapping_add(i), cs, n, panels, k, to }) }
        }
        return;
    }
    for i in (0..n).step_by(wide) {
        let (from, to) = (from.wrapping_add(i.wrapping_mul(rs)), to.wrapping_add(panels.at(i)));
        // SAFETY: as above.
        unsafe { micros.isa().run(Turn { from, rs, cs, n: wide.min(n - i), panels, k, to }) }
    }
}

/// Packs panels from columns that are contiguous.
struct Copy<T> {
    from: *const T,
    cs: usize,
    n: usize,
    panels: Panels,
    k: usize,
    to: *mut T,
}

impl<T: Real> Kernel<T> for Copy<T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        let Self { from, cs, n, panels: Panels { wide, apart, size }, k, to } = self;
        let l = V::LANES;
        // SAFETY: the contract of `pack`.
        unsafe {
            for q in 0..k {
                let line = from.wrapping_add(q.wrapping_mul(cs));
                // Lines lie too far apart for the hardware prefetcher.
                (0..n)
                    .step_by(64 / size_of::<T>())
                    .for_each(|i| prefetch(line.wrapping_add(cs.wrapping_mul(4).wrapping_add(i))));
                for (panel, first) in (0..n).step_by(wide).enumerate() {
                    let (line, to) = (line.wrapping_add(first), to.add(panel * size + q * apart));
                    for i in (0..wide).step_by(l) {
                        let have = (n - first).saturating_sub(i).min(l);
                        let at = line.wrapping_add(i);
                        let v = if have == l { V::load(at) } else { V::load_part(at, have) };
                        if apart - i >= l { v.store(to.add(i)) } else { v.store_part(to.add(i), apart - i) }
                    }
                }
            }
        }
    }
}

/// Most numbers in a square of registers.
const SQUARE: usize = 256;

/// Packs one panel from rows that are contiguous, or from any matrix.
struct Turn<T> {
    from: *const T,
    rs: usize,
    cs: usize,
    n: usize,
    panels: Panels,
    k: usize,
    to: *mut T,
}

impl<T: Real> Kernel<T> for Turn<T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        let Self { from, rs, cs, n, panels: Panels { wide, apart, .. }, k, to } = self;
        let l = V::LANES;
        // SAFETY: the contract of `pack`.
        unsafe {
            // Squares turned in registers; those that are short of rows by way of a copy with room for all.
            let whole_k = if cs == 1 { k / l * l } else { 0 };
            for i in (0..n).step_by(l) {
                let rows = l.min(n - i);
                for q in (0..whole_k).step_by(l) {
                    let (from, to) = (from.add(i * rs + q), to.add(q * apart + i));
                    (0..rows).for_each(|r| prefetch(from.wrapping_add((r * rs).wrapping_add(2 * l))));
                    if rows == l {
                        V::transpose(from, rs, to, apart);
                        continue;
                    }
                    let (mut square, mut transposed) = ([T::ZERO; SQUARE], [T::ZERO; SQUARE]);
                    (0..rows).for_each(|r| V::load(from.add(r * rs)).store(square.as_mut_ptr().add(r * l)));
                    V::transpose(square.as_ptr(), l, transposed.as_mut_ptr(), l);
                    for c in 0..l {
                        V::load(transposed.as_ptr().add(c * l)).store_part(to.add(c * apart), rows);
                    }
                }
            }
            // The rest, along the rows of the source, whose steps are the short ones.
            for i in 0..n {
                for q in whole_k..k {
                    *to.add(q * apart + i) = *from.add(i * rs + q * cs);
                }
            }
            for q in 0..if n < wide { k } else { 0 } {
                (n..wide).for_each(|i| *to.add(q * apart + i) = T::ZERO);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{close, on_threads, random};

    #[test]
    fn equals_plain_loops_in_every_layout_on_every_instruction_set() {
        let shapes =
            [(1, 1, 1), (3, 5, 0), (7, 300, 9), (300, 7, 65), (129, 257, 40), (0, 3, 2), (17, 33, 600), (5, 9, 9000)];
        for (m, n, k) in shapes {
            for &isa in Isa::available() {
                for layout in 0..4 {
                    let strides = |r, c, t| if layout >> t & 1 == 0 { (c, 1) } else { (1, r) };
                    let (sa, sb, ldc) = (strides(m, k, 0), strides(k, n, 1), n + 3);
                    let (a, b, bias) = (random::<f64>(1, m * k), random::<f64>(2, k * n), random::<f64>(4, n));
                    let old = random::<f64>(3, m * ldc);
                    for start in [Start::Zero, Start::Add, Start::Bias(&bias)] {
                        let mut c = old.clone();
                        gemm_on(isa, m, n, k, &a, sa, &b, sb, start, &mut c, ldc);
                        let at = |i: usize, j: usize, s: (usize, usize)| i * s.0 + j * s.1;
                        close("c", &c, m, ldc, 1e-11, |i, j| {
                            if j >= n {
                                return old[i * ldc + j];
                            }
                            let ab: f64 = (0..k).map(|q| a[at(i, q, sa)] * b[at(q, j, sb)]).sum();
                            ab + match start {
                                Start::Zero => 0.0,
                                Start::Add => old[i * ldc + j],
                                Start::Bias(b) => b[j],
                            }
                        });
                    }
                }
            }
        }
    }

    #[test]
    fn any_thread_count_gives_the_same_bits() {
        for (m, n, k) in [(700, 200, 200), (150, 900, 300), (16, 144, 20_000)] {
            on_threads(|| {
                let (a, b) = (random::<f32>(1, m * k), random::<f32>(2, k * n));
                let mut c = vec![0.0; m * n];
                gemm(m, n, k, &a, (k, 1), &b, (n, 1), Start::Zero, &mut c, n);
                c.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
            });
        }
    }

    #[test]
    fn threads_get_several_pieces_each_where_they_are_large() {
        for (long, threads) in [(4096usize, 2), (4096, 8), (20_000, 16)] {
            assert!(long.div_ceil(piece(long, threads, 14)) >= 2 * threads, "{long} rows on {threads} threads");
        }
        // Small ones are cut once for each thread, and one thread gets all.
        assert_eq!((piece(128, 2, 14), piece(4096, 1, 16)), (70, 4096));
    }

    #[test]
    #[should_panic(expected = "overlap")]
    fn overlapping_c_is_refused() {
        gemm(2, 2, 1, &[1.0; 2], (1, 1), &[1.0; 2], (2, 1), Start::Zero, &mut [0.0; 4], 1);
    }

    #[test]
    #[should_panic(expected = "B [3, 2]")]
    fn short_b_is_refused() {
        gemm(2, 2, 3, &[1.0; 6], (3, 1), &[1.0; 5], (2, 1), Start::Zero, &mut [0.0; 4], 2);
    }
}
