//! Graphs as data sets: every row is a node, and all rows share the edges. Cora is compiled in.

use super::read::npz_arrays;
use super::{Error, Result};
use nnz_core::{Rng, Topology};
use nnz_engine::data::{Dataset, Graph, Inputs, Split};
use sha2::{Digest, Sha256};
use std::sync::Arc;

const SUBJECTS: [&str; 7] = ["0", "1", "2", "3", "4", "5", "6"];
/// Training nodes per class, then nodes for validation and test.
const SPLIT: [usize; 3] = [20, 500, 1000];

/// A graph in the arrays of the repository gnn-benchmark: `adj_indptr`, `adj_indices`, `x_indptr`, `x_indices`, `labels` and
/// `shape`, which is nodes, features and classes. Edges are made undirected and lose loops.
///
/// Twenty nodes of every class are the training rows, followed by 500 for validation; 1,000 more are the test rows. They
/// are drawn once, by a fixed seed.
pub(super) fn read(bytes: &[u8], name: &str) -> Result<Dataset> {
    let arrays = npz_arrays(bytes, name)?;
    let bad = |why: String| Error::Content { place: name.into(), why };
    let numbers = |key: &str| -> Result<Vec<usize>> {
        let values = arrays.get(key).ok_or_else(|| bad(format!("lacks the array `{key}`")))?;
        let whole = |v: f32| (v >= 0.0 && v.fract() == 0.0 && v < 1e7).then_some(v as usize);
        let all = match values {
            Inputs::Bytes(v) => v.iter().map(|&b| Some(usize::from(b))).collect(),
            Inputs::Floats(v) => v.iter().map(|&v| whole(v)).collect::<Option<Vec<_>>>(),
            // No reader of files makes these.
            Inputs::Doubles(_) | Inputs::Sparse(_) => None,
        };
        all.ok_or_else(|| bad(format!("array `{key}` has what is no whole number")))
    };
    let shape = numbers("shape")?;
    let [nodes, features, classes] = shape[..] else { return Err(bad("`shape` has not three numbers".into())) };
    let rows = |starts: Vec<usize>, columns: Vec<usize>, width: usize| -> Result<Vec<(usize, usize)>> {
        let sound = starts.len() == nodes + 1
            && starts.windows(2).all(|w| w[0] <= w[1])
            && starts.last() == Some(&columns.len())
            && columns.iter().all(|&c| c < width);
        if !sound {
            return Err(bad(format!("its rows do not make a matrix of {nodes}x{width}")));
        }
        Ok((0..nodes).flat_map(|r| columns[starts[r]..starts[r + 1]].iter().map(move |&c| (r, c))).collect())
    };
    let matrix = |entries: Vec<(usize, usize)>, cols: usize| {
        let mut positions: Vec<u64> = entries.into_iter().map(|(r, c)| (r * cols + c) as u64).collect();
        positions.sort_unstable();
        positions.dedup();
        Topology::from_positions(nodes, cols, positions)
    };
    let ends = rows(numbers("adj_indptr")?, numbers("adj_indices")?, nodes)?;
    let once = ends.into_iter().filter(|(a, b)| a != b).map(|(a, b)| (a.min(b), a.max(b))).collect();
    let edges = matrix(once, nodes);
    let features = matrix(rows(numbers("x_indptr")?, numbers("x_indices")?, features)?, features);
    let labels = numbers("labels")?;
    if labels.len() != nodes || labels.iter().any(|&l| l >= classes) || classes > SUBJECTS.len() {
        return Err(bad(format!("{} labels for {nodes} nodes of {classes} classes", labels.len())));
    }
    let mut order: Vec<usize> = (0..nodes).collect();
    Rng::stream(0, "split", 0, 0).shuffle(&mut order);
    let mut seen = vec![0; classes];
    let (mut train, rest): (Vec<usize>, Vec<usize>) = order.into_iter().partition(|&v| {
        seen[labels[v]] += 1;
        seen[labels[v]] <= SPLIT[0]
    });
    let mut rest = rest.into_iter();
    train.extend(rest.by_ref().take(SPLIT[1]));
    let split = |rows: Vec<usize>| {
        let of = rows.iter().map(|&v| labels[v] as u32).collect();
        Split::new(Inputs::Floats(rows.into_iter().map(|v| v as f32).collect()), of)
    };
    let names = SUBJECTS[..classes].iter().map(ToString::to_string).collect();
    let checksum = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    let test = rest.take(SPLIT[2]).collect();
    let mut dataset = Dataset::new(name, [1, 1, 1], names, split(train), split(test), checksum)?;
    dataset.graph = Some(Arc::new(Graph { edges, features }));
    Ok(dataset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cora_has_its_published_numbers() {
        let cora = super::super::embedded("cora").unwrap()[0];
        let data = read(cora, "cora").unwrap();
        let graph = data.graph.as_ref().unwrap();
        assert_eq!((graph.edges.rows(), graph.features.nnz(), graph.features.cols()), (2708, 49_216, 1433));
        assert_eq!(graph.edges.nnz(), 5278, "5,429 citations, of which some are mutual or of a paper itself");
        assert_eq!((data.train.len(), data.test.len()), (7 * 20 + 500, 1000));
        assert!(data.checksum.starts_with("dd369dc4ce0d12db"));
        assert!(read(&cora[..50_000], "cut").is_err());
    }
}
