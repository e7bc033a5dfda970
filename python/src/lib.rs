//! The compiled half of the Python package `nnz`; the other half, in Python, gives it the habits of each library.
#![forbid(unsafe_code)]

mod arrays;
mod chain;
mod error;
mod images;
mod layer;
mod lists;
mod model;
mod network;
mod program;
mod rewiring;
mod threads;

use pyo3::prelude::*;

/// The compiled half of `nnz`.
#[pymodule]
mod _nnz {
    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "the name that Python gives it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    #[pymodule_export]
    use crate::chain::SparseChain;
    #[pymodule_export]
    use crate::layer::{KeptInput, SparseLayer};
    #[pymodule_export]
    use crate::lists::{gather, keep_masked, scatter};
    #[pymodule_export]
    use crate::model::Model;
    #[pymodule_export]
    use crate::network::Network;
    #[pymodule_export]
    use crate::program::{Lent, call, described};
    #[pymodule_export]
    use crate::rewiring::{Rewiring, method_defaults};
    #[pymodule_export]
    use crate::threads::compute_beside;

    #[pymodule_init]
    fn init(_module: &Bound<'_, PyModule>) -> PyResult<()> {
        nnz::layers().make_known();
        Ok(())
    }

    use super::*;
}
