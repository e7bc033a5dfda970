//! NumPy's archives of arrays, `numpy.savez`: a zip archive of members `NAME.npy`, each a magic, a header that is a Python
//! dictionary, and numbers.

use crate::Format;
use crate::archive::{Entry, Found, Place};
use std::io::{Cursor, Read};

/// Most bytes of a header; NumPy's own are below a thousand.
const HEADER: usize = 1 << 16;

/// Whether a zip archive holds arrays.
pub(crate) fn fits(bytes: &[u8]) -> bool {
    zip::ZipArchive::new(Cursor::new(bytes))
        .is_ok_and(|zip| zip.file_names().flatten().next().is_some_and(|n| n.ends_with(".npy")))
}

/// Reads the arrays of an archive whose members are uncompressed.
pub(crate) fn read(bytes: &[u8], blob: usize) -> Result<Found, String> {
    let broken = |e: zip::result::ZipError| format!("not a whole .npz archive: {e}");
    let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).map_err(broken)?;
    let mut found = Found::default();
    for i in 0..zip.len() {
        let file = zip.by_index(i).map_err(broken)?;
        let name = file.name().map_err(|e| format!("a member's name: {e}"))?.into_owned();
        let Some(name) = name.strip_suffix(".npy") else { return Err(format!("member `{name}` is no array")) };
        if file.compression() != zip::CompressionMethod::Stored {
            return Err(format!(
                "`{name}` is compressed; save the weights with numpy.savez, so that they can be mapped"
            ));
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
    let mut rest = bytes;
    let Npy { kind, columns_first, shape } = Npy::read(&mut rest)?;
    let format = match &*kind {
        "<f8" => Format::F64,
        "<f4" => Format::F32,
        "<f2" => Format::F16,
        "<i8" => Format::I64,
        "<i4" => Format::I32,
        "<u4" => Format::U32,
        "<i2" => Format::I16,
        "<u2" => Format::U16,
        "<u8" => Format::U64,
        "|i1" => Format::I8,
        "|u1" => Format::U8,
        "|b1" => Format::Bool,
        other => return Err(format!("numbers of type `{other}`, which are not read; save them as float32")),
    };
    let some = shape.iter().filter(|&&d| d > 0).try_fold(1usize, |n, &d| n.checked_mul(d));
    let count = some.map(|n| if shape.contains(&0) { 0 } else { n });
    if count.and_then(|n| format.bytes(n)) != Some(rest.len()) {
        return Err(format!("shape {shape:?} of {}, but {} bytes", format.name(), rest.len()));
    }
    let mut strides = Vec::new();
    if columns_first && shape.len() > 1 {
        strides = (0..shape.len()).map(|i| shape[..i].iter().product()).collect();
    }
    Ok(Entry::new(format, shape, Place { strides, ..Place::plain(blob, at + bytes.len() - rest.len()) }))
}

/// Header of a `.npy` array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Npy {
    /// The type as NumPy writes it, such as `<f4`: order of bytes, kind, bytes of a number.
    pub kind: String,
    /// Whether the array is column-major.
    pub columns_first: bool,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
}

impl Npy {
    /// Reads up to the first number.
    ///
    /// # Errors
    /// When it is not an array of numbers, or ends early; the message says where.
    pub fn read(from: &mut impl Read) -> Result<Self, String> {
        let mut take = |n: usize, what: &str| -> Result<Vec<u8>, String> {
            let mut bytes = Vec::new();
            from.by_ref().take(n as u64).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
            match bytes.len() == n {
                true => Ok(bytes),
                false => Err(format!("ends inside its {what}; copy or save it again")),
            }
        };
        let magic = take(8, "first eight bytes")?;
        if !magic.starts_with(b"\x93NUMPY") {
            return Err("byte 0: no .npy array: it does not start with 93 4e 55 4d 50 59".into());
        }
        let width = match magic[6] {
            1 => 2,
            2 | 3 => 4,
            v => return Err(format!("byte 6: version {v}; versions 1 to 3 are read")),
        };
        let length = take(width, "header")?.iter().rev().fold(0, |n, &b| n << 8 | usize::from(b));
        if length > HEADER {
            return Err(format!("byte 8: a header of {length} bytes; at most {HEADER} are read"));
        }
        Self::parse(&take(length, "header")?).map_err(|why| format!("header: {why}"))
    }

    /// Parses a header's dictionary.
    fn parse(header: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(header).map_err(|_| "not text")?.trim();
        let inside = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).ok_or("no dictionary")?;
        let value = |key: &str| {
            let quoted = [format!("'{key}':"), format!("\"{key}\":")];
            let at = quoted.iter().find_map(|q| inside.find(q.as_str()).map(|at| at + q.len()));
            at.map(|at| inside[at..].trim_start()).ok_or(format!("lacks `{key}`"))
        };
        let kind = value("descr")?;
        let quote = kind.chars().next().filter(|c| "'\"".contains(*c));
        let kind =
            quote.and_then(|q| kind[1..].split(q).next()).ok_or("a table of several types; save one array a type")?;
        if kind.contains('O') {
            return Err("Python objects, which would have to be run; save numbers".into());
        }
        let columns_first = match value("fortran_order")? {
            v if v.starts_with("True") => true,
            v if v.starts_with("False") => false,
            _ => return Err("`fortran_order` is neither True nor False".into()),
        };
        let tuple = value("shape")?.strip_prefix('(').and_then(|t| t.split_once(')')).ok_or("`shape` is no tuple")?.0;
        let sizes = tuple.split(',').map(str::trim).filter(|s| !s.is_empty());
        let shape = sizes.map(|s| s.parse().map_err(|_| format!("`shape` has `{s}`"))).collect::<Result<_, _>>()?;
        Ok(Self { kind: kind.into(), columns_first, shape })
    }
}
