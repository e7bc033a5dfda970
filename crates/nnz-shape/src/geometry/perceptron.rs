//! Perceptrons as plain matrices, for comparing two minima unit by unit.

use nnz_core::{Error, Result};
use nnz_engine::{Preprocessing, LayerSpec, Layout, Model, ModelSpec};

/// The weights of a layer, one row per output, and its biases.
pub type Layer = (Vec<Vec<f64>>, Vec<f64>);

/// Weights `[out][in]` and biases of a perceptron in 64 bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Perceptron {
    /// Layer by layer.
    pub layers: Vec<Layer>,
}

/// For every hidden layer, the unit at each place.
pub type Orders = Vec<Vec<usize>>;

impl Perceptron {
    /// Converts a network of linear layers with biases.
    ///
    /// # Errors
    /// When it has other layers.
    pub fn of(model: &Model<f32>) -> Result<Self> {
        let plain = |l: &LayerSpec| {
            matches!(l, LayerSpec::Linear(_) | LayerSpec::Relu(_) | LayerSpec::Activation(_) | LayerSpec::Flatten(_))
        };
        let pairs = model.params.chunks(2);
        if !model.spec.layers.iter().all(plain) || !pairs.clone().all(|p| p.len() == 2 && p[0].weight() && !p[1].weight()) {
            let name = &model.spec.name;
            return Err(Error::Refused(format!("{name} is no perceptron of linear layers with biases, whose units can be matched")));
        }
        let layer = |p: &[nnz_engine::Param<f32>]| {
            let cols = p[0].shape.cols;
            let mut rows = vec![vec![0.0; cols]; p[0].shape.rows];
            let entries = p[0].by_rows();
            let values = entries.of(&p[0].value);
            entries.topology.positions().zip(values).for_each(|(at, v)| rows[at as usize / cols][at as usize % cols] = f64::from(v));
            (rows, p[1].value.data().iter().map(|v| f64::from(*v)).collect())
        };
        Ok(Self { layers: pairs.map(layer).collect() })
    }

    /// Converts back to a network, every entry stored.
    pub fn model(&self, spec: &ModelSpec) -> Model<f32> {
        let mut model = Model::born(spec, None, nnz_engine::Storage::Dense, false, 0).unwrap_or_else(|e| unreachable!("a network of the same spec: {e}"));
        for ((weight, bias), p) in self.layers.iter().zip(model.params.chunks_mut(2)) {
            debug_assert_eq!(p[0].layout, Layout::Dense);
            p[0].value.data_mut().iter_mut().zip(weight.iter().flatten()).for_each(|(to, v)| *to = *v as f32);
            p[1].value.data_mut().iter_mut().zip(bias).for_each(|(to, v)| *to = *v as f32);
        }
        model
    }

    /// The same function of inputs with the normalization of `to`.
    pub fn framed(mut self, own: &Preprocessing, to: &Preprocessing) -> Result<Self> {
        let (own, to) = (own.normalization, to.normalization);
        if own.channels.is_some() || to.channels.is_some() || own.tokens || to.tokens {
            return match own == to {
                true => Ok(self),
                false => Err(Error::Refused("the two networks normalize channels differently".into())),
            };
        }
        let (scale, shift) = (f64::from(to.std / own.std), f64::from((to.mean - own.mean) / own.std));
        let (weight, bias) = &mut self.layers[0];
        for (row, b) in weight.iter_mut().zip(bias) {
            *b += shift * row.iter().sum::<f64>();
            row.iter_mut().for_each(|w| *w *= scale);
        }
        Ok(self)
    }

    fn extents(&self) -> Vec<[usize; 2]> {
        self.layers.iter().map(|(w, _)| [w.len(), w.first().map_or(0, Vec::len)]).collect()
    }

    /// Refuses a perceptron of other widths.
    ///
    /// # Errors
    /// When they differ.
    pub fn fits(&self, other: &Self) -> Result<()> {
        match self.extents() == other.extents() {
            true => Ok(()),
            false => Err(Error::Refused(format!("layers of {:?} and {:?} cannot be matched", self.extents(), other.extents()))),
        }
    }

    /// The identity permutations.
    pub fn identity(&self) -> Orders {
        self.layers[..self.layers.len() - 1].iter().map(|(w, _)| (0..w.len()).collect()).collect()
    }

    /// Moves unit `p[i]` of a hidden layer to place i.
    pub fn permuted(&self, orders: &Orders) -> Self {
        let mut layers = self.layers.clone();
        for (l, p) in orders.iter().enumerate() {
            let (weight, bias) = &self.layers[l];
            layers[l] = (p.iter().map(|&u| weight[u].clone()).collect(), p.iter().map(|&u| bias[u]).collect());
        }
        for (l, p) in orders.iter().enumerate() {
            layers[l + 1].0.iter_mut().for_each(|row| *row = p.iter().map(|&u| row[u]).collect());
        }
        Self { layers }
    }

    /// Interpolates: (1 - share) of this and share of the other.
    pub fn towards(&self, other: &Self, share: f64) -> Self {
        let mix = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (1.0 - share) * x + share * y).collect::<Vec<f64>>();
        let layer = |(a, b): (&Layer, &Layer)| {
            (a.0.iter().zip(&b.0).map(|(x, y)| mix(x, y)).collect(), mix(&a.1, &b.1))
        };
        Self { layers: self.layers.iter().zip(&other.layers).map(layer).collect() }
    }

    /// Euclidean distance of all weights and biases.
    pub fn distance(&self, other: &Self) -> f64 {
        let all = |p: &Self| p.layers.iter().flat_map(|(w, b)| w.iter().flatten().chain(b).copied().collect::<Vec<_>>()).collect::<Vec<f64>>();
        all(self).iter().zip(all(other)).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use nnz_core::Rng;

    pub fn random(seed: u64, widths: &[usize]) -> Perceptron {
        let mut rng = Rng::stream(seed, "weights", 0, 0);
        let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| rng.normal()).collect() };
        let layers = widths.windows(2).map(|w| ((0..w[1]).map(|_| draw(w[0])).collect(), draw(w[1]))).collect();
        Perceptron { layers }
    }

    #[test]
    fn another_normalization_goes_into_the_first_layer() {
        let frame = |mean, std| Preprocessing::classes(nnz_engine::data::Normalization::new(mean, std));
        let a = random(4, &[2, 3, 1]);
        let b = a.clone().framed(&frame(0.5, 2.0), &frame(0.25, 0.5)).unwrap();
        // The raw input (1, -1) is (0.25, -0.75) to the one and (1.5, -2.5) to the other.
        let before = |p: &Perceptron, x: [f64; 2]| p.layers[0].0[0][0] * x[0] + p.layers[0].0[0][1] * x[1] + p.layers[0].1[0];
        assert!((before(&a, [0.25, -0.75]) - before(&b, [1.5, -2.5])).abs() < 1e-12);
    }
}
