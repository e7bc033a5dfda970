use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// Mean and 95% interval of a small sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Arithmetic mean.
    pub mean: f64,
    /// Half width of the 95% interval by Student's t; `None` for fewer than two numbers.
    pub half_width: Option<f64>,
}

impl Summary {
    /// Ends of the interval; without one, the mean twice.
    pub fn interval(&self) -> (f64, f64) {
        let half = self.half_width.unwrap_or(0.0);
        (self.mean - half, self.mean + half)
    }
}

/// Mean and 95% interval; NaN for no numbers at all.
pub fn summarize(sample: &[f64]) -> Summary {
    let n = sample.len() as f64;
    let mean = sample.iter().sum::<f64>() / n;
    let half_width = (sample.len() > 1).then(|| {
        let variance = sample.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let t = StudentsT::new(0.0, 1.0, n - 1.0).map_or(f64::NAN, |d| d.inverse_cdf(0.975));
        t * (variance / n).sqrt()
    });
    Summary { mean, half_width }
}

/// Middle value; zero for an empty sample.
pub fn median(sample: &[f64]) -> f64 {
    let mut sorted = sample.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interval_of_three_by_hand() {
        // Mean 2, deviation 1, t(2, 0.975) = 4.302653: half width 4.302653 / sqrt(3).
        let s = summarize(&[1.0, 2.0, 3.0]);
        assert_eq!(s.mean, 2.0);
        assert!((s.half_width.unwrap() - 2.484138).abs() < 1e-5, "{s:?}");
        assert_eq!(summarize(&[5.0]).half_width, None);
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
