//! A network in ONNX's form: nodes, each an operator, between named values.

use crate::proto;
use crate::{Error, Result};
use bytes::Bytes;
use nnz_kernels::Map;
use prost::Message;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

mod constant;
mod reading;

pub(crate) use constant::count;
pub use constant::{Constant, DType};
use constant::{Files, mapped};
use reading::{Functions, Reading};

/// The operator set that graphs built here use.
pub const OPSET: i64 = 20;
/// Operator sets that can be read.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=28;
/// Newest version of the format that is read.
const IR: i64 = 14;
/// How deep graphs may lie inside nodes, and calls inside functions.
const NESTED: usize = 8;
/// Most nodes of functions that replace their calls.
const NODES: usize = 1 << 18;
/// Most bytes of functions' nodes, copied for each call.
const BYTES: usize = 1 << 27;
/// Most axes of a value.
pub(crate) const AXES: usize = 8;

/// An attribute of an operator.
#[derive(Clone, Debug)]
pub enum Attribute {
    /// An integer.
    Int(i64),
    /// A float.
    Float(f32),
    /// A text.
    Text(String),
    /// Integers.
    Ints(Vec<i64>),
    /// Floats.
    Floats(Vec<f32>),
    /// Texts.
    Texts(Vec<String>),
    /// An array.
    Tensor(Constant),
    /// A graph that its operator runs.
    Graph(Body),
}

/// A graph inside a node, such as a branch of `If`.
#[derive(Clone, Debug)]
pub struct Body {
    /// Its nodes; values of the graphs around it that it reads are inputs after its own. Its constants are in the outermost graph.
    pub graph: Box<Graph>,
    /// Number of its own inputs.
    pub declared: usize,
}

impl Body {
    /// The values of the graphs around it that it reads.
    pub fn captures(&self) -> impl Iterator<Item = &str> {
        self.graph.inputs[self.declared..].iter().map(|p| p.name.as_str())
    }

    /// Gives values that it reads from around it other names.
    pub(crate) fn rename(&mut self, of: &dyn Fn(&str) -> Option<String>) {
        let own: HashSet<String> = self.graph.inputs[..self.declared].iter().map(|p| p.name.clone()).collect();
        let made: HashSet<String> = self.graph.nodes.iter().flat_map(|n| n.outputs.iter().cloned()).collect();
        let new = |name: &str| of(name).filter(|_| !own.contains(name) && !made.contains(name));
        for port in self.graph.inputs[self.declared..].iter_mut().chain(&mut self.graph.outputs) {
            port.name = new(&port.name).unwrap_or_else(|| port.name.clone());
        }
        for node in &mut self.graph.nodes {
            node.inputs.iter_mut().for_each(|i| *i = new(i).unwrap_or_else(|| i.clone()));
            node.bodies_mut().for_each(|b| b.rename(&new));
        }
    }
}

impl Attribute {
    fn read(a: &proto::Attribute, reading: &mut Reading, depth: usize) -> Result<Self, String> {
        let text = |b: &Bytes| String::from_utf8(b.to_vec()).map_err(|_| "a text that is no UTF-8".to_string());
        // Old files omit the type.
        let guess = || match (a.f, a.i, &a.s, &a.t) {
            _ if a.g.is_some() => 5,
            (Some(_), ..) => 1,
            (_, Some(_), ..) => 2,
            (_, _, Some(_), _) => 3,
            (.., Some(_)) => 4,
            _ if !a.floats.is_empty() => 6,
            _ if !a.strings.is_empty() => 8,
            _ => 7,
        };
        Ok(match a.kind.filter(|&k| k != 0).unwrap_or_else(guess) {
            1 => Self::Float(a.f.unwrap_or(0.0)),
            2 => Self::Int(a.i.unwrap_or(0)),
            3 => Self::Text(text(a.s.as_ref().unwrap_or(&Bytes::new()))?),
            4 => Self::Tensor(Constant::read(a.t.as_ref().ok_or("no tensor")?, reading.folder, &mut reading.files)?),
            5 => Self::Graph(reading.body(a.g.as_ref().ok_or("no graph")?, depth + 1)?),
            6 => Self::Floats(a.floats.clone()),
            7 => Self::Ints(a.ints.clone()),
            8 => Self::Texts(a.strings.iter().map(text).collect::<Result<_, _>>()?),
            10 => return Err("a list of graphs, which are not run here".into()),
            11 => Self::Tensor(Constant::read_sparse(a.sparse.as_ref().ok_or("no sparse tensor")?)?),
            other => return Err(format!("of ONNX type {other}, which is not read")),
        })
    }

