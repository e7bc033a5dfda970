//! Products with a matrix stored as values at connections, in plan order.

use super::{add_bias, pick, relu, reshape};
use crate::Real;
use crate::account::{Charge, hidden, touch};
use crate::tape::{is_recording, recording};
use crate::{Connections, Tensor, Var};
use nnz_core::{Topology, Zero};
use nnz_kernels::{self as kernels, Csr, TILE, Tiled, elementwise, padded};
use rayon::prelude::*;
use std::sync::{Arc, Mutex};

/// Collects the zeros of largest |gradient| of a sparse layer during a backward pass.
#[derive(Debug, Default)]
pub struct ZeroProbe {
    /// Number of zeros to find.
    pub count: usize,
    /// Ascending positions that are measured in addition, whatever their gradient, and not counted.
    pub apart: Vec<u64>,
    /// Zeros found, descending by |gradient|, ties by position.
    pub found: Mutex<Vec<Zero>>,
}

impl ZeroProbe {
    fn stream<T: Real>(&self, connections: &Connections, x: &Tiled<T>, g: &Tiled<T>) {
        let topology = connections.topology();
        let (rows, cols) = (topology.rows(), topology.cols());
        let apart: Vec<u64> = self.apart.iter().copied().filter(|&p| topology.find(p).is_none()).collect();
        let mut found: Vec<(u64, T)> =
            apart.iter().copied().zip(kernels::gradients_at(&apart, x, g)).filter(|(_, g)| g.is_finite()).collect();
        if self.count > 0 {
            let topology = match apart.is_empty() {
                true => topology,
                false => topology.union(&Topology::from_positions(rows, cols, apart)),
            };
            let csr = Csr { rows, cols, starts: topology.starts(), columns: topology.columns() };
            found.extend(kernels::top_zero_gradients_tiled(csr, x, g, self.count));
        }
        let zero = |(position, gradient): (u64, T)| Zero { position, gradient: gradient.f64() as f32 };
        self.keep(found.into_iter().map(zero).collect());
    }

    /// Picks from a dense gradient; `exists` tells which positions are connections.
    pub fn pick<T: Real>(&self, gradient: &Tensor<T>, exists: impl Fn(usize) -> bool) {
        let value = |&p: &u64| Zero { position: p, gradient: gradient.data()[p as usize].f64() as f32 };
        let mut found: Vec<Zero> = self.apart.iter().filter(|&&p| !exists(p as usize)).map(value).collect();
        let apart = |p: usize| self.apart.binary_search(&(p as u64)).is_ok();
        found.extend(top_zeros(gradient, |p| exists(p) || apart(p), self.count));
        self.keep(found);
    }

    fn keep(&self, mut found: Vec<Zero>) {
        if !self.apart.is_empty() {
            found.sort_unstable_by(|a, b| {
                b.gradient.abs().total_cmp(&a.gradient.abs()).then(a.position.cmp(&b.position))
            });
        }
        *self.found.lock().unwrap_or_else(|e| e.into_inner()) = found;
    }
}

/// An elementwise function after a sparse layer.
#[derive(Clone)]
pub enum Then<T> {
    /// Identity.
    Linear,
    /// max(x, 0), inside the kernels.
    Relu,
    /// Another elementwise op.
    Map(fn(&Var<T>) -> Var<T>),
}

impl<T: Real> Then<T> {
    fn apply(&self, x: &Var<T>) -> Var<T> {
        match self {
            Self::Linear => x.clone(),
            Self::Relu => relu(x),
            Self::Map(f) => f(x),
        }
    }
}

/// One layer of [`sparse_stack`]: x Wᵀ + b and an elementwise function.
#[derive(Clone)]
pub struct Stage<T> {
    /// Values of W, `[nnz]`.
    pub values: Var<T>,
    /// b, `[out]`.
    pub bias: Option<Var<T>>,
    /// Connections of W.
    pub connections: Arc<Connections>,
    /// Activation.
    pub then: Then<T>,
    /// Streams the gradient of the zeros during the backward pass, O(out · in · rows of x).
    pub probe: Option<Arc<ZeroProbe>>,
}

/// Values of one stage and group of rows saved for the backward pass.
struct Kept<T: Real> {
    x: Tiled<T>,
    after: After<T>,
}

