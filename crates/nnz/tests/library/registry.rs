//! The registry and the files of the rooms name the same methods, each once.

use nnz::REGISTRY;
use std::path::Path;

#[test]
fn files_rooms_and_registry_list_the_same_methods() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let rooms = [
        ("nnz-sparse", nnz_sparse::ROOMS),
        ("nnz-shape", nnz_shape::ROOMS),
        ("nnz-codes", nnz_codes::ROOMS),
        ("nnz-routes", nnz_routes::ROOMS),
    ];
    let mut seen = 0;
    for (krate, rooms) in rooms {
        for methods in rooms {
            let room = methods[0].room;
            let mut files: Vec<String> = std::fs::read_dir(crates.join(krate).join("src").join(room))
                .unwrap()
                .map(|f| f.unwrap().path())
                // Code shared by several methods of a room has no card.
                .filter(|f| std::fs::read_to_string(f).unwrap().contains("pub const METHOD: Method"))
                .map(|f| f.file_stem().unwrap().to_string_lossy().replace('_', "-"))
                .collect();
            for file in &files {
                let path = crates.join(krate).join("src").join(room).join(file.replace('-', "_") + ".rs");
                let text = std::fs::read_to_string(path).unwrap();
                for heading in ["//! Cost:", "//! Deviations:"] {
                    assert!(text.contains(heading), "{room}/{file} has no `{heading}`");
                }
            }
            let mut keys: Vec<String> = methods.iter().map(|m| m.key.into()).collect();
            let mut listed: Vec<String> = REGISTRY.methods().filter(|m| m.room == room).map(|m| m.key.into()).collect();
            [&mut files, &mut keys, &mut listed].into_iter().for_each(|names| names.sort());
            assert_eq!(files, keys, "room {room}");
            assert_eq!(listed, keys, "room {room}");
            seen += keys.len();
        }
    }
    assert_eq!(seen, REGISTRY.methods().count());
    let keys: std::collections::HashSet<&str> = REGISTRY.methods().map(|m| m.key).collect();
    assert_eq!(seen, keys.len(), "no key twice");
}

/// Where `Cargo.toml` says that a library has no tests, so that no program is built to run none.
#[test]
fn no_test_is_left_out() {
    fn visit(folder: &Path, check: &mut dyn FnMut(&Path, &str)) {
        for path in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() {
                visit(&path, check);
            } else if path.extension().is_some_and(|e| e == "rs") {
                check(&path, &std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let is_test = |line: &str| ["#[test]", "#[cfg(test)]"].contains(&line.trim());
    // Fences come in pairs; the opening one says what is between them.
    let has_doctest = |text: &str| {
        let fences = text.lines().filter_map(|l| l.trim().strip_prefix("//")?.get(1..)?.trim().strip_prefix("```"));
        text.contains("doc = include_str!") || fences.step_by(2).any(|kind| !["text", "ignore"].contains(&kind))
    };
    let mut left_out = 0;
    for folder in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()).unwrap() {
        let folder = folder.unwrap().path();
        let card: toml::Table = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap().parse().unwrap();
        let off =
            |kind: &str| card.get("lib").and_then(|lib| lib.get(kind)).is_some_and(|v| v.as_bool() == Some(false));
        visit(&folder.join("src"), &mut |path, text| {
            let (test, doctest) = (text.lines().any(is_test), has_doctest(text));
            assert!(!(test && off("test")), "{}: `test = false` in Cargo.toml leaves out", path.display());
            assert!(!(doctest && off("doctest")), "{}: `doctest = false` in Cargo.toml leaves out", path.display());
        });
        left_out += usize::from(off("test")) + usize::from(off("doctest"));
    }
    assert!(left_out > 0, "no Cargo.toml says so any more");
}
