use proptest::prelude::*;

use super::*;
use crate::testing::{Layer, bits, check_operator, on_threads, random};
use crate::{Compiled, Dense};

/// On every instruction set.
fn check_all<L: Lines>(layer: &Layer, op: &ByRows<L, f64>, batch: usize, seed: u64) {
    for &isa in Isa::available() {
        let forward = |x: &_, bias: Option<&[f64]>, y: &mut _| op.forward_on(isa, x, bias, y);
        let backward = |x: &_, g: &_, dx: Option<&mut _>, dw: &mut [f64]| op.backward_on(isa, x, g, dx, dw);
        check_operator(layer, &op.values, batch, seed, forward, backward);
    }
}

fn check_dyn(layer: &Layer, values: &[f64], op: &dyn Operator<f64>, batch: usize, seed: u64) {
    assert_eq!((op.rows(), op.cols(), op.nnz()), (layer.rows, layer.cols, layer.nnz()), "{}", op.format());
    let forward = |x: &_, bias: Option<&[f64]>, y: &mut _| op.forward(x, bias, y);
    let backward = |x: &_, g: &_, dx: Option<&mut _>, dw: &mut [f64]| op.backward(x, g, dx, dw);
    check_operator(layer, values, batch, seed, forward, backward);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_structure(
        rows in 0usize..90, cols in 0usize..90, density in 0.0..1.0f64, seed in 0u64..99,
        batch in prop::sample::select(vec![0usize, 1, 8, 16, 40, 64, 70, 130]),
    ) {
        let layer = Layer::random(rows, cols, density * density, seed);
        let values: Vec<f64> = random(seed, layer.nnz());
        check_all(&layer, &ByRows::csr(layer.csr(), &values), batch, seed);
        check_all(&layer, &ByRows::bitmask(layer.csr(), &values), batch, seed);
        check_dyn(&layer, &values, &Compiled::new(layer.csr(), layer.csc(), &values), batch, seed);
        check_dyn(&layer, &values, &Dense::new(layer.csr(), &values), batch, seed);
    }

    #[test]
    fn constant_fan_in_and_n_of_m(
        rows in 0usize..70, groups in 1usize..9, m in 1usize..12, keep in 0.0..1.0f64, seed in 0u64..99,
        batch in prop::sample::select(vec![1usize, 16, 70]),
    ) {
        let n = ((m as f64 * keep) as usize).max(1);
        // The n places of a group with the smallest random numbers.
        let chosen = |r: usize, c: usize| {
            let key = |c: usize| (bits(seed, (r * groups * m + c) as u64), c);
            let first = c / m * m;
            (first..first + m).filter(|&o| key(o) < key(c)).count() < n
        };
        let layer = Layer::new(rows, groups * m, chosen);
        let values: Vec<f64> = random(seed, layer.nnz());
        check_all(&layer, &ByRows::n_of_m(layer.csr(), n, m, &values).expect("n of m"), batch, seed);
        check_all(&layer, &ByRows::ell(layer.csr(), &values).expect("constant fan-in"), batch, seed);
    }
}

#[test]
fn structures_of_another_kind_are_refused() {
    let layer = Layer::new(4, 8, |r, c| c <= r);
    let values = vec![1.0f32; layer.nnz()];
    assert!(ByRows::ell(layer.csr(), &values).is_none());
    assert!(ByRows::n_of_m(layer.csr(), 2, 4, &values).is_none());
    // As many entries, but not in every group.
    let layer = Layer::new(4, 8, |_, c| c < 4);
    let values = vec![1.0f32; layer.nnz()];
    assert!(ByRows::n_of_m(layer.csr(), 2, 4, &values).is_none());
    assert!(ByRows::ell(layer.csr(), &values).is_some());
}

#[test]
fn any_thread_count_gives_the_same_bits() {
    let layer = Layer::random(300, 200, 0.1, 3);
    let values: Vec<f32> = random(1, layer.nnz());
    let op = ByRows::bitmask(layer.csr(), &values);
    on_threads(|| {
        let (x, g) =
            (Tiled::from_rows(130, 200, &random(2, 130 * 200)), Tiled::from_rows(130, 300, &random(3, 130 * 300)));
        let (mut y, mut dx, mut dw) = (Tiled::zeros(130, 300), Tiled::zeros(130, 200), vec![0.0; layer.nnz()]);
        op.forward(&x, None, &mut y);
        op.backward(&x, &g, Some(&mut dx), &mut dw);
        [y.as_slice(), dx.as_slice(), &dw].concat().iter().map(|v: &f32| v.to_bits()).collect::<Vec<_>>()
    });
}
