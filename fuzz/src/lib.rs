//! Common parts of the fuzz targets: the readers, and changes of one field in a valid file.
#![forbid(unsafe_code)]

pub mod fields;
pub mod targets;

/// A target: bytes to a reader, and libFuzzer's own mutations mixed with those of [`fields::change`].
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
            $crate::targets::read($name, bytes);
        });

        libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, most: usize, seed: u32| {
            // One mutation in two changes a field.
            let changed = if seed % 2 == 0 { $crate::fields::change(&data[..size], seed.into()) } else { Vec::new() };
            if changed.is_empty() || changed.len() > most.min(data.len()) {
                return libfuzzer_sys::fuzzer_mutate(data, size, most);
            }
            data[..changed.len()].copy_from_slice(&changed);
            changed.len()
        });
    };
}
