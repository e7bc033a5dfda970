//! What every method promises, checked for every method of the registry: it reaches its density, follows its seed and
//! its scores, refuses typos, gives the same bits for any number of threads and after any interruption, and makes the
//! same topologies under masked and sparse storage.

use nnz::REGISTRY;
use nnz_core::{Act, Edit, Kind, Leaf, Method, Plan, Rng, Setting, Shape, Target, Topology, Work, Zero};
use nnz_data::Store;
use nnz_engine::data::{Dataset, Inputs, Split};
use nnz_engine::file::Header;
use nnz_engine::{
    Dtype, LrSchedule, ModelSpec, Moments, Number, OptimizerSpec, Storage, Task, Tensor, TrainSpec, Trainer, axes,
};
use std::sync::OnceLock;

const MODEL: &str = "mlp:784-30-20-10";
const DENSITY: f64 = 0.1;

/// 720 digits to train on, 100 to test on.
fn digits() -> &'static Dataset {
    static DATA: OnceLock<Dataset> = OnceLock::new();
    DATA.get_or_init(|| {
        let all = Store::at("nowhere").load("mnist10k").unwrap().dataset;
        let cut = |s: &Split, rows: usize| {
            let Inputs::Bytes(b) = &s.inputs else { panic!("digits are bytes") };
            Split::new(Inputs::Bytes(b[..rows * 784].to_vec()), s.labels[..rows].to_vec())
        };
        let (train, test) = (cut(&all.train, 800), cut(&all.test, 100));
        Dataset::new("digits", all.image, all.classes, train, test, "test".into()).unwrap()
    })
}

/// 240 steps of 24 rows: eight epochs of 30.
fn spec(storage: Storage) -> TrainSpec {
    TrainSpec {
        epochs: 8,
        batch: 24,
        optimizer: OptimizerSpec::sgd(0.05),
        schedule: LrSchedule::Cosine,
        warmup: 0.1,
        storage,
        prune_head: false,
        validation: 0.1,
        ..TrainSpec::default()
    }
}

/// The method at a density, quick enough to rewire several times in a short run.
fn options(method: &Method) -> toml::Table {
    let mut options = method.defaults();
    let mut quick = |key: &str, value: toml::Value| {
        if options.contains_key(key) {
            options.insert(key.into(), value);
        }
    };
    quick("density", DENSITY.into());
    quick("rounds", 5.into());
    quick("rank", 6.into());
    // A hidden layer has 30 inputs, which two divides and four does not.
    if !method.defaults().contains_key("density") {
        quick("pattern", "1:2".into());
    }
    if method.key == "grass" {
        quick("every", 40.into());
    }
    // Three rounds of rewinding in 225 steps.
    quick("each", "0.25 run".into());
    if method.key == "imp" {
        quick("fraction", 0.6.into());
    }
    if options.get("every").and_then(|e| e.as_str()).is_some_and(|e| e.ends_with("steps")) {
        options.insert("every".into(), "50 steps".into());
    }
    options
}

fn has_density(method: &Method) -> bool {
    method.defaults().contains_key("density")
}

fn topologies<T: Number>(t: &Trainer<T>) -> Vec<Topology> {
    t.model.weights().map(|p| p.topology()).collect()
}

/// Everything a run computed: values, topologies, optimizer state, history.
fn fingerprint<T: Number>(t: &Trainer<T>) -> impl PartialEq + std::fmt::Debug + use<T> {
    let values: Vec<Vec<T>> = t.model.params.iter().map(|p| p.value.data().to_vec()).collect();
    (values, topologies(t), t.optimizer.state.clone(), t.position.clone())
}

/// What a check found, in words.
type Verdict = Result<(), String>;

