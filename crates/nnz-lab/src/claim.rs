use crate::run::record::{RunRecord, SeedRecord};
use crate::{Arm, Summary, summarize};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a recipe is to show: one arm's metric against another's, or against a number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// In words.
    pub statement: String,
    /// What is compared.
    pub metric: Metric,
    /// The arm it is about.
    pub arm: String,
    /// The arm it is compared with, seed by seed...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
    /// ...or a number instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// The difference must be above this: negative allows a loss, positive demands a gain.
    pub margin: f64,
    /// Where the paper says so.
    pub source: String,
}

/// A number an arm has for each seed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Accuracy on the test split, in [0, 1].
    #[default]
    TestAccuracy,
    /// Seconds an epoch of the arm `dense`, with the same seed, over those of the arm: 1 is as fast. Of the machine it ran on.
    SpeedOverDense,
    /// What the arm's method measures, such as neural persistence.
    Measure,
    /// Share of the prunable entries that ever existed, in [0, 1]; the density where nothing was rewired.
    Explored,
    /// Mean training loss over the last epoch of the arm `dense`, with the same seed, less that of the arm: 0 is as low.
    LossBelowDense,
    /// Share of the multiply-adds of the training of the arm `dense`, with the same seed, that the arm did without
    /// ([`nnz_engine::EpochRecord::multiply_adds`]).
    MultiplyAddsSaved,
    /// Share of the bytes of optimizer state of the arm `dense`, with the same seed, that the arm did without.
    OptimizerBytesSaved,
    /// Share of the prunable entries that are zero at the end, in [0, 1].
    Sparsity,
}

impl Metric {
    /// Whether it is a share, which is written in hundredths.
    fn share(self) -> bool {
        matches!(
            self,
            Self::TestAccuracy | Self::Explored | Self::Sparsity | Self::MultiplyAddsSaved | Self::OptimizerBytesSaved
        )
    }

    /// Whether it compares with the arm `dense`.
    fn needs_dense(self) -> bool {
        !matches!(self, Self::TestAccuracy | Self::Explored | Self::Measure | Self::Sparsity)
    }

    /// A value as people read it.
    pub fn write(self, value: f64) -> String {
        match self {
            Self::SpeedOverDense => format!("{value:.2}x"),
            _ if self.share() => format!("{:.2}%", value * 100.0),
            _ => format!("{value:.4}"),
        }
    }

    /// A difference of two, and half the width of its interval.
    pub fn write_difference(self, value: f64, half_width: Option<f64>) -> String {
        let (scale, digits) = if self.share() { (100.0, 2) } else { (1.0, 4) };
        let half = half_width.map_or_else(String::new, |h| format!(" ± {:.digits$}", h * scale));
        format!("{:+.digits$}{half}", value * scale)
    }
}

/// What the numbers say of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The whole 95% interval of the difference lies above the margin.
    Holds,
    /// The interval holds the margin.
    NotShown,
    /// The whole interval lies below the margin.
    Contradicted,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Holds => "holds",
            Self::NotShown => "not shown",
            Self::Contradicted => "contradicted",
        })
    }
}

/// A judged claim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// What the numbers say.
    pub verdict: Verdict,
    /// Paired differences over seeds.
    pub difference: Summary,
    /// Mean of the arm.
    pub measured: f64,
    /// Mean of what it was compared with.
    pub reference: f64,
    /// Number of seeds.
    pub seeds: usize,
}

impl Claim {
    /// Whether the arms it names exist.
    pub(crate) fn check(&self, arms: &[Arm]) -> Result<(), String> {
        for name in [Some(&self.arm), self.against.as_ref()].into_iter().flatten() {
            if !arms.iter().any(|a| a.name == *name) {
                return Err(format!("the claim names `{name}`, which is no arm"));
            }
        }
        if self.metric.needs_dense() && !arms.iter().any(|a| a.name == "dense") {
            return Err("the claim's metric compares with an arm `dense`, and there is none".into());
        }
        match (&self.against, self.value) {
            (Some(_), None) | (None, Some(_)) => Ok(()),
            _ => Err("the claim needs either `against` or `value`".into()),
        }
    }

    /// Judges a finished run. With one seed there is no interval, and nothing is shown.
    pub fn judge(&self, record: &RunRecord) -> Option<Judgement> {
        let numbers = |name: &str| -> Option<Vec<f64>> {
            let arm = |name| record.arms.iter().find(|a| a.name == name);
            let seeds = &arm(name)?.seeds;
            let last = |s: &SeedRecord| s.epochs.last().cloned().unwrap_or_default();
            let beside = |of: &dyn Fn(&SeedRecord, &SeedRecord) -> f64| -> Option<Vec<f64>> {
                Some(arm("dense")?.seeds.iter().zip(seeds).map(|(dense, s)| of(dense, s)).collect())
            };
            match self.metric {
                Metric::TestAccuracy => Some(seeds.iter().map(|s| s.test_accuracy).collect()),
                Metric::Measure => seeds.iter().map(|s| s.measure).collect(),
                Metric::Sparsity => Some(seeds.iter().map(|s| 1.0 - s.density).collect()),
                Metric::Explored => {
                    let ever = |s: &SeedRecord| s.epochs.last().and_then(|e| e.explored).unwrap_or(s.density);
                    Some(seeds.iter().map(ever).collect())
                }
                Metric::SpeedOverDense => beside(&|dense, s| dense.seconds_per_epoch / s.seconds_per_epoch.max(1e-9)),
                Metric::LossBelowDense => beside(&|dense, s| last(dense).loss - last(s).loss),
                Metric::MultiplyAddsSaved => {
                    beside(&|dense, s| 1.0 - last(s).multiply_adds / last(dense).multiply_adds.max(1.0))
                }
                Metric::OptimizerBytesSaved => {
                    beside(&|dense, s| 1.0 - s.optimizer_bytes as f64 / dense.optimizer_bytes.max(1) as f64)
                }
            }
        };
        let measured = numbers(&self.arm)?;
        let reference = match (&self.against, self.value) {
            (Some(against), _) => numbers(against)?,
            (None, value) => vec![value?; measured.len()],
        };
        let differences: Vec<f64> = measured.iter().zip(&reference).map(|(m, r)| m - r).collect();
        let difference = summarize(&differences);
        let (low, high) = difference.interval();
        let verdict = match difference.half_width {
            Some(_) if low >= self.margin => Verdict::Holds,
            Some(_) if high < self.margin => Verdict::Contradicted,
            _ => Verdict::NotShown,
        };
        let mean = |v: &[f64]| summarize(v).mean;
        Some(Judgement {
            verdict,
            difference,
            measured: mean(&measured),
            reference: mean(&reference),
            seeds: differences.len(),
        })
    }
}
