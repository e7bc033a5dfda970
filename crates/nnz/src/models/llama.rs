//! Models of the Llama family: embedding; blocks of attention with rotary positions and grouped heads, and of a gated
//! perceptron, each behind a root-mean-square norm and beside a shortcut; a norm and a head.

use super::{Config, Tokens};
use crate::kernels::cost::Machine;
use crate::{Error, Result};
use nnz_core::{Rng, Topology};
use nnz_engine::ops::{self, AttentionMask, KvCache};
use nnz_engine::{Tensor, Var};
use nnz_formats::Archive;
use nnz_kernels::{Csr, Sliced, Start, gemm};
use std::ops::Range;
use std::path::Path;

/// The matrices of a block in the order of computation, and the rows and columns of each in numbers of a configuration.
pub const PARTS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// Matrices that read the same.
pub(super) const SITES: [Range<usize>; 4] = [0..3, 3..4, 4..6, 6..7];

/// GGUF's names of the same.
const GGUF: [&str; 7] = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];

/// A model on disk.
#[derive(Debug)]
pub struct Language {
    /// Its tensors.
    pub archive: Archive,
    /// Its numbers.
    pub config: Config,
}

/// How weights are to be held.
pub enum Weights<'a> {
    /// Every entry.
    Dense,
    /// What is fastest for single tokens here.
    Fastest(&'a Machine),
}

/// A weight matrix, ready to multiply.
#[derive(Debug)]
pub struct Linear {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Entries that are not zero.
    pub nonzeros: usize,
    kernel: Kernel,
}

#[derive(Debug)]
enum Kernel {
    Dense(Tensor<f32>),
    Sparse(Sliced<f32>),
}

impl Linear {
    /// Of a row-major matrix.
    pub fn new(rows: usize, cols: usize, values: Vec<f32>, weights: &Weights) -> Self {
        let nonzeros = values.iter().filter(|v| **v != 0.0).count();
        let density = nonzeros as f64 / values.len().max(1) as f64;
        let kernel = match weights {
            Weights::Fastest(machine)
                if nonzeros < values.len() && machine.advice(rows, cols, density, 1) != "dense" =>
            {
                let exist = (0..values.len()).filter(|&i| values[i] != 0.0).map(|i| i as u64);
                let t = Topology::from_positions(rows, cols, exist);
                let csr = Csr { rows, cols, starts: t.starts(), columns: t.columns() };
                let kept: Vec<f32> = values.into_iter().filter(|v| *v != 0.0).collect();
                Kernel::Sparse(Sliced::new(csr, &kept))
            }
            _ => Kernel::Dense(Tensor::new(&[rows, cols], values)),
        };
        Self { rows, cols, nonzeros, kernel }
    }

    /// Whether only nonzeros are multiplied.
    pub fn sparse(&self) -> bool {
        matches!(self.kernel, Kernel::Sparse(_))
    }

    /// x Wᵀ; `[n, cols]` to `[n, rows]`.
    pub fn apply(&self, x: &Tensor<f32>) -> Tensor<f32> {
        let (n, cols) = x.rows_cols();
        assert_eq!(cols, self.cols, "inputs");
        Tensor::written(&[n, self.rows], |y| match &self.kernel {
            Kernel::Dense(w) => {
                gemm(n, self.rows, cols, x.data(), (cols, 1), w.data(), (1, cols), Start::Zero, y, self.rows);
            }
            Kernel::Sparse(w) => w.apply(n, x.data(), None, y),
        })
    }
}

/// The weights of one block.
pub struct Block {
    norms: [Var<f32>; 2],
    /// In the order of [`PARTS`].
    pub weights: Vec<Linear>,
}

/// One sequence on its way: what the blocks add to, and what the next matrices read.
#[derive(Clone, Debug)]
pub struct State {
    /// `[positions, width]`
    pub x: Tensor<f32>,
    /// `[positions, inputs]` of the next matrices.
    pub read: Tensor<f32>,
    /// Positions before these.
    seen: usize,
}

