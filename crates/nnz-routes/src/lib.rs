//! Rooms about routes: which part of a network an input needs. One file per method; a room lists its own.
#![forbid(unsafe_code)]

nnz_core::rooms![experts];
