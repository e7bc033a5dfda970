//! Histograms of how many connections the units of a layer have.

use super::chart::{Bin, histogram};
use super::format::{count, counted};
use super::frame::figure;
use maud::{Markup, html};
use std::collections::BTreeMap;

/// Histograms beyond this many layers are folded.
const OPEN_LAYERS: usize = 4;

/// How many units have how many connections: degree to units.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally(BTreeMap<u64, u64>);

impl Tally {
    /// Counts the degree of every unit.
    pub fn of(degrees: &[u32]) -> Self {
        let mut units = BTreeMap::new();
        degrees.iter().for_each(|d| *units.entry(u64::from(*d)).or_default() += 1);
        Self(units)
    }

    /// Converts `histogram[d]` units with `d` connections.
    pub fn from_histogram(histogram: &[usize]) -> Self {
        Self((0..).zip(histogram.iter().map(|n| *n as u64)).filter(|(_, n)| *n > 0).collect())
    }

    /// (degree, units), by ascending degree.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(d, n)| (*d, *n))
    }

    fn units(&self) -> u64 {
        self.0.values().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Smallest and largest degree.
    fn ends(&self) -> Option<(u64, u64)> {
        Some((*self.0.first_key_value()?.0, *self.0.last_key_value()?.0))
    }

    fn within(&self, (from, to): (u64, u64)) -> u64 {
        self.0.range(from..=to).map(|(_, n)| n).sum()
    }

    /// The median degree, the upper of two.
    fn median(&self) -> u64 {
        let half = self.units() / 2;
        let mut below = 0u64;
        let middle = self.iter().find(|(_, n)| {
            below = below.saturating_add(*n);
            below > half
        });
        middle.map_or(0, |m| m.0)
    }

    /// `median 12, from 0 to 61; 83 of 784 inputs have none`.
    fn summary(&self, noun: &str) -> String {
        let Some((lo, hi)) = self.ends() else { return format!("no {noun}s recorded") };
        let none = match self.within((0, 0)) {
            0 => String::new(),
            n => format!(
                "; {} of {} {} none",
                count(n),
                counted(self.units(), noun),
                if n == 1 { "has" } else { "have" }
            ),
        };
        format!("median {}, from {} to {}{none}", count(self.median()), count(lo), count(hi))
    }
}

/// Classes of a histogram of degrees: single degrees where the range is small, equal steps up to a factor of four,
/// steps that grow by about a fifth beyond.
fn classes(lo: u64, hi: u64) -> Vec<(u64, u64)> {
    if hi - lo < 24 {
        return (lo..=hi).map(|d| (d, d)).collect();
    }
    if lo > 0 && hi / lo < 4 {
        let step = (hi - lo + 1).div_ceil(18);
        return (lo..=hi).step_by(step as usize).map(|d| (d, d + step - 1)).collect();
    }
    let mut out = if lo == 0 { vec![(0, 0)] } else { vec![] };
    let mut from = lo.max(1);
    while from <= hi {
        // Widths never shrink, so that no class looks empty next to its neighbours only because of rounding.
        let width = (from as f64 * 0.19).round().max(1.0) as u64;
        out.push((from, from + width - 1));
        from += width;
    }
    out
}

/// The degrees of one network in a histogram.
pub(super) struct Side<'a> {
    /// Name that distinguishes it from the other; empty if there is no other.
    pub name: &'a str,
    /// Its colour and dash.
    pub series: usize,
    /// Its units.
    pub tally: Tally,
}

/// A histogram of the `noun`s of a layer by their connections, with another network's in outline.
pub(super) fn draw(title: &str, noun: &str, ours: &Side, other: Option<&Side>) -> Markup {
    let ends: Vec<(u64, u64)> = [Some(ours), other].into_iter().flatten().filter_map(|s| s.tally.ends()).collect();
    let (Some(lo), Some(hi)) = (ends.iter().map(|e| e.0).min(), ends.iter().map(|e| e.1).max()) else {
        return html! {};
    };
    let classes = classes(lo, hi);
    let grows = classes.windows(2).any(|w| w[1].1 - w[1].0 > w[0].1 - w[0].0);
    let named = |side: &Side, text: String| if side.name.is_empty() { text } else { format!("{} {text}", side.name) };
    let bin = |&class: &(u64, u64)| {
        let (from, to) = class;
        let value = ours.tally.within(class);
        let outline = other.map(|o| o.tally.within(class));
        let range = if from == to { from.to_string() } else { format!("{from} to {to}") };
        let theirs = other.zip(outline).map_or(String::new(), |(o, n)| format!(", {} {}", o.name, count(n)));
        Bin {
            label: from.to_string(),
            value: value as f64,
            outline: outline.map(|n| n as f64),
            title: format!("{range} connections: {}{theirs}", named(ours, counted(value, noun))),
        }
    };
    let bins: Vec<Bin> = classes.iter().map(bin).collect();
    let say = |side: &Side| {
        let text = side.tally.summary(noun);
        if side.name.is_empty() { format!("Connections: {text}.") } else { format!("{}: {text}.", side.name) }
    };
    let words = [Some(ours), other].into_iter().flatten().map(say).collect::<Vec<_>>().join(" ");
    let x = format!("connections{}", if grows { " (log scale)" } else { "" });
    let picture = histogram(
        &format!("{title}. {words}"),
        &x,
        &format!("{noun}s"),
        &bins,
        ours.series,
        other.map_or(0, |o| o.series),
    );
    figure(title, picture, html! { (words) })
}

/// Histograms of several layers, two figures each: the first few open, the rest folded.
pub(super) fn fold<L>(layers: &[L], draw: impl Fn(&L) -> Markup) -> Markup {
    let (open, closed) = layers.split_at(layers.len().min(OPEN_LAYERS));
    html! {
        @if !open.is_empty() { div.pair { @for layer in open { (draw(layer)) } } }
        @if !closed.is_empty() {
            details {
                summary { "Degrees of " (counted(closed.len() as u64, "more layer")) }
                div.pair { @for layer in closed { (draw(layer)) } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_cover_every_degree_once() {
        let most = u64::from(u32::MAX);
        for (lo, hi) in [(0, 0), (3, 3), (0, 23), (0, 24), (20, 60), (0, 784), (1, 5000), (7, most), (0, most)] {
            let classes = classes(lo, hi);
            assert_eq!(classes[0].0, lo);
            assert!(classes.last().unwrap().1 >= hi && classes.len() < 130, "{lo}..={hi}: {classes:?}");
            assert!(classes.windows(2).all(|w| w[0].1 + 1 == w[1].0), "{classes:?}");
            assert!(classes.iter().all(|c| c.0 <= c.1));
            // The last step of equal ones may reach beyond `hi`, so it is as wide as the others.
            assert!(classes.iter().skip(1).is_sorted_by_key(|c| c.1 - c.0), "{classes:?}");
        }
    }

    #[test]
    fn words_about_degrees() {
        assert_eq!(Tally::of(&[0, 5, 2]).summary("input"), "median 2, from 0 to 5; 1 of 3 inputs has none");
        assert_eq!(Tally::of(&[]).summary("input"), "no inputs recorded");
        let same = Tally::from_histogram(&[2, 0, 1, 4]);
        assert_eq!(same.summary("output"), Tally::of(&[3, 0, 3, 2, 3, 3, 0]).summary("output"));
        assert_eq!(same.summary("output"), "median 3, from 0 to 3; 2 of 7 outputs have none");
        assert_eq!(same.iter().collect::<Vec<_>>(), [(0, 2), (2, 1), (3, 4)]);
    }
}