impl Language {
    /// A file or folder; see [`Archive::open`].
    ///
    /// # Errors
    /// When it cannot be read, or is no model of this family; also when a tensor has another shape than the model says.
    pub fn open(path: &Path) -> Result<Self> {
        let archive = Archive::open(path)?;
        let config = Config::of(&archive)?;
        let model = Self { archive, config };
        for (name, shape) in model.shapes() {
            let Some(entry) = model.archive.get(&model.stored(&name)) else {
                return Err(model.fail(format!("tensor `{}` is missing", model.stored(&name))));
            };
            if entry.shape != shape {
                return Err(model.fail(format!("`{name}` is {:?}, but the model needs {shape:?}", entry.shape)));
            }
        }
        Ok(model)
    }

    fn fail(&self, why: String) -> Error {
        Error::file(&self.archive.path, why)
    }

    /// Its tokenizer.
    ///
    /// # Errors
    /// As [`Tokens::of`].
    pub fn tokens(&self) -> Result<Tokens> {
        Tokens::of(&self.archive, self.config.vocabulary)
    }

    /// Rows and columns of the matrices of a block.
    pub fn extents(&self) -> [[usize; 2]; 7] {
        let c = &self.config;
        let (queries, keys) = (c.heads * c.each, c.groups * c.each);
        [
            [queries, c.width],
            [keys, c.width],
            [keys, c.width],
            [c.width, queries],
            [c.hidden, c.width],
            [c.hidden, c.width],
            [c.width, c.hidden],
        ]
    }

