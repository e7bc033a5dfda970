//! Pruning of a language model, block by block: memory holds one block and the activations of the calibration text before it.

use super::decoder::SITES;
use super::family::{PARTS, Slot};
use super::{Block, Language, State, Weights};
use crate::subject::{Matrices, Pruning, Streamed};
use crate::{Error, Result};
use nnz_core::{Plan, Shape};
use nnz_engine::Moments;
use nnz_formats::{Dtype, Packing, Writer, Written};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

/// Blocks of tokens for calibration.
pub type Calibration<'a> = [&'a [u32]];

/// Result for one tensor of matrices.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its entries, zero or not.
    pub entries: usize,
    /// Statistics of the written tensor.
    pub written: Written,
}

/// Result of pruning a model.
#[derive(Clone, Debug)]
pub struct Pruned {
    /// The matrices of the blocks, which are pruned.
    pub parts: Vec<Part>,
    /// Bytes of the file of weights.
    pub bytes: u64,
    /// Density and perplexity at each point that a search for the essential sparsity tried; the first is unpruned.
    pub tried: Vec<(f64, f64)>,
    /// Matrices whose inputs had singular second moments: fewer positions than inputs, or an input that is always zero.
    pub singular: usize,
    /// Deviations from the request, in sentences.
    pub notes: Vec<String>,
}

impl Pruned {
    /// Nonzeros / entries of the pruned matrices.
    pub fn density(&self) -> f64 {
        let sum = |f: fn(&Part) -> usize| self.parts.iter().map(f).sum::<usize>() as f64;
        sum(|p| p.written.nonzeros) / sum(|p| p.entries).max(1.0)
    }
}

/// A folder with `model.safetensors`, `config.json` and `tokenizer.json` that is being written.
struct Folder<'a> {
    model: &'a Language,
    path: &'a Path,
    writer: Writer,
    packing: Option<Packing>,
    dtype: Dtype,
    /// The tensor that matrices are put into, its numbers, and how many are missing.
    open: Option<(String, Vec<f32>, usize)>,
    parts: Vec<Part>,
}

impl<'a> Folder<'a> {
    /// That a folder may be written.
    fn check(model: &Language, path: &Path) -> Result<()> {
        let same = |p: &Path| p.canonicalize().is_ok_and(|p| model.archive.path.canonicalize().is_ok_and(|m| m == p));
        match same(path) || same(&path.join("model.safetensors")) {
            true => Err(Error::file(path, "this is the model that is read; give another folder")),
            false => Ok(()),
        }
    }

    fn new(model: &'a Language, path: &'a Path, packing: Option<Packing>, dtype: Dtype) -> Result<Self> {
        Self::check(model, path)?;
        std::fs::create_dir_all(path)
            .map_err(|e| Error::file(path, format!("cannot write: {e}; give the name of a folder")))?;
        let writer = Writer::create(&path.join("model.safetensors"))?;
        Ok(Self { model, path, writer, packing, dtype, open: None, parts: Vec::new() })
    }

    /// Copies every tensor that is not a matrix of a block.
    fn rest(&mut self) -> Result<()> {
        let c = &self.model.config;
        let matrices: HashSet<String> =
            matrices(self.model).map(|(layer, slot)| c.family.place(c, layer, slot).name).collect();
        for (name, shape) in self.model.tensors().into_iter().filter(|(name, _)| !matrices.contains(name)) {
            match shape[..] {
                // An embedding is larger than a block.
                [_, _] => self.writer.dense_by_rows(&name, &shape, self.dtype, |rows| self.model.rows(&name, rows))?,
                _ => self.writer.dense(&name, &shape, &self.model.read(&name)?, self.dtype)?,
            }
        }
        Ok(())
    }

    /// Adds a matrix of a block; writes its tensor once all that share it are there.
    fn matrix(&mut self, layer: usize, slot: Slot, values: &[f32]) -> Result<()> {
        let c = &self.model.config;
        let (place, extents) = (c.family.place(c, layer, slot), c.extents(layer, slot));
        let shape = place.tensor();
        let len = shape.iter().product();
        let (name, mut tensor, left) = self.open.take().unwrap_or_else(|| (place.name.clone(), vec![0.0; len], len));
        assert_eq!(name, place.name, "matrices of a tensor follow each other");
        place.put(extents, values, &mut tensor);
        match left - values.len() {
            0 => {
                let written = self.writer.kernel(&name, &shape, &tensor, self.packing, self.dtype)?;
                self.parts.push(Part { name, entries: len, written });
            }
            left => self.open = Some((name, tensor, left)),
        }
        Ok(())
    }

