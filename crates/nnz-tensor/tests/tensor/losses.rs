use crate::check::*;
use nnz_tensor::{Tensor, Var, ops};

#[test]
fn losses() {
    check("cross_entropy", &|v| ops::cross_entropy(&v[0], &[2, 0, 3]), &[random(&[3, 4], 1)]);
    let value = ops::cross_entropy(&Var::constant(Tensor::<f64>::zeros(&[5, 4])), &[0; 5]).value().data()[0];
    assert!((value - 4f64.ln()).abs() < 1e-12, "uniform logits have entropy ln 4");
}

#[test]
fn losses_of_every_kind() {
    let labels = [2, 0, 3];
    at("cross_entropy_smooth", &[&[3, 4]], |v| ops::cross_entropy_smooth(&v[0], &labels, 0.1));
    at("mse", &[&[3, 4], &[3, 4]], |v| ops::mse(&v[0], &v[1]));
    at("kl", &[&[3, 4], &[3, 4]], |v| ops::kl(&v[0], &v[1]));
    let targets = fixed(&[3, 1], &[1.0, 0.0, 0.3]);
    at("bce_with_logits", &[&[3, 1]], |v| ops::bce_with_logits(&v[0], &targets));
    at("hinge", &[&[3, 4]], |v| ops::hinge(&v[0], &labels, 1.0));
    at("info_nce", &[&[3, 4], &[3, 4]], |v| ops::info_nce(&v[0], &v[1], 0.5));
    at("no rows", &[&[0, 4]], |v| ops::cross_entropy(&v[0], &[]));
}

#[test]
fn losses_by_hand() {
    let z = fixed(&[2, 3], &[0.0, 0.0, 0.0, 1.0, 2.0, 0.0]);
    let value = |v: V| v.value().data()[0];
    same(&[value(ops::cross_entropy_smooth(&z, &[1, 2], 0.0))], &[value(ops::cross_entropy(&z, &[1, 2]))]);
    // Uniform logits have entropy ln 3 under any smoothing.
    let flat = fixed(&[1, 3], &[0.5; 3]);
    same(&[value(ops::cross_entropy_smooth(&flat, &[0], 0.3)), value(ops::kl(&flat, &flat))], &[3f64.ln(), 0.0]);
    // Row 0: both wrong classes at the margin; row 1: 1 + 1 - 0 and 1 + 2 - 0.
    same(&[value(ops::hinge(&z, &[0, 2], 1.0))], &[(2.0 + 5.0) / 2.0]);
    same(&[value(ops::bce_with_logits(&fixed(&[1], &[0.0]), &fixed(&[1], &[1.0])))], &[2f64.ln()]);
    same(&[value(ops::mse(&z, &Var::constant(Tensor::zeros(&[2, 3]))))], &[5.0 / 6.0]);
}
