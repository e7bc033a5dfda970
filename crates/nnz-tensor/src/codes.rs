use crate::{Error, Real, Result, Tensor, Var, ops};
use nnz_kernels::Csr;
use std::sync::Arc;

/// The structure of a batch of sparse rows, rebuilt each step: the features of a sample, the experts it goes to, the spikes
/// at a time step, the postings of a document. Its values are kept in a [`SparseVar`].
///
/// Memory is 4 bytes per row and 4 per entry; clones share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Codes {
    rows: usize,
    cols: usize,
    starts: Arc<[u32]>,
    columns: Arc<[u32]>,
}

impl Codes {
    /// Checks compressed rows: row `r` has columns `columns[starts[r]..starts[r + 1]]`, ascending, each once. O(entries).
    ///
    /// # Errors
    /// When `starts` does not delimit `rows` rows, or the columns of a row do not ascend or exceed `cols`.
    pub fn new(
        rows: usize,
        cols: usize,
        starts: impl Into<Arc<[u32]>>,
        columns: impl Into<Arc<[u32]>>,
    ) -> Result<Self> {
        let codes = Self { rows, cols, starts: starts.into(), columns: columns.into() };
        let refuse = |why: String| Err(Error::Refused(format!("codes of {rows} rows over {cols} columns: {why}")));
        let ends = (codes.starts.first(), codes.starts.last());
        if codes.starts.len() != rows + 1
            || ends.0 != Some(&0)
            || ends.1.map(|&e| e as usize) != Some(codes.columns.len())
        {
            return refuse(format!("{} starts do not delimit {} entries", codes.starts.len(), codes.columns.len()));
        }
        if let Some(r) = codes.starts.windows(2).position(|w| w[0] > w[1]) {
            return refuse(format!("row {r} ends before it starts"));
        }
        for r in 0..rows {
            let row = codes.row(r);
            if row.windows(2).any(|w| w[0] >= w[1]) || row.last().is_some_and(|&c| c as usize >= cols) {
                return refuse(format!("the columns {row:?} of row {r} do not ascend below {cols}"));
            }
        }
        Ok(codes)
    }

    /// Takes rows, columns and entries that are known to fit.
    pub(crate) fn trusted(cols: usize, starts: Vec<u32>, columns: Vec<u32>) -> Self {
        Self { rows: starts.len() - 1, cols, starts: starts.into(), columns: columns.into() }
    }

    /// Rows of the batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: the size of the dictionary.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Entries of all rows.
    pub fn nnz(&self) -> usize {
        self.columns.len()
    }

    /// Start of each row among the columns, `[rows + 1]`.
    pub fn starts(&self) -> &[u32] {
        &self.starts
    }

    /// The column of every entry, `[nnz]`, row after row.
    pub fn columns(&self) -> &[u32] {
        &self.columns
    }

    /// The entries of a row.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn span(&self, row: usize) -> std::ops::Range<usize> {
        self.starts[row] as usize..self.starts[row + 1] as usize
    }

    /// The columns of a row, ascending.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, row: usize) -> &[u32] {
        &self.columns[self.span(row)]
    }

    /// The row of every entry, `[nnz]`.
    pub fn lines(&self) -> Vec<usize> {
        (0..self.rows).flat_map(|r| std::iter::repeat_n(r, self.span(r).len())).collect()
    }

    /// Counts the rows of each column, `[cols]`.
    pub fn counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.cols];
        self.columns.iter().for_each(|&c| counts[c as usize] += 1);
        counts
    }

    /// Keeps at most the first `limit` rows of each column. O(entries).
    #[must_use]
    pub fn within(&self, limit: usize) -> Self {
        let mut left = vec![limit; self.cols];
        let (mut starts, mut columns) = (vec![0u32], Vec::new());
        for r in 0..self.rows {
            columns.extend(self.row(r).iter().filter(|&&c| left[c as usize] > 0));
            columns[starts[r] as usize..].iter().for_each(|&c| left[c as usize] -= 1);
            starts.push(columns.len() as u32);
        }
        Self::trusted(self.cols, starts, columns)
    }

    /// Sorts the entries by column, rows ascending: `[nnz]` positions of entries, and where each column starts,
    /// `[cols + 1]`.
    pub fn by_columns(&self) -> (Vec<usize>, Vec<usize>) {
        let mut starts = vec![0; self.cols + 1];
        self.columns.iter().for_each(|&c| starts[c as usize + 1] += 1);
        (0..self.cols).for_each(|c| starts[c + 1] += starts[c]);
        let (mut next, mut order) = (starts.clone(), vec![0; self.nnz()]);
        for (entry, &c) in self.columns.iter().enumerate() {
            order[next[c as usize]] = entry;
            next[c as usize] += 1;
        }
        (order, starts)
    }

    /// View for the kernels; `starts` is room for their wider numbers.
    pub(crate) fn csr<'a>(&'a self, starts: &'a mut Vec<usize>) -> Csr<'a> {
        starts.clear();
        starts.extend(self.starts.iter().map(|&s| s as usize));
        Csr { rows: self.rows, cols: self.cols, starts, columns: &self.columns }
    }
}

/// Sparse activations on the tape: a structure without gradient and values with one.
#[derive(Clone)]
pub struct SparseVar<T> {
    codes: Codes,
    values: Var<T>,
}

impl<T: Real> SparseVar<T> {
    /// Attaches values `[nnz]` to `codes`, in the order of [`Codes::columns`].
    ///
    /// # Panics
    /// When there is not one value per entry.
    pub fn new(codes: Codes, values: Var<T>) -> Self {
        assert_eq!(values.shape(), [codes.nnz()], "one value for each entry of the codes");
        Self { codes, values }
    }

    /// Structure of the values.
    pub fn codes(&self) -> &Codes {
        &self.codes
    }

    /// The values, `[nnz]`.
    pub fn values(&self) -> &Var<T> {
        &self.values
    }

    /// Applies `f` to the values, `[nnz]` to `[nnz]`.
    ///
    /// # Panics
    /// When `f` changes their number.
    pub fn map(&self, f: impl FnOnce(&Var<T>) -> Var<T>) -> Self {
        Self::new(self.codes.clone(), f(&self.values))
    }

    /// Expands to `[rows, cols]`, zero where there is no entry. Costs as much as a dense matrix.
    pub fn dense(&self) -> Var<T> {
        let cols = self.codes.cols;
        let at =
            self.codes.lines().into_iter().zip(self.codes.columns()).map(|(r, &c)| r * cols + c as usize).collect();
        ops::place(&self.values, Arc::new(at), &[self.codes.rows, cols])
    }

    /// Extracts the nonzero entries of a dense matrix `[rows, cols]`, without gradient.
    ///
    /// # Panics
    /// When there are 2³² of them or more.
    pub fn of_dense(dense: &Tensor<T>) -> Self {
        let (rows, cols) = dense.rows_cols();
        let (mut starts, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
        for row in dense.data().chunks_exact(cols.max(1)).take(rows) {
            for (c, &v) in row.iter().enumerate().filter(|(_, v)| **v != T::ZERO) {
                columns.push(c as u32);
                values.push(v);
            }
            starts.push(u32::try_from(columns.len()).expect("fewer than 2^32 entries"));
        }
        let values = Var::constant(Tensor::new(&[values.len()], values));
        Self::new(Codes::trusted(cols, starts, columns), values)
    }
}
