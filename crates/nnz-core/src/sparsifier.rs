use crate::subject::Show;
use crate::{Result, Shape, Signals, Target, TargetKind, TargetMut, Topology};
use serde_json::Value;

/// What a method wants from the engine at one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Plan {
    /// Nothing: topologies stay, nothing is measured.
    Rest,
    /// Measure these during the step and call [`Sparsifier::observe`].
    Observe(Signals),
    /// Measure these, call [`Sparsifier::rewire`] and apply its edits. A step whose batch was spent on measuring
    /// gradients makes no optimizer step (RigL, algorithm 1).
    ///
    /// One step may have several [rounds](Sparsifier::rounds) of this.
    Rewire(Signals),
}

/// One change the engine applies: survivors keep optimizer state, newborns start with zero state.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Leave the target as it is.
    Keep,
    /// A new topology; survivors keep their value. `grown` has the first value of every entry the old topology did not have, in
    /// the new topology's order; missing numbers are zero.
    ///
    /// For [`TargetKind::Units`] and [`TargetKind::Structure`] it has a row for each unit or block there is, which is empty where it goes, and
    /// behind them one for each that is new: the engine cuts the tensors of the axis, or makes them larger.
    Rewire {
        /// What exists from now on.
        topology: Topology,
        /// First values of newborns.
        grown: Vec<f32>,
    },
    /// A new topology and the value of every entry, in its order.
    Set {
        /// What exists from now on.
        topology: Topology,
        /// Values.
        values: Vec<f64>,
    },
    /// The layer becomes two, x Wᵀ = (x Rᵀ) Lᵀ, where it is a linear one, and keeps L R elsewhere.
    Replace {
        /// L, `[rows, rank]`.
        left: Vec<f64>,
        /// R, `[rank, cols]`.
        right: Vec<f64>,
    },
}

/// A method at work in a training loop, or once over a trained model (`step` 0).
pub trait Sparsifier: Send {
    /// The topologies a sparse start allocates instead of dense weights; `None` starts dense.
    fn initial_topologies(&self, _shapes: &[&Shape]) -> Result<Option<Vec<Topology>>> {
        Ok(None)
    }

    /// What its targets are sets of.
    fn kind(&self) -> TargetKind {
        TargetKind::Weights
    }

    /// Refuses shapes the method cannot work on, before anything is trained.
    fn check(&self, shapes: &[&Shape]) -> Result<()>;

    /// What to do at `step`, before its optimizer step.
    fn plan(&self, step: u64) -> Plan;

    /// How often plan and edits follow each other at a step that rewires, each round measured on what the last one left.
    fn rounds(&self, _step: u64) -> u32 {
        1
    }

    /// Zeros of target `index`, which has `topology`, whose gradient it wants at a step that asks for
    /// [`Signals::candidates`]. Positions that exist are passed over.
    fn candidates(&self, _step: u64, _index: usize, _topology: &Topology) -> Vec<u64> {
        Vec::new()
    }

    /// Accumulates statistics.
    fn observe(&mut self, _step: u64, _targets: &[Target]) {}

    /// Whether an edit depends on its own target alone. Then [`Sparsifier::rewire`] may be given one target at a time, so that no
    /// more than one layer is copied for it.
    fn layerwise(&self) -> bool {
        false
    }

    /// Fixes how many entries each target keeps at `step`, after which it is [layerwise](Sparsifier::layerwise); whether it could.
    /// `show` shows a target by its index, as often as needed, without signals.
    fn divide(&mut self, _step: u64, _shapes: &[&Shape], _show: &mut Show) -> Result<bool> {
        Ok(false)
    }

    /// One edit for each target.
    fn rewire(&mut self, step: u64, targets: &[Target]) -> Result<Vec<Edit>>;

    /// Whether [`Sparsifier::after_step`] wants to be called.
    fn proximal(&self) -> bool {
        false
    }

    /// Changes values behind the optimizer step made at rate `lr`: the backward half of a proximal step.
    fn after_step(&mut self, _step: u64, _lr: f64, _targets: &mut [TargetMut]) {}

    /// What a checkpoint must hold besides the step; `Null` for a method without memory.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Takes back what [`Sparsifier::state`] gave.
    fn restore(&mut self, _state: &Value) -> Result<()> {
        Ok(())
    }
}