    /// Finishes the folder. The file of weights comes last: a folder without it is not a model.
    fn finish(self, said: &serde_json::Value) -> Result<Pruned> {
        let Self { model, path, writer, parts, .. } = self;
        let mut notes: Vec<String> = writer.widened().into_iter().collect();
        let own = (model.archive.kind != "GGUF").then(|| model.archive.config.clone()).flatten();
        let config = own.map(|c| plain_config(c, &mut notes)).unwrap_or_else(|| model.config.to_json());
        let config = serde_json::to_vec_pretty(&config).unwrap_or_default();
        let tokens = match model.archive.kind == "GGUF" || model.archive.tokenizer.is_some() {
            true => model.tokens().map_err(|why| notes.push(format!("written without a tokenizer: {why}"))).ok(),
            false => None,
        };
        let tokens = tokens.map(|t| t.json);
        nnz_engine::file::write_atomically(&path.join("config.json"), &config)?;
        if let Some(json) = tokens {
            nnz_engine::file::write_atomically(&path.join("tokenizer.json"), &json)?;
        }
        Ok(Pruned { parts, bytes: writer.finish(said)?, tried: Vec::new(), singular: 0, notes })
    }
}

/// Removes the quantization settings from a configuration, since numbers are written out.
pub(crate) fn plain_config(mut config: serde_json::Value, notes: &mut Vec<String>) -> serde_json::Value {
    for key in ["quantization_config", "compression_config"] {
        if config.as_object_mut().is_some_and(|c| c.remove(key).is_some()) {
            notes.push(format!("numbers are written out, so `{key}` of config.json is left out"));
        }
    }
    config
}

/// Lists the matrices of all blocks, each with its block.
fn matrices(model: &Language) -> impl Iterator<Item = (usize, Slot)> {
    let of = move |layer| model.config.slots(layer).into_iter().map(move |slot| (layer, slot));
    (0..model.config.layers).flat_map(of)
}

/// Writes a model in Hugging Face's layout, with the zeros it has.
///
/// # Errors
/// When something cannot be read or written.
pub fn copy(
    model: &Language,
    to: &Path,
    packing: Option<Packing>,
    dtype: Dtype,
    mut tick: impl FnMut(usize),
) -> Result<Pruned> {
    let mut folder = Folder::new(model, to, packing, dtype)?;
    folder.rest()?;
    for (layer, slot) in matrices(model) {
        folder.matrix(layer, slot, &model.matrix(layer, slot)?)?;
        tick(layer + 1);
    }
    folder.finish(&serde_json::Value::Null)
}

/// Prunes the matrices of all blocks and writes the model to a folder. Every matrix is scored on its inputs after those before
/// it are pruned. Embedding, norms and head stay.
///
/// # Errors
/// When the method asks for unsupported signals, such as gradients; when it needs a text and there is none; when
/// something cannot be read or written.
pub fn prune(
    model: &Language,
    pruning: &Pruning,
    text: &Calibration,
    to: &Path,
    mut tick: impl FnMut(usize),
) -> Result<Pruned> {
    let mut work = pruning.build()?;
    let reads = work.procedure.is_some() || matches!(work.sparsifier.plan(0), Plan::Rewire(s) if s.gram.is_some());
    if reads && text.is_empty() {
        return pruning.needs("a text");
    }
    Folder::check(model, to)?;
    let all: Vec<(usize, Slot)> = matrices(model).collect();
    let first = (0..model.config.layers).map(|layer| all.partition_point(|(l, _)| *l < layer)).collect();
    let store = Store { model, edited: vec![None; all.len()], all, first, scratch: RefCell::new(None) };
    let all = All { store, text, walk: None, tried: Vec::new(), unread: BTreeSet::new(), tick: &mut tick };
    let (all, singular) = Streamed::new(all, pruning).prune(&mut work)?;
    let mut folder = Folder::new(model, to, pruning.packing, pruning.dtype)?;
    folder.rest()?;
    for (index, (layer, slot)) in matrices(model).enumerate() {
        folder.matrix(layer, slot, &all.store.read(index)?)?;
    }
    let All { tried, unread, .. } = all;
    let mut pruned = folder.finish(&serde_json::json!({"method": pruning.method.key, "options": pruning.options}))?;
    if let Some((layer, expert)) = unread.first() {
        pruned.notes.push(format!(
            "{} of the experts, the first of them number {expert} of layer {layer}, read nothing of the text; their weights were compared as if \
             all their inputs were of one size and independent. A longer text (--calibration-tokens) reaches more of them",
            unread.len()
        ));
    }
    Ok(Pruned { singular, tried, ..pruned })
}

/// What a matrix became.
enum Edited {
    /// Some of its entries are left, a bit each.
    Left { dtype: Dtype, bits: Vec<u64>, nonzeros: usize },
    /// It has other numbers, at this place of the file.
    Anew { at: u64, nonzeros: usize },
}

