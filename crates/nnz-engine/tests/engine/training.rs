//! Training as a whole: every kind of network, task and setting gives the same bits for any number of threads, with and
//! without a thread that makes batches ahead, and after any interruption.

use nnz_core::{Dense, Edit, Plan, Rng, Setting, Shape, Signals, Sparsifier, Target, Topology};
use nnz_engine::data::{Augment, Dataset, Inputs, Normalization, Preprocessing, SparseRows, Split};
use nnz_engine::file::{Header, Packing, load_model, save_model};
use nnz_engine::{
    Dtype, LrSchedule, Model, ModelSpec, OptimizerSpec, SparseThresholds, Storage, Task, Tensor, TrainSpec, Trainer,
    evaluate,
};
use std::sync::OnceLock;

/// 90 images of three classes to train on, 30 to test on.
fn pictures() -> &'static Dataset {
    static DATA: OnceLock<Dataset> = OnceLock::new();
    DATA.get_or_init(|| {
        let split = |rows: usize, stream| {
            let mut rng = Rng::stream(7, "pictures", stream, 0);
            let labels: Vec<u32> = (0..rows as u32).map(|r| r % 3).collect();
            let pixel = |r: usize, i: usize, rng: &mut Rng| {
                let bright = (i % 8 / 3) as u32 == labels[r];
                rng.below(100) as u8 + if bright { 120 } else { 0 }
            };
            let bytes = (0..rows * 192).map(|k| pixel(k / 192, k % 192 / 3, &mut rng)).collect();
            Split::new(Inputs::Bytes(bytes), labels)
        };
        let classes = ["left", "middle", "right"].map(String::from).to_vec();
        Dataset::new("pictures", [3, 8, 8], classes, split(90, 0), split(30, 1), "test".into()).unwrap()
    })
}

/// Two numbers that are functions of ten others.
fn numbers() -> &'static Dataset {
    static DATA: OnceLock<Dataset> = OnceLock::new();
    DATA.get_or_init(|| {
        let split = |rows: usize, stream| {
            let mut rng = Rng::stream(8, "numbers", stream, 0);
            let x: Vec<f32> = (0..rows * 10).map(|_| rng.normal() as f32).collect();
            let of = |r: &[f32]| [1000.0 + 50.0 * (r[0] - r[1]), 0.01 * (r[2] + r[3].abs())];
            Split::with_targets(Inputs::Floats(x.clone()), x.chunks(10).flat_map(of).collect(), 2)
        };
        let names = vec!["far".into(), "near".into()];
        Dataset::new("numbers", [1, 1, 10], names, split(300, 0), split(60, 1), "test".into()).unwrap()
    })
}

fn base() -> TrainSpec {
    TrainSpec {
        epochs: 3,
        batch: 24,
        optimizer: OptimizerSpec::sgd(0.05),
        schedule: LrSchedule::Cosine,
        validation: 0.2,
        ..TrainSpec::default()
    }
}

