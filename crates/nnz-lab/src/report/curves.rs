//! Learning curves and the density over training.

use super::axis::{Axis, Spacing};
use super::chart::{Bin, Line, histogram, lines};
use super::format::{accuracy, count, share, significant, tick};
use super::frame::figure;
use super::stats::mean_curve;
use super::tables::legend;
use super::view::View;
use crate::run::record::{ArmRecord, EpochRecord};
use maud::{Markup, html};

/// The mean of an arm and, with several seeds, each seed in the background.
fn arm_lines(series: usize, arm: &ArmRecord, quantity: fn(&EpochRecord) -> f64) -> Vec<Line> {
    let seed = |s: &crate::run::record::SeedRecord| Line {
        series,
        faint: true,
        name: format!("{}, seed {}", arm.name, s.seed),
        points: s.epochs.iter().map(|e| (f64::from(e.epoch), quantity(e))).collect(),
    };
    let mean = Line { series, faint: false, name: arm.name.clone(), points: mean_curve(arm, quantity) };
    let seeds = if arm.seeds.len() > 1 { arm.seeds.iter().map(seed).collect() } else { vec![] };
    seeds.into_iter().chain([mean]).filter(|l| l.points.iter().any(|p| p.1.is_finite())).collect()
}

/// Epochs are integers: a chart of two epochs has no tick at 1.5.
fn epochs(all: &[Line]) -> Axis {
    let values: Vec<f64> = all.iter().flat_map(|l| l.points.iter().map(|p| p.0)).collect();
    Axis::whole("epoch", values)
}

/// Describes a curve in words: `rigl 2.31 → 0.04`.
fn ends(all: &[Line], write: fn(f64) -> String) -> String {
    let one = |l: &Line| {
        let mut finite = l.points.iter().filter(|p| p.1.is_finite());
        let first = finite.next()?;
        Some(match finite.next_back() {
            Some(last) => format!("{} {} to {}", l.name, write(first.1), write(last.1)),
            None => format!("{} {}", l.name, write(first.1)),
        })
    };
    all.iter().filter(|l| !l.faint).filter_map(one).collect::<Vec<_>>().join("; ")
}

/// A tick of a share: two of its decimals are in the percent sign.
fn percent_tick(share: f64, decimals: usize) -> String {
    accuracy(share, decimals.saturating_sub(2))
}

/// Training loss and validation accuracy of all arms.
pub(super) fn learning(view: &View) -> Markup {
    let of = |quantity: fn(&EpochRecord) -> f64| -> Vec<Line> {
        view.record.arms.iter().enumerate().flat_map(|(i, a)| arm_lines(i, a, quantity)).collect()
    };
    let (losses, accuracies) = (of(|e| e.loss), of(|e| e.accuracy));
    if losses.is_empty() && accuracies.is_empty() {
        return html! { p.note { "No epoch finished with a finite loss or measure." } };
    }
    let values = |all: &[Line]| all.iter().flat_map(|l| l.points.iter().map(|p| p.1)).collect::<Vec<_>>();
    let loss = Axis::fit("training loss", values(&losses), Spacing::Log, tick);
    let (measure, what) = match view.classes() {
        true => ("Validation accuracy", "Share of held-out rows read correctly after each epoch."),
        false => ("Variance explained", "Share of the variance of held-out rows explained after each epoch."),
    };
    let right = Axis::fit(
        if view.classes() { "validation accuracy" } else { "variance explained" },
        values(&accuracies),
        Spacing::NearOne,
        percent_tick,
    );
    let stretched = |axis: &Axis, how: &str| if axis.is_linear() { String::new() } else { format!(" {how}") };
    let write_loss = |v: f64| significant(v, 3);
    let write_accuracy = |v: f64| accuracy(v, 2);
    let seeds = if view.record.arms.iter().any(|a| a.seeds.len() > 1) {
        " Bold: mean over seeds; faint: single seeds."
    } else {
        ""
    };
    html! {
        (legend(view, &(0..view.record.arms.len()).collect::<Vec<_>>()))
        div.pair {
            (figure("Training loss", lines("Training loss over epochs, one line an arm", &epochs(&losses), &loss, &losses, write_loss), html! {
                "Mean loss over each epoch; lower fits the training data better." (stretched(&loss, "Logarithmic scale.")) (seeds)
                " From first to last epoch: " (ends(&losses, write_loss)) "."
            }))
            (figure(measure, lines(&format!("{measure} over epochs, one line an arm"), &epochs(&accuracies), &right, &accuracies, write_accuracy), html! {
                (what)
                (stretched(&right, "The scale stretches towards 100%, where the arms differ: equal steps divide the errors by equal factors."))
                " From first to last epoch: " (ends(&accuracies, write_accuracy)) "."
            }))
        }
    }
}

