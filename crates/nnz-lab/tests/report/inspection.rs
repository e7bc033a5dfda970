//! The page about one model.

use super::browser::{assert_drawn, assert_fits};
use super::odd::assert_whole;
use super::page::{assert_alone, tags, text, values};
use nnz_core::Registry;
use nnz_core::{Rng, Topology};
use nnz_engine::data::Normalization;
use nnz_engine::file::Header;
use nnz_engine::{Model, ModelSpec, Storage};
use nnz_lab::inspect::{Inspection, inspect};
use nnz_lab::report::inspection;

/// A model with fresh weights on these topologies, measured.
fn measured(spec: &str, topologies: Option<Vec<Topology>>, prune_head: bool) -> Inspection {
    let spec = ModelSpec::parse(spec, [1, 28, 28], 10).unwrap();
    let model: Model<f32> = Model::born(&spec, topologies, Storage::Auto, prune_head, 7).unwrap();
    let header = Header {
        model: spec,
        normalization: Normalization::NONE,
        classes: (0..10).map(|c| c.to_string()).collect(),
        data: "mnist10k".into(),
        method: "rigl density = 0.05".into(),
        prunable: prune_head.into(),
        texts: false,
        task: nnz_engine::Task::Classification,
        scales: Vec::new(),
        dtype: nnz_engine::Dtype::Native,
        encoding: None,
        policy: Default::default(),
    };
    inspect(&model, &header, Registry(nnz_shape::ROOMS)).unwrap()
}

/// Connections at random.
fn random(rows: usize, cols: usize, nnz: usize, seed: u64) -> Topology {
    let mut rng = Rng::stream(seed, "inspection", 0, 0);
    Topology::from_positions(rows, cols, rng.distinct((rows * cols) as u64, nnz))
}

/// LeNet-300-100 without most of its connections and with a dense classifier.
fn sparse() -> Inspection {
    measured("mlp:784-300-100-10", Some(vec![random(300, 784, 2000, 1), random(100, 300, 900, 2)]), false)
}

/// A stack in which hidden unit 2 reads nothing and hidden unit 1 is read by nothing; input 0 has two readers.
fn broken() -> Inspection {
    let first = Topology::from_positions(4, 784, [0, 784, 3 * 784, 3 * 784 + 783]);
    let second = Topology::from_positions(10, 4, (0..10).flat_map(|r| [4 * r, 4 * r + 2, 4 * r + 3]));
    measured("mlp:784-4-10", Some(vec![first, second]), true)
}

fn lead(i: &Inspection) -> String {
    text(inspection(i).split("<p class=\"lead\">").nth(1).unwrap().split("</p>").next().unwrap())
}

#[test]
fn the_page_is_complete_in_itself() {
    for i in [sparse(), broken(), measured("mlp:784-30-10", None, false), measured("lenet5", None, false)] {
        let page = inspection(&i);
        assert_alone(&page);
        assert_whole(&page);
        assert_eq!(page, inspection(&i));
        for layer in &i.layers {
            assert!(text(&page).contains(&layer.name), "{}", layer.name);
        }
        assert!(page.contains(&i.model) && page.contains("Trained on mnist10k, made by rigl density = 0.05"));
    }
}

#[test]
fn the_headline_says_what_packing_saves_or_costs() {
    // 2,000 + 900 + 1,000 weights: 4 bytes each, 4 more for the column where there are gaps, 301 + 101 row starts,
    // 410 biases.
    let i = sparse();
    assert_eq!(i.packed_bytes, 4 * (3900 + 2900 + 301 + 101 + 410));
    assert_eq!(
        lead(&i),
        "3,900 of 266,200 weights exist (1.5%). Packed, with its place beside each weight, the network takes 30.4 kB, 35× \
         less than the 1.07 MB of all entries."
    );
    let most = measured("mlp:784-30-10", Some(vec![random(30, 784, 20_000, 3)]), false);
    assert_eq!(
        lead(&most),
        "20,300 of 23,820 weights exist (85.2%). Packed, with its place beside each weight, the network takes 161 kB, \
         1.69× more than the 95.4 kB of all entries: the places cost more than the zeros they leave out. Packing pays \
         below a density of about one half."
    );
    assert!(inspection(&most).contains("more than dense</b>"));
    assert!(!inspection(&i).contains("more than dense"));
    let dense = measured("mlp:784-30-10", None, false);
    assert_eq!(
        lead(&dense),
        "All 23,820 weights exist: this network is dense and takes 95.4 kB. There are no zeros to leave out."
    );
}

