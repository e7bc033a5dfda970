//! Data sets: labelled rows in memory, their splits, their normalization, the order of an epoch, the IDX reader.
//!
//! Nothing here knows a data set by name; that is the job of the catalog in the crate `nnz`.

mod augment;
mod error;
mod idx;
mod loader;
mod preprocessing;
mod rows;
#[cfg(test)]
mod tests;

use std::fmt::Write;
use std::sync::Arc;

use crate::Real;
use nnz_core::{Rng, Topology};
use sha2::{Digest, Sha256};

pub use augment::Augment;
pub use error::{DataError, Result};
pub use idx::{Idx, MAX_VALUES, parse_idx, read_idx};
pub use loader::{Batch, Goal, Loader};
pub use preprocessing::{Preprocessing, Task};
pub use rows::SparseRows;

/// The values of a split, row after row.
#[derive(Clone, Debug, PartialEq)]
pub enum Inputs {
    /// Bytes of images, 0 to 255, scaled by 1/255 when a batch is filled.
    Bytes(Vec<u8>),
    /// Any finite numbers, used unchanged.
    Floats(Vec<f32>),
    /// The same in 64 bits.
    Doubles(Vec<f64>),
    /// Rows that are mostly zero. Only those of a batch are ever made dense.
    Sparse(SparseRows),
}

impl Inputs {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(v) => v.len(),
            Self::Floats(v) => v.len(),
            Self::Doubles(v) => v.len(),
            Self::Sparse(v) => v.rows().saturating_mul(v.width()),
        }
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the normalized values of `rows`, each of `features` values, into `out` (`[rows][features]`).
    ///
    /// Bytes and 32-bit numbers are normalized in f32 for every `T`, so that f32 and f64 see equal inputs; others in f64.
    ///
    /// # Errors
    /// When a row does not exist or `out` is not `rows.len() * features` long; then `out` is partly written at most.
    pub fn fill<T: Real>(&self, features: usize, rows: &[u32], norm: Normalization, out: &mut [T]) -> Result<()> {
        if rows.len().checked_mul(features) != Some(out.len()) || features == 0 {
            return Err(DataError::Length { rows: rows.len(), width: features, got: out.len() });
        }
        let channels = norm.channels.map_or(1, |c| c.len());
        let table = |c: usize| -> [T; 256] { std::array::from_fn(|b| T::of(norm.byte(b as u8, c).into())) };
        let tables: Vec<[T; 256]> = (0..channels).map(table).collect();
        for (&row, out) in rows.iter().zip(out.chunks_exact_mut(features)) {
            let missing = DataError::Row { row, rows: self.len() / features };
            let start = (row as usize).saturating_mul(features);
            let span = start..start.saturating_add(features);
            match self {
                Self::Bytes(v) => {
                    let from = v.get(span).ok_or(missing)?;
                    match &tables[..] {
                        [table] => out.iter_mut().zip(from).for_each(|(o, &b)| *o = table[b as usize]),
                        _ => {
                            let pixels = out.chunks_exact_mut(channels).zip(from.chunks_exact(channels));
                            let pairs = pixels.flat_map(|(o, b)| o.iter_mut().zip(b).zip(&tables));
                            pairs.for_each(|((o, &b), table)| *o = table[b as usize]);
                        }
                    }
                }
                Self::Floats(v) => {
                    let from = v.get(span).ok_or(missing)?;
                    out.iter_mut()
                        .zip(from)
                        .enumerate()
                        .for_each(|(i, (o, &x))| *o = T::of(norm.apply(x, i % channels).into()));
                }
                Self::Doubles(v) => {
                    let from = v.get(span).ok_or(missing)?.iter().enumerate();
                    out.iter_mut().zip(from).for_each(|(o, (i, &x))| *o = T::of(norm.apply_wide(x, i % channels)));
                }
                Self::Sparse(v) => {
                    let mut wide = vec![0.0; features];
                    v.fill(row, &mut wide).ok_or(missing)?;
                    let wide = wide.into_iter().enumerate();
                    out.iter_mut().zip(wide).for_each(|(o, (i, x))| *o = T::of(norm.apply_wide(x, i % channels)));
                }
            }
        }
        Ok(())
    }

    /// The values of some rows, each of `features`. Panics for a row that does not exist.
    pub fn pick(&self, features: usize, rows: &[usize]) -> Self {
        fn of<T: Copy>(values: &[T], width: usize, rows: &[usize]) -> Vec<T> {
            rows.iter().flat_map(|&r| &values[r * width..(r + 1) * width]).copied().collect()
        }
        match self {
            Self::Bytes(v) => Self::Bytes(of(v, features, rows)),
            Self::Floats(v) => Self::Floats(of(v, features, rows)),
            Self::Doubles(v) => Self::Doubles(of(v, features, rows)),
            Self::Sparse(v) => Self::Sparse(v.pick(rows)),
        }
    }

    /// The first value that is not finite, as its place and itself.
    fn not_finite(&self) -> Option<(usize, f64)> {
        match self {
            Self::Bytes(_) => None,
            Self::Floats(v) => v.iter().position(|x| !x.is_finite()).map(|at| (at, v[at].into())),
            Self::Doubles(v) => v.iter().position(|x| !x.is_finite()).map(|at| (at, v[at])),
            Self::Sparse(v) => v.not_finite(),
        }
    }
}

