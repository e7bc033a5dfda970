//! Gradual magnitude pruning from a half-dense random start, one threshold for the network, along a cubic ramp; at each pruning the
//! fraction of smallest |w| more is dropped in each layer and as many zeros of largest |∂L/∂w| are grown back
//! (neuroregeneration).
//!
//! Cost: that of RigL: at each pruning the gradient of the zeros, on a batch that makes no update.
//!
//! Deviations: the ramp begins with the run and ends with rewiring.

use nnz_core::{Build, Decay, DropGrow, Error, Redistribution, Global, Gradient, Magnitude, Method, Result, Rewiring, GrowthCandidates, Setting, Shape, Static, Target, MethodInstance, above, options, Distribution};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "granet",
    "GraNet",
    "Prunes gradually from a sparse start and grows back at each pruning where the gradient is large.",
);

options! {
    #[flatten]
    /// Density at the end; grown fraction, decay, interval and end.
    rewiring: Rewiring = Rewiring { fraction: 0.5, ..Rewiring::RIGL },
    /// Zeros considered for growth.
    growth: GrowthCandidates = GrowthCandidates::Exact,
    /// Density at the start.
    initial_density: f64 = 0.5 => above(0.0).at_most(1.0),
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        let Self { rewiring, growth, initial_density: initial } = self;
        let density = rewiring.born.budget.density;
        if !(initial >= density && initial <= 1.0) {
            let range = format!("between the density {density} and 1");
            return Err(Error::Range { name: "initial_density", range, got: initial });
        }
        let every = rewiring.every.steps(setting).max(1);
        let end = rewiring.until.steps(setting).saturating_sub(1) / every * every;
        let plain = rewiring.drop_grow(setting, Magnitude, Gradient(growth));
        let initial_topology = Static { density: initial, ..plain.initial_topology };
        Ok(DropGrow { exchange: Box::new(Ramp { initial, density, end }), initial_topology, ..plain }.into())
    }
}

struct Ramp {
    initial: f64,
    density: f64,
    end: u64,
}

impl Redistribution for Ramp {
    fn counts(&mut self, step: u64, fraction: f64, targets: &[Target]) -> Result<Vec<[usize; 2]>> {
        let density = self.density + Decay::Cubic.at(self.initial - self.density, step, self.end);
        let shapes: Vec<&Shape> = targets.iter().map(|t| t.shape).collect();
        let sizes: Vec<Vec<f32>> = targets.iter().map(|t| t.values.iter().map(|v| v.abs()).collect()).collect();
        let left = Global.allocate(&shapes, &sizes, density)?;
        let count = |(t, left): (&Target, usize)| {
            let grown = ((fraction * left as f64) as usize).min(t.shape.len() - left);
            [t.topology.nnz() - left + grown, grown]
        };
        Ok(targets.iter().zip(left).map(count).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::Topology;

    #[test]
    fn prunes_along_the_ramp_and_grows_back_the_fraction() {
        let shapes = [Shape::matrix("a", 4, 10), Shape::matrix("b", 4, 10)];
        let topology = Topology::from_positions(4, 10, 0..20);
        let values: [Vec<f32>; 2] = [1.0, 10.0].map(|scale| (1..=20).map(|i| scale * i as f32).collect());
        let targets = [0, 1].map(|i| Target::new(i, &shapes[i], &topology, &values[i]));
        let mut ramp = Ramp { initial: 0.5, density: 0.1, end: 200 };
        // Halfway 0.1 + 0.4 / 8 = 0.15 of 80 are left, which are all b's: a layer that would be empty is refused.
        assert!(ramp.counts(100, 0.5, &targets).unwrap_err().to_string().contains("`a`"));
        let near: [Vec<f32>; 2] = [1.0, 1.5].map(|scale| (1..=20).map(|i| scale * i as f32).collect());
        let targets = [0, 1].map(|i| Target::new(i, &shapes[i], &topology, &near[i]));
        let counts = ramp.counts(100, 0.5, &targets).unwrap();
        let left: Vec<usize> = counts.iter().map(|[lost, got]| 20 - lost + got).collect();
        assert_eq!(left.iter().sum::<usize>(), 12);
        counts.iter().zip(left).for_each(|([_, got], left)| assert_eq!(*got, left / 2));
        let end: usize = ramp.counts(200, 0.0, &targets).unwrap().iter().map(|[lost, got]| 20 - lost + got).sum();
        assert_eq!(end, 8);
    }
}
