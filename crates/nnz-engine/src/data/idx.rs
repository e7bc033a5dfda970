//! The IDX format of MNIST: two zero bytes, the type (8 = u8), the number of dimensions, one big-endian u32 per
//! dimension, then the values in row-major order. Plain or gzip, distinguished by the first two bytes.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::error::{DataError, Result};
use super::hex;

/// Most values in one file. Full MNIST has 47 million; a gzip bomb stops here.
pub const MAX_VALUES: u64 = 1 << 30;

/// A tensor of bytes from an IDX file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idx {
    /// Name of the file, for messages.
    pub file: String,
    /// 1 to 3 dimensions, none of them zero.
    pub shape: Vec<usize>,
    /// Row-major values, as many as the product of `shape`.
    pub data: Vec<u8>,
    /// SHA-256 of the unpacked file, header included, in hexadecimal. The same for a plain and a gzip copy.
    pub sha256: String,
}

/// Reads an IDX file of u8, plain or gzip.
///
/// # Errors
/// When the file cannot be read or is not IDX of u8 with 1 to 3 dimensions; the message has the byte offset.
pub fn read_idx(path: &Path) -> Result<Idx> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|why| DataError::Io { file: name.clone(), why })?;
    parse_idx(io::BufReader::with_capacity(1 << 16, file), &name)
}

/// Reads IDX of u8, plain or gzip, from any reader; `file` names it in messages.
///
/// Memory grows as bytes arrive: at most twice what `reader` delivered, never what a header claims.
///
/// # Errors
/// As [`read_idx`].
pub fn parse_idx(mut reader: impl Read, file: &str) -> Result<Idx> {
    let mut head = Vec::new();
    reader.by_ref().take(2).read_to_end(&mut head).map_err(|why| DataError::Io { file: file.into(), why })?;
    let gzip = head == [0x1f, 0x8b];
    let whole = io::Cursor::new(head).chain(reader);
    if gzip {
        let mut idx = parse(&mut Raw::new(MultiGzDecoder::new(whole), format!("{file} (unpacked)"), true))?;
        idx.file = file.into();
        Ok(idx)
    } else {
        parse(&mut Raw::new(whole, file.into(), false))
    }
}

fn parse<R: Read>(raw: &mut Raw<R>) -> Result<Idx> {
    let magic = raw.take(4)?;
    match magic[..] {
        [] => return Err(raw.wrong(0, "the file is empty; copy or fetch it again")),
        [0, 0, 8, 1..=3] => {}
        [0, 0, 8, dims] => {
            return Err(raw.wrong(3, format!("{dims} dimensions; pictures have 3, plain vectors 2, labels 1")));
        }
        [0, 0, kind, _] => {
            return Err(raw.wrong(2, format!("values of type 0x{kind:02x}; only 0x08 (unsigned bytes) is read")));
        }
        [a, b, c, d] => {
            let why = format!("not an IDX file: it starts with {a:02x} {b:02x} {c:02x} {d:02x}, not with 00 00 08");
            return Err(raw.wrong(0, why));
        }
        _ => return Err(raw.wrong(magic.len() as u64, "not an IDX file: it ends inside the first four bytes")),
    }
    let mut shape = Vec::new();
    let mut claimed = 1u64;
    for dim in 1..=magic[3] {
        let at = raw.offset;
        let bytes = raw.take(4)?;
        let Ok(size) = <[u8; 4]>::try_from(&bytes[..]) else {
            return Err(raw.wrong(raw.offset, "the file ends inside its header; copy or fetch it again"));
        };
        let size = u32::from_be_bytes(size);
        if size == 0 {
            return Err(raw.wrong(at, format!("dimension {dim} is 0, so the file holds no value")));
        }
        claimed = claimed.saturating_mul(size.into());
        if claimed > MAX_VALUES {
            return Err(raw.wrong(at, format!("dimension {dim} is {size}: more than {MAX_VALUES} values are not read")));
        }
        shape.push(size as usize);
    }
    let data = raw.take(claimed)?;
    if (data.len() as u64) < claimed {
        let shape = shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
        let why = format!(
            "the file ends after {} of the {claimed} values its header names ({shape}); copy or fetch it again",
            data.len()
        );
        return Err(raw.wrong(raw.offset, why));
    }
    let end = raw.offset;
    if !raw.take(1)?.is_empty() {
        let why = format!("bytes follow the {claimed} values its header names; the header or the file is wrong");
        return Err(raw.wrong(end, why));
    }
    Ok(Idx { file: raw.file.clone(), shape, data, sha256: hex(&raw.hash.clone().finalize()) })
}

/// Counts and hashes the bytes that pass through.
struct Raw<R> {
    inner: R,
    file: String,
    gzip: bool,
    offset: u64,
    hash: Sha256,
}

impl<R: Read> Raw<R> {
    fn new(inner: R, file: String, gzip: bool) -> Self {
        Self { inner, file, gzip, offset: 0, hash: Sha256::new() }
    }

