use crate::subject::Show;
use crate::{Result, Shape, Signals, Target, TargetKind, TargetMut, Topology};
use serde_json::Value;

/// Request of a method to the engine at one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Plan {
    /// Nothing: topologies stay, nothing is measured.
    Rest,
    /// Measure these during the step and call [`Sparsifier::observe`].
    Observe(Signals),
    /// Measure these, call [`Sparsifier::rewire`] and apply its edits. If measuring gradients used the batch, the step
    /// makes no optimizer update (RigL, algorithm 1).
    ///
    /// One step may have several [rounds](Sparsifier::rounds) of this.
    Rewire(Signals),
}

/// One change that the engine applies: survivors keep optimizer state, grown entries start with zero state.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Leave the target unchanged.
    Keep,
    /// A new topology; survivors keep their value. `grown` holds the initial value of every entry that is new, in
    /// the new topology's order; missing numbers are zero.
    ///
    /// For [`TargetKind::Units`] and [`TargetKind::Structure`] it has one row per existing unit or block, empty if that is removed,
    /// followed by one per new unit or block: the engine shrinks or extends the tensors of the axis.
    Rewire {
        /// The new topology.
        topology: Topology,
        /// Initial values of grown entries.
        grown: Vec<f32>,
    },
    /// A new topology and the value of every entry, in its order.
    Set {
        /// The new topology.
        topology: Topology,
        /// Values.
        values: Vec<f64>,
    },
    /// Factors the layer into two, x Wᵀ = (x Rᵀ) Lᵀ, if it is linear; elsewhere the weight becomes L R.
    Replace {
        /// L, `[rows, rank]`.
        left: Vec<f64>,
        /// R, `[rank, cols]`.
        right: Vec<f64>,
    },
}

/// A method at work in a training loop, or once over a trained model (`step` 0).
pub trait Sparsifier: Send {
    /// The initial topologies that a sparse start allocates instead of dense weights; `None` starts dense.
    fn initial_topologies(&self, _shapes: &[&Shape]) -> Result<Option<Vec<Topology>>> {
        Ok(None)
    }

    /// Kind of its targets.
    fn kind(&self) -> TargetKind {
        TargetKind::Weights
    }

    /// Refuses shapes that the method cannot work on, before anything is trained.
    fn check(&self, shapes: &[&Shape]) -> Result<()>;

    /// Plans `step`, before its optimizer step.
    fn plan(&self, step: u64) -> Plan;

    /// Rounds of plan and edits at a step that rewires, each measured on the result of the one before.
    fn rounds(&self, _step: u64) -> u32 {
        1
    }

    /// Zeros of target `index`, which has `topology`, whose gradient it needs at a step that asks for
    /// [`Signals::candidates`]. Positions that exist are skipped.
    fn candidates(&self, _step: u64, _index: usize, _topology: &Topology) -> Vec<u64> {
        Vec::new()
    }

    /// Accumulates statistics.
    fn observe(&mut self, _step: u64, _targets: &[Target]) {}

    /// Whether an edit depends on its own target alone. Then [`Sparsifier::rewire`] may get one target at a time, so no
    /// more than one layer is copied for it.
    fn layerwise(&self) -> bool {
        false
    }

    /// Fixes how many entries each target keeps at `step`, after which it is [layerwise](Sparsifier::layerwise); whether it could.
    /// `show` shows a target by its index, as often as needed, without signals.
    fn divide(&mut self, _step: u64, _shapes: &[&Shape], _show: &mut Show) -> Result<bool> {
        Ok(false)
    }

    /// Returns one edit per target.
    fn rewire(&mut self, step: u64, targets: &[Target]) -> Result<Vec<Edit>>;

    /// Whether to call [`Sparsifier::after_step`].
    fn proximal(&self) -> bool {
        false
    }

    /// Changes values after the optimizer step made at rate `lr`: the backward half of a proximal step.
    fn after_step(&mut self, _step: u64, _lr: f64, _targets: &mut [TargetMut]) {}

    /// State to be kept in a checkpoint besides the step; `Null` for a stateless method.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Restores what [`Sparsifier::state`] returned.
    fn restore(&mut self, _state: &Value) -> Result<()> {
        Ok(())
    }
}
