//! The program from its users' perspective.

use crate::start::program;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Runs a line; words between single quotes stay together.
fn nnz(dir: &Path, line: &str) -> Output {
    let parts = line.split('\'').enumerate();
    let words = parts.flat_map(|(i, part)| if i % 2 == 1 { vec![part] } else { part.split_whitespace().collect() });
    program(dir).args(words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeed(dir: &Path, line: &str) -> String {
    let out = nnz(dir, line);
    assert!(out.status.success(), "nnz {line}: {}", text(&out.stderr));
    text(&out.stdout)
}

/// The sentence with which the program refuses a line.
fn refused(dir: &Path, line: &str) -> String {
    let out = nnz(dir, line);
    assert_eq!(out.status.code(), Some(2), "nnz {line}: {}", text(&out.stderr));
    text(&out.stderr)
}

fn json(dir: &Path, line: &str) -> Value {
    serde_json::from_str(&succeed(dir, line)).unwrap_or_else(|e| panic!("nnz {line}: no JSON: {e}"))
}

const SMALL: &str = "--model mlp:784-24-16-10 --epochs 2 --batch 256";

#[test]
fn train_prints_one_document_and_writes_a_run() {
    let dir = tempfile::tempdir().unwrap();
    // Sparse, whatever the cost model says: bytes are compared.
    let line = format!("train mnist10k --method rigl --density 0.1 {SMALL} --storage sparse --json --run-dir run");
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
    // The small dense network has about three hidden units here: it only has to run, not to learn.
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
    // Fine-tuning recovers some of the accuracy lost to pruning.
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
    // A model knows its data; a page about it is written next to the text.
    assert_eq!(json(d, "eval small.safetensors --json"), after);
    succeed(d, "inspect small.safetensors --html page.html");
    assert!(std::fs::read_to_string(d.join("page.html")).unwrap().contains("fc1.weight"));
    // Other programs get it as ONNX; nnz accepts the same of it as of theirs.
    succeed(d, "convert small.safetensors -o net.onnx");
    bring(d, &["pictures"]);
    assert_eq!(classes(d, "net.onnx", "pictures/large.png").len(), 10);
    let graph = json(d, "inspect net.onnx --json");
    let density = |g: &Value| {
        g["weights"].as_array().unwrap().iter().find(|w| w["name"] == "fc1.weight").unwrap()["density"].as_f64()
    };
    assert!(density(&graph) < Some(0.15) && density(&graph) > Some(0.0), "{graph}");
    let again = json(d, "prune net.onnx --method magnitude --density 0.05 -o net-small.onnx --json");
    assert!(again["density"].as_f64() < Some(0.06), "{again}");
    // Pruning to the current density removes nothing, and says so.
    let more = nnz(d, "prune small.safetensors --method magnitude --density 0.2 -o more.safetensors");
    assert_eq!(more.status.code(), Some(2));
    assert!(text(&more.stderr).contains("already"), "{}", text(&more.stderr));
    // A weight that packing would enlarge is written dense.
    let little = json(d, &format!("prune {model} --method magnitude --density 0.8 -o little.safetensors --json"));
    assert!(little["after"]["file_bytes"].as_f64() < Some(1.05 * size("before")), "{little}");
    // The free sparsity is searched for on the data, and the result is written.
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
    // A method that scores by gradients asks for data, one that starts sparse cannot prune.
    for (method, asks) in
        [("snip --density 0.1", "--data"), ("rigl --density 0.1", "magnitude"), ("essential-sparsity", "--data")]
    {
        let out = nnz(d, &format!("prune {model} --method {method} -o no.safetensors"));
        assert_eq!(out.status.code(), Some(2));
        assert!(text(&out.stderr).contains(asks), "{}", text(&out.stderr));
        assert!(!d.join("no.safetensors").exists());
    }
}

/// Every bit is restored, and the adapter only fits the network it was taken from.
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

/// Methods without a density.
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
        // A method has a density, except those that shape something else; an experiment has metrics.
        let whole = shown.contains("density") || shown.contains("\nmetrics\n") || FREE.contains(&key);
        assert!(whole, "{shown}");
        assert!(succeed(dir.path(), &format!("cite {key}")).starts_with("@article{"));
    }
    let shown = succeed(dir.path(), "show grass");
    for part in ["share = 0.25", "share of the rows that are trained at a time", "[above 0 and at most 1]"] {
        assert!(shown.contains(part), "{shown}");
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
        let mut command = program(dir.path());
        command.args(&arguments).args(["--run-dir", run]);
        command.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    let cut = dir.path().join("cut");
    // A run that was over before it was interrupted is tried again, and interrupted earlier.
    let interrupted = [150, 50, 15, 5, 0].into_iter().any(|pause| {
        let mut child = start("cut");
        // The run has begun when its directory holds its recipe; a little later it is somewhere in the middle of training.
        let begun = Instant::now();
        while !cut.join("recipe.toml").exists() && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(pause));
        let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        let status = child.wait().unwrap();
        if !sent.success() || cut.join("record.json").exists() {
            std::fs::remove_dir_all(&cut).unwrap();
            return false;
        }
        assert_eq!(status.code(), Some(130));
        assert!(cut.join("checkpoint.safetensors").exists());
        true
    });
    assert!(interrupted, "every run was over before it was interrupted");
    let second = start("cut").wait_with_output().unwrap();
    assert!(second.status.success(), "{}", text(&second.stderr));
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
    let [high, low] = [0, 1].map(|k| same["classes"][k].clone());
    assert_eq!((&high["class"], &low["class"]), (&"high".into(), &"low".into()));
    assert_eq!(high["rows"].as_u64().unwrap() + low["rows"].as_u64().unwrap(), 100);
    let recalls = (high["recall"].as_f64().unwrap() + low["recall"].as_f64().unwrap()) / 2.0;
    assert!((same["balanced_accuracy"].as_f64().unwrap() - recalls).abs() < 1e-12, "{same}");
    for key in ["balanced_accuracy", "macro_f1", "auc"] {
        assert!(same[key].as_f64() > Some(0.85) && same[key] == doc["arms"][0][key], "{key}: {same}");
    }
    let said = succeed(d, &format!("eval {model}"));
    assert!(said.contains("balanced-accuracy ") && said.contains("precision") && said.contains("high"), "{said}");
    // Pruning keeps the model's encoding of its table.
    succeed(d, &format!("prune {model} --method magnitude --density 0.3 --data more.csv -o small.safetensors"));
    succeed(d, "eval small.safetensors");
    // A separate test file.
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
    let explained = doc["arms"][0]["test_variance_explained"].as_f64().unwrap();
    assert!(explained > 0.9 && doc["arms"][0]["test_accuracy"].is_null(), "{doc}");
    let report = std::fs::read_to_string(d.join("run/report.html")).unwrap();
    assert!(report.contains("Variance explained") && !report.to_lowercase().contains("accurac"));
    let model = "run/models/rigl.safetensors";
    let same = json(d, &format!("eval {model} --json"));
    assert_eq!((same["variance_explained"].as_f64(), &same["rows"]), (Some(explained), &120.into()));
    // The same errors in the table of the run and of the model, in units of the price; R² is the variance explained.
    for key in ["rmse", "mae", "r2"] {
        assert!(same[key].is_number() && same[key] == doc["arms"][0][key], "{key}: {same} {doc}");
    }
    assert!((same["r2"].as_f64().unwrap() - explained).abs() < 1e-5, "{same}");
    assert!(
        (10.0..80.0).contains(&same["rmse"].as_f64().unwrap()) && same["targets"][0]["target"] == "price",
        "{same}"
    );
    let csv = |name: &str| std::fs::read_to_string(d.join("run/figures").join(name)).unwrap();
    assert!(csv("arms.csv").lines().next().unwrap().contains("test_variance_explained"), "{}", csv("arms.csv"));
    assert!(csv("inputs.csv").lines().nth(2).unwrap().starts_with("rigl,0,1,colour=red,"), "{}", csv("inputs.csv"));
    assert!(report.contains("price is predicted from size, colour=red, other"));
    let all = json(d, &format!("eval {model} homes.csv --split all --json"));
    assert!(all["rows"] == 600 && all["variance_explained"].as_f64() > Some(0.9), "{all}");
    // Answers are in the units of the table.
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

/// A comparison by numbers says so wherever it names its measure, and a method that falls below the random mask is named.
#[test]
fn a_comparison_names_what_it_compares_by() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let row = |i: usize| {
        let x: Vec<f64> = (0..6).map(|k| ((i * (7 + 2 * k)) % (13 + k)) as f64).collect();
        let y = 3.0 * x[0] + x[1] * x[2] / 4.0 - x[3] + 2.0 * x[4];
        format!("{},{}\n", x.iter().map(f64::to_string).collect::<Vec<_>>().join(","), y + 0.5)
    };
    let rows: String = (0..300).map(row).collect();
    std::fs::write(d.join("homes.csv"), format!("a,b,c,d,e,f,price\n{rows}")).unwrap();
    let line = "compare homes.csv --target price --methods set --densities 0.05 --seeds 1 --epochs 6 --dir cmp";
    let out = nnz(d, &format!("{line} --json"));
    let notes = text(&out.stderr);
    assert!(out.status.success(), "{notes}");
    let doc: Value = serde_json::from_slice(&out.stdout).unwrap();
    let comparison = &doc["comparison"];
    assert_eq!((&comparison["measure"], &comparison["data"]["test"]), (&"variance explained".into(), &60.into()));
    assert!(comparison["cells"][0]["mean"]["mean"].is_number() && comparison["cells"][0]["scores"]["rmse"].is_array());
    for name in ["compare.json", "compare.md", "compare.csv", "compare.html", "variance-explained-over-density.svg"] {
        let file = std::fs::read_to_string(d.join("cmp").join(name)).unwrap().to_lowercase();
        assert!(file.contains("variance") && !file.contains("accurac"), "{name}: {file}");
    }
    let said = succeed(d, line);
    assert!(said.contains("variance explained") && said.contains("rmse") && !said.contains("accurac"), "{said}");
    // What one pruning takes from so small a network is told.
    let cells = comparison["cells"].as_array().unwrap();
    let magnitude = cells.iter().find(|c| c["arm"] == "magnitude").unwrap();
    let why = magnitude["concerns"].to_string();
    assert!(why.contains("points below static-random"), "{why}");
    assert!(notes.contains("points below static-random"), "{notes}");
    // Batches fit the table, as the note says, and are part of the request.
    assert!(
        notes.contains("batches of 16 rows instead of 128") && comparison["request"]["train"]["batch"] == 16,
        "{notes}"
    );
}

