//! Axes of the charts: ranges, ticks and positions of values.

/// Mapping of values to positions on an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Spacing {
    /// Equal steps.
    Linear,
    /// Equal ratios; values must be positive.
    Log,
    /// Equal ratios of the distance to 1, for accuracies: 90%, 99%, 99.9% are equally far apart.
    NearOne,
}

impl Spacing {
    fn apply(self, v: f64) -> f64 {
        match self {
            Self::Linear => v,
            Self::Log => v.ln(),
            Self::NearOne => -(1.0 - v).ln(),
        }
    }
}

/// One axis: its label, range and ticks.
pub(super) struct Axis {
    pub label: String,
    spacing: Spacing,
    range: (f64, f64),
    /// Values and their labels.
    pub ticks: Vec<(f64, String)>,
}

impl Axis {
    /// An axis over the finite `values`; `write(value, decimals)` makes the tick labels. Falls back to equal steps when
    /// the values span too little (or leave the domain) of another spacing.
    pub fn fit(
        label: &str,
        values: impl IntoIterator<Item = f64>,
        spacing: Spacing,
        write: fn(f64, usize) -> String,
    ) -> Self {
        let (lo, hi) = ends(values);
        let ticks = match spacing {
            Spacing::Log if lo > 0.0 && hi / lo >= 20.0 => ratio_ticks(lo, hi),
            Spacing::NearOne if hi < 1.0 && (1.0 - lo) / (1.0 - hi) >= 4.0 => {
                ratio_ticks(1.0 - hi, 1.0 - lo).into_iter().map(|(missing, d)| (1.0 - missing, d)).collect()
            }
            _ => vec![],
        };
        let (ticks, spacing) =
            if ticks.len() < 3 { (even_ticks(lo, hi, 5.0), Spacing::Linear) } else { (ticks, spacing) };
        // Margin beyond the outermost values, so that no line lies on the frame.
        let range = match spacing {
            Spacing::Linear => ticks.iter().fold((lo, hi), |(lo, hi), t| (lo.min(t.0), hi.max(t.0))),
            Spacing::Log => (lo / 1.15, hi * 1.15),
            Spacing::NearOne => (1.0 - (1.0 - lo) * 1.15, 1.0 - (1.0 - hi) / 1.15),
        };
        let written = |&(v, decimals): &(f64, usize)| (v, write(v, decimals));
        Self { label: label.into(), spacing, range, ticks: ticks.iter().map(written).collect() }
    }

    /// An axis of whole numbers that ends at its values, for epochs.
    pub fn whole(label: &str, values: impl IntoIterator<Item = f64>) -> Self {
        let (lo, hi) = ends(values);
        let written = |v: f64| (v, format!("{v:.0}"));
        let (ticks, range) = if lo == hi {
            (vec![written(lo)], (lo - 1.0, hi + 1.0))
        } else {
            let ticks = even_ticks(lo, hi, (hi - lo).min(8.0)).into_iter().map(|t| t.0);
            (ticks.filter(|v| v.fract() == 0.0 && (lo..=hi).contains(v)).map(written).collect(), (lo, hi))
        };
        Self { label: label.into(), spacing: Spacing::Linear, range, ticks }
    }

    /// An axis for `n` adjacent bars, without ticks.
    pub fn places(label: &str, n: usize) -> Self {
        Self { label: label.into(), spacing: Spacing::Linear, range: (0.0, n as f64), ticks: vec![] }
    }

    /// Whether the steps are equal.
    pub fn is_linear(&self) -> bool {
        self.spacing == Spacing::Linear
    }

    /// Position of `v`, 0 at the low end and 1 at the high end; `None` for values that cannot be drawn.
    pub fn place(&self, v: f64) -> Option<f64> {
        let [v, lo, hi] = [v, self.range.0, self.range.1].map(|v| self.spacing.apply(v));
        let place = if hi > lo { (v - lo) / (hi - lo) } else { 0.5 };
        place.is_finite().then_some(place.clamp(0.0, 1.0))
    }
}

/// The smallest and the largest finite value; 0 and 1 if there is none.
fn ends(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let finite = values.into_iter().filter(|v| v.is_finite());
    let (lo, hi) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)));
    if lo > hi { (0.0, 1.0) } else { (lo, hi) }
}

/// Round values around `lo..=hi` in steps of 1, 2 or 5 times a power of ten, with the decimals they need.
fn even_ticks(lo: f64, hi: f64, about: f64) -> Vec<(f64, usize)> {
    let width = if hi > lo { hi - lo } else { hi.abs().max(1e-6) * 0.2 };
    let power = 10f64.powf((width / about).log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| width / s <= about).unwrap_or(power * 10.0);
    let (first, last) = ((lo / step + 1e-9).floor(), (hi / step - 1e-9).ceil());
    let decimals = (-(step * 1.0001).log10().floor()).clamp(0.0, 12.0) as usize;
    // At 1e300 the steps drown in rounding: then only the two ends can be shown.
    if !(last - first).is_finite() || last - first > 20.0 {
        return vec![(lo, 0), (hi, 0)];
    }
    (0..=(last - first) as u32).map(|i| ((first + f64::from(i)) * step, decimals)).collect()
}