type Check = fn(&'static Method) -> Verdict;

macro_rules! ensure {
    ($condition:expr, $($why:tt)*) => {
        let holds: bool = $condition;
        if !holds {
            return Err(format!($($why)*));
        }
    };
}

/// Everything that is asked of a method.
const SUITE: [(&str, Check); 9] = [
    ("density", reaches_its_density),
    ("budget", never_exceeds_its_start),
    ("scores", follows_what_it_is_shown),
    ("seed", obeys_its_seed),
    ("threads", same_for_any_number_of_threads),
    ("storage", same_for_masked_and_sparse),
    ("interruption", goes_on_as_if_never_cut),
    ("options", refuses_what_it_does_not_know),
    ("leaves", pulls_gradients_through_its_leaves),
];

fn build(m: &'static Method, setting: &Setting) -> nnz_core::Result<Work> {
    m.build(&options(m), setting)
}

fn begin<T: Number>(m: &'static Method, storage: Storage, seed: u64) -> Result<Trainer<'static, T>, String> {
    let model = ModelSpec::parse(MODEL, digits().image, 10).unwrap();
    Trainer::new(&model, digits(), &spec(storage), seed, |s: &Setting| build(m, s)).map_err(|e| e.to_string())
}

fn through<T: Number>(m: &'static Method, storage: Storage, seed: u64) -> Result<Trainer<'static, T>, String> {
    let mut t = begin(m, storage, seed)?;
    t.run(|_, _| true).map_err(|e| e.to_string())?;
    Ok(t)
}

fn step<T: Number>(t: &mut Trainer<T>) -> Verdict {
    t.advance().map(drop).map_err(|e| e.to_string())
}

/// To one connection; a constant fan-in to one for each row.
fn reaches_its_density(m: &'static Method) -> Verdict {
    let t: Trainer<f32> = through(m, Storage::Auto, 0)?;
    let kind =
        build(m, &Setting { seed: 0, steps: 240, steps_per_epoch: 30 }).map_err(|e| e.to_string())?.sparsifier.kind();
    let head = t.model.weights().find(|p| p.shape.head).unwrap();
    ensure!(head.nnz() == head.shape.len(), "the head is not to be pruned and has {} connections", head.nnz());
    if !has_density(m) {
        return Ok(());
    }
    let count = |spec: &ModelSpec| axes(spec).iter().map(|a| a.units).sum::<usize>();
    let prunable = || t.model.weights().filter(|p| p.prunable);
    let (entries, left) = match kind {
        Kind::Units => (count(&ModelSpec::parse(MODEL, digits().image, 10).unwrap()), count(&t.model.spec)),
        _ => (prunable().map(|p| p.shape.len()).sum(), prunable().map(|p| p.nnz()).sum()),
    };
    let wanted = (DENSITY * entries as f64).round() as usize;
    let slack = match options(m).get("pattern").and_then(|p| p.as_str()) {
        Some("per-row" | "row") => prunable().map(|p| p.shape.rows.max(p.shape.cols)).sum(),
        _ => 0,
    };
    ensure!(left.abs_diff(wanted) <= slack, "{left} of {entries} entries are left, {wanted} were asked for");
    Ok(())
}

/// What was not there at the start is paid for by what goes.
fn never_exceeds_its_start(m: &'static Method) -> Verdict {
    let mut t: Trainer<f32> = begin(m, Storage::Auto, 0)?;
    let start = t.model.nonzeros();
    while t.position.step < t.steps() {
        step(&mut t)?;
        let now = t.model.nonzeros();
        ensure!(now <= start, "{now} connections after step {}, {start} at the start", t.position.step);
    }
    Ok(())
}

/// Targets of random values and every signal; two draws must lead to two choices.
fn follows_what_it_is_shown(m: &'static Method) -> Verdict {
    let setting = Setting { seed: 0, steps: 240, steps_per_epoch: 30 };
    let answer = |draw: u64| -> Result<Option<Vec<Edit>>, String> {
        let mut work = build(m, &setting).map_err(|e| e.to_string())?;
        let shapes = [Shape::matrix("a", 8, 12), Shape::matrix("b", 12, 8)];
        let refs: Vec<&Shape> = shapes.iter().collect();
        let births = work.sparsifier.birth(&refs).map_err(|e| e.to_string())?;
        let topologies = births.unwrap_or_else(|| shapes.iter().map(|s| Topology::full(s.rows, s.cols)).collect());
        let numbers = |what: &str, i: usize, n: usize| -> Vec<f32> {
            let mut rng = Rng::stream(draw, what, i as u64, 0);
            (0..n).map(|_| rng.normal() as f32).collect()
        };
        let drawn: Vec<[Vec<f32>; 4]> = topologies
            .iter()
            .enumerate()
            .map(|(i, t)| ["w", "g", "h", "f"].map(|what| numbers(what, i, t.nnz())))
            .collect();
        let moments: Vec<Moments> = shapes
            .iter()
            .enumerate()
            .map(|(i, s)| {
                let mut moments = Moments::default();
                moments.add(&Tensor::new(&[4 * s.cols, s.cols], numbers("x", i, 4 * s.cols * s.cols)));
                moments.mean()
            })
            .collect();
        let zeros: Vec<Vec<Zero>> = topologies
            .iter()
            .enumerate()
            .map(|(i, t)| {
                let free = (0..(t.rows() * t.cols()) as u64).filter(|&p| t.find(p).is_none());
                let gradients = numbers("z", i, t.rows() * t.cols());
                let mut all: Vec<Zero> =
                    free.zip(gradients).map(|(position, gradient)| Zero { position, gradient }).collect();
                all.sort_by(|a, b| b.gradient.abs().total_cmp(&a.gradient.abs()));
                all
            })
            .collect();
        let targets: Vec<Target> = (0..shapes.len())
            .map(|i| Target {
                gradient: &drawn[i][1],
                curvature: &drawn[i][2],
                flow: &drawn[i][3],
                gram: &moments[i].square,
                mean: &moments[i].first,
                zeros: &zeros[i],
                ..Target::new(i, &shapes[i], &topologies[i], &drawn[i][0])
            })
            .collect();
        if let Some(procedure) = &mut work.procedure {
            while !matches!(procedure.next(Some(0.5)), Act::Edit(_)) {}
            return procedure.edit(&targets).map(Some).map_err(|e| e.to_string());
        }
        let mut edits = Vec::new();
        for step in 0..=setting.steps {
            if matches!(work.sparsifier.plan(step), Plan::Rewire(_)) {
                // Other values at each step, for methods that look at what has changed.
                let values: Vec<Vec<f32>> =
                    targets.iter().map(|t| numbers(&format!("w{step}"), t.index, t.values.len())).collect();
                let moved: Vec<Target> =
                    targets.iter().zip(&values).map(|(t, values)| Target { values, ..*t }).collect();
                edits.extend(work.sparsifier.rewire(step, &moved).map_err(|e| e.to_string())?);
            }
        }
        Ok((!edits.is_empty()).then_some(edits))
    };
    let units = build(m, &setting).map_err(|e| e.to_string())?.sparsifier.kind();
    let units = matches!(units, Kind::Units | Kind::Structure);
    let (a, b) = (answer(0)?, answer(1)?);
    ensure!(units || a.is_none() || a != b, "two random networks got the same edits");
    Ok(())
}

fn obeys_its_seed(m: &'static Method) -> Verdict {
    let run = |seed| through::<f32>(m, Storage::Auto, seed);
    let (a, b, c) = (run(1)?, run(1)?, run(2)?);
    ensure!(fingerprint(&a) == fingerprint(&b), "the same seed gave two results");
    let sparse = a.model.weights().any(|p| p.nnz() < p.shape.len());
    ensure!(!sparse || topologies(&a) != topologies(&c), "two seeds gave one topology");
    ensure!(fingerprint(&a) != fingerprint(&c), "two seeds gave one network");
    Ok(())
}

fn same_for_any_number_of_threads(m: &'static Method) -> Verdict {
    let run = |threads| -> Result<_, String> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut t: Trainer<f32> = begin(m, Storage::Auto, 3)?;
            for _ in 0..130.min(t.steps()) {
                step(&mut t)?;
            }
            Ok(fingerprint(&t))
        })
    };
    let one = run(1)?;
    for threads in [2, 3, 8] {
        ensure!(one == run(threads)?, "{threads} threads differ from one");
    }
    Ok(())
}

