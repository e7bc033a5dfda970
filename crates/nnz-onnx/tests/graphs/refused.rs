//! Files that cannot be read or run: one sentence that names the place, and nothing else.

use nnz_onnx::{Attribute, Budget, Constant, DType, Graph, Node, OPSET, Port, Session, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn port(name: &str, shape: &[usize]) -> Port {
    Port { name: name.into(), kind: Some(DType::F32), shape: Some(shape.iter().map(|&d| Some(d)).collect()) }
}

fn graph(nodes: Vec<Node>, constants: Vec<(&str, Constant)>) -> Graph {
    Graph {
        path: PathBuf::from("net.onnx"),
        name: "net".into(),
        opset: OPSET,
        nodes,
        constants: constants.into_iter().map(|(n, c)| (n.into(), c)).collect(),
        inputs: vec![port("x", &[2, 3])],
        outputs: vec![Port { name: "y".into(), kind: None, shape: None }],
        metadata: BTreeMap::new(),
    }
}

/// Why a written graph cannot be read, prepared, or run on ones.
fn why(graph: &Graph) -> String {
    let run = || -> nnz_onnx::Result<()> {
        let read = Graph::parse(graph.write(false).into(), Path::new("net.onnx"), None)?;
        let session = Session::new(&read, None, Budget { numbers: 1 << 20 })?;
        session.run(vec![("x", Value::floats(&[2, 3], vec![1.0; 6]))]).map(drop)
    };
    run().unwrap_err().to_string()
}

fn holds(graph: &Graph, parts: &[&str]) {
    let why = why(graph);
    assert!(parts.iter().all(|p| why.contains(p)), "{why}");
}

#[test]
fn an_operator_that_is_not_there_is_named_with_its_node() {
    let mut node = Node::new("ImageDecoder", "y", &["x"]);
    node.name = "the sampler".into();
    holds(&graph(vec![node], vec![]), &["ImageDecoder", "`the sampler`", "not computed"]);
    let custom = Node::new("com.example.Trick", "y", &["x"]);
    holds(&graph(vec![custom], vec![]), &["com.example.Trick", "`y`"]);
}

#[test]
fn circles_and_loose_ends_are_refused() {
    let circle = vec![Node::new("Add", "a", &["x", "y"]), Node::new("Relu", "y", &["a"])];
    holds(&graph(circle, vec![]), &["needs, directly or not, what it computes itself"]);
    holds(&graph(vec![Node::new("Relu", "y", &["z"])], vec![]), &["reads `z`", "nobody"]);
    holds(&graph(vec![Node::new("Relu", "a", &["x"])], vec![]), &["output `y`", "no node"]);
    let twice = vec![Node::new("Relu", "y", &["x"]), Node::new("Exp", "y", &["x"])];
    holds(&graph(twice, vec![]), &["`y`", "there already"]);
}

#[test]
fn nodes_out_of_order_are_put_in_order() {
    let turned = vec![Node::new("Relu", "y", &["a"]), Node::new("Neg", "a", &["x"])];
    let graph = Graph::parse(graph(turned, vec![]).write(false).into(), Path::new("net.onnx"), None).unwrap();
    assert_eq!(graph.nodes[0].op, "Neg");
}

#[test]
fn shapes_that_do_not_fit_are_refused_with_their_node() {
    let w = |shape: &[usize]| Constant::floats(shape, vec![1.0; shape.iter().product()]);
    let product = vec![Node::new("MatMul", "y", &["x", "w"])];
    holds(&graph(product.clone(), vec![("w", w(&[4, 2]))]), &["MatMul", "`y`", "[2, 3]", "reads 4"]);
    let add = vec![Node::new("Add", "y", &["x", "w"])];
    holds(&graph(add, vec![("w", w(&[2]))]), &["[2, 3]", "[2]", "spread"]);
    let conv = vec![Node::new("Conv", "y", &["x", "w"])];
    holds(&graph(conv, vec![("w", w(&[4, 3, 3, 3]))]), &["Conv", "[2, 3]"]);
    let grow = Node::new("Expand", "y", &["x", "s"]);
    let shape = Constant::ints(&[3], vec![1 << 20, 2, 3]);
    holds(&graph(vec![grow], vec![("s", shape)]), &["Expand", "more than"]);
    // Too many to be alive together, though each is small enough.
    let mut many: Vec<Node> = (0..8).map(|i| Node::new("Expand", &format!("a{i}"), &["x", "s"])).collect();
    many.push(
        Node::new("Concat", "y", &["a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7"]).with("axis", Attribute::Int(0)),
    );
    let shape = Constant::ints(&[3], vec![1 << 15, 2, 3]);
    holds(&graph(many, vec![("s", shape)]), &["more than 1048576 numbers"]);
    let attribute = Node::new("Transpose", "y", &["x"]).with("perm", Attribute::Ints(vec![0, 0]));
    holds(&graph(vec![attribute], vec![]), &["Transpose", "[0, 0]"]);
}

/// A varint field.
fn varint(field: u8, value: u8) -> Vec<u8> {
    vec![field << 3, value]
}

/// A field of bytes.
fn bytes(field: u8, content: &[u8]) -> Vec<u8> {
    assert!(content.len() < 1 << 14);
    let mut all = vec![field << 3 | 2, (content.len() as u8 & 127) | 128, (content.len() >> 7) as u8];
    all.extend(content);
    all
}

/// A file with one constant, given as a message.
fn with_tensor(tensor: &[Vec<u8>]) -> Vec<u8> {
    with_tensors(&[tensor.concat()])
}

/// A file with constants, given as messages; the node reads `w`.
fn with_tensors(tensors: &[Vec<u8>]) -> Vec<u8> {
    let node = [bytes(1, b"w"), bytes(2, b"y"), bytes(4, b"Relu")].concat();
    let tensors = tensors.iter().flat_map(|t| bytes(5, t)).collect();
    let graph = [bytes(1, &node), tensors, bytes(12, &bytes(1, b"y"))].concat();
    [bytes(7, &graph), bytes(8, &varint(2, 17))].concat()
}

fn read(file: &[u8], folder: Option<&Path>) -> String {
    Graph::parse(file.to_vec().into(), Path::new("net.onnx"), folder).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn weights_whose_bytes_do_not_fit_their_shape_are_refused() {
    let tensor = |raw: &[u8]| with_tensor(&[varint(1, 2), varint(1, 3), varint(2, 1), bytes(8, b"w"), bytes(9, raw)]);
    Graph::parse(tensor(&[0; 24]).into(), Path::new("net.onnx"), None).unwrap();
    let why = read(&tensor(&[0; 20]), None);
    assert!(why.contains("weight `w`") && why.contains("20 bytes") && why.contains("24"), "{why}");
    let text = with_tensor(&[varint(1, 1), varint(2, 8), bytes(8, b"w")]);
    assert!(read(&text, None).contains("texts"));
    let listed = with_tensor(&[varint(1, 2), varint(2, 1), bytes(8, b"w"), bytes(4, &[0; 4])]);
    assert!(read(&listed, None).contains("1 numbers, but its shape has 2"));
    // An extent of 2^56.
    let huge = [vec![1 << 3], vec![0x80; 8], vec![1]].concat();
    let huge = with_tensor(&[huge, varint(2, 1), bytes(8, b"w"), bytes(9, &[0; 4])]);
    assert!(read(&huge, None).contains("too many numbers"));
}

/// Each weight is decoded by itself: thousands of one region would take memory beyond measure.
#[test]
fn bytes_outside_are_shared_by_few_weights() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("w.bin"), [0u8; 12]).unwrap();
    let pair = bytes(13, &[bytes(1, b"location"), bytes(2, b"w.bin")].concat());
    let tensor =
        |name: &str| [varint(1, 3), varint(2, 1), bytes(8, name.as_bytes()), pair.clone(), varint(14, 1)].concat();
    let sharing = |weights: usize| {
        let others = (1..weights).map(|i| tensor(&format!("w{i}")));
        with_tensors(&std::iter::once(tensor("w")).chain(others).collect::<Vec<_>>())
    };
    Graph::parse(sharing(8).into(), Path::new("net.onnx"), Some(dir.path())).unwrap();
    let why = read(&sharing(9), Some(dir.path()));
    assert!(why.contains("whose bytes more than 8 weights share"), "{why}");
}

