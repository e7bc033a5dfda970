//! Products of a matrix stored as values at connections. Values lie in plan order.

use super::{add_bias, pick, relu, reshape};
use crate::{Connections, Tensor, Var};
use nnz_core::Zero;
use nnz_kernels::{self as kernels, Csr, Real, Tiled};
use std::sync::{Arc, Mutex};

/// Where a sparse layer leaves the zeros of largest |gradient| during a backward pass.
#[derive(Debug, Default)]
pub struct ZeroProbe {
    /// How many to look for.
    pub count: usize,
    /// What was found, descending by |gradient|, ties by position.
    pub found: Mutex<Vec<Zero>>,
}

impl ZeroProbe {
    fn stream<T: Real>(&self, connections: &Connections, x: &Tiled<T>, g: &Tiled<T>) {
        let topology = connections.topology();
        let (rows, cols) = (topology.rows(), topology.cols());
        let csr = Csr { rows, cols, starts: topology.starts(), columns: topology.columns() };
        let found = kernels::top_zero_gradients_tiled(csr, x, g, self.count);
        let zero = |(position, gradient): (u64, T)| Zero { position, gradient: gradient.f64() as f32 };
        *self.found.lock().unwrap_or_else(|e| e.into_inner()) = found.into_iter().map(zero).collect();
    }
}

/// A function of every entry behind a sparse layer.
#[derive(Clone)]
pub enum Then<T> {
    /// None.
    Linear,
    /// max(x, 0), inside the kernels.
    Relu,
    /// Another op that looks at one entry at a time.
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

/// One layer of [`sparse_stack`]: x Wᵀ + b and a function of every entry.
#[derive(Clone)]
pub struct Stage<T> {
    /// Values of W, `[nnz]`.
    pub values: Var<T>,
    /// b, `[out]`.
    pub bias: Option<Var<T>>,
    /// Where W has values.
    pub connections: Arc<Connections>,
    /// What follows.
    pub then: Then<T>,
    /// Streams the gradient of the zeros during the backward pass, O(out · in · rows of x).
    pub probe: Option<Arc<ZeroProbe>>,
}

/// What one stage keeps for its backward pass.
struct Kept<T: Real> {
    connections: Arc<Connections>,
    values: Tensor<T>,
    bias: bool,
    probe: Option<Arc<ZeroProbe>>,
    x: Tiled<T>,
    after: After<T>,
}

/// How to go back through the function behind a stage.
enum After<T: Real> {
    Linear,
    /// Done by the next stage, which has the output as its input.
    Gated,
    Relu(Tiled<T>),
    Map(Var<T>, Var<T>),
}

/// Sparse layers one after the other, x `[.., in]` to `[rows, out]`. Activations stay tile by tile between them; only x
/// and the result are converted. Costs O(nnz · rows of x).
pub fn sparse_stack<T: Real>(x: &Var<T>, stages: &[Stage<T>]) -> Var<T> {
    let (batch, inputs) = x.value().rows_cols();
    let mut parents = vec![x];
    parents.extend(stages.iter().flat_map(|s| std::iter::once(&s.values).chain(&s.bias)));
    let keep = crate::tape::is_recording() && parents.iter().any(|p| p.tracked());
    let mut kept = Vec::new();
    let mut tiles = Tiled::from_rows(batch, inputs, x.value().data());
    for (i, stage) in stages.iter().enumerate() {
        let plan = stage.connections.plan();
        let packed = Tensor::written(&[plan.nnz()], |packed| plan.pack(stage.values.value().data(), packed));
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
                let before = flat(&y);
                let before = if keep { Var::leaf(before) } else { Var::constant(before) };
                let after = f(&before);
                y.as_mut_slice().copy_from_slice(after.value().data());
                After::Map(before, after)
            }
        };
        let x = std::mem::replace(&mut tiles, y);
        if keep {
            let (values, probe) = (stage.values.value().clone(), stage.probe.clone());
            let connections = stage.connections.clone();
            kept.push(Kept { connections, values, bias: stage.bias.is_some(), probe, x, after });
        }
    }
    let value = Tensor::written(&[batch, tiles.features()], |value| tiles.to_rows(value));
    let (composite, inputs_tracked, shape) = (stages.to_vec(), x.tracked(), x.shape().to_vec());
    Var::fast(
        "sparse_stack",
        value,
        &parents,
        move |parents| {
            let mut parents = parents.iter();
            let mut next = || parents.next().expect("x and the parameters of every stage");
            composite.iter().fold(next().clone(), |x, stage| {
                let y = spmm(&x, next(), &stage.connections);
                let y = if stage.bias.is_some() { add_bias(&y, next()) } else { y };
                stage.then.apply(&y)
            })
        },
        || Box::new(move |g| back(&kept, g, inputs_tracked.then_some(&shape))),
    )
}

/// All numbers of tiles, padding included.
fn flat<T: Real>(tiles: &Tiled<T>) -> Tensor<T> {
    let all = tiles.as_slice();
    Tensor::written(&[all.len()], |to| to.copy_from_slice(all))
}

/// Gradients of x (where asked for, in this shape), and of values and bias of every stage.
fn back<T: Real>(kept: &[Kept<T>], g: &Tensor<T>, x_shape: Option<&Vec<usize>>) -> Vec<Option<Tensor<T>>> {
    let (batch, outputs) = g.rows_cols();
    let mut g = Tiled::from_rows(batch, outputs, g.data());
    let (mut found, mut dx_rows) = (Vec::with_capacity(2 * kept.len() + 1), None);
    for (i, stage) in kept.iter().enumerate().rev() {
        match &stage.after {
            After::Linear | After::Gated => {}
            After::Relu(y) => {
                let gate = |(g, &y): (&mut T, &T)| *g = if y > T::ZERO { *g } else { T::ZERO };
                g.as_mut_slice().iter_mut().zip(y.as_slice()).for_each(gate);
            }
            After::Map(before, after) => {
                let found = after.clone().backward_from(Var::constant(flat(&g)), false);
                let mut slopes = found.expect("no graph is asked for");
                match slopes.take(before) {
                    Some(d) => g.as_mut_slice().copy_from_slice(d.data()),
                    None => g.as_mut_slice().fill(T::ZERO),
                }
            }
        }
        let plan = stage.connections.plan();
        if stage.bias {
            found.push(Some(Tensor::written(&[plan.rows()], |db| g.sum_batch(db))));
        }
        if let Some(probe) = &stage.probe {
            probe.stream(&stage.connections, &stage.x, &g);
        }
        let mut dx = (i > 0 || x_shape.is_some()).then(|| Tiled::any(batch, plan.cols()));
        let gated = i > 0 && matches!(kept[i - 1].after, After::Gated);
        let backward = if gated { kernels::Plan::backward_relu } else { kernels::Plan::backward };
        found.push(Some(Tensor::written(&[plan.nnz()], |dv| {
            backward(plan, stage.values.data(), &stage.x, &g, dx.as_mut(), dv);
        })));
        match dx {
            Some(dx) if i > 0 => g = dx,
            Some(dx) => {
                let shape = x_shape.expect("asked for");
                dx_rows = Some(Tensor::written(shape, |rows| dx.to_rows(rows)));
            }
            None => {}
        }
    }
    found.push(dx_rows);
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

/// The matrix that has `values` at `connections`, `[out, in]`, for ops that need it whole. Costs what a dense weight does.
///
/// A `probe` picks the zeros of largest |gradient| from the dense gradient, which is there anyway.
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
                let found = top_zeros(g.value(), |p| exists[p], probe.count);
                *probe.found.lock().unwrap_or_else(|e| e.into_inner()) = found;
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
