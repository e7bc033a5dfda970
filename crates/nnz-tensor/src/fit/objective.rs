use crate::{Codes, Error, Real, Result, Tensor, Var};
use nnz_core::State;
use std::collections::BTreeMap;

/// A tensor that is fitted, by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter<T> {
    /// Unique among the parameters of a fit.
    pub name: String,
    /// The values.
    pub value: Tensor<T>,
    /// Whether weight decay applies.
    pub decays: bool,
    /// Whether the rule moves it; a constant otherwise.
    pub trained: bool,
}

impl<T: Real> Parameter<T> {
    /// Trained and decayed: a matrix or kernel.
    pub fn weight(name: &str, value: Tensor<T>) -> Self {
        Self { name: name.into(), value, decays: true, trained: true }
    }

    /// Trained and not decayed: a bias, a gain.
    pub fn vector(name: &str, value: Tensor<T>) -> Self {
        Self { decays: false, ..Self::weight(name, value) }
    }

    /// Kept with the others and not trained: running statistics, what a hook moves.
    pub fn buffer(name: &str, value: Tensor<T>) -> Self {
        Self { decays: false, trained: false, ..Self::weight(name, value) }
    }
}

/// What an objective tells of a pass besides its loss: numbers for the progress, tensors and codes for hooks.
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
    /// Nothing yet.
    pub fn new() -> Self {
        Self { numbers: BTreeMap::new(), tensors: BTreeMap::new(), codes: BTreeMap::new() }
    }
}

/// What is made small. It owns its data, and what it gives depends on the step and the parameters alone, so that a fit can be
/// interrupted at any step: batches are made from the step, random numbers from streams keyed by it ([`nnz_core::Rng`]).
pub trait Objective<T: Real> {
    /// The loss of a step, `[1]`. `params` are the values of the fit's parameters on the tape, in their order. A rule that
    /// searches asks several times at one step.
    ///
    /// # Errors
    /// What keeps it from being computed; [`Error::other`] carries those of other crates.
    fn loss(&mut self, step: u64, params: &[Var<T>], seen: &mut Seen<T>) -> Result<Var<T>>;
}

impl<T: Real, F: FnMut(u64, &[Var<T>], &mut Seen<T>) -> Result<Var<T>>> Objective<T> for F {
    fn loss(&mut self, step: u64, params: &[Var<T>], seen: &mut Seen<T>) -> Result<Var<T>> {
        self(step, params, seen)
    }
}

/// A fit at one step, for its hooks.
pub struct Fitting<'a, T> {
    /// The step, from 0.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// The parameters. Values may change; names and extents stay.
    pub params: &'a mut [Parameter<T>],
    /// `state[parameter][slot]`: what the rule remembers.
    pub state: &'a mut [Vec<Tensor<T>>],
}

impl<T: Real> Fitting<'_, T> {
    /// The position of a parameter.
    ///
    /// # Errors
    /// When none has this name.
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

/// What looks on and steps in: norms kept at one, averages, features that died and are sown anew, a history. What it remembers
/// it shows as [`State`], so that a resumed fit equals an uninterrupted one.
pub trait Hook<T: Real>: State {
    /// Before the loss of a step.
    ///
    /// # Errors
    /// What keeps the fit from going on.
    fn before(&mut self, _at: &mut Fitting<'_, T>) -> Result<()> {
        Ok(())
    }

    /// After the update of a step.
    ///
    /// # Errors
    /// What keeps the fit from going on.
    fn after(&mut self, _at: &mut Fitting<'_, T>, _seen: &Seen<T>) -> Result<()> {
        Ok(())
    }
}
