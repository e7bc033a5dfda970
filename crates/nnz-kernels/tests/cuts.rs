//! A mapped file that is cut short while it is read, in a process of its own: reading past its end is a signal.
#![cfg(target_os = "linux")]
#![forbid(unsafe_code)]

use nnz_kernels::{Map, answer_cuts};
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

/// Has a child read the second half of a mapped file.
fn read(path: &Path, how: &str) -> Output {
    std::fs::write(path, vec![7u8; 1 << 16]).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "child", "--ignored", "--nocapture"]).env("NNZ_CUT_FILE", path).env("NNZ_CUT_HOW", how);
    child.output().unwrap()
}

/// The child of the other test.
#[test]
#[ignore = "started by the other test"]
fn child() {
    let (Ok(path), Ok(how)) = (std::env::var("NNZ_CUT_FILE"), std::env::var("NNZ_CUT_HOW")) else { return };
    if how != "no answer" {
        answer_cuts();
        answer_cuts();
    }
    let path = Path::new(&path);
    let earlier = Map::open(path).unwrap();
    // Its place in the list is used again.
    drop(earlier);
    let (map, other) = (Map::open(path).unwrap(), Map::open(&std::env::current_exe().unwrap()).unwrap());
    let (bytes, whole) = (map.bytes().unwrap(), other.bytes().unwrap());
    if how != "whole" {
        File::options().write(true).open(path).unwrap().set_len(0).unwrap();
    }
    let sum: u64 = bytes[1 << 15..].iter().chain(&whole[whole.len() / 2..]).map(|&b| u64::from(b)).sum();
    println!("sum {sum}");
}

#[test]
fn a_file_that_is_cut_short_under_a_map_ends_the_program_with_a_sentence() {
    let dir = std::env::temp_dir().join(format!("nnz-cuts-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    // No control character of a name reaches the terminal.
    let path = dir.join("weights\u{1b}[31m.bin");
    let whole = read(&path, "whole");
    assert!(whole.status.success() && String::from_utf8_lossy(&whole.stdout).contains("sum "), "{whole:?}");
    let cut = read(&path, "cut");
    let said = String::from_utf8_lossy(&cut.stderr);
    assert_eq!(cut.status.code(), Some(2), "{cut:?}");
    let sentence = format!("error: {}/weights?[31m.bin: it was cut short while it was read\n", dir.display());
    assert!(said.ends_with(&sentence) && !said.contains('\u{1b}'), "{said:?}");
    // A library leaves signals to its program.
    let unanswered = read(&path, "no answer");
    assert_eq!((unanswered.status.code(), unanswered.status.signal()), (None, Some(7)), "{unanswered:?}");
    std::fs::remove_dir_all(dir).unwrap();
}
