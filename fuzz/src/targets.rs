//! Every reader of untrusted bytes, by the name of its fuzz target.

use nnz_engine::data::{Dataset, Inputs, Normalization, Split};
use nnz_engine::file::{Header, parse_model};
use nnz_engine::{Dtype, Model, ModelSpec, OptimizerSpec, Storage, Task, TrainSpec, Trainer};
use nnz_formats::Archive;
use nnz_onnx::{Array, Budget, DType, Graph, Session, Value};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

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

/// Limit of a reader's memory: MiB, and bytes per input byte.
pub fn limit(target: &str) -> (usize, usize) {
    match target {
        // A weight may have a million columns more than the file has room for, in two lists of eight bytes each.
        "model" | "checkpoint" => (64, 1024),
        // Four million entries may come out of any matrix, and 512 out of each byte.
        "weights" | "torch" | "gguf" | "packed" | "entropy" => (64, 4096),
        // A network may hold as many numbers as its budget, in several kernels.
        "onnx" => (64, 4096),
        "onnx-run" => (256, 4096),
        // An image has 2^24 pixels at most, and unpacks to 64 MiB at most.
        "png" | "jpg" => (256, 256),
        // Packed data unpacks to a thousand times its bytes; it exists both in the form read and in the final one.
        "npz" | "csv" | "txt" | "idx" => (16, 16_384),
        // The same, and any file may name a million columns: a number, its scale and what a row is laid out in take 28 bytes for each.
        "svm" => (32, 16_384),
        // For a recipe, the networks and data that it asks for are made; patterns of a tokenizer are compiled.
        "experiment" | "tokenizer" => (64, 1024),
        _ => (16, 1024),
    }
}

/// Valid and invalid files of a target, with their names: its folder in `fuzz/corpus`, and what is made here.
///
/// # Panics
/// When a file cannot be read.
pub fn corpus(fuzz: &Path, target: &str) -> Vec<(String, Vec<u8>)> {
    // Networks that are run are those that are read.
    let folder = fuzz.join("corpus").join(if target == "onnx-run" { "onnx" } else { target });
    let listed = std::fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = listed.map(|e| e.expect("a readable folder").path()).collect();
    paths.sort();
    let read = |p: &PathBuf| {
        (p.file_name().unwrap_or_default().to_string_lossy().into_owned(), std::fs::read(p).expect("a file"))
    };
    let mut files: Vec<_> = paths.iter().map(read).collect();
    match target {
        "checkpoint" => files.push(("saved".into(), saved_checkpoint())),
        "adapter" => files.push(("taken".into(), taken_adapter())),
        _ => {}
    }
    files
}

/// Passes bytes to a reader, drops its result, and returns whether it took them.
///
/// # Panics
/// When no target has this name, and when a reader breaks a promise.
pub fn read(target: &str, bytes: &[u8]) -> bool {
    match target {
        "adapter" => adapter(bytes).is_some(),
        "checkpoint" => checkpoint(bytes).is_some(),
        "entropy" => packed("entropy", bytes).is_some(),
        "experiment" => experiment(bytes).is_some(),
        "gguf" => archive([b"GGUF", bytes].concat()).is_some(),
        "history" => history(bytes).is_some(),
        "idx" => nnz_engine::data::parse_idx(bytes, "file").is_ok(),
        "model" => model(bytes).is_some(),
        "onnx" => onnx(bytes).is_some(),
        "onnx-run" => parsed(bytes).and_then(|graph| run(&graph, 1 << 20)).is_some(),
        "packed" => {
            let packing = ["csr", "bitmask"][usize::from(bytes.first().is_some_and(|b| b % 2 == 1))];
            packed(packing, bytes.get(1..).unwrap_or_default()).is_some()
        }
        "recipe" => recipe(bytes).is_some(),
        "report" => report(bytes).is_some(),
        "tokenizer" => tokenizer(bytes).is_some(),
        "torch" | "weights" => archive(bytes.to_vec()).is_some(),
        "cifar10" | "csv" | "jpg" | "npy" | "npz" | "png" | "safetensors" | "svm" | "txt" | "wav" => {
            nnz::data::read::read_bytes(target, bytes).is_ok()
        }
        other => panic!("no fuzz target is named `{other}`"),
    }
}

fn archive(bytes: Vec<u8>) -> Option<()> {
    let archive = Archive::parse(bytes, Path::new("fuzz")).ok()?;
    for (name, entry) in archive.tensors() {
        if let Ok(values) = archive.read(name) {
            assert_eq!(values.len(), entry.len());
        }
    }
    Some(())
}

/// A packed matrix whose shape and parts are the bytes: the length of the first part, rows and columns, then the parts.
fn packed(packing: &str, bytes: &[u8]) -> Option<()> {
    let (head, rest) = bytes.split_at_checked(18)?;
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
    archive([&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &body].concat())
}

