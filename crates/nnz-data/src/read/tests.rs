use super::*;
use crate::Store;
use std::fs;

/// An empty data directory, and a folder for files.
fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::at(dir.path().join("none"));
    (dir, store)
}

fn table(rows: usize) -> String {
    let row = |i: usize| format!("{},{},{}\n", i % 7, ["r", "g", "b"][i % 3], ["no", "yes"][i % 2]);
    "size,colour,answer\n".to_string() + &(0..rows).map(row).collect::<String>()
}

#[test]
fn options_are_read_and_misspellings_refused() {
    let say = |place: &str| parse(place).map(|_| String::new()).unwrap_or_else(|e| e.to_string());
    assert!(say("t.csv?taget=y").contains("did you mean `target`?"), "{}", say("t.csv?taget=y"));
    assert!(say("t.csv?target=y&target=z").contains("twice"));
    assert!(say("t.csv?target=y&z").contains("`z` is no option"));
    let (path, options) = parse("a?b/t.csv?target=y&test=0.3").unwrap();
    assert_eq!((path, options.get("test")), (PathBuf::from("a?b/t.csv"), Some("0.3")));
    // A question mark without options is part of the path.
    assert_eq!(split("why?.csv"), ("why?.csv", ""));
    assert_eq!(with_option("t.csv?test=0.3", "target", "y"), "t.csv?target=y&test=0.3");
}

#[test]
fn a_share_of_every_class_is_held_out() {
    let labels: Vec<u32> = (0..100).map(|i| u32::from(i >= 90)).collect();
    let (kept, held) = hold_out(&labels, 2, 0.2);
    assert_eq!((kept.len(), held.len()), (80, 20));
    assert_eq!(held.iter().filter(|&&r| labels[r] == 1).count(), 2);
    assert_eq!(hold_out(&labels, 2, 0.2), (kept, held));
    // Many classes of two rows: none loses its last row, and together they give their share.
    let pairs: Vec<u32> = (0..40).map(|i| i / 2).collect();
    let (kept, held) = hold_out(&pairs, 20, 0.25);
    assert_eq!((kept.len(), held.len()), (30, 10));
    assert!((0..20).all(|c| kept.iter().any(|&r| pairs[r] == c)));
    assert_eq!(hold_out(&[0], 1, 0.9), (vec![0], vec![]));
}

#[test]
fn a_table_is_a_data_set() {
    let (dir, store) = store();
    let path = dir.path().join("t.csv");
    fs::write(&path, table(50)).unwrap();
    let place = format!("{}?target=answer", path.display());
    let set = store.load(&place).unwrap().dataset;
    assert_eq!((set.image, set.train.len(), set.test.len()), ([1, 1, 4], 40, 10));
    assert_eq!((set.classes.join(" "), &set.name), ("no yes".to_string(), &place));
    // The same bytes packed are the same data.
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gz, table(50).as_bytes()).unwrap();
    fs::write(dir.path().join("t.csv.gz"), gz.finish().unwrap()).unwrap();
    let packed = store.load(&format!("{}.gz?target=answer", path.display())).unwrap().dataset;
    assert_eq!((&packed.checksum, &packed.train), (&set.checksum, &set.train));
    // Another table is read by the encoding of this one.
    let more = dir.path().join("more.csv");
    fs::write(&more, "answer,size,colour\nyes,3,g\nno,1,r\nno,1,b\nyes,2,b\nno,3,b\n").unwrap();
    let encoding = set.encoding.as_ref();
    let other = store.load_as(more.to_str().unwrap(), encoding).unwrap().dataset;
    assert_eq!((other.image, &other.classes, other.len()), (set.image, &set.classes, 5));
    let junk = store.load_as(more.to_str().unwrap(), Some(&serde_json::json!({"target": 3}))).unwrap_err();
    assert!(junk.to_string().contains("`encoding` is damaged"), "{junk}");
    // A separate file for testing.
    let tested = store.load(&format!("{place}&test={}", more.display())).unwrap().dataset;
    assert_eq!((tested.train.len(), tested.test.len()), (50, 5));
    for (options, says) in [
        ("", "which column has the answers?"),
        ("?target=answr", "did you mean `answer`?"),
        ("?target=answer&context=3", "no meaning for a table"),
        ("?target=answer&test=2", "between 0 and 1"),
        ("?target=answer&test=0.001", "too few to hold"),
        ("?target=answer&test=none.csv", "cannot read none.csv"),
        ("?target=answer&drop=size,colour", "no column is left"),
        ("?target=size&drop=nothing", "no column named `nothing`"),
    ] {
        let e = store.load(&format!("{}{options}", path.display())).unwrap_err().to_string();
        assert!(e.contains(says), "{e} (expected {says})");
    }
}