/// The default batch is part of a run's id as any option, and a given one is taken as it is.
#[test]
fn batches_of_small_tables_are_small() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let rows: String =
        (0..120).map(|i| format!("{},{},{}\n", i % 7, i % 11, if i % 7 > 3 { "a" } else { "b" })).collect();
    std::fs::write(d.join("few.csv"), format!("x,z,y\n{rows}")).unwrap();
    let line = "train few.csv --target y --method set --density 0.3 --no-controls --json";
    let [small, same, large] = ["", "--batch 16", "--batch 128"].map(|batch| json(d, &format!("{line} {batch}")));
    assert!(small["run"]["recipe"].as_str().unwrap().contains("batch = 16"), "{small}");
    assert_eq!(small["run"]["id"], same["run"]["id"]);
    assert_ne!(small["run"]["id"], large["run"]["id"]);
    assert!(small["arms"][0]["test_accuracy"].as_f64() > Some(0.9), "{small}");
    let whole = json(d, &format!("{line} --optimizer lbfgs"));
    assert!(whole["run"]["recipe"].as_str().unwrap().contains("batch = 128"), "{whole}");
    // A ramp that would prune once prunes step by step.
    let out = nnz(d, "train few.csv --target y --method gmp --density 0.3 --no-controls");
    assert!(
        out.status.success() && text(&out.stderr).contains("every is 100 steps, which comes due"),
        "{}",
        text(&out.stderr)
    );
}

/// A text that the training table does not have is refused, counts as none of the texts, or leaves its row out; in the model, in the
/// report and in the exported graph.
#[test]
fn texts_that_a_model_never_saw_are_answered_as_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let row = |i: usize| format!("{},{},{}", i * 37 % 100, ["r", "g", "b"][i % 3], ["no", "yes"][i * 7 % 5 % 2]);
    let rows: String = (0..200).map(|i| format!("{},{}\n", row(i), ["low", "high"][i % 3 % 2])).collect();
    std::fs::write(d.join("table.csv"), format!("size,colour,sold,answer\n{rows}")).unwrap();
    let asked = "size,colour,sold,answer\n10,r,no,low\n20,teal,no,high\n30,g,perhaps,high\n40,b,yes,low\n";
    std::fs::write(d.join("new.csv"), asked).unwrap();
    let train = "train table.csv --target answer --method set --density 0.5 --model mlp:5-8-2 --epochs 4 --batch 16 --no-controls";
    succeed(d, &format!("{train} --run-dir run"));
    let model = "run/models/set.safetensors";
    for line in [format!("predict {model} new.csv"), format!("eval {model} new.csv --split all")] {
        let out = nnz(d, &line);
        let why = text(&out.stderr);
        assert!(out.status.code() == Some(2) && out.stdout.is_empty(), "{why}");
        assert!(
            why.contains("new.csv, line 3, column `colour`: `teal` does not occur") && why.contains("--unseen"),
            "{why}"
        );
    }
    let out = nnz(d, &format!("predict {model} new.csv --unseen drop --target answer --json"));
    assert!(text(&out.stderr).contains("2 of 4 rows left out, the first for line 3"), "{}", text(&out.stderr));
    let left: Value = serde_json::from_slice(&out.stdout).unwrap();
    let kept: Vec<bool> = left["rows"].as_array().unwrap().iter().map(|r| r["class"].is_string()).collect();
    assert_eq!(kept, [true, false, false, true]);
    assert_eq!((&left["left_out"][1]["row"], &left["left_out"][1]["cell"]), (&2.into(), &"perhaps".into()));
    assert_eq!(left["given"], serde_json::json!(["low", null, null, "low"]));
    let lines = succeed(d, &format!("predict {model} new.csv --unseen drop"));
    assert!(
        lines.lines().count() == 4 && lines.lines().nth(2).unwrap().contains("left out  line 4, column `sold`"),
        "{lines}"
    );
    let all = json(d, &format!("predict {model} new.csv --unseen category --json"));
    assert_eq!((&all["rows"][0], &all["rows"][3]), (&left["rows"][0], &left["rows"][3]), "other rows are as they were");
    assert_eq!(json(d, &format!("eval {model} new.csv --split all --unseen drop --json"))["rows"], 2);
    assert_eq!(json(d, &format!("eval {model} new.csv --split all --unseen category --json"))["rows"], 4);

    // A choice that is made in training is kept, and reported.
    succeed(d, &format!("{train} --unseen category --test new.csv --run-dir kept"));
    let report = std::fs::read_to_string(d.join("kept/report.html")).unwrap();
    assert!(report.contains("2 cells with a text that the table learned from does not have"), "no note in the report");
    let model = "kept/models/set.safetensors";
    let want = json(d, &format!("predict {model} new.csv --json"));
    succeed(d, &format!("convert {model} -o kept.onnx"));
    let raw: [f32; 12] = [10.0, 2.0, 0.0, 20.0, -1.0, 0.0, 30.0, 1.0, -1.0, 40.0, 0.0, 1.0];
    answered_alike(d, "kept.onnx", "(4, 3)", &raw, &want, &["high", "low"]);
    let out = nnz(d, &format!("{train} --unseen other --run-dir no"));
    assert!(out.status.code() == Some(2) && text(&out.stderr).contains("category, drop or refuse"));
}

