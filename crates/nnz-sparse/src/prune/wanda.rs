//! Keeps the largest |w_ij| |x_j|, with |x_j| the norm of an input over the data, among an output's weights. Values stay.
//!
//! Cost: for each layer a pass over `rows` rows and the second moments of its inputs, O(cols²) memory; then one ranking.
//!
//! Deviations: the root of the mean square replaces the norm, which does not change the order.

use super::Sequential;
use nnz_core::{Budget, Build, DistributionKind, Edit, Method, Pattern, Period, Result, Setting, Target, MethodInstance, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "wanda",
    "Wanda",
    "Removes the weights of each output that are small times the size of their input.",
);

options! {
    #[flatten]
    /// Density, its distribution and the pattern.
    budget: Budget = Budget { pattern: Pattern::PerRow, ..Budget::new(0.5, DistributionKind::Uniform) },
    /// When a training run prunes.
    at: Period = Period::Run(1.0),
    /// Training rows over which inputs are measured.
    rows: usize = 1024,
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        let Self { budget, at, rows } = self;
        let prune = move |t: &Target, count: usize| {
            let topology = t.topology.filter(&budget.pattern.select(t.topology, &scores(t), count));
            Ok(Edit::Rewire { topology, grown: Vec::new() })
        };
        Ok(Sequential::new("wanda", budget, at, rows, setting, prune)?.into())
    }
}

/// Root of the mean square of each input, `[cols]`.
pub(super) fn sizes(gram: &[f64], cols: usize) -> Vec<f64> {
    (0..cols).map(|j| gram[j * cols + j].max(0.0).sqrt()).collect()
}

/// |w| times the size of its input, `[nnz]`.
pub(super) fn scores(t: &Target) -> Vec<f32> {
    let sizes = sizes(t.gram, t.shape.cols);
    t.topology.columns().iter().zip(t.values).map(|(&c, w)| (f64::from(w.abs()) * sizes[c as usize]) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::{Shape, Topology};

    #[test]
    fn a_weight_counts_as_much_as_its_input_is_large() {
        let (shape, full) = (Shape::matrix("a", 2, 4), Topology::full(2, 4));
        let values = [1.0f32, -2.0, 3.0, 4.0, 4.0, 3.0, 2.0, 1.0];
        let mut gram = [0.0; 16];
        [100.0, 1.0, 4.0, 0.25].iter().enumerate().for_each(|(j, s)| gram[5 * j] = *s);
        let target = Target { gram: &gram, ..Target::new(0, &shape, &full, &values) };
        assert_eq!(scores(&target), [10.0, 2.0, 6.0, 2.0, 40.0, 3.0, 4.0, 0.5]);
        let setting = Setting { seed: 0, steps: 0, steps_per_epoch: 1 };
        let mut work = Options::default().build(&setting).unwrap().sparsifier;
        let edits = work.rewire(0, &[target]).unwrap();
        let Edit::Rewire { topology, .. } = &edits[0] else { panic!("nothing was pruned") };
        assert_eq!(topology.positions().collect::<Vec<_>>(), [0, 2, 4, 6], "half of every output");
    }
}
