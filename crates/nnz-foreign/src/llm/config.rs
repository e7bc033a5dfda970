use super::Family;
use super::family::PARTS;
use crate::{Error, Result};
use nnz_formats::{Archive, Value};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Activation function of a perceptron.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// Hyperparameters of a decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Family, which determines names and layout.
    pub family: Family,
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
    /// Rotary dimensions of a head; zero if positions are learned.
    pub rotary: usize,
    /// Base of the rotary positions.
    pub base: f64,
    /// Activation of the perceptron.
    pub activation: Activation,
    /// Whether the perceptron has a gate.
    pub gated: bool,
    /// Whether matrices have biases and norms are layer norms.
    pub biases: bool,
    /// Whether attention and perceptron run in parallel.
    pub parallel: bool,
    /// Longest sequence it was made for.
    pub context: usize,
    /// Whether the head shares the embedding's weights.
    pub tied: bool,
}

/// Largest extent accepted.
const MOST: usize = 1 << 20;

fn size(c: &serde_json::Value, key: &str) -> Option<usize> {
    c[key].as_u64().map(|n| n as usize)
}

fn need(c: &serde_json::Value, key: &str) -> Result<usize, String> {
    size(c, key).ok_or(format!("it does not say {key}"))
}

/// Whether the configuration scales rotary positions.
fn scaled(rope: &serde_json::Value) -> bool {
    let kind = rope["rope_type"].as_str().or(rope["type"].as_str());
    !rope.is_null() && kind != Some("default")
}

/// A part of a model that is not implemented, and what can be done.
fn not_here(what: impl std::fmt::Display) -> String {
    format!("{what}, which is not computed here; bring the model as ONNX, whose graph holds all that is computed")
}

