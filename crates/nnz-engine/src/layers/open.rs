//! Layers of other crates. A network from a file names them; [`Layers`] holds those that a program knows.

use super::{Context, Fit, Layer, LayerSpec, ParamSpec};
use crate::{Axis, Error, Real, Result, Var};
use nnz_core::closest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

/// A layer from another crate: a struct with its numbers, which are its options in a file, and the same
/// mathematics as a [`Layer`] of this crate.
pub trait CustomLayer: Clone + Debug + Send + Sync + Serialize + DeserializeOwned + 'static {
    /// Its name in files, such as `top-k`; must differ from this crate's.
    const KIND: &'static str;

    /// Name of its parameters and of its tap; `None` for layers without parameters.
    fn name(&self) -> Option<&str> {
        None
    }

    /// Its parameters, with their roles, in the order in which [`CustomLayer::forward`] takes them. Sizes saturate.
    fn params(&self) -> Vec<ParamSpec> {
        Vec::new()
    }

    /// Shape of the output, without the batch, or why it cannot take the input.
    fn output(&self, input: &[usize]) -> Fit<Vec<usize>>;

    /// The output of `x`, `[batch, ..]`.
    ///
    /// # Errors
    /// Whatever prevents the computation.
    fn forward<T: Real>(&self, x: &Var<T>, cx: &mut Context<'_, T>) -> Result<Var<T>>;

    /// See [`Layer::causal`].
    fn causal(&self, _input: &[usize]) -> bool {
        false
    }

    /// See [`Layer::resized`].
    fn resized(&self, _input: &[usize], _width: &dyn Fn(usize) -> usize, _head: bool) -> Self {
        self.clone()
    }

    /// See [`Layer::multiple`].
    fn multiple(&self) -> usize {
        1
    }

    /// Whether it has no parameters and every unit of its output is a function of the same unit of its input, so that an axis of
    /// units runs through it. Otherwise the axis ends, and stays whole.
    fn unitwise(&self) -> bool {
        false
    }

    /// The axes of units inside it that can be cut, for an input. Members are its own parameters, counted from zero.
    fn axes(&self, _input: &[usize]) -> Vec<Axis> {
        Vec::new()
    }

    /// The same layer without the units that `keep` rejects, for each of its axes in order; or why it cannot do without.
    fn cut(&self, _input: &[usize], _keep: &[Vec<bool>]) -> Fit<Self> {
        Err(format!("the units of a layer `{}` are not cut", Self::KIND))
    }

    /// How often one row of an input goes through each of its parameters; `None` if once for every position of the output.
    fn uses(&self, _input: &[usize]) -> Option<Vec<usize>> {
        None
    }
}

/// A type-erased custom layer for one number type.
trait Erased<T: Real>: Debug + Send + Sync {
    fn name(&self) -> Option<&str>;
    fn params(&self) -> Vec<ParamSpec>;
    fn output(&self, input: &[usize]) -> Fit<Vec<usize>>;
    fn forward(&self, x: &Var<T>, cx: &mut Context<'_, T>) -> Result<Var<T>>;
    fn causal(&self, input: &[usize]) -> bool;
    fn resized(&self, input: &[usize], width: &dyn Fn(usize) -> usize, head: bool) -> Open;
    fn multiple(&self) -> usize;
    fn unitwise(&self) -> bool;
    fn axes(&self, input: &[usize]) -> Vec<Axis>;
    fn cut(&self, input: &[usize], keep: &[Vec<bool>]) -> Fit<Open>;
    fn uses(&self, input: &[usize]) -> Option<Vec<usize>>;
}

impl<L: CustomLayer, T: Real> Erased<T> for L {
    fn name(&self) -> Option<&str> {
        self.name()
    }

    fn params(&self) -> Vec<ParamSpec> {
        self.params()
    }

    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        self.output(input)
    }

    fn forward(&self, x: &Var<T>, cx: &mut Context<'_, T>) -> Result<Var<T>> {
        self.forward(x, cx)
    }

    fn causal(&self, input: &[usize]) -> bool {
        self.causal(input)
    }

    fn resized(&self, input: &[usize], width: &dyn Fn(usize) -> usize, head: bool) -> Open {
        Open::new(self.resized(input, width, head))
    }

