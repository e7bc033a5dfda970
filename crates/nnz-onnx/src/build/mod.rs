//! Graphs of known architectures, from checkpoints: `config.json` describes a transformer; the names and shapes of their
//! tensors describe vision networks. Constants keep the checkpoint's names and layouts, so that pruned ones can be written
//! back.

mod bert;
mod clip;
mod mobile;
mod modern;
mod pooling;
mod resnet;
mod sequential;
mod vit;

use crate::graph::{Attribute, Constant, DType, Graph, Node, OPSET, Port};
use crate::{Error, Result};
use nnz_formats::Archive;
use std::collections::BTreeMap;

/// Inputs of a network.
#[derive(Clone, Debug, PartialEq)]
pub enum Reads {
    /// Texts: tokens of a vocabulary of the given size, in sequences up to a length.
    Tokens {
        /// Size of the vocabulary.
        vocabulary: usize,
        /// Longest sequence.
        context: usize,
    },
    /// Images.
    Pictures(Pictures),
    /// Both, in two towers.
    Both {
        /// Tokens it knows.
        vocabulary: usize,
        /// Longest sequence.
        context: usize,
        /// Input of the other tower.
        pictures: Pictures,
    },
    /// The file does not say.
    Anything,
}

/// How an image comes to the size of a network's input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fit {
    /// Scaled until it just covers the input, then center-cropped.
    #[default]
    Cover,
    /// Scaled until its shorter side has this many pixels, then center-cropped.
    Shorter(usize),
    /// Both sides scaled to those of the input.
    Stretch,
}

/// Image preprocessing: scaling to 0..1, minus the mean, divided by the standard deviation of each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Pictures {
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel.
    pub deviation: Vec<f32>,
    /// Whether they are resized by a cubic filter instead of a triangle.
    pub cubic: bool,
    /// How they are resized.
    pub fit: Fit,
}

impl Pictures {
    /// The usual preprocessing of networks trained on ImageNet.
    fn image_net(size: usize) -> Self {
        let (mean, deviation) = (vec![0.485, 0.456, 0.406], vec![0.229, 0.224, 0.225]);
        Self { shape: [3, size, size], mean, deviation, cubic: false, fit: Fit::Cover }
    }

    /// Square images with equal statistics in all channels.
    fn even(channels: usize, size: usize, mean: f32, deviation: f32) -> Self {
        let [mean, deviation] = [mean, deviation].map(|v| vec![v; channels]);
        Self { shape: [channels, size, size], mean, deviation, cubic: false, fit: Fit::Cover }
    }

    /// Updates it from `preprocessor_config.json`, if one is next to the checkpoint.
    fn prepared(mut self, archive: &Archive) -> Result<Self> {
        let file = archive.path.join("preprocessor_config.json");
        if !file.is_file() {
            return Ok(self);
        }
        let fail = |why: String| Error::file(&file, why);
        let text = std::fs::read(&file).map_err(|e| fail(format!("cannot read: {e}")))?;
        let json: serde_json::Value = serde_json::from_slice(&text).map_err(|e| fail(e.to_string()))?;
        let plain = json["do_normalize"] == false;
        for (key, to, none) in [("image_mean", &mut self.mean, 0.0), ("image_std", &mut self.deviation, 1.0)] {
            let given = match json[key].as_array() {
                _ if plain => vec![none; to.len()],
                None => continue,
                Some(list) => list.iter().filter_map(|v| Some(v.as_f64()? as f32)).filter(|v| v.is_finite()).collect(),
            };
            if given.len() != to.len() || key == "image_std" && given.contains(&0.0) {
                return Err(fail(format!("{key} is {}, but there are {} channels", json[key], to.len())));
            }
            *to = given;
        }
        // Numbers from 0 to 1 elsewhere: another factor is one of the mean and the deviation.
        let factor = match (&json["do_rescale"], &json["rescale_factor"]) {
            (serde_json::Value::Bool(false), _) => 255.0,
            (_, serde_json::Value::Null) => 1.0,
            (_, f) => f.as_f64().map_or(f64::NAN, |f| f * 255.0),
        };
        if !(factor.is_finite() && factor > 0.0) {
            return Err(fail(format!("rescale_factor is {}", json["rescale_factor"])));
        }
        if (factor - 1.0).abs() > 1e-6 {
            self.mean.iter_mut().chain(&mut self.deviation).for_each(|v| *v = (f64::from(*v) / factor) as f32);
        }
        self.fit = fit(&json, self.shape).map_err(fail)?;
        self.cubic = match json["resample"].as_u64() {
            None => self.cubic,
            Some(2) => false,
            Some(3) => true,
            Some(n) => return Err(fail(format!("pictures scaled by Pillow's filter {n}; 2 and 3 are computed here"))),
        };
        Ok(self)
    }
}

