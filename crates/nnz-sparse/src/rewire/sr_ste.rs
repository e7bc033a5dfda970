//! N:M from scratch: the forward pass takes the N largest |w| of every M consecutive inputs, w ⊙ m, chosen anew at every step.
//! Gradients reach all weights as if there were no mask, and weights outside it decay faster: g + λ (1 - m) w (eq. 7).
//!
//! Cost: weights are dense; masks take O(entries · M) at every step.
//!
//! Deviations: the paper shrinks by λ_w in addition to the optimizer's own weight decay, which is done here under plain descent;
//! under Adam the term goes through the moments like a gradient. At `until` the mask is fixed and the rest of the run
//! trains the weights in it.

use nnz_core::{Budget, Build, DistributionKind, Edit, Error, CheckOnly, Leaf, Magnitude, Method, OneShot, Parametrization, Pattern, Period, Result, Setting, Shape, Topology, MethodInstance, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "sr-ste",
    "SR-STE",
    "Trains N:M masks from scratch with straight-through gradients that shrink what is masked.",
)
.quick("pattern = \"1:2\"");

options! {
    /// N:M
    pattern: Pattern = Pattern::Nm { n: 2, m: 4 },
    /// λ: how strongly masked weights shrink.
    shrink: f64 = 2e-4,
    /// Time at which the mask is fixed.
    until: Period = Period::Run(1.0),
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        let masks = self.masks("sr-ste", setting)?;
        Ok(masks.work(setting, masks))
    }
}

impl Options {
    /// Builds the parametrization for these options; `method` is named if they are invalid.
    pub(super) fn masks(&self, method: &str, setting: &Setting) -> Result<SrSte> {
        let Pattern::Nm { n, m } = self.pattern else {
            let why = format!("{method} keeps a pattern N:M, such as 2:4, not {}", self.pattern);
            return Err(Error::Refused(why));
        };
        Ok(SrSte { n, m, shrink: self.shrink, until: self.until.steps(setting) })
    }
}

/// Whether each weight of a row-major matrix is among the `n` largest |w| of its `m` consecutive ones, ties to the first. The
/// last group of a matrix may be shorter. O(entries · m).
pub(super) fn largest(weights: &[f64], n: usize, m: usize) -> Vec<bool> {
    let group = |w: &[f64]| -> Vec<bool> {
        let ahead = |i: usize, j: usize| w[j].abs() > w[i].abs() || (w[j].abs() == w[i].abs() && j < i);
        (0..w.len()).map(|i| (0..w.len()).filter(|&j| ahead(i, j)).count() < n).collect()
    };
    weights.chunks(m).flat_map(group).collect()
}

/// w where the mask is set, `outside(w)` elsewhere.
pub(super) fn gated(w: &[f64], mask: &[bool], outside: impl Fn(f64) -> f64) -> Vec<f64> {
    w.iter().zip(mask).map(|(&w, m)| if *m { w } else { outside(w) }).collect()
}

/// A dense weight of which the passes see N of M inputs. Other N:M methods hold one and change what the passes see.
#[derive(Clone, Copy)]
pub(super) struct SrSte {
    pub n: usize,
    pub m: usize,
    pub shrink: f64,
    pub until: u64,
}

impl SrSte {
    /// The instance for a parametrization that ends like this one: in an N:M topology at `until`.
    pub(super) fn work(&self, setting: &Setting, p: impl Parametrization + 'static) -> MethodInstance {
        let pattern = Pattern::Nm { n: self.n, m: self.m };
        let density = pattern.fixed_density().unwrap_or(1.0);
        let budget = Budget { pattern, ..Budget::new(density, DistributionKind::Uniform) };
        let idle = CheckOnly(budget.prune(Magnitude, OneShot { at: self.until, density }, setting));
        MethodInstance { parametrization: Some(Box::new(p)), ..MethodInstance::from(idle) }
    }

    fn mask(&self, w: &[f64]) -> Vec<bool> {
        largest(w, self.n, self.m)
    }
}

impl Parametrization for SrSte {
    fn leaves(&self, shape: &Shape, weight: &[f64]) -> Vec<Leaf> {
        vec![Leaf { name: "weight", dims: vec![shape.rows, shape.cols], values: weight.to_vec(), decays: true }]
    }

    fn weight(&self, _: u64, leaves: &[Leaf]) -> Vec<f64> {
        let w = &leaves[0].values;
        gated(w, &self.mask(w), |_| 0.0)
    }

    fn vjp(&self, _: u64, _: &[Leaf], gradient: &[f64]) -> Vec<Vec<f64>> {
        vec![gradient.to_vec()]
    }

    fn straight_through(&self) -> bool {
        true
    }

    fn penalty(&self, _: u64, leaves: &[Leaf], gradients: &mut [Vec<f64>]) {
        let w = &leaves[0].values;
        let masked = gradients[0].iter_mut().zip(w).zip(self.mask(w)).filter(|(_, m)| !m);
        masked.for_each(|((g, w), _)| *g += self.shrink * w);
    }

    fn until(&self) -> u64 {
        self.until
    }

    fn freeze(&self, shape: &Shape, leaves: &[Leaf]) -> Edit {
        let (w, mask) = (&leaves[0].values, self.mask(&leaves[0].values));
        let values = w.iter().zip(&mask).filter(|(_, m)| **m).map(|(w, _)| *w).collect();
        Edit::Set { topology: Topology::full(shape.rows, shape.cols).filter(&mask), values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_of_every_group_carry_the_pass_and_the_others_shrink() {
        let p = SrSte { n: 1, m: 2, shrink: 0.5, until: 9 };
        let shape = Shape::matrix("a", 1, 4);
        let leaves = p.leaves(&shape, &[1.0, -2.0, 3.0, 3.0]);
        assert_eq!(p.weight(0, &leaves), [0.0, -2.0, 3.0, 0.0], "ties to the first");
        let mut pulled = p.vjp(0, &leaves, &[1.0; 4]);
        p.penalty(0, &leaves, &mut pulled);
        assert_eq!(pulled, [[1.5, 1.0, 1.0, 2.5]]);
        let Edit::Set { topology, values } = p.freeze(&shape, &leaves) else { panic!() };
        assert_eq!((topology.positions().collect::<Vec<_>>(), values), (vec![1, 2], vec![-2.0, 3.0]));
    }
}
