use super::pass::Step;
use crate::axes::{axes, strength};
use crate::param::Entries;
use crate::structure::Part;
use crate::{Model, Param, Real, Tensor};
use nnz_core::{Shape, Target, TargetKind, Topology, Zero};

/// A method's view of its targets.
pub(crate) struct Views<'a> {
    pub(super) parts: Vec<View<'a>>,
}

pub(super) struct View<'a> {
    pub shape: Shape,
    /// Of the parameter; the topology is that of the target.
    pub entries: Entries,
    values: Vec<f32>,
    gradient: Vec<f32>,
    zeros: &'a [Zero],
    hessian_gradient: Vec<f32>,
    synaptic_flow: Vec<f32>,
    gram: &'a [f64],
    mean: &'a [f64],
    momentum: Vec<f32>,
    cost: f64,
    whole: f64,
}

impl<'a> Views<'a> {
    pub fn new<T: Real>(model: &Model<T>, pass: &'a Step<T>, kind: TargetKind) -> Self {
        if matches!(kind, TargetKind::Units | TargetKind::Structure) {
            let gradient = |i: usize| pass.gradients.get(i).map_or_else(Vec::new, |g| model.params[i].entries(g));
            let view = |shape: Shape, [values, mut gradient]: [Vec<f64>; 2], cost: f64, whole: f64| {
                let narrow = |v: Vec<f64>| v.into_iter().map(|v| v as f32).collect();
                if pass.gradients.is_empty() {
                    gradient.clear();
                }
                let (hessian_gradient, synaptic_flow, momentum) = Default::default();
                let entries = Entries::all(Topology::full(shape.rows, 1));
                let (values, gradient) = (narrow(values), narrow(gradient));
                let (zeros, gram, mean): (&[Zero], &[f64], &[f64]) = Default::default();
                View {
                    shape,
                    entries,
                    values,
                    gradient,
                    zeros,
                    hessian_gradient,
                    synaptic_flow,
                    gram,
                    mean,
                    momentum,
                    cost,
                    whole,
                }
            };
            if kind == TargetKind::Units {
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
    pub fn at<T: Real>(model: &Model<T>, pass: &'a Step<T>, places: Vec<usize>) -> Self {
        Self { parts: places.into_iter().map(|i| View::of(&model.params[i], pass, i)).collect() }
    }

    /// Entries of the parameters; the rest is dropped.
    pub fn entries(self) -> Vec<Entries> {
        self.parts.into_iter().map(|v| v.entries).collect()
    }

    pub fn targets(&self) -> Vec<Target<'_>> {
        self.parts.iter().enumerate().map(|(index, view)| view.target(index)).collect()
    }
}

impl<'a> View<'a> {
    /// Of parameter `i`.
    pub fn of<T: Real>(p: &Param<T>, pass: &'a Step<T>, i: usize) -> Self {
        let rows = p.by_rows();
        let moments = pass.gram.as_ref().filter(|(at, _)| *at == i).map(|(_, m)| m);
        let of = |all: &[Tensor<T>]| all.get(i).map_or_else(Vec::new, |g| rows.narrow(g));
        let flow = pass.synaptic_flow.get(i).map_or_else(Vec::new, |g| rows.narrow(g));
        Self {
            shape: p.shape.clone(),
            values: rows.narrow(&p.value),
            gradient: of(&pass.gradients),
            zeros: pass.zeros.get(i).map_or(&[], Vec::as_slice),
            hessian_gradient: of(&pass.hessian_gradient),
            synaptic_flow: flow,
            gram: moments.map_or(&[], |m| &m.square),
            mean: moments.map_or(&[], |m| &m.first),
            momentum: of(&pass.momentum),
            entries: rows,
            cost: 0.0,
            whole: 0.0,
        }
    }

    pub fn target(&self, index: usize) -> Target<'_> {
        Target {
            index,
            shape: &self.shape,
            topology: &self.entries.topology,
            values: &self.values,
            gradient: &self.gradient,
            zeros: self.zeros,
            hessian_gradient: &self.hessian_gradient,
            synaptic_flow: &self.synaptic_flow,
            gram: self.gram,
            mean: self.mean,
            momentum: &self.momentum,
            cost: self.cost,
            whole: self.whole,
        }
    }
}
