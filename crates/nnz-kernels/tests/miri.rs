//! Every kernel on one small shape, for Miri, which sees what no sanitizer does (pointers that leave their slice without a read,
//! borrows that overlap) and takes a thousand times as long. It supports no other instruction sets, so that the portable
//! path runs. An ordinary test, too.

#![forbid(unsafe_code)]

use nnz_kernels::{
    Attention, Blocked, Bsr, Compiled, Conv, Csc, Csr, Dense, Expanded, Operator, Plan, Sliced, Start, Tiled, bags,
    bags_gradient, elementwise, gemm, gradients_at, max_pool, rows, spmm_sparse, top_zero_gradients,
};

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i * 37 % 19) as f32 - 9.0).collect()
}

/// Runs on this thread only, since waiting threads take most of the time under Miri.
fn alone(f: impl FnOnce() + Send) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build().expect("a pool");
    pool.install(f);
}

struct Owned {
    rows: usize,
    cols: usize,
    starts: Vec<usize>,
    columns: Vec<u32>,
    transposed: (Vec<usize>, Vec<u32>, Vec<u32>),
}

impl Owned {
    fn new(rows: usize, cols: usize, active: impl Fn(usize, usize) -> bool) -> Self {
        let (mut starts, mut columns) = (vec![0], Vec::new());
        for r in 0..rows {
            columns.extend((0..cols).filter(|&c| active(r, c)).map(|c| c as u32));
            starts.push(columns.len());
        }
        let transposed = Csr { rows, cols, starts: &starts, columns: &columns }.transpose();
        Self { rows, cols, starts, columns, transposed }
    }

    fn csr(&self) -> Csr<'_> {
        Csr { rows: self.rows, cols: self.cols, starts: &self.starts, columns: &self.columns }
    }

    fn csc(&self) -> Csc<'_> {
        let (starts, rows, entries) = &self.transposed;
        Csc { starts, rows, entries }
    }
}

#[test]
fn sparse_layers() {
    alone(of_sparse_layers);
}

fn of_sparse_layers() {
    for (rows, cols, batch) in [(18, 7, 3), (3, 20, 9)] {
        let layer = Owned::new(rows, cols, |r, c| (r * 5 + c * 3) % 4 != 0);
        let (csr, values) = (layer.csr(), numbers(layer.columns.len()));
        let x = Tiled::from_rows(batch, cols, &numbers(batch * cols));
        let (g, mut y) = (Tiled::from_rows(batch, rows, &numbers(batch * rows)), Tiled::zeros(batch, rows));
        let (mut dx, mut dw) = (Tiled::zeros(batch, cols), values.clone());
        let mut op = Compiled::new(csr, layer.csc(), &values);
        op.forward(&x, Some(&numbers(rows)), &mut y);
        op.backward(&x, &g, Some(&mut dx), &mut dw);
        op.set_values(&values);
        Plan::new(csr, layer.csc()).backward_relu(&values, &x, &g, None, &mut dw);
        Blocked::new(csr, &values).forward(&x, None, true, &mut y);
        Dense::new(csr, &values).forward(&x, None, &mut y);
        let (flat, mut out) = (numbers(2 * cols), vec![0.0; 2 * rows]);
        Sliced::new(csr, &values).apply(2, &flat, None, &mut out);
        Sliced::rounded(csr, &values).apply(2, &flat, Some(&numbers(rows)), &mut out);
        Expanded::new(csr, &values).apply(2, &flat, None, &mut out);
        Expanded::rounded(csr, &values).apply(2, &flat, None, &mut out);
        top_zero_gradients(csr, 2, &flat, &numbers(2 * rows), 3);
        gradients_at(&[0, (rows * cols - 1) as u64], &x, &g);
        let (table, mut sums) = (numbers(cols * 5), vec![0.0; rows * 5]);
        bags(csr, Some(&values), &table, 5, None, &mut sums);
        bags_gradient(csr, None, 5, &sums);
        let sparse = Owned::new(2, cols, |r, c| (r + c) % 3 == 0);
        spmm_sparse(csr, layer.csc(), &values, sparse.csr(), None, None, &mut out);
    }
    let blocks = Owned::new(6, 8, |r, c| (r / 2 + c / 4) % 2 == 0);
    let values = numbers(blocks.columns.len());
    let op = Bsr::new(blocks.csr(), 2, 4, &values).expect("blocks");
    let (x, mut y) = (Tiled::from_rows(3, 8, &numbers(24)), Tiled::zeros(3, 6));
    op.forward(&x, None, &mut y);
    op.backward(&x, &y, Some(&mut Tiled::zeros(3, 8)), &mut values.clone());
}

