//! Entries of a sparse matrix in cache-sized blocks, lines of equal count together.
//!
//! A *line* keeps its accumulators in registers (a row going forward, a column going backward), *inner* is
//! the other axis, whose activations must stay in the first-level cache. Within a block, lines are sorted by their
//! number of entries, so that loops over entries have a constant trip count and branches are predicted.

use std::ops::Range;

use rayon::prelude::*;

use crate::threads::spread;

/// Fewest multiply-adds worth handing to another thread: about 10 microseconds.
const PARALLEL: usize = 1 << 19;
/// Number of lines that kernels look ahead.
pub(crate) const AHEAD: usize = 8;

/// The blocks of one range of lines. Only [`cut`] and [`crate::compile`] make them: kernels rely on what they check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Inner indices are below this.
    pub inner: usize,
    pub lines: Range<usize>,
    /// Positions of these entries in block order.
    pub entries: Range<usize>,
    pub cells: Vec<Cell>,
    pub groups: Vec<Group>,
    /// Line of each (group, line), from the first of the part, and [`AHEAD`] zeros.
    pub line: Vec<u16>,
    /// Inner index of each entry, from the first of its cell.
    pub index: Vec<u16>,
}

impl Part {
    /// Groups of block `i`.
    pub fn groups_of(&self, i: usize) -> &[Group] {
        let from = if i == 0 { 0 } else { self.cells[i - 1].groups as usize };
        &self.groups[from..self.cells[i].groups as usize]
    }

    /// Calls `f(line, entries, first index of the block)` for the entries of each line in each block, all counted from the
    /// first of the part, in block order.
    pub fn runs(&self, mut f: impl FnMut(usize, Range<usize>, u32)) {
        let (mut k, mut l) = (0, 0);
        for (i, cell) in self.cells.iter().enumerate() {
            for group in self.groups_of(i) {
                for &line in &self.line[l..l + group.lines as usize] {
                    let run = k..k + group.count as usize;
                    k = run.end;
                    f(usize::from(line), run, cell.first);
                }
                l += group.lines as usize;
            }
        }
    }

    /// Bytes of its vectors.
    pub fn bytes(&self) -> usize {
        2 * (self.line.len() + self.index.len())
            + self.groups.len() * size_of::<Group>()
            + self.cells.len() * size_of::<Cell>()
    }
}

/// One block: some lines of a part times `inner` indices from `first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    pub first: u32,
    /// One past its last group.
    pub groups: u32,
}

/// Consecutive lines with the same number of entries in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    pub count: u32,
    pub lines: u32,
}

/// Size of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub lines: usize,
    pub inner: usize,
}

impl Size {
    /// Panics where an index of a block would not fit 16 bits.
    pub fn check(&self) {
        let fits = |n| (1..=1 << 16).contains(&n);
        assert!(fits(self.lines) && fits(self.inner), "indices of a block are u16");
    }
}

/// Cuts compressed lines (`starts`, ascending `index` below `inner`) into blocks; also returns, for each position in
/// block order, the entry it came from. O(nnz + number of blocks).
pub(crate) fn cut(starts: &[usize], index: &[u32], inner: usize, size: Size) -> (Vec<Part>, Vec<u32>) {
    size.check();
    crate::shape::gatherable("entries", index.len());
    let lines = starts.len() - 1;
    let one = |i: usize| {
        let lines = i * size.lines..lines.min((i + 1) * size.lines);
        let mut source = Vec::with_capacity(starts[lines.end] - starts[lines.start]);
        let part = part(starts, index, inner, size.inner, lines, |run| source.extend(run.start as u32..run.end as u32));
        (part, source)
    };
    let (parts, sources): (Vec<Part>, Vec<Vec<u32>>) = (0..lines.div_ceil(size.lines)).into_par_iter().map(one).unzip();
    (parts, sources.concat())
}

/// The entries of one line in one block.
#[derive(Clone, Copy)]
struct Run {
    block: u32,
    count: u32,
    start: u32,
    line: u16,
}

/// How many of some ascending numbers are below a limit, where that is mostly a few.
fn below(ascending: &[u32], limit: u64) -> usize {
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    if ascending.last().is_none_or(|&last| last < limit) {
        return ascending.len();
    }
    let mut count = 0;
    // All of sixteen are compared: where the first one above lies could not be foreseen.
    while let Some(next) = ascending[count..].first_chunk::<16>() {
        let few = next.iter().map(|&i| u32::from(i < limit)).sum::<u32>() as usize;
        count += few;
        if few < 16 {
            return count;
        }
    }
    count + ascending[count..].iter().take_while(|&&i| i < limit).count()
}

