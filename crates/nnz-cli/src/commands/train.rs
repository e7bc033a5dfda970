use super::MethodArgs;
use crate::ui::{self, Ui};
use anyhow::{Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use nnz_core::{LayerOptions, LayerSet, Registry};
use nnz_engine::data::{Augment, Dataset};
use nnz_engine::{Dtype, LrSchedule, OptimizerSpec, Storage, Task, TrainSpec};
use nnz_lab::{Arm, Network, Precision, Recipe, Start};
use std::process::ExitCode;

/// Training, shared by `train` and `prune --finetune`.
#[derive(ClapArgs, Debug)]
pub struct TrainArgs {
    /// Rows per step [default: 128; fewer if an epoch would have fewer than 16 steps]
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// Update rule
    #[arg(long, value_enum, default_value_t = Rule::Sgd)]
    pub optimizer: Rule,
    /// Learning rate [default: 0.1 for sgd, 0.001 for adam and adamw; lbfgs takes none]
    #[arg(long, value_name = "RATE")]
    pub lr: Option<f64>,
    /// How the learning rate falls
    #[arg(long, value_enum, default_value_t = Schedule::Cosine)]
    pub schedule: Schedule,
    /// Share of the run over which the learning rate first rises from zero
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub warmup: f64,
    /// Storage of weights
    #[arg(long, value_enum, default_value_t = Store::Auto)]
    pub storage: Store,
    /// Let the method prune the classifier head, too
    #[arg(long)]
    pub prune_head: bool,
    /// Let the method prune these layers only, by role or name, such as attention,mlp or 'blocks.*'
    #[arg(long, value_name = "LAYERS,…", value_delimiter = ',')]
    pub prune: Vec<LayerSet>,
    /// Keep these layers dense, by role or name
    #[arg(long, value_name = "LAYERS,…", value_delimiter = ',')]
    pub keep: Vec<LayerSet>,
    /// Scale gradients down to this Euclidean norm [default: none; 1 if numbers are predicted]
    #[arg(long, value_name = "NORM")]
    pub clip: Option<f64>,
    /// Evaluate and keep a moving average of the weights with this decay, such as 0.999
    #[arg(long, value_name = "DECAY")]
    pub ema: Option<f64>,
    /// Spread this share of every target evenly over all classes, such as 0.1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub smoothing: f64,
    /// Augment training rows, such as flip,crop=4,cutout=8,mixup=0.2
    #[arg(long, value_name = "CHANGES", value_parser = augment)]
    pub augment: Option<Augment>,
    /// Number type of the finished network
    #[arg(long, value_enum, default_value_t = Values::F32)]
    pub dtype: Values,
}

/// Rows per step, unless data are small.
const BATCH: usize = 128;
/// Steps that an epoch has at least, down to the smallest batch.
const STEPS: usize = 16;
/// The smallest batch by default: with less, the default rate diverges on small tables.
const LEAST: usize = 16;

/// The largest batch of 128, 64, .. with which an epoch of so many rows has enough steps.
fn fitting(rows: usize) -> usize {
    let mut batch = BATCH;
    while batch > LEAST && rows.div_ceil(batch) < STEPS {
        batch /= 2;
    }
    batch
}

/// Number type of a file.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Values {
    /// As they were trained
    F32,
    /// Weights in 16 bits: half the bytes
    Bf16,
}

/// Task of the network.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Aim {
    /// Predict classes
    Classification,
    /// Predict numbers: targets, or classes that are named by numbers
    Regression,
    /// Reconstruct the input; the default model is an autoencoder
    Reconstruction,
}

/// `flip`, `crop=PIXELS`, `cutout=SIDE`, `mixup=ALPHA`, separated by commas.
fn augment(text: &str) -> Result<Augment, String> {
    let mut changes = Augment::default();
    for part in text.split(',').map(str::trim) {
        let (name, value) = part.split_once('=').map_or((part, None), |(n, v)| (n, Some(v)));
        let pixels = || value.and_then(|v| v.parse().ok()).filter(|&n: &usize| n > 0);
        let why = || format!("`{part}`: expected changes such as flip,crop=4,cutout=8,mixup=0.2");
        match (name, value) {
            ("flip", None) => changes.flip = true,
            ("crop", _) => changes.crop = pixels().ok_or_else(why)?,
            ("cutout", _) => changes.cutout = pixels().ok_or_else(why)?,
            ("mixup", Some(v)) => changes.mixup = v.parse().ok().filter(|&a: &f64| a > 0.0).ok_or_else(why)?,
            _ => return Err(why()),
        }
    }
    Ok(changes)
}