/// The states of a text on their way through the blocks.
struct Walk {
    states: Vec<State>,
    layer: usize,
    /// The block, with its matrices as they are now.
    block: Block,
    /// The place in the block that comes next.
    site: usize,
    /// Moments of what an expert reads there, once asked for.
    moments: Option<(usize, Moments)>,
}

/// The matrices of a model's blocks as they are now. In memory is a bit for every entry that was edited; numbers that a method changed
/// are in a file without a name.
struct Store<'a> {
    model: &'a Language,
    /// Layer and slot of every matrix.
    all: Vec<(usize, Slot)>,
    /// The first matrix of every layer.
    first: Vec<usize>,
    edited: Vec<Option<Arc<Edited>>>,
    scratch: RefCell<Option<File>>,
}

impl Store<'_> {
    /// One block, decoded, its matrices as they are now.
    fn block(&self, layer: usize) -> Result<Block> {
        self.model.edited(layer, &Weights::Dense, |index, values| self.now(self.first[layer] + index, values))
    }

    /// A matrix as it is now.
    fn read(&self, index: usize) -> Result<Vec<f32>> {
        let (layer, slot) = self.all[index];
        self.now(index, self.model.matrix(layer, slot)?)
    }

    /// A matrix as it is now, from what it is in the file.
    fn now(&self, index: usize, mut values: Vec<f32>) -> Result<Vec<f32>> {
        match self.edited[index].as_deref() {
            None => {}
            Some(Edited::Left { dtype, bits, .. }) => {
                let left = |p: usize| bits[p / 64] >> (p % 64) & 1 == 1;
                values.iter_mut().enumerate().for_each(|(p, v)| *v = if left(p) { dtype.round(*v) } else { 0.0 });
            }
            Some(Edited::Anew { at, .. }) => {
                let mut bytes = vec![0; 4 * values.len()];
                self.with_scratch(|file| {
                    file.seek(SeekFrom::Start(*at))?;
                    file.read_exact(&mut bytes)
                })?;
                let words = bytes.as_chunks::<4>().0;
                values.iter_mut().zip(words).for_each(|(v, b)| *v = f32::from_le_bytes(*b));
            }
        }
        Ok(values)
    }

    /// Keeps what a matrix became, with every number as `dtype` gives it back.
    fn put(&mut self, index: usize, before: &[f32], values: &[f32], dtype: Dtype) -> Result<()> {
        let own;
        let original = match self.edited[index] {
            None => before,
            Some(_) => {
                let (layer, slot) = self.all[index];
                own = self.model.matrix(layer, slot)?;
                &own
            }
        };
        let nonzeros = values.iter().filter(|v| **v != 0.0).count();
        let only_fewer = values.iter().zip(original).all(|(v, old)| *v == 0.0 || *v == dtype.round(*old));
        let edited = match only_fewer {
            true => {
                let mut bits = vec![0u64; values.len().div_ceil(64)];
                (0..values.len()).filter(|&p| values[p] != 0.0).for_each(|p| bits[p / 64] |= 1 << (p % 64));
                Edited::Left { dtype, bits, nonzeros }
            }
            false => {
                let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                let at = self.with_scratch(|file| {
                    let at = file.seek(SeekFrom::End(0))?;
                    file.write_all(&bytes)?;
                    Ok(at)
                })?;
                Edited::Anew { at, nonzeros }
            }
        };
        self.edited[index] = Some(Arc::new(edited));
        Ok(())
    }

    fn with_scratch<R>(&self, work: impl FnOnce(&mut File) -> std::io::Result<R>) -> Result<R> {
        let fail = |e: std::io::Error| Error::file(&std::env::temp_dir(), format!("no room for pruned matrices: {e}"));
        let mut file = self.scratch.borrow_mut();
        let file = match &mut *file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile().map_err(fail)?),
        };
        work(file).map_err(fail)
    }

    /// Nonzeros / entries.
    fn density(&self, shapes: &[Shape]) -> f64 {
        let left = |(edited, shape): (&Option<Arc<Edited>>, &Shape)| match edited.as_deref() {
            None => shape.len(),
            Some(Edited::Left { nonzeros, .. } | Edited::Anew { nonzeros, .. }) => *nonzeros,
        };
        let left: usize = self.edited.iter().zip(shapes).map(left).sum();
        left as f64 / shapes.iter().map(Shape::len).sum::<usize>() as f64
    }
}

/// The matrices of a model that a method edits, and what a text becomes on its way through them.
struct All<'a> {
    store: Store<'a>,
    text: &'a Calibration<'a>,
    walk: Option<Walk>,
    /// Density and perplexity at every evaluation.
    tried: Vec<(f64, f64)>,
    /// Layer and number of the experts that no position of the text reaches.
    unread: BTreeSet<(usize, usize)>,
    tick: &'a mut dyn FnMut(usize),
}

