//! Whole networks: every kind trains, keeps its files, agrees between storages; derivatives and optimizers on them.

use nnz_core::{Pattern, Rng, Shape, Topology};
use nnz_engine::derivatives::{hvp, per_sample_gradients};
use nnz_engine::file::{Header, Packing, load_model, load_model_with, save_model};
use nnz_engine::layers::Context;
use nnz_engine::ops::Rank;
use nnz_engine::{
    Average, Cache, CustomLayer, Init, LayerSpec, Layers, Layout, LbfgsOptions, Mode, Model, ModelSpec, Optimizer,
    OptimizerSpec, ParamSpec, Pass, Real, Role, Storage, Taps, Tensor, Var, clip_by_norm, lbfgs, ops,
};
use std::sync::Arc;

const PICTURES: [&str; 10] = [
    "mlp:192-12-3",
    "vgg-small",
    "resnet8",
    "mobilenet-small",
    "transformer:8-2-2-4",
    "toml",
    "gates",
    "times",
    "volumes",
    "wider",
];

/// A network with the layers that the named ones lack.
const TOML: &str = r#"
name = "toml"
input = [3, 8, 8]

[[layers]]
layer = "conv2d"
name = "conv"
inputs = 3
outputs = 6
kernel = 3
padding = 1
groups = 3

[[layers]]
layer = "group-norm"
name = "norm"
channels = 6
groups = 2

[[layers]]
layer = "activation"
function = "silu"

[[layers]]
layer = "avg-pool"
size = 2

[[layers]]
layer = "residual"
name = "block"

[[layers.body]]
layer = "dropout"
p = 0.25

[[layers.body]]
layer = "conv2d"
name = "inner"
inputs = 6
outputs = 6
kernel = 3
padding = 2
dilation = 2

[[layers]]
layer = "tokens"

[[layers]]
layer = "attention"
name = "attention"
width = 6
heads = 3
groups = 1
causal = false
rotary = true

[[layers]]
layer = "rms-norm"
name = "rms"
width = 6

[[layers]]
layer = "flatten"

[[layers]]
layer = "linear"
name = "head"
inputs = 96
outputs = 3
"#;

/// Recurrent layers with gates, after a convolution along the lines of the image.
const GATES: &str = r#"
name = "gates"
input = [3, 8, 8]
layers = [
    { layer = "reshape", shape = [8, 24] },
    { layer = "conv1d", name = "conv", inputs = 24, outputs = 8, kernel = 3, padding = 1 },
    { layer = "recurrent", name = "gru", cell = "gru", inputs = 8, outputs = 8 },
    { layer = "recurrent", name = "lstm", cell = "lstm", inputs = 8, outputs = 8 },
    { layer = "flatten" },
    { layer = "linear", name = "head", inputs = 64, outputs = 3 },
]
"#;

/// Recurrent layers without gates; every third number is the time between positions.
const TIMES: &str = r#"
name = "times"
input = [3, 8, 8]
layers = [
    { layer = "tokens" },
    { layer = "recurrent", name = "cfc", cell = "cfc", inputs = 2, outputs = 6, elapsed = true },
    { layer = "recurrent", name = "rnn", cell = "rnn", inputs = 6, outputs = 6 },
    { layer = "flatten" },
    { layer = "linear", name = "head", inputs = 384, outputs = 3 },
]
"#;

const VOLUMES: &str = r#"
name = "volumes"
input = [3, 8, 8]
layers = [
    { layer = "reshape", shape = [4, 4, 4, 3] },
    { layer = "conv3d", name = "conv", inputs = 3, outputs = 4, kernel = 2 },
    { layer = "relu" },
    { layer = "conv-transposed3d", name = "up", inputs = 4, outputs = 2, kernel = 2, stride = 2 },
    { layer = "upsample", factor = 2 },
    { layer = "conv3d", name = "down", inputs = 2, outputs = 4, kernel = 4, stride = 4 },
    { layer = "flatten" },
    { layer = "linear", name = "head", inputs = 108, outputs = 3 },
]
"#;

