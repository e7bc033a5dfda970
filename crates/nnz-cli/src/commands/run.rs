use crate::ui::{self, Ui, Watch};
use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;
use nnz_core::Metric;
use nnz_lab::experiment::{ExperimentArm, ExperimentArmRecord, ExperimentOutcome, MetricRecord};
use nnz_lab::run::record::{METRICS, RunRecord, scored, test_measure};
use nnz_lab::run::{Options, Outcome, read_record, write_report};
use nnz_lab::{ExperimentRecipe, ExperimentRecord, Measured, Plan, Recipe, Scale, Summary, embedded};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Directory of a run, and the treatment of an earlier one.
#[derive(ClapArgs, Clone, Debug, Default)]
pub struct Place {
    /// Directory of the run [default: runs/ID]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Resume an interrupted run; an error if there is none
    #[arg(long, conflicts_with = "again")]
    pub resume: bool,
    /// Run again even if there is a result
    #[arg(long)]
    pub again: bool,
    /// Whether the run is at smoke scale.
    #[arg(skip)]
    pub smoke: bool,
    /// Remarks on the request.
    #[arg(skip)]
    pub notes: Vec<String>,
}

/// Arguments of `nnz run`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:
  nnz run recipe.toml
  nnz run rewire/rigl/above-random --smoke
  nnz run k-sparse --set k=25 --seeds 3      an experiment with options of your own
  nnz run k-sparse --sweep k=10,25,70        one arm for each value
  nnz run git-rebasin --input first=a.safetensors --input second=b.safetensors
  nnz run runs/3f2a0c5d9e11                  go on with a run that was cut off")]
pub struct Args {
    /// A TOML file, ROOM/METHOD/CLAIM, the key of an experiment, or a run directory
    recipe: String,
    /// Run the recipe's seconds-long form instead
    #[arg(long)]
    smoke: bool,
    #[command(flatten)]
    experiment: ExperimentArgs,
    /// Runs of an experiment, with seeds SEED, SEED + 1, ... [default: 1, or what the recipe says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: Option<u64>,
    /// First seed of an experiment [default: 0]
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    #[command(flatten)]
    place: Place,
}

/// What experiments read and do; shared by `run` and `compare`.
#[derive(ClapArgs, Debug)]
pub struct ExperimentArgs {
    /// An input of an experiment; `nnz show KEY` lists them
    #[arg(long = "input", value_name = "NAME=PLACE")]
    inputs: Vec<String>,
    /// An option of an experiment; `nnz show KEY` lists them. Of several experiments, EXPERIMENT.KEY=VALUE is one's alone
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Values of an option of an experiment, an arm for each; with several, an arm for each combination
    #[arg(long, value_name = "KEY=V,…")]
    pub sweep: Vec<String>,
    /// Show only this metric of an experiment, and the arm that is best by it
    #[arg(long, value_name = "METRIC")]
    pub metric: Option<String>,
}

/// Arguments of `nnz report`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:
  nnz report runs/3f2a0c5d9e11")]
pub struct ReportArgs {
    /// The run directory
    run: PathBuf,
}

/// Runs a recipe or an experiment.
pub fn run(args: &Args, ui: Ui) -> Result<ExitCode> {
    let path = Path::new(&args.recipe);
    let mut place = Place { smoke: args.smoke, ..args.place.clone() };
    let plan = if path.is_dir() {
        place.run_dir.get_or_insert_with(|| path.into());
        let file = path.join("recipe.toml");
        let text = std::fs::read_to_string(&file).with_context(|| format!("{} is no run directory", path.display()))?;
        Plan::parse(&text, &file.display().to_string())?
    } else if let Ok(method) = ui.registry.find(&args.recipe) {
        if !method.runs() {
            bail!(
                "{0} changes a network while it trains; give it data, such as `nnz train mnist --method {0}`",
                method.key
            );
        }
        Plan::Experiment(Box::new(ExperimentRecipe::of(&[method], vec![0])))
    } else {
        find(&args.recipe)?
    };
    if args.smoke && !plan.smokes() {
        bail!("{} has no smoke scale; leave out --smoke", args.recipe);
    }
    match plan.at(if args.smoke { Scale::Smoke } else { Scale::Small })? {
        Plan::Training(recipe) => {
            if let Some(flag) = args.of_experiments() {
                bail!("{flag} is for experiments; change the recipe, which trains networks, in its file");
            }
            tell(&outcome(&recipe, &place, ui)?, ui)
        }
        Plan::Experiment(mut recipe) => {
            args.experiment.change(&mut recipe)?;
            if args.seeds.is_some() || args.seed.is_some() {
                let first = args.seed.unwrap_or(0);
                recipe.seeds = (first..first + args.seeds.unwrap_or(1)).collect();
            }
            tell_experiment(&recipe, args.experiment.metric.as_deref(), &place, ui)
        }
    }
}

