use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors around a run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request the vocabulary refuses.
    #[error(transparent)]
    Core(#[from] nnz_core::Error),
    /// An error of the engine.
    #[error(transparent)]
    Engine(#[from] nnz_engine::Error),
    /// An unavailable data set.
    #[error(transparent)]
    Data(#[from] nnz_data::Error),
    /// A network of another program.
    #[error(transparent)]
    Foreign(Box<nnz_foreign::Error>),
    /// Data that does not fit.
    #[error(transparent)]
    Rows(#[from] nnz_engine::data::DataError),
    /// An invalid recipe.
    #[error("recipe {place}: {why}")]
    Recipe {
        /// The file or name.
        place: String,
        /// The mistake, and the correction.
        why: String,
    },
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
    /// Ctrl-C; everything up to here is saved.
    #[error("interrupted; go on with `nnz run {}`", .dir.display())]
    Interrupted {
        /// The run directory.
        dir: PathBuf,
    },
}

impl From<nnz_foreign::Error> for Error {
    fn from(e: nnz_foreign::Error) -> Self {
        Self::Foreign(e.into())
    }
}

impl Error {
    /// An [`Error::File`].
    pub fn file(path: &std::path::Path, why: impl ToString) -> Self {
        Self::File { path: path.into(), why: why.to_string() }
    }
}
