//! NumPy's `.npy` and `.npz`: a magic, a header that is a Python dictionary, then numbers. Plain types only: an array of
//! objects holds pickled Python, which is never run.

use super::arrays::{self, Array, Type, choose};
use super::rows::{Rows, Values};
use super::stream::{Stream, WHOLE};
use super::{Found, MAX_VALUES, Options, content};
use crate::{Error, Result};
use nnz_engine::data::Inputs;
use nnz_formats::Npy;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

pub(super) fn read_npy(path: &Path, options: &Options, _: f64) -> Result<Found> {
    let Some(labels) = options.get("labels") else {
        return Err(content(
            path.display().to_string(),
            "holds inputs alone; name the file of their labels after it (`?labels=FILE.npy`)",
        ));
    };
    let ((x, a), (y, b)) = (open(path)?, open(Path::new(labels))?);
    Ok(Found::Rows(arrays::rows(x, y, a + &b)?, None))
}

/// Inputs without answers.
pub(super) fn ask_npy(path: &Path) -> Result<Rows> {
    let (x, checksum) = open(path)?;
    arrays::inputs(x, checksum)
}

fn open(path: &Path) -> Result<(Array, String)> {
    let place = path.display().to_string();
    let mut stream = Stream::open(path)?;
    stream.allow(WHOLE);
    let array = array(&mut stream, &place)?;
    Ok((array, stream.checksum()))
}

pub(super) fn parse(bytes: &[u8], place: &str) -> Result<Array> {
    array(&mut &bytes[..], place)
}

pub(super) fn read_npz(path: &Path, _: &Options, _: f64) -> Result<Found> {
    let failed = |why| Error::Io { what: "read", path: path.into(), why };
    // The archive is read twice: its bytes are hashed, then its members are found.
    let mut stream = Stream::open(path)?;
    stream.allow(u64::MAX);
    std::io::copy(&mut stream, &mut std::io::sink()).map_err(failed)?;
    let file = BufReader::new(File::open(path).map_err(failed)?);
    parse_npz(file, &path.display().to_string(), stream.checksum())
}

pub(super) fn parse_npz(from: impl Read + Seek, place: &str, checksum: String) -> Result<Found> {
    let mut zip = archive(from, place)?;
    choose(place, &members(&zip), checksum, |name| member(&mut zip, place, name))
}

/// Inputs without answers.
pub(super) fn ask_npz(path: &Path) -> Result<Rows> {
    let place = path.display().to_string();
    let file = File::open(path).map_err(|why| Error::Io { what: "read", path: path.into(), why })?;
    let mut zip = archive(BufReader::new(file), &place)?;
    let names = members(&zip);
    let array = member(&mut zip, &place, arrays::lone(&place, &names)?)?;
    arrays::inputs(array, String::new())
}

fn archive<R: Read + Seek>(from: R, place: &str) -> Result<zip::ZipArchive<R>> {
    zip::ZipArchive::new(from)
        .map_err(|e| content(place, format!("no whole .npz archive ({e}); copy or save it again")))
}

/// Names of the arrays of an archive.
fn members<R: Read + Seek>(zip: &zip::ZipArchive<R>) -> Vec<String> {
    zip.file_names().flatten().filter_map(|n| n.strip_suffix(".npy").map(str::to_string)).collect()
}

fn member<R: Read + Seek>(zip: &mut zip::ZipArchive<R>, place: &str, name: &str) -> Result<Array> {
    let place = format!("{place}, array `{name}`");
    let member = zip.by_name(&format!("{name}.npy")).map_err(|e| content(&place, e.to_string()))?;
    array(&mut member.take(WHOLE), &place)
}