/// Asserts that a graph gives the classes and probabilities that the model gave.
fn answered_alike(d: &Path, graph: &str, shape: &str, raw: &[f32], want: &Value, classes: &[&str]) {
    let bytes: Vec<u8> = raw.iter().flat_map(|x| x.to_le_bytes()).collect();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
    let array = [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), &bytes].concat();
    std::fs::write(d.join("raw.npy"), array).unwrap();
    let got = json(d, &format!("predict {graph} --input x=raw.npy --json"));
    let values: Vec<f64> = got["outputs"][0]["values"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
    let rows = want["rows"].as_array().unwrap();
    assert_eq!(values.len(), rows.len() * classes.len(), "{got}");
    for (row, logits) in rows.iter().zip(values.chunks(classes.len())) {
        let class = classes.iter().position(|c| row["class"] == *c).unwrap();
        let sum: f64 = logits.iter().map(|l| l.exp()).sum();
        let p = logits[class].exp() / sum;
        assert!((p - row["probability"].as_f64().unwrap()).abs() < 1e-4, "{p} against {row}");
    }
}

/// The same columns of unlike scale as CSV with points, CSV with commas, svmlight and NumPy's archive: the same networks, which give
/// the same answers to rows of any of these files, and as graphs.
#[test]
fn every_format_of_a_table_of_numbers_is_the_same_data() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    // Numbers that f32 holds.
    let row = |i: usize| {
        [5000.0 + (i * 37 % 101) as f64 * 8.0, 0.25 + (i * 53 % 97) as f64 / 1024.0, (1 + i * 7 % 13) as f64]
    };
    let class = |[a, b, _]: [f64; 3]| usize::from((a - 5400.0) / 232.0 + (b - 0.3) / 0.027 > 0.0);
    let rows: Vec<[f64; 3]> = (0..400).map(row).collect();
    let lines = |f: &dyn Fn(&[f64; 3]) -> String| rows.iter().map(f).collect::<String>();
    let csv = lines(&|r @ [a, b, c]| format!("{a},{b},{c},{}\n", class(*r)));
    std::fs::write(d.join("t.csv"), &csv).unwrap();
    std::fs::write(d.join("de.csv"), csv.replace(',', ";").replace('.', ",")).unwrap();
    std::fs::write(d.join("t.svm"), lines(&|r @ [a, b, c]| format!("{} 1:{a} 2:{b} 3:{c}\n", class(*r)))).unwrap();
    let floats: Vec<f32> = rows.iter().flatten().map(|v| *v as f32).collect();
    let x: Vec<u8> = floats.iter().flat_map(|v| v.to_le_bytes()).collect();
    let y: Vec<u8> = rows.iter().flat_map(|r| (class(*r) as f32).to_le_bytes()).collect();
    std::fs::write(d.join("t.npz"), npz(&[("x", "(400, 3)", &x), ("y", "(400,)", &y)])).unwrap();
    let train = "--method set --density 0.6 --model mlp:3-16-2 --epochs 30 --batch 16 --no-controls --json";
    let mut found = Vec::new();
    for (place, name) in [("t.csv --target 4", "csv"), ("de.csv --target 4", "de"), ("t.svm", "svm"), ("t.npz", "npz")]
    {
        let doc = json(d, &format!("train {place} {train} --run-dir {name}"));
        let accuracy = doc["arms"][0]["test_accuracy"].as_f64().unwrap();
        let file = place.split(' ').next().unwrap();
        let model = format!("{name}/models/set.safetensors");
        let eval = json(d, &format!("eval {model} --json"));
        assert_eq!(eval["accuracy"].as_f64(), Some(accuracy), "{name}");
        let answers = json(d, &format!("predict {model} {file} --json"));
        succeed(d, &format!("convert {model} -o {name}.onnx"));
        answered_alike(d, &format!("{name}.onnx"), "(400, 3)", &floats, &answers, &["0", "1"]);
        found.push((accuracy, answers));
    }
    assert!(found[0].0 > 0.85, "{}", found[0].0);
    for other in &found[1..] {
        assert!(other == &found[0], "{} and {}", other.0, found[0].0);
    }
    // Rows in another file of numbers, with as many columns as its indices say, and what does not fit.
    std::fs::write(d.join("one.npz"), npz(&[("x", "(1, 3)", &x[..12])])).unwrap();
    let one = json(d, "predict svm/models/set.safetensors one.npz --json");
    assert_eq!(one["rows"][0], found[2].1["rows"][0]);
    std::fs::write(d.join("short.svm"), "0 1:5000\n").unwrap();
    succeed(d, "predict svm/models/set.safetensors short.svm");
    for (line, says) in [
        ("predict svm/models/set.safetensors t.csv", "trained on rows of numbers"),
        ("predict csv/models/set.safetensors t.npz", "trained on a table"),
        ("eval csv/models/set.safetensors t.npz", "trained on a table"),
        ("predict svm/models/set.safetensors t.svm --unseen drop", "--unseen is for models trained on a table"),
    ] {
        let out = nnz(d, line);
        assert!(out.status.code() == Some(2) && text(&out.stderr).contains(says), "{line}: {}", text(&out.stderr));
    }
}

/// Numbers to predict in svmlight, and a test file whose rows begin at another index than those of the training file.
#[test]
fn svmlight_has_one_base_and_numbers_are_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let row = |i: usize| [(i * 37 % 101) as f64 / 10.0, (i * 53 % 97) as f64, 1.0 + (i % 7) as f64];
    let line = |i: usize| {
        let [a, b, c] = row(i);
        format!("{} 0:{a} 1:{b} 2:{c}\n", 30.0 * a - b + 0.5)
    };
    std::fs::write(d.join("homes.svm"), (0..600).map(line).collect::<String>()).unwrap();
    let adam = "--optimizer adam --epochs 40 --batch 32 --no-controls --json";
    let doc =
        json(d, &format!("train homes.svm --method set --density 0.6 --model mlp:3-32-16-1 {adam} --run-dir run"));
    let explained = doc["arms"][0]["test_variance_explained"].as_f64().unwrap();
    assert!(explained > 0.9, "{doc}");
    // No row has the index 0, whose value is 0 there.
    let short = |i: usize| format!("{} 1:{} 2:{}\n", 0.5 - row(i)[1], row(i)[1], row(i)[2]);
    std::fs::write(d.join("zero.svm"), (0..50).map(short).collect::<String>()).unwrap();
    let model = "run/models/set.safetensors";
    let all = json(d, &format!("eval {model} zero.svm --split all --json"));
    // A column further, it would be far below none.
    assert!(all["variance_explained"].as_f64() > Some(0.2), "{all}");
    let answers = json(d, &format!("predict {model} zero.svm --json"));
    let near = |(i, a): (usize, &Value)| (a["value"].as_f64().unwrap() - (0.5 - row(i)[1])).abs() < 60.0;
    assert!(answers["rows"].as_array().unwrap().iter().enumerate().all(near), "{answers}");
    let test = json(d, "data check homes.svm --test zero.svm --json");
    assert_eq!((&test["width"], &test["encoding"]["base"], &test["test"]), (&3.into(), &0.into(), &50.into()));
}

