//! The report of a run and the page of an inspected model: one self-contained HTML file each, and the numbers
//! of a run's figures as CSV.
//!
//! The page is for somebody who trained a sparse network for the first time: it says in words what was gained and lost,
//! then shows it. It runs no script and loads nothing; its own content policy forbids both. Light and dark follow the
//! reader's system. Pages of equal records are byte-equal.
//!
//! All text of the record passes through maud, which escapes it.

mod axis;
mod chart;
mod comparison;
mod curves;
mod data;
mod degrees;
mod experiment;
mod format;
mod frame;
mod grid;
mod headline;
mod inspection;
mod mistakes;
mod moves;
mod pixels;
mod scores;
mod stats;
mod tables;
mod tensorboard;
mod topology;
mod view;

pub use comparison::{comparison, pictures as comparison_pictures};
pub(crate) use data::cell;
pub use data::{csv, inspection_csv};
pub use experiment::{csv as experiment_csv, page as experiment};
pub use inspection::inspection;
pub use moves::history;
pub use tensorboard::events as tensorboard;

use crate::run::record::RunRecord;
use format::count;
use maud::{Markup, html};
use nnz_engine::Task;
use view::View;

/// Renders the whole page. Never fails: missing parts of a record are named as missing on the page.
pub fn html(record: &RunRecord) -> String {
    let view = View::new(record);
    let sections = html! {
        @if let Some(view) = &view { (sections(view)) }
        (origin(record))
    };
    frame::page(&record.title, &record.machine.version, top(record, view.as_ref()), sections)
}

fn top(record: &RunRecord, view: Option<&View>) -> Markup {
    html! {
        p.eyebrow { "nnz run " code { (record.id) } }
        h1 { (record.title) }
        @if let Some(view) = view {
            p.lead { (headline::lead(view)) }
            (frame::tiles(&headline::tiles(view)))
        } @else {
            p.lead { "This run has no arm: nothing was trained." }
        }
    }
}

fn sections(view: &View) -> Markup {
    let answers = headline::answers(view);
    html! {
        section {
            h2 { "What it took, arm by arm" }
            (tables::arms(view))
            @if !answers.is_empty() {
                ul.answers {
                    @for answer in answers { li { span.question { (answer.question) } b { (answer.verdict) } " " (answer.reason) } }
                }
            }
            @for concern in view.record.concerns() { p.note { b.wrong { (concern) "." } } }
            p.note { (headline::caution(view)) }
        }
        @if scores::any(view) { section { h2 { "Measures of the answers" } (scores::measures(view)) } }
        section { h2 { "How it learned" } (curves::learning(view)) }
        section {
            h2 { "Which inputs kept connections" }
            (topology::inputs(view))
        }
        section {
            h2 { "Where the connections are" }
            div.pair { (tables::density_by_layer(view)) (curves::connections(view)) }
            (tables::all_layers(view))
            h3 { "Fan-in and fan-out" }
            (topology::histograms(view))
        }
        @if view.classes() {
            section {
                h2 { "What it misreads" }
                div.pair.wide { (mistakes::confusion(view)) div { (mistakes::misread(view)) } }
            }
        }
    }
}

/// Recipe, data, machine, and how to run it again.
fn origin(record: &RunRecord) -> Markup {
    let data = &record.data;
    let seeds: Vec<String> = record.arms.first().iter().flat_map(|a| &a.seeds).map(|s| s.seed.to_string()).collect();
    let row_of = match pixels::is_picture(data.image) {
        true => data.image.map(|n| n.to_string()).join(" × "),
        false => format::counted(data.image.iter().fold(1, |n: u64, &s| n.saturating_mul(s as u64)), "input"),
    };
    let mut rows: Vec<(&str, String)> = vec![
        ("Run", record.id.clone()),
        ("Model", record.model.clone()),
        (
            "Data",
            format!(
                "{}: {} rows to train and validate on, {} to test on, {row_of} a row, {}",
                data.name,
                count(data.train as u64),
                count(data.test as u64),
                if record.task == Task::Classification {
                    counted_classes(data.classes.len())
                } else {
                    "no classes".into()
                }
            ),
        ),
        ("Seeds", if seeds.is_empty() { "none finished".into() } else { seeds.join(", ") }),
        ("Processor", record.machine.cpu.clone()),
        ("Threads", record.machine.threads.to_string()),
        ("Version", format!("nnz {}", record.machine.version)),
    ];
    if let Some(target) = &data.target {
        rows.insert(3, ("Columns", format!("{target} is predicted from {}", topology::some(&data.inputs))));
    }
    if let Some(note) = &data.note {
        rows.insert(3, ("Instead of the data asked for", note.clone()));
    }
    html! {
        section {
            h2 { "Recipe and machine" }
            dl.facts { @for (name, value) in rows { div { dt { (name) } dd { (value) } } } }
            p { "To repeat this run, take " code { "recipe.toml" } " beside this page, or save the recipe below under this name, and type" }
            pre.command { code { "nnz run recipe.toml --again" } }
            p.note { "Without " code { "--again" } " a run that is there already is shown, not repeated. The same recipe, data and version give the same run id and, on any number of threads, the same weights; only the seconds differ." }
            details { summary { "The recipe" } pre { code { (record.recipe) } } }
        }
    }
}

fn counted_classes(n: usize) -> String {
    if n == 1 { "1 class".into() } else { format!("{} classes", count(n as u64)) }
}
