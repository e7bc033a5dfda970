//! Named arrays, from NumPy's archives or safetensors, as a data set: their roles and layouts.

use super::{Part, Parts, classes_of, content};
use crate::{Error, Result};
use nnz_engine::data::{Inputs, Split};

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
    pub values: Inputs,
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
    pub fn append(self, bytes: &[u8], little: bool, out: &mut Inputs) {
        let size = self.size();
        match out {
            Inputs::Bytes(out) => out.extend(bytes),
            Inputs::Floats(out) => out.extend(bytes.chunks_exact(size).map(|b| {
                let mut wide = [0; 8];
                wide[..size].copy_from_slice(b);
                if !little {
                    wide[..size].reverse();
                }
                let raw = u64::from_le_bytes(wide);
                let shift = 64 - 8 * size as u32;
                match self {
                    Self::Bool => f32::from(u8::from(raw != 0)),
                    Self::Unsigned(_) => raw as f32,
                    Self::Signed(_) => (((raw << shift) as i64) >> shift) as f32,
                    Self::Float(4) => f32::from_bits(raw as u32),
                    Self::Float(_) => f64::from_bits(raw) as f32,
                }
            })),
        }
    }

    /// An empty array for numbers of this type.
    pub fn empty(self) -> Inputs {
        match self {
            Self::Unsigned(1) => Inputs::Bytes(Vec::new()),
            _ => Inputs::Floats(Vec::new()),
        }
    }
}

