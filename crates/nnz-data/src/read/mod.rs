//! Data that nnz does not know by name: a file or a folder, read by its format, one file per format.
//!
//! A place is a path, with options after a question mark: `table.csv?target=species&test=0.3`. It is one string, so
//! that a recipe, a model's file and the command line can name it alike. Readers stream; memory grows with the bytes
//! that arrive, not with what a header claims, and stops at [`MAX_VALUES`].

mod arrays;
mod cifar;
mod decimal;
mod encoding;
mod folder;
mod memory;
mod missing;
mod moments;
mod npy;
mod rows;
mod stream;
mod svmlight;
mod table;
mod tensors;
mod text;
mod wav;

use super::{Error, Loaded, Result};
use nnz_core::{Rng, closest};
use nnz_engine::data::{Dataset, Inputs, MAX_VALUES, Split, hex};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};

pub use decimal::Decimal;
pub use encoding::{Column, ColumnKind, Columns, Encoding, Scales};
pub(super) use memory::in_memory;
pub use memory::{Arrays, Lent, Matrix};
pub use missing::{Fill, Missing, Unseen};

/// Most classes of a data set.
const MAX_CLASSES: usize = 4096;
/// Most distinct whole numbers that count as classes, unless the options say otherwise.
const MAX_KINDS: usize = 100;
/// Most distinct whole numbers that count as classes with fewer than five rows each.
const FEW: usize = 20;
/// Most distinct texts of a column.
const MAX_TEXTS: usize = 256;

/// A file format.
struct Format {
    /// For messages.
    name: &'static str,
    /// Endings of its files, without `.gz`.
    extensions: &'static [&'static str],
    /// Options it understands, besides `test`.
    options: &'static [&'static str],
    /// Reads a path; the number is the share of rows that will be held out.
    read: fn(&Path, &Options, f64) -> Result<Found>,
}

const FORMATS: [Format; 8] = [
    Format {
        name: "a table",
        extensions: &["csv", "tsv"],
        options: &["target", "answers", "drop", "category", "header", "missing", "unseen", "decimal"],
        read: table::read,
    },
    Format {
        name: "svmlight",
        extensions: &["svm", "svmlight", "libsvm"],
        options: &["answers", "base"],
        read: svmlight::read,
    },
    Format { name: "NumPy arrays", extensions: &["npz"], options: &["answers"], read: npy::read_npz },
    Format { name: "a NumPy array", extensions: &["npy"], options: &["labels", "answers"], read: npy::read_npy },
    Format { name: "safetensors", extensions: &["safetensors"], options: &["answers"], read: tensors::read },
    Format { name: "text", extensions: &["txt", "text"], options: &["context", "stride"], read: text::read },
    Format { name: "arrays in memory", extensions: &[IN_MEMORY], options: &["answers"], read: memory::read },
    Format { name: "a folder", extensions: &[], options: &["samples"], read: folder::read },
];

/// The ending of arrays in memory, which no file has.
const IN_MEMORY: &str = "arrays";

/// Every option that a place may have.
const OPTIONS: [&str; 14] = [
    "target", "answers", "drop", "category", "header", "missing", "unseen", "decimal", "base", "test", "labels",
    "context", "stride", "samples",
];

/// Rows of one file with their labels, before they are divided.
#[derive(Debug)]
pub(crate) struct Part {
    /// Origin, for messages.
    place: String,
    /// Channels, height, width; a row is `[height][width][channels]`.
    image: [usize; 3],
    rows: Split,
    /// Names of the classes, label l is `classes[l]`; of the targets for regression.
    classes: Vec<String>,
    checksum: String,
    /// Sentences on what was not read as it stands.
    notes: Vec<String>,
}

/// Parts of a data set.
#[derive(Debug)]
pub(crate) struct Parts {
    train: Part,
    /// `None` if the source has only one part: then a share of its rows is held out.
    test: Option<Part>,
    /// How columns became numbers.
    encoding: Option<Encoding>,
    /// Whether answers were given as texts.
    texts: bool,
}