impl<T: Real> Kept<T> {
    fn bytes(&self) -> usize {
        let after = match &self.after {
            After::Linear | After::Gated => 0,
            After::Relu(y) => size_of_val(y.as_slice()),
            After::Map(before, after) => size_of_val(before.value().data()) + size_of_val(after.value().data()),
        };
        size_of_val(self.x.as_slice()) + after
    }
}

/// How to go back through the function behind a stage.
enum After<T: Real> {
    Linear,
    /// Done by the next stage, which has the output as its input.
    Gated,
    Relu(Tiled<T>),
    Map(Var<T>, Var<T>),
}

/// Most values of a stack whose rows are processed in two groups: their gradient exists twice for a moment.
const IN_GROUPS: usize = 1 << 19;
/// Fewest multiply-adds worth a second thread.
const PARALLEL: usize = 1 << 20;

/// Rows of the two groups in which a stack is computed; the second is empty if it does not pay. A group keeps its thread
/// from the first layer to the last, so that its activations stay in that core's cache. Depends on sizes alone, since
/// sums of gradients do.
fn groups<T: Real>(batch: usize, stages: &[Stage<T>]) -> [usize; 2] {
    let values: usize = stages.iter().map(|s| s.values.value().len()).sum();
    let whole = values > IN_GROUPS || values * batch < PARALLEL || stages.iter().any(|s| s.probe.is_some());
    let first = if whole { batch } else { (batch.div_ceil(TILE).div_ceil(2) * TILE).min(batch) };
    [first, batch - first]
}

/// Sparse layers in sequence, x `[.., in]` to `[rows, out]`. Activations stay in tiles between them; only x
/// and the result are converted. Costs O(nnz · rows of x).
pub fn sparse_stack<T: Real>(x: &Var<T>, stages: &[Stage<T>]) -> Var<T> {
    let ((batch, inputs), outputs) = (x.value().rows_cols(), stages.last().map_or(0, |s| s.connections.plan().rows()));
    let mut parents = vec![x];
    parents.extend(stages.iter().flat_map(|s| std::iter::once(&s.values).chain(&s.bias)));
    let keep = is_recording() && parents.iter().any(|p| p.tracked());
    let pack = |s: &Stage<T>| {
        let values = s.values.value().data();
        Tensor::written(&[values.len()], |packed| s.connections.plan().pack(values, packed))
    };
    // What both groups hold is said here, since either may be worked on by another thread.
    let packed: Vec<Tensor<T>> = stages.par_iter().map(|s| hidden(|| pack(s))).collect();
    let groups = groups(batch, stages);
    let mut kept = [const { Vec::new() }; 2];
    let value = Tensor::written(&[batch, outputs], |value| {
        let (x, y) = (x.value().data().split_at(groups[0] * inputs), value.split_at_mut(groups[0] * outputs));
        let [first, second] = &mut kept;
        rayon::join(
            || *first = hidden(|| forward(stages, &packed, groups[0], x.0, y.0, keep)),
            || (groups[1] > 0).then(|| *second = hidden(|| forward(stages, &packed, groups[1], x.1, y.1, keep))),
        );
    });
    let held: usize = kept.iter().flatten().map(Kept::bytes).sum();
    let packs: usize = packed.iter().map(|p| size_of_val(p.data())).sum();
    touch(held + packs + in_and_out(stages, groups));
    drop(packed);
    let charge = Charge::new(held);
    let stages: Arc<[Stage<T>]> = stages.into();
    let (again, shape) = (stages.clone(), x.tracked().then(|| x.shape().to_vec()));
    Var::fast(
        "sparse_stack",
        value,
        &parents,
        move |parents| {
            let mut parents = parents.iter();
            let mut next = || parents.next().expect("x and the parameters of every stage");
            again.iter().fold(next().clone(), |x, stage| {
                let y = spmm(&x, next(), &stage.connections);
                let y = if stage.bias.is_some() { add_bias(&y, next()) } else { y };
                stage.then.apply(&y)
            })
        },
        || {
            Box::new(move |g| {
                let _held = &charge;
                backward(&stages, groups, &kept, &g, shape.as_deref())
            })
        },
    )
}

