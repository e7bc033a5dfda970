//! Errors of the method arm: the confusion matrix and the misclassified rows as small images.

use super::format::{count, share};
use super::frame::figure;
use super::grid::{Cell, grid, level};
use super::view::{View, first};
use crate::run::record::Misread;
use base64::{Engine, prelude::BASE64_STANDARD};
use maud::{Markup, html};

/// Above this many classes the squares carry no names or numbers, only colour and hover titles.
const NAMED: usize = 20;
/// Above this many classes only the list of frequent confusions is shown.
const DRAWN: usize = 64;
/// Most images shown.
const PICTURES: usize = 24;

/// `name`, truncated to `kept` letters if it has more than `most`.
fn cut(name: &str, most: usize, kept: usize) -> String {
    if name.chars().count() <= most { name.into() } else { name.chars().take(kept).chain(['…']).collect() }
}

/// The confusion matrix of the first seed. The diagonal keeps its numbers but no colour: it would drown the errors.
pub(super) fn confusion(view: &View) -> Markup {
    let Some(seed) = first(view.method).filter(|s| s.confusion.iter().any(|r| !r.is_empty())) else {
        return html! { p.note { "No confusion matrix was recorded." } };
    };
    let rows = &seed.confusion;
    let n = rows.iter().map(Vec::len).max().unwrap_or(0).max(rows.len());
    let at = |label: usize, read: usize| rows.get(label).and_then(|r| r.get(read)).copied().unwrap_or(0);
    let wrong = |i: usize| rows[i].iter().enumerate().filter(move |(j, _)| *j != i).map(|(_, c)| u64::from(*c));
    let errors: u64 = (0..rows.len()).flat_map(wrong).sum();
    let all: u64 = rows.iter().flatten().map(|c| u64::from(*c)).sum();
    let mut worst: Vec<(u32, usize, usize)> = (0..rows.len())
        .flat_map(|i| rows[i].iter().enumerate().map(move |(j, c)| (*c, i, j)))
        .filter(|w| w.0 > 0 && w.1 != w.2)
        .collect();
    worst.sort_by_key(|&(c, i, j)| (std::cmp::Reverse(c), i, j));
    let top = worst.first().map_or(0, |w| w.0);
    let say = |&(c, i, j): &(u32, usize, usize)| {
        format!("{} read as {}: {}", view.class(i), view.class(j), count(u64::from(c)))
    };
    let words = if worst.is_empty() {
        format!("No row of {} was misread.", count(all))
    } else {
        let most: Vec<String> = worst.iter().take(5).map(say).collect();
        format!(
            "{} of {} rows were misread ({}). Most frequent: {}.",
            count(errors),
            count(all),
            share(errors as f64 / all as f64),
            most.join("; ")
        )
    };
    if n > DRAWN {
        return html! { p { (words) " A matrix of " (n) " classes is too large to draw; the data are in confusion.csv." } };
    }
    let named = n <= NAMED;
    let cell = |i: usize, j: usize| {
        let c = at(i, j);
        let of: u64 = (0..n).map(|k| u64::from(at(i, k))).sum();
        let share = if of > 0 { format!(", {} of its rows", share(f64::from(c) / of as f64)) } else { String::new() };
        Cell {
            class: if i == j {
                "right".into()
            } else if c == 0 {
                "zero".into()
            } else {
                level(f64::from(c), f64::from(top))
            },
            text: match c {
                0 if i != j => String::new(),
                _ if !named => String::new(),
                c if c < 10_000 => c.to_string(),
                c => format!("{}k", (u64::from(c) + 500) / 1000),
            },
            title: format!("{} read as {}: {}{share}", view.class(i), view.class(j), count(u64::from(c))),
        }
    };
    let cells: Vec<Vec<Cell>> = (0..n).map(|i| (0..n).map(|j| cell(i, j)).collect()).collect();
    let names = |most, kept| if named { (0..n).map(|i| cut(&view.class(i), most, kept)).collect() } else { vec![] };
    let title = format!("Confusions of {}{}", view.method.name, view.seed());
    let picture =
        grid(&format!("Confusion matrix. {words}"), &cells, &names(14, 13), &names(5, 3), ["true class", "read as"]);
    figure(&title, picture, html! { (words) " Colour counts errors only; the diagonal holds what was read correctly." })
}

/// Some misclassified rows of the first seed.
pub(super) fn misread(view: &View) -> Markup {
    let Some(seed) = first(view.method) else { return html! {} };
    if seed.misread.is_empty() {
        return html! { p.note { "No misread row was recorded." } };
    }
    // No rounding to 100% confidence in a wrong answer.
    let sure = |m: &Misread| if m.confidence > 0.999 { "over 99.9%".into() } else { share(m.confidence) };
    let one = |m: &Misread| {
        let (label, read) = (view.class(m.label), view.class(m.predicted));
        let words = format!("Test row {}: a {label}, read as {read}, confidence {}", m.index, sure(m));
        html! {
            li {
                @if let Some(data) = picture(view, m) {
                    img src=(data) alt=(words) title=(words) width="84" height="84" loading="lazy";
                } @else {
                    span.row { "row " (count(m.index as u64)) }
                }
                span { b { (label) } " read as " b.wrong { (read) } }
                span.note { (sure(m)) " sure" }
            }
        }
    };
    html! {
        h3 { "Misread with most confidence" (view.seed()) }
        ul.misread { @for m in seed.misread.iter().take(PICTURES) { (one(m)) } }
    }
}

/// The row as a PNG in a data URI; `None` if it is not an image.
fn picture(view: &View, m: &Misread) -> Option<String> {
    let [channels, height, width] = view.record.data.image;
    let area = height.checked_mul(width)?;
    if !view.is_picture() || m.pixels.len() != area.checked_mul(channels)? {
        return None;
    }
    let (color, bytes) = if channels == 3 {
        (png::ColorType::Rgb, m.pixels.clone())
    } else {
        let mean = |p: &[u8]| (p.iter().map(|v| usize::from(*v)).sum::<usize>() / channels) as u8;
        (png::ColorType::Grayscale, m.pixels.chunks_exact(channels).map(mean).collect::<Vec<u8>>())
    };
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, u32::try_from(width).ok()?, u32::try_from(height).ok()?);
    encoder.set_color(color);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().ok()?;
    writer.write_image_data(&bytes).ok()?;
    writer.finish().ok()?;
    Some(format!("data:image/png;base64,{}", BASE64_STANDARD.encode(file)))
}
