use super::family::{Bias, DOWN, Family, GATE, Inner, Layout, Mixture, OUT, PARTS, Slot, Window};
use super::rope::{Rope, Scaling};
use crate::{Error, Result};
use nnz_formats::{Archive, Value};
use serde_json::json;

/// Activation function of a perceptron.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x σ(x).
    Silu,
    /// x Φ(x).
    Gelu,
    /// GELU in the tanh approximation.
    GeluTanh,
    /// max(x, 0).
    Relu,
}

/// Mixture of experts: a router chooses some perceptrons for each position.
#[derive(Clone, Debug)]
pub struct Experts {
    /// Their number.
    pub count: usize,
    /// How many are chosen for a position.
    pub chosen: usize,
    /// Their hidden width.
    pub hidden: usize,
    /// Whether the weights of the chosen ones are divided by their sum.
    pub normalized: bool,
    /// Hidden width of the expert that all positions pass through.
    pub shared: Option<usize>,
    /// Whether all experts share two tensors, with gate and up in one.
    pub fused: bool,
    /// Layers that have experts.
    pub layers: Vec<bool>,
}

/// Hyperparameters of a decoder.
#[derive(Clone, Debug)]
pub struct Config {
    /// Family, which determines names, layout and order.
    pub family: &'static Family,
    /// Size of the vocabulary.
    pub vocabulary: usize,
    /// Width of the model.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub groups: usize,
    /// Width of a head.
    pub each: usize,
    /// Hidden width of a perceptron.
    pub hidden: usize,
    /// ε of the norms.
    pub epsilon: f64,
    /// Rotary positions, and those of layers with a window.
    pub ropes: [Option<Rope>; 2],
    /// Activation of the perceptron.
    pub activation: Activation,
    /// Which of [`PARTS`] have biases.
    pub biases: [bool; PARTS.len()],
    /// Whether attention and perceptron run in parallel.
    pub parallel: bool,
    /// Names of the norms of what attention reads, of what it adds, of what the perceptron reads, and of what it adds.
    pub norms: [Option<&'static str>; 4],
    /// Longest sequence it was made for.
    pub context: usize,
    /// Whether the head shares the embedding's weights.
    pub tied: bool,
    /// Layers that see the last [`window`](Self::window) positions, and turn by the second of [`ropes`](Self::ropes) if there is one.
    pub slides: Vec<bool>,
    /// How many positions they see; all without a number.
    pub window: Option<usize>,
    /// Factor of queries besides 1/√[`each`](Self::each).
    pub sharpness: f32,
    /// Soft caps of scores and logits: c tanh(x / c).
    pub caps: [Option<f32>; 2],
    /// Largest size of an entry of queries, keys and values.
    pub clip: Option<f32>,
    /// Factor of the embedding.
    pub embedding: f32,
    /// Mixture of experts.
    pub experts: Option<Experts>,
}

/// Largest extent accepted.
const MOST: usize = 1 << 20;

fn size(c: &serde_json::Value, key: &str) -> Option<usize> {
    c[key].as_u64().map(|n| n as usize)
}

fn need(c: &serde_json::Value, key: &str) -> Result<usize, String> {
    size(c, key).ok_or(format!("it does not say {key}"))
}

/// A positive number, if the configuration has the key and it is not null.
fn positive(c: &serde_json::Value, key: &str) -> Result<Option<f64>, String> {
    match (&c[key], c[key].as_f64()) {
        (serde_json::Value::Null, _) => Ok(None),
        (_, Some(v)) if v.is_finite() && v > 0.0 => Ok(Some(v)),
        (v, _) => Err(format!("{key} is {v}, which is no positive number")),
    }
}

/// A part of a model that is not implemented, and what can be done.
fn not_here(what: impl std::fmt::Display) -> String {
    format!("{what}, which is not computed here; bring the model as ONNX, whose graph holds all that is computed")
}

impl Config {
    /// Reads it from the files next to the weights or from the weights.
    ///
    /// # Errors
    /// When the model is not of these families, or has a part that is not implemented.
    pub fn of(archive: &Archive) -> Result<Self> {
        let fail = |why: String| Error::file(&archive.path, why);
        let config = match (archive.kind, &archive.config) {
            ("GGUF", _) => Self::gguf(archive).map_err(fail)?,
            (_, Some(config)) => {
                let fused = archive.tensors().any(|(name, _)| name.ends_with(".mlp.experts.gate_up_proj"));
                Self::hugging_face(config, fused).map_err(|why| fail(format!("config.json: {why}")))?
            }
            _ => {
                return Err(fail(
                    "there is no config.json beside the weights to say what network they are; put it into the same folder".into(),
                ));
            }
        };
        config.check().map_err(fail)?;
        Ok(config)
    }

