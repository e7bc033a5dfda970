//! Groups of options that many methods share.

use crate::{
    Criterion, Decay, DistributionKind, DropGrow, Growth, OneShot, Pattern, PerLayer, Period, Prune, Schedule, Setting,
    Start, Static, TargetKind, When, above, at_least, group,
};

group! {
    /// The options nearly every method has, to be flattened into its own.
    Budget

    /// Nonzeros / entries of what is pruned.
    density: f64 => above(0.0).at_most(1.0),
    /// How the budget is shared between targets.
    distribution: DistributionKind,
    /// Where zeros may fall.
    pattern: Pattern,
    /// What is pruned: weights, units (neurons and channels) or edges of a graph.
    of: TargetKind,
}

impl Budget {
    /// For unstructured weights.
    pub const fn new(density: f64, distribution: DistributionKind) -> Self {
        Self { density, distribution, pattern: Pattern::Unstructured, of: TargetKind::Weights }
    }

    /// Prunes to the entries that a criterion ranks highest, on a schedule.
    pub fn prune(
        self,
        criterion: impl Criterion + 'static,
        schedule: impl Schedule + 'static,
        setting: &Setting,
    ) -> Prune {
        Prune {
            criterion: Box::new(criterion),
            distribution: self.distribution.build(),
            pattern: self.pattern,
            schedule: Box::new(schedule),
            density: self.density,
            setting: *setting,
            kind: self.of,
            rounds: 1,
            round: 0,
            edges: Vec::new(),
            counts: None,
        }
    }

    /// Draws a random topology at the start.
    pub fn fixed(self, setting: &Setting) -> Static {
        let Self { density, distribution, pattern, of } = self;
        let start = Start::Random;
        Static { distribution: distribution.build(), pattern, density, setting: *setting, kind: of, start }
    }
}

group! {
    /// Options of methods that prune once.
    Once

    #[flatten]
    /// Density and its distribution.
    budget: Budget,
    /// When a training run prunes.
    at: Period,
}

impl Once {
    /// Prunes in the middle of a training run; a trained network at once.
    pub const fn halfway(budget: Budget) -> Self {
        Self { budget, at: Period::Run(0.5) }
    }

    /// Prunes to the entries that a criterion ranks highest.
    pub fn prune(self, criterion: impl Criterion + 'static, setting: &Setting) -> Prune {
        let schedule = OneShot { at: self.at.steps(setting), density: self.budget.density };
        self.budget.prune(criterion, schedule, setting)
    }
}

group! {
    /// A budget for networks that are sparse from initialization.
    Born

    #[flatten]
    /// Number of nonzeros, and where they may fall.
    budget: Budget,
    /// Initial topology: random, small-world, scale-free or ramanujan.
    start: Start,
}

impl Born {
    /// For unstructured weights, drawn at random.
    pub const fn new(density: f64, distribution: DistributionKind) -> Self {
        Self { budget: Budget::new(density, distribution), start: Start::Random }
    }

    /// Draws the initial topology.
    pub fn fixed(self, setting: &Setting) -> Static {
        Static { start: self.start, ..self.budget.fixed(setting) }
    }
}

group! {
    /// Options of methods that drop and grow.
    Rewiring

    #[flatten]
    /// The initial sparse network; rewiring keeps only pattern `unstructured`.
    born: Born,
    /// Fraction of the nonzeros replaced at the first rewiring.
    fraction: f64 => at_least(0.0).at_most(1.0),
    /// How that fraction falls.
    decay: Decay,
    /// Time between two rewirings.
    every: Period,
    /// End of rewiring.
    until: Period,
}

impl Rewiring {
    /// RigL's defaults: ERK at 0.05; 0.3 replaced every 100 steps, with cosine decay until three quarters of the run.
    pub const RIGL: Self = Self {
        born: Born::new(0.05, DistributionKind::Erk),
        fraction: 0.3,
        decay: Decay::Cosine,
        every: Period::Steps(100),
        until: Period::Run(0.75),
    };

    /// Steps at which it rewires.
    pub fn when(&self, setting: &Setting) -> When {
        When { every: self.every.steps(setting), until: self.until.steps(setting) }
    }

    /// Drops and grows equally many connections per target.
    pub fn drop_grow(self, setting: &Setting, drop: impl Criterion + 'static, grow: impl Growth + 'static) -> DropGrow {
        let Self { fraction, decay, .. } = self;
        let (drop, grow) = (Box::new(drop), Box::new(grow));
        let (initial_topology, when) = (self.born.fixed(setting), self.when(setting));
        DropGrow { initial_topology, drop, grow, exchange: Box::new(PerLayer), when, fraction, decay }
    }
}
