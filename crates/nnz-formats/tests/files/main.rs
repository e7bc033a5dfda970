//! Files of other programs, and broken ones, in one test program: a program more is compiled and linked anew.

mod foreign;
mod read;
