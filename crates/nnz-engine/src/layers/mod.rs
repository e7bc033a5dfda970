//! Layers. A new one is a file with a struct that implements [`Layer`], a `mod` line and a line in `layers!`.

mod activation;
mod attention;
mod cache;
mod context;
mod conv;
mod dropout;
mod embedding;
mod gcn;
mod linear;
mod norm;
mod open;
mod param;
mod pass;
mod pool;
mod recurrent;
mod reshape;
mod residual;
mod sample;
mod upsample;

use crate::Real;
use crate::{Result, Var};
use serde::{Deserialize, Serialize};

pub use activation::{Activation, AllRelu, Function, Relu};
pub use attention::Attention;
pub use cache::Cache;
pub use context::{Context, Effects, Repeated, Statistics};
pub use conv::{Conv, Conv1d, Conv2d, Conv3d, ConvTransposed1d, ConvTransposed2d, ConvTransposed3d};
pub use dropout::Dropout;
pub use embedding::{Embedding, Positions};
pub use gcn::Gcn;
pub use linear::Linear;
pub use norm::{BatchNorm, GroupNorm, LayerNorm, RmsNorm};
pub(crate) use open::bind;
pub use open::{CustomLayer, Layers, Open};
pub use param::{Init, ParamSpec, Role};
pub use pass::{Gram, Mode, Moments, Pass};
pub use pool::{AvgPool, GlobalAvgPool, MaxPool};
pub use recurrent::{Cell, Recurrent};
pub use reshape::{Flatten, Last, Reshape, Tokens};
pub use residual::Residual;
pub use sample::Sample;
pub use upsample::Upsample;

/// Largest factor by which one layer may lengthen an axis.
const LONGEST: usize = 64;

/// A value, or why a layer cannot take an input.
pub type Fit<V> = std::result::Result<V, String>;

/// A layer: its parameters, its input and output shapes, and its mathematics. Shapes are without the batch:
/// images are `[height, width, channels]`, sequences `[length, width]`.
pub trait Layer {
    /// Name of its parameters and of its tap; `None` for layers without parameters.
    fn name(&self) -> Option<&str> {
        None
    }

    /// Its parameters in the order in which [`Layer::forward`] takes them. Sizes saturate, so that a specification
    /// from a file cannot overflow.
    fn params(&self) -> Vec<ParamSpec> {
        Vec::new()
    }

    /// Chains inside it, each with the prefix of its unnamed taps.
    fn chains(&self) -> Vec<(String, &[LayerSpec])> {
        Vec::new()
    }

    /// Returns the shape of the output, or why it cannot take the input.
    fn output(&self, input: &[usize]) -> Fit<Vec<usize>>;

