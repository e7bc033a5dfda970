//! Graphs as their users see them, in one test program: a program more is compiled and linked anew.

mod flow;
mod goldens;
mod gradients;
mod nodes;
mod refused;
mod told;
mod units;
