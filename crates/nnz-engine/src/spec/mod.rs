mod zoo;

use crate::data::Graph;
use crate::layers::{
    Flatten, Gcn, Layer, LayerSpec, Layers, ParamSpec, Role, bind, chain_output, chain_resized, common_multiple,
    describe,
};
use crate::{Error, Result};
use nnz_core::Shape;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

pub use zoo::KNOWN;

/// A network: an input shape and a sequence of layers. The last layer with weights is the head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Name it was requested by, e.g. `mlp:784-300-100-10`.
    pub name: String,
    /// Channels, height and width of the input.
    pub input: [usize; 3],
    /// The layers.
    pub layers: Vec<LayerSpec>,
}

/// Most values in a row or a dense parameter.
const MOST: usize = 1 << 40;
/// Most entries of a weight, zero or not: those of a sparse one are never made. Products of densities and entries stay exact.
const MOST_ENTRIES: usize = 1 << 52;

impl ModelSpec {
    /// Parses a network's name, for images of `[channels, height, width]` and `outputs` outputs, such as classes;
    /// [`KNOWN`] lists the names.
    pub fn parse(text: &str, input: [usize; 3], outputs: usize) -> Result<Self> {
        let bad = |why: String| Error::Model { spec: text.into(), why };
        let layers = zoo::layers(text, input, outputs).map_err(bad)?;
        let spec = Self { name: text.into(), input, layers };
        spec.check(outputs).map_err(bad)?;
        Ok(spec)
    }

    /// A graph convolutional network on a graph, with dropout of a half: `gcn:64` has one hidden layer of 64.
    pub fn gcn(text: &str, graph: &Graph, outputs: usize) -> Result<Self> {
        let bad = |why: &str| Error::Model { spec: text.into(), why: why.into() };
        let widths = text.strip_prefix("gcn:").unwrap_or_default().split('-').map(str::parse).collect::<Result<_, _>>();
        let hidden: Vec<usize> = widths.map_err(|_| bad("expected hidden widths, such as gcn:64"))?;
        let (nodes, features) = (graph.edges.rows(), graph.features.cols());
        let gcn = Gcn { name: "gcn".into(), nodes, features, hidden, outputs, dropout: 0.5 };
        let spec = Self { name: text.into(), input: [1, 1, 1], layers: vec![Flatten {}.into(), gcn.into()] };
        spec.check(outputs).map_err(|why| bad(&why))?;
        Ok(spec)
    }

    /// Looks up the layers of other crates in `layers`. Until then no network with one passes [`ModelSpec::check`].
    ///
    /// # Errors
    /// When one is not among them, or does not take its options.
    pub fn bind(&mut self, layers: &Layers) -> Result<()> {
        bind(&mut self.layers, layers).map_err(|why| Error::Model { spec: self.name.clone(), why })
    }

    /// Returns the output shape of one example, or where sizes do not fit from layer to layer.
    pub fn output(&self) -> Result<Vec<usize>, String> {
        let [c, h, w] = self.input;
        if [c, h, w].into_iter().try_fold(1usize, |n, s| n.checked_mul(s)).is_none_or(|n| n == 0 || n > MOST) {
            return Err(format!("inputs of {c}x{h}x{w} numbers"));
        }
        let mut names = HashSet::new();
        for p in self.params() {
            let most = if p.role == Role::Weight { MOST_ENTRIES } else { MOST };
            if p.shape.rows.checked_mul(p.shape.cols).is_none_or(|n| n > most) {
                return Err(format!("`{}` would have {}x{} entries", p.shape.name, p.shape.rows, p.shape.cols));
            }
            if !names.insert(p.shape.name.clone()) {
                return Err(format!("two parameters are named `{}`", p.shape.name));
            }
        }
        chain_output(&self.layers, &[h, w, c])
    }

    /// Checks that sizes fit from layer to layer and end in `outputs` numbers, or in as many arranged as the input; the
    /// error says where they do not.
    pub fn check(&self, outputs: usize) -> Result<(), String> {
        let [c, h, w] = self.input;
        let shape = self.output()?;
        match shape == [outputs] || (shape == [h, w, c] && c * h * w == outputs) {
            true => Ok(()),
            false => Err(format!(
                "the network ends in {}, but {outputs} outputs are needed: one for each class, target or input to rebuild",
                describe(&shape)
            )),
        }
    }

