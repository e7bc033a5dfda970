//! A training that is killed without warning and resumed ends in the bits of one that was not.
//!
//! Five kills by default; `NNZ_KILLS=100 cargo test -p nnz --release --test kills -- --nocapture` for more.
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

fn start(dir: &Path, run: &str) -> Child {
    let mut command = program(dir);
    command.args(RUN.split_whitespace().map(|w| w.replace("7steps", "7 steps")));
    command.args(["--run-dir", run]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
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

/// Every file of a run: name and bytes. Files that contain their own times are compared by their sources, and
/// appear without them.
fn results(run: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, out: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, out);
            } else {
                let bytes = std::fs::read(&path).unwrap();
                out.insert(path.strip_prefix(root).unwrap().into(), bytes);
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(run, run, &mut out);
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

/// Numbers in [0, 1) from a fixed seed (Weyl's sequence by the golden ratio).
fn moment(i: usize) -> f64 {
    (0.5 + 0.618_033_988_749_895 * i as f64).fract()
}

#[test]
fn killed_runs_go_on_bit_for_bit() {
    let kills: usize = std::env::var("NNZ_KILLS").map_or(5, |n| n.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut table = String::from("a,b,c,d,e,f,g,h,y\n");
    for i in 0..600u64 {
        let x: Vec<u64> = (1..9).map(|k| (i + 1) * 2_654_435_761 * k % (97 + k)).collect();
        let y = ["low", "middle", "high"][((x[0] + x[3] + x[6]) / 110 % 3) as usize];
        table += &x.iter().map(u64::to_string).chain([y.into()]).collect::<Vec<_>>().join(",");
        table += "\n";
    }
    std::fs::write(dir.path().join("table.csv"), table).unwrap();
    let begun = Instant::now();
    finish(start(dir.path(), "whole"));
    let mut length = begun.elapsed();
    let whole = results(&dir.path().join("whole"));
    assert!(whole.len() > 20, "{:?}", whole.keys());

    // Runs that ended before their moment came do not count; the length is learned from them.
    let (mut killed, mut early) = (0, 0);
    for i in 0..20 * kills {
        let name = format!("cut-{i}");
        let run = dir.path().join(&name);
        let begun = Instant::now();
        let mut child = start(dir.path(), &name);
        let moment = length.mul_f64(moment(i));
        while begun.elapsed() < moment && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        // SIGKILL: no handler runs, nothing is flushed.
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            length = begun.elapsed();
        } else {
            killed += 1;
            early += usize::from(!run.join("recipe.toml").exists());
        }
        finish(start(dir.path(), &name));
        let cut = results(&run);
        assert_eq!(cut.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>(), "kill {i}: other files");
        for (file, bytes) in &whole {
            assert!(cut[file] == *bytes, "kill {i}: {} differs", file.display());
        }
        std::fs::remove_dir_all(run).unwrap();
        if killed == kills {
            break;
        }
    }
    println!("{killed} runs of {length:.1?} were killed, {early} of them before they had begun; all ended alike");
    assert_eq!(killed, kills, "too few runs were alive when they were to be killed");
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

/// A comparison that is killed at three moments and restarted ends in the numbers of one that was not. Seconds are apart.
#[test]
fn killed_comparisons_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut table = String::from("a,b,c,d,y\n");
    for i in 0..240u64 {
        let x: Vec<u64> = (1..5).map(|k| (i + 1) * 2_654_435_761 * k % (97 + k)).collect();
        table += &format!("{},{},{},{},{}\n", x[0], x[1], x[2], x[3], ["low", "high"][(x[0] / 50) as usize % 2]);
    }
    std::fs::write(dir.path().join("table.csv"), table).unwrap();
    let start = |name: &str| {
        let mut command = program(dir.path());
        let words = "compare table.csv --target y --methods rigl,imp --densities 0.3,0.5 --seeds 2 --model mlp:4-24-16-2 \
                     --epochs 12 --batch 16 --rates 0.05,0.2 --threads 2 --quiet --dir";
        command.args(words.split_whitespace()).arg(name);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let begun = Instant::now();
    finish(start("whole"));
    let length = begun.elapsed();
    let whole = std::fs::read(dir.path().join("whole/compare.json")).unwrap();
    let document: serde_json::Value = serde_json::from_slice(&whole).unwrap();
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
    for i in 1..4 {
        let mut child = start("cut");
        std::thread::sleep(length.mul_f64(f64::from(i) / 5.0));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    finish(start("cut"));
    assert!(std::fs::read(dir.path().join("cut/compare.json")).unwrap() == whole, "other numbers after kills");
}
