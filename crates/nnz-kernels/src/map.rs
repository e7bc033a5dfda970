//! Files mapped into memory.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// A file's bytes, read by the system when they are looked at. Nothing of them counts against the memory of the process for
/// longer than the system likes, so a file may be larger than memory.
///
/// The file must not be cut short by somebody else while it is mapped: the system ends a process that reads behind the end.
#[derive(Debug)]
pub struct Map(memmap2::Mmap);

impl Map {
    /// Maps a regular file.
    ///
    /// # Errors
    /// When it cannot be opened or mapped; a folder, pipe or device is refused.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        // SAFETY: the map is read-only and private to this value; that nobody truncates or rewrites the file meanwhile is
        // the one thing the type system cannot see, and it is said above.
        Ok(Self(unsafe { memmap2::Mmap::map(&file)? }))
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
