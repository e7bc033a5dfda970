//! Networks that nnz trained, as graphs. Images have channels second there and last here.

use super::{Fit, Network, Pictures, Reads, Target, raw};
use crate::llm::Part;
use crate::{Error, Result};
use nnz_engine::file::Header;
use nnz_engine::layers::{Conv2d, Function};
use nnz_engine::{LayerSpec, Model, Param};
use nnz_formats::{Dtype, Writer, Written};
use nnz_onnx::{Attribute, Constant, DType, Graph, Node, OPSET, Port};
use std::collections::BTreeMap;
use std::path::Path;

/// A trained network with dense or masked storage as a graph. Its input `x` `[batch, channels, height, width]` has values from 0 to 255,
/// or for tables `[batch, columns]` its cells; nodes do the preprocessing, and scale targets back. If `bare`, these are left
/// out: the input must be normalized as in training, as the file's metadata says.
///
/// # Errors
/// A layer without a matching operator, by name.
pub fn own(model: &Model<f32>, header: &Header, path: &Path, bare: bool) -> Result<Network> {
    if let Some(network) = super::train::graph_of(model, header, path)? {
        return Ok(network);
    }
    let [c, h, w] = header.model.input;
    let graph = Graph {
        path: path.into(),
        name: header.model.name.clone(),
        opset: OPSET,
        nodes: Vec::new(),
        constants: BTreeMap::new(),
        inputs: vec![Port {
            name: "x".into(),
            kind: Some(DType::F32),
            shape: Some(vec![None, Some(c), Some(h), Some(w)]),
        }],
        outputs: Vec::new(),
        metadata: BTreeMap::new(),
    };
    let n = header.normalization;
    let pairs =
        n.channels.map_or_else(|| vec![[n.mean, n.std]; c], |all| all.iter().copied().cycle().take(c).collect());
    let mut walk = Walk { graph, params: model.params.iter(), path };
    let x = match bare || n.tokens {
        true => "x".into(),
        false => raw::before(&mut walk.graph, header, &pairs, path)?,
    };
    let (mut y, shape) = walk.chain(&header.model.layers, x, vec![h, w, c])?;
    if !bare {
        y = raw::after(&mut walk.graph, header, y);
    }
    let name = "y";
    walk.graph.nodes.push(Node::new("Identity", name, &[&y]));
    let shape = std::iter::once(None).chain(channels_second(&shape).into_iter().map(Some)).collect();
    walk.graph.outputs.push(Port { name: name.into(), kind: Some(DType::F32), shape: Some(shape) });
    let graph = walk.graph;
    let [mean, deviation] = match bare {
        true => [0, 1].map(|i| pairs.iter().map(|p| p[i]).collect()),
        // Divisor of images before normalization.
        false => [vec![0.0; c], vec![1.0 / 255.0; c]],
    };
    let reads = match header.encoding.is_some() || n.tokens {
        true => Reads::Anything,
        false => Reads::Pictures(Pictures { shape: [c, h, w], mean, deviation, cubic: false, fit: Fit::Cover }),
    };
    let (family, classes, notes) = (header.model.name.clone(), header.classes.clone(), Vec::new());
    Ok(Network { path: path.into(), graph, family, reads, classes, notes, archive: None })
}

/// The shape of one example in ONNX's order.
fn channels_second(shape: &[usize]) -> Vec<usize> {
    match *shape {
        [h, w, c] => vec![c, h, w],
        _ => shape.to_vec(),
    }
}

/// The weights of a trained network with their zeros, by the names of its layers and in PyTorch's order: kernels `[outputs, inputs, height,
/// width]`, matrices `[outputs, inputs]`, and after an image inputs by channels first.
///
/// # Errors
/// As [`own`]; also when the disk refuses.
pub fn state_dict(model: &Model<f32>, header: &Header, path: &Path, to: &Path) -> Result<(Vec<Part>, u64)> {
    let network = own(model, header, path, true)?;
    let place = match Target::of(to)? {
        Target::File => to.to_path_buf(),
        Target::Folder => {
            std::fs::create_dir_all(to).map_err(|e| Error::file(to, format!("cannot write: {e}")))?;
            to.join("model.safetensors")
        }
        Target::Onnx => return Err(Error::file(to, "no name for weights alone")),
    };
    let mut writer = Writer::create(&place)?;
    let mut parts = Vec::new();
    for p in &model.params {
        let Some(c) = network.graph.constants.get(&p.shape.name) else {
            return Err(Error::file(path, format!("`{}` is read by no layer", p.shape.name)));
        };
        let values = c.numbers();
        writer.dense(&p.shape.name, &c.shape, &values, Dtype::F32)?;
        if c.shape.len() > 1 {
            let nonzeros = values.iter().filter(|v| **v != 0.0).count();
            let written = Written { nonzeros, bytes: 4 * values.len(), ..Written::default() };
            parts.push(Part { name: p.shape.name.clone(), entries: values.len(), written });
        }
    }
    let bytes = writer.finish(&serde_json::json!({"network": header.model.name, "method": header.method}))?;
    Ok((parts, bytes))
}

