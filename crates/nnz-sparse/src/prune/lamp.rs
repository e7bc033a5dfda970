//! Magnitude pruning with one threshold for the network and scores that are comparable between layers:
//! score(u) = w_u² / Σ w_v² over the v of the same layer with |w_v| ≥ |w_u| (eq. 3).
//!
//! Cost: one sort per layer, O(nnz log nnz).
//!
//! Deviations: none known.

use nnz_core::{Budget, Build, Criterion, DistributionKind, Method, Once, Result, Rng, Setting, Target, MethodInstance, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "lamp",
    "LAMP",
    "Removes weights that are small beside the larger ones of their layer.",
);

options! {
    #[flatten]
    /// Density and its distribution, and when it is reached.
    once: Once = Once::halfway(Budget::new(0.1, DistributionKind::Global)),
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        Ok(self.once.prune(Lamp, setting).into())
    }
}

struct Lamp;

impl Criterion for Lamp {
    fn score(&self, target: &Target, _: &mut Rng) -> Vec<f32> {
        scores(target.values)
    }
}

/// Computes the score of every weight of a layer; `[nnz]` to `[nnz]`. O(nnz log nnz).
fn scores(weights: &[f32]) -> Vec<f32> {
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|&a, &b| weights[b].abs().total_cmp(&weights[a].abs()).then(a.cmp(&b)));
    let mut scores = vec![0.0; weights.len()];
    let mut larger = 0.0;
    for i in order {
        let square = f64::from(weights[i]).powi(2);
        larger += square;
        scores[i] = if larger > 0.0 { (square / larger) as f32 } else { 0.0 };
    }
    scores
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::{Edit, Shape, Topology};

    #[test]
    fn a_weight_is_divided_by_those_at_least_as_large() {
        assert_eq!(scores(&[3.0, -1.0, 2.0]), [1.0, 1.0 / 14.0, 4.0 / 13.0]);
        assert_eq!(scores(&[0.0, 0.0]), [0.0, 0.0]);
    }

    #[test]
    fn no_layer_loses_its_largest_weight() {
        let setting = Setting { seed: 0, steps: 0, steps_per_epoch: 1 };
        let budget = Budget::new(0.25, DistributionKind::Global);
        let mut method = Options { once: Once::halfway(budget) }.build(&setting).unwrap().sparsifier;
        let shapes = [Shape::matrix("a", 2, 2), Shape::matrix("b", 2, 2)];
        let full = Topology::full(2, 2);
        // Every weight of b is smaller than every weight of a.
        let values = [[4.0f32, 3.0, 2.0, 1.0], [0.1, 0.4, 0.2, 0.3]];
        let target = |index: usize| Target::new(index, &shapes[index], &full, &values[index]);
        let edits = method.rewire(0, &[target(0), target(1)]).unwrap();
        let kept = |p: [u64; 1]| Edit::Rewire { topology: Topology::from_positions(2, 2, p), grown: Vec::new() };
        assert_eq!(edits, [kept([0]), kept([1])]);
    }
}
