//! A plan from compressed rows alone: the order of the backward pass is made part by part, without a transpose of the whole,
//! whose writes would miss the cache one by one.

use std::ops::Range;

use rayon::prelude::*;

use crate::Csr;
use crate::blocks::{AHEAD, Cell, Group, Part, Size, part};
use crate::packing::{Packing, Slots};
use crate::pages::zeros;
use crate::plan::Tuning;

/// Entries worth a range of rows of their own.
const CHUNK: usize = 1 << 15;
/// Most ranges of rows.
const CHUNKS: usize = 64;

/// The blocks of both directions.
pub(crate) struct Blocks {
    pub forward: Vec<Part>,
    pub backward: Vec<Part>,
    /// For each position of the forward order, its position in the backward order.
    pub packing: Packing,
    /// For each position of the backward order, the number of its entry.
    pub numbers: Vec<u32>,
}

/// An entry on its way from the rows to a part of columns and back: its row, then, once the part is made, its position; its
/// number; its column, from the first of its part.
type Item = [u32; 3];
const ROW: usize = 0;
const POSITION: usize = 0;
const NUMBER: usize = 1;
const LINE: usize = 2;

/// Divides by the width of a part: a multiplication, exact for every number of 32 bits.
#[derive(Clone, Copy)]
struct Parts {
    wide: u32,
    inverse: u64,
}

impl Parts {
    fn new(wide: usize) -> Self {
        // With n below 2³² the excess n / 2⁶³ of a quotient is less than what is missing to the next whole number, 1 / wide.
        Self { wide: wide as u32, inverse: (1 << 63) / wide as u64 + 1 }
    }

    #[inline(always)]
    fn of(self, column: u32) -> usize {
        ((u128::from(column) * u128::from(self.inverse)) >> 63) as usize
    }
}

/// Compiles a checked structure; `number` is told an entry. O(nnz + rows + columns); no result depends on the number of threads.
pub(crate) fn blocks(csr: Csr, tuning: Tuning, number: impl Fn(usize) -> u32 + Sync) -> Blocks {
    let (nnz, wide) = (csr.nnz(), tuning.backward_cols);
    let size = Size { lines: wide, inner: tuning.backward_rows };
    let across = Size { lines: tuning.forward_rows, inner: tuning.forward_cols };
    size.check();
    across.check();
    let (parts, divide) = (csr.cols.div_ceil(wide), Parts::new(wide));
    let chunks = chunks(csr, parts, across.lines);
    let rows_of = |chunk: &Range<usize>| chunk.start * across.lines..csr.rows.min(chunk.end * across.lines);
    let entries_of = |rows: Range<usize>| csr.starts[rows.start]..csr.starts[rows.end];
    // Entries of each range of rows in each part, then where they begin, part after part.
    let count = |chunk: &Range<usize>| {
        let mut counts = vec![0u32; parts];
        csr.columns[entries_of(rows_of(chunk))].iter().for_each(|&c| counts[divide.of(c)] += 1);
        counts
    };
    let counts: Vec<Vec<u32>> = chunks.par_iter().map(count).collect();
    let sizes: Vec<usize> = (0..parts).map(|p| counts.iter().map(|c| c[p] as usize).sum()).collect();

    let mut items: Vec<Item> = zeros(nnz);
    let jobs: Vec<_> = chunks.iter().zip(grid(&mut items, &counts, parts)).collect();
    jobs.into_par_iter().for_each(|(chunk, mut to)| {
        let mut next = vec![0u32; parts];
        for r in rows_of(chunk) {
            let own = csr.starts[r]..csr.starts[r + 1];
            for (e, &column) in own.clone().zip(&csr.columns[own]) {
                let part = divide.of(column);
                let next = &mut next[part];
                to[part][*next as usize] = [r as u32, number(e), column - part as u32 * divide.wide];
                *next += 1;
            }
        }
    });

    let mut numbers = zeros(nnz);
    let mut jobs = Vec::with_capacity(parts);
    let (mut rest, mut first) = ((&mut items[..], &mut numbers[..]), 0);
    for (p, &n) in sizes.iter().enumerate() {
        let (items, more) = rest.0.split_at_mut(n);
        let (numbers, more_numbers) = rest.1.split_at_mut(n);
        rest = (more, more_numbers);
        jobs.push((p * wide..csr.cols.min((p + 1) * wide), first, items, numbers));
        first += n;
    }
    let column_part =
        |(lines, first, items, numbers): (_, usize, _, _)| columns(items, csr.rows, size.inner, lines, first, numbers);
    let backward: Vec<Part> = jobs.into_par_iter().map(column_part).collect();

    // Back to the rows: each range reads its own entries of every part one after the other.
    let mut packing = Packing::zeros(nnz);
    let slots = packing.split(chunks.iter().map(|chunk| entries_of(rows_of(chunk)).len()));
    let jobs: Vec<_> = chunks.iter().zip(grid(&mut items, &counts, parts)).zip(slots).collect();
    let row_parts = |((chunk, from), mut slots): ((&Range<usize>, Vec<&mut [Item]>), Slots)| {
        let (mut next, mut place) = (vec![0u32; parts], Vec::new());
        let one = |p: usize| {
            let lines = p * across.lines..csr.rows.min((p + 1) * across.lines);
            let own = entries_of(lines.clone());
            let first = own.start;
            place.clear();
            place.extend(csr.columns[own].iter().map(|&column| {
                let part = divide.of(column);
                let next = &mut next[part];
                *next += 1;
                from[part][*next as usize - 1][POSITION]
            }));
            let source = |run: Range<usize>| slots.push(&place[run.start - first..run.end - first]);
            part(csr.starts, csr.columns, csr.cols, across.inner, lines, source)
        };
        chunk.clone().map(one).collect::<Vec<Part>>()
    };
    let forward = jobs.into_par_iter().map(row_parts).collect::<Vec<_>>().into_iter().flatten().collect();
    Blocks { forward, backward, packing, numbers }
}