    /// Whether inputs are token or node ids, which must not be normalized.
    pub fn reads_tokens(&self) -> bool {
        let first = self.layers.iter().find(|l| !l.params().is_empty());
        matches!(first, Some(LayerSpec::Embedding(_) | LayerSpec::Gcn(_)))
    }

    /// Every parameter and buffer in the order of the layers; the last weight is marked as the head.
    pub fn params(&self) -> Vec<ParamSpec> {
        let mut params: Vec<ParamSpec> = self.layers.iter().flat_map(Layer::params).collect();
        if let Some(last) = params.iter_mut().rev().find(|p| p.role == Role::Weight) {
            last.shape.head = true;
        }
        params
    }

    /// The weights, first layer first; the last one is marked as the head.
    pub fn weights(&self) -> Vec<Shape> {
        self.params().into_iter().filter(|p| p.role == Role::Weight).map(|p| p.shape).collect()
    }

    /// Names of the activations that [`crate::Taps`] can reach, in the order of computation.
    pub fn taps(&self) -> Vec<String> {
        fn walk(prefix: &str, layers: &[LayerSpec], names: &mut Vec<String>) {
            for (i, layer) in layers.iter().enumerate() {
                layer.chains().iter().for_each(|(prefix, chain)| walk(prefix, chain, names));
                names.push(layer.tap(prefix, i));
            }
        }
        let mut names = Vec::new();
        walk("", &self.layers, &mut names);
        names
    }

    /// Entries of all weights, zero or not, biases not counted.
    pub fn entries(&self) -> usize {
        self.weights().iter().map(Shape::len).sum()
    }

