//! Errors as Python's exceptions, with the same sentences.

use pyo3::PyErr;
use pyo3::exceptions::{PyTypeError, PyValueError};
use std::fmt::Display;

/// A ValueError: what was given has the right type, and cannot be used.
pub fn value(why: impl Display) -> PyErr {
    PyValueError::new_err(why.to_string())
}

/// A TypeError.
pub fn kind(why: impl Display) -> PyErr {
    PyTypeError::new_err(why.to_string())
}
