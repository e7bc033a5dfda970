//! One pass over a batch, what a method sees of it, and its edits.

use crate::data::{Batch, Dataset};
use crate::layers::Statistics;
use crate::ops::{self, ZeroProbe};
use crate::task::{self, Frame};
use crate::{Average, Error, Layout, Mode, Model, Moved, Optimizer, Param, Pass, Result, Storage, Taps, Tensor, Var};
use nnz_core::{Plan, Shape, Signals, Sparsifier, Target, Topology, Zero};
use nnz_kernels::Real;
use std::sync::Arc;

/// Prunes a trained model once, without training: the method's plan at step 0. `batch` is needed only by methods that
/// ask for gradients.
pub fn prune<T: Real>(
    model: &mut Model<T>,
    sparsifier: &mut dyn Sparsifier,
    batch: Option<(&Dataset, &[u32], &Frame)>,
    storage: Storage,
) -> Result<Moved> {
    check_trained(sparsifier, model)?;
    let Plan::Rewire(signals) = sparsifier.plan(0) else {
        return Err(Error::Refused("this method changes nothing without training; give `--finetune EPOCHS`".into()));
    };
    let pass = match batch {
        Some((data, rows, frame)) if signals.any() => {
            let batch = Batch::of(data, &data.train, rows, frame)?;
            Step::run(model, &batch, 0.0, signals, Mode::Use)?
        }
        None if signals.any() => {
            return Err(Error::Refused("this method scores by gradients and needs data: give `--data DATA`".into()));
        }
        _ => Step::empty(),
    };
    rewire(model, None, None, sparsifier, 0, &pass, storage)
}

pub(crate) fn check_trained<T: Real>(sparsifier: &dyn Sparsifier, model: &Model<T>) -> Result<()> {
    let shapes: Vec<&Shape> = model.weights().filter(|p| p.prunable).map(|p| &p.shape).collect();
    sparsifier.check(&shapes)?;
    if sparsifier.birth(&shapes)?.is_some() {
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
) -> Result<(Var<T>, Vec<Statistics<T>>)> {
    let (output, effects) = model.forward(&Var::constant(batch.input.clone()), leaves, pass)?;
    let rows = batch.rows();
    let output = match output.shape().len() {
        2 => output,
        _ => ops::reshape(&output, &[rows, output.value().len() / rows.max(1)]),
    };
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
        Self { loss: f64::NAN, gradients: Vec::new(), zeros: Vec::new(), statistics: Vec::new() }
    }

    pub fn run(model: &Model<T>, batch: &Batch<T>, smoothing: f64, signals: Signals, mode: Mode) -> Result<Self> {
        let leaves = leaves(model);
        let wanted = |p: &Param<T>| match p.prunable {
            true => (signals.zeros * p.nnz() as f64).ceil() as usize,
            false => 0,
        };
        let probe = |count: usize| (count > 0).then(|| Arc::new(ZeroProbe { count, ..Default::default() }));
        let probes: Vec<Option<Arc<ZeroProbe>>> = model.params.iter().map(|p| probe(wanted(p))).collect();
        let pass = Pass { mode, probes: &probes, ..Default::default() };
        let (loss, statistics) = objective(model, batch, smoothing, &leaves, pass)?;
        let value = loss.value().data()[0].f64();
        let mut found = loss.backward(false)?;
        let mut zeros = vec![Vec::new(); model.params.len()];
        let mut gradients = Vec::with_capacity(leaves.len());
        for (i, (param, leaf)) in model.params.iter().zip(leaves).enumerate() {
            let mut gradient = found.take(&leaf).unwrap_or_else(|| Tensor::zeros(param.value.shape()));
            if let Some(probe) = &probes[i] {
                zeros[i] = match &param.layout {
                    Layout::Sparse(_) => std::mem::take(&mut *probe.found.lock().unwrap_or_else(|e| e.into_inner())),
                    Layout::Masked(mask) => ops::top_zeros(&gradient, |p| mask.get(p), probe.count),
                    Layout::Dense => Vec::new(),
                };
            }
            param.mask_gradient(&mut gradient);
            gradients.push(gradient);
        }
        Ok(Self { loss: value, gradients, zeros, statistics })
    }

    /// Whether loss and gradients are numbers.
    pub fn finite(&self) -> bool {
        self.loss.is_finite() && self.gradients.iter().all(finite)
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
    let (loss, _) = objective(model, batch, smoothing, &leaves, pass)?;
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

/// What a method sees of the prunable parameters.
pub(crate) struct Views<'a> {
    parts: Vec<View<'a>>,
}

struct View<'a> {
    param: usize,
    shape: &'a Shape,
    topology: Topology,
    values: Vec<f32>,
    gradient: Vec<f32>,
    zeros: &'a [Zero],
}

impl<'a> Views<'a> {
    pub fn new<T: Real>(model: &'a Model<T>, pass: &'a Step<T>) -> Self {
        let narrow = |v: Vec<T>| -> Vec<f32> { v.into_iter().map(|x| x.f64() as f32).collect() };
        let view = |(i, p): (usize, &'a Param<T>)| View {
            param: i,
            shape: &p.shape,
            topology: p.topology(),
            values: narrow(p.entries(&p.value)),
            gradient: pass.gradients.get(i).map_or_else(Vec::new, |g| narrow(p.entries(g))),
            zeros: pass.zeros.get(i).map_or(&[], Vec::as_slice),
        };
        Self { parts: model.params.iter().enumerate().filter(|(_, p)| p.prunable).map(view).collect() }
    }

    pub fn targets(&self) -> Vec<Target<'_>> {
        let parts = self.parts.iter().enumerate();
        parts
            .map(|(index, View { shape, topology, values, gradient, zeros, .. })| Target {
                index,
                shape,
                topology,
                values,
                gradient,
                zeros,
            })
            .collect()
    }
}

/// Asks the method for its edits and applies them.
pub(crate) fn rewire<T: Real>(
    model: &mut Model<T>,
    mut optimizer: Option<&mut Optimizer<T>>,
    mut average: Option<&mut Average<T>>,
    sparsifier: &mut dyn Sparsifier,
    step: u64,
    pass: &Step<T>,
    storage: Storage,
) -> Result<Moved> {
    let views = Views::new(model, pass);
    let edits = sparsifier.rewire(step, &views.targets())?;
    let params: Vec<usize> = views.parts.iter().map(|v| v.param).collect();
    if edits.len() != params.len() {
        return Err(Error::Refused(format!("the method made {} edits for {} targets", edits.len(), params.len())));
    }
    let mut sum = Moved { born: 0, died: 0 };
    for (i, edit) in params.into_iter().zip(edits) {
        let mut none = Vec::new();
        let state = optimizer.as_mut().map_or(&mut none, |o| &mut o.state[i]);
        let old = average.is_some().then(|| model.params[i].topology());
        // An average lies as the values do and moves with them, like one more tensor of state.
        state.extend(average.as_mut().map(|a| std::mem::replace(&mut a.values_mut()[i], Tensor::zeros(&[0]))));
        let moved = model.params[i].apply(edit, storage, state)?;
        if let (Some(average), Some(old)) = (&mut average, old)
            && let Some(mut values) = state.pop()
        {
            start_at_values(&model.params[i], &old, &mut values);
            average.values_mut()[i] = values;
        }
        if let Some(moved) = moved {
            sum.born += moved.born;
            sum.died += moved.died;
        }
    }
    Ok(sum)
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
