//! Sparse linear layers and convolutions on arrays of the caller, for `nnz.torch`.
//!
//! Arrays are read and written in place: whoever calls allocates the outputs. All are C-contiguous, of one number type, float32 or
//! float64. Values, and gradients of values, are one number for each connection, row by row.

use crate::error::{kind, value};
use crate::threads::computing;
use nnz::core::Topology;
use nnz_kernels::{Csr, Plan, Real, Single, TILE, Tiled, Tuning};
use numpy::{Element, PyReadonlyArray1, PyReadonlyArrayDyn, PyReadwriteArrayDyn};
use pyo3::prelude::*;
use rayon::prelude::*;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// Samples up to which the format for single samples is faster.
const FEW: usize = 2;
/// Patches of a convolution that are unfolded at a time, in numbers: they stay in the second-level cache.
const UNFOLDED: usize = 1 << 18;

/// Numbers and products below which a pass does not enter rayon's pool.
const SHORT: usize = 1 << 18;
/// Entries of a list that a thread takes at once.
const LISTED: usize = 1 << 15;

/// A number type of arrays.
trait Number: Real + Element {
    /// Whether two slices hold the same bits. Without a branch per number, at the speed of memory.
    fn same(a: &[Self], b: &[Self]) -> bool;
    /// Values of this type that a layer holds.
    fn slot(layer: &SparseLayer) -> &Slot<Self>;
    /// Inputs kept for the backward pass.
    fn keep(x: Tiled<Self>) -> Kept;
    /// Those of this type.
    fn kept(kept: &Kept) -> Option<&Tiled<Self>>;
}

type Slot<T> = Mutex<Option<Arc<Held<T>>>>;

macro_rules! number {
    ($t:ty, $slot:ident, $kept:ident) => {
        impl Number for $t {
            fn same(a: &[Self], b: &[Self]) -> bool {
                let part = |(a, b): (&[$t], &[$t])| {
                    a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a.to_bits() ^ b.to_bits())) == 0
                };
                a.len() == b.len() && a.chunks(1024).zip(b.chunks(1024)).all(part)
            }

            fn slot(layer: &SparseLayer) -> &Slot<Self> {
                &layer.$slot
            }

            fn keep(x: Tiled<Self>) -> Kept {
                Kept::$kept(x)
            }

            fn kept(kept: &Kept) -> Option<&Tiled<Self>> {
                match kept {
                    Kept::$kept(x) => Some(x),
                    _ => None,
                }
            }
        }
    };
}

number!(f32, narrow, F32);
number!(f64, wide, F64);

/// The inputs of a linear layer in the layout of the kernels, from its forward pass for its backward pass.
#[pyclass(frozen, module = "nnz._nnz")]
pub(crate) struct KeptInput(Kept);

enum Kept {
    F32(Tiled<f32>),
    F64(Tiled<f64>),
}

/// Values in the orders of the kernels.
struct Held<T> {
    by_row: Vec<T>,
    by_plan: Vec<T>,
    packed: Vec<T>,
    single: OnceLock<Single<T>>,
}

/// How a kernel moves over images `[channels, height, width]`.
struct Window {
    channels: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
}

/// A sparse linear layer, y = x Wᵀ + b, or a convolution, whose W `[out, channels * height * width of the kernel]` has few connections.
///
/// `positions` are `row * columns + column` of the connections of W, ascending; W is `[out, in]`, and that of a convolution
/// `[out, in / groups * kernel height * kernel width]`. `window` makes it a convolution: channels of the input, kernel, stride and
/// dilation, each height and width, and groups.
#[pyclass(frozen, module = "nnz._nnz")]
pub(crate) struct SparseLayer {
    rows: usize,
    cols: usize,
    starts: Vec<usize>,
    columns: Vec<u32>,
    plan: Plan,
    /// The connection, row by row, at each position of the plan.
    numbers: Vec<u32>,
    window: Option<Window>,
    /// Columns with connections.
    used: Vec<u32>,
    narrow: Slot<f32>,
    wide: Slot<f64>,
}

type WindowArgs = (usize, [usize; 2], [usize; 2], [usize; 2], usize);

#[pymethods]
impl SparseLayer {
    #[new]
    #[pyo3(signature = (rows, columns, positions, window=None))]
    fn new(
        py: Python<'_>,
        rows: usize,
        columns: usize,
        positions: PyReadonlyArray1<'_, i64>,
        window: Option<WindowArgs>,
    ) -> PyResult<Self> {
        let positions = positions.as_slice().map_err(|_| value("positions: pass a contiguous array"))?;
        py.detach(|| computing(|| Self::build(rows, columns, positions, window)))
    }

