//! What a method is shown of a network: names and extents of its targets.

use crate::axes::{Axis, axes};
use crate::structure::Part;
use crate::{Model, ModelSpec, Param, Real, Role};
use nnz_core::{Kind, Shape};

/// The shapes a method of a kind may change.
pub fn targets(spec: &ModelSpec, prune_head: bool, kind: Kind) -> Vec<Shape> {
    match kind {
        Kind::Weights => spec.weights().into_iter().filter(|s| prune_head || !s.head).collect(),
        Kind::Units => axes(spec).iter().map(Axis::shape).collect(),
        Kind::Structure => Part::all(spec).iter().map(Part::shape).collect(),
        Kind::Edges => {
            let edges = |s: &Shape| s.name.ends_with(".edges");
            spec.params().into_iter().filter(|p| p.role == Role::Structure).map(|p| p.shape).filter(edges).collect()
        }
    }
}

impl<T: Real> Model<T> {
    /// The parameters that are targets of a kind; none of units and structure, which are axes.
    pub(crate) fn places(&self, kind: Kind) -> Vec<usize> {
        let wanted = |p: &Param<T>| match kind {
            Kind::Weights => p.prunable,
            Kind::Edges => p.role == Role::Structure && p.shape.name.ends_with(".edges"),
            Kind::Units | Kind::Structure => false,
        };
        (0..self.params.len()).filter(|&i| wanted(&self.params[i])).collect()
    }

    /// Name and extent of the targets of a kind.
    pub fn targets(&self, kind: Kind) -> Vec<Shape> {
        match kind {
            Kind::Units => axes(&self.spec).iter().map(Axis::shape).collect(),
            Kind::Structure => Part::all(&self.spec).iter().map(Part::shape).collect(),
            _ => self.places(kind).into_iter().map(|i| self.params[i].shape.clone()).collect(),
        }
    }
}
