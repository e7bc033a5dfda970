//! What can be measured about topologies without looking at a value: degrees, paths, components, spectra, overlap.
//!
//! Everything is O(rows + cols + nnz) memory, runs on one thread and gives the same numbers on every run. A *stack* is
//! a slice of layers, first layer first, in which the rows (outputs) of one are the columns (inputs) of the next; a
//! single layer is a stack of one. Biases and activation functions are not seen: a unit without inputs still passes
//! its bias on, and a network may be dead where its topology is alive.

use crate::{Error, Result, Rng, Topology};
use serde::Serialize;

mod tail;

pub use tail::{Alternative, Tail, tail};

/// How the connections of a layer are shared among the units of one side.
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
    /// From the number of connections of every unit.
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

/// Connections of every output (row).
pub fn fan_in(topology: &Topology) -> Degrees {
    Degrees::of(&topology.row_degrees())
}

/// Connections of every input (column).
pub fn fan_out(topology: &Topology) -> Degrees {
    Degrees::of(&topology.col_degrees())
}

/// What of a stack lies on paths from its inputs to its outputs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Paths {
    /// log10 of the number of paths from an input to an output; `None` when there is none.
    pub log10: Option<f64>,
    /// One entry a level: the inputs, the units after the first layer, ..., the outputs.
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

/// Counts paths and what lies on them. O(nnz) time; refuses a stack whose layers do not fit.
///
/// The counts are kept as logarithms, one a unit, so that neither many paths nor few leave the range of f64.
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

/// log2 Σ 2^x, minus infinity for no terms.
fn log2_sum(x: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = x.clone().fold(f64::NEG_INFINITY, f64::max);
    match largest.is_finite() {
        true => largest + x.map(|x| (x - largest).exp2()).sum::<f64>().log2(),
        false => largest,
    }
}

/// Units of every level of a stack, inputs first; refuses a stack that is none.
fn levels(layers: &[&Topology]) -> Result<Vec<usize>> {
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

/// Connected components of the undirected graph of a stack: units are nodes, connections are edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Components {
    /// Components with at least one connection.
    pub count: usize,
    /// Units of the largest of them; 0 without connections.
    pub largest: usize,
    /// Units without any connection, counted apart.
    pub isolated: usize,
}

/// Components by union-find, in almost linear time; refuses a stack whose layers do not fit.
pub fn components(layers: &[&Topology]) -> Result<Components> {
    let units = levels(layers)?;
    let mut parent: Vec<usize> = (0..units.iter().sum()).collect();
    let mut size = vec![1usize; parent.len()];
    let mut inputs = 0;
    for t in layers {
        let outputs = inputs + t.cols();
        for r in 0..t.rows() {
            for &c in t.row(r) {
                let (a, b) = (root(&mut parent, inputs + c as usize), root(&mut parent, outputs + r));
                let (large, small) = if size[a] >= size[b] { (a, b) } else { (b, a) };
                if large != small {
                    parent[small] = large;
                    size[large] += size[small];
                }
            }
        }
        inputs = outputs;
    }
    let mut found = Components { count: 0, largest: 0, isolated: 0 };
    for (unit, _) in parent.iter().enumerate().filter(|&(unit, &p)| unit == p) {
        match size[unit] {
            1 => found.isolated += 1,
            n => {
                found.count += 1;
                found.largest = found.largest.max(n);
            }
        }
    }
    Ok(found)
}

/// The representative of `unit`; halves the way to it.
fn root(parent: &mut [usize], mut unit: usize) -> usize {
    while parent[unit] != unit {
        parent[unit] = parent[parent[unit]];
        unit = parent[unit];
    }
    unit
}

