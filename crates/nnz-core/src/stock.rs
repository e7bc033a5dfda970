//! Ready-made sparsifiers: most methods are one of them with the right parts.

use crate::subject::Show;
use crate::{
    Criterion, Decay, Distribution, Edit, Error, Growth, GrowthCandidates, Pattern, Plan, Result, Rng, Schedule,
    Setting, Shape, Signals, Sparsifier, Start, Target, TargetKind, Topology, When, allocate, random_zeros,
};
use rayon::prelude::*;
use serde_json::{Value, json};

/// Opens the random stream of one target at one step.
fn stream(setting: &Setting, purpose: &str, index: usize, step: u64) -> Rng {
    Rng::stream(setting.seed, purpose, index as u64, step)
}

/// Checks the pattern against every shape, and a density fixed by the pattern against the one asked for.
fn check(pattern: Pattern, density: f64, shapes: &[&Shape]) -> Result<()> {
    if !(density > 0.0 && density <= 1.0) {
        return Err(Error::Range { name: "density", range: "above 0 and at most 1".into(), got: density });
    }
    if let Some(fixed) = pattern.fixed_density().filter(|f| (f - density).abs() > 1e-9) {
        let message = format!(
            "pattern {pattern} has density {fixed}, but density {density} was asked for; leave the density out, or \
             choose a pattern that is free in it"
        );
        return Err(Error::Refused(message));
    }
    shapes.iter().try_for_each(|s| pattern.check(s))
}

/// Score, allocate, select: every dense-to-sparse method.
pub struct Prune {
    /// Scores the entries to keep.
    pub criterion: Box<dyn Criterion>,
    /// How the budget is shared between targets.
    pub distribution: Box<dyn Distribution>,
    /// Where zeros may fall.
    pub pattern: Pattern,
    /// When to prune, and to which density.
    pub schedule: Box<dyn Schedule>,
    /// The density the schedule ends at.
    pub density: f64,
    /// The run.
    pub setting: Setting,
    /// Kind of target that is pruned.
    pub kind: TargetKind,
    /// Rounds n of a step: round k of them, from 1, ends at density^(k / n).
    pub rounds: u32,
    /// Rounds done in this step.
    pub round: u32,
    /// Edges each graph had initially, to which a density of edges is relative.
    pub edges: Vec<usize>,
    /// Entries each target keeps, where that was fixed before targets are shown one at a time.
    pub counts: Option<Vec<usize>>,
}

impl Prune {
    /// The density of the next round of a step; one where nothing goes.
    fn next_round(&mut self, step: u64) -> f64 {
        let Some(density) = self.schedule.density(step) else { return 1.0 };
        self.round = self.round % self.rounds + 1;
        density.powf(f64::from(self.round) / f64::from(self.rounds))
    }

    fn score(&self, step: u64, t: &Target) -> Vec<f32> {
        self.criterion.score(t, &mut stream(&self.setting, "score", t.index, step))
    }
}

impl Sparsifier for Prune {
    fn kind(&self) -> TargetKind {
        self.kind
    }

    fn rounds(&self, _: u64) -> u32 {
        self.rounds
    }

    fn check(&self, shapes: &[&Shape]) -> Result<()> {
        check(self.pattern, self.density, shapes)?;
        match self.distribution.needs_scores() {
            true => Ok(()),
            false => allocate(&*self.distribution, shapes, &[], self.density).map(drop),
        }
    }

    fn plan(&self, step: u64) -> Plan {
        self.schedule.density(step).map_or(Plan::Rest, |_| Plan::Rewire(self.criterion.needs()))
    }

    fn layerwise(&self) -> bool {
        self.counts.is_some()
    }

