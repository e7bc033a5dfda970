//! The leaves of parametrized weights: what a training moves in the place of the weights themselves, and the weights on the
//! tape.

use crate::tape::recording;
use crate::{Error, Layout, Model, Optimizer, OptimizerSpec, Param, Real, Result, Role, Tensor, TrainSpec, Var, ops};
use nnz_core::{Edit, Expr, Function, Leaf, Moment, Op, Parametrization, Shape, Topology, Variable, Weight};
use nnz_tensor::account::{self, Charge};
use std::collections::HashMap;

/// Leaves of every prunable weight and their optimizer state.
#[derive(Clone, Debug)]
pub(crate) struct Leaves<T> {
    of: Vec<Own<T>>,
    /// One parameter for each leaf, in order; those that no optimizer moves are empty.
    optimizer: Optimizer<T>,
}

/// The leaves of one weight.
#[derive(Clone, Debug)]
struct Own<T> {
    /// The parameter they stand for.
    param: usize,
    names: Vec<&'static str>,
    leaves: Vec<Param<T>>,
}

impl<T: Real> Own<T> {
    fn new(param: usize, leaves: Vec<Leaf>) -> Self {
        let names = leaves.iter().map(|l| l.name).collect();
        let narrow = |leaf: Leaf| {
            let role = if leaf.decays { Role::Weight } else { Role::Vector };
            let value = Tensor::new(&leaf.dims, leaf.values.into_iter().map(T::of).collect());
            Param { shape: Shape::matrix(leaf.name, 0, 0), role, prunable: false, layout: Layout::Dense, value }
        };
        Self { param, names, leaves: leaves.into_iter().map(narrow).collect() }
    }

    /// As methods move them.
    fn wide(&self) -> Vec<Leaf> {
        let one = |(leaf, name): (&Param<T>, &&'static str)| {
            let (dims, values) = (leaf.value.shape().to_vec(), wide(&leaf.value));
            Leaf { name, dims, values, decays: leaf.weight() }
        };
        self.leaves.iter().zip(&self.names).map(one).collect()
    }
}

/// What layers compute with in the place of a weight, on the tape.
pub enum Made<T> {
    /// One matrix.
    Matrix(Var<T>),
    /// The product of these, which is not formed.
    Factors(Vec<Var<T>>),
    /// One for the way forward, one for the way back.
    TwoWays(Var<T>, Tensor<T>),
}

/// A weight that is made of leaves, for one pass.
pub struct Formed<T> {
    /// What layers compute with.
    pub made: Made<T>,
    /// What gradients are asked for: the leaves that an optimizer moves, or the value that is tracked. `None` for the others.
    pub(crate) asked: Vec<Option<Var<T>>>,
    /// What the leaves cost by themselves, `[1]`.
    pub(crate) penalty: Option<Var<T>>,
}

impl<T: Real> Formed<T> {
    /// What stands for the weight among the values of the parameters: nothing where it is not formed.
    pub(crate) fn value(&self) -> Var<T> {
        match &self.made {
            Made::Matrix(weight) | Made::TwoWays(weight, _) => weight.clone(),
            Made::Factors(_) => Var::constant(Tensor::zeros(&[0])),
        }
    }

    /// The weight, formed.
    pub(crate) fn whole(&self) -> Var<T> {
        match &self.made {
            Made::Matrix(weight) | Made::TwoWays(weight, _) => weight.clone(),
            Made::Factors(factors) => product(factors),
        }
    }

    /// Multiply-adds of what is computed with, for one input.
    fn size(&self) -> usize {
        match &self.made {
            Made::Matrix(weight) | Made::TwoWays(weight, _) => weight.value().len(),
            Made::Factors(factors) => factors.iter().map(|f| f.value().len()).sum(),
        }
    }
}

