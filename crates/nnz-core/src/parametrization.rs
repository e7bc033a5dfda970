use crate::{Edit, Shape};

/// A tensor that is trained in the place of a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    /// What it is, e.g. `scores`.
    pub name: &'static str,
    /// Extents.
    pub dims: Vec<usize>,
    /// Row-major values.
    pub values: Vec<f64>,
    /// Whether weight decay applies to it.
    pub decays: bool,
}

/// How a weight comes from its leaves. The engine trains the leaves; layers see the weight.
///
/// One object serves every prunable weight, so it holds options and no values. Weights are row-major `[rows, cols]`, in 64
/// bits. The conformance suite compares [`Parametrization::vjp`] with finite differences of [`Parametrization::weight`],
/// unless it is [`Parametrization::straight_through`].
pub trait Parametrization: Send + Sync {
    /// First leaves of a weight that would be `weight` if it were plain.
    fn leaves(&self, shape: &Shape, weight: &[f64]) -> Vec<Leaf>;

    /// The weight at a step.
    fn weight(&self, step: u64, leaves: &[Leaf]) -> Vec<f64>;

    /// The gradient of every leaf from the gradient of the weight: the vector-Jacobian product of
    /// [`Parametrization::weight`].
    fn vjp(&self, step: u64, leaves: &[Leaf], gradient: &[f64]) -> Vec<Vec<f64>>;

    /// Whether the gradient of the weight is handed to its first leaf as it is, though the weight is another function of it
    /// (Bengio et al. 2013, arXiv:1308.3432). Then [`Parametrization::vjp`] must be that, or zero where the weight is.
    fn straight_through(&self) -> bool {
        false
    }

    /// The matrix that gradients go back through to the inputs, where that is not the weight.
    fn backward(&self, _step: u64, _leaves: &[Leaf]) -> Option<Vec<f64>> {
        None
    }

    /// Whether the optimizer moves this leaf. It has no state for the others: constants, and what a step of their own moves
    /// and remembers.
    fn trains(&self, _leaf: usize) -> bool {
        self.phases() == 0
    }

    /// Adds the gradient of what the leaves cost by themselves (sparsity, a divergence) to theirs.
    fn penalty(&self, _step: u64, _leaves: &[Leaf], _gradients: &mut [Vec<f64>]) {}

    /// The step before which leaves become a plain weight again; what is left of the run trains that.
    fn until(&self) -> u64;

    /// The plain weight: an [`Edit::Set`] or an [`Edit::Replace`].
    fn freeze(&self, shape: &Shape, leaves: &[Leaf]) -> Edit;

    /// Passes over the batch in one step of its own; 0 leaves the update to the optimizer.
    fn phases(&self) -> u32 {
        0
    }

    /// Its own step at rate `lr`, from the gradient of the weight in this phase. Leaves may change their extents.
    fn step(&self, _phase: u32, _leaves: &mut Vec<Leaf>, _gradient: &[f64], _lr: f64) {}
}