#[test]
fn a_folder_of_pictures_is_a_data_set() {
    let (dir, store) = store();
    let png = |value: u8, rgb: bool, width: u32| {
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, width, 2);
        encoder.set_color(if rgb { png::ColorType::Rgb } else { png::ColorType::Grayscale });
        let data = vec![value; width as usize * 2 * if rgb { 3 } else { 1 }];
        encoder.write_header().unwrap().write_image_data(&data).unwrap();
        out
    };
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    for i in 0..5 {
        put(&format!("p/cat/{i}.png"), &png(i, false, 2));
        put(&format!("p/dog/{i}.PNG"), &png(100 + i, false, 2));
    }
    put("p/cat/notes.md", b"no picture");
    put("p/.hidden/x.png", b"no picture");
    let place = dir.path().join("p").display().to_string();
    let set = store.load(&place).unwrap().dataset;
    assert_eq!((set.image, set.train.len(), set.test.len()), ([1, 2, 2], 8, 2));
    assert_eq!(set.classes, ["cat", "dog"]);
    let Inputs::Bytes(v) = &set.train.inputs else { panic!() };
    assert!(v.chunks(4).zip(&set.train.labels).all(|(p, &l)| (p[0] >= 100) == (l == 1)));
    // One coloured picture makes all of them coloured.
    put("p/cat/9.png", &png(9, true, 2));
    assert_eq!(store.load(&place).unwrap().dataset.image, [3, 2, 2]);
    put("p/dog/9.png", &png(9, true, 3));
    let e = store.load(&place).unwrap_err().to_string();
    assert!(e.contains("dog/9.png: 2x3") && e.contains("is 2x2") && e.contains("resize"), "{e}");
    put("p/dog/9.png", &png(9, true, 2)[..40]);
    let e = store.load(&place).unwrap_err().to_string();
    assert!(e.contains("dog/9.png: a damaged PNG"), "{e}");
    put("p/dog/9.png", &png(9, true, 2));
    put("p/dog/a.wav", &wav::tests::clip(8000, 1, &[1, 2]));
    let e = store.load(&place).unwrap_err().to_string();
    assert!(e.contains("1 of 13 files are WAV"), "{e}");
    // A class that only the test part has.
    put("q/train/cat/1.png", &png(1, false, 2));
    put("q/train/dog/1.png", &png(2, false, 2));
    put("q/test/emu/1.png", &png(1, false, 2));
    let e = store.load(&dir.path().join("q").display().to_string()).unwrap_err().to_string();
    assert!(e.contains("class `emu` does not occur"), "{e}");
    put("q/test/dog/1.png", &png(1, false, 2));
    fs::remove_dir_all(dir.path().join("q/test/emu")).unwrap();
    assert_eq!(store.load(&dir.path().join("q").display().to_string()).unwrap().dataset.test.labels, [1]);
}

#[test]
fn a_folder_of_clips_is_a_data_set() {
    let (dir, store) = store();
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    for i in 0..4 {
        put(&format!("one/{i}.wav"), &wav::tests::clip(8000, 1, &[i * 1000; 6]));
        put(&format!("two/{i}.wav"), &wav::tests::clip(8000, 1, &[-i * 1000; 6]));
    }
    let place = dir.path().display().to_string();
    let set = store.load(&place).unwrap().dataset;
    assert_eq!((set.image, set.len()), ([1, 1, 6], 8));
    put("two/5.wav", &wav::tests::clip(8000, 1, &[7; 3]));
    let e = store.load(&place).unwrap_err().to_string();
    assert!(e.contains("two/5.wav: 3 samples") && e.contains("samples=N"), "{e}");
    let set = store.load(&format!("{place}?samples=4")).unwrap().dataset;
    assert_eq!((set.image, set.len()), ([1, 1, 4], 9));
    put("two/5.wav", &wav::tests::clip(16000, 1, &[7; 6]));
    let e = store.load(&place).unwrap_err().to_string();
    assert!(e.contains("1 channels at 16000 Hz"), "{e}");
}

#[test]
fn damaged_bytes_never_panic() {
    let text = table(30);
    let mut seeds: Vec<(&str, Vec<u8>)> = vec![
        ("csv", text.into_bytes()),
        ("svm", b"1 1:2 3:4\n-1 2:0.5 # x\n1 1:1\n2 3:1\n".to_vec()),
        ("txt", "some text that goes on, and on, and on; é".repeat(4).into_bytes()),
        ("wav", wav::tests::clip(8000, 2, &[1, 2, 3, 4, 5, 6])),
        ("npy", npy::tests::npy("{'descr': '<i2', 'fortran_order': True, 'shape': (2, 3), }", &[0; 12])),
        ("cifar10", vec![3; 3073 * 2]),
    ];
    let x = safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![4, 1], &[1, 2, 3, 4]).unwrap();
    let y = safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![4], &[0, 1, 0, 1]).unwrap();
    seeds.push(("safetensors", safetensors::serialize([("x", x), ("y", y)], None).unwrap()));
    for (format, good) in seeds {
        read_bytes(format, &good).unwrap_or_else(|e| panic!("{format}: {e}"));
        for t in 0..1500 {
            let mut r = Rng::stream(0, "damage", 2, t);
            let mut bytes = good.clone();
            if t % 3 == 0 {
                bytes.truncate(r.below(bytes.len() as u64) as usize);
            }
            for _ in 0..r.below(5) {
                if !bytes.is_empty() {
                    let at = r.below(bytes.len().min(160) as u64) as usize;
                    bytes[at] = r.bits() as u8;
                }
            }
            let _ = read_bytes(format, &bytes);
        }
    }
}
