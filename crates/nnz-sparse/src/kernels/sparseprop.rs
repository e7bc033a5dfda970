//! Training that touches only nonzeros: forward and backward pass of a layer with W in compressed rows cost O(nnz · batch),
//!
//! dX = G W,  dW_ij = Σ_b g_bi x_bj where w_ij exists,
//!
//! on activations with adjacent samples, so that every nonzero is a vector operation. The claim is
//! about time: a network with a fixed topology trains faster than the dense one, from the first layer's input to
//! the optimizer's step.
//!
//! Cost: O(nnz · batch) a layer in both passes.
//!
//! Deviations: the paper fine-tunes networks that were pruned before, here the topology is random from the start, which
//! costs the same time; rows are blocked for the caches and both gradients come from one pass over the columns, where
//! the paper streams CSR rows; the paper's convolutions are unfolded here.

use nnz_core::{Budget, Build, DistributionKind, Method, Result, Setting, MethodInstance, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "sparseprop",
    "SparseProp",
    "Trains a fixed sparse topology with forward and backward passes over its nonzeros alone.",
);

options! {
    #[flatten]
    /// Density and its distribution.
    budget: Budget = Budget::new(0.05, DistributionKind::Uniform),
}

impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        Ok(self.budget.fixed(setting).into())
    }
}

#[cfg(test)]
mod tests {
    use nnz_core::{Pattern, Rng, Shape};
    use nnz_engine::{Connections, Tensor, Var, ops};
    use std::sync::Arc;

    #[test]
    fn gradients_are_those_of_the_dense_layer_at_the_nonzeros() {
        let shape = Shape::matrix("w", 12, 9);
        let topology = Pattern::Unstructured.random(&shape, 30, &mut Rng::stream(0, "topology", 0, 0));
        let connections = Arc::new(Connections::new(&topology));
        let mut rng = Rng::stream(1, "values", 0, 0);
        let mut random = |shape: &[usize]| {
            let n = shape.iter().product::<usize>();
            Tensor::new(shape, (0..n).map(|_| rng.normal()).collect::<Vec<f64>>())
        };
        let (x, g, values) = (random(&[20, 9]), Var::constant(random(&[20, 12])), random(&[30]));
        let mut dense = Tensor::zeros(&[12, 9]);
        let places = connections.positions();
        places.iter().zip(values.data()).for_each(|(&p, &v)| dense.data_mut()[p] = v);
        let [x, values, dense] = [x, values, dense].map(Var::leaf);
        let sparse = ops::sparse_linear(&x, &values, &connections, None, None).backward_from(g.clone(), false).unwrap();
        let full = ops::matmul(&x, false, &dense, true).backward_from(g, false).unwrap();
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} for {b}");
        let (dx, want) = (sparse.get(&x).unwrap().value(), full.get(&x).unwrap().value());
        dx.data().iter().zip(want.data()).for_each(|(&a, &b)| near(a, b));
        let (dw, want) = (sparse.get(&values).unwrap().value(), full.get(&dense).unwrap().value());
        places.iter().zip(dw.data()).for_each(|(&p, &d)| near(d, want.data()[p]));
    }
}
