//! The program as its users meet it.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

fn nnz(dir: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nnz"));
    command.current_dir(dir).env("NNZ_DATA", dir.join("no-data")).args(line.split_whitespace()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeed(dir: &Path, line: &str) -> String {
    let out = nnz(dir, line);
    assert!(out.status.success(), "nnz {line}: {}", text(&out.stderr));
    text(&out.stdout)
}

fn json(dir: &Path, line: &str) -> Value {
    serde_json::from_str(&succeed(dir, line)).unwrap_or_else(|e| panic!("nnz {line}: no JSON: {e}"))
}

const SMALL: &str = "--model mlp:784-24-16-10 --epochs 2 --batch 256";

#[test]
fn train_prints_one_document_and_writes_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let line = format!("train mnist10k --method rigl --density 0.1 {SMALL} --json --run-dir run");
    let doc = json(dir.path(), &line);
    let arms = doc["arms"].as_array().unwrap();
    let names: Vec<&str> = arms.iter().map(|a| a["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["rigl", "static-random", "dense", "small-dense"]);
    let [rigl, random, dense, small] = &arms[..] else { panic!("four arms") };
    assert_eq!(rigl["nonzeros"], random["nonzeros"]);
    assert_eq!(dense["nonzeros"], 784 * 24 + 24 * 16 + 16 * 10);
    let (a, b) = (rigl["nonzeros"].as_f64().unwrap(), small["nonzeros"].as_f64().unwrap());
    assert!((a / b - 1.0).abs() < 0.2, "small-dense has {b} weights, rigl {a} nonzeros");
    assert!(rigl["weight_bytes"].as_u64() < dense["weight_bytes"].as_u64());
    assert!(rigl["optimizer_bytes"].as_u64() < dense["optimizer_bytes"].as_u64());
    // The small dense network has about three hidden units here: it runs, it need not read.
    assert!(arms[..3].iter().all(|a| a["test_accuracy"].as_f64() > Some(0.3)), "{arms:?}");
    assert!(arms.iter().all(|a| a["seconds_per_epoch"].as_f64() > Some(0.0)));
    for file in ["report.html", "record.json", "recipe.toml", "models/rigl.safetensors", "arms/rigl-0.events.jsonl"] {
        assert!(dir.path().join("run").join(file).exists(), "{file}");
    }
    assert!(!dir.path().join("run/checkpoint.safetensors").exists());

    // The same command again finds the result; its numbers are the same document.
    let again = nnz(dir.path(), &line);
    assert!(text(&again.stderr).contains("--again"), "{}", text(&again.stderr));
    assert_eq!(serde_json::from_slice::<Value>(&again.stdout).unwrap(), doc);
    // Another recipe may not use its directory.
    let other = nnz(dir.path(), &format!("train mnist10k --method set --density 0.1 {SMALL} --run-dir run"));
    assert_eq!(other.status.code(), Some(2));
    assert!(text(&other.stderr).contains("--run-dir"), "{}", text(&other.stderr));
    // A report can be written again.
    std::fs::remove_file(dir.path().join("run/report.html")).unwrap();
    succeed(dir.path(), "report run");
    assert!(dir.path().join("run/report.html").exists());
}

#[test]
fn several_seeds_give_an_interval() {
    let dir = tempfile::tempdir().unwrap();
    let doc = json(
        dir.path(),
        &format!("train mnist10k --method random-pruning --density 0.2 {SMALL} --seeds 2 --no-controls --json"),
    );
    let arm = &doc["arms"][0];
    assert_eq!(arm["seeds"].as_array().unwrap().len(), 2);
    let of = |i: usize| arm["seeds"][i]["test_accuracy"].as_f64().unwrap();
    assert!((arm["test_accuracy"].as_f64().unwrap() - (of(0) + of(1)) / 2.0).abs() < 1e-12);
    // t(1, 0.975) = 12.706 times |a - b| / 2.
    assert!((arm["interval"].as_f64().unwrap() - 12.7062 * (of(0) - of(1)).abs() / 2.0).abs() < 1e-4);
}

#[test]
fn a_trained_model_is_pruned_measured_and_asked() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    succeed(d, &format!("train mnist10k --method magnitude --density 1 {SMALL} --no-controls --run-dir run --quiet"));
    let model = "run/models/magnitude.safetensors";
    let before = json(d, &format!("eval {model} mnist10k --json"));
    let pruned =
        json(d, &format!("prune {model} --method magnitude --density 0.1 --data mnist10k -o small.safetensors --json"));
    assert_eq!(pruned["before"]["test_accuracy"], before["accuracy"]);
    let size = |which: &str| pruned[which]["file_bytes"].as_f64().unwrap();
    assert!(size("after") < 0.4 * size("before"), "{} of {} bytes", size("after"), size("before"));
    let after = json(d, "eval small.safetensors mnist10k --json");
    assert_eq!(pruned["after"]["test_accuracy"], after["accuracy"]);
    // Fine-tuning gives back some of what pruning took.
    let tuned = json(
        d,
        &format!(
            "prune {model} --method magnitude --density 0.1 --data mnist10k --finetune 2 --lr 0.02 -o tuned.safetensors --json"
        ),
    );
    assert!(tuned["after"]["test_accuracy"].as_f64() > pruned["after"]["test_accuracy"].as_f64());
    let seen = json(d, "inspect small.safetensors --json");
    assert!((seen["density"].as_f64().unwrap() - 0.1).abs() < 1e-3);
    assert_eq!(seen["layers"].as_array().unwrap().len(), 3);
    // Dense with zeros is the same network.
    succeed(d, &format!("prune {model} --method magnitude --density 0.1 -o zeros.safetensors --dense-layout"));
    let zeros = json(d, "eval zeros.safetensors mnist10k --json");
    assert_eq!(zeros, after);
    // A model knows its data; a page about it is written beside the text.
    assert_eq!(json(d, "eval small.safetensors --json"), after);
    succeed(d, "inspect small.safetensors --html page.html");
    assert!(std::fs::read_to_string(d.join("page.html")).unwrap().contains("fc1.weight"));
    // Pruning to what is there already removes nothing, and says so.
    let more = nnz(d, "prune small.safetensors --method magnitude --density 0.2 -o more.safetensors");
    assert_eq!(more.status.code(), Some(2));
    assert!(text(&more.stderr).contains("already"), "{}", text(&more.stderr));
    // A weight that packing would make larger is written dense.
    let little = json(d, &format!("prune {model} --method magnitude --density 0.8 -o little.safetensors --json"));
    assert!(little["after"]["file_bytes"].as_f64() < Some(1.05 * size("before")), "{little}");
    // How much is free is searched for on the data, and what is found is what is written.
    let free = json(
        d,
        &format!(
            "prune {model} --method essential-sparsity --set tolerance=0.05 --data mnist10k -o free.safetensors --json"
        ),
    );
    let (density, kept) =
        (free["after"]["density"].as_f64().unwrap(), free["after"]["test_accuracy"].as_f64().unwrap());
    assert!((0.04..0.9).contains(&density) && (density * 20.0 - (density * 20.0).round()).abs() < 0.01, "{free}");
    assert!(kept > 0.9 * before["accuracy"].as_f64().unwrap(), "{free}");
    // A method that scores by gradients asks for data, one that is born sparse cannot prune.
    for (method, asks) in
        [("snip --density 0.1", "--data"), ("rigl --density 0.1", "magnitude"), ("essential-sparsity", "--data")]
    {
        let out = nnz(d, &format!("prune {model} --method {method} -o no.safetensors"));
        assert_eq!(out.status.code(), Some(2));
        assert!(text(&out.stderr).contains(asks), "{}", text(&out.stderr));
        assert!(!d.join("no.safetensors").exists());
    }
}

/// Every bit comes back, and the adapter goes on nothing but what it was taken from.
#[test]
fn adapters_are_taken_fused_unfused_and_switched() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    succeed(d, &format!("train mnist10k --method magnitude --density 1 {SMALL} --no-controls --run-dir run --quiet"));
    std::fs::rename(d.join("run/models/magnitude.safetensors"), d.join("base")).unwrap();
    for (seed, tuned) in [(1, "first"), (2, "second")] {
        let line = format!("prune base --method s2ft --data mnist10k --finetune 1 --lr 0.02 --seed {seed} -o {tuned}");
        succeed(d, &line);
        let taken = json(d, &format!("adapter take base {tuned} -o {tuned}.adapter --json"));
        let share = taken["values"].as_f64().unwrap() / taken["of_values"].as_f64().unwrap();
        // A quarter of the columns of hidden weights, all biases and the head.
        assert!((0.2..0.4).contains(&share), "{taken}");
        assert!(taken["file_bytes"].as_f64() < taken["network_bytes"].as_f64().map(|b| 0.6 * b), "{taken}");
    }
    let same = |a: &str, b: &str| std::fs::read(d.join(a)).unwrap() == std::fs::read(d.join(b)).unwrap();
    assert!(!same("base", "first") && !same("first", "second"));
    succeed(d, "adapter fuse base first.adapter -o fused");
    assert!(same("fused", "first"));
    succeed(d, "adapter unfuse fused first.adapter -o back");
    assert!(same("back", "base"));
    succeed(d, "adapter switch fused first.adapter second.adapter -o switched");
    assert!(same("switched", "second"));
    for (line, says) in [
        ("adapter fuse first first.adapter -o no", "can be fused with that one alone"),
        ("adapter unfuse base first.adapter -o no", "nothing but that can be unfused"),
        ("adapter switch first second.adapter first.adapter -o no", "second.adapter"),
        ("adapter fuse base second -o no", "is no adapter"),
        ("adapter fuse base missing -o no", "cannot read"),
        ("adapter take base base -o no", "nothing to take"),
        ("adapter fuse base first.adapter -o base", "would overwrite"),
    ] {
        let out = nnz(d, line);
        assert_eq!(out.status.code(), Some(2), "{line}: {}", text(&out.stderr));
        assert!(text(&out.stderr).contains(says), "{line}: {}", text(&out.stderr));
        assert!(!d.join("no").exists(), "{line}");
    }
    assert!(same("back", "base"));
}

#[test]
fn bad_requests_get_a_sentence_and_exit_code_2() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("junk.safetensors"), b"not a model at all").unwrap();
    for (line, says) in [
        ("train mnist10k --method rigel", "did you mean `rigl`"),
        ("train mnist10q --method rigl", "mnist10k"),
        ("train mnist10k --method rigl --density 0", "above 0"),
        ("train mnist10k --method rigl --density -1", "above 0"),
        ("train mnist10k --method rigl --density 1.5", "at most 1"),
        ("train mnist10k --method rigl --density nan", "at most 1"),
        ("train mnist10k --method rigl --density 0.000001", "smallest density"),
        ("train mnist10k --method rigl --set evry=3", "did you mean `every`"),
        ("train mnist10k --method rigl --model mlp:100-10", "784"),
        ("train mnist10k --method rigl --model mlp:784-10", "--prune-head"),
        ("train mnist10k --method rigl --model resnet", "lenet5"),
        ("train mnist10k --method rigl --storage dense", "masked"),
        ("train mnist10k --method rigl --pattern 2:4", "random-pruning"),
        ("train mnist10k --method magnitude --pattern 3:5", "784 inputs are not a multiple of 5"),
        ("train mnist10k --method magnitude --pattern 2:4 --density 0.3", "0.5"),
        ("train mnist10k --method rigl --epochs 0", "epoch"),
        ("train mnist10k --method rigl --batch 0", "batch"),
        ("train mnist10k --method rigl --lr nan", "learning rate"),
        ("train mnist10k --method rigl --resume", "--resume"),
        ("eval junk.safetensors mnist10k", "junk.safetensors"),
        ("eval missing.safetensors mnist10k", "missing.safetensors"),
        ("inspect junk.safetensors", "junk.safetensors"),
        ("show rigel", "rigl"),
        ("run nothing/here", "no recipe"),
        ("report nowhere", "nowhere"),
        ("data get mnist10q", "mnist10k"),
        ("reproduce rigel", "rigl"),
        ("frobnicate", "unrecognized"),
    ] {
        let out = nnz(dir.path(), line);
        let says_it = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "nnz {line}: {says_it}");
        assert!(says_it.contains(says), "nnz {line}: {says_it:?} does not say {says:?}");
        assert!(!says_it.contains("panicked"), "nnz {line}: {says_it}");
        assert!(out.stdout.is_empty(), "nnz {line}: {}", text(&out.stdout));
    }
    assert!(
        !dir.path().join("runs").exists()
            || std::fs::read_dir(dir.path().join("runs"))
                .unwrap()
                .all(|run| { !run.unwrap().path().join("record.json").exists() })
    );
}

