use crate::{Result, Rng, Signals, Target, Topology, Zero};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

/// Ranks the existing entries of a target; the entries with the highest scores are kept.
pub trait Criterion: Send + Sync {
    /// Signals that must be measured first.
    fn needs(&self) -> Signals {
        Signals::NONE
    }

    /// Scores each entry of `target.topology`, in its order.
    fn score(&self, target: &Target, rng: &mut Rng) -> Vec<f32>;
}

/// A criterion applied to the zeros: which connections should be grown?
pub trait Growth: Send {
    /// Signals needed to grow `fraction` of the nonzeros of each target.
    fn needs(&self, fraction: f64) -> Signals;

    /// Zeros of target `index` whose gradient it needs; see [`crate::Sparsifier::candidates`].
    fn candidates(&self, _index: usize, _topology: &Topology, _rng: &mut Rng) -> Vec<u64> {
        Vec::new()
    }

    /// `count` positions that `kept` does not hold, each with its initial value, in any order; fewer if there are no more.
    /// `kept[i]` tells whether entry `i` of the topology survived the drop.
    fn grow(&mut self, step: u64, target: &Target, kept: &[bool], count: usize, rng: &mut Rng) -> Vec<(u64, f32)>;

    /// State to be kept in a checkpoint.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Restores what [`Growth::state`] returned.
    fn restore(&mut self, _state: &Value) -> Result<()> {
        Ok(())
    }
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

/// Uniform noise. As growth: zeros drawn uniformly, with normal initial values of standard deviation `std`.
pub struct Random {
    /// Standard deviation of the initial value of a grown connection; unused as a criterion.
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
    fn grow(&mut self, _: u64, target: &Target, _: &[bool], count: usize, rng: &mut Rng) -> Vec<(u64, f32)> {
        let len = target.shape.len() as u64;
        let count = count.min((len - target.topology.nnz() as u64) as usize);
        let positions = random_zeros(target.topology, count, rng);
        positions.into_iter().map(|p| (p, self.std * rng.normal() as f32)).collect()
    }
}

/// Hasher that returns its key unchanged: a random number is its own hash.
#[derive(Default)]
struct Itself(u64);

impl Hasher for Itself {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.0 = self.0 << 8 | u64::from(b));
    }

    /// Spreads the upper bits too, which hash tables use first.
    fn write_u64(&mut self, n: u64) {
        self.0 = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Draws `count` distinct zeros, uniform over all such sets; so many must exist. O(count) up to half of the matrix.
pub fn random_zeros(topology: &Topology, count: usize, rng: &mut Rng) -> Vec<u64> {
    let len = topology.rows() as u64 * topology.cols() as u64;
    let zeros = len - topology.nnz() as u64;
    if zeros > len / 2 {
        let mut seen = HashSet::with_capacity_and_hasher(count, BuildHasherDefault::<Itself>::default());
        let mut drawn = Vec::with_capacity(count);
        while drawn.len() < count {
            let p = rng.below(len);
            if topology.find(p).is_none() && seen.insert(p) {
                drawn.push(p);
            }
        }
        return drawn;
    }
    let mut exists = topology.positions().peekable();
    let absent: Vec<u64> = (0..len).filter(|p| exists.next_if_eq(p).is_none()).collect();
    rng.distinct(zeros, count).into_iter().map(|i| absent[i as usize]).collect()
}

/// Zeros that growth by gradient considers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GrowthCandidates {
    /// All, O(out · in · rows) at a rewiring; refused above [`GrowthCandidates::LIMIT`] entries in a layer.
    #[default]
    Exact,
    /// One random zero per connection, O(nnz · rows): a deviation from the papers.
    Sampled,
}

impl GrowthCandidates {
    /// Largest layer, in entries, whose zeros are all considered: about ten seconds on a core for a batch of 128.
    pub const LIMIT: u64 = 1 << 32;

    /// Signals needed to choose among as many zeros as `fraction` of the nonzeros.
    pub fn needs(self, fraction: f64) -> Signals {
        match self {
            Self::Exact => Signals { zeros: fraction, ..Signals::GRADIENT },
            Self::Sampled => Signals { candidates: true, ..Signals::GRADIENT },
        }
    }

    /// Draws as many random zeros as there are connections, for [`GrowthCandidates::Sampled`].
    pub fn candidates(self, topology: &Topology, rng: &mut Rng) -> Vec<u64> {
        match self {
            Self::Exact => Vec::new(),
            Self::Sampled => {
                let zeros = topology.rows() as u64 * topology.cols() as u64 - topology.nnz() as u64;
                random_zeros(topology, topology.nnz().min(zeros as usize), rng)
            }
        }
    }
}

/// |∂L/∂w| of the zeros: connections of largest gradient are grown with value zero (Evci et al. 2020, arXiv:1911.11134,
/// eq. 1). A connection dropped in the same step competes too and, if it wins, keeps its value.
pub struct Gradient(pub GrowthCandidates);

/// Collects the zeros and the dropped connections, each with its gradient and the value it would have.
pub fn contenders(target: &Target, kept: &[bool]) -> Vec<(Zero, f32)> {
    let entries = target.topology.positions().zip(target.gradient).zip(target.values);
    let dropped = entries.zip(kept).filter(|&(_, &kept)| !kept);
    let dropped = dropped.map(|(((position, &gradient), &value), _)| (Zero { position, gradient }, value));
    dropped.chain(target.zeros.iter().map(|&z| (z, 0.0))).collect()
}

impl Growth for Gradient {
    fn needs(&self, fraction: f64) -> Signals {
        self.0.needs(fraction)
    }

    fn candidates(&self, _: usize, topology: &Topology, rng: &mut Rng) -> Vec<u64> {
        self.0.candidates(topology, rng)
    }

    fn grow(&mut self, _: u64, target: &Target, kept: &[bool], count: usize, _: &mut Rng) -> Vec<(u64, f32)> {
        let mut all = contenders(target, kept);
        all.sort_unstable_by(|(a, _), (b, _)| {
            b.gradient.abs().total_cmp(&a.gradient.abs()).then(a.position.cmp(&b.position))
        });
        all.into_iter().take(count).map(|(z, value)| (z.position, value)).collect()
    }
}
