//! Structured sparse projection of gradients: every K steps the r rows of largest |∂L/∂W| (Euclidean) of each weight are
//! chosen, G_C = Pᵀ G with P a selection of rows; Adam keeps moments only for these rows and moves only them (algorithm 1,
//! top-r).
//!
//! Cost: optimizer state for r rows of each weight, two moments an entry and two numbers a row; the gradient is computed whole.
//!
//! Deviations: the paper's public repository holds no code, so K = 200 and r / m are choices; moments of rows that stay
//! chosen are kept, new ones begin at zero, and each row's are corrected by its own count of updates; the engine computes the
//! whole gradient before rows are taken from it. A step is Adam's whatever the run's optimizer, which updates all else.

use nnz_core::{Array, Build, Dense, Method, MethodInstance, Result, Setting, UpdateRule, above, at_least, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "grass",
    "Grass",
    "Keeps optimizer state for the rows of largest gradient alone, and moves only them until the next choice.",
)
.revised(3)
.quick("every = 40");

options! {
    /// r / m: share of the rows that are trained at a time.
    share: f64 = 0.25 => above(0.0).at_most(1.0),
    /// K: steps between two choices.
    every: u64 = 200 => at_least(1.0),
    /// β₁
    beta1: f64 = 0.9 => at_least(0.0).below(1.0),
    /// β₂
    beta2: f64 = 0.999 => at_least(0.0).below(1.0),
}


impl Build for Options {
    fn build(self, _: &Setting) -> Result<MethodInstance> {
        Ok(MethodInstance { rule: Some(Box::new(Grass(self))), ..MethodInstance::from(Dense) })
    }
}

struct Grass(Options);

const EPSILON: f64 = 1e-8;

/// The rows of largest Euclidean norm of a matrix `[rows, cols]`, ascending, ties to the first.
fn top_rows(gradient: &dyn Array, count: usize) -> Vec<usize> {
    let (rows, cols) = (gradient.dims()[0], gradient.dims()[1]);
    let norm = |r: usize| gradient.get(r * cols..(r + 1) * cols).iter().map(|g| g * g).sum();
    let norms: Vec<f64> = (0..rows).map(norm).collect();
    let mut order: Vec<usize> = (0..rows).collect();
    order.sort_by(|&a, &b| norms[b].total_cmp(&norms[a]).then(a.cmp(&b)));
    order.truncate(count);
    order.sort_unstable();
    order
}

fn whole(a: &dyn Array) -> Vec<f64> {
    a.get(0..a.dims().iter().product())
}

impl Grass {
    /// Chooses rows. Those that stay chosen keep what is remembered of them.
    fn choose(&self, gradient: &dyn Array, state: &mut [&mut dyn Array]) {
        let (height, cols) = (gradient.dims()[0], gradient.dims()[1]);
        let wanted = ((self.0.share * height as f64).round() as usize).clamp(1, height);
        let chosen = top_rows(gradient, wanted);
        let old: Vec<usize> = whole(state[0]).into_iter().map(|r| r as usize).collect();
        let (one, all) = ([wanted], [wanted, cols]);
        for (at, (slot, width)) in state.iter_mut().zip([1, 1, cols, cols]).enumerate() {
            let before = whole(*slot);
            slot.reset(if at < 2 { &one } else { &all });
            for (to, r) in chosen.iter().enumerate() {
                if let Ok(from) = old.binary_search(r) {
                    slot.set(to * width, &before[from * width..(from + 1) * width]);
                }
            }
        }
        state[0].set(0, &chosen.iter().map(|&r| r as f64).collect::<Vec<_>>());
    }
}

impl UpdateRule for Grass {
    /// Chosen rows; updates of each since it was chosen; first and second moments of their entries, `[rows, cols]`.
    fn slots(&self) -> usize {
        4
    }