/// |A ∩ B| / |A ∪ B| of the connections of two topologies of one shape; 1 when both are empty. O(nnz) time.
pub fn overlap(a: &Topology, b: &Topology) -> Result<f64> {
    if (a.rows(), a.cols()) != (b.rows(), b.cols()) {
        return Err(Error::Refused(format!(
            "cannot compare a topology of {}x{} with one of {}x{}; the overlap is between two topologies of one layer",
            a.rows(),
            a.cols(),
            b.rows(),
            b.cols()
        )));
    }
    let both = a.carry(b).flatten().count();
    let either = a.nnz() + b.nnz() - both;
    Ok(if either == 0 { 1.0 } else { both as f64 / either as f64 })
}

/// The two largest singular values of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spectrum {
    /// The largest singular value.
    pub first: f64,
    /// The second largest, equal to the first where that is double.
    pub second: f64,
    /// `first - second`.
    pub gap: f64,
    /// Products with the matrix and its transpose, one of each an iteration.
    pub iterations: usize,
    /// Whether both residuals fell below [`TOLERANCE`] within [`ITERATIONS`]. If not, the values are lower bounds.
    pub converged: bool,
}

/// How well the bipartite graph of one layer mixes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spectral {
    /// Of the 0/1 adjacency matrix B.
    pub adjacency: Spectrum,
    /// Of D_out^-1/2 B D_in^-1/2 with the degrees on the diagonals. Its largest singular value is 1, once for every
    /// component that has connections; a large gap means that no small set of units is nearly cut off.
    pub normalized: Spectrum,
    /// sqrt(d_in - 1) + sqrt(d_out - 1) with the mean fan-in and fan-out of units that have connections. A biregular
    /// graph whose second singular value is not above it is a Ramanujan graph. For other graphs it is a yardstick
    /// only. 0 without connections.
    pub ramanujan: f64,
}

/// A singular triplet counts as converged when its residual is below this fraction of its singular value, which then
/// is at most that far from a true one, and in general about the square of that far.
pub const TOLERANCE: f64 = 1e-5;

/// Most iterations spent on one singular value.
pub const ITERATIONS: usize = 1000;

/// The spectra of a layer, from a fixed random start. O(nnz) time an iteration.
///
/// Golub-Kahan-Lanczos bidiagonalization that keeps two vectors and no basis. The second singular value is the largest
/// one orthogonal to the first's right vector, which is projected out in every iteration, so a double value is found
/// twice. The rounding that makes Lanczos vectors lose orthogonality only repeats values that were found already,
/// which leaves the largest as it is.
pub fn spectral(topology: &Topology) -> Spectral {
    let (fan_in, fan_out) = (topology.row_degrees(), topology.col_degrees());
    let most = |degrees: &[usize]| degrees.iter().max().copied().unwrap_or(0) as f64;
    let ones = Matrix {
        topology,
        left: vec![1.0; topology.rows()],
        right: vec![1.0; topology.cols()],
        bound: (most(&fan_in) * most(&fan_out)).sqrt(),
    };
    let top = Largest::find(&ones, None);
    let next = Largest::find(&ones, Some(&top.right_vector(&ones)));
    let adjacency = Spectrum::of(top.value, top.iterations, top.converged, &next);

    let inverse = |degrees: Vec<usize>| -> Vec<f64> {
        degrees.into_iter().map(|d| if d == 0 { 0.0 } else { 1.0 / (d as f64).sqrt() }).collect()
    };
    let living = |degrees: &[usize]| degrees.iter().filter(|&&d| d > 0).count().max(1) as f64;
    let beyond = |degrees: &[usize]| (topology.nnz() as f64 / living(degrees) - 1.0).max(0.0).sqrt();
    let ramanujan = beyond(&fan_in) + beyond(&fan_out);
    // Here the first right vector is known: square roots of the fan-out, with singular value 1.
    let mut known: Vec<f64> = fan_out.iter().map(|&d| (d as f64).sqrt()).collect();
    normalize(&mut known);
    let normal = Matrix { topology, left: inverse(fan_in), right: inverse(fan_out), bound: 1.0 };
    let next = Largest::find(&normal, Some(&known));
    let normalized = Spectrum::of(if topology.nnz() > 0 { 1.0 } else { 0.0 }, 0, true, &next);
    Spectral { adjacency, normalized, ramanujan }
}

