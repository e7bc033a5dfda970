//! How numbers lie in files: plain, and GGML's blocks of small integers with a scale.

use half::{bf16, f16};
use rayon::prelude::*;

/// A type of numbers in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the formats")]
pub enum Format {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    U32,
    Bool,
    /// 32 numbers d (q - 8) of 4 bits.
    Q4_0,
    /// 32 numbers d q + m of 4 bits.
    Q4_1,
    /// 32 numbers d q of 8 bits.
    Q8_0,
    /// 256 numbers of 4 bits in 8 parts, with scales and minima of 6 bits.
    Q4K,
    /// 256 numbers of 6 bits in 16 parts, with scales of 8 bits.
    Q6K,
}

impl Format {
    /// Its name, as files spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::I16 => "I16",
            Self::I8 => "I8",
            Self::U8 => "U8",
            Self::U32 => "U32",
            Self::Bool => "BOOL",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Numbers of a block, and its bytes.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F64 | Self::I64 => (1, 8),
            Self::F32 | Self::I32 | Self::U32 => (1, 4),
            Self::F16 | Self::BF16 | Self::I16 => (1, 2),
            Self::I8 | Self::U8 | Self::Bool => (1, 1),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q8_0 => (32, 34),
            Self::Q4K => (256, 144),
            Self::Q6K => (256, 210),
        }
    }

    /// Bytes of `len` numbers; none where they do not fill blocks, or overflow.
    pub fn bytes(self, len: usize) -> Option<usize> {
        let (numbers, bytes) = self.block();
        (len.is_multiple_of(numbers)).then(|| (len / numbers).checked_mul(bytes)).flatten()
    }

    /// The numbers of whole blocks.
    ///
    /// # Panics
    /// When lengths do not fit.
    pub fn decode(self, bytes: &[u8], to: &mut [f32]) {
        let (numbers, size) = self.block();
        assert_eq!((to.len() % numbers, bytes.len()), (0, to.len() / numbers * size), "blocks of {}", self.name());
        // Many blocks at once, so that a task is worth its cost.
        let run = 4096 / numbers;
        to.par_chunks_mut(run * numbers).zip(bytes.par_chunks(run * size)).for_each(|(to, bytes)| {
            to.chunks_exact_mut(numbers).zip(bytes.chunks_exact(size)).for_each(|(to, b)| self.one(b, to));
        });
    }

    /// One block.
    fn one(self, b: &[u8], to: &mut [f32]) {
        let half = |at: usize| f16::from_le_bytes([b[at], b[at + 1]]).to_f32();
        let four = || [b[0], b[1], b[2], b[3]];
        let eight = || [b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]];
        match self {
            Self::F64 => to[0] = f64::from_le_bytes(eight()) as f32,
            Self::I64 => to[0] = i64::from_le_bytes(eight()) as f32,
            Self::F32 => to[0] = f32::from_le_bytes(four()),
            Self::I32 => to[0] = i32::from_le_bytes(four()) as f32,
            Self::U32 => to[0] = u32::from_le_bytes(four()) as f32,
            Self::F16 => to[0] = half(0),
            Self::BF16 => to[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            Self::I16 => to[0] = f32::from(i16::from_le_bytes([b[0], b[1]])),
            Self::I8 => to[0] = f32::from(b[0] as i8),
            Self::U8 => to[0] = f32::from(b[0]),
            Self::Bool => to[0] = if b[0] == 0 { 0.0 } else { 1.0 },
            Self::Q8_0 => to.iter_mut().zip(&b[2..]).for_each(|(y, &q)| *y = half(0) * f32::from(q as i8)),
            Self::Q4_0 => nibbles(&b[2..], to, |q| half(0) * (q - 8.0)),
            Self::Q4_1 => nibbles(&b[4..], to, |q| half(0) * q + half(2)),
            Self::Q4K => {
                let (d, least) = (half(0), half(2));
                let six = &b[4..16];
                for part in 0..8 {
                    // Scales and minima of parts 4 to 7 have their upper two bits where parts 0 to 3 leave some free.
                    let (scale, minimum) = match part {
                        0..4 => (six[part] & 63, six[part + 4] & 63),
                        p => ((six[p + 4] & 15) | (six[p - 4] >> 6 << 4), (six[p + 4] >> 4) | (six[p] >> 6 << 4)),
                    };
                    let (scale, minimum) = (d * f32::from(scale), least * f32::from(minimum));
                    let (from, shift) = (&b[16 + part / 2 * 32..][..32], part % 2 * 4);
                    let to = &mut to[part * 32..][..32];
                    to.iter_mut().zip(from).for_each(|(y, q)| *y = scale * f32::from(q >> shift & 15) - minimum);
                }
            }
            Self::Q6K => {
                let (low, high, scales, d) = (&b[..128], &b[128..192], &b[192..208], half(208));
                for (i, y) in to.iter_mut().enumerate() {
                    let (part, quarter, l) = (i / 128, i / 32 % 4, i % 32);
                    let four = low[part * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15;
                    let two = high[part * 32 + l] >> (quarter * 2) & 3;
                    let q = f32::from(four | two << 4) - 32.0;
                    *y = d * f32::from(scales[i / 16] as i8) * q;
                }
            }
        }
    }
}

/// The lower halves of bytes are the first half of the numbers.
fn nibbles(bytes: &[u8], to: &mut [f32], value: impl Fn(f32) -> f32) {
    let (first, second) = to.split_at_mut(bytes.len());
    for ((q, a), b) in bytes.iter().zip(first).zip(second) {
        (*a, *b) = (value(f32::from(q & 15)), value(f32::from(q >> 4)));
    }
}
