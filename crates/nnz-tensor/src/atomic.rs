use crate::{Error, Result};
use std::io::Write;
use std::path::Path;

/// Writes a file whole or not at all: a temporary name in the same directory, synced, then renamed.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fail = |e: std::io::Error| Error::file(path, format!("cannot write: {e}"));
    if path.metadata().is_ok_and(|m| !m.is_file()) {
        return Err(Error::file(path, "cannot write: it is no regular file; give another name"));
    }
    let mut file = tempfile::Builder::new().prefix(".nnz-").suffix(".tmp").tempfile_in(dir).map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644)).map_err(fail)?;
    }
    file.persist(path).map_err(|e| fail(e.error))?;
    Ok(())
}