    fn multiple(&self) -> usize {
        self.multiple()
    }

    fn unitwise(&self) -> bool {
        self.unitwise()
    }

    fn axes(&self, input: &[usize]) -> Vec<Axis> {
        self.axes(input)
    }

    fn cut(&self, input: &[usize], keep: &[Vec<bool>]) -> Fit<Open> {
        self.cut(input, keep).map(Open::new)
    }

    fn uses(&self, input: &[usize]) -> Option<Vec<usize>> {
        self.uses(input)
    }
}

/// Builds a layer from its options.
type Maker = fn(&Map<String, Value>) -> std::result::Result<Bound, String>;

/// A known layer, for each number type.
#[derive(Clone, Debug)]
struct Bound {
    make: Maker,
    narrow: Arc<dyn Erased<f32>>,
    wide: Arc<dyn Erased<f64>>,
}

impl Bound {
    fn new<L: CustomLayer>(layer: L) -> Self {
        let make: Maker = |options| {
            let layer = L::deserialize(Value::Object(options.clone())).map_err(|e| e.to_string())?;
            Ok(Self::new(layer))
        };
        Self { make, narrow: Arc::new(layer.clone()), wide: Arc::new(layer) }
    }

    fn of<T: Real>(&self) -> &dyn Erased<T> {
        let both: [&dyn Any; 2] = [&self.narrow, &self.wide];
        let own = both.into_iter().find_map(|l| l.downcast_ref::<Arc<dyn Erased<T>>>());
        &**own.expect("numbers are f32 or f64")
    }
}

/// A layer of another crate, as a file's header stores it: its kind under `layer`, with its options. Until a program that
/// knows it binds it ([`crate::ModelSpec::bind`]), no network with it passes its check.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Open {
    #[serde(rename = "layer")]
    kind: String,
    #[serde(flatten)]
    options: Map<String, Value>,
    #[serde(skip)]
    bound: Option<Bound>,
}

impl PartialEq for Open {
    fn eq(&self, other: &Self) -> bool {
        (&self.kind, &self.options) == (&other.kind, &other.options)
    }
}

impl Open {
    /// Wraps a known layer.
    ///
    /// # Panics
    /// When its options are not a table.
    pub fn new<L: CustomLayer>(layer: L) -> Self {
        let Ok(Value::Object(options)) = serde_json::to_value(&layer) else {
            panic!("the options of a layer `{}` are no table", L::KIND)
        };
        Self { kind: L::KIND.into(), options, bound: Some(Bound::new(layer)) }
    }

    /// Its name in files.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Its numbers, as a layer of the kind that its name says.
    ///
    /// # Errors
    /// When they are not what that layer takes.
    pub fn read<L: CustomLayer>(&self) -> std::result::Result<L, String> {
        L::deserialize(Value::Object(self.options.clone())).map_err(|e| e.to_string())
    }

    /// Whether an axis of units runs through it.
    pub(crate) fn unitwise(&self) -> bool {
        self.bound.as_ref().is_some_and(|b| b.narrow.params().is_empty() && b.narrow.unitwise())
    }

    /// See [`CustomLayer::axes`].
    pub(crate) fn axes(&self, input: &[usize]) -> Vec<Axis> {
        self.bound.as_ref().map_or_else(Vec::new, |b| b.narrow.axes(input))
    }

    /// See [`CustomLayer::cut`].
    pub(crate) fn cut(&self, input: &[usize], keep: &[Vec<bool>]) -> Fit<Self> {
        self.bound.as_ref().ok_or_else(|| format!("no layer named `{}`", self.kind))?.narrow.cut(input, keep)
    }

    /// See [`CustomLayer::uses`].
    pub(crate) fn uses(&self, input: &[usize]) -> Option<Vec<usize>> {
        let layer = &self.bound.as_ref()?.narrow;
        layer.uses(input).filter(|u| u.len() == layer.params().len())
    }

