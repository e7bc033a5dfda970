//! Encoders of texts and image networks, as ONNX or checkpoints.

use super::given;
use super::language::{bar, written};
use crate::ui::{self, Ui};
use anyhow::{Result, bail};
use nnz_core::Prunable;
use nnz_data::picture;
use nnz_engine::cost::Machine;
use nnz_engine::cost::timing::{Compared, seconds};
use nnz_engine::file::{Header, load_model};
use nnz_engine::ops::softmax_rows;
use nnz_engine::{Model, Storage, StoragePolicy, Tensor};
use nnz_foreign::llm::{self, Pruned, Pruning};
use nnz_foreign::onnx::{self, Exported, Network, Reads, TOKENS, Target};
use nnz_formats::{Dtype, Packing};
use nnz_onnx::Value;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Most images of a folder used for calibration.
const PICTURES: usize = 64;

/// Resolves a model's path, or the name of one that `nnz data get` fetched. A file or folder of that name wins.
///
/// # Errors
/// When a model is known, but not installed.
pub fn place(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.exists() || !nnz_data::models().iter().any(|m| m.name == text) {
        return Ok(path);
    }
    let store = nnz_data::Store::open().map_err(|e| e.to_string())?;
    store.model(text).ok_or_else(|| format!("{text} is not here yet; `nnz data get {text}` fetches it"))
}

/// Kind of a model, by what runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// The engine: nnz trained it.
    Own,
    /// A language model, or weights of an unknown network.
    Language,
    /// A graph: an ONNX file, or a checkpoint of an encoder or image network.
    Graph,
}

/// Determines the kind of the model at a path.
pub fn kind(path: &Path) -> ModelSource {
    let onnx = path.extension().is_some_and(|e| e == "onnx");
    match onnx || llm::foreign(path) {
        false => ModelSource::Own,
        true if onnx::known(path) => ModelSource::Graph,
        true => ModelSource::Language,
    }
}

fn open(path: &Path, ui: Ui) -> Result<Network> {
    let network = Network::open(path)?;
    network.notes.iter().for_each(|n| ui.note(n));
    Ok(network)
}

/// Opens a network that can be run, and prints its notes.
pub fn open_to_run(path: &Path, ui: Ui) -> Result<Network> {
    let network = Network::open(path)?;
    network.runs()?;
    network.notes.iter().for_each(|n| ui.note(n));
    Ok(network)
}

/// Number of weights of a network and their bytes.
pub fn sizes(network: &Network) -> (usize, usize) {
    let floats = network.graph.constants.values().filter(|c| c.is_float());
    let held = floats.map(nnz_onnx::Constant::bytes).sum();
    let before = network.archive.as_ref().map_or(held, |a| a.tensors().filter_map(|(n, _)| a.bytes(n)).sum());
    (network.graph.len(), before)
}

/// Converts a network.
pub fn convert(args: &super::language::ConvertArgs, ui: Ui) -> Result<ExitCode> {
    let onnx = Target::of(&args.output)? == Target::Onnx;
    given::no_layout(onnx)?;
    if args.sparse_initializer && !onnx {
        bail!("--sparse-initializer is for ONNX; give -o a name that ends in .onnx");
    }
    let network = match kind(&args.model) {
        ModelSource::Graph => open(&args.model, ui)?,
        _ => {
            let (model, header): (Model<f32>, Header) = load_model(&args.model, Storage::Masked)?;
            if !onnx {
                return state_dict(args, &model, &header, ui);
            }
            onnx::own(&model, &header, &args.model, args.raw)?
        }
    };
    if args.raw && kind(&args.model) != ModelSource::Own {
        bail!(
            "--raw leaves out what makes rows ready for a network that nnz trained; {} is none",
            args.model.display()
        );
    }
    let writing = args.writing();
    writing.check(false)?;
    let dtype = if onnx || network.archive.is_none() { Dtype::F32 } else { writing.dtype() };
    let said = serde_json::Value::Null;
    let Exported { written: found, bytes, notes } =
        onnx::export(&network, &args.output, writing.packing(), dtype, args.sparse_initializer, &said)?;
    let part = |m: nnz_onnx::Matrix| Some(llm::Part { written: *found.get(&m.name)?, entries: m.len(), name: m.name });
    let parts = network.matrices().into_iter().filter(|m| !m.head).filter_map(part).collect();
    let pruned = Pruned { parts, bytes, tried: Vec::new(), singular: 0, notes };
    let (all, before) = sizes(&network);
    written(&pruned, all, before, &args.output, dtype, ui)
}