impl Spectrum {
    fn of(first: f64, iterations: usize, converged: bool, next: &Largest) -> Self {
        // Two values that agree up to rounding may come in either order.
        let (first, second) = (first.max(next.value), next.value.min(first));
        let (iterations, converged) = (iterations + next.iterations, converged && next.converged);
        Self { first, second, gap: first - second, iterations, converged }
    }
}

/// diag(left) B diag(right), with B the 0/1 matrix of a topology.
struct Matrix<'a> {
    topology: &'a Topology,
    left: Vec<f64>,
    right: Vec<f64>,
    /// At least the largest singular value.
    bound: f64,
}

impl Matrix<'_> {
    /// u = M v + add u
    fn times(&self, v: &[f64], add: f64, u: &mut [f64]) {
        for (r, u) in u.iter_mut().enumerate() {
            let sum: f64 = self.topology.row(r).iter().map(|&c| self.right[c as usize] * v[c as usize]).sum();
            *u = self.left[r] * sum + add * *u;
        }
    }

    /// v = Mᵀ u + add v
    fn transposed(&self, u: &[f64], add: f64, v: &mut [f64]) {
        // The sum over rows is scattered, so the scale of a column cannot wait until its sum is there.
        v.iter_mut().for_each(|v| *v *= add);
        for (r, u) in u.iter().enumerate() {
            let x = self.left[r] * u;
            self.topology.row(r).iter().for_each(|&c| v[c as usize] += self.right[c as usize] * x);
        }
    }
}

/// The largest singular value of a matrix, and how it was found.
struct Largest {
    value: f64,
    converged: bool,
    iterations: usize,
    /// Off-diagonal of the tridiagonal matrix [0 C; Cᵀ 0] in the order v₁ u₁ v₂ u₂ ..., C the bidiagonal one.
    chain: Vec<f64>,
}

/// One run of the recurrence M v_k = β_(k-1) u_(k-1) + α_k u_k, Mᵀ u_k = α_k v_k + β_k v_(k+1).
struct Bidiagonal<'a> {
    matrix: &'a Matrix<'a>,
    without: Option<&'a [f64]>,
    /// Below this a norm is rounding: the Krylov space is exhausted.
    zero: f64,
    u: Vec<f64>,
    v: Vec<f64>,
    beta: f64,
}

impl<'a> Bidiagonal<'a> {
    fn new(matrix: &'a Matrix, without: Option<&'a [f64]>) -> Self {
        // The first vectors span what their start has of a multiple singular value, so the second start must differ.
        let mut rng = Rng::stream(0, "spectrum", u64::from(without.is_some()), 0);
        let mut v: Vec<f64> = (0..matrix.right.len()).map(|_| rng.normal()).collect();
        normalize(&mut v);
        // Where one column is all there is, nothing is left beside it.
        if without.is_some_and(|w| remove(w, &mut v) < 1e-10) {
            v.fill(0.0);
        }
        normalize(&mut v);
        Self { matrix, without, zero: 1e-13 * matrix.bound, u: vec![0.0; matrix.left.len()], v, beta: 0.0 }
    }

    /// α_k and β_k; zero where the space ends.
    fn step(&mut self) -> (f64, f64) {
        self.matrix.times(&self.v, -self.beta, &mut self.u);
        let alpha = normalize(&mut self.u);
        if alpha <= self.zero {
            return (0.0, 0.0);
        }
        self.matrix.transposed(&self.u, -alpha, &mut self.v);
        if let Some(w) = self.without {
            remove(w, &mut self.v);
        }
        self.beta = normalize(&mut self.v);
        (alpha, if self.beta <= self.zero { 0.0 } else { self.beta })
    }
}

