use crate::check::*;
use nnz_core::Mask;
use nnz_tensor::{Tensor, Var, ops};
use std::sync::Arc;

fn numbers(shape: &[usize]) -> V {
    Var::constant(Tensor::new(shape, (0..shape.iter().product()).map(|i: usize| i as f64).collect()))
}

#[test]
fn moving_entries() {
    let shape: &[usize] = &[2, 3, 4];
    at("permute", &[shape], |v| ops::permute(&v[0], &[2, 0, 1]));
    at("transpose", &[shape], |v| ops::transpose(&v[0]));
    for axis in 0..3 {
        at("slice", &[shape], |v| ops::slice(&v[0], axis, 1..2));
        at("pad", &[shape], |v| ops::pad(&v[0], axis, 2, 1));
        at("concat", &[shape, shape], |v| ops::concat(&[&v[0], &v[1], &v[0]], axis));
        at("stack", &[shape, shape], |v| ops::stack(&[&v[0], &v[1]], axis));
        at("index_select", &[shape], |v| ops::index_select(&v[0], axis, &[1, 0, 1]));
        let mut more = shape.to_vec();
        more[axis] = 3;
        at("index_add", &[shape, &more], |v| ops::index_add(&v[0], axis, &[1, 0, 1], &v[1]));
        at("sort", &[shape], |v| ops::sort(&v[0], axis, false).0);
        at("top_k", &[shape], |v| ops::top_k(&v[0], axis, 2).0);
    }
    at("split", &[shape], |v| {
        let parts = ops::split(&v[0], 2, &[1, 3]);
        ops::concat(&[&parts[1], &parts[0]], 2)
    });
    at("gather", &[shape], |v| ops::gather(&v[0], 1, &[0, 2, 2, 1, 1, 0], &[2, 1, 3]));
    at("scatter_add", &[shape, &[2, 1, 3]], |v| ops::scatter_add(&v[0], 1, &[0, 2, 2, 1, 1, 0], &v[1]));
    let mask = Arc::new(Mask::from_bools(&[true, false, true, true, false, true]));
    at("masked", &[&[2, 3]], move |v| ops::masked(&v[0], &mask));
    let columns = Arc::new(vec![0, 2]);
    at("with_columns", &[&[2, 3], &[2, 2]], move |v| ops::with_columns(&v[0], &columns, &v[1]));
    at("empty", &[&[0, 3]], |v| ops::concat(&[&v[0], &ops::sort(&v[0], 1, true).0], 1));
}

#[test]
fn moving_entries_by_hand() {
    let x = numbers(&[2, 3]);
    same(ops::transpose(&x).value().data(), &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    same(ops::permute(&numbers(&[2, 2, 2]), &[2, 0, 1]).value().data(), &[0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0]);
    same(ops::slice(&x, 1, 1..3).value().data(), &[1.0, 2.0, 4.0, 5.0]);
    same(ops::pad(&x, 1, 1, 0).value().data(), &[0.0, 0.0, 1.0, 2.0, 0.0, 3.0, 4.0, 5.0]);
    same(ops::concat(&[&x, &numbers(&[2, 1])], 1).value().data(), &[0.0, 1.0, 2.0, 0.0, 3.0, 4.0, 5.0, 1.0]);
    assert_eq!(ops::stack(&[&x, &x, &x], 1).shape(), [2, 3, 3]);
    same(ops::gather(&x, 1, &[2, 0], &[2, 1]).value().data(), &[2.0, 3.0]);
    let zeros = Var::constant(Tensor::zeros(&[2, 3]));
    same(ops::index_add(&zeros, 1, &[2, 2], &numbers(&[2, 2])).value().data(), &[0.0, 0.0, 1.0, 0.0, 0.0, 5.0]);
    let (sorted, index) = ops::sort(&fixed(&[2, 3], &[2.0, 2.0, 1.0, 0.0, 9.0, 3.0]), 1, true);
    same(sorted.value().data(), &[2.0, 2.0, 1.0, 9.0, 3.0, 0.0]);
    assert_eq!(index, [0, 1, 2, 1, 2, 0]);
    let (top, index) = ops::top_k(&fixed(&[3, 2], &[2.0, 2.0, 1.0, 0.0, 9.0, 3.0]), 0, 2);
    same(top.value().data(), &[9.0, 3.0, 2.0, 2.0]);
    assert_eq!(index, [2, 2, 0, 0]);
    let block = fixed(&[2, 2], &[7.0, 8.0, 9.0, 6.0]);
    same(ops::with_columns(&x, &Arc::new(vec![2, 0]), &block).value().data(), &[8.0, 1.0, 7.0, 6.0, 4.0, 9.0]);
    same(
        ops::masked(&x, &Arc::new(Mask::from_bools(&[false, true, true, false, false, true]))).value().data(),
        &[0.0, 1.0, 2.0, 0.0, 0.0, 5.0],
    );
    assert_eq!(ops::one_hot::<f64>(&[1, 0], 2).data(), [0.0, 1.0, 1.0, 0.0]);
}

#[test]
fn a_gradient_goes_straight_through() {
    let (w, mask) =
        (Var::leaf(Tensor::new(&[3], vec![1.0, -2.0, 3.0])), Arc::new(Mask::from_bools(&[true, false, true])));
    let y = ops::straight_through(&ops::masked(&w, &mask), &ops::scale(&w, 2.0));
    same(y.value().data(), &[1.0, 0.0, 3.0]);
    let gradient = Var::constant(Tensor::new(&[3], vec![5.0, 6.0, 7.0]));
    same(y.backward_from(gradient, false).unwrap().take(&w).unwrap().data(), &[10.0, 12.0, 14.0]);
}

#[test]
#[should_panic(expected = "index 3 into an axis of 3")]
fn an_index_outside_is_refused() {
    ops::index_select(&numbers(&[3]), 0, &[3]);
}
