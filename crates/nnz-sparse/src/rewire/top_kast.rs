//! Forward passes use the largest |θ| of each layer, the set A; gradients go to a larger set B, which explores. Weight decay on A, and
//! stronger by 1 / density on what only B has, lets the two compete (section 2.2).
//!
//! θ is dense, as in the paper, which keeps it off the accelerator; this is a parametrization and does not save memory.
//!
//! Cost: θ is dense; two selections of each layer at every step.
//!
//! Deviations: both sets are chosen again at every step (the paper does so every hundred and finds no difference).

use nnz_core::{Budget, Build, CheckOnly, DistributionKind, Edit, Error, Expr, Leaf, Magnitude, Mask, Method, MethodInstance, Moment, OneShot, Parametrization, Pattern, Period, Result, Setting, Shape, Topology, Variable, Weight, at_least, options};
use std::sync::Arc;

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "top-kast",
    "Top-KAST",
    "Computes with the largest weights of each layer and trains somewhat more than those.",
)
.revised(2);

options! {
    #[flatten]
    /// The set A of every layer; distribution `uniform`, pattern `unstructured`.
    budget: Budget = Budget::new(0.1, DistributionKind::Uniform),
    /// Size of B relative to that of A.
    backward: f64 = 2.0 => at_least(1.0),
    /// Weight decay on A.
    decay: f64 = 1e-4 => at_least(0.0),
    /// Time at which the set A is fixed.
    until: Period = Period::Run(0.75),
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        let Budget { density, distribution, pattern, .. } = self.budget;
        if (distribution, pattern) != (DistributionKind::Uniform, Pattern::Unstructured) {
            let why = "top-kast gives every layer the same density, unstructured; leave pattern and distribution out";
            return Err(Error::Refused(why.into()));
        }
        let until = self.until.steps(setting);
        let sets = Sets { density, backward: self.backward, decay: self.decay, until };
        let idle = CheckOnly(self.budget.prune(Magnitude, OneShot { at: until, density }, setting));
        Ok(MethodInstance { parametrization: Some(Box::new(sets)), ..MethodInstance::from(idle) })
    }
}

struct Sets {
    density: f64,
    backward: f64,
    decay: f64,
    until: u64,
}

impl Sets {
    /// Marks the largest entries, `times` as many as the density gives.
    fn largest(&self, theta: &[f64], times: f64) -> Vec<bool> {
        let count = ((self.density * times * theta.len() as f64).round() as usize).clamp(1, theta.len());
        let mut order: Vec<usize> = (0..theta.len()).collect();
        order.select_nth_unstable_by(count - 1, |&a, &b| theta[b].abs().total_cmp(&theta[a].abs()).then(a.cmp(&b)));
        let mut set = vec![false; theta.len()];
        order[..count].iter().for_each(|&i| set[i] = true);
        set
    }
}

impl Parametrization for Sets {
    fn leaves(&self, shape: &Shape, weight: &[f64]) -> Vec<Leaf> {
        vec![Leaf { name: "theta", dims: vec![shape.rows, shape.cols], values: weight.to_vec(), decays: false }]
    }

    /// θ_A, whose gradient goes to θ_B.
    fn weight(&self, _: Moment, _: &Shape, leaves: &[Variable]) -> Weight {
        let (theta, values) = (&leaves[0], leaves[0].values());
        let [a, b] = [1.0, self.backward].map(|times| Arc::new(Mask::from_bools(&self.largest(&values, times))));
        Weight::Matrix(theta.masked(&a).straight_to(&theta.masked(&b)))
    }

    /// decay / 2 (|θ_A|² + |θ_B\A|² / density)
    fn penalty(&self, _: Moment, _: &Shape, leaves: &[Variable]) -> Option<Expr> {
        let (theta, values) = (&leaves[0], leaves[0].values());
        let [a, b] = [1.0, self.backward].map(|times| self.largest(&values, times));
        let only_b: Vec<bool> = a.iter().zip(&b).map(|(a, b)| *b && !a).collect();
        let cost = |set: &[bool]| theta.masked(&Arc::new(Mask::from_bools(set))).square().sum();
        Some(0.5 * self.decay * (cost(&a) + (1.0 / self.density) * cost(&only_b)))
    }

    fn until(&self) -> u64 {
        self.until
    }

    fn freeze(&self, shape: &Shape, leaves: &[Leaf]) -> Option<Edit> {
        let theta = &leaves[0].values;
        let topology = Topology::full(shape.rows, shape.cols).filter(&self.largest(theta, 1.0));
        let values = topology.positions().map(|p| theta[p as usize]).collect();
        Some(Edit::Set { topology, values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_engine::pulled;

    #[test]
    fn a_is_seen_b_is_trained_and_what_only_b_has_decays_faster() {
        let sets = Sets { density: 0.25, backward: 2.0, decay: 0.1, until: 9 };
        let shape = Shape::matrix("a", 2, 4);
        let leaves = sets.leaves(&shape, &[8.0, -7.0, 6.0, -5.0, 4.0, 3.0, 2.0, 1.0]);
        let pulled = pulled(&sets, (0, 0), &shape, &leaves, &[1.0; 8]);
        assert_eq!(pulled.weight, [8.0, -7.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let decayed = pulled.leaves[0].iter().zip([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        let decayed: Vec<f64> = decayed.map(|(g, through)| g - through).collect();
        let expected = [0.8, -0.7, 0.1 / 0.25 * 6.0, 0.1 / 0.25 * -5.0, 0.0, 0.0, 0.0, 0.0];
        assert!(decayed.iter().zip(expected).all(|(g, e): (&f64, f64)| (g - e).abs() < 1e-12), "{decayed:?}");
        let Some(Edit::Set { topology, values }) = sets.freeze(&shape, &leaves) else { panic!() };
        assert_eq!((topology.nnz(), values), (2, vec![8.0, -7.0]));
    }
}
