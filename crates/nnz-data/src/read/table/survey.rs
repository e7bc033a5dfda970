//! The first two readings of a table that is learned from: kinds of columns and answers, then means, deviations and what stands
//! for missing cells.

use super::super::decimal::{At, Decimal, Marks, grouped};
use super::super::encoding::{Column, ColumnKind, Columns};
use super::super::missing::{CATEGORY, Missing, Values, is_missing};
use super::super::moments::Moments;
use super::super::{MAX_CLASSES, MAX_TEXTS, classes_of, content, numerous};
use super::Table;
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// What the first reading found.
pub(super) struct Survey {
    /// The class of every row; 0 if numbers are predicted.
    pub labels: Vec<u32>,
    /// Empty for regression.
    pub classes: Vec<String>,
    /// Means and deviations follow later.
    pub kinds: Vec<ColumnKind>,
    /// The mark of decimals, if a cell has a comma for it.
    pub decimal: Option<Decimal>,
}

/// Survey of a column.
#[derive(Default)]
struct Seen {
    /// Cells with a value.
    cells: usize,
    numbers: usize,
    marks: Marks,
    /// The first cell that is not a number.
    other: Option<At>,
    /// Cells that are no numbers, but digits in groups of three.
    grouped: usize,
    texts: BTreeSet<String>,
}

impl Table<'_> {
    /// Surveys labels and kinds of columns. `numbers` says whether labels are numbers to predict; then there are no classes,
    /// and every label is 0.
    pub(super) fn survey(
        &self,
        target: usize,
        numbers: Option<bool>,
        used: &[usize],
        categories: &BTreeSet<usize>,
        missing: Option<Missing>,
    ) -> Result<Survey> {
        let mut seen: Vec<Seen> = used.iter().map(|_| Seen::default()).collect();
        let (mut answers, mut known) = (Vec::new(), BTreeMap::<String, u32>::new());
        // Whether every label so far is a number, and a whole one.
        let (mut real, mut whole) = (numbers != Some(false), true);
        let mut marks = Marks::default();
        // Labels that are no numbers, the first of them, and how many are digits in groups of three.
        let (mut texts, mut groups, mut first) = (0usize, 0usize, None);
        self.kept(|line, cells| {
            let answer = self.cell(line, &self.names[target], &cells[target])?;
            match self.number(answer) {
                Some(x) => {
                    whole &= x.fract() == 0.0;
                    marks.see(line, target, answer);
                }
                None if numbers == Some(true) => return Err(self.no_number(line, &self.names[target], answer)),
                None => {
                    (texts, groups, real) = (texts + 1, groups + usize::from(grouped(answer)), false);
                    first.get_or_insert_with(|| At { line, column: target, cell: answer.into() });
                }
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
                match self.number(cell) {
                    Some(_) => {
                        seen.numbers += 1;
                        seen.marks.see(line, i, cell);
                    }
                    None => {
                        seen.grouped += usize::from(grouped(cell));
                        seen.other.get_or_insert_with(|| At { line, column: i, cell: cell.into() });
                    }
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
        if let Some(At { line, cell, .. }) = first.filter(|_| numbers.is_none() && texts == groups) {
            let why = format!(
                "`{cell}` is no number; write it without marks between groups of three digits, or say that such answers are \
                 classes (`?answers=classes`)"
            );
            return Err(self.at(line, &self.names[target], why));
        }
        let rows = answers.len();
        let (labels, classes) = if real && (numbers == Some(true) || !whole || numerous(known.len(), rows)) {
            (vec![0; rows], Vec::new())
        } else {
            marks = Marks::default();
            let mut texts = vec![String::new(); known.len()];
            known.into_iter().for_each(|(text, l)| texts[l as usize] = text);
            let (order, classes) = classes_of(texts.into_iter());
            (answers.into_iter().map(|l| order[l as usize]).collect(), classes)
        };
        let mut kinds = Vec::with_capacity(used.len());
        for (&i, mut seen) in used.iter().zip(seen) {
            let own = std::mem::take(&mut seen.marks);
            let kind = self.kind(i, seen, categories.contains(&i), missing)?;
            if matches!(kind, ColumnKind::Number { .. }) {
                marks.add(own);
            }
            kinds.push(kind);
        }
        let decimal = marks.decide(self.decimal).map_err(|why| self.ambiguous(why))?;
        Ok(Survey { labels, classes, kinds, decimal })
    }

    /// The error of a mark that may mean two things.
    pub(super) fn ambiguous(&self, (at, why): (At, String)) -> Error {
        self.at(at.line, &self.names[at.column], why)
    }

    fn kind(&self, i: usize, seen: Seen, listed: bool, missing: Option<Missing>) -> Result<ColumnKind> {
        let name = &self.names[i];
        if seen.cells == 0 {
            let why = format!("column `{name}` has no value at all; leave it out (`?drop={name}`)");
            return Err(content(self.place, why));
        }
        match seen.other {
            None if !listed => return Ok(ColumnKind::Number { mean: 0.0, std: 1.0 }),
            Some(At { line, cell, .. }) if !listed && (seen.numbers + seen.grouped) * 10 >= seen.cells * 9 => {
                let ways = match grouped(&cell) {
                    true => "write it without marks between groups of three digits".to_string(),
                    false => match cell.contains(',') || cell.contains('.') {
                        true => "mend it, give the mark of decimals (`?decimal=comma` or `point`)".into(),
                        false => "mend it".into(),
                    },
                };
                let why = format!(
                    "`{cell}` is no number, but {} of {} cells of this column are or look so; {ways}, or read all of them \
                     as texts (`?category={name}`)",
                    seen.numbers + seen.grouped,
                    seen.cells
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
    }

    /// Computes means, deviations and what stands for missing cells over `rows`, which ascend.
    pub(super) fn fit(&self, encoding: &mut Columns, rows: &[usize]) -> Result<()> {
        let columns = self.columns(encoding)?;
        let mut moments = vec![Moments::default(); columns.len()];
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
        self.kept(|_, cells| {
            if rows.get(taken) == Some(&row) {
                taken += 1;
                for (k, &i) in columns.iter().enumerate().filter(|(_, i)| !is_missing(&cells[**i])) {
                    let numeric = matches!(encoding.columns[k].kind, ColumnKind::Number { .. });
                    let x = self.number(&cells[i]).filter(|_| numeric);
                    if collected[k] {
                        values[k].add(&cells[i], x);
                    }
                    x.into_iter().for_each(|x| moments[k].add(x));
                }
            }
            row += 1;
            Ok(())
        })?;
        for ((column, moments), values) in encoding.columns.iter_mut().zip(moments).zip(values) {
            let of_texts = matches!(column.kind, ColumnKind::Category { .. });
            if let ColumnKind::Number { mean, std } = &mut column.kind {
                [*mean, *std] = moments.scale();
            }
            let m = moments.mean;
            column.fill = encoding.missing.and_then(|p| if of_texts { values.text(p) } else { values.number(p, m) });
        }
        Ok(())
    }
}
