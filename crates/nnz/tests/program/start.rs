//! The program under test, isolated from the user's own data, measurements and runs.

use std::path::Path;
use std::process::Command;

/// The program, started in `dir`.
pub fn program(dir: &Path) -> Command {
    alone(Command::new(env!("CARGO_BIN_EXE_nnz")), dir)
}

/// Isolates a command that `program` would start in `dir`.
pub fn alone(mut command: Command, dir: &Path) -> Command {
    command.current_dir(dir).env("NNZ_DATA", dir.join("no-data")).env("NNZ_CACHE", dir.join("no-cache"));
    command
}
