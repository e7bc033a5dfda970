//! Pruning of a language model, block by block: what is in memory is one block and what the calibration text became up to it.

use super::decoder::SITES;
use super::family::PARTS;
use super::{Language, State, Weights};
use crate::prune::Essential;
use crate::{Error, Result};
use nnz_core::{Edit, Kind, Method, Pattern, Plan, Setting, Shape, Target, Topology};
use nnz_engine::Moments;
use nnz_formats::{Dtype, Packing, Writer, Written};
use std::collections::BTreeMap;
use std::path::Path;
use toml::{Table, Value};

/// How a model is to be pruned and written.
pub struct Pruning<'a> {
    /// The method.
    pub method: &'static Method,
    /// Its options.
    pub options: &'a Table,
    /// Key of all random choices.
    pub seed: u64,
    /// How matrices are written; the smallest usual way when left out.
    pub packing: Option<Packing>,
    /// How numbers are written.
    pub dtype: Dtype,
}

/// Blocks of tokens, and where they come from.
pub type Calibration<'a> = [&'a [u32]];

/// What became of one tensor of matrices.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its entries, zero or not.
    pub entries: usize,
    /// As it was written.
    pub written: Written,
}

/// What became of a model.
#[derive(Clone, Debug)]
pub struct Pruned {
    /// The matrices of the blocks, which are what is pruned.
    pub parts: Vec<Part>,
    /// Bytes of the file of weights.
    pub bytes: u64,
    /// Density and perplexity of what a search for the essential sparsity tried; the first is the whole model.
    pub tried: Vec<(f64, f64)>,
    /// Matrices whose inputs had singular second moments: fewer positions than inputs, or an input that is always zero.
    pub singular: usize,
}

impl Pruned {
    /// Nonzeros / entries of the pruned matrices.
    pub fn density(&self) -> f64 {
        let sum = |f: fn(&Part) -> usize| self.parts.iter().map(f).sum::<usize>() as f64;
        sum(|p| p.written.nonzeros) / sum(|p| p.entries).max(1.0)
    }
}

/// A folder with `model.safetensors`, `config.json` and `tokenizer.json`, under way.
struct Folder<'a> {
    model: &'a Language,
    path: &'a Path,
    writer: Writer,
    packing: Option<Packing>,
    dtype: Dtype,
    /// The tensor that matrices are put into, and the numbers it has yet to get.
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

    /// Every tensor that is no matrix of a block, as it is.
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

    /// A matrix of a block; written once all that share its tensor are there.
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

    /// The file of weights is the last to be there: a folder without it is no model.
    fn finish(self, said: &serde_json::Value) -> Result<Pruned> {
        let Self { model, path, writer, parts, .. } = self;
        let own = (model.archive.kind != "GGUF").then(|| model.archive.config.clone()).flatten();
        let config = serde_json::to_vec_pretty(&own.unwrap_or_else(|| model.config.to_json())).unwrap_or_default();
        let tokens = match model.archive.kind == "GGUF" || model.archive.tokenizer.is_some() {
            true => Some(model.tokens()?.json),
            false => None,
        };
        nnz_engine::file::write_atomically(&path.join("config.json"), &config)?;
        if let Some(json) = tokens {
            nnz_engine::file::write_atomically(&path.join("tokenizer.json"), &json)?;
        }
        Ok(Pruned { parts, bytes: writer.finish(said)?, tried: Vec::new(), singular: 0 })
    }
}

/// Block and part of every matrix of a model.
fn matrices(model: &Language) -> impl Iterator<Item = (usize, usize)> {
    (0..model.config.layers).flat_map(|layer| (0..PARTS.len()).filter(|&p| model.has(p)).map(move |p| (layer, p)))
}

/// Writes a model as Hugging Face lays it out, with the zeros it has.
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

