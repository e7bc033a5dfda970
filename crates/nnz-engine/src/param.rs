use crate::Real;
use crate::axes::Along;
use crate::{Error, ParamSpec, Result, Role, Tensor};
use nnz_core::{Edit, Mask, Rng, Shape, Topology};
use nnz_kernels::{Csc, Csr, Plan, Rows, Tuning};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How the weights of a run are stored. A weight that lacks no connection is dense under any of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Storage {
    /// Sparse up to a density that [`Crossovers`] give for each weight, masked above.
    #[default]
    Auto,
    /// Every entry, no mask. Refused for a layer with missing connections.
    Dense,
    /// Every entry and a bit for each: the time and memory of a dense network.
    Masked,
    /// Only the connections that exist, in values, gradients and optimizer state.
    Sparse,
}

/// Density up to which `auto` stores a matrix sparse where nothing else is chosen. A training step is faster than a masked one
/// at 0.5 (`results/crossover.md`), and takes no more memory.
pub const SPARSE_BELOW: f64 = 0.5;

/// Densities up to which storage `auto` keeps weights sparse, by name. A choice: results depend on it in the last bits, so it
/// is part of a training's specification and of its checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Crossovers(pub BTreeMap<String, f64>);

impl Crossovers {
    /// No choice: [`SPARSE_BELOW`] for matrices. Behind unfolded patches the transposes cost more than a sparse convolution
    /// saves, so kernels stay masked.
    pub const NONE: &'static Self = &Self(BTreeMap::new());

    /// Whether nothing is chosen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn of(&self, shape: &Shape) -> f64 {
        let chosen = self.0.get(&shape.name).copied();
        chosen.unwrap_or(if shape.kernel == [1, 1] { SPARSE_BELOW } else { 0.0 })
    }
}

/// How the weights of a network are stored, as its training said and as every file of it keeps: a product of a masked weight
/// and one of a sparse weight differ in their last bits, so a network is used as it was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoragePolicy {
    /// What was asked for.
    pub storage: Storage,
    /// What `auto` follows.
    #[serde(default, skip_serializing_if = "Crossovers::is_empty")]
    pub crossovers: Crossovers,
}

impl StoragePolicy {
    /// Whether it says nothing: `auto` with no choice.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl<'a> From<&'a StoragePolicy> for Storing<'a> {
    fn from(policy: &'a StoragePolicy) -> Self {
        Self { storage: policy.storage, crossovers: &policy.crossovers }
    }
}

/// A storage with what `auto` follows.
#[derive(Clone, Copy, Debug)]
pub struct Storing<'a> {
    /// What was asked for.
    pub storage: Storage,
    /// What `auto` follows.
    pub crossovers: &'a Crossovers,
}

impl From<Storage> for Storing<'static> {
    fn from(storage: Storage) -> Self {
        Self { storage, crossovers: Crossovers::NONE }
    }
}

impl Storing<'_> {
    /// Whether nothing was asked for, so that a file's own policy holds.
    pub(crate) fn open(self) -> bool {
        self.storage == Storage::Auto && self.crossovers.is_empty()
    }

    /// The storage of a weight that has `topology`.
    fn resolve(self, topology: &Topology, shape: &Shape) -> Result<Storage> {
        let full = topology.nnz() == topology.rows() * topology.cols();
        match self.storage {
            _ if full => Ok(Storage::Dense),
            Storage::Auto if topology.density() <= self.crossovers.of(shape) => Ok(Storage::Sparse),
            Storage::Auto => Ok(Storage::Masked),
            Storage::Dense => Err(Error::Refused(format!(
                "storage dense cannot leave out connections, and `{}` has density {:.4}; use masked, sparse or auto",
                shape.name,
                topology.density()
            ))),
            chosen => Ok(chosen),
        }
    }
}

/// The connections of one weight, compiled for the kernels. Checked once, here; steps trust it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections(Plan);

impl Connections {
    /// O(nnz).
    pub fn new(topology: &Topology) -> Self {
        Self::with_order(topology).0
    }

    /// Also, for each connection in the topology's order, where its value lies.
    fn with_order(topology: &Topology) -> (Self, Vec<u32>) {
        let (rows, cols, t) = (topology.rows(), topology.cols(), topology.transpose());
        let csr = Csr { rows, cols, starts: topology.starts(), columns: topology.columns() };
        let csc = Csc { starts: &t.starts, rows: &t.rows, entries: &t.entries };
        let (plan, order) = Plan::compile(csr, csc, Tuning::of(rows, cols, topology.nnz()));
        (Self(plan), order)
    }

