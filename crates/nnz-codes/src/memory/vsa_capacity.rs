//! How many dimensions a vector symbolic architecture needs to tell whether a symbol is in a bundle of n.
//!
//! Symbols are random vectors in {±1}^m. MAP-I bundles by the sum: x is in S where ⟨x, Σ y⟩ / m > 1/2. The sum over the n - 1
//! others has variance (n - 1) / m, so a test errs with probability Q(½ √(m / n)) and an error of δ takes m = 4 n z², z = Q⁻¹(δ).
//! MAP-B bundles by the sign of the sum: a member correlates with it by ρ ≈ √(2 / (π n)), the threshold is ρ / 2, and
//! m = 4 z² π n / 2, which is π / 2 of MAP-I's. A Bloom filter ORs k = (m / n) ln 2 positions a symbol, and takes a stranger for a
//! member with probability (1 - e^(-k n / m))^k.
//!
//! Measured: the error over m on a geometric grid; m at δ by a fit of probit(error) = c √m through the origin (for the
//! filter, ln(error) = c m), which is the form above with a free constant.
//!
//! Cost: O(trials n m) per point of the grid.
//!
//! Deviations: the paper bounds failure over all of a set of symbols, up to constants; here the error of one test is measured,
//! for which the constants are known. ρ is the exact one of an odd n.

use nnz_core::{Better, Context, Error, Experiment, Launch, Method, Metric, Result, Rng, Unit, above, at_least, options, State, Visit};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal};

/// The card.
pub const METHOD: Method = Method::experiment::<Options>(
    "vsa-capacity",
    "Capacity of vector symbolic architectures",
    "Measures how many dimensions a bundle of symbols needs, and compares with what theory says.",
);

/// How symbols are bundled.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Bundle {
    /// The sum.
    MapI,
    /// The sign of the sum.
    MapB,
    /// The union of positions.
    Bloom,
}

options! {
    /// How symbols are bundled: map-i, map-b or bloom.
    bundle: Bundle = Bundle::MapI,
    /// Symbols in a bundle; odd, so that no sum is zero.
    symbols: usize = 51 => at_least(3.0),
    /// Share of tests that may err.
    error: f64 = 0.01 => above(0.0).below(0.2),
    /// Bundles at each point of the grid.
    trials: usize = 200 => at_least(1.0),
}

const METRICS: &[Metric] = &[
    Metric::new("dimension", Unit::Count, Better::Lower, "Dimensions at which the share of tests that err is what is allowed."),
    Metric::new("over-theory", Unit::Number, Better::Neither, "The same over what theory says."),
];

impl Launch for Options {
    fn launch(self) -> Result<Box<dyn Experiment>> {
        match self.symbols.is_multiple_of(2) {
            true => Err(Error::Range { name: "symbols", range: "odd".into(), got: self.symbols as f64 }),
            false => Ok(Box::new(Capacity(self))),
        }
    }
}

struct Capacity(Options);

/// Share of the tests that erred at the finished points.
#[derive(Default)]
struct Errors(Vec<f64>);

impl State for Errors {
    fn visit(&mut self, v: &mut dyn Visit) -> Result<()> {
        v.reals("errors", &mut self.0)
    }
}

impl Experiment for Capacity {
    fn metrics(&self) -> &'static [Metric] {
        METRICS
    }

    fn run(&mut self, cx: &mut Context) -> Result<()> {
        let Options { bundle, symbols, error, trials } = self.0.clone();
        let theory = dimension(bundle, symbols, error);
        // From a third of the theoretical value to a little above it, where errors are neither rare nor near chance.
        let grid: Vec<usize> = (0..6).map(|i| (theory * (0.3 + 0.15 * f64::from(i))).round() as usize).collect();
        let mut errors = Errors::default();
        cx.resume(&mut errors)?;
        for (point, &m) in grid.iter().enumerate().skip(errors.0.len()) {
            let seed = cx.seed();
            let wrong = |t: usize| {
                let mut rng = Rng::stream(seed, "symbols", point as u64, t as u64);
                errs(bundle, symbols, m, &mut rng)
            };
            let counts: Vec<[usize; 2]> = (0..trials).into_par_iter().map(wrong).collect();
            let [wrong, tests] = counts.iter().fold([0, 0], |a, c| [a[0] + c[0], a[1] + c[1]]);
            errors.0.push(wrong as f64 / tests as f64);
            cx.curve("error", "dimensions", m as f64, errors.0[point]);
            cx.checkpoint(point as u64 + 1, grid.len() as u64, &mut errors)?;
        }
        let found = needed(bundle, &grid, &errors.0, error)?;
        cx.report("dimension", found)?;
        cx.report("over-theory", found / theory)
    }
}

/// Q⁻¹(share): how many deviations leave that share above.
fn deviations(share: f64) -> f64 {
    -Normal::standard().inverse_cdf(share)
}

/// Dimensions at which theory expects a share `error` of tests to err.
fn dimension(bundle: Bundle, symbols: usize, error: f64) -> f64 {
    let (n, z) = (symbols as f64, deviations(error));
    match bundle {
        Bundle::MapI => 4.0 * n * z * z,
        Bundle::MapB => (2.0 * z / correlation(symbols)).powi(2),
        // With k = (m / n) ln 2, half of the bits are set and a stranger passes with 2^-k.
        Bundle::Bloom => -n * error.ln() / std::f64::consts::LN_2.powi(2),
    }
}

