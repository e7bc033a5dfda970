//! Matrices among the weights of a graph.

use crate::graph::{Attribute, Constant, DType, Graph, Node};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// A weight that inputs are multiplied by: a matrix, or a kernel as the matrix that multiplies patches.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// The constant that holds it.
    pub name: String,
    /// The node that multiplies by it.
    pub node: usize,
    /// Outputs.
    pub rows: usize,
    /// Inputs; those of a patch for a kernel.
    pub cols: usize,
    /// Extents of a kernel; empty for a matrix.
    pub kernel: Vec<usize>,
    /// Whether the constant has inputs in rows and outputs in columns.
    pub by_columns: bool,
    /// Whether only elementwise functions lie between it and an output of the network.
    pub head: bool,
    /// Whether it is a graph inside the node that multiplies, such as a branch of `If`.
    pub inside: bool,
}

impl Matrix {
    /// Entries, zero or not.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether it has no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Converts the constant's content to entries `[rows, cols]`.
    pub fn rows_of(&self, constant: Vec<f32>) -> Vec<f32> {
        self.transposed(constant, self.cols, self.rows)
    }

    /// Converts entries to the constant's content.
    pub fn constant_of(&self, rows: Vec<f32>) -> Vec<f32> {
        self.transposed(rows, self.rows, self.cols)
    }

    fn transposed(&self, from: Vec<f32>, rows: usize, cols: usize) -> Vec<f32> {
        if !self.by_columns {
            return from;
        }
        let mut to = vec![0.0; from.len()];
        crate::value::turn(&from, rows, cols, &mut to);
        to
    }
}

/// Functions after which a head is still a head.
const AFTER: &[&str] = &[
    "Add",
    "Cast",
    "Div",
    "Dropout",
    "Exp",
    "Flatten",
    "Identity",
    "Log",
    "LogSoftmax",
    "Mul",
    "ReduceMax",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Sigmoid",
    "Softmax",
    "Squeeze",
    "Sub",
    "Tanh",
    "Transpose",
];

/// A reader of a constant: a node, the index of its input, and whether the constant is transposed on the way.
type Use = (usize, usize, bool);

