use crate::{Error, Result};

/// The connections of one layer: compressed sparse rows without values, columns sorted in each row.
///
/// Shape `[rows, cols]` is `[out, in]`; a convolution is flattened to `[out, in * kh * kw]`. Memory is
/// `8 (rows + 1) + 4 nnz` bytes. Entry order everywhere in nnz is this order: row by row, columns ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    rows: usize,
    cols: usize,
    starts: Vec<usize>,
    columns: Vec<u32>,
}

/// The same connections column by column, with the place of each in the row-by-row order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transposed {
    /// Start of each column, `cols + 1` numbers.
    pub starts: Vec<usize>,
    /// Row of each entry.
    pub rows: Vec<u32>,
    /// Index of each entry in the row-by-row order.
    pub entries: Vec<u32>,
}

impl Topology {
    /// Checks raw compressed rows: monotone `starts` of `rows + 1` numbers, columns ascending and in range.
    pub fn new(rows: usize, cols: usize, starts: Vec<usize>, columns: Vec<u32>) -> Result<Self> {
        let bad = |why: String| Err(Error::Parse { text: format!("{rows}x{cols}"), what: "a topology", why });
        if u32::try_from(cols).is_err() || u32::try_from(rows).is_err() {
            return bad("rows and columns must fit 32 bits".into());
        }
        if starts.len() != rows + 1 || starts.first() != Some(&0) || starts.last() != Some(&columns.len()) {
            return bad(format!("{} row starts over {} columns", starts.len(), columns.len()));
        }
        for (r, w) in starts.windows(2).enumerate() {
            let Some(row) = columns.get(w[0]..w[1]) else { return bad(format!("row {r} runs backwards")) };
            if row.windows(2).any(|c| c[0] >= c[1]) || row.last().is_some_and(|&c| c as usize >= cols) {
                return bad(format!("columns of row {r} are not ascending and below {cols}"));
            }
        }
        Ok(Self { rows, cols, starts, columns })
    }

    /// Every connection.
    pub fn full(rows: usize, cols: usize) -> Self {
        let columns = (0..rows).flat_map(|_| 0..cols as u32).collect();
        Self { rows, cols, starts: (0..=rows).map(|r| r * cols).collect(), columns }
    }

    /// Builds a topology from distinct ascending positions `row * cols + col`. O(rows + nnz).
    ///
    /// # Panics
    /// When positions are not ascending or leave the shape.
    pub fn from_positions(rows: usize, cols: usize, positions: impl IntoIterator<Item = u64>) -> Self {
        let mut starts = Vec::with_capacity(rows + 1);
        let mut columns = Vec::new();
        let mut last = None;
        for p in positions {
            assert!(last.is_none_or(|l| l < p), "positions must ascend");
            last = Some(p);
            let r = (p / cols as u64) as usize;
            assert!(r < rows, "position {p} leaves {rows}x{cols}");
            while starts.len() <= r {
                starts.push(columns.len());
            }
            columns.push((p % cols as u64) as u32);
        }
        starts.resize(rows + 1, columns.len());
        Self { rows, cols, starts, columns }
    }

    /// Keeps the entries `i` for which `keep[i]`.
    pub fn filter(&self, keep: &[bool]) -> Self {
        debug_assert_eq!(keep.len(), self.nnz());
        let mut starts = Vec::with_capacity(self.rows + 1);
        let mut columns = Vec::new();
        starts.push(0);
        for r in 0..self.rows {
            let range = self.starts[r]..self.starts[r + 1];
            columns.extend(range.filter(|&i| keep[i]).map(|i| self.columns[i]));
            starts.push(columns.len());
        }
        Self { rows: self.rows, cols: self.cols, starts, columns }
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Number of connections.
    pub fn nnz(&self) -> usize {
        self.columns.len()
    }

    /// Connections / (rows * cols); zero for an empty shape.
    pub fn density(&self) -> f64 {
        self.nnz() as f64 / (self.rows as f64 * self.cols as f64).max(1.0)
    }

    /// Start of each row, `rows + 1` numbers.
    pub fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// Column of each entry.
    pub fn columns(&self) -> &[u32] {
        &self.columns
    }

    /// Columns of row `r`, ascending.
    pub fn row(&self, r: usize) -> &[u32] {
        &self.columns[self.starts[r]..self.starts[r + 1]]
    }

    /// `row * cols + col` of every entry, ascending.
    pub fn positions(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.rows).flat_map(move |r| self.row(r).iter().map(move |&c| self.position(r, c)))
    }

    fn position(&self, r: usize, c: u32) -> u64 {
        r as u64 * self.cols as u64 + u64::from(c)
    }

    /// Index of the entry at `row * cols + col`, if it exists. O(log row length).
    pub fn find(&self, position: u64) -> Option<usize> {
        let r = (position / self.cols as u64) as usize;
        let c = (position % self.cols as u64) as u32;
        self.row(r).binary_search(&c).ok().map(|i| self.starts[r] + i)
    }

