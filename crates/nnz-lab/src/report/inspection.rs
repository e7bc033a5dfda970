//! The page of `nnz inspect`: composition of one model.

use super::degrees::{self, Side, Tally};
use super::format::{NONE, bytes, count, counted, share, significant, times};
use super::frame::{self, Tile, figure, number, table};
use super::pixels::{self, Map};
use super::tables::{bar, shape};
use super::topology::ranked;
use crate::inspect::{Inspection, Layer};
use maud::{Markup, html};
use nnz_core::graph_stats::{Degrees, Paths, Spectral};

/// One HTML page about a measured model, as self-contained as [`super::html()`]. Never fails.
pub fn inspection(i: &Inspection) -> String {
    let sections = html! {
        section { h2 { "Layer by layer" } (sizes(i)) }
        section { h2 { "Which inputs are read" } (inputs(i)) }
        section { h2 { "How the units are connected" } (connections(i)) }
        section { h2 { "From the inputs to the outputs" } (through(i)) }
    };
    frame::page(&format!("{}, inspected", i.model), env!("CARGO_PKG_VERSION"), top(i), sections)
}

fn wide(n: usize) -> String {
    count(n as u64)
}

/// Whether every entry of a layer exists.
fn full(layer: &Layer) -> bool {
    layer.nonzeros as u64 >= entries(layer)
}

fn entries(layer: &Layer) -> u64 {
    (layer.rows as u64).saturating_mul(layer.cols as u64)
}

fn density(layer: &Layer) -> f64 {
    layer.nonzeros as f64 / entries(layer) as f64
}

/// `0.20`, `8e-6`.
fn magnitude(w: f64) -> String {
    if w > 0.0 && w < 1e-3 { format!("{w:.0e}") } else { significant(w, 2) }
}

fn top(i: &Inspection) -> Markup {
    html! {
        p.eyebrow { "nnz inspect" }
        h1 { (i.model) }
        p.eyebrow { "Trained on " (i.data) ", made by " (i.method) }
        p.lead { (lead(i)) }
        (frame::tiles(&tiles(i)))
    }
}

/// How sparse it is, and what that saves or costs.
fn lead(i: &Inspection) -> String {
    let dense = bytes(i.dense_bytes as u64);
    if i.layers.is_empty() {
        return "This model has no weights.".into();
    }
    if i.nonzeros == i.entries {
        return format!(
            "All {} weights exist: this network is dense and takes {dense}. There are no zeros to leave out.",
            wide(i.nonzeros)
        );
    }
    let exist = format!(
        "{} of {} weights exist ({})",
        wide(i.nonzeros),
        wide(i.entries),
        share(i.nonzeros as f64 / i.entries as f64)
    );
    let packed =
        format!("Packed, with its place beside each weight, the network takes {}", bytes(i.packed_bytes as u64));
    match times(i.packed_bytes as f64, i.dense_bytes as f64, "less", "more") {
        Some(t) if t == "same" => format!("{exist}. {packed}, as much as the {dense} of all entries."),
        Some(t) if i.packed_bytes <= i.dense_bytes => {
            format!("{exist}. {packed}, {t} than the {dense} of all entries.")
        }
        Some(t) => format!(
            "{exist}. {packed}, {t} than the {dense} of all entries: the places cost more than the zeros they leave out. \
             Packing pays below a density of about one half."
        ),
        None => format!("{exist}. {packed}, and {dense} with all entries."),
    }
}

