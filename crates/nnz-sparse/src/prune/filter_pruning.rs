//! Removes whole filters, or neurons, with small weights, and everything computed from them: the tensors shrink, and so does
//! the time. A unit is ranked by the norm of the weights that make it; units that must stay together (both branches of a
//! residual block, a filter and its normalization) are one.
//!
//! Cost: one ranking of the units; afterwards time and memory are those of the smaller network.
//!
//! Deviations: the Euclidean norm over all tensors that make a unit instead of the sum of absolute values of one filter
//! (the paper finds both alike); the stream of residual blocks is pruned too, which the paper leaves whole.

use nnz_core::{Budget, Build, DistributionKind, TargetKind, Magnitude, Method, Once, Result, Setting, MethodInstance, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "filter-pruning",
    "Filter pruning",
    "Removes the filters and neurons with the smallest weights, so that the network becomes smaller and faster as it is.",
);

options! {
    #[flatten]
    /// Density of units, and when it is reached.
    once: Once = Once::halfway(Budget { of: TargetKind::Units, ..Budget::new(0.5, DistributionKind::Uniform) }),
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        Ok(self.once.prune(Magnitude, setting).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::Period;
    use nnz_engine::{Model, ModelSpec, Storage, Tensor, axes, prune};

    #[test]
    fn half_of_a_resnet_is_gone_with_its_weakest_filters() {
        let spec = ModelSpec::parse("resnet20", [3, 16, 16], 10).unwrap();
        let mut model: Model<f32> = Model::born(&spec, None, Storage::Auto, false, 0).unwrap();
        // Filter 3 of an inner convolution is by far the weakest, filter 5 the strongest.
        let conv = model.params.iter().position(|p| p.shape.name == "stage2.1.conv1.weight").unwrap();
        let cols = model.params[conv].shape.cols;
        let weights = model.params[conv].value.data_mut();
        weights[3 * cols..4 * cols].iter_mut().for_each(|w| *w *= 1e-3);
        weights[5 * cols..6 * cols].iter_mut().for_each(|w| *w *= 1e3);
        let setting = Setting { seed: 0, steps: 0, steps_per_epoch: 1 };
        let mut work = Options { once: Once { at: Period::Steps(0), ..Options::default().once } }.build(&setting).unwrap();
        let units = |m: &Model<f32>| axes(&m.spec).iter().map(|a| a.units).collect::<Vec<_>>();
        let before = units(&model);
        prune(&mut model, &mut work, None, Storage::Auto).unwrap();
        assert_eq!(units(&model), before.iter().map(|u| u / 2).collect::<Vec<_>>());
        model.spec.check(10).unwrap();
        let left = &model.params[conv];
        assert_eq!((left.shape.rows, left.shape.cols), (16, cols / 2));
        let norm = |row: &[f32]| row.iter().map(|w| w * w).sum::<f32>().sqrt();
        let norms: Vec<f32> = left.value.data().chunks(left.shape.cols).map(norm).collect();
        assert!(norms.iter().all(|n| *n > 0.1) && norms.iter().any(|n| *n > 100.0), "{norms:?}");
        assert_eq!(model.infer(Tensor::zeros(&[2, 3 * 256])).unwrap().shape(), [2, 10]);
        assert!(model.nonzeros() * 3 < spec.entries(), "{} of {}", model.nonzeros(), spec.entries());
    }
}
