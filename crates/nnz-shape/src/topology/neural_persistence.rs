//! How the units of a layer join as connections are added from the strongest down: 0-dimensional persistent homology of
//! the bipartite graph with weights w' = |w| / max |w| over the network. All units are born at 1; an edge that joins two
//! components kills one at its w', which is the maximum spanning forest; those never joined die at 0. A layer's value is
//! (Σ (1 - w')²)^½ / (n - 1)^½ over all of them, n its units, and the network's is the mean over its layers (definitions
//! 5 and 6).
//!
//! Cost: O(edges log edges) per layer, once, after training.
//!
//! Deviations: missing connections are not edges, so that a sparse layer has as many components that never die as it
//! has pieces (the paper has dense layers, which always end as one).

use nnz_core::{Build, Dense, Probe, Method, Result, Setting, Target, MethodInstance, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "neural-persistence",
    "Neural persistence",
    "Measures how the units of each layer join when connections are added from the strongest down.",
);

options! {
}


impl Build for Options {
    fn build(self, _: &Setting) -> Result<MethodInstance> {
        Ok(MethodInstance { probe: Some(Box::new(Persistence)), ..MethodInstance::from(Dense) })
    }
}

struct Persistence;

impl Probe for Persistence {
    fn probe(&self, weights: &[Target]) -> f64 {
        let all = || weights.iter().flat_map(|t| t.values).map(|w| f64::from(w.abs()));
        let largest = all().fold(0.0, f64::max).max(f64::MIN_POSITIVE);
        let layer = |t: &Target| {
            let (rows, cols) = (t.shape.rows, t.shape.cols as u64);
            let ends = t.topology.positions().map(|p| [(p / cols) as usize, rows + (p % cols) as usize]);
            let edges = ends.zip(t.values).map(|(e, w)| (e, f64::from(w.abs()) / largest)).collect();
            persistence(edges, rows + t.shape.cols)
        };
        weights.iter().map(layer).sum::<f64>() / weights.len().max(1) as f64
    }
}

/// Normalized persistence of a graph of `nodes` nodes. O(edges log edges).
fn persistence(mut edges: Vec<([usize; 2], f64)>, nodes: usize) -> f64 {
    edges.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut parent: Vec<usize> = (0..nodes).collect();
    fn root(parent: &mut [usize], mut v: usize) -> usize {
        while parent[v] != v {
            parent[v] = parent[parent[v]];
            v = parent[v];
        }
        v
    }
    let (mut sum, mut components) = (0.0, nodes);
    for ([a, b], w) in edges {
        let (a, b) = (root(&mut parent, a), root(&mut parent, b));
        if a != b {
            parent[a.max(b)] = a.min(b);
            components -= 1;
            sum += (1.0 - w).powi(2);
        }
    }
    (sum + components as f64).sqrt() / ((nodes - 1).max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::{Shape, Topology};

    #[test]
    fn a_layer_of_two_by_two_by_hand() {
        // Strongest first: 1.0 joins r0-c0, 0.75 joins r1-c1, 0.5 joins both; 0.25 closes a cycle. One never dies.
        let shape = Shape::matrix("w", 2, 2);
        let full = Topology::full(2, 2);
        let value = Persistence.probe(&[Target::new(0, &shape, &full, &[-2.0, 1.0, 0.5, 1.5])]);
        let by_hand = ((0.25f64.powi(2) + 0.5f64.powi(2) + 1.0) / 3.0).sqrt();
        assert!((value - by_hand).abs() < 1e-12, "{value} {by_hand}");
    }

    #[test]
    fn equal_weights_leave_the_unpaired_and_missing_ones_more() {
        let shape = Shape::matrix("w", 3, 4);
        let full = Topology::full(3, 4);
        let value = Persistence.probe(&[Target::new(0, &shape, &full, &[0.3; 12])]);
        assert!((value - (1.0f64 / 6.0).sqrt()).abs() < 1e-12);
        let pieces = Topology::from_positions(3, 4, [0, 5, 10]);
        let value = Persistence.probe(&[Target::new(0, &shape, &pieces, &[0.3; 3])]);
        assert!((value - (4.0f64 / 6.0).sqrt()).abs() < 1e-12, "seven units in four components");
    }
}
