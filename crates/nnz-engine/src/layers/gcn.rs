use super::{Context, Fit, Init, Layer, LayerSpec, ParamSpec, describe};
use crate::Real;
use crate::ops;
use crate::{Connections, Error, Result, Tensor, Var};
use nnz_core::LayerRole;
use serde::{Deserialize, Serialize};

/// A graph convolutional network over all nodes of one graph (Kipf & Welling 2017, arXiv:1609.02907):
/// H ← relu(Â H Wᵀ + b) layer by layer, the last without relu, with Â = D^-½ (A + I) D^-½ of the edges that exist now.
/// Inputs are node ids; each gives the outputs of its node. Edges and features come with the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gcn {
    /// Name of its parameters.
    pub name: String,
    /// Nodes of the graph.
    pub nodes: usize,
    /// Features of a node.
    pub features: usize,
    /// Widths of the hidden layers.
    pub hidden: Vec<usize>,
    /// Outputs.
    pub outputs: usize,
    /// Share of the features, and of the hidden units, that training drops.
    #[serde(default)]
    pub dropout: f64,
}

impl Gcn {
    /// Inputs and outputs of every layer.
    fn widths(&self) -> Vec<[usize; 2]> {
        let all: Vec<usize> =
            [self.features].into_iter().chain(self.hidden.iter().copied()).chain([self.outputs]).collect();
        all.windows(2).map(|w| [w[0], w[1]]).collect()
    }
}

/// The coefficients of Â at the edges, each of which stands for both of its directions, and on the diagonal.
fn normalized<T: Real>(edges: &Connections, nodes: usize) -> (Tensor<T>, Vec<T>) {
    let positions = edges.positions();
    let mut degrees = vec![1.0f64; nodes];
    for p in &positions {
        degrees[p / nodes] += 1.0;
        degrees[p % nodes] += 1.0;
    }
    let values = positions.iter().map(|p| T::of(1.0 / (degrees[p / nodes] * degrees[p % nodes]).sqrt())).collect();
    (Tensor::new(&[positions.len()], values), degrees.into_iter().map(|d| T::of(1.0 / d)).collect())
}

impl Layer for Gcn {
    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn params(&self) -> Vec<ParamSpec> {
        let mut params = vec![
            ParamSpec::structure(&self.name, "edges", self.nodes, self.nodes).acting(LayerRole::Edges),
            ParamSpec::structure(&self.name, "features", self.nodes, self.features),
        ];
        for (i, [inputs, outputs]) in self.widths().into_iter().enumerate() {
            let name = format!("{}.{i}", self.name);
            params.push(ParamSpec::weight(&name, outputs, inputs, [1, 1], Init::Glorot).acting(LayerRole::Graph));
            params.push(ParamSpec::vector(&name, "bias", outputs, Init::Zero));
        }
        params
    }

    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        match *input {
            [1] if self.nodes > 0 && self.features > 0 && (0.0..1.0).contains(&self.dropout) => Ok(vec![self.outputs]),
            [1] => Err(format!("{} needs nodes, features, and a dropout below 1", self.name)),
            _ => Err(format!("{} takes the number of one node, not {}", self.name, describe(input))),
        }
    }

    fn forward<T: Real>(&self, x: &Var<T>, cx: &mut Context<'_, T>) -> Result<Var<T>> {
        let missing = || Error::Refused(format!("`{}` has no graph: its data must come with one", self.name));
        let edges = cx.structure().filter(|c| c.plan().nnz() > 0).ok_or_else(missing)?;
        let features = cx.structure().filter(|c| c.plan().nnz() > 0).ok_or_else(missing)?;
        let (coefficients, diagonal) = normalized::<T>(&edges, self.nodes);
        let coefficients = Var::constant(coefficients);
        let drop = |h: Var<T>, cx: &mut Context<'_, T>| match cx.rng("dropout") {
            Some(rng) if self.dropout > 0.0 => ops::dropout(&h, self.dropout, rng),
            _ => h,
        };
        // Â h for h `[width, nodes]`: an edge carries both ways, and every node to itself.
        let spread = |h: &Var<T>| {
            let itself = Tensor::new(h.shape(), diagonal.repeat(h.shape()[0]));
            let (to, from) = (ops::spmm(h, &coefficients, &edges), ops::spmm_t(h, &coefficients, &edges));
            ops::add(&ops::add(&to, &from), &ops::mul(h, &Var::constant(itself)))
        };
        let last = self.widths().len() - 1;
        let ones = drop(Var::constant(Tensor::full(&[features.plan().nnz()], T::ONE)), cx);
        let mut h = ones.clone();
        for i in 0..=last {
            let (weight, bias) = (cx.whole(), cx.take().1);
            let mixed = match i {
                0 => ops::spmm(&weight, &ones, &features),
                _ => ops::matmul(&weight, false, &h, true),
            };
            h = ops::add_bias(&ops::transpose(&spread(&mixed)), bias);
            if i < last {
                h = drop(ops::relu(&h), cx);
            }
        }
        let node = |v: &T| match v.f64() {
            n if n >= 0.0 && n < self.nodes as f64 && n.fract() == 0.0 => Ok(n as usize),
            n => Err(Error::Refused(format!("`{}` got {n}, which is no node below {}", self.name, self.nodes))),
        };
        let nodes = x.value().data().iter().map(node).collect::<Result<Vec<_>>>()?;
        Ok(ops::index_select(&h, 0, &nodes))
    }

    fn resized(&self, _: &[usize], width: &dyn Fn(usize) -> usize, _: bool) -> LayerSpec {
        Self { hidden: self.hidden.iter().map(|&n| width(n)).collect(), ..self.clone() }.into()
    }
}

