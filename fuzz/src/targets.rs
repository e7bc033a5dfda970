//! Every reader of untrusted bytes, by the name of its fuzz target.

use nnz_engine::data::{Dataset, Inputs, Normalization, Split};
use nnz_engine::file::{Header, parse_model};
use nnz_engine::{Dtype, ModelSpec, OptimizerSpec, Storage, Task, TrainSpec, Trainer};
use nnz_formats::Archive;
use nnz_onnx::{Array, Budget, DType, Graph, Session, Value};
use std::path::{Path, PathBuf};

/// All targets.
pub const ALL: [&str; 26] = [
    "adapter",
    "checkpoint",
    "cifar10",
    "csv",
    "entropy",
    "experiment",
    "gguf",
    "history",
    "idx",
    "jpg",
    "model",
    "npy",
    "npz",
    "onnx",
    "onnx-run",
    "packed",
    "png",
    "recipe",
    "report",
    "safetensors",
    "svm",
    "tokenizer",
    "torch",
    "txt",
    "wav",
    "weights",
];

/// Passes bytes to a reader and drops its result.
///
/// # Panics
/// When no target has this name, and when a reader breaks a promise.
pub fn read(target: &str, bytes: &[u8]) {
    match target {
        "adapter" => adapter(bytes),
        "checkpoint" => checkpoint(bytes),
        "entropy" => packed("entropy", bytes),
        "experiment" => experiment(bytes),
        "gguf" => archive([b"GGUF", bytes].concat()),
        "history" => history(bytes),
        "idx" => drop(nnz_engine::data::parse_idx(bytes, "file")),
        "model" => model(bytes),
        "onnx" => onnx(bytes),
        "onnx-run" => drop(parsed(bytes).and_then(|graph| run(&graph, 1 << 20))),
        "packed" => packed(
            ["csr", "bitmask"][usize::from(bytes.first().is_some_and(|b| b % 2 == 1))],
            bytes.get(1..).unwrap_or_default(),
        ),
        "recipe" => recipe(bytes),
        "report" => report(bytes),
        "tokenizer" => tokenizer(bytes),
        "torch" | "weights" => archive(bytes.to_vec()),
        "cifar10" | "csv" | "jpg" | "npy" | "npz" | "png" | "safetensors" | "svm" | "txt" | "wav" => {
            drop(nnz::data::read::read_bytes(target, bytes));
        }
        other => panic!("no fuzz target is named `{other}`"),
    }
}

fn archive(bytes: Vec<u8>) {
    let Ok(archive) = Archive::parse(bytes, Path::new("fuzz")) else { return };
    for (name, entry) in archive.tensors() {
        if let Ok(values) = archive.read(name) {
            assert_eq!(values.len(), entry.len());
        }
    }
}

/// A packed matrix whose shape and parts are the bytes: the length of the first part, rows and columns, then the parts.
fn packed(packing: &str, bytes: &[u8]) {
    let Some((head, rest)) = bytes.split_at_checked(18) else { return };
    let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap_or_default());
    // Most shapes are small ones, which are not refused at once.
    let extent = |n: u64| if n.is_multiple_of(8) { n } else { n >> 8 & 0xff };
    let shape = [extent(word(2)), extent(word(10))];
    let first = usize::from(u16::from_le_bytes([head[0], head[1]])).min(rest.len()) / 4 * 4;
    let (values, rest) = rest.split_at(first);
    let half = rest.len() / 8 * 4;
    let parts: &[(&str, &str, usize, &[u8])] = match packing {
        "csr" => &[
            ("values", "F32", 4, values),
            ("col_indices", "U32", 4, &rest[..half]),
            ("crow_indices", "U32", 4, &rest[half..2 * half]),
        ],
        "bitmask" => &[("compressed", "F32", 4, values), ("bitmask", "U8", 1, rest)],
        _ => &[("compressed", "F32", 4, values), ("code", "U8", 1, rest)],
    };
    let said = serde_json::json!({"format": "nnz-weights-1", "layout": {"w": {"packing": packing, "shape": shape}}, "said": null});
    let mut header = serde_json::json!({"__metadata__": {"format": "pt", "nnz": said.to_string()}});
    let mut body: Vec<u8> = Vec::new();
    for (name, kind, size, data) in parts {
        let offsets = [body.len(), body.len() + data.len()];
        header[format!("w.{name}")] =
            serde_json::json!({"dtype": kind, "shape": [data.len() / size], "data_offsets": offsets});
        body.extend_from_slice(data);
    }
    let text = header.to_string();
    archive([&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &body].concat());
}

