//! What is killed without warning and started again ends in the files of what was not: trainings, prunings of a language model,
//! comparisons, exports.
//!
//! A few kills each by default; `NNZ_KILLS=50 cargo test -p nnz --release --test kills killed -- --nocapture --test-threads 1` for more.
#![cfg(unix)]

#[path = "program/start.rs"]
mod start;

use start::program;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const RUN: &str = "train table.csv --target y --method rigl --density 0.2 --model mlp:8-48-32-3 --epochs 8 --batch 16 \
                   --seeds 2 --storage sparse --set every=\"7steps\"";

/// Starts a command; its last word is where it writes.
fn begin(dir: &Path, line: &str, out: &str) -> Child {
    let mut command = program(dir);
    command.args(line.split_whitespace().map(|w| w.replace("7steps", "7 steps"))).arg(out);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn start(dir: &Path, run: &str) -> Child {
    begin(dir, &format!("{RUN} --run-dir"), run)
}

fn finish(child: Child) {
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Removes the seconds from a record, wherever they are.
fn without_seconds(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(map) => {
            map.remove("seconds_per_epoch");
            map.values_mut().for_each(without_seconds);
        }
        serde_json::Value::Array(list) => list.iter_mut().for_each(without_seconds),
        _ => {}
    }
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Every file of a folder, or a file: name and bytes.
fn files(root: &Path) -> Files {
    fn walk(root: &Path, dir: &Path, out: &mut Files) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(root, &path, out),
                false => drop(out.insert(path.strip_prefix(root).unwrap().into(), std::fs::read(&path).unwrap())),
            }
        }
    }
    let mut out = Files::new();
    match root.is_dir() {
        true => walk(root, root, &mut out),
        false => drop(out.insert(PathBuf::new(), std::fs::read(root).unwrap())),
    }
    out
}

/// Every file of a run. Files that contain their own times are compared by their sources, and appear without them.
fn results(run: &Path) -> Files {
    let mut out = files(run);
    let record = nnz::lab::run::read_record(run).unwrap();
    let times: BTreeMap<String, Vec<f64>> = serde_json::from_slice(&out[Path::new("timings.json")]).unwrap();
    let page = out.insert("report.html".into(), Vec::new());
    assert!(page.unwrap() == nnz::lab::report::html(&record).into_bytes(), "the page is not of the record");
    for (name, text) in nnz::lab::report::csv(&record) {
        assert!(out[&Path::new("figures").join(&name)] == text.into_bytes(), "{name} is not of the record");
    }
    out.insert("figures/arms.csv".into(), Vec::new());
    for (name, seconds) in &times {
        let lines = String::from_utf8(out[&Path::new("arms").join(format!("{name}.events.jsonl"))].clone()).unwrap();
        let epochs: Vec<nnz::lab::run::record::EpochRecord> =
            lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let board = Path::new("tensorboard").join(name).join("events.out.tfevents.0.nnz");
        let curves = out.insert(board, Vec::new()).unwrap();
        assert!(
            curves == nnz::lab::report::tensorboard(Default::default(), &epochs, seconds),
            "the curves of {name} are not those of its events"
        );
    }
    let lengths = times.iter().map(|(name, seconds)| format!("{name} {}\n", seconds.len())).collect::<String>();
    out.insert("timings.json".into(), lengths.into_bytes());
    let mut plain: serde_json::Value = serde_json::from_slice(&out[Path::new("record.json")]).unwrap();
    without_seconds(&mut plain);
    out.insert("record.json".into(), plain.to_string().into_bytes());
    out
}

/// Every file of a comparison, its runs included. Pages, tables and pictures, which contain seconds of inference, are compared by
/// their sources.
fn compared(dir: &Path) -> Files {
    use nnz::lab::{compare, report};
    let mut out = files(dir);
    let runs: Vec<PathBuf> =
        out.keys().filter(|p| p.ends_with("record.json")).map(|p| p.parent().unwrap().into()).collect();
    for run in runs {
        for (name, bytes) in results(&dir.join(&run)) {
            out.insert(run.join(name), bytes);
        }
    }
    let comparison: compare::Comparison = serde_json::from_slice(&out[Path::new("compare.json")]).unwrap();
    let seconds: BTreeMap<String, f64> = serde_json::from_slice(&out[Path::new("timings.json")]).unwrap();
    let pages = [
        ("compare.md", compare::markdown(&comparison, &seconds)),
        ("compare.csv", compare::csv(&comparison, &seconds)),
        ("compare.html", report::comparison(&comparison, &seconds)),
    ];
    let pages = pages.map(|(name, text)| (name.to_string(), text));
    let pictures =
        report::comparison_pictures(&comparison, &seconds).into_iter().map(|(n, t)| (n.to_string(), t.to_string()));
    for (name, text) in pages.into_iter().chain(pictures) {
        let written = out.insert(name.clone().into(), Vec::new());
        assert!(written.is_some_and(|w| w == text.into_bytes()), "{name} is not of the comparison");
    }
    let names: Vec<&String> = seconds.keys().collect();
    out.insert("timings.json".into(), format!("{names:?}").into_bytes());
    out
}

