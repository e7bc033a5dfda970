//! Graphs inside nodes, sequences, and functions that files define.

use nnz_onnx::{Attribute, Body, Budget, Constant, Graph, Node, OPSET, Port, Session, Value};
use std::path::{Path, PathBuf};

fn port(name: &str) -> Port {
    Port { name: name.into(), kind: None, shape: None }
}

fn graph(nodes: Vec<Node>, inputs: &[&str], outputs: &[&str], constants: Vec<(&str, Constant)>) -> Graph {
    Graph {
        path: PathBuf::from("net.onnx"),
        name: "net".into(),
        opset: OPSET,
        nodes,
        constants: constants.into_iter().map(|(n, c)| (n.into(), c)).collect(),
        inputs: inputs.iter().map(|n| port(n)).collect(),
        outputs: outputs.iter().map(|n| port(n)).collect(),
        metadata: Default::default(),
    }
}

/// A graph inside a node: after its own inputs those that it reads from around it.
fn body(graph: Graph, declared: usize) -> Attribute {
    Attribute::Graph(Body { graph: Box::new(graph), declared })
}

fn run(graph: &Graph, given: Vec<(&str, Value)>) -> nnz_onnx::Result<Vec<Value>> {
    let read = Graph::parse(graph.write(false).into(), Path::new("net.onnx"), None)?;
    Session::new(&read, None, Budget { numbers: 1 << 12 })?.run(given)
}

#[test]
fn sequences_are_made_shortened_and_joined() {
    let nodes = vec![
        Node::new("SequenceConstruct", "s", &["x", "y", "x"]),
        Node::new("SequenceErase", "t", &["s", "at"]),
        Node::new("ConcatFromSequence", "z", &["t"]).with("axis", Attribute::Int(0)),
    ];
    let g = graph(nodes, &["x", "y"], &["z"], vec![("at", Constant::ints(&[], vec![-3]))]);
    let z = run(&g, vec![("x", Value::floats(&[2], vec![1.0, 2.0])), ("y", Value::floats(&[1], vec![3.0]))]).unwrap();
    assert_eq!(z, [Value::floats(&[3], vec![3.0, 1.0, 2.0])]);
}

#[test]
fn weights_of_a_branch_are_weights_of_the_graph() {
    let branch = |w: &str| graph(vec![Node::new("MatMul", "r", &["x", w])], &["x", w], &["r"], vec![]);
    let choose = Node::new("If", "y", &["c"])
        .with("then_branch", body(branch("a"), 0))
        .with("else_branch", body(branch("b"), 0));
    let eye = |v: f32| Constant::floats(&[2, 2], vec![v, 0.0, 0.0, v]);
    let mut g = graph(vec![choose], &["c", "x"], &["y"], vec![("a", eye(2.0)), ("b", eye(3.0))]);
    g.inputs[0].kind = Some(nnz_onnx::DType::Bool);
    let found: Vec<(String, bool)> = g.matrices().into_iter().map(|m| (m.name, m.inside)).collect();
    assert_eq!(found, [("a".into(), true), ("b".into(), true)]);
    for (c, want) in [(true, 2.0), (false, 3.0)] {
        let c = Value::Bool(nnz_onnx::Array::new(&[], vec![c]));
        let y = run(&g, vec![("c", c), ("x", Value::floats(&[1, 2], vec![1.0, 1.0]))]).unwrap();
        assert_eq!(y, [Value::floats(&[1, 2], vec![want, want])]);
    }
}

#[test]
fn a_loop_without_end_is_refused() {
    let turn = graph(
        vec![Node::new("Identity", "go", &["c"]), Node::new("Add", "next", &["v", "x"])],
        &["i", "c", "v", "x"],
        &["go", "next"],
        vec![],
    );
    let g = graph(vec![Node::new("Loop", "y", &["", "", "x"]).with("body", body(turn, 3))], &["x"], &["y"], vec![]);
    let why = run(&g, vec![("x", Value::floats(&[], vec![1.0]))]).unwrap_err().to_string();
    assert!(["Loop", "`y`", "more than 4096 steps"].iter().all(|p| why.contains(p)), "{why}");
}

/// `goldens/nodes.py functions` made the files.
#[test]
fn functions_are_replaced_by_their_nodes_within_limits() {
    let file = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/functions").join(name);
    let g = Graph::open(&file("calls.onnx")).unwrap();
    let y = Session::new(&g, None, Budget::default()).unwrap().run(vec![("x", Value::floats(&[2], vec![-1.0, 2.0]))]);
    assert_eq!(y.unwrap(), [Value::floats(&[2], vec![-0.25, 2.0])]);
    for (name, says) in [("bomb.onnx", "nodes"), ("self.onnx", "functions deep")] {
        let why = Graph::open(&file(name)).unwrap_err().to_string();
        assert!(why.contains(says), "{name}: {why}");
    }
}
