//! Common parts of all pages: head, style and content policy, and their building blocks.

use super::chart::series;
use maud::{DOCTYPE, Markup, PreEscaped, html};

pub(super) const STYLE: &str = include_str!("style.css");
/// Nothing may be loaded and nothing may run, whatever a record or a model's header contains.
const POLICY: &str =
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// Renders a whole page.
pub(super) fn page(title: &str, version: &str, top: Markup, sections: Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="generator" content={ "nnz " (version) };
                title { (title) " · nnz" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header { (top) }
                main { (sections) }
                footer { p { "Written by nnz " (version) ". This file is complete in itself: it loads nothing and runs no script." } }
            }
        }
    };
    page.into_string()
}

/// One number that stands out, and its comparison.
pub(super) struct Tile {
    pub label: &'static str,
    pub value: String,
    pub note: String,
}

pub(super) fn tiles(tiles: &[Tile]) -> Markup {
    html! {
        dl.tiles { @for tile in tiles { div { dt { (tile.label) } dd { (tile.value) } dd.note { (tile.note) } } } }
    }
}

/// A picture with its title and a description in words.
pub(super) fn figure(title: &str, picture: Markup, words: Markup) -> Markup {
    html! { figure { h3 { (title) } (picture) figcaption { (words) } } }
}

/// A table whose rows begin with their name. On a phone every row becomes a card (see `style.css`).
pub(super) fn table(caption: Markup, head: &[&str], rows: &[Vec<Markup>]) -> Markup {
    html! {
        table.cards role="table" {
            caption { (caption) }
            thead { tr role="row" { @for name in head { th scope="col" role="columnheader" { (name) } } } }
            tbody {
                @for row in rows {
                    tr role="row" {
                        @for (i, cell) in row.iter().enumerate() {
                            @if i == 0 {
                                th scope="row" role="rowheader" { (cell) }
                            } @else {
                                td role="cell" data-label=(head.get(i).copied().unwrap_or_default()) { (cell) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A number that stays on one line.
pub(super) fn number(text: impl AsRef<str>) -> Markup {
    html! { span.number { (text.as_ref()) } }
}

/// A share of a whole as a thin bar in the colour of a series.
pub(super) fn meter(part: f64, series_of: usize) -> Markup {
    let width = if part.is_finite() { (part * 100.0).clamp(0.0, 100.0) } else { 0.0 };
    html! { span.meter aria-hidden="true" { span class={ "fill c" (series_of % 6) } style={ "width:" (format!("{width:.2}")) "%" } {} } }
}

/// A short piece of the line of a series.
pub(super) fn swatch(of: usize) -> Markup {
    html! { svg.swatch viewBox="0 0 26 8" aria-hidden="true" { g class={ "line " (series(of)) } { path d="M1 4H25" {} } } }
}
