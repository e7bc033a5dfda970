//! Required and forbidden content of the page.

use super::record;
use base64::{Engine, prelude::BASE64_STANDARD};
use nnz_lab::report::html;
use nnz_lab::scores::Scores;

/// The values of an attribute, wherever it occurs.
pub fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
    let start = format!(" {attribute}=\"");
    page.split(&start).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

/// The opening tags of an element, with their attributes.
pub fn tags<'a>(page: &'a str, element: &str) -> Vec<&'a str> {
    let start = format!("<{element}");
    page.split(&start)
        .skip(1)
        .map(|rest| rest.split('>').next().unwrap())
        .filter(|t| t.is_empty() || t.starts_with(' '))
        .collect()
}

/// The page's text without its tags.
pub fn text(page: &str) -> String {
    page.split('<').map(|part| part.split_once('>').map_or(part, |p| p.1)).collect()
}

/// Asserts that a page is self-contained.
pub fn assert_alone(page: &str) {
    for foreign in [
        "<script",
        "<link",
        "<iframe",
        "<object",
        "<embed",
        "@import",
        "@font-face",
        "url(",
        "http:",
        "https:",
        "//cdn",
        "srcset",
        "javascript:",
    ] {
        assert!(!page.contains(foreign), "the page contains {foreign}");
    }
    assert!(values(page, "src").iter().all(|s| s.starts_with("data:image/png;base64,")));
    assert!(values(page, "href").is_empty());
    assert!(page.contains("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"));
    assert!(page.contains("http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';"));
    assert_eq!(page.matches("<h1>").count(), 1);
    assert_eq!(page.matches("<figure>").count(), page.matches("<figcaption>").count());
    let named = |s: &&str| s.contains("role=\"img\"") && s.contains("aria-label=\"");
    assert!(tags(page, "svg").iter().all(|s| named(s) || s.contains("aria-hidden=\"true\"")));
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let page = html(&record());
    assert_alone(&page);
    assert_eq!(values(&page, "src").len(), 12, "one picture a misread digit");
    assert!(page.len() < 400_000, "{} bytes", page.len());
}

#[test]
fn equal_records_give_equal_bytes() {
    assert_eq!(html(&record()), html(&record()));
}