/// Rows with their labels: classes, or numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// `[rows][features]`.
    pub inputs: Inputs,
    /// The class of each row; 0 if rows have targets.
    pub labels: Vec<u32>,
    /// Numbers to predict, `[rows][targets]`; empty if rows have classes.
    pub targets: Vec<f32>,
    /// How much each row counts in losses and metrics, which divide by the sum; all the same if empty.
    pub weights: Vec<f64>,
}

impl Split {
    /// Rows with classes.
    pub fn new(inputs: Inputs, labels: Vec<u32>) -> Self {
        Self { inputs, labels, targets: Vec::new(), weights: Vec::new() }
    }

    /// Rows with `width` numbers each.
    pub fn with_targets(inputs: Inputs, targets: Vec<f32>, width: usize) -> Self {
        Self { inputs, labels: vec![0; targets.len() / width.max(1)], targets, weights: Vec::new() }
    }

    /// The same rows, which count as much as `weights` say.
    #[must_use]
    pub fn weighted(self, weights: Vec<f64>) -> Self {
        Self { weights, ..self }
    }

    /// How much a row counts.
    pub(crate) fn weight(&self, row: u32) -> f64 {
        self.weights.get(row as usize).copied().unwrap_or(1.0)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Copies the labels of `rows` into `out`.
    ///
    /// # Errors
    /// When a row does not exist or the lengths differ.
    pub fn labels_of(&self, rows: &[u32], out: &mut [u32]) -> Result<()> {
        if rows.len() != out.len() {
            return Err(DataError::Length { rows: rows.len(), width: 1, got: out.len() });
        }
        for (&row, out) in rows.iter().zip(out) {
            *out = *self.labels.get(row as usize).ok_or(DataError::Row { row, rows: self.len() })?;
        }
        Ok(())
    }
}

/// A labelled data set with its two splits. Made by [`Dataset::new`] or [`Dataset::from_idx`], which check it.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// Name for tables and messages.
    pub name: String,
    /// Channels, height, width; `[1, 1, n]` for plain vectors of n values. A row is `[height][width][channels]`.
    pub image: [usize; 3],
    /// Class names; label l is `classes[l]`. Names of the targets for regression data.
    pub classes: Vec<String>,
    /// Training split (also validated on, see [`Dataset::split_validation`]).
    pub train: Split,
    /// Test split, read once, at the end.
    pub test: Split,
    /// SHA-256 over the raw files, in hexadecimal; part of a run's identity.
    pub checksum: String,
    /// How a reader turned columns into values, for reading more rows of the kind; a model's file keeps it.
    pub encoding: Option<serde_json::Value>,
    /// Whether classes were given as texts, also where these look like numbers; files of texts do not say it.
    pub texts: bool,
    /// The graph whose nodes the rows are.
    pub graph: Option<Arc<Graph>>,
}

