//! Methods that do not do what they claim, each of which must be detected; and honest ones with words that no registered
//! method uses yet.

use nnz_conform::{Bench, Verdict};
use nnz_core::catalog::Entry;
use nnz_core::{
    Budget, Build, CheckOnly, Command, Criterion, DistributionKind, Edit, Expr, Leaf, Magnitude, Method,
    MethodInstance, Moment, OneShot, Parametrization, Plan, Procedure, Prune, Result, Rng, Setting, Shape, Sparsifier,
    Static, Target, TargetMut, Topology, Variable, Weight,
};

macro_rules! cheat {
    ($name:ident, $key:literal, $build:expr) => {
        mod $name {
            nnz_core::options! {
                /// Nonzeros / entries of what is pruned.
                density: f64 = 0.1 => nnz_core::above(0.0).at_most(1.0),
            }
        }
        impl Build for $name::Options {
            fn build(self, setting: &Setting) -> Result<MethodInstance> {
                let build: fn(f64, &Setting) -> MethodInstance = $build;
                Ok(build(self.density, setting))
            }
        }
        impl $name::Options {
            const METHOD: Method = Method::listed::<Self>(Entry::unlisted($key, "prune"), $key, "");
        }
    };
}

fn by_magnitude(density: f64, setting: &Setting) -> Prune {
    let schedule = OneShot { at: setting.steps / 2, density };
    Budget::new(density, DistributionKind::Uniform).prune(Magnitude, schedule, setting)
}

fn random(density: f64, setting: &Setting) -> Static {
    Budget::new(density, DistributionKind::Erk).fixed(setting)
}

/// Ignores everything: the first entries win.
struct Blind;

impl Criterion for Blind {
    fn score(&self, target: &Target, _: &mut Rng) -> Vec<f32> {
        (0..target.values.len()).map(|i| -(i as f32)).collect()
    }
}

cheat!(ignores_score, "ignores-score", |density, setting| {
    Prune { criterion: Box::new(Blind), ..by_magnitude(density, setting) }.into()
});
cheat!(ignores_seed, "ignores-seed", |density, setting| random(density, &Setting { seed: 7, ..*setting }).into());
cheat!(ignores_density, "ignores-density", |_, setting| by_magnitude(0.3, setting).into());

/// Starts from a random topology; then applies the edit `Self::1`.
struct Born(Static, fn(&Target) -> Edit, usize);

impl Sparsifier for Born {
    fn initial_topologies(&self, shapes: &[&Shape]) -> Result<Option<Vec<Topology>>> {
        self.0.initial_topologies(shapes)
    }

    fn check(&self, shapes: &[&Shape]) -> Result<()> {
        self.0.check(shapes)
    }

    fn plan(&self, step: u64) -> Plan {
        if step == 50 { Plan::Rewire(nnz_core::Signals::NONE) } else { Plan::Rest }
    }

    fn rewire(&mut self, _: u64, targets: &[Target]) -> Result<Vec<Edit>> {
        Ok(targets.iter().map(self.1).chain((0..self.2).map(|_| Edit::Keep)).collect())
    }
}

cheat!(grows_only, "grows-without-dropping", |density, setting| {
    let grow = |t: &Target| {
        let len = (t.topology.rows() * t.topology.cols()) as u64;
        let new = (0..len).filter(|&p| t.topology.find(p).is_none()).take(5);
        let mut all: Vec<u64> = t.topology.positions().chain(new).collect();
        all.sort_unstable();
        let topology = Topology::from_positions(t.topology.rows(), t.topology.cols(), all);
        Edit::Rewire { topology, grown: Vec::new() }
    };
    Born(random(density, setting), grow, 0).into()
});
// The classifier is not a target: an edit for it is one too many.
cheat!(touches_frozen, "touches-a-frozen-layer", |density, setting| {
    Born(random(density, setting), |_| Edit::Keep, 1).into()
});

/// A soup: two trainings that share their first half, the better of them and then the mean of both.
struct Soup {
    length: u64,
    done: usize,
    accuracies: Vec<f64>,
}

impl Procedure for Soup {
    fn steps(&self) -> u64 {
        self.length + self.length.div_ceil(2)
    }

    fn next(&mut self, accuracy: Option<f64>) -> Command {
        self.accuracies.extend(accuracy);
        let (half, of) = (self.length / 2, self.length);
        let better = if self.accuracies.first() > self.accuracies.last() { "a" } else { "b" };
        let acts = [
            Command::Train { span: 0..half, of, order: 0 },
            Command::Snapshot("trunk".into()),
            Command::Train { span: half..of, of, order: 0 },
            Command::Evaluate,
            Command::Snapshot("a".into()),
            Command::Restore("trunk".into()),
            Command::Train { span: half..of, of, order: 1 },
            Command::Evaluate,
            Command::Snapshot("b".into()),
            Command::Restore(better.into()),
            Command::Average(vec!["a".into(), "b".into()]),
        ];
        self.done += 1;
        acts.into_iter().nth(self.done - 1).unwrap_or(Command::Done)
    }

    fn edit(&mut self, targets: &[Target]) -> Result<Vec<Edit>> {
        Ok(vec![Edit::Keep; targets.len()])
    }

