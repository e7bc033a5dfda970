//! Files of other programs are read whole or refused by name, and written files are read again to the same numbers.

use nnz_engine::file::Header;
use nnz_engine::{Model, ModelSpec, Storage, Task, Tensor, data::Normalization};
use nnz_foreign::llm::{self, Language, Pruning, Weights};
use nnz_foreign::onnx::{self, Network};
use nnz_formats::{Archive, Dtype, Format, Packing, Writer};
use nnz_onnx::Value;
use serde_json::json;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens").join(name)
}

fn logits(model: &Language) -> Vec<f32> {
    let tokens: Vec<u32> = (0..8).collect();
    let mut state = model.begin(&tokens).unwrap();
    for layer in 0..model.config.layers {
        model.advance(&model.block(layer, &Weights::Dense).unwrap(), &mut state, None);
    }
    model.logits(&model.head().unwrap(), &state, 0..tokens.len())
}

/// A copy of the small Llama, with its tensors written by `edit` and its configuration changed by `said`.
fn llama(
    to: &Path,
    mut edit: impl FnMut(&mut Writer, &str, &[usize], Vec<f32>),
    said: impl FnOnce(&mut serde_json::Value),
) {
    let archive = Archive::open(&golden("formats/tiny")).unwrap();
    std::fs::create_dir_all(to).unwrap();
    let mut writer = Writer::create(&to.join("model.safetensors")).unwrap();
    for (name, entry) in archive.tensors() {
        edit(&mut writer, name, &entry.shape, archive.read(name).unwrap());
    }
    writer.finish(&json!(null)).unwrap();
    let mut config = archive.config.clone().unwrap();
    said(&mut config);
    std::fs::write(to.join("config.json"), config.to_string()).unwrap();
}

fn plain(w: &mut Writer, name: &str, shape: &[usize], values: Vec<f32>) {
    w.dense(name, shape, &values, Dtype::F32).unwrap();
}

/// int8 weights with a scale for each row: the model is that of the products, in any way it is written, and the configuration no longer
/// mentions integers.
#[test]
fn whole_numbers_with_scales_are_their_products() {
    let dir = tempfile::tempdir().unwrap();
    let [whole, product] = ["whole", "product"].map(|n| dir.path().join(n));
    let steps = |shape: &[usize], v: &[f32]| -> Vec<f32> {
        v.chunks(shape[1]).map(|row| row.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 100.0).collect()
    };
    let rounded = |shape: &[usize], v: &[f32], s: &[f32]| -> Vec<i8> {
        v.iter().enumerate().map(|(i, v)| (v / s[i / shape[1]]).round() as i8).collect()
    };
    let quantized =
        |c: &mut serde_json::Value| c["quantization_config"] = json!({"quant_method": "compressed-tensors"});
    let scaled = |w: &mut Writer, name: &str, shape: &[usize], v: Vec<f32>| match name.contains("proj") {
        true => {
            let s = steps(shape, &v);
            let bytes: Vec<u8> = rounded(shape, &v, &s).iter().map(|q| *q as u8).collect();
            w.raw(name, shape, Format::I8, &bytes).unwrap();
            w.dense(&format!("{name}_scale"), &[shape[0], 1], &s, Dtype::F32).unwrap();
        }
        false => plain(w, name, shape, v),
    };
    llama(&whole, scaled, quantized);
    let products = |w: &mut Writer, name: &str, shape: &[usize], v: Vec<f32>| match name.contains("proj") {
        true => {
            let s = steps(shape, &v);
            let v = rounded(shape, &v, &s).iter().enumerate().map(|(i, q)| f32::from(*q) * s[i / shape[1]]).collect();
            plain(w, name, shape, v);
        }
        false => plain(w, name, shape, v),
    };
    llama(&product, products, |_| {});
    let (a, b) = (Language::open(&whole).unwrap(), Language::open(&product).unwrap());
    assert_eq!(logits(&a), logits(&b));
    assert!(logits(&a) != logits(&Language::open(&golden("formats/tiny")).unwrap()));
    let out = dir.path().join("out");
    let written = llm::copy(&a, &out, Some(Packing::Bitmask), Dtype::F32, |_| {}).unwrap();
    assert!(written.notes.iter().any(|n| n.contains("quantization_config")), "{:?}", written.notes);
    let again = Language::open(&out).unwrap();
    assert_eq!(logits(&again), logits(&b));
    assert!(again.archive.config.unwrap().get("quantization_config").is_none());
    // Without the scales nothing is computed.
    let bare = dir.path().join("bare");
    let without = |w: &mut Writer, name: &str, shape: &[usize], v: Vec<f32>| match name.contains("proj") {
        true => w.raw(name, shape, Format::I8, &vec![1; v.len()]).unwrap(),
        false => plain(w, name, shape, v),
    };
    llama(&bare, without, quantized);
    let why = Language::open(&bare).unwrap_err().to_string();
    assert!(why.contains("I8") && why.contains("scales"), "{why}");
}

