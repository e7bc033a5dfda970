use proptest::prelude::*;

use super::*;
use crate::testing::{Layer, Plain, near, on_threads, random};

/// The plan computes the same as plain loops.
fn check<T: Real>(layer: &Layer, plan: &Plan, batch: usize, seed: u64, tolerance: f64) {
    let csr = layer.csr();
    let (rows, cols, nnz) = (layer.rows, layer.cols, layer.nnz());
    let values: Vec<T> = random(seed, nnz);
    let (x, g) = (random::<T>(seed + 1, batch * cols), random::<T>(seed + 2, batch * rows));
    let bias: Vec<T> = random(seed + 3, rows);
    let plain = Plain::new(layer, &values, batch, &x, &g, &bias);
    let by_rows = plan.by_rows();
    assert_eq!((&by_rows.starts[..], &by_rows.columns[..]), (csr.starts, csr.columns));
    let (mut master, mut want_dw) = (vec![T::nan(); nnz], vec![f64::NAN; nnz]);
    by_rows.scatter(&values, &mut master);
    by_rows.scatter(&plain.dw, &mut want_dw);
    let mut packed = vec![T::nan(); nnz];
    plan.pack(&master, &mut packed);
    let (xt, gt) = (Tiled::from_rows(batch, cols, &x), Tiled::from_rows(batch, rows, &g));
    for &isa in Isa::available() {
        let what = |op: &str| format!("{op} {} on {isa:?}, batch {batch}, {:?}", T::NAME, plan.tuning());
        for (bias, y) in [(None, &plain.y), (Some(&bias[..]), &plain.with_bias)] {
            let mut yt = Tiled::from_rows(batch, rows, &vec![T::nan(); batch * rows]);
            plan.forward_on(isa, &packed, &xt, bias, false, &mut yt);
            let mut got = vec![T::nan(); batch * rows];
            yt.to_rows(&mut got);
            near(&what("y"), &got, y, tolerance);
            let above = |v: T| if v > T::ZERO { v } else { T::ZERO };
            let want: Vec<T> = yt.as_slice().iter().copied().map(above).collect();
            plan.forward_on(isa, &packed, &xt, bias, true, &mut yt);
            assert_eq!(yt.as_slice(), want);
        }
        let mut dxt = Tiled::from_rows(batch, cols, &vec![T::nan(); batch * cols]);
        let mut got_dw = vec![T::nan(); nnz];
        plan.backward_on(isa, &master, &xt, &gt, Some(&mut dxt), true, &mut got_dw);
        let gated = dxt.clone();
        plan.backward_on(isa, &master, &xt, &gt, Some(&mut dxt), false, &mut got_dw);
        let gate = |(&d, &x): (&T, &T)| if x > T::ZERO { d } else { T::ZERO };
        let want: Vec<T> = dxt.as_slice().iter().zip(xt.as_slice()).map(gate).collect();
        assert_eq!(gated.as_slice(), want);
        let mut got = vec![T::nan(); batch * cols];
        dxt.to_rows(&mut got);
        near(&what("dx"), &got, &plain.dx, tolerance);
        near(&what("dw"), &got_dw, &want_dw, tolerance);
        let mut got_dw = vec![T::nan(); nnz];
        plan.backward_on(isa, &master, &xt, &gt, None, false, &mut got_dw);
        near(&what("dw alone"), &got_dw, &want_dw, tolerance);
    }
}

