#![no_main]

nnz_fuzz::target!("gguf");
