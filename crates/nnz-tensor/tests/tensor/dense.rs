use crate::check::*;
use nnz_tensor::{Tensor, Var, ops};

#[test]
fn dense_ops() {
    check("add", &|v| ops::add(&v[0], &v[1]), &[random(&[2, 3], 1), random(&[2, 3], 2)]);
    check("mul", &|v| ops::mul(&v[0], &v[1]), &[random(&[2, 3], 1), random(&[2, 3], 2)]);
    check("sum", &|v| ops::sum(&v[0]), &[random(&[5], 1)]);
    check("reshape", &|v| ops::reshape(&v[0], &[3, 2]), &[random(&[2, 3], 1)]);
    check("sum_rows", &|v| ops::sum_rows(&v[0]), &[random(&[2, 2, 3], 1)]);
    check("repeat_rows", &|v| ops::repeat_rows(&v[0], &[4, 3]), &[random(&[3], 1)]);
    check("relu", &|v| ops::relu(&v[0]), &[random(&[3, 4], 1)]);
    check("softmax", &|v| ops::softmax(&v[0]), &[random(&[3, 4], 1)]);
    check("linear", &|v| ops::linear(&v[0], &v[1], &v[2]), &[random(&[3, 4], 1), random(&[2, 4], 2), random(&[2], 3)]);
    for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
        let a = if ta { [4, 3] } else { [3, 4] };
        let b = if tb { [2, 4] } else { [4, 2] };
        check("matmul", &|v| ops::matmul(&v[0], ta, &v[1], tb), &[random(&a, 1), random(&b, 2)]);
    }
}

/// x Wᵀ whose gradient to x goes through another matrix B: that of x W'ᵀ at B, and that of W as usual.
#[test]
fn a_product_with_another_way_back() {
    let (x, w, b) = (random(&[3, 4], 1), random(&[2, 4], 2), random(&[2, 4], 3));
    let through = |matrix: &Tensor<f64>, back: &Tensor<f64>, second: bool| {
        let leaves = [Var::leaf(x.clone()), Var::leaf(matrix.clone())];
        let y = ops::matmul_back(&leaves[0], &leaves[1], back);
        // A fixed gradient of y, so that it is the same for any y.
        let mut found = ops::sum(&ops::mul(&y, &Var::constant(random(&[3, 2], 9)))).backward(false).unwrap();
        found.take(&leaves[usize::from(second)]).unwrap()
    };
    let slope = |of_x: bool, matrix: &Tensor<f64>, at: usize| {
        let value = |h: f64| {
            let (mut x, mut w) = (x.clone(), matrix.clone());
            let moved = if of_x { &mut x } else { &mut w };
            moved.data_mut()[at] += h;
            let y = ops::matmul(&Var::constant(x), false, &Var::constant(w), true);
            ops::sum(&ops::mul(&y, &Var::constant(random(&[3, 2], 9)))).value().data()[0]
        };
        (value(1e-5) - value(-1e-5)) / 2e-5
    };
    let value = ops::matmul_back(&Var::constant(x.clone()), &Var::constant(w.clone()), &b);
    same(
        value.value().data(),
        ops::matmul(&Var::constant(x.clone()), false, &Var::constant(w.clone()), true).value().data(),
    );
    let (dx, dw) = (through(&w, &b, false), through(&w, &b, true));
    (0..12).for_each(|at| close("x, through B", dx.data()[at], slope(true, &b, at)));
    (0..8).for_each(|at| close("W", dw.data()[at], slope(false, &w, at)));
    // With B = W it is the plain product.
    check("matmul_back", &|v| ops::matmul_back(&v[0], &Var::constant(w.clone()), &w), std::slice::from_ref(&x));
}

