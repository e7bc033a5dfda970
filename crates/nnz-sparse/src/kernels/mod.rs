//! How fast can sparse be?

nnz_core::methods![sparseprop];
