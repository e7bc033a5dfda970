use serde::{Deserialize, Serialize};

/// Shape of the learning rate over a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LrSchedule {
    /// Constant rate.
    Constant,
    /// Half a cosine from the full rate to zero.
    #[default]
    Cosine,
    /// A tenth of the rate from half of the run on, a hundredth from three quarters on.
    Step,
}

impl LrSchedule {
    /// Factor at `step` of `steps`; rises from zero over the first share `warmup` of them.
    pub fn factor(self, step: u64, steps: u64, warmup: f64) -> f64 {
        let t = step as f64 / steps.max(1) as f64;
        let warm = if t < warmup { (step + 1) as f64 / (warmup * steps as f64).max(1.0) } else { 1.0 };
        warm.min(1.0) * self.shape(t)
    }

    fn shape(self, t: f64) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * t).cos()),
            Self::Step if t < 0.5 => 1.0,
            Self::Step if t < 0.75 => 0.1,
            Self::Step => 0.01,
        }
    }
}