/// How the connections of the method arm changed during training: their number, and how many were grown and pruned.
pub(super) fn connections(view: &View) -> Markup {
    let name = &view.method.name;
    let densities: Vec<f64> =
        view.method.seeds.iter().flat_map(|s| &s.epochs).map(|e| e.density).filter(|d| d.is_finite()).collect();
    if densities.is_empty() {
        return html! {};
    }
    let (lo, hi) = densities.iter().fold((f64::INFINITY, 0f64), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
    let constant = hi - lo <= 0.01 * hi;
    let (grown, pruned) = (mean_curve(view.method, |e| e.grown as f64), mean_curve(view.method, |e| e.pruned as f64));
    let grows = grown.iter().any(|p| p.1 > 0.0);
    let shrinks = pruned.iter().any(|p| p.1 > 0.0);
    html! {
        @if !constant { (density(view)) }
        // If connections are only pruned, the density shows it.
        @if grows || (shrinks && constant) {
            (moved(view, &grown, &pruned, constant.then_some(hi)))
        } @else if constant {
            p.note { "The density of " (name) " stayed at " (share(hi)) " throughout, and no connection was moved while it trained." }
        }
    }
}

/// Density of the method arm after each epoch.
fn density(view: &View) -> Markup {
    let all = arm_lines(0, view.method, |e| e.density);
    let name = &view.method.name;
    let values = all.iter().flat_map(|l| l.points.iter().map(|p| p.1));
    let y = Axis::fit("density", values.chain([0.0]), Spacing::Linear, percent_tick);
    figure(
        "Density over training",
        lines(&format!("Density of {name} over epochs"), &epochs(&all), &y, &all, share),
        html! { "From first to last epoch: " (ends(&all, share)) "." },
    )
}

/// Most bars in a figure of changes.
const BARS: usize = 100;

/// Points of a curve: epoch and value.
type Points<'a> = &'a [(f64, f64)];

/// Connections grown and pruned in each epoch, as means over the seeds.
fn moved(view: &View, grown: Points, pruned: Points, constant: Option<f64>) -> Markup {
    let name = &view.method.name;
    let equal = grown.iter().zip(pruned).all(|(b, d)| b.1 == d.1);
    let group = grown.len().div_ceil(BARS);
    let whole = |n: f64| count(n.round() as u64);
    let bin = |(b, d): (Points, Points)| {
        let sum = |part: Points| part.iter().map(|p| p.1).sum::<f64>();
        let (first, last) = (b.first().map_or(0.0, |p| p.0), b.last().map_or(0.0, |p| p.0));
        let when = if b.len() == 1 { format!("epoch {first}") } else { format!("epochs {first} to {last}") };
        let what = if equal {
            format!("{} moved", whole(sum(b)))
        } else {
            format!("{} removed, {} made", whole(sum(d)), whole(sum(b)))
        };
        Bin {
            label: first.to_string(),
            value: sum(d),
            outline: (!equal).then(|| sum(b)),
            title: format!("{when}: {what}"),
        }
    };
    let bins: Vec<Bin> = grown.chunks(group).zip(pruned.chunks(group)).map(bin).collect();
    let all: f64 = grown.iter().map(|p| p.1).sum();
    let many = times_as_many(all, view.method.nonzeros);
    let moving = |i: &usize| grown[*i].1 > 0.0 || pruned[*i].1 > 0.0;
    let at: Vec<usize> = (0..grown.len().min(pruned.len())).filter(moving).collect();
    let (first, last) = (at.first().copied().unwrap_or(0), at.last().copied().unwrap_or(0));
    let pauses = group == 1 && at.len() <= last - first;
    let means = if view.method.seeds.len() > 1 { " Means over seeds." } else { "" };
    let words = html! {
        @if equal {
            (name) " removed connections and made as many new ones: " (whole(all)) " over the whole run" (many)
            @if let Some(density) = constant { ". The density stayed at " (share(density)) }
        } @else {
            "Bars: connections that " (name) " removed; outline: those it made, " (whole(all)) " over the whole run" (many)
        }
        ". The last move was in epoch " (grown[last].0) "."
        @if pauses { " Epochs without a bar before it passed between two rewirings." }
        (means)
    };
    let title = if equal { "Connections moved" } else { "Connections removed and made" };
    let x = if group > 1 { format!("epoch ({group} a bar)") } else { "epoch".into() };
    // The outline keeps the method's colour and takes another dash.
    let picture = histogram(&format!("{title} in each epoch, {name}"), &x, "connections", &bins, 0, OUTLINE);
    figure(title, picture, words)
}

/// The series with the colour of the first one and another dash.
const OUTLINE: usize = 6;

/// `, 1.1 times as many as there are`.
fn times_as_many(moved: f64, nonzeros: usize) -> String {
    match moved / nonzeros as f64 {
        f if f.is_finite() && f >= 0.1 => format!(", {} times as many as there are", significant(f, 2)),
        f if f.is_finite() && f > 0.0 => format!(", {} of those there are", share(f)),
        _ => String::new(),
    }
}
