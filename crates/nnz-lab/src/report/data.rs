//! The numbers of every figure as CSV tables, one long table per subject, ready for pandas or R.

use super::degrees::Tally;
use super::view::{View, density, unconnected};
use crate::inspect::Inspection;
use crate::run::record::{ArmRecord, LayerRecord, RunRecord, SeedRecord};

/// A cell that no spreadsheet takes for a formula: names of classes and layers come from others. One that begins like a formula and
/// is not a number gets an apostrophe before it, which spreadsheets take for "text".
pub(crate) fn cell(text: String) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err();
    if formula { format!("'{text}") } else { text }
}

/// A table under construction. Writing to memory does not fail, and every row has the header's length.
pub(super) struct Table(csv::Writer<Vec<u8>>);

impl Table {
    pub(super) fn new<const N: usize>(head: [&str; N]) -> Self {
        let mut table = Self(csv::Writer::from_writer(Vec::new()));
        table.row(head.map(str::to_string));
        table
    }

    pub(super) fn row<const N: usize>(&mut self, fields: [String; N]) {
        let written = self.0.write_record(fields.map(cell));
        debug_assert!(written.is_ok(), "{written:?}");
    }

    pub(super) fn finish(self, name: &str) -> (String, String) {
        let bytes = self.0.into_inner().unwrap_or_default();
        (name.into(), String::from_utf8(bytes).unwrap_or_default())
    }
}

/// The tables of the report's figures, as `(file name, CSV text)`. Names of columns are those of
/// [`crate::run::record`]; a name that begins like a formula has an apostrophe before it; a number that is not finite is written `NaN`, `inf` or `-inf`.
///
/// - `arms.csv`: one row per arm.
/// - `seeds.csv`: test accuracy and size of each seed's network.
/// - `curves.csv`: loss, validation accuracy, density and grown and pruned connections by arm, seed and epoch.
/// - `layers.csv`: size, density and unconnected units by arm, seed and layer.
/// - `degrees.csv`: how many units of a layer have how many connections.
/// - `inputs.csv`: connections of each input of the first layer; with its name if it comes from a table, with channel, row and
///   column if it is a pixel.
/// - `classes.csv`, `targets.csv`: measures of every class or target; empty cells where rows do not determine one.
/// - `confusion.csv`: label, prediction, count; zeros left out.
/// - `misread.csv`: misclassified rows; the pixels stay in the record.
pub fn csv(record: &RunRecord) -> Vec<(String, String)> {
    vec![
        arms(record),
        seeds(record),
        curves(record),
        layers(record),
        degrees(record),
        inputs(record),
        classes(record),
        targets(record),
        confusion(record),
        misread(record),
    ]
}

/// The tables of the page of an inspected model, as `(file name, CSV text)`: `layers.csv`, `degrees.csv` and
/// `inputs.csv`, with the columns they have for a run.
pub fn inspection_csv(inspection: &Inspection) -> Vec<(String, String)> {
    let head = ["layer", "rows", "cols", "nonzeros", "density", "prunable", "dense_bytes", "packed_bytes"];
    let (mut layers, mut degrees) = (Table::new(head), Table::new(["layer", "direction", "connections", "units"]));
    for l in &inspection.layers {
        let numbers = [l.rows, l.cols, l.nonzeros].map(|n| n.to_string());
        let [rows, cols, nonzeros] = numbers;
        layers.row([
            l.name.clone(),
            rows,
            cols,
            nonzeros,
            l.density.to_string(),
            l.prunable.to_string(),
            l.dense_bytes.to_string(),
            l.packed_bytes.to_string(),
        ]);
        for (direction, side) in [("fan_in", &l.fan_in), ("fan_out", &l.fan_out)] {
            for (d, n) in side.histogram.iter().enumerate().filter(|(_, n)| **n > 0) {
                degrees.row([l.name.clone(), direction.into(), d.to_string(), n.to_string()]);
            }
        }
    }
    let mut inputs = Table::new(["input", "name", "fan_out"]);
    let name = |i: usize| inspection.inputs.get(i).cloned().unwrap_or_default();
    for (i, d) in inspection.input_fan_out.iter().enumerate() {
        inputs.row([i.to_string(), name(i), d.to_string()]);
    }
    vec![layers.finish("layers.csv"), degrees.finish("degrees.csv"), inputs.finish("inputs.csv")]
}

