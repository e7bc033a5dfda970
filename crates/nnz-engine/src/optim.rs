use crate::Real;
use crate::{Param, Tensor};
use nnz_kernels::elementwise::step;
use serde::{Deserialize, Serialize};

/// An update rule and its constants. Weight decay is added to the gradient, but in AdamW, and leaves biases alone.
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
    /// makes sense where a batch is the whole data, or most of it. Takes no learning rate and no schedule.
    Lbfgs {
        /// Steps remembered; each takes two vectors of state.
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

    /// L-BFGS that remembers ten steps.
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

    /// Vectors of state for each parameter.
    pub fn slots(&self) -> usize {
        match self {
            Self::Sgd { momentum: 0.0, .. } => 0,
            Self::Sgd { .. } => 1,
            Self::Adam { .. } | Self::AdamW { .. } => 2,
            Self::Lbfgs { memory, .. } => memory.saturating_mul(2),
        }
    }
}

/// How the learning rate moves over a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LrSchedule {
    /// Stays.
    Constant,
    /// Half a cosine from the full rate to zero.
    #[default]
    Cosine,
    /// A tenth of it from half of the run on, a hundredth from three quarters on.
    Step,
}

impl LrSchedule {
    /// The factor at `step` of `steps`; it rises from zero over the first share `warmup` of them.
    pub fn factor(self, step: u64, steps: u64, warmup: f64) -> f64 {
        let t = step as f64 / steps.max(1) as f64;
        let warm = if t < warmup { (step + 1) as f64 / (warmup * steps as f64).max(1.0) } else { 1.0 };
        warm.min(1.0) * self.shape(t)
    }

    fn shape(self, t: f64) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * t).cos()),
            Self::Step if t < 0.5 => 1.0,
            Self::Step if t < 0.75 => 0.1,
            Self::Step => 0.01,
        }
    }
}

/// An update rule with its state: for each parameter `slots` tensors that lie as its values do.
#[derive(Clone, Debug)]
pub struct Optimizer<T> {
    /// The rule.
    pub spec: OptimizerSpec,
    /// `state[parameter][slot]`
    pub state: Vec<Vec<Tensor<T>>>,
}

impl<T: Real> Optimizer<T> {
    /// Zero state.
    pub fn new(spec: OptimizerSpec, params: &[Param<T>]) -> Self {
        let zeros = |p: &Param<T>| (0..spec.slots()).map(|_| Tensor::zeros(p.value.shape())).collect();
        Self { spec, state: params.iter().map(zeros).collect() }
    }

    /// What is kept as mean gradient of parameter `index`: momentum, or Adam's first moment over the root of its second; none
    /// where nothing of the kind is.
    pub fn direction(&self, index: usize) -> Option<Tensor<T>> {
        let slots = &self.state[index];
        match (self.spec, &slots[..]) {
            (OptimizerSpec::Sgd { .. }, [v, ..]) => Some(v.clone()),
            (OptimizerSpec::Adam { epsilon, .. } | OptimizerSpec::AdamW { epsilon, .. }, [m, v, ..]) => {
                let mut ratio = m.clone();
                let over = |(m, &v): (&mut T, &T)| *m /= v.sqrt() + T::of(epsilon);
                ratio.data_mut().iter_mut().zip(v.data()).for_each(over);
                Some(ratio)
            }
            _ => None,
        }
    }

