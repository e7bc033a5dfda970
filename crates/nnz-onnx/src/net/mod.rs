//! A graph as a network of the engine: weights are its parameters, operators run on the tape.
//!
//! [`GraphNet`] is a layer, so a network that another program trained goes wherever one of nnz goes: methods prune it, trainers
//! train it, files hold it. What depends neither on the input nor on a weight (shapes, indices, masks) is computed by the
//! operators that run a [`Session`](crate::Session); the rest has a gradient, or is refused by the name of its node.

mod moves;
mod pass;
mod plan;
mod recurrent;
mod slopes;
mod spatial;
mod units;

use crate::graph::{Constant, Graph, Port};
use crate::session::{Budget, Session};
use crate::value::Value;
use crate::{Error, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use nnz_core::{Prunable, Topology};
use nnz_engine::layers::{Context, Fit};
use nnz_engine::{
    Axis, CustomLayer, Layout, Model, ModelSpec, Open, Param, ParamSpec, Pass, PolicyRef, Real, Role, Tensor, Var,
};
use plan::Plan;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use units::Found;

/// Most numbers that one value of a pass may have.
const MOST: usize = 1 << 30;
/// Most of one that is known without the tape, or of places that numbers are moved from.
const PLAIN: usize = 1 << 28;

/// A network in ONNX's form, as a layer.
///
/// Trained are the weights of products, convolutions and recurrent layers, their biases, tables, norms, and other constants of
/// several finite floats. Of these others stay as they are: those that an exporter made up (names that begin with `/` or
/// `onnx::`), masks (two numbers in turn), and what meets the input before any weight does, which makes rows ready.
/// `BatchNormalization` normalizes by the batch in training, as in PyTorch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct GraphNet {
    stored: Stored,
    plan: Arc<Plan>,
}

/// What a file holds of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    /// The name of its file.
    file: String,
    /// An ONNX file in base64, whose inputs are that of the network and then every weight.
    graph: String,
    /// Extents of the output, without the batch.
    output: Vec<usize>,
    /// How often one row goes through each weight.
    #[serde(default)]
    uses: Vec<usize>,
}

impl TryFrom<Stored> for GraphNet {
    type Error = String;

    fn try_from(stored: Stored) -> Result<Self, String> {
        let bytes = BASE64_STANDARD.decode(&stored.graph).map_err(|e| format!("`graph` is no base64: {e}"))?;
        let graph = Graph::parse(bytes.into(), Path::new(&stored.file), None).map_err(|e| e.to_string())?;
        let plan = Arc::new(Plan::new(&graph).map_err(|e| e.to_string())?);
        Ok(Self { stored, plan })
    }
}

impl From<GraphNet> for Stored {
    fn from(net: GraphNet) -> Self {
        net.stored
    }
}

/// Most that an answer of the tape may differ from that of a session, relative to the largest number or one.
const CLOSE: f64 = 1e-4;

