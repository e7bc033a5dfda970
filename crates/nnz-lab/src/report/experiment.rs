//! The page of an experiment: its claim, a table of metrics, its curves, images and tables.

use super::axis::{Axis, Spacing};
use super::chart::{Line, lines};
use super::format::tick;
use super::frame::{self, figure, number, swatch, table};
use crate::experiment::{ExperimentArm, ExperimentArmRecord, ExperimentRecipe, ExperimentRecord, MetricRecord};
use crate::{Summary, summarize};
use base64::{Engine, prelude::BASE64_STANDARD};
use maud::{Markup, html};
use nnz_core::experiment::{Curve, Picture};
use std::collections::BTreeSet;

/// Mean and interval of a metric over the seeds of an arm.
fn summary(arm: &ExperimentArmRecord, metric: &MetricRecord) -> Option<Summary> {
    let values: Option<Vec<f64>> = arm.seeds.iter().map(|s| s.findings.metrics.get(&metric.key).copied()).collect();
    values.filter(|v| !v.is_empty()).map(|v| summarize(&v))
}

/// The whole page.
pub fn page(record: &ExperimentRecord) -> String {
    let sections = html! {
        (claim(record))
        (metrics(record))
        (sweep(record))
        (curves(record))
        (pictures(record))
        (tables(record))
        (origin(record))
    };
    frame::page(&record.title, &record.machine.version, top(record), sections)
}

fn top(record: &ExperimentRecord) -> Markup {
    html! {
        p.eyebrow { "nnz run " code { (record.id) } }
        h1 { (record.title) }
        p.lead { (record.summary) }
    }
}

fn claim(record: &ExperimentRecord) -> Markup {
    let Some(claim) = &record.claim else { return html! {} };
    let found = claim.judge(record);
    html! {
        section {
            h2 { "The claim" }
            p { (claim.statement) "." }
            @match &found {
                Ok(j) => p {
                    strong { (j.verdict) } ": " (claim.write_effect(&record.metrics, j.effect, j.interval))
                    ", expected " (claim.write_expected(&record.metrics)) "."
                },
                Err(why) => p { "It could not be judged: " (why) "." },
            }
            p.note { (claim.source) }
        }
    }
}

fn metrics(record: &ExperimentRecord) -> Markup {
    let half =
        |m: &MetricRecord, s: &Summary| s.half_width.map(|h| format!(" ± {}", m.unit.write(h))).unwrap_or_default();
    let first = record.arms.first().map_or("", |a| &*a.name);
    let cell = |arm: &ExperimentArmRecord, m: &MetricRecord| match summary(arm, m) {
        Some(s) => html! {
            span.number { (m.unit.write(s.mean)) small { (half(m, &s)) } }
            @if let Some(over) = record.over_first(&arm.name, &m.key) {
                span.note { (m.unit.write_difference(over.mean)) (half(m, &over)) " over " (first) }
            }
        },
        None => number("–"),
    };
    let row = |(i, arm): (usize, &ExperimentArmRecord)| {
        let options: Vec<String> = arm.options.iter().map(|(k, v)| format!("{k} = {v}")).collect();
        let name = html! { (swatch(i)) (arm.name) span.note { (options.join(", ")) } };
        std::iter::once(name).chain(record.metrics.iter().map(|m| cell(arm, m))).collect::<Vec<_>>()
    };
    let rows: Vec<Vec<Markup>> = record.arms.iter().enumerate().map(row).collect();
    let seeds = record.arms.first().map_or(0, |a| a.seeds.len());
    let caption = match seeds {
        1 => html! { "What every arm found, on one seed." },
        n => html! {
            "What every arm found: means over " (n) " seeds and their 95% intervals (Student's t); differences are paired by seed."
        },
    };
    let head: Vec<&str> = std::iter::once("Arm").chain(record.metrics.iter().map(|m| &*m.key)).collect();
    html! {
        section {
            h2 { "Metrics" }
            (table(caption, &head, &rows))
            dl.facts { @for m in &record.metrics { div { dt { (m.key) } dd { (m.about) } } } }
        }
    }
}