    fn write(&self, name: &str) -> proto::Attribute {
        let mut a = proto::Attribute { name: Some(name.into()), ..Default::default() };
        let kind = match self {
            Self::Float(f) => {
                a.f = Some(*f);
                1
            }
            Self::Int(i) => {
                a.i = Some(*i);
                2
            }
            Self::Text(s) => {
                a.s = Some(Bytes::copy_from_slice(s.as_bytes()));
                3
            }
            Self::Tensor(t) => {
                a.t = Some(t.write(""));
                4
            }
            Self::Floats(f) => {
                a.floats = f.clone();
                6
            }
            Self::Ints(i) => {
                a.ints = i.clone();
                7
            }
            Self::Texts(s) => {
                a.strings = s.iter().map(|s| Bytes::copy_from_slice(s.as_bytes())).collect();
                8
            }
            Self::Graph(body) => {
                let mut g = body.graph.message(false, true);
                g.input.truncate(body.declared);
                a.g = Some(g);
                5
            }
        };
        a.kind = Some(kind);
        a
    }
}

/// A node: one application of an operator.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// The operator, such as `MatMul`.
    pub op: String,
    /// Its name; may be empty.
    pub name: String,
    /// Names of its inputs; empty for an omitted optional one.
    pub inputs: Vec<String>,
    /// Names of its outputs.
    pub outputs: Vec<String>,
    /// Its attributes.
    pub attributes: BTreeMap<String, Attribute>,
}

impl Node {
    /// Makes a node; `name` is its name and that of its only output.
    pub fn new(op: &str, name: &str, inputs: &[&str]) -> Self {
        Self {
            op: op.into(),
            name: name.into(),
            inputs: inputs.iter().map(|s| (*s).into()).collect(),
            outputs: vec![name.into()],
            ..Self::default()
        }
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, name: &str, attribute: Attribute) -> Self {
        self.attributes.insert(name.into(), attribute);
        self
    }

    /// Graphs inside it, by the names of their attributes.
    pub fn bodies(&self) -> impl Iterator<Item = &Body> {
        self.attributes.values().filter_map(|a| if let Attribute::Graph(b) = a { Some(b) } else { None })
    }

    fn bodies_mut(&mut self) -> impl Iterator<Item = &mut Body> {
        self.attributes.values_mut().filter_map(|a| if let Attribute::Graph(b) = a { Some(b) } else { None })
    }

    /// All that it reads: its inputs, then what graphs inside it read from around them.
    pub fn reads(&self) -> impl Iterator<Item = &str> {
        self.inputs.iter().map(String::as_str).chain(self.bodies().flat_map(Body::captures))
    }

    /// Its name in messages.
    pub fn label(&self) -> &str {
        match self.name.is_empty() {
            true => self.outputs.first().map_or("", String::as_str),
            false => &self.name,
        }
    }
}

/// An input or output of a graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Number type; `None` if the file does not say.
    pub kind: Option<DType>,
    /// Extents; `None` for arbitrary ones.
    pub shape: Option<Vec<Option<usize>>>,
}

/// A network.
#[derive(Clone, Debug)]
pub struct Graph {
    /// Origin, for messages.
    pub path: PathBuf,
    /// Its name.
    pub name: String,
    /// Version of the operator set.
    pub opset: i64,
    /// Nodes in topological order.
    pub nodes: Vec<Node>,
    /// Weights and other constants by name.
    pub constants: BTreeMap<String, Constant>,
    /// Its inputs.
    pub inputs: Vec<Port>,
    /// Its outputs.
    pub outputs: Vec<Port>,
    /// Other metadata of the file.
    pub metadata: BTreeMap<String, String>,
}

