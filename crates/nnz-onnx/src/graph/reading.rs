//! Reading the messages of a file: graphs, graphs inside nodes, and calls of local functions, replaced by their bodies.

use super::{Attribute, BYTES, Body, Constant, DType, Files, Graph, NESTED, NODES, Node, Port};
use crate::proto;
use crate::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The functions that a file defines, by domain, name and overload.
pub(super) struct Functions {
    all: HashMap<[String; 3], proto::Function>,
}

fn key(domain: &Option<String>, name: &Option<String>, overload: &Option<String>) -> [String; 3] {
    let domain = domain.clone().filter(|d| d != "ai.onnx").unwrap_or_default();
    [domain, name.clone().unwrap_or_default(), overload.clone().unwrap_or_default()]
}

impl Functions {
    /// # Errors
    /// When a function uses other versions of the operators than the graph.
    pub fn new(all: Vec<proto::Function>, opset: i64) -> Result<Self, String> {
        let mut found = HashMap::with_capacity(all.len());
        for f in all {
            let name = f.name.clone().unwrap_or_default();
            let plain = |d: &Option<String>| d.as_deref().is_none_or(|d| d.is_empty() || d == "ai.onnx");
            let other = f.opset_import.iter().find(|o| plain(&o.domain) && o.version.is_some_and(|v| v != opset));
            if let Some(version) = other.and_then(|o| o.version) {
                return Err(format!("function `{name}` has operators of version {version}, but the graph of {opset}"));
            }
            if found.insert(key(&f.domain, &f.name, &f.overload), f).is_some() {
                return Err(format!("two functions are named `{name}`"));
            }
        }
        Ok(Self { all: found })
    }
}

/// A file that is being read.
pub(super) struct Reading<'a> {
    pub path: &'a Path,
    pub folder: Option<&'a Path>,
    pub opset: i64,
    pub files: Files,
    pub functions: Functions,
    /// Nodes of functions read so far.
    pub nodes: usize,
    /// Calls replaced so far.
    pub calls: usize,
    /// Bytes of functions' nodes copied so far.
    pub bytes: usize,
}

impl Reading<'_> {
    fn fail(&self, why: String) -> Error {
        Error::file(self.path, why)
    }

    /// Reads a graph that lies that many nodes deep.
    pub fn graph(&mut self, g: &proto::Graph, depth: usize) -> Result<Graph> {
        let mut constants = BTreeMap::new();
        let dense = g.initializer.iter().map(|t| (t.name.clone(), Constant::read(t, self.folder, &mut self.files)));
        let mut all: Vec<_> = dense.collect();
        all.extend(
            g.sparse_initializer
                .iter()
                .map(|s| (s.values.as_ref().and_then(|v| v.name.clone()), Constant::read_sparse(s))),
        );
        for (name, constant) in all {
            let name = name.unwrap_or_default();
            let constant = constant.map_err(|why| self.fail(format!("weight `{name}`: {why}")))?;
            if name.is_empty() || constants.insert(name.clone(), constant).is_some() {
                return Err(self.fail(format!("two weights are named `{name}`, or one has no name")));
            }
        }
        let mut nodes = Vec::with_capacity(g.node.len());
        for n in &g.node {
            for node in self.node(n, depth)? {
                // Some exporters write weights as nodes.
                if let ("Constant", [name], Some(Attribute::Tensor(t))) =
                    (&*node.op, &node.outputs[..], node.attributes.get("value"))
                    && !name.is_empty()
                    && !constants.contains_key(name)
                {
                    constants.insert(name.clone(), t.clone());
                    continue;
                }
                nodes.push(node);
            }
        }
        let inputs = g.input.iter().map(|i| self.port(i)).collect::<Result<Vec<_>>>()?;
        let outputs = g.output.iter().map(|i| self.port(i)).collect::<Result<Vec<_>>>()?;
        let mut graph = Graph {
            path: self.path.into(),
            name: g.name.clone().unwrap_or_default(),
            opset: self.opset,
            nodes,
            constants,
            inputs,
            outputs,
            metadata: BTreeMap::new(),
        };
        graph.inputs.retain(|p| !graph.constants.contains_key(&p.name));
        Ok(graph)
    }

    fn port(&self, i: &proto::Info) -> Result<Port> {
        let name = i.name.clone().unwrap_or_default();
        let tensor = i.kind.as_ref().and_then(|t| t.tensor.as_ref());
        let kind = tensor.and_then(|t| t.elem).filter(|&e| e != 0).map(DType::of).transpose();
        let kind = kind.map_err(|why| self.fail(format!("`{name}` has {why}")))?;
        let extent = |d: &proto::Dim| d.value.and_then(|v| usize::try_from(v).ok());
        let shape = tensor.and_then(|t| t.shape.as_ref()).map(|s| s.dim.iter().map(extent).collect());
        Ok(Port { name, kind, shape })
    }

    /// A graph inside a node.
    pub fn body(&mut self, g: &proto::Graph, depth: usize) -> Result<Body, String> {
        if depth > NESTED {
            return Err(format!("graphs inside nodes more than {NESTED} deep"));
        }
        let mut graph = self.graph(g, depth).map_err(|e| e.to_string())?;
        let declared = graph.inputs.len();
        graph.capture(declared);
        graph.sort().map_err(|e| e.to_string())?;
        Ok(Body { graph: Box::new(graph), declared })
    }

    /// A node, or the nodes of the function that it calls.
    fn node(&mut self, n: &proto::Node, depth: usize) -> Result<Vec<Node>> {
        let mut done = Vec::new();
        // Calls that are open: the node, and how deep it lies in calls.
        let mut open = vec![(n.clone(), 0usize)];
        while let Some((n, calls)) = open.pop() {
            self.nodes += usize::from(calls > 0);
            if self.nodes > NODES {
                return Err(self.fail(format!("more than {NODES} nodes of functions that it calls")));
            }
            let Some(f) = self.functions.all.get(&key(&n.domain, &n.op_type, &n.overload)) else {
                done.push(self.single(&n, depth)?);
                continue;
            };
            let label = n.op_type.clone().unwrap_or_default();
            if calls >= NESTED {
                return Err(self.fail(format!("function `{label}` is called more than {NESTED} functions deep")));
            }
            self.calls += 1;
            let body = called(f, &n, self.calls).map_err(|why| self.fail(format!("function `{label}`: {why}")))?;
            self.bytes += body.iter().map(prost::Message::encoded_len).sum::<usize>();
            if self.bytes > BYTES {
                return Err(self.fail(format!("more than {BYTES} bytes of nodes of functions, called again and again")));
            }
            open.extend(body.into_iter().rev().map(|n| (n, calls + 1)));
        }
        Ok(done)
    }

    fn single(&mut self, n: &proto::Node, depth: usize) -> Result<Node> {
        let domain = n.domain.clone().filter(|d| !d.is_empty() && d != "ai.onnx");
        let op = n.op_type.clone().unwrap_or_default();
        let op = domain.map_or(op.clone(), |d| format!("{d}.{op}"));
        let (inputs, outputs) = (n.input.clone(), n.output.clone());
        let mut node = Node { op, name: n.name.clone().unwrap_or_default(), inputs, outputs, ..Node::default() };
        for a in &n.attribute {
            let name = a.name.clone().unwrap_or_default();
            // The type of a value that is not there.
            if node.op == "Optional" && name == "type" {
                continue;
            }
            let read = Attribute::read(a, self, depth);
            let value = read.map_err(|why| Error::node(self.path, &node, format!("attribute `{name}`: {why}")))?;
            // With its zeros it is a value like any other.
            let name = if node.op == "Constant" && name == "sparse_value" { "value".into() } else { name };
            node.attributes.insert(name, value);
        }
        Ok(node)
    }
}

