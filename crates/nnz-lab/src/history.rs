//! How the topologies of a run changed: its record of grown and pruned connections, and statistics of it.
//!
//! The record is one file per network, `arms/ARM-SEED.topology`: a line that names the format, then the sequence of events.
//! Numbers are LEB128; positions are written as differences, in about two bytes each. A resumed run cuts off events
//! after its checkpoint.

use crate::run::record::ArmRecord;
use crate::{Error, Result, run};
use nnz_core::Topology;
use nnz_core::graph_stats::{self, Components, Degrees, Tail};
use nnz_engine::Event;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const MAGIC: &[u8] = b"nnz topology history 1\n";
/// Snapshots of the whole topology of a layer in a history.
const LOOKS: usize = 13;
/// Most entries of a layer that began dense and changed: these, and as many for each connection that was pruned.
const FEW_ENTRIES: u64 = 1 << 18;
const ENTRIES_EACH: u64 = 64;
/// Most units of a layer: these, and as many for each connection that the file names.
const FEW_UNITS: u64 = 1 << 18;
const UNITS_EACH: u64 = 64;

fn number(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Count, first, and differences.
fn ascending(positions: &[u64], out: &mut Vec<u8>) {
    number(positions.len() as u64, out);
    let mut last = 0;
    for &p in positions {
        number(p - last, out);
        last = p;
    }
}

fn write(event: &Event, out: &mut Vec<u8>) {
    match event {
        Event::Start { step, layer, name, rows, cols, positions } => {
            out.push(if positions.is_some() { 1 } else { 0 });
            [*step, *layer as u64, name.len() as u64].iter().for_each(|&n| number(n, out));
            out.extend(name.as_bytes());
            [*rows, *cols].iter().for_each(|&n| number(n as u64, out));
            positions.iter().for_each(|p| ascending(p, out));
        }
        Event::Moved { step, layer, grown, pruned } => {
            out.push(2);
            [*step, *layer as u64].iter().for_each(|&n| number(n, out));
            [grown, pruned].iter().for_each(|p| ascending(p, out));
        }
    }
}

/// Bytes not yet read.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn number(&mut self) -> Option<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.byte()?;
            n |= u64::from(b & 0x7f).checked_shl(shift)?;
            if b & 0x80 == 0 {
                return Some(n);
            }
        }
        None
    }

    fn ascending(&mut self, below: u64) -> Option<Vec<u64>> {
        let count = self.number()?;
        // At least one byte per position.
        let mut all = Vec::with_capacity(usize::try_from(count).ok()?.min(self.0.len()));
        let mut last = 0u64;
        for i in 0..count {
            let difference = self.number()?;
            last = last.checked_add(difference).filter(|&p| p < below && (i == 0 || difference > 0))?;
            all.push(last);
        }
        Some(all)
    }

    fn event(&mut self, extents: &mut BTreeMap<usize, u64>) -> Option<Event> {
        let kind = self.byte()?;
        let (step, layer) = (self.number()?, usize::try_from(self.number()?).ok()?);
        if kind == 2 {
            let &below = extents.get(&layer)?;
            return Some(Event::Moved { step, layer, grown: self.ascending(below)?, pruned: self.ascending(below)? });
        }
        let length = usize::try_from(self.number()?).ok()?;
        let name = String::from_utf8(self.0.get(..length)?.to_vec()).ok()?;
        self.0 = &self.0[length..];
        let [rows, cols] = [self.number()?, self.number()?].map(|n| u32::try_from(n).ok());
        let (rows, cols) = (rows? as usize, cols? as usize);
        let below = rows as u64 * cols as u64;
        extents.insert(layer, below);
        let positions = match kind {
            0 => None,
            1 => Some(self.ascending(below)?),
            _ => return None,
        };
        Some(Event::Start { step, layer, name, rows, cols, positions })
    }
}

fn unwritten(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |e| Error::file(path, format!("cannot write: {e}"))
}

/// Begins a history anew.
pub fn create(path: &Path) -> Result<()> {
    nnz_disk::write(path, MAGIC).map_err(unwritten(path))
}