impl Largest {
    /// The largest singular value, or the largest beside the one whose right vector is `without`.
    fn find(matrix: &Matrix, without: Option<&[f64]>) -> Self {
        let mut run = Bidiagonal::new(matrix, without);
        let mut found = Self { value: 0.0, converged: false, iterations: 0, chain: Vec::new() };
        while !found.converged && found.iterations < ITERATIONS {
            let (alpha, beta) = run.step();
            found.iterations += 1;
            if alpha > 0.0 {
                found.chain.push(alpha);
            }
            // The tridiagonal problem costs O(k), so it is not solved after every step.
            if beta == 0.0 || found.iterations.is_multiple_of(8) || found.iterations == ITERATIONS {
                found.value = largest_eigenvalue(&found.chain);
                let last = *eigenvector(&found.chain, found.value).last().unwrap_or(&0.0);
                found.converged = beta * last.abs() <= TOLERANCE * found.value;
            }
            if !found.converged {
                found.chain.push(beta);
            }
        }
        if !found.converged {
            found.chain.pop();
        }
        found
    }

    /// The right singular vector, by a second run that adds up what the first one did not keep.
    fn right_vector(&self, matrix: &Matrix) -> Vec<f64> {
        let mut run = Bidiagonal::new(matrix, None);
        let mut vector = vec![0.0; run.v.len()];
        for weight in eigenvector(&self.chain, self.value).into_iter().step_by(2) {
            vector.iter_mut().zip(&run.v).for_each(|(x, v)| *x += weight * v);
            run.step();
        }
        normalize(&mut vector);
        vector
    }
}

/// Scales to unit length and returns the length; zero stays zero.
fn normalize(x: &mut [f64]) -> f64 {
    let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
    if norm > 0.0 {
        x.iter_mut().for_each(|x| *x /= norm);
    }
    norm
}

