use crate::experiment::MetricRecord;
use crate::{Summary, summarize};
use nnz_core::{Rng, closest};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A claim of a recipe: a metric of one arm, compared with another arm's or a number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Claim {
    /// The claim in words.
    pub statement: String,
    /// Key of the metric.
    pub metric: String,
    /// The arm it is about.
    pub arm: String,
    /// The arm it is compared with, seed by seed...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
    /// ...or a number; zero if neither is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// How the two are compared.
    pub relation: Relation,
    /// Where the relation must lie.
    pub expect: Expect,
    /// Source of the variation.
    pub over: Over,
    /// Place in the paper that makes the claim.
    pub source: String,
}

/// A claim in the format of files, with and without relations.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    statement: String,
    metric: String,
    arm: String,
    against: Option<String>,
    value: Option<f64>,
    #[serde(default)]
    relation: Relation,
    expect: Option<Expect>,
    #[serde(default)]
    over: Over,
    /// Old form of `expect`: above this.
    margin: Option<f64>,
    source: String,
}

impl TryFrom<Written> for Claim {
    type Error = String;

    fn try_from(w: Written) -> Result<Self, String> {
        let Written { statement, metric, arm, against, value, relation, expect, over, margin, source } = w;
        let expect = match (expect, margin) {
            (Some(expect), None) => expect,
            (None, Some(margin)) => Expect::Above(margin),
            _ => {
                return Err(
                    "a claim says `expect = { above = .. }`, `{ below = .. }` or `{ within = [.., ..] }`".into()
                );
            }
        };
        let claim = Self { statement, metric, arm, against, value, relation, expect, over, source };
        Ok(match margin {
            Some(margin) => claim.of_margin(margin),
            None => claim,
        })
    }
}

/// How an arm is compared with another arm or a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// Arm minus the other.
    #[default]
    Difference,
    /// Arm divided by the other.
    Ratio,
    /// Fraction of the other that the arm saved: 1 - arm / other.
    Saved,
}

impl Relation {
    fn of(self, arm: f64, other: f64) -> f64 {
        match self {
            Self::Difference => arm - other,
            Self::Ratio => arm / other,
            Self::Saved => 1.0 - arm / other,
        }
    }
}

/// Range in which a relation must lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expect {
    /// At least this.
    Above(f64),
    /// At most this.
    Below(f64),
    /// Between the two: an equivalence.
    Within([f64; 2]),
}

impl Expect {
    fn bounds(self) -> [f64; 2] {
        match self {
            Self::Above(low) => [low, f64::INFINITY],
            Self::Below(high) => [f64::NEG_INFINITY, high],
            Self::Within(both) => both,
        }
    }
}

/// Source of the variation that the interval covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Over {
    /// Seeds: Student's t of the paired relations.
    #[default]
    Seeds,
    /// Rows of the data (queries, images, blocks): a paired bootstrap.
    Rows,
    /// Nothing: the result is computed, and the same for every seed.
    Exact,
}

/// Outcome of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The whole 95% interval lies in the expected range.
    Holds,
    /// Part of it does.
    NotShown,
    /// None of it does.
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
    /// Outcome of the claim.
    pub verdict: Verdict,
    /// Mean relation.
    pub effect: f64,
    /// Its 95% interval; `None` with one seed, and if nothing varies.
    pub interval: Option<[f64; 2]>,
    /// Mean of the arm.
    pub measured: f64,
    /// Mean of the arm or number it was compared with.
    pub reference: f64,
    /// Number of seeds, or of rows.
    pub count: usize,
}

/// Results that claims can be judged on.
pub trait Measured {
    /// Returns the recorded metrics.
    fn metrics(&self) -> Vec<MetricRecord>;

    /// Values of a metric of an arm, for every seed in order.
    fn values(&self, arm: &str, metric: &str) -> Option<Vec<f64>>;

    /// Values row by row, seeds one after the other.
    fn rows(&self, _arm: &str, _metric: &str) -> Option<Vec<f64>> {
        None
    }
}

/// Resamples of a bootstrap.
const RESAMPLES: u64 = 10_000;

impl Claim {
    /// Converts a claim of the old form, whose metric already compared with the arm `dense`.
    fn of_margin(self, margin: f64) -> Self {
        let bound = self.value.unwrap_or(0.0) + margin;
        let beside_dense = |metric: &str, relation, expect| Self {
            metric: metric.into(),
            against: Some("dense".into()),
            value: None,
            relation,
            expect,
            ..self.clone()
        };
        match &*self.metric {
            "speed-over-dense" => beside_dense("epochs-per-second", Relation::Ratio, Expect::Above(bound)),
            "loss-below-dense" => beside_dense("train-loss", Relation::Difference, Expect::Below(-bound)),
            "multiply-adds-saved" => beside_dense("multiply-adds", Relation::Saved, Expect::Above(bound)),
            "optimizer-bytes-saved" => beside_dense("optimizer-bytes", Relation::Saved, Expect::Above(bound)),
            _ => self,
        }
    }