fn same_for_masked_and_sparse(m: &'static Method) -> Verdict {
    let (mut masked, mut sparse) = (begin::<f64>(m, Storage::Masked, 4)?, begin::<f64>(m, Storage::Sparse, 4)?);
    for at in 0..200.min(masked.steps()) {
        step(&mut masked)?;
        step(&mut sparse)?;
        ensure!(topologies(&masked) == topologies(&sparse), "they part at step {at}");
    }
    for (a, b) in masked.model.weights().zip(sparse.model.weights()) {
        let (x, y) = (a.entries(&a.value), b.entries(&b.value));
        let far = x.iter().zip(&y).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        ensure!(far < 1e-9, "values of {} differ by {far}", a.shape.name);
    }
    Ok(())
}

fn header(t: &Trainer<f32>, m: &Method) -> Header {
    Header {
        model: t.model.spec.clone(),
        normalization: t.frame().normalization,
        classes: digits().classes.clone(),
        data: "digits".into(),
        method: m.key.into(),
        prune_head: false,
        task: Task::Classification,
        scales: Vec::new(),
        dtype: Dtype::Native,
        encoding: None,
        policy: Default::default(),
    }
}

fn goes_on_as_if_never_cut(m: &'static Method) -> Verdict {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint.safetensors");
    for (i, storage) in [Storage::Auto, Storage::Masked, Storage::Auto].into_iter().enumerate() {
        let whole: Trainer<f32> = through(m, storage, 5)?;
        let cut = 1 + Rng::stream(0, m.key, i as u64, storage as u64).below(whole.steps() - 1);
        let mut first: Trainer<f32> = begin(m, storage, 5)?;
        while first.position.step < cut {
            step(&mut first)?;
        }
        first.save(&path, &header(&first, m), "run").map_err(|e| e.to_string())?;
        drop(first);
        let mut second: Trainer<f32> = begin(m, storage, 5)?;
        ensure!(second.resume(&path, "another").is_err(), "took another run's checkpoint");
        second.resume(&path, "run").map_err(|e| e.to_string())?;
        second.run(|_, _| true).map_err(|e| e.to_string())?;
        ensure!(fingerprint(&whole) == fingerprint(&second), "{storage:?} cut at step {cut} went another way");
    }
    Ok(())
}

