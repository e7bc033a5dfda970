//! Files as other programs write them, and broken files.

use nnz_formats::{Archive, Dtype, Format, Packing, Writer, entropy_bits};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/formats").join(name)
}

/// `goldens/formats.py` drew the blocks and let the `gguf` package decode them.
#[test]
fn quantized_blocks_are_those_of_ggml() {
    let cases: serde_json::Value = serde_json::from_slice(&std::fs::read(golden("quantized.json")).unwrap()).unwrap();
    for format in [Format::Q4_0, Format::Q4_1, Format::Q8_0, Format::Q4K, Format::Q6K] {
        let case = &cases[format.name()];
        let list = |key: &str| case[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
        let (bytes, want) = (list("bytes").iter().map(|b| *b as u8).collect::<Vec<_>>(), list("values"));
        let mut got = vec![0.0; want.len()];
        format.decode(&bytes, &mut got);
        let size = want.iter().fold(0.0f64, |a, b| a.max(b.abs()));
        for (i, (g, w)) in got.iter().zip(&want).enumerate() {
            assert!((f64::from(*g) - w).abs() <= 1e-6 * size, "{} {i}: {g} for {w}", format.name());
        }
    }
}

#[test]
fn both_formats_of_pytorch_give_the_same_tensors() {
    for file in ["zip.pth", "legacy.pth"] {
        let archive = Archive::open(&golden(file)).unwrap();
        assert_eq!(archive.kind, "PyTorch");
        let read = |name: &str| (archive.get(name).unwrap().shape.clone(), archive.read(name).unwrap());
        let counting: Vec<f32> = (0..12).map(|i| i as f32).collect();
        assert_eq!(read("fc.weight"), (vec![3, 4], counting), "{file}");
        let transposed: Vec<f32> = (0..12).map(|i| (i % 3 * 4 + i / 3) as f32).collect();
        assert_eq!(read("fc.turned"), (vec![4, 3], transposed), "{file}");
        assert_eq!(read("half"), (vec![2], vec![1.5, -2.0]), "{file}");
        assert_eq!(read("bf16"), (vec![1], vec![3.25]), "{file}");
        assert_eq!(read("part"), (vec![4], vec![3.0, 4.0, 5.0, 6.0]), "{file}");
        assert_eq!(read("count"), (vec![], vec![7.0]), "{file}");
        assert_eq!(archive.tensors().count(), 6);
    }
}

/// The same random model, with quantized matrices in one file and their numbers in the other.
#[test]
fn gguf_and_safetensors_hold_the_same_numbers() {
    let (gguf, safe) = (Archive::open(&golden("tiny.gguf")).unwrap(), Archive::open(&golden("tiny")).unwrap());
    assert_eq!((gguf.kind, safe.kind), ("GGUF", "safetensors"));
    for (a, b) in [
        ("token_embd", "model.embed_tokens"),
        ("blk.0.ffn_down", "model.layers.0.mlp.down_proj"),
        ("blk.0.ffn_gate", "model.layers.0.mlp.gate_proj"),
        ("blk.0.attn_v", "model.layers.0.self_attn.v_proj"),
        ("blk.0.attn_output", "model.layers.0.self_attn.o_proj"),
        ("blk.1.ffn_up", "model.layers.1.mlp.up_proj"),
        ("blk.1.attn_norm", "model.layers.1.input_layernorm"),
    ] {
        let (a, b) = (format!("{a}.weight"), format!("{b}.weight"));
        assert_eq!(gguf.get(&a).unwrap().shape, safe.get(&b).unwrap().shape);
        assert_eq!(gguf.read(&a).unwrap(), safe.read(&b).unwrap(), "{a}");
        assert_eq!(gguf.rows(&a, 0..1).unwrap(), safe.rows(&b, 0..1).unwrap());
    }
    let kinds: std::collections::BTreeSet<&str> = gguf.tensors().map(|(_, e)| e.format.name()).collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["BF16", "F16", "F32", "Q4_0", "Q4_1", "Q8_0"]);
}

/// Zeros by a hash, `keep` of 100 entries on average.
fn matrix(rows: usize, cols: usize, keep: usize) -> Vec<f32> {
    let hash = |i: usize| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    (0..rows * cols).map(|i| if hash(i) as usize % 100 < keep { 1.0 + (i % 7) as f32 / 8.0 } else { 0.0 }).collect()
}

