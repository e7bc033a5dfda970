/// A counter-based stream of random numbers, keyed by (seed, purpose, layer, step).
///
/// The same key gives the same numbers on every machine, for any thread count and any order of calls to other streams.
/// The mixing function is SplitMix64's (Steele, Lea & Flood 2014).
#[derive(Clone, Debug)]
pub struct Rng {
    key: u64,
    counter: u64,
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The stream for one `purpose` ("init", "shuffle", ...) in `layer` at `step` under `seed`.
    pub fn stream(seed: u64, purpose: &str, layer: u64, step: u64) -> Self {
        let purpose = purpose.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| mix(h ^ u64::from(b)));
        let key = [purpose, layer, step].into_iter().fold(mix(seed ^ GOLDEN), |h, x| mix(h.wrapping_add(GOLDEN) ^ x));
        Self { key, counter: 0 }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.counter += 1;
        mix(self.key.wrapping_add(self.counter.wrapping_mul(GOLDEN)))
    }

    /// The same stream behind `n` numbers of 64 bits more. O(1).
    pub fn ahead(&self, n: u64) -> Self {
        Self { key: self.key, counter: self.counter + n }
    }

    /// Uniform in `[0, 1)`, 24 bits.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// Uniform in `[0, 1)`, 53 bits.
    pub fn unit64(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal (Box-Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit64()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit64()).cos()
    }

    /// Uniform in `0..n`; the multiply-shift bias is below n / 2⁶⁴.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }

    /// Draws `k` distinct numbers below `n`, ascending, uniform over all such sets. O(k) memory, O(k log k) time.
    ///
    /// # Panics
    /// When `k > n`.
    pub fn distinct(&mut self, n: u64, k: usize) -> Vec<u64> {
        assert!(k as u64 <= n, "cannot draw {k} distinct numbers below {n}");
        if k as u64 > n / 2 {
            // The complement is the smaller draw; writing it out costs O(n) <= O(2k).
            let mut out = self.distinct(n, (n - k as u64) as usize).into_iter().peekable();
            return (0..n).filter(|i| out.next_if_eq(i).is_none()).collect();
        }
        // Independent draws without duplicates until there are k: every k-set is equally likely.
        let mut set: Vec<u64> = Vec::with_capacity(k + k / 8);
        while set.len() < k {
            let missing = k - set.len();
            set.extend((0..missing).map(|_| self.below(n)));
            set.sort_unstable();
            set.dedup();
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_every_part_of_the_key() {
        let first = |s, p, l, t| Rng::stream(s, p, l, t).bits();
        let base = first(1, "init", 0, 0);
        for other in [first(2, "init", 0, 0), first(1, "data", 0, 0), first(1, "init", 1, 0), first(1, "init", 0, 1)] {
            assert_ne!(base, other);
        }
        assert_eq!(base, first(1, "init", 0, 0));
    }

    #[test]
    fn ahead_skips_what_would_have_been_drawn() {
        let mut rng = Rng::stream(3, "test", 1, 2);
        let ahead = rng.ahead(5).normal();
        for _ in 0..5 {
            rng.bits();
        }
        assert_eq!(rng.normal(), ahead);
    }

    #[test]
    fn moments_are_right() {
        let mut r = Rng::stream(0, "test", 0, 0);
        let n = 200_000;
        let (mut mean, mut square) = (0.0, 0.0);
        for _ in 0..n {
            let x = r.normal();
            mean += x / n as f64;
            square += x * x / n as f64;
        }
        assert!(mean.abs() < 0.01 && (square - 1.0).abs() < 0.02, "{mean} {square}");
    }

    #[test]
    fn distinct_is_distinct_sorted_and_even() {
        let mut hits = [0usize; 10];
        for t in 0..4000 {
            for k in [3, 8] {
                let set = Rng::stream(0, "distinct", k, t).distinct(10, k as usize);
                assert_eq!(set.len(), k as usize);
                assert!(set.windows(2).all(|w| w[0] < w[1]) && *set.last().unwrap() < 10);
                set.iter().for_each(|&i| hits[i as usize] += 1);
            }
        }
        // 4000 * (3 + 8) / 10 = 4400 expected hits per number, standard deviation about 40.
        assert!(hits.iter().all(|&h| h.abs_diff(4400) < 200), "{hits:?}");
    }
}
