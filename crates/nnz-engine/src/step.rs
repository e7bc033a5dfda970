//! One pass over a batch, what a method sees of it, and its edits.

use crate::Real;
use crate::axes::{axes, split, strength};
use crate::built::Rows;
use crate::data::{Batch, Dataset};
use crate::derivatives::hvp;
use crate::layers::Statistics;
use crate::model::Gram;
use crate::ops::{self, ZeroProbe};
use crate::param::Entries;
use crate::structure::{Fresh, Part, Whole, kept, runs};
use crate::task::{self, Frame};
use crate::{
    Average, Error, Layout, Mode, Model, Moments, Moved, Optimizer, Param, Pass, Result, Storing, Taps, Tensor, Var,
};
use nnz_core::{
    Act, Edit, Kind, Live, Measure, Plan, Procedure, Shape, Signals, Sparsifier, Target, Topology, Work, Zero,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Prunes a trained model once, without training: the method's plans at step 0. `batch` is needed only by methods that
/// measure on data.
pub fn prune<'a, T: Real>(
    model: &mut Model<T>,
    work: &mut Work,
    batch: Option<(&Dataset, &[u32], &Frame)>,
    storage: impl Into<Storing<'a>>,
) -> Result<Moved> {
    T::prune(model, work, batch, storage.into())
}

pub(crate) fn prune_generic<T: Real>(
    model: &mut Model<T>,
    work: &mut Work,
    batch: Rows,
    storage: Storing,
) -> Result<Moved> {
    check_trained(work, model)?;
    let Work { sparsifier, procedure, parametrization, .. } = work;
    let idle = || Error::Refused("this method changes nothing without training; give `--finetune EPOCHS`".into());
    let mut moved = Moved { born: 0, died: 0 };
    if let Some(procedure) = procedure {
        return search(model, &mut **procedure, sparsifier.kind(), batch, storage, idle);
    }
    for round in 0..sparsifier.rounds(0) {
        let (Plan::Rewire(signals), None) = (sparsifier.plan(0), &parametrization) else {
            return if round == 0 { Err(idle()) } else { Ok(moved) };
        };
        let batch = match batch {
            Some((data, rows, frame)) if signals.data() => Some(Batch::of(data, &data.train, rows, frame)?),
            None if signals.data() => {
                return Err(Error::Refused("this method measures on data: give `--data DATA`".into()));
            }
            _ => None,
        };
        let kind = sparsifier.kind();
        let candidates = candidates(&**sparsifier, 0, signals, model);
        let pass = Step::measure(model, batch.as_ref(), 0.0, signals, candidates, Mode::Use, kind, &[])?;
        let layerwise = sparsifier.layerwise();
        let how = Editing { kind, layerwise, storage, fresh: Fresh { seed: 0, step: 0 } };
        moved += rewire(model, None, None, &mut |t| sparsifier.rewire(0, t), &pass, how)?;
    }
    Ok(moved)
}

/// Carries out a procedure that trains nothing: it may prune, measure on all rows of the training split, and go back.
fn search<T: Real>(
    model: &mut Model<T>,
    procedure: &mut dyn Procedure,
    kind: Kind,
    batch: Option<(&Dataset, &[u32], &Frame)>,
    storage: Storing,
    idle: impl Fn() -> Error,
) -> Result<Moved> {
    if procedure.steps() > 0 {
        return Err(idle());
    }
    let mut moved = Moved { born: 0, died: 0 };
    let (mut kept, mut score) = (BTreeMap::new(), None);
    loop {
        match procedure.next(score.take()) {
            Act::Train { span, .. } if span.is_empty() => {}
            Act::Snapshot(name) => drop(kept.insert(name, model.params.clone())),
            Act::Restore(name) => model.params = kept.get(&name).ok_or_else(&idle)?.clone(),
            Act::Evaluate => {
                let Some((data, _, frame)) = batch else {
                    return Err(Error::Refused("this method measures on data: give `--data DATA`".into()));
                };
                let rows: Vec<u32> = (0..data.train.len() as u32).collect();
                score = Some(crate::evaluate(model, data, &data.train, &rows, frame)?.accuracy);
            }
            Act::Edit(signals) if !signals.any() => {
                let pass = Step::measure(model, None, 0.0, signals, Vec::new(), Mode::Use, kind, &[])?;
                let how = Editing { kind, layerwise: false, storage, fresh: Fresh { seed: 0, step: 0 } };
                moved += rewire(model, None, None, &mut |t| procedure.edit(t), &pass, how)?;
            }
            Act::Done => return Ok(moved),
            _ => return Err(idle()),
        }
    }
}

