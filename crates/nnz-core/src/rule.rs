use std::ops::Range;

/// An array of the run's own numbers, f32 or f64, row-major. What is computed in 64 bits is rounded when it is written.
pub trait Array {
    /// Extents.
    fn dims(&self) -> &[usize];

    /// A copy of some entries in 64 bits.
    ///
    /// # Panics
    /// When the range leaves the array.
    fn get(&self, range: Range<usize>) -> Vec<f64>;

    /// Writes entries from `at` on.
    ///
    /// # Panics
    /// When they leave the array.
    fn set(&mut self, at: usize, values: &[f64]);

    /// Becomes an array of zeros of other extents.
    fn reset(&mut self, dims: &[usize]);
}

/// An update rule that a method brings for the weights it may change; everything else is moved by the optimizer of the run.
///
/// One object serves every weight, so it holds constants. What it remembers of a weight is a list of arrays beside it, in the
/// number type of the run: they count as optimizer state, and are saved and read again as they are.
pub trait UpdateRule: Send + Sync {
    /// Arrays that it remembers of a weight. They begin without entries.
    fn slots(&self) -> usize;

    /// One update of a weight, `[rows, cols]`, from its gradient, at learning rate `lr`; `count` counts updates from 1.
    fn update(&self, weight: &mut dyn Array, gradient: &dyn Array, state: &mut [&mut dyn Array], lr: f64, count: u64);
}
