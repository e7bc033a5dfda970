use super::MethodArgs;
use super::given;
use super::network::{self, ModelSource};
use super::train::TrainArgs;
use crate::ui::{self, Ui, Watch};
use anyhow::{Result, bail};
use clap::Args as ClapArgs;
use nnz_core::{LayerOptions, LayerSet, MethodInstance, Registry, Setting, TargetKind};
use nnz_data::Store;
use nnz_engine::data::Dataset;
use nnz_engine::file::{Header, Packing, load_model, save_model};
use nnz_engine::{Dtype, Model, Storage, StoragePolicy, Task, TrainSpec, Trainer, evaluate};
use nnz_foreign::onnx::{self as foreign, Network, Target};
use nnz_lab::run::Observer;
use nnz_lab::run::record::test_measure;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `nnz prune`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:
  nnz prune model.safetensors --method magnitude --density 0.1 -o small.safetensors
  nnz prune model.safetensors --method magnitude --density 0.05 --data mnist --finetune 5 -o small.safetensors
  nnz prune model.safetensors --method snip --density 0.1 --data mnist -o small.safetensors
  nnz prune net.onnx --method magnitude --density 0.1 --data mnist --finetune 3 -o small.onnx
  nnz prune net.onnx --method magnitude --density 0.1 --layer 'stem*=0.5' --keep 'head*' --data mnist -o small.onnx
  nnz prune net.onnx --recipe prune.toml --data mnist -o small.onnx
  nnz prune model.gguf --method sparsegpt --density 0.5 --calibrate text.txt -o small
  nnz prune minilm --method wanda --density 0.5 --calibrate text.txt -o small
  nnz prune clip --method wanda --density 0.5 --calibrate captions.txt --calibrate pictures -o small
  nnz prune mobilenet.pth --method magnitude --density 0.3 -o small.onnx")]
pub struct Args {
    /// A model written by nnz; a language model (a GGUF file, or a folder of safetensors or PyTorch weights); an encoder or a
    /// image network (ONNX, or a checkpoint)
    #[arg(value_parser = network::place)]
    pub model: PathBuf,
    #[command(flatten)]
    pub method: MethodArgs,
    /// Data set for scoring, fine-tuning and evaluation
    #[arg(long, value_name = "DATA")]
    pub data: Option<String>,
    /// Train the survivors for this many epochs
    #[arg(long, value_name = "EPOCHS", requires = "data")]
    finetune: Option<u32>,
    #[command(flatten)]
    inputs: super::Inputs,
    #[command(flatten)]
    train: TrainArgs,
    /// Key of all random choices
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub seed: u64,
    /// The pruned model: a file; a folder for models of other programs, or a file that ends in .onnx
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// Calibration text for a language model or an encoder; images for other networks, a folder or a file; for CLIP both,
    /// each with its own --calibrate
    #[arg(long, value_name = "TEXT|PICTURES", conflicts_with = "data")]
    pub calibrate: Vec<PathBuf>,
    #[command(flatten)]
    pub writing: super::language::Writing,
    /// Write zeros too, so that any safetensors reader gets plain matrices
    #[arg(long)]
    pub dense_layout: bool,
}

impl Args {
    /// Whether the head is pruned, too.
    pub fn prune_head(&self) -> bool {
        self.train.prune_head
    }

    /// Options of the method for a network that is not trained here: --keep names layers for it.
    pub fn untrained_options(&self, registry: Registry) -> Result<toml::Table> {
        let mut options = self.method.options(registry)?;
        for layers in &self.train.keep {
            match layers {
                LayerSet::Named(names) => LayerOptions::add(&mut options, [LayerOptions::keep(names.clone())]),
                LayerSet::Role(role) => bail!(
                    "--keep {role}: layers of models that are pruned without --data have names only, such as 'blocks.0.*'; nnz \
                     inspect lists them"
                ),
            }
        }
        Ok(options)
    }
}

/// Prunes a model.
pub fn run(args: &Args, ui: Ui) -> Result<ExitCode> {
    match network::kind(&args.model) {
        ModelSource::Graph if args.data.is_none() => network::prune(args, ui),
        ModelSource::Graph => of_graph(args, ui),
        ModelSource::Language => {
            let why = "is for networks that are measured on a data set; language models are pruned with --calibrate";
            given::refuse(&["normalize", "data"], why)?;
            super::language::prune(args, ui)
        }
        ModelSource::Own if !args.calibrate.is_empty() => {
            bail!(
                "--calibrate is for models of other programs; a network that nnz trained reads the data set of --data"
            )
        }
        ModelSource::Own => {
            let other = "is for models of other programs; a network that nnz trained has --dtype and --dense-layout";
            given::refuse(&["layout", "numbers"], other)?;
            given::refuse(&["calibration-tokens", "calibration-length"], "is for models of other programs")?;
            given::refuse(
                &["normalize"],
                "is for networks of other programs; this one says how values become its inputs",
            )?;
            super::model::writable(&args.output)?;
            own(args, ui)
        }
    }
}

