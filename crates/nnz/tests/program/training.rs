//! Settings of `nnz train`: networks from files, tasks, and what changes how a network learns.

use crate::start::program;
use serde_json::Value;
use std::path::Path;
use std::process::Output;

fn nnz(dir: &Path, line: &str) -> Output {
    program(dir).args(line.split_whitespace()).output().unwrap()
}

fn train(dir: &Path, line: &str) -> Value {
    let all = format!("train mnist10k --batch 128 --no-controls --json {line}");
    let out = nnz(dir, &all);
    assert!(out.status.success(), "nnz {all}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn refused(dir: &Path, line: &str, words: &[&str]) {
    let out = nnz(dir, &format!("train mnist10k --method gmp --density 0.5 {line}"));
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "nnz {line}: {text}");
    assert!(words.iter().all(|w| text.contains(w)), "nnz {line}: {text}");
    assert!(!dir.join("runs").exists(), "nnz {line}: something was written");
}

fn networks() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../networks")
}

#[test]
fn a_network_from_a_file_is_the_named_one_and_travels_in_the_recipe() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    std::fs::copy(networks().join("lenet-300-100.toml"), d.join("net.toml")).unwrap();
    let file = train(d, "--method rigl --density 0.1 --epochs 1 --model net.toml --run-dir file");
    let named = train(d, "--method rigl --density 0.1 --epochs 1 --model mlp:784-300-100-10 --run-dir named");
    assert_eq!(file["arms"][0]["test_accuracy"], named["arms"][0]["test_accuracy"]);
    let read = |run: &str| std::fs::read(d.join(run).join("models/rigl.safetensors")).unwrap();
    assert!(read("file") == read("named"));
    // The recipe is complete: the file may be deleted.
    std::fs::remove_file(d.join("net.toml")).unwrap();
    let again = nnz(d, "run file/recipe.toml --run-dir again --json");
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert!(read("again") == read("file"));
    refused(d, "--model net.toml", &["net.toml", "cannot read"]);
    std::fs::write(d.join("bad.toml"), "name = \"bad\"\ninput = [1, 28, 28]\nlayers = [{ layer = \"liner\" }]")
        .unwrap();
    refused(d, "--model bad.toml", &["bad.toml", "liner"]);
    std::fs::write(d.join("wide.toml"), "name = \"wide\"\ninput = [3, 28, 28]\nlayers = [{ layer = \"flatten\" }]")
        .unwrap();
    refused(d, "--model wide.toml", &["[3, 28, 28]", "[1, 28, 28]"]);
}

#[test]
fn every_task_trains_measures_and_says_what_it_measured() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    std::fs::copy(networks().join("convolutional-autoencoder.toml"), d.join("conv.toml")).unwrap();
    for (name, line) in [
        ("digits", "--task regression --model mlp:784-32-1 --optimizer adam"),
        ("code", "--task reconstruction --optimizer adamw"),
        ("vae", "--task reconstruction --model vae:784-64-8 --optimizer adam"),
        ("conv", "--task reconstruction --model conv.toml --optimizer adam"),
    ] {
        let doc = train(d, &format!("--method gmp --density 0.5 --epochs 2 --run-dir {name} {line}"));
        let explained = doc["arms"][0]["test_variance_explained"].as_f64().unwrap();
        assert!((0.05..1.0).contains(&explained), "{name}: {explained}");
        let report = std::fs::read_to_string(d.join(name).join("report.html")).unwrap();
        assert!(report.contains("Variance explained") && !report.contains("misreads"), "{name}");
        assert!(!report.to_lowercase().contains("accurac"), "{name}: the page speaks of accuracy");
        let model = format!("{name}/models/gmp.safetensors");
        let out = nnz(d, &format!("eval {model} mnist10k --json"));
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let measured: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(measured["variance_explained"].as_f64(), Some(explained), "{name}");
        assert!(nnz(d, &format!("inspect {model} --json")).status.success());
    }
    refused(d, "--model autoencoder:784-32", &["784 numbers", "10 outputs"]);
    refused(d, "--task reconstruction --model lenet5 --smoothing 0.1", &["smoothing"]);
}

#[test]
fn settings_change_the_result_and_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let base = "--method gmp --density 0.5 --model mlp:784-24-10";
    let mut seen = Vec::new();
    for (i, line) in [
        "",
        "--optimizer adamw",
        "--clip 0.5",
        "--ema 0.9",
        "--smoothing 0.1",
        "--augment crop=2,cutout=6,mixup=0.2",
        "--optimizer lbfgs --batch 9000 --epochs 5",
    ]
    .into_iter()
    .enumerate()
    {
        let flags = if line.contains("--batch") { line.to_string() } else { format!("--batch 256 --epochs 1 {line}") };
        let out = nnz(d, &format!("train mnist10k --no-controls --json {base} {flags} --run-dir r{i}"));
        assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
        let doc: Value = serde_json::from_slice(&out.stdout).unwrap();
        let accuracy = doc["arms"][0]["test_accuracy"].as_f64().unwrap();
        assert!(accuracy > 0.3, "{line}: {accuracy}");
        let model = std::fs::read(d.join(format!("r{i}/models/gmp.safetensors"))).unwrap();
        assert!(!seen.contains(&model), "{line} changed nothing");
        seen.push(model);
    }
    let doc = train(d, &format!("{base} --epochs 1 --dtype bf16 --run-dir narrow"));
    let bytes = |run: &str| std::fs::metadata(d.join(run).join("models/gmp.safetensors")).unwrap().len() as f64;
    assert!(bytes("narrow") < 0.8 * bytes("r0"), "{} of {}", bytes("narrow"), bytes("r0"));
    let out = nnz(d, "eval narrow/models/gmp.safetensors mnist10k --json");
    let measured: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(measured["accuracy"], doc["arms"][0]["test_accuracy"]);

    // A pruned network is written as it was measured.
    let line = "prune r0/models/gmp.safetensors --method magnitude --density 0.2 --data mnist10k --dtype bf16 -o p.safetensors";
    let out = nnz(d, &format!("{line} --json"));
    let pruned: Value = serde_json::from_slice(&out.stdout).unwrap();
    let out = nnz(d, "eval p.safetensors mnist10k --json");
    let measured: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(measured["accuracy"], pruned["after"]["test_accuracy"]);

    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    refused(d, "--clip 0", &["norm"]);
    refused(d, "--ema 1.5", &["average"]);
    refused(d, "--augment crop=40", &["larger"]);
    refused(d, "--augment spin", &["spin", "flip,crop=4"]);
    refused(d, "--augment mixup", &["mixup=0.2"]);
    refused(d, "--smoothing 2", &["smoothing"]);
}

