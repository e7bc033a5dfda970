//! Every check on every method of these rooms; `cargo test -p nnz-codes ::k_sparse::` runs those of one.

fn main() -> std::process::ExitCode {
    nnz_conform::main(nnz_codes::ROOMS)
}
