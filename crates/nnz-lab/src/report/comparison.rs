//! The page of a comparison: one table, accuracy over density, accuracy over seconds of inference.

use super::axis::{Axis, Spacing};
use super::chart::{Line, lines};
use super::format::{accuracy, seconds as time, tick};
use super::frame::{self, swatch};
use crate::compare::{Cell, Comparison, caption, table};
use crate::run::record::test_measure;
use maud::{Markup, html};
use std::collections::BTreeMap;

type Seconds = BTreeMap<String, f64>;

/// Arms in the order of the cells, each with its points `(x, mean on the test split)`, by ascending x.
fn arms(comparison: &Comparison, x: impl Fn(&Cell) -> Option<f64>) -> Vec<Line> {
    let mut all: Vec<Line> = Vec::new();
    for cell in &comparison.cells {
        let (Some(x), Some(y)) = (x(cell), cell.mean) else { continue };
        match all.iter_mut().find(|l| l.name == cell.arm) {
            Some(line) => line.points.push((x, y.mean)),
            None => {
                let (series, name) = (all.len(), cell.arm.clone());
                all.push(Line { series, faint: false, name, points: vec![(x, y.mean)] });
            }
        }
    }
    all.iter_mut().for_each(|l| l.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
    all
}

/// `test accuracy`, or `variance explained`.
fn measure(comparison: &Comparison) -> &'static str {
    test_measure(comparison.request.train.task)
}

/// A sentence's or title's first letter.
fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |c| c.to_uppercase().chain(letters).collect())
}

fn chart(measure: &str, over: &str, x: &str, all: &[Line], write: fn(f64, usize) -> String) -> Markup {
    let points = || all.iter().flat_map(|l| &l.points);
    let across = Axis::fit(x, points().map(|p| p.0), Spacing::Log, write);
    let percent = |share: f64, decimals: usize| accuracy(share, decimals.saturating_sub(2));
    let up = Axis::fit(measure, points().map(|p| p.1), Spacing::NearOne, percent);
    lines(&format!("{} over {over}", capital(measure)), &across, &up, all, |v| accuracy(v, 2))
}

fn over_density(comparison: &Comparison) -> (Vec<Line>, Markup) {
    let all = arms(comparison, |c| c.density.or((c.arm == "dense").then_some(1.0)));
    let picture = chart(measure(comparison), "density", "density", &all, tick);
    (all, picture)
}

fn over_seconds(comparison: &Comparison, seconds: &Seconds) -> (Vec<Line>, Markup) {
    let all = arms(comparison, |c| seconds.get(&c.name()).copied());
    let picture = chart(measure(comparison), "seconds of inference", "seconds a row", &all, |s, _| time(s));
    (all, picture)
}

fn legend(all: &[Line]) -> Markup {
    html! { ul.legend { @for l in all { li { (swatch(l.series)) (l.name) } } } }
}

/// The two charts as files: name and SVG.
pub fn pictures(comparison: &Comparison, seconds: &Seconds) -> Vec<(String, String)> {
    let file = |picture: Markup| {
        let text = picture.into_string();
        let head = r#"<svg xmlns="http://www.w3.org/2000/svg" class="chart""#;
        text.replacen(r#"<svg class="chart""#, head, 1).replacen('>', &format!("><style>{}</style>", frame::STYLE), 1)
    };
    let name = |over: &str| format!("{}-over-{over}.svg", comparison.measure.replace(' ', "-"));
    vec![
        (name("density"), file(over_density(comparison).1)),
        (name("seconds"), file(over_seconds(comparison, seconds).1)),
    ]
}

/// Renders the page.
pub fn comparison(comparison: &Comparison, seconds: &Seconds) -> String {
    let (head, rows) = table(comparison, seconds);
    let rows: Vec<Vec<Markup>> = rows.into_iter().map(|r| r.into_iter().map(|c| html! { (c) }).collect()).collect();
    let title = format!("{} compared on {}", comparison.request.methods.join(", "), comparison.data.short());
    let measure = measure(comparison);
    let (density, time) = (over_density(comparison), over_seconds(comparison, seconds));
    let top = html! {
        p.eyebrow { "nnz compare " code { (comparison.id) } }
        h1 { (title) }
        p.lead { (caption(comparison)) }
    };
    let sections = html! {
        section {
            (frame::table(html! { "Every arm at every density" }, &head, &rows))
            @for concern in comparison.concerns() { p.note { b.wrong { (concern) "." } } }
            @if let Some(note) = &comparison.data.note { p.note { (note) } }
        }
        section {
            div.pair {
                (frame::figure(&format!("{} over density", capital(&comparison.measure)), html! { (legend(&density.0)) (density.1) }, html! {
                    "Mean " (measure) " at every density; dense stands at 1."
                }))
                (frame::figure(&format!("{} over seconds of inference", capital(&comparison.measure)), html! { (legend(&time.0)) (time.1) }, html! {
                    "Median seconds for one row of the first seed's network, measured when nothing else of the comparison ran."
                }))
            }
        }
    };
    frame::page(&title, env!("CARGO_PKG_VERSION"), top, sections)
}