/// Measured times decide how weights are stored, and with it the last bits of every product. Whatever they decide, a
/// network is evaluated, pruned and resumed as it was trained.
#[test]
fn a_network_is_used_as_it_was_trained_whatever_the_cost_model_chose() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let run = |force: [&str; 2], line: &str| {
        let out = program(d).env(force[0], force[1]).args(line.split_whitespace()).output().unwrap();
        assert!(out.status.success(), "{force:?} nnz {line}: {}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice::<Value>(&out.stdout).unwrap_or_default()
    };
    let costs = ["sparse", "dense", "built-in", "0.05", "0.3", "0.5", "0.7"].map(|c| ["NNZ_COST", c]);
    let sets = nnz_kernels::Isa::available().iter().map(|isa| format!("{isa:?}").to_lowercase());
    let sets: Vec<String> = sets.collect();
    let forced = costs.into_iter().chain(sets.iter().map(|isa| ["NNZ_ISA", isa]));
    let train = "train mnist10k --method set --density 0.3 --model mlp:784-32-24-1 --optimizer adam --epochs 1 --batch 256 \
                 --task regression --no-controls --json";
    let mut ids = Vec::new();
    for (i, force) in forced.enumerate() {
        let trained = run(force, &format!("{train} --run-dir r{i}"));
        let model = format!("r{i}/models/set.safetensors");
        // The choice is in the file: another machine's does not matter.
        for elsewhere in [force, ["NNZ_COST", "sparse"], ["NNZ_COST", "dense"]] {
            let isa = if force[0] == "NNZ_ISA" { force } else { ["NNZ_THREADS_OF_NOBODY", ""] };
            let line = format!("eval {model} mnist10k --json");
            let out = program(d).envs([elsewhere, isa].map(|[k, v]| (k, v))).args(line.split(' ')).output().unwrap();
            let measured: Value = serde_json::from_slice(&out.stdout).unwrap();
            let want = &trained["arms"][0]["test_variance_explained"];
            assert_eq!(&measured["variance_explained"], want, "{force:?}, evaluated under {elsewhere:?}");
        }
        let record: Value =
            serde_json::from_slice(&std::fs::read(d.join(format!("r{i}/record.json"))).unwrap()).unwrap();
        let inspected = run(force, &format!("inspect {model} --json"));
        let stored = |layers: &Value, keys: [&str; 2]| -> Vec<(Value, Value)> {
            layers.as_array().unwrap().iter().map(|l| (l[keys[0]].clone(), l[keys[1]].clone())).collect()
        };
        let layers = &record["arms"][0]["seeds"][0]["layers"];
        assert_eq!(
            stored(layers, ["name", "nonzeros"]),
            stored(&inspected["layers"], ["name", "nonzeros"]),
            "{force:?}"
        );
        let line =
            format!("prune {model} --method magnitude --density 0.2 --data mnist10k --finetune 1 --optimizer adam");
        let pruned = run(force, &format!("{line} -o p{i}.safetensors --json"));
        let measured = run(force, &format!("eval p{i}.safetensors mnist10k --json"));
        assert_eq!(measured["variance_explained"], pruned["after"]["test_variance_explained"], "{force:?}");
        // The recipe that a run writes reproduces that run, on any machine.
        let again = run(["NNZ_COST", "0.1"], &format!("run r{i}/recipe.toml --run-dir s{i} --json"));
        if force[0] == "NNZ_COST" {
            assert_eq!(
                again["arms"][0]["test_variance_explained"], trained["arms"][0]["test_variance_explained"],
                "{force:?}"
            );
            ids.push(record["id"].as_str().unwrap().to_string());
        }
    }
    // The choice is part of a run's identity; the request is the same.
    let of =
        |part: usize| ids.iter().map(|id| id.split('-').nth(part).unwrap()).collect::<std::collections::BTreeSet<_>>();
    // Six choices that differ, and the built-in figures, which may choose as one of them does.
    assert!(of(0).len() == 1 && (6..=7).contains(&of(1).len()), "{ids:?}");
    for (key, value) in [("NNZ_COST", "fast"), ("NNZ_ISA", "mmx")] {
        let out = program(d).env(key, value).args(train.split_whitespace()).args(["--run-dir", "no"]).output().unwrap();
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{error}");
        assert!(error.contains(key) && error.contains(value) && !d.join("no").exists(), "{error}");
    }
}
