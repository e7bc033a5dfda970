//! Axes of units, and the tensors that share them.
//!
//! An axis begins where a layer makes its outputs, runs through everything that works unit by unit, and ends where the
//! next layers read it. Both branches of a residual block end in one axis. Inputs and outputs of the network, and axes
//! that run into a layer that mixes units in its own way (attention, recurrence, layer norm, groups) stay whole. A layer of
//! another crate says itself which axes are inside it.

use crate::Real;
use crate::layers::{Layer, LayerSpec};
use crate::param::Along;
use crate::{Error, Model, ModelSpec, Param, Result};
use nnz_core::{Shape, Topology};

/// Units that are cut together.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// The first layer whose outputs form it.
    pub name: String,
    /// Number of units.
    pub units: usize,
    /// Parameters that have it, each along a dimension once.
    pub members: Vec<Member>,
    /// The first parameter of the layer of another crate that it is inside of.
    inside: Option<usize>,
}

/// A parameter that has an axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its index.
    pub param: usize,
    /// The dimension.
    pub along: Along,
    /// Whether its entries make the units, such as the rows of a matrix, or read them.
    pub makes: bool,
    /// Where the units lie along the dimension; they do not overlap.
    pub spans: Vec<Span>,
}

/// Places of units along a dimension: place `i` belongs to unit `(i % period - offset) / each`, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// After as many places the units begin again.
    pub period: usize,
    /// Places of the period before the first unit.
    pub offset: usize,
    /// Places in a row that are one unit.
    pub each: usize,
}

impl Axis {
    /// An axis of a layer of another crate; `members` are its own parameters, counted from zero.
    pub fn new(name: &str, units: usize, members: Vec<Member>) -> Self {
        Self { name: name.into(), units, members, inside: None }
    }

    /// The axis as a target: one entry per unit.
    pub fn shape(&self) -> Shape {
        Shape::matrix(&self.name, self.units, 1)
    }

    /// Its places after another axis lost units, of which `kept` are left.
    pub(crate) fn follow(&mut self, other: &Self, kept: usize) {
        for own in &mut self.members {
            let Some(gone) = other.members.iter().find(|m| (m.param, m.along) == (own.param, own.along)) else {
                continue;
            };
            let lost = |s: &Span| (other.units - kept) * s.each;
            for span in &mut own.spans {
                let before = gone.spans.iter().filter(|s| s.offset < span.offset).map(lost).sum::<usize>();
                span.offset -= before;
                span.period -= gone.spans.iter().map(lost).sum::<usize>();
            }
        }
    }
}

impl Member {
    /// The unit at a place along the dimension.
    pub(crate) fn unit(&self, place: usize, units: usize) -> Option<usize> {
        self.spans.iter().find_map(|s| Some((place % s.period).checked_sub(s.offset)? / s.each).filter(|&u| u < units))
    }

    /// The unit of every entry of the parameter.
    pub(crate) fn units<'t>(
        &'t self,
        topology: &'t Topology,
        units: usize,
    ) -> impl Iterator<Item = Option<usize>> + 't {
        let (starts, columns) = (topology.starts(), topology.columns());
        (0..topology.rows()).flat_map(move |r| {
            columns[starts[r]..starts[r + 1]].iter().map(move |&c| match self.along {
                Along::Cols => self.unit(c as usize, units),
                Along::Rows => self.unit(r, units),
                Along::Entries => self.unit(r * topology.cols() + c as usize, units),
            })
        })
    }

    /// Whether its weights read the units.
    pub(crate) fn reads(&self) -> bool {
        !self.makes && self.along != Along::Entries
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
        self.nodes.push(Node { axis: Axis::new(name, units, Vec::new()), tied: None, whole });
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
        let axis = &mut self.nodes[root].axis;
        let spans = vec![Span { period: axis.units, offset: 0, each: 1 }];
        axis.members.push(Member { param, along, makes: along == Along::Rows, spans });
    }

    /// Returns the axis after a layer that reads axis `x`, of values of the shape `input`, where that is known.
    fn layer(&mut self, layer: &LayerSpec, x: usize, input: Option<&[usize]>) -> usize {
        let (first, params) = (self.at, layer.params());
        let units = self.nodes[self.root(x)].axis.units;
        if let LayerSpec::Residual(r) = layer {
            let ends = [&r.body, &r.shortcut].map(|chain| chain.iter().fold(x, |x, l| self.layer(l, x, None)));
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
                if let (LayerSpec::Open(layer), Some(input)) = (layer, input) {
                    for mut axis in layer.axes(input) {
                        axis.members.iter_mut().for_each(|m| m.param += first);
                        axis.inside = Some(first);
                        self.nodes.push(Node { axis, tied: None, whole: false });
                    }
                }
                let units = params.iter().map(|p| p.shape.rows).max().unwrap_or(units);
                self.node(name, units, true)
            }
        }
    }
}

