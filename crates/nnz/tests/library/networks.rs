//! Networks of other programs as graphs: pruned, written and read again; networks of ours written as ONNX.

use nnz_engine::file::Header;
use nnz_engine::{Model, ModelSpec, Storage, Task, Tensor, data::Normalization};
use nnz_foreign::llm::Pruning;
use nnz_foreign::onnx::{self, Network};
use nnz_formats::{Archive, Dtype, Packing};
use nnz_onnx::{Budget, Graph, Session, Value};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/graphs").join(name)
}

fn answer(network: &Network, given: &[(&'static str, Value)]) -> Vec<f32> {
    let found = network.session(None).unwrap().run(given.to_vec()).unwrap();
    found.into_iter().filter_map(Value::into_floats).flat_map(|t| t.data().to_vec()).collect()
}

fn far(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let size = a.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / size).fold(0.0, f32::max)
}

fn text(salt: i64) -> Vec<(&'static str, Value)> {
    let ids = (0..10).map(|i| 2 + (i * i * 7 + i * 3 + salt * 11) % 57).collect();
    let ones = vec![1; 10];
    let shape = [1, 10];
    vec![
        ("input_ids", Value::ints(&shape, ids)),
        ("attention_mask", Value::ints(&shape, ones)),
        ("token_type_ids", Value::ints(&shape, vec![0; 10])),
    ]
}

fn picture(name: &'static str, shape: [usize; 4], salt: usize) -> Vec<(&'static str, Value)> {
    let n = shape.iter().product::<usize>();
    vec![(name, Value::floats(&shape, (0..n).map(|i| ((i + salt) * 7919 % 2003) as f32 / 1001.0 - 1.0).collect()))]
}

#[test]
fn methods_prune_graphs_and_what_is_written_is_what_they_kept() {
    let dir = tempfile::tempdir().unwrap();
    for (name, samples) in [
        ("bert", (0..6).map(text).collect::<Vec<_>>()),
        ("plain.pth", (0..6).map(|s| picture("x", [1, 3, 16, 16], s)).collect()),
        ("lite0.pth", (0..4).map(|s| picture("pixel_values", [1, 3, 64, 64], s)).collect()),
    ] {
        for (method, said) in [
            ("magnitude", "density = 0.5"),
            ("magnitude", "density = 0.5\ndistribution = \"uniform\""),
            ("wanda", "density = 0.5"),
            ("sparsegpt", "density = 0.5"),
            ("dsnot", "density = 0.5"),
            ("magnitude", "pattern = \"2:4\""),
        ] {
            let (method, options) = (nnz::REGISTRY.find(method).unwrap(), said.parse().unwrap());
            let run = |threads: usize, packing: Option<Packing>, to: &Path| {
                let pruning = Pruning { method, options: &options, seed: 0, packing, dtype: Dtype::F32, heads: false };
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut network = Network::open(&golden(name)).unwrap();
                let pruned =
                    pool.install(|| onnx::prune(&mut network, &pruning, samples.clone(), to, false, |_, _| ()));
                (network, pruned.unwrap())
            };
            let (one, other) = (dir.path().join(format!("{name}-one")), dir.path().join(format!("{name}-other")));
            let onnx = dir.path().join("net.onnx");
            let (network, pruned) = run(1, Some(Packing::Bitmask), &one);
            assert!((pruned.density() - 0.5).abs() < 0.02, "{name} {} {}", method.key, pruned.density());
            // Bits do not depend on threads.
            run(3, Some(Packing::Bitmask), &other);
            let file = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
            assert!(file(&one) == file(&other), "{name} {}", method.key);
            // Packed and as ONNX it answers like the pruned network, and heads stay.
            let want = answer(&network, &samples[0]);
            assert!(far(&want, &answer(&Network::open(&golden(name)).unwrap(), &samples[0])) > 1e-4, "nothing changed");
            assert!(far(&want, &answer(&Network::open(&one).unwrap(), &samples[0])) < 1e-5, "{name} {}", method.key);
            // A guessed network is not written.
            if name != "plain.pth" {
                run(2, None, &onnx);
                let again = answer(&Network::open(&onnx).unwrap(), &samples[0]);
                assert!(far(&want, &again) < 1e-5, "{name} {}", method.key);
            }
            for (m, before) in
                network.matrices().iter().filter(|m| m.head).map(|m| (m, Network::open(&golden(name)).unwrap()))
            {
                assert_eq!(network.graph.constants[&m.name].numbers(), before.graph.constants[&m.name].numbers());
            }
        }
    }
}

#[test]
fn sparse_products_answer_as_dense_ones() {
    let dir = tempfile::tempdir().unwrap();
    let options = "density = 0.3".parse().unwrap();
    let method = nnz::REGISTRY.find("magnitude").unwrap();
    let lite = picture("pixel_values", [2, 3, 64, 64], 1);
    for (name, to, given) in [("bert", "bert", text(3)), ("lite0.pth", "lite0", lite)] {
        let pruning = Pruning { method, options: &options, seed: 0, packing: None, dtype: Dtype::F32, heads: false };
        let mut network = Network::open(&golden(name)).unwrap();
        onnx::prune(&mut network, &pruning, Vec::new(), &dir.path().join(to), false, |_, _| ()).unwrap();
        let want = answer(&network, &given);
        for kernel in ["sliced", "blocked", "plan"] {
            let session =
                Session::new(&network.graph, Some(Box::new(move |_, _, _, _| kernel)), Budget::default()).unwrap();
            let (found, layers) = session.explain(given.clone()).unwrap();
            assert!(layers.iter().filter(|l| l.kernel == kernel).count() >= 4, "{kernel}");
            let found: Vec<f32> =
                found.into_iter().filter_map(Value::into_floats).flat_map(|t| t.data().to_vec()).collect();
            assert!(far(&want, &found) < 1e-4, "{name} {kernel}");
        }
    }
}

#[test]
fn what_cannot_be_pruned_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("out");
    let why = |name: &str, method: &str, said: &str| {
        let (method, options) = (nnz::REGISTRY.find(method).unwrap(), said.parse().unwrap());
        let pruning = Pruning { method, options: &options, seed: 0, packing: None, dtype: Dtype::F32, heads: false };
        let mut network = Network::open(&golden(name)).unwrap();
        let found = onnx::prune(&mut network, &pruning, Vec::new(), &to, false, |_, _| ());
        assert!(!to.exists(), "nothing is written");
        found.unwrap_err().to_string()
    };
    assert!(why("bert", "wanda", "density = 0.5").contains("give a text with --calibrate"));
    assert!(why("plain.pth", "sparsegpt", "density = 0.5").contains("give pictures with --calibrate"));
    assert!(why("bert", "snip", "density = 0.5").contains("snip"));
    assert!(why("bert", "essential-sparsity", "").contains("--method magnitude --density 0.5"));
    let mut network = Network::open(&golden("bert")).unwrap();
    let (method, options) = (nnz::REGISTRY.find("wanda").unwrap(), "density = 0.5".parse().unwrap());
    let pruning = Pruning { method, options: &options, seed: 0, packing: None, dtype: Dtype::F32, heads: false };
    let less = vec![text(0)[..2].to_vec()];
    let found = onnx::prune(&mut network, &pruning, less, &to, false, |_, _| ()).unwrap_err().to_string();
    assert!(found.contains("`token_type_ids` of the network is missing") && !to.exists(), "{found}");
    assert!(why("bert", "imp", "density = 0.5").contains("rounds"));
}