/// Methods without a density of their own.
const FREE: [&str; 9] = [
    "dlrt",
    "essential-sparsity",
    "continuous-growing",
    "neural-persistence",
    "sr-ste",
    "decay-masks",
    "bdwp",
    "s2ft",
    "grass",
];

#[test]
fn lists_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let methods = json(dir.path(), "methods --json");
    let keys: Vec<&str> = methods.as_array().unwrap().iter().map(|m| m["key"].as_str().unwrap()).collect();
    assert!(["magnitude", "rigl", "sparsegpt", "teddy", "sparseprop"].iter().all(|k| keys.contains(k)), "{keys:?}");
    for key in keys {
        let shown = succeed(dir.path(), &format!("show {key}"));
        assert!(shown.contains("density") || FREE.contains(&key), "{shown}");
        assert!(succeed(dir.path(), &format!("cite {key}")).starts_with("@article{"));
    }
    assert!(succeed(dir.path(), "cite rewire/rigl/above-random").contains("2202.02643"));
    assert!(succeed(dir.path(), "data list").contains("mnist10k"));
}

/// Ctrl-C in the middle, then the same command: the same bits as without.
#[cfg(unix)]
#[test]
fn an_interrupted_run_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let arguments =
        "train mnist10k --method rigl --density 0.1 --model mlp:784-64-32-10 --epochs 6 --batch 32 --no-controls --set";
    let arguments: Vec<&str> = arguments.split_whitespace().chain(["every=40 steps"]).collect();
    let start = |run: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nnz"));
        command.current_dir(dir.path()).args(&arguments).args(["--run-dir", run]);
        command.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    let mut child = start("cut");
    // The run has begun when its directory knows its recipe; a little later it is somewhere in the middle of training.
    let begun = Instant::now();
    while !dir.path().join("cut/recipe.toml").exists() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(150));
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let status = child.wait().unwrap();
    if kill.success() && !dir.path().join("cut/record.json").exists() {
        assert_eq!(status.code(), Some(130));
        assert!(dir.path().join("cut/checkpoint.safetensors").exists());
        let second = start("cut").wait_with_output().unwrap();
        assert!(second.status.success(), "{}", text(&second.stderr));
    } else {
        eprintln!("the run was over before it was interrupted: nothing was tested");
    }
    assert!(start("whole").wait().unwrap().success());
    for file in ["arms/rigl-0.json", "arms/rigl-0.events.jsonl", "models/rigl.safetensors"] {
        let read = |run: &str| std::fs::read(dir.path().join(run).join(file)).unwrap();
        assert!(read("cut") == read("whole"), "{file} differs");
    }
}