/// Upsampled images and sequences.
const WIDER: &str = r#"
name = "wider"
input = [3, 8, 8]
layers = [
    { layer = "conv2d", name = "down", inputs = 3, outputs = 4, kernel = 3, padding = 1, stride = 2 },
    { layer = "activation", function = "silu" },
    { layer = "conv-transposed2d", name = "up", inputs = 4, outputs = 4, kernel = 2, stride = 2, groups = 2 },
    { layer = "upsample", factor = 2, linear = true },
    { layer = "conv2d", name = "cut", inputs = 4, outputs = 4, kernel = 4, stride = 4 },
    { layer = "tokens" },
    { layer = "conv-transposed1d", name = "line", inputs = 4, outputs = 3, kernel = 3, stride = 2, padding = 1, bias = false },
    { layer = "flatten" },
    { layer = "linear", name = "head", inputs = 93, outputs = 3 },
]
"#;

fn spec(name: &str) -> ModelSpec {
    match name {
        "toml" | "gates" | "times" | "volumes" | "wider" => {
            let text =
                [TOML, GATES, TIMES, VOLUMES, WIDER].into_iter().find(|t| t.contains(&format!("name = \"{name}\"")));
            let spec: ModelSpec = toml::from_str(text.unwrap()).unwrap();
            spec.check(3).unwrap();
            assert_eq!(toml::from_str::<ModelSpec>(&toml::to_string(&spec).unwrap()).unwrap(), spec);
            spec
        }
        "causal-transformer:11-8-2-2" => ModelSpec::parse(name, [1, 1, 6], 3).unwrap(),
        _ => ModelSpec::parse(name, [3, 8, 8], 3).unwrap(),
    }
}

fn births(spec: &ModelSpec, density: f64) -> Vec<Topology> {
    let shapes: Vec<Shape> = spec.weights().into_iter().filter(|s| !s.head).collect();
    let draw = |(i, s): (usize, &Shape)| {
        let count = ((density * s.len() as f64) as usize).max(1);
        Pattern::Unstructured.random(s, count, &mut Rng::stream(0, "birth", i as u64, 0))
    };
    shapes.iter().enumerate().map(draw).collect()
}

/// Inputs of three classes that differ by a pattern, `[rows, features]`; tokens for the causal network.
fn batch<T: Real>(spec: &ModelSpec, rows: usize, stream: u64) -> (Tensor<T>, Vec<u32>) {
    let features: usize = spec.input.iter().product();
    let mut rng = Rng::stream(1, "rows", stream, 0);
    let labels: Vec<u32> = (0..rows).map(|r| r as u32 % 3).collect();
    let tokens = spec.name.starts_with("causal");
    let entry = |r: usize, f: usize, rng: &mut Rng| match tokens {
        true if f % 2 == 1 => (labels[r] * 3) as f64,
        true => rng.below(11) as f64,
        false => rng.normal() * 0.5 + if f % 3 == labels[r] as usize { 1.0 } else { 0.0 } * (f / 3 % 5) as f64 / 2.0,
    };
    let data = (0..rows * features).map(|i| T::of(entry(i / features, i % features, &mut rng))).collect();
    (Tensor::new(&[rows, features], data), labels)
}

fn leaves<T: Real>(model: &Model<T>) -> Vec<Var<T>> {
    model.params.iter().map(|p| Var::leaf(p.value.clone())).collect()
}

fn pass<'a, T>(mode: Mode) -> Pass<'a, T> {
    Pass { mode, ..Default::default() }
}

/// Makes one step of training; returns the loss.
fn step<T: Real>(model: &mut Model<T>, optimizer: &mut Optimizer<T>, at: u64, lr: f64) -> f64 {
    let (x, labels) = batch::<T>(&model.spec, 12, at % 4);
    let l = leaves(model);
    let (y, effects) = model.forward(&Var::constant(x), &l, pass(Mode::Train { seed: 3, step: at })).unwrap();
    let loss = ops::cross_entropy(&y, &labels);
    let value = loss.value().data()[0].f64();
    let mut found = loss.backward(false).unwrap();
    for (i, p) in model.params.iter_mut().enumerate() {
        let mut g = found.take(&l[i]).unwrap_or_else(|| Tensor::zeros(p.value.shape()));
        p.mask_gradient(&mut g);
        optimizer.update(i, p, &g, lr, at + 1);
    }
    model.absorb(&effects.statistics);
    value
}

