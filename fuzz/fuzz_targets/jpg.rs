#![no_main]
//! Pictures in JPEG.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = nnz::data::read::read_bytes("jpg", bytes);
});
