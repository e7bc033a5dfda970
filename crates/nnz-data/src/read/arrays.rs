//! Named arrays, from NumPy's archives or safetensors, as a data set: their roles and layouts.

use super::rows::{Rows, Values};
use super::{Found, content};
use crate::Result;

/// Common names of the four parts of a data set.
const TRAIN: [[&str; 6]; 2] = [
    ["x_train", "train_x", "train_images", "train_inputs", "train_data", "X_train"],
    ["y_train", "train_y", "train_labels", "train_targets", "train_target", "Y_train"],
];
const TEST: [[&str; 6]; 2] = [
    ["x_test", "test_x", "test_images", "test_inputs", "test_data", "X_test"],
    ["y_test", "test_y", "test_labels", "test_targets", "test_target", "Y_test"],
];
const ONE: [[&str; 7]; 2] = [
    ["x", "X", "images", "inputs", "data", "features", "arr_0"],
    ["y", "Y", "labels", "targets", "target", "label", "arr_1"],
];

/// An array in memory, row-major.
#[derive(Debug)]
pub(super) struct Array {
    /// File and name, for messages.
    pub place: String,
    pub shape: Vec<usize>,
    pub values: Values,
}

/// Number types that both formats have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    Unsigned(usize),
    Signed(usize),
    Float(usize),
}

impl Type {
    /// Bytes per number.
    pub fn size(self) -> usize {
        match self {
            Self::Bool => 1,
            Self::Unsigned(n) | Self::Signed(n) | Self::Float(n) => n,
        }
    }

    /// Appends the numbers in `bytes`, a whole number of them, to `out`. Bytes stay bytes.
    pub fn append(self, bytes: &[u8], little: bool, out: &mut Values) {
        let size = self.size();
        let number = |b: &[u8]| {
            let mut wide = [0; 8];
            wide[..size].copy_from_slice(b);
            if !little {
                wide[..size].reverse();
            }
            let raw = u64::from_le_bytes(wide);
            let shift = 64 - 8 * size as u32;
            match self {
                Self::Bool => f64::from(u8::from(raw != 0)),
                Self::Unsigned(_) => raw as f64,
                Self::Signed(_) => (((raw << shift) as i64) >> shift) as f64,
                Self::Float(4) => f32::from_bits(raw as u32).into(),
                Self::Float(_) => f64::from_bits(raw),
            }
        };
        match out {
            Values::Bytes(out) => out.extend(bytes),
            Values::Floats(out) => out.extend(bytes.chunks_exact(size).map(|b| number(b) as f32)),
            Values::Doubles(out) => out.extend(bytes.chunks_exact(size).map(number)),
            Values::Sparse(_) => {}
        }
    }

    /// An empty array for numbers of this type; those that f32 may not hold are kept in f64 until columns are scaled.
    pub fn empty(self) -> Values {
        match self {
            Self::Unsigned(1) => Values::Bytes(Vec::new()),
            Self::Unsigned(4 | 8) | Self::Signed(4 | 8) | Self::Float(8) => Values::Doubles(Vec::new()),
            _ => Values::Floats(Vec::new()),
        }
    }
}

/// Builds the data set from arrays of these names, each read by `read` when its turn comes.
pub(super) fn choose(
    place: &str,
    names: &[String],
    checksum: String,
    mut read: impl FnMut(&str) -> Result<Array>,
) -> Result<Found> {
    let find = |known: &[&str]| known.iter().find_map(|k| names.iter().find(|n| n == k)).cloned();
    let mut pair = |x: &[&str], y: &[&str], checksum: &str| -> Result<Option<Rows>> {
        match (find(x), find(y)) {
            (Some(x), Some(y)) => Ok(Some(rows(read(&x)?, read(&y)?, checksum.into())?)),
            _ => Ok(None),
        }
    };
    let [x, y] = &TRAIN;
    if let Some(train) = pair(x, y, &checksum)? {
        let [x, y] = &TEST;
        return Ok(Found::Rows(train, pair(x, y, "")?));
    }
    let [x, y] = &ONE;
    pair(x, y, &checksum)?.map(|rows| Found::Rows(rows, None)).ok_or_else(|| {
        let listed = names.iter().take(12).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        content(
            place,
            format!(
                "has the arrays {listed}; a data set has x and y, or x_train, y_train, x_test and y_test (other usual names \
                 such as train_images and train_labels are known, too)"
            ),
        )
    })
}

/// The array of inputs alone: under one of the usual names, or the only one.
pub(super) fn lone<'a>(place: &str, names: &'a [String]) -> Result<&'a str> {
    let usual = [&ONE[0][..], &TEST[0][..]].concat();
    let named = usual.iter().find_map(|k| names.iter().find(|n| n == k));
    match (named, names) {
        (Some(name), _) | (None, [name]) => Ok(name),
        _ => Err(content(place, format!("{} arrays, and none is named `x`; name the inputs so", names.len()))),
    }
}

/// The rows of an array: their number, their shape, and whether channels come first.
fn shape(place: &str, shape: &[usize]) -> Result<(usize, [usize; 3], bool)> {
    let found = match *shape {
        [rows, n] => (rows, [1, 1, n], false),
        [rows, h, w] => (rows, [1, h, w], false),
        // Channels are few and images are larger; if both ends could be channels, guessing would be wrong half the time.
        [rows, h, w, c @ 1..=4] if h > 4 => (rows, [c, h, w], false),
        [rows, c @ 1..=4, h, w] if w > 4 => (rows, [c, h, w], true),
        _ => {
            let why = format!(
                "shape {shape:?}; inputs are [rows, values], [rows, height, width] or these with up to 4 channels before or \
                 after"
            );
            return Err(content(place, why));
        }
    };
    match shape.contains(&0) {
        true => Err(content(place, format!("shape {shape:?} holds nothing"))),
        false => Ok(found),
    }
}

