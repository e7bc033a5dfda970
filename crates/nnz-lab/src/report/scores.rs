//! Measures of the answers beside the task's own: of all arms, and of each class or target.

use super::format::{NONE, count, points, significant};
use super::frame::{number, swatch, table};
use super::view::{View, first};
use crate::run::record::{ArmRecord, scored};
use maud::{Markup, html};
use nnz_core::{Metric, Unit};

/// Above this many classes only those with the lowest F1 are shown.
const LISTED: usize = 40;
/// So many then.
const WORST: usize = 20;

/// A value of a metric, for readers.
fn written(unit: Unit, value: f64) -> String {
    match unit {
        _ if !value.is_finite() => NONE.into(),
        Unit::Number => significant(value, 4),
        unit => unit.write(value),
    }
}

/// Whether there is anything to show.
pub(super) fn any(view: &View) -> bool {
    !metrics(view).is_empty()
}

fn metrics(view: &View) -> Vec<&'static Metric> {
    scored(view.record.arms.iter().flat_map(|a| &a.seeds).map(|s| &s.scores))
}

/// All arms by all measures, then the classes or targets of the method arm.
pub(super) fn measures(view: &View) -> Markup {
    let metrics = metrics(view);
    let cell = |arm: &ArmRecord, metric: &&Metric| match arm.metric(metric.key) {
        None => number(NONE),
        Some(s) => {
            let half = s.half_width.filter(|h| h.is_finite()).map(|h| match metric.unit {
                Unit::Share => points(h, 2),
                unit => written(unit, h),
            });
            html! { span.number { (written(metric.unit, s.mean)) @if let Some(half) = half { small { " ± " (half) } } } }
        }
    };
    let row = |(i, arm): (usize, &ArmRecord)| {
        let name = html! { (swatch(i)) (arm.name) };
        std::iter::once(name).chain(metrics.iter().map(|m| cell(arm, m))).collect()
    };
    let rows: Vec<Vec<Markup>> = view.record.arms.iter().enumerate().map(row).collect();
    let heads: Vec<&str> = std::iter::once("Arm").chain(metrics.iter().map(|m| m.key)).collect();
    let caption = html! {
        "On the test split"
        @for m in &metrics { "; " b { (m.key) } ": " (m.about.trim_end_matches('.')) }
        "."
    };
    html! {
        (table(caption, &heads, &rows))
        (parts(view))
        @for note in first(view.method).into_iter().flat_map(|s| &s.scores.notes) { p.note { "In " (view.method.name) (view.seed()) ", " (note) "." } }
    }
}

fn share(value: Option<f64>) -> Markup {
    number(value.map_or_else(|| NONE.into(), |v| written(Unit::Share, v)))
}

fn plain(value: Option<f64>) -> Markup {
    number(value.map_or_else(|| NONE.into(), |v| written(Unit::Number, v)))
}

/// The classes or targets of the method arm's first seed.
fn parts(view: &View) -> Markup {
    let Some(scores) = first(view.method).map(|s| &s.scores) else { return html! {} };
    if !scores.classes.is_empty() {
        let mut classes: Vec<_> = scores.classes.iter().collect();
        let all = classes.len();
        if all > LISTED {
            classes.sort_by(|a, b| a.f1.unwrap_or(2.0).total_cmp(&b.f1.unwrap_or(2.0)));
            classes.truncate(WORST);
        }
        let row = |c: &&crate::scores::ClassScore| {
            let rows = number(count(c.rows as u64));
            vec![html! { (c.class) }, share(c.precision), share(c.recall), plain(c.f1), plain(c.auc), rows]
        };
        let rows: Vec<Vec<Markup>> = classes.iter().map(row).collect();
        let caption = html! {
            "The classes of " (view.method.name) (view.seed()) ", each against the others"
            @if all > LISTED { "; the " (WORST) " of " (count(all as u64)) " with the lowest F1, the others are in classes.csv" } "."
        };
        return table(caption, &["Class", "Precision", "Recall", "F1", "AUC", "Test rows"], &rows);
    }
    if scores.targets.len() < 2 {
        return html! {};
    }
    let row = |t: &crate::scores::TargetScore| {
        vec![html! { (t.target) }, plain(Some(t.rmse)), plain(Some(t.mae)), plain(t.r2)]
    };
    let rows: Vec<Vec<Markup>> = scores.targets.iter().map(row).collect();
    let caption = html! { "The targets of " (view.method.name) (view.seed()) ", in their own units." };
    table(caption, &["Target", "RMSE", "MAE", "R²"], &rows)
}