#[test]
fn broadcasting() {
    for (a, b) in [(&[2, 3][..], &[3][..]), (&[2, 1, 3], &[4, 1]), (&[1], &[2, 2]), (&[3, 1], &[1, 2]), (&[0, 3], &[3])]
    {
        at("add", &[a, b], |v| ops::add(&v[0], &v[1]));
        at("sub", &[a, b], |v| ops::sub(&v[0], &v[1]));
        at("mul", &[a, b], |v| ops::mul(&v[0], &v[1]));
        let away = random(b, 2).map(|x| x + x.signum());
        check("div", &|v| ops::div(&v[0], &v[1]), &[random(a, 1), away]);
    }
    at("scale", &[&[3]], |v| ops::scale(&v[0], -2.5));
    at("shift", &[&[3]], |v| ops::shift(&v[0], -2.5));
    at("expand", &[&[2, 1, 3]], |v| ops::expand(&v[0], &[2, 2, 4, 3]));
    at("sum_to", &[&[2, 2, 4, 3]], |v| ops::sum_to(&v[0], &[2, 1, 3]));
    let sum = ops::add(&fixed(&[2, 1], &[1.0, 2.0]), &fixed(&[3], &[10.0, 20.0, 30.0]));
    assert_eq!(sum.shape(), [2, 3]);
    same(sum.value().data(), &[11.0, 21.0, 31.0, 12.0, 22.0, 32.0]);
}

#[test]
#[should_panic(expected = "do not broadcast")]
fn misfits_do_not_broadcast() {
    ops::add(&fixed(&[2], &[1.0; 2]), &fixed(&[3], &[1.0; 3]));
}

#[test]
fn functions_of_one_entry() {
    type F = fn(&V) -> V;
    let smooth: [(&str, F); 19] = [
        ("exp", ops::exp),
        ("tanh", ops::tanh),
        ("sigmoid", ops::sigmoid),
        ("softplus", ops::softplus),
        ("cdf", ops::cdf),
        ("gelu", ops::gelu),
        ("gelu_tanh", ops::gelu_tanh),
        ("silu", ops::silu),
        ("abs", ops::abs),
        ("relu6", ops::relu6),
        ("hardswish", ops::hardswish),
        ("square", ops::square),
        ("leaky_relu", |x| ops::leaky_relu(x, 0.1)),
        ("all_relu", |x| ops::leaky_relu(x, -0.6)),
        ("elu", |x| ops::elu(x, 0.7)),
        ("clamp", |x| ops::clamp(x, -0.5, 0.8)),
        ("pow 3", |x| ops::pow(x, 3.0)),
        ("pow 1", |x| ops::pow(x, 1.0)),
        ("dropout", |x| ops::dropout(x, 0.3, nnz_core::Rng::stream(0, "dropout", 0, 0))),
    ];
    for (name, f) in smooth {
        check(name, &|v| f(&v[0]), &[random(&[3, 5], 1).map(|x| 3.0 * x)]);
        check(name, &|v| f(&v[0]), &[Tensor::zeros(&[0, 3])]);
    }
    let positive = random(&[7], 1).map(|x| x.abs() + 0.2);
    for (name, f) in [("log", ops::log as F), ("sqrt", ops::sqrt), ("pow", |x| ops::pow(x, -1.3))] {
        check(name, &|v| f(&v[0]), std::slice::from_ref(&positive));
    }
}

#[test]
fn functions_of_one_entry_by_hand() {
    let value = |f: fn(&V) -> V, x: f64| f(&fixed(&[1], &[x])).value().data()[0];
    same(&[value(ops::gelu, 1.0)], &[0.841_344_746_068_542_9]);
    same(
        &[value(ops::sigmoid, -1000.0), value(ops::softplus, 1000.0), value(ops::softplus, -1000.0)],
        &[0.0, 1000.0, 0.0],
    );
    same(&[value(ops::hardswish, 1.0), value(ops::relu6, 9.0), value(ops::abs, -2.0)], &[4.0 / 6.0, 6.0, 2.0]);
    // A number that is none is not hidden, as in layers that compute their sparse products with their activations.
    assert!(value(ops::relu, f64::NAN).is_nan() && value(ops::relu6, f64::NAN).is_nan());
    let leaf = Var::leaf(Tensor::<f64>::zeros(&[1]));
    let slope = |f: fn(&V) -> V| f(&leaf).backward(false).unwrap().take(&leaf).unwrap().data()[0];
    same(&[slope(ops::abs), slope(ops::relu), slope(|x| ops::pow(x, 1.0)), slope(ops::relu6)], &[0.0, 0.0, 1.0, 0.0]);
}

