//! Lists of entries of the caller's arrays: masked, gathered, scattered, for `nnz.torch`.

use crate::arrays::{expect, read, slice, slice_mut, write};
use crate::error::{kind, value};
use crate::threads::computing;
use nnz_kernels::{Real, elementwise};
use numpy::{Element, PyReadonlyArray1, PyReadonlyArrayDyn};
use pyo3::prelude::*;
use rayon::prelude::*;

/// Entries of a list that a thread takes at once.
const LISTED: usize = 1 << 15;

/// Sets the entries of `array` to zero that `mask` does not have. Both are contiguous, with as many entries.
#[pyfunction]
pub fn keep_masked(py: Python<'_>, array: &Bound<'_, PyAny>, mask: &Bound<'_, PyAny>) -> PyResult<()> {
    fn run<T: Real + Element>(py: Python<'_>, array: &Bound<'_, PyAny>, mask: &[bool]) -> PyResult<()> {
        let mut array = write::<T>(array, "array")?;
        let array = slice_mut(&mut array, "array")?;
        expect("mask", mask.len(), array.len())?;
        py.detach(|| computing(|| elementwise::keep(array, mask)));
        Ok(())
    }
    let mask = mask.extract::<PyReadonlyArrayDyn<'_, bool>>().map_err(|_| kind("mask: a NumPy array of bool"))?;
    let mask = slice(&mask, "mask")?;
    let single = array.extract::<PyReadonlyArrayDyn<'_, f32>>().is_ok();
    match single {
        true => run::<f32>(py, array, mask),
        false => run::<f64>(py, array, mask),
    }
}

/// `to[i] = array[positions[i]]`.
#[pyfunction]
pub fn gather(
    py: Python<'_>,
    array: &Bound<'_, PyAny>,
    positions: PyReadonlyArray1<'_, i32>,
    to: &Bound<'_, PyAny>,
) -> PyResult<()> {
    fn run<T: Real + Element>(
        py: Python<'_>,
        array: &Bound<'_, PyAny>,
        positions: &[i32],
        to: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (array, mut to) = (read::<T>(array, "array")?, write::<T>(to, "to")?);
        let (array, to) = (slice(&array, "array")?, slice_mut(&mut to, "to")?);
        expect("to", to.len(), positions.len())?;
        let fill = |(to, positions): (&mut [T], &[i32])| {
            to.iter_mut().zip(positions).fold(true, |fits, (to, &p)| match array.get(p as usize) {
                Some(&v) => {
                    *to = v;
                    fits
                }
                None => false,
            })
        };
        let all = || to.par_chunks_mut(LISTED).zip(positions.par_chunks(LISTED)).map(fill).all(|fits| fits);
        let fits = py.detach(|| computing(all));
        if fits { Ok(()) } else { Err(value("positions: outside the array")) }
    }
    let positions = slice(&positions, "positions")?;
    let single = array.extract::<PyReadonlyArrayDyn<'_, f32>>().is_ok();
    match single {
        true => run::<f32>(py, array, positions, to),
        false => run::<f64>(py, array, positions, to),
    }
}

/// `array[positions[i]] = values[i]`, of ascending positions.
#[pyfunction]
pub fn scatter(
    py: Python<'_>,
    values: &Bound<'_, PyAny>,
    positions: PyReadonlyArray1<'_, i32>,
    array: &Bound<'_, PyAny>,
) -> PyResult<()> {
    /// Writes the part of an array that begins at `first`; whether all positions were in it.
    fn fill<T: Real + Element>(values: &[T], positions: &[i32], first: usize, array: &mut [T]) -> bool {
        if positions.len() > LISTED {
            let half = positions.len() / 2;
            let middle = (positions[half] as usize).saturating_sub(first).min(array.len());
            let (low, high) = array.split_at_mut(middle);
            let both = rayon::join(
                || fill(&values[..half], &positions[..half], first, low),
                || fill(&values[half..], &positions[half..], first + middle, high),
            );
            return both.0 && both.1;
        }
        values.iter().zip(positions).fold(true, |fits, (&v, &p)| {
            match array.get_mut((p as usize).wrapping_sub(first)) {
                Some(to) => {
                    *to = v;
                    fits
                }
                None => false,
            }
        })
    }
    fn run<T: Real + Element>(
        py: Python<'_>,
        values: &Bound<'_, PyAny>,
        positions: &[i32],
        array: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (values, mut array) = (read::<T>(values, "values")?, write::<T>(array, "array")?);
        let (values, array) = (slice(&values, "values")?, slice_mut(&mut array, "array")?);
        expect("values", values.len(), positions.len())?;
        let fits = py.detach(|| computing(|| fill(values, positions, 0, array)));
        if fits { Ok(()) } else { Err(value("positions: not ascending, or outside the array")) }
    }
    let positions = slice(&positions, "positions")?;
    let single = values.extract::<PyReadonlyArrayDyn<'_, f32>>().is_ok();
    match single {
        true => run::<f32>(py, values, positions, array),
        false => run::<f64>(py, values, positions, array),
    }
}
