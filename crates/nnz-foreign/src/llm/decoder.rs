//! Decoders: embedding; blocks of attention and perceptrons, with norms before or after and with a shortcut; a norm and a head.
//! [`Config`] and [`Family`](super::Family) describe the differences between families.

use super::attention::{Extents, attend};
use super::config::Activation;
use super::family::{DOWN, GATE, Inner, Kind, OUT, PARTS, Slot, gguf};
use super::rope::Turns;
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
use std::sync::Arc;

/// Parts of a block whose matrices read at the same time, by their indices in [`PARTS`].
pub(super) const SITES: [Range<usize>; 4] = [0..OUT, OUT..GATE, GATE..DOWN, DOWN..DOWN + 1];

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
        if n == 0 {
            return Tensor::zeros(&[0, self.rows]);
        }
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

/// What chooses the experts of a block, and the gate of the shared one.
struct Router {
    scores: Linear,
    shared: Option<Linear>,
}

/// The weights of one block.
pub struct Block {
    layer: usize,
    /// Number of its perceptrons.
    count: usize,
    norms: [Option<Norm>; 4],
    inner: Option<[Norm; 2]>,
    router: Option<Router>,
    slots: Vec<Slot>,
    /// Its matrices, in the order of [`Config::slots`].
    pub weights: Vec<Linear>,
}

impl Block {
    /// Its matrices with their names.
    pub fn matrices(&self) -> impl Iterator<Item = (&'static str, &Linear)> {
        self.slots.iter().map(|slot| PARTS[slot.part]).zip(&self.weights)
    }

    fn apply(&self, part: usize, expert: usize, x: &Tensor<f32>) -> Tensor<f32> {
        let reading = (self.weights.len() - GATE - self.count) / self.count;
        let index = match part {
            0..=OUT => part,
            DOWN => self.weights.len() - self.count + expert,
            part => GATE + expert * reading + part + reading - DOWN,
        };
        self.weights[index].apply(x)
    }
}

/// Positions that an expert reads, and the weight of what it adds to each.
type Route = Vec<(usize, f32)>;

/// One sequence in progress: the residual stream, and the inputs of the next matrices.
#[derive(Clone, Debug)]
pub struct State {
    /// `[positions, width]`
    pub x: Tensor<f32>,
    /// `[positions, inputs]` of the next matrices: for every expert in the perceptron, otherwise one.
    read: Vec<Tensor<f32>>,
    /// What each expert reads; empty without experts.
    routes: Vec<Route>,
    /// Rotary positions of all layers, and of those with a window.
    turns: [Option<Arc<Turns>>; 2],
}

impl State {
    /// What a matrix that is next reads, `[positions, inputs]`.
    pub fn read(&self, slot: Slot) -> &Tensor<f32> {
        &self.read[slot.expert]
    }
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
        let prefix = config.family.prefix;
        let bare = archive.get(config.family.embedding.trim_start_matches(prefix)).is_some();
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
        let head = self.stored(c.family.head);
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

