//! Matrices of which only the nonzeros are written.
//!
//! - `csr`: `NAME.values`, `NAME.col_indices`, `NAME.crow_indices`, as in PyTorch.
//! - `bitmask`: `NAME.compressed`, the nonzeros row by row, and `NAME.bitmask`, a bit per entry, lowest first, rows starting
//!   at a byte; `NAME.shape`. Readers of the old `sparse-bitmask` and `sparse-24-bitmask` checkpoints know it.
//! - `entropy`: `NAME.compressed` as above, and `NAME.code`: the bits of the mask by an arithmetic coder that knows the
//!   density, within a few bytes of n H(density).
//!
//! Values of eight bits are multiples of `NAME.steps`, one number per row.

use crate::Archive;
use serde::{Deserialize, Serialize};

/// The format that the metadata's document under `nnz` names.
pub(crate) const FORMAT: &str = "nnz-weights-1";
/// Optional parts of a matrix.
pub(crate) const MORE: &[&str] = &["steps", "shape", "row_offsets"];
/// Most entries per byte of a matrix, beyond [`FEW`]: a header's claim must not be allocated. A matrix of
/// which one number in a thousand is left, in two bytes, has 300 under the best code.
pub(crate) const MOST: usize = 512;
/// Number of entries that any matrix may have.
pub(crate) const FEW: usize = 1 << 22;

/// Encoding of the zeros of a matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Packing {
    /// None: every entry is written.
    #[default]
    Dense,
    /// Compressed rows.
    Csr,
    /// One bit per entry; N:M patterns have rows of equal length.
    Bitmask,
    /// The mask by an arithmetic coder.
    Entropy,
}

/// A packed matrix, as described by the metadata.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Layout {
    pub packing: Packing,
    pub shape: [usize; 2],
    /// Extents of a kernel, of which all but the first are columns; empty for a matrix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dims: Vec<usize>,
}

impl Packing {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Csr => "csr",
            Self::Bitmask => "bitmask",
            Self::Entropy => "entropy",
        }
    }

    /// Names of the parts of a matrix; its values first.
    pub(crate) fn parts(self) -> &'static [&'static str] {
        match self {
            Self::Dense => &[],
            Self::Csr => &["values", "col_indices", "crow_indices"],
            Self::Bitmask => &["compressed", "bitmask"],
            Self::Entropy => &["compressed", "code"],
        }
    }

    /// Bytes of a matrix with `nnz` values of `each` bytes.
    pub(crate) fn size(self, rows: usize, cols: usize, nnz: usize, each: usize) -> usize {
        let values = each * nnz;
        match self {
            Self::Dense => each * rows * cols,
            Self::Csr => values + 4 * nnz + 4 * (rows + 1),
            Self::Bitmask => values + rows * cols.div_ceil(8) + 16,
            Self::Entropy => values + (entropy_bits(rows * cols, nnz) / 8.0).ceil() as usize,
        }
    }
}

/// n H(k / n): minimum average number of bits for a mask of `ones` ones among `entries` when only the density is
/// known.
pub fn entropy_bits(entries: usize, ones: usize) -> f64 {
    let p = ones as f64 / entries.max(1) as f64;
    let part = |p: f64| if p > 0.0 { -p * p.log2() } else { 0.0 };
    entries as f64 * (part(p) + part(1.0 - p))
}

/// Whether a matrix of `entries` may fit in so many bytes.
pub(crate) fn possible(entries: usize, bytes: usize) -> bool {
    entries <= bytes.saturating_mul(MOST).saturating_add(FEW)
}

/// The mask as bytes, each row starting at a byte.
pub(crate) fn bitmask(cols: usize, values: &[f32]) -> Vec<u8> {
    let byte = |eight: &[f32]| eight.iter().enumerate().fold(0, |b, (i, v)| b | u8::from(*v != 0.0) << i);
    values.chunks(cols.max(1)).flat_map(|row| row.chunks(8).map(byte)).collect()
}

/// One in 2^16, the unit of probabilities.
const UNIT: u32 = 1 << 16;

/// The probability of a one, in units, never certain.
fn odds(entries: usize, ones: usize) -> u32 {
    ((ones as f64 / entries.max(1) as f64 * f64::from(UNIT)) as u32).clamp(1, UNIT - 1)
}

/// A range coder with a carry, as in LZMA: ones have probability `odds`.
pub(crate) fn encode(bits: impl Iterator<Item = bool>, entries: usize, ones: usize) -> Vec<u8> {
    let odds = odds(entries, ones);
    let (mut low, mut range, mut cache, mut pending, mut out) = (0u64, u32::MAX, 0u8, 1usize, Vec::new());
    let mut shift = |low: &mut u64| {
        if *low < 0xff00_0000 || *low > 0xffff_ffff {
            let carry = (*low >> 32) as u8;
            out.push(cache.wrapping_add(carry));
            (1..pending).for_each(|_| out.push(0xffu8.wrapping_add(carry)));
            (cache, pending) = ((*low >> 24) as u8, 0);
        }
        pending += 1;
        *low = (*low & 0x00ff_ffff) << 8;
    };
    for bit in bits {
        let bound = (range >> 16) * odds;
        match bit {
            true => range = bound,
            false => (low, range) = (low + u64::from(bound), range - bound),
        }
        while range < 1 << 24 {
            range <<= 8;
            shift(&mut low);
        }
    }
    (0..5).for_each(|_| shift(&mut low));
    // The first byte is always zero.
    out.remove(0);
    out
}

