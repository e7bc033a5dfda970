//! Code shared by the tests of this crate.

use crate::{Csc, Csr, Operator, Real, Tiled};

/// An owned sparse structure with its transpose.
pub struct Layer {
    pub rows: usize,
    pub cols: usize,
    starts: Vec<usize>,
    columns: Vec<u32>,
    t_starts: Vec<usize>,
    t_rows: Vec<u32>,
    t_entries: Vec<u32>,
}

/// SplitMix64.
pub fn bits(seed: u64, i: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn unit(seed: u64, i: u64) -> f64 {
    (bits(seed, i) >> 11) as f64 / (1u64 << 53) as f64
}

/// Uniform in [-1, 1).
pub fn random<T: Real>(seed: u64, n: usize) -> Vec<T> {
    (0..n).map(|i| T::of(2.0 * unit(seed, i as u64) - 1.0)).collect()
}

impl Layer {
    pub fn random(rows: usize, cols: usize, density: f64, seed: u64) -> Self {
        Self::new(rows, cols, |r, c| unit(seed, (r * cols + c) as u64) < density)
    }

    pub fn new(rows: usize, cols: usize, active: impl Fn(usize, usize) -> bool) -> Self {
        let (mut starts, mut columns) = (vec![0], Vec::new());
        for r in 0..rows {
            columns.extend((0..cols).filter(|&c| active(r, c)).map(|c| c as u32));
            starts.push(columns.len());
        }
        let csr = Csr { rows, cols, starts: &starts, columns: &columns };
        let (t_starts, t_rows, t_entries) = csr.transpose();
        Self { rows, cols, starts, columns, t_starts, t_rows, t_entries }
    }

    pub fn csr(&self) -> Csr<'_> {
        Csr { rows: self.rows, cols: self.cols, starts: &self.starts, columns: &self.columns }
    }

    pub fn csc(&self) -> Csc<'_> {
        Csc { starts: &self.t_starts, rows: &self.t_rows, entries: &self.t_entries }
    }

    pub fn nnz(&self) -> usize {
        self.columns.len()
    }

    /// Row and column of an entry.
    pub fn entry(&self, e: usize) -> (usize, usize) {
        (self.starts.partition_point(|&s| s <= e) - 1, self.columns[e] as usize)
    }

    pub fn dense<T: Real>(&self, values: &[T]) -> Vec<f64> {
        let mut w = vec![0.0; self.rows * self.cols];
        for (e, v) in values.iter().enumerate() {
            let (r, c) = self.entry(e);
            w[r * self.cols + c] = v.f64();
        }
        w
    }
}

/// Every element of `got` `[m, n]` is within `tolerance` of `want(i, j)`; absolute, sums here are of order one to ten.
pub fn close<T: Real>(what: &str, got: &[T], m: usize, n: usize, tolerance: f64, want: impl Fn(usize, usize) -> f64) {
    assert_eq!(got.len(), m * n);
    for (k, g) in got.iter().enumerate() {
        let (i, j) = (k / n, k % n);
        let w = want(i, j);
        assert!((g.f64() - w).abs() <= tolerance, "{what} at [{i}, {j}]: {g} for {w}");
    }
}

/// `f` returns the same on 1, 2, 3 and 8 threads.
pub fn on_threads<R: PartialEq + Send>(f: impl Fn() -> R + Sync) {
    let run = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(&f);
    let one = run(1);
    for n in [2, 3, 8] {
        assert!(run(n) == one, "{n} threads differ from one");
    }
}

/// Results of plain triple loops over a layer: y with and without `bias`, dx, dw.
pub struct Plain {
    pub y: Vec<f64>,
    pub with_bias: Vec<f64>,
    pub dx: Vec<f64>,
    pub dw: Vec<f64>,
}

impl Plain {
    pub fn new<T: Real>(layer: &Layer, values: &[T], batch: usize, x: &[T], g: &[T], bias: &[T]) -> Self {
        let (rows, cols, w) = (layer.rows, layer.cols, layer.dense(values));
        let (x, g) = (|b: usize, c: usize| x[b * cols + c].f64(), |b: usize, r: usize| g[b * rows + r].f64());
        let each = |n: usize, f: &dyn Fn(usize, usize) -> f64| (0..batch * n).map(|i| f(i / n, i % n)).collect();
        let y: Vec<f64> = each(rows, &|b, r| (0..cols).map(|c| w[r * cols + c] * x(b, c)).sum());
        let dw = |e| {
            let (r, c) = layer.entry(e);
            (0..batch).map(|b| g(b, r) * x(b, c)).sum()
        };
        Self {
            with_bias: y.iter().enumerate().map(|(i, y)| y + bias[i % rows].f64()).collect(),
            y,
            dx: each(cols, &|b, c| (0..rows).map(|r| w[r * cols + c] * g(b, r)).sum()),
            dw: (0..layer.nnz()).map(dw).collect(),
        }
    }
}

/// Every number of `got` is within `tolerance` of `want`.
pub fn near<T: Real>(what: &str, got: &[T], want: &[f64], tolerance: f64) {
    close(what, got, 1, want.len(), tolerance, |_, i| want[i]);
}

/// Forward and backward of any operator against plain triple loops.
pub fn check_operator(layer: &Layer, values: &[f64], batch: usize, seed: u64, op: &dyn Operator<f64>) {
    let (rows, cols) = (layer.rows, layer.cols);
    assert_eq!((op.rows(), op.cols(), op.nnz()), (rows, cols, layer.nnz()), "{}", op.format());
    let (x, g) = (random::<f64>(seed + 1, batch * cols), random::<f64>(seed + 2, batch * rows));
    let bias: Vec<f64> = random(seed + 3, rows);
    let plain = Plain::new(layer, values, batch, &x, &g, &bias);
    let (xt, gt) = (Tiled::from_rows(batch, cols, &x), Tiled::from_rows(batch, rows, &g));
    for (bias, want) in [(None, &plain.y), (Some(&bias[..]), &plain.with_bias)] {
        let (mut yt, mut y) = (Tiled::from_rows(batch, rows, &vec![f64::NAN; batch * rows]), vec![0.0; batch * rows]);
        op.forward(&xt, bias, &mut yt);
        yt.to_rows(&mut y);
        near("y", &y, want, 1e-12);
    }
    let mut dw = vec![f64::NAN; layer.nnz()];
    op.backward(&xt, &gt, None, &mut dw);
    near("dw alone", &dw, &plain.dw, 1e-12);
    let (mut dxt, mut dx) = (Tiled::from_rows(batch, cols, &vec![f64::NAN; batch * cols]), vec![0.0; batch * cols]);
    let mut dw = vec![f64::NAN; layer.nnz()];
    op.backward(&xt, &gt, Some(&mut dxt), &mut dw);
    dxt.to_rows(&mut dx);
    near("dw", &dw, &plain.dw, 1e-12);
    near("dx", &dx, &plain.dx, 1e-12);
}
