//! Moving entries: every op here is linear, and its transpose is another one here.

use super::*;
use nnz_core::Mask;
use std::ops::Range;

/// Gathers the entries `at` of `x` (row-major positions) into `shape`.
pub fn pick<T: Real>(x: &Var<T>, at: Arc<Vec<usize>>, shape: &[usize]) -> Var<T> {
    let value = Tensor::new(shape, at.iter().map(|&i| x.value().data()[i]).collect());
    let from = x.shape().to_vec();
    Var::op("pick", value, &[x], || Box::new(move |g| vec![Some(place(g, at.clone(), &from))]))
}

/// The transpose of [`pick`]: adds entry `j` of `g` to position `at[j]` of zeros of `shape`.
pub fn place<T: Real>(g: &Var<T>, at: Arc<Vec<usize>>, shape: &[usize]) -> Var<T> {
    let mut value = Tensor::zeros(shape);
    let out = value.data_mut();
    at.iter().zip(g.value().data()).for_each(|(&i, &v)| out[i] += v);
    let back = g.shape().to_vec();
    Var::op("place", value, &[g], || Box::new(move |h| vec![Some(pick(h, at.clone(), &back))]))
}

/// a ⊙ m, for a mask over all entries.
///
/// # Panics
/// When the mask is of another number of entries.
pub fn masked<T: Real>(x: &Var<T>, mask: &Arc<Mask>) -> Var<T> {
    assert_eq!(x.value().len(), mask.len(), "a mask of {} for {} entries", mask.len(), x.value().len());
    let mut value = Tensor::zeros(x.shape());
    let (out, data) = (value.data_mut(), x.value().data());
    mask.positions().for_each(|i| out[i] = data[i]);
    let mask = mask.clone();
    Var::op("masked", value, &[x], || Box::new(move |g| vec![Some(masked(g, &mask))]))
}

/// The matrix `base`, `[rows, cols]`, with the columns of `block`, `[rows, columns]`, in the places `columns`.
///
/// # Panics
/// When they do not fit.
pub fn with_columns<T: Real>(base: &Var<T>, columns: &Arc<Vec<usize>>, block: &Var<T>) -> Var<T> {
    let ((rows, cols), (height, width)) = (base.value().rows_cols(), block.value().rows_cols());
    assert!(rows * width == height * columns.len(), "{width} columns of {height} rows for {rows}x{cols}");
    let mut value = base.value().clone();
    let lines = value.data_mut().chunks_exact_mut(cols.max(1)).zip(block.value().data().chunks_exact(width.max(1)));
    lines.for_each(|(to, from)| columns.iter().zip(from).for_each(|(&c, &v)| to[c] = v));
    let (columns, of_base, of_block) = (columns.clone(), base.tracked(), block.tracked());
    let shape = block.shape().to_vec();
    Var::op("with_columns", value, &[base, block], || {
        Box::new(move |g| {
            let none = || Var::constant(Tensor::zeros(&shape));
            vec![of_base.then(|| with_columns(g, &columns, &none())), of_block.then(|| index_select(g, 1, &columns))]
        })
    })
}

/// Axes reordered: axis `i` of the result is axis `order[i]` of `x`.
///
/// # Panics
/// When `order` is not a permutation of the axes.
pub fn permute<T: Real>(x: &Var<T>, order: &[usize]) -> Var<T> {
    let rank = x.shape().len();
    let mut inverse = vec![usize::MAX; rank];
    order.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
    assert!(order.len() == rank && !inverse.contains(&usize::MAX), "{order:?} does not order {rank} axes");
    if order.iter().enumerate().all(|(i, &o)| i == o) {
        return x.clone();
    }
    let own = shape::strides(x.shape());
    let shape: Vec<usize> = order.iter().map(|&i| x.shape()[i]).collect();
    let view: Vec<usize> = order.iter().map(|&i| own[i]).collect();
    let (mut value, data) = (Vec::with_capacity(x.value().len()), x.value().data());
    shape::walk(&shape, [&view], |_, n, [at], [step]| match step {
        1 => value.extend_from_slice(&data[at..at + n]),
        s => value.extend((0..n).map(|q| data[at + q * s])),
    });
    Var::op("permute", Tensor::new(&shape, value), &[x], || Box::new(move |g| vec![Some(permute(g, &inverse))]))
}

/// Swaps the last two axes.
///
/// # Panics
/// When there are fewer than two.
pub fn transpose<T: Real>(x: &Var<T>) -> Var<T> {
    let rank = x.shape().len();
    assert!(rank >= 2, "a transpose needs two axes");
    let mut order: Vec<usize> = (0..rank).collect();
    order.swap(rank - 1, rank - 2);
    permute(x, &order)
}

