//! What each operator does to the units of the values that it reads.

use super::{COPIES, Extent, Extents, Operand, Part, Place, Said, Walk};
use crate::net::plan::{Source, Step};
use crate::net::slopes;
use crate::ops::{self, Done};
use crate::value::Value;

/// What is written about an extent.
enum Told {
    /// Nothing, or what follows from the values.
    Free,
    /// A number of a constant that a node reads.
    Entry(String, usize, usize),
    /// A number that cannot be changed.
    Hard,
}

/// A node, by its first output.
fn reader(step: &Step) -> String {
    step.node.outputs.first().cloned().unwrap_or_default()
}

/// Why units stay that a step mixes.
fn mixes(step: &Step) -> String {
    format!("{} mixes them", step.node.op)
}

impl Walk<'_> {
    /// Extents of an input.
    fn read(&mut self, step: &Step, input: usize) -> Extents {
        let Some(slot) = step.inputs.get(input).copied().flatten() else { return Vec::new() };
        match &self.plan.sources[slot] {
            &Source::Weight(w, flipped) => {
                let mut extents = self.weights[w].clone();
                if flipped {
                    extents.reverse();
                }
                extents
            }
            Source::Constant(value) => {
                // One that is computed is written down without what goes, if its type is known.
                let computed = match (self.plan.given.contains(&slot), value) {
                    (true, _) => None,
                    (false, Value::Float(_)) if self.plan.single => Some(value.clone()),
                    _ => return value.shape().into_iter().map(|d| self.fixed(d)).collect(),
                };
                let extents: Extents = value.shape().into_iter().map(|d| self.extent(d)).collect();
                self.constants.push(Operand { reader: reader(step), input, extents: extents.clone(), computed });
                extents
            }
            Source::Plain | Source::Live => match self.values.get(&slot) {
                Some(extents) => extents.clone(),
                None => self.still(slot),
            },
        }
    }

    /// Marks the axis of a weight along which its outputs lie; `axis` is that of what the step reads.
    fn made(&mut self, step: &Step, axis: usize) {
        if let Some((w, flipped)) = self.plan.weight(step, 1) {
            self.makes.insert((w, if flipped { 1 - axis.min(1) } else { axis }));
        }
    }

    pub fn step(&mut self, step: &Step) {
        let shapes: Vec<Vec<usize>> =
            step.outputs.iter().map(|s| s.and_then(|s| self.shapes[s].clone()).unwrap_or_default()).collect();
        let out = match step.live {
            true => self.passed(step, &shapes),
            // Of these only extents are known.
            false if matches!(&*step.node.op, "Shape" | "Size") => None,
            false => self.mixed(step),
        };
        for (i, slot) in step.outputs.iter().enumerate() {
            let Some(slot) = *slot else { continue };
            let found = out
                .as_ref()
                .and_then(|o| o.get(i))
                .filter(|e| e.len() == shapes[i].len() && e.iter().zip(&shapes[i]).all(|(e, &d)| self.len(e) == d));
            let extents = match found.cloned() {
                Some(extents) => extents,
                None => {
                    if step.live {
                        self.mixed(step);
                    }
                    self.still(slot)
                }
            };
            self.values.insert(slot, extents);
        }
    }

    /// Holds all that a step reads.
    fn mixed(&mut self, step: &Step) -> Option<Vec<Extents>> {
        let why = mixes(step);
        for i in 0..step.inputs.len() {
            let flows = step.inputs[i].is_some_and(|s| !matches!(self.plan.sources[s], Source::Constant(_)));
            if flows {
                let extents = self.read(step, i);
                self.hold_all(&extents, &why);
            }
        }
        None
    }

    /// The extents of the outputs of a step on the tape; `None` if it mixes all that it reads.
    fn passed(&mut self, step: &Step, shapes: &[Vec<usize>]) -> Option<Vec<Extents>> {
        let op = &*step.node.op;
        let cx = self.plan.cx(step);
        let shape = shapes.first()?;
        if slopes::unary(op) {
            // Bounds are single numbers.
            return Some(vec![self.read(step, 0)]);
        }
        let one = match op {
            "Add" | "Sub" | "Mul" | "Div" | "Max" | "Min" | "Sum" | "Mean" | "PRelu" | "Where" | "Pow" => {
                let all: Vec<Extents> = (0..step.inputs.len()).map(|i| self.read(step, i)).collect();
                self.spread(&all, shape.len())
            }
            "Softmax" | "LogSoftmax" | "LayerNormalization" | "RMSNormalization" => {
                let x = self.read(step, 0);
                let norm = op.ends_with("Normalization");
                let old = !norm && self.plan.opset < 13;
                let at = ops::axis(cx.int("axis", if old { 1 } else { -1 }).ok()?, x.len()).ok()?;
                let end = if old || norm { x.len() } else { at + 1 };
                self.hold_all(&x[at..end], &mixes(step));
                if norm {
                    (1..step.inputs.len()).for_each(|i| {
                        let extents = self.read(step, i);
                        self.hold_all(&extents, &mixes(step));
                    });
                }
                x
            }
            "MatMul" => self.product(step)?,
            "Gemm" => self.gemm(step, cx.int("transA", 0).ok()? != 0, cx.int("transB", 0).ok()? != 0)?,
            "Conv" | "ConvTranspose" => self.convolved(step, shape)?,
            "MaxPool" | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool" => {
                let x = self.read(step, 0);
                let places = shape.iter().skip(2).map(|&d| self.fixed(d)).collect::<Vec<_>>();
                [x.get(..2)?, &places[..]].concat()
            }
            "BatchNormalization" | "InstanceNormalization" => {
                let x = self.read(step, 0);
                for i in 1..step.inputs.len() {
                    let vector = self.read(step, i);
                    self.tie(x.get(1)?, vector.first()?);
                }
                x
            }
            "GroupNormalization" => {
                let x = self.read(step, 0);
                let parts: Vec<Extents> = (1..step.inputs.len()).map(|i| self.read(step, i)).collect();
                self.hold_all(&[&x[1..2], &parts.concat()[..]].concat(), &mixes(step));
                x
            }
            "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceL2" | "ReduceSumSquare" => self.reduced(step)?,
            "Resize" | "Upsample" => {
                let x = self.read(step, 0);
                let said = (0..x.len()).map(|_| Told::Free).collect();
                let sizes = if op == "Resize" { self.told(step, 3) } else { Vec::new() };
                let said = if sizes.len() == x.len() { sizes } else { said };
                self.kept(step, x, shape, &said)
            }
            "Identity" => self.read(step, 0),
            "Reshape" => {
                let told = self.told(step, 1);
                self.regrouped(step, shape, &told)?
            }
            "Flatten" | "Squeeze" | "Unsqueeze" => self.regrouped(step, shape, &[])?,
            "Transpose" => {
                let x = self.read(step, 0);
                let order = match cx.ints("perm").ok()? {
                    Some(p) => p.iter().map(|&a| ops::axis(a, x.len())).collect::<Done<Vec<usize>>>().ok()?,
                    None => (0..x.len()).rev().collect(),
                };
                order.into_iter().map(|a| x[a].clone()).collect()
            }
            "Concat" => {
                let all: Vec<Extents> = (0..step.inputs.len()).map(|i| self.read(step, i)).collect();
                let at = ops::axis(cx.int("axis", 0).ok()?, all.first()?.len()).ok()?;
                let mut out = all[0].clone();
                for other in &all[1..] {
                    for (i, extent) in other.iter().enumerate() {
                        match i == at {
                            true => out[i].extend(extent),
                            false => self.tie(&out[i].clone(), extent),
                        }
                    }
                }
                out
            }
            "Split" => return self.parted(step, shapes),
            "Gather" => {
                let (x, index) = (self.read(step, 0), self.read(step, 1));
                let at = ops::axis(cx.int("axis", 0).ok()?, x.len()).ok()?;
                self.hold(&x[at], &mixes(step));
                self.hold_all(&index, "");
                [&x[..at], &index[..], &x[at + 1..]].concat()
            }
            "Slice" | "Pad" | "Expand" | "Tile" => {
                let x = self.read(step, 0);
                let untouched = self.untouched(step, x.len(), shape.len())?;
                let lead = shape.len() - x.len();
                let mut out: Extents = shape[..lead].iter().map(|&d| self.fixed(d)).collect();
                let said = if op == "Expand" { self.told(step, 1) } else { Vec::new() };
                for (i, extent) in x.iter().enumerate() {
                    if untouched[i] && self.len(extent) == shape[lead + i] {
                        // A shape that is said may be shorter than what is spread.
                        let said = (lead + i + said.len()).checked_sub(shape.len()).and_then(|at| said.get(at));
                        self.obey(said, extent, step);
                        out.push(extent.clone());
                    } else {
                        self.hold(extent, &mixes(step));
                        let new = self.fixed(shape[lead + i]);
                        out.push(new);
                    }
                }
                out
            }
            "LSTM" | "GRU" | "RNN" => {
                let gates = (1..3).filter_map(|i| self.plan.weight(step, i)).map(|(w, _)| (w, 1));
                self.makes.extend(gates.collect::<Vec<_>>());
                return None;
            }
            _ => return None,
        };
        Some(vec![one])
    }

    /// Extents of values that are broadcast to so many axes.
    fn spread(&mut self, all: &[Extents], rank: usize) -> Extents {
        (0..rank)
            .map(|i| {
                let at = |e: &Extents| (i + e.len()).checked_sub(rank).map(|at| e[at].clone());
                let own: Vec<Extent> = all.iter().filter_map(at).filter(|e| self.len(e) != 1).collect();
                own.windows(2).for_each(|pair| self.tie(&pair[0], &pair[1]));
                own.into_iter().next().unwrap_or_else(|| self.fixed(1))
            })
            .collect()
    }

    fn product(&mut self, step: &Step) -> Option<Extents> {
        let (a, b) = (self.read(step, 0), self.read(step, 1));
        let ([lead_a @ .., m, k], [lead_b @ .., l, n]) = (&a[..], &b[..]) else { return None };
        self.tie(k, l);
        self.made(step, b.len() - 1);
        let rank = lead_a.len().max(lead_b.len());
        let mut out = self.spread(&[lead_a.to_vec(), lead_b.to_vec()], rank);
        out.extend([m.clone(), n.clone()]);
        if let Some(bias) = step.bias {
            self.tie(n, &self.weights[bias][0].clone());
        }
        Some(out)
    }

    fn gemm(&mut self, step: &Step, turned_a: bool, turned_b: bool) -> Option<Extents> {
        let (mut a, mut b, c) = (self.read(step, 0), self.read(step, 1), self.read(step, 2));
        if a.len() != 2 || b.len() != 2 {
            return None;
        }
        self.made(step, usize::from(!turned_b));
        if turned_a {
            a.reverse();
        }
        if turned_b {
            b.reverse();
        }
        self.tie(&a[1], &b[0]);
        Some(self.spread(&[vec![a[0].clone(), b[1].clone()], c], 2))
    }

    fn convolved(&mut self, step: &Step, shape: &[usize]) -> Option<Extents> {
        let transposed = step.node.op == "ConvTranspose";
        let (x, kernel, bias) = (self.read(step, 0), self.read(step, 1), self.read(step, 2));
        let (batch, channels) = (x.first()?.clone(), x.get(1)?.clone());
        let [first, second, ..] = &kernel[..] else { return None };
        let groups = usize::try_from(self.plan.cx(step).int("group", 1).ok()?).ok().filter(|&g| g > 0)?;
        self.made(step, usize::from(transposed));
        let outputs = match (groups, transposed) {
            (1, false) => {
                self.tie(&channels, second);
                first.clone()
            }
            (1, true) => {
                self.tie(&channels, first);
                second.clone()
            }
            // A group goes as a whole, with what it reads and what it makes.
            _ => {
                let reads = self.len(&channels) / groups;
                let makes = *shape.get(1)? / groups;
                self.hold(second, "");
                let parts = self.coarse(&channels, reads)?;
                let out: Extent = parts.iter().map(|p| Part { node: p.node, each: p.each / reads * makes }).collect();
                self.tie(first, if transposed { &parts } else { &out });
                let place = Place::Int("group");
                self.said.push(Said { reader: reader(step), place, extent: channels, share: reads });
                out
            }
        };
        if let Some(bias) = bias.first() {
            self.tie(&outputs, bias);
        }
        let places: Extents = shape.iter().skip(2).map(|&d| self.fixed(d)).collect();
        Some([vec![batch, outputs], places].concat())
    }

    fn reduced(&mut self, step: &Step) -> Option<Extents> {
        let (x, cx) = (self.read(step, 0), self.plan.cx(step));
        let told = match self.plain(step, 1) {
            Some(v) => Some(v),
            None if step.inputs.get(1).copied().flatten().is_some() => return None,
            None => cx.ints("axes").ok()?.map(<[i64]>::to_vec),
        };
        let axes: Vec<usize> = match told.filter(|a| !a.is_empty()) {
            Some(axes) => axes.iter().map(|&a| ops::axis(a, x.len())).collect::<Done<_>>().ok()?,
            None if cx.int("noop_with_empty_axes", 0).ok()? != 0 => return Some(x),
            None => (0..x.len()).collect(),
        };
        let keep = cx.int("keepdims", 1).ok()? != 0;
        let mut out = Vec::with_capacity(x.len());
        for (i, extent) in x.into_iter().enumerate() {
            match (axes.contains(&i), keep) {
                (false, _) => out.push(extent),
                (true, keep) => {
                    self.hold(&extent, &mixes(step));
                    if keep {
                        let one = self.fixed(1);
                        out.push(one);
                    }
                }
            }
        }
        Some(out)
    }

    fn parted(&mut self, step: &Step, shapes: &[Vec<usize>]) -> Option<Vec<Extents>> {
        let (x, cx) = (self.read(step, 0), self.plan.cx(step));
        let at = ops::axis(cx.int("axis", 0).ok()?, x.len()).ok()?;
        if step.outputs.iter().any(Option::is_none) {
            return None;
        }
        let sizes: Vec<usize> = shapes.iter().map(|s| s.get(at).copied()).collect::<Option<_>>()?;
        let parts = self.divided(&x[at], &sizes)?;
        let told = self.told(step, 1);
        let attribute = cx.ints("split").ok()?.is_some();
        for (i, part) in parts.iter().enumerate() {
            if !told.is_empty() {
                self.obey(Some(told.get(i).unwrap_or(&Told::Hard)), part, step);
            } else if attribute {
                let place = Place::Ints("split", i);
                self.said.push(Said { reader: reader(step), place, extent: part.clone(), share: 1 });
            } else {
                // Equal parts stay equal.
                self.tie(&parts[0], part);
            }
        }
        let one = |part: Extent| {
            let mut extents = x.clone();
            extents[at] = part;
            extents
        };
        Some(parts.into_iter().map(one).collect())
    }

    /// Which axes a step that moves numbers leaves as they are, if their extents stay.
    fn untouched(&self, step: &Step, rank: usize, to: usize) -> Option<Vec<bool>> {
        let cx = self.plan.cx(step);
        let all = |axes: &[i64]| axes.iter().map(|&a| ops::axis(a, rank)).collect::<Done<Vec<usize>>>().ok();
        match &*step.node.op {
            // With a step of one, as many places as there are, are all.
            "Slice" => {
                let forward = match step.inputs.get(4).copied().flatten() {
                    Some(_) => self.plain(step, 4)?.iter().all(|&s| s > 0),
                    None => true,
                };
                forward.then(|| vec![true; rank])
            }
            "Pad" => {
                let pads = match step.inputs.get(1).copied().flatten() {
                    Some(_) => self.plain(step, 1)?,
                    None => cx.ints("pads").ok()??.to_vec(),
                };
                let axes = match step.inputs.get(3).copied().flatten() {
                    Some(_) => all(&self.plain(step, 3)?)?,
                    None => (0..rank).collect(),
                };
                let mut still = vec![true; rank];
                for (i, &axis) in axes.iter().enumerate() {
                    still[axis] = *pads.get(i)? == 0 && *pads.get(i + axes.len())? == 0;
                }
                Some(still)
            }
            _ => (to >= rank).then(|| vec![true; rank]),
        }
    }

    /// Extents of which those that stay as long are passed on.
    fn kept(&mut self, step: &Step, x: Extents, shape: &[usize], told: &[Told]) -> Extents {
        let mut out = Vec::with_capacity(x.len());
        for (i, extent) in x.into_iter().enumerate() {
            let same = shape.get(i).is_some_and(|&d| d == self.len(&extent));
            if same {
                self.obey(told.get(i), &extent, step);
                out.push(extent);
            } else {
                self.hold(&extent, &mixes(step));
                let new = self.fixed(shape.get(i).copied().unwrap_or(1));
                out.push(new);
            }
        }
        out
    }

    /// Extents of the same numbers under another shape, in blocks of equal products.
    fn regrouped(&mut self, step: &Step, to: &[usize], told: &[Told]) -> Option<Extents> {
        let x = self.read(step, 0);
        let from: Vec<usize> = x.iter().map(|e| self.len(e)).collect();
        let mut out: Vec<Option<Extent>> = vec![None; to.len()];
        let (mut i, mut o) = (0, 0);
        while i < from.len() || o < to.len() {
            let (first, begin) = (i, o);
            let (mut a, mut b) = (1usize, 1usize);
            // Both take at least one, if they have it.
            loop {
                if i < from.len() && (a < b || a == b && i == first) {
                    a *= from[i];
                    i += 1;
                } else if o < to.len() && (b < a || o == begin) {
                    b *= to[o];
                    o += 1;
                } else if a == b {
                    break;
                } else {
                    return None;
                }
            }
            let many = |range: std::ops::Range<usize>, of: &[usize]| range.filter(|&i| of[i] != 1).collect::<Vec<_>>();
            let (ins, outs) = (many(first..i, &from), many(begin..o, to));
            match (&ins[..], &outs[..]) {
                (&[one], &[other]) => out[other] = Some(x[one].clone()),
                (&[one], &[other, ..]) => {
                    let rest: usize = outs[1..].iter().map(|&o| to[o]).product();
                    let parts = self.resolved(&x[one]);
                    match parts.iter().all(|p| p.each.is_multiple_of(rest)) {
                        true => {
                            let narrow = |p: &Part| Part { node: p.node, each: p.each / rest };
                            out[other] = Some(parts.iter().map(narrow).collect());
                        }
                        false => self.hold(&x[one], &mixes(step)),
                    }
                }
                (all, &[other]) if !all.is_empty() => {
                    let free: Vec<usize> = all.iter().copied().filter(|&i| !self.held(&x[i])).collect();
                    let copies: usize = all
                        .iter()
                        .take_while(|&&i| i != free.first().copied().unwrap_or(i))
                        .map(|&i| from[i])
                        .product();
                    if let ([one], true) = (&free[..], copies <= COPIES) {
                        let after: usize = all.iter().filter(|&i| i > one).map(|&i| from[i]).product();
                        let wide: Extent =
                            x[*one].iter().map(|p| Part { node: p.node, each: p.each * after }).collect();
                        out[other] = Some(wide.repeat(copies));
                    } else {
                        free.iter().for_each(|&i| self.hold(&x[i], &mixes(step)));
                    }
                }
                (all, _) => all.iter().for_each(|&i| self.hold(&x[i], &mixes(step))),
            }
        }
        let mut all = Vec::with_capacity(to.len());
        for (i, extent) in out.into_iter().enumerate() {
            match extent {
                Some(extent) => {
                    self.obey(told.get(i), &extent, step);
                    all.push(extent);
                }
                None => all.push(self.fixed(to[i])),
            }
        }
        Some(all)
    }

    /// Whole numbers that are known before any input.
    fn plain(&self, step: &Step, input: usize) -> Option<Vec<i64>> {
        match &self.plan.sources[step.inputs.get(input).copied().flatten()?] {
            Source::Constant(Value::Int(v)) => Some(v.data().to_vec()),
            _ => None,
        }
    }

    /// What an input says about the extents of a result; none if it is not there.
    fn told(&self, step: &Step, input: usize) -> Vec<Told> {
        let Some(slot) = step.inputs.get(input).copied().flatten() else { return Vec::new() };
        match &self.plan.sources[slot] {
            Source::Constant(Value::Int(v)) => {
                let given = self.plan.given.contains(&slot);
                let one = |(at, &n): (usize, &i64)| match (n > 0, given) {
                    (false, _) => Told::Free,
                    (true, true) => Told::Entry(reader(step), input, at),
                    (true, false) => Told::Hard,
                };
                v.data().iter().enumerate().map(one).collect()
            }
            Source::Constant(_) => Vec::new(),
            // From the shape of a value, which follows it, or several of them and constants.
            _ => match self.makers.get(&slot) {
                Some(maker) if maker.node.op == "Concat" => {
                    (0..maker.inputs.len()).flat_map(|i| self.told(maker, i)).collect()
                }
                _ => {
                    let n = self.shapes[slot].as_ref().map_or(0, |s| s.iter().product());
                    (0..n).map(|_| Told::Free).collect()
                }
            },
        }
    }

    /// Notes where the length of an extent is written, or holds it where that cannot be changed.
    fn obey(&mut self, told: Option<&Told>, extent: &[Part], step: &Step) {
        match told {
            None | Some(Told::Free) => {}
            Some(Told::Hard) => self.hold(extent, &mixes(step)),
            Some(Told::Entry(reader, input, at)) => {
                let place = Place::Entry(*input, *at);
                self.said.push(Said { reader: reader.clone(), place, extent: extent.to_vec(), share: 1 });
            }
        }
    }
}
