//! Rotary positions, with the ways in which models are stretched to longer texts.

use serde_json::Value;
use std::f64::consts::PI;

/// Rotary positions (Su et al. 2021, arXiv:2104.09864): entries i and i + d/2 of the first d entries of a head turn by position times
/// base^(-2i/d), which the scaling changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Entries of a head that turn; even.
    pub dims: usize,
    /// The base.
    pub base: f64,
    /// How frequencies are changed.
    pub scaling: Scaling,
}

/// Change of the frequencies f of rotary positions.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// None.
    None,
    /// f / factor (Chen et al. 2023, arXiv:2306.15595).
    Linear(f64),
    /// For n > `context` positions the base is multiplied by (factor n / context - factor + 1)^(d / (d - 2)).
    Dynamic {
        /// Factor.
        factor: f64,
        /// Positions of training.
        context: usize,
    },
    /// Frequencies with few rotations within the context of training are divided by the factor, those with many are kept (Peng et al. 2023,
    /// arXiv:2309.00071).
    Yarn {
        /// Factor.
        factor: f64,
        /// Positions of training.
        context: usize,
        /// Rotations from which on frequencies are kept, and down to which they are divided.
        rotations: [f64; 2],
        /// Whether the dimensions with these rotations are rounded.
        rounded: bool,
        /// Factor of sine and cosine.
        size: f64,
    },
    /// As in Llama 3.1 (Grattafiori et al. 2024, arXiv:2407.21783): long waves are slowed down, those between interpolated.
    Llama3 {
        /// Factor.
        factor: f64,
        /// Positions of training.
        context: usize,
        /// Context over the longest wave that is slowed down, and over the shortest that is not kept.
        waves: [f64; 2],
    },
    /// LongRoPE (Ding et al. 2024, arXiv:2402.13753): a divisor for each frequency, one list up to `context` positions and one beyond.
    Long {
        /// Divisors up to `context` positions.
        short: Vec<f64>,
        /// Those beyond.
        long: Vec<f64>,
        /// Positions of training.
        context: usize,
        /// Factor of sine and cosine.
        size: f64,
    },
}

/// Settings that are known; which of them are read depends on the kind.
const KNOWN: [&str; 16] = [
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "short_factor",
    "long_factor",
    "low_freq_factor",
    "high_freq_factor",
    "mscale",
    "mscale_all_dim",
    "truncate",
];

