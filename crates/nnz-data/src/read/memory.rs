//! Data that a program holds in memory, under a name that is read as a file's is. The name says its content, so that equal data
//! are the same place: a run that was cut off goes on once its data are lent again.

use super::arrays::{self, Array};
use super::rows::{Rows, Sparse, Values};
use super::{Encoding, Found, Options, content};
use crate::{Error, Result};
use nnz_engine::data::{Inputs, hex};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What every name begins with.
const SCHEME: &str = "memory:";

/// Rows of numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum Matrix {
    /// Pixels.
    Bytes(Vec<u8>),
    /// Numbers of 32 bits.
    Floats(Vec<f32>),
    /// Numbers of 64 bits, and whole numbers that 32 bits may not hold.
    Doubles(Vec<f64>),
    /// Compressed rows; what is left out is zero.
    Compressed {
        /// Start of each row, and the end.
        starts: Vec<usize>,
        /// The column of each value, ascending in a row.
        columns: Vec<u32>,
        /// The values.
        values: Vec<f64>,
    },
}

/// Inputs in memory, with their answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrays {
    /// `[rows, values]`, `[rows, height, width]`, or these with up to 4 channels before or after.
    pub shape: Vec<usize>,
    /// Row after row.
    pub inputs: Matrix,
    /// A number for each row; empty without answers.
    pub answers: Vec<f64>,
    /// Names of the classes, if answers count them from 0; empty if they are numbers.
    pub names: Vec<String>,
}

enum Content {
    Arrays(Arrays),
    File(Arc<[u8]>),
}

/// The data that are lent, and how many times.
static LENT: Mutex<BTreeMap<String, (usize, Arc<Content>)>> = Mutex::new(BTreeMap::new());

fn lent() -> MutexGuard<'static, BTreeMap<String, (usize, Arc<Content>)>> {
    LENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Data that can be read by a name as long as this lives.
#[derive(Debug)]
pub struct Lent {
    name: String,
}

impl Lent {
    /// Lends arrays.
    ///
    /// # Errors
    /// When parts of the arrays do not fit each other.
    pub fn arrays(arrays: Arrays) -> Result<Self> {
        let rows = arrays.shape.first().copied().unwrap_or(0);
        let wrong = |why: String| Err(content("arrays", why));
        let count = arrays.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let given = match &arrays.inputs {
            Matrix::Bytes(v) => v.len(),
            Matrix::Floats(v) => v.len(),
            Matrix::Doubles(v) => v.len(),
            Matrix::Compressed { starts, columns, values } => {
                let [rows, width] = arrays.shape[..] else {
                    return wrong(format!("compressed rows of shape {:?}; they have two extents", arrays.shape));
                };
                let spans = starts.len() == rows + 1
                    && starts.first() == Some(&0)
                    && starts.is_sorted()
                    && starts.last() == Some(&columns.len());
                if !spans || columns.len() != values.len() {
                    return wrong("starts of rows that do not fit the values".into());
                }
                let ascend =
                    |row: &[u32]| row.is_sorted_by(|a, b| a < b) && row.last().is_none_or(|&c| (c as usize) < width);
                if let Some(row) = starts.windows(2).position(|s| !ascend(&columns[s[0]..s[1]])) {
                    return wrong(format!("row {row} has columns that do not ascend below {width}"));
                }
                count.unwrap_or(0)
            }
        };
        if count != Some(given) {
            return wrong(format!("{given} values for shape {:?}", arrays.shape));
        }
        if !arrays.answers.is_empty() && arrays.answers.len() != rows {
            return wrong(format!("{} labels for {rows} rows", arrays.answers.len()));
        }
        let mut hash = Sha256::new();
        arrays.shape.iter().for_each(|d| hash.update(d.to_le_bytes()));
        match &arrays.inputs {
            Matrix::Bytes(v) => hash.update(v),
            Matrix::Floats(v) => feed(&mut hash, v, |x| x.to_le_bytes()),
            Matrix::Doubles(v) => feed(&mut hash, v, |x| x.to_le_bytes()),
            Matrix::Compressed { starts, columns, values } => {
                feed(&mut hash, starts, |x| x.to_le_bytes());
                feed(&mut hash, columns, |x| x.to_le_bytes());
                feed(&mut hash, values, |x| x.to_le_bytes());
            }
        }
        feed(&mut hash, &arrays.answers, |x| x.to_le_bytes());
        for name in &arrays.names {
            hash.update(name);
            hash.update([0]);
        }
        Ok(Self::keep(hash, super::IN_MEMORY, Content::Arrays(arrays)))
    }

    /// Lends a file that exists in memory only; `ending` says its format, such as `csv`.
    pub fn file(bytes: Vec<u8>, ending: &str) -> Self {
        Self::keep(Sha256::new_with_prefix(&bytes), ending, Content::File(bytes.into()))
    }

