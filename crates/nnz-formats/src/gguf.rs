//! GGUF, versions 2 and 3: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use crate::Format;
use crate::archive::{Entry, Found, Place};

/// A value of a file's metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// Yes or no.
    Bool(bool),
    /// A text.
    Text(String),
    /// Many of them.
    List(Vec<Value>),
}

impl Value {
    /// As a size.
    pub fn size(&self) -> Option<usize> {
        match self {
            Self::Int(i) => usize::try_from(*i).ok(),
            _ => None,
        }
    }

    /// As a number.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Int(i) => Some(*i as f64),
            Self::Float(f) => Some(*f),
            _ => None,
        }
    }

    /// As a text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(t) => Some(t),
            _ => None,
        }
    }

    /// As many.
    pub fn list(&self) -> Option<&[Value]> {
        match self {
            Self::List(l) => Some(l),
            _ => None,
        }
    }
}

/// Most values of a list; a vocabulary has some hundred thousand.
const LONGEST: u64 = 1 << 24;

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
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
        Ok(self.take(bytes)?.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b)))
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

/// The format of GGML's number; the name for the error otherwise.
fn format(kind: u64) -> Result<Format, String> {
    Ok(match kind {
        0 => Format::F32,
        1 => Format::F16,
        2 => Format::Q4_0,
        3 => Format::Q4_1,
        8 => Format::Q8_0,
        12 => Format::Q4K,
        14 => Format::Q6K,
        24 => Format::I8,
        25 => Format::I16,
        26 => Format::I32,
        27 => Format::I64,
        28 => Format::F64,
        30 => Format::BF16,
        other => {
            let names =
                ["Q5_0", "Q5_1", "", "Q8_1", "Q2_K", "Q3_K", "", "Q5_K", "", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS"];
            let name = usize::try_from(other).ok().and_then(|i| i.checked_sub(6)).and_then(|i| names.get(i));
            return Err(name.filter(|n| !n.is_empty()).map_or_else(|| format!("number {other}"), |n| (*n).into()));
        }
    })
}

/// A file.
pub(crate) fn read(bytes: &[u8], blob: usize) -> Result<Found, String> {
    let mut r = Reader { bytes, at: 4 };
    let version = r.number(4)?;
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
        let format = format(kind).map_err(|kind| {
            format!("`{name}` is quantized as {kind}, which is not read; F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K and Q6_K are")
        })?;
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
        let entry = Entry::new(format, shape, Place { blob, at, strides: Vec::new() });
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
