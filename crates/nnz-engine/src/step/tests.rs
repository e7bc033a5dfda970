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

/// The next layer is shown while the one before is edited, where there are threads for it.
#[test]
fn layers_are_edited_one_by_one_alike_on_any_threads() {
    let edited = |threads: usize, refuse: bool| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let (mut model, _) = network("mlp:36-20-12-3");
            let mut explored = Vec::new();
            let mut shown = Vec::new();
            // Drops the lower half, and grows where the numbers of target and order say.
            let mut edit = |targets: &[Target]| {
                let [t] = targets else { panic!("{} targets at once", targets.len()) };
                shown.push((t.index, t.values.to_vec()));
                if refuse && t.index == 1 {
                    return Ok(Vec::new());
                }
                let positions: Vec<u64> = t.topology.positions().collect();
                let grown = (0..t.shape.len() as u64).filter(|p| !positions.contains(p)).step_by(5 + t.index);
                let kept = positions.iter().skip(positions.len() / 2).copied();
                let mut all: Vec<u64> = kept.chain(grown).collect();
                all.sort_unstable();
                let topology = nnz_core::Topology::from_positions(t.shape.rows, t.shape.cols, all);
                Ok(vec![Edit::Rewire { topology, grown: vec![0.5; 3] }])
            };
            let how = || Fresh { seed: 0, step: 0 };
            let storage = crate::Storage::Sparse.into();
            let mut done = Vec::new();
            for round in 0..2 {
                let explored = Some(&mut explored);
                let how = Editing { kind: TargetKind::Weights, layerwise: true, storage, fresh: how(), explored };
                let moved = rewire(&mut model, None, None, &mut edit, &Step::empty(), how);
                done.push(moved.map(|m| (m.grown, m.pruned)).map_err(|e| e.to_string()));
                if refuse && round == 0 {
                    break;
                }
            }
            let values: Vec<_> = model.params.iter().map(|p| (p.nnz(), p.entries(&p.value))).collect();
            let ever: Vec<(usize, u64)> = explored.iter().map(|e| (e.count(), e.births)).collect();
            (done, values, ever, shown)
        })
    };
    let (done, values, ever, shown) = edited(1, false);
    assert_eq!(shown.iter().map(|s| s.0).collect::<Vec<_>>(), [0, 1, 0, 1]);
    assert_eq!(done, [Ok((0, 480)), Ok((92, 240))], "dense layers have nothing to grow at first");
    assert_eq!((ever.clone(), values[0].0, values[2].0), (vec![(720, 72), (240, 20)], 252, 80));
    for threads in [2, 3, 8] {
        assert!(
            edited(threads, false) == (done.clone(), values.clone(), ever.clone(), shown.clone()),
            "{threads} threads"
        );
    }
    let refused = |threads: usize| edited(threads, true);
    let (done, values, ..) = refused(1);
    assert!(done[0].as_ref().is_err_and(|e| e.contains("one edit for one target")), "{done:?}");
    assert_eq!([values[0].0, values[2].0], [360, 240], "what was admitted is done, the rest is as before");
    for threads in [2, 8] {
        assert!(refused(threads) == refused(1), "{threads} threads");
    }
}
