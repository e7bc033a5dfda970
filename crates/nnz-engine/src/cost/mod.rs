//! Costs of a sparse layer on a machine, from one short measurement kept in the user's cache, and the choice that
//! follows: up to which density storage `auto` keeps a weight sparse, and which kernel a frozen layer uses.
//!
//! A choice changes the last bits of sums, so it is made once, when a training begins, and saved with it. It uses this
//! machine's figures if they were measured before, else figures that come with nnz: a training never measures, and
//! on a machine where nobody asked for measurements a recipe gives the same bits as on any other of the kind. The environment
//! variable `NNZ_COST` forces a choice: `sparse`, `dense`, a density up to which sparse wins, or `built-in`.

use crate::cost::timing::{Layer, seconds};
use crate::file::write_atomically;
use crate::{Error, Result};
use crate::{ModelSpec, SparseThresholds, Storage};
use nnz_core::{Shape, Topology};
use nnz_kernels::{Csc, Csr, Isa, Plan, Single, Sliced, TILE, Tiled, Tuning, padded};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::hint::black_box;
use std::path::PathBuf;

pub mod timing;

/// Raised when the set of measurements changes.
const VERSION: u32 = 3;
const SIDES: [usize; 2] = [128, 768];
const BATCHES: [usize; 4] = [1, 8, 32, 128];
const DENSITIES: [f64; 5] = [0.05, 0.2, 0.4, 0.6, 0.85];
/// Choices are rounded to multiples of this, for readability.
const GRID: f64 = 0.05;

/// Use of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Use {
    /// A whole step: both passes from rows to rows, and SGD with momentum.
    Training,
    /// A forward pass with constant values.
    Inference,
}

/// Measured figures of a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    version: u32,
    /// Processor, instruction set and threads it was measured for.
    pub name: String,
    /// GFLOP/s per thread with everything in the first-level cache: tiles of 64 forward, backward, gathering for one sample.
    pub in_cache: [f64; 3],
    /// GFLOP/s of a large dense product on all threads.
    pub dense: f64,
    /// GB/s of reading an array on all threads: one that fits the second-level caches, and a long one.
    pub stream: [f64; 2],
    points: Vec<Point>,
    /// A crossover that overrides the measured ones for every layer.
    #[serde(skip)]
    forced: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    #[serde(rename = "use")]
    what: Use,
    /// Outputs and inputs.
    side: usize,
    batch: usize,
    density: f64,
    /// Time with sparse storage divided by that with dense storage.
    ratio: f64,
}

/// Name of the processor.
pub fn cpu() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|l| l.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_string())
    });
    cpu.unwrap_or_else(|| std::env::consts::ARCH.into())
}

fn name(threads: usize) -> String {
    format!("{} {:?} {threads} threads", cpu(), Isa::best())
}

