//! The smallest |w| + λ |∂L/∂w| are dropped, and as many random zeros grown with value zero (elastic mutation). With a soft
//! memory bound growth comes first: between two rewirings the replaced fraction exists in addition, and the next one drops to
//! the budget before it grows again.
//!
//! Cost: at each rewiring the gradient of the connections that exist.
//!
//! Deviations: no training rows are left out (the subject of the paper's second half); λ is chosen here, since the authors' scripts
//! were not available and their code's default of 0 is magnitude.

use nnz_core::{Build, Criterion, Decay, Distribution, DropGrow, PerLayer, Redistribution, Method, Random, Result, Rewiring, Rng, Setting, Shape, Signals, Target, MethodInstance, allocate, at_least, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "mest",
    "MEST",
    "Drops connections with small weight and small gradient and draws new ones at random.",
);

options! {
    #[flatten]
    /// Fraction, decay, interval and end.
    rewiring: Rewiring = Rewiring { decay: Decay::Linear, ..Rewiring::RIGL },
    /// λ.
    gradient: f32 = 0.1 => at_least(0.0),
    /// Whether the memory bound is soft.
    soft: bool = false,
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        let Self { rewiring, gradient, soft } = self;
        let (budget, every) = (rewiring.born.budget, rewiring.every.steps(setting).max(1));
        let exchange: Box<dyn Redistribution> = match soft {
            true => Box::new(Soft {
                distribution: budget.distribution.build(),
                density: budget.density,
                last: rewiring.until.steps(setting).saturating_sub(1) / every * every,
            }),
            false => Box::new(PerLayer),
        };
        let plain = rewiring.drop_grow(setting, Both(gradient), Random { std: 0.0 });
        Ok(DropGrow { exchange, ..plain }.into())
    }
}

/// |w| + λ |∂L/∂w|
struct Both(f32);

impl Criterion for Both {
    fn needs(&self) -> Signals {
        Signals::GRADIENT
    }

    fn score(&self, target: &Target, _: &mut Rng) -> Vec<f32> {
        target.values.iter().zip(target.gradient).map(|(w, g)| w.abs() + self.0 * g.abs()).collect()
    }
}

/// Drops to the budget, then grows by the fraction, except the last time.
struct Soft {
    distribution: Box<dyn Distribution>,
    density: f64,
    last: u64,
}

impl Redistribution for Soft {
    fn counts(&mut self, step: u64, fraction: f64, targets: &[Target]) -> Result<Vec<[usize; 2]>> {
        let shapes: Vec<&Shape> = targets.iter().map(|t| t.shape).collect();
        let budgets = allocate(&*self.distribution, &shapes, &[], self.density)?;
        let count = |(t, budget): (&Target, usize)| {
            let grown = if step == self.last { 0 } else { (fraction * budget as f64) as usize };
            [t.topology.nnz().saturating_sub(budget), grown]
        };
        Ok(targets.iter().zip(budgets).map(count).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::{Edit, Rewiring, Topology};

    #[test]
    fn weight_and_gradient_count() {
        let (shape, topology) = (Shape::matrix("a", 1, 3), Topology::full(1, 3));
        let target = Target { gradient: &[5.0, 0.0, -1.0], ..Target::new(0, &shape, &topology, &[0.1, -0.3, 0.0]) };
        assert_eq!(Both(0.1).score(&target, &mut Rng::stream(0, "", 0, 0)), [0.6, 0.3, 0.1]);
    }

    #[test]
    fn a_soft_bound_holds_more_between_rewirings_and_ends_at_the_budget() {
        let setting = Setting { seed: 0, steps: 400, steps_per_epoch: 100 };
        let mut rewiring = Rewiring { decay: Decay::Constant, fraction: 0.5, ..Rewiring::RIGL };
        rewiring.born.budget.density = 0.2;
        let mut method = Options { rewiring, soft: true, ..Options::default() }.build(&setting).unwrap().sparsifier;
        let shape = Shape::matrix("a", 10, 10);
        let mut topology = method.initial_topologies(&[&shape]).unwrap().unwrap().remove(0);
        let mut sizes = Vec::new();
        for step in [100, 200] {
            let values: Vec<f32> = (0..topology.nnz()).map(|i| 1.0 + i as f32).collect();
            let target = Target { gradient: &values, ..Target::new(0, &shape, &topology, &values) };
            let Edit::Rewire { topology: new, .. } = method.rewire(step, &[target]).unwrap().remove(0) else { panic!() };
            topology = new;
            sizes.push(topology.nnz());
        }
        assert_eq!(sizes, [30, 20], "step 200 is the last before 300");
    }
}