    /// The same network with hidden widths scaled so that its weights come as near as possible to `entries`. Widths stay
    /// multiples of what heads and groups require.
    pub fn narrowed(&self, entries: usize) -> Self {
        let multiple = self.layers.iter().map(Layer::multiple).fold(1, common_multiple);
        let head = self.layers.iter().rposition(|l| l.params().iter().any(|p| p.role == Role::Weight));
        let [c, h, w] = self.input;
        let scaled = |f: f64| {
            let width = |n: usize| ((n as f64 * f / multiple as f64).round() as usize).max(1) * multiple;
            Self { layers: chain_resized(&self.layers, &[h, w, c], &width, head), ..self.clone() }
        };
        // Entries grow with the factor, so bisect; then take the nearer side.
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..40 {
            let middle = (low + high) / 2.0;
            if scaled(middle).entries() > entries { high = middle } else { low = middle }
        }
        let mut best = [low, high].map(scaled);
        best.sort_by_key(|s| s.entries().abs_diff(entries));
        let [mut spec, _] = best;
        let widths: Vec<String> = spec.weights().iter().map(|s| s.rows.to_string()).collect();
        spec.name = format!("{} narrowed to {}", self.name, widths.join("-"));
        spec
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_models_parse_and_count() {
        let spec = ModelSpec::parse("mlp:784-300-100-10", [1, 28, 28], 10).unwrap();
        assert_eq!(spec.entries(), 266_200);
        assert!(spec.weights()[2].head && !spec.weights()[0].head);
        // LeNet-5-Caffe has 430,500 weights (431,080 parameters with biases).
        let lenet = ModelSpec::parse("lenet5", [1, 28, 28], 10).unwrap();
        assert_eq!(lenet.entries(), 430_500);
        // ResNet-20 has 268,336 weights with parameter-free shortcuts (He et al. 2015 round its parameters to 0.27 million);
        // the two projections add 16·32 and 32·64.
        let resnet = ModelSpec::parse("resnet20", [3, 32, 32], 10).unwrap();
        assert_eq!(resnet.entries(), 268_336 + 512 + 2048);
        assert_eq!(resnet.weights().len(), 20 + 2);
    }

    #[test]
    fn misfits_are_refused_with_the_place() {
        let why = |text: &str, input| ModelSpec::parse(text, input, 10).unwrap_err().to_string();
        assert!(why("mlp:100-10", [1, 28, 28]).contains("784"));
        assert!(why("mlp:784-20", [1, 28, 28]).contains("10 outputs"));
        assert!(why("mlp:784", [1, 28, 28]).contains("mlp:784-300-100-10"));
        assert!(why("mlp:784-0-10", [1, 28, 28]).contains("widths"));
        assert!(why("resnet", [1, 28, 28]).contains("lenet5"));
        assert!(why("lenet5", [1, 8, 8]).contains("too small"));
        assert!(why("transformer:30-2-4-4", [1, 28, 28]).contains("heads"));
        assert!(why("transformer:32-2-4-40", [1, 28, 28]).contains("patch"));
        assert!(why("transformer:32-4000000000-4-4", [1, 28, 28]).contains("1000 blocks"));
    }

    #[test]
    fn narrowing_meets_the_budget() {
        for (text, budget) in [
            ("mlp:784-300-100-10", 14_260),
            ("lenet5", 25_000),
            ("resnet8", 12_000),
            ("mobilenet-small", 6_000),
            ("transformer:64-2-4-7", 20_000),
        ] {
            let spec = ModelSpec::parse(text, [1, 28, 28], 10).unwrap().narrowed(budget);
            spec.check(10).unwrap();
            assert!(spec.entries().abs_diff(budget) < budget / 4, "{text} {}", spec.entries());
            if text.starts_with("mlp") || text == "lenet5" {
                assert!(spec.entries().abs_diff(budget) < budget / 20, "{text} {}", spec.entries());
            }
        }
    }

    #[test]
    fn networks_of_every_kind_can_be_narrowed() {
        for (text, budget) in [
            (include_str!("../../../../networks/convolutional-autoencoder.toml"), 30_000),
            (include_str!("../../../../networks/vae.toml"), 40_000),
            (include_str!("../../../../networks/gru.toml"), 4_000),
        ] {
            let spec: ModelSpec = toml::from_str(text).unwrap();
            let (shape, narrow) = (spec.output().unwrap(), spec.narrowed(budget));
            assert_eq!(narrow.output().unwrap(), shape, "{}", spec.name);
            assert!(narrow.entries().abs_diff(budget) < budget / 4, "{} {}", spec.name, narrow.entries());
        }
    }

    #[test]
    fn networks_are_toml_and_misspellings_are_refused() {
        for text in ["resnet8", "mobilenet-small", "transformer:16-1-2-7", "vgg-small"] {
            let spec = ModelSpec::parse(text, [1, 28, 28], 10).unwrap();
            let json = serde_json::to_string(&spec).unwrap();
            assert_eq!(serde_json::from_str::<ModelSpec>(&json).unwrap(), spec);
        }
        let bad = r#"{"layer": "linear", "name": "a", "inputs": 2, "outputs": 3, "biass": true}"#;
        assert!(serde_json::from_str::<LayerSpec>(bad).unwrap_err().to_string().contains("biass"));
        let text = r#"{"name": "x", "input": [1, 8, 8], "layers": [{"layer": "liner"}]}"#;
        let why = serde_json::from_str::<ModelSpec>(text).unwrap().check(1).unwrap_err();
        assert!(why.contains("no layer named `liner` (did you mean `linear`?)"), "{why}");
    }

    /// A file's windows must not make a pass allocate without bound.
    #[test]
    fn windows_far_beyond_the_picture_are_refused() {
        let fits = |layer: &str| {
            let text = format!(r#"{{"name": "x", "input": [1, 8, 8], "layers": [{layer}]}}"#);
            serde_json::from_str::<ModelSpec>(&text).unwrap().output().is_ok()
        };
        let conv = |kernel: usize, padding: usize, dilation: usize| {
            fits(&format!(
                r#"{{"layer": "conv2d", "name": "c", "inputs": 1, "outputs": 1, "kernel": {kernel}, "padding": {padding},
                    "dilation": {dilation}}}"#
            ))
        };
        assert!(conv(3, 1, 1) && conv(3, 2, 2) && conv(5, 4, 1) && conv(8, 0, 1));
        let huge = 1 << 30;
        assert!(!conv(2, huge, huge) && !conv(3, 9, 9) && !conv(1, 1, 1) && !conv(usize::MAX, usize::MAX, 1));
        let pool = |kind: &str, size: usize, padding: usize| {
            fits(&format!(r#"{{"layer": "{kind}-pool", "size": {size}, "padding": {padding}}}"#))
        };
        for kind in ["max", "avg"] {
            assert!(pool(kind, 2, 0) && pool(kind, 3, 1) && pool(kind, 8, 4));
            assert!(!pool(kind, huge, huge / 2) && !pool(kind, 2, 2) && !pool(kind, 0, 0) && !pool(kind, 9, 1));
        }
    }

    #[test]
    fn taps_have_unique_names() {
        for text in ["resnet8", "transformer:16-2-2-7", "lenet5"] {
            let names = ModelSpec::parse(text, [1, 28, 28], 10).unwrap().taps();
            let unique: HashSet<&String> = names.iter().collect();
            assert_eq!(unique.len(), names.len(), "{names:?}");
        }
    }
}