    /// Lists every tensor it needs, by Hugging Face's names.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (c, family) = (&self.config, self.config.family);
        let mut all: Vec<(String, Vec<usize>)> = vec![(family.embedding.into(), vec![c.vocabulary, c.width])];
        if let Some((name, first)) = family.positions {
            all.push((name.into(), vec![c.context + first, c.width]));
        }
        let norm = |name: &str, width: usize| {
            let ends: &[&str] = match family.norm {
                Kind::Bare => &[],
                Kind::Rms | Kind::RmsFromOne => &["weight"],
                Kind::Layer => &["weight", "bias"],
            };
            ends.iter().map(|end| (format!("{name}.{end}"), vec![width])).collect::<Vec<_>>()
        };
        for layer in 0..c.layers {
            let mut known: HashSet<String> = HashSet::new();
            for name in c.norms.iter().flatten().filter(|n| known.insert((**n).into())) {
                all.extend(norm(&family.block(layer, name), c.width));
            }
            for (name, width) in INNER.into_iter().zip(c.inner().into_iter().flatten()) {
                all.extend(norm(&family.block(layer, name), width));
            }
            if let Some((router, shared)) = self.router(layer) {
                all.push((router, vec![c.experts_of(layer).map_or(0, |e| e.count), c.width]));
                all.extend(shared.map(|name| (name, vec![1, c.width])));
            }
            for slot in c.slots(layer) {
                let place = family.place(c, layer, slot);
                if !known.insert(place.name.clone()) {
                    continue;
                }
                let outputs = if place.is_turned() { place.shape[1] } else { place.shape[0] };
                all.push((place.name.clone(), place.tensor()));
                if c.biases[slot.part] && slot.expert == 0 {
                    all.push((bias(&place.name), vec![outputs]));
                }
            }
        }
        all.extend(norm(family.last_norm, c.width));
        if !c.tied {
            all.push((family.head.into(), vec![c.vocabulary, c.width]));
        }
        all
    }

    /// Names of a layer's router, and of the gate of its shared expert.
    fn router(&self, layer: usize) -> Option<(String, Option<String>)> {
        let (c, family) = (&self.config, self.config.family);
        let (experts, mixture) = (c.experts_of(layer)?, family.mixture.as_ref()?);
        let router = if experts.fused { "mlp.gate" } else { mixture.router };
        let name = |part: &str| family.block(layer, &format!("{part}.weight"));
        Some((name(router), mixture.shared.map(|(_, _, gate)| name(gate))))
    }

    /// A tensor's name in the file.
    fn stored(&self, name: &str) -> String {
        match (self.archive.kind, self.bare) {
            ("GGUF", _) => gguf(name),
            (_, true) => name.trim_start_matches(self.config.family.prefix).into(),
            _ => name.into(),
        }
    }

    fn finite(&self, stored: &str, values: Vec<f32>) -> Result<Vec<f32>> {
        match values.iter().position(|v| !v.is_finite()) {
            Some(at) => Err(self.fail(format!("`{stored}` holds {} at number {at}; the file is damaged", values[at]))),
            None => Ok(values),
        }
    }

    /// Reads the numbers of a tensor, row-major.
    ///
    /// # Errors
    /// When one of them is not finite.
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        let stored = self.stored(name);
        let mut values = self.finite(&stored, self.archive.read(&stored)?)?;
        let turned = name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight");
        if self.archive.kind == "GGUF" && turned && self.config.family.is_permuted() {
            values = unpermute(&values, self.config.width, self.config.each);
        }
        Ok(values)
    }

    /// Reads rows of a tensor of two axes that is no matrix of a block.
    ///
    /// # Errors
    /// As [`Language::read`].
    pub fn rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<f32>> {
        let stored = self.stored(name);
        self.finite(&stored, self.archive.rows(&stored, rows)?)
    }

    /// Reads a matrix of a block, row-major.
    ///
    /// # Errors
    /// As [`Language::read`].
    pub fn matrix(&self, layer: usize, slot: Slot) -> Result<Vec<f32>> {
        let place = self.config.family.place(&self.config, layer, slot);
        let part = match place.block {
            None => self.read(&place.name)?,
            Some((index, _)) => {
                let stored = self.stored(&place.name);
                self.finite(&stored, self.archive.rows(&stored, index..index + 1)?)?
            }
        };
        Ok(place.take(self.config.extents(layer, slot), part))
    }

    /// Reads the bias of a matrix.
    fn bias(&self, layer: usize, slot: Slot) -> Result<Option<Vec<f32>>> {
        if !self.config.biases[slot.part] {
            return Ok(None);
        }
        let place = self.config.family.place(&self.config, layer, slot);
        let values = self.read(&bias(&place.name))?;
        Ok(Some(place.take_bias(self.config.extents(layer, slot)[0], &values)))
    }

    fn norm_of(&self, name: &str, width: usize) -> Result<Norm> {
        let var = |values: Vec<f32>| Var::constant(Tensor::new(&[width], values));
        let read = |end: &str| self.read(&format!("{name}.{end}"));
        Ok(match self.config.family.norm {
            Kind::Bare => Norm(var(vec![1.0; width]), Some(var(vec![0.0; width]))),
            Kind::Rms => Norm(var(read("weight")?), None),
            Kind::RmsFromOne => Norm(var(read("weight")?.into_iter().map(|w| 1.0 + w).collect()), None),
            Kind::Layer => Norm(var(read("weight")?), Some(var(read("bias")?))),
        })
    }

    /// Decodes one block, its matrices as changed by `edit`, by their index in [`Config::slots`].
    ///
    /// # Errors
    /// As [`Language::read`], and those of `edit`.
    pub fn edited(
        &self,
        layer: usize,
        weights: &Weights,
        mut edit: impl FnMut(usize, Vec<f32>) -> Result<Vec<f32>>,
    ) -> Result<Block> {
        let (c, family) = (&self.config, self.config.family);
        let slots = c.slots(layer);
        let mut found = Vec::with_capacity(slots.len());
        for (index, &slot) in slots.iter().enumerate() {
            found.push(self.linear(layer, slot, edit(index, self.matrix(layer, slot)?)?, weights)?);
        }
        let mut norms = [const { None }; 4];
        for (norm, name) in norms.iter_mut().zip(c.norms) {
            *norm = name.map(|name| self.norm_of(&family.block(layer, name), c.width)).transpose()?;
        }
        let inner = |[q, k]: [usize; 2]| {
            let norm = |name: &str, width: usize| self.norm_of(&family.block(layer, name), width);
            Ok::<_, Error>([norm(INNER[0], q)?, norm(INNER[1], k)?])
        };
        let dense = |name: &str, rows: usize| {
            Ok::<_, Error>(Linear::new(rows, c.width, self.read(name)?, false, &Weights::Dense))
        };
        let router = |(router, shared): (String, Option<String>)| {
            let count = c.experts_of(layer).map_or(0, |e| e.count);
            Ok::<_, Error>(Router {
                scores: dense(&router, count)?,
                shared: shared.map(|name| dense(&name, 1)).transpose()?,
            })
        };
        let (inner, router) = (c.inner().map(inner).transpose()?, self.router(layer).map(router).transpose()?);
        Ok(Block { layer, count: c.perceptrons(layer), norms, inner, router, slots, weights: found })
    }

    /// Makes a matrix of a block with its bias, from these numbers.
    ///
    /// # Errors
    /// As [`Language::read`].
    pub fn linear(&self, layer: usize, slot: Slot, values: Vec<f32>, weights: &Weights) -> Result<Linear> {
        let [rows, cols] = self.config.extents(layer, slot);
        let place = self.config.family.place(&self.config, layer, slot);
        let bytes = place.has_rows() && self.archive.by_steps(&self.stored(&place.name));
        Ok(Linear::new(rows, cols, values, bytes, weights).with_bias(self.bias(layer, slot)?))
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
        let c = &self.config;
        let (width, most) = (c.width, c.vocabulary);
        if seen + tokens.len() > c.context {
            return Err(Error::Refused(format!(
                "a sequence of {} tokens for a model that was made for {}",
                seen + tokens.len(),
                c.context
            )));
        }
        let family = c.family;
        let mut x = Vec::with_capacity(tokens.len() * width);
        for &t in tokens {
            let t = t as usize;
            if t >= most {
                return Err(Error::Refused(format!("token {t} of a model that knows {most}")));
            }
            x.extend(self.archive.rows(&self.stored(family.embedding), t..t + 1)?);
        }
        if c.embedding != 1.0 {
            x.iter_mut().for_each(|x| *x *= c.embedding);
        }
        if let Some((name, first)) = family.positions {
            let positions = self.archive.rows(&self.stored(name), first + seen..first + seen + tokens.len())?;
            x.iter_mut().zip(positions).for_each(|(x, p)| *x += p);
        }
        let x = Tensor::new(&[tokens.len(), width], x);
        let turns = c.ropes.each_ref().map(|rope| Some(Arc::new(rope.as_ref()?.turns(seen, tokens.len()))));
        Ok(State { read: vec![x.clone()], x, routes: Vec::new(), turns })
    }

    fn norm(&self, x: &Tensor<f32>, Norm(gain, offset): &Norm) -> Tensor<f32> {
        let (x, epsilon) = (Var::constant(x.clone()), self.config.epsilon);
        let y = match offset {
            Some(offset) => ops::layer_norm(&x, gain, offset, epsilon),
            None => ops::rms_norm(&x, gain, epsilon),
        };
        y.value().clone()
    }

    /// The norm, if there is one.
    fn maybe(&self, x: Tensor<f32>, norm: Option<&Norm>) -> Tensor<f32> {
        match norm {
            Some(norm) => self.norm(&x, norm),
            None => x,
        }
    }

    /// Prepares a state for the first matrices of a block.
    pub fn enter(&self, block: &Block, state: &mut State) {
        state.read = vec![self.maybe(state.x.clone(), block.norms[0].as_ref())];
    }

    /// Multiplies by the matrices of one of the four sites of a block, and prepares the state for the next.
    pub fn site(&self, block: &Block, site: usize, state: &mut State, cache: Option<&mut KvCache<f32>>) {
        match site {
            0 => state.read = vec![self.attention(block, state, cache)],
            1 => {
                let before = self.config.parallel.then(|| state.x.clone());
                let y = self.maybe(block.apply(OUT, 0, &state.read[0]), block.norms[1].as_ref());
                state.x = state.x.clone().combine(&y, |a, b| a + b);
                let read = self.maybe(before.unwrap_or_else(|| state.x.clone()), block.norms[2].as_ref());
                (state.read, state.routes) = self.route(block, read);
            }
            2 => {
                let read = |(expert, x): (usize, &Tensor<f32>)| {
                    let gated = self.config.family.gated;
                    let gate = Var::constant(block.apply(if gated { GATE } else { GATE + 1 }, expert, x));
                    let gate = match self.config.activation {
                        Activation::Silu => ops::silu(&gate),
                        Activation::Gelu => ops::gelu(&gate),
                        Activation::GeluTanh => ops::gelu_tanh(&gate),
                        Activation::Relu => ops::relu(&gate),
                    };
                    match gated {
                        true => gate.value().zip(&block.apply(GATE + 1, expert, x), |a, b| a * b),
                        false => gate.value().clone(),
                    }
                };
                state.read = state.read.iter().enumerate().map(read).collect();
            }
            _ => {
                let y = match &state.routes[..] {
                    [] => block.apply(DOWN, 0, &state.read[0]),
                    routes => {
                        let mut sum = Tensor::zeros(state.x.shape());
                        let width = self.config.width;
                        for (expert, (x, routed)) in state.read.iter().zip(routes).enumerate() {
                            let y = block.apply(DOWN, expert, x);
                            for (&(position, weight), y) in routed.iter().zip(y.data().chunks_exact(width)) {
                                let to = &mut sum.data_mut()[position * width..][..width];
                                to.iter_mut().zip(y).for_each(|(s, y)| *s += weight * y);
                            }
                        }
                        sum
                    }
                };
                let y = self.maybe(y, block.norms[3].as_ref());
                state.x = state.x.clone().combine(&y, |a, b| a + b);
                (state.read, state.routes) = (vec![state.x.clone()], Vec::new());
            }
        }
    }

    /// The output of attention, before its last matrix.
    fn attention(&self, block: &Block, state: &State, cache: Option<&mut KvCache<f32>>) -> Tensor<f32> {
        let (c, read) = (&self.config, &state.read[0]);
        let positions = read.rows_cols().0;
        let turns = &state.turns[c.rope_of(block.layer)];
        let project = |part: usize, heads: usize| {
            let mut x = block.apply(part, 0, read);
            if let Some(norm) = block.inner.as_ref().and_then(|norms| norms.get(part)) {
                let rows = if c.family.inner == Some(Inner::Head) { positions * heads } else { positions };
                x = self.norm(&x.reshape(&[rows, positions * heads * c.each / rows.max(1)]), norm);
            }
            if let Some(most) = c.clip {
                x.data_mut().iter_mut().for_each(|x| *x = x.clamp(-most, most));
            }
            if let (Some(turns), true) = (turns, part < 2) {
                turns.apply(x.data_mut(), heads, c.each);
            }
            if part == 0 && c.sharpness != 1.0 {
                x.data_mut().iter_mut().for_each(|x| *x *= c.sharpness);
            }
            Var::constant(x.reshape(&[1, positions, heads, c.each]))
        };
        let (q, mut k, mut v) = (project(0, c.heads), project(1, c.groups), project(2, c.groups));
        if let Some(cache) = cache {
            (k, v) = cache.append(&k, &v);
        }
        let keys = k.shape()[1];
        let (window, cap) = (c.window_of(block.layer).filter(|n| *n < keys), c.caps[0]);
        if window.is_none() && cap.is_none() {
            let y = ops::attention(&q, &k, &v, AttentionMask { causal: true, keys: &[] });
            return y.value().clone().reshape(&[positions, c.heads * c.each]);
        }
        let e = Extents { queries: positions, keys, heads: c.heads, groups: c.groups, each: c.each };
        let y = attend(q.value().data(), k.value().data(), v.value().data(), e, window, cap);
        Tensor::new(&[positions, c.heads * c.each], y)
    }

    /// Distributes what a perceptron reads to the experts, which the softmax of the router's scores chooses and weighs. A shared expert
    /// reads all, weighed by its gate.
    fn route(&self, block: &Block, x: Tensor<f32>) -> (Vec<Tensor<f32>>, Vec<Route>) {
        let (Some(experts), Some(router)) = (self.config.experts_of(block.layer), &block.router) else {
            return (vec![x], Vec::new());
        };
        let width = self.config.width;
        let mut routes = vec![Route::new(); experts.count];
        for (position, scores) in router.scores.apply(&x).data().chunks_exact(experts.count).enumerate() {
            let top = scores.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
            let all: f32 = scores.iter().map(|s| (s - top).exp()).sum();
            let mut order: Vec<usize> = (0..experts.count).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
            order.truncate(experts.chosen);
            let weight = |e: usize| (scores[e] - top).exp() / all;
            let sum: f32 = if experts.normalized { order.iter().map(|&e| weight(e)).sum() } else { 1.0 };
            order.iter().for_each(|&e| routes[e].push((position, weight(e) / sum)));
        }
        let mut read: Vec<Tensor<f32>> = routes
            .iter()
            .map(|routed| {
                let rows = routed.iter().flat_map(|(p, _)| x.data()[p * width..][..width].iter().copied());
                Tensor::new(&[routed.len(), width], rows.collect())
            })
            .collect();
        if let Some(gate) = &router.shared {
            let open = |(p, s): (usize, &f32)| (p, 1.0 / (1.0 + (-s).exp()));
            routes.push(gate.apply(&x).data().iter().enumerate().map(open).collect());
            read.push(x);
        }
        (read, routes)
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
        let name = if c.tied { c.family.embedding } else { c.family.head };
        let head = Linear::new(c.vocabulary, c.width, self.read(name)?, false, &Weights::Dense);
        Ok((self.norm_of(c.family.last_norm, c.width)?, head))
    }

    /// Scores of every token after each position of a range, `[positions, vocabulary]`.
    pub fn logits(&self, (norm, head): &(Norm, Linear), state: &State, range: Range<usize>) -> Vec<f32> {
        let width = self.config.width;
        let rows = state.x.data()[range.start * width..range.end * width].to_vec();
        let x = self.norm(&Tensor::new(&[range.len(), width], rows), norm);
        let mut logits = head.apply(&x).data().to_vec();
        if let Some(most) = self.config.caps[1] {
            logits.iter_mut().for_each(|l| *l = most * (*l / most).tanh());
        }
        logits
    }
}