#[test]
fn a_table_is_trained_on_measured_and_asked() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let row = |i: usize| {
        let (x, c) = ((i * 37) % 100, ["r", "g", "b"][i % 3]);
        let y = if (x > 50) == (c == "r") { "high" } else { "low" };
        (format!("{x},{c},{}", i % 7), y)
    };
    let rows = |n: std::ops::Range<usize>| n.map(row).map(|(x, y)| format!("{x},{y}\n")).collect::<String>();
    std::fs::write(d.join("table.csv"), format!("size,colour,other,answer\n{}", rows(0..500))).unwrap();
    std::fs::write(d.join("more.csv"), format!("size,colour,other,answer\n{}", rows(500..700))).unwrap();
    let train =
        "train table.csv --target answer --method rigl --density 0.5 --model mlp:5-24-16-2 --epochs 40 --batch 32";
    let doc = json(d, &format!("{train} --no-controls --run-dir run --json"));
    assert!(doc["arms"][0]["test_accuracy"].as_f64() > Some(0.9), "{doc}");
    let model = "run/models/rigl.safetensors";
    // The model knows its table, its target and how the columns were scaled.
    let same = json(d, &format!("eval {model} --json"));
    assert_eq!((&same["accuracy"], &same["rows"]), (&doc["arms"][0]["test_accuracy"], &100.into()));
    let more = json(d, &format!("eval {model} more.csv --split all --json"));
    assert_eq!(more["rows"], 200);
    assert!(more["accuracy"].as_f64() > Some(0.9), "{more}");
    // A table without answers is answered row by row.
    let (asked, right): (Vec<String>, Vec<&str>) = (700..730).map(row).unzip();
    std::fs::write(d.join("new.csv"), format!("size,colour,other\n{}\n", asked.join("\n"))).unwrap();
    let answers = json(d, &format!("predict {model} new.csv --json"));
    let answers: Vec<&str> = answers["rows"].as_array().unwrap().iter().map(|r| r["class"].as_str().unwrap()).collect();
    let hits = answers.iter().zip(&right).filter(|(a, r)| a == r).count();
    assert!(answers.len() == 30 && hits >= 26, "{hits} of 30");
    assert!(succeed(d, &format!("predict {model} new.csv")).lines().count() == 30);
    // Pruning keeps what the model knows of its table.
    succeed(d, &format!("prune {model} --method magnitude --density 0.3 --data more.csv -o small.safetensors"));
    succeed(d, "eval small.safetensors");
    // A test file of its own.
    let own = json(d, &format!("{train} --test more.csv --no-controls --json"));
    assert!(own["run"]["data"].as_str() == Some("table.csv?target=answer&test=more.csv"), "{own}");
    let checked = json(d, "data check table.csv?target=answer --json");
    assert_eq!((&checked["train"], &checked["classes"][0]["class"]), (&400.into(), &"high".into()));
}

