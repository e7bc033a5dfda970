//! Sparse linear layers and convolutions on arrays of the caller, for `nnz.torch`.
//!
//! Arrays are read and written in place: whoever calls allocates the outputs. All are C-contiguous, of one number type, float32 or
//! float64. Values, and gradients of values, are one number for each connection, row by row.

use crate::arrays::{expect, read, shape, slice, slice_mut, write};
use crate::chain::{self, Inputs, Stage, Wanted};
use crate::error::{kind, value};
use crate::images::{Images, Window};
use crate::threads::{computing, torch, worth};
use nnz::core::Topology;
use nnz_kernels::{Csr, Direct, Packing, Plan, Real, Tiled, Tuning};
use numpy::{Element, PyReadonlyArray1, PyReadonlyArrayDyn, PyReadwriteArrayDyn, PyUntypedArrayMethods};
use pyo3::prelude::*;
use std::sync::{Arc, Mutex, MutexGuard};

/// Numbers and products below which a pass stays on its thread.
pub(crate) const SHORT: usize = 1 << 18;

/// A number type of arrays.
pub(crate) trait Number: Real + Element {
    /// Whether two slices hold the same bits. Without a branch per number, at the speed of memory.
    fn same(a: &[Self], b: &[Self]) -> bool;
    /// Values of this type that a layer holds.
    fn slot(layer: &SparseLayer) -> &Slot<Self>;
    /// Inputs kept for the backward pass.
    fn keep(x: Inputs<Self>) -> Kept;
    /// Those of this type.
    fn kept(kept: &Kept) -> Option<&Inputs<Self>>;
}

pub(crate) type Slot<T> = Mutex<Option<Arc<Held<T>>>>;

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

            fn keep(x: Inputs<Self>) -> Kept {
                Kept::$kept(x)
            }

            fn kept(kept: &Kept) -> Option<&Inputs<Self>> {
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

/// The inputs of linear layers in the layout of the kernels, from their forward pass for their backward pass.
#[pyclass(frozen, module = "nnz._nnz")]
pub(crate) struct KeptInput(pub(crate) Kept);

pub(crate) enum Kept {
    F32(Inputs<f32>),
    F64(Inputs<f64>),
}

/// Values in the orders of the kernels.
pub(crate) struct Held<T> {
    by_row: Vec<T>,
    by_plan: Vec<T>,
    packed: Vec<T>,
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
    direct: Direct,
    plan: Plan,
    /// From the order of the rows to that of the plan, and back.
    to_plan: Packing,
    to_rows: Packing,
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
        let positions = slice(&positions, "positions")?;
        py.detach(|| computing(|| Self::build(rows, columns, positions, window)))
    }

    /// Number of connections.
    #[getter]
    fn nnz(&self) -> usize {
        self.plan.nnz()
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
            Ok(v) => self.backward_of::<f32>(py, &v, x, g, [dx, dvalues, dbias]),
            Err(_) => self.backward_of::<f64>(py, &read(values, "values")?, x, g, [dx, dvalues, dbias]),
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
            Ok(v) => self.convolve_backward_of::<f32>(py, &v, x, before, g, [dx, dvalues, dbias]),
            Err(_) => {
                self.convolve_backward_of::<f64>(py, &read(values, "values")?, x, before, g, [dx, dvalues, dbias])
            }
        }
    }
}

/// Arrays for the gradients of input, values and bias; those that nobody asked for are not given.
type Given<'a, 'py> = [Option<&'a Bound<'py, PyAny>>; 3];

/// The same of one number type.
struct Gradients<'py, T: Number>([Option<PyReadwriteArrayDyn<'py, T>>; 3]);

struct Slices<'a, T> {
    dx: Option<&'a mut [T]>,
    dvalues: Option<&'a mut [T]>,
    dbias: Option<&'a mut [T]>,
}

impl<'py, T: Number> Gradients<'py, T> {
    fn read([dx, dvalues, dbias]: Given<'_, 'py>) -> PyResult<Self> {
        let one = |a: Option<&Bound<'py, PyAny>>, name| a.map(|a| write::<T>(a, name)).transpose();
        Ok(Self([one(dx, "dx")?, one(dvalues, "dvalues")?, one(dbias, "dbias")?]))
    }

