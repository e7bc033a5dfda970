//! Growth from topology alone: at the ends of many paths of three connections whose inner units have few connections that lead out of
//! their local community. For a zero between input v and output u, with the paths u - a - b - v over inputs a and outputs b,
//! CH3-L3(u, v) = Σ 1 / sqrt((1 + e_a) (1 + e_b)), where e counts a unit's connections except those to u, to v and to inner
//! units of other such paths. The smallest |w| of each layer are pruned, every epoch.
//!
//! Cost: at each rewiring, for each layer, O(paths of three) time and O(count + nnz) memory.
//!
//! Deviations: layers start random, or as `start` says, not correlated with the inputs; units that lost all connections on one side are
//! not cut on the other, and nothing stops early; if fewer zeros have paths than are to be grown, random ones fill up.

use nnz_core::{Build, Decay, Growth, Magnitude, Method, Period, Result, Rewiring, Rng, Setting, Signals, Target, Topology, MethodInstance, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "cht",
    "CHT",
    "Grows connections where the topology has many short paths in closed communities.",
);

options! {
    #[flatten]
    /// Fraction, decay, interval and end.
    rewiring: Rewiring = Rewiring { every: Period::Epochs(1.0), decay: Decay::Constant, ..Rewiring::RIGL },
}

impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        Ok(self.rewiring.drop_grow(setting, Magnitude, Paths).into())
    }
}

struct Paths;

impl Growth for Paths {
    fn needs(&self, _: f64) -> Signals {
        Signals::NONE
    }

    fn grow(&mut self, _: u64, t: &Target, kept: &[bool], count: usize, _: &mut Rng) -> Vec<(u64, f32)> {
        best(&t.topology.filter(kept), count).into_iter().map(|(p, _)| (p, 0.0)).collect()
    }
}

/// The `count` zeros of largest CH3-L3, ties by position, and their scores; fewer if fewer have a path. O(paths of three) time
/// and O(count + nnz) memory.
fn best(topology: &Topology, count: usize) -> Vec<(u64, f64)> {
    let (rows, cols, by_col) = (topology.rows(), topology.cols(), topology.transpose());
    let outputs = |c: usize| &by_col.rows[by_col.starts[c]..by_col.starts[c + 1]];
    let order = |a: &(u64, f64), b: &(u64, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let mut found: Vec<(u64, f64)> = Vec::new();
    // For the output u: inputs it shares with each output b; paths from one of its inputs a to each input v; sums of scores.
    let (mut shared, mut between, mut score) = (vec![0u32; rows], vec![0u32; cols], vec![0f64; cols]);
    for u in 0..rows {
        let inputs = topology.row(u);
        inputs.iter().for_each(|&a| outputs(a as usize).iter().for_each(|&b| shared[b as usize] += 1));
        for &a in inputs {
            let others = outputs(a as usize);
            let each = |visit: &mut dyn FnMut(usize, usize)| {
                for &b in others.iter().filter(|&&b| b as usize != u) {
                    topology.row(b as usize).iter().for_each(|&v| visit(b as usize, v as usize));
                }
            };
            // a's connections to inner outputs of paths to v are those to outputs that read v.
            each(&mut |_, v| between[v] += 1);
            each(&mut |b, v| {
                let (of_a, of_b) = (others.len() as f64, topology.row(b).len() as f64);
                score[v] += 1.0 / ((of_a - f64::from(between[v])) * (of_b - f64::from(shared[b]))).sqrt();
            });
            each(&mut |_, v| between[v] = 0);
        }
        inputs.iter().for_each(|&a| score[a as usize] = 0.0);
        inputs.iter().for_each(|&a| outputs(a as usize).iter().for_each(|&b| shared[b as usize] = 0));
        for (v, s) in score.iter_mut().enumerate().filter(|(_, s)| **s > 0.0) {
            found.push(((u * cols + v) as u64, std::mem::take(s)));
        }
        if found.len() > 2 * count + cols {
            found.select_nth_unstable_by(count, order);
            found.truncate(count);
        }
    }
    found.sort_unstable_by(order);
    found.truncate(count);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// The definition, pair by pair, on sets of neighbours.
    fn plain(t: &Topology) -> Vec<(u64, f64)> {
        let mut all = Vec::new();
        let has = |r: usize, c: usize| t.row(r).contains(&(c as u32));
        for (u, v) in (0..t.rows()).flat_map(|u| (0..t.cols()).map(move |v| (u, v))).filter(|&(u, v)| !has(u, v)) {
            let mut paths = Vec::new();
            for a in (0..t.cols()).filter(|&a| has(u, a)) {
                paths.extend((0..t.rows()).filter(|&b| has(b, a) && has(b, v)).map(|b| (a, b)));
            }
            let (inputs, outputs): (HashSet<usize>, HashSet<usize>) = paths.iter().copied().unzip();
            let external_a = |a: usize| (0..t.rows()).filter(|&b| has(b, a) && b != u && !outputs.contains(&b)).count();
            let external_b = |b: usize| (0..t.cols()).filter(|&a| has(b, a) && a != v && !inputs.contains(&a)).count();
            let one = |&(a, b): &(usize, usize)| 1.0 / ((1.0 + external_a(a) as f64) * (1.0 + external_b(b) as f64)).sqrt();
            let score: f64 = paths.iter().map(one).sum();
            if score > 0.0 {
                all.push(((u * t.cols() + v) as u64, score));
            }
        }
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all
    }

    #[test]
    fn scores_are_those_of_the_definition() {
        // One path: 0 - 0 - 1 - 1, whose inner units have no other connection.
        let path = Topology::from_positions(2, 2, [0, 2, 3]);
        assert_eq!(best(&path, 5), [(1, 1.0)]);
        for seed in 0..5 {
            let positions = Rng::stream(seed, "t", 0, 0).distinct(12 * 15, 50);
            let t = Topology::from_positions(12, 15, positions);
            let (found, all) = (best(&t, 1000), plain(&t));
            let sort = |mut v: Vec<(u64, f64)>| {
                v.sort_by_key(|x| x.0);
                v
            };
            let (a, b) = (sort(found), sort(all));
            assert_eq!(a.len(), b.len());
            assert!(a.iter().zip(&b).all(|(x, y)| x.0 == y.0 && (x.1 - y.1).abs() < 1e-9));
            // Few of them are the first of them.
            let few: Vec<f64> = best(&t, 7).iter().map(|x| x.1).collect();
            assert!(few.iter().zip(plain(&t)).all(|(x, y)| (x - y.1).abs() < 1e-9) && few.len() == 7);
        }
    }
}
