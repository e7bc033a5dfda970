//! Loss and metric of a network.

use crate::Real;
use crate::data::{Batch, Dataset, Goal, Preprocessing, Split, Task};
use crate::leaves::Formed;
use crate::{Model, Result, Var, ops};

/// Mean loss of outputs `[rows, outputs]`. `smoothing` is the weight that cross-entropy spreads over all classes.
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

/// Result of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean cross-entropy, or mean squared error of standardized values.
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
    let (mut loss, mut right) = (0.0, 0usize);
    // For regression: errors, and sums and sums of squares of each output.
    let (mut errors, mut sums) = (0.0, Vec::new());
    for chunk in rows.chunks(256) {
        let batch = Batch::<T>::of(data, split, chunk, frame)?;
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
                for (row, &label) in y.data().chunks_exact(outputs).zip(&labels) {
                    let best = (1..outputs).fold(0, |b, i| if row[i] > row[b] { i } else { b });
                    loss -= row[label as usize].f64().max(1e-38).ln();
                    right += usize::from(best as u32 == label);
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
        return Ok(Evaluation { loss: loss / n, accuracy: right as f64 / n, predictions, answers });
    }
    let total: f64 = sums.iter().map(|(sum, squares)| squares - sum * sum / n).sum();
    let accuracy = if total > 0.0 { 1.0 - errors / total } else { 0.0 };
    Ok(Evaluation { loss: errors / (n * sums.len().max(1) as f64), accuracy, predictions, answers })
}
