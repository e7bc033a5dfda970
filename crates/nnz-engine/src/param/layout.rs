//! Layout of a parameter's entries among its values.

use super::storage::Storage;
use crate::{Connections, Real, Tensor};
use nnz_core::{Mask, Topology};
use rayon::prelude::*;
use std::sync::Arc;

/// Numbers a thread takes at once.
const PART: usize = 1 << 14;

/// `all[from[i]]`, on all threads.
fn gather<T: Real>(all: &[T], from: &[u32], to: &mut [T]) {
    let part = |(to, from): (&mut [T], &[u32])| to.iter_mut().zip(from).for_each(|(to, &i)| *to = all[i as usize]);
    to.par_chunks_mut(PART).zip(from.par_chunks(PART)).for_each(part);
}

/// The entries of a parameter row by row, and the index of each among its values.
#[derive(Clone, Debug)]
pub struct Entries {
    /// Existing entries.
    pub topology: Topology,
    pub(super) places: Places,
}

#[derive(Clone, Debug)]
pub(super) enum Places {
    All,
    Mask(Arc<Mask>),
    Plan(Vec<u32>),
}

impl Entries {
    /// Of what has all of its entries.
    pub(crate) fn all(topology: Topology) -> Self {
        Self { topology, places: Places::All }
    }

    /// Reads the entries of a tensor in the layout of the parameter's values, in the topology's order.
    pub fn of<T: Real>(&self, tensor: &Tensor<T>) -> Vec<T> {
        let all = tensor.data();
        match &self.places {
            Places::All => all.to_vec(),
            Places::Mask(mask) => mask.positions().map(|p| all[p]).collect(),
            Places::Plan(order) => {
                let mut entries = vec![T::ZERO; order.len()];
                gather(all, order, &mut entries);
                entries
            }
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

/// Entries of a parameter that exist, and the memory layout of its values.
#[derive(Clone, Debug, PartialEq)]
pub enum Layout {
    /// All of them, row-major.
    Dense,
    /// Row-major with a bit per entry; values outside the mask are zero.
    Masked(Arc<Mask>),
    /// `[nnz]` values in the order of the plan.
    Sparse(Arc<Connections>),
}

/// Arranges vectors of entries under a resolved storage.
pub(super) fn lay_out<T: Real>(topology: Topology, storage: Storage, entries: &[Vec<T>]) -> (Layout, Vec<Tensor<T>>) {
    let (rows, cols) = (topology.rows(), topology.cols());
    if storage == Storage::Sparse {
        let (connections, order) = Connections::with_order(&topology);
        let place = |all: &Vec<T>| Tensor::written(&[all.len()], |to| gather(all, &order, to));
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
