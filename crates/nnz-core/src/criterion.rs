use crate::{Pattern, Result, Rng, Signals, Target, Topology, Zero, rank};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Ranks the existing entries of a target; the entries with the highest scores are kept.
pub trait Criterion: Send + Sync {
    /// Signals that must be measured first.
    fn needs(&self) -> Signals {
        Signals::NONE
    }

    /// Scores each entry of `target.topology`, in its order.
    fn score(&self, target: &Target, rng: &mut Rng) -> Vec<f32>;

    /// Which entries stay when `count` do: those of highest score, ties by place, lowest first. For criteria that know them
    /// without a number for each.
    fn keep(&self, target: &Target, count: usize, rng: &mut Rng) -> Vec<bool> {
        Pattern::Unstructured.select(target.topology, &self.score(target, rng), count)
    }
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

/// Rank of |w| among the weights of the same sign, divided by their number: the lowest ζ are the ζ of the positive and the ζ
/// of the negative weights that are nearest to zero.
pub struct MagnitudeOfEachSign;

impl Criterion for MagnitudeOfEachSign {
    fn score(&self, target: &Target, _: &mut Rng) -> Vec<f32> {
        let mut score = vec![0.0; target.values.len()];
        for negative in [false, true] {
            // Bits of |w| order as it does; ties by position.
            let signed = target.values.iter().enumerate().filter(|(_, w)| (**w < 0.0) == negative);
            let mut same: Vec<u64> = signed.map(|(i, w)| u64::from(w.abs().to_bits()) << 32 | i as u64).collect();
            same.par_sort_unstable();
            let n = same.len() as f32;
            let ranked = same.into_iter().enumerate();
            ranked.for_each(|(rank, key)| score[key as u32 as usize] = (rank as f32 + 0.5) / n);
        }
        score
    }

