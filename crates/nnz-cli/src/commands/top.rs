use crate::ui::{self, Ui};
use anyhow::{Result, bail};
use clap::Args as ClapArgs;
use console::Term;
use nnz_lab::Plan;
use nnz_lab::run::record::EpochRecord;
use serde::Serialize;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Arguments of `nnz top`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:
  nnz top                      the newest run under runs/
  nnz top runs/3f2a...         one run, redrawn until it ends; Ctrl-C leaves, the run goes on
  nnz top runs/3f2a... --once  one look, for scripts (--json for numbers)")]
pub struct Args {
    /// The run directory [default: the newest under runs/]
    run: Option<PathBuf>,
    /// Print once and exit
    #[arg(long)]
    once: bool,
}

/// A network of a run, read from its event file.
#[derive(Serialize)]
struct Network {
    arm: String,
    seed: u64,
    state: State,
    epochs: Vec<EpochRecord>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Waiting,
    Running,
    Stopped,
    Done,
}

/// State of a run.
#[derive(Serialize)]
struct Look {
    directory: PathBuf,
    title: String,
    /// Epochs per network.
    epochs: u32,
    /// Whether a process holds the directory.
    running: bool,
    finished: bool,
    networks: Vec<Network>,
}

/// Shows a run in progress.
pub fn run(args: &Args, ui: Ui) -> Result<ExitCode> {
    let dir = match &args.run {
        Some(dir) => dir.clone(),
        None => newest()?,
    };
    let mut look = look(&dir)?;
    let terminal = Term::stdout();
    if args.once || ui.json || !std::io::stdout().is_terminal() {
        ui.answer(&look, || draw(&look, 100))?;
        return Ok(ExitCode::SUCCESS);
    }
    let stop = ui.stop_flag()?;
    let mut lines = 0;
    while !stop.load(Ordering::SeqCst) {
        let text = draw(&look, usize::from(terminal.size().1));
        // Lines are overwritten in place: clearing first would flicker.
        terminal.move_cursor_up(lines)?;
        for line in text.lines() {
            terminal.clear_line()?;
            terminal.write_line(&ui::shown(line))?;
        }
        lines = text.lines().count();
        if look.finished || !look.running {
            break;
        }
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(50));
            if stop.load(Ordering::SeqCst) {
                return Ok(ExitCode::SUCCESS);
            }
        }
        look = self::look(&dir)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The most recently written run directory under `runs`.
fn newest() -> Result<PathBuf> {
    let runs = std::fs::read_dir("runs").into_iter().flatten().flatten().map(|e| e.path());
    let age = |p: &PathBuf| p.join("arms").metadata().and_then(|m| m.modified()).ok();
    match runs.filter(|p| p.join("recipe.toml").is_file()).max_by_key(age) {
        Some(run) => Ok(run),
        None => bail!("there is no run under runs/ here; name a run directory"),
    }
}

fn look(dir: &Path) -> Result<Look> {
    let file = dir.join("recipe.toml");
    let text = std::fs::read_to_string(&file);
    let text = text.map_err(|e| anyhow::anyhow!("{} is no run directory: {}: {e}", dir.display(), file.display()))?;
    let (title, epochs, arms, seeds) = match Plan::parse(&text, &file.display().to_string())? {
        Plan::Training(r) => {
            let names: Vec<String> = r.arms.into_iter().map(|a| a.name).collect();
            (r.title, r.train.epochs, names, r.seeds)
        }
        // An experiment has no epochs: its progress is the number of finished arms.
        Plan::Experiment(r) => (r.title, 0, r.arms.into_iter().map(|a| a.name).collect(), r.seeds),
    };
    let held = match std::fs::File::open(dir.join("lock")) {
        Ok(lock) => lock.try_lock_shared().is_err(),
        Err(_) => false,
    };
    let mut networks = Vec::new();
    for arm in &arms {
        for &seed in &seeds {
            let name = format!("{arm}-{seed}");
            let path = |end: &str| dir.join("arms").join(format!("{name}.{end}"));
            let lines = std::fs::read_to_string(path("events.jsonl")).unwrap_or_default();
            let epochs: Vec<EpochRecord> = lines.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
            let done = path("json").is_file();
            let state = if done { State::Done } else { State::Waiting };
            networks.push(Network { arm: arm.clone(), seed, state, epochs });
        }
    }
    // Networks are trained in sequence: the first unfinished one is in training.
    let finished = dir.join("record.json").is_file();
    if let Some(next) = networks.iter_mut().find(|n| n.state != State::Done) {
        next.state = if held { State::Running } else { State::Stopped };
    }
    Ok(Look { directory: dir.into(), title, epochs, running: held, finished, networks })
}

/// Draws a curve in one line of text, from its lowest to its highest value.
fn curve(values: &[f64], width: usize) -> String {
    const MARKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let width = width.min(values.len());
    let finite = values.iter().copied().filter(|v| v.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    let mark = |i: usize| {
        let v = values[i * values.len() / width];
        let at = if high > low { (v - low) / (high - low) } else { 0.5 };
        MARKS[((at * 7.0).round().max(0.0) as usize).min(7)]
    };
    (0..width).map(mark).collect()
}

fn draw(look: &Look, width: usize) -> String {
    let state = match (look.finished, look.running) {
        (true, _) => "finished".to_string(),
        (_, true) => "running".to_string(),
        _ => format!("stopped; go on with `nnz run {}`", look.directory.display()),
    };
    let row = |n: &Network| {
        let last = n.epochs.last();
        let text = |f: &dyn Fn(&EpochRecord) -> String| last.map_or_else(|| "-".into(), f);
        let accuracies: Vec<f64> = n.epochs.iter().map(|e| e.accuracy).collect();
        let moved: usize = n.epochs.iter().map(|e| e.grown).sum();
        vec![
            format!("{}, seed {}", n.arm, n.seed),
            match n.state {
                State::Waiting => "waiting",
                State::Running => "running",
                State::Stopped => "stopped",
                State::Done => "done",
            }
            .into(),
            if look.epochs == 0 { "-".into() } else { format!("{}/{}", n.epochs.len(), look.epochs) },
            text(&|e| format!("{:.4}", e.loss)),
            text(&|e| ui::percent(e.accuracy, None)),
            text(&|e| ui::density(e.density)),
            ui::count(moved),
            curve(&accuracies, 24),
        ]
    };
    let header = ["", "", "epoch", "loss", "validation", "density", "moved", "validation, epoch by epoch"];
    let table = ui::words(&header, look.networks.iter().map(row).collect());
    let cut = |line: &str| line.chars().take(width.max(20)).collect::<String>();
    let lines =
        [format!("{} ({state})", look.title), String::new()].into_iter().chain(table.lines().map(str::to_string));
    lines.map(|l| cut(&l)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_go_from_low_to_high() {
        assert_eq!(curve(&[0.0, 1.0, 0.5], 8), "▁█▅");
        assert_eq!(curve(&(0..100).map(f64::from).collect::<Vec<_>>(), 4), "▁▃▅▆");
        assert_eq!((curve(&[2.0, 2.0], 8), curve(&[], 8)), ("▅▅".into(), String::new()));
        assert_eq!(curve(&[f64::NAN, 1.0], 8).chars().count(), 2);
    }
}
