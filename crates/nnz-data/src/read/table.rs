//! CSV and TSV: one row per example, one column with the labels, the others numbers or categories.
//!
//! A column whose cells are all numbers is scaled to mean 0 and deviation 1 over the training rows; any other column
//! becomes one input for each of its texts (one for two). The table is read three times, once for the kinds of its
//! columns, once for means and deviations, once for the values, so that memory holds no text of it.

use super::missing::{CATEGORY, Fill, Missing, Values, is_missing};
use super::stream::{RECORD, Stream};
use super::{MAX_CLASSES, Options, Part, Parts, bounded, classes_of, content, hold_out};
use crate::Result;
use csv::{ErrorKind, StringRecord};
use nnz_core::closest;
use nnz_engine::data::{Inputs, Split};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Most distinct whole numbers that count as classes, unless the options say otherwise.
const MAX_KINDS: usize = 100;
/// Most distinct whole numbers that count as classes with fewer than five rows each.
const FEW: usize = 20;
/// Most distinct texts of a column.
const MAX_TEXTS: usize = 256;

/// Mapping of a table to numbers; a model keeps it, so that other tables are read alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Encoding {
    /// Name of the label column; its number, from 1, in a table without names.
    pub target: String,
    /// The classes; label l is `classes[l]`. Empty for regression.
    pub classes: Vec<String>,
    /// The other columns, in order.
    pub columns: Vec<Column>,
    /// What became of cells without a value; none refuses them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<Missing>,
}

/// One column of inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Its name, or number.
    pub name: String,
    /// Kind of its cells.
    #[serde(flatten)]
    pub kind: ColumnKind,
    /// What stands for a cell without a value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill: Option<Fill>,
}

/// Kind of the cells of a column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ColumnKind {
    /// Numbers; the input is `(x - mean) / std`.
    Number {
        /// Mean over the training rows.
        mean: f64,
        /// Deviation over the training rows; 1 for a constant column.
        std: f64,
    },
    /// Texts; an input for each is 1 where it occurs and 0 elsewhere. Two texts share one input.
    Category {
        /// The texts, in order.
        values: Vec<String>,
    },
}

impl Column {
    fn width(&self) -> usize {
        let flag = usize::from(matches!(self.fill, Some(Fill::Flag(_))));
        match &self.kind {
            ColumnKind::Category { values } if values.len() != 2 => values.len(),
            _ => 1 + flag,
        }
    }

    fn inputs(&self) -> Vec<String> {
        let named = |text: &String| format!("{}={text}", self.name);
        match (&self.kind, &self.fill) {
            // The one input of two texts is 1 for the second.
            (ColumnKind::Category { values }, _) if values.len() == 2 => vec![named(&values[1])],
            (ColumnKind::Category { values }, _) => values.iter().map(named).collect(),
            (_, Some(Fill::Flag(_))) => vec![self.name.clone(), named(&CATEGORY.into())],
            _ => vec![self.name.clone()],
        }
    }
}

impl Encoding {
    /// Names of the inputs, in order: those of the columns, of a category with its text.
    pub fn inputs(&self) -> Vec<String> {
        self.columns.iter().flat_map(Column::inputs).collect()
    }

    /// Parses the form that a model's file keeps.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn from_json(value: &serde_json::Value) -> Result<Self> {
        let damaged = |e: serde_json::Error| content("the model's file", format!("`encoding` is damaged: {e}"));
        let encoding: Self = Self::deserialize(value).map_err(damaged)?;
        match encoding.columns.is_empty() || encoding.width() > MAX_TEXTS * 65536 {
            true => Err(content("the model's file", "`encoding` has no columns")),
            false => Ok(encoding),
        }
    }

    fn width(&self) -> usize {
        self.columns.iter().map(Column::width).sum()
    }
}

/// Opens the table anew for each pass.
struct Table<'a> {
    place: &'a str,
    open: &'a dyn Fn() -> Result<Stream<'a>>,
    delimiter: u8,
    quoting: bool,
    names: Vec<String>,
    /// Whether the first line holds column names.
    head: bool,
    /// Columns whose missing cells leave their row out.
    dropping: Vec<usize>,
}

pub(super) fn read(path: &Path, options: &Options, share: f64) -> Result<Parts> {
    build(Table::open(&path.display().to_string(), &|| Stream::open(path), header(options)?)?, options, share)
}

pub(super) fn parse(bytes: &[u8], place: &str, options: &Options) -> Result<Parts> {
    let open = || Stream::new(bytes).map_err(|e| content(place, e.to_string()));
    build(Table::open(place, &open, header(options)?)?, options, 0.2)
}