fn parsed(bytes: &[u8]) -> Option<Graph> {
    Graph::parse(bytes.to_vec().into(), Path::new("fuzz"), None).ok()
}

/// ONNX files: read, written, read again, and run.
fn onnx(bytes: &[u8]) -> Option<()> {
    let graph = parsed(bytes)?;
    let _ = graph.matrices();
    let written = graph.write(true);
    Graph::parse(written.into(), Path::new("again"), None).expect("what was written is read");
    run(&graph, 1 << 16);
    Some(())
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

fn model(bytes: &[u8]) -> Option<()> {
    let (model, header) = parse_model::<f32>(bytes, Path::new("model.safetensors"), Storage::Auto).ok()?;
    let _ = nnz::lab::inspect::inspect(&model, &header, nnz::REGISTRY);
    Some(())
}

/// A table of three numbers and two classes.
static SMALL: LazyLock<Dataset> = LazyLock::new(|| {
    let split = |rows: usize| {
        let inputs = Inputs::Floats((0..3 * rows).map(|i| (i * 7 % 5) as f32).collect());
        Split::new(inputs, (0..rows as u32).map(|r| r % 2).collect())
    };
    let classes = ["a", "b"].map(String::from).to_vec();
    Dataset::new("small", [1, 1, 3], classes, split(12), split(4), "small".into()).expect("a data set")
});

/// A network for it.
static NETWORK: LazyLock<Model<f32>> = LazyLock::new(|| {
    let spec = ModelSpec::parse("mlp:3-6-2", [1, 1, 3], 2).expect("a network");
    Model::born(&spec, None, Storage::Auto, false, 1).expect("a network")
});

fn header(model: ModelSpec, method: &str, scales: Vec<[f32; 2]>) -> Header {
    Header {
        model,
        normalization: Normalization::NONE,
        classes: SMALL.classes.clone(),
        data: SMALL.name.clone(),
        method: method.into(),
        prunable: false.into(),
        texts: false,
        encoding: None,
        task: Task::Classification,
        scales,
        dtype: Dtype::Native,
        policy: Default::default(),
    }
}

/// Resumes a training from the bytes, for one step.
fn checkpoint(bytes: &[u8]) -> Option<()> {
    let path = scratch("checkpoint");
    let mut trainer = trainer().ok()?;
    std::fs::write(&path, bytes).expect("scratch memory");
    trainer.resume(&path, "run").ok()?;
    let _ = trainer.run(|_, _| false);
    Some(())
}

/// Makes a checkpoint for [`checkpoint`].
fn saved_checkpoint() -> Vec<u8> {
    let (path, mut steps) = (scratch("saved"), 0);
    let mut trainer = trainer().expect("a training");
    let went = trainer.run(|_, _| {
        steps += 1;
        steps < 4
    });
    went.expect("four steps");
    let header = header(trainer.model.spec.clone(), "set", trainer.frame().scales.clone());
    trainer.save(&path, &header, "run").expect("a checkpoint");
    std::fs::read(&path).expect("a checkpoint")
}

fn trainer() -> nnz_engine::Result<Trainer<'static, f32>> {
    let train =
        TrainSpec { batch: 4, epochs: 4, optimizer: OptimizerSpec::sgd(0.1), validation: 0.25, ..TrainSpec::default() };
    let method = nnz::REGISTRY.find("set")?;
    let mut options = method.defaults();
    options.insert("density".into(), 0.5.into());
    let mut trainer = Trainer::new(&NETWORK.spec, &SMALL, &train, 0, |setting| method.build(&options, setting))?;
    trainer.prefetch = false;
    Ok(trainer)
}

/// A file for this process and thread only, in memory if the system has such a folder.
fn scratch(name: &str) -> PathBuf {
    let thread = format!("{:?}", std::thread::current().id());
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    folder.join(format!(
        "nnz-fuzz-{name}-{}-{}",
        std::process::id(),
        thread.trim_matches(|c: char| !c.is_ascii_digit())
    ))
}

fn recipe(bytes: &[u8]) -> Option<()> {
    let recipe = nnz::lab::Recipe::parse(std::str::from_utf8(bytes).ok()?, "recipe.toml").ok()?;
    if let nnz::lab::Network::Named(name) = &recipe.model {
        let _ = ModelSpec::parse(name, [1, 28, 28], 10);
    }
    let resolved = recipe.resolve(nnz::REGISTRY).ok()?;
    let text = resolved.to_toml().expect("a recipe is TOML");
    assert!(nnz::lab::Recipe::parse(&text, "recipe.toml").expect("its own text") == resolved);
    Some(())
}

