//! One threshold H for the network: every |w| below it is dropped. Layers then share what was dropped in proportion to the connections
//! they kept and grow at random, with value zero. H is doubled if less than (1 - δ) of the wanted number was dropped, and
//! halved if it was more than (1 + δ) of it (algorithm 1).
//!
//! Cost: at each rewiring one pass over the weights; no gradients.
//!
//! Deviations: no layer loses its last connection; the wanted fraction, initial H and δ are chosen here.

use nnz_core::{Build, Decay, DropGrow, Redistribution, Magnitude, Method, Random, Result, Rewiring, Setting, Target, MethodInstance, above, options};
use serde_json::Value;

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "dsr",
    "DSR",
    "Drops what lies below a threshold that adapts and moves it to layers that kept much.",
);

options! {
    #[flatten]
    /// Wanted fraction, its decay, interval and end.
    rewiring: Rewiring = Rewiring { fraction: 0.2, decay: Decay::Cosine, ..Rewiring::RIGL },
    /// Initial threshold H.
    threshold: f64 = 0.05 => above(0.0),
    /// δ: tolerated relative distance from the wanted number.
    tolerance: f64 = 0.1 => above(0.0),
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        let Self { rewiring, threshold, tolerance } = self;
        let plain = rewiring.drop_grow(setting, Magnitude, Random { std: 0.0 });
        Ok(DropGrow { exchange: Box::new(Threshold { height: threshold, tolerance }), ..plain }.into())
    }
}

struct Threshold {
    height: f64,
    tolerance: f64,
}

impl Redistribution for Threshold {
    fn counts(&mut self, _: u64, fraction: f64, targets: &[Target]) -> Result<Vec<[usize; 2]>> {
        let below = |t: &Target| t.values.iter().filter(|v| f64::from(v.abs()) < self.height).count();
        let dropped: Vec<usize> = targets.iter().map(|t| below(t).min(t.topology.nnz().saturating_sub(1))).collect();
        let kept: Vec<usize> = targets.iter().zip(&dropped).map(|(t, d)| t.topology.nnz() - d).collect();
        let weights: Vec<f64> = kept.iter().map(|&k| k as f64).collect();
        let room: Vec<usize> = targets.iter().zip(&kept).map(|(t, k)| t.shape.len() - k).collect();
        let total: usize = dropped.iter().sum();
        let wanted = fraction * targets.iter().map(|t| t.topology.nnz() as f64).sum::<f64>();
        if (total as f64) < (1.0 - self.tolerance) * wanted {
            self.height *= 2.0;
        } else if total as f64 > (1.0 + self.tolerance) * wanted {
            self.height /= 2.0;
        }
        Ok(dropped.into_iter().zip(super::share(total, &weights, &room)).map(|(d, g)| [d, g]).collect())
    }

    fn state(&self) -> Value {
        self.height.into()
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        self.height = state.as_f64().unwrap_or(self.height);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::{Shape, Topology};

    #[test]
    fn layers_that_keep_much_get_much_and_the_threshold_adapts() {
        let shapes = [Shape::matrix("a", 5, 8), Shape::matrix("b", 5, 8)];
        let topology = Topology::from_positions(5, 8, (0..8).map(|i| 5 * i));
        // Six of b's eight lie below 0.1, none of a's.
        let values = [[1.0f32; 8], [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 1.0, -1.0]];
        let target = |i: usize| Target::new(i, &shapes[i], &topology, &values[i]);
        let targets = [target(0), target(1)];
        let mut rule = Threshold { height: 0.1, tolerance: 0.1 };
        // Kept 8 and 2: of six, 4.8 and 1.2.
        assert_eq!(rule.counts(0, 0.375, &targets).unwrap(), [[0, 5], [6, 1]]);
        assert_eq!(rule.height, 0.1, "six of sixteen were wanted");
        rule.counts(0, 0.5, &targets).unwrap();
        assert_eq!(rule.height, 0.2);
        rule.counts(0, 0.1, &targets).unwrap();
        assert_eq!(rule.height, 0.1);
        let mut again = Threshold { height: 9.0, tolerance: 0.1 };
        again.restore(&rule.state()).unwrap();
        assert_eq!(again.height, 0.1);
    }
}
