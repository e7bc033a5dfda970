//! The engine without methods: edits carry state, storages agree, files keep what they are given.

use nnz_core::{Edit, Pattern, Rng, Shape, Topology};
use nnz_engine::data::Normalization;
use nnz_engine::file::{Header, Packing, load_model, save_model};
use nnz_engine::{Dtype, Model, ModelSpec, Optimizer, OptimizerSpec, Storage, Task, Tensor};

fn spec() -> ModelSpec {
    ModelSpec::parse("mlp:12-8-6-3", [1, 3, 4], 3).unwrap()
}

fn births(density: f64) -> Vec<Topology> {
    let draw = |(i, s): (usize, &Shape)| {
        let count = (density * s.len() as f64) as usize;
        Pattern::Unstructured.random(s, count, &mut Rng::stream(0, "birth", i as u64, 0))
    };
    spec().weights().iter().take(2).enumerate().map(draw).collect()
}

pub(super) fn header(model: &Model<f32>) -> Header {
    Header {
        model: model.spec.clone(),
        normalization: Normalization::new(0.25, 0.5),
        classes: ["a", "b", "c"].map(String::from).to_vec(),
        data: "test".into(),
        method: "test".into(),
        prunable: false.into(),
        texts: false,
        task: Task::Classification,
        scales: Vec::new(),
        dtype: Dtype::Native,
        encoding: None,
        policy: Default::default(),
    }
}

#[test]
fn survivors_keep_value_and_state_and_newborns_start_afresh() {
    for storage in [Storage::Masked, Storage::Sparse] {
        let mut model: Model<f32> = Model::born(&spec(), Some(births(0.2)), storage, false, 1).unwrap();
        let mut optimizer = Optimizer::new(OptimizerSpec::adam(0.1), &model.params);
        let old = model.params[0].topology();
        for (i, p) in model.params.iter_mut().enumerate() {
            let gradient = Tensor::full(p.value.shape(), 0.5);
            let mut gradient = gradient;
            p.mask_gradient(&mut gradient);
            optimizer.update(i, p, &gradient, 0.1, 1);
        }
        let p = &mut model.params[0];
        let (values, state) = (p.entries(&p.value), p.entries(&optimizer.state[0][0]));
        assert!(state.iter().all(|&s| s != 0.0));
        // Drop the first two connections, grow two others.
        let mut positions: Vec<u64> = old.positions().skip(2).collect();
        let grown: Vec<u64> = (0..96).filter(|&q| old.find(q).is_none()).take(2).collect();
        positions.extend(&grown);
        positions.sort_unstable();
        let topology = Topology::from_positions(8, 12, positions);
        let edit = Edit::Rewire { topology: topology.clone(), grown: vec![7.0] };
        let moved = p.apply(edit, storage, &mut optimizer.state[0]).unwrap().unwrap();
        assert_eq!((moved.grown, moved.pruned), (2, 2));
        assert_eq!(p.topology(), topology);
        let (new, kept) = (p.entries(&p.value), p.entries(&optimizer.state[0][0]));
        let mut first = true;
        for (j, q) in topology.positions().enumerate() {
            match old.find(q) {
                Some(i) => assert_eq!((new[j], kept[j]), (values[i], state[i])),
                None => {
                    assert_eq!((new[j], kept[j]), (if first { 7.0 } else { 0.0 }, 0.0));
                    first = false;
                }
            }
        }
    }
}

#[test]
fn a_layer_keeps_its_last_connection() {
    let mut model: Model<f32> = Model::born(&spec(), Some(births(0.2)), Storage::Sparse, false, 1).unwrap();
    let empty = Edit::Rewire { topology: Topology::from_positions(8, 12, []), grown: vec![] };
    assert!(model.params[0].apply(empty, Storage::Sparse, &mut []).is_err());
}

#[test]
fn sparse_values_gradients_and_state_have_nonzeros_entries() {
    let model: Model<f32> = Model::born(&spec(), Some(births(0.2)), Storage::Sparse, false, 1).unwrap();
    let optimizer = Optimizer::new(OptimizerSpec::adam(0.1), &model.params);
    let nnz = model.params[0].nnz();
    assert_eq!(nnz, 19);
    assert_eq!(model.params[0].value.len(), nnz);
    assert!(optimizer.state[0].iter().all(|s| s.len() == nnz));
}