/// A node, and for one inside another the node around it and the values that it reads from around it.
type Scoped<'a> = (&'a Node, Option<(usize, Rc<HashSet<&'a str>>)>);

/// Elementwise operators, whose constants are gains, offsets and masks.
const SINGLE: &[&str] = &["Add", "Sub", "Mul", "Div", "Where", "Pow", "Min", "Max", "PRelu", "Clip", "Equal", "Expand"];

impl Graph {
    /// The weights that can be pruned, in the order of computation: constant matrices and kernels that only products
    /// read, each once however many products share it. No embeddings, norms or kernels of grouped convolutions.
    pub fn matrices(&self) -> Vec<Matrix> {
        self.weights().0
    }

    /// The other weights of two or more axes, by name, and why they are not pruned.
    pub fn stay(&self) -> Vec<(String, String)> {
        self.weights().1
    }

    fn weights(&self) -> (Vec<Matrix>, Vec<(String, String)>) {
        let mut readers: HashMap<&str, Vec<(usize, usize)>> = HashMap::new();
        let all = self.with_inner();
        for (i, (node, scope)) in all.iter().enumerate() {
            // A graph inside a node may compute a value that is named as one outside.
            let seen = |name: &str| scope.as_ref().is_none_or(|(_, names)| names.contains(name));
            for (at, name) in node.inputs.iter().enumerate().filter(|(_, n)| seen(n)) {
                readers.entry(name).or_default().push((i, at));
            }
        }
        let makers: HashMap<&str, usize> =
            self.nodes.iter().enumerate().flat_map(|(i, n)| n.outputs.iter().map(move |o| (o.as_str(), i))).collect();
        let heads = self.heads(&makers);
        let (mut found, mut stay) = (Vec::new(), Vec::new());
        for (name, constant) in &self.constants {
            let whole = matches!(constant.kind, DType::I8 | DType::U8);
            if constant.shape.len() < 2 || constant.is_empty() || !(constant.is_float() || whole) {
                continue;
            }
            let uses = self.uses(name, &all, &readers);
            let products: Result<Vec<Matrix>, Option<String>> =
                uses.and_then(|uses| uses.iter().map(|u| self.product(name, constant, *u, &all, &heads)).collect());
            match products {
                Ok(mut all) if !all.is_empty() && constant.is_float() => {
                    all.sort_by_key(|m| m.node);
                    let head = all.iter().any(|m| m.head);
                    let first = all.swap_remove(0);
                    match all.iter().any(|m| m.by_columns != first.by_columns || m.kernel != first.kernel) {
                        true => stay.push((name.clone(), "read both as it is and transposed".into())),
                        false => found.push(Matrix { head, ..first }),
                    }
                }
                Err(Some(why)) => stay.push((name.clone(), why)),
                _ => {}
            }
        }
        found.sort_by(|a, b| (a.node, &a.name).cmp(&(b.node, &b.name)));
        (found, stay)
    }

    /// Its nodes, then those of graphs inside them.
    fn with_inner(&self) -> Vec<Scoped<'_>> {
        let mut all: Vec<Scoped> = self.nodes.iter().map(|n| (n, None)).collect();
        let mut at = 0;
        while at < all.len() {
            let (node, outer) = (all[at].0, all[at].1.as_ref().map_or(at, |(outer, _)| *outer));
            for body in node.bodies() {
                let seen = |n: &&str| all[at].1.as_ref().is_none_or(|(_, names)| names.contains(n));
                let names: Rc<HashSet<&str>> = Rc::new(body.captures().filter(seen).collect());
                all.extend(body.graph.nodes.iter().map(|n| (n, Some((outer, names.clone())))));
            }
            at += 1;
        }
        all
    }

    /// Finds the readers of a constant, through nodes that pass it on.
    fn uses(
        &self,
        name: &str,
        all: &[Scoped],
        readers: &HashMap<&str, Vec<(usize, usize)>>,
    ) -> Result<Vec<Use>, Option<String>> {
        let (mut found, mut open) = (Vec::new(), vec![(name, false)]);
        while let Some((name, transposed)) = open.pop() {
            if self.outputs.iter().any(|o| o.name == name) {
                return Err(Some("an output of the network".into()));
            }
            for &(i, at) in readers.get(name).map(Vec::as_slice).unwrap_or_default() {
                let node = all[i].0;
                let flips = match (&*node.op, node.attributes.get("perm")) {
                    ("Identity", _) => Some(false),
                    ("Transpose", Some(Attribute::Ints(p))) => (p == &[1, 0]).then_some(true),
                    ("Transpose", None) => Some(true),
                    _ => None,
                };
                match (flips, node.outputs.first()) {
                    (Some(flips), Some(out)) => open.push((out, transposed != flips)),
                    _ => found.push((i, at, transposed)),
                }
            }
        }
        Ok(found)
    }

    /// A use as a product with the constant; else why it is not one, or nothing if the constant is not a weight.
    fn product(
        &self,
        name: &str,
        c: &Constant,
        (i, at, transposed): Use,
        all: &[Scoped],
        heads: &[bool],
    ) -> Result<Matrix, Option<String>> {
        let (node, scope) = &all[i];
        let outer = scope.as_ref().map_or(i, |(outer, _)| *outer);
        let int = |name: &str, default: i64| match node.attributes.get(name) {
            Some(Attribute::Int(v)) => *v,
            _ => default,
        };
        let no = |why: &str| Err(Some(format!("{why} ({} `{}`)", node.op, node.label())));
        let matrix = |rows: usize, cols: usize, kernel: &[usize], by_columns: bool| Matrix {
            name: name.into(),
            node: outer,
            rows,
            cols,
            kernel: if kernel.iter().all(|&k| k == 1) { Vec::new() } else { kernel.to_vec() },
            by_columns,
            head: scope.is_none() && heads[i],
            inside: scope.is_some(),
        };
        match (&*node.op, at, c.shape.as_slice()) {
            (op, ..) if SINGLE.contains(&op) => Err(None),
            ("Gather", 0, _) => no("a table that is looked up"),
            ("Cast" | "CastLike" | "DequantizeLinear", 0, _) => no("after a change of type"),
            ("Conv", 1, _) if int("group", 1) != 1 => no("a kernel of a grouped convolution"),
            ("Conv", 1, [filters, channels, kernel @ ..]) if !transposed && !kernel.is_empty() => {
                Ok(matrix(*filters, channels * kernel.iter().product::<usize>(), kernel, false))
            }
            ("ConvTranspose", 1, _) => no("a kernel of a transposed convolution"),
            ("MatMul" | "Gemm", 0, _) => no("a matrix on the left of a product"),
            ("Gemm", 1, _) if int("transA", 0) != 0 => no("a product with a transposed input"),
            ("Gemm", 2, _) => Err(None),
            // A product reads its right side by columns unless an attribute says otherwise.
            ("MatMul" | "Gemm", 1, &[a, b]) => Ok(match (int("transB", 0) == 0) != transposed {
                true => matrix(b, a, &[], true),
                false => matrix(a, b, &[], false),
            }),
            ("MatMul", 1, shape) => no(&format!("{} axes, so many matrices", shape.len())),
            ("LSTM" | "GRU" | "RNN", 1 | 2, _) => no("weights of a recurrent layer"),
            _ if c.is_float() => no("read by no product"),
            _ => Err(None),
        }
    }

    /// Marks heads: nodes for which every path back from an output, through elementwise functions, ends at one product.
    fn heads(&self, makers: &HashMap<&str, usize>) -> Vec<bool> {
        // The product at which all paths back from a node end; nodes are in order.
        let mut ends: Vec<Option<usize>> = Vec::with_capacity(self.nodes.len());
        for (i, node) in self.nodes.iter().enumerate() {
            let computed =
                || node.inputs.iter().filter_map(|n| makers.get(n.as_str())).map(|&m| ends.get(m).copied().flatten());
            let end = match &*node.op {
                "MatMul" | "Gemm" | "Conv" => Some(i),
                op if AFTER.contains(&op) => {
                    let first = computed().next().flatten();
                    first.filter(|_| computed().all(|e| e == first))
                }
                _ => None,
            };
            ends.push(end);
        }
        let mut heads = vec![false; self.nodes.len()];
        let last = self.outputs.iter().filter_map(|o| ends[*makers.get(o.name.as_str())?]);
        last.for_each(|i| heads[i] = true);
        heads
    }
}
