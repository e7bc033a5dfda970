use super::{Augment, Dataset, Preprocessing, Result, Task, order};
use crate::Real;
use crate::{Tensor, ops};
use nnz_core::Rng;
use std::sync::Arc;

/// Targets of a network for the rows of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Goal<T> {
    /// A class for each row.
    Classes(Vec<u32>),
    /// Class probabilities for each row, `[rows, classes]`.
    Shares(Tensor<T>),
    /// Numbers, `[rows, outputs]`.
    Values(Tensor<T>),
}

/// Rows for one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch<T> {
    /// `[rows, features]`
    pub input: Tensor<T>,
    /// Targets.
    pub goal: Goal<T>,
    /// How much each row counts; all the same if empty.
    pub weights: Vec<f64>,
}

impl<T: Real> Batch<T> {
    /// Collects rows of a split unchanged.
    pub fn of(data: &Dataset, split: &super::Split, rows: &[u32], frame: &Preprocessing) -> Result<Self> {
        let mut input = Tensor::zeros(&[rows.len(), data.features()]);
        data.fill(split, rows, frame.normalization, input.data_mut())?;
        let goal = match frame.task {
            Task::Classification => {
                let mut labels = vec![0; rows.len()];
                split.labels_of(rows, &mut labels)?;
                Goal::Classes(labels)
            }
            Task::Regression => Goal::Values(frame.targets(split, rows)),
            Task::Reconstruction => Goal::Values(input.clone()),
        };
        let weights =
            if split.weights.is_empty() { Vec::new() } else { rows.iter().map(|&r| split.weight(r)).collect() };
        Ok(Self { input, goal, weights })
    }

    /// The sum of the rows' weights.
    pub fn mass(&self) -> f64 {
        if self.weights.is_empty() { self.rows() as f64 } else { self.weights.iter().sum() }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.input.shape()[0]
    }

    /// Bytes of inputs and goals.
    pub fn bytes(&self) -> usize {
        let goal = match &self.goal {
            Goal::Classes(labels) => size_of_val(&labels[..]),
            Goal::Shares(values) | Goal::Values(values) => size_of_val(values.data()),
        };
        size_of_val(self.input.data()) + goal + size_of_val(&self.weights[..])
    }
}

/// Makes the batches of a training: reshuffled each epoch, augmented, normalized. Any batch can be requested at any
/// time, and is always the same.
#[derive(Clone)]
pub struct Loader<'a> {
    data: &'a Dataset,
    rows: Arc<Vec<u32>>,
    batch: usize,
    seed: u64,
    augment: Augment,
    frame: Preprocessing,
    /// Epoch and its order.
    order: (u64, Vec<u32>),
}

impl<'a> Loader<'a> {
    /// Makes batches of `batch` from the train split's `rows`.
    pub fn new(
        data: &'a Dataset,
        rows: Vec<u32>,
        batch: usize,
        seed: u64,
        augment: Augment,
        frame: Preprocessing,
    ) -> Self {
        Self { data, rows: Arc::new(rows), batch, seed, augment, frame, order: (u64::MAX, Vec::new()) }
    }

    /// The rows it makes batches of.
    pub(crate) fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// Batches of an epoch; the last may have fewer rows.
    pub fn per_epoch(&self) -> u64 {
        self.rows.len().div_ceil(self.batch.max(1)) as u64
    }

    /// Makes the batch of a step.
    pub fn batch<T: Real>(&mut self, step: u64) -> Result<Batch<T>> {
        let (epoch, at) = (step / self.per_epoch(), (step % self.per_epoch()) as usize);
        if self.order.0 != epoch {
            let shuffled = order(self.seed, epoch, self.rows.len() as u32);
            self.order = (epoch, shuffled.into_iter().map(|i| self.rows[i as usize]).collect());
        }
        let rows = self.order.1.chunks(self.batch).nth(at).unwrap_or_default();
        let mut batch = self.changed(rows, epoch)?;
        let partner = |&row: &u32| {
            let rng = Rng::stream(self.seed, "mixup", row.into(), epoch);
            self.augment.partner(self.rows.len(), rng).map(|(share, at)| (share, self.rows[at]))
        };
        if let Some(partners) = rows.iter().map(partner).collect::<Option<Vec<(f64, u32)>>>() {
            let others: Vec<u32> = partners.iter().map(|p| p.1).collect();
            let others = self.changed(&others, epoch)?;
            let shares: Vec<f64> = partners.iter().map(|p| p.0).collect();
            let (a, b) = (self.shares(batch.goal), self.shares(others.goal));
            mix(&mut batch.input, &others.input, &shares);
            batch.goal = match (a, b) {
                (Goal::Shares(mut a), Goal::Shares(b)) => {
                    mix(&mut a, &b, &shares);
                    Goal::Shares(a)
                }
                (Goal::Values(_), _) if self.frame.task == Task::Reconstruction => Goal::Values(batch.input.clone()),
                (Goal::Values(mut a), Goal::Values(b)) => {
                    mix(&mut a, &b, &shares);
                    Goal::Values(a)
                }
                (a, _) => a,
            };
        }
        Ok(batch)
    }

    /// Rows after all changes that involve no other row.
    fn changed<T: Real>(&self, rows: &[u32], epoch: u64) -> Result<Batch<T>> {
        let mut batch = Batch::of(self.data, &self.data.train, rows, &self.frame)?;
        let Augment { flip, crop, cutout, .. } = self.augment;
        if !(flip || crop > 0 || cutout > 0) {
            return Ok(batch);
        }
        let image = self.data.image;
        let black: Vec<T> = (0..image[0]).map(|c| T::of(self.frame.normalization.apply(0.0, c % 3).into())).collect();
        for (row, values) in rows.iter().zip(batch.input.data_mut().chunks_exact_mut(self.data.features())) {
            let rng = Rng::stream(self.seed, "augment", (*row).into(), epoch);
            self.augment.picture(values, image, &black, rng);
        }
        if self.frame.task == Task::Reconstruction {
            batch.goal = Goal::Values(batch.input.clone());
        }
        Ok(batch)
    }

    /// Converts classes to class probabilities.
    fn shares<T: Real>(&self, goal: Goal<T>) -> Goal<T> {
        match goal {
            Goal::Classes(labels) => {
                let labels: Vec<usize> = labels.into_iter().map(|l| l as usize).collect();
                Goal::Shares(ops::one_hot(&labels, self.data.classes.len()))
            }
            other => other,
        }
    }
}

/// a ← λ a + (1 - λ) b, row by row.
fn mix<T: Real>(a: &mut Tensor<T>, b: &Tensor<T>, shares: &[f64]) {
    let cols = b.rows_cols().1.max(1);
    let rows = a.data_mut().chunks_exact_mut(cols).zip(b.data().chunks_exact(cols));
    for ((a, b), &share) in rows.zip(shares) {
        let (keep, take) = (T::of(share), T::of(1.0 - share));
        a.iter_mut().zip(b).for_each(|(a, &b)| *a = keep * *a + take * b);
    }
}
