//! Composition of a model, layer by layer and as a whole.

use crate::Result;
use nnz_core::graph_stats::{self, Components, Degrees, Paths, Spectral};
use nnz_core::{Registry, Setting, Topology};
use nnz_data::read::Encoding;
use nnz_engine::file::Header;
use nnz_engine::{LayerSpec, Model, Number};
use serde::Serialize;
use std::collections::BTreeMap;

/// A model, measured.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// Model specification as requested.
    pub model: String,
    /// Data it was trained on.
    pub data: String,
    /// Method that made it.
    pub method: String,
    /// Channels, height and width of the input.
    pub input: [usize; 3],
    /// Connections of each input of the network, `[height][width][channels]`; empty if the first layer does not read
    /// the input as a whole, as a convolution.
    pub input_fan_out: Vec<u32>,
    /// Names of the inputs, if it was trained on a table.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// Nonzero weights.
    pub nonzeros: usize,
    /// Possible weights.
    pub entries: usize,
    /// Nonzeros / entries of the prunable weights.
    pub density: f64,
    /// Bytes of all parameters if every entry were stored as f32.
    pub dense_bytes: usize,
    /// Bytes of all parameters with nonzeros and compressed rows only.
    pub packed_bytes: usize,
    /// The weights, first layer first.
    pub layers: Vec<Layer>,
    /// Dead units and connections on no path, through the whole stack; `None` if layers do not follow
    /// each other unit by unit, as in convolutions.
    pub paths: Option<Paths>,
    /// Connected components of the whole stack, likewise.
    pub components: Option<Components>,
    /// Values of registered probes, by the keys of their methods.
    pub measures: BTreeMap<&'static str, f64>,
}

/// A weight, measured.
#[derive(Clone, Debug, Serialize)]
pub struct Layer {
    /// Parameter name.
    pub name: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Connections.
    pub nonzeros: usize,
    /// Connections / (rows * cols).
    pub density: f64,
    /// Whether methods may prune it.
    pub prunable: bool,
    /// Bytes if every entry were stored as f32.
    pub dense_bytes: usize,
    /// Bytes of nonzeros and compressed rows.
    pub packed_bytes: usize,
    /// Connections of each output.
    pub fan_in: Degrees,
    /// Connections of each input.
    pub fan_out: Degrees,
    /// Components of its bipartite graph.
    pub components: Components,
    /// Singular values of its adjacency; `None` for a dense layer, whose values are known (√(rows cols) and 0).
    pub spectral: Option<Spectral>,
    /// Smallest, mean and largest |w| of the connections.
    pub magnitude: [f64; 3],
}

/// Bytes of a parameter: f32 values, and 32-bit row starts and columns if entries are missing.
fn packed(topology: &Topology) -> usize {
    let full = topology.nnz() == topology.rows() * topology.cols();
    4 * topology.nnz() + if full { 0 } else { 4 * (topology.nnz() + topology.starts().len()) }
}

/// Fan-out of every input of the network, if its first layer has an input for each.
fn input_fan_out<T: Number>(model: &Model<T>, first: Option<&Topology>) -> Vec<u32> {
    let reads = |l: &LayerSpec| !matches!(l, LayerSpec::Flatten(_) | LayerSpec::Relu(_));
    let linear = matches!(model.spec.layers.iter().find(|l| reads(l)), Some(LayerSpec::Linear(_)));
    let degrees = first.filter(|_| linear).map_or(vec![], Topology::col_degrees);
    degrees.into_iter().map(|d| d as u32).collect()
}

/// Whether each layer's units are the next one's inputs, one by one.
fn unit_by_unit<T: Number>(model: &Model<T>) -> bool {
    use LayerSpec::{Activation, AllRelu, BatchNorm, Dropout, Flatten, LayerNorm, Linear, Relu, RmsNorm};
    let plain = |l: &LayerSpec| {
        matches!(
            l,
            Activation(_)
                | AllRelu(_)
                | BatchNorm(_)
                | Dropout(_)
                | Flatten(_)
                | LayerNorm(_)
                | Linear(_)
                | Relu(_)
                | RmsNorm(_)
        )
    };
    model.spec.layers.iter().all(plain)
}

/// Measures a model. O(nonzeros) except for dense layers.
pub fn inspect<T: Number>(model: &Model<T>, header: &Header, registry: Registry) -> Result<Inspection> {
    let mut layers = Vec::new();
    let mut topologies = Vec::new();
    for p in model.weights() {
        let topology = p.topology();
        let magnitudes: Vec<f64> = p.entries(&p.value).iter().map(|v| v.f64().abs()).collect();
        let fold = |f: fn(f64, f64) -> f64, from: f64| magnitudes.iter().copied().fold(from, f);
        let mean = magnitudes.iter().sum::<f64>() / magnitudes.len().max(1) as f64;
        let full = topology.nnz() == p.shape.len();
        layers.push(Layer {
            name: p.shape.name.clone(),
            rows: p.shape.rows,
            cols: p.shape.cols,
            nonzeros: topology.nnz(),
            density: topology.density(),
            prunable: p.prunable,
            dense_bytes: 4 * p.shape.len(),
            packed_bytes: packed(&topology),
            fan_in: graph_stats::fan_in(&topology),
            fan_out: graph_stats::fan_out(&topology),
            components: graph_stats::components(&[&topology])?,
            spectral: (!full).then(|| graph_stats::spectral(&topology)),
            magnitude: [fold(f64::min, f64::INFINITY), mean, fold(f64::max, 0.0)],
        });
        topologies.push(topology);
    }
    let stack: Vec<&Topology> = topologies.iter().collect();
    let biases: usize = model.params.iter().filter(|p| !p.weight()).map(|p| 4 * p.value.len()).sum();
    let sum = |f: fn(&Layer) -> usize| layers.iter().map(f).sum::<usize>();
    let encoding = header.encoding.as_ref().map(Encoding::from_json).transpose()?;
    Ok(Inspection {
        model: header.model.name.clone(),
        data: header.data.clone(),
        method: header.method.clone(),
        nonzeros: sum(|l| l.nonzeros),
        entries: sum(|l| l.rows * l.cols),
        density: model.density(),
        input: model.spec.input,
        input_fan_out: input_fan_out(model, topologies.first()),
        inputs: encoding.as_ref().map_or_else(Vec::new, Encoding::inputs),
        dense_bytes: biases + sum(|l| l.dense_bytes),
        packed_bytes: biases + sum(|l| l.packed_bytes),
        paths: graph_stats::paths(&stack).ok().filter(|_| unit_by_unit(model)),
        components: graph_stats::components(&stack).ok().filter(|_| unit_by_unit(model)),
        layers,
        measures: measures(model, registry),
    })
}

/// Computes every registered probe.
fn measures<T: Number>(model: &Model<T>, registry: Registry) -> BTreeMap<&'static str, f64> {
    let setting = Setting { seed: 0, steps: 1, steps_per_epoch: 1 };
    let of = |m: &'static nnz_core::Method| {
        let probe = m.build(&m.defaults(), &setting).ok()?.probe?;
        Some((m.key, nnz_engine::probe(model, &*probe)))
    };
    registry.methods().filter_map(of).collect()
}
