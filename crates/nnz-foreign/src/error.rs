use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors of networks from elsewhere.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request the vocabulary refuses.
    #[error(transparent)]
    Core(#[from] nnz_core::Error),
    /// An error of the engine.
    #[error(transparent)]
    Engine(#[from] nnz_engine::Error),
    /// Unavailable data.
    #[error(transparent)]
    Data(#[from] nnz_data::Error),
    /// A file or directory.
    #[error("{}: {why}", .path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// The defect.
        why: String,
    },
    /// A choice that cannot be carried out.
    #[error("{0}")]
    Refused(String),
}

impl Error {
    /// An [`Error::File`].
    pub fn file(path: &std::path::Path, why: impl ToString) -> Self {
        Self::File { path: path.into(), why: why.to_string() }
    }
}
