//! Operators against ONNX Runtime, architectures against PyTorch: goldens/graphs.py makes the numbers.

use nnz_formats::Archive;
use nnz_onnx::{Array, Budget, Graph, Session, Value, build};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/graphs").join(name)
}

fn json(name: &str) -> Json {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

fn numbers<T>(v: &Json, f: impl Fn(&Json) -> T) -> Vec<T> {
    v.as_array().unwrap().iter().map(f).collect()
}

fn shape(v: &Json) -> Vec<usize> {
    numbers(v, |d| d.as_u64().unwrap() as usize)
}

/// Numbers from -1 to 1 that are the same in every language.
fn typical(shape: &[usize]) -> Value {
    let n = shape.iter().product::<usize>() as u64;
    Value::floats(shape, (0..n).map(|i| (i * 7919 % 2003) as f32 / 1001.0 - 1.0).collect())
}

fn value(v: &Json) -> Value {
    if v.is_array() {
        return typical(&shape(v));
    }
    let (shape, values) = (shape(&v["shape"]), &v["values"]);
    match v["kind"].as_str().unwrap() {
        // JSON has no NaN.
        "float" => Value::floats(&shape, numbers(values, |v| v.as_f64().map_or(f32::NAN, |v| v as f32))),
        "int" => Value::ints(&shape, numbers(values, |v| v.as_i64().unwrap())),
        "byte" => Value::Byte(Array::new(&shape, numbers(values, |v| v.as_u64().unwrap() as u8))),
        "small" => Value::Small(Array::new(&shape, numbers(values, |v| v.as_i64().unwrap() as i8))),
        _ => Value::Bool(Array::new(&shape, numbers(values, |v| v.as_i64().unwrap() != 0))),
    }
}

fn given(inputs: &Json) -> Vec<(&str, Value)> {
    inputs.as_object().unwrap().iter().map(|(k, v)| (k.as_str(), value(v))).collect()
}

/// The largest difference, relative to expected values above one.
fn far(got: &Value, want: &Json) -> f64 {
    assert_eq!(got.shape(), shape(&want["shape"]));
    let step = want["step"].as_u64().unwrap_or(1) as usize;
    let wanted = numbers(&want["values"], |v| v.as_f64().unwrap());
    let have = got.numbers();
    let size = wanted.iter().fold(1.0f64, |a, b| a.max(b.abs()));
    let have: Vec<f64> = have.into_iter().step_by(step).collect();
    assert_eq!(have.len(), wanted.len());
    have.iter().zip(&wanted).map(|(a, b)| (a - b).abs() / size).fold(0.0, f64::max)
}

pub fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|&c| c != b'=').map(digit).collect();
    let whole = |c: &[u8]| c.iter().enumerate().fold(0u32, |n, (i, &d)| n | u32::from(d) << (18 - 6 * i));
    digits.chunks(4).flat_map(|c| whole(c).to_be_bytes()[1..c.len()].to_vec()).collect()
}