/// E[x · sign(Σ y)] of a member x of an odd number n of signs: C(n - 1, (n - 1) / 2) / 2^(n - 1), about √(2 / (π n)).
fn correlation(symbols: usize) -> f64 {
    (1..=symbols / 2).fold(1.0, |c, i| c * (2 * i - 1) as f64 / (2 * i) as f64)
}

/// The dimension at which the fitted error is `error`.
fn needed(bundle: Bundle, grid: &[usize], errors: &[f64], error: f64) -> Result<f64> {
    // One line through the origin: probit(error) over √m, or ln(error) over m.
    let line = |m: f64, e: f64| match bundle {
        Bundle::Bloom => (m, -e.ln()),
        _ => (m.sqrt(), deviations(e)),
    };
    let seen: Vec<(f64, f64)> =
        grid.iter().zip(errors).filter(|(_, e)| (1e-4..0.4).contains(*e)).map(|(&m, &e)| line(m as f64, e)).collect();
    if seen.len() < 2 {
        return Err(Error::Refused("too few errors were seen to fit; give more trials".into()));
    }
    let slope = seen.iter().map(|(x, y)| x * y).sum::<f64>() / seen.iter().map(|(x, _)| x * x).sum::<f64>();
    Ok(match bundle {
        Bundle::Bloom => -error.ln() / slope,
        _ => (deviations(error) / slope).powi(2),
    })
}

/// Counts the tests that err on one bundle of m dimensions, and all tests: every member, and as many strangers.
fn errs(bundle: Bundle, symbols: usize, m: usize, rng: &mut Rng) -> [usize; 2] {
    if bundle == Bundle::Bloom {
        let k = ((m as f64 / symbols as f64) * std::f64::consts::LN_2).round().max(1.0) as usize;
        let mut bits = vec![false; m];
        let mut places = |n: usize| -> Vec<usize> { (0..n).map(|_| rng.below(m as u64) as usize).collect() };
        (0..symbols).for_each(|_| places(k).into_iter().for_each(|p| bits[p] = true));
        // Members always pass.
        let wrong = (0..symbols).filter(|_| places(k).into_iter().all(|p| bits[p])).count();
        return [wrong, symbols];
    }
    let signs = |rng: &mut Rng| -> Vec<i32> {
        let mut words = (0..m.div_ceil(64)).map(|_| rng.bits()).collect::<Vec<_>>().into_iter();
        let word = |_| words.next().unwrap_or_default();
        (0..m.div_ceil(64)).map(word).flat_map(|w| (0..64).map(move |b| 1 - 2 * (w >> b & 1) as i32)).take(m).collect()
    };
    let members: Vec<Vec<i32>> = (0..symbols).map(|_| signs(rng)).collect();
    let mut sum = vec![0i32; m];
    members.iter().for_each(|x| sum.iter_mut().zip(x).for_each(|(s, x)| *s += x));
    let threshold = match bundle {
        Bundle::MapI => 0.5,
        _ => {
            sum.iter_mut().for_each(|s| *s = s.signum());
            0.5 * correlation(symbols)
        }
    };
    let inside = |x: &[i32]| {
        let product: i64 = sum.iter().zip(x).map(|(s, x)| i64::from(s * x)).sum();
        product as f64 > threshold * m as f64
    };
    let missed = members.iter().filter(|x| !inside(x)).count();
    let taken = (0..symbols).filter(|_| inside(&signs(rng))).count();
    [missed + taken, 2 * symbols]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_costs_half_pi() {
        // C(2, 1) / 4 = 1/2: of three signs, the majority agrees with each in three of four cases.
        assert!((correlation(3) - 0.5).abs() < 1e-12);
        assert!((correlation(1001) * (std::f64::consts::PI * 1001.0 / 2.0).sqrt() - 1.0).abs() < 1e-3);
        let ratio = dimension(Bundle::MapB, 1001, 0.01) / dimension(Bundle::MapI, 1001, 0.01);
        assert!((ratio / std::f64::consts::FRAC_PI_2 - 1.0).abs() < 2e-3, "{ratio}");
        // z of 1% is 2.3263: 4 · 51 · 5.4119.
        assert!((dimension(Bundle::MapI, 51, 0.01) - 1104.0).abs() < 1.0);
    }

    #[test]
    fn a_fit_finds_the_law_it_was_given() {
        let grid = [300, 500, 800];
        let errors = grid.map(|m: usize| 1.0 - Normal::standard().cdf(0.07 * (m as f64).sqrt()));
        let found = needed(Bundle::MapI, &grid, &errors, 0.01).unwrap();
        assert!((found - (deviations(0.01) / 0.07).powi(2)).abs() < 1e-6);
        assert!(needed(Bundle::MapI, &grid, &[0.0; 3], 0.01).is_err());
    }

    #[test]
    fn an_even_bundle_is_refused() {
        let even = Options { symbols: 4, ..Options::default() };
        assert!(even.launch().err().unwrap().to_string().contains("odd"));
    }
}
