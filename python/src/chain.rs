//! Sparse linear layers one after the other, each with a ReLU behind it or not. Activations stay in the layout of the kernels from
//! the first layer to the last: converting them between two layers takes as long as the product at a density of 0.05.

use crate::arrays::{expect, read, shape, slice, slice_mut, write};
use crate::error::{kind, value};
use crate::layer::{Held, KeptInput, Number, SHORT, SparseLayer, compute};
use crate::threads::{computing, share, threads, torch, worth};
use nnz_kernels::threads::{count, spread};
use nnz_kernels::{Buffer, TILE, Tiled, elementwise};
use numpy::{PyReadonlyArrayDyn, PyReadwriteArrayDyn, PyUntypedArrayMethods};
use pyo3::prelude::*;
use std::sync::Arc;

/// Samples up to which the format for single samples is faster.
const FEW: usize = 2;
/// Most values of a chain whose rows are processed in two groups: their gradient exists twice for a moment.
const IN_GROUPS: usize = 1 << 19;
/// Fewest multiply-adds worth a second thread.
const PARALLEL: usize = 1 << 20;
/// Fewest of a few samples worth a second thread of PyTorch: about 10 microseconds.
const HELPED: usize = 1 << 15;

/// One layer of a chain, in a call.
pub(crate) struct Stage<'a, T> {
    pub layer: &'a SparseLayer,
    pub values: &'a [T],
    pub bias: Option<&'a [T]>,
    pub relu: bool,
}

/// Gradients of one layer that somebody asked for.
pub(crate) struct Wanted<'a, T> {
    pub values: Option<&'a mut [T]>,
    pub bias: Option<&'a mut [T]>,
}

impl<T> Wanted<'_, T> {
    fn any(&self) -> bool {
        self.values.is_some() || self.bias.is_some()
    }
}

/// For each of two groups of rows, what every layer read, and what the last one answered if a ReLU made it.
pub(crate) type Inputs<T> = [Vec<Tiled<T>>; 2];

