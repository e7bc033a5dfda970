//! The entries of highest or lowest score without a sort of all.

use rayon::prelude::*;

/// Numbers a thread takes at once.
const PART: usize = 1 << 16;
/// Most counts of the upper bits of keys that are made at once.
const COUNTS: usize = 16;
/// Lower bits, by which keys are not counted: those of sign, exponent and three bits of the fraction are, so that the counts
/// stay in the first-level cache.
const LOWER: u32 = 20;
/// Fewer numbers than this are not worth a count.
const FEW: usize = 1 << 12;

/// A key that ascends as `f32::total_cmp` does.
fn key(x: f32) -> u32 {
    let bits = x.to_bits();
    bits ^ (((bits as i32 >> 31) as u32) | 1 << 31)
}

/// Keys of some numbers by rank: ascending, ties by place.
pub(crate) struct Ranks<'a, K> {
    values: &'a [f32],
    key: K,
    /// Keys with lower upper bits, for all upper bits.
    below: Vec<usize>,
}

impl<'a, K: Fn(f32) -> u32 + Sync> Ranks<'a, K> {
    /// Counts the upper bits. O(values), on all threads.
    pub fn new(values: &'a [f32], key: K) -> Self {
        let part = values.len().div_ceil(COUNTS).max(PART);
        let count = |values: &[f32]| {
            let mut counts = vec![0u32; 1 << (32 - LOWER)];
            values.iter().for_each(|&v| counts[(key(v) >> LOWER) as usize] += 1);
            counts
        };
        let counts: Vec<Vec<u32>> = values.par_chunks(part).map(count).collect();
        let mut sum = 0;
        let mut below = Vec::with_capacity((1 << (32 - LOWER)) + 1);
        for upper in 0..1 << (32 - LOWER) {
            below.push(sum);
            sum += counts.iter().map(|c| c[upper] as usize).sum::<usize>();
        }
        below.push(sum);
        Self { values, key, below }
    }

    /// How many keys have a lower first bit than one.
    pub fn first_half(&self) -> usize {
        self.below[1 << (31 - LOWER)]
    }

    /// The key of a rank, which must be one, and how many keys are below it. O(values), on all threads.
    pub fn at(&self, rank: usize) -> (u32, usize) {
        let upper = self.below.partition_point(|&b| b <= rank) - 1;
        let same = |values: &[f32]| -> Vec<u32> {
            values.iter().map(|&v| (self.key)(v)).filter(|k| (k >> LOWER) as usize == upper).collect()
        };
        let mut keys = self.values.par_chunks(PART).map(same).collect::<Vec<_>>().concat();
        let inner = rank - self.below[upper];
        let (_, &mut found, _) = keys.select_nth_unstable(inner);
        (found, self.below[upper] + keys.iter().filter(|&&k| k < found).count())
    }
}

/// Marks the `count` highest scores, ties by place, lowest first. O(scores), on all threads.
pub(crate) fn top(score: &[f32], count: usize, keep: &mut [bool]) {
    if count >= score.len() {
        keep.fill(true);
    } else if count > 0 && score.len() < FEW {
        let mut order: Vec<usize> = (0..score.len()).collect();
        order.select_nth_unstable_by(count - 1, |&a, &b| score[b].total_cmp(&score[a]).then(a.cmp(&b)));
        order[..count].iter().for_each(|&i| keep[i] = true);
    } else if count > 0 {
        let least = Ranks::new(score, key).at(score.len() - count).0;
        let counts = |part: &[f32]| {
            let (mut above, mut same) = (0, 0);
            for &s in part {
                above += usize::from(key(s) > least);
                same += usize::from(key(s) == least);
            }
            (above, same)
        };
        let counts: Vec<(usize, usize)> = score.par_chunks(PART).map(counts).collect();
        // Ties that stay are the first ones.
        let mut left = count - counts.iter().map(|c| c.0).sum::<usize>();
        let ties: Vec<usize> = counts
            .iter()
            .map(|&(_, same)| {
                let own = same.min(left);
                left -= own;
                own
            })
            .collect();
        keep.par_chunks_mut(PART).zip(score.par_chunks(PART)).zip(ties).for_each(|((keep, score), mut ties)| {
            for (keep, &s) in keep.iter_mut().zip(score) {
                let tied = key(s) == least && ties > 0;
                ties -= usize::from(tied);
                *keep = key(s) > least || tied;
            }
        });
    }
}

