use crate::Real;
use crate::{Error, Result, Tensor, Var};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// Changes a value in passing.
pub type Change<T> = Arc<dyn Fn(&Var<T>) -> Var<T> + Send + Sync>;

struct Tap<T> {
    activation: Option<Change<T>>,
    gradient: Option<Change<T>>,
    seen: Mutex<Option<Tensor<T>>>,
    seen_gradient: Arc<Mutex<Option<Tensor<T>>>>,
}

/// Named places of a network where activations and their gradients are read or replaced during a pass.
/// [`crate::ModelSpec::taps`] lists the names.
#[derive(Default)]
pub struct Taps<T> {
    taps: BTreeMap<String, Tap<T>>,
}

fn lock<V>(m: &Mutex<V>) -> MutexGuard<'_, V> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

impl<T: Real> Taps<T> {
    /// An empty set of taps.
    pub fn new() -> Self {
        Self { taps: BTreeMap::new() }
    }

    fn at(&mut self, name: &str) -> &mut Tap<T> {
        let empty = || Tap {
            activation: None,
            gradient: None,
            seen: Mutex::new(None),
            seen_gradient: Arc::new(Mutex::new(None)),
        };
        self.taps.entry(name.into()).or_insert_with(empty)
    }

    /// Reads the activation `name`, and its gradient if there is a backward pass.
    pub fn read(mut self, name: &str) -> Self {
        self.at(name);
        self
    }

    /// Replaces the activation `name` by `f` of it; gradients flow through `f`. Readers get the new value.
    pub fn replace(mut self, name: &str, f: impl Fn(&Var<T>) -> Var<T> + Send + Sync + 'static) -> Self {
        self.at(name).activation = Some(Arc::new(f));
        self
    }

    /// Replaces the gradient of the activation `name` by `f` of it. Readers get the gradient before that.
    pub fn replace_gradient(mut self, name: &str, f: impl Fn(&Var<T>) -> Var<T> + Send + Sync + 'static) -> Self {
        self.at(name).gradient = Some(Arc::new(f));
        self
    }

    /// The activation of the last forward pass.
    pub fn activation(&self, name: &str) -> Option<Tensor<T>> {
        lock(&self.taps.get(name)?.seen).clone()
    }

    /// The gradient of the last backward pass; `None` before it, or if the output does not depend on the activation.
    pub fn gradient(&self, name: &str) -> Option<Tensor<T>> {
        lock(&self.taps.get(name)?.seen_gradient).clone()
    }

    /// Refuses names that are not among `known`.
    pub fn check(&self, known: &[String]) -> Result<()> {
        match self.taps.keys().find(|k| !known.contains(k)) {
            None => Ok(()),
            Some(name) => {
                Err(Error::Refused(format!("no activation is named `{name}`; this network has {}", known.join(", "))))
            }
        }
    }

    /// Applies the tap at `name`, if any, to an activation.
    pub fn visit(&self, name: &str, x: Var<T>) -> Var<T> {
        let Some(tap) = self.taps.get(name) else { return x };
        let x = tap.activation.as_ref().map_or(x.clone(), |f| f(&x));
        *lock(&tap.seen) = Some(x.value().clone());
        *lock(&tap.seen_gradient) = None;
        let (change, seen) = (tap.gradient.clone(), tap.seen_gradient.clone());
        Var::op("tap", x.value().clone(), &[&x], || {
            Box::new(move |g| {
                *lock(&seen) = Some(g.value().clone());
                vec![Some(change.as_ref().map_or_else(|| g.clone(), |f| f(g)))]
            })
        })
    }
}