#[test]
fn every_network_learns_three_patterns_sparse() {
    for name in PICTURES.into_iter().chain(["causal-transformer:11-8-2-2"]) {
        let spec = spec(name);
        for storage in [Storage::Masked, Storage::Sparse] {
            let mut model: Model<f32> = Model::born(&spec, Some(births(&spec, 0.5)), storage, false, 1).unwrap();
            let mut optimizer = Optimizer::new(OptimizerSpec::adamw(0.01), &model.params);
            let before = model.density();
            let losses: Vec<f64> = (0..40).map(|t| step(&mut model, &mut optimizer, t, 0.01)).collect();
            let mean = |l: &[f64]| l.iter().sum::<f64>() / l.len() as f64;
            let (first, last) = (mean(&losses[..4]), mean(&losses[36..]));
            assert!(last < 0.6 * first, "{name} {storage:?}: {first} to {last}");
            assert_eq!(model.density(), before, "{name}");
            assert!((before - 0.5).abs() < 0.05, "{name}: norms, biases and embeddings are no weights, {before}");
            let (x, labels) = batch::<f32>(&spec, 12, 1);
            let y = model.infer(x).unwrap();
            let right =
                y.data().chunks(3).zip(&labels).filter(|(r, l)| (0..3).all(|c| r[**l as usize] >= r[c])).count();
            assert!(right >= 9, "{name} {storage:?}: {right} of 12 right with running statistics");
        }
    }
}

#[test]
fn every_parameter_gets_the_gradient_of_finite_differences() {
    for name in PICTURES.into_iter().chain(["causal-transformer:11-8-2-2"]) {
        let spec = spec(name);
        let mut model: Model<f64> = Model::born(&spec, Some(births(&spec, 0.5)), Storage::Sparse, false, 1).unwrap();
        let (x, labels) = batch::<f64>(&spec, 3, 0);
        let mode = Mode::Train { seed: 0, step: 0 };
        let loss = |model: &Model<f64>, l: &[Var<f64>]| {
            ops::cross_entropy(&model.forward(&Var::constant(x.clone()), l, pass(mode)).unwrap().0, &labels)
        };
        let l = leaves(&model);
        let mut found = loss(&model, &l).backward(false).unwrap();
        let mut rng = Rng::stream(0, "entry", 0, 0);
        for i in 0..model.params.len() {
            let p = &model.params[i];
            if p.role == Role::Buffer {
                assert!(found.take(&l[i]).is_none(), "{name}: `{}` is trained", p.shape.name);
                continue;
            }
            let g = found.take(&l[i]).unwrap_or_else(|| panic!("{name}: `{}` gets no gradient", p.shape.name));
            let j = rng.below(g.len() as u64) as usize;
            let mut at = |by: f64| {
                model.params[i].value.data_mut()[j] += by;
                loss(&model, &leaves(&model)).value().data()[0]
            };
            let (h, up) = (1e-6, at(1e-6));
            let slope = (up - at(-2.0 * h)) / (2.0 * h);
            at(h);
            let got = g.data()[j];
            let place = &model.params[i].shape.name;
            assert!((got - slope).abs() < 1e-5 * (1.0 + slope.abs()), "{name} {place}: {got}, not {slope}");
        }
    }
}

#[test]
fn storages_agree_in_output_and_gradient() {
    for name in PICTURES {
        let spec = spec(name);
        let run = |storage| {
            let model: Model<f64> = Model::born(&spec, Some(births(&spec, 0.3)), storage, false, 1).unwrap();
            let (x, labels) = batch::<f64>(&spec, 4, 0);
            let l = leaves(&model);
            let y = model.forward(&Var::constant(x), &l, pass(Mode::Train { seed: 0, step: 0 })).unwrap().0;
            let mut found = ops::cross_entropy(&y, &labels).backward(false).unwrap();
            let of = |(p, l): (&nnz_engine::Param<f64>, &Var<f64>)| found.take(l).map_or(Vec::new(), |g| p.entries(&g));
            let gradients: Vec<Vec<f64>> = model.params.iter().zip(&l).map(of).collect();
            (y.value().data().to_vec(), gradients.concat())
        };
        let ((y, g), (y2, g2)) = (run(Storage::Masked), run(Storage::Sparse));
        let near = |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9);
        assert!(near(&y, &y2) && near(&g, &g2), "{name}");
    }
}

