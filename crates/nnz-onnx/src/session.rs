//! Running a graph.

mod compile;

use crate::graph::{DType, Node, Port};
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

    /// Limits the number of axes, since some operators recurse over them.
    fn few_axes(&self, step: &Step, values: &[Value]) -> Result<()> {
        match values.iter().map(|v| v.shape().len()).find(|&rank| rank > crate::graph::AXES) {
            None => Ok(()),
            Some(rank) => Err(self
                .fail(step, format!("its output has {rank} axes; at most {} are computed with", crate::graph::AXES))),
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
            // Operators multiply extents, and a zero among them hides the others.
            crate::graph::count(&shape).map_err(|why| Error::Refused(format!("input `{name}`: {why}")))?;
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
