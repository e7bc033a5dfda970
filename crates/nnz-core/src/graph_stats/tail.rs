//! Is the tail of a degree distribution a power law? (Clauset, Shalizi & Newman 2009, arXiv:0706.1062.)

use serde::Serialize;

/// A power law fitted to the tail of a degree distribution, with the alternatives it was tested against.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tail {
    /// α of p(k) ∝ k^-α, by maximum likelihood on k ≥ `from`.
    pub exponent: f64,
    /// Smallest degree of the tail, chosen so that the fit is nearest to the data by Kolmogorov and Smirnov's distance.
    pub from: usize,
    /// Units in the tail.
    pub units: usize,
    /// Kolmogorov-Smirnov distance of the fit.
    pub distance: f64,
    /// Against p(k) ∝ e^(-λ k) on the same tail.
    pub exponential: Alternative,
    /// Against p(k) ∝ e^(-(ln k - μ)² / 2 σ²) / k on the same tail.
    pub log_normal: Alternative,
}

/// Vuong's likelihood ratio test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Alternative {
    /// Log-likelihood of the power law minus that of the alternative: above zero, the power law is nearer.
    pub ratio: f64,
    /// Probability of a ratio at least as far from zero if both were equally near. Above 0.1 the data do not decide.
    pub p: f64,
}

/// Fewest units of a tail.
const FEWEST: usize = 50;

/// Most terms that a sum over degrees adds directly; an integral with the first Euler-Maclaurin terms covers the rest.
const SUMMED: usize = 1000;

/// Fits a tail of at least 50 units with two different degrees; `None` without one. O(degrees² · 100), largest degree.
pub fn tail(degrees: &[usize]) -> Option<Tail> {
    let most = degrees.iter().copied().max()?;
    let mut count = vec![0usize; most + 1];
    degrees.iter().for_each(|&d| count[d] += 1);
    let mut best: Option<(f64, f64, usize, usize)> = None;
    for from in (1..most).filter(|&k| count[k] > 0) {
        let tail = &count[from..];
        let units: usize = tail.iter().sum();
        if units < FEWEST {
            break;
        }
        let exponent = power_law(from, tail, units);
        let distance = distance(from, tail, units, exponent);
        if best.is_none_or(|b| distance < b.1) {
            best = Some((exponent, distance, from, units));
        }
    }
    let (exponent, distance, from, units) = best?;
    let tail = &count[from..];
    let norm = zeta(exponent, from).ln();
    let power = |k: usize| -exponent * (k as f64).ln() - norm;
    // A geometric distribution with this mean.
    let rate = (1.0 / (mean(from, tail, units, |k| k as f64) - from as f64)).ln_1p();
    let exponential = |k: usize| -rate * (k - from) as f64 + (-(-rate).exp()).ln_1p();
    let log_normal = fit_log_normal(from, tail, units);
    Some(Tail {
        exponent,
        from,
        units,
        distance,
        exponential: vuong(from, tail, units, &power, &exponential),
        log_normal: vuong(from, tail, units, &power, &log_normal),
    })
}

fn mean(from: usize, tail: &[usize], units: usize, f: impl Fn(usize) -> f64) -> f64 {
    tail.iter().enumerate().map(|(i, &n)| if n > 0 { n as f64 * f(from + i) } else { 0.0 }).sum::<f64>() / units as f64
}

/// Σ k^-s over k ≥ from, s > 1.
fn zeta(s: f64, from: usize) -> f64 {
    let to = from + 20;
    let head: f64 = (from..to).map(|k| (k as f64).powf(-s)).sum();
    let n = to as f64;
    head + n.powf(1.0 - s) / (s - 1.0) + n.powf(-s) / 2.0 + s * n.powf(-s - 1.0) / 12.0
}

/// The exponent of largest likelihood, by golden section; the log-likelihood is concave.
fn power_law(from: usize, tail: &[usize], units: usize) -> f64 {
    let logs = mean(from, tail, units, |k| (k as f64).ln());
    maximum(1.01, 30.0, |a| -a * logs - zeta(a, from).ln())
}

/// Locates the maximum of a function that has only one.
fn maximum(mut low: f64, mut high: f64, f: impl Fn(f64) -> f64) -> f64 {
    let golden = (5f64.sqrt() - 1.0) / 2.0;
    let (mut a, mut b) = (high - golden * (high - low), low + golden * (high - low));
    let (mut fa, mut fb) = (f(a), f(b));
    while high - low > 1e-8 * (1.0 + high.abs()) {
        if fa > fb {
            (high, b, fb) = (b, a, fa);
            a = high - golden * (high - low);
            fa = f(a);
        } else {
            (low, a, fa) = (a, b, fb);
            b = low + golden * (high - low);
            fb = f(b);
        }
    }
    (low + high) / 2.0
}

/// Largest distance of the two distribution functions.
fn distance(from: usize, tail: &[usize], units: usize, exponent: f64) -> f64 {
    let (total, mut seen, mut sum, mut far) = (zeta(exponent, from), 0usize, 0.0, 0.0f64);
    for (i, &n) in tail.iter().enumerate() {
        seen += n;
        sum += ((from + i) as f64).powf(-exponent);
        far = far.max((seen as f64 / units as f64 - sum / total).abs());
    }
    far
}

/// ln of e^(-(ln k - μ)² / 2 σ²) / k.
fn weight(k: f64, mu: f64, sigma: f64) -> f64 {
    -((k.ln() - mu).powi(2) / (2.0 * sigma * sigma)) - k.ln()
}

