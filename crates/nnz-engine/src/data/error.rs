use std::io;

/// Invalid data. Every message names the place and the way out.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// An error of the operating system.
    #[error("cannot read {file}: {why}")]
    Io {
        /// The file.
        file: String,
        /// The system's error.
        why: io::Error,
    },
    /// A file that violates the IDX format.
    #[error("{file}, byte {offset}: {why}")]
    Idx {
        /// The file; "(unpacked)" when the offset counts bytes after gzip.
        file: String,
        /// Where reading stopped.
        offset: u64,
        /// What is wrong there, and what to do.
        why: String,
    },
    /// Inconsistent parts.
    #[error("data set `{name}`, {place}: {why}")]
    Invalid {
        /// The data set.
        name: String,
        /// The part of it.
        place: String,
        /// The mismatch, and what would fit.
        why: String,
    },
    /// A row that a split does not have.
    #[error("row {row} is not in this split of {rows} rows; rows count from 0")]
    Row {
        /// The row asked for.
        row: u32,
        /// Number of rows.
        rows: usize,
    },
    /// An output slice of the wrong length.
    #[error("{rows} rows of {width} values need a slice of {}, got one of {got}", rows * width)]
    Length {
        /// Rows asked for.
        rows: usize,
        /// Values of one row.
        width: usize,
        /// Length of the slice.
        got: usize,
    },
    /// An invalid validation fraction.
    #[error("a validation fraction of {fraction} of {rows} rows cannot be taken: {why}")]
    Fraction {
        /// The fraction.
        fraction: f64,
        /// Rows of the training split.
        rows: usize,
        /// The reason, and what is possible.
        why: String,
    },
}

/// Result of this module.
pub type Result<T, E = DataError> = std::result::Result<T, E>;
