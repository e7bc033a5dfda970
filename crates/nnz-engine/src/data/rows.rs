use super::{DataError, Result};

/// Rows of which only the values that are not zero are kept: compressed rows, whose columns may come in any order. Values of one
/// place add up.
#[derive(Clone, Debug, PartialEq)]
pub struct SparseRows {
    width: usize,
    starts: Vec<usize>,
    columns: Vec<u32>,
    values: Vec<f64>,
}

impl SparseRows {
    /// Rows of `width` values: row r has `values[k]` at `columns[k]` for k in `starts[r]..starts[r + 1]`.
    ///
    /// # Errors
    /// When the parts do not fit together, or a column is not below `width`.
    pub fn new(width: usize, starts: Vec<usize>, columns: Vec<u32>, values: Vec<f64>) -> Result<Self> {
        let invalid =
            |why: String| Err(DataError::Invalid { name: "in memory".into(), place: "compressed rows".into(), why });
        if columns.len() != values.len() {
            return invalid(format!("{} columns for {} values", columns.len(), values.len()));
        }
        let ascending = starts.windows(2).all(|w| w[0] <= w[1]);
        if starts.first() != Some(&0) || starts.last() != Some(&values.len()) || !ascending {
            return invalid(format!("the starts of rows do not ascend from 0 to {}", values.len()));
        }
        if let Some(at) = columns.iter().position(|&c| c as usize >= width) {
            return invalid(format!("entry {at} is in column {} of {width}", columns[at]));
        }
        Ok(Self { width, starts, columns, values })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    /// Values of a row, zero or not.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Adds a row to `out`; `None` if there is no such row or `out` has another width.
    pub(super) fn fill(&self, row: u32, out: &mut [f64]) -> Option<()> {
        let row = row as usize;
        let span = *self.starts.get(row)?..*self.starts.get(row + 1)?;
        if out.len() != self.width {
            return None;
        }
        self.columns[span.clone()].iter().zip(&self.values[span]).for_each(|(&c, v)| out[c as usize] += v);
        Some(())
    }

    /// The rows in another order, or some of them.
    pub(super) fn pick(&self, rows: &[usize]) -> Self {
        let (mut starts, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
        for &row in rows {
            let span = self.starts[row]..self.starts[row + 1];
            columns.extend_from_slice(&self.columns[span.clone()]);
            values.extend_from_slice(&self.values[span]);
            starts.push(values.len());
        }
        Self { width: self.width, starts, columns, values }
    }

    /// Σ f(x) over the values of rows in chosen columns, zeros too.
    pub(super) fn sum(&self, rows: &[u32], chosen: impl Fn(usize) -> bool, f: &dyn Fn(f64) -> f64) -> f64 {
        let mut dense = vec![0.0; self.width];
        let one = |&row: &u32| {
            dense.fill(0.0);
            self.fill(row, &mut dense);
            dense.iter().enumerate().filter(|(column, _)| chosen(*column)).map(|(_, &x)| f(x)).sum::<f64>()
        };
        rows.iter().map(one).sum()
    }

    /// The place of the first value that is not finite, and the value.
    pub(super) fn not_finite(&self) -> Option<(usize, f64)> {
        let at = self.values.iter().position(|v| !v.is_finite())?;
        let row = self.starts.partition_point(|&s| s <= at) - 1;
        Some((row * self.width + self.columns[at] as usize, self.values[at]))
    }
}