/// Takes the part along the unit vector `w` out of `x` and returns the length of the rest.
fn remove(w: &[f64], x: &mut [f64]) -> f64 {
    let along: f64 = w.iter().zip(&*x).map(|(w, x)| w * x).sum();
    x.iter_mut().zip(w).for_each(|(x, w)| *x -= along * w);
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The largest eigenvalue of the tridiagonal matrix with zeros on the diagonal and `off` beside it, by bisection.
fn largest_eigenvalue(off: &[f64]) -> f64 {
    // x is above every eigenvalue when all pivots of x I - T are positive.
    let above = |x: f64| {
        let mut pivot = x;
        pivot > 0.0
            && off.iter().all(|b| {
                pivot = x - b * b / pivot;
                pivot > 0.0
            })
    };
    let largest = off.iter().copied().fold(0.0, f64::max);
    // Between the largest entry (of a 2x2 block) and Gershgorin's bound.
    let (mut low, mut high) = (largest, 2.0 * largest);
    while high - low > 2.0 * f64::EPSILON * high {
        let middle = low + (high - low) / 2.0;
        match above(middle) {
            true => high = middle,
            false => low = middle,
        }
    }
    low + (high - low) / 2.0
}

/// The unit eigenvector of that matrix at eigenvalue `x`, by the twisted factorization of x I - T: pivots from both
/// ends meet where they are smallest, and the vector falls off from there, which is stable in both directions.
fn eigenvector(off: &[f64], x: f64) -> Vec<f64> {
    let n = off.len() + 1;
    let tiny = f64::MIN_POSITIVE.sqrt().max(f64::EPSILON * f64::EPSILON * x);
    let solid = |pivot: f64| if pivot.abs() < tiny { tiny } else { pivot };
    let (mut down, mut up) = (vec![solid(x); n], vec![solid(x); n]);
    for i in 1..n {
        down[i] = solid(x - off[i - 1] * off[i - 1] / down[i - 1]);
        up[n - 1 - i] = solid(x - off[n - 1 - i] * off[n - 1 - i] / up[n - i]);
    }
    let twist =
        (0..n).min_by(|&i, &j| (down[i] + up[i] - x).abs().total_cmp(&(down[j] + up[j] - x).abs())).unwrap_or(0);
    let mut vector = vec![0.0; n];
    vector[twist] = 1.0;
    for i in (0..twist).rev() {
        vector[i] = off[i] * vector[i + 1] / down[i];
    }
    for i in twist + 1..n {
        vector[i] = off[i - 1] * vector[i - 1] / up[i];
    }
    normalize(&mut vector);
    vector
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Pattern, Shape};

    fn random(rows: usize, cols: usize, nnz: usize, seed: u64) -> Topology {
        Pattern::Unstructured.random(&Shape::matrix("w", rows, cols), nnz, &mut Rng::stream(seed, "measure", 0, 0))
    }

    fn dense(t: &Topology) -> Vec<Vec<f64>> {
        let mut m = vec![vec![0.0; t.cols()]; t.rows()];
        t.positions().for_each(|p| m[p as usize / t.cols()][p as usize % t.cols()] = 1.0);
        m
    }

    /// Singular values, descending, by one-sided Jacobi rotations of the rows.
    fn singular_values(mut m: Vec<Vec<f64>>) -> Vec<f64> {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        for _ in 0..60 {
            for i in 0..m.len() {
                for j in i + 1..m.len() {
                    let (a, b, c) = (dot(&m[i], &m[i]), dot(&m[j], &m[j]), dot(&m[i], &m[j]));
                    if c.abs() > 1e-15 * (a * b).sqrt() {
                        let angle = 0.5 * (2.0 * c).atan2(a - b);
                        let (sin, cos) = angle.sin_cos();
                        for k in 0..m[i].len() {
                            let (x, y) = (m[i][k], m[j][k]);
                            (m[i][k], m[j][k]) = (cos * x + sin * y, cos * y - sin * x);
                        }
                    }
                }
            }
        }
        let mut values: Vec<f64> = m.iter().map(|r| dot(r, r).sqrt()).collect();
        values.sort_by(|a, b| b.total_cmp(a));
        values.resize(values.len().max(2), 0.0);
        values
    }

    fn normalized(t: &Topology) -> Vec<Vec<f64>> {
        let (rows, cols) = (t.row_degrees(), t.col_degrees());
        let mut m = dense(t);
        for (r, row) in m.iter_mut().enumerate() {
            row.iter_mut().enumerate().filter(|(_, x)| **x > 0.0).for_each(|(c, x)| {
                *x /= ((rows[r] * cols[c]) as f64).sqrt();
            });
        }
        m
    }

    #[test]
    fn degrees_match_their_definitions() {
        for (t, seed) in [(1, 0), (40, 1), (150, 2), (300, 3)] {
            let t = random(15, 20, t, seed);
            for (degrees, found) in [(t.row_degrees(), fan_in(&t)), (t.col_degrees(), fan_out(&t))] {
                let n = degrees.len() as f64;
                let x: Vec<f64> = degrees.iter().map(|&d| d as f64).collect();
                let mean = x.iter().sum::<f64>() / n;
                let differences: f64 = x.iter().flat_map(|a| x.iter().map(move |b| (a - b).abs())).sum();
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
                assert!((found.mean - mean).abs() < 1e-12);
                assert!((found.gini - differences / (2.0 * n * n * mean)).abs() < 1e-12);
                assert!((found.variation - variance.sqrt() / mean).abs() < 1e-12);
                assert_eq!(found.min, *degrees.iter().min().unwrap());
                assert_eq!(found.max, *degrees.iter().max().unwrap());
                assert_eq!(found.dead, degrees.iter().filter(|&&d| d == 0).count());
                for (d, &count) in found.histogram.iter().enumerate() {
                    assert_eq!(count, degrees.iter().filter(|&&x| x == d).count());
                }
                assert_eq!(found.histogram.len(), found.max + 1);
            }
        }
    }

    #[test]
    fn degrees_of_nothing_are_zero() {
        let none = Degrees::of(&[]);
        assert_eq!((none.mean, none.gini, none.variation, none.dead), (0.0, 0.0, 0.0, 0));
        let dead = Degrees::of(&[0, 0, 0]);
        assert_eq!((dead.mean, dead.gini, dead.variation, dead.dead), (0.0, 0.0, 0.0, 3));
    }

    /// `found[r][c]` paths from input c to output r.
    fn product(layers: &[Topology], inputs: usize) -> Vec<Vec<f64>> {
        let mut m: Vec<Vec<f64>> =
            (0..inputs).map(|i| (0..inputs).map(|j| f64::from(u8::from(i == j))).collect()).collect();
        for t in layers {
            let sum = |r: usize, c: usize| t.row(r).iter().map(|&k| m[k as usize][c]).sum();
            m = (0..t.rows()).map(|r| (0..inputs).map(|c| sum(r, c)).collect()).collect();
        }
        m
    }

    #[test]
    fn paths_match_matrix_products() {
        let mut dead = 0;
        for seed in 0..30 {
            let nnz = [2, 5, 9, 30][seed as usize % 4];
            let layers = [random(7, 6, nnz, seed), random(5, 7, nnz, seed + 100), random(8, 5, nnz, seed + 200)];
            let found = paths(&layers.iter().collect::<Vec<_>>()).unwrap();
            let total: f64 = product(&layers, 6).iter().flatten().sum();
            match found.log10 {
                Some(log) => assert!((log - total.log10()).abs() < 1e-12, "{log} {total}"),
                None => {
                    dead += 1;
                    assert_eq!(total, 0.0);
                }
            }
            let widths = [6, 7, 5, 8];
            let mut effective = 0;
            for l in 0..3 {
                let before = product(&layers[..l], 6);
                let after = product(&layers[l + 1..], widths[l + 1]);
                let from = |c: usize| before[c].iter().any(|&n| n > 0.0);
                let to = |r: usize| after.iter().any(|row| row[r] > 0.0);
                let count =
                    layers[l].positions().filter(|&p| from(p as usize % widths[l]) && to(p as usize / widths[l]));
                let count = count.count();
                assert_eq!(found.effective[l], count, "seed {seed} layer {l}");
                effective += count;
            }
            for level in 0..4 {
                let before = product(&layers[..level], 6);
                let after = product(&layers[level..], widths[level]);
                let expected = Level {
                    units: widths[level],
                    unreached: before.iter().filter(|row| row.iter().all(|&n| n == 0.0)).count(),
                    unread: (0..widths[level]).filter(|&u| after.iter().all(|row| row[u] == 0.0)).count(),
                };
                assert_eq!(found.levels[level], expected, "seed {seed} level {level}");
            }
            assert_eq!(found.effective_nonzeros, effective);
            assert!((found.effective_density - effective as f64 / (42.0 + 35.0 + 40.0)).abs() < 1e-12);
        }
        assert!(dead > 0 && dead < 30, "the sample must hold both kinds, {dead} dead");
    }

    #[test]
    fn path_counts_leave_the_range_of_floats() {
        let full = Topology::full(10, 10);
        let found = paths(&vec![&full; 400]).unwrap();
        assert!((found.log10.unwrap() - 401.0).abs() < 1e-9, "{found:?}");

        // Two parts that never meet: one is wide first and narrow later, the other the reverse. Each has 10^400 paths,
        // and half way the counts of the two are 10^400 apart.
        let block = |wide: std::ops::Range<u64>, one: u64| {
            let mut positions: Vec<u64> = wide.clone().flat_map(|r| wide.clone().map(move |c| r * 11 + c)).collect();
            positions.push(one * 11 + one);
            positions.sort_unstable();
            Topology::from_positions(11, 11, positions)
        };
        let (first, last) = (block(0..10, 10), block(1..11, 0));
        let turn = (0..10).chain((1..11).map(|r| r * 11 + 10));
        let turn = Topology::from_positions(11, 11, turn);
        let mut layers = vec![&first; 399];
        layers.push(&turn);
        layers.extend(vec![&last; 399]);
        let found = paths(&layers).unwrap();
        assert!((found.log10.unwrap() - (400.0 + 2f64.log10())).abs() < 1e-9, "{:?}", found.log10);
    }

    #[test]
    fn stacks_that_do_not_fit_are_refused() {
        let (a, b) = (Topology::full(4, 6), Topology::full(3, 5));
        for e in [paths(&[&a, &b]).unwrap_err(), components(&[&a, &b]).unwrap_err()] {
            let e = e.to_string();
            assert!(e.contains("4 outputs (4x6)") && e.contains("5 inputs (3x5)"), "{e}");
        }
        assert!(paths(&[]).is_err() && components(&[]).is_err());
        assert!(overlap(&a, &b).unwrap_err().to_string().contains("4x6"));
    }

    fn flood(layers: &[&Topology]) -> Components {
        let mut starts = vec![0];
        layers.iter().for_each(|t| starts.push(starts.last().unwrap() + t.cols()));
        let total = starts.last().unwrap() + layers.last().unwrap().rows();
        let mut next = vec![Vec::new(); total];
        for (l, t) in layers.iter().enumerate() {
            for r in 0..t.rows() {
                for &c in t.row(r) {
                    next[starts[l] + c as usize].push(starts[l + 1] + r);
                    next[starts[l + 1] + r].push(starts[l] + c as usize);
                }
            }
        }
        let mut seen = vec![false; total];
        let mut found = Components { count: 0, largest: 0, isolated: 0 };
        for start in 0..total {
            let (mut queue, mut size) = (vec![start], 0);
            while let Some(unit) = queue.pop() {
                if !std::mem::replace(&mut seen[unit], true) {
                    size += 1;
                    queue.extend(&next[unit]);
                }
            }
            match size {
                0 => {}
                1 => found.isolated += 1,
                n => {
                    found.count += 1;
                    found.largest = found.largest.max(n);
                }
            }
        }
        found
    }

    #[test]
    fn components_match_a_flood_fill() {
        for seed in 0..20 {
            let nnz = [3, 9, 15, 25][seed as usize % 4];
            let (a, b) = (random(20, 15, nnz, seed), random(12, 20, nnz, seed + 100));
            for layers in [&[&a][..], &[&a, &b][..]] {
                assert_eq!(components(layers).unwrap(), flood(layers), "seed {seed}");
            }
        }
        let full = Topology::full(3, 4);
        assert_eq!(components(&[&full]).unwrap(), Components { count: 1, largest: 7, isolated: 0 });
        let none = Topology::from_positions(3, 4, []);
        assert_eq!(components(&[&none]).unwrap(), Components { count: 0, largest: 0, isolated: 7 });
    }

    #[test]
    fn overlap_is_jaccard() {
        let (a, b) = (Topology::from_positions(2, 3, [0, 1, 4]), Topology::from_positions(2, 3, [1, 4, 5]));
        assert_eq!(overlap(&a, &b).unwrap(), 0.5);
        assert_eq!(overlap(&a, &a).unwrap(), 1.0);
        let none = Topology::from_positions(2, 3, []);
        assert_eq!(overlap(&a, &none).unwrap(), 0.0);
        assert_eq!(overlap(&none, &none).unwrap(), 1.0);
    }

    #[test]
    fn spectra_match_a_dense_decomposition() {
        let shapes =
            [(1, 1, 1), (1, 9, 4), (9, 1, 5), (2, 2, 3), (6, 4, 9), (12, 30, 60), (30, 12, 200), (60, 90, 900)];
        let many = (8..48).map(|i| (i, 10 + i * 7 % 31, 30 + i * 5));
        for (i, (rows, cols, nnz)) in shapes.into_iter().chain(many).enumerate() {
            let t = random(rows, cols, nnz, i as u64);
            let found = spectral(&t);
            for (spectrum, exact) in
                [(found.adjacency, singular_values(dense(&t))), (found.normalized, singular_values(normalized(&t)))]
            {
                assert!(spectrum.converged, "{rows}x{cols} {spectrum:?}");
                assert!((spectrum.first - exact[0]).abs() < 1e-7 * exact[0], "{rows}x{cols} {spectrum:?} {exact:?}");
                assert!((spectrum.second - exact[1]).abs() < 1e-7 * exact[0], "{rows}x{cols} {spectrum:?} {exact:?}");
                assert_eq!(spectrum.gap, spectrum.first - spectrum.second);
            }
            assert_eq!(found, spectral(&t));
        }
    }

    #[test]
    fn a_complete_graph_has_one_singular_value() {
        for (rows, cols) in [(3, 5), (100, 300)] {
            let found = spectral(&Topology::full(rows, cols));
            assert!((found.adjacency.first - ((rows * cols) as f64).sqrt()).abs() < 1e-9, "{found:?}");
            assert!(found.adjacency.second < 1e-9 && found.normalized.second < 1e-9, "{found:?}");
            let bound = ((rows - 1) as f64).sqrt() + ((cols - 1) as f64).sqrt();
            assert!((found.ramanujan - bound).abs() < 1e-12);
        }
    }

    #[test]
    fn disjoint_blocks_have_no_gap() {
        // Equal blocks: the largest singular value is double.
        let t = Topology::from_positions(8, 8, (0..64).filter(|p| p / 8 / 4 == p % 8 / 4));
        let found = spectral(&t);
        assert!(found.adjacency.gap < 1e-9 && found.normalized.gap < 1e-9, "{found:?}");
        assert!((found.adjacency.second - 4.0).abs() < 1e-9, "{found:?}");
        // Unequal blocks: only the normalized graph sees two components.
        let t = Topology::from_positions(8, 8, (0..64).filter(|p| (p / 8 < 6) == (p % 8 < 6)));
        let found = spectral(&t);
        assert!((found.adjacency.first - 6.0).abs() < 1e-9 && (found.adjacency.second - 2.0).abs() < 1e-9, "{found:?}");
        assert!(found.normalized.gap < 1e-9, "{found:?}");
        // A permutation: every singular value is 1.
        let t = Topology::from_positions(50, 50, (0..50).map(|r| r * 50 + (r * 7) % 50));
        let found = spectral(&t);
        assert!(found.adjacency.gap < 1e-9 && (found.adjacency.first - 1.0).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn an_empty_layer_has_no_spectrum() {
        for (rows, cols) in [(3, 4), (0, 4), (3, 0)] {
            let found = spectral(&Topology::from_positions(rows, cols, []));
            assert_eq!((found.adjacency.first, found.adjacency.second, found.ramanujan), (0.0, 0.0, 0.0));
            assert_eq!((found.normalized.first, found.normalized.second), (0.0, 0.0));
        }
    }

    /// A cycle of 2n nodes; the singular values of its bipartite adjacency are 2 |cos(π k / n)|, so the gap is tiny.
    fn cycle(n: u64) -> (Topology, f64) {
        let mut positions: Vec<u64> = (0..n).flat_map(|r| [r * n + r, r * n + (r + 1) % n]).collect();
        positions.sort_unstable();
        (Topology::from_positions(n as usize, n as usize, positions), 2.0 * (std::f64::consts::PI / n as f64).cos())
    }

    #[test]
    fn slow_mixing_is_still_right() {
        let (t, second) = cycle(200);
        let found = spectral(&t);
        assert!(found.adjacency.converged && found.normalized.converged, "{found:?}");
        assert!((found.adjacency.first - 2.0).abs() < 1e-6, "{found:?}");
        assert!((found.adjacency.second - second).abs() < 1e-6, "{found:?} {second}");
        assert!((found.normalized.second - second / 2.0).abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn what_did_not_converge_says_so() {
        let (t, second) = cycle(20_000);
        let found = spectral(&t);
        assert!(!found.normalized.converged && found.normalized.iterations == ITERATIONS, "{found:?}");
        let short = second / 2.0 - found.normalized.second;
        assert!((0.0..1e-4).contains(&short), "{found:?} {second}");
    }
}
