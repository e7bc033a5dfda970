//! Rows of numbers without names, from arrays or svmlight: what their answers are, and how their columns are scaled.
//!
//! Columns of plain rows are scaled as those of a table are: to mean 0 and deviation 1 over the training rows. A column that
//! most rows of an svmlight file leave out keeps its zeros and is divided by the root mean square of the values that are
//! given: shifted and divided by its small deviation, the few values would be the larger the rarer they are. Pictures
//! and bytes stay, since one scale for all pixels fits them.

use super::encoding::{Encoding, Scales};
use super::moments::{Moments, scaled};
use super::{Options, Part, Parts, bounded, classes_of, content, hold_out, numerous};
use crate::Result;
use nnz_engine::data::{Inputs, Split};
use std::collections::{BTreeMap, BTreeSet};

/// Values as a file gives them.
#[derive(Debug, PartialEq)]
pub(super) enum Values {
    Bytes(Vec<u8>),
    Floats(Vec<f32>),
    Doubles(Vec<f64>),
    Sparse(Sparse),
}

/// Rows whose zeros are left out.
#[derive(Debug, PartialEq)]
pub(super) struct Sparse {
    /// Start of each row in `entries`, and the end.
    pub starts: Vec<usize>,
    /// Index, as it is written, and value.
    pub entries: Vec<(u32, f64)>,
    /// Line of each row.
    pub lines: Vec<u64>,
    /// Bytes of the file.
    pub bytes: usize,
    /// Number of columns, counted from 0, where the source says it; a file does not.
    pub width: Option<usize>,
}

/// Rows before they are scaled and their answers have classes.
#[derive(Debug)]
pub(super) struct Rows {
    /// Origin, for messages.
    pub place: String,
    /// Channels, height, width; a width of 0 is not known yet.
    pub image: [usize; 3],
    pub values: Values,
    /// A number for each row.
    pub answers: Vec<f64>,
    /// Names of the classes that answers count from 0; empty if answers are numbers.
    pub names: Vec<String>,
    pub checksum: String,
}

/// How rows are read.
#[derive(Clone, Copy)]
pub(super) enum As<'a> {
    /// By their own values; this share of them will be held out.
    New(f64),
    /// By a model that keeps no encoding: unchanged.
    Unchanged,
    /// By the encoding of a model.
    Known(&'a Scales),
}

/// Refuses what 32 bits cannot hold.
fn finite(place: &str, row: usize, column: usize, x: f64) -> Result<()> {
    match (x as f32).is_finite() {
        true => Ok(()),
        false => Err(content(place, format!("row {row}, value {column} is {x:?}; drop the row or fill the value in"))),
    }
}

impl Sparse {
    /// The scale of every column over `rows`: that of all of its values, or, if most are zero, of the others, from zero. What is looked at
    /// are entries, and all rows of columns that half of them have. O(entries log entries + width).
    fn fit(&self, place: &str, base: u32, width: usize, rows: &[usize]) -> Result<Vec<[f64; 2]>> {
        let of = |row: usize| self.entries[self.starts[row]..self.starts[row + 1]].iter().map(|&(i, x)| (i - base, x));
        // Of values that are not zero: their number and the sum of their squares.
        let mut found: BTreeMap<u32, (usize, f64)> = BTreeMap::new();
        for &row in rows {
            for (column, x) in of(row) {
                finite(place, row, column as usize, x)?;
                let (given, square) = found.entry(column).or_default();
                *given += usize::from(x != 0.0);
                *square += x * x;
            }
        }
        let common: Vec<u32> =
            found.iter().filter(|(_, (given, _))| 2 * given >= rows.len()).map(|(&c, _)| c).collect();
        let mut moments = vec![Moments::default(); common.len()];
        let mut values = vec![0.0; common.len()];
        for &row in rows {
            values.fill(0.0);
            for (column, x) in of(row) {
                if let Ok(k) = common.binary_search(&column) {
                    values[k] = x;
                }
            }
            moments.iter_mut().zip(&values).for_each(|(m, &x)| m.add(x));
        }
        let mut scales = vec![[0.0, 1.0]; width];
        for (column, (given, square)) in found {
            if given > 0 && square.is_normal() {
                scales[column as usize][1] = (square / given as f64).sqrt();
            }
        }
        common.iter().zip(&moments).for_each(|(&c, m)| scales[c as usize] = m.scale());
        Ok(scales)
    }