    /// The plan; values, gradients and optimizer state lie in its order.
    pub fn plan(&self) -> &Plan {
        &self.0
    }

    /// Row by row again. O(nnz).
    pub fn topology(&self) -> Topology {
        self.rows().0
    }

    /// `row * cols + col` of every value.
    pub fn positions(&self) -> Vec<usize> {
        let (topology, order) = self.rows();
        let mut positions = vec![0; order.len()];
        order.iter().zip(topology.positions()).for_each(|(&at, p)| positions[at as usize] = p as usize);
        positions
    }

    /// Row by row, and where each value lies.
    fn rows(&self) -> (Topology, Vec<u32>) {
        let Rows { starts, columns, order } = self.0.by_rows();
        let topology = Topology::new(self.0.rows(), self.0.cols(), starts, columns);
        (topology.expect("a plan has a valid structure"), order)
    }
}

/// The entries of a parameter row by row, and where each lies among its values.
#[derive(Clone, Debug)]
pub struct Entries {
    /// Which exist.
    pub topology: Topology,
    places: Places,
}

#[derive(Clone, Debug)]
enum Places {
    All,
    Mask(Arc<Mask>),
    Plan(Vec<u32>),
}

impl Entries {
    /// The entries of a tensor that lies as the parameter's values do, in the topology's order.
    pub fn of<T: Real>(&self, tensor: &Tensor<T>) -> Vec<T> {
        let all = tensor.data();
        match &self.places {
            Places::All => all.to_vec(),
            Places::Mask(mask) => mask.positions().map(|p| all[p]).collect(),
            Places::Plan(order) => order.iter().map(|&p| all[p as usize]).collect(),
        }
    }

    /// Writes entries in the topology's order into such a tensor.
    pub fn set<T: Real>(&self, tensor: &mut Tensor<T>, entries: &[T]) {
        let all = tensor.data_mut();
        match &self.places {
            Places::All => all.copy_from_slice(entries),
            Places::Mask(mask) => mask.positions().zip(entries).for_each(|(p, &v)| all[p] = v),
            Places::Plan(order) => order.iter().zip(entries).for_each(|(&p, &v)| all[p as usize] = v),
        }
    }
}

/// Which entries of a parameter exist, and how its values lie in memory.
#[derive(Clone, Debug, PartialEq)]
pub enum Layout {
    /// All of them, row-major.
    Dense,
    /// Row-major with a bit for each; values outside the mask are zero.
    Masked(Arc<Mask>),
    /// `[nnz]` values in the order of the plan.
    Sparse(Arc<Connections>),
}

/// A weight or bias.
#[derive(Clone, Debug)]
pub struct Param<T> {
    /// Name and extent; a bias is `[rows, 1]`.
    pub shape: Shape,
    /// What it is for.
    pub role: Role,
    /// Whether the method may change its topology.
    pub prunable: bool,
    /// Where its values lie.
    pub layout: Layout,
    /// The values.
    pub value: Tensor<T>,
}

impl<T: Real> Param<T> {
    /// A parameter that is no weight: dense, never pruned.
    pub(crate) fn plain(spec: &ParamSpec, value: Tensor<T>) -> Self {
        Self { shape: spec.shape.clone(), role: spec.role, prunable: false, layout: Layout::Dense, value }
    }

    /// The same in 64 bits.
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

