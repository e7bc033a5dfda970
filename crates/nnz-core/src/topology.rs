use crate::criterion::blank;
use crate::{Error, Result};
use rayon::prelude::*;
use std::ops::Range;

/// Entries worth a range of rows of their own.
const RANGE: usize = 1 << 15;

/// The connections of one layer: compressed sparse rows without values, columns sorted in each row.
///
/// Shape `[rows, cols]` is `[out, in]`; a convolution is flattened to `[out, in * kh * kw]`. Memory is
/// `8 (rows + 1) + 4 nnz` bytes. Entry order everywhere in nnz is this order: row by row, columns ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    rows: usize,
    cols: usize,
    starts: Vec<usize>,
    columns: Vec<u32>,
}

/// The same connections column by column, with the place of each in the row-by-row order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transposed {
    /// Start of each column, `cols + 1` numbers.
    pub starts: Vec<usize>,
    /// Row of each entry.
    pub rows: Vec<u32>,
    /// Index of each entry in the row-by-row order.
    pub entries: Vec<u32>,
}

impl Topology {
    /// Marks an entry of another topology that is not here, in [`Topology::sources`].
    pub const NEW: u32 = 1 << 31;

    /// Checks raw compressed rows: monotone `starts` of `rows + 1` numbers, columns ascending and in range.
    pub fn new(rows: usize, cols: usize, starts: Vec<usize>, columns: Vec<u32>) -> Result<Self> {
        let bad = |why: String| Err(Error::Parse { text: format!("{rows}x{cols}"), what: "a topology", why });
        if u32::try_from(cols).is_err() || u32::try_from(rows).is_err() {
            return bad("rows and columns must fit 32 bits".into());
        }
        if starts.len() != rows + 1 || starts.first() != Some(&0) || starts.last() != Some(&columns.len()) {
            return bad(format!("{} row starts over {} columns", starts.len(), columns.len()));
        }
        // A fold over all of a row vectorizes; `all` would stop early and does not.
        let valid = |row: &[u32]| {
            row.windows(2).fold(true, |ok, c| ok & (c[0] < c[1])) && row.last().is_none_or(|&c| (c as usize) < cols)
        };
        let wrong = |w: &[usize]| !columns.get(w[0]..w[1]).is_some_and(valid);
        match starts.par_windows(2).with_min_len(1 << 10).position_first(wrong) {
            Some(r) if starts[r] > starts[r + 1] || starts[r + 1] > columns.len() => {
                bad(format!("row {r} runs backwards"))
            }
            Some(r) => bad(format!("columns of row {r} are not ascending and below {cols}")),
            None => Ok(Self { rows, cols, starts, columns }),
        }
    }

    /// Every connection.
    pub fn full(rows: usize, cols: usize) -> Self {
        let columns = (0..rows).flat_map(|_| 0..cols as u32).collect();
        Self { rows, cols, starts: (0..=rows).map(|r| r * cols).collect(), columns }
    }

    /// Builds a topology from distinct ascending positions `row * cols + col`. O(rows + nnz).
    ///
    /// # Panics
    /// When positions are not ascending or leave the shape.
    pub fn from_positions(rows: usize, cols: usize, positions: impl IntoIterator<Item = u64>) -> Self {
        let mut starts = Vec::with_capacity(rows + 1);
        let mut columns = Vec::new();
        let mut last = None;
        for p in positions {
            assert!(last.is_none_or(|l| l < p), "positions must ascend");
            last = Some(p);
            let r = (p / cols as u64) as usize;
            assert!(r < rows, "position {p} leaves {rows}x{cols}");
            while starts.len() <= r {
                starts.push(columns.len());
            }
            columns.push((p % cols as u64) as u32);
        }
        starts.resize(rows + 1, columns.len());
        Self { rows, cols, starts, columns }
    }