#[test]
fn tensors_that_nobody_reads_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("less");
    llama(&to, plain, |c| c["num_hidden_layers"] = json!(1));
    let why = Language::open(&to).unwrap_err().to_string();
    assert!(why.contains("`model.layers.1.") && why.contains("other tensors") && why.contains("1 layers"), "{why}");
    // Buffers of old checkpoints are known.
    let to = dir.path().join("buffers");
    let mut first = true;
    let buffers = |w: &mut Writer, name: &str, shape: &[usize], v: Vec<f32>| {
        if std::mem::take(&mut first) {
            plain(w, "model.layers.0.self_attn.rotary_emb.inv_freq", &[4], vec![1.0; 4]);
        }
        plain(w, name, shape, v);
    };
    llama(&to, buffers, |_| {});
    assert_eq!(logits(&Language::open(&to).unwrap()), logits(&Language::open(&golden("formats/tiny")).unwrap()));
    // Packed in four bits, under the names of each packer.
    let to = dir.path().join("packed");
    let packed = |w: &mut Writer, name: &str, shape: &[usize], v: Vec<f32>| match name.strip_suffix("q_proj.weight") {
        Some(layer) => w.raw(&format!("{layer}q_proj.qweight"), &[4], Format::I32, &[0; 16]).unwrap(),
        None => plain(w, name, shape, v),
    };
    llama(&to, packed, |c| c["quantization_config"] = json!({"quant_method": "gptq"}));
    let why = Language::open(&to).unwrap_err().to_string();
    assert!(why.contains("q_proj.qweight") && why.contains("gptq"), "{why}");
    // Squeeze-and-excitation in a residual network.
    let (archive, file) = (Archive::open(&golden("graphs/resnet18.pth")).unwrap(), dir.path().join("se.safetensors"));
    let mut writer = Writer::create(&file).unwrap();
    for (name, entry) in archive.tensors() {
        match entry.format.is_float() {
            true => plain(&mut writer, name, &entry.shape, archive.read(name).unwrap()),
            false => writer.raw(name, &entry.shape, entry.format, &archive.contents(name).unwrap()).unwrap(),
        }
    }
    plain(&mut writer, "layer1.0.se.fc1.weight", &[2, 4, 1, 1], vec![1.0; 8]);
    writer.finish(&json!(null)).unwrap();
    let why = Network::open(&file).unwrap_err().to_string();
    assert!(why.contains("`layer1.0.se.fc1.weight`") && why.contains("ONNX"), "{why}");
}