    /// Values of `topology` under `storage`; the rest is zero.
    ///
    /// # Errors
    /// When the storage cannot leave out connections and the topology does.
    pub fn from_entries<'a>(
        shape: &Shape,
        prunable: bool,
        topology: Topology,
        storage: impl Into<Storing<'a>>,
        values: Vec<T>,
    ) -> Result<Self> {
        let storage = storage.into().resolve(&topology, shape)?;
        let (layout, value) = lay_out(topology, storage, &[values]);
        let value = value.into_iter().next().unwrap_or_else(|| Tensor::zeros(&[0]));
        Ok(Self { shape: shape.clone(), role: Role::Weight, prunable, layout, value })
    }

    /// Fresh values; those of a weight lie on a topology and know the active fan-in of their row.
    pub(crate) fn born(
        index: usize,
        spec: &ParamSpec,
        prunable: bool,
        topology: Option<Topology>,
        storage: Storing,
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

    /// Whether an entry that exists, of a weight that lacks others, has the value zero: written dense it would be lost.
    pub(crate) fn has_zero_connections(&self) -> bool {
        match &self.layout {
            Layout::Dense => false,
            Layout::Masked(mask) => mask.positions().any(|p| self.value.data()[p] == T::ZERO),
            Layout::Sparse(_) => self.value.data().contains(&T::ZERO),
        }
    }

    /// Number of entries that exist.
    pub fn nnz(&self) -> usize {
        match &self.layout {
            Layout::Dense => self.value.len(),
            Layout::Masked(mask) => mask.nnz(),
            Layout::Sparse(_) => self.value.len(),
        }
    }

    /// Which entries exist. O(entries); O(nnz) when sparse.
    pub fn topology(&self) -> Topology {
        self.by_rows().topology
    }

    /// Which entries exist and where their values lie. O(entries); O(nnz) when sparse.
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

    /// The entries of a tensor that lies as this parameter's values do, in the topology's order.
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

    /// Whether an edit can be applied, and the storage it leads to.
    pub(crate) fn admits(&self, edit: &Edit, storage: Storing) -> Result<Storage> {
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

    /// Applies an edit to the values and to every tensor of `state` that lies as they do: survivors keep theirs,
    /// newborns start at their first value and at zero state.
    pub fn apply<'a>(
        &mut self,
        edit: Edit,
        storage: impl Into<Storing<'a>>,
        state: &mut [Tensor<T>],
    ) -> Result<Option<Moved>> {
        let storage = self.admits(&edit, storage.into())?;
        let (topology, born, values) = match edit {
            Edit::Keep => return Ok(None),
            Edit::Rewire { topology, born } => (topology, born, None),
            Edit::Set { topology, values } => (topology, Vec::new(), Some(values)),
            Edit::Replace { .. } => return Err(Error::Refused("only a whole network can replace a layer".into())),
        };
        let old = self.by_rows();
        let grown = old.topology.carry(&topology).filter(Option::is_none).count();
        let moved = Moved { born: grown, died: old.topology.nnz() - (topology.nnz() - grown) };
        let carry = |tensor: &Tensor<T>, born: &[f32]| -> Vec<T> {
            let before = old.of(tensor);
            let mut born = born.iter();
            let mut first = || born.next().map_or(T::ZERO, |&v| T::of(f64::from(v)));
            old.topology.carry(&topology).map(|c| c.map_or_else(&mut first, |i| before[i])).collect()
        };
        let own = match values {
            Some(values) => values.into_iter().map(T::of).collect(),
            None => carry(&self.value, &born),
        };
        let mut entries = vec![own];
        entries.extend(state.iter().map(|s| carry(s, &[])));
        self.set(topology, storage, &entries, state);
        Ok(Some(moved))
    }

    /// Lays values and state out anew.
    fn set(&mut self, topology: Topology, storage: Storage, entries: &[Vec<T>], state: &mut [Tensor<T>]) {
        let (layout, tensors) = lay_out(topology, storage, entries);
        let mut tensors = tensors.into_iter();
        self.value = tensors.next().unwrap_or_else(|| Tensor::zeros(&[0]));
        state.iter_mut().zip(tensors).for_each(|(s, t)| *s = t);
        self.layout = layout;
    }

    /// Cuts rows, columns or entries away with their units and adds those of `born` new ones behind the others; columns repeat
    /// the units of their axis. New connections start at what `first` says, given fan-in and fan-out; state at zero, and what
    /// lies behind the first `slots` tensors of it where the value does.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn resize(
        &mut self,
        along: Along,
        keep: &[bool],
        born: usize,
        mut first: impl FnMut(usize, usize) -> T,
        storage: Storing,
        state: &mut [Tensor<T>],
        slots: usize,
    ) -> Result<Moved> {
        let units = keep.len();
        let place: Vec<usize> =
            keep.iter().scan(0, |next, &k| Some(std::mem::replace(next, *next + usize::from(k)))).collect();
        let stay = keep.iter().filter(|k| **k).count();
        let left = stay + born;
        if along == Along::Entries {
            let fresh: Vec<T> = (0..born).map(|_| first(1, 1)).collect();
            for (at, tensor) in std::iter::once(&mut self.value).chain(state).enumerate() {
                let kept = tensor.data().iter().zip(keep).filter(|(_, k)| **k).map(|(v, _)| *v);
                let new = fresh.iter().map(|&v| if (1..=slots).contains(&at) { T::ZERO } else { v });
                *tensor = Tensor::new(&[left], kept.chain(new).collect());
            }
            self.shape.rows = left;
            return Ok(Moved { born: 0, died: 0 });
        }
        let old = self.by_rows();
        let (rows, cols) = match along {
            Along::Cols => (self.shape.rows, self.shape.cols / units * left),
            _ => (left, self.shape.cols),
        };
        let to = |p: u64| -> Option<u64> {
            let (r, c) = ((p / self.shape.cols as u64) as usize, (p % self.shape.cols as u64) as usize);
            let (r, c) = match along {
                Along::Rows => (keep[r].then(|| place[r])?, c),
                _ => (r, keep[c % units].then(|| c / units * left + place[c % units])?),
            };
            Some((r * cols + c) as u64)
        };
        // Where each connection goes, with its old entry or its first value.
        let moved = old.topology.positions().enumerate().filter_map(|(at, p)| Some((to(p)?, Ok(at))));
        let mut all: Vec<(u64, std::result::Result<usize, T>)> = moved.collect();
        let survivors = all.len();
        let new = |p: &u64| match along {
            Along::Rows => *p >= (stay * cols) as u64,
            _ => *p % left as u64 >= stay as u64,
        };
        if born > 0 {
            all.extend((0..(rows * cols) as u64).filter(new).map(|p| (p, Err(first(cols, rows)))));
            all.sort_unstable_by_key(|e| e.0);
        }
        let carry = |tensor: &Tensor<T>, zero: bool| -> Vec<T> {
            let before = old.of(tensor);
            let value = |e: &(u64, std::result::Result<usize, T>)| match e.1 {
                Ok(at) => before[at],
                Err(v) => {
                    if zero {
                        T::ZERO
                    } else {
                        v
                    }
                }
            };
            all.iter().map(value).collect()
        };
        let tensors = std::iter::once(&self.value).chain(state.iter()).enumerate();
        let entries: Vec<Vec<T>> = tensors.map(|(at, t)| carry(t, (1..=slots).contains(&at))).collect();
        let topology = Topology::from_positions(rows, cols, all.iter().map(|e| e.0));
        if topology.nnz() == 0 {
            return Err(Error::Refused(format!("`{}` would lose its last connection", self.shape.name)));
        }
        (self.shape.rows, self.shape.cols) = (rows, cols);
        let storage = storage.resolve(&topology, &self.shape)?;
        let moved = Moved { born: topology.nnz() - survivors, died: old.topology.nnz() - survivors };
        self.set(topology, storage, &entries, state);
        Ok(moved)
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

/// How many connections one edit made and removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// New connections.
    pub born: usize,
    /// Removed connections.
    pub died: usize,
}

