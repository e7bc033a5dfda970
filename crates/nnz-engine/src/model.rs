use crate::Real;
use crate::data::Graph;
use crate::layers::{Cache, Context, Effects, Pass, Statistics, chain_causal};
use crate::leaves::Formed;
use crate::{Error, ModelSpec, Param, PolicyRef, Result, Role, Tensor, Var, ops};
use nnz_core::{LayerRole, Prunable, Shape, Topology};

/// A network with its values.
#[derive(Clone, Debug)]
pub struct Model<T> {
    /// Its specification.
    pub spec: ModelSpec,
    /// Parameters and buffers in the order of [`ModelSpec::params`].
    pub params: Vec<Param<T>>,
}

impl<T: Real> Model<T> {
    pub(crate) fn born_generic(
        spec: &ModelSpec,
        births: Option<Vec<Topology>>,
        storage: PolicyRef,
        prunable: &Prunable,
        seed: u64,
    ) -> Result<Self> {
        let mut births = births.map(Vec::into_iter);
        let (mut params, mut weights, mut others) = (Vec::new(), 0, 1 << 32);
        for p in spec.params() {
            let weight = p.role == Role::Weight;
            let prunable = weight && prunable.takes(&p.shape);
            let topology = if prunable { births.as_mut().and_then(Iterator::next) } else { None };
            // Weights have separate streams, so that an added layer norm does not change them.
            let stream = if weight { &mut weights } else { &mut others };
            params.push(Param::born(*stream, &p, prunable, topology, storage, seed)?);
            *stream += 1;
        }
        Ok(Self { spec: spec.clone(), params })
    }

    /// The same with its prunable weights on other topologies, with the values that it has there and zero elsewhere.
    pub(crate) fn on(mut self, births: Vec<Topology>, storage: PolicyRef) -> Result<Self> {
        for (p, topology) in self.params.iter_mut().filter(|p| p.weight() && p.prunable).zip(births) {
            let from = p.by_rows();
            let values = from.of(&p.value);
            let carried = from.topology.carry(&topology).map(|c| c.map_or(T::ZERO, |c| values[c])).collect();
            *p = Param::from_entries(&p.shape, true, topology, storage, carried)?;
        }
        Ok(self)
    }

    /// Computes the output of inputs `[batch, ..]`, and layers' side effects. `leaves` holds the values of `params` on the
    /// tape. Refuses tap names that no layer has, inputs that are not tokens if tokens are needed, and parts of a sequence
    /// if a layer looks ahead.
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

    /// Takes the edges and the features of the data's graph.
    pub fn adopt(&mut self, graph: &Graph) -> Result<()> {
        for p in self.params.iter_mut().filter(|p| p.role == Role::Structure) {
            let topology = if p.shape.role == LayerRole::Edges { &graph.edges } else { &graph.features };
            let (got, want) = ([topology.rows(), topology.cols()], [p.shape.rows, p.shape.cols]);
            if got != want {
                return Err(Error::Refused(format!("`{}` is {want:?}, but the graph has {got:?}", p.shape.name)));
            }
            *p = Param::structure(&p.shape, topology);
        }
        Ok(())
    }

    /// Chooses which weights are prunable.
    ///
    /// # Errors
    /// When a role is named that no weight has.
    pub fn choose(&mut self, prunable: &Prunable) -> Result<()> {
        let shapes: Vec<&Shape> = self.weights().map(|p| &p.shape).collect();
        prunable.check(shapes.into_iter())?;
        let weights = self.params.iter_mut().filter(|p| p.weight());
        weights.for_each(|p| p.prunable = prunable.takes(&p.shape));
        Ok(())
    }

    /// Moves running statistics towards those of a batch.
    pub fn absorb(&mut self, statistics: &[Statistics<T>]) {
        for s in statistics {
            ops::move_statistics(&mut self.params[s.mean_at].value, &s.mean, s.momentum, None);
            ops::move_statistics(&mut self.params[s.mean_at + 1].value, &s.variance, s.momentum, Some(s.rows));
        }
    }

    pub(crate) fn infer_generic(&self, input: Tensor<T>) -> Result<Tensor<T>> {
        self.infer_formed(input, &[])
    }

    /// The same where weights are made of leaves.
    pub(crate) fn infer_formed(&self, input: Tensor<T>, formed: &[Option<Formed<T>>]) -> Result<Tensor<T>> {
        let leaves: Vec<Var<T>> = self.params.iter().map(|p| Var::constant(p.value.clone())).collect();
        let pass = Pass { formed, ..Pass::default() };
        Ok(self.forward(&Var::constant(input), &leaves, pass)?.0.value().clone())
    }

    /// Matrices and kernels, without biases, norms, embeddings and buffers.
    pub fn weights(&self) -> impl Iterator<Item = &Param<T>> {
        self.params.iter().filter(|p| p.weight())
    }

    /// Counts the existing weights.
    pub fn nonzeros(&self) -> usize {
        self.weights().map(Param::nnz).sum()
    }

    /// Nonzeros / entries over the prunable weights; 1 if there are none.
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
