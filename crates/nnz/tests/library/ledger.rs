//! The docs on methods, recipes and results agree with the registered methods.

use nnz::REGISTRY;
use nnz_lab::{Plan, Recipe, Scale, embedded, ledger};
use std::path::Path;

/// Folder of a room's files.
fn room(name: &str) -> std::path::PathBuf {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = std::fs::read_dir(&crates).unwrap().map(|e| e.unwrap().path().join("src").join(name));
    found.find(|p| p.join("mod.rs").is_file()).unwrap_or_else(|| panic!("no crate has a room {name}"))
}

/// Counts the lines of a method's file without its tests, and returns its text.
fn code(method: &nnz_core::Method) -> (usize, String) {
    let file = room(method.room).join(format!("{}.rs", method.key.replace('-', "_")));
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    (text.split("#[cfg(test)]").next().map_or(0, |code| code.trim_end().lines().count()), text)
}

/// `.ci/run` shows what this prints: for every room the lines of its method files.
#[test]
fn method_files_are_short() {
    let mut all = Vec::new();
    for m in REGISTRY.methods() {
        let (lines, text) = code(m);
        assert!(lines <= 200 || text.contains("//! Long:"), "{} has {lines} lines and no reason for it", m.key);
        all.push((m.room, m.key, lines));
    }
    for files in all.chunk_by(|a, b| a.0 == b.0) {
        let names: Vec<String> = files.iter().map(|(_, key, n)| format!("{key} {n}")).collect();
        println!("{:6} {:10} {}", files.iter().map(|f| f.2).sum::<usize>(), files[0].0, names.join(", "));
    }
    let mut sorted: Vec<usize> = all.iter().map(|f| f.2).collect();
    sorted.sort_unstable();
    let median = sorted[sorted.len() / 2];
    println!("{median:6} median of {} method files, without tests", all.len());
    assert!(median <= 120, "the median method file has {median} lines");
}

#[test]
fn every_result_belongs_to_a_recipe_as_it_stands() {
    for r in ledger::results() {
        let recipe = embedded().into_iter().find(|(n, _)| *n == r.recipe);
        let Some((name, text)) = recipe else { panic!("result of {} has no recipe", r.recipe) };
        let plan = Plan::parse(text, &name).unwrap();
        assert_eq!(plan.claim(), Some(&r.claim), "{name}: recorded for another claim");
    }
}

/// Defaults that short runs change leave recipes as they are: every interval fits at the scale that is judged.
#[test]
fn no_recipe_has_intervals_that_do_not_fit() {
    let mut seen = 0;
    for (name, text) in embedded() {
        let Plan::Training(recipe) = Plan::parse(text, &name).unwrap().at(Scale::Small).unwrap() else { continue };
        let place = nnz_data::read::short(&recipe.data).to_string();
        let Some(entry) = nnz_data::catalog().iter().find(|e| e.name == place) else { continue };
        let stand_in = entry.stand_in.as_ref().and_then(|s| nnz_data::catalog().iter().find(|e| e.name == *s));
        let resolved = recipe.clone().resolve(REGISTRY).unwrap();
        for (arm, full) in recipe.arms.iter().zip(&resolved.arms) {
            let Some(key) = &arm.method else { continue };
            let train = recipe.training(arm).unwrap();
            for rows in std::iter::once(entry).chain(stand_in).map(|e| e.rows[0]) {
                let rows = rows - (train.validation * rows as f64).round() as usize;
                let fitted = REGISTRY.find(key).unwrap().fitted(&full.options, &arm.options, &train.setting(rows, 0));
                let (options, note) = fitted.unwrap_or_else(|e| panic!("{name}, {}: {e}", arm.name));
                assert!(note.is_none() && options == full.options, "{name}, {}: {note:?}", arm.name);
                seen += 1;
            }
        }
    }
    assert!(seen > 100, "{seen} arms");
}

/// The pages of papers and claims agree with the ledger. `NNZ_UPDATE=1` writes them.
#[test]
fn the_pages_show_the_ledger() {
    let papers = format!("# Papers\n\n{}", ledger::markdown(REGISTRY));
    let claims = format!("# Claims\n\n{}", ledger::claims(REGISTRY));
    for (name, page) in [("papers.md", papers), ("claims.md", claims)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src").join(name);
        if std::env::var_os("NNZ_UPDATE").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        let old = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(old == page, "docs/src/{name} is not the ledger's; run this test once with NNZ_UPDATE=1");
    }
}

#[test]
fn every_embedded_recipe_is_whole() {
    let recipes = embedded();
    assert!(!recipes.is_empty());
    for (name, text) in recipes {
        let plan = Plan::parse(text, &name).unwrap();
        let [room, key, _] = name.split('/').collect::<Vec<_>>()[..] else { panic!("{name}: room/method/claim") };
        assert_eq!(REGISTRY.find(key).unwrap().room, room, "{name}");
        assert!(plan.claim().is_some() && plan.smokes(), "{name} needs a claim and a smoke scale");
        plan.clone().at(Scale::Smoke).unwrap();
        match plan {
            Plan::Training(recipe) => {
                let resolved = recipe.resolve(REGISTRY).unwrap();
                let again = Recipe::parse(&resolved.to_toml().unwrap(), &name).unwrap();
                assert_eq!(again, resolved, "{name} survives a round trip");
            }
            Plan::Experiment(recipe) => {
                let metrics = ledger::metrics_of(REGISTRY, recipe.key());
                let claimed = &recipe.claim.as_ref().unwrap().metric;
                assert!(metrics.iter().any(|m| m.key == *claimed), "{name}: no metric `{claimed}` is declared");
            }
        }
    }
}

/// A result that cannot be read would vanish from the pages.
#[test]
fn every_recorded_result_is_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../results");
    let (mut folders, mut found) = (vec![folder], 0);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "toml") {
                let text = std::fs::read_to_string(&path).unwrap();
                toml::from_str::<ledger::Entry>(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                found += 1;
            }
        }
    }
    assert!(found > 0 && ledger::results().len() == found, "{found} files, {} read", ledger::results().len());
}
