use crate::{Codes, Error, Real, Result, Tensor, Var};
use nnz_core::State;
use std::collections::BTreeMap;

/// A named tensor to be fitted.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter<T> {
    /// Unique among the parameters of a fit.
    pub name: String,
    /// The values.
    pub value: Tensor<T>,
    /// Whether weight decay applies.
    pub decays: bool,
    /// Whether the rule updates it; otherwise it is constant.
    pub trained: bool,
}

impl<T: Real> Parameter<T> {
    /// A trained and decayed parameter: a matrix or kernel.
    pub fn weight(name: &str, value: Tensor<T>) -> Self {
        Self { name: name.into(), value, decays: true, trained: true }
    }

    /// A trained parameter without decay: a bias, a gain.
    pub fn vector(name: &str, value: Tensor<T>) -> Self {
        Self { decays: false, ..Self::weight(name, value) }
    }

    /// An untrained parameter kept with the others: running statistics, or a tensor that a hook updates.
    pub fn buffer(name: &str, value: Tensor<T>) -> Self {
        Self { decays: false, trained: false, ..Self::weight(name, value) }
    }
}

/// Outputs of a pass besides its loss: numbers for the progress, tensors and codes for hooks.
#[derive(Clone, Debug, Default)]
pub struct Seen<T> {
    /// Numbers by name.
    pub numbers: BTreeMap<&'static str, f64>,
    /// Tensors by name.
    pub tensors: BTreeMap<&'static str, Tensor<T>>,
    /// Structures of sparse activations by name.
    pub codes: BTreeMap<&'static str, Codes>,
}

impl<T: Real> Seen<T> {
    /// An empty set of outputs.
    pub fn new() -> Self {
        Self { numbers: BTreeMap::new(), tensors: BTreeMap::new(), codes: BTreeMap::new() }
    }
}

/// A function to minimize. It owns its data, and its results depend on step and parameters alone, so that a fit can be
/// interrupted at any step: batches come from the step, random numbers from streams keyed by it ([`nnz_core::Rng`]).
pub trait Objective<T: Real> {
    /// The loss of a step, `[1]`. `params` are the values of the fit's parameters on the tape, in their order. A rule that
    /// searches calls this several times at one step.
    ///
    /// # Errors
    /// Whatever prevents the computation; [`Error::other`] carries those of other crates.
    fn loss(&mut self, step: u64, params: &[Var<T>], seen: &mut Seen<T>) -> Result<Var<T>>;
}

impl<T: Real, F: FnMut(u64, &[Var<T>], &mut Seen<T>) -> Result<Var<T>>> Objective<T> for F {
    fn loss(&mut self, step: u64, params: &[Var<T>], seen: &mut Seen<T>) -> Result<Var<T>> {
        self(step, params, seen)
    }
}

/// A fit at one step, as hooks see it.
pub struct Fitting<'a, T> {
    /// The step, from 0.
    pub step: u64,
    /// Total steps.
    pub steps: u64,
    /// The parameters. Values may change; names and extents stay.
    pub params: &'a mut [Parameter<T>],
    /// `state[parameter][slot]`: state of the rule.
    pub state: &'a mut [Vec<Tensor<T>>],
}

impl<T: Real> Fitting<'_, T> {
    /// Returns the index of a parameter.
    ///
    /// # Errors
    /// When no parameter has this name.
    pub fn position(&self, name: &str) -> Result<usize> {
        position(self.params, name)
    }
}

pub(super) fn position<T>(params: &[Parameter<T>], name: &str) -> Result<usize> {
    params.iter().position(|p| p.name == name).ok_or_else(|| {
        let known: Vec<&str> = params.iter().map(|p| &*p.name).collect();
        Error::Refused(format!("no parameter is named `{name}`; there are {}", known.join(", ")))
    })
}

/// An observer that may step in: norms kept at one, averages, dead features re-initialized, a history. It exposes its
/// memory as [`State`], so that a resumed fit equals an uninterrupted one.
pub trait Hook<T: Real>: State {
    /// Called before the loss of a step.
    ///
    /// # Errors
    /// Whatever prevents the fit from going on.
    fn before(&mut self, _at: &mut Fitting<'_, T>) -> Result<()> {
        Ok(())
    }

    /// Called after the update of a step.
    ///
    /// # Errors
    /// Whatever prevents the fit from going on.
    fn after(&mut self, _at: &mut Fitting<'_, T>, _seen: &Seen<T>) -> Result<()> {
        Ok(())
    }
}
