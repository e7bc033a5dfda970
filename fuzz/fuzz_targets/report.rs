#![no_main]
//! Records of runs, and the pages made of them.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = serde_json::from_slice(bytes) {
        let _ = nnz::lab::report::html(&record);
        let _ = nnz::lab::report::csv(&record);
    }
});