    /// The smallest and the largest index that there may be.
    fn bounds(&self) -> Option<(u32, u32)> {
        if let Some(width) = self.width {
            return Some((0, (width as u32).saturating_sub(1)));
        }
        let indices = || self.entries.iter().map(|e| e.0);
        indices().min().zip(indices().max())
    }
}

impl Rows {
    /// Whether columns mean something each.
    fn plain(&self) -> bool {
        self.image[0] == 1 && self.image[1] == 1 && !matches!(self.values, Values::Bytes(_))
    }

    /// Number of rows.
    fn len(&self) -> usize {
        let width: usize = self.image.iter().product();
        match &self.values {
            Values::Bytes(v) => v.len() / width.max(1),
            Values::Floats(v) => v.len() / width.max(1),
            Values::Doubles(v) => v.len() / width.max(1),
            Values::Sparse(s) => s.lines.len(),
        }
    }

    /// The answer of a row in words.
    fn answer(&self, x: f64) -> String {
        self.names.get(x as usize).cloned().unwrap_or_else(|| x.to_string())
    }

    /// Settles the number of columns, and the index of the first.
    fn lay(&mut self, base: u32, width: usize) -> Result<()> {
        let Values::Sparse(sparse) = &mut self.values else { return Ok(()) };
        if sparse.width.take().is_some() {
            sparse.entries.iter_mut().for_each(|e| e.0 += base);
        }
        let rows = sparse.lines.len();
        for (line, span) in sparse.lines.iter().zip(sparse.starts.windows(2)) {
            let wrong = |i: &u32| (*i < base) || (i - base) as usize >= width;
            if let Some(i) = sparse.entries[span[0]..span[1]].iter().map(|e| &e.0).find(|i| wrong(i)) {
                let why = format!(
                    "index {i}, but the columns learned from are {base} to {}; renumber the indices, or learn from a file \
                     that has them",
                    width as u64 + u64::from(base) - 1
                );
                return Err(content(format!("{}, line {line}", self.place), why));
            }
        }
        bounded(&self.place, rows, width)?;
        // A single large index must not make every row long: the zeros filled in are proportional to the bytes read.
        if rows * width > 1 << 20 && rows * width / 1000 > sparse.bytes {
            let given = sparse.entries.len();
            let why = format!("{rows} rows of {width} values for {given} that are given; renumber the indices");
            return Err(content(&self.place, why));
        }
        self.image = [1, 1, width];
        Ok(())
    }

    /// Fills the values of a row.
    fn row(&self, row: usize, base: u32, out: &mut [f64]) {
        let span = row * out.len()..(row + 1) * out.len();
        match &self.values {
            Values::Bytes(v) => out.iter_mut().zip(&v[span]).for_each(|(o, &x)| *o = x.into()),
            Values::Floats(v) => out.iter_mut().zip(&v[span]).for_each(|(o, &x)| *o = x.into()),
            Values::Doubles(v) => out.copy_from_slice(&v[span]),
            Values::Sparse(s) => {
                out.fill(0.0);
                s.entries[s.starts[row]..s.starts[row + 1]].iter().for_each(|&(i, x)| out[(i - base) as usize] = x);
            }
        }
    }

    /// Computes the scale of every column over `rows`. Of compressed rows, a column that is mostly zero keeps its zeros.
    fn fit(&self, base: u32, rows: &[usize]) -> Result<Vec<[f64; 2]>> {
        if let Values::Sparse(sparse) = &self.values {
            return sparse.fit(&self.place, base, self.image[2], rows);
        }
        let width = self.image[2];
        let (mut moments, mut values) = (vec![Moments::default(); width], vec![0.0; width]);
        for &row in rows {
            self.row(row, base, &mut values);
            for (column, (&x, moments)) in values.iter().zip(&mut moments).enumerate() {
                finite(&self.place, row, column, x)?;
                moments.add(x);
            }
        }
        Ok(moments.iter().map(Moments::scale).collect())
    }

    /// The inputs; scaled, if there are scales.
    fn inputs(&mut self, base: u32, scales: Option<&[[f64; 2]]>) -> Inputs {
        match (&mut self.values, scales) {
            (Values::Bytes(v), None) => Inputs::Bytes(std::mem::take(v)),
            (Values::Floats(v), None) => Inputs::Floats(std::mem::take(v)),
            (_, None) => self.by_row(base, |x, _| x as f32),
            (_, Some(scales)) => self.by_row(base, |x, i| scaled(x, scales[i])),
        }
    }

