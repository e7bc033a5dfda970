//! Errors in Python's words. What they say is what the program says.

use pyo3::PyErr;
use pyo3::exceptions::{PyTypeError, PyValueError};
use std::fmt::Display;

/// A value that cannot be used.
pub fn value(why: impl Display) -> PyErr {
    PyValueError::new_err(why.to_string())
}

/// A value of a kind that is not taken.
pub fn kind(why: impl Display) -> PyErr {
    PyTypeError::new_err(why.to_string())
}