/// Reads a table by the encoding of another.
pub(super) fn read_as(path: &Path, encoding: &Encoding, options: &Options) -> Result<Parts> {
    let place = path.display().to_string();
    let open = || Stream::open(path);
    let table = Table::open(&place, &open, header(options)?)?;
    let target = table.find(&encoding.target, "target")?;
    let columns = table.columns(encoding)?;
    let table = table.dropping(encoding.missing, columns.into_iter().chain([target]));
    let part = table.part(encoding, target)?;
    Ok(Parts { encoding: Some(encoding.clone()), ..Parts::one(part) })
}

/// Reads the inputs only, and counts the rows.
pub(super) fn inputs(path: &Path, encoding: &Encoding) -> Result<(Inputs, usize)> {
    let place = path.display().to_string();
    let open = || Stream::open(path);
    let table = Table::open(&place, &open, None)?;
    let (values, rows, _) = table.values(encoding, |_, _| Ok(()))?;
    Ok((Inputs::Floats(values), rows))
}

fn build(table: Table, options: &Options, share: f64) -> Result<Parts> {
    let Some(target) = options.get("target") else {
        let names = listed(&table.names);
        return Err(content(table.place, format!("which column has the answers? --target COL, one of {names}")));
    };
    let target = table.find(target, "target")?;
    let find = |key: &str| options.list(key).into_iter().map(|c| table.find(c, key)).collect::<Result<BTreeSet<_>>>();
    let (dropped, categories) = (find("drop")?, find("category")?);
    let used: Vec<usize> = (0..table.names.len()).filter(|i| *i != target && !dropped.contains(i)).collect();
    if dropped.contains(&target) || used.is_empty() {
        return Err(content(table.place, "no column is left to learn from or to learn; drop fewer"));
    }
    let wanted = match options.get("answers") {
        None => None,
        Some("numbers") => Some(true),
        Some("classes") => Some(false),
        Some(other) => return Err(content(format!("answers={other}"), "expected numbers or classes")),
    };
    let missing = Missing::of(options)?;
    let table = table.dropping(missing, used.iter().copied().chain([target]));
    let (labels, classes, kinds) = table.survey(target, wanted, &used, &categories, missing)?;
    let names = &table.names;
    let column = |(&i, kind): (&usize, ColumnKind)| Column { name: names[i].clone(), kind, fill: None };
    let columns = used.iter().zip(kinds).map(column).collect();
    let mut encoding = Encoding { target: names[target].clone(), classes, columns, missing };
    bounded(table.place, labels.len(), encoding.width())?;
    let (kept, _) = hold_out(&labels, encoding.classes.len().max(1), share);
    table.fit(&mut encoding, &kept)?;
    let part = table.part(&encoding, target)?;
    Ok(Parts { encoding: Some(encoding), ..Parts::one(part) })
}

/// Whether the first line holds column names, if the options say so.
fn header(options: &Options) -> Result<Option<bool>> {
    match options.get("header") {
        None => Ok(None),
        Some("yes") => Ok(Some(true)),
        Some("no") => Ok(Some(false)),
        Some(other) => Err(content(format!("header={other}"), "expected yes or no")),
    }
}

/// Whether a table with these first two lines has names in the first: if a number follows a text, or if there is no
/// number in it at all.
fn names(first: &[String], second: Option<&Vec<String>>) -> bool {
    let digits = |cell: &String| number(cell).is_some();
    let turns = second.is_some_and(|s| first.iter().zip(s).any(|(a, b)| !digits(a) && digits(b)));
    turns || !first.iter().any(digits)
}