#[test]
fn weights_outside_are_read_from_the_folder_alone() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("w.bin"), [0u8; 12]).unwrap();
    std::fs::write(dir.path().join("secret.bin"), [0u8; 12]).unwrap();
    let tensor = |location: &str, offset: &str| {
        let pair = |k: &str, v: &str| bytes(13, &[bytes(1, k.as_bytes()), bytes(2, v.as_bytes())].concat());
        with_tensor(&[
            varint(1, 2),
            varint(2, 1),
            bytes(8, b"w"),
            pair("location", location),
            pair("offset", offset),
            varint(14, 1),
        ])
    };
    let found = Graph::parse(tensor("w.bin", "4").into(), Path::new("net.onnx"), Some(&folder)).unwrap();
    assert_eq!(found.constants["w"].numbers(), [0.0, 0.0]);
    for (location, offset, part) in [
        ("../secret.bin", "0", "leaves the model's folder"),
        ("/etc/passwd", "0", "leaves the model's folder"),
        ("a/../../secret.bin", "0", "leaves the model's folder"),
        ("missing.bin", "0", "cannot be read"),
        ("w.bin", "8", "which has 12"),
        ("w.bin", "-1", "no number"),
    ] {
        let why = read(&tensor(location, offset), Some(&folder));
        assert!(why.contains(part), "{location}: {why}");
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(dir.path().join("secret.bin"), folder.join("link.bin")).unwrap();
        let why = read(&tensor("link.bin", "0"), Some(&folder));
        assert!(why.contains("leaves the model's folder"), "{why}");
    }
    assert!(read(&tensor("w.bin", "0"), None).contains("no folder"));
}

