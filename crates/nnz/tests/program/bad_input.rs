//! Bad input, one row per case: exit code 2, one sentence on stderr that names the place and the way out, and nothing
//! written.

use crate::start::{alone, program};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn nnz(dir: &Path, line: &str) -> Output {
    // Nothing may be written into `dir`; the machine is measured once for all tests here.
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("measured-for-bad-input");
    let mut command = program(dir);
    command.env("NNZ_DATA", dir.join("data")).env("NNZ_CACHE", cache).args(line.split_whitespace()).output().unwrap()
}

/// Every file under a folder, with its bytes.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(tree(&path));
            out.insert(path, Vec::new());
        } else {
            let bytes = std::fs::read(&path).unwrap();
            out.insert(path, bytes);
        }
    }
    out
}

fn put(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// A case that must be refused.
fn refused(dir: &Path, line: &str, says: &[&str]) {
    let before = tree(dir);
    let out = nnz(dir, line);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "nnz {line}: {said}");
    assert!(out.stdout.is_empty() && !said.contains("panicked"), "nnz {line}: {said}");
    assert!(said.starts_with("error: "), "nnz {line}: {said}");
    let parts: Vec<&str> = said.trim().split(": ").collect();
    assert!(parts.windows(2).all(|w| w[0] != w[1]), "nnz {line} says it twice: {said}");
    // Errors of the command line itself are followed by its usage.
    let lines = said.lines().filter(|l| !l.trim().is_empty()).count();
    assert!(
        lines == 1 || said.contains("\nUsage: ") || said.contains("try '--help'"),
        "nnz {line}: {lines} lines: {said}"
    );
    for word in says {
        assert!(said.contains(word), "nnz {line}: {said:?} does not say {word:?}");
    }
    let after = tree(dir);
    let new: Vec<_> = after.iter().filter(|(p, b)| before.get(*p) != Some(b)).map(|(p, _)| p).collect();
    assert!(new.is_empty() && after.len() == before.len(), "nnz {line} wrote {new:?}");
}

/// A folder with a small table, and a model, a run and a checkpoint of it.
fn workshop() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let row = |i: usize| format!("{},{},{}\n", i % 7, ["r", "g", "b"][i % 3], ["no", "yes"][i % 2]);
    let rows: String = (0..60).map(row).collect();
    put(dir.path(), "good.csv", format!("size,colour,answer\n{rows}"));
    let out = nnz(
        dir.path(),
        "train good.csv --target answer --method magnitude --density 0.5 --model mlp:4-3-2 --epochs 1 --no-controls \
         --run-dir run --quiet",
    );
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    std::fs::copy(dir.path().join("run/models/magnitude.safetensors"), dir.path().join("good.safetensors")).unwrap();
    dir
}

fn idx(dims: &[u32], data: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0, 8, dims.len() as u8];
    dims.iter().for_each(|d| out.extend(d.to_be_bytes()));
    out.extend(data);
    out
}

