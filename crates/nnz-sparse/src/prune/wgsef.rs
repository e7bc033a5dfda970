//! Trains towards k nonzero groups. The regularizer is the sparse envelope over groups, the largest convex function below
//! ½ |w|² + [at most k groups are not zero]:
//!
//! S_k(w) = ½ min { Σ_j |w_j|² / u_j : 0 ≤ u ≤ 1, Σ u ≤ k }.
//!
//! Its proximal step after every optimizer step is u_j = clip(|x_j| √(λ/μ) - λ, 0, 1) with μ such that Σ u = k, and
//! w_j = x_j u_j / (u_j + λ), where λ is the strength times the learning rate. Groups are the outputs of a layer.
//!
//! Cost: after every step O(groups) for each of 100 bisections, and one pass over the weights.
//!
//! Deviations: all weights of groups are one, while the paper allows others; at `until` exactly the k groups of largest norm
//! are kept and the rest of the run trains those; the paper's companion for the unregularized part (HSPG) is left out.

use nnz_core::{Budget, Build, DistributionKind, TargetMut, Magnitude, Method, OneShot, Pattern, Period, Plan, Prune, Result, Setting, Shape, Sparsifier, Target, MethodInstance, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "wgsef",
    "WGSEF",
    "Trains with a regularizer whose proximal step leaves a chosen number of neurons or filters.",
);

options! {
    #[flatten]
    /// Density of groups in every layer; pattern `row`.
    budget: Budget = Budget { pattern: Pattern::Row, ..Budget::new(0.25, DistributionKind::Uniform) },
    /// Strength of the regularizer.
    strength: f64 = 0.02,
    /// Time at which the groups are chosen for good.
    until: Period = Period::Run(0.75),
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        let until = self.until.steps(setting);
        let prune = self.budget.prune(Magnitude, OneShot { at: until, density: self.budget.density }, setting);
        Ok(Wgsef { prune, until, density: self.budget.density, strength: self.strength }.into())
    }
}

struct Wgsef {
    prune: Prune,
    until: u64,
    density: f64,
    strength: f64,
}

impl Sparsifier for Wgsef {
    fn check(&self, shapes: &[&Shape]) -> Result<()> {
        self.prune.check(shapes)
    }

    fn plan(&self, step: u64) -> Plan {
        self.prune.plan(step)
    }

    fn proximal(&self) -> bool {
        true
    }

    fn after_step(&mut self, step: u64, lr: f64, targets: &mut [TargetMut]) {
        if step >= self.until {
            return;
        }
        for t in targets {
            let starts = t.topology.starts();
            let groups = starts.windows(2).map(|w| w[0]..w[1]);
            let norm = |g: std::ops::Range<usize>| t.values[g].iter().map(|w| w * w).sum::<f64>().sqrt();
            let norms: Vec<f64> = groups.clone().map(norm).collect();
            let k = (self.density * norms.len() as f64).round().max(1.0);
            for (group, factor) in groups.zip(shrink(&norms, k, self.strength * lr)) {
                t.values[group].iter_mut().for_each(|w| *w *= factor);
            }
        }
    }

    fn rewire(&mut self, step: u64, targets: &[Target]) -> Result<Vec<nnz_core::Edit>> {
        self.prune.rewire(step, targets)
    }
}

/// u of a group under μ.
fn share(norm: f64, lambda: f64, mu: f64) -> f64 {
    (norm * (lambda / mu).sqrt() - lambda).clamp(0.0, 1.0)
}

