//! Options for some layers, by name; what layers lose; recipes of prunings.

use crate::lines::{json, refusal};
use serde_json::Value as Json;
use std::path::Path;

fn refused(dir: &Path, line: &str, said: &str) {
    let errors = refusal(dir, line);
    assert!(errors.contains(said), "nnz {line}: {errors}");
}

/// A folder with a trained network of three layers, `net.safetensors`, and its table.
fn with_network() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let row = |i: usize| {
        let x: Vec<f64> = (0..8).map(|k| ((i * 7 + k * 13) % 29) as f64 / 29.0).collect();
        let class = (x[0] + x[3] > 1.0) as usize + (x[1] * x[2] > 0.3) as usize;
        x.iter().map(f64::to_string).chain([format!("c{class}")]).collect::<Vec<_>>().join(",")
    };
    let head = "a,b,c,d,e,f,g,h,class";
    let rows: Vec<String> = std::iter::once(head.into()).chain((0..400).map(row)).collect();
    std::fs::write(dir.path().join("t.csv"), rows.join("\n")).unwrap();
    let train =
        "train t.csv --target class --model mlp:8-40-24-3 --method magnitude --density 0.5 --epochs 3 --run-dir run";
    json(dir.path(), train);
    std::fs::copy(dir.path().join("run/models/dense.safetensors"), dir.path().join("net.safetensors")).unwrap();
    dir
}

/// Density of every weight of a model.
fn densities(dir: &Path, model: &str) -> Vec<(String, f64)> {
    let found = json(dir, &format!("inspect {model}"));
    let layers = found["layers"].as_array().unwrap();
    let of = |l: &Json| (l["name"].as_str().unwrap().to_owned(), l["density"].as_f64().unwrap());
    layers.iter().map(of).collect()
}

#[test]
fn layers_are_pruned_by_name() {
    let dir = with_network();
    let d = dir.path();
    json(d, "prune net.safetensors --method magnitude --density 0.2 --layer fc2=2:4 --layer fc1=0.5 -o a.safetensors");
    let found = densities(d, "a.safetensors");
    let near = |name: &str, wanted: f64| {
        let (_, got) = found.iter().find(|(n, _)| n.contains(name)).unwrap();
        assert!((got - wanted).abs() < 0.01, "{found:?}");
    };
    near("fc1", 0.5);
    near("fc2", 0.5);
    // The same as a file, to the bit; the command line goes before.
    let recipe = "method = 'magnitude'\ndensity = 0.9\n[[layers]]\nname = 'fc2'\npattern = '2:4'\n[[layers]]\nname = 'fc1*'\ndensity = 0.5\n";
    std::fs::write(d.join("prune.toml"), recipe).unwrap();
    json(d, "prune net.safetensors --recipe prune.toml --density 0.2 -o b.safetensors");
    let bytes = |name: &str| std::fs::read(d.join(name)).unwrap();
    assert!(bytes("a.safetensors") == bytes("b.safetensors"));
    // Kept layers are no part of the density, or stay as they are.
    json(d, "prune net.safetensors --method magnitude --density 0.25 --keep fc1.* -o c.safetensors");
    let near = |found: &[(String, f64)], name: &str, wanted: f64| {
        let (_, got) = found.iter().find(|(n, _)| n.contains(name)).unwrap();
        assert!((got - wanted).abs() < 0.01, "{found:?}");
    };
    let found = densities(d, "c.safetensors");
    near(&found, "fc1", 1.0);
    near(&found, "fc2", 0.25);
    // A training, with its control of the same densities.
    let train = "train t.csv --target class --model mlp:8-40-24-3 --method rigl --density 0.1 --layer fc1=0.5 --epochs 2 --run-dir rigl";
    json(d, train);
    for arm in ["rigl", "static-random"] {
        let found = densities(d, &format!("rigl/models/{arm}.safetensors"));
        near(&found, "fc1", 0.5);
        near(&found, "fc2", 0.1);
    }
    refused(d, "prune net.safetensors --method magnitude --layer fc9=0.5 -o no.safetensors", "is named `fc9`");
    refused(d, "prune net.safetensors --method magnitude --layer fc1 -o no.safetensors", "expected NAME=DENSITY");
    refused(
        d,
        "prune net.safetensors --method magnitude --layer fc1=densty=0.5 -o no.safetensors",
        "did you mean `density`?",
    );
    refused(d, "prune net.safetensors --method magnitude --keep fc9.* -o no.safetensors", "is named `fc9.*`");
    refused(d, "prune net.safetensors --density 0.5 -o no.safetensors", "--method");
    refused(d, "prune net.safetensors --recipe t.csv -o no.safetensors", "t.csv: no recipe");
    std::fs::write(d.join("none.toml"), "density = 0.5").unwrap();
    refused(d, "prune net.safetensors --recipe none.toml -o no.safetensors", "the recipe names no method");
    std::fs::write(d.join("odd.toml"), "method = 'magnitude'\ndensety = 0.5").unwrap();
    refused(d, "prune net.safetensors --recipe odd.toml -o no.safetensors", "did you mean `density`?");
    refused(
        d,
        "train t.csv --target class --method imp --layer fc1=0.5 --epochs 1 --run-dir no",
        "imp treats all layers alike",
    );
    assert!(!d.join("no.safetensors").exists() && !d.join("no").exists());
}

