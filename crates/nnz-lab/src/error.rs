use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong around a run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request the vocabulary refuses.
    #[error(transparent)]
    Core(#[from] nnz_core::Error),
    /// What the engine refuses.
    #[error(transparent)]
    Engine(#[from] nnz_engine::Error),
    /// A data set that cannot be had.
    #[error(transparent)]
    Data(#[from] nnz_data::Error),
    /// Data that does not fit.
    #[error(transparent)]
    Rows(#[from] nnz_engine::data::DataError),
    /// A recipe that does not say what it must.
    #[error("recipe {place}: {why}")]
    Recipe {
        /// The file or name.
        place: String,
        /// What is wrong, and what would be right.
        why: String,
    },
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
    /// Ctrl-C; everything up to here is saved.
    #[error("interrupted; go on with `nnz run {}`", .dir.display())]
    Interrupted {
        /// The run directory.
        dir: PathBuf,
    },
}

impl Error {
    /// An [`Error::File`].
    pub fn file(path: &std::path::Path, why: impl ToString) -> Self {
        Self::File { path: path.into(), why: why.to_string() }
    }
}