/// Prunes the matrices of all blocks and writes the model to a folder. Every matrix is weighed by what it reads behind those
/// that are pruned already. Embedding, norms and head stay.
///
/// # Errors
/// When the method asks for what is not measured here, such as gradients; when it needs a text and there is none; when
/// something cannot be read or written.
pub fn prune(
    model: &Language,
    pruning: &Pruning,
    text: &Calibration,
    to: &Path,
    mut tick: impl FnMut(usize),
) -> Result<Pruned> {
    if pruning.method.key == "essential-sparsity" {
        return essential(model, pruning, text, to, tick);
    }
    let plan = Planned::new(model, pruning)?;
    if plan.reads && text.is_empty() {
        return Err(needs_text(pruning));
    }
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
            let rows: usize = states.iter().map(|s| s.read.rows_cols().0).sum();
            let flat = moments.as_ref().is_some_and(|m| {
                let cols = m.first.len();
                rows < cols || (0..cols).any(|j| m.square[j * cols + j] == 0.0)
            });
            for part in parts.filter(|&p| model.has(p)) {
                singular += usize::from(flat);
                let mut values = plan.prune(layer, part, model.part(layer, part)?, moments.as_ref())?;
                values.iter_mut().for_each(|v| *v = pruning.dtype.round(*v));
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

fn needs_text(pruning: &Pruning) -> Error {
    Error::Refused(format!("{} weighs weights by what they read; give a text with --calibrate", pruning.method.key))
}

/// Prunes by |w| as far as the inverse of perplexity on the text stays within the tolerance.
fn essential(
    model: &Language,
    pruning: &Pruning,
    text: &Calibration,
    to: &Path,
    mut tick: impl FnMut(usize),
) -> Result<Pruned> {
    if text.is_empty() {
        return Err(needs_text(pruning));
    }
    let options = Essential::of(pruning.options)?;
    let magnitude = crate::REGISTRY.find("magnitude")?;
    let points = options.grid()?;
    let told: Vec<Table> = points.iter().map(|&(density, pattern)| options.magnitude(density, pattern)).collect();
    let at = |options| Pruning { method: magnitude, options, ..*pruning };
    let mut knee = crate::prune::Knee::default();
    let mut tried = Vec::new();
    for point in 0..=points.len() {
        let found = match point {
            0 => super::perplexity(model, text, &mut tick)?,
            _ => {
                let pruning = at(&told[point - 1]);
                let plan = Planned::new(model, &pruning)?;
                super::edited_perplexity(model, text, |layer, part, v| plan.prune(layer, part, v, None), &mut tick)?
            }
        };
        tried.push((point.checked_sub(1).map_or(1.0, |p| points[p].0), found.perplexity));
        if !knee.tell(1.0 / found.perplexity, options.tolerance) {
            break;
        }
    }
    let pruned = match knee.within(options.tolerance) {
        0 => copy(model, to, pruning.packing, pruning.dtype, tick)?,
        n => prune(model, &at(&told[n - 1]), text, to, tick)?,
    };
    Ok(Pruned { tried, ..pruned })
}

/// A method made ready for single matrices.
struct Planned<'a> {
    pruning: &'a Pruning<'a>,
    options: Table,
    /// Whether it looks at inputs.
    reads: bool,
    /// Entries that each matrix keeps under one threshold for all of them.
    counts: Option<BTreeMap<(usize, usize), usize>>,
    extents: [[usize; 2]; PARTS.len()],
}

impl<'a> Planned<'a> {
    fn new(model: &Language, pruning: &'a Pruning<'a>) -> Result<Self> {
        let method = pruning.method;
        let mut options = pruning.options.clone();
        let mut full = method.defaults();
        full.extend(options.clone());
        let text = |key: &str| full.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let pattern: Pattern = text("pattern").parse().unwrap_or_default();
        let mut counts = None;
        if full.contains_key("at") {
            options.insert("at".into(), "0 run".into());
        }
        if let Some(fixed) = pattern.fixed_density()
            && !options.contains_key("density")
        {
            options.insert("density".into(), fixed.into());
        }
        if text("distribution") == "global" {
            if pattern.fixed_density().is_none() {
                if method.key != "magnitude" || pattern != Pattern::Unstructured {
                    return Err(Error::Refused(format!(
                        "{} with one budget for the whole model needs the scores of all its weights at once; give \
                         --distribution uniform",
                        method.key
                    )));
                }
                let density = full.get("density").and_then(Value::as_float).unwrap_or(1.0);
                counts = Some(threshold(model, density)?);
            }
            options.insert("distribution".into(), "uniform".into());
        }
        let mut plan = Self { pruning, options, reads: false, counts, extents: model.config.extents() };
        let work = plan.build(None)?;
        let refuse = |what: &str| {
            Err(Error::Refused(format!(
                "{} {what}; magnitude, wanda, sparsegpt, dsnot and essential-sparsity prune a language model block by block",
                method.key
            )))
        };
        if work.procedure.is_some() || work.parametrization.is_some() || work.sparsifier.kind() != Kind::Weights {
            return refuse("does more than remove weights of a trained model");
        }
        match work.sparsifier.plan(0) {
            Plan::Rewire(s) if s.gradient || s.zeros > 0.0 || s.curvature.is_some() || s.flow => {
                return refuse("asks for gradients of the whole model");
            }
            Plan::Rewire(s) => plan.reads = s.gram.is_some(),
            _ => return refuse("does not prune a trained model"),
        }
        let shapes: Vec<Shape> = (0..PARTS.len()).filter(|&p| model.has(p)).map(|p| plan.shape(p)).collect();
        work.sparsifier.check(&shapes.iter().collect::<Vec<_>>())?;
        Ok(plan)
    }

    fn shape(&self, part: usize) -> Shape {
        Shape::matrix(PARTS[part], self.extents[part][0], self.extents[part][1])
    }

    /// The method for one matrix.
    fn build(&self, share: Option<f64>) -> Result<nnz_core::Work> {
        let mut options = self.options.clone();
        if let Some(share) = share {
            options.insert("density".into(), share.into());
        }
        let setting = Setting { seed: self.pruning.seed, steps: 0, steps_per_epoch: 1 };
        Ok(self.pruning.method.build(&options, &setting)?)
    }

    /// A matrix with its zeros.
    fn prune(&self, layer: usize, part: usize, values: Vec<f32>, moments: Option<&Moments>) -> Result<Vec<f32>> {
        let shape = &self.shape(part);
        let share = self.counts.as_ref().map(|c| c[&(layer, part)] as f64 / shape.len() as f64);
        let mut work = self.build(share)?;
        let all = Topology::full(shape.rows, shape.cols);
        let (gram, mean): (&[f64], &[f64]) = moments.map_or((&[], &[]), |m| (&m.square, &m.first));
        let target = Target { gram, mean, ..Target::new(0, shape, &all, &values) };
        let edits = work.sparsifier.rewire(0, &[target])?;
        let mut kept = vec![0.0; values.len()];
        match &edits[0] {
            Edit::Keep => return Ok(values),
            Edit::Rewire { topology, .. } => topology.positions().for_each(|p| kept[p as usize] = values[p as usize]),
            Edit::Set { topology, values } => {
                topology.positions().zip(values).for_each(|(p, v)| kept[p as usize] = *v as f32);
            }
            Edit::Replace { .. } => {
                return Err(Error::Refused(format!(
                    "{} replaces layers, which is not done here",
                    self.pruning.method.key
                )));
            }
        }
        Ok(kept)
    }
}

/// Entries of each matrix above one threshold of |w|, ties by position, so that a share `density` of all stays. In two
/// passes over the file: the bits of |w| order as |w| does, so the upper and then the lower sixteen are counted.
fn threshold(model: &Language, density: f64) -> Result<BTreeMap<(usize, usize), usize>> {
    let bits = |v: f32| v.abs().to_bits();
    let mut upper = vec![0u64; 1 << 16];
    for (layer, part) in matrices(model) {
        model.part(layer, part)?.iter().for_each(|&v| upper[(bits(v) >> 16) as usize] += 1);
    }
    let total: u64 = upper.iter().sum();
    let mut wanted = (density * total as f64).round() as u64;
    // Down from the largest to the one that the threshold lies in; what is wanted of it.
    let cut = |counts: &[u64], wanted: &mut u64| {
        let mut at = counts.len() - 1;
        while at > 0 && *wanted > counts[at] {
            *wanted -= counts[at];
            at -= 1;
        }
        at as u32
    };
    let high = cut(&upper, &mut wanted);
    let mut lower = vec![0u64; 1 << 16];
    for (layer, part) in matrices(model) {
        let values = model.part(layer, part)?;
        values.iter().filter(|v| bits(**v) >> 16 == high).for_each(|v| lower[(bits(*v) & 0xffff) as usize] += 1);
    }
    let least = high << 16 | cut(&lower, &mut wanted);
    let mut counts = BTreeMap::new();
    for (layer, part) in matrices(model) {
        let values = model.part(layer, part)?;
        let ties = (values.iter().filter(|v| bits(**v) == least).count() as u64).min(wanted);
        wanted -= ties;
        let count = values.iter().filter(|v| bits(**v) > least).count() + ties as usize;
        if count == 0 {
            return Err(Error::Refused(format!(
                "one threshold for the whole model would leave nothing of {} of layer {layer}; give --distribution uniform",
                PARTS[part]
            )));
        }
        counts.insert((layer, part), count);
    }
    Ok(counts)
}
