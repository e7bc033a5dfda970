//! Forward passes use the largest |θ| of each layer, the set A; gradients go to a larger set B, which explores. Weight decay on A, and
//! stronger by 1 / density on what only B has, lets the two compete (section 2.2).
//!
//! θ is dense, as in the paper, which keeps it off the accelerator; this is a parametrization and does not save memory.
//!
//! Cost: θ is dense; two selections of each layer at every step.
//!
//! Deviations: both sets are chosen again at every step (the paper does so every hundred and finds no difference).

use nnz_core::{Budget, Build, DistributionKind, Edit, Error, CheckOnly, Leaf, Magnitude, Method, OneShot, Parametrization, Pattern, Period, Result, Setting, Shape, Topology, MethodInstance, at_least, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "top-kast",
    "Top-KAST",
    "Computes with the largest weights of each layer and trains somewhat more than those.",
);

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

    fn weight(&self, _: u64, leaves: &[Leaf]) -> Vec<f64> {
        let theta = &leaves[0].values;
        theta.iter().zip(self.largest(theta, 1.0)).map(|(t, a)| if a { *t } else { 0.0 }).collect()
    }

    fn vjp(&self, _: u64, leaves: &[Leaf], gradient: &[f64]) -> Vec<Vec<f64>> {
        let b = self.largest(&leaves[0].values, self.backward);
        vec![gradient.iter().zip(b).map(|(g, b)| if b { *g } else { 0.0 }).collect()]
    }

    fn straight_through(&self) -> bool {
        true
    }

    fn penalty(&self, _: u64, leaves: &[Leaf], gradients: &mut [Vec<f64>]) {
        let theta = &leaves[0].values;
        let sets = self.largest(theta, 1.0).into_iter().zip(self.largest(theta, self.backward));
        for ((g, t), (a, b)) in gradients[0].iter_mut().zip(theta).zip(sets) {
            *g += match (a, b) {
                (true, _) => self.decay * t,
                (false, true) => self.decay / self.density * t,
                _ => 0.0,
            };
        }
    }

    fn until(&self) -> u64 {
        self.until
    }

    fn freeze(&self, shape: &Shape, leaves: &[Leaf]) -> Edit {
        let theta = &leaves[0].values;
        let topology = Topology::full(shape.rows, shape.cols).filter(&self.largest(theta, 1.0));
        let values = topology.positions().map(|p| theta[p as usize]).collect();
        Edit::Set { topology, values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_is_seen_b_is_trained_and_what_only_b_has_decays_faster() {
        let sets = Sets { density: 0.25, backward: 2.0, decay: 0.1, until: 9 };
        let shape = Shape::matrix("a", 2, 4);
        let leaves = sets.leaves(&shape, &[8.0, -7.0, 6.0, -5.0, 4.0, 3.0, 2.0, 1.0]);
        assert_eq!(sets.weight(0, &leaves), [8.0, -7.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(sets.vjp(0, &leaves, &[1.0; 8]), [[1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]]);
        let mut gradients = [vec![0.0; 8]];
        sets.penalty(0, &leaves, &mut gradients);
        let expected = [0.8, -0.7, 0.1 / 0.25 * 6.0, 0.1 / 0.25 * -5.0, 0.0, 0.0, 0.0, 0.0];
        assert!(gradients[0].iter().zip(expected).all(|(g, e): (&f64, f64)| (g - e).abs() < 1e-12), "{gradients:?}");
        let Edit::Set { topology, values } = sets.freeze(&shape, &leaves) else { panic!() };
        assert_eq!((topology.nnz(), values), (2, vec![8.0, -7.0]));
    }
}