/// Appends events. They are on disk when this returns, so that later writes may rely on them.
pub fn append(path: &Path, events: &[Event]) -> Result<()> {
    let mut bytes = Vec::new();
    events.iter().for_each(|e| write(e, &mut bytes));
    nnz_disk::append(path, &bytes).map_err(unwritten(path))
}

/// Cuts off events from a step on, and an unfinished last event. A history is whole or absent: one without its
/// beginning is removed, and the answer is `false`.
pub fn cut(path: &Path, step: u64) -> Result<bool> {
    let bytes = fs::read(path).unwrap_or_default();
    let (mut extents, mut begun) = (BTreeMap::new(), false);
    let end = bytes.strip_prefix(MAGIC).map(|body| {
        let mut rest = Bytes(body);
        loop {
            let at = body.len() - rest.0.len();
            match rest.event(&mut extents) {
                Some(event) if event.step() < step || matches!(event, Event::Start { step: 0, .. }) => {
                    begun |= matches!(event, Event::Start { .. });
                }
                _ => return at,
            }
        }
    });
    match end {
        // Before the first step no event was recorded.
        Some(end) if begun || step == 0 => {
            nnz_disk::cut(path, (MAGIC.len() + end) as u64).map_err(unwritten(path))?;
            Ok(true)
        }
        _ => {
            nnz_disk::remove(path).map_err(|e| Error::file(path, format!("cannot remove: {e}")))?;
            Ok(false)
        }
    }
}

/// Reads all events.
pub fn read(path: &Path) -> Result<Vec<Event>> {
    let bytes = fs::read(path).map_err(|e| Error::file(path, format!("cannot read: {e}")))?;
    parse(&bytes, path)
}

/// Parses all events; `path` names the file in errors.
pub fn parse(bytes: &[u8], path: &Path) -> Result<Vec<Event>> {
    let body = bytes.strip_prefix(MAGIC).ok_or_else(|| Error::file(path, "is no history of topologies"))?;
    let (mut rest, mut extents, mut events) = (Bytes(body), BTreeMap::new(), Vec::new());
    while !rest.0.is_empty() {
        let damaged = || Error::file(path, "is damaged: an event is not whole; run with --again to make it anew");
        events.push(rest.event(&mut extents).ok_or_else(damaged)?);
    }
    Ok(events)
}

/// How the topologies of one network changed.
#[derive(Clone, Debug, Serialize)]
pub struct History {
    /// Arm of the run.
    pub arm: String,
    /// Seed.
    pub seed: u64,
    /// Title of the run.
    pub title: String,
    /// Channels, height and width of the input.
    pub input: [usize; 3],
    /// Steps at which something changed, over all layers.
    pub rewirings: usize,
    /// The prunable weights, first layer first.
    pub layers: Vec<Layer>,
}

/// How one weight changed.
#[derive(Clone, Debug, Serialize)]
pub struct Layer {
    /// Parameter name.
    pub name: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Connections at the start.
    pub start: usize,
    /// Every change.
    pub moves: Vec<Move>,
    /// Ages of pruned connections, in steps: `(age, how many)`, ascending.
    pub lives: Vec<(u64, usize)>,
    /// Snapshots of the whole topology, at the start, now and then, and at the end.
    pub looks: Vec<Look>,
}

/// One change of one weight.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Move {
    /// Steps done.
    pub step: u64,
    /// Grown connections.
    #[serde(rename = "born")]
    pub grown: usize,
    /// Pruned connections.
    #[serde(rename = "died")]
    pub pruned: usize,
    /// Connections after it.
    pub nonzeros: usize,
    /// Share of the initial connections that still exist.
    pub overlap: f64,
    /// Mean age of the connections, in steps.
    pub age: f64,
}

/// A topology at one time.
#[derive(Clone, Debug, Serialize)]
pub struct Look {
    /// Steps done.
    pub step: u64,
    /// Connections of each output.
    pub fan_in: Degrees,
    /// Connections of each input.
    pub fan_out: Degrees,
    /// A power law fitted to the tail of the fan-in, and its alternatives; `None` if there is no tail to fit.
    pub fan_in_tail: Option<Tail>,
    /// The same of the fan-out.
    pub fan_out_tail: Option<Tail>,
    /// Components of its bipartite graph.
    pub components: Components,
    /// Spectral gap, between 0 and 1; 1 for a dense layer.
    pub gap: f64,
    /// Connections of every input; kept for the first layer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<u32>,
}

