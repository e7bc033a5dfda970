//! Prune, then exchange weights without training: in each output, the expected error of pruning is e = Σ_j w_j E[x_j] over
//! the pruned j. While |e| is above a threshold, the pruned weight that lowers it most for the variance of its input,
//! argmax sign(e) w_j E[x_j] / Var[x_j], is regrown, and of the kept ones whose removal lowers it, sign(e) w_k E[x_k] < 0, the
//! one of smallest |w_k| |x_k| is pruned; an exchange that would turn the sign of e ends the row. Values stay.
//!
//! Cost: for each layer a pass over `rows` rows and O(cols²) memory, as Wanda; then at most `cycles` exchanges per row.
//!
//! Deviations: none known; of the reference's variants, pruning by any sign is left out.

use super::{Sequential, wanda};
use nnz_core::{Budget, Build, DistributionKind, Edit, Error, Method, Pattern, Period, Result, Setting, Target, MethodInstance, options};
use serde::{Deserialize, Serialize};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "dsnot",
    "DSnoT",
    "Exchanges pruned weights for kept ones of the same output until its expected error is gone.",
);

/// Initial mask of the exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// The largest |w| |x|.
    #[default]
    Wanda,
    /// The largest |w|.
    Magnitude,
}

options! {
    #[flatten]
    /// Density, its distribution and the pattern.
    budget: Budget = Budget { pattern: Pattern::PerRow, ..Budget::new(0.3, DistributionKind::Uniform) },
    /// When a training run prunes.
    at: Period = Period::Run(1.0),
    /// Initial mask: the weights that `wanda` or `magnitude` keeps.
    start: Start = Start::Wanda,
    /// Most exchanges per row of the weight.
    cycles: usize = 50,
    /// |e| that is small enough.
    threshold: f64 = 0.1,
    /// Training rows over which inputs are measured.
    rows: usize = 1024,
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        let Self { budget, at, start, cycles, threshold, rows } = self;
        let group = match budget.pattern {
            Pattern::Nm { m, .. } => Some(m),
            Pattern::PerRow | Pattern::Unstructured => None,
            other => {
                return Err(Error::Refused(format!(
                    "dsnot exchanges single weights; choose pattern per-row, unstructured or N:M, not {other}"
                )));
            }
        };
        let prune = move |t: &Target, count: usize| {
            let scores = match start {
                Start::Wanda => wanda::scores(t),
                Start::Magnitude => t.values.iter().map(|w| w.abs()).collect(),
            };
            let mut kept = budget.pattern.select(t.topology, &scores, count);
            let inputs = Inputs::of(t);
            for bounds in t.topology.starts().windows(2) {
                let row = bounds[0]..bounds[1];
                let columns = &t.topology.columns()[row.clone()];
                exchange(columns, &t.values[row.clone()], &mut kept[row], &inputs, group, cycles, threshold);
            }
            Ok(Edit::Rewire { topology: t.topology.filter(&kept), grown: Vec::new() })
        };
        Ok(Sequential::new("dsnot", budget, at, rows, setting, prune)?.into())
    }
}

/// Mean, variance and root of the mean square of every input.
struct Inputs {
    mean: Vec<f64>,
    variance: Vec<f64>,
    size: Vec<f64>,
}

impl Inputs {
    fn of(t: &Target) -> Self {
        let size = wanda::sizes(t.gram, t.shape.cols);
        // An input that never changes would cause a division by zero.
        let variance = size.iter().zip(t.mean).map(|(s, m)| (s * s - m * m).max(1e-12)).collect();
        Self { mean: t.mean.to_vec(), variance, size }
    }
}

