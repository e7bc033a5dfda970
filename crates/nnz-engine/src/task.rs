//! What a network is trained for: its loss, its measure, and how rows become inputs and goals.

use crate::Real;
use crate::data::{Batch, Dataset, Goal, Normalization, Split};
use crate::{Error, Model, Result, Tensor, Var, ops};
use serde::{Deserialize, Serialize};

/// What a network is trained for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Naming classes: cross-entropy, measured by accuracy.
    #[default]
    Classification,
    /// Predicting numbers: the mean of squared errors of standardized targets, measured by the share of their variance
    /// that is explained.
    Regression,
    /// Giving the input back: the mean of squared errors of normalized inputs, measured by the share of their variance
    /// that is explained.
    Reconstruction,
}

impl Task {
    /// The default, for serde.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What its measure is called. Every measure is at most 1, and more is better.
    pub fn measure(self) -> &'static str {
        match self {
            Self::Classification => "accuracy",
            Self::Regression | Self::Reconstruction => "variance explained",
        }
    }

    /// Outputs of a network for it, given the number of classes or targets and the picture.
    pub fn outputs(self, classes: usize, image: [usize; 3]) -> usize {
        match self {
            Self::Classification | Self::Regression => classes,
            Self::Reconstruction => image.iter().fold(1, |n: usize, &s| n.saturating_mul(s)),
        }
    }
}

/// Mean loss of outputs `[rows, outputs]`. `smoothing` is the weight that cross-entropy gives to all classes alike.
pub(crate) fn loss<T: Real>(output: &Var<T>, goal: &Goal<T>, smoothing: f64) -> Var<T> {
    match goal {
        Goal::Classes(labels) if smoothing == 0.0 => ops::cross_entropy(output, labels),
        Goal::Classes(labels) => ops::cross_entropy_smooth(output, labels, smoothing),
        Goal::Shares(shares) => {
            let (rows, classes) = shares.rows_cols();
            let even = T::of(smoothing / classes.max(1) as f64);
            let target = Var::constant(shares.map(|t| t * T::of(1.0 - smoothing) + even));
            let total = ops::sum(&ops::mul(&ops::log_softmax(output), &target));
            ops::scale(&total, -1.0 / rows.max(1) as f64)
        }
        Goal::Values(values) => ops::mse(output, &Var::constant(values.clone())),
    }
}

/// How rows become inputs and goals: what a model's file must say so that others can use it.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// What the network is for.
    pub task: Task,
    /// How inputs are normalized.
    pub normalization: Normalization,
    /// Mean and standard deviation of each target; empty without targets.
    pub scales: Vec<[f32; 2]>,
}

impl Frame {
    /// Of classes.
    pub fn classes(normalization: Normalization) -> Self {
        Self { task: Task::Classification, normalization, scales: Vec::new() }
    }

    /// As the train split's `rows` ask for; a network of `tokens` gets them as they are.
    pub(crate) fn of(data: &Dataset, rows: &[u32], task: Task, tokens: bool) -> Result<Self> {
        if task == Task::Regression && !data.real() {
            return Err(Error::Refused(format!("{} has classes, not numbers to predict", data.name)));
        }
        if task == Task::Classification && data.real() {
            return Err(Error::Refused(format!(
                "{} has numbers to predict, not classes: use task regression",
                data.name
            )));
        }
        let normalization = if tokens { Normalization::TOKENS } else { data.normalization(rows)? };
        let width = data.classes.len();
        let scale = |k: usize| {
            let values = rows.iter().map(|&r| f64::from(data.train.targets[r as usize * width + k]));
            let mean = values.clone().sum::<f64>() / rows.len().max(1) as f64;
            let variance = values.map(|v| (v - mean).powi(2)).sum::<f64>() / rows.len().max(1) as f64;
            let std = variance.sqrt() as f32;
            [mean as f32, if std > 0.0 && std.is_finite() { std } else { 1.0 }]
        };
        let scales = if task == Task::Regression { (0..width).map(scale).collect() } else { Vec::new() };
        Ok(Self { task, normalization, scales })
    }

    /// Standardized targets of rows, `[rows, targets]`.
    pub(crate) fn targets<T: Real>(&self, split: &Split, rows: &[u32]) -> Tensor<T> {
        let width = self.scales.len();
        let row = |&r: &u32| split.targets[r as usize * width..][..width].iter().zip(&self.scales);
        let values = rows.iter().flat_map(row).map(|(v, [mean, std])| T::of(f64::from((v - mean) / std)));
        Tensor::new(&[rows.len(), width], values.collect())
    }
}

/// What an evaluation saw.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean cross-entropy, or mean of squared errors of what was standardized.
    pub loss: f64,
    /// Share of rows whose class was named, or of the variance that was explained: 1 - Σ (y - ŷ)² / Σ (y - ȳ)², with the
    /// mean of each output over these rows. See [`Task::measure`].
    pub accuracy: f64,
    /// Class named for each row, and the probability it was given; empty without classes.
    pub predictions: Vec<(u32, f32)>,
}

/// Measures a model on rows of a split of `data`.
pub fn evaluate<T: Real>(
    model: &Model<T>,
    data: &Dataset,
    split: &Split,
    rows: &[u32],
    frame: &Frame,
) -> Result<Evaluation> {
    T::evaluate(model, data, split, rows, frame)
}

pub(crate) fn evaluate_generic<T: Real>(
    model: &Model<T>,
    data: &Dataset,
    split: &Split,
    rows: &[u32],
    frame: &Frame,
) -> Result<Evaluation> {
    let mut predictions = Vec::new();
    let (mut loss, mut right) = (0.0, 0usize);
    // For numbers: errors, and sums and sums of squares of each output.
    let (mut errors, mut sums) = (0.0, Vec::new());
    for chunk in rows.chunks(256) {
        let batch = Batch::<T>::of(data, split, chunk, frame)?;
        let y = model.infer(batch.input)?;
        let outputs = y.len() / chunk.len();
        let mut y = y.reshape(&[chunk.len(), outputs]);
        match batch.goal {
            Goal::Classes(labels) => {
                nnz_kernels::rows::softmax(y.data_mut(), outputs);
                for (row, &label) in y.data().chunks_exact(outputs).zip(&labels) {
                    let best = (1..outputs).fold(0, |b, i| if row[i] > row[b] { i } else { b });
                    loss -= row[label as usize].f64().max(1e-38).ln();
                    right += usize::from(best as u32 == label);
                    predictions.push((best as u32, row[best].f64() as f32));
                }
            }
            Goal::Shares(values) | Goal::Values(values) => {
                sums.resize(outputs, (0.0, 0.0));
                for (row, want) in y.data().chunks_exact(outputs).zip(values.data().chunks_exact(outputs)) {
                    for ((y, want), (sum, squares)) in row.iter().zip(want).zip(&mut sums) {
                        let (y, want) = (y.f64(), want.f64());
                        errors += (y - want).powi(2);
                        *sum += want;
                        *squares += want * want;
                    }
                }
            }
        }
    }
    let n = rows.len().max(1) as f64;
    if frame.task == Task::Classification {
        return Ok(Evaluation { loss: loss / n, accuracy: right as f64 / n, predictions });
    }
    let total: f64 = sums.iter().map(|(sum, squares)| squares - sum * sum / n).sum();
    let accuracy = if total > 0.0 { 1.0 - errors / total } else { 0.0 };
    Ok(Evaluation { loss: errors / (n * sums.len().max(1) as f64), accuracy, predictions })
}
