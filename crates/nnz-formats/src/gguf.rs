//! GGUF, versions 2 and 3: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use crate::Format;
use crate::archive::{Entry, Found, Place};
use std::path::{Path, PathBuf};

/// A value of a file's metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An integer.
    Int(i64),
    /// A number.
    Float(f64),
    /// A Boolean.
    Bool(bool),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Value>),
}

impl Value {
    /// Converts to a size.
    pub fn size(&self) -> Option<usize> {
        match self {
            Self::Int(i) => usize::try_from(*i).ok(),
            _ => None,
        }
    }

    /// Converts to a number.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Int(i) => Some(*i as f64),
            Self::Float(f) => Some(*f),
            _ => None,
        }
    }

    /// Returns a text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(t) => Some(t),
            _ => None,
        }
    }

    /// Returns a list.
    pub fn list(&self) -> Option<&[Value]> {
        match self {
            Self::List(l) => Some(l),
            _ => None,
        }
    }
}

/// Longest list; a vocabulary has some hundred thousand.
const LONGEST: u64 = 1 << 24;

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Whether numbers are big-endian.
    big: bool,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: u64) -> Result<&'a [u8], String> {
        let at = self.at;
        let end = usize::try_from(n).ok().and_then(|n| at.checked_add(n));
        let part = end.and_then(|end| self.bytes.get(at..end));
        let part = part.ok_or_else(|| format!("the header ends at byte {at}, where {n} more are needed"))?;
        self.at += part.len();
        Ok(part)
    }

    fn number(&mut self, bytes: u64) -> Result<u64, String> {
        let part = self.take(bytes)?;
        let add = |v: u64, b: &u8| v << 8 | u64::from(*b);
        Ok(if self.big { part.iter().fold(0, add) } else { part.iter().rev().fold(0, add) })
    }

    fn text(&mut self) -> Result<String, String> {
        let (at, len) = (self.at, self.number(8)?);
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| format!("the text at byte {at} is no UTF-8"))?;
        Ok(text.to_owned())
    }

    fn value(&mut self, kind: u64, deep: usize) -> Result<Value, String> {
        let signed = |n: u64, bits: u32| Value::Int(((n << (64 - bits)) as i64) >> (64 - bits));
        Ok(match kind {
            0 => Value::Int(self.number(1)? as i64),
            1 => signed(self.number(1)?, 8),
            2 => Value::Int(self.number(2)? as i64),
            3 => signed(self.number(2)?, 16),
            4 => Value::Int(self.number(4)? as i64),
            5 => signed(self.number(4)?, 32),
            6 => Value::Float(f32::from_bits(self.number(4)? as u32).into()),
            7 => Value::Bool(self.number(1)? != 0),
            8 => Value::Text(self.text()?),
            9 if deep < 2 => {
                let (kind, count) = (self.number(4)?, self.number(8)?);
                if count > LONGEST.min((self.bytes.len() - self.at) as u64) {
                    return Err(format!("a list of {count} values at byte {}, which are not there", self.at));
                }
                Value::List((0..count).map(|_| self.value(kind, deep + 1)).collect::<Result<_, _>>()?)
            }
            10 | 11 => Value::Int(self.number(8)? as i64),
            12 => Value::Float(f64::from_bits(self.number(8)?)),
            other => return Err(format!("a value of unknown type {other} at byte {}", self.at)),
        })
    }
}

/// Maps GGML's number to a format; unsupported types are listed by name.
fn format(kind: u64) -> Result<Format, String> {
    Ok(match kind {
        0 => Format::F32,
        1 => Format::F16,
        2 => Format::Q4_0,
        3 => Format::Q4_1,
        6 => Format::Q5_0,
        7 => Format::Q5_1,
        8 => Format::Q8_0,
        9 => Format::Opaque("Q8_1", 32, 40),
        10 => Format::Q2K,
        11 => Format::Q3K,
        12 => Format::Q4K,
        13 => Format::Q5K,
        14 => Format::Q6K,
        15 => Format::Opaque("Q8_K", 256, 292),
        16 => Format::Iq2Xxs,
        17 => Format::Iq2Xs,
        18 => Format::Iq3Xxs,
        19 => Format::Iq1S,
        20 => Format::Iq4Nl,
        21 => Format::Iq3S,
        22 => Format::Iq2S,
        23 => Format::Iq4Xs,
        24 => Format::I8,
        25 => Format::I16,
        26 => Format::I32,
        27 => Format::I64,
        28 => Format::F64,
        29 => Format::Iq1M,
        30 => Format::BF16,
        34 => Format::Tq1_0,
        35 => Format::Tq2_0,
        39 => Format::Mxfp4,
        40 => Format::Nvfp4,
        41 => Format::Opaque("Q1_0", 128, 18),
        other => return Err(format!("has numbers of GGML type {other}, which is not known")),
    })
}

