//! What a nonzero costs in memory while it is trained, counted by the allocator.

use nnz_core::{DistributionKind, Setting, Sparsifier, Static};
use nnz_engine::data::{Dataset, Inputs, Split};
use nnz_engine::{ModelSpec, OptimizerSpec, Storage, TrainSpec, Trainer};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

#[test]
fn training_with_momentum_takes_at_most_24_bytes_a_nonzero() {
    const SIDE: usize = 3000;
    let split = |rows: usize| {
        let inputs = Inputs::Bytes((0..rows * SIDE).map(|i| (i * 31 % 251) as u8).collect());
        Split::new(inputs, (0..rows as u32).map(|r| r % 2).collect())
    };
    let classes = ["a", "b"].map(String::from).to_vec();
    let data = Dataset::new("noise", [1, 1, SIDE], classes, split(40), split(4), "noise".into()).unwrap();
    let model = ModelSpec::parse(&format!("mlp:{SIDE}-{SIDE}-2"), data.image, 2).unwrap();
    // Few rows, so that what is counted is weights.
    let spec = TrainSpec {
        batch: 2,
        storage: Storage::Sparse,
        optimizer: OptimizerSpec::sgd(0.01),
        validation: 0.1,
        ..TrainSpec::default()
    };
    let build = |setting: &Setting| -> nnz_core::Result<Box<dyn Sparsifier>> {
        let distribution = DistributionKind::Uniform.build();
        Ok(Box::new(Static {
            distribution,
            pattern: Default::default(),
            density: 0.08,
            setting: *setting,
            kind: Default::default(),
        }))
    };
    let before = MEMORY.current_usage();
    let mut trainer: Trainer<f32> = Trainer::new(&model, &data, &spec, 0, build).unwrap();
    for _ in 0..3 {
        trainer.advance().unwrap();
    }
    let resting = (MEMORY.current_usage() - before) as f64;
    MEMORY.reset_peak_usage();
    for _ in 0..5 {
        trainer.advance().unwrap();
    }
    let peak = (MEMORY.peak_usage() - before) as f64;
    let nnz = trainer.model.params[0].nnz() as f64;
    println!("{nnz} nonzeros: {:.2} bytes each at the peak of a step, {:.2} between steps", peak / nnz, resting / nnz);
    assert!(peak / nnz <= 24.0, "{:.2} bytes a nonzero", peak / nnz);
    // Values, momentum, gradient, and the plan: nothing is there twice.
    let account = trainer.model.params[0].bytes() as f64 / nnz + 8.0;
    assert!((19.0..21.5).contains(&account), "{account:.2} bytes by the account");
}
