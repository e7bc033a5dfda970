//! Weights that are made of leaves: factors give what their product gives, in less memory, and what a step holds is counted.

use nnz_core::{
    Array, Dense, Edit, Leaf, MethodInstance, Moment, Parametrization, Rng, Shape, Topology, UpdateRule, Variable,
    Weight,
};
use nnz_engine::data::{Dataset, Inputs, Split};
use nnz_engine::{ModelSpec, Number, OptimizerSpec, TrainSpec, Trainer};

fn pictures() -> Dataset {
    let split = |stream| {
        let mut rng = Rng::stream(1, "pixels", stream, 0);
        let bytes = (0..64 * 2 * 36).map(|_| rng.below(256) as u8).collect();
        Split::new(Inputs::Bytes(bytes), (0..64).map(|r| r % 3).collect())
    };
    let classes = ["a", "b", "c"].map(String::from).to_vec();
    Dataset::new("pixels", [2, 6, 6], classes, split(0), split(1), "test".into()).unwrap()
}

/// W = A B, as factors or multiplied out.
struct Pair {
    rank: usize,
    factors: bool,
}

impl Parametrization for Pair {
    fn leaves(&self, shape: &Shape, _: &[f64]) -> Vec<Leaf> {
        let leaf = |name, rows: usize, cols: usize, stream| {
            let mut rng = Rng::stream(2, "pair", stream, 0);
            let values = (0..rows * cols).map(|_| 0.2 * rng.normal()).collect();
            Leaf { name, dims: vec![rows, cols], values, decays: true }
        };
        vec![leaf("a", shape.rows, self.rank, 0), leaf("b", self.rank, shape.cols, 1)]
    }

    fn weight(&self, _: Moment, _: &Shape, leaves: &[Variable]) -> Weight {
        let (a, b) = (&leaves[0], &leaves[1]);
        match self.factors {
            true => Weight::Factors(vec![(**a).clone(), (**b).clone()]),
            false => Weight::Matrix(a.dot(b)),
        }
    }

    fn until(&self) -> u64 {
        20
    }
}

const NETWORK: &str = r#"{"name": "net", "input": [2, 6, 6], "layers": [
    {"layer": "conv2d", "name": "c1", "inputs": 2, "outputs": 8, "kernel": 3, "padding": 1},
    {"layer": "relu"},
    {"layer": "conv2d", "name": "c2", "inputs": 8, "outputs": 8, "kernel": 3, "groups": 2, "bias": false},
    {"layer": "flatten"},
    {"layer": "linear", "name": "fc1", "inputs": 128, "outputs": 48},
    {"layer": "relu"},
    {"layer": "linear", "name": "fc2", "inputs": 48, "outputs": 3}]}"#;

fn spec() -> TrainSpec {
    let optimizer = OptimizerSpec::Adam { lr: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
    TrainSpec { epochs: 6, batch: 16, optimizer, clip: Some(1.0), validation: 0.2, ..TrainSpec::default() }
}

fn train<'a, T: Number>(data: &'a Dataset, make: impl FnOnce() -> MethodInstance) -> Trainer<'a, T> {
    let model: ModelSpec = serde_json::from_str(NETWORK).unwrap();
    Trainer::new(&model, data, &spec(), 0, |_| Ok(make())).unwrap()
}

fn pair(rank: usize, factors: bool) -> MethodInstance {
    MethodInstance { parametrization: Some(Box::new(Pair { rank, factors })), ..MethodInstance::from(Dense) }
}