#[test]
fn sensitivity_becomes_a_recipe() {
    let dir = with_network();
    let d = dir.path();
    let found = json(
        d,
        "sensitivity net.safetensors --method magnitude --density 0.3 --densities 0.5,0.2,0.1 --rows 100 -o prune.toml",
    );
    let layers = found["layers"].as_array().unwrap();
    assert_eq!((layers.len(), found["rows"].as_u64()), (2, Some(100)));
    for layer in layers {
        let points = layer["points"].as_array().unwrap();
        let kept: Vec<f64> = points.iter().map(|p| p["density"].as_f64().unwrap()).collect();
        assert_eq!(kept, [1.0, 0.5, 0.2, 0.1]);
        // The whole network is the first point of every layer, and a tenth of a layer predicts worse.
        assert_eq!(points[0], layers[0]["points"][0]);
        assert!(points[3]["loss"].as_f64() > points[0]["loss"].as_f64());
    }
    let pruned = json(d, "prune net.safetensors --recipe prune.toml -o a.safetensors");
    assert!((pruned["after"]["density"].as_f64().unwrap() - 0.3).abs() < 0.002, "{pruned}");
    let both = "prune net.safetensors --method magnitude --density 0.3 --distribution sensitivity --data t.csv?target=class -o b.safetensors";
    let pruned = json(d, both);
    assert!((pruned["after"]["density"].as_f64().unwrap() - 0.3).abs() < 0.002, "{pruned}");
    refused(
        d,
        "sensitivity net.safetensors --method magnitude --density 0.01 --densities 0.5",
        "the least that was measured",
    );
    refused(d, "sensitivity net.safetensors --method magnitude --pattern 2:4", "fixes the density of every layer");
    refused(d, "sensitivity net.safetensors --method magnitude --densities 2", "2 is not between 0 and 1");
    refused(d, "sensitivity net.safetensors --method magnitude -o a.toml", "give it with --density");
    let without = "prune net.safetensors --method magnitude --density 0.3 --distribution sensitivity -o no.safetensors";
    refused(d, without, "give --data");
}

#[test]
fn layers_of_language_models_have_names() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/formats/tiny.gguf");
    std::fs::copy(golden, d.join("tiny.gguf")).unwrap();
    let tokens = "the cat sat on the mat and looked at the moon ".repeat(60);
    std::fs::write(d.join("text.txt"), tokens).unwrap();
    let matrices = |model: &str| -> Vec<(String, f64)> {
        let found = json(d, &format!("inspect {model}"));
        let of = |t: &Json| (t["name"].as_str().unwrap().to_owned(), t["density"].as_f64().unwrap());
        found["tensors"]
            .as_array()
            .unwrap()
            .iter()
            .map(of)
            .filter(|(n, _)| n.contains("layers") && n.contains("proj"))
            .collect()
    };
    json(
        d,
        "prune tiny.gguf --method magnitude --distribution uniform --density 0.5 --layer *.mlp.*=0.25 --keep layers.0.self_attn.* -o a",
    );
    let found = matrices("a");
    assert!(!found.is_empty());
    for (name, density) in &found {
        match name.as_str() {
            n if n.contains("mlp") => assert!((density - 0.25).abs() < 0.02, "{name}: {density}"),
            // Numbers of four bits are zero now and then.
            n if n.contains("layers.0.") => assert!(*density > 0.85, "{name}: {density}"),
            _ => assert!((density - 0.5).abs() < 0.02, "{name}: {density}"),
        }
    }
    let owl = "--method wanda --distribution owl --density 0.5 --pattern unstructured --calibrate text.txt --calibration-length 16";
    json(d, &format!("prune tiny.gguf {owl} -o b"));
    let found = matrices("b");
    let block = |n: usize| {
        let own = found.iter().filter(|(name, _)| name.contains(&format!("layers.{n}.")));
        own.map(|(_, d)| *d).collect::<Vec<_>>()
    };
    let (first, second) = (block(0), block(1));
    assert!(first.iter().chain(&second).all(|d| (0.4..0.6).contains(d)), "{found:?}");
    assert!((first[0] - second[0]).abs() > 0.01, "blocks differ: {found:?}");
    refused(d, "prune tiny.gguf --method magnitude --distribution owl -o no", "which this method does not");
    refused(d, "prune tiny.gguf --method magnitude --keep attention -o no", "have names only");
    refused(d, "sensitivity tiny.gguf --method magnitude", "--distribution owl");
}
