use crate::Topology;
use serde::{Deserialize, Serialize};

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
        if self.ever.is_empty() {
            self.ever = old.positions().collect();
        }
        let before = self.recent.len();
        self.recent.extend(old.carry(new).zip(new.positions()).filter(|(from, _)| from.is_none()).map(|(_, p)| p));
        self.births += (self.recent.len() - before) as u64;
        if self.recent.len() > self.ever.len() / 4 {
            self.ever = self.all();
            self.recent.clear();
        }
    }

    /// Counts distinct connections.
    pub fn count(&self) -> usize {
        if self.recent.is_empty() { self.ever.len() } else { self.all().len() }
    }

    fn all(&self) -> Vec<u64> {
        let mut recent = self.recent.clone();
        recent.sort_unstable();
        let mut all = Vec::with_capacity(self.ever.len() + recent.len());
        let mut recent = recent.into_iter().peekable();
        for &p in &self.ever {
            while let Some(born) = recent.next_if(|&born| born < p) {
                all.push(born);
            }
            while recent.next_if_eq(&p).is_some() {}
            all.push(p);
        }
        all.extend(recent);
        all.dedup();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
