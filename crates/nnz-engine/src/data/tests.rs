use super::*;

fn toy(labels: &[u32]) -> Dataset {
    let bytes = (0..labels.len() * 4).map(|i| (i * 37 % 256) as u8).collect();
    let split = Split::new(Inputs::Bytes(bytes), labels.to_vec());
    Dataset::new("toy", [1, 2, 2], vec!["a".into(), "b".into(), "c".into()], split.clone(), split, "0".into()).unwrap()
}

fn skewed() -> Dataset {
    let labels: Vec<u32> = (0..997).map(|i| if i % 10 == 0 { 2 } else { u32::from(i % 3 == 0) }).collect();
    toy(&labels)
}

#[test]
fn validation_is_stratified_complete_and_seeded() {
    let set = skewed();
    let (train, validation) = set.split_validation(0.1, 7).unwrap();
    assert_eq!((train.len(), validation.len()), (897, 100));
    let mut all: Vec<u32> = train.iter().chain(&validation).copied().collect();
    all.sort_unstable();
    assert_eq!(all, (0..997).collect::<Vec<u32>>());
    assert!(train.is_sorted() && validation.is_sorted());
    for c in 0..3 {
        let share = |rows: &[u32]| rows.iter().filter(|&&r| set.train.labels[r as usize] == c).count();
        let exact = 0.1 * (share(&train) + share(&validation)) as f64;
        assert!((share(&validation) as f64 - exact).abs() < 1.0, "class {c}: {} of {exact}", share(&validation));
    }
    assert_eq!((train, validation.clone()), set.split_validation(0.1, 7).unwrap());
    assert_ne!(validation, set.split_validation(0.1, 8).unwrap().1);
}

#[test]
fn validation_keeps_one_row_a_class_and_refuses_nonsense() {
    let set = toy(&[0, 0, 0, 0, 1, 2]);
    let (train, validation) = set.split_validation(0.9, 1).unwrap();
    assert_eq!((train.len(), validation.len()), (3, 3));
    assert_eq!(set.split_validation(0.0, 1).unwrap(), ((0..6).collect(), vec![]));
    for fraction in [-0.1, 1.0, f64::NAN, 0.01] {
        let e = set.split_validation(fraction, 1).unwrap_err().to_string();
        assert!(e.contains("of 6 rows"), "{e}");
    }
}

#[test]
fn order_is_a_permutation_that_differs_by_epoch_and_seed() {
    let first = order(3, 0, 1000);
    let mut sorted = first.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..1000).collect::<Vec<u32>>());
    assert_ne!(first, sorted);
    assert_eq!(first, order(3, 0, 1000));
    assert_ne!(first, order(3, 1, 1000));
    assert_ne!(first, order(4, 0, 1000));
}

#[test]
fn normalized_rows_have_mean_zero_and_deviation_one() {
    let set = skewed();
    let (rows, _) = set.split_validation(0.2, 0).unwrap();
    let floats = match &set.train.inputs {
        Inputs::Bytes(v) => v.iter().map(|&b| f32::from(b) / 255.0).collect(),
        _ => unreachable!(),
    };
    let floats = Split::new(Inputs::Floats(floats), set.train.labels.clone());
    for split in [&set.train, &floats] {
        let norm = Normalization::of(split, &rows).unwrap();
        let mut out = vec![0f64; rows.len() * 4];
        set.fill(split, &rows, norm, &mut out).unwrap();
        let n = out.len() as f64;
        let mean = out.iter().sum::<f64>() / n;
        let variance = out.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-5, "{mean} {variance}");
    }
    let flat = Split::new(Inputs::Bytes(vec![255; 8]), vec![0, 1]);
    assert_eq!(Normalization::of(&flat, &[0, 1]).unwrap(), Normalization::new(1.0, 1.0));
    assert!(Normalization::of(&flat, &[]).is_err() && Normalization::of(&flat, &[2]).is_err());
}