    /// Keeps the entries `i` for which `keep[i]`.
    pub fn filter(&self, keep: &[bool]) -> Self {
        debug_assert_eq!(keep.len(), self.nnz());
        let mut starts = Vec::with_capacity(self.rows + 1);
        let mut columns = Vec::new();
        starts.push(0);
        for r in 0..self.rows {
            let range = self.starts[r]..self.starts[r + 1];
            columns.extend(range.filter(|&i| keep[i]).map(|i| self.columns[i]));
            starts.push(columns.len());
        }
        Self { rows: self.rows, cols: self.cols, starts, columns }
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Number of connections.
    pub fn nnz(&self) -> usize {
        self.columns.len()
    }

    /// Connections / (rows * cols); zero for an empty shape.
    pub fn density(&self) -> f64 {
        self.nnz() as f64 / (self.rows as f64 * self.cols as f64).max(1.0)
    }

    /// Start of each row, `rows + 1` numbers.
    pub fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// Column of each entry.
    pub fn columns(&self) -> &[u32] {
        &self.columns
    }

    /// Columns of row `r`, ascending.
    pub fn row(&self, r: usize) -> &[u32] {
        &self.columns[self.starts[r]..self.starts[r + 1]]
    }

    /// `row * cols + col` of every entry, ascending.
    pub fn positions(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.rows).flat_map(move |r| self.row(r).iter().map(move |&c| self.position(r, c)))
    }

    fn position(&self, r: usize, c: u32) -> u64 {
        r as u64 * self.cols as u64 + u64::from(c)
    }

    /// Index of the entry at `row * cols + col`, if it exists. O(log row length).
    pub fn find(&self, position: u64) -> Option<usize> {
        let r = (position / self.cols as u64) as usize;
        let c = (position % self.cols as u64) as u32;
        self.row(r).binary_search(&c).ok().map(|i| self.starts[r] + i)
    }

    /// Connections of every row (fan-in of every output).
    pub fn row_degrees(&self) -> Vec<usize> {
        self.starts.windows(2).map(|w| w[1] - w[0]).collect()
    }

    /// Connections of every column (fan-out of every input).
    pub fn col_degrees(&self) -> Vec<usize> {
        let mut degrees = vec![0; self.cols];
        self.columns.iter().for_each(|&c| degrees[c as usize] += 1);
        degrees
    }

    /// Returns the entries column by column. O(rows + cols + nnz).
    ///
    /// # Panics
    /// When there are more than 2³² entries.
    pub fn transpose(&self) -> Transposed {
        let nnz = u32::try_from(self.nnz()).expect("more than 2^32 connections in one layer");
        let mut starts = vec![0; self.cols + 1];
        self.columns.iter().for_each(|&c| starts[c as usize + 1] += 1);
        (0..self.cols).for_each(|c| starts[c + 1] += starts[c]);
        let mut next = starts.clone();
        let (mut rows, mut entries) = (vec![0; nnz as usize], vec![0; nnz as usize]);
        for r in 0..self.rows {
            for i in self.starts[r]..self.starts[r + 1] {
                let slot = &mut next[self.columns[i] as usize];
                rows[*slot] = r as u32;
                entries[*slot] = i as u32;
                *slot += 1;
            }
        }
        Transposed { starts, rows, entries }
    }

    /// Returns the union of both topologies. O(rows + nnz of both).
    ///
    /// # Panics
    /// When the shapes differ.
    pub fn union(&self, other: &Self) -> Self {
        assert_eq!((self.rows, self.cols), (other.rows, other.cols), "shapes");
        let mut others = other.positions().peekable();
        let mut all = Vec::with_capacity(self.nnz() + other.nnz());
        for p in self.positions() {
            while let Some(q) = others.next_if(|&q| q < p) {
                all.push(q);
            }
            others.next_if_eq(&p);
            all.push(p);
        }
        all.extend(others);
        Self::from_positions(self.rows, self.cols, all)
    }

    /// Ranges of rows with about as many entries each, none where there are no rows; of the entries alone, whatever the number
    /// of threads.
    fn row_ranges(&self) -> Vec<Range<usize>> {
        let count = (self.nnz() / RANGE).clamp(1, 256);
        let cut = |i: usize| match i {
            0 => 0,
            i if i == count => self.rows,
            i => self.starts.partition_point(|&s| s < self.nnz() / count * i).min(self.rows),
        };
        (0..count).map(|i| cut(i)..cut(i + 1)).filter(|r| !r.is_empty()).collect()
    }