/// Directory of measurements: `$NNZ_CACHE`, else `nnz` in the user's cache directory.
fn folder() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    var("NNZ_CACHE").or_else(|| Some(var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")))?.join("nnz")))
}

/// File of this machine's figures for a number of threads.
fn cache(threads: usize) -> Option<PathBuf> {
    let plain: String = name(threads).chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Some(folder()?.join(format!("kernels-{plain}.json")))
}

impl Machine {
    /// The figures that come with nnz, of the machine named in them.
    pub fn built_in() -> Self {
        serde_json::from_str(include_str!("built-in.json")).unwrap_or_else(|e| unreachable!("a file of ours: {e}"))
    }

    /// Figures on which this machine chooses storage: those measured before with all its cores, else the built-in ones;
    /// or those that `NNZ_COST` forces. The same for any number of threads, since results are. Also whether they were measured.
    ///
    /// # Errors
    /// When `NNZ_COST` is invalid.
    pub fn chooser() -> Result<(Self, bool)> {
        if let Some(asked) = std::env::var_os("NNZ_COST") {
            return Ok((Self::forced(&asked.to_string_lossy())?, false));
        }
        let cores = nnz_kernels::threads::available();
        Ok(Self::known(cores).map_or_else(|| (Self::built_in(), false), |m| (m, true)))
    }

    /// The built-in figures with the crossover that `NNZ_COST` asks for.
    fn forced(asked: &str) -> Result<Self> {
        let forced = match asked {
            "built-in" => None,
            "sparse" => Some(1.0),
            "dense" => Some(0.0),
            density => Some(density.parse().ok().filter(|d| (0.0..=1.0).contains(d)).ok_or_else(|| {
                let why = format!("NNZ_COST is sparse, dense, built-in or a density from 0 to 1, got `{asked}`");
                Error::Refused(why)
            })?),
        };
        Ok(Self { forced, ..Self::built_in() })
    }

    /// Loads figures measured on this machine before.
    fn known(threads: usize) -> Option<Self> {
        let text = std::fs::read_to_string(cache(threads)?).ok()?;
        serde_json::from_str::<Self>(&text).ok().filter(|m| m.holds(&name(threads)))
    }

    /// Returns this machine's figures; measures them (a few seconds) if there are none, or if the file is invalid. Also
    /// returns a message if it measured.
    ///
    /// # Errors
    /// When the engine refuses a layer to be measured, which would be a bug.
    pub fn load() -> Result<(Self, Option<String>)> {
        let threads = rayon::current_num_threads();
        if let Some(machine) = Self::known(threads) {
            return Ok((machine, None));
        }
        let Some(file) = cache(threads) else {
            return Ok((Self::time_kernels()?, Some("measured this machine; there is no cache directory".into())));
        };
        let why = match file.exists() {
            true => format!("{} did not hold, so this machine was measured again", file.display()),
            false => "measured this machine for the first time".into(),
        };
        let machine = Self::time_kernels()?;
        let kept = std::fs::create_dir_all(file.parent().unwrap_or(&file)).map_err(|e| e.to_string()).and_then(|()| {
            let text = serde_json::to_string_pretty(&machine).map_err(|e| e.to_string())?;
            write_atomically(&file, text.as_bytes()).map_err(|e| e.to_string())
        });
        let kept = kept.map_or_else(|e| format!("not kept: {e}"), |()| format!("kept in {}", file.display()));
        Ok((machine, Some(format!("{why}; {kept}"))))
    }

    /// Whether a file's numbers can be those of this machine.
    fn holds(&self, name: &str) -> bool {
        let sound = |v: f64| v.is_finite() && v > 0.0;
        let every = |what| {
            let at = |side| BATCHES.iter().all(|&batch| self.ratios(what, side, batch).is_some());
            SIDES.into_iter().all(at)
        };
        let whole = every(Use::Training) && every(Use::Inference);
        self.version == VERSION
            && self.name == name
            && self.in_cache.into_iter().all(sound)
            && sound(self.dense)
            && self.stream.into_iter().all(sound)
            && whole
    }

    /// Ratios at all densities; `None` unless all of them are there and sound.
    fn ratios(&self, what: Use, side: usize, batch: usize) -> Option<[f64; DENSITIES.len()]> {
        let mut found = [f64::NAN; DENSITIES.len()];
        for p in self.points.iter().filter(|p| (p.what, p.side, p.batch) == (what, side, batch)) {
            found[DENSITIES.iter().position(|&d| d == p.density)?] = p.ratio;
        }
        found.iter().all(|r| r.is_finite() && *r > 0.0).then_some(found)
    }

    fn time_kernels() -> Result<Self> {
        let mut points = Vec::new();
        for (side, batch) in SIDES.into_iter().flat_map(|s| BATCHES.map(|b| (s, b))) {
            let full = Layer::random(side, side, 1.0, batch).dense()[0];
            for density in DENSITIES {
                let layer = Layer::random(side, side, density, batch);
                let mut point = |what, ratio| points.push(Point { what, side, batch, density, ratio });
                point(Use::Training, layer.training(Storage::Sparse)? / layer.training(Storage::Masked)?);
                point(Use::Inference, layer.frozen(frozen(density, batch)) / full);
            }
        }
        let stream = [1 << 17, 1 << 24].map(|n| stream(rayon::current_num_threads().min(4) * n));
        let product = Layer::random(768, 768, 1.0, 512);
        let dense = product.flop() / product.dense()[0] / 1e9;
        Ok(Self {
            version: VERSION,
            name: name(rayon::current_num_threads()),
            in_cache: in_cache(),
            dense,
            stream,
            points,
            forced: None,
        })
    }

    /// Density above which a dense layer of this shape is faster at this batch; 1 if none is.
    pub fn crossover(&self, what: Use, rows: usize, cols: usize, batch: usize) -> f64 {
        if let Some(forced) = self.forced {
            return forced;
        }
        let nearest = |among: &[usize], n: f64| {
            let far = |m: usize| ((m as f64).ln() - n.max(1.0).ln()).abs();
            among.iter().copied().min_by(|&a, &b| far(a).total_cmp(&far(b))).unwrap_or(1)
        };
        let side = nearest(&SIDES, (rows as f64 * cols as f64).sqrt());
        let Some(ratios) = self.ratios(what, side, nearest(&BATCHES, batch as f64)) else { return 1.0 };
        let Some(above) = ratios.iter().position(|&r| r >= 1.0) else { return 1.0 };
        if above == 0 {
            return DENSITIES[0] / ratios[0];
        }
        // Time is roughly linear in density.
        let (d0, d1, r0, r1) = (DENSITIES[above - 1], DENSITIES[above], ratios[above - 1], ratios[above]);
        d0 + (d1 - d0) * (1.0 - r0) / (r1 - r0)
    }

    /// Density up to which storage `auto` should keep each weight of a network sparse, for steps of `batch` rows. Layers
    /// with several rows per sample count as having one. Kernels of convolutions stay dense: unfolding patches for a
    /// sparse product costs more than it saves.
    pub fn crossovers(&self, what: Use, spec: &ModelSpec, batch: usize) -> SparseThresholds {
        let choose = |shape: Shape| {
            let at = match shape.kernel {
                // Slightly above a multiple of the grid counts as that multiple.
                [1, 1] => (self.crossover(what, shape.rows, shape.cols, batch) / GRID + 1e-6).floor() * GRID,
                _ => 0.0,
            };
            // Two digits, to drop binary rounding.
            (shape.name, (at * 100.0).round() / 100.0)
        };
        SparseThresholds(spec.weights().into_iter().map(choose).collect())
    }

    /// Chooses the kernel of a frozen layer on this machine.
    pub fn advice(&self, rows: usize, cols: usize, density: f64, batch: usize) -> &'static str {
        match density >= self.crossover(Use::Inference, rows, cols, batch) {
            true => "dense",
            false => frozen(density, batch),
        }
    }

    /// The resource that limits a layer in a kernel, and the seconds that it allows at best: loads from the first-level
    /// cache, multiply-adds, or the memory that values and indices come from. `training` includes the gradients.
    pub fn bound(&self, kernel: &str, topology: &Topology, batch: usize, training: bool) -> (&'static str, f64) {
        let (nnz, threads) = (topology.nnz() as f64, rayon::current_num_threads() as f64);
        let entries = (topology.rows() * topology.cols()) as f64;
        let (tiles, last) = (batch / TILE, padded(batch % TILE));
        // Loads per entry: the samples of its input, sixteen at a time, its value and its index.
        let loads = |width: usize| if width == 0 { 0.0 } else { width.div_ceil(16) as f64 + 2.0 };
        let tiled = nnz * 2.0 * TILE as f64 * (tiles as f64 + loads(last) / loads(TILE));
        let [forward, backward, gather] = self.in_cache.map(|g| 1e9 * g * threads);
        let passes = if training { 3.0 } else { 1.0 };
        let (what, at_best, bytes) = match kernel {
            "dense" => ("multiply-adds", passes * 2.0 * entries * batch as f64 / (1e9 * self.dense), 4.0 * entries),
            "sliced" => ("gathers", 2.0 * nnz * batch as f64 / gather, 6.0 * nnz),
            // At least the multiply-adds of every entry, zero or not.
            "expanded" => {
                ("multiply-adds", 2.0 * entries * batch as f64 / (1e9 * self.dense), 4.0 * nnz + entries / 8.0)
            }
            _ => ("L1 loads", tiled / forward + if training { 2.0 * tiled / backward } else { 0.0 }, 6.0 * nnz),
        };
        let times = if training { 2.0 * (tiles + usize::from(last > 0)) as f64 + 1.0 } else { 1.0 };
        let stream = self.stream[usize::from(bytes > 1e6 * threads)];
        let memory = bytes * times / (1e9 * stream);
        if memory > at_best { ("memory", memory) } else { (what, at_best) }
    }
}

