use crate::Real;
use crate::axes::{Axis, axes};
use crate::data::Graph;
use crate::layers::{Cache, Context, Effects, Mode, Statistics, chain_causal};
use crate::ops::{self, ZeroProbe};
use crate::structure::Part;
use crate::{Error, ModelSpec, Param, Result, Role, Storing, Taps, Tensor, Var};
use nnz_core::{Kind, Shape, Topology};
use nnz_kernels::{Start, gemm};
use std::sync::{Arc, Mutex};

/// A network with its values.
#[derive(Clone, Debug)]
pub struct Model<T> {
    /// What it is.
    pub spec: ModelSpec,
    /// Parameters and buffers in the order of [`ModelSpec::params`].
    pub params: Vec<Param<T>>,
}

/// What a forward pass is asked for besides its output.
#[derive(Clone, Copy)]
pub struct Pass<'a, T> {
    /// Training or use.
    pub mode: Mode,
    /// `probes[i]` asks for the zero gradients of parameter `i`; may be shorter than the parameters.
    pub probes: &'a [Option<Arc<ZeroProbe>>],
    /// Activations to read or replace.
    pub taps: Option<&'a Taps<T>>,
    /// What a causal network has seen before: then the input may be any next part of the sequence, `[batch, positions ·
    /// channels]`.
    pub cache: Option<&'a Cache<T>>,
    /// A weight whose inputs are to be summed up.
    pub gram: Option<&'a Gram>,
    /// `backwards[i]` is what gradients go back through in the place of weight `i`; may be shorter than the parameters.
    pub backwards: &'a [Option<Tensor<T>>],
}

/// The sums of x and x xᵀ over what a weight reads in a pass.
#[derive(Debug)]
pub struct Gram {
    /// The parameter.
    pub param: usize,
    /// Once there was a pass.
    pub sum: Mutex<Option<Moments>>,
}

/// Sums over inputs, or their means.
#[derive(Clone, Debug, Default)]
pub struct Moments {
    /// Of x xᵀ, `[cols, cols]`.
    pub square: Vec<f64>,
    /// Of x, `[cols]`.
    pub first: Vec<f64>,
    /// Inputs.
    pub rows: usize,
}

impl Moments {
    /// Adds inputs, `[rows, cols]`.
    pub fn add<T: Real>(&mut self, x: &Tensor<T>) {
        let (rows, cols) = x.rows_cols();
        if self.first.is_empty() {
            (self.square, self.first) = (vec![0.0; cols * cols], vec![0.0; cols]);
        }
        let mut square = vec![T::ZERO; cols * cols];
        gemm(cols, cols, rows, x.data(), (1, cols), x.data(), (cols, 1), Start::Zero, &mut square, cols);
        self.square.iter_mut().zip(&square).for_each(|(t, s)| *t += s.f64());
        for row in x.data().chunks_exact(cols.max(1)) {
            self.first.iter_mut().zip(row).for_each(|(t, v)| *t += v.f64());
        }
        self.rows += rows;
    }

    /// Divided by the number of inputs.
    pub fn mean(mut self) -> Self {
        let n = self.rows.max(1) as f64;
        self.square.iter_mut().chain(&mut self.first).for_each(|v| *v /= n);
        self
    }
}

impl<T> Default for Pass<'_, T> {
    /// Use, without probes, taps and cache.
    fn default() -> Self {
        Self { mode: Mode::Use, probes: &[], taps: None, cache: None, gram: None, backwards: &[] }
    }
}

