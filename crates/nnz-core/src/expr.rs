//! What a weight is made of, as an expression of its leaves: said here, computed and differentiated by the engine in the
//! number type of the run.

use crate::{Array, Mask};
use std::ops::{Add, Deref, Mul, Sub};
use std::sync::Arc;

/// A matrix or a number made of leaves. Cloning shares it, and a part that occurs twice is computed once. Two operands of
/// `+`, `-` and `*` (entry by entry) broadcast by NumPy's rule.
///
/// ```
/// # use nnz_core::Expr;
/// # let (w, scores) = (Expr::leaf(0), Expr::leaf(1));
/// let soft = &w * ((scores - 0.5) * 10.0).sigmoid();
/// # assert!(!soft.is_straight());
/// ```
#[derive(Clone, Debug)]
pub struct Expr(Arc<Op>);

/// The last step of an expression.
#[derive(Debug)]
pub enum Op {
    /// A leaf, by its place.
    Leaf(usize),
    /// A constant, `[1]`.
    Number(f64),
    /// a + b
    Add(Expr, Expr),
    /// a - b
    Sub(Expr, Expr),
    /// a ⊙ b
    Mul(Expr, Expr),
    /// The product of two matrices.
    Dot(Expr, Expr),
    /// The transpose of a matrix.
    Transpose(Expr),
    /// The sum of all entries, `[1]`.
    Sum(Expr),
    /// A function of every entry.
    Map(Function, Expr),
    /// Zero outside a mask.
    Masked(Expr, Arc<Mask>),
    /// The first, with the columns of the third, `[rows, columns]`, in the places of its own.
    Columns(Expr, Arc<Vec<usize>>, Expr),
    /// The value, as a constant.
    Stop(Expr),
    /// The value of the first; its gradient goes to the second as it is.
    Through(Expr, Expr),
    /// A value whose gradient a step of its own asks for, as if it were a leaf.
    Tracked(Expr),
}

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// |x|
    Abs,
    /// eˣ
    Exp,
    /// ln x
    Log,
    /// 1 / (1 + e⁻ˣ)
    Sigmoid,
    /// √x
    Sqrt,
    /// tanh x
    Tanh,
}

impl Expr {
    fn of(op: Op) -> Self {
        Self(Arc::new(op))
    }

    /// The leaf at a place.
    pub fn leaf(place: usize) -> Self {
        Self::of(Op::Leaf(place))
    }

    /// Its last step.
    pub fn op(&self) -> &Op {
        &self.0
    }

    /// Equal for two that share one expression.
    pub fn id(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }

    /// a b, the product of two matrices `[m, k]` and `[k, n]`.
    pub fn dot(&self, b: &Self) -> Self {
        Self::of(Op::Dot(self.clone(), b.clone()))
    }

    /// aᵀ
    pub fn t(&self) -> Self {
        Self::of(Op::Transpose(self.clone()))
    }

    /// Σ a, `[1]`.
    pub fn sum(&self) -> Self {
        Self::of(Op::Sum(self.clone()))
    }

    /// a ⊙ a
    pub fn square(&self) -> Self {
        self * self
    }

    /// A function of every entry.
    pub fn map(&self, f: Function) -> Self {
        Self::of(Op::Map(f, self.clone()))
    }

    /// σ(a), entry by entry.
    pub fn sigmoid(&self) -> Self {
        self.map(Function::Sigmoid)
    }

    /// a ⊙ m
    pub fn masked(&self, mask: &Arc<Mask>) -> Self {
        Self::of(Op::Masked(self.clone(), mask.clone()))
    }

    /// The same with `block`, `[rows, columns]`, in the places of some columns.
    pub fn with_columns(&self, columns: Vec<usize>, block: &Self) -> Self {
        Self::of(Op::Columns(self.clone(), Arc::new(columns), block.clone()))
    }

    /// The value as a constant: no gradient flows through it.
    pub fn stop(&self) -> Self {
        Self::of(Op::Stop(self.clone()))
    }

    /// The value of this one, whose gradient goes to `other`, of the same shape, as it is: the straight-through estimator
    /// (Bengio et al. 2013, arXiv:1308.3432).
    pub fn straight_to(&self, other: &Self) -> Self {
        Self::of(Op::Through(self.clone(), other.clone()))
    }

    /// The value of this one, whose gradient [`crate::Parametrization::step`] is handed.
    pub fn tracked(&self) -> Self {
        Self::of(Op::Tracked(self.clone()))
    }

    /// Whether a gradient goes straight through some part, so that it is not that of the value.
    pub fn is_straight(&self) -> bool {
        match self.op() {
            Op::Leaf(_) | Op::Number(_) => false,
            Op::Through(..) => true,
            Op::Add(a, b) | Op::Sub(a, b) | Op::Mul(a, b) | Op::Dot(a, b) | Op::Columns(a, _, b) => {
                a.is_straight() || b.is_straight()
            }
            Op::Transpose(a) | Op::Sum(a) | Op::Map(_, a) | Op::Masked(a, _) | Op::Stop(a) | Op::Tracked(a) => {
                a.is_straight()
            }
        }
    }
}

impl From<&Expr> for Expr {
    fn from(e: &Expr) -> Self {
        e.clone()
    }
}

impl From<f64> for Expr {
    fn from(c: f64) -> Self {
        Self::of(Op::Number(c))
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident $op:ident),*) => {$(
        impl<R: Into<Expr>> $trait<R> for Expr {
            type Output = Expr;
            fn $method(self, other: R) -> Expr {
                Expr::of(Op::$op(self, other.into()))
            }
        }
        impl<R: Into<Expr>> $trait<R> for &Expr {
            type Output = Expr;
            fn $method(self, other: R) -> Expr {
                Expr::of(Op::$op(self.clone(), other.into()))
            }
        }
        impl $trait<Expr> for f64 {
            type Output = Expr;
            fn $method(self, other: Expr) -> Expr {
                Expr::of(Op::$op(self.into(), other))
            }
        }
    )*};
}

operators!(Add add Add, Sub sub Sub, Mul mul Mul);

/// A leaf in a step: an expression, and the values that it has now.
pub struct Variable<'a> {
    expr: Expr,
    array: &'a dyn Array,
}

impl<'a> Variable<'a> {
    /// The leaf at a place.
    pub fn new(place: usize, array: &'a dyn Array) -> Self {
        Self { expr: Expr::leaf(place), array }
    }

    /// Extents.
    pub fn dims(&self) -> &[usize] {
        self.array.dims()
    }

    /// A copy of its values in 64 bits, row-major.
    pub fn values(&self) -> Vec<f64> {
        self.array.get(0..self.dims().iter().product())
    }
}

impl Deref for Variable<'_> {
    type Target = Expr;

    fn deref(&self) -> &Expr {
        &self.expr
    }
}
