//! Times rewirings of SET and steps between them, and prints a checksum of what was trained: two versions of nnz that compute the
//! same print the same. One JSON document.
//!
//!   rewiring INPUTS-HIDDEN-..-HIDDEN DEGREE BATCH REWIRINGS STEPS
//!
//! DEGREE connections for each hidden unit, shared between layers as `er` does; the classifier, of five classes, is dense. STEPS
//! plain steps come before each rewiring.

use nnz_core::{Rng, Setting, TargetKind};
use nnz_engine::data::{Dataset, Inputs, Split};
use nnz_engine::{LrSchedule, ModelSpec, OptimizerSpec, Storage, TrainSpec, Trainer, targets};
use std::time::Instant;

const CLASSES: usize = 5;

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Seconds that all threads have run on a processor; zero where the system does not tell.
fn processor() -> f64 {
    let ran = |stat: String| stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok());
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks.filter_map(|t| std::fs::read_to_string(t.path().join("schedstat")).ok().and_then(ran)).sum::<f64>() * 1e-9
}

fn rows(rows: usize, inputs: usize, rng: &mut Rng) -> Split {
    let values: Vec<f32> = (0..rows * inputs).map(|_| rng.normal() as f32).collect();
    let labels = (0..rows as u32).map(|r| r % CLASSES as u32).collect();
    Split::new(Inputs::Floats(values), labels)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| -> usize { args[i].parse().expect("a number") };
    let widths: Vec<usize> = args[0].split('-').map(|w| w.parse().expect("a width")).collect();
    let (batch, rewirings, steps) = (number(2), number(3), number(4));
    let degree: f64 = args[1].parse().expect("a number");
    let (inputs, hidden) = (widths[0], &widths[1..]);
    let model = ModelSpec::parse(&format!("mlp:{}-{CLASSES}", args[0]), [1, 1, inputs], CLASSES).expect("a model");
    let entries: f64 = targets(&model, false, TargetKind::Weights).iter().map(|s| s.len() as f64).sum();
    let period = steps + 1;
    let total = rewirings * period + 1;
    let mut rng = Rng::stream(0, "rewiring", 0, 0);
    let (train, test) = (rows((total + 2) * batch, inputs, &mut rng), rows(1, inputs, &mut rng));
    let classes = (0..CLASSES).map(|c| c.to_string()).collect();
    let data = Dataset::new("random rows", [1, 1, inputs], classes, train, test, String::new()).expect("data");
    let spec = TrainSpec {
        epochs: 1,
        batch,
        optimizer: OptimizerSpec::sgd((1.0 / hidden[0] as f64).min(0.01)),
        schedule: LrSchedule::Constant,
        warmup: 0.0,
        storage: Storage::Sparse,
        validation: 0.0,
        ..TrainSpec::default()
    };
    let mut options = toml::Table::new();
    options.insert("density".into(), (degree * hidden.iter().sum::<usize>() as f64 / entries).min(1.0).into());
    options.insert("distribution".into(), "er".into());
    options.insert("every".into(), format!("{period} steps").into());
    options.insert("until".into(), "1.0 run".into());
    let method = nnz_core::Registry(nnz_sparse::ROOMS).find("set").expect("set");
    let mut trainer: Trainer<f32> =
        Trainer::new(&model, &data, &spec, 0, |s: &Setting| method.build(&options, s)).expect("a training");
    let mut timed = || {
        let ran = processor();
        let started = Instant::now();
        trainer.advance().expect("a step");
        (started.elapsed().as_secs_f64(), processor() - ran)
    };
    // Rewirings come at steps whose number is a multiple of the period; the first step of all is not timed.
    timed();
    let (mut plain, mut with): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
    for step in 1..total {
        let time = timed();
        if step % period == 0 { with.push(time) } else { plain.push(time) }
    }
    let of = |times: &[(f64, f64)]| {
        let (mut all, mut ran): (Vec<f64>, Vec<f64>) = times.iter().copied().unzip();
        (median(&mut all), median(&mut ran))
    };
    let ((step, step_ran), (with, with_ran)) = (of(&plain), of(&with));
    let mut sum = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |n: u64| sum = (sum ^ n).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    for p in &trainer.model.params {
        let rows = p.by_rows();
        rows.topology.positions().for_each(&mut add);
        rows.of(&p.value).iter().for_each(|v| add(u64::from(v.to_bits())));
    }
    let connections = trainer.model.params.iter().map(|p| p.nnz()).sum::<usize>();
    println!(
        "{{\"widths\":\"{}\",\"connections\":{connections},\"batch\":{batch},\"threads\":{},\"step\":{step:.6},\
         \"rewiring\":{:.6},\"processor\":{:.6},\"bytes\":{},\"checksum\":\"{sum:016x}\"}}",
        args[0],
        rayon::current_num_threads(),
        (with - step).max(0.0),
        (with_ran - step_ran).max(0.0),
        trainer.model.bytes(),
    );
}
