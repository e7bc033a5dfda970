//! A common trait for sparse matrices in any format.

use crate::shape::volume;
use crate::{Csc, Csr, Encoding, Plan, Real, Rows, Start, Tiled, gemm};

/// A matrix `[out, in]` in some format, compiled, with values, on activations in tiles. The format may be from anywhere:
/// any implementation can be measured, chosen and run like those of this crate.
///
/// Values and their gradients cross this interface row by row, columns ascending, one number per entry.
pub trait Operator<T: Real>: Send + Sync {
    /// Name of the format.
    fn format(&self) -> &'static str;

    /// Outputs.
    fn rows(&self) -> usize;

    /// Inputs.
    fn cols(&self) -> usize;

    /// Number of entries.
    fn nnz(&self) -> usize;

    /// Bytes of structure and values.
    fn bytes(&self) -> usize;

    /// Sets new values.
    ///
    /// # Panics
    /// When there is not one value per entry.
    fn set_values(&mut self, values: &[T]);

    /// `y = x Wᵀ + bias`.
    ///
    /// # Panics
    /// When shapes differ.
    fn forward(&self, x: &Tiled<T>, bias: Option<&[T]>, y: &mut Tiled<T>);

    /// `dx = g W` if requested, and `dw[e] = sum_b g[b, row(e)] x[b, col(e)]`. The padding of `g` must be zero.
    ///
    /// # Panics
    /// When shapes differ.
    fn backward(&self, x: &Tiled<T>, g: &Tiled<T>, dx: Option<&mut Tiled<T>>, dw: &mut [T]);
}

/// Panics unless operands of an operator have its shape.
pub(crate) fn check<T: Real>(op: &dyn Operator<T>, x: &Tiled<T>, other: &Tiled<T>, bias: Option<&[T]>) {
    assert_eq!((x.features(), other.features()), (op.cols(), op.rows()), "features of input and output");
    assert_eq!(x.batch(), other.batch(), "batch of input and output");
    if let Some(bias) = bias {
        assert_eq!(bias.len(), op.rows(), "bias");
    }
}

/// A [`Plan`] with values: row-blocked CSR forward, column-blocked CSC backward.
#[derive(Clone, Debug)]
pub struct Compiled<T> {
    format: &'static str,
    plan: Plan,
    by_rows: Rows,
    values: Vec<T>,
    packed: Vec<T>,
}

impl<T: Real> Compiled<T> {
    /// Compiles a structure. O(nnz).
    ///
    /// # Panics
    /// When a structure is not valid or there is not one value per entry.
    pub fn new(csr: Csr, csc: Csc, values: &[T]) -> Self {
        let plan = Plan::new(csr, csc);
        let none = vec![T::ZERO; plan.nnz()];
        let mut new = Self { format: "plan", by_rows: plan.by_rows(), plan, values: none.clone(), packed: none };
        new.set_values(values);
        new
    }

    /// Compiles a structure in another encoding, which it is named after. O(entries + rows + columns).
    ///
    /// # Panics
    /// As [`Compiled::new`].
    pub fn of(encoding: &dyn Encoding, values: &[T]) -> Self {
        let (starts, columns) = encoding.decode();
        let csr = Csr { rows: encoding.rows(), cols: encoding.cols(), starts: &starts, columns: &columns };
        let (t_starts, rows, entries) = csr.transpose();
        let csc = Csc { starts: &t_starts, rows: &rows, entries: &entries };
        Self { format: encoding.format(), ..Self::new(csr, csc, values) }
    }
}

impl<T: Real> Operator<T> for Compiled<T> {
    fn format(&self) -> &'static str {
        self.format
    }

    fn rows(&self) -> usize {
        self.plan.rows()
    }

    fn cols(&self) -> usize {
        self.plan.cols()
    }

    fn nnz(&self) -> usize {
        self.plan.nnz()
    }

    fn bytes(&self) -> usize {
        self.plan.bytes() + 2 * self.values.len() * size_of::<T>() + 4 * self.nnz()
    }

    fn set_values(&mut self, values: &[T]) {
        self.by_rows.scatter(values, &mut self.values);
        self.plan.pack(&self.values, &mut self.packed);
    }

    fn forward(&self, x: &Tiled<T>, bias: Option<&[T]>, y: &mut Tiled<T>) {
        self.plan.forward(&self.packed, x, bias, y);
    }

    fn backward(&self, x: &Tiled<T>, g: &Tiled<T>, dx: Option<&mut Tiled<T>>, dw: &mut [T]) {
        let mut by_plan = vec![T::ZERO; self.nnz()];
        self.plan.backward(&self.values, x, g, dx, &mut by_plan);
        dw.copy_from_slice(&self.by_rows.gather(&by_plan));
    }
}

