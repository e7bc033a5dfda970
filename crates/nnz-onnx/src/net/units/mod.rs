//! Axes of units in a graph: which extents of which weights are cut together.
//!
//! Every extent of a value is a row of parts, and each part has the units of one node, `each` places in a row for a unit. An
//! extent of a weight begins as one part of a node of its own; every step ties the nodes whose units must go together, splits one
//! where another begins inside of it, or holds those that it mixes. What is neither held nor tied to what is held can be cut.

mod cut;
mod rules;

use super::plan::{Plan, Source, Step};
use crate::value::Value;
use nnz_engine::{Along, Axis, Member, Role, Span};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Most copies of an axis that lie behind one another in an extent, such as at each pixel of an image with channels last.
const COPIES: usize = 256;

/// The units of a node along an extent.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Part {
    node: usize,
    /// Places in a row for one unit.
    each: usize,
}

type Extent = Vec<Part>;
type Extents = Vec<Extent>;

#[derive(Debug)]
struct Node {
    units: usize,
    /// The parts of other nodes that it was found to be.
    is: Option<Extent>,
    /// Why its units stay; empty where nobody would expect them to go.
    held: Option<String>,
}

/// A number of a node that is an extent.
#[derive(Clone, Debug)]
struct Said {
    /// The node, by its first output.
    reader: String,
    place: Place,
    extent: Extent,
    /// Places of the extent that count as one.
    share: usize,
}

#[derive(Clone, Debug)]
enum Place {
    /// Of the whole numbers of a constant input.
    Entry(usize, usize),
    /// An attribute.
    Int(&'static str),
    /// One of the numbers of an attribute.
    Ints(&'static str, usize),
}

/// What can be cut from a graph.
#[derive(Debug)]
pub(super) struct Found {
    pub axes: Vec<Axis>,
    /// Weights whose outputs stay whole, by the reason.
    pub held: BTreeMap<String, Vec<String>>,
    /// Units of each node, and the axis that they are.
    nodes: Vec<(usize, Option<usize>)>,
    /// Extents of each weight, in ONNX's order.
    weights: Vec<Extents>,
    constants: Vec<Operand>,
    said: Vec<Said>,
}

/// A constant, as one node reads it.
#[derive(Clone, Debug)]
struct Operand {
    /// The node, by its first output.
    reader: String,
    input: usize,
    extents: Extents,
    /// Its numbers, if other nodes compute them.
    computed: Option<Value>,
}

struct Walk<'p> {
    plan: &'p Plan,
    shapes: &'p [Option<Vec<usize>>],
    nodes: Vec<Node>,
    weights: Vec<Extents>,
    /// Axes of weights along which their outputs lie.
    makes: HashSet<(usize, usize)>,
    values: HashMap<usize, Extents>,
    /// The step that computes a value.
    makers: HashMap<usize, &'p Step>,
    constants: Vec<Operand>,
    said: Vec<Said>,
}

/// Finds the axes of a graph whose values have these shapes.
pub(super) fn find(plan: &Plan, shapes: &[Option<Vec<usize>>]) -> Found {
    let mut walk = Walk {
        plan,
        shapes,
        nodes: Vec::new(),
        weights: Vec::new(),
        makes: HashSet::new(),
        values: HashMap::new(),
        makers: HashMap::new(),
        constants: Vec::new(),
        said: Vec::new(),
    };
    for w in &plan.weights {
        let extents = w.dims.iter().map(|&d| walk.extent(d)).collect();
        walk.weights.push(extents);
        if w.spec.role == Role::Table {
            walk.hold_all(&walk.weights[walk.weights.len() - 1].clone(), "they belong to a table");
        }
    }
    let input = walk.still(plan.from);
    walk.values.insert(plan.from, input);
    for step in &plan.steps {
        walk.step(step);
        step.outputs.iter().flatten().for_each(|&slot| _ = walk.makers.insert(slot, step));
    }
    let ends =
        std::iter::once((plan.to, "")).chain(plan.aside.iter().map(|&s| (s, "a node reads them that no answer needs")));
    for (slot, why) in ends {
        let extents = match plan.sources[slot] {
            Source::Weight(w, _) => Some(walk.weights[w].clone()),
            _ => walk.values.get(&slot).cloned(),
        };
        walk.hold_all(&extents.unwrap_or_default(), why);
    }
    walk.finish()
}

impl Walk<'_> {
    /// An extent of a new node.
    fn extent(&mut self, units: usize) -> Extent {
        self.nodes.push(Node { units, is: None, held: None });
        vec![Part { node: self.nodes.len() - 1, each: 1 }]
    }

