//! A define-by-run tape. A node holds its parents and one closure from the gradient of its output to the gradients of
//! its parents. The closure works on [`Var`]s: in an ordinary backward pass its ops record nothing; under
//! `create_graph` they record too, which gives gradients of gradients.

use crate::Real;
use crate::Tensor;
use crate::gradient::{Gradient, add_rows};
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// From the gradient of an output to the gradients of its parents; `None` for parents without one.
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

/// Reasons to refuse a backward pass.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TapeError {
    /// A second derivative through an op that has none.
    #[error("`{0}` is a fused op without a second derivative; build it from primitive ops to differentiate twice")]
    OnceOnly(&'static str),
    /// An op whose backward closure leaves out a value that needs a gradient.
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

/// From the gradient of an output to those of its parents, outside the tape; `None` if a parent needs none. The
/// closure owns the gradient and may overwrite it.
pub type Quick<T> = Box<dyn Fn(Tensor<T>) -> Vec<Option<Tensor<T>>> + Send + Sync>;

/// [`Quick`] for ops that use only a few rows of some parents.
pub type ByRows<T> = Box<dyn Fn(Tensor<T>) -> Vec<Option<Gradient<T>>> + Send + Sync>;

/// How a node's gradient is passed to its parents.
enum Rule<T> {
    Ops(Backward<T>),
    /// Outside the tape, and on it.
    Either(Quick<T>, Backward<T>),
    /// Outside the tape by rows, and on it, with the shapes of the parents.
    ByRows(ByRows<T>, Backward<T>, Vec<Vec<usize>>),
}

/// Gradient that has reached a node so far.
struct Flow<T> {
    dense: Option<Var<T>>,
    /// Row by row, not summed yet, so that many small parts cost only their entries.
    rows: Vec<(Vec<u32>, Tensor<T>)>,
    /// Shape of the node; empty unless there are rows.
    shape: Vec<usize>,
}

impl<T: Real> Flow<T> {
    fn of(dense: Option<Var<T>>) -> Self {
        Self { dense, rows: Vec::new(), shape: Vec::new() }
    }

    fn add(&mut self, gradient: Var<T>, create_graph: bool) {
        self.dense = Some(match self.dense.take() {
            Some(before) if create_graph => sum(&before, &gradient),
            Some(before) => Var::constant(before.value.combine(&gradient.value, |a, b| a + b)),
            None => gradient,
        });
    }

    /// Sums everything into one tensor.
    fn whole(self) -> Var<T> {
        match (self.dense, self.rows) {
            (Some(dense), rows) if rows.is_empty() => dense,
            (dense, rows) => {
                let mut all = dense.map_or_else(|| Tensor::zeros(&self.shape), |d| d.value);
                rows.iter().for_each(|(rows, values)| add_rows(&mut all, rows, values));
                Var::constant(all)
            }
        }
    }

    fn found(self) -> Found<T> {
        match self.dense {
            Some(_) => Found::Dense(self.whole()),
            None => Found::Rows(Gradient::merged(self.rows, &self.shape), OnceLock::new()),
        }
    }
}

/// The gradient of a leaf.
enum Found<T> {
    Dense(Var<T>),
    /// Rows, and the dense gradient once it was asked for.
    Rows(Gradient<T>, OnceLock<Var<T>>),
}

/// Gradients of leaves.
pub struct Gradients<T>(HashMap<u64, Found<T>>);

impl<T: Real> Gradients<T> {
    /// The gradient of a leaf (or of a value the pass stopped at); `None` if the output does not depend on it.
    pub fn get(&self, leaf: &Var<T>) -> Option<&Var<T>> {
        match self.0.get(&leaf.node.as_ref()?.id)? {
            Found::Dense(all) => Some(all),
            Found::Rows(rows, all) => Some(all.get_or_init(|| Var::constant(rows.clone().dense(leaf.shape())))),
        }
    }

    /// Takes the gradient out.
    pub fn take(&mut self, leaf: &Var<T>) -> Option<Tensor<T>> {
        self.take_gradient(leaf).map(|g| g.dense(leaf.shape()))
    }

    /// Takes the gradient out as it was computed: rows if only rows of the leaf were used.
    pub fn take_gradient(&mut self, leaf: &Var<T>) -> Option<Gradient<T>> {
        Some(match self.0.remove(&leaf.node.as_ref()?.id)? {
            Found::Dense(all) => Gradient::Dense(all.value),
            Found::Rows(rows, _) => rows,
        })
    }
}

impl<T: Real> Var<T> {
    /// A value without gradient.
    pub fn constant(value: Tensor<T>) -> Self {
        Self { value, node: None }
    }

    /// A value that needs a gradient.
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

    /// Whether it needs a gradient.
    pub fn tracked(&self) -> bool {
        self.node.is_some()
    }

    /// The value detached from the tape.
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

    /// The output of an op with a fast backward. `backward` is used for a first derivative; `composite` is the same
    /// function built from ops, used instead if the gradients themselves must be on the tape.
    pub fn fast(
        op: &'static str,
        value: Tensor<T>,
        parents: &[&Self],
        composite: impl Fn(&[Self]) -> Self + Send + Sync + 'static,
        backward: impl FnOnce() -> Quick<T>,
    ) -> Self {
        Self::either(op, value, parents, || (backward(), through(parents, composite)))
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

    /// As [`Var::fast`] for an op that uses a few rows of some of its parents: `backward` may give their gradients row by row.
    pub fn by_rows(
        op: &'static str,
        value: Tensor<T>,
        parents: &[&Self],
        composite: impl Fn(&[Self]) -> Self + Send + Sync + 'static,
        backward: impl FnOnce() -> ByRows<T>,
    ) -> Self {
        Self::record(op, true, value, parents, || {
            let shapes = parents.iter().map(|p| p.shape().to_vec()).collect();
            Rule::ByRows(backward(), through(parents, composite), shapes)
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

    /// [`Var::backward`] of the inner product of this value with `gradient`.
    pub fn backward_from(self, gradient: Self, create_graph: bool) -> Result<Gradients<T>, TapeError> {
        self.backward_to(gradient, &[], create_graph)
    }

    /// [`Var::backward_from`], stopping at `stops` too: the result also holds their gradients, none upstream of them.
    pub fn backward_to(self, gradient: Self, stops: &[Self], create_graph: bool) -> Result<Gradients<T>, TapeError> {
        let stops: Vec<u64> = stops.iter().filter_map(|s| Some(s.node.as_ref()?.id)).collect();
        recording(create_graph, || {
            let mut leaves = HashMap::new();
            let Some(root) = self.node else { return Ok(Gradients(leaves)) };
            // Ids grow from parents to children, so the largest pending id has received all of its gradient.
            let mut pending = BTreeMap::from([(root.id, (root, Flow::of(Some(gradient))))]);
            while let Some((id, (node, flow))) = pending.pop_last() {
                let backward = match &node.backward {
                    Some(backward) if !stops.contains(&id) => backward,
                    _ => {
                        leaves.insert(id, flow.found());
                        continue;
                    }
                };
                if create_graph && !node.twice {
                    return Err(TapeError::OnceOnly(node.op));
                }
                let gradient = flow.whole();
                if let (Rule::ByRows(quick, _, shapes), false) = (backward, create_graph) {
                    let mut gradients = quick(gradient.value).into_iter();
                    for (parent, shape) in node.parents.iter().zip(shapes) {
                        let gradient = gradients.next().flatten();
                        let Some(parent) = parent else { continue };
                        let Some(gradient) = gradient else { return Err(TapeError::Missing(node.op)) };
                        let sum = &mut pending.entry(parent.id).or_insert_with(|| (parent.clone(), Flow::of(None))).1;
                        match gradient {
                            Gradient::Dense(all) => sum.add(Var::constant(all), false),
                            Gradient::Rows { rows, values } => {
                                sum.shape.clone_from(shape);
                                sum.rows.push((rows, values));
                            }
                        }
                    }
                    continue;
                }
                let mut gradients = match backward {
                    Rule::Either(quick, _) if !create_graph => {
                        quick(gradient.value).into_iter().map(|g| g.map(Var::constant)).collect()
                    }
                    Rule::Ops(backward) | Rule::Either(_, backward) | Rule::ByRows(_, backward, _) => {
                        backward(&gradient)
                    }
                }
                .into_iter();
                for parent in &node.parents {
                    let gradient = gradients.next().flatten();
                    let Some(parent) = parent else { continue };
                    let Some(gradient) = gradient else { return Err(TapeError::Missing(node.op)) };
                    let sum = pending.entry(parent.id).or_insert_with(|| (parent.clone(), Flow::of(None)));
                    sum.1.add(gradient, create_graph);
                }
            }
            Ok(Gradients(leaves))
        })
    }
}

/// Backward of a function of `parents` built from ops.
fn through<T: Real>(
    parents: &[&Var<T>],
    composite: impl Fn(&[Var<T>]) -> Var<T> + Send + Sync + 'static,
) -> Backward<T> {
    let inputs: Vec<Var<T>> = parents.iter().map(|p| (*p).clone()).collect();
    Box::new(move |g: &Var<T>| {
        // One value may be several parents: each needs its own node to stop at.
        let own: Vec<Var<T>> = inputs.iter().map(apart).collect();
        let found = composite(&own).backward_to(g.clone(), &own, true);
        let found = found.expect("composite forms are built from ops that differentiate twice");
        own.iter().map(|x| found.get(x).cloned()).collect()
    })
}

/// a + b of one shape.
fn sum<T: Real>(a: &Var<T>, b: &Var<T>) -> Var<T> {
    let value = a.value.zip(&b.value, |x, y| x + y);
    Var::op("sum of gradients", value, &[a, b], || Box::new(|g| vec![Some(g.clone()), Some(g.clone())]))
}

/// The same value under a new node.
fn apart<T: Real>(x: &Var<T>) -> Var<T> {
    Var::op("apart", x.value.clone(), &[x], || Box::new(|g| vec![Some(g.clone())]))
}
