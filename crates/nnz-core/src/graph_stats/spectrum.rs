//! Singular values of a topology.

use crate::{Rng, Topology};
use serde::Serialize;

/// The two largest singular values of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spectrum {
    /// The largest singular value.
    pub first: f64,
    /// The second largest, equal to the first if that is double.
    pub second: f64,
    /// `first - second`.
    pub gap: f64,
    /// Products with the matrix and its transpose, one of each per iteration.
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

/// Computes the spectra of a layer, from a fixed random start. O(nnz) time per iteration.
///
/// Golub-Kahan-Lanczos bidiagonalization that keeps two vectors and no basis. The second singular value is the largest
/// one orthogonal to the first's right vector, which is projected out in every iteration, so a double value is found
/// twice. The rounding that makes Lanczos vectors lose orthogonality only repeats values that were found already,
/// which leaves the largest unchanged.
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
    /// Upper bound of the largest singular value.
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
        // The first vectors span all that their start has of a multiple singular value, so the second start differs.
        let mut rng = Rng::stream(0, "spectrum", u64::from(without.is_some()), 0);
        let mut v: Vec<f64> = (0..matrix.right.len()).map(|_| rng.normal()).collect();
        normalize(&mut v);
        // A single column leaves nothing orthogonal to it.
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
    /// Finds the largest singular value, or the largest orthogonal to the right vector `without`.
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

    /// Computes the right singular vector, by a second run that adds up what the first one did not keep.
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

/// Scales to unit length and returns the original length; zero stays zero.
fn normalize(x: &mut [f64]) -> f64 {
    let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
    if norm > 0.0 {
        x.iter_mut().for_each(|x| *x /= norm);
    }
    norm
}

/// Removes the component along the unit vector `w` from `x` and returns the length of the rest.
fn remove(w: &[f64], x: &mut [f64]) -> f64 {
    let along: f64 = w.iter().zip(&*x).map(|(w, x)| w * x).sum();
    x.iter_mut().zip(w).for_each(|(x, w)| *x -= along * w);
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The largest eigenvalue of the tridiagonal matrix with a zero diagonal and off-diagonal `off`, by bisection.
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
