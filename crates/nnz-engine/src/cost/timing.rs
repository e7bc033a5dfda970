//! Times of the kernels on one layer, compared with a dense product of the same shape.

use crate::Result;
use crate::cost::Machine;
use crate::{Layout, Optimizer, OptimizerSpec, Param, Storage, Tensor, Var, ops};
use nnz_core::{Pattern, Rng, Shape, Topology};
use nnz_kernels::{Blocked, Csr, Expanded, Plan, Sliced, Start, TILE, Tiled, Tuning, gemm};
use serde::Serialize;
use std::hint::black_box;
use std::time::Instant;

/// Rounds whose median counts.
const ROUNDS: usize = 5;
/// Turns of a kernel and the dense product beside it.
const KERNEL_TURNS: usize = 3;

/// One kernel on one layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Where zeros may fall.
    pub pattern: Pattern,
    /// Nonzeros / entries.
    pub density: f64,
    /// Samples.
    pub batch: usize,
    /// `plan`, which trains; `blocked`, `sliced` and `expanded`, which are frozen.
    pub kernel: &'static str,
    /// Milliseconds of a forward pass.
    pub forward: f64,
    /// Milliseconds of both gradients; `None` if the kernel cannot train.
    pub backward: Option<f64>,
    /// Milliseconds of a training step: forward, backward, refresh of copied values; forward alone if it cannot train.
    pub step: f64,
    /// Milliseconds of the same step with a dense weight.
    pub dense_ms: f64,
    /// Dense time divided by this one.
    pub speedup_step: f64,
    /// Smallest and largest of such ratios in several turns: the noise of the measurement.
    pub speedup_range: [f64; 2],
    /// 10⁹ operations on nonzeros per second, in the step.
    pub gflops: f64,
    /// Resource that limits the step.
    pub bound: &'static str,
    /// Fraction of that limit that is reached.
    pub share: f64,
}

/// Measures the median seconds of `f` over a few rounds of at least a millisecond each.
pub fn seconds(mut f: impl FnMut()) -> f64 {
    f();
    let start = Instant::now();
    f();
    let repeat = (1e-3 / start.elapsed().as_secs_f64().max(1e-9)).ceil().clamp(1.0, 1e4) as usize;
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            (0..repeat).for_each(|_| f());
            start.elapsed().as_secs_f64() / repeat as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

/// Turns that two computations are measured in.
const TURNS: usize = 7;

/// Two computations, measured by turns, so that a busy machine slows both.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// Median seconds of the first.
    pub first: f64,
    /// Median seconds of the second.
    pub second: f64,
    /// Median over turns of second / first.
    pub ratio: f64,
    /// Smallest and largest of these ratios: the noise of the measurement.
    pub range: [f64; 2],
}

impl Compared {
    /// Takes the seconds of both in each turn; at least one.
    pub fn of(turns: &[[f64; 2]]) -> Self {
        let sorted = |f: &dyn Fn(&[f64; 2]) -> f64| {
            let mut all: Vec<f64> = turns.iter().map(f).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let ratios = sorted(&|t| t[1] / t[0]);
        let middle = turns.len() / 2;
        Self {
            first: sorted(&|t| t[0])[middle],
            second: sorted(&|t| t[1])[middle],
            ratio: ratios[middle],
            range: [ratios[0], ratios[turns.len() - 1]],
        }
    }

    /// Measures both in every turn; `time(true)` gives the seconds of the second.
    ///
    /// # Errors
    /// Those of `time`.
    pub fn by_turns<E>(mut time: impl FnMut(bool) -> Result<f64, E>) -> Result<Self, E> {
        let turns: Result<Vec<[f64; 2]>, E> = (0..TURNS).map(|_| Ok([time(false)?, time(true)?])).collect();
        Ok(Self::of(&turns?))
    }

    /// Whether the noise leaves open which one is faster.
    pub fn open(&self) -> bool {
        self.range[0] <= 1.0 && self.range[1] >= 1.0
    }
}

/// A layer with random values and activations.
pub struct Layer {
    topology: Topology,
    values: Vec<f32>,
    batch: usize,
    x: Vec<f32>,
    g: Vec<f32>,
}

fn random(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.unit64() as f32 - 0.5).collect()
}

impl Layer {
    /// Draws a random topology; at least one entry.
    pub fn random(rows: usize, cols: usize, density: f64, batch: usize) -> Self {
        Self::patterned(Pattern::Unstructured, rows, cols, density, batch)
    }