/// Commands take the options that their messages name.
#[test]
fn commands_take_the_options_that_messages_name() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let rows: String =
        (0..60).map(|i| format!("{},{},{}\n", i % 7, ["r", "g", "b"][i % 3], ["no", "yes"][i % 2])).collect();
    std::fs::write(d.join("t.csv"), format!("size,colour,answer\n{rows}")).unwrap();
    std::fs::write(d.join("other.csv"), format!("size,colour,truth\n{rows}")).unwrap();
    std::fs::write(d.join("text.csv"), "A,B,A,x\nB,B,A,y\n".repeat(10)).unwrap();
    let out = nnz(d, "data check t.csv");
    assert!(text(&out.stderr).contains("--target COL"));
    assert_eq!(json(d, "data check t.csv --target answer --json")["train"], 48);
    let out = nnz(d, "data check text.csv --target 4");
    assert!(text(&out.stderr).contains("two columns are named `A`") && text(&out.stderr).contains("?header=no"));
    assert_eq!(json(d, "data check text.csv?header=no --target 4 --json")["train"], 16);
    succeed(
        d,
        "train t.csv --target answer --method set --density 0.5 --model mlp:4-8-2 --epochs 1 --no-controls --run-dir run",
    );
    let model = "run/models/set.safetensors";
    let out = nnz(d, &format!("eval {model} other.csv"));
    let why = text(&out.stderr);
    assert!(
        out.status.code() == Some(2) && why.contains("no column named `answer`") && why.contains("--target COL"),
        "{why}"
    );
    assert_eq!(json(d, &format!("eval {model} other.csv --target truth --split all --json"))["rows"], 60);
    assert!(succeed(d, &format!("predict {model} other.csv --target truth")).contains("(given: yes)"));
    std::fs::write(d.join("gap.csv"), "size,colour\n1,r\nNA,g\n3,b\n").unwrap();
    let out = nnz(d, &format!("predict {model} gap.csv"));
    assert!(text(&out.stderr).contains("line 3, column `size`") && text(&out.stderr).contains("--missing drop"));
    let left = json(d, &format!("predict {model} gap.csv --missing drop --json"));
    assert!(left["rows"][1].is_null() && left["rows"][2]["class"].is_string(), "{left}");
}

/// A short run on a small table: intervals made for long runs, and a rate made for pictures.
#[test]
fn what_does_not_fit_a_small_table_is_fitted_with_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let row = |i: usize| {
        let (a, b, c) = ((i * 7 % 13) as f64, (i * 5 % 11) as f64 * 50.0, (i * 3 % 17) as f64 / 100.0);
        format!("{a},{b},{c},{}\n", 3000.0 + 800.0 * a - 4.0 * b + 900.0 * c)
    };
    let rows: String = (0..120).map(row).collect();
    std::fs::write(dir.path().join("small.csv"), format!("a,b,c,price\n{rows}")).unwrap();
    for method in ["rigl", "granet"] {
        let line = format!("train small.csv --target price --method {method} --density 0.2 --run-dir {method} --json");
        let out = nnz(dir.path(), &line);
        let notes = text(&out.stderr);
        assert!(out.status.success() && notes.contains("taken as 0.05 run"), "{notes}");
        let doc: Value = serde_json::from_slice(&out.stdout).unwrap();
        let arms = doc["arms"].as_array().unwrap();
        assert!(arms.iter().all(|arm| arm["test_variance_explained"].as_f64() > Some(0.0)), "{doc}");
        assert!((doc["arms"][0]["density"].as_f64().unwrap() - 0.2).abs() < 0.01, "{}", doc["arms"][0]);
        // What was fitted is what the run says of itself, and goes on from.
        let recipe = std::fs::read_to_string(dir.path().join(method).join("recipe.toml")).unwrap();
        assert!(recipe.contains("every = \"0.05 run\""), "{recipe}");
    }
    let out = nnz(dir.path(), "train small.csv --target price --method rigl --density 0.2 --set 'every=100 steps'");
    let why = text(&out.stderr);
    assert!(out.status.code() == Some(2) && why.contains("every is 100 steps") && why.contains("0.05 run"), "{why}");
    let doc =
        json(dir.path(), "train small.csv --target price --method set --density 0.2 --batch 8 --epochs 40 --json");
    for arm in doc["arms"].as_array().unwrap() {
        assert!(arm["test_variance_explained"].as_f64() > Some(0.7), "{arm}");
    }
    // A rate that was asked for is the rate that is taken.
    let out = nnz(dir.path(), "train small.csv --target price --method set --density 0.2 --lr 1e9 --clip 1e9");
    assert!(out.status.code() == Some(2) && text(&out.stderr).contains("--lr"), "{}", text(&out.stderr));
}

/// Networks of the goldens as users have them; those that read texts get a tokenizer.
fn bring(dir: &Path, names: &[&str]) {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/graphs");
    for name in names {
        let from = goldens.join(name);
        if from.is_file() {
            std::fs::copy(&from, dir.join(name)).unwrap();
            continue;
        }
        std::fs::create_dir(dir.join(name)).unwrap();
        for entry in std::fs::read_dir(&from).unwrap().map(|e| e.unwrap().path()) {
            std::fs::copy(&entry, dir.join(name).join(entry.file_name().unwrap())).unwrap();
        }
        if ["bert", "judge", "splade"].contains(name) {
            std::fs::copy(goldens.join("clip/tokenizer.json"), dir.join(name).join("tokenizer.json")).unwrap();
        }
    }
    let words =
        ["a photo of a cat", "two small dogs running", "the red bird on the green grass", "large blue water", "three"];
    let lines = words
        .iter()
        .cycle()
        .take(25)
        .enumerate()
        .map(|(i, w)| format!("{w} {}\n", words[i * 7 % 5]))
        .collect::<String>();
    std::fs::write(dir.join("text.txt"), lines).unwrap();
}

/// The probabilities of an image's classes, by name.
fn classes(dir: &Path, model: &str, input: &str) -> Vec<(String, f64)> {
    let found = json(dir, &format!("predict {model} {input} --json"));
    let row = |c: &Value| (c["class"].as_str().unwrap().to_owned(), c["probability"].as_f64().unwrap());
    let mut all: Vec<_> = found["classes"].as_array().unwrap().iter().map(row).collect();
    assert!(all.is_sorted_by(|a, b| a.1 >= b.1) && found["class"] == *all[0].0, "{found}");
    assert!((all.iter().map(|c| c.1).sum::<f64>() - 1.0).abs() < 1e-5, "{found}");
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn alike(a: &[(String, f64)], b: &[(String, f64)], within: f64) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < within)
}

/// `nnz bench`, which measures the machine once in a separate folder: measurements change what training chooses.
fn bench_of(dir: &Path, line: &str) -> String {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("measured");
    let out = program(dir).env("NNZ_CACHE", &cache).arg("bench").args(line.split(' ')).output().unwrap();
    assert!(out.status.success(), "nnz bench {line}: {}", text(&out.stderr));
    text(&out.stdout)
}

