use super::edits::{Editing, rewire};
use super::pass::Step;
use super::views::Views;
use crate::data::{Batch, Dataset, Preprocessing};
use crate::evaluate::evaluate_generic;
use crate::structure::Fresh;
use crate::{Error, Mode, Model, Moved, PolicyRef, Real, Result};
use nnz_core::{Command, MethodInstance, Plan, Probe, Procedure, Setting, Shape, Signals, Sparsifier, TargetKind};
use std::collections::BTreeMap;

/// Builds a method once the length of the run is known.
pub(crate) type Make<'m> = Box<dyn FnOnce(&Setting) -> nnz_core::Result<MethodInstance> + 'm>;
/// Rows of a data set, and how they become inputs and goals.
pub(crate) type Rows<'m> = Option<(&'m Dataset, &'m [u32], &'m Preprocessing)>;

pub(crate) fn prune_generic<T: Real>(
    model: &mut Model<T>,
    work: &mut MethodInstance,
    batch: Rows,
    storage: PolicyRef,
) -> Result<Moved> {
    check_trained(work, model)?;
    let MethodInstance { sparsifier, procedure, parametrization, .. } = work;
    let idle = || Error::Refused("this method changes nothing without training; give `--finetune EPOCHS`".into());
    let mut moved = Moved { grown: 0, pruned: 0 };
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
        let pass = Step::forward_backward(model, batch.as_ref(), 0.0, signals, candidates, Mode::Use, kind, &[])?;
        let layerwise = sparsifier.layerwise();
        let how = Editing { kind, layerwise, storage, fresh: Fresh { seed: 0, step: 0 } };
        moved += rewire(model, None, None, &mut |t| sparsifier.rewire(0, t), &pass, how)?;
    }
    Ok(moved)
}

/// Carries out a procedure that trains nothing: it may prune, measure on all rows of the training split, and restore.
fn search<T: Real>(
    model: &mut Model<T>,
    procedure: &mut dyn Procedure,
    kind: TargetKind,
    batch: Option<(&Dataset, &[u32], &Preprocessing)>,
    storage: PolicyRef,
    idle: impl Fn() -> Error,
) -> Result<Moved> {
    if procedure.steps() > 0 {
        return Err(idle());
    }
    let mut moved = Moved { grown: 0, pruned: 0 };
    let (mut kept, mut score) = (BTreeMap::new(), None);
    loop {
        match procedure.next(score.take()) {
            Command::Train { span, .. } if span.is_empty() => {}
            Command::Snapshot(name) => drop(kept.insert(name, model.params.clone())),
            Command::Restore(name) => model.params = kept.get(&name).ok_or_else(&idle)?.clone(),
            Command::Evaluate => {
                let Some((data, _, frame)) = batch else {
                    return Err(Error::Refused("this method measures on data: give `--data DATA`".into()));
                };
                let rows: Vec<u32> = (0..data.train.len() as u32).collect();
                score = Some(evaluate_generic(model, data, &data.train, &rows, frame)?.accuracy);
            }
            Command::Edit(signals) if !signals.any() => {
                let pass = Step::forward_backward(model, None, 0.0, signals, Vec::new(), Mode::Use, kind, &[])?;
                let how = Editing { kind, layerwise: false, storage, fresh: Fresh { seed: 0, step: 0 } };
                moved += rewire(model, None, None, &mut |t| procedure.edit(t), &pass, how)?;
            }
            Command::Done => return Ok(moved),
            _ => return Err(idle()),
        }
    }
}

/// The zeros a method named, by parameter; empty if it named none.
pub(crate) fn candidates<T: Real>(
    sparsifier: &dyn Sparsifier,
    step: u64,
    signals: Signals,
    model: &Model<T>,
) -> Vec<Vec<u64>> {
    let mut all = vec![Vec::new(); model.params.len()];
    if signals.candidates && sparsifier.kind() == TargetKind::Weights {
        for (index, i) in model.places(TargetKind::Weights).into_iter().enumerate() {
            all[i] = sparsifier.candidates(step, index, &model.params[i].topology());
            all[i].sort_unstable();
        }
    }
    all
}

pub(crate) fn check_trained<T: Real>(work: &MethodInstance, model: &Model<T>) -> Result<()> {
    let shapes = model.targets(work.sparsifier.kind());
    let shapes: Vec<&Shape> = shapes.iter().collect();
    work.sparsifier.check(&shapes)?;
    if work.sparsifier.initial_topologies(&shapes)?.is_some() {
        return Err(Error::Refused(
            "this method starts from a random topology and would throw the trained weights away; methods that prune a \
             trained model are magnitude, gmp and snip"
                .into(),
        ));
    }
    Ok(())
}

/// Computes a probe of a network's weights.
pub(crate) fn probe_generic<T: Real>(model: &Model<T>, probe: &dyn Probe) -> f64 {
    let empty = Step::empty();
    let all = (0..model.params.len()).filter(|&i| model.params[i].weight()).collect();
    probe.probe(&Views::at(model, &empty, all).targets())
}
