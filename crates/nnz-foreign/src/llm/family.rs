//! Tensor names and matrix layouts of model families.

use super::Config;
use serde::{Deserialize, Serialize};

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

/// Index of the gate in [`PARTS`].
pub const GATE: usize = 4;

/// GGUF's names of the same.
const GGUF: [&str; 7] = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];

/// Supported decoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Family {
    /// Llama (Touvron et al. 2023): root-mean-square norms, rotary positions, grouped heads, a gated perceptron, no biases.
    Llama,
    /// GPT-2 (Radford et al. 2019): layer norms, learned positions, queries, keys and values in one matrix, inputs by outputs.
    Gpt2,
    /// OPT (Zhang et al. 2022): layer norms, learned positions from the third row on, relu.
    Opt,
    /// GPT-NeoX and Pythia (Black et al. 2022): layer norms, rotary positions on a part of each head, parallel attention and
    /// perceptron, queries, keys and values of each head in turn.
    Neox,
}

/// Location of a matrix in a tensor of a file: entry (r, c) is at
/// ((r / chunk) · apart + first + r mod chunk) · row + c · col.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// The tensor.
    pub name: String,
    /// Its shape.
    pub shape: [usize; 2],
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
        Self { name, shape: [rows, cols], chunk: rows, apart: rows, first: 0, row: cols, col: 1 }
    }

    /// A matrix that is stored transposed, the `index`th of `of` adjacent ones.
    fn transposed(name: String, [rows, cols]: [usize; 2], index: usize, of: usize) -> Self {
        let wide = rows * of;
        Self { name, shape: [cols, wide], chunk: rows, apart: rows, first: rows * index, row: 1, col: wide }
    }

    /// The `index`th of three matrices whose heads of `each` rows take turns.
    fn by_head(name: String, [rows, cols]: [usize; 2], index: usize, each: usize) -> Self {
        Self { name, shape: [3 * rows, cols], chunk: each, apart: 3 * each, first: each * index, row: cols, col: 1 }
    }

    /// Whether the tensor has inputs by outputs.
    pub fn is_turned(&self) -> bool {
        self.row == 1 && self.col > 1
    }

    /// Row of the tensor's own outputs, which its bias follows too.
    fn output(&self, r: usize) -> usize {
        r / self.chunk * self.apart + self.first + r % self.chunk
    }

    /// Places of the entries, row by row.
    fn entries(&self, [rows, cols]: [usize; 2]) -> impl Iterator<Item = usize> {
        (0..rows).flat_map(move |r| (0..cols).map(move |c| self.output(r) * self.row + c * self.col))
    }

    /// Extracts the matrix from the tensor's numbers.
    pub fn take(&self, extents: [usize; 2], tensor: Vec<f32>) -> Vec<f32> {
        if extents == self.shape && self.col == 1 {
            return tensor;
        }
        self.entries(extents).map(|i| tensor[i]).collect()
    }

    /// Inserts the matrix into the tensor's numbers.
    pub fn put(&self, extents: [usize; 2], matrix: &[f32], tensor: &mut [f32]) {
        self.entries(extents).zip(matrix).for_each(|(i, v)| tensor[i] = *v);
    }

    /// Extracts the matrix's part of the tensor's bias.
    pub fn take_bias(&self, rows: usize, bias: &[f32]) -> Vec<f32> {
        (0..rows).map(|r| bias[self.output(r)]).collect()
    }
}

impl Family {
    /// Finds the family by its name in `config.json`.
    pub fn named(kind: &str) -> Option<Self> {
        Some(match kind {
            "llama" => Self::Llama,
            "gpt2" => Self::Gpt2,
            "opt" => Self::Opt,
            "gpt_neox" => Self::Neox,
            _ => return None,
        })
    }