    fn keep(hash: Sha256, ending: &str, held: Content) -> Self {
        let name = format!("{SCHEME}{}.{ending}", &hex(&hash.finalize())[..12]);
        lent().entry(name.clone()).or_insert_with(|| (0, Arc::new(held))).0 += 1;
        Self { name }
    }

    /// The place that reads it.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut all = lent();
        if let Some(held) = all.get_mut(&self.name) {
            held.0 -= 1;
            if held.0 == 0 {
                all.remove(&self.name);
            }
        }
    }
}

/// Hashes numbers by blocks.
fn feed<T: Copy, const N: usize>(hash: &mut Sha256, values: &[T], bytes: impl Fn(T) -> [u8; N]) {
    let mut block = Vec::with_capacity(N << 12);
    for part in values.chunks(1 << 12) {
        block.clear();
        part.iter().for_each(|&x| block.extend(bytes(x)));
        hash.update(&block);
    }
}

/// Whether a path names data in memory.
pub(crate) fn in_memory(path: &str) -> bool {
    path.starts_with(SCHEME)
}

/// The lent content of a path; `None` for a path of the file system.
fn find(path: &Path) -> Result<Option<Arc<Content>>> {
    let Some(name) = path.to_str().filter(|p| in_memory(p)) else { return Ok(None) };
    let held = lent().get(name).map(|held| held.1.clone());
    held.map(Some).ok_or_else(|| {
        content(
            name,
            "was in the memory of a program, which lends it only while a command runs; give the same data again",
        )
    })
}

/// The bytes of a lent file; `None` for a path of the file system.
pub(super) fn file(path: &Path) -> Result<Option<Arc<[u8]>>> {
    Ok(match find(path)?.as_deref() {
        Some(Content::File(bytes)) => Some(bytes.clone()),
        _ => None,
    })
}

pub(super) fn read(path: &Path, _: &Options, _: f64) -> Result<Found> {
    let rows = ask(path)?;
    match rows.answers.is_empty() {
        true => Err(content(rows.place, "holds inputs alone; give their labels, too")),
        false => Ok(Found::Rows(rows, None)),
    }
}

/// Rows; answers are left empty where none were given.
pub(super) fn ask(path: &Path) -> Result<Rows> {
    match find(path)?.as_deref() {
        Some(Content::Arrays(arrays)) => arrays.clone().rows(path.display().to_string()),
        _ => Err(Error::Io { what: "read", path: path.into(), why: std::io::ErrorKind::NotFound.into() }),
    }
}

impl Arrays {
    /// Rows whose name says their content.
    fn rows(self, place: String) -> Result<Rows> {
        let Self { shape, inputs, answers, names } = self;
        let checksum = place.clone();
        let values = match inputs {
            Matrix::Bytes(v) => Values::Bytes(v),
            Matrix::Floats(v) => Values::Floats(v),
            Matrix::Doubles(v) => Values::Doubles(v),
            Matrix::Compressed { starts, columns, values } => {
                let entries = columns.into_iter().zip(values).collect();
                let lines = (0..shape[0] as u64).collect();
                // All columns are named, so no large index can make rows long unasked.
                let sparse = Sparse { starts, entries, lines, bytes: usize::MAX, width: Some(shape[1]) };
                let (image, values) = ([1, 1, shape[1]], Values::Sparse(sparse));
                return finite(Rows { place, image, values, answers, names, checksum });
            }
        };
        finite(Rows { answers, names, ..arrays::inputs(Array { place, shape, values }, checksum)? })
    }

    /// Rows as a model reads them, and their number: by the encoding it keeps, or as they are.
    ///
    /// # Errors
    /// When the rows are none that it takes.
    pub fn asked(self, encoding: Option<&Encoding>) -> Result<(Inputs, usize)> {
        let options = Options::default();
        let rows = self.rows("the rows".into())?;
        match encoding {
            Some(Encoding::Rows(scales)) => rows.asked(scales, &options),
            Some(Encoding::Table(_)) => {
                Err(content("the rows", "the model was trained on a table; give one with the same names of columns"))
            }
            None => rows.unchanged(),
        }
    }
}