#[test]
fn every_arm_layer_and_seed_is_named() {
    let record = record();
    let page = text(&html(&record));
    for arm in &record.arms {
        assert!(page.contains(&arm.name) && page.contains(&arm.summary), "{}", arm.name);
        assert!(page.contains(&format!("Layers of {} ", arm.name)), "{}", arm.name);
        for layer in &arm.seeds[0].layers {
            assert!(page.contains(&layer.name), "{}", layer.name);
        }
    }
    // Layers with gaps are drawn, the classifier without is only named.
    for (layer, drawn) in record.arms[0].seeds[0].layers.iter().zip([true, true, false]) {
        for side in ["fan-in", "fan-out"] {
            assert_eq!(page.contains(&format!("{}: {side}", layer.name)), drawn, "{}", layer.name);
        }
    }
    assert!(page.contains("without a histogram: fc3.weight."));
    for part in
        [&record.id, &record.model, &record.machine.cpu, &record.data.name, "nnz run recipe.toml", "distribution = "]
    {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn the_headline_is_computed_from_the_numbers() {
    let mut record = record();
    let lead = |record: &_| {
        let page = html(record);
        text(page.split("<p class=\"lead\">").nth(1).unwrap().split("</p>").next().unwrap())
    };
    assert_eq!(
        lead(&record),
        "With 14,260 weights where the dense network has 266,200 (5.4%), rigl read 93.80% of the 2,000 test images \
         correctly, 1.97 percentage points below the dense network (95.77%); its weights take 4.6× less memory, its \
         optimizer state 18× less, and an epoch is 2.0× faster."
    );
    // Pairs that scatter widely show nothing.
    record.arms[0].seeds[0].test_accuracy -= 0.02;
    record.arms[0].seeds[1].test_accuracy += 0.03;
    assert!(
        lead(&record).contains("correctly, not measurably different from the dense network (95.77%); "),
        "{}",
        lead(&record)
    );
    // One seed: the plain difference. Slow and large: said as plainly as a gain.
    record.arms.iter_mut().for_each(|a| a.seeds.truncate(1));
    record.arms[0].test_accuracy = 0.98;
    record.arms[0].seconds_per_epoch = 3.0 * record.arms[2].seconds_per_epoch;
    record.arms[0].weight_bytes = 2 * record.arms[2].weight_bytes;
    record.arms[0].optimizer_bytes = record.arms[2].optimizer_bytes;
    assert!(
        lead(&record).ends_with(
            "2.23 percentage points above the dense network (95.77%); its weights take 2.0× more memory, its optimizer \
         state as much, and an epoch is 3.0× slower."
        ),
        "{}",
        lead(&record)
    );
    record.arms.remove(2);
    assert_eq!(
        lead(&record),
        "With 5.0% of its weights (14,260), rigl read 98.00% of the 2,000 test images correctly. There is no dense arm \
         to compare it with."
    );
}

#[test]
fn controls_are_answered_by_paired_seeds() {
    let mut record = record();
    let answers =
        |record: &_| text(html(record).split("<ul class=\"answers\">").nth(1).unwrap().split("</ul>").next().unwrap());
    let said = answers(&record);
    for (question, answer) in [
        (
            "Did rigl find better connections than chance?",
            "No difference shown. rigl is 0.75 points above static-random (93.05%; 95% interval over 3 paired seeds ±1.46).",
        ),
        ("Is the dense network more accurate?", "Yes. rigl is 1.97 points below dense (95.77%; "),
        (
            "Would a small dense network with as many weights do as well?",
            "No. rigl is 3.20 points above small-dense (90.60%; ",
        ),
    ] {
        assert!(said.contains(&format!("{question}{answer}")), "{said}");
    }
    // Every seed a little worse than the method's: the scatter they share no longer counts.
    for (seed, gain) in [0.010, 0.011, 0.012].into_iter().enumerate() {
        record.arms[1].seeds[seed].test_accuracy = record.arms[0].seeds[seed].test_accuracy - gain;
    }
    assert!(answers(&record).contains("than chance?Yes. rigl is 1.10 points above static-random"));
    record.arms.iter_mut().for_each(|a| a.seeds.truncate(1));
    record.arms[1].test_accuracy = 0.99;
    assert!(
        answers(&record).contains("than chance?No, on one seed. rigl is 5.20 points below static-random (99.00%)."),
        "{}",
        answers(&record)
    );
}

#[test]
fn pictures_say_in_words_what_they_show() {
    let page = html(&record());
    assert!(
        page.contains("40.5% of the connections lie in the middle quarter of the picture (25.0% if spread evenly)")
    );
    assert!(page.contains("138 of 2,000 rows were misread"));
    assert!(tags(&page, "svg").len() > 15);
    assert!(tags(&page, "img").iter().all(|i| i.contains(" alt=\"Test row ")));
}

#[test]
fn pictures_show_the_first_seed() {
    let record = record();
    let page = html(&record);
    // One square a pixel, with its number on hover, in both maps.
    for (row, column) in [(0, 3), (13, 10), (27, 27)] {
        for arm in &record.arms[..2] {
            let n = arm.seeds[0].layers[0].fan_out[row * 28 + column];
            let title = format!("<title>row {}, column {}: {n}</title>", row + 1, column + 1);
            assert!(page.contains(&title), "{}: {title}", arm.name);
        }
    }
    assert_eq!(page.matches("<title>row 14, column 14: ").count(), 2);
    for (label, read) in [(4, 9), (0, 0), (9, 4)] {
        let n = record.arms[0].seeds[0].confusion[label][read];
        assert!(page.contains(&format!("<title>{label} read as {read}: {n}, ")), "{label} {read}");
    }
    for (source, misread) in values(&page, "src").iter().zip(&record.arms[0].seeds[0].misread) {
        let file = BASE64_STANDARD.decode(source.split_once(',').unwrap().1).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        assert!(pixels == misread.pixels, "row {}", misread.index);
    }
}

#[test]
fn curves_show_every_seed_and_their_mean() {
    let record = record();
    let page = html(&record);
    for arm in &record.arms {
        // Loss and accuracy.
        for seed in 0..3 {
            assert_eq!(page.matches(&format!("<title>{}, seed {seed}</title>", arm.name)).count(), 2);
        }
        assert_eq!(page.matches(&format!("<title>{}</title>", arm.name)).count(), 2);
        let mean = arm.seeds.iter().map(|s| s.epochs[6].accuracy).sum::<f64>() / 3.0;
        let title = format!("<title>{}, epoch 7: {:.2}%</title>", arm.name, 100.0 * mean);
        assert!(page.contains(&title), "{title}");
    }
    // A mean line and its three seeds have a point an epoch each: 20 corners, 19 of them reached by a line.
    let full = values(&page, "d").iter().filter(|d| d.starts_with('M') && d.matches('L').count() == 19).count();
    assert_eq!(full, 4 * (4 + 4));
}

/// A method that rewires shows its changes per epoch, one that only prunes shows the density.
#[test]
fn moved_connections_are_shown() {
    let mut record = record();
    let page = html(&record);
    let moved = |e: usize| record.arms[0].seeds.iter().map(|s| s.epochs[e].grown).sum::<usize>() as f64 / 3.0;
    assert_eq!(moved(1), 3822.0);
    let all: f64 = (0..20).map(moved).sum();
    assert!(page.contains("<h3>Connections moved</h3>") && !page.contains("<h3>Density over training</h3>"));
    assert!(page.contains("<title>epoch 2: 3,822 moved</title>"));
    let said = format!(
        "rigl removed connections and made as many new ones: 17,848 over the whole run, {:.1} times as many as there are. \
         The density stayed at 5.0%. The last move was in epoch 15. Epochs without a bar before it passed between two \
         rewirings. Means over seeds.",
        all / 14260.0
    );
    assert!((all - 17848.0).abs() < 0.5 && page.contains(&said), "{said}");

    let mut grown = record.clone();
    grown.arms[0].seeds.iter_mut().for_each(|s| s.epochs[4].grown += 600);
    let page = html(&grown);
    assert!(page.contains("<h3>Connections removed and made</h3>"));
    assert!(page.contains("<title>epoch 5: 2,933 removed, 3,533 made</title>"), "{page}");

    // Bars are the pruned connections, the outline the grown ones.
    grown.arms[0].seeds.iter_mut().flat_map(|s| &mut s.epochs).for_each(|e| (e.grown, e.pruned) = (600, 0));
    let page = html(&grown);
    let figure = page.split("<h3>Connections removed and made</h3>").nth(1).unwrap().split("</figure>").next().unwrap();
    let bars: Vec<&str> = tags(figure, "rect").into_iter().filter(|r| r.contains("class=\"column")).collect();
    assert!(bars.len() == 20 && bars.iter().all(|b| b.contains(" height=\"0.0\"")), "{bars:?}");
    assert!(figure.contains("d=\"M62.0 220.0V10.0H"), "the outline reaches the top");

    for e in record.arms[0].seeds.iter_mut().flat_map(|s| &mut s.epochs) {
        (e.grown, e.pruned, e.density) = (0, 100, 1.0 / f64::from(e.epoch));
    }
    let page = html(&record);
    assert!(page.contains("From first to last epoch: rigl 100% to 5.0%.") && !page.contains("<h3>Connections "));
    let still = |e: &mut nnz_lab::run::record::EpochRecord| (e.grown, e.pruned, e.density) = (0, 0, 0.05);
    record.arms[0].seeds.iter_mut().flat_map(|s| &mut s.epochs).for_each(still);
    assert!(html(&record).contains("stayed at 5.0% throughout, and no connection was moved while it trained."));
}

/// Numbers that seem to contradict each other are explained where they stand.
#[test]
fn what_puzzles_a_newcomer_is_explained() {
    let mut record = record();
    let page = html(&record);
    for said in [
        "as many weights as rigl has nonzeros. It is 784-18-6-10.",
        "Density counts the weights that may be pruned, so not fc3.weight: 5.0% of those exist in rigl, 5.4% of all weights.",
        "one takes 16.9 bytes here while training, a dense one 4.0. So memory shrinks less than the number of weights.",
        "So few seeds can only show large differences; --seeds 10 narrows the intervals.",
        "Confusions of rigl, seed 0",
        "over 99.9% sure",
    ] {
        assert!(page.contains(said), "{said}");
    }
    assert!(!page.contains("100% sure"));
    for arm in &mut record.arms {
        arm.seeds.truncate(1);
        for layer in &mut arm.seeds[0].layers {
            layer.prunable = true;
            layer.storage = "masked".into();
        }
    }
    let page = html(&record);
    assert!(page.contains("Some layers of rigl are stored masked") && !page.contains("Density counts"));
    assert!(!page.contains("seed 0") && !page.contains("bytes here while training"));
}

#[test]
fn text_of_the_record_is_escaped() {
    let evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;";
    let mut record = record();
    for text in [
        &mut record.id,
        &mut record.title,
        &mut record.recipe,
        &mut record.model,
        &mut record.data.name,
        &mut record.machine.cpu,
        &mut record.machine.version,
    ] {
        *text = evil.into();
    }
    record.data.classes.iter_mut().for_each(|c| *c = evil.into());
    for arm in &mut record.arms {
        arm.name += evil;
        arm.summary = evil.into();
        for layer in arm.seeds.iter_mut().flat_map(|s| &mut s.layers) {
            layer.name += evil;
            layer.storage = evil.into();
        }
    }
    let page = html(&record);
    assert!(!page.contains("<script") && !page.contains("<img src=x"));
    assert!(page.contains("&lt;script&gt;alert(1)") && page.contains("&amp;amp;"));
    // Inside an attribute the quote ends nothing: as many images as before, all with their own source.
    assert_eq!(tags(&page, "img").len(), 12);
    assert!(values(&page, "src").iter().all(|s| s.starts_with("data:")));
    assert!(values(&page, "aria-label").iter().any(|l| l.contains("&quot;")));
}

/// Measures beside accuracy: every arm in one table, every class in another, and what rows do not determine in words.
#[test]
fn measures_of_the_answers_are_shown() {
    let mut record = record();
    assert!(!html(&record).contains("Measures of the answers"), "old records have none");
    let names = record.data.classes.clone();
    for (a, arm) in record.arms.iter_mut().enumerate() {
        for seed in &mut arm.seeds {
            let (labels, predicted): (Vec<u32>, Vec<u32>) =
                (0..40).map(|i| (i % 9, (i + u32::from(i < 4 + a as u32)) % 9)).unzip();
            let p: Vec<f32> =
                predicted.iter().flat_map(|&k| (0..10).map(move |c| if c == k { 0.7 } else { 0.03 })).collect();
            seed.scores = Scores::of_classes(&names, &labels, &predicted, &p);
        }
    }
    let page = html(&record);
    let section = page.split("Measures of the answers").nth(1).unwrap().split("</section>").next().unwrap();
    let arm = record.arms[1].metric("macro-f1").unwrap().mean;
    for said in ["balanced-accuracy", "macro-f1", "auc", &format!("{arm:.4}"), "Precision", "no row is of class `9`"] {
        assert!(section.contains(said), "{said}: {section}");
    }
    let (old, columns) = (nnz_lab::report::csv(&record), "arm,seed,class,precision,recall,f1,auc,rows");
    let classes = &old.iter().find(|(name, _)| name == "classes.csv").unwrap().1;
    assert!(classes.starts_with(columns) && classes.lines().count() == 1 + 4 * 3 * 10, "{classes}");
    assert!(classes.contains("\nrigl,0,9,,,,,0\n"), "what is unknown is empty: {classes}");
}

#[test]
fn a_table_is_described_by_its_columns() {
    let mut record = record();
    record.data.image = [1, 1, 784];
    record.data.target = Some("price".into());
    record.data.inputs = (0..784).map(|i| format!("column {i}")).collect();
    for seed in record.arms.iter_mut().flat_map(|arm| &mut arm.seeds) {
        seed.layers[0].fan_out[0] = 0;
    }
    record.data.notes = vec!["mnist is not installed: this is mnist10k".into()];
    let page = text(&html(&record));
    assert!(page.contains("price is predicted from column 0, column 1") && page.contains("and 760 more"));
    assert!(page.contains("mnist is not installed") && page.contains("784 inputs a row"));
    let said = page.split("Inputs with most connections: ").nth(1).expect("no numbers where there are names");
    assert!(said.starts_with("column ") && page.contains("Not read at all: column 0."), "{said}");
}

/// A matrix of two classes is not blown up to the width of the page.
#[test]
fn small_confusion_matrices_stay_small() {
    let width = |n: usize| -> f64 {
        let mut record = record();
        record.data.classes.truncate(n);
        record.arms[0].seeds[0].confusion = vec![vec![3; n]; n];
        let page = html(&record);
        let svg = tags(&page, "svg").into_iter().find(|s| s.contains("Confusion matrix")).unwrap().to_string();
        svg.split("max-width:").nth(1).unwrap().split("px").next().unwrap().parse().unwrap()
    };
    let [two, three, ten] = [2, 3, 10].map(width);
    assert!(two < 200.0 && two < three && three < ten && ten <= 520.0, "{two} {three} {ten}");
}

/// What the table alone would hide.
#[test]
fn a_method_below_the_random_mask_is_named() {
    let mut record = record();
    assert!(record.concerns().is_empty(), "{:?}", record.concerns());
    record.arms[0].seeds.iter_mut().for_each(|s| s.test_accuracy -= 0.2);
    let page = text(&html(&record));
    assert!(page.contains("points below static-random, a random mask of the same density, over 3 seeds"));
}
