use super::given;
use super::network::{self, ModelSource};
use crate::ui::{self, Ui};
use anyhow::{Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use nnz_core::Unit;
use nnz_data::read::{Asked, Encoding, LeftOut, ask};
use nnz_data::{Store, fit_to, picture};
use nnz_engine::data::{Dataset, Inputs, Normalization, Split};
use nnz_engine::file::{Header, load_model, write_atomically};
use nnz_engine::{Model, Storage, Task, Tensor, evaluate, ops::softmax_rows};
use nnz_foreign::onnx::Target;
use nnz_lab::inspect::{Inspection, inspect as inspect_model};
use nnz_lab::report;
use nnz_lab::run::record::METRICS;
use nnz_lab::scores::{ClassScore, Scores, TargetScore};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `nnz eval`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:
  nnz eval small.safetensors                       on the test split of the data it was trained on
  nnz eval small.safetensors mnist --split train
  nnz eval model.safetensors more.csv --split all  another table of the same columns
  nnz eval net.onnx mnist --normalize unit         a network of another program
  nnz eval small choices.tsv --against model.gguf  a language model, by questions with several answers")]
pub struct EvalArgs {
    /// A model written by nnz, a network of another program (ONNX, or a checkpoint), or a language model
    #[arg(value_parser = network::place)]
    model: PathBuf,
    /// Data set: a name from `nnz data list`, or a file or folder [default: the training data of a model written by nnz]. For a
    /// language model lines of a context, candidates and the number of the right one from 0, with tabs between
    data: Option<String>,
    /// Rows to evaluate on
    #[arg(long, value_enum, default_value_t = Which::Test)]
    split: Which,
    /// Another language model to compare with, question by question
    #[arg(long, value_name = "MODEL")]
    against: Option<PathBuf>,
    #[command(flatten)]
    inputs: super::Inputs,
    #[command(flatten)]
    table: super::TableArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Which {
    /// The test split
    Test,
    /// The training split
    Train,
    /// Every row
    All,
}

/// Arguments of `nnz inspect`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:
  nnz inspect small.safetensors
  nnz inspect small.safetensors --html page.html
  nnz inspect runs/ID --history --html moves.html    how the topology of a run's first seed moved")]
pub struct InspectArgs {
    /// A model written by nnz, any file or folder of weights, or a run's directory with --history
    #[arg(value_parser = network::place)]
    model: PathBuf,
    /// How the topology changed during training: growth, pruning, ages, overlap with the start
    #[arg(long)]
    history: bool,
    /// The arm whose history is shown [default: the first]
    #[arg(long, value_name = "NAME", requires = "history")]
    arm: Option<String>,
    /// Write all measurements, with pictures, as a web page, and its numbers as CSV next to it
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Arguments of `nnz predict`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:
  nnz predict small.safetensors picture.png
  nnz predict model.safetensors new.csv --json
  nnz predict model.safetensors new.csv --unseen drop
  nnz predict model.gguf 'The capital of France is' --tokens 20
  nnz predict network.onnx --input x=x.npy --json
  nnz predict minilm 'A sparse network keeps few of its weights.'
  nnz predict clip cat.jpg --text 'a photo of a cat' --text 'a photo of a dog'")]
pub struct PredictArgs {
    /// A model written by nnz, a language model, or an encoder or image network (ONNX, or a checkpoint)
    #[arg(value_parser = network::place)]
    pub model: PathBuf,
    /// An image (PNG, JPEG), a table (CSV, TSV) or rows of numbers (svmlight, NumPy) for a model trained on such, or a text for an encoder or a language
    /// model to continue; with --text also a folder of images
    #[arg(value_name = "INPUT", required_unless_present = "array")]
    pub what: Option<PathBuf>,
    /// A NumPy array for an input of an ONNX or checkpoint network; prints every output. Give the name of
    /// the input if there are several
    #[arg(long = "input", id = "array", value_name = "[NAME=]FILE.npy", conflicts_with = "text")]
    pub arrays: Vec<String>,
    /// A text that a network such as CLIP compares with the image; give two or more
    #[arg(long, value_name = "TEXT")]
    pub text: Vec<String>,
    #[command(flatten)]
    generation: super::language::Generation,
    #[command(flatten)]
    table: super::TableArgs,
}

impl PredictArgs {
    /// The input to answer for; empty with arrays.
    pub fn input(&self) -> PathBuf {
        self.what.clone().unwrap_or_default()
    }

    /// Refuses texts for a model that compares none.
    pub fn no_texts(&self) -> Result<()> {
        match self.text.is_empty() {
            true => Ok(()),
            false => bail!(
                "--text is for networks that compare texts with pictures, such as CLIP; {} is none",
                self.model.display()
            ),
        }
    }
}

/// Refuses data of another shape than the model's input.
pub fn fits(header: &Header, data: &Dataset) -> Result<()> {
    let [c, h, w] = header.model.input;
    if data.image != header.model.input || data.classes.len() != header.classes.len() {
        let [dc, dh, dw] = data.image;
        bail!(
            "the model takes {h}x{w} pictures with {c} channels and knows {} classes, but {} has {dh}x{dw} with {dc} and \
             {} classes",
            header.classes.len(),
            data.name,
            data.classes.len()
        );
    }
    in_scale(header, &data.train.inputs, &format!("{}, train split", data.name))?;
    in_scale(header, &data.test.inputs, &format!("{}, test split", data.name))
}

/// Refuses pictures that are numbers up to 255 for a network that learned from numbers up to 1, as bytes become.
fn in_scale(header: &Header, inputs: &Inputs, place: &str) -> Result<()> {
    let Normalization { mean, std, .. } = header.normalization;
    // Numbers from 0 to 1 have no larger mean and no larger deviation. Columns that are scaled one by one have an encoding.
    let unit = (0.0..=1.0).contains(&mean) && std <= 0.5;
    if header.encoding.is_some() || !unit {
        return Ok(());
    }
    let width = header.model.input.iter().product::<usize>().max(1);
    let far = match inputs {
        Inputs::Floats(v) => v.iter().position(|&x| x >= 2.0).map(|i| (i, f64::from(v[i]))),
        Inputs::Doubles(v) => v.iter().position(|&x| x >= 2.0).map(|i| (i, v[i])),
        Inputs::Bytes(_) | Inputs::Sparse(_) => None,
    };
    match far {
        None => Ok(()),
        Some((at, x)) => bail!(
            "{place}: row {}, value {} is {x:?}, but the network learned from values of 0 to 1; give bytes (uint8), which are \
             divided by 255, or divide yourself",
            at / width,
            at % width
        ),
    }
}

/// Refuses to write a network under the name of another format, which readers would take it for.
///
/// # Errors
/// When the name ends in `.onnx` or as files that are not written, such as `.pt`.
pub fn writable(path: &Path) -> Result<()> {
    match Target::of(path)? {
        Target::Onnx => bail!(
            "{}: networks that nnz trained are written as safetensors; give a name that ends in .safetensors, and `nnz convert` \
             makes ONNX of it",
            path.display()
        ),
        Target::File | Target::Folder => Ok(()),
    }
}

/// A model of nnz, and the data that it is measured on.
fn own_and_data(
    path: &Path,
    data: Option<&str>,
    table: &super::TableArgs,
    ui: Ui,
) -> Result<(Model<f32>, Header, Dataset)> {
    given::refuse(
        &["normalize"],
        "is for networks of other programs; this one says itself how values become its inputs",
    )?;
    let (model, header): (Model<f32>, Header) = load_model(path, Storage::Auto)?;
    let place = match data {
        Some(data) => table.place(data)?,
        None => table.place_again(&header.data)?,
    };
    let loaded = Store::open()?.load_as(&place, header.encoding.as_ref())?;
    loaded.notes.iter().for_each(|note| ui.note(note));
    let data = match header.task {
        Task::Regression if !loaded.dataset.real() => loaded.dataset.numbers().map_err(nnz_engine::Error::from)?,
        _ => loaded.dataset,
    };
    fits(&header, &data)?;
    Ok((model, header, data))
}

/// A model, and the data that it is measured on: those it was trained on where none are given.
pub fn with_data(
    path: &Path,
    data: Option<&str>,
    table: &super::TableArgs,
    inputs: &super::Inputs,
    ui: Ui,
) -> Result<(Model<f32>, Header, Dataset)> {
    match network::kind(path) {
        ModelSource::Own => own_and_data(path, data, table, ui),
        ModelSource::Graph => {
            let Some(data) = data else {
                network::open_to_run(path, ui)?;
                bail!("{} does not say what it was trained on; give a data set", path.display())
            };
            network::with_data(path, &table.place(data)?, inputs, ui)
        }
        ModelSource::Language => bail!("{} is a language model, which reads texts", path.display()),
    }
}

/// How well a language model answers questions.
fn questions(args: &EvalArgs, ui: Ui) -> Result<ExitCode> {
    given::refuse(&["split", "normalize"], "is for data sets; a language model answers every question of a file")?;
    given::refuse(&given::TABLE, "is for tables; a language model reads questions")?;
    let Some(file) = &args.data else {
        bail!(
            "{} is a language model; give a file of questions, or `nnz perplexity` measures it on a text",
            args.model.display()
        )
    };
    super::language::choose(&args.model, Path::new(file), args.against.as_deref(), ui)
}

/// Accuracy of a model.
pub fn eval(args: &EvalArgs, ui: Ui) -> Result<ExitCode> {
    if network::kind(&args.model) == ModelSource::Language {
        return questions(args, ui);
    }
    given::refuse(&["against"], "is for language models; `nnz compare` compares others")?;
    let (model, header, data) = with_data(&args.model, args.data.as_deref(), &args.table, &args.inputs, ui)?;
    let split = match args.split {
        Which::Test => Cow::Borrowed(&data.test),
        Which::Train => Cow::Borrowed(&data.train),
        Which::All => Cow::Owned(whole(&data)?),
    };
    if args.data.is_some() && header.encoding.is_some() && matches!(args.split, Which::Test) {
        ui.note("these are the rows held out for testing; --split all takes every row");
    }
    let rows: Vec<u32> = (0..split.len() as u32).collect();
    let e = evaluate(&model, &data, &split, &rows, &header.frame())?;
    let scores = Scores::of(&data, &split, header.task, &e);
    let mut document = json!({"data": data.name, "rows": rows.len(), header.task.slug(): e.accuracy, "loss": e.loss});
    scores.write_into(&mut document);
    ui.answer(&document, || {
        let (rows, measure) = (ui::count(rows.len()), header.task.measure());
        let first =
            format!("{measure} {} on {rows} rows of {}, loss {:.4}", ui::percent(e.accuracy, None), data.name, e.loss);
        first + &measures(&scores)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Most classes that are listed; of more those with the lowest F1.
const LISTED: usize = 30;

/// Measures beside the task's own, in lines of their own.
fn measures(scores: &Scores) -> String {
    let plain = |v: Option<f64>| v.map_or_else(|| "-".into(), |v| Unit::Number.write(v));
    let share = |v: Option<f64>| v.map_or_else(|| "-".into(), |v| ui::percent(v, None));
    let known = METRICS.iter().filter_map(|m| Some(format!("{} {}", m.key, m.unit.write(*scores.metrics.get(m.key)?))));
    let mut text =
        known.fold(String::new(), |text, one| format!("{text}{}{one}", if text.is_empty() { "\n" } else { ", " }));
    let mut classes: Vec<&ClassScore> = scores.classes.iter().collect();
    let all = classes.len();
    if all > LISTED {
        classes.sort_by(|a, b| a.f1.unwrap_or(2.0).total_cmp(&b.f1.unwrap_or(2.0)));
        classes.truncate(LISTED / 2);
    }
    if !classes.is_empty() {
        let row = |c: &&ClassScore| {
            let rows = ui::count(c.rows);
            vec![c.class.clone(), share(c.precision), share(c.recall), plain(c.f1), plain(c.auc), rows]
        };
        let head = ["class", "precision", "recall", "F1", "AUC", "rows"];
        text += &format!("\n\n{}", ui::table(&head, classes.iter().map(row).collect()));
        if all > LISTED {
            text += &format!("\nthe {} of {all} classes with the lowest F1; --json has all", classes.len());
        }
    }
    if scores.targets.len() > 1 {
        let row = |t: &TargetScore| vec![t.target.clone(), plain(Some(t.rmse)), plain(Some(t.mae)), plain(t.r2)];
        text +=
            &format!("\n\n{}", ui::table(&["target", "RMSE", "MAE", "R²"], scores.targets.iter().map(row).collect()));
    }
    scores.notes.iter().fold(text, |text, note| format!("{text}\n{note}"))
}

/// Joins both splits: explained variance is not a mean of theirs.
fn whole(data: &Dataset) -> Result<Split> {
    let mut all = data.train.clone();
    all.labels.extend(&data.test.labels);
    all.targets.extend(&data.test.targets);
    match (&mut all.inputs, &data.test.inputs) {
        (Inputs::Bytes(all), Inputs::Bytes(more)) => all.extend(more),
        (Inputs::Floats(all), Inputs::Floats(more)) => all.extend(more),
        (inputs, _) => {
            let mut values = vec![0.0f32; data.len() * data.features()];
            let (train, test) = values.split_at_mut(data.train.inputs.len());
            for (split, out) in [(&data.train, train), (&data.test, test)] {
                let rows: Vec<u32> = (0..split.len() as u32).collect();
                data.fill(split, &rows, Normalization::NONE, out)?;
            }
            *inputs = Inputs::Floats(values);
        }
    }
    Ok(all)
}

/// Measures a model.
pub fn inspect(args: &InspectArgs, ui: Ui) -> Result<ExitCode> {
    if args.history {
        return moves(args, ui);
    }
    if args.model.extension().is_some_and(|e| e == "onnx") || args.model.join("model.onnx").is_file() {
        return network::inspect(&args.model, args.html.as_deref(), ui);
    }
    if nnz_foreign::llm::foreign(&args.model) {
        return super::language::inspect(&args.model, args.html.as_deref(), ui);
    }
    if args.model.is_dir() {
        bail!(
            "{} is a directory; give --history to see how its topologies moved, or one of its models",
            args.model.display()
        );
    }
    let (model, header): (Model<f32>, Header) = load_model(&args.model, Storage::Auto)?;
    let inspection = inspect_model(&model, &header, ui.registry)?;
    if let Some(page) = &args.html {
        write_page(&inspection, page, &args.model)?;
        ui.note(format!("page: {}", page.display()));
    }
    ui.answer(&inspection, || describe(&inspection))?;
    Ok(ExitCode::SUCCESS)
}

/// Reports how topologies changed.
fn moves(args: &InspectArgs, ui: Ui) -> Result<ExitCode> {
    let history = nnz_lab::history::of_run(&args.model, args.arm.as_deref())?;
    if let Some(page) = &args.html {
        write_atomically(page, report::history(&history).as_bytes())?;
        ui.note(format!("page: {}", page.display()));
    }
    ui.answer(&history, || {
        let head = [
            "",
            "connections",
            "born",
            "died",
            "rewirings",
            "of the start",
            "mean age",
            "fan-out",
            "components",
            "gap",
        ];
        let rows = history.layers.iter().map(|l| {
            let sum = |f: fn(&nnz_lab::history::Move) -> usize| ui::count(l.moves.iter().map(f).sum());
            let look = l.looks.last();
            let last = l.moves.last();
            vec![
                l.name.clone(),
                ui::count(last.map_or(l.start, |m| m.nonzeros)),
                sum(|m| m.grown),
                sum(|m| m.pruned),
                ui::count(l.moves.len()),
                ui::percent(last.map_or(1.0, |m| m.overlap), None),
                last.map_or_else(|| "-".into(), |m| format!("{:.0}", m.age)),
                look.map_or_else(String::new, |k| format!("{} to {}", k.fan_out.min, k.fan_out.max)),
                look.map_or_else(String::new, |k| ui::count(k.components.count)),
                look.map_or_else(String::new, |k| format!("{:.3}", k.gap)),
            ]
        });
        format!("{}, arm {}, seed {}\n\n{}", history.title, history.arm, history.seed, ui::table(&head, rows.collect()))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the page about a model, unless it would overwrite the model.
fn write_page(inspection: &Inspection, page: &Path, model: &Path) -> Result<()> {
    if page.canonicalize().is_ok_and(|p| model.canonicalize().is_ok_and(|m| p == m)) {
        bail!("--html {} would overwrite the model; give another file", page.display());
    }
    write_atomically(page, report::inspection(inspection).as_bytes())?;
    for (name, table) in report::inspection_csv(inspection) {
        write_atomically(&page.with_extension(name), table.as_bytes())?;
    }
    Ok(())
}

/// Compares bytes with those of every entry stored.
fn against_dense(packed: usize, dense: usize) -> String {
    match packed as f64 / dense.max(1) as f64 {
        r if (0.995..1.005).contains(&r) => "as much as dense".into(),
        r if r < 1.0 => format!("{:.1}x smaller than dense", 1.0 / r),
        r => format!("{r:.1}x larger than dense: too few zeros for packing to pay"),
    }
}

fn describe(i: &Inspection) -> String {
    let header = ["", "shape", "nonzeros", "density", "packed", "fan-in", "dead", "components", "spectral gap"];
    let rows = i.layers.iter().map(|l| {
        let gap = match &l.spectral {
            Some(s) if s.normalized.converged => format!("{:.3}", s.normalized.gap),
            Some(s) => format!("{:.3} (not converged)", s.normalized.gap),
            None => "dense".into(),
        };
        vec![
            l.name.clone(),
            format!("{}x{}", l.rows, l.cols),
            ui::count(l.nonzeros),
            ui::density(l.density),
            ui::bytes(l.packed_bytes),
            format!("{} to {}, mean {:.1}", l.fan_in.min, l.fan_in.max, l.fan_in.mean),
            format!("{} out, {} in", l.fan_in.dead, l.fan_out.dead),
            ui::count(l.components.count),
            gap,
        ]
    });
    let mut text = format!(
        "{}, trained on {} by {}\n{} of {} weights, {} dense, {} packed ({})\n\n{}\n",
        i.model,
        i.data,
        i.method,
        ui::count(i.nonzeros),
        ui::count(i.entries),
        ui::bytes(i.dense_bytes),
        ui::bytes(i.packed_bytes),
        against_dense(i.packed_bytes, i.dense_bytes),
        ui::table(&header, rows.collect())
    );
    i.measures.iter().for_each(|(key, value)| text += &format!("\n{key} {value:.4}"));
    if let Some(p) = &i.paths {
        text += &match i.nonzeros - p.effective_nonzeros {
            0 => "\nevery connection lies on a path from input to output".into(),
            lost => format!("\n{} connections lie on no path from input to output", ui::count(lost)),
        };
    }
    text
}

/// What a model answers for rows that are ready for it, `[rows, outputs]`: the probability of every class, numbers in the
/// units of the targets, or the input as it reconstructs it.
///
/// # Errors
/// When rows are none that it takes.
pub fn outputs(model: &Model<f32>, header: &Header, inputs: &Inputs, rows: usize) -> Result<Vec<f32>> {
    in_scale(header, inputs, "the rows")?;
    let features = inputs.len() / rows.max(1);
    let mut outputs = Vec::new();
    for block in (0..rows as u32).collect::<Vec<u32>>().chunks(256) {
        let mut input = Tensor::zeros(&[block.len(), features]);
        inputs.fill(features, block, header.normalization, input.data_mut())?;
        outputs.extend(model.infer(input)?.data());
    }
    if let Some(at) = outputs.iter().position(|x: &f32| !x.is_finite()) {
        let row = at / (outputs.len() / rows.max(1)).max(1);
        bail!("the rows: the answer to row {row} is no number; its values are too large for the network, scale them");
    }
    let width = header.classes.len();
    match header.task {
        Task::Classification => softmax_rows(&mut outputs, width),
        Task::Regression => {
            let frame = header.frame();
            outputs.chunks_exact_mut(width).for_each(|row| frame.in_units(row));
        }
        Task::Reconstruction => {}
    }
    Ok(outputs)
}

/// Names the class of an image, or of every row of a table; or predicts the numbers of a row.
pub fn predict(args: &PredictArgs, ui: Ui) -> Result<ExitCode> {
    match network::kind(&args.model) {
        ModelSource::Graph | ModelSource::Language if given::TABLE.iter().any(|o| given::has(o)) => {
            given::refuse(&given::TABLE, "is for tables, and networks that nnz trained on one")?;
        }
        ModelSource::Graph => return network::predict(args, ui),
        ModelSource::Language | ModelSource::Own if !args.arrays.is_empty() => {
            bail!("--input is for networks that come as ONNX or as checkpoints; {} is none", args.model.display())
        }
        ModelSource::Language => {
            args.no_texts()?;
            return super::language::generate(&args.model, &args.input().to_string_lossy(), &args.generation, ui);
        }
        ModelSource::Own => args.no_texts()?,
    }
    let (model, header): (Model<f32>, Header) = load_model(&args.model, Storage::Auto)?;
    if header.task == Task::Reconstruction {
        bail!("{} gives its input back; there is nothing to predict", args.model.display());
    }
    let asked = match &header.encoding {
        Some(encoding) => {
            let encoding = Encoding::from_json(encoding)?;
            if matches!(encoding, Encoding::Rows(_)) {
                given::refuse(
                    &given::TABLE,
                    "is for models trained on a table; this one was trained on rows of numbers",
                )?;
            }
            let input = args.input();
            // A path that is not UTF-8 has no options.
            let place = input.to_str().map_or_else(|| Ok(input.clone()), |p| args.table.place(p).map(PathBuf::from))?;
            ask(&place, &encoding)?
        }
        None => {
            given::refuse(&given::TABLE, "is for models trained on a table; this one was trained on pictures")?;
            let fitted = fit_to(&picture(&args.input())?, header.model.input)?;
            let (inputs, notes) = (Inputs::Bytes(fitted.pixels), fitted.note.into_iter().collect());
            Asked { inputs, rows: 1, left: Vec::new(), answers: None, notes }
        }
    };
    asked.notes.iter().for_each(|note| ui.note(note));
    let Asked { inputs, rows, left, answers: given, .. } = asked;
    let (features, classes) = (inputs.len() / rows, header.classes.len());
    if features != header.model.input.iter().product::<usize>() {
        bail!("{} has {features} inputs a row, but the model takes {:?}", args.input().display(), header.model.input);
    }
    let outputs = outputs(&model, &header, &inputs, rows)?;
    let named = |row: &[f32]| header.classes.iter().zip(row.iter().copied()).collect::<Vec<(&String, f32)>>();
    if header.task == Task::Regression {
        let answers: Vec<_> = outputs.chunks_exact(classes).map(named).collect();
        let object = |a: &Vec<(&String, f32)>| a.iter().map(|(n, y)| ((*n).clone(), json!(y))).collect::<Map<_, _>>();
        let listed = answers.iter().map(|a| json!(object(a))).collect();
        let line =
            |a: &Vec<(&String, f32)>| a.iter().map(|(n, y)| format!("{n:>12}  {y}")).collect::<Vec<_>>().join("");
        let lines = answers.iter().map(line).collect();
        return tell(listed, lines, given, &left, ui);
    }
    let mut answers: Vec<_> = outputs.chunks_exact(classes).map(named).collect();
    answers.iter_mut().for_each(|row| row.sort_by(|a, b| b.1.total_cmp(&a.1)));
    let line = |(c, p): &(&String, f32)| format!("{c:>12}  {}", ui::percent(f64::from(*p), None));
    if header.encoding.is_none() {
        let listed: Vec<_> = answers[0].iter().map(|(c, p)| json!({"class": c, "probability": p})).collect();
        ui.answer(&json!({"class": answers[0][0].0, "classes": listed}), || {
            answers[0].iter().take(3).map(line).collect::<Vec<_>>().join("\n")
        })?;
    } else {
        let listed = answers.iter().map(|a| json!({"class": a[0].0, "probability": a[0].1})).collect();
        return tell(listed, answers.iter().map(|a| line(&a[0])).collect(), given, &left, ui);
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints predictions in the order of the rows, with a place for each row that is left out, and the given answers beside them.
fn tell(
    listed: Vec<Value>,
    mut lines: Vec<String>,
    given: Option<Vec<String>>,
    left: &[LeftOut],
    ui: Ui,
) -> Result<ExitCode> {
    if let Some(given) = &given {
        lines.iter_mut().zip(given).for_each(|(line, answer)| *line += &format!("  (given: {answer})"));
    }
    fn whole<T>(kept: Vec<T>, left: &[LeftOut], out: impl Fn(&LeftOut) -> T) -> Vec<T> {
        let (mut kept, mut left) = (kept.into_iter(), left.iter().peekable());
        let mut all = Vec::with_capacity(kept.len() + left.len());
        while let Some(next) = left.next_if(|l| l.row == all.len()).map(&out).or_else(|| kept.next()) {
            all.push(next);
        }
        all
    }
    let mut document = json!({"rows": whole(listed, left, |_| Value::Null)});
    if !left.is_empty() {
        document["left_out"] = json!(left);
    }
    if let Some(given) = given {
        document["given"] = json!(whole(given.into_iter().map(Some).collect(), left, |_| None));
    }
    ui.answer(&document, || whole(lines, left, |l| format!("{:>12}  {l}", "left out")).join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::Topology;
    use nnz_engine::ModelSpec;
    use nnz_engine::file::{Packing, save_model};

    #[test]
    fn the_page_is_written_but_never_over_the_model() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.safetensors");
        let spec = ModelSpec::parse("mlp:16-6-3", [1, 4, 4], 3).unwrap();
        let topology = Topology::from_positions(6, 16, (0..96).filter(|p| p % 5 == 0));
        let model: Model<f32> = Model::born(&spec, Some(vec![topology]), Storage::Auto, false, 0).unwrap();
        let header = Header {
            model: spec,
            normalization: Normalization::NONE,
            classes: ["a", "b", "c"].map(String::from).to_vec(),
            data: "stripes".into(),
            method: "by hand".into(),
            prunable: false.into(),
            texts: false,
            task: Task::Classification,
            scales: Vec::new(),
            dtype: nnz_engine::Dtype::Native,
            encoding: None,
            policy: Default::default(),
        };
        save_model(&file, &model, &header, Packing::Csr).unwrap();
        let before = std::fs::read(&file).unwrap();
        let (model, header): (Model<f32>, Header) = load_model(&file, Storage::Auto).unwrap();
        let inspection = inspect_model(&model, &header, nnz_core::Registry(&[])).unwrap();

        let page = dir.path().join("page.html");
        write_page(&inspection, &page, &file).unwrap();
        let text = std::fs::read_to_string(&page).unwrap();
        assert!(text.starts_with("<!DOCTYPE html>") && text.contains("stripes") && text.contains("fc1.weight"));
        let layers = std::fs::read_to_string(dir.path().join("page.layers.csv")).unwrap();
        assert!(layers.lines().count() == 3 && layers.contains("fc1.weight,6,16,20,"), "{layers}");
        let inputs = std::fs::read_to_string(dir.path().join("page.inputs.csv")).unwrap();
        let sum: usize =
            inputs.lines().skip(1).map(|l| l.split(',').next_back().unwrap().parse::<usize>().unwrap()).sum();
        assert_eq!((inputs.lines().count(), sum), (17, 20));
        // A page may be overwritten; the model's own file, by whatever name, may not.
        write_page(&inspection, &page, &file).unwrap();
        let detour = dir.path().join("../").join(dir.path().file_name().unwrap()).join("model.safetensors");
        for name in [&file, &detour] {
            let error = write_page(&inspection, name, &file).unwrap_err().to_string();
            assert!(error.contains("would overwrite the model"), "{error}");
        }
        assert!(std::fs::read(&file).unwrap() == before);
        let nowhere = write_page(&inspection, &dir.path().join("no/such/page.html"), &file).unwrap_err().to_string();
        assert!(nowhere.contains("page.html"), "{nowhere}");
    }

    #[test]
    fn bytes_are_compared_honestly() {
        assert_eq!(against_dense(100, 940), "9.4x smaller than dense");
        assert_eq!(against_dense(1000, 1000), "as much as dense");
        assert_eq!(against_dense(1600, 1000), "1.6x larger than dense: too few zeros for packing to pay");
    }
}
