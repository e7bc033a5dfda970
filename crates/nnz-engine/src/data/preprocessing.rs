//! Task of a network, and how rows become inputs and goals.

use super::{Dataset, Normalization, Split};
use crate::{Error, Real, Result, Tensor};
use serde::{Deserialize, Serialize};

/// Task of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Classification: cross-entropy, measured by accuracy.
    #[default]
    Classification,
    /// Regression: the mean squared error of standardized targets, measured by the share of their variance
    /// that is explained.
    Regression,
    /// Reconstruction of the input: the mean squared error of normalized inputs, measured by the share of variance
    /// that is explained.
    Reconstruction,
}

impl Task {
    /// Whether it is the default, for serde.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Name of its metric. Every metric is at most 1, and more is better.
    pub fn measure(self) -> &'static str {
        match self {
            Self::Classification => "accuracy",
            Self::Regression | Self::Reconstruction => "variance explained",
        }
    }

    /// The name for files and columns: `accuracy`, `variance_explained`.
    pub fn slug(self) -> String {
        self.measure().replace(' ', "_")
    }

    /// Number of network outputs it needs, given the number of classes or targets and the image.
    pub fn outputs(self, classes: usize, image: [usize; 3]) -> usize {
        match self {
            Self::Classification | Self::Regression => classes,
            Self::Reconstruction => image.iter().fold(1, |n: usize, &s| n.saturating_mul(s)),
        }
    }
}

/// How rows become inputs and goals; a model's file contains it so that others can use the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocessing {
    /// Task of the network.
    pub task: Task,
    /// How inputs are normalized.
    pub normalization: Normalization,
    /// Mean and standard deviation of each target; empty without targets.
    pub scales: Vec<[f32; 2]>,
}

impl Preprocessing {
    /// For classification.
    pub fn classes(normalization: Normalization) -> Self {
        Self { task: Task::Classification, normalization, scales: Vec::new() }
    }

    /// Derives it from the train split's `rows`; a network that reads `tokens` gets them unchanged.
    pub(crate) fn of(data: &Dataset, rows: &[u32], task: Task, tokens: bool) -> Result<Self> {
        Self::suits(data, task)?;
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

    /// Refuses data that do not have what the task predicts.
    fn suits(data: &Dataset, task: Task) -> Result<()> {
        if task == Task::Regression && !data.real() {
            return Err(Error::Refused(format!("{} has classes, not numbers to predict", data.name)));
        }
        if task == Task::Classification && data.real() {
            return Err(Error::Refused(format!(
                "{} has numbers to predict, not classes: use task regression",
                data.name
            )));
        }
        Ok(())
    }

    /// Refuses to stand for data that it does not fit.
    pub(crate) fn check(&self, data: &Dataset) -> Result<()> {
        Self::suits(data, self.task)?;
        self.normalization.check().map_err(Error::Refused)?;
        let targets = if self.task == Task::Regression { data.classes.len() } else { 0 };
        match self.scales.len() == targets {
            true => Ok(()),
            false => Err(Error::Refused(format!("{} scales for {targets} targets", self.scales.len()))),
        }
    }

    /// Turns the standardized targets of a row into numbers in their own units.
    pub fn in_units(&self, row: &mut [f32]) {
        row.iter_mut().zip(&self.scales).for_each(|(y, [mean, std])| *y = *y * std + mean);
    }

    /// Standardized targets of rows, `[rows, targets]`.
    pub(crate) fn targets<T: Real>(&self, split: &Split, rows: &[u32]) -> Tensor<T> {
        let width = self.scales.len();
        let row = |&r: &u32| split.targets[r as usize * width..][..width].iter().zip(&self.scales);
        let values = rows.iter().flat_map(row).map(|(v, [mean, std])| T::of(f64::from((v - mean) / std)));
        Tensor::new(&[rows.len(), width], values.collect())
    }
}
