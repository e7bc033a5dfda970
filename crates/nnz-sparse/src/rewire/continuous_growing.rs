//! Grows a network during training, units and residual blocks alike, from a small seed to a budget of multiply-adds. Every
//! unit and block has a gate σ(β s) on its output with a trained score s; a price draws s down, and the existing parts are
//! drawn from the gates, q ~ Bernoulli(σ(β s)), whenever the network is restructured. β = δ^(a/T) grows with a part's age a
//! in steps, separately for each, so that gates of old parts are hard while those of new ones are not. At the end q = 1 if
//! s ≥ 0. Parts with q = 0 are cut from all tensors; new ones are added to them, so that time and memory follow.
//!
//! ∂L/∂s = ∂L/∂ln g · β (1 - g) with g = σ(β s), where ∂L/∂ln g is Σ w ∂L/∂w over the weights that carry the output. g is part of
//! those weights: a step of s multiplies them by g'/g. s ← s - η (∂L/∂s + λ C/B · ∂g/∂s), C and B being the network's
//! multiply-adds and its budget.
//!
//! Cost: a score per unit and block; time and memory are those of the current network.
//!
//! Deviations: only the abstract and notes on the scheme were at hand, so all constants are chosen here, as is the price's
//! C/B; a subnetwork is drawn when the network is restructured instead of for each batch, so that parts not drawn are gone;
//! new parts begin at score 3 instead of near 0 for the same reason, and at zero output, so that nothing jumps. The given network is
//! the largest possible one.
//!
//! Long: gates, the budget and restructuring are three parts, and the method is not a composition of ready ones.

use nnz_core::{Build, Edit, Error, TargetKind, TargetMut, Method, Period, Plan, Result, Rng, Setting, Shape, Signals, Sparsifier, Target, Topology, MethodInstance, above, at_least, options};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "continuous-growing",
    "Structured continuous sparsification",
    "Grows and prunes units and blocks while a network trains, from a small seed towards a budget of multiply-adds.",
);

options! {
    /// Multiply-adds to grow to, as a fraction of those of the given network.
    budget: f64 = 0.6 => above(0.0).at_most(1.0),
    /// Share of the units and blocks at the start.
    seed: f64 = 0.5 => above(0.0).at_most(1.0),
    /// Largest growth at a time, as a share of the units and blocks of the given network.
    grow: f64 = 0.25 => at_least(0.0),
    /// How often it is restructured.
    every: Period = Period::Epochs(0.5),
    /// End of restructuring, after which gates are hard.
    until: Period = Period::Run(0.6),
    /// λ: the price of a gate.
    price: f64 = 0.01 => at_least(0.0),
    /// η: learning rate of the scores.
    rate: f64 = 5.0 => at_least(0.0),
    /// Initial s of new parts.
    first: f64 = 3.0 => at_least(0.0),
    /// δ: value of β after the whole run.
    sharpness: f64 = 100.0 => at_least(1.0),
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        if setting.steps == 0 {
            return Err(Error::Refused("continuous-growing grows while it trains; give `--finetune EPOCHS`".into()));
        }
        let (every, until) = (self.every.steps(setting).max(1), self.until.steps(setting));
        Ok(Growing { options: self, setting: *setting, every, until, memory: Memory::default(), factors: Vec::new() }.into())
    }
}

/// Smallest β s: a gate of 2e-9.
const LOWEST: f64 = -20.0;

/// σ(β s)
fn gate(beta: f64, score: f64) -> f64 {
    1.0 / (1.0 + (-beta * score).exp())
}

/// The gates of one target.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Gates {
    scores: Vec<f64>,
    /// Age of each part in steps.
    ages: Vec<u64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Memory {
    /// Multiply-adds of the given network.
    whole: f64,
    /// Largest numbers of parts, by group of targets.
    most: BTreeMap<String, usize>,
    gates: BTreeMap<String, Gates>,
    /// Whether gates are hard.
    over: bool,
}

struct Growing {
    options: Options,
    setting: Setting,
    every: u64,
    until: u64,
    memory: Memory,
    /// Factors on outputs from the last step of the scores.
    factors: Vec<Vec<f64>>,
}