/// All trained networks.
fn networks(record: &RunRecord) -> impl Iterator<Item = (&ArmRecord, &SeedRecord)> {
    record.arms.iter().flat_map(|a| a.seeds.iter().map(move |s| (a, s)))
}

/// All layers of all trained networks.
fn weights(record: &RunRecord) -> impl Iterator<Item = (&ArmRecord, &SeedRecord, &LayerRecord)> {
    networks(record).flat_map(|(a, s)| s.layers.iter().map(move |l| (a, s, l)))
}

/// Columns of the task's measure on the test split, and on the validation split.
fn columns(record: &RunRecord) -> [String; 2] {
    let measure = record.task.slug();
    [format!("test_{measure}"), measure]
}

fn arms(record: &RunRecord) -> (String, String) {
    let [test, _] = columns(record);
    let mut t = Table::new([
        "arm",
        "summary",
        &*test,
        "interval",
        "balanced_accuracy",
        "macro_f1",
        "auc",
        "rmse",
        "mae",
        "r2",
        "nonzeros",
        "density",
        "weight_bytes",
        "optimizer_bytes",
        "peak_training_bytes",
        "seconds_per_epoch",
        "seeds",
    ]);
    for a in &record.arms {
        let score = |key: &str| maybe(a.metric(key).map(|s| s.mean));
        t.row([
            a.name.clone(),
            a.summary.clone(),
            a.test_accuracy.to_string(),
            a.interval.map_or(String::new(), |i| i.to_string()),
            score("balanced-accuracy"),
            score("macro-f1"),
            score("auc"),
            score("rmse"),
            score("mae"),
            score("r2"),
            a.nonzeros.to_string(),
            a.density.to_string(),
            a.weight_bytes.to_string(),
            a.optimizer_bytes.to_string(),
            a.peak_training_bytes.to_string(),
            a.seconds_per_epoch.to_string(),
            a.seeds.len().to_string(),
        ]);
    }
    t.finish("arms.csv")
}

fn seeds(record: &RunRecord) -> (String, String) {
    let [test, _] = columns(record);
    let mut t = Table::new([
        "arm",
        "seed",
        &*test,
        "balanced_accuracy",
        "macro_f1",
        "auc",
        "rmse",
        "mae",
        "r2",
        "nonzeros",
        "density",
        "weight_bytes",
        "optimizer_bytes",
        "peak_training_bytes",
    ]);
    for (a, s) in networks(record) {
        let score = |key: &str| maybe(s.metric(key));
        t.row([
            a.name.clone(),
            s.seed.to_string(),
            s.test_accuracy.to_string(),
            score("balanced-accuracy"),
            score("macro-f1"),
            score("auc"),
            score("rmse"),
            score("mae"),
            score("r2"),
            s.nonzeros.to_string(),
            s.density.to_string(),
            s.weight_bytes.to_string(),
            s.optimizer_bytes.to_string(),
            s.peak_training_bytes.to_string(),
        ]);
    }
    t.finish("seeds.csv")
}

fn curves(record: &RunRecord) -> (String, String) {
    let [_, measure] = columns(record);
    let mut t = Table::new(["arm", "seed", "epoch", "step", "loss", &*measure, "density", "born", "died"]);
    for (a, s) in networks(record) {
        for e in &s.epochs {
            t.row([
                a.name.clone(),
                s.seed.to_string(),
                e.epoch.to_string(),
                e.step.to_string(),
                e.loss.to_string(),
                e.accuracy.to_string(),
                e.density.to_string(),
                e.grown.to_string(),
                e.pruned.to_string(),
            ]);
        }
    }
    t.finish("curves.csv")
}

fn layers(record: &RunRecord) -> (String, String) {
    let mut t = Table::new([
        "arm",
        "seed",
        "layer",
        "rows",
        "cols",
        "nonzeros",
        "density",
        "prunable",
        "storage",
        "bytes",
        "outputs_without_input",
        "inputs_unused",
    ]);
    for (a, s, l) in weights(record) {
        t.row([
            a.name.clone(),
            s.seed.to_string(),
            l.name.clone(),
            l.rows.to_string(),
            l.cols.to_string(),
            l.nonzeros.to_string(),
            density(l).to_string(),
            l.prunable.to_string(),
            l.storage.clone(),
            l.bytes.to_string(),
            unconnected(&l.fan_in).to_string(),
            unconnected(&l.fan_out).to_string(),
        ]);
    }
    t.finish("layers.csv")
}

