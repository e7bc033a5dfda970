use crate::{Gradient, Real, Result, Tensor};

/// One parameter as an update rule sees it.
pub struct Slot<'a, T> {
    /// The values.
    pub value: &'a mut Tensor<T>,
    /// The rule's state for it, as made by [`Rule::state`].
    pub state: &'a mut [Tensor<T>],
    /// Whether weight decay applies.
    pub decays: bool,
}

/// Learning rate and index of an update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct At {
    /// The learning rate of this update.
    pub lr: f64,
    /// Updates since the state was zero, this one included.
    pub count: u64,
}

/// Computes the loss of a step and its gradients at other values of its parameters.
pub type Loss<'l, T> = dyn FnMut(&[Tensor<T>]) -> Result<(f64, Vec<Tensor<T>>)> + 'l;

/// An update rule. It holds its constants; its state for a parameter is a list of tensors kept with it, so that it can be
/// saved, cut with a parameter's units, and counted.
pub trait Rule<T: Real>: Send + Sync {
    /// The learning rate before any schedule.
    fn lr(&self) -> f64;

    /// Initial state of a parameter of `shape`. A tensor of that shape has the layout of the values and moves with them
    /// when connections change.
    fn state(&self, shape: &[usize]) -> Vec<Tensor<T>>;

    /// Updates one parameter. A gradient of some rows may be applied to those alone if that gives the result of the
    /// dense gradient.
    fn update(&self, slot: Slot<'_, T>, gradient: &Gradient<T>, at: At);

    /// Updates all parameters, given the loss `value` and its `gradients`; a rule that searches asks
    /// for both at other values.
    ///
    /// # Errors
    /// Those of `loss`.
    fn step(
        &self,
        slots: Vec<Slot<'_, T>>,
        _value: f64,
        gradients: &[Gradient<T>],
        at: At,
        _loss: &mut Loss<'_, T>,
    ) -> Result<()> {
        slots.into_iter().zip(gradients).for_each(|(slot, gradient)| self.update(slot, gradient, at));
        Ok(())
    }

    /// The running mean gradient: momentum, or Adam's first moment over the root of its second; `None` if the state
    /// has neither.
    fn direction(&self, _state: &[Tensor<T>]) -> Option<Tensor<T>> {
        None
    }
}

impl<T: Real, R: Rule<T> + ?Sized> Rule<T> for Box<R> {
    fn lr(&self) -> f64 {
        (**self).lr()
    }

    fn state(&self, shape: &[usize]) -> Vec<Tensor<T>> {
        (**self).state(shape)
    }

    fn update(&self, slot: Slot<'_, T>, gradient: &Gradient<T>, at: At) {
        (**self).update(slot, gradient, at);
    }

    fn step(
        &self,
        slots: Vec<Slot<'_, T>>,
        value: f64,
        gradients: &[Gradient<T>],
        at: At,
        loss: &mut Loss<'_, T>,
    ) -> Result<()> {
        (**self).step(slots, value, gradients, at, loss)
    }

    fn direction(&self, state: &[Tensor<T>]) -> Option<Tensor<T>> {
        (**self).direction(state)
    }
}

/// Returns the same closure: an attribute may stand on an argument, not on a binding.
pub(super) fn formula<F>(f: F) -> F {
    f
}

/// Updates the rows that a gradient has, calling `one` with each row's values, slots of state and gradient.
pub(super) fn each_row<T: Real, const K: usize>(
    rows: &[u32],
    values: &Tensor<T>,
    vectors: [&mut [T]; K],
    one: impl Fn([&mut [T]; K], &[T]),
) {
    let width = values.len().checked_div(rows.len()).unwrap_or(0);
    let mut vectors = vectors;
    for (&row, g) in rows.iter().zip(values.data().chunks_exact(width.max(1))) {
        let mut each = vectors.iter_mut().map(|v| &mut v[row as usize * width..][..width]);
        one(std::array::from_fn(|_| each.next().expect("one of each vector")), g);
    }
}

/// As [`clip_by_norm`], wherever the gradients lie.
pub fn clip_all<'g, T: Real>(gradients: impl Iterator<Item = &'g mut Tensor<T>>, limit: f64) -> f64 {
    let mut all: Vec<&mut Tensor<T>> = gradients.collect();
    let square = |t: &Tensor<T>| t.data().iter().map(|g| g.f64().powi(2)).sum::<f64>();
    let norm = all.iter().map(|t| square(t)).sum::<f64>().sqrt();
    if norm > limit {
        let factor = T::of(limit / norm);
        all.iter_mut().for_each(|t| t.data_mut().iter_mut().for_each(|g| *g *= factor));
    }
    norm
}

/// Scales gradients down so that their common Euclidean norm is at most `limit` (Pascanu et al. 2013, arXiv:1211.5063).
/// Returns the norm before clipping.
pub fn clip_by_norm<T: Real>(gradients: &mut [Tensor<T>], limit: f64) -> f64 {
    clip_all(gradients.iter_mut(), limit)
}

/// [`clip_by_norm`] for gradients of which some are of rows.
pub fn clip_gradients<T: Real>(gradients: &mut [Gradient<T>], limit: f64) -> f64 {
    clip_all(gradients.iter_mut().map(Gradient::values_mut), limit)
}
