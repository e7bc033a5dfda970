//! RigL with an exploration term: the smallest |w| are dropped, and the zeros of largest
//! S = |∂L/∂w| + c ln t / (N + ε) are grown, N being the number of rewirings with the connection active and t the step.
//!
//! Source of the formula: neither the authors' code nor the paper's text was available, only its abstract, which names
//! exploitation (gradients) and coverage exploration (how often a weight was active) in one acquisition function. The form is that of
//! an upper confidence bound as this method is described elsewhere, ε = 1 is from there too, and is not confirmed. t is the step, not the
//! count of rewirings; both differ by a constant summand of ln t at an even interval, which only N = 0 feels.
//!
//! Gradients shrink while ln t grows, so c is relative: the option times the mean |∂L/∂w| of the existing connections. Descriptions
//! give an absolute c from 1e-5 to 1e-2 that is multiplied by 0.9 now and then; a mean gradient falls by itself.
//!
//! Counts are kept only for connections that were ever active, of which there are at most as many as at the start plus
//! those grown: 12 bytes each, and no dense copy. All others have N = 0 and the same term, so that only their largest
//! gradients are needed; the gradients of those that were active and are not now are measured separately.
//!
//! Cost: that of RigL, and 12 bytes per connection that was ever active.
//!
//! Deviations: the scale of c, see above; `growth = "sampled"` considers a random zero per connection besides those that were ever
//! active.

use nnz_core::{Build, Growth, Magnitude, Method, Result, Rewiring, Rng, GrowthCandidates, Setting, Signals, Target, Topology, MethodInstance, contenders, above, at_least, options};
use serde_json::Value;

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "dst-ee",
    "DST-EE",
    "Grows where the gradient is large or connections were seldom tried.",
);

options! {
    #[flatten]
    /// Fraction, decay, interval and end.
    rewiring: Rewiring = Rewiring::RIGL,
    /// Zeros considered among those that were never active.
    growth: GrowthCandidates = GrowthCandidates::Exact,
    /// c, in mean |∂L/∂w| of the existing connections.
    exploration: f64 = 0.1 => at_least(0.0),
    /// ε.
    epsilon: f64 = 1.0 => above(0.0),
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        let Self { growth, exploration, epsilon, .. } = self;
        let explore = Explore { search: growth, scale: exploration, epsilon, active: Vec::new() };
        Ok(self.rewiring.drop_grow(setting, Magnitude, explore).into())
    }
}

/// |∂L/∂w| + c ln t / (N + ε).
fn score(gradient: f64, c: f64, step: u64, active: u32, epsilon: f64) -> f64 {
    gradient.abs() + c * (step.max(1) as f64).ln() / (f64::from(active) + epsilon)
}

struct Explore {
    search: GrowthCandidates,
    scale: f64,
    epsilon: f64,
    /// For each target, the positions that were ever active, ascending, and their numbers of rewirings.
    active: Vec<Vec<(u64, u32)>>,
}

impl Explore {
    /// N of a connection.
    fn count(&self, target: usize, position: u64) -> u32 {
        let Some(active) = self.active.get(target) else { return 0 };
        active.binary_search_by_key(&position, |a| a.0).map_or(0, |i| active[i].1)
    }

    /// Counts one more rewiring at which the entries of `topology` are active. O(those ever active).
    fn add(&mut self, target: usize, topology: &Topology) {
        self.active.resize(self.active.len().max(target + 1), Vec::new());
        let mut old = std::mem::take(&mut self.active[target]).into_iter().peekable();
        let mut all = Vec::with_capacity(old.len() + topology.nnz() / 4);
        for p in topology.positions() {
            while let Some(a) = old.next_if(|a| a.0 < p) {
                all.push(a);
            }
            all.push((p, 1 + old.next_if(|a| a.0 == p).map_or(0, |a| a.1)));
        }
        all.extend(old);
        self.active[target] = all;
    }
}

impl Growth for Explore {
    fn needs(&self, fraction: f64) -> Signals {
        self.search.needs(fraction).and(Signals { candidates: true, ..Signals::NONE })
    }

    fn candidates(&self, index: usize, topology: &Topology, rng: &mut Rng) -> Vec<u64> {
        let known = self.active.get(index).map_or(&[][..], Vec::as_slice);
        let mut named: Vec<u64> = known.iter().map(|a| a.0).filter(|&p| topology.find(p).is_none()).collect();
        named.extend(self.search.candidates(topology, rng));
        named.sort_unstable();
        named.dedup();
        named
    }

    fn grow(&mut self, step: u64, t: &Target, kept: &[bool], count: usize, _: &mut Rng) -> Vec<(u64, f32)> {
        self.add(t.index, t.topology);
        let mean = t.gradient.iter().map(|g| f64::from(g.abs())).sum::<f64>() / t.gradient.len().max(1) as f64;
        let c = self.scale * mean;
        let scored = |(z, value): (nnz_core::Zero, f32)| {
            let active = self.count(t.index, z.position);
            (score(f64::from(z.gradient), c, step, active, self.epsilon), z.position, value)
        };
        let mut all: Vec<(f64, u64, f32)> = contenders(t, kept).into_iter().map(scored).collect();
        all.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        all.into_iter().take(count).map(|(_, p, value)| (p, value)).collect()
    }

    fn state(&self) -> Value {
        serde_json::to_value(&self.active).unwrap_or_default()
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        self.active = serde_json::from_value(state.clone()).unwrap_or_default();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnz_core::{Shape, Zero};

    fn explore(scale: f64) -> Explore {
        Explore { search: GrowthCandidates::Exact, scale, epsilon: 1.0, active: Vec::new() }
    }

    #[test]
    fn the_term_falls_with_the_times_active() {
        assert_eq!(score(-0.5, 0.0, 100, 3, 1.0), 0.5);
        assert!((score(0.5, 0.1, 100, 0, 1.0) - (0.5 + 0.1 * 100f64.ln())).abs() < 1e-12);
        assert!((score(0.5, 0.1, 100, 4, 1.0) - (0.5 + 0.1 * 100f64.ln() / 5.0)).abs() < 1e-12);
    }

    #[test]
    fn what_was_never_active_is_preferred_and_counts_are_those_of_a_full_table() {
        let shape = Shape::matrix("a", 2, 4);
        let mut explore = explore(1.0);
        let old = Topology::from_positions(2, 4, [0, 1, 2]);
        explore.add(0, &old);
        explore.add(0, &old);
        let topology = Topology::from_positions(2, 4, [0, 3, 4]);
        assert_eq!(explore.candidates(0, &topology, &mut Rng::stream(0, "", 0, 0)), [1, 2]);
        // 1 was active twice and has the larger gradient, 7 never was: with c = 1 the new one wins, with c = 0 the old one.
        let zeros = [Zero { position: 1, gradient: 1.2 }, Zero { position: 7, gradient: 1.0 }];
        let values = [1.0; 3];
        let t = Target { gradient: &[1.0; 3], zeros: &zeros, ..Target::new(0, &shape, &topology, &values) };
        let grown = |e: &mut Explore| e.grow(100, &t, &[true; 3], 1, &mut Rng::stream(0, "", 0, 0))[0].0;
        assert_eq!(grown(&mut explore), 7);
        assert_eq!(grown(&mut self::explore(0.0)), 1);
        let table: Vec<u32> = (0..8).map(|p| explore.count(0, p)).collect();
        assert_eq!(table, [3, 2, 2, 1, 1, 0, 0, 0]);
        let mut again = self::explore(1.0);
        again.restore(&explore.state()).unwrap();
        assert_eq!(again.active, explore.active);
    }
}