/// Prunes a network of another program on data, and trains what is left.
fn of_graph(args: &Args, ui: Ui) -> Result<ExitCode> {
    let onnx = Target::of(&args.output)? == Target::Onnx;
    args.writing.check(args.dense_layout)?;
    given::refuse(
        &["calibration-tokens", "calibration-length"],
        "says how --calibrate is read, which --data replaces",
    )?;
    given::refuse(&["dtype"], "is for networks that nnz trained; others are written in the types that they have")?;
    let mut network = Network::open(&args.model)?;
    given::no_layout(onnx || network.archive.is_none())?;
    network.notes.iter().for_each(|note| ui.note(note));
    let loaded = Store::open()?.load(args.data.as_deref().unwrap_or_default())?;
    loaded.notes.iter().for_each(|note| ui.note(note));
    let (spec, data) = (args.train.spec(0), loaded.dataset);
    let (mut model, header) =
        foreign::learner(&network, &data, args.inputs.normalize.as_ref(), &spec.policy(), &spec.prunable())?;
    let bytes = match std::fs::metadata(&args.model) {
        Ok(file) if file.is_file() => file.len() as usize,
        _ => network::sizes(&network).1,
    };
    let before = Size::of(&model, bytes, accuracy(&model, Some(&data), &header)?);
    let work = asked(args, ui)?;
    let units = matches!(work.sparsifier.kind(), TargetKind::Units | TargetKind::Structure);
    if units && !onnx && network.archive.is_some() {
        bail!("{}: {}", args.output.display(), foreign::NARROW);
    }
    foreign::spare(&mut model, &work, ASKED.steps).iter().for_each(|note| ui.note(note));
    if units && model.targets(work.sparsifier.kind()).is_empty() {
        let method = args.method.method(ui.registry)?.key;
        bail!("{} has no units that can be cut, which {method} needs", args.model.display());
    }
    let model = pruned(args, ui, model, &header, Some(&data), &before)?;
    foreign::put_back(&mut network, &model, &header)?;
    let packing = if args.dense_layout { Some(nnz_formats::Packing::Dense) } else { args.writing.packing() };
    let numbers = if onnx || network.archive.is_none() { nnz_formats::Dtype::F32 } else { args.writing.dtype() };
    let said = json!({"method": args.method.method(ui.registry)?.key, "density": model.density(), "data": data.name});
    let written = foreign::export(&network, &args.output, packing, numbers, false, &said)?;
    written.notes.iter().for_each(|note| ui.note(note));
    let after = Size::of(&model, written.bytes as usize, accuracy(&model, Some(&data), &header)?);
    tell(args, ui, header.task, &before, &after)
}

/// The length of a run with which a method is asked what it would do.
const ASKED: Setting = Setting { seed: 0, steps: 1000, steps_per_epoch: 100 };

/// The method, for such a run.
fn asked(args: &Args, ui: Ui) -> Result<MethodInstance> {
    let method = args.method.method(ui.registry)?;
    let mut options = args.method.options(ui.registry)?;
    // A distribution that is measured first changes nothing about what fits.
    if options.get("distribution").and_then(toml::Value::as_str) == Some("sensitivity") {
        options.remove("distribution");
    }
    Ok(method.build(&method.options_for_trained(&options), &ASKED)?)
}

/// Prunes a network that nnz trained.
fn own(args: &Args, ui: Ui) -> Result<ExitCode> {
    let (mut model, mut header): (Model<f32>, Header) = load_model(&args.model, args.train.spec(0).storage)?;
    // The file's storage, unless asked otherwise; a network that was stored dense has no zeros yet, and will.
    header.policy = match args.train.spec(0).policy() {
        asked if !asked.is_default() => asked,
        _ if header.policy.storage == Storage::Dense => StoragePolicy::default(),
        _ => header.policy,
    };
    if ["prune-head", "prune", "keep"].iter().any(|o| given::has(o)) {
        header.prunable = args.train.spec(0).prunable();
        model.choose(&header.prunable)?;
    }
    let data = match &args.data {
        Some(name) => {
            let loaded = Store::open()?.load_as(name, header.encoding.as_ref())?;
            loaded.notes.iter().for_each(|note| ui.note(note));
            let data = match header.task {
                Task::Regression if !loaded.dataset.real() => {
                    loaded.dataset.numbers().map_err(nnz_engine::Error::from)?
                }
                _ => loaded.dataset,
            };
            super::model::fits(&header, &data)?;
            Some(data)
        }
        None => None,
    };
    let bytes = std::fs::metadata(&args.model)?.len() as usize;
    let before = Size::of(&model, bytes, accuracy(&model, data.as_ref(), &header)?);
    model = pruned(args, ui, model, &header, data.as_ref(), &before)?;
    if args.train.spec(0).dtype != Dtype::Native {
        header.dtype = Dtype::Bf16;
    }
    header.dtype.round(&mut model);
    let method = args.method.method(ui.registry)?;
    header.method = format!("{}, then {} at density {}", header.method, method.key, ui::density(model.density()));
    let packing = if args.dense_layout { Packing::Dense } else { Packing::Smallest };
    save_model(&args.output, &model, &header, packing)?;
    let bytes = std::fs::metadata(&args.output)?.len() as usize;
    let after = Size::of(&model, bytes, accuracy(&model, data.as_ref(), &header)?);
    tell(args, ui, header.task, &before, &after)
}