#[test]
fn what_is_written_in_any_packing_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    for (rows, cols, keep) in [(5, 19, 40), (16, 64, 3), (8, 8, 100), (3, 9, 0), (1, 1, 100), (64, 1000, 0)] {
        let mut values = matrix(rows, cols, keep);
        if rows == 64 {
            values[5000] = 1.5;
        }
        for packing in [Packing::Dense, Packing::Csr, Packing::Bitmask, Packing::Entropy] {
            for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
                let path = dir.path().join("a.safetensors");
                let mut writer = Writer::create(&path).unwrap();
                writer.dense("b", &[3], &[1.0, 2.0, 0.5], dtype).unwrap();
                let written = writer.matrix("w", rows, &values, Some(packing), dtype).unwrap();
                let bytes = writer.finish(&serde_json::Value::Null).unwrap();
                assert_eq!(bytes, path.metadata().unwrap().len());
                let archive = Archive::open(&path).unwrap();
                let names: Vec<&str> = archive.tensors().map(|(n, _)| n).collect();
                assert_eq!(names, ["b", "w"], "{packing:?}");
                assert_eq!(archive.read("w").unwrap(), values, "{rows}x{cols} {keep} {packing:?} {dtype:?}");
                assert_eq!(written.nonzeros, values.iter().filter(|v| **v != 0.0).count());
                // Other readers of safetensors take it too.
                let raw = std::fs::read(&path).unwrap();
                safetensors::SafeTensors::deserialize(&raw).unwrap();
            }
        }
    }
}

#[test]
fn eight_bits_come_back_within_half_a_step_of_their_row_and_again_without_loss() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let (rows, cols) = (9, 40);
    let values: Vec<f32> = matrix(rows, cols, 40)
        .iter()
        .enumerate()
        .map(|(i, v)| v * (i as f32 * 0.37).sin() * (1 + i / cols) as f32)
        .collect();
    let write = |values: &[f32], packing| {
        let mut writer = Writer::create(&path).unwrap();
        writer.dense("b", &[2], &[0.5, 0.1], Dtype::I8).unwrap();
        writer.matrix("w", rows, values, packing, Dtype::I8).unwrap();
        writer.finish(&serde_json::Value::Null).unwrap();
        Archive::open(&path).unwrap()
    };
    for packing in [None, Some(Packing::Dense), Some(Packing::Csr), Some(Packing::Entropy)] {
        let archive = write(&values, packing);
        assert_eq!(archive.tensors().map(|(n, _)| n).collect::<Vec<_>>(), ["b", "w"]);
        assert_eq!(archive.get("w").unwrap().format.name(), "I8");
        assert_eq!(archive.read("b").unwrap()[0], 0.5);
        let found = archive.read("w").unwrap();
        for (row, was) in found.chunks(cols).zip(values.chunks(cols)) {
            let step = was.iter().fold(0.0f32, |a, v| a.max(v.abs())) / 127.0;
            row.iter().zip(was).for_each(|(a, b)| assert!((a - b).abs() <= 0.501 * step, "{a} {b} {step}"));
        }
        let again = write(&found, packing).read("w").unwrap();
        again.iter().zip(&found).for_each(|(a, b)| assert!((a - b).abs() <= 1e-6 * b.abs(), "{a} {b}"));
    }
}

#[test]
fn masks_come_within_a_hundredth_of_their_entropy() {
    let dir = tempfile::tempdir().unwrap();
    for keep in [1, 10, 50, 90] {
        let values = matrix(300, 700, keep);
        let mut writer = Writer::create(&dir.path().join("a.safetensors")).unwrap();
        let written = writer.matrix("w", 300, &values, Some(Packing::Entropy), Dtype::F16).unwrap();
        assert_eq!(written.entropy_bits, entropy_bits(values.len(), written.nonzeros));
        let share = written.mask_bits / written.entropy_bits;
        println!("{keep}%: {share:.4} of the entropy");
        assert!((0.999..1.01).contains(&share) || keep == 1 && share < 1.02, "{keep}: {share}");
    }
}

