//! What shape does data, a weight graph or a decision have?

methods![neural_persistence];