/// The zeros a method named, by parameter; empty where it named none.
pub(crate) fn candidates<T: Real>(
    sparsifier: &dyn Sparsifier,
    step: u64,
    signals: Signals,
    model: &Model<T>,
) -> Vec<Vec<u64>> {
    let mut all = vec![Vec::new(); model.params.len()];
    if signals.candidates && sparsifier.kind() == Kind::Weights {
        for (index, i) in model.places(Kind::Weights).into_iter().enumerate() {
            all[i] = sparsifier.candidates(step, index, &model.params[i].topology());
            all[i].sort_unstable();
        }
    }
    all
}

pub(crate) fn check_trained<T: Real>(work: &Work, model: &Model<T>) -> Result<()> {
    let shapes = model.targets(work.sparsifier.kind());
    let shapes: Vec<&Shape> = shapes.iter().collect();
    work.sparsifier.check(&shapes)?;
    if work.sparsifier.birth(&shapes)?.is_some() {
        return Err(Error::Refused(
            "this method starts from a random topology and would throw the trained weights away; methods that prune a \
             trained model are magnitude, gmp and snip"
                .into(),
        ));
    }
    Ok(())
}

/// One forward and backward pass, and the signals a method asked for.
pub(crate) struct Step<T> {
    pub loss: f64,
    /// One for each parameter; none in [`Step::empty`].
    pub gradients: Vec<Tensor<T>>,
    /// Zeros of largest |gradient| of each parameter.
    zeros: Vec<Vec<Zero>>,
    /// Hessian times gradient, one for each parameter where it was asked for.
    curvature: Vec<Tensor<T>>,
    /// Shares of the flow, likewise.
    flow: Vec<Tensor<f64>>,
    /// A parameter and the moments of its inputs.
    gram: Option<(usize, Moments)>,
    /// What the optimizer keeps as mean gradient, one for each parameter where it was asked for.
    pub momentum: Vec<Tensor<T>>,
    /// For running statistics.
    pub statistics: Vec<Statistics<T>>,
}

/// The loss of a batch with what layers add to it, `[1]`, and the statistics of the batch.
fn objective<T: Real>(
    model: &Model<T>,
    batch: &Batch<T>,
    smoothing: f64,
    leaves: &[Var<T>],
    pass: Pass<'_, T>,
    temperature: f64,
) -> Result<(Var<T>, Vec<Statistics<T>>)> {
    let (output, effects) = model.forward(&Var::constant(batch.input.clone()), leaves, pass)?;
    let rows = batch.rows();
    let output = match output.shape().len() {
        2 => output,
        _ => ops::reshape(&output, &[rows, output.value().len() / rows.max(1)]),
    };
    let output = if temperature == 1.0 { output } else { ops::scale(&output, 1.0 / temperature) };
    let loss = task::loss(&output, &batch.goal, smoothing);
    Ok((effects.penalty.map_or_else(|| loss.clone(), |p| ops::add(&loss, &p)), effects.statistics))
}

fn leaves<T: Real>(model: &Model<T>) -> Vec<Var<T>> {
    model.params.iter().map(|p| Var::leaf(p.value.clone())).collect()
}

fn finite<T: Real>(tensor: &Tensor<T>) -> bool {
    // Without a branch for every entry, so that it costs little beside a pass.
    tensor.data().chunks(4096).all(|part| !part.iter().fold(false, |bad, v| bad | !v.is_finite()))
}

impl<T: Real> Step<T> {
    pub fn empty() -> Self {
        let (gradients, zeros, curvature, flow, momentum) = Default::default();
        Self { loss: f64::NAN, gradients, zeros, curvature, flow, gram: None, momentum, statistics: Vec::new() }
    }

    /// All that a method asked for; loss and gradients only where there is a batch.
    #[allow(clippy::too_many_arguments)]
    pub fn measure(
        model: &Model<T>,
        batch: Option<&Batch<T>>,
        smoothing: f64,
        signals: Signals,
        candidates: Vec<Vec<u64>>,
        mode: Mode,
        kind: Kind,
        backwards: &[Option<Tensor<T>>],
    ) -> Result<Self> {
        let mut step = match batch {
            Some(batch) => Self::run(model, batch, smoothing, signals, candidates, mode, backwards)?,
            None => Self::empty(),
        };
        if let (Some(temperature), Some(batch)) = (signals.curvature, batch) {
            step.curvature = curvature(model, batch, smoothing, mode, temperature)?;
        }
        if signals.flow {
            step.flow = flow(model)?;
        }
        if let (Some(target), Some(batch)) = (signals.gram, batch) {
            step.gram = Some(gram(model, batch, mode, kind, target)?);
        }
        Ok(step)
    }