/// The one option in which the arms of every experiment differ, and for each experiment its key, its arms and their values, if
/// those are numbers.
fn swept(record: &ExperimentRecord) -> Option<(String, Vec<Swept<'_>>)> {
    let recipe: ExperimentRecipe = toml::from_str(&record.recipe).ok()?;
    let (mut option, mut all) = (None, Vec::new());
    for key in recipe.keys() {
        let arms = || recipe.arms.iter().filter(|arm| recipe.key_of(arm) == key);
        let first = &arms().next()?.options;
        let mut differ = first.keys().filter(|&o| arms().any(|a| a.options.get(o) != first.get(o)));
        let (one, None) = (differ.next()?.clone(), differ.next()) else { return None };
        if *option.get_or_insert_with(|| one.clone()) != one {
            return None;
        }
        let number = |v: &toml::Value| v.as_float().or_else(|| v.as_integer().map(|i| i as f64));
        let point = |arm: &ExperimentArm| {
            Some((record.arms.iter().find(|a| a.name == arm.name)?, number(arm.options.get(&one)?)?))
        };
        all.push((key.to_string(), arms().map(point).collect::<Option<Vec<_>>>()?));
    }
    Some((option?, all))
}

/// Key of an experiment, and its arms with the value of the option that was swept.
type Swept<'r> = (String, Vec<(&'r ExperimentArmRecord, f64)>);

/// Every metric along the option that was swept, a line for each experiment.
fn sweep(record: &ExperimentRecord) -> Markup {
    let Some((option, all)) = swept(record) else { return html! {} };
    let chart = |m: &MetricRecord| {
        let line = |(series, (key, arms)): (usize, &Swept)| {
            let found = arms.iter().filter_map(|&(arm, x)| Some((x, summary(arm, m)?.mean)));
            let mut points: Vec<(f64, f64)> = found.collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let name = if all.len() == 1 { m.key.clone() } else { key.clone() };
            Line { series, faint: false, name, points }
        };
        let lines_of: Vec<Line> = all.iter().enumerate().map(line).collect();
        let points = || lines_of.iter().flat_map(|l| &l.points);
        let spacing = if points().all(|p| p.0 > 0.0) { Spacing::Log } else { Spacing::Linear };
        let x = Axis::fit(&option, points().map(|p| p.0), spacing, tick);
        let y = Axis::fit(&m.key, points().map(|p| p.1), Spacing::Linear, tick);
        let picture = lines(&format!("{} along {option}", m.key), &x, &y, &lines_of, |v| format!("{v:.4}"));
        let legend = html! {
            (m.about)
            @if all.len() > 1 { ul.legend { @for l in &lines_of { li { (swatch(l.series)) (l.name) } } } }
        };
        figure(&m.key, picture, legend)
    };
    html! {
        section { h2 { "Along " (option) } div.figures { @for m in &record.metrics { (chart(m)) } } }
    }
}

/// Averages the points of the seeds at equal x.
fn mean(curves: &[&Curve]) -> Vec<(f64, f64)> {
    let Some(first) = curves.first() else { return Vec::new() };
    let point = |(i, p): (usize, &[f64; 2])| {
        let all: Vec<f64> =
            curves.iter().filter_map(|c| c.points.get(i).filter(|q| q[0] == p[0]).map(|q| q[1])).collect();
        (p[0], all.iter().sum::<f64>() / all.len() as f64)
    };
    first.points.iter().enumerate().map(point).collect()
}

fn curves(record: &ExperimentRecord) -> Markup {
    let findings = || record.arms.iter().flat_map(|a| &a.seeds).map(|s| &s.findings);
    let names: BTreeSet<&String> = findings().flat_map(|f| f.curves.keys()).collect();
    let chart = |name: &String| {
        let mut all = Vec::new();
        let mut along = String::new();
        for (series, arm) in record.arms.iter().enumerate() {
            let of: Vec<&Curve> = arm.seeds.iter().filter_map(|s| s.findings.curves.get(name)).collect();
            if let Some(first) = of.first() {
                along.clone_from(&first.along);
                all.push(Line { series, faint: false, name: arm.name.clone(), points: mean(&of) });
            }
        }
        let points = || all.iter().flat_map(|l| &l.points);
        let x = Axis::fit(&along, points().map(|p| p.0), Spacing::Log, tick);
        let y = Axis::fit(name, points().map(|p| p.1), Spacing::Linear, tick);
        let picture = lines(&format!("{name} along {along}"), &x, &y, &all, |v| format!("{v:.4}"));
        let words = html! { ul.legend { @for l in &all { li { (swatch(l.series)) (l.name) } } } };
        figure(name, picture, words)
    };
    html! {
        @if !names.is_empty() {
            section { h2 { "Curves" } div.figures { @for name in &names { (chart(name)) } } }
        }
    }
}

