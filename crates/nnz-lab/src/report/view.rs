//! Queries on a record by every part of the page: which arm is which, and how its words and decimals are formatted.

use super::pixels::is_picture;
use super::{format, stats};
use crate::run::record::{ArmRecord, LayerRecord, RunRecord, SeedRecord};
use nnz_engine::Task;

/// A record with its arms identified. Exists only if there is an arm.
pub(super) struct View<'a> {
    pub record: &'a RunRecord,
    pub method: &'a ArmRecord,
    /// Decimals of a test accuracy in percent: as many as the size of the test split can resolve.
    pub decimals: usize,
}

impl<'a> View<'a> {
    pub fn new(record: &'a RunRecord) -> Option<Self> {
        let method = record.arms.first()?;
        Some(Self { record, method, decimals: if record.data.test >= 1000 { 2 } else { 1 } })
    }

    /// Whether rows have classes; otherwise the metric is the share of explained variance.
    pub fn classes(&self) -> bool {
        self.record.task == Task::Classification
    }

    /// Metric on the test split.
    pub fn measure(&self) -> &'static str {
        if self.classes() { "Test accuracy" } else { "Variance explained" }
    }

    /// The control of this name.
    pub fn control(&self, name: &str) -> Option<&'a ArmRecord> {
        self.record.arms[1..].iter().find(|a| a.name == name)
    }

    /// The arm's index, which decides colour and dash.
    pub fn series(&self, arm: &ArmRecord) -> usize {
        self.record.arms.iter().position(|a| std::ptr::eq(a, arm)).unwrap_or(0)
    }

    /// Word for a row of the data.
    pub fn rows(&self) -> &'static str {
        if self.is_picture() { "images" } else { "rows" }
    }

    /// Whether a row of the data is an image.
    pub fn is_picture(&self) -> bool {
        is_picture(self.record.data.image)
    }

    /// Names the network of a figure, if there are several: `, seed 0`.
    pub fn seed(&self) -> String {
        match &self.method.seeds[..] {
            [first, _, ..] => format!(", seed {}", first.seed),
            _ => String::new(),
        }
    }

    /// Name of class `i`.
    pub fn class(&self, i: usize) -> String {
        self.record.data.classes.get(i).cloned().unwrap_or_else(|| format!("class {i}"))
    }

    /// `97.34%`.
    pub fn accuracy(&self, arm: &ArmRecord) -> String {
        format::accuracy(arm.test_accuracy, self.decimals)
    }

    /// Entries of all weights of the method arm, zeros included, as in a dense network of its shape.
    pub fn entries(&self) -> u64 {
        let dense = self.control("dense").map(|a| a.nonzeros as u64);
        dense.unwrap_or_else(|| layers(self.method).iter().map(entries).fold(0, u64::saturating_add))
    }

    /// The method's difference to a control in test accuracy.
    pub fn difference(&self, control: &ArmRecord) -> Option<stats::Difference> {
        stats::difference(self.method, control)
    }
}

/// The first seed, which the figures show.
pub(super) fn first(arm: &ArmRecord) -> Option<&SeedRecord> {
    arm.seeds.first()
}

/// The layers of the first seed.
pub(super) fn layers(arm: &ArmRecord) -> &[LayerRecord] {
    first(arm).map_or(&[], |s| &s.layers)
}

/// Entries of one weight, zeros included.
pub(super) fn entries(layer: &LayerRecord) -> u64 {
    (layer.rows as u64).saturating_mul(layer.cols as u64)
}

/// Nonzeros / entries of one weight.
pub(super) fn density(layer: &LayerRecord) -> f64 {
    layer.nonzeros as f64 / entries(layer) as f64
}

/// Counts those without connections.
pub(super) fn unconnected(degrees: &[u32]) -> u64 {
    degrees.iter().filter(|d| **d == 0).count() as u64
}
