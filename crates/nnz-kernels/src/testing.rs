//! What the tests of this crate share.

use crate::{Csc, Csr, Real, Tiled};

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
        let mut lists = vec![Vec::new(); cols];
        for r in 0..rows {
            for k in starts[r]..starts[r + 1] {
                lists[columns[k] as usize].push((r as u32, k as u32));
            }
        }
        let (mut t_starts, mut t_rows, mut t_entries) = (vec![0], Vec::new(), Vec::new());
        for list in lists {
            t_rows.extend(list.iter().map(|p| p.0));
            t_entries.extend(list.iter().map(|p| p.1));
            t_starts.push(t_rows.len());
        }
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

/// Forward and backward of any operator against plain triple loops.
pub fn check_operator(
    layer: &Layer,
    values: &[f64],
    batch: usize,
    seed: u64,
    forward: impl Fn(&Tiled<f64>, Option<&[f64]>, &mut Tiled<f64>),
    backward: impl Fn(&Tiled<f64>, &Tiled<f64>, Option<&mut Tiled<f64>>, &mut [f64]),
) {
    let (rows, cols, w) = (layer.rows, layer.cols, layer.dense(values));
    let (x, g) = (random::<f64>(seed + 1, batch * cols), random::<f64>(seed + 2, batch * rows));
    let bias: Vec<f64> = random(seed + 3, rows);
    let (xt, gt) = (Tiled::from_rows(batch, cols, &x), Tiled::from_rows(batch, rows, &g));
    for bias in [None, Some(&bias[..])] {
        let (mut yt, mut y) = (Tiled::from_rows(batch, rows, &vec![f64::NAN; batch * rows]), vec![0.0; batch * rows]);
        forward(&xt, bias, &mut yt);
        yt.to_rows(&mut y);
        let start = |r: usize| bias.map_or(0.0, |b| b[r]);
        let want = |b: usize, r: usize| start(r) + (0..cols).map(|c| w[r * cols + c] * x[b * cols + c]).sum::<f64>();
        close("y", &y, batch, rows, 1e-12, want);
    }
    let want_dw = |_: usize, e: usize| {
        let (r, c) = layer.entry(e);
        (0..batch).map(|b| g[b * rows + r] * x[b * cols + c]).sum::<f64>()
    };
    let mut dw = vec![f64::NAN; layer.nnz()];
    backward(&xt, &gt, None, &mut dw);
    close("dw alone", &dw, 1, layer.nnz(), 1e-12, want_dw);
    let (mut dxt, mut dx) = (Tiled::from_rows(batch, cols, &vec![f64::NAN; batch * cols]), vec![0.0; batch * cols]);
    let mut dw = vec![f64::NAN; layer.nnz()];
    backward(&xt, &gt, Some(&mut dxt), &mut dw);
    dxt.to_rows(&mut dx);
    close("dw", &dw, 1, layer.nnz(), 1e-12, want_dw);
    close("dx", &dx, batch, cols, 1e-12, |b, c| (0..rows).map(|r| w[r * cols + c] * g[b * rows + r]).sum::<f64>());
}
