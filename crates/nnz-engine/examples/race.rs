//! The nnz side of `benches/peers/dense.py`: trains a network from a file of weights and data and reports its costs.
//!
//! `race CASE.safetensors THREADS STEPS`. The file's metadata holds the model's specification (`model`, JSON) and the
//! update rule (`optimizer`, JSON); its tensors are the parameters by name, `data` `[rows, ..]` and `labels` (I32). Prints
//! one JSON document: the loss of every step, its milliseconds, and the peak memory of the process.

use nnz_engine::layers::Mode;
use nnz_engine::{Model, ModelSpec, Optimizer, OptimizerSpec, Pass, Storage, Tensor, Var, ops};
use safetensors::SafeTensors;
use std::time::Instant;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, file, threads, steps] = &args[..] else { panic!("race CASE.safetensors THREADS STEPS") };
    let threads = threads.parse().expect("a number of threads");
    let steps: u64 = steps.parse().expect("a number of steps");
    nnz_kernels::threads::build_in_main(threads).expect("one pool");

    let bytes = std::fs::read(file).expect("the case's file");
    let (_, head) = SafeTensors::read_metadata(&bytes).expect("a safetensors file");
    let words = head.metadata().clone().expect("metadata");
    let spec: ModelSpec = serde_json::from_str(&words["model"]).expect("a model's specification");
    let rule: OptimizerSpec = serde_json::from_str(&words["optimizer"]).expect("an update rule");
    let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let floats = |name: &str| -> Vec<f32> {
        let view = tensors.tensor(name).unwrap_or_else(|_| panic!("a tensor `{name}`"));
        view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    let labels: Vec<u32> = tensors
        .tensor("labels")
        .expect("labels")
        .data()
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    let rows = labels.len();

    let mut model = Model::<f32>::born(&spec, None, Storage::Dense, false, 0).expect("a network");
    for p in model.params.iter_mut().filter(|p| p.role.trained()) {
        p.value = Tensor::new(p.value.shape(), floats(&p.shape.name));
    }
    let data = floats("data");
    let input = Tensor::new(&[rows, data.len() / rows], data);
    let mut optimizer = Optimizer::new(rule, &model.params);
    let (mut losses, mut times) = (Vec::new(), Vec::new());
    for step in 0..steps {
        let started = Instant::now();
        let leaves: Vec<Var<f32>> = model.params.iter().map(|p| Var::leaf(p.value.clone())).collect();
        let pass = Pass { mode: Mode::Train { seed: 0, step }, ..Pass::default() };
        let (logits, effects) = model.forward(&Var::constant(input.clone()), &leaves, pass).expect("inputs that fit");
        let loss = ops::cross_entropy(&logits, &labels);
        drop(logits);
        losses.push(loss.value().data()[0]);
        let mut found = loss.backward(false).expect("derivatives");
        let gradients: Vec<_> = leaves.iter().map(|l| found.take(l)).collect();
        drop((found, leaves));
        for (i, (param, gradient)) in model.params.iter_mut().zip(&gradients).enumerate() {
            if let Some(gradient) = gradient {
                optimizer.update(i, param, gradient, rule.lr(), step + 1);
            }
        }
        model.absorb(&effects.statistics);
        times.push(1e3 * started.elapsed().as_secs_f64());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak =
        status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    println!("{}", serde_json::json!({ "losses": losses, "ms": times, "peak_mb": peak.map(|kb| kb / 1024.0) }));
}