/// Pillow made the numbers (`goldens/preprocessing.py`).
#[test]
fn pictures_are_prepared_as_their_folder_says() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden("graphs/vit").join(file), dir.path().join(file)).unwrap();
    }
    let said = dir.path().join("preprocessor_config.json");
    let picture = nnz::data::picture(&golden("graphs/pictures/large.png")).unwrap();
    let cases: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden("graphs/preprocessing.json")).unwrap()).unwrap();
    for case in cases.as_array().unwrap() {
        std::fs::write(&said, case["config"].to_string()).unwrap();
        let prepared = |network: &Network| {
            network.of_pictures(std::slice::from_ref(&picture)).unwrap().remove(0).1.into_floats().unwrap()
        };
        let network = Network::open(dir.path()).unwrap();
        let want: Vec<f64> = case["pixels"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let found = prepared(&network);
        let far = found.data().iter().zip(&want).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        assert!(found.len() == want.len() && far < 2e-4, "{far} {}", case["config"]);
        // A file says so, too.
        let file = dir.path().join("net.onnx");
        onnx::export(&network, &file, None, Dtype::F32, false, &json!(null)).unwrap();
        assert_eq!(prepared(&Network::open(&file).unwrap()), found);
    }
    for (config, says) in [
        (json!({"size": {"height": 32, "width": 32}}), "32 x 32"),
        (json!({"size": {"shortest_edge": 8}, "do_center_crop": true}), "scaled to 8"),
        (json!({"rescale_factor": 0}), "rescale_factor"),
        (json!({"resample": 1}), "filter 1"),
    ] {
        std::fs::write(&said, config.to_string()).unwrap();
        let why = Network::open(dir.path()).unwrap_err().to_string();
        assert!(why.contains(says), "{why}");
    }
}

/// A factor of rotary positions, by either of its names, is not passed over.
#[test]
fn scaled_positions_are_refused_however_they_are_said() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tiny.gguf");
    let bytes = std::fs::read(golden("formats/tiny.gguf")).unwrap();
    // Another number of the file under a name of equal length.
    let (old, new) = (b"llama.feed_forward_length", b"llama.rope.scaling.factor");
    let at = bytes.windows(old.len()).position(|w| w == old).unwrap();
    let mut changed = bytes.clone();
    changed[at..at + new.len()].copy_from_slice(new);
    std::fs::write(&file, changed).unwrap();
    let why = Language::open(&file).unwrap_err().to_string();
    assert!(why.contains("scaled rotary positions") && why.contains("ONNX"), "{why}");
}

