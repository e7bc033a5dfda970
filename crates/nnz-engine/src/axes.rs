//! Axes of units, and the tensors that share them.
//!
//! An axis begins where a layer makes its outputs, runs through everything that works unit by unit, and ends where the
//! next layers read it. Both branches of a residual block end in one axis. Inputs and outputs of the network, and axes
//! that run into a layer that mixes units in its own way (attention, recurrence, layer norm, groups) stay whole.

use crate::Real;
use crate::layers::{Layer, LayerSpec};
use crate::param::Along;
use crate::{Model, ModelSpec, Param};
use nnz_core::Shape;

/// Units that are cut together.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// The first layer whose outputs form it.
    pub name: String,
    /// Number of units.
    pub units: usize,
    /// Parameters that have it.
    pub(crate) members: Vec<(usize, Along)>,
}

impl Axis {
    /// The axis as a target: one entry per unit.
    pub fn shape(&self) -> Shape {
        Shape::matrix(&self.name, self.units, 1)
    }
}

struct Node {
    axis: Axis,
    /// Node it was merged with.
    tied: Option<usize>,
    whole: bool,
}

struct Walk {
    nodes: Vec<Node>,
    /// Index of the next parameter.
    at: usize,
}

impl Walk {
    fn node(&mut self, name: &str, units: usize, whole: bool) -> usize {
        let axis = Axis { name: name.into(), units, members: Vec::new() };
        self.nodes.push(Node { axis, tied: None, whole });
        self.nodes.len() - 1
    }

    fn root(&self, mut i: usize) -> usize {
        while let Some(next) = self.nodes[i].tied {
            i = next;
        }
        i
    }

    fn tie(&mut self, a: usize, b: usize) -> usize {
        let (a, b) = (self.root(a), self.root(b));
        let (first, second) = (a.min(b), a.max(b));
        if first != second {
            self.nodes[second].tied = Some(first);
            self.nodes[first].whole |= self.nodes[second].whole;
            let members = std::mem::take(&mut self.nodes[second].axis.members);
            self.nodes[first].axis.members.extend(members);
        }
        first
    }

    fn join(&mut self, node: usize, param: usize, along: Along) {
        let root = self.root(node);
        self.nodes[root].axis.members.push((param, along));
    }

    /// Returns the axis after a layer that reads axis `x`, with the shape `input`.
    fn layer(&mut self, layer: &LayerSpec, x: usize) -> usize {
        let (first, params) = (self.at, layer.params());
        let units = self.nodes[self.root(x)].axis.units;
        if let LayerSpec::Residual(r) = layer {
            let ends = [&r.body, &r.shortcut].map(|chain| chain.iter().fold(x, |x, l| self.layer(l, x)));
            return self.tie(ends[0], ends[1]);
        }
        self.at += params.len();
        let groups = match layer {
            LayerSpec::Conv1d(c) => c.groups,
            LayerSpec::Conv2d(c) => c.groups,
            LayerSpec::Conv3d(c) => c.groups,
            _ => 1,
        };
        let name = layer.name().unwrap_or_default();
        match layer {
            LayerSpec::Linear(_) | LayerSpec::Conv1d(_) | LayerSpec::Conv2d(_) | LayerSpec::Conv3d(_)
                if groups == 1 && params[0].shape.cols.is_multiple_of(units) =>
            {
                self.join(x, first, Along::Cols);
                let y = self.node(name, params[0].shape.rows, false);
                self.join(y, first, Along::Rows);
                (1..params.len()).for_each(|i| self.join(y, first + i, Along::Entries));
                y
            }
            LayerSpec::BatchNorm(_) => {
                (0..params.len()).for_each(|i| self.join(x, first + i, Along::Entries));
                x
            }
            LayerSpec::Relu(_)
            | LayerSpec::Activation(_)
            | LayerSpec::AllRelu(_)
            | LayerSpec::MaxPool(_)
            | LayerSpec::AvgPool(_)
            | LayerSpec::GlobalAvgPool(_)
            | LayerSpec::Flatten(_)
            | LayerSpec::Dropout(_)
            | LayerSpec::Upsample(_) => x,
            LayerSpec::Open(layer) if layer.unitwise() => x,
            _ => {
                let root = self.root(x);
                self.nodes[root].whole = true;
                let units = params.iter().map(|p| p.shape.rows).max().unwrap_or(units);
                self.node(name, units, true)
            }
        }
    }
}

