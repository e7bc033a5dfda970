use crate::check::*;
use nnz_core::{Pattern, Rng, Shape};
use nnz_tensor::ops::{Stage, Then};
use nnz_tensor::{Connections, Tensor, Var, ops};
use std::sync::Arc;

fn connections() -> Arc<Connections> {
    let shape = Shape::matrix("w", 4, 5);
    Arc::new(Connections::new(&Pattern::Unstructured.random(&shape, 8, &mut Rng::stream(0, "topology", 0, 0))))
}

/// Three sparse layers with two kinds of functions between them; parameters are taken from `v` in turn.
fn stages(v: &[V]) -> Vec<Stage<f64>> {
    let connections = |rows, cols, nnz, layer| {
        let shape = Shape::matrix("w", rows, cols);
        let topology = Pattern::Unstructured.random(&shape, nnz, &mut Rng::stream(1, "topology", layer, 0));
        Arc::new(Connections::new(&topology))
    };
    let stage = |values: &V, bias: Option<&V>, connections, then| Stage {
        values: values.clone(),
        bias: bias.cloned(),
        connections,
        then,
        probe: None,
    };
    vec![
        stage(&v[0], Some(&v[1]), connections(4, 5, 8, 0), Then::Relu),
        stage(&v[2], None, connections(6, 4, 9, 1), Then::Map(ops::gelu)),
        stage(&v[3], Some(&v[4]), connections(3, 6, 7, 2), Then::Relu),
    ]
}

#[test]
fn stacks_of_sparse_layers() {
    let values =
        [random(&[7, 5], 1), random(&[8], 2), random(&[4], 3), random(&[9], 4), random(&[7], 5), random(&[3], 6)];
    check("sparse_stack", &|v| ops::sparse_stack(&v[0], &stages(&v[1..])), &values);
    // More rows than a tile: the same as layer by layer, to the last bit.
    let x = Var::leaf(random(&[70, 5], 7));
    let leaves: Vec<V> = values[1..].iter().cloned().map(Var::leaf).collect();
    let whole = ops::sparse_stack(&x, &stages(&leaves));
    let apart = stages(&leaves).iter().fold(x.clone(), |x, s| {
        let y = ops::sparse_linear(&x, &s.values, &s.connections, s.bias.as_ref(), None);
        match s.then {
            Then::Linear => y,
            Then::Relu => ops::relu(&y),
            Then::Map(f) => f(&y),
        }
    });
    assert_eq!(whole.value(), apart.value());
    let g = Var::constant(random(&[70, 3], 8));
    let (whole, apart) = (whole.backward_from(g.clone(), false).unwrap(), apart.backward_from(g, false).unwrap());
    for leaf in leaves.iter().chain([&x]) {
        assert_eq!(whole.get(leaf).unwrap().value(), apart.get(leaf).unwrap().value());
    }
}

#[test]
fn sparse_ops() {
    let c = connections();
    let (x, g, w) = (random(&[3, 5], 1), random(&[3, 4], 2), random(&[8], 3));
    check("spmm", &|v| ops::spmm(&v[0], &v[1], &c), &[x.clone(), w.clone()]);
    check("spmm_t", &|v| ops::spmm_t(&v[0], &v[1], &c), &[g.clone(), w.clone()]);
    check("sddmm", &|v| ops::sddmm(&v[0], &v[1], &c), &[x.clone(), g]);
    check("densify", &|v| ops::densify(&v[0], &c, None), std::slice::from_ref(&w));
    check("sparse_linear", &|v| ops::sparse_linear(&v[0], &v[1], &c, Some(&v[2]), None), &[x, w, random(&[4], 4)]);
}

#[test]
fn a_sparse_layer_is_the_dense_layer_with_zeros() {
    let c = connections();
    let (x, w, b) = (random(&[3, 5], 1), random(&[8], 3), random(&[4], 4));
    let mut dense = Tensor::zeros(&[4, 5]);
    c.positions().into_iter().zip(w.data()).for_each(|(p, &v)| dense.data_mut()[p] = v);
    let [x, w, b, dense] = [x, w, b, dense].map(Var::constant);
    let (sparse, dense) = (ops::sparse_linear(&x, &w, &c, Some(&b), None), ops::linear(&x, &dense, &b));
    for (s, d) in sparse.value().data().iter().zip(dense.value().data()) {
        assert!((s - d).abs() < 1e-12);
    }
}

#[test]
fn a_fused_op_refuses_a_second_derivative_by_name() {
    let leaf = Var::leaf(random(&[3], 1));
    let cube = |x: &V| {
        let value = x.value().map(|x| x * x * x);
        let at = x.value().clone();
        Var::fused("cube", value, &[x], move || {
            Box::new(move |g| vec![Some(ops::mul(g, &Var::constant(at.map(|x| 3.0 * x * x))))])
        })
    };
    assert!(ops::sum(&cube(&leaf)).backward(false).is_ok());
    let error = ops::sum(&cube(&leaf)).backward(true).err().unwrap().to_string();
    assert!(error.contains("`cube`"), "{error}");
}

#[test]
fn both_sparse_forms_find_the_same_missing_connections() {
    let c = connections();
    let (x, w, b) = (Var::constant(random(&[3, 5], 1)), Var::leaf(random(&[8], 3)), Var::constant(random(&[4], 4)));
    let found = |f: &dyn Fn(Arc<ops::ZeroProbe>) -> V| {
        let probe = Arc::new(ops::ZeroProbe { count: 5, ..Default::default() });
        scalar(&f(probe.clone())).backward(false).unwrap();
        std::mem::take(&mut *probe.found.lock().unwrap())
    };
    let streamed = found(&|p| ops::sparse_linear(&x, &w, &c, Some(&b), Some(p)));
    let whole = found(&|p| ops::linear(&x, &ops::densify(&w, &c, Some(p)), &b));
    let positions = |zeros: &[nnz_core::Zero]| zeros.iter().map(|z| z.position).collect::<Vec<_>>();
    assert_eq!((streamed.len(), positions(&streamed)), (5, positions(&whole)));
    assert!(streamed.iter().all(|z| c.topology().find(z.position).is_none()));
    assert!(streamed.iter().zip(&whole).all(|(a, b)| (a.gradient - b.gradient).abs() < 1e-6));
}