/// An undirected graph with a set of features at every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// `[nodes, nodes]`, every edge once, from the smaller number to the larger.
    pub edges: Topology,
    /// `[nodes, features]`: which features a node has.
    pub features: Topology,
}

impl Dataset {
    /// Makes a data set after checking that its parts are consistent.
    ///
    /// # Errors
    /// When a size is zero, lengths differ, a label has no class, or a value or target is not finite; the message says
    /// where.
    pub fn new(
        name: &str,
        image: [usize; 3],
        classes: Vec<String>,
        train: Split,
        test: Split,
        checksum: String,
    ) -> Result<Self> {
        let (encoding, texts, graph) = (None, false, None);
        let set = Self { name: name.into(), image, classes, train, test, checksum, encoding, texts, graph };
        let invalid =
            |place: &str, why: String| Err(DataError::Invalid { name: name.into(), place: place.into(), why });
        let features = image.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).unwrap_or(0);
        if features == 0 {
            return invalid("shape", format!("a row of {image:?} values cannot be; every size must be at least 1"));
        }
        let real = !(set.train.targets.is_empty() && set.test.targets.is_empty());
        if real && set.classes.is_empty() {
            return invalid("targets", "they have no names; name each column".into());
        }
        if !real && set.classes.len() < 2 {
            return invalid("classes", format!("{} class; a classifier needs at least 2", set.classes.len()));
        }
        for (split, place) in [(&set.train, "train split"), (&set.test, "test split")] {
            if split.is_empty() || split.len() > u32::MAX as usize {
                return invalid(place, format!("{} rows; it must hold 1 to {}", split.len(), u32::MAX));
            }
            if split.len().checked_mul(features) != Some(split.inputs.len()) {
                let (values, rows) = (split.inputs.len(), split.len());
                return invalid(place, format!("{values} values do not make {rows} rows of {image:?}, one a label"));
            }
            if real && split.targets.len() != split.len() * set.classes.len() {
                let (got, rows, width) = (split.targets.len(), split.len(), set.classes.len());
                return invalid(place, format!("{got} targets do not make {rows} rows of {width}"));
            }
            if let Some(at) = split.targets.iter().position(|x| !x.is_finite()) {
                let (row, name, x) = (at / set.classes.len(), &set.classes[at % set.classes.len()], split.targets[at]);
                return invalid(place, format!("row {row}, target {name} is {x}; drop the row or fill the value in"));
            }
            if let Some(row) = split.labels.iter().position(|&l| l as usize >= set.classes.len()) {
                let (label, last) = (split.labels[row], set.classes.len() - 1);
                return invalid(place, format!("row {row} has label {label}, but the labels are 0 to {last}"));
            }
            if !split.weights.is_empty() && split.weights.len() != split.len() {
                let (got, rows) = (split.weights.len(), split.len());
                return invalid(place, format!("{got} weights for {rows} rows; every row needs one, or none has any"));
            }
            if let Some(row) = split.weights.iter().position(|w| !(w.is_finite() && *w >= 0.0)) {
                let why = format!("row {row} has weight {}; a weight is at least 0", split.weights[row]);
                return invalid(place, why);
            }
            if let Some((at, x)) = split.inputs.not_finite() {
                let (row, column) = (at / features, at % features);
                return invalid(place, format!("row {row}, value {column} is {x}; drop the row or fill the value in"));
            }
        }
        Ok(set)
    }

    /// Makes a data set from the four IDX files of MNIST and its relatives: images `[rows][height][width]` (or vectors
    /// `[rows][n]`) and labels `[rows]`. Without `classes` they are named "0", "1", ... up to the largest label.
    ///
    /// # Errors
    /// When a file has the wrong number of dimensions, the splits differ in shape, or as [`Dataset::new`].
    pub fn from_idx(name: &str, classes: Option<Vec<String>>, train: [Idx; 2], test: [Idx; 2]) -> Result<Self> {
        let mut sum = Sha256::new();
        let mut image = None;
        let mut splits = Vec::new();
        for (images, labels) in [train.into(), test.into()] {
            let shape = match images.shape[..] {
                [_, n] => [1, 1, n],
                [_, height, width] => [1, height, width],
                _ => {
                    let why = "1 dimension, but images have 3 and plain vectors 2; are images and labels swapped?";
                    return Err(DataError::Invalid { name: name.into(), place: images.file, why: why.into() });
                }
            };
            if labels.shape.len() != 1 {
                let why =
                    format!("{} dimensions, but labels have 1; are images and labels swapped?", labels.shape.len());
                return Err(DataError::Invalid { name: name.into(), place: labels.file, why });
            }
            if *image.get_or_insert(shape) != shape {
                let why =
                    format!("rows of {shape:?}, but the train split has {:?}; they must be equal", image.unwrap());
                return Err(DataError::Invalid { name: name.into(), place: images.file, why });
            }
            for file in [&images, &labels] {
                sum.update(&file.sha256);
                sum.update("\n");
            }
            let labels = labels.data.into_iter().map(u32::from).collect();
            splits.push(Split::new(Inputs::Bytes(images.data), labels));
        }
        let (Some(test), Some(train)) = (splits.pop(), splits.pop()) else { unreachable!("two splits were pushed") };
        let classes = classes.unwrap_or_else(|| {
            let last = train.labels.iter().chain(&test.labels).max().copied().unwrap_or(0);
            (0..=last).map(|c| c.to_string()).collect()
        });
        Self::new(name, image.unwrap_or_default(), classes, train, test, hex(&sum.finalize()))
    }

    /// Whether rows have numbers to predict instead of classes.
    pub fn real(&self) -> bool {
        !self.train.targets.is_empty()
    }

    /// Turns classes named by numbers into targets with those numbers.
    ///
    /// # Errors
    /// When a class is not named by a number.
    pub fn numbers(mut self) -> Result<Self> {
        let number = |name: &String| name.trim().parse::<f32>().ok().filter(|x| x.is_finite());
        let values: Option<Vec<f32>> = self.classes.iter().map(number).collect();
        let Some(values) = values else {
            let bad = self.classes.iter().find(|c| number(c).is_none()).map_or("", String::as_str);
            let why = format!("`{bad}` is no number, and regression predicts numbers");
            return Err(DataError::Invalid { name: self.name, place: "classes".into(), why });
        };
        for split in [&mut self.train, &mut self.test] {
            split.targets = split.labels.iter().map(|&l| values[l as usize]).collect();
            split.labels.fill(0);
        }
        self.classes = vec!["value".into()];
        Ok(self)
    }

    /// Mean and standard deviation of the train split's `rows`, per channel for colour images.
    ///
    /// # Errors
    /// As [`Normalization::of`].
    pub fn normalization(&self, rows: &[u32]) -> Result<Normalization> {
        let mut norm = Normalization::of(&self.train, rows)?;
        if self.image[0] == 3 {
            let mut channels = [[0.0; 2]; 3];
            for (c, moments) in channels.iter_mut().enumerate() {
                *moments = Normalization::moments(&self.train, rows, c, 3)?;
            }
            norm.channels = Some(channels);
        }
        Ok(norm)
    }

    /// Values per row: the product of `image`.
    pub fn features(&self) -> usize {
        self.image.iter().product()
    }

    /// Number of rows of both splits.
    pub fn len(&self) -> usize {
        self.train.len() + self.test.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills normalized values of `rows` of one of its splits into `out` (`[rows][features]`); see [`Inputs::fill`].
    ///
    /// # Errors
    /// When a row does not exist or `out` has the wrong length.
    pub fn fill<T: Real>(&self, split: &Split, rows: &[u32], norm: Normalization, out: &mut [T]) -> Result<()> {
        split.inputs.fill(self.features(), rows, norm, out)
    }

    /// Divides the rows of the train split into (train, validation), both ascending, the same for the same seed.
    ///
    /// Stratified: `round(fraction * rows)` rows go to validation, shared among the classes in proportion to their size
    /// (largest remainders first), drawn at random inside a class. A class never loses its last row.
    /// A fraction of 0 leaves validation empty.
    ///
    /// # Errors
    /// When the fraction is outside `[0, 1)` or so small that no row would be taken.
    pub fn split_validation(&self, fraction: f64, seed: u64) -> Result<(Vec<u32>, Vec<u32>)> {
        let rows = self.train.len();
        let wrong = |why: String| Err(DataError::Fraction { fraction, rows, why });
        if !(0.0..1.0).contains(&fraction) {
            return wrong("it must be at least 0 and below 1".into());
        }
        let want = (fraction * rows as f64).round() as usize;
        if fraction > 0.0 && want == 0 {
            return wrong(format!("it rounds to no row; use 0 or at least {:.1e}", 0.5 / rows as f64));
        }
        let mut classes = vec![Vec::new(); self.classes.len()];
        for (row, &label) in self.train.labels.iter().enumerate() {
            let Some(class) = classes.get_mut(label as usize) else {
                let why = format!("row {row} has label {label} of {} classes", self.classes.len());
                return Err(DataError::Invalid { name: self.name.clone(), place: "train split".into(), why });
            };
            class.push(row as u32);
        }
        let mut shares: Vec<usize> = classes.iter().map(|c| (fraction * c.len() as f64) as usize).collect();
        let remainder = |c: usize| fraction * classes[c].len() as f64 - shares[c] as f64;
        let mut by_remainder: Vec<(usize, f64)> = (0..classes.len()).map(|c| (c, remainder(c))).collect();
        by_remainder.sort_by(|a, b| b.1.total_cmp(&a.1));
        let short = want.saturating_sub(shares.iter().sum());
        by_remainder.iter().take(short).for_each(|&(c, _)| shares[c] += 1);
        let (mut train, mut validation) = (Vec::new(), Vec::new());
        for (c, rows) in classes.iter_mut().enumerate() {
            Rng::stream(seed, "validation", c as u64, 0).shuffle(rows);
            let (held, kept) = rows.split_at(shares[c].min(rows.len().saturating_sub(1)));
            validation.extend(held);
            train.extend(kept);
        }
        train.sort_unstable();
        validation.sort_unstable();
        Ok((train, validation))
    }
}

