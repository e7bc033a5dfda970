//! Patches of images: what a sparse convolution multiplies.

use crate::arrays::shape;
use crate::error::value;
use nnz_kernels::threads::spread;
use nnz_kernels::{Real, TILE, Tiled};
use pyo3::prelude::*;

/// Patches of a convolution that are unfolded at a time, in numbers: they stay in the second-level cache.
const UNFOLDED: usize = 1 << 18;

/// How a kernel moves over images `[channels, height, width]`.
pub struct Window {
    pub channels: usize,
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
}

/// A window over the images of one call. Positions count the outputs of one channel, image after image.
pub struct Images<'a> {
    window: &'a Window,
    pub images: usize,
    input: [usize; 2],
    output: [usize; 2],
    before: [usize; 2],
}

/// Positions of a row of outputs that lie in a tile.
struct Run {
    /// Where they begin in it.
    at: usize,
    len: usize,
    image: usize,
    /// Row of the outputs, and the first column.
    row: usize,
    column: usize,
}

impl<'a> Images<'a> {
    pub fn new(window: &'a Window, out: usize, x: &[usize], y: &[usize], before: [usize; 2]) -> PyResult<Self> {
        let (&[images, _, high, wide], &[.., height, width]) = (x, y) else {
            return Err(value(format!("x and y have 4 extents each, not {} and {}", x.len(), y.len())));
        };
        shape("x", x, &[images, window.channels, high, wide])?;
        shape("y", y, &[images, out, height, width])?;
        let limit = 1 << 31;
        if before
            .iter()
            .chain(&window.stride)
            .chain(&window.dilation)
            .chain(&window.kernel)
            .chain(x)
            .chain(y)
            .any(|&n| n >= limit)
        {
            return Err(value("extents, padding, stride and dilation are below 2^31"));
        }
        Ok(Self { window, images, input: [high, wide], output: [height, width], before })
    }