/// Numbers in [0, 1) from a fixed seed (Weyl's sequence by the golden ratio).
fn moment(i: usize) -> f64 {
    (0.5 + 0.618_033_988_749_895 * i as f64).fract()
}

fn kills(default: usize) -> usize {
    std::env::var("NNZ_KILLS").map_or(default, |n| n.parse().unwrap())
}

/// Kills (SIGKILL: no handler runs, nothing is flushed) what `start` starts at moments spread over its length, starts it again, and
/// compares every file with those of one that was not killed. `left` sees what a killed one leaves. Returns the files.
fn kill(
    what: &str,
    kills: usize,
    dir: &Path,
    start: impl Fn(&str) -> Child,
    left: impl Fn(&Path, &Files),
    results: impl Fn(&Path) -> Files,
) -> Files {
    let begun = Instant::now();
    finish(start("whole"));
    let mut length = begun.elapsed();
    let whole = results(&dir.join("whole"));
    // Those that ended before their moment came do not count; the length is learned from them.
    let (mut killed, mut early) = (0, 0);
    for i in 0..20 * kills {
        let name = format!("cut-{i}");
        let out = dir.join(&name);
        let begun = Instant::now();
        let mut child = start(&name);
        let moment = length.mul_f64(moment(i));
        while begun.elapsed() < moment && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            length = begun.elapsed();
        } else {
            killed += 1;
            match out.exists() {
                true => left(&out, &whole),
                false => early += 1,
            }
            finish(start(&name));
        }
        let cut = results(&out);
        assert_eq!(cut.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>(), "{what}, kill {i}: other files");
        for (file, bytes) in &whole {
            assert!(cut[file] == *bytes, "{what}, kill {i}: {} differs", file.display());
        }
        match out.is_dir() {
            true => std::fs::remove_dir_all(out).unwrap(),
            false => std::fs::remove_file(out).unwrap(),
        }
        if killed == kills {
            break;
        }
    }
    println!("{what}: {killed} of {length:.1?} were killed, {early} of them before they had written; all ended alike");
    assert_eq!(killed, kills, "too few were alive when they were to be killed");
    whole
}

/// Whatever a killed process leaves under its final name is whole. The next one removes its temporary file.
fn whole_or_absent(out: &Path, whole: &Files) {
    for (name, bytes) in files(out) {
        let unfinished = name.file_name().is_some_and(|n| nnz_disk::is_unfinished(&n.to_string_lossy()));
        assert!(unfinished || whole.get(&name) == Some(&bytes), "{}/{} is half", out.display(), name.display());
    }
}

#[test]
fn killed_runs_go_on_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let mut table = String::from("a,b,c,d,e,f,g,h,y\n");
    for i in 0..600u64 {
        let x: Vec<u64> = (1..9).map(|k| (i + 1) * 2_654_435_761 * k % (97 + k)).collect();
        let y = ["low", "middle", "high"][((x[0] + x[3] + x[6]) / 110 % 3) as usize];
        table += &x.iter().map(u64::to_string).chain([y.into()]).collect::<Vec<_>>().join(",");
        table += "\n";
    }
    std::fs::write(dir.path().join("table.csv"), table).unwrap();
    let whole = kill("training", kills(5), dir.path(), |out| start(dir.path(), out), |_, _| (), results);
    assert!(whole.len() > 20, "{:?}", whole.keys());
}

/// A small Llama, pruned block by block on a text.
#[test]
fn killed_prunings_of_a_language_model_start_again() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/formats");
    std::fs::copy(goldens.join("tiny.gguf"), d.join("tiny.gguf")).unwrap();
    let text: String = (0..40_000u64).map(|i| char::from(b'a' + ((i * i * 7 + i / 26) % 26) as u8)).collect();
    std::fs::write(d.join("text.txt"), text).unwrap();
    let line = "prune tiny.gguf --method sparsegpt --density 0.5 --calibrate text.txt --calibration-length 64 \
                --calibration-tokens 16384 -o";
    let whole = kill("pruning", kills(3), d, |out| begin(d, line, out), whole_or_absent, files);
    assert!(whole.len() >= 3 && whole.contains_key(Path::new("model.safetensors")), "{:?}", whole.keys());
}

/// A large matrix, packed by its entropy, to a folder and to a file.
#[test]
fn killed_exports_start_again() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let mut writer = nnz_formats::Writer::create(&d.join("w.safetensors")).unwrap();
    for name in ["a", "b", "c", "d", "e", "f"] {
        let value = |i: u64| if mix(i).is_multiple_of(5) { (mix(i + 7) % 1000) as f32 / 500.0 - 1.0 } else { 0.0 };
        let values: Vec<f32> = (0..1 << 20).map(value).collect();
        writer.dense(name, &[1024, 1024], &values, nnz_formats::Dtype::F32).unwrap();
    }
    writer.finish(&serde_json::json!(null)).unwrap();
    let line = "convert w.safetensors --layout entropy --numbers f32 -o";
    // A name decides what is written.
    let few = kills(2);
    let whole = kill("exporting to a folder", few.div_ceil(2), d, |out| begin(d, line, out), whole_or_absent, files);
    assert_eq!(whole.len(), 1, "{:?}", whole.keys());
    std::fs::remove_dir_all(d.join("whole")).unwrap();
    let csr = "convert w.safetensors --layout csr --numbers f32 -o";
    let make = |out: &str| {
        std::fs::create_dir_all(d.join(out)).unwrap();
        begin(d, csr, &format!("{out}/w.safetensors"))
    };
    let whole = kill("exporting to a file", (few / 2).max(1), d, make, whole_or_absent, files);
    assert_eq!(whole.len(), 1);
}

