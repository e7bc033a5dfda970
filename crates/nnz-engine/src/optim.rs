use crate::{Param, Real, Tensor};
use nnz_core::{Array, UpdateRule};
use nnz_tensor::Gradient;
use nnz_tensor::fit::{At, OptimizerSpec, Rule, Slot};

/// An update rule with its state: for each parameter tensors that lie as its values do. Weights that a rule of a method's own
/// moves have the arrays of that rule.
#[derive(Clone, Debug)]
pub struct Optimizer<T> {
    /// The rule.
    pub spec: OptimizerSpec,
    /// `state[parameter][slot]`
    pub state: Vec<Vec<Tensor<T>>>,
}

impl<T: Real> Optimizer<T> {
    /// Zero state.
    pub fn new(spec: OptimizerSpec, params: &[Param<T>]) -> Self {
        let rule = spec.rule();
        Self { spec, state: params.iter().map(|p| rule.state(p.value.shape())).collect() }
    }

    /// Running mean gradient of parameter `index`; see [`Rule::direction`].
    pub fn direction(&self, index: usize) -> Option<Tensor<T>> {
        self.spec.rule().direction(&self.state[index])
    }

    /// Updates parameter `index` at learning rate `lr`; `count` counts updates from 1. O(values of the parameter). A
    /// rule that searches updates all of them at once instead ([`Rule::step`]).
    pub fn update(&mut self, index: usize, param: &mut Param<T>, gradient: &Tensor<T>, lr: f64, count: u64) {
        if !param.role.trained() {
            return;
        }
        let (decays, state) = (param.weight(), &mut self.state[index][..]);
        let slot = Slot { value: &mut param.value, state, decays };
        self.spec.rule().update(slot, &Gradient::Dense(gradient.clone()), At { lr, count });
    }

    /// Gives a parameter of `shape` zero state.
    pub(crate) fn begin(&mut self, index: usize, shape: &[usize]) {
        self.state[index] = self.spec.rule().state(shape);
    }

    /// Gives a parameter `slots` empty tensors of state.
    pub(crate) fn empty(&mut self, index: usize, slots: usize) {
        self.state[index] = vec![Tensor::zeros(&[0]); slots];
    }

    /// One update of parameter `index` by a rule of a method's own.
    pub(crate) fn update_by(
        &mut self,
        rule: &dyn UpdateRule,
        index: usize,
        param: &mut Param<T>,
        gradient: &Tensor<T>,
        lr: f64,
        count: u64,
    ) {
        let mut state: Vec<&mut dyn Array> = self.state[index].iter_mut().map(|t| t as &mut dyn Array).collect();
        rule.update(&mut param.value, gradient, &mut state, lr, count);
    }

    /// Bytes of state.
    pub fn bytes(&self) -> usize {
        self.state.iter().flatten().map(|s| s.len() * size_of::<T>()).sum()
    }
}

/// An exponential moving average of values: a ← d a + (1 - d) w.
#[derive(Clone, Debug, PartialEq)]
pub struct Average<T>(Vec<Tensor<T>>);

impl<T: Real> Average<T> {
    /// Starts at the values of `params`.
    pub fn new(params: &[Param<T>]) -> Self {
        Self(params.iter().map(|p| p.value.clone()).collect())
    }

    /// Moves towards the values of `params`, which have the layout of the initial ones.
    pub fn update(&mut self, params: &[Param<T>], decay: f64) {
        let (keep, take) = (T::of(decay), T::of(1.0 - decay));
        for (a, p) in self.0.iter_mut().zip(params) {
            a.data_mut().iter_mut().zip(p.value.data()).for_each(|(a, &w)| *a = keep * *a + take * w);
        }
    }

    /// Replaces some averages by the values of `params`.
    pub(crate) fn splice(&mut self, at: std::ops::Range<usize>, params: &[Param<T>]) {
        self.0.splice(at, params.iter().map(|p| p.value.clone()));
    }

    /// The averages, in the order of the parameters.
    pub fn values(&self) -> &[Tensor<T>] {
        &self.0
    }

    /// The averages, to write.
    pub fn values_mut(&mut self) -> &mut [Tensor<T>] {
        &mut self.0
    }
}
