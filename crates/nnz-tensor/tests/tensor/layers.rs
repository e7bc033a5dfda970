use crate::check::*;
use nnz_tensor::ops::{self, AttentionMask, KvCache};
use nnz_tensor::{Tensor, Var};

#[test]
fn norms() {
    let x: &[usize] = &[3, 2, 4];
    at("layer_norm", &[x, &[4], &[4]], |v| ops::layer_norm(&v[0], &v[1], &v[2], 1e-3));
    at("rms_norm", &[x, &[4]], |v| ops::rms_norm(&v[0], &v[1], 1e-3));
    at("batch_norm", &[x, &[4], &[4]], |v| ops::batch_norm(&v[0], &v[1], &v[2], 1e-3).0);
    at("group_norm", &[x, &[4], &[4]], |v| ops::group_norm(&v[0], 2, &v[1], &v[2], 1e-3));
    let (mean, variance) = (random(&[4], 8), random(&[4], 9).map(|x| x.abs() + 0.1));
    at("batch_norm_fixed", &[x, &[4], &[4]], |v| ops::batch_norm_fixed(&v[0], &v[1], &v[2], &mean, &variance, 1e-3));
    at("no rows", &[&[0, 4], &[4], &[4]], |v| ops::layer_norm(&v[0], &v[1], &v[2], 1e-3));
}

#[test]
fn norms_by_hand() {
    let x = fixed(&[2, 2], &[1.0, 3.0, 5.0, 11.0]);
    let (one, zero) = (fixed(&[2], &[1.0; 2]), fixed(&[2], &[0.0; 2]));
    same(ops::layer_norm(&x, &one, &zero, 0.0).value().data(), &[-1.0, 1.0, -1.0, 1.0]);
    let (y, mean, variance) = ops::batch_norm(&x, &one, &zero, 0.0);
    same(y.value().data(), &[-1.0, -1.0, 1.0, 1.0]);
    same(&[mean.data(), variance.data()].concat(), &[3.0, 7.0, 4.0, 16.0]);
    let fixed_y = ops::batch_norm_fixed(&x, &one, &zero, &mean, &variance, 0.0);
    same(fixed_y.value().data(), y.value().data());
    let mut running = Tensor::full(&[2], 1.0);
    ops::move_statistics(&mut running, &variance, 0.1, Some(2));
    same(running.data(), &[0.9 + 0.8, 0.9 + 3.2]);
    same(
        ops::rms_norm(&fixed(&[1, 2], &[3.0, 4.0]), &one, 0.0).value().data(),
        &[3.0 / 12.5f64.sqrt(), 4.0 / 12.5f64.sqrt()],
    );
}

#[test]
fn attention_of_every_kind() {
    let (q, kv): (&[usize], &[usize]) = (&[2, 3, 4, 2], &[2, 5, 2, 2]);
    let keys = [true, true, false, true, true, false, false, true, true, true];
    for mask in [
        AttentionMask::default(),
        AttentionMask { causal: true, ..Default::default() },
        AttentionMask { keys: &keys, ..Default::default() },
        AttentionMask { causal: true, keys: &keys },
    ] {
        at("attention", &[q, kv, kv], |v| ops::attention(&v[0], &v[1], &v[2], mask));
    }
    at("self-attention", &[&[1, 3, 2, 2]], |v| ops::attention(&v[0], &v[0], &v[0], AttentionMask::default()));
    at("rope", &[&[2, 3, 2, 4]], |v| ops::rope(&v[0], 2, 100.0));
}

#[test]
fn a_causal_query_sees_no_later_key() {
    let [q, k, v] = [1, 2, 3].map(|s| random(&[1, 4, 2, 2], s));
    let run = |k: &Tensor<f64>, v: &Tensor<f64>| {
        let [q, k, v] = [&q, k, v].map(|t| Var::constant(t.clone()));
        ops::attention(&q, &k, &v, AttentionMask { causal: true, ..Default::default() }).value().data().to_vec()
    };
    let before = run(&k, &v);
    let (mut k2, mut v2) = (k.clone(), v.clone());
    k2.data_mut()[12..].fill(5.0);
    v2.data_mut()[12..].fill(-7.0);
    let after = run(&k2, &v2);
    same(&after[..12], &before[..12]);
    assert_ne!(&after[12..], &before[12..]);
    // The first query attends only to itself.
    same(&before[..4], &v.data()[..4]);
}

#[test]
fn a_cache_gives_what_the_whole_sequence_gives() {
    let [q, k, v] = [1, 2, 3].map(|s| Var::constant(random(&[2, 5, 2, 2], s)));
    let causal = AttentionMask { causal: true, ..Default::default() };
    let whole = ops::attention(&ops::rope(&q, 0, 10.0), &ops::rope(&k, 0, 10.0), &v, causal);
    let mut cache = KvCache::new();
    let mut parts = Vec::new();
    for range in [0..2, 2..3, 3..5] {
        let [q, k, v] = [&q, &k, &v].map(|x| ops::slice(x, 1, range.clone()));
        let (q, k) = (ops::rope(&q, cache.len(), 10.0), ops::rope(&k, cache.len(), 10.0));
        let (k, v) = cache.append(&k, &v);
        parts.push(ops::attention(&q, &k, &v, causal));
    }
    let parts = ops::concat(&parts.iter().collect::<Vec<_>>(), 1);
    same(parts.value().data(), whole.value().data());
}

#[test]
fn a_query_without_keys_gets_zeros() {
    let x = Var::constant(random(&[1, 2, 1, 2], 1));
    let y = ops::attention(&x, &x, &x, AttentionMask { causal: false, keys: &[false, false] });
    same(y.value().data(), &[0.0; 4]);
}

#[test]
fn cells() {
    at("rnn", &[&[2, 3]], |v| ops::rnn_cell(&v[0]));
    at("lstm", &[&[2, 12], &[2, 3]], |v| {
        let (h, c) = ops::lstm_cell(&v[0], &v[1]);
        ops::concat(&[&h, &c], 1)
    });
    at("gru", &[&[2, 9], &[2, 9], &[2, 3]], |v| ops::gru_cell(&v[0], &v[1], &v[2]));
    at("cfc", &[&[2, 12], &[2, 1]], |v| ops::cfc_cell(&v[0], &v[1]));
    at("embedding", &[&[4, 3]], |v| ops::index_select(&v[0], 0, &[3, 1, 1]));
}