/// Rows of the two groups in which a chain is computed; the second is empty if it does not pay. A group keeps its thread from the first
/// layer to the last, so that its activations stay in that core's cache. Depends on sizes alone, since sums of gradients do.
fn groups<T>(batch: usize, stages: &[Stage<'_, T>]) -> [usize; 2] {
    let values: usize = stages.iter().map(|s| s.values.len()).sum();
    let whole = values > IN_GROUPS || values.saturating_mul(batch) < PARALLEL;
    let first = if whole { batch } else { (batch.div_ceil(TILE).div_ceil(2) * TILE).min(batch) };
    [first, batch - first]
}

/// Does a pass in steps, which are told whether each of their jobs shall stay on one thread: where there are no more threads than groups.
///
/// Without PyTorch's threads, a pass of some length runs on rayon's otherwise, since every kernel would hand its work to them one by
/// one, and wait for an answer.
fn pass<T: Number>(groups: [usize; 2], stages: &[Stage<'_, T>], work: impl FnOnce(bool) + Send) {
    let each: usize = stages.iter().map(|s| s.layer.rows() + s.layer.cols() + s.values.len()).sum();
    let size = (groups[0] + groups[1]).saturating_mul(each);
    match torch(worth(size, SHORT)) {
        Some(torch) => torch.run(|| work(count() <= 2 && groups[1] > 0)),
        None => match threads() {
            1 => work(true),
            2 if groups[1] > 0 => work(true),
            _ => compute(size, || work(false)),
        },
    }
}

/// Does jobs on the threads of a pass.
fn all<J: Send>(shared: bool, jobs: Vec<J>, work: impl Fn(J) + Sync + Send) {
    match shared {
        true => share(jobs, work),
        false => spread(jobs, work),
    }
}

/// Values of all layers in the orders of the kernels.
fn hold<T: Number>(shared: bool, stages: &[Stage<'_, T>]) -> Vec<Arc<Held<T>>> {
    let mut held = vec![None; stages.len()];
    all(shared, stages.iter().zip(&mut held).collect(), |(s, to)| *to = Some(s.layer.held(s.values)));
    held.into_iter().flatten().collect()
}

/// `x` `[batch, in]` through all layers into `y` `[batch, out]`. With `keep`, returns what [`backward`] needs.
pub(crate) fn forward<T: Number>(
    stages: &[Stage<'_, T>],
    batch: usize,
    x: &[T],
    y: &mut [T],
    keep: bool,
) -> Option<Inputs<T>> {
    if !keep && batch <= FEW {
        let values: usize = stages.iter().map(|s| s.values.len()).sum();
        match torch(worth(values.saturating_mul(batch), HELPED)) {
            Some(torch) => torch.run(|| few(stages, batch, x, y)),
            None => computing(|| few(stages, batch, x, y)),
        }
        return None;
    }
    let groups = groups(batch, stages);
    let mut kept = [Vec::new(), Vec::new()];
    let [first, second] = &mut kept;
    pass(groups, stages, |shared| {
        let held = hold(shared, stages);
        let (inputs, outputs) = (stages[0].layer.cols(), stages[stages.len() - 1].layer.rows());
        let (x, y) = (x.split_at(groups[0] * inputs), y.split_at_mut(groups[0] * outputs));
        let mut jobs = vec![(groups[0], x.0, y.0, first), (groups[1], x.1, y.1, second)];
        jobs.truncate(if groups[1] == 0 { 1 } else { 2 });
        all(shared, jobs, |(batch, x, y, kept): (usize, &[T], &mut [T], &mut Vec<Tiled<T>>)| {
            let mut tiles = Tiled::from_rows(batch, inputs, x);
            for (stage, held) in stages.iter().zip(&held) {
                let next = stage.layer.product(held, &tiles, stage.bias, stage.relu);
                let read = std::mem::replace(&mut tiles, next);
                if keep {
                    // Where a layer is not finite, what lies beyond the samples may become so too.
                    tiles.clear_padding();
                    kept.push(read);
                }
            }
            tiles.to_rows(y);
            if keep && stages.last().is_some_and(|s| s.relu) {
                kept.push(tiles);
            }
        });
    });
    keep.then_some(kept)
}

/// What a chain of one layer keeps of its input.
pub(crate) fn inputs<T: Number>(stages: &[Stage<'_, T>], batch: usize, x: &[T]) -> Inputs<T> {
    let (groups, cols) = (groups(batch, stages), stages[0].layer.cols());
    let (x0, x1) = x.split_at(groups[0] * cols);
    let second = (groups[1] > 0).then(|| Tiled::from_rows(groups[1], cols, x1));
    [vec![Tiled::from_rows(groups[0], cols, x0)], second.into_iter().collect()]
}

/// Samples and features of what was kept of the first input.
pub(crate) fn shape_of<T: Number>(kept: &Inputs<T>) -> [usize; 2] {
    let batch = kept.iter().filter_map(|group| group.first()).map(Tiled::batch).sum();
    [batch, kept[0].first().map_or(0, Tiled::features)]
}

/// The same in the format for single samples.
fn few<T: Number>(stages: &[Stage<'_, T>], batch: usize, x: &[T], y: &mut [T]) {
    let (last, before) = stages.split_last().expect("a chain has a layer");
    let mut hidden: Option<Vec<T>> = None;
    let one = |stage: &Stage<'_, T>, x: &[T], y: &mut [T]| {
        stage.layer.single(stage.values, batch, x, stage.bias, y);
        if stage.relu {
            y.iter_mut().for_each(|y| *y = if *y <= T::ZERO { T::ZERO } else { *y });
        }
    };
    for stage in before {
        let mut next = vec![T::ZERO; batch * stage.layer.rows()];
        one(stage, hidden.as_deref().unwrap_or(x), &mut next);
        hidden = Some(next);
    }
    one(last, hidden.as_deref().unwrap_or(x), y);
}

/// Gradients for `g` `[batch, out]`: of the input into `dx`, and those of each layer that are wanted.
pub(crate) fn backward<T: Number>(
    stages: &[Stage<'_, T>],
    kept: &Inputs<T>,
    batch: usize,
    g: &[T],
    dx: Option<&mut [T]>,
    wanted: &mut [Wanted<'_, T>],
) {
    // Layers before the first one of which something is wanted have nothing to do.
    let first = if dx.is_some() { 0 } else { wanted.iter().position(Wanted::any).unwrap_or(stages.len()) };
    if first == stages.len() {
        return;
    }
    let groups = [kept[0][0].batch(), batch - kept[0][0].batch()];
    pass(groups, stages, |shared| {
        let held = hold(shared, stages);
        let (inputs, outputs) = (stages[0].layer.cols(), stages[stages.len() - 1].layer.rows());
        let (g0, g1) = g.split_at(groups[0] * outputs);
        let asked: Vec<[bool; 2]> = wanted.iter().map(|w| [w.values.is_some(), w.bias.is_some()]).collect();
        let (dx0, dx1) = dx.map(|dx| dx.split_at_mut(groups[0] * inputs)).unzip();
        let mut found = [Vec::new(), Vec::new()];
        let [found0, found1] = &mut found;
        let mut jobs = vec![(groups[0], &kept[0], g0, dx0, found0), (groups[1], &kept[1], g1, dx1, found1)];
        jobs.truncate(if groups[1] == 0 { 1 } else { 2 });
        all(shared, jobs, |(batch, kept, g, mut dx, found): Group<'_, T>| {
            let mut g = Tiled::from_rows(batch, outputs, g);
            if let Some(y) = kept.get(stages.len()) {
                let gate = |g, y| if y <= T::ZERO { T::ZERO } else { g };
                elementwise::update_by(g.as_mut_slice(), y.as_slice(), gate);
            }
            for i in (first..stages.len()).rev() {
                let layer = stages[i].layer;
                let of_bias = asked[i][1].then(|| {
                    let mut sums = Buffer::any(layer.rows());
                    g.sum_batch(&mut sums);
                    sums
                });
                let further = i > first || dx.is_some();
                let mut of_values = None;
                if further || asked[i][0] {
                    let mut of_x = further.then(|| Tiled::any(batch, layer.cols()));
                    let dvalues = of_values.insert(Buffer::any(stages[i].values.len()));
                    let relu = i > 0 && stages[i - 1].relu;
                    layer.adjoint(&held[i], &kept[i], &g, of_x.as_mut(), relu, dvalues);
                    match (of_x, &mut dx) {
                        (Some(of_x), Some(dx)) if i == 0 => of_x.to_rows(dx),
                        (Some(of_x), _) => g = of_x,
                        _ => {}
                    }
                }
                found.push((of_values, of_bias));
            }
        });
        let [found, more] = found;
        let mut more = more.into_iter();
        let mut jobs = Vec::with_capacity(found.len());
        for ((stage, wanted), found) in stages.iter().zip(wanted).rev().zip(found) {
            let to = [wanted.values.as_deref_mut(), wanted.bias.as_deref_mut()];
            jobs.push((stage.layer, to, found, more.next().unwrap_or_default()));
        }
        all(shared, jobs, |(layer, [values, bias], found, more): Sum<'_, T>| {
            if let (Some(to), Some(mut sum)) = (values, found.0) {
                if let Some(more) = more.0 {
                    elementwise::update_by(&mut sum, &more, |a, b| a + b);
                }
                layer.by_row(&sum, to);
            }
            if let (Some(to), Some(sum)) = (bias, found.1) {
                to.copy_from_slice(&sum);
                if let Some(more) = more.1 {
                    to.iter_mut().zip(more.iter()).for_each(|(a, &b)| *a += b);
                }
            }
        });
    });
}

/// Gradients of the values of a layer, in the order of the plan, and of its bias.
type Found<T> = (Option<Buffer<T>>, Option<Buffer<T>>);
/// A group of rows: how many, what was kept of them, gradients of their answers, those of their inputs, and of the parameters.
type Group<'a, T> = (usize, &'a Vec<Tiled<T>>, &'a [T], Option<&'a mut [T]>, &'a mut Vec<Found<T>>);
/// A layer, where gradients of its values and bias go, and what both groups found of them.
type Sum<'a, T> = (&'a SparseLayer, [Option<&'a mut [T]>; 2], Found<T>, Found<T>);

/// Sparse linear layers one after the other; `relu` says of each whether max(·, 0) follows it.
#[pyclass(frozen, module = "nnz._nnz")]
pub(crate) struct SparseChain {
    layers: Vec<Py<SparseLayer>>,
    relu: Vec<bool>,
}

type Arrays<'py, T> = Vec<PyReadonlyArrayDyn<'py, T>>;

#[pymethods]
impl SparseChain {
    #[new]
    fn new(layers: Vec<Py<SparseLayer>>, relu: Vec<bool>) -> PyResult<Self> {
        expect("relu", relu.len(), layers.len())?;
        let fits = |(a, b): (&Py<SparseLayer>, &Py<SparseLayer>)| a.get().rows() == b.get().cols();
        let linear = layers.iter().all(|l| l.get().linear());
        if layers.is_empty() || !linear || !layers.iter().zip(&layers[1..]).all(fits) {
            return Err(value("a chain is of linear layers, each of which reads what the one before it answers"));
        }
        Ok(Self { layers, relu })
    }

    /// `x` `[batch, in]` through all layers into `y` `[batch, out]`, which is written; values and bias of each layer. With `keep`, returns
    /// the inputs for `backward`.
    #[pyo3(signature = (values, x, biases, y, keep=false))]
    fn forward(
        &self,
        py: Python<'_>,
        values: Vec<Bound<'_, PyAny>>,
        x: &Bound<'_, PyAny>,
        biases: Vec<Option<Bound<'_, PyAny>>>,
        y: &Bound<'_, PyAny>,
        keep: bool,
    ) -> PyResult<Option<KeptInput>> {
        match x.extract::<PyReadonlyArrayDyn<'_, f32>>() {
            Ok(x) => self.forward_of::<f32>(py, &values, &x, &biases, y, keep),
            Err(_) => self.forward_of::<f64>(py, &values, &read(x, "x")?, &biases, y, keep),
        }
    }

    /// The gradients that are given an array to write: of the input, `dx` `[batch, in]`, and of values and bias of each layer, for `g`
    /// `[batch, out]`. `kept` is what `forward` kept.
    #[allow(clippy::too_many_arguments)]
    fn backward(
        &self,
        py: Python<'_>,
        values: Vec<Bound<'_, PyAny>>,
        kept: &KeptInput,
        g: &Bound<'_, PyAny>,
        dx: Option<&Bound<'_, PyAny>>,
        dvalues: Vec<Option<Bound<'_, PyAny>>>,
        dbiases: Vec<Option<Bound<'_, PyAny>>>,
    ) -> PyResult<()> {
        match g.extract::<PyReadonlyArrayDyn<'_, f32>>() {
            Ok(g) => self.backward_of::<f32>(py, &values, kept, &g, dx, &dvalues, &dbiases),
            Err(_) => self.backward_of::<f64>(py, &values, kept, &read(g, "g")?, dx, &dvalues, &dbiases),
        }
    }
}

impl SparseChain {
    /// The arrays of values, and of biases, as many as layers.
    fn arrays<'py, T: Number>(&self, values: &[Bound<'py, PyAny>]) -> PyResult<Arrays<'py, T>> {
        expect("values", values.len(), self.layers.len())?;
        values.iter().map(|v| read(v, "values")).collect()
    }

    fn stages<'a, T: Number>(
        &'a self,
        values: &'a Arrays<'_, T>,
        biases: &'a [Option<PyReadonlyArrayDyn<'_, T>>],
    ) -> PyResult<Vec<Stage<'a, T>>> {
        let one = |i: usize| {
            let layer = self.layers[i].get();
            let values = slice(&values[i], "values")?;
            let bias = biases.get(i).and_then(Option::as_ref).map(|b| slice(b, "bias")).transpose()?;
            layer.check(values, bias, true)?;
            Ok(Stage { layer, values, bias, relu: self.relu[i] })
        };
        (0..self.layers.len()).map(one).collect()
    }

    fn forward_of<T: Number>(
        &self,
        py: Python<'_>,
        values: &[Bound<'_, PyAny>],
        x: &PyReadonlyArrayDyn<'_, T>,
        biases: &[Option<Bound<'_, PyAny>>],
        y: &Bound<'_, PyAny>,
        keep: bool,
    ) -> PyResult<Option<KeptInput>> {
        let values = self.arrays::<T>(values)?;
        expect("biases", biases.len(), self.layers.len())?;
        let biases = biases.iter().map(|b| b.as_ref().map(|b| read::<T>(b, "bias")).transpose());
        let biases = biases.collect::<PyResult<Vec<_>>>()?;
        let mut y = write::<T>(y, "y")?;
        let stages = self.stages(&values, &biases)?;
        let batch = x.shape().first().copied().unwrap_or(0);
        shape("x", x.shape(), &[batch, stages[0].layer.cols()])?;
        shape("y", y.shape(), &[batch, stages[stages.len() - 1].layer.rows()])?;
        let (x, y) = (slice(x, "x")?, slice_mut(&mut y, "y")?);
        Ok(py.detach(|| forward(&stages, batch, x, y, keep)).map(|inputs| KeptInput(T::keep(inputs))))
    }

    #[allow(clippy::too_many_arguments)]
    fn backward_of<T: Number>(
        &self,
        py: Python<'_>,
        values: &[Bound<'_, PyAny>],
        kept: &KeptInput,
        g: &PyReadonlyArrayDyn<'_, T>,
        dx: Option<&Bound<'_, PyAny>>,
        dvalues: &[Option<Bound<'_, PyAny>>],
        dbiases: &[Option<Bound<'_, PyAny>>],
    ) -> PyResult<()> {
        let values = self.arrays::<T>(values)?;
        let stages = self.stages(&values, &[])?;
        expect("dvalues", dvalues.len(), stages.len())?;
        expect("dbiases", dbiases.len(), stages.len())?;
        let kept = T::kept(&kept.0).ok_or_else(|| kind("kept: from inputs of another number type"))?;
        let [batch, _] = shape_of(kept);
        let outputs = stages[stages.len() - 1].layer.rows();
        let answers = (self.relu.last() == Some(&true)).then_some(outputs);
        if !kept[0].iter().map(Tiled::features).eq(stages.iter().map(|s| s.layer.cols()).chain(answers)) {
            return Err(value("kept: from another chain"));
        }
        shape("g", g.shape(), &[batch, outputs])?;
        let mut arrays = Vec::with_capacity(stages.len());
        for (values, bias) in dvalues.iter().zip(dbiases) {
            let values = values.as_ref().map(|a| write::<T>(a, "dvalues")).transpose()?;
            arrays.push((values, bias.as_ref().map(|a| write::<T>(a, "dbias")).transpose()?));
        }
        let mut wanted = Vec::with_capacity(stages.len());
        for ((values, bias), stage) in arrays.iter_mut().zip(&stages) {
            let values = values.as_mut().map(|a| slice_mut(a, "dvalues")).transpose()?;
            let bias = bias.as_mut().map(|a| slice_mut(a, "dbias")).transpose()?;
            values.as_ref().map_or(Ok(()), |v| expect("dvalues", v.len(), stage.values.len()))?;
            bias.as_ref().map_or(Ok(()), |b| expect("dbias", b.len(), stage.layer.rows()))?;
            wanted.push(Wanted { values, bias });
        }
        let mut dx: Option<PyReadwriteArrayDyn<'_, T>> = dx.map(|a| write(a, "dx")).transpose()?;
        dx.as_ref().map_or(Ok(()), |a| shape("dx", a.shape(), &[batch, stages[0].layer.cols()]))?;
        let dx = dx.as_mut().map(|a| slice_mut(a, "dx")).transpose()?;
        let g = slice(g, "g")?;
        py.detach(|| backward(&stages, kept, batch, g, dx, &mut wanted));
        Ok(())
    }
}
