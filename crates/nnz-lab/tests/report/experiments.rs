//! Comparisons of experiments: what they share, what is refused, and their page.

use nnz_core::catalog::Entry;
use nnz_core::{Better, Context, Experiment, Input, InputKind, Launch, Method, Metric, Need, Registry, Result, Unit};
use nnz_lab::experiment::{ExperimentArm, run};
use nnz_lab::run::{Observer, Options};
use nnz_lab::{ExperimentRecipe, Measured, report};
use std::fs;
use std::path::Path;
use toml::Table;

const TEXT: Input = Input { name: "text", kind: InputKind::Text, need: Need::Required, about: "Words to count." };

/// An experiment that counts a text's letters, each of some weight, with noise; its metrics and inputs.
struct Count(f64, &'static [Metric], &'static [Input]);

impl Experiment for Count {
    fn inputs(&self) -> &'static [Input] {
        self.2
    }

    fn metrics(&self) -> &'static [Metric] {
        self.1
    }

    fn run(&mut self, cx: &mut Context) -> Result<()> {
        let letters = if cx.has("text") { cx.input::<String>("text")?.len() } else { 0 };
        let noise = cx.rng("noise", 0, 0).unit64();
        self.1.iter().try_for_each(|m| cx.report(m.key, self.0 * letters as f64 + noise))
    }
}

macro_rules! card {
    ($name:ident, $metrics:expr, $inputs:expr) => {
        mod $name {
            nnz_core::options! {
                /// What a letter counts for.
                weight: f64 = 1.0 => nnz_core::above(0.0),
            }
        }
        impl Launch for $name::Options {
            fn launch(self) -> Result<Box<dyn Experiment>> {
                Ok(Box::new(Count(self.weight, $metrics, $inputs)))
            }
        }
        impl $name::Options {
            const METHOD: Method = Method::listed_experiment::<Self>(
                Entry::unlisted(stringify!($name), "memory"),
                stringify!($name),
                "Counts.",
            );
        }
    };
}

const SIZE: Metric = Metric::new("size", Unit::Count, Better::Lower, "Letters.");
const SHAPE: Metric = Metric::new("shape", Unit::Number, Better::Neither, "Their shape.");
const LENGTH: Metric = Metric::new("size", Unit::Count, Better::Lower, "Length in letters.");
const WEIGHT: Metric = Metric::new("size", Unit::Bytes, Better::Lower, "Bytes.");

card!(letters, &[SHAPE, SIZE], &[TEXT]);
card!(lengths, &[LENGTH], &[TEXT]);
card!(bytes, &[WEIGHT], &[TEXT]);
card!(blind, &[SIZE], &[]);
card!(guided, &[SIZE], &[Input { need: Need::Default("text.txt"), ..TEXT }]);
card!(labelled, &[SIZE], &[Input { kind: InputKind::Rows, ..TEXT }]);

static CARDS: [Method; 6] = [
    letters::Options::METHOD,
    lengths::Options::METHOD,
    bytes::Options::METHOD,
    blind::Options::METHOD,
    guided::Options::METHOD,
    labelled::Options::METHOD,
];
static ROOM: [&Method; 6] = [&CARDS[0], &CARDS[1], &CARDS[2], &CARDS[3], &CARDS[4], &CARDS[5]];
const REGISTRY: Registry = Registry(&[&ROOM]);

struct Quiet;

impl Observer for Quiet {}

/// A recipe of experiments by name, over a text if one is given.
fn of(names: &[&str], text: Option<&Path>) -> ExperimentRecipe {
    let methods: Vec<&Method> = names.iter().map(|n| REGISTRY.find(n).unwrap()).collect();
    let inputs = text.iter().map(|t| ("text".to_string(), t.display().to_string())).collect();
    ExperimentRecipe { inputs, ..ExperimentRecipe::of(&methods, vec![0, 1, 2]) }
}

fn at(dir: &Path) -> Options {
    Options { dir: Some(dir.join("run")), ..Options::default() }
}