    /// `backwards` as in [`Pass`].
    pub fn run(
        model: &Model<T>,
        batch: &Batch<T>,
        smoothing: f64,
        signals: Signals,
        mut candidates: Vec<Vec<u64>>,
        mode: Mode,
        backwards: &[Option<Tensor<T>>],
    ) -> Result<Self> {
        candidates.resize(model.params.len(), Vec::new());
        let leaves = leaves(model);
        let wanted = |p: &Param<T>| match p.prunable {
            true => (signals.zeros * p.nnz() as f64).ceil() as usize,
            false => 0,
        };
        let probe = |(p, apart): (&Param<T>, Vec<u64>)| {
            let count = wanted(p);
            (count > 0 || !apart.is_empty()).then(|| Arc::new(ZeroProbe { count, apart, ..Default::default() }))
        };
        let probes: Vec<Option<Arc<ZeroProbe>>> = model.params.iter().zip(candidates).map(probe).collect();
        let pass = Pass { mode, probes: &probes, backwards, ..Default::default() };
        let (loss, statistics) = objective(model, batch, smoothing, &leaves, pass, 1.0)?;
        let value = loss.value().data()[0].f64();
        let mut found = loss.backward(false)?;
        let mut zeros = vec![Vec::new(); model.params.len()];
        let mut gradients = Vec::with_capacity(leaves.len());
        for (i, (param, leaf)) in model.params.iter().zip(leaves).enumerate() {
            let mut gradient = found.take(&leaf).unwrap_or_else(|| Tensor::zeros(param.value.shape()));
            if let Some(probe) = &probes[i] {
                if let Layout::Masked(mask) = &param.layout {
                    probe.pick(&gradient, |p| mask.get(p));
                }
                zeros[i] = std::mem::take(&mut *probe.found.lock().unwrap_or_else(|e| e.into_inner()));
            }
            param.mask_gradient(&mut gradient);
            gradients.push(gradient);
        }
        Ok(Self { loss: value, gradients, zeros, statistics, ..Self::empty() })
    }

    /// Whether loss and gradients are numbers.
    pub fn finite(&self) -> bool {
        self.loss.is_finite() && self.gradients.iter().all(finite)
    }
}

/// The Hessian of the loss over the weights times its gradient, with logits over `temperature`.
fn curvature<T: Real>(
    model: &Model<T>,
    batch: &Batch<T>,
    smoothing: f64,
    mode: Mode,
    temperature: f64,
) -> Result<Vec<Tensor<T>>> {
    let f = |leaves: &[Var<T>]| {
        let pass = Pass { mode, ..Default::default() };
        Ok(objective(model, batch, smoothing, leaves, pass, temperature)?.0)
    };
    let leaves = leaves(model);
    let mut found = f(&leaves)?.backward(false)?;
    let direction = |(p, leaf): (&Param<T>, &Var<T>)| {
        let mut gradient = found.take(leaf).filter(|_| p.weight()).unwrap_or_else(|| Tensor::zeros(p.value.shape()));
        p.mask_gradient(&mut gradient);
        gradient
    };
    let direction: Vec<Tensor<T>> = model.params.iter().zip(&leaves).map(direction).collect();
    let values: Vec<Tensor<T>> = model.params.iter().map(|p| p.value.clone()).collect();
    hvp(f, &values, &direction)
}

/// ∂R/∂|w| / R with R = Σ outputs for an input of ones through |parameters| (Tanaka et al. 2020, arXiv:2006.05467).
fn flow<T: Real>(model: &Model<T>) -> Result<Vec<Tensor<f64>>> {
    let mut model = Model { spec: model.spec.clone(), params: model.params.iter().map(Param::wide).collect() };
    model.params.iter_mut().for_each(|p| p.value = p.value.map(f64::abs));
    let leaves = leaves(&model);
    let [c, h, w] = model.spec.input;
    let input = Var::constant(Tensor::full(&[1, c * h * w], 1.0));
    let sum = ops::sum(&model.forward(&input, &leaves, Pass::default())?.0);
    let total = sum.value().data()[0];
    if !(total > 0.0 && total.is_finite()) {
        return Err(Error::Refused(format!(
            "the flow through {} is {total}: its layers cannot be scored so",
            model.spec.name
        )));
    }
    let mut found = ops::scale(&sum, 1.0 / total).backward(false)?;
    let share =
        |(p, leaf): (&Param<f64>, &Var<f64>)| found.take(leaf).unwrap_or_else(|| Tensor::zeros(p.value.shape()));
    Ok(model.params.iter().zip(&leaves).map(share).collect())
}

