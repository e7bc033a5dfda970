use crate::{Error, Result, Rng, Shape, Topology, rank};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Where zeros may fall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Pattern {
    /// Anywhere.
    #[default]
    Unstructured,
    /// Anywhere, with the same number of nonzeros in every output row (constant fan-in).
    PerRow,
    /// `n` kept in every `m` consecutive inputs; the density is n / m. Those of a kernel are its input channels at one position, as
    /// sparse matrix units of processors require; of a kernel with one channel they are its positions.
    Nm {
        /// Entries kept per group.
        n: usize,
        /// Group size.
        m: usize,
        /// Whether a group is `m` consecutive entries of a row as stored, which in a kernel may lie at several positions.
        flat: bool,
    },
    /// Whole blocks of `rows` outputs by `cols` inputs.
    Block {
        /// Outputs of a block.
        rows: usize,
        /// Inputs of a block.
        cols: usize,
    },
    /// Whole output rows (neurons, filters).
    Row,
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Unstructured => f.write_str("unstructured"),
            Self::PerRow => f.write_str("per-row"),
            Self::Nm { n, m, flat } => write!(f, "{}{n}:{m}", if *flat { "flat:" } else { "" }),
            Self::Block { rows, cols } => write!(f, "block:{rows}x{cols}"),
            Self::Row => f.write_str("row"),
        }
    }
}

impl FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let why = "expected unstructured, per-row, row, N:M such as 2:4, flat:N:M, or block:RxC such as block:4x4";
        let bad = || Error::Parse { text: text.into(), what: "a pattern", why: why.into() };
        let pair = |s: &str, by: char| {
            let (a, b) = s.split_once(by)?;
            Some((a.parse().ok()?, b.parse().ok()?))
        };
        Ok(match text {
            "unstructured" => Self::Unstructured,
            "per-row" => Self::PerRow,
            "row" => Self::Row,
            _ => match text.strip_prefix("block:") {
                Some(rest) => match pair(rest, 'x').ok_or_else(bad)? {
                    (rows, cols) if rows > 0 && cols > 0 => Self::Block { rows, cols },
                    _ => return Err(bad()),
                },
                None => {
                    let (groups, flat) = text.strip_prefix("flat:").map_or((text, false), |rest| (rest, true));
                    match pair(groups, ':').ok_or_else(bad)? {
                        (n, m) if n > 0 && n <= m => Self::Nm { n, m, flat },
                        _ => return Err(bad()),
                    }
                }
            },
        })
    }
}

impl TryFrom<String> for Pattern {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(p: Pattern) -> Self {
        p.to_string()
    }
}

impl Pattern {
    /// The density that the pattern fixes, if any.
    pub fn fixed_density(self) -> Option<f64> {
        match self {
            Self::Nm { n, m, .. } => Some(n as f64 / m as f64),
            _ => None,
        }
    }

    /// Refuses a shape on which the pattern cannot exist.
    pub fn check(self, shape: &Shape) -> Result<()> {
        let refuse = |why: String| {
            let (layer, pattern) = (shape.name.clone(), self.to_string());
            Err(Error::Pattern { pattern, layer, rows: shape.rows, cols: shape.cols, why })
        };
        match self {
            Self::Nm { m, flat: true, .. } if !shape.cols.is_multiple_of(m) => {
                refuse(format!("{} entries of a row are not a multiple of {m}", shape.cols))
            }
            // One channel has no groups: its kernel is a matrix of patches.
            Self::Nm { m, flat: false, .. } if shape.channels() == 1 && shape.cols.is_multiple_of(m) => Ok(()),
            Self::Nm { m, flat: false, .. } if !shape.channels().is_multiple_of(m) => {
                let what = if shape.kernel == [1, 1] { "inputs" } else { "input channels" };
                refuse(format!("{} {what} are not a multiple of {m}", shape.channels()))
            }
            Self::Block { rows, .. } if !shape.rows.is_multiple_of(rows) => {
                refuse(format!("{} outputs are not a multiple of {rows}", shape.rows))
            }
            Self::Block { cols, .. } if !shape.cols.is_multiple_of(cols) => {
                refuse(format!("{} inputs are not a multiple of {cols}", shape.cols))
            }
            _ => Ok(()),
        }
    }

