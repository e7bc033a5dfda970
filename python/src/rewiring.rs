//! Methods that act on weights of another program, for `nnz.torch`: pruning once, and rewiring inside its training.
//!
//! A weight is an array of float32 or float64, `[out, in]` or flat, with a mask of bool of the same size; both are written in place.

use crate::arrays::{expect, slice, slice_mut};
use crate::error::{kind, value};
use nnz::core::{
    Edit, Editor, Error, LayerRole, Method, MethodInstance, Plan, Setting, Shape, Signals, Subject, Target, TargetKind,
    TargetMut, Topology, Zero, subject,
};
use nnz::engine::{Tensor, ops::ZeroProbe};
use numpy::{PyReadonlyArrayDyn, PyReadwriteArrayDyn, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use std::sync::Mutex;

/// A method at work on weights of given shapes.
///
/// `options` is a table in JSON; each shape is a name, outputs, inputs, the kernel's height and width, whether it is the head, and
/// its role in the network. `trained` prunes weights that are trained already.
#[pyclass(frozen, module = "nnz._nnz")]
pub(crate) struct Rewiring {
    method: &'static Method,
    note: Option<String>,
    shapes: Vec<Shape>,
    work: Mutex<MethodInstance>,
}

/// A plan is asked for each step up to this one, and for the last; a later step that cannot be measured is refused when it comes.
const MOST_LOOKED_AT: u64 = 1 << 20;

type ShapeArgs = (String, usize, usize, [usize; 2], bool, String);

fn table(options: &str) -> PyResult<toml::Table> {
    serde_json::from_str(options).map_err(|e| value(format!("options: {e}")))
}

/// The options of a method with their defaults, in JSON.
#[pyfunction]
pub(crate) fn method_defaults(method: &str) -> PyResult<String> {
    let defaults = nnz::REGISTRY.find(method).map_err(value)?.defaults();
    serde_json::to_string(&defaults).map_err(value)
}

#[pymethods]
impl Rewiring {
    #[new]
    #[pyo3(signature = (method, options, shapes, seed, steps, steps_per_epoch, trained))]
    fn new(
        method: &str,
        options: &str,
        shapes: Vec<ShapeArgs>,
        seed: u64,
        steps: u64,
        steps_per_epoch: u64,
        trained: bool,
    ) -> PyResult<Self> {
        let method = nnz::REGISTRY.find(method).map_err(value)?;
        let (given, setting) = (table(options)?, Setting { seed, steps, steps_per_epoch: steps_per_epoch.max(1) });
        let (options, note) = match trained {
            true => (method.options_for_trained(&given), None),
            false if steps < u64::from(u32::MAX) => method.fitted(&given, &given, &setting).map_err(value)?,
            false => (given, None),
        };
        let work = method.build(&options, &setting).map_err(value)?;
        let shape = |(name, rows, cols, kernel, head, role): ShapeArgs| -> PyResult<Shape> {
            let role: LayerRole = role.parse().map_err(value)?;
            Ok(Shape { name, rows, cols, kernel, head, role })
        };
        let shapes = shapes.into_iter().map(shape).collect::<PyResult<Vec<_>>>()?;
        let new = Self { method, note, shapes, work: Mutex::new(work) };
        new.acceptable(trained)?;
        if !trained {
            new.shown(steps)?;
        }
        Ok(new)
    }

    /// What was changed about the options so that the method acts in the run, if anything was.
    #[getter]
    fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Draws the topology of a sparse start into the masks; whether the method has one.
    fn start(&self, masks: Vec<PyReadwriteArrayDyn<'_, bool>>) -> PyResult<bool> {
        let shapes: Vec<&Shape> = self.shapes.iter().collect();
        let Some(drawn) = self.work().sparsifier.initial_topologies(&shapes).map_err(value)? else { return Ok(false) };
        self.count("masks", masks.len())?;
        for (mut mask, topology) in masks.into_iter().zip(drawn) {
            expect("masks", mask.len(), topology.rows() * topology.cols())?;
            let mask = slice_mut(&mut mask, "masks")?;
            mask.fill(false);
            topology.positions().for_each(|p| mask[p as usize] = true);
        }
        Ok(true)
    }

    /// What to measure for the rewiring of a step; None if it rewires nothing.
    fn plan<'py>(&self, py: Python<'py>, step: u64) -> PyResult<Option<Bound<'py, PyDict>>> {
        match self.work().sparsifier.plan(step) {
            Plan::Rewire(signals) => asked(py, signals).map(Some),
            _ => Ok(None),
        }
    }

    /// Rewires at a step. `measured` has what `plan` asked for, under its names: a list of arrays as large as the weights.
    /// Returns how many connections were grown and how many were lost.
    fn rewire(
        &self,
        step: u64,
        weights: Vec<Bound<'_, PyAny>>,
        masks: Vec<Bound<'_, PyAny>>,
        measured: &Bound<'_, PyDict>,
    ) -> PyResult<(usize, usize)> {
        let given = measured.clone();
        let mut measure = |_: Signals| Ok(given.clone());
        let mut arrays = self.arrays(weights, masks, &mut measure, None)?;
        let mut work = self.work();
        subject::rewire(&mut *work.sparsifier, step, &mut arrays).map_err(PyErr::from)?;
        Ok(arrays.moved)
    }

    /// Whether `after_step` changes weights.
    #[getter]
    fn proximal(&self) -> bool {
        self.work().sparsifier.proximal()
    }

    /// Changes the weights after the optimizer's step at a learning rate.
    fn after_step(
        &self,
        step: u64,
        lr: f64,
        weights: Vec<Bound<'_, PyAny>>,
        masks: Vec<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let mut measure = |_: Signals| Err(value("nothing is measured after a step"));
        let arrays = self.arrays(weights, masks, &mut measure, None)?;
        let topologies = (0..self.shapes.len()).map(|i| arrays.topology(i)).collect::<PyResult<Vec<_>>>()?;
        let mut values = Vec::with_capacity(topologies.len());
        for (i, topology) in topologies.iter().enumerate() {
            values.push(at(&read(&arrays.weights[i])?, topology));
        }
        let live = self.shapes.iter().zip(&topologies).zip(&mut values).enumerate();
        let mut live: Vec<TargetMut> =
            live.map(|(index, ((shape, topology), values))| TargetMut { index, shape, topology, values }).collect();
        self.work().sparsifier.after_step(step, lr, &mut live);
        for (i, (topology, values)) in topologies.iter().zip(&values).enumerate() {
            put(&arrays.weights[i], topology.positions().zip(values.iter().copied()), false)?;
        }
        Ok(())
    }

    /// Prunes trained weights at once. `measure` gets a table of what is asked for and returns a dictionary of it; `score` returns a
    /// number of which more is better, or is None.
    fn prune(
        &self,
        py: Python<'_>,
        weights: Vec<Bound<'_, PyAny>>,
        masks: Vec<Bound<'_, PyAny>>,
        measure: &Bound<'_, PyAny>,
        score: Option<Bound<'_, PyAny>>,
    ) -> PyResult<(usize, usize)> {
        let mut ask = |signals: Signals| -> PyResult<Bound<'_, PyDict>> {
            measure.call1((asked(py, signals)?,))?.cast_into::<PyDict>().map_err(PyErr::from)
        };
        let mut arrays = self.arrays(weights, masks, &mut ask, score)?;
        let (mut work, key) = (self.work(), self.method.key);
        match subject::prune(&mut work, &mut arrays).map_err(PyErr::from) {
            Err(e) if e.to_string().ends_with("without training") => Err(value(match &work.procedure {
                Some(_) => format!("{key} trains between its prunings; `nnz train DATA --method {key}` runs it"),
                None => format!("{key} prunes while it trains; nnz.torch.attach(optimizer, \"{key}\") does"),
            })),
            done => done.map(|()| arrays.moved),
        }
    }

    /// What the method remembers, in JSON.
    fn state(&self) -> PyResult<String> {
        serde_json::to_string(&self.work().sparsifier.state()).map_err(value)
    }

    /// Restores what `state` returned.
    fn restore(&self, state: &str) -> PyResult<()> {
        let state = serde_json::from_str(state).map_err(|e| value(format!("state of {}: {e}", self.method.key)))?;
        self.work().sparsifier.restore(&state).map_err(value)
    }
}