    fn by_row(&self, base: u32, of: impl Fn(f64, usize) -> f32) -> Inputs {
        let mut values = vec![0.0; self.image.iter().product()];
        let rows = self.len();
        let mut out = Vec::with_capacity(rows * values.len());
        for row in 0..rows {
            self.row(row, base, &mut values);
            out.extend(values.iter().enumerate().map(|(i, &x)| of(x, i)));
        }
        Inputs::Floats(out)
    }

    /// The part of a data set: with classes, or with numbers to predict where there are none.
    fn part(mut self, base: u32, scales: Option<&[[f64; 2]]>, classes: &[String], origin: &str) -> Result<Part> {
        let inputs = self.inputs(base, scales);
        let known: BTreeMap<&str, u32> = classes.iter().zip(0..).map(|(c, l)| (c.as_str(), l)).collect();
        let label = |&x: &f64| {
            let class = self.answer(x);
            known.get(&*class).copied().ok_or_else(|| {
                content(&self.place, format!("class `{class}` does not occur in {origin}, so nothing could learn it"))
            })
        };
        let (rows, classes) = match classes.is_empty() {
            true => {
                let targets = self.answers.iter().map(|&x| x as f32).collect();
                (Split::with_targets(inputs, targets, 1), vec!["value".into()])
            }
            false => {
                let labels = self.answers.iter().map(label).collect::<Result<_>>()?;
                (Split::new(inputs, labels), classes.to_vec())
            }
        };
        let (place, image, checksum) = (self.place, self.image, self.checksum);
        Ok(Part { place, image, rows, classes, checksum, notes: Vec::new() })
    }

    /// Refuses a value that is none, or that 32 bits cannot hold.
    fn finite(&self) -> Result<()> {
        let width = self.image.iter().product::<usize>().max(1);
        let bad = |x: f64| !(x as f32).is_finite();
        let at = |i: usize, x: f64| finite(&self.place, i / width, i % width, x);
        match &self.values {
            Values::Bytes(_) => Ok(()),
            Values::Floats(v) => v.iter().position(|&x| bad(x.into())).map_or(Ok(()), |i| at(i, v[i].into())),
            Values::Doubles(v) => v.iter().position(|&x| bad(x)).map_or(Ok(()), |i| at(i, v[i])),
            Values::Sparse(s) => s.entries.iter().position(|e| bad(e.1)).map_or(Ok(()), |i| {
                let (column, x) = s.entries[i];
                finite(&self.place, s.starts.partition_point(|&start| start <= i) - 1, column as usize, x)
            }),
        }
    }

    /// Inputs without answers, by the encoding of a model, and their number.
    pub fn asked(mut self, scales: &Scales, options: &Options) -> Result<(Inputs, usize)> {
        self.finite()?;
        let base = base(&[&self], options, scales.base)?;
        self.lay(base, scales.scales.len())?;
        fits(&self, scales.scales.len())?;
        let rows = self.len();
        Ok((self.inputs(base, Some(&scales.scales)), rows))
    }
}

impl Rows {
    /// Inputs without answers for a model that keeps no encoding, and their number.
    pub fn unchanged(mut self) -> Result<(Inputs, usize)> {
        self.finite()?;
        let width = self.image[2];
        self.lay(0, width)?;
        let rows = self.len();
        Ok((self.inputs(0, None), rows))
    }
}

/// Index of the first column of svmlight: what a model or an option says, else 0 where a 0 occurs in one of the files.
fn base(files: &[&Rows], options: &Options, known: Option<u32>) -> Result<u32> {
    let asked = match options.get("base") {
        None => None,
        Some("0") => Some(0),
        Some("1") => Some(1),
        Some(other) => return Err(content(format!("base={other}"), "expected 0 or 1")),
    };
    match (asked, known) {
        (Some(asked), Some(known)) if asked != known => {
            Err(content(format!("base={asked}"), format!("the model counts columns from {known}; leave it out")))
        }
        (Some(base), _) | (None, Some(base)) => Ok(base),
        (None, None) => {
            let lowest = files.iter().filter_map(|f| if let Values::Sparse(s) = &f.values { s.bounds() } else { None });
            Ok(lowest.map(|(low, _)| low).min().unwrap_or(1).min(1))
        }
    }
}

