//! Running a graph.

use crate::graph::{DType, Graph, Node, Port};
use crate::ops::{self, Cx, Given, Inside, Linear, Op};
use crate::value::{Floats, Value};
use crate::{Error, Result};
use nnz_engine::Tensor;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most steps that graphs inside nodes run in all.
const STEPS: usize = 1 << 22;

/// Chooses the kernel for a constant matrix, `"dense"`, `"sliced"`, `"blocked"` or `"plan"`, given its
/// outputs, inputs, density and the number of rows that come at once.
pub type Advice = Box<dyn Fn(usize, usize, f64, usize) -> &'static str + Send + Sync>;

/// Memory limit of a network.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Most numbers alive between nodes at one time, constants excluded.
    pub numbers: usize,
}

impl Default for Budget {
    /// 2^30 numbers.
    fn default() -> Self {
        Self { numbers: 1 << 30 }
    }
}

/// A prepared weight.
enum Ready {
    Nothing,
    /// A constant matrix.
    Linear(Linear),
    /// A 1x1 convolution, as a product.
    Point(Linear),
    /// A kernel with channels last, with its original shape and a bias.
    Conv {
        shape: Tensor<f32>,
        packed: Tensor<f32>,
        bias: Option<Tensor<f32>>,
    },
}

struct Step {
    node: Node,
    op: Op,
    inputs: Vec<Option<usize>>,
    outputs: Vec<Option<usize>>,
    /// Values that are not read after this step.
    dies: Vec<usize>,
    ready: Ready,
    bodies: Vec<Inside>,
}

/// A graph prepared to run.
pub struct Session {
    path: PathBuf,
    opset: i64,
    budget: Budget,
    advice: Option<Advice>,
    steps: Vec<Step>,
    /// Steps that read only constants and were computed in advance.
    folded: Vec<Step>,
    constants: Vec<Option<Value>>,
    slots: HashMap<String, usize>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

/// Values of a running session.
pub struct State {
    values: Vec<Option<Value>>,
    live: usize,
    /// Steps that graphs inside nodes may still run.
    fuel: Arc<AtomicUsize>,
}

/// A constant matrix of a session, and how it is multiplied.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The node.
    pub name: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Nonzeros / entries.
    pub density: f64,
    /// Number of rows multiplied at once.
    pub batch: usize,
    /// The kernel that was chosen.
    pub kernel: &'static str,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session of {} with {} steps", self.path.display(), self.steps.len())
    }
}

impl Session {
    /// Checks that every operator exists, computes what depends only on constants, joins norms and biases with the products
    /// before them, and arranges weights for the kernels. Without `advice` every product is dense.
    ///
    /// # Errors
    /// When an operator is missing, with its node; or a constant does not fit.
    pub fn new(graph: &Graph, advice: Option<Advice>, budget: Budget) -> Result<Self> {
        let mut session = Self::plain(graph, budget)?;
        session.advice = advice;
        session.folded.clear();
        session.join()?;
        session.lay_out()?;
        session.mortality();
        Ok(session)
    }