impl Scaling {
    /// Reads it from `rope_scaling` or `rope_parameters` of a configuration. `context` and `trained`: the model's positions, and those of
    /// training if said elsewhere; `renamed`: `su` and `yarn` are LongRoPE.
    ///
    /// # Errors
    /// For a kind or setting that is not known.
    pub fn read(c: &Value, dims: usize, context: usize, trained: Option<usize>, renamed: bool) -> Result<Self, String> {
        let unknown =
            c.as_object().into_iter().flatten().find(|(key, _)| !KNOWN.contains(&key.as_str()) && *key != "finetuned");
        if let Some((key, _)) = unknown {
            return Err(format!("scaled rotary positions with a setting `{key}`"));
        }
        let number = |key: &str| c[key].as_f64();
        let need = |key: &str| match number(key) {
            Some(v) if v.is_finite() && v > 0.0 => Ok(v),
            _ => Err(format!("scaled rotary positions without a positive number `{key}`")),
        };
        let kind = match (c["rope_type"].as_str().or(c["type"].as_str()), number("factor")) {
            (None, Some(_)) => return Err("scaled rotary positions of a kind that is not named".into()),
            (kind, _) => kind.unwrap_or("default"),
        };
        let kind = if renamed && ["su", "yarn"].contains(&kind) { "longrope" } else { kind };
        let said = c["original_max_position_embeddings"].as_u64().map(|n| n as usize);
        let before = trained.or(said).unwrap_or(context);
        if before == 0 || before > 1 << 30 {
            return Err(format!("rotary positions trained on {before} positions"));
        }
        let size = |usual: f64| match c["attention_factor"].is_null() {
            true => Ok(usual),
            false => need("attention_factor"),
        };
        Ok(match kind {
            "default" => Self::None,
            "linear" => Self::Linear(need("factor")?),
            "dynamic" if dims > 2 => Self::Dynamic { factor: need("factor")?, context },
            "llama3" => Self::Llama3 {
                factor: need("factor")?,
                context: before,
                waves: [need("low_freq_factor")?, need("high_freq_factor")?],
            },
            "yarn" => {
                let factor = match c["factor"].is_null() {
                    true => context as f64 / before as f64,
                    false => need("factor")?,
                };
                let scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
                let pair = number("mscale").zip(number("mscale_all_dim")).filter(|(a, b)| *a != 0.0 && *b != 0.0);
                let usual = pair.map_or(scale(1.0), |(a, b)| scale(a) / scale(b));
                let or = |key: &str, usual: f64| number(key).filter(|v| *v != 0.0).unwrap_or(usual);
                Self::Yarn {
                    factor,
                    context: before,
                    rotations: [or("beta_fast", 32.0), or("beta_slow", 1.0)],
                    rounded: c["truncate"].as_bool().unwrap_or(true),
                    size: size(usual)?,
                }
            }
            "longrope" => {
                let list = |key: &str| -> Result<Vec<f64>, String> {
                    let list: Vec<f64> = c[key]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(Value::as_f64)
                        .filter(|v| *v > 0.0)
                        .collect();
                    match list.len() == dims / 2 {
                        true => Ok(list),
                        false => {
                            Err(format!("scaled rotary positions whose `{key}` are not {} positive numbers", dims / 2))
                        }
                    }
                };
                let factor = match c["factor"].is_null() {
                    true => context as f64 / before as f64,
                    false => need("factor")?,
                };
                let usual = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (before as f64).ln()).sqrt() };
                Self::Long {
                    short: list("short_factor")?,
                    long: list("long_factor")?,
                    context: before,
                    size: size(usual)?,
                }
            }
            other => return Err(format!("scaled rotary positions of kind {other}")),
        })
    }

    /// Positions that a model of `context` positions can read.
    pub fn reach(&self, context: usize) -> usize {
        let times = |n: usize, factor: f64| (n as f64 * factor.max(1.0)).min((1u64 << 40) as f64) as usize;
        match self {
            Self::Linear(factor) | Self::Dynamic { factor, .. } => times(context, *factor),
            Self::Yarn { factor, context: before, .. } => context.max(times(*before, *factor)),
            _ => context,
        }
    }
}

/// Sine and cosine of the turns of several positions, `[positions, dims / 2]`.
#[derive(Debug)]
pub struct Turns {
    table: Vec<(f32, f32)>,
    half: usize,
}

impl Rope {
    /// Whether positions already turned have to turn again when a sequence of `before` positions grows to `after`.
    pub fn changes(&self, before: usize, after: usize) -> bool {
        matches!(self.scaling, Scaling::Long { context, .. } if before <= context && context < after)
    }

    /// Frequencies in a sequence of `length` positions, and a factor of sine and cosine.
    fn frequencies(&self, length: usize) -> (Vec<f64>, f64) {
        let d = self.dims as f64;
        let plain = |base: f64| (0..self.dims / 2).map(move |i| base.powf(-2.0 * i as f64 / d));
        let of = |base: f64| plain(base).collect::<Vec<f64>>();
        match &self.scaling {
            Scaling::None => (of(self.base), 1.0),
            Scaling::Linear(factor) => (plain(self.base).map(|f| f / factor).collect(), 1.0),
            Scaling::Dynamic { factor, context } => {
                let n = length.max(*context) as f64 / *context as f64;
                (of(self.base * (factor * n - (factor - 1.0)).powf(d / (d - 2.0))), 1.0)
            }
            Scaling::Yarn { factor, context, rotations, rounded, size } => {
                // The dimension that turns so often within the context.
                let at = |r: f64| d * (*context as f64 / (r * 2.0 * PI)).ln() / (2.0 * self.base.ln());
                let (low, high) = match rounded {
                    true => (at(rotations[0]).floor(), at(rotations[1]).ceil()),
                    false => (at(rotations[0]), at(rotations[1])),
                };
                let (low, mut high) = (low.max(0.0), high.min(d - 1.0));
                if low == high {
                    high += 0.001;
                }
                let changed = plain(self.base).enumerate().map(|(i, f)| {
                    let share = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    f / factor * share + f * (1.0 - share)
                });
                (changed.collect(), *size)
            }
            Scaling::Llama3 { factor, context, waves: [low, high] } => {
                let changed = plain(self.base).map(|f| {
                    let rotations = *context as f64 * f / (2.0 * PI);
                    if rotations < *low {
                        f / factor
                    } else if rotations > *high {
                        f
                    } else {
                        let share = (rotations - low) / (high - low);
                        (1.0 - share) * f / factor + share * f
                    }
                });
                (changed.collect(), 1.0)
            }
            Scaling::Long { short, long, context, size } => {
                let divisors = if length > *context { long } else { short };
                (plain(self.base).zip(divisors).map(|(f, by)| f / by).collect(), *size)
            }
        }
    }