    /// The entries `i` for which `keep[i]`, and those at `grown`: distinct ascending positions that no kept entry has.
    /// O(rows + nnz + grown), on all threads.
    ///
    /// # Panics
    /// When `keep` does not have one answer an entry, or a position is held by a kept entry, out of order or outside the shape.
    pub fn exchange(&self, keep: &[bool], grown: &[u64]) -> Self {
        assert_eq!(keep.len(), self.nnz(), "answers for the entries");
        assert!(grown.last().is_none_or(|&p| p < self.rows as u64 * self.cols as u64), "a position leaves the shape");
        let ranges = self.row_ranges();
        let own = |rows: &Range<usize>| {
            let [from, to] =
                [rows.start, rows.end].map(|r| grown.partition_point(|&p| p < r as u64 * self.cols as u64));
            (self.starts[rows.start]..self.starts[rows.end], &grown[from..to])
        };
        let size = |rows: &Range<usize>| {
            let (entries, grown) = own(rows);
            keep[entries].iter().map(|&k| usize::from(k)).sum::<usize>() + grown.len()
        };
        let sizes: Vec<usize> = ranges.par_iter().map(size).collect();
        let (mut starts, mut columns) = (vec![0; self.rows + 1], blank(sizes.iter().sum()));
        let mut jobs = Vec::with_capacity(ranges.len());
        let (mut rest, mut first) = ((&mut starts[1..], &mut columns[..]), 0);
        for (rows, size) in ranges.into_iter().zip(sizes) {
            let (starts, more_starts) = rest.0.split_at_mut(rows.len());
            let (columns, more) = rest.1.split_at_mut(size);
            rest = (more_starts, more);
            jobs.push((rows, first, starts, columns));
            first += size;
        }
        let exchange = |(rows, first, starts, columns): (Range<usize>, usize, &mut [usize], &mut [u32])| {
            let mut begin = rows.start as u64 * self.cols as u64;
            let mut grown = own(&rows).1;
            let (mut at, mut kept, mut born) = (0, vec![-1i64], vec![-1i64]);
            let mut apart = true;
            for (r, end) in rows.zip(starts) {
                // Without branches that depend on what stays: they could not be foreseen.
                let entries = self.starts[r]..self.starts[r + 1];
                kept.resize((entries.len() + 2).max(kept.len()), 0);
                let mut stay = 1;
                for (&c, &keep) in self.columns[entries.clone()].iter().zip(&keep[entries]) {
                    kept[stay] = i64::from(c);
                    stay += usize::from(keep);
                }
                kept[stay] = i64::MAX;
                let below = begin + self.cols as u64;
                let count = grown.iter().take_while(|&&p| p < below).count();
                born.truncate(1);
                born.extend(grown[..count].iter().map(|&p| p.wrapping_sub(begin) as i64));
                apart &= born.windows(2).fold(true, |ascend, c| ascend & (c[0] < c[1]));
                born.push(i64::MAX);
                grown = &grown[count..];
                let to = &mut columns[at..at + stay - 1 + count];
                at += to.len();
                apart &= merge(&kept[..=stay], &born, to);
                *end = first + at;
                begin = below;
            }
            apart && grown.is_empty()
        };
        let apart: Vec<bool> = jobs.into_par_iter().map(exchange).collect();
        assert!(!apart.contains(&false), "positions must be distinct and ascend");
        Self { rows: self.rows, cols: self.cols, starts, columns }
    }