    /// Reads up to `n` bytes; fewer only at the end.
    fn take(&mut self, n: u64) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let done = self.inner.by_ref().take(n).read_to_end(&mut out);
        self.hash.update(&out);
        self.offset += out.len() as u64;
        match done {
            Ok(_) => Ok(out),
            Err(e) if self.gzip && broken(&e) => {
                Err(self.wrong(self.offset, format!("the gzip stream is damaged or cut off ({e}); fetch it again")))
            }
            Err(why) => Err(DataError::Io { file: self.file.clone(), why }),
        }
    }

    fn wrong(&self, offset: u64, why: impl Into<String>) -> DataError {
        DataError::Idx { file: self.file.clone(), offset, why: why.into() }
    }
}

/// Whether an error is about the bytes and not about the disk.
fn broken(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use nnz_core::Rng;

    use super::*;

    fn idx(dims: &[u32], data: &[u8]) -> Vec<u8> {
        let mut out = vec![0, 0, 8, dims.len() as u8];
        dims.iter().for_each(|d| out.extend(d.to_be_bytes()));
        out.extend(data);
        out
    }

    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    }

    fn fails(bytes: &[u8]) -> (u64, String) {
        match parse_idx(bytes, "some/file").unwrap_err() {
            DataError::Idx { file, offset, why } => {
                assert!(file.starts_with("some/file"), "{file}");
                (offset, why)
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn plain_and_gzip_read_the_same() {
        let plain = idx(&[2, 2, 3], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        let a = parse_idx(&plain[..], "f").unwrap();
        assert_eq!(a, parse_idx(&gz(&plain)[..], "f").unwrap());
        assert_eq!((a.shape, a.data), (vec![2, 2, 3], (1..=12).collect::<Vec<u8>>()));
        assert_eq!(a.sha256, hex(&Sha256::digest(&plain)));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_offset() {
        let good = idx(&[2, 3], &[1, 2, 3, 4, 5, 6]);
        let mut long = good.clone();
        long.push(7);
        let cases: [(&[u8], u64, &str); 12] = [
            (&[], 0, "empty"),
            (&[0, 0, 8], 3, "first four bytes"),
            (b"\x89PNG....", 0, "89 50 4e 47"),
            (&[0, 0, 0x0d, 1, 0, 0, 0, 1, 0], 2, "type 0x0d"),
            (&[0, 0, 8, 4, 0, 0, 0, 1], 3, "4 dimensions"),
            (&[0, 0, 8, 0], 3, "0 dimensions"),
            (&good[..10], 10, "inside its header"),
            (&good[..good.len() - 2], 16, "after 4 of the 6 values its header names (2 x 3)"),
            (&long, 18, "bytes follow"),
            (&idx(&[3, 0], &[]), 8, "dimension 2 is 0"),
            (&idx(&[u32::MAX, u32::MAX, u32::MAX], &[]), 4, "dimension 1 is 4294967295"),
            (&idx(&[70_000, 70_000], &[1]), 8, "more than 1073741824"),
        ];
        for (bytes, offset, word) in cases {
            for (at, why) in [fails(bytes), fails(&gz(bytes))] {
                assert!(at == offset && why.contains(word), "byte {at}: {why} (expected {word} at {offset})");
            }
        }
        let packed = gz(&good);
        assert!(fails(&packed[..packed.len() - 3]).1.contains("gzip"));
        let mut trailing = packed.clone();
        trailing.extend(b"garbage");
        assert!(fails(&trailing).1.contains("gzip"));
        assert_eq!(parse_idx(&good[..], "f").unwrap().shape, [2, 3]);
    }

    #[test]
    fn a_header_alone_costs_no_memory() {
        let mut raw = Raw::new(&[1u8; 100][..], "f".into(), false);
        let data = raw.take(1 << 30).unwrap();
        assert!(data.len() == 100 && data.capacity() <= 256, "{} bytes for 100", data.capacity());
    }

    #[test]
    fn damaged_bytes_never_panic() {
        let good = idx(&[5, 4, 4], &[7; 80]);
        for t in 0..4000 {
            let mut r = Rng::stream(0, "damage", 0, t);
            let mut bytes = if t % 2 == 0 { good.clone() } else { gz(&good) };
            match t % 3 {
                0 => bytes.truncate(r.below(bytes.len() as u64) as usize),
                1 => bytes = (0..r.below(64)).map(|_| r.bits() as u8).collect(),
                _ => {}
            }
            for _ in 0..r.below(6) {
                if !bytes.is_empty() {
                    let at = r.below(bytes.len().min(20) as u64) as usize;
                    bytes[at] = r.bits() as u8;
                }
            }
            if let Ok(idx) = parse_idx(&bytes[..], "f") {
                assert_eq!(idx.data.len(), idx.shape.iter().product::<usize>());
            }
        }
    }
}