#[cfg(test)]
mod tests {
    use crate::data::Graph;
    use crate::{Model, ModelSpec, Storage, Tensor};
    use nnz_core::Topology;

    /// A path of three nodes with one feature each, computed by hand with Â as a matrix.
    #[test]
    fn two_layers_on_a_path_are_those_of_the_dense_matrix() {
        let text = r#"{"name": "gcn", "input": [1, 1, 1], "layers": [{"layer": "flatten"},
            {"layer": "gcn", "name": "g", "nodes": 3, "features": 3, "hidden": [2], "outputs": 2}]}"#;
        let spec: ModelSpec = serde_json::from_str(text).unwrap();
        let mut model: Model<f64> = Model::born(&spec, None, Storage::Auto, false, 0).unwrap();
        assert!(model.infer(Tensor::zeros(&[1, 1])).unwrap_err().to_string().contains("graph"));
        let edges = Topology::from_positions(3, 3, [1, 5]);
        let features = Topology::from_positions(3, 3, [0, 4, 8]);
        model.adopt(&Graph { edges, features }).unwrap();
        let (s6, s4) = (1.0 / 6f64.sqrt(), 0.5);
        let a = [[s4, s6, 0.0], [s6, 1.0 / 3.0, s6], [0.0, s6, s4]];
        let w = [2, 4].map(|i| model.params[i].value.data().to_vec());
        model.params[3].value.data_mut().copy_from_slice(&[0.1, -0.2]);
        let mut h = [[0.0; 2]; 3];
        // Features are the identity, so X W₀ᵀ is W₀ᵀ.
        for v in 0..3 {
            for k in 0..2 {
                let sum: f64 = (0..3).map(|u| a[v][u] * w[0][k * 3 + u]).sum();
                h[v][k] = (sum + [0.1, -0.2][k]).max(0.0);
            }
        }
        let y = model.infer(Tensor::new(&[3, 1], vec![2.0, 0.0, 1.0])).unwrap();
        for (row, v) in [2, 0, 1].into_iter().enumerate() {
            for o in 0..2 {
                let mixed = |u: usize| (0..2).map(|k| w[1][o * 2 + k] * h[u][k]).sum::<f64>();
                let want: f64 = (0..3).map(|u| a[v][u] * mixed(u)).sum();
                assert!((y.data()[row * 2 + o] - want).abs() < 1e-12);
            }
        }
        assert!(model.infer(Tensor::new(&[1, 1], vec![3.0])).unwrap_err().to_string().contains("node"));
    }
}