/// Whether the first layer with weights after a flattened image is a matrix, whose inputs can be reordered.
fn matrix_next(layers: &[LayerSpec]) -> bool {
    let idle = |l: &&LayerSpec| matches!(l, LayerSpec::Relu(_) | LayerSpec::Activation(_) | LayerSpec::Dropout(_));
    matches!(layers.iter().find(|l| !idle(l)), Some(LayerSpec::Linear(_)))
}

struct Walk<'a> {
    graph: Graph,
    params: std::slice::Iter<'a, Param<f32>>,
    path: &'a Path,
}

fn ints(v: &[usize]) -> Attribute {
    Attribute::Ints(v.iter().map(|&v| v as i64).collect())
}

impl Walk<'_> {
    fn fail(&self, why: impl ToString) -> Error {
        Error::file(self.path, why)
    }

    fn node(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> String {
        self.graph.add(op, inputs, attributes)
    }

    /// The next parameter under its own name, with its numbers reordered by `order`.
    fn param(&mut self, shape: &[usize], order: impl FnOnce(&[f32]) -> Vec<f32>) -> Result<String> {
        let Some(p) = self.params.next() else { return Err(self.fail("it has fewer parameters than its layers need")) };
        let numbers = p.value.data();
        if numbers.len() != shape.iter().product::<usize>() {
            return Err(self.fail(format!("`{}` has {} numbers for {shape:?}", p.shape.name, numbers.len())));
        }
        self.graph.constants.insert(p.shape.name.clone(), Constant::floats(shape, order(numbers)));
        Ok(p.shape.name.clone())
    }

    fn plain(&mut self, shape: &[usize]) -> Result<String> {
        self.param(shape, <[f32]>::to_vec)
    }

    fn number(&mut self, v: f32) -> String {
        let name = format!("number.{}", self.graph.constants.len());
        self.graph.constants.insert(name.clone(), Constant::floats(&[], vec![v]));
        name
    }

    fn conv(&mut self, l: &Conv2d, x: &str) -> Result<String> {
        let (k, each) = (l.kernel, l.inputs / l.groups);
        let w = self.param(&[l.outputs, each, k, k], |v| {
            let area = k * k;
            let mut to = vec![0.0; v.len()];
            for (from, to) in v.chunks_exact(area * each).zip(to.chunks_exact_mut(area * each)) {
                (0..area * each).for_each(|i| to[i % each * area + i / each] = from[i]);
            }
            to
        })?;
        let mut inputs = vec![x.to_string(), w];
        if l.bias {
            inputs.push(self.plain(&[l.outputs])?);
        }
        let names: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let attributes = [
            ("kernel_shape", ints(&[k; 2])),
            ("strides", ints(&[l.stride; 2])),
            ("pads", ints(&[l.padding; 4])),
            ("dilations", ints(&[l.dilation; 2])),
            ("group", Attribute::Int(l.groups as i64)),
        ];
        let y = self.node("Conv", &names, &attributes);
        self.call(&inputs[1]);
        Ok(y)
    }

    /// Names the last node after its weight.
    fn call(&mut self, weight: &str) {
        if let Some(node) = self.graph.nodes.last_mut() {
            node.name = weight.trim_end_matches(".weight").into();
        }
    }

    fn pool(&mut self, op: &str, x: &str, size: usize, stride: Option<usize>, padding: usize) -> String {
        let mut attributes = vec![
            ("kernel_shape", ints(&[size; 2])),
            ("strides", ints(&[stride.unwrap_or(size); 2])),
            ("pads", ints(&[padding; 4])),
        ];
        if op == "AveragePool" {
            attributes.push(("count_include_pad", Attribute::Int(1)));
        }
        self.node(op, &[x], &attributes)
    }

    /// Converts a sequence of layers; returns the shape of one example with channels last.
    fn chain(&mut self, layers: &[LayerSpec], mut x: String, mut shape: Vec<usize>) -> Result<(String, Vec<usize>)> {
        use nnz_engine::layers::Layer as _;
        // Height, width and channels of an image that was flattened and waits for a matrix.
        let mut flat: Option<[usize; 3]> = None;
        for (i, layer) in layers.iter().enumerate() {
            let after = layer.output(&shape).map_err(|why| self.fail(why))?;
            x = match layer {
                LayerSpec::Linear(l) => {
                    let w = match flat.take() {
                        None => self.plain(&[l.outputs, l.inputs])?,
                        Some([h, w, c]) => self.param(&[l.outputs, l.inputs], |v| {
                            let row = |r: &[f32]| {
                                (0..c)
                                    .flat_map(|k| (0..h * w).map(move |p| p * c + k))
                                    .map(|i| r[i])
                                    .collect::<Vec<_>>()
                            };
                            v.chunks_exact(h * w * c).flat_map(row).collect()
                        })?,
                    };
                    let transposed = self.node("Transpose", &[&w], &[("perm", ints(&[1, 0]))]);
                    let y = self.node("MatMul", &[&x, &transposed], &[]);
                    self.call(&w);
                    match l.bias {
                        true => {
                            let b = self.plain(&[l.outputs])?;
                            self.node("Add", &[&y, &b], &[])
                        }
                        false => y,
                    }
                }
                LayerSpec::Conv2d(l) => self.conv(l, &x)?,
                LayerSpec::Relu(_) => self.node("Relu", &[&x], &[]),
                LayerSpec::Activation(a) => match a.function {
                    Function::Gelu => self.node("Gelu", &[&x], &[]),
                    Function::GeluTanh => self.node("Gelu", &[&x], &[("approximate", Attribute::Text("tanh".into()))]),
                    Function::Silu => {
                        let gate = self.node("Sigmoid", &[&x], &[]);
                        self.node("Mul", &[&x, &gate], &[])
                    }
                    Function::Tanh => self.node("Tanh", &[&x], &[]),
                    Function::Sigmoid => self.node("Sigmoid", &[&x], &[]),
                    Function::Softplus => self.node("Softplus", &[&x], &[]),
                    Function::LeakyRelu => self.node("LeakyRelu", &[&x], &[("alpha", Attribute::Float(0.01))]),
                    Function::Elu => self.node("Elu", &[&x], &[]),
                    Function::Relu6 => {
                        let (low, high) = (self.number(0.0), self.number(6.0));
                        self.node("Clip", &[&x, &low, &high], &[])
                    }
                    Function::Hardswish => self.node("HardSwish", &[&x], &[]),
                },
                LayerSpec::MaxPool(l) => self.pool("MaxPool", &x, l.size, l.stride, l.padding),
                LayerSpec::AvgPool(l) => self.pool("AveragePool", &x, l.size, l.stride, l.padding),
                LayerSpec::GlobalAvgPool(_) if shape.len() == 3 => {
                    let y = self.node("GlobalAveragePool", &[&x], &[]);
                    self.node("Flatten", &[&y], &[("axis", Attribute::Int(1))])
                }
                LayerSpec::Flatten(_) => {
                    if shape.len() == 3 && shape[0] * shape[1] > 1 && shape[2] > 1 && matrix_next(&layers[i + 1..]) {
                        flat = Some([shape[0], shape[1], shape[2]]);
                    } else if shape.len() == 3 && shape[0] * shape[1] > 1 && shape[2] > 1 {
                        x = self.node("Transpose", &[&x], &[("perm", ints(&[0, 2, 3, 1]))]);
                    }
                    self.node("Flatten", &[&x], &[("axis", Attribute::Int(1))])
                }
                LayerSpec::BatchNorm(l) if [1, 3].contains(&shape.len()) => {
                    let mut inputs = vec![x];
                    for _ in 0..4 {
                        inputs.push(self.plain(&[l.channels])?);
                    }
                    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
                    self.node("BatchNormalization", &inputs, &[("epsilon", Attribute::Float(l.epsilon as f32))])
                }
                LayerSpec::Dropout(_) => x,
                LayerSpec::Residual(l) => {
                    let (body, _) = self.chain(&l.body, x.clone(), shape.clone())?;
                    let (shortcut, _) = self.chain(&l.shortcut, x, shape.clone())?;
                    self.node("Add", &[&body, &shortcut], &[])
                }
                other => {
                    let kind = serde_json::to_value(other).ok();
                    let kind = kind.as_ref().and_then(|v| v["layer"].as_str()).unwrap_or("unnamed");
                    return Err(self.fail(format!("a layer of kind `{kind}`, which is not written as ONNX")));
                }
            };
            shape = after;
        }
        Ok((x, shape))
    }
}
