//! Every check on every method of these rooms; `cargo test -p nnz-shape ::teddy::` runs those of one.

fn main() -> std::process::ExitCode {
    nnz_conform::main(nnz_routes::ROOMS)
}