    /// One that stays.
    fn fixed(&mut self, units: usize) -> Extent {
        self.nodes.push(Node { units, is: None, held: Some(String::new()) });
        vec![Part { node: self.nodes.len() - 1, each: 1 }]
    }

    /// Extents of a value that stay.
    fn still(&mut self, slot: usize) -> Extents {
        let shape = self.shapes[slot].clone().unwrap_or_default();
        shape.into_iter().map(|d| self.fixed(d)).collect()
    }

    fn len(&self, extent: &[Part]) -> usize {
        extent.iter().map(|p| self.nodes[p.node].units * p.each).sum()
    }

    /// Its parts of nodes that are no others.
    fn resolved(&self, extent: &[Part]) -> Extent {
        let mut open: Extent = extent.iter().rev().copied().collect();
        let mut out = Vec::with_capacity(open.len());
        while let Some(part) = open.pop() {
            match &self.nodes[part.node].is {
                Some(is) => open.extend(is.iter().rev().map(|p| Part { node: p.node, each: p.each * part.each })),
                None => out.push(part),
            }
        }
        out
    }

    fn held(&self, extent: &[Part]) -> bool {
        self.resolved(extent).iter().all(|p| self.nodes[p.node].held.is_some())
    }

    fn hold(&mut self, extent: &[Part], why: &str) {
        for part in self.resolved(extent) {
            let held = &mut self.nodes[part.node].held;
            if held.as_ref().is_none_or(String::is_empty) {
                *held = Some(why.into());
            }
        }
    }

    fn hold_all(&mut self, extents: &[Extent], why: &str) {
        extents.iter().for_each(|e| self.hold(e, why));
    }

    /// Makes a node what these parts are.
    fn equate(&mut self, node: usize, is: Extent) {
        if let Some(why) = self.nodes[node].held.clone() {
            self.hold(&is, &why);
        }
        self.nodes[node].is = Some(is);
    }

    /// Splits the units of a part so that it ends after `places`; whether it can.
    fn split(&mut self, part: Part, places: usize) -> bool {
        let units = self.nodes[part.node].units;
        let first = places / part.each;
        if !places.is_multiple_of(part.each) || first == 0 || first >= units {
            return false;
        }
        let is = [self.extent(first), self.extent(units - first)].concat();
        self.equate(part.node, is);
        true
    }

    /// Makes every unit of a node as many of one of a new node, if they go into it; whether they do.
    fn widen(&mut self, node: usize, by: usize) -> bool {
        let units = self.nodes[node].units;
        if by == 0 || !units.is_multiple_of(by) {
            return false;
        }
        let wide = self.extent(units / by)[0].node;
        self.equate(node, vec![Part { node: wide, each: by }]);
        true
    }

    /// Ties extents whose places must stay or go together.
    fn tie(&mut self, a: &[Part], b: &[Part]) {
        let why = "their units do not go together where they meet";
        let mut a: Extent = self.resolved(a).into_iter().rev().collect();
        let mut b: Extent = self.resolved(b).into_iter().rev().collect();
        loop {
            let next = [&mut a, &mut b].map(|list| {
                let part = list.pop()?;
                let mut parts = self.resolved(&[part]);
                let first = parts.remove(0);
                list.extend(parts.into_iter().rev());
                Some(first)
            });
            let [Some(p), Some(q)] = next else {
                next.iter().flatten().for_each(|&p| self.hold(&[p], why));
                break;
            };
            if p == q {
                continue;
            }
            let (m, n) = (self.len(&[p]), self.len(&[q]));
            let fits = match m.cmp(&n) {
                _ if p.node == q.node => false,
                std::cmp::Ordering::Greater => self.split(p, n),
                std::cmp::Ordering::Less => self.split(q, m),
                std::cmp::Ordering::Equal if p.each.is_multiple_of(q.each) => {
                    self.equate(q.node, vec![Part { node: p.node, each: p.each / q.each }]);
                    continue;
                }
                std::cmp::Ordering::Equal if q.each.is_multiple_of(p.each) => {
                    self.equate(p.node, vec![Part { node: q.node, each: q.each / p.each }]);
                    continue;
                }
                std::cmp::Ordering::Equal => false,
            };
            a.push(p);
            b.push(q);
            if !fits {
                break;
            }
        }
        self.hold(&[a, b].concat(), why);
    }

