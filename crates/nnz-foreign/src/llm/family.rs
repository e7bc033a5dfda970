//! Model families: names and layout of their tensors, and what their blocks compute, in one table.

use super::Config;
use super::config::Activation;
use serde_json::Value;
use std::fmt;

/// The matrices of a block in the order of computation, by Llama's names. Families without a gate omit it.
pub const PARTS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// Index in [`PARTS`] of the output of attention.
pub const OUT: usize = 3;
/// Index of the gate.
pub const GATE: usize = 4;
/// Index of what the gate multiplies.
pub const UP: usize = 5;
/// Index of the output of the perceptron.
pub const DOWN: usize = 6;

/// GGUF's names of [`PARTS`].
const GGUF: [&str; 7] = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];

/// One matrix of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its index in [`PARTS`].
    pub part: usize,
    /// The expert it belongs to; a shared expert comes after the others, and the perceptron of a block without experts is the only one.
    pub expert: usize,
}

/// Where a family stores a matrix; names lack `.weight`.
#[derive(Clone, Copy, Debug)]
pub enum Layout {
    /// In a tensor of its own.
    Whole(&'static str),
    /// Transposed, the `.1`th of `.2` adjacent ones.
    Turned(&'static str, usize, usize),
    /// In a tensor in which queries, keys and values of each head take turns.
    ByHead(&'static str),
    /// In one tensor, queries, keys and values, or gate and up, one below the other.
    Below(&'static str),
}
use Layout::{Below, ByHead, Turned, Whole};

/// Kind of the norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// w x / √(mean x² + ε).
    Rms,
    /// (1 + w) x / √(mean x² + ε).
    RmsFromOne,
    /// Layer norm with weights and offsets.
    Layer,
    /// Layer norm without either.
    Bare,
}

/// What norms of queries and keys extend over, if there are any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// Each head, all with the same weights.
    Head,
    /// All heads.
    Whole,
}

/// When matrices have biases.
#[derive(Clone, Copy, Debug)]
pub enum Bias {
    /// Always.
    Always,
    /// When a setting says so; the value where the configuration is silent.
    If(&'static str, bool),
}

/// Layers that see only the last `sliding_window` positions.
#[derive(Clone, Copy, Debug)]
pub enum Window {
    /// None.
    Never,
    /// All, if the configuration gives a window.
    Everywhere,
    /// All, where `use_sliding_window` is set.
    Switched,
    /// Those from `max_window_layers` on, where `use_sliding_window` is set.
    Late,
    /// Every other before `max_window_layers`, from the first on, where `use_sliding_window` is set.
    EarlyOdd,
    /// All but every nth; `sliding_window_pattern` says another n.
    ButEvery(usize),
}

/// Rotary positions of a family.
#[derive(Clone, Copy, Debug)]
pub struct Rotary {
    /// Setting of the base in older configurations.
    pub key: &'static str,
    /// The base where the configuration is silent.
    pub base: f64,
    /// Setting of the share of a head that turns, in older configurations.
    pub part: &'static str,
    /// That share where the configuration is silent.
    pub share: f64,
    /// Setting of the base of layers with a window in older configurations, and that base, if it is another.
    pub local: Option<(&'static str, f64)>,
    /// Whether scaling of kind `su` or `yarn` is LongRoPE.
    pub long: bool,
}

/// Mixture of experts of a family. Names lack `.weight`.
#[derive(Clone, Copy, Debug)]
pub struct Mixture {
    /// Setting of their hidden width.
    pub hidden: &'static str,
    /// Whether the weights of the chosen ones are made to sum to one: always, or as `norm_topk_prob` says.
    pub normalized: bool,
    /// The router, where experts are separate tensors.
    pub router: &'static str,
    /// Gate, up and down of an expert, whose number stands between the two strings, where they are separate tensors.
    pub names: (&'static str, [&'static str; 3]),
    /// Setting of the hidden width of an expert that all positions pass through, its prefix, and its gate.
    pub shared: Option<(&'static str, &'static str, &'static str)>,
    /// Whether `decoder_sparse_step` and `mlp_only_layers` say which layers have experts.
    pub some: bool,
}

/// Settings of a configuration with the extents of a model.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    /// Width.
    pub width: &'static str,
    /// Blocks.
    pub layers: &'static str,
    /// Heads.
    pub heads: &'static str,
    /// Positions.
    pub context: &'static str,
    /// Hidden width of the perceptron.
    pub hidden: &'static str,
    /// Activation.
    pub activation: &'static str,
    /// ε of the norms.
    pub epsilon: &'static str,
}

/// A condition on a configuration, and what it makes of the model that is not computed here.
type Refused = (fn(&Value) -> bool, &'static str);

/// A family of decoders. Most differ from Llama in a few entries.
pub struct Family {
    /// `model_type` of its configurations.
    pub kind: &'static str,
    /// Its name in messages.
    pub title: &'static str,
    /// Name of the architecture in GGUF files that are read.
    pub gguf: Option<&'static str>,
    /// Prefix that some files omit from every name.
    pub prefix: &'static str,
    /// Name of the token embedding.
    pub embedding: &'static str,
    /// Name of the position embedding, and the row of the first position.
    pub positions: Option<(&'static str, usize)>,
    /// Name of the head, if it is not the embedding.
    pub head: &'static str,
    /// Name of the last norm, without `.weight`.
    pub last_norm: &'static str,
    /// Prefix of the blocks.
    blocks: &'static str,
    /// Names of the norms of what attention reads, of what it adds, of what the perceptron reads, and of what it adds.
    pub norms: [Option<&'static str>; 4],
    /// Where [`PARTS`] are; without a gate its place is that of `UP`.
    matrices: [Layout; PARTS.len()],
    /// Kind of the norms.
    pub norm: Kind,
    /// Norms of queries and keys.
    pub inner: Option<Inner>,
    /// Settings with the extents.
    pub keys: Keys,
    /// ε where the configuration is silent.
    pub epsilon: f64,
    /// Hidden width over the width where the configuration may be silent.
    pub times: Option<usize>,
    /// Activation where the configuration is silent.
    pub activation: Activation,
    /// Whether the perceptron has a gate.
    pub gated: bool,
    /// Whether the head shares the embedding's weights where the configuration is silent.
    pub tied: bool,
    /// Width of a head where the configuration is silent; otherwise the model's over the heads.
    pub each: Option<usize>,
    /// Which of [`PARTS`] have biases.
    pub biases: &'static [(&'static [usize], Bias)],
    /// Rotary positions.
    pub rotary: Option<Rotary>,
    /// Setting that makes attention and perceptron run in parallel; the value where the configuration is silent; whether both then
    /// read the first norm.
    pub parallel: Option<(&'static str, bool, bool)>,
    /// Layers with a window.
    pub window: Window,
    /// That window where the configuration is silent.
    pub silent_window: Option<usize>,
    /// Whether `query_pre_attn_scalar` gives the scale of the scores.
    pub scaled_queries: bool,
    /// Soft caps of scores and logits where the configuration is silent, if it may have them.
    pub caps: Option<[Option<f64>; 2]>,
    /// Whether the embedding is multiplied by the root of the width.
    pub scaled_embedding: bool,
    /// Whether `clip_qkv` bounds queries, keys and values.
    pub clips: bool,
    /// Experts.
    pub mixture: Option<Mixture>,
    /// What is not computed here.
    pub refused: &'static [Refused],
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.title)
    }
}

/// Usual settings.
const KEYS: Keys = Keys {
    width: "hidden_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    context: "max_position_embeddings",
    hidden: "intermediate_size",
    activation: "hidden_act",
    epsilon: "rms_norm_eps",
};

const QKV: &[usize] = &[0, 1, 2];
const ATTENTION: &[usize] = &[0, 1, 2, OUT];
const PERCEPTRON: &[usize] = &[GATE, UP, DOWN];
const ATTENTION_BIAS: &[(&[usize], Bias)] = &[(ATTENTION, Bias::If("attention_bias", false))];

const ROTARY: Rotary =
    Rotary { key: "rope_theta", base: 10_000.0, part: "partial_rotary_factor", share: 1.0, local: None, long: false };

/// Llama (Touvron et al. 2023): root-mean-square norms, rotary positions, grouped heads, a gated perceptron.
const LLAMA: Family = Family {
    kind: "llama",
    title: "Llama",
    gguf: Some("llama"),
    prefix: "model.",
    embedding: "model.embed_tokens.weight",
    positions: None,
    head: "lm_head.weight",
    last_norm: "model.norm",
    blocks: "model.layers",
    norms: [Some("input_layernorm"), None, Some("post_attention_layernorm"), None],
    matrices: [
        Whole(PARTS[0]),
        Whole(PARTS[1]),
        Whole(PARTS[2]),
        Whole(PARTS[3]),
        Whole(PARTS[4]),
        Whole(PARTS[5]),
        Whole(PARTS[6]),
    ],
    norm: Kind::Rms,
    inner: None,
    keys: KEYS,
    epsilon: 1e-6,
    times: None,
    activation: Activation::Silu,
    gated: true,
    tied: false,
    each: None,
    biases: &[(ATTENTION, Bias::If("attention_bias", false)), (PERCEPTRON, Bias::If("mlp_bias", false))],
    rotary: Some(ROTARY),
    parallel: None,
    window: Window::Never,
    silent_window: Some(4096),
    scaled_queries: false,
    caps: None,
    scaled_embedding: false,
    clips: false,
    mixture: None,
    refused: &[],
};

/// Four norms in a block: of what attention and perceptron read, and of what they add.
const AROUND: [Option<&str>; 4] = [
    Some("input_layernorm"),
    Some("post_attention_layernorm"),
    Some("pre_feedforward_layernorm"),
    Some("post_feedforward_layernorm"),
];

/// The common part of the Gemma models.
const GEMMA: Family = Family {
    kind: "gemma",
    title: "Gemma",
    gguf: None,
    norm: Kind::RmsFromOne,
    keys: Keys { activation: "hidden_activation", ..KEYS },
    activation: Activation::GeluTanh,
    tied: true,
    each: Some(256),
    biases: ATTENTION_BIAS,
    scaled_embedding: true,
    refused: &[(|c| c["use_bidirectional_attention"] == true, "attention to what comes after")],
    ..LLAMA
};

const GEMMA2: Family = Family {
    kind: "gemma2",
    title: "Gemma 2",
    norms: AROUND,
    window: Window::ButEvery(2),
    scaled_queries: true,
    caps: Some([Some(50.0), Some(30.0)]),
    ..GEMMA
};

const QWEN2: Family = Family {
    kind: "qwen2",
    title: "Qwen2",
    gguf: Some("qwen2"),
    biases: &[(QKV, Bias::Always)],
    window: Window::Late,
    ..LLAMA
};

const OLMO2: Family = Family {
    kind: "olmo2",
    title: "OLMo 2",
    gguf: None,
    norms: [None, Some("post_attention_layernorm"), None, Some("post_feedforward_layernorm")],
    inner: Some(Inner::Whole),
    epsilon: 1e-5,
    biases: ATTENTION_BIAS,
    ..LLAMA
};

/// Experts by the names of Qwen's models.
const QWEN_EXPERTS: Mixture = Mixture {
    hidden: "moe_intermediate_size",
    normalized: false,
    router: "mlp.gate",
    names: ("mlp.experts.", ["gate_proj", "up_proj", "down_proj"]),
    shared: None,
    some: true,
};

/// Every family. `model_type` finds it, or `general.architecture` of a GGUF file.
pub static FAMILIES: &[&Family] = &[
    &LLAMA,
    &Family { kind: "mistral", title: "Mistral", gguf: None, biases: &[], window: Window::Everywhere, ..LLAMA },
    &QWEN2,
    &Family {
        kind: "qwen3",
        title: "Qwen3",
        gguf: Some("qwen3"),
        inner: Some(Inner::Head),
        each: Some(128),
        biases: ATTENTION_BIAS,
        ..QWEN2
    },
    &GEMMA2,
    &Family {
        kind: "gemma3_text",
        title: "Gemma 3",
        inner: Some(Inner::Head),
        window: Window::ButEvery(6),
        rotary: Some(Rotary { base: 1e6, local: Some(("rope_local_base_freq", 1e4)), ..ROTARY }),
        caps: Some([None, None]),
        ..GEMMA2
    },
    &Family {
        kind: "phi3",
        title: "Phi-3",
        gguf: None,
        matrices: [
            Below("self_attn.qkv_proj"),
            Below("self_attn.qkv_proj"),
            Below("self_attn.qkv_proj"),
            Whole(PARTS[OUT]),
            Below("mlp.gate_up_proj"),
            Below("mlp.gate_up_proj"),
            Whole(PARTS[DOWN]),
        ],
        epsilon: 1e-5,
        biases: &[],
        rotary: Some(Rotary { long: true, ..ROTARY }),
        window: Window::Everywhere,
        silent_window: None,
        ..LLAMA
    },
    &Family {
        kind: "stablelm",
        title: "StableLM",
        gguf: None,
        norm: Kind::Layer,
        keys: Keys { epsilon: "layer_norm_eps", ..KEYS },
        epsilon: 1e-5,
        biases: &[(QKV, Bias::If("use_qkv_bias", false))],
        rotary: Some(Rotary { share: 0.25, ..ROTARY }),
        parallel: Some(("use_parallel_residual", false, true)),
        refused: &[(|c| c["qk_layernorm"] == true, "norms of queries and keys with other weights for each head")],
        ..LLAMA
    },
    &Family {
        kind: "olmo",
        title: "OLMo",
        gguf: None,
        norm: Kind::Bare,
        epsilon: 1e-5,
        biases: ATTENTION_BIAS,
        clips: true,
        ..LLAMA
    },
    &OLMO2,
    &Family {
        kind: "mixtral",
        title: "Mixtral",
        gguf: None,
        epsilon: 1e-5,
        biases: &[],
        rotary: Some(Rotary { base: 1e6, ..ROTARY }),
        window: Window::Everywhere,
        silent_window: None,
        mixture: Some(Mixture {
            hidden: "intermediate_size",
            normalized: true,
            router: "block_sparse_moe.gate",
            names: ("block_sparse_moe.experts.", ["w1", "w3", "w2"]),
            shared: None,
            some: false,
        }),
        ..LLAMA
    },
    &Family {
        kind: "qwen2_moe",
        title: "Qwen2-MoE",
        gguf: None,
        biases: &[(QKV, Bias::If("qkv_bias", true))],
        window: Window::EarlyOdd,
        mixture: Some(Mixture {
            shared: Some(("shared_expert_intermediate_size", "mlp.shared_expert.", "mlp.shared_expert_gate")),
            ..QWEN_EXPERTS
        }),
        ..LLAMA
    },
    &Family {
        kind: "qwen3_moe",
        title: "Qwen3-MoE",
        gguf: None,
        inner: Some(Inner::Head),
        biases: ATTENTION_BIAS,
        window: Window::Switched,
        mixture: Some(QWEN_EXPERTS),
        ..LLAMA
    },
    &Family {
        kind: "olmoe",
        title: "OLMoE",
        gguf: None,
        inner: Some(Inner::Whole),
        epsilon: 1e-5,
        biases: ATTENTION_BIAS,
        clips: true,
        mixture: Some(Mixture { hidden: "intermediate_size", some: false, ..QWEN_EXPERTS }),
        ..LLAMA
    },
    // GPT-2 (Radford et al. 2019): layer norms, learned positions, queries, keys and values in one matrix, inputs by outputs.
    &Family {
        kind: "gpt2",
        title: "GPT-2",
        prefix: "transformer.",
        embedding: "transformer.wte.weight",
        positions: Some(("transformer.wpe.weight", 0)),
        last_norm: "transformer.ln_f",
        blocks: "transformer.h",
        norms: [Some("ln_1"), None, Some("ln_2"), None],
        matrices: [
            Turned("attn.c_attn", 0, 3),
            Turned("attn.c_attn", 1, 3),
            Turned("attn.c_attn", 2, 3),
            Turned("attn.c_proj", 0, 1),
            Turned("mlp.c_fc", 0, 1),
            Turned("mlp.c_fc", 0, 1),
            Turned("mlp.c_proj", 0, 1),
        ],
        keys: Keys {
            width: "n_embd",
            layers: "n_layer",
            heads: "n_head",
            context: "n_positions",
            hidden: "n_inner",
            activation: "activation_function",
            epsilon: "layer_norm_epsilon",
        },
        times: Some(4),
        activation: Activation::GeluTanh,
        refused: &[
            (|c| c["scale_attn_by_inverse_layer_idx"] == true, "attention scaled by layer"),
            (|c| c["scale_attn_weights"] == false, "attention without a scale"),
            (|c| c["add_cross_attention"] == true, "attention to another model"),
        ],
        ..PLAIN
    },
    // OPT (Zhang et al. 2022): layer norms, learned positions from the third row on, relu.
    &Family {
        kind: "opt",
        title: "OPT",
        embedding: "model.decoder.embed_tokens.weight",
        positions: Some(("model.decoder.embed_positions.weight", 2)),
        last_norm: "model.decoder.final_layer_norm",
        blocks: "model.decoder.layers",
        norms: [Some("self_attn_layer_norm"), None, Some("final_layer_norm"), None],
        matrices: [
            Whole(PARTS[0]),
            Whole(PARTS[1]),
            Whole(PARTS[2]),
            Whole("self_attn.out_proj"),
            Whole("fc1"),
            Whole("fc1"),
            Whole("fc2"),
        ],
        keys: Keys { hidden: "ffn_dim", activation: "activation_function", epsilon: "layer_norm_eps", ..KEYS },
        activation: Activation::Relu,
        biases: &[(ATTENTION, Bias::If("enable_bias", true)), (PERCEPTRON, Bias::If("enable_bias", true))],
        refused: &[
            (|c| c["do_layer_norm_before"] == false, "norms after its layers"),
            (
                |c| !c["word_embed_proj_dim"].is_null() && c["word_embed_proj_dim"] != c["hidden_size"],
                "an embedding of another width",
            ),
            (|c| c["layer_norm_elementwise_affine"] == false, "norms without weights"),
            (|c| c["_remove_final_layer_norm"] == true, "no last norm"),
        ],
        ..PLAIN
    },
    // GPT-NeoX and Pythia (Black et al. 2022): layer norms, rotary positions on a part of each head, parallel attention and perceptron,
    // queries, keys and values of each head in turn.
    &Family {
        kind: "gpt_neox",
        title: "GPT-NeoX",
        prefix: "gpt_neox.",
        embedding: "gpt_neox.embed_in.weight",
        head: "embed_out.weight",
        last_norm: "gpt_neox.final_layer_norm",
        blocks: "gpt_neox.layers",
        matrices: [
            ByHead("attention.query_key_value"),
            ByHead("attention.query_key_value"),
            ByHead("attention.query_key_value"),
            Whole("attention.dense"),
            Whole("mlp.dense_h_to_4h"),
            Whole("mlp.dense_h_to_4h"),
            Whole("mlp.dense_4h_to_h"),
        ],
        keys: Keys { epsilon: "layer_norm_eps", ..KEYS },
        activation: Activation::Gelu,
        tied: false,
        biases: &[(ATTENTION, Bias::If("attention_bias", true)), (PERCEPTRON, Bias::Always)],
        rotary: Some(Rotary { key: "rotary_emb_base", part: "rotary_pct", share: 0.25, ..ROTARY }),
        parallel: Some(("use_parallel_residual", true, false)),
        ..PLAIN
    },
];

/// The common part of families with layer norms, biases and a perceptron without a gate.
const PLAIN: Family = Family {
    gguf: None,
    norm: Kind::Layer,
    epsilon: 1e-5,
    gated: false,
    tied: true,
    biases: &[(ATTENTION, Bias::Always), (PERCEPTRON, Bias::Always)],
    rotary: None,
    ..LLAMA
};

/// Location of a matrix in a tensor of a file: entry (r, c) is at
/// ((r / chunk) · apart + first + r mod chunk) · row + c · col of the `block`th part of the tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// The tensor.
    pub name: String,
    /// Shape of the part.
    pub shape: [usize; 2],
    /// Which of how many parts of a tensor with another axis before the two; otherwise the tensor is the part.
    pub block: Option<(usize, usize)>,
    /// Number of consecutive rows.
    chunk: usize,
    /// Rows from one chunk to the next.
    apart: usize,
    /// The first row.
    first: usize,
    row: usize,
    col: usize,
}

impl Place {
    fn whole(name: String, [rows, cols]: [usize; 2]) -> Self {
        Self::below(name, [rows, cols], 0, rows)
    }

    /// Rows from the `first` on of a tensor with `all` rows.
    fn below(name: String, [rows, cols]: [usize; 2], first: usize, all: usize) -> Self {
        Self { name, shape: [all, cols], block: None, chunk: rows, apart: rows, first, row: cols, col: 1 }
    }

    /// A matrix that is stored transposed, the `index`th of `of` adjacent ones.
    fn transposed(name: String, [rows, cols]: [usize; 2], index: usize, of: usize) -> Self {
        let wide = rows * of;
        let first = rows * index;
        Self { name, shape: [cols, wide], block: None, chunk: rows, apart: rows, first, row: 1, col: wide }
    }

    /// The `index`th of three matrices whose heads of `each` rows take turns.
    fn by_head(name: String, [rows, cols]: [usize; 2], index: usize, each: usize) -> Self {
        let (apart, first) = (3 * each, each * index);
        Self { name, shape: [3 * rows, cols], block: None, chunk: each, apart, first, row: cols, col: 1 }
    }

    /// Shape of the tensor.
    pub fn tensor(&self) -> Vec<usize> {
        self.block.map(|(_, of)| of).into_iter().chain(self.shape).collect()
    }

    /// Whether the tensor has inputs by outputs.
    pub fn is_turned(&self) -> bool {
        self.row == 1 && self.col > 1
    }

    /// Whether rows of the matrix are rows of the tensor, along its first axis.
    pub fn has_rows(&self) -> bool {
        self.col == 1 && self.block.is_none()
    }

    /// Row of the tensor's own outputs, which its bias follows too.
    fn output(&self, r: usize) -> usize {
        r / self.chunk * self.apart + self.first + r % self.chunk
    }

    /// Places of the entries, row by row.
    fn entries(&self, [rows, cols]: [usize; 2]) -> impl Iterator<Item = usize> {
        (0..rows).flat_map(move |r| (0..cols).map(move |c| self.output(r) * self.row + c * self.col))
    }

    /// Extracts the matrix from the numbers of its part of the tensor.
    pub fn take(&self, extents: [usize; 2], part: Vec<f32>) -> Vec<f32> {
        if extents == self.shape && self.col == 1 {
            return part;
        }
        self.entries(extents).map(|i| part[i]).collect()
    }

    /// Inserts the matrix into the tensor's numbers.
    pub fn put(&self, extents: [usize; 2], matrix: &[f32], tensor: &mut [f32]) {
        let start = self.block.map_or(0, |(index, _)| index * self.shape[0] * self.shape[1]);
        self.entries(extents).zip(matrix).for_each(|(i, v)| tensor[start + i] = *v);
    }

    /// Extracts the matrix's part of the tensor's bias.
    pub fn take_bias(&self, rows: usize, bias: &[f32]) -> Vec<f32> {
        (0..rows).map(|r| bias[self.output(r)]).collect()
    }
}

impl Family {
    /// Finds the family by its name in `config.json`.
    pub fn named(kind: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|f| f.kind == kind).copied()
    }

    /// Finds the family by the architecture of a GGUF file.
    pub fn of_gguf(architecture: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|f| f.gguf == Some(architecture)).copied()
    }