/// Names of the norms of queries and keys.
const INNER: [&str; 2] = ["self_attn.q_norm", "self_attn.k_norm"];

/// Name of the bias of a matrix.
fn bias(weight: &str) -> String {
    format!("{}.bias", weight.trim_end_matches(".weight"))
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
    seen: Vec<u32>,
}

/// How a token is chosen by its scores.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// Divisor of the scores before the softmax; zero takes the largest score, the first of equals.
    pub temperature: f64,
    /// Number of the likeliest tokens that are candidates; zero for all.
    pub most: usize,
    /// Of these the likeliest that together have this share of their probability (Holtzman et al. 2020, arXiv:1904.09751).
    pub top: f64,
}

impl<'a> Generator<'a> {
    /// Decodes the entire model.
    ///
    /// # Errors
    /// As [`Language::read`].
    pub fn new(model: &'a Language, weights: &Weights) -> Result<Self> {
        let blocks = (0..model.config.layers).map(|l| model.block(l, weights)).collect::<Result<Vec<_>>>()?;
        let caches = blocks.iter().map(|_| KvCache::new()).collect();
        Ok(Self { model, blocks, head: model.head()?, caches, seen: Vec::new() })
    }

    /// Its blocks.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Forgets the sequence.
    pub fn clear(&mut self) {
        self.caches.iter_mut().for_each(|c| *c = KvCache::new());
        self.seen.clear();
    }