/// A name without the numbers of blocks.
fn group_name(name: &str) -> String {
    name.split('.').filter(|part| part.parse::<u32>().is_err()).collect::<Vec<_>>().join(".")
}

impl Growing {
    fn beta(&self, age: u64) -> f64 {
        self.options.sharpness.powf(age as f64 / self.setting.steps.max(1) as f64)
    }

    /// The gates of a target, all new if there are none yet.
    fn gates(&mut self, t: &Target) -> &mut Gates {
        let n = t.shape.rows;
        let most = self.memory.most.entry(group_name(&t.shape.name)).or_default();
        *most = n.max(*most);
        let gates = self.memory.gates.entry(t.shape.name.clone()).or_default();
        if gates.scores.len() != n {
            *gates = Gates { scores: vec![self.options.first; n], ages: vec![0; n] };
        }
        gates
    }

    /// Selects the parts a target keeps: the first ones of a seed, a draw from the gates, or those with s ≥ 0.
    fn draw(&mut self, step: u64, t: &Target) -> Vec<bool> {
        let (seed, n) = (self.setting.seed, t.shape.rows);
        if step == 0 {
            let count = ((self.options.seed * n as f64).round() as usize).clamp(1, n.max(1));
            return (0..n).map(|i| i < count).collect();
        }
        let hard = step >= self.until;
        let mut rng = Rng::stream(seed, "continuous-growing", t.index as u64, step);
        let gates = self.gates(t).clone();
        let chance = |(s, &age): (&f64, &u64)| gate(self.beta(age), *s);
        let mut keep: Vec<bool> = match hard {
            true => gates.scores.iter().map(|s| *s >= 0.0).collect(),
            false => gates.scores.iter().zip(&gates.ages).map(chance).map(|p| rng.unit64() < p).collect(),
        };
        if !keep.contains(&true) {
            let best = (0..n).max_by(|&a, &b| gates.scores[a].total_cmp(&gates.scores[b])).unwrap_or_default();
            keep[best] = true;
        }
        keep
    }

    /// Drops the parts of lowest score until the cost is within the budget.
    fn fit(&self, targets: &[Target], keep: &mut [Vec<bool>], mut over: f64) {
        let score = |t: usize, i: usize| self.memory.gates.get(&targets[t].shape.name).map_or(0.0, |g| g.scores[i]);
        let mut all: Vec<(usize, usize)> =
            (0..keep.len()).flat_map(|t| (0..keep[t].len()).map(move |i| (t, i))).filter(|&(t, i)| keep[t][i]).collect();
        all.sort_by(|&(a, i), &(b, j)| score(a, i).total_cmp(&score(b, j)));
        for (t, i) in all {
            if over <= 0.0 {
                return;
            }
            if keep[t].iter().filter(|k| **k).count() > 1 {
                keep[t][i] = false;
                over -= targets[t].cost;
            }
        }
    }
}

impl Sparsifier for Growing {
    fn kind(&self) -> TargetKind {
        TargetKind::Structure
    }

    fn check(&self, _: &[&Shape]) -> Result<()> {
        Ok(())
    }

    fn plan(&self, step: u64) -> Plan {
        match step {
            _ if self.memory.over => Plan::Rest,
            0 => Plan::Rewire(Signals::NONE),
            _ if step == self.until || (step < self.until && step.is_multiple_of(self.every)) => {
                Plan::Rewire(Signals::NONE)
            }
            _ => Plan::Observe(Signals::GRADIENT),
        }
    }

    fn observe(&mut self, _: u64, targets: &[Target]) {
        let pressure = match targets.first() {
            Some(t) => self.options.price * t.whole / (self.options.budget * self.memory.whole).max(1.0),
            None => 0.0,
        };
        self.factors.clear();
        for t in targets {
            let mut gates = std::mem::take(self.gates(t));
            let mut factors = Vec::with_capacity(gates.scores.len());
            for ((s, age), slope) in gates.scores.iter_mut().zip(&mut gates.ages).zip(t.gradient) {
                let beta = self.beta(*age);
                let g = gate(beta, *s);
                *s -= self.options.rate * beta * (1.0 - g) * (f64::from(*slope) + pressure * g);
                *age += 1;
                let beta = self.beta(*age);
                // Not so far down that a weight under it would stay zero for good.
                *s = s.max(LOWEST / beta);
                factors.push(gate(beta, *s) / g);
            }
            *self.gates(t) = gates;
            self.factors.push(factors);
        }
    }