/// Selects entries `range` along `axis`.
///
/// # Panics
/// When the range exceeds the axis.
pub fn slice<T: Real>(x: &Var<T>, axis: usize, range: Range<usize>) -> Var<T> {
    let (outer, n, inner) = shape::around(x.shape(), axis);
    assert!(range.start <= range.end && range.end <= n, "slice {range:?} of an axis of {n}");
    let mut shape = x.shape().to_vec();
    shape[axis] = range.len();
    let mut value = Vec::with_capacity(outer * range.len() * inner);
    for o in 0..outer {
        value.extend_from_slice(&x.value().data()[(o * n + range.start) * inner..(o * n + range.end) * inner]);
    }
    let (before, after) = (range.start, n - range.end);
    Var::op("slice", Tensor::new(&shape, value), &[x], || Box::new(move |g| vec![Some(pad(g, axis, before, after))]))
}

/// Pads with zeros before and after along `axis`.
pub fn pad<T: Real>(x: &Var<T>, axis: usize, before: usize, after: usize) -> Var<T> {
    let (outer, n, inner) = shape::around(x.shape(), axis);
    let mut shape = x.shape().to_vec();
    shape[axis] = before + n + after;
    let mut value = Tensor::zeros(&shape);
    let out = value.data_mut();
    for o in 0..outer {
        let to = (o * (before + n + after) + before) * inner;
        out[to..to + n * inner].copy_from_slice(&x.value().data()[o * n * inner..(o + 1) * n * inner]);
    }
    Var::op("pad", value, &[x], || Box::new(move |g| vec![Some(slice(g, axis, before..before + n))]))
}

/// Splits `x` along `axis` into parts of `sizes`.
///
/// # Panics
/// When the sizes do not add up to the axis.
pub fn split<T: Real>(x: &Var<T>, axis: usize, sizes: &[usize]) -> Vec<Var<T>> {
    let (_, n, _) = shape::around(x.shape(), axis);
    assert_eq!(sizes.iter().sum::<usize>(), n, "parts {sizes:?} of an axis of {n}");
    let mut at = 0;
    let part = |&size: &usize| {
        at += size;
        slice(x, axis, at - size..at)
    };
    sizes.iter().map(part).collect()
}

/// Concatenates along `axis`.
///
/// # Panics
/// When there is nothing to join or other axes differ.
pub fn concat<T: Real>(parts: &[&Var<T>], axis: usize) -> Var<T> {
    let first = parts.first().expect("concat needs a part");
    let (outer, _, inner) = shape::around(first.shape(), axis);
    let sizes: Vec<usize> = parts.iter().map(|p| p.shape()[axis]).collect();
    let mut shape = first.shape().to_vec();
    for p in parts {
        shape[axis] = p.shape()[axis];
        assert_eq!(p.shape(), shape, "parts differ off axis {axis}");
    }
    shape[axis] = sizes.iter().sum();
    let mut value = Vec::with_capacity(shape.iter().product());
    for o in 0..outer {
        for (p, &n) in parts.iter().zip(&sizes) {
            value.extend_from_slice(&p.value().data()[o * n * inner..(o + 1) * n * inner]);
        }
    }
    Var::op("concat", Tensor::new(&shape, value), parts, || {
        Box::new(move |g| split(g, axis, &sizes).into_iter().map(Some).collect())
    })
}

/// Joins equal shapes along a new axis.
pub fn stack<T: Real>(parts: &[&Var<T>], axis: usize) -> Var<T> {
    let longer = |p: &&Var<T>| {
        let mut shape = p.shape().to_vec();
        shape.insert(axis, 1);
        reshape(p, &shape)
    };
    let parts: Vec<Var<T>> = parts.iter().map(longer).collect();
    concat(&parts.iter().collect::<Vec<_>>(), axis)
}

/// Selects entries `index` along `axis`, in that order, repeats allowed. On axis 0 of a table this is an embedding.
///
/// # Panics
/// When an index exceeds the axis.
pub fn index_select<T: Real>(x: &Var<T>, axis: usize, index: &[usize]) -> Var<T> {
    let (outer, n, inner) = shape::around(x.shape(), axis);
    let mut shape = x.shape().to_vec();
    shape[axis] = index.len();
    let mut value = Vec::with_capacity(outer * index.len() * inner);
    for (o, &i) in (0..outer).flat_map(|o| index.iter().map(move |i| (o, i))) {
        assert!(i < n, "index {i} into an axis of {n}");
        value.extend_from_slice(&x.value().data()[(o * n + i) * inner..(o * n + i + 1) * inner]);
    }
    let index: Arc<Vec<usize>> = Arc::new(index.to_vec());
    Var::op("index_select", Tensor::new(&shape, value), &[x], || {
        Box::new(move |g| vec![Some(index_sum(g, axis, &index, n))])
    })
}