#[test]
fn networks_of_other_programs_are_asked_listed_and_timed() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    bring(d, &["bert", "clip", "judge", "splade", "vit", "resnet18.pth", "pictures"]);
    // The vector of a sentence has length one, and is the same for any number of threads.
    let vector = |threads: usize| {
        let found = json(d, &format!("predict bert 'a photo of a cat' --threads {threads} --json"));
        found["embedding"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<f64>>()
    };
    let (one, two) = (vector(1), vector(2));
    assert!(one == two && one.len() == 16 && (one.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-5, "{one:?}");
    assert!(succeed(d, "predict bert 'a photo of a cat'").starts_with("16 numbers of length one"));
    let judged = classes(d, "judge", "'a photo of a cat'");
    assert_eq!(judged.iter().map(|c| &*c.0).collect::<Vec<_>>(), ["no", "perhaps", "yes"]);
    assert!(!alike(&judged, &classes(d, "judge", "'two dogs'"), 1e-4), "it reads the text");
    let terms = json(d, "predict splade 'a photo of a cat' --json");
    let first = &terms["terms"][0];
    assert!(terms["of"] == 60 && first["weight"].as_f64() >= terms["terms"][1]["weight"].as_f64(), "{terms}");
    assert!(succeed(d, "predict splade 'a photo of a cat'").contains(first["term"].as_str().unwrap()));
    for picture in ["gray.png", "large.png", "same.png", "small.png"] {
        assert_eq!(classes(d, "vit", &format!("pictures/{picture}")).len(), 3);
    }
    // Images are preprocessed as the folder says.
    let plain = classes(d, "vit", "pictures/large.png");
    let says = |what: &str| {
        std::fs::write(d.join("vit/preprocessor_config.json"), what).unwrap();
        classes(d, "vit", "pictures/large.png")
    };
    let usual = r#""image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]"#;
    assert_eq!(says(&format!("{{{usual}, \"resample\": 2}}")), plain);
    for other in
        [&format!("{{{usual}, \"resample\": 3}}"), r#"{"image_mean": [0.1, 0.2, 0.3]}"#, r#"{"do_normalize": false}"#]
    {
        assert!(!alike(&says(other), &plain, 1e-6), "{other}");
    }
    std::fs::remove_file(d.join("vit/preprocessor_config.json")).unwrap();
    assert_eq!(classes(d, "resnet18.pth", "pictures/large.png")[0].0, "class 0");

    let seen = json(d, "inspect vit --json");
    let named = |n: &str| seen["tensors"].as_array().unwrap().iter().find(|t| t["name"] == n).cloned().unwrap();
    assert_eq!(named("classifier.weight")["shape"], serde_json::json!([3, 16]));
    assert!(succeed(d, "inspect resnet18.pth").contains("layer4.1.conv2.weight"));

    assert!(bench_of(d, "clip").starts_with("a text of 12 tokens and a picture in "));
    let why = bench_of(d, "vit --why");
    assert!(why.contains("with every weight stored") && why.contains("dense wins from"), "{why}");
    let dense = "encoder.layer.1.intermediate.dense ";
    assert!(why.lines().any(|l| l.contains(dense) && l.contains("24x16")), "{why}");
    let found: Value = serde_json::from_str(&bench_of(d, "judge --batch 2 --json")).unwrap();
    assert_eq!((found["batch"].as_u64(), &found["density"]), (Some(2), &1.0.into()));
    let [layers, inputs] = ["layers", "inputs"].map(|k| found[k].as_array().unwrap().clone());
    // Two blocks of six matrices, a pooler and a classifier; texts are as long as the network reads.
    assert_eq!((layers.len(), &inputs[0]["shape"]), (14, &serde_json::json!([2, 12])));
    assert!(layers.iter().all(|l| l["kernel"] == "dense" && l["crossover"].as_f64().is_some()), "{found}");
    for key in ["ms", "dense_ms"] {
        assert!(found[key].as_f64() > Some(0.0), "{key} of {found}");
    }
    // Nothing is multiplied sparse: a ratio would be noise.
    assert!(found["speedup"].is_null() && found["speedup_range"].is_null(), "{found}");
    assert!(bench_of(d, "judge").contains("by the same computation as with every weight stored"));
}

/// Arrays feed any network, and extents that a file leaves open are given for timing.
#[test]
fn arrays_and_shapes_feed_networks_that_say_nothing_of_their_inputs() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/foreign/told");
    let want: Value = serde_json::from_slice(&std::fs::read(goldens.join("want.json")).unwrap()).unwrap();
    let values: Vec<u8> = (0..504).flat_map(|i| ((f64::from(i * 37 % 256) / 255.0) as f32).to_le_bytes()).collect();
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 12, 14), }\n";
    let npy = [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), &values].concat();
    std::fs::write(d.join("x.npy"), npy).unwrap();
    for name in ["top", "lstm"] {
        let file = goldens.join(format!("{name}.onnx"));
        std::fs::copy(&file, d.join("net.onnx")).unwrap();
        let found = json(d, "predict net.onnx --input x=x.npy --json");
        let y = &found["outputs"][0];
        assert_eq!((&y["output"], &y["shape"]), (&"y".into(), &want[name]["shape"]));
        let numbers = |v: &Value| v.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
        let (got, want) = (numbers(&y["values"]), numbers(&want[name]["values"]));
        assert!(got.len() == want.len() && got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-4), "{name}");
    }
    let why = refused(d, "predict net.onnx x.png");
    assert!(why.contains("nnz.pictures") && why.contains("--input NAME=x.npy"), "{why}");
    assert!(refused(d, "predict net.onnx --input z=x.npy --json").contains("`x`"));

    let mut graph = nnz_onnx::Graph::open(&goldens.join("weights-f16.onnx")).unwrap();
    graph.inputs[0].shape = Some(vec![Some(1), None]);
    std::fs::write(d.join("open.onnx"), graph.write(false)).unwrap();
    assert!(refused(d, "bench open.onnx").contains("--shape x="));
    let found: Value = serde_json::from_str(&bench_of(d, "open.onnx --shape x=1x2 --json")).unwrap();
    assert_eq!(found["inputs"][0]["shape"], serde_json::json!([1, 2]));
    assert!(refused(d, "bench open.onnx --shape x=2x2").contains("[1, ?]"));
}

/// A network's answers stay the same, in whatever form it is written.
#[test]
fn networks_of_other_programs_are_converted() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    bring(d, &["vit", "judge", "mobilenet.pth", "pictures"]);
    let size = |name: &str| d.join(name).metadata().unwrap().len();
    for (model, input) in
        [("vit", "pictures/large.png"), ("judge", "'a photo of a cat'"), ("mobilenet.pth", "pictures/small.png")]
    {
        succeed(d, &format!("prune {model} --method magnitude --density 0.2 --numbers f32 -o thin"));
        let want = classes(d, "thin", input);
        assert!(!alike(&want, &classes(d, model, input), 1e-5), "{model}: pruning changes something");
        for layout in ["dense", "csr", "bitmask", "entropy"] {
            let written = json(d, &format!("convert thin -o {layout} --layout {layout} --numbers f32 --json"));
            let listed = json(d, &format!("inspect {layout} --json"));
            let packed = listed["tensors"].as_array().unwrap().iter().filter(|t| t["layout"] == layout).count();
            assert!(packed >= written["layers"].as_array().unwrap().len(), "{model} {layout}: {packed}");
            assert!((written["density"].as_f64().unwrap() - 0.2).abs() < 0.01, "{model} {layout}: {written}");
            assert!(alike(&want, &classes(d, layout, input), 1e-5), "{model} {layout}");
            if layout != "dense" {
                assert!(
                    size(&format!("{layout}/model.safetensors")) < size("dense/model.safetensors"),
                    "{model} {layout}"
                );
            }
        }
        for (name, how) in [("plain.onnx", ""), ("sparse.onnx", "--sparse-initializer")] {
            succeed(d, &format!("convert thin -o {name} {how}"));
            if model == "judge" {
                let why = nnz(d, "predict plain.onnx 'a cat'");
                assert!(text(&why.stderr).contains("tokenizer.json"), "{}", text(&why.stderr));
                std::fs::copy(d.join("judge/tokenizer.json"), d.join("tokenizer.json")).unwrap();
            }
            assert!(alike(&want, &classes(d, name, input), 1e-5), "{model} {name}");
            std::fs::remove_file(d.join("tokenizer.json")).ok();
            let seen = json(d, &format!("inspect {name} --json"));
            assert!(seen["zeros"].as_u64() > Some(0) && seen["operators"].as_object().unwrap().len() > 5, "{seen}");
        }
        assert!(size("sparse.onnx") < size("plain.onnx"), "{model}");
        // In half of the bits it answers nearly the same.
        succeed(d, "convert thin -o half");
        assert!(alike(&want, &classes(d, "half", input), 0.02), "{model}");
        for name in ["thin", "half", "dense", "csr", "bitmask", "entropy"] {
            std::fs::remove_dir_all(d.join(name)).unwrap();
        }
    }
}

