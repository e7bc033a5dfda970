//! Statistics of topologies that need no values: degrees, paths, components, spectra, overlap.
//!
//! Everything is O(rows + cols + nnz) memory, runs on one thread and gives the same numbers on every run. A *stack* is
//! a slice of layers, first layer first, in which the rows (outputs) of one are the columns (inputs) of the next; a
//! single layer is a stack of one. Biases and activation functions are not seen: a unit without inputs still passes
//! its bias on, and a network may be dead where its topology is alive.

use crate::{Error, Result, Topology};

mod components;
mod degrees;
mod paths;
mod spectrum;
mod tail;

pub use components::{Components, components};
pub use degrees::{Degrees, fan_in, fan_out};
pub use paths::{Level, Paths, paths};
pub use spectrum::{ITERATIONS, Spectral, Spectrum, TOLERANCE, spectral};
pub use tail::{Alternative, Tail, tail};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Pattern, Rng, Shape};

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