/// The bytes of a safetensors file under another header.
fn headed(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn names_numbers_and_combinations() {
    let dir = workshop();
    let d = dir.path();
    put(d, "mine/recipe.toml", "precious");
    let t = "train good.csv --target answer --method rigl --model mlp:4-3-2";
    for (line, says) in [
        ("train good.csv --target answer --method rigel", &["did you mean `rigl`?", "`nnz methods` lists them"][..]),
        ("train mnist10q --method rigl", &["did you mean `mnist10k`?", "`nnz data list` lists them"]),
        ("data get mnist10q", &["did you mean `mnist10k`?", "`nnz data list` lists them"]),
        ("data get minilmm", &["did you mean `minilm`?", "`nnz data list` lists them"]),
        ("data get", &["<NAME>", "Usage: nnz data get"]),
        (&format!("{t} --set evry=3"), &["did you mean `every`?"]),
        (&format!("{t} --desnity 0.1"), &["--desnity", "'--density'"]),
        ("trian mnist", &["trian", "'train'"]),
        (
            "train good.csv --target answer --method rigl --model resnet",
            &["known models are", "did you mean `resnet8`?"],
        ),
        ("train good.csv --target answr --method rigl", &["did you mean `answer`?"]),
        ("train good.csv --method rigl", &["which column has the answers?", "--target COL", "`colour`"]),
        ("train good.csv?taget=answer --method rigl", &["did you mean `target`?"]),
        (&format!("{t} --density 0"), &["above 0 and at most 1, got 0"]),
        (&format!("{t} --density=-0.5"), &["above 0 and at most 1, got -0.5"]),
        (&format!("{t} --density 1.01"), &["above 0 and at most 1, got 1.01"]),
        (&format!("{t} --density nan"), &["above 0 and at most 1, got NaN"]),
        (&format!("{t} --density inf"), &["above 0 and at most 1, got inf"]),
        (&format!("{t} --density half"), &["half", "--density"]),
        (&format!("{t} --sparsity 1"), &["above 0 and at most 1, got 0"]),
        (&format!("{t} --density 0.001"), &["without a connection", "smallest density that keeps one"]),
        (&format!("{t} --method magnitude --pattern 2:4"), &["cannot be used multiple times"]),
        (
            "train good.csv --target answer --method magnitude --model mlp:4-3-2 --pattern 3:5",
            &["pattern 3:5 does not fit", "4 inputs are not a multiple of 5"],
        ),
        (
            "train good.csv --target answer --method magnitude --model mlp:4-3-2 --pattern block:2x2",
            &["pattern block:2x2 does not fit", "3x4"],
        ),
        (&format!("{t} --test 1.5"), &["between 0 and 1"]),
        (&format!("{t} --test nothing.csv"), &["cannot read nothing.csv"]),
        (&format!("{t} --batch 0"), &["at least one row (`--batch`)"]),
        (&format!("{t} --epochs 0"), &["at least one epoch"]),
        (&format!("{t} --lr 0"), &["learning rate must be above 0"]),
        (&format!("{t} --threads 0"), &["--threads"]),
        (&format!("{t} --resume"), &["holds no run to go on from"]),
        (&format!("{t} --run-dir run"), &["holds run", "give another --run-dir"]),
        (&format!("{t} --run-dir mine"), &["mine: holds recipe.toml, but no run", "give another --run-dir"]),
        (&format!("{t} --run-dir good.csv/run"), &["good.csv/run", "cannot create"]),
        ("train good.csv --target answer --method rigl --model mlp:5-3-2", &["4"]),
        ("prune good.safetensors --method magnitude --density 0.2 -o good.csv/x", &["good.csv/x", "cannot write"]),
        ("prune good.safetensors --method magnitude --density 0.2 -o run", &["run", "no regular file"]),
        ("eval good.safetensors mnist10k", &["4", "mnist10k"]),
        ("inspect good.safetensors --html good.safetensors", &["would overwrite the model"]),
        ("predict good.safetensors nothing.csv", &["cannot read nothing.csv"]),
        ("run nothing.toml", &["no recipe `nothing.toml`"]),
        ("report nowhere", &["nowhere"]),
        ("top nowhere", &["nowhere is no run directory"]),
        ("completions bsh", &["bsh", "bash"]),
    ] {
        refused(d, line, says);
    }
}

#[test]
fn damaged_data_of_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let train = |place: &str| format!("train {place} --method rigl --density 0.5 --no-controls");
    let npy = |header: &str, data: &[u8]| {
        [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
    };
    let image = |bytes: Vec<u8>| {
        for (name, good) in [
            ("train-labels-idx1-ubyte", idx(&[2], &[0, 1])),
            ("t10k-images-idx3-ubyte", idx(&[1, 2, 2], &[0; 4])),
            ("t10k-labels-idx1-ubyte", idx(&[1], &[1])),
            ("train-images-idx3-ubyte", bytes),
        ] {
            put(d, &format!("idx/{name}"), good);
        }
    };
    let good = idx(&[2, 2, 2], &[0; 8]);
    for (bytes, says) in [
        (vec![], "byte 0: the file is empty"),
        (good[..good.len() - 3].to_vec(), "byte 21: the file ends after 5 of the 8 values"),
        (good[..9].to_vec(), "byte 9: the file ends inside its header"),
        (b"\x89PNG\r\n\x1a\n".to_vec(), "byte 0: not an IDX file"),
        (idx(&[u32::MAX, 28, 28], &[1]), "more than 1073741824 values"),
        ([&good[..], b"x"].concat(), "byte 24: bytes follow"),
        (b"\x1f\x8b\x08\x00".to_vec(), "gzip stream is damaged or cut off"),
        (idx(&[3, 2, 2], &[0; 12]), "train split: 12 values do not make 2 rows"),
        (idx(&[2, 3, 2], &[0; 12]), "they must be equal"),
    ] {
        image(bytes);
        refused(d, &train("idx"), &["idx", says]);
    }
    image(good);
    put(d, "idx/t10k-labels-idx1-ubyte", idx(&[2], &[0, 1]));
    refused(d, &train("idx"), &["test split"]);

    let header = r#"{"x":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"y":{"dtype":"U8","shape":[2],"data_offsets":[A,B]}}"#;
    let offsets = |a: usize, b: usize| header.replace('A', &a.to_string()).replace('B', &b.to_string());
    let png: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xff\xff\xff\xff\xff\xff\xff\x08\0\0\0\0";
    let wav: &[u8] =
        b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data\xff\xff\xff\xff";
    let many: String = (0..30).map(|i| format!("{i},{}\n", i % 2)).collect();
    for (name, bytes, options, says) in [
        ("t.csv", b"".to_vec(), "?target=1", "is empty"),
        ("t.csv", b"a,y\n".to_vec(), "?target=y", "no row follows"),
        ("t.csv", b"a,y\n1,2,3\n".to_vec(), "?target=y", "line 2: 3 cells, but the first line has 2"),
        ("t.csv", b"a,y\n1,0\n,1\n".to_vec(), "?target=y", "line 3, column `a`: no value"),
        ("t.csv", format!("a,y\n{many}x,1\n").into_bytes(), "?target=y", "line 32, column `a`: `x` is no number"),
        ("t.csv", b"a,y\n1,0\n\xe9,1\n".to_vec(), "?target=y", "line 3: not UTF-8; save"),
        ("t.csv", b"a,y\n1,0\n".to_vec(), "?target=y", "too few to hold"),
        ("t.csv", b"a;y\n1,25;0\n2.5;1\n".to_vec(), "?target=y", "line 2, column `a`: `1,25` has a decimal comma"),
        ("t.csv", b"a;y\n1,234;0\n2,345;1\n".to_vec(), "?target=y", "line 2, column `a`: `1,234` may have decimals"),
        ("t.csv", b"A,B,A\nB,A,B\n".to_vec(), "?target=1", "two columns are named `A`; rename one, or say"),
        ("t.csv.gz", b"\x1f\x8b\x08\0junk".to_vec(), "?target=y", "gzip stream is damaged or cut off"),
        ("r.svm", b"".to_vec(), "", "holds no INDEX:VALUE"),
        ("r.svm", b"1 1:1\n0 2:x\n".to_vec(), "", "line 2: `2:x`"),
        ("r.svm", b"1 4000000000:1\n0 1:1\n".to_vec(), "", "more than 1073741824 values"),
        ("x.npy", b"".to_vec(), "?labels=x.npy", "ends inside its first eight bytes"),
        ("x.npy", b"PK\x03\x04....".to_vec(), "?labels=x.npy", "byte 0: no .npy array"),
        ("x.npy", b"\x93NUMPY\x02\0\xff\xff\xff\xff".to_vec(), "?labels=x.npy", "byte 8: a header of 4294967295 bytes"),
        (
            "x.npy",
            npy("{'descr': '|O', 'fortran_order': False, 'shape': (2,), }", b"cos\nsystem"),
            "?labels=x.npy",
            "Python objects",
        ),
        (
            "x.npy",
            npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }", &[0; 7]),
            "?labels=x.npy",
            "ends inside its values",
        ),
        (
            "x.npy",
            npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999, 99999999), }", &[0; 8]),
            "?labels=x.npy",
            "more than 1073741824 values",
        ),
        ("a.npz", b"".to_vec(), "", "no whole .npz archive"),
        ("a.npz", b"PK\x05\x06\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0".to_vec(), "", "a.npz"),
        ("a.safetensors", b"".to_vec(), "", "no whole safetensors file"),
        ("a.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\x7f{}".to_vec(), "", "no whole safetensors file"),
        ("a.safetensors", headed(&offsets(4, 6), &[0; 10]), "", "no whole safetensors file"),
        ("a.safetensors", headed(&offsets(8, 10), &[0; 6]), "", "no whole safetensors file"),
        ("t.txt", b"".to_vec(), "", "0 different characters"),
        ("t.txt", b"one\ntw\xff".to_vec(), "", "byte 6, line 2: not UTF-8; save"),
        ("t.txt", b"ab".to_vec(), "", "hold no window"),
        ("p/a/1.png", b"".to_vec(), "", "neither a PNG nor a JPEG"),
        ("p/a/1.png", png.to_vec(), "", "a damaged PNG file"),
        ("j/a/1.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF".to_vec(), "", "a damaged JPEG file"),
        ("w/a/1.wav", b"".to_vec(), "", "no whole WAV file"),
        ("w/a/1.wav", wav.to_vec(), "", "no whole WAV file"),
        ("c/data_batch_1.bin", vec![1; 3072], "", "no whole rows of 3073"),
        ("c/data_batch_1.bin", [&[10][..], &[0; 3072]].concat(), "", "row 0 has label 10, but the labels are 0 to 9"),
        ("e/readme.md", b"nothing".to_vec(), "", "holds no data set that is known"),
        ("what.xyz", b"".to_vec(), "", "the ending says no format"),
    ] {
        put(d, name, bytes);
        put(d, "c/test_batch.bin", [&[1][..], &[0; 3072]].concat());
        let top = if name.contains('/') { &name[..1] } else { name };
        refused(d, &train(&format!("{top}{options}")), &[top, says]);
    }
}