#[test]
fn networks_of_other_programs_are_pruned() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    bring(d, &["bert", "vit", "resnet18.pth", "pictures"]);
    succeed(d, "convert vit -o vit.onnx");
    let density = |line: &str| {
        let pruned = json(d, &format!("prune {line} --json"));
        let (kept, all) = pruned["layers"]
            .as_array()
            .unwrap()
            .iter()
            .fold((0, 0), |(k, n), l| (k + l["nonzeros"].as_u64().unwrap(), n + l["entries"].as_u64().unwrap()));
        assert!((pruned["density"].as_f64().unwrap() - kept as f64 / all as f64).abs() < 1e-9, "{pruned}");
        kept as f64 / all as f64
    };
    for (line, output) in [
        ("bert --method wanda --density 0.5 --calibrate text.txt", "a"),
        ("bert --method sparsegpt --density 0.5 --calibrate text.txt", "b"),
        ("bert --method magnitude --pattern 2:4", "c"),
        ("vit --method dsnot --density 0.5 --calibrate pictures", "d"),
        ("vit --method wanda --density 0.5 --calibrate pictures", "small.onnx"),
        ("vit.onnx --method wanda --density 0.5 --calibrate pictures", "again.onnx"),
        ("vit.onnx --method wanda --density 0.5 --calibrate pictures/small.png", "e"),
        ("resnet18.pth --method magnitude --density 0.5", "f"),
        ("resnet18.pth --method wanda --density 0.5 --calibrate pictures/same.png", "g"),
    ] {
        // ONNX files have the types of the network.
        let numbers = if line.contains(".onnx") || output.contains(".onnx") { "" } else { "--numbers f32" };
        assert!((density(&format!("{line} {numbers} -o {output}")) - 0.5).abs() < 0.02, "{line}");
        assert_eq!(
            succeed(d, &format!("inspect {output}")).contains("can be pruned"),
            line.contains("onnx") || output.contains("onnx")
        );
    }
    // The same network, whichever way it came.
    let seen = |model: &str| classes(d, model, "pictures/large.png");
    assert!(alike(&seen("small.onnx"), &seen("again.onnx"), 1e-5) && !alike(&seen("small.onnx"), &seen("vit"), 1e-4));
    assert!(
        d.join("e/model.onnx").is_file() && d.join("a/tokenizer.json").is_file() && d.join("d/config.json").is_file()
    );
    // Heads stay.
    let head = |model: &str| {
        let listed = json(d, &format!("inspect {model} --json"));
        let found = listed["tensors"].as_array().unwrap().iter().find(|t| t["name"] == "classifier.weight").cloned();
        found.unwrap()["density"].as_f64()
    };
    assert_eq!((head("vit"), head("d")), (Some(1.0), Some(1.0)));
    for (method, says) in [
        ("wanda", "give a text with --calibrate"),
        ("essential-sparsity", "neither is measured"),
        ("snip", "gradients"),
    ] {
        let out = nnz(d, &format!("prune bert --method {method} -o no"));
        assert!(out.status.code() == Some(2) && text(&out.stderr).contains(says), "{}", text(&out.stderr));
        assert!(!d.join("no").exists(), "{method}");
    }

    // NumPy arrays, of which only the shapes are known.
    let rows: Vec<u8> = (0..12).flat_map(|i| (i as f32 - 5.5).to_le_bytes()).collect();
    std::fs::write(d.join("w.npz"), npz(&[("w", "(3, 4)", &rows), ("bias", "(2,)", &rows[..8])])).unwrap();
    let out = nnz(d, "prune w.npz --method magnitude --density 0.25 --numbers f32 -o loose --json");
    assert!(
        out.status.success() && text(&out.stderr).contains("what these weights compute is not known"),
        "{}",
        text(&out.stderr)
    );
    let listed = json(d, "inspect loose --json");
    let found: Vec<_> = listed["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| (t["name"].as_str().unwrap(), t["density"].as_f64().unwrap()))
        .collect();
    assert_eq!(found, [("bias", 1.0), ("w", 0.25)]);
    assert_eq!(json(d, "convert w.npz -o same --layout dense --numbers f32 --json")["layers"][0]["nonzeros"], 12);
    // Options that do not apply to a kind of model are refused by name, and so are endings that cannot be written.
    for (line, says) in [
        ("prune bert --method magnitude --density 0.5 --lr 0.1 -o no", "--lr"),
        ("prune bert --method magnitude --density 0.5 --dtype bf16 -o no", "--numbers"),
        ("prune bert --method magnitude --density 0.5 --storage dense -o no", "--storage"),
        ("prune bert --method magnitude --density 0.5 --ema 0.9 -o no", "--ema"),
        ("prune vit.onnx --method magnitude --density 0.5 --numbers bf16 -o no.onnx", "--numbers"),
        ("prune vit.onnx --method magnitude --density 0.5 --layout csr -o no", "--layout"),
        ("prune bert --method magnitude --density 0.5 --calibration-tokens 9 -o no", "--calibration-tokens"),
        ("convert vit -o no.pth", ".pth"),
        ("convert vit -o no.onnx --raw", "--raw"),
        ("predict vit pictures/same.png --temperature 1", "--temperature"),
    ] {
        let out = nnz(d, line);
        assert!(out.status.code() == Some(2) && text(&out.stderr).contains(says), "nnz {line}: {}", text(&out.stderr));
        assert!(["no", "no.onnx", "no.pth"].iter().all(|n| !d.join(n).exists()), "{line}");
    }
    // Options that apply have an effect.
    succeed(d, "prune vit --method magnitude --density 0.5 --numbers f32 --prune-head -o headless");
    assert!(head("headless").unwrap() < 1.0);
    let of = |how: &str| {
        density(&format!("resnet18.pth --method magnitude --density 0.3 --distribution {how} --numbers f32 -o {how}"))
    };
    assert!((of("erk") - 0.3).abs() < 0.01 && (of("uniform") - 0.3).abs() < 0.01);
    let layers = |name: &str| json(d, &format!("inspect {name} --json"))["tensors"].clone();
    assert!(layers("erk") != layers("uniform"));
    for line in [
        "bench w.npz",
        "predict w.npz pictures/same.png",
        "prune w.npz --method wanda --density 0.5 --calibrate text.txt -o no",
    ] {
        let out = nnz(d, line);
        assert!(out.status.code() == Some(2) && !d.join("no").exists(), "nnz {line}: {}", text(&out.stderr));
    }
}

