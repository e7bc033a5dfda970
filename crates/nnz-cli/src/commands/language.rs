//! Models of other programs: inspection, perplexity, pruning and conversion.

use super::given;
use super::network::ModelSource;
use crate::ui::{self, Ui};
use anyhow::{Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use indicatif::ProgressBar;
use nnz_core::Rng;
use nnz_engine::cost::Machine;
use nnz_engine::cost::timing::Compared;
use nnz_foreign::llm::{self, Generator, Language, Pruned, Pruning, Sampling, Weights, choices};
use nnz_foreign::onnx::Target;
use nnz_formats::{Archive, Dtype, Packing};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Format of written weights.
#[derive(ClapArgs, Debug)]
pub struct Writing {
    /// Layout of the matrices of a language model [default: the smallest of dense, csr and bitmask]
    #[arg(long, value_enum, value_name = "LAYOUT")]
    layout: Option<Layout>,
    /// Number type of a language model
    #[arg(long, value_enum, default_value_t = Numbers::F16, value_name = "TYPE")]
    numbers: Numbers,
    /// Tokens that --calibrate takes from the start of its text
    #[arg(long, default_value_t = 16384, value_name = "N")]
    pub calibration_tokens: usize,
    /// Tokens per block of the calibration text
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub calibration_length: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Layout {
    /// Every entry, zeros included: loads everywhere
    Dense,
    /// Compressed rows
    Csr,
    /// One bit per entry and the nonzeros; N:M patterns too
    Bitmask,
    /// The mask by an arithmetic coder, as small as its density allows
    Entropy,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Numbers {
    F32,
    F16,
    Bf16,
    /// Nonzeros of matrices in eight bits, with a scale for each row; the rest in 16
    Int8,
}

impl Writing {
    pub fn check(&self, dense: bool) -> Result<()> {
        if matches!(self.numbers, Numbers::Int8) && (dense || matches!(self.layout, Some(Layout::Dense))) {
            bail!(
                "--numbers int8 keeps a step for each row, which the dense layout has no place for; choose another layout"
            );
        }
        Ok(())
    }

    pub fn packing(&self) -> Option<Packing> {
        self.layout.map(|l| match l {
            Layout::Dense => Packing::Dense,
            Layout::Csr => Packing::Csr,
            Layout::Bitmask => Packing::Bitmask,
            Layout::Entropy => Packing::Entropy,
        })
    }

    pub fn dtype(&self) -> Dtype {
        match self.numbers {
            Numbers::F32 => Dtype::F32,
            Numbers::F16 => Dtype::F16,
            Numbers::Bf16 => Dtype::Bf16,
            Numbers::Int8 => Dtype::I8,
        }
    }
}

/// Arguments of `nnz perplexity`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:
  nnz perplexity model.gguf wikitext2_test.txt.gz
  nnz perplexity small wikitext2_test.txt.gz --against model.gguf    the difference, with its interval over blocks, and how
                                                                     often both have the same next token")]
pub struct PerplexityArgs {
    /// A language model: a GGUF file, or a folder of safetensors or PyTorch weights
    model: PathBuf,
    /// A text (UTF-8; .gz too)
    text: PathBuf,
    /// Tokens from the start of the text
    #[arg(long, default_value_t = 32768, value_name = "N")]
    tokens: usize,
    /// Tokens per block; blocks are independent
    #[arg(long, default_value_t = 512, value_name = "N")]
    length: usize,
    /// Another model to compare with, block by block
    #[arg(long, value_name = "MODEL")]
    against: Option<PathBuf>,
    /// Number of likeliest next tokens whose overlap with those of the other model is measured
    #[arg(long, default_value_t = 5, value_name = "K", requires = "against", value_parser = clap::value_parser!(u16).range(1..))]
    overlap: u16,
}

/// Arguments of `nnz generate`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:
  nnz generate model.gguf 'The capital of France is' --tokens 20
  nnz generate folder 'Once upon a time' --temperature 0.8 --top-k 40 --top-p 0.95 --seed 3")]
pub struct GenerateArgs {
    /// A language model: a GGUF file, or a folder of safetensors or PyTorch weights
    #[arg(value_parser = super::network::place)]
    model: PathBuf,
    /// The text to go on with
    prompt: String,
    #[command(flatten)]
    generation: Generation,
}

/// Arguments of `nnz convert`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:
  nnz convert model.gguf -o folder                      as Hugging Face lays it out
  nnz convert small -o everywhere --layout dense        zeros written too, for programs that know no packed weights
  nnz convert runs/ID/models/rigl.safetensors -o net.onnx
  nnz convert runs/ID/models/rigl.safetensors -o state.safetensors    its weights, for PyTorch
  nnz convert minilm -o minilm.onnx --sparse-initializer")]
pub struct ConvertArgs {
    /// A language model (a GGUF file, or a folder of safetensors or PyTorch weights), an encoder or an image network
    /// (ONNX, or a checkpoint), or a network that nnz trained
    #[arg(value_parser = super::network::place)]
    pub model: PathBuf,
    /// The folder to write, or a file that ends in .onnx
    #[arg(long, short, value_name = "FOLDER")]
    pub output: PathBuf,
    /// Layout of matrices [default: the smallest of dense, csr and bitmask]
    #[arg(long, value_enum, value_name = "LAYOUT")]
    layout: Option<Layout>,
    /// Number type; ONNX files have 32 bits
    #[arg(long, value_enum, default_value_t = Numbers::F16, value_name = "TYPE")]
    numbers: Numbers,
    /// Write matrices of an ONNX file with a density below a third as sparse initializers: ONNX Runtime reads them; shape
    /// inference, converters, quantizers and OpenVINO do not
    #[arg(long)]
    pub sparse_initializer: bool,
    /// Omit the preprocessing of a network that nnz trained from an ONNX file: means, deviations, categories, scales
    #[arg(long)]
    pub raw: bool,
}

impl ConvertArgs {
    /// Format of the written weights.
    pub fn writing(&self) -> Writing {
        Writing { layout: self.layout, numbers: self.numbers, calibration_tokens: 0, calibration_length: 0 }
    }
}

/// Text generation by a language model.
#[derive(ClapArgs, Debug)]
pub struct Generation {
    /// Most tokens that a language model generates
    #[arg(long, default_value_t = 64, value_name = "N")]
    tokens: usize,
    /// Softmax temperature of a language model; 0 takes the likeliest token
    #[arg(long, default_value_t = 0.0, value_name = "T")]
    temperature: f64,
    /// Sample among this many of the likeliest tokens; 0 for all
    #[arg(long, default_value_t = 0, value_name = "K")]
    top_k: usize,
    /// Sample among the likeliest tokens that together have this probability
    #[arg(long, alias = "top", default_value_t = 1.0, value_name = "P")]
    top_p: f64,
    /// Key of all random choices
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    seed: u64,
}

/// A progress bar over layers.
pub fn bar(ui: Ui, what: &'static str, layers: usize) -> ProgressBar {
    ProgressBar::with_draw_target(Some(layers as u64), ui.drawn()).with_message(what)
}

/// exp of the mean difference of losses, with its 95% interval over blocks.
fn ratio(a: &[f64], b: &[f64]) -> (f64, Option<(f64, f64)>) {
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    let s = nnz_lab::summarize(&differences);
    (s.mean.exp(), s.half_width.map(|h| ((s.mean - h).exp(), (s.mean + h).exp())))
}

/// Opens a model and reports what was left out of its file.
fn open(path: &Path, ui: Ui) -> Result<Language> {
    let model = Language::open(path)?;
    model.archive.notes.iter().for_each(|n| ui.note(n));
    Ok(model)
}

/// Checks that an output's name is that of a folder.
fn to_folder(output: &Path) -> Result<()> {
    match Target::of(output)? {
        Target::Folder => Ok(()),
        _ => bail!(
            "{}: language models are written to folders, weights with configuration and tokenizer; give the name of a folder",
            output.display()
        ),
    }
}

/// Measures perplexity.
pub fn perplexity(args: &PerplexityArgs, ui: Ui) -> Result<ExitCode> {
    let text = llm::text(&args.text)?;
    let most = if args.against.is_some() { usize::from(args.overlap) } else { 0 };
    let measure = |path: &Path| -> Result<(llm::Perplexity, Vec<Vec<u32>>, Vec<u32>)> {
        let model = open(path, ui)?;
        let tokens = model.tokens()?.encode(&text)?;
        let blocks = llm::blocks(&tokens, args.length, args.tokens / args.length.max(1), &args.text)?;
        if blocks.len() * args.length < args.tokens / args.length.max(1) * args.length {
            ui.note(format!("the text has {} tokens; {} blocks were taken", tokens.len(), blocks.len()));
        }
        let bar = bar(ui, "layers", model.config.layers);
        let most = most.min(model.config.vocabulary);
        let (found, likeliest) = llm::predictions(&model, &blocks, most, |l| bar.set_position(l as u64))?;
        bar.finish_and_clear();
        Ok((found, likeliest, blocks.concat()))
    };
    let (found, likeliest, read) = measure(&args.model)?;
    let other = args.against.as_deref().map(measure).transpose()?;
    // The same tokens after the same tokens, or there is nothing to compare.
    let alike = other.as_ref().filter(|(_, other, tokens)| *tokens == read && other[0].len() == likeliest[0].len());
    if other.is_some() && alike.is_none() {
        ui.note("the models split the text into different tokens; their next tokens are not compared");
    }
    let agreement = alike.map(|(_, other, _)| {
        let most = likeliest[0].len() / (found.length - 1);
        let blocks = llm::agreement(&likeliest, other, most);
        let of = |i: usize| nnz_lab::summarize(&blocks.iter().map(|b| b[i]).collect::<Vec<_>>());
        (of(0), of(1), most)
    });
    let other = other.map(|(found, ..)| found);
    let compared = other.as_ref().map(|o| ratio(&found.blocks, &o.blocks));
    let loss = nnz_lab::summarize(&found.blocks);
    let interval = loss.half_width.map(|h| ((loss.mean - h).exp(), (loss.mean + h).exp()));
    let document = json!({
        "perplexity": found.perplexity, "interval": interval, "tokens": found.blocks.len() * found.length,
        "length": found.length, "losses": found.blocks,
        "against": other.as_ref().map(|o| o.perplexity),
        "ratio": compared.map(|c| c.0), "ratio_interval": compared.and_then(|c| c.1),
        "same_next_token": agreement.as_ref().map(|(same, ..)| share(same)),
        "overlap": agreement.as_ref().map(|(_, overlap, _)| share(overlap)),
        "overlap_of": agreement.as_ref().map(|a| a.2),
    });
    let spread = |i: Option<(f64, f64)>, digits: usize| {
        i.map_or_else(String::new, |(a, b)| format!(" (95% interval {a:.digits$} to {b:.digits$} over blocks)"))
    };
    ui.answer(&document, || {
        let of = format!("{} blocks of {} tokens of {}", found.blocks.len(), found.length, args.text.display());
        let mut answer = format!("perplexity {:.3} on {of}{}", found.perplexity, spread(interval, 2));
        if let (Some(o), Some((r, i))) = (&other, compared) {
            answer += &format!("\n{:.3} for the other model; ratio {r:.4}{}", o.perplexity, spread(i, 4));
        }
        if let Some((same, overlap, most)) = &agreement {
            let of = |s: &nnz_lab::Summary| ui::percent(s.mean, s.half_width);
            answer += &format!(
                "\nthe same next token at {} of the positions; {} of the {most} likeliest are common",
                of(same),
                of(overlap)
            );
        }
        answer
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A mean and its 95% interval, as a document.
fn share(s: &nnz_lab::Summary) -> serde_json::Value {
    json!({"mean": s.mean, "interval": s.half_width.map(|h| (s.mean - h, s.mean + h))})
}

/// 95% interval of a share of `n` by the successes (Wilson 1927).
fn wilson(successes: usize, n: usize) -> (f64, f64) {
    let (z2, n) = (1.959_964f64.powi(2), n as f64);
    let p = successes as f64 / n;
    let (middle, half) = (p + z2 / (2.0 * n), (z2 * (p * (1.0 - p) / n + z2 / (4.0 * n * n))).sqrt());
    ((middle - half) / (1.0 + z2 / n), (middle + half) / (1.0 + z2 / n))
}

/// How often a language model finds the right one of several texts the likeliest.
pub fn choose(path: &Path, file: &Path, against: Option<&Path>, ui: Ui) -> Result<ExitCode> {
    let questions = choices::questions(file)?;
    let measure = |path: &Path| -> Result<Vec<choices::Answer>> {
        let model = open(path, ui)?;
        let bar = bar(ui, "questions", questions.len());
        let found = choices::answers(&model, &model.tokens()?, &questions, file, |n| bar.set_position(n as u64))?;
        bar.finish_and_clear();
        Ok(found)
    };
    let found = measure(path)?;
    let other = against.map(measure).transpose()?;
    let n = questions.len();
    let chance = questions.iter().map(|q| 1.0 / q.candidates.len() as f64).sum::<f64>() / n as f64;
    let hits = |answers: &[choices::Answer], i: usize| answers.iter().filter(|a| a.hits()[i]).count();
    let accuracy = |answers: &[choices::Answer]| {
        let of = |i: usize| {
            let right = hits(answers, i);
            json!({"right": right, "accuracy": right as f64 / n as f64, "interval": wilson(right, n)})
        };
        json!({"by_sum": of(0), "by_length": of(1)})
    };
    // Question by question, so that the interval is of the difference.
    let paired = |other: &[choices::Answer], i: usize| {
        let number = |hit: bool| f64::from(u8::from(hit));
        let pairs = found.iter().zip(other);
        let differences: Vec<f64> = pairs.clone().map(|(a, b)| number(a.hits()[i]) - number(b.hits()[i])).collect();
        let same = pairs.filter(|(a, b)| a.chosen()[i] == b.chosen()[i]).count();
        (nnz_lab::summarize(&differences), same as f64 / n as f64)
    };
    let compared = other.as_ref().map(|other| [0, 1].map(|i| paired(other, i)));
    let mut document = accuracy(&found);
    document["accuracy"] = document["by_sum"]["accuracy"].clone();
    document["questions"] = json!(n);
    document["chance"] = json!(chance);
    document["answers"] = json!(found);
    if let (Some(other), Some(compared)) = (&other, &compared) {
        document["against"] = accuracy(other);
        for (key, (difference, same)) in ["by_sum", "by_length"].iter().zip(compared) {
            document["against"][key]["difference"] = share(difference);
            document["against"][key]["same_choice"] = json!(same);
        }
    }
    ui.answer(&document, || {
        let mut rows = Vec::new();
        for (i, how) in ["sum of ln p", "by length"].iter().enumerate() {
            let share = |answers: &[choices::Answer]| {
                let (low, high) = wilson(hits(answers, i), n);
                let percent = |v: f64| ui::percent(v, None);
                format!("{} ({} to {})", percent(hits(answers, i) as f64 / n as f64), percent(low), percent(high))
            };
            let mut row = vec![(*how).to_string(), share(&found)];
            if let (Some(other), Some(compared)) = (&other, &compared) {
                let (difference, same) = &compared[i];
                let half = difference.half_width.map_or_else(String::new, |h| format!(" ± {:.2}", 100.0 * h));
                row.extend([
                    share(other),
                    format!("{:+.2}{half} points", 100.0 * difference.mean),
                    ui::percent(*same, None),
                ]);
            }
            rows.push(row);
        }
        let head: &[&str] = match other {
            None => &["likeliest by", "right"],
            Some(_) => &["likeliest by", "right", "of the other", "difference", "same choice"],
        };
        format!(
            "{} questions of {}; chance is {}\n\n{}\n\nIntervals hold with 95%.",
            ui::count(n),
            file.display(),
            ui::percent(chance, None),
            ui::table(head, rows)
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Number of weights of a model, zero or not, and the bytes of its tensors.
fn sizes(model: &Language) -> (usize, usize) {
    let all = model.tensors().iter().map(|(_, s)| s.iter().product::<usize>()).sum();
    (all, model.archive.tensors().filter_map(|(n, _)| model.archive.bytes(n)).sum())
}

/// Describes a written model with `all` numbers that took `before` bytes, in words and as a document.
pub fn written(pruned: &Pruned, all: usize, before: usize, output: &Path, dtype: Dtype, ui: Ui) -> Result<ExitCode> {
    let sum = |f: &dyn Fn(&llm::Part) -> f64| pruned.parts.iter().map(f).sum::<f64>();
    let (bits, least) = (sum(&|p| p.written.mask_bits), sum(&|p| p.written.entropy_bits));
    let entries = sum(&|p| p.entries as f64);
    let dense = all * if dtype == Dtype::F32 { 4 } else { 2 };
    let (density, bytes) = (pruned.density(), pruned.bytes as usize);
    pruned.notes.iter().for_each(|n| ui.note(n));
    let document = json!({
        "density": density, "bytes": bytes, "bytes_before": before, "bytes_dense": dense, "output": output,
        "mask_bits_per_entry": bits / entries, "entropy_bits_per_entry": least / entries,
        "layers": pruned.parts.iter().map(|p| json!({"name": p.name, "entries": p.entries, "nonzeros": p.written.nonzeros,
            "bytes": p.written.bytes})).collect::<Vec<_>>(),
        "tried": pruned.tried.iter().map(|(d, p)| json!({"density": d, "perplexity": p})).collect::<Vec<_>>(),
    });
    ui.answer(&document, || {
        let mut text = match &pruned.tried[..] {
            [] => String::new(),
            [(_, whole), ..] => {
                let row = |&(d, p): &(f64, f64)| {
                    vec![ui::density(d), ui::percent(1.0 - d, None), format!("{p:.3}"), format!("{:+.2}%", (p / whole - 1.0) * 100.0)]
                };
                let head = ["density", "removed", "perplexity", "of the whole"];
                format!("{}\n\n", ui::table(&head, pruned.tried.iter().map(row).collect()))
            }
        };
        text += &format!(
            "{} of {} prunable weights stay, density {}\n{} in {}; {} with every entry in as many bits ({}), {} as it came",
            ui::count(sum(&|p| p.written.nonzeros as f64) as usize),
            ui::count(entries as usize),
            ui::density(density),
            ui::bytes(bytes),
            output.display(),
            ui::bytes(dense),
            match dense as f64 / bytes as f64 {
                r if r >= 1.005 => format!("{r:.2}x smaller"),
                r if r < 0.995 => format!("{:.2}x larger", 1.0 / r),
                _ => "the same".into(),
            },
            ui::bytes(before),
        );
        if bits > 0.0 {
            text += &format!(
                "\nthe masks take {:.4} bits an entry; their densities alone ask for {:.4}",
                bits / entries,
                least / entries
            );
        }
        if bytes as f64 > 1.01 * before as f64 {
            text += "\nlarger than what it came from";
        }
        if output.extension().is_some_and(|e| e == "onnx") && density < 0.9 && bytes as f64 > 0.9 * dense as f64 {
            text += "\nONNX files have their zeros, too; give -o the name of a folder to have them packed";
        }
        text
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Converts a model.
pub fn convert(args: &ConvertArgs, ui: Ui) -> Result<ExitCode> {
    if super::network::kind(&args.model) != ModelSource::Language {
        return super::network::convert(args, ui);
    }
    to_folder(&args.output)?;
    given::refuse(&["raw", "sparse-initializer"], "is for ONNX, and language models are written to folders")?;
    let model = open(&args.model, ui)?;
    let writing = args.writing();
    writing.check(false)?;
    let bar = bar(ui, "blocks", model.config.layers);
    let pruned = llm::copy(&model, &args.output, writing.packing(), writing.dtype(), |t| bar.set_position(t as u64))?;
    bar.finish_and_clear();
    let (all, before) = sizes(&model);
    written(&pruned, all, before, &args.output, writing.dtype(), ui)
}

/// Prunes a language model.
pub fn prune(args: &super::prune::Args, ui: Ui) -> Result<ExitCode> {
    if args.data.is_some() {
        bail!("--data is for networks that nnz trained; give a language model a text with --calibrate");
    }
    given::no_training()?;
    given::refuse(&["prune-head"], "is for networks whose head is a layer; the head of a language model stays dense")?;
    if args.calibrate.is_empty() {
        given::refuse(
            &["calibration-tokens", "calibration-length"],
            "says how --calibrate is read; give a text with it",
        )?;
    }
    to_folder(&args.output)?;
    args.writing.check(args.dense_layout)?;
    let method = args.method.method(ui.registry)?;
    let options = args.untrained_options(ui.registry)?;
    let model = open(&args.model, ui)?;
    let text = match &args.calibrate[..] {
        [] => None,
        [path] => Some((path, model.tokens()?.encode(&llm::text(path)?)?)),
        _ => bail!("a language model reads one text; join those of --calibrate into one file"),
    };
    let Writing { calibration_tokens, calibration_length, .. } = args.writing;
    let count = calibration_tokens / calibration_length.max(1);
    let blocks = match &text {
        Some((path, tokens)) => llm::blocks(tokens, calibration_length, count.max(1), path)?,
        None => Vec::new(),
    };
    let packing = if args.dense_layout { Some(Packing::Dense) } else { args.writing.packing() };
    let pruning =
        Pruning { method, options: &options, seed: args.seed, packing, dtype: args.writing.dtype(), heads: false };
    let bar = bar(ui, "blocks", model.config.layers);
    let pruned = llm::prune(&model, &pruning, &blocks, &args.output, |l| bar.set_position(l as u64))?;
    bar.finish_and_clear();
    if pruned.singular > 0 && method.defaults().contains_key("damp") {
        ui.note(format!(
            "{} matrices read so little of the text that second moments of their inputs are singular; they were damped. A \
             longer text (--calibration-tokens) would say more",
            pruned.singular
        ));
    }
    let (all, before) = sizes(&model);
    written(&pruned, all, before, &args.output, args.writing.dtype(), ui)
}

/// Lists the contents of a file or folder of weights.
pub fn inspect(path: &Path, html: Option<&Path>, ui: Ui) -> Result<ExitCode> {
    if html.is_some() {
        bail!("--html is for networks that nnz trained; weights of other programs are listed as a table");
    }
    let archive = Archive::open(path)?;
    let mut rows = Vec::new();
    let mut tensors = Vec::new();
    let (mut all, mut zeros) = (0, 0);
    archive.notes.iter().for_each(|n| ui.note(n));
    for (name, entry) in archive.tensors() {
        // A type that cannot be decoded is still listed.
        if !entry.format.readable() {
            let (n, bytes) = (entry.len(), archive.bytes(name).unwrap_or(0));
            all += n;
            let shape = entry.shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
            tensors.push(json!({"name": name, "shape": entry.shape, "numbers": entry.format.name(),
                "layout": entry.packing.name(), "bytes": bytes}));
            let dash = String::from("-");
            let kind = [entry.format.name().into(), entry.packing.name().into(), dash];
            rows.push(
                [vec![name.to_owned(), shape], kind.to_vec(), vec![ui::bytes(bytes), "not read".into()]].concat(),
            );
            continue;
        }
        let values = archive.read(name)?;
        let nonzeros = values.iter().filter(|v| **v != 0.0).count();
        let (n, bytes) = (values.len(), archive.bytes(name).unwrap_or(0));
        (all, zeros) = (all + n, zeros + n - nonzeros);
        let shape = entry.shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        let size = (values.iter().fold(0.0, |s, v| s + f64::from(*v).powi(2)) / n.max(1) as f64).sqrt();
        let odd = values.iter().filter(|v| !v.is_finite()).count();
        let density = nonzeros as f64 / n.max(1) as f64;
        tensors.push(
            json!({"name": name, "shape": entry.shape, "numbers": entry.format.name(), "layout": entry.packing.name(),
            "density": density, "bytes": bytes, "root_mean_square": size, "not_finite": odd}),
        );
        rows.push(vec![
            name.to_owned(),
            shape,
            entry.format.name().into(),
            entry.packing.name().into(),
            ui::density(density),
            ui::bytes(bytes),
            if odd == 0 { format!("{size:.4}") } else { format!("{odd} not finite") },
        ]);
    }
    let bytes: usize = archive.tensors().filter_map(|(n, _)| archive.bytes(n)).sum();
    let document = json!({"kind": archive.kind, "numbers": all, "zeros": zeros, "bytes": bytes, "tensors": tensors});
    ui.answer(&document, || {
        let head = ["", "shape", "numbers", "layout", "density", "bytes", "root mean square"];
        format!(
            "{}: {} numbers in {} tensors, {} of them zero, {}\n\n{}",
            archive.kind,
            ui::count(all),
            rows.len(),
            ui::count(zeros),
            ui::bytes(bytes),
            ui::table(&head, rows)
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Continues a text, as a command of its own.
pub fn generate_with(args: &GenerateArgs, ui: Ui) -> Result<ExitCode> {
    match super::network::kind(&args.model) {
        ModelSource::Language => generate(&args.model, &args.prompt, &args.generation, ui),
        _ => bail!("{} is no language model, and generates no text; `nnz predict` applies it", args.model.display()),
    }
}

/// Continues a text.
pub fn generate(path: &Path, prompt: &str, how: &Generation, ui: Ui) -> Result<ExitCode> {
    if !(how.temperature >= 0.0 && how.temperature.is_finite() && how.top_p > 0.0 && how.top_p <= 1.0) {
        bail!("--temperature is zero or more, --top-p above 0 and at most 1");
    }
    if how.temperature == 0.0 {
        given::refuse(&["top-k", "top-p", "seed"], "is for sampling; give a --temperature above zero with it")?;
    }
    let model = open(path, ui)?;
    let tokens = model.tokens()?;
    // The same kernels for any number of threads, so that answers are the same.
    let (machine, _) = Machine::chooser()?;
    let mut generator = Generator::new(&model, &Weights::Fastest(&machine))?;
    let mut next = tokens.prompt(prompt)?;
    let given = next.len();
    let sampling = Sampling { temperature: how.temperature, most: how.top_k, top: how.top_p };
    let (mut added, mut rng, start) = (Vec::new(), Rng::stream(how.seed, "sample", 0, 0), Instant::now());
    while added.len() < how.tokens {
        let logits = generator.next(&next)?;
        let token = Generator::sample(&logits, sampling, &mut rng);
        if tokens.ends.contains(&token) {
            break;
        }
        added.push(token);
        next = vec![token];
    }
    let seconds = start.elapsed().as_secs_f64();
    let text = tokens.decode(&added)?;
    let document = json!({"prompt": prompt, "text": text, "tokens": added, "prompt_tokens": given, "seconds": seconds});
    ui.answer(&document, || format!("{prompt}{text}"))?;
    Ok(ExitCode::SUCCESS)
}

/// Times single tokens, with the model as stored and with every weight dense.
pub fn bench(path: &Path, why: bool, ui: Ui) -> Result<ExitCode> {
    const TOKENS: usize = 8;
    let model = open(path, ui)?;
    let machine = super::bench::machine(ui)?;
    let mut sparse = Generator::new(&model, &Weights::Fastest(&machine))?;
    let mut dense = Generator::new(&model, &Weights::Dense)?;
    let time = |g: &mut Generator| -> Result<f64> {
        g.clear();
        g.next(&[0])?;
        let mut best = f64::INFINITY;
        for i in 0..TOKENS {
            let start = Instant::now();
            g.next(&[i as u32 % model.config.vocabulary as u32])?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        Ok(best)
    };
    let compared = Compared::by_turns(|whole| time(if whole { &mut dense } else { &mut sparse }))?;
    let (ms, dense_ms) = (1e3 * compared.first, 1e3 * compared.second);
    let sum = |f: &dyn Fn(&llm::Linear) -> usize| {
        sparse.blocks().iter().flat_map(llm::Block::matrices).map(|(_, w)| f(w)).sum::<usize>()
    };
    let (entries, nonzeros) = (sum(&|w| w.rows * w.cols), sum(&|w| w.nonzeros));
    let (matrices, packed) = (sum(&|_| 1), sum(&|w| usize::from(w.sparse())));
    let bytes = sum(&llm::Linear::bytes);
    let density = nonzeros as f64 / entries.max(1) as f64;
    let (speedup, range) = super::bench::gain(&compared, packed == 0);
    let document = json!({"ms": ms, "dense_ms": dense_ms, "speedup": speedup, "speedup_range": range, "density": density,
        "sparse_matrices": packed, "matrices": matrices, "matrix_bytes": bytes, "dense_bytes": 4 * entries});
    ui.answer(&document, || {
        let compared = super::bench::compared(&compared, packed == 0);
        let mut text = format!(
            "a token in {ms:.2} ms, {compared} with every weight stored ({dense_ms:.2} ms); density {}, {packed} of {matrices} \
             matrices multiplied sparse, {} instead of {}",
            ui::density(density),
            ui::bytes(bytes),
            ui::bytes(4 * entries)
        );
        if packed == 0 {
            text += "\nno matrix has so few nonzeros that a sparse product would be faster here";
        }
        if why {
            let c = &model.config;
            let rows = sparse.blocks()[0].matrices().map(|(part, w)| {
                let at = machine.crossover(nnz_engine::cost::Use::Inference, w.rows, w.cols, 1);
                let density = w.nonzeros as f64 / (w.rows * w.cols) as f64;
                vec![part.into(), format!("{}x{}", w.rows, w.cols), ui::density(density), w.kernel().into(), format!("{at:.2}")]
            });
            let head = ["the first block", "shape", "density", "kernel", "dense wins from"];
            let share = (c.vocabulary * c.width) as f64 / (c.vocabulary * c.width + entries) as f64;
            text += &format!(
                "\n\n{}\n\nThe head multiplies {} of all weights and is never sparse.",
                ui::table(&head, rows.collect()),
                ui::percent(share, None)
            );
        }
        text
    })?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_of_a_share_by_hand() {
        // 8 of 10: (0.8 + 0.19207) / 1.38415 ± 1.96 sqrt(0.016 + 0.0096036) / 1.38415.
        let (low, high) = wilson(8, 10);
        assert!((low - 0.4902).abs() < 1e-3 && (high - 0.9433).abs() < 1e-3, "{low} {high}");
        assert!(wilson(0, 5).0.abs() < 1e-12 && (wilson(5, 5).1 - 1.0).abs() < 1e-12);
    }

    #[test]
    fn ratios_are_of_perplexities_and_paired() {
        let (r, interval) = ratio(&[1.0, 3.0, 2.0], &[0.5, 2.5, 1.5]);
        assert!((r - 0.5f64.exp()).abs() < 1e-12);
        let (low, high) = interval.unwrap();
        assert!((low - r).abs() < 1e-9 && (high - r).abs() < 1e-9, "equal differences leave no doubt");
        assert!(ratio(&[1.0], &[1.0]).1.is_none());
    }
}