#[test]
fn a_table_of_numbers_is_predicted_as_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    // price = 50 size + 200 for red ones
    let row = |i: usize| {
        let (size, red) = ((i * 37 % 101) as f64 / 10.0, i.is_multiple_of(3));
        (format!("{size},{},{}", if red { "red" } else { "blue" }, i % 7), 50.0 * size + if red { 200.5 } else { 0.0 })
    };
    let rows = |n: std::ops::Range<usize>| n.map(row).map(|(x, y)| format!("{x},{y}\n")).collect::<String>();
    std::fs::write(d.join("homes.csv"), format!("size,colour,other,price\n{}", rows(0..600))).unwrap();
    let train = "train homes.csv --target price --method rigl --density 0.5 --epochs 40 --batch 32 --no-controls";
    let doc = json(d, &format!("{train} --model mlp:3-32-16-1 --optimizer adam --run-dir run --json"));
    let explained = doc["arms"][0]["test_accuracy"].as_f64().unwrap();
    assert!(explained > 0.9, "{doc}");
    let report = std::fs::read_to_string(d.join("run/report.html")).unwrap();
    assert!(report.contains("Variance explained") && !report.to_lowercase().contains("accurac"));
    let model = "run/models/rigl.safetensors";
    let same = json(d, &format!("eval {model} --json"));
    assert_eq!((same["variance_explained"].as_f64(), &same["rows"]), (Some(explained), &120.into()));
    let all = json(d, &format!("eval {model} homes.csv --split all --json"));
    assert!(all["rows"] == 600 && all["variance_explained"].as_f64() > Some(0.9), "{all}");
    // Answers are in the unit of the table.
    let (asked, right): (Vec<String>, Vec<f64>) = (600..630).map(row).unzip();
    std::fs::write(d.join("new.csv"), format!("size,colour,other\n{}\n", asked.join("\n"))).unwrap();
    let answers = json(d, &format!("predict {model} new.csv --json"));
    let answers: Vec<f64> = answers["rows"].as_array().unwrap().iter().map(|r| r["price"].as_f64().unwrap()).collect();
    assert!(answers.len() == 30 && answers.iter().zip(&right).all(|(a, r)| (a - r).abs() < 120.0), "{answers:?}");
    assert!(succeed(d, &format!("predict {model} new.csv")).lines().all(|l| l.contains("price")));
    succeed(d, &format!("prune {model} --method magnitude --density 0.3 --data homes.csv -o small.safetensors"));
    let refused = nnz(d, &format!("{train} --task classification"));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(2) && said.contains("answers=classes"), "{said}");
}

