//! What a graph computes, prepared once: which constants are weights and how they lie, and the steps of a pass.

use super::units::Found;
use super::{MOST, PLAIN};
use crate::graph::{Attribute, Constant, DType, Graph, Node};
use crate::ops::{self, Cx, Done, Given, Op};
use crate::value::Value;
use crate::{Error, Result};
use nnz_core::{LayerRole, Shape};
use nnz_engine::layers::describe;
use nnz_engine::{Init, ParamSpec, Role};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::AtomicUsize;

/// Operators of whose result nothing flows back: whole numbers and truth values.
const FIXED: &[&str] = &[
    "ArgMax",
    "ArgMin",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "IsInf",
    "IsNaN",
    "Less",
    "LessOrEqual",
    "NonZero",
    "Shape",
    "Size",
];

/// A constant that is a parameter.
#[derive(Clone, Debug)]
pub(super) struct Weight {
    pub name: String,
    /// Extents in ONNX's order.
    pub dims: Vec<usize>,
    /// Axis `i` of the parameter is axis `order[i]` of the constant; later axes are folded into columns.
    pub order: Vec<usize>,
    pub spec: ParamSpec,
    /// Number of steps that read it.
    pub uses: usize,
}

impl Weight {
    /// From the constant's numbers to the parameter's.
    pub fn to_param(&self, numbers: &[f32]) -> Vec<f32> {
        reordered(numbers, &self.dims, &self.order)
    }

    /// From the parameter's numbers to the constant's.
    pub fn to_constant(&self, numbers: &[f32]) -> Vec<f32> {
        let dims: Vec<usize> = self.order.iter().map(|&a| self.dims[a]).collect();
        reordered(numbers, &dims, &self.back())
    }

    /// The order that undoes its own.
    pub fn back(&self) -> Vec<usize> {
        let mut back = vec![0; self.order.len()];
        self.order.iter().enumerate().for_each(|(to, &from)| back[from] = to);
        back
    }

    /// Whether it holds the transpose of its constant.
    pub fn turned(&self) -> bool {
        self.order == [1, 0]
    }
}

fn reordered(from: &[f32], dims: &[usize], order: &[usize]) -> Vec<f32> {
    let own = ops::strides(dims);
    let to: Vec<usize> = order.iter().map(|&a| dims[a]).collect();
    let steps: Vec<usize> = order.iter().map(|&a| own[a]).collect();
    let inner = steps.last().copied().unwrap_or(1);
    let mut out = Vec::with_capacity(from.len());
    ops::runs(&to, [&steps], |[at], n| out.extend((0..n).map(|i| from[at + i * inner])));
    out
}

/// Where a value comes from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// Known before any input.
    Constant(Value),
    /// A weight; whether it is read transposed.
    Weight(usize, bool),
    /// Computed in a pass, without a gradient.
    Plain,
    /// Computed in a pass on the tape.
    Live,
}

/// One node.
pub(super) struct Step {
    pub node: Node,
    pub op: Op,
    pub inputs: Vec<Option<usize>>,
    pub outputs: Vec<Option<usize>>,
    /// A vector that is added to the product.
    pub bias: Option<usize>,
    pub live: bool,
    /// Values that are not read after this step.
    pub dies: Vec<usize>,
}

/// Rows of a pass by whose extents the axes of units are found.
pub(super) const ROWS: usize = 2;

/// A graph ready for passes.
pub(super) struct Plan {
    pub path: PathBuf,
    pub opset: i64,
    pub steps: Vec<Step>,
    pub weights: Vec<Weight>,
    pub sources: Vec<Source>,
    /// Extents of one row of the input.
    pub input: Vec<Option<usize>>,
    pub tokens: bool,
    /// Number of rows, if the file fixes it.
    pub batch: Option<usize>,
    pub from: usize,
    pub to: usize,
    /// Constants of the graph, and of its nodes that are constants.
    pub given: HashSet<usize>,
    /// Whether all weights have 32 bits, and so what is computed of them.
    pub single: bool,
    /// Values that something reads that is no step: it computes constants, or what no answer needs.
    pub aside: Vec<usize>,
    /// How often one row went through each weight in the first pass.
    pub counted: OnceLock<Vec<usize>>,
    /// Extents of all values in the first pass of [`ROWS`] rows.
    pub shapes: OnceLock<Vec<Option<Vec<usize>>>>,
    /// What can be cut from it.
    pub units: OnceLock<Found>,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} steps of {} with {} weights", self.steps.len(), self.path.display(), self.weights.len())
    }
}