    /// Every tensor it needs, by Hugging Face's names.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let c = &self.config;
        let mut all = vec![("model.embed_tokens.weight".into(), vec![c.vocabulary, c.width])];
        for layer in 0..c.layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            all.push((name("input_layernorm"), vec![c.width]));
            all.push((name("post_attention_layernorm"), vec![c.width]));
            all.extend(PARTS.iter().zip(self.extents()).map(|(p, e)| (name(p), e.to_vec())));
        }
        all.push(("model.norm.weight".into(), vec![c.width]));
        if !c.tied {
            all.push(("lm_head.weight".into(), vec![c.vocabulary, c.width]));
        }
        all
    }

    /// A tensor's name in the file.
    fn stored(&self, name: &str) -> String {
        if self.archive.kind != "GGUF" {
            return name.into();
        }
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

    /// The numbers of a tensor, row-major.
    ///
    /// # Errors
    /// When one of them is not finite.
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        let stored = self.stored(name);
        let mut values = self.archive.read(&stored)?;
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            return Err(self.fail(format!("`{stored}` holds {} at number {at}; the file is damaged", values[at])));
        }
        let turned = name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight");
        if self.archive.kind == "GGUF" && turned {
            values = straighten(&values, self.config.width, self.config.each);
        }
        Ok(values)
    }

    /// One block, decoded.
    ///
    /// # Errors
    /// As [`Language::read`].
    pub fn block(&self, layer: usize, weights: &Weights) -> Result<Block> {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let norm =
            |part: &str| Ok::<_, Error>(Var::constant(Tensor::new(&[self.config.width], self.read(&name(part))?)));
        let norms = [norm("input_layernorm")?, norm("post_attention_layernorm")?];
        let linear =
            |(part, [rows, cols]): (&&str, [usize; 2])| Ok(Linear::new(rows, cols, self.read(&name(part))?, weights));
        let weights = PARTS.iter().zip(self.extents()).map(linear).collect::<Result<_>>()?;
        Ok(Block { norms, weights })
    }

    /// The vectors of tokens.
    ///
    /// # Errors
    /// When one of them is none, or the sequence is longer than the model was made for.
    pub fn begin(&self, tokens: &[u32]) -> Result<State> {
        self.embed(tokens, 0)
    }

    fn embed(&self, tokens: &[u32], seen: usize) -> Result<State> {
        let (width, most) = (self.config.width, self.config.vocabulary);
        if seen + tokens.len() > self.config.context {
            return Err(Error::Refused(format!(
                "a sequence of {} tokens for a model that was made for {}",
                seen + tokens.len(),
                self.config.context
            )));
        }
        let mut x = Vec::with_capacity(tokens.len() * width);
        for &t in tokens {
            let t = t as usize;
            if t >= most {
                return Err(Error::Refused(format!("token {t} of a model that knows {most}")));
            }
            x.extend(self.archive.rows(&self.stored("model.embed_tokens.weight"), t..t + 1)?);
        }
        let x = Tensor::new(&[tokens.len(), width], x);
        Ok(State { read: x.clone(), x, seen })
    }

    fn norm(&self, x: &Tensor<f32>, gain: &Var<f32>) -> Tensor<f32> {
        ops::rms_norm(&Var::constant(x.clone()), gain, self.config.epsilon).value().clone()
    }

    /// Makes a state ready for the first matrices of a block.
    pub fn enter(&self, block: &Block, state: &mut State) {
        state.read = self.norm(&state.x, &block.norms[0]);
    }

    /// Multiplies by the matrices of one of the four places of a block that read something, and makes ready for the next.
    pub fn site(&self, block: &Block, site: usize, state: &mut State, cache: Option<&mut KvCache<f32>>) {
        let (c, read) = (&self.config, &state.read);
        let apply = |part: usize| block.weights[part].apply(read);
        match site {
            0 => {
                let positions = read.rows_cols().0;
                let heads =
                    |part: usize, count: usize| Var::constant(apply(part).reshape(&[1, positions, count, c.each]));
                let turned = |part, count| ops::rope(&heads(part, count), state.seen, c.base);
                let (q, mut k, mut v) = (turned(0, c.heads), turned(1, c.groups), heads(2, c.groups));
                if let Some(cache) = cache {
                    (k, v) = cache.append(&k, &v);
                }
                let y = ops::attention(&q, &k, &v, AttentionMask { causal: true, keys: &[] });
                state.read = y.value().clone().reshape(&[positions, c.heads * c.each]);
            }
            1 => {
                state.x = state.x.clone().combine(&apply(3), |a, b| a + b);
                state.read = self.norm(&state.x, &block.norms[1]);
            }
            2 => {
                let gate = ops::silu(&Var::constant(apply(4)));
                state.read = gate.value().zip(&apply(5), |a, b| a * b);
            }
            _ => {
                state.x = state.x.clone().combine(&apply(6), |a, b| a + b);
            }
        }
    }

    /// A whole block.
    pub fn advance(&self, block: &Block, state: &mut State, mut cache: Option<&mut KvCache<f32>>) {
        self.enter(block, state);
        (0..SITES.len()).for_each(|site| self.site(block, site, state, cache.as_deref_mut()));
    }

    /// The last norm and the head.
    ///
    /// # Errors
    /// As [`Language::read`].
    pub fn head(&self) -> Result<(Var<f32>, Linear)> {
        let c = &self.config;
        let name = if c.tied { "model.embed_tokens.weight" } else { "lm_head.weight" };
        let head = Linear::new(c.vocabulary, c.width, self.read(name)?, &Weights::Dense);
        Ok((Var::constant(Tensor::new(&[c.width], self.read("model.norm.weight")?)), head))
    }

    /// Scores of every token after each position of a range, `[positions, vocabulary]`.
    pub fn logits(&self, (norm, head): &(Var<f32>, Linear), state: &State, range: Range<usize>) -> Vec<f32> {
        let width = self.config.width;
        let rows = state.x.data()[range.start * width..range.end * width].to_vec();
        let x = self.norm(&Tensor::new(&[range.len(), width], rows), norm);
        head.apply(&x).data().to_vec()
    }
}

