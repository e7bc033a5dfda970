//! Requests to a forward pass.

use super::Cache;
use crate::Real;
use crate::leaves::Formed;
use crate::ops::ZeroProbe;
use crate::{Taps, Tensor};
use nnz_kernels::{Start, gemm};
use std::sync::{Arc, Mutex};

/// Purpose of a forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Inference: dropout off, running statistics.
    #[default]
    Use,
    /// Training: dropout on, statistics of the batch. Seed and step key the random numbers.
    Train {
        /// Seed of the run.
        seed: u64,
        /// Step of the run.
        step: u64,
    },
}

/// Requests to a forward pass besides its output.
#[derive(Clone, Copy)]
pub struct Pass<'a, T> {
    /// Training or inference.
    pub mode: Mode,
    /// `probes[i]` requests the zero gradients of parameter `i`; may be shorter than the parameters.
    pub probes: &'a [Option<Arc<ZeroProbe>>],
    /// Activations to read or replace.
    pub taps: Option<&'a Taps<T>>,
    /// Earlier positions of a causal network: then the input may be any next part of the sequence, `[batch, positions ·
    /// channels]`.
    pub cache: Option<&'a Cache<T>>,
    /// A weight whose inputs are to be summed.
    pub gram: Option<&'a Gram>,
    /// `formed[i]` is what weight `i` is made of in this pass, where it is made of leaves; may be shorter than the parameters.
    pub formed: &'a [Option<Formed<T>>],
}

/// The sums of x and x xᵀ over the inputs of a weight in a pass.
#[derive(Debug)]
pub struct Gram {
    /// The parameter.
    pub param: usize,
    /// Set after a pass.
    pub sum: Mutex<Option<Moments>>,
}

/// Sums over inputs, or their means.
#[derive(Clone, Debug, Default)]
pub struct Moments {
    /// Of x xᵀ, `[cols, cols]`.
    pub square: Vec<f64>,
    /// Of x, `[cols]`.
    pub first: Vec<f64>,
    /// Number of inputs.
    pub rows: usize,
}

impl Moments {
    /// Adds inputs, `[rows, cols]`.
    pub fn add<T: Real>(&mut self, x: &Tensor<T>) {
        let (rows, cols) = x.rows_cols();
        if self.first.is_empty() {
            (self.square, self.first) = (vec![0.0; cols * cols], vec![0.0; cols]);
        }
        let mut square = vec![T::ZERO; cols * cols];
        gemm(cols, cols, rows, x.data(), (1, cols), x.data(), (cols, 1), Start::Zero, &mut square, cols);
        self.square.iter_mut().zip(&square).for_each(|(t, s)| *t += s.f64());
        for row in x.data().chunks_exact(cols.max(1)) {
            self.first.iter_mut().zip(row).for_each(|(t, v)| *t += v.f64());
        }
        self.rows += rows;
    }

    /// Divides by the number of inputs.
    pub fn mean(mut self) -> Self {
        let n = self.rows.max(1) as f64;
        self.square.iter_mut().chain(&mut self.first).for_each(|v| *v /= n);
        self
    }
}

impl<T> Default for Pass<'_, T> {
    /// Inference, without probes, taps and cache.
    fn default() -> Self {
        Self { mode: Mode::Use, probes: &[], taps: None, cache: None, gram: None, formed: &[] }
    }
}