#[test]
fn without_a_choice_the_smallest_usual_packing_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let packed = |keep: usize| {
        let path = dir.path().join("a.safetensors");
        let mut writer = Writer::create(&path).unwrap();
        writer.matrix("w", 64, &matrix(64, 128, keep), None, Dtype::F16).unwrap();
        writer.finish(&serde_json::Value::Null).unwrap();
        Archive::open(&path).unwrap().get("w").unwrap().packing
    };
    assert_eq!([packed(100), packed(50), packed(1)], [Packing::Dense, Packing::Bitmask, Packing::Csr]);
}

/// A file of the old formats: tensors by name, no metadata.
fn plain(tensors: &[(&str, &str, &[usize], &[u8])]) -> Vec<u8> {
    let (mut header, mut body) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [body.len(), body.len() + bytes.len()];
        header.insert((*name).into(), serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
        body.extend_from_slice(bytes);
    }
    let text = serde_json::Value::Object(header).to_string();
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &body].concat()
}

#[test]
fn old_bitmask_checkpoints_are_read() {
    let shape: Vec<u8> = [2i64, 8].iter().flat_map(|n| n.to_le_bytes()).collect();
    let values: Vec<u8> = (1..=8).flat_map(|v| (v as f32).to_le_bytes()).collect();
    let offsets: Vec<u8> = [0i64, 4].iter().flat_map(|n| n.to_le_bytes()).collect();
    let want = [1.0, 2.0, 0.0, 0.0, 0.0, 3.0, 0.0, 4.0, 0.0, 0.0, 5.0, 6.0, 7.0, 0.0, 8.0, 0.0];
    // sparse-24-bitmask has the values as a matrix and no row offsets, sparse-bitmask as a list.
    let mask = [0b1010_0011, 0b0101_1100];
    let two_of_four = plain(&[
        ("w.compressed", "F32", &[2, 4], &values),
        ("w.bitmask", "U8", &[2, 1], &mask),
        ("w.shape", "I64", &[2], &shape),
    ]);
    let any = plain(&[
        ("w.compressed", "F32", &[8], &values),
        ("w.bitmask", "U8", &[2, 1], &mask),
        ("w.shape", "I64", &[2], &shape),
        ("w.row_offsets", "I64", &[2], &offsets),
    ]);
    for bytes in [two_of_four, any] {
        let archive = Archive::parse(bytes, Path::new("old")).unwrap();
        assert_eq!(archive.tensors().map(|(n, _)| n).collect::<Vec<_>>(), ["w.weight"]);
        assert_eq!(archive.read("w.weight").unwrap(), want);
    }
}

