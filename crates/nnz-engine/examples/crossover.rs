//! At which density does a training step on sparse storage stop being faster than on masked storage? Steps of a
//! three-layer perceptron at batch 128, f32, both storages in turn, medians.
//!
//!     cargo run --release -p nnz-engine --features bench --example crossover

use nnz_core::{Born, DistributionKind, Setting, Sparsifier};
use nnz_engine::data::{Dataset, Inputs, Split};
use nnz_engine::{ModelSpec, Storage, TrainSpec, Trainer};
use std::time::Instant;

const STEPS: usize = 7;

fn main() {
    let rows = 2048;
    let split = |rows: usize| {
        let bytes = (0..rows * 784).map(|i| ((i * 2_654_435_761) >> 7) as u8).collect();
        Split::new(Inputs::Bytes(bytes), (0..rows as u32).map(|r| r % 10).collect())
    };
    let classes = (0..10).map(|c| c.to_string()).collect();
    let data = Dataset::new("noise", [1, 28, 28], classes, split(rows), split(16), "noise".into()).expect("sound data");
    println!(
        "{} threads, batch 128, milliseconds a step, median of {STEPS} rounds of 4\n",
        rayon::current_num_threads()
    );
    println!("| hidden | density | masked | sparse | masked / sparse |\n|---|---|---|---|---|");
    for hidden in [300, 1024] {
        let model = ModelSpec::parse(&format!("mlp:784-{hidden}-{hidden}-10"), data.image, 10).expect("a model");
        for density in [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5] {
            let mut trainers = [Storage::Masked, Storage::Sparse].map(|storage| {
                let spec = TrainSpec { epochs: 100, storage, ..TrainSpec::default() };
                let build = |setting: &Setting| -> nnz_core::Result<Box<dyn Sparsifier>> {
                    Ok(Box::new(Born::new(density, DistributionKind::Uniform).fixed(setting)))
                };
                Trainer::<f32>::new(&model, &data, &spec, 0, build).expect("a trainer")
            });
            let mut times = [Vec::new(), Vec::new()];
            for round in 0..=STEPS {
                for (trainer, times) in trainers.iter_mut().zip(&mut times) {
                    let start = Instant::now();
                    for _ in 0..4 {
                        trainer.advance().expect("a step");
                    }
                    if round > 0 {
                        times.push(start.elapsed().as_secs_f64() * 1e3 / 4.0);
                    }
                }
            }
            let [masked, sparse] = times.map(|mut t| {
                t.sort_by(f64::total_cmp);
                t[t.len() / 2]
            });
            println!("| {hidden} | {density} | {masked:.2} | {sparse:.2} | {:.2} |", masked / sparse);
        }
    }
}
