use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with somebody else's network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request the vocabulary refuses.
    #[error(transparent)]
    Core(#[from] nnz_core::Error),
    /// What the engine refuses.
    #[error(transparent)]
    Engine(#[from] nnz_engine::Error),
    /// Data that cannot be had.
    #[error(transparent)]
    Data(#[from] nnz_data::Error),
    /// A file or directory.
    #[error("{}: {why}", .path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
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
