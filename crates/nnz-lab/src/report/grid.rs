//! A grid of squares as inline SVG: the picture of the inputs and the confusion matrix.

use super::chart::px;
use maud::{Markup, html};

/// One square of a grid.
pub(super) struct Cell {
    /// Its class: `h0` to `h8` from low to high, or another of `style.css`.
    pub class: String,
    /// Text inside.
    pub text: String,
    /// Shown on hover.
    pub title: String,
}

/// Steps of colour in a grid.
pub(super) const LEVELS: usize = 9;

/// Most pixels that named squares are wide.
const WIDEST: f64 = 520.0;

/// The colour class of `v` in `0..=top`.
pub(super) fn level(v: f64, top: f64) -> String {
    let share = if top > 0.0 && v.is_finite() { (v / top).clamp(0.0, 1.0) } else { 0.0 };
    format!("h{}", ((share * LEVELS as f64) as usize).min(LEVELS - 1))
}

/// Squares, row by row; `rows` and `columns` name them (empty for a picture) under the titles `names`.
pub(super) fn grid(label: &str, cells: &[Vec<Cell>], rows: &[String], columns: &[String], names: [&str; 2]) -> Markup {
    // Few squares are drawn larger, but not as wide as the page: their text would grow with them.
    let side = if rows.is_empty() { 10.0 } else { (240.0 / rows.len() as f64).clamp(34.0, 60.0).round() };
    let letters = rows.iter().map(|r| r.chars().count()).max().unwrap_or(0) as f64;
    let (left, top) = if rows.is_empty() { (0.0, 0.0) } else { (26.0 + letters * 8.0, 46.0) };
    let wide = left + side * cells.iter().map(Vec::len).max().unwrap_or(0) as f64;
    let high = top + side * cells.len() as f64;
    let middle = |i: usize| side * (i as f64 + 0.5);
    html! {
        svg class={ "cells" @if rows.is_empty() { " picture" } } style=[(!rows.is_empty()).then(|| format!("max-width:{}px", px(wide.min(WIDEST))))] viewBox={ "0 0 " (px(wide)) " " (px(high)) } role="img" aria-label=(label) {
            @if !rows.is_empty() {
                text class="name" x=(px((left + wide) / 2.0)) y="12" text-anchor="middle" { (names[1]) }
                text class="name" text-anchor="middle" transform={ "translate(11 " (px((top + high) / 2.0)) ") rotate(-90)" } { (names[0]) }
            }
            @for (i, name) in rows.iter().enumerate() {
                text class="tick" x=(px(left - 6.0)) y=(px(top + middle(i) + 4.5)) text-anchor="end" { (name) }
            }
            @for (j, name) in columns.iter().enumerate() {
                text class="tick" x=(px(left + middle(j))) y=(px(top - 8.0)) text-anchor="middle" { (name) }
            }
            @for (i, row) in cells.iter().enumerate() {
                @for (j, cell) in row.iter().enumerate() {
                    rect class=(cell.class) x=(px(left + side * j as f64)) y=(px(top + side * i as f64)) width=(side) height=(side) { title { (cell.title) } }
                    @if !cell.text.is_empty() {
                        text class={ "in " (cell.class) } x=(px(left + middle(j))) y=(px(top + middle(i) + 4.5)) text-anchor="middle" { (cell.text) }
                    }
                }
            }
        }
    }
}
