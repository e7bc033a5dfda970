//! Sensitivity of layers: what a network loses when one of them alone is pruned (Han et al. 2015, arXiv:1506.02626, section 4), and the
//! densities that lose least for a budget.

use crate::{Error, Result};
use nnz_core::{LayerOptions, Method, Names, Setting, Shape};
use nnz_engine::data::{Dataset, Preprocessing};
use nnz_engine::{Model, StoragePolicy, evaluate};
use serde::Serialize;

/// A network after one of its layers was pruned to a density.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Nonzeros / entries of that layer.
    pub density: f64,
    /// Mean loss over the rows measured.
    pub loss: f64,
    /// Accuracy, or variance explained, over the same rows.
    pub accuracy: f64,
}

/// Sensitivity of a layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curve {
    /// Name of its weight.
    pub layer: String,
    /// Its entries, zero or not.
    pub entries: usize,
    /// As it is first, then by falling density.
    pub points: Vec<Point>,
}

/// What is pruned and measured.
pub struct Measure<'a> {
    /// A trained network.
    pub model: &'a Model<f32>,
    /// How values become its inputs.
    pub frame: &'a Preprocessing,
    /// How pruned weights are stored.
    pub policy: &'a StoragePolicy,
    /// The data set, of which only training rows are read.
    pub data: &'a Dataset,
    /// Training rows over which the loss is measured.
    pub rows: &'a [u32],
    /// Training rows that a method may measure on.
    pub batch: &'a [u32],
    /// The method.
    pub method: &'static Method,
    /// Its options but for the density.
    pub options: &'a toml::Table,
    /// Key of all random choices.
    pub seed: u64,
}

impl Measure<'_> {
    /// Prunes every layer alone to each of these densities, which fall. `tick` is called before every evaluation.
    ///
    /// # Errors
    /// When the method cannot prune without training, takes no density, or `tick` stops.
    pub fn curves(&self, densities: &[f64], mut tick: impl FnMut(usize, usize) -> Result<()>) -> Result<Vec<Curve>> {
        let Self { model, frame, policy, data, rows, batch, method, options, seed } = *self;
        if !method.defaults().contains_key("density") {
            return Err(Error::Refused(format!(
                "{} has no density, by which the sensitivity of layers is measured",
                method.key
            )));
        }
        let shapes: Vec<&Shape> = model.params.iter().filter(|p| p.prunable).map(|p| &p.shape).collect();
        let count = 1 + shapes.len() * densities.len();
        let (mut done, setting) = (0, Setting { seed, steps: 0, steps_per_epoch: 1 });
        let mut measure = |density: f64, model: &Model<f32>| {
            tick(done, count)?;
            done += 1;
            let found = evaluate(model, data, &data.train, rows, frame)?;
            Ok::<_, Error>(Point { density, loss: found.loss, accuracy: found.accuracy })
        };
        let whole = measure(1.0, model)?;
        let mut curves = Vec::with_capacity(shapes.len());
        for shape in shapes {
            let mut points = vec![whole.clone()];
            for &density in densities {
                let mut options = options.clone();
                options.remove(LayerOptions::KEY);
                let own = toml::Table::from_iter([("density".to_owned(), density.into())]);
                let others = LayerOptions::keep(String::from("*").into());
                LayerOptions::add(
                    &mut options,
                    [others, LayerOptions { names: Names::exactly(&shape.name), options: own }],
                );
                let mut pruned = model.clone();
                let mut work = method.build(&method.options_for_trained(&options), &setting)?;
                nnz_engine::prune(&mut pruned, &mut work, Some((data, batch, frame)), policy)?;
                points.push(measure(density, &pruned)?);
            }
            curves.push(Curve { layer: shape.name.clone(), entries: shape.len(), points });
        }
        Ok(curves)
    }
}

/// Densities of the layers that together have `density`, and raise the loss least if what layers add to it adds up: the
/// fractional multiple-choice knapsack over the lower convex envelope of every curve.
///
/// # Errors
/// When the budget is below what was measured.
pub fn divide(curves: &[Curve], density: f64) -> Result<Vec<f64>> {
    // Steps down an envelope, each with the loss that it adds an entry removed.
    let mut steps: Vec<(f64, usize, f64)> = Vec::new();
    for (layer, curve) in curves.iter().enumerate() {
        for [high, low] in envelope(&curve.points).array_windows() {
            let removed = (high.density - low.density) * curve.entries as f64;
            steps.push(((low.loss - high.loss) / removed, layer, removed));
        }
    }
    // Along one envelope rates ascend, so the order of its steps stays.
    steps.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut left: Vec<f64> = curves.iter().map(|c| c.entries as f64).collect();
    let mut surplus = left.iter().sum::<f64>() * (1.0 - density);
    for (_, layer, removed) in steps {
        let removed = removed.min(surplus);
        left[layer] -= removed;
        surplus -= removed;
    }
    let least = left.iter().sum::<f64>() / curves.iter().map(|c| c.entries as f64).sum::<f64>().max(1.0);
    if surplus > 0.5 {
        return Err(Error::Refused(format!(
            "density {density} is below {least:.3}, the least that was measured; measure smaller densities of layers"
        )));
    }
    Ok(left.iter().zip(curves).map(|(left, curve)| left / curve.entries as f64).collect())
}

/// The lower convex envelope of the loss over the density, from the densest point down.
fn envelope(points: &[Point]) -> Vec<&Point> {
    let mut hull: Vec<&Point> = Vec::new();
    let slope = |a: &Point, b: &Point| (b.loss - a.loss) / (a.density - b.density);
    for point in points {
        while let [.., before, last] = hull[..]
            && slope(before, last) >= slope(last, point)
        {
            hull.pop();
        }
        hull.push(point);
    }
    hull
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(entries: usize, points: &[(f64, f64)]) -> Curve {
        let point = |&(density, loss): &(f64, f64)| Point { density, loss, accuracy: 0.0 };
        Curve { layer: "a".into(), entries, points: points.iter().map(point).collect() }
    }

    #[test]
    fn the_layer_that_loses_least_is_pruned_most() {
        let robust = curve(100, &[(1.0, 1.0), (0.5, 1.0), (0.1, 1.1)]);
        let fragile = curve(100, &[(1.0, 1.0), (0.5, 2.0), (0.1, 6.0)]);
        // 200 entries at 0.6: 80 go, all of the robust one.
        let close = |found: Vec<f64>, wanted: [f64; 2]| {
            assert!(found.iter().zip(wanted).all(|(f, w)| (f - w).abs() < 1e-9), "{found:?}");
        };
        close(divide(&[robust.clone(), fragile.clone()], 0.6).unwrap(), [0.2, 1.0]);
        close(divide(&[robust.clone(), fragile.clone()], 0.5).unwrap(), [0.1, 0.9]);
        close(divide(&[robust.clone(), robust.clone()], 0.1).unwrap(), [0.1, 0.1]);
        let why = divide(&[robust, fragile], 0.05).unwrap_err().to_string();
        assert!(why.contains("the least that was measured"), "{why}");
    }

    #[test]
    fn points_above_the_envelope_do_not_count() {
        let bumpy = curve(100, &[(1.0, 1.0), (0.8, 3.0), (0.5, 1.5), (0.1, 2.0)]);
        let kept: Vec<f64> = envelope(&bumpy.points).iter().map(|p| p.density).collect();
        assert_eq!(kept, [1.0, 0.5, 0.1]);
    }
}
