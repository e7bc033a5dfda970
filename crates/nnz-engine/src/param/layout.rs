//! Layout of a parameter's entries among its values.

use super::storage::Storage;
use crate::{Connections, Real, Tensor};
use nnz_core::{Mask, Topology};
use std::sync::Arc;

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
    /// Reads the entries of a tensor in the layout of the parameter's values, in the topology's order.
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