fn refuses_what_it_does_not_know(m: &'static Method) -> Verdict {
    let setting = Setting { seed: 0, steps: 100, steps_per_epoch: 10 };
    let Some((key, _)) = m.defaults().into_iter().next() else { return Ok(()) };
    let typo = format!("{}x{}", &key[..1], &key[1..]);
    let refusal = |key: &str, value: toml::Value| {
        m.build(&toml::Table::from_iter([(key.to_string(), value)]), &setting).err().map(|e| e.to_string())
    };
    let error = refusal(&typo, 0.5.into()).ok_or_else(|| format!("accepted the misspelt `{typo}`"))?;
    ensure!(error.contains(&typo) && error.contains(&format!("`{key}`")) && error.contains(m.key), "{error}");
    if !has_density(m) {
        return Ok(());
    }
    ensure!(refusal("density", "much".into()).is_some(), "accepted a density that is no number");
    let model = ModelSpec::parse(MODEL, digits().image, 10).unwrap();
    for density in [0.0, -0.5, 1.5, f64::NAN, 1e-9] {
        let build = |setting: &Setting| {
            let mut options = options(m);
            options.insert("density".into(), density.into());
            m.build(&options, setting)
        };
        // One threshold for the whole network is known only once there are scores: 1e-9 is refused when it prunes.
        let error = match Trainer::<f32>::new(&model, digits(), &spec(Storage::Auto), 0, build) {
            Err(e) => e.to_string(),
            Ok(mut t) => t.run(|_, _| true).err().map_or_else(String::new, |e| e.to_string()),
        };
        ensure!(error.contains("density") || error.contains("last unit"), "density {density}: {error:?}");
    }
    Ok(())
}

/// The gradient of a leaf is that of the weight it makes, by finite differences.
fn pulls_gradients_through_its_leaves(m: &'static Method) -> Verdict {
    let setting = Setting { seed: 0, steps: 240, steps_per_epoch: 30 };
    let Some(p) = build(m, &setting).map_err(|e| e.to_string())?.parametrization else { return Ok(()) };
    if p.phases() > 0 {
        return Ok(());
    }
    let (shape, mut rng) = (Shape::matrix("a", 5, 6), Rng::stream(0, "leaves", 0, 0));
    let mut normal = |n: usize| -> Vec<f64> { (0..n).map(|_| rng.normal()).collect() };
    let (weight, gradient) = (normal(30), normal(30));
    for step in [0, 7, 40] {
        let leaves = p.leaves(&shape, &weight);
        if p.straight_through() {
            let (shown, pulled) = (p.weight(step, &leaves), p.pull(step, &leaves, &gradient).swap_remove(0));
            let mut all = pulled.iter().zip(&gradient).zip(shown);
            let through = all.all(|((p, g), w)| p == g || *p == 0.0 && w == 0.0);
            ensure!(through, "the gradient does not go straight through");
            continue;
        }
        let inner = |leaves: &[Leaf]| -> f64 { p.weight(step, leaves).iter().zip(&gradient).map(|(w, g)| w * g).sum() };
        for (k, pulled) in p.pull(step, &leaves, &gradient).into_iter().enumerate() {
            if leaves[k].name == "columns" {
                continue;
            }
            for (i, slope) in pulled.into_iter().enumerate() {
                let moved = |h: f64| {
                    let mut leaves = leaves.clone();
                    leaves[k].values[i] += h;
                    inner(&leaves)
                };
                let near = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                let name = leaves[k].name;
                ensure!((slope - near).abs() < 1e-5 * (1.0 + near.abs()), "{name}[{i}] at {step}: {slope} for {near}");
            }
        }
    }
    Ok(())
}

