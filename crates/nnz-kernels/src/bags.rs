//! Sparse inputs: rows that list their few nonzero columns. A one-hot row is one entry, a bag of tokens or
//! features several.

use rayon::prelude::*;

use crate::shape::{volume, work};
use crate::simd::{Isa, Kernel, Vector};
use crate::{Csc, Csr, Real};

/// Fewest multiply-adds worth handing to another thread.
const PARALLEL: usize = 1 << 16;

/// `to += scale * from`
struct Add<'a, T> {
    scale: T,
    from: &'a [T],
    to: &'a mut [T],
}

impl<T: Real> Kernel<T> for Add<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T = T>>(self) {
        let whole = self.to.len() / V::LANES * V::LANES;
        for i in (0..whole).step_by(V::LANES) {
            // SAFETY: whole registers of both, which `add` made equally long.
            unsafe {
                let to = self.to.as_mut_ptr().add(i);
                V::splat(self.scale).mul_add(V::load(self.from.as_ptr().add(i)), V::load(to)).store(to);
            }
        }
        self.to[whole..].iter_mut().zip(&self.from[whole..]).for_each(|(t, &f)| *t += self.scale * f);
    }
}

fn add<T: Real>(isa: Isa, scale: T, from: &[T], to: &mut [T]) {
    let from = &from[..to.len()];
    // SAFETY: both are equally long.
    unsafe { isa.run(Add { scale, from, to }) }
}

fn weight<T: Real>(values: Option<&[T]>, entry: usize) -> T {
    values.map_or(T::ONE, |v| v[entry])
}

/// `y[b] = bias + sum of values[e] table[column(e)]` over the entries of row b of `x`: an embedding bag, or a dense layer with
/// its weight transposed on sparse input. A row may list columns in any order and repeatedly. `table` is `[cols, width]`, `y` `[rows, width]`; without `values` all are one.
///
/// # Panics
/// When a slice does not have its shape or `x` is not valid.
pub fn bags<T: Real>(x: Csr, values: Option<&[T]>, table: &[T], width: usize, bias: Option<&[T]>, y: &mut [T]) {
    T::bags(Isa::best(), x, values, table, width, bias, y);
}

pub(crate) fn bags_on<T: Real>(
    isa: Isa,
    x: Csr,
    values: Option<&[T]>,
    table: &[T],
    width: usize,
    bias: Option<&[T]>,
    y: &mut [T],
) {
    x.check_range();
    check(&x, values, width, y.len());
    assert_eq!(table.len(), volume([x.cols, width]), "table of [{}, {width}]", x.cols);
    assert!(bias.is_none_or(|b| b.len() == width), "bias");
    if width == 0 {
        return;
    }
    let one = |(b, y): (usize, &mut [T])| {
        match bias {
            Some(bias) => y.copy_from_slice(bias),
            None => y.fill(T::ZERO),
        }
        for e in x.starts[b]..x.starts[b + 1] {
            add(isa, weight(values, e), &table[x.columns[e] as usize * width..], y);
        }
    };
    match work([x.nnz(), width]) < PARALLEL {
        true => y.chunks_exact_mut(width).enumerate().for_each(one),
        false => y.par_chunks_exact_mut(width).enumerate().with_min_len(8).for_each(one),
    }
}

/// The gradient of the table of [`bags`] from the gradient `g` `[rows, width]` of its output, for the columns that occur:
/// those, ascending, and their gradients `[columns, width]`. O(nnz (width + log nnz)); columns that do not occur take no
/// memory.
///
/// # Panics
/// As [`bags`].
pub fn bags_gradient<T: Real>(x: Csr, values: Option<&[T]>, width: usize, g: &[T]) -> (Vec<u32>, Vec<T>) {
    T::bags_gradient(Isa::best(), x, values, width, g)
}

pub(crate) fn bags_gradient_on<T: Real>(
    isa: Isa,
    x: Csr,
    values: Option<&[T]>,
    width: usize,
    g: &[T],
) -> (Vec<u32>, Vec<T>) {
    x.check_range();
    check(&x, values, width, g.len());
    let mut order: Vec<(u32, u32, usize)> = Vec::with_capacity(x.nnz());
    for b in 0..x.rows {
        order.extend((x.starts[b]..x.starts[b + 1]).map(|e| (x.columns[e], b as u32, e)));
    }
    order.sort_unstable();
    let groups: Vec<&[(u32, u32, usize)]> = order.chunk_by(|a, b| a.0 == b.0).collect();
    let mut gradients = vec![T::ZERO; volume([groups.len(), width])];
    if width > 0 {
        gradients.par_chunks_exact_mut(width).zip(&groups).with_min_len(16).for_each(|(to, group)| {
            for &(_, b, e) in *group {
                add(isa, weight(values, e), &g[b as usize * width..], to);
            }
        });
    }
    (groups.iter().map(|group| group[0].0).collect(), gradients)
}

