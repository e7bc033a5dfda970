use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in the engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request the vocabulary refuses.
    #[error(transparent)]
    Core(#[from] nnz_core::Error),
    /// Data that does not fit.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// A gradient that cannot be taken.
    #[error(transparent)]
    Tape(#[from] nnz_tensor::TapeError),
    /// What a fit or its file refuses.
    #[error(transparent)]
    Tensor(#[from] nnz_tensor::Error),
    /// A model specification that does not parse or does not fit.
    #[error("model `{spec}`: {why}")]
    Model {
        /// The specification.
        spec: String,
        /// What does not fit, and what would.
        why: String,
    },
    /// The loss stopped being a number.
    #[error("the loss is {loss} at step {step}{layer}; a smaller learning rate (`--lr`) usually helps")]
    NonFinite {
        /// The loss.
        loss: f64,
        /// The optimizer step.
        step: u64,
        /// Where numbers first stopped being finite, as the end of the sentence.
        layer: String,
    },
    /// Two choices that exclude each other.
    #[error("{0}")]
    Refused(String),
    /// A file that is not what it should be.
    #[error("{}: {why}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        why: String,
    },
}

impl Error {
    /// A [`Error::File`].
    pub fn file(path: &std::path::Path, why: impl ToString) -> Self {
        Self::File { path: path.into(), why: why.to_string() }
    }
}

/// What a method says of an engine that refused it something.
impl From<Error> for nnz_core::Error {
    fn from(e: Error) -> Self {
        match e {
            Error::Core(e) => e,
            other => Self::Refused(other.to_string()),
        }
    }
}
