//! Decoders: embedding; blocks of attention and perceptron, each after a norm and with a shortcut; a norm and a head.
//! [`Config`] and [`Family`](super::Family) describe the differences between families.

use super::config::Activation;
use super::family::{GATE, PARTS, gguf};
use super::{Config, Tokens, whole};
use crate::{Error, Result};
use nnz_core::{Rng, Topology};
use nnz_engine::cost::Machine;
use nnz_engine::ops::{self, AttentionMask, KvCache};
use nnz_engine::{Tensor, Var};
use nnz_formats::Archive;
use nnz_kernels::{Csr, Single, Start, gemm};
use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

/// Matrices with the same inputs, by their indices in [`PARTS`].
pub(super) const SITES: [Range<usize>; 4] = [0..3, 3..4, 4..6, 6..7];

/// A model on disk.
#[derive(Debug)]
pub struct Language {
    /// Its tensors.
    pub archive: Archive,
    /// Its hyperparameters.
    pub config: Config,
    /// Whether names lack the family's prefix.
    bare: bool,
}

/// Storage of weights.
pub enum Weights<'a> {
    /// Every entry.
    Dense,
    /// Whatever is fastest for single tokens here.
    Fastest(&'a Machine),
}

/// A weight matrix, ready to multiply.
#[derive(Debug)]
pub struct Linear {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Nonzero entries.
    pub nonzeros: usize,
    kernel: Kernel,
    bias: Option<Vec<f32>>,
}

#[derive(Debug)]
enum Kernel {
    Dense(Tensor<f32>),
    Sparse(Single<f32>),
}

impl Linear {
    /// Takes a row-major matrix. `bytes`: values are multiples of a 127th of the largest of their row, and may be held
    /// in eight bits.
    pub fn new(rows: usize, cols: usize, values: Vec<f32>, bytes: bool, weights: &Weights) -> Self {
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
                Kernel::Sparse(if bytes { Single::rounded(csr, &kept) } else { Single::new(csr, &kept) })
            }
            _ => Kernel::Dense(Tensor::new(&[rows, cols], values)),
        };
        Self { rows, cols, nonzeros, kernel, bias: None }
    }

    /// Adds a bias, `[rows]`.
    #[must_use]
    pub fn with_bias(self, bias: Option<Vec<f32>>) -> Self {
        Self { bias, ..self }
    }

    /// Whether only nonzeros are multiplied.
    pub fn sparse(&self) -> bool {
        matches!(self.kernel, Kernel::Sparse(_))
    }

    /// Name of the kernel it runs in.
    pub fn kernel(&self) -> &'static str {
        match &self.kernel {
            Kernel::Dense(_) => "dense",
            Kernel::Sparse(w) => w.name(),
        }
    }

    /// Bytes of the multiplied values and indices.
    pub fn bytes(&self) -> usize {
        match &self.kernel {
            Kernel::Dense(w) => 4 * w.len(),
            Kernel::Sparse(w) => w.bytes(),
        }
    }

    /// x Wᵀ + bias; `[n, cols]` to `[n, rows]`.
    pub fn apply(&self, x: &Tensor<f32>) -> Tensor<f32> {
        let (n, cols) = x.rows_cols();
        assert_eq!(cols, self.cols, "inputs");
        Tensor::written(&[n, self.rows], |y| match &self.kernel {
            Kernel::Dense(w) => {
                gemm(n, self.rows, cols, x.data(), (cols, 1), w.data(), (1, cols), Start::Zero, y, self.rows);
                if let Some(bias) = &self.bias {
                    y.chunks_mut(self.rows).for_each(|y| y.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
                }
            }
            Kernel::Sparse(w) => w.apply(n, x.data(), self.bias.as_deref(), y),
        })
    }
}

/// A norm's gain, and its offset for a layer norm.
pub struct Norm(Var<f32>, Option<Var<f32>>);

/// The weights of one block.
pub struct Block {
    norms: [Norm; 2],
    /// In the order of [`PARTS`]; `None` for a gate that the family does not have.
    pub weights: [Option<Linear>; PARTS.len()],
}

impl Block {
    /// Its matrices with their names.
    pub fn matrices(&self) -> impl Iterator<Item = (&'static str, &Linear)> {
        PARTS.into_iter().zip(&self.weights).filter_map(|(name, w)| Some((name, w.as_ref()?)))
    }

    fn apply(&self, part: usize, x: &Tensor<f32>) -> Tensor<f32> {
        self.weights[part].as_ref().unwrap_or_else(|| unreachable!("only a gate may be missing")).apply(x)
    }
}

