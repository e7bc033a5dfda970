//! Attributes of operators are used or refused: `goldens/told.py` took the answers from ONNX Runtime.

use nnz_onnx::{Attribute, Budget, Constant, DType, Graph, Node, OPSET, Port, Session, Value};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/foreign/told").join(name)
}

fn x() -> Value {
    Value::floats(&[1, 3, 12, 14], (0..504).map(|i| ((i * 37 % 256) as f64 / 255.0) as f32).collect())
}

#[test]
fn attributes_and_types_mean_what_they_mean_to_onnx_runtime() {
    let all: serde_json::Value = serde_json::from_slice(&std::fs::read(golden("want.json")).unwrap()).unwrap();
    assert!(all.as_object().unwrap().len() >= 16);
    for (name, want) in all.as_object().unwrap() {
        let graph = Graph::open(&golden(&format!("{name}.onnx"))).unwrap();
        let y = Session::new(&graph, None, Budget::default()).unwrap().run(vec![("x", x())]).unwrap();
        let y = y.into_iter().next().unwrap().into_floats().unwrap();
        let list = |key: &str| want[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
        assert_eq!(y.shape().iter().map(|d| *d as f64).collect::<Vec<_>>(), list("shape"), "{name}");
        for (i, (got, want)) in y.data().iter().zip(list("values")).enumerate() {
            assert!((f64::from(*got) - want).abs() < 2e-5, "{name} {i}: {got} for {want}");
        }
    }
}

fn graph(node: Node, constants: Vec<(&str, Constant)>) -> Graph {
    let port = |name: &str| Port { name: name.into(), kind: Some(DType::F32), shape: None };
    Graph {
        path: PathBuf::from("net.onnx"),
        name: "net".into(),
        opset: OPSET,
        nodes: vec![node],
        constants: constants.into_iter().map(|(n, c)| (n.into(), c)).collect(),
        inputs: vec![port("x")],
        outputs: vec![port("y")],
        metadata: Default::default(),
    }
}

#[test]
fn an_attribute_that_no_operator_acts_on_is_refused_with_its_node() {
    for (op, name, value) in [
        ("Relu", "alpha", Attribute::Float(0.5)),
        ("Cast", "too", Attribute::Int(1)),
        ("LayerNormalization", "stash_type", Attribute::Int(10)),
        ("Softmax", "axes", Attribute::Ints(vec![1])),
        ("MatMul", "transB", Attribute::Int(1)),
    ] {
        let graph = graph(Node::new(op, "y", &["x"]).with(name, value), vec![]);
        let why = Session::new(&graph, None, Budget::default()).unwrap_err().to_string();
        assert!([op, "`y`", &format!("`{name}`")].iter().all(|part| why.contains(part)), "{why}");
    }
    // Attributes without effect are allowed.
    let node = Node::new("Dropout", "y", &["x"]).with("seed", Attribute::Int(7));
    assert!(Session::new(&graph(node, vec![]), None, Budget::default()).is_ok());
}

#[test]
fn constants_keep_their_type_when_their_numbers_change() {
    let file = |kind: &str| golden(&format!("weights-{kind}.onnx"));
    for (kind, name) in [(DType::F16, "f16"), (DType::F64, "f64"), (DType::BF16, "bf16")] {
        let graph = Graph::open(&file(name)).unwrap();
        let w = &graph.constants["w"];
        assert_eq!(w.kind, kind);
        let mut numbers = w.numbers();
        numbers[1] = 0.0;
        let made = w.with(&numbers).unwrap();
        assert_eq!((made.kind, made.numbers()), (kind, numbers));
        let mut out = graph.clone();
        out.constants.insert("w".into(), made);
        let again = Graph::parse(out.write(false).into(), Path::new("w.onnx"), None).unwrap();
        assert_eq!(again.constants["w"].kind, kind);
    }
    let w = &Graph::open(&file("f16")).unwrap().constants["w"];
    assert!(w.with(&[1e6; 6]).unwrap_err().contains("range of F16"));
}

/// Sparse constants of every type, without nonzeros, and in nodes keep their type and numbers.
#[test]
fn sparse_constants_are_those_with_their_zeros() {
    let graph = Graph::open(&golden("sparse.onnx")).unwrap();
    let numbers = [0.0, 3.0, 0.0, -2.0, 0.0, 7.0f32];
    let third = numbers.map(|v| (f64::from(v) / 3.0) as f32);
    for (name, kind, want) in [
        ("floats", DType::F32, numbers),
        ("halves", DType::F16, numbers),
        ("doubles", DType::F64, third),
        ("integers", DType::I64, numbers),
        ("bytes", DType::I8, numbers),
        ("none", DType::F32, [0.0; 6]),
        ("constant", DType::F32, numbers),
    ] {
        let c = &graph.constants[name];
        assert_eq!((c.kind, &c.shape[..], c.numbers()), (kind, &[2, 3][..], want.to_vec()), "{name}");
    }
    let session = Session::new(&graph, None, Budget::default()).unwrap();
    let y = session.run(vec![("x", Value::floats(&[1, 2], vec![1.0, 10.0]))]).unwrap().remove(0);
    assert_eq!(y.numbers(), [-20.0, 3.0, 70.0]);
    // Written dense, they are read again.
    let again = Graph::parse(graph.write(false).into(), Path::new("w.onnx"), None).unwrap();
    graph.constants.iter().for_each(|(n, c)| assert_eq!(again.constants[n].numbers(), c.numbers(), "{n}"));
}

/// One matrix read twice is one weight; the others say why they stay.
#[test]
fn shared_weights_are_listed_once_and_others_say_why_they_stay() {
    let matrix = |r: usize, c: usize| Constant::floats(&[r, c], vec![1.0; r * c]);
    let mut g = graph(
        Node::new("MatMul", "a", &["x", "m"]),
        vec![
            ("m", matrix(4, 4)),
            ("left", matrix(5, 5)),
            ("table", matrix(9, 4)),
            ("three", Constant::floats(&[1, 4, 4], vec![1.0; 16])),
            ("head", matrix(4, 3)),
            ("i", Constant::ints(&[1], vec![2])),
        ],
    );
    for node in [
        Node::new("Identity", "alias", &["m"]),
        Node::new("MatMul", "b", &["a", "alias"]),
        Node::new("Gather", "t", &["table", "i"]),
        Node::new("Add", "c", &["b", "t"]),
        Node::new("MatMul", "d", &["left", "c"]),
        Node::new("MatMul", "e", &["d", "three"]),
        Node::new("MatMul", "y", &["e", "head"]),
    ] {
        g.nodes.push(node);
    }
    g.sort().unwrap();
    let found: Vec<(String, bool)> = g.matrices().into_iter().map(|m| (m.name, m.head)).collect();
    assert_eq!(found, [("m".into(), false), ("head".into(), true)]);
    let stay: std::collections::BTreeMap<String, String> = g.stay().into_iter().collect();
    for (name, says) in [("left", "on the left"), ("table", "looked up"), ("three", "3 axes")] {
        assert!(stay[name].contains(says), "{stay:?}");
    }
}
