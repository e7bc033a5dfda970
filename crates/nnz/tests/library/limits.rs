//! The table of limits in `docs/src/promises.md`, one by one: input at a limit is read, input beyond it is refused with a
//! sentence. Limits of values, pixels and NumPy's header are tested with their readers.

use nnz::data::Store;
use std::fs::{self, File};
use std::path::Path;

/// Result of loading a place: nothing, or why not.
fn load(dir: &Path, place: &str) -> Result<(), String> {
    Store::at(dir.join("data")).load(&dir.join(place).display().to_string()).map(drop).map_err(|e| e.to_string())
}

fn refused(dir: &Path, place: &str, part: &str) {
    let said = load(dir, place).expect_err(place);
    assert!(said.contains(part), "{place}: {said}");
}

#[test]
fn texts_of_a_column() {
    let dir = tempfile::tempdir().unwrap();
    for (texts, name) in [(256, "enough"), (257, "many")] {
        let rows: String = (0..2 * texts).map(|i| format!("text{},{}\n", i % texts, i % 2)).collect();
        fs::write(dir.path().join(format!("{name}.csv")), format!("column,y\n{rows}")).unwrap();
    }
    load(dir.path(), "enough.csv?target=y").unwrap();
    refused(dir.path(), "many.csv?target=y", "column `column` has more than 256 different texts");
}

#[test]
fn classes_of_a_file_and_of_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    for (classes, name) in [(4096, "enough"), (4097, "many")] {
        let rows: String = (0..2 * classes).map(|i| format!("{},class{}\n", i % 7, i % classes)).collect();
        fs::write(dir.path().join(format!("{name}.csv")), format!("x,y\n{rows}")).unwrap();
    }
    load(dir.path(), "enough.csv?target=y").unwrap();
    refused(dir.path(), "many.csv?target=y", "more than 4096 different answers");
    let folder = dir.path().join("folder");
    let mut picture = Vec::new();
    let mut encoder = png::Encoder::new(&mut picture, 1, 1);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().unwrap().write_image_data(&[7]).unwrap();
    for i in 0..4097 {
        let class = folder.join(format!("class{i}"));
        fs::create_dir_all(&class).unwrap();
        fs::write(class.join("1.png"), &picture).unwrap();
    }
    refused(dir.path(), "folder", "4096");
}

#[test]
fn bytes_of_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let line = |n: usize| format!("y,a{}\n", "x".repeat(n - 4));
    fs::write(dir.path().join("short.csv"), format!("{}0,1\n1,2\n0,2\n1,3\n", line((16 << 20) - (1 << 18)))).unwrap();
    load(dir.path(), "short.csv?target=y").unwrap();
    fs::write(dir.path().join("long.csv"), format!("{}0,1\n1,2\n", line((16 << 20) + (1 << 18)))).unwrap();
    refused(dir.path(), "long.csv?target=y", "a line or a whole of more bytes than are read at once");
}

/// Sparse files, all holes: nothing of them is read.
#[test]
fn bytes_of_a_whole_file_and_of_a_picture() {
    let dir = tempfile::tempdir().unwrap();
    let hole = |name: &str, bytes: u64| File::create(dir.path().join(name)).unwrap().set_len(bytes).unwrap();
    for name in ["large.safetensors", "large.txt"] {
        hole(name, (4 << 30) + 1);
        refused(dir.path(), name, "at most 4 GiB");
    }
    for class in ["a", "b"] {
        fs::create_dir_all(dir.path().join("pictures").join(class)).unwrap();
        hole(&format!("pictures/{class}/1.png"), (64 << 20) + 1);
    }
    refused(dir.path(), "pictures", "64 MiB");
}