fn parsed(bytes: &[u8]) -> Option<Graph> {
    Graph::parse(bytes.to_vec().into(), Path::new("fuzz"), None).ok()
}

/// ONNX files: read, written, read again, and run.
fn onnx(bytes: &[u8]) {
    let Some(graph) = parsed(bytes) else { return };
    let _ = graph.matrices();
    let written = graph.write(true);
    Graph::parse(written.into(), Path::new("again"), None).expect("what was written is read");
    run(&graph, 1 << 16);
}

/// Runs a network on ones, in every kernel, if it holds at most so many numbers.
fn run(graph: &Graph, numbers: usize) -> Option<()> {
    for kernel in ["dense", "sliced", "blocked", "plan"] {
        let session = Session::new(graph, Some(Box::new(move |_, _, _, _| kernel)), Budget { numbers }).ok()?;
        let mut given = Vec::new();
        for port in session.inputs() {
            let shape: Vec<usize> = port.shape.as_ref()?.iter().map(|d| d.unwrap_or(2)).collect();
            let n = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= numbers)?;
            let value = match port.kind {
                kind if kind.is_none_or(DType::is_float) => Value::floats(&shape, vec![1.0; n]),
                Some(DType::Bool) => Value::Bool(Array::new(&shape, vec![true; n])),
                Some(DType::U8) => Value::Byte(Array::new(&shape, vec![1; n])),
                Some(DType::I8) => Value::Small(Array::new(&shape, vec![1; n])),
                _ => Value::ints(&shape, vec![1; n]),
            };
            given.push((port.name.as_str(), value));
        }
        session.run(given).ok()?;
    }
    Some(())
}

fn model(bytes: &[u8]) {
    if let Ok((model, header)) = parse_model::<f32>(bytes, Path::new("model.safetensors"), Storage::Auto) {
        let _ = nnz::lab::inspect::inspect(&model, &header, nnz::REGISTRY);
    }
}

/// A table of three numbers and two classes.
fn small() -> Dataset {
    let split = |rows: usize| {
        let inputs = Inputs::Floats((0..3 * rows).map(|i| (i * 7 % 5) as f32).collect());
        Split::new(inputs, (0..rows as u32).map(|r| r % 2).collect())
    };
    let classes = ["a", "b"].map(String::from).to_vec();
    Dataset::new("small", [1, 1, 3], classes, split(12), split(4), "small".into()).expect("a data set")
}

/// Resumes a training from the bytes, for one step.
fn checkpoint(bytes: &[u8]) {
    let (path, data) = (scratch("checkpoint"), small());
    let Ok(mut trainer) = trainer(&data) else { return };
    std::fs::write(&path, bytes).expect("scratch memory");
    if trainer.resume(&path, "run").is_ok() {
        let _ = trainer.run(|_, _| false);
    }
}

/// Makes a checkpoint for [`checkpoint`].
///
/// # Panics
/// When scratch memory cannot be written to.
pub fn saved_checkpoint() -> Vec<u8> {
    let (path, data) = (scratch("saved"), small());
    let mut trainer = trainer(&data).expect("a training");
    let mut steps = 0;
    let went = trainer.run(|_, _| {
        steps += 1;
        steps < 4
    });
    went.expect("four steps");
    let frame = trainer.frame();
    let header = Header {
        model: trainer.model.spec.clone(),
        normalization: Normalization::NONE,
        classes: data.classes.clone(),
        data: data.name.clone(),
        method: "set".into(),
        prunable: false.into(),
        encoding: None,
        task: Task::Classification,
        scales: frame.scales.clone(),
        dtype: Dtype::Native,
        policy: Default::default(),
    };
    trainer.save(&path, &header, "run").expect("a checkpoint");
    std::fs::read(&path).expect("a checkpoint")
}

fn trainer(data: &Dataset) -> nnz_engine::Result<Trainer<'_, f32>> {
    let spec = ModelSpec::parse("mlp:3-6-2", data.image, 2)?;
    let train =
        TrainSpec { batch: 4, epochs: 4, optimizer: OptimizerSpec::sgd(0.1), validation: 0.25, ..TrainSpec::default() };
    let method = nnz::REGISTRY.find("set")?;
    let mut options = method.defaults();
    options.insert("density".into(), 0.5.into());
    let mut trainer = Trainer::new(&spec, data, &train, 0, |setting| method.build(&options, setting))?;
    trainer.prefetch = false;
    Ok(trainer)
}