#[test]
fn files_keep_every_network_with_its_running_statistics() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    for name in PICTURES {
        let spec = spec(name);
        let mut model: Model<f32> = Model::born(&spec, Some(births(&spec, 0.3)), Storage::Auto, false, 1).unwrap();
        let mut optimizer = Optimizer::new(OptimizerSpec::sgd(0.01), &model.params);
        step(&mut model, &mut optimizer, 0, 0.01);
        let moved = model.params.iter().filter(|p| p.role == Role::Buffer);
        assert!(moved.clone().all(|p| p.value.data().iter().any(|&v| v != 0.0 && v != 1.0)), "{name}: statistics rest");
        let header = super::storage::header(&model);
        save_model(&path, &model, &header, Packing::Csr).unwrap();
        let (read, head): (Model<f32>, Header) = load_model(&path, Storage::Auto).unwrap();
        assert_eq!(head, header);
        for (a, b) in model.params.iter().zip(&read.params) {
            assert_eq!((&a.value, &a.layout, &a.shape, a.role), (&b.value, &b.layout, &b.shape, b.role), "{name}");
        }
        let (x, _) = batch::<f32>(&spec, 5, 0);
        assert_eq!(model.infer(x.clone()).unwrap(), read.infer(x).unwrap());
    }
}

/// Runs rows of `width` numbers in parts of the given positions and concatenates the outputs.
fn in_parts(model: &Model<f64>, x: &Tensor<f64>, channels: usize, parts: &[usize]) -> nnz_engine::Result<Tensor<f64>> {
    let (cache, constants) = (Cache::new(), leaves(model));
    let (mut from, mut outputs) = (0, Vec::new());
    for part in parts {
        let to = from + part * channels;
        let x = ops::slice(&Var::constant(x.clone()), 1, from..to);
        outputs.push(model.forward(&x, &constants, Pass { cache: Some(&cache), ..Default::default() })?.0);
        from = to;
    }
    assert_eq!(cache.seen(), parts.iter().sum::<usize>());
    Ok(ops::concat(&outputs.iter().collect::<Vec<_>>(), 1).value().clone())
}

#[test]
fn a_causal_network_runs_token_by_token() {
    let mut rotary = ModelSpec::parse("causal-transformer:11-8-2-4", [1, 1, 7], 3).unwrap();
    rotary.layers.retain(|l| !matches!(l, LayerSpec::Last(_)));
    let text = toml::to_string(&rotary).unwrap();
    let grouped = text.replace("heads = 4\n", "heads = 4\ngroups = 2\n");
    assert_eq!(grouped.matches("groups = 2").count(), 2);
    let learned = text.replace("rotary = true", "rotary = false").replacen(
        "[[layers]]\nlayer = \"residual\"",
        "[[layers]]\nlayer = \"positions\"\nname = \"positions\"\nlength = 7\nwidth = 8\n\n[[layers]]\nlayer = \"residual\"",
        1,
    );
    let states = r#"
        name = "states"
        input = [2, 1, 7]
        layers = [
            { layer = "tokens" },
            { layer = "recurrent", name = "gru", cell = "gru", inputs = 2, outputs = 3 },
            { layer = "recurrent", name = "lstm", cell = "lstm", inputs = 3, outputs = 3 },
            { layer = "linear", name = "head", inputs = 3, outputs = 2 },
        ]"#;
    for text in [&text, &grouped, &learned, states] {
        let spec: ModelSpec = toml::from_str(text).unwrap();
        let density = births(&spec, 0.5);
        let model: Model<f64> = Model::born(&spec, Some(density), Storage::Sparse, false, 1).unwrap();
        let channels = spec.input[0];
        let x = Tensor::new(&[2, 7 * channels], (0..14 * channels).map(|i| (i * 5 % 11) as f64).collect());
        let whole = model.infer(x.clone()).unwrap();
        assert_eq!(whole.shape()[..2], [2, 7], "{text}");
        for parts in [&[1; 7][..], &[4, 3], &[2, 1, 4], &[7]] {
            let y = in_parts(&model, &x, channels, parts).unwrap();
            let far = y.zip(&whole, |a, b| (a - b).abs()).data().iter().fold(0.0f64, |m, &d| m.max(d));
            assert!(far < 1e-12, "{parts:?}: off by {far}\n{text}");
        }
        let long = in_parts(&model, &Tensor::zeros(&[1, 8 * channels]), channels, &[8]).unwrap_err().to_string();
        assert!(long.contains("position 8") && long.contains("takes 7"), "{long}");
        let cache = Cache::new();
        let next = |rows: usize| {
            let x = Var::constant(Tensor::zeros(&[rows, channels]));
            model.forward(&x, &leaves(&model), Pass { cache: Some(&cache), ..Default::default() })
        };
        next(2).unwrap();
        assert!(next(3).err().unwrap().to_string().contains("does not continue 2 sequences"));
    }
    for name in ["transformer:8-2-2-4", "toml", "mlp:192-12-3", "gates"] {
        let model: Model<f64> = Model::born(&spec(name), None, Storage::Auto, false, 1).unwrap();
        let error = in_parts(&model, &Tensor::zeros(&[1, 192]), 3, &[64]).unwrap_err().to_string();
        assert!(error.contains("cannot be run in parts"), "{error}");
    }
}