/// Lists all files of a split model, by the name of one: `NAME-00001-of-00003.gguf`.
pub(crate) fn split(path: &Path) -> Option<Vec<PathBuf>> {
    let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = name.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |t: &str| t.len() == 5 && t.bytes().all(|b| b.is_ascii_digit());
    let count: usize = count.parse().ok().filter(|&n| digits(count) && digits(number) && n > 1)?;
    Some((1..=count).map(|i| path.with_file_name(format!("{stem}-{i:05}-of-{count:05}.gguf"))).collect())
}

/// Parses a file.
pub(crate) fn read(bytes: &[u8], blob: usize) -> Result<Found, String> {
    let mut r = Reader { bytes, at: 4, big: false };
    let mut version = r.number(4)?;
    if version != 0 && version.trailing_zeros() >= 24 {
        (version, r.big) = (version >> 24, true);
    }
    if !(2..=3).contains(&version) {
        return Err(format!("GGUF of version {version}; versions 2 and 3 are read"));
    }
    let (tensors, pairs) = (r.number(8)?, r.number(8)?);
    let mut found = Found::default();
    for _ in 0..pairs {
        let (key, kind) = (r.text()?, r.number(4)?);
        let value = r.value(kind, 0).map_err(|why| format!("`{key}`: {why}"))?;
        found.metadata.insert(key, value);
    }
    let mut listed = Vec::new();
    for _ in 0..tensors {
        let (name, dims) = (r.text()?, r.number(4)?);
        if dims > 4 {
            return Err(format!("`{name}` has {dims} axes; at most 4 are possible"));
        }
        // The file has the innermost axis first.
        let mut shape = (0..dims).map(|_| r.number(8).map(|n| n as usize)).collect::<Result<Vec<_>, _>>()?;
        shape.reverse();
        let (kind, offset) = (r.number(4)?, r.number(8)?);
        let format = format(kind).map_err(|why| format!("`{name}` {why}"))?;
        listed.push((name, format, shape, offset));
    }
    let alignment = found.metadata.get("general.alignment").map_or(Some(32), Value::size);
    let Some(alignment) = alignment.filter(|a| a.is_power_of_two() && *a <= 1 << 20) else {
        return Err("its alignment is no power of two".into());
    };
    let start = r.at.next_multiple_of(alignment);
    let mut taken = Vec::new();
    for (name, format, shape, offset) in listed {
        let len = shape.iter().try_fold(1usize, |n, &s| n.checked_mul(s));
        let whole = shape.last().is_none_or(|&cols| cols.is_multiple_of(format.block().0));
        let size = len.filter(|_| whole).and_then(|n| format.bytes(n));
        let size =
            size.ok_or_else(|| format!("`{name}` of shape {shape:?} does not fill blocks of {}", format.name()))?;
        let at = usize::try_from(offset).ok().and_then(|o| o.checked_add(start));
        let end = at.and_then(|at| at.checked_add(size)).filter(|&end| end <= bytes.len());
        let (Some(at), Some(end)) = (at, end) else {
            return Err(format!("`{name}` takes {size} bytes from byte {offset} on, which leaves the file"));
        };
        taken.push((at, end, name.clone()));
        let entry = Entry::new(format, shape, Place { big: r.big, ..Place::plain(blob, at) });
        if found.entries.insert(name.clone(), entry).is_some() {
            return Err(format!("two tensors are named `{name}`"));
        }
    }
    taken.sort();
    match taken.windows(2).find(|w| w[0].1 > w[1].0) {
        Some(w) => Err(format!("`{}` and `{}` overlap", w[0].2, w[1].2)),
        None => Ok(found),
    }
}