impl Rewiring {
    fn work(&self) -> std::sync::MutexGuard<'_, MethodInstance> {
        self.work.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn count(&self, what: &str, got: usize) -> PyResult<()> {
        match got == self.shapes.len() {
            true => Ok(()),
            false => Err(value(format!("{what}: {got} for {} weights", self.shapes.len()))),
        }
    }

    /// Refuses what acts on more than entries of weights.
    fn acceptable(&self, trained: bool) -> PyResult<()> {
        let (work, key) = (self.work(), self.method.key);
        let shapes: Vec<&Shape> = self.shapes.iter().collect();
        let way = format!("nnz train runs it: `nnz train DATA --method {key}`");
        if let TargetKind::Units | TargetKind::Structure | TargetKind::Edges = work.sparsifier.kind() {
            return Err(value(format!(
                "{key} removes whole units, which changes the shapes of a network, and torch modules keep theirs; {way}"
            )));
        }
        if work.parametrization.is_some() {
            return Err(value(format!("{key} trains other numbers than the weights, from which they are made; {way}")));
        }
        if work.rule.is_some() {
            return Err(value(format!("{key} is an optimizer of its own; {way}")));
        }
        if !trained && work.procedure.is_some() {
            return Err(value(format!("{key} trains several times from the start, which a hook cannot; {way}")));
        }
        match trained {
            true => subject::trained(&work, &self.shapes).map_err(value),
            false => work.sparsifier.check(&shapes).map_err(value),
        }
    }

