//! Structured sparse projection of gradients: every K steps the r rows of largest |∂L/∂W| (Euclidean) of each weight are
//! chosen, G_C = Pᵀ G with P a selection of rows; Adam keeps moments only for these rows and moves only them (algorithm 1,
//! top-r).
//!
//! Cost: optimizer state for r rows of each weight; the gradient is computed whole.
//!
//! Deviations: the paper's public repository holds no code, so K = 200 and r / m are choices; moments of rows that stay
//! chosen are kept, new ones begin at zero, and each row's are corrected by its own count of updates; the engine computes the
//! whole gradient before rows are taken from it. A step is Adam's whatever the run's optimizer, which updates all else.

use nnz_core::{Build, Dense, Edit, Leaf, Method, Parametrization, Result, Setting, Shape, Topology, MethodInstance, above, at_least, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "grass",
    "Grass",
    "Keeps optimizer state for the rows of largest gradient alone, and moves only them until the next choice.",
)
.revised(2)
.quick("every = 40");

options! {
    /// r / m: share of the rows that are trained at a time.
    share: f64 = 0.25 => above(0.0).at_most(1.0),
    /// K: steps between two choices.
    every: u64 = 200 => at_least(1.0),
    /// β₁
    beta1: f64 = 0.9 => at_least(0.0).below(1.0),
    /// β₂
    beta2: f64 = 0.999 => at_least(0.0).below(1.0),
}


impl Build for Options {
    fn build(self, _: &Setting) -> Result<MethodInstance> {
        Ok(MethodInstance { parametrization: Some(Box::new(Grass(self))), ..MethodInstance::from(Dense) })
    }
}

struct Grass(Options);

const EPSILON: f64 = 1e-8;

/// Selects the rows of largest Euclidean norm, ascending, ties to the first.
fn top_rows(gradient: &[f64], cols: usize, count: usize) -> Vec<usize> {
    let norms: Vec<f64> = gradient.chunks(cols.max(1)).map(|r| r.iter().map(|g| g * g).sum()).collect();
    let mut order: Vec<usize> = (0..norms.len()).collect();
    order.sort_by(|&a, &b| norms[b].total_cmp(&norms[a]).then(a.cmp(&b)));
    order.truncate(count);
    order.sort_unstable();
    order
}

/// Packs both moments of an entry into the 64 bits of a leaf's number, 32 each, as optimizers of f32 runs keep them.
fn pack(m: f64, v: f64) -> f64 {
    f64::from_bits(u64::from((m as f32).to_bits()) << 32 | u64::from((v as f32).to_bits()))
}

fn unpack(both: f64) -> [f64; 2] {
    let bits = both.to_bits();
    [bits >> 32, bits & 0xffff_ffff].map(|b| f64::from(f32::from_bits(b as u32)))
}

impl Parametrization for Grass {
    /// The weight; steps since the choice; chosen rows; updates of each since it was chosen; moments of their entries.
    fn leaves(&self, shape: &Shape, weight: &[f64]) -> Vec<Leaf> {
        let leaf = |name, dims, values| Leaf { name, dims, values, decays: false };
        let none = |name| leaf(name, vec![0], Vec::new());
        let weight = leaf("weight", vec![shape.rows, shape.cols], weight.to_vec());
        vec![weight, leaf("since", vec![1], vec![0.0]), none("rows"), none("updates"), none("moments")]
    }

    fn weight(&self, _: u64, leaves: &[Leaf]) -> Vec<f64> {
        leaves[0].values.clone()
    }

    fn vjp(&self, _: u64, _: &[Leaf], gradient: &[f64]) -> Vec<Vec<f64>> {
        vec![gradient.to_vec()]
    }

    fn phases(&self) -> u32 {
        1
    }