#[test]
fn rows_are_filled_in_the_order_asked_for() {
    let set = toy(&[0, 1, 2]);
    let norm = Normalization::new(0.5, 0.25);
    let mut out = [0f32; 8];
    set.fill(&set.train, &[2, 0], norm, &mut out).unwrap();
    let byte = |i: usize| (((i * 37 % 256) as f32 / 255.0) - 0.5) / 0.25;
    assert_eq!(out, [8, 9, 10, 11, 0, 1, 2, 3].map(byte));
    let mut wide = [0f64; 8];
    set.fill(&set.train, &[2, 0], norm, &mut wide).unwrap();
    assert_eq!(wide, out.map(f64::from));
    let mut labels = [9; 2];
    set.train.labels_of(&[2, 0], &mut labels).unwrap();
    assert_eq!(labels, [2, 0]);
    assert!(matches!(set.fill(&set.train, &[3, 0], norm, &mut out), Err(DataError::Row { row: 3, rows: 3 })));
    assert!(matches!(set.fill(&set.train, &[0], norm, &mut out), Err(DataError::Length { got: 8, .. })));
    assert!(set.train.labels_of(&[3], &mut [0]).is_err() && set.train.labels_of(&[1], &mut [0, 0]).is_err());
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let good = Split::new(Inputs::Floats(vec![0.0; 6]), vec![0, 1, 1]);
    let build = |image, classes: usize, train: Split, test: Split| {
        Dataset::new("x", image, (0..classes).map(|c| c.to_string()).collect(), train, test, String::new())
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    let with = |values: Vec<f32>, labels: &[u32]| Split::new(Inputs::Floats(values), labels.to_vec());
    assert_eq!(build([1, 1, 2], 2, good.clone(), good.clone()), Ok(()));
    for (result, words) in [
        (build([1, 0, 2], 2, good.clone(), good.clone()), "[1, 0, 2]"),
        (build([1, 1, 2], 1, good.clone(), good.clone()), "at least 2"),
        (build([1, 1, 2], 2, with(vec![], &[]), good.clone()), "train split: 0 rows"),
        (build([1, 1, 3], 2, good.clone(), good.clone()), "6 values do not make 3 rows"),
        (build([1, 1, 2], 2, good.clone(), with(vec![0.0; 4], &[0, 2])), "test split: row 1 has label 2"),
        (build([1, 1, 2], 2, good.clone(), with(vec![0.0, 0.0, 0.0, f32::NAN], &[0, 1])), "row 1, value 1 is NaN"),
        (build([usize::MAX, 2, 2], 2, good.clone(), good.clone()), "cannot be"),
    ] {
        let e = result.unwrap_err();
        assert!(e.contains(words), "{e}");
    }
}

#[test]
fn four_idx_files_make_a_data_set() {
    let idx = |shape: &[usize], data: &[u8]| Idx {
        file: format!("file of {shape:?}"),
        shape: shape.to_vec(),
        data: data.to_vec(),
        sha256: format!("{data:?}"),
    };
    let (images, labels) = (idx(&[2, 1, 2], &[1, 2, 3, 4]), idx(&[2], &[0, 2]));
    let both = [images.clone(), labels.clone()];
    let set = Dataset::from_idx("x", None, both.clone(), both.clone()).unwrap();
    assert_eq!((set.image, set.features(), set.len()), ([1, 1, 2], 2, 4));
    assert_eq!(set.classes, ["0", "1", "2"]);
    assert_eq!(set.train.labels, [0, 2]);
    let other = [idx(&[2, 1, 2], &[1, 2, 3, 5]), labels.clone()];
    assert_ne!(set.checksum, Dataset::from_idx("x", None, both.clone(), other).unwrap().checksum);
    let swapped = Dataset::from_idx("x", None, both.clone(), [labels.clone(), images.clone()]).unwrap_err();
    assert!(swapped.to_string().contains("swapped"), "{swapped}");
    let wide = [idx(&[1, 2, 2], &[1, 2, 3, 4]), idx(&[1], &[0])];
    let differs = Dataset::from_idx("x", None, both.clone(), wide).unwrap_err().to_string();
    assert!(differs.contains("[1, 2, 2]") && differs.contains("[1, 1, 2]"), "{differs}");
    let short = [images, idx(&[3], &[0, 1, 2])];
    assert!(Dataset::from_idx("x", None, both, short).unwrap_err().to_string().contains("test split"));
}

#[test]
fn colours_are_normalized_apart_and_tokens_not_at_all() {
    let bytes: Vec<u8> = (0..30u8).flat_map(|i| [i, 100 + 2 * i, 255 - i % 2]).collect();
    let floats = bytes.iter().map(|&b| f32::from(b) / 255.0).collect();
    for inputs in [Inputs::Bytes(bytes.clone()), Inputs::Floats(floats)] {
        let split = Split::new(inputs, vec![0, 1, 0, 1, 0]);
        let classes = vec!["a".into(), "b".into()];
        let set = Dataset::new("rgb", [3, 2, 3], classes, split.clone(), split, "0".into()).unwrap();
        let rows = [0, 1, 2, 4];
        let norm = set.normalization(&rows).unwrap();
        let mut out = vec![0f64; 4 * 18];
        set.fill(&set.train, &rows, norm, &mut out).unwrap();
        for c in 0..3 {
            let of: Vec<f64> = out.iter().skip(c).step_by(3).copied().collect();
            let mean = of.iter().sum::<f64>() / 24.0;
            let variance = of.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 24.0;
            assert!(mean.abs() < 1e-4 && (variance - 1.0).abs() < 1e-4, "channel {c}: {mean} {variance}");
        }
        let text = serde_json::to_string(&norm).unwrap();
        assert_eq!(serde_json::from_str::<Normalization>(&text).unwrap(), norm);
        set.fill(&set.train, &[0, 1, 2, 3], Normalization::TOKENS, &mut out).unwrap();
        let unit = if matches!(set.train.inputs, Inputs::Bytes(_)) { 1.0 } else { 255.0 };
        assert!(out.iter().zip(&bytes).all(|(o, &b)| (o * unit - f64::from(b)).abs() < 1e-4));
    }
    // The form in older files.
    let old: Normalization = serde_json::from_str(r#"{"mean": 0.25, "std": 0.5}"#).unwrap();
    assert_eq!(old, Normalization::new(0.25, 0.5));
    assert_eq!(serde_json::to_string(&old).unwrap(), r#"{"mean":0.25,"std":0.5}"#);
}

#[test]
fn class_names_that_are_numbers_become_targets() {
    let split = || Split::new(Inputs::Bytes(vec![0; 8]), vec![1, 0]);
    let named = |names: [&str; 2]| {
        Dataset::new("n", [1, 2, 2], names.map(String::from).to_vec(), split(), split(), "0".into()).unwrap().numbers()
    };
    let set = named(["-1.5", "4"]).unwrap();
    assert!(set.real());
    assert_eq!((set.train.targets, set.train.labels, set.classes), (vec![4.0, -1.5], vec![0, 0], vec!["value".into()]));
    assert!(named(["-1.5", "four"]).unwrap_err().to_string().contains("`four` is no number"));
    let real = |targets: Vec<f32>| {
        let part = || Split::with_targets(Inputs::Bytes(vec![0; 8]), targets.clone(), 2);
        Dataset::new("n", [1, 2, 2], vec!["x".into(), "y".into()], part(), part(), "0".into()).map(|d| d.train.len())
    };
    assert_eq!(real(vec![1.0, 2.0, 3.0, 4.0]).unwrap(), 2);
    assert!(real(vec![1.0, 2.0, 3.0, f32::NAN]).unwrap_err().to_string().contains("row 1, target y is NaN"));
    assert!(real(vec![1.0, 2.0, 3.0]).is_err());
}
