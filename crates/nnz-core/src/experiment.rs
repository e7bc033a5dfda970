//! Experiments: programs that run by themselves, one arm at one seed, and report the metrics they declared.
//!
//! An experiment asks its [`Context`] for named inputs, reports metrics, and hands it curves, tables, pictures and
//! files. It reports its progress to [`Context::checkpoint`], which saves its [`State`] and ends it on a requested stop;
//! the next run resumes from there, bit for bit.

use crate::{Error, Result, Rng, State, closest};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::collections::BTreeMap;

/// Unit in which a number is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// A plain number, four digits after the point; with an exponent below a thousandth.
    #[default]
    Number,
    /// A fraction of a whole, in percent.
    Share,
    /// A count, without a fraction.
    Count,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Per second.
    Rate,
    /// Natural units of information.
    Nats,
    /// Bits.
    Bits,
    /// Ratios on a logarithmic scale.
    Decibel,
}

impl Unit {
    /// Formats a value for readers.
    pub fn write(self, value: f64) -> String {
        match self {
            Self::Number if value != 0.0 && value.abs() < 1e-3 => format!("{value:.3e}"),
            Self::Number => format!("{value:.4}"),
            Self::Share => format!("{:.2}%", value * 100.0),
            Self::Count => format!("{value:.0}"),
            Self::Bytes => format!("{value:.0} B"),
            Self::Seconds => format!("{value:.3} s"),
            Self::Rate => format!("{value:.3} /s"),
            Self::Nats => format!("{value:.4} nats"),
            Self::Bits => format!("{value:.4} bits"),
            Self::Decibel => format!("{value:.2} dB"),
        }
    }

    /// Formats a difference of two values, with its sign.
    pub fn write_difference(self, value: f64) -> String {
        let text = self.write(value);
        if value >= 0.0 { format!("+{text}") } else { text }
    }
}

/// Direction in which a metric improves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// More.
    Higher,
    /// Less.
    Lower,
    /// Descriptive: neither direction is better.
    #[default]
    Neither,
}

/// A number that an experiment reports once per arm and seed. Claims name these and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Metric {
    /// Its name in claims and records.
    pub key: &'static str,
    /// How it is written.
    pub unit: Unit,
    /// Which way is better.
    pub better: Better,
    /// Its meaning, in a sentence.
    pub about: &'static str,
}

impl Metric {
    /// Makes a metric.
    pub const fn new(key: &'static str, unit: Unit, better: Better, about: &'static str) -> Self {
        Self { key, unit, better, about }
    }
}

/// Type that an input is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InputKind {
    /// A labelled data set: `nnz_engine::data::Dataset`.
    Rows,
    /// A network that nnz trained, with its header: `nnz_engine::file::Stored`.
    Model,
    /// A text: `String`.
    Text,
}

/// Whether a recipe must name an input, and what is read if it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// The recipe must name it.
    Required,
    /// Nothing.
    Optional,
    /// This input.
    Default(&'static str),
}

/// An input of an experiment, named in recipes and on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Input {
    /// Its name.
    pub name: &'static str,
    /// Type it is read as.
    pub kind: InputKind,
    /// Whether it must be named, and its default.
    pub need: Need,
    /// Its meaning, in a sentence.
    pub about: &'static str,
}

/// A program that runs by itself instead of training.
pub trait Experiment: Send {
    /// Inputs it reads.
    fn inputs(&self) -> &'static [Input] {
        &[]
    }

    /// Metrics it reports: all of these, and no others.
    fn metrics(&self) -> &'static [Metric];

    /// Whether the seed changes the results. If they follow from inputs and options alone, every seed gives the same.
    fn stochastic(&self) -> bool {
        true
    }

    /// Runs one arm at one seed.
    ///
    /// # Errors
    /// When an input or option does not fit, or the run was asked to stop.
    fn run(&mut self, cx: &mut Context) -> Result<()>;
}

/// A curve: one number as a function of another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Quantity on the x axis, e.g. `step`.
    pub along: String,
    /// Points (x, y).
    pub points: Vec<[f64; 2]>,
}

/// A table with a header; the first column is text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Names of the columns.
    pub head: Vec<String>,
    /// Its rows.
    pub rows: Vec<Vec<String>>,
}

/// Rectangles of numbers, drawn from the smallest (dark) to the largest (light), side by side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// Rows and columns of each rectangle.
    pub size: [usize; 2],
    /// Row-major numbers of each rectangle.
    pub tiles: Vec<Vec<f32>>,
}

