//! Costs of a layer's products when an N:M pattern prunes two of the three in a training step.

/// Multiply-adds of the forward, backward and weight products of one layer and step, N:M in the first two.
pub fn multiply_adds(rows: usize, cols: usize, batch: usize, [n, m]: [usize; 2]) -> [usize; 3] {
    let kept = |axis: usize| axis / m * n + (axis % m).min(n);
    [rows * kept(cols) * batch, cols * kept(rows) * batch, rows * cols * batch]
}

/// Cycles of the same three products on `side` × `side` units: a tile of that many results stays in the units while its sum
/// streams by, one multiply-add a unit and cycle, and 2 · side - 2 cycles fill and drain it. Sums over an N:M axis skip zeros.
pub fn cycles(rows: usize, cols: usize, batch: usize, [n, m]: [usize; 2], side: usize) -> [usize; 3] {
    let kept = |axis: usize| axis / m * n + (axis % m).min(n);
    let product = |a: usize, b: usize, sum: usize| a.div_ceil(side) * b.div_ceil(side) * (sum + 2 * side - 2);
    [product(batch, rows, kept(cols)), product(batch, cols, kept(rows)), product(rows, cols, batch)]
}
