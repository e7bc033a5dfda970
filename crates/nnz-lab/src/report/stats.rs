//! Statistics over seeds: means over epochs and the paired difference of two arms.

use crate::run::record::{ArmRecord, EpochRecord};

/// Mean of the finite values; `None` if there is none.
pub(super) fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.into_iter().filter(|v| v.is_finite()).fold((0.0, 0u32), |(s, n), v| (s + v, n + 1));
    (n > 0).then(|| sum / f64::from(n))
}

/// `(epoch, mean over the seeds that reached it)` of one quantity, epochs ascending.
pub(super) fn mean_curve(arm: &ArmRecord, quantity: fn(&EpochRecord) -> f64) -> Vec<(f64, f64)> {
    let mut epochs: Vec<u32> = arm.seeds.iter().flat_map(|s| s.epochs.iter().map(|e| e.epoch)).collect();
    epochs.sort_unstable();
    epochs.dedup();
    let at = |epoch| {
        mean(arm.seeds.iter().flat_map(|s| s.epochs.iter().filter(move |e| e.epoch == epoch)).map(quantity))
            .unwrap_or(f64::NAN)
    };
    epochs.into_iter().map(|epoch| (f64::from(epoch), at(epoch))).collect()
}

/// How two arms differ on the test split.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Difference {
    /// Mean of `ours - theirs`, in [-1, 1].
    pub mean: f64,
    /// Half width of the paired 95% interval and the number of pairs; `None` below two common seeds.
    pub interval: Option<(f64, usize)>,
}

impl Difference {
    /// Whether the interval excludes zero; `None` without an interval.
    pub fn shown(self) -> Option<bool> {
        self.interval.map(|(half, _)| self.mean.abs() > half)
    }
}

/// The difference in test accuracy, paired by seed if two seeds or more are common: the seed's own luck (order of
/// the data, initial weights) then cancels. `None` if an accuracy is missing.
pub(super) fn difference(ours: &ArmRecord, theirs: &ArmRecord) -> Option<Difference> {
    let pairs: Vec<f64> = ours
        .seeds
        .iter()
        .filter_map(|a| theirs.seeds.iter().find(|b| b.seed == a.seed).map(|b| a.test_accuracy - b.test_accuracy))
        .filter(|d| d.is_finite())
        .collect();
    let n = pairs.len();
    if n < 2 {
        let mean = ours.test_accuracy - theirs.test_accuracy;
        return mean.is_finite().then_some(Difference { mean, interval: None });
    }
    let mean = pairs.iter().sum::<f64>() / n as f64;
    let variance = pairs.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
    Some(Difference { mean, interval: Some((student95(n - 1) * (variance / n as f64).sqrt(), n)) })
}

/// The 97.5% quantile of Student's t: a table up to 10 degrees of freedom, then the Cornish-Fisher expansion
/// (Abramowitz & Stegun 26.7.5), which is accurate to 1e-4 there.
fn student95(freedom: usize) -> f64 {
    const TABLE: [f64; 10] = [12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281];
    if let Some(t) = freedom.checked_sub(1).and_then(|i| TABLE.get(i)) {
        return *t;
    }
    let (z, v): (f64, f64) = (1.959_963_985, freedom as f64);
    let g1 = (z.powi(3) + z) / 4.0;
    let g2 = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
    let g3 = (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0;
    z + g1 / v + g2 / v.powi(2) + g3 / v.powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::record::SeedRecord;

    fn arm(accuracies: &[(u64, f64)]) -> ArmRecord {
        let seed = |&(seed, test_accuracy): &(u64, f64)| SeedRecord { seed, test_accuracy, ..SeedRecord::default() };
        ArmRecord {
            name: "a".into(),
            summary: String::new(),
            test_accuracy: mean(accuracies.iter().map(|a| a.1)).unwrap_or(f64::NAN),
            interval: None,
            nonzeros: 0,
            density: 0.0,
            weight_bytes: 0,
            optimizer_bytes: 0,
            peak_training_bytes: 0,
            seconds_per_epoch: 0.0,
            seeds: accuracies.iter().map(seed).collect(),
        }
    }

    #[test]
    fn the_quantile_matches_the_published_tables() {
        for (freedom, t) in [(1, 12.7062), (10, 2.2281), (11, 2.2010), (20, 2.0860), (30, 2.0423), (120, 1.9799)] {
            assert!((student95(freedom) - t).abs() < 2e-4, "{freedom}: {}", student95(freedom));
        }
    }

    #[test]
    fn pairs_are_matched_by_seed_and_not_by_place() {
        // Differences 0.01, 0.02, 0.03 by seed: mean 0.02, s = 0.01, half width 4.3027 * 0.01 / sqrt(3).
        let ours = arm(&[(0, 0.91), (1, 0.82), (2, 0.73)]);
        let theirs = arm(&[(2, 0.70), (1, 0.80), (0, 0.90)]);
        let d = difference(&ours, &theirs).unwrap();
        let (half, n) = d.interval.unwrap();
        assert!((d.mean - 0.02).abs() < 1e-12 && n == 3 && (half - 0.024841).abs() < 1e-5, "{d:?}");
        assert_eq!(d.shown(), Some(false));
    }

    #[test]
    fn one_seed_has_no_interval_and_a_missing_accuracy_no_difference() {
        assert_eq!(difference(&arm(&[(0, 0.9)]), &arm(&[(0, 0.8)])).unwrap().interval, None);
        assert_eq!(difference(&arm(&[]), &arm(&[(0, 0.8)])), None);
    }
}