    /// Number of connections.
    #[getter]
    fn nnz(&self) -> usize {
        self.columns.len()
    }

    /// y = x Wᵀ + bias: `x` `[batch, in]`, `y` `[batch, out]`, which is written. With `keep`, returns the inputs for `backward`.
    #[pyo3(signature = (values, x, bias, y, keep=false))]
    fn forward(
        &self,
        py: Python<'_>,
        values: &Bound<'_, PyAny>,
        x: &Bound<'_, PyAny>,
        bias: Option<&Bound<'_, PyAny>>,
        y: &Bound<'_, PyAny>,
        keep: bool,
    ) -> PyResult<Option<KeptInput>> {
        match values.extract::<PyReadonlyArrayDyn<'_, f32>>() {
            Ok(v) => self.forward_of::<f32>(py, &v, x, bias, y, keep),
            Err(_) => self.forward_of::<f64>(py, &read(values, "values")?, x, bias, y, keep),
        }
    }

    /// The gradients that are given an array to write: of the input, `dx` `[batch, in]`, of the values, `dvalues`, and of the bias,
    /// `dbias` `[out]`, for `g` `[batch, out]`. `x` is the input, or what `forward` kept.
    #[pyo3(signature = (values, x, g, dx=None, dvalues=None, dbias=None))]
    #[allow(clippy::too_many_arguments)]
    fn backward(
        &self,
        py: Python<'_>,
        values: &Bound<'_, PyAny>,
        x: &Bound<'_, PyAny>,
        g: &Bound<'_, PyAny>,
        dx: Option<&Bound<'_, PyAny>>,
        dvalues: Option<&Bound<'_, PyAny>>,
        dbias: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        match values.extract::<PyReadonlyArrayDyn<'_, f32>>() {
            Ok(v) => self.backward_of::<f32>(py, &v, x, g, dx, dvalues, dbias),
            Err(_) => self.backward_of::<f64>(py, &read(values, "values")?, x, g, dx, dvalues, dbias),
        }
    }

    /// The convolution of `x` `[batch, channels, height, width]`, into `y` `[batch, out, height, width]`. `before` are the zeros
    /// above and to the left of an image; those below and to the right follow from the shapes.
    fn convolve(
        &self,
        py: Python<'_>,
        values: &Bound<'_, PyAny>,
        x: &Bound<'_, PyAny>,
        before: [usize; 2],
        bias: Option<&Bound<'_, PyAny>>,
        y: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        match values.extract::<PyReadonlyArrayDyn<'_, f32>>() {
            Ok(v) => self.convolve_of::<f32>(py, &v, x, before, bias, y),
            Err(_) => self.convolve_of::<f64>(py, &read(values, "values")?, x, before, bias, y),
        }
    }

    /// As `backward`, of `convolve`.
    #[pyo3(signature = (values, x, before, g, dx=None, dvalues=None, dbias=None))]
    #[allow(clippy::too_many_arguments)]
    fn convolve_backward(
        &self,
        py: Python<'_>,
        values: &Bound<'_, PyAny>,
        x: &Bound<'_, PyAny>,
        before: [usize; 2],
        g: &Bound<'_, PyAny>,
        dx: Option<&Bound<'_, PyAny>>,
        dvalues: Option<&Bound<'_, PyAny>>,
        dbias: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        match values.extract::<PyReadonlyArrayDyn<'_, f32>>() {
            Ok(v) => self.convolve_backward_of::<f32>(py, &v, x, before, g, dx, dvalues, dbias),
            Err(_) => self.convolve_backward_of::<f64>(py, &read(values, "values")?, x, before, g, dx, dvalues, dbias),
        }
    }
}

/// Sets the entries of `array` to zero that `mask` does not have. Both are contiguous, with as many entries.
#[pyfunction]
pub(crate) fn keep_masked(py: Python<'_>, array: &Bound<'_, PyAny>, mask: &Bound<'_, PyAny>) -> PyResult<()> {
    fn run<T: Number>(py: Python<'_>, array: &Bound<'_, PyAny>, mask: &[bool]) -> PyResult<()> {
        let mut array = write::<T>(array, "array")?;
        let array = slice_mut(&mut array, "array")?;
        expect("mask", mask.len(), array.len())?;
        let keep = |(to, mask): (&mut [T], &[bool])| {
            to.iter_mut().zip(mask).for_each(|(v, &m)| *v = if m { *v } else { T::ZERO });
        };
        py.detach(|| {
            computing(|| match array.len() <= 1 << 16 {
                true => keep((array, mask)),
                false => array.par_chunks_mut(1 << 16).zip(mask.par_chunks(1 << 16)).for_each(keep),
            })
        });
        Ok(())
    }
    let mask = mask.extract::<PyReadonlyArrayDyn<'_, bool>>().map_err(|_| kind("mask: a NumPy array of bool"))?;
    let mask = mask.as_slice().map_err(|_| value("mask: pass a contiguous array"))?;
    let single = array.extract::<PyReadonlyArrayDyn<'_, f32>>().is_ok();
    match single {
        true => run::<f32>(py, array, mask),
        false => run::<f64>(py, array, mask),
    }
}

