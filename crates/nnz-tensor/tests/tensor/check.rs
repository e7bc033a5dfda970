use nnz_core::Rng;
use nnz_tensor::{Tensor, Var, ops};

pub type V = Var<f64>;

pub fn random(shape: &[usize], stream: u64) -> Tensor<f64> {
    let mut rng = Rng::stream(0, "test", stream, 0);
    Tensor::new(shape, (0..shape.iter().product()).map(|_| rng.normal()).collect())
}

/// A scalar from any value, with different weight and curvature for every entry.
pub fn scalar(v: &V) -> V {
    let weights = Var::constant(random(v.shape(), 99));
    let squared = ops::mul(v, v);
    ops::sum(&ops::add(&ops::mul(v, &weights), &ops::mul(&squared, &weights)))
}

fn gradients(f: &dyn Fn(&[V]) -> V, at: &[Tensor<f64>]) -> Vec<Tensor<f64>> {
    let leaves: Vec<V> = at.iter().cloned().map(Var::leaf).collect();
    let mut g = scalar(&f(&leaves)).backward(false).unwrap();
    leaves.iter().zip(at).map(|(l, t)| g.take(l).unwrap_or_else(|| Tensor::zeros(t.shape()))).collect()
}

/// v · ∇f with v fixed, as a value on the tape.
fn directional(f: &dyn Fn(&[V]) -> V, leaves: &[V]) -> V {
    let g = scalar(&f(leaves)).backward(true).unwrap();
    let parts = leaves
        .iter()
        .enumerate()
        .filter_map(|(i, l)| Some(ops::sum(&ops::mul(g.get(l)?, &Var::constant(random(l.shape(), 50 + i as u64))))));
    parts.reduce(|a, b| ops::add(&a, &b)).unwrap()
}

pub fn close(name: &str, got: f64, want: f64) {
    assert!((got - want).abs() < 1e-6 * (1.0 + want.abs()), "{name}: gradient {got}, finite difference {want}");
}

fn finite_difference(value: &dyn Fn(&[Tensor<f64>]) -> f64, at: &[Tensor<f64>], i: usize, j: usize) -> f64 {
    let h = 1e-5;
    let moved = |by: f64| {
        let mut at = at.to_vec();
        at[i].data_mut()[j] += by;
        value(&at)
    };
    (moved(h) - moved(-h)) / (2.0 * h)
}

pub fn check(name: &str, f: &dyn Fn(&[V]) -> V, at: &[Tensor<f64>]) {
    let value = |at: &[Tensor<f64>]| {
        let constants: Vec<V> = at.iter().cloned().map(Var::constant).collect();
        scalar(&f(&constants)).value().data()[0]
    };
    let slope = |at: &[Tensor<f64>]| {
        let leaves: Vec<V> = at.iter().cloned().map(Var::leaf).collect();
        directional(f, &leaves).value().data()[0]
    };
    let first = gradients(f, at);
    let leaves: Vec<V> = at.iter().cloned().map(Var::leaf).collect();
    // The composite form, taken when gradients are on the tape, must be the same function as the fast one.
    let recorded = scalar(&f(&leaves)).backward(true).unwrap();
    let mut second = directional(f, &leaves).backward(false).unwrap();
    for (i, t) in at.iter().enumerate() {
        let curved = second.take(&leaves[i]).unwrap_or_else(|| Tensor::zeros(t.shape()));
        let on_tape = recorded.get(&leaves[i]).map(|g| g.value().clone()).unwrap_or_else(|| Tensor::zeros(t.shape()));
        for j in 0..t.len() {
            close(&format!("{name}, on the tape"), on_tape.data()[j], first[i].data()[j]);
            close(name, first[i].data()[j], finite_difference(&value, at, i, j));
            close(&format!("{name}, second"), curved.data()[j], finite_difference(&slope, at, i, j));
        }
    }
}

/// `check` at one or more random tensors of `shapes`.
pub fn at(name: &str, shapes: &[&[usize]], f: impl Fn(&[V]) -> V) {
    let tensors: Vec<Tensor<f64>> = shapes.iter().enumerate().map(|(i, s)| random(s, 1 + i as u64)).collect();
    check(name, &f, &tensors);
}

/// A value without gradient.
pub fn fixed(shape: &[usize], values: &[f64]) -> V {
    Var::constant(Tensor::new(shape, values.to_vec()))
}

/// Asserts that two lists of numbers agree.
pub fn same(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    let close = got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-12 * (1.0 + w.abs()));
    assert!(close, "{got:?} is not {want:?}");
}
