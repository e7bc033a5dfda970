use crate::{Error, Result};
use std::path::Path;

/// Writes a file whole or not at all.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    nnz_disk::write(path, bytes).map_err(|e| Error::file(path, format!("cannot write: {e}")))
}
