//! Functions that compilers vectorize: no branches, no tables, no calls. For `f32`; `f64` takes the
//! standard ones.

/// eˣ within 2 units in the last place; zero below -87.3, where the result would be subnormal.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LOW: f32 = -87.336_54;
    const HIGH: f32 = 88.722_84;
    // Adding 1.5 · 2^23 rounds to the nearest whole number, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let inside = if x < LOW { LOW } else { x };
    let inside = if inside > HIGH { HIGH } else { inside };
    let shifted = inside * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    // ln 2 in two parts, so that the product with `whole` is exact in the first.
    let r = (inside - whole * 0.693_359_4) + whole * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let mantissa = p * (r * r) + r + 1.0;
    // 2^whole in two factors: one alone overflows at the upper end.
    let power = shifted.to_bits() << 23;
    let value = f32::from_bits(mantissa.to_bits().wrapping_add(power));
    let value = if x < LOW { 0.0 } else { value };
    let value = if x > HIGH { f32::INFINITY } else { value };
    if x.is_nan() { x } else { value }
}

/// tanh x within 3 units in the last place.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let z = x.abs();
    let far = 1.0 - 2.0 / (exp(2.0 * z) + 1.0);
    let s = x * x;
    let p = -5.704_988_7e-3;
    let p = p * s + 2.063_909e-2;
    let p = p * s - 5.373_971_6e-2;
    let p = p * s + 1.333_144_2e-1;
    let p = p * s - 3.333_328e-1;
    let near = z + z * s * p;
    let value = if z < 0.625 { near } else { far };
    if x < 0.0 { -value } else { value }
}

/// The error function within 4e-7: an odd rational function between -4 and 4, its limits beyond.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let s = x * x;
    let p = -2.726_142_3e-10;
    let p = p * s + 2.770_681_4e-8;
    let p = p * s - 2.101_024e-6;
    let p = p * s - 5.692_506_4e-5;
    let p = p * s - 7.349_906_3e-4;
    let p = p * s - 2.954_6e-3;
    let p = p * s - 1.609_603_3e-2;
    let q = -1.456_607_2e-5;
    let q = q * s - 2.133_740_6e-4;
    let q = q * s - 1.682_827e-3;
    let q = q * s - 7.373_329e-3;
    let q = q * s - 1.426_473_9e-2;
    let value = x * p / q;
    let value = if x <= -4.0 { -1.0 } else { value };
    if x >= 4.0 { 1.0 } else { value }
}

#[cfg(test)]
mod tests {
    /// Compares with the function in f64 at `n` points of a range.
    fn compare(name: &str, f: fn(f32) -> f32, exact: fn(f64) -> f64, (low, high): (f32, f32), ulps: f64, floor: f64) {
        let n = 200_000;
        for i in 0..=n {
            let x = low + (high - low) * i as f32 / n as f32;
            let want = exact(f64::from(x));
            let unit = f64::from((want as f32).abs().max(f32::MIN_POSITIVE)) * f64::from(f32::EPSILON);
            let error = (f64::from(f(x)) - want).abs();
            assert!(error <= (ulps * unit).max(floor), "{name}({x}) = {} and not {want}", f(x));
        }
    }

    #[test]
    fn near_the_exact_functions() {
        compare("exp", super::exp, f64::exp, (-87.3, 88.7), 2.0, 0.0);
        compare("tanh", super::tanh, f64::tanh, (-12.0, 12.0), 3.0, 0.0);
        compare("tanh", super::tanh, f64::tanh, (-1e-3, 1e-3), 2.0, 0.0);
        // erf by its series, exact enough here.
        let erf = |x: f64| {
            let (mut term, mut sum) = (x, x);
            for n in 1..200 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            sum * std::f64::consts::FRAC_2_SQRT_PI
        };
        compare("erf", super::erf, erf, (-4.5, 4.5), 0.0, 4e-7);
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!(super::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(super::exp(-100.0), 0.0);
        assert_eq!(super::exp(0.0), 1.0);
        assert_eq!(super::exp(89.0), f32::INFINITY);
        assert!(super::exp(f32::NAN).is_nan() && super::tanh(f32::NAN).is_nan() && super::erf(f32::NAN).is_nan());
        assert_eq!((super::tanh(50.0), super::tanh(-50.0), super::tanh(0.0)), (1.0, -1.0, 0.0));
        assert_eq!((super::erf(9.0), super::erf(-9.0)), (1.0, -1.0));
    }
}