#[test]
fn files_that_are_cut_off_or_something_else_are_refused() {
    let whole = graph(vec![Node::new("Relu", "y", &["x"])], vec![]).write(false);
    for n in 1..whole.len() {
        // A cut between two fields of the outermost message leaves a file that lacks something.
        let Err(e) = Graph::parse(whole[..n].to_vec().into(), Path::new("net.onnx"), None) else { continue };
        assert!(e.to_string().starts_with("net.onnx: "), "{e}");
    }
    assert!(read(&whole[..whole.len() - 3], None).contains("net.onnx"));
    assert!(read(b"PK\x03\x04 a zip file", None).contains("not a whole ONNX file"));
    assert!(read(b"", None).contains("no graph"));
    let old = [bytes(7, &[]), bytes(8, &varint(2, 5))].concat();
    assert!(read(&old, None).contains("version 5"));
}

#[test]
fn inputs_of_another_shape_or_kind_are_refused() {
    let session = Session::new(&graph(vec![Node::new("Relu", "y", &["x"])], vec![]), None, Budget::default()).unwrap();
    let why = |given: Vec<(&str, Value)>| session.run(given).unwrap_err().to_string();
    assert!(why(vec![]).contains("`x` of the network is missing"));
    assert!(why(vec![("z", Value::floats(&[], vec![0.0]))]).contains("no input `z`; it reads x"));
    assert!(why(vec![("x", Value::floats(&[3, 2], vec![0.0; 6]))]).contains("[2, 3]"));
    assert!(why(vec![("x", Value::ints(&[2, 3], vec![0; 6]))]).contains("F32"));
}

/// Reads, writes and runs a file; whatever it contains, nothing panics.
fn try_all(bytes: Vec<u8>) {
    let Ok(graph) = Graph::parse(bytes.into(), Path::new("net.onnx"), None) else { return };
    let _ = graph.matrices();
    Graph::parse(graph.write(true).into(), Path::new("again.onnx"), None).unwrap();
    let most = 1 << 16;
    let Ok(session) = Session::new(&graph, None, Budget { numbers: most }) else { return };
    let mut given = Vec::new();
    for port in session.inputs() {
        let Some(shape) = &port.shape else { return };
        let shape: Vec<usize> = shape.iter().map(|d| d.unwrap_or(2)).collect();
        let Some(n) = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= most) else { return };
        let value = match port.kind {
            Some(DType::F32 | DType::F16 | DType::F64 | DType::BF16) | None => Value::floats(&shape, vec![1.0; n]),
            Some(DType::Bool) => Value::Bool(nnz_onnx::Array::new(&shape, vec![true; n])),
            Some(DType::U8) => Value::Byte(nnz_onnx::Array::new(&shape, vec![1; n])),
            Some(DType::I8) => Value::Small(nnz_onnx::Array::new(&shape, vec![1; n])),
            Some(_) => Value::ints(&shape, vec![1; n]),
        };
        given.push((port.name.as_str(), value));
    }
    let _ = session.run(given);
}

/// Every input of the fuzz target, and damaged copies of them; NNZ_DAMAGED says how many of each.
#[test]
fn damaged_files_never_panic() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/onnx");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 100);
    let copies = std::env::var("NNZ_DAMAGED").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    let seed = std::env::var("NNZ_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0x9e37_79b9_7f4a_7c15u64);
    let mut state: u64 = seed | 1;
    let mut next = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n.max(1) as u64) as usize
    };
    for file in files {
        let whole = std::fs::read(&file).unwrap();
        try_all(whole.clone());
        for _ in 0..copies {
            let mut bytes = whole.clone();
            for _ in 0..1 + next(4) {
                let at = next(bytes.len());
                match next(5) {
                    0 => bytes[at] = next(256) as u8,
                    1 => bytes[at] ^= 1 << next(8),
                    2 => bytes.truncate(at + 1),
                    3 => bytes.insert(at, next(256) as u8),
                    _ => drop(bytes.remove(at)),
                }
                if bytes.is_empty() {
                    bytes.push(0);
                }
            }
            let result = std::panic::catch_unwind(|| try_all(bytes.clone()));
            if result.is_err() {
                std::fs::write(std::env::temp_dir().join("damaged.onnx"), &bytes).unwrap();
                panic!("a damaged copy of {}", file.display());
            }
        }
    }
}

/// A soak found pools and copies that multiplied the other extents of an input with none.
#[test]
fn inputs_without_numbers_whose_other_extents_no_memory_holds_are_refused() {
    let mut pool = graph(vec![Node::new("GlobalAveragePool", "y", &["x"])], vec![]);
    pool.inputs = vec![Port { name: "x".into(), kind: Some(DType::F32), shape: Some(vec![None; 4]) }];
    let session = Session::new(&pool, None, Budget { numbers: 1 << 20 }).unwrap();
    let run = |shape: &[usize]| session.run(vec![("x", Value::floats(shape, vec![]))]).map(drop);
    run(&[0, 3, 4, 5]).unwrap();
    let why = run(&[0, 1 << 40, 1 << 40, 2]).unwrap_err().to_string();
    assert!(why.contains("input `x`") && why.contains("has too many numbers"), "{why}");
}
