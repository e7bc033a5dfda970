use super::edits::{Editing, rewire};
use super::pass::Step;
use super::views::Views;
use crate::data::{Batch, Dataset, Preprocessing};
use crate::evaluate::evaluate_generic;
use crate::structure::Fresh;
use crate::{Error, Mode, Model, Moved, Param, PolicyRef, Real, Result};
use nnz_core::{Editor, MethodInstance, Probe, Setting, Shape, Signals, Subject, TargetKind, Topology, subject};
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
    let mut trained = Trained { model, batch, storage, kept: BTreeMap::new(), moved: Moved { grown: 0, pruned: 0 } };
    subject::prune(work, &mut trained).map_err(|e| match e {
        Error::Core(nnz_core::Error::Refused(why)) if why.ends_with("without training") => {
            Error::Refused(format!("{why}; give `--finetune EPOCHS`"))
        }
        e => e,
    })?;
    Ok(trained.moved)
}

/// A trained network, and the rows that methods measure on.
struct Trained<'a, T> {
    model: &'a mut Model<T>,
    batch: Rows<'a>,
    storage: PolicyRef<'a>,
    kept: BTreeMap<String, Vec<Param<T>>>,
    moved: Moved,
}

impl<'a, T> Trained<'a, T> {
    fn data(&self) -> Result<(&'a Dataset, &'a [u32], &'a Preprocessing)> {
        self.batch.ok_or_else(|| Error::Refused("this method measures on data: give `--data DATA`".into()))
    }
}

impl<T: Real> Subject for Trained<'_, T> {
    type Error = Error;

    fn shapes(&self, kind: TargetKind) -> Vec<Shape> {
        self.model.targets(kind)
    }

    fn edit(&mut self, signals: Signals, by: &mut dyn Editor) -> Result<()> {
        let batch = match signals.data() {
            true => {
                let (data, rows, frame) = self.data()?;
                Some(Batch::of(data, &data.train, rows, frame)?)
            }
            false => None,
        };
        let (kind, layerwise, storage) = (by.kind(), by.layerwise(), self.storage);
        let zeros = candidates(self.model, signals, kind, |index, topology| by.candidates(index, topology));
        let pass = Step::forward_backward(self.model, batch.as_ref(), 0.0, signals, zeros, Mode::Use, kind, &[])?;
        let how = Editing { kind, layerwise, storage, fresh: Fresh { seed: 0, step: 0 }, explored: None };
        self.moved += rewire(self.model, None, None, &mut |t| by.edit(t), &pass, how)?;
        Ok(())
    }

    /// Accuracy on all rows of the training split.
    fn evaluate(&mut self) -> Result<f64> {
        let (data, _, frame) = self.data()?;
        let rows: Vec<u32> = (0..data.train.len() as u32).collect();
        Ok(evaluate_generic(self.model, data, &data.train, &rows, frame)?.accuracy)
    }

    fn snapshot(&mut self, name: String) -> Result<()> {
        self.kept.insert(name, self.model.params.clone());
        Ok(())
    }

    fn restore(&mut self, name: &str) -> Result<()> {
        let kept = self.kept.get(name).ok_or_else(|| never_kept(name))?;
        self.model.params.clone_from(kept);
        Ok(())
    }

    fn average(&mut self, _: &[String]) -> Result<()> {
        Err(Error::Refused("this method averages what it trained; give `--finetune EPOCHS`".into()))
    }
}

/// That a procedure asks for a snapshot that is not there.
pub(crate) fn never_kept(name: &str) -> Error {
    Error::Refused(format!("the procedure goes back to `{name}`, which it never kept"))
}

/// The zeros a method names by the index of a target and its topology, by parameter; empty where it was not asked.
pub(crate) fn candidates<T: Real>(
    model: &Model<T>,
    signals: Signals,
    kind: TargetKind,
    named: impl Fn(usize, &Topology) -> Vec<u64>,
) -> Vec<Vec<u64>> {
    let mut all = vec![Vec::new(); model.params.len()];
    if signals.candidates && kind == TargetKind::Weights {
        for (index, i) in model.places(TargetKind::Weights).into_iter().enumerate() {
            all[i] = named(index, &model.params[i].topology());
            all[i].sort_unstable();
        }
    }
    all
}

/// Computes a probe of a network's weights.
pub(crate) fn probe_generic<T: Real>(model: &Model<T>, probe: &dyn Probe) -> f64 {
    let empty = Step::empty();
    let all = (0..model.params.len()).filter(|&i| model.params[i].weight()).collect();
    probe.probe(&Views::at(model, &empty, all).targets())
}
