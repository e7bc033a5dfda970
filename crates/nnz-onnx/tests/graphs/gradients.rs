//! Networks that PyTorch exported give its outputs and its gradients: goldens/gradients.py makes the numbers.

use crate::goldens::base64;
use nnz_core::Prunable;
use nnz_engine::{Mode, Model, Pass, Storage, Tensor, Var, ops};
use nnz_onnx::{Graph, GraphNet};
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

fn index() -> BTreeMap<String, Json> {
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
fn rows(row: &[usize], tokens: bool) -> Var<f32> {
    let [c, h, w] = input(row);
    let n = c * h * w;
    let number = |i: usize| if tokens { (i * 7 % 11) as f32 } else { (i * 7919 % 2003) as f32 / 1001.0 - 1.0 };
    let one = |i: usize| number(i / n * n + i % c * h * w + i % n / c);
    Var::constant(Tensor::new(&[ROWS, n], (0..ROWS * n).map(one).collect()))
}

fn far(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let size = want.iter().fold(0.0f64, |m, v| m.max(f64::from(v.abs())));
    got.iter().zip(want).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max) / size.max(1e-3)
}

fn network(name: &str, case: &Json, storage: Storage) -> Model<f32> {
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
