//! `nnz bench` as a user meets it.

use std::path::Path;
use std::process::{Command, Output};

fn nnz(cache: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nnz")).args(args).env("NNZ_CACHE", cache).output().unwrap()
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
    assert_eq!(kernels(0.5), ["plan", "csr", "bitmask", "sliced"]);
    for row in rows {
        for key in ["batch", "forward", "step", "dense_ms", "speedup_step", "gflops", "share"] {
            assert!(row[key].as_f64().is_some_and(|v| v > 0.0), "{key} of {row}");
        }
        assert!(row["bound"].is_string() && (row["backward"].is_null() == (row["kernel"] == "sliced")), "{row}");
    }
    assert!(!text(&ask().stderr).contains("measured"), "the second time it is known");
    // A file that does not hold is measured again, not trusted and not a failure.
    let file = std::fs::read_dir(cache.path()).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&file, "{\"version\": 1}").unwrap();
    let again = ask();
    assert!(again.status.success() && text(&again.stderr).contains("did not hold"), "{}", text(&again.stderr));
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