#[test]
fn factors_give_what_their_product_gives() {
    let data = pictures();
    let run = |factors: bool| {
        let mut t: Trainer<f64> = train(&data, || pair(2, factors));
        for step in 0..24 {
            let formed = t.model.params.iter().filter(|p| p.prunable && p.value.len() == p.shape.len()).count();
            assert_eq!(formed, if factors && step <= 20 { 0 } else { 3 }, "step {step}");
            // All entries exist, wherever they lie.
            assert_eq!((t.model.density(), t.model.nonzeros()), (1.0, 8 * 18 + 8 * 36 + 48 * 128 + 3 * 48));
            t.advance().unwrap();
        }
        t
    };
    let (apart, whole) = (run(true), run(false));
    assert!(apart.position.history.iter().zip(&whole.position.history).all(|(a, b)| (a.loss - b.loss).abs() < 1e-9));
    for (a, b) in apart.model.params.iter().zip(&whole.model.params) {
        let far = a.value.data().iter().zip(b.value.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(far < 1e-9, "{} differs by {far}", a.shape.name);
    }
    assert!(apart.position.multiply_adds < 0.5 * whole.position.multiply_adds);
    // The result of a training under way is plain.
    let mut early: Trainer<f64> = train(&data, || pair(2, true));
    early.advance().unwrap();
    let plain = early.result().into_owned();
    assert!(plain.params.iter().all(|p| p.value.len() == p.shape.len()));
    let rows: Vec<u32> = (0..64).collect();
    let by_factors = early.evaluate(&data.test, &rows).unwrap();
    let by_product = nnz_engine::evaluate(&plain, &data, &data.test, &rows, early.frame()).unwrap();
    assert!((by_factors.loss - by_product.loss).abs() < 1e-12 && by_factors.loss > 0.0);
}

#[test]
fn factors_take_less_memory_and_runs_keep_their_own_numbers() {
    let data = pictures();
    fn peak<T: Number>(data: &Dataset, method: MethodInstance) -> (usize, usize) {
        let mut t: Trainer<T> = train(data, || method);
        (0..3).for_each(|_| _ = t.advance().unwrap());
        (t.peak_bytes(), t.optimizer_bytes())
    }
    let (apart, whole) = (peak::<f32>(&data, pair(1, true)), peak::<f32>(&data, pair(1, false)));
    let formed = 4 * (8 * 18 + 48 * 128);
    assert!(apart.0 + formed < whole.0, "{apart:?} {whole:?}");
    // Two moments of every leaf and of what is plain.
    let leaves = (8 + 18) + (8 + 36) + (48 + 128);
    assert_eq!(apart.1, 2 * 4 * (leaves + 8 + 48 + 3 * 48 + 3));
    let wide = peak::<f64>(&data, pair(1, true));
    assert_eq!(wide.1, 2 * apart.1);
    assert!(wide.0 > 2 * apart.0 - 4 * 16 * 16, "only labels are not twice as long: {wide:?} {apart:?}");
    // More than what lies between two steps.
    let mut dense: Trainer<f32> = train(&data, || Dense.into());
    dense.advance().unwrap();
    let between = dense.model.bytes() + dense.optimizer_bytes() + 4 * 16 * 72;
    assert!(dense.peak_bytes() > between + dense.model.bytes(), "{} {between}", dense.peak_bytes());
}

/// Moves the first row that it was ever shown a gradient of, and counts.
struct FirstRow;

impl UpdateRule for FirstRow {
    fn slots(&self) -> usize {
        1
    }

    fn update(&self, weight: &mut dyn Array, gradient: &dyn Array, state: &mut [&mut dyn Array], lr: f64, count: u64) {
        let cols = weight.dims()[1];
        // As long as there were updates.
        let before = state[0].get(0..state[0].dims()[0]);
        state[0].reset(&[count as usize]);
        state[0].set(0, &before);
        state[0].set(count as usize - 1, &[count as f64]);
        let moved: Vec<f64> = weight.get(0..cols).iter().zip(gradient.get(0..cols)).map(|(w, g)| w - lr * g).collect();
        weight.set(0, &moved);
    }
}

#[test]
fn a_rule_of_a_methods_own_moves_its_weights_and_travels() {
    let data = pictures();
    let make = || MethodInstance { rule: Some(Box::new(FirstRow)), ..MethodInstance::from(Dense) };
    let mut t: Trainer<f32> = train(&data, make);
    let before = t.model.clone();
    (0..5).for_each(|_| _ = t.advance().unwrap());
    for (i, (a, b)) in t.model.params.iter().zip(&before.params).enumerate() {
        let cols = a.shape.cols;
        let moved: Vec<bool> = a.value.data().iter().zip(b.value.data()).map(|(a, b)| a != b).collect();
        match a.prunable {
            true => {
                assert!(moved[..cols].contains(&true) && !moved[cols..].contains(&true), "{}", a.shape.name);
                assert_eq!(t.optimizer.state[i][0].data(), [1.0, 2.0, 3.0, 4.0, 5.0]);
            }
            false => assert_eq!(t.optimizer.state[i].len(), 2),
        }
    }
    let plain = 2 * 4 * (8 + 48 + 3 * 48 + 3);
    assert_eq!(t.optimizer_bytes(), plain + 3 * 5 * 4);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint.safetensors");
    let frame = t.frame().clone();
    let header = nnz_engine::file::Header {
        model: t.model.spec.clone(),
        normalization: frame.normalization,
        classes: data.classes.clone(),
        data: data.name.clone(),
        method: "test".into(),
        prunable: false.into(),
        texts: false,
        task: frame.task,
        scales: frame.scales,
        dtype: Default::default(),
        encoding: None,
        policy: t.policy(),
    };
    t.save(&path, &header, "run").unwrap();
    let mut again: Trainer<f32> = train(&data, make);
    again.resume(&path, "run").unwrap();
    assert!(t.run(|_, _| true).unwrap() && again.run(|_, _| true).unwrap());
    assert!(t.optimizer.state == again.optimizer.state && t.position == again.position);
    assert!(t.model.params.iter().zip(&again.model.params).all(|(a, b)| a.value == b.value));
    // A checkpoint of other leaves is refused in a sentence.
    let mut factors: Trainer<f32> = train(&data, || pair(2, true));
    factors.advance().unwrap();
    factors.save(&path, &header, "run").unwrap();
    let mut single: Trainer<f32> =
        train(&data, || MethodInstance { parametrization: Some(Box::new(Single)), ..MethodInstance::from(Dense) });
    let refused = single.resume(&path, "run").unwrap_err().to_string();
    assert!(refused.contains("other leaves"), "{refused}");
}

/// A plain weight.
struct Single;

impl Parametrization for Single {
    fn leaves(&self, shape: &Shape, weight: &[f64]) -> Vec<Leaf> {
        vec![Leaf { name: "w", dims: vec![shape.rows, shape.cols], values: weight.to_vec(), decays: true }]
    }

    fn weight(&self, _: Moment, _: &Shape, leaves: &[Variable]) -> Weight {
        Weight::Matrix((*leaves[0]).clone())
    }

    fn until(&self) -> u64 {
        u64::MAX
    }

    fn freeze(&self, shape: &Shape, leaves: &[Leaf]) -> Option<Edit> {
        let topology = Topology::full(shape.rows, shape.cols);
        Some(Edit::Set { topology, values: leaves[0].values.clone() })
    }
}

/// A weight that is its own leaf trains as a plain one does, to the bit.
#[test]
fn a_leaf_that_is_the_weight_changes_nothing() {
    let data = pictures();
    let run = |method: MethodInstance| {
        let mut t: Trainer<f32> = train(&data, || method);
        t.run(|_, _| true).unwrap();
        t.model.params.iter().map(|p| p.value.clone()).collect::<Vec<_>>()
    };
    let single = MethodInstance { parametrization: Some(Box::new(Single)), ..MethodInstance::from(Dense) };
    assert!(run(single) == run(Dense.into()));
}