#[test]
fn the_inputs_of_a_picture_are_drawn() {
    let i = broken();
    assert_eq!((i.input_fan_out[0], i.input_fan_out[1], i.input_fan_out[783]), (3, 0, 1));
    let page = inspection(&i);
    for said in [
        "<title>row 1, column 1: 3</title>",
        "<title>row 1, column 2: 0</title>",
        "<title>row 28, column 28: 1</title>",
        "how many of the 4 outputs of fc1.weight it is connected to",
        "782 of 784 pixels have none; the most connected pixel has 3 at row 1, column 1.",
    ] {
        assert!(page.contains(said), "{said}");
    }
    assert_eq!(page.matches("<title>row ").count(), 784);
    // Many connections everywhere: the scale begins at the fewest.
    let many: Vec<u64> = (0..30 * 784).filter(|p| p % 784 < 700 || p / 784 < 20).collect();
    let many = inspection(&measured("mlp:784-30-10", Some(vec![Topology::from_positions(30, 784, many)]), false));
    let scale = text(many.split("<div class=\"scale\">").nth(1).unwrap().split("</div>").next().unwrap());
    assert_eq!(scale, "2030connections a pixel.");
    // 84 pixels with 20 connections and 700 with 30, and one square of each colour in the scale.
    for (level, squares) in [(0, 85), (4, 1), (8, 701)] {
        assert_eq!(many.matches(&format!("<rect class=\"h{level}\"")).count(), squares, "h{level}");
    }

    let dense = measured("mlp:784-30-10", None, false);
    assert!(
        inspection(&dense).contains("fc1.weight has no gaps: each of its 784 inputs is read by all its 30 outputs.")
    );
    let shapes = [(20, 25), (50, 500), (500, 800)];
    let topologies = shapes.map(|(rows, cols)| random(rows, cols, rows * cols / 4, 5));
    let conv = measured("lenet5", Some(topologies.to_vec()), false);
    let page = inspection(&conv);
    assert!(conv.input_fan_out.is_empty() && !page.contains("<title>row "));
    assert!(page.contains("conv1.weight looks at a window of the input at a time"));
    assert!(conv.paths.is_none() && page.contains("so there are no paths to count"));
}

#[test]
fn layers_are_measured_in_the_table() {
    let i = sparse();
    let page = text(&inspection(&i));
    for layer in &i.layers[..2] {
        for (side, degrees, dead) in [("fan-in", &layer.fan_in, "without input"), ("fan-out", &layer.fan_out, "unread")]
        {
            assert!(page.contains(&format!("{}: {side}", layer.name)));
            if degrees.dead > 0 {
                let range = format!("{} to {}; {} {dead}", degrees.min, degrees.max, degrees.dead);
                assert!(page.contains(&range), "{}: {range}", layer.name);
            }
        }
        let spectral = layer.spectral.unwrap();
        assert!(page.contains(&format!("{:.3}", spectral.normalized.gap)), "{spectral:?}");
    }
    // 2,000 connections are too few to keep 784 inputs and 300 outputs together.
    assert!(i.layers[0].components.isolated > 0 && i.layers[0].fan_out.dead > 0);
    assert!(page.contains(&format!("; {} apart", i.layers[0].components.isolated)));
    assert!(page.contains("without a histogram: fc3.weight.") && page.contains("never pruned"));
    // Every unit is counted in a bar.
    let title = |d: usize, n: usize| format!("{d} connections: {n} input{}", if n == 1 { "" } else { "s" });
    for (d, &n) in i.layers[0].fan_out.histogram.iter().enumerate() {
        assert!(page.contains(&title(d, n)), "{}", title(d, n));
    }
}

#[test]
fn what_did_not_converge_is_said() {
    let mut i = sparse();
    let side = |i: &Inspection| {
        let page = text(&inspection(i));
        ["within the bound", "above the bound", "undecided against the bound"].map(|s| page.matches(s).count())
    };
    let bound = |i: &mut Inspection, second: f64, converged: bool| {
        for s in i.layers.iter_mut().filter_map(|l| l.spectral.as_mut()) {
            s.adjacency.second = second * s.ramanujan;
            s.adjacency.converged = converged;
            s.normalized.converged = converged;
        }
    };
    bound(&mut i, 0.9, true);
    assert_eq!(side(&i), [2, 0, 0]);
    assert!(!inspection(&i).contains("ot converged"));
    bound(&mut i, 1.1, true);
    assert_eq!(side(&i), [0, 2, 0]);
    // A singular value that did not converge is a lower bound.
    bound(&mut i, 1.1, false);
    assert_eq!(side(&i), [0, 2, 0]);
    bound(&mut i, 0.9, false);
    assert_eq!(side(&i), [0, 0, 2]);
    let page = text(&inspection(&i));
    assert_eq!(page.matches("not converged").count(), 4);
    assert!(page.contains("≤ 0.") && page.contains("≥ ") && page.contains("Not convergedThe iteration ended"));
}