/// The product of factors.
pub(crate) fn product<T: Real>(factors: &[Var<T>]) -> Var<T> {
    let mut factors = factors.iter();
    let first = factors.next().expect("a weight has a factor").clone();
    factors.fold(first, |all, f| ops::matmul(&all, false, f, false))
}

/// Computes expressions of leaves on the tape.
struct Formula<'l, T> {
    leaves: &'l [Var<T>],
    seen: HashMap<usize, Var<T>>,
    tracked: Option<Var<T>>,
}

impl<'l, T: Real> Formula<'l, T> {
    fn new(leaves: &'l [Var<T>]) -> Self {
        Self { leaves, seen: HashMap::new(), tracked: None }
    }

    /// A value off the tape.
    fn constant(&self, e: &Expr) -> Var<T> {
        let known = self.seen.get(&e.id()).map(Var::detach);
        known.unwrap_or_else(|| recording(false, || Self::new(self.leaves).of(e)))
    }

    fn of(&mut self, e: &Expr) -> Var<T> {
        if let Some(known) = self.seen.get(&e.id()) {
            return known.clone();
        }
        let value = match e.op() {
            Op::Leaf(place) => self.leaves[*place].clone(),
            Op::Number(c) => Var::constant(Tensor::full(&[1], T::of(*c))),
            Op::Add(a, b) => match (a.op(), b.op()) {
                (_, Op::Number(c)) => ops::shift(&self.of(a), *c),
                (Op::Number(c), _) => ops::shift(&self.of(b), *c),
                _ => ops::add(&self.of(a), &self.of(b)),
            },
            Op::Sub(a, b) => match b.op() {
                Op::Number(c) => ops::shift(&self.of(a), -c),
                _ => ops::sub(&self.of(a), &self.of(b)),
            },
            Op::Mul(a, b) => match (a.op(), b.op()) {
                (_, Op::Number(c)) => ops::scale(&self.of(a), *c),
                (Op::Number(c), _) => ops::scale(&self.of(b), *c),
                _ => ops::mul(&self.of(a), &self.of(b)),
            },
            Op::Dot(a, b) => ops::matmul(&self.of(a), false, &self.of(b), false),
            Op::Transpose(a) => ops::transpose(&self.of(a)),
            Op::Sum(a) => ops::sum(&self.of(a)),
            Op::Map(f, a) => {
                let f = match f {
                    Function::Abs => ops::abs,
                    Function::Exp => ops::exp,
                    Function::Log => ops::log,
                    Function::Sigmoid => ops::sigmoid,
                    Function::Sqrt => ops::sqrt,
                    Function::Tanh => ops::tanh,
                };
                f(&self.of(a))
            }
            Op::Masked(a, mask) => ops::masked(&self.of(a), mask),
            Op::Columns(base, columns, block) => ops::with_columns(&self.of(base), columns, &self.of(block)),
            Op::Stop(a) => self.constant(a),
            Op::Through(value, to) => ops::straight_through(&self.constant(value), &self.of(to)),
            Op::Tracked(a) => {
                let tracked = Var::leaf(self.of(a).value().clone());
                self.tracked = Some(tracked.clone());
                tracked
            }
        };
        self.seen.insert(e.id(), value.clone());
        value
    }
}

