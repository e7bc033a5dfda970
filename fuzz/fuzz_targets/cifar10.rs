#![no_main]

nnz_fuzz::target!("cifar10");
