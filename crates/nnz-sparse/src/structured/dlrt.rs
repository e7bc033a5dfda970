//! Train on the manifold of low-rank matrices: W = U S Vᵀ, computed as U (S (Vᵀ x)). A step takes K = U S down the gradient of
//! W = K Vᵀ and L = V Sᵀ down that of W = U Lᵀ, makes [U | K] and [V | L] orthogonal, writes S in these bases, takes it down the
//! gradient of W = U S Vᵀ, and cuts S by its singular values to the smallest rank with √(Σ_{i>r} σ_i²) ≤ θ |S| (algorithm 1).
//!
//! Cost: three passes a step through the factors, (rows + cols) rank + rank² multiply-adds a layer and input, and O((rows + cols)
//! rank²) for the bases; memory (rows + cols) rank a layer. W is never formed where layers compute by factors (all but
//! convolutions with groups and transposed ones); its first values are, once.
//!
//! Deviations: plain gradient steps without momentum or decay. At the end of the run a linear layer becomes two thin ones wherever
//! that has fewer weights.

use nalgebra::DMatrix;
use nnz_core::{Build, Dense, Edit, Leaf, Method, MethodInstance, Moment, Parametrization, Period, Result, Setting, Shape, Variable, Weight, above, at_least, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "dlrt",
    "DLRT",
    "Trains low-rank factors of every layer along the manifold of their rank, and finds the ranks as it goes.",
)
.revised(2)
.quick("rank = 6");

options! {
    /// θ: the share of S, in Euclidean norm, that a step may cut off.
    tolerance: f64 = 0.1 => above(0.0).below(1.0),
    /// Initial rank, at most half of the smaller side.
    rank: usize = 64 => at_least(1.0),
    /// Time at which factors become two plain layers.
    until: Period = Period::Run(1.0),
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        let factors = Factors { tolerance: self.tolerance, rank: self.rank, until: self.until.steps(setting) };
        Ok(MethodInstance { parametrization: Some(Box::new(factors)), ..MethodInstance::from(Dense) })
    }
}

struct Factors {
    tolerance: f64,
    rank: usize,
    until: u64,
}

type Matrix = DMatrix<f64>;

fn matrix(leaf: &Leaf) -> Matrix {
    Matrix::from_row_slice(leaf.dims[0], leaf.dims[1], &leaf.values)
}

fn rows(m: &Matrix) -> Vec<f64> {
    m.transpose().as_slice().to_vec()
}

fn leaf(name: &'static str, m: &Matrix) -> Leaf {
    Leaf { name, dims: vec![m.nrows(), m.ncols()], values: rows(m), decays: false }
}

fn three([u, s, vt]: [&Matrix; 3]) -> Vec<Leaf> {
    vec![leaf("u", u), leaf("s", s), leaf("vt", vt)]
}

/// Computes an orthonormal basis of the columns of both.
fn basis(a: &Matrix, b: &Matrix) -> Matrix {
    let both = Matrix::from_fn(a.nrows(), a.ncols() + b.ncols(), |i, j| {
        if j < a.ncols() { a[(i, j)] } else { b[(i, j - a.ncols())] }
    });
    both.qr().q()
}

/// The smallest rank, at least one, that leaves at most `tolerance` of all singular values, which descend.
fn rank(sigma: &[f64], tolerance: f64) -> usize {
    let total: f64 = sigma.iter().map(|s| s * s).sum();
    let mut tail = 0.0;
    let cut = sigma.iter().rev().take_while(|s| {
        tail += **s * **s;
        tail <= tolerance * tolerance * total
    });
    (sigma.len() - cut.count()).max(1)
}

impl Parametrization for Factors {
    /// The nearest matrix of the starting rank.
    fn leaves(&self, shape: &Shape, weight: &[f64]) -> Vec<Leaf> {
        let w = Matrix::from_row_slice(shape.rows, shape.cols, weight);
        let svd = w.svd(true, true);
        let (Some(u), Some(vt)) = (svd.u, svd.v_t) else { return Vec::new() };
        let r = self.rank.min(shape.rows.min(shape.cols) / 2).max(1);
        let s = Matrix::from_diagonal(&svd.singular_values.rows(0, r).into_owned());
        three([&u.columns(0, r).into_owned(), &s, &vt.rows(0, r).into_owned()])
    }

    fn weight(&self, at: Moment, _: &Shape, leaves: &[Variable]) -> Weight {
        let (u, s, vt) = (&leaves[0], &leaves[1], &leaves[2]);
        Weight::Factors(match at.phase {
            // K = U S, then Lᵀ = S Vᵀ, then S.
            0 => vec![u.dot(s).tracked(), (**vt).clone()],
            1 => vec![(**u).clone(), s.dot(vt).tracked()],
            _ => vec![(**u).clone(), s.tracked(), (**vt).clone()],
        })
    }

    fn phases(&self) -> u32 {
        3
    }

