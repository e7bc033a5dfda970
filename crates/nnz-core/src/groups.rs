//! Groups of options that many methods share.

use crate::{
    Criterion, Decay, DistributionKind, DropGrow, Growth, Pattern, PerLayer, Period, Prune, Schedule, Setting, Start,
    Static, TargetKind, When, above, at_least, group,
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
    /// Of weights, anywhere.
    pub const fn new(density: f64, distribution: DistributionKind) -> Self {
        Self { density, distribution, pattern: Pattern::Unstructured, of: TargetKind::Weights }
    }

    /// Keeps what a criterion ranks highest, when a schedule says so.
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

    /// A random topology from the start.
    pub fn fixed(self, setting: &Setting) -> Static {
        let Self { density, distribution, pattern, of } = self;
        let start = Start::Random;
        Static { distribution: distribution.build(), pattern, density, setting: *setting, kind: of, start }
    }
}

group! {
    /// A budget that is there from the start.
    Born

    #[flatten]
    /// What exists.
    budget: Budget,
    /// What the first topology is drawn from: random, small-world, scale-free or ramanujan.
    start: Start,
}

impl Born {
    /// Of weights, at random.
    pub const fn new(density: f64, distribution: DistributionKind) -> Self {
        Self { budget: Budget::new(density, distribution), start: Start::Random }
    }

    /// The first topology.
    pub fn fixed(self, setting: &Setting) -> Static {
        Static { start: self.start, ..self.budget.fixed(setting) }
    }
}

group! {
    /// The options of methods that drop and grow.
    Rewiring

    #[flatten]
    /// What exists; rewiring keeps only pattern `unstructured`.
    born: Born,
    /// Fraction of the nonzeros replaced at the first rewiring.
    fraction: f64 => at_least(0.0).at_most(1.0),
    /// How it falls.
    decay: Decay,
    /// Time between two rewirings.
    every: Period,
    /// End of rewiring.
    until: Period,
}

impl Rewiring {
    /// RigL's: ERK at 0.05, of which 0.3 are replaced every 100 steps, falling like a cosine until three quarters of the run.
    pub const RIGL: Self = Self {
        born: Born::new(0.05, DistributionKind::Erk),
        fraction: 0.3,
        decay: Decay::Cosine,
        every: Period::Steps(100),
        until: Period::Run(0.75),
    };

    /// When.
    pub fn when(&self, setting: &Setting) -> When {
        When { every: self.every.steps(setting), until: self.until.steps(setting) }
    }

    /// Each target gets as many as it gives up.
    pub fn drop_grow(self, setting: &Setting, drop: impl Criterion + 'static, grow: impl Growth + 'static) -> DropGrow {
        let Self { fraction, decay, .. } = self;
        let (drop, grow) = (Box::new(drop), Box::new(grow));
        let (initial_topology, when) = (self.born.fixed(setting), self.when(setting));
        DropGrow { initial_topology, drop, grow, exchange: Box::new(PerLayer), when, fraction, decay }
    }
}
