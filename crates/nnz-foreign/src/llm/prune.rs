//! Pruning of a language model, block by block: memory holds one block and the activations of the calibration text before it.

use super::decoder::SITES;
use super::family::PARTS;
use super::planned::{Matrices, Planned, Pruning, is_singular};
use super::{Language, State, Weights};
use crate::{Error, Result};
use nnz_core::{Grid, Knee, Shape};
use nnz_engine::Moments;
use nnz_formats::{Dtype, Packing, Writer, Written};
use std::path::Path;

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
    fn new(model: &'a Language, path: &'a Path, packing: Option<Packing>, dtype: Dtype) -> Result<Self> {
        let file = path.join("model.safetensors");
        let same = |p: &Path| p.canonicalize().is_ok_and(|p| model.archive.path.canonicalize().is_ok_and(|m| m == p));
        if same(path) || same(&file) {
            return Err(Error::file(path, "this is the model that is read; give another folder"));
        }
        std::fs::create_dir_all(path)
            .map_err(|e| Error::file(path, format!("cannot write: {e}; give the name of a folder")))?;
        let writer = Writer::create(&file)?;
        Ok(Self { model, path, writer, packing, dtype, open: None, parts: Vec::new() })
    }

    /// Copies every tensor that is not a matrix of a block.
    fn rest(&mut self) -> Result<()> {
        let matrices: Vec<String> = matrices(self.model).map(|(layer, part)| self.tensor(layer, part)).collect();
        for (name, shape) in self.model.tensors().into_iter().filter(|(name, _)| !matrices.contains(name)) {
            self.writer.dense(&name, &shape, &self.model.read(&name)?, self.dtype)?;
        }
        Ok(())
    }

    fn tensor(&self, layer: usize, part: usize) -> String {
        self.model.config.family.place(&self.model.config, layer, part).name
    }

    /// Adds a matrix of a block; writes its tensor once all that share it are there.
    fn matrix(&mut self, layer: usize, part: usize, values: &[f32]) -> Result<()> {
        let c = &self.model.config;
        let (place, extents) = (c.family.place(c, layer, part), c.extents()[part]);
        let len = place.shape[0] * place.shape[1];
        let (name, mut tensor, left) = self.open.take().unwrap_or_else(|| (place.name.clone(), vec![0.0; len], len));
        assert_eq!(name, place.name, "matrices of a tensor follow each other");
        place.put(extents, values, &mut tensor);
        match left - values.len() {
            0 => {
                let written = self.writer.matrix(&name, place.shape[0], &tensor, self.packing, self.dtype)?;
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

/// Lists block and part of every matrix of a model.
fn matrices(model: &Language) -> impl Iterator<Item = (usize, usize)> {
    (0..model.config.layers).flat_map(|layer| (0..PARTS.len()).filter(|&p| model.has(p)).map(move |p| (layer, p)))
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
    for (layer, part) in matrices(model) {
        folder.matrix(layer, part, &model.part(layer, part)?)?;
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
    tick: impl FnMut(usize),
) -> Result<Pruned> {
    if let Some(grid) = pruning.grid()? {
        return search(model, pruning, &grid, text, to, tick);
    }
    let plan = Planned::new(&All(model), pruning)?;
    if plan.reads && text.is_empty() {
        return Err(pruning.needs("a text"));
    }
    write(model, pruning, &plan, text, to, tick)
}

/// Writes the model with the matrices of all blocks pruned by a plan.
fn write(
    model: &Language,
    pruning: &Pruning,
    plan: &Planned,
    text: &Calibration,
    to: &Path,
    mut tick: impl FnMut(usize),
) -> Result<Pruned> {
    let all = All(model);
    let mut states: Vec<State> =
        if plan.reads { text.iter().map(|b| model.begin(b)).collect::<Result<_>>()? } else { Vec::new() };
    let mut folder = Folder::new(model, to, pruning.packing, pruning.dtype)?;
    folder.rest()?;
    let mut singular = 0;
    for layer in 0..model.config.layers {
        let mut block = model.block(layer, &Weights::Dense)?;
        states.iter_mut().for_each(|s| model.enter(&block, s));
        for (site, parts) in SITES.into_iter().enumerate() {
            let moments = plan.reads.then(|| {
                let mut moments = Moments::default();
                states.iter().for_each(|s| moments.add(&s.read));
                moments.mean()
            });
            let is_singular_here = moments.as_ref().is_some_and(is_singular);
            for part in parts.filter(|&p| model.has(p)) {
                singular += usize::from(is_singular_here);
                let values = plan.rounded(all.index(layer, part), model.part(layer, part)?, moments.as_ref())?;
                folder.matrix(layer, part, &values)?;
                block.weights[part] = Some(model.linear(layer, part, values, &Weights::Dense)?);
            }
            states.iter_mut().for_each(|s| model.site(&block, site, s, None));
        }
        tick(layer + 1);
    }
    let pruned = folder.finish(&serde_json::json!({"method": pruning.method.key, "options": pruning.options}))?;
    Ok(Pruned { singular, ..pruned })
}

/// Prunes by |w| as far as the inverse of perplexity on the text stays within the tolerance.
fn search(
    model: &Language,
    pruning: &Pruning,
    grid: &Grid,
    text: &Calibration,
    to: &Path,
    mut tick: impl FnMut(usize),
) -> Result<Pruned> {
    if text.is_empty() {
        return Err(pruning.needs("a text"));
    }
    let (mut knee, mut tried, all) = (Knee::default(), Vec::new(), All(model));
    let plan = |point: usize| Planned::by_magnitude(&all, pruning, grid.budgets[point]);
    for point in 0..=grid.budgets.len() {
        let found = match point.checked_sub(1) {
            None => super::perplexity(model, text, &mut tick)?,
            Some(at) => {
                let plan = plan(at)?;
                let edit = |layer, part, v| plan.prune(all.index(layer, part), v, None);
                super::edited_perplexity(model, text, edit, &mut tick)?
            }
        };
        tried.push((point.checked_sub(1).map_or(1.0, |at| grid.budgets[at].density), found.perplexity));
        if !knee.tell(1.0 / found.perplexity, grid.tolerance) {
            break;
        }
    }
    let pruned = match knee.within(grid.tolerance) {
        0 => copy(model, to, pruning.packing, pruning.dtype, tick)?,
        n => write(model, pruning, &plan(n - 1)?, &[], to, tick)?,
    };
    Ok(Pruned { tried, ..pruned })
}

/// The matrices of a model's blocks, one after the other.
struct All<'a>(&'a Language);

impl All<'_> {
    fn at(&self, index: usize) -> (usize, usize) {
        let parts: Vec<usize> = (0..PARTS.len()).filter(|&p| self.0.has(p)).collect();
        (index / parts.len(), parts[index % parts.len()])
    }

    fn index(&self, layer: usize, part: usize) -> usize {
        let before = |until: usize| (0..until).filter(|&p| self.0.has(p)).count();
        layer * before(PARTS.len()) + before(part)
    }
}

impl Matrices for All<'_> {
    fn shapes(&self) -> Vec<Shape> {
        let extents = self.0.config.extents();
        let shape = |(layer, part): (usize, usize)| {
            let [rows, cols] = extents[part];
            Shape::matrix(&format!("{} of layer {layer}", PARTS[part]), rows, cols)
        };
        matrices(self.0).map(shape).collect()
    }

    fn read(&self, index: usize) -> Result<Vec<f32>> {
        let (layer, part) = self.at(index);
        self.0.part(layer, part)
    }
}