    fn step(&self, _: u32, leaves: &mut Vec<Leaf>, gradient: &[f64], lr: f64) {
        let [weight, since, rows, updates, moments] = &mut leaves[..] else { return };
        let (height, cols) = (weight.dims[0], weight.dims[1]);
        let Options { share, every, beta1, beta2 } = self.0;
        if rows.values.is_empty() || since.values[0] >= every as f64 {
            let wanted = ((share * height as f64).round() as usize).clamp(1, height);
            let chosen = top_rows(gradient, cols, wanted);
            let old: Vec<usize> = rows.values.iter().map(|&r| r as usize).collect();
            let kept: Vec<Option<usize>> = chosen.iter().map(|r| old.binary_search(r).ok()).collect();
            let of = |at: &Option<usize>| match at {
                Some(at) => moments.values[at * cols..(at + 1) * cols].to_vec(),
                None => vec![0.0; cols],
            };
            moments.values = kept.iter().flat_map(of).collect();
            updates.values = kept.iter().map(|at| at.map_or(0.0, |at| updates.values[at])).collect();
            rows.values = chosen.iter().map(|&r| r as f64).collect();
            since.values[0] = 0.0;
            (rows.dims, updates.dims, moments.dims) = (vec![wanted], vec![wanted], vec![wanted, cols]);
        }
        since.values[0] += 1.0;
        for (at, &r) in rows.values.iter().enumerate() {
            updates.values[at] += 1.0;
            let [c1, c2] = [beta1, beta2].map(|b| 1.0 - b.powf(updates.values[at]));
            let row = r as usize * cols..(r as usize + 1) * cols;
            let entries = weight.values[row.clone()].iter_mut().zip(&gradient[row]);
            for ((w, g), both) in entries.zip(&mut moments.values[at * cols..]) {
                let [m, v] = unpack(*both);
                let (m, v) = (beta1 * m + (1.0 - beta1) * g, beta2 * v + (1.0 - beta2) * g * g);
                *w -= lr * (m / c1) / ((v / c2).sqrt() + EPSILON);
                *both = pack(m, v);
            }
        }
    }

    /// To the end of the run.
    fn until(&self) -> u64 {
        u64::MAX
    }

    fn freeze(&self, shape: &Shape, leaves: &[Leaf]) -> Edit {
        Edit::Set { topology: Topology::full(shape.rows, shape.cols), values: leaves[0].values.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steepest_rows_move_and_are_remembered() {
        let p = Grass(Options { share: 0.5, every: 2, ..Options::default() });
        let mut leaves = p.leaves(&Shape::matrix("a", 4, 2), &[0.0; 8]);
        // Rows 1 and 3 are steepest; then row 0, which is not chosen until two steps are over.
        let first = [0.1, 0.0, 3.0, 0.0, 0.2, 0.0, 0.0, -2.0];
        let second = [9.0, 9.0, 3.0, 0.0, 0.2, 0.0, 0.0, -2.0];
        p.step(0, &mut leaves, &first, 0.1);
        assert_eq!((&leaves[2].values[..], &leaves[4].dims[..]), (&[1.0, 3.0][..], &[2, 2][..]));
        let w = &leaves[0].values;
        assert!((w[2] + 0.1).abs() < 1e-6 && (w[7] - 0.1).abs() < 1e-6, "Adam's first step is the rate: {w:?}");
        assert!([0, 1, 4, 5].iter().all(|&i| w[i] == 0.0));
        p.step(0, &mut leaves, &second, 0.1);
        assert_eq!(leaves[2].values, [1.0, 3.0]);
        let moment = unpack(leaves[4].values[0])[0];
        p.step(0, &mut leaves, &second, 0.1);
        assert_eq!((&leaves[2].values[..], &leaves[3].values[..]), (&[0.0, 1.0][..], &[1.0, 3.0][..]));
        let kept = unpack(leaves[4].values[2])[0];
        assert!((kept - (0.9 * moment + 0.1 * 3.0)).abs() < 1e-6, "row 1 keeps its moment");
    }

    /// With every row chosen it is Adam, however often they are chosen again.
    #[test]
    fn all_rows_are_adam() {
        let p = Grass(Options { share: 1.0, every: 7, ..Options::default() });
        let mut leaves = p.leaves(&Shape::matrix("a", 1, 1), &[1.0]);
        let (mut w, mut m, mut v) = (1.0f64, 0.0, 0.0);
        for t in 1..50 {
            let g = [2.0 * leaves[0].values[0]];
            p.step(0, &mut leaves, &g, 0.01);
            let g = 2.0 * w;
            (m, v) = (0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g);
            let (a, b) = (1.0 - 0.9f64.powi(t), 1.0 - 0.999f64.powi(t));
            w -= 0.01 * (m / a) / ((v / b).sqrt() + 1e-8);
            assert!((w - leaves[0].values[0]).abs() < 1e-6);
        }
    }

    #[test]
    fn moments_share_a_number() {
        for (m, v) in [(0.0, 0.0), (-1.5, 2.25), (1e-30, 3e-38), (-3e38, 3e38)] {
            assert_eq!(unpack(pack(m, v)), [f64::from(m as f32), f64::from(v as f32)]);
            assert!(pack(m, v).is_finite());
        }
    }
}
