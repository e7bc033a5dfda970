//! Which weights of a graph are matrices.

use crate::graph::{Attribute, Constant, Graph, Node};
use std::collections::HashMap;

/// A weight that inputs are multiplied by: a matrix, or a kernel as the matrix that patches are multiplied by.
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
    /// Extents of a kernel; none for a matrix.
    pub kernel: Vec<usize>,
    /// Whether the constant has inputs in rows and outputs in columns.
    pub by_columns: bool,
    /// Whether nothing but a function of single numbers comes between it and an output of the network.
    pub head: bool,
}

impl Matrix {
    /// Entries, zero or not.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entries `[rows, cols]` of what the constant holds.
    pub fn rows_of(&self, constant: Vec<f32>) -> Vec<f32> {
        self.turned(constant, self.cols, self.rows)
    }

    /// What the constant holds when these are the entries.
    pub fn constant_of(&self, rows: Vec<f32>) -> Vec<f32> {
        self.turned(rows, self.rows, self.cols)
    }

    fn turned(&self, from: Vec<f32>, rows: usize, cols: usize) -> Vec<f32> {
        if !self.by_columns {
            return from;
        }
        let mut to = vec![0.0; from.len()];
        crate::value::turn(&from, rows, cols, &mut to);
        to
    }
}

/// Functions that leave a head a head.
const AFTER: &[&str] = &[
    "Add", "Cast", "Div", "Dropout", "Exp", "Flatten", "Identity", "Log", "LogSoftmax", "Mul", "ReduceMax", "ReduceSum", "Relu",
    "Reshape", "Sigmoid", "Softmax", "Squeeze", "Sub", "Tanh", "Transpose",
];

impl Graph {
    /// The weights that can be pruned, in the order of computation: constant matrices and kernels that one product alone
    /// uses. Embeddings, norms, and kernels of grouped convolutions are none.
    pub fn matrices(&self) -> Vec<Matrix> {
        let mut uses: HashMap<&str, usize> = HashMap::new();
        self.nodes.iter().flat_map(|n| &n.inputs).for_each(|i| *uses.entry(i).or_default() += 1);
        let makers: HashMap<&str, usize> =
            self.nodes.iter().enumerate().flat_map(|(i, n)| n.outputs.iter().map(move |o| (o.as_str(), i))).collect();
        let heads = self.heads(&makers);
        let mut found = Vec::new();
        for (i, node) in self.nodes.iter().enumerate() {
            if !matches!(&*node.op, "MatMul" | "Gemm" | "Conv") {
                continue;
            }
            let Some((name, constant, turned)) = node.inputs.get(1).and_then(|n| self.source(n, &makers, &uses)) else {
                continue;
            };
            let int = |name: &str, default: i64| match node.attributes.get(name) {
                Some(Attribute::Int(v)) => *v,
                _ => default,
            };
            let head = heads[i];
            let shape = &constant.shape;
            let name = name.to_string();
            match (&*node.op, shape.as_slice()) {
                ("Conv", [filters, channels, kernel @ ..]) if int("group", 1) == 1 && !turned && !kernel.is_empty() => {
                    let cols = channels * kernel.iter().product::<usize>();
                    let kernel = if kernel.iter().all(|&k| k == 1) { Vec::new() } else { kernel.to_vec() };
                    found.push(Matrix { name, node: i, rows: *filters, cols, kernel, by_columns: false, head });
                }
                ("MatMul" | "Gemm", &[a, b]) => {
                    if node.op == "Gemm" && int("transA", 0) != 0 {
                        continue;
                    }
                    // A product reads its right side by columns unless told otherwise.
                    let by_columns = (int("transB", 0) == 0) != turned;
                    let (rows, cols) = if by_columns { (b, a) } else { (a, b) };
                    found.push(Matrix { name, node: i, rows, cols, kernel: Vec::new(), by_columns, head });
                }
                _ => {}
            }
        }
        found.retain(|m| !m.is_empty());
        found
    }

    /// The float constant behind a name, used by nobody else, and whether it is turned on the way.
    fn source<'a>(
        &'a self,
        name: &'a str,
        makers: &HashMap<&str, usize>,
        uses: &HashMap<&str, usize>,
    ) -> Option<(&'a str, &'a Constant, bool)> {
        let (mut name, mut turned) = (name, false);
        loop {
            if uses.get(name) != Some(&1) {
                return None;
            }
            if let Some(constant) = self.constants.get(name) {
                return constant.is_float().then_some((name, constant, turned));
            }
            let node: &Node = &self.nodes[*makers.get(name)?];
            match &*node.op {
                "Transpose" => {
                    let plain = match node.attributes.get("perm") {
                        Some(Attribute::Ints(p)) => p == &[1, 0],
                        _ => true,
                    };
                    if !plain {
                        return None;
                    }
                    turned = !turned;
                }
                "Identity" => {}
                _ => return None,
            }
            name = node.inputs.first()?;
        }
    }

    /// Which nodes are heads: every way back from an output, over functions of single numbers, ends at one product.
    fn heads(&self, makers: &HashMap<&str, usize>) -> Vec<bool> {
        // The product that all ways back from a node end at; nodes are in order.
        let mut ends: Vec<Option<usize>> = Vec::with_capacity(self.nodes.len());
        for (i, node) in self.nodes.iter().enumerate() {
            let computed = || node.inputs.iter().filter_map(|n| makers.get(n.as_str())).map(|&m| ends.get(m).copied().flatten());
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
