//! Convolutions of `[batch, depth, height, width, channels]` as products with windows read where they lie.
//!
//! An image is copied once into a frame of zeros; after that a row of outputs is a tile whose rows are pixels and whose
//! segments of k are rows of the kernel. The gradient of the input is such a convolution of the gradient of the
//! output, one for each phase of the stride; the gradient of the weight is a product over pixels.

use super::gemm::{Panels, pack};
use super::scratch::scratch;
use super::tile::{Begin, Micros, Side, Tile};
use super::{Raw, each};
use crate::shape::{volume, work};
use crate::simd::{Kernel, Vector};
use crate::{Buffer, Isa, Real};

/// Shape of a convolution. Images and sequences are volumes with extents of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    /// Volumes.
    pub batch: usize,
    /// Extents of the input.
    pub size: [usize; 3],
    /// Channels of the input.
    pub channels: usize,
    /// Channels of the output.
    pub filters: usize,
    /// Extents of the kernel.
    pub kernel: [usize; 3],
    /// Strides.
    pub stride: [usize; 3],
    /// Zeros on both sides.
    pub padding: [usize; 3],
    /// Distance between neighbours in the kernel.
    pub dilation: [usize; 3],
    /// Groups of channels that are convolved separately.
    pub groups: usize,
}

/// Fewest multiply-adds worth handing to another thread.
const PARALLEL: usize = 1 << 18;
/// Most steps of k for which a panel of the weight stays in L1.
const DEPTH: usize = 224;
/// Number of parts into which a batch is cut when gradients of weights are summed; by the shape alone.
const PARTS: usize = 8;

impl Conv {
    /// Extents of the output; zero if the kernel does not fit.
    ///
    /// # Panics
    /// When a stride is zero.
    pub fn output(&self) -> [usize; 3] {
        std::array::from_fn(|i| {
            let span = self.dilation[i].saturating_mul(self.kernel[i].max(1) - 1).saturating_add(1);
            let frame = self.padding[i].saturating_mul(2).saturating_add(self.size[i]);
            frame.checked_sub(span).map_or(0, |room| (room / self.stride[i]).saturating_add(1))
        })
    }

    /// Extents of the input with its zeros.
    fn frame(&self) -> [usize; 3] {
        std::array::from_fn(|i| self.size[i] + 2 * self.padding[i])
    }

    /// Panics unless every offset in a framed image, and every number of input and output, could be held in memory.
    pub(crate) fn geometry(&self) {
        let Self { batch, size, channels, filters, padding, .. } = *self;
        let positive = self.stride.iter().chain(&self.dilation).chain(&self.kernel).all(|&n| n > 0);
        assert!(positive, "{self:?} has a kernel, stride or dilation of zero");
        let frame: [usize; 3] = std::array::from_fn(|i| volume([padding[i]]).saturating_mul(2).saturating_add(size[i]));
        volume([batch, frame[0], frame[1], frame[2], channels]);
        let out = self.output();
        volume([batch, out[0], out[1], out[2], filters.max(channels)]);
    }

