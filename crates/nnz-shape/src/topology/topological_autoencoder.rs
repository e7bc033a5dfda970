//! An autoencoder whose code preserves the 0-dimensional persistent homology of its batch. A merge of components of the
//! Vietoris-Rips filtration is an edge of the minimum spanning tree, so with the trees of inputs X and codes Z
//!
//! L = ‖x - x̂‖² + λ / batch (½ Σ_{e ∈ MST(X)} (d_X(e) - d_Z(e))² + ½ Σ_{e ∈ MST(Z)} (d_X(e) - d_Z(e))²),
//!
//! d_X divided by its largest in the batch, d_Z by a learned scale; the trees are constants to the gradient.
//!
//! How well a map preserves density is measured by KL(p_X ‖ p_Z), p(x) ∝ Σ_y exp(-(d(x, y) / max d)² / σ), σ = 0.1.
//!
//! Cost: O(batch²) distances and O(batch²) for each tree per step; the density measure is O(points²).
//!
//! Deviations: the spheres have 100 points each instead of 500.

use nnz_core::{Better, Context, Experiment, Launch, Method, Metric, Result, Rng, Unit, above, at_least, options};
use nnz_engine::fit::{Adam, Fit, FitSpec, LrSchedule, Parameter, Seen};
use nnz_engine::{Tensor, Var, ops};

/// The card.
pub const METHOD: Method = Method::experiment::<Options>(
    "topological-autoencoder",
    "Topological autoencoder",
    "Trains an autoencoder whose code merges into components as its inputs do, on spheres inside a sphere.",
);

options! {
    /// λ, the weight of the trees; 0 is a plain autoencoder.
    weight: f64 = 0.5 => at_least(0.0),
    /// Points of each of the ten small spheres; the large one has five times as many.
    points: usize = 100 => at_least(1.0),
    /// Dimensions of the small spheres' surfaces.
    dimensions: usize = 100 => at_least(1.0),
    /// Passes over the points.
    epochs: u64 = 100 => at_least(1.0),
    /// Points per step.
    batch: usize = 28 => at_least(3.0),
    /// Learning rate of Adam.
    rate: f64 = 0.001 => above(0.0),
}

const METRICS: &[Metric] = &[
    Metric::new("density-kl", Unit::Nats, Better::Lower, "KL divergence of densities of inputs and codes, σ = 0.1."),
    Metric::new("reconstruction", Unit::Number, Better::Lower, "Mean squared error of the rebuilt points."),
];

impl Launch for Options {
    fn launch(self) -> Result<Box<dyn Experiment>> {
        Ok(Box::new(Spheres(self)))
    }
}

struct Spheres(Options);

