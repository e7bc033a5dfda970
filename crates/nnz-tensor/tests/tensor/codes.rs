//! Sparse activations against the dense computation with a mask, and against finite differences.

use crate::check::*;
use nnz_tensor::ops::Rank;
use nnz_tensor::{Codes, Error, Gradient, Real, SparseVar, Tensor, Var, ops};

/// z = x Wᵀ + b, and z where it is among the k best of its row.
fn dense(x: &V, w: &V, b: &V, k: usize, by: Rank) -> V {
    let z = ops::linear(x, w, b);
    let cols = w.shape()[0];
    let mut mask = vec![0.0; z.value().len()];
    for (row, mask) in z.value().data().chunks(cols).zip(mask.chunks_mut(cols)) {
        let key = |c: usize| match by {
            Rank::Magnitude => row[c].abs(),
            _ => row[c],
        };
        let mut order: Vec<usize> = (0..cols).filter(|&c| by != Rank::Relu || row[c] > 0.0).collect();
        order.sort_by(|&a, &b| key(b).total_cmp(&key(a)).then(a.cmp(&b)));
        order.iter().take(k).for_each(|&c| mask[c] = 1.0);
    }
    ops::mul(&z, &Var::constant(Tensor::new(z.shape(), mask)))
}

const RANKS: [Rank; 3] = [Rank::Value, Rank::Relu, Rank::Magnitude];

#[test]
fn codes_and_their_gradients_are_those_of_the_dense_product_under_a_mask() {
    let [x, w, b] = [random(&[9, 5], 1), random(&[33, 5], 2), random(&[33], 3)];
    for by in RANKS {
        for k in [0, 1, 4, 33, 50] {
            let leaves = || [&x, &w, &b].map(|t| Var::leaf(t.clone()));
            let (ours, theirs) = (leaves(), leaves());
            let z = ops::linear_topk(&ours[0], &ours[1], Some(&ours[2]), k, by);
            let want = dense(&theirs[0], &theirs[1], &theirs[2], k, by);
            same(z.dense().value().data(), want.value().data());
            assert!((0..9).all(|r| z.codes().row(r).len() <= k));
            assert!(by == Rank::Relu || z.codes().nnz() == 9 * k.min(33));
            let mut got = scalar(&z.dense()).backward(false).unwrap();
            let mut right = scalar(&want).backward(false).unwrap();
            for (a, b) in ours.iter().zip(&theirs) {
                let zero = || Tensor::zeros(a.shape());
                same(got.take(a).unwrap_or_else(zero).data(), right.take(b).unwrap_or_else(zero).data());
            }
        }
    }
}

#[test]
fn derivatives_are_those_of_finite_differences() {
    let [x, w, b, d, c] =
        [random(&[2, 3, 4], 1), random(&[11, 4], 2), random(&[11], 3), random(&[11, 3], 4), random(&[3], 5)];
    for by in RANKS {
        let code = move |v: &[V]| ops::linear_topk(&v[0], &v[1], Some(&v[2]), 3, by);
        check("linear_topk", &move |v| code(v).values().clone(), &[x.clone(), w.clone(), b.clone()]);
        check("without bias", &move |v| ops::linear_topk(&v[0], &v[1], None, 3, by).dense(), &[x.clone(), w.clone()]);
        let whole = move |v: &[V]| ops::decode(&code(v), &v[3], Some(&v[4]));
        check("autoencoder", &whole, &[x.clone(), w.clone(), b.clone(), d.clone(), c.clone()]);
    }
    let codes = Codes::new(4, 6, vec![0, 2, 2, 5, 6], vec![1, 4, 0, 1, 5, 4]).unwrap();
    let sparse = move |v: &V| SparseVar::new(codes.clone(), v.clone());
    let decode = sparse.clone();
    check("decode", &move |v| ops::decode(&decode(&v[0]), &v[1], None), &[random(&[6], 6), random(&[6, 3], 7)]);
    // The entries of a column go through their own matrix.
    let routed = move |v: &[V]| {
        let each = |c: usize, x: &V| Ok::<_, Error>(ops::matmul(x, false, &ops::slice(&v[2], 0, c..c + 2), true));
        ops::routed(&v[0], &sparse(&v[1]), each).unwrap()
    };
    check("routed", &routed, &[random(&[4, 3], 8), random(&[6], 9), random(&[7, 3], 10)]);
    check("rows_of", &|v| ops::rows_of(&v[0], &[3, 1, 3, 0]), &[random(&[4, 2, 3], 11)]);
}

