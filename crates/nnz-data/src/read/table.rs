//! CSV and TSV: one row per example, one column with the labels, the others numbers or categories.
//!
//! A column whose cells are all numbers is scaled to mean 0 and deviation 1 over the training rows; any other column
//! becomes one input for each of its texts (one for two). The table is read three times, once for the kinds of its
//! columns, once for means and deviations, once for the values, so that memory holds no text of it.

mod survey;
#[cfg(test)]
mod tests;
mod values;

use super::decimal::{Decimal, number};
use super::encoding::{Column, ColumnKind, Columns, Encoding};
use super::missing::{Missing, Unseen, is_missing};
use super::stream::{RECORD, Stream};
use super::{Asked, Found, Options, Parts, bounded, content, hold_out};
use crate::Result;
use csv::{ErrorKind, StringRecord};
use nnz_core::closest;
use nnz_engine::data::Inputs;
use std::collections::{BTreeSet, HashSet};
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Opens the table anew for each pass.
struct Table<'a> {
    place: &'a str,
    open: &'a dyn Fn() -> Result<Stream<'a>>,
    delimiter: u8,
    quoting: bool,
    names: Vec<String>,
    /// Whether the first line holds column names.
    head: bool,
    /// The mark of decimals, where it is known.
    decimal: Option<Decimal>,
    /// Columns whose missing cells leave their row out.
    dropping: Vec<usize>,
    /// Whether a model says what the columns are.
    asked: bool,
}

pub(super) fn read(path: &Path, options: &Options, share: f64) -> Result<Found> {
    let place = path.display().to_string();
    build(Table::open(&place, &|| Stream::open(path), options)?, options, share).map(Found::Parts)
}

pub(super) fn parse(bytes: &[u8], place: &str, options: &Options) -> Result<Parts> {
    let open = || Stream::new(bytes).map_err(|e| content(place, e.to_string()));
    build(Table::open(place, &open, options)?, options, 0.2)
}

/// Reads a table by the encoding of another.
pub(super) fn read_as(path: &Path, encoding: &Columns, options: &Options) -> Result<Parts> {
    let place = path.display().to_string();
    let open = || Stream::open(path);
    let mut table = Table { asked: true, ..Table::open(&place, &open, options)? };
    let target = table.find(options.get("target").unwrap_or(&encoding.target), "target")?;
    let encoding = table.agree(encoding, options)?;
    let columns = table.columns(&encoding)?;
    let table = table.dropping(encoding.missing, columns.into_iter().chain([target]));
    let part = table.part(&encoding, target)?;
    Ok(Parts { encoding: Some(Encoding::Table(encoding)), ..Parts::one(part) })
}

/// Reads the inputs only, and the answers beside them if the options name their column.
pub(super) fn ask(path: &Path, encoding: &Columns, options: &Options) -> Result<Asked> {
    let place = path.display().to_string();
    let open = || Stream::open(path);
    let mut table = Table { asked: true, ..Table::open(&place, &open, options)? };
    let target = options.get("target").map(|name| table.find(name, "target")).transpose()?;
    let encoding = table.agree(encoding, options)?;
    let columns = table.columns(&encoding)?;
    let table = table.dropping(encoding.missing, columns.into_iter());
    let mut answers = Vec::new();
    let read = table.values(&encoding, |_, cells| {
        answers.extend(target.map(|i| cells[i].to_string()));
        Ok(())
    })?;
    let notes = table.notes(&encoding, &read);
    let answers = target.is_some().then_some(answers);
    Ok(Asked { inputs: Inputs::Floats(read.inputs), rows: read.rows, left: read.left, answers, notes })
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
    let wanted = options.answers()?;
    let (missing, unseen) = (Missing::of(options)?, Unseen::of(options)?);
    let mut table = table.dropping(missing, used.iter().copied().chain([target]));
    let found = table.survey(target, wanted, &used, &categories, missing)?;
    // From here on, what looks like another mark is no number.
    table.decimal = table.decimal.or(found.decimal);
    let names = &table.names;
    let column = |(&i, kind): (&usize, ColumnKind)| Column { name: names[i].clone(), kind, fill: None };
    let columns = used.iter().zip(found.kinds).map(column).collect();
    let (target_name, classes, decimal) = (names[target].clone(), found.classes, table.decimal);
    let mut encoding = Columns { target: target_name, classes, columns, missing, unseen, decimal };
    bounded(table.place, found.labels.len(), encoding.width())?;
    let (kept, _) = hold_out(&found.labels, encoding.classes.len().max(1), share);
    table.fit(&mut encoding, &kept)?;
    let part = table.part(&encoding, target)?;
    Ok(Parts { encoding: Some(Encoding::Table(encoding)), ..Parts::one(part) })
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
    let digits = |cell: &String| number(cell, None).is_some();
    let turns = second.is_some_and(|s| first.iter().zip(s).any(|(a, b)| !digits(a) && digits(b)));
    turns || !first.iter().any(digits)
}

