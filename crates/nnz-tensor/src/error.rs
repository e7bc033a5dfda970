use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors of tensors and of fits.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request the vocabulary refuses.
    #[error(transparent)]
    Core(#[from] nnz_core::Error),
    /// A gradient that cannot be taken.
    #[error(transparent)]
    Tape(#[from] crate::TapeError),
    /// Two choices that exclude each other, or a number outside its range.
    #[error("{0}")]
    Refused(String),
    /// A malformed file.
    #[error("{}: {why}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The defect, and where it is.
        why: String,
    },
    /// An error from an objective of another crate.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// An [`Error::File`].
    pub fn file(path: &std::path::Path, why: impl ToString) -> Self {
        Self::File { path: path.into(), why: why.to_string() }
    }

    /// An [`Error::Other`].
    pub fn other(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Other(Box::new(error))
    }
}