    fn gguf(archive: &Archive) -> Result<Self, String> {
        let said = &archive.metadata;
        let architecture = said.get("general.architecture").and_then(Value::text).unwrap_or("unnamed");
        let Some(family) = Family::of_gguf(architecture) else {
            return Err(format!(
                "a model of architecture {architecture}; of GGUF files the families of Llama (`llama`), `qwen2` and `qwen3` are what \
                 runs here. Bring the model as a folder with config.json, or as ONNX"
            ));
        };
        let get = |key: &str| said.get(&format!("{architecture}.{key}"));
        let size = |key: &str| get(key).and_then(Value::size).ok_or(format!("it does not say {architecture}.{key}"));
        let number = |key: &str| get(key).and_then(Value::number);
        // A factor without a kind is linear scaling; older files call it otherwise.
        let mut factors = ["rope.scaling.factor", "rope.scale_linear"].into_iter().filter_map(number);
        let scaled = match get("rope.scaling.type").and_then(Value::text) {
            Some(kind) => kind != "none",
            None => factors.any(|f| f != 0.0 && f != 1.0),
        };
        if scaled || archive.get("rope_freqs.weight").is_some() {
            return Err(not_here("scaled rotary positions"));
        }
        if get("expert_count").and_then(Value::size).is_some_and(|n| n > 0) {
            return Err(not_here("a choice of experts"));
        }
        if get("attention.sliding_window").and_then(Value::size).is_some_and(|n| n > 0) {
            return Err(not_here("attention in a window"));
        }
        let (heads, width) = (size("attention.head_count")?, size("embedding_length")?);
        let each = get("attention.key_length").and_then(Value::size).unwrap_or(width / heads.max(1));
        if get("rope.dimension_count").and_then(Value::size).is_some_and(|n| n != each) {
            return Err(not_here("rotary positions on a part of each head"));
        }
        let rows = archive.get("token_embd.weight").and_then(|e| e.shape.first().copied());
        let base = number("rope.freq_base").unwrap_or(10_000.0);
        let layers = size("block_count")?;
        let always = family.biases.iter().filter(|(_, bias)| matches!(bias, Bias::Always));
        let mut biases = [false; PARTS.len()];
        always.flat_map(|(parts, _)| parts.iter()).for_each(|&part| biases[part] = true);
        Ok(Self {
            family,
            vocabulary: rows.ok_or("it has no token_embd.weight")?,
            width,
            layers,
            heads,
            groups: get("attention.head_count_kv").and_then(Value::size).unwrap_or(heads),
            each,
            ropes: [Some(Rope { dims: each, base, scaling: Scaling::None }), None],
            hidden: size("feed_forward_length")?,
            epsilon: number("attention.layer_norm_rms_epsilon").unwrap_or(1e-5),
            activation: family.activation,
            biases,
            parallel: false,
            norms: family.norms,
            context: size("context_length")?,
            tied: archive.get("output.weight").is_none(),
            slides: vec![false; layers.min(MOST)],
            window: None,
            sharpness: 1.0,
            caps: [None; 2],
            clip: None,
            embedding: 1.0,
            experts: None,
        })
    }