/// Update rules.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Rule {
    /// SGD with Nesterov momentum 0.9 and weight decay 1e-4
    Sgd,
    /// Adam
    Adam,
    /// Adam with decoupled weight decay 0.01
    #[value(name = "adamw")]
    AdamW,
    /// L-BFGS, for batches that contain the whole training split, or most of it
    Lbfgs,
}

/// Learning rate schedules.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Schedule {
    /// Half a cosine to zero
    Cosine,
    /// No change
    Constant,
    /// A tenth from half of the run on, a hundredth from three quarters on
    Step,
}

/// Storages.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Store {
    /// Sparse if that is smaller and as fast
    Auto,
    /// Every entry
    Dense,
    /// Every entry and a mask
    Masked,
    /// Only the nonzeros
    Sparse,
}

impl TrainArgs {
    /// Training settings of a task on data, with a note: gradients of squared errors, which know no bound, are clipped.
    pub fn spec_for(&self, task: Task, data: &Dataset, epochs: u32) -> (TrainSpec, Option<String>) {
        let clip = if task == Task::Regression { self.clip.or(Some(1.0)) } else { self.clip };
        let (batch, note) = self.batch_for(data);
        (TrainSpec { task, clip, batch, ..self.spec(epochs) }, note)
    }

    /// Rows per step. Without `--batch`, half of 128 and again half of it, until an epoch has enough steps to learn in: a hundred rows
    /// at once would be one step. Graphs are read whole in every step, and L-BFGS wants all rows.
    fn batch_for(&self, data: &Dataset) -> (usize, Option<String>) {
        let whole = data.graph.is_some() || matches!(self.optimizer, Rule::Lbfgs);
        if let Some(batch) = self.batch.or(whole.then_some(BATCH)) {
            return (batch, None);
        }
        let rows = data.train.len() - (TrainSpec::default().validation * data.train.len() as f64).round() as usize;
        let batch = fitting(rows);
        let note = || {
            format!(
                "batches of {batch} rows instead of {BATCH}, so that an epoch of {} rows has {} steps; --batch N takes another",
                ui::count(rows),
                rows.div_ceil(batch)
            )
        };
        (batch, (batch < BATCH).then(note))
    }

    /// The rule for a network that is trained already: SGD with a tenth of the usual rate, unless --lr says another.
    pub fn tuning(&self, rule: OptimizerSpec) -> OptimizerSpec {
        match (self.lr, self.optimizer) {
            (None, Rule::Sgd) => rule.at_rate(0.01),
            _ => rule,
        }
    }

    /// Training settings for `epochs` epochs.
    pub fn spec(&self, epochs: u32) -> TrainSpec {
        TrainSpec {
            epochs,
            batch: self.batch.unwrap_or(BATCH),
            optimizer: match self.optimizer {
                Rule::Sgd => OptimizerSpec::sgd(self.lr.unwrap_or(0.1)),
                Rule::Adam => OptimizerSpec::adam(self.lr.unwrap_or(0.001)),
                Rule::AdamW => OptimizerSpec::adamw(self.lr.unwrap_or(0.001)),
                Rule::Lbfgs => OptimizerSpec::lbfgs(),
            },
            schedule: match self.schedule {
                Schedule::Cosine => LrSchedule::Cosine,
                Schedule::Constant => LrSchedule::Constant,
                Schedule::Step => LrSchedule::Step,
            },
            warmup: self.warmup,
            storage: match self.storage {
                Store::Auto => Storage::Auto,
                Store::Dense => Storage::Dense,
                Store::Masked => Storage::Masked,
                Store::Sparse => Storage::Sparse,
            },
            prune_head: self.prune_head,
            prune: self.prune.clone(),
            keep: self.keep.clone(),
            clip: self.clip,
            ema: self.ema,
            smoothing: self.smoothing,
            augment: self.augment.unwrap_or_default(),
            dtype: match self.dtype {
                Values::F32 => Dtype::Native,
                Values::Bf16 => Dtype::Bf16,
            },
            ..TrainSpec::default()
        }
    }
}

