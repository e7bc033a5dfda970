//! NumPy's archives of arrays, `numpy.savez`: a zip archive of members `NAME.npy`, each a magic, a header that is a Python
//! dictionary, and numbers.

use crate::Format;
use crate::archive::{Entry, Found, Place};
use std::io::Cursor;

/// Bytes a header may have; NumPy's own are below a thousand.
const HEADER: usize = 1 << 16;

/// Whether a zip archive holds arrays.
pub(crate) fn fits(bytes: &[u8]) -> bool {
    zip::ZipArchive::new(Cursor::new(bytes))
        .is_ok_and(|zip| zip.file_names().flatten().next().is_some_and(|n| n.ends_with(".npy")))
}

/// The arrays of an archive whose members lie as they are.
pub(crate) fn read(bytes: &[u8], blob: usize) -> Result<Found, String> {
    let broken = |e: zip::result::ZipError| format!("not a whole .npz archive: {e}");
    let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).map_err(broken)?;
    let mut found = Found::default();
    for i in 0..zip.len() {
        let file = zip.by_index(i).map_err(broken)?;
        let name = file.name().map_err(|e| format!("a member's name: {e}"))?.into_owned();
        let Some(name) = name.strip_suffix(".npy") else { return Err(format!("member `{name}` is no array")) };
        if file.compression() != zip::CompressionMethod::Stored {
            return Err(format!("`{name}` is compressed; save the weights with numpy.savez, so that they can be mapped"));
        }
        let start = file.data_start().and_then(|s| usize::try_from(s).ok());
        let range = start.zip(usize::try_from(file.size()).ok());
        let range = range.and_then(|(s, n)| Some(s..s.checked_add(n)?)).filter(|r| r.end <= bytes.len());
        let range = range.ok_or_else(|| format!("`{name}` reaches beyond the end of the file"))?;
        let entry = array(&bytes[range.clone()], range.start, blob).map_err(|why| format!("`{name}`: {why}"))?;
        found.entries.insert(name.into(), entry);
    }
    Ok(found)
}

fn array(bytes: &[u8], at: usize, blob: usize) -> Result<Entry, String> {
    let Some((magic, rest)) = bytes.split_at_checked(8).filter(|(m, _)| m.starts_with(b"\x93NUMPY")) else {
        return Err("no .npy array: it does not start with 93 4e 55 4d 50 59".into());
    };
    let width = match magic[6] {
        1 => 2,
        2 | 3 => 4,
        v => return Err(format!("version {v}; versions 1 to 3 are read")),
    };
    let length = rest.get(..width).ok_or("it ends inside its header")?;
    let length = length.iter().rev().fold(0usize, |n, &b| n << 8 | usize::from(b));
    let header = rest.get(width..).and_then(|r| r.get(..length.min(HEADER))).filter(|_| length <= HEADER);
    let header = header.ok_or_else(|| format!("a header of {length} bytes, which is not there"))?;
    let header = std::str::from_utf8(header).map_err(|_| "a header that is no text")?;
    let value = |key: &str| {
        let at = header.find(&format!("'{key}':")).ok_or(format!("its header lacks `{key}`"))?;
        Ok::<_, String>(header[at + key.len() + 3..].trim_start())
    };
    let kind = value("descr")?.trim_start_matches('\'').split('\'').next().unwrap_or_default();
    let format = match kind {
        "<f8" => Format::F64,
        "<f4" => Format::F32,
        "<f2" => Format::F16,
        "<i8" => Format::I64,
        "<i4" => Format::I32,
        "<u4" => Format::U32,
        "<i2" => Format::I16,
        "|i1" => Format::I8,
        "|u1" => Format::U8,
        "|b1" => Format::Bool,
        "|O" => return Err("Python objects, which would have to be run; save numbers".into()),
        other => return Err(format!("numbers of type `{other}`, which are not read; save them as float32")),
    };
    let columns_first = value("fortran_order")?.starts_with("True");
    let tuple = value("shape")?.strip_prefix('(').and_then(|t| t.split_once(')')).ok_or("`shape` is no tuple")?.0;
    let sizes = tuple.split(',').map(str::trim).filter(|s| !s.is_empty());
    let shape = sizes.map(|s| s.parse().map_err(|_| format!("`shape` has `{s}`"))).collect::<Result<Vec<usize>, _>>()?;
    let some = shape.iter().filter(|&&d| d > 0).try_fold(1usize, |n, &d| n.checked_mul(d));
    let count = some.map(|n| if shape.contains(&0) { 0 } else { n });
    let first = 8 + width + length;
    let there = bytes.len() - first;
    if count.and_then(|n| format.bytes(n)) != Some(there) {
        return Err(format!("shape {shape:?} of {}, but {there} bytes", format.name()));
    }
    let mut strides = Vec::new();
    if columns_first && shape.len() > 1 {
        strides = (0..shape.len()).map(|i| shape[..i].iter().product()).collect();
    }
    Ok(Entry::new(format, shape, Place { blob, at: at + first, strides }))
}