/// All results of one arm at one seed. Equal runs give equal findings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Findings {
    /// Values of the declared metrics.
    pub metrics: BTreeMap<String, f64>,
    /// Values row by row (queries, images, blocks), for claims over rows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rows: BTreeMap<String, Vec<f64>>,
    /// Curves by the metric or quantity they show.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub curves: BTreeMap<String, Curve>,
    /// Tables by title.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tables: BTreeMap<String, Table>,
    /// Pictures by title.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pictures: BTreeMap<String, Picture>,
}

/// Services that a context needs from its host, which runs the experiment.
pub trait Host {
    /// Restores the last checkpoint; returns whether there was one.
    fn resume(&mut self, state: &mut dyn State) -> Result<bool>;

    /// Records that `done` of `of` parts are finished, saves `state` when one is due, and returns whether to go on.
    fn checkpoint(&mut self, done: u64, of: u64, state: &mut dyn State) -> Result<bool>;

    /// Writes a file next to the record; its name must be plain.
    fn artifact(&mut self, name: &str, bytes: &[u8]) -> Result<()>;
}

/// Environment of an experiment: one arm at one seed.
pub struct Context<'a> {
    seed: u64,
    inputs: &'a BTreeMap<String, Box<dyn Any + Send + Sync>>,
    metrics: &'static [Metric],
    host: &'a mut dyn Host,
    findings: Findings,
    /// The first report that was refused, so that a run that ignores the error still fails.
    refused: Option<String>,
}

impl<'a> Context<'a> {
    /// Makes a context that collects findings.
    pub fn new(
        seed: u64,
        inputs: &'a BTreeMap<String, Box<dyn Any + Send + Sync>>,
        metrics: &'static [Metric],
        host: &'a mut dyn Host,
    ) -> Self {
        Self { seed, inputs, metrics, host, findings: Findings::default(), refused: None }
    }

    /// The seed of this run.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Returns the random stream for a purpose, a part and a step.
    pub fn rng(&self, purpose: &str, index: u64, step: u64) -> Rng {
        Rng::stream(self.seed, purpose, index, step)
    }

    /// Returns a declared input as the type of its kind.
    ///
    /// # Errors
    /// When it was not declared, or its kind is read as another type.
    pub fn input<T: 'static>(&self, name: &str) -> Result<&'a T> {
        let bad = || Error::Refused(format!("no input named `{name}` of this type was declared"));
        self.inputs.get(name).and_then(|i| i.downcast_ref()).ok_or_else(bad)
    }

    /// Whether an optional input was named.
    pub fn has(&self, name: &str) -> bool {
        self.inputs.contains_key(name)
    }

    /// Reports the value of a metric, once.
    ///
    /// # Errors
    /// When the metric was not declared or reported before, or the value is not finite.
    pub fn report(&mut self, metric: &str, value: f64) -> Result<()> {
        let why = if !self.metrics.iter().any(|m| m.key == metric) {
            let hint = closest(metric, self.metrics.iter().map(|m| m.key));
            format!("metric `{metric}` was not declared{hint}")
        } else if !value.is_finite() {
            format!("metric `{metric}` is {value}; the run diverged")
        } else if self.findings.metrics.insert(metric.into(), value).is_some() {
            format!("metric `{metric}` was reported twice")
        } else {
            return Ok(());
        };
        self.refused.get_or_insert(why.clone());
        Err(Error::Refused(why))
    }

    /// Reports a metric as the mean over rows (queries, images, blocks), which claims can resample.
    ///
    /// # Errors
    /// As [`Context::report`].
    pub fn report_rows(&mut self, metric: &str, values: Vec<f64>) -> Result<()> {
        self.report(metric, values.iter().sum::<f64>() / values.len() as f64)?;
        self.findings.rows.insert(metric.into(), values);
        Ok(())
    }

    /// Adds a point to a curve.
    pub fn curve(&mut self, name: &str, along: &str, x: f64, y: f64) {
        let curve = self.findings.curves.entry(name.into()).or_default();
        curve.along = along.into();
        curve.points.push([x, y]);
    }

    /// Shows a table.
    pub fn table(&mut self, title: &str, head: &[&str], rows: Vec<Vec<String>>) {
        let head = head.iter().map(|h| (*h).into()).collect();
        self.findings.tables.insert(title.into(), Table { head, rows });
    }

    /// Shows rectangles of numbers side by side.
    pub fn picture(&mut self, title: &str, size: [usize; 2], tiles: Vec<Vec<f32>>) {
        self.findings.pictures.insert(title.into(), Picture { size, tiles });
    }