/// The axes whose units can be cut, in the order of the layers that make them.
pub fn axes(spec: &ModelSpec) -> Vec<Axis> {
    let mut walk = Walk { nodes: Vec::new(), at: 0 };
    let [c, h, w] = spec.input;
    let mut last = walk.node("input", c.max(1), true);
    let mut shape = Some(vec![h, w, c]);
    for layer in &spec.layers {
        last = walk.layer(layer, last, shape.as_deref());
        shape = shape.and_then(|s| layer.output(&s).ok());
    }
    let last = walk.root(last);
    walk.nodes[last].whole = true;
    let free = |n: &Node| n.tied.is_none() && !n.whole;
    walk.nodes.into_iter().filter(free).map(|n| n.axis).collect()
}

/// Layers of other crates without the units that their axes lose, with their places in the chain. `changes` say for each axis which
/// units stay and how many are new.
///
/// # Errors
/// When such a layer gains units, or cannot do without.
pub(crate) fn cut(spec: &ModelSpec, axes: &[Axis], changes: &[(Vec<bool>, usize)]) -> Result<Vec<(usize, LayerSpec)>> {
    let [c, h, w] = spec.input;
    let (mut shape, mut at, mut all) = (vec![h, w, c], 0, Vec::new());
    for (i, layer) in spec.layers.iter().enumerate() {
        let own: Vec<_> = axes.iter().zip(changes).filter(|(a, _)| a.inside == Some(at)).collect();
        at += layer.params().len();
        let after = layer.output(&shape).unwrap_or_default();
        let input = std::mem::replace(&mut shape, after);
        if let Some((axis, _)) = own.iter().find(|(_, c)| c.1 > 0) {
            return Err(Error::Refused(format!(
                "`{}` is inside a network of another program, which loses units but gains none; take a method that only cuts",
                axis.name
            )));
        }
        if let (LayerSpec::Open(open), true) = (layer, own.iter().any(|(_, c)| c.0.contains(&false))) {
            let keep: Vec<Vec<bool>> = own.iter().map(|(_, c)| c.0.clone()).collect();
            let smaller = open.cut(&input, &keep).map_err(Error::Refused)?;
            all.push((i, smaller.into()));
        }
    }
    Ok(all)
}

/// Euclidean norm of the weights that make each unit, and the sum of w g over them; `entries[i]` are the gradients of
/// parameter `i` row by row, or empty.
pub(crate) fn strength<T: Real>(model: &Model<T>, axis: &Axis, gradient: impl Fn(usize) -> Vec<T>) -> [Vec<f64>; 2] {
    let (mut squares, mut slopes) = (vec![0.0f64; axis.units], vec![0.0; axis.units]);
    for m in axis.members.iter().filter(|m| m.makes) {
        let p = &model.params[m.param];
        let rows = p.by_rows();
        let (values, gradient) = (rows.of(&p.value), gradient(m.param));
        for (k, unit) in m.units(&rows.topology, axis.units).enumerate() {
            let Some(u) = unit else { continue };
            squares[u] += values[k].f64().powi(2);
            slopes[u] += gradient.get(k).map_or(0.0, |g| values[k].f64() * g.f64());
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
        let makers = |a: &Axis| a.members.iter().filter(|m| m.makes).count();
        // conv1 and three blocks end in the first stream; a shortcut and three blocks in the others.
        assert_eq!(axes.iter().map(makers).collect::<Vec<_>>(), [4, 1, 1, 1, 1, 4, 1, 1, 1, 4, 1, 1]);
        for a in &axes {
            for m in &a.members {
                let s = &params[m.param].shape;
                let extent = if m.along == Along::Cols { s.cols / (s.kernel[0] * s.kernel[1]) } else { s.rows };
                assert_eq!(extent, a.units, "{} {:?} on {}", s.name, m.along, a.name);
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
                for m in axis.members.iter().filter(|m| m.along == Along::Cols) {
                    let p = &mut model.params[m.param];
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