/// What metadata says of a network's inputs is used or refused.
#[test]
fn metadata_that_cannot_be_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("net.onnx");
    let mut graph = Network::open(&golden("foreign/told/weights-f16.onnx")).unwrap().graph;
    let mut open = |key: &str, text: &str| {
        graph.metadata.insert(key.into(), text.into());
        std::fs::write(&file, graph.write(false)).unwrap();
        graph.metadata.clear();
        Network::open(&file).map_err(|e| e.to_string())
    };
    let right = r#"{"shape": [3, 8, 8], "mean": [0, 0, 0], "deviation": [1, 1, 1]}"#;
    assert_eq!(open("nnz.pictures", right).unwrap().pictures().unwrap().shape, [3, 8, 8]);
    assert_eq!(open("nnz.classes", r#"["cat", "dog"]"#).unwrap().classes, ["cat", "dog"]);
    for (key, text) in [
        ("nnz.pictures", r#"{"shape": [3, 8, 8], "mean": [0], "deviation": [1]}"#),
        ("nnz.pictures", r#"{"shape": [3, 8, 8], "mean": [0, 0, 0], "std": [1, 1, 1]}"#),
        ("nnz.pictures", "3 x 8 x 8"),
        ("nnz.classes", r#"{"cat": 0}"#),
        ("nnz.context", "0"),
    ] {
        let why = open(key, text).err().unwrap();
        assert!(why.contains(&format!("`{key}`")), "{text}: {why}");
    }
}

/// What is computed otherwise than the file says is said.
#[test]
fn assumptions_are_notes() {
    let notes = |file: &str| Network::open(&golden(file)).unwrap().notes.join("; ");
    assert!(notes("foreign/told/weights-f64.onnx").contains("64-bit floats are computed in 32 bits"));
    assert_eq!(notes("foreign/told/weights-f16.onnx"), "");
    // A vocabulary that does not say how texts are split.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tiny.gguf");
    let mut bytes = std::fs::read(golden("formats/tiny.gguf")).unwrap();
    let at = bytes.windows(18).position(|w| w == b"tokenizer.ggml.pre").unwrap();
    bytes[at + 17] = b'x';
    std::fs::write(&file, bytes).unwrap();
    let model = Language::open(&file).unwrap();
    assert!(model.archive.notes.join("; ").contains("as for gpt-2"));
    assert!(model.tokens().is_ok() && Language::open(&golden("formats/tiny.gguf")).unwrap().archive.notes.is_empty());
}

fn text() -> Vec<(&'static str, Value)> {
    let ids = (0..10).map(|i| 2 + i * 5 % 57).collect();
    let there = (0..10).map(|i| i64::from(i < 7)).collect();
    vec![
        ("input_ids", Value::ints(&[1, 10], ids)),
        ("attention_mask", Value::ints(&[1, 10], there)),
        ("token_type_ids", Value::ints(&[1, 10], vec![0; 10])),
    ]
}

/// The outputs of a network by name.
fn answers(network: &Network, given: Vec<(&'static str, Value)>) -> Vec<(String, Tensor<f32>)> {
    let found = network.session(None).unwrap().run(given).unwrap().into_iter();
    let names = network.graph.outputs.iter().map(|p| p.name.clone());
    names.zip(found).map(|(n, v)| (n, v.into_floats().unwrap())).collect()
}

/// Seven of ten tokens are present: the vector is pooled from theirs as the folder says.
#[test]
fn sentences_are_pooled_as_their_folder_says() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("bert");
    std::fs::create_dir_all(folder.join("1_Pooling")).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden("graphs/bert").join(file), folder.join(file)).unwrap();
    }
    let module = |kind: &str, path: &str| json!({"type": format!("sentence_transformers.models.{kind}"), "path": path});
    let modules =
        |list: &[serde_json::Value]| std::fs::write(folder.join("modules.json"), json!(list).to_string()).unwrap();
    let all = [module("Transformer", ""), module("Pooling", "1_Pooling"), module("Normalize", "2_Normalize")];
    type Pool = fn(&[&[f32]]) -> Vec<f32>;
    fn each(rows: &[&[f32]], f: impl Fn(&mut dyn Iterator<Item = f32>) -> f32) -> Vec<f32> {
        (0..rows[0].len()).map(|i| f(&mut rows.iter().map(|r| r[i]))).collect()
    }
    let cls: Pool = |rows| rows[0].to_vec();
    let max: Pool = |rows| each(rows, |v| v.fold(f32::NEG_INFINITY, f32::max));
    let mean: Pool = |rows| each(rows, |v| v.sum::<f32>() / 7.0);
    let root: Pool = |rows| each(rows, |v| v.sum::<f32>() / 7f32.sqrt());
    for (key, pool) in [("cls_token", cls), ("max_tokens", max), ("mean_tokens", mean), ("mean_sqrt_len_tokens", root)]
    {
        for unit in [true, false] {
            modules(if unit { &all } else { &all[..2] });
            let said = json!({"word_embedding_dimension": 16, format!("pooling_mode_{key}"): true});
            std::fs::write(folder.join("1_Pooling/config.json"), said.to_string()).unwrap();
            let check = |folder: &Path| {
                let found = answers(&Network::open(folder).unwrap(), text());
                let get = |name: &str| &found.iter().find(|(n, _)| n == name).unwrap().1;
                let width = get("sentence_embedding").len();
                let rows: Vec<&[f32]> = get("last_hidden_state").data().chunks(width).take(7).collect();
                let mut want = pool(&rows);
                let length = if unit { want.iter().map(|v| v * v).sum::<f32>().sqrt() } else { 1.0 };
                want.iter_mut().for_each(|v| *v /= length);
                let far =
                    want.iter().zip(get("sentence_embedding").data()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(far < 1e-5, "{key} {unit}: {far}");
            };
            check(&folder);
            // Written folders say it, too.
            let out = dir.path().join("out");
            onnx::export(&Network::open(&folder).unwrap(), &out, None, Dtype::F32, false, &json!(null)).unwrap();
            check(&out);
        }
    }
    for (said, list, says) in [
        (json!({"pooling_mode_lasttoken": true}), all.to_vec(), "pooling_mode_lasttoken"),
        (json!({"pooling_mode_cls_token": true}), [&all[..2], &[module("Dense", "2_Dense")]].concat(), "module Dense"),
    ] {
        modules(&list);
        std::fs::write(folder.join("1_Pooling/config.json"), said.to_string()).unwrap();
        let why = Network::open(&folder).unwrap_err().to_string();
        assert!(why.contains(says), "{why}");
    }
}

/// A file of weights without a description of its network, with integers and Booleans.
fn loose(file: &Path) {
    let mut w = Writer::create(file).unwrap();
    let values: Vec<f32> =
        (0..64).map(|i| ((i * 37 % 64) as f32 - 31.5) * if i % 3 == 0 { 0.0 } else { 0.125 }).collect();
    plain(&mut w, "fc.weight", &[8, 8], values.clone());
    plain(&mut w, "conv.weight", &[2, 8, 2, 2], values);
    plain(&mut w, "fc.bias", &[8], vec![0.5; 8]);
    let index: Vec<u8> = (0..4i64).flat_map(|i| (i << 40).to_le_bytes()).collect();
    w.raw("place", &[2, 2], Format::I64, &index).unwrap();
    w.raw("mask", &[3], Format::Bool, &[1, 0, 1]).unwrap();
    w.raw("small", &[2], Format::I8, &[255, 7]).unwrap();
    w.finish(&json!(null)).unwrap();
}

/// Every layout and number type, to a folder and to a file: read again to the same numbers, and buffers bit for bit.
#[test]
fn what_is_written_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.safetensors");
    loose(&file);
    let before = Archive::open(&file).unwrap();
    let packings = [None, Some(Packing::Dense), Some(Packing::Csr), Some(Packing::Bitmask), Some(Packing::Entropy)];
    for (i, packing) in packings.into_iter().enumerate() {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::I8] {
            if dtype == Dtype::I8 && packing == Some(Packing::Dense) {
                continue;
            }
            for name in [format!("{i}{dtype:?}"), format!("{i}{dtype:?}.safetensors")] {
                let to = dir.path().join(&name);
                let network = Network::open(&file).unwrap();
                onnx::export(&network, &to, packing, dtype, false, &json!(null)).unwrap();
                assert_eq!(to.is_file(), name.ends_with(".safetensors"));
                assert!(onnx::known(&to), "{name}");
                let again = Network::open(&to).unwrap();
                let archive = again.archive.as_ref().unwrap();
                assert_eq!(
                    archive.tensors().map(|t| t.0).collect::<Vec<_>>(),
                    before.tensors().map(|t| t.0).collect::<Vec<_>>()
                );
                for buffer in ["place", "mask", "small"] {
                    assert_eq!(archive.get(buffer).unwrap().format, before.get(buffer).unwrap().format);
                    assert_eq!(archive.contents(buffer).unwrap(), before.contents(buffer).unwrap(), "{name} {buffer}");
                }
                for weight in ["fc.weight", "conv.weight", "fc.bias"] {
                    assert_eq!(archive.get(weight).unwrap().shape, before.get(weight).unwrap().shape);
                    let (a, b) = (archive.read(weight).unwrap(), before.read(weight).unwrap());
                    let within = if dtype == Dtype::I8 { 4.0 / 127.0 } else { 0.0 };
                    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= within), "{name} {weight}");
                }
                // And once more, without loss.
                let twice = dir.path().join("twice");
                onnx::export(&again, &twice, packing, dtype, false, &json!(null)).unwrap();
                let twice = Archive::open(&twice).unwrap();
                for (weight, _) in archive.tensors() {
                    let (a, b) = (archive.read(weight).unwrap(), twice.read(weight).unwrap());
                    let far = a.iter().zip(&b).map(|(a, b)| (a - b).abs());
                    assert!(far.fold(0.0, f32::max) < 1e-6, "{name} {weight}");
                }
            }
        }
    }
    let network = Network::open(&file).unwrap();
    for (name, says) in [("net.pth", ".pth"), ("net.gguf", ".gguf"), ("net.onnx", "not known")] {
        let why = onnx::export(&network, &dir.path().join(name), None, Dtype::F32, false, &json!(null)).unwrap_err();
        assert!(why.to_string().contains(says) && !dir.path().join(name).exists(), "{why}");
    }
    let bert = Network::open(&golden("graphs/bert")).unwrap();
    let why =
        onnx::export(&bert, &dir.path().join("b.safetensors"), None, Dtype::F32, false, &json!(null)).unwrap_err();
    assert!(why.to_string().contains("config.json"), "{why}");
    let guessed = Network::open(&golden("graphs").join("plain.pth")).unwrap();
    let why = onnx::export(&guessed, &dir.path().join("g.onnx"), None, Dtype::F32, false, &json!(null)).unwrap_err();
    assert!(why.to_string().contains("a guess"), "{why}");
}