/// Takes the first step of recipes on a small table, if their networks are small; every 64th as a run, with all its files.
fn experiment(bytes: &[u8]) -> Option<()> {
    struct Stop;
    impl nnz::lab::run::Observer for Stop {
        fn step(&mut self, _: &str, _: &nnz_engine::Progress) -> bool {
            false
        }
    }
    static TABLE: LazyLock<PathBuf> = LazyLock::new(|| {
        let table = scratch("table").with_extension("csv");
        std::fs::write(&table, "y,a,b,c\n0,1,2,3\n1,3,1,2\n0,2,2,1\n1,1,1,1\n".repeat(5)).expect("scratch memory");
        table
    });
    let mut recipe = nnz::lab::Recipe::parse(std::str::from_utf8(bytes).ok()?, "recipe.toml").ok()?;
    // The choice would be measured on this machine.
    recipe.train.storage = Storage::Sparse;
    let small = |n: &nnz::lab::Network| match n {
        nnz::lab::Network::Named(name) => {
            ModelSpec::parse(name, SMALL.image, 2).ok().filter(|s| s.entries() <= 1 << 16)
        }
        _ => None,
    };
    let spec = small(&recipe.model)?;
    if recipe.pretrain.is_some() || recipe.train.batch > 1 << 10 {
        return None;
    }
    if bytes.iter().fold(0u8, |sum, b| sum.wrapping_mul(31).wrapping_add(*b)) % 64 == 0 {
        recipe.data = format!("{}?target=y", TABLE.display());
        let dir = scratch("run");
        let options = nnz::lab::run::Options { dir: Some(dir.clone()), one_thread: true, ..Default::default() };
        let _ = nnz::lab::run::run(&recipe, nnz::REGISTRY, &options, &mut Stop);
        let _ = std::fs::remove_dir_all(dir);
        return Some(());
    }
    let (recipe, mut went) = (recipe.resolve(nnz::REGISTRY).ok()?, None);
    for arm in &recipe.arms {
        let (Ok(train), Some(key)) = (recipe.training(arm), &arm.method) else { continue };
        if train.check(SMALL.image).is_err() || arm.model.is_some() || train.batch > 1 << 10 {
            continue;
        }
        let trainer = Trainer::<f32>::new(&spec, &SMALL, &train, 0, |setting| {
            nnz::REGISTRY.find(key)?.build(&arm.options, setting)
        });
        if let Ok(mut trainer) = trainer {
            trainer.prefetch = false;
            went = trainer.run(|_, _| false).ok().map(drop);
        }
    }
    went
}

fn report(bytes: &[u8]) -> Option<()> {
    let record = serde_json::from_slice(bytes).ok()?;
    let _ = nnz::lab::report::html(&record);
    let _ = nnz::lab::report::csv(&record);
    Some(())
}

/// How topologies changed: the record of a run, and the numbers and the page made from it.
fn history(bytes: &[u8]) -> Option<()> {
    let events = nnz::lab::history::parse(bytes, Path::new("fuzz")).ok()?;
    let history = nnz::lab::history::tell(&events, "arm", 0, "title", [1, 4, 4]).ok()?;
    let _ = nnz::lab::report::history(&history);
    Some(())
}

/// Adapters, fused into a network and unfused.
fn adapter(bytes: &[u8]) -> Option<()> {
    let difference = nnz::foreign::adapter::Difference::parse(bytes, Path::new("fuzz")).ok()?;
    let _ = (difference.columns(), difference.values());
    let mut model = NETWORK.clone();
    let _ = difference.fuse(&mut model);
    let _ = difference.unfuse(&mut model);
    Some(())
}

/// Makes an adapter for [`adapter`].
fn taken_adapter() -> Vec<u8> {
    let (path, base, mut tuned) = (scratch("adapter"), &*NETWORK, NETWORK.clone());
    tuned.params[0].value.data_mut().iter_mut().step_by(3).for_each(|v| *v += 1.0);
    tuned.params[3].value.data_mut()[1] = 2.0;
    let (a, b) = (header(base.spec.clone(), "a", Vec::new()), header(base.spec.clone(), "b", Vec::new()));
    let difference = nnz::foreign::adapter::Difference::between((base, &a), (&tuned, &b)).expect("an adapter");
    difference.write(&path).expect("scratch memory");
    std::fs::read(&path).expect("an adapter")
}

/// A `tokenizer.json`, used to encode a text and decode it.
fn tokenizer(bytes: &[u8]) -> Option<()> {
    let tokens = nnz::foreign::llm::Tokens::parse(Path::new("fuzz"), bytes.to_vec(), None).ok()?;
    for text in ["", "The quick brown fox, 123 é 漢字 \u{1F600}", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"] {
        if let Ok(list) = tokens.encode(text) {
            let _ = tokens.decode(&list);
        }
        let _ = tokens.framed(text, 7);
    }
    let _ = tokens.decode(&[0, 1, u32::MAX]);
    Some(())
}
