//! A plan from compressed rows alone: the order of the backward pass is made part by part, without a transpose of the whole,
//! whose writes would miss the cache one by one.

use std::ops::Range;

use rayon::prelude::*;

use crate::Csr;
use crate::blocks::{AHEAD, Cell, Group, Part, Size, pieces};
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
    pub packing: Vec<u32>,
    /// For each position of the backward order, the entry in row-by-row order.
    pub entries: Vec<u32>,
}

/// An entry on its way from the rows to a part of columns.
#[derive(Clone, Copy, Default)]
struct Item {
    row: u32,
    entry: u32,
    /// Column, from the first of its part.
    line: u16,
}

/// Compiles a checked structure. O(nnz + rows + columns); no result depends on the number of threads.
pub(crate) fn blocks(csr: Csr, tuning: Tuning) -> Blocks {
    let (nnz, wide) = (csr.nnz(), tuning.backward_cols);
    let size = Size { lines: wide, inner: tuning.backward_rows };
    size.check();
    let parts = csr.cols.div_ceil(wide);
    let chunks = row_ranges(csr, parts);
    // Entries of each range of rows in each part, then where they begin, part after part.
    let count = |rows: &Range<usize>| {
        let mut counts = vec![0u32; parts];
        let own = &csr.columns[csr.starts[rows.start]..csr.starts[rows.end]];
        own.iter().for_each(|&c| counts[c as usize / wide] += 1);
        counts
    };
    let counts: Vec<Vec<u32>> = chunks.par_iter().map(count).collect();
    let sizes: Vec<usize> = (0..parts).map(|p| counts.iter().map(|c| c[p] as usize).sum()).collect();

    let mut items = vec![Item::default(); nnz];
    let jobs: Vec<_> = chunks.iter().zip(grid(&mut items, &counts, parts)).collect();
    jobs.into_par_iter().for_each(|(rows, mut to)| {
        let mut next = vec![0u32; parts];
        for r in rows.clone() {
            for e in csr.starts[r]..csr.starts[r + 1] {
                let column = csr.columns[e] as usize;
                let part = column / wide;
                let line = (column - part * wide) as u16;
                to[part][next[part] as usize] = Item { row: r as u32, entry: e as u32, line };
                next[part] += 1;
            }
        }
    });

    let (mut entries, mut places) = (vec![0; nnz], vec![0; nnz]);
    let mut jobs = Vec::with_capacity(parts);
    let (mut rest, mut first) = ((&items[..], &mut entries[..], &mut places[..]), 0);
    for (p, &n) in sizes.iter().enumerate() {
        let (items, more) = rest.0.split_at(n);
        let (entries, more_entries) = rest.1.split_at_mut(n);
        let (places, more_places) = rest.2.split_at_mut(n);
        rest = (more, more_entries, more_places);
        jobs.push((p * wide..csr.cols.min((p + 1) * wide), first, items, entries, places));
        first += n;
    }
    let column_part = |(lines, first, items, entries, places): (_, usize, _, _, _)| {
        columns(items, csr.rows, size.inner, lines, first, entries, places)
    };
    let backward: Vec<Part> = jobs.into_par_iter().map(column_part).collect();
    drop(items);

    // Back to the rows: each range reads its own entries of every part one after the other.
    let mut place = vec![0; nnz];
    let mut jobs = Vec::with_capacity(chunks.len());
    let mut rest = &mut place[..];
    for (rows, from) in chunks.iter().zip(grid(&mut places, &counts, parts)) {
        let own;
        (own, rest) = rest.split_at_mut(csr.starts[rows.end] - csr.starts[rows.start]);
        jobs.push((rows, from, own));
    }
    jobs.into_par_iter().for_each(|(rows, from, own)| {
        let mut next = vec![0u32; parts];
        for (to, &c) in own.iter_mut().zip(&csr.columns[csr.starts[rows.start]..csr.starts[rows.end]]) {
            let part = c as usize / wide;
            *to = from[part][next[part] as usize];
            next[part] += 1;
        }
    });
    drop(places);

    let size = Size { lines: tuning.forward_rows, inner: tuning.forward_cols };
    let mut packing = vec![0; nnz];
    let pieces = pieces(csr.starts, csr.columns, csr.cols, size);
    let mut jobs = Vec::with_capacity(pieces.len());
    let mut rest = &mut packing[..];
    let mut forward = Vec::with_capacity(pieces.len());
    for (part, source) in pieces {
        let own;
        (own, rest) = rest.split_at_mut(source.len());
        jobs.push((own, source));
        forward.push(part);
    }
    jobs.into_par_iter()
        .for_each(|(own, source)| own.iter_mut().zip(source).for_each(|(to, e)| *to = place[e as usize]));
    Blocks { forward, backward, packing, entries }
}

/// Ranges of rows of about equal entries. As few as keep what each has in a part worth a look.
fn row_ranges(csr: Csr, parts: usize) -> Vec<Range<usize>> {
    let nnz = csr.nnz();
    let count = (nnz / CHUNK).min(nnz / (16 * parts.max(1))).clamp(1, CHUNKS);
    let cut = |i: usize| match i {
        0 => 0,
        i if i == count => csr.rows,
        i => csr.starts.partition_point(|&s| s < nnz / count * i).min(csr.rows),
    };
    (0..count).map(|i| cut(i)..cut(i + 1)).collect()
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
/// entries. Positions count from `first`; `entries` gets the entry at each, `places` the position of each item.
fn columns(
    items: &[Item],
    rows: usize,
    size: usize,
    lines: Range<usize>,
    first: usize,
    entries: &mut [u32],
    places: &mut [u32],
) -> Part {
    let (mut cells, mut groups): (Vec<Cell>, Vec<Group>) = (Vec::new(), Vec::new());
    let (mut line, mut index) = (Vec::new(), vec![0; items.len()]);
    // Of each column in the block at work: its entries, then where the next one goes.
    let mut next = vec![0u32; lines.len()];
    let mut touched: Vec<u64> = Vec::new();
    let mut done = 0;
    while done < items.len() {
        let top = items[done].row as usize / size * size;
        let count = items[done..].partition_point(|i| (i.row as usize) < top + size);
        let block = done..done + count;
        touched.clear();
        for item in &items[block.clone()] {
            let n = &mut next[usize::from(item.line)];
            if *n == 0 {
                touched.push(u64::from(item.line));
            }
            *n += 1;
        }
        touched.iter_mut().for_each(|t| *t |= u64::from(next[*t as usize]) << 16);
        touched.sort_unstable();
        let mut at = done;
        let mut last = 0;
        for &t in &touched {
            let (column, count) = (t as u16, (t >> 16) as u32);
            if last != count {
                groups.push(Group { count, lines: 0 });
                last = count;
            }
            groups.last_mut().expect("just pushed").lines += 1;
            line.push(column);
            next[usize::from(column)] = at as u32;
            at += count as usize;
        }
        cells.push(Cell { first: top as u32, groups: groups.len() as u32 });
        for (item, place) in items[block.clone()].iter().zip(&mut places[block.clone()]) {
            let n = &mut next[usize::from(item.line)];
            let to = *n as usize;
            *n += 1;
            index[to] = (item.row as usize - top) as u16;
            entries[to] = item.entry;
            *place = (first + to) as u32;
        }
        touched.iter().for_each(|&t| next[usize::from(t as u16)] = 0);
        done = block.end;
    }
    line.extend([0; AHEAD]);
    line.shrink_to_fit();
    groups.shrink_to_fit();
    cells.shrink_to_fit();
    Part { inner: rows, lines, entries: first..first + items.len(), cells, groups, line, index }
}
