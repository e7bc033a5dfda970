//! Measures of what a network answered to rows, beside the measure of its task: for classes balanced accuracy, F1 and the area under
//! the ROC curve, for numbers errors in the units of the targets. The book's page on measures has their formulas.

use nnz_engine::data::{Dataset, Split};
use nnz_engine::{Evaluation, Task};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Most names in a note.
const NAMED: usize = 8;

/// Measures of one network on rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Values of metrics by key; those that the rows do not determine are missing.
    pub metrics: BTreeMap<String, f64>,
    /// One element per class; empty without classes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<ClassScore>,
    /// One element per target; empty without numbers to predict.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<TargetScore>,
    /// What the rows do not determine, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Measures of one class against all others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassScore {
    /// Its name.
    pub class: String,
    /// Its rows, also called support.
    pub rows: usize,
    /// Share of the rows predicted as this class that are of it; `None` if it is never predicted.
    pub precision: Option<f64>,
    /// Share of its rows that are predicted as it; `None` without rows.
    pub recall: Option<f64>,
    /// 2 TP / (2 TP + FP + FN); `None` if it neither occurs nor is predicted.
    pub f1: Option<f64>,
    /// Area under the ROC curve of its probability, against all other rows; `None` if either has no rows.
    pub auc: Option<f64>,
}

/// Measures of one target, in its own units.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TargetScore {
    /// Its name.
    pub target: String,
    /// Root of the mean squared error.
    pub rmse: f64,
    /// Mean absolute error.
    pub mae: f64,
    /// 1 - Σ (y - ŷ)² / Σ (y - ȳ)²; `None` for a target that is constant in these rows.
    pub r2: Option<f64>,
}

impl Scores {
    /// Whether nothing is measured beside the task's own measure.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds them to a JSON object: metrics by name, `classes`, `targets`, `notes`.
    pub fn write_into(&self, object: &mut serde_json::Value) {
        let list = |parts: Value| Some(parts).filter(|p| p.as_array().is_some_and(|p| !p.is_empty()));
        self.metrics.iter().for_each(|(key, value)| object[key.replace('-', "_")] = json!(value));
        for (key, parts) in
            [("classes", json!(self.classes)), ("targets", json!(self.targets)), ("notes", json!(self.notes))]
        {
            list(parts).into_iter().for_each(|parts| object[key] = parts);
        }
    }

    /// Measures an evaluation of all rows of a split.
    pub fn of(data: &Dataset, split: &Split, task: Task, evaluation: &Evaluation) -> Self {
        match task {
            Task::Classification => {
                let predicted: Vec<u32> = evaluation.predictions.iter().map(|p| p.0).collect();
                Self::of_classes(&data.classes, &split.labels, &predicted, &evaluation.answers)
            }
            Task::Regression => Self::of_numbers(&data.classes, &split.targets, &evaluation.answers),
            Task::Reconstruction => Self::default(),
        }
    }

    /// Measures predicted classes; `probabilities` is `[rows, classes]`, or empty if they were too many to keep.
    pub fn of_classes(names: &[String], labels: &[u32], predicted: &[u32], probabilities: &[f32]) -> Self {
        let n = names.len();
        let (mut rows, mut guesses, mut right) = (vec![0usize; n], vec![0usize; n], vec![0usize; n]);
        for (&label, &guess) in labels.iter().zip(predicted) {
            rows[label as usize] += 1;
            guesses[guess as usize] += 1;
            right[label as usize] += usize::from(label == guess);
        }
        let share = |part: usize, of: usize| (of > 0).then(|| part as f64 / of as f64);
        let area = |k: usize| {
            let of_class: Vec<f32> = probabilities.iter().skip(k).step_by(n).copied().collect();
            auc(&of_class, |row| labels[row] as usize == k)
        };
        let classes: Vec<ClassScore> = (0..n)
            .map(|k| ClassScore {
                class: names[k].clone(),
                rows: rows[k],
                precision: share(right[k], guesses[k]),
                recall: share(right[k], rows[k]),
                f1: share(2 * right[k], rows[k] + guesses[k]),
                auc: area(k),
            })
            .collect();
        let mut metrics = BTreeMap::new();
        let mut put = |key: &str, value: Option<f64>| value.map(|v| metrics.insert(key.to_string(), v));
        put("balanced-accuracy", mean(classes.iter().filter_map(|c| c.recall)));
        put("macro-f1", mean(classes.iter().filter_map(|c| c.f1)));
        // Of two classes the second is the positive one; both have the same area, up to rounding.
        put("auc", if n == 2 { classes[1].auc } else { mean(classes.iter().filter_map(|c| c.auc)) });

        let list = |what: &dyn Fn(&ClassScore) -> bool| listed(classes.iter().filter(|c| what(c)).map(|c| &*c.class));
        let mut notes = Vec::new();
        if let Some(absent) = list(&|c| c.rows == 0) {
            notes.push(format!(
                "no row is of class {absent}: recall and AUC are unknown there and left out of the means"
            ));
        }
        if let Some(never) = list(&|c| c.rows > 0 && c.precision.is_none()) {
            notes.push(format!("never predicted: {never}; precision is unknown there"));
        }
        if probabilities.len() != labels.len() * n {
            notes.push(format!("AUC is left out: {} rows of {n} probabilities are too many to sort", labels.len()));
        } else if classes.iter().all(|c| c.auc.is_none()) {
            notes.push("all rows are of one class, so there is no AUC".into());
        }
        Self { metrics, classes, targets: Vec::new(), notes }
    }