/// Under `flat:2:4` of every four entries of a kernel as stored two stay, and the kernels may be of any number of channels.
#[test]
fn flat_groups_lie_along_rows() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.safetensors");
    let mut w = Writer::create(&file).unwrap();
    plain(&mut w, "conv.weight", &[2, 3, 2, 2], (0..24).map(|i| (i * 7 % 24) as f32 + 1.0).collect());
    w.finish(&json!(null)).unwrap();
    let pruned = |pattern: &str, to: &Path| {
        let options = format!("pattern = \"{pattern}\"").parse().unwrap();
        let method = nnz::REGISTRY.find("magnitude").unwrap();
        let pruning = Pruning { method, options: &options, seed: 0, packing: None, dtype: Dtype::F32, heads: false };
        let mut network = Network::open(&file).unwrap();
        onnx::prune(&mut network, &pruning, Vec::new(), to, false, |_, _| ())
    };
    let to = dir.path().join("flat");
    pruned("flat:2:4", &to).unwrap();
    let v = Archive::open(&to).unwrap().read("conv.weight").unwrap();
    for group in v.chunks(4) {
        assert_eq!(group.iter().filter(|v| **v != 0.0).count(), 2, "{v:?}");
    }
    let why = pruned("2:4", &dir.path().join("channels")).unwrap_err().to_string();
    assert!(why.contains("of kernels the channels") && why.contains("`conv.weight` with 3"), "{why}");
}

