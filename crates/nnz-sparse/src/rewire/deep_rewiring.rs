//! Every connection has a parameter θ and a fixed sign s, and weight s θ while θ ≥ 0. θ ← θ - η ∂L/∂θ - η α + sqrt(2 η T) ν with
//! normal ν; a connection whose θ falls below zero is dropped and a random one is grown with θ = 0 and a random sign
//! (algorithm 1).
//!
//! Cost: a normal number per connection at every step, and its sign.
//!
//! Deviations: each layer keeps its number of connections; the gradient step is that of the run's optimizer, momentum included;
//! connections are rewired every `every` steps until `until`, since a falling learning rate cannot train the last ones;
//! α and T are chosen here.

use nnz_core::{Build, Criterion, Decay, DropGrow, Edit, Redistribution, TargetMut, Method, Period, Plan, Random, Result, Rewiring, Rng, Setting, Shape, Sparsifier, Target, Topology, MethodInstance, at_least, options};
use serde_json::Value;

/// The card.
pub const METHOD: Method = Method::new::<Options>(
    "deep-rewiring",
    "Deep rewiring",
    "Drops connections that change their sign in a noisy, shrinking descent and draws new ones at random.",
);

options! {
    #[flatten]
    /// Interval and end; fraction and decay have no effect.
    rewiring: Rewiring = Rewiring { fraction: 1.0, decay: Decay::Constant, every: Period::Steps(1), ..Rewiring::RIGL },
    /// α of the 1-norm.
    l1: f64 = 1e-4 => at_least(0.0),
    /// T of the noise.
    temperature: f64 = 1e-9 => at_least(0.0),
}


impl Build for Options {
    fn build(self, setting: &Setting) -> Result<MethodInstance> {
        let Self { rewiring, l1, temperature } = self;
        let plain = rewiring.drop_grow(setting, Unsigned, Random { std: 0.0 });
        let inner = DropGrow { exchange: Box::new(Unsigned), ..plain };
        Ok(DeepRewiring { inner, l1, temperature, signs: Vec::new(), seed: setting.seed }.into())
    }
}

/// θ of every entry, in place of its weight: the lowest, which are those below zero, are dropped.
struct Unsigned;

impl Criterion for Unsigned {
    fn score(&self, target: &Target, _: &mut Rng) -> Vec<f32> {
        target.values.to_vec()
    }
}

impl Redistribution for Unsigned {
    fn layerwise(&self) -> bool {
        true
    }

    fn counts(&mut self, _: u64, _: f64, targets: &[Target]) -> Result<Vec<[usize; 2]>> {
        let fallen = |t: &Target| t.values.iter().filter(|v| **v < 0.0).count().min(super::zeros(t));
        Ok(targets.iter().map(|t| [fallen(t); 2]).collect())
    }
}

struct DeepRewiring {
    inner: DropGrow,
    l1: f64,
    temperature: f64,
    /// Whether the sign is minus, for every entry of every target.
    signs: Vec<Vec<bool>>,
    seed: u64,
}

impl DeepRewiring {
    /// The signs of a target, initially those of its weights.
    fn signs<'a>(&mut self, index: usize, negative: impl Iterator<Item = bool> + 'a) -> &mut Vec<bool> {
        self.signs.resize(self.signs.len().max(index + 1), Vec::new());
        let signs = &mut self.signs[index];
        if signs.is_empty() {
            *signs = negative.collect();
        }
        signs
    }
}

/// One step of θ.
fn step(theta: f64, lr: f64, l1: f64, temperature: f64, noise: f64) -> f64 {
    theta - lr * l1 + (2.0 * lr * temperature).sqrt() * noise
}

impl Sparsifier for DeepRewiring {
    fn initial_topologies(&self, shapes: &[&Shape]) -> Result<Option<Vec<Topology>>> {
        self.inner.initial_topologies(shapes)
    }

    fn check(&self, shapes: &[&Shape]) -> Result<()> {
        self.inner.check(shapes)
    }

    fn plan(&self, step: u64) -> Plan {
        self.inner.plan(step)
    }

