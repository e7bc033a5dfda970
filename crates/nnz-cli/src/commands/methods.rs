use crate::ui::{self, Ui};
use anyhow::Result;
use clap::Args as ClapArgs;
use nnz_core::Method;
use nnz_lab::{Plan, embedded, ledger};
use serde_json::json;
use std::process::ExitCode;

/// Arguments of `nnz methods`.
#[derive(ClapArgs, Debug)]
pub struct MethodsArgs {
    /// Print the table of all papers as Markdown, as the README shows it
    #[arg(long)]
    papers: bool,
}

/// Arguments of `nnz show`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:
  nnz show rigl")]
pub struct ShowArgs {
    /// The method's key
    method: String,
}

/// Arguments of `nnz cite`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:
  nnz cite rigl >> paper.bib
  nnz cite rewire/rigl/above-random
  nnz cite runs/3f2a0c5d9e11")]
pub struct CiteArgs {
    /// A method's key, a recipe, or a run directory (everything that ran is cited)
    recipe: String,
}

fn number(m: &Method) -> String {
    m.paper.number.map_or_else(|| "-".into(), |n| n.to_string())
}

/// Describes the claims of a method with their verdicts.
fn status(m: &Method) -> String {
    let verdicts: Vec<String> =
        ledger::results().iter().filter(|r| r.key == m.key).map(|r| r.verdict.to_string()).collect();
    match verdicts.len() {
        0 => "no result yet".into(),
        _ => verdicts.join(", "),
    }
}

/// Lists the methods.
pub fn list(args: &MethodsArgs, ui: Ui) -> Result<ExitCode> {
    if args.papers {
        let table = ledger::markdown(ui.registry);
        ui.answer(&json!({"markdown": table}), || table.clone())?;
        return Ok(ExitCode::SUCCESS);
    }
    let document: Vec<_> = ui.registry
        .methods()
        .map(|m| json!({"number": m.paper.number, "key": m.key, "room": m.room, "name": m.name, "summary": m.summary, "status": status(m)}))
        .collect();
    ui.answer(&document, || {
        let mut rows = Vec::new();
        for m in ui.registry.methods() {
            rows.push(vec![m.key.into(), number(m), m.room.into(), status(m), m.summary.into()]);
        }
        let mut table = ui::words(&["key", "paper", "room", "claims", "idea"], rows);
        table += "\n\n`nnz show KEY` says more; a paper without number is a baseline.";
        table
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Describes an option with its default, its meaning, and its range.
fn describe(option: &nnz_core::OptionDoc) -> String {
    let default = option.default.as_ref().map_or_else(String::new, ToString::to_string);
    let range = option.range.map_or_else(String::new, |r| format!(" [{r}]"));
    format!("{:<34}{}{range}", format!("{} = {default}", option.key), option.doc)
}

/// Describes a method.
pub fn show(args: &ShowArgs, ui: Ui) -> Result<ExitCode> {
    let m = ui.registry.find(&args.method)?;
    let claims: Vec<_> = ledger::results().into_iter().filter(|r| r.key == m.key).collect();
    let recipes: Vec<String> =
        embedded().into_iter().map(|(n, _)| n).filter(|n| n.split('/').nth(1) == Some(m.key)).collect();
    let experiment = if m.runs() { Some(m.launch(&m.defaults())?) } else { None };
    let document = json!({
        "key": m.key, "name": m.name, "room": m.room, "summary": m.summary, "paper": m.paper,
        "options": m.defaults(), "docs": m.docs(), "recipes": recipes, "results": claims,
        "inputs": experiment.as_ref().map(|e| e.inputs()), "metrics": experiment.as_ref().map(|e| e.metrics()),
    });
    ui.answer(&document, || {
        let p = &m.paper;
        let year = if p.venue.contains(&p.year.to_string()) { String::new() } else { format!(", {}", p.year) };
        let paper = format!("{}: {}. {}{year}. arXiv:{}", p.authors, p.title, p.venue, p.arxiv);
        let options: Vec<String> = m.docs().iter().map(describe).collect();
        let options = options.join("\n");
        let indent = |text: &str| text.lines().map(|l| format!("  {l}\n")).collect::<String>();
        let mut text = format!(
            "{} ({}), room {}\n{}\n\n{}\n{}\noptions, with their defaults (--set KEY=VALUE)\n{}",
            m.name,
            m.key,
            m.room,
            m.summary,
            p.number.map_or_else(|| "baseline".into(), |n| format!("paper {n}")),
            indent(&paper),
            indent(&options)
        );
        if let Some(e) = &experiment {
            let default = |i: &nnz_core::Input| match i.need {
                nnz_core::Need::Required => "required".into(),
                nnz_core::Need::Optional => "optional".into(),
                nnz_core::Need::Default(place) => format!("default {place}"),
            };
            let inputs: Vec<String> =
                e.inputs().iter().map(|i| format!("{}: {} ({})", i.name, i.about, default(i))).collect();
            let metrics: Vec<String> = e.metrics().iter().map(|x| format!("{}: {}", x.key, x.about)).collect();
            if !inputs.is_empty() {
                text += &format!("\ninputs (nnz run {} --input NAME=PLACE)\n{}", m.key, indent(&inputs.join("\n")));
            }
            text += &format!("\nmetrics\n{}", indent(&metrics.join("\n")));
        }
        if !recipes.is_empty() {
            text += &format!("\nrecipes (nnz run RECIPE)\n{}", indent(&recipes.join("\n")));
        }
        if !claims.is_empty() {
            let line = |r: &ledger::Entry| format!("{}: {} ({})", r.verdict, r.claim.statement, r.date);
            text += &format!("\nresults\n{}", indent(&claims.iter().map(line).collect::<Vec<_>>().join("\n")));
        }
        text
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Prints BibTeX.
pub fn cite(args: &CiteArgs, ui: Ui) -> Result<ExitCode> {
    let keys: Vec<String> = match ui.registry.find(&args.recipe) {
        Ok(m) => vec![m.key.into()],
        Err(unknown) => {
            let run = std::path::Path::new(&args.recipe).join("recipe.toml");
            let place = if run.is_file() { run.display().to_string() } else { args.recipe.clone() };
            match super::run::find(&place) {
                Ok(Plan::Training(recipe)) => {
                    let mut keys: Vec<String> = recipe.arms.into_iter().filter_map(|a| a.method).collect();
                    keys.sort();
                    keys.dedup();
                    keys
                }
                Ok(Plan::Experiment(recipe)) => recipe.keys().into_iter().map(Into::into).collect(),
                Err(_) => return Err(unknown.into()),
            }
        }
    };
    let mut entries = Vec::new();
    for key in &keys {
        entries.push(ui.registry.find(key)?.paper.bibtex(key));
    }
    ui.answer(&json!({"keys": keys, "bibtex": entries}), || entries.join("\n\n"))?;
    Ok(ExitCode::SUCCESS)
}