/// The nodes of a function for one call, with the call's inputs, outputs and attributes; its own values get the call's number.
fn called(f: &proto::Function, call: &proto::Node, number: usize) -> Result<Vec<proto::Node>, String> {
    if call.input.len() > f.input.len() || call.output.len() > f.output.len() {
        return Err(format!(
            "{} inputs and {} outputs of {} and {}",
            call.input.len(),
            call.output.len(),
            f.input.len(),
            f.output.len()
        ));
    }
    let mut names: HashMap<&str, String> = HashMap::new();
    for (i, name) in f.input.iter().enumerate() {
        names.insert(name, call.input.get(i).cloned().unwrap_or_default());
    }
    let label = call.name.clone().filter(|n| !n.is_empty()).or(call.op_type.clone()).unwrap_or_default();
    let mut passed = Vec::new();
    for (i, name) in f.output.iter().enumerate() {
        let outer = call.output.get(i).cloned().unwrap_or_default();
        if outer.is_empty() {
            continue;
        }
        // An input that is returned as it is, or a value that is returned twice.
        match names.get(name.as_str()) {
            Some(there) => passed.push((there.clone(), outer)),
            None => _ = names.insert(name, outer),
        }
    }
    let name_of = |name: &str| match (name.is_empty(), names.get(name)) {
        (true, _) => String::new(),
        (_, Some(outer)) => outer.clone(),
        _ => format!("{label}.{number}/{name}"),
    };
    let given: HashMap<&str, &proto::Attribute> =
        f.attribute_proto.iter().chain(&call.attribute).map(|a| (a.name.as_deref().unwrap_or_default(), a)).collect();
    let mut nodes: Vec<proto::Node> = Vec::with_capacity(f.node.len());
    for n in &f.node {
        let mut n = n.clone();
        n.name = Some(format!("{label}.{number}/{}", n.name.unwrap_or_default()));
        inside(&mut n, &name_of, &given, 0)?;
        nodes.push(n);
    }
    nodes.extend(passed.into_iter().map(|(from, to)| proto::Node {
        input: vec![from],
        output: vec![to],
        op_type: Some("Identity".into()),
        ..Default::default()
    }));
    Ok(nodes)
}

/// Renames the values of a function's node, and replaces references to the function's attributes.
fn inside(
    n: &mut proto::Node,
    name_of: &dyn Fn(&str) -> String,
    given: &HashMap<&str, &proto::Attribute>,
    depth: usize,
) -> Result<(), String> {
    if depth > NESTED {
        return Err(format!("graphs inside nodes more than {NESTED} deep"));
    }
    n.input.iter_mut().chain(&mut n.output).for_each(|name| *name = name_of(name));
    let mut kept = Vec::with_capacity(n.attribute.len());
    for mut a in std::mem::take(&mut n.attribute) {
        if let Some(of) = a.reference.take().filter(|r| !r.is_empty()) {
            // One that the call does not give is absent.
            let Some(&value) = given.get(of.as_str()) else { continue };
            a = proto::Attribute { name: a.name, ..value.clone() };
        } else if let Some(g) = &mut a.g {
            let weights = g.initializer.iter_mut().map(|t| &mut t.name);
            let ports = g.input.iter_mut().chain(&mut g.output).map(|i| &mut i.name);
            weights.chain(ports).flatten().for_each(|name| *name = name_of(name));
            for n in &mut g.node {
                inside(n, name_of, given, depth + 1)?;
            }
        }
        kept.push(a);
    }
    n.attribute = kept;
    Ok(())
}
