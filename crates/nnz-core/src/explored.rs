use crate::Topology;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Connections a thread takes at once.
const PART: usize = 1 << 14;

/// All connections a layer ever had, 8 bytes each. There are at most as many as the layer had at the start plus those
/// grown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explored {
    /// Positions, ascending.
    ever: Vec<u64>,
    /// Grown positions not merged into `ever` yet, in any order, possibly with repeats.
    recent: Vec<u64>,
    /// Connections grown so far.
    pub births: u64,
}

impl Explored {
    /// Records the change from `old` to `new`. O(nnz), and now and then O(all connections so far).
    pub fn add(&mut self, old: &Topology, new: &Topology) {
        let (sources, births) = old.sources(new, |_| 0);
        self.record(old, new, &sources, births);
    }

    /// The same for whom [`Topology::sources`] has told where the entries of `new` come from, and how many are new.
    pub fn record(&mut self, old: &Topology, new: &Topology, sources: &[u32], births: usize) {
        if self.ever.is_empty() {
            self.ever = old.positions().collect();
        }
        let mut at = self.recent.len();
        self.births += births as u64;
        // Without a branch that depends on what is new: it could not be foreseen.
        self.recent.resize(at + births + 1, 0);
        for (p, &from) in new.positions().zip(sources) {
            self.recent[at] = p;
            at += usize::from(from >= Topology::NEW);
        }
        self.recent.truncate(at);
        // Rarely: a merge moves all of them.
        if self.recent.len() > self.ever.len() {
            self.ever = self.all();
            self.recent.clear();
        }
    }

    /// Counts distinct connections.
    pub fn count(&self) -> usize {
        if self.recent.is_empty() { self.ever.len() } else { self.all().len() }
    }

    fn all(&self) -> Vec<u64> {
        // Ascending runs, which a stable sort merges.
        let mut recent = self.recent.clone();
        recent.sort();
        recent.dedup();
        let count = self.ever.len().div_ceil(PART).max(1);
        let cuts: Vec<[usize; 2]> = (0..=count)
            .map(|i| match self.ever.get(i * PART) {
                _ if i == 0 => [0, 0],
                Some(&p) => [i * PART, recent.partition_point(|&q| q < p)],
                None => [self.ever.len(), recent.len()],
            })
            .collect();
        let part = |cut: &[[usize; 2]]| union(&self.ever[cut[0][0]..cut[1][0]], &recent[cut[0][1]..cut[1][1]]);
        cuts.par_windows(2).map(part).collect::<Vec<_>>().concat()
    }
}

/// Numbers of two ascending runs, each once.
fn union(a: &[u64], b: &[u64]) -> Vec<u64> {
    let mut all = vec![0; a.len() + b.len()];
    let (mut i, mut j, mut n) = (0, 0, 0);
    // Without branches that depend on which is lower: they could not be foreseen.
    while i < a.len() && j < b.len() {
        let (x, y) = (a[i], b[j]);
        all[n] = x.min(y);
        n += 1;
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    for rest in [&a[i..], &b[j..]] {
        all[n..n + rest.len()].copy_from_slice(rest);
        n += rest.len();
    }
    all.truncate(n);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unions_of_parts_hold_every_number_once() {
        for (n, step) in [(0, 1), (1, 1), (3 * PART, 3), (3 * PART, 7), (2 * PART + 5, PART)] {
            let ever: Vec<u64> = (0..n as u64).map(|i| 3 * i).collect();
            let recent: Vec<u64> = (0..n as u64 + 9).rev().map(|i| i * step as u64).chain([1, 1]).collect();
            let mut want = [&ever[..], &recent].concat();
            want.sort_unstable();
            want.dedup();
            assert!(Explored { ever, recent, births: 0 }.all() == want, "{n} {step}");
        }
    }

    #[test]
    fn every_connection_counts_once() {
        let at = |positions: &[u64]| Topology::from_positions(4, 5, positions.iter().copied());
        let mut explored = Explored::default();
        explored.add(&at(&[0, 1, 2, 3, 4, 5, 6, 7]), &at(&[0, 1, 2, 3, 4, 5, 6, 9]));
        assert_eq!((explored.count(), explored.births), (9, 1));
        // One is regrown: it counts as grown but is not new.
        explored.add(&at(&[0, 1, 2, 3, 4, 5, 6, 9]), &at(&[0, 1, 2, 3, 4, 5, 7, 19]));
        assert_eq!((explored.count(), explored.births), (10, 3));
        let again: Explored = serde_json::from_str(&serde_json::to_string(&explored).unwrap()).unwrap();
        assert_eq!(again, explored);
    }
}