    /// Scores of the token that follows these, which follow those given before.
    ///
    /// # Errors
    /// When a token is invalid, none is given, or the sequence grows too long.
    pub fn next(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        if tokens.is_empty() {
            return Err(Error::Refused("a text without a token; give a prompt".into()));
        }
        let (model, before) = (self.model, self.seen.len());
        let after = before + tokens.len();
        // Positions that turn otherwise in a longer sequence make the cache useless.
        let again = before > 0 && model.config.ropes.iter().flatten().any(|rope| rope.changes(before, after));
        let (mut state, count) = match again {
            false => (model.embed(tokens, before)?, tokens.len()),
            true => (model.embed(&[&self.seen, tokens].concat(), 0)?, after),
        };
        if again {
            self.caches.iter_mut().for_each(|c| *c = KvCache::new());
        }
        for (block, cache) in self.blocks.iter().zip(&mut self.caches) {
            model.advance(block, &mut state, Some(cache));
        }
        self.seen.extend(tokens);
        Ok(model.logits(&self.head, &state, count - 1..count))
    }

    /// Chooses a token by its scores.
    pub fn sample(logits: &[f32], how: Sampling, rng: &mut Rng) -> u32 {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        let Some(&first) = order.first() else { return 0 };
        if how.temperature <= 0.0 {
            return first as u32;
        }
        if how.most > 0 {
            order.truncate(how.most);
        }
        let weight = |i: usize| (f64::from(logits[i] - logits[first]) / how.temperature).exp();
        let total: f64 = order.iter().map(|&i| weight(i)).sum();
        let mut sum = 0.0;
        let kept = order.iter().take_while(|&&i| {
            let before = sum;
            sum += weight(i) / total;
            before < how.top
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
        let with = |temperature, most, top| Sampling { temperature, most, top };
        let mut sample = |how| Generator::sample(&logits, how, &mut rng);
        assert_eq!(sample(with(0.0, 0, 1.0)), 1);
        let mut counts = [0usize; 4];
        (0..4000).for_each(|_| counts[sample(with(1.0, 0, 1.0)) as usize] += 1);
        let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        for (count, logit) in counts.iter().zip(logits) {
            let share = f64::from(logit).exp() / total;
            assert!((*count as f64 / 4000.0 - share).abs() < 0.03, "{counts:?}");
        }
        let only = (0..500).all(|_| [1, 2].contains(&sample(with(1.0, 0, 0.7))));
        assert!(only);
        let three: Vec<u32> = (0..500).map(|_| sample(with(1.0, 3, 1.0))).collect();
        assert!([1, 2, 3].iter().all(|t| three.contains(t)) && !three.contains(&0));
        assert!((0..100).all(|_| sample(with(5.0, 1, 1.0)) == 1));
    }
}