/// The axes whose units can be cut, in the order of the layers that make them.
pub fn axes(spec: &ModelSpec) -> Vec<Axis> {
    let mut walk = Walk { nodes: Vec::new(), at: 0 };
    let input = walk.node("input", spec.input[0].max(1), true);
    let last = spec.layers.iter().fold(input, |x, l| walk.layer(l, x));
    let last = walk.root(last);
    walk.nodes[last].whole = true;
    let free = |n: &Node| n.tied.is_none() && !n.whole;
    walk.nodes.into_iter().filter(free).map(|n| n.axis).collect()
}

/// Euclidean norm of the weights that make each unit, and the sum of w g over them; `entries[i]` are the gradients of
/// parameter `i` row by row, or empty.
pub(crate) fn strength<T: Real>(model: &Model<T>, axis: &Axis, gradient: impl Fn(usize) -> Vec<T>) -> [Vec<f64>; 2] {
    let (mut squares, mut slopes) = (vec![0.0f64; axis.units], vec![0.0; axis.units]);
    for &(i, _) in axis.members.iter().filter(|m| m.1 == Along::Rows) {
        let p = &model.params[i];
        let rows = p.by_rows();
        let (values, gradient) = (rows.of(&p.value), gradient(i));
        for r in 0..axis.units {
            for k in rows.topology.starts()[r]..rows.topology.starts()[r + 1] {
                squares[r] += values[k].f64().powi(2);
                slopes[r] += gradient.get(k).map_or(0.0, |g| values[k].f64() * g.f64());
            }
        }
    }
    [squares.into_iter().map(f64::sqrt).collect(), slopes]
}

/// Sets the widths of layers to those of their parameters.
pub(crate) fn refit<'a, T: Real + 'a>(layers: &mut [LayerSpec], params: &mut impl Iterator<Item = &'a Param<T>>) {
    for layer in layers {
        if let LayerSpec::Residual(r) = layer {
            refit(&mut r.body, params);
            refit(&mut r.shortcut, params);
            continue;
        }
        let count = layer.params().len();
        let own: Vec<&Param<T>> = params.by_ref().take(count).collect();
        let Some(first) = own.first() else { continue };
        let (rows, cols) = (first.shape.rows, first.shape.cols);
        let area = first.shape.kernel[0] * first.shape.kernel[1];
        match layer {
            LayerSpec::Linear(l) => (l.outputs, l.inputs) = (rows, cols),
            LayerSpec::Conv1d(c) if c.groups == 1 => (c.outputs, c.inputs) = (rows, cols / area),
            LayerSpec::Conv2d(c) if c.groups == 1 => (c.outputs, c.inputs) = (rows, cols / area),
            LayerSpec::Conv3d(c) if c.groups == 1 => (c.outputs, c.inputs) = (rows, cols / area),
            LayerSpec::BatchNorm(n) => n.channels = rows,
            _ => {}
        }
    }
}

