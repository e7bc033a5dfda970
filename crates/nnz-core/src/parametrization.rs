use crate::{Edit, Shape};

/// A tensor that is trained in place of a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    /// Its role, e.g. `scores`.
    pub name: &'static str,
    /// Extents.
    pub dims: Vec<usize>,
    /// Row-major values.
    pub values: Vec<f64>,
    /// Whether weight decay applies to it.
    pub decays: bool,
}

/// Computes a weight from its leaves. The engine trains the leaves; layers see the weight.
///
/// One object serves every prunable weight, so it holds options and no values. Weights are row-major `[rows, cols]`, in 64
/// bits. The conformance suite compares [`Parametrization::vjp`] with finite differences of [`Parametrization::weight`],
/// unless it is [`Parametrization::straight_through`].
pub trait Parametrization: Send + Sync {
    /// Initial leaves for a weight that would be `weight` if it were plain.
    fn leaves(&self, shape: &Shape, weight: &[f64]) -> Vec<Leaf>;

    /// Computes the weight at a step.
    fn weight(&self, step: u64, leaves: &[Leaf]) -> Vec<f64>;

    /// Computes the gradient of every leaf from the gradient of the weight: the vector-Jacobian product of
    /// [`Parametrization::weight`].
    fn vjp(&self, step: u64, leaves: &[Leaf], gradient: &[f64]) -> Vec<Vec<f64>>;

    /// Whether the gradient of the weight goes unchanged to its first leaf, though the weight is another function of it
    /// (Bengio et al. 2013, arXiv:1308.3432). Then [`Parametrization::vjp`] must be that, or zero where the weight is.
    fn straight_through(&self) -> bool {
        false
    }

    /// The matrix through which gradients go back to the inputs, if that is not the weight.
    fn backward(&self, _step: u64, _leaves: &[Leaf]) -> Option<Vec<f64>> {
        None
    }

    /// Whether the optimizer trains this leaf. It keeps no state for the others: constants, and leaves that
    /// [`Parametrization::step`] moves.
    fn trains(&self, _leaf: usize) -> bool {
        self.phases() == 0
    }

    /// Adds the gradients of the leaves' penalty (sparsity, a divergence).
    fn penalty(&self, _step: u64, _leaves: &[Leaf], _gradients: &mut [Vec<f64>]) {}

    /// Step before which leaves are frozen to a plain weight; the rest of the run trains that.
    fn until(&self) -> u64;

    /// Returns the plain weight: an [`Edit::Set`] or an [`Edit::Replace`].
    fn freeze(&self, shape: &Shape, leaves: &[Leaf]) -> Edit;

    /// Passes over the batch in one [`Parametrization::step`]; 0 leaves the update to the optimizer.
    fn phases(&self) -> u32 {
        0
    }

    /// Updates the leaves at rate `lr`, from the gradient of the weight in this phase. Leaves may change their extents.
    fn step(&self, _phase: u32, _leaves: &mut Vec<Leaf>, _gradient: &[f64], _lr: f64) {}
}