/// The blocks of a range of lines. `source` is told the entries of each line in each block, in block order.
pub(crate) fn part(
    starts: &[usize],
    index: &[u32],
    inner: usize,
    size: usize,
    lines: Range<usize>,
    mut source: impl FnMut(Range<usize>),
) -> Part {
    let mut runs = Vec::new();
    for (i, l) in lines.clone().enumerate() {
        let mut k = starts[l];
        while k < starts[l + 1] {
            let block = index[k] / size as u32;
            let count = below(&index[k..starts[l + 1]], (u64::from(block) + 1) * size as u64).max(1);
            runs.push(Run { block, count: count as u32, line: i as u16, start: k as u32 });
            k += count;
        }
    }
    // Two stable passes: by block, in it by count, in it by line.
    let most = runs.iter().map(|r| r.count as usize).max().unwrap_or(0);
    let runs = counting_sort(&runs, most + 1, |r| r.count as usize);
    let runs = counting_sort(&runs, inner.div_ceil(size), |r| r.block as usize);
    // `cells` and `index` are added to pointers by kernels: below `inner`, whatever the input.
    let (nnz, own) = (starts[lines.end] - starts[lines.start], starts[lines.start]..starts[lines.end]);
    assert!(index[own].iter().fold(true, |ok, &i| ok & ((i as usize) < inner)), "an index is not below {inner}");
    let (mut local, mut far) = (Vec::with_capacity(nnz), 0);
    let (mut cells, mut groups): (Vec<Cell>, Vec<Group>) = (Vec::new(), Vec::new());
    let mut line = Vec::with_capacity(runs.len() + AHEAD);
    let mut last = None;
    for run in &runs {
        let first = run.block * size as u32;
        if last.is_none_or(|(block, _)| block != run.block) {
            cells.push(Cell { first, groups: groups.len() as u32 });
        }
        if last != Some((run.block, run.count)) {
            groups.push(Group { count: run.count, lines: 0 });
        }
        last = Some((run.block, run.count));
        groups.last_mut().expect("just pushed").lines += 1;
        cells.last_mut().expect("just pushed").groups = groups.len() as u32;
        line.push(run.line);
        let entries = run.start as usize..(run.start + run.count) as usize;
        local.extend(index[entries.clone()].iter().map(|&i| {
            let inside = i.wrapping_sub(first);
            far = far.max(inside);
            inside as u16
        }));
        source(entries);
    }
    assert!(nnz == 0 || (far as usize) < size, "an index is outside of its block");
    line.extend([0; AHEAD]);
    Part { inner, entries: starts[lines.start]..starts[lines.end], lines, cells, groups, line, index: local }
}

/// Stable, by keys below `keys`: in linear time unless there are many more keys than runs.
fn counting_sort(runs: &[Run], keys: usize, key: impl Fn(&Run) -> usize) -> Vec<Run> {
    if keys / 16 > runs.len() {
        let mut sorted = runs.to_vec();
        sorted.sort_by_key(key);
        return sorted;
    }
    let mut next = vec![0; keys + 1];
    runs.iter().for_each(|r| next[key(r) + 1] += 1);
    (0..keys).for_each(|k| next[k + 1] += next[k]);
    let mut sorted = runs.to_vec();
    for r in runs {
        let slot = &mut next[key(r)];
        sorted[*slot] = *r;
        *slot += 1;
    }
    sorted
}

/// Runs jobs on all threads when there are enough multiply-adds.
pub(crate) fn each<J: Send>(work: usize, jobs: Vec<J>, f: impl Fn(J) + Sync + Send) {
    match work < PARALLEL {
        true => jobs.into_iter().for_each(f),
        false => spread(jobs, f),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::Layer;

    /// Entries are numbered by 32 bits. The zeros are pages that nobody touches.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn entries_beyond_what_a_gather_reaches_are_refused() {
        let index = vec![0; 1 << 31];
        let made = std::panic::catch_unwind(|| cut(&[0], &index, 1, Size { lines: 1, inner: 1 }));
        let said = *made.map(|(parts, _)| parts.len()).unwrap_err().downcast::<String>().unwrap();
        assert!(said.contains("fewer than 2^31 are possible"), "{said}");
    }

    proptest! {
        #[test]
        fn every_entry_is_in_its_place_once(
            rows in 0usize..70, cols in 0usize..70, density in 0.0..1.0f64, seed in 0u64..99,
            lines in 1usize..30, inner in 1usize..30,
        ) {
            let layer = Layer::random(rows, cols, density * density, seed);
            let csr = layer.csr();
            let (parts, source) = cut(csr.starts, csr.columns, cols, Size { lines, inner });
            let mut seen = vec![false; csr.nnz()];
            for p in &parts {
                let (mut k, mut l, mut g) = (0, 0, 0);
                for cell in &p.cells {
                    let mut last = 0;
                    for group in &p.groups[g..cell.groups as usize] {
                        prop_assert!(group.count > last, "groups ascend");
                        last = group.count;
                        for _ in 0..group.lines {
                            for _ in 0..group.count {
                                let e = source[p.entries.start + k] as usize;
                                let at = (p.lines.start + p.line[l] as usize, (cell.first + p.index[k] as u32) as usize);
                                prop_assert_eq!(layer.entry(e), at);
                                prop_assert!(at.1 < cell.first as usize + inner);
                                prop_assert!(!std::mem::replace(&mut seen[e], true));
                                k += 1;
                            }
                            l += 1;
                        }
                    }
                    g = cell.groups as usize;
                }
                prop_assert_eq!(k, p.entries.len());
                prop_assert_eq!(g, p.groups.len());
            }
            prop_assert!(seen.into_iter().all(|s| s));
        }
    }
}