    /// Prepares the graph step by step, folding only nodes that read constants alone: for watching the inputs of each node,
    /// and for changing constants meanwhile.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn plain(graph: &Graph, budget: Budget) -> Result<Self> {
        let mut slots: HashMap<String, usize> = HashMap::new();
        let mut slot = |name: &String| {
            let next = slots.len();
            (!name.is_empty()).then(|| *slots.entry(name.clone()).or_insert(next))
        };
        graph.inputs.iter().chain(&graph.outputs).for_each(|p| _ = slot(&p.name));
        let mut steps = Vec::with_capacity(graph.nodes.len());
        for node in &graph.nodes {
            let Some(op) = ops::find(&node.op) else {
                let why = "this operator is not computed here; export the network without it";
                return Err(Error::node(&graph.path, node, why));
            };
            ops::told::check(node).map_err(|why| Error::node(&graph.path, node, why))?;
            // A third one would be mistaken for the bias of a sum that was joined with the product.
            if node.op == "MatMul" && node.inputs.len() != 2 {
                return Err(Error::node(
                    &graph.path,
                    node,
                    format!("{} inputs, but two are multiplied", node.inputs.len()),
                ));
            }
            let mut at = node.inputs.len();
            let mut bodies = Vec::new();
            for body in node.bodies() {
                let mut inner = (*body.graph).clone();
                // Extents may differ from one turn to the next.
                inner.inputs.iter_mut().for_each(|p| (p.kind, p.shape) = (None, None));
                let first = at;
                at += body.captures().count();
                bodies.push(Inside { session: Self::plain(&inner, budget)?, captured: first..at });
            }
            let inputs = node.reads().map(|n| slot(&n.to_string())).collect();
            let outputs = node.outputs.iter().map(&mut slot).collect();
            steps.push(Step {
                node: node.clone(),
                op,
                inputs,
                outputs,
                dies: Vec::new(),
                ready: Ready::Nothing,
                bodies,
            });
        }
        let named: Vec<(usize, &str)> =
            graph.constants.keys().filter_map(|name| Some((slot(name)?, name.as_str()))).collect();
        let mut constants = vec![None; slots.len()];
        for (at, name) in named {
            constants[at] = Some(graph.constants[name].value());
            graph.constants[name].whole().map_err(|e| Error::file(&graph.path, e))?;
        }
        let (path, opset) = (graph.path.clone(), graph.opset);
        let (inputs, outputs) = (graph.inputs.clone(), graph.outputs.clone());
        let mut session =
            Self { path, opset, budget, advice: None, steps, folded: Vec::new(), constants, slots, inputs, outputs };
        session.fold()?;
        session.mortality();
        Ok(session)
    }

    fn fail(&self, step: &Step, why: String) -> Error {
        Error::node(&self.path, &step.node, why)
    }

    /// The context of a step that has no graph inside.
    fn cx<'a>(&self, step: &'a Step) -> Cx<'a> {
        static NONE: AtomicUsize = AtomicUsize::new(0);
        self.cx_with(step, &NONE)
    }

    fn cx_with<'a>(&self, step: &'a Step, fuel: &'a AtomicUsize) -> Cx<'a> {
        Cx { node: &step.node, opset: self.opset, most: self.budget.numbers, bodies: &step.bodies, fuel }
    }

    /// Steps that graphs inside nodes may run: a loop is bounded as memory is.
    fn steps_inside(&self) -> usize {
        STEPS.min(self.budget.numbers)
    }

    /// Runs it as the graph inside a node, with values for its inputs in order.
    ///
    /// # Errors
    /// Those of its steps, or when it ran too often.
    pub(crate) fn inside(&self, given: Vec<Value>, fuel: &AtomicUsize) -> Result<Vec<Value>, String> {
        let used = self.steps.len().max(1);
        let left = fuel.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(used));
        left.map_err(|_| format!("more than {} steps of loops and branches", self.steps_inside()))?;
        let named = self.inputs.iter().map(|p| p.name.as_str()).zip(given).collect();
        let mut state = self.begin(named).map_err(|e| e.to_string())?;
        for i in 0..self.steps.len() {
            self.step_with(i, &mut state, None, fuel).map_err(|e| e.to_string())?;
        }
        self.finish(state).map_err(|e| e.to_string())
    }

    /// Computes nodes that read only constants.
    fn fold(&mut self) -> Result<()> {
        let mut room = self.budget.numbers;
        let mut left = Vec::with_capacity(self.steps.len());
        for step in std::mem::take(&mut self.steps) {
            let known = |slot: &Option<usize>| slot.is_none_or(|s| self.constants[s].is_some());
            if !step.inputs.iter().all(known) {
                left.push(step);
                continue;
            }
            let given = Given(step.inputs.iter().map(|s| s.and_then(|s| self.constants[s].clone())).collect());
            let fuel = AtomicUsize::new(self.steps_inside());
            let values = ops::run(step.op, &self.cx_with(&step, &fuel), given).map_err(|why| self.fail(&step, why))?;
            self.few_axes(&step, &values)?;
            for (slot, value) in step.outputs.iter().zip(values) {
                let Some(left) = room.checked_sub(value.len()) else {
                    return Err(self.fail(&step, "constants that are computed need more memory than is allowed".into()));
                };
                room = left;
                if let Some(slot) = slot {
                    self.constants[*slot] = Some(value);
                }
            }
            self.folded.push(step);
        }
        self.steps = left;
        Ok(())
    }

    /// Limits the number of axes, since some operators recurse over them.
    fn few_axes(&self, step: &Step, values: &[Value]) -> Result<()> {
        match values.iter().map(|v| v.shape().len()).find(|&rank| rank > crate::graph::AXES) {
            None => Ok(()),
            Some(rank) => Err(self
                .fail(step, format!("its output has {rank} axes; at most {} are computed with", crate::graph::AXES))),
        }
    }

    fn tensor(&self, slot: Option<usize>) -> Option<Tensor<f32>> {
        match self.constants[slot?].as_ref()? {
            Value::Float(f) => Some(f.clone().rows()),
            _ => None,
        }
    }

    /// Counts the steps and outputs that read each value.
    fn readers(&self) -> Vec<usize> {
        let mut readers = vec![0; self.constants.len()];
        self.steps.iter().flat_map(|s| &s.inputs).flatten().for_each(|&s| readers[s] += 1);
        self.outputs.iter().for_each(|p| readers[self.slots[&p.name]] += 1);
        readers
    }

    /// Joins norms with the convolutions before them, and biases with products.
    fn join(&mut self) -> Result<()> {
        let readers = self.readers();
        let mut makers: HashMap<usize, usize> = HashMap::new();
        let mut gone = vec![false; self.steps.len()];
        for i in 0..self.steps.len() {
            let step = &self.steps[i];
            let before = |k: usize| {
                let slot = (*step.inputs.get(k)?)?;
                let maker = *makers.get(&slot)?;
                (readers[slot] == 1 && self.steps[maker].outputs.len() == 1).then_some(maker)
            };
            match &*step.node.op {
                "BatchNormalization" if step.outputs.iter().flatten().count() == 1 => {
                    let Some(conv) = before(0).filter(|&c| self.steps[c].node.op == "Conv") else {
                        self.mark(i, &mut makers);
                        continue;
                    };
                    let part = |k: usize| self.tensor(step.inputs.get(k).copied().flatten());
                    let [Some(a), Some(b), Some(c), Some(d)] = [part(1), part(2), part(3), part(4)] else {
                        self.mark(i, &mut makers);
                        continue;
                    };
                    let inputs = &self.steps[conv].inputs;
                    let at = |k: usize| inputs.get(k).copied().flatten();
                    let Some(w) = self.tensor(at(1)) else {
                        self.mark(i, &mut makers);
                        continue;
                    };
                    let bias = self.tensor(at(2));
                    if (bias.is_none() && at(2).is_some()) || bias.as_ref().is_some_and(|b| b.len() != w.shape()[0]) {
                        self.mark(i, &mut makers);
                        continue;
                    }
                    let norm = [a.data(), b.data(), c.data(), d.data()];
                    let joined = ops::fold_norm(&self.cx(step), &w, bias.as_ref(), norm);
                    let (w, bias) = joined.map_err(|why| self.fail(step, why))?;
                    let out = step.outputs.clone();
                    let slots = [w, bias].map(|t| {
                        self.constants.push(Some(Value::Float(Floats::new(t))));
                        Some(self.constants.len() - 1)
                    });
                    let conv_step = &mut self.steps[conv];
                    conv_step.inputs.truncate(1);
                    conv_step.inputs.extend(slots);
                    conv_step.outputs = out;
                    gone[i] = true;
                    self.mark(conv, &mut makers);
                }
                "Add" => {
                    let (Some(k), Some(product)) = (match (before(0), before(1)) {
                        (Some(p), _) if self.steps[p].node.op == "MatMul" => (Some(1), Some(p)),
                        (_, Some(p)) if self.steps[p].node.op == "MatMul" => (Some(0), Some(p)),
                        _ => (None, None),
                    }) else {
                        self.mark(i, &mut makers);
                        continue;
                    };
                    let slot = |s: usize, k: usize| self.steps[s].inputs.get(k).copied().flatten();
                    let (w, bias) = (self.tensor(slot(product, 1)), self.tensor(slot(i, k)));
                    let fits = matches!((&w, &bias), (Some(w), Some(b)) if w.shape().len() == 2
                        && b.shape() == [w.shape()[1]] && self.steps[product].inputs.len() == 2);
                    if fits {
                        let (bias, out) = (slot(i, k), step.outputs.clone());
                        self.steps[product].inputs.push(bias);
                        self.steps[product].outputs = out;
                        gone[i] = true;
                        self.mark(product, &mut makers);
                    } else {
                        self.mark(i, &mut makers);
                    }
                }
                _ => self.mark(i, &mut makers),
            }
        }
        let mut gone = gone.into_iter();
        self.steps.retain(|_| !gone.next().unwrap_or(false));
        Ok(())
    }

    fn mark(&self, step: usize, makers: &mut HashMap<usize, usize>) {
        self.steps[step].outputs.iter().flatten().for_each(|&s| _ = makers.insert(s, step));
    }

    /// Arranges constant weights for their kernels.
    fn lay_out(&mut self) -> Result<()> {
        for i in 0..self.steps.len() {
            let step = &self.steps[i];
            let part = |k: usize| self.tensor(step.inputs.get(k).copied().flatten());
            let there = |k: usize| step.inputs.get(k).copied().flatten().is_some();
            let cx = self.cx(step);
            let said = |e: String| self.fail(step, e);
            let Some(w) = part(1) else { continue };
            let ready = match (&*step.node.op, w.shape().len()) {
                ("MatMul", 2) => Ready::Linear(Linear::new(w, true, part(2))),
                ("Gemm", 2) => {
                    let plain = cx.float("alpha", 1.0).map_err(said)? == 1.0 && cx.int("transA", 0).map_err(said)? == 0;
                    let by_columns = cx.int("transB", 0).map_err(said)? == 0;
                    let rows = w.shape()[usize::from(by_columns)];
                    let bias = part(2);
                    let bias_fits = match &bias {
                        Some(b) => {
                            b.len() == rows
                                && cx.float("beta", 1.0).map_err(said)? == 1.0
                                && b.shape().iter().filter(|&&d| d != 1).count() <= 1
                                && b.shape().last() == Some(&rows)
                        }
                        None => !there(2),
                    };
                    if !plain || !bias_fits {
                        continue;
                    }
                    Ready::Linear(Linear::new(w, by_columns, bias))
                }
                ("Conv", 3..=5) => {
                    let bias = part(2);
                    let fits = bias.as_ref().map_or(!there(2), |b| b.len() == w.shape()[0]);
                    if !fits || w.is_empty() {
                        continue;
                    }
                    let all = |name: &str, value: i64| {
                        cx.ints(name).map(|l| l.is_none_or(|l| l.iter().all(|&v| v == value))).map_err(said)
                    };
                    let point = w.shape()[2..].iter().all(|&k| k == 1)
                        && cx.int("group", 1).map_err(said)? == 1
                        && all("strides", 1)?
                        && all("pads", 0)?;
                    match point {
                        true => {
                            let shape = [w.shape()[0], w.shape()[1]];
                            Ready::Point(Linear::new(w.reshape(&shape), false, bias))
                        }
                        false => Ready::Conv { packed: ops::packed(&w), shape: w, bias },
                    }
                }
                _ => continue,
            };
            self.steps[i].ready = ready;
        }
        // Weights that were arranged are not needed in their original form.
        let mut needed = vec![false; self.constants.len()];
        for step in &self.steps {
            let from = if matches!(step.ready, Ready::Nothing) { 0 } else { step.inputs.len() };
            step.inputs[from.min(step.inputs.len())..].iter().flatten().for_each(|&s| needed[s] = true);
        }
        self.outputs.iter().for_each(|p| needed[self.slots[&p.name]] = true);
        self.constants.iter_mut().zip(needed).filter(|(_, n)| !n).for_each(|(c, _)| *c = None);
        Ok(())
    }

    /// Finds the step that reads each value last.
    fn mortality(&mut self) {
        let mut last: HashMap<usize, usize> = HashMap::new();
        for (i, step) in self.steps.iter().enumerate() {
            step.inputs.iter().chain(&step.outputs).flatten().for_each(|&s| _ = last.insert(s, i));
        }
        self.outputs.iter().for_each(|p| _ = last.remove(&self.slots[&p.name]));
        self.steps.iter_mut().for_each(|s| s.dies.clear());
        for (slot, i) in last {
            self.steps[i].dies.push(slot);
        }
    }

    /// Inputs.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// Outputs.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// Number of steps.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether everything was constant.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Starts a run with named input values.
    ///
    /// # Errors
    /// When one is missing, unknown, or of another type or shape than the graph declares.
    pub fn begin(&self, given: Vec<(&str, Value)>) -> Result<State> {
        let mut state = State {
            values: vec![None; self.constants.len()],
            live: 0,
            fuel: Arc::new(AtomicUsize::new(self.steps_inside())),
        };
        for (name, value) in given {
            let Some(port) = self.inputs.iter().find(|p| p.name == name) else {
                let names: Vec<&str> = self.inputs.iter().map(|p| p.name.as_str()).collect();
                return Err(Error::Refused(format!(
                    "the network has no input `{name}`; it reads {}",
                    names.join(", ")
                )));
            };
            let kind = match port.kind {
                None => true,
                Some(kind) if kind.is_float() => matches!(value, Value::Float(_)),
                Some(DType::U8) => matches!(value, Value::Byte(_)),
                Some(DType::I8) => matches!(value, Value::Small(_)),
                Some(DType::Bool) => matches!(value, Value::Bool(_)),
                Some(_) => matches!(value, Value::Int(_)),
            };
            let shape = value.shape();
            let fits = port.shape.as_ref().is_none_or(|s| {
                s.len() == shape.len() && s.iter().zip(&shape).all(|(want, have)| want.is_none_or(|w| w == *have))
            });
            if !kind || !fits {
                let want = port.shape.as_ref().map_or("any shape".into(), |s| {
                    let one = |d: &Option<usize>| d.map_or("?".into(), |d| d.to_string());
                    format!("shape [{}]", s.iter().map(one).collect::<Vec<_>>().join(", "))
                });
                return Err(Error::Refused(format!(
                    "input `{name}` takes {} of {want}, not {} of shape {shape:?}",
                    port.kind.map_or("numbers", DType::name),
                    value.kind()
                )));
            }
            let value = match port.kind {
                Some(kind) => value.of(kind),
                None => value,
            };
            state.live += value.len();
            state.values[self.slots[name]] = Some(value);
        }
        if let Some(p) = self.inputs.iter().find(|p| state.values[self.slots[&p.name]].is_none()) {
            return Err(Error::Refused(format!("input `{}` of the network is missing", p.name)));
        }
        Ok(state)
    }

    /// Returns a value that step `i` reads, before it runs.
    pub fn reads(&self, i: usize, input: usize, state: &State) -> Option<Value> {
        let slot = self.steps[i].inputs.get(input).copied().flatten()?;
        self.constants[slot].clone().or_else(|| state.values[slot].clone())
    }

    /// Finds the step that computes a value.
    pub fn position(&self, output: &str) -> Option<usize> {
        let slot = self.slots.get(output)?;
        self.steps.iter().position(|s| s.outputs.contains(&Some(*slot)))
    }

    /// Replaces a constant of a plain session, and recomputes what depends only on constants.
    ///
    /// # Errors
    /// When it does not have the type and shape of the old one.
    pub fn replace(&mut self, name: &str, value: Value) -> Result<()> {
        let Some(&slot) = self.slots.get(name) else { return Ok(()) };
        self.constants[slot] = Some(value);
        let mut changed = vec![slot];
        for step in &self.folded {
            if !step.inputs.iter().flatten().any(|s| changed.contains(s)) {
                continue;
            }
            let given = Given(step.inputs.iter().map(|s| s.and_then(|s| self.constants[s].clone())).collect());
            let values = ops::run(step.op, &self.cx_with(step, &AtomicUsize::new(self.steps_inside())), given)
                .map_err(|why| self.fail(step, why))?;
            for (slot, value) in step.outputs.iter().zip(values) {
                if let Some(slot) = *slot {
                    self.constants[slot] = Some(value);
                    changed.push(slot);
                }
            }
        }
        Ok(())
    }

    /// Input of the matrix of step `i` of a plain session, `[rows, inputs]`: for a convolution the
    /// patches, at most `most` of them, evenly from all.
    ///
    /// # Errors
    /// When the step has no constant matrix, or its input does not fit.
    pub fn patches(&self, i: usize, state: &State, most: usize) -> Result<Tensor<f32>> {
        let step = &self.steps[i];
        let fail = |why: String| self.fail(step, why);
        let x = self.reads(i, 0, state).ok_or_else(|| fail("its input was not computed".into()))?;
        let Value::Float(x) = x else { return Err(fail("its input has no floats".into())) };
        match &*step.node.op {
            "Conv" => {
                let w = self.reads(i, 1, state).map(|w| w.shape()).unwrap_or_default();
                ops::patches(&self.cx(step), x, &w, most).map_err(fail)
            }
            _ => {
                let x = x.rows();
                let (rows, cols) = x.rows_cols();
                Ok(x.reshape(&[rows, cols]))
            }
        }
    }

    /// Returns the outputs of a state that has gone through every step.
    ///
    /// # Errors
    /// When one was not computed.
    pub fn finish(&self, mut state: State) -> Result<Vec<Value>> {
        let mut take = |p: &Port| {
            let slot = self.slots[&p.name];
            let found = self.constants[slot].clone().or_else(|| state.values[slot].take());
            found.ok_or_else(|| Error::Refused(format!("output `{}` was not computed", p.name)))
        };
        self.outputs.iter().map(&mut take).collect()
    }

    /// Runs one step; `seen` collects constant matrices.
    ///
    /// # Errors
    /// Those of the operator, with its node.
    pub fn step(&self, i: usize, state: &mut State, seen: Option<&mut Vec<Layer>>) -> Result<()> {
        let fuel = state.fuel.clone();
        self.step_with(i, state, seen, &fuel)
    }

    fn step_with(&self, i: usize, state: &mut State, seen: Option<&mut Vec<Layer>>, fuel: &AtomicUsize) -> Result<()> {
        let step = &self.steps[i];
        let fail = |why: String| self.fail(step, why);
        let mut given = Vec::with_capacity(step.inputs.len());
        for (k, slot) in step.inputs.iter().enumerate() {
            let Some(slot) = *slot else {
                given.push(None);
                continue;
            };
            if k > 0 && !matches!(step.ready, Ready::Nothing) {
                break;
            }
            let again = step.inputs[k + 1..].contains(&Some(slot));
            let value = match (&self.constants[slot], step.dies.contains(&slot) && !again) {
                (Some(value), _) => Some(value.clone()),
                (None, true) => state.values[slot].take().inspect(|v| state.live -= v.len()),
                (None, false) => state.values[slot].clone(),
            };
            given.push(Some(value.ok_or_else(|| fail(format!("input {k} was not computed")))?));
        }
        let mut given = Given(given);
        let cx = self.cx_with(step, fuel);
        let kind = given.0.first().and_then(|v| v.as_ref().map(Value::dtype)).filter(|k| *k != DType::F32);
        let values = match &step.ready {
            Ready::Nothing => ops::run(step.op, &cx, given),
            Ready::Linear(w) => self.linear(step, w, &mut given, seen),
            Ready::Point(w) => self.point(step, w, &mut given, seen),
            Ready::Conv { shape, packed, bias } => {
                given.floats(0).and_then(|x| ops::convolve(&cx, x, shape, Some(packed), bias.as_ref()))
            }
        }
        .map_err(fail)?;
        self.few_axes(step, &values)?;
        let narrow = kind.filter(|_| !matches!(step.ready, Ready::Nothing));
        let mut values = values.into_iter().map(|v| match narrow {
            Some(kind) => v.of(kind),
            None => v,
        });
        for slot in &step.outputs {
            let Some(value) = values.next() else {
                if slot.is_some() {
                    return Err(fail("it does not compute all outputs that are asked of it".into()));
                }
                continue;
            };
            if let Some(slot) = *slot
                && !step.dies.contains(&slot)
            {
                state.live += value.len();
                state.values[slot] = Some(value);
            }
        }
        for &slot in &step.dies {
            if let Some(v) = state.values[slot].take() {
                state.live -= v.len();
            }
        }
        match state.live <= self.budget.numbers {
            true => Ok(()),
            false => Err(fail(format!("more than {} numbers would be held at one time", self.budget.numbers))),
        }
    }

    fn advised(&self, step: &Step, w: &Linear, n: usize, seen: Option<&mut Vec<Layer>>) -> &'static str {
        let kernel = match &self.advice {
            // Nothing is gained by lists of all entries.
            Some(advice) if w.density() < 1.0 && n > 0 && w.rows > 0 && w.cols > 0 => {
                advice(w.rows, w.cols, w.density(), n)
            }
            _ => "dense",
        };
        if let Some(seen) = seen {
            let name = step.node.label().to_string();
            seen.push(Layer { name, rows: w.rows, cols: w.cols, density: w.density(), batch: n, kernel });
        }
        kernel
    }

    fn linear(&self, step: &Step, w: &Linear, given: &mut Given, seen: Option<&mut Vec<Layer>>) -> ops::Done {
        let x = given.tensor(0)?;
        if step.node.op == "Gemm" && x.shape().len() != 2 {
            return Err(format!("an input of shape {:?}, which is no matrix", x.shape()));
        }
        let n = ops::flat(&x, w.cols)?;
        let shape = ops::linear_shape(x.shape(), w.rows);
        self.cx(step).room(&shape)?;
        let kernel = self.advised(step, w, n, seen);
        let n = shape.iter().product::<usize>().checked_div(w.rows).unwrap_or(n);
        ops::tensor(w.apply(kernel, n, x.data()).reshape(&shape))
    }

    fn point(&self, step: &Step, w: &Linear, given: &mut Given, seen: Option<&mut Vec<Layer>>) -> ops::Done {
        let x = given.floats(0)?;
        let shape = x.shape();
        if !(3..=5).contains(&shape.len()) || shape[1] != w.cols {
            return Err(format!("an input of shape {shape:?} for a kernel of {} channels", w.cols));
        }
        let x = x.last();
        let mut to = x.shape().to_vec();
        *to.last_mut().unwrap_or(&mut 0) = w.rows;
        self.cx(step).room(&to)?;
        let n = to[..to.len() - 1].iter().product();
        let kernel = self.advised(step, w, n, seen);
        let y = w.apply(kernel, n, x.data()).reshape(&to);
        ops::one(Value::Float(Floats::channels_last(y)))
    }

    /// Runs the whole graph: from named inputs to the outputs in their order.
    ///
    /// # Errors
    /// As [`Session::begin`] and [`Session::step`].
    pub fn run(&self, given: Vec<(&str, Value)>) -> Result<Vec<Value>> {
        self.watch(given, None).map(|(values, _)| values)
    }

    /// As [`Session::run`], and reports how each constant matrix was multiplied.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn explain(&self, given: Vec<(&str, Value)>) -> Result<(Vec<Value>, Vec<Layer>)> {
        self.watch(given, Some(Vec::new()))
    }

    fn watch(&self, given: Vec<(&str, Value)>, mut seen: Option<Vec<Layer>>) -> Result<(Vec<Value>, Vec<Layer>)> {
        let mut state = self.begin(given)?;
        (0..self.steps.len()).try_for_each(|i| self.step(i, &mut state, seen.as_mut()))?;
        Ok((self.finish(state)?, seen.unwrap_or_default()))
    }
}