/// Runs an experiment's recipe, and prints a table of its metrics, or of one of them.
pub fn tell_experiment(recipe: &ExperimentRecipe, metric: Option<&str>, place: &Place, ui: Ui) -> Result<ExitCode> {
    for key in recipe.keys() {
        let (Some(metric), method) = (metric, ui.registry.find(key)?) else { break };
        let known = method.launch(&method.defaults())?.metrics();
        if !known.iter().any(|m| m.key == metric) {
            let hint = nnz_core::closest(metric, known.iter().map(|m| m.key));
            bail!("{key} measures no `{metric}`{hint}; `nnz show {key}` lists what it does");
        }
    }
    let outcome = experiment(recipe, place, ui)?;
    if outcome.found {
        let dir = outcome.dir.display();
        ui.note(format!("this run was finished before; add --again to run it again ({dir})"));
    }
    let report = outcome.dir.join("report.html");
    let document = json!({"run": outcome.record, "directory": outcome.dir, "report": report});
    ui.answer(&document, || {
        let record = &outcome.record;
        let mut table = metrics(record, metric);
        if let Some(best) = metric.and_then(|m| best(record, m)) {
            table += &format!("\n\nbest: {best}");
        }
        format!("{}\n{}\n\n{table}\n\nreport: {}", record.title, record.summary, report.display())
    })?;
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// The first flag given that only applies to experiments.
    fn of_experiments(&self) -> Option<&'static str> {
        let given = [("--seeds", self.seeds.is_some()), ("--seed", self.seed.is_some())];
        self.experiment.given().or(given.into_iter().find(|g| g.1).map(|g| g.0))
    }
}

impl ExperimentArgs {
    /// The first of these flags that was given.
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            ("--input", !self.inputs.is_empty()),
            ("--set", !self.set.is_empty()),
            ("--sweep", !self.sweep.is_empty()),
            ("--metric", self.metric.is_some()),
        ];
        given.into_iter().find(|g| g.1).map(|g| g.0)
    }

    /// Overrides the recipe by the command line.
    pub fn change(&self, recipe: &mut ExperimentRecipe) -> Result<()> {
        for pair in &self.inputs {
            let Some((name, place)) = pair.split_once('=') else {
                bail!("--input {pair}: expected NAME=PLACE, such as --input data=mnist");
            };
            recipe.inputs.insert(name.trim().into(), place.trim().into());
        }
        let set = super::pairs(&self.set)?;
        for (key, value) in set.clone() {
            match own(&key, recipe) {
                Some((of, option)) => {
                    recipe.options_of(&of).for_each(|o| drop(o.insert(option.clone(), value.clone())))
                }
                None => drop(recipe.options.insert(key, value)),
            }
        }
        for sweep in &self.sweep {
            let Some((key, values)) = sweep.split_once('=') else {
                bail!("--sweep {sweep}: expected KEY=VALUE,VALUE,…, such as --sweep k=8,16,32");
            };
            let key = key.trim();
            if set.contains_key(key) {
                bail!("--sweep {sweep}: {key} is also given by --set");
            }
            let (of, key) = own(key, recipe).map_or((None, key.into()), |(of, key)| (Some(of), key));
            let arms = std::mem::take(&mut recipe.arms);
            let before = if arms.is_empty() { vec![ExperimentArm::default()] } else { arms };
            for arm in before {
                if of.as_ref().is_some_and(|of| recipe.key_of(&arm) != of) {
                    recipe.arms.push(arm);
                    continue;
                }
                for value in values.split(',') {
                    let one = super::pairs(&[format!("{key}={value}")])?;
                    if let Some(twice) = arm.options.keys().find(|k| one.contains_key(*k)) {
                        bail!("--sweep {sweep}: arm `{}` says {twice} already", arm.name);
                    }
                    let part = format!("{key}={}", value.trim());
                    let name = if arm.name.is_empty() { part } else { format!("{}-{part}", arm.name) };
                    let mut options = arm.options.clone();
                    options.extend(one);
                    recipe.arms.push(ExperimentArm { name, options, ..arm.clone() });
                }
            }
            // A claim is about the arms that the recipe has.
            recipe.claim = None;
        }
        Ok(())
    }
}