    fn state(&self) -> serde_json::Value {
        serde_json::json!([self.done, self.accuracies])
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<()> {
        self.done = state[0].as_u64().unwrap_or_default() as usize;
        self.accuracies = state[1].as_array().into_iter().flatten().filter_map(|a| a.as_f64()).collect();
        Ok(())
    }
}

cheat!(souped, "soup", |density, setting| {
    let procedure = Soup { length: setting.steps / 2, done: 0, accuracies: Vec::new() };
    MethodInstance {
        procedure: Some(Box::new(procedure)),
        ..MethodInstance::from(CheckOnly(by_magnitude(density, setting)))
    }
});

/// w = v³ until two thirds of the run.
struct Cubes(u64);

impl Parametrization for Cubes {
    fn leaves(&self, shape: &Shape, weight: &[f64]) -> Vec<Leaf> {
        let values = weight.iter().map(|w| w.cbrt()).collect();
        vec![Leaf { name: "root", dims: vec![shape.rows, shape.cols], values, decays: true }]
    }

    fn weight(&self, _: Moment, _: &Shape, leaves: &[Variable]) -> Weight {
        let v = &*leaves[0];
        Weight::Matrix(v * v * v)
    }

    fn penalty(&self, _: Moment, _: &Shape, leaves: &[Variable]) -> Option<Expr> {
        Some(0.5e-4 * leaves[0].square().sum())
    }

    fn until(&self) -> u64 {
        self.0
    }
}

cheat!(cubed, "cubes", |density, setting| {
    let cubes = Cubes(setting.steps * 2 / 3);
    MethodInstance {
        parametrization: Some(Box::new(cubes)),
        ..MethodInstance::from(CheckOnly(by_magnitude(density, setting)))
    }
});

/// A gradient that is half of what it should be.
struct Half(Cubes);

impl Parametrization for Half {
    fn leaves(&self, shape: &Shape, weight: &[f64]) -> Vec<Leaf> {
        self.0.leaves(shape, weight)
    }

    fn weight(&self, _: Moment, _: &Shape, leaves: &[Variable]) -> Weight {
        let v = &*leaves[0];
        let weight = v * v * v;
        Weight::Matrix(weight.straight_to(&(0.5 * weight.clone())))
    }

    fn until(&self) -> u64 {
        self.0.until()
    }
}

/// Takes a leaf for a constant in one of the places where it stands.
struct Stopped(Cubes);

impl Parametrization for Stopped {
    fn leaves(&self, shape: &Shape, weight: &[f64]) -> Vec<Leaf> {
        self.0.leaves(shape, weight)
    }

    fn weight(&self, _: Moment, _: &Shape, leaves: &[Variable]) -> Weight {
        let v = &*leaves[0];
        Weight::Matrix(v * v * v.stop())
    }

    fn until(&self) -> u64 {
        self.0.until()
    }
}

cheat!(stopped, "stops-one", |density, setting| {
    let stopped = Stopped(Cubes(setting.steps));
    MethodInstance {
        parametrization: Some(Box::new(stopped)),
        ..MethodInstance::from(CheckOnly(by_magnitude(density, setting)))
    }
});

cheat!(halved, "pulls-half", |density, setting| {
    let half = Half(Cubes(setting.steps));
    MethodInstance {
        parametrization: Some(Box::new(half)),
        ..MethodInstance::from(CheckOnly(by_magnitude(density, setting)))
    }
});

/// Keeps a counter that no checkpoint contains.
struct Forgetful(u64);

impl Sparsifier for Forgetful {
    fn check(&self, _: &[&Shape]) -> Result<()> {
        Ok(())
    }

    fn plan(&self, _: u64) -> Plan {
        Plan::Rest
    }

    fn rewire(&mut self, _: u64, targets: &[Target]) -> Result<Vec<Edit>> {
        Ok(vec![Edit::Keep; targets.len()])
    }

    fn proximal(&self) -> bool {
        true
    }

    fn after_step(&mut self, _: u64, lr: f64, targets: &mut [TargetMut]) {
        self.0 += 1;
        let factor = 1.0 - lr * 1e-3 * self.0 as f64;
        targets.iter_mut().for_each(|t| t.values.iter_mut().for_each(|w| *w *= factor));
    }
}

cheat!(forgets, "forgets", |_, _| Forgetful(0).into());

cheat!(by_magnitude, "honest-magnitude", |density, setting| by_magnitude(density, setting).into());
cheat!(at_random, "honest-random", |density, setting| random(density, setting).into());

fn check(method: &'static Method, name: &str) -> Verdict {
    Bench::new(method)?.check(name)
}

#[test]
fn honest_methods_pass() {
    // A soup and cubes are words that no method uses yet; their idle parts say nothing of density and scores.
    static HONEST: [Method; 4] =
        [souped::Options::METHOD, cubed::Options::METHOD, by_magnitude::Options::METHOD, at_random::Options::METHOD];
    for (i, method) in HONEST.iter().enumerate() {
        let bench = Bench::new(method).unwrap();
        for (name, check) in
            bench.checks().filter(|(name, _)| i > 1 || !["density", "scores", "options"].contains(name))
        {
            check(&bench).unwrap_or_else(|why| panic!("{} fails `{name}`: {why}", method.key));
        }
    }
}

#[test]
fn every_cheat_is_found_out() {
    static CHEATS: [(Method, &str); 8] = [
        (stopped::Options::METHOD, "leaves"),
        (halved::Options::METHOD, "leaves"),
        (forgets::Options::METHOD, "interruption"),
        (ignores_score::Options::METHOD, "scores"),
        (ignores_seed::Options::METHOD, "seed"),
        (ignores_density::Options::METHOD, "density"),
        (grows_only::Options::METHOD, "budget"),
        (touches_frozen::Options::METHOD, "density"),
    ];
    for (cheat, caught_by) in &CHEATS {
        let why = check(cheat, caught_by).err().unwrap_or_else(|| panic!("{} passes `{caught_by}`", cheat.key));
        println!("{}: {why}", cheat.key);
        assert!(!why.contains("no check"), "{why}");
    }
}