/// Growth by gradient sees the gradient of a recurrent weight summed over all positions, under sparse storage as under masked.
#[test]
fn zeros_of_a_recurrent_weight_are_scored_over_all_positions() {
    let spec = spec("gates");
    let (x, labels) = batch::<f64>(&spec, 4, 0);
    let found = |storage| {
        let model: Model<f64> = Model::born(&spec, Some(births(&spec, 0.3)), storage, false, 1).unwrap();
        let at = model.params.iter().position(|p| p.shape.name == "gru.state.weight").unwrap();
        let probe = Arc::new(ops::ZeroProbe { count: 5, ..Default::default() });
        let probes: Vec<_> = (0..model.params.len()).map(|i| (i == at).then(|| probe.clone())).collect();
        let l = leaves(&model);
        let y = model.forward(&Var::constant(x.clone()), &l, Pass { probes: &probes, ..Default::default() }).unwrap().0;
        let mut g = ops::cross_entropy(&y, &labels).backward(false).unwrap();
        match &model.params[at].layout {
            Layout::Masked(mask) => ops::top_zeros(&g.take(&l[at]).unwrap(), |p| mask.get(p), 5),
            _ => std::mem::take(&mut *probe.found.lock().unwrap()),
        }
    };
    let (masked, sparse) = (found(Storage::Masked), found(Storage::Sparse));
    assert_eq!(masked.len(), 5);
    assert_eq!(format!("{masked:?}"), format!("{sparse:?}"));
}

#[test]
fn batches_of_no_row_and_of_one_are_handled_by_every_network() {
    for name in PICTURES.into_iter().chain(["causal-transformer:11-8-2-2"]) {
        let spec = spec(name);
        for (rows, storage) in [0, 1].into_iter().flat_map(|r| [(r, Storage::Masked), (r, Storage::Sparse)]) {
            let mut model: Model<f32> = Model::born(&spec, Some(births(&spec, 0.5)), storage, false, 1).unwrap();
            let (x, labels) = batch::<f32>(&spec, rows, 0);
            assert_eq!(model.infer(x.clone()).unwrap().shape(), [rows, 3], "{name}");
            let l = leaves(&model);
            let mode = Mode::Train { seed: 0, step: 0 };
            let (y, effects) = model.forward(&Var::constant(x), &l, pass(mode)).unwrap();
            let loss = ops::cross_entropy(&y, &labels);
            assert!(loss.value().data()[0].is_finite(), "{name}: {rows} rows");
            let mut found = loss.backward(false).unwrap();
            model.absorb(&effects.statistics);
            for (p, l) in model.params.iter().zip(&l) {
                let g = found.take(l).unwrap_or_else(|| Tensor::zeros(l.shape()));
                let whole = g.data().iter().chain(p.value.data()).all(|v| v.is_finite());
                assert!(whole && g.shape() == p.value.shape(), "{name}: {} over {rows} rows", p.shape.name);
            }
        }
    }
}

#[test]
fn tokens_outside_the_vocabulary_are_refused() {
    let spec = spec("causal-transformer:11-8-2-2");
    let model: Model<f32> = Model::born(&spec, None, Storage::Auto, false, 1).unwrap();
    for bad in [11.0, -1.0, 0.5, f32::NAN] {
        let error = model.infer(Tensor::full(&[1, 6], bad)).unwrap_err().to_string();
        assert!(error.contains("no token below 11"), "{error}");
    }
}

#[test]
fn weights_do_not_depend_on_what_else_a_network_has() {
    let first =
        |name: &str| Model::<f32>::born(&spec(name), None, Storage::Auto, false, 1).unwrap().params[0].value.clone();
    assert_eq!(first("resnet8"), first("mobilenet-small"));
}