    /// Between the first two phases a fourth leaf keeps the new basis of columns.
    fn step(&self, phase: u32, leaves: &mut Vec<Leaf>, gradient: &[f64], lr: f64) {
        let [u, s, vt] = [0, 1, 2].map(|i| matrix(&leaves[i]));
        match phase {
            0 => {
                let k = &u * &s - lr * Matrix::from_row_slice(u.nrows(), s.ncols(), gradient);
                leaves.push(leaf("basis", &basis(&u, &k)));
            }
            1 => {
                let lt = &s * &vt - lr * Matrix::from_row_slice(s.nrows(), vt.ncols(), gradient);
                let (wide, tall) = (matrix(&leaves[3]), basis(&vt.transpose(), &lt.transpose()));
                let inner = wide.transpose() * u * s * (vt * &tall);
                *leaves = three([&wide, &inner, &tall.transpose()]);
            }
            _ => {
                let inner = &s - lr * Matrix::from_row_slice(s.nrows(), s.ncols(), gradient);
                let svd = inner.svd(true, true);
                let (Some(p), Some(qt)) = (svd.u, svd.v_t) else { return };
                let r = rank(svd.singular_values.as_slice(), self.tolerance);
                let s = Matrix::from_diagonal(&svd.singular_values.rows(0, r).into_owned());
                *leaves = three([&(u * p.columns(0, r)), &s, &(qt.rows(0, r) * vt)]);
            }
        }
    }

    fn until(&self) -> u64 {
        self.until
    }

    fn freeze(&self, _: &Shape, leaves: &[Leaf]) -> Option<Edit> {
        let left = matrix(&leaves[0]) * matrix(&leaves[1]);
        Some(Edit::Replace { left: rows(&left), right: leaves[2].values.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_engine::pulled;
    use nnz_core::Rng;

    fn product(leaves: &[Leaf]) -> Matrix {
        matrix(&leaves[0]) * matrix(&leaves[1]) * matrix(&leaves[2])
    }

    fn random(rows: usize, cols: usize, seed: u64) -> Matrix {
        let mut rng = Rng::stream(seed, "matrix", 0, 0);
        Matrix::from_fn(rows, cols, |_, _| rng.normal())
    }

    fn factors(tolerance: f64) -> Factors {
        Factors { tolerance, rank: 4, until: 0 }
    }

    #[test]
    fn no_rank_is_refused() {
        let setting = Setting { seed: 0, steps: 1, steps_per_epoch: 1 };
        let none = Options { rank: 0, ..Options::default() }.checked(&setting).err().map(|e| e.to_string());
        assert!(none.is_some_and(|e| e.contains("rank")));
        assert!(Options::default().build(&setting).is_ok());
    }

    /// Descends to a matrix of rank 2 from a start of rank 4: it is found, and so is its rank.
    #[test]
    fn finds_a_matrix_and_its_rank() {
        let goal = random(12, 2, 0) * random(2, 9, 1);
        let p = factors(0.02);
        let shape = Shape::matrix("w", 12, 9);
        let mut leaves = p.leaves(&shape, random(12, 9, 2).as_slice());
        assert_eq!(leaves[1].dims, [4, 4]);
        for _ in 0..400 {
            for phase in 0..3 {
                // The gradient of |W - goal|² / 2, pulled back to what is tracked.
                let slope = product(&leaves) - &goal;
                let gradient = pulled(&p, (0, phase), &shape, &leaves, &rows(&slope)).leaves.remove(0);
                p.step(phase, &mut leaves, &gradient, 0.3);
            }
            let u = matrix(&leaves[0]);
            let off = (u.transpose() * &u - Matrix::identity(u.ncols(), u.ncols())).norm();
            assert!(off < 1e-9, "U is not orthonormal: {off}");
        }
        assert_eq!(leaves[1].dims, [2, 2]);
        let far = (product(&leaves) - &goal).norm();
        assert!(far < 1e-6 * goal.norm(), "{far}");
    }

    /// K and L go down the gradient G of W as G V and Gᵀ U do.
    #[test]
    fn gradients_are_those_of_the_factors() {
        let (p, shape, g) = (factors(0.1), Shape::matrix("w", 6, 8), random(6, 8, 7));
        let leaves = p.leaves(&shape, random(6, 8, 3).as_slice());
        let [u, _, vt] = [0, 1, 2].map(|i| matrix(&leaves[i]));
        let found = |phase: u32| pulled(&p, (0, phase), &shape, &leaves, &rows(&g)).leaves.remove(0);
        for (phase, expected) in [&g * vt.transpose(), u.transpose() * &g, u.transpose() * &g * vt.transpose()].iter().enumerate() {
            let far = found(phase as u32).iter().zip(rows(expected)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(far < 1e-12, "phase {phase}: {far}");
        }
    }

    #[test]
    fn the_cut_is_the_smallest_that_is_allowed() {
        assert_eq!(rank(&[3.0, 4.0e-1, 3.0e-1], 0.17), 1);
        assert_eq!(rank(&[3.0, 4.0e-1, 3.0e-1], 0.16), 2);
        assert_eq!(rank(&[1.0, 1.0, 1.0], 0.1), 3);
        assert_eq!(rank(&[0.0, 0.0], 0.1), 1);
    }

    /// New bases hold the old ones, so that the first two phases change the coordinates and not the weight.
    #[test]
    fn the_first_phases_leave_the_weight() {
        let (p, shape) = (factors(0.1), Shape::matrix("w", 10, 14));
        let mut leaves = p.leaves(&shape, random(10, 14, 5).as_slice());
        let before = product(&leaves);
        p.step(0, &mut leaves, random(4, 10, 6).as_slice(), 0.1);
        p.step(1, &mut leaves, random(14, 4, 8).as_slice(), 0.1);
        assert_eq!(leaves[1].dims, [8, 8]);
        let far = (product(&leaves) - before).amax();
        assert!(far < 1e-9, "{far}");
    }
}