#[test]
fn dense_products() {
    alone(of_dense_products);
}

fn of_dense_products() {
    for (m, n, k) in [(7, 9, 5), (1, 3, 0), (2, 2, 300)] {
        let (a, b, mut c) = (numbers(m * k), numbers(k * n), numbers(m * (n + 1)));
        gemm(m, n, k, &a, (k, 1), &b, (n, 1), Start::Add, &mut c, n + 1);
        gemm(m, n, k, &a, (1, m), &b, (1, k), Start::Bias(&numbers(n)), &mut c, n + 1);
    }
    for (groups, channels, filters) in [(1, 3, 5), (4, 4, 4)] {
        let (size, kernel, stride) = ([1, 5, 4], [1, 3, 2], [1, 2, 1]);
        let c =
            Conv { batch: 2, size, channels, filters, kernel, stride, padding: [0, 1, 1], dilation: [1, 1, 2], groups };
        let outputs = c.output().iter().product::<usize>();
        let (x, w) = (numbers(2 * 20 * channels), numbers(filters * 6 * channels / groups));
        let mut y = vec![0.0; 2 * outputs * filters];
        c.forward(&x, &w, None, &mut y);
        c.backward_input(&y, &w, &mut x.clone());
        c.backward_weight(&x, &y, &mut w.clone());
        let pool = Conv { kernel: [1, 2, 2], stride: [1, 2, 2], padding: [0; 3], dilation: [1; 3], ..c };
        let mut pooled = vec![0.0; 2 * pool.output().iter().product::<usize>() * channels];
        let mut at = vec![0; pooled.len()];
        max_pool(&pool, &x, &mut pooled, &mut at);
    }
}

#[test]
fn attention_and_rows() {
    alone(of_attention_and_rows);
}

fn of_attention_and_rows() {
    let a = Attention {
        batch: 1,
        queries: 3,
        keys: 4,
        heads: 2,
        groups: 1,
        width: 3,
        value_width: 2,
        causal: true,
        seen: &[true, true, false, true],
    };
    let (q, k, v) = (numbers(18), numbers(12), numbers(8));
    let (mut y, mut sums) = (vec![0.0; 12], vec![0.0; 6]);
    a.forward(&q, &k, &v, &mut y, &mut sums);
    let g = y.clone();
    a.backward((&q, &k, &v), (&y, &sums), &g, (&mut q.clone(), &mut k.clone(), &mut v.clone()));
    let (x, gain) = (numbers(3 * 18), numbers(18));
    let (mut y, mut mean, mut rate) = (x.clone(), vec![0.0; 3], vec![0.0; 3]);
    rows::softmax(&mut x.clone(), 18);
    rows::softmax_backward(&x, &x, 18, &mut y);
    rows::layer_norm(&x, &gain, &gain, 1e-5, &mut y, &mut mean, &mut rate);
    rows::layer_norm_backward(&x, &y, &gain, &mean, &rate, &mut x.clone());
    rows::layer_norm_sums(&x, &y, &mean, &rate, 18);
    rows::column_moments(&x, 18);
    elementwise::step([&mut x.clone(), &mut y], &x, |[a, b], g| [a + g, b - g]);
}