    /// Checks that the arms and metrics it names exist.
    pub(crate) fn check(&self, arms: &[&str]) -> Result<(), String> {
        for name in [Some(&self.arm), self.against.as_ref()].into_iter().flatten() {
            if !arms.contains(&name.as_str()) {
                let hint = closest(name, arms.iter().copied());
                return Err(format!("the claim names `{name}`, which is no arm{hint}"));
            }
        }
        match (&self.against, self.value, self.relation) {
            (Some(_), Some(_), _) => Err("the claim compares with `against` or with `value`, not with both".into()),
            (None, None, Relation::Ratio | Relation::Saved) => {
                Err("the claim needs `against` or `value` to take a ratio to".into())
            }
            _ => Ok(()),
        }
    }

    /// Judges results.
    ///
    /// # Errors
    /// When an arm or metric is missing, or `over` does not fit the results.
    pub fn judge(&self, results: &dyn Measured) -> Result<Judgement, String> {
        let numbers = |arm: &str, rows: bool| {
            let found = if rows { results.rows(arm, &self.metric) } else { results.values(arm, &self.metric) };
            found.filter(|v| !v.is_empty()).ok_or_else(|| {
                let all = results.metrics();
                let hint = closest(&self.metric, all.iter().map(|m| &*m.key));
                let what = if rows { "row by row " } else { "" };
                format!("`{arm}` has no metric `{}` {what}to be judged by{hint}", self.metric)
            })
        };
        let rows = self.over == Over::Rows;
        let measured = numbers(&self.arm, rows)?;
        let reference = match &self.against {
            Some(against) => numbers(against, rows)?,
            None => vec![self.value.unwrap_or(0.0); measured.len()],
        };
        if measured.len() != reference.len() {
            return Err(format!("{} values cannot be paired with {}", measured.len(), reference.len()));
        }
        let mean = |v: &[f64]| summarize(v).mean;
        let (effect, interval) = match self.over {
            Over::Seeds => {
                let paired: Vec<f64> = measured.iter().zip(&reference).map(|(&m, &r)| self.relation.of(m, r)).collect();
                let s: Summary = summarize(&paired);
                (s.mean, s.half_width.map(|_| s.interval().into()))
            }
            Over::Rows => {
                let effect = self.relation.of(mean(&measured), mean(&reference));
                (effect, Some(self.bootstrap(&measured, &reference)))
            }
            Over::Exact => {
                if measured.iter().any(|&m| m != measured[0]) || reference.iter().any(|&r| r != reference[0]) {
                    return Err("seeds differ, so the result is not exact; judge it over seeds".into());
                }
                let effect = self.relation.of(measured[0], reference[0]);
                (effect, Some([effect, effect]))
            }
        };
        let [from, to] = self.expect.bounds();
        let verdict = match interval {
            Some([low, high]) if low >= from && high <= to => Verdict::Holds,
            Some([low, high]) if high < from || low > to => Verdict::Contradicted,
            _ => Verdict::NotShown,
        };
        let interval = interval.filter(|_| self.over != Over::Exact);
        let (measured_mean, reference) = (mean(&measured), mean(&reference));
        Ok(Judgement { verdict, effect, interval, measured: measured_mean, reference, count: measured.len() })
    }

    /// Percentiles of the relation of means under resampled rows, the same rows for both (Efron 1979).
    fn bootstrap(&self, measured: &[f64], reference: &[f64]) -> [f64; 2] {
        let n = measured.len() as u64;
        let draw = |k: u64| {
            let mut rng = Rng::stream(0, "bootstrap", 0, k);
            let (mut m, mut r) = (0.0, 0.0);
            for _ in 0..n {
                let at = rng.below(n) as usize;
                m += measured[at];
                r += reference[at];
            }
            self.relation.of(m / n as f64, r / n as f64)
        };
        let mut all: Vec<f64> = (0..RESAMPLES).map(draw).collect();
        all.sort_by(f64::total_cmp);
        let at = |share: f64| all[(share * (RESAMPLES - 1) as f64).round() as usize];
        [at(0.025), at(0.975)]
    }