/// Models, data and settings of the trainings.
fn cases() -> Vec<(&'static str, &'static str, &'static Dataset, TrainSpec)> {
    let augment = Augment { flip: true, crop: 1, cutout: 3, mixup: 0.3 };
    let adamw = OptimizerSpec::adamw(0.003);
    let whole = TrainSpec { optimizer: OptimizerSpec::lbfgs(), batch: 1000, epochs: 8, ..base() };
    let real = TrainSpec { task: Task::Regression, optimizer: OptimizerSpec::adam(0.01), ..base() };
    let rebuild = TrainSpec { task: Task::Reconstruction, optimizer: adamw, ..base() };
    let dropout = r#"
        name = "dropout"
        input = [3, 8, 8]
        layers = [
            { layer = "conv2d", name = "conv", inputs = 3, outputs = 6, kernel = 3, padding = 1 },
            { layer = "batch-norm", name = "norm", channels = 6 },
            { layer = "relu" },
            { layer = "dropout", p = 0.3 },
            { layer = "flatten" },
            { layer = "linear", name = "head", inputs = 384, outputs = 3 },
        ]"#;
    let states = r#"
        name = "states"
        input = [3, 8, 8]
        layers = [
            { layer = "reshape", shape = [8, 24] },
            { layer = "recurrent", name = "lstm", cell = "lstm", inputs = 24, outputs = 8 },
            { layer = "last" },
            { layer = "linear", name = "head", inputs = 8, outputs = 3 },
        ]"#;
    vec![
        ("sgd", "mlp:192-16-3", pictures(), base()),
        ("batch norm", "resnet8", pictures(), base()),
        ("augmented", "vgg-small", pictures(), TrainSpec { augment, optimizer: adamw, ..base() }),
        ("average", dropout, pictures(), TrainSpec { ema: Some(0.9), smoothing: 0.1, ..base() }),
        ("clipped", "transformer:8-1-2-4", pictures(), TrainSpec { clip: Some(0.5), optimizer: adamw, ..base() }),
        ("states", states, pictures(), TrainSpec { augment, ema: Some(0.8), clip: Some(1.0), ..base() }),
        ("lbfgs", "mlp:192-8-3", pictures(), TrainSpec { smoothing: 0.1, ..whole.clone() }),
        ("regression", "mlp:10-16-2", numbers(), real.clone()),
        (
            "mixed numbers",
            "mlp:10-16-2",
            numbers(),
            TrainSpec { augment: Augment { mixup: 1.0, ..Augment::default() }, ..real },
        ),
        ("regression by lbfgs", "mlp:10-8-2", numbers(), TrainSpec { task: Task::Regression, ..whole }),
        ("autoencoder", "autoencoder:192-32-8", pictures(), TrainSpec { augment, ..rebuild.clone() }),
        ("vae", "vae:192-32-4", pictures(), TrainSpec { ema: Some(0.9), ..rebuild }),
    ]
}

fn network(text: &str, data: &Dataset, task: Task) -> ModelSpec {
    let outputs = task.outputs(data.classes.len(), data.image);
    if text.contains('{') {
        let spec: ModelSpec = toml::from_str(text).unwrap();
        spec.check(outputs).unwrap();
        return spec;
    }
    ModelSpec::parse(text, data.image, outputs).unwrap()
}

/// Half of the connections of every prunable weight, all redrawn every third step.
struct Shuffled(Setting);

impl Shuffled {
    fn draw(&self, shape: &Shape, index: usize, step: u64) -> Topology {
        let mut rng = Rng::stream(self.0.seed, "shuffled", index as u64, step);
        Topology::from_positions(shape.rows, shape.cols, rng.distinct(shape.len() as u64, shape.len().div_ceil(2)))
    }
}

impl Sparsifier for Shuffled {
    fn initial_topologies(&self, shapes: &[&Shape]) -> nnz_core::Result<Option<Vec<Topology>>> {
        Ok(Some(shapes.iter().enumerate().map(|(i, s)| self.draw(s, i, 0)).collect()))
    }

    fn check(&self, _: &[&Shape]) -> nnz_core::Result<()> {
        Ok(())
    }

    fn plan(&self, step: u64) -> Plan {
        match step {
            0 => Plan::Rest,
            s if s % 3 == 0 => Plan::Rewire(Signals { gradient: s % 2 == 0, ..Signals::NONE }),
            _ => Plan::Rest,
        }
    }

    fn rewire(&mut self, step: u64, targets: &[Target]) -> nnz_core::Result<Vec<Edit>> {
        let edit = |t: &Target| {
            let topology = self.draw(t.shape, t.index, step);
            // Grown connections start at 0.5, which an average must know.
            let grown = t.topology.carry(&topology).filter(Option::is_none).map(|_| 0.5).collect();
            Edit::Rewire { topology, grown }
        };
        Ok(targets.iter().map(edit).collect())
    }
}

