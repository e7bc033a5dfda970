//! The program `nnz`: the command line of `nnz-cli` over the methods of every room.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    nnz_cli::main(nnz::REGISTRY, nnz::layers())
}
