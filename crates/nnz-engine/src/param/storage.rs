//! Memory layouts of weights, as requested.

use crate::{Error, Result};
use nnz_core::{Shape, Topology};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How the weights of a run are stored. A weight without missing connections is dense under any of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Storage {
    /// Sparse up to a density that [`SparseThresholds`] give for each weight, masked above.
    #[default]
    Auto,
    /// Every entry, no mask. Refused for a layer with missing connections.
    Dense,
    /// Every entry and a bit for each: the time and memory of a dense network.
    Masked,
    /// Only the connections that exist, in values, gradients and optimizer state.
    Sparse,
}

/// Default density up to which `auto` stores a matrix sparse. A training step is faster than a masked one
/// at 0.5 (`results/crossover.md`), and takes no more memory.
pub const SPARSE_BELOW: f64 = 0.5;

/// Densities up to which storage `auto` keeps weights sparse, by name. A choice: results depend on it in the last bits, so it
/// is part of a training's specification and of its checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SparseThresholds(pub BTreeMap<String, f64>);

impl SparseThresholds {
    /// No choice: [`SPARSE_BELOW`] for matrices. For unfolded patches the transposes cost more than a sparse convolution
    /// saves, so kernels stay masked.
    pub const NONE: &'static Self = &Self(BTreeMap::new());

    /// Whether nothing was chosen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn of(&self, shape: &Shape) -> f64 {
        let chosen = self.0.get(&shape.name).copied();
        chosen.unwrap_or(if shape.kernel == [1, 1] { SPARSE_BELOW } else { 0.0 })
    }
}

/// How the weights of a network are stored, as its training chose and all its files keep: a product of a masked weight
/// and one of a sparse weight differ in their last bits, so a network is used as it was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoragePolicy {
    /// Requested storage.
    pub storage: Storage,
    /// Density thresholds of `auto`.
    #[serde(default, skip_serializing_if = "SparseThresholds::is_empty")]
    pub crossovers: SparseThresholds,
}

impl StoragePolicy {
    /// Whether it is the default: `auto` with no choice.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl<'a> From<&'a StoragePolicy> for PolicyRef<'a> {
    fn from(policy: &'a StoragePolicy) -> Self {
        Self { storage: policy.storage, crossovers: &policy.crossovers }
    }
}

/// A storage with the density thresholds of `auto`.
#[derive(Clone, Copy, Debug)]
pub struct PolicyRef<'a> {
    /// Requested storage.
    pub storage: Storage,
    /// Density thresholds of `auto`.
    pub crossovers: &'a SparseThresholds,
}

impl From<Storage> for PolicyRef<'static> {
    fn from(storage: Storage) -> Self {
        Self { storage, crossovers: SparseThresholds::NONE }
    }
}

impl PolicyRef<'_> {
    /// Whether nothing was requested, so that a file's own policy applies.
    pub(crate) fn open(self) -> bool {
        self.storage == Storage::Auto && self.crossovers.is_empty()
    }

    /// Resolves the storage of a weight that has `topology`.
    pub(super) fn resolve(self, topology: &Topology, shape: &Shape) -> Result<Storage> {
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