    /// Formats a value of the claim's metric for readers.
    pub fn write(&self, metrics: &[MetricRecord], value: f64) -> String {
        self.unit(metrics).write(value)
    }

    /// Formats the relation and its interval for readers.
    pub fn write_effect(&self, metrics: &[MetricRecord], effect: f64, interval: Option<[f64; 2]>) -> String {
        let one = |v: f64| match self.relation {
            Relation::Difference if self.alone() => self.write(metrics, v),
            Relation::Difference => self.unit(metrics).write_difference(v),
            Relation::Ratio => format!("{v:.2}x"),
            Relation::Saved => format!("{:.2}% saved", v * 100.0),
        };
        match interval {
            Some([low, high]) => format!("{} [{}, {}]", one(effect), one(low), one(high)),
            None => one(effect),
        }
    }

    /// What was measured against what, for readers: an arm, a number of the claim, or nothing.
    pub fn write_measured(&self, metrics: &[MetricRecord], judgement: &Judgement) -> String {
        let measured = self.write(metrics, judgement.measured);
        let effect = self.write_effect(metrics, judgement.effect, judgement.interval);
        match (&self.against, self.value) {
            (Some(arm), _) => {
                format!("{measured} against {} of {arm}: {effect}", self.write(metrics, judgement.reference))
            }
            (None, Some(number)) => format!("{measured} against the number {}: {effect}", self.write(metrics, number)),
            (None, None) => match judgement.interval {
                Some([low, high]) => {
                    format!("{measured} [{}, {}]", self.write(metrics, low), self.write(metrics, high))
                }
                None => measured,
            },
        }
    }

    /// What it is compared with, in a cell of a table.
    pub fn write_reference(&self, metrics: &[MetricRecord], reference: Option<f64>) -> String {
        match (&self.against, self.value, reference) {
            (Some(_), _, Some(mean)) => self.write(metrics, mean),
            (None, Some(number), _) => self.write(metrics, number),
            _ => "-".into(),
        }
    }

    /// Whether the relation is the metric itself.
    fn alone(&self) -> bool {
        self.against.is_none() && self.value.is_none()
    }

    /// Formats the expected range in words.
    pub fn write_expected(&self, metrics: &[MetricRecord]) -> String {
        let one = |v| self.write_effect(metrics, v, None);
        match self.expect {
            Expect::Above(low) => format!("at least {}", one(low)),
            Expect::Below(high) => format!("at most {}", one(high)),
            Expect::Within([low, high]) => format!("{} to {}", one(low), one(high)),
        }
    }

