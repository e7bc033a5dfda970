//! Runs tests in a folder, one folder each with `model.onnx` and `data.onnx`, as `goldens/nodes.py write` makes them. Prints for each
//! its name, `right`, `refused` or `wrong`, and why.

use nnz_onnx::{Budget, Graph, Session, Value};
use std::path::Path;

/// A value among the constants: a list is `name/0`, `name/1`.
fn find(data: &Graph, name: &str) -> Option<Value> {
    match data.metadata.get(name).map(String::as_str) {
        Some("none") => None,
        Some(n) => Some(Value::List((0..n.parse().ok()?).filter_map(|i| find(data, &format!("{name}/{i}"))).collect())),
        None => data.constants.get(name).map(nnz_onnx::Constant::value),
    }
}

/// What is different, if anything.
fn differs(got: &Value, want: &Value, rtol: f64, atol: f64) -> Option<String> {
    if let (Value::List(a), Value::List(b)) = (got, want) {
        let parts = a.iter().zip(b).find_map(|(a, b)| differs(a, b, rtol, atol));
        return if a.len() == b.len() { parts } else { Some(format!("{} values for {}", a.len(), b.len())) };
    }
    if got.dtype() != want.dtype() || got.shape() != want.shape() {
        return Some(format!("{:?}{:?} for {:?}{:?}", got.dtype(), got.shape(), want.dtype(), want.shape()));
    }
    let near = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= atol + rtol * b.abs();
    let (a, b) = (got.numbers(), want.numbers());
    (0..a.len()).find(|&i| !near(a[i], b[i])).map(|i| format!("{} for {} at {i} of {:?}", a[i], b[i], got.shape()))
}

/// Runs a test: what came of it, and why.
pub fn test(folder: &Path) -> (&'static str, String) {
    let data = match Graph::open(&folder.join("data.onnx")) {
        Ok(data) => data,
        Err(e) => return ("refused", e.to_string()),
    };
    let number = |name: &str| data.metadata[name].parse::<f64>().unwrap();
    let ran = || -> nnz_onnx::Result<Vec<Value>> {
        let graph = Graph::open(&folder.join("model.onnx"))?;
        let session = Session::new(&graph, None, Budget::default())?;
        let given = (0..number("in") as usize).filter_map(|i| Some((i, find(&data, &format!("in/{i}"))?)));
        // An optional input without content is an empty list.
        let name = |i: usize| graph.inputs.get(i).map_or("", |p| p.name.as_str());
        let mut all: Vec<(&str, Value)> = given.map(|(i, v)| (name(i), v)).filter(|(n, _)| !n.is_empty()).collect();
        for p in &graph.inputs {
            if !all.iter().any(|(n, _)| *n == p.name) {
                all.push((&p.name, Value::List(Vec::new())));
            }
        }
        session.run(all)
    };
    let got = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(ran)) {
        Ok(Ok(got)) => got,
        Ok(Err(e)) => return ("refused", e.to_string()),
        Err(_) => return ("wrong", "panicked".into()),
    };
    for (i, got) in got.iter().enumerate() {
        let Some(want) = find(&data, &format!("out/{i}")) else { return ("wrong", format!("no output {i}")) };
        if let Some(why) = differs(got, &want, number("rtol"), number("atol")) {
            return ("wrong", why);
        }
    }
    if got.len() == number("out") as usize { ("right", String::new()) } else { ("wrong", "too few outputs".into()) }
}

/// Runs a test's network with bytes changed, on the test's inputs: any answer will do, but no panic.
pub fn damaged(folder: &Path, times: usize) {
    let data = Graph::open(&folder.join("data.onnx")).unwrap();
    let whole = std::fs::read(folder.join("model.onnx")).unwrap();
    for k in 0..times {
        let mut bytes = whole.clone();
        let at = (k * 7919 + 31) % bytes.len();
        bytes[at] = [0, 1, 255, bytes[at] ^ 1, bytes[at].wrapping_add(1)][k % 5];
        let Ok(graph) = Graph::parse(bytes.into(), folder, None) else { continue };
        let Ok(session) = Session::new(&graph, None, Budget { numbers: 1 << 14 }) else { continue };
        let given = graph.inputs.iter().enumerate();
        let given = given.filter_map(|(i, p)| Some((p.name.as_str(), find(&data, &format!("in/{i}"))?)));
        let _ = session.run(given.collect());
    }
}

fn main() {
    let place = std::env::args().nth(1).expect("a folder with tests");
    let mut all: Vec<_> = std::fs::read_dir(place).expect("the folder").map(|e| e.expect("an entry").path()).collect();
    all.sort();
    for folder in all {
        let (verdict, why) = test(&folder);
        let name = folder.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        println!("{name}\t{verdict}\t{}", why.replace(['\n', '\t'], " "));
    }
}