fn trainer(text: &str, data: &'static Dataset, spec: &TrainSpec, sparse: bool) -> Trainer<'static, f32> {
    let build = move |s: &Setting| -> nnz_core::Result<Box<dyn Sparsifier>> {
        Ok(if sparse { Box::new(Shuffled(*s)) } else { Box::new(Dense) })
    };
    Trainer::new(&network(text, data, spec.task), data, spec, 3, build).unwrap()
}

fn header(t: &Trainer<f32>, data: &Dataset, spec: &TrainSpec) -> Header {
    let frame = t.frame().clone();
    Header {
        model: t.model.spec.clone(),
        normalization: frame.normalization,
        classes: data.classes.clone(),
        data: data.name.clone(),
        method: "test".into(),
        prunable: false.into(),
        texts: false,
        task: frame.task,
        scales: frame.scales,
        dtype: spec.dtype,
        encoding: None,
        policy: t.policy(),
    }
}

/// Everything a training computed.
fn fingerprint(t: &Trainer<f32>) -> impl PartialEq + use<> {
    let bits = |t: &Tensor<f32>| t.data().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let values: Vec<_> = t.model.params.iter().map(|p| (bits(&p.value), p.topology())).collect();
    let state: Vec<_> = t.optimizer.state.iter().flatten().map(bits).collect();
    let average: Vec<_> = t.average.iter().flat_map(|a| a.values()).map(bits).collect();
    (values, state, average, format!("{:?}", t.position))
}

#[test]
fn threads_prefetch_and_interruptions_change_no_bit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint.safetensors");
    for (i, (name, text, data, spec)) in cases().into_iter().enumerate() {
        for sparse in [false, true] {
            let fresh = || trainer(text, data, &spec, sparse);
            let whole = |threads: usize, prefetch: bool| {
                rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
                    let mut t = fresh();
                    t.prefetch = prefetch;
                    assert!(t.run(|_, _| true).unwrap());
                    fingerprint(&t)
                })
            };
            let one = whole(1, false);
            for threads in [1, 2, 3, 8] {
                assert!(one == whole(threads, true), "{name} (sparse: {sparse}): {threads} threads differ from one");
            }
            let mut first = fresh();
            let cut = 1 + Rng::stream(0, "cut", i as u64, sparse.into()).below(first.steps() - 1);
            first.run(|t, _| t.position.step < cut).unwrap();
            assert_eq!(first.position.step, cut);
            first.save(&path, &header(&first, data, &spec), "run").unwrap();
            drop(first);
            let mut second = fresh();
            second.resume(&path, "run").unwrap();
            second.run(|_, _| true).unwrap();
            assert!(one == fingerprint(&second), "{name} (sparse: {sparse}): cut at step {cut}");
            assert!(fresh().resume(&path, "another").is_err());
        }
    }
}

/// Thresholds of storage `auto` change the last bits, so a resumed training keeps those it began with, whatever it is given
/// when it is resumed.
#[test]
fn a_resumed_training_keeps_its_choice_of_storage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint.safetensors");
    let chosen = |first: f64, second: f64| {
        let at = [("fc1.weight", first), ("fc2.weight", second)].map(|(name, at)| (name.to_string(), at));
        TrainSpec { crossovers: SparseThresholds(at.into()), ..base() }
    };
    let of = |spec: &TrainSpec| trainer("mlp:192-40-30-3", pictures(), spec, true);
    let names = |t: &Trainer<f32>| t.model.weights().map(|p| p.storage_name()).collect::<Vec<_>>();
    let (one, other) = (chosen(0.6, 0.4), chosen(0.4, 0.6));
    let (mut whole, mut different) = (of(&one), of(&other));
    assert_eq!(
        (names(&whole), names(&different)),
        (vec!["sparse", "masked", "dense"], vec!["masked", "sparse", "dense"])
    );
    whole.run(|_, _| true).unwrap();
    different.run(|_, _| true).unwrap();
    assert!(fingerprint(&whole) != fingerprint(&different), "the choice shows in the last bits");
    let mut first = of(&one);
    first.run(|t, _| t.position.step < 4).unwrap();
    first.save(&path, &header(&first, pictures(), &one), "run").unwrap();
    let mut second = of(&other);
    second.resume(&path, "run").unwrap();
    assert_eq!(names(&second), ["sparse", "masked", "dense"]);
    second.run(|_, _| true).unwrap();
    assert!(fingerprint(&whole) == fingerprint(&second));
}

/// A soak found files whose counts of steps overflowed.
#[test]
fn a_position_that_a_training_never_reaches_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint.safetensors");
    let of = || trainer("mlp:192-40-30-3", pictures(), &base(), true);
    type Change = dyn Fn(&mut Trainer<f32>);
    let saved = |change: &Change| {
        let mut first = of();
        first.run(|t, _| t.position.step < 4).unwrap();
        change(&mut first);
        first.save(&path, &header(&first, pictures(), &base()), "run").unwrap();
        of().resume(&path, "run").map_err(|e| e.to_string())
    };
    saved(&|_| ()).unwrap();
    let changes: [&Change; 7] = [
        &|t| t.position.step = u64::MAX,
        &|t| (t.position.step, t.position.done) = (t.steps() + 1, t.steps() + 1),
        &|t| t.position.since = 5,
        &|t| t.position.done = 5,
        &|t| t.position.done = 3,
        &|t| t.position.rows_seen = f64::MAX,
        &|t| t.position.grown = usize::MAX,
    ];
    for (i, change) in changes.iter().enumerate() {
        let said = saved(change).unwrap_err();
        assert!(said.contains("never is where it says"), "change {i}: {said}");
    }
}