/// Reads every array of an archive by its name.
pub(super) fn named(bytes: &[u8], place: &str) -> Result<BTreeMap<String, Inputs>> {
    let broken = |e: zip::result::ZipError| content(place, format!("no whole .npz archive ({e})"));
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(bytes)).map_err(broken)?;
    let names: Vec<String> = zip.file_names().flatten().map(|n| n.to_string()).collect();
    let read = |file: String| {
        let name = file.strip_suffix(".npy").unwrap_or(&file).to_string();
        let place = format!("{place}, array `{name}`");
        let member = zip.by_name(&file).map_err(|e| content(&place, e.to_string()))?;
        let values = match array(&mut member.take(WHOLE), &place)?.values {
            Values::Bytes(v) => Inputs::Bytes(v),
            Values::Floats(v) => Inputs::Floats(v),
            Values::Doubles(v) => Inputs::Floats(v.into_iter().map(|x| x as f32).collect()),
            Values::Sparse(_) => Inputs::Floats(Vec::new()),
        };
        Ok((name, values))
    };
    names.into_iter().map(read).collect()
}

fn array(from: &mut impl Read, place: &str) -> Result<Array> {
    let fail = |why: String| content(place, why);
    let Npy { kind, columns_first, shape } = Npy::read(from).map_err(fail)?;
    let (kind, little) = number(&kind).map_err(|why| fail(format!("header: {why}")))?;
    if shape.len() > 4 {
        return Err(fail(format!("header: {} dimensions; at most 4 are read", shape.len())));
    }
    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n as u64 <= MAX_VALUES);
    let Some(count) = count else {
        return Err(fail(format!("header: shape {shape:?}; more than {MAX_VALUES} values are not read")));
    };
    let mut values = kind.empty();
    // In pieces of whole numbers, so that memory grows with the bytes that arrive.
    let (mut left, mut bytes) = (count, Vec::new());
    while left > 0 {
        let n = left.min(1 << 16);
        bytes.clear();
        from.by_ref().take((n * kind.size()) as u64).read_to_end(&mut bytes).map_err(|e| fail(e.to_string()))?;
        if bytes.len() < n * kind.size() {
            return Err(fail("ends inside its values; copy or save it again".into()));
        }
        kind.append(&bytes, little, &mut values);
        left -= n;
    }
    if from.read(&mut [0]).map_err(|e| fail(e.to_string()))? > 0 {
        return Err(fail(format!("bytes follow the {count} values its header names")));
    }
    if columns_first && shape.len() > 1 {
        values = match values {
            Values::Bytes(v) => Values::Bytes(row_major(&v, &shape)),
            Values::Floats(v) => Values::Floats(row_major(&v, &shape)),
            Values::Doubles(v) => Values::Doubles(row_major(&v, &shape)),
            Values::Sparse(v) => Values::Sparse(v),
        };
    }
    Ok(Array { place: place.into(), shape, values })
}

/// Parses a type as NumPy writes it, and whether it is little-endian.
fn number(kind: &str) -> Result<(Type, bool), String> {
    let (order, code) = kind.split_at_checked(1).unwrap_or(("", ""));
    let size = || usize::from(code.as_bytes()[1] - b'0');
    let found = match code {
        "b1" => Type::Bool,
        "u1" | "u2" | "u4" | "u8" => Type::Unsigned(size()),
        "i1" | "i2" | "i4" | "i8" => Type::Signed(size()),
        "f4" | "f8" => Type::Float(size()),
        _ => {
            let types = "bool, integers of 8 to 64 bits, float32 and float64";
            return Err(format!("type `{kind}`; {types} are read (array.astype(\"float32\"))"));
        }
    };
    match order {
        "<" | "|" => Ok((found, true)),
        ">" => Ok((found, false)),
        _ => Err(format!("type `{kind}` has no byte order")),
    }
}

