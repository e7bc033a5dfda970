//! A define-by-run tape. A node holds its parents and one closure from the gradient of its output to the gradients of
//! its parents. The closure works on [`Var`]s: in an ordinary backward pass its ops record nothing; under
//! `create_graph` they record too, which gives gradients of gradients.

use crate::Real;
use crate::Tensor;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// From the gradient of an output to the gradients of its parents; `None` where a parent has none.
pub type Backward<T> = Box<dyn Fn(&Var<T>) -> Vec<Option<Var<T>>> + Send + Sync>;

struct Node<T> {
    id: u64,
    op: &'static str,
    /// Whether the closure records when recording is on, so that it can be differentiated again.
    twice: bool,
    parents: Vec<Option<Arc<Node<T>>>>,
    backward: Option<Rule<T>>,
}

/// A value on the tape.
#[derive(Clone)]
pub struct Var<T> {
    value: Tensor<T>,
    node: Option<Arc<Node<T>>>,
}

/// What a backward pass can refuse.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TapeError {
    /// A gradient of a gradient through an op that has none.
    #[error("`{0}` is a fused op without a second derivative; build it from primitive ops to differentiate twice")]
    OnceOnly(&'static str),
    /// An op whose backward closure leaves out a value that has a gradient.
    #[error("the backward of `{0}` gives no gradient for one of its inputs")]
    Missing(&'static str),
}

thread_local! { static RECORDING: Cell<bool> = const { Cell::new(true) } }

/// Runs `f` with recording switched on or off on this thread.
pub fn recording<R>(on: bool, f: impl FnOnce() -> R) -> R {
    struct Reset(bool);
    impl Drop for Reset {
        fn drop(&mut self) {
            RECORDING.with(|r| r.set(self.0));
        }
    }
    let _reset = Reset(RECORDING.with(|r| r.replace(on)));
    f()
}

/// Whether ops on this thread are being recorded.
pub fn is_recording() -> bool {
    RECORDING.with(Cell::get)
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// From the gradient of an output to those of its parents, outside the tape; `None` where a parent needs none. The
/// gradient is the closure's own, to overwrite.
pub type Quick<T> = Box<dyn Fn(Tensor<T>) -> Vec<Option<Tensor<T>>> + Send + Sync>;

/// How a node's gradient goes to its parents.
enum Rule<T> {
    Ops(Backward<T>),
    /// Outside the tape, and on it.
    Either(Quick<T>, Backward<T>),
}

/// Gradients of leaves.
pub struct Gradients<T>(HashMap<u64, Var<T>>);

impl<T: Real> Gradients<T> {
    /// The gradient of a leaf (or of a value the pass stopped at); `None` when the output does not depend on it.
    pub fn get(&self, leaf: &Var<T>) -> Option<&Var<T>> {
        self.0.get(&leaf.node.as_ref()?.id)
    }

    /// The same, taken out.
    pub fn take(&mut self, leaf: &Var<T>) -> Option<Tensor<T>> {
        self.0.remove(&leaf.node.as_ref()?.id).map(|v| v.value)
    }
}

impl<T: Real> Var<T> {
    /// A value without gradient.
    pub fn constant(value: Tensor<T>) -> Self {
        Self { value, node: None }
    }

    /// A value whose gradient is asked for.
    pub fn leaf(value: Tensor<T>) -> Self {
        let node = Node { id: next_id(), op: "leaf", twice: true, parents: Vec::new(), backward: None };
        Self { value, node: Some(Arc::new(node)) }
    }

    /// The value.
    pub fn value(&self) -> &Tensor<T> {
        &self.value
    }

    /// Extents of the value.
    pub fn shape(&self) -> &[usize] {
        self.value.shape()
    }

    /// Whether a gradient flows through this value.
    pub fn tracked(&self) -> bool {
        self.node.is_some()
    }

    /// The value cut off from the tape.
    pub fn detach(&self) -> Self {
        Self::constant(self.value.clone())
    }

    /// The output of an op with a derivative of any order: `backward` is built from ops.
    pub fn op(op: &'static str, value: Tensor<T>, parents: &[&Self], backward: impl FnOnce() -> Backward<T>) -> Self {
        Self::record(op, true, value, parents, || Rule::Ops(backward()))
    }

    /// The output of a fused op: differentiating twice through it is refused by name.
    pub fn fused(
        op: &'static str,
        value: Tensor<T>,
        parents: &[&Self],
        backward: impl FnOnce() -> Backward<T>,
    ) -> Self {
        Self::record(op, false, value, parents, || Rule::Ops(backward()))
    }

    /// The output of an op with a fast backward. `backward` makes it, for a first derivative; `composite` is the same
    /// function built from ops, taken instead when gradients must be on the tape themselves.
    pub fn fast(
        op: &'static str,
        value: Tensor<T>,
        parents: &[&Self],
        composite: impl Fn(&[Self]) -> Self + Send + Sync + 'static,
        backward: impl FnOnce() -> Quick<T>,
    ) -> Self {
        let inputs: Vec<Self> = parents.iter().map(|p| (*p).clone()).collect();
        let on_tape = move |g: &Self| {
            // One value may be several parents: each needs a node of its own to stop at.
            let apart: Vec<Self> = inputs.iter().map(apart).collect();
            let found = composite(&apart).backward_to(g.clone(), &apart, true);
            let found = found.expect("composite forms are built from ops that differentiate twice");
            apart.iter().map(|x| found.get(x).cloned()).collect()
        };
        Self::either(op, value, parents, || (backward(), Box::new(on_tape)))
    }

    /// The output of an op whose backward is given both ways: outside the tape, and built from ops.
    pub fn either(
        op: &'static str,
        value: Tensor<T>,
        parents: &[&Self],
        backward: impl FnOnce() -> (Quick<T>, Backward<T>),
    ) -> Self {
        Self::record(op, true, value, parents, || {
            let (quick, on_tape) = backward();
            Rule::Either(quick, on_tape)
        })
    }

    fn record(
        op: &'static str,
        twice: bool,
        value: Tensor<T>,
        parents: &[&Self],
        rule: impl FnOnce() -> Rule<T>,
    ) -> Self {
        if !is_recording() || !parents.iter().any(|p| p.tracked()) {
            return Self::constant(value);
        }
        let parents = parents.iter().map(|p| p.node.clone()).collect();
        let node = Node { id: next_id(), op, twice, parents, backward: Some(rule()) };
        Self { value, node: Some(Arc::new(node)) }
    }

    /// Gradients of the sum of this value with respect to every leaf it depends on.
    ///
    /// With `create_graph` the gradients are on the tape themselves and can be differentiated again.
    pub fn backward(self, create_graph: bool) -> Result<Gradients<T>, TapeError> {
        let ones = Var::constant(Tensor::full(self.shape(), T::ONE));
        self.backward_from(ones, create_graph)
    }

    /// The same for the inner product of this value with `gradient`.
    pub fn backward_from(self, gradient: Self, create_graph: bool) -> Result<Gradients<T>, TapeError> {
        self.backward_to(gradient, &[], create_graph)
    }

    /// The same, stopping at `stops` too: the result also holds their gradients, and nothing behind them.
    pub fn backward_to(self, gradient: Self, stops: &[Self], create_graph: bool) -> Result<Gradients<T>, TapeError> {
        let stops: Vec<u64> = stops.iter().filter_map(|s| Some(s.node.as_ref()?.id)).collect();
        recording(create_graph, || {
            let mut leaves = HashMap::new();
            let Some(root) = self.node else { return Ok(Gradients(leaves)) };
            // Ids grow from parents to children, so the largest pending id has received all of its gradient.
            let mut pending = BTreeMap::from([(root.id, (root, gradient))]);
            while let Some((id, (node, gradient))) = pending.pop_last() {
                let backward = match &node.backward {
                    Some(backward) if !stops.contains(&id) => backward,
                    _ => {
                        leaves.insert(id, gradient);
                        continue;
                    }
                };
                if create_graph && !node.twice {
                    return Err(TapeError::OnceOnly(node.op));
                }
                let mut gradients = match backward {
                    Rule::Either(quick, _) if !create_graph => {
                        quick(gradient.value).into_iter().map(|g| g.map(Var::constant)).collect()
                    }
                    Rule::Ops(backward) | Rule::Either(_, backward) => backward(&gradient),
                }
                .into_iter();
                for parent in &node.parents {
                    let gradient = gradients.next().flatten();
                    let Some(parent) = parent else { continue };
                    let Some(gradient) = gradient else { return Err(TapeError::Missing(node.op)) };
                    let sum = match pending.remove(&parent.id) {
                        Some((_, before)) if create_graph => sum(&before, &gradient),
                        Some((_, before)) => Var::constant(before.value.combine(&gradient.value, |a, b| a + b)),
                        None => gradient,
                    };
                    pending.insert(parent.id, (parent.clone(), sum));
                }
            }
            Ok(Gradients(leaves))
        })
    }
}

/// a + b of one shape.
fn sum<T: Real>(a: &Var<T>, b: &Var<T>) -> Var<T> {
    let value = a.value.zip(&b.value, |x, y| x + y);
    Var::op("sum of gradients", value, &[a, b], || Box::new(|g| vec![Some(g.clone()), Some(g.clone())]))
}

/// The same value under a node of its own.
fn apart<T: Real>(x: &Var<T>) -> Var<T> {
    Var::op("apart", x.value.clone(), &[x], || Box::new(|g| vec![Some(g.clone())]))
}
