#![no_main]
//! IDX, plain and gzip.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = nnz_engine::data::parse_idx(bytes, "file");
});
