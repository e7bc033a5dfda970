#![no_main]
//! Batches of CIFAR-10.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = nnz::data::read::read_bytes("cifar10", bytes);
});
