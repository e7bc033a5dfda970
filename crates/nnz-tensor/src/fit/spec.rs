use super::{Adam, Lbfgs, Rule, Sgd};
use crate::Real;
use serde::{Deserialize, Serialize};

/// The update rules that recipes and files name, with constants; [`Rule`] is open. Weight decay is added to the gradient, except in AdamW, and spares biases.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum OptimizerSpec {
    /// v ← μ v + g; w ← w - η v, or w - η (g + μ v) with Nesterov's momentum.
    Sgd {
        /// η
        lr: f64,
        /// μ
        momentum: f64,
        /// Nesterov's form.
        nesterov: bool,
        /// λ of g + λ w.
        weight_decay: f64,
    },
    /// Kingma & Ba (arXiv:1412.6980), algorithm 1.
    Adam {
        /// η
        lr: f64,
        /// β₁
        beta1: f64,
        /// β₂
        beta2: f64,
        /// ε
        epsilon: f64,
        /// λ of g + λ w.
        weight_decay: f64,
    },
    /// Adam with decoupled decay w ← w - η λ w (Loshchilov & Hutter 2017, arXiv:1711.05101, algorithm 2).
    #[serde(rename = "adamw")]
    AdamW {
        /// η
        lr: f64,
        /// β₁
        beta1: f64,
        /// β₂
        beta2: f64,
        /// ε
        epsilon: f64,
        /// λ
        weight_decay: f64,
    },
    /// Limited-memory BFGS (Liu & Nocedal 1989): one iteration with its line search on the loss of each batch, so that it
    /// makes sense if a batch is all of the data, or most of it. Takes no learning rate and no schedule.
    Lbfgs {
        /// Stored steps; each takes two vectors of state.
        memory: usize,
        /// λ of ½ λ |w|² added to the loss.
        weight_decay: f64,
    },
}

impl OptimizerSpec {
    /// SGD with momentum 0.9.
    pub fn sgd(lr: f64) -> Self {
        Self::Sgd { lr, momentum: 0.9, nesterov: true, weight_decay: 1e-4 }
    }

    /// Adam with the paper's constants.
    pub fn adam(lr: f64) -> Self {
        Self::Adam { lr, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }

    /// AdamW with a decay of 0.01.
    pub fn adamw(lr: f64) -> Self {
        Self::AdamW { lr, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 }
    }

    /// L-BFGS that stores ten steps.
    pub fn lbfgs() -> Self {
        Self::Lbfgs { memory: 10, weight_decay: 0.0 }
    }

    /// The learning rate before any schedule.
    pub fn lr(&self) -> f64 {
        match *self {
            Self::Sgd { lr, .. } | Self::Adam { lr, .. } | Self::AdamW { lr, .. } => lr,
            Self::Lbfgs { .. } => 1.0,
        }
    }

    /// The same rule at another learning rate; one that searches its step keeps its own.
    #[must_use]
    pub fn at_rate(mut self, rate: f64) -> Self {
        match &mut self {
            Self::Sgd { lr, .. } | Self::Adam { lr, .. } | Self::AdamW { lr, .. } => *lr = rate,
            Self::Lbfgs { .. } => {}
        }
        self
    }

    /// Vectors of state per parameter.
    pub fn slots(&self) -> usize {
        match self {
            Self::Sgd { momentum: 0.0, .. } => 0,
            Self::Sgd { .. } => 1,
            Self::Adam { .. } | Self::AdamW { .. } => 2,
            Self::Lbfgs { memory, .. } => memory.saturating_mul(2),
        }
    }

    /// Builds the rule.
    pub fn rule<T: Real>(self) -> Box<dyn Rule<T>> {
        match self {
            Self::Sgd { lr, momentum, nesterov, weight_decay } => {
                Box::new(Sgd { lr, momentum, nesterov, weight_decay })
            }
            Self::Adam { lr, beta1, beta2, epsilon, weight_decay } => {
                Box::new(Adam { lr, beta1, beta2, epsilon, weight_decay, decoupled: false, lazy: false })
            }
            Self::AdamW { lr, beta1, beta2, epsilon, weight_decay } => {
                Box::new(Adam { lr, beta1, beta2, epsilon, weight_decay, decoupled: true, lazy: false })
            }
            Self::Lbfgs { memory, weight_decay } => Box::new(Lbfgs { memory, weight_decay }),
        }
    }
}