/// Writes the weights of a network that nnz trained.
fn state_dict(args: &super::language::ConvertArgs, model: &Model<f32>, header: &Header, ui: Ui) -> Result<ExitCode> {
    given::refuse(
        &["layout", "numbers"],
        "is for models of other programs; weights of nnz are written dense, in 32 bits",
    )?;
    given::refuse(&["raw"], "is for ONNX, which holds what makes rows ready for the network")?;
    let (parts, bytes) = onnx::state_dict(model, header, &args.model, &args.output)?;
    let all = model.params.iter().map(|p| p.value.data().len()).sum();
    let before = std::fs::metadata(&args.model)?.len() as usize;
    let pruned = Pruned { parts, bytes, tried: Vec::new(), singular: 0, notes: Vec::new() };
    written(&pruned, all, before, &args.output, Dtype::F32, ui)
}

/// Inputs by name.
type Sample = Vec<(String, Value)>;

fn named(inputs: Vec<(&str, Value)>) -> Sample {
    inputs.into_iter().map(|(n, v)| (n.to_owned(), v)).collect()
}

/// Calibration inputs for a network: lines of texts, or images; both for a network of two towers.
fn samples(network: &Network, places: &[PathBuf], tokens: usize, length: usize) -> Result<Vec<Sample>> {
    let (texts, pictures): (Vec<&PathBuf>, Vec<&PathBuf>) = match &network.reads {
        Reads::Tokens { .. } => (places.iter().collect(), Vec::new()),
        Reads::Pictures(_) => (Vec::new(), places.iter().collect()),
        Reads::Both { .. } => places.iter().partition(|p| !p.is_dir() && !is_picture(p)),
        Reads::Anything => bail!(
            "{} does not say how its inputs are made, so it is pruned without --calibrate, by magnitude",
            network.path.display()
        ),
    };
    let mut all = Vec::new();
    if !texts.is_empty() {
        all.extend(lines(network, &texts, tokens, length)?);
    }
    if !pictures.is_empty() {
        let files = gather(&pictures)?;
        // Evenly from all, so that every class of a sorted folder occurs.
        let n = files.len().min(PICTURES);
        for file in (0..n).map(|i| &files[i * files.len() / n]) {
            all.push(named(network.of_pictures(&[picture(file)?])?));
        }
    }
    Ok(all)
}

/// Lines of texts, in pieces hardly longer than the part that is read.
fn lines(network: &Network, places: &[&PathBuf], tokens: usize, length: usize) -> Result<Vec<Sample>> {
    let tokenizer = network.tokens()?;
    let most = length.min(network.context());
    let (mut all, mut count) = (Vec::new(), 0);
    for place in places {
        let (text, before) = (llm::text(place)?, all.len());
        let pieces = text.lines().flat_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.chunks((most * 3 / 4).max(1)).map(|piece| piece.join(" ")).collect::<Vec<_>>()
        });
        for piece in pieces {
            if count >= tokens {
                break;
            }
            let ids = tokenizer.framed(&piece, most)?;
            count += ids.len();
            all.push(named(network.of_tokens(&[ids])));
        }
        if count < tokens && all.len() == before {
            bail!("{}: no line of text in it", place.display());
        }
    }
    Ok(all)
}

fn is_picture(path: &Path) -> bool {
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    ending.is_some_and(|e| ["png", "jpg", "jpeg"].contains(&e.as_str()))
}

/// Collects images: those that are named, and those in folders and below, sorted.
fn gather(places: &[&PathBuf]) -> Result<Vec<PathBuf>> {
    fn below(folder: &Path, files: &mut Vec<PathBuf>, depth: usize) -> Result<()> {
        let inside =
            std::fs::read_dir(folder).map_err(|e| anyhow::anyhow!("{}: cannot read: {e}", folder.display()))?;
        for entry in inside.filter_map(Result::ok).map(|e| e.path()) {
            if entry.is_dir() && depth < 4 {
                below(&entry, files, depth + 1)?;
            } else if is_picture(&entry) {
                files.push(entry);
            }
        }
        Ok(())
    }
    let mut all = Vec::new();
    for place in places {
        let mut files = Vec::new();
        match place.is_dir() {
            true => below(place, &mut files, 0)?,
            false => files.push((*place).clone()),
        }
        if files.is_empty() {
            bail!("{}: no picture (PNG, JPEG) in it", place.display());
        }
        files.sort();
        all.extend(files);
    }
    Ok(all)
}