/// Makes rows from inputs; answers are zero.
pub(super) fn inputs(array: Array, checksum: String) -> Result<Rows> {
    let Array { place, shape: sizes, mut values } = array;
    let (rows, image, planes) = shape(&place, &sizes)?;
    let features: usize = image.iter().product();
    if planes && image[0] > 1 {
        match &mut values {
            Values::Bytes(v) => interleave(v, image[0], features),
            Values::Floats(v) => interleave(v, image[0], features),
            Values::Doubles(v) => interleave(v, image[0], features),
            Values::Sparse(_) => {}
        }
    }
    Ok(Rows { place, image, values, answers: vec![0.0; rows], names: Vec::new(), checksum })
}

/// Makes rows from inputs and answers.
pub(super) fn rows(array: Array, labels: Array, checksum: String) -> Result<Rows> {
    let (rows, ..) = shape(&array.place, &array.shape)?;
    let answers = match labels.shape[..] {
        [n] | [n, 1] => n,
        _ => {
            let why = format!("shape {:?}; labels are one number a row", labels.shape);
            return Err(content(&labels.place, why));
        }
    };
    if answers != rows {
        return Err(content(&labels.place, format!("{answers} labels for {rows} rows of {}", array.place)));
    }
    let answers: Vec<f64> = match labels.values {
        Values::Bytes(v) => v.into_iter().map(f64::from).collect(),
        Values::Floats(v) => v.into_iter().map(f64::from).collect(),
        Values::Doubles(v) => v,
        Values::Sparse(_) => Vec::new(),
    };
    if let Some(row) = answers.iter().position(|x| !(*x as f32).is_finite()) {
        let why = format!("row {row} has label {}; drop the row or fill the label in", answers[row]);
        return Err(content(&labels.place, why));
    }
    Ok(Rows { answers, ..inputs(array, checksum)? })
}

/// Turns rows of planes, `[channels][pixels]`, into rows of pixels, `[pixels][channels]`.
pub(super) fn interleave<T: Copy>(values: &mut [T], channels: usize, features: usize) {
    let pixels = features / channels;
    let mut row = Vec::with_capacity(features);
    for chunk in values.chunks_exact_mut(features) {
        row.clear();
        row.extend((0..features).map(|i| chunk[i % channels * pixels + i / channels]));
        chunk.copy_from_slice(&row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(shape: &[usize], values: Values) -> Array {
        Array { place: "x".into(), shape: shape.into(), values }
    }

    #[test]
    fn channels_before_and_after_are_told_apart() {
        let labels = || array(&[1], Values::Bytes(vec![7]));
        let planes: Vec<u8> = (0..50).collect();
        let rows = |shape: &[usize], bytes| rows(array(shape, Values::Bytes(bytes)), labels(), String::new());
        let a = rows(&[1, 2, 5, 5], planes).unwrap();
        let Values::Bytes(v) = &a.values else { panic!() };
        assert_eq!((a.image, &v[..4], a.answers), ([2, 5, 5], &[0, 25, 1, 26][..], vec![7.0]));
        let pixels: Vec<u8> = v.clone();
        let b = rows(&[1, 5, 5, 2], pixels.clone()).unwrap();
        assert_eq!((b.image, b.values), ([2, 5, 5], Values::Bytes(pixels)));
        assert!(rows(&[1, 3, 3, 3], vec![0; 27]).is_err());
        assert!(rows(&[1], vec![0]).is_err());
    }

    #[test]
    fn numbers_of_every_type_are_read() {
        let read = |t: Type, bytes: &[u8], little| {
            let mut out = t.empty();
            t.append(bytes, little, &mut out);
            match out {
                Values::Floats(v) => v.into_iter().map(f64::from).collect(),
                Values::Doubles(v) => v,
                _ => Vec::new(),
            }
        };
        assert_eq!(read(Type::Signed(2), &[0xff, 0xfe, 0, 1], false), [-2.0, 1.0]);
        assert_eq!(read(Type::Signed(8), &(-3i64).to_le_bytes(), true), [-3.0]);
        assert_eq!(read(Type::Signed(8), &1_600_000_001i64.to_le_bytes(), true), [1_600_000_001.0]);
        assert_eq!(read(Type::Unsigned(4), &7u32.to_be_bytes(), false), [7.0]);
        assert_eq!(read(Type::Float(8), &0.25f64.to_be_bytes(), false), [0.25]);
        assert_eq!(read(Type::Float(4), &(-1.5f32).to_le_bytes(), true), [-1.5]);
        assert_eq!(read(Type::Bool, &[0, 1, 2], true), [0.0, 1.0, 1.0]);
    }

    #[test]
    fn labels_are_numbers_and_as_many_as_rows() {
        let x = || array(&[2, 1], Values::Floats(vec![1.0, 2.0]));
        let floats = |v: &[f32]| array(&[v.len()], Values::Floats(v.into()));
        let rows = |labels| rows(x(), labels, String::new());
        assert_eq!(rows(floats(&[3.0, -1.0])).unwrap().answers, [3.0, -1.0]);
        assert_eq!(rows(floats(&[0.5, 1.0])).unwrap().answers, [0.5, 1.0]);
        for (labels, says) in [
            (floats(&[1.0, f32::NAN]), "row 1 has label NaN"),
            (floats(&[1.0]), "1 labels for 2 rows"),
            (array(&[1, 2], Values::Floats(vec![0.0, 1.0])), "one number a row"),
        ] {
            let e = rows(labels).unwrap_err().to_string();
            assert!(e.contains(says), "{e}");
        }
    }
}