    /// One update of parameter `index` at learning rate `lr`; `count` counts updates from 1. O(values of the parameter).
    pub fn update(&mut self, index: usize, param: &mut Param<T>, gradient: &Tensor<T>, lr: f64, count: u64) {
        if !param.role.trained() {
            return;
        }
        let decays = if param.weight() { 1.0 } else { 0.0 };
        let (w, g) = (param.value.data_mut(), gradient.data());
        let t = T::of;
        let mut slots = self.state[index].iter_mut().map(Tensor::data_mut);
        match (self.spec, slots.next(), slots.next()) {
            (OptimizerSpec::Sgd { momentum, nesterov, weight_decay, .. }, v, _) => {
                let (lr, mu, decay) = (t(lr), t(momentum), t(weight_decay * decays));
                match v {
                    None => step(
                        [w],
                        g,
                        #[inline(always)]
                        move |[w], g| [w - lr * (g + decay * w)],
                    ),
                    Some(v) if nesterov => step(
                        [w, v],
                        g,
                        #[inline(always)]
                        move |[w, v], g| {
                            let g = g + decay * w;
                            let v = mu * v + g;
                            [w - lr * (g + mu * v), v]
                        },
                    ),
                    Some(v) => step(
                        [w, v],
                        g,
                        #[inline(always)]
                        move |[w, v], g| {
                            let v = mu * v + (g + decay * w);
                            [w - lr * v, v]
                        },
                    ),
                }
            }
            // The trainer's, which can ask for the loss at other values.
            (OptimizerSpec::Lbfgs { .. }, ..) => {}
            (
                OptimizerSpec::Adam { beta1, beta2, epsilon, weight_decay, .. }
                | OptimizerSpec::AdamW { beta1, beta2, epsilon, weight_decay, .. },
                Some(m),
                Some(v),
            ) => {
                let apart = matches!(self.spec, OptimizerSpec::AdamW { .. });
                let (b1, b2) = (t(beta1), t(beta2));
                let decay = t(if apart { 0.0 } else { weight_decay * decays });
                let keep = t(if apart { 1.0 - lr * weight_decay * decays } else { 1.0 });
                let (c1, c2) = (t(1.0 - beta1), t(1.0 - beta2));
                let correct = |beta: f64| 1.0 - beta.powi(count.min(i32::MAX as u64) as i32);
                let (rate, root) = (t(lr / correct(beta1)), t(1.0 / correct(beta2).sqrt()));
                let epsilon = t(epsilon);
                step(
                    [w, m, v],
                    g,
                    #[inline(always)]
                    move |[w, m, v], g| {
                        let g = g + decay * w;
                        let (m, v) = (b1 * m + c1 * g, b2 * v + c2 * g * g);
                        [keep * w - rate * m / (v.sqrt() * root + epsilon), m, v]
                    },
                );
            }
            _ => unreachable!("Adam has two slots"),
        }
    }

    /// Bytes of state.
    pub fn bytes(&self) -> usize {
        self.state.iter().flatten().map(|s| s.len() * size_of::<T>()).sum()
    }
}

/// Scales gradients down so that their common Euclidean norm is at most `limit` (Pascanu et al. 2013, arXiv:1211.5063).
/// Returns the norm before.
pub fn clip_by_norm<T: Real>(gradients: &mut [Tensor<T>], limit: f64) -> f64 {
    let square = |t: &Tensor<T>| t.data().iter().map(|g| g.f64().powi(2)).sum::<f64>();
    let norm = gradients.iter().map(square).sum::<f64>().sqrt();
    if norm > limit {
        let factor = T::of(limit / norm);
        gradients.iter_mut().for_each(|t| t.data_mut().iter_mut().for_each(|g| *g *= factor));
    }
    norm
}

/// An exponential moving average of values: a ← d a + (1 - d) w.
#[derive(Clone, Debug, PartialEq)]
pub struct Average<T>(Vec<Tensor<T>>);

impl<T: Real> Average<T> {
    /// Starts at the values of `params`.
    pub fn new(params: &[Param<T>]) -> Self {
        Self(params.iter().map(|p| p.value.clone()).collect())
    }

    /// Moves towards the values of `params`, which lie as those it was made of.
    pub fn update(&mut self, params: &[Param<T>], decay: f64) {
        let (keep, take) = (T::of(decay), T::of(1.0 - decay));
        for (a, p) in self.0.iter_mut().zip(params) {
            a.data_mut().iter_mut().zip(p.value.data()).for_each(|(a, &w)| *a = keep * *a + take * w);
        }
    }

    /// Puts the values of `params` in the place of some averages.
    pub(crate) fn splice(&mut self, at: std::ops::Range<usize>, params: &[Param<T>]) {
        self.0.splice(at, params.iter().map(|p| p.value.clone()));
    }

    /// The averages, in the order of the parameters.
    pub fn values(&self) -> &[Tensor<T>] {
        &self.0
    }

    /// The averages, to write.
    pub fn values_mut(&mut self) -> &mut [Tensor<T>] {
        &mut self.0
    }
}