/// Of every four channels at one position of a kernel two stay, whatever a method scores by.
#[test]
fn groups_of_kernels_lie_along_channels() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.safetensors");
    loose(&file);
    for model in [file, golden("graphs/resnet18.pth")] {
        for method in ["magnitude", "wanda"] {
            let mut network = Network::open(&model).unwrap();
            if network.session(None).is_err() && method == "wanda" {
                continue;
            }
            let values = (0..3 * 64 * 64).map(|i| (i * 7919 % 2003) as f32 / 1001.0 - 1.0).collect();
            let given = vec![vec![("pixel_values", Value::floats(&[1, 3, 64, 64], values))]];
            let options = "pattern = \"2:4\"".parse().unwrap();
            let (method, to) = (nnz::REGISTRY.find(method).unwrap(), dir.path().join("out"));
            let pruning =
                Pruning { method, options: &options, seed: 0, packing: None, dtype: Dtype::F32, heads: false };
            onnx::prune(&mut network, &pruning, given, &to, false, |_, _| ()).unwrap();
            let mut kernels = 0;
            for m in network.matrices().iter().filter(|m| !m.head && !m.kernel.is_empty()) {
                let area: usize = m.kernel.iter().product();
                let channels = m.cols / area;
                if !channels.is_multiple_of(4) {
                    continue;
                }
                kernels += 1;
                let v = network.graph.constants[&m.name].numbers();
                for (row, place) in (0..m.rows).flat_map(|r| (0..area).map(move |p| (r, p))) {
                    for first in (0..channels).step_by(4) {
                        let kept = (first..first + 4).filter(|c| v[row * m.cols + c * area + place] != 0.0).count();
                        assert!(kept <= 2, "{} row {row} place {place}", m.name);
                    }
                }
            }
            assert!(kernels > 0);
        }
    }
}

