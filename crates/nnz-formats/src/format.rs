//! Number formats of files: plain, and GGML's blocks of small integers with a scale.

use crate::{blocks, grids};
use half::{bf16, f16};
use rayon::prelude::*;

/// A number type of a file.
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
    U16,
    U64,
    Bool,
    /// 8-bit floats with 3 mantissa bits; no infinities.
    F8E4M3,
    /// 8-bit floats with 2 mantissa bits.
    F8E5M2,
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
    /// 32 numbers d (q - 16) of 5 bits.
    Q5_0,
    /// 32 numbers d q + m of 5 bits.
    Q5_1,
    /// 256 numbers of 2 bits in 16 parts.
    Q2K,
    /// 256 numbers of 3 bits in 16 parts.
    Q3K,
    /// 256 numbers of 5 bits in 8 parts.
    Q5K,
    /// 32 numbers of 4 bits on uneven levels.
    Iq4Nl,
    /// 256 such numbers in 8 parts.
    Iq4Xs,
    /// 32 4-bit floats.
    Mxfp4,
    /// 64 such numbers in 4 parts.
    Nvfp4,
    /// 256 numbers d (t - 1) of three levels, five to a byte.
    Tq1_0,
    /// 256 such numbers, four to a byte.
    Tq2_0,
    /// 256 numbers in eights from 256 vectors, with signs.
    Iq2Xxs,
    /// The same from 512 vectors.
    Iq2Xs,
    /// The same from 1024 vectors.
    Iq2S,
    /// 256 numbers in fours from 256 vectors, with signs.
    Iq3Xxs,
    /// The same from 512 vectors.
    Iq3S,
    /// 256 numbers in eights from 2048 vectors of three levels, shifted.
    Iq1S,
    /// The same with finer scales.
    Iq1M,
    /// Listed, but not decoded: a name, and the numbers and bytes of a block.
    Opaque(&'static str, usize, usize),
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
            Self::U16 => "U16",
            Self::U64 => "U64",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E5M2 => "F8_E5M2",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q5K => "Q5_K",
            Self::Iq4Nl => "IQ4_NL",
            Self::Iq4Xs => "IQ4_XS",
            Self::Mxfp4 => "MXFP4",
            Self::Nvfp4 => "NVFP4",
            Self::Tq1_0 => "TQ1_0",
            Self::Tq2_0 => "TQ2_0",
            Self::Iq2Xxs => "IQ2_XXS",
            Self::Iq2Xs => "IQ2_XS",
            Self::Iq2S => "IQ2_S",
            Self::Iq3Xxs => "IQ3_XXS",
            Self::Iq3S => "IQ3_S",
            Self::Iq1S => "IQ1_S",
            Self::Iq1M => "IQ1_M",
            Self::Opaque(name, ..) => name,
        }
    }

    /// Numbers per block, and its bytes.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F64 | Self::I64 | Self::U64 => (1, 8),
            Self::F32 | Self::I32 | Self::U32 => (1, 4),
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => (1, 2),
            Self::I8 | Self::U8 | Self::Bool | Self::F8E4M3 | Self::F8E5M2 => (1, 1),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q8_0 => (32, 34),
            Self::Q4K => (256, 144),
            Self::Q6K => (256, 210),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q2K => (256, 84),
            Self::Q3K => (256, 110),
            Self::Q5K => (256, 176),
            Self::Iq4Nl => (32, 18),
            Self::Iq4Xs => (256, 136),
            Self::Mxfp4 => (32, 17),
            Self::Nvfp4 => (64, 36),
            Self::Tq1_0 => (256, 54),
            Self::Tq2_0 => (256, 66),
            Self::Iq2Xxs => (256, 66),
            Self::Iq2Xs => (256, 74),
            Self::Iq2S => (256, 82),
            Self::Iq3Xxs => (256, 98),
            Self::Iq3S => (256, 110),
            Self::Iq1S => (256, 50),
            Self::Iq1M => (256, 56),
            Self::Opaque(_, numbers, bytes) => (numbers, bytes),
        }
    }

    /// Whether its numbers can be decoded.
    pub fn readable(self) -> bool {
        !matches!(self, Self::Opaque(..))
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        !self.is_whole() && self.readable()
    }

    /// Whether it is an integer or Boolean type.
    pub fn is_whole(self) -> bool {
        use Format::{Bool, I8, I16, I32, I64, U8, U16, U32, U64};
        matches!(self, I64 | I32 | I16 | I8 | U8 | U16 | U32 | U64 | Bool)
    }

    /// Converts blocks of a big-endian file to little-endian.
    ///
    /// # Errors
    /// For blocks whose big-endian layout is not settled.
    pub(crate) fn swap(self, bytes: &mut [u8]) -> Result<(), String> {
        let (numbers, size) = self.block();
        let halves: &[usize] = match self {
            _ if numbers == 1 => {
                bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
                return Ok(());
            }
            Self::Q4_0 | Self::Q8_0 => &[0],
            Self::Q4K => &[0, 2],
            Self::Q6K => &[208],
            Self::Mxfp4 => &[],
            other => return Err(format!("{} in a big-endian file, which is not read", other.name())),
        };
        bytes.chunks_exact_mut(size).for_each(|block| halves.iter().for_each(|&at| block.swap(at, at + 1)));
        Ok(())
    }

    /// Bytes of `len` numbers; `None` if they do not fill blocks, or overflow.
    pub fn bytes(self, len: usize) -> Option<usize> {
        let (numbers, bytes) = self.block();
        (len.is_multiple_of(numbers)).then(|| (len / numbers).checked_mul(bytes)).flatten()
    }

    /// Decodes whole blocks.
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

    /// Decodes one block.
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
            Self::U16 => to[0] = f32::from(u16::from_le_bytes([b[0], b[1]])),
            Self::U64 => to[0] = u64::from_le_bytes(eight()) as f32,
            Self::F8E4M3 => to[0] = blocks::e4m3(b[0]),
            Self::F8E5M2 => to[0] = blocks::e5m2(b[0]),
            Self::Q5_0 => blocks::q5_0(b, to),
            Self::Q5_1 => blocks::q5_1(b, to),
            Self::Q2K => blocks::q2_k(b, to),
            Self::Q3K => blocks::q3_k(b, to),
            Self::Q5K => blocks::q5_k(b, to),
            Self::Iq4Nl => blocks::iq4_nl(b, to),
            Self::Iq4Xs => blocks::iq4_xs(b, to),
            Self::Mxfp4 => blocks::mxfp4(b, to),
            Self::Nvfp4 => blocks::nvfp4(b, to),
            Self::Tq1_0 => blocks::tq1_0(b, to),
            Self::Tq2_0 => blocks::tq2_0(b, to),
            Self::Iq2Xxs => grids::iq2_xxs(b, to),
            Self::Iq2Xs => grids::iq2_xs(b, to),
            Self::Iq2S => grids::iq2_s(b, to),
            Self::Iq3Xxs => grids::iq3_xxs(b, to),
            Self::Iq3S => grids::iq3_s(b, to),
            Self::Iq1S => grids::iq1_s(b, to),
            Self::Iq1M => grids::iq1_m(b, to),
            Self::Opaque(..) => to.fill(f32::NAN),
            Self::Q8_0 => to.iter_mut().zip(&b[2..]).for_each(|(y, &q)| *y = half(0) * f32::from(q as i8)),
            Self::Q4_0 => nibbles(&b[2..], to, |q| half(0) * (q - 8.0)),
            Self::Q4_1 => nibbles(&b[4..], to, |q| half(0) * q + half(2)),
            Self::Q4K => {
                let (d, least) = (half(0), half(2));
                for part in 0..8 {
                    let (scale, minimum) = blocks::six(&b[4..16], part);
                    let (scale, minimum) = (d * scale, least * minimum);
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
