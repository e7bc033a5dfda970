//! Exceptions with the sentences of the crates.

use pyo3::PyErr;
use pyo3::exceptions::{PyTypeError, PyValueError};
use std::fmt::Display;

/// A `ValueError`: a number, shape or name that does not fit.
pub fn value(why: impl Display) -> PyErr {
    PyValueError::new_err(why.to_string())
}

/// A `TypeError`: an object or a number type that is not taken.
pub fn kind(why: impl Display) -> PyErr {
    PyTypeError::new_err(why.to_string())
}
