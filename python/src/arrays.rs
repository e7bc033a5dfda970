//! NumPy arrays as rows for networks.

use crate::error::{kind, value};
use nnz_data::read::{Arrays, Matrix};
use numpy::{PyReadonlyArray1, PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::prelude::*;

/// Inputs given as a C-contiguous array of `uint8`, `float32` or `float64`, or as compressed rows: `(data, indices, indptr, columns)`
/// of `float64`, `uint32` and `int64`. Python's half makes them so.
pub fn arrays(inputs: &Bound<'_, PyAny>, answers: Vec<f64>, names: Vec<String>) -> PyResult<Arrays> {
    if let Ok((data, indices, indptr, width)) =
        inputs.extract::<(PyReadonlyArray1<'_, f64>, PyReadonlyArray1<'_, u32>, PyReadonlyArray1<'_, i64>, usize)>()
    {
        let starts = indptr.as_slice()?.iter().map(|&i| usize::try_from(i)).collect::<Result<Vec<_>, _>>();
        let starts = starts.map_err(|_| value("indptr: a negative start"))?;
        let shape = vec![starts.len().saturating_sub(1), width];
        let (columns, values) = (indices.as_slice()?.to_vec(), data.as_slice()?.to_vec());
        return Ok(Arrays { shape, inputs: Matrix::Compressed { starts, columns, values }, answers, names });
    }
    let (shape, inputs) = if let Ok(a) = inputs.extract::<PyReadonlyArrayDyn<'_, f32>>() {
        (a.shape().to_vec(), Matrix::Floats(a.as_slice()?.to_vec()))
    } else if let Ok(a) = inputs.extract::<PyReadonlyArrayDyn<'_, f64>>() {
        (a.shape().to_vec(), Matrix::Doubles(a.as_slice()?.to_vec()))
    } else if let Ok(a) = inputs.extract::<PyReadonlyArrayDyn<'_, u8>>() {
        (a.shape().to_vec(), Matrix::Bytes(a.as_slice()?.to_vec()))
    } else {
        return Err(kind("inputs: expected an array of uint8, float32 or float64, or compressed rows"));
    };
    Ok(Arrays { shape, inputs, answers, names })
}
