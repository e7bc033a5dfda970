use super::rule::{At, Rule, Slot, each_row, formula};
use crate::{Gradient, Real, Tensor};
use nnz_kernels::elementwise::step;

/// Adam (Kingma & Ba, arXiv:1412.6980, algorithm 1), or AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101, algorithm 2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// η
    pub lr: f64,
    /// β₁
    pub beta1: f64,
    /// β₂
    pub beta2: f64,
    /// ε
    pub epsilon: f64,
    /// λ of g + λ w, or of w - η λ w if the decay is decoupled.
    pub weight_decay: f64,
    /// Whether the decay is decoupled from the gradient (AdamW).
    pub decoupled: bool,
    /// Whether a gradient of rows updates only those rows and their moments, as if the others had no step: a different rule
    /// from Adam, in which an unused row keeps moving with its momentum.
    pub lazy: bool,
}

impl Adam {
    /// Adam with the paper's constants and no decay.
    pub fn new(lr: f64) -> Self {
        Self { lr, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, decoupled: false, lazy: false }
    }
}

impl<T: Real> Rule<T> for Adam {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn state(&self, shape: &[usize]) -> Vec<Tensor<T>> {
        vec![Tensor::zeros(shape); 2]
    }

    fn update(&self, slot: Slot<'_, T>, gradient: &Gradient<T>, At { lr, count }: At) {
        let t = T::of;
        let decays = if slot.decays { 1.0 } else { 0.0 };
        let (b1, b2) = (t(self.beta1), t(self.beta2));
        let decay = t(if self.decoupled { 0.0 } else { self.weight_decay * decays });
        let keep = t(if self.decoupled { 1.0 - lr * self.weight_decay * decays } else { 1.0 });
        let (c1, c2) = (t(1.0 - self.beta1), t(1.0 - self.beta2));
        let correct = |beta: f64| 1.0 - beta.powi(count.min(i32::MAX as u64) as i32);
        let (rate, root) = (t(lr / correct(self.beta1)), t(1.0 / correct(self.beta2).sqrt()));
        let epsilon = t(self.epsilon);
        let one = formula(
            #[inline(always)]
            move |[w, m, v]: [T; 3], g: T| {
                let g = g + decay * w;
                let (m, v) = (b1 * m + c1 * g, b2 * v + c2 * g * g);
                [keep * w - rate * m / (v.sqrt() * root + epsilon), m, v]
            },
        );
        let [m, v] = slot.state else { panic!("Adam has two slots") };
        let all = [slot.value.data_mut(), m.data_mut(), v.data_mut()];
        match gradient {
            Gradient::Rows { rows, values } if self.lazy => each_row(rows, values, all, |all, g| step(all, g, one)),
            Gradient::Rows { rows, values } => {
                // Unused rows have a zero gradient.
                let mut dense = Tensor::zeros(&[all[0].len()]);
                let width = values.len().checked_div(rows.len()).unwrap_or(0);
                for (&row, g) in rows.iter().zip(values.data().chunks_exact(width.max(1))) {
                    dense.data_mut()[row as usize * width..][..width].copy_from_slice(g);
                }
                step(all, dense.data(), one);
            }
            Gradient::Dense(g) => step(all, g.data(), one),
        }
    }

    fn direction(&self, state: &[Tensor<T>]) -> Option<Tensor<T>> {
        let [m, v] = state else { return None };
        let mut ratio = m.clone();
        let over = |(m, &v): (&mut T, &T)| *m /= v.sqrt() + T::of(self.epsilon);
        ratio.data_mut().iter_mut().zip(v.data()).for_each(over);
        Some(ratio)
    }
}