    /// Whether positions are entries, to be asked in any order, fastest row by row. O(log row length) each.
    pub(crate) fn held(&self) -> impl FnMut(u64) -> bool + '_ {
        let wide = self.cols as u64;
        let (mut begin, mut row): (u64, &[u32]) = (0, if self.rows > 0 { self.row(0) } else { &[] });
        move |p| {
            if p.wrapping_sub(begin) >= wide {
                let r = (p / wide) as usize;
                (begin, row) = (r as u64 * wide, self.row(r));
            }
            row.binary_search(&((p - begin) as u32)).is_ok()
        }
    }

    /// Whether each of some positions is an entry. O(positions · log row length), on all threads.
    ///
    /// # Panics
    /// When a position leaves the shape.
    pub fn holds(&self, positions: &[u64]) -> Vec<bool> {
        let mut all = vec![false; positions.len()];
        all.par_chunks_mut(RANGE).zip(positions.par_chunks(RANGE)).for_each(|(to, positions)| {
            let mut held = self.held();
            to.iter_mut().zip(positions).for_each(|(to, &p)| *to = held(p));
        });
        all
    }

    /// Where the entries of `new` come from: the `place` of those that are here, and [`Topology::NEW`] and a number for the others,
    /// which count from zero in their order. Also returns how many are new. O(nnz of both), on all threads.
    ///
    /// # Panics
    /// When shapes differ, or there are 2³¹ entries or more.
    pub fn sources(&self, new: &Topology, place: impl Fn(usize) -> u32 + Sync) -> (Vec<u32>, usize) {
        assert_eq!((self.rows, self.cols), (new.rows, new.cols), "shapes");
        assert!(self.nnz().max(new.nnz()) < Self::NEW as usize, "entries; fewer than 2^31 are possible");
        let ranges = new.row_ranges();
        let mut all = blank(new.nnz());
        let mut rest = &mut all[..];
        let mut jobs = Vec::with_capacity(ranges.len());
        for rows in ranges {
            let own;
            (own, rest) = rest.split_at_mut(new.starts[rows.end] - new.starts[rows.start]);
            jobs.push((rows, own));
        }
        let find = |(rows, to): &mut (Range<usize>, &mut [u32])| {
            self.trace(new, rows.clone(), &place, to);
            to.iter().map(|s| (s >> 31) as usize).sum::<usize>()
        };
        let births: Vec<usize> = jobs.par_iter_mut().map(find).collect();
        let mut before = 0;
        let mut firsts = Vec::with_capacity(births.len());
        for n in births {
            firsts.push(before);
            before += n;
        }
        jobs.into_par_iter().zip(firsts).for_each(|((_, to), first)| {
            let mut next = first as u32;
            for s in to {
                let born = *s >> 31;
                *s += born * next;
                next += born;
            }
        });
        (all, before)
    }

    /// The same of a range of rows, without numbers for what is new.
    fn trace(&self, new: &Topology, rows: Range<usize>, place: &impl Fn(usize) -> u32, to: &mut [u32]) {
        let first = new.starts[rows.start];
        let row = |r: usize| (self.starts[r], new.starts[r]);
        let end = |r: usize| (self.starts[r + 1], new.starts[r + 1]);
        let open = |(i, j): (usize, usize), (end, last): (usize, usize)| i < end && j < last;
        // Without branches that depend on which is lower: they could not be foreseen.
        let step = |(i, j): &mut (usize, usize), to: &mut [u32]| {
            let (a, b, found) = (self.columns[*i], new.columns[*j], place(*i));
            to[*j - first] = if a == b { found } else { Self::NEW };
            *i += usize::from(a <= b);
            *j += usize::from(b <= a);
        };
        let finish = |mut at: (usize, usize), end: (usize, usize), to: &mut [u32]| {
            while open(at, end) {
                step(&mut at, to);
            }
            to[at.1 - first..end.1 - first].fill(Self::NEW);
        };
        // Two rows at once, whose comparisons do not wait for one another.
        let mut r = rows.start;
        while r + 1 < rows.end {
            let (mut a, mut b, a_end, b_end) = (row(r), row(r + 1), end(r), end(r + 1));
            while open(a, a_end) && open(b, b_end) {
                step(&mut a, to);
                step(&mut b, to);
            }
            finish(a, a_end, to);
            finish(b, b_end, to);
            r += 2;
        }
        if r < rows.end {
            finish(row(r), end(r), to);
        }
    }

    /// For the entries of some rows of `new`, their index here, from the first of these rows on; any where they are not here, and
    /// then the entry is in the second list. Both count from the first of these rows.
    fn origins(&self, new: &Topology, rows: Range<usize>) -> (Vec<usize>, Vec<usize>) {
        let (old_first, new_first) = (self.starts[rows.start], new.starts[rows.start]);
        let n = new.starts[rows.end] - new_first;
        let (mut from, mut born) = (vec![0; n], vec![0; n]);
        let mut births = 0;
        for r in rows {
            let (mut i, end) = (self.starts[r], self.starts[r + 1]);
            let (mut j, last) = (new.starts[r], new.starts[r + 1]);
            // Without branches that depend on which is lower: they could not be foreseen.
            while i < end && j < last {
                let (a, b) = (self.columns[i], new.columns[j]);
                from[j - new_first] = i - old_first;
                born[births] = j - new_first;
                births += usize::from(b < a);
                i += usize::from(a <= b);
                j += usize::from(b <= a);
            }
            for j in j..last {
                born[births] = j - new_first;
                births += 1;
            }
        }
        born.truncate(births);
        (from, born)
    }

    /// Numbers of the entries of `new`: those that are here keep theirs, those just born take `first(i)` of the `i`-th of them.
    /// `old` holds vectors of a number an entry; `first` is told which of them; `zero` is any number. Also returns how many were
    /// born. O(nnz of both), on all threads.
    ///
    /// # Panics
    /// When shapes differ or a vector does not have one number an entry.
    pub fn carried<N: Copy + Send + Sync>(
        &self,
        new: &Topology,
        old: &[Vec<N>],
        zero: N,
        first: impl Fn(usize, usize) -> N + Sync,
    ) -> (Vec<Vec<N>>, usize) {
        assert_eq!((self.rows, self.cols), (new.rows, new.cols), "shapes");
        assert!(old.iter().all(|o| o.len() == self.nnz()), "one number an entry");
        let ranges = new.row_ranges();
        let origins: Vec<_> = ranges.par_iter().map(|rows| self.origins(new, rows.clone())).collect();
        let mut all: Vec<Vec<N>> = old.iter().map(|_| vec![zero; new.nnz()]).collect();
        let mut rests: Vec<&mut [N]> = all.iter_mut().map(|v| &mut v[..]).collect();
        let mut jobs = Vec::with_capacity(ranges.len());
        let mut before = 0;
        for (rows, (from, born)) in ranges.into_iter().zip(origins) {
            let n = new.starts[rows.end] - new.starts[rows.start];
            let mut own = Vec::with_capacity(rests.len());
            for rest in &mut rests {
                let (slice, more) = std::mem::take(rest).split_at_mut(n);
                *rest = more;
                own.push(slice);
            }
            let births = born.len();
            jobs.push((rows, from, born, before, own));
            before += births;
        }
        jobs.into_par_iter().for_each(|(rows, from, born, before, own)| {
            for (which, (to, old)) in own.into_iter().zip(old).enumerate() {
                let old = &old[self.starts[rows.start]..self.starts[rows.end]];
                if !old.is_empty() {
                    to.iter_mut().zip(&from).for_each(|(to, &i)| *to = old[i]);
                }
                born.iter().zip(before..).for_each(|(&at, i)| to[at] = first(which, i));
            }
        });
        (all, before)
    }

    /// For every entry of `new`, its index here, or `None` if it was just grown. O(nnz of both).
    pub fn carry<'a>(&'a self, new: &'a Topology) -> impl Iterator<Item = Option<usize>> + 'a {
        let mut old = self.positions().enumerate().peekable();
        new.positions().map(move |p| {
            while old.next_if(|&(_, q)| q < p).is_some() {}
            old.next_if(|&(_, q)| q == p).map(|(i, _)| i)
        })
    }
}