/// Refuses rows of another width than the columns learned from.
fn fits(rows: &Rows, width: usize) -> Result<()> {
    match rows.plain() && rows.image[2] == width {
        true => Ok(()),
        false => Err(content(
            &rows.place,
            format!("rows of {}, but the model was trained on rows of {width} numbers", super::shape(rows.image)),
        )),
    }
}

/// Classes that numbers name; none if they are numbers to predict: some are not whole, or of plain rows too many differ.
fn classes(rows: &Rows, wanted: Option<bool>) -> Vec<String> {
    if !rows.names.is_empty() {
        return rows.names.clone();
    }
    let whole = rows.answers.iter().all(|x| x.fract() == 0.0);
    let kinds: BTreeSet<String> = rows.answers.iter().map(f64::to_string).collect();
    let many = rows.plain() && numerous(kinds.len(), rows.answers.len());
    match wanted.unwrap_or(!whole || many) {
        true => Vec::new(),
        false => classes_of(kinds.into_iter()).1,
    }
}

/// Makes a data set of rows and those for testing, which are read alike.
pub(super) fn encode(mut train: Rows, mut test: Option<Rows>, options: &Options, how: As) -> Result<Parts> {
    let files: Vec<&Rows> = std::iter::once(&train).chain(&test).collect();
    let known = if let As::Known(known) = how { Some(known) } else { None };
    let sparse = files.iter().any(|f| matches!(f.values, Values::Sparse(_)));
    let base = base(&files, options, known.and_then(|k| k.base))?;
    let width = match known {
        Some(known) => known.scales.len(),
        None => {
            let of = |f: &&Rows| match &f.values {
                Values::Sparse(s) => {
                    s.bounds().map_or(0, |(_, high)| (high as usize + 1).saturating_sub(base as usize))
                }
                _ => f.image[2],
            };
            files.iter().map(of).max().unwrap_or_default()
        }
    };
    if width == 0 {
        return Err(content(&train.place, "holds no INDEX:VALUE at all"));
    }
    train.lay(base, width)?;
    test.as_mut().map_or(Ok(()), |test| test.lay(base, width))?;
    let texts = !train.names.is_empty();
    let wanted = options.answers()?;
    if wanted == Some(true) && texts {
        return Err(content(&train.place, "answers=numbers: the answers are texts"));
    }
    let (classes, scales, origin) = match how {
        As::Known(known) => {
            fits(&train, width)?;
            if wanted.is_some_and(|numbers| numbers != known.classes.is_empty()) {
                return Err(content(&train.place, "answers: the model predicts the other kind; leave it out"));
            }
            (known.classes.clone(), Some(known.scales.clone()), "what the model learned from".to_string())
        }
        As::Unchanged => (classes(&train, wanted), None, train.place.clone()),
        As::New(share) => {
            let classes = classes(&train, wanted);
            let numbers: BTreeMap<&str, u32> = classes.iter().zip(0..).map(|(c, l)| (c.as_str(), l)).collect();
            let label = |&x: &f64| numbers.get(&*train.answer(x)).copied().unwrap_or_default();
            let labels: Vec<u32> = train.answers.iter().map(label).collect();
            let share = if test.is_some() { 0.0 } else { share };
            let (kept, _) = hold_out(&labels, classes.len().max(1), share);
            let scales = train.plain().then(|| train.fit(base, &kept)).transpose()?;
            (classes, scales, train.place.clone())
        }
    };
    // Decided before, since parts take the values away.
    let noted = matches!(how, As::New(_)) && wanted.is_none() && classes.is_empty();
    let whole = noted && train.answers.iter().all(|x| x.fract() == 0.0);
    let part = |rows: Rows| rows.part(base, scales.as_deref(), &classes, &origin);
    let test = test.map(part).transpose()?;
    let mut train = part(train)?;
    if whole {
        let place = &train.place;
        train.notes.push(format!(
            "{place}: the answers are predicted as numbers, since so many differ; `?answers=classes` tells them apart instead"
        ));
    }
    let encoding = scales.map(|scales| match known {
        Some(known) => known.clone(),
        None => Scales { classes, scales, base: sparse.then_some(base) },
    });
    Ok(Parts { train, test, encoding: encoding.map(Encoding::Rows), texts })
}