    /// Where they are written, for an input of a shape and so many values.
    fn slices(&mut self, input: &[usize], values: usize) -> PyResult<Slices<'_, T>> {
        let Self([dx, dvalues, dbias]) = self;
        dx.as_ref().map_or(Ok(()), |a| shape("dx", a.shape(), input))?;
        dvalues.as_ref().map_or(Ok(()), |a| expect("dvalues", a.len(), values))?;
        Ok(Slices {
            dx: dx.as_mut().map(|a| slice_mut(a, "dx")).transpose()?,
            dvalues: dvalues.as_mut().map(|a| slice_mut(a, "dvalues")).transpose()?,
            dbias: dbias.as_mut().map(|a| slice_mut(a, "dbias")).transpose()?,
        })
    }
}

/// Runs the kernels of a pass over so many numbers and products, on PyTorch's threads where it has some. One of some length runs within
/// rayon's pool otherwise, since every kernel would hand its work to it one by one, and wait for an answer, from outside; unless a
/// single thread computes, which is then this one.
pub(crate) fn compute<R: Send>(size: usize, work: impl FnOnce() -> R + Send) -> R {
    match torch(worth(size, SHORT)) {
        Some(torch) => torch.run(work),
        None if size < SHORT => computing(work),
        None => computing(|| if rayon::current_num_threads() == 1 { work() } else { rayon::scope(|_| work()) }),
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
        let csr = Csr { rows, cols: wide, starts: topology.starts(), columns: topology.columns() };
        let (plan, numbers) = Plan::of_rows(csr, Tuning::of(rows, wide, csr.nnz()));
        let degrees = topology.col_degrees();
        let used = (0..wide as u32).filter(|&c| degrees[c as usize] > 0).collect();
        let mut places = vec![0; numbers.len()];
        numbers.iter().zip(0..).for_each(|(&e, p)| places[e as usize] = p);
        let (to_plan, to_rows) = (Packing::new(&numbers), Packing::new(&places));
        let (narrow, wide_values) = (Mutex::new(None), Mutex::new(None));
        let direct = Direct::new(csr);
        Ok(Self { rows, cols: wide, direct, plan, to_plan, to_rows, window, used, narrow, wide: wide_values })
    }

    /// Numbers and products of a pass over so many inputs.
    fn work(&self, inputs: usize) -> usize {
        inputs.saturating_mul(self.rows + self.cols + self.plan.nnz())
    }

    /// The values in the orders of the kernels; those of the last call, if they are the same. O(nnz).
    pub(crate) fn held<T: Number>(&self, values: &[T]) -> Arc<Held<T>> {
        let mut slot: MutexGuard<'_, Option<Arc<Held<T>>>> = T::slot(self).lock().unwrap_or_else(|e| e.into_inner());
        if let Some(held) = &*slot
            && T::same(&held.by_row, values)
        {
            return held.clone();
        }
        let mut held = match slot.take().map(Arc::try_unwrap) {
            Some(Ok(held)) => held,
            _ => {
                let n = values.len();
                let none = vec![T::ZERO; n];
                Held { by_row: none.clone(), by_plan: none.clone(), packed: none }
            }
        };
        held.by_row.copy_from_slice(values);
        self.to_plan.apply(values, &mut held.by_plan);
        self.plan.pack(&held.by_plan, &mut held.packed);
        let held = Arc::new(held);
        *slot = Some(held.clone());
        held
    }

    /// From the order of the plan to that of the rows.
    pub(crate) fn by_row<T: Number>(&self, by_plan: &[T], to: &mut [T]) {
        self.to_rows.apply(by_plan, to);
    }

    /// Outputs.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Whether it is no convolution.
    pub(crate) fn linear(&self) -> bool {
        self.window.is_none()
    }

    /// y = x Wᵀ + bias, clamped at zero from below with `relu`.
    pub(crate) fn product<T: Number>(&self, held: &Held<T>, x: &Tiled<T>, bias: Option<&[T]>, relu: bool) -> Tiled<T> {
        let mut y = Tiled::any(x.batch(), self.rows);
        match relu {
            true => self.plan.forward_relu(&held.packed, x, bias, &mut y),
            false => self.plan.forward(&held.packed, x, bias, &mut y),
        }
        y
    }

    /// Gradients of the inputs, for those of a ReLU that made them with `relu`, and of the values in the order of the plan.
    pub(crate) fn adjoint<T: Number>(
        &self,
        held: &Held<T>,
        x: &Tiled<T>,
        g: &Tiled<T>,
        dx: Option<&mut Tiled<T>>,
        relu: bool,
        dvalues: &mut [T],
    ) {
        match relu {
            true => self.plan.backward_relu(&held.by_plan, x, g, dx, dvalues),
            false => self.plan.backward(&held.by_plan, x, g, dx, dvalues),
        }
    }

    /// y = x Wᵀ + bias for a few samples, row-major.
    pub(crate) fn single<T: Number>(&self, values: &[T], batch: usize, x: &[T], bias: Option<&[T]>, y: &mut [T]) {
        self.direct.apply(values, batch, x, bias, y);
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
        self.check(values, bias, self.linear())?;
        let stage = Stage { layer: self, values, bias, relu: false };
        Ok(py.detach(|| chain::forward(&[stage], batch, x, y, keep)).map(|inputs| KeptInput(T::keep(inputs))))
    }

    /// That a call gives one value for each connection, one bias for each output, and is meant for this kind of layer.
    pub(crate) fn check<T>(&self, values: &[T], bias: Option<&[T]>, meant: bool) -> PyResult<()> {
        if !meant {
            return Err(value("a layer with a window convolves; one without computes forward"));
        }
        expect("values", values.len(), self.plan.nnz())?;
        bias.map_or(Ok(()), |b| expect("bias", b.len(), self.rows))
    }

    #[allow(clippy::too_many_arguments)]
    fn backward_of<T: Number>(
        &self,
        py: Python<'_>,
        values: &PyReadonlyArrayDyn<'_, T>,
        x: &Bound<'_, PyAny>,
        g: &Bound<'_, PyAny>,
        out: Given<'_, '_>,
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
            (Some(kept), _) => chain::shape_of(kept).to_vec(),
            (_, Some(rows)) => rows.as_array().shape().to_vec(),
            _ => Vec::new(),
        };
        shape("x", &got, &[batch, self.cols])?;
        let mut out = Gradients::<T>::read(out)?;
        let (values, g) = (slice(values, "values")?, slice(&g, "g")?);
        let rows = rows.as_ref().map(|r| slice(r, "x")).transpose()?;
        let Slices { dx, dvalues, dbias } = out.slices(&[batch, self.cols], values.len())?;
        self.check(values, dbias.as_deref(), self.linear())?;
        let stage = [Stage { layer: self, values, bias: None, relu: false }];
        let mut wanted = [Wanted { values: dvalues, bias: dbias }];
        py.detach(|| {
            let made;
            let kept = match (kept, rows) {
                (Some(kept), _) => kept,
                (None, rows) => {
                    made = chain::inputs(&stage, batch, rows.unwrap_or_default());
                    &made
                }
            };
            chain::backward(&stage, kept, batch, g, dx, &mut wanted);
        });
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
        py.detach(|| compute(self.work(over.images * over.area()), work));
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
        out: Given<'_, '_>,
    ) -> PyResult<()> {
        let (x, g) = (read::<T>(x, "x")?, read::<T>(g, "g")?);
        let over = Images::new(self.window()?, self.rows, x.as_array().shape(), g.as_array().shape(), before)?;
        let mut out = Gradients::<T>::read(out)?;
        let (values, g) = (slice(values, "values")?, slice(&g, "g")?);
        let Slices { mut dx, dvalues, mut dbias } = out.slices(x.shape(), values.len())?;
        let x = slice(&x, "x")?;
        self.check(values, dbias.as_deref(), true)?;
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
        py.detach(|| compute(self.work(over.images * over.area()), work));
        Ok(())
    }
}
