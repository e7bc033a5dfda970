//! An honest experiment passes every check, and those that cheat are detected.

use nnz_conform::{Trials, checks};
use nnz_core::catalog::Entry;
use nnz_core::{
    Better, Context, Error, Experiment, Input, InputKind, Launch, Method, Metric, Need, Result, State, Unit, Visit,
};

const METRICS: &[Metric] = &[Metric::new("mean", Unit::Number, Better::Neither, "Mean of what was drawn.")];
const INPUTS: &[Input] =
    &[Input { name: "text", kind: InputKind::Text, need: Need::Required, about: "Words to count." }];

/// A running sum of random numbers and letters.
#[derive(Default)]
struct Sum {
    done: u64,
    sum: f64,
}

impl State for Sum {
    fn visit(&mut self, v: &mut dyn Visit) -> Result<()> {
        v.count("done", &mut self.done)?;
        v.real("sum", &mut self.sum)
    }
}

/// Saves its progress and forgets its findings.
struct Half<'a>(&'a mut Sum);

impl State for Half<'_> {
    fn visit(&mut self, v: &mut dyn Visit) -> Result<()> {
        v.count("done", &mut self.0.done)
    }
}

/// The cheat.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Undeclared,
    HidesUndeclared,
    Missing,
    IgnoresSeed,
    DeniesSeed,
    Forgets,
    DoesNotStop,
    CountsThreads,
}

macro_rules! card {
    ($name:ident, $key:literal, $fault:ident) => {
        mod $name {
            nnz_core::options! {
                /// Numbers to draw.
                draws: u64 = 1000 => nnz_core::at_least(1.0),
            }
        }
        impl Launch for $name::Options {
            fn launch(self) -> Result<Box<dyn Experiment>> {
                Ok(Box::new(Mean { draws: self.draws, fault: Fault::$fault }))
            }
        }
        impl $name::Options {
            const METHOD: Method =
                Method::listed_experiment::<Self>(Entry::unlisted($key, "memory"), $key, "").quick("draws = 10");
        }
    };
}

struct Mean {
    draws: u64,
    fault: Fault,
}

impl Experiment for Mean {
    fn inputs(&self) -> &'static [Input] {
        INPUTS
    }

    fn metrics(&self) -> &'static [Metric] {
        METRICS
    }

    fn stochastic(&self) -> bool {
        self.fault != Fault::DeniesSeed
    }

    fn run(&mut self, cx: &mut Context) -> Result<()> {
        let text: &String = cx.input("text")?;
        let mut sum = Sum { done: 0, sum: text.len() as f64 };
        match self.fault {
            Fault::Forgets => drop(cx.resume(&mut Half(&mut sum))?),
            _ => drop(cx.resume(&mut sum)?),
        }
        while sum.done < self.draws {
            sum.sum += match self.fault {
                Fault::IgnoresSeed => 0.5,
                Fault::CountsThreads => rayon::current_num_threads() as f64 + cx.rng("draw", 0, sum.done).unit64(),
                _ => cx.rng("draw", 0, sum.done).unit64(),
            };
            sum.done += 1;
            let (done, of) = (sum.done, self.draws);
            let go_on = match self.fault {
                Fault::Forgets => cx.checkpoint(done, of, &mut Half(&mut sum)),
                _ => cx.checkpoint(done, of, &mut sum),
            };
            if self.fault != Fault::DoesNotStop || !matches!(go_on, Err(Error::Stopped)) {
                go_on?;
            }
        }
        match self.fault {
            Fault::Undeclared => cx.report("other", 1.0)?,
            Fault::HidesUndeclared => drop(cx.report("other", 1.0)),
            Fault::Missing => return Ok(()),
            _ => {}
        }
        cx.report("mean", sum.sum / self.draws as f64)
    }
}

card!(honest, "honest", None);
card!(undeclared, "undeclared", Undeclared);
card!(hides_undeclared, "hides-undeclared", HidesUndeclared);
card!(missing, "missing", Missing);
card!(ignores_seed, "ignores-seed", IgnoresSeed);
card!(denies_seed, "denies-seed", DeniesSeed);
card!(forgets, "forgets", Forgets);
card!(does_not_stop, "does-not-stop", DoesNotStop);
card!(counts_threads, "counts-threads", CountsThreads);
static HONEST: Method = honest::Options::METHOD;

#[test]
fn an_honest_experiment_passes_every_check() {
    let all = checks(&HONEST);
    assert_eq!(all.len(), Trials::CHECKS.len());
    for (name, check) in all {
        check().unwrap_or_else(|why| panic!("fails `{name}`: {why}"));
    }
}

#[test]
fn every_cheat_is_found_out() {
    static CHEATS: [(Method, &str, &str); 8] = [
        (undeclared::Options::METHOD, "metrics", "not declared"),
        (hides_undeclared::Options::METHOD, "metrics", "not declared"),
        (missing::Options::METHOD, "metrics", "not reported"),
        (ignores_seed::Options::METHOD, "seed", "two seeds"),
        (denies_seed::Options::METHOD, "seed", "two seeds"),
        (forgets::Options::METHOD, "interruption", "another way"),
        (does_not_stop::Options::METHOD, "interruption", "went on"),
        (counts_threads::Options::METHOD, "threads", "differ"),
    ];
    for (cheat, caught_by, word) in &CHEATS {
        let why = Trials::new(cheat).check(caught_by).err();
        let why = why.unwrap_or_else(|| panic!("{} passes `{caught_by}`", cheat.key));
        assert!(why.contains(word), "{}: {why}", cheat.key);
    }
}