/// ln of their sum over k ≥ from.
fn log_normal_sum(from: usize, mu: f64, sigma: f64) -> f64 {
    // Once sigma spans three of them, terms are as good as their integral.
    let to = ((3.0 / sigma) as usize).clamp(from + 20, from + SUMMED);
    // Scaled by the largest term, which may be tiny far from the mode.
    let head: Vec<f64> = (from..to).map(|k| weight(k as f64, mu, sigma)).collect();
    let top = head.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let head: f64 = head.iter().map(|w| (w - top).exp()).sum();
    let end = to as f64 - 0.5;
    let z = (end.ln() - mu) / sigma;
    let slope = -(z / sigma + 1.0) / end * (weight(end, mu, sigma) - top).exp();
    let rest = sigma * std::f64::consts::TAU.sqrt() * upper(z) * (-top).exp() + slope / 24.0;
    top + (head + if rest.is_finite() { rest.max(0.0) } else { 0.0 }).ln()
}

/// ln p(k) of the discrete log-normal of largest likelihood, by nested golden-section searches.
fn fit_log_normal(from: usize, tail: &[usize], units: usize) -> impl Fn(usize) -> f64 {
    let (logs, squares) =
        (mean(from, tail, units, |k| (k as f64).ln()), mean(from, tail, units, |k| (k as f64).ln().powi(2)));
    let fit = move |mu: f64, sigma: f64| {
        -(squares - 2.0 * mu * logs + mu * mu) / (2.0 * sigma * sigma) - logs - log_normal_sum(from, mu, sigma)
    };
    let spread = (squares - logs * logs).max(1e-6).sqrt();
    let best_sigma = |mu: f64| maximum(0.05 * spread, 20.0 * spread, |sigma| fit(mu, sigma));
    let mu = maximum(logs - 30.0 * spread, logs + 3.0 * spread, |mu| fit(mu, best_sigma(mu)));
    let sigma = best_sigma(mu);
    let total = log_normal_sum(from, mu, sigma);
    move |k| weight(k as f64, mu, sigma) - total
}

/// The probability of a normal number above z.
fn upper(z: f64) -> f64 {
    libm::erfc(z / std::f64::consts::SQRT_2) / 2.0
}

fn vuong(
    from: usize,
    tail: &[usize],
    units: usize,
    power: &dyn Fn(usize) -> f64,
    other: &dyn Fn(usize) -> f64,
) -> Alternative {
    let difference = |k: usize| power(k) - other(k);
    let average = mean(from, tail, units, difference);
    let variance = mean(from, tail, units, |k| (difference(k) - average).powi(2));
    let n = units as f64;
    let ratio = n * average;
    Alternative { ratio, p: libm::erfc(ratio.abs() / (2.0 * n * variance.max(1e-300)).sqrt()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    /// Draws from p on k ≥ 1 by its distribution function.
    fn draws(n: usize, p: impl Fn(f64) -> f64) -> Vec<usize> {
        let weights: Vec<f64> = (1..20_000).map(|k| p(k as f64)).collect();
        let total: f64 = weights.iter().sum();
        let sums: Vec<f64> = weights
            .iter()
            .scan(0.0, |s, w| {
                *s += w / total;
                Some(*s)
            })
            .collect();
        let mut rng = Rng::stream(0, "draws", 0, 0);
        let mut draw = || {
            let x = rng.unit64();
            1 + sums.partition_point(|s| *s < x).min(sums.len() - 1)
        };
        (0..n).map(|_| draw()).collect()
    }

    #[test]
    fn sums_and_functions_are_right() {
        assert!((zeta(2.0, 1) - std::f64::consts::PI.powi(2) / 6.0).abs() < 1e-7);
        assert!((zeta(3.0, 5) - (1.202_056_903 - 1.0 - 0.125 - 1.0 / 27.0 - 1.0 / 64.0)).abs() < 1e-8);
        for (from, mu, sigma) in [(1, 0.0, 1.0), (1, 2.5, 0.4), (7, 3.0, 0.05), (40, 1.0, 1.5), (90, 4.0, 0.02)] {
            let all: f64 = (from..2_000_000).map(|k| weight(k as f64, mu, sigma).exp()).sum();
            let found = log_normal_sum(from, mu, sigma);
            assert!((found - all.ln()).abs() < 1e-6, "{from} {mu} {sigma}: {found} for {}", all.ln());
        }
        assert!((upper(0.0) - 0.5).abs() < 1e-9 && (upper(-1.0) - 0.841_344_746).abs() < 1e-6);
    }

    #[test]
    fn a_power_law_is_found_and_told_from_an_exponential() {
        let found = tail(&draws(5000, |k| k.powf(-2.5))).unwrap();
        assert!((found.exponent - 2.5).abs() < 0.1, "{found:?}");
        assert!(found.distance < 0.03 && found.exponential.ratio > 0.0 && found.exponential.p < 0.01, "{found:?}");
        // A log-normal can bend as little as a power law: the test cannot tell them apart.
        assert!(found.log_normal.p > 0.05, "{found:?}");
    }

    #[test]
    fn other_tails_are_no_power_laws() {
        // The cut is where a power law fits best, so little of another tail remains, and nothing favors the power law.
        let exponential = draws(5000, |k| (-0.1 * k).exp());
        let bell = draws(5000, |k| (-((k.ln() - 2.5).powi(2)) / (2.0 * 0.16)).exp() / k);
        for degrees in [exponential, bell] {
            let found = tail(&degrees).unwrap();
            assert!(found.units < 1000, "{found:?}");
            let speaks_for_it = |a: &Alternative| a.ratio > 0.0 && a.p < 0.1;
            assert!(!speaks_for_it(&found.exponential) || !speaks_for_it(&found.log_normal), "{found:?}");
        }
    }

    #[test]
    fn there_must_be_a_tail() {
        assert_eq!(tail(&[]), None);
        assert_eq!(tail(&[3; 100]), None);
        assert_eq!(tail(&[1, 2, 3]), None);
    }
}