/// Every entry of the matrix stored, zeros included: the baseline for sparse formats.
#[derive(Clone, Debug)]
pub struct Dense<T> {
    rows: usize,
    cols: usize,
    /// `row * cols + col` of each entry; `None` if every place is one.
    places: Option<Vec<usize>>,
    weight: Vec<T>,
}

impl<T: Real> Dense<T> {
    /// Expands a structure. O(rows cols).
    ///
    /// # Panics
    /// When the structure is not valid or there is not one value per entry.
    pub fn new(csr: Csr, values: &[T]) -> Self {
        csr.check();
        let row =
            |r: usize| csr.columns[csr.starts[r]..csr.starts[r + 1]].iter().map(move |&c| r * csr.cols + c as usize);
        let places = Some((0..csr.rows).flat_map(row).collect());
        let mut new =
            Self { rows: csr.rows, cols: csr.cols, places, weight: vec![T::ZERO; volume([csr.rows, csr.cols])] };
        new.set_values(values);
        new
    }

    /// A full matrix, row-major.
    ///
    /// # Panics
    /// When its length does not match `[rows, cols]`.
    pub fn whole(rows: usize, cols: usize, values: &[T]) -> Self {
        assert_eq!(values.len(), volume([rows, cols]), "values of [{rows}, {cols}]");
        Self { rows, cols, places: None, weight: values.to_vec() }
    }
}

impl<T: Real> Operator<T> for Dense<T> {
    fn format(&self) -> &'static str {
        "dense"
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn nnz(&self) -> usize {
        self.places.as_ref().map_or(self.weight.len(), Vec::len)
    }

    fn bytes(&self) -> usize {
        self.weight.len() * size_of::<T>()
    }

    fn set_values(&mut self, values: &[T]) {
        assert_eq!(values.len(), self.nnz(), "values");
        match &self.places {
            Some(places) => places.iter().zip(values).for_each(|(&p, &v)| self.weight[p] = v),
            None => self.weight.copy_from_slice(values),
        }
    }

    fn forward(&self, x: &Tiled<T>, bias: Option<&[T]>, y: &mut Tiled<T>) {
        check(self, x, y, bias);
        let (m, k) = (self.rows, self.cols);
        for t in 0..x.tiles() {
            let n = x.width(t);
            let y = y.tile_mut(t);
            let start = if bias.is_some() { Start::Add } else { Start::Zero };
            if let Some(bias) = bias {
                y.chunks_exact_mut(n).zip(bias).for_each(|(line, &b)| line.fill(b));
            }
            gemm(m, n, k, &self.weight, (k, 1), x.tile(t), (n, 1), start, y, n);
        }
    }

    fn backward(&self, x: &Tiled<T>, g: &Tiled<T>, dx: Option<&mut Tiled<T>>, dw: &mut [T]) {
        check(self, x, g, None);
        assert_eq!(dw.len(), self.nnz(), "gradients of values");
        let (m, k) = (self.rows, self.cols);
        if let Some(dx) = dx {
            check(self, dx, g, None);
            for t in 0..x.tiles() {
                let n = x.width(t);
                let dx = dx.tile_mut(t);
                gemm(k, n, m, &self.weight, (1, k), g.tile(t), (n, 1), Start::Zero, dx, n);
            }
        }
        let mut all = vec![T::ZERO; m * k];
        for t in 0..x.tiles() {
            let n = x.width(t);
            gemm(m, k, n, g.tile(t), (n, 1), x.tile(t), (1, n), Start::Add, &mut all, k);
        }
        match &self.places {
            Some(places) => dw.iter_mut().zip(places).for_each(|(d, &p)| *d = all[p]),
            None => dw.copy_from_slice(&all),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Layer, check_operator, random};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn equal_plain_loops(
            rows in 0usize..90, cols in 0usize..90, density in 0.0..1.0f64, seed in 0u64..99,
            batch in prop::sample::select(vec![0usize, 1, 8, 16, 40, 64, 70, 130]),
        ) {
            let layer = Layer::random(rows, cols, density * density, seed);
            let values: Vec<f64> = random(seed, layer.nnz());
            check_operator(&layer, &values, batch, seed, &Compiled::new(layer.csr(), layer.csc(), &values));
            check_operator(&layer, &values, batch, seed, &Dense::new(layer.csr(), &values));
            let (full, values) = (Layer::new(rows, cols, |_, _| true), random::<f64>(seed, rows * cols));
            check_operator(&full, &values, batch, seed, &Dense::whole(rows, cols, &values));
        }
    }
}
