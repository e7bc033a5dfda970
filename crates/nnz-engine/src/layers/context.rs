use super::{Layer, LayerSpec};
use crate::model::Pass;
use crate::ops::{self, Window};
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
        let (at, weight) = self.take();
        let bias = bias.then(|| self.take().1);
        let rows = self.params[at].shape.rows;
        let y = match &self.params[at].layout {
            Layout::Sparse(c) => {
                let probe = self.pass.probes.get(at).cloned().flatten();
                let none = Var::constant(Tensor::zeros(&[rows]));
                ops::sparse_linear(x, weight, c, bias.unwrap_or(&none), probe)
            }
            _ => match bias {
                Some(bias) => ops::linear(x, weight, bias),
                None => ops::matmul(x, false, weight, true),
            },
        };
        match x.shape() {
            [lead @ .., _] if lead.len() > 1 => ops::reshape(&y, &[lead, &[rows]].concat()),
            _ => y,
        }
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

    /// Layers one after the other, with their taps.
    pub fn chain(&mut self, prefix: &str, layers: &[LayerSpec], x: Var<T>) -> Result<Var<T>> {
        layers.iter().enumerate().try_fold(x, |x, (i, layer)| {
            let y = layer.forward(&x, self)?;
            Ok(match self.pass.taps {
                Some(taps) => taps.visit(&layer.tap(prefix, i), y),
                None => y,
            })
        })
    }
}