fn header(model: ModelSpec, encoding: Option<serde_json::Value>, scales: Vec<[f32; 2]>) -> Header {
    let task = if scales.is_empty() { Task::Classification } else { Task::Regression };
    let outputs = if scales.is_empty() { 5 } else { scales.len() };
    Header {
        model,
        normalization: Normalization::new(0.25, 0.5),
        classes: (0..outputs).map(|i| i.to_string()).collect(),
        data: "made".into(),
        method: "none".into(),
        prunable: false.into(),
        texts: false,
        encoding,
        task,
        scales,
        dtype: Default::default(),
        policy: Default::default(),
    }
}

/// Raw rows of a table (numbers, two texts, three texts) and pixels from 0 to 255 give what the network gives for rows preprocessed
/// by hand, in the units of the targets.
#[test]
fn exported_networks_make_their_rows_ready() {
    let path = Path::new("net.safetensors");
    let encoding = json!({"target": "y", "classes": [], "columns": [
        {"name": "a", "kind": "number", "mean": 10.0, "std": 4.0},
        {"name": "b", "kind": "category", "values": ["no", "yes"]},
        {"name": "c", "kind": "category", "values": ["blue", "green", "red"]},
    ]});
    let spec = ModelSpec::parse("mlp:5-7-2", [5, 1, 1], 2).unwrap();
    let model: Model<f32> = Model::born(&spec, None, Storage::Masked, false, 3).unwrap();
    let header_ = header(spec.clone(), Some(encoding), vec![[3.0, 2.0], [-1.0, 0.5]]);
    let network = onnx::own(&model, &header_, path, false).unwrap();
    let rows = [[12.0, 1.0, 2.0], [8.0, 0.0, 0.0]];
    let ready: Vec<f32> = rows
        .iter()
        .flat_map(|[a, b, c]| {
            let one = |k: f32| f32::from(u8::from(*c == k));
            [(a - 10.0) / 4.0, *b, one(0.0), one(1.0), one(2.0)].map(|v: f32| (v - 0.25) / 0.5)
        })
        .collect();
    let mut want = model.infer(Tensor::new(&[2, 5], ready)).unwrap().data().to_vec();
    want.chunks_mut(2).for_each(|y| (y[0], y[1]) = (y[0] * 2.0 + 3.0, y[1] * 0.5 - 1.0));
    let got = &answers(&network, vec![("x", Value::floats(&[2, 3], rows.concat()))])[0].1;
    assert!(got.data().iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-5), "{:?} {want:?}", got.data());
    assert!(network.graph.metadata["nnz.columns"].contains("green"));

    // Rows of numbers have a mean and a deviation for each column.
    let encoding =
        json!({"classes": [], "scales": [[10.0, 4.0], [0.0, 0.5], [3.0, 1.0], [0.0, 1.0], [-7.0, 100.0]], "base": 1});
    let header_ = header(spec, Some(encoding), vec![[3.0, 2.0], [-1.0, 0.5]]);
    let network = onnx::own(&model, &header_, path, false).unwrap();
    let row = [12.0, 1.0, 2.0, 0.0, 93.0];
    let ready = [0.5, 2.0, -1.0, 0.0, 1.0].map(|v: f32| (v - 0.25) / 0.5);
    let want = model.infer(Tensor::new(&[1, 5], ready.to_vec())).unwrap().data().to_vec();
    let got = &answers(&network, vec![("x", Value::floats(&[1, 5], row.to_vec()))])[0].1;
    assert!(
        (got.data()[0] - (want[0] * 2.0 + 3.0)).abs() < 1e-5 && (got.data()[1] - (want[1] * 0.5 - 1.0)).abs() < 1e-5
    );

    let spec = ModelSpec::parse("lenet5", [1, 28, 28], 5).unwrap();
    let model: Model<f32> = Model::born(&spec, None, Storage::Masked, false, 3).unwrap();
    let header = header(spec, None, Vec::new());
    let network = onnx::own(&model, &header, path, false).unwrap();
    let bytes: Vec<f32> = (0..784).map(|i| (i * 37 % 256) as f32).collect();
    let ready = bytes.iter().map(|v| (v / 255.0 - 0.25) / 0.5).collect();
    let want = model.infer(Tensor::new(&[1, 784], ready)).unwrap();
    let got = &answers(&network, vec![("x", Value::floats(&[1, 1, 28, 28], bytes))])[0].1;
    assert!(got.data().iter().zip(want.data()).all(|(a, b)| (a - b).abs() < 1e-4));
    let pictures = network.pictures().unwrap();
    assert_eq!((pictures.mean[0], pictures.deviation[0]), (0.0, 1.0 / 255.0));

    // The same weights by name, with inputs after the image by channels.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.safetensors");
    onnx::state_dict(&model, &header, path, &file).unwrap();
    let archive = Archive::open(&file).unwrap();
    assert_eq!(archive.tensors().count(), model.params.len());
    for p in &model.params {
        let c = &network.graph.constants[&p.shape.name];
        assert_eq!(archive.read(&p.shape.name).unwrap(), c.numbers(), "{}", p.shape.name);
        let sum = |v: &[f32]| v.iter().map(|v| f64::from(*v)).sum::<f64>();
        assert!((sum(&c.numbers()) - sum(p.value.data())).abs() < 1e-6);
    }
}

