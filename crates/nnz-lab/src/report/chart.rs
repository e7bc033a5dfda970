//! The few charts of the report as inline SVG: lines and a histogram (axes are in `axis.rs`, the grid of squares in
//! `grid.rs`).
//!
//! Why not a crate. The page must follow light and dark by CSS variables, name each figure for a screen reader, scale
//! to a phone, show numbers on hover without a script, and come out byte-equal for equal records. Tried: `plotters`
//! 0.3.7 (SVG backend) writes fixed `#rrggbb` into every element and has no hover titles; `poloto` 19.1 is themed by
//! CSS, but has neither log axes nor heat maps nor hover titles; `kuva` 0.6 takes `var(--x)` as a colour, but its SVG
//! has no viewBox and no label, it numbers clip paths by a counter of the process (two equal pages differ) and is 95,000
//! lines to build; `charming` 0.6 draws by JavaScript. The code needed is this file.
//!
//! All text goes through maud, which escapes it. Colours, dashes and fonts live in `style.css`.

use super::axis::Axis;
use maud::{Markup, html};

/// The classes that give series `i` its colour and dash. Six colours and five dashes: thirty series differ.
pub(super) fn series(i: usize) -> String {
    format!("c{} d{}", i % 6, (i + i / 6) % 5)
}

/// One line of a chart.
pub(super) struct Line {
    /// Index of the series, for colour and dash.
    pub series: usize,
    /// Whether it is one seed in the background of a mean.
    pub faint: bool,
    /// Shown on hover.
    pub name: String,
    /// In data units; a point that is not finite breaks the line.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 40.0;

fn across(place: f64) -> f64 {
    LEFT + place * (WIDTH - LEFT - RIGHT)
}

fn down(place: f64) -> f64 {
    HEIGHT - BOTTOM - place * (HEIGHT - BOTTOM - TOP)
}

/// A tenth of a unit is finer than any screen.
pub(super) fn px(v: f64) -> String {
    format!("{v:.1}")
}

fn frame(label: &str, x: &Axis, y: &Axis, marks: Markup) -> Markup {
    html! {
        svg class="chart" viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(label) {
            @for (v, text) in &y.ticks {
                @if let Some(at) = y.place(*v).map(down) {
                    path class="grid" d={ "M" (px(LEFT)) " " (px(at)) "H" (px(WIDTH - RIGHT)) } {}
                    text class="tick" x=(px(LEFT - 7.0)) y=(px(at + 4.0)) text-anchor="end" { (text) }
                }
            }
            @for (v, text) in &x.ticks {
                @if let Some(at) = x.place(*v).map(across) {
                    text class="tick" x=(px(at)) y=(px(HEIGHT - BOTTOM + 17.0)) text-anchor="middle" { (text) }
                }
            }
            path class="axis" d={ "M" (px(LEFT)) " " (px(HEIGHT - BOTTOM)) "H" (px(WIDTH - RIGHT)) } {}
            text class="name" x=(px(across(0.5))) y=(px(HEIGHT - 5.0)) text-anchor="middle" { (x.label) }
            text class="name" text-anchor="middle" transform={ "translate(12 " (px(down(0.5))) ") rotate(-90)" } { (y.label) }
            (marks)
        }
    }
}

/// Draws lines over `x` and `y`. Every point of a line that is not faint shows its values on hover.
pub(super) fn lines(label: &str, x: &Axis, y: &Axis, lines: &[Line], write: fn(f64) -> String) -> Markup {
    let at = |&(u, v): &(f64, f64)| Some((across(x.place(u)?), down(y.place(v)?)));
    let path = |line: &Line| {
        let mut pen_down = false;
        let step = |p: &(f64, f64)| match at(p) {
            Some((u, v)) => format!("{}{u:.1} {v:.1}", if std::mem::replace(&mut pen_down, true) { 'L' } else { 'M' }),
            None => {
                pen_down = false;
                String::new()
            }
        };
        line.points.iter().map(step).collect::<String>()
    };
    let dots = |line: &Line| line.points.len() <= 100 && !line.faint;
    frame(
        label,
        x,
        y,
        html! {
            // Seeds first, so that the means lie on top of them.
            @for line in lines.iter().filter(|l| l.faint).chain(lines.iter().filter(|l| !l.faint)) {
                g class={ "line " (series(line.series)) @if line.faint { " faint" } } {
                    path d=(path(line)) { title { (line.name) } }
                    @for (point, (u, v)) in line.points.iter().filter(|_| dots(line)).filter_map(|p| Some((p, at(p)?))) {
                        circle cx=(px(u)) cy=(px(v)) r=(if line.points.len() <= 30 { 2.6 } else { 1.2 }) {
                            title { (line.name) ", " (x.label) " " (point.0) ": " (write(point.1)) }
                        }
                    }
                }
            }
        },
    )
}

/// One class of a histogram.
pub(super) struct Bin {
    /// Label below the bar, if there is room.
    pub label: String,
    /// Height of the bar.
    pub value: f64,
    /// Height of the outline, for comparison.
    pub outline: Option<f64>,
    /// Shown on hover.
    pub title: String,
}

/// A histogram in the colour of series `filled`, with the outline of series `outlined` over it.
pub(super) fn histogram(label: &str, x: &str, y: &str, bins: &[Bin], filled: usize, outlined: usize) -> Markup {
    let x = Axis::places(x, bins.len());
    let heights = bins.iter().flat_map(|b| [b.value, b.outline.unwrap_or(0.0)]);
    let y = Axis::fit(y, heights.chain([0.0]), super::axis::Spacing::Linear, super::format::tick);
    let left = |i: usize| across(x.place(i as f64).unwrap_or(0.0));
    let top = |v: f64| down(y.place(v).unwrap_or(0.0));
    let wide = bins.iter().map(|b| b.label.chars().count()).max().unwrap_or(1) as f64 * 7.0 + 6.0;
    let every = (wide * bins.len() as f64 / (WIDTH - LEFT - RIGHT)).ceil().max(1.0) as usize;
    let outline: String = std::iter::once(format!("M{:.1} {:.1}", left(0), top(0.0)))
        .chain(
            bins.iter().enumerate().map(|(i, b)| format!("V{:.1}H{:.1}", top(b.outline.unwrap_or(0.0)), left(i + 1))),
        )
        .chain([format!("V{:.1}", top(0.0))])
        .collect();
    frame(
        label,
        &x,
        &y,
        html! {
            @for (i, bin) in bins.iter().enumerate() {
                rect class={ "column c" (filled % 6) } x=(px(left(i) + 1.0)) y=(px(top(bin.value))) width=(px((left(i + 1) - left(i) - 2.0).max(0.5))) height=(px(down(0.0) - top(bin.value))) {}
                @if i % every == 0 {
                    text class="tick" x=(px((left(i) + left(i + 1)) / 2.0)) y=(px(HEIGHT - BOTTOM + 17.0)) text-anchor="middle" { (bin.label) }
                }
            }
            @if bins.iter().any(|b| b.outline.is_some()) {
                g class={ "line " (series(outlined)) } { path d=(outline) {} }
            }
            // Whole columns answer to the pointer: a bar of height 1 is hard to hit.
            @for (i, bin) in bins.iter().enumerate() {
                rect class="hit" x=(px(left(i))) y=(px(TOP)) width=(px(left(i + 1) - left(i))) height=(px(down(0.0) - TOP)) { title { (bin.title) } }
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::super::axis::Spacing;
    use super::*;

    #[test]
    fn a_missing_value_breaks_the_line() {
        let points = vec![(1.0, 0.0), (2.0, 10.0), (3.0, f64::NAN), (4.0, 10.0), (5.0, 0.0)];
        let x = Axis::whole("epoch", points.iter().map(|p| p.0));
        let y = Axis::fit("loss", points.iter().map(|p| p.1), Spacing::Linear, super::super::format::tick);
        let line = Line { series: 3, faint: false, name: "a < b".into(), points };
        let page = lines("label", &x, &y, &[line], |v| v.to_string()).into_string();
        // Low values lie low: down is up in SVG.
        assert!(
            page.contains("<path d=\"M62.0 220.0L153.0 10.0M335.0 10.0L426.0 220.0\"><title>a &lt; b</title></path>"),
            "{page}"
        );
        assert_eq!(page.matches("<circle").count(), 4);
        assert!(page.contains("<title>a &lt; b, epoch 2: 10</title>") && page.contains("class=\"line c3 d3\""));
    }

    #[test]
    fn bars_are_as_high_as_their_values() {
        let bin =
            |value: f64| Bin { label: value.to_string(), value, outline: Some(1.0), title: format!("{value} units") };
        let page = histogram("label", "x", "y", &[bin(4.0), bin(2.0)], 0, 1).into_string();
        assert!(page.contains("y=\"10.0\" width=\"180.0\" height=\"210.0\""), "{page}");
        assert!(page.contains("y=\"115.0\" width=\"180.0\" height=\"105.0\""), "{page}");
        assert!(page.contains("d=\"M62.0 220.0V167.5H244.0V167.5H426.0V220.0\""), "{page}");
        assert!(page.contains("<title>2 units</title>"));
    }
}