#[test]
fn every_operator_answers_as_in_onnx_runtime() {
    let mut seen = std::collections::BTreeSet::new();
    for case in json("ops.json").as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let bytes = base64(case["model"].as_str().unwrap());
        let graph = Graph::parse(bytes.into(), Path::new(name), None).unwrap();
        graph.nodes.iter().for_each(|n| _ = seen.insert(n.op.clone()));
        // The written graph is the one that was read, and a plain session computes the same.
        let again = Graph::parse(graph.write(false).into(), Path::new(name), None).unwrap();
        let plain = Session::plain(&again, Budget::default()).unwrap();
        for session in [Session::new(&graph, None, Budget::default()).unwrap(), plain] {
            let found = session.run(given(&case["inputs"])).unwrap();
            for (got, want) in found.iter().zip(case["outputs"].as_array().unwrap()) {
                let far = far(got, want);
                assert!(far < 2e-5, "{name}: {far}");
            }
        }
    }
    // Those of told.rs.
    for file in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/foreign/told")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|e| e == "onnx") {
            Graph::open(&path).unwrap().nodes.iter().for_each(|n| _ = seen.insert(n.op.clone()));
        }
    }
    // And those of nodes.rs.
    for folder in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/nodes")).unwrap() {
        let graph = Graph::open(&folder.unwrap().path().join("model.onnx")).unwrap();
        let mut open = vec![&graph];
        while let Some(graph) = open.pop() {
            graph.nodes.iter().for_each(|n| _ = seen.insert(n.op.clone()));
            open.extend(graph.nodes.iter().flat_map(|n| n.bodies().map(|b| &*b.graph)));
        }
    }
    // Everything known is tested, except aliases.
    let twins = [
        // Those of flow.rs.
        "ConcatFromSequence",
        "SequenceErase",
        "Acos",
        "Asin",
        "CastLike",
        "Constant",
        "Dropout",
        "GroupNormalization",
        "Identity",
        "IsInf",
        "ReduceLogSum",
        "Upsample",
    ];
    let missing: Vec<_> = nnz_onnx::KNOWN.iter().filter(|k| !seen.contains(**k) && !twins.contains(k)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

fn check(name: &str, graph: &Graph, case: &Json, within: f64) {
    // Another order of inputs may be sampled from the same numbers.
    let run = |session: Session| session.run(given(&case["inputs"])).unwrap();
    let found = run(Session::new(graph, None, Budget::default()).unwrap());
    assert_eq!(found.len(), case["outputs"].as_array().unwrap().len(), "{name}");
    for (got, want) in found.iter().zip(case["outputs"].as_array().unwrap()) {
        let far = far(got, want);
        println!("{name}: {far:.2e}");
        assert!(far < within, "{name}: {far}");
    }
    let plain = run(Session::plain(graph, Budget::default()).unwrap());
    for (a, b) in found.iter().zip(plain) {
        if let (Value::Float(a), Value::Float(b)) = (a.clone(), b) {
            let (a, b) = (a.rows(), b.rows());
            let size = a.data().iter().fold(1.0f32, |m, v| m.max(v.abs()));
            assert!(
                a.data().iter().zip(b.data()).all(|(a, b)| (a - b).abs() < 1e-4 * size),
                "{name}: joined and plain"
            );
        }
    }
}

#[test]
fn every_architecture_answers_as_in_pytorch() {
    let (small, encoders) = (json("small.json"), json("encoders.json"));
    for (name, case) in small.as_object().unwrap().iter().chain(encoders.as_object().unwrap()) {
        let archive = Archive::open(&golden(name)).unwrap();
        assert!(build::known(&archive), "{name}");
        let built = build::build(&archive).unwrap();
        check(name, &built.graph, case, 1e-4);
        // Through a file and back.
        let file = built.graph.write(false);
        check(name, &Graph::parse(file.into(), Path::new(name), None).unwrap(), case, 1e-4);
    }
}

/// Needs the real models: NNZ_MODELS names a folder into which their packages were unpacked; goldens/graphs.py lists them.
#[test]
fn real_models_answer_as_in_their_programs() {
    let Some(root) = std::env::var_os("NNZ_MODELS") else {
        eprintln!("SKIPPED: NNZ_MODELS does not name the folder of real models");
        return;
    };
    let all = json("real.json");
    for (name, case) in all["models"].as_object().unwrap() {
        let path = Path::new(&root).join(all["paths"][name].as_str().unwrap());
        let graph = match path.extension().is_some_and(|e| e == "onnx") {
            true => Graph::open(&path).unwrap(),
            false => build::build(&Archive::open(&path).unwrap()).unwrap().graph,
        };
        // Basic Pitch takes logarithms of spectra: ONNX Runtime with and without its optimizations differs from itself by 6e-4.
        check(name, &graph, case, if name == "basic-pitch" { 1e-3 } else { 1e-4 });
    }
}