    /// Connections of every row (fan-in of every output).
    pub fn row_degrees(&self) -> Vec<usize> {
        self.starts.windows(2).map(|w| w[1] - w[0]).collect()
    }

    /// Connections of every column (fan-out of every input).
    pub fn col_degrees(&self) -> Vec<usize> {
        let mut degrees = vec![0; self.cols];
        self.columns.iter().for_each(|&c| degrees[c as usize] += 1);
        degrees
    }

    /// Returns the entries column by column. O(rows + cols + nnz).
    ///
    /// # Panics
    /// When there are more than 2³² entries.
    pub fn transpose(&self) -> Transposed {
        let nnz = u32::try_from(self.nnz()).expect("more than 2^32 connections in one layer");
        let mut starts = vec![0; self.cols + 1];
        self.columns.iter().for_each(|&c| starts[c as usize + 1] += 1);
        (0..self.cols).for_each(|c| starts[c + 1] += starts[c]);
        let mut next = starts.clone();
        let (mut rows, mut entries) = (vec![0; nnz as usize], vec![0; nnz as usize]);
        for r in 0..self.rows {
            for i in self.starts[r]..self.starts[r + 1] {
                let slot = &mut next[self.columns[i] as usize];
                rows[*slot] = r as u32;
                entries[*slot] = i as u32;
                *slot += 1;
            }
        }
        Transposed { starts, rows, entries }
    }

    /// Returns the union of both topologies. O(rows + nnz of both).
    ///
    /// # Panics
    /// When the shapes differ.
    pub fn union(&self, other: &Self) -> Self {
        assert_eq!((self.rows, self.cols), (other.rows, other.cols), "shapes");
        let mut others = other.positions().peekable();
        let mut all = Vec::with_capacity(self.nnz() + other.nnz());
        for p in self.positions() {
            while let Some(q) = others.next_if(|&q| q < p) {
                all.push(q);
            }
            others.next_if_eq(&p);
            all.push(p);
        }
        all.extend(others);
        Self::from_positions(self.rows, self.cols, all)
    }

    /// For every entry of `new`, its index here, or `None` if it was just grown. O(nnz of both).
    pub fn carry<'a>(&'a self, new: &'a Topology) -> impl Iterator<Item = Option<usize>> + 'a {
        let mut old = self.positions().enumerate().peekable();
        new.positions().map(move |p| {
            while old.next_if(|&(_, q)| q < p).is_some() {}
            old.next_if(|&(_, q)| q == p).map(|(i, _)| i)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Topology {
        // . x x
        // . . .
        // x . x
        Topology::from_positions(3, 3, [1, 2, 6, 8])
    }

    #[test]
    fn rows_columns_and_find() {
        let t = small();
        assert_eq!(t.row(0), [1, 2]);
        assert!(t.row(1).is_empty());
        assert_eq!(t.row_degrees(), [2, 0, 2]);
        assert_eq!(t.col_degrees(), [1, 1, 2]);
        assert_eq!(t.find(8), Some(3));
        assert_eq!(t.find(7), None);
        assert_eq!(t.positions().collect::<Vec<_>>(), [1, 2, 6, 8]);
    }

    #[test]
    fn transpose_names_every_entry_once() {
        let t = small();
        let x = t.transpose();
        assert_eq!(x.starts, [0, 1, 2, 4]);
        assert_eq!(x.rows, [2, 0, 0, 2]);
        assert_eq!(x.entries, [2, 0, 1, 3]);
    }

    #[test]
    fn carry_finds_survivors_and_newborns() {
        let new = Topology::from_positions(3, 3, [0, 2, 3, 8]);
        assert_eq!(small().carry(&new).collect::<Vec<_>>(), [None, Some(1), None, Some(3)]);
    }

    #[test]
    fn unions_hold_both() {
        let union = small().union(&Topology::from_positions(3, 3, [0, 2, 7]));
        assert_eq!(union.positions().collect::<Vec<_>>(), [0, 1, 2, 6, 7, 8]);
    }

    #[test]
    fn bad_compressed_rows_are_refused() {
        assert!(Topology::new(2, 3, vec![0, 1, 2], vec![0, 2]).is_ok());
        assert!(Topology::new(2, 3, vec![0, 2, 2], vec![2, 0]).is_err());
        assert!(Topology::new(2, 3, vec![0, 1, 2], vec![0, 3]).is_err());
        assert!(Topology::new(2, 3, vec![0, 2, 1], vec![0]).is_err());
        assert!(Topology::new(2, 3, vec![0, 9, 2], vec![0, 1]).is_err());
        assert!(Topology::new(2, 3, vec![0, 2], vec![0, 1]).is_err());
    }
}
