//! Prunes a trained network layer by layer, each to reconstruct its old output: minimize |W X - Ŵ X|² over values and
//! mask. With H = X Xᵀ + λ I and H⁻¹ = Uᵀ U (Cholesky, U upper), columns are visited from left to right; in each block of
//! columns the entries of smallest w² / U_jj² are pruned (eq. 4 and algorithm 1), and the error of each,
//! e = w / U_jj, is compensated in the columns to its right: W_:k -= e U_jk.
//!
//! Cost: for each layer a pass over `rows` rows and O(cols²) memory for H, O(cols³) for its inverse and O(rows · cols²) for
//! the update.
//!
//! Deviations: the layers share a budget exactly, so that the last block of a layer absorbs the rounding; no
//! quantization.

use nalgebra::DMatrix;
use super::Sequential;
use nnz_core::{Budget, Build, DistributionKind, Edit, Error, Method, Pattern, Period, Result, Setting, Target, Topology, MethodInstance, options};
use rayon::prelude::*;

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "sparsegpt",
    "SparseGPT",
    "Prunes a trained network layer by layer, and lets the weights that stay make up for those that go.",
);

options! {
    #[flatten]
    /// Density and pattern, `unstructured` or N:M.
    budget: Budget = Budget::new(0.5, DistributionKind::Uniform),
    /// When a training run prunes.
    at: Period = Period::Run(1.0),
    /// Columns whose mask is chosen together.
    block: usize = 128,
    /// λ divided by the mean of the diagonal of X Xᵀ.
    damp: f64 = 0.01,
    /// Training rows over which H is taken.
    rows: usize = 1024,
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        if !matches!(self.budget.pattern, Pattern::Unstructured | Pattern::Nm { .. }) {
            return Err(Error::Refused(format!(
                "sparsegpt prunes with pattern unstructured or N:M, such as 2:4, not {}",
                self.budget.pattern
            )));
        }
        let Self { budget, at, block, damp, rows } = self;
        let prune = move |t: &Target, count: usize| edit(t, count, budget.pattern, block, damp);
        Ok(Sequential::new("sparsegpt", budget, at, rows, setting, prune)?.into())
    }
}

/// Selects `count` entries of a layer, and computes their new values.
fn edit(t: &Target, count: usize, pattern: Pattern, block: usize, damp: f64) -> Result<Edit> {
    let (rows, cols) = (t.shape.rows, t.shape.cols);
    let mut weight = vec![0.0; rows * cols];
    t.topology.positions().zip(t.values).for_each(|(p, &v)| weight[p as usize] = f64::from(v));
    let upper = factor(t.gram, cols, damp).ok_or_else(|| {
        Error::Refused(format!("what `{}` reads has second moments that are no finite numbers", t.shape.name))
    })?;
    let kept = sweep(&mut weight, &upper, cols, block, count, pattern);
    let topology = Topology::from_positions(rows, cols, (0..weight.len()).filter(|&p| kept[p]).map(|p| p as u64));
    let values = topology.positions().map(|p| weight[p as usize]).collect();
    Ok(Edit::Set { topology, values })
}

/// U of H⁻¹ = Uᵀ U with H = `gram` + damp · mean(diagonal) · I, row-major `[cols, cols]`. If H cannot be inverted, damp
/// grows tenfold until it can; an input that is always zero counts as if it were one, on its own. O(cols³).
fn factor(gram: &[f64], cols: usize, damp: f64) -> Option<Vec<f64>> {
    let gram = DMatrix::from_row_slice(cols, cols, gram);
    let mean = gram.diagonal().mean();
    let invert = |damp: f64| {
        let mut h = gram.clone();
        for i in 0..cols {
            h[(i, i)] = if h[(i, i)] == 0.0 { 1.0 } else { h[(i, i)] + damp * mean };
        }
        h.cholesky()?.inverse().cholesky()
    };
    let more = std::iter::successors(Some(damp.max(1e-8)), |d| Some(10.0 * d)).take_while(|d| *d <= 10.0);
    let lower = std::iter::once(damp).chain(more).find_map(invert)?.unpack();
    // The columns of L are the rows of U.
    Some(lower.as_slice().to_vec())
}