#[test]
fn a_run_is_watched_from_outside() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    assert_eq!(nnz(d, "top").status.code(), Some(2));
    succeed(d, &format!("train mnist10k --method set --density 0.1 {SMALL} --no-controls --seeds 2 --quiet"));
    let look = json(d, "top --json");
    assert_eq!((&look["finished"], &look["running"]), (&true.into(), &false.into()));
    let networks = look["networks"].as_array().unwrap();
    assert_eq!(networks.len(), 2);
    assert!(networks.iter().all(|n| n["state"] == "done" && n["epochs"].as_array().unwrap().len() == 2), "{look}");
    let text = succeed(d, "top");
    assert!(text.contains("set, seed 1") && text.contains("2/2") && text.contains('█'), "{text}");
    // Event files for TensorBoard lie beside the events.
    let run = look["directory"].as_str().unwrap();
    let events = std::fs::read(d.join(run).join("tensorboard/set-1/events.out.tfevents.0.nnz")).unwrap();
    assert!(events.windows(19).any(|w| w == b"accuracy/validation"));
    // A run that stopped says how it goes on.
    std::fs::remove_file(d.join(run).join("record.json")).unwrap();
    std::fs::remove_file(d.join(run).join("arms/set-1.json")).unwrap();
    let text = succeed(d, "top");
    assert!(text.contains("stopped; go on with `nnz run runs/"), "{text}");
}