/// `y = x Wᵀ + bias` where both W (`csr`, its transpose `csc`, `values` row by row) and `x` (`x_values` at the places of `x`,
/// `[batch, in]`) are sparse; `y` is `[batch, out]`. Costs the entries of W in the columns that occur.
///
/// # Panics
/// When a slice does not have its shape or a structure is not valid.
#[allow(clippy::too_many_arguments)]
pub fn spmm_sparse<T: Real>(
    csr: Csr,
    csc: Csc,
    values: &[T],
    x: Csr,
    x_values: Option<&[T]>,
    bias: Option<&[T]>,
    y: &mut [T],
) {
    T::spmm_sparse(csr, csc, values, x, x_values, bias, y);
}

pub(crate) fn spmm_sparse_of<T: Real>(
    csr: Csr,
    csc: Csc,
    values: &[T],
    x: Csr,
    x_values: Option<&[T]>,
    bias: Option<&[T]>,
    y: &mut [T],
) {
    csr.check();
    csc.check(&csr);
    x.check_range();
    assert_eq!((values.len(), x.cols), (csr.nnz(), csr.cols), "values and columns of x");
    check(&x, x_values, csr.rows, y.len());
    assert!(bias.is_none_or(|b| b.len() == csr.rows), "bias");
    if csr.rows == 0 {
        return;
    }
    y.par_chunks_exact_mut(csr.rows).enumerate().for_each(|(b, y)| {
        match bias {
            Some(bias) => y.copy_from_slice(bias),
            None => y.fill(T::ZERO),
        }
        for e in x.starts[b]..x.starts[b + 1] {
            let (c, v) = (x.columns[e] as usize, weight(x_values, e));
            for k in csc.starts[c]..csc.starts[c + 1] {
                y[csc.rows[k] as usize] += v * values[csc.entries[k] as usize];
            }
        }
    });
}

fn check<T>(x: &Csr, values: Option<&[T]>, width: usize, len: usize) {
    assert!(values.is_none_or(|v| v.len() == x.nnz()), "one value an entry of x");
    assert_eq!(len, volume([x.rows, width]), "numbers of [{}, {width}]", x.rows);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Layer, close, random};

    proptest! {
        #[test]
        fn equal_plain_loops(
            rows in 0usize..30, cols in 0usize..40, width in 0usize..40, density in 0.0..1.0f64, seed in 0u64..99,
            weighted: bool,
        ) {
            let bags = Layer::random(rows, cols, density * density, seed);
            let values: Vec<f64> = if weighted { random(seed, bags.nnz()) } else { vec![1.0; bags.nnz()] };
            let given = weighted.then_some(&values[..]);
            let x = bags.dense(&values);
            let (table, bias): (Vec<f64>, Vec<f64>) = (random(seed + 1, cols * width), random(seed + 2, width));
            for &isa in Isa::available() {
                let mut y = vec![f64::NAN; rows * width];
                bags_on(isa, bags.csr(), given, &table, width, Some(&bias), &mut y);
                let want = |b: usize, w: usize| bias[w] + (0..cols).map(|c| x[b * cols + c] * table[c * width + w]).sum::<f64>();
                close("bags", &y, rows, width, 1e-12, want);
            }
            let g: Vec<f64> = random(seed + 3, rows * width);
            let (columns, gradients) = bags_gradient(bags.csr(), given, width, &g);
            prop_assert!(columns.windows(2).all(|w| w[0] < w[1]));
            let occurs = (0..cols).filter(|&c| bags.csr().columns.contains(&(c as u32))).count();
            prop_assert_eq!(columns.len(), occurs);
            let want = |i: usize, w: usize| {
                (0..rows).map(|b| x[b * cols + columns[i] as usize] * g[b * width + w]).sum::<f64>()
            };
            close("gradient of the table", &gradients, columns.len(), width, 1e-12, want);

            let layer = Layer::random(width, cols, 0.3, seed + 4);
            let w: Vec<f64> = random(seed + 5, layer.nnz());
            let dense = layer.dense(&w);
            let mut y = vec![f64::NAN; rows * width];
            spmm_sparse(layer.csr(), layer.csc(), &w, bags.csr(), given, Some(&bias), &mut y);
            let want = |b: usize, r: usize| bias[r] + (0..cols).map(|c| x[b * cols + c] * dense[r * cols + c]).sum::<f64>();
            close("sparse by sparse", &y, rows, width, 1e-12, want);
        }
    }
}