/// The transpose of [`index_select`]: sums entry `j` of `x` along `axis` into entry `index[j]` of an axis of `n`.
///
/// # Panics
/// When an index exceeds the axis or their number is not the axis's.
pub fn index_sum<T: Real>(x: &Var<T>, axis: usize, index: &[usize], n: usize) -> Var<T> {
    let (outer, k, inner) = shape::around(x.shape(), axis);
    assert_eq!(k, index.len(), "one index for each entry of the axis");
    let mut shape = x.shape().to_vec();
    shape[axis] = n;
    let mut value = Tensor::zeros(&shape);
    let out = value.data_mut();
    for (o, (j, &i)) in (0..outer).flat_map(|o| index.iter().enumerate().map(move |i| (o, i))) {
        assert!(i < n, "index {i} into an axis of {n}");
        let from = &x.value().data()[(o * k + j) * inner..(o * k + j + 1) * inner];
        out[(o * n + i) * inner..(o * n + i + 1) * inner].iter_mut().zip(from).for_each(|(o, &v)| *o += v);
    }
    let index: Arc<Vec<usize>> = Arc::new(index.to_vec());
    Var::op("index_sum", value, &[x], || Box::new(move |g| vec![Some(index_select(g, axis, &index))]))
}

/// Adds entry `j` of `x` along `axis` to entry `index[j]` of `base`.
pub fn index_add<T: Real>(base: &Var<T>, axis: usize, index: &[usize], x: &Var<T>) -> Var<T> {
    add(base, &index_sum(x, axis, index, base.shape()[axis]))
}

/// Computes the positions in an array of `shape` that `index` (of shape `of`) names along `axis`.
fn positions(shape: &[usize], axis: usize, index: &[usize], of: &[usize]) -> Arc<Vec<usize>> {
    let fits = of.len() == shape.len() && (0..of.len()).all(|i| i == axis || of[i] <= shape[i]);
    assert!(
        fits && index.len() == of.iter().product::<usize>(),
        "an index of shape {of:?} into {shape:?} along axis {axis}"
    );
    let mut view = shape::strides(shape);
    let along = std::mem::replace(&mut view[axis], 0);
    let mut at = Vec::with_capacity(index.len());
    shape::walk(of, [&view], |first, n, [offset], [step]| {
        for q in 0..n {
            let i = index[first + q];
            assert!(i < shape[axis], "index {i} into an axis of {}", shape[axis]);
            at.push(offset + q * step + i * along);
        }
    });
    Arc::new(at)
}

/// `out[i][j][k] = x[i][index[i][j][k]][k]` for `axis` 1, and so on: `index` has shape `of` and names entries along
/// `axis`.
///
/// # Panics
/// When shapes do not fit or an index exceeds the axis.
pub fn gather<T: Real>(x: &Var<T>, axis: usize, index: &[usize], of: &[usize]) -> Var<T> {
    pick(x, positions(x.shape(), axis, index, of), of)
}

/// Adds `x` to `base` where [`gather`] with the same index would read; `index` has the shape of `x`.
pub fn scatter_add<T: Real>(base: &Var<T>, axis: usize, index: &[usize], x: &Var<T>) -> Var<T> {
    add(base, &place(x, positions(base.shape(), axis, index, x.shape()), base.shape()))
}

/// Sorts along `axis`; also returns the index along the axis that each entry came from. Equal entries keep their order.
pub fn sort<T: Real>(x: &Var<T>, axis: usize, descending: bool) -> (Var<T>, Vec<usize>) {
    top(x, axis, x.shape()[axis], descending)
}

/// The `k` largest along `axis`, descending, and their indices along the axis. The first ones among equals.
///
/// # Panics
/// When the axis is shorter than `k`.
pub fn top_k<T: Real>(x: &Var<T>, axis: usize, k: usize) -> (Var<T>, Vec<usize>) {
    top(x, axis, k, true)
}

fn top<T: Real>(x: &Var<T>, axis: usize, k: usize, descending: bool) -> (Var<T>, Vec<usize>) {
    let (outer, n, inner) = shape::around(x.shape(), axis);
    assert!(k <= n, "the {k} largest of {n}");
    let data = x.value().data();
    let mut index = vec![0; outer * k * inner];
    for (o, i) in (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))) {
        let at = |j: usize| data[(o * n + j) * inner + i].f64();
        let order = |&a: &usize, &b: &usize| {
            let by = if descending { at(b).total_cmp(&at(a)) } else { at(a).total_cmp(&at(b)) };
            by.then(a.cmp(&b))
        };
        let mut line: Vec<usize> = (0..n).collect();
        if k < n && k > 0 {
            line.select_nth_unstable_by(k - 1, order);
            line.truncate(k);
        }
        line.sort_unstable_by(order);
        line.iter().take(k).enumerate().for_each(|(j, &from)| index[(o * k + j) * inner + i] = from);
    }
    let mut shape = x.shape().to_vec();
    shape[axis] = k;
    (gather(x, axis, &index, &shape), index)
}

/// Rows with a one at `index` and zeros elsewhere: `[rows, classes]`.
///
/// # Panics
/// When an index is not below `classes`.
pub fn one_hot<T: Real>(index: &[usize], classes: usize) -> Tensor<T> {
    let mut out = Tensor::zeros(&[index.len(), classes]);
    for (r, &i) in index.iter().enumerate() {
        assert!(i < classes, "class {i} of {classes}");
        out.data_mut()[r * classes + i] = T::ONE;
    }
    out
}
