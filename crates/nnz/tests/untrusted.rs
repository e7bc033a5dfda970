//! Every reader of untrusted bytes, on the fuzzing corpora, on small malicious files, and on valid files of which one
//! field was changed: no panic, and a bounded number of bytes of memory per input byte.
//!
//! `NNZ_CHANGES=200 cargo test -p nnz --test untrusted -- --nocapture` tries more changes and prints the readers' peaks;
//! `NNZ_LIE=hostile-view cargo test -p nnz --test untrusted lies` reads one of the malicious files.

#[path = "../../../fuzz/src/fields.rs"]
mod fields;
#[path = "../../../fuzz/src/targets.rs"]
mod targets;

use peak_alloc::PeakAlloc;
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Held by every test, since the allocator counts for all.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Peak bytes of memory that a reader takes.
fn taken(target: &str, bytes: &[u8]) -> usize {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    targets::read(target, bytes);
    MEMORY.peak_usage().saturating_sub(before)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

#[test]
fn no_reader_panics_or_takes_more_than_its_share() {
    let _alone = alone();
    let changes: u64 = std::env::var("NNZ_CHANGES").map_or(6, |n| n.parse().unwrap());
    // Whatever a first use allocates for good is allocated before anything counts.
    nnz::REGISTRY.find("set").unwrap();
    let (mut least, mut read) = (usize::MAX, 0);
    for target in targets::ALL {
        let files = targets::corpus(&root(), target);
        least = least.min(files.len());
        let (few, each) = targets::limit(target);
        let (mut most, mut at) = (0.0f64, String::new());
        for (name, bytes) in &files {
            targets::read(target, bytes);
            let seed = |i: u64| i << 32 | u64::from(crc(bytes));
            let changed = (0..changes).map(|i| fields::change(bytes, seed(i))).filter(|b| !b.is_empty());
            for (i, input) in std::iter::once(bytes.clone()).chain(changed).enumerate() {
                let taken = taken(target, &input);
                let allowed = (few << 20) + each * input.len();
                let share = taken as f64 / allowed as f64;
                if share > most {
                    (most, at) = (share, format!("{name}, change {i}: {taken} bytes for {}", input.len()));
                }
                assert!(taken <= allowed, "{target}, {name}, change {i}: {taken} bytes for {}", input.len());
                read += 1;
            }
        }
        println!("{target}: {} files, at most {:.0}% of what is allowed ({at})", files.len(), 100.0 * most);
    }
    assert!(least >= 1 && read > 3000, "{read} inputs, {least} files of a target");
}

fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |h, &b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

/// A failing input of a soak is made again from its number.
#[test]
fn a_number_gives_its_input_again() {
    let files = [b"a valid file of 12 numbers".to_vec(), vec![0; 40]];
    let inputs: Vec<_> = (0..500).map(|run| fields::input(&files, 3, run)).collect();
    assert!(inputs.iter().zip(0..).all(|(i, run)| *i == fields::input(&files, 3, run)));
    assert!(inputs.iter().filter(|i| files.contains(i)).count() < 25, "most inputs differ from their files");
    assert!(inputs.iter().collect::<BTreeSet<_>>().len() > 400, "inputs differ from each other");
    assert!(inputs[0] != fields::input(&files, 4, 0), "series differ");
}

/// A target that is added to `fuzz/` is read here, too.
#[test]
fn all_targets_are_read() {
    let _alone = alone();
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = toml::from_str(&manifest).unwrap();
    let bins = manifest["bin"].as_array().unwrap().iter().map(|b| b["name"].as_str().unwrap().to_owned());
    let all: BTreeSet<String> = targets::ALL.map(String::from).into();
    assert_eq!(bins.collect::<BTreeSet<_>>(), all);
    let folders = fs::read_dir(root().join("corpus")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    for folder in folders {
        assert!(all.contains(&folder), "corpus/{folder} belongs to no target");
    }
    for target in &all {
        let text = fs::read_to_string(root().join("fuzz_targets").join(format!("{target}.rs"))).unwrap();
        assert!(text.contains(&format!("nnz_fuzz::target!(\"{target}\")")), "{target}");
    }
}

/// A code of a mebibyte for 2^32 entries: 16 GiB of numbers.
#[test]
fn a_code_does_not_unpack_to_more_than_it_can_say() {
    let _alone = alone();
    let entry = |code: usize, shape: [usize; 2]| {
        let said = serde_json::json!({"format": "nnz-weights-1", "layout": {"w": {"packing": "entropy", "shape": shape}}, "said": null});
        let header = serde_json::json!({
            "__metadata__": {"format": "pt", "nnz": said.to_string()},
            "w.compressed": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "w.code": {"dtype": "U8", "shape": [code], "data_offsets": [4, 4 + code]},
        });
        let text = header.to_string();
        let bytes =
            [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &1f32.to_le_bytes(), &vec![0; code]].concat();
        nnz_formats::Archive::parse(bytes, Path::new("w.safetensors")).map(drop).map_err(|e| e.to_string())
    };
    let refused = entry(1 << 20, [1 << 16, 1 << 16]).unwrap_err();
    assert!(refused.contains("claims 65536x65536 entries"), "{refused}");
    entry(1 << 20, [1 << 10, 1 << 16]).unwrap();
}

/// Errors of readers on malicious files; the message names the place.
#[test]
fn lies_are_refused_by_name() {
    let _alone = alone();
    let folder = |target: &str| root().join("corpus").join(target);
    let model = |name: &str| {
        let path = folder("model").join(name);
        nnz_engine::file::load_model::<f32>(&path, nnz_engine::Storage::Auto).map(drop).map_err(|e| e.to_string())
    };
    let archive = |target: &str, name: &str| {
        let archive = nnz_formats::Archive::open(&folder(target).join(name)).map_err(|e| e.to_string())?;
        archive.tensors().try_for_each(|(n, _)| archive.read(n).map(drop)).map_err(|e| e.to_string())
    };
    let onnx = |name: &str| {
        let graph = nnz_onnx::Graph::open(&folder("onnx").join(name)).map_err(|e| e.to_string())?;
        let session =
            nnz_onnx::Session::new(&graph, None, nnz_onnx::Budget { numbers: 1 << 24 }).map_err(|e| e.to_string())?;
        session.run(vec![("x", nnz_onnx::Value::floats(&[1, 3], vec![1.0; 3]))]).map(drop).map_err(|e| e.to_string())
    };
    let asked = std::env::var("NNZ_LIE").ok();
    let left_out = |name: &str| asked.as_deref().is_some_and(|asked| asked != name);
    // All of them, so that one that fails hides no other.
    let mut wrong = Vec::new();
    let mut refused = |part: &str, name: &str, read: &dyn Fn(&str) -> Result<(), String>| {
        if left_out(name) {
            return;
        }
        let answer = catch_unwind(AssertUnwindSafe(|| read(name)));
        if !matches!(&answer, Ok(Err(why)) if why.contains(part)) {
            wrong.push(format!("{name}: {answer:?}"));
        }
    };
    let (weights, torch) = (|n: &str| archive("weights", n), |n: &str| archive("torch", n));
    refused("claims 4294967295 columns in a file of", "hostile-wide", &model);
    refused("mean 0 and deviation 0", "hostile-deviation", &model);
    refused("make no 2x3 matrix", "hostile-starts", &weights);
    refused("claims 65536x65536 entries", "hostile-code", &weights);
    refused("5 values for 1x2 entries", "hostile-values", &weights);
    refused("leaves its storage of 8 bytes", "hostile-view", &torch);
    refused("hold each other again and again", "hostile-again", &torch);
    refused("hold each other again and again", "hostile-again-tensors", &torch);
    refused("along axes [0, 0]", "hostile-axis-twice", &onnx);
    refused("3 inputs, but two are multiplied", "hostile-third-input", &onnx);
    refused("at most 8 are computed with", "hostile-axes", &onnx);
    refused("has more than the", "hostile-frame", &onnx);
    refused("has more than the", "hostile-spread", &onnx);
    assert!(wrong.is_empty(), "{wrong:#?}");
    // A product over nothing is zeros.
    if !left_out("hostile-no-inner") {
        onnx("hostile-no-inner").unwrap();
    }
}

/// Twice the columns take twice the time or a little more, not four times.
#[test]
fn wide_tables_are_read_in_time_that_grows_with_them() {
    let _alone = alone();
    let seconds = |columns: usize| {
        let names: Vec<String> = (0..columns).map(|i| format!("column{i}")).collect();
        let row = |k: usize| (0..columns).map(|i| ((i * k) % 7).to_string()).collect::<Vec<_>>().join(",");
        let text = format!("{}\n{}\n{}\n{}\n{}\n", names.join(","), row(1), row(8), row(2), row(9));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wide.csv");
        fs::write(&path, text).unwrap();
        let store = nnz::data::Store::at(dir.path());
        let begun = std::time::Instant::now();
        store.load(&format!("{}?target=column1", path.display())).unwrap();
        begun.elapsed().as_secs_f64()
    };
    // By turns, so that a busy moment meets both; eight times the columns take 64 times the time where each looks at all.
    let least = |found: [f64; 2], new: [f64; 2]| [found[0].min(new[0]), found[1].min(new[1])];
    let [small, large] = (0..5).map(|_| [seconds(10_000), seconds(80_000)]).fold([f64::INFINITY; 2], least);
    assert!(large < 40.0 * small.max(0.005), "{small} s for 10000 columns, {large} s for 80000");
}