/// Result of a reader.
#[derive(Debug)]
enum Found {
    /// Parts whose answers have classes.
    Parts(Parts),
    /// Rows of numbers, and those for testing if the source has them.
    Rows(rows::Rows, Option<rows::Rows>),
}

/// How a file is read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum As<'a> {
    /// By its own values.
    New,
    /// For a model, by the encoding it keeps.
    Model(Option<&'a Encoding>),
}

/// A row that is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Its number among the rows of the file, from 0.
    pub row: usize,
    /// Its line.
    pub line: u64,
    /// The column of the cell that leaves it out.
    pub column: String,
    /// That cell.
    pub cell: String,
    /// Whether its text does not occur in the table learned from; else it has no value.
    pub unseen: bool,
}

impl Display for LeftOut {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { line, column, cell, unseen, .. } = self;
        match unseen {
            true => write!(f, "line {line}, column `{column}`: `{cell}` does not occur in the table learned from"),
            false => write!(f, "line {line}, column `{column}`: no value (`{cell}`)"),
        }
    }
}

/// Rows without answers, as inputs of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// `[rows][features]`
    pub inputs: Inputs,
    /// Rows that are kept.
    pub rows: usize,
    /// The others.
    pub left: Vec<LeftOut>,
    /// The answers of the rows that are kept, as they are written, if the place names their column.
    pub answers: Option<Vec<String>>,
    /// Sentences to print.
    pub notes: Vec<String>,
}

impl Parts {
    fn one(train: Part) -> Self {
        Self { train, test: None, encoding: None, texts: false }
    }
}

/// Options after the question mark.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options(BTreeMap<String, String>);

impl Options {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Parses a whole number of at least 1.
    fn count(&self, key: &str, default: usize) -> Result<usize> {
        match self.get(key).map(|v| (v, v.parse::<usize>())) {
            None => Ok(default),
            Some((_, Ok(n))) if n > 0 => Ok(n),
            Some((v, _)) => Err(content(format!("{key}={v}"), "expected a whole number from 1 on")),
        }
    }

    /// Whether answers are numbers to predict, if the options say so.
    fn answers(&self) -> Result<Option<bool>> {
        match self.get("answers") {
            None => Ok(None),
            Some("numbers") => Ok(Some(true)),
            Some("classes") => Ok(Some(false)),
            Some(other) => Err(content(format!("answers={other}"), "expected numbers or classes")),
        }
    }

