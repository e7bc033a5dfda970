use crate::{Rng, Signals, Target, Zero};
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

/// Ranks the existing entries of a target: the larger the score, the longer it is kept.
pub trait Criterion: Send + Sync {
    /// What must be measured first.
    fn needs(&self) -> Signals {
        Signals::NONE
    }

    /// One score for each entry of `target.topology`, in its order.
    fn score(&self, target: &Target, rng: &mut Rng) -> Vec<f32>;
}

/// A criterion asked of the zeros: which connections should be born?
pub trait Growth: Send + Sync {
    /// What must be measured to grow `fraction` of the nonzeros of each target.
    fn needs(&self, fraction: f64) -> Signals;

    /// `count` positions that `kept` does not hold, each with its first value, in any order.
    /// `kept[i]` tells whether entry `i` of the topology survived the drop.
    fn grow(&self, target: &Target, kept: &[bool], count: usize, rng: &mut Rng) -> Vec<(u64, f32)>;
}

/// |w|
pub struct Magnitude;

impl Criterion for Magnitude {
    fn score(&self, target: &Target, _: &mut Rng) -> Vec<f32> {
        target.values.iter().map(|w| w.abs()).collect()
    }
}

/// |w ∂L/∂w|, connection sensitivity (Lee et al. 2019, arXiv:1810.02340, eq. 5 without its normalization, which does
/// not change the order).
pub struct Sensitivity;

impl Criterion for Sensitivity {
    fn needs(&self) -> Signals {
        Signals::GRADIENT
    }

    fn score(&self, target: &Target, _: &mut Rng) -> Vec<f32> {
        target.values.iter().zip(target.gradient).map(|(w, g)| (w * g).abs()).collect()
    }
}

/// Uniform noise. As growth: zeros drawn uniformly, with normal first values of standard deviation `std`.
pub struct Random {
    /// Standard deviation of the first value of a grown connection; unused as a criterion.
    pub std: f32,
}

impl Criterion for Random {
    fn score(&self, target: &Target, rng: &mut Rng) -> Vec<f32> {
        target.values.iter().map(|_| rng.unit()).collect()
    }
}

impl Growth for Random {
    fn needs(&self, _: f64) -> Signals {
        Signals::NONE
    }

    /// Draws among the positions that were zero before the drop. O(count) while at most half of the target exists.
    fn grow(&self, target: &Target, _: &[bool], count: usize, rng: &mut Rng) -> Vec<(u64, f32)> {
        let len = target.shape.len() as u64;
        let zeros = len - target.topology.nnz() as u64;
        let count = count.min(zeros as usize);
        let positions: Vec<u64> = if zeros > len / 2 {
            let mut seen = HashSet::with_capacity_and_hasher(count, BuildHasherDefault::<Itself>::default());
            let mut born = Vec::with_capacity(count);
            while born.len() < count {
                let p = rng.below(len);
                if target.topology.find(p).is_none() && seen.insert(p) {
                    born.push(p);
                }
            }
            born
        } else {
            let mut exists = target.topology.positions().peekable();
            let absent: Vec<u64> = (0..len).filter(|p| exists.next_if_eq(p).is_none()).collect();
            rng.distinct(zeros, count).into_iter().map(|i| absent[i as usize]).collect()
        };
        positions.into_iter().map(|p| (p, self.std * rng.normal() as f32)).collect()
    }
}

/// A random number is its own hash.
#[derive(Default)]
struct Itself(u64);

impl Hasher for Itself {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.0 = self.0 << 8 | u64::from(b));
    }

    /// Its upper bits are spread too, which tables look at first.
    fn write_u64(&mut self, n: u64) {
        self.0 = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// |∂L/∂w| of the zeros: connections of largest gradient are born with value zero (Evci et al. 2020, arXiv:1911.11134,
/// eq. 1). A connection dropped in the same step competes too and, if it wins, keeps its value.
pub struct Gradient;

impl Growth for Gradient {
    fn needs(&self, fraction: f64) -> Signals {
        Signals { zeros: fraction, ..Signals::GRADIENT }
    }

    fn grow(&self, target: &Target, kept: &[bool], count: usize, _: &mut Rng) -> Vec<(u64, f32)> {
        let entries = target.topology.positions().zip(target.gradient).zip(target.values);
        let dropped = entries.zip(kept).filter(|&(_, &kept)| !kept);
        let mut candidates: Vec<(Zero, f32)> =
            dropped.map(|(((position, &gradient), &value), _)| (Zero { position, gradient }, value)).collect();
        candidates.extend(target.zeros.iter().map(|&z| (z, 0.0)));
        candidates.sort_unstable_by(|(a, _), (b, _)| {
            b.gradient.abs().total_cmp(&a.gradient.abs()).then(a.position.cmp(&b.position))
        });
        candidates.into_iter().take(count).map(|(z, value)| (z.position, value)).collect()
    }
}