    fn proximal(&self) -> bool {
        !self.memory.over
    }

    fn after_step(&mut self, _: u64, _: f64, targets: &mut [TargetMut]) {
        for (t, factors) in targets.iter_mut().zip(std::mem::take(&mut self.factors)) {
            t.values.iter_mut().zip(factors).for_each(|(v, f)| *v *= f);
        }
    }

    fn rewire(&mut self, step: u64, targets: &[Target]) -> Result<Vec<Edit>> {
        if step == 0 {
            self.memory.whole = targets.first().map_or(0.0, |t| t.whole);
        }
        let names: Vec<&str> = targets.iter().map(|t| &*t.shape.name).collect();
        self.memory.gates.retain(|name, _| names.contains(&&**name));
        for t in targets {
            self.gates(t);
        }
        let mut keep: Vec<Vec<bool>> = targets.iter().map(|t| self.draw(step, t)).collect();
        let cost = |keep: &[Vec<bool>]| {
            let lost = |(t, keep): (&Target, &Vec<bool>)| t.cost * keep.iter().filter(|k| !**k).count() as f64;
            targets.first().map_or(0.0, |t| t.whole) - targets.iter().zip(keep).map(lost).sum::<f64>()
        };
        let budget = self.options.budget * self.memory.whole;
        let mut room = budget - cost(&keep);
        if room < 0.0 && step > 0 {
            self.fit(targets, &mut keep, -room);
            room = 0.0;
        }
        // As many as may be added, all in proportion if the budget has no room for them.
        let most = |t: &Target| self.memory.most[&group_name(&t.shape.name)];
        let wanted = |(t, keep): (&Target, &Vec<bool>)| -> usize {
            let there = keep.iter().filter(|k| **k).count();
            ((self.options.grow * most(t) as f64).ceil() as usize).min(most(t).saturating_sub(there))
        };
        let wanted: Vec<usize> = match step > 0 && step < self.until {
            true => targets.iter().zip(&keep).map(wanted).collect(),
            false => vec![0; targets.len()],
        };
        let asked: f64 = targets.iter().zip(&wanted).map(|(t, &n)| t.cost * n as f64).sum();
        let share = if asked > 0.0 { (room / asked).clamp(0.0, 1.0) } else { 0.0 };
        let mut edits = Vec::with_capacity(targets.len());
        for ((t, keep), n) in targets.iter().zip(keep).zip(wanted) {
            let (grown, first) = ((share * n as f64) as usize, self.options.first);
            let stay = (0..keep.len()).filter(|&i| keep[i]).chain(keep.len()..keep.len() + grown);
            let topology = Topology::from_positions(keep.len() + grown, 1, stay.map(|i| i as u64));
            let gates = self.gates(t);
            let mut alive = keep.iter();
            gates.scores.retain(|_| *alive.next().unwrap_or(&true));
            let mut alive = keep.iter();
            gates.ages.retain(|_| *alive.next().unwrap_or(&true));
            gates.scores.extend(std::iter::repeat_n(first, grown));
            gates.ages.extend(std::iter::repeat_n(0, grown));
            edits.push(match grown == 0 && !keep.contains(&false) {
                true => Edit::Keep,
                false => Edit::Rewire { topology, grown: Vec::new() },
            });
        }
        self.memory.over = step >= self.until;
        Ok(edits)
    }

