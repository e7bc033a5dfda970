use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The run a method is built for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// Key of every random stream.
    pub seed: u64,
    /// Optimizer steps in the whole run; 0 when a trained model is pruned without training.
    pub steps: u64,
    /// Optimizer steps in one pass over the training data.
    pub steps_per_epoch: u64,
}

/// A span of training, written `100 steps`, `1 epochs` or `0.75 run`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Period {
    /// Optimizer steps.
    Steps(u64),
    /// Passes over the training data.
    Epochs(f64),
    /// A fraction of the whole run.
    Run(f64),
}

impl Period {
    /// Converts to steps.
    pub fn steps(self, setting: &Setting) -> u64 {
        match self {
            Self::Steps(n) => n,
            Self::Epochs(e) => (e * setting.steps_per_epoch as f64).round() as u64,
            Self::Run(f) => (f * setting.steps as f64).round() as u64,
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Steps(n) => write!(f, "{n} steps"),
            Self::Epochs(n) => write!(f, "{n} epochs"),
            Self::Run(n) => write!(f, "{n} run"),
        }
    }
}

impl FromStr for Period {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let why = "expected a number and a unit: `100 steps`, `1 epochs` or `0.75 run`";
        let bad = || Error::Parse { text: text.into(), what: "a period", why: why.into() };
        let (number, unit) = text.trim().split_once(' ').ok_or_else(bad)?;
        let real = || number.parse().ok().filter(|x: &f64| x.is_finite() && *x >= 0.0).ok_or_else(bad);
        Ok(match unit.trim() {
            "step" | "steps" => Self::Steps(number.parse().map_err(|_| bad())?),
            "epoch" | "epochs" => Self::Epochs(real()?),
            "run" => Self::Run(real()?),
            _ => return Err(bad()),
        })
    }
}

impl TryFrom<String> for Period {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Period> for String {
    fn from(p: Period) -> Self {
        p.to_string()
    }
}

/// When the density changes, and to what value.
pub trait Schedule: Send + Sync {
    /// The density to reach at `step`, or `None` to leave the topology alone.
    fn density(&self, step: u64) -> Option<f64>;
}

/// Prunes once.
pub struct OneShot {
    /// The step that prunes.
    pub at: u64,
    /// Target density.
    pub density: f64,
}

impl Schedule for OneShot {
    fn density(&self, step: u64) -> Option<f64> {
        (step == self.at).then_some(self.density)
    }
}

/// Zhu & Gupta's ramp (arXiv:1710.01878, eq. 1): sparsity s(t) = s_f + (s_i - s_f) (1 - (t - t0) / (n Δt))³.
pub struct Cubic {
    /// First pruning step t0.
    pub start: u64,
    /// Last pruning step t0 + n Δt.
    pub end: u64,
    /// Steps Δt between two prunings.
    pub every: u64,
    /// Density at the start, 1 - s_i.
    pub initial: f64,
    /// Density at the end, 1 - s_f.
    pub density: f64,
}

impl Schedule for Cubic {
    fn density(&self, step: u64) -> Option<f64> {
        let inside = (self.start..=self.end).contains(&step);
        if !inside || !((step - self.start).is_multiple_of(self.every.max(1)) || step == self.end) {
            return None;
        }
        let t = (step - self.start) as f64 / (self.end - self.start).max(1) as f64;
        let t = if self.end == self.start { 1.0 } else { t };
        Some(self.density + (self.initial - self.density) * (1.0 - t).powi(3))
    }
}

/// Steps at which a topology of fixed density is rewired.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct When {
    /// Steps between two rewirings.
    pub every: u64,
    /// No rewiring at or after this step.
    pub until: u64,
}

impl When {
    /// Whether `step` rewires. Never at step 0, when the topology was just drawn.
    pub fn due(self, step: u64) -> bool {
        step > 0 && step < self.until && step.is_multiple_of(self.every.max(1))
    }
}

/// How the replaced fraction of the nonzeros falls from its initial value to zero at `until`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// No decay.
    Constant,
    /// (α / 2) (1 + cos(π t / until))
    Cosine,
    /// α (1 - t / until)
    Linear,
    /// α (1 - t / until)³
    Cubic,
}

impl Decay {
    /// The fraction at `step`.
    pub fn at(self, start: f64, step: u64, until: u64) -> f64 {
        let t = (step as f64 / until.max(1) as f64).min(1.0);
        match self {
            Self::Constant => start,
            Self::Cosine => start / 2.0 * (1.0 + (std::f64::consts::PI * t).cos()),
            Self::Linear => start * (1.0 - t),
            Self::Cubic => start * (1.0 - t).powi(3),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cubic_follows_the_formula() {
        let s = Cubic { start: 100, end: 500, every: 100, initial: 1.0, density: 0.1 };
        assert_eq!(s.density(99), None);
        assert_eq!(s.density(100), Some(1.0));
        assert_eq!(s.density(150), None);
        assert!((s.density(200).unwrap() - (0.1 + 0.9 * 0.75f64.powi(3))).abs() < 1e-12);
        assert!((s.density(500).unwrap() - 0.1).abs() < 1e-12);
        assert_eq!(s.density(600), None);
        // An end off the grid still reaches the density.
        let s = Cubic { start: 0, end: 250, every: 100, initial: 1.0, density: 0.1 };
        assert!((s.density(250).unwrap() - 0.1).abs() < 1e-12);
        // A ramp of zero length is one shot.
        let s = Cubic { start: 0, end: 0, every: 100, initial: 1.0, density: 0.1 };
        assert_eq!(s.density(0), Some(0.1));
    }

    #[test]
    fn periods_parse_and_scale() {
        let setting = Setting { seed: 0, steps: 1000, steps_per_epoch: 80 };
        for (text, steps) in [("100 steps", 100), ("2 epochs", 160), ("0.75 run", 750), ("1 epoch", 80)] {
            assert_eq!(text.parse::<Period>().unwrap().steps(&setting), steps, "{text}");
        }
        for bad in ["100", "x steps", "-1 run", "nan run", "3 days"] {
            assert!(bad.parse::<Period>().is_err(), "{bad}");
        }
    }

    #[test]
    fn cosine_starts_at_alpha_and_ends_at_zero() {
        assert!((Decay::Cosine.at(0.3, 0, 100) - 0.3).abs() < 1e-12);
        assert!((Decay::Cosine.at(0.3, 50, 100) - 0.15).abs() < 1e-12);
        assert!(Decay::Cosine.at(0.3, 100, 100).abs() < 1e-12);
        assert!((Decay::Cubic.at(0.4, 50, 100) - 0.05).abs() < 1e-12);
    }
}