    fn keep(&self, target: &Target, count: usize, _: &mut Rng) -> Vec<bool> {
        let mut keep = vec![false; target.values.len()];
        rank::top_of_each_sign(target.values, count, &mut keep);
        keep
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

    /// Draws among the positions that were zero before the drop, given in ascending order. O(count) while at most half of the
    /// target exists.
    fn grow(&mut self, _: u64, target: &Target, _: &[bool], count: usize, rng: &mut Rng) -> Vec<(u64, f32)> {
        let len = target.shape.len() as u64;
        let count = count.min((len - target.topology.nnz() as u64) as usize);
        let drawn = zeros_in_order(target.topology, count, rng);
        // Every value takes two numbers of the stream, in the order of the draw.
        let value = |(p, order): (u64, u32)| (p, self.std * rng.ahead(2 * u64::from(order)).normal() as f32);
        let grown = drawn.into_par_iter().with_min_len(1 << 10).map(value).collect();
        *rng = rng.ahead(2 * count as u64);
        grown
    }
}

/// Draws `count` distinct zeros, uniform over all such sets; so many must exist. O(count) up to half of the matrix.
pub fn random_zeros(topology: &Topology, count: usize, rng: &mut Rng) -> Vec<u64> {
    let mut drawn = vec![0; count];
    zeros_in_order(topology, count, rng).into_iter().for_each(|(p, order)| drawn[order as usize] = p);
    drawn
}

/// The same in ascending order, each with its place in the order of the draw.
///
/// # Panics
/// When there are not as many, or more than 2³² are asked for.
fn zeros_in_order(topology: &Topology, count: usize, rng: &mut Rng) -> Vec<(u64, u32)> {
    let len = topology.rows() as u64 * topology.cols() as u64;
    let zeros = len - topology.nnz() as u64;
    assert!(count as u64 <= zeros && u32::try_from(count).is_ok(), "cannot draw {count} of {zeros} zeros");
    if zeros <= len / 2 {
        let mut exists = topology.positions().peekable();
        let absent: Vec<u64> = (0..len).filter(|p| exists.next_if_eq(p).is_none()).collect();
        return rng.distinct(zeros, count).into_iter().zip(0..).map(|(i, order)| (absent[i as usize], order)).collect();
    }
    // Draws one after the other, of which those that hit a connection or an earlier draw do not count. As many as are missing
    // are drawn at once: they never are too many.
    let mut rounds: Vec<Vec<(u64, u32)>> = Vec::new();
    let mut done = 0;
    while done < count {
        let missing = count - done;
        let (mut new, mut lost) = draw(topology, len, missing, rng);
        *rng = rng.ahead(missing as u64);
        if !rounds.is_empty() {
            let hit = |&(p, _): &(u64, u32)| rounds.iter().any(|r| r.binary_search_by_key(&p, |d| d.0).is_ok());
            let hits: Vec<bool> = new.par_iter().with_min_len(1 << 10).map(hit).collect();
            lost.extend(new.iter().zip(&hits).filter(|(_, hit)| **hit).map(|(d, _)| d.1));
            let mut hits = hits.into_iter();
            new.retain(|_| hits.next() == Some(false));
        }
        // A draw comes as much earlier as draws before it were lost.
        let lost = Lost::new(missing, &lost);
        let place = |n: &mut (u64, u32)| n.1 = done as u32 + n.1 - lost.below(n.1);
        new.par_iter_mut().with_min_len(1 << 12).for_each(place);
        done += new.len();
        rounds.push(new);
    }
    let mut rounds = rounds.into_iter().skip_while(Vec::is_empty);
    let first = rounds.next().unwrap_or_default();
    let mut late: Vec<(u64, u32)> = rounds.flatten().collect();
    late.par_sort_unstable();
    merged(first, &late)
}

/// Merges ascending draws with much fewer ascending ones, on all threads.
fn merged(first: Vec<(u64, u32)>, late: &[(u64, u32)]) -> Vec<(u64, u32)> {
    if late.is_empty() {
        return first;
    }
    // Ranges of the first, and those of the others that come before its end.
    let mut before = 0;
    let mut all = blank(first.len() + late.len());
    let mut rest = &mut all[..];
    let mut jobs = Vec::with_capacity(first.len() / DRAWS + 1);
    for (i, own) in first.chunks(DRAWS).enumerate() {
        let upto = match first.get((i + 1) * DRAWS) {
            Some(next) => before + late[before..].partition_point(|d| d.0 < next.0),
            None => late.len(),
        };
        jobs.push((
            own,
            &late[before..upto],
            rest.split_off_mut(..own.len() + upto - before).expect("room for all draws"),
        ));
        before = upto;
    }
    jobs.into_par_iter().for_each(|(mut own, late, to)| {
        let mut at = 0;
        for d in late {
            let (lower, higher) = own.split_at(own.partition_point(|f| f.0 < d.0));
            to[at..at + lower.len()].copy_from_slice(lower);
            at += lower.len();
            to[at] = *d;
            at += 1;
            own = higher;
        }
        to[at..].copy_from_slice(own);
    });
    all
}

/// As many defaults, written first by all threads: the first write to a page takes as long as many later ones.
pub(crate) fn blank<N: Copy + Default + Send + Sync>(len: usize) -> Vec<N> {
    match len < 2 * BLANK {
        true => vec![N::default(); len],
        false => rayon::iter::repeat_n(N::default(), len).with_min_len(BLANK).collect(),
    }
}

/// Numbers worth a thread that writes no more than defaults.
const BLANK: usize = 1 << 16;

/// Some of the numbers up to another one, to be counted from below: a bit for each number, and how many there are before each 64.
struct Lost {
    bits: Vec<u64>,
    before: Vec<u32>,
}

impl Lost {
    fn new(count: usize, some: &[u32]) -> Self {
        let mut bits = vec![0u64; count / 64 + 1];
        some.iter().for_each(|&n| bits[n as usize / 64] |= 1 << (n % 64));
        let mut sum = 0;
        let mut before = Vec::with_capacity(bits.len());
        for word in &bits {
            before.push(sum);
            sum += word.count_ones();
        }
        Self { bits, before }
    }

