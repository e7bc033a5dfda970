//! Rooms about shape: of data, of a graph of weights, of the graph that data lie on. One file a method; a room lists its own.
#![forbid(unsafe_code)]

nnz_core::rooms![topology, geometry, graph];
