//! Lists of entries of the caller's arrays: masked, gathered, scattered, for `nnz.torch`.

use crate::arrays::{expect, read, slice, slice_mut, write};
use crate::error::{kind, value};
use crate::threads::{share, torch};
use nnz_kernels::{Real, elementwise};
use numpy::{Element, PyArrayDyn, PyReadonlyArray1, PyReadonlyArrayDyn};
use pyo3::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};

/// Entries of a list that a thread takes at once, and of a mask.
const LISTED: usize = 1 << 14;
const MASKED: usize = 1 << 16;

/// Does jobs on PyTorch's threads, or on rayon's that come in time.
fn together<J: Send>(jobs: Vec<J>, work: impl Fn(J) + Sync + Send) {
    match torch(jobs.len() > 1) {
        Some(torch) => torch.run(|| share(jobs, work)),
        None => share(jobs, work),
    }
}

/// Sets the entries of `array` to zero that `mask` does not have. Both are contiguous, with as many entries.
#[pyfunction]
pub fn keep_masked(py: Python<'_>, array: &Bound<'_, PyAny>, mask: &Bound<'_, PyAny>) -> PyResult<()> {
    fn run<T: Real + Element>(py: Python<'_>, array: &Bound<'_, PyAny>, mask: &[bool]) -> PyResult<()> {
        let mut array = write::<T>(array, "array")?;
        let array = slice_mut(&mut array, "array")?;
        expect("mask", mask.len(), array.len())?;
        py.detach(|| {
            let jobs = array.chunks_mut(MASKED).zip(mask.chunks(MASKED)).collect();
            together(jobs, |(array, mask): (&mut [T], &[bool])| elementwise::keep(array, mask));
        });
        Ok(())
    }
    let mask = mask.extract::<PyReadonlyArrayDyn<'_, bool>>().map_err(|_| kind("mask: a NumPy array of bool"))?;
    let mask = slice(&mask, "mask")?;
    let single = array.cast::<PyArrayDyn<f32>>().is_ok();
    match single {
        true => run::<f32>(py, array, mask),
        false => run::<f64>(py, array, mask),
    }
}

/// Arrays, positions in them, and lists of what is at these, of one call or several.
type Listed<'py> = Vec<(Bound<'py, PyAny>, PyReadonlyArray1<'py, i32>, Bound<'py, PyAny>)>;

/// `to[i] = array[positions[i]]`, for each `(array, positions, to)`; all arrays of one number type.
#[pyfunction]
pub fn gather(py: Python<'_>, lists: Listed<'_>) -> PyResult<()> {
    fn run<T: Real + Element>(py: Python<'_>, lists: &Listed<'_>) -> PyResult<()> {
        let mut all = Vec::with_capacity(lists.len());
        for (array, positions, to) in lists {
            all.push((read::<T>(array, "array")?, positions, write::<T>(to, "to")?));
        }
        let mut jobs = Vec::new();
        for (array, positions, to) in &mut all {
            let (array, positions) = (slice(array, "array")?, slice(positions, "positions")?);
            let to = slice_mut(to, "to")?;
            expect("to", to.len(), positions.len())?;
            let parts = positions.chunks(LISTED).zip(to.chunks_mut(LISTED));
            jobs.extend(parts.map(|(positions, to)| (array, positions, to)));
        }
        let fits = AtomicBool::new(true);
        py.detach(|| {
            together(jobs, |(array, positions, to): (&[T], &[i32], &mut [T])| {
                let inside = to.iter_mut().zip(positions).fold(true, |inside, (to, &p)| match array.get(p as usize) {
                    Some(&v) => {
                        *to = v;
                        inside
                    }
                    None => false,
                });
                fits.fetch_and(inside, Ordering::Relaxed);
            });
        });
        if fits.into_inner() { Ok(()) } else { Err(value("positions: outside the array")) }
    }
    match lists.first().is_none_or(|(array, ..)| array.cast::<PyArrayDyn<f32>>().is_ok()) {
        true => run::<f32>(py, &lists),
        false => run::<f64>(py, &lists),
    }
}

/// `array[positions[i]] = values[i]`, of ascending positions, for each `(array, positions, values)`; all arrays of one number type.
#[pyfunction]
pub fn scatter(py: Python<'_>, lists: Listed<'_>) -> PyResult<()> {
    fn run<T: Real + Element>(py: Python<'_>, lists: &Listed<'_>) -> PyResult<()> {
        let mut all = Vec::with_capacity(lists.len());
        for (array, positions, values) in lists {
            all.push((write::<T>(array, "array")?, positions, read::<T>(values, "values")?));
        }
        let mut jobs = Vec::new();
        for (array, positions, values) in &mut all {
            let (values, positions) = (slice(values, "values")?, slice(positions, "positions")?);
            let mut rest = slice_mut(array, "array")?;
            expect("values", values.len(), positions.len())?;
            let count = values.len();
            let mut first = 0;
            for (i, (positions, values)) in positions.chunks(LISTED).zip(values.chunks(LISTED)).enumerate() {
                // Up to the last position of these, if they ascend.
                let last = positions.last().map_or(0, |&p| usize::try_from(p).map_or(0, |p| p + 1));
                let end =
                    if (i + 1) * LISTED < count { last.saturating_sub(first).min(rest.len()) } else { rest.len() };
                let (own, after) = rest.split_at_mut(end);
                rest = after;
                jobs.push((own, first, positions, values));
                first += end;
            }
        }
        let fits = AtomicBool::new(true);
        py.detach(|| {
            together(jobs, |(array, first, positions, values): (&mut [T], usize, &[i32], &[T])| {
                let inside = values.iter().zip(positions).fold(true, |inside, (&v, &p)| {
                    match array.get_mut((p as usize).wrapping_sub(first)) {
                        Some(to) => {
                            *to = v;
                            inside
                        }
                        None => false,
                    }
                });
                fits.fetch_and(inside, Ordering::Relaxed);
            });
        });
        if fits.into_inner() { Ok(()) } else { Err(value("positions: not ascending, or outside the array")) }
    }
    match lists.first().is_none_or(|(array, ..)| array.cast::<PyArrayDyn<f32>>().is_ok()) {
        true => run::<f32>(py, &lists),
        false => run::<f64>(py, &lists),
    }
}
