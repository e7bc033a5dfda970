//! GGML's blocks whose numbers are vectors of a fixed grid, times signs and scales. Products are computed in the order of the `gguf`
//! package, so that numbers are equal bit for bit.

use crate::blocks::half;
use half::f16;

/// The grids one after the other, a signed byte for each number; `goldens/grids.py` wrote them.
static GRIDS: [u8; 33792] = *include_bytes!("grids.bin");

/// A vector of `N` numbers of the grid that starts at `from`.
fn vector<const N: usize>(from: usize, index: usize) -> [f32; N] {
    std::array::from_fn(|i| f32::from(GRIDS[from + index * N + i] as i8))
}

/// Starts of the grids.
const IQ2_XXS: usize = 0;
const IQ2_XS: usize = IQ2_XXS + 256 * 8;
const IQ2_S: usize = IQ2_XS + 512 * 8;
const IQ3_XXS: usize = IQ2_S + 1024 * 8;
const IQ3_S: usize = IQ3_XXS + 256 * 4;
const IQ1: usize = IQ3_S + 512 * 4;

fn word(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn short(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

fn nibble(b: &[u8], at: usize, i: usize) -> f32 {
    f32::from(b[at + i / 2] >> (i % 2 * 4) & 15)
}

/// Eight signs from seven bits: the last makes their number even.
fn even(seven: u32) -> u8 {
    let bits = (seven & 127) as u8;
    bits | ((bits.count_ones() & 1) as u8) << 7
}

/// Writes scaled vectors with the signs of `signs`, one bit for each number.
fn write(to: &mut [f32], scale: f32, grid: &[f32], signs: u8) {
    for (i, (y, g)) in to.iter_mut().zip(grid).enumerate() {
        *y = scale * g * if signs >> i & 1 == 0 { 1.0 } else { -1.0 };
    }
}

/// Eights by one byte; a word for four of them holds seven bits of signs each, and a scale.
pub(crate) fn iq2_xxs(b: &[u8], to: &mut [f32]) {
    let d = half(b, 0);
    for (g, y) in to.chunks_exact_mut(8).enumerate() {
        let at = 2 + g / 4 * 8;
        let more = word(b, at + 4);
        let scale = d * (0.5 + (more >> 28) as f32) * 0.25;
        write(y, scale, &vector::<8>(IQ2_XXS, b[at + g % 4].into()), even(more >> (g % 4 * 7)));
    }
}

/// Eights by nine bits and seven of signs.
pub(crate) fn iq2_xs(b: &[u8], to: &mut [f32]) {
    let d = half(b, 0);
    for (g, y) in to.chunks_exact_mut(8).enumerate() {
        let q = short(b, 2 + g * 2);
        let scale = d * (0.5 + nibble(b, 66, g / 2)) * 0.25;
        write(y, scale, &vector::<8>(IQ2_XS, (q & 511).into()), even((q >> 9).into()));
    }
}

/// Eights by ten bits, with signs of their own.
pub(crate) fn iq2_s(b: &[u8], to: &mut [f32]) {
    let d = half(b, 0);
    for (g, y) in to.chunks_exact_mut(8).enumerate() {
        let q = usize::from(b[2 + g]) | usize::from(b[66 + g / 4] >> (g % 4 * 2) & 3) << 8;
        let scale = d * (0.5 + nibble(b, 74, g / 2)) * 0.25;
        write(y, scale, &vector::<8>(IQ2_S, q), b[34 + g]);
    }
}

/// Fours by one byte; a word for eight of them holds seven bits of signs for each two, and a scale.
pub(crate) fn iq3_xxs(b: &[u8], to: &mut [f32]) {
    let d = half(b, 0);
    for (g, y) in to.chunks_exact_mut(4).enumerate() {
        let more = word(b, 66 + g / 8 * 4);
        let scale = d * (0.5 + (more >> 28) as f32) * 0.5;
        let signs = even(more >> (g / 2 % 4 * 7)) >> (g % 2 * 4);
        write(y, scale, &vector::<4>(IQ3_XXS, b[2 + g].into()), signs);
    }
}

/// Fours by nine bits, with signs of their own.
pub(crate) fn iq3_s(b: &[u8], to: &mut [f32]) {
    let d = half(b, 0);
    for (g, y) in to.chunks_exact_mut(4).enumerate() {
        let q = usize::from(b[2 + g]) | usize::from(b[66 + g / 8] >> (g % 8) & 1) << 8;
        let scale = d * (1.0 + 2.0 * nibble(b, 106, g / 8));
        write(y, scale, &vector::<4>(IQ3_S, q), b[74 + g / 2] >> (g % 2 * 4));
    }
}

/// Distance by which vectors of three levels are shifted.
const DELTA: f32 = 0.125;

fn shifted(to: &mut [f32], scale: f32, index: usize, down: bool) {
    let delta = if down { -DELTA } else { DELTA };
    to.iter_mut().zip(vector::<8>(IQ1, index)).for_each(|(y, g)| *y = scale * (g + delta));
}

/// Eights by eleven bits; 16 bits for four of them hold three more for each, a scale, and the direction of the shift.
pub(crate) fn iq1_s(b: &[u8], to: &mut [f32]) {
    let d = half(b, 0);
    for (g, y) in to.chunks_exact_mut(8).enumerate() {
        let more = short(b, 34 + g / 4 * 2);
        let q = usize::from(b[2 + g]) | usize::from(more >> (g % 4 * 3) & 7) << 8;
        shifted(y, d * f32::from(2 * (more >> 12 & 7) + 1), q, more & 0x8000 != 0);
    }
}

/// The same with a scale for each two, and the block's scale in the upper bits of theirs.
pub(crate) fn iq1_m(b: &[u8], to: &mut [f32]) {
    let scales: [u16; 4] = std::array::from_fn(|i| short(b, 48 + i * 2));
    let d = scales.iter().enumerate().fold(0, |d, (i, s)| d | (s & 0xf000) >> (12 - 4 * i));
    let d = f16::from_bits(d).to_f32();
    for (g, y) in to.chunks_exact_mut(8).enumerate() {
        let more = b[32 + g / 2] >> (g % 2 * 4);
        let q = usize::from(b[g]) | usize::from(more & 7) << 8;
        let scale = scales[g / 8] >> (g / 2 % 4 * 3) & 7;
        shifted(y, d * f32::from(2 * scale + 1), q, more & 8 != 0);
    }
}