/// `to[i] = array[positions[i]]`.
#[pyfunction]
pub(crate) fn gather(
    py: Python<'_>,
    array: &Bound<'_, PyAny>,
    positions: PyReadonlyArray1<'_, i32>,
    to: &Bound<'_, PyAny>,
) -> PyResult<()> {
    fn run<T: Number>(
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
    let positions = positions.as_slice().map_err(|_| value("positions: pass a contiguous array"))?;
    let single = array.extract::<PyReadonlyArrayDyn<'_, f32>>().is_ok();
    match single {
        true => run::<f32>(py, array, positions, to),
        false => run::<f64>(py, array, positions, to),
    }
}

/// `array[positions[i]] = values[i]`, of ascending positions.
#[pyfunction]
pub(crate) fn scatter(
    py: Python<'_>,
    values: &Bound<'_, PyAny>,
    positions: PyReadonlyArray1<'_, i32>,
    array: &Bound<'_, PyAny>,
) -> PyResult<()> {
    /// Writes the part of an array that begins at `first`; whether all positions were in it.
    fn fill<T: Number>(values: &[T], positions: &[i32], first: usize, array: &mut [T]) -> bool {
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
    fn run<T: Number>(
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
    let positions = positions.as_slice().map_err(|_| value("positions: pass a contiguous array"))?;
    let single = values.extract::<PyReadonlyArrayDyn<'_, f32>>().is_ok();
    match single {
        true => run::<f32>(py, values, positions, array),
        false => run::<f64>(py, values, positions, array),
    }
}

fn read<'py, T: Element>(array: &Bound<'py, PyAny>, name: &str) -> PyResult<PyReadonlyArrayDyn<'py, T>> {
    array
        .extract()
        .map_err(|_| kind(format!("{name}: a NumPy array of float32 or float64, the same for all arrays of a call")))
}

fn write<'py, T: Element>(array: &Bound<'py, PyAny>, name: &str) -> PyResult<PyReadwriteArrayDyn<'py, T>> {
    array.extract().map_err(|_| {
        kind(format!(
            "{name}: a NumPy array that can be written, of float32 or float64, the same for all arrays of a call"
        ))
    })
}

fn slice<'a, T: Element>(array: &'a PyReadonlyArrayDyn<'_, T>, name: &str) -> PyResult<&'a [T]> {
    array.as_slice().map_err(|_| value(format!("{name}: pass a contiguous array")))
}

fn slice_mut<'a, T: Element>(array: &'a mut PyReadwriteArrayDyn<'_, T>, name: &str) -> PyResult<&'a mut [T]> {
    array.as_slice_mut().map_err(|_| value(format!("{name}: pass a contiguous array")))
}

fn expect(name: &str, got: usize, want: usize) -> PyResult<()> {
    match got == want {
        true => Ok(()),
        false => Err(value(format!("{name}: {got} numbers where {want} are needed"))),
    }
}

fn shape(name: &str, got: &[usize], want: &[usize]) -> PyResult<()> {
    match got == want {
        true => Ok(()),
        false => Err(value(format!("{name}: shape {got:?} where {want:?} is needed"))),
    }
}