fn mix(n: u64) -> u64 {
    let z = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (z ^ (z >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20
}

/// A process may die between any two of its last files. If a network's record is written but its checkpoint still
/// exists, or if all records are but the run's own, the run resumes all the same.
#[test]
fn the_last_files_may_be_missing_or_too_many() {
    let dir = tempfile::tempdir().unwrap();
    let rows = "1,2,3,4,5,6,7,8,low\n8,7,6,5,4,3,2,1,high\n1,1,1,1,1,1,1,1,middle\n".repeat(30);
    std::fs::write(dir.path().join("table.csv"), format!("a,b,c,d,e,f,g,h,y\n{rows}")).unwrap();
    let run = dir.path().join("run");
    let mut child = start(dir.path(), "run");
    let begun = Instant::now();
    // The checkpoint of the first network, kept aside.
    let checkpoint = loop {
        if let Ok(bytes) = std::fs::read(run.join("checkpoint.safetensors")) {
            break bytes;
        }
        assert!(begun.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none(), "no checkpoint seen");
    };
    finish(child);
    let whole = results(&run);
    let first = String::from_utf8_lossy(&checkpoint).find("/rigl-0").is_some();
    assert!(first, "the checkpoint seen is of the first network");
    std::fs::write(run.join("checkpoint.safetensors"), &checkpoint).unwrap();
    for gone in ["record.json", "report.html", "arms/small-dense-1.json"] {
        std::fs::remove_file(run.join(gone)).unwrap();
    }
    std::fs::write(run.join("arms/.nnz-abc.tmp"), b"half").unwrap();
    finish(start(dir.path(), "run"));
    assert!(results(&run) == whole);
}

/// The second of two processes on one run directory is refused, and the first is not disturbed.
#[test]
fn one_process_a_run_directory() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("table.csv"),
        "a,b,c,d,e,f,g,h,y\n".to_string()
            + &"1,2,3,4,5,6,7,8,low\n8,7,6,5,4,3,2,1,high\n1,1,1,1,1,1,1,1,middle\n".repeat(900),
    )
    .unwrap();
    let first = start(dir.path(), "run");
    let begun = Instant::now();
    while !dir.path().join("run/recipe.toml").exists() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(2));
    }
    let second = start(dir.path(), "run").wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(2), "{said}");
    assert!(said.contains("another process is at work in this run directory"), "{said}");
    finish(first);
    assert!(dir.path().join("run/record.json").exists());
}

/// A comparison that is killed and started again, its runs compared, too.
#[test]
fn killed_comparisons_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut table = String::from("a,b,c,d,y\n");
    for i in 0..240u64 {
        let x: Vec<u64> = (1..5).map(|k| (i + 1) * 2_654_435_761 * k % (97 + k)).collect();
        table += &format!("{},{},{},{},{}\n", x[0], x[1], x[2], x[3], ["low", "high"][(x[0] / 50) as usize % 2]);
    }
    std::fs::write(dir.path().join("table.csv"), table).unwrap();
    let line = "compare table.csv --target y --methods rigl,imp --densities 0.3,0.5 --seeds 2 --model mlp:4-24-16-2 --epochs 12 \
                --batch 16 --rates 0.05,0.2 --threads 2 --quiet --dir";
    let whole = kill("comparing", kills(3), dir.path(), |out| begin(dir.path(), line, out), |_, _| (), compared);
    let document: serde_json::Value = serde_json::from_slice(&whole[Path::new("compare.json")]).unwrap();
    let cells = document["cells"].as_array().unwrap();
    // Dense, and at both densities small-dense, static-random, magnitude, rigl and imp.
    assert_eq!(cells.len(), 11);
    for cell in cells {
        assert!(cell["refused"].is_null(), "{cell}");
        assert_eq!((cell["test"].as_array().unwrap().len(), cell["tried"].as_array().unwrap().len()), (2, 2));
        assert!(cell["steps"].as_u64().unwrap() <= cells[0]["steps"].as_u64().unwrap(), "{cell}");
    }
    for file in ["compare.md", "compare.csv", "compare.html", "accuracy-over-density.svg", "accuracy-over-seconds.svg"]
    {
        assert!(std::fs::read_to_string(dir.path().join("whole").join(file)).unwrap().contains("rigl"), "{file}");
    }
    assert!(whole.len() > 300, "{} files", whole.len());
}
