//! Connected components of a stack.

use super::paths::levels;
use crate::{Result, Topology};
use serde::Serialize;

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

/// Finds the representative of `unit`, halving the path to it.
fn root(parent: &mut [usize], mut unit: usize) -> usize {
    while parent[unit] != unit {
        parent[unit] = parent[parent[unit]];
        unit = parent[unit];
    }
    unit
}