/// Methods of edges have no target in a perceptron; the room's own tests run them on a graph.
fn on_a_graph(m: &'static Method) -> bool {
    let setting = Setting { seed: 0, steps: 240, steps_per_epoch: 30 };
    build(m, &setting).is_ok_and(|w| w.sparsifier.kind() == Kind::Edges)
}

fn examine(check: &str) {
    let run = SUITE.iter().find(|(name, _)| *name == check).unwrap().1;
    let found: Vec<String> = REGISTRY
        .methods()
        .filter(|m| !on_a_graph(m))
        .filter_map(|m| run(m).err().map(|why| format!("{}: {why}", m.key)))
        .collect();
    assert!(found.is_empty(), "{check}: {found:#?}");
}

#[test]
fn density() {
    examine("density");
}

#[test]
fn budget() {
    examine("budget");
}

#[test]
fn scores() {
    examine("scores");
}

#[test]
fn seed() {
    examine("seed");
}

#[test]
fn threads() {
    examine("threads");
}

#[test]
fn storage() {
    examine("storage");
}

#[test]
fn interruption() {
    examine("interruption");
}

#[test]
fn unknown_options() {
    examine("options");
}

#[test]
fn leaves() {
    examine("leaves");
}

mod cheats {
    //! Methods that do not do what they say, each of which must be found out; and honest ones that use words which no
    //! registered method uses yet.

    use super::*;
    use nnz_core::{
        Budget, Build, Criterion, DistributionKind, Idle, Live, Magnitude, OneShot, Paper, Parametrization, Procedure,
        Prune, Result, Sparsifier, Static,
    };
    use serde::{Deserialize, Serialize};

    const PAPER: Paper = Paper { number: None, title: "", authors: "", year: 2000, venue: "", arxiv: "" };

    macro_rules! cheat {
        ($name:ident, $key:literal, $build:expr) => {
            #[derive(Serialize, Deserialize)]
            struct $name {
                density: f64,
            }
            impl Default for $name {
                fn default() -> Self {
                    Self { density: 0.1 }
                }
            }
            impl Build for $name {
                fn build(self, setting: &Setting) -> Result<Work> {
                    let build: fn(f64, &Setting) -> Work = $build;
                    Ok(build(self.density, setting))
                }
            }
            impl $name {
                const METHOD: Method = Method::new::<Self>($key, $key, "prune", "", PAPER);
            }
        };
    }

    fn by_magnitude(density: f64, setting: &Setting) -> Prune {
        let schedule = OneShot { at: setting.steps / 2, density };
        Budget::new(density, DistributionKind::Uniform).prune(Magnitude, schedule, setting)
    }

    fn random(density: f64, setting: &Setting) -> Static {
        Budget::new(density, DistributionKind::Erk).fixed(setting)
    }

    /// Looks at nothing: the first entries win.
    struct Blind;

    impl Criterion for Blind {
        fn score(&self, target: &Target, _: &mut Rng) -> Vec<f32> {
            (0..target.values.len()).map(|i| -(i as f32)).collect()
        }
    }

    cheat!(IgnoresScore, "ignores-score", |density, setting| {
        Prune { criterion: Box::new(Blind), ..by_magnitude(density, setting) }.into()
    });
    cheat!(IgnoresSeed, "ignores-seed", |density, setting| random(density, &Setting { seed: 7, ..*setting }).into());
    cheat!(IgnoresDensity, "ignores-density", |_, setting| by_magnitude(0.3, setting).into());

    /// Born like a random topology; then does what `Self::2` says.
    struct Born(Static, fn(&Target) -> Edit, usize);

    impl Sparsifier for Born {
        fn birth(&self, shapes: &[&Shape]) -> Result<Option<Vec<Topology>>> {
            self.0.birth(shapes)
        }

        fn check(&self, shapes: &[&Shape]) -> Result<()> {
            self.0.check(shapes)
        }

