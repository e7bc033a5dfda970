//! Which part of the network does this input need?

nnz_core::methods![routing];

mod layer;

pub use layer::Experts;
