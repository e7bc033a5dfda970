//! A soft mask by optimal transport: the scores of n entries send their mass to two bins, keep (k of n) and drop, at entropic
//! cost ε. In closed form m_i = σ((s_i - τ) / ε) with τ such that Σ m = k exactly. The weight is w ⊙ m; w and s are
//! trained together. A proximal step for each update makes the temperature fall as ε / t, so that the mask hardens by itself.
//! Its gradient is implicit, ∂m_i/∂s_j = g_i (δ_ij - g_j / Σ g) with g = m (1 - m) / ε_t: that of one more step of Newton's
//! for τ.
//!
//! Cost: weights and scores are dense; the mask is O(n) for each of about ten Newton steps, at every step.
//!
//! Deviations: the transport is solved exactly at each step, where the paper makes one Sinkhorn iteration (its limit is the
//! same); the cost is linear in the score; every entry has the same mass; scores begin at |w| over its mean. At `until` the k
//! entries of highest score are kept and the rest of the run trains those.

use nnz_core::{Budget, Build, CheckOnly, DistributionKind, Edit, Error, Expr, Leaf, Magnitude, Method, MethodInstance, Moment, OneShot, Parametrization, Pattern, Period, Result, Setting, Shape, Topology, Variable, Weight, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "transport-pruning",
    "Transportation pruning",
    "Trains a soft mask of exact budget by optimal transport, which hardens while it trains.",
)
.revised(2);

options! {
    #[flatten]
    /// Budget of every layer; distribution `uniform`, pattern `unstructured`.
    budget: Budget = Budget::new(0.1, DistributionKind::Uniform),
    /// Temperature ε at the first epoch; in epoch t it is ε / t.
    temperature: f64 = 0.5,
    /// Time at which the mask becomes hard.
    until: Period = Period::Run(0.6),
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        let Budget { density, distribution, pattern, .. } = self.budget;
        if (distribution, pattern) != (DistributionKind::Uniform, Pattern::Unstructured) {
            let why = "transport-pruning gives every layer the same density, unstructured; leave pattern and distribution out";
            return Err(Error::Refused(why.into()));
        }
        let (until, epoch) = (self.until.steps(setting), setting.steps_per_epoch.max(1));
        let mask = SoftMask { density, temperature: self.temperature, until, epoch };
        let idle = CheckOnly(self.budget.prune(Magnitude, OneShot { at: until, density }, setting));
        Ok(MethodInstance { parametrization: Some(Box::new(mask)), ..MethodInstance::from(idle) })
    }
}

struct SoftMask {
    density: f64,
    temperature: f64,
    until: u64,
    epoch: u64,
}

impl SoftMask {
    fn count(&self, entries: usize) -> usize {
        ((self.density * entries as f64).round() as usize).max(1)
    }

    /// ε_t
    fn temperature(&self, step: u64) -> f64 {
        self.temperature / (1.0 + step as f64 / self.epoch as f64)
    }
}

impl Parametrization for SoftMask {
    fn leaves(&self, shape: &Shape, weight: &[f64]) -> Vec<Leaf> {
        let mean = weight.iter().map(|w| w.abs()).sum::<f64>() / weight.len().max(1) as f64;
        let scores = weight.iter().map(|w| w.abs() / mean.max(1e-300)).collect();
        let dims = vec![shape.rows, shape.cols];
        let weight = Leaf { name: "weight", dims: dims.clone(), values: weight.to_vec(), decays: true };
        vec![weight, Leaf { name: "scores", dims, values: scores, decays: false }]
    }

    fn weight(&self, at: Moment, _: &Shape, leaves: &[Variable]) -> Weight {
        let (w, s, epsilon) = (&leaves[0], &leaves[1], self.temperature(at.step));
        let scores = s.values();
        let count = self.count(scores.len());
        if count >= scores.len() {
            return Weight::Matrix((**w).clone());
        }
        let (found, slope) = threshold(&scores, count as f64, epsilon);
        let mask = |tau: Expr| ((&**s - tau) * (1.0 / epsilon)).sigmoid();
        // Raising one score raises τ. The step is zero, since Σ m is k here; its slope is not.
        let sum = mask(found.into()).sum();
        let tau = (&sum - sum.stop()) * (epsilon / slope.max(1e-30)) + found;
        Weight::Matrix(&**w * mask(tau))
    }

    fn until(&self) -> u64 {
        self.until
    }

    fn freeze(&self, shape: &Shape, leaves: &[Leaf]) -> Option<Edit> {
        let scores: Vec<f32> = leaves[1].values.iter().map(|&s| s as f32).collect();
        let full = Topology::full(shape.rows, shape.cols);
        let topology = full.filter(&Pattern::Unstructured.select(&full, &scores, self.count(scores.len())));
        let values = topology.positions().map(|p| leaves[0].values[p as usize]).collect();
        Some(Edit::Set { topology, values })
    }
}