/// The moments of what a target reads.
fn gram<T: Real>(
    model: &Model<T>,
    batch: &Batch<T>,
    mode: Mode,
    kind: Kind,
    target: usize,
) -> Result<(usize, Moments)> {
    let place = model.places(kind).get(target).copied().filter(|_| kind == Kind::Weights);
    let param = place.ok_or_else(|| Error::Refused(format!("no weight is target {target}")))?;
    let gram = Gram { param, sum: Mutex::new(None) };
    let constants: Vec<Var<T>> = model.params.iter().map(|p| Var::constant(p.value.clone())).collect();
    let pass = Pass { mode, gram: Some(&gram), ..Default::default() };
    model.forward(&Var::constant(batch.input.clone()), &constants, pass)?;
    match gram.sum.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some(sum) => Ok((param, sum.mean())),
        None => Err(Error::Refused(format!(
            "what `{}` reads cannot be measured: only linear layers and convolutions without groups show their inputs",
            model.params[param].shape.name
        ))),
    }
}

/// Where a pass first met what is no finite number: a value, then an activation in the order of computation, then a
/// gradient in the order of the backward pass. Runs the pass again, with every tap.
pub(crate) fn culprit<T: Real>(model: &Model<T>, batch: &Batch<T>, smoothing: f64, mode: Mode) -> Result<String> {
    if let Some(p) = model.params.iter().find(|p| !finite(&p.value)) {
        return Ok(format!(", and `{}` holds values that are not finite", p.shape.name));
    }
    let names = model.spec.taps();
    let taps = names.iter().fold(Taps::new(), |taps, name| taps.read(name));
    let leaves = leaves(model);
    let pass = Pass { mode, taps: Some(&taps), ..Default::default() };
    let (loss, _) = objective(model, batch, smoothing, &leaves, pass, 1.0)?;
    let bad = |t: Option<Tensor<T>>| t.is_some_and(|t| !finite(&t));
    if let Some(name) = names.iter().find(|n| bad(taps.activation(n))) {
        return Ok(format!(", and the output of layer `{name}` is the first that is not finite"));
    }
    if !finite(loss.value()) {
        return Ok(" although every activation is finite".into());
    }
    let mut found = loss.backward(false)?;
    if let Some(name) = names.iter().rev().find(|n| bad(taps.gradient(n))) {
        return Ok(format!(", and the gradient at the output of layer `{name}` is the first that is not finite"));
    }
    let mut weights = model.params.iter().zip(&leaves).rev();
    let broken = weights.find(|(_, leaf)| bad(found.take(leaf)));
    Ok(broken.map_or_else(String::new, |(p, _)| format!(", and the gradient of `{}` is not finite", p.shape.name)))
}

/// A measure of a network's weights.
pub fn measure<T: Real>(model: &Model<T>, measure: &dyn Measure) -> f64 {
    T::measure(model, measure)
}

pub(crate) fn measure_generic<T: Real>(model: &Model<T>, measure: &dyn Measure) -> f64 {
    let empty = Step::empty();
    let all = (0..model.params.len()).filter(|&i| model.params[i].weight()).collect();
    measure.measure(&Views::at(model, &empty, all).targets())
}

/// What a method sees of its targets.
pub(crate) struct Views<'a> {
    parts: Vec<View<'a>>,
}

struct View<'a> {
    shape: Shape,
    topology: Topology,
    values: Vec<f32>,
    gradient: Vec<f32>,
    zeros: &'a [Zero],
    curvature: Vec<f32>,
    flow: Vec<f32>,
    gram: &'a [f64],
    mean: &'a [f64],
    momentum: Vec<f32>,
    cost: f64,
    whole: f64,
}