#[test]
fn routes_give_what_a_loop_over_entries_gives() {
    let codes = Codes::new(3, 4, vec![0, 2, 2, 4], vec![0, 3, 1, 3]).unwrap();
    let z = SparseVar::new(codes, fixed(&[4], &[0.5, 2.0, -1.0, 3.0]));
    let x = fixed(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let mut asked = Vec::new();
    let y = ops::routed(&x, &z, |c, group| {
        asked.push((c, group.value().data().to_vec()));
        Ok::<_, Error>(ops::scale(group, 10f64.powi(c as i32)))
    });
    same(y.unwrap().value().data(), &[2000.5, 4001.0, 0.0, 0.0, 14950.0, 17940.0]);
    assert_eq!(asked, [(0, vec![1.0, 2.0]), (1, vec![5.0, 6.0]), (3, vec![1.0, 2.0, 5.0, 6.0])]);
    let none = SparseVar::new(Codes::new(3, 4, vec![0; 4], vec![]).unwrap(), fixed(&[0], &[]));
    assert_eq!(ops::routed(&x, &none, |_, g| Ok::<_, Error>(g.clone())).unwrap().value(), &Tensor::zeros(&[3, 2]));
}

#[test]
fn of_equals_the_first_are_taken_and_no_number_is_never_lost() {
    let w = fixed(&[5, 1], &[1.0, 2.0, -2.0, 2.0, 2.0]);
    let code = |x: f64, k: usize, by: Rank| {
        let z = ops::linear_topk(&fixed(&[1, 1], &[x]), &w, None, k, by);
        (z.codes().columns().to_vec(), z.values().value().data().to_vec())
    };
    assert_eq!(code(1.0, 2, Rank::Value), (vec![1, 3], vec![2.0, 2.0]));
    assert_eq!(code(1.0, 2, Rank::Magnitude), (vec![1, 2], vec![2.0, -2.0]));
    assert_eq!(code(-1.0, 3, Rank::Relu), (vec![2], vec![2.0]));
    assert_eq!(code(0.0, 2, Rank::Relu).0.len(), 0);
    for by in RANKS {
        assert!(code(f64::NAN, 1, by).1[0].is_nan(), "{by:?}");
    }
}

/// Several blocks of columns and groups of rows give the same as everything at once, for any number of threads.
#[test]
fn blocks_and_threads_change_nothing() {
    fn run<T: Real>() -> Vec<u64> {
        let narrow = |t: Tensor<f64>| Tensor::new(t.shape(), t.data().iter().map(|&v| T::of(v)).collect());
        let [x, w, b] =
            [(&[700, 6][..], 1), (&[1500, 6], 2), (&[1500], 3)].map(|(s, n)| Var::leaf(narrow(random(s, n))));
        let z = ops::linear_topk(&x, &w, Some(&b), 7, Rank::Relu);
        let d = Var::leaf(w.value().clone());
        let y = ops::decode(&z, &d, None);
        let mut found = ops::mse(&y, &x.detach()).backward(false).unwrap();
        let bits = |t: Tensor<T>| t.data().iter().map(|v| v.f64().to_bits()).collect::<Vec<u64>>();
        let mut all: Vec<u64> = z.codes().columns().iter().map(|&c| c.into()).collect();
        all.extend([bits(y.value().clone()), bits(z.values().value().clone())].concat());
        all.extend([&x, &w, &b, &d].into_iter().flat_map(|v| bits(found.take(v).unwrap())));
        all
    }
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| (run::<f32>(), run::<f64>()))
    };
    let one = on(1);
    assert!([2, 3, 8].into_iter().all(|n| on(n) == one));
    let [x, w, b] = [(&[700, 6][..], 1), (&[1500, 6], 2), (&[1500], 3)].map(|(s, n)| Var::constant(random(s, n)));
    let z = ops::linear_topk(&x, &w, Some(&b), 7, Rank::Relu).dense();
    same(z.value().data(), dense(&x, &w, &b, 7, Rank::Relu).value().data());
}

#[test]
fn rows_that_several_ops_use_are_summed_once_each() {
    let x = Var::leaf(random(&[6, 2], 1));
    let twice = ops::add(&ops::sum(&ops::rows_of(&x, &[4, 1])), &ops::scale(&ops::sum(&ops::rows_of(&x, &[4])), 2.0));
    let gradient = twice.clone().backward(false).unwrap().take_gradient(&x).unwrap();
    assert_eq!(gradient, Gradient::Rows { rows: vec![1, 4], values: Tensor::new(&[2, 2], vec![1.0, 1.0, 3.0, 3.0]) });
    let found = twice.clone().backward(false).unwrap();
    same(found.get(&x).unwrap().value().data(), &[0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 3.0, 3.0, 0.0, 0.0]);
    // After an op that needs all entries, and together with a dense gradient.
    let mixed = ops::add(&ops::sum(&x), &ops::sum(&ops::rows_of(&ops::scale(&x, 5.0), &[0, 0])));
    let all = mixed.backward(false).unwrap().take(&x).unwrap();
    same(all.data(), &[11.0, 11.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    let Gradient::Dense(_) =
        ops::add(&ops::sum(&x), &ops::sum(&ops::rows_of(&x, &[2]))).backward(false).unwrap().take_gradient(&x).unwrap()
    else {
        panic!("a sum with a dense gradient is dense")
    };
}

#[test]
fn codes_that_are_none_are_refused_with_their_place() {
    let refused = |starts: &[u32], columns: &[u32]| Codes::new(2, 4, starts, columns).unwrap_err().to_string();
    assert!(refused(&[0, 1], &[0]).contains("2 starts do not delimit"));
    assert!(refused(&[0, 2, 1], &[0]).contains("row 1 ends before"));
    assert!(refused(&[0, 2, 2], &[1, 1]).contains("of row 0 do not ascend"));
    assert!(refused(&[0, 0, 1], &[4]).contains("of row 1 do not ascend below 4"));
    let z = SparseVar::of_dense(&Tensor::new(&[2, 3], vec![0.0, 2.0, 0.0, 1.0, 0.0, -1.0]));
    assert_eq!((z.codes().columns(), z.codes().counts()), (&[1, 0, 2][..], vec![1, 1, 1]));
    assert_eq!(z.codes().by_columns(), (vec![1, 0, 2], vec![0, 1, 2, 3]));
}