/// τ with Σ m = count for m_i = σ((s_i - τ) / ε) and count below the number of scores, and Σ m (1 - m) there. Newton's steps from
/// the score of rank `count`, inside a bracket that is halved where they leave it; O(n) for each of about ten.
fn threshold(scores: &[f64], count: f64, epsilon: f64) -> (f64, f64) {
    let sums = |tau: f64| {
        let all = soft(scores, tau, epsilon);
        all.fold((0.0, 0.0), |(sum, slope), m| (sum + m, slope + m * (1.0 - m)))
    };
    // Beyond these no mask of that side is above, or below, what the budget asks for.
    let reach = epsilon * (scores.len() as f64 + 1.0).ln() + 1e-9;
    let mut low = scores.iter().copied().fold(f64::INFINITY, f64::min) - reach;
    let mut high = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max) + reach;
    let mut sorted = scores.to_vec();
    let mut tau = *sorted.select_nth_unstable_by(count as usize, |a, b| b.total_cmp(a)).1;
    for _ in 0..100 {
        let (sum, slope) = sums(tau);
        if (sum - count).abs() < 1e-10 * count {
            break;
        }
        if sum > count { low = tau } else { high = tau }
        let next = tau + (sum - count) * epsilon / slope;
        tau = if next > low && next < high { next } else { 0.5 * (low + high) };
    }
    (tau, sums(tau).1)
}

/// σ((s - τ) / ε)
fn soft(scores: &[f64], tau: f64, epsilon: f64) -> impl Iterator<Item = f64> {
    scores.iter().map(move |s| 1.0 / (1.0 + ((tau - s) / epsilon).exp()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_engine::pulled;
    use nnz_core::Rng;

    fn soft(scores: &[f64], count: f64, epsilon: f64) -> Vec<f64> {
        super::soft(scores, threshold(scores, count, epsilon).0, epsilon).collect()
    }

    #[test]
    fn the_budget_is_exact_at_every_temperature() {
        let mut rng = Rng::stream(0, "scores", 0, 0);
        let scores: Vec<f64> = (0..200).map(|_| rng.normal()).collect();
        for epsilon in [10.0, 1.0, 0.1, 1e-3] {
            for count in [1.0, 20.0, 137.0, 199.0] {
                let sum: f64 = soft(&scores, count, epsilon).iter().sum();
                assert!((sum - count).abs() < 1e-6, "{epsilon} {count}: {sum}");
            }
        }
        // Cold, it is the choice of the k largest.
        let hard = soft(&[0.3, 0.9, 0.1, 0.5], 2.0, 1e-3);
        assert!(hard.iter().zip([0.0, 1.0, 0.0, 1.0]).all(|(m, want)| (m - want).abs() < 1e-6), "{hard:?}");
    }

    /// The plan of entropic transport by Sinkhorn's iteration: rows of mass 1/n, columns k/n and 1 - k/n.
    #[test]
    fn the_closed_form_is_the_plan_of_sinkhorn() {
        let (scores, k, epsilon) = ([0.2, -0.4, 1.3, 0.7, 0.0], 2.0, 0.5);
        let mut v = [1.0, 1.0];
        let kernel = scores.map(|s: f64| [(s / epsilon).exp(), 1.0]);
        let mut u = [1.0; 5];
        for _ in 0..2000 {
            (0..5).for_each(|i| u[i] = 0.2 / (kernel[i][0] * v[0] + kernel[i][1] * v[1]));
            for (j, mass) in [k / 5.0, 1.0 - k / 5.0].into_iter().enumerate() {
                v[j] = mass / (0..5).map(|i| u[i] * kernel[i][j]).sum::<f64>();
            }
        }
        for (i, m) in soft(&scores, k, epsilon).into_iter().enumerate() {
            assert!((m - 5.0 * u[i] * kernel[i][0] * v[0]).abs() < 1e-6, "{i}");
        }
    }

    /// The gradient of the scores is the closed form, whose entries add up to zero.
    #[test]
    fn the_gradient_is_implicit() {
        let (p, shape) = (SoftMask { density: 0.5, temperature: 0.5, until: 9, epoch: 1 }, Shape::matrix("a", 1, 4));
        let leaves = p.leaves(&shape, &[0.3, -0.9, 0.1, 0.5]);
        let gradient = [1.0, -2.0, 0.5, 3.0];
        let found = pulled(&p, (0, 0), &shape, &leaves, &gradient).leaves;
        let mask = soft(&leaves[1].values, 2.0, 0.5);
        let slope: Vec<f64> = mask.iter().map(|m| m * (1.0 - m) / 0.5).collect();
        let of_mask: Vec<f64> = leaves[0].values.iter().zip(gradient).map(|(w, g)| w * g).collect();
        let common = slope.iter().zip(&of_mask).map(|(s, g)| s * g).sum::<f64>() / slope.iter().sum::<f64>();
        for i in 0..4 {
            assert!((found[1][i] - slope[i] * (of_mask[i] - common)).abs() < 1e-9, "{i}: {found:?}");
            assert!((found[0][i] - mask[i] * gradient[i]).abs() < 1e-9, "{i}: {found:?}");
        }
    }
}
