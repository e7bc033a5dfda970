use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors of the engine.
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
    /// An error of a fit or its file.
    #[error(transparent)]
    Tensor(#[from] nnz_tensor::Error),
    /// A model specification that does not parse or does not fit.
    #[error("model `{spec}`: {why}")]
    Model {
        /// The specification.
        spec: String,
        /// The mismatch, and what would fit.
        why: String,
    },
    /// A loss that is not finite.
    #[error("the loss is {loss} at step {step}{layer}; a smaller learning rate (`--lr`) usually helps")]
    NonFinite {
        /// The loss.
        loss: f64,
        /// The optimizer step.
        step: u64,
        /// Where numbers first became non-finite, as the end of the sentence.
        layer: String,
    },
    /// Two choices that exclude each other.
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
}

impl Error {
    /// A [`Error::File`].
    pub fn file(path: &std::path::Path, why: impl ToString) -> Self {
        Self::File { path: path.into(), why: why.to_string() }
    }
}

/// A method's view of an engine error.
impl From<Error> for nnz_core::Error {
    fn from(e: Error) -> Self {
        match e {
            Error::Core(e) => e,
            other => Self::Refused(other.to_string()),
        }
    }
}