    fn below(&self, n: u32) -> u32 {
        let word = n as usize / 64;
        self.before[word] + (self.bits[word] & ((1 << (n % 64)) - 1)).count_ones()
    }
}

/// Draws worth a thread.
const DRAWS: usize = 1 << 14;

/// The first `n` draws from `rng` below `len`: those that are zeros and different, ascending, each with its number; and the
/// numbers of the others, in any order.
fn draw(topology: &Topology, len: u64, n: usize, rng: &Rng) -> (Vec<(u64, u32)>, Vec<u32>) {
    // Buckets of 2^shift positions with a few hundred draws each; a draw is one number of 64 bits in its bucket.
    let shift = (len / (n as u64 / 256).max(1)).max(1).ilog2().min(32);
    let buckets = (len >> shift) as usize + 1;
    if n < DRAWS || buckets > n / 16 {
        let mut draws: Vec<(u64, u32)> = {
            let mut rng = rng.clone();
            (0..n as u32).map(|i| (rng.below(len), i)).collect()
        };
        draws.par_sort_unstable();
        return accept(topology, draws.into_iter());
    }
    let parts: Vec<std::ops::Range<usize>> =
        (0..n.div_ceil(DRAWS)).map(|i| i * DRAWS..n.min((i + 1) * DRAWS)).collect();
    // As many draws as there are threads to make them, cut by the number of draws alone.
    let each = parts.len().div_ceil(COUNTED);
    let parts: Vec<std::ops::Range<usize>> = parts.chunks(each).map(|c| c[0].start..c[c.len() - 1].end).collect();
    let sort = |part: &std::ops::Range<usize>| {
        let draws = || {
            let mut rng = rng.ahead(part.start as u64);
            part.clone().map(move |i| (rng.below(len), i as u64))
        };
        let mut starts = vec![0u32; buckets + 1];
        draws().for_each(|(p, _)| starts[(p >> shift) as usize + 1] += 1);
        (0..buckets).for_each(|b| starts[b + 1] += starts[b]);
        let (mut next, mut sorted) = (starts.clone(), vec![0u64; part.len()]);
        for (p, i) in draws() {
            let slot = &mut next[(p >> shift) as usize];
            sorted[*slot as usize] = (p & ((1 << shift) - 1)) << 32 | i;
            *slot += 1;
        }
        (starts, sorted)
    };
    let sorted: Vec<(Vec<u32>, Vec<u64>)> = parts.par_iter().map(sort).collect();
    let bucket = |b: usize| {
        let mut own: Vec<u64> = Vec::with_capacity(1 << 10);
        sorted.iter().for_each(|(starts, s)| own.extend_from_slice(&s[starts[b] as usize..starts[b + 1] as usize]));
        own.sort_unstable();
        let first = (b as u64) << shift;
        accept(topology, own.into_iter().map(move |d| (first | d >> 32, d as u32)))
    };
    let found: Vec<_> = (0..buckets).into_par_iter().with_min_len(32).map(bucket).collect();
    let lost = found.iter().flat_map(|f| f.1.iter().copied()).collect();
    let mut all = blank(found.iter().map(|f| f.0.len()).sum());
    let mut rest = &mut all[..];
    let room = |(good, _): &(Vec<_>, _)| rest.split_off_mut(..good.len()).expect("room for all draws");
    let rooms: Vec<&mut [(u64, u32)]> = found.iter().map(room).collect();
    rooms.into_par_iter().zip(&found).with_min_len(32).for_each(|(to, (good, _))| to.copy_from_slice(good));
    (all, lost)
}

/// Most parts of the draws that are sorted for themselves.
const COUNTED: usize = 16;

/// Of ascending draws with their numbers: the first at each zero, and the numbers of the others.
fn accept(topology: &Topology, draws: impl Iterator<Item = (u64, u32)>) -> (Vec<(u64, u32)>, Vec<u32>) {
    let (mut good, mut bad): (Vec<(u64, u32)>, Vec<u32>) = (Vec::with_capacity(draws.size_hint().0), Vec::new());
    let mut held = topology.held();
    for (p, i) in draws {
        match held(p) || good.last().is_some_and(|g| g.0 == p) {
            true => bad.push(i),
            false => good.push((p, i)),
        }
    }
    (good, bad)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Shape;
    use std::collections::HashSet;

    /// One draw after the other.
    fn plain(topology: &Topology, count: usize, rng: &mut Rng) -> Vec<u64> {
        let len = topology.rows() as u64 * topology.cols() as u64;
        let (mut seen, mut drawn) = (HashSet::new(), Vec::new());
        while drawn.len() < count {
            let p = rng.below(len);
            if topology.find(p).is_none() && seen.insert(p) {
                drawn.push(p);
            }
        }
        drawn
    }

    #[test]
    fn zeros_are_those_of_one_draw_after_the_other() {
        for (rows, cols, nnz, count) in [
            (20, 30, 100, 150),
            (20, 30, 290, 250),
            (700, 900, 200_000, 100_000),
            (700, 900, 10, 300_000),
            (300_000, 300_000, 100_000, 40_000),
            (3_000_000, 3_000_000, 50, 40_000),
        ] {
            let existing = Rng::stream(1, "test", 0, 0).distinct(rows as u64 * cols as u64, nnz);
            let topology = Topology::from_positions(rows, cols, existing);
            let stream = || Rng::stream(2, "test", 0, 0);
            let (mut a, mut b, mut c) = (stream(), stream(), stream());
            let want = plain(&topology, count, &mut a);
            assert_eq!(random_zeros(&topology, count, &mut b), want, "{rows}x{cols}");
            let mut want: Vec<(u64, f32)> = want.into_iter().map(|p| (p, 0.5 * a.normal() as f32)).collect();
            want.sort_by_key(|w| w.0);
            let (shape, values) = (Shape::matrix("a", rows, cols), vec![0.0; nnz]);
            let target = Target::new(0, &shape, &topology, &values);
            let got = Random { std: 0.5 }.grow(0, &target, &vec![true; nnz], count, &mut c);
            assert_eq!(got, want, "{rows}x{cols}");
            assert_eq!(a.bits(), c.bits(), "the stream goes on where it would have");
        }
    }

    /// Nearly every other draw hits a connection: all of the first ones do at times.
    #[test]
    fn a_few_zeros_are_those_of_one_draw_after_the_other() {
        let topology = Topology::from_positions(10, 10, (0..49).map(|i| 2 * i));
        for seed in 0..200 {
            let [mut a, mut b] = [0, 0].map(|_| Rng::stream(seed, "few", 0, 0));
            let count = 1 + seed as usize % 4;
            let want = plain(&topology, count, &mut a);
            assert_eq!(random_zeros(&topology, count, &mut b), want, "seed {seed}");
        }
    }

    #[test]
    fn what_stays_of_each_sign_has_the_highest_scores() {
        let (shape, topology) = (Shape::matrix("a", 100, 100), Topology::full(100, 100));
        let mut rng = Rng::stream(0, "test", 0, 0);
        let values: Vec<f32> = (0..10_000).map(|_| (rng.below(900) as f32 - 300.0) / 8.0).collect();
        let target = Target::new(0, &shape, &topology, &values);
        let score = MagnitudeOfEachSign.score(&target, &mut rng);
        for count in [0, 1, 3333, 9999, 10_000] {
            let want = Pattern::Unstructured.select(&topology, &score, count);
            assert!(MagnitudeOfEachSign.keep(&target, count, &mut rng) == want, "{count}");
        }
    }
}
