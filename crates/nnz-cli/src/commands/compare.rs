use super::given;
use super::run::{ExperimentArgs, Place, tell_experiment};
use super::train::{TrainArgs, default_model, task_of};
use crate::ui::{self, Ui};
use anyhow::{Result, bail};
use clap::Args as ClapArgs;
use nnz_core::Method;
use nnz_lab::compare::{Limit, Request, caption, compare, table};
use nnz_lab::{ExperimentRecipe, Network, Start};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `nnz compare`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:
  nnz compare mnist --methods rigl,set,snip --densities 0.1,0.02 --seeds 3
  nnz compare mnist --methods rigl,gmp --densities 0.1 --rates 0.03,0.1,0.3    three learning rates for everyone
  nnz compare mnist --methods rigl,magnitude --max-size 200kB                  what fits into a file
  nnz compare mnist --methods rigl,gmp --max-drop 0.5                          how sparse within half a point of dense
  nnz compare mnist --from net.onnx --normalize unit --methods rigl,magnitude  every arm starts from the network
  nnz compare k-sparse,routing --input data=mnist --metric accuracy            experiments with the same inputs
  nnz compare k-sparse,routing --set k-sparse.k=40 --sweep epochs=5,10,20      one arm for each value, of each

For methods, controls are added: dense, small-dense, static-random and magnitude; with --from no small-dense. Experiments are compared by the metrics that
all of them measure. Cut off, the same command goes on.")]
pub struct Args {
    #[command(flatten)]
    data: super::DataArgs,
    /// Network, as for `nnz train`
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Start every arm from a trained network instead of random values: a file of nnz, ONNX, or a checkpoint of a known architecture.
    /// The dense arm trains it on, and --lr is 0.01 by default
    #[arg(long, value_name = "NET", conflicts_with = "model")]
    from: Option<String>,
    #[command(flatten)]
    inputs: super::Inputs,
    /// Methods, separated by commas
    #[arg(long, short, value_name = "METHOD,…", value_delimiter = ',')]
    methods: Vec<String>,
    #[command(flatten)]
    experiment: ExperimentArgs,
    /// Densities, above 0 and below 1 [default: 0.1,0.02; with --max-drop 0.5,0.2,0.1,0.05,0.02,0.01]
    #[arg(long, value_name = "D,…", value_delimiter = ',', allow_negative_numbers = true)]
    densities: Vec<f64>,
    /// The largest density whose file stays below this, such as 2MB or 200kB
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["densities", "max_latency", "max_drop"])]
    max_size: Option<String>,
    /// The largest density that answers one row within this, such as 1ms or 50us
    #[arg(long, value_name = "TIME", conflicts_with_all = ["densities", "max_drop"])]
    max_latency: Option<String>,
    /// Name the smallest density that loses at most this many points of validation accuracy against dense
    #[arg(long, value_name = "POINTS", allow_negative_numbers = true)]
    max_drop: Option<f64>,
    /// Learning rates tried for every arm at every density, on the validation split [default: --lr alone]
    #[arg(long, value_name = "R,…", value_delimiter = ',', conflicts_with = "lr", allow_negative_numbers = true)]
    rates: Vec<f64>,
    /// Passes over the training data
    #[arg(long, short, value_name = "N", default_value_t = 20)]
    epochs: u32,
    #[command(flatten)]
    train: TrainArgs,
    /// Networks per arm, with seeds SEED, SEED + 1, ...
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// First seed
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// Directory [default: runs/compare-ID]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Parses `2MB`, `200kB`, `1500`: powers of a thousand.
fn size(text: &str) -> Result<u64> {
    let number = text.trim().trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text.trim()[number.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        unit => bail!("--max-size {text}: `{unit}` is no unit of size; expected such as 200kB, 2MB or 1GB"),
    };
    match number.trim().parse::<f64>() {
        Ok(n) if n > 0.0 && n * factor < 1e15 => Ok((n * factor) as u64),
        _ => bail!("--max-size {text}: expected a size such as 200kB or 2MB"),
    }
}

/// Parses `1ms`, `50us`, `0.2s`.
fn duration(text: &str) -> Result<f64> {
    let number = text.trim().trim_end_matches(|c: char| c.is_alphabetic());
    let factor = match &text.trim()[number.len()..] {
        "s" => 1.0,
        "ms" => 1e-3,
        "us" | "µs" => 1e-6,
        _ => bail!("--max-latency {text}: expected a time such as 1ms, 50us or 0.2s"),
    };
    match number.trim().parse::<f64>() {
        Ok(n) if n > 0.0 && n.is_finite() => Ok(n * factor),
        _ => bail!("--max-latency {text}: expected a time such as 1ms, 50us or 0.2s"),
    }
}

