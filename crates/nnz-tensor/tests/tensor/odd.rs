//! Empty batches and extents of one, op by op: values, first and second derivatives, all finite.

use crate::check::*;
use nnz_core::{Rng, Topology};
use nnz_tensor::ops::{self, AttentionMask, Rank, Window};
use nnz_tensor::tape::TapeError;
use nnz_tensor::{Connections, Tensor, Var};
use std::sync::Arc;

type Op = Box<dyn Fn(&[V]) -> V>;

/// Ops at a batch of `b` and extents of `n`: name, shapes, op.
fn table(b: usize, n: usize) -> Vec<(&'static str, Vec<Vec<usize>>, Op)> {
    let mut all: Vec<(&'static str, Vec<Vec<usize>>, Op)> = Vec::new();
    let mut op = |name, shapes: &[&[usize]], f: Op| all.push((name, shapes.iter().map(|s| s.to_vec()).collect(), f));
    let labels: Vec<u32> = (0..b as u32).map(|r| r % n as u32).collect();
    let pixels = [b, n, n, n];
    let one = Window::new([1, 1]);
    let topology = || Arc::new(Connections::new(&Topology::full(n, n)));
    op("add", &[&[b, n], &[n]], Box::new(|v| ops::add(&v[0], &v[1])));
    op("sub", &[&[b, 1], &[b, n]], Box::new(|v| ops::sub(&v[0], &v[1])));
    op("mul", &[&[b, n], &[1, n]], Box::new(|v| ops::mul(&v[0], &v[1])));
    op("div", &[&[b, n]], Box::new(|v| ops::div(&v[0], &ops::shift(&ops::square(&v[0]), 1.0))));
    op("mean", &[&[b, n]], Box::new(|v| ops::mean(&v[0])));
    op("sum_rows", &[&[b, n]], Box::new(|v| ops::sum_rows(&v[0])));
    op("sum_over", &[&[b, n]], Box::new(|v| ops::sum_over(&v[0], &[0])));
    op("mean_over", &[&[b, n]], Box::new(|v| ops::mean_over(&v[0], &[0])));
    op("variance_over", &[&[b, n]], Box::new(|v| ops::variance_over(&v[0], &[0])));
    op("max_over", &[&[b, n]], Box::new(|v| ops::max_over(&v[0], &[1])));
    op("cumsum", &[&[b, n]], Box::new(|v| ops::cumsum(&v[0], 0)));
    op("permute", &[&[b, n, 1]], Box::new(|v| ops::permute(&v[0], &[2, 0, 1])));
    op("transpose", &[&[b, n]], Box::new(|v| ops::transpose(&v[0])));
    op("slice", &[&[b, n]], Box::new(|v| ops::slice(&v[0], 1, 0..1)));
    op("an empty slice", &[&[b, n]], Box::new(|v| ops::slice(&v[0], 1, 1..1)));
    op("pad", &[&[b, n]], Box::new(|v| ops::pad(&v[0], 1, 1, 0)));
    op("concat", &[&[b, n], &[0, n]], Box::new(|v| ops::concat(&[&v[0], &v[1]], 0)));
    op("stack", &[&[b, n], &[b, n]], Box::new(|v| ops::stack(&[&v[0], &v[1]], 1)));
    op("index_select", &[&[n, 2]], Box::new(move |v| ops::index_select(&v[0], 0, &vec![0; b])));
    op("index_add", &[&[n, 2], &[b, 2]], Box::new(move |v| ops::index_add(&v[0], 0, &vec![0; b], &v[1])));
    op("sort", &[&[b, n]], Box::new(|v| ops::sort(&v[0], 1, true).0));
    op("top_k", &[&[b, n]], Box::new(|v| ops::top_k(&v[0], 1, 1).0));
    op("matmul", &[&[b, n], &[n, 2]], Box::new(|v| ops::matmul(&v[0], false, &v[1], false)));
    op("matmul, transposed", &[&[b, n], &[b, 2]], Box::new(|v| ops::matmul(&v[0], true, &v[1], false)));
    op("linear", &[&[b, n], &[2, n], &[2]], Box::new(|v| ops::linear(&v[0], &v[1], &v[2])));
    op("batch_matmul", &[&[b, 1, n], &[b, n, 2]], Box::new(|v| ops::batch_matmul(&v[0], false, &v[1], false)));
    op("contract", &[&[b, n], &[n, b]], Box::new(|v| ops::contract("ij,jk->ik", &v[0], &v[1])));
    let c = topology();
    op(
        "sparse_linear",
        &[&[b, n], &[n * n], &[n]],
        Box::new(move |v| ops::sparse_linear(&v[0], &v[1], &c, Some(&v[2]), None)),
    );
    let c = topology();
    op("spmm_t", &[&[b, n], &[n * n]], Box::new(move |v| ops::spmm_t(&v[0], &v[1], &c)));
    let c = topology();
    op("sddmm", &[&[b, n], &[b, n]], Box::new(move |v| ops::sddmm(&v[0], &v[1], &c)));
    let topk = |v: &[V]| ops::linear_topk(&v[0], &v[1], Some(&v[2]), 1, Rank::Magnitude);
    op("linear_topk", &[&[b, n], &[n, n], &[n]], Box::new(move |v| topk(v).dense()));
    op(
        "decode",
        &[&[b, n], &[n, n], &[n], &[n, 2], &[2]],
        Box::new(move |v| ops::decode(&topk(v), &v[3], Some(&v[4]))),
    );
    op(
        "routed",
        &[&[b, n], &[n, n], &[n]],
        Box::new(move |v| ops::routed(&v[0], &topk(v), |_, x| Ok::<_, TapeError>(ops::square(x))).unwrap()),
    );
    op("rows_of", &[&[n, 2]], Box::new(move |v| ops::rows_of(&v[0], &vec![0; b])));
    op("relu", &[&[b, n]], Box::new(|v| ops::relu(&v[0])));
    op("gelu", &[&[b, n]], Box::new(|v| ops::gelu(&v[0])));
    op("dropout", &[&[b, n]], Box::new(|v| ops::dropout(&v[0], 0.5, Rng::stream(0, "drop", 0, 0))));
    op("softmax", &[&[b, n]], Box::new(|v| ops::softmax(&v[0])));
    op("log_softmax", &[&[b, n]], Box::new(|v| ops::log_softmax(&v[0])));
    op("layer_norm", &[&[b, n], &[n], &[n]], Box::new(|v| ops::layer_norm(&v[0], &v[1], &v[2], 1e-3)));
    op("rms_norm", &[&[b, n], &[n]], Box::new(|v| ops::rms_norm(&v[0], &v[1], 1e-3)));
    op("batch_norm", &[&[b, n], &[n], &[n]], Box::new(|v| ops::batch_norm(&v[0], &v[1], &v[2], 1e-3).0));
    op("group_norm", &[&[b, n, n], &[n], &[n]], Box::new(|v| ops::group_norm(&v[0], 1, &v[1], &v[2], 1e-3)));
    op("patches", &[&pixels], Box::new(move |v| ops::patches(&v[0], one)));
    op("conv", &[&pixels, &[2, n], &[2]], Box::new(move |v| ops::conv(&v[0], &v[1], Some(&v[2]), one, 1)));
    op("conv, depthwise", &[&pixels, &[n, 1]], Box::new(move |v| ops::conv(&v[0], &v[1], None, one, n)));
    op("conv, strided", &[&pixels, &[2, 4 * n]], {
        let window = Window::new([2, 2]).stride([2, 2]).padding([1, 1]);
        Box::new(move |v| ops::conv(&v[0], &v[1], None, window, 1))
    });
    op("conv_transposed", &[&pixels, &[n, 8]], {
        Box::new(|v| ops::conv_transposed(&v[0], &v[1], None, Window::new([2, 2]).stride([2, 2]), 1, [0, 1]))
    });
    op("conv 1d", &[&[b, n, 2], &[3, 2]], Box::new(|v| ops::conv(&v[0], &v[1], None, Window::new([1]), 1)));
    op("conv 3d", &[&[b, 1, n, 1, 2], &[3, 2]], Box::new(|v| ops::conv(&v[0], &v[1], None, Window::new([1; 3]), 1)));
    op("max_pool", &[&pixels], Box::new(move |v| ops::max_pool(&v[0], one)));
    op("avg_pool", &[&pixels], Box::new(move |v| ops::avg_pool(&v[0], one)));
    op("global_avg_pool", &[&pixels], Box::new(|v| ops::global_avg_pool(&v[0])));
    op("global_max_pool", &[&pixels], Box::new(|v| ops::global_max_pool(&v[0])));
    op("upsample_nearest", &[&pixels], Box::new(|v| ops::upsample_nearest(&v[0], 2)));
    op("upsample_linear", &[&pixels], Box::new(|v| ops::upsample_linear(&v[0], &[3, 1])));
    let heads = [b, n, n, 2];
    op(
        "attention",
        &[&heads, &heads, &heads],
        Box::new(|v| ops::attention(&v[0], &v[1], &v[2], AttentionMask { causal: true, keys: &[] })),
    );
    op("rope", &[&heads], Box::new(|v| ops::rope(&v[0], 0, 100.0)));
    op("rnn_cell", &[&[b, n]], Box::new(|v| ops::rnn_cell(&v[0])));
    op("lstm_cell", &[&[b, 4 * n], &[b, n]], Box::new(|v| ops::lstm_cell(&v[0], &v[1]).0));
    op("gru_cell", &[&[b, 3 * n], &[b, 3 * n], &[b, n]], Box::new(|v| ops::gru_cell(&v[0], &v[1], &v[2])));
    op("cfc_cell", &[&[b, 4 * n], &[b, 1]], Box::new(|v| ops::cfc_cell(&v[0], &v[1])));
    op("fft", &[&[b, n, 2]], Box::new(|v| ops::fft(&v[0], 1, false)));
    op("rfft", &[&[b, n]], Box::new(|v| ops::rfft(&v[0])));
    let l = labels.clone();
    op("cross_entropy", &[&[b, n]], Box::new(move |v| ops::cross_entropy(&v[0], &l)));
    let l = labels.clone();
    op("cross_entropy_smooth", &[&[b, n]], Box::new(move |v| ops::cross_entropy_smooth(&v[0], &l, 0.1)));
    op("hinge", &[&[b, n]], Box::new(move |v| ops::hinge(&v[0], &labels, 1.0)));
    op("mse", &[&[b, n], &[b, n]], Box::new(|v| ops::mse(&v[0], &v[1])));
    op("kl", &[&[b, n], &[b, n]], Box::new(|v| ops::kl(&v[0], &v[1])));
    op("bce_with_logits", &[&[b, n], &[b, n]], Box::new(|v| ops::bce_with_logits(&v[0], &v[1])));
    op("info_nce", &[&[b, n], &[b, n]], Box::new(|v| ops::info_nce(&v[0], &v[1], 0.5)));
    all
}

#[test]
fn empty_batches_and_extents_of_one() {
    for (b, n) in [(0, 1), (0, 2), (1, 1), (2, 1), (1, 3)] {
        for (name, shapes, f) in table(b, n) {
            let tensors: Vec<Tensor<f64>> = shapes.iter().enumerate().map(|(i, s)| random(s, 1 + i as u64)).collect();
            let place = format!("{name}, batch {b}, extents {n}");
            check(&place, &f, &tensors);
            let leaves: Vec<V> = tensors.into_iter().map(Var::leaf).collect();
            let y = f(&leaves);
            let finite = |t: &Tensor<f64>| t.data().iter().all(|v| v.is_finite());
            assert!(finite(y.value()), "{place}: {:?}", y.value());
            let mut found = y.backward(false).unwrap();
            for (leaf, shape) in leaves.iter().zip(&shapes) {
                let g = found.take(leaf).unwrap_or_else(|| panic!("{place}: no gradient"));
                assert!(g.shape() == *shape && finite(&g), "{place}: a gradient {g:?} of a value {shape:?}");
            }
        }
    }
}

#[test]
fn a_missing_backward_is_an_error() {
    let x = || Var::leaf(random(&[2], 1));
    let op = |x: &V, y: &V, gradients: fn(&V) -> Vec<Option<V>>| {
        Var::op("half", x.value().clone(), &[x, y], || Box::new(gradients)).backward(false).err()
    };
    let constant = Var::constant(random(&[2], 2));
    // A gradient for each parent that needs one is enough; fewer are not.
    assert_eq!(op(&x(), &constant, |g| vec![Some(g.clone()), None]), None);
    assert_eq!(op(&x(), &x(), |g| vec![Some(g.clone()), None]), Some(TapeError::Missing("half")));
    assert_eq!(op(&x(), &x(), |g| vec![Some(g.clone())]), Some(TapeError::Missing("half")));
    let once = Var::fused("once", random(&[2], 1), &[&x()], || Box::new(|g| vec![Some(g.clone())]));
    assert_eq!(once.clone().backward(true).err(), Some(TapeError::OnceOnly("once")));
    assert!(once.backward(false).is_ok());
}
