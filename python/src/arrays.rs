//! NumPy arrays: as slices where they lie, and as rows for networks.

use crate::error::{kind, value};
use nnz_data::read::{Arrays, Matrix};
use numpy::ndarray::Dimension;
use numpy::{
    Element, PyReadonlyArray, PyReadonlyArray1, PyReadonlyArrayDyn, PyReadwriteArray, PyReadwriteArrayDyn,
    PyUntypedArrayMethods,
};
use pyo3::prelude::*;

/// Inputs given as a C-contiguous array of `uint8`, `float32` or `float64`, or as compressed rows: `(data, indices, indptr, columns)`
/// of `float64`, `uint32` and `int64`. Python's half makes them so.
pub fn arrays(inputs: &Bound<'_, PyAny>, answers: Vec<f64>, names: Vec<String>) -> PyResult<Arrays> {
    if let Ok((data, indices, indptr, width)) =
        inputs.extract::<(PyReadonlyArray1<'_, f64>, PyReadonlyArray1<'_, u32>, PyReadonlyArray1<'_, i64>, usize)>()
    {
        let starts = slice(&indptr, "indptr")?.iter().map(|&i| usize::try_from(i)).collect::<Result<Vec<_>, _>>();
        let starts = starts.map_err(|_| value("indptr: a negative start"))?;
        let shape = vec![starts.len().saturating_sub(1), width];
        let (columns, values) = (slice(&indices, "indices")?.to_vec(), slice(&data, "data")?.to_vec());
        return Ok(Arrays { shape, inputs: Matrix::Compressed { starts, columns, values }, answers, names });
    }
    let (shape, inputs) = if let Ok(a) = inputs.extract::<PyReadonlyArrayDyn<'_, f32>>() {
        (a.shape().to_vec(), Matrix::Floats(slice(&a, "inputs")?.to_vec()))
    } else if let Ok(a) = inputs.extract::<PyReadonlyArrayDyn<'_, f64>>() {
        (a.shape().to_vec(), Matrix::Doubles(slice(&a, "inputs")?.to_vec()))
    } else if let Ok(a) = inputs.extract::<PyReadonlyArrayDyn<'_, u8>>() {
        (a.shape().to_vec(), Matrix::Bytes(slice(&a, "inputs")?.to_vec()))
    } else {
        return Err(kind("inputs: expected an array of uint8, float32 or float64, or compressed rows"));
    };
    Ok(Arrays { shape, inputs, answers, names })
}

/// A NumPy array of a number type, to be read.
pub fn read<'py, T: Element>(array: &Bound<'py, PyAny>, name: &str) -> PyResult<PyReadonlyArrayDyn<'py, T>> {
    array
        .extract()
        .map_err(|_| kind(format!("{name}: a NumPy array of float32 or float64, the same for all arrays of a call")))
}

/// The same, to be written.
pub fn write<'py, T: Element>(array: &Bound<'py, PyAny>, name: &str) -> PyResult<PyReadwriteArrayDyn<'py, T>> {
    array.extract().map_err(|_| {
        kind(format!(
            "{name}: a NumPy array that can be written, of float32 or float64, the same for all arrays of a call"
        ))
    })
}

fn ordered(name: &str, c: bool) -> PyResult<()> {
    // `as_slice` also hands out what lies column by column, and forgets that it does.
    match c {
        true => Ok(()),
        false => {
            Err(value(format!("{name}: pass an array whose rows lie one after the other (numpy.ascontiguousarray)")))
        }
    }
}

/// The numbers of an array row by row, where they lie.
pub fn slice<'a, T: Element, D: Dimension>(array: &'a PyReadonlyArray<'_, T, D>, name: &str) -> PyResult<&'a [T]> {
    ordered(name, array.is_c_contiguous())?;
    array.as_slice().map_err(|e| value(format!("{name}: {e}")))
}

/// The same, to be written.
pub fn slice_mut<'a, T: Element, D: Dimension>(
    array: &'a mut PyReadwriteArray<'_, T, D>,
    name: &str,
) -> PyResult<&'a mut [T]> {
    ordered(name, array.is_c_contiguous())?;
    array.as_slice_mut().map_err(|e| value(format!("{name}: {e}")))
}

/// Refuses another number of numbers.
pub fn expect(name: &str, got: usize, want: usize) -> PyResult<()> {
    match got == want {
        true => Ok(()),
        false => Err(value(format!("{name}: {got} numbers where {want} are needed"))),
    }
}

/// Refuses another shape.
pub fn shape(name: &str, got: &[usize], want: &[usize]) -> PyResult<()> {
    match got == want {
        true => Ok(()),
        false => Err(value(format!("{name}: shape {got:?} where {want:?} is needed"))),
    }
}