    fn unit(&self, metrics: &[MetricRecord]) -> nnz_core::Unit {
        metrics.iter().find(|m| m.key == self.metric).map_or_else(Default::default, |m| m.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::{Better, Metric, Unit};

    struct Made;

    impl Measured for Made {
        fn metrics(&self) -> Vec<MetricRecord> {
            vec![(&Metric::new("score", Unit::Share, Better::Higher, "A score.")).into()]
        }
        fn values(&self, arm: &str, metric: &str) -> Option<Vec<f64>> {
            let values = match arm {
                "good" => vec![0.90, 0.91, 0.92],
                "bad" => vec![0.80, 0.81, 0.82],
                "same" => vec![0.5; 3],
                "one" => vec![0.9],
                _ => return None,
            };
            (metric == "score").then_some(values)
        }
        fn rows(&self, arm: &str, _: &str) -> Option<Vec<f64>> {
            let base = if arm == "good" { 1.0 } else { 0.0 };
            Some((0..200).map(|i| base + f64::from(i % 7)).collect())
        }
    }

    fn claim(text: &str) -> Claim {
        let said = format!("statement = \"s\"\nsource = \"p\"\nmetric = \"score\"\n{text}");
        toml::from_str(&said).unwrap_or_else(|e| panic!("{said}: {e}"))
    }

    fn judged(text: &str) -> Judgement {
        claim(text).judge(&Made).unwrap()
    }

    #[test]
    fn relations_and_expectations_by_hand() {
        let verdict = |text: &str| judged(text).verdict;
        assert_eq!(verdict("arm = 'good'\nagainst = 'bad'\nexpect = { above = 0.0 }"), Verdict::Holds);
        assert_eq!(verdict("arm = 'bad'\nagainst = 'good'\nexpect = { above = 0.0 }"), Verdict::Contradicted);
        assert_eq!(verdict("arm = 'good'\nvalue = 0.91\nexpect = { above = 0.0 }"), Verdict::NotShown);
        assert_eq!(
            verdict("arm = 'bad'\nagainst = 'good'\nrelation = 'ratio'\nexpect = { below = 0.95 }"),
            Verdict::Holds
        );
        let saved = judged("arm = 'bad'\nagainst = 'good'\nrelation = 'saved'\nexpect = { within = [0.1, 0.12] }");
        assert_eq!(saved.verdict, Verdict::Holds);
        assert!((saved.effect - 0.1099).abs() < 1e-3, "{saved:?}");
        assert_eq!(verdict("arm = 'one'\nexpect = { above = 0.0 }"), Verdict::NotShown, "one seed shows nothing");
        let exact = judged("arm = 'same'\nover = 'exact'\nexpect = { within = [0.4, 0.6] }");
        assert_eq!((exact.verdict, exact.interval), (Verdict::Holds, None));
        assert!(
            claim("arm = 'good'\nover = 'exact'\nexpect = { above = 0.0 }")
                .judge(&Made)
                .unwrap_err()
                .contains("differ")
        );
        assert!(claim("arm = 'none'\nexpect = { above = 0.0 }").judge(&Made).unwrap_err().contains("none"));
    }

    /// Whether a claim compares with an arm, a number or nothing, its words fit.
    #[test]
    fn a_claim_says_what_it_compares_with() {
        let said = |text: &str| {
            let (claim, metrics) = (claim(text), Made.metrics());
            let judgement = claim.judge(&Made).unwrap();
            let reference = claim.write_reference(&metrics, Some(judgement.reference));
            (claim.write_measured(&metrics, &judgement), reference, claim.write_expected(&metrics))
        };
        let (measured, reference, expected) = said("arm = 'good'\nagainst = 'bad'\nexpect = { above = 0.02 }");
        assert!(measured.starts_with("91.00% against 81.00% of bad: +10.00% ["), "{measured}");
        assert_eq!((&*reference, &*expected), ("81.00%", "at least +2.00%"));
        let (measured, reference, _) = said("arm = 'one'\nvalue = 0.88\nexpect = { above = 0.0 }");
        assert_eq!((&*measured, &*reference), ("90.00% against the number 88.00%: +2.00%", "88.00%"));
        let (measured, reference, expected) = said("arm = 'one'\nexpect = { above = 0.85 }");
        assert_eq!((&*measured, &*reference, &*expected), ("90.00%", "-", "at least 85.00%"));
        let (measured, ..) = said("arm = 'good'\nexpect = { above = 0.85 }");
        assert!(measured.starts_with("91.00% [88.5") && !measured.contains("against"), "{measured}");
    }

    /// Rows that all differ by one: the paired bootstrap has no spread, unlike the means.
    #[test]
    fn rows_are_paired() {
        let rows = judged("arm = 'good'\nagainst = 'bad'\nover = 'rows'\nexpect = { within = [0.999, 1.001] }");
        assert_eq!((rows.verdict, rows.count), (Verdict::Holds, 200));
        let [low, high] = judged("arm = 'good'\nover = 'rows'\nexpect = { above = 0.0 }").interval.unwrap();
        // Values 1 to 7 with deviation 2: 1.96 · 2 / √200 to either side of about 3.97.
        assert!((high - low - 0.554).abs() < 0.03 && low < 3.97 && high > 3.97, "{low} {high}");
    }

    #[test]
    fn claims_of_the_first_kind_are_read() {
        let old = |metric: &str, rest: &str| -> Claim {
            let said = format!("statement = \"s\"\nsource = \"p\"\nmetric = \"{metric}\"\narm = \"a\"\n{rest}");
            toml::from_str(&said).unwrap()
        };
        let speed = old("speed-over-dense", "value = 1.0\nmargin = 2.0");
        assert_eq!(
            (&*speed.metric, speed.relation, speed.expect),
            ("epochs-per-second", Relation::Ratio, Expect::Above(3.0))
        );
        let loss = old("loss-below-dense", "value = 0.0\nmargin = -0.1");
        assert_eq!((loss.against.as_deref(), loss.expect), (Some("dense"), Expect::Below(0.1)));
        let bytes = old("optimizer-bytes-saved", "value = 0.0\nmargin = 0.5");
        assert_eq!((bytes.relation, bytes.expect, bytes.value), (Relation::Saved, Expect::Above(0.5), None));
        let plain = old("test-accuracy", "against = \"b\"\nmargin = -0.005");
        assert_eq!((plain.relation, plain.expect), (Relation::Difference, Expect::Above(-0.005)));
        // Written, it has today's form.
        let text = toml::to_string(&speed).unwrap();
        assert!(!text.contains("margin"), "{text}");
        assert_eq!(toml::from_str::<Claim>(&text).unwrap(), speed);
    }
}
