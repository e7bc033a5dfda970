//! N:M from scratch: the forward pass takes the N largest |w| of every M consecutive inputs, w ⊙ m, chosen anew at every step.
//! Gradients reach all weights as if there were no mask, and weights outside it decay faster: g + λ (1 - m) w (eq. 7).
//!
//! Cost: weights are dense; masks take O(entries · M) at every step. The decay is the gradient of λ/2 Σ ((1 - m) w)².
//!
//! Deviations: the paper shrinks by λ_w in addition to the optimizer's own weight decay, which is done here under plain descent;
//! under Adam the term goes through the moments like a gradient. At `until` the mask is fixed and the rest of the run
//! trains the weights in it.

use nnz_core::{
    Budget, Build, CheckOnly, DistributionKind, Edit, Error, Expr, Leaf, Magnitude, Mask, Method, MethodInstance,
    Moment, OneShot, Parametrization, Pattern, Period, Result, Setting, Shape, Topology, Variable, Weight, options,
};
use std::sync::Arc;

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "sr-ste",
    "SR-STE",
    "Trains N:M masks from scratch with straight-through gradients that shrink what is masked.",
)
.revised(2)
.quick("pattern = \"1:2\"");

options! {
    /// N:M
    pattern: Pattern = Pattern::Nm { n: 2, m: 4, flat: false },
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
        let Pattern::Nm { n, m, flat } = self.pattern else {
            let why = format!("{method} keeps a pattern N:M, such as 2:4, not {}", self.pattern);
            return Err(Error::Refused(why));
        };
        Ok(SrSte { n, m, flat, shrink: self.shrink, until: self.until.steps(setting) })
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

/// A dense weight that shows N of M inputs. Other N:M methods hold one and change what the passes see.
#[derive(Clone, Copy)]
pub(super) struct SrSte {
    pub n: usize,
    pub m: usize,
    pub flat: bool,
    pub shrink: f64,
    pub until: u64,
}

impl SrSte {
    /// The instance for a parametrization that ends like this one: in an N:M topology at `until`.
    pub(super) fn work(&self, setting: &Setting, p: impl Parametrization + 'static) -> MethodInstance {
        let pattern = Pattern::Nm { n: self.n, m: self.m, flat: self.flat };
        let density = pattern.fixed_density().unwrap_or(1.0);
        let budget = Budget { pattern, ..Budget::new(density, DistributionKind::Uniform) };
        let idle = CheckOnly(budget.prune(Magnitude, OneShot { at: self.until, density }, setting));
        MethodInstance { parametrization: Some(Box::new(p)), ..MethodInstance::from(idle) }
    }

    fn mask(&self, w: &Variable) -> Arc<Mask> {
        Arc::new(Mask::from_bools(&largest(&w.values(), self.n, self.m)))
    }

    /// The dense weight, which the gradient of what is shown reaches as it is.
    pub fn dense(shape: &Shape, weight: &[f64]) -> Vec<Leaf> {
        vec![Leaf { name: "weight", dims: vec![shape.rows, shape.cols], values: weight.to_vec(), decays: true }]
    }

    /// w ⊙ m
    pub fn shown(&self, w: &Variable) -> Expr {
        w.masked(&self.mask(w)).straight_to(w)
    }
}

impl Parametrization for SrSte {
    fn leaves(&self, shape: &Shape, weight: &[f64]) -> Vec<Leaf> {
        Self::dense(shape, weight)
    }

    fn weight(&self, _: Moment, _: &Shape, leaves: &[Variable]) -> Weight {
        Weight::Matrix(self.shown(&leaves[0]))
    }

    fn penalty(&self, _: Moment, _: &Shape, leaves: &[Variable]) -> Option<Expr> {
        let w = &leaves[0];
        let outside = w.masked(&Arc::new(self.mask(w).complement()));
        (self.shrink > 0.0).then(|| 0.5 * self.shrink * outside.square().sum())
    }

    fn until(&self) -> u64 {
        self.until
    }

    fn freeze(&self, shape: &Shape, leaves: &[Leaf]) -> Option<Edit> {
        let w = &leaves[0].values;
        let topology = Topology::full(shape.rows, shape.cols).filter(&largest(w, self.n, self.m));
        let values = topology.positions().map(|p| w[p as usize]).collect();
        Some(Edit::Set { topology, values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_engine::pulled;

    #[test]
    fn the_largest_of_every_group_carry_the_pass_and_the_others_shrink() {
        let p = SrSte { n: 1, m: 2, flat: false, shrink: 0.5, until: 9 };
        let shape = Shape::matrix("a", 1, 4);
        let leaves = p.leaves(&shape, &[1.0, -2.0, 3.0, 3.0]);
        let pulled = pulled(&p, (0, 0), &shape, &leaves, &[1.0; 4]);
        assert_eq!(pulled.weight, [0.0, -2.0, 3.0, 0.0], "ties to the first");
        assert_eq!(pulled.leaves, [[1.5, 1.0, 1.0, 2.5]]);
        let Some(Edit::Set { topology, values }) = p.freeze(&shape, &leaves) else { panic!() };
        assert_eq!((topology.positions().collect::<Vec<_>>(), values), (vec![1, 2], vec![-2.0, 3.0]));
    }
}