/// A weight from its leaves, on the tape where operations are recorded.
pub(crate) fn formed<T: Real>(p: &dyn Parametrization, at: Moment, shape: &Shape, leaves: &[Param<T>]) -> Formed<T> {
    let trained = |k: usize| p.phases() == 0 && p.trains(k);
    let vars = leaves.iter().enumerate().map(|(k, leaf)| match trained(k) {
        true => Var::leaf(leaf.value.clone()),
        false => Var::constant(leaf.value.clone()),
    });
    let vars: Vec<Var<T>> = vars.collect();
    let variables: Vec<Variable> = leaves.iter().enumerate().map(|(k, leaf)| Variable::new(k, &leaf.value)).collect();
    // A method may read its leaves in 64 bits.
    account::touch(leaves.iter().map(|leaf| leaf.value.len() * size_of::<f64>()).sum());
    let (weight, penalty) = (p.weight(at, shape, &variables), p.penalty(at, shape, &variables));
    let mut formula = Formula::new(&vars);
    let made = match &weight {
        Weight::Matrix(w) => Made::Matrix(formula.of(w)),
        Weight::Factors(all) => Made::Factors(all.iter().map(|f| formula.of(f)).collect()),
        Weight::TwoWays { forward, backward } => {
            let backward = formula.constant(backward);
            Made::TwoWays(formula.of(forward), backward.value().clone())
        }
    };
    let penalty = penalty.map(|cost| formula.of(&cost));
    let asked = match p.phases() {
        0 => vars.iter().enumerate().map(|(k, var)| trained(k).then(|| var.clone())).collect(),
        _ => vec![formula.tracked.clone()],
    };
    Formed { made, asked, penalty }
}

fn wide<T: Real>(tensor: &Tensor<T>) -> Vec<f64> {
    tensor.data().iter().map(|v| v.f64()).collect()
}

impl<T: Real> Leaves<T> {
    pub fn new(p: &dyn Parametrization, model: &mut Model<T>, spec: &TrainSpec) -> Result<Self> {
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
        let of: Vec<Own<T>> = parts.map(|(i, w)| Own::new(i, p.leaves(&w.shape, &wide(&w.value)))).collect();
        let moved = |(at, leaf): (usize, &Param<T>)| match p.trains(at) {
            true => leaf.clone(),
            false => Param { value: Tensor::zeros(&[0]), ..leaf.clone() },
        };
        let params: Vec<Param<T>> = of.iter().flat_map(|o| o.leaves.iter().enumerate().map(moved)).collect();
        let leaves = Self { optimizer: Optimizer::new(spec.optimizer, &params), of };
        leaves.show(p, 0, model);
        Ok(leaves)
    }

    /// Bytes of optimizer state.
    pub fn state_bytes(&self) -> usize {
        self.optimizer.bytes()
    }

    /// Bytes of leaves and optimizer state.
    pub fn bytes(&self) -> usize {
        self.optimizer.bytes() + self.of.iter().flat_map(|o| &o.leaves).map(Param::bytes).sum::<usize>()
    }

    /// Gives every tensor values of its own.
    pub fn unshare(&mut self) {
        let leaves = self.of.iter_mut().flat_map(|o| &mut o.leaves).map(|l| &mut l.value);
        leaves.chain(self.optimizer.state.iter_mut().flatten()).for_each(|t| _ = t.data_mut());
    }