    fn state(&self) -> Value {
        serde_json::to_value(&self.memory).unwrap_or_default()
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        self.memory = serde_json::from_value(state.clone()).unwrap_or_default();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growing(options: Options) -> Growing {
        let setting = Setting { seed: 1, steps: 100, steps_per_epoch: 10 };
        Growing { options, setting, every: 10, until: 60, memory: Memory::default(), factors: Vec::new() }
    }

    #[test]
    fn gates_harden_with_the_age_of_their_part() {
        let g = growing(Options::default());
        assert_eq!((g.beta(0), g.beta(100)), (1.0, 100.0));
        assert!((g.beta(50) - 10.0).abs() < 1e-12);
        assert!((gate(1.0, 0.0) - 0.5).abs() < 1e-12 && gate(100.0, 0.2) > 0.999);
    }

    /// ∂L/∂s of L = f(g(s) w), by finite differences, with Σ w ∂L/∂w at the shown weight g w.
    #[test]
    fn the_slope_of_a_score_is_that_of_its_gate() {
        let (beta, s, w) = (3.0, 0.2, [0.7, -0.4]);
        let loss = |s: f64| w.iter().map(|w| (gate(beta, s) * w - 1.0).powi(2)).sum::<f64>();
        let near = (loss(s + 1e-6) - loss(s - 1e-6)) / 2e-6;
        let g = gate(beta, s);
        let slope: f64 = w.iter().map(|w| g * w * 2.0 * (g * w - 1.0)).sum();
        assert!((slope * beta * (1.0 - g) - near).abs() < 1e-6);
    }

    #[test]
    fn it_grows_to_its_budget_and_no_further() {
        let mut g = growing(Options { budget: 0.5, seed: 0.25, grow: 0.25, first: 50.0, ..Options::default() });
        let (mut units, values) = (16, vec![1.0; 64]);
        let mut seen = Vec::new();
        for step in (0..=60).step_by(10) {
            let (shape, full) = (Shape::matrix("a", units, 1), Topology::full(units, 1));
            let t = Target { cost: 10.0, whole: 10.0 * units as f64, ..Target::new(0, &shape, &full, &values[..units]) };
            match &g.rewire(step, &[t]).unwrap()[0] {
                Edit::Rewire { topology, .. } => units = topology.nnz(),
                edit => assert_eq!(*edit, Edit::Keep),
            }
            seen.push(units);
        }
        assert_eq!(seen, [4, 8, 8, 8, 8, 8, 8]);
        assert_eq!(g.plan(60), Plan::Rest, "gates are hard");
    }

    #[test]
    fn what_scores_below_zero_is_gone_at_the_end() {
        let mut g = growing(Options::default());
        let (shape, full, values) = (Shape::matrix("a", 4, 1), Topology::full(4, 1), [1.0; 4]);
        let t = Target { cost: 1.0, whole: 4.0, ..Target::new(0, &shape, &full, &values) };
        g.memory.whole = 100.0;
        g.gates(&t).scores = vec![0.5, -0.1, 0.0, -3.0];
        let Edit::Rewire { topology, .. } = &g.rewire(60, &[t]).unwrap()[0] else { panic!() };
        assert_eq!(topology.positions().collect::<Vec<_>>(), [0, 2]);
    }

    #[test]
    fn gates_close_without_end_and_open_again() {
        let mut g = growing(Options { rate: 1e6, ..Options::default() });
        let (shape, full, values) = (Shape::matrix("a", 2, 1), Topology::full(2, 1), [1.0; 2]);
        // The gate divided by its initial value.
        let (mut now, mut seen) = (gate(1.0, g.options.first), Vec::new());
        for slope in [[1.0f32; 2], [1.0; 2], [-1.0; 2], [-1.0; 2]] {
            g.observe(1, &[Target { gradient: &slope, ..Target::new(0, &shape, &full, &values) }]);
            assert!(g.factors[0].iter().all(|f| f.is_finite() && *f > 0.0), "{:?}", g.factors);
            now *= g.factors[0][0];
            seen.push(now);
        }
        assert!(seen[0] < 1e-8 && seen[1] < 1e-8 && (seen[2] - 1.0).abs() < 1e-6, "{seen:?}");
    }

    #[test]
    fn blocks_of_a_stage_are_kin() {
        assert_eq!((group_name("stage1.2.conv1"), group_name("fc1")), ("stage1.conv1".into(), "fc1".into()));
    }
}
