use rayon::prelude::*;

/// Indices, or lines, that a thread checks at once.
const PART: usize = 1 << 14;

/// Compressed sparse rows without values: `rows` outputs, `cols` inputs, columns ascending in each row.
///
/// A view; entry order is row by row. Code that uses it checks it, in time linear in its entries.
#[derive(Clone, Copy, Debug)]
pub struct Csr<'a> {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Start of each row, `rows + 1` numbers.
    pub starts: &'a [usize],
    /// Column of each entry.
    pub columns: &'a [u32],
}

/// The same entries column by column.
#[derive(Clone, Copy, Debug)]
pub struct Csc<'a> {
    /// Start of each column, `cols + 1` numbers.
    pub starts: &'a [usize],
    /// Row of each entry.
    pub rows: &'a [u32],
    /// Index of each entry in the row-by-row order.
    pub entries: &'a [u32],
}

impl Csr<'_> {
    /// Number of entries.
    pub fn nnz(&self) -> usize {
        self.columns.len()
    }

    /// The same entries column by column: the data of a [`Csc`]. O(nnz).
    ///
    /// # Panics
    /// When a structure is not valid: decreasing starts, columns out of range or not ascending.
    pub fn transpose(&self) -> (Vec<usize>, Vec<u32>, Vec<u32>) {
        self.check();
        let mut starts = vec![0; self.cols + 1];
        self.columns.iter().for_each(|&c| starts[c as usize + 1] += 1);
        (0..self.cols).for_each(|c| starts[c + 1] += starts[c]);
        let (mut next, mut rows, mut entries) = (starts.clone(), vec![0; self.nnz()], vec![0; self.nnz()]);
        for r in 0..self.rows {
            for e in self.starts[r]..self.starts[r + 1] {
                let slot = &mut next[self.columns[e] as usize];
                (rows[*slot], entries[*slot]) = (r as u32, e as u32);
                *slot += 1;
            }
        }
        (starts, rows, entries)
    }

    /// Panics unless starts are monotone, and columns in range and ascending in each row: memory safety of the kernels
    /// rests on it. O(nnz).
    pub(crate) fn check(&self) {
        self.check_range();
        check_order("columns", "row", self.starts, self.columns);
    }

    /// As [`Csr::check`], but a row may list its columns in any order and repeatedly.
    pub(crate) fn check_range(&self) {
        assert!(u32::try_from(self.cols).is_ok(), "{} columns; fewer than 2^32 are possible", self.cols);
        check_starts("row", self.starts, self.rows, self.columns.len());
        check_below("column", self.columns, self.cols);
    }
}

impl Csc<'_> {
    /// Panics unless this is the transpose of `csr`, which is valid. O(nnz).
    pub(crate) fn check(&self, csr: &Csr) {
        check_starts("column", self.starts, csr.cols, csr.nnz());
        assert_eq!(self.rows.len(), csr.nnz(), "rows of the transpose");
        assert_eq!(self.entries.len(), csr.nnz(), "entries of the transpose");
        check_below("row", self.rows, csr.rows);
        check_below("entry", self.entries, csr.nnz());
        check_order("rows", "column", self.starts, self.rows);
        // Distinct places have distinct entries, so these are all entries, each once.
        for (c, w) in self.starts.windows(2).enumerate() {
            for (&r, &e) in self.rows[w[0]..w[1]].iter().zip(&self.entries[w[0]..w[1]]) {
                let (row, e) = (&csr.starts[r as usize..r as usize + 2], e as usize);
                let same = row[0] <= e && e < row[1] && csr.columns[e] as usize == c;
                assert!(same, "entry {e} of the transpose is not at [{r}, {c}]");
            }
        }
    }
}

fn check_starts(what: &str, starts: &[usize], lines: usize, nnz: usize) {
    assert_eq!(Some(starts.len()), lines.checked_add(1), "{what} starts");
    // Lines and entries are written as 32 bits, one past the last of them too.
    assert!(u32::try_from(lines).is_ok(), "{lines} {what}s; fewer than 2^32 are possible");
    assert!(u32::try_from(nnz).is_ok(), "{nnz} entries; fewer than 2^32 are possible");
    assert_eq!((starts[0], starts[lines]), (0, nnz), "first and last {what} start");
    assert!(starts.windows(2).all(|w| w[0] <= w[1]), "{what} starts run backwards");
}

fn check_below(what: &str, index: &[u32], limit: usize) {
    // A fold over all vectorizes; `all` would stop early and does not.
    let part = |part: &[u32]| part.iter().fold(0, |m, &i| m.max(i));
    let max = index.par_chunks(PART).map(part).max().unwrap_or(0);
    assert!(index.is_empty() || (max as usize) < limit, "{what} {max} is not below {limit}");
}

/// Checks the order within each line; a fold over all for the same reason, with one look at a line that failed.
fn check_order(what: &str, line: &str, starts: &[usize], index: &[u32]) {
    let ascends = |w: &[usize]| index[w[0]..w[1]].windows(2).fold(true, |ok, pair| ok & (pair[0] < pair[1]));
    let wrong = starts.par_windows(2).with_min_len(PART / 16).position_first(|w| !ascends(w));
    assert!(wrong.is_none(), "{what} of {line} {wrong:?} do not ascend");
}
