//! Ops and optimizers against reference vectors that `goldens/make.py` wrote with PyTorch.

use nnz_engine::layers::{Cell, Recurrent, Tokens};
use nnz_engine::ops::{self, AttentionMask, Window};
use nnz_engine::{Model, ModelSpec, Number, Optimizer, OptimizerSpec, Pass, Storage, Tensor, Var};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Numbers {
    shape: Vec<usize>,
    data: Vec<f64>,
}

#[derive(Deserialize)]
struct Case {
    tensors: BTreeMap<String, Numbers>,
    seed: Option<Numbers>,
    output: Option<Numbers>,
    #[serde(default)]
    gradients: BTreeMap<String, Numbers>,
    mean: Option<Numbers>,
    variance: Option<Numbers>,
}

fn cases() -> BTreeMap<String, Case> {
    serde_json::from_str(include_str!("../../../../goldens/ops.json")).unwrap()
}

fn tensor<T: Number>(n: &Numbers) -> Tensor<T> {
    Tensor::new(&n.shape, n.data.iter().map(|&v| T::of(v)).collect())
}

/// Largest difference, relative to the largest reference value.
fn compare<T: Number>(place: &str, got: &Tensor<T>, want: &Numbers) {
    assert_eq!(got.shape(), want.shape, "{place}");
    let scale = want.data.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    let off = got.data().iter().zip(&want.data).fold(0.0f64, |m, (g, w)| m.max((g.f64() - w).abs()));
    let limit = if size_of::<T>() == 4 { 1e-5 } else { 1e-9 };
    assert!(off <= limit * scale, "{place} in {}: off by {off:e} of {scale:e}", T::NAME);
}

/// A recurrent layer over sequences of 4 positions with 3 numbers; PyTorch's second bias is zero unless the layer has it.
fn recurrent<T: Number>(cell: Cell, at: &dyn Fn(&str) -> Var<T>) -> Var<T> {
    let layers = vec![Tokens {}.into(), Recurrent::new("r", cell, 3, 2).into()];
    let spec = ModelSpec { name: "r".into(), input: [3, 1, 4], layers };
    let model: Model<T> = Model::born(&spec, None, Storage::Auto, false, 0).unwrap();
    let leaves: Vec<Var<T>> = ["wx", "bx", "wh", "bh"].iter().take(model.params.len()).map(|k| at(k)).collect();
    model.forward(&ops::reshape(&at("x"), &[2, 12]), &leaves, Pass::default()).unwrap().0
}

/// The op of a case on its tensors, in the order of their names' first use.
fn compute<T: Number>(name: &str, at: &dyn Fn(&str) -> Var<T>) -> Var<T> {
    let x = || at("x");
    let conv = |window: Window, groups| ops::conv(&x(), &at("w"), Some(&at("b")), window, groups);
    let attend = |mask| ops::attention(&at("q"), &at("k"), &at("v"), mask);
    let pool = Window::new([3, 3]).stride([2, 2]).padding([1, 1]);
    let labels = [2, 0, 3];
    match name {
        "gelu" => ops::gelu(&x()),
        "gelu_tanh" => ops::gelu_tanh(&x()),
        "silu" => ops::silu(&x()),
        "elu" => ops::elu(&x(), 1.0),
        "softplus" => ops::softplus(&x()),
        "hardswish" => ops::hardswish(&x()),
        "leaky_relu" => ops::leaky_relu(&x(), 0.1),
        "softmax" => ops::softmax(&x()),
        "log_softmax" => ops::log_softmax(&x()),
        "linear" => ops::linear(&x(), &at("w"), &at("b")),
        "cumsum" => ops::cumsum(&x(), 1),
        "variance" => ops::variance_over(&x(), &[0, 2]),
        "conv1d" => ops::conv(&x(), &at("w"), Some(&at("b")), Window::new([3]).stride([2]).padding([1]), 1),
        "conv2d" => conv(Window::new([3, 2]).stride([2, 1]).padding([1, 0]).dilation([1, 2]), 1),
        "conv2d_groups" => conv(Window::new([3, 3]).padding([1, 1]), 2),
        "conv2d_depthwise" => conv(pool, 4),
        "conv3d" => ops::conv(&x(), &at("w"), Some(&at("b")), Window::new([2, 1, 3]).padding([0, 1, 1]), 1),
        "conv_transposed" => {
            let window = Window::new([3, 2]).stride([2, 2]).padding([1, 0]);
            ops::conv_transposed(&x(), &at("w"), Some(&at("b")), window, 1, [1, 0])
        }
        "conv_transposed_groups" => {
            let window = Window::new([2, 2]).stride([2, 2]);
            ops::conv_transposed(&x(), &at("w"), Some(&at("b")), window, 2, [0, 0])
        }
        "max_pool" => ops::max_pool(&x(), pool),
        "avg_pool" => ops::avg_pool(&x(), pool),
        "upsample_linear" => ops::upsample_linear(&x(), &[5, 7]),
        "upsample_nearest" => ops::upsample_nearest(&x(), 2),
        "layer_norm" => ops::layer_norm(&x(), &at("g"), &at("b"), 1e-5),
        "rms_norm" => ops::rms_norm(&x(), &at("g"), 1e-6),
        "group_norm" => ops::group_norm(&x(), 2, &at("g"), &at("b"), 1e-5),
        "batch_norm" => ops::batch_norm(&x(), &at("g"), &at("b"), 1e-5).0,
        "attention" => attend(AttentionMask::default()),
        "attention_causal_grouped" => attend(AttentionMask { causal: true, keys: &[] }),
        "attention_keys" => {
            attend(AttentionMask { causal: false, keys: &[true, true, false, true, true, false, false, true] })
        }
        "embedding" => ops::index_select(&at("w"), 0, &[3, 1, 1]),
        "lstm" => {
            let pre = ops::add(&ops::linear(&x(), &at("wx"), &at("bx")), &ops::linear(&at("h"), &at("wh"), &at("bh")));
            let (h, c) = ops::lstm_cell(&pre, &at("c"));
            ops::concat(&[&h, &c], 1)
        }
        "gru" => {
            let from_input = ops::linear(&x(), &at("wx"), &at("bx"));
            ops::gru_cell(&from_input, &ops::linear(&at("h"), &at("wh"), &at("bh")), &at("h"))
        }
        "cross_entropy" => ops::cross_entropy(&at("z"), &labels),
        "cross_entropy_smooth" => ops::cross_entropy_smooth(&at("z"), &labels, 0.1),
        "mse" => ops::mse(&at("z"), &at("t")),
        "kl" => ops::kl(&at("p"), &at("q")),
        "bce" => ops::bce_with_logits(&at("z"), &at("t")),
        "fft" => ops::fft(&x(), 1, false),
        "fft_inverse" => ops::fft(&x(), 1, true),
        "rfft" => ops::rfft(&x()),
        "irfft_odd" => ops::irfft(&x(), 5),
        "irfft_even" => ops::irfft(&x(), 6),
        "rnn_layer" => recurrent(Cell::Rnn, at),
        "lstm_layer" => recurrent(Cell::Lstm, at),
        "gru_layer" => recurrent(Cell::Gru, at),
        "conv_transposed1d" => {
            let window = Window::new([4]).stride([3]).padding([1]).dilation([2]);
            ops::conv_transposed(&x(), &at("w"), Some(&at("b")), window, 1, [2])
        }
        "conv_transposed3d" => {
            ops::conv_transposed(&x(), &at("w"), Some(&at("b")), Window::new([2; 3]).stride([2; 3]), 1, [0; 3])
        }
        "hinge" => ops::hinge(&at("z"), &labels, 1.0),
        other => panic!("no op for the reference `{other}`"),
    }
}