#[test]
fn every_task_learns_and_its_file_measures_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    for (name, text, data, spec) in cases() {
        let spec = TrainSpec { epochs: if spec.task == Task::Reconstruction { 250 } else { 40 }, ..spec };
        for dtype in [Dtype::Native, Dtype::Bf16] {
            let spec = TrainSpec { dtype, ..spec.clone() };
            let mut t = trainer(text, data, &spec, false);
            let rows: Vec<u32> = (0..data.test.len() as u32).collect();
            let before = t.evaluate(&data.test, &rows).unwrap();
            t.run(|_, _| true).unwrap();
            let after = t.evaluate(&data.test, &rows).unwrap();
            // An image has little that can be learned; the rest is noise.
            let enough = [0.75, 0.6, 0.25][spec.task as usize];
            assert!(after.accuracy > enough && after.accuracy > before.accuracy, "{name} {dtype:?}: {after:?}");
            assert!(after.loss < before.loss, "{name}: {} to {}", before.loss, after.loss);
            let head = header(&t, data, &spec);
            save_model(&path, &t.result(), &head, Packing::Smallest).unwrap();
            let (model, read): (Model<f32>, Header) = load_model(&path, Storage::Auto).unwrap();
            assert_eq!(read, head);
            let again = evaluate(&model, data, &data.test, &rows, &read.frame()).unwrap();
            assert_eq!(again, after, "{name} {dtype:?}");
        }
    }
}

#[test]
fn sixteen_bits_take_half_the_bytes_and_cost_eight_bits_of_precision() {
    let dir = tempfile::tempdir().unwrap();
    let spec = |dtype| TrainSpec { dtype, epochs: 1, ..base() };
    let bytes = [Dtype::Native, Dtype::Bf16].map(|dtype| {
        let path = dir.path().join(format!("{dtype:?}"));
        let t = trainer("mlp:192-400-3", pictures(), &spec(dtype), false);
        save_model(&path, &t.result(), &header(&t, pictures(), &spec(dtype)), Packing::Smallest).unwrap();
        let (read, _): (Model<f32>, Header) = load_model(&path, Storage::Auto).unwrap();
        for (p, q) in t.model.params.iter().zip(&read.params) {
            let limit = if dtype == Dtype::Bf16 && p.weight() { 2f32.powi(-8) } else { 0.0 };
            assert!(p.value.data().iter().zip(q.value.data()).all(|(a, b)| (a - b).abs() <= limit * a.abs()));
        }
        std::fs::metadata(&path).unwrap().len() as f64
    });
    assert!((bytes[1] / bytes[0] - 0.5).abs() < 0.02, "{bytes:?}");
}

/// A grown connection's average starts at its value and moves with it from there.
#[test]
fn averages_follow_their_connections() {
    for storage in [Storage::Masked, Storage::Sparse] {
        let spec = TrainSpec { ema: Some(0.999), storage, ..base() };
        let mut t = trainer("mlp:192-16-3", pictures(), &spec, true);
        for _ in 0..4 {
            t.advance().unwrap();
        }
        // Steps 0 to 2 trained, step 3 redrew; without gradients it trained once more after that.
        let (p, a) = (&t.model.params[0], &t.average.as_ref().unwrap().values()[0]);
        let (values, averages) = (p.entries(&p.value), p.entries(a));
        assert_eq!(values.len(), 192 * 8);
        let grown = values.iter().filter(|v| (**v - 0.5).abs() < 0.1).count();
        assert!(grown > 192 * 3, "{grown}");
        let far = values.iter().zip(&averages).map(|(v, a)| (v - a).abs()).fold(0.0, f32::max);
        assert!(far < 0.1, "{storage:?}: an average is {far} away after four steps");
    }
}