/// One sequence in progress: the residual stream, and the inputs of the next matrices.
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
    /// Opens a file or folder; see [`Archive::open`].
    ///
    /// # Errors
    /// When it cannot be read, or is not of these families; also when a tensor's shape contradicts the configuration.
    pub fn open(path: &Path) -> Result<Self> {
        let mut archive = Archive::open(path)?;
        archive.notes.extend(super::tokens::assumed(&archive));
        let config = Config::of(&archive)?;
        let prefix = config.family.prefix();
        let bare = archive.get(config.family.embedding().trim_start_matches(prefix)).is_some();
        let model = Self { archive, config, bare };
        for (name, shape) in model.tensors() {
            let stored = model.stored(&name);
            let Some(entry) = model.archive.get(&stored) else {
                return Err(model.fail(whole::missing(&model.archive, &stored)));
            };
            if entry.shape != shape {
                return Err(model.fail(format!("`{name}` is {:?}, but the model needs {shape:?}", entry.shape)));
            }
            whole::scaled(&model.archive, &stored, entry).map_err(|why| model.fail(why))?;
        }
        model.whole()?;
        Ok(model)
    }

    /// Checks that every tensor of the file belongs to the model, or does not affect what it computes.
    fn whole(&self) -> Result<()> {
        let c = &self.config;
        let needed: HashSet<String> = self.tensors().iter().map(|(n, _)| self.stored(n)).collect();
        let head = self.stored(c.family.head());
        // Masks that old checkpoints contain, and frequencies that follow from the configuration.
        let idle = |name: &str, axes: usize| {
            let mask = [".attn", ".attention"].iter().any(|a| {
                name.ends_with(&format!("{a}.bias")) && axes == 4
                    || name.ends_with(&format!("{a}.masked_bias")) && axes == 0
            });
            mask || name.ends_with("rotary_emb.inv_freq") || c.tied && name == head || whole::idle(name)
        };
        let what = || format!("a {:?} of {} layers", c.family, c.layers);
        whole::check(&self.archive, |n, e| needed.contains(n) || idle(n, e.shape.len()), what)
            .map_err(|why| self.fail(why))
    }

    fn fail(&self, why: String) -> Error {
        Error::file(&self.archive.path, why)
    }

    /// Opens its tokenizer.
    ///
    /// # Errors
    /// As [`Tokens::of`].
    pub fn tokens(&self) -> Result<Tokens> {
        Tokens::of(&self.archive, self.config.vocabulary)
    }

    /// Whether blocks have a given one of [`PARTS`].
    pub fn has(&self, part: usize) -> bool {
        part != GATE || self.config.gated
    }

    /// Lists every tensor it needs, by Hugging Face's names.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (c, family) = (&self.config, self.config.family);
        let bias = |name: &str| format!("{}.bias", name.trim_end_matches(".weight"));
        let mut all: Vec<(String, Vec<usize>)> = vec![(family.embedding().into(), vec![c.vocabulary, c.width])];
        if let Some((name, first)) = family.positions() {
            all.push((name.into(), vec![c.context + first, c.width]));
        }
        let norm = |all: &mut Vec<_>, name: &str| {
            all.push((format!("{name}.weight"), vec![c.width]));
            if c.biases {
                all.push((format!("{name}.bias"), vec![c.width]));
            }
        };
        for layer in 0..c.layers {
            family.norms(layer).iter().for_each(|n| norm(&mut all, n));
            for place in (0..PARTS.len()).filter(|&p| self.has(p)).map(|p| family.place(c, layer, p)) {
                if all.iter().rev().take(2).any(|(name, _)| *name == place.name) {
                    continue;
                }
                let outputs = if place.is_turned() { place.shape[1] } else { place.shape[0] };
                let name = bias(&place.name);
                all.push((place.name, place.shape.to_vec()));
                if c.biases {
                    all.push((name, vec![outputs]));
                }
            }
        }
        norm(&mut all, family.last_norm());
        if !c.tied {
            all.push((family.head().into(), vec![c.vocabulary, c.width]));
        }
        all
    }

    /// A tensor's name in the file.
    fn stored(&self, name: &str) -> String {
        match (self.archive.kind, self.bare) {
            ("GGUF", _) => gguf(name),
            (_, true) => name.trim_start_matches(self.config.family.prefix()).into(),
            _ => name.into(),
        }
    }

    /// Reads the numbers of a tensor, row-major.
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
            values = unpermute(&values, self.config.width, self.config.each);
        }
        Ok(values)
    }

    /// Reads one of [`PARTS`] of a block, row-major.
    ///
    /// # Errors
    /// As [`Language::read`].
    pub fn part(&self, layer: usize, part: usize) -> Result<Vec<f32>> {
        let place = self.config.family.place(&self.config, layer, part);
        Ok(place.take(self.config.extents()[part], self.read(&place.name)?))
    }

    /// Reads the bias of one of [`PARTS`].
    fn bias(&self, layer: usize, part: usize) -> Result<Option<Vec<f32>>> {
        if !self.config.biases {
            return Ok(None);
        }
        let place = self.config.family.place(&self.config, layer, part);
        let bias = self.read(&place.name.replace(".weight", ".bias"))?;
        Ok(Some(place.take_bias(self.config.extents()[part][0], &bias)))
    }

    fn norm_of(&self, name: &str) -> Result<Norm> {
        let read = |end: &str| {
            Ok::<_, Error>(Var::constant(Tensor::new(&[self.config.width], self.read(&format!("{name}.{end}"))?)))
        };
        Ok(Norm(read("weight")?, self.config.biases.then(|| read("bias")).transpose()?))
    }

    /// Decodes one block, its matrices as changed by `edit`.
    ///
    /// # Errors
    /// As [`Language::read`], and those of `edit`.
    pub fn edited(
        &self,
        layer: usize,
        weights: &Weights,
        mut edit: impl FnMut(usize, Vec<f32>) -> Result<Vec<f32>>,
    ) -> Result<Block> {
        let [before, between] = self.config.family.norms(layer);
        let mut found = [const { None }; PARTS.len()];
        for part in (0..PARTS.len()).filter(|&p| self.has(p)) {
            found[part] = Some(self.linear(layer, part, edit(part, self.part(layer, part)?)?, weights)?);
        }
        Ok(Block { norms: [self.norm_of(&before)?, self.norm_of(&between)?], weights: found })
    }

    /// Makes one of [`PARTS`] with its bias, from these numbers.
    ///
    /// # Errors
    /// As [`Language::read`].
    pub fn linear(&self, layer: usize, part: usize, values: Vec<f32>, weights: &Weights) -> Result<Linear> {
        let [rows, cols] = self.config.extents()[part];
        let name = self.stored(&self.config.family.place(&self.config, layer, part).name);
        let bytes = self.archive.by_steps(&name);
        Ok(Linear::new(rows, cols, values, bytes, weights).with_bias(self.bias(layer, part)?))
    }

    /// Decodes one block.
    ///
    /// # Errors
    /// As [`Language::read`].
    pub fn block(&self, layer: usize, weights: &Weights) -> Result<Block> {
        self.edited(layer, weights, |_, values| Ok(values))
    }

    /// Embeds tokens.
    ///
    /// # Errors
    /// When one of them is invalid, or the sequence is longer than the model was made for.
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
        let family = self.config.family;
        let mut x = Vec::with_capacity(tokens.len() * width);
        for &t in tokens {
            let t = t as usize;
            if t >= most {
                return Err(Error::Refused(format!("token {t} of a model that knows {most}")));
            }
            x.extend(self.archive.rows(&self.stored(family.embedding()), t..t + 1)?);
        }
        if let Some((name, first)) = family.positions() {
            let positions = self.archive.rows(&self.stored(name), first + seen..first + seen + tokens.len())?;
            x.iter_mut().zip(positions).for_each(|(x, p)| *x += p);
        }
        let x = Tensor::new(&[tokens.len(), width], x);
        Ok(State { read: x.clone(), x, seen })
    }

    fn norm(&self, x: &Tensor<f32>, Norm(gain, offset): &Norm) -> Tensor<f32> {
        let (x, epsilon) = (Var::constant(x.clone()), self.config.epsilon);
        let y = match offset {
            Some(offset) => ops::layer_norm(&x, gain, offset, epsilon),
            None => ops::rms_norm(&x, gain, epsilon),
        };
        y.value().clone()
    }

    /// Applies rotary positions to the first dimensions of each head, `[1, positions, heads, each]`.
    fn turn(&self, x: Var<f32>, seen: usize) -> Var<f32> {
        let (c, shape) = (&self.config, x.shape().to_vec());
        if c.rotary == 0 {
            return x;
        }
        if c.rotary == c.each {
            return ops::rope(&x, seen, c.base);
        }
        let part = x.value().data().chunks(c.each).flat_map(|head| head[..c.rotary].iter().copied()).collect();
        let part = Tensor::new(&[1, shape[1], shape[2], c.rotary], part);
        let turned = ops::rope(&Var::constant(part), seen, c.base);
        let mut all = x.value().clone();
        let heads = all.data_mut().chunks_mut(c.each).zip(turned.value().data().chunks(c.rotary));
        heads.for_each(|(head, turned)| head[..c.rotary].copy_from_slice(turned));
        Var::constant(all)
    }

    /// Prepares a state for the first matrices of a block.
    pub fn enter(&self, block: &Block, state: &mut State) {
        state.read = self.norm(&state.x, &block.norms[0]);
    }

    /// Multiplies by the matrices of one of the four sites of a block, and prepares the state for the next.
    pub fn site(&self, block: &Block, site: usize, state: &mut State, cache: Option<&mut KvCache<f32>>) {
        let (c, read) = (&self.config, &state.read);
        let apply = |part: usize| block.apply(part, read);
        match site {
            0 => {
                let positions = read.rows_cols().0;
                let heads =
                    |part: usize, count: usize| Var::constant(apply(part).reshape(&[1, positions, count, c.each]));
                let turned = |part, count| self.turn(heads(part, count), state.seen);
                let (q, mut k, mut v) = (turned(0, c.heads), turned(1, c.groups), heads(2, c.groups));
                if let Some(cache) = cache {
                    (k, v) = cache.append(&k, &v);
                }
                let y = ops::attention(&q, &k, &v, AttentionMask { causal: true, keys: &[] });
                state.read = y.value().clone().reshape(&[positions, c.heads * c.each]);
            }
            1 => {
                let before = c.parallel.then(|| state.x.clone());
                state.x = state.x.clone().combine(&apply(3), |a, b| a + b);
                state.read = self.norm(before.as_ref().unwrap_or(&state.x), &block.norms[1]);
            }
            2 => {
                let gate = Var::constant(apply(if c.gated { GATE } else { GATE + 1 }));
                let gate = match c.activation {
                    Activation::Silu => ops::silu(&gate),
                    Activation::Gelu => ops::gelu(&gate),
                    Activation::GeluTanh => ops::gelu_tanh(&gate),
                    Activation::Relu => ops::relu(&gate),
                };
                state.read = match c.gated {
                    true => gate.value().zip(&apply(GATE + 1), |a, b| a * b),
                    false => gate.value().clone(),
                };
            }
            _ => {
                state.x = state.x.clone().combine(&apply(6), |a, b| a + b);
            }
        }
    }

    /// Runs a whole block.
    pub fn advance(&self, block: &Block, state: &mut State, mut cache: Option<&mut KvCache<f32>>) {
        self.enter(block, state);
        (0..SITES.len()).for_each(|site| self.site(block, site, state, cache.as_deref_mut()));
    }

    /// Reads the last norm and the head.
    ///
    /// # Errors
    /// As [`Language::read`].
    pub fn head(&self) -> Result<(Norm, Linear)> {
        let c = &self.config;
        let name = if c.tied { c.family.embedding() } else { c.family.head() };
        let head = Linear::new(c.vocabulary, c.width, self.read(name)?, false, &Weights::Dense);
        Ok((self.norm_of(c.family.last_norm())?, head))
    }

    /// Scores of every token after each position of a range, `[positions, vocabulary]`.
    pub fn logits(&self, (norm, head): &(Norm, Linear), state: &State, range: Range<usize>) -> Vec<f32> {
        let width = self.config.width;
        let rows = state.x.data()[range.start * width..range.end * width].to_vec();
        let x = self.norm(&Tensor::new(&[range.len(), width], rows), norm);
        head.apply(&x).data().to_vec()
    }
}

/// Reorders rows: GGUF files have the pairs that rotate together adjacent, all other formats half a head apart.
fn unpermute(values: &[f32], cols: usize, each: usize) -> Vec<f32> {
    let rows = values.len() / cols;
    let from = |row: usize| {
        let (head, at) = (row / each, row % each);
        head * each + 2 * (at % (each / 2)) + at / (each / 2)
    };
    (0..rows).flat_map(|r| values[from(r) * cols..][..cols].iter().copied()).collect()
}

/// A model in memory that generates token by token, with a cache of attention.
pub struct Generator<'a> {
    model: &'a Language,
    blocks: Vec<Block>,
    head: (Norm, Linear),
    caches: Vec<KvCache<f32>>,
    seen: usize,
}

impl<'a> Generator<'a> {
    /// Decodes the entire model.
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

    /// Scores of the token that follows these, which follow those given before.
    ///
    /// # Errors
    /// When a token is invalid, none is given, or the sequence grows too long.
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

    /// Samples a token from the scores: softmax at a temperature over the likeliest with joint probability `top`;
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
        let apart = unpermute(&[0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0], 1, 4);
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