    fn area(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Channels of one group, in and out.
    fn each(&self) -> (usize, usize) {
        (self.channels / self.groups, self.filters / self.groups)
    }

    fn pixels(&self) -> (usize, usize) {
        (self.size.iter().product(), self.output().iter().product())
    }

    fn depthwise(&self) -> bool {
        self.groups == self.channels && self.filters == self.channels && self.groups > 1
    }

    fn check<T>(&self, x: &[T], w: &[T], y: &[T]) {
        self.geometry();
        let divides =
            self.groups > 0 && self.channels.is_multiple_of(self.groups) && self.filters.is_multiple_of(self.groups);
        assert!(divides, "{self:?} is no convolution");
        let (inputs, outputs, [kd, kh, kw]) = (self.pixels().0, self.pixels().1, self.kernel);
        assert_eq!(x.len(), volume([self.batch, inputs, self.channels]), "input of {self:?}");
        assert_eq!(w.len(), volume([self.filters, kd, kh, kw, self.each().0]), "weight of {self:?}");
        assert_eq!(y.len(), volume([self.batch, outputs, self.filters]), "output of {self:?}");
    }

    fn small(&self) -> bool {
        let ([_, outputs], [kd, kh, kw]) = (self.pixels().into(), self.kernel);
        work([self.batch, outputs, self.filters, kd, kh, kw, self.each().0]) < PARALLEL
    }

    /// Offset of every entry of the kernel from the first, in pixels of an image whose extents are `frame`.
    fn taps(&self, frame: [usize; 3]) -> Vec<usize> {
        let [kd, kh, kw] = self.kernel;
        let d = self.dilation;
        let one = |z: usize, y: usize, x: usize| ((z * d[0]) * frame[1] + y * d[1]) * frame[2] + x * d[2];
        (0..kd).flat_map(|z| (0..kh).flat_map(move |y| (0..kw).map(move |x| one(z, y, x)))).collect()
    }

    /// y = x * w (+ bias): x `[batch, size.., channels]`, w `[filters, kernel.., channels / groups]`, bias `[filters]`,
    /// y `[batch, output.., filters]`.
    ///
    /// # Panics
    /// When lengths do not match the shape.
    pub fn forward<T: Real>(&self, x: &[T], w: &[T], bias: Option<&[T]>, y: &mut [T]) {
        T::conv(self, Isa::best(), x, w, bias, y);
    }

    pub(crate) fn forward_on<T: Real>(&self, isa: Isa, x: &[T], w: &[T], bias: Option<&[T]>, y: &mut [T]) {
        self.check(x, w, y);
        assert!(bias.is_none_or(|b| b.len() == self.filters), "a bias of one number a filter");
        if y.is_empty() {
            return;
        }
        let frame = self.frame();
        let (cin, _) = self.each();
        let taps = self.taps(frame);
        // Entries of a row of the kernel are adjacent when all channels are seen.
        let merged = if self.groups == 1 && self.dilation[2] == 1 { self.kernel[2] } else { 1 };
        let offsets = taps.iter().step_by(merged).map(|t| t * self.channels).collect();
        let pass = Pass {
            batch: self.batch,
            from: PaddedImage::new(self.size, self.channels, frame, self.padding),
            stride: self.stride,
            to: self.output(),
            to_stride: [1; 3],
            groups: self.groups,
            isa,
            small: self.small(),
        };
        let phase =
            Phase { weight: self.rows_of(w, cin), depth: merged * cin, offsets, start: [0; 3], rows: self.output() };
        pass.run(x, &[phase], self.filters, bias, y);
    }

    /// The weight as `[group][kernel · channel][filter]`.
    fn rows_of<T: Real>(&self, w: &[T], cin: usize) -> Vec<T> {
        let (cout, cols) = (self.filters / self.groups, self.area() * cin);
        let mut rows = vec![T::ZERO; w.len()];
        for (o, row) in w.chunks_exact(cols.max(1)).enumerate() {
            let to = &mut rows[o / cout * cols * cout + o % cout..];
            row.iter().zip(to.iter_mut().step_by(cout)).for_each(|(&w, to)| *to = w);
        }
        rows
    }

    /// Computes the gradient of the input from that of the output.
    ///
    /// # Panics
    /// When lengths do not match the shape.
    pub fn backward_input<T: Real>(&self, dy: &[T], w: &[T], dx: &mut [T]) {
        T::conv_input(self, Isa::best(), dy, w, dx);
    }

    pub(crate) fn backward_input_on<T: Real>(&self, isa: Isa, dy: &[T], w: &[T], dx: &mut [T]) {
        self.check(dx, w, dy);
        if dx.is_empty() {
            return;
        }
        if dy.is_empty() {
            dx.fill(T::ZERO);
            return;
        }
        // Along each axis, pixel i = s q + phase gets entry k of the kernel where s divides i + padding - k dilation, from
        // output q + shift. The frame around dy holds every shift there is.
        let out = self.output();
        let mut shifts: [Vec<Vec<(usize, isize)>>; 3] = Default::default();
        let (mut before, mut frame) = ([0; 3], [0; 3]);
        for i in 0..3 {
            let s = self.stride[i];
            let (mut low, mut high) = (0, 0);
            for phase in 0..s.min(self.size[i]) {
                let taps = (0..self.kernel[i]).filter_map(|k| {
                    let at = (phase + self.padding[i]) as isize - (k * self.dilation[i]) as isize;
                    (at.rem_euclid(s as isize) == 0).then_some((k, at.div_euclid(s as isize)))
                });
                let taps: Vec<_> = taps.collect();
                let last = (self.size[i] - 1 - phase) / s;
                low = taps.iter().map(|t| t.1).fold(low, isize::min);
                high = taps.iter().map(|t| t.1 + last as isize).fold(high, isize::max);
                shifts[i].push(taps);
            }
            before[i] = low.unsigned_abs();
            frame[i] = before[i] + out[i].max(high as usize + 1);
        }
        let (cin, cout) = self.each();
        let mut phases = Vec::new();
        for (pz, py, px) in (0..shifts[0].len())
            .flat_map(|z| (0..shifts[1].len()).map(move |y| (z, y)))
            .flat_map(|(z, y)| (0..shifts[2].len()).map(move |x| (z, y, x)).collect::<Vec<_>>())
        {
            let (mut entries, mut offsets) = (Vec::new(), Vec::new());
            for &(kz, sz) in &shifts[0][pz] {
                for &(ky, sy) in &shifts[1][py] {
                    for &(kx, sx) in &shifts[2][px] {
                        entries.push((kz * self.kernel[1] + ky) * self.kernel[2] + kx);
                        let at = |i: usize, s: isize| (before[i] as isize + s) as usize;
                        offsets.push(((at(0, sz) * frame[1] + at(1, sy)) * frame[2] + at(2, sx)) * self.filters);
                    }
                }
            }
            let start = [pz, py, px];
            let rows = std::array::from_fn(|i| (self.size[i] - start[i]).div_ceil(self.stride[i]));
            // [group][entry · filter][channel]
            let cols = self.area() * cin;
            let mut weight = Vec::with_capacity(self.groups * entries.len() * cout * cin);
            for g in 0..self.groups {
                for &e in &entries {
                    for o in 0..cout {
                        weight.extend_from_slice(&w[(g * cout + o) * cols + e * cin..][..cin]);
                    }
                }
            }
            phases.push(Phase { weight, depth: cout, offsets, start, rows });
        }
        let pass = Pass {
            batch: self.batch,
            from: PaddedImage::new(out, self.filters, frame, before),
            stride: [1; 3],
            to: self.size,
            to_stride: self.stride,
            groups: self.groups,
            isa,
            small: self.small(),
        };
        pass.run(dy, &phases, self.channels, None, dx);
    }

    /// Computes the gradient of the weight from input and gradient of the output.
    ///
    /// # Panics
    /// When lengths do not match the shape.
    pub fn backward_weight<T: Real>(&self, x: &[T], dy: &[T], dw: &mut [T]) {
        T::conv_weight(self, Isa::best(), x, dy, dw);
    }

    pub(crate) fn backward_weight_on<T: Real>(&self, isa: Isa, x: &[T], dy: &[T], dw: &mut [T]) {
        self.check(x, dw, dy);
        if dy.is_empty() {
            dw.fill(T::ZERO);
        }
        if dw.is_empty() || dy.is_empty() {
            return;
        }
        let micros = Micros::new::<T>(isa);
        let (cin, cout) = self.each();
        let frame = self.frame();
        let from = PaddedImage::new(self.size, self.channels, frame, self.padding);
        let merged = if self.groups == 1 && self.dilation[2] == 1 { self.kernel[2] } else { 1 };
        let blocks: Vec<usize> = self.taps(frame).iter().step_by(merged).map(|t| t * self.channels).collect();
        let rows = merged * cin; // of the transposed gradient, in one block
        let out = self.output();
        let (lines, width) = (out[0] * out[1], out[2]);
        let (inputs, outputs) = self.pixels();
        // A line is a segment: where it begins in the frame and in dy.
        let segments: Vec<(usize, usize)> = (0..lines)
            .map(|l| {
                let (z, y) = (l / out[1].max(1), l % out[1].max(1));
                let pixel = (z * self.stride[0] * frame[1] + y * self.stride[1]) * frame[2];
                (pixel * self.channels, l * width * self.filters)
            })
            .collect();
        let size = self.groups * self.area() * cin * cout;
        let parts = PARTS.min(self.batch).max(1);
        let step = self.batch.div_ceil(parts);
        let mut sums = Buffer::<T>::any(volume([parts, size]));
        let to = Raw::of_mut(&mut sums);
        each(parts, self.small(), &|p| {
            // SAFETY: every part has its own numbers.
            let sum = unsafe { std::slice::from_raw_parts_mut(to.get().add(p * size), size) };
            sum.fill(T::ZERO);
            scratch(from.len(), |picture: &mut [T]| {
                picture.fill(T::ZERO);
                for b in p * step..self.batch.min((p + 1) * step) {
                    let picture = from.fill(&x[b * inputs * self.channels..][..inputs * self.channels], picture);
                    let dy = &dy[b * outputs * self.filters..][..outputs * self.filters];
                    if self.depthwise() {
                        self.add_depthwise(isa, picture, &blocks, &segments, dy, sum);
                        continue;
                    }
                    // Lines in runs that stay in L2 while every tile of the gradient passes over them.
                    let run = (1 << 16) / (width * self.filters.max(self.stride[2] * self.channels)).max(1);
                    for lines in segments.chunks(run.max(1)) {
                        for (g, (at, &block)) in
                            (0..self.groups).flat_map(|g| blocks.iter().enumerate().map(move |b| (g, b)))
                        {
                            for j in (0..cout).step_by(micros.cols()) {
                                let cols = micros.cols().min(cout - j);
                                let t = Tile {
                                    segments: lines,
                                    depth: width,
                                    a_far: self.stride[2] * self.channels,
                                    b_row: self.filters,
                                    c_row: cout,
                                    cols,
                                };
                                let high = micros.even_rows(rows, cols);
                                for i in (0..rows).step_by(high) {
                                    let micro = micros.pick::<T>(high.min(rows - i), cols, Side::Rows, true);
                                    // SAFETY: rows i.. of the block lie in the frame after the block's offset, since a
                                    // merged row of the kernel is contiguous; columns j.. lie in a pixel of dy;
                                    // the tile lies in this part's sum.
                                    unsafe {
                                        let a = picture.as_ptr().add(block + g * cin + i);
                                        let b = dy.as_ptr().add(g * cout + j);
                                        let c = sum.as_mut_ptr().add(((g * blocks.len() + at) * rows + i) * cout + j);
                                        micro(&t, a, b, c, Begin::Add);
                                    }
                                }
                            }
                        }
                    }
                }
            });
        });
        let (sum, others) = sums.split_at_mut(size);
        others.chunks_exact(size).for_each(|part| sum.iter_mut().zip(part).for_each(|(s, &p)| *s += p));
        // [group][kernel · channel][filter], or [kernel][channel], to [filter][kernel · channel].
        let cols = self.area() * cin;
        for (o, row) in dw.chunks_exact_mut(cols).enumerate() {
            let (first, step) = match self.depthwise() {
                true => (o, self.groups),
                false => (o / cout * cols * cout + o % cout, cout),
            };
            row.iter_mut().enumerate().for_each(|(q, w)| *w = sum[first + q * step]);
        }
    }

    /// Adds the gradient of a depthwise weight under one image to `sum`, `[entry][channel]`.
    fn add_depthwise<T: Real>(
        &self,
        isa: Isa,
        picture: &[T],
        offsets: &[usize],
        lines: &[(usize, usize)],
        dy: &[T],
        sum: &mut [T],
    ) {
        for &(from, to) in lines {
            for ox in 0..self.output()[2] {
                let x = &picture[from + ox * self.stride[2] * self.channels..];
                let dy = &dy[to + ox * self.filters..][..self.filters];
                // SAFETY: it has no conditions.
                unsafe { isa.run(DepthwiseWeight { x, offsets, dy, sum }) }
            }
        }
    }
}

/// An image in a frame of zeros.
#[derive(Clone, Copy)]
struct PaddedImage {
    size: [usize; 3],
    channels: usize,
    frame: [usize; 3],
    before: [usize; 3],
}

impl PaddedImage {
    fn new(size: [usize; 3], channels: usize, frame: [usize; 3], before: [usize; 3]) -> Self {
        volume([frame[0], frame[1], frame[2], channels]);
        Self { size, channels, frame, before }
    }