    fn layerwise(&self) -> bool {
        true
    }

    fn rewire(&mut self, step: u64, targets: &[Target]) -> Result<Vec<Edit>> {
        let mut edits = Vec::with_capacity(targets.len());
        for t in targets {
            let signs = self.signs(t.index, t.values.iter().map(|v| *v < 0.0)).clone();
            let theta: Vec<f32> = t.values.iter().zip(&signs).map(|(v, &minus)| if minus { -v } else { *v }).collect();
            let edit = self.inner.rewire(step, &[Target { values: &theta, ..*t }])?.remove(0);
            if let Edit::Rewire { topology, .. } = &edit {
                let mut rng = Rng::stream(self.seed, "signs", t.index as u64, step);
                let old = t.topology.carry(topology);
                self.signs[t.index] = old.map(|o| o.map_or_else(|| rng.bits() & 1 == 1, |o| signs[o])).collect();
            }
            edits.push(edit);
        }
        Ok(edits)
    }

    fn proximal(&self) -> bool {
        true
    }

    fn after_step(&mut self, at: u64, lr: f64, targets: &mut [TargetMut]) {
        // Afterwards the network is trained without changes.
        if at >= self.inner.when.until {
            return;
        }
        let (l1, temperature, seed) = (self.l1, self.temperature, self.seed);
        for t in targets {
            let mut rng = Rng::stream(seed, "noise", t.index as u64, at);
            let signs = self.signs(t.index, t.values.iter().map(|v| *v < 0.0));
            for (w, &minus) in t.values.iter_mut().zip(signs.iter()) {
                let sign = if minus { -1.0 } else { 1.0 };
                *w = sign * step(sign * *w, lr, l1, temperature, rng.normal());
            }
        }
    }

    fn state(&self) -> Value {
        let text = |signs: &Vec<bool>| signs.iter().map(|&m| if m { '-' } else { '+' }).collect::<String>();
        self.signs.iter().map(text).collect()
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        let texts: Vec<String> = serde_json::from_value(state.clone()).unwrap_or_default();
        self.signs = texts.iter().map(|t| t.chars().map(|c| c == '-').collect()).collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_its_sign_is_replaced_and_shrinks_before() {
        assert!((step(0.5, 0.1, 1e-2, 0.0, 9.0) - 0.499).abs() < 1e-12);
        assert!((step(0.5, 0.1, 0.0, 0.2, -1.0) - (0.5 - 0.04f64.sqrt())).abs() < 1e-12);

        let setting = Setting { seed: 1, steps: 100, steps_per_epoch: 10 };
        let options = Options { l1: 1.0, temperature: 0.0, ..Options::default() };
        let mut method = options.build(&setting).unwrap().sparsifier;
        let shape = Shape::matrix("a", 4, 5);
        let topology = Topology::from_positions(4, 5, [0, 6, 12, 18]);
        let mut values = [0.3, -0.05, 0.05, -0.3];
        let mut live = [TargetMut { index: 0, shape: &shape, topology: &topology, values: &mut values }];
        method.after_step(0, 0.1, &mut live);
        for (value, expected) in values.iter().zip([0.2, 0.05, -0.05, -0.2]) {
            assert!((value - expected).abs() < 1e-12);
        }
        // The two that crossed zero are dropped; two others are grown, with value zero and a sign.
        let narrow = values.map(|v| v as f32);
        let edits = method.rewire(1, &[Target::new(0, &shape, &topology, &narrow)]).unwrap();
        let [Edit::Rewire { topology: new, grown }] = &edits[..] else { panic!("{edits:?}") };
        assert!(new.nnz() == 4 && grown.is_empty());
        assert!(new.find(0).is_some() && new.find(18).is_some() && new.find(6).is_none() && new.find(12).is_none());
        let state = method.state();
        assert_eq!(state[0].as_str().unwrap().len(), 4);
        let at = |p: u64| state[0].as_str().unwrap().as_bytes()[new.find(p).unwrap()];
        assert_eq!((at(0), at(18)), (b'+', b'-'));
    }
}
