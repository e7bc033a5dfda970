//! Testbed of methods: small data, a small network, a short training.

use nnz_core::{Method, Rng, TargetKind, Topology};
use nnz_data::Store;
use nnz_engine::data::{Dataset, Graph, Inputs, Split};
use nnz_engine::{LrSchedule, ModelSpec, OptimizerSpec, Storage, TrainSpec};
use std::sync::{Arc, LazyLock};

/// The density at which methods that have one are tested.
pub const DENSITY: f64 = 0.1;

/// Side of the images.
const SIDE: usize = 14;

/// Data, and a matching network.
pub(crate) struct Ground {
    pub data: Dataset,
    pub model: ModelSpec,
}

impl Ground {
    /// The ground on which targets of a kind exist.
    pub fn of(kind: TargetKind) -> &'static Self {
        match kind {
            TargetKind::Edges => &GRAPH,
            _ => &DIGITS,
        }
    }

    /// Eight epochs of 30 steps on the digits, of 3 on the graph.
    pub fn spec(&self, storage: Storage) -> TrainSpec {
        TrainSpec {
            epochs: 8,
            batch: 24,
            optimizer: OptimizerSpec::sgd(0.05),
            schedule: LrSchedule::Cosine,
            warmup: 0.1,
            storage,
            prune_head: false,
            validation: 0.1,
            ..TrainSpec::default()
        }
    }
}

/// 720 digits to train on, 80 to validate on and 100 to test on, at half of their height and width.
static DIGITS: LazyLock<Ground> = LazyLock::new(|| {
    let all = Store::at("nowhere").load("mnist10k").expect("is compiled in").dataset;
    let half = |picture: &[u8]| -> Vec<u8> {
        let at = |i: usize| {
            let corner = i / SIDE * 4 * SIDE + i % SIDE * 2;
            let sum: u32 = [0, 1, 2 * SIDE, 2 * SIDE + 1].iter().map(|d| u32::from(picture[corner + d])).sum();
            (sum / 4) as u8
        };
        (0..SIDE * SIDE).map(at).collect()
    };
    let cut = |s: &Split, rows: usize| {
        let Inputs::Bytes(b) = &s.inputs else { unreachable!("digits are bytes") };
        let pictures = b.chunks(4 * SIDE * SIDE).take(rows).flat_map(half).collect();
        Split::new(Inputs::Bytes(pictures), s.labels[..rows].to_vec())
    };
    let (train, test, image) = (cut(&all.train, 800), cut(&all.test, 100), [1, SIDE, SIDE]);
    let data = Dataset::new("digits", image, all.classes, train, test, "test".into()).expect("fits");
    let model = ModelSpec::parse("mlp:196-30-20-10", image, 10).expect("fits");
    Ground { data, model }
});

/// A random graph of 90 nodes in three classes whose members share features and edges.
static GRAPH: LazyLock<Ground> = LazyLock::new(|| {
    let (nodes, features, classes) = (90u64, 30u64, 3u64);
    let mut rng = Rng::stream(0, "graph", 0, 0);
    let mut draw = |share: f64| rng.unit64() < share;
    let pairs = (0..nodes).flat_map(|a| (a + 1..nodes).map(move |b| (a, b)));
    let edges = pairs.filter(|(a, b)| draw(if a % classes == b % classes { 0.1 } else { 0.02 }));
    let edges = edges.map(|(a, b)| a * nodes + b).collect::<Vec<u64>>();
    let has = (0..nodes).flat_map(|v| (0..features).map(move |f| (v, f)));
    let has = has.filter(|(v, f)| draw(if v % classes == f % classes { 0.4 } else { 0.1 }));
    let has = has.map(|(v, f)| v * features + f).collect::<Vec<u64>>();
    let (n, f) = (nodes as usize, features as usize);
    let graph = Graph { edges: Topology::from_positions(n, n, edges), features: Topology::from_positions(n, f, has) };
    let rows = |r: std::ops::Range<u64>| {
        let labels = r.clone().map(|v| (v % classes) as u32).collect();
        Split::new(Inputs::Floats(r.map(|v| v as f32).collect()), labels)
    };
    let names = (0..classes).map(|c| c.to_string()).collect();
    let data = Dataset::new("graph", [1, 1, 1], names, rows(0..72), rows(72..90), "test".into()).expect("fits");
    let model = ModelSpec::gcn("gcn:8", &graph, 3).expect("fits");
    Ground { data: Dataset { graph: Some(Arc::new(graph)), ..data }, model }
});

/// Options with which a method does everything several times in a short run: at [`DENSITY`], every 50
/// steps if its interval is in steps, and the card's own quick options.
///
/// # Errors
/// When the card's quick options are not a table of options.
pub fn quick(method: &Method) -> Result<toml::Table, String> {
    let mut options = method.defaults();
    if options.contains_key("density") {
        options.insert("density".into(), DENSITY.into());
    }
    if options.get("every").and_then(|e| e.as_str()).is_some_and(|e| e.ends_with("steps")) {
        options.insert("every".into(), "50 steps".into());
    }
    options.extend(method.quick_options().map_err(|e| e.to_string())?);
    Ok(options)
}
