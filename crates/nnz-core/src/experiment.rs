//! Experiments: what runs by itself, one arm at one seed, and reports numbers that it declared.
//!
//! An experiment asks its [`Context`] for named inputs, reports metrics, and hands it curves, tables, pictures and files. It says
//! how far it is through [`Context::checkpoint`], which keeps its [`State`] and ends it when somebody asked for that; the next
//! run goes on from there, bit for bit.

use crate::{Error, Result, Rng, State, closest};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::collections::BTreeMap;

/// How a number is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// A plain number, four digits behind the point.
    #[default]
    Number,
    /// A part of a whole, in hundredths.
    Share,
    /// Things, without a fraction.
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
    /// A value as people read it.
    pub fn write(self, value: f64) -> String {
        match self {
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

    /// A difference of two, with its sign.
    pub fn write_difference(self, value: f64) -> String {
        let text = self.write(value);
        if value >= 0.0 { format!("+{text}") } else { text }
    }
}

/// Which way is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// More.
    Higher,
    /// Less.
    Lower,
    /// It describes, and judges nothing.
    #[default]
    Neither,
}

/// A number that an experiment reports once for every arm and seed. Claims name these and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Metric {
    /// Its name in claims and records.
    pub key: &'static str,
    /// How it is written.
    pub unit: Unit,
    /// Which way is better.
    pub better: Better,
    /// What it is, in a sentence.
    pub about: &'static str,
}

impl Metric {
    /// A metric.
    pub const fn new(key: &'static str, unit: Unit, better: Better, about: &'static str) -> Self {
        Self { key, unit, better, about }
    }
}

/// What an input is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InputKind {
    /// A data set of rows with answers: `nnz_engine::data::Dataset`.
    Rows,
    /// A network that nnz trained, with its header: `nnz_engine::file::Stored`.
    Model,
    /// A text: `String`.
    Text,
}

/// What is read where a recipe names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// It must be named.
    Required,
    /// Nothing.
    Optional,
    /// This.
    Default(&'static str),
}

/// Something an experiment reads, named in recipes and on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Input {
    /// Its name.
    pub name: &'static str,
    /// What it is read as.
    pub kind: InputKind,
    /// What is read where nothing is named.
    pub need: Need,
    /// What it is, in a sentence.
    pub about: &'static str,
}

/// What runs by itself.
pub trait Experiment: Send {
    /// What it reads.
    fn inputs(&self) -> &'static [Input] {
        &[]
    }

    /// What it reports: all of these, and nothing else.
    fn metrics(&self) -> &'static [Metric];

    /// Whether the seed changes what it finds. What follows from its inputs and options alone finds the same at every seed.
    fn stochastic(&self) -> bool {
        true
    }

    /// Runs one arm at one seed.
    ///
    /// # Errors
    /// When an input or option does not fit, or the run was asked to stop.
    fn run(&mut self, cx: &mut Context) -> Result<()>;
}

/// A curve: what a number did along another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// What runs along the axis, e.g. `step`.
    pub along: String,
    /// Pairs of both.
    pub points: Vec<[f64; 2]>,
}

/// A table with a head; the first column is words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Names of the columns.
    pub head: Vec<String>,
    /// Its rows.
    pub rows: Vec<Vec<String>>,
}

/// Numbers in a rectangle, drawn from the smallest (dark) to the largest (light); several are drawn side by side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// Rows and columns of each.
    pub size: [usize; 2],
    /// Row-major numbers of each.
    pub tiles: Vec<Vec<f32>>,
}

/// Everything that one arm found at one seed. Equal runs find equal findings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Findings {
    /// Values of the declared metrics.
    pub metrics: BTreeMap<String, f64>,
    /// Values row by row (queries, pictures, blocks), for claims over rows.
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

/// What a context needs of whoever runs the experiment.
pub trait Host {
    /// Takes back what the last checkpoint kept; whether there was one.
    fn resume(&mut self, state: &mut dyn State) -> Result<bool>;

    /// `done` of `of` parts are over; keeps `state` where it is time to, and says whether to go on.
    fn checkpoint(&mut self, done: u64, of: u64, state: &mut dyn State) -> Result<bool>;

    /// Writes a file beside the record; its name is a plain one.
    fn artifact(&mut self, name: &str, bytes: &[u8]) -> Result<()>;
}

/// What an experiment is handed: one arm at one seed.
pub struct Context<'a> {
    seed: u64,
    inputs: &'a BTreeMap<String, Box<dyn Any + Send + Sync>>,
    metrics: &'static [Metric],
    host: &'a mut dyn Host,
    findings: Findings,
    /// The first report that was refused, so that a run that takes no notice does not pass.
    refused: Option<String>,
}

impl<'a> Context<'a> {
    /// A context that collects what is found.
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

    /// Random numbers for a purpose, a part and a step.
    pub fn rng(&self, purpose: &str, index: u64, step: u64) -> Rng {
        Rng::stream(self.seed, purpose, index, step)
    }

    /// An input that the experiment declared, as the type of its kind.
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

    /// Reports a metric as the mean over rows (queries, pictures, blocks), which claims can resample.
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

    /// Writes a file beside the record.
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

    /// Takes back what the last checkpoint kept; whether there was one. To be called before the first step.
    ///
    /// # Errors
    /// When the checkpoint does not fit.
    pub fn resume(&mut self, state: &mut dyn State) -> Result<bool> {
        self.host.resume(&mut Both { findings: &mut self.findings, state })
    }

    /// Says that `done` of `of` parts are over, and keeps what is needed to go on from here.
    ///
    /// # Errors
    /// [`Error::Stopped`] where the run was asked to stop: everything is kept, and the experiment must return it.
    pub fn checkpoint(&mut self, done: u64, of: u64, state: &mut dyn State) -> Result<()> {
        match self.host.checkpoint(done, of, &mut Both { findings: &mut self.findings, state })? {
            true => Ok(()),
            false => Err(Error::Stopped),
        }
    }

    /// What was found.
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

/// What an experiment keeps, and what it found before.
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