/// A reader of a constant: a node, the index of its input, and whether it gets the transpose.
type Use<'g> = (&'g Node, usize, bool);

/// The constant that each name stands for, and whether transposed.
type Aliases<'g> = HashMap<&'g str, (&'g str, bool)>;

/// Whether a node passes its input on: as it is, or transposed.
fn passes(node: &Node) -> Option<bool> {
    match (&*node.op, node.attributes.get("perm")) {
        ("Identity", _) => Some(false),
        ("Cast", _) => match node.attributes.get("to") {
            Some(Attribute::Int(to)) => {
                i32::try_from(*to).ok().and_then(|t| DType::of(t).ok()).filter(|k| k.is_float()).map(|_| false)
            }
            _ => None,
        },
        ("Transpose", Some(Attribute::Ints(p))) => (p == &[1, 0]).then_some(true),
        _ => None,
    }
}

/// The readers of every name that stands for one of `roots`, and what other names stand for them.
fn uses<'g>(graph: &'g Graph, roots: &[&'g str]) -> (HashMap<&'g str, Vec<Use<'g>>>, Aliases<'g>) {
    let mut alias: HashMap<&str, (&str, bool)> = roots.iter().map(|&n| (n, (n, false))).collect();
    let mut found: HashMap<&str, Vec<Use>> = HashMap::new();
    for node in &graph.nodes {
        for (at, name) in node.inputs.iter().enumerate() {
            let Some(&(root, flipped)) = alias.get(name.as_str()) else { continue };
            // Of these only extents and types are read.
            if node.op == "Shape" || node.op == "CastLike" && at == 1 {
                continue;
            }
            match (passes(node).filter(|_| at == 0), node.outputs.first()) {
                (Some(flips), Some(out)) => _ = alias.insert(out, (root, flipped != flips)),
                _ => found.entry(root).or_default().push((node, at, flipped)),
            }
        }
    }
    (found, alias)
}

pub(super) fn int(node: &Node, name: &str, default: i64) -> i64 {
    match node.attributes.get(name) {
        Some(Attribute::Int(i)) => *i,
        _ => default,
    }
}

/// How a constant that these nodes read lies as a parameter: the order of its axes and its specification.
fn lay_out(name: &str, dims: &[usize], uses: &[Use]) -> (Vec<usize>, ParamSpec) {
    let own: Vec<usize> = (0..dims.len()).collect();
    let matrix = |rows: usize, cols: usize, kernel: [usize; 2], role: LayerRole| {
        let shape = Shape { kernel, role, ..Shape::matrix(name, rows, cols) };
        ParamSpec { shape, role: Role::Weight, init: Init::He }
    };
    let product = |d: &[usize]| d.iter().fold(1usize, |n, &s| n.saturating_mul(s));
    let kernel = uses.iter().any(|(n, at, _)| *at == 1 && matches!(&*n.op, "Conv" | "ConvTranspose"));
    if kernel && dims.len() > 2 {
        let mut order = own;
        order[1..].rotate_left(1);
        let area = match &dims[2..] {
            [k] => [1, *k],
            [lead @ .., k] => [product(lead), *k],
            [] => [1, 1],
        };
        return (order, matrix(dims[0], product(&dims[1..]), area, LayerRole::Convolution));
    }
    let rows = uses.iter().find_map(|(n, at, flipped)| match (&*n.op, *at) {
        ("MatMul", 1) => Some(*flipped),
        ("Gemm", 1) => Some(*flipped != (int(n, "transB", 0) != 0)),
        _ => None,
    });
    if let (Some(as_is), &[a, b]) = (rows, dims) {
        return match as_is {
            true => (own, matrix(a, b, [1, 1], LayerRole::Linear)),
            false => (vec![1, 0], matrix(b, a, [1, 1], LayerRole::Linear)),
        };
    }
    let gates = uses.iter().any(|(n, at, _)| [1, 2].contains(at) && matches!(&*n.op, "LSTM" | "GRU" | "RNN"));
    if let (true, &[d, g, x]) = (gates, dims) {
        return (own, matrix(d.saturating_mul(g), x, [1, 1], LayerRole::Recurrent));
    }
    if let [rest @ .., last] = dims
        && !rest.is_empty()
        && uses
            .iter()
            .any(|(n, at, _)| *at == 0 && matches!(&*n.op, "Gather" | "MatMul") || *at == 1 && n.op == "MatMul")
    {
        let shape = Shape::matrix(name, product(rest), *last);
        return (own, ParamSpec { shape, role: Role::Table, init: Init::Small });
    }
    let buffer = uses.iter().any(|(n, at, _)| [3, 4].contains(at) && n.op == "BatchNormalization");
    let role = if buffer { Role::Buffer } else { Role::Vector };
    (own, ParamSpec { shape: Shape::matrix(name, product(dims), 1), role, init: Init::Zero })
}

/// The values that no product, norm or table has changed yet: what makes rows ready for the network.
fn raw(graph: &Graph) -> HashSet<&str> {
    let mut raw: HashSet<&str> = graph.inputs.iter().map(|p| p.name.as_str()).collect();
    for node in &graph.nodes {
        let plain = matches!(
            &*node.op,
            "Add" | "Sub" | "Mul" | "Div" | "Cast" | "Transpose" | "Reshape" | "Flatten" | "Identity"
        );
        let known = |i: &String| raw.contains(i.as_str()) || graph.constants.contains_key(i);
        if plain && node.inputs.iter().all(known) && node.inputs.iter().any(|i| raw.contains(i.as_str())) {
            raw.extend(node.outputs.iter().map(String::as_str));
        }
    }
    raw
}

/// Whether numbers are two in turn, as those of a mask are.
fn two(numbers: &[f32]) -> bool {
    let Some(&first) = numbers.first() else { return false };
    let other = numbers.iter().copied().find(|&v| v != first);
    numbers.len() > 2 && other.is_some_and(|b| numbers.iter().all(|&v| v == first || v == b))
}

/// Whether a constant is trained, by the nodes that read it.
fn trained(name: &str, c: &Constant, uses: &[Use], raw: &HashSet<&str>) -> bool {
    let part = |(n, at, _): &Use| match &*n.op {
        "Conv" | "ConvTranspose" | "Gemm" => [1, 2].contains(at),
        "MatMul" => c.shape.len() > 1,
        "LSTM" | "GRU" | "RNN" => (1..=3).contains(at),
        "BatchNormalization" | "LayerNormalization" | "InstanceNormalization" | "GroupNormalization" => *at > 0,
        "RMSNormalization" | "PRelu" => *at == 1,
        "Gather" => *at == 0 && c.shape.len() > 1,
        _ => false,
    };
    if !c.is_float() || c.is_empty() || uses.is_empty() {
        return false;
    }
    if uses.iter().any(part) {
        return true;
    }
    let said = |(n, at, _): &Use| match &*n.op {
        "Add" | "Sub" | "Mul" | "Div" => !n.inputs.iter().any(|i| raw.contains(i.as_str())),
        "Concat" => true,
        op => *at == 0 && super::moves::MOVES.contains(&op),
    };
    let made_up = name.starts_with('/') || name.starts_with("onnx::");
    if c.len() < 2 || made_up || !uses.iter().all(said) {
        return false;
    }
    let numbers = c.numbers();
    numbers.iter().all(|v| v.is_finite()) && !two(&numbers)
}

/// The constants of a graph that are parameters.
pub(super) fn weights(graph: &Graph) -> Result<Vec<String>> {
    let fail = |why: String| Err(Error::file(&graph.path, why));
    let names = |ports: &[crate::Port]| ports.iter().map(|p| p.name.clone()).collect::<Vec<_>>().join(", ");
    if graph.nodes.is_empty() {
        return fail(
            "what these weights compute is not known; export the network as ONNX from where it was made".into(),
        );
    }
    if graph.inputs.len() != 1 {
        return fail(format!(
            "it reads {} values ({}); data sets give one to a network, so export it with one input",
            graph.inputs.len(),
            names(&graph.inputs)
        ));
    }
    let roots: Vec<&str> = graph.constants.keys().map(String::as_str).collect();
    let (uses, _) = uses(graph, &roots);
    let read = |name: &String| uses.get(name.as_str()).map_or(&[][..], Vec::as_slice);
    let raw = raw(graph);
    Ok(graph.constants.iter().filter(|(n, c)| trained(n, c, read(n), &raw)).map(|(n, _)| n.clone()).collect())
}

impl Plan {
    /// Prepares a graph whose inputs are that of the network and then its weights.
    ///
    /// # Errors
    /// When a node has no gradient or is damaged, by its name.
    pub fn new(graph: &Graph) -> Result<Self> {
        let fail = |why: &str| Error::file(&graph.path, why);
        let Some((first, ports)) = graph.inputs.split_first() else { return Err(fail("it has no input")) };
        let Some(output) = graph.outputs.first() else { return Err(fail("it has no output")) };
        let Some([batch, input @ ..]) = first.shape.as_deref() else {
            let why = format!("its input `{}` has no shape, or no axes; export it with that of a batch", first.name);
            return Err(fail(&why));
        };
        let tokens = match first.kind {
            None => false,
            Some(kind) if kind.is_float() => false,
            Some(DType::I64 | DType::I32) => true,
            Some(kind) => {
                let why = format!("its input `{}` are {}; floats and tokens are read", first.name, kind.name());
                return Err(fail(&why));
            }
        };
        let mut slots: HashMap<&str, usize> = HashMap::new();
        let all = graph.nodes.iter().flat_map(|n| n.inputs.iter().chain(&n.outputs));
        let ends = graph.inputs.iter().chain(&graph.outputs).map(|p| &p.name);
        for name in ends.chain(graph.constants.keys()).chain(all).filter(|n| !n.is_empty()) {
            let next = slots.len();
            slots.entry(name).or_insert(next);
        }
        let roots: Vec<&str> = ports.iter().map(|p| p.name.as_str()).collect();
        let (uses, alias) = uses(graph, &roots);
        // In the order in which they are read, so that the last is the head.
        let mut weights: Vec<Weight> = Vec::new();
        let mut at: HashMap<&str, usize> = HashMap::new();
        for name in graph.nodes.iter().flat_map(|n| &n.inputs) {
            let Some(port) = ports.iter().find(|p| p.name == *name).filter(|_| !at.contains_key(name.as_str())) else {
                continue;
            };
            let dims: Option<Vec<usize>> = port.shape.as_ref().and_then(|s| s.iter().copied().collect());
            let Some(dims) = dims.filter(|d| d.len() <= crate::graph::AXES) else {
                return Err(fail(&format!("weight `{name}` has no extents, or too many")));
            };
            let read = uses.get(name.as_str()).map_or(&[][..], Vec::as_slice);
            let (order, spec) = lay_out(name, &dims, read);
            at.insert(&port.name, weights.len());
            weights.push(Weight { name: name.clone(), dims, order, spec, uses: read.len() });
        }
        let mut plan = Self {
            path: graph.path.clone(),
            opset: graph.opset,
            steps: Vec::new(),
            weights,
            sources: vec![Source::Live; slots.len()],
            input: input.to_vec(),
            tokens,
            batch: *batch,
            from: slots[first.name.as_str()],
            to: slots[output.name.as_str()],
            given: graph.constants.keys().map(|name| slots[name.as_str()]).collect(),
            single: ports.iter().all(|p| p.kind.is_none_or(|k| k == DType::F32)),
            aside: graph.outputs[1..].iter().map(|p| slots[p.name.as_str()]).collect(),
            counted: OnceLock::new(),
            shapes: OnceLock::new(),
            units: OnceLock::new(),
        };
        if tokens {
            plan.sources[plan.from] = Source::Plain;
        }
        for (name, (root, flipped)) in &alias {
            if let Some(&w) = at.get(root) {
                plan.sources[slots[name]] = Source::Weight(w, *flipped);
            }
        }
        for (name, constant) in &graph.constants {
            plan.sources[slots[name.as_str()]] = Source::Constant(constant.value());
        }
        let mut room = MOST;
        for node in &graph.nodes {
            plan.push(node, &slots, &alias, &mut room).map_err(|why| Error::node(&graph.path, node, why))?;
        }
        if !matches!(plan.sources[plan.to], Source::Live) {
            return Err(fail(&format!("its output `{}` does not depend on its input", output.name)));
        }
        plan.join();
        plan.mortality();
        Ok(plan)
    }

    fn push(
        &mut self,
        node: &Node,
        slots: &HashMap<&str, usize>,
        alias: &HashMap<&str, (&str, bool)>,
        room: &mut usize,
    ) -> Done<()> {
        let op = ops::find(&node.op).ok_or("this operator is not computed here; export the network without it")?;
        ops::told::check(node)?;
        // Read by another name.
        if node.outputs.first().is_some_and(|o| alias.contains_key(o.as_str())) {
            return Ok(());
        }
        if node.bodies().next().is_some() {
            return Err("a graph inside a node, which is not trained; export the network without branches and loops, or prune it \
                        without --data"
                .into());
        }
        let slot = |name: &String| slots.get(name.as_str()).copied();
        let inputs: Vec<Option<usize>> = node.inputs.iter().map(slot).collect();
        let outputs: Vec<Option<usize>> = node.outputs.iter().map(slot).collect();
        let floats = |i: usize| {
            let source = inputs.get(i).copied().flatten().map(|s| &self.sources[s]);
            matches!(source, Some(Source::Live | Source::Weight(..) | Source::Constant(Value::Float(_))))
        };
        let cast = node.op == "Cast" && passes(node).is_none() || node.op == "CastLike" && !(floats(0) && floats(1));
        let fixed = cast || FIXED.contains(&&*node.op);
        let mut live = false;
        let mut known = true;
        for s in inputs.iter().flatten() {
            match &self.sources[*s] {
                Source::Constant(_) => {}
                Source::Plain => known = false,
                Source::Live | Source::Weight(..) => (live, known) = (true, false),
            }
        }
        live &= !fixed;
        if let Some(value) = self.told(node, &inputs)? {
            outputs.iter().flatten().take(1).for_each(|&s| self.sources[s] = Source::Constant(value.clone()));
            return Ok(());
        }
        let step = Step { node: node.clone(), op, inputs, outputs, bias: None, live, dies: Vec::new() };
        if known {
            let given = step.inputs.iter().map(|s| match self.sources.get((*s)?) {
                Some(Source::Constant(v)) => Some(v.clone()),
                _ => None,
            });
            let values = ops::run(op, &self.cx(&step), Given(given.collect()))?;
            self.aside.extend(step.inputs.iter().flatten());
            if node.op == "Constant" {
                self.given.extend(step.outputs.iter().flatten());
            }
            for (slot, value) in step.outputs.iter().zip(values) {
                *room = room
                    .checked_sub(value.len())
                    .ok_or("constants that are computed need more memory than is allowed")?;
                if let Some(slot) = slot {
                    self.sources[*slot] = Source::Constant(value);
                }
            }
            return Ok(());
        }
        if live && !super::slopes::known(&node.op) {
            return Err(
                "this operator has no gradient here, so the network can be run and pruned without --data, but not \
                        trained; export it without"
                    .into(),
            );
        }
        if !live {
            step.outputs.iter().flatten().for_each(|&s| self.sources[s] = Source::Plain);
        }
        self.steps.push(step);
        Ok(())
    }

    /// What follows from the extents of a weight, or from a type alone.
    fn told(&self, node: &Node, inputs: &[Option<usize>]) -> Done<Option<Value>> {
        let source = |i: usize| inputs.get(i).copied().flatten().map(|s| &self.sources[s]);
        Ok(match (&*node.op, source(0), source(1)) {
            ("Shape", Some(&Source::Weight(w, flipped)), _) => {
                let mut dims: Vec<i64> = self.weights[w].dims.iter().map(|&d| d as i64).collect();
                if flipped {
                    dims.reverse();
                }
                let n = dims.len() as i64;
                let at = |i: i64| if i < 0 { i.saturating_add(n) } else { i }.clamp(0, n) as usize;
                let (start, end) = (at(int(node, "start", 0)), at(int(node, "end", n)));
                let part = dims.get(start..end).unwrap_or_default().to_vec();
                Some(Value::ints(&[part.len()], part))
            }
            ("CastLike", Some(Source::Constant(v)), Some(Source::Live | Source::Weight(..))) => {
                Some(ops::types::convert(v.clone(), DType::F32, true))
            }
            _ => None,
        })
    }

    /// The context of a step.
    pub fn cx<'a>(&self, step: &'a Step) -> Cx<'a> {
        static NONE: AtomicUsize = AtomicUsize::new(0);
        Cx { node: &step.node, opset: self.opset, most: PLAIN, bodies: &[], fuel: &NONE }
    }

    /// The weight that a step reads there, and whether transposed.
    pub fn weight(&self, step: &Step, input: usize) -> Option<(usize, bool)> {
        match self.sources.get((*step.inputs.get(input)?)?) {
            Some(&Source::Weight(w, flipped)) => Some((w, flipped)),
            _ => None,
        }
    }

    /// Joins vectors that are added to a product with it.
    fn join(&mut self) {
        let mut readers = vec![0; self.sources.len()];
        self.steps.iter().flat_map(|s| s.inputs.iter().flatten()).for_each(|&s| readers[s] += 1);
        readers[self.to] += 1;
        let mut makers: HashMap<usize, usize> = HashMap::new();
        let mut gone = vec![false; self.steps.len()];
        for i in 0..self.steps.len() {
            let step = &self.steps[i];
            let found = (step.node.op == "Add" && step.inputs.len() == 2).then(|| {
                (0..2).find_map(|k| {
                    let product = *makers.get(&step.inputs[1 - k]?)?;
                    let (b, false) = self.weight(step, k)? else { return None };
                    let (w, flipped) = self.weight(&self.steps[product], 1)?;
                    let (weight, bias) = (&self.weights[w], &self.weights[b]);
                    let fits = self.steps[product].node.op == "MatMul"
                        && readers[step.inputs[1 - k]?] == 1
                        && weight.spec.role == Role::Weight
                        && weight.dims.len() == 2
                        && weight.turned() != flipped
                        && bias.spec.role == Role::Vector
                        && bias.dims == [weight.spec.shape.rows]
                        && weight.uses == 1
                        && b == w + 1;
                    fits.then_some((product, b))
                })
            });
            if let Some((product, b)) = found.flatten() {
                let outputs = self.steps[i].outputs.clone();
                (self.steps[product].bias, self.steps[product].outputs) = (Some(b), outputs);
                gone[i] = true;
                self.steps[product].outputs.iter().flatten().for_each(|&s| _ = makers.insert(s, product));
                continue;
            }
            self.steps[i].outputs.iter().flatten().for_each(|&s| _ = makers.insert(s, i));
        }
        let mut gone = gone.into_iter();
        self.steps.retain(|_| !gone.next().unwrap_or(false));
    }

    /// Leaves out steps that nothing reads, and finds the step that reads each value last.
    fn mortality(&mut self) {
        let mut read = vec![false; self.sources.len()];
        read[self.to] = true;
        let mut kept = Vec::with_capacity(self.steps.len());
        for step in std::mem::take(&mut self.steps).into_iter().rev() {
            if step.outputs.iter().flatten().any(|&s| read[s]) {
                step.inputs.iter().flatten().for_each(|&s| read[s] = true);
                kept.push(step);
                continue;
            }
            if !matches!(&*step.node.op, "Shape" | "Size") {
                self.aside.extend(step.inputs.iter().flatten());
            }
        }
        kept.reverse();
        self.steps = kept;
        let mut last: HashMap<usize, usize> = HashMap::new();
        for (i, step) in self.steps.iter().enumerate() {
            step.inputs.iter().chain(&step.outputs).flatten().for_each(|&s| _ = last.insert(s, i));
        }
        last.remove(&self.to);
        for (slot, i) in last {
            self.steps[i].dies.push(slot);
        }
    }

    /// Checks that rows `[height, width, channels]` are its input.
    pub fn takes(&self, row: &[usize]) -> Done<()> {
        let &[h, w, c] = row else { return Err(format!("it begins with {}", describe(row))) };
        let fits = |want: &[usize]| {
            want.len() == self.input.len() && self.input.iter().zip(want).all(|(a, b)| a.is_none_or(|a| a == *b))
        };
        let ok = match self.input.len() {
            1 => fits(&[h * w * c]),
            2 => c == 1 && fits(&[h, w]) || h == 1 && fits(&[w, c]) || fits(&[h * w, c]),
            3 => fits(&[c, h, w]),
            _ => false,
        };
        let one = |d: &Option<usize>| d.map_or("?".into(), |d| d.to_string());
        let want: Vec<String> = self.input.iter().map(one).collect();
        match ok {
            true => Ok(()),
            false => Err(format!("it reads rows of [{}], not {}", want.join(", "), describe(row))),
        }
    }
}