fn tiles(i: &Inspection) -> Vec<Tile> {
    let kept: Vec<&str> = i.layers.iter().filter(|l| !l.prunable).map(|l| l.name.as_str()).collect();
    let dead = |side: fn(&Layer) -> &Degrees| i.layers.iter().map(|l| side(l).dead).fold(0, usize::saturating_add);
    let (silent, unread) = (dead(|l| &l.fan_in), dead(|l| &l.fan_out));
    let to_dense = times(i.packed_bytes as f64, i.dense_bytes as f64, "less", "more");
    let mut tiles = vec![
        Tile {
            label: "Weights that exist",
            value: wide(i.nonzeros),
            note: format!("{} of {}", share(i.nonzeros as f64 / i.entries as f64), wide(i.entries)),
        },
        Tile {
            label: "Density",
            value: share(i.density),
            note: match kept.is_empty() {
                true => "of the weights that may be pruned".into(),
                false => format!("of the weights that may be pruned, so not {}", kept.join(", ")),
            },
        },
        Tile {
            label: "Packed",
            value: bytes(i.packed_bytes as u64),
            note: match to_dense {
                Some(t) if t == "same" => "as much as dense".into(),
                Some(t) => format!("{t} than dense, {}", bytes(i.dense_bytes as u64)),
                None => format!("dense: {}", bytes(i.dense_bytes as u64)),
            },
        },
        Tile {
            label: "Dead units",
            value: count((silent as u64).saturating_add(unread as u64)),
            note: format!("{} without input, {} unread, layer by layer", wide(silent), wide(unread)),
        },
    ];
    if let Some(p) = &i.paths {
        let lost = i.nonzeros.saturating_sub(p.effective_nonzeros);
        tiles.push(Tile {
            label: "On no path",
            value: wide(lost),
            note: "connections that do not lead from an input to an output".into(),
        });
    }
    tiles
}

/// Nonzeros, density and bytes of every layer.
fn sizes(i: &Inspection) -> Markup {
    let packed = |l: &Layer| {
        let larger = l.packed_bytes > l.dense_bytes;
        html! {
            (number(bytes(l.packed_bytes as u64)))
            @if larger { span.note { b.wrong { "more than dense" } } }
            @else if let Some(t) = times(l.packed_bytes as f64, l.dense_bytes as f64, "less", "more").filter(|t| t != "same") {
                span.note { (t) }
            }
        }
    };
    let row = |l: &Layer| {
        let [smallest, mean, largest] = l.magnitude;
        vec![
            html! { (l.name) @if !l.prunable { span.note { "never pruned" } } },
            shape(l.rows, l.cols),
            html! { (number(wide(l.nonzeros))) span.note { "of " (count(entries(l))) } },
            number(share(density(l))),
            number(bytes(l.dense_bytes as u64)),
            packed(l),
            html! { (number(magnitude(mean))) span.note { (magnitude(smallest)) " to " (magnitude(largest)) } },
        ]
    };
    let rows: Vec<Vec<Markup>> = i.layers.iter().map(row).collect();
    let all: f64 = i.layers.iter().map(|l| l.packed_bytes as f64).sum();
    let densities = html! {
        ul.bars { @for l in &i.layers { li { (bar(&l.name, share(density(l)), density(l), 0)) } } }
    };
    let memory = html! {
        ul.bars { @for l in &i.layers { li { (bar(&l.name, bytes(l.packed_bytes as u64), l.packed_bytes as f64 / all, 4)) } } }
    };
    let caption = html! {
        "Dense: every entry in 4 bytes. Packed: each existing weight in 4 bytes and 4 more for its column, and 4 for each \
         row; a layer without gaps needs no places. Biases are counted in the totals above only."
    };
    html! {
        (table(caption, &["Layer", "Shape", "Nonzeros", "Density", "Dense", "Packed", "Mean |w|"], &rows))
        @if !i.layers.is_empty() {
            div.pair {
                (figure("Density by layer", densities, html! { "Share of all possible connections that exist. A full bar is a dense layer." }))
                (figure("Where the bytes are", memory, html! { "Packed bytes of each layer. All bars together are one full bar." }))
            }
        }
    }
}

/// The map of a first layer that reads an image.
fn inputs(i: &Inspection) -> Markup {
    let Some(first) = i.layers.first() else { return html! {} };
    if full(first) {
        return html! { p.note { (first.name) " has no gaps: each of its " (counted(first.cols as u64, "input")) " is read by all its " (counted(first.rows as u64, "output")) "." } };
    }
    match Map::new(i.input, &i.input_fan_out) {
        Some(map) => html! {
            p { "Each square is an input pixel; its colour says how many of the " (counted(first.rows as u64, "output")) " of " (first.name) " it is connected to." }
            (pixels::draw(&[(first.name.as_str(), map)]))
        },
        None if i.input_fan_out.is_empty() => html! {
            p.note { (first.name) " looks at a window of the input at a time, not at all of it, so there is no picture to draw." }
        },
        None => {
            html! { p.note { "The inputs of " (first.name) " are not the pixels of a picture, so there is none to draw. " (ranked(&i.input_fan_out, &i.inputs)) } }
        }
    }
}