impl Experiment for Spheres {
    fn metrics(&self) -> &'static [Metric] {
        METRICS
    }

    fn run(&mut self, cx: &mut Context) -> Result<()> {
        let Options { weight, epochs, batch, rate, .. } = self.0.clone();
        let (x, colours) = self.sample(&mut cx.rng("spheres", 0, 0));
        let (n, width) = x.rows_cols();
        let steps = epochs * (n / batch).max(1) as u64;
        let widths = [width, 32, 32, 2, 32, 32, width];
        let mut rng = cx.rng("init", 0, 0);
        let mut params = Vec::new();
        for (i, w) in widths.windows(2).enumerate() {
            let scale = (2.0 / w[0] as f64).sqrt();
            let values = (0..w[0] * w[1]).map(|_| (scale * rng.normal()) as f32).collect();
            params.push(Parameter::weight(&format!("weight{i}"), Tensor::new(&[w[1], w[0]], values)));
            params.push(Parameter::vector(&format!("bias{i}"), Tensor::zeros(&[w[1]])));
        }
        params.push(Parameter::vector("scale", Tensor::full(&[1], 1.0)));
        let spec = FitSpec { schedule: LrSchedule::Constant, ..FitSpec::new(steps) };
        let mut fit = Fit::new(params, Adam::new(rate), spec).map_err(nnz_engine::Error::from)?;
        cx.resume(&mut fit)?;
        let (seed, each) = (cx.seed(), (n / batch).max(1) as u64);
        let mut objective = |step: u64, p: &[Var<f32>], _: &mut Seen<f32>| {
            let mut order: Vec<usize> = (0..n).collect();
            Rng::stream(seed, "rows", 0, step / each).shuffle(&mut order);
            let rows: Vec<usize> = order.into_iter().skip((step % each) as usize * batch).take(batch).collect();
            let x = ops::index_select(&Var::constant(x.clone()), 0, &rows);
            let (z, rebuilt) = through(&x, p);
            let loss = ops::mse(&rebuilt, &x);
            if weight == 0.0 {
                return Ok(loss);
            }
            let trees = ops::scale(&topological(x.value(), &z, &p[12]), weight / rows.len() as f64);
            Ok(ops::add(&loss, &trees))
        };
        while fit.steps().0 < steps {
            let now = fit.advance(&mut objective).map_err(nnz_engine::Error::from)?;
            if now.steps.0.is_multiple_of((steps / 50).max(1)) {
                cx.curve("loss", "step", now.steps.0 as f64, now.loss);
            }
            cx.checkpoint(now.steps.0, steps, &mut fit)?;
        }
        let p: Vec<Var<f32>> = fit.params().iter().map(|p| Var::constant(p.value.clone())).collect();
        let (z, rebuilt) = through(&Var::constant(x.clone()), &p);
        let error = ops::mse(&rebuilt, &Var::constant(x.clone()));
        cx.report("reconstruction", f64::from(error.value().data()[0]))?;
        cx.report("density-kl", divergence(&density(&x, 0.1), &density(z.value(), 0.1)))?;
        cx.artifact("codes.csv", table(z.value(), &colours).as_bytes())
    }
}

impl Spheres {
    /// Draws ten spheres of radius 5 with random centers inside one of radius 25; and the sphere of each point.
    fn sample(&self, rng: &mut Rng) -> (Tensor<f32>, Vec<usize>) {
        let Options { points, dimensions, .. } = self.0.clone();
        let width = dimensions + 1;
        let (mut values, mut colours) = (Vec::new(), Vec::new());
        for sphere in 0..11 {
            let (radius, count) = if sphere == 10 { (25.0, 5 * points) } else { (5.0, points) };
            let deviation = if sphere == 10 { 0.0 } else { 10.0 / (width as f64).sqrt() };
            let center: Vec<f64> = (0..width).map(|_| deviation * rng.normal()).collect();
            for _ in 0..count {
                let direction: Vec<f64> = (0..width).map(|_| rng.normal()).collect();
                let norm = direction.iter().map(|v| v * v).sum::<f64>().sqrt();
                values.extend(direction.iter().zip(&center).map(|(v, c)| (radius * v / norm + c) as f32));
                colours.push(sphere);
            }
        }
        (Tensor::new(&[colours.len(), width], values), colours)
    }
}

/// Code and reconstructed points.
fn through(x: &Var<f32>, p: &[Var<f32>]) -> (Var<f32>, Var<f32>) {
    let (mut h, mut code) = (x.clone(), x.clone());
    for layer in 0..6 {
        h = ops::linear(&h, &p[2 * layer], &p[2 * layer + 1]);
        match layer {
            2 => code = h.clone(),
            5 => {}
            _ => h = ops::relu(&h),
        }
    }
    (code, h)
}

/// Distances between all rows, `[n * n]`.
fn distances(x: &Tensor<f32>) -> Vec<f64> {
    let (n, width) = x.rows_cols();
    let row = |i: usize| &x.data()[i * width..(i + 1) * width];
    let one = |i: usize, j: usize| row(i).iter().zip(row(j)).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
    (0..n * n).map(|at| one(at / n, at % n)).collect()
}

