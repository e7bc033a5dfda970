use super::{Cache, Layer, LayerSpec, Mode, Pass};
use crate::Real;
use crate::leaves::{self, Made};
use crate::ops::{self, Stage, Then, Window};
use crate::tape::recording;
use crate::{Connections, Layout, Param, Result, Tensor, Var};
use nnz_core::Rng;
use std::sync::Arc;

/// Mean and variance of one batch, for the running statistics of a layer.
#[derive(Clone, Debug)]
pub struct Statistics<T> {
    /// Index of the parameter with the running mean; the variance is the next one.
    pub mean_at: usize,
    /// Mean of every channel.
    pub mean: Tensor<T>,
    /// Variance of every channel, divided by the count.
    pub variance: Tensor<T>,
    /// Rows it was taken over.
    pub rows: usize,
    /// Weight of the batch in the new running value.
    pub momentum: f64,
}

/// Results of a pass besides its output.
#[derive(Clone)]
pub struct Effects<T> {
    /// For running statistics; see [`crate::Model::absorb`].
    pub statistics: Vec<Statistics<T>>,
    /// Penalty of the layers in the training loss, `[1]`.
    pub penalty: Option<Var<T>>,
}

/// A weight used many times in one pass; see [`Context::repeated`].
pub struct Repeated<'a, T> {
    at: usize,
    whole: Option<Var<T>>,
    bias: Option<&'a Var<T>>,
}

/// A forward pass in progress: hands every layer its parameters in turn, whatever their storage.
pub struct Context<'a, T> {
    params: &'a [Param<T>],
    leaves: &'a [Var<T>],
    pass: Pass<'a, T>,
    next: usize,
    drawn: u64,
    effects: Effects<T>,
}

impl<'a, T: Real> Context<'a, T> {
    pub(crate) fn new(params: &'a [Param<T>], leaves: &'a [Var<T>], pass: Pass<'a, T>) -> Self {
        Self { params, leaves, pass, next: 0, drawn: 0, effects: Effects { statistics: Vec::new(), penalty: None } }
    }

    pub(crate) fn finish(self) -> Effects<T> {
        self.effects
    }

    /// Index of the next parameter: a unique key for every layer that has one.
    pub fn position(&self) -> usize {
        self.next
    }

    /// Makes the parameter of an index the next one, for layers that do not read theirs in order. Such a layer leaves the first
    /// parameter after its own as the next.
    pub fn seek(&mut self, index: usize) {
        self.next = index;
    }

    /// Takes the next parameter, as a value on the tape, and its index.
    pub fn take(&mut self) -> (usize, &'a Var<T>) {
        self.next += 1;
        (self.next - 1, &self.leaves[self.next - 1])
    }

    /// Whether this is a training pass.
    pub fn training(&self) -> bool {
        self.pass.mode != Mode::Use
    }

    /// Returns a new stream of random numbers for every call, in training.
    pub fn rng(&mut self, purpose: &str) -> Option<Rng> {
        let Mode::Train { seed, step } = self.pass.mode else { return None };
        self.drawn += 1;
        Some(Rng::stream(seed, purpose, self.drawn, step))
    }

    /// Reports the statistics of a batch.
    pub fn observe(&mut self, statistics: Statistics<T>) {
        self.effects.statistics.push(statistics);
    }

    /// Adds a `[1]` value to the loss of a training.
    pub fn penalize(&mut self, penalty: Var<T>) {
        let sum = self.effects.penalty.take().map_or_else(|| penalty.clone(), |p| ops::add(&p, &penalty));
        self.effects.penalty = Some(sum);
    }

    /// Positions of the sequence before this pass.
    pub fn seen(&self) -> usize {
        self.pass.cache.map_or(0, Cache::seen)
    }

    /// Appends keys and values to those that the layer at `key` ([`Context::position`]) had in earlier passes.
    pub fn remember(&self, key: usize, k: &Var<T>, v: &Var<T>) -> (Var<T>, Var<T>) {
        match self.pass.cache {
            Some(cache) => cache.lock().keys.entry(key).or_default().append(k, v),
            None => (k.clone(), v.clone()),
        }
    }

    /// The final state of the layer at `key` in the previous pass.
    pub fn state(&self, key: usize) -> Option<Vec<Tensor<T>>> {
        self.pass.cache?.lock().states.get(&key).cloned()
    }

