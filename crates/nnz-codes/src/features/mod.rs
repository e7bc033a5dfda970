//! Which few features explain an activation?

nnz_core::methods![k_sparse];