    /// Outputs of a channel of an image.
    pub fn area(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Calls `f` with ranges of images whose patches of `cols` numbers fit the cache, in order.
    pub fn parts(&self, cols: usize, mut f: impl FnMut(std::ops::Range<usize>)) {
        let each = (UNFOLDED / (cols * self.area()).max(1)).max(1);
        (0..self.images).step_by(each).for_each(|first| f(first..(first + each).min(self.images)));
    }

    pub fn inputs(&self, images: &std::ops::Range<usize>) -> std::ops::Range<usize> {
        let each = self.window.channels * self.input[0] * self.input[1];
        images.start * each..images.end * each
    }

    pub fn outputs(&self, rows: usize, images: &std::ops::Range<usize>) -> std::ops::Range<usize> {
        let each = rows * self.area();
        images.start * each..images.end * each
    }

    pub fn input<'x, T>(&self, x: &'x [T], images: &std::ops::Range<usize>) -> &'x [T] {
        &x[self.inputs(images)]
    }

    /// The rows of outputs of which `positions` are made.
    fn runs(&self, positions: std::ops::Range<usize>) -> Vec<Run> {
        let (area, wide) = (self.area(), self.output[1]);
        let (mut runs, mut p) = (Vec::new(), positions.start);
        while p < positions.end {
            let (image, inside) = (p / area, p % area);
            let (row, column) = (inside / wide, inside % wide);
            let len = (wide - column).min(positions.end - p);
            runs.push(Run { at: p - positions.start, len, image, row, column });
            p += len;
        }
        runs
    }

    /// The input pixels that a column of the weight reads in a run: where those that exist begin in the run, how many they are,
    /// where the first is in the image's data, and the distance between two.
    fn pixels(&self, column: u32, run: &Run) -> (usize, usize, usize, usize) {
        let Window { channels: _, kernel, stride, dilation } = self.window;
        let (column, [high, wide]) = (column as usize, self.input);
        let (channel, ky, kx) = (column / (kernel[0] * kernel[1]), column / kernel[1] % kernel[0], column % kernel[1]);
        let y = (run.row * stride[0] + ky * dilation[0]) as i64 - self.before[0] as i64;
        if y < 0 || y >= high as i64 {
            return (run.len, 0, 0, 1);
        }
        let shift = (kx * dilation[1]) as i64 - self.before[1] as i64;
        let step = stride[1] as i64;
        // Columns c of the outputs with 0 ≤ c step + shift < wide.
        let first = if shift >= 0 { 0 } else { (-shift + step - 1) / step };
        let last = if shift >= wide as i64 { 0 } else { (wide as i64 - 1 - shift) / step + 1 };
        let from = first.max(run.column as i64);
        let to = last.min((run.column + run.len) as i64);
        if from >= to {
            return (run.len, 0, 0, 1);
        }
        let at = (channel * high + y as usize) * wide + (from * step + shift) as usize;
        ((from - run.column as i64) as usize, (to - from) as usize, at, stride[1])
    }

    /// Patches of some images as inputs of the kernels, `[positions, cols]`. Columns without connections have any content.
    pub fn unfold<T: Real>(&self, used: &[u32], cols: usize, x: &[T], images: usize) -> Tiled<T> {
        let positions = images * self.area();
        let mut tiled = Tiled::any(positions, cols);
        let widths: Vec<usize> = (0..tiled.tiles()).map(|t| tiled.width(t)).collect();
        let each = x.len() / images.max(1);
        let fill = |(t, tile): (usize, &mut [T])| {
            let width = widths[t];
            let last = positions.min((t + 1) * TILE);
            let runs = self.runs(t * TILE..last);
            for &column in used {
                let line = &mut tile[column as usize * width..][..width];
                line[last - t * TILE..].fill(T::ZERO);
                for run in &runs {
                    let line = &mut line[run.at..run.at + run.len];
                    let (from, len, at, step) = self.pixels(column, run);
                    line[..from].fill(T::ZERO);
                    line[from + len..].fill(T::ZERO);
                    let line = &mut line[from..from + len];
                    let x = &x[run.image * each + at..];
                    match step {
                        1 => line.copy_from_slice(&x[..len]),
                        _ => line.iter_mut().zip(x.iter().step_by(step)).for_each(|(to, &v)| *to = v),
                    }
                }
            }
        };
        let all = tiled.as_mut_slice();
        if cols > 0 {
            spread(all.chunks_mut(TILE * cols).enumerate().collect(), fill);
        }
        tiled
    }

    /// Adds the gradients of patches up to those of the images, which are overwritten.
    pub fn fold<T: Real>(&self, used: &[u32], patches: &Tiled<T>, dx: &mut [T]) {
        let each = self.window.channels * self.input[0] * self.input[1];
        if each == 0 {
            return;
        }
        spread(dx.chunks_mut(each).enumerate().collect(), |(image, dx): (usize, &mut [T])| {
            dx.fill(T::ZERO);
            let own = image * self.area()..(image + 1) * self.area();
            for t in own.start / TILE..own.end.div_ceil(TILE) {
                let (tile, width) = (patches.tile(t), patches.width(t));
                let first = own.start.max(t * TILE);
                let runs = self.runs(first..own.end.min((t + 1) * TILE));
                for &column in used {
                    let line = &tile[column as usize * width + first - t * TILE..];
                    for run in &runs {
                        let (from, len, at, step) = self.pixels(column, run);
                        let line = &line[run.at + from..][..len];
                        match step {
                            1 => dx[at..at + len].iter_mut().zip(line).for_each(|(d, &v)| *d += v),
                            _ => dx[at..].iter_mut().step_by(step).zip(line).for_each(|(d, &v)| *d += v),
                        }
                    }
                }
            }
        });
    }

    /// Outputs of the kernels as images.
    pub fn spread<T: Real>(&self, out: &Tiled<T>, rows: usize, y: &mut [T]) {
        let area = self.area();
        if rows * area == 0 {
            return;
        }
        spread(y.chunks_mut(rows * area).enumerate().collect(), |(image, y): (usize, &mut [T])| {
            let own = image * area..(image + 1) * area;
            for t in own.start / TILE..own.end.div_ceil(TILE) {
                let (tile, width) = (out.tile(t), out.width(t));
                let (first, last) = (own.start.max(t * TILE), own.end.min((t + 1) * TILE));
                for (y, line) in y.chunks_exact_mut(area).zip(tile.chunks_exact(width)) {
                    y[first - own.start..last - own.start].copy_from_slice(&line[first - t * TILE..last - t * TILE]);
                }
            }
        });
    }

    /// Gradients of images as gradients of the outputs of the kernels.
    pub fn collect<T: Real>(&self, g: &[T], rows: usize, images: usize) -> Tiled<T> {
        let (area, positions) = (self.area(), images * self.area());
        let mut tiled = Tiled::any(positions, rows);
        let widths: Vec<usize> = (0..tiled.tiles()).map(|t| tiled.width(t)).collect();
        let fill = |(t, tile): (usize, &mut [T])| {
            let (mut p, last) = (t * TILE, positions.min((t + 1) * TILE));
            tile.chunks_exact_mut(widths[t]).for_each(|line| line[last - t * TILE..].fill(T::ZERO));
            while p < last {
                let (image, inside) = (p / area, p % area);
                let len = (area - inside).min(last - p);
                for (row, line) in tile.chunks_exact_mut(widths[t]).enumerate() {
                    let from = (image * rows + row) * area + inside;
                    line[p - t * TILE..][..len].copy_from_slice(&g[from..from + len]);
                }
                p += len;
            }
        };
        if rows > 0 {
            spread(tiled.as_mut_slice().chunks_mut(TILE * rows).enumerate().collect(), fill);
        }
        tiled
    }
}
