//! Numbers formatted for readers. A number that is not finite is written as a dash, never as `NaN`.

/// Placeholder for a missing number.
pub(super) const NONE: &str = "–";

/// `13305` is `13,305`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `count` and the noun it counts, in the plural where needed: `1 pixel`, `2,048 pixels`.
pub(super) fn counted(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(n), if n == 1 { "" } else { "s" })
}

/// Decimal units, as disks and networks use them: `853 B`, `112 kB`, `1.06 MB`.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if n < 1000 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1000.0;
    let mut unit = 0;
    // 999.5 would be written as 1000.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{} {}", significant(value, 3), UNITS[unit])
}

/// `4.2 µs`, `2.1 ms`, `0.038 s`, `0.42 s`, `12.3 s`, `3 min 20 s`, `2 h 5 min`.
pub(super) fn seconds(s: f64) -> String {
    if !s.is_finite() || s < 0.0 {
        return NONE.into();
    }
    match s {
        0.0 => "0 s".into(),
        s if s < 0.0000995 => format!("{} µs", significant(s * 1e6, 2)),
        s if s < 0.00995 => format!("{} ms", significant(s * 1e3, 2)),
        s if s < 0.0995 => format!("{} s", significant(s, 2)),
        s if s < 9.995 => format!("{s:.2} s"),
        s if s < 99.5 => format!("{s:.1} s"),
        s if s < 5970.0 => {
            let whole = s.round() as u64;
            format!("{} min {} s", whole / 60, whole % 60)
        }
        s => {
            let minutes = (s / 60.0).round() as u64;
            format!("{} h {} min", count(minutes / 60), minutes % 60)
        }
    }
}

/// `x` in percent; `None` if it is not a plausible share or accuracy.
fn percent(x: f64) -> Option<f64> {
    (x.abs() < 1e4).then_some(x * 100.0)
}

/// A share in `[0, 1]` with at least two significant digits: `97%`, `5.0%`, `0.21%`, `0.0040%`.
pub(super) fn share(x: f64) -> String {
    let Some(percent) = percent(x) else { return NONE.into() };
    match percent.abs() {
        0.0 => "0%".into(),
        p if p >= 99.95 => format!("{percent:.0}%"),
        p if p >= 9.95 => format!("{percent:.1}%"),
        p if p >= 1e-4 => format!("{}%", significant(percent, 2)),
        _ => format!("{percent:.0e}%"),
    }
}

/// An accuracy in `[0, 1]`: `97.3%`.
pub(super) fn accuracy(x: f64, decimals: usize) -> String {
    percent(x).map_or(NONE.into(), |p| format!("{p:.decimals$}%"))
}

/// A difference of accuracies as percentage points without a sign: `0.62`.
pub(super) fn points(x: f64, decimals: usize) -> String {
    percent(x).map_or(NONE.into(), |p| format!("{:.decimals$}", p.abs()))
}

/// A difference of accuracies with its sign: `+0.62`, `−1.02`, `0.00`.
pub(super) fn signed_points(x: f64, decimals: usize) -> String {
    let size = points(x, decimals);
    if size == NONE || size.bytes().all(|b| b == b'0' || b == b'.') {
        return size;
    }
    format!("{}{size}", if x < 0.0 { '−' } else { '+' })
}

/// A tick of an axis: `decimals` places, an exponent if it would be too wide.
pub(super) fn tick(x: f64, decimals: usize) -> String {
    match x.abs() {
        s if s >= 1e6 => format!("{x:.0e}"),
        s if s >= 1e4 => format!("{}k", x / 1e3),
        _ => format!("{x:.decimals$}"),
    }
}

