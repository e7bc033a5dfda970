//! Language models from disk, of the families in [`FAMILIES`]: loaded by path, run, measured, pruned layer by layer and written.
//!
//! Weights stay in the mapped file until a block needs them, and one block is decoded at a time: a model may be larger than
//! memory. [`Language::pass`] runs many sequences through one block after the other.

mod attention;
pub mod choices;
mod config;
mod decoder;
mod family;
mod patterns;
pub(crate) mod prune;
mod rope;
mod sentencepiece;
mod tokens;
pub(crate) mod whole;

pub use crate::subject::Pruning;
pub use config::{Activation, Config, Experts};
pub use decoder::{Block, Generator, Language, Linear, Norm, Sampling, State, Weights};
pub use family::{FAMILIES, Family, PARTS, Place, Slot};
pub use prune::{Calibration, Part, Pruned, copy, prune};
pub use rope::{Rope, Scaling};
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
    Ok(predictions(model, blocks, 0, tick)?.0)
}

/// [`perplexity`], and for each block the `most` likeliest tokens after every position but its last, the likeliest first.
///
/// # Errors
/// As [`perplexity`].
pub fn predictions(
    model: &Language,
    blocks: &[&[u32]],
    most: usize,
    tick: impl FnMut(usize),
) -> Result<(Perplexity, Vec<Vec<u32>>)> {
    edited(model, blocks, most, |_, _, values| Ok(values), tick)
}

/// [`predictions`] with the matrices of layers as changed by `edit`, by layer and index in [`Config::slots`].
fn edited(
    model: &Language,
    blocks: &[&[u32]],
    most: usize,
    mut edit: impl FnMut(usize, usize, Vec<f32>) -> Result<Vec<f32>>,
    mut tick: impl FnMut(usize),
) -> Result<(Perplexity, Vec<Vec<u32>>)> {
    let mut states = blocks.iter().map(|b| model.begin(b)).collect::<Result<Vec<_>>>()?;
    for layer in 0..model.config.layers {
        let block = model.edited(layer, &Weights::Dense, |index, values| edit(layer, index, values))?;
        states.iter_mut().for_each(|s| model.advance(&block, s, None));
        tick(layer + 1);
    }
    let head = model.head()?;
    let (mut losses, mut likeliest) = (Vec::with_capacity(blocks.len()), Vec::new());
    for (state, tokens) in states.iter().zip(blocks) {
        let (mut loss, mut top) = (0.0, Vec::new());
        // A whole block's logits over a large vocabulary would be the largest thing in memory.
        for start in (0..tokens.len() - 1).step_by(128) {
            let end = (start + 128).min(tokens.len() - 1);
            let logits = model.logits(&head, state, start..end);
            let rows = logits.par_chunks(model.config.vocabulary);
            let parts: Vec<f64> =
                rows.clone().zip(&tokens[start + 1..=end]).map(|(row, &next)| surprise(row, next)).collect();
            loss += parts.iter().sum::<f64>();
            if most > 0 {
                top.extend(rows.flat_map_iter(|row| largest(row, most)).collect::<Vec<u32>>());
            }
        }
        losses.push(loss / (tokens.len() - 1) as f64);
        likeliest.push(top);
    }
    let mean = losses.iter().sum::<f64>() / losses.len().max(1) as f64;
    let length = blocks.first().map_or(0, |b| b.len());
    Ok((Perplexity { perplexity: mean.exp(), blocks: losses, length }, likeliest))
}

/// -ln p of a token by the scores of all.
fn surprise(scores: &[f32], token: u32) -> f64 {
    let top = scores.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    let sum: f64 = scores.iter().map(|&v| f64::from(v - top).exp()).sum();
    sum.ln() - f64::from(scores[token as usize] - top)
}

/// The `most` tokens with the largest scores, the largest first, of equals the first.
fn largest(scores: &[f32], most: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    let better = |a: &u32, b: &u32| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b));
    if most < order.len() {
        order.select_nth_unstable_by(most, better);
        order.truncate(most);
    }
    order.sort_unstable_by(better);
    order
}

/// Agreement of the next tokens of two models, by block: the share of positions at which the likeliest is the same, and the mean share of
/// the `most` likeliest that both have.
pub fn agreement(one: &[Vec<u32>], other: &[Vec<u32>], most: usize) -> Vec<[f64; 2]> {
    let of = |(a, b): (&Vec<u32>, &Vec<u32>)| {
        let pairs = || a.chunks_exact(most).zip(b.chunks_exact(most));
        let count = pairs().count().max(1) as f64;
        let same = pairs().filter(|(a, b)| a[0] == b[0]).count() as f64;
        let both = pairs().map(|(a, b)| a.iter().filter(|t| b.contains(t)).count()).sum::<usize>() as f64;
        [same / count, both / most as f64 / count]
    };
    one.iter().zip(other).map(of).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_come_first_and_agree_with_themselves() {
        let scores = [0.5, 2.0, -1.0, 2.0, 1.0];
        assert_eq!(largest(&scores, 3), [1, 3, 4]);
        assert_eq!(largest(&scores, 9), [1, 3, 4, 0, 2]);
        let (one, other) = (vec![vec![1, 3, 4, 0, 2, 1]], vec![vec![1, 4, 3, 2, 5, 6]]);
        assert_eq!(agreement(&one, &one, 3), [[1.0, 1.0]]);
        assert_eq!(agreement(&one, &other, 3), [[0.5, 4.0 / 6.0]]);
        // By hand: e^2 / (e^0.5 + 2 e^2 + e^-1 + e).
        let p = 2f64.exp() / (0.5f64.exp() + 2.0 * 2f64.exp() + (-1f64).exp() + 1f64.exp());
        assert!((surprise(&scores, 1) + p.ln()).abs() < 1e-6);
    }
}
