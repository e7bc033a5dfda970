//! How topologies change while a network trains: the connections grown and pruned by every edit.

use crate::Real;
use crate::{Layout, Param};
use nnz_core::Topology;
use std::sync::{Mutex, PoisonError};

/// A change of the topology of one prunable weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The topology before the step; a weight that changes its extent starts anew.
    Start {
        /// Steps done.
        step: u64,
        /// Index among the prunable weights.
        layer: usize,
        /// Parameter name.
        name: String,
        /// Outputs.
        rows: usize,
        /// Inputs.
        cols: usize,
        /// `row * cols + col` of every connection, ascending; `None` if dense.
        positions: Option<Vec<u64>>,
    },
    /// An edit.
    Moved {
        /// Steps done.
        step: u64,
        /// Index among the prunable weights.
        layer: usize,
        /// Positions of new connections, ascending.
        grown: Vec<u64>,
        /// Positions of pruned connections, ascending.
        pruned: Vec<u64>,
    },
}

impl Event {
    /// Steps done when it happened.
    pub fn step(&self) -> u64 {
        match self {
            Self::Start { step, .. } | Self::Moved { step, .. } => *step,
        }
    }
}

/// Last seen topology of a weight; `None` if dense.
#[derive(Clone, Debug)]
struct Seen {
    name: String,
    rows: usize,
    cols: usize,
    topology: Option<Topology>,
}

impl Seen {
    fn of<T: Real>(p: &Param<T>) -> Self {
        let topology = (p.layout != Layout::Dense).then(|| p.topology());
        Self { name: p.shape.name.clone(), rows: p.shape.rows, cols: p.shape.cols, topology }
    }

    fn positions(&self) -> Box<dyn Iterator<Item = u64> + '_> {
        match &self.topology {
            Some(topology) => Box::new(topology.positions()),
            None => Box::new(0..(self.rows * self.cols) as u64),
        }
    }

    fn start(&self, step: u64, layer: usize) -> Event {
        let positions = self.topology.as_ref().map(|t| t.positions().collect());
        Event::Start { step, layer, name: self.name.clone(), rows: self.rows, cols: self.cols, positions }
    }
}

/// Keeps the topologies of all prunable weights, to detect what an edit changed: 4 more bytes per connection.
#[derive(Debug)]
pub struct History {
    seen: Vec<Seen>,
    events: Mutex<Vec<Event>>,
}

impl History {
    /// Starts from these parameters. `started`: they have been seen before, so that no start is reported.
    pub fn new<T: Real>(params: &[Param<T>], step: u64, started: bool) -> Self {
        let seen: Vec<Seen> = params.iter().filter(|p| p.prunable).map(Seen::of).collect();
        let starts = seen.iter().enumerate().filter(|_| !started).map(|(i, s)| s.start(step, i)).collect();
        Self { seen, events: Mutex::new(starts) }
    }

    /// Returns the events since the last call.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Compares the parameters after an edit.
    pub(crate) fn look<T: Real>(&mut self, params: &[Param<T>], step: u64) {
        let now: Vec<Seen> = params.iter().filter(|p| p.prunable).map(Seen::of).collect();
        let events = self.events.get_mut().unwrap_or_else(PoisonError::into_inner);
        let others = now.len() != self.seen.len();
        for (layer, new) in now.iter().enumerate() {
            match self.seen.get(layer).filter(|old| !others && (old.rows, old.cols) == (new.rows, new.cols)) {
                None => events.push(new.start(step, layer)),
                Some(old) if old.topology == new.topology => {}
                Some(old) => {
                    let [grown, pruned] = differences(old.positions(), new.positions());
                    events.push(Event::Moved { step, layer, grown, pruned });
                }
            }
        }
        self.seen = now;
    }
}

/// Returns what is only in the second, and what is only in the first, of two ascending sequences.
fn differences(old: impl Iterator<Item = u64>, new: impl Iterator<Item = u64>) -> [Vec<u64>; 2] {
    let (mut grown, mut pruned) = (Vec::new(), Vec::new());
    let mut old = old.peekable();
    for p in new {
        while let Some(gone) = old.next_if(|&q| q < p) {
            pruned.push(gone);
        }
        if old.next_if_eq(&p).is_none() {
            grown.push(p);
        }
    }
    pruned.extend(old);
    [grown, pruned]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_what_only_one_of_them_has() {
        let [grown, pruned] = differences([1, 2, 5, 9].into_iter(), [0, 2, 6, 9, 11].into_iter());
        assert_eq!((grown, pruned), (vec![0, 6, 11], vec![1, 5]));
    }
}