    /// Computes the output of `x`, `[batch, ..]`.
    fn forward<T: Real>(&self, x: &Var<T>, cx: &mut Context<'_, T>) -> Result<Var<T>>;

    /// Whether its output at a position depends on no later position, so that a sequence can be run in parts
    /// ([`Cache`]).
    fn causal(&self, _input: &[usize]) -> bool {
        false
    }

    /// The same layer for another input, with widths changed by `width` unless it is the head.
    fn resized(&self, input: &[usize], width: &dyn Fn(usize) -> usize, head: bool) -> LayerSpec;

    /// A number its widths must be a multiple of.
    fn multiple(&self) -> usize {
        1
    }
}

macro_rules! layers {
    ($($(#[$doc:meta])* $layer:ident),* $(,)?) => {
        /// One layer, as a file's header stores it: its kind in kebab-case under `layer`, with its options.
        #[derive(Clone, Debug, PartialEq)]
        pub enum LayerSpec {
            $($(#[$doc])* $layer($layer),)*
            /// A layer of another crate.
            Open(Open),
        }

        /// The layers of this crate, for reading.
        #[derive(Deserialize)]
        #[serde(tag = "layer", rename_all = "kebab-case")]
        enum Read {
            $($layer($layer)),*
        }

        /// The layers, for writing.
        #[derive(Serialize)]
        #[serde(tag = "layer", rename_all = "kebab-case")]
        enum Write<'a> {
            $($layer(&'a $layer)),*
        }

        impl Serialize for LayerSpec {
            fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
                match self {
                    $(Self::$layer(l) => Write::$layer(l).serialize(to),)*
                    Self::Open(l) => l.serialize(to),
                }
            }
        }

        impl<'de> Deserialize<'de> for LayerSpec {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
                let value = serde_json::Value::deserialize(from)?;
                let known = Self::kinds();
                let open = value.get("layer").and_then(|k| k.as_str()).is_some_and(|k| !known.iter().any(|n| n == k));
                if open {
                    return Open::deserialize(value).map(Self::Open).map_err(serde::de::Error::custom);
                }
                Ok(match Read::deserialize(value).map_err(serde::de::Error::custom)? {
                    $(Read::$layer(l) => Self::$layer(l)),*
                })
            }
        }

        $(impl From<$layer> for LayerSpec {
            fn from(layer: $layer) -> Self {
                Self::$layer(layer)
            }
        })*

        impl Layer for LayerSpec {
            fn name(&self) -> Option<&str> {
                match self { $(Self::$layer(l) => l.name(),)* Self::Open(l) => l.name() }
            }

            fn params(&self) -> Vec<ParamSpec> {
                match self { $(Self::$layer(l) => l.params(),)* Self::Open(l) => l.params() }
            }

            fn chains(&self) -> Vec<(String, &[LayerSpec])> {
                match self { $(Self::$layer(l) => l.chains(),)* Self::Open(l) => l.chains() }
            }

            fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
                match self { $(Self::$layer(l) => l.output(input),)* Self::Open(l) => l.output(input) }
            }

            fn forward<T: Real>(&self, x: &Var<T>, cx: &mut Context<'_, T>) -> Result<Var<T>> {
                match self { $(Self::$layer(l) => l.forward(x, cx),)* Self::Open(l) => l.forward(x, cx) }
            }

            fn causal(&self, input: &[usize]) -> bool {
                match self { $(Self::$layer(l) => l.causal(input),)* Self::Open(l) => l.causal(input) }
            }

            fn resized(&self, input: &[usize], width: &dyn Fn(usize) -> usize, head: bool) -> LayerSpec {
                match self { $(Self::$layer(l) => l.resized(input, width, head),)* Self::Open(l) => l.resized(input, width, head) }
            }

            fn multiple(&self) -> usize {
                match self { $(Self::$layer(l) => l.multiple(),)* Self::Open(l) => l.multiple() }
            }
        }

        impl LayerSpec {
            /// Its kind, as Rust names it.
            fn kind(&self) -> &str {
                match self { $(Self::$layer(_) => stringify!($layer),)* Self::Open(l) => l.kind() }
            }

            /// The kinds of layers of this crate, as files name them.
            pub fn kinds() -> Vec<String> {
                vec![$(kebab(stringify!($layer))),*]
            }
        }
    };
}

layers! {
    /// x Wᵀ + b
    Linear,
    /// A convolution along sequences.
    Conv1d,
    /// A convolution over images.
    Conv2d,
    /// A convolution over volumes.
    Conv3d,
    /// The transpose of a convolution along sequences.
    ConvTransposed1d,
    /// The transpose of a convolution over images.
    ConvTransposed2d,
    /// The transpose of a convolution over volumes.
    ConvTransposed3d,
    /// Upsampling.
    Upsample,
    /// max(x, 0)
    Relu,
    /// Another elementwise function.
    Activation,
    /// x, or a signed slope times x below zero.
    AllRelu,
    /// Largest value in every window.
    MaxPool,
    /// Mean of every window.
    AvgPool,
    /// Mean over pixels or positions.
    GlobalAvgPool,
    /// Everything but the batch folded into one axis.
    Flatten,
    /// The same numbers under another shape.
    Reshape,
    /// Pixels as positions of a sequence.
    Tokens,
    /// The last position of a sequence.
    Last,
    /// Batch normalization.
    BatchNorm,
    /// Layer normalization.
    LayerNorm,
    /// Root-mean-square normalization.
    RmsNorm,
    /// Group normalization.
    GroupNorm,
    /// Zeroes entries at random in training.
    Dropout,
    /// Vectors of tokens.
    Embedding,
    /// Learned vectors of positions.
    Positions,
    /// Multi-head self-attention.
    Attention,
    /// A state carried along a sequence.
    Recurrent,
    /// Normal samples with given means and variances.
    Sample,
    /// A graph convolutional network.
    Gcn,
    /// A chain with a shortcut.
    Residual,
}

impl From<Open> for LayerSpec {
    fn from(layer: Open) -> Self {
        Self::Open(layer)
    }
}

/// `ConvTransposed1d` to `conv-transposed1d`.
fn kebab(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 2);
    for (i, c) in name.char_indices() {
        if i > 0 && c.is_uppercase() {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

impl LayerSpec {
    /// The tap after this layer, the `index`-th of a chain: its name, or its position and kind (`3.relu`).
    pub(crate) fn tap(&self, prefix: &str, index: usize) -> String {
        self.name().map_or_else(|| format!("{prefix}{index}.{}", self.kind().to_lowercase()), str::to_owned)
    }
}

/// The output shape of a chain; the error names the layer that does not fit.
pub(crate) fn chain_output(layers: &[LayerSpec], input: &[usize]) -> Fit<Vec<usize>> {
    layers.iter().enumerate().try_fold(input.to_vec(), |shape, (i, layer)| {
        let place = || layer.name().map_or_else(|| layer.kind().to_lowercase(), str::to_owned);
        let shape = layer.output(&shape).map_err(|why| format!("layer {} ({}): {why}", i + 1, place()))?;
        match shape.iter().try_fold(1usize, |n, &s| n.checked_mul(s)).is_some_and(|n| n < 1 << 40) {
            true => Ok(shape),
            false => Err(format!("layer {} ({}) would give {shape:?} numbers", i + 1, place())),
        }
    })
}

/// Refuses the first layer whose output looks ahead; see [`Layer::causal`].
pub(crate) fn chain_causal(layers: &[LayerSpec], input: &[usize]) -> Fit<()> {
    layers.iter().enumerate().try_fold(input.to_vec(), |shape, (i, layer)| match layer.causal(&shape) {
        true => layer.output(&shape),
        false => Err(format!("`{}` looks at the whole of {}", layer.tap("", i), describe(&shape))),
    })?;
    Ok(())
}

/// Resizes a chain for another input; see [`Layer::resized`]. A layer that no longer fits ends the chain unchanged.
pub(crate) fn chain_resized(
    layers: &[LayerSpec],
    input: &[usize],
    width: &dyn Fn(usize) -> usize,
    head: Option<usize>,
) -> Vec<LayerSpec> {
    let mut shape = input.to_vec();
    // The output of a weight must fill the shape that a later layer gives it.
    let grid = |i: usize| {
        let behind = layers[i + 1..].iter().take_while(|l| l.params().is_empty());
        behind.map(|l| if let LayerSpec::Reshape(r) = l { r.lead() } else { 1 }).fold(1, common_multiple)
    };
    let one = |(i, layer): (usize, &LayerSpec)| {
        let grid = grid(i);
        let near = |n: usize| ((width(n) as f64 / grid as f64).round() as usize).max(1).saturating_mul(grid);
        let layer = layer.resized(&shape, &near, Some(i) == head);
        shape = layer.output(&shape).unwrap_or_else(|_| shape.clone());
        layer
    };
    layers.iter().enumerate().map(one).collect()
}

/// Least common multiple, saturating.
pub(crate) fn common_multiple(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a.max(1), b.max(1));
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a.max(1) / x).saturating_mul(b.max(1))
}

/// Describes a shape in words.
pub fn describe(shape: &[usize]) -> String {
    match shape {
        [h, w, c] => format!("pictures of {h}x{w} with {c} channels"),
        [t, n] => format!("{t} positions of {n} numbers"),
        [n] => format!("{n} numbers"),
        other => format!("{other:?}"),
    }
}