/// GGUF files have the pairs of numbers that turn together as neighbours, everybody else half a head apart.
fn straighten(values: &[f32], cols: usize, each: usize) -> Vec<f32> {
    let rows = values.len() / cols;
    let from = |row: usize| {
        let (head, at) = (row / each, row % each);
        head * each + 2 * (at % (each / 2)) + at / (each / 2)
    };
    (0..rows).flat_map(|r| values[from(r) * cols..][..cols].iter().copied()).collect()
}

/// A model in memory that writes on, token by token, with what attention has seen kept.
pub struct Generator<'a> {
    model: &'a Language,
    blocks: Vec<Block>,
    head: (Var<f32>, Linear),
    caches: Vec<KvCache<f32>>,
    seen: usize,
}

impl<'a> Generator<'a> {
    /// Decodes all of a model.
    ///
    /// # Errors
    /// As [`Language::read`].
    pub fn new(model: &'a Language, weights: &Weights) -> Result<Self> {
        let blocks = (0..model.config.layers).map(|l| model.block(l, weights)).collect::<Result<Vec<_>>>()?;
        let caches = blocks.iter().map(|_| KvCache::new()).collect();
        Ok(Self { model, blocks, head: model.head()?, caches, seen: 0 })
    }

    /// Its blocks.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Forgets the sequence.
    pub fn clear(&mut self) {
        self.caches.iter_mut().for_each(|c| *c = KvCache::new());
        self.seen = 0;
    }

    /// Scores of what follows these tokens, which follow those given before.
    ///
    /// # Errors
    /// When a token is none, none is given, or the sequence grows too long.
    pub fn next(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        if tokens.is_empty() {
            return Err(Error::Refused("a text without a token; give a prompt".into()));
        }
        let mut state = self.model.embed(tokens, self.seen)?;
        for (block, cache) in self.blocks.iter().zip(&mut self.caches) {
            self.model.advance(block, &mut state, Some(cache));
        }
        self.seen += tokens.len();
        Ok(self.model.logits(&self.head, &state, tokens.len() - 1..tokens.len()))
    }

    /// A token drawn from the scores: softmax at a temperature over the likeliest that together have probability `top`;
    /// temperature zero takes the largest score, the first of equals.
    pub fn sample(logits: &[f32], temperature: f64, top: f64, rng: &mut Rng) -> u32 {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        let Some(&first) = order.first() else { return 0 };
        if temperature <= 0.0 {
            return first as u32;
        }
        let weight = |i: usize| (f64::from(logits[i] - logits[first]) / temperature).exp();
        let total: f64 = order.iter().map(|&i| weight(i)).sum();
        let mut sum = 0.0;
        let kept = order.iter().take_while(|&&i| {
            let before = sum;
            sum += weight(i) / total;
            before < top
        });
        let kept: Vec<usize> = kept.copied().collect();
        let mut at = f64::from(rng.unit()) * kept.iter().map(|&i| weight(i)).sum::<f64>();
        for &i in &kept {
            at -= weight(i);
            if at < 0.0 {
                return i as u32;
            }
        }
        kept.last().copied().unwrap_or(first) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_apart_as_they_were_put_together() {
        // Two heads of four rows of one column; GGUF has rows 0, 2, 1, 3 of each.
        let apart = straighten(&[0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0], 1, 4);
        assert_eq!(apart, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    }

    #[test]
    fn sampling_follows_temperature_and_top() {
        let mut rng = Rng::stream(0, "sample", 0, 0);
        let logits = [1.0, 3.0, 3.0, 2.0];
        assert_eq!(Generator::sample(&logits, 0.0, 1.0, &mut rng), 1);
        let mut counts = [0usize; 4];
        (0..4000).for_each(|_| counts[Generator::sample(&logits, 1.0, 1.0, &mut rng) as usize] += 1);
        let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        for (count, logit) in counts.iter().zip(logits) {
            let share = f64::from(logit).exp() / total;
            assert!((*count as f64 / 4000.0 - share).abs() < 0.03, "{counts:?}");
        }
        let only = (0..500).all(|_| [1, 2].contains(&Generator::sample(&logits, 1.0, 0.7, &mut rng)));
        assert!(only);
    }
}
