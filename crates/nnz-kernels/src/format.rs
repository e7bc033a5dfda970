/// Compressed sparse rows without values: `rows` outputs, `cols` inputs, columns ascending in each row.
///
/// A view; entry order is row by row.
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

    /// The same entries column by column: what [`Csc`] views. O(nnz); of a valid structure.
    pub fn transpose(&self) -> (Vec<usize>, Vec<u32>, Vec<u32>) {
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

    /// Panics unless starts are monotone and columns in range: memory safety of the kernels rests on it. O(nnz).
    pub(crate) fn check(&self) {
        check_starts("row", self.starts, self.rows, self.columns.len());
        check_below("column", self.columns, self.cols);
    }
}

impl Csc<'_> {
    /// Panics unless this can be the transpose of `csr` as far as memory safety goes. O(nnz).
    pub(crate) fn check(&self, csr: &Csr) {
        check_starts("column", self.starts, csr.cols, csr.nnz());
        assert_eq!(self.rows.len(), csr.nnz(), "rows of the transpose");
        assert_eq!(self.entries.len(), csr.nnz(), "entries of the transpose");
        check_below("row", self.rows, csr.rows);
        check_below("entry", self.entries, csr.nnz());
    }
}

fn check_starts(what: &str, starts: &[usize], lines: usize, nnz: usize) {
    assert_eq!(starts.len(), lines + 1, "{what} starts");
    assert_eq!((starts[0], starts[lines]), (0, nnz), "first and last {what} start");
    assert!(starts.windows(2).all(|w| w[0] <= w[1]), "{what} starts run backwards");
}

fn check_below(what: &str, index: &[u32], limit: usize) {
    // A fold over all vectorizes; `all` would stop early and does not.
    let max = index.iter().fold(0, |m, &i| m.max(i));
    assert!(index.is_empty() || (max as usize) < limit, "{what} {max} is not below {limit}");
}