    /// Writes a file next to the record.
    ///
    /// # Errors
    /// When its name is not a plain one, or it cannot be written.
    pub fn artifact(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        match !name.is_empty() && !name.starts_with('.') && name.chars().all(plain) {
            true => self.host.artifact(name, bytes),
            false => Err(Error::Refused(format!("`{name}` names no file; take letters, digits, `-`, `_` and `.`"))),
        }
    }

    /// Restores the last checkpoint; returns whether there was one. Call it before the first step.
    ///
    /// # Errors
    /// When the checkpoint does not fit.
    pub fn resume(&mut self, state: &mut dyn State) -> Result<bool> {
        self.host.resume(&mut Both { findings: &mut self.findings, state })
    }

    /// Reports that `done` of `of` parts are finished, and saves the state needed to resume here.
    ///
    /// # Errors
    /// [`Error::Stopped`] if a stop was requested: everything is saved, and the experiment must return this error.
    pub fn checkpoint(&mut self, done: u64, of: u64, state: &mut dyn State) -> Result<()> {
        match self.host.checkpoint(done, of, &mut Both { findings: &mut self.findings, state })? {
            true => Ok(()),
            false => Err(Error::Stopped),
        }
    }

    /// Returns the findings.
    ///
    /// # Errors
    /// When a declared metric was not reported, or a report was refused.
    pub fn finish(self) -> Result<Findings> {
        if let Some(why) = self.refused {
            return Err(Error::Refused(why));
        }
        match self.metrics.iter().find(|m| !self.findings.metrics.contains_key(m.key)) {
            Some(missing) => Err(Error::Refused(format!("metric `{}` was declared and not reported", missing.key))),
            None => Ok(self.findings),
        }
    }
}

/// State of an experiment together with its findings so far.
struct Both<'a> {
    findings: &'a mut Findings,
    state: &'a mut dyn State,
}

impl State for Both<'_> {
    fn visit(&mut self, v: &mut dyn crate::Visit) -> Result<()> {
        let mut text = serde_json::to_string(self.findings).map_err(|e| Error::Refused(e.to_string()))?;
        v.text("findings", &mut text)?;
        *self.findings = serde_json::from_str(&text).map_err(|e| Error::Refused(format!("kept findings: {e}")))?;
        crate::visit_within(v, "state", self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Host for Nobody {
        fn resume(&mut self, _: &mut dyn State) -> Result<bool> {
            Ok(false)
        }
        fn checkpoint(&mut self, done: u64, _: u64, _: &mut dyn State) -> Result<bool> {
            Ok(done < 3)
        }
        fn artifact(&mut self, _: &str, _: &[u8]) -> Result<()> {
            Ok(())
        }
    }

    const METRICS: &[Metric] = &[Metric::new("capacity", Unit::Count, Better::Higher, "How many fit.")];

    #[test]
    fn what_is_declared_is_reported_once_and_nothing_else() {
        let (inputs, mut host) = (BTreeMap::from([("text".to_string(), Box::new(String::from("a")) as _)]), Nobody);
        let mut cx = Context::new(3, &inputs, METRICS, &mut host);
        assert_eq!(cx.input::<String>("text").unwrap(), "a");
        assert!(cx.input::<u8>("text").is_err() && cx.input::<String>("other").is_err());
        let said = |r: Result<()>| r.unwrap_err().to_string();
        assert!(said(cx.report("capcity", 1.0)).contains("did you mean `capacity`"));
        assert!(said(cx.report("capacity", f64::NAN)).contains("NaN"));
        cx.report("capacity", 7.0).unwrap();
        assert!(said(cx.report("capacity", 7.0)).contains("twice"));
        assert!(cx.finish().unwrap_err().to_string().contains("capcity"), "the first refused report is remembered");
        let mut cx = Context::new(3, &inputs, METRICS, &mut host);
        cx.report("capacity", 7.0).unwrap();
        assert!(cx.artifact("../x", b"").is_err() && cx.artifact("x.csv", b"").is_ok());
        assert!(cx.checkpoint(2, 4, &mut ()).is_ok());
        assert!(matches!(cx.checkpoint(3, 4, &mut ()), Err(Error::Stopped)));
        assert_eq!(cx.finish().unwrap().metrics["capacity"], 7.0);
        let cx = Context::new(0, &inputs, METRICS, &mut host);
        assert!(cx.finish().unwrap_err().to_string().contains("capacity"));
    }
}
