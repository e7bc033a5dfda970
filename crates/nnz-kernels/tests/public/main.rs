//! The public surface of the crate, in one test program: a program more is compiled and linked anew.
#![forbid(unsafe_code)]

mod hostile;
mod operator;