fn check<T: Number>() {
    let mut seen = 0;
    for (name, case) in cases() {
        let (Some(seed), Some(output)) = (&case.seed, &case.output) else { continue };
        let leaves: BTreeMap<&str, Var<T>> =
            case.tensors.iter().map(|(k, t)| (k.as_str(), Var::leaf(tensor(t)))).collect();
        let y = compute(&name, &|k: &str| leaves[k].clone());
        compare(&name, y.value(), output);
        let mut found = y.backward_from(Var::constant(tensor(seed)), false).unwrap();
        assert!(!case.gradients.is_empty(), "{name}");
        for (k, want) in &case.gradients {
            let got = found.take(&leaves[k.as_str()]).unwrap_or_else(|| panic!("{name}: no gradient of {k}"));
            compare(&format!("{name}, gradient of {k}"), &got, want);
        }
        seen += 1;
    }
    assert_eq!(seen, 49);
}

#[test]
fn ops_agree_in_f64() {
    check::<f64>();
}

#[test]
fn ops_agree_in_f32() {
    check::<f32>();
}

#[test]
fn running_statistics_agree() {
    let case = &cases()["running_statistics"];
    let one = Var::constant(Tensor::<f64>::full(&[4], 1.0));
    let x = Var::constant(tensor(&case.tensors["x"]));
    let (_, mean, variance) = ops::batch_norm(&x, &one, &one, 1e-5);
    let (mut running_mean, mut running_variance) = (Tensor::zeros(&[4]), Tensor::full(&[4], 1.0));
    ops::move_statistics(&mut running_mean, &mean, 0.1, None);
    ops::move_statistics(&mut running_variance, &variance, 0.1, Some(x.value().rows_cols().0));
    compare("mean", &running_mean, case.mean.as_ref().unwrap());
    compare("variance", &running_variance, case.variance.as_ref().unwrap());
}

#[test]
fn optimizers_agree() {
    let cases = cases();
    let (lr, weight_decay) = (0.1, 0.3);
    let adam = OptimizerSpec::Adam { lr, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay };
    let adamw = OptimizerSpec::AdamW { lr, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay };
    let sgd = OptimizerSpec::Sgd { lr, momentum: 0.9, nesterov: true, weight_decay };
    for (name, rule) in [("adam", adam), ("adamw", adamw), ("sgd", sgd)] {
        let case = &cases[name];
        let spec = ModelSpec::parse("mlp:4-1", [1, 1, 4], 1).unwrap();
        let mut model: Model<f64> = Model::born(&spec, None, Storage::Auto, false, 0).unwrap();
        let mut optimizer = Optimizer::new(rule, &model.params);
        let p = &mut model.params[0];
        p.value = tensor(&case.tensors["start"]).reshape(&[1, 4]);
        for step in 0..3 {
            let g = tensor(&case.tensors[&format!("g{step}")]).reshape(&[1, 4]);
            optimizer.update(0, p, &g, lr, step + 1);
        }
        compare(name, &p.value.clone().reshape(&[4]), case.output.as_ref().unwrap());
    }
}