    /// Numbers a framed image needs; none when the image is its own frame.
    fn len(&self) -> usize {
        if self.size == self.frame { 0 } else { self.frame.iter().product::<usize>() * self.channels }
    }

    /// Puts an image into `memory`, which is zero around it; the same places are written every time.
    fn fill<'a, T: Real>(&self, picture: &'a [T], memory: &'a mut [T]) -> &'a [T] {
        if self.size == self.frame {
            return picture;
        }
        let line = self.size[2] * self.channels;
        if line == 0 {
            return memory;
        }
        for (l, from) in picture.chunks_exact(line).enumerate() {
            let (z, y) = (l / self.size[1] + self.before[0], l % self.size[1] + self.before[1]);
            let at = ((z * self.frame[1] + y) * self.frame[2] + self.before[2]) * self.channels;
            memory[at..at + line].copy_from_slice(from);
        }
        memory
    }
}

/// One phase of a pass: a convolution whose outputs are a stride apart.
struct Phase<T> {
    /// `[group][segment · depth][column]`
    weight: Vec<T>,
    /// Steps of k in a segment.
    depth: usize,
    /// Offset of each segment in a frame, from the pixel of the output.
    offsets: Vec<usize>,
    /// First output of the phase along each axis.
    start: [usize; 3],
    /// Outputs of the phase along each axis.
    rows: [usize; 3],
}

/// Common part of the phases of a pass.
struct Pass {
    batch: usize,
    from: PaddedImage,
    /// Pixels of the frame between neighbouring outputs of a phase.
    stride: [usize; 3],
    /// Extents of the output.
    to: [usize; 3],
    /// Pixels of the output between neighbouring outputs of a phase.
    to_stride: [usize; 3],
    groups: usize,
    isa: Isa,
    small: bool,
}

impl Pass {
    /// Writes every output of every phase: y `[batch, to.., width]`.
    fn run<T: Real>(&self, x: &[T], phases: &[Phase<T>], width: usize, bias: Option<&[T]>, y: &mut [T]) {
        let micros = Micros::new::<T>(self.isa);
        let inputs = self.from.size.iter().product::<usize>() * self.from.channels;
        let outputs = y.len() / self.batch;
        let depthwise = self.groups > 1 && self.groups == self.from.channels && self.groups == width;
        // Panels of columns, packed once for all images.
        let packed: Vec<Buffer<T>> = match depthwise {
            true => phases.iter().map(|p| self.by_entry(&p.weight)).collect(),
            false => phases.iter().map(|p| self.panels(micros, p, width / self.groups)).collect(),
        };
        let y = Raw::of_mut(y);
        // Several images per thread, so that a frame is cleared once for several.
        let some = self.batch.div_ceil(4 * rayon::current_num_threads());
        each(self.batch.div_ceil(some), self.small, &|part| {
            scratch(self.from.len(), |memory: &mut [T]| {
                memory.fill(T::ZERO);
                for b in part * some..self.batch.min((part + 1) * some) {
                    let picture = self.from.fill(&x[b * inputs..(b + 1) * inputs], memory);
                    // SAFETY: outputs of an image are written by one thread.
                    let y = unsafe { std::slice::from_raw_parts_mut(y.get().add(b * outputs), outputs) };
                    for (phase, packed) in phases.iter().zip(&packed) {
                        match depthwise {
                            true => self.depthwise(phase, picture, packed, bias, y),
                            false => self.dense(micros, phase, picture, packed, width, bias, y),
                        }
                    }
                }
            });
        });
    }