    fn hugging_face(c: &serde_json::Value, fused: bool) -> Result<Self, String> {
        let kind = c["model_type"].as_str().unwrap_or("unnamed");
        let Some(family) = Family::named(kind) else {
            let known: Vec<&str> = super::family::FAMILIES.iter().map(|f| f.kind).collect();
            return Err(format!(
                "a model of type {kind}; the decoders that run here are {}. Bring the model as ONNX",
                known.join(", ")
            ));
        };
        if let Some((_, what)) = family.refused.iter().find(|(met, _)| met(c)) {
            return Err(not_here(what));
        }
        let k = &family.keys;
        let (heads, width, layers) = (need(c, k.heads)?, need(c, k.width)?, need(c, k.layers)?);
        let each = size(c, "head_dim").or(family.each).unwrap_or(width / heads.max(1));
        if size(c, "head_dim").or(family.each).is_none() && each * heads != width {
            return Err(format!("{heads} heads for {width} numbers"));
        }
        if layers > MOST {
            return Err(format!("{layers} layers"));
        }
        let activation = match c[k.activation].as_str() {
            None => family.activation,
            Some("relu") => Activation::Relu,
            Some("gelu") => Activation::Gelu,
            Some("gelu_new" | "gelu_fast" | "gelu_pytorch_tanh") => Activation::GeluTanh,
            Some("silu" | "swish") => Activation::Silu,
            Some(other) => return Err(not_here(format!("activation {other}"))),
        };
        let hidden = match family.times {
            Some(times) => size(c, k.hidden).unwrap_or(width.saturating_mul(times)),
            None => need(c, k.hidden)?,
        };
        let trained = match family.positions {
            Some(_) => need(c, k.context)?,
            None => size(c, k.context).unwrap_or(2048),
        };
        let ropes = ropes(family, c, each, trained)?;
        let mut biases = [false; PARTS.len()];
        for (parts, bias) in family.biases {
            let has = match bias {
                Bias::Always => true,
                Bias::If(key, silent) => c[*key].as_bool().unwrap_or(*silent),
            };
            parts.iter().for_each(|&part| biases[part] = has);
        }
        let parallel = family.parallel.is_some_and(|(key, silent, _)| c[key].as_bool().unwrap_or(silent));
        let mut norms = family.norms;
        if parallel && family.parallel.is_some_and(|(_, _, same)| same) {
            norms[2] = norms[0];
        }
        let scale =
            if family.scaled_queries { positive(c, "query_pre_attn_scalar")?.unwrap_or(256.0) } else { each as f64 };
        let cap = |key: &str, silent: Option<f64>| -> Result<Option<f32>, String> {
            let cap = if c.get(key).is_some() { positive(c, key)? } else { silent };
            Ok(cap.map(|v| v as f32))
        };
        let caps = match family.caps {
            Some([scores, logits]) => [cap("attn_logit_softcapping", scores)?, cap("final_logit_softcapping", logits)?],
            None => [None; 2],
        };
        let (slides, window) = windows(family, c, layers)?;
        let reach = ropes[0].as_ref().map_or(trained, |rope| rope.scaling.reach(trained));
        Ok(Self {
            family,
            vocabulary: need(c, "vocab_size")?,
            width,
            layers,
            heads,
            groups: size(c, "num_key_value_heads").unwrap_or(heads),
            each,
            hidden,
            epsilon: positive(c, k.epsilon)?.unwrap_or(family.epsilon),
            ropes,
            activation,
            biases,
            parallel,
            norms,
            context: reach.min(MOST),
            tied: c["tie_word_embeddings"].as_bool().unwrap_or(family.tied),
            slides,
            window,
            sharpness: (each as f64 / scale).sqrt() as f32,
            caps,
            clip: if family.clips { positive(c, "clip_qkv")?.map(|v| v as f32) } else { None },
            embedding: if family.scaled_embedding { (width as f64).sqrt() as f32 } else { 1.0 },
            experts: family.mixture.as_ref().map(|m| experts(m, c, layers, fused)).transpose()?,
        })
    }

    /// The experts of a layer, if it has some.
    pub fn experts_of(&self, layer: usize) -> Option<&Experts> {
        self.experts.as_ref().filter(|e| e.layers[layer])
    }

    /// The rotary positions of a layer, as an index of [`ropes`](Self::ropes).
    pub fn rope_of(&self, layer: usize) -> usize {
        usize::from(self.slides[layer] && self.ropes[1].is_some())
    }

    /// How many positions a layer sees; all without a number.
    pub fn window_of(&self, layer: usize) -> Option<usize> {
        self.window.filter(|_| self.slides[layer])
    }

    /// Number of perceptrons of a layer: one, or the experts with the shared one.
    pub fn perceptrons(&self, layer: usize) -> usize {
        self.experts_of(layer).map_or(1, |e| e.count + usize::from(e.shared.is_some()))
    }