    fn divide(&mut self, step: u64, shapes: &[&Shape], show: &mut Show) -> Result<bool> {
        if self.criterion.needs().any() || self.kind == TargetKind::Edges {
            return Ok(false);
        }
        let density = self.next_round(step);
        let mut scores = |index: usize| {
            let mut scores = Vec::new();
            show(index, &mut |t| scores = self.score(step, t))?;
            Ok(scores)
        };
        self.counts = match density >= 1.0 {
            true => Some(shapes.iter().map(|s| s.len()).collect()),
            false => self.distribution.allocate_streamed(shapes, density, &mut scores)?,
        };
        Ok(self.counts.is_some())
    }

    fn rewire(&mut self, step: u64, targets: &[Target]) -> Result<Vec<Edit>> {
        if let Some(counts) = &self.counts {
            let edit = |t: &Target| {
                let kept = self.pattern.select(t.topology, &self.score(step, t), counts[t.index]);
                Edit::Rewire { topology: t.topology.filter(&kept), grown: Vec::new() }
            };
            return Ok(targets.iter().map(edit).collect());
        }
        let density = self.next_round(step);
        if density >= 1.0 {
            return Ok(vec![Edit::Keep; targets.len()]);
        }
        let scores: Vec<Vec<f32>> = targets.iter().map(|t| self.score(step, t)).collect();
        if self.kind == TargetKind::Edges && self.edges.is_empty() {
            self.edges = targets.iter().map(|t| t.topology.nnz()).collect();
        }
        let graphs: Vec<Shape> =
            targets.iter().zip(&self.edges).map(|(t, &n)| Shape::matrix(&t.shape.name, 1, n)).collect();
        let shapes: Vec<&Shape> = match self.kind {
            TargetKind::Edges => graphs.iter().collect(),
            _ => targets.iter().map(|t| t.shape).collect(),
        };
        let counts = allocate(&*self.distribution, &shapes, &scores, density)?;
        let edit = |((t, score), count): ((&Target, &Vec<f32>), usize)| {
            let topology = t.topology.filter(&self.pattern.select(t.topology, score, count));
            Edit::Rewire { topology, grown: Vec::new() }
        };
        Ok(targets.iter().zip(&scores).zip(counts).map(edit).collect())
    }

    fn state(&self) -> Value {
        if self.edges.is_empty() { Value::Null } else { self.edges.clone().into() }
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        self.edges = state.as_array().into_iter().flatten().filter_map(|n| Some(n.as_u64()? as usize)).collect();
        Ok(())
    }
}

/// Leaves every weight dense: the control that sparse methods are compared with.
pub struct Dense;

impl Sparsifier for Dense {
    fn check(&self, _: &[&Shape]) -> Result<()> {
        Ok(())
    }

    fn plan(&self, _: u64) -> Plan {
        Plan::Rest
    }

    fn rewire(&mut self, _: u64, targets: &[Target]) -> Result<Vec<Edit>> {
        Ok(vec![Edit::Keep; targets.len()])
    }
}

/// Refuses what pruning would refuse and does nothing: for methods whose work is a procedure or a parametrization.
pub struct CheckOnly(pub Prune);

impl Sparsifier for CheckOnly {
    fn kind(&self) -> TargetKind {
        self.0.kind
    }

    fn check(&self, shapes: &[&Shape]) -> Result<()> {
        self.0.check(shapes)
    }

    fn plan(&self, _: u64) -> Plan {
        Plan::Rest
    }

    fn rewire(&mut self, _: u64, targets: &[Target]) -> Result<Vec<Edit>> {
        Ok(vec![Edit::Keep; targets.len()])
    }
}

/// A random topology, drawn once and never changed.
pub struct Static {
    /// How the budget is shared; must not need scores.
    pub distribution: Box<dyn Distribution>,
    /// Where zeros may fall.
    pub pattern: Pattern,
    /// Model-wide density.
    pub density: f64,
    /// The run.
    pub setting: Setting,
    /// Kind of target drawn; must be weights.
    pub kind: TargetKind,
    /// Distribution it is drawn from.
    pub start: Start,
}

