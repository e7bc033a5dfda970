use crate::{Error, Result};
use nnz_formats::{Archive, Value};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The numbers that make a model of the Llama family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Tokens it knows.
    pub vocabulary: usize,
    /// Numbers for each position.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub groups: usize,
    /// Numbers of a head.
    pub each: usize,
    /// Width between the matrices of a perceptron.
    pub hidden: usize,
    /// ε of the norms.
    pub epsilon: f64,
    /// Base of the rotary positions.
    pub base: f64,
    /// Longest sequence it was made for.
    pub context: usize,
    /// Whether the head is the embedding.
    pub tied: bool,
}

/// Largest extent that is believed.
const MOST: usize = 1 << 20;

impl Config {
    /// From what lies beside or in the weights.
    ///
    /// # Errors
    /// When it is no model of this family, or has a part that is not computed here.
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
                "a model of architecture {architecture}; the Llama family (`llama`) is what runs here"
            ));
        }
        let get = |key: &str| said.get(&format!("llama.{key}"));
        let size = |key: &str| get(key).and_then(Value::size).ok_or(format!("it does not say llama.{key}"));
        let number = |key: &str| get(key).and_then(Value::number);
        if get("rope.scaling.type").and_then(Value::text).is_some_and(|t| t != "none")
            || archive.get("rope_freqs.weight").is_some()
        {
            return Err("its rotary positions are scaled, which is not computed here".into());
        }
        if get("expert_count").and_then(Value::size).is_some_and(|n| n > 0) {
            return Err("it has experts, which are not computed here".into());
        }
        let (heads, width) = (size("attention.head_count")?, size("embedding_length")?);
        let each = get("attention.key_length").and_then(Value::size).unwrap_or(width / heads.max(1));
        if get("rope.dimension_count").and_then(Value::size).is_some_and(|n| n != each) {
            return Err("it turns only a part of each head by position, which is not computed here".into());
        }
        let rows = archive.get("token_embd.weight").and_then(|e| e.shape.first().copied());
        Ok(Self {
            vocabulary: rows.ok_or("it has no token_embd.weight")?,
            width,
            layers: size("block_count")?,
            heads,
            groups: get("attention.head_count_kv").and_then(Value::size).unwrap_or(heads),
            each,
            hidden: size("feed_forward_length")?,
            epsilon: number("attention.layer_norm_rms_epsilon").unwrap_or(1e-5),
            base: number("rope.freq_base").unwrap_or(10_000.0),
            context: size("context_length")?,
            tied: archive.get("output.weight").is_none(),
        })
    }

    fn hugging_face(c: &serde_json::Value) -> Result<Self, String> {
        let kind = c["model_type"].as_str().unwrap_or("unnamed");
        if kind != "llama" {
            return Err(format!("a model of type {kind}; the Llama family (`llama`) is what runs here"));
        }
        let size = |key: &str| c[key].as_u64().map(|n| n as usize);
        let need = |key: &str| size(key).ok_or(format!("it does not say {key}"));
        let rope = &c["rope_parameters"];
        let scaled = !c["rope_scaling"].is_null() || rope["rope_type"].as_str().is_some_and(|t| t != "default");
        for (unlike, what) in [
            (scaled, "scaled rotary positions"),
            (c["attention_bias"] == true || c["mlp_bias"] == true, "biases in its matrices"),
            (c["hidden_act"].as_str().is_some_and(|a| a != "silu"), "an activation other than silu"),
        ] {
            if unlike {
                return Err(format!("{what}, which are not computed here"));
            }
        }
        let (heads, width) = (need("num_attention_heads")?, need("hidden_size")?);
        Ok(Self {
            vocabulary: need("vocab_size")?,
            width,
            layers: need("num_hidden_layers")?,
            heads,
            groups: size("num_key_value_heads").unwrap_or(heads),
            each: size("head_dim").unwrap_or(width / heads.max(1)),
            hidden: need("intermediate_size")?,
            epsilon: c["rms_norm_eps"].as_f64().unwrap_or(1e-6),
            base: c["rope_theta"].as_f64().or(rope["rope_theta"].as_f64()).unwrap_or(10_000.0),
            context: size("max_position_embeddings").unwrap_or(2048),
            tied: c["tie_word_embeddings"].as_bool().unwrap_or(false),
        })
    }

    fn check(&self) -> Result<(), String> {
        let sizes =
            [self.vocabulary, self.width, self.layers, self.heads, self.groups, self.each, self.hidden, self.context];
        if sizes.iter().any(|s| *s == 0 || *s > MOST) {
            return Err(format!("extents of {sizes:?}, of which one is zero or above 2^20"));
        }
        if !self.heads.is_multiple_of(self.groups) || !self.each.is_multiple_of(2) {
            return Err(format!("{} heads of {} numbers in {} groups", self.heads, self.each, self.groups));
        }
        let sound = |x: f64| x.is_finite() && x > 0.0;
        match sound(self.epsilon) && sound(self.base) {
            true => Ok(()),
            false => Err(format!("ε {} or rotary base {} is no positive number", self.epsilon, self.base)),
        }
    }

    /// As Hugging Face's readers want it.
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