fn finite(rows: Rows) -> Result<Rows> {
    match rows.answers.iter().position(|x| !(*x as f32).is_finite()) {
        Some(row) => {
            let why = format!("row {row} has label {:?}; drop the row or fill the label in", rows.answers[row]);
            Err(content(rows.place, why))
        }
        None => Ok(rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;

    fn arrays(inputs: Matrix) -> Arrays {
        let answers = (0..40).map(|i| f64::from(i % 2)).collect();
        Arrays { shape: vec![40, 3], inputs, answers, names: Vec::new() }
    }

    #[test]
    fn what_is_lent_is_read_by_its_name_and_no_longer() {
        let numbers: Vec<f32> = (0..120).map(|i| (i * i % 7) as f32).collect();
        let lent = Lent::arrays(arrays(Matrix::Floats(numbers.clone()))).unwrap();
        let again = Lent::arrays(arrays(Matrix::Floats(numbers.clone()))).unwrap();
        assert_eq!(lent.name(), again.name());
        let store = Store::at("/nonexistent");
        let data = store.load(lent.name()).unwrap().dataset;
        assert_eq!((data.train.len(), data.test.len(), data.image), (32, 8, [1, 1, 3]));
        assert_eq!(data.classes, ["0", "1"]);
        // The same numbers in 64 bits and compressed are scaled alike where every value is given.
        let wide = Lent::arrays(arrays(Matrix::Doubles(numbers.iter().map(|&x| x.into()).collect()))).unwrap();
        assert_ne!(wide.name(), lent.name());
        assert_eq!(store.load(wide.name()).unwrap().dataset.train, data.train);
        let name = lent.name().to_string();
        drop((lent, wide));
        assert!(store.load(&name).is_ok(), "it is lent twice");
        drop(again);
        let e = store.load(&name).unwrap_err().to_string();
        assert!(e.contains("give the same data again"), "{e}");
    }

    #[test]
    fn compressed_rows_are_those_of_svmlight() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rows.svm");
        let (mut text, mut starts, mut columns, mut values) = (String::new(), vec![0], Vec::new(), Vec::new());
        for row in 0..40u32 {
            text += &format!("{} {}:{}", row % 2, row % 3, 1.5 + f64::from(row));
            columns.push(row % 3);
            values.push(1.5 + f64::from(row));
            if row % 3 == 0 {
                text += " 2:4";
                columns.push(2);
                values.push(4.0);
            }
            text.push('\n');
            starts.push(columns.len());
        }
        std::fs::write(&file, text).unwrap();
        let store = Store::at("/nonexistent");
        let want = store.load(file.to_str().unwrap()).unwrap().dataset;
        let lent = Lent::arrays(arrays(Matrix::Compressed { starts, columns, values })).unwrap();
        let found = store.load(lent.name()).unwrap().dataset;
        assert_eq!((found.train, found.test, found.encoding), (want.train, want.test.clone(), want.encoding.clone()));
        // A model that counts columns from 1 reads rows that are counted from 0 by position.
        let mut known = want.encoding.unwrap();
        let text = known.to_string().replace("\"base\":0", "\"base\":1");
        known = serde_json::from_str(&text).unwrap();
        assert!(text.contains("\"base\":1"), "{text}");
        let again = store.load_as(lent.name(), Some(&known)).unwrap().dataset;
        assert_eq!(again.test, want.test);
    }

    #[test]
    fn texts_name_classes_and_tables_are_lent_as_files() {
        let store = Store::at("/nonexistent");
        let mut texts = arrays(Matrix::Doubles((0..120).map(f64::from).collect()));
        texts.names = vec!["cat".into(), "dog".into()];
        let lent = Lent::arrays(texts).unwrap();
        assert_eq!(store.load(lent.name()).unwrap().dataset.classes, ["cat", "dog"]);
        let rows: String = (0..30).map(|i| format!("{i},{}\n", if i % 2 == 0 { "yes" } else { "no" })).collect();
        let table = Lent::file(format!("size,big\n{rows}").into_bytes(), "csv");
        let data = store.load(&super::super::with_option(table.name(), "target", "big")).unwrap().dataset;
        assert_eq!((data.train.len() + data.test.len(), data.classes), (30, vec!["no".to_string(), "yes".into()]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let csr = |starts: &[usize], columns: &[u32], values: &[f64]| {
            let inputs = Matrix::Compressed { starts: starts.into(), columns: columns.into(), values: values.into() };
            Lent::arrays(Arrays { shape: vec![2, 3], inputs, answers: Vec::new(), names: Vec::new() })
        };
        assert!(csr(&[0, 1, 2], &[0, 2], &[1.0, 2.0]).is_ok());
        for (found, says) in [
            (csr(&[0, 1], &[0], &[1.0]), "do not fit"),
            (csr(&[0, 2, 1], &[0, 1], &[1.0, 2.0]), "do not fit"),
            (csr(&[0, 1, 2], &[0, 3], &[1.0, 2.0]), "row 1 has columns"),
            (csr(&[0, 2, 2], &[1, 1], &[1.0, 2.0]), "row 0 has columns"),
            (Lent::arrays(arrays(Matrix::Bytes(vec![0; 3]))), "3 values for shape"),
            (
                Lent::arrays(Arrays { answers: vec![1.0], ..arrays(Matrix::Bytes(vec![0; 120])) }),
                "1 labels for 40 rows",
            ),
        ] {
            let e = found.unwrap_err().to_string();
            assert!(e.contains(says), "{e} (expected {says})");
        }
        let lone = Lent::arrays(Arrays { answers: Vec::new(), ..arrays(Matrix::Bytes(vec![0; 120])) }).unwrap();
        assert!(Store::at("/nonexistent").load(lone.name()).unwrap_err().to_string().contains("inputs alone"));
    }
}
