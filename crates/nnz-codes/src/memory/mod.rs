//! How many patterns fit in sparse codes and sparse couplings?

nnz_core::methods![vsa_capacity];
