//! Sparse evolutionary training: at the end of every epoch the ζ of the positive and the ζ of the negative weights that
//! are closest to zero are replaced by as many random connections.
//!
//! The scaled version (Curci et al. 2021, arXiv:2102.01732) has importance pruning, an option here: now and then the
//! neurons with the smallest Σ incoming |w| lose all of them, and the budget shrinks by as many. All-ReLU is an activation of
//! networks.
//!
//! Cost: at each rewiring one ranking of the weights of each layer; no gradients.
//!
//! Deviations: the topology has an exact number of connections instead of coin flips with ε (n_in + n_out) /
//! (n_in n_out); a connection dropped in a step is not drawn again in the same step; rewiring ends at three quarters of
//! the run instead of before its last epoch, since our learning rate falls to zero (the paper's stays) and connections
//! grown under a rate near zero cannot learn. Importance pruning ranks neurons that have connections.

use nnz_core::{Build, Decay, DropGrow, Edit, MagnitudeOfEachSign, Method, Period, Plan, Random, Result, Rewiring, Setting, Shape, Signals, Sparsifier, Target, Topology, When, MethodInstance, at_least, options};

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "set",
    "SET",
    "Every epoch, replaces the weights nearest to zero by random new connections.",
);

options! {
    #[flatten]
    /// Fraction ζ, interval and end.
    rewiring: Rewiring = Rewiring { decay: Decay::Constant, every: Period::Epochs(1.0), ..Rewiring::RIGL },
    /// Standard deviation of the initial value of a new connection.
    std: f32 = 0.1,
    /// Share of the neurons with connections that importance pruning cuts each time, 0.2 in the paper; 0 turns it off.
    importance: f64 = 0.0 => at_least(0.0).below(1.0),
    /// When importance pruning begins.
    importance_from: Period = Period::Run(0.4),
    /// Time between two importance prunings.
    importance_every: Period = Period::Epochs(10.0),
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        let plain = self.rewiring.drop_grow(setting, MagnitudeOfEachSign, Random { std: self.std });
        if self.importance == 0.0 {
            return Ok(plain.into());
        }
        let when = When { every: self.importance_every.steps(setting), until: plain.when.until };
        Ok(Important { inner: plain, share: self.importance, from: self.importance_from.steps(setting), when }.into())
    }
}

/// SET that also prunes neurons: in each layer those with connections and the lowest strength, Σ of incoming |w|.
struct Important {
    inner: DropGrow,
    share: f64,
    from: u64,
    when: When,
}

impl Important {
    fn due(&self, step: u64) -> bool {
        step >= self.from && self.when.due(step)
    }
}

/// Marks the entries that stay when the weakest neurons lose all incoming connections; at least one neuron stays.
fn strong(topology: &Topology, values: &[f32], share: f64) -> Vec<bool> {
    let starts = topology.starts();
    let strength = |r: usize| values[starts[r]..starts[r + 1]].iter().map(|v| f64::from(v.abs())).sum::<f64>();
    let mut living: Vec<(f64, usize)> =
        (0..topology.rows()).filter(|&r| starts[r] < starts[r + 1]).map(|r| (strength(r), r)).collect();
    living.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut kept = vec![true; values.len()];
    let count = ((share * living.len() as f64) as usize).min(living.len().saturating_sub(1));
    living[..count].iter().for_each(|&(_, r)| kept[starts[r]..starts[r + 1]].fill(false));
    kept
}

impl Sparsifier for Important {
    fn initial_topologies(&self, shapes: &[&Shape]) -> Result<Option<Vec<Topology>>> {
        self.inner.initial_topologies(shapes)
    }

    fn check(&self, shapes: &[&Shape]) -> Result<()> {
        self.inner.check(shapes)
    }

    fn plan(&self, step: u64) -> Plan {
        if self.due(step) { Plan::Rewire(Signals::NONE) } else { self.inner.plan(step) }
    }

    fn layerwise(&self) -> bool {
        true
    }

    fn rewire(&mut self, step: u64, targets: &[Target]) -> Result<Vec<Edit>> {
        if !self.due(step) {
            return self.inner.rewire(step, targets);
        }
        let cut = |t: &Target| {
            let topology = t.topology.filter(&strong(t.topology, t.values, self.share));
            Edit::Rewire { topology, grown: Vec::new() }
        };
        Ok(targets.iter().map(cut).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_zeta_of_each_sign() {
        let setting = Setting { seed: 3, steps: 100, steps_per_epoch: 10 };
        let rewiring = Rewiring { fraction: 0.5, ..Options::default().rewiring };
        let mut method = Options { rewiring, ..Options::default() }.build(&setting).unwrap().sparsifier;
        assert_eq!(method.plan(5), Plan::Rest);
        assert!(matches!(method.plan(10), Plan::Rewire(_)));
        let shape = Shape::matrix("a", 4, 10);
        let topology = Topology::from_positions(4, 10, [0, 11, 22, 33, 34, 35, 36, 37]);
        // Positives are much larger than negatives; still half of each is dropped.
        let values = [5.0, 6.0, 7.0, 8.0, -0.1, -0.2, -0.3, -0.4];
        let target = Target::new(0, &shape, &topology, &values);
        let edits = method.rewire(10, &[target]).unwrap();
        let [Edit::Rewire { topology: new, grown }] = &edits[..] else { panic!("{edits:?}") };
        assert_eq!(new.nnz(), 8);
        assert_eq!(grown.len(), 4);
        for (position, survives) in [(0, false), (11, false), (22, true), (33, true), (34, false), (35, false)] {
            assert_eq!(new.find(position).is_some(), survives, "{position}");
        }
    }

    #[test]
    fn importance_pruning_cuts_the_weakest_neurons() {
        let topology = Topology::from_positions(5, 4, [0, 1, 4, 8, 9, 10, 16]);
        // Strengths 0.3, 2, 0.6, none, 0.1: of the four with connections, half are pruned.
        let values = [0.1, -0.2, 2.0, 0.2, 0.2, 0.2, -0.1];
        let kept = topology.filter(&strong(&topology, &values, 0.5));
        assert_eq!(kept.row_degrees(), [0, 1, 3, 0, 0]);
        let setting = Setting { seed: 0, steps: 100, steps_per_epoch: 1 };
        let options = Options { importance: 0.5, ..Options::default() };
        let mut method = options.build(&setting).unwrap().sparsifier;
        let shape = Shape::matrix("a", 5, 4);
        let mut lost = |step: u64| match &method.rewire(step, &[Target::new(0, &shape, &topology, &values)]).unwrap()[0] {
            Edit::Rewire { topology: new, .. } => topology.nnz() - new.nnz(),
            _ => 0,
        };
        // From 0.4 of the run, every ten epochs; rewiring keeps the number.
        assert_eq!([30, 40, 41, 50, 70, 80].map(&mut lost), [0, 3, 0, 3, 3, 0]);
    }
}
