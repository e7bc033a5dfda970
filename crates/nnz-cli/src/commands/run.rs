use crate::ui::{self, Ui, Watch};
use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;
use nnz_engine::Task;
use nnz_lab::run::{Options, Outcome, read_record, record::RunRecord, write_report};
use nnz_lab::{Recipe, Scale, embedded};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where a run is written, and what happens to an earlier one.
#[derive(ClapArgs, Debug, Default)]
pub struct Place {
    /// Directory of the run [default: runs/ID]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Go on with a run that was cut off; an error if there is none
    #[arg(long, conflicts_with = "again")]
    pub resume: bool,
    /// Run again although there is a result
    #[arg(long)]
    pub again: bool,
}

/// Arguments of `nnz run`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:
  nnz run recipe.toml
  nnz run rewire/rigl/above-random --smoke
  nnz run runs/3f2a0c5d9e11              go on with a run that was cut off")]
pub struct Args {
    /// A TOML file, ROOM/METHOD/CLAIM, or a run directory
    recipe: String,
    /// Run the recipe's seconds-long form instead
    #[arg(long)]
    smoke: bool,
    #[command(flatten)]
    place: Place,
}

/// Arguments of `nnz report`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:
  nnz report runs/3f2a0c5d9e11")]
pub struct ReportArgs {
    /// The run directory
    run: PathBuf,
}

/// Runs a recipe.
pub fn run(args: &Args, ui: Ui) -> Result<ExitCode> {
    let path = Path::new(&args.recipe);
    let mut place = Place { run_dir: args.place.run_dir.clone(), ..args.place };
    let recipe = if path.is_dir() {
        place.run_dir.get_or_insert_with(|| path.into());
        let file = path.join("recipe.toml");
        let text = std::fs::read_to_string(&file).with_context(|| format!("{} is no run directory", path.display()))?;
        Recipe::parse(&text, &file.display().to_string())?
    } else {
        find(&args.recipe)?
    };
    let recipe = recipe.at(if args.smoke { Scale::Smoke } else { Scale::Small });
    carry_out(&recipe, &place, ui)
}

/// A recipe by path or name.
pub fn find(name: &str) -> Result<Recipe> {
    if let Some((name, text)) = embedded().into_iter().find(|(n, _)| n == name.trim_end_matches(".toml")) {
        return Ok(Recipe::parse(text, &name)?);
    }
    match std::fs::read_to_string(name) {
        Ok(text) => Ok(Recipe::parse(&text, name)?),
        Err(e) => {
            let known: Vec<String> = embedded().into_iter().map(|(n, _)| n).collect();
            let hint = nnz_core::closest(name, known.iter().map(String::as_str));
            bail!("no recipe `{name}` ({e}){hint}; recipes that come with nnz are {}", known.join(", "))
        }
    }
}

/// Runs, prints the table and names the report.
pub fn carry_out(recipe: &Recipe, place: &Place, ui: Ui) -> Result<ExitCode> {
    let outcome = outcome(recipe, place, ui)?;
    let Outcome { record, dir, found } = &outcome;
    let report = dir.join("report.html");
    if *found {
        ui.note(format!("this run was finished before; add --again to run it again ({})", dir.display()));
    }
    ui.answer(&document(record, dir), || {
        format!("{}\n{}\n\n{}\n\nreport: {}", record.title, about(record), arms(record), report.display())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Carries a recipe out under a watch that Ctrl-C stops.
pub fn outcome(recipe: &Recipe, place: &Place, ui: Ui) -> Result<Outcome> {
    let options = Options { dir: place.run_dir.clone(), again: place.again, resume: place.resume, one_thread: false };
    let mut watch = Watch::new(ui, ui::stop_flag()?);
    let outcome = nnz_lab::run::run(recipe, ui.registry, &options, &mut watch);
    watch.finish();
    Ok(outcome?)
}

fn about(record: &RunRecord) -> String {
    let seeds = record.arms.first().map_or(0, |a| a.seeds.len());
    let seeds = if seeds == 1 { "1 seed".to_string() } else { format!("{seeds} seeds, mean ± 95% interval") };
    format!(
        "{} on {} ({} train, {} test), {seeds}, {} threads",
        record.model,
        record.data.name,
        ui::count(record.data.train),
        ui::count(record.data.test),
        record.machine.threads
    )
}

/// The table of arms.
pub fn arms(record: &RunRecord) -> String {
    let measure = if record.task == Task::Classification { "test accuracy" } else { record.task.measure() };
    let header = ["", measure, "nonzeros", "density", "weights", "optimizer", "s/epoch"];
    let row = |a: &nnz_lab::run::record::ArmRecord| {
        vec![
            a.name.clone(),
            ui::percent(a.test_accuracy, a.interval),
            ui::count(a.nonzeros),
            ui::density(a.density),
            ui::bytes(a.weight_bytes),
            ui::bytes(a.optimizer_bytes),
            format!("{:.3}", a.seconds_per_epoch),
        ]
    };
    ui::table(&header, record.arms.iter().map(row).collect())
}

fn document(record: &RunRecord, dir: &Path) -> serde_json::Value {
    let arms: Vec<_> = record
        .arms
        .iter()
        .map(|a| {
            json!({
                "name": a.name,
                "test_accuracy": a.test_accuracy,
                "interval": a.interval,
                "nonzeros": a.nonzeros,
                "density": a.density,
                "weight_bytes": a.weight_bytes,
                "optimizer_bytes": a.optimizer_bytes,
                "seconds_per_epoch": a.seconds_per_epoch,
                "seeds": a.seeds.iter().map(|s| json!({"seed": s.seed, "test_accuracy": s.test_accuracy})).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "run": {
            "id": record.id,
            "title": record.title,
            "directory": dir,
            "report": dir.join("report.html"),
            "model": record.model,
            "data": record.data.name,
            "threads": record.machine.threads,
            "version": record.machine.version,
            "recipe": record.recipe,
        },
        "arms": arms,
    })
}

/// Writes a report again.
pub fn report(args: &ReportArgs, ui: Ui) -> Result<ExitCode> {
    let record = read_record(&args.run)?;
    let path = write_report(&record, &args.run)?;
    ui.answer(&json!({"report": path}), || path.display().to_string())?;
    Ok(ExitCode::SUCCESS)
}
