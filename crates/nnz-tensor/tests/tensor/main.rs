//! Every op against finite differences in f64: its gradient, and the gradient of its gradient; and against values
//! worked out by hand where an identity is known.

mod check;
mod codes;
mod dense;
mod fits;
mod fourier;
mod index;
mod layers;
mod losses;
mod odd;
mod sparse;
mod windows;