#[test]
fn the_place_where_numbers_break_is_named() {
    let text = "mlp:192-8-8-3";
    let spec = TrainSpec { batch: 90, ..base() };
    let broken = |edit: &dyn Fn(&mut Trainer<f32>)| {
        let mut t = trainer(text, pictures(), &spec, false);
        t.advance().unwrap();
        edit(&mut t);
        t.advance().unwrap_err().to_string()
    };
    let fill = |t: &mut Trainer<f32>, at: usize, v: f32| t.model.params[at].value.data_mut().fill(v);
    let value = broken(&|t| t.model.params[2].value.data_mut()[5] = f32::NAN);
    assert!(value.contains("at step 1") && value.contains("`fc2.weight` holds"), "{value}");
    // A product of three large matrices overflows in the second.
    let activation = broken(&|t| (0..6).for_each(|i| fill(t, i, 1e25)));
    assert!(activation.contains("output of layer `fc2`"), "{activation}");
    // Tiny activations keep the loss finite where the gradient overflows on its way back.
    let gradient = broken(&|t| {
        (0..6).for_each(|i| fill(t, i, 0.0));
        fill(t, 1, 1e-30);
        fill(t, 2, 1e25);
        t.model.params[4].value.data_mut().iter_mut().enumerate().for_each(|(i, v)| *v = 1e15 * (i as f32 - 11.0));
    });
    assert!(
        gradient.contains("gradient at the output of layer `2.relu`") || gradient.contains("`3.relu`"),
        "{gradient}"
    );
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let refuse = |spec: TrainSpec, data: &'static Dataset, model: &str| {
        let build = |_: &Setting| -> nnz_core::Result<Box<dyn Sparsifier>> { Ok(Box::new(Dense)) };
        let outputs = spec.task.outputs(data.classes.len(), data.image);
        let model = ModelSpec::parse(model, data.image, outputs).unwrap();
        Trainer::<f32>::new(&model, data, &spec, 0, build).err().unwrap().to_string()
    };
    let pictures = |spec| refuse(spec, pictures(), "mlp:192-3");
    assert!(pictures(TrainSpec { clip: Some(0.0), ..base() }).contains("norm"));
    assert!(pictures(TrainSpec { ema: Some(1.0), ..base() }).contains("average"));
    assert!(pictures(TrainSpec { smoothing: 1.0, ..base() }).contains("smoothing"));
    assert!(pictures(TrainSpec { task: Task::Regression, ..base() }).contains("classes"));
    let at = |d| SparseThresholds([("fc1.weight".to_string(), d)].into());
    assert!(pictures(TrainSpec { crossovers: at(1.5), ..base() }).contains("fc1.weight"));
    assert!(pictures(TrainSpec { crossovers: at(0.5), storage: Storage::Masked, ..base() }).contains("auto"));
    let crop = Augment { crop: 20, ..Augment::default() };
    assert!(pictures(TrainSpec { augment: crop, ..base() }).contains("larger"));
    assert!(refuse(base(), numbers(), "mlp:10-2").contains("regression"));
}

/// Rows of ten numbers, mostly zero, of three classes or with two targets; `weights` may be empty.
fn weighted(rows: &[u32], weights: Vec<f64>, real: bool, sparse: bool) -> Dataset {
    let mut rng = Rng::stream(9, "weighted", 0, 0);
    let all: Vec<[f64; 10]> =
        (0..24).map(|r| std::array::from_fn(|i| if (r + i) % 3 == 0 { rng.normal() } else { 0.0 })).collect();
    let picked: Vec<[f64; 10]> = rows.iter().map(|&r| all[r as usize]).collect();
    let inputs = match sparse {
        false => Inputs::Doubles(picked.concat()),
        true => {
            let (mut starts, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
            for row in &picked {
                // In any order, and once in two parts.
                for (i, v) in row.iter().enumerate().rev().filter(|(_, v)| **v != 0.0) {
                    columns.extend([i as u32; 2]);
                    values.extend([v / 2.0; 2]);
                }
                starts.push(values.len());
            }
            Inputs::Sparse(SparseRows::new(10, starts, columns, values).unwrap())
        }
    };
    let split = match real {
        true => {
            let of = |x: &[f64; 10]| [(x[0] - x[3]) as f32, (x[1] * x[1]) as f32];
            Split::with_targets(inputs, picked.iter().flat_map(of).collect(), 2)
        }
        false => Split::new(inputs, rows.iter().map(|r| r % 3).collect()),
    };
    let names = if real { vec!["a".into(), "b".into()] } else { ["x", "y", "z"].map(String::from).to_vec() };
    let test = Split { weights: Vec::new(), ..split.clone() };
    Dataset::new("weighted", [1, 1, 10], names, split.weighted(weights), test, String::new()).unwrap()
}

/// Under a given frame, with a method that redraws half of the connections or none.
fn framed<'a>(data: &'a Dataset, spec: &TrainSpec, sparse: bool) -> Trainer<'a, f64> {
    let scales = if data.real() { vec![[0.5, 2.0]; 2] } else { Vec::new() };
    let task = if data.real() { Task::Regression } else { Task::Classification };
    let frame = Preprocessing { task, normalization: Normalization::NONE, scales };
    let outputs = task.outputs(data.classes.len(), data.image);
    let model = ModelSpec::parse(&format!("mlp:10-8-{outputs}"), data.image, outputs).unwrap();
    let build = move |s: &Setting| -> nnz_core::Result<Box<dyn Sparsifier>> {
        Ok(if sparse { Box::new(Shuffled(*s)) } else { Box::new(Dense) })
    };
    Trainer::framed(&model, frame, data, spec, 3, build).unwrap()
}

