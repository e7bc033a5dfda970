//! Lines of the program, and what it answers.

use crate::start::program;
use std::path::Path;

/// Runs the program with these words; returns the exit code and both outputs.
pub fn nnz<S: AsRef<std::ffi::OsStr>>(dir: &Path, words: &[S]) -> (Option<i32>, String, String) {
    let out = program(dir).args(words).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

/// The document that a line answers with.
pub fn json(dir: &Path, line: &str) -> serde_json::Value {
    let (code, out, errors) = nnz(dir, &line.split_whitespace().chain(["--json"]).collect::<Vec<_>>());
    assert_eq!(code, Some(0), "nnz {line}: {errors}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("nnz {line}: no JSON: {e}"))
}

/// The words with which a line is refused.
pub fn refusal(dir: &Path, line: &str) -> String {
    let (code, _, errors) = nnz(dir, &line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(code, Some(2), "nnz {line}: {errors}");
    errors
}