fn degrees(record: &RunRecord) -> (String, String) {
    let mut t = Table::new(["arm", "seed", "layer", "direction", "connections", "units"]);
    for (a, s, l) in weights(record) {
        for (direction, degrees) in [("fan_in", &l.fan_in), ("fan_out", &l.fan_out)] {
            for (d, n) in Tally::of(degrees).iter() {
                t.row([
                    a.name.clone(),
                    s.seed.to_string(),
                    l.name.clone(),
                    direction.into(),
                    d.to_string(),
                    n.to_string(),
                ]);
            }
        }
    }
    t.finish("degrees.csv")
}

fn inputs(record: &RunRecord) -> (String, String) {
    let mut t = Table::new(["arm", "seed", "input", "name", "channel", "row", "column", "fan_out"]);
    let [channels, height, width] = record.data.image;
    let all = channels.checked_mul(height).and_then(|p| p.checked_mul(width));
    let picture = View::new(record).is_some_and(|v| v.is_picture());
    for (a, s) in networks(record) {
        let Some(first) = s.layers.first() else { continue };
        for (i, d) in first.fan_out.iter().enumerate() {
            let place = match all {
                Some(all) if picture && all == first.fan_out.len() => {
                    let pixel = i / channels;
                    [i % channels, pixel / width, pixel % width].map(|v| v.to_string())
                }
                _ => Default::default(),
            };
            let [channel, row, column] = place;
            let name = record.data.inputs.get(i).cloned().unwrap_or_default();
            t.row([a.name.clone(), s.seed.to_string(), i.to_string(), name, channel, row, column, d.to_string()]);
        }
    }
    t.finish("inputs.csv")
}

/// A number that may be unknown.
fn maybe(value: Option<f64>) -> String {
    value.map_or_else(String::new, |v| v.to_string())
}

fn classes(record: &RunRecord) -> (String, String) {
    let mut t = Table::new(["arm", "seed", "class", "precision", "recall", "f1", "auc", "rows"]);
    for (a, s) in networks(record) {
        for c in &s.scores.classes {
            let [precision, recall, f1, auc] = [c.precision, c.recall, c.f1, c.auc].map(maybe);
            t.row([
                a.name.clone(),
                s.seed.to_string(),
                c.class.clone(),
                precision,
                recall,
                f1,
                auc,
                c.rows.to_string(),
            ]);
        }
    }
    t.finish("classes.csv")
}

fn targets(record: &RunRecord) -> (String, String) {
    let mut t = Table::new(["arm", "seed", "target", "rmse", "mae", "r2"]);
    for (a, s) in networks(record) {
        for target in &s.scores.targets {
            let [rmse, mae, r2] = [Some(target.rmse), Some(target.mae), target.r2].map(maybe);
            t.row([a.name.clone(), s.seed.to_string(), target.target.clone(), rmse, mae, r2]);
        }
    }
    t.finish("targets.csv")
}

fn confusion(record: &RunRecord) -> (String, String) {
    let mut t = Table::new(["arm", "seed", "label", "predicted", "count"]);
    for (a, s) in networks(record) {
        for (label, row) in s.confusion.iter().enumerate() {
            for (predicted, n) in row.iter().enumerate().filter(|(_, n)| **n > 0) {
                t.row([a.name.clone(), s.seed.to_string(), label.to_string(), predicted.to_string(), n.to_string()]);
            }
        }
    }
    t.finish("confusion.csv")
}

fn misread(record: &RunRecord) -> (String, String) {
    let mut t = Table::new(["arm", "seed", "index", "label", "predicted", "confidence"]);
    for (a, s) in networks(record) {
        for m in &s.misread {
            t.row([
                a.name.clone(),
                s.seed.to_string(),
                m.index.to_string(),
                m.label.to_string(),
                m.predicted.to_string(),
                m.confidence.to_string(),
            ]);
        }
    }
    t.finish("misread.csv")
}