/// Decodes the bits of [`encode`]; invalid code gives zeros.
pub(crate) fn decode(code: &[u8], entries: usize, ones: usize) -> impl Iterator<Item = bool> {
    let odds = odds(entries, ones);
    let mut bytes = code.iter().copied().chain(std::iter::repeat(0));
    let mut next = move || bytes.next().unwrap_or(0);
    let mut code = (0..4).fold(0u32, |c, _| c << 8 | u32::from(next()));
    let mut range = u32::MAX;
    (0..entries).map(move |_| {
        let bound = (range >> 16) * odds;
        let bit = code < bound;
        match bit {
            true => range = bound,
            false => (code, range) = (code.wrapping_sub(bound), range - bound),
        }
        while range < 1 << 24 {
            (range, code) = (range << 8, code << 8 | u32::from(next()));
        }
        bit
    })
}

/// Reads a packed matrix with its zeros.
pub(crate) fn read(
    archive: &Archive,
    name: &str,
    packing: Packing,
    [rows, cols]: [usize; 2],
) -> Result<Vec<f32>, String> {
    let part = |i: usize| format!("{name}.{}", packing.parts()[i]);
    let say = |e: crate::Error| e.why;
    let (entry, bytes) = archive.raw(&part(0)).map_err(say)?;
    // This also makes `entropy_bits` meaningful.
    if entry.len() > rows * cols {
        return Err(format!("{} values for {rows}x{cols} entries", entry.len()));
    }
    let mut nonzeros = vec![0.0; entry.len()];
    entry.format.decode(bytes, &mut nonzeros);
    let mut values = vec![0.0; rows * cols];
    match packing {
        Packing::Dense => unreachable!("read as it is"),
        Packing::Csr => {
            let columns = archive.integers(&part(1)).map_err(say)?;
            let starts = archive.integers(&part(2)).map_err(say)?;
            let fits = columns.len() == nonzeros.len()
                && Some(starts.len()) == rows.checked_add(1)
                && starts[0] == 0
                && starts[rows] == columns.len()
                && starts
                    .windows(2)
                    .all(|w| columns.get(w[0]..w[1]).is_some_and(|r| r.windows(2).all(|c| c[0] < c[1])))
                && columns.iter().all(|&c| c < cols);
            if !fits {
                return Err(format!("row starts, columns and {} values make no {rows}x{cols} matrix", nonzeros.len()));
            }
            for (row, w) in starts.windows(2).enumerate() {
                (w[0]..w[1]).for_each(|i| values[row * cols + columns[i]] = nonzeros[i]);
            }
        }
        Packing::Bitmask | Packing::Entropy => {
            let (_, mask) = archive.raw(&part(1)).map_err(say)?;
            if packing == Packing::Entropy && entropy_bits(rows * cols, nonzeros.len()) / 8.0 > mask.len() as f64 + 8.0
            {
                return Err(format!(
                    "a code of {} bytes for {} of {rows}x{cols} entries, which takes more",
                    mask.len(),
                    nonzeros.len()
                ));
            }
            let each = cols.div_ceil(8);
            if packing == Packing::Bitmask && Some(mask.len()) != rows.checked_mul(each) {
                return Err(format!("a bitmask of {} bytes for {rows}x{cols} entries", mask.len()));
            }
            let mut from = nonzeros.iter();
            let mut fill = |at: usize| -> Result<(), String> {
                values[at] = *from.next().ok_or("its mask has more ones than there are values")?;
                Ok(())
            };
            match packing {
                Packing::Bitmask => {
                    for at in
                        (0..rows * cols).filter(|at| mask[at / cols * each + at % cols / 8] >> (at % cols % 8) & 1 == 1)
                    {
                        fill(at)?;
                    }
                }
                _ => {
                    for (at, _) in decode(mask, rows * cols, nonzeros.len()).enumerate().filter(|(_, bit)| *bit) {
                        fill(at)?;
                    }
                }
            }
            if from.next().is_some() {
                return Err("its mask has fewer ones than there are values".into());
            }
        }
    }
    if let Ok((entry, bytes)) = archive.raw(&format!("{name}.steps")) {
        let mut steps = vec![0.0; entry.len()];
        entry.format.decode(bytes, &mut steps);
        if steps.len() != rows {
            return Err(format!("{} steps for {rows} rows", steps.len()));
        }
        let scaled = values.chunks_mut(cols.max(1)).zip(steps);
        scaled.for_each(|(row, step)| row.iter_mut().for_each(|v| *v *= step));
    }
    Ok(values)
}