/// Round multiples of the powers of ten inside `lo..=hi`, with the decimals they need: more of them in a narrow range,
/// the powers alone in a wide one.
fn ratio_ticks(lo: f64, hi: f64) -> Vec<(f64, usize)> {
    let (first, last) = (lo.log10().floor() as i32, hi.log10().ceil() as i32);
    let steps: &[f64] = match hi / lo {
        r if r > 1500.0 => &[1.0],
        r if r < 10.0 => &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0],
        _ => &[1.0, 2.0, 5.0],
    };
    let stride = ((last - first) / 8).max(1) as usize;
    let decimals = |e: i32, m: f64| (usize::from(m.fract() != 0.0) as i32 - e).max(0) as usize;
    let all =
        (first..=last).step_by(stride).flat_map(|e| steps.iter().map(move |m| (m * 10f64.powi(e), decimals(e, *m))));
    all.filter(|(v, _)| (lo * 0.999..=hi * 1.001).contains(v)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::format::tick;
    use super::*;

    fn written(axis: &Axis) -> String {
        axis.ticks.iter().map(|t| t.1.as_str()).collect::<Vec<_>>().join(" ")
    }

    fn fit(values: &[f64], spacing: Spacing) -> Axis {
        Axis::fit("", values.iter().copied(), spacing, tick)
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(written(&fit(&[0.0, 0.05], Spacing::Linear)), "0.00 0.01 0.02 0.03 0.04 0.05");
        assert_eq!(written(&fit(&[0.0, 388.0], Spacing::Linear)), "0 100 200 300 400");
        assert_eq!(written(&fit(&[0.71, 0.93], Spacing::Linear)), "0.70 0.75 0.80 0.85 0.90 0.95");
        assert_eq!(written(&fit(&[0.003, 0.8], Spacing::Log)), "0.005 0.01 0.02 0.05 0.1 0.2 0.5");
        assert_eq!(written(&fit(&[1e-5, 1.0], Spacing::Log)), "0.00001 0.0001 0.001 0.01 0.1 1");
        assert_eq!(written(&fit(&[0.8, 0.991], Spacing::NearOne)), "0.99 0.98 0.95 0.9 0.8");
        assert_eq!(written(&fit(&[0.68, 0.95], Spacing::NearOne)), "0.95 0.93 0.9 0.85 0.8 0.7");
        assert_eq!(written(&fit(&[0.975, 0.994], Spacing::NearOne)), "0.993 0.99 0.985 0.98");
        assert_eq!(written(&Axis::whole("", [1.0, 2.0])), "1 2");
        assert_eq!(written(&Axis::whole("", [1.0, 15.0])), "2 4 6 8 10 12 14");
        assert_eq!(written(&Axis::whole("", [4.0])), "4");
    }

    #[test]
    fn spacings_give_way_where_they_cannot_hold() {
        assert!(!fit(&[0.01, 1.0], Spacing::Log).is_linear());
        for values in [&[0.0, 1.0][..], &[0.5, 0.6], &[-1.0, 1e6], &[]] {
            assert!(fit(values, Spacing::Log).is_linear(), "{values:?}");
        }
        assert!(fit(&[0.5, 1.0], Spacing::NearOne).is_linear(), "nothing is infinitely near to 1");
    }

    #[test]
    fn places_rise_from_end_to_end() {
        for spacing in [Spacing::Linear, Spacing::Log, Spacing::NearOne] {
            let axis = fit(&[0.01, 0.3, 0.99], spacing);
            let places: Vec<f64> = [0.01, 0.3, 0.99].into_iter().filter_map(|v| axis.place(v)).collect();
            assert!(
                places.len() == 3 && places[0] >= 0.0 && places[2] <= 1.0 && places.is_sorted(),
                "{spacing:?}: {places:?}"
            );
            assert_eq!(axis.place(f64::NAN), None);
        }
        assert!((fit(&[0.0, 10.0], Spacing::Linear).place(2.5).unwrap() - 0.25).abs() < 1e-12);
    }

    #[test]
    fn any_values_give_few_ticks() {
        for pair in [
            [0.0, 0.0],
            [1.0, 1.0],
            [-1e300, 1e300],
            [f64::MIN, f64::MAX],
            [5e-324, 1e-320],
            [1.0, 1.0 + 1e-15],
            [f64::NAN, f64::INFINITY],
        ] {
            for spacing in [Spacing::Linear, Spacing::Log, Spacing::NearOne] {
                let axis = fit(&pair, spacing);
                assert!((1..=22).contains(&axis.ticks.len()), "{pair:?} {spacing:?}: {}", written(&axis));
            }
        }
    }
}
