//! Checks of methods that change weights, units or topologies during training.

use crate::grounds::{DENSITY, Ground, quick};
use crate::{Verdict, ensure};
use nnz_core::{
    Command, Edit, Leaf, Method, MethodInstance, Plan, Rng, Setting, Shape, Target, TargetKind, Topology, Zero,
};
use nnz_engine::file::Header;
use nnz_engine::{
    Dtype, Model, ModelSpec, Moments, Number, Position, Storage, Task, Tensor, Trainer, axes, goes_straight, pulled,
};
use std::path::PathBuf;
use std::sync::OnceLock;
use tempfile::TempDir;
use toml::Table;

/// The run for which methods are built when nothing trains.
const SETTING: Setting = Setting { seed: 0, steps: 240, steps_per_epoch: 30 };
/// The seed of the run that checks share.
const SEED: u64 = 5;
/// Step at which other numbers of threads are compared with one.
const EARLY: u64 = 130;

type Check = fn(&Bench) -> Verdict;

/// A method, its capabilities, and the run that its checks share.
pub struct Bench {
    method: &'static Method,
    options: Table,
    ground: &'static Ground,
    kind: TargetKind,
    /// Whether its weights come from leaves that an optimizer trains.
    leaves: bool,
    whole: OnceLock<Result<Whole, String>>,
}

/// Everything that a run computed.
#[derive(PartialEq, Debug)]
struct Print<T> {
    values: Vec<Vec<T>>,
    topologies: Vec<Topology>,
    state: Vec<Vec<Tensor<T>>>,
    position: Position,
}

impl<T: Number> Print<T> {
    fn of(t: &Trainer<T>) -> Self {
        Self {
            values: t.model.params.iter().map(|p| p.value.data().to_vec()).collect(),
            topologies: topologies(&t.model),
            state: t.optimizer.state.clone(),
            position: t.position.clone(),
        }
    }
}

/// One training from start to end on one thread, step by step, with its observations.
struct Whole {
    /// The final network.
    model: Model<f32>,
    /// Nonzeros at the start, and the first step above that with its own count.
    start: usize,
    above: Option<(u64, usize)>,
    early: Print<f32>,
    end: Print<f32>,
    /// Checkpoints, with their steps.
    cuts: Vec<(u64, PathBuf)>,
    _dir: TempDir,
}

/// Topologies of all possible targets: weights, and the edges of a graph.
fn topologies<T: Number>(model: &Model<T>) -> Vec<Topology> {
    let target = |name: &str| name.ends_with(".edges");
    model.params.iter().filter(|p| p.weight() || target(&p.shape.name)).map(|p| p.topology()).collect()
}

fn words(e: impl ToString) -> String {
    e.to_string()
}

fn step<T: Number>(t: &mut Trainer<T>) -> Verdict {
    t.advance().map(drop).map_err(words)
}

fn on_threads<R: Send>(threads: usize, run: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start").install(run)
}

impl Bench {
    /// A bench for a method.
    ///
    /// # Errors
    /// When the method cannot be built with its quick options.
    pub fn new(method: &'static Method) -> Result<Self, String> {
        let options = quick(method)?;
        let work = method.build(&options, &SETTING).map_err(words)?;
        let (kind, leaves) = (work.sparsifier.kind(), work.parametrization.is_some_and(|p| p.phases() == 0));
        Ok(Self { method, options, ground: Ground::of(kind), kind, leaves, whole: OnceLock::new() })
    }

    /// The checks that apply to the method.
    pub fn checks(&self) -> impl Iterator<Item = (&'static str, fn(&Self) -> Verdict)> {
        let scored = matches!(self.kind, TargetKind::Weights | TargetKind::Edges);
        let (pattern, any) = (self.text("pattern"), Some("unstructured"));
        let all: [(&str, bool, Check); 12] = [
            ("density", true, Self::reaches_its_density),
            ("budget", true, Self::never_exceeds_its_start),
            ("scores", scored, Self::follows_what_it_is_shown),
            ("seed", true, Self::obeys_its_seed),
            ("threads", true, Self::same_for_any_number_of_threads),
            ("storage", true, Self::same_for_masked_and_sparse),
            ("interruption", true, Self::goes_on_as_if_never_cut),
            ("options", !self.options.is_empty(), Self::refuses_what_it_does_not_know),
            ("leaves", self.leaves, Self::pulls_gradients_through_its_leaves),
            ("growth", self.takes("growth", "sampled"), Self::grows_from_samples_too),
            ("starts", self.takes("start", "ramanujan"), Self::starts_from_any_graph),
            (
                "patterns",
                self.has_density() && self.kind == TargetKind::Weights && pattern == any,
                Self::keeps_patterns,
            ),
        ];
        all.into_iter().filter(|(_, fits, _)| *fits).map(|(name, _, check)| (name, check))
    }

