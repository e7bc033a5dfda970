/// A fine-tuned weight as the columns that fine-tuning changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter<T> {
    /// Indices of those columns, ascending.
    pub columns: Vec<usize>,
    /// Values of those columns, `[rows, columns]`.
    pub block: Vec<T>,
}

impl<T: Copy + PartialEq> Adapter<T> {
    /// Collects the columns in which `tuned` differs from `base`; both row-major `[rows, cols]`.
    pub fn between(base: &[T], tuned: &[T], cols: usize) -> Self {
        let rows = || base.chunks(cols.max(1)).zip(tuned.chunks(cols.max(1)));
        let columns: Vec<usize> = (0..cols).filter(|&c| rows().any(|(a, b)| a[c] != b[c])).collect();
        let block = tuned.chunks(cols.max(1)).flat_map(|row| columns.iter().map(|&c| row[c])).collect();
        Self { columns, block }
    }

    /// Swaps its columns with those of a weight: once fuses the adapter, twice restores the weight to the bit.
    pub fn swap(&mut self, weight: &mut [T], cols: usize) {
        let width = self.columns.len();
        for (row, block) in weight.chunks_mut(cols.max(1)).zip(self.block.chunks_mut(width.max(1))) {
            self.columns.iter().zip(block).for_each(|(&c, b)| std::mem::swap(&mut row[c], b));
        }
    }
}
