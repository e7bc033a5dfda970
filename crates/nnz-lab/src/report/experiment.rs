//! The page of an experiment: its claim, a table of metrics, its curves, images and tables.

use super::axis::{Axis, Spacing};
use super::chart::{Line, lines};
use super::format::tick;
use super::frame::{self, figure, number, swatch, table};
use crate::experiment::{ExperimentArmRecord, ExperimentRecipe, ExperimentRecord, MetricRecord};
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
    let cell = |arm: &ExperimentArmRecord, m: &MetricRecord| match summary(arm, m) {
        Some(s) => html! {
            span.number {
                (m.unit.write(s.mean))
                @if let Some(half) = s.half_width { small { " ± " (m.unit.write(half)) } }
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
        n => html! { "What every arm found: means over " (n) " seeds and their 95% intervals (Student's t)." },
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

/// The one option that differs between arms, and its value in each, where it is a number.
fn swept(record: &ExperimentRecord) -> Option<(String, Vec<f64>)> {
    let recipe: ExperimentRecipe = toml::from_str(&record.recipe).ok()?;
    let first = &recipe.arms.first()?.options;
    let differs = |key: &&String| recipe.arms.iter().any(|a| a.options.get(*key) != first.get(*key));
    let mut keys = first.keys().filter(differs);
    let (key, None) = (keys.next()?, keys.next()) else { return None };
    let value = |v: &toml::Value| v.as_float().or_else(|| v.as_integer().map(|i| i as f64));
    let values: Vec<f64> = recipe.arms.iter().filter_map(|a| value(a.options.get(key)?)).collect();
    (values.len() == record.arms.len() && values.len() > 1).then(|| (key.clone(), values))
}

/// Every metric along the option that was swept.
fn sweep(record: &ExperimentRecord) -> Markup {
    let Some((key, values)) = swept(record) else { return html! {} };
    let chart = |m: &MetricRecord| {
        let found = record.arms.iter().zip(&values).filter_map(|(arm, &x)| Some((x, summary(arm, m)?.mean)));
        let mut points: Vec<(f64, f64)> = found.collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let spacing = if points.iter().all(|p| p.0 > 0.0) { Spacing::Log } else { Spacing::Linear };
        let x = Axis::fit(&key, points.iter().map(|p| p.0), spacing, tick);
        let y = Axis::fit(&m.key, points.iter().map(|p| p.1), Spacing::Linear, tick);
        let all = [Line { series: 0, faint: false, name: m.key.clone(), points }];
        let picture = lines(&format!("{} along {key}", m.key), &x, &y, &all, |v| format!("{v:.4}"));
        figure(&m.key, picture, html! { (m.about) })
    };
    html! {
        section { h2 { "Along " (key) } div.figures { @for m in &record.metrics { (chart(m)) } } }
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