#[test]
fn taps_read_and_replace_activations_and_gradients() {
    let spec = spec("mlp:192-12-3");
    let model: Model<f64> = Model::born(&spec, None, Storage::Auto, false, 1).unwrap();
    let (x, labels) = batch::<f64>(&spec, 4, 0);
    let run = |taps: &Taps<f64>| {
        let l = leaves(&model);
        let y = model.forward(&Var::constant(x.clone()), &l, Pass { taps: Some(taps), ..Default::default() })?.0;
        let mut g = ops::cross_entropy(&y, &labels).backward(false)?;
        let out = y.value().clone();
        Ok::<_, nnz_engine::Error>((out, g.take(&l[0]), g.take(&l[2]).unwrap()))
    };
    assert_eq!(spec.taps(), ["0.flatten", "fc1", "2.relu", "fc2"]);
    let taps = Taps::new().read("2.relu").read("fc2");
    let (plain, first, _) = run(&taps).unwrap();
    assert_eq!(taps.activation("fc2").unwrap(), plain);
    let (hidden, gradient) = (taps.activation("2.relu").unwrap(), taps.gradient("fc2").unwrap());
    assert!(hidden.shape() == [4, 12] && hidden.data().iter().all(|&v| v >= 0.0));
    // The gradient of the mean cross-entropy sums to zero over the classes.
    assert!(gradient.data().chunks(3).all(|r| r.iter().sum::<f64>().abs() < 1e-12 && r[0] != 0.0));
    // Without hidden units the output is the bias, and nothing reaches the first layer.
    let ablated = Taps::new().replace("2.relu", |x| ops::scale(x, 0.0));
    let (y, g, _) = run(&ablated).unwrap();
    assert!(y.data().iter().all(|&v| v == 0.0) && g.unwrap().data().iter().all(|&v| v == 0.0));
    // A doubled gradient doubles those before it and leaves the rest.
    let doubled = Taps::new().replace_gradient("2.relu", |g| ops::scale(g, 2.0));
    let (y, g, _) = run(&doubled).unwrap();
    let twice = g.unwrap().zip(&first.unwrap(), |a, b| (a - 2.0 * b).abs());
    assert!(y == plain && twice.data().iter().all(|&d| d < 1e-15));
    let error = run(&Taps::new().read("fc3")).unwrap_err().to_string();
    assert!(error.contains("`fc3`") && error.contains("0.flatten, fc1, 2.relu, fc2"), "{error}");
}

#[test]
fn hessian_vector_products_are_slopes_of_the_gradient() {
    for name in ["resnet8", "transformer:8-2-2-4"] {
        let spec = spec(name);
        let model: Model<f64> = Model::born(&spec, Some(births(&spec, 0.3)), Storage::Sparse, false, 1).unwrap();
        let (x, labels) = batch::<f64>(&spec, 3, 0);
        let loss = |l: &[Var<f64>]| -> nnz_engine::Result<Var<f64>> {
            let y = model.forward(&Var::constant(x.clone()), l, pass(Mode::Train { seed: 0, step: 0 }))?.0;
            Ok(ops::cross_entropy(&y, &labels))
        };
        let at: Vec<Tensor<f64>> = model.params.iter().map(|p| p.value.clone()).collect();
        let mut rng = Rng::stream(0, "direction", 0, 0);
        let v: Vec<Tensor<f64>> =
            at.iter().map(|t| Tensor::new(t.shape(), (0..t.len()).map(|_| rng.normal()).collect())).collect();
        let got = hvp(loss, &at, &v).unwrap();
        let gradient = |by: f64| -> Vec<Tensor<f64>> {
            let l: Vec<Var<f64>> = at.iter().zip(&v).map(|(t, v)| Var::leaf(t.zip(v, |t, v| t + by * v))).collect();
            let mut g = loss(&l).unwrap().backward(false).unwrap();
            l.iter().map(|l| g.take(l).unwrap_or_else(|| Tensor::zeros(l.shape()))).collect()
        };
        let (up, down) = (gradient(1e-6), gradient(-1e-6));
        let (mut off, mut size) = (0.0, 0.0);
        for ((h, u), d) in got.iter().zip(&up).zip(&down) {
            for ((h, u), d) in h.data().iter().zip(u.data()).zip(d.data()) {
                off += (h - (u - d) / 2e-6).powi(2);
                size += h * h;
            }
        }
        assert!(size > 0.0 && off < 1e-8 * size, "{name}: off by {off} of {size}");
    }
}

