//! Promises of every method and experiment, as checks that are chosen by the kind of a card and of its instance, never by its key.
//!
//! A room crate runs all of them on its rooms with a test of three lines:
//!
//! ```ignore
//! fn main() -> std::process::ExitCode {
//!     nnz_conform::main(nnz_sparse::ROOMS)
//! }
//! ```
//!
//! A test is one check of one method and is named `room::file::check`, like the unit tests of that file, so that
//! `cargo test -p nnz-sparse ::rigl::` runs all tests of one method and nothing else.
#![forbid(unsafe_code)]

mod experiments;
mod grounds;
mod sparsify;

use libtest_mimic::{Arguments, Trial};
use nnz_core::Method;
use std::process::ExitCode;
use std::sync::Arc;

pub use experiments::Trials;
pub use grounds::{DENSITY, quick};
pub use sparsify::Bench;

/// Result of a check: nothing, or the defect in words.
pub type Verdict = Result<(), String>;

/// Ends a check with a sentence unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($why:tt)*) => {
        let holds: bool = $condition;
        if !holds {
            return Err(format!($($why)*));
        }
    };
}
pub(crate) use ensure;

/// A check, ready to run.
pub type Check = Box<dyn Fn() -> Verdict + Send + Sync>;

/// The checks that fit one card, by name. Those of one card share their runs.
pub fn checks(method: &'static Method) -> Vec<(&'static str, Check)> {
    if method.runs() {
        let trials = Arc::new(Trials::new(method));
        let boxed = |check: fn(&Trials) -> Verdict| -> Check {
            let trials = trials.clone();
            Box::new(move || check(&trials))
        };
        return Trials::CHECKS.iter().map(|&(name, check)| (name, boxed(check))).collect();
    }
    match Bench::new(method) {
        Ok(bench) => {
            let bench = Arc::new(bench);
            let boxed = |check: fn(&Bench) -> Verdict| -> Check {
                let bench = bench.clone();
                Box::new(move || check(&bench))
            };
            bench.checks().map(|(name, check)| (name, boxed(check))).collect()
        }
        Err(why) => vec![("builds", Box::new(move || Err(why.clone())))],
    }
}

/// Runs every check of every card of `rooms` as a test program: arguments are those of `cargo test`.
pub fn main(rooms: &'static [&'static [&'static Method]]) -> ExitCode {
    // Trials save their runs all the time, and lose nothing in a power cut that matters.
    nnz_disk::faults::unsynced();
    let trials = rooms.iter().copied().flatten().flat_map(|&method| {
        let place = format!("{}::{}", method.room, method.key.replace('-', "_"));
        let trial = move |(name, check): (&'static str, Check)| {
            Trial::test(format!("{place}::{name}"), move || check().map_err(Into::into))
        };
        checks(method).into_iter().map(trial)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