        fn plan(&self, step: u64) -> Plan {
            if step == 50 { Plan::Rewire(nnz_core::Signals::NONE) } else { Plan::Rest }
        }

        fn rewire(&mut self, _: u64, targets: &[Target]) -> Result<Vec<Edit>> {
            Ok(targets.iter().map(self.1).chain((0..self.2).map(|_| Edit::Keep)).collect())
        }
    }

    cheat!(GrowsOnly, "grows-without-dropping", |density, setting| {
        let grow = |t: &Target| {
            let len = (t.topology.rows() * t.topology.cols()) as u64;
            let new = (0..len).filter(|&p| t.topology.find(p).is_none()).take(5);
            let mut all: Vec<u64> = t.topology.positions().chain(new).collect();
            all.sort_unstable();
            let topology = Topology::from_positions(t.topology.rows(), t.topology.cols(), all);
            Edit::Rewire { topology, born: Vec::new() }
        };
        Born(random(density, setting), grow, 0).into()
    });
    // The classifier is no target: an edit for it is one too many.
    cheat!(TouchesFrozen, "touches-a-frozen-layer", |density, setting| {
        Born(random(density, setting), |_| Edit::Keep, 1).into()
    });

    /// A soup: two trainings that share their first half, the better of them and then the mean of both.
    struct Soup {
        length: u64,
        done: usize,
        accuracies: Vec<f64>,
    }

    impl Procedure for Soup {
        fn steps(&self) -> u64 {
            self.length + self.length.div_ceil(2)
        }

        fn next(&mut self, accuracy: Option<f64>) -> Act {
            self.accuracies.extend(accuracy);
            let (half, of) = (self.length / 2, self.length);
            let better = if self.accuracies.first() > self.accuracies.last() { "a" } else { "b" };
            let acts = [
                Act::Train { span: 0..half, of, order: 0 },
                Act::Snapshot("trunk".into()),
                Act::Train { span: half..of, of, order: 0 },
                Act::Evaluate,
                Act::Snapshot("a".into()),
                Act::Restore("trunk".into()),
                Act::Train { span: half..of, of, order: 1 },
                Act::Evaluate,
                Act::Snapshot("b".into()),
                Act::Restore(better.into()),
                Act::Average(vec!["a".into(), "b".into()]),
            ];
            self.done += 1;
            acts.into_iter().nth(self.done - 1).unwrap_or(Act::Done)
        }

        fn edit(&mut self, targets: &[Target]) -> Result<Vec<Edit>> {
            Ok(vec![Edit::Keep; targets.len()])
        }

        fn state(&self) -> serde_json::Value {
            serde_json::json!([self.done, self.accuracies])
        }

        fn restore(&mut self, state: &serde_json::Value) -> Result<()> {
            self.done = state[0].as_u64().unwrap_or_default() as usize;
            self.accuracies = state[1].as_array().into_iter().flatten().filter_map(|a| a.as_f64()).collect();
            Ok(())
        }
    }

    cheat!(Souped, "soup", |density, setting| {
        let procedure = Soup { length: setting.steps / 2, done: 0, accuracies: Vec::new() };
        Work { procedure: Some(Box::new(procedure)), ..Work::from(Idle(by_magnitude(density, setting))) }
    });

    /// w = v³ until two thirds of the run.
    struct Cubes(u64);

    impl Parametrization for Cubes {
        fn leaves(&self, shape: &Shape, weight: &[f64]) -> Vec<Leaf> {
            let values = weight.iter().map(|w| w.cbrt()).collect();
            vec![Leaf { name: "root", dims: vec![shape.rows, shape.cols], values, decays: true }]
        }

        fn weight(&self, _: u64, leaves: &[Leaf]) -> Vec<f64> {
            leaves[0].values.iter().map(|v| v.powi(3)).collect()
        }

        fn pull(&self, _: u64, leaves: &[Leaf], gradient: &[f64]) -> Vec<Vec<f64>> {
            vec![leaves[0].values.iter().zip(gradient).map(|(v, g)| 3.0 * v * v * g).collect()]
        }

        fn penalty(&self, _: u64, leaves: &[Leaf], gradients: &mut [Vec<f64>]) {
            gradients[0].iter_mut().zip(&leaves[0].values).for_each(|(g, v)| *g += 1e-4 * v);
        }

        fn until(&self) -> u64 {
            self.0
        }