    /// Draws a random topology under a pattern; at least one entry.
    pub fn patterned(pattern: Pattern, rows: usize, cols: usize, density: f64, batch: usize) -> Self {
        let nnz = ((rows as f64 * cols as f64 * density).round() as usize).clamp(1, rows * cols);
        let mut rng = Rng::stream(0, "bench", rows as u64, cols as u64);
        Self::new(pattern.random(&Shape::matrix("w", rows, cols), nnz, &mut rng), batch)
    }

    /// Takes a given topology.
    pub fn new(topology: Topology, batch: usize) -> Self {
        let mut rng = Rng::stream(0, "bench", 1, topology.nnz() as u64);
        let (x, g) = (random(&mut rng, batch * topology.cols()), random(&mut rng, batch * topology.rows()));
        Self { values: random(&mut rng, topology.nnz()), topology, batch, x, g }
    }

    /// Its topology.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    fn csr(&self) -> Csr<'_> {
        let t = &self.topology;
        Csr { rows: t.rows(), cols: t.cols(), starts: t.starts(), columns: t.columns() }
    }

    /// Counts the operations of one forward pass over the nonzeros.
    pub fn flop(&self) -> f64 {
        2.0 * self.topology.nnz() as f64 * self.batch as f64
    }

    /// Times forward and backward pass of a dense layer, in seconds.
    pub fn dense(&self) -> [f64; 2] {
        let (rows, cols, batch) = (self.topology.rows(), self.topology.cols(), self.batch);
        let w = vec![0.5f32; rows * cols];
        let (mut y, mut dx, mut dw) = (vec![0.0; batch * rows], vec![0.0; batch * cols], vec![0.0; rows * cols]);
        let (x, g) = (&self.x, &self.g);
        let forward = seconds(|| {
            gemm(batch, rows, cols, x, (cols, 1), &w, (1, cols), Start::Zero, &mut y, rows);
            black_box(&y);
        });
        let backward = seconds(|| {
            gemm(batch, cols, rows, g, (rows, 1), &w, (cols, 1), Start::Zero, &mut dx, cols);
            gemm(rows, cols, batch, g, (1, rows), x, (cols, 1), Start::Zero, &mut dw, cols);
            black_box((&dx, &dw));
        });
        [forward, backward]
    }

    /// Times forward pass, backward pass and refresh of the values with the plan, in seconds.
    pub fn plan(&self) -> [f64; 3] {
        let (t, csr) = (self.topology.transpose(), self.csr());
        let csc = nnz_kernels::Csc { starts: &t.starts, rows: &t.rows, entries: &t.entries };
        let plan = Plan::tuned(csr, csc, Tuning::of(csr.rows, csr.cols, csr.nnz()));
        let values = &self.values;
        let (mut packed, mut dw) = (values.clone(), values.clone());
        let x = Tiled::from_rows(self.batch, csr.cols, &self.x);
        let g = Tiled::from_rows(self.batch, csr.rows, &self.g);
        let (mut y, mut dx) = (g.clone(), x.clone());
        let pack = seconds(|| plan.pack(values, &mut packed));
        let forward = seconds(|| plan.forward(&packed, &x, None, &mut y));
        let backward = seconds(|| plan.backward(values, &x, &g, Some(&mut dx), &mut dw));
        [forward, backward, pack]
    }

    /// Times a forward pass with frozen values, in seconds.
    pub fn sliced(&self) -> f64 {
        let frozen = Sliced::new(self.csr(), &self.values);
        let mut y = vec![0.0; self.batch * self.topology.rows()];
        seconds(|| {
            frozen.apply(self.batch, &self.x, None, &mut y);
            black_box(&y);
        })
    }

    /// Times a forward pass with frozen values, one bit per entry, in seconds.
    pub fn expanded(&self) -> f64 {
        let frozen = Expanded::new(self.csr(), &self.values);
        let mut y = vec![0.0; self.batch * self.topology.rows()];
        seconds(|| {
            frozen.apply(self.batch, &self.x, None, &mut y);
            black_box(&y);
        })
    }

    /// Times a forward pass with values frozen in blocks, from rows to rows, in seconds.
    pub fn blocked(&self) -> f64 {
        let frozen = Blocked::new(self.csr(), &self.values);
        let mut y = vec![0.0; self.batch * self.topology.rows()];
        let (mut xt, mut yt) = (Tiled::zeros(self.batch, frozen.cols()), Tiled::zeros(self.batch, frozen.rows()));
        seconds(|| {
            xt.copy_from_rows(&self.x);
            frozen.forward(&xt, None, false, &mut yt);
            yt.to_rows(&mut y);
            black_box(&y);
        })
    }

    /// Times a training step of this layer alone under a storage, in seconds: both passes from rows to rows, SGD with
    /// momentum.
    pub fn training(&self, storage: Storage) -> Result<f64> {
        let shape = Shape::matrix("w", self.topology.rows(), self.topology.cols());
        let mut params = [Param::from_entries(&shape, true, self.topology.clone(), storage, self.values.clone())?];
        let mut optimizer = Optimizer::new(OptimizerSpec::sgd(0.0), &params);
        let x = Var::leaf(Tensor::new(&[self.batch, shape.cols], self.x.clone()));
        let g = Var::constant(Tensor::new(&[self.batch, shape.rows], self.g.clone()));
        let mut step = || -> Result<()> {
            let leaf = Var::leaf(params[0].value.clone());
            let y = match &params[0].layout {
                Layout::Sparse(connections) => ops::sparse_linear(&x, &leaf, connections, None, None),
                _ => ops::matmul(&x, false, &leaf, true),
            };
            let mut found = y.backward_from(g.clone(), false).map_err(crate::Error::from)?;
            let mut gradient = found.take(&leaf).unwrap_or_else(|| Tensor::zeros(&[0]));
            drop((found, leaf));
            params[0].mask_gradient(&mut gradient);
            optimizer.update(0, &mut params[0], &gradient, 0.0, 1);
            Ok(())
        };
        step()?;
        Ok(seconds(|| step().unwrap_or_else(|e| unreachable!("it went well a moment ago: {e}"))))
    }

    /// Times a forward pass in a kernel that [`crate::cost::frozen`] names, in seconds.
    pub fn frozen(&self, kernel: &str) -> f64 {
        match kernel {
            "sliced" => self.sliced(),
            "expanded" => self.expanded(),
            "blocked" => self.blocked(),
            _ => self.plan()[0],
        }
    }

    /// Times all kernels and the dense product, by turns.
    pub fn rows(&self, machine: &Machine, pattern: Pattern) -> Vec<Row> {
        let (density, batch) = (self.topology.density(), self.batch);
        let row = |kernel, time: &dyn Fn() -> (f64, Option<f64>, f64)| {
            let (mut parts, mut turns) = (Vec::new(), Vec::new());
            for _ in 0..KERNEL_TURNS {
                let (dense, own) = (self.dense(), time());
                let step = own.0 + own.1.unwrap_or(0.0) + own.2;
                turns.push([step, if own.1.is_some() { dense[0] + dense[1] } else { dense[0] }]);
                parts.push(own);
            }
            let compared = Compared::of(&turns);
            let (step, dense) = (compared.first, compared.second);
            let median = turns.iter().position(|t| t[0] == step).unwrap_or(0);
            let (forward, backward, _) = parts[median];
            let passes = if backward.is_some() { 3.0 } else { 1.0 };
            let (bound, least) = machine.bound(kernel, &self.topology, batch, backward.is_some());
            Row {
                pattern,
                density,
                batch,
                kernel,
                forward: forward * 1e3,
                backward: backward.map(|b| b * 1e3),
                step: step * 1e3,
                dense_ms: dense * 1e3,
                speedup_step: compared.ratio,
                speedup_range: compared.range,
                gflops: passes * self.flop() / step / 1e9,
                bound,
                share: least / step,
            }
        };
        let plan = || {
            let [forward, backward, pack] = self.plan();
            (forward, Some(backward), pack)
        };
        let mut rows = vec![row("plan", &plan)];
        if batch <= TILE {
            rows.push(row("blocked", &|| (self.blocked(), None, 0.0)));
        }
        if batch <= 2 {
            rows.push(row("sliced", &|| (self.sliced(), None, 0.0)));
            rows.push(row("expanded", &|| (self.expanded(), None, 0.0)));
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_turn_by_turn() {
        // A machine that slows down threefold between turns slows both.
        let turns = [[1.0, 2.0], [3.0, 6.75], [1.0, 1.5]];
        let found = Compared::of(&turns);
        assert_eq!((found.first, found.second, found.ratio, found.range), (1.0, 2.0, 2.0, [1.5, 2.25]));
        assert!(!found.open());
        assert!(Compared::of(&[[1.0, 1.1], [1.0, 0.9], [1.0, 1.2]]).open());
        let mut calls = 0;
        let error: Result<Compared, &str> = Compared::by_turns(|second| {
            calls += 1;
            if second { Err("refused") } else { Ok(1.0) }
        });
        assert!(error.is_err() && calls == 2);
    }
}