/// A network as one that is measured on a data set.
pub fn with_data(
    path: &Path,
    place: &str,
    inputs: &super::Inputs,
    ui: Ui,
) -> Result<(Model<f32>, Header, nnz_engine::data::Dataset)> {
    let network = open_to_run(path, ui)?;
    let loaded = nnz_data::Store::open()?.load(place)?;
    loaded.notes.iter().for_each(|note| ui.note(note));
    let data = loaded.dataset;
    let (policy, all) = (StoragePolicy::default(), Prunable::from(false));
    let (model, header) = onnx::learner(&network, &data, inputs.normalize.as_ref(), &policy, &all)?;
    Ok((model, header, data))
}

/// Prunes a network.
pub fn prune(args: &super::prune::Args, ui: Ui) -> Result<ExitCode> {
    given::refuse(&["normalize"], "says how values of --data become inputs; give --data")?;
    given::no_training()?;
    if args.calibrate.is_empty() {
        given::refuse(
            &["calibration-tokens", "calibration-length"],
            "says how --calibrate is read; give what it names",
        )?;
    }
    let onnx = Target::of(&args.output)? == Target::Onnx;
    given::no_layout(onnx)?;
    args.writing.check(args.dense_layout)?;
    let method = args.method.method(ui.registry)?;
    let options = args.untrained_options(ui.registry)?;
    let mut network = Network::open(&args.model)?;
    let length = args.writing.calibration_length.max(8);
    let given = match args.calibrate.is_empty() {
        true => Vec::new(),
        false => samples(&network, &args.calibrate, args.writing.calibration_tokens, length)?,
    };
    let given = given.iter().map(|s| s.iter().map(|(n, v)| (n.as_str(), v.clone())).collect()).collect();
    let packing = if args.dense_layout { Some(Packing::Dense) } else { args.writing.packing() };
    let onnx = onnx || network.archive.is_none();
    given::no_layout(onnx)?;
    let dtype = if onnx { Dtype::F32 } else { args.writing.dtype() };
    let pruning = Pruning { method, options: &options, seed: args.seed, packing, dtype, heads: args.prune_head() };
    let (all, before) = sizes(&network);
    let bar = bar(ui, "matrices", network.matrices().len());
    let pruned =
        onnx::prune(&mut network, &pruning, given, &args.output, false, |done, _| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    network.notes.iter().for_each(|n| ui.note(n));
    if pruned.singular > 0 && method.defaults().contains_key("damp") {
        ui.note(format!(
            "{} matrices read so little that second moments of their inputs are singular; they were damped. More text or \
             pictures would say more",
            pruned.singular
        ));
    }
    written(&pruned, all, before, &args.output, dtype, ui)
}

/// Times a network, as stored and with every weight dense.
pub fn bench(path: &Path, batch: usize, shapes: &[String], why: bool, ui: Ui) -> Result<ExitCode> {
    let mut network = open_to_run(path, ui)?;
    super::arrays::fix(&mut network, shapes)?;
    // A network that cannot be run is refused before the machine is measured.
    let (dense, inputs) = (network.session(None)?, network.typical(batch)?);
    let machine = super::bench::machine(ui)?;
    let sparse = network.session(Some(&machine))?;
    let (_, layers) = sparse.explain(inputs.clone())?;
    let compared = Compared::by_turns(|whole| {
        let session = if whole { &dense } else { &sparse };
        Ok::<_, anyhow::Error>(seconds(|| assert!(session.run(inputs.clone()).is_ok(), "it answered a moment ago")))
    })?;
    let (ms, dense_ms) = (1e3 * compared.first, 1e3 * compared.second);
    let entries: usize = layers.iter().map(|l| l.rows * l.cols).sum();
    // The sum of none is -0.
    let nonzeros: f64 = layers.iter().map(|l| l.density * (l.rows * l.cols) as f64).sum::<f64>() + 0.0;
    let density = nonzeros / entries.max(1) as f64;
    let packed = layers.iter().filter(|l| l.kernel != "dense").count();
    let shapes: Vec<_> = inputs.iter().map(|(n, v)| json!({"name": n, "shape": v.shape()})).collect();
    let row = |l: &nnz_onnx::Layer| {
        json!({"name": l.name, "rows": l.rows, "cols": l.cols, "density": l.density, "batch": l.batch, "kernel": l.kernel,
               "crossover": machine.crossover(nnz_engine::cost::Use::Inference, l.rows, l.cols, l.batch)})
    };
    let listed: Vec<_> = layers.iter().map(row).collect();
    let (speedup, range) = super::bench::gain(&compared, packed == 0);
    let document = json!({"ms": ms, "dense_ms": dense_ms, "speedup": speedup, "speedup_range": range, "density": density, "batch": batch,
        "inputs": shapes, "sparse_matrices": packed, "matrices": layers.len(), "layers": listed});
    ui.answer(&document, || {
        let compared = super::bench::compared(&compared, packed == 0);
        let text = format!("of {} tokens", TOKENS.min(network.context()));
        let what = match (&network.reads, batch) {
            (Reads::Tokens { .. }, 1) => format!("a text {text}"),
            (Reads::Tokens { .. }, n) => format!("{n} texts {text}"),
            (Reads::Both { .. }, 1) => format!("a text {text} and a picture"),
            (Reads::Both { .. }, n) => format!("{n} texts {text} and as many pictures"),
            (_, 1) => "a sample".into(),
            (_, n) => format!("{n} samples"),
        };
        let mut text = format!(
            "{what} in {ms:.2} ms, {compared} with every weight stored ({dense_ms:.2} ms); density {}, {packed} of {} matrices \
             multiplied sparse",
            ui::density(density),
            layers.len()
        );
        if packed == 0 {
            text += "\nno matrix has so few nonzeros that a sparse product would be faster here";
        }
        if why {
            let row = |l: &nnz_onnx::Layer| {
                let at = machine.crossover(nnz_engine::cost::Use::Inference, l.rows, l.cols, l.batch);
                vec![
                    l.name.clone(),
                    format!("{}x{}", l.rows, l.cols),
                    l.batch.to_string(),
                    ui::density(l.density),
                    l.kernel.into(),
                    if at < 1.0 { format!("{at:.2}") } else { "never".into() },
                ]
            };
            let head = ["", "shape", "rows at once", "density", "kernel", "dense wins from"];
            text += &format!(
                "\n\n{}\n\nKernels of convolutions larger than one place run dense at any density.",
                ui::table(&head, layers.iter().map(row).collect())
            );
        }
        text
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Lists the contents of an ONNX file.
pub fn inspect(path: &Path, html: Option<&Path>, ui: Ui) -> Result<ExitCode> {
    if html.is_some() {
        bail!("--html is for networks that nnz trained; networks of other programs are listed as a table");
    }
    let network = open(path, ui)?;
    let graph = &network.graph;
    let (matrices, stay) = (graph.matrices(), graph.stay());
    let why = |name: &str| stay.iter().find(|(n, _)| n == name).map(|(_, why)| why.as_str());
    let mut operators = std::collections::BTreeMap::<&str, usize>::new();
    graph.nodes.iter().for_each(|n| *operators.entry(&n.op).or_default() += 1);
    let (mut rows, mut weights) = (Vec::new(), Vec::new());
    let (mut all, mut zeros) = (0, 0);
    for (name, c) in graph.constants.iter().filter(|(_, c)| c.is_float()) {
        let values = c.numbers();
        let nonzeros = values.iter().filter(|v| **v != 0.0).count();
        (all, zeros) = (all + values.len(), zeros + values.len() - nonzeros);
        let density = nonzeros as f64 / values.len().max(1) as f64;
        let matrix = matrices.iter().find(|m| m.name == *name);
        let odd = values.iter().filter(|v| !v.is_finite()).count();
        let what = match matrix {
            _ if odd > 0 => format!("{odd} not finite"),
            Some(m) => if m.head { "head" } else { "can be pruned" }.into(),
            None => why(name).unwrap_or("-").into(),
        };
        weights.push(
            json!({"name": name, "shape": c.shape, "numbers": c.kind.name(), "density": density, "bytes": c.bytes(),
            "not_finite": odd, "prunable": matrix.is_some_and(|m| !m.head), "not_prunable": why(name)}),
        );
        // Small constants would only fill the table.
        if matrix.is_some() || c.len() >= 64 || odd > 0 {
            let shape = c.shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
            rows.push(vec![
                name.clone(),
                shape,
                c.kind.name().into(),
                what,
                ui::density(density),
                ui::bytes(c.bytes()),
            ]);
        }
    }
    let port = |p: &nnz_onnx::Port| {
        let one = |d: &Option<usize>| d.map_or("?".into(), |d| d.to_string());
        let shape = p.shape.as_ref().map_or("any".into(), |s| s.iter().map(one).collect::<Vec<_>>().join("x"));
        format!("{} {shape}", p.name)
    };
    let list = |ports: &[nnz_onnx::Port]| ports.iter().map(port).collect::<Vec<_>>();
    let document = json!({"kind": network.family, "inputs": list(&graph.inputs), "outputs": list(&graph.outputs),
        "operators": operators, "numbers": all, "zeros": zeros, "weights": weights});
    ui.answer(&document, || {
        let counts: Vec<String> = operators.iter().map(|(op, n)| format!("{n} {op}")).collect();
        format!(
            "{}: {} numbers, {} of them zero; {} nodes\nreads {}; gives {}\n{}\n\n{}",
            network.family,
            ui::count(all),
            ui::count(zeros),
            graph.nodes.len(),
            list(&graph.inputs).join(", "),
            list(&graph.outputs).join(", "),
            counts.join(", "),
            ui::table(&["", "shape", "numbers", "", "density", "bytes"], rows)
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Images that go through a network at once.
const AT_ONCE: usize = 16;

/// Ranks several texts by how well they fit images, with a network of two towers.
fn compare(network: &Network, place: &PathBuf, texts: &[String], ui: Ui) -> Result<ExitCode> {
    if texts.len() < 2 {
        bail!(
            "{} tells which of several texts fits a picture; give two or more, such as --text 'a cat' --text 'a dog'",
            network.path.display()
        );
    }
    let (pictures, tokens) = (gather(&[place])?, network.tokens()?);
    let ids = texts.iter().map(|t| tokens.framed(t, network.context())).collect::<nnz_foreign::Result<Vec<_>>>()?;
    let session = network.session(Some(&Machine::chooser()?.0))?;
    // By picture, the texts and their probabilities, the likeliest first.
    let mut ranked: Vec<(String, Vec<(&String, f32)>)> = Vec::with_capacity(pictures.len());
    for files in pictures.chunks(AT_ONCE) {
        let read = files.iter().map(|f| picture(f)).collect::<Result<Vec<_>, _>>()?;
        let inputs = [network.of_tokens(&ids), network.of_pictures(&read)?].concat();
        let mut logits = output(network, session.run(inputs)?, "logits_per_image")?.data().to_vec();
        softmax_rows(&mut logits, texts.len());
        for (file, row) in files.iter().zip(logits.chunks_exact(texts.len())) {
            let mut row: Vec<(&String, f32)> = texts.iter().zip(row.iter().copied()).collect();
            row.sort_by(|a, b| b.1.total_cmp(&a.1));
            ranked.push((file.display().to_string(), row));
        }
    }
    let one = |(text, p): &(&String, f32)| json!({"text": text, "probability": p});
    let listed =
        ranked.iter().map(|(file, row)| json!({"picture": file, "texts": row.iter().map(one).collect::<Vec<_>>()}));
    ui.answer(&json!({"pictures": listed.collect::<Vec<_>>()}), || {
        let width = texts.iter().map(|t| t.chars().count()).max().unwrap_or(0);
        let line = |(text, p): &(&String, f32)| format!("{text:>width$}  {}", ui::percent(f64::from(*p), None));
        let block = |(file, row): &(String, Vec<(&String, f32)>)| {
            let rows = row.iter().map(line).collect::<Vec<_>>().join("\n");
            if ranked.len() == 1 { rows } else { format!("{file}\n{rows}") }
        };
        ranked.iter().map(block).collect::<Vec<_>>().join("\n\n")
    })?;
    Ok(ExitCode::SUCCESS)
}

/// An output of a network, all of whose numbers are finite.
fn output(network: &Network, values: Vec<Value>, name: &str) -> Result<Tensor<f32>> {
    let at = network.graph.outputs.iter().position(|p| p.name == name);
    let Some(found) = at.and_then(|i| values.into_iter().nth(i)).and_then(Value::into_floats) else {
        bail!(
            "{}: output `{name}` holds no floats, from which an answer is told; with --input NAME=x.npy --json outputs of all types \
             are printed",
            network.path.display()
        )
    };
    if found.data().iter().any(|v| v.is_nan()) {
        bail!(
            "{}: `{name}` is no number (NaN); weights that are damaged do that, and `nnz inspect` lists how many are",
            network.path.display()
        );
    }
    Ok(found)
}

/// Answers for a text or an image.
pub fn predict(args: &super::model::PredictArgs, ui: Ui) -> Result<ExitCode> {
    given::refuse(&["temperature", "top-k", "top-p", "seed"], "is for language models, which go on with a text")?;
    given::refuse(&["tokens"], "is for language models, which go on with a text")?;
    let network = open_to_run(&args.model, ui)?;
    if !args.arrays.is_empty() {
        if let Some(what) = &args.what {
            bail!("{} is read for nothing beside --input; leave one of them out", what.display());
        }
        return super::arrays::predict(&network, &args.arrays, ui);
    }
    if let Reads::Both { .. } = network.reads {
        return compare(&network, &args.input(), &args.text, ui);
    }
    args.no_texts()?;
    let (given, tokens) = match &network.reads {
        Reads::Tokens { .. } => {
            let tokens = network.tokens()?;
            let ids = tokens.framed(&args.input().to_string_lossy(), network.context())?;
            (network.of_tokens(&[ids]), Some(tokens))
        }
        Reads::Pictures(_) => (network.of_pictures(&[picture(&args.input())?])?, None),
        Reads::Both { .. } | Reads::Anything => {
            network.session(None)?;
            bail!(
                "{} does not say how its inputs are made from a picture or a text; add `nnz.pictures` to its metadata, as the \
                 documentation of ONNX files shows, or give arrays with --input NAME=x.npy",
                network.path.display()
            )
        }
    };
    let outputs = network.session(Some(&Machine::chooser()?.0))?.run(given)?;
    let ports = &network.graph.outputs;
    let wanted = ["sparse_embedding", "sentence_embedding", "logits"].into_iter();
    let wanted = wanted.flat_map(|n| ports.iter().find(|p| p.name == n)).chain(ports).next();
    let Some(name) = wanted.map(|p| &*p.name) else { bail!("{}: it has no output", network.path.display()) };
    let found = output(&network, outputs, name)?;
    let values = found.data().to_vec();
    match (name, found.shape()) {
        ("sparse_embedding", _) => {
            let mut order: Vec<usize> = (0..values.len()).filter(|&i| values[i] > 0.0).collect();
            order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
            let tokens = tokens.map(Ok).unwrap_or_else(|| network.tokens())?;
            let term = |&i: &usize| Ok((tokens.decode(&[i as u32])?, i, values[i]));
            let terms = order.iter().map(term).collect::<Result<Vec<_>>>()?;
            let listed: Vec<_> = terms.iter().map(|(t, i, w)| json!({"term": t, "token": i, "weight": w})).collect();
            let document = json!({"nonzeros": terms.len(), "of": values.len(), "terms": listed});
            ui.answer(&document, || {
                let line = |(t, _, w): &(String, usize, f32)| format!("{t:>16}  {w:.3}");
                let shown: Vec<String> = terms.iter().take(12).map(line).collect();
                format!("{}\n{} of {} terms", shown.join("\n"), terms.len(), ui::count(values.len()))
            })?;
        }
        ("sentence_embedding", _) => {
            ui.answer(&json!({"embedding": values}), || {
                let shown: Vec<String> = values.iter().take(6).map(|v| format!("{v:.4}")).collect();
                format!("{} numbers of length one: {} ... (--json prints all)", values.len(), shown.join(" "))
            })?;
        }
        (_, &[1, classes]) if classes > 1 => {
            let mut row = values;
            // Outputs that are a distribution already stay unchanged.
            let sum: f32 = row.iter().sum();
            if row.iter().any(|v| *v < 0.0) || (sum - 1.0).abs() > 1e-3 {
                softmax_rows(&mut row, classes);
            }
            let name = |i: usize| network.classes.get(i).cloned().unwrap_or_else(|| format!("class {i}"));
            let mut order: Vec<usize> = (0..classes).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
            let listed: Vec<_> = order.iter().map(|&i| json!({"class": name(i), "probability": row[i]})).collect();
            ui.answer(&json!({"class": name(order[0]), "classes": listed}), || {
                let line = |&i: &usize| format!("{:>12}  {}", name(i), ui::percent(f64::from(row[i]), None));
                order.iter().take(3).map(line).collect::<Vec<_>>().join("\n")
            })?;
        }
        (name, shape) => {
            let document = json!({"output": name, "shape": shape, "values": values});
            ui.answer(&document, || format!("{name} of shape {shape:?} (--json prints it)"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