        fn freeze(&self, shape: &Shape, leaves: &[Leaf]) -> Edit {
            Edit::Set { topology: Topology::full(shape.rows, shape.cols), values: self.weight(0, leaves) }
        }
    }

    cheat!(Cubed, "cubes", |density, setting| {
        let cubes = Cubes(setting.steps * 2 / 3);
        Work { parametrization: Some(Box::new(cubes)), ..Work::from(Idle(by_magnitude(density, setting))) }
    });

    /// A pull that forgets a factor.
    struct Half(Cubes);

    impl Parametrization for Half {
        fn leaves(&self, shape: &Shape, weight: &[f64]) -> Vec<Leaf> {
            self.0.leaves(shape, weight)
        }

        fn weight(&self, step: u64, leaves: &[Leaf]) -> Vec<f64> {
            self.0.weight(step, leaves)
        }

        fn pull(&self, step: u64, leaves: &[Leaf], gradient: &[f64]) -> Vec<Vec<f64>> {
            self.0.pull(step, leaves, &gradient.iter().map(|g| g / 2.0).collect::<Vec<_>>())
        }

        fn until(&self) -> u64 {
            self.0.until()
        }

        fn freeze(&self, shape: &Shape, leaves: &[Leaf]) -> Edit {
            self.0.freeze(shape, leaves)
        }
    }

    cheat!(Halved, "pulls-half", |density, setting| {
        let half = Half(Cubes(setting.steps));
        Work { parametrization: Some(Box::new(half)), ..Work::from(Idle(by_magnitude(density, setting))) }
    });

    /// Keeps a counter to itself that no checkpoint knows of.
    struct Forgetful(u64);

    impl Sparsifier for Forgetful {
        fn check(&self, _: &[&Shape]) -> Result<()> {
            Ok(())
        }

        fn plan(&self, _: u64) -> Plan {
            Plan::Rest
        }

        fn rewire(&mut self, _: u64, targets: &[Target]) -> Result<Vec<Edit>> {
            Ok(vec![Edit::Keep; targets.len()])
        }

        fn proximal(&self) -> bool {
            true
        }

        fn after_step(&mut self, _: u64, lr: f64, targets: &mut [Live]) {
            self.0 += 1;
            let factor = 1.0 - lr * 1e-3 * self.0 as f64;
            targets.iter_mut().for_each(|t| t.values.iter_mut().for_each(|w| *w *= factor));
        }
    }

    cheat!(Forgets, "forgets", |_, _| Forgetful(0).into());

    #[test]
    fn words_that_no_method_uses_yet_are_kept_too() {
        static HONEST: [Method; 2] = [Souped::METHOD, Cubed::METHOD];
        for m in &HONEST {
            for (name, check) in SUITE.iter().filter(|(name, _)| !["density", "scores", "options"].contains(name)) {
                check(m).unwrap_or_else(|why| panic!("{} fails `{name}`: {why}", m.key));
            }
        }
    }

    #[test]
    fn every_cheat_is_found_out() {
        static CHEATS: [(Method, &str); 7] = [
            (Halved::METHOD, "leaves"),
            (Forgets::METHOD, "interruption"),
            (IgnoresScore::METHOD, "scores"),
            (IgnoresSeed::METHOD, "seed"),
            (IgnoresDensity::METHOD, "density"),
            (GrowsOnly::METHOD, "budget"),
            (TouchesFrozen::METHOD, "density"),
        ];
        for (cheat, caught_by) in &CHEATS {
            let check = SUITE.iter().find(|(name, _)| name == caught_by).unwrap().1;
            let why = check(cheat).err().unwrap_or_else(|| panic!("{} passes `{caught_by}`", cheat.key));
            println!("{}: {why}", cheat.key);
        }
        // The honest ones that they were made of pass.
        for key in ["magnitude", "random-pruning"] {
            let honest = REGISTRY.find(key).unwrap();
            CHEATS.iter().for_each(|(_, by)| {
                let check = SUITE.iter().find(|(name, _)| name == by).unwrap().1;
                check(honest).unwrap_or_else(|why| panic!("{key} fails `{by}`: {why}"));
            });
        }
    }
}