/// An archive of float32 arrays as `numpy.savez` writes it: members of a zip archive that are stored uncompressed.
fn npz(arrays: &[(&str, &str, &[u8])]) -> Vec<u8> {
    let crc = |bytes: &[u8]| {
        !bytes.iter().fold(!0u32, |c, &b| {
            (0..8).fold(c ^ u32::from(b), |c, _| (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg()))
        })
    };
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, shape, data) in arrays {
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
        let array = [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat();
        let name = format!("{name}.npy");
        let (sum, length) = (crc(&array).to_le_bytes(), (array.len() as u32).to_le_bytes());
        let common =
            [&[20, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &sum, &length, &length, &(name.len() as u16).to_le_bytes(), &[0, 0]]
                .concat();
        let at = (file.len() as u32).to_le_bytes();
        directory.extend([b"PK\x01\x02\x14\x00", &common[..], &[0; 10], &at, name.as_bytes()].concat());
        file.extend([b"PK\x03\x04", &common[..], name.as_bytes(), &array].concat());
    }
    let (count, start) = ((arrays.len() as u16).to_le_bytes(), (file.len() as u32).to_le_bytes());
    let end =
        [b"PK\x05\x06\0\0\0\0", &count[..], &count, &(directory.len() as u32).to_le_bytes(), &start, &[0, 0]].concat();
    [file, directory, end].concat()
}

/// Two towers: probabilities as in PyTorch, and pruning of what calibration reaches.
#[test]
fn clip_tells_which_text_fits_a_picture() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    bring(d, &["clip", "pictures", "vit", "clip.json"]);
    let golden: Value = serde_json::from_slice(&std::fs::read(d.join("clip.json")).unwrap()).unwrap();
    // The golden has another scale of the cosine than the small checkpoint.
    let weights = d.join("clip/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..start]).unwrap();
    let at = start + header["logit_scale"]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[at..at + 4].copy_from_slice(&30f32.ln().to_le_bytes());
    std::fs::write(&weights, bytes).unwrap();
    let texts: Vec<&str> = golden["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    let asked: String = texts.iter().map(|t| format!(" --text '{t}'")).collect();
    // By image, the probabilities in the order of the texts.
    let answers = |model: &str, input: &str| -> Vec<(String, Vec<f64>)> {
        let found = json(d, &format!("predict {model} {input} {asked} --json"));
        let one = |p: &Value| {
            let rows = p["texts"].as_array().unwrap();
            assert!(rows.is_sorted_by(|a, b| a["probability"].as_f64() >= b["probability"].as_f64()), "{p}");
            let of = |t: &&str| rows.iter().find(|r| r["text"] == **t).unwrap()["probability"].as_f64().unwrap();
            (p["picture"].as_str().unwrap().to_owned(), texts.iter().map(of).collect())
        };
        found["pictures"].as_array().unwrap().iter().map(one).collect()
    };
    let far = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    succeed(d, "convert clip -o clip.onnx");
    std::fs::create_dir(d.join("other")).unwrap();
    std::fs::rename(d.join("clip.onnx"), d.join("other/model.onnx")).unwrap();
    std::fs::copy(d.join("clip/tokenizer.json"), d.join("other/tokenizer.json")).unwrap();
    for model in ["clip", "other"] {
        let found = answers(model, "pictures");
        assert_eq!(
            found.iter().map(|f| &*f.0).collect::<Vec<_>>(),
            ["gray", "large", "same", "small"].map(|n| format!("pictures/{n}.png"))
        );
        for (picture, shares) in &found {
            let want = &golden["pictures"][picture.strip_prefix("pictures/").unwrap()];
            let want: Vec<f64> = want.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
            assert!(far(shares, &want) < 1e-4, "{model} {picture}: {shares:?}, not {want:?}");
            assert!(far(&answers(model, picture)[0].1, &want) < 1e-4, "alone");
        }
    }
    let said = succeed(d, "predict clip pictures/large.png --text cat --text 'a large dog'");
    assert!(said.lines().count() == 2 && said.contains("a large dog  ") && said.contains("        cat  "), "{said}");

    // Only what calibration reaches is pruned.
    let prune = |how: &str, output: &str| {
        let out = nnz(d, &format!("prune clip --density 0.5 --numbers f32 -o {output} --json {how}"));
        assert!(out.status.success(), "{}", text(&out.stderr));
        let pruned: Value = serde_json::from_slice(&out.stdout).unwrap();
        let names = |tower: &str| {
            pruned["layers"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|l| l["name"].as_str().unwrap().starts_with(tower))
                .count()
        };
        assert!((pruned["density"].as_f64().unwrap() - 0.5).abs() < 0.02, "{pruned}");
        ([names("text_"), names("vis")], text(&out.stderr))
    };
    let (texts, pictures) = ("--calibrate text.txt", "--calibrate pictures");
    // Two blocks and one of six matrices, patches, and a projection each.
    for (how, output, towers, left) in [
        (format!("--method wanda {texts} {pictures}"), "both", [13, 8], ""),
        (format!("--method sparsegpt {texts}"), "texts", [13, 0], "8 of 21 matrices stay dense: they read pictures"),
        (
            format!("--method wanda {pictures}"),
            "pictures-only",
            [0, 8],
            "13 of 21 matrices stay dense: they read texts",
        ),
        ("--method magnitude --distribution uniform".into(), "neither", [13, 8], ""),
    ] {
        let (found, said) = prune(&how, output);
        assert_eq!(found, towers, "{how}");
        assert!(said.contains(left) && (left.is_empty() != said.contains("stay dense")), "{how}: {said}");
        let changed = far(&answers(output, "pictures/large.png")[0].1, &answers("clip", "pictures/large.png")[0].1);
        assert!(changed > 1e-4, "{how}: {changed}");
    }
    prune(&format!("--method wanda {texts} {pictures} --threads 3"), "threads");
    let file = |folder: &str| std::fs::read(d.join(folder).join("model.safetensors")).unwrap();
    assert!(file("both") == file("threads"), "bits do not depend on threads");
    for (line, says) in [
        ("predict clip pictures/large.png", "give two or more"),
        ("predict clip pictures/large.png --text cat", "give two or more"),
        ("predict clip missing --text cat --text dog", "missing"),
        ("predict vit pictures/large.png --text cat", "--text is for networks that compare"),
        ("prune clip --method wanda --density 0.5 -o no", "give a text and pictures with --calibrate"),
        ("prune clip --method wanda --density 0.5 --calibrate missing.txt -o no", "missing.txt"),
    ] {
        let out = nnz(d, line);
        assert!(out.status.code() == Some(2) && text(&out.stderr).contains(says), "nnz {line}: {}", text(&out.stderr));
        assert!(!d.join("no").exists(), "nnz {line}");
    }
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
    // Event files for TensorBoard are next to the events.
    let run = look["directory"].as_str().unwrap();
    let events = std::fs::read(d.join(run).join("tensorboard/set-1/events.out.tfevents.0.nnz")).unwrap();
    assert!(events.windows(19).any(|w| w == b"accuracy/validation"));
    // A stopped run says how to resume it.
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
        "compare",
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
    // An impossible data directory is detected and reported.
    std::fs::write(d.join("file"), b"").unwrap();
    let sick = program(d).env("NNZ_DATA", d.join("file/x")).arg("doctor").output().unwrap();
    assert_eq!(sick.status.code(), Some(1));
    assert!(text(&sick.stdout).contains("set NNZ_DATA"), "{}", text(&sick.stdout));
}

#[test]
fn experiments_are_compared_by_the_metrics_they_share() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let small =
        "--set k-sparse.features=40 --set k-sparse.first=10 --set k-sparse.k=5 --set routing.experts=2 --set epochs=1";
    let line =
        format!("compare k-sparse,routing {small} --sweep rate=0.001,0.01 --seeds 2 --metric accuracy --dir both");
    let doc = json(d, &format!("{line} --json"));
    let record = &doc["run"];
    let names: Vec<&str> = record["arms"].as_array().unwrap().iter().map(|a| a["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["k-sparse-rate=0.001", "k-sparse-rate=0.01", "routing-rate=0.001", "routing-rate=0.01"]);
    assert_eq!(record["metrics"].as_array().unwrap().len(), 1, "accuracy is what both measure: {}", record["metrics"]);
    assert_eq!(record["inputs"]["data"], "mnist10k");
    for arm in record["arms"].as_array().unwrap() {
        assert!(
            arm["seeds"].as_array().unwrap().iter().all(|s| s["findings"]["metrics"]["accuracy"].as_f64() > Some(0.1))
        );
    }
    // The same command finds it again; people read a table, the differences to the first arm, and the best one.
    let table = succeed(d, &line);
    assert!(table.contains("over k-sparse-rate=0.001") && table.contains("best: "), "{table}");
    assert!(std::fs::read_to_string(d.join("both/report.html")).unwrap().contains("Along rate"));
    let cited = json(d, "cite both --json");
    assert_eq!(cited["keys"], serde_json::json!(["k-sparse", "routing"]));
    for (line, word) in [
        ("compare k-sparse,vsa-capacity", "vsa-capacity"),
        ("compare k-sparse,routing --metric dead", "routing measures no `dead`"),
        ("compare k-sparse,routing --densities 0.1", "--densities is for methods"),
        ("compare k-sparse,routing --set alpha=2", "routing"),
        ("compare k-sparse,k-sparse", "twice"),
        ("compare k-sparse", "--sweep"),
        ("compare rigl,set", "nnz compare mnist --methods rigl"),
        ("compare mnist10k", "--methods"),
        ("compare mnist10k --methods rigl --set k=3", "--set is for experiments"),
    ] {
        let out = nnz(d, &format!("{line} --dir none"));
        let said = text(&out.stderr);
        assert!(out.status.code() == Some(2) && said.contains(word) && !d.join("none").exists(), "{line}: {said}");
    }
}

/// A network of a recipe names the layers of rooms, and so do the files of what it became.
#[test]
fn layers_of_rooms_have_names_in_networks() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let layer = |options: &str| {
        let text = format!(
            "name = \"routed\"\ninput = [1, 28, 28]\n[[layers]]\nlayer = \"flatten\"\n[[layers]]\nlayer = \"experts\"\n\
             name = \"moe\"\ninputs = 784\noutputs = 16\nexperts = 4\nhidden = 8\n{options}\n\
             [[layers]]\nlayer = \"linear\"\nname = \"head\"\ninputs = 16\noutputs = 10\n"
        );
        std::fs::write(d.join("routed.toml"), text).unwrap();
    };
    layer("k = 2\ncapacity = 1.25\nbalance = 0.01\nlogits = 0.001");
    let train =
        "train mnist10k --method magnitude --density 0.3 --model routed.toml --epochs 2 --lr 0.05 --run-dir run";
    let arms = json(d, &format!("{train} --json"))["arms"].clone();
    let accuracy =
        |name: &str| arms.as_array().unwrap().iter().find(|a| a["name"] == name).unwrap()["test_accuracy"].as_f64();
    assert!(accuracy("magnitude") > Some(0.5) && accuracy("dense") > Some(0.5), "{arms}");
    let eval = json(d, "eval run/models/magnitude.safetensors mnist10k --json");
    let found = eval["accuracy"].as_f64().unwrap();
    assert!((found - accuracy("magnitude").unwrap()).abs() < 1e-9, "{eval}");
    for (options, word) in [
        ("k = 9\ncapacity = 1.25\nbalance = 0.01\nlogits = 0.001", "9 of 4 experts"),
        ("k = 2\ncapacity = -1.0\nbalance = 0.01\nlogits = 0.001", "numbers from 0 up"),
        ("k = 2\ncapacity = 1.25\nbalance = 0.01\nlogits = 0.001\ntop = 1", "unknown field `top`"),
    ] {
        layer(options);
        let out = nnz(d, &train.replace("run-dir run", "run-dir other"));
        let said = text(&out.stderr);
        assert!(out.status.code() == Some(2) && said.contains(word), "{options}: {said}");
    }
}

/// `--prune` and `--keep` choose layers by what they do, and files remember it.
#[test]
fn layers_are_pruned_by_their_roles() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let train = "train mnist10k --method magnitude --density 0.2 --model transformer:16-1-2-7 --epochs 1 --no-controls";
    let dense = |run: &str| -> Vec<String> {
        let found = json(d, &format!("inspect {run} --json"));
        let layers = found["layers"].as_array().unwrap().clone();
        let whole =
            |l: &&Value| l["nonzeros"].as_u64() == Some(l["rows"].as_u64().unwrap() * l["cols"].as_u64().unwrap());
        let kept: Vec<&Value> = layers.iter().filter(whole).collect();
        assert!(kept.iter().all(|l| l["prunable"] == false), "{found}");
        kept.iter().map(|l| l["name"].as_str().unwrap().to_string()).collect()
    };
    succeed(d, &format!("{train} --keep attention,convolution --run-dir kept"));
    let attention = ["query", "key", "value", "output"].map(|part| format!("block1.attention.{part}.weight"));
    let kept = dense("kept/models/magnitude.safetensors");
    assert_eq!(kept[1..5], attention);
    assert_eq!((kept[0].as_str(), kept[5].as_str(), kept.len()), ("patch.weight", "head.weight", 6));
    succeed(d, &format!("{train} --prune mlp,head --keep down --run-dir only"));
    let kept = dense("only/models/magnitude.safetensors");
    assert!(
        kept.contains(&"block1.down.weight".into()) && !kept.iter().any(|n| n.contains("up") || n.contains("head"))
    );
    // A trained network is pruned by roles, too, and the file says so.
    succeed(
        d,
        "prune kept/models/magnitude.safetensors --method magnitude --density 0.5 --prune attention -o more.safetensors",
    );
    let kept = dense("more.safetensors");
    assert!(!kept.iter().any(|n| attention.contains(n)) && kept.contains(&"patch.weight".into()), "{kept:?}");
    for (line, word) in [
        (format!("{train} --keep recurrent --run-dir none"), "has linear"),
        (format!("{train} --keep atention --run-dir none"), "did you mean `attention`"),
    ] {
        let out = nnz(d, &line);
        let said = text(&out.stderr);
        assert!(out.status.code() == Some(2) && !d.join("none").exists(), "{said}");
        assert!(said.contains(word) || said.contains("it has convolution, query"), "{said}");
    }
}

/// Colours only on a terminal, and not if NO_COLOR forbids them; `--quiet` prints nothing; `--json` is one document.
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
        let out =
            program(d).env("NO_COLOR", "1").env("CLICOLOR_FORCE", "1").args(arguments.split(' ')).output().unwrap();
        let said = text(&out.stdout) + &text(&out.stderr);
        assert!(!said.contains('\u{1b}'), "nnz {arguments}: {said:?}");
    }
}