/// Measures GB/s of reading `n` numbers repeatedly.
fn stream(n: usize) -> f64 {
    let long = vec![1.0f32; n];
    let part = |p: &[f32]| {
        let mut sums = [0.0f32; 64];
        p.as_chunks::<64>().0.iter().for_each(|c| (0..64).for_each(|i| sums[i] += c[i]));
        sums.iter().sum::<f32>()
    };
    let time = seconds(|| {
        black_box(long.par_chunks(1 << 15).map(part).sum::<f32>());
    });
    4.0 * n as f64 / time / 1e9
}

/// Chooses the sparse kernel for a frozen layer at a density and a batch.
pub fn frozen(density: f64, batch: usize) -> &'static str {
    match batch {
        ..=2 => Single::<f32>::format(density, false),
        3..=TILE => "blocked",
        _ => "plan",
    }
}

/// Measures GFLOP/s of one thread with a tile's activations in the first-level cache.
fn in_cache() -> [f64; 3] {
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
    let frozen = Sliced::new(csr, &values);
    let (x, mut y) = (vec![0.25f32; N], vec![0.0f32; N]);
    let gather = 2.0 * plan.nnz() as f64 / seconds(|| frozen.apply(1, black_box(&x), None, &mut y)) / 1e9;
    [forward, backward, gather]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sparse time is `factor` times density times dense time; twice that in small layers.
    fn made_up(factor: f64) -> Machine {
        let mut points = Vec::new();
        for what in [Use::Training, Use::Inference] {
            for (side, batch) in SIDES.into_iter().flat_map(|s| BATCHES.map(|b| (s, b))) {
                let small = if side == SIDES[0] { 2.0 } else { 1.0 };
                let point = |density| Point { what, side, batch, density, ratio: small * factor * density };
                points.extend(DENSITIES.map(point));
            }
        }
        Machine {
            version: VERSION,
            name: name(2),
            in_cache: [100.0, 100.0, 5.0],
            dense: 200.0,
            stream: [80.0, 20.0],
            points,
            forced: None,
        }
    }

    #[test]
    fn dense_wins_above_the_crossover() {
        let machine = made_up(4.0);
        let at = |side, batch| machine.crossover(Use::Training, side, side, batch);
        assert!((at(1000, 128) - 0.25).abs() < 1e-12 && (at(100, 128) - 0.125).abs() < 1e-12, "{}", at(100, 128));
        let advice = |density, batch| machine.advice(900, 900, density, batch);
        assert_eq!(
            [advice(0.2, 128), advice(0.3, 128), advice(0.2, 8), advice(0.2, 1)],
            ["plan", "dense", "blocked", "sliced"]
        );
        assert_eq!(made_up(0.5).crossover(Use::Training, 500, 500, 8), 1.0, "sparse is always faster");
        assert!(made_up(1000.0).crossover(Use::Training, 500, 500, 8) < 0.01);
    }

    #[test]
    fn a_choice_can_be_forced() {
        let spec = ModelSpec::parse("mlp:784-1000-20-10", [1, 28, 28], 10).unwrap();
        for (asked, at) in [("sparse", 1.0), ("dense", 0.0), ("0.3", 0.3), ("0.05", 0.05), ("0.7", 0.7)] {
            let machine = Machine::forced(asked).unwrap();
            let chosen = machine.crossovers(Use::Training, &spec, 128).0;
            assert!(chosen.len() == 3 && chosen.values().all(|&c| c == at), "{asked}: {chosen:?}");
            assert_eq!(machine.advice(900, 900, 0.5, 128) == "dense", at <= 0.5, "{asked}");
        }
        assert_eq!(Machine::forced("built-in").unwrap(), Machine::built_in());
        for wrong in ["", "1.5", "-0.1", "NaN", "fast"] {
            let error = Machine::forced(wrong).unwrap_err().to_string();
            assert!(error.contains("NNZ_COST") && error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn every_weight_gets_a_choice_of_its_own() {
        let spec = ModelSpec::parse("mlp:784-1000-20-10", [1, 28, 28], 10).unwrap();
        let chosen = made_up(1.6).crossovers(Use::Training, &spec, 128);
        let of = |name: &str| chosen.0[name];
        assert_eq!([of("fc1.weight"), of("fc2.weight"), of("fc3.weight")], [0.6, 0.3, 0.3]);
        let spec = ModelSpec::parse("lenet5", [1, 28, 28], 10).unwrap();
        let chosen = made_up(1.6).crossovers(Use::Training, &spec, 128);
        assert!(spec.weights().iter().filter(|s| s.kernel != [1, 1]).all(|s| chosen.0[&s.name] == 0.0));
    }

    #[test]
    fn only_whole_and_sane_files_hold() {
        let machine = made_up(2.0);
        assert!(machine.holds(&name(2)) && !machine.holds("another"));
        let built_in = Machine::built_in();
        assert!(built_in.holds(&built_in.name));
        let broken = [
            Machine { version: 0, ..machine.clone() },
            Machine { stream: [1.0, f64::NAN], ..machine.clone() },
            Machine { in_cache: [0.0, 1.0, 1.0], ..machine.clone() },
            Machine { points: machine.points[1..].to_vec(), ..machine.clone() },
        ];
        assert!(broken.iter().all(|m| !m.holds(&name(2))));
    }

    #[test]
    fn the_bound_follows_layer_and_batch() {
        let machine = made_up(2.0);
        let topology = Layer::random(2000, 2000, 0.5, 1).topology().clone();
        let bound = |kernel, batch, training| machine.bound(kernel, &topology, batch, training);
        assert_eq!(bound("sliced", 1, false).0, "memory");
        assert_eq!(bound("plan", 128, true).0, "L1 loads");
        assert_eq!((bound("dense", 128, false).0, bound("dense", 1, false).0), ("multiply-adds", "memory"));
        // Eight samples cost half of what 64 do.
        let (eight, many) = (bound("blocked", 8, false).1, bound("blocked", 64, false).1);
        assert!((0.4..0.6).contains(&(eight / many)), "{eight} of {many}");
    }
}