impl SparseLayer {
    fn build(rows: usize, cols: usize, positions: &[i64], window: Option<WindowArgs>) -> PyResult<Self> {
        let total = rows.checked_mul(cols).filter(|t| i64::try_from(*t).is_ok());
        let total = total.ok_or_else(|| value("the layer is too large"))?;
        if u32::try_from(rows.max(cols)).is_err() || positions.len() >= 1 << 31 {
            return Err(value(
                "the layer is too large: fewer than 2^32 rows and columns and 2^31 connections are possible",
            ));
        }
        let ascend = positions.windows(2).all(|p| p[0] < p[1]);
        let inside =
            positions.first().is_none_or(|&p| p >= 0) && positions.last().is_none_or(|&p| (p as u64) < total as u64);
        if !ascend || !inside {
            return Err(value(format!("positions must ascend from 0 to below {rows} x {cols}")));
        }
        let mut topology = Topology::from_positions(rows, cols, positions.iter().map(|&p| p as u64));
        let mut wide = cols;
        let window = match window {
            None => None,
            Some((channels, kernel, stride, dilation, groups)) => {
                let large = [channels].iter().chain(&kernel).chain(&stride).chain(&dilation).any(|&n| n >= 1 << 31);
                let area = if large { 0 } else { kernel[0] * kernel[1] };
                let fits = groups > 0 && rows.is_multiple_of(groups) && channels.is_multiple_of(groups) && {
                    cols as u128 == (channels / groups) as u128 * area as u128
                };
                if !fits || area == 0 || stride.contains(&0) || dilation.contains(&0) {
                    return Err(value(format!(
                        "a kernel {kernel:?} over {channels} channels in {groups} groups, with stride {stride:?} and dilation \
                         {dilation:?}, does not fit {rows} x {cols} weights"
                    )));
                }
                if channels.checked_mul(area).is_none_or(|n| u32::try_from(n).is_err()) {
                    return Err(value("the layer is too large: an output reads fewer than 2^32 numbers"));
                }
                if groups > 1 {
                    // The connections of a group read its channels alone.
                    wide = channels * area;
                    let moved = |r: usize| {
                        let first = r / (rows / groups) * cols;
                        topology.row(r).iter().map(move |&c| c + first as u32)
                    };
                    let columns = (0..rows).flat_map(moved).collect();
                    topology = Topology::new(rows, wide, topology.starts().to_vec(), columns).map_err(value)?;
                }
                Some(Window { channels, kernel, stride, dilation })
            }
        };
        let (starts, columns) = (topology.starts().to_vec(), topology.columns().to_vec());
        let csr = Csr { rows, cols: wide, starts: &starts, columns: &columns };
        let (plan, numbers) = Plan::of_rows(csr, Tuning::of(rows, wide, columns.len()));
        let degrees = topology.col_degrees();
        let used = (0..wide as u32).filter(|&c| degrees[c as usize] > 0).collect();
        let (narrow, wide_values) = (Mutex::new(None), Mutex::new(None));
        Ok(Self { rows, cols: wide, starts, columns, plan, numbers, window, used, narrow, wide: wide_values })
    }

    /// Runs the kernels of a pass over `rows` inputs. One of some length runs within rayon's pool, since every kernel would hand its
    /// work to it one by one, and wait for an answer, from outside.
    fn compute<R: Send>(&self, rows: usize, work: impl FnOnce() -> R + Send) -> R {
        match rows.saturating_mul(self.rows + self.cols + self.columns.len()) < SHORT {
            true => computing(work),
            false => computing(|| rayon::scope(|_| work())),
        }
    }

