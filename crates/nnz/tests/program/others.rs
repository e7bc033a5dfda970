//! Networks of other programs on data: measured, pruned, fine-tuned, rewired, written back.

use crate::lines::{json, nnz, refusal as refused};
use nnz_onnx::{Budget, Graph, Session, Value};
use serde_json::Value as Json;
use std::path::Path;

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn with_network() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(root().join("goldens/digits.onnx"), dir.path().join("net.onnx")).unwrap();
    dir
}

/// Answers for a few rows.
fn answers(path: &Path) -> Vec<f64> {
    let graph = Graph::open(path).unwrap();
    let session = Session::new(&graph, None, Budget::default()).unwrap();
    let row =
        |r: usize| Value::floats(&[1, 1, 28, 28], (0..784).map(|i| ((i + r) * 37 % 256) as f32 / 255.0).collect());
    let name = graph.inputs[0].name.clone();
    (0..3).flat_map(|r| session.run(vec![(&name, row(r))]).unwrap()[0].numbers()).collect()
}

/// The commands of the guide, as they stand there but for their length.
#[test]
fn the_guide_leads_from_a_network_to_a_smaller_one() {
    let page = std::fs::read_to_string(root().join("docs/src/models.md")).unwrap();
    let (_, rest) = page.split_once("# Networks on your data").unwrap();
    let (_, rest) = rest.split_once("```sh\n").unwrap();
    let (block, _) = rest.split_once("```").unwrap();
    let short = |line: &str| line.replace("--finetune 3", "--finetune 1").replace("--epochs 3", "--epochs 1");
    let lines: Vec<String> = block.lines().map(|l| short(l.strip_prefix("nnz ").unwrap())).collect();
    assert_eq!(lines.len(), 7);
    let dir = with_network();
    let found: Vec<Json> = lines.iter().map(|l| json(dir.path(), l)).collect();
    let accuracy = |v: &Json, key: &str| v[key].as_f64().unwrap();
    // What ONNX Runtime has it answer, too.
    let dense = accuracy(&found[0], "accuracy");
    assert!((dense - 0.9635).abs() < 1e-9, "{dense}");
    let (before, after) = (&found[1]["before"], &found[1]["after"]);
    assert_eq!(accuracy(before, "test_accuracy"), dense);
    assert!((after["density"].as_f64().unwrap() - 0.3).abs() < 0.001);
    let tuned = accuracy(after, "test_accuracy");
    assert!(tuned > 0.92 && tuned == accuracy(&found[2], "accuracy"), "{tuned}");
    // Without training less is left.
    let cut = "prune net.onnx --method magnitude --density 0.3 --data mnist10k --normalize unit -o cut.onnx";
    let cut = json(dir.path(), cut);
    assert!(accuracy(&cut["after"], "test_accuracy") < tuned);
    let arms = found[3]["arms"].as_array().unwrap();
    let names: Vec<&str> = arms.iter().map(|a| a["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["rigl", "static-random", "dense"]);
    assert!(accuracy(&arms[0], "test_accuracy") > 0.7 && accuracy(&arms[2], "test_accuracy") > dense - 0.02);
    // Both files are the graph that came, with other weights, and its zeros.
    let first = Graph::open(&dir.path().join("net.onnx")).unwrap();
    for name in ["small.onnx", "moved.onnx"] {
        let graph = Graph::open(&dir.path().join(name)).unwrap();
        let ops = |g: &Graph| g.nodes.iter().map(|n| (n.op.clone(), n.inputs.clone())).collect::<Vec<_>>();
        assert_eq!(ops(&graph), ops(&first), "{name}");
        let zeros = |g: &Graph| {
            let weights =
                g.constants.iter().filter(|(n, c)| n.ends_with(".weight") && *n != "head.weight" && c.is_float());
            let all: Vec<f32> = weights.flat_map(|(_, c)| c.numbers()).collect();
            all.iter().filter(|v| **v == 0.0).count() as f64 / all.len() as f64
        };
        assert!(zeros(&first) == 0.0 && (0.69..0.72).contains(&zeros(&graph)), "{name}: {}", zeros(&graph));
    }
    // The run's model and the file that was made of it.
    let model = json(dir.path(), "eval moved/models/rigl.safetensors");
    let file = json(dir.path(), "eval moved.onnx mnist10k");
    assert_eq!(accuracy(&model, "accuracy"), accuracy(&file, "accuracy"));
    assert!((accuracy(&model, "loss") - accuracy(&file, "loss")).abs() < 1e-5);
    // Asked again, the run is found; another network makes another.
    assert_eq!(json(dir.path(), &lines[3])["run"]["id"], found[3]["run"]["id"]);
    for line in [&lines[3], &lines[6]] {
        assert!(refused(dir.path(), &line.replace("net.onnx", "small.onnx")).contains("not this one"));
    }
    // Half of the units of every layer are gone from the file; what is left is dense.
    let narrow = Graph::open(&dir.path().join("narrow.onnx")).unwrap();
    let shape = |name: &str| narrow.constants[name].shape.clone();
    assert_eq!((shape("stem.weight"), shape("deep.weight")), (vec![3, 1, 5, 5], vec![3, 1, 3, 3]));
    assert_eq!((shape("hidden.weight"), shape("head.weight")), (vec![12, 54], vec![10, 12]));
    let after = &found[5]["after"];
    assert!(after["nonzeros"].as_f64().unwrap() < 0.35 * before["nonzeros"].as_f64().unwrap(), "{after}");
    let file = json(dir.path(), "eval narrow.onnx mnist10k");
    assert_eq!(accuracy(&file, "accuracy"), accuracy(after, "test_accuracy"));
    assert!(accuracy(&file, "accuracy") > 0.8, "{file}");
    // Every arm starts from the network: the dense one is no worse after an epoch, and none has to begin anew.
    let cells = found[6]["comparison"]["cells"].as_array().unwrap();
    let names: Vec<&str> = cells.iter().map(|c| c["arm"].as_str().unwrap()).collect();
    assert_eq!(names, ["dense", "static-random", "magnitude", "rigl"]);
    let test = |i: usize| cells[i]["test"][0].as_f64().unwrap();
    assert!(test(0) > dense - 0.02 && test(2) > 0.8 && test(3) > 0.7, "{cells:?}");
}

/// Weights that a method does not fit are left out by name, and what it needs is refused where nothing is left.
#[test]
fn weights_that_do_not_fit_stay_dense() {
    let dir = with_network();
    let go = |line: &str| {
        let (code, _, errors) = nnz(dir.path(), &line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(code, Some(0), "nnz {line}: {errors}");
        errors
    };
    let density = |name: &str| {
        let graph = Graph::open(&dir.path().join("out.onnx")).unwrap();
        let numbers = graph.constants[name].numbers();
        numbers.iter().filter(|v| **v != 0.0).count() as f64 / numbers.len() as f64
    };
    // A depthwise kernel of nine positions has no groups of four, a matrix of 108 inputs has.
    let rest = "--data mnist10k --normalize unit -o out.onnx";
    let note = go(&format!("prune net.onnx --method magnitude --pattern 2:4 {rest}"));
    assert!(note.contains("`deep.weight`") && note.contains("2:4") && note.contains("not a multiple of 4"), "{note}");
    assert_eq!((density("deep.weight"), density("hidden.weight")), (1.0, 0.5));
    let note = go(&format!("prune net.onnx --method wanda --density 0.5 {rest}"));
    assert!(note.contains("`deep.weight` stays dense: only what products"), "{note}");
    assert!(density("deep.weight") == 1.0 && (density("wide.weight") - 0.5).abs() < 0.01);
    let line = "train mnist10k --from net.onnx --normalize unit --method sr-ste --epochs 1 --no-controls --run-dir ste";
    let note = go(line);
    assert!(note.contains("sr-ste: `stem.weight`, `deep.weight`") && note.contains("stay dense"), "{note}");
    assert!(refused(dir.path(), &format!("prune net.onnx --method magnitude --pattern 3:7 {rest}")).contains("3:7"));
}

#[test]
fn pruning_changes_no_weight_that_it_keeps() {
    let dir = with_network();
    let line = "prune net.onnx --method magnitude --density 0.9 --data mnist10k --normalize unit -o some.onnx";
    json(dir.path(), line);
    let [a, b] = ["net.onnx", "some.onnx"].map(|n| Graph::open(&dir.path().join(n)).unwrap());
    let mut gone = 0;
    for (name, c) in &a.constants {
        for (x, y) in c.value().numbers().iter().zip(b.constants[name].value().numbers()) {
            assert!(*x == y || y == 0.0, "{name}");
            gone += usize::from(*x != y);
        }
    }
    assert!(gone > 300, "{gone}");
    // Nothing at all is changed by a training of no steps that keeps everything: the file is the network.
    assert_eq!(answers(&dir.path().join("net.onnx")), answers(&root().join("goldens/digits.onnx")));
}

#[test]
fn networks_that_do_not_fit_are_refused_in_a_sentence() {
    let dir = with_network();
    let go = |line: &str| refused(dir.path(), line);
    let prune = "prune net.onnx --method magnitude --density 0.5";
    assert!(go("eval net.onnx mnist10k").contains("give --normalize unit"));
    assert!(go("eval net.onnx").contains("give a data set"));
    assert!(go("eval net.onnx mnist10k --normalize half").contains("MEAN:DEVIATION"));
    assert!(go("eval net.onnx mnist10k --normalize imagenet").contains("channels"));
    assert!(go("eval net.onnx cora --normalize unit").contains("it reads rows of [1, 28, 28]"));
    assert!(go(&format!("{prune} --data mnist10k -o out.onnx")).contains("--normalize"));
    assert!(go(&format!("{prune} --normalize unit -o out.onnx")).contains("give --data"));
    assert!(go(&format!("{prune} --lr 0.1 -o out.onnx")).contains("needs --data"));
    assert!(go(&format!("{prune} --data mnist10k --normalize unit --dtype bf16 -o out.onnx")).contains("--dtype"));
    assert!(go(&format!("{prune} --data mnist10k --normalize unit -o out.gguf")).contains("not written"));
    assert!(go(&format!("{prune} --data mnist10k --normalize unit -o net.onnx")).contains("give another name"));
    assert!(go("train mnist10k --method rigl --normalize unit").contains("--from"));
    assert!(go("train mnist10k --method rigl --from none.onnx --normalize unit").contains("none.onnx"));
    assert!(go("compare mnist10k --methods rigl --normalize unit").contains("--from"));
    assert!(go("compare mnist10k --methods rigl --from net.onnx").contains("--normalize"));
    assert!(go("compare mnist10k --methods rigl --from net.onnx --normalize unit --model lenet5").contains("--model"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().filter(|e| e.as_ref().unwrap().path().is_file()).count(), 1);
}