#[test]
fn paths_say_where_units_are_lost() {
    let i = broken();
    let page = text(&inspection(&i));
    // The connection into the unread unit, and ten out of the unreached one.
    assert!(page.contains("23 of 34 connections lie on a path from an input to an output; 11 do not."), "{page}");
    // Three inputs' connections on paths, each to ten outputs.
    assert!(page.contains("There are about 30 paths."));
    let level = |name: &str, numbers: [usize; 3]| format!("{name}{}{}{}", numbers[0], numbers[1], numbers[2]);
    assert!(page.contains(&level("inputs", [784, 0, 782])));
    assert!(page.contains(&level("units of fc1.weight", [4, 1, 1])));
    assert!(page.contains(&level("outputs (fc2.weight)", [10, 0, 0])));
    let dense = measured("mlp:784-300-100-10", None, false);
    let page = inspection(&dense);
    assert!(page.contains("Every connection lies on a path from an input to an output."));
    assert!(page.contains("about 10<sup>8.37</sup> paths"), "784 * 300 * 100 * 10 = 10^8.37");
    let mut none = broken();
    none.paths.as_mut().unwrap().log10 = None;
    assert!(inspection(&none).contains("the outputs depend on biases alone"));
}

#[test]
fn text_of_the_model_is_escaped() {
    let evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;";
    let mut i = sparse();
    for text in [&mut i.model, &mut i.data, &mut i.method] {
        *text = evil.into();
    }
    i.layers.iter_mut().for_each(|l| l.name += evil);
    let page = inspection(&i);
    assert!(!page.contains("<script") && tags(&page, "img").is_empty() && values(&page, "src").is_empty());
    assert!(page.contains("&lt;script&gt;alert(1)") && page.contains("&amp;amp;"));
    assert!(values(&page, "aria-label").iter().any(|l| l.contains("&quot;")));
}

#[test]
fn inconsistent_measurements_still_give_a_page() {
    let odd = |change: &dyn Fn(&mut Inspection)| {
        let mut i = sparse();
        change(&mut i);
        let page = inspection(&i);
        assert_whole(&page);
        page
    };
    assert!(odd(&|i| i.layers.clear()).contains("This model has no weights."));
    odd(&|i| i.input_fan_out.truncate(3));
    odd(&|i| i.input = [usize::MAX, 2, 2]);
    odd(&|i| i.components = None);
    odd(&|i| {
        let paths = i.paths.as_mut().unwrap();
        paths.levels.clear();
        paths.effective.clear();
        paths.effective_nonzeros = usize::MAX;
    });
    odd(&|i| i.layers.truncate(1));
    for size in [0, usize::MAX] {
        odd(&|i| {
            (i.nonzeros, i.entries, i.dense_bytes, i.packed_bytes) = (size, 1, size, size);
            for l in &mut i.layers {
                (l.rows, l.cols, l.nonzeros, l.dense_bytes, l.packed_bytes) = (size, size, size, size, size);
                (l.fan_in.dead, l.fan_out.dead, l.components.isolated) = (size, size, size);
                l.fan_in.histogram = vec![size; 3];
                l.fan_out.histogram.clear();
            }
        });
    }
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, -1.0, 1e-320] {
        odd(&|i| {
            i.density = bad;
            let paths = i.paths.as_mut().unwrap();
            (paths.log10, paths.effective_density) = (Some(bad), bad);
            for l in &mut i.layers {
                (l.density, l.magnitude, l.fan_in.mean) = (bad, [bad; 3], bad);
                if let Some(s) = &mut l.spectral {
                    (s.ramanujan, s.adjacency.second, s.normalized.gap) = (bad, bad, bad);
                }
            }
        });
    }
}

#[test]
fn a_browser_draws_it_at_every_width() {
    // A first layer that reads the middle of the picture, so that the map has all its colours.
    let near = |p: &u64| {
        let (row, column) = (p % 784 / 28, p % 28);
        row.abs_diff(14).max(column.abs_diff(14)) < 1 + p / 784 % 14
    };
    let first = Topology::from_positions(300, 784, (0..300 * 784).filter(near));
    let mut i = measured("mlp:784-300-100-10", Some(vec![first, random(100, 300, 900, 2)]), false);
    assert_drawn("inspection", &inspection(&i));
    assert_fits("inspection", &inspection(&i));
    let long = "a_layer_with_quite_a_long_name".repeat(3);
    i.layers.iter_mut().for_each(|l| l.name = long.clone());
    (i.model, i.method) = (long.clone(), long);
    assert_fits("inspection-long", &inspection(&i));
}