/// Exchanges weights of one output in place. `group` is the M of N:M; exchanges stay within a group.
fn exchange(
    columns: &[u32],
    weights: &[f32],
    kept: &mut [bool],
    inputs: &Inputs,
    group: Option<usize>,
    cycles: usize,
    threshold: f64,
) {
    let column = |i: usize| columns[i] as usize;
    let share: Vec<f64> = (0..weights.len()).map(|i| f64::from(weights[i]) * inputs.mean[column(i)]).collect();
    let mut error: f64 = (0..weights.len()).filter(|&i| !kept[i]).map(|i| share[i]).sum();
    for _ in 0..cycles {
        if error.abs() <= threshold {
            return;
        }
        let sign = error.signum();
        let gain = |i: usize| sign * share[i] / inputs.variance[column(i)];
        let back = (0..weights.len()).filter(|&i| !kept[i] && sign * share[i] > 0.0);
        let Some(back) = back.max_by(|&a, &b| gain(a).total_cmp(&gain(b)).then(b.cmp(&a))) else { return };
        let size = |i: usize| f64::from(weights[i].abs()) * inputs.size[column(i)];
        let near = |i: usize| group.is_none_or(|m| column(i) / m == column(back) / m);
        let gone = (0..weights.len()).filter(|&i| kept[i] && sign * share[i] < 0.0 && near(i));
        let Some(gone) = gone.min_by(|&a, &b| size(a).total_cmp(&size(b)).then(a.cmp(&b))) else { return };
        let left = error + share[gone] - share[back];
        if left.signum() != sign {
            return;
        }
        (kept[back], kept[gone], error) = (true, false, left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::{Rng, Shape, Topology};

    /// Six inputs by hand: shares are w E[x] = 4, 3, 2, -1, -0.5, 1; the last three are kept, so e = 9.
    #[test]
    fn one_exchange_by_hand() {
        let inputs = Inputs { mean: vec![1.0; 6], variance: vec![4.0, 1.0, 1.0, 1.0, 1.0, 1.0], size: vec![1.0; 6] };
        let weights = [4.0f32, 3.0, 2.0, -1.0, -0.5, 1.0];
        let columns = [0, 1, 2, 3, 4, 5];
        let start = [false, false, false, true, true, true];
        let after = |group, cycles, threshold| {
            let mut kept = start;
            exchange(&columns, &weights, &mut kept, &inputs, group, cycles, threshold);
            kept
        };
        // 3 / 1 is more than 4 / 4; of -1 and -0.5 the smaller goes. e = 9 - 3 - 0.5.
        assert_eq!(after(None, 1, 0.1), [false, true, false, true, false, true]);
        // Then 2 / 1 comes back and -1 goes: e = 5.5 - 2 - 1. Then no kept weight lowers it by leaving.
        assert_eq!(after(None, 50, 0.1), [false, true, true, false, false, true]);
        assert_eq!(after(None, 50, 6.0), after(None, 1, 0.1), "5.5 is below 6");
        assert_eq!(after(None, 50, 9.5), start);
        // In groups of two, weight 3 shares one only with weight 4, which is not kept.
        assert_eq!(after(Some(2), 50, 0.1), start);
        // In one of six all are neighbours.
        assert_eq!(after(Some(6), 50, 0.1), after(None, 50, 0.1));
    }

    #[test]
    fn the_expected_error_falls_in_every_row_and_no_count_changes() {
        let (rows, cols) = (16, 64);
        let mut rng = Rng::stream(3, "layer", 0, 0);
        let mean: Vec<f64> = (0..cols).map(|_| rng.normal()).collect();
        let mut gram = vec![0.0; cols * cols];
        for j in 0..cols {
            gram[j * cols + j] = mean[j] * mean[j] + 0.1 + f64::from(rng.unit());
        }
        let values: Vec<f32> = (0..rows * cols).map(|_| rng.normal() as f32).collect();
        let (shape, full) = (Shape::matrix("a", rows, cols), Topology::full(rows, cols));
        let target = Target { gram: &gram, mean: &mean, ..Target::new(0, &shape, &full, &values) };
        let setting = Setting { seed: 0, steps: 0, steps_per_epoch: 1 };
        let prune = |cycles: usize, pattern: Pattern| {
            let budget = Budget { pattern, ..Budget::new(0.25, DistributionKind::Uniform) };
            let mut work = Options { cycles, budget, ..Options::default() }.build(&setting).unwrap().sparsifier;
            match &work.rewire(0, &[target]).unwrap()[0] {
                Edit::Rewire { topology, .. } => topology.clone(),
                _ => panic!("nothing was pruned"),
            }
        };
        for pattern in [Pattern::PerRow, Pattern::Nm { n: 2, m: 8, flat: false }] {
            let (before, after) = (prune(0, pattern), prune(50, pattern));
            assert_eq!(before.row_degrees(), after.row_degrees());
            let errors = |t: &Topology| -> Vec<f64> {
                let mut errors = vec![0.0; rows];
                (0..rows * cols).filter(|&p| t.find(p as u64).is_none()).for_each(|p| {
                    errors[p / cols] += f64::from(values[p]) * mean[p % cols];
                });
                errors.into_iter().map(f64::abs).collect()
            };
            let (b, a) = (errors(&before), errors(&after));
            assert!(b.iter().zip(&a).all(|(b, a)| a <= b), "{b:?} {a:?}");
            assert!(a.iter().sum::<f64>() < 0.7 * b.iter().sum::<f64>(), "{pattern}: {b:?} {a:?}");
            if let Pattern::Nm { n, m, .. } = pattern {
                let groups = (0..rows * cols / m).all(|g| (0..m).filter(|i| after.find((g * m + i) as u64).is_some()).count() == n);
                assert!(groups);
            }
        }
    }
}