#[test]
fn the_program_explains_itself() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    for command in [
        "train",
        "adapter",
        "run",
        "prune",
        "eval",
        "inspect",
        "predict",
        "show",
        "cite",
        "reproduce",
        "report",
        "data",
        "top",
        "man",
        "completions",
    ] {
        let help = succeed(d, &format!("help {command}"));
        assert!(help.contains("Examples:") && help.contains(&format!("nnz {command}")), "{help}");
    }
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(succeed(d, &format!("completions {shell}")).contains("reproduce"), "{shell}");
    }
    assert!(succeed(d, "man").contains(".TH nnz 1"));
    succeed(d, "man --out pages --quiet");
    let page = std::fs::read_to_string(d.join("pages/nnz-train.1")).unwrap();
    assert!(page.contains("density") && page.contains("SYNOPSIS"), "{page}");
    let doctor = nnz(d, "doctor --json");
    assert!(matches!(doctor.status.code(), Some(0 | 1)), "{}", text(&doctor.stderr));
    let findings: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let what = |name: &str| findings.as_array().unwrap().iter().find(|f| f["what"] == name).cloned().unwrap();
    assert!(what("data")["found"].as_str().unwrap().ends_with("no-data") && what("data")["wrong"].is_null());
    assert!(what("kernels")["found"].as_str().unwrap().contains("Portable"));
    // A data directory that cannot be is found out, and said.
    std::fs::write(d.join("file"), b"").unwrap();
    let sick = Command::new(env!("CARGO_BIN_EXE_nnz"))
        .current_dir(d)
        .env("NNZ_DATA", d.join("file/x"))
        .arg("doctor")
        .output()
        .unwrap();
    assert_eq!(sick.status.code(), Some(1));
    assert!(text(&sick.stdout).contains("set NNZ_DATA"), "{}", text(&sick.stdout));
}

/// Colours only where somebody looks, and not where NO_COLOR forbids them; `--quiet` says nothing; `--json` is one document.
#[test]
fn output_is_for_whom_it_is_meant() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let line = format!("train mnist10k --method set --density 0.1 {SMALL} --no-controls --run-dir run");
    let out = nnz(d, &format!("{line} --quiet"));
    assert!(out.status.success() && out.stderr.is_empty(), "{}", text(&out.stderr));
    assert!(!out.stdout.is_empty());
    for line in [
        "methods",
        "show rigl",
        "cite rigl",
        "data list",
        "data check mnist10k",
        "doctor",
        "completions bash",
        "man",
        "top run",
        "report run",
        "inspect run/models/set.safetensors",
        "eval run/models/set.safetensors",
    ] {
        let out = nnz(d, &format!("{line} --json"));
        let whole: Result<Value, _> = serde_json::from_slice(&out.stdout);
        assert!(whole.is_ok(), "nnz {line} --json: {}", text(&out.stdout));
    }
    for arguments in ["help train", "train mnist10k --method rigel", "frobnicate"] {
        let out = Command::new(env!("CARGO_BIN_EXE_nnz"))
            .current_dir(d)
            .env("NO_COLOR", "1")
            .env("CLICOLOR_FORCE", "1")
            .args(arguments.split(' '))
            .output()
            .unwrap();
        let said = text(&out.stdout) + &text(&out.stderr);
        assert!(!said.contains('\u{1b}'), "nnz {arguments}: {said:?}");
    }
}
