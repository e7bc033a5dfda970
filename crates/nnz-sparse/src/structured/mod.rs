//! Which structured sparse or low-rank family replaces a dense matrix?

nnz_core::methods![dlrt];
