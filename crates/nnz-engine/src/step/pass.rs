use crate::data::Batch;
use crate::derivatives::hvp;
use crate::evaluate;
use crate::layers::{Gram, Moments, Statistics};
use crate::leaves::Formed;
use crate::ops::{self, ZeroProbe};
use crate::{Error, Layout, Mode, Model, Param, Pass, Real, Result, Taps, Tensor, Var};
use nnz_core::{Signals, TargetKind, Zero};
use std::sync::{Arc, Mutex};

/// One forward and backward pass, and the signals a method asked for.
pub(crate) struct Step<T> {
    pub loss: f64,
    /// One for each parameter, empty for those that are made of leaves; none in [`Step::empty`].
    pub gradients: Vec<Tensor<T>>,
    /// Of what the weights are made of, for each that is made of leaves.
    pub leaves: Vec<Vec<Tensor<T>>>,
    /// Zeros of largest |gradient| of each parameter.
    pub(super) zeros: Vec<Vec<Zero>>,
    /// Hessian times gradient, one per parameter if requested.
    pub(super) hessian_gradient: Vec<Tensor<T>>,
    /// Shares of the synaptic flow, likewise.
    pub(super) synaptic_flow: Vec<Tensor<f64>>,
    /// A parameter and the moments of its inputs.
    pub(super) gram: Option<(usize, Moments)>,
    /// Running mean gradients of the optimizer, one per parameter if requested.
    pub momentum: Vec<Tensor<T>>,
    /// For running statistics.
    pub statistics: Vec<Statistics<T>>,
}

/// The loss of a batch including penalties of layers, `[1]`, and the statistics of the batch.
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
    let loss = evaluate::loss(&output, batch, smoothing);
    Ok((effects.penalty.map_or_else(|| loss.clone(), |p| ops::add(&loss, &p)), effects.statistics))
}

pub(super) fn leaves<T: Real>(model: &Model<T>) -> Vec<Var<T>> {
    model.params.iter().map(|p| Var::leaf(p.value.clone())).collect()
}

/// The same with weights that are made of leaves in their places.
fn values<T: Real>(model: &Model<T>, formed: &[Option<Formed<T>>]) -> Vec<Var<T>> {
    let made = formed.iter().map(Option::as_ref).chain(std::iter::repeat(None));
    let one = |(p, made): (&Param<T>, Option<&Formed<T>>)| match made {
        Some(weight) => weight.value(),
        None => Var::leaf(p.value.clone()),
    };
    model.params.iter().zip(made).map(one).collect()
}

fn finite<T: Real>(tensor: &Tensor<T>) -> bool {
    // Without a branch per entry, so that it costs little compared to a pass.
    tensor.data().chunks(4096).all(|part| !part.iter().fold(false, |bad, v| bad | !v.is_finite()))
}

impl<T: Real> Step<T> {
    pub fn empty() -> Self {
        let (gradients, leaves, zeros, hessian_gradient, synaptic_flow, momentum) = Default::default();
        Self {
            loss: f64::NAN,
            gradients,
            leaves,
            zeros,
            hessian_gradient,
            synaptic_flow,
            gram: None,
            momentum,
            statistics: Vec::new(),
        }
    }

    /// Computes all that a method asked for; loss and gradients only if there is a batch.
    #[allow(clippy::too_many_arguments)]
    pub fn forward_backward(
        model: &Model<T>,
        batch: Option<&Batch<T>>,
        smoothing: f64,
        signals: Signals,
        candidates: Vec<Vec<u64>>,
        mode: Mode,
        kind: TargetKind,
        formed: &[Option<Formed<T>>],
    ) -> Result<Self> {
        if signals.any() && formed.iter().any(Option::is_some) {
            return Err(Error::Refused("signals of weights that are made of leaves are not measured".into()));
        }
        let mut step = match batch {
            Some(batch) => Self::run(model, batch, smoothing, signals, candidates, mode, formed)?,
            None => Self::empty(),
        };
        if let (Some(temperature), Some(batch)) = (signals.hessian_gradient, batch) {
            step.hessian_gradient = hessian_gradient(model, batch, smoothing, mode, temperature)?;
        }
        if signals.synaptic_flow {
            step.synaptic_flow = synaptic_flow(model)?;
        }
        if let (Some(target), Some(batch)) = (signals.gram, batch) {
            step.gram = Some(gram(model, batch, mode, kind, target)?);
        }
        Ok(step)
    }

