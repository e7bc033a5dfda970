//! Loss and metric of a network.

use crate::Real;
use crate::data::{Batch, Dataset, Goal, Preprocessing, Split, Task};
use crate::leaves::Formed;
use crate::{Model, Result, Tensor, Var, ops};

/// Mean loss of a batch's outputs `[rows, outputs]`: the rows count as its weights say. `smoothing` is the weight that
/// cross-entropy spreads over all classes.
pub(crate) fn loss<T: Real>(output: &Var<T>, batch: &Batch<T>, smoothing: f64) -> Var<T> {
    match &batch.goal {
        goal if !batch.weights.is_empty() => weighted(output, goal, &batch.weights, smoothing),
        Goal::Classes(labels) if smoothing == 0.0 => ops::cross_entropy(output, labels),
        Goal::Classes(labels) => ops::cross_entropy_smooth(output, labels, smoothing),
        Goal::Shares(shares) => {
            let rows = shares.rows_cols().0;
            let total = ops::sum(&ops::mul(&ops::log_softmax(output), &Var::constant(spread(shares, smoothing))));
            ops::scale(&total, -1.0 / rows.max(1) as f64)
        }
        Goal::Values(values) => ops::mse(output, &Var::constant(values.clone())),
    }
}

/// Class probabilities after `smoothing`.
fn spread<T: Real>(shares: &Tensor<T>, smoothing: f64) -> Tensor<T> {
    let even = T::of(smoothing / shares.rows_cols().1.max(1) as f64);
    shares.map(|t| t * T::of(1.0 - smoothing) + even)
}

/// Σ w l / Σ w over the losses l of the rows; 0 if no row counts.
fn weighted<T: Real>(output: &Var<T>, goal: &Goal<T>, weights: &[f64], smoothing: f64) -> Var<T> {
    let mass: f64 = weights.iter().sum();
    let share = |w: &f64| if mass > 0.0 { T::of(w / mass) } else { T::ZERO };
    let share = Var::constant(Tensor::new(&[weights.len(), 1], weights.iter().map(share).collect()));
    let crossed = |shares: &Tensor<T>| {
        let target = Var::constant(spread(shares, smoothing));
        ops::neg(&ops::sum(&ops::mul(&ops::mul(&ops::log_softmax(output), &target), &share)))
    };
    match goal {
        Goal::Classes(labels) => {
            let labels: Vec<usize> = labels.iter().map(|&l| l as usize).collect();
            crossed(&ops::one_hot(&labels, output.value().rows_cols().1))
        }
        Goal::Shares(shares) => crossed(shares),
        Goal::Values(values) => {
            let squares = ops::square(&ops::sub(output, &Var::constant(values.clone())));
            ops::scale(&ops::sum(&ops::mul(&squares, &share)), 1.0 / values.rows_cols().1.max(1) as f64)
        }
    }
}

/// Result of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean cross-entropy, or mean squared error of standardized values. Rows count as their weights say, here and below.
    pub loss: f64,
    /// Share of rows classified correctly, or of the variance explained: 1 - Σ (y - ŷ)² / Σ (y - ȳ)², with the
    /// mean of each output over these rows. See [`Task::measure`].
    pub accuracy: f64,
    /// Predicted class of each row and its probability; empty without classes.
    pub predictions: Vec<(u32, f32)>,
    /// What the network answered, `[rows, outputs]`: the probability of every class, or numbers in the units of the targets.
    /// Empty for reconstruction, and where it would be more than 2²⁶ numbers.
    pub answers: Vec<f32>,
}

/// Most answers that an evaluation keeps.
const ANSWERS: usize = 1 << 26;

pub(crate) fn evaluate_generic<T: Real>(
    model: &Model<T>,
    data: &Dataset,
    split: &Split,
    rows: &[u32],
    frame: &Preprocessing,
) -> Result<Evaluation> {
    evaluate_formed(model, &[], data, split, rows, frame)
}

/// The same where weights are made of leaves.
pub(crate) fn evaluate_formed<T: Real>(
    model: &Model<T>,
    formed: &[Option<Formed<T>>],
    data: &Dataset,
    split: &Split,
    rows: &[u32],
    frame: &Preprocessing,
) -> Result<Evaluation> {
    let (mut predictions, mut answers) = (Vec::new(), Vec::new());
    let (mut loss, mut right, mut mass) = (0.0, 0.0, 0.0);
    // For regression: errors, and sums and sums of squares of each output.
    let (mut errors, mut sums) = (0.0, Vec::new());
    for chunk in rows.chunks(256) {
        let batch = Batch::<T>::of(data, split, chunk, frame)?;
        mass += batch.mass();
        let weights = chunk.iter().map(|&row| split.weight(row));
        let y = model.infer_formed(batch.input, formed)?;
        let outputs = y.len() / chunk.len();
        let mut y = y.reshape(&[chunk.len(), outputs]);
        let keep = frame.task != Task::Reconstruction && rows.len().saturating_mul(outputs) <= ANSWERS;
        match batch.goal {
            Goal::Classes(labels) => {
                nnz_kernels::rows::softmax(y.data_mut(), outputs);
                if keep {
                    answers.extend(y.data().iter().map(|p| p.f64() as f32));
                }
                for ((row, &label), w) in y.data().chunks_exact(outputs).zip(&labels).zip(weights) {
                    let best = (1..outputs).fold(0, |b, i| if row[i] > row[b] { i } else { b });
                    loss -= w * row[label as usize].f64().max(1e-38).ln();
                    right += if best as u32 == label { w } else { 0.0 };
                    predictions.push((best as u32, row[best].f64() as f32));
                }
            }
            Goal::Shares(values) | Goal::Values(values) => {
                sums.resize(outputs, (0.0, 0.0));
                if keep {
                    let first = answers.len();
                    answers.extend(y.data().iter().map(|y| y.f64() as f32));
                    answers[first..].chunks_exact_mut(outputs).for_each(|row| frame.in_units(row));
                }
                let pairs = y.data().chunks_exact(outputs).zip(values.data().chunks_exact(outputs));
                for ((row, want), w) in pairs.zip(weights) {
                    for ((y, want), (sum, squares)) in row.iter().zip(want).zip(&mut sums) {
                        let (y, want) = (y.f64(), want.f64());
                        errors += w * (y - want).powi(2);
                        *sum += w * want;
                        *squares += w * (want * want);
                    }
                }
            }
        }
    }
    let n = if mass > 0.0 { mass } else { 1.0 };
    if frame.task == Task::Classification {
        return Ok(Evaluation { loss: loss / n, accuracy: right / n, predictions, answers });
    }
    let total: f64 = sums.iter().map(|(sum, squares)| squares - sum * sum / n).sum();
    let accuracy = if total > 0.0 { 1.0 - errors / total } else { 0.0 };
    Ok(Evaluation { loss: errors / (n * sums.len().max(1) as f64), accuracy, predictions, answers })
}
