//! Paths through a stack.

use crate::{Error, Result, Topology};
use serde::Serialize;

/// Paths of a stack from its inputs to its outputs, and the connections on them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Paths {
    /// log10 of the number of paths from an input to an output; `None` when there is none.
    pub log10: Option<f64>,
    /// One element per level: the inputs, the units after the first layer, ..., the outputs.
    pub levels: Vec<Level>,
    /// Connections of each layer that lie on at least one path.
    pub effective: Vec<usize>,
    /// Their sum over the layers.
    pub effective_nonzeros: usize,
    /// Their sum / the entries of all layers.
    pub effective_density: f64,
}

/// The units between two layers of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Level {
    /// Units.
    pub units: usize,
    /// Units no input has a path to. An input reaches itself.
    pub unreached: usize,
    /// Units without a path to any output. An output reads itself.
    pub unread: usize,
}

/// Counts paths and the units and connections on them. O(nnz) time; refuses a stack whose layers do not fit.
///
/// The counts are kept as logarithms, one per unit, so that they never leave the range of f64.
pub fn paths(layers: &[&Topology]) -> Result<Paths> {
    let units = levels(layers)?;
    // log2 of the number of paths from any input to each unit; minus infinity where there is none.
    let mut counts = vec![vec![0.0; units[0]]];
    for (l, t) in layers.iter().enumerate() {
        let count = |r| log2_sum(t.row(r).iter().map(|&c| counts[l][c as usize]));
        let next = (0..t.rows()).map(count).collect();
        counts.push(next);
    }
    let total = log2_sum(counts[layers.len()].iter().copied());
    let unreached = |l: usize| counts[l].iter().filter(|c| !c.is_finite()).count();
    let mut levels: Vec<Level> =
        units.iter().enumerate().map(|(l, &units)| Level { units, unreached: unreached(l), unread: 0 }).collect();
    let mut effective = vec![0; layers.len()];
    let mut read = vec![true; units[layers.len()]];
    for (l, t) in layers.iter().enumerate().rev() {
        let mut inputs = vec![false; t.cols()];
        for r in (0..t.rows()).filter(|&r| read[r]) {
            t.row(r).iter().for_each(|&c| inputs[c as usize] = true);
            effective[l] += t.row(r).iter().filter(|&&c| counts[l][c as usize].is_finite()).count();
        }
        levels[l].unread = inputs.iter().filter(|r| !**r).count();
        read = inputs;
    }
    let effective_nonzeros = effective.iter().sum();
    let entries: f64 = layers.iter().map(|t| t.rows() as f64 * t.cols() as f64).sum();
    Ok(Paths {
        log10: total.is_finite().then_some(total * std::f64::consts::LOG10_2),
        levels,
        effective,
        effective_nonzeros,
        effective_density: effective_nonzeros as f64 / entries.max(1.0),
    })
}

/// log2 Σ 2^x; minus infinity for no terms.
fn log2_sum(x: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = x.clone().fold(f64::NEG_INFINITY, f64::max);
    match largest.is_finite() {
        true => largest + x.map(|x| (x - largest).exp2()).sum::<f64>().log2(),
        false => largest,
    }
}

/// Counts the units of every level of a stack, inputs first; refuses layers that do not form one.
pub(super) fn levels(layers: &[&Topology]) -> Result<Vec<usize>> {
    let Some(first) = layers.first() else {
        return Err(Error::Refused("a stack needs at least one layer, got none".into()));
    };
    for (l, pair) in layers.windows(2).enumerate() {
        let (below, above) = (pair[0], pair[1]);
        if below.rows() != above.cols() {
            return Err(Error::Refused(format!(
                "layer {l} has {} outputs ({}x{}), but layer {} has {} inputs ({}x{}); a stack needs layers that feed \
                 one another directly, so measure the stretches that fit, or each layer alone",
                below.rows(),
                below.rows(),
                below.cols(),
                l + 1,
                above.cols(),
                above.rows(),
                above.cols(),
            )));
        }
    }
    Ok([first.cols()].into_iter().chain(layers.iter().map(|t| t.rows())).collect())
}