/// The experiment and the option of `EXPERIMENT.KEY`.
fn own(key: &str, recipe: &ExperimentRecipe) -> Option<(String, String)> {
    let (of, option) = key.split_once('.')?;
    recipe.keys().contains(&of).then(|| (of.into(), option.into()))
}

/// Runs an experiment's recipe, with progress; Ctrl-C stops it.
pub fn experiment(recipe: &ExperimentRecipe, place: &Place, ui: Ui) -> Result<ExperimentOutcome> {
    let Place { run_dir: dir, again, resume, smoke, notes } = place.clone();
    let options = Options { dir, again, resume, smoke, notes, ..Options::default() };
    let mut watch = Watch::new(ui)?;
    let outcome = nnz_lab::experiment::run(recipe, ui.registry, &options, &mut watch);
    watch.finish();
    Ok(outcome?)
}

/// The arm whose mean of a metric is best.
fn best(record: &ExperimentRecord, metric: &str) -> Option<String> {
    let m = record.metrics.iter().find(|m| m.key == metric)?;
    let sign = match m.better {
        nnz_core::Better::Higher => 1.0,
        nnz_core::Better::Lower => -1.0,
        nnz_core::Better::Neither => return None,
    };
    let mean = |name: &str| record.values(name, metric).map(|v| sign * v.iter().sum::<f64>() / v.len() as f64);
    let all = record.arms.iter().filter_map(|a| Some((&a.name, mean(&a.name)?)));
    all.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(name, _)| name.clone())
}

/// The table of an experiment's metrics, or of one of them with its differences to the first arm.
pub fn metrics(record: &ExperimentRecord, only: Option<&str>) -> String {
    let shown: Vec<_> = record.metrics.iter().filter(|m| only.is_none_or(|o| m.key == o)).collect();
    let over = only.and(shown.first()).filter(|_| record.arms.len() > 1);
    let title = over.map(|_| format!("over {}", record.arms[0].name));
    let head = std::iter::once("").chain(shown.iter().map(|m| &*m.key)).chain(title.as_deref());
    let half =
        |m: &MetricRecord, s: &Summary| s.half_width.map_or_else(String::new, |h| format!(" ± {}", m.unit.write(h)));
    let row = |arm: &ExperimentArmRecord| {
        let cell = |m: &&MetricRecord| {
            let values: Vec<f64> = arm.seeds.iter().filter_map(|s| s.findings.metrics.get(&m.key).copied()).collect();
            let s = nnz_lab::summarize(&values);
            m.unit.write(s.mean) + &half(m, &s)
        };
        let difference = over.map(|m| match record.over_first(&arm.name, &m.key) {
            Some(s) => m.unit.write_difference(s.mean) + &half(m, &s),
            None => String::new(),
        });
        std::iter::once(arm.name.clone()).chain(shown.iter().map(cell)).chain(difference).collect()
    };
    ui::table(&head.collect::<Vec<_>>(), record.arms.iter().map(row).collect())
}

/// Finds a recipe by path or name.
pub fn find(name: &str) -> Result<Plan> {
    if let Some((name, text)) = embedded().into_iter().find(|(n, _)| n == name.trim_end_matches(".toml")) {
        return Ok(Plan::parse(text, &name)?);
    }
    match std::fs::read_to_string(name) {
        Ok(text) => Ok(Plan::parse(&text, name)?),
        Err(e) => {
            let known: Vec<String> = embedded().into_iter().map(|(n, _)| n).collect();
            let hint = nnz_core::closest(name, known.iter().map(String::as_str));
            let why =
                format!("no recipe `{name}`{hint} (`nnz methods` lists what there is, `nnz show KEY` its recipes)");
            Err(anyhow::Error::from(e).context(why))
        }
    }
}

