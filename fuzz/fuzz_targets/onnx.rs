#![no_main]
//! ONNX files: read, written, read again, and run on inputs of ones.
use libfuzzer_sys::fuzz_target;
use nnz_onnx::{Array, Budget, Graph, Kind, Session, Value};
use std::path::Path;

/// Numbers that a network may hold at one time.
const NUMBERS: usize = 1 << 16;

fn run(graph: &Graph) -> Option<()> {
    let session = Session::new(graph, None, Budget { numbers: NUMBERS }).ok()?;
    let mut given = Vec::new();
    for port in session.inputs() {
        let shape: Vec<usize> = port.shape.as_ref()?.iter().map(|d| d.unwrap_or(2)).collect();
        let n = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= NUMBERS)?;
        let value = match port.kind {
            Some(Kind::F32 | Kind::F16 | Kind::F64 | Kind::BF16) | None => Value::floats(&shape, vec![1.0; n]),
            Some(Kind::Bool) => Value::Bool(Array::new(&shape, vec![true; n])),
            Some(Kind::U8) => Value::Byte(Array::new(&shape, vec![1; n])),
            Some(Kind::I8) => Value::Small(Array::new(&shape, vec![1; n])),
            Some(_) => Value::ints(&shape, vec![1; n]),
        };
        given.push((port.name.as_str(), value));
    }
    session.run(given).ok().map(drop)
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(graph) = Graph::parse(bytes.to_vec().into(), Path::new("fuzz"), None) else { return };
    let _ = graph.matrices();
    let written = graph.write(true);
    Graph::parse(written.into(), Path::new("again"), None).expect("what was written is read");
    run(&graph);
});
