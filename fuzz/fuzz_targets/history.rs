#![no_main]
//! How topologies moved: what a run keeps of it, the numbers and the page made of that; and adapters.
use libfuzzer_sys::fuzz_target;
use nnz::foreign::adapter::Difference;
use nnz::lab::history::{parse, tell};
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    let _ = Difference::parse(bytes, Path::new("fuzz"));
    let Ok(events) = parse(bytes, Path::new("fuzz")) else { return };
    if let Ok(history) = tell(&events, "arm", 0, "title", [1, 4, 4]) {
        let _ = nnz::lab::report::history(&history);
    }
});