    /// Saves the state for the next pass.
    pub fn keep(&self, key: usize, state: impl FnOnce() -> Vec<Tensor<T>>) {
        if let Some(cache) = self.pass.cache {
            cache.lock().states.insert(key, state());
        }
    }

    /// x Wᵀ (+ b) over the last axis, with the next weight and, with `bias`, the vector after it.
    pub fn linear(&mut self, x: &Var<T>, bias: bool) -> Var<T> {
        let rows = self.params[self.next].shape.rows;
        self.watch(|| x.clone());
        let y = match self.stage(bias, Then::Linear) {
            Some(stage) => ops::sparse_stack(x, &[stage]),
            None => {
                let made = self.made();
                let (weight, bias) = (self.take().1, bias.then(|| self.take().1));
                match made {
                    Some(Made::Factors(factors)) => by_factors(x.clone(), factors, bias),
                    Some(Made::TwoWays(_, backward)) => {
                        let y = ops::matmul_back(x, weight, backward);
                        bias.map_or_else(|| y.clone(), |b| ops::add_bias(&y, b))
                    }
                    _ => product(x, weight, bias),
                }
            }
        };
        self.unfold(y, x, rows)
    }

    /// What the next weight is made of, where it is made of leaves.
    fn made(&self) -> Option<&'a Made<T>> {
        Some(&self.pass.formed.get(self.next)?.as_ref()?.made)
    }

    /// Adds what the next weight reads to the sum that was asked for.
    fn watch(&self, x: impl FnOnce() -> Var<T>) {
        let Some(gram) = self.pass.gram.filter(|g| g.param == self.next) else { return };
        recording(false, || {
            let mut sum = gram.sum.lock().unwrap_or_else(|e| e.into_inner());
            sum.get_or_insert_default().add(x().value());
        });
    }

    /// Reshapes the output rows of a layer to the axes of its input.
    fn unfold(&self, y: Var<T>, x: &Var<T>, outputs: usize) -> Var<T> {
        match x.shape() {
            [lead @ .., _] if lead.len() > 1 => ops::reshape(&y, &[lead, &[outputs]].concat()),
            _ => y,
        }
    }

    /// Takes the next weight and its bias if that weight is stored sparse.
    fn stage(&mut self, bias: bool, then: Then<T>) -> Option<Stage<T>> {
        let Layout::Sparse(connections) = &self.params.get(self.next)?.layout else { return None };
        let (at, values) = self.take();
        let bias = bias.then(|| self.take().1.clone());
        let probe = self.pass.probes.get(at).cloned().flatten();
        Some(Stage { values: values.clone(), bias, connections: connections.clone(), then, probe })
    }

    /// Linear layers stored sparse at the start of a chain, with the functions between them, and their number of layers.
    fn stack(&mut self, layers: &[LayerSpec]) -> (Vec<Stage<T>>, usize) {
        let (mut stages, mut at) = (Vec::new(), 0);
        while let Some(LayerSpec::Linear(linear)) = layers.get(at) {
            let then = match layers.get(at + 1) {
                Some(LayerSpec::Relu(_)) => Then::Relu,
                Some(LayerSpec::Activation(a)) => Then::Map(a.function.op()),
                _ => Then::Linear,
            };
            let step = if matches!(then, Then::Linear) { 1 } else { 2 };
            let Some(stage) = self.stage(linear.bias, then) else { break };
            stages.push(stage);
            at += step;
        }
        (stages, at)
    }

    /// The connections of the next parameter, if they are all it has.
    pub fn structure(&mut self) -> Option<Arc<Connections>> {
        let (at, _) = self.take();
        match &self.params[at].layout {
            Layout::Sparse(connections) => Some(connections.clone()),
            _ => None,
        }
    }

    /// The next weight as a dense matrix, whatever its storage.
    pub fn whole(&mut self) -> Var<T> {
        let made = self.made();
        let (at, weight) = self.take();
        if let Some(Made::Factors(factors)) = made {
            return leaves::product(factors);
        }
        match &self.params[at].layout {
            Layout::Sparse(c) => ops::densify(weight, c, self.pass.probes.get(at).cloned().flatten()),
            _ => weight.clone(),
        }
    }

    /// The next weight and, with `bias`, the vector after it, to be used many times in this pass by [`Context::again`].
    /// While gradients of its zeros are requested, a sparse weight is multiplied dense, so that they are summed over
    /// all uses.
    pub fn repeated(&mut self, bias: bool) -> Repeated<'a, T> {
        let at = self.next;
        let probed = self.pass.probes.get(at).is_some_and(Option::is_some);
        let whole = match &self.params[at].layout {
            Layout::Sparse(_) if probed => Some(self.whole()),
            _ => {
                self.take();
                None
            }
        };
        Repeated { at, whole, bias: bias.then(|| self.take().1) }
    }

    /// x Wᵀ (+ b) with a repeated weight.
    pub fn again(&mut self, weight: &Repeated<'a, T>, x: &Var<T>) -> Var<T> {
        if let Some(whole) = &weight.whole {
            let y = ops::matmul(x, false, whole, true);
            return weight.bias.map_or_else(|| y.clone(), |b| ops::add_bias(&y, b));
        }
        let next = std::mem::replace(&mut self.next, weight.at);
        let y = self.linear(x, weight.bias.is_some());
        self.next = next;
        y
    }

    /// A convolution of `[batch, .., channels]` with the next weight and, with `bias`, the vector after it.
    pub fn conv<const D: usize>(&mut self, x: &Var<T>, window: Window<D>, groups: usize, bias: bool) -> Var<T> {
        let made = self.made();
        if let (Some(Made::Factors(factors)), 1) = (made, groups)
            && let Some((kernel, others)) = factors.split_last()
        {
            self.watch(|| ops::patches(x, window));
            self.take();
            let bias = bias.then(|| self.take().1);
            if others.is_empty() {
                return ops::conv(x, kernel, bias, window, groups);
            }
            let y = ops::conv(x, kernel, None, window, groups);
            let lead = y.shape()[..1 + D].to_vec();
            let y = by_factors(y, others, bias);
            let outputs = y.value().rows_cols().1;
            return ops::reshape(&y, &[&lead[..], &[outputs]].concat());
        }
        let backward = matches!(made, Some(Made::TwoWays(..)));
        if groups == 1 && (backward || matches!(self.params[self.next].layout, Layout::Sparse(_))) {
            let size: [usize; D] = std::array::from_fn(|i| x.shape()[1 + i]);
            let y = self.linear(&ops::patches(x, window), bias);
            let (batch, out) = (x.shape()[0], y.shape()[1]);
            return ops::reshape(&y, &[&[batch], &window.output(size)[..], &[out]].concat());
        }
        if groups == 1 {
            self.watch(|| ops::patches(x, window));
        }
        let weight = self.whole();
        let bias = bias.then(|| self.take().1);
        ops::conv(x, &weight, bias, window, groups)
    }

    /// Runs layers in sequence, with their taps. Adjacent layers that are stored sparse run as one stack.
    pub fn chain(&mut self, prefix: &str, layers: &[LayerSpec], mut x: Var<T>) -> Result<Var<T>> {
        let mut at = 0;
        while let Some(layer) = layers.get(at) {
            // Taps read between layers, and so do sums of inputs.
            if self.pass.taps.is_none() && self.pass.gram.is_none() {
                let (stages, count) = self.stack(&layers[at..]);
                if let Some(last) = stages.last() {
                    let outputs = last.connections.plan().rows();
                    let y = ops::sparse_stack(&x, &stages);
                    x = self.unfold(y, &x, outputs);
                    at += count;
                    continue;
                }
            }
            let y = layer.forward(&x, self)?;
            x = match self.pass.taps {
                Some(taps) => taps.visit(&layer.tap(prefix, at), y),
                None => y,
            };
            at += 1;
        }
        Ok(x)
    }
}

/// x Wᵀ (+ b)
fn product<T: Real>(x: &Var<T>, weight: &Var<T>, bias: Option<&Var<T>>) -> Var<T> {
    match bias {
        Some(bias) => ops::linear(x, weight, bias),
        None => ops::matmul(x, false, weight, true),
    }
}

/// x (F₁ F₂ …)ᵀ (+ b), the last factor first.
fn by_factors<T: Real>(x: Var<T>, factors: &[Var<T>], bias: Option<&Var<T>>) -> Var<T> {
    let last = factors.len().saturating_sub(1);
    let factors = factors.iter().rev().enumerate();
    factors.fold(x, |x, (k, factor)| product(&x, factor, bias.filter(|_| k == last)))
}
