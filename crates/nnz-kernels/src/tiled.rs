//! Activations in the kernels' layout.

use crate::shape::volume;
use crate::simd::{Isa, Kernel, Vector};
use crate::threads::spread;
use crate::transpose::transpose;
use crate::{Buffer, Real};

/// Samples in a full tile.
pub const TILE: usize = 64;

/// Activations `[batch, features]` stored tile by tile, each `[features, 64]`: the samples of one feature are
/// adjacent, since the inner loop of every sparse kernel runs over samples.
///
/// The last tile is as wide as the remaining samples rounded up to 8, 16, 32, 48 or 64. Conversions make this padding zero. Sums over
/// samples include it, so it must stay zero in gradients: functions that map 0 to 0 keep it so, as the product with
/// a sparse layer does. In activations it may become anything finite (a layer adds its bias there).
///
/// Memory of dropped tiles is kept for the next of the same size.
#[derive(Clone, Debug)]
pub struct Tiled<T: Real> {
    batch: usize,
    features: usize,
    data: Buffer<T>,
}

impl<T: Real> Tiled<T> {
    /// Zeros.
    ///
    /// # Panics
    /// When no memory holds that many.
    pub fn zeros(batch: usize, features: usize) -> Self {
        let mut zeros = Self::any(batch, features);
        zeros.as_mut_slice().fill(T::ZERO);
        zeros
    }

    /// Arbitrary content: for outputs of kernels, which overwrite everything.
    ///
    /// # Panics
    /// When no memory holds that many.
    pub fn any(batch: usize, features: usize) -> Self {
        // Whole tiles: functions assume 64 samples of every feature, present or not.
        volume([padded(batch).max(TILE), features]);
        Self { batch, features, data: Buffer::scattered(padded(batch) * features) }
    }

    /// Converts row-major `[batch, features]`.
    ///
    /// # Panics
    /// When `rows` has another length.
    pub fn from_rows(batch: usize, features: usize, rows: &[T]) -> Self {
        let mut tiled = Self::any(batch, features);
        tiled.copy_from_rows(rows);
        tiled
    }

    /// Overwrites with row-major `[batch, features]`.
    ///
    /// # Panics
    /// When `rows` has another length.
    pub fn copy_from_rows(&mut self, rows: &[T]) {
        T::tile(self, Isa::best(), rows);
    }

    pub(crate) fn tile_on(&mut self, isa: Isa, rows: &[T]) {
        assert_eq!(rows.len(), self.batch * self.features, "rows of [{}, {}]", self.batch, self.features);
        let (batch, features) = (self.batch, self.features);
        self.blocks(|b0, width, f0, block| {
            let wide = (batch - b0).min(width);
            let many = block.len() / width;
            transpose(isa, wide, many, (&rows[b0 * features + f0..], features), (block, width));
            if wide < width {
                block.chunks_exact_mut(width).for_each(|line| line[wide..].fill(T::ZERO));
            }
        });
    }

    /// Writes row-major `[batch, features]`.
    ///
    /// # Panics
    /// When `rows` has another length.
    pub fn to_rows(&self, rows: &mut [T]) {
        T::untile(self, Isa::best(), rows);
    }

    pub(crate) fn untile_on(&self, isa: Isa, rows: &mut [T]) {
        assert_eq!(rows.len(), self.batch * self.features, "rows of [{}, {}]", self.batch, self.features);
        if self.features == 0 {
            return;
        }
        let stride = TILE * self.features;
        let tile = |(t, rows): (usize, &mut [T])| {
            let (tile, width) = (self.tile(t), self.width(t));
            let wide = rows.len() / self.features;
            for f0 in (0..self.features).step_by(TILE) {
                let many = TILE.min(self.features - f0);
                let to = &mut rows[f0..];
                transpose(isa, many, wide, (&tile[f0 * width..], width), (to, self.features));
            }
        };
        match rows.len() < 1 << 16 {
            true => rows.chunks_mut(stride).enumerate().for_each(tile),
            false => spread(rows.chunks_mut(stride).enumerate().collect(), tile),
        }
    }

    /// Zeroes the padding.
    pub fn clear_padding(&mut self) {
        let (batch, features) = (self.batch, self.features);
        let (used, width) = (batch % TILE, padded(batch % TILE));
        if used == width {
            return;
        }
        let start = batch / TILE * TILE * features;
        self.as_mut_slice()[start..].chunks_exact_mut(width).for_each(|line| line[used..].fill(T::ZERO));
    }

    /// Sums every feature over the samples: the gradient of a bias. Padding must be zero.
    ///
    /// # Panics
    /// When `sums` does not have one number per feature.
    pub fn sum_batch(&self, sums: &mut [T]) {
        T::sum_batch(self, Isa::best(), sums);
    }

    pub(crate) fn sum_batch_on(&self, isa: Isa, sums: &mut [T]) {
        assert_eq!(sums.len(), self.features, "sums");
        sums.fill(T::ZERO);
        for t in 0..self.tiles() {
            let width = self.width(t);
            // SAFETY: a tile has a line of its width for each feature.
            unsafe { isa.dividing::<T>(width).run(SumLines { tile: self.tile(t), width, sums: &mut *sums }) }
        }
    }