/// Edges of a minimum spanning tree of n points (Prim), ties by position.
fn tree(d: &[f64], n: usize) -> Vec<[usize; 2]> {
    let mut near: Vec<(f64, usize)> = (0..n).map(|j| (d[j], 0)).collect();
    let (mut outside, mut edges): (Vec<usize>, Vec<_>) = ((1..n).collect(), Vec::new());
    while let Some(at) = (0..outside.len()).min_by(|&a, &b| near[outside[a]].0.total_cmp(&near[outside[b]].0)) {
        let j = outside.remove(at);
        edges.push([near[j].1, j]);
        outside.iter().for_each(|&k| {
            if d[j * n + k] < near[k].0 {
                near[k] = (d[j * n + k], j);
            }
        });
    }
    edges
}

/// ½ Σ (d_X - d_Z)² over the edges of both trees.
fn topological(x: &Tensor<f32>, z: &Var<f32>, scale: &Var<f32>) -> Var<f32> {
    let (n, _) = x.rows_cols();
    let (dx, dz) = (distances(x), distances(z.value()));
    let largest = dx.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let edges = [tree(&dx, n), tree(&dz, n)].concat();
    let ends = |side: usize| edges.iter().map(|e| e[side]).collect::<Vec<_>>();
    let apart = ops::square(&ops::sub(&ops::index_select(z, 0, &ends(0)), &ops::index_select(z, 0, &ends(1))));
    // Slightly above zero, so that equal codes have a gradient.
    let codes = ops::sqrt(&ops::shift(&ops::sum_over(&apart, &[1]), 1e-12));
    let wanted: Vec<f32> = edges.iter().map(|&[i, j]| (dx[i * n + j] / largest) as f32).collect();
    let shape = codes.shape().to_vec();
    let difference = ops::sub(&ops::div(&codes, &ops::expand(scale, &shape)), &Var::constant(Tensor::new(&shape, wanted)));
    ops::scale(&ops::sum(&ops::square(&difference)), 0.5)
}

/// Density around each point, summing to one.
fn density(x: &Tensor<f32>, sigma: f64) -> Vec<f64> {
    let ((n, _), d) = (x.rows_cols(), distances(x));
    let largest = d.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let at = |i: usize| d[i * n..(i + 1) * n].iter().map(|v| (-(v / largest).powi(2) / sigma).exp()).sum::<f64>();
    let all: Vec<f64> = (0..n).map(at).collect();
    let sum: f64 = all.iter().sum();
    all.into_iter().map(|v| v / sum).collect()
}

fn divergence(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum()
}

fn table(z: &Tensor<f32>, colours: &[usize]) -> String {
    let row = |(z, c): (&[f32], &usize)| format!("{},{},{c}\n", z[0], z[1]);
    String::from("x,y,sphere\n") + &z.data().chunks(2).zip(colours).map(row).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_and_their_loss_by_hand() {
        // Points on a line at 0, 1, 3: the tree has edges of 1 and 2.
        let x = Tensor::new(&[3, 1], vec![0.0f32, 1.0, 3.0]);
        assert_eq!(tree(&distances(&x), 3), [[0, 1], [1, 2]]);
        // Codes at 0, 2, 3: their tree has the same edges, of 2 and 1; inputs are 1/3 and 2/3 of the largest.
        let z = Var::leaf(Tensor::new(&[3, 1], vec![0.0f32, 2.0, 3.0]));
        let loss = topological(&x, &z, &Var::constant(Tensor::full(&[1], 3.0)));
        let by_hand = 2.0 * 0.5 * ((2.0f32 / 3.0 - 1.0 / 3.0).powi(2) + (1.0f32 / 3.0 - 2.0 / 3.0).powi(2));
        assert!((loss.value().data()[0] - by_hand).abs() < 1e-6, "{:?}", loss.value().data());
    }

    #[test]
    fn equal_shapes_have_equal_densities() {
        let x = Tensor::new(&[3, 1], vec![0.0f32, 1.0, 3.0]);
        let twice = x.map(|v| 2.0 * v);
        assert!(divergence(&density(&x, 0.1), &density(&twice, 0.1)).abs() < 1e-12);
        let other = Tensor::new(&[3, 1], vec![0.0f32, 2.9, 3.0]);
        assert!(divergence(&density(&x, 0.1), &density(&other, 0.1)) > 1e-3);
    }
}