/// Compares methods, or experiments.
pub fn run(args: &Args, ui: Ui) -> Result<ExitCode> {
    let seeds = || (args.seed..args.seed + args.seeds).collect::<Vec<u64>>();
    if args.methods.is_empty() {
        return experiments(args, seeds(), ui);
    }
    if let Some(flag) = args.experiment.given() {
        bail!(
            "{flag} is for experiments; of methods that train a network, `nnz train` takes one with options of its own"
        );
    }
    let place = args.data.place()?;
    let dataset = nnz_data::Store::open()?.load(&place)?.dataset;
    let task = task_of(None, &dataset);
    let limit = match (&args.max_size, &args.max_latency, args.max_drop) {
        (Some(text), ..) => Some(Limit::Size(size(text)?)),
        (_, Some(text), _) => Some(Limit::Latency(duration(text)?)),
        (.., Some(points)) if !(0.0..100.0).contains(&points) => {
            bail!("--max-drop {points}: points of accuracy lie between 0 and 100")
        }
        (.., Some(points)) => Some(Limit::Drop(points)),
        _ => None,
    };
    let densities = match (&args.densities[..], limit) {
        ([], Some(Limit::Drop(_))) => vec![0.5, 0.2, 0.1, 0.05, 0.02, 0.01],
        ([], None) => vec![0.1, 0.02],
        (given, _) => given.to_vec(),
    };
    let (mut train, mut remark) = args.train.spec_for(task, &dataset, args.epochs);
    if args.from.is_some() {
        train.optimizer = args.train.tuning(train.optimizer);
    } else {
        given::refuse(&["normalize"], "is for networks of other programs, which --from names")?;
    }
    let model = args.model.clone().or_else(|| args.from.clone()).unwrap_or_else(|| default_model(&dataset, task));
    let request = Request {
        data: place,
        model: Network::Named(model),
        from: args.from.clone().map(|network| Start { network, normalize: args.inputs.text() }),
        methods: args.methods.clone(),
        densities,
        seeds: seeds(),
        rates: if args.rates.is_empty() { vec![train.optimizer.lr()] } else { args.rates.clone() },
        train,
        limit,
    };
    drop(dataset);
    let stop = ui.stop_flag()?;
    let outcome = match compare(&request, ui.registry, args.dir.as_deref(), &stop, &mut |text| {
        // Once the request is accepted.
        remark.take().into_iter().for_each(|remark| ui.note(remark));
        ui.note(text);
    }) {
        Err(nnz_lab::Error::Interrupted { .. }) => {
            return Err(ui::Interrupted("interrupted; the same command goes on").into());
        }
        outcome => outcome?,
    };
    outcome.comparison.concerns().iter().for_each(|why| ui.note(why));
    let document = json!({
        "comparison": outcome.comparison, "seconds_a_row": outcome.seconds, "dir": outcome.dir,
    });
    ui.answer(&document, || {
        let (head, rows) = table(&outcome.comparison, &outcome.seconds);
        let page = outcome.dir.join("compare.html");
        format!("{}\n\n{}\n\nreport: {}", caption(&outcome.comparison), ui::table(&head, rows), page.display())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Options of a comparison of methods, beside those of tables and of training.
const OF_METHODS: [&str; 12] = [
    "test",
    "model",
    "from",
    "normalize",
    "densities",
    "max-size",
    "max-latency",
    "max-drop",
    "rates",
    "epochs",
    "prune-head",
    "keep",
];

fn of_methods() -> Vec<&'static str> {
    [&OF_METHODS[..], &given::TABLE, &given::TRAINING].concat()
}

/// Compares experiments by the metrics that all of them measure.
fn experiments(args: &Args, seeds: Vec<u64>, ui: Ui) -> Result<ExitCode> {
    let mut methods: Vec<&Method> = Vec::new();
    for key in args.data.given().split(',').map(str::trim) {
        match ui.registry.find(key) {
            Ok(method) if methods.iter().any(|m| m.key == method.key) => bail!("{key} is named twice"),
            Ok(method) if method.runs() => methods.push(method),
            Ok(_) => bail!(
                "{key} changes a network while it trains; compare it on data: `nnz compare mnist --methods {key}`"
            ),
            Err(e) if methods.is_empty() => {
                bail!("--methods says what to compare on {key}, such as --methods rigl,set; or name experiments ({e})")
            }
            Err(e) => return Err(e.into()),
        }
    }
    given::refuse(&of_methods(), "is for methods that train a network; experiments take --input, --set and --sweep")?;
    if methods.len() < 2 && args.experiment.sweep.is_empty() {
        bail!(
            "{} alone cannot be compared; name another experiment, or values of an option with --sweep",
            methods[0].key
        );
    }
    let mut recipe = ExperimentRecipe::of(&methods, seeds);
    args.experiment.change(&mut recipe)?;
    let place = Place { run_dir: args.dir.clone(), ..Place::default() };
    tell_experiment(&recipe, args.experiment.metric.as_deref(), &place, ui)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_used_or_refused_by_experiments() {
        let all = Args::augment_args(clap::Command::new("compare"));
        let used = ["methods", "input", "set", "sweep", "metric", "seeds", "seed", "dir"];
        let known = [&used[..], &of_methods()].concat();
        let left: Vec<_> = all.get_arguments().filter_map(|a| a.get_long()).filter(|l| !known.contains(l)).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
