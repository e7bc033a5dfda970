//! Windows over images, sequences and volumes, and the patches under them.

use super::*;
use nnz_kernels as kernels;

/// Geometry of a window over `D` spatial axes of `[batch, .., channels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window<const D: usize = 2> {
    /// Extents of the kernel.
    pub kernel: [usize; D],
    /// Steps.
    pub stride: [usize; D],
    /// Zeros on both sides of every axis.
    pub padding: [usize; D],
    /// Distance between neighbours in the kernel.
    pub dilation: [usize; D],
}

impl<const D: usize> Window<D> {
    /// Stride and dilation one, no padding.
    pub fn new(kernel: [usize; D]) -> Self {
        Self { kernel, stride: [1; D], padding: [0; D], dilation: [1; D] }
    }

    /// Sets the stride.
    pub fn stride(self, stride: [usize; D]) -> Self {
        Self { stride, ..self }
    }

    /// Sets the padding.
    pub fn padding(self, padding: [usize; D]) -> Self {
        Self { padding, ..self }
    }

    /// Sets the dilation.
    pub fn dilation(self, dilation: [usize; D]) -> Self {
        Self { dilation, ..self }
    }

    /// Entries of the kernel.
    pub fn area(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Whether it fits at least once into `size`, and its numbers make sense.
    pub fn fits(&self, size: [usize; D]) -> bool {
        let axis = |i: usize| {
            let span = self.kernel[i].checked_sub(1)?.checked_mul(self.dilation[i])?.checked_add(1)?;
            let room = self.padding[i].checked_mul(2)?.checked_add(size[i])?;
            (span <= room && self.stride[i] > 0 && self.dilation[i] > 0).then_some(())
        };
        (0..D).all(|i| axis(i).is_some())
    }

    /// Extents of the output over an input of `size`; zero if the window does not fit.
    pub fn output(&self, size: [usize; D]) -> [usize; D] {
        std::array::from_fn(|i| {
            let span = self.dilation[i] * (self.kernel[i].max(1) - 1) + 1;
            (size[i] + 2 * self.padding[i]).checked_sub(span).map_or(0, |room| room / self.stride[i] + 1)
        })
    }

    /// Extents of the input that a transposed convolution makes from `size`, `extra` longer than the shortest.
    pub fn transposed(&self, size: [usize; D], extra: [usize; D]) -> [usize; D] {
        std::array::from_fn(|i| {
            let span = self.dilation[i] * (self.kernel[i].max(1) - 1) + 1;
            (size[i].max(1) - 1) * self.stride[i] + span + extra[i] - 2 * self.padding[i]
        })
    }

    /// Extends to three axes, the missing ones of extent one in front.
    fn cube(&self) -> Window<3> {
        assert!(D <= 3, "windows have at most three axes");
        let lift = |a: [usize; D], fill| std::array::from_fn(|i| (i + D).checked_sub(3).map_or(fill, |j| a[j]));
        Window {
            kernel: lift(self.kernel, 1),
            stride: lift(self.stride, 1),
            padding: lift(self.padding, 0),
            dilation: lift(self.dilation, 1),
        }
    }

    /// The kernels of a convolution with this window.
    pub(super) fn kernels(
        &self,
        batch: usize,
        size: [usize; D],
        channels: usize,
        filters: usize,
        groups: usize,
    ) -> kernels::Conv {
        let Window { kernel, stride, padding, dilation } = self.cube();
        let size = std::array::from_fn(|i| (i + D).checked_sub(3).map_or(1, |j| size[j]));
        kernels::Conv { batch, size, channels, filters, kernel, stride, padding, dilation, groups }
    }

    /// Calls `f(patch row, entry in the kernel, offset of the pixel's channels)` for every pixel under a window; runs
    /// of neighbours along the last axis are passed as one call with their number.
    pub(super) fn runs(&self, batch: usize, size: [usize; D], mut f: impl FnMut(usize, usize, usize, usize)) {
        let cube = self.cube();
        let size: [usize; 3] = std::array::from_fn(|i| (i + D).checked_sub(3).map_or(1, |j| size[j]));
        let out = cube.output(size);
        let Window { kernel: [kd, kh, kw], stride, padding, dilation } = cube;
        let inside = |axis: usize, o: usize, k: usize| {
            (o * stride[axis] + k * dilation[axis]).checked_sub(padding[axis]).filter(|&i| i < size[axis])
        };
        let mut row = 0;
        for b in 0..batch {
            for (z, y, x) in
                (0..out[0]).flat_map(|z| (0..out[1]).flat_map(move |y| (0..out[2]).map(move |x| (z, y, x))))
            {
                for (dz, dy) in (0..kd).flat_map(|dz| (0..kh).map(move |dy| (dz, dy))) {
                    let (Some(iz), Some(iy)) = (inside(0, z, dz), inside(1, y, dy)) else { continue };
                    let (line, entry) = (((b * size[0] + iz) * size[1] + iy) * size[2], (dz * kh + dy) * kw);
                    if dilation[2] == 1 {
                        let left = x * stride[2];
                        let first = padding[2].saturating_sub(left).min(kw);
                        let last = (size[2] + padding[2]).saturating_sub(left).min(kw);
                        if first < last {
                            f(row, entry + first, line + left + first - padding[2], last - first);
                        }
                    } else {
                        for dx in 0..kw {
                            if let Some(ix) = inside(2, x, dx) {
                                f(row, entry + dx, line + ix, 1);
                            }
                        }
                    }
                }
                row += 1;
            }
        }
    }
}

/// Batch, spatial extents and channels of `[batch, .., channels]`.
pub(super) fn pixels<const D: usize>(shape: &[usize]) -> (usize, [usize; D], usize) {
    match shape {
        [b, size @ .., c] if size.len() == D => (*b, std::array::from_fn(|i| size[i]), *c),
        other => panic!("expected [batch, {D} spatial axes, channels], got {other:?}"),
    }
}

/// `[batch, .., channels]`
pub(super) fn picture<const D: usize>(batch: usize, size: [usize; D], channels: usize) -> Vec<usize> {
    let mut shape = vec![batch];
    shape.extend(size);
    shape.push(channels);
    shape
}

/// The patches under a window: `[batch, .., c]` to `[batch · outputs, kernel · c]`, zeros outside the image.
pub fn patches<T: Real, const D: usize>(x: &Var<T>, window: Window<D>) -> Var<T> {
    let (batch, size, c) = pixels::<D>(x.shape());
    let rows = batch * window.output(size).iter().product::<usize>();
    let cols = window.area() * c;
    let mut value = Tensor::zeros(&[rows, cols]);
    let (out, data) = (value.data_mut(), x.value().data());
    window.runs(batch, size, |row, entry, from, n| {
        let to = row * cols + entry * c;
        out[to..to + n * c].copy_from_slice(&data[from * c..(from + n) * c]);
    });
    let shape = x.shape().to_vec();
    Var::op("patches", value, &[x], || Box::new(move |g| vec![Some(unpatch(g, window, &shape))]))
}

/// The transpose of [`patches`]: adds every patch back to where it came from in an image of `shape`.
pub fn unpatch<T: Real, const D: usize>(g: &Var<T>, window: Window<D>, shape: &[usize]) -> Var<T> {
    let (batch, size, c) = pixels::<D>(shape);
    let cols = window.area() * c;
    let mut value = Tensor::zeros(shape);
    let (out, data) = (value.data_mut(), g.value().data());
    window.runs(batch, size, |row, entry, to, n| {
        let patch = &data[row * cols + entry * c..row * cols + (entry + n) * c];
        out[to * c..(to + n) * c].iter_mut().zip(patch).for_each(|(o, &p)| *o += p);
    });
    let before = g.shape().to_vec();
    Var::op("unpatch", value, &[g], || Box::new(move |h| vec![Some(reshape(&patches(h, window), &before))]))
}