fn refuse(parts: &[(bool, &str)]) -> Result<(), String> {
    match parts.iter().find(|p| p.0) {
        Some((_, what)) => Err(not_here(what)),
        None => Ok(()),
    }
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
            (_, Some(config)) => Self::hugging_face(config).map_err(|why| fail(format!("config.json: {why}")))?,
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
        if architecture != "llama" {
            return Err(format!(
                "a model of architecture {architecture}; of GGUF files the Llama family (`llama`) is what runs here. Bring the model \
                 as ONNX"
            ));
        }
        let get = |key: &str| said.get(&format!("llama.{key}"));
        let size = |key: &str| get(key).and_then(Value::size).ok_or(format!("it does not say llama.{key}"));
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
        let (heads, width) = (size("attention.head_count")?, size("embedding_length")?);
        let each = get("attention.key_length").and_then(Value::size).unwrap_or(width / heads.max(1));
        if get("rope.dimension_count").and_then(Value::size).is_some_and(|n| n != each) {
            return Err(not_here("rotary positions on a part of each head"));
        }
        let rows = archive.get("token_embd.weight").and_then(|e| e.shape.first().copied());
        Ok(Self {
            vocabulary: rows.ok_or("it has no token_embd.weight")?,
            width,
            layers: size("block_count")?,
            heads,
            groups: get("attention.head_count_kv").and_then(Value::size).unwrap_or(heads),
            each,
            rotary: each,
            hidden: size("feed_forward_length")?,
            epsilon: number("attention.layer_norm_rms_epsilon").unwrap_or(1e-5),
            base: number("rope.freq_base").unwrap_or(10_000.0),
            context: size("context_length")?,
            tied: archive.get("output.weight").is_none(),
            ..Self::LLAMA
        })
    }

    fn hugging_face(c: &serde_json::Value) -> Result<Self, String> {
        let kind = c["model_type"].as_str().unwrap_or("unnamed");
        match Family::named(kind) {
            Some(Family::Llama) => Self::llama(c),
            Some(Family::Gpt2) => Self::gpt2(c),
            Some(Family::Opt) => Self::opt(c),
            Some(Family::Neox) => Self::neox(c),
            None => Err(format!(
                "a model of type {kind}; llama, gpt2, opt and gpt_neox are the decoders that run here. Bring the model as ONNX"
            )),
        }
    }

    /// Common values of the Llama family; extents are filled in later.
    const LLAMA: Self = Self {
        family: Family::Llama,
        vocabulary: 0,
        width: 0,
        layers: 0,
        heads: 0,
        groups: 0,
        each: 0,
        hidden: 0,
        epsilon: 1e-6,
        rotary: 0,
        base: 10_000.0,
        activation: Activation::Silu,
        gated: true,
        biases: false,
        parallel: false,
        context: 0,
        tied: false,
    };

    fn llama(c: &serde_json::Value) -> Result<Self, String> {
        let (size, need) = (|key: &str| size(c, key), |key: &str| need(c, key));
        let rope = &c["rope_parameters"];
        let scaled = scaled(&c["rope_scaling"]) || rope["rope_type"].as_str().is_some_and(|t| t != "default");
        refuse(&[
            (scaled, "scaled rotary positions"),
            (c["attention_bias"] == true || c["mlp_bias"] == true, "biases in its matrices"),
            (c["hidden_act"].as_str().is_some_and(|a| a != "silu"), "an activation other than silu"),
        ])?;
        let (heads, width) = (need("num_attention_heads")?, need("hidden_size")?);
        let each = size("head_dim").unwrap_or(width / heads.max(1));
        Ok(Self {
            vocabulary: need("vocab_size")?,
            width,
            layers: need("num_hidden_layers")?,
            heads,
            groups: size("num_key_value_heads").unwrap_or(heads),
            each,
            rotary: each,
            hidden: need("intermediate_size")?,
            epsilon: c["rms_norm_eps"].as_f64().unwrap_or(1e-6),
            base: c["rope_theta"].as_f64().or(rope["rope_theta"].as_f64()).unwrap_or(10_000.0),
            context: size("max_position_embeddings").unwrap_or(2048),
            tied: c["tie_word_embeddings"].as_bool().unwrap_or(false),
            ..Self::LLAMA
        })
    }

    /// The other families, in which each head has its own keys and values.
    fn plain(
        c: &serde_json::Value,
        family: Family,
        [width, layers, heads, context, act]: [&str; 5],
    ) -> Result<Self, String> {
        let act = c[act].as_str().unwrap_or("gelu");
        let (heads, width) = (need(c, heads)?, need(c, width)?);
        Ok(Self {
            family,
            vocabulary: need(c, "vocab_size")?,
            width,
            layers: need(c, layers)?,
            heads,
            groups: heads,
            each: width / heads.max(1),
            epsilon: 1e-5,
            activation: match act {
                "relu" => Activation::Relu,
                "gelu" => Activation::Gelu,
                "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Activation::GeluTanh,
                "silu" | "swish" => Activation::Silu,
                _ => return Err(not_here(format!("activation {act}"))),
            },
            gated: false,
            biases: true,
            context: need(c, context)?,
            tied: c["tie_word_embeddings"].as_bool().unwrap_or(family != Family::Neox),
            ..Self::LLAMA
        })
    }

    fn gpt2(c: &serde_json::Value) -> Result<Self, String> {
        refuse(&[
            (c["scale_attn_by_inverse_layer_idx"] == true, "attention scaled by layer"),
            (c["scale_attn_weights"] == false, "attention without a scale"),
            (c["add_cross_attention"] == true, "attention to another model"),
        ])?;
        let said = Self::plain(c, Family::Gpt2, ["n_embd", "n_layer", "n_head", "n_positions", "activation_function"])?;
        let epsilon = c["layer_norm_epsilon"].as_f64().unwrap_or(1e-5);
        let activation = if c["activation_function"].is_null() { Activation::GeluTanh } else { said.activation };
        Ok(Self { hidden: size(c, "n_inner").unwrap_or(4 * said.width), epsilon, activation, ..said })
    }

    fn opt(c: &serde_json::Value) -> Result<Self, String> {
        let narrow = size(c, "word_embed_proj_dim").is_some_and(|n| Some(n) != size(c, "hidden_size"));
        refuse(&[
            (c["do_layer_norm_before"] == false, "norms after its layers"),
            (narrow, "an embedding of another width"),
            (c["enable_bias"] == false, "no biases"),
            (c["layer_norm_elementwise_affine"] == false, "norms without weights"),
            (c["_remove_final_layer_norm"] == true, "no last norm"),
        ])?;
        let names = ["hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"];
        let [width, layers, heads, context] = names;
        let said = Self::plain(c, Family::Opt, [width, layers, heads, context, "activation_function"])?;
        let activation = if c["activation_function"].is_null() { Activation::Relu } else { said.activation };
        Ok(Self { hidden: need(c, "ffn_dim")?, activation, ..said })
    }

    fn neox(c: &serde_json::Value) -> Result<Self, String> {
        let rope = &c["rope_parameters"];
        let scaled = scaled(&c["rope_scaling"]) || rope["rope_type"].as_str().is_some_and(|t| t != "default");
        refuse(&[(scaled, "scaled rotary positions"), (c["attention_bias"] == false, "no biases in its attention")])?;
        let names = ["hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"];
        let [width, layers, heads, context] = names;
        let said = Self::plain(c, Family::Neox, [width, layers, heads, context, "hidden_act"])?;
        let number = |a: &str, b: &str| c[a].as_f64().or(rope[b].as_f64());
        let share = number("rotary_pct", "partial_rotary_factor").unwrap_or(0.25);
        Ok(Self {
            hidden: need(c, "intermediate_size")?,
            epsilon: c["layer_norm_eps"].as_f64().unwrap_or(1e-5),
            rotary: (said.each as f64 * share) as usize,
            base: number("rotary_emb_base", "rope_theta").unwrap_or(10_000.0),
            parallel: c["use_parallel_residual"].as_bool().unwrap_or(true),
            ..said
        })
    }

    /// Rows and columns of [`PARTS`].
    pub fn extents(&self) -> [[usize; 2]; PARTS.len()] {
        let (queries, keys) = (self.heads * self.each, self.groups * self.each);
        [
            [queries, self.width],
            [keys, self.width],
            [keys, self.width],
            [self.width, queries],
            [self.hidden, self.width],
            [self.hidden, self.width],
            [self.width, self.hidden],
        ]
    }

    fn check(&self) -> Result<(), String> {
        let sizes =
            [self.vocabulary, self.width, self.layers, self.heads, self.groups, self.each, self.hidden, self.context];
        if self.family != Family::Llama && self.each * self.heads != self.width {
            return Err(format!("{} heads for {} numbers", self.heads, self.width));
        }
        if sizes.iter().any(|s| *s == 0 || *s > MOST) {
            return Err(format!("extents of {sizes:?}, of which one is zero or above 2^20"));
        }
        if !self.heads.is_multiple_of(self.groups) || !self.rotary.is_multiple_of(2) || self.rotary > self.each {
            return Err(format!("{} heads of {} numbers in {} groups", self.heads, self.each, self.groups));
        }
        let sound = |x: f64| x.is_finite() && x > 0.0;
        match sound(self.epsilon) && sound(self.base) {
            true => Ok(()),
            false => Err(format!("ε {} or rotary base {} is no positive number", self.epsilon, self.base)),
        }
    }

    /// Configuration of a Llama model for Hugging Face's readers.
    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.groups,
            "head_dim": self.each,
            "intermediate_size": self.hidden,
            "rms_norm_eps": self.epsilon,
            "rope_theta": self.base,
            "max_position_embeddings": self.context,
            "tie_word_embeddings": self.tied,
            "hidden_act": "silu",
            "attention_bias": false,
            "mlp_bias": false,
        })
    }
}