/// A file for this process and thread only.
fn scratch(name: &str) -> PathBuf {
    let thread = format!("{:?}", std::thread::current().id());
    std::env::temp_dir().join(format!(
        "nnz-fuzz-{name}-{}-{}",
        std::process::id(),
        thread.trim_matches(|c: char| !c.is_ascii_digit())
    ))
}

fn recipe(bytes: &[u8]) {
    let Some(recipe) = std::str::from_utf8(bytes).ok().and_then(|t| nnz::lab::Recipe::parse(t, "recipe.toml").ok())
    else {
        return;
    };
    if let nnz::lab::Network::Named(name) = &recipe.model {
        let _ = ModelSpec::parse(name, [1, 28, 28], 10);
    }
    if let Ok(resolved) = recipe.resolve(nnz::REGISTRY) {
        let text = resolved.to_toml().expect("a recipe is TOML");
        assert!(nnz::lab::Recipe::parse(&text, "recipe.toml").expect("its own text") == resolved);
    }
}

/// Carries out recipes up to the first step, on a table, if their networks are small.
fn experiment(bytes: &[u8]) {
    struct Stop;
    impl nnz::lab::run::Observer for Stop {
        fn step(&mut self, _: &str, _: &nnz_engine::Progress) -> bool {
            false
        }
    }
    let Some(mut recipe) = std::str::from_utf8(bytes).ok().and_then(|t| nnz::lab::Recipe::parse(t, "recipe.toml").ok())
    else {
        return;
    };
    let table = scratch("table").with_extension("csv");
    std::fs::write(&table, "y,a,b,c\n0,1,2,3\n1,3,1,2\n0,2,2,1\n1,1,1,1\n".repeat(5)).expect("scratch memory");
    recipe.data = format!("{}?target=y", table.display());
    // The choice would be measured on this machine.
    recipe.train.storage = Storage::Sparse;
    let few = |n: &nnz::lab::Network| match n {
        nnz::lab::Network::Named(name) => ModelSpec::parse(name, [1, 1, 3], 2).is_ok_and(|s| s.entries() <= 1 << 16),
        _ => false,
    };
    if !few(&recipe.model) || recipe.pretrain.is_some() || recipe.train.batch > 1 << 10 {
        return;
    }
    let dir = scratch("run");
    let options = nnz::lab::run::Options { dir: Some(dir.clone()), one_thread: true, ..Default::default() };
    let _ = nnz::lab::run::run(&recipe, nnz::REGISTRY, &options, &mut Stop);
    let _ = std::fs::remove_dir_all(dir);
}

fn report(bytes: &[u8]) {
    if let Ok(record) = serde_json::from_slice(bytes) {
        let _ = nnz::lab::report::html(&record);
        let _ = nnz::lab::report::csv(&record);
    }
}

/// How topologies changed: the record of a run, and the numbers and the page made from it.
fn history(bytes: &[u8]) {
    let Ok(events) = nnz::lab::history::parse(bytes, Path::new("fuzz")) else { return };
    if let Ok(history) = nnz::lab::history::tell(&events, "arm", 0, "title", [1, 4, 4]) {
        let _ = nnz::lab::report::history(&history);
    }
}

/// Adapters, fused into a network and unfused.
fn adapter(bytes: &[u8]) {
    let Ok(difference) = nnz::foreign::adapter::Difference::parse(bytes, Path::new("fuzz")) else { return };
    let _ = (difference.columns(), difference.values());
    let spec = ModelSpec::parse("mlp:3-6-2", [1, 1, 3], 2).expect("a network");
    let mut model: nnz_engine::Model<f32> =
        nnz_engine::Model::born(&spec, None, Storage::Auto, false, 1).expect("a network");
    let _ = difference.fuse(&mut model);
    let _ = difference.unfuse(&mut model);
}

/// A `tokenizer.json`, used to encode a text and decode it.
fn tokenizer(bytes: &[u8]) {
    let path = scratch("tokenizer");
    std::fs::write(&path, bytes).expect("scratch memory");
    let Ok(tokens) = nnz::foreign::llm::Tokens::open(&path, None) else { return };
    for text in ["", "The quick brown fox, 123 é 漢字 \u{1F600}", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"] {
        if let Ok(list) = tokens.encode(text) {
            let _ = tokens.decode(&list);
        }
        let _ = tokens.framed(text, 7);
    }
    let _ = tokens.decode(&[0, 1, u32::MAX]);
}