impl<'a> Views<'a> {
    pub fn new<T: Real>(model: &'a Model<T>, pass: &'a Step<T>, kind: Kind) -> Self {
        if matches!(kind, Kind::Units | Kind::Structure) {
            let gradient = |i: usize| pass.gradients.get(i).map_or_else(Vec::new, |g| model.params[i].entries(g));
            let view = |shape: Shape, [values, mut gradient]: [Vec<f64>; 2], cost: f64, whole: f64| {
                let narrow = |v: Vec<f64>| v.into_iter().map(|v| v as f32).collect();
                if pass.gradients.is_empty() {
                    gradient.clear();
                }
                let (curvature, flow, momentum) = Default::default();
                let (topology, values, gradient) = (Topology::full(shape.rows, 1), narrow(values), narrow(gradient));
                let (zeros, gram, mean): (&[Zero], &[f64], &[f64]) = Default::default();
                View { shape, topology, values, gradient, zeros, curvature, flow, gram, mean, momentum, cost, whole }
            };
            if kind == Kind::Units {
                let of = |axis: &crate::Axis| view(axis.shape(), strength(model, axis, gradient), 0.0, 0.0);
                return Self { parts: axes(&model.spec).iter().map(of).collect() };
            }
            let each = model.costs();
            let whole = each.iter().sum();
            let of = |part: &Part| view(part.shape(), part.strength(model, gradient), part.cost(&each), whole);
            return Self { parts: Part::all(&model.spec).iter().map(of).collect() };
        }
        Self::at(model, pass, model.places(kind))
    }

    /// Of parameters.
    fn at<T: Real>(model: &'a Model<T>, pass: &'a Step<T>, places: Vec<usize>) -> Self {
        fn narrow<T: Real>(v: Vec<T>) -> Vec<f32> {
            v.into_iter().map(|x| x.f64() as f32).collect()
        }
        let view = |i: usize| {
            let p = &model.params[i];
            let rows = p.by_rows();
            let moments = pass.gram.as_ref().filter(|(at, _)| *at == i).map(|(_, m)| m);
            View {
                shape: p.shape.clone(),
                values: narrow(rows.of(&p.value)),
                gradient: pass.gradients.get(i).map_or_else(Vec::new, |g| narrow(rows.of(g))),
                zeros: pass.zeros.get(i).map_or(&[], Vec::as_slice),
                curvature: pass.curvature.get(i).map_or_else(Vec::new, |g| narrow(rows.of(g))),
                flow: pass.flow.get(i).map_or_else(Vec::new, |g| narrow(rows.of(g))),
                gram: moments.map_or(&[], |m| &m.square),
                mean: moments.map_or(&[], |m| &m.first),
                momentum: pass.momentum.get(i).map_or_else(Vec::new, |g| narrow(rows.of(g))),
                topology: rows.topology,
                cost: 0.0,
                whole: 0.0,
            }
        };
        Self { parts: places.into_iter().map(view).collect() }
    }

    pub fn targets(&self) -> Vec<Target<'_>> {
        let parts = self.parts.iter().enumerate();
        parts
            .map(|(index, v)| Target {
                index,
                shape: &v.shape,
                topology: &v.topology,
                values: &v.values,
                gradient: &v.gradient,
                zeros: v.zeros,
                curvature: &v.curvature,
                flow: &v.flow,
                gram: v.gram,
                mean: v.mean,
                momentum: &v.momentum,
                cost: v.cost,
                whole: v.whole,
            })
            .collect()
    }
}

/// Lets a method change the values of its targets behind an optimizer step.
pub(crate) fn after_step<T: Real>(model: &mut Model<T>, sparsifier: &mut dyn Sparsifier, step: u64, lr: f64) {
    if sparsifier.kind() == Kind::Structure {
        return after_structure(model, sparsifier, step, lr);
    }
    let places = model.places(sparsifier.kind());
    let rows: Vec<Entries> = places.iter().map(|&i| model.params[i].by_rows()).collect();
    let shapes: Vec<Shape> = places.iter().map(|&i| model.params[i].shape.clone()).collect();
    let wide = |(&i, rows): (&usize, &Entries)| -> Vec<f64> {
        rows.of(&model.params[i].value).into_iter().map(|v| v.f64()).collect()
    };
    let mut values: Vec<Vec<f64>> = places.iter().zip(&rows).map(wide).collect();
    let parts = rows.iter().zip(&shapes).zip(&mut values).enumerate();
    let mut live: Vec<Live> =
        parts.map(|(index, ((rows, shape), values))| Live { index, shape, topology: &rows.topology, values }).collect();
    sparsifier.after_step(step, lr, &mut live);
    for ((i, rows), values) in places.into_iter().zip(rows).zip(values) {
        let values: Vec<T> = values.into_iter().map(T::of).collect();
        rows.set(&mut model.params[i].value, &values);
    }
}