/// Arguments of `nnz train`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:
  nnz train mnist --method rigl --density 0.05 --seeds 3      with 95% intervals over seeds
  nnz train mnist --method set --density 0.02 --set every=\"50 steps\"
  nnz train table.csv --target species --method gmp --density 0.2 --epochs 50
  nnz train mnist --from net.onnx --normalize unit --method rigl --density 0.1
  nnz train pictures/ --model resnet8 --method magnitude --density 0.1 --no-controls
  nnz train mnist --method rigl --density 0.05 --resume       go on with a run that was cut off")]
pub struct Args {
    #[command(flatten)]
    data: super::DataArgs,
    #[command(flatten)]
    method: MethodArgs,
    /// Network: mlp:IN-HIDDEN-..-OUT, lenet5, vgg-small, resnet8, resnet20, resnet32 (or resnet20:WIDTH), mobilenet-small,
    /// transformer:WIDTH-DEPTH-HEADS-PATCH, causal-transformer:VOCABULARY-WIDTH-DEPTH-HEADS,
    /// autoencoder:IN-HIDDEN-..-CODE, vae:IN-HIDDEN-..-CODE, or a TOML file with its layers, such as net.toml
    /// [default: mlp with 300 and 100 hidden units]
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Start from a trained network instead of random values: a file of nnz, ONNX, or a checkpoint of a known architecture. Every
    /// arm does, and --lr is 0.01 by default
    #[arg(long, value_name = "NET", conflicts_with_all = ["model", "f64"])]
    from: Option<String>,
    #[command(flatten)]
    inputs: super::Inputs,
    /// The task [default: regression if rows have numbers to predict, else classification]
    #[arg(long, value_enum, value_name = "TASK")]
    task: Option<Aim>,
    /// Passes over the training data
    #[arg(long, short, value_name = "N", default_value_t = 20)]
    epochs: u32,
    #[command(flatten)]
    train: TrainArgs,
    /// Networks per arm, with seeds SEED, SEED + 1, ...
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// First seed
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// Train in 64 bits, for checks
    #[arg(long)]
    f64: bool,
    /// Train only the method: no random mask, no dense network, no small dense network
    #[arg(long)]
    no_controls: bool,
    #[command(flatten)]
    place: super::run::Place,
}

/// Trains a method and its controls.
pub fn run(args: &Args, ui: Ui) -> Result<ExitCode> {
    let (mut recipe, note) = recipe(args, ui.registry)?;
    let place = super::run::Place { notes: note.into_iter().collect(), ..args.place.clone() };
    let outcome = match super::run::outcome(&recipe, &place, ui) {
        // A default that does not fit the data is tried once more; what was asked for is what is done.
        Err(e) if args.train.lr.is_none() && diverged(&e) => {
            let lr = recipe.train.optimizer.lr() / 10.0;
            ui.note(format!("{e}; starting again with a tenth of the default rate, --lr {lr}"));
            if let Some(dir) = &args.place.run_dir {
                nnz_lab::run::abandon(dir)?;
            }
            recipe.train.optimizer = recipe.train.optimizer.at_rate(lr);
            super::run::outcome(&recipe, &args.place, ui)
        }
        outcome => outcome,
    };
    super::run::tell(&outcome?, ui)
}

/// Whether a training ended because its loss was no number any more.
fn diverged(e: &anyhow::Error) -> bool {
    matches!(e.downcast_ref(), Some(nnz_lab::Error::Engine(nnz_engine::Error::NonFinite { .. })))
}

/// Default task for data.
pub fn task_of(aim: Option<Aim>, data: &Dataset) -> Task {
    match aim {
        Some(Aim::Classification) => Task::Classification,
        Some(Aim::Reconstruction) => Task::Reconstruction,
        Some(Aim::Regression) => Task::Regression,
        None if data.real() => Task::Regression,
        None => Task::Classification,
    }
}

