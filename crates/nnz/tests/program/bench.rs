//! `nnz bench` from a user's perspective.

use crate::start::program;
use serde_json::Value;
use std::path::Path;
use std::process::Output;

fn nnz(cache: &Path, args: &[&str]) -> Output {
    // Measurements decide here.
    program(cache).args(args).env("NNZ_CACHE", cache).env_remove("NNZ_COST").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn kernels_are_rows_and_a_machine_is_measured_once() {
    let cache = tempfile::tempdir().unwrap();
    let ask = || {
        nnz(cache.path(), &["bench", "kernels", "--shape", "96x64", "--batch", "1", "--density", "0.5,0.1", "--json"])
    };
    let first = ask();
    assert!(first.status.success(), "{}", text(&first.stderr));
    assert!(text(&first.stderr).contains("for the first time"), "{}", text(&first.stderr));
    let rows: serde_json::Value = serde_json::from_slice(&first.stdout).unwrap();
    let rows = rows.as_array().unwrap();
    let kernels = |d: f64| -> Vec<&str> {
        let near = |r: &&serde_json::Value| (r["density"].as_f64().unwrap() - d).abs() < 1e-3;
        rows.iter().filter(near).map(|r| r["kernel"].as_str().unwrap()).collect()
    };
    assert_eq!(kernels(0.5), ["plan", "blocked", "sliced", "expanded"]);
    for row in rows {
        for key in ["batch", "forward", "step", "dense_ms", "speedup_step", "gflops", "share"] {
            assert!(row[key].as_f64().is_some_and(|v| v > 0.0), "{key} of {row}");
        }
        assert!(row["bound"].is_string() && (row["backward"].is_null() == (row["kernel"] != "plan")), "{row}");
    }
    assert!(!text(&ask().stderr).contains("measured"), "the second time it is known");
    // Patterns are compared at every density, N:M at its own.
    let shape = ["bench", "kernels", "--shape", "96x64", "--batch", "8", "--json", "--density", "0.25,0.125"];
    let found = nnz(cache.path(), &[&shape[..], &["--pattern", "unstructured,per-row,2:4"]].concat());
    let found: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
    let seen = |r: &Value| (r["pattern"].as_str().unwrap().to_owned(), (r["density"].as_f64().unwrap() * 1e3) as u64);
    let mut pairs: Vec<(String, u64)> = found.as_array().unwrap().iter().map(seen).collect();
    pairs.dedup();
    let want = [("unstructured", 250), ("unstructured", 125), ("per-row", 250), ("per-row", 125), ("2:4", 500)];
    assert_eq!(pairs, want.map(|(p, d)| (p.to_owned(), d)));
    let odd = nnz(cache.path(), &["bench", "kernels", "--shape", "96x63", "--pattern", "2:4"]);
    assert_eq!(odd.status.code(), Some(2), "{}", text(&odd.stderr));
    // An invalid file is measured again, neither trusted nor a failure.
    let file = std::fs::read_dir(cache.path()).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&file, "{\"version\": 1}").unwrap();
    let again = ask();
    assert!(again.status.success() && text(&again.stderr).contains("did not hold"), "{}", text(&again.stderr));
}

/// Thresholds of storage `auto` are chosen when a run begins and stay with it: resumed, repeated, or on another machine.
#[test]
fn the_choice_of_storage_stays_with_a_run() {
    let [here, unmeasured, measured] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let path = |name: &str| here.path().join(name).to_str().unwrap().to_string();
    let json = |file: String| -> Value { serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap() };
    // A machine on which sparse always loses.
    assert!(nnz(measured.path(), &["bench", "kernels", "--shape", "8x8", "--density", "1"]).status.success());
    let file = std::fs::read_dir(measured.path()).unwrap().next().unwrap().unwrap().path();
    let mut figures = json(file.to_str().unwrap().into());
    figures["points"].as_array_mut().unwrap().iter_mut().for_each(|p| p["ratio"] = 1000.0.into());
    std::fs::write(&file, figures.to_string()).unwrap();

    let train = |cache: &Path, run: &str, more: &[&str]| {
        let line =
            "train mnist10k --method random-pruning --density 0.3 --model mlp:784-24-16-10 --epochs 1 --batch 256";
        let run = path(run);
        nnz(cache, &[&line.split(' ').collect::<Vec<_>>(), &["--run-dir", &run][..], more].concat())
    };
    let layers = |run: &str| -> Vec<String> {
        let record = json(path(&format!("{run}/record.json")));
        let layers = record["arms"][0]["seeds"][0]["layers"].as_array().unwrap().clone();
        layers.iter().map(|l| l["storage"].as_str().unwrap().into()).collect()
    };
    let course = |run: &str| json(path(&format!("{run}/record.json")))["arms"][0]["seeds"][0]["epochs"].clone();
    let run = |out: &Output| assert!(out.status.success(), "{}", text(&out.stderr));
    run(&train(unmeasured.path(), "a", &[]));
    let other = train(measured.path(), "b", &[]);
    run(&other);
    assert!(text(&other.stderr).contains("measured on this machine"), "{}", text(&other.stderr));
    assert_eq!(
        (layers("a"), layers("b")),
        (vec_of(["sparse", "sparse", "dense"]), vec_of(["masked", "masked", "dense"]))
    );
    // The recipe of a run contains the choice, and gives the same bits on another machine.
    run(&nnz(measured.path(), &["run", &path("a/recipe.toml"), "--run-dir", &path("c")]));
    assert_eq!((layers("c"), course("c")), (layers("a"), course("a")));
    // The same request finds its run, whatever was measured since; started anew it chooses anew.
    assert!(text(&train(measured.path(), "a", &[]).stderr).contains("--again"));
    let refused = nnz(measured.path(), &["run", &path("b/recipe.toml"), "--run-dir", &path("a")]);
    assert!(
        refused.status.code() == Some(2) && text(&refused.stderr).contains("crossovers"),
        "{}",
        text(&refused.stderr)
    );
    run(&train(measured.path(), "a", &["--again"]));
    assert_eq!((layers("a"), course("a")), (layers("b"), course("b")));
}

fn vec_of(names: [&str; 3]) -> Vec<String> {
    names.map(String::from).into()
}

#[test]
fn what_cannot_be_measured_is_refused_in_a_sentence() {
    let cache = tempfile::tempdir().unwrap();
    for (args, word) in [
        (&["bench", "kernels", "--shape", "10"][..], "OUTxIN"),
        (&["bench", "kernels", "--shape", "0x5"], "OUTxIN"),
        (&["bench", "kernels", "--shape", "99999999x99999999"], "2^28"),
        (&["bench", "kernels", "--density", "0.1,2"], "above 0 and at most 1"),
        (&["bench", "kernels", "--density", "-0.1"], "above 0 and at most 1"),
        (&["bench", "kernels", "--density", "nan"], "above 0 and at most 1"),
        (&["bench", "kernels", "--batch", "0"], "batch"),
        (&["bench", "nowhere.safetensors", "--why"], "nowhere.safetensors"),
        (&["bench", "--why"], "nothing to measure"),
    ] {
        let out = nnz(cache.path(), args);
        let error = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{args:?}: {error}");
        assert!(error.contains(word) && !error.contains("panicked"), "{args:?}: {error}");
    }
    assert!(std::fs::read_dir(cache.path()).unwrap().next().is_none(), "nothing was measured");
}
