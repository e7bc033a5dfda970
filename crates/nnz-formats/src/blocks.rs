//! GGML's blocks of less than 2 to 5 bits, and 8-bit floats. Products and sums are computed in the order of the `gguf`
//! package, so that numbers are equal bit for bit.

use half::f16;

/// Levels of 4 bits that are denser around zero.
const UNEVEN: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Doubled values of 4-bit floats with 2 exponent bits and 1 mantissa bit.
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

pub(crate) fn half(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// 8-bit floats with 4 exponent and 3 mantissa bits, without infinities.
pub(crate) fn e4m3(b: u8) -> f32 {
    let (exponent, fraction) = (i32::from(b >> 3 & 15), f32::from(b & 7));
    let size = match exponent {
        _ if b & 0x7f == 0x7f => f32::NAN,
        0 => fraction * 2f32.powi(-9),
        e => (1.0 + fraction / 8.0) * 2f32.powi(e - 7),
    };
    if b & 0x80 != 0 { -size } else { size }
}

/// 8-bit floats with 5 exponent and 2 mantissa bits: the upper half of 16-bit floats.
pub(crate) fn e5m2(b: u8) -> f32 {
    f16::from_bits(u16::from(b) << 8).to_f32()
}

/// Scale and minimum of a part of a K block, 6 bits each: parts 4 to 7 have their upper two bits where 0 to 3 leave some free.
pub(crate) fn six(six: &[u8], part: usize) -> (f32, f32) {
    let (scale, minimum) = match part {
        0..4 => (six[part] & 63, six[part + 4] & 63),
        p => ((six[p + 4] & 15) | (six[p - 4] >> 6 << 4), (six[p + 4] >> 4) | (six[p] >> 6 << 4)),
    };
    (f32::from(scale), f32::from(minimum))
}

/// 32 numbers of 5 bits, the fifth apart, from byte `at` on.
fn fives(b: &[u8], at: usize) -> impl Iterator<Item = u8> {
    (0..32).map(move |i| (b[at + 4 + i % 16] >> (i / 16 * 4) & 15) | (b[at + i / 8] >> (i % 8) & 1) << 4)
}

/// d (q - 16).
pub(crate) fn q5_0(b: &[u8], to: &mut [f32]) {
    let d = half(b, 0);
    to.iter_mut().zip(fives(b, 2)).for_each(|(y, q)| *y = d * (f32::from(q) - 16.0));
}

/// d q + m.
pub(crate) fn q5_1(b: &[u8], to: &mut [f32]) {
    let (d, m) = (half(b, 0), half(b, 2));
    to.iter_mut().zip(fives(b, 4)).for_each(|(y, q)| *y = d * f32::from(q) + m);
}

/// 16 parts of 2 bits with scales and minima of 4.
pub(crate) fn q2_k(b: &[u8], to: &mut [f32]) {
    let (d, least) = (half(b, 80), half(b, 82));
    for (i, y) in to.iter_mut().enumerate() {
        let q = b[16 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
        let scale = b[i / 16];
        *y = d * f32::from(scale & 15) * f32::from(q) - least * f32::from(scale >> 4);
    }
}

/// 16 parts of 3 bits, the third apart and inverted, with scales of 6.
pub(crate) fn q3_k(b: &[u8], to: &mut [f32]) {
    let (high, low, scales, d) = (&b[..32], &b[32..96], &b[96..108], half(b, 108));
    for (i, y) in to.iter_mut().enumerate() {
        let part = i / 16;
        let scale = (scales[part % 8] >> (part / 8 * 4) & 15) | (scales[8 + part % 4] >> (part / 4 * 2) & 3) << 4;
        let two = low[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
        let third = high[i % 32] >> (i / 32) & 1;
        let q = i16::from(two) - if third == 0 { 4 } else { 0 };
        *y = d * (f32::from(scale) - 32.0) * f32::from(q);
    }
}

/// 8 parts of 5 bits, the fifth apart, with scales and minima of 6.
pub(crate) fn q5_k(b: &[u8], to: &mut [f32]) {
    let (d, least, high, low) = (half(b, 0), half(b, 2), &b[16..48], &b[48..176]);
    for (i, y) in to.iter_mut().enumerate() {
        let part = i / 32;
        let (scale, minimum) = six(&b[4..16], part);
        let q = (low[part / 2 * 32 + i % 32] >> (part % 2 * 4) & 15) | (high[i % 32] >> part & 1) << 4;
        *y = d * scale * f32::from(q) - least * minimum;
    }
}

/// 32 numbers of 4 bits on uneven levels.
pub(crate) fn iq4_nl(b: &[u8], to: &mut [f32]) {
    let d = half(b, 0);
    for (i, y) in to.iter_mut().enumerate() {
        *y = d * f32::from(UNEVEN[usize::from(b[2 + i % 16] >> (i / 16 * 4) & 15)]);
    }
}

/// 8 parts of the same with scales of 6 bits.
pub(crate) fn iq4_xs(b: &[u8], to: &mut [f32]) {
    let (d, high) = (half(b, 0), u16::from_le_bytes([b[2], b[3]]));
    for (i, y) in to.iter_mut().enumerate() {
        let (part, l) = (i / 32, i % 32);
        let scale = (b[4 + part / 2] >> (part % 2 * 4) & 15) | ((high >> (2 * part) & 3) as u8) << 4;
        let q = b[8 + part * 16 + l % 16] >> (l / 16 * 4) & 15;
        *y = d * (f32::from(scale) - 32.0) * f32::from(UNEVEN[usize::from(q)]);
    }
}

/// 32 4-bit floats, times a power of two.
pub(crate) fn mxfp4(b: &[u8], to: &mut [f32]) {
    let e = u32::from(b[0]);
    let d = f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 });
    for (i, y) in to.iter_mut().enumerate() {
        *y = d * f32::from(E2M1[usize::from(b[1 + i % 16] >> (i / 16 * 4) & 15)]);
    }
}

/// 4 parts of 16 such numbers, each with a scale of 8 bits.
pub(crate) fn nvfp4(b: &[u8], to: &mut [f32]) {
    for (i, y) in to.iter_mut().enumerate() {
        let (part, l) = (i / 16, i % 16);
        let scale = b[part];
        // A scale has no sign; its largest pattern means NaN.
        let (exponent, fraction) = (i32::from(scale >> 3 & 15), f32::from(scale & 7));
        let d = match exponent {
            _ if scale == 0x7f => 0.0,
            0 => fraction * 2f32.powi(-9),
            e => (1.0 + fraction / 8.0) * 2f32.powi(e - 7),
        };
        *y = d * 0.5 * f32::from(E2M1[usize::from(b[4 + part * 8 + l % 8] >> (l / 8 * 4) & 15)]);
    }
}

/// Numbers of three levels, five to a byte: a byte is the fraction 0.t₁t₂t₃t₄t₅ to the base 3, of which multiplying by powers of 3
/// brings each digit to the front.
pub(crate) fn tq1_0(b: &[u8], to: &mut [f32]) {
    let d = half(b, 52);
    for (i, y) in to.iter_mut().enumerate() {
        let (byte, digit) = match i {
            0..160 => (i % 32, i / 32),
            160..240 => (32 + i % 16, (i - 160) / 16),
            _ => (48 + i % 4, (i - 240) / 4),
        };
        let rest = b[byte].wrapping_mul([1, 3, 9, 27, 81][digit]);
        *y = d * (f32::from(((u16::from(rest) * 3) >> 8) as u8) - 1.0);
    }
}

/// Numbers of three levels, four to a byte.
pub(crate) fn tq2_0(b: &[u8], to: &mut [f32]) {
    let d = half(b, 64);
    for (i, y) in to.iter_mut().enumerate() {
        *y = d * (f32::from(b[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3) - 1.0);
    }
}