/// Options that change what is measured or drawn: the same topologies under masked and sparse storage, at the density, and on
/// resuming.
#[test]
fn other_growths_and_starts_behave_too() {
    let model = ModelSpec::parse(MODEL, digits().image, 10).unwrap();
    let growths = ["rigl", "dst-ee", "sparse-momentum", "granet", "itop"].map(|key| (key, "growth", "sampled"));
    let starts = ["small-world", "scale-free", "ramanujan"].map(|start| ("set", "start", start));
    for (key, option, value) in growths.into_iter().chain(starts) {
        let method = REGISTRY.find(key).unwrap();
        let build = |setting: &Setting| {
            let mut options = options(method);
            options.insert(option.into(), value.into());
            method.build(&options, setting)
        };
        let [mut masked, mut sparse] = [Storage::Masked, Storage::Sparse].map(|storage| {
            Trainer::<f64>::new(&model, digits(), &spec(storage), 6, build)
                .unwrap_or_else(|e| panic!("{key} {value}: {e}"))
        });
        masked.run(|_, _| true).unwrap();
        sparse.run(|_, _| true).unwrap();
        assert_eq!(topologies(&masked), topologies(&sparse), "{key} {value}");
        let (entries, left) = (784 * 30 + 30 * 20, sparse.model.params.iter().filter(|p| p.prunable).map(|p| p.nnz()));
        assert_eq!(left.sum::<usize>(), (DENSITY * entries as f64).round() as usize, "{key} {value}");
        assert!(sparse.position.history.iter().any(|e| e.died > 0), "{key} {value} did not rewire");
    }
}

/// Every pattern, on the methods that choose freely: what survives training obeys it.
#[test]
fn patterns_are_kept_through_training() {
    let model = ModelSpec::parse("mlp:784-32-16-10", digits().image, 10).unwrap();
    for key in ["magnitude", "snip", "random-pruning", "gmp"] {
        let method = REGISTRY.find(key).unwrap();
        for pattern in ["unstructured", "per-row", "2:4", "block:4x4", "row"] {
            let build = |setting: &Setting| {
                let mut options = options(method);
                options.insert("pattern".into(), pattern.into());
                if pattern == "2:4" {
                    options.insert("density".into(), 0.5.into());
                    if key == "gmp" {
                        // A fixed density is reached at once, or refused.
                        options.insert("end".into(), options["start"].clone());
                    }
                } else {
                    options.insert("density".into(), 0.25.into());
                }
                method.build(&options, setting)
            };
            let mut t = Trainer::<f32>::new(&model, digits(), &spec(Storage::Auto), 0, build)
                .unwrap_or_else(|e| panic!("{key} {pattern}: {e}"));
            t.run(|_, _| true).unwrap();
            for topology in topologies(&t).iter().take(2) {
                let at = format!("{key} {pattern} {}x{}", topology.rows(), topology.cols());
                let degrees = topology.row_degrees();
                assert!(topology.density() < 0.9 && topology.nnz() > 0, "{at}: density {}", topology.density());
                match pattern {
                    "per-row" => assert!(degrees.iter().all(|&d| d == degrees[0]), "{at}: {degrees:?}"),
                    "row" => assert!(degrees.iter().all(|&d| d == 0 || d == topology.cols()), "{at}: {degrees:?}"),
                    "2:4" => (0..topology.rows()).for_each(|r| {
                        for group in topology.row(r).chunk_by(|a, b| a / 4 == b / 4) {
                            assert_eq!(group.len(), 2, "{at} row {r}");
                        }
                    }),
                    "block:4x4" => (0..topology.rows()).for_each(|r| {
                        assert_eq!(topology.row(r), topology.row(r / 4 * 4), "{at} row {r}");
                        assert!(topology.row(r).chunk_by(|a, b| a / 4 == b / 4).all(|g| g.len() == 4), "{at} row {r}");
                    }),
                    _ => {}
                }
            }
        }
    }
}

#[test]
fn cards_agree_with_the_catalog_and_files_with_the_registry() {
    assert_eq!(nnz_core::catalog::check(REGISTRY), Vec::<String>::new());
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for room in ["prune", "tickets", "rewire", "structured", "topology", "graph"] {
        let mut files: Vec<String> = std::fs::read_dir(source.join(room))
            .unwrap()
            .map(|f| f.unwrap().path().file_stem().unwrap().to_string_lossy().replace('_', "-"))
            .filter(|f| f != "mod")
            .collect();
        let mut keys: Vec<String> = REGISTRY.methods().filter(|m| m.room == room).map(|m| m.key.into()).collect();
        files.sort();
        keys.sort();
        assert_eq!(files, keys, "room {room}");
    }
}
