//! How fast can sparse be? Methods, measurements of the kernels, and what they say about a layer on this machine.
use nnz_core::Method;

pub mod cost;
pub mod measure;
pub mod scale;
mod sparseprop;

/// The methods of this room.
pub const METHODS: &[&Method] = &[&sparseprop::METHOD];
