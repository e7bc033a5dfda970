//! Records that are empty, cut off, inconsistent or not finite still give a page.

use super::record;
use nnz_lab::report::{csv, html};
use nnz_lab::run::record::{EpochRecord, Misread, RunRecord};

/// The page and the tables of the example after `change`; the page must be whole and free of `NaN` and infinities.
fn page(change: impl FnOnce(&mut RunRecord)) -> String {
    let mut record = record();
    change(&mut record);
    assert_eq!(csv(&record).len(), 10);
    let page = html(&record);
    assert_whole(&page);
    page
}

/// Nothing is cut off, left open or not a number.
pub fn assert_whole(page: &str) {
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"));
    for broken in ["NaN", ">inf", "\"inf", " inf", "-inf"] {
        assert!(!page.contains(broken), "{broken}: {}", &page[page.find(broken).unwrap().saturating_sub(200)..][..300]);
    }
    for tag in ["svg", "figure", "section", "table", "ul", "div", "g", "text"] {
        let open = page.matches(&format!("<{tag} ")).count() + page.matches(&format!("<{tag}>")).count();
        assert_eq!(open, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

#[test]
fn no_arm_no_seed_no_layer_no_epoch() {
    assert!(page(|r| r.arms.clear()).contains("This run has no arm"));
    assert!(page(|r| r.arms.iter_mut().for_each(|a| a.seeds.clear())).contains("No seed finished"));
    let epochs = page(|r| r.arms.iter_mut().flat_map(|a| &mut a.seeds).for_each(|s| s.epochs.clear()));
    assert!(epochs.contains("No epoch finished"));
    let empty = page(|r| {
        for seed in r.arms.iter_mut().flat_map(|a| &mut a.seeds) {
            seed.layers.clear();
            seed.confusion.clear();
            seed.misread.clear();
        }
    });
    assert!(empty.contains("No confusion matrix was recorded") && empty.contains("No misread row was recorded"));
}

#[test]
fn one_arm_and_one_epoch() {
    let one = page(|r| {
        r.arms.truncate(1);
        r.arms[0].seeds.truncate(1);
        r.arms[0].interval = None;
        r.arms[0].seeds[0].epochs.truncate(1);
    });
    assert!(one.contains("There is no dense arm to compare it with."));
    assert!(one.contains("<circle"), "a single epoch is a dot");
    assert!(!one.contains("class=\"answers\""));
    let dense = page(|r| r.arms = vec![r.arms[2].clone()]);
    assert!(dense.contains("With all its weights (266,200), dense read 95.77%"));
}

#[test]
fn numbers_that_are_not_finite() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, 0.0, -1.0, 5e-324, 1e300] {
        page(|r| {
            for arm in &mut r.arms {
                arm.test_accuracy = bad;
                arm.interval = Some(bad);
                arm.density = bad;
                arm.seconds_per_epoch = bad;
                for seed in &mut arm.seeds {
                    seed.test_accuracy = bad;
                    for e in &mut seed.epochs {
                        *e = EpochRecord { loss: bad, accuracy: bad, density: bad, ..e.clone() };
                    }
                    seed.misread.iter_mut().for_each(|m| m.confidence = bad);
                }
            }
        });
        // Only some epochs: the line breaks and goes on.
        let some = page(|r| r.arms[0].seeds.iter_mut().for_each(|s| s.epochs[4].loss = bad));
        assert!(some.contains("Training loss"));
    }
}

#[test]
fn sizes_at_the_ends_of_their_range() {
    for size in [0, 1, usize::MAX] {
        page(|r| {
            r.data.train = size;
            r.data.test = size;
            r.machine.threads = size;
            for arm in &mut r.arms {
                (arm.nonzeros, arm.weight_bytes, arm.optimizer_bytes) = (size, size, size);
                for layer in arm.seeds.iter_mut().flat_map(|s| &mut s.layers) {
                    (layer.rows, layer.cols, layer.nonzeros, layer.bytes) = (size, size, size, size);
                    layer.fan_in = vec![0, u32::MAX];
                    layer.fan_out = vec![u32::MAX; 784];
                }
                for seed in &mut arm.seeds {
                    seed.epochs
                        .iter_mut()
                        .for_each(|e| (e.epoch, e.step, e.grown, e.pruned) = (u32::MAX, u64::MAX, size, 7));
                    seed.confusion.iter_mut().flatten().for_each(|c| *c = u32::MAX);
                }
            }
        });
    }
}

#[test]
fn data_that_is_no_picture() {
    for image in [[1, 1, 784], [1, 784, 1], [784, 1, 1], [0, 0, 0], [1, 28, 0]] {
        let page = page(|r| r.data.image = image);
        assert!(page.contains("Inputs with most connections, counted from 0: "), "{image:?}");
        assert!(!page.contains("<img") && page.contains("read as"), "{image:?}");
    }
    assert!(page(|r| r.data.image = [1, 1, 784]).contains("of the 2,000 test rows correctly"));
    // Pictures of another size than the first layer's inputs, as a convolution reads them.
    for image in [[2, 28, 28], [usize::MAX, 2, 2], [2, usize::MAX, 2]] {
        let page = page(|r| r.data.image = image);
        assert!(page.contains("fc1.weight looks at a window of the picture at a time"), "{image:?}");
        assert!(!page.contains("<img") && !page.contains("Inputs with most connections"), "{image:?}");
    }
}

#[test]
fn other_pictures_are_drawn_too() {
    // 16 x 49 grey, 4 channels of 14 x 14, and a colour picture whose misread rows have three planes.
    assert_eq!(page(|r| r.data.image = [1, 16, 49]).matches("<title>row 16, column 49: ").count(), 2);
    let four = page(|r| r.data.image = [4, 14, 14]);
    assert!(four.contains("summed over 4 channels") && four.matches("<img").count() == 12);
    let colour = page(|r| {
        r.data.image = [3, 4, 4];
        for arm in &mut r.arms {
            for seed in &mut arm.seeds {
                seed.layers[0].fan_out = (0..48).collect();
                seed.misread =
                    vec![Misread { index: 0, label: 1, predicted: 2, confidence: 0.5, pixels: (0..48).collect() }];
            }
        }
    });
    assert!(colour.contains("<title>row 4, column 4: 138</title>") && colour.matches("<img").count() == 1);
    // A large picture is pooled: 200 x 200 pixels become 50 x 50 squares.
    let large = page(|r| {
        r.data.image = [1, 200, 200];
        r.arms
            .iter_mut()
            .flat_map(|a| &mut a.seeds)
            .for_each(|s| s.layers[0].fan_out = (0..40_000).map(|i| i % 2).collect());
    });
    assert!(
        large.contains("Each square is the mean of 4 × 4 pixels")
            && large.contains("<title>row 197, column 197: 0.5</title>")
    );
}

#[test]
fn confusion_of_any_shape() {
    assert!(page(|r| r.arms[0].seeds[0].confusion = vec![vec![3], vec![], vec![1, 2, 3, 4]]).contains("class"));
    let perfect = page(|r| {
        let seed = &mut r.arms[0].seeds[0];
        seed.misread.clear();
        seed.confusion = (0..10).map(|i| (0..10).map(|j| if i == j { 200 } else { 0 }).collect()).collect();
    });
    assert!(perfect.contains("No row of 2,000 was misread."));
    let many = |n: usize| page(move |r| r.arms[0].seeds[0].confusion = vec![vec![1; n]; n]);
    assert!(many(30).contains("class 29 read as 3: 1"), "unnamed classes are numbered");
    assert!(many(100).contains("A matrix of 100 classes is too large to draw"));
}

#[test]
fn misread_rows_that_contradict_the_data() {
    let page = page(|r| {
        for m in &mut r.arms[0].seeds[0].misread {
            (m.label, m.predicted, m.index) = (usize::MAX, 77, usize::MAX);
            m.pixels.truncate(100);
        }
    });
    assert!(page.contains("class 77") && !page.contains("<img"));
}

#[test]
fn arms_and_layers_beyond_number() {
    let page = page(|r| {
        let layer = r.arms[0].seeds[0].layers[1].clone();
        for (i, arm) in r.arms.iter_mut().enumerate().take(2) {
            arm.name = format!("arm {i}");
            arm.seeds[0].layers.extend(
                (0..40).map(|j| nnz_lab::run::record::LayerRecord { name: format!("block{j}"), ..layer.clone() }),
            );
        }
        let arm = r.arms[0].clone();
        r.arms.extend((2..12).map(|i| nnz_lab::run::record::ArmRecord { name: format!("arm {i}"), ..arm.clone() }));
    });
    assert!(page.contains("Degrees of 38 more layers") && page.contains("block39: fan-out") && page.contains("arm 11"));
}
