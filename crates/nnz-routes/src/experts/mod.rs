//! Which part of the network does this input need?

nnz_core::methods![routing];

pub use routing::Experts;