#[test]
fn initial_values_know_the_active_fan_in() {
    let shape = ModelSpec::parse("mlp:1000-400-10", [1, 1, 1000], 10).unwrap();
    let topology = Pattern::PerRow.random(&shape.weights()[0], 400 * 20, &mut Rng::stream(0, "birth", 0, 0));
    let model: Model<f64> = Model::born(&shape, Some(vec![topology]), Storage::Sparse, false, 1).unwrap();
    let values = model.params[0].value.data();
    let variance = values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64;
    assert!((variance - 2.0 / 20.0).abs() < 0.01, "{variance}");
}

#[test]
fn files_keep_models_in_both_packings() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    for storage in [Storage::Masked, Storage::Sparse] {
        for packing in [Packing::Csr, Packing::Dense] {
            let model: Model<f32> = Model::born(&spec(), Some(births(0.2)), storage, false, 1).unwrap();
            save_model(&path, &model, &header(&model), packing).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            save_model(&path, &model, &header(&model), packing).unwrap();
            assert!(bytes == std::fs::read(&path).unwrap(), "equal models are equal files");
            let (read, head): (Model<f32>, Header) = load_model(&path, storage).unwrap();
            assert_eq!(head, header(&model));
            for (a, b) in model.params.iter().zip(&read.params) {
                assert_eq!((&a.value, &a.layout, &a.shape), (&b.value, &b.layout, &b.shape), "{storage:?} {packing:?}");
            }
        }
    }
}

/// Cuts and flips a good file in many places: an error with the file's name or a model, never a panic.
#[test]
fn damaged_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let model: Model<f32> = Model::born(&spec(), Some(births(0.2)), Storage::Sparse, false, 1).unwrap();
    save_model(&path, &model, &header(&model), Packing::Csr).unwrap();
    let good = std::fs::read(&path).unwrap();
    let mut rng = Rng::stream(0, "damage", 0, 0);
    let (mut refused, mut tried) = (0, 0);
    for cut in (0..good.len()).step_by(37) {
        std::fs::write(&path, &good[..cut]).unwrap();
        let error = load_model::<f32>(&path, Storage::Auto).err().unwrap_or_else(|| panic!("cut at {cut}")).to_string();
        assert!(error.contains("m.safetensors"), "{error}");
    }
    for _ in 0..3000 {
        let mut bad = good.clone();
        for _ in 0..1 + rng.below(4) {
            let at = rng.below(bad.len() as u64) as usize;
            bad[at] = rng.bits() as u8;
        }
        std::fs::write(&path, &bad).unwrap();
        refused += usize::from(load_model::<f32>(&path, Storage::Auto).is_err());
        tried += 1;
    }
    assert!(refused > tried / 10, "{refused} of {tried}: most of the header matters");
    // A header that claims more than the file holds allocates nothing of the kind.
    std::fs::write(&path, [u64::MAX.to_le_bytes().as_slice(), b"{}"].concat()).unwrap();
    assert!(load_model::<f32>(&path, Storage::Auto).is_err());
}

#[test]
fn a_model_spec_in_a_header_cannot_ask_for_the_moon() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let model: Model<f32> = Model::born(&spec(), Some(births(0.2)), Storage::Sparse, false, 1).unwrap();
    save_model(&path, &model, &header(&model), Packing::Csr).unwrap();
    let good = std::fs::read(&path).unwrap();
    let text = String::from_utf8_lossy(&good);
    assert!(text.contains(r#"\"outputs\":8"#), "the header names the layer's width");
    // Same length: 8 outputs and 8 inputs become 4294967295 in one place of the JSON, padded by dropping the data name.
    let at = text.find(r#"\"outputs\":8"#).unwrap();
    let mut bad = good[8..].to_vec();
    let number = b"4000000000";
    bad.splice(at - 8 + 12..at - 8 + 13, number.iter().copied());
    let size = u64::from_le_bytes(good[..8].try_into().unwrap()) + number.len() as u64 - 1;
    std::fs::write(&path, [size.to_le_bytes().as_slice(), &bad].concat()).unwrap();
    assert!(load_model::<f32>(&path, Storage::Auto).is_err());
}
