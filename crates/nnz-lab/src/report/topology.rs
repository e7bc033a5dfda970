//! Positions of the connections: the picture of the inputs and the degree histograms.

use super::degrees::{self, Side, Tally};
use super::format::{count, counted};
use super::pixels::{self, Map};
use super::tables::legend;
use super::view::{View, entries, first, layers};
use crate::run::record::{ArmRecord, LayerRecord};
use maud::{Markup, html};

/// Most names in a sentence.
const NAMES: usize = 24;

/// Inputs that kept connections, for the method arm and the random one, on one scale.
pub(super) fn inputs(view: &View) -> Markup {
    let map = |arm: &ArmRecord| Map::new(view.record.data.image, &layers(arm).first()?.fan_out);
    let (Some(layer), Some(ours)) = (layers(view.method).first(), map(view.method)) else {
        return most_connected(view);
    };
    let random = view.control("static-random").and_then(|arm| Some((arm.name.as_str(), map(arm)?)));
    let maps: Vec<(&str, Map)> = [(view.method.name.as_str(), ours)].into_iter().chain(random).collect();
    html! {
        p {
            "Each square is an input pixel; its colour says how many of the " (counted(layer.rows as u64, "output")) " of "
            (layer.name) " it is connected to at the end of training" (view.seed()) "."
        }
        (pixels::draw(&maps))
    }
}

/// For inputs that are not an image: those with most connections, in words.
fn most_connected(view: &View) -> Markup {
    let Some(layer) = layers(view.method).first() else { return html! {} };
    if view.is_picture() {
        return html! {
            p.note { (layer.name) " looks at a window of the picture at a time, not at all of it, so there is no map of its inputs." }
        };
    }
    html! {
        p.note {
            "The inputs of " (layer.name) " are not the pixels of a picture, so there is none to draw. "
            (ranked(&layer.fan_out, &view.record.data.inputs))
        }
    }
}

/// The inputs with most connections, in a sentence: by name where they have names.
pub(super) fn ranked(fan_out: &[u32], names: &[String]) -> String {
    let named = names.len() == fan_out.len();
    let mut ranked: Vec<(usize, u32)> = fan_out.iter().copied().enumerate().filter(|r| r.1 > 0).collect();
    ranked.sort_by_key(|&(i, d)| (std::cmp::Reverse(d), i));
    let name = |i: usize| if named { names[i].clone() } else { i.to_string() };
    let list: Vec<String> =
        ranked.iter().take(10).map(|&(i, d)| format!("{} ({})", name(i), count(u64::from(d)))).collect();
    if list.is_empty() {
        return "No input has a connection.".into();
    }
    let unread: Vec<String> = (0..fan_out.len()).filter(|&i| named && fan_out[i] == 0).map(name).collect();
    let unread = if unread.is_empty() { String::new() } else { format!(" Not read at all: {}.", some(&unread)) };
    let counted = if named { "" } else { ", counted from 0" };
    format!("Inputs with most connections{counted}: {}.{unread}", list.join(", "))
}

/// The first of many names.
pub(super) fn some(names: &[String]) -> String {
    let first = names[..names.len().min(NAMES)].join(", ");
    match names.len().saturating_sub(NAMES) {
        0 => first,
        more => format!("{first} and {} more", count(more as u64)),
    }
}

fn side<'a>(view: &View, arm: &'a ArmRecord, degrees: &[u32]) -> Side<'a> {
    Side { name: &arm.name, series: view.series(arm), tally: Tally::of(degrees) }
}

/// Fan-in and fan-out of every layer that the method made sparse.
pub(super) fn histograms(view: &View) -> Markup {
    let all = layers(view.method);
    let (sparse, full): (Vec<&LayerRecord>, Vec<&LayerRecord>) =
        all.iter().partition(|l| (l.nonzeros as u64) < entries(l));
    let random = view.control("static-random");
    let control_of = |layer: &LayerRecord| {
        let theirs =
            layers(random?).iter().find(|l| (&l.name, l.rows, l.cols) == (&layer.name, layer.rows, layer.cols))?;
        Some((random?, theirs))
    };
    let one = |layer: &LayerRecord, title: &str, noun: &str, of: fn(&LayerRecord) -> &[u32]| {
        let ours = side(view, view.method, of(layer));
        let other = control_of(layer).map(|(arm, theirs)| side(view, arm, of(theirs)));
        degrees::draw(&format!("{}: {title}", layer.name), noun, &ours, other.as_ref())
    };
    let both = |layer: &&LayerRecord| {
        html! {
            (one(layer, "fan-in", "output", |l| &l.fan_in))
            (one(layer, "fan-out", "input", |l| &l.fan_out))
        }
    };
    html! {
        @if !sparse.is_empty() {
            p {
                "Fan-in is how many inputs an output listens to, fan-out how many outputs an input reaches. Bars: " (view.method.name) (view.seed())
                @if let Some(r) = random { "; outline: " (r.name) }
                ". Heavy right tails are hubs; bars at 0 are units that fell silent."
            }
            @if let Some(r) = random { (legend(view, &[0, view.series(r)])) }
            (degrees::fold(&sparse, both))
        }
        @if !full.is_empty() && first(view.method).is_some() {
            p.note { "Fully connected, so without a histogram: " (full.iter().map(|l| l.name.as_str()).collect::<Vec<_>>().join(", ")) "." }
        }
    }
}