    /// The matrices of a layer in the order of computation: those of attention; of every perceptron what reads its input; then of
    /// every one its output.
    pub fn slots(&self, layer: usize) -> Vec<Slot> {
        let all = 0..self.perceptrons(layer);
        let inputs = if self.family.gated { GATE..DOWN } else { GATE + 1..DOWN };
        let attention = (0..=OUT).map(|part| Slot { part, expert: 0 });
        let read = all.clone().flat_map(|expert| inputs.clone().map(move |part| Slot { part, expert }));
        attention.chain(read).chain(all.map(|expert| Slot { part: DOWN, expert })).collect()
    }

    /// Rows and columns of a matrix.
    pub fn extents(&self, layer: usize, slot: Slot) -> [usize; 2] {
        let (queries, keys) = (self.heads * self.each, self.groups * self.each);
        let hidden = match self.experts_of(layer) {
            None => self.hidden,
            Some(e) if slot.expert == e.count => e.shared.unwrap_or(e.hidden),
            Some(e) => e.hidden,
        };
        match slot.part {
            0 => [queries, self.width],
            1 | 2 => [keys, self.width],
            OUT => [self.width, queries],
            DOWN => [self.width, hidden],
            _ => [hidden, self.width],
        }
    }

    /// Widths of the norms of queries and keys.
    pub fn inner(&self) -> Option<[usize; 2]> {
        Some(match self.family.inner? {
            Inner::Head => [self.each; 2],
            Inner::Whole => [self.heads * self.each, self.groups * self.each],
        })
    }

    fn check(&self) -> Result<(), String> {
        let sizes =
            [self.vocabulary, self.width, self.layers, self.heads, self.groups, self.each, self.hidden, self.context];
        if sizes.iter().any(|s| *s == 0 || *s > MOST) {
            return Err(format!("extents of {sizes:?}, of which one is zero or above 2^20"));
        }
        let together = matches!(self.family.layout(0), Layout::ByHead(_) | Layout::Turned(..));
        if !self.heads.is_multiple_of(self.groups) || together && self.groups != self.heads {
            return Err(format!("{} heads of {} numbers in {} groups", self.heads, self.each, self.groups));
        }
        let sound = |x: f64| x.is_finite() && x > 0.0;
        for rope in self.ropes.iter().flatten() {
            if !rope.dims.is_multiple_of(2) || rope.dims > self.each || !(sound(rope.base) && rope.base != 1.0) {
                return Err(format!("{} of {} numbers of a head turn by base {}", rope.dims, self.each, rope.base));
            }
        }
        if let Some(e) = &self.experts {
            let sizes = [e.count, e.chosen, e.hidden, e.shared.unwrap_or(1)];
            let many = self.layers.saturating_mul(e.count) > MOST;
            if sizes.iter().any(|s| *s == 0 || *s > MOST) || e.chosen > e.count || many {
                return Err(format!("{} of {} experts with {} hidden numbers", e.chosen, e.count, e.hidden));
            }
        }
        match sound(self.epsilon) {
            true => Ok(()),
            false => Err(format!("ε {} is no positive number", self.epsilon)),
        }
    }

    /// Configuration for Hugging Face's readers of a model that came as GGUF.
    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "architectures": [format!("{}ForCausalLM", self.family.title)],
            "model_type": self.family.kind,
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.groups,
            "head_dim": self.each,
            "intermediate_size": self.hidden,
            "rms_norm_eps": self.epsilon,
            "rope_theta": self.ropes[0].as_ref().map(|r| r.base),
            "max_position_embeddings": self.context,
            "tie_word_embeddings": self.tied,
            "hidden_act": "silu",
            "attention_bias": false,
            "mlp_bias": false,
        })
    }
}

