//! Methods that rewire a sparse network hold nothing dense: their peak stays below one bit for each entry of the layer.

use nnz::REGISTRY;
use nnz_core::Setting;
use nnz_engine::data::{Dataset, Inputs, Split};
use nnz_engine::{Layout, ModelSpec, OptimizerSpec, Storage, TrainSpec, Trainer};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Inputs and outputs of the sparse layer: 1.6 GB if its weights were dense in 32 bits, 50 MB for a bit each. The search
/// among zeros takes about 20 MB whatever the layer.
const SIDE: usize = 20_000;

fn noise() -> Dataset {
    let split = |rows: usize| {
        let inputs = Inputs::Bytes((0..rows * SIDE).map(|i| (i * 31 % 251) as u8).collect());
        Split::new(inputs, (0..rows as u32).map(|r| r % 2).collect())
    };
    let classes = ["a", "b"].map(String::from).to_vec();
    Dataset::new("noise", [1, 1, SIDE], classes, split(20), split(4), "noise".into()).unwrap()
}

/// One test, since the allocator counts for all.
#[test]
fn rewiring_takes_less_than_a_bit_for_each_entry() {
    let data = noise();
    let model = ModelSpec::parse(&format!("mlp:{SIDE}-{SIDE}-2"), data.image, 2).unwrap();
    let spec = TrainSpec {
        batch: 2,
        epochs: 4,
        storage: Storage::Sparse,
        optimizer: OptimizerSpec::sgd(0.01),
        validation: 0.1,
        ..TrainSpec::default()
    };
    for key in ["set", "rigl", "dst-ee", "srigl", "sparse-momentum"] {
        let method = REGISTRY.find(key).unwrap();
        let build = |setting: &Setting| {
            let mut options = method.defaults();
            options.insert("density".into(), 2e-4.into());
            options.insert("every".into(), "3 steps".into());
            method.build(&options, setting)
        };
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let mut trainer: Trainer<f32> = Trainer::new(&model, &data, &spec, 0, build).unwrap();
        for _ in 0..8 {
            trainer.advance().unwrap();
        }
        let peak = MEMORY.peak_usage() - before;
        let layer = &trainer.model.params[0];
        assert!(matches!(layer.layout, Layout::Sparse(_)) && trainer.position.pruned > 0, "{key} did not rewire");
        println!("{key}: {:.1} MB at the peak, {} connections", peak as f64 / 1e6, layer.nnz());
        assert!(peak < SIDE * SIDE / 8, "{key} took {peak} bytes for {} connections", layer.nnz());
    }
}
