//! The leaves of parametrized weights, which are trained in place of the weights.

use crate::Real;
use crate::{Error, Layout, Model, Optimizer, OptimizerSpec, Param, Result, Role, Tensor, TrainSpec};
use nnz_core::{Edit, Leaf, Parametrization, Shape};

/// Leaves of every prunable weight, in 64 bits, and their optimizer state.
#[derive(Clone, Debug)]
pub(crate) struct Leaves {
    /// Indices of parameters, with their leaves.
    of: Vec<(usize, Vec<Leaf>)>,
    /// One parameter per leaf, in order; empty for those that no optimizer updates.
    optimizer: Optimizer<f64>,
}

/// A leaf as a parameter for optimizers.
fn param(leaf: &mut Leaf) -> Param<f64> {
    let role = if leaf.decays { Role::Weight } else { Role::Vector };
    let value = Tensor::new(&leaf.dims, std::mem::take(&mut leaf.values));
    Param { shape: Shape::matrix(leaf.name, 0, 0), role, prunable: false, layout: Layout::Dense, value }
}

fn wide<T: Real>(tensor: &Tensor<T>) -> Vec<f64> {
    tensor.data().iter().map(|v| v.f64()).collect()
}

impl Leaves {
    pub fn new<T: Real>(p: &dyn Parametrization, model: &Model<T>, spec: &TrainSpec) -> Result<Self> {
        let refuse = |why: &str| Err(Error::Refused(format!("weights that are made of leaves cannot {why}")));
        if matches!(spec.optimizer, OptimizerSpec::Lbfgs { .. }) {
            return refuse("be trained by lbfgs; choose sgd or adam");
        }
        if spec.ema.is_some() {
            return refuse("be averaged; leave out --ema");
        }
        let parts = model.params.iter().enumerate().filter(|(_, w)| w.prunable);
        if parts.clone().any(|(_, w)| w.layout != Layout::Dense) {
            return refuse("be born sparse or pruned before");
        }
        let of: Vec<_> = parts.map(|(i, w)| (i, p.leaves(&w.shape, &wide(&w.value)))).collect();
        let moved = |(at, mut leaf): (usize, Leaf)| {
            if !p.trains(at) {
                (leaf.dims, leaf.values) = (vec![0], Vec::new());
            }
            param(&mut leaf)
        };
        let params: Vec<Param<f64>> = of.iter().flat_map(|(_, l)| l.iter().cloned().enumerate().map(moved)).collect();
        Ok(Self { optimizer: Optimizer::new(spec.optimizer, &params), of })
    }

    /// Bytes of update state for the leaves: the optimizer's, and for parametrizations with their own step the leaves after
    /// the first.
    pub fn state_bytes(&self, p: &dyn Parametrization) -> usize {
        let own = |leaves: &Vec<Leaf>| -> usize {
            let kept = leaves.iter().enumerate().skip(1).filter(|(at, _)| p.phases() > 0 && !p.trains(*at));
            kept.map(|(_, l)| size_of_val(&l.values[..])).sum()
        };
        self.optimizer.bytes() + self.of.iter().map(|(_, leaves)| own(leaves)).sum::<usize>()
    }

    /// The matrices of the backward pass, for all `count` parameters; empty if none differs from its weight.
    pub fn backwards<T: Real>(&self, p: &dyn Parametrization, step: u64, count: usize) -> Vec<Option<Tensor<T>>> {
        let mut all = vec![None; count];
        for (i, leaves) in &self.of {
            let Some(values) = p.backward(step, leaves) else { return Vec::new() };
            let dims = &leaves[0].dims;
            all[*i] = Some(Tensor::new(dims, values.into_iter().map(T::of).collect()));
        }
        all
    }

    /// Whether a parameter has leaves.
    pub fn has(&self, param: usize) -> bool {
        self.of.iter().any(|(i, _)| *i == param)
    }

    /// Writes the weights of a step.
    pub fn show<T: Real>(&self, p: &dyn Parametrization, step: u64, model: &mut Model<T>) {
        for (i, leaves) in &self.of {
            let weight = p.weight(step, leaves);
            model.params[*i].value.data_mut().iter_mut().zip(weight).for_each(|(w, v)| *w = T::of(v));
        }
    }

    /// Updates every leaf by the optimizer's rule.
    pub fn update<T: Real>(
        &mut self,
        p: &dyn Parametrization,
        step: u64,
        gradients: &[Tensor<T>],
        lr: f64,
        count: u64,
    ) {
        let mut at = 0;
        for (i, leaves) in &mut self.of {
            let mut pulled = p.vjp(step, leaves, &wide(&gradients[*i]));
            p.penalty(step, leaves, &mut pulled);
            for (k, (leaf, gradient)) in leaves.iter_mut().zip(pulled).enumerate() {
                if !p.trains(k) {
                    at += 1;
                    continue;
                }
                let mut moved = param(leaf);
                self.optimizer.update(at, &mut moved, &Tensor::new(&leaf.dims, gradient), lr, count);
                leaf.values = moved.value.data().to_vec();
                at += 1;
            }
        }
    }

    /// Runs one phase of the parametrization's own step.
    pub fn own_step<T: Real>(&mut self, p: &dyn Parametrization, phase: u32, gradients: &[Tensor<T>], lr: f64) {
        self.of.iter_mut().for_each(|(i, leaves)| p.step(phase, leaves, &wide(&gradients[*i]), lr));
    }

    /// Returns the plain weights that the leaves become.
    pub fn freeze<T: Real>(&self, p: &dyn Parametrization, model: &Model<T>) -> Vec<Edit> {
        self.of.iter().map(|(i, leaves)| p.freeze(&model.params[*i].shape, leaves)).collect()
    }

    /// For a checkpoint: extents...
    pub fn extents(&self) -> Vec<Vec<Vec<usize>>> {
        self.of.iter().map(|(_, leaves)| leaves.iter().map(|l| l.dims.clone()).collect()).collect()
    }

    /// ...and, for each weight, values and optimizer state.
    pub fn tensors(&self) -> Vec<Vec<f64>> {
        let mut state = self.optimizer.state.iter();
        let flat = |(_, leaves): &(usize, Vec<Leaf>)| {
            let mut all: Vec<f64> = leaves.iter().flat_map(|l| l.values.clone()).collect();
            all.extend(state.by_ref().take(leaves.len()).flatten().flat_map(|t| t.data().to_vec()));
            all
        };
        self.of.iter().map(flat).collect()
    }

    /// Restores both.
    pub fn with(mut self, extents: &[Vec<Vec<usize>>], tensors: Vec<Vec<f64>>) -> Self {
        let mut at = 0;
        for (((_, leaves), extents), values) in self.of.iter_mut().zip(extents).zip(tensors) {
            let mut values = values.into_iter();
            for (leaf, dims) in leaves.iter_mut().zip(extents) {
                leaf.dims.clone_from(dims);
                leaf.values = values.by_ref().take(dims.iter().product()).collect();
            }
            for _ in 0..leaves.len() {
                for slot in &mut self.optimizer.state[at] {
                    slot.data_mut().iter_mut().zip(&mut values).for_each(|(s, v)| *s = v);
                }
                at += 1;
            }
        }
        self
    }
}
