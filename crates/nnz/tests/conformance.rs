//! What every method promises, checked for every method of the registry: it reaches its density, follows its seed and
//! its scores, refuses typos, gives the same bits for any number of threads and after any interruption, and makes the
//! same topologies under masked and sparse storage.

use nnz::REGISTRY;
use nnz::data::Store;
use nnz_core::{Method, Rng, Setting, Topology};
use nnz_engine::data::{Dataset, Inputs, Split};
use nnz_engine::file::Header;
use nnz_engine::{Dtype, LrSchedule, ModelSpec, OptimizerSpec, Real, Storage, Task, TrainSpec, Trainer};
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
    options.insert("density".into(), DENSITY.into());
    if options.get("every").and_then(|e| e.as_str()).is_some_and(|e| e.ends_with("steps")) {
        options.insert("every".into(), "50 steps".into());
    }
    options
}

fn trainer<T: Real>(method: &Method, storage: Storage, seed: u64) -> Trainer<'static, T> {
    let model = ModelSpec::parse(MODEL, digits().image, 10).unwrap();
    let build = |setting: &Setting| method.build(&options(method), setting);
    Trainer::new(&model, digits(), &spec(storage), seed, build).unwrap_or_else(|e| panic!("{}: {e}", method.key))
}

fn finish<T: Real>(trainer: &mut Trainer<T>) {
    assert!(trainer.run(|_, _| true).unwrap());
}

fn topologies<T: Real>(t: &Trainer<T>) -> Vec<Topology> {
    t.model.weights().map(|p| p.topology()).collect()
}

/// Everything a run computed: values, topologies, optimizer state, history.
fn fingerprint<T: Real>(t: &Trainer<T>) -> impl PartialEq + std::fmt::Debug + use<T> {
    let values: Vec<Vec<T>> = t.model.params.iter().map(|p| p.value.data().to_vec()).collect();
    (values, topologies(t), t.optimizer.state.clone(), t.position.clone())
}

#[test]
fn density_is_reached_to_one_connection_a_layer() {
    for m in REGISTRY.methods() {
        let mut t: Trainer<f32> = trainer(m, Storage::Auto, 0);
        finish(&mut t);
        let prunable: Vec<_> = t.model.weights().filter(|p| p.prunable).collect();
        let entries: usize = prunable.iter().map(|p| p.shape.len()).sum();
        let nonzeros: usize = prunable.iter().map(|p| p.nnz()).sum();
        assert_eq!(nonzeros, (DENSITY * entries as f64).round() as usize, "{}", m.key);
        assert!(t.model.weights().filter(|p| p.shape.head).all(|p| p.nnz() == p.shape.len()), "{}: head", m.key);
    }
}

#[test]
fn a_seed_says_all() {
    for m in REGISTRY.methods() {
        let run = |seed| {
            let mut t: Trainer<f32> = trainer(m, Storage::Auto, seed);
            finish(&mut t);
            t
        };
        let (a, b, c) = (run(1), run(1), run(2));
        assert!(fingerprint(&a) == fingerprint(&b), "{}: the same seed gave two results", m.key);
        assert_ne!(topologies(&a), topologies(&c), "{}: two seeds gave one topology", m.key);
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for m in REGISTRY.methods() {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut t: Trainer<f32> = trainer(m, Storage::Auto, 3);
                for _ in 0..130 {
                    t.advance().unwrap();
                }
                fingerprint(&t)
            })
        };
        let one = run(1);
        for threads in [2, 3, 8] {
            assert!(one == run(threads), "{}: {threads} threads differ from one", m.key);
        }
    }
}

#[test]
fn masked_and_sparse_storage_make_the_same_topologies() {
    for m in REGISTRY.methods() {
        let (mut masked, mut sparse) = (trainer::<f64>(m, Storage::Masked, 4), trainer::<f64>(m, Storage::Sparse, 4));
        for step in 0..200 {
            masked.advance().unwrap();
            sparse.advance().unwrap();
            assert!(topologies(&masked) == topologies(&sparse), "{}: they part at step {step}", m.key);
        }
        for (a, b) in masked.model.weights().zip(sparse.model.weights()) {
            let (x, y) = (a.entries(&a.value), b.entries(&b.value));
            let far = x.iter().zip(&y).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
            assert!(far < 1e-9, "{}: values of {} differ by {far}", m.key, a.shape.name);
        }
    }
}

#[test]
fn an_interrupted_run_equals_an_uninterrupted_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint.safetensors");
    for (i, m) in REGISTRY.methods().enumerate() {
        for storage in [Storage::Auto, Storage::Masked] {
            let mut whole: Trainer<f32> = trainer(m, storage, 5);
            finish(&mut whole);
            let cut = 1 + Rng::stream(0, "cut", i as u64, storage as u64).below(whole.steps() - 1);
            let mut first: Trainer<f32> = trainer(m, storage, 5);
            while first.position.step < cut {
                first.advance().unwrap();
            }
            let header = Header {
                model: first.model.spec.clone(),
                normalization: first.frame().normalization,
                classes: digits().classes.clone(),
                data: "digits".into(),
                method: m.key.into(),
                prune_head: false,
                task: Task::Classification,
                scales: Vec::new(),
                dtype: Dtype::Native,
                encoding: None,
            };
            first.save(&path, &header, "run").unwrap();
            drop(first);
            let mut second: Trainer<f32> = trainer(m, storage, 5);
            second.resume(&path, "run").unwrap();
            finish(&mut second);
            assert!(fingerprint(&whole) == fingerprint(&second), "{} ({storage:?}) cut at step {cut}", m.key);
        }
    }
    let mut last: Trainer<f32> = trainer(REGISTRY.methods().last().unwrap(), Storage::Masked, 5);
    assert!(last.resume(&path, "another").is_err(), "another run's checkpoint");
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
            finish(&mut t);
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
fn unknown_options_and_values_are_refused_by_name() {
    let setting = Setting { seed: 0, steps: 100, steps_per_epoch: 10 };
    for m in REGISTRY.methods() {
        let mut typo = toml::Table::new();
        typo.insert("densty".into(), 0.5.into());
        let error = m.build(&typo, &setting).err().unwrap_or_else(|| panic!("{} accepted a typo", m.key)).to_string();
        assert!(error.contains("densty") && error.contains("density") && error.contains(m.key), "{error}");
        let mut wrong = toml::Table::new();
        wrong.insert("density".into(), "much".into());
        assert!(m.build(&wrong, &setting).is_err(), "{} accepted a density that is no number", m.key);
    }
}

#[test]
fn densities_out_of_range_are_refused_before_training() {
    let model = ModelSpec::parse(MODEL, digits().image, 10).unwrap();
    for m in REGISTRY.methods() {
        for density in [0.0, -0.5, 1.5, f64::NAN, 1e-9] {
            let build = |setting: &Setting| {
                let mut options = options(m);
                options.insert("density".into(), density.into());
                m.build(&options, setting)
            };
            let trainer = Trainer::<f32>::new(&model, digits(), &spec(Storage::Auto), 0, build);
            // One threshold for the whole network is known only once there are scores: 1e-9 is refused when it prunes.
            let error = match trainer {
                Err(e) => e.to_string(),
                Ok(mut t) => t.run(|_, _| true).err().map_or_else(String::new, |e| e.to_string()),
            };
            assert!(error.contains("density"), "{} at {density}: {error:?}", m.key);
        }
    }
}

#[test]
fn cards_agree_with_the_catalog_and_files_with_the_registry() {
    assert_eq!(nnz::catalog::check(REGISTRY), Vec::<String>::new());
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for room in ["prune", "tickets", "rewire"] {
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