    /// Whether GGUF files have the pairs of queries and keys that rotate together adjacent; others have them half a head apart.
    pub fn is_permuted(&self) -> bool {
        self.gguf == Some("llama")
    }

    /// Where one of [`PARTS`] is in a block without experts.
    pub fn layout(&self, part: usize) -> Layout {
        self.matrices[part]
    }

    /// Full name of a tensor of a block.
    pub fn block(&self, layer: usize, part: &str) -> String {
        format!("{}.{layer}.{part}", self.blocks)
    }

    /// Location of a matrix; its `name` ends in `.weight` unless all experts share the tensor.
    pub fn place(&self, c: &Config, layer: usize, slot: Slot) -> Place {
        let name = |part: &str| self.block(layer, &format!("{part}.weight"));
        let extents = c.extents(layer, slot);
        if let (Some(experts), Some(mixture)) = (c.experts_of(layer), &self.mixture)
            && slot.part > OUT
        {
            let index = slot.part - GATE;
            return match mixture.shared {
                Some((_, prefix, _)) if slot.expert == experts.count => {
                    Place::whole(name(&format!("{prefix}{}", PARTS[slot.part].trim_start_matches("mlp."))), extents)
                }
                _ if experts.fused => {
                    let (part, all) = match slot.part {
                        DOWN => ("down_proj", extents[0]),
                        _ => ("gate_up_proj", 2 * extents[0]),
                    };
                    let first = if slot.part == UP { extents[0] } else { 0 };
                    let place = Place::below(String::new(), extents, first, all);
                    let name = self.block(layer, &format!("mlp.experts.{part}"));
                    Place { name, block: Some((slot.expert, experts.count)), ..place }
                }
                _ => {
                    let (prefix, names) = mixture.names;
                    Place::whole(name(&format!("{prefix}{}.{}", slot.expert, names[index])), extents)
                }
            };
        }
        match self.matrices[slot.part] {
            Whole(part) => Place::whole(name(part), extents),
            Turned(part, index, of) => Place::transposed(name(part), extents, index, of),
            ByHead(part) => Place::by_head(name(part), extents, slot.part, c.each),
            Below(part) => {
                let group = if slot.part < OUT { 0..OUT } else { GATE..DOWN };
                let rows = |parts: std::ops::Range<usize>| {
                    parts.map(|part| c.extents(layer, Slot { part, ..slot })[0]).sum::<usize>()
                };
                Place::below(name(part), extents, rows(group.start..slot.part), rows(group))
            }
        }
    }
}

