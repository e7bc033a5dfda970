//! The table of arms and the tables of layers.

use super::format::{NONE, bytes, count, points, seconds, share, signed_points, significant, times};
use super::frame::{figure, meter, number, swatch, table};
use super::view::{View, density, entries, layers, unconnected};
use crate::run::record::{ArmRecord, LayerRecord};
use maud::{Markup, html};

/// All arms with their ratios to the dense one.
pub(super) fn arms(view: &View) -> Markup {
    let dense = view.control("dense").or((view.method.name == "dense").then_some(view.method));
    let most = |f: fn(&ArmRecord) -> f64| view.record.arms.iter().map(f).filter(|v| v.is_finite()).fold(0.0, f64::max);
    let [weights, state, time] =
        [most(|a| a.weight_bytes as f64), most(|a| a.optimizer_bytes as f64), most(|a| a.seconds_per_epoch)];
    let ratio = |arm: &ArmRecord, f: fn(&ArmRecord) -> f64, below, above| {
        let text = dense.filter(|d| !std::ptr::eq(*d, arm)).and_then(|d| times(f(arm), f(d), below, above));
        html! { @if let Some(text) = text { span.note { (text) } } }
    };
    let peak = most(|a| a.peak_training_bytes as f64);
    let row = |(i, arm): (usize, &ArmRecord)| {
        let to_dense = dense.filter(|d| !std::ptr::eq(*d, arm)).and_then(|d| super::stats::difference(arm, d));
        let mut cells = vec![
            html! {
                (swatch(i)) (arm.name)
                span.note { (arm.summary) @if let Some(widths) = other_widths(view, arm) { " It is " (widths) "." } }
            },
            html! {
                span.number { (view.accuracy(arm)) @if let Some(half) = arm.interval { small { " ± " (points(half, 2)) } } }
                @if let Some(d) = to_dense { span.note { (signed_points(d.mean, view.decimals)) " points" } }
            },
            html! { (number(count(arm.nonzeros as u64))) (ratio(arm, |a| a.nonzeros as f64, "fewer", "more")) },
            html! { (number(share(arm.density))) (meter(arm.density, i)) },
            html! {
                (number(bytes(arm.weight_bytes as u64))) (meter(arm.weight_bytes as f64 / weights, i))
                (ratio(arm, |a| a.weight_bytes as f64, "smaller", "larger"))
            },
            html! {
                (number(bytes(arm.optimizer_bytes as u64))) (meter(arm.optimizer_bytes as f64 / state, i))
                (ratio(arm, |a| a.optimizer_bytes as f64, "smaller", "larger"))
            },
            html! {
                (number(seconds(arm.seconds_per_epoch))) (meter(arm.seconds_per_epoch / time, i))
                (ratio(arm, |a| a.seconds_per_epoch, "faster", "slower"))
            },
        ];
        if peak > 0.0 {
            let bytes = number(bytes(arm.peak_training_bytes as u64));
            let lived = |a: &ArmRecord| a.peak_training_bytes as f64;
            cells.insert(6, html! { (bytes) (meter(lived(arm) / peak, i)) (ratio(arm, lived, "smaller", "larger")) });
        }
        cells
    };
    let rows: Vec<Vec<Markup>> = view.record.arms.iter().enumerate().map(row).collect();
    let mut heads = vec!["Arm", view.measure(), "Nonzeros", "Density", "Weights", "Optimizer", "An epoch"];
    if peak > 0.0 {
        heads.insert(6, "A step at most");
    }
    let caption = html! {
        "The arms of this run. Memory is counted while training, indices and biases included; the time of an epoch is the \
         median over epochs and seeds" @if dense.is_some() { "; ratios are to the dense arm" } "."
    };
    html! {
        (table(caption, &heads, &rows))
        @for note in notes(view) { p.note { (note) } }
    }
}

/// `784-18-6-10` for an arm whose layers have other widths than the method's.
fn other_widths(view: &View, arm: &ArmRecord) -> Option<String> {
    let (ours, theirs) = (layers(view.method), layers(arm));
    let chain = theirs.windows(2).all(|w| w[0].rows == w[1].cols);
    let same = ours.iter().map(|l| (l.rows, l.cols)).eq(theirs.iter().map(|l| (l.rows, l.cols)));
    let first = theirs.first().filter(|_| chain && !same)?;
    let widths = [first.cols].into_iter().chain(theirs.iter().map(|l| l.rows));
    Some(widths.map(|w| w.to_string()).collect::<Vec<_>>().join("-"))
}