    /// Measures predicted numbers, both `[rows, targets]`.
    pub fn of_numbers(names: &[String], wanted: &[f32], predicted: &[f32]) -> Self {
        let n = names.len().max(1);
        if wanted.is_empty() || wanted.len() != predicted.len() {
            let notes = vec![format!("errors are left out: {} predicted numbers are too many to keep", wanted.len())];
            return Self { notes, ..Self::default() };
        }
        if predicted.iter().any(|p| !p.is_finite()) {
            let notes = vec!["some predictions are no finite numbers, so errors are left out".into()];
            return Self { notes, ..Self::default() };
        }
        let target = |k: usize| {
            let column = |values: &[f32]| -> Vec<f64> { values.iter().skip(k).step_by(n).map(|&v| v.into()).collect() };
            let (wanted, predicted) = (column(wanted), column(predicted));
            let of = |f: &dyn Fn(f64, f64) -> f64| {
                wanted.iter().zip(&predicted).map(|(&y, &p)| f(y, p)).sum::<f64>() / wanted.len() as f64
            };
            let (squares, middle) = (of(&|y, p| (y - p).powi(2)), of(&|y, _| y));
            let spread = of(&|y, _| (y - middle).powi(2));
            let varies = wanted.iter().any(|y| *y != wanted[0]);
            TargetScore {
                target: names[k].clone(),
                rmse: squares.sqrt(),
                mae: of(&|y, p| (y - p).abs()),
                r2: varies.then(|| 1.0 - squares / spread),
            }
        };
        let targets: Vec<TargetScore> = (0..names.len()).map(target).collect();
        let mut metrics = BTreeMap::new();
        let mut put = |key: &str, value: Option<f64>| value.map(|v| metrics.insert(key.to_string(), v));
        put("rmse", mean(targets.iter().map(|t| t.rmse)));
        put("mae", mean(targets.iter().map(|t| t.mae)));
        put("r2", mean(targets.iter().filter_map(|t| t.r2)));
        let constant = listed(targets.iter().filter(|t| t.r2.is_none()).map(|t| &*t.target));
        let notes =
            constant.map(|names| format!("constant in these rows: {names}; R² is unknown there")).into_iter().collect();
        Self { metrics, classes: Vec::new(), targets, notes }
    }
}

/// Area under the ROC curve: the share of the pairs of a row of the class and another row in which the former has the higher score.
/// Equal scores count half (Mann & Whitney 1947). `None` if either side has no rows, or a score is no number. O(n log n).
pub fn auc(scores: &[f32], of_class: impl Fn(usize) -> bool) -> Option<f64> {
    if scores.iter().any(|s| s.is_nan()) {
        return None;
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    // Twice the pairs won by rows of the class: two for each other row below, one for each that is equal.
    let (mut below, mut own, mut won) = (0u64, 0u64, 0u128);
    for equal in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
        let inside = equal.iter().filter(|&&row| of_class(row)).count() as u64;
        let outside = equal.len() as u64 - inside;
        won += u128::from(inside) * u128::from(2 * below + outside);
        own += inside;
        below += outside;
    }
    (own > 0 && below > 0).then(|| won as f64 / (2.0 * own as f64 * below as f64))
}

/// The mean; `None` of nothing.
fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0usize), |(sum, n), v| (sum + v, n + 1));
    (n > 0).then(|| sum / n as f64)
}

