//! The last reading of a table: its cells become inputs, by its own encoding or by that of another.

use super::super::decimal::{Decimal, Marks};
use super::super::encoding::{Column, ColumnKind, Columns};
use super::super::missing::{Fill, Missing, Unseen, is_missing};
use super::super::moments::scaled;
use super::super::{LeftOut, Options, Part, bounded, content};
use super::Table;
use crate::Result;
use csv::StringRecord;
use nnz_engine::data::{Inputs, Split};
use std::collections::{BTreeMap, HashMap};

/// What the last reading found.
#[derive(Default)]
pub(super) struct Read {
    /// `[rows][width]`
    pub inputs: Vec<f32>,
    /// Rows that are kept.
    pub rows: usize,
    /// The others.
    pub left: Vec<LeftOut>,
    /// Missing cells that something stands for.
    filled: usize,
    /// Cells with a text that the table learned from does not have, and the first of them.
    unseen: usize,
    first: Option<(u64, String)>,
    decimal: Option<Decimal>,
    pub checksum: String,
}

impl Table<'_> {
    /// Finds the columns of an encoding in this table.
    pub(super) fn columns(&self, encoding: &Columns) -> Result<Vec<usize>> {
        // A table may have millions of columns.
        let places: HashMap<&str, usize> = self.names.iter().enumerate().rev().map(|(i, n)| (n.as_str(), i)).collect();
        let place =
            |c: &Column| places.get(c.name.as_str()).map_or_else(|| self.find(&c.name, "the model"), |&i| Ok(i));
        encoding.columns.iter().map(place).collect()
    }

    /// The encoding of a model with what the options of this reading change. Options that would read the columns in another
    /// way than the model knows are refused.
    pub(super) fn agree(&mut self, known: &Columns, options: &Options) -> Result<Columns> {
        let mut encoding = known.clone();
        let refused = |option: &str, why: String| Err(content(self.place, format!("{option}: {why}; leave it out")));
        match (Missing::of(options)?, known.missing) {
            (asked, known) if asked.is_none() || asked == known => {}
            (Some(Missing::Drop), None) => encoding.missing = Some(Missing::Drop),
            _ => return refused("missing", "the model was trained with another choice".into()),
        }
        if options.answers()?.is_some_and(|numbers| numbers != known.classes.is_empty()) {
            return refused("answers", "the model predicts the other kind".into());
        }
        for (key, other) in [("drop", true), ("category", false)] {
            for name in options.list(key) {
                let Ok(i) = self.find(name, key) else { continue };
                let column = known.columns.iter().find(|c| c.name == self.names[i]);
                if column.is_some_and(|c| other || matches!(c.kind, ColumnKind::Number { .. })) {
                    return refused(key, format!("the model reads column `{name}`, in a way of its own"));
                }
            }
        }
        encoding.unseen = Unseen::of(options)?.or(known.unseen);
        if known.decimal == Some(Decimal::Point) {
            self.decimal = self.decimal.or(known.decimal);
        }
        Ok(encoding)
    }

    /// Reads inputs and answers.
    pub(super) fn part(&self, encoding: &Columns, target: usize) -> Result<Part> {
        let known: BTreeMap<&str, u32> = encoding.classes.iter().zip(0..).map(|(c, l)| (c.as_str(), l)).collect();
        let (mut labels, mut targets) = (Vec::new(), Vec::new());
        let mut marks = Marks::default();
        let name = &self.names[target];
        let mut read = self.values(encoding, |line, cells| {
            let answer = self.cell(line, name, &cells[target])?;
            if encoding.classes.is_empty() {
                let x = self.number(answer).ok_or_else(|| self.no_number(line, name, answer))?;
                marks.see(line, target, answer);
                targets.push(x as f32);
                return Ok(());
            }
            let unknown = || self.at(line, name, format!("`{answer}` is none of the classes learned from"));
            labels.push(*known.get(answer).ok_or_else(unknown)?);
            Ok(())
        })?;
        let decimal = marks.decide(encoding.decimal).map_err(|why| self.ambiguous(why))?;
        read.decimal = read.decimal.or(decimal);
        let notes = self.notes(encoding, &read);
        let inputs = Inputs::Floats(read.inputs);
        let (rows, classes) = match encoding.classes.is_empty() {
            true => (Split::with_targets(inputs, targets, 1), vec![encoding.target.clone()]),
            false => (Split::new(inputs, labels), encoding.classes.clone()),
        };
        let (place, image) = (self.place.into(), [1, 1, encoding.width()]);
        Ok(Part { place, image, rows, classes, checksum: read.checksum, notes })
    }

    /// Reads inputs; `also` reads more of every row that is kept.
    pub(super) fn values(
        &self,
        encoding: &Columns,
        mut also: impl FnMut(u64, &StringRecord) -> Result<()>,
    ) -> Result<Read> {
        let columns = self.columns(encoding)?;
        let (mut read, width) = (Read::default(), encoding.width());
        let (mut marks, mut row) = (Marks::default(), Vec::with_capacity(width));
        let checksum = self.rows(|line, cells, lacks| {
            row.clear();
            let left = match lacks {
                Some(i) => Some((i, false)),
                None => self.row(line, cells, &columns, encoding, &mut read, &mut marks, &mut row)?.map(|i| (i, true)),
            };
            if let Some((i, unseen)) = left {
                let (row, column) = (read.rows + read.left.len(), self.names[i].clone());
                let cell = cells[i].chars().take(40).collect();
                read.left.push(LeftOut { row, line, column, cell, unseen });
                return Ok(());
            }
            also(line, cells)?;
            read.rows += 1;
            bounded(self.place, read.rows, width)?;
            read.inputs.extend(&row);
            Ok(())
        })?;
        if read.rows == 0 {
            return Err(match read.left.first() {
                None => content(self.place, "no row follows the names of the columns"),
                Some(left) => content(self.place, format!("every row is left out; the first for {left}")),
            });
        }
        read.decimal = marks.decide(encoding.decimal).map_err(|why| self.ambiguous(why))?;
        read.checksum = checksum;
        Ok(read)
    }

    /// Appends the inputs of a row; returns the column whose text leaves it out.
    #[expect(clippy::too_many_arguments)]
    fn row(
        &self,
        line: u64,
        cells: &StringRecord,
        columns: &[usize],
        encoding: &Columns,
        read: &mut Read,
        marks: &mut Marks,
        out: &mut Vec<f32>,
    ) -> Result<Option<usize>> {
        for (&i, column) in columns.iter().zip(&encoding.columns) {
            let fill = column.fill.as_ref().filter(|_| is_missing(&cells[i]));
            read.filled += usize::from(fill.is_some());
            let cell = match fill {
                Some(Fill::Text(text)) => text,
                Some(_) => "",
                None => self.cell(line, &column.name, &cells[i])?,
            };
            match &column.kind {
                ColumnKind::Number { mean, std } => {
                    let x = match fill {
                        Some(Fill::Number(x) | Fill::Flag(x)) => *x,
                        _ => {
                            marks.see(line, i, cell);
                            self.number(cell).ok_or_else(|| self.no_number(line, &column.name, cell))?
                        }
                    };
                    out.push(scaled(x, [*mean, *std]));
                    if let Some(Fill::Flag(_)) = column.fill {
                        out.push(f32::from(u8::from(fill.is_some())));
                    }
                }
                ColumnKind::Category { values: texts } => {
                    let at = match texts.binary_search_by(|t| t.as_str().cmp(cell)) {
                        Ok(at) => Some(at),
                        Err(_) => match encoding.unseen {
                            Some(Unseen::Drop) => return Ok(Some(i)),
                            Some(Unseen::Category) => {
                                read.unseen += 1;
                                read.first.get_or_insert_with(|| (line, cell.into()));
                                None
                            }
                            None | Some(Unseen::Refuse) => {
                                let why = format!(
                                    "`{cell}` does not occur in the table learned from; correct it, or say what becomes of \
                                     such cells (--unseen category or drop)"
                                );
                                return Err(self.at(line, &column.name, why));
                            }
                        },
                    };
                    match texts.len() {
                        2 => out.push(at.map_or(0.5, |at| at as f32)),
                        n => out.extend((0..n).map(|k| f32::from(u8::from(Some(k) == at)))),
                    }
                }
            }
        }
        Ok(None)
    }

    /// Sentences on cells and rows that were not read as they stand.
    pub(super) fn notes(&self, encoding: &Columns, read: &Read) -> Vec<String> {
        let mut notes = Vec::new();
        let cells = |n: usize| if n == 1 { "1 cell".into() } else { format!("{n} cells") };
        if read.decimal == Some(Decimal::Comma) {
            notes.push(format!("{}: a comma marks decimals", self.place));
        }
        if let (1.., Some(missing)) = (read.filled, encoding.missing) {
            let (n, what) = (cells(read.filled), missing.said());
            notes.push(format!("{}: for {n} without a value stands {what}", self.place));
        }
        for unseen in [false, true] {
            let mut left = read.left.iter().filter(|l| l.unseen == unseen);
            let Some(first) = left.next() else { continue };
            let (n, all) = (1 + left.count(), read.rows + read.left.len());
            let rows = if all == 1 { "row" } else { "rows" };
            notes.push(format!("{}: {n} of {all} {rows} left out, the first for {first}", self.place));
        }
        if let Some((line, cell)) = &read.first {
            let (n, place) = (cells(read.unseen), self.place);
            notes.push(format!(
                "{place}: {n} with a text that the table learned from does not have, `{cell}` in line {line} the first; it counts \
                 as none of the texts"
            ));
        }
        notes
    }
}