    fn csr(&self) -> Csr<'_> {
        Csr { rows: self.rows, cols: self.cols, starts: &self.starts, columns: &self.columns }
    }

    /// The values in the orders of the kernels; those of the last call, if they are the same. O(nnz).
    fn held<T: Number>(&self, values: &[T]) -> Arc<Held<T>> {
        let mut slot: MutexGuard<'_, Option<Arc<Held<T>>>> = T::slot(self).lock().unwrap_or_else(|e| e.into_inner());
        if let Some(held) = &*slot
            && T::same(&held.by_row, values)
        {
            return held.clone();
        }
        let mut held = match slot.take().map(Arc::try_unwrap) {
            Some(Ok(held)) => Held { single: OnceLock::new(), ..held },
            _ => {
                let n = values.len();
                let none = vec![T::ZERO; n];
                Held { by_row: none.clone(), by_plan: none.clone(), packed: none, single: OnceLock::new() }
            }
        };
        held.by_row.copy_from_slice(values);
        held.by_plan.iter_mut().zip(&self.numbers).for_each(|(v, &e)| *v = values[e as usize]);
        self.plan.pack(&held.by_plan, &mut held.packed);
        let held = Arc::new(held);
        *slot = Some(held.clone());
        held
    }

    /// From the order of the plan to that of the rows.
    fn by_row<T: Copy>(&self, by_plan: &[T], to: &mut [T]) {
        by_plan.iter().zip(&self.numbers).for_each(|(&v, &e)| to[e as usize] = v);
    }

    fn forward_of<T: Number>(
        &self,
        py: Python<'_>,
        values: &PyReadonlyArrayDyn<'_, T>,
        x: &Bound<'_, PyAny>,
        bias: Option<&Bound<'_, PyAny>>,
        y: &Bound<'_, PyAny>,
        keep: bool,
    ) -> PyResult<Option<KeptInput>> {
        let (x, bias) = (read::<T>(x, "x")?, bias.map(|b| read::<T>(b, "bias")).transpose()?);
        let mut y = write::<T>(y, "y")?;
        let batch = x.as_array().shape().first().copied().unwrap_or(0);
        shape("x", x.as_array().shape(), &[batch, self.cols])?;
        shape("y", y.as_array().shape(), &[batch, self.rows])?;
        let (values, x) = (slice(values, "values")?, slice(&x, "x")?);
        let bias = bias.as_ref().map(|b| slice(b, "bias")).transpose()?;
        let y = slice_mut(&mut y, "y")?;
        self.check(values, bias, self.window.is_none())?;
        py.detach(|| {
            if !keep && batch <= FEW {
                computing(|| {
                    let held = self.held(values);
                    held.single.get_or_init(|| Single::new(self.csr(), &held.by_row)).apply(batch, x, bias, y);
                });
                return Ok(None);
            }
            self.compute(batch, || {
                let held = self.held(values);
                let x = Tiled::from_rows(batch, self.cols, x);
                let mut out = Tiled::any(batch, self.rows);
                self.plan.forward(&held.packed, &x, bias, &mut out);
                out.to_rows(y);
                Ok(keep.then(|| KeptInput(T::keep(x))))
            })
        })
    }

    /// That a call gives one value for each connection, one bias for each output, and is meant for this kind of layer.
    fn check<T>(&self, values: &[T], bias: Option<&[T]>, meant: bool) -> PyResult<()> {
        if !meant {
            return Err(value("a layer with a window convolves; one without computes forward"));
        }
        expect("values", values.len(), self.columns.len())?;
        bias.map_or(Ok(()), |b| expect("bias", b.len(), self.rows))
    }

    #[allow(clippy::too_many_arguments)]
    fn backward_of<T: Number>(
        &self,
        py: Python<'_>,
        values: &PyReadonlyArrayDyn<'_, T>,
        x: &Bound<'_, PyAny>,
        g: &Bound<'_, PyAny>,
        dx: Option<&Bound<'_, PyAny>>,
        dvalues: Option<&Bound<'_, PyAny>>,
        dbias: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let g = read::<T>(g, "g")?;
        let batch = g.as_array().shape().first().copied().unwrap_or(0);
        shape("g", g.as_array().shape(), &[batch, self.rows])?;
        let kept = x.cast::<KeptInput>().ok();
        let kept = match kept {
            Some(kept) => {
                Some(T::kept(&kept.get().0).ok_or_else(|| kind("x: kept from inputs of another number type"))?)
            }
            None => None,
        };
        let rows = match kept {
            Some(_) => None,
            None => Some(read::<T>(x, "x")?),
        };
        let got = match (&kept, &rows) {
            (Some(kept), _) => vec![kept.batch(), kept.features()],
            (_, Some(rows)) => rows.as_array().shape().to_vec(),
            _ => Vec::new(),
        };
        shape("x", &got, &[batch, self.cols])?;
        let mut dx = dx.map(|a| write::<T>(a, "dx")).transpose()?;
        if let Some(dx) = &dx {
            shape("dx", dx.as_array().shape(), &[batch, self.cols])?;
        }
        let mut dvalues = dvalues.map(|a| write::<T>(a, "dvalues")).transpose()?;
        let mut dbias = dbias.map(|a| write::<T>(a, "dbias")).transpose()?;
        let (values, g) = (slice(values, "values")?, slice(&g, "g")?);
        let rows = rows.as_ref().map(|r| slice(r, "x")).transpose()?;
        let dx = dx.as_mut().map(|a| slice_mut(a, "dx")).transpose()?;
        let dvalues = dvalues.as_mut().map(|a| slice_mut(a, "dvalues")).transpose()?;
        let dbias = dbias.as_mut().map(|a| slice_mut(a, "dbias")).transpose()?;
        self.check(values, dbias.as_deref(), self.window.is_none())?;
        if let Some(d) = &dvalues {
            expect("dvalues", d.len(), values.len())?;
        }
        let work = || {
            let g = Tiled::from_rows(batch, self.rows, g);
            if let Some(dbias) = dbias {
                g.sum_batch(dbias);
            }
            if dx.is_none() && dvalues.is_none() {
                return;
            }
            let made;
            let x = match (kept, rows) {
                (Some(kept), _) => kept,
                (None, rows) => {
                    made = Tiled::from_rows(batch, self.cols, rows.unwrap_or_default());
                    &made
                }
            };
            let held = self.held(values);
            let mut by_plan = vec![T::ZERO; values.len()];
            let mut tiled = dx.is_some().then(|| Tiled::any(batch, self.cols));
            self.plan.backward(&held.by_plan, x, &g, tiled.as_mut(), &mut by_plan);
            if let (Some(dx), Some(tiled)) = (dx, tiled) {
                tiled.to_rows(dx);
            }
            if let Some(dvalues) = dvalues {
                self.by_row(&by_plan, dvalues);
            }
        };
        py.detach(|| self.compute(batch, work));
        Ok(())
    }

    fn window(&self) -> PyResult<&Window> {
        self.window.as_ref().ok_or_else(|| value("this layer has no window: call forward and backward"))
    }

    fn convolve_of<T: Number>(
        &self,
        py: Python<'_>,
        values: &PyReadonlyArrayDyn<'_, T>,
        x: &Bound<'_, PyAny>,
        before: [usize; 2],
        bias: Option<&Bound<'_, PyAny>>,
        y: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (x, bias) = (read::<T>(x, "x")?, bias.map(|b| read::<T>(b, "bias")).transpose()?);
        let mut y = write::<T>(y, "y")?;
        let over = Images::new(self.window()?, self.rows, x.as_array().shape(), y.as_array().shape(), before)?;
        let (values, x) = (slice(values, "values")?, slice(&x, "x")?);
        let bias = bias.as_ref().map(|b| slice(b, "bias")).transpose()?;
        let y = slice_mut(&mut y, "y")?;
        self.check(values, bias, true)?;
        let work = || {
            let held = self.held(values);
            over.parts(self.cols, |images| {
                let patches = over.unfold(&self.used, self.cols, over.input(x, &images), images.len());
                let mut out = Tiled::any(patches.batch(), self.rows);
                self.plan.forward(&held.packed, &patches, bias, &mut out);
                over.spread(&out, self.rows, &mut y[over.outputs(self.rows, &images)]);
            });
        };
        py.detach(|| self.compute(over.images * over.area(), work));
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn convolve_backward_of<T: Number>(
        &self,
        py: Python<'_>,
        values: &PyReadonlyArrayDyn<'_, T>,
        x: &Bound<'_, PyAny>,
        before: [usize; 2],
        g: &Bound<'_, PyAny>,
        dx: Option<&Bound<'_, PyAny>>,
        dvalues: Option<&Bound<'_, PyAny>>,
        dbias: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (x, g) = (read::<T>(x, "x")?, read::<T>(g, "g")?);
        let over = Images::new(self.window()?, self.rows, x.as_array().shape(), g.as_array().shape(), before)?;
        let mut dx = dx.map(|a| write::<T>(a, "dx")).transpose()?;
        if let Some(dx) = &dx {
            shape("dx", dx.as_array().shape(), x.as_array().shape())?;
        }
        let mut dvalues = dvalues.map(|a| write::<T>(a, "dvalues")).transpose()?;
        let mut dbias = dbias.map(|a| write::<T>(a, "dbias")).transpose()?;
        let (values, x, g) = (slice(values, "values")?, slice(&x, "x")?, slice(&g, "g")?);
        let mut dx = dx.as_mut().map(|a| slice_mut(a, "dx")).transpose()?;
        let dvalues = dvalues.as_mut().map(|a| slice_mut(a, "dvalues")).transpose()?;
        let mut dbias = dbias.as_mut().map(|a| slice_mut(a, "dbias")).transpose()?;
        self.check(values, dbias.as_deref(), true)?;
        if let Some(d) = &dvalues {
            expect("dvalues", d.len(), values.len())?;
        }
        let work = || {
            let held = self.held(values);
            let mut sums = vec![T::ZERO; self.rows];
            let (mut all, mut part) = (vec![T::ZERO; values.len()], vec![T::ZERO; values.len()]);
            if let Some(dbias) = &mut dbias {
                dbias.fill(T::ZERO);
            }
            over.parts(self.cols, |images| {
                let g = over.collect(&g[over.outputs(self.rows, &images)], self.rows, images.len());
                if let Some(dbias) = &mut dbias {
                    g.sum_batch(&mut sums);
                    dbias.iter_mut().zip(&sums).for_each(|(d, &s)| *d += s);
                }
                if dx.is_none() && dvalues.is_none() {
                    return;
                }
                let patches = over.unfold(&self.used, self.cols, over.input(x, &images), images.len());
                let mut into = dx.is_some().then(|| Tiled::any(g.batch(), self.cols));
                self.plan.backward(&held.by_plan, &patches, &g, into.as_mut(), &mut part);
                all.iter_mut().zip(&part).for_each(|(a, &p)| *a += p);
                if let (Some(dx), Some(into)) = (&mut dx, &into) {
                    over.fold(&self.used, into, &mut dx[over.inputs(&images)]);
                }
            });
            if let Some(dvalues) = dvalues {
                self.by_row(&all, dvalues);
            }
        };
        py.detach(|| self.compute(over.images * over.area(), work));
        Ok(())
    }
}

