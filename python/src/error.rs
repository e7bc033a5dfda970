//! Errors as Python's exceptions, with the sentences of the program.

use pyo3::PyErr;
use pyo3::exceptions::{PyTypeError, PyValueError};
use std::fmt::Display;

/// A ValueError: what was given has the right type, and cannot be used.
pub fn value(why: impl Display) -> PyErr {
    PyValueError::new_err(why.to_string())
}

/// A TypeError: what was given is of a kind that is not taken.
pub fn kind(why: impl Display) -> PyErr {
    PyTypeError::new_err(why.to_string())
}