/// How `preprocessor_config.json` resizes and crops to a network's input `[channels, height, width]`.
fn fit(json: &serde_json::Value, [_, height, width]: [usize; 3]) -> Result<Fit, String> {
    let size = |key: &str| {
        let sides = |h: &serde_json::Value, w: &serde_json::Value| Some([h.as_u64()? as usize, w.as_u64()? as usize]);
        sides(&json[key], &json[key]).or_else(|| sides(&json[key]["height"], &json[key]["width"]))
    };
    if json["do_resize"] == false {
        // Pictures come in the right size, which scaling leaves as it is.
        return Ok(Fit::Cover);
    }
    let shorter = json["size"]["shortest_edge"].as_u64().map(|n| n as usize);
    let crops = json["do_center_crop"] == true;
    let asked = size(if crops { "crop_size" } else { "size" });
    if let Some(asked) = asked
        && asked != [height, width]
    {
        return Err(format!("pictures of {} x {} for a network that reads {height} x {width}", asked[0], asked[1]));
    }
    let shorter = shorter.or(if crops { size("size").map(|s| s[0].min(s[1])) } else { None });
    match shorter {
        Some(n) if n < height.max(width) => {
            Err(format!("pictures scaled to {n}, of which no {height} x {width} can be cropped"))
        }
        Some(n) if n > 1 << 12 => Err(format!("pictures scaled to {n}; at most {} are read", 1 << 12)),
        Some(n) if n == height && n == width => Ok(Fit::Cover),
        Some(n) => Ok(Fit::Shorter(n)),
        None if !crops && size("size").is_some() => Ok(Fit::Stretch),
        None => Ok(Fit::Cover),
    }
}

/// The family of plain convolutional networks, whose layers without tensors are guessed.
pub const GUESSED: &str = sequential::GUESSED;

/// A network built from a checkpoint.
#[derive(Clone, Debug)]
pub struct Built {
    /// The network.
    pub graph: Graph,
    /// Its architecture, such as `BERT`.
    pub family: &'static str,
    /// Its inputs.
    pub reads: Reads,
    /// Names of its classes, if the checkpoint has them.
    pub classes: Vec<String>,
    /// Assumptions made, in sentences.
    pub notes: Vec<String>,
}

/// Builds an architecture from an archive.
type Builder = fn(&Archive) -> Result<Built>;

fn recognize(archive: &Archive) -> Option<Builder> {
    let has = |name: &str| archive.get(name).is_some();
    if let Some(config) = &archive.config {
        return match config["model_type"].as_str()? {
            "vit" => Some(vit::build),
            "clip" => Some(clip::build),
            "modernbert" => Some(modern::build),
            kind => bert::builder(kind),
        };
    }
    if has("layer1.0.conv1.weight") && has("conv1.weight") {
        return Some(resnet::build);
    }
    if has("features.18.0.weight") && has("features.1.conv.0.0.weight") {
        return Some(mobile::build_v2);
    }
    if has("_conv_stem.weight") && has("_blocks.0._depthwise_conv.weight") {
        return Some(mobile::build_lite);
    }
    sequential::fits(archive).then_some(sequential::build as Builder)
}

/// Whether an archive has a supported architecture.
pub fn known(archive: &Archive) -> bool {
    recognize(archive).is_some()
}

