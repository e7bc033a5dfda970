//! Mean and deviation of a column.

/// Welford's running mean and sum of squared deviations: no cancellation, whatever the offset of a column.
#[derive(Clone, Copy, Default)]
pub(super) struct Moments {
    pub count: usize,
    pub mean: f64,
    square: f64,
}

impl Moments {
    pub fn add(&mut self, x: f64) {
        self.count += 1;
        let off = x - self.mean;
        self.mean += off / self.count as f64;
        self.square += off * (x - self.mean);
    }

    /// `[mean, std]`; the deviation of a constant column is 1.
    pub fn scale(&self) -> [f64; 2] {
        let deviation = (self.square / self.count.max(1) as f64).sqrt();
        [self.mean, if deviation > 0.0 { deviation } else { 1.0 }]
    }
}

/// The input of a number, in the range of f32.
pub(super) fn scaled(x: f64, [mean, std]: [f64; 2]) -> f32 {
    ((x - mean) / std).clamp(f32::MIN.into(), f32::MAX.into()) as f32
}
