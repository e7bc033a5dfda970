//! Bytes of a file for readers: unpacked, hashed, and never more at once than allowed.

use super::super::{Error, Result};
use flate2::read::MultiGzDecoder;
use nnz_engine::data::hex;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::Path;

/// Most bytes of one line or record. A file without line ends must not fill the memory.
pub(super) const RECORD: u64 = 16 << 20;
/// Most bytes of a file that is read whole.
pub(super) const WHOLE: u64 = 4 << 30;

/// A file, unpacked if it is gzip.
pub(crate) struct Stream<'a> {
    inner: Box<dyn Read + 'a>,
    hash: Sha256,
    packed: bool,
    /// Bytes that may be read until the next [`Stream::allow`].
    left: u64,
}

impl<'a> Stream<'a> {
    /// Wraps any reader; gzip is detected by its first two bytes.
    pub fn new(mut reader: impl Read + 'a) -> io::Result<Self> {
        let mut head = Vec::new();
        reader.by_ref().take(2).read_to_end(&mut head)?;
        let packed = head == [0x1f, 0x8b];
        let whole = Cursor::new(head).chain(reader);
        let inner: Box<dyn Read + 'a> = if packed { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) };
        Ok(Self { inner, hash: Sha256::new(), packed, left: RECORD })
    }

    /// Opens a file, or one that is lent in memory.
    pub fn open(path: &Path) -> Result<Stream<'static>> {
        let failed = |why| Error::Io { what: "read", path: path.into(), why };
        if let Some(bytes) = super::memory::file(path)? {
            return Stream::new(Cursor::new(bytes)).map_err(failed);
        }
        let file = File::open(path).map_err(failed)?;
        Stream::new(io::BufReader::with_capacity(1 << 16, file)).map_err(failed)
    }

    /// Allows `bytes` more to be read.
    pub fn allow(&mut self, bytes: u64) {
        self.left = bytes;
    }

    /// SHA-256 of the bytes read, in hexadecimal: of the unpacked file once it was read to its end.
    pub fn checksum(&self) -> String {
        hex(&self.hash.clone().finalize())
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !buffer.is_empty() {
            let why = "a line or a whole of more bytes than are read at once; is this another kind of file?";
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.inner.read(&mut buffer[..most]).map_err(|e| match self.packed {
            true if e.kind() != io::ErrorKind::Interrupted => {
                io::Error::new(io::ErrorKind::InvalidData, format!("the gzip stream is damaged or cut off ({e})"))
            }
            _ => e,
        })?;
        self.left -= n as u64;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

/// Reads a whole file into memory, unpacked, with its checksum. Memory grows as bytes arrive.
pub(super) fn whole(path: &Path, most: u64) -> Result<(Vec<u8>, String)> {
    let mut stream = Stream::open(path)?;
    // Before anything of it is read.
    if path.metadata().is_ok_and(|m| m.len() > most) {
        let why = match most >> 30 {
            0 => format!("larger than the {most} bytes that such a file has at most"),
            gib => format!("larger than {gib} GiB; files that are read as a whole have at most {gib} GiB"),
        };
        return Err(super::content(path.display().to_string(), why));
    }
    stream.allow(most);
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map_err(|why| Error::Io { what: "read", path: path.into(), why })?;
    Ok((bytes, stream.checksum()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn plain_and_packed_read_the_same_and_no_more_than_allowed() {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"a,b\n1,2\n").unwrap();
        let gz = gz.finish().unwrap();
        for bytes in [&b"a,b\n1,2\n"[..], &gz] {
            let mut s = Stream::new(bytes).unwrap();
            let mut text = String::new();
            s.read_to_string(&mut text).unwrap();
            assert_eq!((text.as_str(), s.checksum()), ("a,b\n1,2\n", hex(&Sha256::digest(b"a,b\n1,2\n"))));
            let mut s = Stream::new(bytes).unwrap();
            s.allow(5);
            let mut out = Vec::new();
            let e = s.read_to_end(&mut out).unwrap_err();
            assert!(out == b"a,b\n1" && e.to_string().contains("more bytes"), "{e}");
        }
        let mut out = Vec::new();
        let cut = Stream::new(&gz[..gz.len() - 2]).unwrap().read_to_end(&mut out).unwrap_err();
        assert!(cut.to_string().contains("cut off"), "{cut}");
    }
}