/// A weight while its history is replayed.
struct Replay {
    layer: Layer,
    /// Step at which every connection was grown.
    alive: BTreeMap<u64, u64>,
    /// Sum of those steps.
    births: u128,
    /// Sorted positions of the initial connections.
    first: Vec<u64>,
    /// How many of them exist.
    left: usize,
    lives: BTreeMap<u64, usize>,
    /// Indices of the changes with a snapshot.
    looks: Vec<usize>,
}

impl Look {
    /// Of a layer with every connection.
    fn full(step: u64, rows: usize, cols: usize, first_layer: bool) -> Self {
        let (into, from) = (vec![cols; rows], vec![rows; cols]);
        let largest = if rows == 0 || cols == 0 { 0 } else { rows + cols };
        Self {
            step,
            fan_in: Degrees::of(&into),
            fan_out: Degrees::of(&from),
            fan_in_tail: graph_stats::tail(&into),
            fan_out_tail: graph_stats::tail(&from),
            components: Components { count: usize::from(largest > 0), largest, isolated: rows + cols - largest },
            gap: 1.0,
            inputs: if first_layer { vec![rows as u32; cols] } else { Vec::new() },
        }
    }
}

impl Replay {
    fn look(&mut self, step: u64, first_layer: bool) -> Result<()> {
        let (rows, cols) = (self.layer.rows, self.layer.cols);
        let t = Topology::from_positions(rows, cols, self.alive.keys().copied());
        let gap = if t.nnz() == rows * cols { 1.0 } else { graph_stats::spectral(&t).normalized.gap.clamp(0.0, 1.0) };
        let narrow = |degrees: Vec<usize>| degrees.into_iter().map(|d| d as u32).collect();
        self.layer.looks.push(Look {
            step,
            fan_in: graph_stats::fan_in(&t),
            fan_out: graph_stats::fan_out(&t),
            fan_in_tail: graph_stats::tail(&t.row_degrees()),
            fan_out_tail: graph_stats::tail(&t.col_degrees()),
            components: graph_stats::components(&[&t])?,
            gap,
            inputs: if first_layer { narrow(t.col_degrees()) } else { Vec::new() },
        });
        Ok(())
    }

    fn change(&mut self, step: u64, grown: &[u64], pruned: &[u64]) -> Option<()> {
        for p in pruned {
            let birth = self.alive.remove(p)?;
            self.births -= u128::from(birth);
            self.left -= usize::from(self.first.binary_search(p).is_ok());
            *self.lives.entry(step.saturating_sub(birth)).or_default() += 1;
        }
        for &p in grown {
            self.births += u128::from(step);
            self.left += usize::from(self.first.binary_search(&p).is_ok());
            if self.alive.insert(p, step).is_some() {
                return None;
            }
        }
        let nonzeros = self.alive.len();
        self.layer.moves.push(Move {
            step,
            grown: grown.len(),
            pruned: pruned.len(),
            nonzeros,
            overlap: self.left as f64 / self.first.len().max(1) as f64,
            age: step as f64 - self.births as f64 / nonzeros.max(1) as f64,
        });
        Some(())
    }
}

/// The history of an arm of a finished run; by default of the first that has a method.
///
/// # Errors
/// When there is no finished run, no such arm, or the run was made before histories were kept.
pub fn of_run(dir: &Path, arm: Option<&str>) -> Result<History> {
    let record = run::read_record(dir)?;
    let kept = |name: &str, seed: u64| dir.join("arms").join(format!("{name}-{seed}.topology"));
    let has = |a: &&ArmRecord| a.seeds.first().is_some_and(|s| kept(&a.name, s.seed).exists());
    let found = match arm {
        Some(name) => record.arms.iter().find(|a| a.name == name).ok_or_else(|| {
            let names: Vec<&str> = record.arms.iter().map(|a| a.name.as_str()).collect();
            Error::file(dir, format!("has no arm `{name}`; its arms are {}", names.join(", ")))
        })?,
        None => record.arms.iter().find(has).or(record.arms.first()).ok_or_else(|| Error::file(dir, "has no arm"))?,
    };
    if !has(&found) {
        let why = format!(
            "keeps no history of `{}`: a dense arm has none, and a run from before histories were kept must be run again",
            found.name
        );
        return Err(Error::file(dir, why));
    }
    let seed = found.seeds[0].seed;
    tell(&read(&kept(&found.name, seed))?, &found.name, seed, &record.title, record.data.image)
}