impl All<'_> {
    /// Layer and site of a matrix.
    fn place(&self, index: usize) -> (usize, usize) {
        let (layer, slot) = self.store.all[index];
        (layer, SITES.iter().position(|parts| parts.contains(&slot.part)).unwrap_or_default())
    }

    fn begin(&self) -> Result<Walk> {
        let (model, block) = (self.store.model, self.store.block(0)?);
        let mut states: Vec<State> = self.text.iter().map(|b| model.begin(b)).collect::<Result<_>>()?;
        states.iter_mut().for_each(|s| model.enter(&block, s));
        Ok(Walk { states, layer: 0, block, site: 0, moments: None })
    }

    /// Moments of independent inputs of size one, for an expert that reads nothing of the text.
    fn independent(&mut self, layer: usize, slot: Slot) -> Moments {
        self.unread.insert((layer, slot.expert));
        let cols = self.store.model.config.extents(layer, slot)[1];
        let square = (0..cols * cols).map(|at| if at % (cols + 1) == 0 { 1.0 } else { 0.0 }).collect();
        Moments { square, first: vec![0.0; cols], rows: 0 }
    }

    /// Goes on to the next place.
    fn step(&mut self, walk: &mut Walk) -> Result<()> {
        let model = self.store.model;
        walk.states.iter_mut().for_each(|s| model.site(&walk.block, walk.site, s, None));
        walk.moments = None;
        walk.site += 1;
        if walk.site == SITES.len() {
            (self.tick)(walk.layer + 1);
            (walk.layer, walk.site) = (walk.layer + 1, 0);
            walk.block = self.store.block(walk.layer)?;
            walk.states.iter_mut().for_each(|s| model.enter(&walk.block, s));
        }
        Ok(())
    }
}

impl Matrices for All<'_> {
    type Kept = Vec<Option<Arc<Edited>>>;

    fn shapes(&self) -> Vec<Shape> {
        let c = &self.store.model.config;
        let shape = |(layer, slot): (usize, Slot)| {
            let ([rows, cols], part) = (c.extents(layer, slot), PARTS[slot.part]);
            let name = match (c.experts_of(layer), part.strip_prefix("mlp.")) {
                (Some(e), Some(part)) if slot.expert == e.count => format!("mlp.shared_expert.{part}"),
                (Some(_), Some(part)) => format!("mlp.experts.{}.{part}", slot.expert),
                _ => part.into(),
            };
            Shape::matrix(&format!("layers.{layer}.{name}"), rows, cols)
        };
        matrices(self.store.model).map(shape).collect()
    }

    fn read(&self, index: usize) -> Result<Vec<f32>> {
        self.store.read(index)
    }

    fn moments(&mut self, index: usize) -> Result<Moments> {
        let (layer, site) = self.place(index);
        let mut walk = match self.walk.take() {
            Some(walk) if (walk.layer, walk.site) <= (layer, site) => walk,
            _ => self.begin()?,
        };
        while (walk.layer, walk.site) < (layer, site) {
            self.step(&mut walk)?;
        }
        let slot = self.store.all[index].1;
        let moments = match walk.moments.take() {
            Some((expert, moments)) if expert == slot.expert => moments,
            _ => {
                let mut moments = Moments::default();
                walk.states.iter().for_each(|s| moments.add(s.read(slot)));
                moments.mean()
            }
        };
        let moments = if moments.rows > 0 { moments } else { self.independent(layer, slot) };
        self.walk = Some(Walk { moments: Some((slot.expert, moments.clone())), ..walk });
        Ok(moments)
    }

    fn put(&mut self, index: usize, before: &[f32], values: Vec<f32>, dtype: Dtype) -> Result<()> {
        self.store.put(index, before, &values, dtype)?;
        let (layer, slot) = self.store.all[index];
        let place = self.place(index);
        match &mut self.walk {
            // What was read after it would not be what it was.
            Some(walk) if place < (walk.layer, walk.site) => self.walk = None,
            Some(walk) if walk.layer == layer => {
                let linear = self.store.model.linear(layer, slot, values, &Weights::Dense)?;
                walk.block.weights[index - self.store.first[layer]] = linear;
            }
            Some(_) => {}
            None => (self.tick)(layer + 1),
        }
        Ok(())
    }

    /// The inverse of perplexity on the text.
    fn score(&mut self) -> Result<f64> {
        let Self { store, text, tick, .. } = &mut *self;
        let edit = |layer: usize, index: usize, values| store.now(store.first[layer] + index, values);
        let found = super::edited(store.model, text, 0, edit, tick)?.0.perplexity;
        self.tried.push((self.store.density(&self.shapes()), found));
        Ok(1.0 / found)
    }

    fn keep(&self) -> Self::Kept {
        self.store.edited.clone()
    }

    fn go_back(&mut self, kept: &Self::Kept) {
        self.store.edited.clone_from(kept);
        self.walk = None;
    }
}
