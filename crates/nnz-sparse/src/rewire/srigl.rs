//! RigL under a constant fan-in: every active neuron of a layer has the same number of connections k. At a rewiring the
//! salient connections are the largest |w| that stay and the zeros of largest |∂L/∂w| that would grow. A neuron with fewer
//! than γ k of them is ablated, with all of its connections, and the others share the layer's budget:
//! k' = ⌊budget / active neurons⌋. Each row then keeps its largest weights and grows by gradient up to k'.
//!
//! Cost: that of RigL: every ΔT steps the gradient of the zeros, on a batch that makes no update.
//!
//! Deviations: gradients are known for as many zeros as the layer has connections; a row with none among them grows at
//! random; a connection dropped and grown in one step keeps its value.

use nnz_core::{Budget, Build, Decay, DistributionKind, Edit, Error, Method, Pattern, Period, Plan, Result, Rng, Setting, Shape, Signals, Sparsifier, Static, Target, Topology, When, MethodInstance, allocate, at_least, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "srigl",
    "SRigL",
    "RigL with a constant number of connections for every neuron, and without neurons that have too few salient ones.",
);

options! {
    #[flatten]
    /// Budget at any time; pattern `per-row`.
    budget: Budget = Budget { pattern: Pattern::PerRow, ..Budget::new(0.05, DistributionKind::Erk) },
    /// Initial replaced fraction, α.
    fraction: f64 = 0.3 => at_least(0.0).at_most(1.0),
    /// Time between two rewirings, ΔT.
    every: Period = Period::Steps(100),
    /// End of rewiring.
    until: Period = Period::Run(0.75),
    /// Share of the fan-in that must be salient, γ; 0 ablates no neuron.
    salient: f64 = 0.3 => at_least(0.0).at_most(1.0),
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        if self.budget.pattern != Pattern::PerRow {
            return Err(Error::Refused(format!("srigl keeps pattern per-row, not {}", self.budget.pattern)));
        }
        let when = When { every: self.every.steps(setting), until: self.until.steps(setting) };
        let Self { fraction, salient, budget, .. } = self;
        Ok(Srigl { initial_topology: budget.fixed(setting), when, fraction, salient }.into())
    }
}

struct Srigl {
    initial_topology: Static,
    when: When,
    fraction: f64,
    salient: f64,
}

impl Sparsifier for Srigl {
    fn initial_topologies(&self, shapes: &[&Shape]) -> Result<Option<Vec<Topology>>> {
        self.initial_topology.initial_topologies(shapes)
    }

    fn check(&self, shapes: &[&Shape]) -> Result<()> {
        self.initial_topology.check(shapes)
    }

    fn plan(&self, step: u64) -> Plan {
        match self.when.due(step) {
            true => Plan::Rewire(Signals { zeros: 1.0, ..Signals::GRADIENT }),
            false => Plan::Rest,
        }
    }

    fn rewire(&mut self, step: u64, targets: &[Target]) -> Result<Vec<Edit>> {
        let shapes: Vec<&Shape> = targets.iter().map(|t| t.shape).collect();
        let budgets = allocate(&*self.initial_topology.distribution, &shapes, &[], self.initial_topology.density)?;
        let fraction = Decay::Cosine.at(self.fraction, step, self.when.until);
        let edit = |(t, budget): (&Target, usize)| {
            let mut rng = Rng::stream(self.initial_topology.setting.seed, "srigl", t.index as u64, step);
            let topology = swap(t, budget.min(t.topology.nnz().max(1)), fraction, self.salient, &mut rng);
            Edit::Rewire { topology, grown: Vec::new() }
        };
        Ok(targets.iter().zip(budgets).map(edit).collect())
    }
}

