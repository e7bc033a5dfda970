//! Encodings of a structure that exploit its regularity and take less room than compressed rows: constant fan-in, N:M,
//! bitmask. All are compiled to the same plan to compute with: none of their kernels would load less than it does.

use crate::Csr;
use crate::shape::volume;

/// A format for the positions of a matrix's entries.
pub trait Encoding {
    /// Name of the format.
    fn format(&self) -> &'static str;

    /// Outputs.
    fn rows(&self) -> usize;

    /// Inputs.
    fn cols(&self) -> usize;

    /// Bytes it takes.
    fn bytes(&self) -> usize;

    /// Start of each row, `rows + 1` numbers, and the column of each entry, ascending in each row.
    fn decode(&self) -> (Vec<usize>, Vec<u32>);
}

/// ELL: equally many entries in every row (constant fan-in), so that there are no row starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ell {
    rows: usize,
    cols: usize,
    columns: Vec<u32>,
}

/// N of every M consecutive columns, one byte per entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NOfM {
    rows: usize,
    cols: usize,
    n: usize,
    m: usize,
    offsets: Vec<u8>,
}

/// A bit per place, set for entries. The smallest of all above a density of about 1/32.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmask {
    rows: usize,
    cols: usize,
    /// `rows * ceil(cols / 64)` words.
    words: Vec<u64>,
}

impl Ell {
    /// Encodes a structure with equally many entries in every row; `None` if it is not one.
    ///
    /// # Panics
    /// When `csr` is not valid.
    pub fn new(csr: Csr) -> Option<Self> {
        csr.check();
        let width = csr.nnz().checked_div(csr.rows).unwrap_or(0);
        let constant = csr.starts.windows(2).all(|w| w[1] - w[0] == width);
        constant.then(|| Self { rows: csr.rows, cols: csr.cols, columns: csr.columns.to_vec() })
    }
}

impl NOfM {
    /// Encodes a structure with `n` entries in each group of `m <= 256` columns; `None` if it is not one.
    ///
    /// # Panics
    /// When `csr` is not valid.
    pub fn new(csr: Csr, n: usize, m: usize) -> Option<Self> {
        csr.check();
        let possible = (1..=256).contains(&m) && (1..=m).contains(&n) && csr.cols.is_multiple_of(m);
        if !possible || csr.nnz() as u128 != csr.rows as u128 * (csr.cols / m) as u128 * n as u128 {
            return None;
        }
        let groups = csr.cols / m;
        let rows = csr.starts.iter().enumerate().all(|(r, &s)| s == r * groups * n);
        let fits = |(e, &c): (usize, &u32)| c as usize / m == (e / n) % groups;
        if !rows || !csr.columns.iter().enumerate().all(fits) {
            return None;
        }
        let offsets = csr.columns.iter().map(|&c| (c as usize % m) as u8).collect();
        Some(Self { rows: csr.rows, cols: csr.cols, n, m, offsets })
    }
}

impl Bitmask {
    /// Encodes any structure.
    ///
    /// # Panics
    /// When `csr` is not valid.
    pub fn new(csr: Csr) -> Self {
        csr.check();
        let wide = csr.cols.div_ceil(64);
        let mut words = vec![0u64; volume([csr.rows, wide])];
        for r in 0..csr.rows {
            let row = &csr.columns[csr.starts[r]..csr.starts[r + 1]];
            row.iter().for_each(|&c| words[r * wide + c as usize / 64] |= 1 << (c % 64));
        }
        Self { rows: csr.rows, cols: csr.cols, words }
    }
}

impl Encoding for Ell {
    fn format(&self) -> &'static str {
        "ell"
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn bytes(&self) -> usize {
        4 * self.columns.len()
    }

    fn decode(&self) -> (Vec<usize>, Vec<u32>) {
        let width = self.columns.len().checked_div(self.rows).unwrap_or(0);
        ((0..=self.rows).map(|r| r * width).collect(), self.columns.clone())
    }
}

impl Encoding for NOfM {
    fn format(&self) -> &'static str {
        "n:m"
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn bytes(&self) -> usize {
        self.offsets.len()
    }

    fn decode(&self) -> (Vec<usize>, Vec<u32>) {
        let groups = self.cols / self.m;
        let column = |(e, &o): (usize, &u8)| ((e / self.n) % groups * self.m + usize::from(o)) as u32;
        let starts = (0..=self.rows).map(|r| r * groups * self.n).collect();
        (starts, self.offsets.iter().enumerate().map(column).collect())
    }
}

impl Encoding for Bitmask {
    fn format(&self) -> &'static str {
        "bitmask"
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn bytes(&self) -> usize {
        8 * self.words.len()
    }

    fn decode(&self) -> (Vec<usize>, Vec<u32>) {
        let (mut starts, mut columns, wide) = (vec![0], Vec::new(), self.cols.div_ceil(64));
        for r in 0..self.rows {
            for (w, &word) in self.words[r * wide..(r + 1) * wide].iter().enumerate() {
                let mut left = word;
                while left != 0 {
                    columns.push(64 * w as u32 + left.trailing_zeros());
                    left &= left - 1;
                }
            }
            starts.push(columns.len());
        }
        (starts, columns)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Layer, bits, check_operator, random};
    use crate::{Compiled, Operator};

    /// It decodes to the structure, and computes the same as plain loops.
    fn check(layer: &Layer, encoding: &dyn Encoding, batch: usize, seed: u64) {
        let csr = layer.csr();
        let (starts, columns) = encoding.decode();
        assert_eq!((&starts[..], &columns[..]), (csr.starts, csr.columns), "{}", encoding.format());
        let values: Vec<f64> = random(seed, layer.nnz());
        let op = Compiled::of(encoding, &values);
        assert_eq!((op.format(), op.rows(), op.cols()), (encoding.format(), layer.rows, layer.cols));
        check_operator(layer, &values, batch, seed, &op);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn any_structure_is_a_bitmask(
            rows in 0usize..90, cols in 0usize..90, density in 0.0..1.0f64, seed in 0u64..99,
            batch in prop::sample::select(vec![0usize, 1, 8, 70]),
        ) {
            let layer = Layer::random(rows, cols, density * density, seed);
            check(&layer, &Bitmask::new(layer.csr()), batch, seed);
        }

        #[test]
        fn constant_fan_in_and_n_of_m(
            rows in 0usize..70, groups in 1usize..9, m in 1usize..12, keep in 0.0..1.0f64, seed in 0u64..99,
            batch in prop::sample::select(vec![1usize, 16, 70]),
        ) {
            let n = ((m as f64 * keep) as usize).max(1);
            // The n places of a group with the smallest random numbers.
            let chosen = |r: usize, c: usize| {
                let key = |c: usize| (bits(seed, (r * groups * m + c) as u64), c);
                let first = c / m * m;
                (first..first + m).filter(|&o| key(o) < key(c)).count() < n
            };
            let layer = Layer::new(rows, groups * m, chosen);
            check(&layer, &NOfM::new(layer.csr(), n, m).expect("n of m"), batch, seed);
            check(&layer, &Ell::new(layer.csr()).expect("constant fan-in"), batch, seed);
        }
    }

    #[test]
    fn structures_of_another_kind_are_refused() {
        let layer = Layer::new(4, 8, |r, c| c <= r);
        assert!(Ell::new(layer.csr()).is_none() && NOfM::new(layer.csr(), 2, 4).is_none());
        // Equally many entries, but not in every group.
        let layer = Layer::new(4, 8, |_, c| c < 4);
        assert!(NOfM::new(layer.csr(), 2, 4).is_none() && Ell::new(layer.csr()).is_some());
    }
}