/// Adjacent tiles with a line between them, each stretched from its smallest to its largest number, as a PNG.
fn png(picture: &Picture) -> Option<String> {
    let [rows, cols] = picture.size;
    let fits = picture.tiles.iter().all(|t| t.len() == rows.saturating_mul(cols));
    if rows == 0 || cols == 0 || picture.tiles.is_empty() || !fits {
        return None;
    }
    let across =
        ((picture.tiles.len() as f64 * rows as f64 / cols as f64).sqrt().ceil() as usize).clamp(1, picture.tiles.len());
    let down = picture.tiles.len().div_ceil(across);
    let (width, height) = (across * (cols + 1) - 1, down * (rows + 1) - 1);
    let mut pixels = vec![255u8; width * height];
    for (i, tile) in picture.tiles.iter().enumerate() {
        let low = tile.iter().copied().fold(f32::INFINITY, f32::min);
        let high = tile.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (top, left) = (i / across * (rows + 1), i % across * (cols + 1));
        for (j, v) in tile.iter().enumerate() {
            let at = (top + j / cols) * width + left + j % cols;
            pixels[at] = (255.0 * (v - low) / (high - low).max(f32::MIN_POSITIVE)) as u8;
        }
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().ok()?;
    writer.write_image_data(&pixels).ok()?;
    writer.finish().ok()?;
    Some(format!("data:image/png;base64,{}", BASE64_STANDARD.encode(&bytes)))
}

fn pictures(record: &ExperimentRecord) -> Markup {
    let first = |arm: &ExperimentArmRecord| arm.seeds.first().map(|s| s.findings.pictures.clone()).unwrap_or_default();
    let all: Vec<(String, String)> = record
        .arms
        .iter()
        .flat_map(|arm| first(arm).into_iter().map(move |(title, p)| (format!("{title}: {}", arm.name), p)))
        .filter_map(|(title, picture)| Some((title, png(&picture)?)))
        .collect();
    html! {
        @if !all.is_empty() {
            section {
                h2 { "Pictures" }
                p.note { "Of the first seed. Each tile goes from its smallest number (dark) to its largest (light)." }
                div.figures { @for (title, src) in &all {
                    (figure(title, html! { img src=(src) alt=(title) style="image-rendering:pixelated;width:100%"; }, html! {}))
                } }
            }
        }
    }
}

fn tables(record: &ExperimentRecord) -> Markup {
    html! {
        @for arm in &record.arms {
            @for (title, t) in arm.seeds.iter().take(1).flat_map(|s| &s.findings.tables) {
                section {
                    h2 { (title) ": " (arm.name) }
                    @let head: Vec<&str> = t.head.iter().map(String::as_str).collect();
                    @let rows: Vec<Vec<Markup>> =
                        t.rows.iter().map(|r| r.iter().map(|c| html! { (c) }).collect()).collect();
                    (table(html! { "Of the first seed." }, &head, &rows))
                }
            }
        }
    }
}

fn origin(record: &ExperimentRecord) -> Markup {
    let seeds: Vec<String> = record.arms.first().iter().flat_map(|a| &a.seeds).map(|s| s.seed.to_string()).collect();
    html! {
        section {
            h2 { "Recipe and machine" }
            dl.facts {
                @for (name, place) in &record.inputs { div { dt { "Input " (name) } dd { (place) } } }
                div { dt { "Seeds" } dd { (seeds.join(", ")) } }
                div { dt { "Processor" } dd { (record.machine.cpu) } }
                div { dt { "Threads" } dd { (record.machine.threads) } }
                div { dt { "Version" } dd { "nnz " (record.machine.version) } }
            }
            details { summary { "The recipe" } pre { code { (record.recipe) } } }
        }
    }
}

/// The numbers of the page: `metrics.csv`, `curves.csv`.
pub fn csv(record: &ExperimentRecord) -> Vec<(String, String)> {
    let mut metrics = super::data::Table::new(["arm", "seed", "metric", "value"]);
    let mut curves = super::data::Table::new(["arm", "seed", "curve", "along", "x", "y"]);
    for arm in &record.arms {
        for s in &arm.seeds {
            for (key, value) in &s.findings.metrics {
                metrics.row([arm.name.clone(), s.seed.to_string(), key.clone(), value.to_string()]);
            }
            for (name, curve) in &s.findings.curves {
                for [x, y] in &curve.points {
                    curves.row([
                        arm.name.clone(),
                        s.seed.to_string(),
                        name.clone(),
                        curve.along.clone(),
                        x.to_string(),
                        y.to_string(),
                    ]);
                }
            }
        }
    }
    vec![metrics.finish("metrics.csv"), curves.finish("curves.csv")]
}