    /// `[group][panel][k][columns of a panel]`
    fn panels<T: Real>(&self, micros: Micros, p: &Phase<T>, cout: usize) -> Buffer<T> {
        let (k, nr) = (p.offsets.len() * p.depth, micros.cols());
        let count = cout.div_ceil(nr);
        let mut to = Buffer::any(volume([self.groups, count, k, nr]));
        for g in 0..self.groups {
            // SAFETY: the weight holds `[groups][k][cout]`; a panel k · nr numbers.
            unsafe {
                let from = p.weight.as_ptr().wrapping_add(g * k * cout);
                pack(micros, from, 1, cout, cout, Panels::tight(nr, k), k, to[g * count * k * nr..].as_mut_ptr());
            }
        }
        to
    }

    /// `[entry][channel]` from `[channel][entry]`.
    fn by_entry<T: Real>(&self, weight: &[T]) -> Buffer<T> {
        let entries = weight.len() / self.groups;
        let mut to = Buffer::any(weight.len());
        (0..to.len()).for_each(|i| to[i] = weight[i % self.groups * entries + i / self.groups]);
        to
    }

    /// Lines of outputs of a phase: their first pixels in frame and output.
    fn lines<T>(&self, phase: &Phase<T>) -> impl Iterator<Item = (usize, usize)> {
        let (f, stride, to, to_stride, start) = (self.from.frame, self.stride, self.to, self.to_stride, phase.start);
        let [rz, ry, _] = phase.rows;
        (0..rz).flat_map(move |z| (0..ry).map(move |y| (z, y))).map(move |(z, y)| {
            let from = (z * stride[0] * f[1] + y * stride[1]) * f[2];
            let at = |i: usize, q: usize| start[i] + q * to_stride[i];
            (from, (at(0, z) * to[1] + at(1, y)) * to[2] + start[2])
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn dense<T: Real>(
        &self,
        micros: Micros,
        phase: &Phase<T>,
        picture: &[T],
        packed: &[T],
        width: usize,
        bias: Option<&[T]>,
        y: &mut [T],
    ) {
        let (k, nr) = (phase.offsets.len() * phase.depth, micros.cols());
        let (cin, cout) = (self.from.channels / self.groups, width / self.groups);
        // Long segments are cut into equal ones.
        let cuts = (1..=phase.depth).find(|c| phase.depth.is_multiple_of(*c) && phase.depth / c <= DEPTH).unwrap_or(1);
        let depth = phase.depth / cuts;
        let segments: Vec<(usize, usize)> = (0..phase.offsets.len() * cuts)
            .map(|s| (phase.offsets[s / cuts] + s % cuts * depth, s * depth * nr))
            .collect();
        let some = (DEPTH / depth.max(1)).max(1);
        let panels = cout.div_ceil(nr);
        let length = phase.rows[2];
        for (g, j) in (0..self.groups).flat_map(|g| (0..panels).map(move |j| (g, j))) {
            let cols = nr.min(cout - j * nr);
            let high = micros.even_rows(length, cols);
            let t = Tile {
                segments: &[],
                depth,
                a_far: self.stride[2] * self.from.channels,
                b_row: nr,
                c_row: self.to_stride[2] * width,
                cols,
            };
            let panel = packed[(g * panels + j) * k * nr..].as_ptr();
            let column = g * cout + j * nr;
            let first = bias.map_or(Begin::Zero, |b| Begin::Bias(b[column..].as_ptr()));
            // Some segments at a time for all lines, so that their part of the panel stays in L1. If there are none,
            // one empty turn does the beginning.
            for (turn, segments) in
                segments.chunks(some).chain(std::iter::repeat_n(&[][..], usize::from(k == 0))).enumerate()
            {
                let t = Tile { segments, ..t };
                let begin = if turn == 0 { first } else { Begin::Add };
                for (from, to) in self.lines(phase) {
                    for x in (0..length).step_by(high) {
                        let micro = micros.pick::<T>(high.min(length - x), cols, Side::Steps, false);
                        // SAFETY: the windows of these outputs lie in the frame; the panel holds k rows of whole
                        // registers; the outputs lie in the image.
                        unsafe {
                            let a = picture.as_ptr().add((from + x * self.stride[2]) * self.from.channels + g * cin);
                            let c = y.as_mut_ptr().add((to + x * self.to_stride[2]) * width + column);
                            micro(&t, a, panel, c, begin);
                        }
                    }
                }
            }
        }
    }

    fn depthwise<T: Real>(&self, phase: &Phase<T>, picture: &[T], weight: &[T], bias: Option<&[T]>, y: &mut [T]) {
        let channels = self.groups;
        for (from, to) in self.lines(phase) {
            for x in 0..phase.rows[2] {
                let from = &picture[(from + x * self.stride[2]) * channels..];
                let to = &mut y[(to + x * self.to_stride[2]) * channels..][..channels];
                let job = Depthwise { x: from, offsets: &phase.offsets, weight, bias, y: to };
                // SAFETY: it has no conditions.
                unsafe { self.isa.run(job) }
            }
        }
    }
}

/// One pixel of a depthwise convolution.
struct Depthwise<'a, T> {
    x: &'a [T],
    offsets: &'a [usize],
    weight: &'a [T],
    bias: Option<&'a [T]>,
    y: &'a mut [T],
}

impl<T: Real> Kernel<T> for Depthwise<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        let n = self.y.len();
        match self.bias {
            Some(bias) => self.y.copy_from_slice(bias),
            None => self.y.fill(T::ZERO),
        }
        for (&at, w) in self.offsets.iter().zip(self.weight.chunks_exact(n)) {
            self.y.iter_mut().zip(&self.x[at..at + n]).zip(w).for_each(|((y, &x), &w)| *y += x * w);
        }
    }
}

/// The gradient of a depthwise weight under one pixel: `[entry][channel]`.
struct DepthwiseWeight<'a, T> {
    x: &'a [T],
    offsets: &'a [usize],
    dy: &'a [T],
    sum: &'a mut [T],
}

