//! Rooms about sparse codes: which few features explain an activation, and how many patterns fit. One file a method; a room
//! lists its own.
#![forbid(unsafe_code)]

mod rows;

nnz_core::rooms![features, memory];
