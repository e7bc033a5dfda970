//! The page of `nnz inspect RUN --history`: how the topologies of one network changed.

use super::axis::{Axis, Spacing};
use super::chart::{Bin, Line, histogram, lines};
use super::degrees::{self, Side, Tally};
use super::format::{count, counted, share, significant, tick};
use super::frame::{self, Tile, figure, number, swatch, table};
use super::pixels::{self, Map};
use super::tables::shape;
use crate::history::{History, Layer, Look, Move};
use maud::{Markup, html};
use nnz_core::graph_stats::{Alternative, Degrees, Tail};

/// One HTML page about how topologies changed, as self-contained as [`super::html()`]. Never fails.
pub fn history(h: &History) -> String {
    let moved: Vec<&Layer> = h.layers.iter().filter(|l| !l.moves.is_empty()).collect();
    let sections = html! {
        section { h2 { "Growth and pruning" } (births(h, &moved)) }
        @if !moved.is_empty() {
            section { h2 { "How long connections live" } (ages(&moved)) }
            section { h2 { "What is left of the start" } (overlap(&moved)) }
        }
        section { h2 { "Which inputs are read" } (inputs(h)) }
        section { h2 { "How the units are connected" } (structure(h)) }
        section { h2 { "Do hubs follow a power law?" } (tails(h)) }
    };
    frame::page(&format!("{}, how it moved", h.title), env!("CARGO_PKG_VERSION"), top(h, &moved), sections)
}

fn sum(layers: &[&Layer], f: fn(&Move) -> usize) -> u64 {
    layers.iter().flat_map(|l| &l.moves).map(|m| f(m) as u64).sum()
}

fn top(h: &History, moved: &[&Layer]) -> Markup {
    let (grown, pruned) = (sum(moved, |m| m.grown), sum(moved, |m| m.pruned));
    let start: u64 = h.layers.iter().map(|l| l.start as u64).sum();
    // Weighted by the initial connections.
    let kept: f64 = h.layers.iter().map(|l| l.start as f64 * l.moves.last().map_or(1.0, |m| m.overlap)).sum();
    let left = kept / start.max(1) as f64;
    let tiles = [
        Tile {
            label: "Rewirings",
            value: count(h.rewirings as u64),
            note: format!("of {}", counted(h.layers.len() as u64, "layer")),
        },
        Tile {
            label: "Born",
            value: count(grown),
            note: format!("{} times the connections of the start", significant(grown as f64 / start.max(1) as f64, 2)),
        },
        Tile { label: "Died", value: count(pruned), note: format!("of {} that ever were", count(start + grown)) },
        Tile {
            label: "Left of the start",
            value: share(left),
            note: "of the first connections are there at the end".into(),
        },
    ];
    html! {
        p.eyebrow { "nnz inspect --history" }
        h1 { (h.title) }
        p.eyebrow { "Arm " (h.arm) ", seed " (h.seed) }
        p.lead {
            @if moved.is_empty() { "No connection moved: the topology of the end is that of the start." }
            @else {
                "In " (counted(h.rewirings as u64, "rewiring")) " " (count(pruned)) " connections died and " (count(grown)) " were born. "
                "At the end " (share(left)) " of those at the start are there."
            }
        }
        (frame::tiles(&tiles))
    }
}

/// A legend of layers.
fn names(layers: &[&Layer]) -> Markup {
    html! { ul.legend { @for (i, l) in layers.iter().enumerate() { li { (swatch(i)) (l.name) } } } }
}

fn steps(all: &[Line]) -> Axis {
    Axis::whole("step", all.iter().flat_map(|l| l.points.iter().map(|p| p.0)).collect::<Vec<_>>())
}

/// One line per layer over the changes.
fn curves(layers: &[&Layer], f: impl Fn(&Layer, &Move) -> f64) -> Vec<Line> {
    let line = |(series, l): (usize, &&Layer)| Line {
        series,
        faint: false,
        name: l.name.clone(),
        points: l.moves.iter().map(|m| (m.step as f64, f(l, m))).collect(),
    };
    layers.iter().enumerate().map(line).collect()
}

fn chart(title: &str, all: &[Line], label: &str, spacing: Spacing, write: fn(f64) -> String, words: Markup) -> Markup {
    let values = all.iter().flat_map(|l| l.points.iter().map(|p| p.1));
    let y = match spacing {
        Spacing::Log => Axis::fit(label, values.filter(|v| *v > 0.0).collect::<Vec<_>>(), spacing, tick),
        _ => Axis::fit(label, values.chain([0.0]).collect::<Vec<_>>(), spacing, tick),
    };
    figure(title, lines(&format!("{title}, one line a layer"), &steps(all), &y, all, write), words)
}

fn whole(v: f64) -> String {
    count(v.round() as u64)
}

