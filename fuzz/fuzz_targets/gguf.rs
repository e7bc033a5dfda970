#![no_main]
//! GGUF files.
use libfuzzer_sys::fuzz_target;
use nnz_formats::Archive;

fn read(bytes: Vec<u8>) {
    let Ok(archive) = Archive::parse(bytes, std::path::Path::new("fuzz")) else { return };
    for (name, entry) in archive.tensors() {
        if let Ok(values) = archive.read(name) {
            assert_eq!(values.len(), entry.len());
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut all = b"GGUF".to_vec();
    all.extend_from_slice(bytes);
    read(all);
});
