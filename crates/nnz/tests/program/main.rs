//! The program from outside, in one test program: a program more is compiled and linked anew. `kills` has one of its own, since it
//! waits for moments.

mod bad_input;
mod bench;
mod cli;
mod language;
mod layers;
mod lines;
mod others;
mod start;
mod training;