/// Degrees, components and spectra of every layer.
fn connections(i: &Inspection) -> Markup {
    let degrees = |d: &Degrees, dead: &str| {
        html! {
            (number(significant(d.mean, 3)))
            span.note { (wide(d.min)) " to " (wide(d.max)) @if d.dead > 0 { "; " b.wrong { (wide(d.dead)) " " (dead) } } }
        }
    };
    let row = |l: &Layer| {
        let apart = l.components.isolated;
        vec![
            html! { (l.name) },
            degrees(&l.fan_in, "without input"),
            degrees(&l.fan_out, "unread"),
            html! {
                (number(wide(l.components.count)))
                span.note { "largest of " (counted(l.components.largest as u64, "unit")) @if apart > 0 { "; " (wide(apart)) " apart" } }
            },
            gap(l.spectral.as_ref()),
            ramanujan(l.spectral.as_ref()),
        ]
    };
    let rows: Vec<Vec<Markup>> = i.layers.iter().map(row).collect();
    let head = ["Layer", "Mean fan-in", "Mean fan-out", "Components", "Spectral gap", "Second singular value"];
    let sparse: Vec<&Layer> = i.layers.iter().filter(|l| !full(l)).collect();
    let dense: Vec<&str> = i.layers.iter().filter(|l| full(l)).map(|l| l.name.as_str()).collect();
    let both = |l: &&Layer| {
        let side = |d: &Degrees| Side { name: "", series: 0, tally: Tally::from_histogram(&d.histogram) };
        html! {
            (degrees::draw(&format!("{}: fan-in", l.name), "output", &side(&l.fan_in), None))
            (degrees::draw(&format!("{}: fan-out", l.name), "input", &side(&l.fan_out), None))
        }
    };
    html! {
        (table(html! { "Fan-in is how many inputs an output listens to, fan-out how many outputs an input reaches." }, &head, &rows))
        (terms(i.layers.iter().filter_map(|l| l.spectral.as_ref())))
        @if !sparse.is_empty() {
            h3 { "Fan-in and fan-out" }
            p { "Heavy right tails are hubs; bars at 0 are units without a connection on that side." }
            (degrees::fold(&sparse, both))
        }
        @if !dense.is_empty() { p.note { "Fully connected, so without a histogram: " (dense.join(", ")) "." } }
    }
}

/// Explains the table's last columns.
fn terms<'a>(mut spectra: impl Iterator<Item = &'a Spectral>) -> Markup {
    let unsure = spectra.any(|s| !(s.normalized.converged && s.adjacency.converged));
    html! {
        dl.facts.terms {
            div { dt { "Components" } dd { "Parts of a layer that no connection joins. Units without any are counted apart." } }
            div { dt { "Spectral gap" } dd { "How well a layer mixes, between 0 and 1: at 0 it falls into separate parts; the larger, the more connections lead out of every group of units. A dense layer has 1." } }
            div { dt { "Second singular value" } dd { "Of the 0/1 matrix of connections. In a layer whose units have equal degrees it can hardly be smaller than the Ramanujan bound, so a value within it means mixing as good as it gets; with unequal degrees it is a yardstick only." } }
            @if unsure {
                div { dt { "Not converged" } dd { "The iteration ended before its tolerance: the singular value is at least, the gap at most what is shown." } }
            }
        }
    }
}

fn gap(spectral: Option<&Spectral>) -> Markup {
    let three = |gap: f64| if gap.is_finite() { format!("{:.3}", gap.clamp(0.0, 1.0)) } else { NONE.into() };
    match spectral {
        None => html! { (number("1")) span.note { "dense" } },
        Some(s) if s.normalized.converged => number(three(s.normalized.gap)),
        Some(s) => {
            html! { (number(format!("≤ {}", three(s.normalized.gap)))) span.note { b.wrong { "not converged" } } }
        }
    }
}