/// Splits the linear layer of parameter `at` in two, [`nnz_core::Edit::Replace`]; `false` if it is not a linear layer.
pub(crate) fn split(layers: &mut Vec<LayerSpec>, at: usize, rank: usize) -> bool {
    fn walk(layers: &mut Vec<LayerSpec>, next: &mut usize, at: usize, rank: usize) -> bool {
        for i in 0..layers.len() {
            if let LayerSpec::Residual(r) = &mut layers[i] {
                if walk(&mut r.body, next, at, rank) || walk(&mut r.shortcut, next, at, rank) {
                    return true;
                }
                continue;
            }
            if *next == at
                && let LayerSpec::Linear(l) = &layers[i]
            {
                let (mut first, mut second) = (l.clone(), l.clone());
                (first.name, second.name) = (format!("{}.right", l.name), format!("{}.left", l.name));
                (first.outputs, first.bias, second.inputs) = (rank, false, rank);
                layers.splice(i..=i, [first.into(), second.into()]);
                return true;
            }
            *next += layers[i].params().len();
        }
        false
    }
    walk(layers, &mut 0, at, rank)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::structure::{Fresh, Whole};
    use crate::{Storage, Tensor};

    #[test]
    fn residual_ways_share_their_axis() {
        let spec = ModelSpec::parse("resnet20", [3, 8, 8], 10).unwrap();
        let axes = axes(&spec);
        // A stage has one axis for its stream and one inside each of its three blocks.
        assert_eq!(axes.iter().map(|a| a.units).collect::<Vec<_>>(), [vec![16; 4], vec![32; 4], vec![64; 4]].concat());
        let params = spec.params();
        let makers = |a: &Axis| a.members.iter().filter(|m| m.1 == Along::Rows).count();
        // conv1 and three blocks end in the first stream; a shortcut and three blocks in the others.
        assert_eq!(axes.iter().map(makers).collect::<Vec<_>>(), [4, 1, 1, 1, 1, 4, 1, 1, 1, 4, 1, 1]);
        for a in &axes {
            for &(i, along) in &a.members {
                let s = &params[i].shape;
                let extent = if along == Along::Cols { s.cols / (s.kernel[0] * s.kernel[1]) } else { s.rows };
                assert_eq!(extent, a.units, "{} {along:?} on {}", s.name, a.name);
            }
        }
        let transformer = ModelSpec::parse("transformer:16-1-2-4", [1, 8, 8], 10).unwrap();
        assert!(super::axes(&transformer).iter().all(|a| a.name.ends_with("up")), "only hidden units are free");
    }

    /// A unit whose outgoing weights are zero has no effect: without it the network computes the same.
    #[test]
    fn cutting_an_unread_unit_changes_nothing() {
        for text in ["resnet8", "lenet5", "vgg-small"] {
            let spec = ModelSpec::parse(text, [1, 16, 16], 10).unwrap();
            let mut model: Model<f64> = Model::born(&spec, None, Storage::Auto, false, 3).unwrap();
            let input = Tensor::new(&[2, 256], (0..512).map(|i| f64::from(i % 37) / 37.0).collect());
            for index in 0..axes(&spec).len() {
                let axis = axes(&model.spec).swap_remove(index);
                let keep: Vec<bool> = (0..axis.units).map(|u| u % 3 != 1).collect();
                for &(i, _) in axis.members.iter().filter(|m| m.1 == Along::Cols) {
                    let p = &mut model.params[i];
                    let dead = |j: &usize| !keep[j % p.shape.cols % axis.units];
                    let dead: Vec<usize> = (0..p.value.len()).filter(dead).collect();
                    dead.into_iter().for_each(|j| p.value.data_mut()[j] = 0.0);
                }
                let before = model.infer(input.clone()).unwrap();
                let entries = model.nonzeros();
                let fresh = Fresh { seed: 0, step: 0 };
                let storage = Storage::Auto.into();
                let mut whole = Whole { model: &mut model, optimizer: None, average: None, storage, fresh };
                let moved = whole.resize(&axis, &keep, 0).unwrap();
                assert_eq!((model.nonzeros() + moved.pruned, moved.grown), (entries, 0));
                assert!(moved.pruned > 0);
                model.spec.check(10).unwrap();
                assert_eq!(model.spec.entries(), model.nonzeros(), "the layers say what the tensors are");
                let after = model.infer(input.clone()).unwrap();
                let far = before.data().iter().zip(after.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(far < 1e-9, "{text} {}: {far}", axis.name);
            }
        }
    }
}
