//! Checks of experiments, which run by themselves.

use crate::grounds::{Ground, quick};
use crate::sparsify::refuses_typos;
use crate::{Verdict, ensure};
use nnz_core::experiment::Host;
use nnz_core::{Context, Dense, Error, Findings, InputKind, Method, Registry, Rng, Setting, State, TargetKind};
use nnz_engine::file::{Header, Stored};
use nnz_engine::fit::{load_state, save_state};
use nnz_engine::{Dtype, Storage, Task, Trainer};
use nnz_lab::run::Observer;
use nnz_lab::{ExperimentRecipe, Plan, Scale, embedded};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;
use toml::Table;

/// Most time of a recipe at smoke scale, in the development profile on a busy machine.
const SMOKE: Duration = Duration::from_secs(20);

type Inputs = BTreeMap<String, Box<dyn Any + Send + Sync>>;

/// An experiment, and the run that its checks share.
pub struct Trials {
    method: &'static Method,
    inputs: OnceLock<Result<Inputs, String>>,
    whole: OnceLock<Result<(Findings, u64), String>>,
}

/// Keeps a state in a file, as runs do; stops at a given checkpoint.
#[derive(Default)]
struct Memory {
    kept: Option<NamedTempFile>,
    stop_at: Option<u64>,
    seen: u64,
}

fn refused(e: impl ToString) -> Error {
    Error::Refused(e.to_string())
}

impl Host for Memory {
    fn resume(&mut self, state: &mut dyn State) -> nnz_core::Result<bool> {
        let Some(kept) = &self.kept else { return Ok(false) };
        load_state(kept.path(), state, "trial").map(|()| true).map_err(refused)
    }

    fn checkpoint(&mut self, done: u64, of: u64, state: &mut dyn State) -> nnz_core::Result<bool> {
        if done > of {
            return Err(Error::Refused(format!("{done} of {of} parts are over")));
        }
        self.seen += 1;
        if self.stop_at != Some(self.seen) {
            return Ok(true);
        }
        let kept = self.kept.insert(NamedTempFile::new().map_err(refused)?);
        save_state(kept.path(), state, "trial").map_err(refused)?;
        Ok(false)
    }

    fn artifact(&mut self, _: &str, _: &[u8]) -> nnz_core::Result<()> {
        Ok(())
    }
}

/// One input of every kind. Networks are briefly trained, each from another seed.
fn inputs(method: &'static Method, options: &Table) -> Result<Inputs, String> {
    let Ground { data, model: spec } = Ground::of(TargetKind::Weights);
    let experiment = method.launch(options).map_err(|e| e.to_string())?;
    let mut all = Inputs::new();
    for (i, input) in experiment.inputs().iter().enumerate() {
        let value: Box<dyn Any + Send + Sync> = match input.kind {
            InputKind::Rows => Box::new(data.clone()),
            InputKind::Text => {
                let words = ["the ", "sparse ", "net ", "learns ", "what ", "a ", "dense ", "one ", "knew. "];
                let mut rng = Rng::stream(0, "text", i as u64, 0);
                Box::new((0..2000).map(|_| words[rng.below(words.len() as u64) as usize]).collect::<String>())
            }
            InputKind::Model => {
                let train = Ground::of(TargetKind::Weights).spec(Storage::Auto);
                let dense = |_: &Setting| Ok(Dense);
                let mut t = Trainer::<f32>::new(spec, data, &train, i as u64, dense).map_err(|e| e.to_string())?;
                for _ in 0..60 {
                    t.advance().map_err(|e| e.to_string())?;
                }
                let header = Header {
                    model: spec.clone(),
                    normalization: t.frame().normalization,
                    classes: data.classes.clone(),
                    data: data.name.clone(),
                    method: "dense".into(),
                    prunable: false.into(),
                    texts: false,
                    task: Task::Classification,
                    scales: Vec::new(),
                    dtype: Dtype::Native,
                    encoding: None,
                    policy: Default::default(),
                };
                Box::new(Stored { model: t.model.clone(), header })
            }
        };
        all.insert(input.name.into(), value);
    }
    Ok(all)
}

/// A check of an experiment.
pub type Check = fn(&Trials) -> Verdict;

impl Trials {
    /// Every check of an experiment.
    pub const CHECKS: [(&'static str, Check); 6] = [
        ("metrics", Self::reports_what_it_declares),
        ("seed", Self::obeys_its_seed),
        ("threads", Self::same_for_any_number_of_threads),
        ("interruption", Self::goes_on_as_if_never_stopped),
        ("options", Self::refuses_what_it_does_not_know),
        ("smoke", Self::recipes_take_seconds),
    ];

    /// Prepares the trials of an experiment.
    pub fn new(method: &'static Method) -> Self {
        Self { method, inputs: OnceLock::new(), whole: OnceLock::new() }
    }

    /// Runs the check of that name.
    ///
    /// # Errors
    /// The defect; also when there is no such check.
    pub fn check(&self, name: &str) -> Verdict {
        let found = Self::CHECKS.iter().find(|(known, _)| *known == name);
        found.map_or_else(|| Err(format!("no check `{name}`")), |(_, check)| check(self))
    }

    /// Runs one arm at a seed; `None` if it was stopped.
    fn run(&self, seed: u64, host: &mut Memory) -> Result<Option<Findings>, String> {
        let options = quick(self.method)?;
        let inputs = self.inputs.get_or_init(|| inputs(self.method, &options)).as_ref().map_err(Clone::clone)?;
        let mut experiment = self.method.launch(&options).map_err(|e| e.to_string())?;
        let mut cx = Context::new(seed, inputs, experiment.metrics(), host);
        match experiment.run(&mut cx) {
            Err(Error::Stopped) => Ok(None),
            Err(e) => Err(e.to_string()),
            Ok(()) => cx.finish().map(Some).map_err(|e| e.to_string()),
        }
    }

    fn through(&self, seed: u64, threads: usize) -> Result<(Findings, u64), String> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(|e| e.to_string())?;
        pool.install(|| {
            let mut host = Memory::default();
            let findings = self.run(seed, &mut host)?.ok_or("it stopped, though nobody asked for that")?;
            Ok((findings, host.seen))
        })
    }