/// The second singular value and on which side of the Ramanujan bound it lies.
fn ramanujan(spectral: Option<&Spectral>) -> Markup {
    let Some(s) = spectral else {
        return html! { (number("0")) span.note { "dense" } };
    };
    let (value, bound) = (s.adjacency.second, s.ramanujan);
    // An unconverged value is a lower bound: it can be above for certain, but not within.
    let side = match (value <= bound, s.adjacency.converged) {
        (true, true) => "within",
        (false, _) => "above",
        (true, false) => "undecided against",
    };
    html! {
        (number(format!("{}{}", if s.adjacency.converged { "" } else { "≥ " }, significant(value, 3))))
        span.note {
            (side) " the bound " (significant(bound, 3))
            @if !s.adjacency.converged { "; " b.wrong { "not converged" } }
        }
    }
}

/// Paths and components of the whole stack.
fn through(i: &Inspection) -> Markup {
    let Some(paths) = &i.paths else {
        return html! { p.note { "Layers do not follow one another unit by unit (as after a convolution), so there are no paths to count." } };
    };
    let lost = i.nonzeros.saturating_sub(paths.effective_nonzeros);
    html! {
        p {
            @match paths.log10 {
                None => { "No path leads from an input to an output: the outputs depend on biases alone." }
                Some(_) if lost == 0 => { "Every connection lies on a path from an input to an output." }
                Some(_) => {
                    (wide(paths.effective_nonzeros)) " of " (wide(i.nonzeros)) " connections lie on a path from an input to an output; "
                    (wide(lost)) " do not."
                }
            }
            @if let Some(log) = paths.log10.filter(|l| l.is_finite()) { " There are about " (power(log)) " paths." }
            @if let Some(c) = &i.components {
                " Taken together, the units form " (counted(c.count as u64, "component"))
                @if c.count > 1 { ", the largest of " (counted(c.largest as u64, "unit")) }
                @if c.isolated > 0 { "; " (counted(c.isolated as u64, "unit")) @if c.isolated == 1 { " has" } @else { " have" } " no connection at all" } "."
            }
        }
        div.pair { (levels(i, paths)) (effective(i, paths)) }
    }
}

/// 10 to the `log`: as a number if it is small, else as a power.
fn power(log: f64) -> Markup {
    if log < 6.0 {
        return html! { (count(10f64.powf(log).round() as u64)) };
    }
    html! { "10" sup { (significant(log, 3)) } }
}

/// A count that is plain if zero and highlighted otherwise.
fn trouble(n: usize) -> Markup {
    html! { @if n > 0 { b.wrong { (number(wide(n))) } } @else { (number("0")) } }
}

fn levels(i: &Inspection, paths: &Paths) -> Markup {
    let name = |at: usize| match (at, i.layers.get(at.wrapping_sub(1))) {
        (0, _) => "inputs".to_string(),
        (_, Some(layer)) if at == i.layers.len() => format!("outputs ({})", layer.name),
        (_, Some(layer)) => format!("units of {}", layer.name),
        (_, None) => format!("level {at}"),
    };
    let row = |(at, l): (usize, &nnz_core::graph_stats::Level)| {
        vec![html! { (name(at)) }, number(wide(l.units)), trouble(l.unreached), trouble(l.unread)]
    };
    let rows: Vec<Vec<Markup>> = paths.levels.iter().enumerate().map(row).collect();
    let caption = html! {
        "An unreached unit has no path from any input and only passes its bias on; an unread one has no path to any output."
    };
    table(caption, &["Level", "Units", "Unreached", "Unread"], &rows)
}

fn effective(i: &Inspection, paths: &Paths) -> Markup {
    let row = |(l, &n): (&Layer, &usize)| {
        vec![html! { (l.name) }, number(wide(l.nonzeros)), number(wide(n)), trouble(l.nonzeros.saturating_sub(n))]
    };
    let rows: Vec<Vec<Markup>> = i.layers.iter().zip(&paths.effective).map(row).collect();
    let caption = html! {
        "Effective connections lie on a path from an input to an output; " (share(paths.effective_density)) " of all entries."
    };
    table(caption, &["Layer", "Connections", "Effective", "On no path"], &rows)
}
