use crate::check::*;
use nnz_tensor::{Var, ops};

#[test]
fn transforms() {
    for n in [1, 2, 3, 8, 15] {
        at("fft", &[&[2, n, 2]], |v| ops::fft(&v[0], 1, false));
        at("rfft", &[&[2, n]], |v| ops::rfft(&v[0]));
        at("irfft", &[&[2, n / 2 + 1, 2]], |v| ops::irfft(&v[0], n));
    }
    at("two axes", &[&[3, 2, 4, 2]], |v| ops::fft(&ops::fft(&v[0], 0, false), 2, true));
    at("a long convolution", &[&[2, 6], &[1, 6]], |v| {
        let [a, b] = [0, 1].map(|i| ops::rfft(&v[i]));
        let part = |x: &V, k: usize| ops::slice(x, 2, k..k + 1);
        let (re, im) = (
            ops::sub(&ops::mul(&part(&a, 0), &part(&b, 0)), &ops::mul(&part(&a, 1), &part(&b, 1))),
            ops::add(&ops::mul(&part(&a, 0), &part(&b, 1)), &ops::mul(&part(&a, 1), &part(&b, 0))),
        );
        ops::irfft(&ops::concat(&[&re, &im], 2), 6)
    });
}

#[test]
fn a_transform_is_its_sum_and_has_an_inverse() {
    for n in [1, 2, 5, 12] {
        let x = random(&[3, n, 2], 1);
        let y = ops::fft(&Var::constant(x.clone()), 1, false);
        for (row, got) in x.data().chunks(2 * n).zip(y.value().data().chunks(2 * n)) {
            for k in 0..n {
                let (mut re, mut im) = (0.0, 0.0);
                for j in 0..n {
                    let (sin, cos) = (-std::f64::consts::TAU * (j * k) as f64 / n as f64).sin_cos();
                    re += row[2 * j] * cos - row[2 * j + 1] * sin;
                    im += row[2 * j] * sin + row[2 * j + 1] * cos;
                }
                assert!((got[2 * k] - re).abs() < 1e-12 && (got[2 * k + 1] - im).abs() < 1e-12);
            }
        }
        let back = ops::scale(&ops::fft(&y, 1, true), 1.0 / n as f64);
        assert!(back.value().zip(&x, |a, b| (a - b).abs()).data().iter().all(|&d| d < 1e-13));
        let real = random(&[3, n], 2);
        let again = ops::irfft(&ops::rfft(&Var::constant(real.clone())), n);
        assert!(again.value().zip(&real, |a, b| (a - b).abs()).data().iter().all(|&d| d < 1e-13));
    }
}