impl Graph {
    /// Appends a node; returns the name of its output.
    pub fn add(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> String {
        let name = format!("{op}.{}", self.nodes.len());
        let mut node = Node::new(op, &name, inputs);
        node.attributes = attributes.iter().map(|(k, v)| ((*k).into(), v.clone())).collect();
        self.nodes.push(node);
        name
    }

    /// Reads a file; it is mapped into memory, and weights stay in it until they are used.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or contains unsupported parts; the message names the place.
    pub fn open(path: &Path) -> Result<Self> {
        let unread = |e: std::io::Error| Error::file(path, format!("cannot read: {e}"));
        let map = Map::open(path).map_err(unread)?;
        let mut graph = Self::parse(mapped(&map).map_err(unread)?, path, path.parent())?;
        graph.constants.values_mut().filter(|c| c.file.is_none()).for_each(|c| c.file = Some(map.clone()));
        Ok(graph)
    }

    /// Parses bytes in memory; `path` names them in messages. External weights are looked up in `folder`.
    ///
    /// # Errors
    /// As [`Graph::open`].
    pub fn parse(bytes: Bytes, path: &Path, folder: Option<&Path>) -> Result<Self> {
        let fail = |why: String| Error::file(path, why);
        let model = proto::Model::decode(bytes).map_err(|e| fail(format!("not a whole ONNX file: {e}")))?;
        let domain = |d: &Option<String>| d.clone().filter(|d| !d.is_empty() && d != "ai.onnx");
        let opset = model.opset_import.iter().find(|o| domain(&o.domain).is_none()).and_then(|o| o.version);
        // A file may name only other sets of operators, of which it then uses all.
        let opset = opset.or((!model.opset_import.is_empty()).then_some(*OPSETS.end()));
        let Some(g) = model.graph else { return Err(fail("not an ONNX file: there is no graph in it".into())) };
        let opset = opset.ok_or_else(|| fail("it does not say which version of the operators it means".into()))?;
        if !OPSETS.contains(&opset) {
            let (from, to) = (OPSETS.start(), OPSETS.end());
            return Err(fail(format!("operators of version {opset}; versions {from} to {to} are read; convert it")));
        }
        if let Some(version) = model.ir_version.filter(|v| *v > IR) {
            return Err(fail(format!("a file of version {version} of the format; up to {IR} is read")));
        }
        let functions = Functions::new(model.functions, opset).map_err(fail)?;
        let mut reading =
            Reading { path, folder, opset, files: Files::default(), functions, nodes: 0, calls: 0, bytes: 0 };
        let mut graph = reading.graph(&g, 0)?;
        let pair = |p: proto::Pair| Some((p.key?, p.value?));
        graph.metadata = model.metadata_props.into_iter().filter_map(pair).collect();
        graph.hoist();
        graph.sort()?;
        Ok(graph)
    }

    /// Moves the constants of graphs inside nodes to this one, so that all weights are in one place.
    fn hoist(&mut self) {
        let mut taken: HashSet<String> = self.constants.keys().cloned().collect();
        taken.extend(self.inputs.iter().map(|p| p.name.clone()));
        self.names(&mut taken);
        let mut found = Vec::new();
        for node in &mut self.nodes {
            node.bodies_mut().for_each(|b| b.graph.hoist_to(b.declared, &mut taken, &mut found));
        }
        self.constants.extend(found);
    }

    /// Collects the names of values that its nodes, and graphs inside them, compute or are given.
    fn names(&self, taken: &mut HashSet<String>) {
        for node in &self.nodes {
            taken.extend(node.outputs.iter().cloned());
            for body in node.bodies() {
                taken.extend(body.graph.inputs[..body.declared].iter().map(|p| p.name.clone()));
                body.graph.names(taken);
            }
        }
    }

    /// Gives up its constants, under names that nothing else has; inner graphs first, which may nest [`NESTED`] times.
    fn hoist_to(&mut self, declared: usize, taken: &mut HashSet<String>, found: &mut Vec<(String, Constant)>) {
        for node in &mut self.nodes {
            node.bodies_mut().for_each(|b| b.graph.hoist_to(b.declared, taken, found));
        }
        let old = std::mem::take(&mut self.constants);
        let mut names = HashMap::with_capacity(old.len());
        for (name, constant) in old {
            let mut new = name.clone();
            // Larger than any number so far.
            let mut n = taken.len();
            while !taken.insert(new.clone()) {
                n += 1;
                new = format!("{name}.{n}");
            }
            names.insert(name, new.clone());
            found.push((new, constant));
        }
        let new = |name: &str| names.get(name).cloned();
        for node in &mut self.nodes {
            node.inputs.iter_mut().for_each(|i| *i = new(i).unwrap_or_else(|| i.clone()));
            node.bodies_mut().for_each(|b| b.rename(&new));
        }
        self.outputs.iter_mut().for_each(|p| p.name = new(&p.name).unwrap_or_else(|| p.name.clone()));
        self.capture(declared);
    }

    /// Lists as inputs, after its own, what it reads and does not compute.
    fn capture(&mut self, declared: usize) {
        self.inputs.truncate(declared);
        let mut known: HashSet<&str> = self.inputs.iter().map(|p| p.name.as_str()).collect();
        known.extend(self.constants.keys().map(String::as_str));
        known.extend(self.nodes.iter().flat_map(|n| n.outputs.iter().map(String::as_str)));
        let reads = self.nodes.iter().flat_map(Node::reads).chain(self.outputs.iter().map(|p| p.name.as_str()));
        let mut free: Vec<String> = Vec::new();
        for name in reads {
            if !name.is_empty() && known.insert(name) {
                free.push(name.into());
            }
        }
        self.inputs.extend(free.into_iter().map(|name| Port { name, kind: None, shape: None }));
    }

    /// Sorts nodes topologically; files should have them so, but need not.
    ///
    /// # Errors
    /// When a value is computed twice, not at all, or from itself.
    pub fn sort(&mut self) -> Result<()> {
        let fail = |why: String| Error::file(&self.path, why);
        let mut names = HashSet::new();
        if let Some(p) = self.inputs.iter().find(|p| p.name.is_empty() || !names.insert(&p.name)) {
            return Err(fail(format!("two inputs are named `{}`, or one has no name", p.name)));
        }
        if self.outputs.iter().any(|p| p.name.is_empty()) {
            return Err(fail("one of its outputs has no name".into()));
        }
        let mut makers = HashMap::new();
        for (i, node) in self.nodes.iter().enumerate() {
            for out in node.outputs.iter().filter(|o| !o.is_empty()) {
                let twice = makers.insert(out.as_str(), i).is_some() || self.constants.contains_key(out);
                if twice || self.inputs.iter().any(|p| p.name == *out) {
                    return Err(fail(format!(
                        "`{out}` is computed by {} `{}`, but is there already",
                        node.op,
                        node.label()
                    )));
                }
            }
        }
        let given: HashSet<&str> = self.inputs.iter().map(|p| p.name.as_str()).collect();
        let known = |name: &str| name.is_empty() || given.contains(name) || self.constants.contains_key(name);
        let (mut waits, mut readers) = (vec![0usize; self.nodes.len()], vec![Vec::new(); self.nodes.len()]);
        for (i, node) in self.nodes.iter().enumerate() {
            for name in node.reads().filter(|n| !known(n)) {
                let Some(&maker) = makers.get(name) else {
                    return Err(fail(format!("{} `{}` reads `{name}`, which nobody computes", node.op, node.label())));
                };
                waits[i] += 1;
                readers[maker].push(i);
            }
        }
        if let Some(p) = self.outputs.iter().find(|p| !known(&p.name) && !makers.contains_key(p.name.as_str())) {
            return Err(fail(format!("its output `{}` is computed by no node", p.name)));
        }
        // Smallest first, so that a valid order is kept.
        let mut ready: std::collections::BTreeSet<usize> = (0..self.nodes.len()).filter(|&i| waits[i] == 0).collect();
        let mut order = Vec::with_capacity(self.nodes.len());
        while let Some(i) = ready.pop_first() {
            order.push(i);
            for &r in &readers[i] {
                waits[r] -= 1;
                if waits[r] == 0 {
                    ready.insert(r);
                }
            }
        }
        if let Some(i) = (0..self.nodes.len()).find(|&i| waits[i] > 0) {
            let node = &self.nodes[i];
            return Err(fail(format!(
                "{} `{}` needs, directly or not, what it computes itself",
                node.op,
                node.label()
            )));
        }
        let mut nodes: Vec<Option<Node>> = std::mem::take(&mut self.nodes).into_iter().map(Some).collect();
        self.nodes = order.into_iter().filter_map(|i| nodes[i].take()).collect();
        Ok(())
    }

    /// Encodes an ONNX file. With `sparse`, weights with a density below a third are written as sparse initializers.
    pub fn write(&self, sparse: bool) -> Vec<u8> {
        let mut domains: Vec<String> = Vec::new();
        for (domain, _) in self.nodes.iter().filter_map(|n| n.op.rsplit_once('.')) {
            if !domains.iter().any(|d| d == domain) {
                domains.push(domain.into());
            }
        }
        let opset = |domain: &str, version| proto::Opset { domain: Some(domain.into()), version: Some(version) };
        let model = proto::Model {
            ir_version: Some(if self.opset > 20 { 10 } else { 9 }),
            producer_name: Some("nnz".into()),
            graph: Some(self.message(sparse, false)),
            opset_import: std::iter::once(opset("", self.opset)).chain(domains.iter().map(|d| opset(d, 1))).collect(),
            metadata_props: self
                .metadata
                .iter()
                .map(|(k, v)| proto::Pair { key: Some(k.clone()), value: Some(v.clone()) })
                .collect(),
            functions: Vec::new(),
        };
        model.encode_to_vec()
    }

    fn message(&self, sparse: bool, inner: bool) -> proto::Graph {
        let port = |p: &Port| {
            let dim = |d: &Option<usize>| proto::Dim { value: d.map(|d| d as i64), param: None };
            let shape = p.shape.as_ref().map(|s| proto::Shape { dim: s.iter().map(dim).collect() });
            // Graphs inside nodes may leave types open.
            let elem = p.kind.or((!inner).then_some(DType::F32)).map(DType::number);
            let tensor = proto::TensorType { elem, shape };
            proto::Info {
                name: Some(p.name.clone()),
                kind: Some(proto::Type { tensor: Some(tensor), ..Default::default() }),
            }
        };
        let node = |n: &Node| {
            let (domain, op) = n.op.rsplit_once('.').map_or((None, &*n.op), |(d, op)| (Some(d.to_string()), op));
            proto::Node {
                input: n.inputs.clone(),
                output: n.outputs.clone(),
                name: Some(n.name.clone()),
                op_type: Some(op.into()),
                attribute: n.attributes.iter().map(|(name, a)| a.write(name)).collect(),
                domain,
                overload: None,
            }
        };
        let (mut dense, mut packed) = (Vec::new(), Vec::new());
        for (name, c) in &self.constants {
            match c.write_sparse(name).filter(|_| sparse) {
                Some(s) => packed.push(s),
                None => dense.push(c.write(name)),
            }
        }
        proto::Graph {
            node: self.nodes.iter().map(node).collect(),
            name: Some(if self.name.is_empty() { "network".into() } else { self.name.clone() }),
            initializer: dense,
            input: self.inputs.iter().map(port).collect(),
            output: self.outputs.iter().map(port).collect(),
            sparse_initializer: packed,
        }
    }

    /// Number of all its floating-point weights.
    pub fn len(&self) -> usize {
        self.constants.values().filter(|c| c.is_float()).map(Constant::len).sum()
    }

    /// Whether it has no weights.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