/// GGUF's name of a tensor.
pub fn gguf(name: &str) -> String {
    let fixed = match name {
        "model.embed_tokens.weight" => "token_embd.weight",
        "model.norm.weight" => "output_norm.weight",
        "lm_head.weight" => "output.weight",
        _ => "",
    };
    let Some((layer, part)) = name.strip_prefix("model.layers.").and_then(|n| n.split_once('.')) else {
        return fixed.into();
    };
    let (part, end) = part.rsplit_once('.').unwrap_or((part, ""));
    let short = match part {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        _ => PARTS.iter().position(|p| *p == part).map_or("", |i| GGUF[i]),
    };
    format!("blk.{layer}.{short}.{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three matrices of two heads with two rows of two columns, laid out as each family does, come back as they were put.
    #[test]
    fn matrices_come_out_of_a_tensor_as_they_were_put_into_it() {
        let extents = [4, 2];
        let matrix = |i: usize| (0..8).map(|v| (10 * i + v) as f32).collect::<Vec<f32>>();
        for place in [
            |i| Place::transposed("t".into(), [4, 2], i, 3),
            |i| Place::by_head("t".into(), [4, 2], i, 2),
            |i| Place::below("t".into(), [4, 2], 4 * i, 12),
        ] {
            let mut tensor = vec![f32::NAN; 24];
            (0..3).for_each(|i| place(i).put(extents, &matrix(i), &mut tensor));
            (0..3).for_each(|i| assert_eq!(place(i).take(extents, tensor.clone()), matrix(i)));
        }
        let transposed: Vec<usize> = Place::transposed("t".into(), [4, 2], 1, 3).entries(extents).collect();
        assert_eq!(transposed, [4, 16, 5, 17, 6, 18, 7, 19]);
        let heads = Place::by_head("t".into(), [4, 2], 1, 2);
        assert_eq!(heads.entries(extents).collect::<Vec<_>>(), [4, 5, 6, 7, 16, 17, 18, 19]);
        assert_eq!(heads.take_bias(4, &(0..12).map(|v| v as f32).collect::<Vec<_>>()), [2.0, 3.0, 8.0, 9.0]);
        // The second of two parts.
        let second = Place { block: Some((1, 2)), ..Place::below("t".into(), [1, 2], 1, 2) };
        let mut tensor = vec![0.0; 8];
        second.put([1, 2], &[1.0, 2.0], &mut tensor);
        assert_eq!((tensor, second.tensor()), (vec![0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0], vec![2, 2, 2]));
    }

    #[test]
    fn every_family_has_its_own_name() {
        let mut kinds: Vec<&str> = FAMILIES.iter().map(|f| f.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), FAMILIES.len());
    }
}
