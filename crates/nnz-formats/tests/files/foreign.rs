//! Files as other programs write them: `goldens/foreign.py` wrote them and the expected numbers.

use nnz_formats::{Archive, Dtype, Format, Packing, Writer};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/foreign").join(name)
}

fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

#[test]
fn every_tensor_of_every_file_has_the_numbers_of_the_program_that_wrote_it() {
    let all = json("want.json");
    for (file, want) in all.as_object().unwrap() {
        let archive = Archive::open(&golden(file)).unwrap();
        let mut names: Vec<&str> = archive.tensors().map(|(n, _)| n).collect();
        names.retain(|n| *n != "odd");
        assert_eq!(names, want.as_object().unwrap().keys().collect::<Vec<_>>(), "{file}");
        for (name, tensor) in want.as_object().unwrap() {
            let numbers =
                |key: &str| tensor[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
            let shape: Vec<usize> = numbers("shape").iter().map(|v| *v as usize).collect();
            assert_eq!(archive.get(name).unwrap().shape, shape, "{file} {name}");
            let got: Vec<f64> = archive.read(name).unwrap().iter().map(|v| f64::from(*v)).collect();
            // Products of lengths and directions are rounded in another order.
            let within = if file.starts_with("normed") { 1e-6 } else { 0.0 };
            let near = |(a, b): (&f64, &f64)| (a - b).abs() <= within;
            assert!(
                got.len() == numbers("values").len() && got.iter().zip(&numbers("values")).all(near),
                "{file} {name}"
            );
            let rows = archive.rows(name, 0..1).unwrap();
            assert_eq!(
                rows.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(),
                got[..rows.len()],
                "{file} {name}, first row"
            );
        }
    }
}

#[test]
fn blocks_are_those_of_the_gguf_package_bit_for_bit() {
    let all = json("blocks.json");
    let formats = [
        Format::Q4_0,
        Format::Q4_1,
        Format::Q8_0,
        Format::Q4K,
        Format::Q6K,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q2K,
        Format::Q3K,
        Format::Q5K,
        Format::Iq4Nl,
        Format::Iq4Xs,
        Format::Mxfp4,
        Format::Nvfp4,
        Format::Tq1_0,
        Format::Tq2_0,
        Format::Iq2Xxs,
        Format::Iq2Xs,
        Format::Iq2S,
        Format::Iq3Xxs,
        Format::Iq3S,
        Format::Iq1S,
        Format::Iq1M,
    ];
    assert_eq!(formats.len(), all.as_object().unwrap().len());
    for format in formats {
        let list = |key: &str| {
            all[format.name()][key].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect::<Vec<_>>()
        };
        let bytes: Vec<u8> = list("bytes").iter().map(|b| *b as u8).collect();
        let mut got = vec![0.0f32; list("bits").len()];
        format.decode(&bytes, &mut got);
        let bits: Vec<u64> = got.iter().map(|v| u64::from(v.to_bits())).collect();
        assert_eq!(bits, list("bits"), "{}", format.name());
    }
}

/// A view that PyTorch marks as the negative or conjugate of the numbers it stores is copied as what it is.
#[test]
fn marked_views_are_what_they_stand_for() {
    let archive = Archive::open(&golden("marked.pth")).unwrap();
    for name in ["conjugate", "negative", "both"] {
        let bytes = archive.contents(name).unwrap();
        assert_eq!(bytes, archive.contents(&format!("{name}.resolved")).unwrap(), "{name}");
        assert_eq!(bytes.len(), 4 * 3 * 8);
    }
}

#[test]
fn what_a_checkpoint_holds_besides_is_said() {
    let notes = |file: &str| Archive::open(&golden(file)).unwrap().notes.join("; ");
    assert!(
        notes("ddp.pth").contains("`state_dict_ema`") && notes("ddp.pth").contains("`module.`"),
        "{}",
        notes("ddp.pth")
    );
    assert!(notes("checkpoint.pth").contains("`optimizer`"));
    assert_eq!(notes("python2.pth"), "");
}

#[test]
fn what_is_not_read_is_named_and_a_type_that_is_not_stops_no_list() {
    let script = Archive::open(&golden("script.pt")).unwrap_err().to_string();
    assert!(script.contains("TorchScript") && script.contains("state_dict"), "{script}");
    let big = Archive::open(&golden("big.gguf")).unwrap();
    assert_eq!(big.get("odd").unwrap().format.name(), "Q8_K");
    let odd = big.read("odd").unwrap_err().to_string();
    assert!(odd.contains("`odd`") && odd.contains("Q8_K"), "{odd}");
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("split-00002-of-00002.gguf");
    std::fs::copy(golden("split-00002-of-00002.gguf"), &part).unwrap();
    let alone = Archive::open(&part).unwrap_err().to_string();
    assert!(alone.contains("split-00001-of-00002.gguf"), "{alone}");
    assert!(
        Archive::open(&golden("split-00002-of-00002.gguf")).unwrap().get("a").is_some(),
        "any part opens the whole"
    );
}

/// Types of safetensors without numbers here are listed with their shapes, and named where their numbers are asked for.
#[test]
fn types_that_are_only_listed_are_named() {
    let archive = Archive::open(&golden("listed.safetensors")).unwrap();
    let names = ["C64", "F4", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0"];
    let mut found: Vec<&str> = archive.tensors().map(|(_, e)| e.format.name()).collect();
    found.sort_unstable();
    assert_eq!(found, names);
    for (tensor, entry) in archive.tensors() {
        assert_eq!(entry.shape, if entry.format.name() == "F4" { [3, 8] } else { [3, 4] });
        let why = archive.read(tensor).unwrap_err().to_string();
        assert!(why.contains(tensor) && why.contains(entry.format.name()) && why.contains("convert"), "{why}");
    }
}

#[test]
fn scales_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.safetensors");
    let mut writer = Writer::create(&file).unwrap();
    writer.raw("a.weight", &[4, 8], Format::I8, &[1; 32]).unwrap();
    writer.dense("a.weight_scale", &[3], &[1.0; 3], Dtype::F32).unwrap();
    writer.finish(&serde_json::Value::Null).unwrap();
    let why = Archive::open(&file).unwrap_err().to_string();
    assert!(why.contains("a.weight_scale") && why.contains("[4, 8]"), "{why}");
}

/// 1e5 is beyond 16-bit floats, 1e-9 below them, and 3.4e38 beyond BF16: each tensor gets the next type that
/// has its numbers, and says so.
#[test]
fn numbers_beyond_a_type_go_to_one_that_has_them() {
    for packing in [None, Some(Packing::Dense), Some(Packing::Csr), Some(Packing::Bitmask), Some(Packing::Entropy)] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.safetensors");
        let mut writer = Writer::create(&file).unwrap();
        let with = |v: f32| [0.0, 1.5, 0.0, v, 0.0, 0.0, 0.25, 0.0];
        let small = with(0.0).map(|v| v * 1e-9);
        writer.matrix("large", 2, &with(1e5), packing, Dtype::F16).unwrap();
        writer.matrix("small", 2, &small, packing, Dtype::F16).unwrap();
        writer.matrix("usual", 2, &with(6.0e-8), packing, Dtype::F16).unwrap();
        writer.dense("huge", &[2], &[3.4e38, 1.0], Dtype::Bf16).unwrap();
        let note = writer.widened().unwrap();
        assert!(note.contains('3') && note.contains("`large`"), "{note}");
        writer.finish(&serde_json::Value::Null).unwrap();
        let archive = Archive::open(&file).unwrap();
        let format = |n: &str| archive.get(n).unwrap().format;
        assert_eq!(
            [format("large"), format("small"), format("usual"), format("huge")],
            [Format::BF16, Format::BF16, Format::F16, Format::F32]
        );
        assert_eq!(archive.read("huge").unwrap(), [3.4e38, 1.0]);
        let near = |got: Vec<f32>, want: &[f32]| got.iter().zip(want).all(|(g, w)| (g - w).abs() <= w.abs() / 256.0);
        assert!(
            near(archive.read("large").unwrap(), &with(1e5)) && near(archive.read("small").unwrap(), &small),
            "{packing:?}"
        );
    }
}

/// A tensor that several shards hold is read from the one that the index names.
#[test]
fn of_twins_in_two_shards_the_index_says_which_is_meant() {
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, tensors: &[(&str, f32)]| {
        let mut writer = Writer::create(&folder.path().join(file)).unwrap();
        tensors.iter().for_each(|(name, v)| writer.dense(name, &[2], &[*v; 2], Dtype::F32).unwrap());
        writer.finish(&serde_json::Value::Null).unwrap();
    };
    write("a.safetensors", &[("x", 1.0), ("y", 2.0)]);
    write("b.safetensors", &[("x", 3.0), ("y", 4.0)]);
    let index = r#"{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}"#;
    std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    let archive = Archive::open(folder.path()).unwrap();
    assert_eq!((archive.read("x").unwrap(), archive.read("y").unwrap()), (vec![1.0; 2], vec![4.0; 2]));
}