    /// Turns of `count` positions from the `first` on, the last of a sequence.
    pub fn turns(&self, first: usize, count: usize) -> Turns {
        let (frequencies, size) = self.frequencies(first + count);
        let turn = |p: usize, f: &f64| {
            let (sin, cos) = (p as f64 * f).sin_cos();
            ((size * sin) as f32, (size * cos) as f32)
        };
        let table = (first..first + count).flat_map(|p| frequencies.iter().map(move |f| turn(p, f))).collect();
        Turns { table, half: self.dims / 2 }
    }
}

impl Turns {
    /// Turns the heads of `each` entries, `[positions, heads * each]`.
    pub fn apply(&self, x: &mut [f32], heads: usize, each: usize) {
        let half = self.half;
        for (row, head) in x.chunks_exact_mut(each).enumerate() {
            let turns = &self.table[row / heads * half..][..half];
            let (a, b) = head[..2 * half].split_at_mut(half);
            for ((a, b), (sin, cos)) in a.iter_mut().zip(b).zip(turns) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_are_read_or_refused_by_name() {
        let read = |c: Value| Scaling::read(&c, 8, 32, None, false);
        assert_eq!(read(json!(null)), Ok(Scaling::None));
        assert_eq!(read(json!({"type": "linear", "factor": 2})), Ok(Scaling::Linear(2.0)));
        assert_eq!(read(json!({"rope_type": "dynamic", "factor": 2.0})).unwrap().reach(32), 64);
        for (c, part) in [
            (json!({"rope_type": "linear"}), "`factor`"),
            (json!({"rope_type": "linear", "factor": 0}), "`factor`"),
            (json!({"factor": 2}), "not named"),
            (json!({"rope_type": "spiral"}), "spiral"),
            (json!({"rope_type": "default", "mrope_section": [1, 2]}), "mrope_section"),
            (json!({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}), "short_factor"),
        ] {
            let said = read(c.clone()).unwrap_err();
            assert!(said.contains(part), "{c}: {said}");
        }
        assert!(matches!(Scaling::read(&json!({"type": "su"}), 0, 32, None, true), Ok(Scaling::Long { .. })));
    }

    #[test]
    fn what_is_not_scaled_is_the_same_under_every_kind() {
        let plain = Rope { dims: 8, base: 100.0, scaling: Scaling::None };
        let want = plain.frequencies(10).0;
        for scaling in [
            Scaling::Linear(1.0),
            Scaling::Dynamic { factor: 4.0, context: 10 },
            Scaling::Yarn { factor: 1.0, context: 10, rotations: [32.0, 1.0], rounded: true, size: 1.0 },
            Scaling::Llama3 { factor: 8.0, context: 100_000, waves: [1.0, 4.0] },
            Scaling::Long { short: vec![1.0; 4], long: vec![2.0; 4], context: 10, size: 1.0 },
        ] {
            let got = Rope { scaling: scaling.clone(), ..plain.clone() }.frequencies(10).0;
            assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-12), "{scaling:?}: {got:?}");
        }
    }
}