    /// Selects entries to keep: `count` of the highest scores, as near as the pattern allows. `score` has a number for
    /// each entry of `topology`; ties go to the earlier entry. Structured patterns rank a unit (row, block) by the sum
    /// of its existing scores. O(nnz).
    pub fn select(self, topology: &Topology, score: &[f32], count: usize) -> Vec<bool> {
        debug_assert_eq!(score.len(), topology.nnz());
        let mut keep = vec![false; score.len()];
        let starts = topology.starts();
        match self {
            Self::Unstructured => top(score, 0..score.len(), count, &mut keep),
            Self::PerRow => {
                let fan_in = self.units(topology.rows(), count);
                (0..topology.rows()).for_each(|r| top(score, starts[r]..starts[r + 1], fan_in, &mut keep));
            }
            Self::Nm { n, m, .. } => {
                for r in 0..topology.rows() {
                    let (mut i, end) = (starts[r], starts[r + 1]);
                    while i < end {
                        let group = topology.columns()[i] as usize / m;
                        let next = (i..end).find(|&j| topology.columns()[j] as usize / m != group).unwrap_or(end);
                        top(score, i..next, n, &mut keep);
                        i = next;
                    }
                }
            }
            Self::Block { rows, cols } => {
                let across = topology.cols() / cols;
                let unit = |r: usize, c: u32| (r / rows) * across + c as usize / cols;
                let units = topology.rows() / rows * across;
                keep_units(topology, score, units, self.units(rows * cols, count), unit, &mut keep);
            }
            Self::Row => {
                let wanted = self.units(topology.cols(), count);
                keep_units(topology, score, topology.rows(), wanted, |r, _| r, &mut keep);
            }
        }
        keep
    }

    /// Number of units of `size` entries that comes nearest to `count` entries; at least one.
    fn units(self, size: usize, count: usize) -> usize {
        ((count as f64 / size as f64).round() as usize).max(1)
    }

    /// Draws a uniformly random topology with `count` connections, as near as the pattern allows.
    /// O(nnz + rows) memory, and time except for sorting.
    pub fn random(self, shape: &Shape, count: usize, rng: &mut Rng) -> Topology {
        let (rows, cols) = (shape.rows, shape.cols);
        let wide = cols as u64;
        match self {
            Self::Unstructured => {
                Topology::from_positions(rows, cols, rng.distinct(rows as u64 * wide, count.min(shape.len())))
            }
            Self::PerRow => {
                let fan_in = self.units(rows, count).min(cols);
                let row = |r: usize| (r as u64 * wide, rng.distinct(wide, fan_in));
                let lists: Vec<_> = (0..rows).map(row).collect();
                Topology::from_positions(
                    rows,
                    cols,
                    lists.into_iter().flat_map(|(o, l)| l.into_iter().map(move |c| o + c)),
                )
            }
            Self::Nm { n, m, .. } => {
                let groups: Vec<_> = (0..shape.len() / m).map(|g| (g as u64, rng.distinct(m as u64, n))).collect();
                let positions = groups.into_iter().flat_map(|(g, l)| l.into_iter().map(move |c| g * m as u64 + c));
                Topology::from_positions(rows, cols, positions)
            }
            Self::Block { rows: h, cols: w } => {
                let across = cols / w;
                let blocks =
                    rng.distinct((rows / h * across) as u64, self.units(h * w, count).min(shape.len() / (h * w)));
                let mut positions: Vec<u64> = Vec::with_capacity(blocks.len() * h * w);
                for b in blocks {
                    let (top, left) = (b / across as u64 * h as u64, b % across as u64 * w as u64);
                    positions
                        .extend((0..h as u64).flat_map(|r| (0..w as u64).map(move |c| (top + r) * wide + left + c)));
                }
                positions.sort_unstable();
                Topology::from_positions(rows, cols, positions)
            }
            Self::Row => {
                let alive = rng.distinct(rows as u64, self.units(cols, count).min(rows));
                let positions = alive.into_iter().flat_map(|r| (0..wide).map(move |c| r * wide + c));
                Topology::from_positions(rows, cols, positions)
            }
        }
    }
}

/// Marks the `count` highest scores of `range`; ties go to the lower index. O(range).
fn top(score: &[f32], range: std::ops::Range<usize>, count: usize, keep: &mut [bool]) {
    rank::top(&score[range.clone()], count, &mut keep[range]);
}