fn constant(epochs: u32, batch: usize) -> TrainSpec {
    let optimizer = OptimizerSpec::adam(0.01);
    TrainSpec { epochs, batch, optimizer, schedule: LrSchedule::Constant, warmup: 0.0, validation: 0.0, ..base() }
}

#[test]
fn a_row_of_weight_two_is_two_rows_and_one_of_weight_zero_none() {
    let weights = [2.0, 1.0, 0.0, 3.0, 1.0, 1.0];
    let of = |r: usize| std::iter::repeat_n(r as u32, weights[r % 6] as usize);
    let repeated: Vec<u32> = (0..24).flat_map(of).collect();
    let rows: Vec<u32> = (0..24).collect();
    for real in [false, true] {
        let few = weighted(&rows, (0..24).map(|r| weights[r % 6]).collect(), real, false);
        let many = weighted(&repeated, Vec::new(), real, false);
        for smoothing in [0.0, 0.1] {
            let spec = TrainSpec { smoothing: if real { 0.0 } else { smoothing }, ..constant(30, 1000) };
            let (mut one, mut other) = (framed(&few, &spec, true), framed(&many, &spec, true));
            one.run(|_, _| true).unwrap();
            other.run(|_, _| true).unwrap();
            let all =
                |t: &Trainer<f64>| t.model.params.iter().flat_map(|p| p.value.data().to_vec()).collect::<Vec<_>>();
            all(&one).iter().zip(all(&other)).for_each(|(a, b)| assert!((a - b).abs() < 1e-9, "{a} for {b}"));
            let loss = |t: &Trainer<f64>| t.position.history.iter().map(|e| e.loss).collect::<Vec<_>>();
            loss(&one).iter().zip(loss(&other)).for_each(|(a, b)| assert!((a - b).abs() < 1e-9, "{a} for {b}"));
            let measure = |t: &Trainer<f64>, data: &Dataset| {
                let rows: Vec<u32> = (0..data.train.len() as u32).collect();
                let e = t.evaluate(&data.train, &rows).unwrap();
                [e.loss, e.accuracy]
            };
            let pairs = measure(&one, &few).into_iter().zip(measure(&other, &many));
            pairs.for_each(|(a, b)| assert!((a - b).abs() < 1e-9, "{a} for {b}"));
        }
    }
    let set = |weights| {
        let split = || Split::new(Inputs::Floats(vec![0.0; 4]), vec![0, 1]);
        let names = vec!["a".into(), "b".into()];
        Dataset::new("x", [1, 1, 2], names, split().weighted(weights), split(), String::new())
            .map_err(|e| e.to_string())
    };
    assert!(set(vec![1.0]).unwrap_err().contains("1 weights for 2 rows"));
    assert!(set(vec![1.0, -1.0]).unwrap_err().contains("row 1 has weight -1"));
    // A batch in which no row counts teaches nothing, and breaks nothing.
    let none = set(vec![0.0, 0.0]).unwrap();
    let model = ModelSpec::parse("mlp:2-2", [1, 1, 2], 2).unwrap();
    let mut t: Trainer<f32> = Trainer::new(&model, &none, &constant(2, 2), 0, |_| Ok(Dense)).unwrap();
    let before = t.model.params[0].value.clone();
    t.run(|_, _| true).unwrap();
    assert_eq!(t.model.params[0].value, before);
}