/// The first names of a list, and the number of the others.
fn listed(names: &[String]) -> String {
    let first: Vec<String> = names.iter().take(12).map(|n| format!("`{n}`")).collect();
    match names.len().saturating_sub(12) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

fn number(cell: &str) -> Option<f64> {
    cell.parse::<f64>().ok().filter(|x| (*x as f32).is_finite())
}

/// Survey of a column.
#[derive(Default)]
struct Seen {
    /// Cells with a value.
    cells: usize,
    numbers: usize,
    /// The first cell that is not a number, and its line.
    other: Option<(u64, String)>,
    texts: BTreeSet<String>,
}

impl<'a> Table<'a> {
    fn open(place: &'a str, open: &'a dyn Fn() -> Result<Stream<'a>>, header: Option<bool>) -> Result<Self> {
        let io = |e: std::io::Error| content(place, e.to_string());
        let mut first = Vec::new();
        BufReader::new(open()?).read_until(b'\n', &mut first).map_err(io)?;
        let count = |d: u8| first.iter().filter(|&&b| b == d).count();
        // The first of equals wins, so a table of one column is read with commas.
        let delimiter = [b',', b';', b'\t'].into_iter().rev().max_by_key(|&d| count(d)).unwrap_or(b',');
        // In TSV a quotation mark is an ordinary character.
        let mut table = Self {
            place,
            open,
            delimiter,
            quoting: delimiter != b'\t',
            names: Vec::new(),
            head: false,
            dropping: Vec::new(),
        };
        let mut top: Vec<Vec<String>> = Vec::new();
        table.each(|_, cells| {
            top.push(cells.iter().map(|c| c.trim_start_matches('\u{feff}').to_string()).collect());
            Ok(top.len() < 2)
        })?;
        let mut top = top.into_iter();
        let Some(first) = top.next() else {
            return Err(content(place, "is empty; a table has at least a line of cells"));
        };
        table.head = header.unwrap_or_else(|| names(&first, top.next().as_ref()));
        table.names = match table.head {
            true => first,
            false => (1..=first.len()).map(|i| i.to_string()).collect(),
        };
        let mut unique = HashSet::new();
        if let Some(twice) = table.names.iter().find(|n| !unique.insert(n.as_str())).filter(|_| table.head) {
            return Err(content(place, format!("line 1: two columns are named `{twice}`; rename one")));
        }
        Ok(table)
    }

    /// Calls `row` with the line and cells of every record, header too, until it returns `false`. Returns the checksum
    /// of the bytes read.
    fn each(&self, mut row: impl FnMut(u64, &StringRecord) -> Result<bool>) -> Result<String> {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(self.delimiter)
            .quoting(self.quoting)
            .trim(csv::Trim::All)
            .from_reader((self.open)()?);
        let mut record = StringRecord::new();
        let mut width = None;
        loop {
            let line = reader.position().line();
            let more = reader.read_record(&mut record).map_err(|e| {
                let at = e.position().map_or(line, |p| p.line());
                let place = format!("{}, line {at}", self.place);
                match e.kind() {
                    ErrorKind::Utf8 { .. } => content(place, "not UTF-8; save the table as UTF-8"),
                    ErrorKind::Io(e) => content(place, e.to_string()),
                    _ => content(place, e.to_string()),
                }
            })?;
            if !more {
                return Ok(reader.get_ref().checksum());
            }
            let line = record.position().map_or(line, |p| p.line());
            let width = *width.get_or_insert(record.len());
            if record.len() != width {
                let why = format!("{} cells, but the first line has {width}", record.len());
                return Err(content(format!("{}, line {line}", self.place), why));
            }
            if !row(line, &record)? {
                return Ok(reader.get_ref().checksum());
            }
            reader.get_mut().allow(RECORD);
        }
    }

    /// Leaves rows out that lack one of these cells, if that is the policy.
    fn dropping(mut self, missing: Option<Missing>, columns: impl Iterator<Item = usize>) -> Self {
        if missing == Some(Missing::Drop) {
            self.dropping = columns.collect();
        }
        self
    }

    /// As [`Self::each`], without the line of names and the rows that are left out.
    fn rows(&self, mut row: impl FnMut(u64, &StringRecord) -> Result<()>) -> Result<String> {
        let mut head = self.head;
        self.each(|line, cells| {
            let out = |i: &usize| is_missing(&cells[*i]);
            if !std::mem::take(&mut head) && !self.dropping.iter().any(out) {
                row(line, cells)?;
            }
            Ok(true)
        })
    }

    /// Finds a column by name, or by number from 1.
    fn find(&self, name: &str, what: &str) -> Result<usize> {
        let by_name = self.names.iter().position(|n| n == name);
        let by_number = || name.parse::<usize>().ok().filter(|n| (1..=self.names.len()).contains(n)).map(|n| n - 1);
        by_name.or_else(by_number).ok_or_else(|| {
            let hint = closest(name, self.names.iter().map(String::as_str));
            let names = listed(&self.names);
            content(self.place, format!("{what}: no column named `{name}`{hint}; columns are {names}"))
        })
    }

    fn at(&self, line: u64, column: &str, why: String) -> crate::Error {
        content(format!("{}, line {line}, column `{column}`", self.place), why)
    }

    fn no_number(&self, line: u64, column: &str, cell: &str) -> crate::Error {
        self.at(line, column, format!("`{cell}` is no number"))
    }

    /// A cell that must not be empty.
    fn cell<'c>(&self, line: u64, column: &str, cell: &'c str) -> Result<&'c str> {
        match is_missing(cell) {
            true => {
                let why = format!(
                    "no value (`{cell}`); say what becomes of such cells (--missing mean, median, mode, category or drop), \
                     or leave the column out (`?drop=COL`)"
                );
                Err(self.at(line, column, why))
            }
            false => Ok(cell),
        }
    }

    /// Surveys labels and kinds of columns; means and deviations follow later. `numbers` says whether labels are
    /// numbers to predict; then there are no classes, and every label is 0.
    fn survey(
        &self,
        target: usize,
        numbers: Option<bool>,
        used: &[usize],
        categories: &BTreeSet<usize>,
        missing: Option<Missing>,
    ) -> Result<(Vec<u32>, Vec<String>, Vec<ColumnKind>)> {
        let mut seen: Vec<Seen> = used.iter().map(|_| Seen::default()).collect();
        let (mut answers, mut known) = (Vec::new(), BTreeMap::<String, u32>::new());
        // Whether every label so far is a number, and a whole one.
        let (mut real, mut whole) = (numbers != Some(false), true);
        self.rows(|line, cells| {
            let answer = self.cell(line, &self.names[target], &cells[target])?;
            match number(answer) {
                Some(x) => whole &= x.fract() == 0.0,
                None if numbers == Some(true) => return Err(self.no_number(line, &self.names[target], answer)),
                None => real = false,
            }
            if known.len() > MAX_CLASSES && !real {
                let why = format!(
                    "`{answer}`: more than {MAX_CLASSES} different answers that are not all numbers; fewer classes can be \
                     told apart"
                );
                return Err(self.at(line, &self.names[target], why));
            }
            let next = known.len() as u32;
            answers.push(match known.get(answer) {
                Some(&l) => l,
                // Beyond the largest number of classes, numbers need no names.
                None if known.len() > MAX_CLASSES => 0,
                None => *known.entry(answer.to_string()).or_insert(next),
            });
            for (&i, seen) in used.iter().zip(&mut seen) {
                if missing.is_some() && is_missing(&cells[i]) {
                    continue;
                }
                let cell = self.cell(line, &self.names[i], &cells[i])?;
                seen.cells += 1;
                match number(cell) {
                    Some(_) => seen.numbers += 1,
                    None if seen.other.is_none() => seen.other = Some((line, cell.into())),
                    None => {}
                }
                if seen.texts.len() <= MAX_TEXTS && !seen.texts.contains(cell) {
                    seen.texts.insert(cell.into());
                }
            }
            Ok(())
        })?;
        if answers.is_empty() {
            return Err(match self.dropping.is_empty() {
                true => content(self.place, "no row follows the names of the columns"),
                false => content(self.place, "every row lacks a value, so --missing drop leaves none"),
            });
        }
        let rows = answers.len();
        let many = known.len() > MAX_KINDS || known.len() > FEW && known.len() * 5 > rows;
        let (labels, classes) = if real && (numbers == Some(true) || !whole || many) {
            (vec![0; rows], Vec::new())
        } else {
            let mut texts = vec![String::new(); known.len()];
            known.into_iter().for_each(|(text, l)| texts[l as usize] = text);
            let (order, classes) = classes_of(texts.into_iter());
            (answers.into_iter().map(|l| order[l as usize]).collect(), classes)
        };
        let kind = |(&i, seen): (&usize, Seen)| {
            let (name, listed) = (&self.names[i], categories.contains(&i));
            if seen.cells == 0 {
                return Err(content(
                    self.place,
                    format!("column `{name}` has no value at all; leave it out (`?drop={name}`)"),
                ));
            }
            match seen.other {
                None if !listed => return Ok(ColumnKind::Number { mean: 0.0, std: 1.0 }),
                Some((line, cell)) if !listed && seen.numbers * 10 >= seen.cells * 9 => {
                    let why = format!(
                        "`{cell}` is no number, but {} of {} cells of this column are; mend it, or read all of them as \
                         texts (`?category={name}`)",
                        seen.numbers, seen.cells
                    );
                    return Err(self.at(line, name, why));
                }
                _ => {}
            }
            if seen.texts.len() > MAX_TEXTS {
                let why =
                    format!("column `{name}` has more than {MAX_TEXTS} different texts; leave it out (`?drop={name}`)");
                return Err(content(self.place, why));
            }
            let mut texts = seen.texts;
            if missing == Some(Missing::Category) {
                texts.insert(CATEGORY.into());
            }
            Ok(ColumnKind::Category { values: texts.into_iter().collect() })
        };
        let kinds = used.iter().zip(seen).map(kind).collect::<Result<_>>()?;
        Ok((labels, classes, kinds))
    }

    /// Computes means, deviations and what stands for missing cells over `rows`, which ascend.
    fn fit(&self, encoding: &mut Encoding, rows: &[usize]) -> Result<()> {
        let columns = self.columns(encoding)?;
        // Welford's running mean and sum of squared deviations: no cancellation, whatever the offset of a column.
        let mut moments = vec![(0usize, 0.0, 0.0); columns.len()];
        let mut values: Vec<Values> = columns.iter().map(|_| Values::default()).collect();
        let collected = |column: &Column| {
            matches!(
                (encoding.missing, &column.kind),
                (Some(Missing::Median | Missing::Mode), ColumnKind::Number { .. })
                    | (Some(_), ColumnKind::Category { .. })
            )
        };
        let collected: Vec<bool> = encoding.columns.iter().map(collected).collect();
        let (mut row, mut taken) = (0, 0usize);
        self.rows(|_, cells| {
            if rows.get(taken) == Some(&row) {
                taken += 1;
                for (k, &i) in columns.iter().enumerate().filter(|(_, i)| !is_missing(&cells[**i])) {
                    let numeric = matches!(encoding.columns[k].kind, ColumnKind::Number { .. });
                    let x = number(&cells[i]).filter(|_| numeric);
                    if collected[k] {
                        values[k].add(&cells[i], x);
                    }
                    let (Some(x), (n, mean, square)) = (x, &mut moments[k]) else { continue };
                    *n += 1;
                    let off = x - *mean;
                    *mean += off / *n as f64;
                    *square += off * (x - *mean);
                }
            }
            row += 1;
            Ok(())
        })?;
        for ((column, (n, m, square)), values) in encoding.columns.iter_mut().zip(moments).zip(values) {
            let of_texts = matches!(column.kind, ColumnKind::Category { .. });
            if let ColumnKind::Number { mean, std } = &mut column.kind {
                let deviation = (square / n.max(1) as f64).sqrt();
                (*mean, *std) = (m, if deviation > 0.0 { deviation } else { 1.0 });
            }
            column.fill = encoding.missing.and_then(|p| if of_texts { values.text(p) } else { values.number(p, m) });
        }
        Ok(())
    }

    /// Finds the columns of an encoding in this table.
    fn columns(&self, encoding: &Encoding) -> Result<Vec<usize>> {
        // A table may have millions of columns.
        let places: HashMap<&str, usize> = self.names.iter().enumerate().rev().map(|(i, n)| (n.as_str(), i)).collect();
        let place =
            |c: &Column| places.get(c.name.as_str()).map_or_else(|| self.find(&c.name, "the model"), |&i| Ok(i));
        encoding.columns.iter().map(place).collect()
    }

    fn part(&self, encoding: &Encoding, target: usize) -> Result<Part> {
        let known: BTreeMap<&str, u32> = encoding.classes.iter().zip(0..).map(|(c, l)| (c.as_str(), l)).collect();
        let (mut labels, mut targets) = (Vec::new(), Vec::new());
        let (values, _, checksum) = self.values(encoding, |line, cells| {
            let answer = self.cell(line, &encoding.target, &cells[target])?;
            if encoding.classes.is_empty() {
                let no = || self.no_number(line, &encoding.target, answer);
                targets.push(number(answer).ok_or_else(no)? as f32);
                return Ok(());
            }
            let unknown = || self.at(line, &encoding.target, format!("`{answer}` is none of the classes learned from"));
            labels.push(*known.get(answer).ok_or_else(unknown)?);
            Ok(())
        })?;
        let inputs = Inputs::Floats(values);
        let (rows, classes) = match encoding.classes.is_empty() {
            true => (Split::with_targets(inputs, targets, 1), vec![encoding.target.clone()]),
            false => (Split::new(inputs, labels), encoding.classes.clone()),
        };
        Ok(Part { place: self.place.into(), image: [1, 1, encoding.width()], rows, classes, checksum })
    }

    /// The inputs, `[rows][width]`, the number of rows, and the checksum of the file.
    fn values(
        &self,
        encoding: &Encoding,
        mut also: impl FnMut(u64, &StringRecord) -> Result<()>,
    ) -> Result<(Vec<f32>, usize, String)> {
        let columns = self.columns(encoding)?;
        let (mut values, mut rows, width) = (Vec::new(), 0, encoding.width());
        let checksum = self.rows(|line, cells| {
            also(line, cells)?;
            rows += 1;
            bounded(self.place, rows, width)?;
            for (&i, column) in columns.iter().zip(&encoding.columns) {
                let fill = column.fill.as_ref().filter(|_| is_missing(&cells[i]));
                let cell = match fill {
                    Some(Fill::Text(text)) => text,
                    Some(_) => "",
                    None => self.cell(line, &column.name, &cells[i])?,
                };
                match &column.kind {
                    ColumnKind::Number { mean, std } => {
                        let no = || self.no_number(line, &column.name, cell);
                        let x = match fill {
                            Some(Fill::Number(x) | Fill::Flag(x)) => *x,
                            _ => number(cell).ok_or_else(no)?,
                        };
                        values.push(((x - mean) / std).clamp(f32::MIN.into(), f32::MAX.into()) as f32);
                        if let Some(Fill::Flag(_)) = column.fill {
                            values.push(f32::from(u8::from(fill.is_some())));
                        }
                    }
                    ColumnKind::Category { values: texts } => {
                        let no = || {
                            let text = format!("`{cell}` does not occur in the table learned from");
                            self.at(line, &column.name, text)
                        };
                        let at = texts.binary_search_by(|t| t.as_str().cmp(cell)).map_err(|_| no())?;
                        match texts.len() {
                            2 => values.push(at as f32),
                            n => values.extend((0..n).map(|k| f32::from(u8::from(k == at)))),
                        }
                    }
                }
            }
            Ok(())
        })?;
        match rows {
            0 => Err(content(self.place, "no row follows the names of the columns")),
            _ => Ok((values, rows, checksum)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Options {
        Options(pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
    }

    fn why(text: &str, pairs: &[(&str, &str)]) -> String {
        parse(text.as_bytes(), "t.csv", &options(pairs)).unwrap_err().to_string()
    }

    #[test]
    fn numbers_are_scaled_and_texts_become_inputs() {
        let text = "size,colour,flag,kind\n1,red,no,b\n2,blue,yes,a\n3,green,no,b\n4,red,no,a\n";
        let parts = parse(text.as_bytes(), "t.csv", &options(&[("target", "kind")])).unwrap();
        let (part, encoding) = (parts.train, parts.encoding.unwrap());
        assert_eq!((part.image, part.rows.labels), ([1, 1, 5], vec![1, 0, 1, 0]));
        assert_eq!(part.classes, ["a", "b"]);
        let ColumnKind::Number { mean, std } = encoding.columns[0].kind else { panic!() };
        let Inputs::Floats(v) = part.rows.inputs else { panic!() };
        // The held-out rows affect mean and deviation; the values follow them.
        assert!((v[0] - ((1.0 - mean) / std) as f32).abs() < 1e-7 && std > 0.0);
        assert_eq!(v[1..5], [0.0, 0.0, 1.0, 0.0], "red is the last of three colours, no the first of two flags");
        assert_eq!(v[6..10], [1.0, 0.0, 0.0, 1.0]);
        let again: Encoding = serde_json::from_str(&serde_json::to_string(&encoding).unwrap()).unwrap();
        assert_eq!(again, encoding);
    }

    /// Every policy on a column of numbers (1, 2, 2, 7 and a gap) and one of texts (red twice, blue, green and a gap).
    #[test]
    fn missing_cells_become_what_was_asked_for() {
        let text = "n,t,y\n1,red,0\n2,NA,1\n2,blue,0\n?,red,1\n7,green,0\n";
        let read = |how: &str| {
            let options = options(&[("target", "y"), ("missing", how)]);
            build(Table::open("t", &|| Ok(Stream::new(text.as_bytes()).unwrap()), None).unwrap(), &options, 0.0)
                .unwrap()
        };
        let texts = |v: &[&str]| v.iter().map(|t| (*t).to_string()).collect::<Vec<_>>();
        for (how, number, fill) in [
            ("mean", Fill::Number(3.0), "red"),
            ("median", Fill::Number(2.0), "red"),
            ("mode", Fill::Number(2.0), "red"),
            ("category", Fill::Flag(3.0), "(missing)"),
        ] {
            let parts = read(how);
            let encoding = parts.encoding.unwrap();
            assert_eq!(encoding.columns[0].fill.as_ref(), Some(&number), "{how}");
            assert_eq!(encoding.columns[1].fill, Some(Fill::Text(fill.into())), "{how}");
            let ColumnKind::Number { mean, std } = encoding.columns[0].kind else { panic!() };
            assert!((mean - 3.0).abs() < 1e-12 && (std - 5.5f64.sqrt()).abs() < 1e-12, "of the four that are there");
            let ColumnKind::Category { values } = &encoding.columns[1].kind else { panic!() };
            let Inputs::Floats(v) = &parts.train.rows.inputs else { panic!() };
            let width = encoding.width();
            assert_eq!(v.len(), 5 * width);
            let (Fill::Number(x) | Fill::Flag(x)) = number else { panic!() };
            assert!((f64::from(v[3 * width]) - (x - mean) / std).abs() < 1e-6, "{how}");
            if how == "category" {
                assert_eq!(*values, texts(&["(missing)", "blue", "green", "red"]));
                assert_eq!(v[3 * width..][..width][1..], [1.0, 0.0, 0.0, 0.0, 1.0], "flagged, and red");
                assert_eq!(v[width..][..width][1..], [0.0, 1.0, 0.0, 0.0, 0.0], "a text of its own");
            } else {
                assert_eq!(*values, texts(&["blue", "green", "red"]));
                assert_eq!(v[width..][..width][1..], [0.0, 0.0, 1.0], "{how}");
            }
            let again: Encoding = serde_json::from_str(&serde_json::to_string(&encoding).unwrap()).unwrap();
            assert_eq!(again, encoding);
        }
        let dropped = read("drop");
        assert_eq!(dropped.train.rows.len(), 3);
        assert!(dropped.encoding.unwrap().columns.iter().all(|c| c.fill.is_none()));
        assert!(why("n,y\nNA,1\n,0\n", &[("target", "y"), ("missing", "drop")]).contains("leaves none"));
        assert!(why("n,m,y\nNA,1,1\n,2,0\n", &[("target", "y"), ("missing", "mean")]).contains("no value at all"));
        assert!(why("n,y\n1,\n2,0\n", &[("target", "y"), ("missing", "mean")]).contains("column `y`: no value"));
        assert!(why(text, &[("target", "y"), ("missing", "zero")]).contains("mean, median, mode, category or drop"));
    }

    #[test]
    fn mean_and_deviation_are_those_of_the_rows_asked_for() {
        let text: String = (0..10).map(|i| format!("{}\t{}\n", 1_600_000_000 + i, i % 2)).collect();
        let open = || Ok(Stream::new(text.as_bytes()).unwrap());
        let table = Table::open("t", &open, None).unwrap();
        assert_eq!((table.delimiter, table.head, table.names.len()), (b'\t', false, 2));
        let column = Column { name: "1".into(), kind: ColumnKind::Number { mean: 0.0, std: 1.0 }, fill: None };
        let classes = vec!["0".into(), "1".into()];
        let mut e = Encoding { target: "2".into(), classes, columns: vec![column], missing: None };
        table.fit(&mut e, &[0, 2, 4]).unwrap();
        let ColumnKind::Number { mean, std } = e.columns[0].kind else { panic!() };
        assert!((mean - 1_600_000_002.0).abs() < 1e-6 && (std - (8.0f64 / 3.0).sqrt()).abs() < 1e-6, "{mean} {std}");
    }

    #[test]
    fn what_is_wrong_is_named_with_line_and_column() {
        let t = [("target", "y")];
        for (text, says) in [
            ("", "is empty"),
            ("a,y\n", "no row follows"),
            ("a,y\n1,0\n2\n", "line 3: 1 cells, but the first line has 2"),
            ("a,y\n1,0\n,1\n", "line 3, column `a`: no value"),
            ("a,y\n1,0\nNA,1\n", "line 3, column `a`: no value (`NA`)"),
            ("a,y\n1,\n", "line 2, column `y`: no value"),
            ("a,z\n1,0\n", "no column named `y`"),
            ("a,y,a\n1,0,2\n", "two columns are named `a`"),
            ("y\n1\n", "no column is left"),
        ] {
            assert!(why(text, &t).contains(says), "{text:?}: {}", why(text, &t));
        }
        let many: String = (0..20).map(|i| format!("{i},{}\n", i % 2)).collect();
        assert!(why(&format!("a,y\n{many}x,1\n"), &t).contains("line 22, column `a`: `x` is no number, but 20 of 21"));
        let ids: String = (0..300).map(|i| format!("k{i},{}\n", i % 2)).collect();
        assert!(why(&format!("a,y\n{ids}"), &t).contains("drop=a"));
        assert!(why("a,y\n1,0\n", &[]).contains("--target COL, one of `a`, `y`"));
        assert!(why("a,y\n1,0\n", &[("target", "x")]).contains("columns are `a`, `y`"));
        let bad = parse(b"a,y\n1,0\n\xff,1\n", "t.csv", &options(&t)).unwrap_err().to_string();
        assert!(bad.contains("line 3: not UTF-8"), "{bad}");
    }

    #[test]
    fn numbers_to_predict_are_told_from_classes() {
        let of = |answers: &[&str], more: &[(&str, &str)]| {
            let rows: String = answers.iter().enumerate().map(|(i, a)| format!("{i},{a}\n")).collect();
            let part =
                parse(format!("x,y\n{rows}").as_bytes(), "t.csv", &options(&[&[("target", "y")], more].concat()));
            part.map(|p| (p.train.rows.targets, p.train.classes))
        };
        assert_eq!(of(&["1.5", "-2", "3"], &[]).unwrap(), (vec![1.5, -2.0, 3.0], vec!["y".to_string()]));
        assert_eq!(of(&["1.0", "2", "1"], &[]).unwrap().1, ["1", "1.0", "2"]);
        assert_eq!(of(&["1", "2", "1"], &[("answers", "numbers")]).unwrap().0, [1.0, 2.0, 1.0]);
        assert_eq!(of(&["1.5", "2.5"], &[("answers", "classes")]).unwrap().1, ["1.5", "2.5"]);
        let many: Vec<String> = (0..5000).map(|i| i.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        // Five rows each.
        let often = |n: usize| [&many[..n]; 5].concat();
        assert_eq!(of(&often(100), &[]).unwrap().1.len(), 100);
        assert_eq!(of(&often(101), &[]).unwrap().0.len(), 505);
        assert_eq!(of(&often(21)[..104], &[]).unwrap().0.len(), 104);
        assert_eq!(of(&many[..20], &[]).unwrap().1.len(), 20);
        assert_eq!(of(&many, &[]).unwrap().0[4999], 4999.0);
        for (answers, more, says) in [
            (&["1.5", "many"][..], &[("answers", "numbers")][..], "line 3, column `y`: `many` is no number"),
            (&["1", "2"], &[("answers", "both")], "answers=both: expected numbers or classes"),
            (&[&many[..], &["lots"]].concat(), &[], "line 5002, column `y`: `lots`: more than 4096"),
            (&many, &[("answers", "classes")], "more than 4096"),
        ] {
            let e = of(answers, more).unwrap_err().to_string();
            assert!(e.contains(says), "{e}");
        }
    }

    #[test]
    fn a_quote_that_never_ends_stops_at_a_bound() {
        let long = std::iter::repeat_n(b"abcdefg\n", 3 << 20).flatten().copied();
        let bytes: Vec<u8> = b"a,y\n1,\"".iter().copied().chain(long).collect();
        let e = parse(&bytes, "t.csv", &options(&[("target", "y")])).unwrap_err().to_string();
        assert!(e.contains("more bytes than are read at once"), "{e}");
    }

    #[test]
    fn names_are_told_from_values() {
        let names = |text: &str, options: &[(&str, &str)]| {
            let open = || Ok(Stream::new(text.as_bytes()).unwrap());
            Table::open("t", &open, header(&self::options(options)).unwrap()).unwrap().names.join(" ")
        };
        assert_eq!(names("a,b,c\n1,2,x\n", &[]), "a b c");
        assert_eq!(names("5.1,3.5,setosa\n4.9,3.0,setosa\n", &[]), "1 2 3");
        assert_eq!(names("label,0,1\n7,0,255\n", &[]), "label 0 1");
        assert_eq!(names("class,cap\np,x\n", &[]), "class cap");
        assert_eq!(names("p,x\ne,x\n", &[("header", "no")]), "1 2");
        assert_eq!(names("land,1990\nFrance,3\n", &[("header", "yes")]), "land 1990");
        assert_eq!(names("1,2\n", &[]), "1 2");
        assert!(header(&options(&[("header", "maybe")])).is_err());
    }

    #[test]
    fn another_table_is_read_by_the_first_ones_encoding() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let first = put("a.csv", "x,c,y\n1,r,no\n2,g,yes\n3,b,no\n4,r,yes\n5,g,no\n");
        let parts = read(&first, &options(&[("target", "y")]), 0.0).unwrap();
        let encoding = parts.encoding.unwrap();
        // Columns may be in another order, and there may be others.
        let other = put("b.csv", "y,id,c,x\nyes,77,g,2\n");
        let part = read_as(&other, &encoding, &options(&[])).unwrap().train;
        let Inputs::Floats(first) = parts.train.rows.inputs else { panic!() };
        assert_eq!((part.rows.labels, part.rows.inputs), (vec![1], Inputs::Floats(first[4..8].to_vec())));
        let unknown = read_as(&put("c.csv", "x,c,y\n1,teal,no\n"), &encoding, &options(&[])).unwrap_err().to_string();
        assert!(unknown.contains("line 2, column `c`: `teal` does not occur"), "{unknown}");
        let class = read_as(&put("d.csv", "x,c,y\n1,r,perhaps\n"), &encoding, &options(&[])).unwrap_err().to_string();
        assert!(class.contains("`perhaps` is none of the classes"), "{class}");
        let lost = read_as(&put("e.csv", "x,y\n1,no\n"), &encoding, &options(&[])).unwrap_err().to_string();
        assert!(lost.contains("no column named `c`"), "{lost}");
        let (rows, n) = inputs(&put("f.csv", "x,c\n2,g\n"), &encoding).unwrap();
        assert_eq!((rows, n), (Inputs::Floats(first[4..8].to_vec()), 1));
    }
}