/// A value of a part that a method changed scales the weights that carry its output.
fn after_structure<T: Real>(model: &mut Model<T>, sparsifier: &mut dyn Sparsifier, step: u64, lr: f64) {
    let parts = Part::all(&model.spec);
    let before: Vec<Vec<f64>> = parts.iter().map(|p| p.strength(model, |_| Vec::new())[0].clone()).collect();
    let shapes: Vec<Shape> = parts.iter().map(Part::shape).collect();
    let full: Vec<Topology> = shapes.iter().map(|s| Topology::full(s.rows, 1)).collect();
    let mut values = before.clone();
    let all = shapes.iter().zip(&full).zip(&mut values).enumerate();
    let mut live: Vec<Live> =
        all.map(|(index, ((shape, topology), values))| Live { index, shape, topology, values }).collect();
    sparsifier.after_step(step, lr, &mut live);
    for ((part, old), new) in parts.iter().zip(before).zip(values) {
        let factors: Vec<f64> = old.iter().zip(&new).map(|(o, n)| if *o > 0.0 { n / o } else { 1.0 }).collect();
        if factors.iter().any(|f| *f != 1.0) {
            part.scale(model, &factors);
        }
    }
}

/// How edits are asked for and applied.
pub(crate) struct Editing<'a> {
    pub kind: Kind,
    /// One layer after the other, so that no more than one is copied.
    pub layerwise: bool,
    pub storage: Storing<'a>,
    pub fresh: Fresh,
}

/// Asks a method for its edits and applies them.
pub(crate) fn rewire<T: Real>(
    model: &mut Model<T>,
    mut optimizer: Option<&mut Optimizer<T>>,
    mut average: Option<&mut Average<T>>,
    edits: &mut dyn FnMut(&[Target]) -> nnz_core::Result<Vec<Edit>>,
    pass: &Step<T>,
    Editing { kind, layerwise, storage, fresh }: Editing,
) -> Result<Moved> {
    let mut sum = Moved { born: 0, died: 0 };
    let structural = matches!(kind, Kind::Units | Kind::Structure);
    if layerwise && !structural {
        for (index, i) in model.places(kind).into_iter().enumerate() {
            let mut made = edits(&[Target { index, ..Views::at(model, pass, vec![i]).targets()[0] }])?;
            let (Some(edit), true) = (made.pop(), made.is_empty()) else {
                return Err(Error::Refused("the method did not make one edit for one target".into()));
            };
            sum += settle(model, optimizer.as_deref_mut(), average.as_deref_mut(), i, edit, storage)?;
        }
        return Ok(sum);
    }
    let views = Views::new(model, pass, kind);
    let edits = edits(&views.targets())?;
    let count = views.parts.len();
    if edits.len() != count {
        return Err(Error::Refused(format!("the method made {} edits for {count} targets", edits.len())));
    }
    if structural {
        let changes = views.parts.iter().zip(edits).map(|(view, edit)| match edit {
            Edit::Keep => Ok((vec![true; view.shape.rows], 0)),
            Edit::Rewire { topology, .. } => kept(&view.shape.name, view.shape.rows, &topology),
            _ => Err(Error::Refused(format!("units of `{}` can only be kept, lost or born", view.shape.name))),
        });
        let changes = changes.collect::<Result<Vec<_>>>()?;
        drop(views);
        let mut whole = Whole { model, optimizer, average, storage, fresh };
        let axes = axes(&whole.model.spec);
        for (axis, (keep, born)) in axes.iter().zip(&changes) {
            sum += whole.resize(axis, keep, *born)?;
        }
        // From the last on, since blocks that come or go move what is behind them.
        let runs = runs(&whole.model.spec);
        for (run, (keep, born)) in runs.iter().zip(&changes[axes.len()..]).rev() {
            sum += whole.restack(run, keep, *born)?;
        }
        return Ok(sum);
    }
    // All edits or none.
    for (i, edit) in model.places(kind).into_iter().zip(&edits) {
        model.params[i].admits(edit, storage)?;
    }
    // From the last on, since a layer that is replaced by two moves those behind it.
    for (i, edit) in model.places(kind).into_iter().zip(edits).rev() {
        let edit = match edit {
            Edit::Replace { left, right } => {
                match replace(model, optimizer.as_deref_mut(), average.as_deref_mut(), i, &left, &right, storage)? {
                    Some(moved) => {
                        sum += moved;
                        continue;
                    }
                    None => {
                        let shape = &model.params[i].shape;
                        let values = product(&left, &right, shape.rows, shape.cols);
                        Edit::Set { topology: Topology::full(shape.rows, shape.cols), values }
                    }
                }
            }
            edit => edit,
        };
        sum += settle(model, optimizer.as_deref_mut(), average.as_deref_mut(), i, edit, storage)?;
    }
    Ok(sum)
}