/// Most bytes of tiles that a stage reads and writes, over all groups.
fn in_and_out<T: Real>(stages: &[Stage<T>], groups: [usize; 2]) -> usize {
    let both = |s: &Stage<T>| {
        let plan = s.connections.plan();
        groups.map(|rows| tiled_bytes::<T>(rows, plan.rows() + plan.cols())).iter().sum()
    };
    stages.iter().map(both).max().unwrap_or(0)
}

/// Bytes of the tiles of some rows.
fn tiled_bytes<T>(rows: usize, features: usize) -> usize {
    padded(rows) * features * size_of::<T>()
}

/// One group of rows through all stages, from `x` to `y`, both row-major.
fn forward<T: Real>(
    stages: &[Stage<T>],
    packed: &[Tensor<T>],
    batch: usize,
    x: &[T],
    y: &mut [T],
    keep: bool,
) -> Vec<Kept<T>> {
    let mut kept = Vec::new();
    let inputs = stages.first().map_or(0, |s| s.connections.plan().cols());
    let mut tiles = Tiled::from_rows(batch, inputs, x);
    for (i, (stage, packed)) in stages.iter().zip(packed).enumerate() {
        let plan = stage.connections.plan();
        let mut y = Tiled::any(batch, plan.rows());
        let bias = stage.bias.as_ref().map(|b| b.value().data());
        match stage.then {
            Then::Relu => plan.forward_relu(packed.data(), &tiles, bias, &mut y),
            _ => plan.forward(packed.data(), &tiles, bias, &mut y),
        }
        let after = match stage.then {
            Then::Linear => After::Linear,
            Then::Relu if i + 1 < stages.len() || !keep => After::Gated,
            Then::Relu => After::Relu(y.clone()),
            Then::Map(f) => {
                let before = if keep { Var::leaf(flat(&y)) } else { Var::constant(flat(&y)) };
                // The thread may have left a backward pass, which does not record, to run this.
                let after = recording(keep, || f(&before));
                y.as_mut_slice().copy_from_slice(after.value().data());
                After::Map(before, after)
            }
        };
        let x = std::mem::replace(&mut tiles, y);
        if keep {
            kept.push(Kept { x, after });
        }
    }
    tiles.to_rows(y);
    kept
}

/// All numbers of tiles, padding included.
fn flat<T: Real>(tiles: &Tiled<T>) -> Tensor<T> {
    let all = tiles.as_slice();
    Tensor::written(&[all.len()], |to| to.copy_from_slice(all))
}

/// Gradients of x (if asked for, in this shape), and of values and bias of every stage.
fn backward<T: Real>(
    stages: &[Stage<T>],
    groups: [usize; 2],
    kept: &[Vec<Kept<T>>; 2],
    g: &Tensor<T>,
    x_shape: Option<&[usize]>,
) -> Vec<Option<Tensor<T>>> {
    let outputs = g.rows_cols().1;
    let (g0, g1) = g.data().split_at(groups[0] * outputs);
    let mut found = [const { Vec::new() }; 2];
    let [first, second] = &mut found;
    let mut both = |dx: Option<&mut [T]>| {
        let inputs = stages[0].connections.plan().cols();
        let (dx0, dx1) = dx.map(|dx| dx.split_at_mut(groups[0] * inputs)).unzip();
        rayon::join(
            || *first = hidden(|| back(stages, &kept[0], groups[0], g0, dx0)),
            || (groups[1] > 0).then(|| *second = hidden(|| back(stages, &kept[1], groups[1], g1, dx1))),
        );
    };
    let dx = match x_shape {
        Some(shape) => Some(Tensor::written(shape, |dx| both(Some(dx)))),
        None => {
            both(None);
            None
        }
    };
    let [mut sums, others] = found.map(|all| all.into_iter().map(Tensor::counted).collect::<Vec<_>>());
    touch(in_and_out(stages, groups));
    for (sum, other) in sums.iter_mut().zip(&others) {
        elementwise::update_by(sum.data_mut(), other.data(), |a, b| a + b);
    }
    std::iter::once(dx).chain(sums.into_iter().map(Some)).collect()
}