fn births(h: &History, moved: &[&Layer]) -> Markup {
    if moved.is_empty() {
        return html! { p.note { "Nothing was born and nothing died while it trained." } };
    }
    let pruned = curves(moved, |_, m| m.pruned as f64);
    let density = curves(moved, |l, m| m.nonzeros as f64 / (l.rows as f64 * l.cols as f64));
    let row = |l: &Layer| {
        let all = |f: fn(&Move) -> usize| count(l.moves.iter().map(|m| f(m) as u64).sum());
        let end = l.moves.last().map_or(l.start, |m| m.nonzeros);
        vec![
            html! { (l.name) },
            shape(l.rows, l.cols),
            number(count(l.start as u64)),
            number(count(end as u64)),
            number(all(|m| m.grown)),
            number(all(|m| m.pruned)),
            number(count(l.moves.len() as u64)),
        ]
    };
    let rows: Vec<Vec<Markup>> = h.layers.iter().map(row).collect();
    html! {
        (table(html! { "Connections of every weight that may be pruned." }, &["Layer", "Shape", "Start", "End", "Born", "Died", "Rewirings"], &rows))
        (names(moved))
        div.pair {
            (chart("Pruned at each rewiring", &pruned, "connections", Spacing::Linear, whole, html! { "How many connections each rewiring removed." }))
            (chart("Density", &density, "density", Spacing::Linear, share, html! { "Share of all possible connections after each rewiring." }))
        }
    }
}

/// Most bars of a histogram of ages.
const BARS: u64 = 24;

fn ages(moved: &[&Layer]) -> Markup {
    let age = curves(moved, |_, m| m.age);
    let longest = moved.iter().flat_map(|l| &l.lives).map(|l| l.0).max().unwrap_or(0);
    let width = (longest / BARS + 1).max(1);
    let bin = |i: u64| {
        let (from, to) = (i * width, (i + 1) * width);
        let inside = moved.iter().flat_map(|l| &l.lives).filter(|l| (from..to).contains(&l.0));
        let value: usize = inside.map(|l| l.1).sum();
        let title = format!("{} died at an age of {from} to {} steps", count(value as u64), to - 1);
        Bin { label: count(from), value: value as f64, outline: None, title }
    };
    let bins: Vec<Bin> = (0..=longest / width).map(bin).collect();
    let deaths: usize = moved.iter().flat_map(|l| &l.lives).map(|l| l.1).sum();
    html! {
        div.pair {
            (chart("Mean age", &age, "steps", Spacing::Linear, whole, html! { "Mean age of the connections after each rewiring. A line that rises with slope one would be a topology that does not move." }))
            (figure("Age at death", histogram("How old connections were when they died", "age in steps", "connections", &bins, 1, 1), html! {
                (counted(deaths as u64, "death")) " in all layers. Those that are still there at the end are not counted."
            }))
        }
    }
}

fn overlap(moved: &[&Layer]) -> Markup {
    let left = curves(moved, |_, m| m.overlap);
    let by_chance = |l: &&Layer| {
        let end = l.moves.last().map_or(0.0, |m| m.nonzeros as f64 / (l.rows as f64 * l.cols as f64));
        html! { li { b { (l.name) } ": " (share(l.moves.last().map_or(1.0, |m| m.overlap))) " are left; a new random topology would have " (share(end)) " of them." } }
    };
    html! {
        (names(moved))
        (chart("Connections of the start that exist", &left, "share", Spacing::Linear, share, html! { "A connection that died and came back counts as there." }))
        ul.words { @for l in moved { (by_chance(l)) } }
    }
}

/// Seconds per frame of the animation, and the factor for the last one.
const SECONDS: f64 = 0.7;
const LAST: usize = 3;

/// The input layer's connections over time: first and last image, and all of them as an animated SVG.
fn inputs(h: &History) -> Markup {
    let looks: Vec<&Look> = h.layers.first().map_or(Vec::new(), |l| l.looks.iter().collect());
    let maps: Vec<(u64, Map)> = looks.iter().filter_map(|l| Some((l.step, Map::new(h.input, &l.inputs)?))).collect();
    let Some(first) = h.layers.first().filter(|_| !maps.is_empty()) else {
        return html! { p.note { "The first layer's inputs are not the pixels of a picture, so there is none to draw." } };
    };
    let ends = [looks.first(), looks.last()];
    let named = ["at the start", "at the end"];
    let pair: Vec<(&str, Map)> =
        ends.into_iter().flatten().zip(named).filter_map(|(l, n)| Some((n, Map::new(h.input, &l.inputs)?))).collect();
    html! {
        p { "Each square is an input pixel; its colour says how many of the " (counted(first.rows as u64, "output")) " of " (first.name) " it is connected to." }
        @if first.moves.is_empty() { (pixels::draw(&pair[..1])) } @else {
            (pixels::draw(&pair))
            div.maps { (figure("From the start to the end", pixels::animate(&maps, SECONDS, LAST), html! {
                (counted(maps.len() as u64, "picture")) " on the same scale, again and again: steps "
                (count(maps[0].0)) " to " (count(maps[maps.len() - 1].0)) "."
            })) }
        }
    }
}

