//! Numbers in cells of a table, with a point or a comma before their decimals.

use super::{Options, content};
use crate::Result;
use serde::{Deserialize, Serialize};

/// The mark before decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decimal {
    /// 3.14
    Point,
    /// 3,14
    Comma,
}

impl Decimal {
    /// The mark that the options of a place name.
    pub(super) fn of(options: &Options) -> Result<Option<Self>> {
        match options.get("decimal") {
            None => Ok(None),
            Some("point") => Ok(Some(Self::Point)),
            Some("comma") => Ok(Some(Self::Comma)),
            Some(other) => Err(content(format!("decimal={other}"), "expected point or comma")),
        }
    }
}

/// Parses a number. Without a mark both are read; [`Marks`] says whether a table has one of them only.
pub(super) fn number(cell: &str, mark: Option<Decimal>) -> Option<f64> {
    let parse = |text: &str| text.parse::<f64>().ok().filter(|x| (*x as f32).is_finite());
    let comma = || {
        let (_, decimals) = cell.split_once(',')?;
        let alone = decimals.starts_with(|c: char| c.is_ascii_digit()) && !decimals.contains(',');
        parse(&cell.replacen(',', ".", 1)).filter(|_| alone && !cell.contains('.'))
    };
    match mark {
        Some(Decimal::Point) => parse(cell),
        Some(Decimal::Comma) if cell.contains('.') => None,
        _ => parse(cell).or_else(comma),
    }
}

/// Whether a cell looks like digits in groups of three, such as 1,234,567 or 1.234,5: no number that can be read as it is.
pub(super) fn grouped(cell: &str) -> bool {
    let digits = cell.strip_prefix(['-', '+']).unwrap_or(cell);
    let Some(mark) = digits.chars().find(|c| !c.is_ascii_digit()) else { return false };
    if ![',', '.', ' ', '\'', '\u{a0}', '\u{202f}'].contains(&mark) {
        return false;
    }
    let mut groups = digits.split(mark);
    let all = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let first = groups.next().is_some_and(|g| all(g) && g.len() <= 3);
    let mut groups: Vec<&str> = groups.collect();
    // Decimals behind the last group have the other mark.
    if let Some(last) = groups.last_mut()
        && let Some((group, decimals)) = last.split_once([',', '.'])
        && all(decimals)
    {
        *last = group;
    }
    first && groups.iter().all(|g| all(g) && g.len() == 3)
}

/// A cell and its place.
#[derive(Clone, Debug)]
pub(super) struct At {
    pub line: u64,
    pub column: usize,
    pub cell: String,
}

/// Marks of the cells that were read as numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    point: Option<At>,
    comma: Option<At>,
    /// Whether a mark cannot stand between groups of three digits.
    sure: [bool; 2],
}

impl Marks {
    /// Notes a cell that is a number.
    pub fn see(&mut self, line: u64, column: usize, cell: &str) {
        let comma = cell.contains(',');
        let (first, sure) = match comma {
            true => (&mut self.comma, &mut self.sure[1]),
            false => (&mut self.point, &mut self.sure[0]),
        };
        if *sure || !comma && !cell.contains('.') {
            return;
        }
        if first.is_none() {
            *first = Some(At { line, column, cell: cell.into() });
        }
        *sure = !grouped(cell) || cell.trim_start_matches(['-', '+']).starts_with('0');
    }

    /// Joins the marks of another column, or of another reading.
    pub fn add(&mut self, other: Self) {
        self.point = self.point.take().or(other.point);
        self.comma = self.comma.take().or(other.comma);
        self.sure.iter_mut().zip(other.sure).for_each(|(a, b)| *a |= b);
    }

    /// The one mark of a table; `expected` is the mark where the model learned from. The error names a cell and the obstacle.
    pub fn decide(self, expected: Option<Decimal>) -> Result<Option<Decimal>, (At, String)> {
        let doubt = |at: At, digits: String| {
            let cell = &at.cell;
            let why = format!(
                "`{cell}` may have decimals or groups of three digits: `?decimal=comma` says that a comma marks decimals, \
                 `?decimal=point` that a point does; else write {digits}"
            );
            Err((at, why))
        };
        match (self.comma, self.point) {
            (Some(at), Some(other)) => {
                let why = format!(
                    "`{}` has a decimal comma, but `{}` in line {} a decimal point; write all numbers with one of them, or read \
                     the column as texts (`?category=COL`)",
                    at.cell, other.cell, other.line
                );
                Err((at, why))
            }
            (Some(at), None) if !self.sure[1] && expected != Some(Decimal::Comma) => {
                let digits = at.cell.replace(',', "");
                doubt(at, digits)
            }
            (None, Some(at)) if !self.sure[0] && expected == Some(Decimal::Comma) => {
                let digits = at.cell.replace('.', "");
                doubt(at, digits)
            }
            (Some(_), None) => Ok(Some(Decimal::Comma)),
            (None, _) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_mark() {
        use Decimal::{Comma, Point};
        for (cell, either, point, comma) in [
            ("4.14", Some(4.14), Some(4.14), None),
            ("4,14", Some(4.14), None, Some(4.14)),
            ("-1,5e3", Some(-1500.0), None, Some(-1500.0)),
            ("42", Some(42.0), Some(42.0), Some(42.0)),
            ("1,2,3", None, None, None),
            ("1.234,5", None, None, None),
            ("1,", None, None, None),
            ("a,5", None, None, None),
            ("1,e5", None, None, None),
            ("1e99", None, None, None),
        ] {
            let got = [None, Some(Point), Some(Comma)].map(|mark| number(cell, mark));
            assert_eq!(got, [either, point, comma], "{cell}");
        }
    }

    #[test]
    fn digits_in_groups_of_three_are_known() {
        for cell in ["1,234", "1.234", "-12,345,678", "1.234,5", "1,234.56", "1 234 567", "1'234", "1\u{a0}234,5"] {
            assert!(grouped(cell), "{cell}");
        }
        for cell in ["", "1234", "3,14", "1,2345", "1234,567", "1,234,56", "a,123", "12:30", "1,234.", ",123", "1,23a"]
        {
            assert!(!grouped(cell), "{cell}");
        }
    }

    #[test]
    fn a_table_has_one_mark_that_is_no_guess() {
        let decide = |cells: &[&str], expected| {
            let mut marks = Marks::default();
            cells.iter().zip(1..).for_each(|(c, line)| marks.see(line, 0, c));
            marks.decide(expected).map_err(|(at, why)| format!("{}: {why}", at.line))
        };
        assert_eq!(decide(&["1", "2"], None), Ok(None));
        assert_eq!(decide(&["1.234", "2"], None), Ok(None));
        assert_eq!(decide(&["1,234", "3,14"], None), Ok(Some(Decimal::Comma)));
        assert_eq!(decide(&["0,234"], None), Ok(Some(Decimal::Comma)));
        assert_eq!(decide(&["1,234"], Some(Decimal::Comma)), Ok(Some(Decimal::Comma)));
        assert_eq!(decide(&["1.25"], Some(Decimal::Comma)), Ok(None), "a table of its own");
        assert!(decide(&["1", "1,234"], None).unwrap_err().starts_with("2: `1,234` may have decimals"));
        assert!(decide(&["1.234"], Some(Decimal::Comma)).unwrap_err().contains("write 1234"));
        assert!(
            decide(&["2.5", "3,14"], None)
                .unwrap_err()
                .starts_with("2: `3,14` has a decimal comma, but `2.5` in line 1")
        );
    }
}
