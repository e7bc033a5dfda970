//! Memory per nonzero during training, counted by the allocator.

use nnz_core::{Born, Decay, DistributionKind, Magnitude, Period, Random, Rewiring, Setting, Sparsifier, Static};
use nnz_engine::data::{Dataset, Inputs, Split};
use nnz_engine::{ModelSpec, OptimizerSpec, Storage, TrainSpec, Trainer};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Variable that names the density of the training that a process started by this test counts.
const CASE: &str = "NNZ_MEMORY_CASE";

/// One test: allocations of others would count too, and the pool of buffers is shared, so every training has a process of its
/// own.
#[test]
fn a_nonzero_takes_few_bytes_in_a_step_and_in_a_rewiring() {
    if let Ok(density) = std::env::var(CASE) {
        println!("{CASE} {}", training(4096, density.parse().unwrap()).map(|n| n.to_string()).join(" "));
        return;
    }
    training_with_momentum_takes_at_most_20_bytes_a_nonzero();
    a_rewiring_takes_room_for_one_layer();
}

fn noise(side: usize) -> Dataset {
    let split = |rows: usize| {
        let inputs = Inputs::Bytes((0..rows * side).map(|i| (i * 31 % 251) as u8).collect());
        Split::new(inputs, (0..rows as u32).map(|r| r % 2).collect())
    };
    let classes = ["a", "b"].map(String::from).to_vec();
    Dataset::new("noise", [1, 1, side], classes, split(40), split(4), "noise".into()).unwrap()
}

/// Few rows, so that mostly weights are counted.
fn spec() -> TrainSpec {
    TrainSpec {
        batch: 2,
        storage: Storage::Sparse,
        optimizer: OptimizerSpec::sgd(0.01),
        validation: 0.1,
        ..TrainSpec::default()
    }
}

fn random(setting: &Setting, density: f64) -> Static {
    Born::new(density, DistributionKind::Uniform).fixed(setting)
}

fn a_rewiring_takes_room_for_one_layer() {
    const SIDE: usize = 1200;
    let data = noise(SIDE);
    let layers = format!("{SIDE}-").repeat(9);
    let model = ModelSpec::parse(&format!("mlp:{layers}2"), data.image, 2).unwrap();
    let build = |setting: &Setting| -> nnz_core::Result<Box<dyn Sparsifier>> {
        let rewiring = Rewiring {
            born: Born::new(0.1, DistributionKind::Uniform),
            every: Period::Steps(4),
            until: Period::Steps(100),
            decay: Decay::Constant,
            ..Rewiring::RIGL
        };
        Ok(Box::new(rewiring.drop_grow(setting, Magnitude, Random { std: 0.1 })))
    };
    let mut trainer: Trainer<f32> = Trainer::new(&model, &data, &spec(), 0, build).unwrap();
    let mut peak = |steps: usize| {
        MEMORY.reset_peak_usage();
        (0..steps).for_each(|_| {
            trainer.advance().unwrap();
        });
        MEMORY.peak_usage() as f64
    };
    let (_, steady) = (peak(1), peak(3));
    let rewiring = peak(1);
    let layer = 0.1 * (SIDE * SIDE) as f64;
    let scratch = (rewiring - steady) / layer;
    println!("a rewiring takes {scratch:.1} bytes more a nonzero of one layer than a step does");
    assert!(trainer.position.pruned > 0, "nothing was rewired");
    assert!(scratch < 64.0, "{scratch:.1} bytes a nonzero of one layer, of which there are eight");
}

/// Connections of the first layer of `side` by `side`, its bytes by the account (values, gradient, momentum, and the structure
/// with all its copies), and the bytes that the allocator counts between steps and at the peak of a step.
fn training(side: usize, density: f64) -> [f64; 4] {
    let data = noise(side);
    let model = ModelSpec::parse(&format!("mlp:{side}-{side}-2"), data.image, 2).unwrap();
    let build = |setting: &Setting| -> nnz_core::Result<Box<dyn Sparsifier>> { Ok(Box::new(random(setting, density))) };
    let before = MEMORY.current_usage();
    let mut trainer: Trainer<f32> = Trainer::new(&model, &data, &spec(), 0, build).unwrap();
    for _ in 0..3 {
        trainer.advance().unwrap();
    }
    let resting = (MEMORY.current_usage() - before) as f64;
    MEMORY.reset_peak_usage();
    for _ in 0..5 {
        trainer.advance().unwrap();
    }
    let peak = (MEMORY.peak_usage() - before) as f64;
    // What is counted is what the allocator sees, but for batches made ahead and what kernels use for a moment.
    let counted = trainer.peak_bytes() as f64;
    println!("{counted} bytes are counted at the peak, the allocator sees {peak}");
    assert!((0.9..1.1).contains(&(counted / peak)), "{counted} bytes are counted, the allocator sees {peak}");
    let weight = &trainer.model.params[0];
    let (gradient, momentum) = (4 * weight.nnz(), 4 * weight.nnz());
    [weight.nnz() as f64, (weight.bytes() + gradient + momentum) as f64, resting, peak]
}

/// [`training`] in a process of its own.
fn counted(density: f64) -> [f64; 4] {
    let mut test = std::process::Command::new(std::env::current_exe().unwrap());
    let name = "a_nonzero_takes_few_bytes_in_a_step_and_in_a_rewiring";
    let output = test.args(["--exact", name, "--nocapture"]).env(CASE, density.to_string()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let numbers = said.lines().find_map(|l| l.split_once(CASE)).unwrap_or_else(|| panic!("{said}")).1;
    let numbers: Vec<f64> = numbers.split_whitespace().map(|n| n.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

fn training_with_momentum_takes_at_most_20_bytes_a_nonzero() {
    for density in [0.05, 0.01] {
        let [nnz, account, resting, peak] = counted(density);
        // The same network without most of its connections: what does not grow with them, activations above all.
        let [few, _, few_resting, few_peak] = counted(density / 10.0);
        let [resting, measured] = [(resting - few_resting) / (nnz - few), (peak - few_peak) / (nnz - few)];
        println!(
            "density {density}: {:.2} bytes a nonzero by the account; counted {measured:.2} at the peak of a step, \
             {resting:.2} between steps, {:.2} with all that does not grow with the nonzeros",
            account / nnz,
            peak / nnz
        );
        // Nothing is there twice, and nothing is left out of the account.
        assert!((18.0..=20.0).contains(&(account / nnz)), "{:.2} bytes by the account", account / nnz);
        assert!(measured <= 20.0, "{measured:.2} bytes a nonzero");
    }
}