/// Builds the data set from arrays of these names, each read by `read` when its turn comes.
pub(super) fn choose(place: &str, names: &[String], mut read: impl FnMut(&str) -> Result<Array>) -> Result<Parts> {
    let find = |known: &[&str]| known.iter().find_map(|k| names.iter().find(|n| n == k)).cloned();
    let mut pair = |x: &[&str], y: &[&str]| -> Result<Option<Part>> {
        match (find(x), find(y)) {
            (Some(x), Some(y)) => Ok(Some(part(read(&x)?, &read(&y)?)?)),
            _ => Ok(None),
        }
    };
    let [x, y] = &TRAIN;
    if let Some(train) = pair(x, y)? {
        let [x, y] = &TEST;
        return Ok(Parts { test: pair(x, y)?, ..Parts::one(train) });
    }
    let [x, y] = &ONE;
    pair(x, y)?.map(Parts::one).ok_or_else(|| {
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

/// Makes labelled rows from inputs and labels. The checksum is left to the caller.
pub(super) fn part(inputs: Array, labels: &Array) -> Result<Part> {
    let Array { place, shape, mut values } = inputs;
    let wrong = |why: String| Err::<Part, Error>(content(&place, why));
    let (rows, image, planes) = match shape[..] {
        [rows, n] => (rows, [1, 1, n], false),
        [rows, h, w] => (rows, [1, h, w], false),
        // Channels are few and images are larger; if both ends could be channels, guessing would be wrong half the time.
        [rows, h, w, c @ 1..=4] if h > 4 => (rows, [c, h, w], false),
        [rows, c @ 1..=4, h, w] if w > 4 => (rows, [c, h, w], true),
        _ => {
            return wrong(format!(
                "shape {shape:?}; inputs are [rows, values], [rows, height, width] or these with up to 4 channels before or \
                 after"
            ));
        }
    };
    let features: usize = image.iter().product();
    if rows == 0 || features == 0 {
        return wrong(format!("shape {shape:?} holds nothing"));
    }
    let answers = match labels.shape[..] {
        [n] | [n, 1] => n,
        _ => {
            let why = format!("shape {:?}; labels are one number a row", labels.shape);
            return Err(content(&labels.place, why));
        }
    };
    if answers != rows {
        return Err(content(&labels.place, format!("{answers} labels for {rows} rows of {place}")));
    }
    if planes && image[0] > 1 {
        match &mut values {
            Inputs::Bytes(v) => interleave(v, image[0], features),
            Inputs::Floats(v) => interleave(v, image[0], features),
        }
    }
    let label = |x: f64, row: usize| match x.fract() == 0.0 && x.abs() < 1e6 {
        true => Ok(x.to_string()),
        false => Err(content(
            &labels.place,
            format!(
                "row {row} has label {x}; classes are whole numbers below a million (numbers to predict are read from tables, `.csv`)"
            ),
        )),
    };
    let texts = match &labels.values {
        Inputs::Bytes(v) => v.iter().map(|b| b.to_string()).collect(),
        Inputs::Floats(v) => v.iter().enumerate().map(|(i, &x)| label(x.into(), i)).collect::<Result<Vec<_>>>()?,
    };
    let (labels, classes) = classes_of(texts.into_iter());
    Ok(Part { place, image, rows: Split::new(values, labels), classes, checksum: String::new() })
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

    fn array(shape: &[usize], values: Inputs) -> Array {
        Array { place: "x".into(), shape: shape.into(), values }
    }

    #[test]
    fn channels_before_and_after_are_told_apart() {
        let labels = || array(&[1], Inputs::Bytes(vec![7]));
        let planes: Vec<u8> = (0..50).collect();
        let a = part(array(&[1, 2, 5, 5], Inputs::Bytes(planes)), &labels()).unwrap();
        let Inputs::Bytes(v) = &a.rows.inputs else { panic!() };
        assert_eq!((a.image, &v[..4], a.classes), ([2, 5, 5], &[0, 25, 1, 26][..], vec!["7".to_string()]));
        let pixels: Vec<u8> = v.clone();
        let b = part(array(&[1, 5, 5, 2], Inputs::Bytes(pixels.clone())), &labels()).unwrap();
        assert_eq!((b.image, b.rows.inputs), ([2, 5, 5], Inputs::Bytes(pixels)));
        assert!(part(array(&[1, 3, 3, 3], Inputs::Bytes(vec![0; 27])), &labels()).is_err());
        assert!(part(array(&[1], Inputs::Bytes(vec![0])), &labels()).is_err());
    }

    #[test]
    fn numbers_of_every_type_are_read() {
        let read = |t: Type, bytes: &[u8], little| {
            let mut out = Inputs::Floats(Vec::new());
            t.append(bytes, little, &mut out);
            let Inputs::Floats(v) = out else { unreachable!() };
            v
        };
        assert_eq!(read(Type::Signed(2), &[0xff, 0xfe, 0, 1], false), [-2.0, 1.0]);
        assert_eq!(read(Type::Signed(8), &(-3i64).to_le_bytes(), true), [-3.0]);
        assert_eq!(read(Type::Unsigned(4), &7u32.to_be_bytes(), false), [7.0]);
        assert_eq!(read(Type::Float(8), &0.25f64.to_be_bytes(), false), [0.25]);
        assert_eq!(read(Type::Float(4), &(-1.5f32).to_le_bytes(), true), [-1.5]);
        assert_eq!(read(Type::Bool, &[0, 1, 2], true), [0.0, 1.0, 1.0]);
    }

    #[test]
    fn labels_are_whole_numbers_and_as_many_as_rows() {
        let x = || array(&[2, 1], Inputs::Floats(vec![1.0, 2.0]));
        let floats = |v: &[f32]| array(&[v.len()], Inputs::Floats(v.into()));
        assert_eq!(part(x(), &floats(&[3.0, -1.0])).unwrap().classes, ["-1", "3"]);
        for (labels, says) in [
            (floats(&[0.5, 1.0]), "row 0 has label 0.5"),
            (floats(&[1.0, f32::NAN]), "row 1 has label NaN"),
            (floats(&[1.0]), "1 labels for 2 rows"),
            (array(&[1, 2], Inputs::Floats(vec![0.0, 1.0])), "one number a row"),
        ] {
            let e = part(x(), &labels).unwrap_err().to_string();
            assert!(e.contains(says), "{e}");
        }
    }
}