/// The separator of a table with this first line: the most frequent one, the first of equals, so a table of one column is read
/// with commas. Where a semicolon or a tab leaves only commas inside numbers, these mark decimals.
fn separator(line: &[u8]) -> u8 {
    let count = |d: u8| line.iter().filter(|&&b| b == d).count();
    let text = String::from_utf8_lossy(line);
    let parts = |d: u8| {
        let whole = |cell: &str| !cell.contains(',') || number(cell.trim().trim_matches('"'), None).is_some();
        count(d) > 0 && text.split(d as char).all(whole)
    };
    let by_count = || [b',', b';', b'\t'].into_iter().rev().max_by_key(|&d| count(d)).unwrap_or(b',');
    [b';', b'\t'].into_iter().find(|&d| count(b',') > 0 && parts(d)).unwrap_or_else(by_count)
}

/// The first names of a list, and the number of the others.
fn listed(names: &[String]) -> String {
    let first: Vec<String> = names.iter().take(12).map(|n| format!("`{n}`")).collect();
    match names.len().saturating_sub(12) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

impl<'a> Table<'a> {
    fn open(place: &'a str, open: &'a dyn Fn() -> Result<Stream<'a>>, options: &Options) -> Result<Self> {
        let io = |e: std::io::Error| content(place, e.to_string());
        let header = header(options)?;
        let mut first = Vec::new();
        BufReader::new(open()?).read_until(b'\n', &mut first).map_err(io)?;
        let delimiter = separator(&first);
        // In TSV a quotation mark is an ordinary character.
        let mut table = Self {
            place,
            open,
            delimiter,
            quoting: delimiter != b'\t',
            names: Vec::new(),
            head: false,
            decimal: Decimal::of(options)?,
            dropping: Vec::new(),
            asked: false,
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
            let why = format!(
                "line 1: two columns are named `{twice}`; rename one, or say that the first line is a row of the table \
                 (`?header=no`; its columns are then named 1, 2, ...)"
            );
            return Err(content(place, why));
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

    /// As [`Self::each`], without the line of names, and with the column whose missing cell leaves the row out.
    fn rows(&self, mut row: impl FnMut(u64, &StringRecord, Option<usize>) -> Result<()>) -> Result<String> {
        let mut head = self.head;
        self.each(|line, cells| {
            if !std::mem::take(&mut head) {
                row(line, cells, self.dropping.iter().copied().find(|&i| is_missing(&cells[i])))?;
            }
            Ok(true)
        })
    }

    /// As [`Self::rows`], without the rows that are left out.
    fn kept(&self, mut row: impl FnMut(u64, &StringRecord) -> Result<()>) -> Result<String> {
        self.rows(|line, cells, lacks| if lacks.is_none() { row(line, cells) } else { Ok(()) })
    }

    /// Finds a column by name, or by number from 1.
    fn find(&self, name: &str, what: &str) -> Result<usize> {
        let by_name = self.names.iter().position(|n| n == name);
        let by_number = || name.parse::<usize>().ok().filter(|n| (1..=self.names.len()).contains(n)).map(|n| n - 1);
        by_name.or_else(by_number).ok_or_else(|| {
            let hint = closest(name, self.names.iter().map(String::as_str));
            let names = listed(&self.names);
            // The model's name for the answers may not be this table's.
            let way = match self.asked && what == "target" {
                true => "; --target COL names the one with the answers",
                false => "",
            };
            content(self.place, format!("{what}: no column named `{name}`{hint}; columns are {names}{way}"))
        })
    }

    fn at(&self, line: u64, column: &str, why: String) -> crate::Error {
        content(format!("{}, line {line}, column `{column}`", self.place), why)
    }

    fn number(&self, cell: &str) -> Option<f64> {
        number(cell, self.decimal)
    }

    fn no_number(&self, line: u64, column: &str, cell: &str) -> crate::Error {
        self.at(line, column, format!("`{cell}` is no number"))
    }

    /// A cell that must not be empty.
    fn cell<'c>(&self, line: u64, column: &str, cell: &'c str) -> Result<&'c str> {
        match is_missing(cell) {
            true => {
                let ways = match self.asked {
                    true => {
                        "the model was trained without such cells; fill it in, or leave its row out (--missing drop)"
                    }
                    false => {
                        "say what becomes of such cells (--missing mean, median, mode, category or drop), or leave the column \
                         out (`?drop=COL`)"
                    }
                };
                Err(self.at(line, column, format!("no value (`{cell}`); {ways}")))
            }
            false => Ok(cell),
        }
    }
}
