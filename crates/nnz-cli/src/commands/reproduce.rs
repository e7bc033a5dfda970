use super::run::{Place, arms, experiment, metrics, outcome};
use crate::ui::Ui;
use anyhow::{Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use nnz_lab::experiment::ExperimentOutcome;
use nnz_lab::ledger::Finished;
use nnz_lab::run::Outcome;
use nnz_lab::{Over, Plan, Scale, Verdict, embedded, ledger};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `nnz reproduce`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:
  nnz reproduce rigl                 exit code 1 when a claim of it does not hold
  nnz reproduce set/above-er         one of its claims
  nnz reproduce all --scale smoke    seconds each; shows that they run")]
pub struct Args {
    /// The method's key, one of its claims as KEY/CLAIM, or `all`
    method: String,
    /// Scale of the runs
    #[arg(long, value_enum, default_value_t = Size::Small)]
    scale: Size,
    /// Write each dated result under this directory, as ROOM/METHOD/CLAIM.toml
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
    /// Run again even if there is a result
    #[arg(long)]
    again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Size {
    /// Seconds; shows that it runs
    Smoke,
    /// Minutes; all seeds
    Small,
}

/// Runs and judges the claims of a method. Exit code 1 if one of them does not hold.
pub fn run(args: &Args, ui: Ui) -> Result<ExitCode> {
    let (key, claim) = match args.method.split_once('/') {
        Some((key, claim)) => (key, Some(claim)),
        None => (&*args.method, None),
    };
    if key != "all" {
        ui.registry.find(key)?;
    }
    let wanted = |name: &str| {
        let [_, own, what] = name.split('/').collect::<Vec<_>>()[..] else { return false };
        (key == "all" || own == key) && claim.is_none_or(|c| what == c)
    };
    let recipes: Vec<_> = embedded().into_iter().filter(|(n, _)| wanted(n)).collect();
    if recipes.is_empty() {
        let all: Vec<String> = embedded().into_iter().map(|(n, _)| n).collect();
        let of: Vec<&str> =
            all.iter().filter_map(|n| n.split_once('/')?.1.strip_prefix(key)?.strip_prefix('/')).collect();
        match (claim, of.is_empty()) {
            (Some(claim), false) => bail!("{key} has no claim `{claim}`; its claims are {}", of.join(", ")),
            _ => bail!("{key} has no claim yet"),
        }
    }
    if args.scale == Size::Smoke && args.record.is_some() {
        bail!("a smoke run proves nothing and is not recorded; leave out --scale smoke");
    }
    let scale = if args.scale == Size::Smoke { Scale::Smoke } else { Scale::Small };
    let (mut documents, mut texts) = (Vec::new(), Vec::new());
    let mut all_hold = true;
    for (name, text) in &recipes {
        let plan = Plan::parse(text, name)?.at(scale)?;
        let Some(claim) = plan.claim().cloned() else { continue };
        ui.note(format!("{name}: {}", claim.statement));
        let place = Place { again: args.again, smoke: scale == Scale::Smoke, ..Place::default() };
        let done = Done::new(&plan, &place, ui)?;
        let finished = done.finished();
        let metrics = finished.results.metrics();
        let judgement = claim.judge(finished.results).map_err(|why| anyhow::anyhow!("{name}: {why}"))?;
        let entry = ledger::Entry::new(name, &claim, &judgement, &finished)?;
        if let Some(dir) = &args.record {
            let path = entry.write(dir)?;
            ui.note(format!("recorded in {}", path.display()));
        }
        all_hold &= judgement.verdict == Verdict::Holds;
        let interval = match (judgement.interval, claim.over) {
            (Some(_), _) | (_, Over::Exact) => "",
            _ => " (no interval with one seed)",
        };
        texts.push(format!(
            "{name}\n  claim    {}\n  source   {}\n  measured {}{interval}, expected {}\n{}  verdict  {}{}\n\n{}",
            claim.statement,
            claim.source,
            claim.write_measured(&metrics, &judgement),
            claim.write_expected(&metrics),
            entry.beside(&metrics).map_or_else(String::new, |beside| format!("  beside   {beside}\n")),
            judgement.verdict,
            if scale == Scale::Smoke { " (at smoke scale, which proves nothing)" } else { "" },
            done.table(),
        ));
        documents.push(json!({"recipe": name, "claim": claim, "judgement": judgement, "run": done.dir()}));
    }
    ui.answer(&documents, || texts.join("\n\n"))?;
    let no = scale == Scale::Small && !all_hold;
    Ok(if no { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// A finished run of either kind.
enum Done {
    Training(Outcome),
    Experiment(ExperimentOutcome),
}

impl Done {
    fn new(plan: &Plan, place: &Place, ui: Ui) -> Result<Self> {
        Ok(match plan {
            Plan::Training(recipe) => Self::Training(outcome(recipe, place, ui)?),
            Plan::Experiment(recipe) => Self::Experiment(experiment(recipe, place, ui)?),
        })
    }

    fn finished(&self) -> Finished<'_> {
        match self {
            Self::Training(o) => Finished {
                results: &o.record,
                run: &o.record.id,
                data: format!("{} ({} train, {} test)", o.record.data.name, o.record.data.train, o.record.data.test),
                machine: &o.record.machine,
                arms: o.record.arms.iter().map(|a| &*a.name).collect(),
                beside: &["test-accuracy", "nonzeros", "peak-training-bytes", "seconds-per-epoch"],
            },
            Self::Experiment(o) => Finished {
                results: &o.record,
                run: &o.record.id,
                data: o.record.inputs.iter().map(|(k, v)| format!("{k} = {v}")).collect::<Vec<_>>().join(", "),
                machine: &o.record.machine,
                arms: o.record.arms.iter().map(|a| &*a.name).collect(),
                beside: &[],
            },
        }
    }

    fn table(&self) -> String {
        match self {
            Self::Training(o) => arms(&o.record),
            Self::Experiment(o) => metrics(&o.record, None),
        }
    }

    fn dir(&self) -> &Path {
        match self {
            Self::Training(o) => &o.dir,
            Self::Experiment(o) => &o.dir,
        }
    }
}
