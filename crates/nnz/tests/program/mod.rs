//! The program under test, which sees nothing of the user's own: no data, no measurements of the machine, no runs.

use std::path::Path;
use std::process::Command;

/// The program, started in `dir`.
pub fn program(dir: &Path) -> Command {
    alone(Command::new(env!("CARGO_BIN_EXE_nnz")), dir)
}

/// What it would start in `dir`, seeing what `program` sees.
pub fn alone(mut command: Command, dir: &Path) -> Command {
    command.current_dir(dir).env("NNZ_DATA", dir.join("no-data")).env("NNZ_CACHE", dir.join("no-cache"));
    command
}