    /// Those of these names.
    fn only(&self, names: &[&str]) -> Self {
        Self(self.0.iter().filter(|(k, _)| names.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    /// Splits names at commas.
    fn list(&self, key: &str) -> Vec<&str> {
        self.get(key).iter().flat_map(|v| v.split(',')).map(str::trim).filter(|v| !v.is_empty()).collect()
    }
}

/// Rows held out for testing.
enum Held {
    Share(f64),
    File(PathBuf),
}

/// An [`Error::Content`].
fn content(place: impl Into<String>, why: impl Into<String>) -> Error {
    Error::Content { place: place.into(), why: why.into() }
}

/// Splits a place into path and options. A question mark that no option follows belongs to the path.
pub(super) fn split(place: &str) -> (&str, &str) {
    match place.rsplit_once('?') {
        Some((path, options)) if options.contains('=') => (path, options),
        _ => (place, ""),
    }
}

/// The short name of a place: the last part of its path.
pub fn short(place: &str) -> &str {
    let path = split(place).0.trim_end_matches('/');
    path.rsplit('/').next().unwrap_or(path)
}

/// Puts an option in the place of one of the same name.
pub fn instead_of(place: &str, key: &str, value: &str) -> String {
    let (path, rest) = split(place);
    let others: Vec<&str> = rest.split('&').filter(|o| !o.is_empty() && o.split('=').next() != Some(key)).collect();
    match others.is_empty() {
        true => with_option(path, key, value),
        false => with_option(&format!("{path}?{}", others.join("&")), key, value),
    }
}

/// Adds an option to a place, before existing ones.
pub fn with_option(place: &str, key: &str, value: &str) -> String {
    match split(place) {
        (path, "") => format!("{path}?{key}={value}"),
        (path, rest) => format!("{path}?{key}={value}&{rest}"),
    }
}

fn parse(place: &str) -> Result<(PathBuf, Options)> {
    let (path, text) = split(place);
    let mut options = BTreeMap::new();
    for pair in text.split('&').filter(|p| !p.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(content(
                place,
                format!("`{pair}` is no option; options are written KEY=VALUE, with & between"),
            ));
        };
        if !OPTIONS.contains(&key) {
            let hint = closest(key, OPTIONS);
            return Err(content(place, format!("no option named `{key}`{hint}; options are {}", OPTIONS.join(", "))));
        }
        if options.insert(key.to_string(), value.to_string()).is_some() {
            return Err(content(place, format!("option `{key}` is given twice")));
        }
    }
    Ok((path.into(), Options(options)))
}

/// The format of a path: a folder, or by the ending before `.gz`.
fn format_of(path: &Path) -> Result<&'static Format> {
    if path.is_dir() {
        return Ok(&FORMATS[FORMATS.len() - 1]);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let ending = name.trim_end_matches(".gz").rsplit_once('.').map_or("", |(_, e)| e);
    FORMATS.iter().find(|f| f.extensions.contains(&ending)).ok_or_else(|| {
        let known = FORMATS.iter().flat_map(|f| f.extensions).copied().filter(|e| *e != IN_MEMORY);
        let known: Vec<&str> = known.collect();
        content(
            path.display().to_string(),
            format!("the ending says no format; files end in {} (plain or .gz), or name a folder", known.join(", ")),
        )
    })
}

/// Refuses options that have no meaning for a format.
fn allowed(place: &str, format: &Format, options: &Options, these: &[&str]) -> Result<()> {
    let Some(key) = options.0.keys().find(|k| !these.contains(&k.as_str())) else { return Ok(()) };
    let why = format!("option `{key}` has no meaning for {}", format.name);
    let those = match format.options {
        [] => "it has none but `test`".into(),
        some => format!("it has {} and test", some.join(", ")),
    };
    Err(content(place, format!("{why}; {those}")))
}

/// Reads the data set at a place.
pub(super) fn load(place: &str, how: As) -> Result<Loaded> {
    let (path, mut options) = parse(place)?;
    let format = format_of(&path)?;
    let held = match options.0.remove("test") {
        None => Held::Share(0.2),
        Some(text) => match text.parse::<f64>() {
            Ok(share) if share > 0.0 && share < 1.0 => Held::Share(share),
            Ok(_) => {
                return Err(content(place, format!("test={text}: a share lies between 0 and 1; a path names a file")));
            }
            Err(_) => Held::File(text.into()),
        },
    };
    let share = if let Held::Share(share) = held { share } else { 0.0 };
    allowed(place, format, &options, format.options)?;
    let found = match how {
        As::Model(Some(Encoding::Table(known))) => match is_table(&path) {
            true => Found::Parts(table::read_as(&path, known, &options)?),
            false => return Err(content(place, "the model was trained on a table; give a table (.csv, .tsv)")),
        },
        _ => (format.read)(&path, &options, share)?,
    };
    let twice = || content(place, "has a test part of its own; leave `test` out");
    let parts = match (found, held) {
        (Found::Parts(Parts { test: Some(_), .. }) | Found::Rows(_, Some(_)), Held::File(_)) => return Err(twice()),
        (Found::Rows(train, test), held) => {
            let test = match held {
                Held::File(file) => Some(lone(&file, &options)?),
                Held::Share(_) => test,
            };
            let how = match how {
                As::New => rows::As::New(share),
                As::Model(None) => rows::As::Unchanged,
                As::Model(Some(Encoding::Rows(known))) => rows::As::Known(known),
                As::Model(Some(Encoding::Table(_))) => unreachable!("a table was read by this encoding"),
            };
            rows::encode(train, test, &options, how)?
        }
        (Found::Parts(_), _) if matches!(how, As::Model(Some(Encoding::Rows(_)))) => {
            return Err(content(
                place,
                "the model was trained on rows of numbers; give .svm, .npz, .npy or .safetensors",
            ));
        }
        (Found::Parts(mut parts), Held::File(file)) => {
            let other = match &parts.encoding {
                // Options that name columns are for the other table.
                Some(Encoding::Table(known)) => table::read_as(&file, known, &options.only(&["header", "decimal"]))?,
                _ => match (format_of(&file)?.read)(&file, &options, 0.0)? {
                    Found::Parts(parts) => parts,
                    Found::Rows(rows, _) => {
                        return Err(content(rows.place, format!("{place} holds no rows of numbers")));
                    }
                },
            };
            parts.test = Some(other.train);
            parts
        }
        (Found::Parts(parts), Held::Share(_)) => parts,
    };
    assemble(place, parts, share, matches!(how, As::Model(_)))
}

fn is_table(path: &Path) -> bool {
    format_of(path).is_ok_and(|f| f.extensions.contains(&"csv"))
}

/// Rows of a file that has no parts.
fn lone(file: &Path, options: &Options) -> Result<rows::Rows> {
    let wrong = |why: &str| Err(content(file.display().to_string(), why));
    match (format_of(file)?.read)(file, options, 0.0)? {
        Found::Rows(rows, None) => Ok(rows),
        Found::Rows(..) => wrong("has parts for training and for testing; give a file with x and y"),
        Found::Parts(_) => wrong("holds no rows of numbers, and the data to learn from does"),
    }
}

/// Inputs of rows without answers, by a model's encoding.
///
/// # Errors
/// When the file cannot be read, a column is missing, or a cell is not of its column's kind.
pub fn ask(path: &Path, encoding: &Encoding) -> Result<Asked> {
    let place = path.display().to_string();
    // A path that is not UTF-8 has no options.
    let (path, options) = match path.to_str() {
        Some(text) => parse(text)?,
        None => (path.into(), Options::default()),
    };
    let format = format_of(&path)?;
    let scales = match encoding {
        Encoding::Table(known) if is_table(&path) => {
            allowed(&place, format, &options, format.options)?;
            return table::ask(&path, known, &options);
        }
        Encoding::Table(_) => {
            return Err(content(place, "the model was trained on a table; give a table (.csv, .tsv)"));
        }
        Encoding::Rows(scales) => scales,
    };
    allowed(&place, format, &options, &["base"])?;
    let rows = match format.extensions {
        ["svm", ..] => svmlight::ask(&path)?,
        ["npz"] => npy::ask_npz(&path)?,
        ["npy"] => npy::ask_npy(&path)?,
        ["safetensors"] => tensors::ask(&path)?,
        [IN_MEMORY] => memory::ask(&path)?,
        _ => {
            let why = "the model was trained on rows of numbers; give .svm, .npz, .npy or .safetensors";
            return Err(content(place, why));
        }
    };
    let (inputs, rows) = rows.asked(scales, &options)?;
    Ok(Asked { inputs, rows, left: Vec::new(), answers: None, notes: Vec::new() })
}

/// Splits the data, names classes alike in both parts, and checks the whole. Of few rows for a model one is held out.
fn assemble(name: &str, parts: Parts, share: f64, for_model: bool) -> Result<Loaded> {
    let Parts { mut train, mut test, encoding, texts } = parts;
    let mut notes = std::mem::take(&mut train.notes);
    notes.extend(test.iter_mut().flat_map(|t| std::mem::take(&mut t.notes)));
    if train.classes.len() > MAX_CLASSES {
        let (n, first) = (train.classes.len(), &train.classes[0]);
        return Err(content(
            train.place,
            format!("{n} different answers, `{first}` among them; at most {MAX_CLASSES} classes can be told apart"),
        ));
    }
    let mut sum = Sha256::new();
    for part in [Some(&train), test.as_ref()].into_iter().flatten() {
        sum.update(&part.checksum);
        sum.update("\n");
    }
    let (image, classes) = (train.image, train.classes.clone());
    let features: usize = image.iter().product();
    let (train, test) = match test {
        Some(test) => {
            if test.image != image {
                let (is, other) = (shape(image), shape(test.image));
                return Err(content(test.place, format!("rows of {other}, but those of {} are {is}", train.place)));
            }
            let labels = match test.rows.targets.is_empty() {
                true => rename(&test, &classes, &train.place)?,
                false => test.rows.labels,
            };
            (train.rows, Split { labels, ..test.rows })
        }
        None => {
            let (mut kept, mut held) = hold_out(&train.rows.labels, classes.len(), share);
            if for_model && held.is_empty() && kept.len() > 1 {
                held.extend(kept.pop());
            }
            if kept.is_empty() || held.is_empty() {
                let rows = train.rows.len();
                return Err(content(
                    train.place,
                    format!("{rows} rows are too few to hold {share} of them out; name a test file (`--test FILE`)"),
                ));
            }
            (pick(&train.rows, features, &kept), pick(&train.rows, features, &held))
        }
    };
    let mut dataset = Dataset::new(name, image, classes, train, test, hex(&sum.finalize()))?;
    dataset.encoding = encoding.and_then(|e| serde_json::to_value(e).ok());
    dataset.texts = texts;
    Ok(Loaded { dataset, notes })
}

/// Maps the labels of `part` to the numbers of `classes`.
fn rename(part: &Part, classes: &[String], origin: &str) -> Result<Vec<u32>> {
    let numbers: BTreeMap<&str, u32> = classes.iter().enumerate().map(|(i, c)| (c.as_str(), i as u32)).collect();
    let number = |c: &String| {
        numbers.get(c.as_str()).copied().ok_or_else(|| {
            content(&part.place, format!("class `{c}` does not occur in {origin}, so nothing could learn it"))
        })
    };
    let map = part.classes.iter().map(number).collect::<Result<Vec<u32>>>()?;
    Ok(part.rows.labels.iter().map(|&l| map[l as usize]).collect())
}

/// Rows to keep and rows to hold out, both ascending: the same share of every class, drawn by one fixed seed, at least
/// one row kept.
fn hold_out(labels: &[u32], classes: usize, share: f64) -> (Vec<usize>, Vec<usize>) {
    let mut rows = vec![Vec::new(); classes];
    labels.iter().enumerate().for_each(|(row, &l)| rows[l as usize].push(row));
    let (mut kept, mut held) = (Vec::new(), Vec::new());
    let mut due = 0.0;
    for (class, rows) in rows.iter_mut().enumerate() {
        Rng::stream(0, "test", class as u64, 0).shuffle(rows);
        // The rounding remainder carries over to the next class, so that many small classes give their share, too.
        due += share * rows.len() as f64;
        let n = (due.round() as usize).min(rows.len().saturating_sub(1));
        due -= n as f64;
        held.extend(&rows[..n]);
        kept.extend(&rows[n..]);
    }
    kept.sort_unstable();
    held.sort_unstable();
    (kept, held)
}

/// Selects rows of a split.
fn pick(from: &Split, features: usize, rows: &[usize]) -> Split {
    fn of<T: Copy>(values: &[T], width: usize, rows: &[usize]) -> Vec<T> {
        rows.iter().flat_map(|r| &values[r * width..(r + 1) * width]).copied().collect()
    }
    let width = from.targets.len() / from.len().max(1);
    let weights = if from.weights.is_empty() { Vec::new() } else { of(&from.weights, 1, rows) };
    Split {
        inputs: from.inputs.pick(features, rows),
        labels: of(&from.labels, 1, rows),
        targets: of(&from.targets, width, rows),
        weights,
    }
}

/// Refuses more values than are read, before they are read.
fn bounded(place: &str, rows: usize, width: usize) -> Result<()> {
    match rows.checked_mul(width) {
        Some(n) if (n as u64) <= MAX_VALUES => Ok(()),
        _ => Err(content(place, format!("{rows} rows of {width} values; more than {MAX_VALUES} values are not read"))),
    }
}

/// Whether so many different whole numbers are numbers to predict, not classes.
fn numerous(kinds: usize, rows: usize) -> bool {
    kinds > MAX_KINDS || kinds > FEW && kinds * 5 > rows
}

/// Collects classes from the texts of the labels: numbers in numeric order, before texts in theirs.
fn classes_of(labels: impl Iterator<Item = String>) -> (Vec<u32>, Vec<String>) {
    let mut numbers: BTreeMap<String, u32> = BTreeMap::new();
    let found: Vec<u32> = labels
        .map(|l| {
            let next = numbers.len() as u32;
            *numbers.entry(l).or_insert(next)
        })
        .collect();
    let mut classes: Vec<(String, u32)> = numbers.into_iter().collect();
    let key = |c: &str| c.parse::<f64>().ok().filter(|x| x.is_finite());
    classes.sort_by(|(a, _), (b, _)| match (key(a), key(b)) {
        (Some(x), Some(y)) => x.total_cmp(&y).then_with(|| a.cmp(b)),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (None, None) => a.cmp(b),
    });
    let mut place = vec![0; classes.len()];
    classes.iter().enumerate().for_each(|(i, (_, old))| place[*old as usize] = i as u32);
    (found.into_iter().map(|l| place[l as usize]).collect(), classes.into_iter().map(|(c, _)| c).collect())
}

/// Describes a shape: `28x28 with 3 channels`, `13 numbers`.
fn shape([c, h, w]: [usize; 3]) -> String {
    match (c, h) {
        (1, 1) => format!("{w} numbers"),
        _ => format!("{h}x{w} with {c} channel{}", if c == 1 { "" } else { "s" }),
    }
}

/// Reads every array of a NumPy archive by its name.
pub(crate) fn npz_arrays(bytes: &[u8], place: &str) -> Result<BTreeMap<String, Inputs>> {
    npy::named(bytes, place)
}

/// Runs every reader on bytes instead of files, for fuzzing and tests: `format` is an ending, or `png`, `jpg`, `wav`,
/// `cifar10`, `cifar100`.
#[doc(hidden)]
pub fn read_bytes(format: &str, bytes: &[u8]) -> Result<()> {
    let options = |pairs: &[(&str, &str)]| Options(pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect());
    let found = match format {
        "csv" => Found::Parts(table::parse(bytes, "table.csv", &options(&[("target", "1")]))?),
        "svm" => Found::Rows(svmlight::parse(bytes, "rows.svm")?, None),
        "npy" => return npy::parse(bytes, "array.npy").map(drop),
        "npz" => npy::parse_npz(std::io::Cursor::new(bytes), "arrays.npz", String::new())?,
        "safetensors" => tensors::parse(bytes, "arrays.safetensors", String::new())?,
        "txt" => Found::Parts(text::parse(bytes, "text.txt", &options(&[]), 0.2, String::new())?),
        "wav" => return wav::parse(bytes, "clip.wav").map(drop),
        "cifar10" | "cifar100" => return cifar::parse(bytes, "batch.bin", format == "cifar100").map(drop),
        "png" | "jpg" => return super::picture::decode(bytes).map(drop).map_err(|why| content("picture", why)),
        other => return Err(content(other, "no format")),
    };
    let parts = match found {
        Found::Parts(parts) => parts,
        Found::Rows(train, test) => rows::encode(train, test, &Options::default(), rows::As::New(0.2))?,
    };
    assemble("bytes", parts, 0.2, false).map(drop)
}

#[cfg(test)]
mod tests;