/// At least `digits` significant digits, never an exponent between 1e-6 and 1e15: `0.0123`, `4.20`, `118`.
pub(super) fn significant(x: f64, digits: usize) -> String {
    if !x.is_finite() {
        return NONE.into();
    }
    if x == 0.0 {
        return "0".into();
    }
    let exponent = x.abs().log10().floor() as i32;
    if !(-6..15).contains(&exponent) {
        return format!("{x:.*e}", digits.saturating_sub(1));
    }
    let decimals = |exponent: i32| (digits as i32 - 1 - exponent).max(0) as usize;
    let text = format!("{x:.*}", decimals(exponent));
    // 9.96 with two digits is 10, not 10.0.
    let rounded: f64 = text.parse().unwrap_or(x);
    if rounded.abs() >= 10f64.powi(exponent + 1) { format!("{x:.*}", decimals(exponent + 1)) } else { text }
}

/// How many times smaller or larger `x` is than `base`, e.g. `times(1, 20, "smaller", "larger")` is `20× smaller`.
/// `None` if the two cannot be compared.
pub(super) fn times(x: f64, base: f64, below: &str, above: &str) -> Option<String> {
    if !(x.is_finite() && base.is_finite() && x > 0.0 && base > 0.0) {
        return None;
    }
    let (factor, word) = if x <= base { (base / x, below) } else { (x / base, above) };
    Some(match factor {
        f if f < 1.005 => "same".into(),
        f if f < 1.995 => format!("{f:.2}× {word}"),
        f if f < 99.5 => format!("{}× {word}", significant(f, 2)),
        f => format!("{}× {word}", count(f.round() as u64)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_bytes() {
        assert_eq!(
            [0, 12, 999, 1000, 13305, 266_200, 1_000_000].map(count).join(" "),
            "0 12 999 1,000 13,305 266,200 1,000,000"
        );
        assert_eq!(counted(1, "pixel") + &counted(0, " pixel"), "1 pixel0  pixels");
        assert_eq!(
            [0, 999, 1000, 112_300, 999_499, 999_500, 1_066_440].map(bytes).join(" "),
            "0 B 999 B 1.00 kB 112 kB 999 kB 1.00 MB 1.07 MB"
        );
        assert_eq!(bytes(u64::MAX), "18.4 EB");
    }

    #[test]
    fn times_of_day_and_ratios() {
        assert_eq!(
            [0.0, 0.000_004_2, 0.0021, 0.038, 0.42, 9.96, 9.999, 12.34, 200.0, 7500.0].map(seconds).join("|"),
            "0 s|4.2 µs|2.1 ms|0.038 s|0.42 s|9.96 s|10.0 s|12.3 s|3 min 20 s|2 h 5 min"
        );
        assert_eq!(seconds(f64::NAN), NONE);
        assert_eq!(times(1.0, 20.0, "smaller", "larger").unwrap(), "20× smaller");
        assert_eq!(times(3.0, 2.0, "faster", "slower").unwrap(), "1.50× slower");
        assert_eq!(times(2.0, 2.0, "faster", "slower").unwrap(), "same");
        assert_eq!(times(0.0, 2.0, "a", "b"), None);
        assert_eq!(times(f64::INFINITY, 2.0, "a", "b"), None);
    }

    #[test]
    fn shares_and_points() {
        assert_eq!([1.0, 0.97312, 0.05, 0.0021, 0.0, 4e-5].map(share).join(" "), "100% 97.3% 5.0% 0.21% 0% 0.0040%");
        assert_eq!(accuracy(0.97312, 1), "97.3%");
        assert_eq!(signed_points(-0.0102, 2), "−1.02");
        assert_eq!(signed_points(0.00001, 2), "0.00");
        assert_eq!(signed_points(f64::NAN, 2), NONE);
        assert_eq!([tick(0.5, 2), tick(20_000.0, 0), tick(3e8, 0)].join(" "), "0.50 20k 3e8");
        assert_eq!(significant(9.96, 2), "10");
        assert_eq!(significant(0.01234, 3), "0.0123");
        assert_eq!(significant(-2.5e-9, 2), "-2.5e-9");
    }
}
