//! What shape does data, a weight graph or a decision have?

nnz_core::methods![neural_persistence, topological_autoencoder];