    /// Looks it up among `layers`.
    pub(crate) fn bind(&mut self, layers: &Layers) -> std::result::Result<(), String> {
        let Some(make) = layers.0.get(&*self.kind) else {
            let known = LayerSpec::kinds();
            let all = known.iter().map(String::as_str).chain(layers.0.keys().map(String::as_str));
            return Err(format!("no layer named `{}`{}", self.kind, closest(&self.kind, all)));
        };
        let bound = make(&self.options).map_err(|why| format!("layer `{}`: {why}", self.kind))?;
        self.bound = Some(bound);
        Ok(())
    }
}

impl Layer for Open {
    fn name(&self) -> Option<&str> {
        self.bound.as_ref()?.narrow.name()
    }

    fn params(&self) -> Vec<ParamSpec> {
        self.bound.as_ref().map_or_else(Vec::new, |b| b.narrow.params())
    }

    fn output(&self, input: &[usize]) -> Fit<Vec<usize>> {
        match &self.bound {
            Some(bound) => bound.narrow.output(input),
            None => {
                let mut known = LayerSpec::kinds();
                known.extend(Layers::known().0.keys().cloned());
                let hint = closest(&self.kind, known.iter().map(String::as_str));
                Err(format!("no layer named `{}`{hint}; this program knows {}", self.kind, known.join(", ")))
            }
        }
    }

    fn forward<T: Real>(&self, x: &Var<T>, cx: &mut Context<'_, T>) -> Result<Var<T>> {
        match &self.bound {
            Some(bound) => bound.of::<T>().forward(x, cx),
            None => Err(Error::Refused(format!("no layer named `{}`", self.kind))),
        }
    }

    fn causal(&self, input: &[usize]) -> bool {
        self.bound.as_ref().is_some_and(|b| b.narrow.causal(input))
    }

    fn resized(&self, input: &[usize], width: &dyn Fn(usize) -> usize, head: bool) -> LayerSpec {
        match &self.bound {
            Some(bound) => bound.narrow.resized(input, width, head).into(),
            None => self.clone().into(),
        }
    }

    fn multiple(&self) -> usize {
        self.bound.as_ref().map_or(1, |b| b.narrow.multiple())
    }
}

/// The custom layers that a program knows, by name.
#[derive(Clone, Debug, Default)]
pub struct Layers(BTreeMap<String, Maker>);

static KNOWN: OnceLock<Layers> = OnceLock::new();
static NONE: Layers = Layers(BTreeMap::new());

impl Layers {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes these known to all that this process reads, recipes and files: a program does so once, when it begins. Returns
    /// whether none had been made known before.
    pub fn make_known(self) -> bool {
        KNOWN.set(self).is_ok()
    }

    /// Those that were made known; none before.
    pub fn known() -> &'static Self {
        KNOWN.get().unwrap_or(&NONE)
    }

    /// Adds a layer.
    ///
    /// # Panics
    /// When another layer has its name.
    pub fn with<L: CustomLayer>(mut self) -> Self {
        let make: Maker = |options| {
            let layer = L::deserialize(Value::Object(options.clone())).map_err(|e| e.to_string())?;
            Ok(Bound::new(layer))
        };
        let taken = LayerSpec::kinds().iter().any(|k| k == L::KIND) || self.0.insert(L::KIND.into(), make).is_some();
        assert!(!taken, "two layers are named `{}`", L::KIND);
        self
    }

    /// Collects those that are bound in a network.
    pub fn of(layers: &[LayerSpec]) -> Self {
        fn walk(layers: &[LayerSpec], all: &mut Layers) {
            for layer in layers {
                layer.chains().iter().for_each(|(_, chain)| walk(chain, all));
                if let LayerSpec::Open(Open { kind, bound: Some(bound), .. }) = layer {
                    all.0.insert(kind.clone(), bound.make);
                }
            }
        }
        let mut all = Self::new();
        walk(layers, &mut all);
        all
    }
}

/// Binds every custom layer of a chain, including those inside residual blocks.
pub(crate) fn bind(chain: &mut [LayerSpec], layers: &Layers) -> std::result::Result<(), String> {
    chain.iter_mut().try_for_each(|layer| match layer {
        LayerSpec::Open(open) => open.bind(layers),
        LayerSpec::Residual(r) => bind(&mut r.body, layers).and_then(|()| bind(&mut r.shortcut, layers)),
        _ => Ok(()),
    })
}
