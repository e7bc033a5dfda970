//! What a sparse layer costs on this machine, from one short measurement that is kept in the user's cache.
//!
//! Nothing that is trained depends on it: it explains and advises. Storage `auto` follows a threshold that is the same on
//! every machine, so that a run repeats bit for bit anywhere.

use crate::kernels::measure::{Layer, seconds};
use nnz_engine::file::write_atomically;
use nnz_kernels::{Csc, Csr, Isa, Plan, TILE, Tiled, Tuning};
use serde::{Deserialize, Serialize};
use std::hint::black_box;
use std::path::PathBuf;

/// Raised when what is measured changes.
const VERSION: u32 = 1;
const BATCHES: [usize; 4] = [1, 8, 32, 128];
const DENSITIES: [f64; 6] = [0.01, 0.03, 0.1, 0.25, 0.5, 0.8];
/// Outputs and inputs of the layer that is measured.
const SIDE: usize = 768;

/// What was measured, once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    version: u32,
    /// Processor, instruction set and threads it was measured for.
    pub name: String,
    /// GFLOP/s of the sparse kernels with everything in the first-level cache: forward, backward.
    pub in_cache: [f64; 2],
    /// GB/s of reading a long array.
    pub stream: f64,
    /// Seconds by batch and density.
    points: Vec<Point>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    batch: usize,
    density: f64,
    /// Seconds of a sparse step over those of a dense one; of the forward pass for one sample.
    ratio: f64,
}

fn name() -> String {
    format!("{} {:?} {} threads", crate::run::cpu(), Isa::best(), rayon::current_num_threads())
}

/// Where measurements are kept: `$NNZ_CACHE`, else `nnz` in the user's cache directory.
fn folder() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    var("NNZ_CACHE").or_else(|| Some(var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")))?.join("nnz")))
}

impl Machine {
    /// What is known about this machine; measured (a few seconds) when nothing is, or when the file does not hold. Also
    /// says what happened when it measured.
    pub fn load() -> (Self, Option<String>) {
        let name = name();
        let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let Some(file) = folder().map(|f| f.join(format!("kernels-{plain}.json"))) else {
            return (Self::measure(name), Some("measured this machine; there is no cache directory".into()));
        };
        let text = std::fs::read_to_string(&file);
        let found = text.as_ref().ok().map(|text| serde_json::from_str::<Self>(text));
        let why = match found {
            Some(Ok(machine)) if machine.holds(&name) => return (machine, None),
            Some(_) => format!("{} did not hold, so this machine was measured again", file.display()),
            None => "measured this machine for the first time".into(),
        };
        let machine = Self::measure(name);
        let kept = std::fs::create_dir_all(file.parent().unwrap_or(&file)).map_err(|e| e.to_string()).and_then(|()| {
            let text = serde_json::to_string_pretty(&machine).map_err(|e| e.to_string())?;
            write_atomically(&file, text.as_bytes()).map_err(|e| e.to_string())
        });
        let kept = kept.map_or_else(|e| format!("not kept: {e}"), |()| format!("kept in {}", file.display()));
        (machine, Some(format!("{why}; {kept}")))
    }

    /// Whether a file's numbers can be those of this machine.
    fn holds(&self, name: &str) -> bool {
        let sound = |v: f64| v.is_finite() && v > 0.0;
        let whole = BATCHES.iter().all(|&b| DENSITIES.iter().all(|&d| self.ratio_at(b, d).is_some_and(sound)));
        self.version == VERSION
            && self.name == name
            && self.in_cache.into_iter().all(sound)
            && sound(self.stream)
            && whole
    }

    fn ratio_at(&self, batch: usize, density: f64) -> Option<f64> {
        self.points.iter().find(|p| p.batch == batch && p.density == density).map(|p| p.ratio)
    }

    fn measure(name: String) -> Self {
        let mut points = Vec::new();
        for batch in BATCHES {
            let dense = Layer::random(SIDE, SIDE, 1.0, batch).dense();
            for density in DENSITIES {
                let layer = Layer::random(SIDE, SIDE, density, batch);
                let ratio = match batch {
                    1 => layer.sliced() / dense[0],
                    _ => layer.plan().iter().sum::<f64>() / dense.iter().sum::<f64>(),
                };
                points.push(Point { batch, density, ratio });
            }
        }
        let long = vec![1.0f32; 1 << 24];
        let parts = || {
            use rayon::prelude::*;
            let part = |p: &[f32]| {
                let mut sums = [0.0f32; 64];
                p.as_chunks::<64>().0.iter().for_each(|c| (0..64).for_each(|i| sums[i] += c[i]));
                sums.iter().sum::<f32>()
            };
            black_box(long.par_chunks(1 << 16).map(part).sum::<f32>());
        };
        let stream = 4.0 * long.len() as f64 / seconds(parts) / 1e9;
        Self { version: VERSION, name, in_cache: in_cache(), stream, points }
    }

    /// Density above which a dense layer is faster at this batch; 1 when none is.
    pub fn crossover(&self, batch: usize) -> f64 {
        let distance = |b: usize| ((b as f64).ln() - (batch.max(1) as f64).ln()).abs();
        let near = BATCHES.into_iter().min_by(|&a, &b| distance(a).total_cmp(&distance(b))).unwrap_or(1);
        let ratios: Vec<f64> = DENSITIES.iter().filter_map(|&d| self.ratio_at(near, d)).collect();
        let Some(above) = ratios.iter().position(|&r| r >= 1.0) else { return 1.0 };
        if above == 0 {
            return DENSITIES[0] / ratios[0];
        }
        // Time is about linear in density.
        let (d0, d1, r0, r1) = (DENSITIES[above - 1], DENSITIES[above], ratios[above - 1], ratios[above]);
        d0 + (d1 - d0) * (1.0 - r0) / (r1 - r0)
    }

    /// The format this machine should run a layer in.
    pub fn advice(&self, density: f64, batch: usize) -> &'static str {
        match (density >= self.crossover(batch), batch) {
            (true, _) => "dense",
            (false, ..=2) => "sliced",
            _ => "plan",
        }
    }

    /// The resource that limits a layer of `nnz` entries, and the seconds that it allows at best: loads from the
    /// first-level cache, or the memory that values and indices come from. `training` counts the gradients too.
    pub fn bound(&self, nnz: usize, batch: usize, training: bool) -> (&'static str, f64) {
        let flop = 2.0 * nnz as f64 * batch.next_multiple_of(if batch <= 2 { 1 } else { 16 }) as f64;
        let threads = rayon::current_num_threads() as f64;
        let loads =
            flop * (1.0 / self.in_cache[0] + if training { 2.0 / self.in_cache[1] } else { 0.0 }) / threads / 1e9;
        let tiles = batch.div_ceil(TILE) as f64;
        let passes = if training { 2.0 * tiles + 1.0 } else { tiles };
        let memory = 6.0 * nnz as f64 * passes / self.stream / 1e9;
        if memory > loads { ("memory", memory) } else { ("L1 loads", loads) }
    }
}