/// Gradients of values and biases, stage by stage, over one group of rows; that of x goes to `dx`.
fn back<T: Real>(
    stages: &[Stage<T>],
    kept: &[Kept<T>],
    batch: usize,
    g: &[T],
    mut dx_rows: Option<&mut [T]>,
) -> Vec<Tensor<T>> {
    let outputs = stages.last().map_or(0, |s| s.connections.plan().rows());
    let mut g = Tiled::from_rows(batch, outputs, g);
    let mut found = Vec::with_capacity(2 * stages.len());
    for (i, (stage, Kept { x, after })) in stages.iter().zip(kept).enumerate().rev() {
        match after {
            After::Linear | After::Gated => {}
            After::Relu(y) => {
                let gate = |g, y| if y > T::ZERO { g } else { T::ZERO };
                elementwise::update_by(g.as_mut_slice(), y.as_slice(), gate);
            }
            After::Map(before, after) => {
                let slopes = after.clone().backward_from(Var::constant(flat(&g)), false);
                match slopes.expect("no graph is asked for").take(before) {
                    Some(d) => g.as_mut_slice().copy_from_slice(d.data()),
                    None => g.as_mut_slice().fill(T::ZERO),
                }
            }
        }
        let plan = stage.connections.plan();
        if stage.bias.is_some() {
            found.push(Tensor::written(&[plan.rows()], |db| g.sum_batch(db)));
        }
        if let Some(probe) = &stage.probe {
            probe.stream(&stage.connections, x, &g);
        }
        let mut dx = (i > 0 || dx_rows.is_some()).then(|| Tiled::any(batch, plan.cols()));
        let gated = i > 0 && matches!(kept[i - 1].after, After::Gated);
        let backward = if gated { kernels::Plan::backward_relu } else { kernels::Plan::backward };
        found.push(Tensor::written(&[plan.nnz()], |dv| {
            backward(plan, stage.values.value().data(), x, &g, dx.as_mut(), dv);
        }));
        match (dx, &mut dx_rows) {
            (Some(dx), Some(rows)) if i == 0 => dx.to_rows(rows),
            (Some(dx), _) => g = dx,
            _ => {}
        }
    }
    found.reverse();
    found
}

/// x Wᵀ + b where W has `values` (`[nnz]`) at `connections`; x `[.., in]`. Costs O(nnz · rows of x).
///
/// A `probe` also streams the gradient of the zeros, O(out · in · rows of x), during the backward pass.
pub fn sparse_linear<T: Real>(
    x: &Var<T>,
    values: &Var<T>,
    connections: &Arc<Connections>,
    bias: Option<&Var<T>>,
    probe: Option<Arc<ZeroProbe>>,
) -> Var<T> {
    let (values, bias, connections) = (values.clone(), bias.cloned(), connections.clone());
    sparse_stack(x, &[Stage { values, bias, connections, then: Then::Linear, probe }])
}

/// g W, the transpose of [`sparse_linear`] without bias: g `[rows, out]`, result `[rows, in]`.
pub fn spmm_t<T: Real>(g: &Var<T>, values: &Var<T>, connections: &Arc<Connections>) -> Var<T> {
    let ((batch, outputs), plan) = (g.value().rows_cols(), connections.plan());
    touch(tiled_bytes::<T>(batch, plan.rows() + 2 * plan.cols()));
    let (none, mut out) = (Tiled::zeros(batch, plan.cols()), Tiled::any(batch, plan.cols()));
    let tiles = Tiled::from_rows(batch, outputs, g.value().data());
    let mut unused = Tensor::zeros(&[plan.nnz()]);
    plan.backward(values.value().data(), &none, &tiles, Some(&mut out), unused.data_mut());
    let value = Tensor::written(&[batch, plan.cols()], |value| out.to_rows(value));
    let (pg, pv, c) = (g.clone(), values.clone(), connections.clone());
    Var::op("spmm_t", value, &[g, values], || {
        Box::new(move |h| {
            vec![pg.tracked().then(|| reshape(&spmm(h, &pv, &c), pg.shape())), pv.tracked().then(|| sddmm(h, &pg, &c))]
        })
    })
}