/// Names in files come from anywhere: none of their control characters or turns of direction reaches the terminal.
#[test]
fn names_in_files_are_shown_without_their_control_characters() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let name = "a\u{1b}]0;title\u{7}\u{1b}[31m\u{202e}weight";
    let mut writer = nnz_formats::Writer::create(&d.join("w.safetensors")).unwrap();
    writer.dense(name, &[8, 8], &[0.5; 64], nnz_formats::Dtype::F32).unwrap();
    writer.finish(&serde_json::json!(null)).unwrap();
    std::fs::write(d.join("t.csv"), format!("{name},y\n1,a\n2,b\n")).unwrap();
    for (line, shown) in [
        ("inspect w.safetensors".to_string(), "\\u{1b}]0;title"),
        ("inspect w.safetensors --json".to_string(), "\\u001b]0;title"),
        (format!("train t.csv --method set --target b{name}"), "columns are `a\\u{1b}]0;title\\u{7}"),
        (format!("inspect {name}"), "\\u{1b}]0;title"),
    ] {
        let out = program(d).args(line.split(' ')).output().unwrap();
        let said = text(&out.stdout) + &text(&out.stderr);
        assert!(!said.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{line:?}: {said:?}");
        assert!(said.contains(shown), "{line:?}: {said:?}");
    }
}