/// Builds the network of an archive.
///
/// # Errors
/// When its architecture is unknown, or a tensor is missing or has another shape than the architecture requires.
pub fn build(archive: &Archive) -> Result<Built> {
    let Some(builder) = recognize(archive) else {
        let kind = archive.config.as_ref().and_then(|c| c["model_type"].as_str());
        let what = kind.map_or("its tensors have the names of no architecture that is known".into(), |k| {
            format!("a model of type {k}")
        });
        return Err(Error::file(
            &archive.path,
            format!(
                "{what}; BERT, RoBERTa, DistilBERT, ELECTRA, MPNet, ModernBERT, ViT and CLIP with a config.json, and ResNet, MobileNetV2, EfficientNet-Lite and plain \
                 convolutional networks by their names are built here; anything else can come as ONNX"
            ),
        ));
    };
    let mut built = builder(archive)?;
    built.graph.sort()?;
    whole(archive, &built)?;
    Ok(built)
}

/// Checks that every tensor of the file is part of the network, or does not affect what it computes.
fn whole(archive: &Archive, built: &Built) -> Result<()> {
    // Counters and positions, and heads of other tasks.
    let idle = |name: &str| {
        let ends = ["num_batches_tracked", "position_ids"];
        let parts = ["pooler.dense.", "cls.seq_relationship.", "cls.predictions.decoder.bias", "lm_head.decoder.bias"];
        ends.iter().any(|e| name.ends_with(e))
            || parts.iter().any(|p| name.starts_with(p) || name.contains(&format!(".{p}")))
    };
    let mut lost = archive.tensors().map(|(n, _)| n).filter(|n| !built.graph.constants.contains_key(*n) && !idle(n));
    let Some(first) = lost.next() else { return Ok(()) };
    let more = match lost.count() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let way = match archive.config {
        Some(_) => "take the config.json that came with these weights, or bring the network as ONNX",
        None => "bring the network as ONNX",
    };
    Err(Error::file(
        &archive.path,
        format!(
            "`{first}`{more} of its tensors would be lost: a network of the kind {} does not read them; {way}",
            built.family
        ),
    ))
}

/// A graph under construction.
struct Net<'a> {
    archive: &'a Archive,
    graph: Graph,
}

fn int(v: i64) -> Attribute {
    Attribute::Int(v)
}

fn ints(v: &[usize]) -> Attribute {
    Attribute::Ints(v.iter().map(|&v| v as i64).collect())
}

impl<'a> Net<'a> {
    fn new(archive: &'a Archive, name: &str) -> Self {
        let graph = Graph {
            path: archive.path.clone(),
            name: name.into(),
            opset: OPSET,
            nodes: Vec::new(),
            constants: BTreeMap::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            metadata: BTreeMap::new(),
        };
        Self { archive, graph }
    }

    fn fail(&self, why: String) -> Error {
        Error::file(&self.archive.path, why)
    }

    fn has(&self, name: &str) -> bool {
        self.archive.get(name).is_some()
    }

    fn shape(&self, name: &str) -> Result<Vec<usize>> {
        match self.archive.get(name) {
            Some(entry) => Ok(entry.shape.clone()),
            None => Err(self.fail(format!("tensor `{name}` is missing"))),
        }
    }

    /// Adds a tensor of the checkpoint as a constant.
    fn weight(&mut self, name: &str, shape: &[usize]) -> Result<String> {
        let have = self.shape(name)?;
        if have != shape {
            return Err(self.fail(format!("`{name}` is {have:?}, but the network needs {shape:?}")));
        }
        if !self.graph.constants.contains_key(name) {
            let entry = self.archive.get(name);
            if entry.is_some_and(|e| e.format.is_whole() && !e.is_scaled()) && !self.archive.by_steps(name) {
                return Err(self.fail(format!(
                    "`{name}` holds whole numbers without the scales that make weights of them; give the model unquantized"
                )));
            }
            let numbers = self.archive.read(name)?;
            if let Some(at) = numbers.iter().position(|v| !v.is_finite()) {
                return Err(self.fail(format!("`{name}` holds {} at number {at}; the file is damaged", numbers[at])));
            }
            self.graph.constants.insert(name.into(), Constant::floats(shape, numbers));
        }
        Ok(name.into())
    }

    fn constant(&mut self, hint: &str, constant: Constant) -> String {
        let name = format!("{hint}.{}", self.graph.constants.len());
        self.graph.constants.insert(name.clone(), constant);
        name
    }

    fn list(&mut self, values: &[i64]) -> String {
        self.constant("list", Constant::ints(&[values.len()], values.to_vec()))
    }