impl Sparsifier for Static {
    fn initial_topologies(&self, shapes: &[&Shape]) -> Result<Option<Vec<Topology>>> {
        let counts = allocate(&*self.distribution, shapes, &[], self.density)?;
        let draw = |(i, (s, count)): (usize, (&&Shape, usize))| {
            let mut rng = stream(&self.setting, "birth", i, 0);
            match self.start {
                Start::Random => self.pattern.random(s, count, &mut rng),
                start => start.draw(s, count, &mut rng),
            }
        };
        Ok(Some(shapes.iter().zip(counts).enumerate().map(draw).collect()))
    }

    fn check(&self, shapes: &[&Shape]) -> Result<()> {
        check(self.pattern, self.density, shapes)?;
        if self.kind != TargetKind::Weights {
            return Err(Error::Refused(
                "only weights can be born at random; to lose units or edges at random, use random-pruning".into(),
            ));
        }
        if self.start != Start::Random && self.pattern != Pattern::Unstructured {
            return Err(Error::Refused(format!(
                "start {} does not keep pattern {}; use pattern unstructured, or start random",
                self.start, self.pattern
            )));
        }
        if self.distribution.needs_scores() {
            return Err(Error::Refused(
                "a random topology has no scores to share a global budget by; choose uniform, er, erk or erk-plus"
                    .into(),
            ));
        }
        allocate(&*self.distribution, shapes, &[], self.density).map(drop)
    }

    fn plan(&self, _: u64) -> Plan {
        Plan::Rest
    }

    fn rewire(&mut self, _: u64, targets: &[Target]) -> Result<Vec<Edit>> {
        Ok(vec![Edit::Keep; targets.len()])
    }
}

/// Number of connections that each target drops and grows at a rewiring.
pub trait Redistribution: Send {
    /// Signals that must be measured first.
    fn needs(&self) -> Signals {
        Signals::NONE
    }

    /// Whether the numbers of a target depend on it alone.
    fn layerwise(&self) -> bool {
        false
    }

    /// Dropped and grown connections of each target, when `fraction` is due, capped at what it can give or hold.
    fn counts(&mut self, step: u64, fraction: f64, targets: &[Target]) -> Result<Vec<[usize; 2]>>;

    /// State to be kept in a checkpoint.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Restores what [`Redistribution::state`] returned.
    fn restore(&mut self, _state: &Value) -> Result<()> {
        Ok(())
    }
}

/// Drops the fraction of each target's nonzeros, and grows as many there.
pub struct PerLayer;

impl Redistribution for PerLayer {
    fn layerwise(&self) -> bool {
        true
    }

    fn counts(&mut self, _: u64, fraction: f64, targets: &[Target]) -> Result<Vec<[usize; 2]>> {
        let moved = |t: &Target| {
            let nnz = t.topology.nnz();
            [((fraction * nnz as f64) as usize).min(t.shape.len() - nnz); 2]
        };
        Ok(targets.iter().map(moved).collect())
    }
}

/// Drop some, grow some: every dynamic sparse training method.
pub struct DropGrow {
    /// The initial topology.
    pub initial_topology: Static,
    /// Ranks existing connections; the lowest are dropped.
    pub drop: Box<dyn Criterion>,
    /// Chooses which are grown. If it finds too few, random zeros fill up.
    pub grow: Box<dyn Growth>,
    /// How many per target.
    pub exchange: Box<dyn Redistribution>,
    /// Steps at which it rewires.
    pub when: When,
    /// Fraction of the nonzeros replaced at the first rewiring.
    pub fraction: f64,
    /// How that fraction falls.
    pub decay: Decay,
}