impl<T: Real> Kernel<T> for DepthwiseWeight<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        let n = self.dy.len();
        for (&at, sum) in self.offsets.iter().zip(self.sum.chunks_exact_mut(n)) {
            sum.iter_mut().zip(&self.x[at..at + n]).zip(self.dy).for_each(|((s, &x), &g)| *s += x * g);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{close, on_threads, random};

    /// Calls `f(output, input, weight)` for every product of the convolution.
    fn products(c: &Conv, mut f: impl FnMut(usize, usize, usize)) {
        let (out, (cin, cout)) = (c.output(), c.each());
        let span = |n: [usize; 3]| (0..n[0] * n[1] * n[2]).map(move |i| [i / (n[1] * n[2]), i / n[2] % n[1], i % n[2]]);
        for b in 0..c.batch {
            for (p, o) in span(out).enumerate() {
                for (e, k) in span(c.kernel).enumerate() {
                    let at: [_; 3] = std::array::from_fn(|i| {
                        (o[i] * c.stride[i] + k[i] * c.dilation[i]).checked_sub(c.padding[i]).filter(|&q| q < c.size[i])
                    });
                    let [Some(z), Some(y), Some(x)] = at else { continue };
                    let pixel = ((b * c.size[0] + z) * c.size[1] + y) * c.size[2] + x;
                    for (o, q) in (0..c.filters).flat_map(|o| (0..cin).map(move |q| (o, q))) {
                        f(
                            (b * out.iter().product::<usize>() + p) * c.filters + o,
                            pixel * c.channels + o / cout * cin + q,
                            (o * c.area() + e) * cin + q,
                        );
                    }
                }
            }
        }
    }

    fn shapes() -> Vec<Conv> {
        let plain = Conv {
            batch: 3,
            size: [1, 7, 9],
            channels: 4,
            filters: 6,
            kernel: [1, 3, 3],
            stride: [1; 3],
            padding: [0, 1, 1],
            dilation: [1; 3],
            groups: 1,
        };
        vec![
            plain,
            Conv { stride: [1, 2, 2], filters: 37, ..plain },
            Conv { stride: [1, 2, 3], padding: [0, 0, 2], kernel: [1, 2, 5], ..plain },
            Conv { dilation: [1, 2, 2], padding: [0, 2, 2], ..plain },
            Conv { groups: 2, ..plain },
            Conv { groups: 4, filters: 4, stride: [1, 2, 2], ..plain },
            Conv { kernel: [1; 3], padding: [0; 3], stride: [1, 2, 2], ..plain },
            Conv { kernel: [1, 2, 2], padding: [0; 3], stride: [1, 3, 3], ..plain },
            Conv { size: [4, 5, 6], kernel: [3, 2, 3], padding: [1, 0, 1], stride: [2, 1, 1], channels: 1, ..plain },
            Conv { size: [1, 1, 40], kernel: [1, 1, 5], padding: [0, 0, 4], channels: 33, filters: 70, ..plain },
            Conv { size: [1, 2, 2], kernel: [1, 5, 5], padding: [0, 0, 0], ..plain },
            Conv { batch: 0, ..plain },
            Conv { batch: 19, size: [1, 20, 31], channels: 16, filters: 16, ..plain },
        ]
    }

    #[test]
    fn equals_plain_loops_on_every_instruction_set() {
        for c in shapes() {
            let (inputs, outputs) = c.pixels();
            let x = random::<f64>(1, c.batch * inputs * c.channels);
            let w = random::<f64>(2, c.filters * c.area() * c.each().0);
            let g = random::<f64>(3, c.batch * outputs * c.filters);
            let bias = random::<f64>(4, c.filters);
            let mut want = [vec![0.0; g.len()], vec![0.0; x.len()], vec![0.0; w.len()]];
            (0..g.len()).for_each(|i| want[0][i] = bias[i % c.filters]);
            products(&c, |o, i, k| {
                want[0][o] += x[i] * w[k];
                want[1][i] += g[o] * w[k];
                want[2][k] += g[o] * x[i];
            });
            for &isa in Isa::available() {
                let mut got = [vec![f64::NAN; g.len()], vec![f64::NAN; x.len()], vec![f64::NAN; w.len()]];
                c.forward_on(isa, &x, &w, Some(&bias), &mut got[0]);
                c.backward_input_on(isa, &g, &w, &mut got[1]);
                c.backward_weight_on(isa, &x, &g, &mut got[2]);
                for (name, (got, want)) in ["y", "dx", "dw"].iter().zip(got.iter().zip(&want)) {
                    close(&format!("{name} of {c:?}"), got, 1, want.len(), 1e-10, |_, i| want[i]);
                }
            }
        }
    }

    #[test]
    fn any_thread_count_gives_the_same_bits() {
        let c = *shapes().last().expect("there are some");
        on_threads(|| {
            let (inputs, outputs) = c.pixels();
            let x = random::<f32>(1, c.batch * inputs * c.channels);
            let w = random::<f32>(2, c.filters * c.area() * c.each().0);
            let g = random::<f32>(3, c.batch * outputs * c.filters);
            let mut got = [vec![0.0; g.len()], vec![0.0; x.len()], vec![0.0; w.len()]];
            c.forward(&x, &w, None, &mut got[0]);
            c.backward_input(&g, &w, &mut got[1]);
            c.backward_weight(&x, &g, &mut got[2]);
            got.concat().iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        });
    }

    #[test]
    #[should_panic(expected = "weight of Conv")]
    fn a_short_weight_is_refused() {
        shapes()[0].forward(&[0.0f32; 3 * 63 * 4], &[0.0; 5], None, &mut [0.0; 3 * 63 * 6]);
    }
}