#[test]
fn equals_plain_loops_at_every_batch() {
    let layer = Layer::random(300, 500, 0.1, 1);
    let plan = Plan::new(layer.csr(), layer.csc());
    for batch in [0, 1, 2, 7, 8, 9, 15, 16, 17, 33, 49, 64, 65, 128, 130] {
        check::<f64>(&layer, &plan, batch, 7, 1e-12);
        check::<f32>(&layer, &plan, batch, 7, 1e-4);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn equals_plain_loops(
        rows in 0usize..90, cols in 0usize..90, density in 0.0..1.0f64, seed in 0u64..1000,
        batch in prop::sample::select(vec![1usize, 3, 16, 40, 64, 130]),
        sizes in prop::array::uniform4(1usize..100),
    ) {
        let layer = Layer::random(rows, cols, density * density, seed);
        let [forward_rows, forward_cols, backward_rows, backward_cols] = sizes;
        let tuning = Tuning { forward_rows, forward_cols, backward_rows, backward_cols };
        let (plan, place) = Plan::compile(layer.csr(), layer.csc(), tuning);
        let (of_rows, entries) = Plan::of_rows(layer.csr(), tuning);
        prop_assert_eq!(&of_rows, &plan);
        prop_assert!(entries.iter().enumerate().all(|(p, &e)| place[e as usize] as usize == p));
        check::<f64>(&layer, &plan, batch, seed, 1e-12);
        check::<f32>(&layer, &plan, batch, seed, 1e-4);
    }
}

#[test]
fn any_thread_count_gives_the_same_bits() {
    let layer = Layer::random(700, 900, 0.1, 3);
    on_threads(|| {
        let plan = Plan::new(layer.csr(), layer.csc());
        let values: Vec<f32> = random(1, layer.nnz());
        let mut packed = vec![0.0; layer.nnz()];
        plan.pack(&values, &mut packed);
        let batch = 200;
        let x = Tiled::from_rows(batch, 900, &random(2, batch * 900));
        let g = Tiled::from_rows(batch, 700, &random(3, batch * 700));
        let (mut y, mut dx) = (Tiled::zeros(batch, 700), Tiled::zeros(batch, 900));
        let mut dw = vec![0.0; layer.nnz()];
        plan.forward(&packed, &x, None, &mut y);
        plan.backward(&values, &x, &g, Some(&mut dx), &mut dw);
        [y.as_slice(), dx.as_slice(), &dw].concat().iter().map(|v: &f32| v.to_bits()).collect::<Vec<_>>()
    });
}

#[test]
fn rows_alone_give_the_plan_that_rows_and_columns_do() {
    // Several ranges of rows, and blocks with no or one entry of a line.
    for (rows, cols, density) in
        [(3000, 1000, 0.05), (700, 9000, 0.02), (2000, 2000, 0.001), (1, 5000, 0.5), (5000, 1, 0.5)]
    {
        let layer = Layer::random(rows, cols, density, 9);
        for tuning in [
            Tuning::of(rows, cols, layer.nnz()),
            Tuning { forward_rows: 7, forward_cols: 65536, backward_rows: 3, backward_cols: 65536 },
        ] {
            let (plan, place) = Plan::compile(layer.csr(), layer.csc(), tuning);
            on_threads(|| {
                let (of_rows, entries) = Plan::of_rows(layer.csr(), tuning);
                assert_eq!(of_rows, plan, "{rows}x{cols}");
                assert!(entries.iter().enumerate().all(|(p, &e)| place[e as usize] as usize == p));
                let by_rows = plan.by_rows();
                assert_eq!((&by_rows.starts[..], &by_rows.columns[..]), (layer.csr().starts, layer.csr().columns));
                assert_eq!(by_rows.order, place);
                entries
            });
        }
    }
}

#[test]
fn padding_of_activations_does_not_reach_gradients() {
    let layer = Layer::random(60, 50, 0.3, 5);
    let plan = Plan::new(layer.csr(), layer.csc());
    let values: Vec<f32> = random(1, layer.nnz());
    let batch = 70;
    let g = Tiled::from_rows(batch, 60, &random(2, batch * 60));
    let mut x = Tiled::from_rows(batch, 50, &random(3, batch * 50));
    let (mut dx, mut clean, mut dirty) = (Tiled::zeros(batch, 50), vec![0.0; layer.nnz()], vec![0.0; layer.nnz()]);
    plan.backward(&values, &x, &g, Some(&mut dx), &mut clean);
    x.as_mut_slice().iter_mut().filter(|v| **v == 0.0).for_each(|v| *v = 9.0);
    plan.backward(&values, &x, &g, Some(&mut dx), &mut dirty);
    assert_eq!(clean, dirty);
    let after = dx.clone();
    dx.clear_padding();
    assert_eq!(after.as_slice(), dx.as_slice());
}

#[test]
fn orders_are_inverse_and_a_new_topology_replaces_the_old() {
    let (old, new) = (Layer::random(90, 80, 0.2, 1), Layer::random(90, 80, 0.3, 2));
    let mut plan = Plan::new(old.csr(), old.csc());
    let tuning = plan.tuning();
    plan.update_topology(new.csr(), new.csc());
    assert_eq!(plan.tuning(), tuning);
    check::<f32>(&new, &plan, 40, 3, 1e-4);
    let by_row: Vec<u32> = (0..new.nnz() as u32).collect();
    let mut by_plan = vec![0; by_row.len()];
    plan.by_rows().scatter(&by_row, &mut by_plan);
    assert_eq!(plan.by_rows().gather(&by_plan), by_row);
}

#[test]
fn lines_longer_than_the_waiting_list() {
    let layer = Layer::new(300, 200, |r, c| (r + c) % 7 != 0);
    let tuning = Tuning { forward_rows: 300, forward_cols: 256, backward_rows: 512, backward_cols: 100 };
    let plan = Plan::tuned(layer.csr(), layer.csc(), tuning);
    check::<f64>(&layer, &plan, 70, 7, 1e-12);
    check::<f32>(&layer, &plan, 70, 7, 1e-4);
}

#[test]
fn block_sizes_fit_sixteen_bits_for_any_shape() {
    for rows in [0, 1, 10, 300, 4096, 1 << 20, 1 << 31] {
        for cols in [0, 1, 191, 255, 4096, 1 << 20, 1 << 31] {
            for nnz in [0, 1, 1000, rows * cols / 100, rows * cols] {
                let t = Tuning::of(rows, cols, nnz);
                for size in [t.forward_rows, t.forward_cols, t.backward_rows, t.backward_cols] {
                    assert!((1..=1 << 16).contains(&size), "{rows}x{cols}, {nnz} entries: {t:?}");
                }
            }
        }
    }
    let t = Tuning::of(4096, 4096, 4096 * 41);
    assert_eq!([t.forward_rows, t.forward_cols, t.backward_rows, t.backward_cols], [1024, 1024, 1366, 1024]);
}
