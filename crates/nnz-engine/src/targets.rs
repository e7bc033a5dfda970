//! Targets of a method in a network: names and extents.

use crate::axes::{Axis, axes};
use crate::structure::Part;
use crate::{Model, ModelSpec, Param, Real, Role};
use nnz_core::{LayerRole, Prunable, Shape, TargetKind};

/// Shapes that a method of a kind may change.
pub fn targets(spec: &ModelSpec, prunable: impl Into<Prunable>, kind: TargetKind) -> Vec<Shape> {
    let prunable = prunable.into();
    match kind {
        TargetKind::Weights => spec.weights().into_iter().filter(|s| prunable.takes(s)).collect(),
        TargetKind::Units => axes(spec).iter().map(Axis::shape).collect(),
        TargetKind::Structure => Part::all(spec).iter().map(Part::shape).collect(),
        TargetKind::Edges => {
            let edges = |s: &Shape| s.role == LayerRole::Edges;
            spec.params().into_iter().filter(|p| p.role == Role::Structure).map(|p| p.shape).filter(edges).collect()
        }
    }
}

impl<T: Real> Model<T> {
    /// Indices of parameters that are targets of a kind; none for units and structure, which are axes.
    pub(crate) fn places(&self, kind: TargetKind) -> Vec<usize> {
        let wanted = |p: &Param<T>| match kind {
            TargetKind::Weights => p.prunable,
            TargetKind::Edges => p.role == Role::Structure && p.shape.role == LayerRole::Edges,
            TargetKind::Units | TargetKind::Structure => false,
        };
        (0..self.params.len()).filter(|&i| wanted(&self.params[i])).collect()
    }

    /// Name and extent of the targets of a kind.
    pub fn targets(&self, kind: TargetKind) -> Vec<Shape> {
        match kind {
            TargetKind::Units => axes(&self.spec).iter().map(Axis::shape).collect(),
            TargetKind::Structure => Part::all(&self.spec).iter().map(Part::shape).collect(),
            _ => self.places(kind).into_iter().map(|i| self.params[i].shape.clone()).collect(),
        }
    }
}