#[test]
fn dropout_keeps_the_mean_and_obeys_its_key() {
    let ones = Var::constant(Tensor::<f64>::full(&[10_000], 1.0));
    let run = |step| ops::dropout(&ones, 0.2, nnz_core::Rng::stream(0, "dropout", 0, step)).value().clone();
    let dropped = run(0).data().iter().filter(|&&x| x == 0.0).count();
    assert!(dropped.abs_diff(2000) < 160, "{dropped} of 10000");
    assert!((run(0).data().iter().sum::<f64>() / 1e4 - 1.0).abs() < 0.02);
    assert_eq!(run(0), run(0));
    assert_ne!(run(0), run(1));
}

#[test]
fn reductions() {
    let shape: &[usize] = &[2, 3, 4];
    for axes in [&[0][..], &[1], &[2], &[0, 2], &[0, 1, 2]] {
        at("sum_over", &[shape], |v| ops::sum_over(&v[0], axes));
        at("mean_over", &[shape], |v| ops::mean_over(&v[0], axes));
        at("variance_over", &[shape], |v| ops::variance_over(&v[0], axes));
        at("max_over", &[shape], |v| ops::max_over(&v[0], axes));
    }
    at("empty mean", &[&[0, 3]], |v| ops::mean_over(&v[0], &[0]));
    for axis in 0..3 {
        at("cumsum", &[shape], |v| ops::cumsum(&v[0], axis));
    }
    let x = fixed(&[2, 2], &[1.0, 5.0, 3.0, 2.0]);
    same(ops::max_over(&x, &[0]).value().data(), &[3.0, 5.0]);
    same(ops::variance_over(&x, &[1]).value().data(), &[4.0, 0.25]);
    same(ops::cumsum(&x, 1).value().data(), &[1.0, 6.0, 3.0, 5.0]);
}

#[test]
fn products() {
    for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
        let a: &[usize] = if ta { &[2, 2, 4, 3] } else { &[2, 2, 3, 4] };
        let b: &[usize] = if tb { &[2, 2, 2, 4] } else { &[2, 2, 4, 2] };
        at("batch_matmul", &[a, b], |v| ops::batch_matmul(&v[0], ta, &v[1], tb));
    }
    at("empty batch", &[&[0, 3, 4], &[0, 4, 2]], |v| ops::batch_matmul(&v[0], false, &v[1], false));
    at("log_softmax", &[&[3, 4]], |v| ops::log_softmax(&v[0]));
    at("softmax", &[&[2, 3, 4]], |v| ops::softmax(&v[0]));
}

#[test]
fn contractions() {
    let cases: [(&str, &[usize], &[usize]); 7] = [
        ("bij,bjk->bik", &[2, 3, 4], &[2, 4, 5]),
        ("ij,kj->ki", &[2, 3], &[4, 3]),
        ("i,j->ij", &[2], &[3]),
        ("ij,ij->i", &[2, 3], &[2, 3]),
        ("ij,ij->", &[2, 3], &[2, 3]),
        ("ijk,j->ki", &[2, 3, 2], &[3]),
        ("ijx,jky->ik", &[2, 3, 2], &[3, 2, 2]),
    ];
    for (spec, a, b) in cases {
        at(spec, &[a, b], |v| ops::contract(spec, &v[0], &v[1]));
    }
    let (a, b) = (fixed(&[2, 2], &[1.0, 2.0, 3.0, 4.0]), fixed(&[2, 2], &[5.0, 6.0, 7.0, 8.0]));
    let out = |spec| ops::contract(spec, &a, &b).value().data().to_vec();
    same(&out("ij,jk->ik"), &[19.0, 22.0, 43.0, 50.0]);
    same(&out("ij,kj->ki"), &[17.0, 39.0, 23.0, 53.0]);
    same(&out("ij,ij->"), &[70.0]);
    same(&out("ij,kl->i"), &[78.0, 182.0]);
}
