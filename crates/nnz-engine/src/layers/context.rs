use super::{Layer, LayerSpec};
use crate::model::Pass;
use crate::ops::{self, Stage, Then, Window};
use crate::{Layout, Param, Result, Tensor, Var};
use nnz_core::Rng;
use nnz_kernels::Real;

/// What a forward pass is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Dropout off, running statistics.
    #[default]
    Use,
    /// Dropout on, statistics of the batch. Seed and step key the random numbers.
    Train {
        /// Seed of the run.
        seed: u64,
        /// Step of the run.
        step: u64,
    },
}

/// Mean and variance of one batch, for the running ones of a layer.
#[derive(Clone, Debug)]
pub struct Statistics<T> {
    /// The parameter that holds the running mean; the variance is the next one.
    pub mean_at: usize,
    /// Mean of every channel.
    pub mean: Tensor<T>,
    /// Variance of every channel, divided by the count.
    pub variance: Tensor<T>,
    /// Rows it was taken over.
    pub rows: usize,
    /// Share of the batch in the new running value.
    pub momentum: f64,
}

/// A forward pass under way: hands every layer its parameters in turn, whatever their storage.
pub struct Context<'a, T> {
    params: &'a [Param<T>],
    leaves: &'a [Var<T>],
    pass: Pass<'a, T>,
    next: usize,
    drawn: u64,
    statistics: Vec<Statistics<T>>,
}

impl<'a, T: Real> Context<'a, T> {
    pub(crate) fn new(params: &'a [Param<T>], leaves: &'a [Var<T>], pass: Pass<'a, T>) -> Self {
        Self { params, leaves, pass, next: 0, drawn: 0, statistics: Vec::new() }
    }

    pub(crate) fn finish(self) -> Vec<Statistics<T>> {
        self.statistics
    }

    /// The next parameter, as a value on the tape, and its position.
    pub fn take(&mut self) -> (usize, &'a Var<T>) {
        self.next += 1;
        (self.next - 1, &self.leaves[self.next - 1])
    }

    /// Whether this is training.
    pub fn training(&self) -> bool {
        self.pass.mode != Mode::Use
    }

    /// A stream of random numbers of its own for every caller, in training.
    pub fn rng(&mut self) -> Option<Rng> {
        let Mode::Train { seed, step } = self.pass.mode else { return None };
        self.drawn += 1;
        Some(Rng::stream(seed, "dropout", self.drawn, step))
    }

    /// Hands over the statistics of a batch.
    pub fn observe(&mut self, statistics: Statistics<T>) {
        self.statistics.push(statistics);
    }

    /// x Wᵀ (+ b) over the last axis, by the next weight and, with `bias`, the vector after it.
    pub fn linear(&mut self, x: &Var<T>, bias: bool) -> Var<T> {
        let rows = self.params[self.next].shape.rows;
        let y = match self.stage(bias, Then::Linear) {
            Some(stage) => ops::sparse_stack(x, &[stage]),
            None => {
                let (weight, bias) = (self.take().1, bias.then(|| self.take().1));
                match bias {
                    Some(bias) => ops::linear(x, weight, bias),
                    None => ops::matmul(x, false, weight, true),
                }
            }
        };
        self.unfold(y, x, rows)
    }

    /// Rows of the output of a layer back on the axes of its input.
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

    /// Linear layers stored sparse at the start of a chain, with the functions between them, and how many layers that is.
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

    /// A convolution of `[batch, height, width, channels]` by the next weight and, with `bias`, the vector after it.
    pub fn conv(&mut self, x: &Var<T>, window: Window, groups: usize, bias: bool) -> Var<T> {
        if groups == 1 && matches!(self.params[self.next].layout, Layout::Sparse(_)) {
            let [oh, ow] = window.output([x.shape()[1], x.shape()[2]]);
            let y = self.linear(&ops::patches(x, window), bias);
            let out = y.shape()[1];
            return ops::reshape(&y, &[x.shape()[0], oh, ow, out]);
        }
        let (at, weight) = self.take();
        let bias = bias.then(|| self.take().1);
        let whole = match &self.params[at].layout {
            Layout::Sparse(c) => ops::densify(weight, c, self.pass.probes.get(at).cloned().flatten()),
            _ => weight.clone(),
        };
        ops::conv(x, &whole, bias, window, groups)
    }

    /// Layers one after the other, with their taps. Neighbours that are stored sparse run as one stack.
    pub fn chain(&mut self, prefix: &str, layers: &[LayerSpec], mut x: Var<T>) -> Result<Var<T>> {
        let mut at = 0;
        while let Some(layer) = layers.get(at) {
            // Taps look between layers.
            if self.pass.taps.is_none() {
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