/// Default network for data.
pub fn default_model(data: &Dataset, task: Task) -> String {
    match task {
        Task::Reconstruction => format!("autoencoder:{}-128-32", data.features()),
        Task::Regression if !data.real() => format!("mlp:{}-300-100-1", data.features()),
        _ => format!("mlp:{}-300-100-{}", data.features(), data.classes.len()),
    }
}

fn recipe(args: &Args, registry: Registry) -> Result<(Recipe, Option<String>)> {
    let options = args.method.options(registry)?;
    let (key, place) = (args.method.method(registry)?.key.to_owned(), args.data.place()?);
    let data = nnz_data::Store::open()?.load(&place)?.dataset;
    if data.real() && matches!(args.task, Some(Aim::Classification)) {
        bail!(
            "{place}: the answers are numbers to predict, not classes; leave --task out, or read every different number as a \
             class (`answers=classes` after the table's question mark)"
        );
    }
    let task = task_of(args.task, &data);
    if args.from.is_none() {
        super::given::refuse(&["normalize"], "is for networks of other programs, which --from names")?;
    }
    let model = args.model.clone().or_else(|| args.from.clone()).unwrap_or_else(|| default_model(&data, task));
    let arm =
        |name: &str, method: Option<&str>| Arm { name: name.into(), method: method.map(Into::into), ..Arm::default() };
    let mut arms = vec![Arm { options: options.clone(), ..arm(&key, Some(&key)) }];
    let full = registry.find(&key)?.defaults().into_iter().chain(options).collect::<toml::Table>();
    if !args.no_controls {
        if key != "random-pruning" && full.contains_key("density") {
            arms.push(Arm { options: static_random(&full), ..arm("static-random", Some("random-pruning")) });
        }
        arms.push(arm("dense", None));
        if args.from.is_none() {
            arms.push(Arm { narrow_to: Some(key.clone()), ..arm("small-dense", None) });
        }
    }
    let density = full.get("density").and_then(toml::Value::as_float);
    let density = density.map_or_else(String::new, |d| format!(" at density {}", ui::density(d)));
    let (mut train, note) = args.train.spec_for(task, &data, args.epochs);
    if args.from.is_some() {
        train.optimizer = args.train.tuning(train.optimizer);
    }
    let recipe = Recipe {
        title: format!("{key} on {}{density}", nnz_data::read::short(&data.name)),
        data: place,
        model: Network::Named(model),
        seeds: (args.seed..args.seed + args.seeds).collect(),
        precision: if args.f64 { Precision::F64 } else { Precision::F32 },
        train,
        pretrain: None,
        from: args.from.clone().map(|network| Start { network, normalize: args.inputs.text() }),
        arms,
        claim: None,
        smoke: None,
    };
    recipe.check("from the command line")?;
    Ok((recipe, note))
}

/// Options for the random mask of the same density, pattern and (if it can be drawn without scores) distribution.
fn static_random(method: &toml::Table) -> toml::Table {
    let mut budget = toml::Table::from_iter(method.iter().filter_map(|(key, value)| match key.as_str() {
        "density" | "pattern" | "of" => Some((key.clone(), value.clone())),
        "distribution" if value.as_str() != Some("global") => Some((key.clone(), value.clone())),
        _ => None,
    }));
    // A list that is none is refused by the method itself.
    for mut layers in LayerOptions::take(&mut method.clone()).unwrap_or_default() {
        let kept = layers.options.is_empty();
        layers.options = static_random(&layers.options);
        if kept || !layers.options.is_empty() {
            LayerOptions::add(&mut budget, [layers]);
        }
    }
    budget
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_data_are_read_in_small_batches() {
        let found = [1, 86, 108, 130, 397, 720, 1440, 1921, 1920, 60_000].map(fitting);
        assert_eq!(found, [16, 16, 16, 16, 16, 32, 64, 128, 64, 128]);
        // Enough steps wherever the batch may shrink further.
        assert!((241usize..5000).all(|rows| rows.div_ceil(fitting(rows)) >= STEPS));
    }
}
