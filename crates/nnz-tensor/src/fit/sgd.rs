use super::rule::{At, Rule, Slot, each_row, formula};
use crate::{Gradient, Real, Tensor};
use nnz_kernels::elementwise::step;

/// v ← μ v + g; w ← w - η v, or w - η (g + μ v) with Nesterov's momentum, with g + λ w in place of g.
///
/// Without momentum and decay, a gradient of rows touches only those rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// η
    pub lr: f64,
    /// μ; no state if zero.
    pub momentum: f64,
    /// Nesterov's form.
    pub nesterov: bool,
    /// λ
    pub weight_decay: f64,
}

impl<T: Real> Rule<T> for Sgd {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn state(&self, shape: &[usize]) -> Vec<Tensor<T>> {
        if self.momentum == 0.0 { Vec::new() } else { vec![Tensor::zeros(shape)] }
    }

    fn update(&self, slot: Slot<'_, T>, gradient: &Gradient<T>, at: At) {
        let (lr, mu) = (T::of(at.lr), T::of(self.momentum));
        let decay = T::of(if slot.decays { self.weight_decay } else { 0.0 });
        let plain = formula(
            #[inline(always)]
            move |[w]: [T; 1], g: T| [w - lr * (g + decay * w)],
        );
        if let (Gradient::Rows { rows, values }, true) = (gradient, slot.state.is_empty() && decay == T::ZERO) {
            return each_row(rows, values, [slot.value.data_mut()], |w, g| step(w, g, plain));
        }
        let all = gradient.clone().dense(slot.value.shape());
        let (w, g) = (slot.value.data_mut(), all.data());
        match slot.state.first_mut().map(Tensor::data_mut) {
            None => step([w], g, plain),
            Some(v) if self.nesterov => step(
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

    fn direction(&self, state: &[Tensor<T>]) -> Option<Tensor<T>> {
        state.first().cloned()
    }
}