/// Prints the table of a run and names its report.
pub fn tell(Outcome { record, dir, found }: &Outcome, ui: Ui) -> Result<ExitCode> {
    let report = dir.join("report.html");
    if *found {
        ui.note(format!("this run was finished before; add --again to run it again ({})", dir.display()));
    }
    record.concerns().iter().for_each(|why| ui.note(why));
    ui.answer(&document(record, dir), || {
        format!("{}\n{}\n\n{}\n\nreport: {}", record.title, about(record), arms(record), report.display())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a recipe, with progress; Ctrl-C stops it.
pub fn outcome(recipe: &Recipe, place: &Place, ui: Ui) -> Result<Outcome> {
    let Place { run_dir: dir, again, resume, smoke, notes } = place.clone();
    let options = Options { dir, again, resume, smoke, notes, ..Options::default() };
    let mut watch = Watch::new(ui)?;
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
    let scored = scored(record.arms.iter().flat_map(|a| &a.seeds).map(|s| &s.scores));
    let mut header = vec!["", test_measure(record.task)];
    header.extend(scored.iter().map(|m| m.key));
    header.extend(["nonzeros", "density", "weights", "optimizer", "peak", "s/epoch"]);
    let row = |a: &nnz_lab::run::record::ArmRecord| {
        let score = |m: &&Metric| a.metric(m.key).map_or_else(|| "-".into(), |s| m.unit.write(s.mean));
        let mut row = vec![a.name.clone(), ui::percent(a.test_accuracy, a.interval)];
        row.extend(scored.iter().map(score));
        row.extend([
            ui::count(a.nonzeros),
            ui::density(a.density),
            ui::bytes(a.weight_bytes),
            ui::bytes(a.optimizer_bytes),
            match a.peak_training_bytes {
                0 => "-".into(),
                peak => ui::bytes(peak),
            },
            format!("{:.3}", a.seconds_per_epoch),
        ]);
        row
    };
    ui::table(&header, record.arms.iter().map(row).collect())
}

fn document(record: &RunRecord, dir: &Path) -> serde_json::Value {
    let measure = format!("test_{}", record.task.slug());
    let arms: Vec<_> = record
        .arms
        .iter()
        .map(|a| {
            let mut arm = json!({
                "name": a.name,
                measure.clone(): a.test_accuracy,
                "interval": a.interval,
                "nonzeros": a.nonzeros,
                "density": a.density,
                "weight_bytes": a.weight_bytes,
                "optimizer_bytes": a.optimizer_bytes,
                "peak_training_bytes": a.peak_training_bytes,
                "seconds_per_epoch": a.seconds_per_epoch,
            });
            let known = METRICS.iter().filter(|m| a.seeds.iter().any(|s| s.scores.metrics.contains_key(m.key)));
            known.for_each(|m| arm[m.key.replace('-', "_")] = json!(a.metric(m.key).map(|s| s.mean)));
            let seed = |s: &nnz_lab::run::record::SeedRecord| {
                let mut seed = json!({"seed": s.seed, measure.clone(): s.test_accuracy});
                s.scores.write_into(&mut seed);
                seed
            };
            arm["seeds"] = a.seeds.iter().map(seed).collect();
            arm
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
            "data_notes": record.data.notes,
            "concerns": record.concerns(),
            "threads": record.machine.threads,
            "version": record.machine.version,
            "recipe": record.recipe,
        },
        "arms": arms,
    })
}

/// Writes a report again.
pub fn report(args: &ReportArgs, ui: Ui) -> Result<ExitCode> {
    let file = args.run.join("record.json");
    let text = std::fs::read_to_string(&file);
    let text = text.with_context(|| format!("{} is no finished run", args.run.display()))?;
    let document: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", file.display()))?;
    // A record of an experiment declares its metrics.
    let path = match document.get("metrics") {
        Some(_) => {
            let record: ExperimentRecord =
                serde_json::from_value(document).with_context(|| format!("{} is damaged", file.display()))?;
            nnz_lab::experiment::write_page(&record, &args.run)?
        }
        None => write_report(&read_record(&args.run)?, &args.run)?,
    };
    ui.answer(&json!({"report": path}), || path.display().to_string())?;
    Ok(ExitCode::SUCCESS)
}
