//! How a file became numbers. A model keeps it, so that other files are read alike.

use super::decimal::Decimal;
use super::missing::{CATEGORY, Fill, Missing, Unseen};
use super::{MAX_TEXTS, content};
use crate::Result;
use serde::{Deserialize, Serialize};

/// Mapping of the rows of a file to inputs and answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Encoding {
    /// Of a table, column by column.
    Table(Columns),
    /// Of rows of numbers without names.
    Rows(Scales),
}

/// Mapping of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Columns {
    /// Name of the label column; its number, from 1, in a table without names.
    pub target: String,
    /// The classes; label l is `classes[l]`. Empty for regression.
    pub classes: Vec<String>,
    /// The other columns, in order.
    pub columns: Vec<Column>,
    /// What became of cells without a value; none refuses them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<Missing>,
    /// What becomes of texts that the table learned from does not have; none refuses them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unseen: Option<Unseen>,
    /// How decimals are marked; none if no cell says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decimal: Option<Decimal>,
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

/// Mapping of rows of numbers, from arrays or svmlight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scales {
    /// The classes, which are named by numbers; label l is `classes[l]`. Empty for regression.
    pub classes: Vec<String>,
    /// `[mean, std]` of every column; the input is `(x - mean) / std`.
    pub scales: Vec<[f64; 2]>,
    /// Index of the first column in svmlight, 0 or 1; none if no file of that format was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<u32>,
}

impl Column {
    pub(super) fn width(&self) -> usize {
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

impl Columns {
    pub(super) fn width(&self) -> usize {
        self.columns.iter().map(Column::width).sum()
    }
}

impl Encoding {
    /// Names of the inputs of a table, in order: those of the columns, of a category with its text. Empty for rows of numbers.
    pub fn inputs(&self) -> Vec<String> {
        match self {
            Self::Table(table) => table.columns.iter().flat_map(Column::inputs).collect(),
            Self::Rows(_) => Vec::new(),
        }
    }

    /// Name of the column of a table that has the answers.
    pub fn target(&self) -> Option<&str> {
        match self {
            Self::Table(table) => Some(&table.target),
            Self::Rows(_) => None,
        }
    }

    /// Parses the form that a model's file keeps.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn from_json(value: &serde_json::Value) -> Result<Self> {
        let wrong = |why: &str| Err(content("the model's file", format!("`encoding` {why}")));
        let damaged = |e: serde_json::Error| content("the model's file", format!("`encoding` is damaged: {e}"));
        if value.get("scales").is_none() {
            let columns = Columns::deserialize(value).map_err(damaged)?;
            return match columns.columns.is_empty() || columns.width() > MAX_TEXTS * 65536 {
                true => wrong("has no columns"),
                false => Ok(Self::Table(columns)),
            };
        }
        let rows = Scales::deserialize(value).map_err(damaged)?;
        let sound = |[mean, std]: &[f64; 2]| mean.is_finite() && std.is_finite() && *std > 0.0;
        match rows.scales.is_empty() || !rows.scales.iter().all(sound) || rows.base.is_some_and(|b| b > 1) {
            true => wrong("has no columns, or columns that cannot be scaled"),
            false => Ok(Self::Rows(rows)),
        }
    }
}
