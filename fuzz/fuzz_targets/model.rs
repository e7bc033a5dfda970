#![no_main]
//! Models and checkpoints.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let path = std::path::Path::new("model.safetensors");
    let storage = nnz_engine::Storage::Auto;
    if let Ok((model, header)) = nnz_engine::file::parse_model::<f32>(bytes, path, storage) {
        let _ = nnz::lab::inspect::inspect(&model, &header, nnz::REGISTRY);
    }
});