    /// `formed` as in [`Pass`].
    pub fn run(
        model: &Model<T>,
        batch: &Batch<T>,
        smoothing: f64,
        signals: Signals,
        mut candidates: Vec<Vec<u64>>,
        mode: Mode,
        formed: &[Option<Formed<T>>],
    ) -> Result<Self> {
        candidates.resize(model.params.len(), Vec::new());
        let leaves = values(model, formed);
        let wanted = |p: &Param<T>| match p.prunable {
            true => (signals.zeros * p.nnz() as f64).ceil() as usize,
            false => 0,
        };
        let probe = |(p, apart): (&Param<T>, Vec<u64>)| {
            let count = wanted(p);
            (count > 0 || !apart.is_empty()).then(|| Arc::new(ZeroProbe { count, apart, ..Default::default() }))
        };
        let probes: Vec<Option<Arc<ZeroProbe>>> = model.params.iter().zip(candidates).map(probe).collect();
        let pass = Pass { mode, probes: &probes, formed, ..Default::default() };
        let (loss, statistics) = objective(model, batch, smoothing, &leaves, pass, 1.0)?;
        let value = loss.value().data()[0].f64();
        let penalties = formed.iter().flatten().filter_map(|f| f.penalty.as_ref());
        let mut found = penalties.fold(loss, |loss, p| ops::add(&loss, p)).backward(false)?;
        let mut asked = |var: &Option<Var<T>>| match var {
            Some(var) => found.take(var).unwrap_or_else(|| Tensor::zeros(var.shape())),
            None => Tensor::zeros(&[0]),
        };
        let of_leaves = formed.iter().flatten().map(|f| &f.asked);
        let of_leaves = of_leaves.map(|all| all.iter().map(&mut asked).collect()).collect();
        let mut zeros = vec![Vec::new(); model.params.len()];
        let mut gradients = Vec::with_capacity(leaves.len());
        for (i, (param, leaf)) in model.params.iter().zip(leaves).enumerate() {
            if formed.get(i).is_some_and(Option::is_some) {
                gradients.push(Tensor::zeros(&[0]));
                continue;
            }
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
        Ok(Self { loss: value, gradients, leaves: of_leaves, zeros, statistics, ..Self::empty() })
    }

    /// Whether loss and gradients are finite.
    pub fn finite(&self) -> bool {
        self.loss.is_finite() && self.gradients.iter().chain(self.leaves.iter().flatten()).all(finite)
    }
}

/// Computes the Hessian of the loss over the weights times its gradient, with logits over `temperature`.
fn hessian_gradient<T: Real>(
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
pub(super) fn synaptic_flow<T: Real>(model: &Model<T>) -> Result<Vec<Tensor<f64>>> {
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

/// Computes the moments of a target's inputs.
pub(super) fn gram<T: Real>(
    model: &Model<T>,
    batch: &Batch<T>,
    mode: Mode,
    kind: TargetKind,
    target: usize,
) -> Result<(usize, Moments)> {
    let place = model.places(kind).get(target).copied().filter(|_| kind == TargetKind::Weights);
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

/// Locates the first non-finite number of a pass: a value, then an activation in the order of computation, then a
/// gradient in the order of the backward pass. Runs the pass again, with every tap.
pub(crate) fn locate_non_finite<T: Real>(
    model: &Model<T>,
    batch: &Batch<T>,
    smoothing: f64,
    mode: Mode,
    formed: &[Option<Formed<T>>],
) -> Result<String> {
    if let Some(p) = model.params.iter().find(|p| !finite(&p.value)) {
        return Ok(format!(", and `{}` holds values that are not finite", p.shape.name));
    }
    let names = model.spec.taps();
    let taps = names.iter().fold(Taps::new(), |taps, name| taps.read(name));
    let leaves = values(model, formed);
    let pass = Pass { mode, taps: Some(&taps), formed, ..Default::default() };
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