#[test]
fn sparse_rows_train_bit_for_bit_as_dense_ones() {
    let rows: Vec<u32> = (0..24).collect();
    for real in [false, true] {
        let made = [false, true].map(|sparse| {
            let data = weighted(&rows, Vec::new(), real, sparse);
            let mut t = framed(&data, &constant(5, 7), true);
            t.run(|_, _| true).unwrap();
            let norm = data.normalization(&rows).unwrap();
            let values: Vec<_> = t.model.params.iter().flat_map(|p| p.value.data().to_vec()).collect();
            (values, [norm.mean, norm.std])
        });
        assert_eq!(made[0].0, made[1].0);
        made[0].1.iter().zip(made[1].1).for_each(|(a, b)| assert!((a - b).abs() < 1e-6));
    }
    for (starts, columns, values) in [
        (vec![0, 2], vec![0], vec![1.0]),
        (vec![0, 1], vec![10], vec![1.0]),
        (vec![1, 1], vec![], vec![]),
        (vec![], vec![], vec![]),
    ] {
        assert!(SparseRows::new(10, starts, columns, values).is_err());
    }
}

#[test]
fn rows_taken_up_epoch_by_epoch_train_as_one_training() {
    let rows: Vec<u32> = (0..24).collect();
    let data = weighted(&rows, Vec::new(), false, false);
    let bits = |t: &Trainer<f64>| {
        let state = t.optimizer.state.iter().flatten().flat_map(|s| s.data().to_vec());
        t.model.params.iter().flat_map(|p| p.value.data().to_vec()).chain(state).collect::<Vec<f64>>()
    };
    // 20 steps: after a multiple of three the whole training would redraw once more at its end.
    let spec = constant(4, 5);
    let mut whole = framed(&data, &spec, true);
    whole.run(|_, _| true).unwrap();
    let (mut state, mut last): (Option<Vec<u8>>, _) = (None, None);
    for epoch in 1..=4 {
        let mut t = framed(&data, &spec, true);
        if let Some(bytes) = &state {
            t.resume_bytes(bytes, "run").unwrap();
        }
        t.take_up(1).unwrap();
        assert!(t.run(|_, _| true).unwrap());
        assert_eq!((t.position.history.len(), t.position.history[epoch - 1].epoch), (epoch, epoch as u32));
        let frame = t.frame().clone();
        let head = Header {
            model: t.model.spec.clone(),
            normalization: frame.normalization,
            classes: data.classes.clone(),
            data: String::new(),
            method: String::new(),
            prunable: false.into(),
            texts: false,
            encoding: None,
            task: frame.task,
            scales: frame.scales,
            dtype: Dtype::Native,
            policy: t.policy(),
        };
        state = Some(t.to_bytes(&head, "run").unwrap());
        last = Some(bits(&t));
    }
    assert_eq!(last.unwrap(), bits(&whole));
    let losses = |t: &Trainer<f64>| t.position.history.iter().map(|e| e.loss).collect::<Vec<_>>();
    // Fewer rows than before are an epoch of their own, each seen once.
    let fewer = weighted(&rows[..12], Vec::new(), false, false);
    let mut t = framed(&fewer, &spec, true);
    t.resume_bytes(state.as_deref().unwrap(), "run").unwrap();
    t.take_up(1).unwrap();
    let mut seen = Vec::new();
    t.run(|t, p| {
        seen.push((t.position.rows_seen, p.finished.is_some(), p.epochs));
        true
    })
    .unwrap();
    assert_eq!(seen, [(5.0, false, (5, 5)), (10.0, false, (5, 5)), (0.0, true, (5, 5))]);
    assert_eq!(losses(&t)[..4], losses(&whole)[..]);
    let cosine = TrainSpec { schedule: LrSchedule::Cosine, ..spec.clone() };
    assert!(framed(&data, &cosine, true).take_up(1).unwrap_err().to_string().contains("constant"));
    // A training that begins with a network keeps its connections, and refuses one of another shape.
    let mut next = framed(&data, &spec, true);
    next.begin_with(whole.model.clone()).unwrap();
    assert_eq!(next.model.params[0].topology(), whole.model.params[0].topology());
    next.run(|_, _| true).unwrap();
    let real = weighted(&rows, Vec::new(), true, false);
    assert!(framed(&real, &spec, true).begin_with(whole.model.clone()).is_err());
}