/// Degrees, components and spectral gap over time.
fn structure(h: &History) -> Markup {
    let looked: Vec<&Layer> = h.layers.iter().filter(|l| l.looks.len() > 1).collect();
    let over = |f: fn(&Look) -> f64| -> Vec<Line> {
        let line = |(series, l): (usize, &&Layer)| Line {
            series,
            faint: false,
            name: l.name.clone(),
            points: l.looks.iter().map(|k| (k.step as f64, f(k))).collect(),
        };
        looked.iter().enumerate().map(line).collect()
    };
    let write = |v: f64| significant(v, 3);
    let parts = over(|k| k.components.count as f64);
    let dead = over(|k| (k.fan_in.dead + k.fan_out.dead) as f64);
    // Constant values are in the table.
    let moves = |all: &[Line]| all.iter().any(|l| l.points.iter().any(|p| p.1 != l.points[0].1));
    let row = |l: &Layer| {
        let both = |f: &dyn Fn(&Look) -> String| match (l.looks.first(), l.looks.last()) {
            (Some(a), Some(b)) if l.looks.len() > 1 => html! { (number(f(b))) span.note { "from " (f(a)) } },
            (Some(a), _) => number(f(a)),
            _ => html! {},
        };
        vec![
            html! { (l.name) },
            both(&|k| format!("{} to {}", count(k.fan_in.min as u64), count(k.fan_in.max as u64))),
            both(&|k| format!("{} to {}", count(k.fan_out.min as u64), count(k.fan_out.max as u64))),
            both(&|k| count((k.fan_in.dead + k.fan_out.dead) as u64)),
            both(&|k| count(k.components.count as u64)),
            both(&|k| format!("{:.3}", k.gap)),
        ]
    };
    let rows: Vec<Vec<Markup>> = h.layers.iter().map(row).collect();
    let pictures = |l: &&Layer| {
        let [Some(first), Some(last)] = [l.looks.first(), l.looks.last()] else { return html! {} };
        let side = |name, series, d: &nnz_core::graph_stats::Degrees| Side {
            name,
            series,
            tally: Tally::from_histogram(&d.histogram),
        };
        html! {
            (degrees::draw(&format!("{}: fan-in", l.name), "output", &side("end", 0, &last.fan_in), Some(&side("start", 1, &first.fan_in))))
            (degrees::draw(&format!("{}: fan-out", l.name), "input", &side("end", 0, &last.fan_out), Some(&side("start", 1, &first.fan_out))))
        }
    };
    html! {
        (table(html! { "At the end, with the start below it." }, &["Layer", "Fan-in", "Fan-out", "Dead units", "Components", "Spectral gap"], &rows))
        @if !looked.is_empty() {
            (names(&looked))
            div.pair {
                (chart("Spectral gap", &over(|k| k.gap), "gap", Spacing::Linear, write, html! { "How well a layer mixes: at 0 it falls into separate parts, a dense layer has 1." }))
                (chart("Largest fan-out", &over(|k| k.fan_out.max as f64), "connections", Spacing::Linear, whole, html! { "Connections of the input that reaches most outputs: hubs that form." }))
                @if moves(&parts) { (chart("Components", &parts, "parts", Spacing::Linear, whole, html! { "Parts of a layer that no connection joins; units without any are counted apart." })) }
                @if moves(&dead) { (chart("Dead units", &dead, "units", Spacing::Linear, whole, html! { "Outputs without input and inputs that nothing reads." })) }
            }
            h3 { "Fan-in and fan-out at the start and at the end" }
            (degrees::fold(&looked, pictures))
        }
    }
}

/// Interprets the tests of a tail.
fn verdict(t: &Tail) -> &'static str {
    let nearer = |a: &Alternative| a.ratio > 0.0 && a.p < 0.1;
    let farther = |a: &Alternative| a.ratio < 0.0 && a.p < 0.1;
    match (&t.exponential, &t.log_normal) {
        (e, l) if nearer(e) && nearer(l) => "a power law is nearer than both",
        (e, l) if farther(e) && farther(l) => "both others are nearer",
        (e, _) if farther(e) => "an exponential is nearer",
        (_, l) if farther(l) => "a log-normal is nearer",
        (e, _) if nearer(e) => "nearer than an exponential, not told from a log-normal",
        _ => "the data do not tell",
    }
}