    /// Calls `f(first sample, width, first feature, [features of the block, width])` for blocks of features.
    fn blocks(&mut self, f: impl Fn(usize, usize, usize, &mut [T]) + Sync) {
        let (batch, features) = (self.batch, self.features);
        if features == 0 {
            return;
        }
        let widths = (0..self.tiles()).map(|t| width(batch, t));
        let mut rest = self.as_mut_slice();
        let mut jobs = Vec::new();
        for (t, width) in widths.enumerate() {
            let (tile, tail) = rest.split_at_mut(features * width);
            rest = tail;
            jobs.extend(tile.chunks_mut(TILE * width).enumerate().map(|(i, block)| (t * TILE, width, i * TILE, block)));
        }
        let work = |(b, w, f0, block): (usize, usize, usize, &mut [T])| f(b, w, f0, block);
        if batch * features < 1 << 16 {
            return jobs.into_iter().for_each(work);
        }
        let (mut jobs, mut some) = (jobs.into_iter(), Vec::new());
        while jobs.len() > 0 {
            some.push(jobs.by_ref().take(8).collect::<Vec<_>>());
        }
        spread(some, |jobs| jobs.into_iter().for_each(work));
    }

    /// Cuts every tile into runs of this many features: all runs of the first tile, then those of the next.
    pub(crate) fn split(&mut self, features: &[usize]) -> Vec<&mut [T]> {
        assert_eq!(features.iter().sum::<usize>(), self.features, "features of the parts");
        let widths: Vec<usize> = (0..self.tiles()).map(|t| self.width(t)).collect();
        let mut rest = self.as_mut_slice();
        let mut parts = Vec::with_capacity(features.len() * widths.len());
        for width in widths {
            for f in features {
                let (part, after) = rest.split_at_mut(f * width);
                rest = after;
                parts.push(part);
            }
        }
        parts
    }

    /// Samples.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Features.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Number of tiles.
    pub fn tiles(&self) -> usize {
        self.batch.div_ceil(TILE)
    }

    /// Samples stored in tile `t`, padding included: 64, or less in the last one.
    pub fn width(&self, t: usize) -> usize {
        width(self.batch, t)
    }

    /// Tile `t`, `[features, width(t)]`.
    pub fn tile(&self, t: usize) -> &[T] {
        let start = t * TILE * self.features;
        &self.as_slice()[start..start + self.width(t) * self.features]
    }

    /// As [`Tiled::tile`]. The padding of gradients must stay zero.
    pub fn tile_mut(&mut self, t: usize) -> &mut [T] {
        let (start, len) = (t * TILE * self.features, self.width(t) * self.features);
        &mut self.as_mut_slice()[start..start + len]
    }

    /// Every number, tile by tile, padding included: element-wise functions can run over this.
    pub fn as_slice(&self) -> &[T] {
        &self.data
    }

    /// As [`Tiled::as_slice`]. The padding of gradients must stay zero.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.data
    }
}

/// `sums[f] += sum of line f`, lines of `width` numbers, a multiple of the register.
struct SumLines<'a, T> {
    tile: &'a [T],
    width: usize,
    sums: &'a mut [T],
}

impl<T: Real> Kernel<T> for SumLines<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        for (sum, line) in self.sums.iter_mut().zip(self.tile.chunks_exact(self.width)) {
            // SAFETY: whole registers of the line.
            unsafe {
                let mut lanes = V::load(line.as_ptr());
                for at in (V::LANES..self.width).step_by(V::LANES) {
                    lanes = lanes.add(V::load(line.as_ptr().add(at)));
                }
                *sum += lanes.sum();
            }
        }
    }
}

fn width(batch: usize, t: usize) -> usize {
    padded((batch - t * TILE).min(TILE))
}

/// Samples stored in the tiles of a batch, padding included: those that kernels work on.
///
/// # Panics
/// When that overflows.
pub fn padded(batch: usize) -> usize {
    // Registers of eight take no less.
    let wide = if (1..=8).contains(&(batch % TILE)) { 8 } else { 16 };
    batch.checked_next_multiple_of(wide).expect("samples that memory could hold")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    #[test]
    fn rows_survive_and_padding_is_zero() {
        for (batch, features) in
            [(0, 5), (5, 0), (1, 1), (7, 3), (8, 40), (9, 16), (64, 17), (65, 40), (130, 33), (1000, 200)]
        {
            let x: Vec<f32> = random(1, batch * features);
            let t = Tiled::from_rows(batch, features, &x);
            assert_eq!(t.as_slice().as_ptr() as usize % 64, 0);
            let mut back = vec![f32::NAN; x.len()];
            t.to_rows(&mut back);
            assert_eq!(back, x);
            let mut seen = 0;
            for i in 0..t.tiles() {
                for (k, &v) in t.tile(i).iter().enumerate() {
                    let (f, b) = (k / t.width(i), i * TILE + k % t.width(i));
                    assert_eq!(v, if b < batch { x[b * features + f] } else { 0.0 });
                    seen += 1;
                }
            }
            assert_eq!(seen, t.as_slice().len());

            let mut sums = vec![0.0; features];
            t.sum_batch(&mut sums);
            for (f, s) in sums.iter().enumerate() {
                let want: f64 = (0..batch).map(|b| f64::from(x[b * features + f])).sum();
                assert!((f64::from(*s) - want).abs() < 1e-4, "sum of feature {f}: {s} for {want}");
            }
            let mut dirty = t.clone();
            dirty.as_mut_slice().iter_mut().filter(|v| **v == 0.0).for_each(|v| *v = 7.0);
            dirty.clear_padding();
            assert_eq!(dirty.as_slice(), t.as_slice());
        }
    }
}