/// x Wᵀ: x `[rows, in]`, result `[rows, out]`.
pub fn spmm<T: Real>(x: &Var<T>, values: &Var<T>, connections: &Arc<Connections>) -> Var<T> {
    let ((batch, inputs), plan) = (x.value().rows_cols(), connections.plan());
    touch(tiled_bytes::<T>(batch, plan.rows() + plan.cols()));
    let (tiles, mut out) = (Tiled::from_rows(batch, inputs, x.value().data()), Tiled::any(batch, plan.rows()));
    let packed = Tensor::written(&[plan.nnz()], |packed| plan.pack(values.value().data(), packed));
    plan.forward(packed.data(), &tiles, None, &mut out);
    let value = Tensor::written(&[batch, plan.rows()], |value| out.to_rows(value));
    let (px, pv, c) = (x.clone(), values.clone(), connections.clone());
    Var::op("spmm", value, &[x, values], || {
        Box::new(move |g| {
            vec![
                px.tracked().then(|| reshape(&spmm_t(g, &pv, &c), px.shape())),
                pv.tracked().then(|| sddmm(&px, g, &c)),
            ]
        })
    })
}

/// Σ_b g[b, row] x[b, col] at every connection: x `[rows, in]`, g `[rows, out]`, result `[nnz]`.
pub fn sddmm<T: Real>(x: &Var<T>, g: &Var<T>, connections: &Arc<Connections>) -> Var<T> {
    let ((batch, inputs), plan) = (x.value().rows_cols(), connections.plan());
    touch(tiled_bytes::<T>(batch, plan.rows() + plan.cols()));
    let unused = Tensor::zeros(&[plan.nnz()]);
    let tiles = Tiled::from_rows(batch, inputs, x.value().data());
    let gradient = Tiled::from_rows(batch, plan.rows(), g.value().data());
    let value = Tensor::written(&[plan.nnz()], |value| plan.backward(unused.data(), &tiles, &gradient, None, value));
    let (px, pg, c) = (x.clone(), g.clone(), connections.clone());
    Var::op("sddmm", value, &[x, g], || {
        Box::new(move |h| {
            vec![
                px.tracked().then(|| reshape(&spmm_t(&pg, h, &c), px.shape())),
                pg.tracked().then(|| reshape(&spmm(&px, h, &c), pg.shape())),
            ]
        })
    })
}

/// The dense matrix with `values` at `connections`, `[out, in]`, for ops that need it. Costs as much as a dense weight.
///
/// A `probe` picks the zeros of largest |gradient| from the dense gradient, which exists anyway.
pub fn densify<T: Real>(values: &Var<T>, connections: &Arc<Connections>, probe: Option<Arc<ZeroProbe>>) -> Var<T> {
    let shape = [connections.plan().rows(), connections.plan().cols()];
    let at: Arc<Vec<usize>> = Arc::new(connections.positions());
    let mut value = Tensor::zeros(&shape);
    let out = value.data_mut();
    at.iter().zip(values.value().data()).for_each(|(&i, &v)| out[i] = v);
    Var::op("densify", value, &[values], || {
        Box::new(move |g| {
            if let Some(probe) = &probe {
                let mut exists = vec![false; g.value().len()];
                at.iter().for_each(|&p| exists[p] = true);
                probe.pick(g.value(), |p| exists[p]);
            }
            vec![Some(pick(g, at.clone(), &[at.len()]))]
        })
    })
}

/// The `count` zeros of largest |gradient| of a dense gradient, descending, ties by position.
pub fn top_zeros<T: Real>(gradient: &Tensor<T>, exists: impl Fn(usize) -> bool, count: usize) -> Vec<Zero> {
    let g = gradient.data();
    let mut zeros: Vec<usize> = (0..g.len()).filter(|&p| !exists(p)).collect();
    let magnitude = |p: usize| g[p].f64().abs();
    let order = |a: &usize, b: &usize| magnitude(*b).total_cmp(&magnitude(*a)).then(a.cmp(b));
    if count < zeros.len() {
        zeros.select_nth_unstable_by(count, order);
        zeros.truncate(count);
    }
    zeros.sort_unstable_by(order);
    zeros.into_iter().map(|p| Zero { position: p as u64, gradient: g[p].f64() as f32 }).collect()
}
