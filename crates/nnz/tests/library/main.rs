//! The crates together, in one test program. What counts the memory or the files of a whole process has one of its own.

mod foreign;
mod ledger;
mod limits;
mod models;
mod networks;
mod registry;