#[test]
fn damaged_models_recipes_and_runs() {
    let dir = workshop();
    let d = dir.path();
    let model = std::fs::read(d.join("good.safetensors")).unwrap();
    let length = u64::from_le_bytes(model[..8].try_into().unwrap()) as usize;
    let (header, data) = (String::from_utf8(model[8..8 + length].to_vec()).unwrap(), &model[8 + length..]);
    let change = |from: &str, to: &str| {
        assert!(header.contains(from), "{from} is not in {header}");
        headed(&header.replacen(from, to, 1), data)
    };
    for (bytes, says) in [
        (vec![], "not a whole safetensors file"),
        (model[..model.len() - 1].to_vec(), "not a whole safetensors file"),
        (model[..40].to_vec(), "not a whole safetensors file"),
        (b"PK\x03\x04 a zip file, not a model".to_vec(), "not a whole safetensors file"),
        ([&u64::MAX.to_le_bytes()[..], &model[8..]].concat(), "not a whole safetensors file"),
        (
            headed(
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
                &[0; 12],
            ),
            "not a whole safetensors file",
        ),
        (change("nnz-1", "nnz-9"), "has format nnz-9, this program reads nnz-1"),
        (change(r#"\"outputs\":3"#, r#"\"outputs\":4"#), "bad.safetensors"),
        (change("fc1.bias", "fc1.bios"), "tensor `fc1.bias` is missing"),
        (change(r#"\"mean\":"#, r#"\"meen\":"#), "metadata `nnz`"),
    ] {
        put(d, "bad.safetensors", bytes);
        for line in [
            "inspect bad.safetensors",
            "eval bad.safetensors",
            "predict bad.safetensors good.csv",
            "prune bad.safetensors --method magnitude --density 0.2 -o out.safetensors",
        ] {
            refused(d, line, &["bad.safetensors", says]);
        }
    }
    // Weights of another program, without a description of their network.
    put(d, "bad.safetensors", headed(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, &[0; 4]));
    refused(d, "eval bad.safetensors", &["bad.safetensors", "what these weights compute is not known"]);
    refused(d, "predict bad.safetensors good.csv", &["bad.safetensors", "no config.json"]);
    let prune = "prune bad.safetensors --method magnitude --density 0.2 -o out.safetensors";
    refused(d, prune, &["bad.safetensors", "no matrix or kernel"]);
    let recipe = std::fs::read_to_string(d.join("run/recipe.toml")).unwrap();
    for (text, says) in [
        (String::new(), "bad.toml, line 1: missing field"),
        (recipe.replace("epochs", "epoch"), "unknown field `epoch`"),
        (recipe.replace("epochs = 1", "epochs = -1"), "line "),
        (recipe.replace("method = \"magnitude\"", "method = \"magnitud\""), "did you mean `magnitude`?"),
        (recipe.replace("density = 0.5", "density = 2.0"), "density must be above 0 and at most 1"),
        (recipe.replace("density = 0.5", "densty = 0.5"), "did you mean `density`?"),
        (recipe.replace("seeds = [0]", "seeds = []"), "at least one seed"),
        (recipe.replace("name = \"magnitude\"", "name = \"../../escape\""), "names are made of letters"),
        (recipe.replace("good.csv", "gone.csv"), "cannot read gone.csv"),
        ("= nonsense".into(), "bad.toml, line 1"),
    ] {
        assert_ne!(text, recipe, "{says}: nothing was replaced");
        put(d, "bad.toml", text);
        refused(d, "run bad.toml --run-dir other", &[says]);
    }
    put(d, "latin.toml", b"title = \"caf\xe9\"");
    refused(d, "run latin.toml", &["latin.toml", "UTF-8"]);
    // A run whose files were damaged.
    put(d, "run/record.json", "{");
    refused(d, "report run", &["record.json", "is damaged"]);
    put(d, "run/recipe.toml", "title = 3");
    refused(d, "run run", &["recipe.toml, line 1"]);
    refused(d, "top run", &["recipe.toml, line 1"]);
}

/// A file or folder of the goldens, copied.
fn bring(dir: &Path, from: &str, to: &str) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens").join(from);
    if from.is_file() {
        put(dir, to, std::fs::read(&from).unwrap());
        return;
    }
    for entry in std::fs::read_dir(&from).unwrap().map(|e| e.unwrap().path()) {
        put(dir, &format!("{to}/{}", entry.file_name().unwrap().display()), std::fs::read(&entry).unwrap());
    }
}

/// Replaces the first number of a tensor of 32 bits.
fn set(file: &Path, tensor: &str, value: f32) {
    let mut bytes = std::fs::read(file).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..start]).unwrap();
    let at = start + header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    std::fs::write(file, bytes).unwrap();
}

/// Every command that takes networks of other programs.
fn all_refuse(dir: &Path, model: &str, input: &str, says: &[&str]) {
    for line in [
        format!("predict {model} {input}"),
        format!("bench {model}"),
        format!("convert {model} -o out"),
        format!("prune {model} --method magnitude --density 0.5 -o out"),
    ] {
        refused(dir, &line, says);
    }
}

#[test]
fn damaged_networks_of_other_programs() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    for name in ["bert", "vit", "clip", "pictures"] {
        bring(d, &format!("graphs/{name}"), name);
    }
    put(d, "bert/tokenizer.json", std::fs::read(d.join("clip/tokenizer.json")).unwrap());
    put(d, "text.txt", "a photo of a cat\ntwo dogs\n");
    let whole = nnz(d, "convert vit -o vit.onnx");
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let whole = std::fs::read(d.join("vit.onnx")).unwrap();

    // ONNX: cut off, something else, a missing operator.
    for (bytes, says) in [
        (&whole[..whole.len() / 2], "not a whole ONNX file"),
        (&whole[..whole.len() - 1], "not a whole ONNX file"),
        (b"PK\x03\x04 a zip file", "not a whole ONNX file"),
        (b"", "no graph"),
    ] {
        put(d, "bad.onnx", bytes);
        all_refuse(d, "bad.onnx", "pictures/same.png", &["bad.onnx", says]);
        refused(d, "inspect bad.onnx", &["bad.onnx", says]);
    }
    let mut graph = nnz_onnx::Graph::open(&d.join("vit.onnx")).unwrap();
    let gelu = graph.nodes.iter().position(|n| n.op == "Gelu").unwrap();
    let name = graph.nodes[gelu].label().to_owned();
    graph.nodes[gelu].op = "com.example.Trick".into();
    put(d, "bad.onnx", graph.write(false));
    for line in [
        "predict bad.onnx pictures/same.png",
        "bench bad.onnx",
        "prune bad.onnx --method wanda --density 0.5 --calibrate pictures -o out",
    ] {
        refused(d, line, &["bad.onnx", "com.example.Trick", &name, "not computed here"]);
    }
    graph.nodes[gelu].op = "Gelu".into();

    // Numbers that are not finite.
    let matrix = graph.matrices()[2].name.clone();
    let constant = &graph.constants[&matrix];
    let mut numbers = constant.numbers();
    numbers[7] = f32::NAN;
    let constant = nnz_onnx::Constant::floats(&constant.shape.clone(), numbers);
    graph.constants.insert(matrix.clone(), constant);
    put(d, "nan.onnx", graph.write(false));
    refused(d, "predict nan.onnx pictures/same.png", &["nan.onnx", "no number (NaN)"]);
    let listed = nnz(d, "inspect nan.onnx");
    assert!(String::from_utf8_lossy(&listed.stdout).contains("1 not finite"));
    let prune = "prune nan.onnx --method magnitude --density 0.5 -o out";
    refused(d, prune, &["nan.onnx", &format!("`{matrix}` holds NaN at number 7")]);
    for (value, says) in [(f32::NAN, "holds NaN at number 0"), (f32::INFINITY, "holds inf at number 0")] {
        bring(d, "graphs/vit", "nan");
        let tensor = "vit.encoder.layer.1.intermediate.dense.weight";
        set(&d.join("nan/model.safetensors"), tensor, value);
        all_refuse(d, "nan", "pictures/same.png", &["nan", tensor, says]);
    }

    // Checkpoints: a part is missing, or belongs to something else.
    let config = std::fs::read_to_string(d.join("vit/config.json")).unwrap();
    let change = |from: &str, to: &str| {
        assert!(config.contains(from), "{config}");
        put(d, "vit/config.json", config.replacen(from, to, 1));
    };
    change("\"hidden_size\": 16", "\"hidden_size\": 32");
    all_refuse(d, "vit", "pictures/same.png", &["vit", "but the network needs"]);
    change("\"num_attention_heads\": 2", "\"num_attention_heads\": 3");
    all_refuse(d, "vit", "pictures/same.png", &["config.json", "a width of 16 for 3 heads"]);
    change("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    all_refuse(d, "vit", "pictures/same.png", &["encoder.layer.2", "is missing"]);
    change("\"vit\"", "\"swin\"");
    all_refuse(d, "vit", "pictures/same.png", &["a model of type swin"]);
    put(d, "vit/config.json", "{");
    all_refuse(d, "vit", "pictures/same.png", &["config.json"]);
    std::fs::remove_file(d.join("vit/config.json")).unwrap();
    all_refuse(d, "vit", "pictures/same.png", &["no config.json"]);
    bring(d, "graphs/vit", "vit");
    put(d, "vit/preprocessor_config.json", r#"{"image_mean": [0.5], "resample": 2}"#);
    all_refuse(d, "vit", "pictures/same.png", &["preprocessor_config.json", "image_mean", "3 channels"]);

    // Omitted sizes are those of the first CLIP.
    let config = std::fs::read_to_string(d.join("clip/config.json")).unwrap();
    put(d, "clip/config.json", config.replacen("\"hidden_size\": 16,", "", 1));
    all_refuse(d, "clip", "pictures/same.png", &["is [60, 16], but the network needs [60, 512]"]);
    put(d, "clip/config.json", config);

    // Texts and images that do not fit.
    let long = std::fs::read_to_string(d.join("bert/tokenizer.json")).unwrap().replace("\"<57>\": 57", "\"<57>\": 61");
    assert!(long.contains("61"));
    put(d, "odd/tokenizer.json", long);
    for file in ["config.json", "model.safetensors"] {
        put(d, &format!("odd/{file}"), std::fs::read(d.join("bert").join(file)).unwrap());
    }
    let wanda = "--method wanda --density 0.5 -o out --calibrate";
    for line in ["predict odd cat".to_owned(), format!("prune odd {wanda} text.txt")] {
        refused(d, &line, &["odd/tokenizer.json", "a tokenizer of 62 tokens for a model that knows 60"]);
    }
    std::fs::remove_file(d.join("odd/tokenizer.json")).unwrap();
    refused(d, "predict odd cat", &["odd", "no tokenizer.json"]);
    put(d, "empty.txt", "\n \n");
    put(d, "latin.txt", b"caf\xe9");
    put(d, "bad.png", b"no picture");
    std::fs::create_dir(d.join("nothing")).unwrap();
    for (line, says) in [
        (format!("prune bert {wanda} empty.txt"), "empty.txt: no line of text"),
        (format!("prune bert {wanda} latin.txt"), "latin.txt: byte 3 is no UTF-8"),
        (format!("prune bert {wanda} gone.txt"), "gone.txt: cannot read"),
        (format!("prune vit.onnx {wanda} nothing"), "nothing: no picture"),
        (format!("prune vit.onnx {wanda} bad.png"), "bad.png"),
        (format!("prune clip {wanda} text.txt --calibrate nothing"), "nothing: no picture"),
        ("prune bert --method wanda --density 0.5 -o bert --calibrate text.txt".into(), "give another name"),
        ("prune vit.onnx --method magnitude --density 0.5 -o vit.onnx".into(), "give another name"),
        ("convert bert -o bert".into(), "give another name"),
        ("predict vit.onnx bad.png".into(), "bad.png"),
        ("predict vit.onnx cat".into(), "cat"),
        ("inspect vit.onnx --html page.html".into(), "--html"),
    ] {
        refused(d, &line, &[says]);
    }
    // A text that is shorter than one block of a language model.
    bring(d, "formats/tiny.gguf", "tiny.gguf");
    refused(d, &format!("prune tiny.gguf {wanda} text.txt"), &["text.txt", "tokens are shorter than one block of 512"]);
    refused(d, &format!("prune tiny.gguf {wanda} text.txt --calibrate text.txt"), &["join those of --calibrate"]);
}

/// Killed while it writes (the system kills processes beyond their limit), `prune` leaves a folder that is refused, and succeeds
/// the next time.
#[cfg(unix)]
#[test]
fn a_folder_of_an_interrupted_prune_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    bring(d, "graphs/bert", "bert");
    bring(d, "formats/tiny.gguf", "tiny.gguf");
    for (model, input) in [("bert", "cat"), ("tiny.gguf", "the")] {
        let prune = format!("prune {model} --method magnitude --density 0.5 -o out");
        let script = format!("ulimit -f 8; exec {} {prune}", env!("CARGO_BIN_EXE_nnz"));
        let out = alone(Command::new("sh"), d).args(["-c", &script]).output().unwrap();
        assert_eq!(out.status.code(), None, "{model}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(d.join("out").is_dir() && !d.join("out/model.safetensors").exists());
        all_refuse(d, "out", input, &["out: a folder without weights", "interrupted"]);
        refused(d, "inspect out", &["out: a folder without weights", "interrupted"]);
        let again = nnz(d, &prune);
        assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
        assert!(nnz(d, "inspect out").status.success());
        std::fs::remove_dir_all(d.join("out")).unwrap();
    }
}

/// A disk of 64 kB that only this process sees; `None`, with a loud message, if the system does not allow one.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said_and_leaves_no_part() {
    let dir = workshop();
    let d = dir.path();
    std::fs::create_dir(d.join("disk")).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=64k none disk || exit 77; head -c 100000 /dev/zero > disk/filler 2> /dev/null; \
         {0} prune good.safetensors --method magnitude --density 0.2 -o disk/small.safetensors; echo code $?; \
         {0} train good.csv --target answer --method set --density 0.5 --epochs 20 --model mlp:4-2000-2 --run-dir disk/run \
         --no-controls; echo code $?; find disk -type f -size +0 | sort",
        env!("CARGO_BIN_EXE_nnz")
    );
    let out = alone(Command::new("unshare"), d).args(["-rm", "sh", "-c", &script]).output();
    let Some(out) = out.ok().filter(|o| o.status.success()) else {
        eprintln!("SKIPPED: no file system can be mounted here, so a full disk was not tried");
        return;
    };
    let (found, said) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert_eq!(found.matches("code 2").count(), 2, "{found}{said}");
    assert!(said.contains("small.safetensors: cannot write: No space left on device"), "{said}");
    assert!(said.contains("disk/run") && said.matches("No space left").count() == 2, "{said}");
    assert!(
        !found.contains("tmp") && !found.contains("record.json") && !found.contains("small.safetensors"),
        "{found}"
    );
}

/// A folder without write permission. The system lets root write everywhere, so then a place that takes no files is used.
#[cfg(unix)]
#[test]
fn no_permission_is_said() {
    use std::os::unix::fs::PermissionsExt;
    let dir = workshop();
    let d = dir.path();
    std::fs::create_dir(d.join("locked")).unwrap();
    std::fs::set_permissions(d.join("locked"), PermissionsExt::from_mode(0o555)).unwrap();
    let root = std::fs::write(d.join("locked/try"), b"").is_ok();
    let place = if root { "/proc/nnz" } else { "locked" };
    let t = "train good.csv --target answer --method set --density 0.5 --epochs 20 --model mlp:4-3-2";
    refused(d, &format!("{t} --run-dir {place}/run"), &[place, "cannot create"]);
    refused(
        d,
        &format!("prune good.safetensors --method magnitude --density 0.2 -o {place}/x"),
        &[place, "cannot write"],
    );
}