/// A window over the images of one call. Positions count the outputs of one channel, image after image.
struct Images<'a> {
    window: &'a Window,
    images: usize,
    input: [usize; 2],
    output: [usize; 2],
    before: [usize; 2],
}

/// Positions of a row of outputs that lie in a tile.
struct Run {
    /// Where they begin in it.
    at: usize,
    len: usize,
    image: usize,
    /// Row of the outputs, and the first column.
    row: usize,
    column: usize,
}

impl<'a> Images<'a> {
    fn new(window: &'a Window, out: usize, x: &[usize], y: &[usize], before: [usize; 2]) -> PyResult<Self> {
        let (&[images, _, high, wide], &[.., height, width]) = (x, y) else {
            return Err(value(format!("x and y have 4 extents each, not {} and {}", x.len(), y.len())));
        };
        shape("x", x, &[images, window.channels, high, wide])?;
        shape("y", y, &[images, out, height, width])?;
        let limit = 1 << 31;
        if before
            .iter()
            .chain(&window.stride)
            .chain(&window.dilation)
            .chain(&window.kernel)
            .chain(x)
            .chain(y)
            .any(|&n| n >= limit)
        {
            return Err(value("extents, padding, stride and dilation are below 2^31"));
        }
        Ok(Self { window, images, input: [high, wide], output: [height, width], before })
    }

