//! N:M with a mask that hardens gradually, so that gradients flow through masked weights while they matter. Mask
//! decay: the forward pass takes w (m + (1 - m) β_t) with β falling from 1 to 0, linearly or exponentially. Structure decay: a
//! hard mask that becomes sparser, N:M from (M-1):M over M/2:M, M/4:M, ... (`stepwise`), or kN:kM with k = 8, 4, 2, 1
//! (`geometric`), in spans of equal length. Gradients reach all weights as if there were no mask.
//!
//! Cost: that of SR-STE: weights are dense; masks take O(entries · M) at every step.
//!
//! Deviations: β reaches zero (linear) or e⁻⁵ (exponential) at `until`, while the paper gives its slope per step; the rest of
//! the run trains the weights in the final mask. Groups of kM that do not divide a row are cut at its end.

use super::sr_ste::{self, SrSte, largest};
use nnz_core::{Build, Edit, Leaf, Mask, Method, MethodInstance, Moment, Parametrization, Pattern, Period, Result, Setting, Shape, Variable, Weight, options};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "decay-masks",
    "Decaying N:M masks",
    "Lets N:M masks harden step by step, so that gradients reach masked weights while the mask forms.",
)
.revised(2)
.quick("pattern = \"1:2\"");

/// Schedule on which a mask hardens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hardening {
    /// β = 1 - t / T.
    Linear,
    /// β = e^(-5 t / T).
    Exponential,
    /// (M-1):M, M/2:M, M/4:M, ... N:M.
    Stepwise,
    /// 8N:8M, 4N:4M, 2N:2M, N:M.
    Geometric,
}

options! {
    /// N:M
    pattern: Pattern = Pattern::Nm { n: 2, m: 4, flat: false },
    /// `linear` or `exponential` (mask decay), `stepwise` or `geometric` (structure decay).
    decay: Hardening = Hardening::Exponential,
    /// Dense training before it begins.
    from: Period = Period::Run(0.1),
    /// Time at which the mask is hard and fixed.
    until: Period = Period::Run(0.8),
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        let hard = sr_ste::Options { pattern: self.pattern, shrink: 0.0, until: self.until };
        let hard = hard.masks("decay-masks", setting)?;
        Ok(hard.work(setting, Decaying { hard, decay: self.decay, from: self.from.steps(setting) }))
    }
}

struct Decaying {
    /// The final mask.
    hard: SrSte,
    decay: Hardening,
    from: u64,
}

impl Decaying {
    /// N, M and the factor β of masked weights, at a step.
    fn at(&self, step: u64) -> (usize, usize, f64) {
        let SrSte { n, m, until, .. } = self.hard;
        if step < self.from {
            return (m, m, 1.0);
        }
        let t = (step - self.from) as f64 / until.saturating_sub(self.from).max(1) as f64;
        let span = |count: usize| ((t * count as f64) as usize).min(count - 1);
        match self.decay {
            Hardening::Linear => (n, m, (1.0 - t).max(0.0)),
            Hardening::Exponential => (n, m, (-5.0 * t).exp()),
            Hardening::Stepwise => {
                let halves = std::iter::successors(Some(m / 2), |k| Some(k / 2)).take_while(|&k| k > n);
                let kept: Vec<usize> = std::iter::once(m - 1).filter(|&k| k > n).chain(halves).chain([n]).collect();
                (kept[span(kept.len())], m, 0.0)
            }
            Hardening::Geometric => {
                let k = 8 >> span(4);
                (k * n, k * m, 0.0)
            }
        }
    }
}

impl Parametrization for Decaying {
    fn leaves(&self, shape: &Shape, weight: &[f64]) -> Vec<Leaf> {
        SrSte::dense(shape, weight)
    }

    fn weight(&self, at: Moment, shape: &Shape, leaves: &[Variable]) -> Weight {
        let (w, (n, m, beta)) = (&leaves[0], self.at(at.step));
        // Groups end with their row.
        let kept: Vec<bool> = w.values().chunks(shape.cols.max(1)).flat_map(|w| largest(w, n, m)).collect();
        let mask = Arc::new(Mask::from_bools(&kept));
        let shown = w.masked(&mask) + beta * w.masked(&Arc::new(mask.complement()));
        Weight::Matrix(shown.straight_to(w))
    }

    fn until(&self) -> u64 {
        self.hard.until
    }

    fn freeze(&self, shape: &Shape, leaves: &[Leaf]) -> Option<Edit> {
        self.hard.freeze(shape, leaves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_engine::pulled;

    fn at(n: usize, m: usize, decay: Hardening) -> impl Fn(u64) -> (usize, usize, f64) {
        move |step| Decaying { hard: SrSte { n, m, flat: false, shrink: 0.0, until: 110 }, decay, from: 10 }.at(step)
    }

    #[test]
    fn schedules_are_the_papers() {
        let linear = at(1, 8, Hardening::Linear);
        assert_eq!([linear(5), linear(10), linear(60), linear(110)], [(8, 8, 1.0), (1, 8, 1.0), (1, 8, 0.5), (1, 8, 0.0)]);
        let exponential = at(1, 8, Hardening::Exponential);
        assert!((exponential(60).2 - (-2.5f64).exp()).abs() < 1e-12);
        let stepwise = at(1, 16, Hardening::Stepwise);
        let kept: Vec<usize> = [10, 30, 50, 70, 90].map(|s| stepwise(s).0).to_vec();
        assert_eq!(kept, [15, 8, 4, 2, 1]);
        let geometric = at(2, 4, Hardening::Geometric);
        assert_eq!([10, 35, 60, 85].map(geometric), [(16, 32, 0.0), (8, 16, 0.0), (4, 8, 0.0), (2, 4, 0.0)]);
    }

    #[test]
    fn masked_weights_count_by_beta_and_end_at_n_of_m() {
        let hard = SrSte { n: 1, m: 2, flat: false, shrink: 0.0, until: 4 };
        let p = Decaying { hard, decay: Hardening::Linear, from: 0 };
        let shape = Shape::matrix("a", 1, 4);
        let leaves = p.leaves(&shape, &[1.0, -2.0, 3.0, 4.0]);
        let pulled = pulled(&p, (2, 0), &shape, &leaves, &[1.0, 2.0, 3.0, 4.0]);
        assert_eq!((&pulled.weight[..], &pulled.leaves[0][..]), (&[0.5, -2.0, 1.5, 4.0][..], &[1.0, 2.0, 3.0, 4.0][..]));
        let Some(Edit::Set { values, .. }) = p.freeze(&shape, &leaves) else { panic!() };
        assert_eq!(values, [-2.0, 4.0]);
    }
}
