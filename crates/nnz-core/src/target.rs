use crate::{LayerRole, Topology};
use serde::{Deserialize, Serialize};

/// Name and extents of one target before any value exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Dotted parameter name, e.g. `fc1.weight`.
    pub name: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs (times kernel area for a convolution).
    pub cols: usize,
    /// Kernel height and width; `[1, 1]` for a matrix.
    pub kernel: [usize; 2],
    /// Whether it is the classifier at the end of the network.
    pub head: bool,
    /// What it does in the network.
    pub role: LayerRole,
}

impl Shape {
    /// A plain matrix of `rows` outputs and `cols` inputs.
    pub fn matrix(name: &str, rows: usize, cols: usize) -> Self {
        Self { name: name.into(), rows, cols, kernel: [1, 1], head: false, role: LayerRole::default() }
    }

    /// Entries, zero or not.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Inputs at one position of a kernel.
    pub fn channels(&self) -> usize {
        self.cols / self.kernel.iter().product::<usize>().max(1)
    }

    /// Whether it has no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Kind of entries that the targets of a method consist of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetKind {
    /// The entries of a weight matrix or kernel; a target is a layer.
    #[default]
    Weights,
    /// Neurons, filters, channels. A target is an axis, `[units, 1]`: every tensor that shares it is cut with it. A value
    /// is the Euclidean norm of the weights that make a unit, a gradient the sum of w ∂L/∂w over them.
    Units,
    /// Units as above and, after the axes, runs of residual blocks that preserve extents, `[blocks, 1]`. Both can
    /// lose and gain entries. A value is the norm of the weights that *carry the output* of a unit or block, those that read
    /// the unit or the last gains of the block; a gradient is the sum of w ∂L/∂w over them, which is ∂L/∂ ln g of a factor g
    /// on that output. A value changed after a step scales them.
    Structure,
    /// The edges of the graph that the data lie on; a target is its adjacency matrix, with value one everywhere.
    Edges,
}

/// Signals that a method asks the engine to measure before it is called.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Signals {
    /// Gradient of the loss at the existing entries.
    pub gradient: bool,
    /// The largest |gradient| among the zeros of each target, as many as this fraction of its nonzeros.
    /// Streamed by the engine; the dense gradient is never stored.
    pub zeros: f64,
    /// The Hessian of the loss times its gradient over all weights, with logits divided by this temperature.
    pub hessian_gradient: Option<f64>,
    /// The gradient of R = Σ outputs for an input of ones through |parameters|, divided by R. In 64 bits, without data.
    pub synaptic_flow: bool,
    /// The first and second moments of the inputs of the target of this index.
    pub gram: Option<usize>,
    /// The gradient at zeros that the method names ([`crate::Sparsifier::candidates`]), besides the largest ones and
    /// not counted among those.
    pub candidates: bool,
    /// The optimizer's running mean gradient of the existing entries.
    pub momentum: bool,
    /// Training rows to measure on; 0 means the batch of the step.
    pub rows: usize,
}

impl Signals {
    /// Weights and topology only.
    pub const NONE: Self = Self {
        gradient: false,
        zeros: 0.0,
        hessian_gradient: None,
        synaptic_flow: false,
        gram: None,
        candidates: false,
        momentum: false,
        rows: 0,
    };

    /// The gradient.
    pub const GRADIENT: Self = Self { gradient: true, ..Self::NONE };

    /// Union of both.
    pub fn and(self, other: Self) -> Self {
        Self {
            gradient: self.gradient || other.gradient,
            zeros: self.zeros.max(other.zeros),
            hessian_gradient: self.hessian_gradient.or(other.hessian_gradient),
            synaptic_flow: self.synaptic_flow || other.synaptic_flow,
            gram: self.gram.or(other.gram),
            candidates: self.candidates || other.candidates,
            momentum: self.momentum || other.momentum,
            rows: self.rows.max(other.rows),
        }
    }

    /// Whether anything must be measured.
    pub fn any(self) -> bool {
        self != Self::NONE
    }

    /// Whether a batch is needed.
    pub fn data(self) -> bool {
        Self { synaptic_flow: false, ..self }.any()
    }
}

/// A connection that does not exist, and the loss gradient it would have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Zero {
    /// `row * cols + col`.
    pub position: u64,
    /// Gradient of the loss.
    pub gradient: f32,
}

/// One set of scored entries, as shown to a method.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its position among the targets; keys its random streams.
    pub index: usize,
    /// Name and extent.
    pub shape: &'a Shape,
    /// Which entries exist.
    pub topology: &'a Topology,
    /// Their values, in the topology's order.
    pub values: &'a [f32],
    /// Their gradients; empty unless [`Signals::gradient`] was asked for.
    pub gradient: &'a [f32],
    /// The zeros of largest |gradient| and the candidates, descending, ties by position; empty unless [`Signals::zeros`] or
    /// [`Signals::candidates`] was asked for.
    pub zeros: &'a [Zero],
    /// Hessian times gradient at the entries; empty unless [`Signals::hessian_gradient`] was asked for.
    pub hessian_gradient: &'a [f32],
    /// ∂R/∂|w| / R at the entries; empty unless [`Signals::synaptic_flow`] was asked for.
    pub synaptic_flow: &'a [f32],
    /// Mean of x xᵀ over the rows measured, `[cols, cols]`; empty unless [`Signals::gram`] named this target.
    pub gram: &'a [f64],
    /// Mean of x over the same rows, `[cols]`; empty likewise.
    pub mean: &'a [f64],
    /// The optimizer's running mean gradient of the entries: SGD's momentum, or Adam's first moment over the root of its
    /// second; the gradient for optimizers without one. Empty unless [`Signals::momentum`] was asked for.
    pub momentum: &'a [f32],
    /// Multiply-adds of a forward pass of one row that each entry takes part in; of [`TargetKind::Structure`] only.
    pub cost: f64,
    /// Multiply-adds of a forward pass of one row through the whole network; of [`TargetKind::Structure`] only.
    pub whole: f64,
}

impl<'a> Target<'a> {
    /// Makes a target without signals.
    pub fn new(index: usize, shape: &'a Shape, topology: &'a Topology, values: &'a [f32]) -> Self {
        Self {
            index,
            shape,
            topology,
            values,
            gradient: &[],
            zeros: &[],
            hessian_gradient: &[],
            synaptic_flow: &[],
            gram: &[],
            mean: &[],
            momentum: &[],
            cost: 0.0,
            whole: 0.0,
        }
    }
}

/// One number computed from the weights of a network, for rooms that observe instead of changing anything.
pub trait Probe: Send + Sync {
    /// Computes the number from all weights, first layer first.
    fn probe(&self, weights: &[Target]) -> f64;
}

/// A target after an optimizer step; its values may be changed in place.
#[derive(Debug)]
pub struct TargetMut<'a> {
    /// Its position among the targets.
    pub index: usize,
    /// Name and extent.
    pub shape: &'a Shape,
    /// Which entries exist.
    pub topology: &'a Topology,
    /// Their values, in the topology's order.
    pub values: &'a mut [f64],
}