/// Replays a history. If the extents of weights change, as when units are cut, only the part after the last
/// such change.
pub fn tell(events: &[Event], arm: &str, seed: u64, title: &str, input: [usize; 3]) -> Result<History> {
    let damaged =
        || Error::Refused("the history of topologies contradicts itself; run with --again to make it anew".into());
    let last_start = events.iter().rposition(|e| matches!(e, Event::Start { .. })).ok_or_else(damaged)?;
    let from = events[..last_start].iter().rposition(|e| matches!(e, Event::Moved { .. })).map_or(0, |at| at + 1);
    let mut layers: Vec<Replay> = Vec::new();
    // How often a layer changed, and how many connections it lost.
    let changes = |layer: usize| -> (usize, u64) {
        let lost = |e: &Event| match e {
            Event::Moved { layer: l, pruned, .. } if *l == layer => Some(pruned.len() as u64),
            _ => None,
        };
        events[last_start..].iter().filter_map(lost).fold((0, 0), |(n, all), lost| (n + 1, all + lost))
    };
    for event in &events[from..] {
        match event {
            Event::Start { step, layer, name, rows, cols, positions } => {
                if *layer != layers.len() {
                    return Err(damaged());
                }
                // A file may claim more than it holds.
                let entries = (*rows as u64).saturating_mul(*cols as u64);
                let (count, lost) = changes(*layer);
                let held = positions.as_ref().map_or(lost, |p| p.len() as u64);
                let units = (*rows as u64 + *cols as u64).saturating_sub(FEW_UNITS);
                let whole = positions.is_none() && count == 0;
                let unfounded =
                    positions.is_none() && !whole && entries.saturating_sub(FEW_ENTRIES) / ENTRIES_EACH > lost;
                if unfounded || units / UNITS_EACH > held {
                    return Err(Error::Refused(format!(
                        "`{name}`, {rows}x{cols}, is too large for its history to be told"
                    )));
                }
                let first: Vec<u64> = match positions {
                    Some(positions) => positions.clone(),
                    None if whole => Vec::new(),
                    None => (0..entries).collect(),
                };
                let looks = (1..LOOKS).map(|i| (i * count).div_ceil(LOOKS - 1)).collect();
                let layer = Layer {
                    name: name.clone(),
                    rows: *rows,
                    cols: *cols,
                    start: if whole { entries as usize } else { first.len() },
                    moves: Vec::new(),
                    lives: Vec::new(),
                    looks: Vec::new(),
                };
                let alive: BTreeMap<u64, u64> = first.iter().map(|&p| (p, *step)).collect();
                let births = u128::from(*step) * first.len() as u128;
                let mut replay =
                    Replay { layer, alive, births, left: first.len(), first, lives: BTreeMap::new(), looks };
                match whole {
                    true => replay.layer.looks.push(Look::full(*step, *rows, *cols, layers.is_empty())),
                    false => replay.look(*step, layers.is_empty())?,
                }
                layers.push(replay);
            }
            Event::Moved { step, layer, grown, pruned } => {
                let replay = layers.get_mut(*layer).ok_or_else(damaged)?;
                replay.change(*step, grown, pruned).ok_or_else(damaged)?;
                if replay.looks.contains(&replay.layer.moves.len()) {
                    replay.look(*step, *layer == 0)?;
                }
            }
        }
    }
    let mut steps: Vec<u64> = layers.iter().flat_map(|r| r.layer.moves.iter().map(|m| m.step)).collect();
    steps.sort_unstable();
    steps.dedup();
    let whole = |r: Replay| Layer { lives: r.lives.into_iter().collect(), ..r.layer };
    let layers = layers.into_iter().map(whole).collect();
    Ok(History { arm: arm.into(), seed, title: title.into(), input, rewirings: steps.len(), layers })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Vec<Event> {
        let start = |layer, name: &str, positions| Event::Start {
            step: 0,
            layer,
            name: name.into(),
            rows: 2,
            cols: 300,
            positions,
        };
        vec![
            start(0, "a", Some(vec![0, 5, 300, 599])),
            start(1, "b", None),
            Event::Moved { step: 10, layer: 0, grown: vec![6], pruned: vec![5] },
            Event::Moved { step: 30, layer: 0, grown: vec![5, 7], pruned: vec![6, 599] },
        ]
    }

    #[test]
    fn a_history_is_read_as_it_was_written_and_cut_at_a_step() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.topology");
        create(&path).unwrap();
        append(&path, &events()[..2]).unwrap();
        append(&path, &events()[2..]).unwrap();
        assert_eq!(read(&path).unwrap(), events());
        // A last event that was cut off anywhere, or is later than the checkpoint, is removed.
        let whole = fs::read(&path).unwrap();
        for length in whole.len() - 6..=whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(read(&path).is_ok(), length == whole.len());
            cut(&path, 30).unwrap();
            assert_eq!(read(&path).unwrap(), events()[..3]);
        }
        for garbage in [
            &b"no history"[..],
            &[MAGIC, &[2, 0, 9, 1, 1, 0]].concat(),
            &[MAGIC, &[1, 0, 0, 255, 255, 255, 255, 15]].concat(),
        ] {
            fs::write(&path, garbage).unwrap();
            assert!(read(&path).is_err());
        }
    }

    #[test]
    fn births_deaths_ages_and_overlap_are_counted() {
        let told = tell(&events(), "set", 0, "", [1, 1, 300]).unwrap();
        let a = &told.layers[0];
        assert_eq!(
            (told.rewirings, a.start, a.looks.first().unwrap().step, a.looks.last().unwrap().step),
            (2, 4, 0, 30)
        );
        // Position 5 was pruned at age 10 and regrown; 6 lived from 10 to 30, 599 from 0 to 30.
        assert_eq!(a.lives, [(10, 1), (20, 1), (30, 1)]);
        assert_eq!(a.moves[0], Move { step: 10, grown: 1, pruned: 1, nonzeros: 4, overlap: 0.75, age: 7.5 });
        assert_eq!(a.moves[1], Move { step: 30, grown: 2, pruned: 2, nonzeros: 4, overlap: 0.75, age: 15.0 });
        assert_eq!(a.looks.last().unwrap().inputs[5], 1);
        assert!(told.layers[1].moves.is_empty() && told.layers[1].looks[0].gap == 1.0);
        let claims =
            |rows, cols, positions| vec![Event::Start { step: 0, layer: 0, name: "a".into(), rows, cols, positions }];
        // One that stays whole needs no list of its connections, and tells what a list would.
        let whole = tell(&claims(3000, 2000, None), "set", 0, "", [1, 1, 2000]).unwrap();
        assert_eq!((whole.layers[0].start, whole.layers[0].looks[0].inputs[1999]), (6_000_000, 3000));
        let listed = tell(&claims(3, 4, Some((0..12).collect())), "set", 0, "", [1, 1, 4]).unwrap();
        let told = tell(&claims(3, 4, None), "set", 0, "", [1, 1, 4]).unwrap();
        assert_eq!(serde_json::to_value(&told).unwrap(), serde_json::to_value(&listed).unwrap());
        let moved = Event::Moved { step: 1, layer: 0, grown: Vec::new(), pruned: vec![7] };
        let few_moves = [claims(3000, 2000, None), vec![moved]].concat();
        for huge in [claims(1 << 30, 1 << 30, None), claims(1 << 31, 1 << 31, Some(vec![1])), few_moves] {
            let error = tell(&huge, "set", 0, "", [1, 1, 1]).unwrap_err().to_string();
            assert!(error.contains("too large"), "{error}");
        }
        let mut twice = events();
        twice.push(Event::Moved { step: 40, layer: 0, grown: vec![0], pruned: vec![] });
        assert!(tell(&twice, "set", 0, "", [1, 1, 300]).is_err());
    }
}