    /// Refuses what looks at more than a training loop of another program shows, at any of its steps.
    fn shown(&self, steps: u64) -> PyResult<()> {
        let (work, key) = (self.work(), self.method.key);
        for step in (0..=steps.min(MOST_LOOKED_AT)).chain([steps]) {
            let Plan::Rewire(signals) = work.sparsifier.plan(step) else { continue };
            let what = match signals {
                Signals { gram: Some(_), .. } => "inputs of layers",
                Signals { hessian_gradient: Some(_), .. } => "the Hessian",
                Signals { synaptic_flow: true, .. } => "a flow of ones through the network",
                _ if signals.any() && work.sparsifier.rounds(step) > 1 => "several measurements at one step",
                _ => continue,
            };
            return Err(value(format!(
                "{key} looks at {what}, which a training loop does not show; nnz.torch.prune(module, \"{key}\", \
                 data=...) does"
            )));
        }
        Ok(())
    }

    fn arrays<'a, 'py>(
        &'a self,
        weights: Vec<Bound<'py, PyAny>>,
        masks: Vec<Bound<'py, PyAny>>,
        measure: Measure<'a, 'py>,
        score: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Arrays<'a, 'py>> {
        self.count("weights", weights.len())?;
        self.count("masks", masks.len())?;
        let arrays = Arrays {
            key: self.method.key,
            shapes: &self.shapes,
            weights,
            masks,
            measure,
            score,
            kept: Vec::new(),
            moved: (0, 0),
        };
        for (i, shape) in self.shapes.iter().enumerate() {
            let (w, m) = (read(&arrays.weights[i])?.len(), arrays.mask(i)?.len());
            if (w, m) != (shape.len(), shape.len()) {
                return Err(value(format!(
                    "`{}` has {} entries, and got {w} weights and {m} of a mask",
                    shape.name,
                    shape.len()
                )));
            }
        }
        Ok(arrays)
    }
}

/// What a method asks for, by name.
fn asked(py: Python<'_>, signals: Signals) -> PyResult<Bound<'_, PyDict>> {
    let table = PyDict::new(py);
    let Signals { gradient, zeros, hessian_gradient, synaptic_flow, gram, candidates, momentum, rows } = signals;
    table.set_item("gradient", gradient || zeros > 0.0 || candidates)?;
    table.set_item("hessian_gradient", hessian_gradient)?;
    table.set_item("synaptic_flow", synaptic_flow)?;
    table.set_item("gram", gram)?;
    table.set_item("momentum", momentum)?;
    table.set_item("rows", rows)?;
    table.set_item("data", signals.data())?;
    Ok(table)
}

/// An array as numbers of 64 bits.
fn read(array: &Bound<'_, PyAny>) -> PyResult<Vec<f64>> {
    if let Ok(a) = array.extract::<PyReadonlyArrayDyn<'_, f32>>() {
        let a = slice(&a, "arrays")?;
        return Ok(a.iter().map(|&v| f64::from(v)).collect());
    }
    let a = array.extract::<PyReadonlyArrayDyn<'_, f64>>().map_err(|_| kind("NumPy arrays of float32 or float64"))?;
    Ok(slice(&a, "arrays")?.to_vec())
}

/// Writes entries; all others become zero with `clear`.
fn put(array: &Bound<'_, PyAny>, entries: impl Iterator<Item = (u64, f64)>, clear: bool) -> PyResult<()> {
    if let Ok(mut a) = array.extract::<PyReadwriteArrayDyn<'_, f32>>() {
        let a = slice_mut(&mut a, "arrays")?;
        if clear {
            a.fill(0.0);
        }
        entries.for_each(|(p, v)| a[p as usize] = v as f32);
        return Ok(());
    }
    let mut a =
        array.extract::<PyReadwriteArrayDyn<'_, f64>>().map_err(|_| kind("NumPy arrays that can be written"))?;
    let a = slice_mut(&mut a, "arrays")?;
    if clear {
        a.fill(0.0);
    }
    entries.for_each(|(p, v)| a[p as usize] = v);
    Ok(())
}

