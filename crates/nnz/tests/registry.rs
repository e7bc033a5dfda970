//! The registry, the files of the rooms and the list of papers name the same methods.

use nnz::REGISTRY;
use std::path::Path;

#[test]
fn cards_agree_with_the_catalog_and_files_with_the_registry() {
    assert_eq!(nnz_core::catalog::check(REGISTRY), Vec::<String>::new());
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let rooms = [("nnz-sparse", nnz_sparse::ROOMS), ("nnz-shape", nnz_shape::ROOMS)];
    let mut seen = 0;
    for (krate, rooms) in rooms {
        for methods in rooms {
            let room = methods[0].room;
            let mut files: Vec<String> = std::fs::read_dir(crates.join(krate).join("src").join(room))
                .unwrap()
                .map(|f| f.unwrap().path().file_stem().unwrap().to_string_lossy().replace('_', "-"))
                .filter(|f| f != "mod")
                .collect();
            let mut keys: Vec<String> = methods.iter().map(|m| m.key.into()).collect();
            let mut listed: Vec<String> =
                REGISTRY.methods().filter(|m| m.room == room).map(|m| m.key.into()).collect();
            [&mut files, &mut keys, &mut listed].map(|names| names.sort());
            assert_eq!(files, keys, "room {room}");
            assert_eq!(listed, keys, "room {room}");
            seen += keys.len();
        }
    }
    assert_eq!(seen, REGISTRY.methods().count());
}