/// Merges two ascending runs from both ends at once, by comparisons of which one half does not wait for the other. Each run lies
/// between a lower and a higher number than those of both. Returns whether no number is in both.
fn merge(a: &[i64], b: &[i64], to: &mut [u32]) -> bool {
    let (mut i, mut j, mut k, mut l) = (1, 1, a.len() - 2, b.len() - 2);
    let mut apart = true;
    let (low, high) = to.split_at_mut(to.len() / 2);
    let (middle, high) = high.split_at_mut(high.len() - low.len());
    for (low, high) in low.iter_mut().zip(high.iter_mut().rev()) {
        let (x, y) = (a[i], b[j]);
        *low = x.min(y) as u32;
        apart &= x != y;
        i += usize::from(x < y);
        j += usize::from(x >= y);
        let (x, y) = (a[k], b[l]);
        *high = x.max(y) as u32;
        apart &= x != y;
        k -= usize::from(x > y);
        l -= usize::from(x <= y);
    }
    if let [middle] = middle {
        *middle = a[i].min(b[j]) as u32;
        apart &= a[i] != b[j];
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Topology {
        // . x x
        // . . .
        // x . x
        Topology::from_positions(3, 3, [1, 2, 6, 8])
    }

    #[test]
    fn rows_columns_and_find() {
        let t = small();
        assert_eq!(t.row(0), [1, 2]);
        assert!(t.row(1).is_empty());
        assert_eq!(t.row_degrees(), [2, 0, 2]);
        assert_eq!(t.col_degrees(), [1, 1, 2]);
        assert_eq!(t.find(8), Some(3));
        assert_eq!(t.find(7), None);
        assert_eq!(t.positions().collect::<Vec<_>>(), [1, 2, 6, 8]);
    }

    #[test]
    fn transpose_names_every_entry_once() {
        let t = small();
        let x = t.transpose();
        assert_eq!(x.starts, [0, 1, 2, 4]);
        assert_eq!(x.rows, [2, 0, 0, 2]);
        assert_eq!(x.entries, [2, 0, 1, 3]);
    }

    #[test]
    fn carry_finds_survivors_and_newborns() {
        let new = Topology::from_positions(3, 3, [0, 2, 3, 8]);
        assert_eq!(small().carry(&new).collect::<Vec<_>>(), [None, Some(1), None, Some(3)]);
    }

    /// Large enough for several ranges of rows.
    fn random(seed: u64, rows: usize, cols: usize, count: usize) -> Topology {
        let drawn = crate::Rng::stream(seed, "test", 0, 0).distinct((rows * cols) as u64, count);
        Topology::from_positions(rows, cols, drawn)
    }

    #[test]
    fn an_exchange_is_a_filter_and_a_union() {
        for (rows, cols, count) in [(500, 800, 200_000), (3, 3, 4), (1, 100, 30), (100_000, 3, 1000)] {
            let old = random(1, rows, cols, count);
            let keep: Vec<bool> = (0..old.nnz()).map(|i| i % 3 != 1).collect();
            let kept = old.filter(&keep);
            // Some that were dropped come back.
            let grown: Vec<u64> =
                random(2, rows, cols, count / 4).positions().filter(|&p| kept.find(p).is_none()).collect();
            let born = Topology::from_positions(rows, cols, grown.iter().copied());
            let new = old.exchange(&keep, &grown);
            assert_eq!(new, kept.union(&born));
            assert_eq!(Topology::new(rows, cols, new.starts.clone(), new.columns.clone()).unwrap(), new);
            let holds = old.holds(&grown);
            assert!(grown.iter().zip(&holds).all(|(&p, &h)| old.find(p).is_some() == h));
            let values: Vec<Vec<u32>> = (0..2).map(|k| (0..old.nnz() as u32).map(|i| 2 * i + k).collect()).collect();
            let (carried, born) = old.carried(&new, &values, 0, |which, i| 1_000_000 + 2 * i as u32 + which as u32);
            assert_eq!(born, holds.iter().filter(|h| !**h).count());
            let (sources, same) = old.sources(&new, |i| 3 * i as u32);
            assert_eq!(same, born);
            let mut numbers = 0..;
            for (from, &source) in old.carry(&new).zip(&sources) {
                assert_eq!(source, from.map_or_else(|| Topology::NEW + numbers.next().unwrap(), |i| 3 * i as u32));
            }
            let mut births = 0..;
            for (e, from) in old.carry(&new).enumerate() {
                let want = from.unwrap_or_else(|| 500_000 + births.next().unwrap()) as u32;
                assert_eq!([carried[0][e], carried[1][e]], [2 * want, 2 * want + 1]);
            }
        }
    }

    #[test]
    fn an_exchange_refuses_what_it_holds() {
        for grown in [[1, 3], [3, 3], [4, 3], [3, 9]] {
            let refused = std::panic::catch_unwind(|| small().exchange(&[true; 4], &grown));
            assert!(refused.is_err(), "{grown:?}");
        }
    }

    #[test]
    fn unions_hold_both() {
        let union = small().union(&Topology::from_positions(3, 3, [0, 2, 7]));
        assert_eq!(union.positions().collect::<Vec<_>>(), [0, 1, 2, 6, 7, 8]);
    }

    #[test]
    fn bad_compressed_rows_are_refused() {
        assert!(Topology::new(2, 3, vec![0, 1, 2], vec![0, 2]).is_ok());
        assert!(Topology::new(2, 3, vec![0, 2, 2], vec![2, 0]).is_err());
        assert!(Topology::new(2, 3, vec![0, 1, 2], vec![0, 3]).is_err());
        assert!(Topology::new(2, 3, vec![0, 2, 1], vec![0]).is_err());
        assert!(Topology::new(2, 3, vec![0, 9, 2], vec![0, 1]).is_err());
        assert!(Topology::new(2, 3, vec![0, 2], vec![0, 1]).is_err());
    }
}