#[test]
fn experiments_stand_side_by_side_in_the_metrics_they_share() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.txt");
    fs::write(&text, "seven letters").unwrap();
    let mut recipe = of(&["letters", "lengths"], Some(&text));
    recipe.options_of("lengths").for_each(|o| drop(o.insert("weight".into(), 2.0.into())));
    let done = run(&recipe, REGISTRY, &at(dir.path()), &mut Quiet).unwrap();
    let record = &done.record;
    let shown: Vec<(&str, &str)> = record.metrics.iter().map(|m| (&*m.key, &*m.about)).collect();
    assert_eq!(shown, [("size", "Letters. In lengths: Length in letters.")]);
    assert_eq!(
        record.arms.iter().map(|a| (&*a.name, a.key.as_deref())).collect::<Vec<_>>(),
        [("letters", None), ("lengths", Some("lengths"))]
    );
    // Noise is that of the seed, so that paired differences are exact.
    let over = record.over_first("lengths", "size").unwrap();
    assert!((over.mean - 13.0).abs() < 1e-12 && over.half_width.unwrap() < 1e-9, "{over:?}");
    assert!(record.over_first("letters", "size").is_none());
    assert!(record.values("letters", "shape").is_some(), "what only one measures is kept");
    // What was asked for is in the run's recipe, and found again.
    let again = ExperimentRecipe { title: recipe.title.clone(), ..toml::from_str(&record.recipe).unwrap() };
    assert_eq!(again.keys(), ["letters", "lengths"]);
    assert!(run(&again, REGISTRY, &at(dir.path()), &mut Quiet).unwrap().found);
    let page = fs::read_to_string(dir.path().join("run/report.html")).unwrap();
    assert!(page.contains("+13") && page.contains("over letters") && page.contains("lengths: Counts."), "{page}");
}

#[test]
fn an_option_is_swept_in_every_experiment() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.txt");
    fs::write(&text, "seven letters").unwrap();
    let mut recipe = of(&["letters", "lengths"], Some(&text));
    recipe.arms = ["letters", "lengths"]
        .iter()
        .flat_map(|key| [1.0, 2.0, 4.0].map(|w| (key, w)))
        .map(|(key, w)| ExperimentArm {
            name: format!("{key}-{w}"),
            run: Some((*key).into()),
            options: Table::from_iter([("weight".to_string(), w.into())]),
        })
        .collect();
    let done = run(&recipe, REGISTRY, &at(dir.path()), &mut Quiet).unwrap();
    let page = report::experiment(&done.record);
    assert!(page.contains("Along weight"));
    // A line for each experiment.
    let chart = page.split("Along weight").nth(1).unwrap();
    assert!(chart.contains("letters</li>") && chart.contains("lengths</li>"), "{chart}");
}

#[test]
fn experiments_that_do_not_meet_are_refused_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.txt");
    fs::write(&text, "seven letters").unwrap();
    let why = |names: &[&str], text: Option<&Path>| {
        run(&of(names, text), REGISTRY, &at(dir.path()), &mut Quiet).map(|_| ()).unwrap_err().to_string()
    };
    let said = why(&["letters", "bytes"], Some(&text));
    assert!(said.contains("letters measures shape, size and bytes measures size: no metric"), "{said}");
    let said = why(&["letters", "blind"], Some(&text));
    assert!(said.contains("blind has no input `text`"), "{said}");
    let said = why(&["lengths", "guided"], None);
    assert!(said.contains("read different inputs by default; give --input text="), "{said}");
    let said = why(&["guided", "blind"], None);
    assert!(said.contains("guided reads an input `text` and blind does not"), "{said}");
    let said = why(&["lengths", "labelled"], Some(&text));
    assert!(said.contains("different kinds"), "{said}");
    let said = why(&["letters"], None);
    assert!(said.contains("Give --input text="), "{said}");
    assert!(!dir.path().join("run").exists(), "nothing was begun");
    // Other defaults do not matter once the input is named.
    run(&of(&["lengths", "guided"], Some(&text)), REGISTRY, &at(dir.path()), &mut Quiet).unwrap();
}
