use super::layout::{Entries, Layout, Places, lay_out, rearrange};
use super::moved::Moved;
use super::storage::{PolicyRef, Storage};
use crate::{Connections, Error, ParamSpec, Real, Result, Role, Tensor};
use nnz_core::{Edit, Explored, Rng, Shape, Topology};
use rayon::prelude::*;
use std::sync::Arc;

/// A weight or bias.
#[derive(Clone, Debug)]
pub struct Param<T> {
    /// Name and extent; a bias is `[rows, 1]`.
    pub shape: Shape,
    /// Its role.
    pub role: Role,
    /// Whether the method may change its topology.
    pub prunable: bool,
    /// Memory layout of its values.
    pub layout: Layout,
    /// The values; none while a training moves factors in the place of the weight.
    pub value: Tensor<T>,
}

impl<T: Real> Param<T> {
    /// A parameter that is not a weight: dense, never pruned.
    pub(crate) fn plain(spec: &ParamSpec, value: Tensor<T>) -> Self {
        Self { shape: spec.shape.clone(), role: spec.role, prunable: false, layout: Layout::Dense, value }
    }

    /// Converts to 64 bits.
    pub(crate) fn wide(&self) -> Param<f64> {
        let Self { shape, role, prunable, layout, value } = self;
        let data = value.data().iter().map(|v| v.f64()).collect();
        let (shape, layout, value) = (shape.clone(), layout.clone(), Tensor::new(value.shape(), data));
        Param { shape, role: *role, prunable: *prunable, layout, value }
    }

    /// Connections that come with the data.
    pub(crate) fn structure(shape: &Shape, topology: &Topology) -> Self {
        let (layout, value) =
            (Layout::Sparse(Arc::new(Connections::new(topology))), Tensor::full(&[topology.nnz()], T::ONE));
        Self { shape: shape.clone(), role: Role::Structure, prunable: false, layout, value }
    }

    /// Whether it is a matrix or kernel of weights.
    pub fn weight(&self) -> bool {
        self.role == Role::Weight
    }