impl DropGrow {
    fn swap(&mut self, step: u64, t: &Target, [lost, got]: [usize; 2]) -> Edit {
        let nnz = t.topology.nnz();
        let lost = lost.min(nnz);
        let got = got.min(t.shape.len() - (nnz - lost));
        if lost + got == 0 {
            return Edit::Keep;
        }
        let setting = &self.initial_topology.setting;
        let kept = self.drop.keep(t, nnz - lost, &mut stream(setting, "drop", t.index, step));
        let mut rng = stream(setting, "grow", t.index, step);
        let mut grown = self.grow.grow(step, t, &kept, got, &mut rng);
        let exchanged = |grown: &mut Vec<(u64, f32)>| {
            if !grown.is_sorted_by_key(|g| g.0) {
                grown.sort_unstable_by_key(|&(p, _)| p);
            }
            let positions: Vec<u64> = grown.par_iter().with_min_len(1 << 14).map(|&(p, _)| p).collect();
            (t.topology.exchange(&kept, &positions), positions)
        };
        let (mut topology, mut positions) = exchanged(&mut grown);
        if grown.len() < got {
            grown.extend(random_zeros(&topology, got - grown.len(), &mut rng).into_iter().map(|p| (p, 0.0)));
            (topology, positions) = exchanged(&mut grown);
        }
        let existed = t.topology.holds(&positions);
        let mut newborn: Vec<f32> = match existed.contains(&true) {
            true => grown.iter().zip(existed).filter(|(_, existed)| !existed).map(|(&(_, v), _)| v).collect(),
            false => grown.par_iter().with_min_len(1 << 14).map(|&(_, v)| v).collect(),
        };
        if newborn.iter().all(|&v| v == 0.0) {
            newborn.clear();
        }
        Edit::Rewire { topology, grown: newborn }
    }

    fn fraction(&self, step: u64) -> f64 {
        self.decay.at(self.fraction, step, self.when.until)
    }
}

impl Sparsifier for DropGrow {
    fn initial_topologies(&self, shapes: &[&Shape]) -> Result<Option<Vec<Topology>>> {
        self.initial_topology.initial_topologies(shapes)
    }

    fn check(&self, shapes: &[&Shape]) -> Result<()> {
        if self.initial_topology.pattern != Pattern::Unstructured {
            return Err(Error::Refused(format!(
                "rewiring is unstructured: it would not keep pattern {}; use pattern unstructured, or a static random \
                 topology of that pattern (method random-pruning)",
                self.initial_topology.pattern
            )));
        }
        if !(0.0..=1.0).contains(&self.fraction) {
            return Err(Error::Range { name: "drop fraction", range: "between 0 and 1".into(), got: self.fraction });
        }
        if self.grow.needs(1.0).zeros > 0.0
            && let Some(s) = shapes.iter().find(|s| s.len() as u64 > GrowthCandidates::LIMIT)
        {
            return Err(Error::Refused(format!(
                "the gradient of all zeros of `{}`, {}x{}, takes too long (the limit is {} entries); choose \
                 growth = \"sampled\"",
                s.name,
                s.rows,
                s.cols,
                GrowthCandidates::LIMIT
            )));
        }
        self.initial_topology.check(shapes)
    }

    fn plan(&self, step: u64) -> Plan {
        match self.when.due(step) {
            true => {
                let grow = self.grow.needs(self.fraction(step));
                Plan::Rewire(self.drop.needs().and(grow).and(self.exchange.needs()))
            }
            false => Plan::Rest,
        }
    }

    fn candidates(&self, step: u64, index: usize, topology: &Topology) -> Vec<u64> {
        self.grow.candidates(index, topology, &mut stream(&self.initial_topology.setting, "candidates", index, step))
    }

    fn layerwise(&self) -> bool {
        self.exchange.layerwise()
    }

    fn rewire(&mut self, step: u64, targets: &[Target]) -> Result<Vec<Edit>> {
        let counts = self.exchange.counts(step, self.fraction(step), targets)?;
        Ok(targets.iter().zip(counts).map(|(t, count)| self.swap(step, t, count)).collect())
    }

    fn state(&self) -> Value {
        match (self.grow.state(), self.exchange.state()) {
            (Value::Null, Value::Null) => Value::Null,
            (grow, exchange) => json!([grow, exchange]),
        }
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        self.grow.restore(&state[0])?;
        self.exchange.restore(&state[1])
    }
}