/// The entries of a topology of a whole matrix.
fn at(all: &[f64], topology: &Topology) -> Vec<f64> {
    topology.positions().map(|p| all[p as usize]).collect()
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

/// What goes wrong on the way, as an exception.
struct Raised(PyErr);

impl From<Error> for Raised {
    fn from(e: Error) -> Self {
        Self(value(e))
    }
}

impl From<PyErr> for Raised {
    fn from(e: PyErr) -> Self {
        Self(e)
    }
}

impl From<Raised> for PyErr {
    fn from(e: Raised) -> Self {
        e.0
    }
}

type Measure<'a, 'py> = &'a mut dyn FnMut(Signals) -> PyResult<Bound<'py, PyDict>>;
type Snapshot = (String, Vec<Vec<f64>>, Vec<Vec<bool>>);

/// Weights and masks of another program as the subject of a method.
struct Arrays<'a, 'py> {
    key: &'static str,
    shapes: &'a [Shape],
    weights: Vec<Bound<'py, PyAny>>,
    masks: Vec<Bound<'py, PyAny>>,
    measure: Measure<'a, 'py>,
    score: Option<Bound<'py, PyAny>>,
    kept: Vec<Snapshot>,
    /// Connections that were grown and lost.
    moved: (usize, usize),
}

/// All that is known about one weight.
struct View {
    topology: Topology,
    exact: Vec<f64>,
    values: Vec<f32>,
    gradient: Vec<f32>,
    zeros: Vec<Zero>,
    hessian_gradient: Vec<f32>,
    synaptic_flow: Vec<f32>,
    momentum: Vec<f32>,
}

impl Arrays<'_, '_> {
    fn mask(&self, i: usize) -> PyResult<Vec<bool>> {
        let mask =
            self.masks[i].extract::<PyReadonlyArrayDyn<'_, bool>>().map_err(|_| kind("masks: NumPy arrays of bool"))?;
        Ok(slice(&mask, "masks")?.to_vec())
    }

    fn set_mask(&self, i: usize, to: impl Iterator<Item = u64>) -> PyResult<()> {
        let mut mask = self.masks[i]
            .extract::<PyReadwriteArrayDyn<'_, bool>>()
            .map_err(|_| kind("masks: arrays that can be written"))?;
        let mask = slice_mut(&mut mask, "masks")?;
        mask.fill(false);
        to.for_each(|p| mask[p as usize] = true);
        Ok(())
    }

    fn topology(&self, i: usize) -> PyResult<Topology> {
        let (mask, shape) = (self.mask(i)?, &self.shapes[i]);
        let there = (0..mask.len()).filter(|&p| mask[p]).map(|p| p as u64);
        Ok(Topology::from_positions(shape.rows, shape.cols, there))
    }

    /// One of the lists of arrays that were measured, whole.
    fn signal(&self, measured: &Bound<'_, PyDict>, name: &str) -> PyResult<Vec<Vec<f64>>> {
        let Some(list) = measured.get_item(name)? else {
            return Err(value(format!("{} asks for `{name}`, which was not measured", self.key)));
        };
        let list = list.cast::<PyList>().map_err(|_| kind(format!("{name}: a list of arrays")))?;
        let all = list.iter().map(|a| read(&a)).collect::<PyResult<Vec<_>>>()?;
        let fit = all.len() == self.shapes.len() && all.iter().zip(self.shapes).all(|(a, s)| a.len() == s.len());
        if fit { Ok(all) } else { Err(value(format!("{name}: an array as large as its weight for each"))) }
    }

    fn views(&self, signals: Signals, by: &dyn Editor, measured: Option<&Bound<'_, PyDict>>) -> PyResult<Vec<View>> {
        let lists = |wanted: bool, name: &str| match (wanted, measured) {
            (true, Some(measured)) => self.signal(measured, name).map(Some),
            _ => Ok(None),
        };
        let gradients = lists(signals.gradient || signals.zeros > 0.0 || signals.candidates, "gradient")?;
        let hessians = lists(signals.hessian_gradient.is_some(), "hessian_gradient")?;
        let flows = lists(signals.synaptic_flow, "synaptic_flow")?;
        let momenta = lists(signals.momentum, "momentum")?;
        let mut views = Vec::with_capacity(self.shapes.len());
        for (i, shape) in self.shapes.iter().enumerate() {
            let topology = self.topology(i)?;
            let entries =
                |all: &Option<Vec<Vec<f64>>>| all.as_ref().map_or_else(Vec::new, |a| narrow(&at(&a[i], &topology)));
            let mut zeros = Vec::new();
            let apart = if signals.candidates { by.candidates(i, &topology) } else { Vec::new() };
            let count = (signals.zeros * topology.nnz() as f64).ceil() as usize;
            if let Some(gradients) = gradients.as_ref().filter(|_| count > 0 || !apart.is_empty()) {
                let (mut apart, mask) = (apart, self.mask(i)?);
                apart.sort_unstable();
                let probe = ZeroProbe { count, apart, ..Default::default() };
                probe.pick(&Tensor::new(&[shape.rows, shape.cols], gradients[i].clone()), |p| mask[p]);
                zeros = probe.found.into_inner().unwrap_or_else(|e| e.into_inner());
            }
            let exact = at(&read(&self.weights[i])?, &topology);
            let gradient = if signals.gradient { entries(&gradients) } else { Vec::new() };
            let (hessian_gradient, synaptic_flow, momentum) = (entries(&hessians), entries(&flows), entries(&momenta));
            let values = narrow(&exact);
            views.push(View { topology, exact, values, gradient, zeros, hessian_gradient, synaptic_flow, momentum });
        }
        Ok(views)
    }

    fn apply(&mut self, i: usize, view: &View, edit: Edit) -> PyResult<()> {
        let (topology, values) = match edit {
            Edit::Keep => return Ok(()),
            Edit::Rewire { topology, grown } => {
                let mut grown = grown.into_iter();
                let values = view.topology.carry(&topology);
                let values =
                    values.map(|old| old.map_or_else(|| f64::from(grown.next().unwrap_or(0.0)), |o| view.exact[o]));
                let values: Vec<f64> = values.collect();
                (topology, values)
            }
            Edit::Set { topology, values } => (topology, values),
            Edit::Replace { .. } => {
                return Err(value(format!("{} replaces a layer by two, and a torch module keeps its shape", self.key)));
            }
        };
        let stay = view.topology.carry(&topology).flatten().count();
        self.moved.0 += topology.nnz() - stay;
        self.moved.1 += view.topology.nnz() - stay;
        put(&self.weights[i], topology.positions().zip(values), true)?;
        self.set_mask(i, topology.positions())
    }
}

impl Subject for Arrays<'_, '_> {
    type Error = Raised;

    fn shapes(&self, _: TargetKind) -> Vec<Shape> {
        self.shapes.to_vec()
    }

    fn edit(&mut self, signals: Signals, by: &mut dyn Editor) -> Result<(), Raised> {
        let measured = match signals.any() {
            true => Some((self.measure)(signals)?),
            false => None,
        };
        let views = self.views(signals, by, measured.as_ref())?;
        let (mut gram, mut mean) = (Vec::new(), Vec::new());
        if let (Some(i), Some(measured)) = (signals.gram, &measured) {
            let cols = self.shapes.get(i).map_or(0, |s| s.cols);
            for (name, into, len) in [("gram", &mut gram, cols * cols), ("mean", &mut mean, cols)] {
                let array = measured.get_item(name)?.ok_or_else(|| value(format!("`{name}` was not measured")))?;
                *into = read(&array)?;
                if into.len() != len {
                    return Err(value(format!("{name}: {} numbers where {len} are needed", into.len())).into());
                }
            }
        }
        let targets: Vec<Target> = (views.iter().enumerate())
            .map(|(index, v)| {
                let own = signals.gram == Some(index);
                Target {
                    gradient: &v.gradient,
                    zeros: &v.zeros,
                    hessian_gradient: &v.hessian_gradient,
                    synaptic_flow: &v.synaptic_flow,
                    momentum: &v.momentum,
                    gram: if own { &gram } else { &[] },
                    mean: if own { &mean } else { &[] },
                    ..Target::new(index, &self.shapes[index], &v.topology, &v.values)
                }
            })
            .collect();
        let edits = by.edit(&targets)?;
        drop(targets);
        if edits.len() != views.len() {
            return Err(value(format!("{} made {} edits for {} weights", self.key, edits.len(), views.len())).into());
        }
        for (i, (view, edit)) in views.iter().zip(edits).enumerate() {
            self.apply(i, view, edit)?;
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<f64, Raised> {
        let score = self.score.as_ref().ok_or_else(|| {
            value(format!(
                "{} looks at a score; give score=, a function of the module of which more is better",
                self.key
            ))
        })?;
        Ok(score.call0()?.extract::<f64>()?)
    }

    fn snapshot(&mut self, name: String) -> Result<(), Raised> {
        let weights = self.weights.iter().map(read).collect::<PyResult<Vec<_>>>()?;
        let masks = (0..self.shapes.len()).map(|i| self.mask(i)).collect::<PyResult<Vec<_>>>()?;
        self.kept.retain(|(known, ..)| *known != name);
        self.kept.push((name, weights, masks));
        Ok(())
    }

    fn restore(&mut self, name: &str) -> Result<(), Raised> {
        let kept = self.kept.iter().find(|(known, ..)| known == name);
        let (_, weights, masks) =
            kept.ok_or_else(|| value(format!("{} goes back to `{name}`, which it never kept", self.key)))?;
        for (i, (weights, mask)) in weights.iter().zip(masks).enumerate() {
            put(&self.weights[i], (0..).zip(weights.iter().copied()), true)?;
            self.set_mask(i, (0..mask.len()).filter(|&p| mask[p]).map(|p| p as u64))?;
        }
        Ok(())
    }

    fn average(&mut self, _: &[String]) -> Result<(), Raised> {
        let key = self.key;
        Err(value(format!("{key} averages what it trained, and nothing trains here; `nnz train DATA --method {key}`"))
            .into())
    }
}