#[test]
fn gradients_of_single_rows_add_up() {
    let spec = spec("mlp:192-12-3");
    let model: Model<f64> = Model::born(&spec, None, Storage::Auto, false, 1).unwrap();
    let (x, labels) = batch::<f64>(&spec, 5, 0);
    let at: Vec<Tensor<f64>> = model.params.iter().map(|p| p.value.clone()).collect();
    let rows = per_sample_gradients(5, &at, |r, l| -> nnz_engine::Result<Var<f64>> {
        let row = Var::constant(Tensor::new(&[1, 192], x.data()[r * 192..(r + 1) * 192].to_vec()));
        Ok(ops::cross_entropy(&model.forward(&row, l, Pass::default())?.0, &labels[r..=r]))
    });
    let rows = rows.unwrap();
    let l = leaves(&model);
    let y = model.forward(&Var::constant(x.clone()), &l, Pass::default()).unwrap().0;
    let mut whole = ops::cross_entropy(&y, &labels).backward(false).unwrap();
    for (i, l) in l.iter().enumerate() {
        for (j, w) in whole.take(l).unwrap().data().iter().enumerate() {
            let mean = rows.iter().map(|r| r[i].data()[j]).sum::<f64>() / 5.0;
            assert!((mean - w).abs() < 1e-12);
        }
    }
    assert_ne!(rows[0][0], rows[1][0]);
}

#[test]
fn adamw_decays_weights_apart_from_the_gradient() {
    let spec = spec("mlp:192-12-3");
    let mut model: Model<f64> = Model::born(&spec, None, Storage::Auto, false, 1).unwrap();
    let rule = OptimizerSpec::AdamW { lr: 0.1, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.5 };
    let mut optimizer = Optimizer::new(rule, &model.params);
    model.params[1].value.data_mut().fill(1.0);
    let before = model.params[0].value.clone();
    for i in [0, 1] {
        let zero = Tensor::zeros(model.params[i].value.shape());
        optimizer.update(i, &mut model.params[i], &zero, 0.1, 1);
    }
    let shrunk = before.zip(&model.params[0].value, |b, a| (0.95 * b - a).abs());
    assert!(shrunk.data().iter().all(|&d| d < 1e-15) && model.params[1].value.data().iter().all(|&b| b == 1.0));
    // The first step has the length of the learning rate, whatever the gradient.
    let g = Tensor::full(&[12], 1e-3);
    let mut fresh = Optimizer::new(rule, &model.params);
    fresh.update(1, &mut model.params[1], &g, 0.1, 1);
    assert!(model.params[1].value.data().iter().all(|&b| (b - 0.9).abs() < 1e-5));
}

#[test]
fn clipping_and_averaging() {
    let mut g = vec![Tensor::new(&[2], vec![3.0, 0.0]), Tensor::new(&[1], vec![4.0])];
    assert_eq!(clip_by_norm(&mut g, 10.0), 5.0);
    assert_eq!(g[0].data(), [3.0, 0.0]);
    assert_eq!(clip_by_norm(&mut g, 1.0), 5.0);
    assert!((g[0].data()[0] - 0.6f64).abs() < 1e-15 && (g[1].data()[0] - 0.8).abs() < 1e-15);
    let mut model: Model<f64> = Model::born(&spec("mlp:192-12-3"), None, Storage::Auto, false, 1).unwrap();
    let mut average = Average::new(&model.params);
    model.params[1].value.data_mut().fill(8.0);
    average.update(&model.params, 0.75);
    average.update(&model.params, 0.75);
    assert!(average.values()[1].data().iter().all(|&v| v == 8.0 * (1.0 - 0.75 * 0.75)));
}

#[test]
fn lbfgs_finds_the_minimum_of_rosenbrock() {
    let rosenbrock = |x: &[f64]| {
        let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
        (a * a + 100.0 * b * b, vec![-2.0 * a - 400.0 * x[0] * b, 200.0 * b])
    };
    let mut x = vec![-1.2, 1.0];
    let mut calls = 0;
    let (value, met) = lbfgs(&mut x, LbfgsOptions { tolerance: 1e-8, ..Default::default() }, |x| {
        calls += 1;
        rosenbrock(x)
    });
    assert!(met && value < 1e-14 && (x[0] - 1.0).abs() < 1e-7 && (x[1] - 1.0).abs() < 1e-7, "{x:?} after {calls}");
    assert!(calls < 100, "{calls} calls; gradient descent needs thousands");
}

/// The largest `k` numbers of each row, the others zero: a layer of another crate, with its own matrix before it.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct TopK {
    name: String,
    inputs: usize,
    outputs: usize,
    k: usize,
}