/// Ranges of parts of rows, with about equal entries. As few as keep what each has in a part of columns worth a look.
fn chunks(csr: Csr, parts: usize, lines: usize) -> Vec<Range<usize>> {
    let (nnz, all) = (csr.nnz(), csr.rows.div_ceil(lines));
    let count = (nnz / CHUNK).min(nnz / (16 * parts.max(1))).clamp(1, CHUNKS);
    let cut = |i: usize| match i {
        0 => 0,
        i if i == count => all,
        i => csr.starts.partition_point(|&s| s < nnz / count * i).min(csr.rows).div_ceil(lines),
    };
    (0..count).map(|i| cut(i)..cut(i + 1)).filter(|chunk| !chunk.is_empty()).collect()
}

/// `all`, which lies part by part and in each range by range, as slices of each range by part.
fn grid<'a, N>(all: &'a mut [N], counts: &[Vec<u32>], parts: usize) -> Vec<Vec<&'a mut [N]>> {
    let mut cells: Vec<Vec<&mut [N]>> = counts.iter().map(|_| Vec::with_capacity(parts)).collect();
    let mut rest = all;
    for p in 0..parts {
        for (own, counts) in cells.iter_mut().zip(counts) {
            let (slice, more) = rest.split_at_mut(counts[p] as usize);
            rest = more;
            own.push(slice);
        }
    }
    cells
}

/// The blocks of a range of columns from its entries row by row: blocks of `size` rows, in each the columns by their number of
/// entries. Positions count from `first`; `numbers` gets the number of the entry at each, each item its position.
fn columns(
    items: &mut [Item],
    rows: usize,
    size: usize,
    lines: Range<usize>,
    first: usize,
    numbers: &mut [u32],
) -> Part {
    let (mut cells, mut groups): (Vec<Cell>, Vec<Group>) = (Vec::new(), Vec::new());
    let (mut line, mut index) = (Vec::new(), vec![0u16; items.len()]);
    // Of each column in the block at work: its entries, then where the next one goes.
    let mut next = vec![0u32; lines.len()];
    let (mut occur, mut ends, mut sorted) = (Vec::new(), Vec::new(), Vec::new());
    let mut done = 0;
    while done < items.len() {
        let top = items[done][ROW] as usize / size * size;
        let count = items[done..].partition_point(|i| (i[ROW] as usize) < top + size);
        let block = &mut items[done..done + count];
        occur.clear();
        if count < next.len() / 8 {
            for item in &*block {
                let n = &mut next[item[LINE] as usize];
                if *n == 0 {
                    occur.push(item[LINE]);
                }
                *n += 1;
            }
            occur.sort_unstable();
        } else {
            block.iter().for_each(|item| next[item[LINE] as usize] += 1);
            occur.extend((0..next.len() as u32).filter(|&l| next[l as usize] > 0));
        }
        by_count(&occur, &next, &mut ends, &mut sorted);
        let mut last = 0;
        for (count, &end) in (0u32..).zip(&ends) {
            if end > last {
                groups.push(Group { count, lines: end - last });
                last = end;
            }
        }
        cells.push(Cell { first: top as u32, groups: groups.len() as u32 });
        let mut at = done as u32;
        for &l in &sorted {
            line.push(l as u16);
            let n = &mut next[l as usize];
            at += std::mem::replace(n, at);
        }
        for item in block {
            let n = &mut next[item[LINE] as usize];
            let to = *n as usize;
            *n += 1;
            index[to] = (item[ROW] as usize - top) as u16;
            numbers[to] = item[NUMBER];
            item[POSITION] = (first + to) as u32;
        }
        occur.iter().for_each(|&l| next[l as usize] = 0);
        done += count;
    }
    line.extend([0; AHEAD]);
    line.shrink_to_fit();
    groups.shrink_to_fit();
    cells.shrink_to_fit();
    Part { inner: rows, lines, entries: first..first + items.len(), cells, groups, line, index }
}

/// Sorts lines by their number of entries, those of as many as they come; `ends` becomes, for each number, how many have at most
/// as many.
fn by_count(lines: &[u32], counts: &[u32], ends: &mut Vec<u32>, sorted: &mut Vec<u32>) {
    let most = lines.iter().map(|&l| counts[l as usize]).max().unwrap_or(0) as usize;
    ends.clear();
    ends.resize(most + 2, 0);
    lines.iter().for_each(|&l| ends[counts[l as usize] as usize + 1] += 1);
    (0..=most).for_each(|c| ends[c + 1] += ends[c]);
    sorted.resize(lines.len(), 0);
    for &l in lines {
        let end = &mut ends[counts[l as usize] as usize];
        sorted[*end as usize] = l;
        *end += 1;
    }
    ends.truncate(most + 1);
}
