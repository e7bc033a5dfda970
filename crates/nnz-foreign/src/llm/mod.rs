//! Language models from disk, of the families of Llama, GPT-2, OPT and GPT-NeoX: loaded by path, run, measured, pruned layer by layer and written.
//!
//! Weights stay in the mapped file until a block needs them, and one block is decoded at a time: a model may be larger than
//! memory. [`Language::pass`] runs many sequences through one block after the other.

mod config;
mod decoder;
mod family;
mod patterns;
pub(crate) mod prune;
mod sentencepiece;
mod tokens;
pub(crate) mod whole;

pub use crate::subject::Pruning;
pub use config::{Activation, Config};
pub use decoder::{Block, Generator, Language, Linear, Norm, State, Weights};
pub use family::{Family, PARTS, Place};
pub use prune::{Calibration, Part, Pruned, copy, prune};
pub use tokens::{Tokens, text};

use crate::{Error, Result};
use nnz_formats::Archive;
use rayon::prelude::*;
use std::path::Path;

/// Whether a path is a model of another program, or packed weights, instead of a network that nnz trained.
pub fn foreign(path: &Path) -> bool {
    let known = |e: &std::ffi::OsStr| ["gguf", "pth", "pt", "bin", "npz"].iter().any(|k| e == *k);
    if path.is_dir() || path.extension().is_some_and(known) {
        return true;
    }
    // A damaged network of ours is still one of ours, and refused as such.
    let packed = |text: &str| {
        let document: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        document["format"].as_str().is_some_and(|f| f.starts_with("nnz-weights-"))
    };
    let ours = |a: Archive| a.metadata.get("nnz").and_then(|v| v.text()).is_some_and(|text| !packed(text));
    path.extension().is_some_and(|e| e == "safetensors") && Archive::open(path).is_ok_and(|a| !ours(a))
}

impl From<nnz_formats::Error> for Error {
    fn from(e: nnz_formats::Error) -> Self {
        Self::File { path: e.path, why: e.why }
    }
}

/// Perplexity of a model on a text, by blocks.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Perplexity {
    /// exp of the mean of -ln p over every predicted token.
    pub perplexity: f64,
    /// Mean of -ln p of each block.
    pub blocks: Vec<f64>,
    /// Tokens per block; all but its first are predicted.
    pub length: usize,
}

/// Runs blocks of equal length, each independently, through a model. `tick` is called for every layer.
///
/// # Errors
/// When a weight cannot be read, or a block contains a token that the model lacks.
pub fn perplexity(model: &Language, blocks: &[&[u32]], tick: impl FnMut(usize)) -> Result<Perplexity> {
    edited_perplexity(model, blocks, |_, _, values| Ok(values), tick)
}

/// [`perplexity`] with the matrices of layers as changed by `edit`, by layer and index in [`PARTS`].
fn edited_perplexity(
    model: &Language,
    blocks: &[&[u32]],
    mut edit: impl FnMut(usize, usize, Vec<f32>) -> Result<Vec<f32>>,
    mut tick: impl FnMut(usize),
) -> Result<Perplexity> {
    let mut states = blocks.iter().map(|b| model.begin(b)).collect::<Result<Vec<_>>>()?;
    for layer in 0..model.config.layers {
        let block = model.edited(layer, &Weights::Dense, |part, values| edit(layer, part, values))?;
        states.iter_mut().for_each(|s| model.advance(&block, s, None));
        tick(layer + 1);
    }
    let head = model.head()?;
    let mut losses = Vec::with_capacity(blocks.len());
    for (state, tokens) in states.iter().zip(blocks) {
        let mut loss = 0.0;
        // A whole block's logits over a large vocabulary would be the largest thing in memory.
        for start in (0..tokens.len() - 1).step_by(128) {
            let end = (start + 128).min(tokens.len() - 1);
            let logits = model.logits(&head, state, start..end);
            let width = model.config.vocabulary;
            let parts: Vec<f64> = logits
                .par_chunks(width)
                .zip(&tokens[start + 1..=end])
                .map(|(row, &next)| {
                    let top = row.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
                    let sum: f64 = row.iter().map(|&v| f64::from(v - top).exp()).sum();
                    sum.ln() - f64::from(row[next as usize] - top)
                })
                .collect();
            loss += parts.iter().sum::<f64>();
        }
        losses.push(loss / (tokens.len() - 1) as f64);
    }
    let mean = losses.iter().sum::<f64>() / losses.len().max(1) as f64;
    Ok(Perplexity { perplexity: mean.exp(), blocks: losses, length: blocks.first().map_or(0, |b| b.len()) })
}

/// The first `count` blocks of `length` tokens of a text.
///
/// # Errors
/// When the text is shorter than one block.
pub fn blocks<'a>(tokens: &'a [u32], length: usize, count: usize, place: &Path) -> Result<Vec<&'a [u32]>> {
    if length < 2 {
        return Err(Error::Refused(format!("blocks of {length} tokens predict nothing; take at least 2")));
    }
    let blocks: Vec<&[u32]> = tokens.chunks_exact(length).take(count).collect();
    match blocks.is_empty() {
        true => Err(Error::file(
            place,
            format!(
                "{} tokens are shorter than one block of {length}; give a longer text or shorter blocks",
                tokens.len()
            ),
        )),
        false => Ok(blocks),
    }
}