/// A network pruned by the method, and trained for as many epochs as asked.
fn pruned(
    args: &Args,
    ui: Ui,
    mut model: Model<f32>,
    header: &Header,
    data: Option<&Dataset>,
    before: &Size,
) -> Result<Model<f32>> {
    let method = args.method.method(ui.registry)?;
    let mut options = args.method.options(ui.registry)?;
    if options.get("distribution").and_then(toml::Value::as_str) == Some("sensitivity") {
        options = super::sensitivity::divided(&model, header, data, method, &options, args.seed, ui)?;
    }
    let options = method.options_for_trained(&options);
    let asked = options.get("density").and_then(toml::Value::as_float);
    let alike = !options.contains_key(LayerOptions::KEY);
    if let Some(asked) = asked.filter(|&d| alike && d >= before.density) {
        bail!(
            "{} has density {} already, so pruning to {} would remove nothing; ask for less",
            args.model.display(),
            ui::density(before.density),
            ui::density(asked)
        );
    }
    match (args.finetune.filter(|&e| e > 0), data) {
        (Some(epochs), Some(data)) => {
            let StoragePolicy { storage, crossovers } = header.policy.clone();
            let (spec, remark) = args.train.spec_for(header.task, data, epochs);
            // What is pruned has been chosen.
            let mut spec = TrainSpec { storage, crossovers, prune: Vec::new(), keep: Vec::new(), ..spec };
            if network::kind(&args.model) == ModelSource::Graph {
                spec.optimizer = args.train.tuning(spec.optimizer);
            }
            let (rows, _) = data.split_validation(spec.validation, args.seed).map_err(nnz_engine::Error::from)?;
            let (options, note) = method.fitted(&options, &options, &spec.setting(rows.len(), args.seed))?;
            remark.iter().chain(&note).for_each(|note| ui.note(note));
            let build = |setting: &Setting| method.build(&options, setting);
            let mut trainer = Trainer::from_model(model, header.frame(), data, &spec, args.seed, build)?;
            let mut watch = Watch::new(ui)?;
            watch.begin("fine-tuning", args.seed, 0, 1);
            let finished = trainer.run(|_, progress| watch.step("fine-tuning", progress))?;
            watch.finish();
            if !finished {
                return Err(ui::Interrupted("interrupted; nothing was written").into());
            }
            Ok(trainer.result().into_owned())
        }
        _ => {
            let setting = Setting { seed: args.seed, steps: 0, steps_per_epoch: 1 };
            let mut work = method.build(&options, &setting)?;
            let rows: Vec<u32> =
                data.iter().flat_map(|d| 0..d.train.len().min(args.train.spec(0).batch) as u32).collect();
            let frame = header.frame();
            let batch = data.map(|d| (d, &rows[..], &frame));
            nnz_engine::prune(&mut model, &mut work, batch, &header.policy)?;
            Ok(model)
        }
    }
}

fn tell(args: &Args, ui: Ui, task: Task, before: &Size, after: &Size) -> Result<ExitCode> {
    let row = |name: &str, s: &Size| {
        let accuracy = s.accuracy.map_or_else(|| "-".into(), |a| ui::percent(a, None));
        vec![name.into(), ui::count(s.nonzeros), ui::density(s.density), ui::bytes(s.file), accuracy]
    };
    let document = json!({"before": before.json(task), "after": after.json(task), "output": args.output});
    ui.answer(&document, || {
        let rows = vec![row("before", before), row("after", after)];
        let table = ui::table(&["", "nonzeros", "density", "file", test_measure(task)], rows);
        format!("{table}\n\n{}", args.output.display())
    })?;
    Ok(ExitCode::SUCCESS)
}

struct Size {
    nonzeros: usize,
    density: f64,
    file: usize,
    accuracy: Option<f64>,
}

impl Size {
    fn of(model: &Model<f32>, file: usize, accuracy: Option<f64>) -> Self {
        Self { nonzeros: model.nonzeros(), density: model.density(), file, accuracy }
    }

    fn json(&self, task: Task) -> serde_json::Value {
        let measure = format!("test_{}", task.slug());
        json!({"nonzeros": self.nonzeros, "density": self.density, "file_bytes": self.file, measure: self.accuracy})
    }
}

fn accuracy(model: &Model<f32>, data: Option<&Dataset>, header: &Header) -> Result<Option<f64>> {
    let Some(data) = data else { return Ok(None) };
    let rows: Vec<u32> = (0..data.test.len() as u32).collect();
    Ok(Some(evaluate(model, data, &data.test, &rows, &header.frame())?.accuracy))
}