/// GFLOP/s of one thread with a tile's activations in the first-level cache.
fn in_cache() -> [f64; 2] {
    const N: usize = 64;
    let starts: Vec<usize> = (0..=N).map(|r| r * N / 2).collect();
    let columns: Vec<u32> = (0..N).flat_map(|r| (0..N / 2).map(move |k| (2 * k + r % 2) as u32)).collect();
    // The pattern is its own transpose.
    let entries: Vec<u32> =
        (0..N).flat_map(|c| (0..N / 2).map(move |k| ((2 * k + c % 2) * N / 2 + c / 2) as u32)).collect();
    let csr = Csr { rows: N, cols: N, starts: &starts, columns: &columns };
    let csc = Csc { starts: &starts, rows: &columns, entries: &entries };
    let whole = Tuning { forward_rows: N, forward_cols: N, backward_rows: N, backward_cols: N };
    let plan = Plan::tuned(csr, csc, whole);
    let values = vec![0.5f32; plan.nnz()];
    let x = Tiled::from_rows(TILE, N, &vec![0.25f32; TILE * N]);
    let (mut y, mut dx, mut dw) = (x.clone(), x.clone(), values.clone());
    let flop = 2.0 * (plan.nnz() * TILE) as f64;
    let forward = flop / seconds(|| plan.forward(&values, &x, None, &mut y)) / 1e9;
    let backward = 2.0 * flop / seconds(|| plan.backward(&values, &x, &x, Some(&mut dx), &mut dw)) / 1e9;
    [forward, backward]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sparse time is `factor` times density times dense time.
    fn made_up(factor: f64) -> Machine {
        let one = |batch: usize| DENSITIES.map(|density| Point { batch, density, ratio: factor * density });
        let points = BATCHES.into_iter().flat_map(one).collect();
        Machine { version: VERSION, name: name(), in_cache: [100.0, 100.0], stream: 20.0, points }
    }

    #[test]
    fn dense_wins_above_the_crossover() {
        let machine = made_up(4.0);
        assert!((machine.crossover(128) - 0.25).abs() < 1e-12, "{}", machine.crossover(128));
        assert_eq!(
            [machine.advice(0.2, 128), machine.advice(0.3, 128), machine.advice(0.2, 1)],
            ["plan", "dense", "sliced"]
        );
        assert_eq!(made_up(1.0).crossover(8), 1.0, "sparse is always faster");
        assert!(made_up(1000.0).crossover(8) < 0.01);
    }

    #[test]
    fn only_whole_and_sane_files_hold() {
        let machine = made_up(2.0);
        assert!(machine.holds(&name()) && !machine.holds("another"));
        let broken = [
            Machine { version: 0, ..machine.clone() },
            Machine { stream: f64::NAN, ..machine.clone() },
            Machine { in_cache: [0.0, 1.0], ..machine.clone() },
            Machine { points: machine.points[1..].to_vec(), ..machine.clone() },
        ];
        assert!(broken.iter().all(|m| !m.holds(&name())));
    }

    #[test]
    fn large_layers_at_one_sample_are_bound_by_memory() {
        let machine = made_up(2.0);
        assert_eq!(machine.bound(1 << 24, 1, false).0, "memory");
        assert_eq!(machine.bound(1 << 24, 128, true).0, "L1 loads");
    }
}