/// Applies an edit to one parameter, its optimizer state and its average.
fn settle<T: Real>(
    model: &mut Model<T>,
    optimizer: Option<&mut Optimizer<T>>,
    mut average: Option<&mut Average<T>>,
    i: usize,
    edit: Edit,
    storage: Storing,
) -> Result<Moved> {
    let mut none = Vec::new();
    let state = optimizer.map_or(&mut none, |o| &mut o.state[i]);
    let old = average.is_some().then(|| model.params[i].topology());
    model.params[i].admits(&edit, storage)?;
    // An average lies as the values do and moves with them, like one more tensor of state.
    state.extend(average.as_mut().map(|a| std::mem::replace(&mut a.values_mut()[i], Tensor::zeros(&[0]))));
    let moved = model.params[i].apply(edit, storage, state)?;
    if let (Some(average), Some(old)) = (&mut average, old)
        && let Some(mut values) = state.pop()
    {
        start_at_values(&model.params[i], &old, &mut values);
        average.values_mut()[i] = values;
    }
    Ok(moved.unwrap_or(Moved { born: 0, died: 0 }))
}

/// L R, row-major.
fn product(left: &[f64], right: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    let rank = left.len() / rows.max(1);
    let mut out = vec![0.0; rows * cols];
    for (row, l) in out.chunks_exact_mut(cols.max(1)).zip(left.chunks_exact(rank.max(1))) {
        for (l, r) in l.iter().zip(right.chunks_exact(cols)) {
            row.iter_mut().zip(r).for_each(|(o, r)| *o += l * r);
        }
    }
    out
}

/// Puts two linear layers in the place of one; `None` where the weight is not that of a linear layer, or two would not
/// have fewer entries.
fn replace<T: Real>(
    model: &mut Model<T>,
    optimizer: Option<&mut Optimizer<T>>,
    average: Option<&mut Average<T>>,
    at: usize,
    left: &[f64],
    right: &[f64],
    storage: Storing,
) -> Result<Option<Moved>> {
    let (rows, cols, prunable) = (model.params[at].shape.rows, model.params[at].shape.cols, model.params[at].prunable);
    let rank = left.len() / rows.max(1);
    if left.len() != rows * rank || right.len() != rank * cols || rank == 0 {
        let name = &model.params[at].shape.name;
        return Err(Error::Refused(format!(
            "factors of {} and {} for `{name}` {rows}x{cols}",
            left.len(),
            right.len()
        )));
    }
    if rank * (rows + cols) >= rows * cols || !split(&mut model.spec.layers, at, rank) {
        return Ok(None);
    }
    let specs = model.spec.params();
    let before = model.params[at].nnz();
    let factor = |spec: &crate::ParamSpec, values: &[f64]| {
        let (s, all) = (&spec.shape, Topology::full(spec.shape.rows, spec.shape.cols));
        Param::from_entries(s, prunable, all, storage, values.iter().map(|&v| T::of(v)).collect())
    };
    let factors = [factor(&specs[at], right)?, factor(&specs[at + 1], left)?];
    if let Some(o) = optimizer {
        let fresh = Optimizer::new(o.spec, &factors).state;
        o.state.splice(at..=at, fresh);
    }
    if let Some(a) = average {
        a.splice(at..at + 1, &factors);
    }
    model.params.splice(at..=at, factors);
    let after = rank * (rows + cols);
    Ok(Some(Moved { born: 0, died: before.saturating_sub(after) }))
}

