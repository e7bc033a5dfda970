//! Networks that PyTorch exported give its outputs and its gradients: goldens/gradients.py makes the numbers.

use crate::goldens::base64;
use nnz_core::Prunable;
use nnz_engine::data::Normalization;
use nnz_engine::file::{Header, Packing, load_model_with, save_model};
use nnz_engine::{Dtype, Layers, Layout, Mode, Model, Pass, Role, Storage, StoragePolicy, Task, Tensor, Var, ops};
use nnz_onnx::{Attribute, Budget, Constant, DType, Graph, GraphNet, Port, Session, Value};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const ROWS: usize = 3;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/gradients").join(name)
}

fn floats(v: &Json) -> Vec<f32> {
    let bytes = base64(v.as_str().unwrap());
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

pub fn index() -> BTreeMap<String, Json> {
    serde_json::from_slice(&std::fs::read(golden("index.json")).unwrap()).unwrap()
}

/// Channels, height and width of a row.
fn input(row: &[usize]) -> [usize; 3] {
    match *row {
        [n] => [n, 1, 1],
        [c, h, w] => [c, h, w],
        _ => panic!("{row:?}"),
    }
}

/// The rows that the goldens were made with, channels last.
pub fn rows(row: &[usize], tokens: bool) -> Var<f32> {
    let [c, h, w] = input(row);
    let n = c * h * w;
    let number = |i: usize| if tokens { (i * 7 % 11) as f32 } else { (i * 7919 % 2003) as f32 / 1001.0 - 1.0 };
    let one = |i: usize| number(i / n * n + i % c * h * w + i % n / c);
    Var::constant(Tensor::new(&[ROWS, n], (0..ROWS * n).map(one).collect()))
}

pub fn far(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let size = want.iter().fold(0.0f64, |m, v| m.max(f64::from(v.abs())));
    got.iter().zip(want).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max) / size.max(1e-3)
}