impl<T: Real> Model<T> {
    /// Fresh values. `births` gives the topology of every prunable weight; without it they are dense. A layer born
    /// sparse never exists densely. The head is prunable only when `prune_head`.
    pub fn born<'a>(
        spec: &ModelSpec,
        births: Option<Vec<Topology>>,
        storage: impl Into<Storing<'a>>,
        prune_head: bool,
        seed: u64,
    ) -> Result<Self> {
        T::born(spec, births, storage.into(), prune_head, seed)
    }

    pub(crate) fn born_generic(
        spec: &ModelSpec,
        births: Option<Vec<Topology>>,
        storage: Storing,
        prune_head: bool,
        seed: u64,
    ) -> Result<Self> {
        let mut births = births.map(Vec::into_iter);
        let (mut params, mut weights, mut others) = (Vec::new(), 0, 1 << 32);
        for p in spec.params() {
            let weight = p.role == Role::Weight;
            let prunable = weight && (prune_head || !p.shape.head);
            let topology = if prunable { births.as_mut().and_then(Iterator::next) } else { None };
            // Weights have streams of their own, so that a layer norm more does not change them.
            let stream = if weight { &mut weights } else { &mut others };
            params.push(Param::born(*stream, &p, prunable, topology, storage, seed)?);
            *stream += 1;
        }
        Ok(Self { spec: spec.clone(), params })
    }

    /// Output of inputs `[batch, ..]`, and what the layers give besides. `leaves` holds the values of `params` on the tape.
    /// Refuses names of taps that no layer has, inputs that are no tokens where tokens are needed, and parts of a sequence
    /// where a layer looks ahead.
    pub fn forward(&self, input: &Var<T>, leaves: &[Var<T>], pass: Pass<'_, T>) -> Result<(Var<T>, Effects<T>)> {
        if let Some(taps) = pass.taps {
            taps.check(&self.spec.taps())?;
        }
        if leaves.len() != self.params.len() {
            return Err(Error::Refused(format!("{} values for {} parameters", leaves.len(), self.params.len())));
        }
        let [c, h, w] = match pass.cache {
            Some(cache) => self.part(input, cache)?,
            None => self.spec.input,
        };
        let (batch, features) = (input.shape().first().copied().unwrap_or(0), c * h * w);
        if input.value().len() != batch * features {
            let shape = input.shape();
            return Err(Error::Refused(format!("an input of shape {shape:?} is no batch of {features} numbers a row")));
        }
        let x = ops::reshape(input, &[batch, h, w, c]);
        let mut context = Context::new(&self.params, leaves, pass);
        let output = context.chain("", &self.spec.layers, x)?;
        if let Some(cache) = pass.cache {
            cache.advance(batch, w);
        }
        Ok((output, context.finish()))
    }

    /// Extents of the next part of a sequence.
    fn part(&self, input: &Var<T>, cache: &Cache<T>) -> Result<[usize; 3]> {
        let refuse = |why: String| Err(Error::Refused(why));
        let [c, h, w] = self.spec.input;
        if let Err(why) = chain_causal(&self.spec.layers, &[h, w, c]) {
            return refuse(format!("{} cannot be run in parts: {why}", self.spec.name));
        }
        let (batch, row) = input.value().rows_cols();
        if (cache.seen() > 0 && batch != cache.batch()) || h != 1 || row == 0 || row % c != 0 {
            let shape = input.shape();
            return refuse(format!("an input of shape {shape:?} does not continue {} sequences", cache.batch()));
        }
        match cache.seen() + row / c <= w {
            true => Ok([c, 1, row / c]),
            false => refuse(format!("position {} of a network that takes {w}", cache.seen() + row / c)),
        }
    }

    /// Takes the edges and the features of the graph that the data lie on.
    pub fn adopt(&mut self, graph: &Graph) -> Result<()> {
        for p in self.params.iter_mut().filter(|p| p.role == Role::Structure) {
            let topology = if p.shape.name.ends_with(".edges") { &graph.edges } else { &graph.features };
            let (got, want) = ([topology.rows(), topology.cols()], [p.shape.rows, p.shape.cols]);
            if got != want {
                return Err(Error::Refused(format!("`{}` is {want:?}, but the graph has {got:?}", p.shape.name)));
            }
            *p = Param::structure(&p.shape, topology);
        }
        Ok(())
    }

    /// Moves running statistics towards those of a batch.
    pub fn absorb(&mut self, statistics: &[Statistics<T>]) {
        for s in statistics {
            ops::move_statistics(&mut self.params[s.mean_at].value, &s.mean, s.momentum, None);
            ops::move_statistics(&mut self.params[s.mean_at + 1].value, &s.variance, s.momentum, Some(s.rows));
        }
    }

    /// Output without a tape.
    pub fn infer(&self, input: Tensor<T>) -> Result<Tensor<T>> {
        T::infer(self, input)
    }

    pub(crate) fn infer_generic(&self, input: Tensor<T>) -> Result<Tensor<T>> {
        let leaves: Vec<Var<T>> = self.params.iter().map(|p| Var::constant(p.value.clone())).collect();
        Ok(self.forward(&Var::constant(input), &leaves, Pass::default())?.0.value().clone())
    }

    /// Matrices and kernels, without biases, norms, embeddings and buffers.
    pub fn weights(&self) -> impl Iterator<Item = &Param<T>> {
        self.params.iter().filter(|p| p.weight())
    }

    /// The parameters that are targets of a kind; none of units and structure, which are axes.
    pub(crate) fn places(&self, kind: Kind) -> Vec<usize> {
        let wanted = |p: &Param<T>| match kind {
            Kind::Weights => p.prunable,
            Kind::Edges => p.role == Role::Structure && p.shape.name.ends_with(".edges"),
            Kind::Units | Kind::Structure => false,
        };
        (0..self.params.len()).filter(|&i| wanted(&self.params[i])).collect()
    }

    /// Name and extent of the targets of a kind.
    pub fn targets(&self, kind: Kind) -> Vec<Shape> {
        match kind {
            Kind::Units => axes(&self.spec).iter().map(Axis::shape).collect(),
            Kind::Structure => Part::all(&self.spec).iter().map(Part::shape).collect(),
            _ => self.places(kind).into_iter().map(|i| self.params[i].shape.clone()).collect(),
        }
    }

    /// Weights that exist.
    pub fn nonzeros(&self) -> usize {
        self.weights().map(Param::nnz).sum()
    }

    /// Nonzeros / entries over the prunable weights; 1 when there are none.
    pub fn density(&self) -> f64 {
        let sum = |f: fn(&Param<T>) -> usize| self.weights().filter(|p| p.prunable).map(f).sum::<usize>();
        match sum(|p| p.shape.len()) {
            0 => 1.0,
            entries => sum(Param::nnz) as f64 / entries as f64,
        }
    }

    /// Bytes of all parameters with their indices.
    pub fn bytes(&self) -> usize {
        self.params.iter().map(Param::bytes).sum()
    }
}
