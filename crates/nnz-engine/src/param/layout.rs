//! Layout of a parameter's entries among its values.

use super::storage::Storage;
use crate::{Connections, Real, Tensor};
use nnz_core::{Explored, Mask, Topology};
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

    /// The same in 32 bits.
    pub(crate) fn narrow<T: Real>(&self, tensor: &Tensor<T>) -> Vec<f32> {
        let all = tensor.data();
        match &self.places {
            Places::Plan(order) => order.par_iter().with_min_len(PART).map(|&i| all[i as usize].f64() as f32).collect(),
            _ => self.of(tensor).into_par_iter().with_min_len(PART).map(|v| v.f64() as f32).collect(),
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

/// Moves tensors of a sparse layout to that of another topology. A connection that was there keeps its numbers; the first tensor
/// begins with `grown` at the others, or zero where that ends, and the rest with zero. Returns the layout and how many were grown.
pub(super) fn rearrange<T: Real>(
    (old, order): (Topology, Vec<u32>),
    new: Topology,
    grown: &[f32],
    tensors: &mut [&mut Tensor<T>],
    explored: Option<&mut Explored>,
) -> (Layout, usize) {
    let (sources, births) = old.sources(&new, |i| order[i]);
    if let Some(explored) = explored {
        explored.record(&old, &new, &sources, births);
    }
    // What is not needed any more makes room for the plan.
    drop((old, order));
    let (connections, sources) = Connections::with_numbers(&new, &sources);
    drop(new);
    let mut born: Vec<T> = grown.iter().map(|&v| T::of(f64::from(v))).collect();
    born.resize(births, T::ZERO);
    let (none, place) = ([T::ZERO], Topology::NEW - 1);
    for (which, tensor) in tensors.iter_mut().enumerate() {
        // Without branches that depend on what was there: they could not be foreseen.
        let (first, mask) = if which == 0 { (&born[..], place) } else { (&none[..], 0) };
        let from = [(tensor.data(), place), (first, mask)];
        let part = |(to, sources): (&mut [T], &[u32])| {
            for (to, &source) in to.iter_mut().zip(sources) {
                let (all, mask) = from[usize::from(source >= Topology::NEW)];
                *to = all[(source & mask) as usize];
            }
        };
        let moved = Tensor::written(&[sources.len()], |to| {
            to.par_chunks_mut(PART).zip(sources.par_chunks(PART)).for_each(part);
        });
        **tensor = moved;
    }
    (Layout::Sparse(Arc::new(connections)), births)
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
