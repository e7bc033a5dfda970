//! Connections of units.

use crate::Topology;
use serde::Serialize;

/// Distribution of a layer's connections over the units of one side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Degrees {
    /// `histogram[d]` units have `d` connections; ends at the largest degree.
    pub histogram: Vec<usize>,
    /// Units without a connection: outputs nothing reaches, or inputs nothing reads.
    pub dead: usize,
    /// Connections / units.
    pub mean: f64,
    /// Fewest connections of a unit.
    pub min: usize,
    /// Most connections of a unit.
    pub max: usize,
    /// Standard deviation / mean (over the units, not a sample); 0 without connections.
    pub variation: f64,
    /// Gini coefficient: 0 when all units have equally many connections, towards 1 when one has them all.
    pub gini: f64,
}

impl Degrees {
    /// Computes the statistics from the degree of every unit.
    pub fn of(degrees: &[usize]) -> Self {
        let (min, max) = (degrees.iter().min().copied().unwrap_or(0), degrees.iter().max().copied().unwrap_or(0));
        let mut histogram = vec![0; max + 1];
        degrees.iter().for_each(|&d| histogram[d] += 1);
        let units = degrees.len() as f64;
        let total: f64 = degrees.iter().map(|&d| d as f64).sum();
        let mean = if degrees.is_empty() { 0.0 } else { total / units };
        let (mut square, mut ranked, mut below) = (0.0, 0.0, 0.0);
        for (d, &count) in histogram.iter().enumerate() {
            let (d, count) = (d as f64, count as f64);
            square += count * (d - mean).powi(2);
            // The sum of the ranks below + 1 ..= below + count, for the Gini coefficient of sorted degrees.
            ranked += d * count * (below + (count + 1.0) / 2.0);
            below += count;
        }
        let (variation, gini) = match total > 0.0 {
            true => ((square / units).sqrt() / mean, 2.0 * ranked / (units * total) - (units + 1.0) / units),
            false => (0.0, 0.0),
        };
        Self { dead: histogram[0], histogram, mean, min, max, variation, gini: gini.max(0.0) }
    }
}

/// Degrees of the outputs (rows).
pub fn fan_in(topology: &Topology) -> Degrees {
    Degrees::of(&topology.row_degrees())
}

/// Degrees of the inputs (columns).
pub fn fan_out(topology: &Topology) -> Degrees {
    Degrees::of(&topology.col_degrees())
}
