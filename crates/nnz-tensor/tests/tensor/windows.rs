use crate::check::*;
use nnz_tensor::ops::{self, Window};
use nnz_tensor::{Tensor, Var};

#[test]
fn picture_ops() {
    let x = random(&[2, 5, 6, 2], 1);
    for window in [
        Window::new([3, 3]),
        Window::new([3, 2]).stride([2, 1]).padding([1, 2]),
        Window::new([2, 2]).dilation([2, 3]).padding([1, 1]),
        Window::new([1, 1]),
    ] {
        check("patches", &|v| ops::patches(&v[0], window), std::slice::from_ref(&x));
    }
    at("no pictures", &[&[0, 4, 4, 2]], |v| ops::patches(&v[0], Window::new([3, 3])));
}

#[test]
fn convolutions() {
    let cases: [(&[usize], usize, [usize; 2], Window<2>); 4] = [
        (&[2, 5, 4, 4], 1, [3, 4], Window::new([3, 2]).stride([2, 1]).padding([1, 0])),
        (&[2, 5, 4, 4], 2, [6, 2], Window::new([2, 2]).dilation([2, 1])),
        (&[2, 5, 4, 4], 4, [4, 1], Window::new([3, 3]).padding([1, 1])),
        (&[1, 3, 3, 4], 4, [8, 1], Window::new([2, 2])),
    ];
    for (x, groups, [out, each], window) in cases {
        let weight = [out, window.area() * each];
        at("conv", &[x, &weight, &[out]], |v| ops::conv(&v[0], &v[1], Some(&v[2]), window, groups));
    }
    let line = Window::new([3]).stride([2]).padding([1]);
    at("conv 1d", &[&[2, 5, 2], &[3, 6]], |v| ops::conv(&v[0], &v[1], None, line, 1));
    let volume = Window::new([2, 1, 2]).padding([0, 1, 0]);
    at("conv 3d", &[&[1, 3, 2, 2, 2], &[2, 8]], |v| ops::conv(&v[0], &v[1], None, volume, 1));
}

#[test]
fn transposed_convolutions() {
    for (groups, window, extra) in [
        (1, Window::new([3, 2]).stride([2, 1]).padding([1, 0]), [1, 0]),
        (2, Window::new([2, 3]).stride([2, 2]), [0, 0]),
        (1, Window::new([2, 2]).dilation([2, 1]), [0, 0]),
    ] {
        let weight = [4, window.area() * 3];
        at("conv_transposed", &[&[2, 3, 2, 4], &weight, &[3 * groups]], |v| {
            ops::conv_transposed(&v[0], &v[1], Some(&v[2]), window, groups, extra)
        });
        // <conv(x), y> = <x, conv_transposed(y)>
        let (y, w) = (Var::constant(random(&[2, 3, 2, 4], 1)), Var::constant(random(&weight, 2)));
        let back = ops::conv_transposed(&y, &w, None, window, groups, extra);
        let x = Var::constant(random(back.shape(), 3));
        let there = ops::conv(&x, &w, None, window, groups);
        let inner = |a: &V, b: &V| ops::sum(&ops::mul(a, b)).value().data()[0];
        same(&[inner(&there, &y)], &[inner(&x, &back)]);
    }
}

#[test]
fn a_convolution_is_its_definition() {
    let window = Window::new([3, 2]).stride([2, 1]).padding([1, 1]).dilation([1, 2]);
    let (x, w) = (random(&[2, 5, 4, 4], 1), random(&[6, 6 * 2], 2));
    let y = ops::conv(&Var::constant(x.clone()), &Var::constant(w.clone()), None, window, 2);
    let [oh, ow] = window.output([5, 4]);
    assert_eq!(y.shape(), [2, oh, ow, 6]);
    for (b, i, j, o) in
        (0..2).flat_map(|b| (0..oh).flat_map(move |i| (0..ow).flat_map(move |j| (0..6).map(move |o| (b, i, j, o)))))
    {
        let mut want = 0.0;
        for (di, dj, c) in (0..3).flat_map(|di| (0..2).flat_map(move |dj| (0..2).map(move |c| (di, dj, c)))) {
            let (p, q) = ((2 * i + di) as isize - 1, (j + 2 * dj) as isize - 1);
            if (0..5).contains(&p) && (0..4).contains(&q) {
                let channel = o / 3 * 2 + c;
                want += x.data()[((b * 5 + p as usize) * 4 + q as usize) * 4 + channel]
                    * w.data()[o * 12 + (di * 2 + dj) * 2 + c];
            }
        }
        same(&[y.value().data()[((b * oh + i) * ow + j) * 6 + o]], &[want]);
    }
}

#[test]
fn pools_and_resampling() {
    let x: &[usize] = &[2, 5, 6, 2];
    let overlapping = Window::new([3, 3]).stride([2, 2]).padding([1, 1]);
    for window in [Window::new([2, 2]).stride([2, 2]), overlapping] {
        at("max_pool", &[x], |v| ops::max_pool(&v[0], window));
        at("avg_pool", &[x], |v| ops::avg_pool(&v[0], window));
    }
    at("global_avg_pool", &[x], |v| ops::global_avg_pool(&v[0]));
    at("global_max_pool", &[x], |v| ops::global_max_pool(&v[0]));
    at("upsample_nearest", &[&[1, 2, 3, 2]], |v| ops::upsample_nearest(&v[0], 2));
    at("upsample_linear", &[&[1, 2, 3, 2]], |v| ops::upsample_linear(&v[0], &[3, 5]));
    let x = fixed(&[1, 2, 2, 1], &[-4.0, -3.0, -2.0, -1.0]);
    // Padding does not count as zero: every window that covers the image takes its largest pixel.
    same(ops::max_pool(&x, overlapping).value().data(), &[-1.0]);
    same(ops::avg_pool(&x, overlapping).value().data(), &[-10.0 / 9.0]);
    let line = fixed(&[1, 2, 1], &[0.0, 4.0]);
    same(ops::upsample_linear(&line, &[4]).value().data(), &[0.0, 1.0, 3.0, 4.0]);
    same(ops::upsample_nearest(&line, 2).value().data(), &[0.0, 0.0, 4.0, 4.0]);
    let _: Tensor<f64> = line.value().clone();
}
