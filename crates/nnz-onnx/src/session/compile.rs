//! From a graph to a session: operators are found, what is constant is computed, norms and biases are joined with products, weights
//! are laid out for their kernels.

use super::{Advice, Budget, Ready, Session, Step};
use crate::graph::Graph;
use crate::ops::{self, Given, Inside, Linear};
use crate::value::{Floats, Value};
use crate::{Error, Result};
use nnz_engine::Tensor;
use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;

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
}
