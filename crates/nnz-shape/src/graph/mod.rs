//! How does one learn on sparse graphs and complexes, and learn the graph itself?

nnz_core::methods![teddy];
