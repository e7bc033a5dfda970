use crate::Topology;

/// A bitset over a dense weight, row-major, of the entries that exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    words: Vec<u64>,
    len: usize,
}

impl Mask {
    /// An empty mask over `len` positions.
    pub fn zeros(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(64)], len }
    }

    /// The mask of a topology. O(nnz + entries / 64).
    pub fn of(topology: &Topology) -> Self {
        let mut mask = Self::zeros(topology.rows() * topology.cols());
        for r in 0..topology.rows() {
            topology.row(r).iter().for_each(|&c| mask.set(r * topology.cols() + c as usize));
        }
        mask
    }

    /// The entries that are `true`.
    pub fn from_bools(entries: &[bool]) -> Self {
        let mut mask = Self::zeros(entries.len());
        entries.iter().enumerate().filter(|(_, kept)| **kept).for_each(|(i, _)| mask.set(i));
        mask
    }

    /// The entries that this one does not have.
    pub fn complement(&self) -> Self {
        let mut words: Vec<u64> = self.words.iter().map(|w| !w).collect();
        if let (Some(last), over @ 1..) = (words.last_mut(), self.len % 64) {
            *last &= (1 << over) - 1;
        }
        Self { words, len: self.len }
    }

    /// Adds entry `i`.
    pub fn set(&mut self, i: usize) {
        debug_assert!(i < self.len);
        self.words[i / 64] |= 1 << (i % 64);
    }

    /// Whether entry `i` exists.
    pub fn get(&self, i: usize) -> bool {
        debug_assert!(i < self.len);
        self.words[i / 64] >> (i % 64) & 1 == 1
    }

    /// A bit for each position, 64 a word, lowest first.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Number of entries that exist.
    pub fn nnz(&self) -> usize {
        self.words.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// Number of positions.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the mask covers no positions at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions that exist, ascending.
    pub fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(w, &word)| {
            std::iter::successors((word != 0).then_some(word), |&x| Some(x & (x - 1)).filter(|&x| x != 0))
                .map(move |x| w * 64 + x.trailing_zeros() as usize)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_round_trip() {
        let mut m = Mask::zeros(200);
        let at = [0, 1, 63, 64, 65, 127, 128, 199];
        at.iter().for_each(|&i| m.set(i));
        assert_eq!(m.positions().collect::<Vec<_>>(), at);
        assert_eq!(m.nnz(), at.len());
        assert!((0..200).all(|i| m.get(i) == at.contains(&i)));
        let other = m.complement();
        assert!(other.nnz() == 200 - at.len() && (0..200).all(|i| m.get(i) != other.get(i)));
        let bools: Vec<bool> = (0..200).map(|i| m.get(i)).collect();
        assert_eq!(Mask::from_bools(&bools), m);
    }
}