    fn update(&self, weight: &mut dyn Array, gradient: &dyn Array, state: &mut [&mut dyn Array], lr: f64, count: u64) {
        let Options { every, beta1, beta2, .. } = self.0;
        if state[0].dims() == [0] || (count - 1).is_multiple_of(every) {
            self.choose(gradient, state);
        }
        let [rows, updates, first, second] = state else { panic!("Grass has four slots") };
        let (cols, chosen) = (weight.dims()[1], whole(*rows));
        for (at, r) in chosen.into_iter().enumerate() {
            let (r, here) = (r as usize * cols, at * cols..(at + 1) * cols);
            let t = updates.get(at..at + 1)[0] + 1.0;
            updates.set(at, &[t]);
            let [c1, c2] = [beta1, beta2].map(|b| 1.0 - b.powf(t));
            let (mut w, g) = (weight.get(r..r + cols), gradient.get(r..r + cols));
            let (mut m, mut v) = (first.get(here.clone()), second.get(here.clone()));
            for i in 0..cols {
                m[i] = beta1 * m[i] + (1.0 - beta1) * g[i];
                v[i] = beta2 * v[i] + (1.0 - beta2) * g[i] * g[i];
                w[i] -= lr * (m[i] / c1) / ((v[i] / c2).sqrt() + EPSILON);
            }
            weight.set(r, &w);
            first.set(here.start, &m);
            second.set(here.start, &v);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_engine::Tensor;

    /// A weight and what is remembered of it.
    struct Moved {
        rule: Grass,
        weight: Tensor<f64>,
        state: [Tensor<f64>; 4],
        count: u64,
    }

    impl Moved {
        fn new(options: Options, dims: [usize; 2], value: f64) -> Self {
            let state = std::array::from_fn(|_| Tensor::zeros(&[0]));
            Self { rule: Grass(options), weight: Tensor::full(&dims, value), state, count: 0 }
        }

        fn step(&mut self, gradient: &[f64], lr: f64) {
            self.count += 1;
            let gradient = Tensor::new(self.weight.shape(), gradient.to_vec());
            let mut state = self.state.each_mut().map(|s| s as &mut dyn Array);
            self.rule.update(&mut self.weight, &gradient, &mut state, lr, self.count);
        }
    }

    #[test]
    fn the_steepest_rows_move_and_are_remembered() {
        let mut p = Moved::new(Options { share: 0.5, every: 2, ..Options::default() }, [4, 2], 0.0);
        // Rows 1 and 3 are steepest; then row 0, which is not chosen before two steps are over.
        let first = [0.1, 0.0, 3.0, 0.0, 0.2, 0.0, 0.0, -2.0];
        let second = [9.0, 9.0, 3.0, 0.0, 0.2, 0.0, 0.0, -2.0];
        p.step(&first, 0.1);
        assert_eq!((p.state[0].data(), p.state[2].shape()), (&[1.0, 3.0][..], &[2, 2][..]));
        let w = p.weight.data();
        assert!((w[2] + 0.1).abs() < 1e-6 && (w[7] - 0.1).abs() < 1e-6, "Adam's first step is the rate: {w:?}");
        assert!([0, 1, 4, 5].iter().all(|&i| w[i] == 0.0));
        p.step(&second, 0.1);
        assert_eq!(p.state[0].data(), [1.0, 3.0]);
        let moment = p.state[2].data()[0];
        p.step(&second, 0.1);
        assert_eq!((p.state[0].data(), p.state[1].data()), (&[0.0, 1.0][..], &[1.0, 3.0][..]));
        let kept = p.state[2].data()[2];
        assert!((kept - (0.9 * moment + 0.1 * 3.0)).abs() < 1e-12, "row 1 keeps its moment");
        assert!((p.state[3].data()[0] - 0.001 * 81.0).abs() < 1e-12, "row 0 begins anew");
    }

    /// With every row chosen it is Adam, however often they are chosen again.
    #[test]
    fn all_rows_are_adam() {
        let mut p = Moved::new(Options { share: 1.0, every: 7, ..Options::default() }, [1, 1], 1.0);
        let (mut w, mut m, mut v) = (1.0f64, 0.0, 0.0);
        for t in 1..50 {
            p.step(&[2.0 * p.weight.data()[0]], 0.01);
            let g = 2.0 * w;
            (m, v) = (0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g);
            let (a, b) = (1.0 - 0.9f64.powi(t), 1.0 - 0.999f64.powi(t));
            w -= 0.01 * (m / a) / ((v / b).sqrt() + 1e-8);
            assert!((w - p.weight.data()[0]).abs() < 1e-9);
        }
    }
}