    /// Runs the check of that name.
    ///
    /// # Errors
    /// The defect; also when the method has no such check.
    pub fn check(&self, name: &str) -> Verdict {
        let found = self.checks().find(|(known, _)| *known == name);
        found.map_or_else(|| Err(format!("{} has no check `{name}`", self.method.key)), |(_, check)| check(self))
    }

    fn text(&self, option: &str) -> Option<&str> {
        self.options.get(option).and_then(|v| v.as_str())
    }

    fn has_density(&self) -> bool {
        self.options.contains_key("density")
    }

    /// Whether it has an option and accepts that word for it.
    fn takes(&self, option: &str, word: &str) -> bool {
        self.options.contains_key(option) && self.build(&[(option, word.into())], &SETTING).is_ok()
    }

    fn build(&self, other: &[(&str, toml::Value)], setting: &Setting) -> nnz_core::Result<MethodInstance> {
        let mut options = self.options.clone();
        options.extend(other.iter().map(|(key, value)| ((*key).into(), value.clone())));
        self.method.build(&options, setting)
    }

    fn begin<T: Number>(&self, storage: Storage, seed: u64) -> Result<Trainer<'static, T>, String> {
        self.begin_with(&[], storage, seed)
    }

    fn begin_with<T: Number>(
        &self,
        other: &[(&str, toml::Value)],
        storage: Storage,
        seed: u64,
    ) -> Result<Trainer<'static, T>, String> {
        let Ground { data, model } = self.ground;
        let build = |s: &Setting| self.build(other, s);
        Trainer::new(model, data, &self.ground.spec(storage), seed, build).map_err(words)
    }

    fn through(&self, storage: Storage, seed: u64) -> Result<Print<f32>, String> {
        let mut t = self.begin(storage, seed)?;
        t.run(|_, _| true).map_err(words)?;
        Ok(Print::of(&t))
    }

    fn header(&self, t: &Trainer<f32>) -> Header {
        Header {
            model: t.model.spec.clone(),
            normalization: t.frame().normalization,
            classes: self.ground.data.classes.clone(),
            data: self.ground.data.name.clone(),
            method: self.method.key.into(),
            prunable: false.into(),
            texts: false,
            task: Task::Classification,
            scales: Vec::new(),
            dtype: Dtype::Native,
            encoding: None,
            policy: Default::default(),
        }
    }

    /// Step at which a run is interrupted.
    fn cut(&self, index: u64, steps: u64) -> u64 {
        1 + Rng::stream(0, self.method.key, index, 0).below(steps - 1)
    }

    fn save(&self, t: &Trainer<f32>, dir: &TempDir) -> Result<(u64, PathBuf), String> {
        let at = t.position.step;
        let path = dir.path().join(format!("{at}.safetensors"));
        t.save(&path, &self.header(t), "run").map_err(words)?;
        Ok((at, path))
    }

    fn whole(&self) -> Result<&Whole, String> {
        self.whole.get_or_init(|| on_threads(1, || self.train_whole())).as_ref().map_err(Clone::clone)
    }

    fn train_whole(&self) -> Result<Whole, String> {
        let mut t: Trainer<f32> = self.begin(Storage::Auto, SEED)?;
        let (steps, start, mut above) = (t.steps(), t.model.nonzeros(), None);
        let dir = tempfile::tempdir().map_err(words)?;
        let (at, mut cuts, mut early) = ([self.cut(0, steps), self.cut(1, steps)], Vec::new(), None);
        while t.position.step < steps {
            step(&mut t)?;
            let (done, now) = (t.position.step, t.model.nonzeros());
            if now > start && above.is_none() {
                above = Some((done, now));
            }
            if at.contains(&done) {
                cuts.push(self.save(&t, &dir)?);
            }
            if done == EARLY.min(steps) {
                early = Some(Print::of(&t));
            }
        }
        // The command after the last step, such as a last pruning.
        t.run(|_, _| true).map_err(words)?;
        let (early, end) = (early.ok_or("the run has no steps")?, Print::of(&t));
        Ok(Whole { model: t.model.clone(), start, above, early, end, cuts, _dir: dir })
    }

    /// Exact to one connection; a constant fan-in to one per row.
    fn reaches_its_density(&self) -> Verdict {
        let result = &self.whole()?.model;
        let heads = || result.weights().filter(|p| p.shape.head);
        for head in heads() {
            ensure!(head.nnz() == head.shape.len(), "the head is not to be pruned and has {} connections", head.nnz());
        }
        ensure!(heads().count() == 1 || self.kind == TargetKind::Edges, "{} heads", heads().count());
        if !self.has_density() {
            return Ok(());
        }
        let Ground { data, model } = self.ground;
        let count = |spec: &ModelSpec| axes(spec).iter().map(|a| a.units).sum::<usize>();
        let prunable = || result.weights().filter(|p| p.prunable);
        let (entries, left) = match (self.kind, &data.graph) {
            (TargetKind::Units, _) => (count(model), count(&result.spec)),
            (TargetKind::Edges, Some(graph)) => (graph.edges.nnz(), topologies(result)[0].nnz()),
            _ => (prunable().map(|p| p.shape.len()).sum(), prunable().map(|p| p.nnz()).sum()),
        };
        let wanted = (DENSITY * entries as f64).round() as usize;
        let slack = match self.text("pattern") {
            Some("per-row" | "row") => prunable().map(|p| p.shape.rows.max(p.shape.cols)).sum(),
            _ => 0,
        };
        ensure!(left.abs_diff(wanted) <= slack, "{left} of {entries} entries are left, {wanted} were asked for");
        Ok(())
    }

    /// Growth beyond the start is balanced by pruning.
    fn never_exceeds_its_start(&self) -> Verdict {
        let Whole { start, above, .. } = self.whole()?;
        match above {
            Some((step, now)) => Err(format!("{now} connections after step {step}, {start} at the start")),
            None => Ok(()),
        }
    }

    /// Targets of random values and every signal; two draws must lead to two choices.
    fn follows_what_it_is_shown(&self) -> Verdict {
        let (a, b) = (self.answer(0)?, self.answer(1)?);
        ensure!(a.is_none() || a != b, "two random networks got the same edits");
        Ok(())
    }

    fn answer(&self, draw: u64) -> Result<Option<Vec<Edit>>, String> {
        let mut work = self.build(&[], &SETTING).map_err(words)?;
        let shapes = match self.kind {
            TargetKind::Edges => vec![Shape::matrix("edges", 12, 12)],
            _ => vec![Shape::matrix("a", 8, 12), Shape::matrix("b", 12, 8)],
        };
        let refs: Vec<&Shape> = shapes.iter().collect();
        let births = work.sparsifier.initial_topologies(&refs).map_err(words)?;
        // A graph's only information is which edges it has.
        let graph = |s: &Shape| {
            let mut rng = Rng::stream(draw, "edges", 0, 0);
            let above = (0..s.len() as u64).filter(|p| p / 12 < p % 12 && rng.unit64() < 0.5);
            Topology::from_positions(s.rows, s.cols, above.collect::<Vec<_>>())
        };
        let first = |s: &Shape| if self.kind == TargetKind::Edges { graph(s) } else { Topology::full(s.rows, s.cols) };
        let topologies = births.unwrap_or_else(|| shapes.iter().map(first).collect());
        let numbers = |what: &str, i: usize, n: usize| -> Vec<f32> {
            let mut rng = Rng::stream(draw, what, i as u64, 0);
            (0..n).map(|_| rng.normal() as f32).collect()
        };
        let drawn: Vec<[Vec<f32>; 4]> = topologies
            .iter()
            .enumerate()
            .map(|(i, t)| ["w", "g", "h", "f"].map(|what| numbers(what, i, t.nnz())))
            .collect();
        let moments: Vec<Moments> = shapes
            .iter()
            .enumerate()
            .map(|(i, s)| {
                let mut moments = Moments::default();
                moments.add(&Tensor::new(&[4 * s.cols, s.cols], numbers("x", i, 4 * s.cols * s.cols)));
                moments.mean()
            })
            .collect();
        let zeros: Vec<Vec<Zero>> = topologies
            .iter()
            .enumerate()
            .map(|(i, t)| {
                let free = (0..(t.rows() * t.cols()) as u64).filter(|&p| t.find(p).is_none());
                let gradients = numbers("z", i, t.rows() * t.cols());
                let mut all: Vec<Zero> =
                    free.zip(gradients).map(|(position, gradient)| Zero { position, gradient }).collect();
                all.sort_by(|a, b| b.gradient.abs().total_cmp(&a.gradient.abs()));
                all
            })
            .collect();
        let targets: Vec<Target> = (0..shapes.len())
            .map(|i| Target {
                gradient: &drawn[i][1],
                hessian_gradient: &drawn[i][2],
                synaptic_flow: &drawn[i][3],
                gram: &moments[i].square,
                mean: &moments[i].first,
                zeros: &zeros[i],
                ..Target::new(i, &shapes[i], &topologies[i], &drawn[i][0])
            })
            .collect();
        if let Some(procedure) = &mut work.procedure {
            while !matches!(procedure.next(Some(0.5)), Command::Edit(_)) {}
            return procedure.edit(&targets).map(Some).map_err(words);
        }
        let mut edits = Vec::new();
        for step in 0..=SETTING.steps {
            if matches!(work.sparsifier.plan(step), Plan::Rewire(_)) {
                // Other values at each step, for methods that track changes.
                let values: Vec<Vec<f32>> =
                    targets.iter().map(|t| numbers(&format!("w{step}"), t.index, t.values.len())).collect();
                let moved: Vec<Target> =
                    targets.iter().zip(&values).map(|(t, values)| Target { values, ..*t }).collect();
                edits.extend(work.sparsifier.rewire(step, &moved).map_err(words)?);
            }
        }
        Ok((!edits.is_empty()).then_some(edits))
    }

    fn obeys_its_seed(&self) -> Verdict {
        let (a, again, other) =
            (&self.whole()?.end, self.through(Storage::Auto, SEED)?, self.through(Storage::Auto, SEED + 1)?);
        ensure!(*a == again, "the same seed gave two results");
        // Which edges or units are pruned may follow from the data alone.
        let sparse = a.topologies.iter().any(|t| t.density() < 1.0) && self.kind != TargetKind::Edges;
        ensure!(!sparse || a.topologies != other.topologies, "two seeds gave one topology");
        ensure!(*a != other, "two seeds gave one network");
        Ok(())
    }

    fn same_for_any_number_of_threads(&self) -> Verdict {
        let one = &self.whole()?.early;
        for threads in [2, 3, 8] {
            let many = on_threads(threads, || -> Result<_, String> {
                let mut t: Trainer<f32> = self.begin(Storage::Auto, SEED)?;
                for _ in 0..EARLY.min(t.steps()) {
                    step(&mut t)?;
                }
                Ok(Print::of(&t))
            })?;
            ensure!(*one == many, "{threads} threads differ from one");
        }
        Ok(())
    }

    fn same_for_masked_and_sparse(&self) -> Verdict {
        self.alike(&[], 200).map(drop)
    }

    /// Compares masked and sparse storage, step by step in 64 bits; returns the sparse one at the end.
    fn alike(&self, other: &[(&str, toml::Value)], steps: u64) -> Result<Trainer<'static, f64>, String> {
        let mut masked = self.begin_with::<f64>(other, Storage::Masked, 4)?;
        let mut sparse = self.begin_with::<f64>(other, Storage::Sparse, 4)?;
        for at in 0..steps.min(masked.steps()) {
            step(&mut masked)?;
            step(&mut sparse)?;
            ensure!(topologies(&masked.model) == topologies(&sparse.model), "they part at step {at}");
        }
        for (a, b) in masked.model.weights().zip(sparse.model.weights()) {
            let (x, y) = (a.entries(&a.value), b.entries(&b.value));
            let far = x.iter().zip(&y).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
            ensure!(far < 1e-9, "values of {} differ by {far}", a.shape.name);
        }
        Ok(sparse)
    }

    fn goes_on_as_if_never_cut(&self) -> Verdict {
        let go_on = |(cut, path): &(u64, PathBuf), storage: Storage, whole: &Print<f32>| -> Verdict {
            let mut second: Trainer<f32> = self.begin(storage, SEED)?;
            ensure!(second.resume(path, "another").is_err(), "took another run's checkpoint");
            second.resume(path, "run").map_err(words)?;
            second.run(|_, _| true).map_err(words)?;
            ensure!(*whole == Print::of(&second), "{storage:?} cut at step {cut} went another way");
            Ok(())
        };
        let whole = self.whole()?;
        ensure!(!whole.cuts.is_empty(), "no checkpoint was made");
        whole.cuts.iter().try_for_each(|cut| go_on(cut, Storage::Auto, &whole.end))?;
        let mut masked: Trainer<f32> = self.begin(Storage::Masked, SEED)?;
        let dir = tempfile::tempdir().map_err(words)?;
        for _ in 0..self.cut(2, masked.steps()) {
            step(&mut masked)?;
        }
        let cut = self.save(&masked, &dir)?;
        masked.run(|_, _| true).map_err(words)?;
        go_on(&cut, Storage::Masked, &Print::of(&masked))
    }

    fn refuses_what_it_does_not_know(&self) -> Verdict {
        refuses_typos(self.method, |options| self.method.build(options, &SETTING).err().map(words))?;
        if !self.has_density() {
            return Ok(());
        }
        ensure!(self.build(&[("density", "much".into())], &SETTING).is_err(), "accepted a density that is no number");
        for density in [0.0, -0.5, 1.5, f64::NAN, 1e-9] {
            // One threshold for the whole network is known only once there are scores: 1e-9 is refused when it prunes.
            let error = match self.begin_with::<f32>(&[("density", density.into())], Storage::Auto, 0) {
                Err(why) => why,
                Ok(mut t) => t.run(|_, _| true).err().map_or_else(String::new, words),
            };
            // A graph without edges is not the method's concern.
            let least = self.kind == TargetKind::Edges && density == 1e-9;
            ensure!(error.contains("density") || error.contains("last unit") || least, "density {density}: {error:?}");
        }
        Ok(())
    }

    /// The gradient of a leaf is that of the weight it makes and of its own cost, by finite differences.
    fn pulls_gradients_through_its_leaves(&self) -> Verdict {
        let work = self.build(&[], &SETTING).map_err(words)?;
        let p = work.parametrization.ok_or("it has no leaves")?;
        let (shape, mut rng) = (Shape::matrix("a", 5, 6), Rng::stream(0, "leaves", 0, 0));
        let mut normal = |n: usize| -> Vec<f64> { (0..n).map(|_| rng.normal()).collect() };
        let (weight, gradient) = (normal(30), normal(30));
        for step in [0, 7, 40] {
            let leaves = p.leaves(&shape, &weight);
            let at = |leaves: &[Leaf], gradient: &[f64]| pulled(&*p, (step, 0), &shape, leaves, gradient);
            let found = at(&leaves, &gradient);
            if goes_straight(&*p, (step, 0), &shape, &leaves) {
                let cost = at(&leaves, &[0.0; 30]);
                let mut all = found.leaves[0].iter().zip(&cost.leaves[0]).zip(&gradient).zip(&found.weight);
                let near = |a: f64, b: f64| (a - b).abs() < 1e-12 * (1.0 + b.abs());
                let through = all.all(|(((p, c), g), w)| near(p - c, *g) || near(p - c, 0.0) && *w == 0.0);
                ensure!(through, "the gradient does not go straight through");
                continue;
            }
            let cost = |leaves: &[Leaf]| -> f64 {
                let made = at(leaves, &gradient);
                made.weight.iter().zip(&gradient).map(|(w, g)| w * g).sum::<f64>() + made.penalty
            };
            for (k, pulled) in found.leaves.into_iter().enumerate() {
                for (i, slope) in pulled.into_iter().enumerate() {
                    let moved = |h: f64| {
                        let mut leaves = leaves.clone();
                        leaves[k].values[i] += h;
                        cost(&leaves)
                    };
                    let near = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                    let name = leaves[k].name;
                    let right = (slope - near).abs() < 1e-5 * (1.0 + near.abs());
                    ensure!(right, "{name}[{i}] at {step}: {slope} for {near}");
                }
            }
        }
        Ok(())
    }

    fn reaches_with(&self, other: &[(&str, toml::Value)]) -> Verdict {
        let t = self.alike(other, u64::MAX)?;
        let prunable = || t.model.weights().filter(|p| p.prunable);
        let (entries, left) =
            (prunable().map(|p| p.shape.len()).sum::<usize>(), prunable().map(|p| p.nnz()).sum::<usize>());
        let wanted = (DENSITY * entries as f64).round() as usize;
        ensure!(left == wanted, "{left} of {entries} entries are left, {wanted} were asked for");
        let rewires = self.options.contains_key("every");
        ensure!(!rewires || t.position.history.iter().any(|e| e.pruned > 0), "nothing was rewired");
        Ok(())
    }

    /// Reaches its density and agrees under both storages, with a random zero per connection.
    fn grows_from_samples_too(&self) -> Verdict {
        self.reaches_with(&[("growth", "sampled".into())])
    }

    /// Reaches its density and agrees under both storages, from graphs of every kind.
    fn starts_from_any_graph(&self) -> Verdict {
        ["small-world", "scale-free", "ramanujan"].into_iter().try_for_each(|start| {
            self.reaches_with(&[("start", start.into())]).map_err(|why| format!("start {start}: {why}"))
        })
    }

    /// The survivors of training obey the pattern, unless it is refused by name.
    fn keeps_patterns(&self) -> Verdict {
        for pattern in ["unstructured", "per-row", "1:2", "block:2x2", "row"] {
            let density = if pattern == "1:2" { 0.5 } else { 0.25 };
            let other: [(&str, toml::Value); 2] = [("pattern", pattern.into()), ("density", density.into())];
            let mut t = match self.begin_with::<f32>(&other, Storage::Auto, 0) {
                Err(why) if pattern != "unstructured" && why.contains("pattern") => continue,
                begun => begun.map_err(|why| format!("{pattern}: {why}"))?,
            };
            t.run(|_, _| true).map_err(|why| format!("{pattern}: {why}"))?;
            // A matrix may become full at the cost of others.
            let found = topologies(&t.model);
            let entries: usize = found.iter().map(|t| t.rows() * t.cols()).sum();
            let nnz: usize = found.iter().map(|t| t.nnz()).sum();
            ensure!(nnz > 0 && (nnz as f64) < 0.9 * entries as f64, "{pattern}: {nnz} of {entries}");
            for topology in found.iter().take(2) {
                let at = format!("{pattern} {}x{}", topology.rows(), topology.cols());
                let degrees = topology.row_degrees();
                let mut rows = (0..topology.rows()).map(|r| (r, topology.row(r)));
                let kept = match pattern {
                    "per-row" => degrees.iter().all(|&d| d == degrees[0]),
                    "row" => degrees.iter().all(|&d| d == 0 || d == topology.cols()),
                    "1:2" => rows.all(|(_, row)| {
                        row.len() == topology.cols() / 2 && row.windows(2).all(|w| w[0] / 2 < w[1] / 2)
                    }),
                    "block:2x2" => rows.all(|(r, row)| {
                        row == topology.row(r / 2 * 2) && row.chunk_by(|a, b| a / 2 == b / 2).all(|g| g.len() == 2)
                    }),
                    _ => true,
                };
                ensure!(kept, "{at}: {degrees:?}");
            }
        }
        Ok(())
    }
}