impl GraphNet {
    /// The network of a graph, whose only layer this is, for rows of `[channels, height, width]`. Weights that are zero are
    /// connections that it lacks; the others are prunable as `prunable` says. The first answers are compared with those of a
    /// [`Session`], row by row.
    ///
    /// # Errors
    /// When it reads other rows or several values, has no weights, a node has no gradient, or rows of one batch change each other's
    /// answers; the message names the place.
    pub fn model<'a>(
        graph: &Graph,
        input: [usize; 3],
        storage: impl Into<PolicyRef<'a>>,
        prunable: &Prunable,
    ) -> Result<Model<f32>> {
        let fail = |why: String| Error::file(&graph.path, why);
        let engine = |e: nnz_engine::Error| fail(e.to_string());
        let (net, values) = Self::new(graph)?;
        let [c, h, w] = input;
        net.plan.takes(&[h, w, c]).map_err(fail)?;
        let name = graph.path.file_stem().map_or_else(|| graph.name.clone(), |n| n.to_string_lossy().into_owned());
        let spec = ModelSpec { name, input, layers: vec![Open::new(net.clone()).into()] };
        let storage = storage.into();
        let mut params = Vec::with_capacity(values.len());
        for (p, values) in spec.params().into_iter().zip(values) {
            let weight = p.role == Role::Weight;
            let chosen = weight && prunable.takes(&p.shape);
            if weight && values.contains(&0.0) {
                let (rows, cols) = (p.shape.rows, p.shape.cols);
                let there = (0..values.len()).filter(|&i| values[i] != 0.0).map(|i| i as u64);
                let topology = Topology::from_positions(rows, cols, there);
                let left = values.into_iter().filter(|v| *v != 0.0).collect();
                params.push(Param::from_entries(&p.shape, chosen, topology, storage, left).map_err(engine)?);
                continue;
            }
            let value = Tensor::new(&p.dims(), values);
            params.push(Param { shape: p.shape, role: p.role, prunable: chosen, layout: Layout::Dense, value });
        }
        let mut model = Model { spec, params };
        let found = net.try_out(&model, graph).map_err(engine)?;
        let want = net.judge(graph, input, &found)?;
        model.spec.layers = vec![Open::new(net.giving(&want)).into()];
        Ok(model)
    }

    /// The layer of a network that is one, read from a graph or a file.
    pub fn of(model: &Model<f32>) -> Option<Self> {
        match &model.spec.layers[..] {
            [nnz_engine::LayerSpec::Open(open)] if open.kind() == Self::KIND => open.read().ok(),
            _ => None,
        }
    }

    /// A row of numbers from -1 to 1, or of tokens, channels first.
    fn typical(&self, row: usize, len: usize) -> Vec<f32> {
        let one = |i: usize| match self.tokens() {
            true => ((i + row) % 2) as f32,
            false => ((i + row * len) * 7919 % 2003) as f32 / 1001.0 - 1.0,
        };
        (0..len).map(one).collect()
    }

    /// Answers for two rows.
    fn try_out(&self, model: &Model<f32>, graph: &Graph) -> nnz_engine::Result<Tensor<f32>> {
        let [c, h, w] = model.spec.input;
        let mut x = Vec::with_capacity(2 * c * h * w);
        for row in (0..2).map(|r| self.typical(r, c * h * w)) {
            x.extend((0..h * w * c).map(|i| row[self.channels_first(i, [c, h, w])]));
        }
        let leaves: Vec<Var<f32>> = model.params.iter().map(|p| Var::constant(p.value.clone())).collect();
        let x = Var::constant(Tensor::new(&[2, h * w * c], x));
        let y = model.forward(&x, &leaves, Pass::default())?.0.value().clone();
        match y.shape() {
            [2, _, ..] => Ok(y),
            other => Err(nnz_engine::Error::Refused(format!(
                "{}: gives {other:?} for two rows; export it with a batch of any number of rows (dynamic axes)",
                graph.path.display()
            ))),
        }
    }

    /// Where number `i` of `[height, width, channels]` lies in what the graph reads.
    fn channels_first(&self, i: usize, [c, h, w]: [usize; 3]) -> usize {
        if self.plan.input.len() == 2 { i } else { i % c * h * w + i / c }
    }

    /// Compares answers for two rows with those of a session; returns their extents.
    fn judge(&self, graph: &Graph, [c, h, w]: [usize; 3], found: &Tensor<f32>) -> Result<Vec<usize>> {
        let session = Session::new(graph, None, Budget::default())?;
        let port = &graph.inputs[0];
        let row: Vec<usize> = match self.plan.input.len() {
            1 => vec![c * h * w],
            2 if c == 1 && self.plan.takes(&[h, w, 1]).is_ok() && self.plan.input[0].is_none_or(|a| a == h) => {
                vec![h, w]
            }
            2 => vec![h * w, c],
            _ => vec![c, h, w],
        };
        let times = self.batch().unwrap_or(1).max(1);
        let shape = [&[times][..], &row].concat();
        let (_, cols) = (2, found.len() / 2);
        for r in 0..2 {
            let one = self.typical(r, c * h * w);
            let all: Vec<f32> = (0..times).flat_map(|_| one.iter().copied()).collect();
            let x = match self.tokens() {
                true => Value::ints(&shape, all.iter().map(|&v| v as i64).collect()),
                false => Value::floats(&shape, all),
            };
            let first = session.run(vec![(port.name.as_str(), x)])?.into_iter().next().and_then(Value::into_floats);
            let Some(want) = first.filter(|t| t.len() == times * cols) else {
                return Err(Error::file(&graph.path, "its output is not one answer for each row of its input"));
            };
            let (got, want) = (&found.data()[r * cols..(r + 1) * cols], &want.data()[..cols]);
            let size = want.iter().fold(1.0f64, |m, v| m.max(f64::from(v.abs())));
            let far = got.iter().zip(want).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
            if far.is_nan() || far > CLOSE * size {
                return Err(Error::file(
                    &graph.path,
                    format!(
                        "trained, it would answer otherwise ({far:.1e} apart): its nodes were exported for another number of rows \
                         than come at once here; export it with a batch of any number of rows (dynamic axes)"
                    ),
                ));
            }
        }
        Ok(found.shape()[1..].to_vec())
    }

    /// Takes a graph apart into a layer and the values of its parameters, in their order.
    fn new(graph: &Graph) -> Result<(Self, Vec<Vec<f32>>)> {
        let mut bare = graph.clone();
        let names = plan::weights(graph)?;
        if names.is_empty() {
            return Err(Error::file(&graph.path, "no weights of floats are in it, so there is nothing to train"));
        }
        let mut found = BTreeMap::new();
        for name in names {
            let Some(c) = bare.constants.remove(&name) else { continue };
            let shape = Some(c.shape.iter().map(|&d| Some(d)).collect());
            bare.inputs.push(Port { name: name.clone(), kind: Some(c.kind), shape });
            c.whole().map_err(|e| Error::file(&graph.path, e))?;
            found.insert(name, c);
        }
        let plan = Plan::new(&bare)?;
        let mut values = Vec::with_capacity(plan.weights.len());
        for w in &plan.weights {
            let numbers = found[&w.name].numbers();
            if let Some(at) = numbers.iter().position(|v| !v.is_finite()) {
                return Err(Error::file(&graph.path, format!("`{}` holds {} at number {at}", w.name, numbers[at])));
            }
            values.push(w.to_param(&numbers));
        }
        let file = graph.path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let graph = BASE64_STANDARD.encode(bare.write(false));
        Ok((
            Self { stored: Stored { file, graph, output: Vec::new(), uses: Vec::new() }, plan: Arc::new(plan) },
            values,
        ))
    }

    /// The same with these extents of its output, without the batch, and what a pass counted.
    fn giving(mut self, output: &[usize]) -> Self {
        self.stored.output = output.to_vec();
        self.stored.uses = self.plan.counted.get().cloned().unwrap_or_default();
        self
    }

    /// The operators that have a gradient, sorted.
    pub fn operators() -> Vec<&'static str> {
        let mut all: Vec<&str> = slopes::SLOPES.iter().chain(moves::MOVES).copied().collect();
        all.sort_unstable();
        all
    }

    /// Extents of one row of its input; `None` for those that the file leaves open.
    pub fn reads(&self) -> &[Option<usize>] {
        &self.plan.input
    }

    /// Whether its input are whole numbers: tokens.
    pub fn tokens(&self) -> bool {
        self.plan.tokens
    }

    /// The number of rows that the file says come at once.
    pub fn batch(&self) -> Option<usize> {
        self.plan.batch
    }

    /// The names of its weights that are buffers or trained, in the order of its parameters.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.plan.weights.iter().map(|w| w.name.as_str())
    }

    /// Whether a pass shows what each of its parameters reads: matrices of products and kernels without groups.
    pub fn shown(&self) -> Vec<bool> {
        let mut shown = vec![false; self.plan.weights.len()];
        for step in &self.plan.steps {
            for input in 1..step.inputs.len() {
                let Some((w, flipped)) = self.plan.weight(step, input) else { continue };
                let weight = &self.plan.weights[w];
                let turned = step.node.op == "Gemm" && plan::int(&step.node, "transB", 0) != 0;
                shown[w] |= match &*step.node.op {
                    "MatMul" | "Gemm" => input == 1 && weight.dims.len() == 2 && weight.turned() != (flipped != turned),
                    "Conv" => weight.uses == 1 && plan::int(&step.node, "group", 1) == 1,
                    // In one direction, and without a gate that resets the state first.
                    "LSTM" | "RNN" => weight.dims[0] == 1,
                    "GRU" => {
                        weight.dims[0] == 1 && (input == 1 || plan::int(&step.node, "linear_before_reset", 0) != 0)
                    }
                    _ => false,
                };
            }
        }
        shown
    }

    /// Weights whose outputs cannot be cut, by the reason, for rows `[height, width, channels]`.
    pub fn held(&self, input: &[usize]) -> BTreeMap<String, Vec<String>> {
        self.found(input).map(|f| f.held.clone()).unwrap_or_default()
    }

    /// The axes of units in it, for rows of a shape. Extents of values are those of a pass, here of zeros.
    fn found(&self, input: &[usize]) -> Fit<&Found> {
        if self.plan.shapes.get().is_none() {
            let &[h, w, c] = input else { return Err(format!("rows of shape {input:?}")) };
            let zeros = |w: &plan::Weight| Param {
                value: Tensor::zeros(&w.spec.dims()),
                shape: w.spec.shape.clone(),
                role: w.spec.role,
                prunable: false,
                layout: Layout::Dense,
            };
            let params: Vec<Param<f32>> = self.plan.weights.iter().map(zeros).collect();
            let layers = vec![Open::new(self.clone()).into()];
            let model = Model { spec: ModelSpec { name: self.stored.file.clone(), input: [c, h, w], layers }, params };
            model.infer(Tensor::zeros(&[plan::ROWS, h * w * c])).map_err(|e| e.to_string())?;
        }
        let shapes = self.plan.shapes.get().ok_or("a pass tells no extents")?;
        Ok(self.plan.units.get_or_init(|| units::find(&self.plan, shapes)))
    }

    /// The graph with the values of a model whose only layer this is.
    ///
    /// # Errors
    /// When a value does not fit into the number type of its constant.
    pub fn graph(&self, model: &Model<f32>) -> Result<Graph> {
        let bytes = BASE64_STANDARD.decode(&self.stored.graph).unwrap_or_default();
        let mut graph = Graph::parse(bytes.into(), Path::new(&self.stored.file), None)?;
        let ports = graph.inputs.split_off(1);
        for (weight, param) in self.plan.weights.iter().zip(&model.params) {
            let kind = ports.iter().find(|p| p.name == weight.name).and_then(|p| p.kind);
            let numbers = weight.to_constant(&entries(param));
            let constant = Constant::of(&weight.dims, kind.unwrap_or(crate::DType::F32), &numbers);
            let why = |why| Error::file(&graph.path, format!("`{}`: {why}", weight.name));
            graph.constants.insert(weight.name.clone(), constant.map_err(why)?);
        }
        Ok(graph)
    }

    /// Replaces the weights of the graph that it came from by those of a model. A graph that lost units gets nodes that say so, too.
    ///
    /// # Errors
    /// When a value does not fit into the number type of its constant.
    pub fn write_into(&self, graph: &mut Graph, model: &Model<f32>) -> Result<()> {
        let smaller = |w: &plan::Weight| graph.constants.get(&w.name).is_some_and(|c| c.shape != w.dims);
        if self.plan.weights.iter().any(smaller) {
            let own = self.graph(model)?;
            (graph.nodes, graph.constants) = (own.nodes, own.constants);
            return Ok(());
        }
        for (weight, param) in self.plan.weights.iter().zip(&model.params) {
            let Some(old) = graph.constants.get(&weight.name) else { continue };
            let new = old.with(&weight.to_constant(&entries(param)));
            let why = |why| Error::file(&graph.path, format!("`{}`: {why}", weight.name));
            let new = new.map_err(why)?;
            graph.constants.insert(weight.name.clone(), new);
        }
        Ok(())
    }
}

