//! The largest gradients among the zeros of a sparse layer, never stored dense.

use std::cmp::Ordering;

use rayon::prelude::*;

use crate::shape::volume;
use crate::simd::{Isa, Kernel, Vector};
use crate::{Csr, Real, Start, Tiled, gemm};

/// Numbers in one block of the dense gradient: 4 MB of f32.
const BLOCK: usize = 1 << 20;

/// The `count` zeros of a layer with the largest |gradient|, as (position `row * cols + col`, gradient), descending,
/// ties by lower position.
///
/// `x` is the input `[batch, cols]`, `g` the gradient of the output `[batch, rows]`; the gradient of a zero is
/// `sum_b g[b, row] x[b, col]`, the growth criterion of RigL (Evci et al. 2020). It is computed in blocks of at most
/// 4 MB (f64: 8 MB), so memory is O(count); time is O(batch rows cols). Fewer are returned if there are fewer zeros;
/// NaN gradients are left out. The result does not depend on the number of threads.
///
/// # Panics
/// When a slice does not have its shape or `csr` is not valid.
pub fn top_zero_gradients<T: Real>(csr: Csr, batch: usize, x: &[T], g: &[T], count: usize) -> Vec<(u64, T)> {
    T::top_zeros(csr, batch, x, g, count)
}

pub(crate) fn top_zeros<T: Real>(csr: Csr, batch: usize, x: &[T], g: &[T], count: usize) -> Vec<(u64, T)> {
    csr.check();
    let (rows, cols) = (csr.rows, csr.cols);
    assert_eq!(x.len(), volume([batch, cols]), "x of [{batch}, {cols}]");
    assert_eq!(g.len(), volume([batch, rows]), "g of [{batch}, {rows}]");
    // Below 2^64, since both are below 2^32 in a valid structure.
    let zeros = (rows as u64 * cols as u64).saturating_sub(csr.nnz() as u64);
    let count = count.min(usize::try_from(zeros).unwrap_or(usize::MAX));
    if count == 0 {
        return Vec::new();
    }
    // At least 128 rows per block if that fits, so that packing x pays.
    let wide = cols.min(BLOCK / 128);
    let high = (BLOCK / wide).min(rows);
    let mut block = vec![T::ZERO; high * wide];
    let mut best = Best { count, found: Vec::new(), bar: None };
    for r0 in (0..rows).step_by(high) {
        let high = high.min(rows - r0);
        for c0 in (0..cols).step_by(wide) {
            let wide = wide.min(cols - c0);
            let block = &mut block[..high * wide];
            let (g, x) = (&g[r0.min(g.len())..], &x[c0.min(x.len())..]);
            gemm(high, wide, batch, g, (1, rows), x, (cols, 1), Start::Zero, block, wide);
            best.offer(&csr, r0, c0, wide, block);
        }
    }
    best.finish()
}

/// `Σ_b g[b, row] x[b, col]` at positions `row * cols + col`, of zeros or not. O(positions · batch); the result does not depend on
/// the number of threads.
///
/// # Panics
/// When the batches differ or a position exceeds the layer.
pub fn gradients_at<T: Real>(positions: &[u64], x: &Tiled<T>, g: &Tiled<T>) -> Vec<T> {
    T::products_at(positions, x, g)
}

pub(crate) fn products_at<T: Real>(positions: &[u64], x: &Tiled<T>, g: &Tiled<T>) -> Vec<T> {
    assert_eq!(x.batch(), g.batch(), "batch of x and g");
    let places = x.features() as u128 * g.features() as u128;
    assert!(positions.iter().all(|&p| u128::from(p) < places), "a position is outside of the layer");
    let dot = |&p: &u64| {
        let (row, col) = ((p / x.features() as u64) as usize, (p % x.features() as u64) as usize);
        let mut sums = [T::ZERO; 8];
        for t in 0..x.tiles() {
            let width = x.width(t);
            let line = |f: usize| f * width..(f + 1) * width;
            let (x, g) = (&x.tile(t)[line(col)], &g.tile(t)[line(row)]);
            for (x, g) in x.chunks_exact(8).zip(g.chunks_exact(8)) {
                (0..8).for_each(|i| sums[i] += x[i] * g[i]);
            }
        }
        sums.into_iter().sum()
    };
    positions.par_iter().map(dot).collect()
}

