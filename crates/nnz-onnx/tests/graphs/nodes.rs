//! A sample of the node tests of the package onnx, at least one for each operator: `goldens/nodes.py sample` took them.

#[path = "../../examples/nodes.rs"]
#[allow(dead_code, reason = "the program has a main function")]
mod runner;

use std::path::Path;

#[test]
fn a_sample_of_the_node_tests_is_right() {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/nodes");
    let mut count = 0;
    for folder in std::fs::read_dir(place).unwrap().map(|e| e.unwrap().path()) {
        let (verdict, why) = runner::test(&folder);
        assert_eq!(verdict, "right", "{}: {why}", folder.display());
        count += 1;
    }
    assert!(count >= 100, "{count}");
}

#[test]
fn damaged_networks_are_answered_or_refused() {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/nodes");
    for folder in std::fs::read_dir(place).unwrap().map(|e| e.unwrap().path()) {
        let run = std::panic::catch_unwind(|| runner::damaged(&folder, 100));
        assert!(run.is_ok(), "{}", folder.display());
    }
}