    /// Lays out values of `topology` under `storage`; the rest is zero.
    ///
    /// # Errors
    /// When the storage cannot omit connections and the topology does.
    pub fn from_entries<'a>(
        shape: &Shape,
        prunable: bool,
        topology: Topology,
        storage: impl Into<PolicyRef<'a>>,
        values: Vec<T>,
    ) -> Result<Self> {
        let storage = storage.into().resolve(&topology, shape)?;
        let (layout, value) = lay_out(topology, storage, &[values]);
        let value = value.into_iter().next().unwrap_or_else(|| Tensor::zeros(&[0]));
        Ok(Self { shape: shape.clone(), role: Role::Weight, prunable, layout, value })
    }

    /// Draws initial values; those of a weight lie on a topology and depend on the active fan-in of their row.
    pub(crate) fn born(
        index: usize,
        spec: &ParamSpec,
        prunable: bool,
        topology: Option<Topology>,
        storage: PolicyRef,
        seed: u64,
    ) -> Result<Self> {
        let shape = &spec.shape;
        if spec.role == Role::Structure {
            return Ok(Self::structure(shape, &Topology::from_positions(shape.rows, shape.cols, [])));
        }
        let mut rng = Rng::stream(seed, "init", index as u64, 0);
        if spec.role != Role::Weight {
            let value = spec.init.plain(shape.len(), &mut rng);
            return Ok(Self::plain(spec, Tensor::new(&spec.dims(), value)));
        }
        let Some(topology) = topology else {
            let values = (0..shape.len()).map(|_| T::of(spec.init.deviation(shape.cols, shape.rows) * rng.normal()));
            let value = Tensor::new(&[shape.rows, shape.cols], values.collect());
            return Ok(Self { shape: shape.clone(), role: spec.role, prunable, layout: Layout::Dense, value });
        };
        let (degrees, outs) = (topology.row_degrees(), topology.col_degrees());
        let fans = degrees.iter().flat_map(|&d| std::iter::repeat_n(d, d)).zip(topology.columns());
        let draw = |(d, &c): (usize, &u32)| T::of(spec.init.deviation(d, outs[c as usize]) * rng.normal());
        let values = fans.map(draw).collect();
        Self::from_entries(shape, prunable, topology, storage, values)
    }

    /// Whether an existing entry, of a weight that lacks others, has the value zero, which dense files would lose.
    pub(crate) fn has_zero_connections(&self) -> bool {
        match &self.layout {
            Layout::Dense => false,
            Layout::Masked(mask) => mask.positions().any(|p| self.value.data()[p] == T::ZERO),
            Layout::Sparse(_) => self.value.data().contains(&T::ZERO),
        }
    }

    /// Whether its values are not there, since its factors are.
    pub(crate) fn unformed(&self) -> bool {
        self.layout == Layout::Dense && self.value.len() != self.shape.len()
    }

    /// Number of entries that exist.
    pub fn nnz(&self) -> usize {
        match &self.layout {
            Layout::Dense => self.shape.len(),
            Layout::Masked(mask) => mask.nnz(),
            Layout::Sparse(_) => self.value.len(),
        }
    }

    /// The entries that exist. O(entries); O(nnz) when sparse.
    pub fn topology(&self) -> Topology {
        self.by_rows().topology
    }

    /// The entries that exist and the indices of their values. O(entries); O(nnz) when sparse.
    pub fn by_rows(&self) -> Entries {
        let (rows, cols) = (self.shape.rows, self.shape.cols);
        let (topology, places) = match &self.layout {
            Layout::Dense => (Topology::full(rows, cols), Places::All),
            Layout::Masked(m) => {
                (Topology::from_positions(rows, cols, m.positions().map(|p| p as u64)), Places::Mask(m.clone()))
            }
            Layout::Sparse(c) => {
                let (topology, order) = c.rows();
                (topology, Places::Plan(order))
            }
        };
        Entries { topology, places }
    }

    /// Reads the entries of a tensor in the layout of this parameter's values, in the topology's order.
    pub fn entries(&self, tensor: &Tensor<T>) -> Vec<T> {
        match &self.layout {
            Layout::Dense => tensor.data().to_vec(),
            _ => self.by_rows().of(tensor),
        }
    }

    /// Zeroes a dense gradient outside the mask.
    pub fn mask_gradient(&self, gradient: &mut Tensor<T>) {
        if let Layout::Masked(mask) = &self.layout {
            let gate = |(g, &word): (&mut [T], &u64)| {
                g.iter_mut().enumerate().filter(|(i, _)| word >> i & 1 == 0).for_each(|(_, g)| *g = T::ZERO);
            };
            gradient.data_mut().par_chunks_mut(64).zip(mask.words()).with_min_len(512).for_each(gate);
        }
    }

    /// Checks that an edit can be applied, and returns the resulting storage.
    pub(crate) fn admits(&self, edit: &Edit, storage: PolicyRef) -> Result<Storage> {
        let (topology, values) = match edit {
            Edit::Rewire { topology, .. } => (topology, None),
            Edit::Set { topology, values } => (topology, Some(values)),
            Edit::Keep | Edit::Replace { .. } => return Ok(storage.storage),
        };
        let (name, [rows, cols]) = (&self.shape.name, [self.shape.rows, self.shape.cols]);
        let got = [topology.rows(), topology.cols()];
        if got != [rows, cols] {
            return Err(Error::Refused(format!("an edit of shape {got:?} for `{name}` of {rows}x{cols}")));
        }
        if topology.nnz() == 0 {
            return Err(Error::Refused(format!("`{name}` would lose its last connection")));
        }
        if let Some(values) = values.filter(|v| v.len() != topology.nnz()) {
            return Err(Error::Refused(format!(
                "{} values for the {} entries of `{name}`",
                values.len(),
                topology.nnz()
            )));
        }
        match self.role {
            Role::Structure => Ok(Storage::Sparse),
            _ => storage.resolve(topology, &self.shape),
        }
    }

    /// Applies an edit to the values and to every tensor of `state` in their layout: survivors keep theirs,
    /// grown entries start at their initial value and at zero state.
    pub fn apply<'a>(
        &mut self,
        edit: Edit,
        storage: impl Into<PolicyRef<'a>>,
        state: &mut [Tensor<T>],
    ) -> Result<Option<Moved>> {
        let storage = self.admits(&edit, storage.into())?;
        self.edit(edit, storage, state, self.by_rows(), None)
    }

    /// The same for an edit that was admitted, which leads to `storage`; `old` are the entries, as [`Param::by_rows`] gives them.
    /// Connections that a rewiring grows are recorded in `explored`.
    pub(crate) fn edit(
        &mut self,
        edit: Edit,
        storage: Storage,
        state: &mut [Tensor<T>],
        old: Entries,
        explored: Option<&mut Explored>,
    ) -> Result<Option<Moved>> {
        let (topology, grown, values) = match edit {
            Edit::Keep => return Ok(None),
            Edit::Rewire { topology, grown } => (topology, grown, None),
            Edit::Set { topology, values } => (topology, Vec::new(), Some(values)),
            Edit::Replace { .. } => return Err(Error::Refused("only a whole network can replace a layer".into())),
        };
        let before = old.topology.nnz();
        let old = match (old, storage, &values) {
            (Entries { topology: old, places: Places::Plan(order) }, Storage::Sparse, None) => {
                let after = topology.nnz();
                let mut tensors: Vec<_> = std::iter::once(&mut self.value).chain(state).collect();
                let (layout, grown) = rearrange((old, order), topology, &grown, &mut tensors, explored);
                self.layout = layout;
                return Ok(Some(Moved { grown, pruned: before - (after - grown) }));
            }
            (old, ..) => old,
        };
        // Values first, then state.
        let set = values.is_some();
        if let (Some(explored), false) = (explored, set) {
            explored.add(&old.topology, &topology);
        }
        let own = (!set).then_some(&self.value);
        let numbers: Vec<Vec<T>> = own.into_iter().chain(state.iter()).map(|tensor| old.of(tensor)).collect();
        let first = |which: usize, i: usize| match grown.get(i) {
            Some(&v) if which == 0 && !set => T::of(f64::from(v)),
            _ => T::ZERO,
        };
        let (mut entries, grown) = old.topology.carried(&topology, &numbers, T::ZERO, first);
        let moved = Moved { grown, pruned: before - (topology.nnz() - grown) };
        // What is not needed any more makes room for the new plan.
        drop((numbers, old));
        if let Some(values) = values {
            entries.insert(0, values.into_iter().map(T::of).collect());
        }
        self.set(topology, storage, &entries, state);
        Ok(Some(moved))
    }

    /// Replaces values and state under a new topology.
    pub(super) fn set(&mut self, topology: Topology, storage: Storage, entries: &[Vec<T>], state: &mut [Tensor<T>]) {
        let (layout, tensors) = lay_out(topology, storage, entries);
        let mut tensors = tensors.into_iter();
        self.value = tensors.next().unwrap_or_else(|| Tensor::zeros(&[0]));
        state.iter_mut().zip(tensors).for_each(|(s, t)| *s = t);
        self.layout = layout;
    }

    /// Bytes of values and indices or mask.
    pub fn bytes(&self) -> usize {
        let index = match &self.layout {
            Layout::Dense => 0,
            Layout::Masked(m) => m.len().div_ceil(64) * 8,
            Layout::Sparse(c) => c.plan().bytes(),
        };
        self.value.len() * size_of::<T>() + index
    }

    /// `dense`, `masked` or `sparse`.
    pub fn storage_name(&self) -> &'static str {
        match self.layout {
            Layout::Dense => "dense",
            Layout::Masked(_) => "masked",
            Layout::Sparse(_) => "sparse",
        }
    }
}