/// As [`top_zero_gradients`] with activations in tiles.
///
/// # Panics
/// When shapes differ or `csr` is not valid.
pub fn top_zero_gradients_tiled<T: Real>(csr: Csr, x: &Tiled<T>, g: &Tiled<T>, count: usize) -> Vec<(u64, T)> {
    assert_eq!((x.features(), g.features()), (csr.cols, csr.rows), "features of x and g");
    assert_eq!(x.batch(), g.batch(), "batch of x and g");
    // Row-major operands pack faster, and every block packs x again.
    let (mut xs, mut gs) = (vec![T::ZERO; volume([x.batch(), csr.cols])], vec![T::ZERO; volume([x.batch(), csr.rows])]);
    x.to_rows(&mut xs);
    g.to_rows(&mut gs);
    top_zero_gradients(csr, x.batch(), &xs, &gs, count)
}

/// Keeps the best `count` of everything offered, in O(count) memory.
struct Best<T> {
    count: usize,
    found: Vec<(u64, T)>,
    /// The worst of `count` found ones: candidates that do not beat it need not be kept.
    bar: Option<(u64, T)>,
}

/// Larger magnitude first, then lower position.
fn order<T: Real>(a: &(u64, T), b: &(u64, T)) -> Ordering {
    b.1.abs().partial_cmp(&a.1.abs()).unwrap_or(Ordering::Equal).then(a.0.cmp(&b.0))
}

impl<T: Real> Best<T> {
    fn offer(&mut self, csr: &Csr, r0: usize, c0: usize, wide: usize, block: &mut [T]) {
        // A few rows at a time: until the bar is set everything is a candidate.
        let part = (1_usize << 15).div_ceil(wide);
        for (i, rows) in block.chunks_mut(part * wide * 8).enumerate() {
            let r0 = r0 + i * part * 8;
            let bar = self.bar;
            let scan = |(i, rows): (usize, &mut [T])| candidates(csr, r0 + i * part, c0, wide, rows, bar);
            let found: Vec<Vec<(u64, T)>> = rows.par_chunks_mut(part * wide).enumerate().map(scan).collect();
            found.iter().for_each(|f| self.found.extend_from_slice(f));
            if self.found.len() >= self.count.saturating_mul(2).max(self.count + (1 << 16)) {
                self.prune();
            }
        }
    }

    fn prune(&mut self) {
        if self.found.len() > self.count {
            self.found.select_nth_unstable_by(self.count - 1, order);
            self.found.truncate(self.count);
            self.bar = Some(self.found[self.count - 1]);
        }
    }

    fn finish(mut self) -> Vec<(u64, T)> {
        self.prune();
        self.found.sort_unstable_by(order);
        self.found
    }
}

/// Collects the zeros in `rows` (from row `r0`, columns `c0..c0 + wide`) that beat the bar.
fn candidates<T: Real>(
    csr: &Csr,
    r0: usize,
    c0: usize,
    wide: usize,
    rows: &mut [T],
    bar: Option<(u64, T)>,
) -> Vec<(u64, T)> {
    let mut found = Vec::new();
    for (r, row) in rows.chunks_mut(wide).enumerate() {
        let active = &csr.columns[csr.starts[r0 + r]..csr.starts[r0 + r + 1]];
        let from = active.partition_point(|&c| (c as usize) < c0);
        // NaN is never large, so active entries fall out.
        for &c in active[from..].iter().take_while(|&&c| (c as usize) < c0 + wide) {
            row[c as usize - c0] = T::nan();
        }
        let first = (r0 + r) as u64 * csr.cols as u64 + c0 as u64;
        // SAFETY: it has no conditions.
        unsafe { Isa::best().run(Scan { row, first, bar, found: &mut found }) }
    }
    found
}

/// Appends the numbers of `row` (positions from `first`) that beat the bar.
struct Scan<'a, T> {
    row: &'a [T],
    first: u64,
    bar: Option<(u64, T)>,
    found: &'a mut Vec<(u64, T)>,
}