pub fn network(name: &str, case: &Json, storage: Storage) -> Model<f32> {
    let graph = Graph::open(&golden(&format!("{name}.onnx"))).unwrap();
    let row: Vec<usize> = serde_json::from_value(case["row"].clone()).unwrap();
    GraphNet::model(&graph, input(&row), storage, &Prunable::from(true)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn outputs_and_gradients_are_those_of_pytorch() {
    for (name, case) in index() {
        let model = network(&name, &case, Storage::Auto);
        let row: Vec<usize> = serde_json::from_value(case["row"].clone()).unwrap();
        let leaves: Vec<Var<f32>> = model.params.iter().map(|p| Var::leaf(p.value.clone())).collect();
        let mode = if case["training"] == true { Mode::Train { seed: 0, step: 0 } } else { Mode::Use };
        let x = rows(&row, ["lstm", "gru", "minilm"].contains(&name.as_str()));
        let (y, _) =
            model.forward(&x, &leaves, Pass { mode, ..Pass::default() }).unwrap_or_else(|e| panic!("{name}: {e}"));
        let want = floats(&case["y"]);
        assert!(far(y.value().data(), &want) < 1e-5, "{name}: outputs {:e}", far(y.value().data(), &want));
        let classes = *y.shape().last().unwrap();
        let flat = ops::reshape(&y, &[want.len() / classes, classes]);
        let labels: Vec<u32> = (0..want.len() / classes).map(|i| (i % classes) as u32).collect();
        let loss = ops::cross_entropy(&flat, &labels);
        assert!((f64::from(loss.value().data()[0]) - case["loss"].as_f64().unwrap()).abs() < 1e-5, "{name}");
        let mut found = loss.backward(false).unwrap();
        let mut wanted = case["gradients"].as_object().unwrap().clone();
        for (param, leaf) in model.params.iter().zip(&leaves).filter(|(p, _)| p.role.trained()) {
            let label = format!("{name}: {}", param.shape.name);
            let Some(want) = wanted.remove(&param.shape.name) else { panic!("{label} is no parameter of PyTorch") };
            // Through the constant, which lies as PyTorch's parameter does.
            let mut turned = model.clone();
            let gradient = found.take(leaf).unwrap_or_else(|| Tensor::zeros(leaf.shape()));
            let at = turned.params.iter().position(|p| p.shape.name == param.shape.name).unwrap();
            turned.params[at].value = gradient;
            let graph = GraphNet::of(&turned).unwrap().graph(&turned).unwrap();
            let got = graph.constants[&param.shape.name].numbers();
            let far = far(&got, &floats(&want));
            assert!(far < 1e-5, "{label}: gradient {far:e}");
        }
        assert!(wanted.is_empty(), "{name}: no gradient of {:?}", wanted.keys().collect::<Vec<_>>());
    }
}

/// A small network that was trained on digits, exported with a batch of one.
pub fn digits() -> Graph {
    Graph::open(&golden("../digits.onnx")).unwrap()
}

pub fn all() -> Prunable {
    Prunable::from(true)
}

/// Answers of a session for rows `[rows, numbers]`, one after the other.
pub fn answers(graph: &Graph, x: &[f32], rows: usize) -> Vec<f32> {
    let session = Session::new(graph, None, Budget::default()).unwrap();
    let (name, each) = (session.inputs()[0].name.clone(), x.len() / rows);
    let shape: Vec<usize> = session.inputs()[0].shape.iter().flatten().map(|d| d.unwrap_or(1)).collect();
    let one = |row: &[f32]| session.run(vec![(&name, Value::floats(&shape, row.to_vec()))]).unwrap()[0].numbers();
    x.chunks(each).flat_map(one).map(|v| v as f32).collect()
}

/// Every third weight of a graph zero.
fn thinned(mut graph: Graph) -> Graph {
    let model = GraphNet::model(&graph, [1, 28, 28], Storage::Auto, &all()).unwrap();
    for p in model.params.iter().filter(|p| p.weight()) {
        let old = &graph.constants[&p.shape.name];
        let values =
            old.numbers().iter().enumerate().map(|(i, &v)| if i % 3 == 0 { 0.0 } else { v }).collect::<Vec<_>>();
        let new = old.with(&values).unwrap();
        graph.constants.insert(p.shape.name.clone(), new);
    }
    graph
}

fn header(model: &Model<f32>) -> Header {
    Header {
        model: model.spec.clone(),
        normalization: Normalization::NONE,
        classes: (0..10).map(|c| c.to_string()).collect(),
        texts: false,
        data: "digits".into(),
        method: "none".into(),
        prunable: all(),
        encoding: None,
        task: Task::Classification,
        scales: Vec::new(),
        dtype: Dtype::Native,
        policy: StoragePolicy::default(),
    }
}

#[test]
fn a_batch_of_one_in_the_file_stands_for_any_and_zeros_stay_under_every_storage() {
    let graph = thinned(digits());
    let x: Vec<f32> = (0..5 * 784).map(|i| (i * 37 % 256) as f32 / 255.0).collect();
    let want = answers(&graph, &x, 5);
    let mut gradients = Vec::new();
    for storage in [Storage::Masked, Storage::Sparse] {
        let model = GraphNet::model(&graph, [1, 28, 28], storage, &all()).unwrap();
        let weights = || model.params.iter().filter(|p| p.weight());
        assert!(weights().all(|p| p.nnz() == p.shape.len() - p.shape.len().div_ceil(3)));
        assert_eq!(weights().all(|p| matches!(p.layout, Layout::Sparse(_))), storage == Storage::Sparse);
        // The last that is read is the head, and what it is for is said.
        assert_eq!(weights().filter(|p| p.shape.head).map(|p| &*p.shape.name).collect::<Vec<_>>(), ["head.weight"]);
        let y = model.infer(Tensor::new(&[5, 784], x.clone())).unwrap();
        assert_eq!(y.shape(), [5, 10]);
        assert!(far(y.data(), &want) < 1e-5, "{storage:?}: {:e}", far(y.data(), &want));
        // Written, it is the same graph with the same zeros.
        let mut back = digits();
        GraphNet::of(&model).unwrap().write_into(&mut back, &model).unwrap();
        let again = GraphNet::of(&model).unwrap().graph(&model).unwrap();
        for (name, c) in &graph.constants {
            assert_eq!(c.numbers(), back.constants[name].numbers(), "{name}");
            assert_eq!(c.numbers(), again.constants[name].numbers(), "{name}");
        }
        assert_eq!(again.nodes.len(), graph.nodes.len());
        let read = Graph::parse(again.write(false).into(), Path::new("again.onnx"), None).unwrap();
        assert!(far(&answers(&read, &x, 5), &want) < 1e-5);
        // The gradients of what is there do not depend on how it is stored.
        let leaves: Vec<Var<f32>> = model.params.iter().map(|p| Var::leaf(p.value.clone())).collect();
        let (y, _) =
            model.forward(&Var::constant(Tensor::new(&[5, 784], x.clone())), &leaves, Pass::default()).unwrap();
        let mut found = ops::cross_entropy(&y, &[0, 1, 2, 3, 4]).backward(false).unwrap();
        let of = |(p, leaf): (&nnz_engine::Param<f32>, &Var<f32>)| {
            let g = found.take(leaf).unwrap();
            if p.weight() { p.by_rows().of(&g) } else { g.data().to_vec() }
        };
        gradients.push(model.params.iter().zip(&leaves).map(of).collect::<Vec<_>>());
    }
    for (a, b) in gradients[0].iter().zip(&gradients[1]) {
        assert!(far(a, b) < 1e-5, "{:e}", far(a, b));
    }
}

#[test]
fn a_file_of_nnz_holds_the_whole_graph() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("net.safetensors");
    let model = GraphNet::model(&thinned(digits()), [1, 28, 28], Storage::Sparse, &all()).unwrap();
    save_model(&path, &model, &header(&model), Packing::Smallest).unwrap();
    let layers = Layers::new().with::<GraphNet>();
    let (read, _) = load_model_with::<f32>(&path, Storage::Sparse, &layers).unwrap();
    let x = Tensor::new(&[2, 784], (0..1568).map(|i| (i % 7) as f32).collect());
    assert_eq!(read.infer(x.clone()).unwrap(), model.infer(x).unwrap());
    // Multiply-adds of a row: kernels at each of their places, two thirds of the entries.
    let dense = GraphNet::model(&digits(), [1, 28, 28], Storage::Auto, &all()).unwrap();
    let stem = 6 * 25 * 14 * 14;
    let want = stem + 6 * 9 * 196 + 36 * 196 + 12 * 54 * 49 + 24 * 108 + 240;
    assert_eq!(dense.multiply_adds(), want as f64);
    // A file whose graph was changed is refused, and says where.
    let mut text = serde_json::to_value(&model.spec).unwrap();
    for (graph, why) in [("AAAA", "not"), ("%", "base64")] {
        text["layers"][0]["graph"] = graph.into();
        let mut spec: nnz_engine::ModelSpec = serde_json::from_value(text.clone()).unwrap();
        let said = spec.bind(&layers).unwrap_err().to_string();
        assert!(said.contains("layer `onnx`") && said.contains(why), "{said}");
    }
}

#[test]
fn norms_move_their_statistics_in_training() {
    let case = &index()["vgg"];
    let model = network("vgg", case, Storage::Auto);
    let leaves: Vec<Var<f32>> = model.params.iter().map(|p| Var::leaf(p.value.clone())).collect();
    let pass = Pass { mode: Mode::Train { seed: 0, step: 0 }, ..Pass::default() };
    let (_, effects) = model.forward(&rows(&[3, 12, 12], false), &leaves, pass).unwrap();
    assert_eq!(effects.statistics.len(), 2);
    for s in &effects.statistics {
        assert!(model.params[s.mean_at].shape.name.ends_with("running_mean") && (s.momentum - 0.1).abs() < 1e-6);
        assert!(model.params[s.mean_at + 1].role == Role::Buffer);
    }
    let mut moved = model.clone();
    moved.absorb(&effects.statistics);
    assert!(moved.params[effects.statistics[0].mean_at].value != model.params[effects.statistics[0].mean_at].value);
}

/// A graph from `x`, `[any, 4]`, to `y`.
pub fn graph(build: impl FnOnce(&mut Graph) -> String) -> Graph {
    let port =
        |name: &str, shape: Vec<Option<usize>>| Port { name: name.into(), kind: Some(DType::F32), shape: Some(shape) };
    let mut g = Graph {
        path: "net.onnx".into(),
        name: "net".into(),
        opset: nnz_onnx::OPSET,
        nodes: Vec::new(),
        constants: BTreeMap::new(),
        inputs: vec![port("x", vec![None, Some(4)])],
        outputs: vec![port("y", vec![None, Some(4)])],
        metadata: BTreeMap::new(),
    };
    let wide = (0..16).map(|i| (i as f32 - 7.0) / 8.0).collect();
    g.constants.insert("w".into(), Constant::floats(&[4, 4], wide));
    let last = build(&mut g);
    g.nodes.push(nnz_onnx::Node::new("Identity", "y", &[&last]));
    g
}

fn refusal(g: &Graph) -> String {
    match GraphNet::model(g, [4, 1, 1], Storage::Auto, &all()) {
        Ok(_) => panic!("it was not refused"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn what_is_not_trained_is_refused_by_the_name_of_its_node() {
    let product = |g: &mut Graph| g.add("MatMul", &["x", "w"], &[]);
    assert!(GraphNet::model(&graph(product), [4, 1, 1], Storage::Auto, &all()).is_ok());
    // An operator that a session runs, but that has no gradient.
    let why = refusal(&graph(|g| {
        let y = product(g);
        g.add("Sin", &[&y], &[])
    }));
    assert!(why.contains("net.onnx: Sin `Sin.1`") && why.contains("no gradient") && why.contains("export"), "{why}");
    // One that only its inputs make impossible.
    let why = refusal(&graph(|g| {
        let y = product(g);
        g.add("Pow", &[&y, &y], &[])
    }));
    assert!(why.contains("Pow `Pow.1`") && why.contains("power"), "{why}");
    let why = refusal(&graph(|g| {
        g.constants.insert("pads".into(), Constant::ints(&[4], vec![0, 0, 0, 1]));
        g.constants.insert("one".into(), Constant::floats(&[], vec![1.0]));
        let y = product(g);
        g.add("Pad", &[&y, "pads", "one"], &[])
    }));
    assert!(why.contains("Pad `Pad.1`") && why.contains("other than zero"), "{why}");
    // Rows that change each other's answers.
    let why = refusal(&graph(|g| {
        let y = product(g);
        let axis = ("keepdims", Attribute::Int(1));
        g.constants.insert("axes".into(), Constant::ints(&[1], vec![0]));
        let mean = g.add("ReduceMean", &[&y, "axes"], &[axis]);
        g.add("Sub", &[&y, &mean], &[])
    }));
    assert!(why.contains("dynamic axes"), "{why}");
    // Nothing to train; rows of another shape; two inputs; an unknown shape.
    let why = refusal(&graph(|g| g.add("Relu", &["x"], &[])));
    assert!(why.contains("no weights"), "{why}");
    let why = GraphNet::model(&graph(product), [3, 2, 2], Storage::Auto, &all()).unwrap_err().to_string();
    assert!(why.contains("rows of [4]") && why.contains("2x2"), "{why}");
    let mut two = graph(product);
    two.inputs.push(Port { name: "z".into(), ..two.inputs[0].clone() });
    assert!(refusal(&two).contains("reads 2 values (x, z)"));
    let mut broken = graph(product);
    broken
        .constants
        .insert("w".into(), Constant::floats(&[4, 4], (0..16).map(|i| if i == 5 { f32::NAN } else { 1.0 }).collect()));
    assert!(refusal(&broken).contains("`w` holds NaN at number 5"));
    let mut bare = graph(product);
    bare.inputs[0].shape = None;
    assert!(refusal(&bare).contains("has no shape"));
    // Preparation of the input and masks are no parameters, other constants are.
    let names = |g: &Graph| {
        let model = GraphNet::model(g, [4, 1, 1], Storage::Auto, &all()).unwrap();
        model.params.iter().map(|p| p.shape.name.clone()).collect::<Vec<_>>()
    };
    let prepared = graph(|g| {
        for (name, values) in
            [("mean", [0.1, 0.2, 0.3, 0.4]), ("mask", [0.0, -9.0, 0.0, 0.0]), ("gain", [1.0, 2.0, 3.0, 4.0])]
        {
            g.constants.insert(name.into(), Constant::floats(&[4], values.to_vec()));
        }
        let x = g.add("Sub", &["x", "mean"], &[]);
        let y = g.add("MatMul", &[&x, "w"], &[]);
        let y = g.add("Add", &[&y, "mask"], &[]);
        g.add("Mul", &[&y, "gain"], &[])
    });
    assert_eq!(names(&prepared), ["w", "gain"]);
}

#[test]
fn the_guide_lists_the_operators_that_are_trained() {
    let page = std::fs::read_to_string(golden("../../docs/src/models.md")).unwrap();
    let (_, rest) = page.split_once("These operators have one").unwrap();
    let (_, list) = rest.split_once("\n\n").unwrap();
    let (list, _) = list.split_once(".\n").unwrap();
    let said: Vec<&str> = list.split(',').map(|n| n.trim().trim_matches('`')).collect();
    assert_eq!(said, GraphNet::operators());
}

/// Extents of headers are no promise: nothing is made for them before a pass.
#[test]
fn a_large_shape_in_a_header_takes_no_memory() {
    let mut g = graph(|g| g.add("MatMul", &["x", "w"], &[]));
    g.constants.clear();
    g.inputs.push(Port { name: "w".into(), kind: Some(DType::F32), shape: Some(vec![Some(1 << 40), Some(1 << 40)]) });
    let model =
        GraphNet::model(&graph(|g| g.add("MatMul", &["x", "w"], &[])), [4, 1, 1], Storage::Auto, &all()).unwrap();
    let mut text = serde_json::to_value(&model.spec).unwrap();
    text["layers"][0]["graph"] = encoded(&g.write(false)).into();
    let mut spec: nnz_engine::ModelSpec = serde_json::from_value(text).unwrap();
    spec.bind(&Layers::new().with::<GraphNet>()).unwrap();
    assert!(spec.check(4).unwrap_err().contains("entries"));
}

fn encoded(bytes: &[u8]) -> String {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let three = |c: &[u8]| {
        let n = (0..3).fold(0u32, |n, i| n << 8 | u32::from(*c.get(i).unwrap_or(&0)));
        (0..4)
            .map(|i| if i <= c.len() { digits[(n >> (18 - 6 * i) & 63) as usize] as char } else { '=' })
            .collect::<String>()
    };
    bytes.chunks(3).map(three).collect()
}

/// Numbers of files that would make a pass allocate without bound are refused before it does.
#[test]
fn windows_and_values_without_bound_are_refused() {
    let image = |build: &dyn Fn(&mut Graph) -> String| {
        let mut g = graph(|_| "t".into());
        g.nodes.clear();
        g.inputs[0].shape = Some(vec![None, Some(1), Some(8), Some(8)]);
        g.constants.insert("k".into(), Constant::floats(&[1, 1, 1, 1], vec![1.0]));
        let last = build(&mut g);
        g.nodes.push(nnz_onnx::Node::new("Flatten", "y", &[&last]));
        GraphNet::model(&g, [1, 8, 8], Storage::Auto, &all()).unwrap_err().to_string()
    };
    let ints = |v: &[i64]| Attribute::Ints(v.to_vec());
    let far = 1 << 20;
    let why = image(&|g| g.add("Conv", &["x", "k"], &[("pads", ints(&[far; 4])), ("strides", ints(&[far; 2]))]));
    assert!(why.contains("Conv `Conv.0`") && why.contains("more than"), "{why}");
    let why = image(&|g| {
        let y = g.add("Conv", &["x", "k"], &[]);
        g.constants.insert("to".into(), Constant::ints(&[4], vec![1, 1 << 20, 8, 8 << 20]));
        g.add("Expand", &[&y, "to"], &[])
    });
    assert!(why.contains("Expand `Expand.1`"), "{why}");
    let why = image(&|g| {
        let y = g.add("Conv", &["x", "k"], &[]);
        g.constants.insert("at".into(), Constant::ints(&[1], vec![3]));
        g.add("Slice", &[&y, "at", "at", "at"], &[])
    });
    assert!(why.contains("Slice `Slice.1`") && why.contains("no numbers"), "{why}");
}
