//! Rows of a data set as tensors for fits.

use nnz_core::{Context, Result, Rng};
use nnz_engine::data::{Dataset, Normalization, Split};
use nnz_engine::fit::Fit;
use nnz_engine::{Tensor, Var};

/// Reads the rows of a split as one tensor.
pub fn tensor(data: &Dataset, split: &Split) -> Result<Tensor<f32>> {
    let rows: Vec<u32> = (0..split.len() as u32).collect();
    let mut values = vec![0.0; rows.len() * data.features()];
    data.fill(split, &rows, Normalization::NONE, &mut values).map_err(nnz_engine::Error::from)?;
    Ok(Tensor::new(&[rows.len(), data.features()], values))
}

/// Selects the rows of a step: each epoch in another order.
pub fn batch(x: &Tensor<f32>, labels: &[u32], size: usize, seed: u64, step: u64) -> (Var<f32>, Vec<u32>) {
    let (n, width) = x.rows_cols();
    let each = n.div_ceil(size) as u64;
    let mut order: Vec<usize> = (0..n).collect();
    Rng::stream(seed, "rows", 0, step / each).shuffle(&mut order);
    let chosen = order.into_iter().skip((step % each) as usize * size).take(size);
    let (mut rows, mut of) = (Vec::new(), Vec::new());
    for r in chosen {
        rows.extend_from_slice(&x.data()[r * width..(r + 1) * width]);
        of.extend(labels.get(r));
    }
    (Var::constant(Tensor::new(&[rows.len() / width, width], rows)), of)
}

/// Σ (x - mean)² over all rows, each column with its own mean.
pub fn variation(x: &Tensor<f32>) -> f64 {
    let (n, width) = x.rows_cols();
    let column = |c: usize| {
        let all = || x.data().iter().skip(c).step_by(width).map(|v| f64::from(*v));
        let mean = all().sum::<f64>() / n as f64;
        all().map(|v| (v - mean).powi(2)).sum::<f64>()
    };
    (0..width).map(column).sum()
}

/// Draws normal values of deviation 1/√columns.
pub fn drawn(rng: &mut Rng, shape: [usize; 2]) -> Tensor<f32> {
    let scale = 1.0 / (shape[1] as f64).sqrt();
    Tensor::new(&shape, (0..shape[0] * shape[1]).map(|_| (scale * rng.normal()) as f32).collect())
}

/// A fitted value.
pub fn value(fit: &Fit<'_, f32>, name: &str) -> Result<Var<f32>> {
    Ok(Var::constant(fit.value(name).map_err(nnz_engine::Error::from)?.clone()))
}

/// Counts rows whose largest score is that of their class; the first one of equal scores.
pub fn hits(scores: &Tensor<f32>, labels: &[u32]) -> usize {
    let best = |row: &[f32]| (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b]));
    let rows = scores.data().chunks(scores.rows_cols().1);
    rows.zip(labels).filter(|(row, label)| best(row) == Some(**label as usize)).count()
}

/// Shows the first features of a one-channel input as images.
pub fn show(cx: &mut Context, data: &Dataset, features: &Tensor<f32>) {
    if let [1, height, width] = data.image
        && height > 1
    {
        let tiles = features.data().chunks(height * width).take(64).map(<[f32]>::to_vec).collect();
        cx.picture("Features", [height, width], tiles);
    }
}