impl<T: Real> Kernel<T> for Scan<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        let floor = self.bar.map_or(T::ZERO, |b| b.1.abs());
        let mut offer = |i: usize| {
            let one = (self.first + i as u64, self.row[i]);
            if self.bar.is_none_or(|b| order(&one, &b) == Ordering::Less) {
                self.found.push(one);
            }
        };
        let whole = self.row.len() / V::LANES * V::LANES;
        for i in (0..whole).step_by(V::LANES) {
            // SAFETY: a whole register fits.
            let mut large = unsafe { V::load(self.row.as_ptr().add(i)).at_least(floor) };
            while large != 0 {
                offer(i + large.trailing_zeros() as usize);
                large &= large - 1;
            }
        }
        (whole..self.row.len()).filter(|&i| self.row[i].abs() >= floor).for_each(offer);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Layer, bits, on_threads, random};

    /// Small whole numbers: sums are exact and ties are many.
    fn whole(seed: u64, n: usize) -> Vec<f32> {
        (0..n as u64).map(|i| (bits(seed, i) % 7) as f32 - 3.0).collect()
    }

    fn plain(layer: &Layer, batch: usize, x: &[f32], g: &[f32], count: usize) -> Vec<(u64, f32)> {
        let active = layer.dense(&vec![1.0f32; layer.nnz()]);
        let mut all = Vec::new();
        for p in (0..layer.rows * layer.cols).filter(|&p| active[p] == 0.0) {
            let (r, c) = (p / layer.cols, p % layer.cols);
            all.push((p as u64, (0..batch).map(|b| g[b * layer.rows + r] * x[b * layer.cols + c]).sum::<f32>()));
        }
        all.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()).then(a.0.cmp(&b.0)));
        all.truncate(count);
        all
    }

    proptest! {
        #[test]
        fn equals_a_full_sort(
            rows in 0usize..40, cols in 0usize..60, density in 0.0..1.0f64, batch in prop::sample::select(vec![0usize, 1, 3, 70]),
            count in 0usize..900, seed in 0u64..99,
        ) {
            let layer = Layer::random(rows, cols, density, seed);
            let (x, g) = (whole(seed, batch * cols), whole(seed + 1, batch * rows));
            let got = top_zero_gradients(layer.csr(), batch, &x, &g, count);
            prop_assert_eq!(&got, &plain(&layer, batch, &x, &g, count));
            let (x, g) = (Tiled::from_rows(batch, cols, &x), Tiled::from_rows(batch, rows, &g));
            prop_assert_eq!(got, top_zero_gradients_tiled(layer.csr(), &x, &g, count));
        }
    }

    #[test]
    fn blocks_of_rows_and_columns_and_pruning_lose_nothing() {
        // Wider than one block of columns, more rows than one block, more candidates than the buffer holds.
        for (rows, cols) in [(90, 9000), (600, 1000)] {
            let layer = Layer::new(rows, cols, |r, c| (r * 31 + c) % 11 == 0);
            let (x, g) = (whole(5, 3 * cols), whole(6, 3 * rows));
            let got = top_zero_gradients(layer.csr(), 3, &x, &g, 5000);
            assert_eq!(got, plain(&layer, 3, &x, &g, 5000));
        }
    }

    #[test]
    fn gradients_at_positions_are_those_of_a_full_product() {
        for batch in [1, 7, 64, 100] {
            let layer = Layer::new(30, 50, |r, c| (r + c) % 3 == 0);
            let (x, g) = (whole(1, batch * 50), whole(2, batch * 30));
            let all = plain(&layer, batch, &x, &g, 2000);
            let positions: Vec<u64> = all.iter().map(|z| z.0).collect();
            let (x, g) = (Tiled::from_rows(batch, 50, &x), Tiled::from_rows(batch, 30, &g));
            let found = gradients_at(&positions, &x, &g);
            assert!(found.iter().zip(&all).all(|(a, b)| *a == b.1));
        }
    }

    #[test]
    fn not_a_number_is_left_out() {
        let layer = Layer::new(2, 2, |_, _| false);
        let got = top_zero_gradients(layer.csr(), 1, &[1.0, f32::NAN], &[2.0, 3.0], 4);
        assert_eq!(got, [(2, 3.0), (0, 2.0)]);
    }

    #[test]
    fn any_thread_count_gives_the_same_bits() {
        let layer = Layer::random(500, 600, 0.1, 3);
        on_threads(|| {
            let (x, g): (Vec<f32>, Vec<f32>) = (random(1, 20 * layer.cols), random(2, 20 * layer.rows));
            top_zero_gradients(layer.csr(), 20, &x, &g, 1000)
        });
    }
}
