use crate::{Edit, Expr, Shape, Variable};

/// First values of a tensor that is trained in the place of a weight, and what it is again where a method moves it by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    /// Its role, e.g. `scores`.
    pub name: &'static str,
    /// Extents.
    pub dims: Vec<usize>,
    /// Row-major values. The run keeps them in its own number type.
    pub values: Vec<f64>,
    /// Whether weight decay applies to it.
    pub decays: bool,
}

/// Where a training stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Step of the training.
    pub step: u64,
    /// Pass over its batch, from 0; see [`Parametrization::phases`].
    pub phase: u32,
}

/// What layers compute with in the place of a weight `[rows, cols]`.
#[derive(Clone, Debug)]
pub enum Weight {
    /// One matrix.
    Matrix(Expr),
    /// W = F₁ F₂ …, which is never formed: linear layers compute F₁ (F₂ (… x)), convolutions take the last factor for their
    /// kernel and the others pixel by pixel. Layers that cannot (with groups, or transposed) multiply the factors first.
    Factors(Vec<Expr>),
    /// One matrix for the way forward, another for gradients on their way back to the inputs. The gradient of the first is that
    /// of a plain weight.
    TwoWays {
        /// `[rows, cols]`
        forward: Expr,
        /// `[rows, cols]`
        backward: Expr,
    },
}

/// How a weight comes from its leaves. The engine keeps the leaves in the number type of the run, puts the expression on its
/// tape, and takes their gradients from there.
///
/// One object serves every prunable weight, so it holds options and no values. Matrices are row-major `[rows, cols]`. The
/// conformance suite compares gradients of leaves with finite differences of the weight, unless it goes straight through
/// ([`Expr::straight_to`]): then it must be handed on as it is, or be zero where the weight is.
pub trait Parametrization: Send + Sync {
    /// Initial leaves for a weight that would be `weight` if it were plain.
    fn leaves(&self, shape: &Shape, weight: &[f64]) -> Vec<Leaf>;

    /// The weight at a moment. Asked anew for every pass, so that it may depend on the values the leaves have then.
    fn weight(&self, at: Moment, shape: &Shape, leaves: &[Variable]) -> Weight;

    /// What the leaves cost by themselves (sparsity, a divergence), `[1]`: their gradients are those of the loss with it. It is
    /// in no loss that is reported.
    fn penalty(&self, _at: Moment, _shape: &Shape, _leaves: &[Variable]) -> Option<Expr> {
        None
    }

    /// Whether the optimizer moves this leaf. It has no state for the others: constants, and what a step of their own moves.
    fn trains(&self, _leaf: usize) -> bool {
        self.phases() == 0
    }

    /// The step before which leaves become a plain weight again; what is left of the run trains that.
    fn until(&self) -> u64;

    /// The plain weight: an [`Edit::Set`] or an [`Edit::Replace`]; `None` for all entries of the weight as it is.
    fn freeze(&self, _shape: &Shape, _leaves: &[Leaf]) -> Option<Edit> {
        None
    }

    /// Passes over the batch in one [`Parametrization::step`]; 0 leaves the update to the optimizer.
    fn phases(&self) -> u32 {
        0
    }

    /// Its own step at rate `lr`, from the gradient of what is [`Expr::tracked`] in this phase, row-major. Leaves may change their
    /// number and their extents. One weight at a time is in 64 bits meanwhile.
    fn step(&self, _phase: u32, _leaves: &mut Vec<Leaf>, _gradient: &[f64], _lr: f64) {}
}