/// Keeps the entries of the `wanted` units with the largest score sums.
fn keep_units(
    topology: &Topology,
    score: &[f32],
    units: usize,
    wanted: usize,
    unit: impl Fn(usize, u32) -> usize,
    keep: &mut [bool],
) {
    let mut sums = vec![0f64; units];
    let each = |visit: &mut dyn FnMut(usize, usize)| {
        for r in 0..topology.rows() {
            for i in topology.starts()[r]..topology.starts()[r + 1] {
                visit(i, unit(r, topology.columns()[i]));
            }
        }
    };
    each(&mut |i, u| sums[u] += f64::from(score[i]));
    let mut alive = vec![false; units];
    let sums: Vec<f32> = sums.into_iter().map(|s| s as f32).collect();
    top(&sums, 0..units, wanted, &mut alive);
    each(&mut |i, u| keep[i] = alive[u]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_nonsense_is_refused() {
        for p in ["unstructured", "per-row", "row", "2:4", "flat:2:4", "block:4x8"] {
            assert_eq!(p.parse::<Pattern>().unwrap().to_string(), p);
        }
        for p in ["", "4:2", "0:4", "block:0x2", "block:4", "rows", "2:", "flat:", "flat:4:2", "flat:row"] {
            assert!(p.parse::<Pattern>().is_err(), "{p}");
        }
    }

    #[test]
    fn select_keeps_the_best_under_each_pattern() {
        let t = Topology::full(2, 4);
        let score = [1., 9., 3., 2., 8., 7., 6., 5.];
        let kept = |p: Pattern, k| {
            p.select(&t, &score, k).iter().enumerate().filter(|(_, k)| **k).map(|(i, _)| i).collect::<Vec<_>>()
        };
        assert_eq!(kept(Pattern::Unstructured, 3), [1, 4, 5]);
        assert_eq!(kept(Pattern::PerRow, 4), [1, 2, 4, 5]);
        assert_eq!(kept(Pattern::Nm { n: 1, m: 2, flat: false }, 4), [1, 2, 4, 6]);
        assert_eq!(kept(Pattern::Block { rows: 2, cols: 2 }, 4), [0, 1, 4, 5]);
        assert_eq!(kept(Pattern::Row, 4), [4, 5, 6, 7]);
    }

    #[test]
    fn random_topologies_obey_their_pattern() {
        let shape = Shape::matrix("w", 8, 16);
        let mut rng = Rng::stream(0, "test", 0, 0);
        assert_eq!(Pattern::Unstructured.random(&shape, 30, &mut rng).nnz(), 30);
        assert_eq!(Pattern::PerRow.random(&shape, 24, &mut rng).row_degrees(), [3; 8]);
        let nm = Pattern::Nm { n: 2, m: 4, flat: false }.random(&shape, 0, &mut rng);
        for r in 0..8 {
            for g in 0..4 {
                assert_eq!(nm.row(r).iter().filter(|&&c| c as usize / 4 == g).count(), 2);
            }
        }
        let block = Pattern::Block { rows: 4, cols: 4 }.random(&shape, 48, &mut rng);
        assert_eq!(block.nnz(), 48);
        assert!((0..8).all(|r| block.row(r) == block.row(r / 4 * 4)));
        let row = Pattern::Row.random(&shape, 32, &mut rng);
        assert_eq!(row.row_degrees().iter().filter(|&&d| d == 16).count(), 2);
    }

    #[test]
    fn impossible_shapes_are_refused() {
        let [groups, flat] = [false, true].map(|flat| Pattern::Nm { n: 2, m: 4, flat });
        let e = groups.check(&Shape::matrix("fc", 3, 10)).unwrap_err().to_string();
        assert!(e.contains("2:4") && e.contains("fc") && e.contains("10"), "{e}");
        // Of a kernel, groups lie along its input channels: here two of them at four positions each.
        let kernel = Shape { kernel: [2, 2], ..Shape::matrix("conv", 3, 8) };
        let e = groups.check(&kernel).unwrap_err().to_string();
        assert!(e.contains("2 input channels"), "{e}");
        assert!(groups.check(&Shape { kernel: [2, 4], ..kernel.clone() }).is_ok(), "one channel at eight positions");
        assert!(flat.check(&kernel).is_ok() && groups.check(&Shape { cols: 16, ..kernel }).is_ok());
        assert!(Pattern::Block { rows: 2, cols: 2 }.check(&Shape::matrix("fc", 3, 10)).is_err());
    }
}