/// Every option is explained, and a number out of its bounds is refused by name.
fn documents_its_options(method: &Method, refusal: impl Fn(&Table) -> Option<String>) -> Verdict {
    let (docs, defaults) = (method.docs(), method.defaults());
    ensure!(docs.iter().map(|d| d.key).eq(defaults.keys()), "{:?} are explained", docs.iter().map(|d| d.key));
    for doc in docs {
        ensure!(!doc.doc.is_empty(), "`{}` is not explained", doc.key);
        let Some(range) = doc.range else { continue };
        // If the type leaves no room for a number outside, the parser refuses it.
        let value = match doc.default {
            Some(toml::Value::Integer(_)) => toml::Value::from(range.outside() as i64),
            _ => range.outside().into(),
        };
        let error = refusal(&Table::from_iter([(doc.key.to_string(), value)])).unwrap_or_default();
        let whole = matches!(doc.default, Some(toml::Value::Integer(_)));
        ensure!(error.contains(doc.key) || whole && !error.is_empty(), "`{}` {range}: {error:?}", doc.key);
    }
    Ok(())
}

/// A misspelt option is refused with the right one and the key; `refusal` returns the error for options.
pub(crate) fn refuses_typos(method: &Method, refusal: impl Fn(&Table) -> Option<String>) -> Verdict {
    let Some((key, _)) = method.defaults().into_iter().next() else { return Ok(()) };
    let typo = format!("{}x{}", &key[..1], &key[1..]);
    let error = refusal(&Table::from_iter([(typo.clone(), 0.5.into())]));
    let error = error.ok_or_else(|| format!("accepted the misspelt `{typo}`"))?;
    documents_its_options(method, &refusal)?;
    ensure!(error.contains(&typo) && error.contains(&format!("`{key}`")) && error.contains(method.key), "{error}");
    Ok(())
}