    fn scalar(&mut self, value: f32) -> String {
        self.constant("number", Constant::floats(&[], vec![value]))
    }

    fn node(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> String {
        self.graph.add(op, inputs, attributes)
    }

    /// Names the last node after the checkpoint's layer, which is the name users look for.
    fn call(&mut self, layer: &str) {
        if let Some(node) = self.graph.nodes.last_mut() {
            node.name = layer.into();
        }
    }

    fn input(&mut self, name: &str, kind: DType, shape: &[Option<usize>]) -> String {
        self.graph.inputs.push(Port { name: name.into(), kind: Some(kind), shape: Some(shape.to_vec()) });
        name.into()
    }

    /// Declares a value as an output with a name.
    fn output(&mut self, value: &str, name: &str, shape: &[Option<usize>]) {
        let mut node = Node::new("Identity", name, &[value]);
        node.name = format!("output.{name}");
        self.graph.nodes.push(node);
        self.graph.outputs.push(Port { name: name.into(), kind: Some(DType::F32), shape: Some(shape.to_vec()) });
    }

    /// Adds x Wᵀ + b for a matrix `[outputs, inputs]` of the checkpoint; without b if there is none.
    fn linear(&mut self, x: &str, prefix: &str, rows: usize, cols: usize) -> Result<String> {
        let w = self.weight(&format!("{prefix}.weight"), &[rows, cols])?;
        let transposed = self.node("Transpose", &[&w], &[("perm", ints(&[1, 0]))]);
        let y = self.node("MatMul", &[x, &transposed], &[]);
        self.call(prefix);
        let bias = format!("{prefix}.bias");
        if !self.has(&bias) {
            return Ok(y);
        }
        let b = self.weight(&bias, &[rows])?;
        Ok(self.node("Add", &[&y, &b], &[]))
    }

    /// Adds a layer norm; old checkpoints call gain and offset gamma and beta.
    fn layer_norm(&mut self, x: &str, prefix: &str, width: usize, epsilon: f64) -> Result<String> {
        let old = self.has(&format!("{prefix}.gamma"));
        let names = if old { ["gamma", "beta"] } else { ["weight", "bias"] };
        let gain = self.weight(&format!("{prefix}.{}", names[0]), &[width])?;
        let offset = self.weight(&format!("{prefix}.{}", names[1]), &[width])?;
        let attributes = [("axis", int(-1)), ("epsilon", Attribute::Float(epsilon as f32))];
        Ok(self.node("LayerNormalization", &[x, &gain, &offset], &attributes))
    }

    /// Adds an activation by its name in configurations.
    fn activation(&mut self, x: &str, name: &str) -> Result<String> {
        Ok(match name {
            "gelu" => self.node("Gelu", &[x], &[]),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => {
                self.node("Gelu", &[x], &[("approximate", Attribute::Text("tanh".into()))])
            }
            "relu" => self.node("Relu", &[x], &[]),
            "quick_gelu" => {
                let slope = self.scalar(1.702);
                let scaled = self.node("Mul", &[x, &slope], &[]);
                let gate = self.node("Sigmoid", &[&scaled], &[]);
                self.node("Mul", &[x, &gate], &[])
            }
            "silu" | "swish" => {
                let gate = self.node("Sigmoid", &[x], &[]);
                self.node("Mul", &[x, &gate], &[])
            }
            other => return Err(self.fail(format!("activation `{other}`, which is not computed here"))),
        })
    }

    /// Adds attention of `heads` heads over queries, keys and values `[batch, places, width]`; adds `mask` to the scores.
    fn attention(&mut self, [q, k, v]: [&str; 3], heads: usize, width: usize, mask: Option<&str>) -> String {
        let each = width / heads;
        let apart = self.list(&[0, 0, heads as i64, each as i64]);
        let together = self.list(&[0, 0, width as i64]);
        let split = |net: &mut Self, x: &str, order: [usize; 4]| {
            let x = net.node("Reshape", &[x, &apart], &[]);
            net.node("Transpose", &[&x], &[("perm", ints(&order))])
        };
        let q = split(self, q, [0, 2, 1, 3]);
        let k = split(self, k, [0, 2, 3, 1]);
        let v = split(self, v, [0, 2, 1, 3]);
        let scale = self.scalar((each as f32).sqrt().recip());
        let q = self.node("Mul", &[&q, &scale], &[]);
        let mut scores = self.node("MatMul", &[&q, &k], &[]);
        if let Some(mask) = mask {
            scores = self.node("Add", &[&scores, mask], &[]);
        }
        let share = self.node("Softmax", &[&scores], &[("axis", int(-1))]);
        let y = self.node("MatMul", &[&share, &v], &[]);
        let y = self.node("Transpose", &[&y], &[("perm", ints(&[0, 2, 1, 3]))]);
        self.node("Reshape", &[&y, &together], &[])
    }

    /// Computes the term added to scores: zero where a mask `[batch, positions]` is one, very negative elsewhere.
    fn hidden(&mut self, mask: &str) -> String {
        let axes = self.list(&[1, 2]);
        let mask = self.node("Unsqueeze", &[mask, &axes], &[]);
        let mask = self.node("Cast", &[&mask], &[("to", int(1))]);
        let (one, far) = (self.scalar(1.0), self.scalar(-1e9));
        let gone = self.node("Sub", &[&one, &mask], &[]);
        self.node("Mul", &[&gone, &far], &[])
    }

    /// Numbers of the positions of a text of this length, a list of one number.
    fn positions(&mut self, length: &str) -> String {
        let [zero, one] = [0, 1].map(|v| self.constant("place", Constant::ints(&[], vec![v])));
        let axis = self.list(&[0]);
        let length = self.node("Squeeze", &[length, &axis], &[]);
        self.node("Range", &[&zero, &length, &one], &[])
    }

    /// SPLADE's pooling of logits `[batch, positions, vocabulary]`: max over tokens of ln(1 + relu(logit)).
    fn sparse(&mut self, logits: &str, mask: &str) -> String {
        let y = self.node("Relu", &[logits], &[]);
        let one = self.scalar(1.0);
        let y = self.node("Add", &[&y, &one], &[]);
        let y = self.node("Log", &[&y], &[]);
        let m = self.node("Cast", &[mask], &[("to", int(1))]);
        let last = self.list(&[-1]);
        let m = self.node("Unsqueeze", &[&m, &last], &[]);
        let y = self.node("Mul", &[&y, &m], &[]);
        let first = self.list(&[1]);
        self.node("ReduceMax", &[&y, &first], &[("keepdims", int(0))])
    }

    /// Normalizes the last axis to unit length.
    fn unit(&mut self, x: &str) -> String {
        let axes = self.list(&[-1]);
        let length = self.node("ReduceL2", &[x, &axes], &[("keepdims", int(1))]);
        let least = self.scalar(1e-12);
        let length = self.node("Max", &[&length, &least], &[]);
        self.node("Div", &[x, &length], &[])
    }

    /// Adds a convolution with a kernel of the checkpoint; returns its number of output channels.
    fn conv(&mut self, x: &str, prefix: &str, how: Step) -> Result<(String, usize)> {
        let name = format!("{prefix}.weight");
        let shape = self.shape(&name)?;
        let &[filters, channels, h, w] = shape.as_slice() else {
            return Err(self.fail(format!("`{name}` is {shape:?}, which is no kernel of pictures")));
        };
        if [filters, channels, h, w].contains(&0) || !filters.is_multiple_of(how.groups.max(1)) {
            return Err(self.fail(format!("`{name}` is {shape:?} in {} groups", how.groups)));
        }
        let weight = self.weight(&name, &shape)?;
        let mut inputs = vec![x.to_string(), weight];
        let bias = format!("{prefix}.bias");
        if self.has(&bias) {
            inputs.push(self.weight(&bias, &[filters])?);
        }
        let mut attributes = vec![
            ("kernel_shape", ints(&[h, w])),
            ("strides", ints(&[how.stride; 2])),
            ("group", int(how.groups as i64)),
        ];
        attributes.push(match how.same {
            true => ("auto_pad", Attribute::Text("SAME_UPPER".into())),
            false => ("pads", ints(&[h / 2 * usize::from(how.padded), w / 2 * usize::from(how.padded)].repeat(2))),
        });
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let y = self.node("Conv", &inputs, &attributes);
        self.call(prefix);
        Ok((y, filters))
    }

    fn batch_norm(&mut self, x: &str, prefix: &str, channels: usize, epsilon: f32) -> Result<String> {
        let mut inputs = vec![x.to_string()];
        for part in ["weight", "bias", "running_mean", "running_var"] {
            inputs.push(self.weight(&format!("{prefix}.{part}"), &[channels])?);
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        Ok(self.node("BatchNormalization", &inputs, &[("epsilon", Attribute::Float(epsilon))]))
    }

    fn relu6(&mut self, x: &str) -> String {
        let (low, high) = (self.scalar(0.0), self.scalar(6.0));
        self.node("Clip", &[x, &low, &high], &[])
    }

    fn max_pool(&mut self, x: &str, size: usize, stride: usize, pad: usize) -> String {
        let attributes =
            [("kernel_shape", ints(&[size; 2])), ("strides", ints(&[stride; 2])), ("pads", ints(&[pad; 4]))];
        self.node("MaxPool", &[x], &attributes)
    }

    /// Adds global average pooling, `[batch, channels]`.
    fn pooled(&mut self, x: &str) -> String {
        let x = self.node("GlobalAveragePool", &[x], &[]);
        self.node("Flatten", &[&x], &[("axis", int(1))])
    }

    /// Adds a classifier as the last layer.
    fn head(&mut self, x: &str, prefix: &str) -> Result<usize> {
        let shape = self.shape(&format!("{prefix}.weight"))?;
        let &[classes, inputs] = shape.as_slice() else {
            return Err(self.fail(format!("`{prefix}.weight` is {shape:?}, which is no matrix")));
        };
        let logits = self.linear(x, prefix, classes, inputs)?;
        self.output(&logits, "logits", &[None, Some(classes)]);
        Ok(classes)
    }
}

/// Settings of a convolution.
#[derive(Clone, Copy)]
struct Step {
    stride: usize,
    groups: usize,
    /// Whether it is padded by half a kernel.
    padded: bool,
    /// Whether padding preserves the size up to the stride, with the odd zero at the end.
    same: bool,
}

impl Step {
    const ONE: Self = Self { stride: 1, groups: 1, padded: true, same: false };
}

/// Numbers of a configuration.
struct Config<'a> {
    archive: &'a Archive,
    json: &'a serde_json::Value,
}

/// Largest extent accepted.
const MOST: usize = 1 << 20;

impl Config<'_> {
    fn fail(&self, why: String) -> Error {
        Error::file(&self.archive.path, format!("config.json: {why}"))
    }

