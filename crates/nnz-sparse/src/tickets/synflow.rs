//! Prunes before training and without data, so that the flow through the network survives: for R = Σ f(1; |θ|) the score
//! is ∂R/∂|θ| ⊙ |θ| (eq. 2). In round k of n the density falls to ρ^(k/n) and scores are recomputed (algorithm 1), one
//! threshold for the whole network.
//!
//! Cost: n passes through the dense network in 64 bits before training; no data.
//!
//! Deviations: scores are divided by R, which does not change the order; the flow is computed in 64 bits.

use nnz_core::{Budget, Build, Criterion, DistributionKind, Method, OneShot, Result, Rng, Setting, Signals, Target, MethodInstance, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "synflow",
    "SynFlow",
    "Prunes in a hundred rounds before training, without data, by each weight's share of the flow.",
)
.quick("rounds = 5");

options! {
    #[flatten]
    /// Density and its distribution.
    budget: Budget = Budget::new(0.05, DistributionKind::Global),
    /// Rounds n.
    rounds: u32 = 100,
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        let mut prune = self.budget.prune(Flow, OneShot { at: 0, density: self.budget.density }, setting);
        prune.rounds = self.rounds.max(1);
        Ok(prune.into())
    }
}

struct Flow;

impl Criterion for Flow {
    fn needs(&self) -> Signals {
        Signals { synaptic_flow: true, ..Signals::NONE }
    }

    fn score(&self, target: &Target, _: &mut Rng) -> Vec<f32> {
        target.synaptic_flow.iter().zip(target.values).map(|(f, w)| f * w.abs()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_engine::{Model, ModelSpec, Storage, Tensor, prune};

    /// Two inputs, two hidden units, one output: R = Σ_h |v_h| Σ_i |w_hi|, so a weight's score is the flow through it.
    #[test]
    fn a_path_that_leads_nowhere_goes_and_layers_conserve_the_flow() {
        let spec = ModelSpec::parse("mlp:2-2-1", [1, 1, 2], 1).unwrap();
        let mut model: Model<f64> = Model::born(&spec, None, Storage::Auto, true, 0).unwrap();
        // Hidden unit 0 has the large weights but is hardly read.
        model.params[0].value = Tensor::new(&[2, 2], vec![5.0, -4.0, 0.5, 0.4]);
        model.params[2].value = Tensor::new(&[1, 2], vec![0.01, -2.0]);
        let setting = Setting { seed: 0, steps: 0, steps_per_epoch: 1 };
        let options = Options { budget: Budget::new(0.5, DistributionKind::Global), rounds: 10 };
        let mut work = options.build(&setting).unwrap();
        assert_eq!(work.sparsifier.rounds(0), 10);
        prune(&mut model, &mut work, None, Storage::Auto).unwrap();
        assert_eq!(model.params[0].topology().positions().collect::<Vec<_>>(), [2, 3]);
        assert_eq!(model.params[2].topology().positions().collect::<Vec<_>>(), [1]);
    }
}