/// Factors of the proximal step of λ S_k for the groups, from their norms. O(groups) for each of 100 bisections.
fn shrink(norms: &[f64], k: f64, lambda: f64) -> Vec<f64> {
    let positive = norms.iter().filter(|n| **n > 0.0).count() as f64;
    if lambda <= 0.0 {
        return vec![1.0; norms.len()];
    }
    if k >= positive {
        return vec![1.0 / (1.0 + lambda); norms.len()];
    }
    // Σ u falls as μ grows; the bounds make every u one, or zero.
    let (largest, smallest) = (norms.iter().copied().fold(0.0, f64::max), norms.iter().copied().filter(|n| *n > 0.0));
    let smallest = smallest.fold(f64::INFINITY, f64::min);
    let (mut low, mut high) = (lambda * (smallest / (1.0 + lambda)).powi(2), (largest * largest / lambda).max(1e-300));
    for _ in 0..100 {
        let middle = (low * high).sqrt();
        match norms.iter().map(|&n| share(n, lambda, middle)).sum::<f64>() > k {
            true => low = middle,
            false => high = middle,
        }
    }
    norms.iter().map(|&n| share(n, lambda, high)).map(|u| u / (u + lambda)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::Rng;

    /// S_k over norms, by bisection on the multiplier: u_j = min(1, n_j / √ν).
    fn envelope(norms: &[f64], k: f64) -> f64 {
        let (mut low, mut high): (f64, f64) = (1e-18, 1e6);
        for _ in 0..200 {
            let nu = (low * high).sqrt();
            let sum: f64 = norms.iter().map(|n| (n / nu.sqrt()).min(1.0)).sum();
            if sum > k { low = nu } else { high = nu }
        }
        let u = |n: f64| (n / high.sqrt()).min(1.0);
        0.5 * norms.iter().filter(|n| **n > 0.0).map(|&n| n * n / u(n)).sum::<f64>()
    }

    #[test]
    fn the_envelope_is_below_half_the_square_and_meets_it_on_k_groups() {
        assert!((envelope(&[3.0, 4.0, 0.0, 0.0], 2.0) - 12.5).abs() < 1e-6);
        // With k = 1 it is ½ (Σ n)², the square of the 1-norm; brute force over a grid of u agrees.
        assert!((envelope(&[1.0, 2.0, 3.0], 1.0) - 18.0).abs() < 1e-6);
        let norms = [0.5, 1.5, 2.0];
        let steps = 400;
        let grid = (1..=steps).flat_map(|a| (1..=steps).map(move |b| [a, b])).filter_map(|[a, b]| {
            let (a, b) = (f64::from(a) / f64::from(steps), f64::from(b) / f64::from(steps));
            let c = (2.0 - a - b).min(1.0);
            (c > 0.0).then(|| 0.5 * (norms[0] * norms[0] / a + norms[1] * norms[1] / b + norms[2] * norms[2] / c))
        });
        let brute = grid.fold(f64::INFINITY, f64::min);
        assert!((envelope(&norms, 2.0) - brute).abs() < 1e-3, "{} {brute}", envelope(&norms, 2.0));
    }

    #[test]
    fn no_other_point_is_better_than_the_proximal_step() {
        let mut rng = Rng::stream(0, "prox", 0, 0);
        for case in 0..20 {
            let x: Vec<f64> = (0..6).map(|_| rng.normal().abs()).collect();
            let (k, lambda) = (1.0 + f64::from(case % 4), [0.01, 0.3, 2.0][case as usize % 3]);
            let cost = |w: &[f64]| {
                let near: f64 = w.iter().zip(&x).map(|(w, x)| 0.5 * (w - x).powi(2)).sum();
                near + lambda * envelope(&w.iter().map(|w| w.abs()).collect::<Vec<_>>(), k)
            };
            let w: Vec<f64> = shrink(&x, k, lambda).iter().zip(&x).map(|(f, x)| f * x).collect();
            let best = cost(&w);
            for _ in 0..2000 {
                let size = 10f64.powf(-3.0 * f64::from(rng.unit()));
                let other: Vec<f64> = w.iter().map(|w| w + size * rng.normal()).collect();
                assert!(cost(&other) > best - 1e-9, "case {case}: {} < {best} at {other:?}", cost(&other));
            }
        }
    }

    #[test]
    fn a_strong_step_leaves_k_groups() {
        let factors = shrink(&[1.0, 0.2, 0.9, 0.1, 0.3], 2.0, 100.0);
        assert_eq!(factors.iter().map(|f| *f > 0.0).collect::<Vec<_>>(), [true, false, true, false, false]);
    }
}