impl CustomLayer for TopK {
    const KIND: &'static str = "top-k";

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn params(&self) -> Vec<ParamSpec> {
        vec![
            ParamSpec::weight(&self.name, self.outputs, self.inputs, [1, 1], Init::He),
            ParamSpec::vector(&self.name, "bias", self.outputs, Init::Zero),
        ]
    }

    fn output(&self, input: &[usize]) -> std::result::Result<Vec<usize>, String> {
        match input {
            [n] if *n == self.inputs => Ok(vec![self.outputs]),
            other => Err(format!("{} takes {} inputs but gets {other:?}", self.name, self.inputs)),
        }
    }

    fn forward<T: Real>(&self, x: &Var<T>, cx: &mut Context<'_, T>) -> nnz_engine::Result<Var<T>> {
        let (weight, bias) = (cx.whole(), cx.take().1);
        Ok(ops::linear_topk(x, &weight, Some(bias), self.k, Rank::Relu).dense())
    }

    fn resized(&self, input: &[usize], width: &dyn Fn(usize) -> usize, _: bool) -> Self {
        Self { inputs: input[0], outputs: width(self.outputs), ..self.clone() }
    }
}

const OPEN: &str = r#"
name = "open"
input = [3, 8, 8]

[[layers]]
layer = "flatten"

[[layers]]
layer = "residual"
name = "block"
body = [{ layer = "top-k", name = "codes", inputs = 192, outputs = 192, k = 9 }]

[[layers]]
layer = "linear"
name = "head"
inputs = 192
outputs = 3
"#;

#[test]
fn a_layer_of_another_crate_trains_travels_and_is_named_where_it_is_not_known() {
    let read = || toml::from_str::<ModelSpec>(OPEN).unwrap();
    let why = read().check(3).unwrap_err();
    assert!(
        why.contains("layer 1") && why.contains("no layer named `top-k`") && why.contains("linear, conv1d"),
        "{why}"
    );
    let layers = Layers::new().with::<TopK>();
    let mut spec = read();
    spec.bind(&layers).unwrap();
    spec.check(3).unwrap();
    assert_eq!(spec.params()[0].shape.name, "codes.weight");
    assert_eq!(toml::from_str::<ModelSpec>(&toml::to_string(&spec).unwrap()).unwrap(), spec);
    // Not the block, which is added to the input and has its width.
    let block = r#"layer = "residual"
name = "block"
body = [{ layer = "top-k", name = "codes", inputs = 192, outputs = 192, k = 9 }]"#;
    let chain = "layer = \"top-k\"\nname = \"codes\"\ninputs = 192\noutputs = 192\nk = 9";
    let mut chain: ModelSpec = toml::from_str(&OPEN.replace(block, chain)).unwrap();
    chain.bind(&layers).unwrap();
    let narrow = chain.narrowed(chain.entries() / 3);
    let (few, all) = (narrow.entries(), chain.entries());
    assert!(few < all / 2 && narrow.output() == Ok(vec![3]), "{few} of {all}: {:?}", narrow.output());
    // A wrong option, and a misspelt layer.
    let mut wrong: ModelSpec = toml::from_str(&OPEN.replace("k = 9", "kk = 9")).unwrap();
    assert!(wrong.bind(&layers).unwrap_err().to_string().contains("layer `top-k`: unknown field `kk`"));
    let mut wrong: ModelSpec = toml::from_str(&OPEN.replace("\"linear\"", "\"liner\"")).unwrap();
    assert!(wrong.bind(&layers).unwrap_err().to_string().contains("`liner` (did you mean `linear`?)"));

    let mut model: Model<f32> = Model::born(&spec, None, Storage::Auto, false, 1).unwrap();
    let mut optimizer = Optimizer::new(OptimizerSpec::adam(0.01), &model.params);
    let losses: Vec<f64> = (0..30).map(|t| step(&mut model, &mut optimizer, t, 0.01)).collect();
    assert!(losses[29] < 0.5 * losses[0], "{losses:?}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("open.safetensors");
    save_model(&path, &model, &super::storage::header(&model), Packing::Smallest).unwrap();
    let (again, _) = load_model_with::<f32>(&path, Storage::Auto, &layers).unwrap();
    let (x, _) = batch::<f32>(&spec, 5, 0);
    assert_eq!(again.infer(x.clone()).unwrap(), model.infer(x).unwrap());
    let error = load_model::<f32>(&path, Storage::Auto).unwrap_err().to_string();
    assert!(error.contains("no layer named `top-k`"), "{error}");
}