    /// Outputs of a channel of an image.
    fn area(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Calls `f` with ranges of images whose patches of `cols` numbers fit the cache, in order.
    fn parts(&self, cols: usize, mut f: impl FnMut(std::ops::Range<usize>)) {
        let each = (UNFOLDED / (cols * self.area()).max(1)).max(1);
        (0..self.images).step_by(each).for_each(|first| f(first..(first + each).min(self.images)));
    }

    fn inputs(&self, images: &std::ops::Range<usize>) -> std::ops::Range<usize> {
        let each = self.window.channels * self.input[0] * self.input[1];
        images.start * each..images.end * each
    }

    fn outputs(&self, rows: usize, images: &std::ops::Range<usize>) -> std::ops::Range<usize> {
        let each = rows * self.area();
        images.start * each..images.end * each
    }

    fn input<'x, T>(&self, x: &'x [T], images: &std::ops::Range<usize>) -> &'x [T] {
        &x[self.inputs(images)]
    }

    /// The rows of outputs of which `positions` are made.
    fn runs(&self, positions: std::ops::Range<usize>) -> Vec<Run> {
        let (area, wide) = (self.area(), self.output[1]);
        let (mut runs, mut p) = (Vec::new(), positions.start);
        while p < positions.end {
            let (image, inside) = (p / area, p % area);
            let (row, column) = (inside / wide, inside % wide);
            let len = (wide - column).min(positions.end - p);
            runs.push(Run { at: p - positions.start, len, image, row, column });
            p += len;
        }
        runs
    }

    /// The input pixels that a column of the weight reads in a run: where those that exist begin in the run, how many they are,
    /// where the first is in the image's data, and the distance between two.
    fn pixels(&self, column: u32, run: &Run) -> (usize, usize, usize, usize) {
        let Window { channels: _, kernel, stride, dilation } = self.window;
        let (column, [high, wide]) = (column as usize, self.input);
        let (channel, ky, kx) = (column / (kernel[0] * kernel[1]), column / kernel[1] % kernel[0], column % kernel[1]);
        let y = (run.row * stride[0] + ky * dilation[0]) as i64 - self.before[0] as i64;
        if y < 0 || y >= high as i64 {
            return (run.len, 0, 0, 1);
        }
        let shift = (kx * dilation[1]) as i64 - self.before[1] as i64;
        let step = stride[1] as i64;
        // Columns c of the outputs with 0 ≤ c step + shift < wide.
        let first = if shift >= 0 { 0 } else { (-shift + step - 1) / step };
        let last = if shift >= wide as i64 { 0 } else { (wide as i64 - 1 - shift) / step + 1 };
        let from = first.max(run.column as i64);
        let to = last.min((run.column + run.len) as i64);
        if from >= to {
            return (run.len, 0, 0, 1);
        }
        let at = (channel * high + y as usize) * wide + (from * step + shift) as usize;
        ((from - run.column as i64) as usize, (to - from) as usize, at, stride[1])
    }

    /// Patches of some images as inputs of the kernels, `[positions, cols]`. Columns without connections have any content.
    fn unfold<T: Number>(&self, used: &[u32], cols: usize, x: &[T], images: usize) -> Tiled<T> {
        let positions = images * self.area();
        let mut tiled = Tiled::any(positions, cols);
        let widths: Vec<usize> = (0..tiled.tiles()).map(|t| tiled.width(t)).collect();
        let each = x.len() / images.max(1);
        let fill = |(t, tile): (usize, &mut [T])| {
            let width = widths[t];
            let last = positions.min((t + 1) * TILE);
            let runs = self.runs(t * TILE..last);
            for &column in used {
                let line = &mut tile[column as usize * width..][..width];
                line[last - t * TILE..].fill(T::ZERO);
                for run in &runs {
                    let line = &mut line[run.at..run.at + run.len];
                    let (from, len, at, step) = self.pixels(column, run);
                    line[..from].fill(T::ZERO);
                    line[from + len..].fill(T::ZERO);
                    let line = &mut line[from..from + len];
                    let x = &x[run.image * each + at..];
                    match step {
                        1 => line.copy_from_slice(&x[..len]),
                        _ => line.iter_mut().zip(x.iter().step_by(step)).for_each(|(to, &v)| *to = v),
                    }
                }
            }
        };
        let all = tiled.as_mut_slice();
        if cols > 0 {
            all.par_chunks_mut(TILE * cols).enumerate().for_each(fill);
        }
        tiled
    }

    /// Adds the gradients of patches up to those of the images, which are overwritten.
    fn fold<T: Number>(&self, used: &[u32], patches: &Tiled<T>, dx: &mut [T]) {
        let each = self.window.channels * self.input[0] * self.input[1];
        if each == 0 {
            return;
        }
        dx.par_chunks_mut(each).enumerate().for_each(|(image, dx)| {
            dx.fill(T::ZERO);
            let own = image * self.area()..(image + 1) * self.area();
            for t in own.start / TILE..own.end.div_ceil(TILE) {
                let (tile, width) = (patches.tile(t), patches.width(t));
                let first = own.start.max(t * TILE);
                let runs = self.runs(first..own.end.min((t + 1) * TILE));
                for &column in used {
                    let line = &tile[column as usize * width + first - t * TILE..];
                    for run in &runs {
                        let (from, len, at, step) = self.pixels(column, run);
                        let line = &line[run.at + from..][..len];
                        match step {
                            1 => dx[at..at + len].iter_mut().zip(line).for_each(|(d, &v)| *d += v),
                            _ => dx[at..].iter_mut().step_by(step).zip(line).for_each(|(d, &v)| *d += v),
                        }
                    }
                }
            }
        });
    }

    /// Outputs of the kernels as images.
    fn spread<T: Number>(&self, out: &Tiled<T>, rows: usize, y: &mut [T]) {
        let area = self.area();
        if rows * area == 0 {
            return;
        }
        y.par_chunks_mut(rows * area).enumerate().for_each(|(image, y)| {
            let own = image * area..(image + 1) * area;
            for t in own.start / TILE..own.end.div_ceil(TILE) {
                let (tile, width) = (out.tile(t), out.width(t));
                let (first, last) = (own.start.max(t * TILE), own.end.min((t + 1) * TILE));
                for (y, line) in y.chunks_exact_mut(area).zip(tile.chunks_exact(width)) {
                    y[first - own.start..last - own.start].copy_from_slice(&line[first - t * TILE..last - t * TILE]);
                }
            }
        });
    }

    /// Gradients of images as gradients of the outputs of the kernels.
    fn collect<T: Number>(&self, g: &[T], rows: usize, images: usize) -> Tiled<T> {
        let (area, positions) = (self.area(), images * self.area());
        let mut tiled = Tiled::any(positions, rows);
        let widths: Vec<usize> = (0..tiled.tiles()).map(|t| tiled.width(t)).collect();
        let fill = |(t, tile): (usize, &mut [T])| {
            let (mut p, last) = (t * TILE, positions.min((t + 1) * TILE));
            tile.chunks_exact_mut(widths[t]).for_each(|line| line[last - t * TILE..].fill(T::ZERO));
            while p < last {
                let (image, inside) = (p / area, p % area);
                let len = (area - inside).min(last - p);
                for (row, line) in tile.chunks_exact_mut(widths[t]).enumerate() {
                    let from = (image * rows + row) * area + inside;
                    line[p - t * TILE..][..len].copy_from_slice(&g[from..from + len]);
                }
                p += len;
            }
        };
        if rows > 0 {
            tiled.as_mut_slice().par_chunks_mut(TILE * rows).enumerate().for_each(fill);
        }
        tiled
    }
}