    fn size(&self, key: &str) -> Result<usize> {
        let found = self.json[key].as_u64().ok_or_else(|| self.fail(format!("it does not say {key}")))? as usize;
        match (1..=MOST).contains(&found) {
            true => Ok(found),
            false => Err(self.fail(format!("{key} is {found}"))),
        }
    }

    fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        if self.json[key].is_null() { Ok(default) } else { self.size(key) }
    }

    fn epsilon(&self, default: f64) -> f64 {
        self.json["layer_norm_eps"].as_f64().filter(|e| e.is_finite() && *e > 0.0).unwrap_or(default)
    }

    /// Width and heads; the width is a multiple of the heads.
    fn width(&self) -> Result<(usize, usize)> {
        let (width, heads) = (self.size("hidden_size")?, self.size("num_attention_heads")?);
        match width.is_multiple_of(heads) {
            true => Ok((width, heads)),
            false => Err(self.fail(format!("a width of {width} for {heads} heads"))),
        }
    }

    fn text<'b>(&'b self, key: &str, default: &'b str) -> &'b str {
        self.json[key].as_str().unwrap_or(default)
    }

    /// Names of classes in the order of their numbers.
    fn classes(&self) -> Vec<String> {
        let Some(map) = self.json["id2label"].as_object() else { return Vec::new() };
        let mut all: Vec<(usize, String)> =
            map.iter().filter_map(|(k, v)| Some((k.parse().ok()?, v.as_str()?.to_string()))).collect();
        all.sort();
        all.into_iter().map(|(_, name)| name).collect()
    }
}

fn config(archive: &Archive) -> Config<'_> {
    static NONE: serde_json::Value = serde_json::Value::Null;
    Config { archive, json: archive.config.as_ref().unwrap_or(&NONE) }
}