/// Explains why the columns do not shrink alike.
fn notes(view: &View) -> Vec<String> {
    let (arm, all) = (view.method, layers(view.method));
    let total = all.iter().map(entries).fold(0, u64::saturating_add);
    let kept: Vec<&str> = all.iter().filter(|l| !l.prunable).map(|l| l.name.as_str()).collect();
    let mut notes = Vec::new();
    if !kept.is_empty() && (arm.nonzeros as u64) < total {
        notes.push(format!(
            "Density counts the weights that may be pruned, so not {}: {} of those exist in {}, {} of all weights.",
            kept.join(", "),
            share(arm.density),
            arm.name,
            share(arm.nonzeros as f64 / total as f64)
        ));
    }
    let each = |arm: &ArmRecord, storage: &str| {
        let stored = layers(arm).iter().filter(|l| l.storage == storage);
        let (bytes, n) = stored.fold((0.0, 0.0), |(b, n), l| (b + l.bytes as f64, n + l.nonzeros as f64));
        (n > 0.0).then_some(bytes / n)
    };
    let dense = view.control("dense").and_then(|d| each(d, "dense"));
    if let (Some(sparse), Some(dense)) = (each(arm, "sparse"), dense)
        && sparse > dense
    {
        notes.push(format!(
            "A sparse weight is stored together with its place in the matrix: one takes {} bytes here while training, a \
             dense one {}. So memory shrinks less than the number of weights.",
            significant(sparse, 3),
            significant(dense, 2)
        ));
    }
    if each(arm, "masked").is_some() {
        notes.push(format!(
            "Some layers of {} are stored masked: every entry, and a bit that says whether it exists. That saves no memory.",
            arm.name
        ));
    }
    notes
}

/// A share of a whole as a bar, between its name and its value.
pub(super) fn bar(name: &str, value: String, part: f64, series: usize) -> Markup {
    html! { span.bar { span.note { (name) } (number(value)) (meter(part, series)) } }
}

/// Density of each layer of the method arm, and of the sparse arms of the same shape.
pub(super) fn density_by_layer(view: &View) -> Markup {
    let method = layers(view.method);
    let alike = |arm: &&ArmRecord| {
        let theirs = layers(arm);
        let equal = |(a, b): (&LayerRecord, &LayerRecord)| (&a.name, a.rows, a.cols) == (&b.name, b.rows, b.cols);
        arm.density < 0.9995 && theirs.len() == method.len() && theirs.iter().zip(method).all(equal)
    };
    let mut arms = vec![view.method];
    arms.extend(view.record.arms[1..].iter().filter(alike));
    let names: Vec<&str> = arms.iter().map(|a| a.name.as_str()).collect();
    if method.is_empty() {
        return html! {};
    }
    let bars = html! {
        ul.bars {
            @for (i, layer) in method.iter().enumerate() {
                li {
                    b { (layer.name) } span.note { (count(layer.cols as u64)) " → " (count(layer.rows as u64)) @if !layer.prunable { ", not pruned" } }
                    @for arm in &arms {
                        @let part = density(&layers(arm)[i]);
                        (bar(&arm.name, share(part), part, view.series(arm)))
                    }
                }
            }
        }
    };
    let words = html! {
        "Share of all possible connections that exist at the end of training, " (names.join(" and ")) (view.seed())
        ". A full bar is a dense layer."
    };
    figure("Density by layer", bars, words)
}

/// The layers of the method arm; those of the other arms are folded.
pub(super) fn all_layers(view: &View) -> Markup {
    html! {
        @if layers(view.method).is_empty() {
            p.note { "No seed finished, so there are no layers to show." }
        } @else {
            (layer_table(view.method))
        }
        @let others: Vec<&ArmRecord> = view.record.arms[1..].iter().filter(|a| !layers(a).is_empty()).collect();
        @if !others.is_empty() {
            details { summary { "Layers of the other arms" } @for arm in others { (layer_table(arm)) } }
        }
    }
}

fn layer_table(arm: &ArmRecord) -> Markup {
    let none = |degrees: &[u32]| if degrees.is_empty() { NONE.to_string() } else { count(unconnected(degrees)) };
    let row = |layer: &LayerRecord| {
        vec![
            html! { (layer.name) },
            shape(layer.rows, layer.cols),
            html! { (number(count(layer.nonzeros as u64))) " " small { "of " (count(entries(layer))) } },
            number(share(density(layer))),
            html! { (number(bytes(layer.bytes as u64))) " " small { (layer.storage) } },
            number(none(&layer.fan_in)),
            number(none(&layer.fan_out)),
        ]
    };
    let rows: Vec<Vec<Markup>> = layers(arm).iter().map(row).collect();
    let head = ["Layer", "Shape", "Connections", "Density", "Stored", "Outputs without input", "Inputs unused"];
    table(html! { "Layers of " (arm.name) " at the end of training" }, &head, &rows)
}

/// `784 → 300`.
pub(super) fn shape(rows: usize, cols: usize) -> Markup {
    number(format!("{} → {}", count(cols as u64), count(rows as u64)))
}

/// Names, colours and dashes of all arms.
pub(super) fn legend(view: &View, arms: &[usize]) -> Markup {
    html! { ul.legend { @for &i in arms { li { (swatch(i)) (view.record.arms[i].name) } } } }
}

#[cfg(test)]
mod tests {
    use crate::report::chart::series;

    #[test]
    fn every_series_has_its_style() {
        let css = include_str!("style.css");
        for class in (0..60).flat_map(|i| series(i).split(' ').map(str::to_string).collect::<Vec<_>>()) {
            assert!(css.contains(&format!(".{class}{{")), "style.css lacks .{class}");
        }
    }
}