/// Shift and scale that give the training rows mean 0 and standard deviation 1, over all values together, or per
/// channel for three channels.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Normalization {
    /// Mean, after bytes are scaled by 1/255.
    pub mean: f32,
    /// Standard deviation, on the same scale.
    pub std: f32,
    /// Mean and standard deviation of red, green and blue, which then apply instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<[[f32; 2]; 3]>,
    /// Whether values are token ids, which stay unchanged, bytes too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tokens: bool,
}

impl Normalization {
    /// Leaves values unchanged (bytes still scaled by 1/255).
    pub const NONE: Self = Self::new(0.0, 1.0);

    /// Leaves values and bytes unchanged.
    pub const TOKENS: Self = Self { tokens: true, ..Self::NONE };

    /// The same shift and scale for all values.
    pub const fn new(mean: f32, std: f32) -> Self {
        Self { mean, std, channels: None, tokens: false }
    }

    /// Refuses shifts that are not finite and scales that cannot be divided by.
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        let parts = self.channels.into_iter().flatten().chain([[self.mean, self.std]]);
        match parts.into_iter().find(|[mean, std]| !mean.is_finite() || !std.is_finite() || *std <= 0.0) {
            Some([mean, std]) => {
                Err(format!("mean {mean} and deviation {std}; expected numbers, the second above zero"))
            }
            None => Ok(()),
        }
    }

    /// Computes mean and standard deviation over `rows` of `split`. Constant data keeps a standard deviation of 1.
    ///
    /// # Errors
    /// When there are no rows or one does not exist.
    pub fn of(split: &Split, rows: &[u32]) -> Result<Self> {
        let [mean, std] = Self::moments(split, rows, 0, 1)?;
        Ok(Self::new(mean, std))
    }

    /// Computes the same over every `step`-th value of each row from `first` on.
    fn moments(split: &Split, rows: &[u32], first: usize, step: usize) -> Result<[f32; 2]> {
        let features = split.inputs.len().checked_div(split.len()).unwrap_or(0);
        let n = rows.len() as f64 * (features / step) as f64;
        if n == 0.0 {
            return Err(DataError::Length { rows: rows.len(), width: features, got: split.inputs.len() });
        }
        let span = |&row: &u32| {
            let range = row as usize * features..(row as usize + 1) * features;
            if (row as usize) < split.len() { Ok(range) } else { Err(DataError::Row { row, rows: split.len() }) }
        };
        let spans = rows.iter().map(span).collect::<Result<Vec<_>>>()?;
        let (mean, variance) = match &split.inputs {
            Inputs::Bytes(v) => {
                // Counting first makes the sums exact, whatever the order of the rows.
                let mut counts = [0u64; 256];
                let bytes = spans.into_iter().flat_map(|s| v[s].iter().skip(first).step_by(step));
                bytes.for_each(|&b| counts[b as usize] += 1);
                let moment = |f: &dyn Fn(f64) -> f64| {
                    counts.iter().enumerate().map(|(b, &c)| c as f64 * f(b as f64 / 255.0)).sum::<f64>() / n
                };
                let mean = moment(&|x| x);
                (mean, moment(&|x| (x - mean).powi(2)))
            }
            Inputs::Floats(v) => {
                let moment = |f: &dyn Fn(f64) -> f64| {
                    let values = spans.iter().cloned().flat_map(|s| v[s].iter().skip(first).step_by(step));
                    values.map(|&x| f(x.into())).sum::<f64>() / n
                };
                let mean = moment(&|x| x);
                (mean, moment(&|x| (x - mean).powi(2)))
            }
            Inputs::Doubles(v) => {
                let moment = |f: &dyn Fn(f64) -> f64| {
                    let values = spans.iter().cloned().flat_map(|s| v[s].iter().skip(first).step_by(step));
                    values.map(|&x| f(x)).sum::<f64>() / n
                };
                let mean = moment(&|x| x);
                (mean, moment(&|x| (x - mean).powi(2)))
            }
            Inputs::Sparse(v) => {
                let moment = |f: &dyn Fn(f64) -> f64| {
                    v.sum(rows, |column| column >= first && (column - first).is_multiple_of(step), f) / n
                };
                let mean = moment(&|x| x);
                (mean, moment(&|x| (x - mean).powi(2)))
            }
        };
        let std = variance.sqrt() as f32;
        Ok([mean as f32, if std > 0.0 && std.is_finite() { std } else { 1.0 }])
    }

    /// `(x - mean) / std`; tokens stay.
    pub fn apply(self, x: f32, channel: usize) -> f32 {
        let [mean, std] = self.channels.map_or([self.mean, self.std], |c| c[channel]);
        if self.tokens { x } else { (x - mean) / std }
    }

    /// The same in 64 bits.
    fn apply_wide(self, x: f64, channel: usize) -> f64 {
        let [mean, std] = self.channels.map_or([self.mean, self.std], |c| c[channel]);
        if self.tokens { x } else { (x - f64::from(mean)) / f64::from(std) }
    }

    fn byte(self, b: u8, channel: usize) -> f32 {
        self.apply(if self.tokens { f32::from(b) } else { f32::from(b) / 255.0 }, channel)
    }
}

/// Shuffled order of `n` rows in one epoch: a permutation of `0..n` from the stream ("shuffle", 0, epoch).
pub fn order(seed: u64, epoch: u64, n: u32) -> Vec<u32> {
    let mut rows: Vec<u32> = (0..n).collect();
    Rng::stream(seed, "shuffle", 0, epoch).shuffle(&mut rows);
    rows
}

/// Formats bytes (a digest) as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}
