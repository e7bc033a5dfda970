//! Connections of each pixel of the input, as an image.

use super::format::{count, counted, share};
use super::frame::figure;
use super::grid::{Cell, LEVELS, grid, level};
use maud::{Markup, html};

/// An image is pooled until neither side has more squares than this.
const SIDE: usize = 56;

/// Whether data of `[channels, height, width]` are images.
pub(super) fn is_picture([channels, height, width]: [usize; 3]) -> bool {
    channels > 0 && height > 1 && width > 1
}

/// Connections of each pixel, row by row, summed over channels; pooled to at most [`SIDE`] squares per side.
pub(super) struct Map {
    /// Mean connections per pixel of each square.
    squares: Vec<Vec<f64>>,
    /// Channels that were summed.
    channels: usize,
    /// Side of a square in pixels.
    pool: usize,
    /// Share of the connections in the middle half of height and width (a quarter of the area).
    middle: f64,
    /// The same share if connections were spread evenly.
    even: f64,
    empty: u64,
    pixels: u64,
    /// The largest square: (mean, row, column).
    peak: (f64, usize, usize),
}

impl Map {
    /// Computes it from the fan-out of the inputs `[height][width][channels]`. `None` if `image` is none or they are not
    /// its pixels.
    pub fn new(image: [usize; 3], fan_out: &[u32]) -> Option<Self> {
        let [channels, height, width] = image;
        let pixels = height.checked_mul(width)?;
        if !is_picture(image) || fan_out.len() != channels.checked_mul(pixels)? {
            return None;
        }
        let mut sums = vec![0u64; pixels];
        for (i, &d) in fan_out.iter().enumerate() {
            sums[i / channels] += u64::from(d);
        }
        let inside = |i: usize| {
            let (r, c) = (i / width, i % width);
            (height / 4..height - height / 4).contains(&r) && (width / 4..width - width / 4).contains(&c)
        };
        let share_of = |part: u64, whole: u64| part as f64 / whole as f64;
        let middle: u64 = (0..pixels).filter(|&i| inside(i)).map(|i| sums[i]).sum();
        let pool = height.max(width).div_ceil(SIDE);
        let square = |r: usize, c: usize| {
            let rows = r * pool..((r + 1) * pool).min(height);
            let cols = c * pool..((c + 1) * pool).min(width);
            let area = (rows.len() * cols.len()) as f64;
            rows.flat_map(|i| cols.clone().map(move |j| (i, j))).map(|(i, j)| sums[i * width + j] as f64).sum::<f64>()
                / area
        };
        let squares: Vec<Vec<f64>> =
            (0..height.div_ceil(pool)).map(|r| (0..width.div_ceil(pool)).map(|c| square(r, c)).collect()).collect();
        let mut peak = (0.0, 0, 0);
        for (r, row) in squares.iter().enumerate() {
            for (c, &v) in row.iter().enumerate() {
                if v > peak.0 {
                    peak = (v, r, c);
                }
            }
        }
        Some(Self {
            squares,
            channels,
            pool,
            middle: share_of(middle, sums.iter().sum()),
            even: share_of((0..pixels).filter(|&i| inside(i)).count() as u64, pixels as u64),
            empty: sums.iter().filter(|s| **s == 0).count() as u64,
            pixels: pixels as u64,
            peak,
        })
    }

    /// Describes the image in words.
    fn describe(&self) -> String {
        let middle = if self.middle.is_finite() {
            format!(
                "{} of the connections lie in the middle quarter of the picture ({} if spread evenly)",
                share(self.middle),
                share(self.even)
            )
        } else {
            "there is no connection".into()
        };
        let empty = match self.empty {
            0 => "every pixel has a connection".into(),
            n => format!("{} of {} have none", count(n), counted(self.pixels, "pixel")),
        };
        format!(
            "{middle}; {empty}; the most connected {} {} at row {}, column {}.",
            if self.pool == 1 { "pixel has" } else { "square has a mean of" },
            short(self.peak.0),
            self.peak.1 * self.pool + 1,
            self.peak.2 * self.pool + 1
        )
    }

    /// The smallest square.
    fn least(&self) -> f64 {
        self.squares.iter().flatten().copied().fold(f64::INFINITY, f64::min)
    }

    /// Squares coloured on the scale from `low` to `top`.
    fn cells(&self, low: f64, top: f64) -> Vec<Vec<Cell>> {
        let cell = |r: usize, c: usize, v: f64| Cell {
            class: if v == 0.0 { "none".into() } else { level(v - low, top - low) },
            text: String::new(),
            title: format!("row {}, column {}: {}", r * self.pool + 1, c * self.pool + 1, short(v)),
        };
        let row = |(r, row): (usize, &Vec<f64>)| row.iter().enumerate().map(|(c, &v)| cell(r, c, v)).collect();
        self.squares.iter().enumerate().map(row).collect()
    }
}

