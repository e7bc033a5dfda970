use super::pass::Step;
use crate::axes::{axes, strength};
use crate::param::Entries;
use crate::structure::Part;
use crate::{Model, Real};
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
    pub fn new<T: Real>(model: &'a Model<T>, pass: &'a Step<T>, kind: TargetKind) -> Self {
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
    pub fn at<T: Real>(model: &'a Model<T>, pass: &'a Step<T>, places: Vec<usize>) -> Self {
        let view = |i: usize| {
            let p = &model.params[i];
            let rows = p.by_rows();
            let moments = pass.gram.as_ref().filter(|(at, _)| *at == i).map(|(_, m)| m);
            View {
                shape: p.shape.clone(),
                values: rows.narrow(&p.value),
                gradient: pass.gradients.get(i).map_or_else(Vec::new, |g| rows.narrow(g)),
                zeros: pass.zeros.get(i).map_or(&[], Vec::as_slice),
                hessian_gradient: pass.hessian_gradient.get(i).map_or_else(Vec::new, |g| rows.narrow(g)),
                synaptic_flow: pass.synaptic_flow.get(i).map_or_else(Vec::new, |g| rows.narrow(g)),
                gram: moments.map_or(&[], |m| &m.square),
                mean: moments.map_or(&[], |m| &m.first),
                momentum: pass.momentum.get(i).map_or_else(Vec::new, |g| rows.narrow(g)),
                entries: rows,
                cost: 0.0,
                whole: 0.0,
            }
        };
        Self { parts: places.into_iter().map(view).collect() }
    }

    /// Entries of the parameters; the rest is dropped.
    pub fn entries(self) -> Vec<Entries> {
        self.parts.into_iter().map(|v| v.entries).collect()
    }

    pub fn targets(&self) -> Vec<Target<'_>> {
        let parts = self.parts.iter().enumerate();
        parts
            .map(|(index, v)| Target {
                index,
                shape: &v.shape,
                topology: &v.entries.topology,
                values: &v.values,
                gradient: &v.gradient,
                zeros: v.zeros,
                hessian_gradient: &v.hessian_gradient,
                synaptic_flow: &v.synaptic_flow,
                gram: v.gram,
                mean: v.mean,
                momentum: &v.momentum,
                cost: v.cost,
                whole: v.whole,
            })
            .collect()
    }
}