/// The average of a connection that `old` did not have starts at its value.
fn start_at_values<T: Real>(param: &Param<T>, old: &Topology, average: &mut Tensor<T>) {
    let entries = param.by_rows();
    let (values, mut averages) = (entries.of(&param.value), entries.of(average));
    for (entry, _) in old.carry(&entries.topology).enumerate().filter(|(_, from)| from.is_none()) {
        averages[entry] = values[entry];
    }
    entries.set(average, &averages);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelSpec;
    use crate::data::Goal;
    use nnz_core::Rng;

    fn network(text: &str) -> (Model<f64>, Batch<f64>) {
        let spec = ModelSpec::parse(text, [1, 6, 6], 3).unwrap();
        let model = Model::born(&spec, None, crate::Storage::Auto, false, 1).unwrap();
        let mut rng = Rng::stream(0, "input", 0, 0);
        let input = Tensor::new(&[10, 36], (0..360).map(|_| rng.normal()).collect());
        (model, Batch { input, goal: Goal::Classes((0..10).map(|i| i % 3).collect()) })
    }

    fn signals(model: &Model<f64>, batch: &Batch<f64>, signals: Signals) -> Step<f64> {
        Step::measure(model, Some(batch), 0.0, signals, Vec::new(), Mode::Use, Kind::Weights, &[]).unwrap()
    }

    /// (g(w + h v) - g(w - h v)) / 2h with v the gradient of the weights.
    #[test]
    fn curvature_is_the_slope_of_the_gradient_along_itself() {
        let (model, batch) = network("mlp:36-8-3");
        let found = signals(&model, &batch, Signals { curvature: Some(1.0), ..Signals::NONE });
        let moved = |h: f64| {
            let mut other = model.clone();
            for (p, g) in other.params.iter_mut().zip(&found.gradients).filter(|(p, _)| p.weight()) {
                p.value.data_mut().iter_mut().zip(g.data()).for_each(|(w, g)| *w += h * g);
            }
            signals(&other, &batch, Signals::GRADIENT).gradients
        };
        let (up, down) = (moved(1e-5), moved(-1e-5));
        for (i, p) in model.params.iter().enumerate().filter(|(_, p)| p.weight()) {
            for k in 0..p.value.len() {
                let slope = (up[i].data()[k] - down[i].data()[k]) / 2e-5;
                assert!((found.curvature[i].data()[k] - slope).abs() < 1e-6, "{} {k}", p.shape.name);
            }
        }
    }

    #[test]
    fn every_layer_carries_the_whole_flow() {
        for text in ["mlp:36-8-5-3", "resnet8"] {
            let (model, _) = network(text);
            let flow = flow(&model).unwrap();
            for (p, f) in model.params.iter().zip(&flow).filter(|(p, _)| p.weight() && !text.starts_with("res")) {
                let sum: f64 = p.value.data().iter().zip(f.data()).map(|(w, f)| w.abs() * f).sum();
                assert!((sum - 1.0).abs() < 1e-9, "{text} {}: {sum}", p.shape.name);
            }
            assert!(flow.iter().all(|f| f.data().iter().all(|f| *f >= 0.0)));
        }
    }

    /// Behind unfolding, a convolution is a matrix, and what it reads are patches.
    #[test]
    fn the_moments_are_those_of_what_a_weight_reads() {
        let (model, batch) = network("vgg-small");
        let (param, gram) = gram(&model, &batch, Mode::Use, Kind::Weights, 1).unwrap();
        let cols = model.params[param].shape.cols;
        let taps = Taps::new().read("2.relu");
        let leaves = leaves(&model);
        let pass = Pass { taps: Some(&taps), ..Default::default() };
        model.forward(&Var::constant(batch.input.clone()), &leaves, pass).unwrap();
        let read = Var::constant(taps.activation("2.relu").unwrap());
        let patches = ops::patches(&read, ops::Window::new([3, 3]).padding([1, 1]));
        let (rows, wide) = patches.value().rows_cols();
        assert_eq!(wide, cols);
        for (a, b) in [(0, 0), (3, 7), (cols - 1, 2)] {
            let dot: f64 = patches.value().data().chunks(cols).map(|r| r[a] * r[b]).sum();
            let sum: f64 = patches.value().data().chunks(cols).map(|r| r[a]).sum();
            assert!((gram.square[a * cols + b] - dot / rows as f64).abs() < 1e-9);
            assert!((gram.first[a] - sum / rows as f64).abs() < 1e-9);
        }
        assert!(super::gram(&model, &batch, Mode::Use, Kind::Weights, 99).is_err());
    }

    #[test]
    fn a_layer_replaced_by_two_computes_their_product() {
        let (mut model, batch) = network("mlp:36-20-3");
        let mut rng = Rng::stream(5, "factors", 0, 0);
        let mut draw = |n: usize| (0..n).map(|_| rng.normal()).collect::<Vec<f64>>();
        let (left, right) = (draw(20 * 4), draw(4 * 36));
        let mut plain = model.clone();
        plain.params[0].value = Tensor::new(&[20, 36], product(&left, &right, 20, 36));
        let mut edit = |_: &[Target]| Ok(vec![Edit::Replace { left: left.clone(), right: right.clone() }]);
        let storage = crate::Storage::Auto.into();
        let how = Editing { kind: Kind::Weights, layerwise: false, storage, fresh: Fresh { seed: 0, step: 0 } };
        let moved = rewire(&mut model, None, None, &mut edit, &Step::empty(), how).unwrap();
        assert_eq!((moved.died, model.spec.weights().len()), (20 * 36 - 4 * 56, 3));
        assert_eq!(model.spec.params().len(), model.params.len());
        let (a, b) = (plain.infer(batch.input.clone()).unwrap(), model.infer(batch.input).unwrap());
        assert!(a.data().iter().zip(b.data()).all(|(a, b)| (a - b).abs() < 1e-9));
    }
}