    /// The parts of an extent that these numbers of places are; `None` if one ends inside a unit.
    fn divided(&mut self, extent: &[Part], sizes: &[usize]) -> Option<Vec<Extent>> {
        let mut open: Extent = self.resolved(extent).into_iter().rev().collect();
        let mut all = Vec::with_capacity(sizes.len());
        for &size in sizes {
            let (mut left, mut own) = (size, Vec::new());
            while left > 0 {
                let part = open.pop()?;
                let mut parts = self.resolved(&[part]);
                let first = parts.remove(0);
                open.extend(parts.into_iter().rev());
                let n = self.len(&[first]);
                if n <= left {
                    own.push(first);
                    left -= n;
                } else if self.split(first, left) {
                    open.push(first);
                } else {
                    return None;
                }
            }
            all.push(own);
        }
        open.is_empty().then_some(all)
    }

    /// Makes the parts of an extent as wide as `places`, or a multiple; whether they can be.
    fn coarse(&mut self, extent: &[Part], places: usize) -> Option<Extent> {
        for part in self.resolved(extent) {
            // A node that occurs twice was widened the first time.
            if self.nodes[part.node].is.is_some() || part.each.is_multiple_of(places) {
                continue;
            }
            if !places.is_multiple_of(part.each) || !self.widen(part.node, places / part.each) {
                return None;
            }
        }
        let all = self.resolved(extent);
        all.iter().all(|p| p.each.is_multiple_of(places)).then_some(all)
    }

    fn finish(self) -> Found {
        let plan = self.plan;
        let resolve = |all: &Extents| all.iter().map(|e| self.resolved(e)).collect::<Extents>();
        let weights: Vec<Extents> = self.weights.iter().map(resolve).collect();
        let mut members: BTreeMap<usize, Vec<Member>> = BTreeMap::new();
        // Nodes in the order of the weights that make them, with their names.
        let mut order: Vec<(usize, String)> = Vec::new();
        let mut held: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (w, (weight, extents)) in plan.weights.iter().zip(&weights).enumerate() {
            let matrix = weight.spec.role == Role::Weight;
            let name = weight.name.strip_suffix(".weight").unwrap_or(&weight.name);
            let dims: Vec<usize> = weight.order.iter().map(|&a| weight.dims[a]).collect();
            for (at, &axis) in weight.order.iter().enumerate() {
                let stride: usize = dims[at + 1..].iter().product();
                let cols = weight.spec.shape.cols.max(1);
                let (along, stride) = match matrix {
                    false => (Along::Entries, stride),
                    true if stride >= cols && stride.is_multiple_of(cols) => (Along::Rows, stride / cols),
                    true => (Along::Cols, stride),
                };
                let makes = matrix && self.makes.contains(&(w, axis));
                let (period, mut offset) = (dims[at] * stride, 0);
                for part in &extents[axis] {
                    let node = &self.nodes[part.node];
                    let span = Span { period, offset, each: part.each * stride };
                    offset += node.units * span.each;
                    if node.units < 2 {
                        continue;
                    }
                    if let Some(why) = &node.held {
                        if makes && !why.is_empty() {
                            let names = held.entry(why.clone()).or_default();
                            if !names.iter().any(|n| n == name) {
                                names.push(name.into());
                            }
                        }
                        continue;
                    }
                    if makes && !order.iter().any(|(n, _)| *n == part.node) {
                        order.push((part.node, name.into()));
                    }
                    let all = members.entry(part.node).or_default();
                    match all.iter_mut().find(|m| (m.param, m.along) == (w, along)) {
                        Some(member) => member.spans.push(span),
                        None => all.push(Member { param: w, along, makes, spans: vec![span] }),
                    }
                }
            }
        }
        let mut nodes: Vec<(usize, Option<usize>)> = self.nodes.iter().map(|n| (n.units, None)).collect();
        let mut axes: Vec<Axis> = Vec::with_capacity(order.len());
        for (node, name) in order {
            nodes[node].1 = Some(axes.len());
            let twins = axes.iter().filter(|a| a.name == name || a.name.starts_with(&format!("{name}/"))).count();
            let name = if twins == 0 { name } else { format!("{name}/{}", twins + 1) };
            axes.push(Axis::new(&name, nodes[node].0, members.remove(&node).unwrap_or_default()));
        }
        let constants = self.constants.iter().map(|c| Operand { extents: resolve(&c.extents), ..c.clone() }).collect();
        let said = self.said.iter().map(|s| Said { extent: self.resolved(&s.extent), ..s.clone() }).collect();
        Found { axes, held, nodes, weights, constants, said }
    }
}
