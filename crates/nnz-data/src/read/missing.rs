//! Cells of a table without a value, and texts that the table learned from does not have.

use super::{Options, content};
use crate::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Cells that count as missing, in small letters.
const MISSING: [&str; 9] = ["", "?", "-", "na", "n/a", "nan", "null", "none", "nil"];

/// Text of a missing cell that is a category of its own.
pub(super) const CATEGORY: &str = "(missing)";

/// Whether a cell has no value.
pub(super) fn is_missing(cell: &str) -> bool {
    cell.len() <= 4 && MISSING.contains(&&*cell.to_ascii_lowercase())
}

/// What becomes of cells without a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Missing {
    /// The mean of the column over the training rows; of texts the most frequent one.
    Mean,
    /// The median; of texts the most frequent one.
    Median,
    /// The most frequent value, the smallest of equals.
    Mode,
    /// A category of its own: of texts another text, of numbers the mean and one more input that is 1.
    Category,
    /// Its row is left out.
    Drop,
}

impl Missing {
    /// The policy that the options of a place name.
    pub(super) fn of(options: &Options) -> Result<Option<Self>> {
        Ok(Some(match options.get("missing") {
            None => return Ok(None),
            Some("mean") => Self::Mean,
            Some("median") => Self::Median,
            Some("mode") => Self::Mode,
            Some("category") => Self::Category,
            Some("drop") => Self::Drop,
            Some(other) => {
                let why = "expected mean, median, mode, category or drop";
                return Err(content(format!("missing={other}"), why));
            }
        }))
    }

    /// What stands for a missing cell, in words.
    pub(super) fn said(self) -> &'static str {
        match self {
            Self::Mean => "the mean of the column, of texts the most frequent one",
            Self::Median => "the median of the column, of texts the most frequent one",
            Self::Mode => "the most frequent value of the column",
            Self::Category => "a category of its own",
            Self::Drop => "nothing",
        }
    }
}

/// What becomes of a text that the table learned from does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unseen {
    /// It is refused.
    Refuse,
    /// It is none of the texts: their inputs are zero, and the input that two texts share is half-way between them.
    Category,
    /// Its row is left out.
    Drop,
}

impl Unseen {
    /// The policy that the options of a place name.
    pub(super) fn of(options: &Options) -> Result<Option<Self>> {
        Ok(Some(match options.get("unseen") {
            None => return Ok(None),
            Some("refuse") => Self::Refuse,
            Some("category") => Self::Category,
            Some("drop") => Self::Drop,
            Some(other) => return Err(content(format!("unseen={other}"), "expected category, drop or refuse")),
        }))
    }
}

/// What stands for a missing cell of a column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fill {
    /// A number, in the units of the column.
    Number(f64),
    /// A number, and one more input that is 1 where it stands for a missing one.
    Flag(f64),
    /// One of the texts of the column.
    Text(String),
}

/// The values of a column over the training rows.
#[derive(Default)]
pub(super) struct Values {
    numbers: Vec<f64>,
    texts: BTreeMap<String, usize>,
}

impl Values {
    pub fn add(&mut self, cell: &str, number: Option<f64>) {
        match number {
            Some(x) => self.numbers.push(x),
            None => *self.texts.entry(cell.into()).or_default() += 1,
        }
    }

    /// What stands for a missing number.
    pub fn number(mut self, policy: Missing, mean: f64) -> Option<Fill> {
        self.numbers.sort_unstable_by(f64::total_cmp);
        let n = self.numbers.len();
        let most = || {
            let runs = self.numbers.chunk_by(|a, b| a == b);
            runs.rev().max_by_key(|run| run.len()).map_or(mean, |run| run[0])
        };
        match policy {
            Missing::Mean => Some(Fill::Number(mean)),
            Missing::Category => Some(Fill::Flag(mean)),
            Missing::Mode => Some(Fill::Number(most())),
            Missing::Median if n == 0 => Some(Fill::Number(mean)),
            Missing::Median => Some(Fill::Number((self.numbers[(n - 1) / 2] + self.numbers[n / 2]) / 2.0)),
            Missing::Drop => None,
        }
    }

    /// What stands for a missing text; none if there was no text at all.
    pub fn text(self, policy: Missing) -> Option<Fill> {
        match policy {
            Missing::Category => Some(Fill::Text(CATEGORY.into())),
            Missing::Drop => None,
            _ => self.texts.into_iter().rev().max_by_key(|(_, n)| *n).map(|(text, _)| Fill::Text(text)),
        }
    }
}