/// The next topology of a layer that may have `budget` connections.
fn swap(t: &Target, budget: usize, fraction: f64, salient: f64, rng: &mut Rng) -> Topology {
    let (rows, cols, nnz) = (t.topology.rows(), t.topology.cols(), t.topology.nnz());
    let moved = (fraction * nnz as f64) as usize;
    let sizes: Vec<f32> = t.values.iter().map(|w| w.abs()).collect();
    let kept = Pattern::Unstructured.select(t.topology, &sizes, nnz - moved);
    let row_of = |p: u64| (p / cols as u64) as usize;

    // Neurons with too few salient connections are ablated; the most salient stay in any case, to hold the budget.
    let mut count = vec![0usize; rows];
    t.topology.positions().zip(&kept).filter(|(_, k)| **k).for_each(|(p, _)| count[row_of(p)] += 1);
    t.zeros.iter().take(moved).for_each(|z| count[row_of(z.position)] += 1);
    let living: Vec<usize> = (0..rows).filter(|&r| !t.topology.row(r).is_empty()).collect();
    let fan_in = nnz / living.len().max(1);
    let least = (salient * fan_in as f64).max(1.0);
    let mut order = living;
    order.sort_by(|&a, &b| count[b].cmp(&count[a]).then(a.cmp(&b)));
    let needed = budget.div_ceil(cols).max(1);
    let mut rest: Vec<usize> = order
        .into_iter()
        .enumerate()
        .filter(|&(i, r)| i < needed || count[r] as f64 >= least)
        .map(|(_, r)| r)
        .collect();
    if salient == 0.0 {
        rest = (0..rows).filter(|&r| !t.topology.row(r).is_empty()).collect();
    }
    rest.sort_unstable();
    let fan_in = (budget / rest.len()).clamp(1, cols);

    // Candidates of each row: the dropped ones, and the zeros, by gradient.
    let mut births: Vec<Vec<(f32, u64)>> = vec![Vec::new(); rows];
    let entries = t.topology.positions().zip(&kept).zip(t.gradient);
    entries.filter(|((_, k), _)| !**k).for_each(|((p, _), g)| births[row_of(p)].push((g.abs(), p)));
    t.zeros.iter().for_each(|z| births[row_of(z.position)].push((z.gradient.abs(), z.position)));
    let by_size = |v: &mut Vec<(f32, u64)>| v.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut positions = Vec::with_capacity(fan_in * rest.len());
    for r in rest {
        let span = t.topology.starts()[r]..t.topology.starts()[r + 1];
        let at = |i: usize| (r * cols + t.topology.columns()[i] as usize) as u64;
        let mut row: Vec<(f32, u64)> = span.filter(|&i| kept[i]).map(|i| (sizes[i], at(i))).collect();
        by_size(&mut row);
        row.truncate(fan_in);
        by_size(&mut births[r]);
        let grown: Vec<(f32, u64)> = births[r].iter().take(fan_in - row.len()).copied().collect();
        row.extend(grown);
        let mut taken: Vec<u64> = row.into_iter().map(|(_, p)| p).collect();
        if taken.len() < fan_in {
            taken.sort_unstable();
            let free: Vec<u64> =
                (0..cols as u64).map(|c| (r * cols) as u64 + c).filter(|p| taken.binary_search(p).is_err()).collect();
            let drawn = rng.distinct(free.len() as u64, fan_in - taken.len());
            taken.extend(drawn.into_iter().map(|i| free[i as usize]));
        }
        positions.extend(taken);
    }
    positions.sort_unstable();
    Topology::from_positions(rows, cols, positions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::Zero;

    #[test]
    fn a_neuron_without_salient_connections_goes_and_the_others_share_its_budget() {
        let shape = Shape::matrix("a", 3, 6);
        let topology = Topology::from_positions(3, 6, [0, 1, 6, 7, 12, 13]);
        // Row 1 has the smallest weights, and the largest gradients are elsewhere.
        let values = [3.0, 2.0, 0.1, 0.2, 4.0, 5.0];
        let zeros = [Zero { position: 4, gradient: 9.0 }, Zero { position: 15, gradient: -8.0 }];
        let target = Target { gradient: &[0.0; 6], zeros: &zeros, ..Target::new(0, &shape, &topology, &values) };
        let next = swap(&target, 6, 0.34, 0.6, &mut Rng::stream(0, "t", 0, 0));
        // Two of six are moved, both from row 1, which then has no salient one; fan-in becomes 6 / 2.
        assert_eq!(next.positions().collect::<Vec<_>>(), [0, 1, 4, 12, 13, 15]);
        // Without ablation row 1 keeps its fan-in of two, from its dropped ones.
        let next = swap(&target, 6, 0.34, 0.0, &mut Rng::stream(0, "t", 0, 0));
        assert_eq!(next.row_degrees(), [2, 2, 2]);
    }
}