    /// Findings at seed 1 on one thread, with the number of its checkpoints.
    fn whole(&self) -> Result<&(Findings, u64), String> {
        self.whole.get_or_init(|| self.through(1, 1)).as_ref().map_err(Clone::clone)
    }

    /// The declared metrics, each once, finite, and no other.
    fn reports_what_it_declares(&self) -> Verdict {
        let declared = self.method.launch(&quick(self.method)?).map_err(|e| e.to_string())?.metrics();
        ensure!(!declared.is_empty(), "it declares no metric");
        for (i, metric) in declared.iter().enumerate() {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            ensure!(!metric.key.is_empty() && metric.key.chars().all(plain), "`{}` is no name", metric.key);
            ensure!(metric.about.ends_with('.'), "metric `{}` is not explained in a sentence", metric.key);
            ensure!(!declared[..i].iter().any(|m| m.key == metric.key), "`{}` is declared twice", metric.key);
        }
        let (findings, _) = self.whole()?;
        ensure!(findings.metrics.len() == declared.len(), "reported {:?}", findings.metrics.keys());
        Ok(())
    }

    /// The same seed finds the same; another finds something else, unless the experiment is declared deterministic.
    fn obeys_its_seed(&self) -> Verdict {
        let stochastic = self.method.launch(&quick(self.method)?).map_err(|e| e.to_string())?.stochastic();
        let (one, _) = self.whole()?;
        ensure!(*one == self.through(1, 1)?.0, "the same seed found two things");
        let same = *one == self.through(2, 1)?.0;
        ensure!(!stochastic || !same, "two seeds found the same; is it not `stochastic`?");
        ensure!(stochastic || same, "it is not `stochastic`, yet two seeds found two things");
        Ok(())
    }

    fn same_for_any_number_of_threads(&self) -> Verdict {
        let (one, _) = self.whole()?;
        for threads in [2, 3] {
            ensure!(*one == self.through(1, threads)?.0, "{threads} threads differ from one");
        }
        Ok(())
    }

    /// Stopped at its first, its last and another checkpoint.
    fn goes_on_as_if_never_stopped(&self) -> Verdict {
        let (whole, seen) = self.whole()?;
        if *seen == 0 {
            return Ok(());
        }
        let mut cuts = vec![1, 1 + Rng::stream(0, self.method.key, 0, 0).below(*seen), *seen];
        cuts.dedup();
        for cut in cuts {
            let mut host = Memory { stop_at: Some(cut), ..Memory::default() };
            ensure!(self.run(1, &mut host)?.is_none(), "it was asked to stop at checkpoint {cut} and went on");
            let mut host = Memory { kept: host.kept, ..Memory::default() };
            let resumed = self.run(1, &mut host)?.ok_or("it stopped, though nobody asked for that")?;
            ensure!(*whole == resumed, "stopped at checkpoint {cut} of {seen} it went another way");
            let left = host.seen;
            ensure!(left + cut <= *seen, "after checkpoint {cut} of {seen} it went through {left} more");
        }
        Ok(())
    }

    fn refuses_what_it_does_not_know(&self) -> Verdict {
        refuses_typos(self.method, |options| self.method.launch(options).err().map(|e| e.to_string()))
    }

    /// Every recipe that is compiled in, at its smoke scale.
    fn recipes_take_seconds(&self) -> Verdict {
        let (room, key) = (self.method.room, self.method.key);
        for (name, text) in embedded().into_iter().filter(|(n, _)| n.starts_with(&format!("{room}/{key}/"))) {
            let plan = Plan::parse(text, &name).map_err(|e| e.to_string())?;
            ensure!(plan.smokes(), "{name} has no smoke scale");
            let Plan::Experiment(recipe) = plan.at(Scale::Smoke).map_err(|e| e.to_string())? else {
                return Err(format!("{name} trains a network instead of running {key}"));
            };
            self.smoke(&name, &recipe)?;
        }
        Ok(())
    }

    fn smoke(&self, name: &str, recipe: &ExperimentRecipe) -> Verdict {
        struct Quiet;
        impl Observer for Quiet {}
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let options = nnz_lab::run::Options { dir: Some(dir.path().join("run")), ..Default::default() };
        // A registry is a constant; a test program makes one for each experiment and keeps it.
        let methods: &'static [&'static Method] = Box::leak(Box::new([self.method]));
        let registry = Registry(Box::leak(Box::new([methods])));
        let begin = Instant::now();
        nnz_lab::experiment::run(recipe, registry, &options, &mut Quiet).map_err(|e| format!("{name}: {e}"))?;
        let took = begin.elapsed();
        ensure!(took < SMOKE, "{name} took {} s at smoke scale", took.as_secs());
        Ok(())
    }
}