    /// Prefix that some files omit from every name.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Llama | Self::Opt => "model.",
            Self::Gpt2 => "transformer.",
            Self::Neox => "gpt_neox.",
        }
    }

    /// Name of the token embedding.
    pub fn embedding(self) -> &'static str {
        match self {
            Self::Llama => "model.embed_tokens.weight",
            Self::Gpt2 => "transformer.wte.weight",
            Self::Opt => "model.decoder.embed_tokens.weight",
            Self::Neox => "gpt_neox.embed_in.weight",
        }
    }

    /// Name of the position embedding, and the row of the first position.
    pub fn positions(self) -> Option<(&'static str, usize)> {
        match self {
            Self::Gpt2 => Some(("transformer.wpe.weight", 0)),
            Self::Opt => Some(("model.decoder.embed_positions.weight", 2)),
            Self::Llama | Self::Neox => None,
        }
    }

    /// Name of the head, if it is not the embedding.
    pub fn head(self) -> &'static str {
        match self {
            Self::Neox => "embed_out.weight",
            _ => "lm_head.weight",
        }
    }

    /// Name of the last norm, without `.weight`.
    pub fn last_norm(self) -> &'static str {
        match self {
            Self::Llama => "model.norm",
            Self::Gpt2 => "transformer.ln_f",
            Self::Opt => "model.decoder.final_layer_norm",
            Self::Neox => "gpt_neox.final_layer_norm",
        }
    }

    fn block(self, layer: usize, part: &str) -> String {
        let blocks = match self {
            Self::Llama => "model.layers",
            Self::Gpt2 => "transformer.h",
            Self::Opt => "model.decoder.layers",
            Self::Neox => "gpt_neox.layers",
        };
        format!("{blocks}.{layer}.{part}")
    }

    /// Names of the norms before attention and perceptron, without `.weight`.
    pub fn norms(self, layer: usize) -> [String; 2] {
        match self {
            Self::Llama | Self::Neox => ["input_layernorm", "post_attention_layernorm"],
            Self::Gpt2 => ["ln_1", "ln_2"],
            Self::Opt => ["self_attn_layer_norm", "final_layer_norm"],
        }
        .map(|part| self.block(layer, part))
    }

    /// Location of one of [`PARTS`]; its `name` ends in `.weight`.
    pub fn place(self, c: &Config, layer: usize, part: usize) -> Place {
        let name = |part: &str| self.block(layer, &format!("{part}.weight"));
        let extents = c.extents()[part];
        match (self, part) {
            (Self::Llama, _) => Place::whole(name(PARTS[part]), extents),
            (Self::Gpt2, 0..3) => Place::transposed(name("attn.c_attn"), extents, part, 3),
            (Self::Gpt2, 3) => Place::transposed(name("attn.c_proj"), extents, 0, 1),
            (Self::Gpt2, 6) => Place::transposed(name("mlp.c_proj"), extents, 0, 1),
            (Self::Gpt2, _) => Place::transposed(name("mlp.c_fc"), extents, 0, 1),
            (Self::Opt, 0..3) => Place::whole(name(PARTS[part]), extents),
            (Self::Opt, 3) => Place::whole(name("self_attn.out_proj"), extents),
            (Self::Opt, 6) => Place::whole(name("fc2"), extents),
            (Self::Opt, _) => Place::whole(name("fc1"), extents),
            (Self::Neox, 0..3) => Place::by_head(name("attention.query_key_value"), extents, part, c.each),
            (Self::Neox, 3) => Place::whole(name("attention.dense"), extents),
            (Self::Neox, 6) => Place::whole(name("mlp.dense_4h_to_h"), extents),
            (Self::Neox, _) => Place::whole(name("mlp.dense_h_to_4h"), extents),
        }
    }
}

/// GGUF's name of a tensor of the Llama family.
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
    let part = part.trim_end_matches(".weight");
    let short = match part {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        _ => PARTS.iter().position(|p| *p == part).map_or("", |i| GGUF[i]),
    };
    format!("blk.{layer}.{short}.weight")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three matrices of two heads with two rows of two columns, laid out as each family does, come back as they were put.
    #[test]
    fn matrices_come_out_of_a_tensor_as_they_were_put_into_it() {
        let extents = [4, 2];
        let matrix = |i: usize| (0..8).map(|v| (10 * i + v) as f32).collect::<Vec<f32>>();
        for place in [|i| Place::transposed("t".into(), [4, 2], i, 3), |i| Place::by_head("t".into(), [4, 2], i, 2)] {
            let mut tensor = vec![f32::NAN; 24];
            (0..3).for_each(|i| place(i).put(extents, &matrix(i), &mut tensor));
            (0..3).for_each(|i| assert_eq!(place(i).take(extents, tensor.clone()), matrix(i)));
        }
        let transposed: Vec<usize> = Place::transposed("t".into(), [4, 2], 1, 3).entries(extents).collect();
        assert_eq!(transposed, [4, 16, 5, 17, 6, 18, 7, 19]);
        let heads = Place::by_head("t".into(), [4, 2], 1, 2);
        assert_eq!(heads.entries(extents).collect::<Vec<_>>(), [4, 5, 6, 7, 16, 17, 18, 19]);
        assert_eq!(heads.take_bias(4, &(0..12).map(|v| v as f32).collect::<Vec<_>>()), [2.0, 3.0, 8.0, 9.0]);
    }
}