/// Prunes `weight`, row-major, to `count` entries and updates the rest; returns which entries stay. O(rows · cols²).
fn sweep(weight: &mut [f64], upper: &[f64], cols: usize, block: usize, count: usize, pattern: Pattern) -> Vec<bool> {
    let (rows, mut kept, mut left) = (weight.len() / cols, vec![false; weight.len()], count);
    let mut start = 0;
    while start < cols {
        let end = (start + block.max(1)).min(cols);
        let score = |w: &[f64], r: usize, j: usize| (w[r * cols + j] / upper[j * cols + j]).powi(2);
        if pattern == Pattern::Unstructured {
            let quota = (left as f64 * (end - start) as f64 / (cols - start) as f64).round() as usize;
            left -= quota;
            let places = (0..rows).flat_map(|r| (start..end).map(move |j| (r, j)));
            let mut order: Vec<(f64, usize)> = places.map(|(r, j)| (score(weight, r, j), r * cols + j)).collect();
            order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            order.iter().take(quota).for_each(|o| kept[o.1] = true);
        }
        let spread = |(row, kept): (&mut [f64], &mut [bool])| {
            let mut errors = vec![0.0; end - start];
            for j in start..end {
                if let Pattern::Nm { n, m, .. } = pattern
                    && j % m == 0
                {
                    let mut group: Vec<usize> = (j..(j + m).min(cols)).collect();
                    group.sort_by(|&a, &b| score(row, 0, b).total_cmp(&score(row, 0, a)).then(a.cmp(&b)));
                    group.iter().take(n).for_each(|&k| kept[k] = true);
                }
                if !kept[j] {
                    let e = row[j] / upper[j * cols + j];
                    errors[j - start] = e;
                    let u = &upper[j * cols + j..j * cols + end];
                    row[j..end].iter_mut().zip(u).for_each(|(w, u)| *w -= e * u);
                    row[j] = 0.0;
                }
            }
            for (e, j) in errors.iter().zip(start..end).filter(|(e, _)| **e != 0.0) {
                let u = &upper[j * cols + end..(j + 1) * cols];
                row[end..].iter_mut().zip(u).for_each(|(w, u)| *w -= e * u);
            }
        };
        weight.par_chunks_mut(cols).zip(kept.par_chunks_mut(cols)).for_each(spread);
        start = end;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::Rng;

    const ROWS: usize = 12;
    const COLS: usize = 40;

    /// Correlated inputs, and a random layer.
    fn layer() -> (Vec<f64>, Vec<f64>) {
        let mut rng = Rng::stream(0, "layer", 0, 0);
        let mut x = vec![0.0; 200 * COLS];
        for row in x.chunks_mut(COLS) {
            let common = rng.normal();
            row.iter_mut().for_each(|v| *v = 0.7 * common + rng.normal());
        }
        let dot = |a: usize, b: usize| x.chunks(COLS).map(|r| r[a] * r[b]).sum::<f64>() / 200.0;
        let gram = (0..COLS * COLS).map(|k| dot(k / COLS, k % COLS)).collect();
        ((0..ROWS * COLS).map(|_| rng.normal()).collect(), gram)
    }

    /// Σ over rows of (w - v)ᵀ G (w - v).
    fn loss(w: &[f64], v: &[f64], gram: &[f64]) -> f64 {
        let rows = w.chunks(COLS).zip(v.chunks(COLS));
        rows.map(|(w, v)| {
            let d: Vec<f64> = w.iter().zip(v).map(|(a, b)| a - b).collect();
            (0..COLS * COLS).map(|k| d[k / COLS] * gram[k] * d[k % COLS]).sum::<f64>()
        })
        .sum()
    }

    #[test]
    fn moments_that_cannot_be_inverted_are_damped() {
        let (mut weight, mut gram) = layer();
        // The second input is the first again, the third is always zero.
        (0..COLS).for_each(|k| gram[COLS + k] = gram[k]);
        (0..COLS).for_each(|k| gram[k * COLS + 1] = gram[k * COLS]);
        (0..COLS).for_each(|k| (gram[2 * COLS + k], gram[k * COLS + 2]) = (0.0, 0.0));
        assert!(DMatrix::from_row_slice(COLS, COLS, &gram).cholesky().is_none());
        let upper = factor(&gram, COLS, 0.0).unwrap();
        let kept = sweep(&mut weight, &upper, COLS, 16, ROWS * COLS / 2, Pattern::Unstructured);
        assert!(weight.iter().all(|w| w.is_finite()) && kept.iter().filter(|k| **k).count() == ROWS * COLS / 2);
        assert!(factor(&[0.0; 16], 4, 0.01).is_some(), "nothing but zeros was read");
        gram[0] = f64::NAN;
        assert!(factor(&gram, COLS, 0.01).is_none());
    }

    #[test]
    fn blocks_equal_the_loop_over_single_columns() {
        let (weight, gram) = layer();
        for (block, pattern) in
            [(16, Pattern::Unstructured), (40, Pattern::Unstructured), (8, Pattern::Nm { n: 2, m: 4, flat: false })]
        {
            let mut lazy = weight.clone();
            let upper = factor(&gram, COLS, 0.01).unwrap();
            let kept = sweep(&mut lazy, &upper, COLS, block, ROWS * COLS / 2, pattern);
            assert_eq!(kept.iter().filter(|k| **k).count(), ROWS * COLS / 2);
            // The definition: the error of a column is spread over all later columns at once, each row with the inverse
            // Hessian of the remaining columns, recomputed by inversion.
            let mut h = DMatrix::from_row_slice(COLS, COLS, &gram);
            let mean = h.diagonal().mean();
            (0..COLS).for_each(|i| h[(i, i)] += 0.01 * mean);
            let mut eager = weight.clone();
            for j in 0..COLS {
                let inverse = h.view((j, j), (COLS - j, COLS - j)).into_owned().try_inverse().unwrap();
                for r in (0..ROWS).filter(|r| !kept[r * COLS + j]) {
                    let e = eager[r * COLS + j] / inverse[(0, 0)];
                    (j..COLS).for_each(|k| eager[r * COLS + k] -= e * inverse[(0, k - j)]);
                }
            }
            let far = lazy.iter().zip(&eager).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(far < 1e-4, "block {block} {pattern}: {far}");
        }
    }

    #[test]
    fn lies_between_exact_least_squares_and_leaving_values_alone() {
        let (weight, gram) = layer();
        let mut pruned = weight.clone();
        let kept =
            sweep(&mut pruned, &factor(&gram, COLS, 1e-6).unwrap(), COLS, 16, ROWS * COLS / 2, Pattern::Unstructured);
        // For a given mask the best values of a row are v_S = w_S + G_SS⁻¹ G_SR w_R.
        let g = DMatrix::from_row_slice(COLS, COLS, &gram);
        let mut exact = vec![0.0; ROWS * COLS];
        for r in 0..ROWS {
            let (s, rest): (Vec<usize>, Vec<usize>) = (0..COLS).partition(|j| kept[r * COLS + j]);
            let inner = DMatrix::from_fn(s.len(), s.len(), |a, b| g[(s[a], s[b])]);
            let cross =
                DMatrix::from_fn(s.len(), 1, |a, _| rest.iter().map(|&j| g[(s[a], j)] * weight[r * COLS + j]).sum());
            let shift = inner.try_inverse().unwrap() * cross;
            s.iter().enumerate().for_each(|(a, &j)| exact[r * COLS + j] = weight[r * COLS + j] + shift[(a, 0)]);
        }
        let plain: Vec<f64> = weight.iter().zip(&kept).map(|(w, k)| if *k { *w } else { 0.0 }).collect();
        let [bound, found, alone] = [&exact, &pruned, &plain].map(|v| loss(&weight, v, &gram));
        println!("least squares {bound:.3}, sparsegpt {found:.3}, values left alone {alone:.3}");
        assert!(bound <= found + 1e-9 && found < 0.85 * alone, "{bound} {found} {alone}");
    }
}