#[test]
fn shards_are_put_together() {
    let dir = tempfile::tempdir().unwrap();
    let one = [1.5f32.to_le_bytes(), 2.5f32.to_le_bytes()].concat();
    std::fs::write(dir.path().join("a.safetensors"), plain(&[("x", "F32", &[2], &one)])).unwrap();
    std::fs::write(dir.path().join("b.safetensors"), plain(&[("y", "F32", &[1, 2], &one)])).unwrap();
    let index = dir.path().join("model.safetensors.index.json");
    std::fs::write(&index, r#"{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}"#).unwrap();
    let archive = Archive::open(dir.path()).unwrap();
    assert_eq!((archive.read("x").unwrap(), archive.read("y").unwrap()), (vec![1.5, 2.5], vec![1.5, 2.5]));
    let broken = |text: &str| {
        std::fs::write(&index, text).unwrap();
        Archive::open(dir.path()).unwrap_err().to_string()
    };
    assert!(broken(r#"{"weight_map": {"x": "../a.safetensors"}}"#).contains("no file of this folder"));
    assert!(broken(r#"{"weight_map": {"z": "a.safetensors"}}"#).contains("`z` should be in"));
    assert!(broken(r#"{"weight_map": {"x": "c.safetensors"}}"#).contains("cannot read"));
    assert!(broken("{}").contains("weight_map"));
}

/// One sentence for every defect.
#[test]
fn broken_files_are_refused_with_the_place() {
    let why =
        |bytes: Vec<u8>| Archive::parse(bytes, Path::new("bad")).map(|a| a.tensors().count()).unwrap_err().to_string();
    assert!(why(Vec::new()).contains("neither safetensors"));
    assert!(why(b"hello, world, this is text".to_vec()).contains("neither safetensors"));
    // A pickle that would run a command.
    let evil = |op: &[u8]| [&b"\x80\x02"[..], op, b"."].concat();
    let system = evil(b"cposix\nsystem\nX\x02\0\0\0ls\x85R");
    assert!(why(system).contains("`posix.system`"), "legacy");
    assert!(why(evil(b"\x8c\x02os\x8c\x06system\x93")).contains("`os.system`"));
    assert!(why(evil(b"c__builtin__\neval\n")).contains("`builtins.eval`"));
    assert!(why(evil(b"h\x07")).contains("number 7"));
    assert!(why(evil(b"t")).contains("mark"));
    assert!(why(b"\x80\x02X\xff\xff\xff\xff".to_vec()).contains("ends at byte"));
    // Safetensors whose offsets overlap or leave the file.
    let edit = |from: &str, to: &str| {
        let one = [0u8; 8];
        let bytes = plain(&[("x", "F32", &[2], &one), ("y", "F32", &[2], &one)]);
        let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let text = std::str::from_utf8(&bytes[8..8 + len]).unwrap().replace(from, to);
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &bytes[8 + len..]].concat()
    };
    assert!(why(edit("[8,16]", "[4,12]")).contains("not a whole safetensors file"));
    assert!(why(edit("[8,16]", "[8,99]")).contains("not a whole safetensors file"));
    assert!(why(edit("\"F32\"", "\"F8_E4M3\"")).contains("file"));
    // GGUF.
    let golden = |name: &str| std::fs::read(golden(name)).unwrap();
    let gguf = golden("tiny.gguf");
    assert!(why(gguf[..gguf.len() - 40].to_vec()).contains("leaves the file"));
    assert!(why(gguf[..90].to_vec()).contains("the header ends"));
    let mut version = gguf.clone();
    version[4] = 9;
    assert!(why(version).contains("version 9"));
    let at = gguf.windows(20).position(|w| w == b"blk.0.ffn_gate.weigh").unwrap() + 21 + 4 + 16;
    let with = |number: u8, offset: Option<u64>| {
        let mut other = gguf.clone();
        other[at] = number;
        if let Some(o) = offset {
            other[at + 4..at + 12].copy_from_slice(&o.to_le_bytes());
        }
        other
    };
    assert!(why(with(13, None)).contains("does not fill blocks of Q5_K"), "{}", why(with(13, None)));
    assert!(why(with(77, None)).contains("77"), "{}", why(with(77, None)));
    assert!(why(with(gguf[at], Some(0))).contains("overlap"));
    assert!(why(with(gguf[at], Some(u64::MAX))).contains("leaves the file"));
    // A zip archive that is not PyTorch's.
    let zip = golden("zip.pth");
    assert!(why(zip[..zip.len() - 60].to_vec()).contains("zip archive"));
    let mut squeezed = zip.clone();
    let central = zip.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    squeezed[central + 10] = 8;
    assert!(why(squeezed).contains("compressed"));
    // A packed matrix that claims more than the data.
    let huge: Vec<u8> = [1i64 << 31, 1 << 31].iter().flat_map(|n| n.to_le_bytes()).collect();
    let bomb = plain(&[
        ("w.compressed", "F32", &[1], &[0; 4]),
        ("w.bitmask", "U8", &[1], &[1]),
        ("w.shape", "I64", &[2], &huge),
    ]);
    assert!(why(bomb).contains("claims"));
}

#[test]
fn masks_that_do_not_fit_their_values_are_refused() {
    let shape: Vec<u8> = [1i64, 8].iter().flat_map(|n| n.to_le_bytes()).collect();
    for (mask, said) in [(0b111u8, "more ones"), (0b1, "fewer ones")] {
        let bytes = plain(&[
            ("w.compressed", "F32", &[2], &[0; 8]),
            ("w.bitmask", "U8", &[1, 1], &[mask]),
            ("w.shape", "I64", &[2], &shape),
        ]);
        let archive = Archive::parse(bytes, Path::new("bad")).unwrap();
        let why = archive.read("w.weight").unwrap_err().to_string();
        assert!(why.contains(said), "{why}");
    }
}
