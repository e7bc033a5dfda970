//! Model files of other programs: safetensors (sharded too), PyTorch's `.pth` and `.pt`, GGUF, NumPy's `.npz`.
//!
//! [`Archive::open`] maps a file or a folder into memory and lists its tensors; [`Archive::read`] decodes one. No
//! reader executes anything or allocates what a header merely claims: every length is checked against the available
//! bytes. [`Writer`] writes safetensors, tensor by tensor, dense with zeros or packed ([`Packing`]).
#![forbid(unsafe_code)]

mod archive;
mod blocks;
mod format;
mod gguf;
mod grids;
mod made;
mod npz;
mod packed;
mod pickle;
mod torch;
mod write;

pub use archive::{Archive, Entry, Value};
pub use format::Format;
pub use npz::Npy;
pub use packed::{Packing, entropy_bits};
pub use write::{Dtype, Writer, Written};

use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", .path.display())]
pub struct Error {
    /// Its path.
    pub path: PathBuf,
    /// The defect, and the remedy.
    pub why: String,
}

impl Error {
    /// Reports a defect of a file.
    pub fn new(path: &Path, why: impl ToString) -> Self {
        Self { path: path.into(), why: why.to_string() }
    }
}