    /// The parameters that are made of leaves.
    pub fn places(&self) -> impl Iterator<Item = usize> + '_ {
        self.of.iter().map(|o| o.param)
    }

    /// Whether a parameter has leaves.
    pub fn has(&self, param: usize) -> bool {
        self.places().any(|i| i == param)
    }

    /// The weights of a pass, one for each parameter that is made of leaves. The model shows those that are formed.
    pub fn form(&self, p: &dyn Parametrization, at: Moment, model: &mut Model<T>) -> Vec<Option<Formed<T>>> {
        let mut all: Vec<Option<Formed<T>>> = model.params.iter().map(|_| None).collect();
        for own in &self.of {
            let param = &mut model.params[own.param];
            // The old one goes before the new one comes.
            param.value = Tensor::zeros(&[0]);
            let weight = formed(p, at, &param.shape, &own.leaves);
            param.value = weight.value().value().clone();
            all[own.param] = Some(weight);
        }
        all
    }

    /// The same for use, off the tape.
    pub fn constants(&self, p: &dyn Parametrization, step: u64, model: &Model<T>) -> Vec<Option<Formed<T>>> {
        let mut all: Vec<Option<Formed<T>>> = model.params.iter().map(|_| None).collect();
        recording(false, || {
            for own in &self.of {
                let shape = &model.params[own.param].shape;
                all[own.param] = Some(formed(p, Moment { step, phase: 0 }, shape, &own.leaves));
            }
        });
        all
    }

    /// Shows the weights of a step in the model, as far as they are formed.
    pub fn show(&self, p: &dyn Parametrization, step: u64, model: &mut Model<T>) {
        recording(false, || drop(self.form(p, Moment { step, phase: 0 }, model)));
    }

    /// One update of every leaf by the optimizer's rule, from its gradient.
    pub fn update(&mut self, p: &dyn Parametrization, gradients: &[Vec<Tensor<T>>], lr: f64, count: u64) {
        let mut at = 0;
        for (own, gradients) in self.of.iter_mut().zip(gradients) {
            for (k, (leaf, gradient)) in own.leaves.iter_mut().zip(gradients).enumerate() {
                if p.trains(k) {
                    self.optimizer.update(at, leaf, gradient, lr, count);
                }
                at += 1;
            }
        }
    }

    /// One phase of their own step.
    pub fn own_step(&mut self, p: &dyn Parametrization, phase: u32, gradients: &[Vec<Tensor<T>>], lr: f64) {
        for (own, gradients) in self.of.iter_mut().zip(gradients) {
            let gradient = gradients.first().map_or_else(Vec::new, wide);
            let mut all = own.wide();
            let held: usize = all.iter().map(|l| size_of_val(&l.values[..])).sum();
            let _charge = Charge::new(held + size_of_val(&gradient[..]));
            p.step(phase, &mut all, &gradient, lr);
            *own = Own::new(own.param, all);
        }
    }

    /// Multiply-adds of a row through what the weights are made of, where `costs` are those of plain weights.
    pub fn costs(formed: &[Option<Formed<T>>], model: &Model<T>, costs: &mut [f64]) {
        for ((cost, weight), param) in costs.iter_mut().zip(formed).zip(&model.params) {
            if let Some(weight) = weight {
                *cost *= weight.size() as f64 / param.shape.len().max(1) as f64;
            }
        }
    }

    /// The plain weights they become.
    pub fn freeze(&self, p: &dyn Parametrization, step: u64, model: &Model<T>) -> Vec<Edit> {
        let one = |own: &Own<T>| {
            let shape = &model.params[own.param].shape;
            p.freeze(shape, &own.wide()).unwrap_or_else(|| {
                let at = Moment { step, phase: 0 };
                let weight = recording(false, || formed(p, at, shape, &own.leaves).whole());
                Edit::Set { topology: Topology::full(shape.rows, shape.cols), values: wide(weight.value()) }
            })
        };
        self.of.iter().map(one).collect()
    }

    /// For a checkpoint: extents...
    pub fn extents(&self) -> Vec<Vec<Vec<usize>>> {
        self.of.iter().map(|o| o.leaves.iter().map(|l| l.value.shape().to_vec()).collect()).collect()
    }

    /// ...and, for each weight, values and optimizer state.
    pub fn tensors(&self) -> Vec<Vec<T>> {
        let mut state = self.optimizer.state.iter();
        let flat = |own: &Own<T>| {
            let mut all: Vec<T> = own.leaves.iter().flat_map(|l| l.value.data().to_vec()).collect();
            all.extend(state.by_ref().take(own.leaves.len()).flatten().flat_map(|t| t.data().to_vec()));
            all
        };
        self.of.iter().map(flat).collect()
    }

    /// Takes both back.
    ///
    /// # Errors
    /// When they are those of other leaves.
    pub fn with(mut self, extents: &[Vec<Vec<usize>>], tensors: Vec<Vec<T>>) -> Result<Self> {
        let other = || Error::Refused("a checkpoint with other leaves than this method has; start the run anew".into());
        let alike = self.of.iter().zip(extents).all(|(own, extents)| own.leaves.len() == extents.len());
        if !alike || self.of.len() != extents.len() || tensors.len() != extents.len() {
            return Err(other());
        }
        let mut state = self.optimizer.state.iter_mut();
        for ((own, extents), values) in self.of.iter_mut().zip(extents).zip(tensors) {
            let mut slots: Vec<&mut Tensor<T>> = state.by_ref().take(own.leaves.len()).flatten().collect();
            let sizes: usize = extents.iter().map(|dims| dims.iter().product::<usize>()).sum();
            if values.len() != sizes + slots.iter().map(|s| s.len()).sum::<usize>() {
                return Err(other());
            }
            let mut values = values.into_iter();
            for (leaf, dims) in own.leaves.iter_mut().zip(extents) {
                leaf.value = Tensor::new(dims, values.by_ref().take(dims.iter().product()).collect());
            }
            for slot in &mut slots {
                slot.data_mut().iter_mut().zip(&mut values).for_each(|(s, v)| *s = v);
            }
        }
        Ok(self)
    }
}

