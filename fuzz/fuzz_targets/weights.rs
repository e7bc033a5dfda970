#![no_main]

nnz_fuzz::target!("weights");