/// `12` or `3.4`: pooled squares have means.
fn short(v: f64) -> String {
    if v.fract() == 0.0 { format!("{v}") } else { format!("{v:.1}") }
}

/// Maps of one network at several steps, in a loop, as an animated SVG that needs no script.
/// Without animation the last one is shown.
pub(super) fn animate(maps: &[(u64, Map)], seconds: f64, last: usize) -> Markup {
    let top = maps.iter().map(|(_, m)| m.peak.0).fold(0.0, f64::max);
    let sides = |m: &Map| (m.squares.first().map_or(0, Vec::len), m.squares.len());
    let (wide, high) = maps.first().map_or((0, 0), |(_, m)| sides(m));
    let length = maps.len() + last;
    // Visible from its step until the next one's; the last one stays longer.
    let values = |i: usize| {
        let shown = |t: usize| t.min(maps.len() - 1) == i;
        (0..length).map(|t| if shown(t) { "visible" } else { "hidden" }).collect::<Vec<_>>().join(";")
    };
    let duration = format!("{:.1}s", seconds * length as f64);
    let label = format!("Connections of each input pixel in {} pictures, from step {} on", maps.len(), maps[0].0);
    html! {
        svg.cells.picture viewBox={ "0 0 " (wide * 10) " " (high * 10 + 16) } role="img" aria-label=(label) {
            @for (i, (step, map)) in maps.iter().enumerate() {
                g visibility=(if i + 1 == maps.len() { "visible" } else { "hidden" }) {
                    animate attributeName="visibility" values=(values(i)) calcMode="discrete" dur=(duration) repeatCount="indefinite" {}
                    @for (r, row) in map.squares.iter().enumerate() {
                        // Squares of one colour in a row are merged to one rectangle.
                        @for (from, to, class) in runs(row, top) {
                            rect class=(class) x=(from * 10) y=(r * 10) width=((to - from) * 10) height="10" {}
                        }
                    }
                    text.tick x=(wide * 5) y=(high * 10 + 13) text-anchor="middle" { "step " (count(*step)) }
                }
            }
        }
    }
}

/// From, to and colour of adjacent squares of one colour.
fn runs(row: &[f64], top: f64) -> Vec<(usize, usize, String)> {
    let mut all: Vec<(usize, usize, String)> = Vec::new();
    for (c, &v) in row.iter().enumerate() {
        let class = if v == 0.0 { "none".into() } else { level(v, top) };
        match all.last_mut().filter(|l| l.2 == class) {
            Some(run) => run.1 = c + 1,
            None => all.push((c, c + 1, class)),
        }
    }
    all
}

/// Maps of the inputs of several networks, side by side on one scale, with their scale and description.
pub(super) fn draw(maps: &[(&str, Map)]) -> Markup {
    let top = maps.iter().map(|(_, m)| m.peak.0).fold(0.0, f64::max);
    // If every pixel has many connections, a scale from zero would show one colour.
    let least = maps.iter().map(|(_, m)| m.least()).fold(f64::INFINITY, f64::min);
    let low = if least > top / 2.0 { least } else { 0.0 };
    let channels = maps.first().map_or(1, |m| m.1.channels);
    html! {
        div.maps {
            @for (name, m) in maps {
                @let label = format!("Connections of each input pixel, {name}: {}", m.describe());
                (figure(name, grid(&label, &m.cells(low, top), &[], &[], ["", ""]), html! { (share(m.middle)) " in the middle quarter" }))
            }
        }
        div.scale {
            @if low > 0.0 {
                span { (short(low)) }
            } @else {
                span.key { svg viewBox="0 0 10 10" aria-hidden="true" { rect class="none" width="10" height="10" {} } "none" }
                span { "few" }
            }
            svg.ramp viewBox={ "0 0 " (LEVELS * 10) " 10" } preserveAspectRatio="none" aria-hidden="true" {
                @for i in 0..LEVELS { rect class={ "h" (i) } x=(i * 10) width="10.5" height="10" {} }
            }
            span { (short(top)) }
            span {
                "connections a pixel" @if channels > 1 { ", summed over " (channels) " channels" }
                @if maps.len() > 1 { "; one scale for all pictures" } "."
                @if let Some((_, m)) = maps.iter().find(|m| m.1.pool > 1) { " Each square is the mean of " (m.pool) " × " (m.pool) " pixels." }
            }
        }
        ul.words { @for (name, m) in maps { li { b { (name) } ": " (m.describe()) } } }
    }
}
