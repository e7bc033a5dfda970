use super::edits::{Editing, product, rewire};
use super::pass::{Step, leaves, synaptic_flow};
use crate::ModelSpec;
use crate::data::{Batch, Goal};
use crate::structure::Fresh;
use crate::{Mode, Model, Pass, Taps, Tensor, Var, ops};
use nnz_core::Rng;
use nnz_core::{Edit, Signals, Target, TargetKind};

fn network(text: &str) -> (Model<f64>, Batch<f64>) {
    let spec = ModelSpec::parse(text, [1, 6, 6], 3).unwrap();
    let model = Model::born_generic(&spec, None, crate::Storage::Auto.into(), &false.into(), 1).unwrap();
    let mut rng = Rng::stream(0, "input", 0, 0);
    let input = Tensor::new(&[10, 36], (0..360).map(|_| rng.normal()).collect());
    (model, Batch { input, goal: Goal::Classes((0..10).map(|i| i % 3).collect()), weights: Vec::new() })
}

fn signals(model: &Model<f64>, batch: &Batch<f64>, signals: Signals) -> Step<f64> {
    Step::forward_backward(model, Some(batch), 0.0, signals, Vec::new(), Mode::Use, TargetKind::Weights, &[]).unwrap()
}

/// (g(w + h v) - g(w - h v)) / 2h with v the gradient of the weights.
#[test]
fn curvature_is_the_slope_of_the_gradient_along_itself() {
    let (model, batch) = network("mlp:36-8-3");
    let found = signals(&model, &batch, Signals { hessian_gradient: Some(1.0), ..Signals::NONE });
    let moved = |h: f64| {
        let mut other = model.clone();
        for (p, g) in other.params.iter_mut().zip(&found.gradients).filter(|(p, _)| p.weight()) {
            p.value.data_mut().iter_mut().zip(g.data()).for_each(|(w, g)| *w += h * g);
        }
        signals(&other, &batch, Signals::GRADIENT).gradients
    };
    let (up, down) = (moved(1e-5), moved(-1e-5));
    for (i, p) in model.params.iter().enumerate().filter(|(_, p)| p.weight()) {
        for k in 0..p.value.len() {
            let slope = (up[i].data()[k] - down[i].data()[k]) / 2e-5;
            assert!((found.hessian_gradient[i].data()[k] - slope).abs() < 1e-6, "{} {k}", p.shape.name);
        }
    }
}

#[test]
fn every_layer_carries_the_whole_flow() {
    for text in ["mlp:36-8-5-3", "resnet8"] {
        let (model, _) = network(text);
        let synaptic_flow = synaptic_flow(&model).unwrap();
        for (p, f) in model.params.iter().zip(&synaptic_flow).filter(|(p, _)| p.weight() && !text.starts_with("res")) {
            let sum: f64 = p.value.data().iter().zip(f.data()).map(|(w, f)| w.abs() * f).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{text} {}: {sum}", p.shape.name);
        }
        assert!(synaptic_flow.iter().all(|f| f.data().iter().all(|f| *f >= 0.0)));
    }
}

/// After unfolding, a convolution is a matrix whose inputs are patches.
#[test]
fn the_moments_are_those_of_what_a_weight_reads() {
    let (model, batch) = network("vgg-small");
    let (param, gram) = super::pass::gram(&model, &batch, Mode::Use, TargetKind::Weights, 1).unwrap();
    let cols = model.params[param].shape.cols;
    let taps = Taps::new().read("2.relu");
    let leaves = leaves(&model);
    let pass = Pass { taps: Some(&taps), ..Default::default() };
    model.forward(&Var::constant(batch.input.clone()), &leaves, pass).unwrap();
    let read = Var::constant(taps.activation("2.relu").unwrap());
    let patches = ops::patches(&read, ops::Window::new([3, 3]).padding([1, 1]));
    let (rows, wide) = patches.value().rows_cols();
    assert_eq!(wide, cols);
    for (a, b) in [(0, 0), (3, 7), (cols - 1, 2)] {
        let dot: f64 = patches.value().data().chunks(cols).map(|r| r[a] * r[b]).sum();
        let sum: f64 = patches.value().data().chunks(cols).map(|r| r[a]).sum();
        assert!((gram.square[a * cols + b] - dot / rows as f64).abs() < 1e-9);
        assert!((gram.first[a] - sum / rows as f64).abs() < 1e-9);
    }
    assert!(super::pass::gram(&model, &batch, Mode::Use, TargetKind::Weights, 99).is_err());
}

#[test]
fn a_layer_replaced_by_two_computes_their_product() {
    let (mut model, batch) = network("mlp:36-20-3");
    let mut rng = Rng::stream(5, "factors", 0, 0);
    let mut draw = |n: usize| (0..n).map(|_| rng.normal()).collect::<Vec<f64>>();
    let (left, right) = (draw(20 * 4), draw(4 * 36));
    let mut plain = model.clone();
    plain.params[0].value = Tensor::new(&[20, 36], product(&left, &right, 20, 36));
    let mut edit = |_: &[Target]| Ok(vec![Edit::Replace { left: left.clone(), right: right.clone() }]);
    let storage = crate::Storage::Auto.into();
    let how = Editing {
        kind: TargetKind::Weights,
        layerwise: false,
        storage,
        fresh: Fresh { seed: 0, step: 0 },
        explored: None,
    };
    let moved = rewire(&mut model, None, None, &mut edit, &Step::empty(), how).unwrap();
    assert_eq!((moved.pruned, model.spec.weights().len()), (20 * 36 - 4 * 56, 3));
    assert_eq!(model.spec.params().len(), model.params.len());
    let (a, b) = (plain.infer(batch.input.clone()).unwrap(), model.infer(batch.input).unwrap());
    assert!(a.data().iter().zip(b.data()).all(|(a, b)| (a - b).abs() < 1e-9));
}
