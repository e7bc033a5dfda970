//! How alike are two representations or two minima?

mod perceptron;

nnz_core::methods![git_rebasin];
