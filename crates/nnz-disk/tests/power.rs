//! Power cuts, in a separate process: they hit every file that it writes.

use nnz_disk::faults::{after, cut};
use nnz_disk::{append, write};
use std::fs;
use std::path::Path;

/// Whatever happens, and whatever is lost, the old file or the new one exists; and a file that was written before another
/// exists if the other does.
#[test]
fn a_cut_at_any_step_leaves_whole_files() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second, log) = (dir.path().join("first"), dir.path().join("second"), dir.path().join("log"));
    let all = |path: &Path| fs::read(path).unwrap_or_default();
    for kill in [false, true] {
        let mut ended = false;
        for step in 0..40 {
            after(1000);
            write(&first, b"old").unwrap();
            write(&second, b"old").unwrap();
            write(&log, b"1").unwrap();
            cut(true);
            after(step);
            let done = write(&first, b"new").and_then(|()| append(&log, b"2")).and_then(|()| write(&second, b"new"));
            cut(kill);
            let (a, b, l) = (all(&first), all(&second), all(&log));
            assert!(a == b"old" || a == b"new", "step {step}: {a:?}");
            assert!(b == b"old" || (b == b"new" && a == b"new" && l == b"12"), "step {step}: {a:?} {l:?} {b:?}");
            assert!(done.is_err() || b == b"new", "step {step}");
            ended |= done.is_ok();
            fs::remove_file(&first).unwrap();
        }
        assert!(ended);
    }
}