/// Entries of each sign by |w|, as a fraction of their number: (rank + 0.5) / number, ties by place. Zeros count as positive.
/// Marks the `count` entries where it is highest, ties by place, lowest first. O(values), on all threads.
pub(crate) fn top_of_each_sign(values: &[f32], count: usize, keep: &mut [bool]) {
    if count >= values.len() {
        return keep.fill(true);
    }
    // Positive entries first, each sign by |w|.
    let key = |w: f32| w.abs().to_bits() | u32::from(w < 0.0) << 31;
    let ranks = Ranks::new(values, key);
    let positive = ranks.first_half();
    let sizes = [positive, values.len() - positive];
    let fraction = |rank: usize, n: usize| (rank as f32 + 0.5) / n as f32;
    // How many of a sign have a fraction below, and up to, some number.
    let upto = |n: usize, fits: &dyn Fn(f32) -> bool| {
        let (mut low, mut high) = (0, n);
        while low < high {
            let mid = (low + high) / 2;
            if fits(fraction(mid, n)) { low = mid + 1 } else { high = mid }
        }
        low
    };
    // The fraction of the last one that goes: the lowest number up to which enough have theirs. Positive numbers ascend as
    // their bits do.
    let lost = values.len() - count;
    let (mut low, mut high) = (0u32, 2f32.to_bits());
    while low < high {
        let mid = (low + high) / 2;
        let enough = sizes.iter().map(|&n| upto(n, &|f| f <= f32::from_bits(mid))).sum::<usize>() >= lost;
        if enough { high = mid } else { low = mid + 1 }
    }
    let last = f32::from_bits(low);
    let gone = sizes.map(|n| upto(n, &|f| f < last));
    let tied = sizes.map(|n| upto(n, &|f| f <= last));
    // Keys of each sign below which all go and above which all stay; what lies between is looked at one by one.
    let bounds = [0, 1].map(|sign| {
        let first = if sign == 0 { 0 } else { positive };
        if sizes[sign] == 0 || tied[sign] == 0 {
            return None;
        }
        let from = gone[sign].min(tied[sign] - 1);
        let (low, below) = ranks.at(first + from);
        let high = if tied[sign] - 1 > from { ranks.at(first + tied[sign] - 1).0 } else { low };
        Some((low, high, below - first))
    });
    // Keys count from one here, so that there is a bound below all of them where all stay.
    let limits = bounds.map(|b| b.map_or((1, 0), |(low, high, _)| (u64::from(low) + 1, u64::from(high) + 1)));
    let mark = |(part, (keep, values)): (usize, (&mut [bool], &[f32]))| {
        let mut between: Vec<(u32, usize)> = Vec::new();
        for (i, (keep, &w)) in keep.iter_mut().zip(values).enumerate() {
            let key = key(w);
            let ((low, high), at) = (limits[(key >> 31) as usize], u64::from(key) + 1);
            *keep = at > high;
            if low <= at && at <= high {
                between.push((key, part * PART + i));
            }
        }
        between
    };
    let between: Vec<Vec<(u32, usize)>> =
        keep.par_chunks_mut(PART).zip(values.par_chunks(PART)).enumerate().map(mark).collect();
    let mut between = between.concat();
    between.par_sort_unstable();
    let (first, second) = between.split_at(between.partition_point(|&(key, _)| key >> 31 == 0));
    let mut candidates: Vec<usize> = Vec::new();
    for (sign, own) in [first, second].into_iter().enumerate() {
        let Some((_, _, below)) = bounds[sign] else { continue };
        for (rank, &(_, i)) in own.iter().enumerate() {
            match below + rank {
                rank if rank < gone[sign] => {}
                rank if rank < tied[sign] => candidates.push(i),
                _ => keep[i] = true,
            }
        }
    }
    // Of equal fractions the first stay.
    candidates.sort_unstable();
    let stay = candidates.len() - (lost - gone[0] - gone[1]);
    candidates[..stay].iter().for_each(|&i| keep[i] = true);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    /// Numbers with many ties, zeros of both signs and what is no number among them.
    fn numbers(seed: u64, n: usize, levels: u64) -> Vec<f32> {
        let mut rng = Rng::stream(seed, "test", 0, levels);
        let mut draw = || match rng.below(levels) {
            0 => -0.0,
            1 => f32::NAN,
            2 => f32::INFINITY,
            level => (level as f32 / levels as f32 - 0.4) * if level % 5 == 0 { 1e-30 } else { 1.0 },
        };
        (0..n).map(|_| draw()).collect()
    }

    fn plain_top(score: &[f32], count: usize) -> Vec<bool> {
        let mut order: Vec<usize> = (0..score.len()).collect();
        order.sort_by(|&a, &b| score[b].total_cmp(&score[a]).then(a.cmp(&b)));
        let mut keep = vec![false; score.len()];
        order.iter().take(count).for_each(|&i| keep[i] = true);
        keep
    }

    fn fractions(values: &[f32]) -> Vec<f32> {
        let mut score = vec![0.0; values.len()];
        for negative in [false, true] {
            let mut same: Vec<usize> = (0..values.len()).filter(|&i| (values[i] < 0.0) == negative).collect();
            same.sort_by_key(|&i| (values[i].abs().to_bits(), i));
            let n = same.len() as f32;
            same.iter().enumerate().for_each(|(rank, &i)| score[i] = (rank as f32 + 0.5) / n);
        }
        score
    }

    #[test]
    fn the_highest_are_those_of_a_sort() {
        for (n, levels) in [(0, 9), (1, 9), (50, 9), (5000, 4), (5000, 1 << 40), (140_000, 100), (140_000, 1 << 40)] {
            let values = numbers(1, n, levels);
            for count in [0, 1, n / 3, n.saturating_sub(1), n + 5] {
                let mut keep = vec![false; n];
                top(&values, count, &mut keep);
                assert!(keep == plain_top(&values, count), "{count} of {n}");
                let mut keep = vec![false; n];
                top_of_each_sign(&values, count, &mut keep);
                assert!(keep == plain_top(&fractions(&values), count), "{count} of {n} by sign, {levels} levels");
            }
        }
    }

    #[test]
    fn one_sign_alone() {
        for sign in [1.0, -1.0] {
            let values: Vec<f32> = (1..5000).map(|i| sign * (i * 7919 % 5003) as f32).collect();
            let mut keep = vec![false; values.len()];
            top_of_each_sign(&values, 1234, &mut keep);
            assert!(keep == plain_top(&fractions(&values), 1234));
        }
    }

    /// Fractions of so many numbers are equal in 32 bits now and then.
    #[test]
    fn fractions_that_round_to_the_same() {
        let n = (1 << 23) + 70_000;
        let values: Vec<f32> = (0..n as u32).map(|i| f32::from_bits(0x3000_0000 + n as u32 - i)).collect();
        let score: Vec<f32> = (0..n).map(|i| ((n - 1 - i) as f32 + 0.5) / n as f32).collect();
        assert!(score.windows(2).any(|s| s[0] == s[1]));
        for count in [1000, 1001, 1002] {
            let (mut keep, mut want) = (vec![false; n], vec![false; n]);
            top_of_each_sign(&values, count, &mut keep);
            top(&score, count, &mut want);
            assert!(keep == want, "{count}");
        }
    }
}
