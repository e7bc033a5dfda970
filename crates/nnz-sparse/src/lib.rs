//! Rooms about sparse weights: which can go, which mask trains from the start, how a topology changes in training, which
//! structured family replaces a matrix, and how fast sparse is. One file per method; a room lists its own.
#![forbid(unsafe_code)]

nnz_core::rooms![prune, tickets, rewire, structured, kernels];