/// The `sentencepiece` package split the texts.
#[test]
fn a_vocabulary_of_sentencepiece_splits_texts_as_that_package_does() {
    let said: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden("foreign/pieces.json")).unwrap()).unwrap();
    let archive = Archive::open(&golden("foreign/pieces.gguf")).unwrap();
    let tokens = llm::Tokens::of(&archive, said["vocabulary"].as_u64().unwrap() as usize).unwrap();
    for (text, want) in said["texts"].as_object().unwrap() {
        let want: Vec<u32> = want.as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect();
        let got = tokens.encode(text).unwrap();
        assert_eq!(got, want, "{text:?}");
        assert_eq!(&tokens.decode(&got).unwrap(), text);
    }
}

/// tiktoken, transformers and sentencepiece split the texts (`goldens/vocabularies.py`). `NNZ_VOCABULARIES` names a folder with more of them.
#[test]
fn twelve_vocabularies_split_texts_as_their_own_programs_do() {
    let more = std::env::var_os("NNZ_VOCABULARIES").map(PathBuf::from);
    for folder in [Some(golden("vocabularies")), more].into_iter().flatten() {
        let said: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("want.json")).unwrap()).unwrap();
        let texts: Vec<&str> = said["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
        let ids = |of: &serde_json::Value| -> Vec<u32> {
            of.as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect()
        };
        let all = said["tokens"].as_object().unwrap();
        assert!(all.len() == 12 && texts.len() > 80);
        for (name, want) in all {
            let file = folder.join(name);
            let tokens = match name.ends_with(".gguf") {
                true => llm::Tokens::of(&Archive::open(&file).unwrap(), usize::MAX).unwrap(),
                false => llm::Tokens::open(&file, None).unwrap(),
            };
            for (text, want) in texts.iter().zip(want.as_array().unwrap()) {
                // That package reads names of control tokens as any text; transformers and llama.cpp read the tokens, as here.
                if name.starts_with("sentencepiece") && text.contains("<s>") {
                    continue;
                }
                assert_eq!(tokens.encode(text).unwrap(), ids(want), "{name}: {text:?}");
            }
            // With the tokens that stand before and after a text.
            for (text, want) in texts.iter().zip(said["framed"][name].as_array().into_iter().flatten()) {
                assert_eq!(tokens.framed(text, 512).unwrap(), ids(want), "{name}: {text:?}, framed");
            }
        }
    }
}
