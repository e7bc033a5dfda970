//! Largest values under windows.

use super::conv::Conv;
use super::{Raw, each};
use crate::shape::volume;
use crate::simd::{Kernel, Vector};
use crate::{Isa, Real};

/// Largest value of every channel under every window of `shape` (whose filters and groups do not matter): values
/// `[batch, output.., channels]` and their positions in x. Padding never wins; the first of equals does.
///
/// # Panics
/// When lengths do not match the shape, a window covers only padding, or positions do not fit 32 bits.
pub fn max_pool<T: Real>(shape: &Conv, x: &[T], y: &mut [T], at: &mut [u32]) {
    T::max_pool(shape, Isa::best(), x, y, at);
}

pub(crate) fn max_pool_on<T: Real>(shape: &Conv, isa: Isa, x: &[T], y: &mut [T], at: &mut [u32]) {
    shape.geometry();
    let Conv { batch, size, channels, kernel, stride, padding, dilation, .. } = *shape;
    let out = shape.output();
    let (inputs, outputs) = (size.iter().product::<usize>() * channels, out.iter().product::<usize>() * channels);
    assert!(
        x.len() == volume([batch, inputs]) && y.len() == volume([batch, outputs]) && at.len() == y.len(),
        "shapes differ from {shape:?}"
    );
    assert!(u32::try_from(x.len()).is_ok(), "positions do not fit 32 bits");
    let (y, at) = (Raw::of_mut(y), Raw::of_mut(at));
    each(batch, x.len() < 1 << 16, &|b| {
        let mut under = Vec::new();
        for p in 0..outputs / channels.max(1) {
            let o = [p / (out[1] * out[2]), p / out[2] % out[1], p % out[2]];
            let inside = |i: usize, k: usize| {
                (o[i] * stride[i] + k * dilation[i]).checked_sub(padding[i]).filter(|&q| q < size[i])
            };
            under.clear();
            for z in (0..kernel[0]).filter_map(|k| inside(0, k)) {
                for y in (0..kernel[1]).filter_map(|k| inside(1, k)) {
                    let line = ((b * size[0] + z) * size[1] + y) * size[2];
                    under.extend((0..kernel[2]).filter_map(|k| inside(2, k)).map(|x| (line + x) * channels));
                }
            }
            assert!(!under.is_empty(), "a window of {shape:?} sees only padding");
            // SAFETY: pixels are disjoint, and `y` and `at` have them all.
            unsafe {
                let first = b * outputs + p * channels;
                let y = std::slice::from_raw_parts_mut(y.get().add(first), channels);
                let at = std::slice::from_raw_parts_mut(at.get().add(first), channels);
                isa.run(Pixel { x, under: &under, y, at });
            }
        }
    });
}

struct Pixel<'a, T> {
    x: &'a [T],
    under: &'a [usize],
    y: &'a mut [T],
    at: &'a mut [u32],
}

impl<T: Real> Kernel<T> for Pixel<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        let n = self.y.len();
        let at = &mut self.at[..n];
        for (turn, &from) in self.under.iter().enumerate() {
            let x = &self.x[from..from + n];
            for c in 0..n {
                let wins = turn == 0 || x[c] > self.y[c];
                self.y[c] = if wins { x[c] } else { self.y[c] };
                at[c] = if wins { (from + c) as u32 } else { at[c] };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    #[test]
    fn equals_plain_loops() {
        for (kernel, stride, padding, dilation) in [(2, 2, 0, 1), (3, 1, 1, 1), (3, 2, 1, 2)] {
            let shape = Conv {
                batch: 2,
                size: [1, 7, 6],
                channels: 19,
                filters: 19,
                kernel: [1, kernel, kernel],
                stride: [1, stride, stride],
                padding: [0, padding, padding],
                dilation: [1, dilation, dilation],
                groups: 1,
            };
            let x = random::<f32>(1, 2 * 42 * 19);
            let [_, oh, ow] = shape.output();
            let n = 2 * oh * ow * 19;
            let (mut y, mut at) = (vec![0.0; n], vec![0; n]);
            max_pool(&shape, &x, &mut y, &mut at);
            for i in 0..n {
                let (b, oy, ox, c) = (i / (oh * ow * 19), i / (ow * 19) % oh, i / 19 % ow, i % 19);
                let under = (0..kernel * kernel).filter_map(|k| {
                    let line = (oy * stride + k / kernel * dilation).checked_sub(padding).filter(|&q| q < 7)?;
                    let place = (ox * stride + k % kernel * dilation).checked_sub(padding).filter(|&q| q < 6)?;
                    Some(((b * 7 + line) * 6 + place) * 19 + c)
                });
                let best = under.reduce(|a, b| if x[b] > x[a] { b } else { a }).expect("some pixel");
                assert_eq!((y[i], at[i] as usize), (x[best], best));
            }
        }
    }
}
