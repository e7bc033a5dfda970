//! Removes the edges of a graph whose ends have many neighbours, once and before training, by degrees alone. With
//! a_v = Σ_{u ∈ N(v)} deg(u)^-½ / deg(v) the score of an edge is a_u a_v / (deg(u) deg(v)); the lowest are pruned.
//!
//! Cost: O(edges + nodes), once.
//!
//! Deviations: prunes only edges; the paper also makes the weights sparse in training, by projection and distillation.

use nnz_core::{Budget, Build, Criterion, DistributionKind, TargetKind, Method, OneShot, Result, Rng, Setting, Target, MethodInstance, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "teddy",
    "TEDDY",
    "Removes edges between nodes of many neighbours, once, before training.",
);

options! {
    #[flatten]
    /// Density of edges and its distribution.
    budget: Budget = Budget { of: TargetKind::Edges, ..Budget::new(0.7, DistributionKind::Global) },
}

impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        Ok(self.budget.prune(Degrees, OneShot { at: 0, density: self.budget.density }, setting).into())
    }
}

struct Degrees;

impl Criterion for Degrees {
    fn score(&self, target: &Target, _: &mut Rng) -> Vec<f32> {
        let nodes = target.shape.cols as u64;
        let edges: Vec<[usize; 2]> =
            target.topology.positions().map(|p| [(p / nodes) as usize, (p % nodes) as usize]).collect();
        scores(&edges, target.shape.rows).into_iter().map(|s| s as f32).collect()
    }
}

/// Computes the score of every edge of a graph of `nodes` nodes. O(edges + nodes).
fn scores(edges: &[[usize; 2]], nodes: usize) -> Vec<f64> {
    let mut degree = vec![0.0f64; nodes];
    edges.iter().flatten().for_each(|&v| degree[v] += 1.0);
    let mut around = vec![0.0; nodes];
    for &[u, v] in edges {
        around[u] += degree[v].powf(-0.5) / degree[u];
        around[v] += degree[u].powf(-0.5) / degree[v];
    }
    edges.iter().map(|&[u, v]| around[u] * around[v] / (degree[u] * degree[v])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_engine::{ModelSpec, OptimizerSpec, Storage, TrainSpec, Trainer};

    #[test]
    fn scores_of_a_star_with_a_tail_by_hand() {
        // Node 0 has three neighbours, node 3 two: 0-1, 0-2, 0-3, 3-4.
        let found = scores(&[[0, 1], [0, 2], [0, 3], [3, 4]], 5);
        let (r2, r3) = (2f64.powf(-0.5), 3f64.powf(-0.5));
        let a = [(2.0 + r2) / 3.0, r3, r3, (r3 + 1.0) / 2.0, r2];
        let by_hand = [a[0] * a[1] / 3.0, a[0] * a[2] / 3.0, a[0] * a[3] / 6.0, a[3] * a[4] / 2.0];
        assert!(found.iter().zip(by_hand).all(|(x, y)| (x - y).abs() < 1e-12), "{found:?} {by_hand:?}");
        assert!(found[2] < found[0].min(found[3]), "the edge between the two largest degrees goes first");
    }

    /// On Cora: the graph loses its edges, the network learns, and an interrupted run resumes bit for bit.
    #[test]
    fn edges_are_a_target_like_any_other() {
        let data = nnz_data::Store::at("nowhere").load("cora").unwrap().dataset;
        let graph = data.graph.clone().unwrap();
        let model = ModelSpec::gcn("gcn:16", &graph, 7).unwrap();
        let spec = TrainSpec {
            epochs: 30,
            batch: 140,
            optimizer: OptimizerSpec::adam(0.01),
            storage: Storage::Auto,
            validation: 500.0 / 640.0,
            ..TrainSpec::default()
        };
        let build = |s: &Setting| METHOD.build(&METHOD.defaults(), s);
        let start = || Trainer::<f32>::new(&model, &data, &spec, 0, build).unwrap();
        let mut whole = start();
        assert!(whole.run(|_, _| true).unwrap());
        let edges = whole.model.params[0].topology();
        assert_eq!(edges.nnz(), (0.7 * graph.edges.nnz() as f64).round() as usize);
        assert!(edges.positions().all(|p| graph.edges.find(p).is_some()));
        let rows: Vec<u32> = (0..data.test.len() as u32).collect();
        let accuracy = whole.evaluate(&data.test, &rows).unwrap().accuracy;
        assert!(accuracy > 0.65, "{accuracy}");
        let mut cut = start();
        for _ in 0..7 {
            cut.advance().unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint.safetensors");
        let header = nnz_engine::file::Header {
            model: model.clone(),
            normalization: cut.frame().normalization,
            classes: data.classes.clone(),
            data: "cora".into(),
            method: "teddy".into(),
            prunable: false.into(),
            texts: false,
            encoding: None,
            policy: Default::default(),
            task: nnz_engine::Task::Classification,
            scales: Vec::new(),
            dtype: nnz_engine::Dtype::Native,
        };
        cut.save(&path, &header, "run").unwrap();
        let mut again = start();
        again.resume(&path, "run").unwrap();
        assert!(again.run(|_, _| true).unwrap());
        let values = |t: &Trainer<f32>| t.model.params.iter().map(|p| p.value.data().to_vec()).collect::<Vec<_>>();
        assert!(values(&whole) == values(&again) && whole.position == again.position);
    }
}