impl std::ops::AddAssign for Moved {
    fn add_assign(&mut self, other: Self) {
        self.born += other.born;
        self.died += other.died;
    }
}

/// Lays vectors of entries out under a resolved storage.
fn lay_out<T: Real>(topology: Topology, storage: Storage, entries: &[Vec<T>]) -> (Layout, Vec<Tensor<T>>) {
    let (rows, cols) = (topology.rows(), topology.cols());
    if storage == Storage::Sparse {
        let (connections, order) = Connections::with_order(&topology);
        let place = |entries: &Vec<T>| {
            let mut all = Tensor::zeros(&[entries.len()]);
            let out = all.data_mut();
            order.iter().zip(entries).for_each(|(&p, &v)| out[p as usize] = v);
            all
        };
        return (Layout::Sparse(Arc::new(connections)), entries.iter().map(place).collect());
    }
    let spread = |entries: &Vec<T>| {
        let mut all = Tensor::zeros(&[rows, cols]);
        let out = all.data_mut();
        topology.positions().zip(entries).for_each(|(p, &v)| out[p as usize] = v);
        all
    };
    let tensors = entries.iter().map(spread).collect();
    match storage {
        Storage::Dense => (Layout::Dense, tensors),
        _ => (Layout::Masked(Arc::new(Mask::of(&topology))), tensors),
    }
}