/// Reorders an array whose first index runs fastest.
fn row_major<T: Copy>(values: &[T], shape: &[usize]) -> Vec<T> {
    let mut out = Vec::with_capacity(values.len());
    let mut index = vec![0; shape.len()];
    for _ in 0..values.len() {
        out.push(values[index.iter().zip(shape).rev().fold(0, |at, (i, n)| at * n + i)]);
        for (i, n) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < *n {
                break;
            }
            *i = 0;
        }
    }
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::Write;

    pub fn npy(header: &str, data: &[u8]) -> Vec<u8> {
        let mut out = b"\x93NUMPY\x01\x00".to_vec();
        out.extend((header.len() as u16).to_le_bytes());
        out.extend(header.as_bytes());
        out.extend(data);
        out
    }

    fn f4(shape: &str, values: &[f32]) -> Vec<u8> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        npy(&format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"), &bytes)
    }

    #[test]
    fn arrays_of_both_orders_are_read() {
        let a = parse(&f4("(2, 3)", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), "a").unwrap();
        assert_eq!((a.shape, a.values), (vec![2, 3], Values::Floats(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0])));
        let header = "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }";
        let a = parse(&npy(header, &[1, 4, 2, 5, 3, 6]), "a").unwrap();
        assert_eq!(a.values, Values::Bytes(vec![1, 2, 3, 4, 5, 6]));
        let one =
            parse(&npy("{'descr': '>i8', 'fortran_order': False, 'shape': (1,)}", &9i64.to_be_bytes()), "a").unwrap();
        assert_eq!((one.shape, one.values), (vec![1], Values::Doubles(vec![9.0])));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let good = f4("(2, 3)", &[0.0; 6]);
        let mut long = good.clone();
        long.push(1);
        let header = |h: &str| npy(h, &[]);
        for (bytes, says) in [
            (Vec::new(), "ends inside"),
            (b"PK\x03\x04aaaa".to_vec(), "byte 0"),
            (b"\x93NUMPY\x09\x00".to_vec(), "version 9"),
            (good[..20].to_vec(), "ends inside its header"),
            (good[..good.len() - 1].to_vec(), "ends inside its values"),
            (long, "bytes follow"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f".to_vec(), "a header of 2147483647 bytes"),
            (f4("(99999999999, 99999999999)", &[]), "more than"),
            (f4("(1000000, 100)", &[]), "ends inside its values"),
            (header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"), "Python objects"),
            (header("{'descr': '<f2', 'fortran_order': False, 'shape': (1,)}"), "astype"),
            (header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}"), "several types"),
            (header("{'descr': '<f4', 'shape': (1,)}"), "lacks `fortran_order`"),
            (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"), "`-1`"),
            (header("[]"), "no dictionary"),
        ] {
            let e = parse(&bytes, "a").unwrap_err().to_string();
            assert!(e.contains(says), "{e} (expected {says})");
        }
    }

    #[test]
    fn archives_are_data_sets_by_their_names() {
        let archive = |members: &[(&str, Vec<u8>)]| {
            let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
            for (name, bytes) in members {
                zip.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
                zip.write_all(bytes).unwrap();
            }
            zip.finish().unwrap().into_inner()
        };
        let x = || f4("(2, 2)", &[1.0, 2.0, 3.0, 4.0]);
        let y = || f4("(2,)", &[0.0, 1.0]);
        let read =
            |members: &[(&str, Vec<u8>)]| parse_npz(std::io::Cursor::new(archive(members)), "a.npz", "sum".into());
        let four = read(&[("x_test", x()), ("y_test", y()), ("x_train", x()), ("y_train", y())]).unwrap();
        assert!(matches!(four, Found::Rows(train, Some(_)) if train.checksum == "sum"));
        assert!(matches!(read(&[("arr_0", x()), ("arr_1", y())]).unwrap(), Found::Rows(_, None)));
        let e = read(&[("weights", x()), ("y", y())]).unwrap_err().to_string();
        assert!(e.contains("`weights`") && e.contains("x_train"), "{e}");
        let e = read(&[("x", x()), ("y", f4("(3,)", &[0.0; 3]))]).unwrap_err().to_string();
        assert!(e.contains("a.npz, array `y`: 3 labels for 2 rows"), "{e}");
        let e = parse_npz(std::io::Cursor::new(b"PK nothing"), "a.npz", String::new()).unwrap_err().to_string();
        assert!(e.contains("no whole .npz archive"), "{e}");
    }
}
