//! The report page and its tables, made from the record of a real run, and the page of an inspected model.

mod browser;
mod experiments;
mod inspection;
mod odd;
mod page;
mod style;
mod tables;

use nnz_lab::run::record::RunRecord;

/// The record of `nnz train mnist10k --method rigl --density 0.05 --seeds 3`, with the misclassified rows of only the
/// first network to keep the file small:
///
/// ```sh
/// jq -c '.arms[0].seeds[0].misread[:12] as $m | .arms[].seeds[].misread = [] | .arms[0].seeds[0].misread = $m' \
///     record.json > rigl-mnist10k.json
/// ```
fn record() -> RunRecord {
    serde_json::from_str(include_str!("../data/rigl-mnist10k.json")).unwrap()
}

/// A test of the page is worth as much as its example: the numbers must fit together as those of a real run do.
#[test]
fn the_example_is_consistent() {
    let record = record();
    let sum = |degrees: &[u32]| degrees.iter().map(|d| *d as usize).sum::<usize>();
    for arm in &record.arms {
        for seed in &arm.seeds {
            let all: u32 = seed.confusion.iter().flatten().sum();
            let right: u32 = (0..10).map(|c| seed.confusion[c][c]).sum();
            assert_eq!(all as usize, record.data.test);
            assert!((f64::from(right) / f64::from(all) - seed.test_accuracy).abs() < 1e-9);
            assert_eq!(seed.layers.iter().map(|l| l.nonzeros).sum::<usize>(), arm.nonzeros);
            assert_eq!((seed.nonzeros, seed.density), (arm.nonzeros, arm.density));
            let rewired: usize = seed.epochs.iter().map(|e| e.grown).sum();
            assert_eq!(rewired, seed.epochs.iter().map(|e| e.pruned).sum::<usize>(), "{}", arm.name);
            assert_eq!(rewired > 0, arm.name == "rigl");
            assert!(seed.layers.iter().all(|l| sum(&l.fan_in) == l.nonzeros && sum(&l.fan_out) == l.nonzeros));
            assert!(seed.misread.iter().all(|m| m.label != m.predicted && seed.confusion[m.label][m.predicted] > 0));
        }
    }
}

/// The fuzzing corpora of recipes and records reach many paths; none of them may panic.
#[test]
fn the_fuzzers_corpora_never_panic() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut read = 0;
    for target in ["recipe", "report"] {
        for file in std::fs::read_dir(root.join(target)).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            match target {
                "recipe" => drop(std::str::from_utf8(&bytes).map(|text| nnz_lab::Recipe::parse(text, "recipe"))),
                _ => drop(serde_json::from_slice(&bytes).map(|record| nnz_lab::report::html(&record))),
            }
            read += 1;
        }
    }
    assert!(read > 2, "{read} inputs");
}