/// All entries of a parameter, zero or not.
fn entries(param: &Param<f32>) -> Vec<f32> {
    if !param.weight() {
        return param.value.data().to_vec();
    }
    let rows = param.by_rows();
    let mut all = vec![0.0; param.shape.len()];
    rows.topology.positions().zip(rows.of(&param.value)).for_each(|(i, v)| all[i as usize] = v);
    all
}

impl CustomLayer for GraphNet {
    const KIND: &'static str = "onnx";

    fn params(&self) -> Vec<ParamSpec> {
        self.plan.weights.iter().map(|w| w.spec.clone()).collect()
    }

    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        self.plan.takes(input)?;
        match self.stored.output.is_empty() {
            true => Err("its output has no extents".into()),
            false => Ok(self.stored.output.clone()),
        }
    }

    fn axes(&self, input: &[usize]) -> Vec<Axis> {
        self.found(input).map(|f| f.axes.clone()).unwrap_or_default()
    }

    fn cut(&self, input: &[usize], keep: &[Vec<bool>]) -> Fit<Self> {
        let found = self.found(input)?;
        let bytes = BASE64_STANDARD.decode(&self.stored.graph).map_err(|e| e.to_string())?;
        let mut graph = Graph::parse(bytes.into(), Path::new(&self.stored.file), None).map_err(|e| e.to_string())?;
        let names: Vec<&str> = self.names().collect();
        found.cut(&mut graph, &names, keep)?;
        let plan = Arc::new(Plan::new(&graph).map_err(|e| e.to_string())?);
        let stored = Stored { graph: BASE64_STANDARD.encode(graph.write(false)), ..self.stored.clone() };
        let smaller = Self { stored, plan };
        // A pass shows that its nodes fit together.
        smaller.found(input)?;
        match smaller.names().eq(names) {
            true => Ok(smaller),
            false => Err(format!("{}: without some units it reads other weights", self.stored.file)),
        }
    }

    fn uses(&self, _input: &[usize]) -> Option<Vec<usize>> {
        Some(self.stored.uses.clone())
    }

    fn forward<T: Real>(&self, x: &Var<T>, cx: &mut Context<'_, T>) -> nnz_engine::Result<Var<T>> {
        if x.shape().first() == Some(&0) {
            cx.seek(cx.position() + self.plan.weights.len());
            return Ok(Var::constant(Tensor::zeros(&[&[0], &self.stored.output[..]].concat())));
        }
        let y = pass::run(&self.plan, x, cx).map_err(|e| nnz_engine::Error::Refused(e.to_string()))?;
        let (rows, want) = (y.shape().first().copied().unwrap_or(0), &self.stored.output);
        // Before the extents are known, they are what comes out.
        match want.is_empty() || (y.shape().get(1..) == Some(want) && rows == x.shape()[0]) {
            true => Ok(y),
            false => Err(nnz_engine::Error::Refused(format!(
                "{}: gives {:?} for {} rows, not {want:?} for each; export it with a batch of any number of rows (dynamic axes)",
                self.stored.file,
                y.shape(),
                x.shape()[0]
            ))),
        }
    }
}