/// The first names in quotation marks, and how many more there are; `None` of nothing.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let all: Vec<String> = names.map(|n| format!("`{n}`")).collect();
    let more = all.len().saturating_sub(NAMED);
    let first = all[..all.len() - more].join(", ");
    match (all.is_empty(), more) {
        (true, _) => None,
        (_, 0) => Some(first),
        _ => Some(format!("{first} and {more} more")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goldens() -> Value {
        serde_json::from_str(include_str!("../../../goldens/scores.json")).unwrap()
    }

    fn numbers(value: &Value) -> Vec<Option<f64>> {
        value.as_array().unwrap().iter().map(Value::as_f64).collect()
    }

    fn singles(value: &Value) -> Vec<f32> {
        numbers(value).into_iter().map(|v| v.unwrap() as f32).collect()
    }

    fn near(got: &[Option<f64>], want: &[Option<f64>]) -> bool {
        let one = |(got, want): (&Option<f64>, &Option<f64>)| match (got, want) {
            (Some(got), Some(want)) => (got - want).abs() <= 1e-9 * want.abs().max(1.0),
            _ => got == want,
        };
        got.len() == want.len() && got.iter().zip(want).all(one)
    }

    #[test]
    fn classes_are_measured_as_scikit_learn_does() {
        let goldens = goldens();
        let cases = goldens["classes"].as_array().unwrap();
        assert!(cases.len() >= 10);
        for case in cases {
            let n = case["classes"].as_u64().unwrap() as usize;
            let names: Vec<String> = (0..n).map(|k| k.to_string()).collect();
            let labels: Vec<u32> = singles(&case["labels"]).into_iter().map(|l| l as u32).collect();
            let p = singles(&case["probabilities"]);
            let best = |row: &[f32]| (1..n).fold(0, |b, i| if row[i] > row[b] { i } else { b }) as u32;
            let predicted: Vec<u32> = p.chunks_exact(n).map(best).collect();
            let found = Scores::of_classes(&names, &labels, &predicted, &p);
            for key in ["balanced-accuracy", "macro-f1", "auc"] {
                let (got, want) = (found.metrics.get(key).copied(), case[key].as_f64());
                assert!(near(&[got], &[want]), "{}: {key} is {got:?}, not {want:?}", case["name"]);
            }
            let of = |f: fn(&ClassScore) -> Option<f64>| found.classes.iter().map(f).collect::<Vec<_>>();
            for (key, got) in [
                ("precision", of(|c| c.precision)),
                ("recall", of(|c| c.recall)),
                ("f1", of(|c| c.f1)),
                ("auc-of-classes", of(|c| c.auc)),
                ("rows", of(|c| Some(c.rows as f64))),
            ] {
                // scikit-learn knows no recall of a class without rows, and says 0 for the F1 of one that is predicted.
                let want = numbers(&case[key]);
                assert!(near(&got, &want), "{}: {key} is {got:?}, not {want:?}", case["name"]);
            }
        }
    }

    #[test]
    fn numbers_are_measured_as_scikit_learn_does() {
        for case in goldens()["numbers"].as_array().unwrap() {
            let n = case["targets"].as_u64().unwrap() as usize;
            let names: Vec<String> = (0..n).map(|k| k.to_string()).collect();
            let found = Scores::of_numbers(&names, &singles(&case["want"]), &singles(&case["got"]));
            for key in ["rmse", "mae", "r2"] {
                let (got, want) = (found.metrics.get(key).copied(), case[key].as_f64());
                assert!(near(&[got], &[want]), "{}: {key} is {got:?}, not {want:?}", case["name"]);
            }
            let of = |f: fn(&TargetScore) -> Option<f64>| found.targets.iter().map(f).collect::<Vec<_>>();
            for (key, got) in [
                ("rmse-of-targets", of(|t| Some(t.rmse))),
                ("mae-of-targets", of(|t| Some(t.mae))),
                ("r2-of-targets", of(|t| t.r2)),
            ] {
                assert!(near(&got, &numbers(&case[key])), "{}: {key} is {got:?}", case["name"]);
            }
        }
    }

    #[test]
    fn equal_scores_count_half() {
        let of = |scores: &[f32], of: &[bool]| auc(scores, |row| of[row]);
        // Pairs (0.5, 0.5) tied, (0.5, 0.1) won, (0.9, both) won: 3.5 of 4.
        assert_eq!(of(&[0.5, 0.5, 0.1, 0.9], &[true, false, false, true]), Some(0.875));
        assert_eq!(of(&[0.2; 5], &[true, false, true, false, false]), Some(0.5));
        assert_eq!(of(&[0.0, -0.0], &[true, false]), Some(0.5), "both are zero");
        assert_eq!(of(&[0.1, 0.2], &[true, true]), None);
        assert_eq!(of(&[0.1, f32::NAN], &[true, false]), None);
        assert_eq!(of(&[], &[]), None);
    }

    #[test]
    fn what_rows_do_not_determine_is_said() {
        let names: Vec<String> = ["a", "b", "c"].map(String::from).into();
        let p = [0.8, 0.1, 0.1, 0.7, 0.2, 0.1, 0.6, 0.3, 0.1];
        let found = Scores::of_classes(&names, &[0, 0, 1], &[0, 0, 0], &p);
        assert_eq!(found.metrics["balanced-accuracy"], 0.5);
        let said = found.notes.join("; ");
        assert!(said.contains("no row is of class `c`") && said.contains("never predicted: `b`"), "{said}");
        let one = Scores::of_classes(&names, &[0, 0, 0], &[0, 0, 0], &p);
        assert!(!one.metrics.contains_key("auc") && one.notes.iter().any(|n| n.contains("no AUC")), "{:?}", one.notes);
        let many = Scores::of_classes(&names, &[0, 0, 1], &[0, 0, 0], &[]);
        assert!(many.notes.iter().any(|n| n.contains("too many")) && !many.metrics.contains_key("auc"));
        let flat = Scores::of_numbers(&["y".into()], &[2.0, 2.0], &[1.0, 3.0]);
        assert!(!flat.metrics.contains_key("r2") && flat.notes[0].contains("`y`"), "{:?}", flat.notes);
        assert_eq!((flat.metrics["rmse"], flat.metrics["mae"]), (1.0, 1.0));
    }
}