/// The distribution of degrees at the start, in the middle and at the end, and tests of its tail at every snapshot.
fn tails(h: &History) -> Markup {
    type Side = (&'static str, fn(&Look) -> &Degrees, fn(&Look) -> Option<&Tail>);
    let sides: [Side; 2] = [
        ("fan-in", |k| &k.fan_in, |k| k.fan_in_tail.as_ref()),
        ("fan-out", |k| &k.fan_out, |k| k.fan_out_tail.as_ref()),
    ];
    let all: Vec<(&Layer, &Side)> = h.layers.iter().flat_map(|l| sides.iter().map(move |s| (l, s))).collect();
    let fitted: Vec<(&Layer, &Side)> =
        all.into_iter().filter(|(l, side)| l.looks.len() > 1 && l.looks.iter().any(|k| side.2(k).is_some())).collect();
    if fitted.is_empty() {
        return html! { p.note { "No side of a layer that moved has a tail of fifty units, so that there is no law to fit." } };
    }
    let against =
        |a: &Alternative| html! { (number(format!("{:+.1}", a.ratio))) span.note { "p " (significant(a.p, 2)) } };
    let row = |l: &Layer, side: &Side, k: &Look| -> Option<Vec<Markup>> {
        let t = side.2(k)?;
        Some(vec![
            html! { (l.name) " " (side.0) },
            number(count(k.step)),
            number(format!("{:.2}", t.exponent)),
            number(count(t.from as u64)),
            number(count(t.units as u64)),
            number(format!("{:.3}", t.distance)),
            against(&t.exponential),
            against(&t.log_normal),
            html! { (verdict(t)) },
        ])
    };
    let some = |l: &Layer| [0, l.looks.len() / 2, l.looks.len() - 1];
    let rows: Vec<Vec<Markup>> =
        fitted.iter().flat_map(|(l, side)| some(l).map(|i| row(l, side, &l.looks[i]))).flatten().collect();
    let picture = |(l, side): &(&Layer, &Side)| {
        let curve = |(series, i): (usize, usize)| {
            let look = &l.looks[i];
            let histogram = &side.1(look).histogram;
            let units: usize = histogram.iter().sum();
            // Share of the units that have at least so many.
            let mut left = units;
            let mut points = Vec::new();
            for (degree, &n) in histogram.iter().enumerate().filter(|(_, n)| **n > 0) {
                if degree > 0 {
                    points.push((degree as f64, left as f64 / units.max(1) as f64));
                }
                left -= n;
            }
            Line { series, faint: false, name: format!("step {}", count(look.step)), points }
        };
        let curves: Vec<Line> = some(l).into_iter().enumerate().map(curve).collect();
        let x = Axis::fit(
            "connections",
            curves.iter().flat_map(|c| c.points.iter().map(|p| p.0)).collect::<Vec<_>>(),
            Spacing::Log,
            tick,
        );
        let y = Axis::fit(
            "share of units",
            curves.iter().flat_map(|c| c.points.iter().map(|p| p.1)).collect::<Vec<_>>(),
            Spacing::Log,
            tick,
        );
        let title = format!("{}: {}", l.name, side.0);
        let key = html! { ul.legend { @for c in &curves { li { (swatch(c.series)) (c.name) } } } };
        html! { div { (key) (figure(&title, lines(&format!("{title}, share of units with at least so many connections"), &x, &y, &curves, |v| significant(v, 3)), html! {
            "Share of the units with at least so many connections. Where both axes are logarithmic, a power law is a straight line."
        })) } }
    };
    html! {
        p {
            "A power law is fitted to the tail by maximum likelihood, from the degree on where it is nearest to the data, and compared with an exponential "
            "and a log-normal on the same tail (Clauset, Shalizi and Newman 2009). A ratio above zero speaks for the power law, below for the other; "
            "with p above 0.1 the data do not tell."
        }
        (table(html! { "At the start, in the middle and at the end." }, &["Side", "Step", "Exponent", "From", "Units", "Distance", "Exponential", "Log-normal", "Verdict"], &rows))
        (degrees::fold(&fitted, picture))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_follow_the_ratios() {
        let tail = |e: (f64, f64), l: (f64, f64)| Tail {
            exponent: 2.5,
            from: 3,
            units: 80,
            distance: 0.1,
            exponential: Alternative { ratio: e.0, p: e.1 },
            log_normal: Alternative { ratio: l.0, p: l.1 },
        };
        assert_eq!(verdict(&tail((9.0, 0.01), (5.0, 0.02))), "a power law is nearer than both");
        assert_eq!(verdict(&tail((-9.0, 0.01), (-5.0, 0.5))), "an exponential is nearer");
        assert_eq!(verdict(&tail((-9.0, 0.01), (-5.0, 0.05))), "both others are nearer");
        assert_eq!(verdict(&tail((0.3, 0.7), (-0.1, 0.9))), "the data do not tell");
    }
}