/// A weight that is made of leaves, and what a gradient of it becomes.
#[derive(Clone, Debug, PartialEq)]
pub struct Pulled {
    /// The weight, row-major; the product where it has factors.
    pub weight: Vec<f64>,
    /// The matrix that gradients go back through, where it is another.
    pub backward: Option<Vec<f64>>,
    /// What the leaves cost by themselves.
    pub penalty: f64,
    /// Gradients of the inner product of weight and gradient, and of that cost: one for each leaf, empty for those that are not
    /// trained; or that of what is tracked.
    pub leaves: Vec<Vec<f64>>,
}

/// What a parametrization makes of leaves in 64 bits, at a step and a phase of it, and where a gradient of the weight,
/// row-major `[rows, cols]`, goes.
///
/// # Panics
/// When leaves or gradient do not fit the shape.
pub fn pulled(
    p: &dyn Parametrization,
    (step, phase): (u64, u32),
    shape: &Shape,
    leaves: &[Leaf],
    gradient: &[f64],
) -> Pulled {
    let own = Own::<f64>::new(0, leaves.to_vec());
    let formed = formed(p, Moment { step, phase }, shape, &own.leaves);
    let (weight, dims) = (formed.whole(), [shape.rows, shape.cols]);
    let inner = ops::sum(&ops::mul(&weight, &Var::constant(Tensor::new(&dims, gradient.to_vec()))));
    let loss = formed.penalty.as_ref().map_or_else(|| inner.clone(), |cost| ops::add(&inner, cost));
    let mut found = loss.backward(false).expect("no graph is asked for");
    let mut pull = |var: &Option<Var<f64>>| match var {
        Some(var) => found.take(var).map_or_else(|| vec![0.0; var.value().len()], |g| g.data().to_vec()),
        None => Vec::new(),
    };
    let backward = match &formed.made {
        Made::TwoWays(_, backward) => Some(backward.data().to_vec()),
        _ => None,
    };
    Pulled {
        weight: weight.value().data().to_vec(),
        backward,
        penalty: formed.penalty.as_ref().map_or(0.0, |cost| cost.value().data()[0]),
        leaves: formed.asked.iter().map(&mut pull).collect(),
    }
}

/// Whether a gradient goes straight through the weight ([`Expr::straight_to`]), so that it is not that of its value.
pub fn goes_straight(p: &dyn Parametrization, (step, phase): (u64, u32), shape: &Shape, leaves: &[Leaf]) -> bool {
    let own = Own::<f64>::new(0, leaves.to_vec());
    let variables = own.leaves.iter().enumerate().map(|(k, leaf)| Variable::new(k, &leaf.value));
    match p.weight(Moment { step, phase }, shape, &variables.collect::<Vec<_>>()) {
        Weight::Matrix(weight) | Weight::TwoWays { forward: weight, .. } => weight.is_straight(),
        Weight::Factors(factors) => factors.iter().any(Expr::is_straight),
    }
}
