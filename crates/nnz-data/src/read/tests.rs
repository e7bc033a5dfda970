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

/// Arrays `x` and `y` as safetensors.
fn arrays(x: &[f64], y: &[f64]) -> Vec<u8> {
    let [a, b] = [x, y].map(|v| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
    let view =
        |shape: Vec<usize>, bytes| safetensors::tensor::TensorView::new(safetensors::Dtype::F64, shape, bytes).unwrap();
    let (a, b) = (view(vec![y.len(), x.len() / y.len()], &a), view(vec![y.len()], &b));
    safetensors::serialize([("x", a), ("y", b)], None).unwrap()
}

/// A table of columns of unlike scale is the same data as a CSV file, as arrays and as svmlight.
#[test]
fn rows_of_numbers_are_scaled_as_tables_are() {
    let (dir, store) = store();
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let row = |i: usize| [1e9 + (i * 37 % 101) as f64, 0.001 * (1 + i * 53 % 97) as f64, 1.0 + (i * 7 % 13) as f64];
    let rows: Vec<[f64; 3]> = (0..60).map(row).collect();
    for (answer, real) in [(&(|i: usize| (i % 3) as f64) as &dyn Fn(usize) -> f64, false), (&|i| i as f64 + 0.5, true)]
    {
        let lines = |f: &dyn Fn(usize, &[f64; 3]) -> String| {
            rows.iter().enumerate().map(|(i, r)| f(i, r)).collect::<String>().into_bytes()
        };
        let csv = lines(&|i, [a, b, c]| format!("{a},{b},{c},{}\n", answer(i)));
        let svm = lines(&|i, [a, b, c]| format!("{} 1:{a} 2:{b} 3:{c}\n", answer(i)));
        let arrays = arrays(&rows.concat(), &(0..60).map(answer).collect::<Vec<f64>>());
        let want = store.load(&format!("{}?target=4", put("t.csv", &csv))).unwrap().dataset;
        assert_eq!(want.real(), real);
        for place in [put("t.svm", &svm), put("t.safetensors", &arrays)] {
            let got = store.load(&place).unwrap().dataset;
            assert_eq!((&got.train, &got.test, got.image), (&want.train, &want.test, want.image), "{place}");
            // A model's file gives the same inputs to the same rows.
            let json = got.encoding.clone().unwrap();
            assert_eq!(store.load_as(&place, Some(&json)).unwrap().dataset.train, got.train);
            let asked = ask(Path::new(&place), &Encoding::from_json(&json).unwrap()).unwrap();
            assert_eq!((asked.rows, asked.inputs.len()), (60, 180));
            // A model that keeps no encoding gets what the file holds.
            let plain = store.load_as(&place, None).unwrap().dataset;
            let Inputs::Floats(v) = &plain.train.inputs else { panic!() };
            assert!(plain.encoding.is_none() && v[0] >= 1e9 && v[2] >= 1.0);
        }
    }
    // A column that most rows leave out keeps its zeros; its values have a mean square of 1.
    let text: String = (0..50)
        .map(|i| if i % 5 == 0 { format!("{} 1:{} 2:7\n", i % 2, 300 + i) } else { format!("{} 2:9\n", i % 2) })
        .collect();
    let set = store.load(&put("few.svm", text.as_bytes())).unwrap().dataset;
    let Inputs::Floats(v) = &set.train.inputs else { panic!() };
    let given: Vec<f32> = v.iter().step_by(2).copied().filter(|x| *x != 0.0).collect();
    assert!((1..=10).contains(&given.len()), "{given:?}");
    assert!((given.iter().map(|x| x * x).sum::<f32>() / given.len() as f32 - 1.0).abs() < 1e-5);
    let e =
        store.load(&put("nan.safetensors", &arrays(&[1.0, f64::NAN, 2.0, 3.0], &[0.0, 1.0]))).unwrap_err().to_string();
    assert!(e.contains("row 0, value 1 is NaN"), "{e}");
}

#[test]
fn svmlight_of_two_files_counts_columns_alike() {
    let (dir, store) = store();
    let put = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let from_zero = put("train.svm", "0 0:1 1:5\n1 0:2 1:7\n0 0:3 1:6\n1 0:4 2:1\n");
    // No row of the test file has the index 0.
    let test = put("test.svm", "1 1:7\n0 1:5\n");
    let place = format!("{from_zero}?test={test}");
    let set = store.load(&place).unwrap().dataset;
    let Inputs::Floats(v) = &set.train.inputs else { panic!() };
    let Inputs::Floats(t) = &set.test.inputs else { panic!() };
    assert_eq!((set.image, v.len(), t.len()), ([1, 1, 3], 12, 6));
    assert_eq!((t[1], t[4]), (v[4], v[1]), "7 and 5 are in the second column of both files");
    // The other way round: what only the test file says holds for both.
    let back = store.load(&format!("{test}?test={from_zero}")).unwrap().dataset;
    assert_eq!(back.image, [1, 1, 3]);
    // The model remembers.
    let json = set.encoding.unwrap();
    assert_eq!((&json["base"], &json["classes"]), (&0.into(), &serde_json::json!(["0", "1"])));
    let known = Encoding::from_json(&json).unwrap();
    let asked = ask(Path::new(&test), &known).unwrap();
    assert_eq!(asked.inputs, set.test.inputs);
    let alone = store.load_as(&format!("{test}?test={test}"), Some(&json)).unwrap().dataset;
    assert_eq!((alone.test.inputs, alone.test.labels), (set.test.inputs.clone(), vec![1, 0]));
    for (text, says) in [
        ("1 0:1 3:2\n", "line 1: index 3, but the columns learned from are 0 to 2"),
        ("# more\n7 0:1\n", "class `7` does not occur"),
    ] {
        let place = put("more.svm", text);
        let e = store.load_as(&format!("{place}?test={test}"), Some(&json)).unwrap_err().to_string();
        assert!(e.contains(says), "{e}");
    }
    // Where no file has the index 0, an option says that it counts.
    let one = store.load(&format!("{test}?test={test}")).unwrap().dataset;
    let zero = store.load(&format!("{test}?test={test}&base=0")).unwrap().dataset;
    assert_eq!((one.image[2], zero.image[2]), (1, 2));
    let e = store.load_as(&format!("{test}?base=1"), Some(&json)).unwrap_err().to_string();
    assert!(e.contains("base=1: the model counts columns from 0"), "{e}");
    assert!(store.load(&format!("{test}?base=2")).unwrap_err().to_string().contains("expected 0 or 1"));
    let e = ask(Path::new(&put("t.csv", "a\n1\n")), &known).unwrap_err().to_string();
    assert!(e.contains("trained on rows of numbers"), "{e}");
}

#[test]
fn numbers_of_svmlight_are_numbers() {
    let (dir, store) = store();
    let load = |answers: &dyn Fn(usize) -> String, options: &str| {
        let text: String = (0..200).map(|i| format!("{} 1:{} 2:{}\n", answers(i), i % 7, i % 5)).collect();
        let path = dir.path().join("r.svm");
        fs::write(&path, text).unwrap();
        store.load(&format!("{}{options}", path.display())).unwrap()
    };
    let real = load(&|i| (i as f64 / 8.0).to_string(), "");
    assert!(real.dataset.real() && real.dataset.classes == ["value"] && real.notes.is_empty());
    assert!([&real.dataset.train, &real.dataset.test].iter().any(|split| split.targets.contains(&1.125)));
    // As in a table: more than 20 whole numbers with fewer than five rows each.
    let many = load(&|i| (i % 50).to_string(), "");
    assert!(many.dataset.real() && many.notes[0].contains("answers=classes"), "{:?}", many.notes);
    assert_eq!(load(&|i| (i % 40).to_string(), "").dataset.classes.len(), 40);
    assert_eq!(load(&|i| (i % 50).to_string(), "?answers=classes").dataset.classes.len(), 50);
    assert!(load(&|i| (i % 3).to_string(), "?answers=numbers").dataset.real());
}

#[test]
fn an_option_of_a_place_is_replaced() {
    assert_eq!(instead_of("t.csv", "unseen", "drop"), "t.csv?unseen=drop");
    assert_eq!(instead_of("t.csv?unseen=refuse", "unseen", "drop"), "t.csv?unseen=drop");
    assert_eq!(instead_of("t.csv?a=1&unseen=refuse&b=2", "unseen", "drop"), "t.csv?unseen=drop&a=1&b=2");
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