/// Rotary positions, and those of layers with a window where they differ: from `rope_parameters`, or `rope_scaling` and
/// settings beside it, as older configurations have them.
fn ropes(family: &Family, c: &serde_json::Value, each: usize, context: usize) -> Result<[Option<Rope>; 2], String> {
    let Some(rotary) = &family.rotary else { return Ok([None, None]) };
    let said = &c["rope_parameters"];
    let nested = !said["full_attention"].is_null() || !said["sliding_attention"].is_null();
    if let Some(key) = ["rope_parameters", "rope_scaling"].iter().find(|k| !c[**k].is_null() && !c[**k].is_object()) {
        return Err(not_here(format!("scaled rotary positions by {key} {}", c[*key])));
    }
    let old = Some(&c["rope_scaling"]).filter(|old| old.is_object());
    let trained = size(c, "original_max_position_embeddings");
    let rope = |said: &serde_json::Value, key: &str, silent: f64| {
        let number = |key: &str| said[key].as_f64().or(c[key].as_f64());
        let share = number("partial_rotary_factor").or(c[rotary.part].as_f64()).unwrap_or(rotary.share);
        if !(share > 0.0 && share <= 1.0) {
            return Err(format!("rotary positions on {share} of each head"));
        }
        let dims = (each as f64 * share) as usize;
        let base = said["rope_theta"].as_f64().or(c[key].as_f64()).unwrap_or(silent);
        Ok(Rope { dims, base, scaling: Scaling::read(said, dims, context, trained, rotary.long).map_err(not_here)? })
    };
    // `rope_scaling` goes before; what it never holds is beside it.
    let kind = if nested { &said["full_attention"] } else { said };
    let mut all = old.unwrap_or(kind).clone();
    for key in ["rope_theta", "partial_rotary_factor"] {
        if all.is_object() && all[key].is_null() {
            all[key] = kind[key].clone();
        }
    }
    let global = rope(&all, rotary.key, rotary.base)?;
    let local = match rotary.local {
        Some((key, base)) => Some(rope(&said["sliding_attention"], key, base)?),
        None if nested => return Err(not_here("rotary positions by kind of layer")),
        None => None,
    };
    Ok([Some(global), local])
}

/// Which layers see a window, and how many positions.
fn windows(family: &Family, c: &serde_json::Value, layers: usize) -> Result<(Vec<bool>, Option<usize>), String> {
    let window = match c.get("sliding_window") {
        None => family.silent_window,
        Some(_) => size(c, "sliding_window").filter(|n| *n > 0),
    };
    let until = size(c, "max_window_layers").unwrap_or(28);
    let switched = c["use_sliding_window"] == true;
    let by_switch = matches!(family.window, Window::Switched | Window::Late | Window::EarlyOdd);
    let window = window.filter(|_| switched || !by_switch);
    let every = |n: usize| size(c, "sliding_window_pattern").filter(|n| *n > 0).unwrap_or(n);
    let usual = |layer: usize| match family.window {
        Window::Never => false,
        Window::Everywhere => true,
        Window::Switched => switched,
        Window::Late => switched && layer >= until,
        Window::EarlyOdd => switched && layer < until && layer.is_multiple_of(2),
        Window::ButEvery(n) => !(layer + 1).is_multiple_of(every(n)),
    };
    let mut slides: Vec<bool> = (0..layers).map(usual).collect();
    if let Some(kinds) = c["layer_types"].as_array() {
        if kinds.len() != layers {
            return Err(format!("layer_types of {} layers for {layers}", kinds.len()));
        }
        let kind = |v: &serde_json::Value| match v.as_str() {
            Some("full_attention") => Ok(false),
            Some("sliding_attention") => Ok(true),
            _ => Err(not_here(format!("layers of type {v}"))),
        };
        let said = kinds.iter().map(kind).collect::<Result<Vec<bool>, String>>()?;
        let fixed = matches!(family.window, Window::Never | Window::Everywhere | Window::Switched);
        if fixed && said != slides && window.is_some() {
            return Err(not_here("windows in some layers of this family"));
        }
        slides = said;
    }
    Ok((slides, window))
}

fn experts(m: &Mixture, c: &serde_json::Value, layers: usize, fused: bool) -> Result<Experts, String> {
    let count = size(c, "num_local_experts").or(size(c, "num_experts"));
    let step = size(c, "decoder_sparse_step").unwrap_or(1);
    let dense: Vec<usize> =
        c["mlp_only_layers"].as_array().into_iter().flatten().filter_map(|v| Some(v.as_u64()? as usize)).collect();
    if step == 0 {
        return Err("decoder_sparse_step is 0".into());
    }
    let has = |layer: &usize| !m.some || !dense.contains(layer) && (layer + 1).is_multiple_of(step);
    Ok(Experts {
        count: count.ok_or("it does not say num_experts or num_local_experts")?,
        chosen: need(c, "num_experts_per_tok")?,
        hidden: need(c, m.hidden)?,
        normalized: m.normalized || c["norm_topk_prob"] == true,
        shared: m.shared.map(|(key, ..)| need(c, key)).transpose()?,
        fused,
        layers: (0..layers).map(|layer| has(&layer)).collect(),
    })
}