/// Networks that nnz trains, with fresh weights.
fn fresh(text: &str, input: [usize; 3]) -> (Model<f32>, Header) {
    let spec = ModelSpec::parse(text, input, 5).unwrap();
    let mut model: Model<f32> = Model::born(&spec, None, Storage::Masked, false, 3).unwrap();
    // Statistics of a trained network are not zero and one.
    for (i, p) in model.params.iter_mut().enumerate() {
        if p.shape.name.contains("running") || p.shape.name.contains("bias") {
            p.value.data_mut().iter_mut().enumerate().for_each(|(k, v)| *v += ((i + k) % 7) as f32 * 0.1);
        }
    }
    let header = Header {
        model: spec,
        normalization: Normalization::new(0.5, 0.25),
        classes: ["a", "b", "c", "d", "e"].map(String::from).to_vec(),
        data: "stripes".into(),
        method: "none".into(),
        prunable: false.into(),
        texts: false,
        encoding: None,
        policy: Default::default(),
        task: Task::Classification,
        scales: Vec::new(),
        dtype: Default::default(),
    };
    (model, header)
}

/// If NNZ_WRITTEN is set, leaves files and their answers there for goldens/graphs.py to check.
fn leave(name: &str, network: &Network, given: &[(&'static str, Value)], sparse: bool) {
    let Some(folder) = std::env::var_os("NNZ_WRITTEN").map(PathBuf::from) else { return };
    let file = folder.join(format!("{name}.onnx"));
    onnx::export(network, &file, None, Dtype::F32, sparse, &serde_json::Value::Null).unwrap();
    let describe = |(name, v): &(&'static str, Value)| match v {
        Value::Int(a) => serde_json::json!({"name": name, "kind": "int", "shape": a.shape(), "values": a.data()}),
        v => {
            let t = v.clone().into_floats().unwrap();
            serde_json::json!({"name": name, "kind": "float", "shape": t.shape(), "values": t.data()})
        }
    };
    let inputs: Vec<_> = given.iter().map(describe).collect();
    let json = serde_json::json!({"inputs": inputs, "outputs": answer(network, given)});
    std::fs::write(folder.join(format!("{name}.json")), json.to_string()).unwrap();
}

#[test]
fn networks_of_ours_answer_as_onnx_as_they_do_here() {
    let dir = tempfile::tempdir().unwrap();
    for (text, input) in [
        ("mlp:48-12-5", [3, 4, 4]),
        ("lenet5", [1, 28, 28]),
        ("resnet8", [3, 16, 16]),
        ("vgg-small", [3, 32, 32]),
        ("mobilenet-small", [3, 32, 32]),
    ] {
        let (model, header) = fresh(text, input);
        let network = onnx::own(&model, &header, Path::new("net.safetensors"), true).unwrap();
        let [c, h, w] = input;
        let given = picture("x", [2, c, h, w], 5);
        let Value::Float(x) = &given[0].1 else { unreachable!() };
        let (x, area) = (x.clone().rows(), h * w);
        // Ours has channels last.
        let mut transposed = vec![0.0; x.len()];
        for (i, v) in x.data().iter().enumerate() {
            let (b, k, p) = (i / (c * area), i / area % c, i % area);
            transposed[(b * area + p) * c + k] = *v;
        }
        let want = model.infer(Tensor::new(&[2, c * area], transposed)).unwrap();
        assert!(far(want.data(), &answer(&network, &given)) < 1e-4, "{text}");
        let file = dir.path().join("net.onnx");
        onnx::export(&network, &file, None, Dtype::F32, false, &serde_json::Value::Null).unwrap();
        let again = Network::open(&file).unwrap();
        assert!(far(want.data(), &answer(&again, &given)) < 1e-4, "{text}");
        assert_eq!((again.classes.len(), again.pictures().unwrap().shape), (5, input));
        leave(text, &network, &given, false);
    }
    let (model, header) = fresh("transformer:16-1-2-7", [1, 28, 28]);
    let why = onnx::own(&model, &header, Path::new("net.safetensors"), true).unwrap_err().to_string();
    assert!(why.contains("net.safetensors") && why.contains("not written as ONNX"), "{why}");
}

#[test]
fn sparse_initializers_hold_the_same_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let options = "density = 0.1\ndistribution = \"uniform\"".parse().unwrap();
    let method = nnz::REGISTRY.find("magnitude").unwrap();
    let pruning = Pruning { method, options: &options, seed: 0, packing: None, dtype: Dtype::F32, heads: false };
    let mut network = Network::open(&golden("resnet18.pth")).unwrap();
    let (plain, sparse) = (dir.path().join("plain.onnx"), dir.path().join("sparse.onnx"));
    onnx::prune(&mut network, &pruning, Vec::new(), &plain, false, |_, _| ()).unwrap();
    onnx::export(&network, &sparse, None, Dtype::F32, true, &serde_json::Value::Null).unwrap();
    let (a, b) = (Graph::open(&plain).unwrap(), Graph::open(&sparse).unwrap());
    a.constants.iter().for_each(|(name, c)| assert_eq!(c.numbers(), b.constants[name].numbers(), "{name}"));
    let size = |p: &Path| p.metadata().unwrap().len();
    assert!(size(&sparse) < size(&plain), "{} {}", size(&sparse), size(&plain));
    leave("sparse", &network, &picture("pixel_values", [1, 3, 64, 64], 5), true);
    leave("bert", &Network::open(&golden("bert")).unwrap(), &text(1), false);
    leave("vit", &Network::open(&golden("vit")).unwrap(), &picture("pixel_values", [1, 3, 16, 16], 5), false);
    leave("lite0", &Network::open(&golden("lite0.pth")).unwrap(), &picture("pixel_values", [1, 3, 64, 64], 5), false);
    leave(
        "resnet50",
        &Network::open(&golden("resnet50.pth")).unwrap(),
        &picture("pixel_values", [1, 3, 64, 64], 5),
        false,
    );
}

/// An archive as `numpy.savez` writes it.
fn npz(path: &Path, arrays: &[(&str, &str, Vec<u8>)], stored: bool) {
    use std::io::Write;
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let method = if stored { zip::CompressionMethod::Stored } else { zip::CompressionMethod::Deflated };
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    for (name, header, data) in arrays {
        zip.start_file(format!("{name}.npy"), options).unwrap();
        zip.write_all(b"\x93NUMPY\x01\x00").unwrap();
        zip.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
        zip.write_all(header.as_bytes()).unwrap();
        zip.write_all(data).unwrap();
    }
    zip.finish().unwrap();
}

#[test]
fn arrays_of_numpy_are_weights() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.npz");
    let bytes = |v: &[f32]| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let rows = bytes(&(0..12).map(|i| i as f32 - 5.0).collect::<Vec<_>>());
    let (a, b) = (
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }",
        "{'descr': '<f4', 'fortran_order': True, 'shape': (3, 4), }",
    );
    npz(&file, &[("a", a, rows.clone()), ("b", b, rows.clone())], true);
    let archive = Archive::open(&file).unwrap();
    assert_eq!(archive.kind, "NPZ");
    assert_eq!(archive.read("a").unwrap()[..5], [-5.0, -4.0, -3.0, -2.0, -1.0]);
    assert_eq!(archive.read("b").unwrap()[..5], [-5.0, -2.0, 1.0, 4.0, -4.0]);
    let options = "density = 0.25".parse().unwrap();
    let method = nnz::REGISTRY.find("magnitude").unwrap();
    let pruning = Pruning { method, options: &options, seed: 0, packing: None, dtype: Dtype::F32, heads: false };
    let mut network = Network::open(&file).unwrap();
    assert!(onnx::known(&file));
    let to = dir.path().join("out");
    let pruned = onnx::prune(&mut network, &pruning, Vec::new(), &to, false, |_, _| ()).unwrap();
    assert_eq!(pruned.density(), 0.25);
    let kept = Archive::open(&to).unwrap().read("a").unwrap();
    assert_eq!(
        kept.iter().filter(|v| **v != 0.0).count()
            + Archive::open(&to).unwrap().read("b").unwrap().iter().filter(|v| **v != 0.0).count(),
        6
    );
    assert!(network.session(None).unwrap_err().to_string().contains("not known"));
    for (header, data, stored, says) in [
        (a, rows.clone(), false, "numpy.savez"),
        (a, rows[1..].to_vec(), true, "47 bytes"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (3,), }", vec![0; 24], true, "Python objects"),
        ("{'descr': '>f4', 'fortran_order': False, 'shape': (3, 4), }", rows.clone(), true, "`>f4`"),
        (
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999), }",
            rows.clone(),
            true,
            "bytes",
        ),
        ("{'descr': '<f4', 'shape': (3, 4), }", rows.clone(), true, "fortran_order"),
    ] {
        npz(&file, &[("a", header, data)], stored);
        let why = Archive::open(&file).unwrap_err().to_string();
        assert!(why.contains(says) && why.contains("w.npz"), "{why}");
    }
}
